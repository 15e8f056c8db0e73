"""What was done under a key of an earlier form stays done, for the decorator and for consumers."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from headgate import Ledger, event_id, idempotent_consumer
from headgate._core import SystemRandom, memory_ledger
from headgate.backends.local import LocalDatabase
from headgate.consume import Consumer, Delivery, Outcome, Processor
from headgate.items import mark_announcement

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
EVENT = {"event_type": "order.created", "event_id": "made anew", "data": {"n": 1}}
IDENTITY = event_id({"n": 1})


def earlier_store(tmp_path, clock, *done):
    """A store of schema version 4 in which these keys are done."""
    path = tmp_path / "store.db"
    shutil.copy(GOLDEN / "store-v4.db", path)
    with sqlite3.connect(path) as db:  # before headgate opens it: a row as version 4 wrote it
        db.execute("DELETE FROM ledger")  # the golden file's own key lives for ever
        for key in done:
            db.execute(
                "INSERT INTO ledger (key, state, token, owner, until_us, attempts, payload, result, expires_us)"
                " VALUES (?, 1, 't', 'o', 1, 1, '', '\"kept\"', ?)",
                (f"v1:{key}", clock.now_us() + 10_000_000),
            )
    db.close()
    return Ledger.on_database(LocalDatabase(str(path), durability="normal"), clock=clock)


def test_the_decorator_knows_what_was_done_under_the_functions_name(tmp_path, clock):
    ledger = earlier_store(tmp_path, clock, f"headgate:charge:event:{IDENTITY}")
    ran = []

    @idempotent_consumer(ledger)
    def charge(event):
        ran.append(event["data"]["n"])
        return "ran"

    assert [charge(EVENT), charge({"data": {"n": 2}}), charge({"data": {"n": 2}})] == ["kept", "ran", "ran"]
    assert ran == [2]
    clock.advance_us(11_000_000)  # the last key of the old form has expired
    assert ledger.legacy_until <= clock.now_us() / 1e6
    assert charge(EVENT) == "ran"


@pytest.mark.parametrize("redrive", [0, 2])
def test_a_consumer_knows_what_was_done_under_its_topic(tmp_path, clock, redrive):
    suffix = f"#redrive-{redrive}" if redrive else ""
    ledger = earlier_store(tmp_path, clock, f"headgate:billing:shop:orders:{IDENTITY}{suffix}")
    ran = []
    consumer = Consumer("billing", "shop:orders", ran.append, effects="plain")
    processor = Processor(consumer, ledger, clock, None)
    delivery = Delivery("shop:orders", json.dumps(EVENT).encode(), redrive=redrive)
    assert processor.process(delivery).outcome is Outcome.DUPLICATE
    assert processor.process(Delivery("shop:orders", b'{"n": 3}')).outcome is Outcome.HANDLED
    assert ran == [{"n": 3}]


def test_a_store_without_earlier_keys_asks_for_none(tmp_path, clock):
    ledger = Ledger.on_database(LocalDatabase(str(tmp_path / "new.db"), durability="normal"), clock=clock)
    assert ledger.legacy_until is None
    idempotent_consumer(ledger, consumer="c")(lambda event: None)({"event_type": "t", "data": 1})
    assert ledger.database.execute("SELECT count(*) FROM ledger") == [(1,)]


def test_old_and_new_workers_side_by_side_run_an_event_once(clock):
    """A rolling upgrade on a server: the ledger is opened with legacy_keys=true by the new workers."""
    native = memory_ledger(60_000_000, clock, SystemRandom())
    old, new = Ledger(native, clock), Ledger(native, clock)
    new._legacy_until = clock.now_us() / 1e6 + 60  # what the option legacy_keys=true of a URL does
    ran = []

    @idempotent_consumer(new)
    def charge(event):
        ran.append("new")
        assert old.claim(f"headgate:charge:event:{IDENTITY}").status == "in_progress"

    charge(EVENT)
    assert old.claim(f"headgate:charge:event:{IDENTITY}").status == "done"
    assert ran == ["new"]


def test_an_item_that_was_handled_before_its_announcements_were_marked_stays_handled(tmp_path, clock):
    announced = {"story": "s1", "n": 1}
    ledger = earlier_store(tmp_path, clock, f"headgate:billing:market.items:{event_id(announced)}")
    ran = []
    processor = Processor(Consumer("billing", "market.items", ran.append, effects="plain"), ledger, clock, None)
    swept = {**mark_announcement(announced, "k1", "market", 1, "2026-05-01T00:00:00Z"), "republished": True}
    for body in (mark_announcement(announced, "k1", "market"), swept):
        delivery = Delivery("market.items", json.dumps(body).encode(), source={"message_id": json.dumps(body)})
        assert processor.process(delivery).outcome is Outcome.DUPLICATE
    assert ran == []
