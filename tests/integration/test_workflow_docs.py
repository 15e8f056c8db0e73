"""The page on workflows: its code runs, and what it names exists."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "workflows.md"


def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) >= 4
    names: dict = {}
    for block in blocks:
        exec(compile(block, "docs/workflows.md", "exec"), names)
    assert names["run"].data["cents"] == 375


def test_the_entry_points_of_the_page_are_handlers(monkeypatch):
    monkeypatch.delenv("AWS_LAMBDA_FUNCTION_NAME", raising=False)
    from headgate.handlers import stages

    assert all(callable(getattr(stages, name)) for name in stages.__all__)
    for name in re.findall(r"headgate\.handlers\.stages\.(\w+)", PAGE.read_text()):
        assert name in stages.__all__
