from __future__ import annotations

import asyncio
import os

import pytest

from headgate import Ledger, StaleLeaseError, idempotent_consumer
from headgate.backends.local import LocalDatabase
from headgate.errors import ConfigError, InvalidInputError
from headgate.idempotency import InProgress


def test_effect_and_completion_share_one_commit(tmp_path, clock):
    database = LocalDatabase(str(tmp_path / "s.db"), durability="normal")
    ledger = Ledger.on_database(database, clock=clock)
    database.execute("CREATE TABLE effects (n)")
    claim = ledger.claim("k")
    with pytest.raises(RuntimeError), claim.transaction() as tx:
        tx.execute("INSERT INTO effects VALUES (1)")
        raise RuntimeError
    assert database.execute("SELECT count(*) FROM effects")[0][0] == 0
    assert ledger.claim("k").status == "in_progress"
    with claim.transaction({"ok": 1}) as tx:
        tx.execute("INSERT INTO effects VALUES (1)")
    assert database.execute("SELECT count(*) FROM effects")[0][0] == 1
    assert ledger.claim("k").result == {"ok": 1}


def test_an_overtaken_owner_leaves_no_effect(tmp_path, clock):
    database = LocalDatabase(str(tmp_path / "s.db"), durability="normal")
    ledger = Ledger.on_database(database, clock=clock)
    database.execute("CREATE TABLE effects (who)")
    a = ledger.claim("k", 10)
    clock.advance_us(11_000_000)
    b = ledger.claim("k", 10)
    with pytest.raises(StaleLeaseError), a.transaction() as tx:
        tx.execute("INSERT INTO effects VALUES ('a')")
    with b.transaction() as tx:
        tx.execute("INSERT INTO effects VALUES ('b')")
    assert database.execute("SELECT who FROM effects") == [("b",)]


def test_a_dead_owner_is_overtaken_at_once(tmp_path):
    path = tmp_path / "s.db"
    Ledger.open(f"sqlite:///{path}")
    child = os.fork()
    if child == 0:
        status = Ledger.open(f"sqlite:///{path}").claim("k", 3600).status
        os._exit(0 if status == "acquired" else 1)
    assert os.waitpid(child, 0)[1] == 0
    again = Ledger.open(f"sqlite:///{path}").claim("k", 3600)
    assert (again.status, again.attempts) == ("acquired", 2)
    assert Ledger.open(f"sqlite:///{path}").claim("k").status == "in_progress"  # ours: alive


def test_a_failing_handler_runs_once_per_delivery():
    ledger = Ledger.open("memory://")
    calls = []

    @idempotent_consumer(ledger)
    def handle(event):
        calls.append(event["data"])
        if len(calls) < 3:
            raise ValueError("not yet")
        return len(calls)

    for _ in range(2):
        with pytest.raises(ValueError, match="not yet"):
            handle({"data": 1})
    assert handle({"data": 1}) == 3
    assert handle({"data": 1, "envelope": "another"}) == 3
    assert calls == [1, 1, 1]


def test_two_consumers_of_one_event_both_run():
    ledger = Ledger.open("memory://")
    seen = []
    for name in ("a", "b"):
        idempotent_consumer(ledger, consumer=name)(lambda event, name=name: seen.append(name))({"data": 1})
    assert seen == ["a", "b"]


def test_in_progress_is_not_a_duplicate():
    ledger = Ledger.open("memory://")

    @idempotent_consumer(ledger, key=lambda e: "k")
    def outer(event):
        if event == 1:
            outer(2)

    with pytest.raises(InProgress) as caught:
        outer(1)
    assert caught.value.until > 0


def test_async_handlers():
    ledger = Ledger.open("memory://")
    calls = []

    @idempotent_consumer(ledger)
    async def handle(event):
        await asyncio.sleep(0)
        calls.append(event)
        return "done"

    async def twice():
        return [await handle({"n": 1}), await handle({"n": 1})]

    assert asyncio.run(twice()) == ["done", "done"]
    assert len(calls) == 1


def test_urls():
    with pytest.raises(ConfigError, match="unknown scheme 'mysql'"):
        Ledger.open("mysql://x")
    with pytest.raises(ConfigError, match="expected sqlite:///relative"):
        Ledger.open("sqlite://")
    with pytest.raises(InvalidInputError, match="one SQLite file"), Ledger.open("memory://").claim("k").transaction():
        pass


def test_redis_that_is_not_there_is_one_clear_error():
    from headgate.errors import Kind, TransientError

    with pytest.raises(TransientError, match=r"Redis at 127.0.0.1:1 cannot be reached") as caught:
        Ledger.open("redis://user:hunter2@127.0.0.1:1/0").claim("k")
    assert caught.value.kind is Kind.UNAVAILABLE
    assert "hunter2" not in str(caught.value)
