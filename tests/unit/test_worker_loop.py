"""The loop of a worker on the embedded queue: when it ends, what it waits for, what it asks of its store."""

from __future__ import annotations

import pytest

from headgate import Ledger
from headgate._core import ManualClock
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.consume import Consumer, Worker
from headgate.errors import TransientError

NOW = 4_000_000_000_000_000


class World:
    def __init__(self, handler, bodies=3, *, joint=True, **options):
        self.clock = ManualClock(NOW)
        self.store = LocalStore(LocalDatabase(":memory:"), self.clock)
        for n in range(bodies):
            self.store.publish("t", str(n), {"n": n})
        self.store.relay_outbox({"t": ["c"]})
        self.ledger = (
            Ledger.on_database(self.store.db, clock=self.clock) if joint else Ledger.open("memory://", clock=self.clock)
        )
        self.consumer = Consumer("c", "t", handler, effects="plain", **options)
        self.worker = Worker(self.consumer, self.store, self.ledger, self.clock)


def test_a_worker_ends_when_nothing_came_for_so_long():
    ran = []
    world = World(ran.append)
    started = world.clock.mono_us()
    result = world.worker.run(max_idle_s=1.0)
    assert (result.handled, result.received, len(ran)) == (3, 3, 3)
    assert world.clock.mono_us() - started == 1_000_000  # it slept in steps of 50 ms, and no longer


def test_a_worker_that_is_told_to_stop_keeps_nothing():
    ran = []

    def handle(body):
        ran.append(body["n"])
        world.worker.stop()

    world = World(handle)
    assert world.worker.run().handled == 1
    assert (ran, world.worker.measure_lag()) == ([0], 2)
    again = Worker(Consumer("c", "t", lambda body: ran.append(body["n"]), effects="plain"), world.store, world.ledger,
                   world.clock)  # fmt: skip
    assert (again.drain().handled, ran) == (2, [0, 1, 2])  # at once: they were given back


def test_a_worker_asks_for_ten_messages_and_its_lease(monkeypatch):
    world = World(lambda body: 1, lease_s=2.5)
    asked = []
    monkeypatch.setattr(world.store, "receive", lambda *given: asked.append(given) or [])
    monkeypatch.setattr(world.store, "reclaim", lambda *given: False)
    world.worker.run(0)
    assert set(asked) == {("t", "c", 10, 2_500_000)}


@pytest.mark.parametrize("joint", [True, False])
def test_mark_and_acknowledgement_are_one_commit_in_one_database(monkeypatch, joint):
    """Elsewhere the mark stays, and the message that comes again is a duplicate."""
    ran = []
    world = World(ran.append, 1, joint=joint)

    def away(*arguments):
        raise TransientError("x")

    monkeypatch.setattr(world.store, "acknowledge", away)
    result = world.worker.drain()
    assert (result.waiting, len(ran)) == (1, 1)
    status = world.ledger.claim(world.consumer.claim_key({"n": 0})).status
    assert status == ("in_progress" if joint else "done")


def test_draining_waits_for_what_is_to_be_tried_again():
    calls = []

    def handle(body):
        calls.append(world.clock.mono_us())
        if len(calls) == 1:
            raise ValueError

    world = World(handle, 1, backoff_base_s=1.0)
    assert world.worker.drain(1.9).handled == 0
    world.clock.advance_us(2_000_000)
    assert (world.worker.drain(0.0).handled, len(calls)) == (1, 2)
