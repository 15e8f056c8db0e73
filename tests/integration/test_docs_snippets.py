"""Every Python snippet of the documentation runs, page by page, in one namespace for each page.

Servers and AWS are replaced: worker loops return at once, boto3 clients accept every call, and the checkpoint page's
bucket is a folder. What a page calls "yours" (a table, a connection) is given in `GIVEN`.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from headgate import Ledger
from headgate._core import ManualClock
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.testing.objects import MemoryObjects
from headgate.testing.visits import write_wave

DOCS = Path(__file__).resolve().parents[2] / "docs"


def snippets(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


# tests/integration/test_workflow_docs.py runs the page on workflows.
PAGES = [page for page in sorted(DOCS.glob("*.md")) if snippets(page) and page.name != "workflows.md"]


def given():
    """The objects that a page says are the reader's own."""
    clock = ManualClock(1_780_000_000_000_000)
    database = LocalDatabase(":memory:")
    table, sns_client = MagicMock(), MagicMock()
    table.name, table.key_schema = (
        "items",
        [{"AttributeName": "source_id", "KeyType": "HASH"}, {"AttributeName": "timestamp", "KeyType": "RANGE"}],
    )
    table.query.return_value = {"Items": []}
    return {
        "__name__": "docs", "asyncio": asyncio, "clock": clock, "objects": MemoryObjects(),
        "store": LocalStore(database, clock), "ledger": Ledger.on_database(database, clock=clock),
        "database": MagicMock(), "body": "a report", "table": table, "sns_client": sns_client, "topic_arn": "arn:aws:sns:r:1:t",
        "put_metric": MagicMock(),
    }  # fmt: skip


@pytest.fixture
def replaced(monkeypatch, tmp_path):
    """A folder to run in, without servers."""
    monkeypatch.chdir(tmp_path)
    for name in ("_worker.Worker", "_kafka.KafkaWorker", "_sqs_worker.SqsWorker"):
        monkeypatch.setattr(f"headgate.consume.{name}.run", lambda self, *_, **__: None)
    monkeypatch.setattr("boto3.client", MagicMock())
    monkeypatch.setattr(
        "headgate.pipelines.market.FailoverOrchestrator.get_news_with_failover",
        lambda self, tickers: MagicMock(data=[]),
    )
    for name, value in (("DEFAULT_REGION", "eu-north-1"), ("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "s")):
        monkeypatch.setenv(f"AWS_{name}", value)
    write_wave(tmp_path / "logs", 40)
    for path in (tmp_path / "logs").rglob("*.json"):
        os.utime(path, (1_700_000_000, 1_700_000_000))  # files that are still being written are left for later
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_snippets_of_a_page_run(page, replaced, capsys):
    names = given()
    expected = []
    for number, text in enumerate(snippets(page)):
        local = text.replace("s3://my-logs/prod", str(replaced / "logs")).replace("s3://my-checkpoints", str(replaced))
        code = compile(
            local, f"{page.name}, snippet {number}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
        )
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(eval(code, names))
        else:
            exec(code, names)
        expected += re.findall(r"^print\(.*\)  # (.*)$", text, re.MULTILINE)
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in expected if line not in printed] == []


def test_there_are_pages_with_snippets():
    assert {"consumers.md", "checkpoints.md", "healing.md", "tutorial.md", "uploads.md"} <= {
        page.name for page in PAGES
    }
