"""What the documentation shows is run."""

from __future__ import annotations

import doctest
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import headgate

ROOT = Path(__file__).resolve().parents[2]


def run_example(source, out):
    command = [sys.executable, ROOT / "examples" / "github_webhooks.py", source, out]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_fifth_pipeline_is_short_and_works(tmp_path):
    text = (ROOT / "examples" / "github_webhooks.py").read_text()
    pipeline = text[text.index("class Webhook") : text.index("def count")]
    assert len([line for line in pipeline.splitlines() if line.strip()]) <= 20
    assert "compile_model" not in text
    source = tmp_path / "in"
    source.mkdir()
    for i in range(5):
        (source / f"{i}.json").write_text(
            json.dumps({"action": "opened", "n": i % 4, "repository": {"full_name": "a/b"}})
        )
    (source / "ping.json").write_text(json.dumps({"zen": "x"}))
    output = run_example(source, tmp_path / "out")
    assert "{'taken': 6, 'stored': 4, 'duplicates': 1, 'dead_letters': 1}" in output
    assert "4 handled; items: {'done': 4}" in output
    assert "4 rows; [{'action': 'opened', 'count': 4}]" in output
    again = run_example(source, tmp_path / "out")
    assert "'stored': 0, 'duplicates': 5" in again
    assert "0 handled; items: {'done': 4}" in again


def test_the_fifth_pipeline_on_recorded_webhooks(tmp_path, corpus):
    output = run_example(corpus / "events" / "webhooks", tmp_path / "out")
    counts = dict(re.findall(r"'(\w+)': (\d+)", output.splitlines()[0]))
    assert int(counts["taken"]) == int(counts["stored"]) + int(counts["duplicates"]) + int(counts["dead_letters"])
    assert f"{counts['stored']} rows" in output


def test_the_readme_example_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    assert len([line for line in blocks[0].splitlines() if line.strip()]) <= 15
    result = subprocess.run([sys.executable, "-c", blocks[0]], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    expected = re.findall(r"# (.*)$", blocks[0], re.MULTILINE)
    for line in result.stdout.splitlines():
        assert any(line in comment for comment in expected), line


MODULES = [
    m.name
    for m in pkgutil.walk_packages(headgate.__path__, "headgate.")
    if not m.name.rpartition(".")[2].startswith(("_core", "_parquet", "_curl", "__main__"))
]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_tell_the_truth(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_configuration_page_names_every_key():
    from dataclasses import fields, is_dataclass
    from typing import get_args, get_type_hints

    from headgate import config

    page = (ROOT / "docs" / "configuration.md").read_text()

    def walk(cls):
        hints = get_type_hints(cls)
        for f in fields(cls):
            if f.metadata.get("internal"):
                continue
            assert f"`{f.name}`" in page or f"[{f.name}" in page, f.name
            inner = [hints[f.name], *get_args(hints[f.name])]
            for hint in inner:
                if is_dataclass(hint):
                    walk(hint)

    walk(config.Config)


def test_handlers_run_a_whole_round(tmp_path, monkeypatch):
    """Collect with no source answering, heal, consume, upload, checkpoint: through the Lambda-style entry points."""
    import base64

    from headgate import handlers
    from headgate.testing.visits import write_wave

    wave = write_wave(tmp_path / "logs", 50)
    (tmp_path / "headgate.toml").write_text(
        "[sources.tiingo]\nbase_url = 'http://127.0.0.1:1'\n[resilience]\nretry_attempts = 1\n[consumers.analysis]\n"
        "[checkpoints.visits]\nsource = 'logs'\ntarget = 'e.parquet'\nschema = 'visits'\nsettle_s = 0\n"
    )
    monkeypatch.setenv("HEADGATE_CONFIG", str(tmp_path / "headgate.toml"))
    collected = handlers.collect({"source": "aws.events"}, None)
    assert (collected["statusCode"], collected["body"]["errors"]) == (207, ["all_sources_failed"])
    assert collected["body"]["self_healing"]["items_found"] == 0
    assert handlers.heal({}, None)["body"]["errors"] == []
    assert handlers.consume({}, None)["body"]["received"] == 0
    event = {"batch_id": "b", "file_name": "a.txt", "content": base64.b64encode(b"x" * 60).decode()}
    assert handlers.upload(event, None)["body"]["event"] == "essay.content.provisioned"
    assert handlers.upload({}, None)["statusCode"] == 400
    response = handlers.checkpoint({}, None)
    assert (response["statusCode"], response["new_events_processed"]) == (200, wave.good)
    (tmp_path / "e.parquet").write_bytes(b"x")
    assert handlers.checkpoint({}, None)["statusCode"] == 500


def test_four_services_each_see_every_event_once(redis_url):
    """Two of them share one Redis, under keys that begin with the service's name."""
    command = [sys.executable, ROOT / "examples" / "essay_services.py", redis_url.replace("/0", "/9")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    effects = sorted(tuple(line.split()) for line in output.splitlines())
    names = ("batch-orchestrator", "cj-assessment", "essay-lifecycle", "spell-checker")
    assert effects == [(name, f"text-{n}") for name in names for n in range(3)]
