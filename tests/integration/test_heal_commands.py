"""The commands around healing, as somebody at a terminal uses them, on a user's pipeline with default settings."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from headgate.cli import main
from headgate.config import load
from headgate.wiring import App

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
[backends]
store = "sqlite:///h.db"
durability = "normal"
objects = "file://objects"
[collection]
pipeline = "github_webhooks:PIPELINE"
[consumers.bill]
topic = "webhooks.items"
handler = "heal_handlers:pay"
max_attempts = 1
"""
HANDLERS = """
def pay(body, tx):
    if body["repository"] == "bad/one":
        raise ValueError("no")
    tx.execute("CREATE TABLE IF NOT EXISTS paid (k)")
    tx.execute("INSERT INTO paid VALUES (?)", (body["key"],))
"""


@pytest.fixture
def world(tmp_path, monkeypatch, capsys):
    (tmp_path / "headgate.toml").write_text(CONFIG)
    (tmp_path / "heal_handlers.py").write_text(HANDLERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.chdir(tmp_path)
    yield World(capsys)
    sys.modules.pop("heal_handlers", None)


class World:
    def __init__(self, capsys):
        self._capsys = capsys

    def app(self):
        return App(load("headgate.toml"), "test")

    def run(self, *arguments, code=0):
        self._capsys.readouterr()
        found = main([*arguments, "--config", "headgate.toml"])
        out, err = self._capsys.readouterr()
        assert found == code, (found, out, err)
        return json.loads(out) if out else err

    def accept(self, *repositories):
        app = self.app()
        for n, name in enumerate(repositories):
            record = {"action": "opened", "n": n} if name is None else {"repository": {"full_name": name}, "n": n}
            app.intake.accept("github", json.dumps(record).encode())

    def age(self, hours=2):
        self.app().database.execute(f"UPDATE items SET due_us = due_us - {hours} * 3600000000")

    def paid(self):
        return self.app().store.count("SELECT count(*) FROM paid")


def test_a_users_effect_happens_once_and_its_item_is_done(world):
    """A handler without a key, one sweep, no crash: what a user writes first."""
    world.accept("a/b")
    assert world.run("consume", "bill")["handled"] == 1
    world.age()
    assert world.run("heal")["items_found"] == 0
    world.run("consume", "bill")
    assert world.paid() == 1
    assert world.run("status")["items"] == {"done": 1}


def test_lost_announcements_are_found_and_a_dry_run_changes_nothing(world):
    world.accept("a/b", "a/c", "a/d")
    world.app().database.execute("DELETE FROM outbox")
    assert world.run("heal")["items_found"] == 0  # too young
    world.age()
    dry = world.run("heal", "--dry-run")
    assert (dry["items_republished"], dry["dry_run"]) == (3, True)
    assert world.app().store.count("SELECT count(*) FROM outbox") == 0
    found = world.run("reconcile")
    assert (found["pending"], found["differences"]) == ({"stuck": 3}, [])
    assert world.run("heal")["items_republished"] == 3
    assert world.run("heal")["items_found"] == 0
    assert world.run("consume", "bill")["handled"] == 3
    assert world.run("reconcile")["items"] == {"in_store": 3, "done": 3}


def test_what_was_given_up_is_listed_and_released(world):
    world.accept("bad/one", "a/b")
    assert world.run("consume", "bill", code=1)["dead_lettered"] == 1
    (stuck,) = world.run("heal", "list")
    assert (stuck["kind"], stuck["status"], stuck["reason"]) == (
        "item",
        "quarantined",
        "dead letter: attempts_exhausted",
    )
    assert world.run("heal", "release", "nothing", code=1) == {"released": 0}
    assert "expected either ITEM or --all" in world.run("heal", "release", code=1)
    assert "belongs to a sweep" in world.run("heal", "list", "--dry-run", code=1)
    Path("heal_handlers.py").write_text(HANDLERS.replace("bad/one", "-"))
    sys.modules.pop("heal_handlers", None)
    assert world.run("heal", "release", stuck["key"]) == {"released": 1}
    assert world.run("heal", "release", "--all") == {"released": 0}
    assert world.run("heal")["items_republished"] == 1
    assert world.run("consume", "bill")["handled"] == 1
    assert world.run("dlq", "redrive") == {"bill": 1}
    assert world.run("consume", "bill")["duplicates"] == 1
    assert (world.paid(), world.run("heal", "list")) == (2, [])


def test_sums_that_do_not_hold_are_exit_code_three(world):
    world.accept("a/b", "a/c", None)
    assert world.run("reconcile")["records"] == {"taken": 3, "stored": 2, "duplicates": 0, "dead_letters": 1}
    world.app().database.execute("DELETE FROM items WHERE rowid = 1")
    found = world.run("reconcile", code=3)
    assert found["differences"] == ["items stored by collections: 2; items in the store: 1"]


def test_dead_letters_and_quarantine_are_one_place(world, tmp_path):
    import pyarrow.parquet as pq

    world.accept("bad/one", None)
    world.run("consume", "bill", code=1)
    shown = world.run("dead-letters")
    assert sorted((x["place"], x["stage"], x["kind"]) for x in shown) == [
        ("dead_letter", "consume", "attempts_exhausted"), ("dead_letter", "intake", "no_repository"),
        ("item", "heal", "quarantined"),
    ]  # fmt: skip
    assert "doc" not in shown[0]
    assert [x["count"] for x in world.run("dead-letters", "count", "--rule", "no_repository")] == [1]
    assert world.run("dead-letters", "list", "--rule", "nothing") == []
    assert world.run("dead-letters", "export", str(tmp_path / "d.parquet"))["rows"] == 3
    table = pq.read_table(tmp_path / "d.parquet").to_pylist()
    refused = next(row for row in table if row["stage"] == "intake")
    assert json.loads(refused["raw_body"]) == {"action": "opened", "n": 1}
    assert (refused["kind"], refused["age_s"] >= 0) == ("no_repository", True)


def test_a_mended_rule_lets_what_matches_in_once(world, monkeypatch):
    import github_webhooks

    world.accept(None, "a/b", None)
    only = ("--rule", "no_repository")
    assert world.run("dead-letters", "replay", *only)["records"] == {
        "matched": 2, "entered": 0, "duplicates": 0, "refused": 2, "missing": 0,
    }  # fmt: skip
    mended = github_webhooks.Pipeline.from_model(
        "webhooks",
        github_webhooks.Webhook,
        lambda body, raw: github_webhooks.parse(
            json.dumps({"repository": {"full_name": "none"}, **json.loads(body)}), raw
        ),
        key="key",
        announce=["repository"],
    )
    monkeypatch.setattr(github_webhooks, "PIPELINE", mended)
    dry = world.run("dead-letters", "replay", *only, "--dry-run")
    assert (dry["records"]["entered"], world.app().store.status_counts()) == (2, {"pending": 1})
    assert world.run("dead-letters", "replay", "--source", "other")["records"]["matched"] == 0
    assert world.run("dead-letters", "replay", *only)["records"]["entered"] == 2
    assert world.run("dead-letters", "replay", *only)["records"]["matched"] == 0
    assert world.run("consume", "bill")["handled"] == 3
    found = world.run("reconcile")
    assert (found["items"]["done"], found["dead_letters"]["replayed"]) == (3, 2)
    # The same bytes again are refused by nobody, and are a duplicate.
    world.accept(None)
    assert world.run("reconcile")["records"]["duplicates"] == 1


def test_the_whole_way_of_an_item(world):
    world.accept("a/b")
    key = world.app().database.execute("SELECT key FROM items")[0][0]
    first = world.run("trace", key)
    assert (first["where"], first["claims"], first["item"]["status"]) == ("outbox", [], "pending")
    world.run("consume", "bill")
    found = world.run("trace", key)
    assert (found["where"], found["item"]["status"]) == ("ended", "done")
    assert (found["raw"]["is_stored"], found["raw"]["is_what_its_key_names"]) == (True, True)
    assert [(c["consumer"], c["state"], c["attempts"]) for c in found["claims"]] == [("bill", "done", 1)]
    assert [a["republication"] for a in found["announcements"]] == [0]
    assert "there is no item" in world.run("trace", "none", code=1)


def test_no_consumer_that_finishes_is_said(world, caplog):
    Path("headgate.toml").write_text(
        CONFIG + '[consumers.audit]\ntopic = "webhooks.items"\nhandler = "heal_handlers:pay"\n'
    )
    world.accept("a/b")
    assert world.run("status")["finished_by"] is None
    Path("headgate.toml").write_text(
        CONFIG.replace("[collection]", '[collection]\nfinished_by = "bill"')
        + '[consumers.audit]\ntopic = "webhooks.items"\nhandler = "heal_handlers:pay"\n'
    )
    assert world.run("status")["finished_by"] == "bill"
    assert world.run("consume", "audit")["handled"] == 1
    assert world.app().store.status_counts() == {"pending": 1}
    assert world.run("consume", "bill")["handled"] == 1
    assert world.app().store.status_counts() == {"done": 1}
    Path("headgate.toml").write_text(CONFIG.replace("[collection]", '[collection]\nfinished_by = "nobody"'))
    assert "there is no consumer 'nobody'" in world.run("status", code=1)


# --- the same commands on DynamoDB

AWS = """
[backends]
store = "dynamodb://heal-items?endpoint={dynamo}&region=us-east-1"
ledger = "dynamodb://heal-ledger?endpoint={dynamo}&region=us-east-1"
notify = "sqs://{queue}?endpoint={aws}&region=us-east-1"
objects = "file://objects"
[collection]
pipeline = "github_webhooks:PIPELINE"
[healing]
max_attempts = 1
[consumers.bill]
topic = "webhooks.items"
handler = "heal_handlers:pay"
effects = "plain"
queue = "sqs://{queue}?endpoint={aws}&region=us-east-1"
"""
ON_AWS = """
PAID = []

def pay(body):
    if body["repository"] == "bad/one":
        raise ValueError("no")
    PAID.append(body["repository"])
"""


@pytest.fixture
def on_aws(world, dynamo_server, moto_server):
    import boto3

    from headgate.backends.dynamodb import create_ledger_table
    from headgate.backends.dynamodb_items import create_items_table

    queue = boto3.Session().client("sqs", endpoint_url=moto_server).create_queue(QueueName="heal")["QueueUrl"]
    tables = boto3.Session().client("dynamodb", endpoint_url=dynamo_server.endpoint)
    create_items_table(tables, "heal-items")
    create_ledger_table(tables, "heal-ledger")
    Path("headgate.toml").write_text(
        AWS.format(dynamo=dynamo_server.endpoint, aws=moto_server, queue=queue.removeprefix("http://"))
    )
    Path("heal_handlers.py").write_text(ON_AWS)
    sqs = boto3.Session().client("sqs", endpoint_url=moto_server)

    def lose_messages():
        for message in sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", []):
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])

    world.lose_messages = lose_messages
    yield world
    for table in ("heal-items", "heal-ledger"):
        tables.delete_table(TableName=table)


