"""`headgate run`: one whole pass of a configured pipeline, as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from headgate._core import SystemClock
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.ports import Item
from headgate.testing.feed import Feed, WrittenData
from headgate.testing.visits import write_wave

CONFIG = """
[sources.tiingo]
base_url = "{url}"
[consumers.analysis]
key = "headgate.pipelines.market.analysis:business_key"
[checkpoints.visits]
source = "logs"
target = "visits.parquet"
schema = "visits"
settle_s = 0
[checkpoints.news]
source = "exports"
target = "news.parquet"
schema = "headgate.pipelines.market.models:NewsItem"
export = "market"
[workflows.scoring.input]
programId = "p"
marketplace = "m"
events = "visits.parquet"
customer = "center_label"
subject = ["ptid"]
dateRange = {{ start = "2026-01-01T00:00:00+00:00", end = "2026-02-01T00:00:00+00:00" }}
"""


def headgate(folder, *arguments):
    command = [sys.executable, "-m", "headgate", *arguments]
    environment = {**os.environ, "TIINGO_API_KEY": "k"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=60)


@pytest.fixture
def folder(tmp_path):
    with Feed(WrittenData(datetime.now(UTC))) as feed:
        (tmp_path / "headgate.toml").write_text(CONFIG.format(url=feed.url))
        yield tmp_path, feed


def test_a_pass_and_the_same_again(folder):
    path, _ = folder
    wave = write_wave(path / "logs", 200)
    first = headgate(path, "run")
    assert first.returncode == 0, first.stderr
    outcome = json.loads(first.stdout)
    stored = outcome["collections"][0]["stored"]
    assert stored > 0
    assert outcome["consumers"]["analysis"]["handled"] == stored
    assert outcome["checkpoints"]["visits"]["rows_total"] == wave.good
    assert outcome["checkpoints"]["news"]["rows_total"] == stored
    assert outcome["workflows"] == {"scoring": "SUCCEEDED"}
    assert (outcome["wrong"], outcome["errors"]) == ([], [])
    again = json.loads(headgate(path, "run").stdout)
    assert again["collections"][0]["stored"] == 0
    assert again["consumers"]["analysis"]["received"] == 0
    assert not again["checkpoints"]["visits"]["committed"]
    status = json.loads(headgate(path, "status").stdout)
    assert status["items"] == {"analyzed": stored}
    assert status["queues"] == {"analysis": 0}
    rows = headgate(path, "query", "visits.parquet", "--by", "action", "--format", "csv").stdout.splitlines()
    assert rows[0] == "action,count"
    assert sum(int(row.split(",")[1]) for row in rows[1:]) == wave.good
    assert json.loads(headgate(path, "workflow", "scoring", "--asl").stdout)["StartAt"] == "ETLStage"
    letters = json.loads(headgate(path, "dlq").stdout)
    assert sum(letter["seen"] for letter in letters) == sum(
        o["collections"][0]["dead_letters"] for o in (outcome, again)
    )


def test_a_pass_goes_on_when_no_source_answers(folder):
    path, feed = folder
    write_wave(path / "logs", 50)
    feed.set_mode("tiingo", "error:0")
    result = headgate(path, "run")
    outcome = json.loads(result.stdout)
    assert result.returncode == 1
    assert "every source failed" in outcome["errors"][0]
    assert outcome["checkpoints"]["visits"]["committed"]


def test_sums_that_do_not_hold_are_named(folder):
    path, _ = folder
    first = headgate(path, "run", "--config", "headgate.toml")
    assert first.returncode == 1  # there is no folder logs/: named, and the rest of the pass went on
    assert "checkpoint visits: checkpoint source" in first.stderr
    assert json.loads(first.stdout)["checkpoints"]["news"]["committed"]
    from headgate.backends.local import LocalDatabase

    database = LocalDatabase(str(path / "headgate-data" / "headgate.db"))
    database.execute("DELETE FROM items WHERE rowid = (SELECT max(rowid) FROM items)")
    database.close()
    result = headgate(path, "run")
    assert result.returncode == 3
    assert "counts differ: items in the store = items stored by collections" in result.stderr


def test_a_consumer_told_to_stop_finishes_and_ends_well(folder):
    path, _ = folder
    assert headgate(path, "collect").returncode == 0
    command = [sys.executable, "-m", "headgate", "consume", "analysis", "--wait", "60"]
    environment = {**os.environ, "HEADGATE_FAULTS": "consume.after_effect:stop:5"}
    process = subprocess.Popen(
        command, cwd=path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    )
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    process.send_signal(signal.SIGTERM)  # arrives in the middle of a handler
    process.send_signal(signal.SIGCONT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert json.loads(output)["handled"] == 5
    rest = json.loads(headgate(path, "consume", "analysis").stdout)
    assert rest["handled"] > 0
    assert json.loads(headgate(path, "status").stdout)["queues"] == {"analysis": 0}


OWN = """
import json
from headgate import Pipeline, event_id
from headgate.checkpoint.schema import JsonValue, compile_model
from headgate.intake import Normalised
from headgate.resilience import Request
from pydantic import BaseModel


class Thing(BaseModel):
    key: str
    body: JsonValue


