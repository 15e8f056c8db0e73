"""The clock was ahead and went back: nothing waits for the length of the jump."""

from __future__ import annotations

import logging

import pytest

from headgate import _core
from headgate.backends.clock_jumps import last_jump, note_clock
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.consume import Consumer, Worker
from headgate.idempotency import Ledger
from headgate.ports import Item

DAY = 86_400_000_000
NOW = 1_780_000_000_000_000


@pytest.fixture
def database(tmp_path):
    made = LocalDatabase(str(tmp_path / "h.db"), durability="normal")
    yield made
    made.close()


def test_what_was_written_while_the_clock_was_ahead_waits_for_nothing(database, caplog):
    """A message that was queued then was invisible for a day, and so was every message after a failure."""
    ahead = LocalStore(database, _core.ManualClock(NOW + DAY), "market")
    assert note_clock(ahead) == 0
    ahead.put_items([Item("k", "market", "x", "2026-05-01T00:00:00Z", {})], "market.items", {"k": {"key": "k"}})
    ahead.relay_outbox({"market.items": ["mine"]})
    dead = Ledger.on_database(database, clock=ahead.clock).claim("held", 300)
    assert dead.status == "acquired"
    clock = _core.ManualClock(NOW)
    store, ledger = LocalStore(database, clock, "market"), Ledger.on_database(database, clock=clock)
    seen = []
    worker = Worker(Consumer("mine", "market.items", lambda body, tx: seen.append(body)), store, ledger, clock)
    assert worker.drain().handled == 0  # what used to be so for a day
    with caplog.at_level(logging.WARNING):
        assert note_clock(store) == 3
    assert [(r.getMessage(), r.back_s, r.moved) for r in caplog.records] == [("the clock went back", 86_400.0, 3)]
    assert worker.drain().handled == 1
    assert len(seen) == 1
    assert ledger.claim("held", 300).status == "in_progress"
    clock.advance_us(301_000_000)
    assert ledger.claim("held", 300).status == "acquired"
    assert database.execute("SELECT due_us FROM items") == [(NOW,)]
    assert note_clock(store) == 0
    assert last_jump(store)["back_s"] == 86_400.0


def test_clocks_that_differ_a_little_move_nothing(database):
    clock = _core.ManualClock(NOW)
    store = LocalStore(database, clock, "market")
    note_clock(store)
    store.publish("t", "k", {})
    store.relay_outbox({"t": ["g"]})
    behind = LocalStore(database, _core.ManualClock(NOW - 59_000_000), "market")
    assert note_clock(behind) == 0
    assert last_jump(store) is None
    before = store.load_state("clock.latest")
    clock.advance_us(9_000_000)
    note_clock(store)
    assert store.load_state("clock.latest") == before  # not a write every second
    clock.advance_us(1_000_000)
    note_clock(store)
    assert store.load_state("clock.latest") != before