def test_the_commands_on_a_table_and_a_queue_of_aws(on_aws, monkeypatch):
    world = on_aws

    def hours_later(hours):
        monkeypatch.setenv("HEADGATE__CLOCK__OFFSET_S", str(hours * 3600))

    world.accept("a/b", "a/c")
    status = world.run("status")
    assert [status[k] for k in ("items", "outbox_unsent", "dead_letters", "finished_by")] == [
        {"pending": 2},
        2,
        0,
        "bill",
    ]
    assert world.run("heal", "list") == []
    assert world.run("heal")["items_found"] == 0  # too young; its relay has sent both
    assert world.run("consume", "bill")["handled"] == 2
    assert world.run("status")["items"] == {"done": 2}

    world.accept("a/d")
    hours_later(2)
    held = world.run("heal", "--dry-run")
    assert (held["items_republished"], held["held_up"]) == (0, 1)  # its announcement waits in the outbox
    world.app().relay()
    world.lose_messages()
    assert world.run("heal", "--dry-run")["items_republished"] == 1
    assert world.run("heal")["items_republished"] == 1
    assert world.run("heal")["items_found"] == 0
    world.lose_messages()
    hours_later(4)
    assert world.run("heal")["quarantined"] == 1
    (stuck,) = world.run("heal", "list")
    assert (stuck["kind"], stuck["status"], stuck["reason"]) == ("item", "quarantined", "attempts_exhausted")
    assert world.run("heal", "release", stuck["key"]) == {"released": 1}
    assert world.run("heal", "release", "--all") == {"released": 0}
    assert world.run("heal")["items_republished"] == 1
    assert world.run("consume", "bill")["handled"] == 1
    assert (world.run("status")["items"], world.run("heal", "list")) == ({"done": 3}, [])
    assert sorted(sys.modules["heal_handlers"].PAID) == ["a/b", "a/c", "a/d"]