class Adapter:
    name, timeout_s = "things", 5.0

    def __init__(self, base_url):
        self.base_url = base_url

    def requests(self, query):
        return [Request(f"{self.base_url}/api/v1/company-news?symbol=AAPL", [("X-Finnhub-Token", "k")])]


def normalise(record, raw):
    key = event_id(record)
    return Normalised(key, raw.fetched_at, {"key": key, "body": record})


PIPELINE = Pipeline("things", json.dumps(compile_model(Thing)), lambda body, raw: json.loads(body), normalise,
                    lambda item: {"key": item.key, "mine": True})


def handle(body, tx):
    assert body["mine"]
    tx.execute("UPDATE items SET status = 'seen', analyses = analyses + 1 WHERE key = ?", (body["key"],))
"""
OWN_CONFIG = """
[sources.things]
kind = "own:Adapter"
base_url = "{url}"
[collection]
pipeline = "own:PIPELINE"
[consumers.mine]
topic = "things.items"
handler = "own:handle"
key = "own:business_key"
[healing]
threshold_hours = 0
"""


def test_a_pipeline_of_ones_own_goes_the_whole_way_healing_included(folder, monkeypatch):
    path, feed = folder
    (path / "own.py").write_text(OWN + "\n\ndef business_key(body):\n    return body['key']\n")
    (path / "headgate.toml").write_text(OWN_CONFIG.format(url=feed.url))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")]))
    stored = json.loads(headgate(path, "collect").stdout)["new_item_count"]
    assert stored > 0
    from headgate.backends.local import LocalDatabase

    database = LocalDatabase(str(path / "headgate-data" / "headgate.db"))
    assert database.execute("SELECT count(*) FROM queue") == [(stored,)]  # the collection has delivered them
    database.execute("DELETE FROM outbox")  # every announcement is lost
    database.execute("DELETE FROM queue")
    assert json.loads(headgate(path, "heal").stdout)["items_republished"] == stored
    assert json.loads(headgate(path, "consume", "mine").stdout)["handled"] == stored
    assert database.execute("SELECT status, count(*), sum(analyses) FROM items GROUP BY status") == [
        ("seen", stored, stored)
    ]


def test_dead_letters_are_listed_and_sent_back_by_the_command(tmp_path):
    (tmp_path / "own_handler.py").write_text(
        "import os\n\ndef handle(body, tx):\n    if 'BROKEN' in os.environ:\n        raise ValueError('secret body')\n"
        "    tx.execute('UPDATE items SET analyses = analyses + 1 WHERE key = ?', (body['key'],))\n"
    )
    (tmp_path / "headgate.toml").write_text(
        '[backends]\nstore = "sqlite:///h.db"\ndurability = "normal"\n[consumers.own]\nhandler = "own_handler:handle"\n'
        "max_attempts = 1\n"
    )
    store = LocalStore(LocalDatabase(str(tmp_path / "h.db"), durability="normal"), SystemClock(), "market")
    item = Item("k", "market", "x", "2026-05-01T00:00:00Z", {})
    store.put_items([item], "market.items", {"k": {"key": "k"}})
    store.db.close()
    run = lambda *words, **env: subprocess.run(  # noqa: E731
        [sys.executable, "-m", "headgate", *words], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]), **env},
    )  # fmt: skip
    assert json.loads(run("consume", "own", BROKEN="1").stdout)["dead_lettered"] == 1
    assert json.loads(run("dlq").stdout) == [
        {"stage": "consume", "pipeline": "own", "kind": "attempts_exhausted", "letters": 1, "seen": 1}
    ]
    listed = run("dlq", "list", "own", "--stage", "consume", "--kind", "attempts_exhausted").stdout
    (letter,) = json.loads(listed)
    assert "secret" not in listed
    assert (letter["source"], letter["attempts"], letter["message_id"]) == ("market.items", 1, "1")
    assert json.loads(run("dlq", "list", "nobody").stdout) == []
    shown = run("dlq", "show", str(letter["id"])).stdout
    assert "reason      ValueError: secret body\n" in shown
    assert "body        11 bytes; --body shows them\n" in shown
    assert 'body        {"key":"k"}\n' in run("dlq", "show", str(letter["id"]), "--body").stdout
    whole = json.loads(run("dlq", "show", str(letter["id"]), "--body", "--json").stdout)
    assert (whole["key"], whole["body"], whole["headers"], whole["raw_key"]) == ("k", '{"key":"k"}', None, None)
    for words, expected in ((("99",), "there is no dead letter 99"), ((), "expected the ID of a dead letter")):
        wrong = run("dlq", "show", *words)
        assert (wrong.returncode, expected in wrong.stderr) == (1, True), wrong.stderr
    assert json.loads(run("dlq", "redrive").stdout) == {"own": 1}
    assert json.loads(run("dlq", "redrive", "own").stdout) == {"own": 0}
    assert json.loads(run("consume", "own").stdout)["handled"] == 1
    assert json.loads(run("dlq").stdout) == []
    wrong = run("dlq", "redrive", "nobody")
    assert (wrong.returncode, "there is no such consumer" in wrong.stderr) == (1, True)
