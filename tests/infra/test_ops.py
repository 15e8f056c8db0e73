"""infra/ops: alert rules over synthetic series (promtool), the dashboard against a running `headgate serve` and Prometheus,
compose.yaml, and `headgate dev up`."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from headgate.cli import main
from headgate.cli._dev import run_servers
from headgate.config import load
from headgate.errors import ConfigError
from headgate.testing.feed import Feed, WrittenData
from headgate.testing.servers import PrometheusServer, ServeProcess

ROOT = Path(__file__).resolve().parents[2]
OPS = ROOT / "infra" / "ops"
PROGRAMS = ROOT / ".servers" / "prometheus"
DASHBOARD = OPS / "grafana" / "dashboards" / "headgate.json"
FUNCTIONS = {
    "sum",
    "by",
    "rate",
    "increase",
    "or",
    "and",
    "unless",
    "offset",
    "vector",
    "max",
    "count",
    "histogram_quantile",
    "time",
    "round",
}


def promtool(*words):
    program = PROGRAMS / "promtool"
    if not program.is_file():
        pytest.skip(f"prometheus is not here: there is no {program}; `tools/setup dev` gets it")
    return subprocess.run([program, *words], cwd=OPS / "prometheus", capture_output=True, text=True)


def test_the_rules_hold_over_synthetic_series():
    checked = promtool("check", "rules", "rules.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = promtool("test", "rules", "rules_test.yml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_has_a_test_a_severity_and_a_place_in_the_runbook():
    rules = [
        r
        for g in yaml.safe_load((OPS / "prometheus" / "rules.yml").read_text())["groups"]
        for r in g["rules"]
        if "alert" in r
    ]
    tests = (OPS / "prometheus" / "rules_test.yml").read_text()
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    anchors = {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.+)$", runbook, re.M)}
    for rule in rules:
        assert rule["alert"] in tests, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        file, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert (file, anchor in anchors) == ("docs/runbook.md", True), rule["annotations"]["runbook"]


def metrics_of(expression):
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|(?:by|without) \([^)]*\)", " ", bare)
    return {
        n for n in re.findall(r"(?<![\w:])[a-z_][\w:]*", bare) if n not in FUNCTIONS and not re.fullmatch(r"\d+m?h?", n)
    }


def sent_by_the_code():
    text = "".join(p.read_text() for p in (ROOT / "python" / "headgate").rglob("*.py"))
    found = set()
    for kind, name in re.findall(r'\.(count|gauge|observe)\(\s*"(\w+)"', text):
        found |= {name} if kind != "observe" else {f"{name}_bucket", f"{name}_sum", f"{name}_count"}
    return found


def test_rules_and_dashboard_use_metrics_that_the_code_sends():
    groups = yaml.safe_load((OPS / "prometheus" / "rules.yml").read_text())["groups"]
    recorded = {r["record"] for g in groups for r in g["rules"] if "record" in r}
    outside = {"up", "m", "redis_memory_used_bytes", "redis_memory_max_bytes", "redis_evicted_keys_total"}
    sent = sent_by_the_code()
    for g in groups:
        for r in g["rules"]:
            assert metrics_of(r["expr"]) <= sent | recorded | outside, r
    shown = {
        m for p in json.loads(DASHBOARD.read_text())["panels"] for t in p["targets"] for m in metrics_of(t["expr"])
    }
    assert shown <= sent


CONFIG = """
[backends]
objects = "file://objects"
store = "sqlite:///h.db"
durability = "normal"
[sources.tiingo]
base_url = "{url}"
[collection]
tickers = ["AAPL"]
calendar = "always"
[consumers.analysis]
key = "headgate.pipelines.market.analysis:business_key"
[schedule]
collect_s = 1
sweep_s = 1
[logging]
level = "ERROR"
"""


def test_every_query_of_the_dashboard_is_answered_by_a_running_serve(tmp_path):
    with Feed(WrittenData(datetime.now(UTC))) as feed:
        (tmp_path / "headgate.toml").write_text(CONFIG.format(url=feed.url))
        serve = ServeProcess(tmp_path, {**os.environ, "TIINGO_API_KEY": "k"})
        try:
            if not (PROGRAMS / "prometheus").is_file():
                pytest.skip(f"prometheus is not here: there is no {PROGRAMS}/prometheus; `tools/setup dev` gets it")
            with PrometheusServer(PROGRAMS, serve.url.removeprefix("http://")) as prometheus:
                expressions = [
                    t["expr"].replace("$__rate_interval", "1m")
                    for p in json.loads(DASHBOARD.read_text())["panels"] for t in p["targets"]
                ]  # fmt: skip
                waiting = set(expressions)
                deadline = time.monotonic() + 60
                while waiting and time.monotonic() < deadline:
                    waiting = {e for e in waiting if not answered(prometheus.url, e)}
                    threading.Event().wait(0.25)  # until the next scrape
                assert waiting == set()
        finally:
            serve.stop()


def answered(url, expression):
    with urllib.request.urlopen(
        f"{url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}", timeout=10
    ) as got:
        answer = json.load(got)
    assert answer["status"] == "success", expression
    return bool(answer["data"]["result"])


def test_compose_has_the_servers_with_what_the_specification_says(tmp_path):
    compose = yaml.safe_load((OPS / "compose.yaml").read_text())
    services = compose["services"]
    assert {"headgate", "redis", "kafka", "s3", "dynamodb", "prometheus", "grafana"} <= set(services)
    redis = services["redis"]
    assert redis["image"] == "redis:7-alpine"
    assert redis["command"][1:3] == ["--appendonly", "yes"]
    assert redis["command"][-1] == "noeviction"  # allkeys-lru would forget what was done
    assert redis["healthcheck"] == {
        "test": ["CMD", "redis-cli", "ping"],
        "interval": "10s",
        "timeout": "5s",
        "retries": 5,
    }
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (OPS / source).exists() if source.startswith(".") else source in compose["volumes"], mount
    build = services["headgate"]["build"]
    assert (OPS / build["context"] / build["dockerfile"]).is_file()
    (tmp_path / "headgate.toml").write_text("")
    config = load(tmp_path / "headgate.toml", services["headgate"]["environment"])
    assert (config.serve.host, config.serve.allowed_hosts) == ("0.0.0.0", ["localhost", "headgate"])


# --- headgate dev up


def test_dev_up_starts_servers_and_says_where_they_are(tmp_path, capsys):
    stop = threading.Event()
    stop.set()
    assert run_servers("redis", tmp_path, tmp_path / "data", stop) == 0
    (line,) = (tmp_path / "data" / "environment").read_text().splitlines()
    url = line.removeprefix("export HEADGATE__BACKENDS__LEDGER=")
    assert url.startswith("redis://127.0.0.1:")
    assert line in capsys.readouterr().out
    port = int(re.search(r":(\d+)", url.removeprefix("redis://"))[1])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0  # stopped with the command


@pytest.mark.timeout(180)
def test_dev_up_finds_every_server_from_a_relative_folder(tmp_path, monkeypatch):
    programs = ROOT / ".servers"
    if not (programs / "kafka" / ".complete").exists() or not (programs / "dynamodb" / ".complete").exists():
        pytest.skip("kafka.tools is not here; `tools/setup dev` gets it from Maven Central")
    monkeypatch.chdir(ROOT)
    stop = threading.Event()
    stop.set()
    assert run_servers("dynamodb,kafka", Path(".servers"), Path(os.path.relpath(tmp_path)), stop) == 0
    text = (tmp_path / "environment").read_text()
    assert "export HEADGATE_DEV_KAFKA=kafka://127.0.0.1:" in text
    assert "export AWS_ENDPOINT_URL_DYNAMODB=http://127.0.0.1:" in text


def test_dev_up_says_what_is_missing(tmp_path, capsys):
    with pytest.raises(ConfigError, match="--only oracle: expected names of redis, kafka, dynamodb, s3"):
        run_servers("oracle", tmp_path, tmp_path, threading.Event())
    assert main(["dev", "up", "--only", "s3", "--programs", str(tmp_path), "--data", str(tmp_path / "d")]) == 1
    assert "`tools/setup dev` makes it [not_built]" in capsys.readouterr().err
