from __future__ import annotations

import pytest

from headgate import Ledger, _native
from headgate.consume import Consumer, Worker


@pytest.fixture
def world(store, clock):
    store.db.execute("CREATE TABLE effects (n)")
    ledger = Ledger.on_database(store.db, clock=clock)

    def make(handler, **options):
        return Worker(Consumer("c", "t", handler, **options), store, ledger, clock)

    return make


def effect(body, tx):
    tx.execute("INSERT INTO effects VALUES (?)", (body["n"],))
    return body["n"]


def publish(store, *numbers):
    for n in numbers:
        store.publish("t", str(n), {"n": n})
    store.relay_outbox({"t": ["c"]})


def effects(store):
    return [n for (n,) in store.db.execute("SELECT n FROM effects ORDER BY n")]


def test_each_message_once_and_duplicates_acknowledged(world, store):
    publish(store, 1, 2, 3, 2, 2)
    result = world(effect).drain()
    assert (result.received, result.handled, result.duplicates) == (5, 3, 2)
    assert effects(store) == [1, 2, 3]
    assert store.queue_depth("t", "c")[0] == 0


def test_groups_get_their_own_copies(store, clock):
    store.publish("t", "1", {"n": 1})
    assert store.relay_outbox({"t": ["a", "b"]}) == 1
    assert store.relay_outbox({"t": ["a", "b"]}) == 0
    assert [len(store.receive("t", g, 10, 1_000_000)) for g in ("a", "b")] == [1, 1]


def test_a_failing_handler_is_tried_again_and_then_buried(world, store, clock):
    def boom(body, tx):
        effect(body, tx)
        raise ValueError("bad")

    publish(store, 1)
    worker = world(boom, max_attempts=3)
    for attempt in range(3):
        result = worker.drain()
        assert (result.failed, result.dead_lettered) == ((1, 0) if attempt < 2 else (0, 1))
        clock.advance_us(60_000_000)
    assert effects(store) == []
    assert store.queue_depth("t", "c")[0] == 0
    (row,) = store.db.execute("SELECT stage, kind, reason, doc FROM dead_letters")
    assert row == ("consume", "attempts_exhausted", "ValueError: bad", '{"n":1}')


def test_a_message_somebody_else_holds_comes_back(world, store, clock):
    publish(store, 1)
    worker = world(effect)
    held = worker.ledger.claim(worker.consumer.claim_key(store.receive("t", "c", 1, 0)[0].body), 30)
    result = worker.drain()
    assert (result.received, result.waiting, result.handled) == (1, 1, 0)
    assert worker.drain().received == 0
    clock.advance_us(31_000_000)
    assert worker.drain().handled == 1
    with pytest.raises(Exception, match="overtaken"):
        worker.ledger.complete(held)


@pytest.mark.parametrize("point", ["consume.after_effect", "consume.before_commit"])
def test_a_failure_inside_the_commit_leaves_no_effect(world, store, clock, point):
    publish(store, 1)
    _native.set_faults(f"{point}:fail:1")
    assert world(effect).drain().waiting == 1  # an injected fault is unavailability: no attempt
    assert effects(store) == []
    clock.advance_us(60_000_000)
    assert world(effect).drain().handled == 1
    assert effects(store) == [1]


@pytest.mark.parametrize("max_attempts", [1, 5])
def test_a_failure_after_the_lease_ended_leaves_the_successor_alone(world, store, clock, max_attempts):
    publish(store, 1)
    successor = []

    def slow(body, tx):
        clock.advance_us(400_000_000)
        successor.append(worker.ledger.claim(worker.consumer.claim_key(message), 600))
        raise ValueError("late")

    worker = world(slow, max_attempts=max_attempts)
    (message,) = store.receive("t", "c", 1, 0)
    result = worker.drain()
    # The claim was made inside the transaction that rolled back: nobody holds the key, and nothing was buried twice.
    assert (result.failed + result.dead_lettered, effects(store)) == (1, [])
    assert store.count("SELECT count(*) FROM dead_letters") == result.dead_lettered


def test_stopping_gives_unhandled_messages_back(world, store, clock):
    publish(store, *range(5))
    worker = world(lambda body, tx: worker.stop())
    result = worker.drain()
    assert result.handled == 1
    assert world(effect).drain().handled == 4


def test_attempts_survive_crashes(world, store, clock):
    publish(store, 1)
    worker = world(effect, max_attempts=2)
    key = worker.consumer.claim_key(store.receive("t", "c", 1, 0)[0].body)
    for _ in range(2):
        worker.ledger.claim(key, 1)
        clock.advance_us(2_000_000)
    assert worker.drain().dead_lettered == 1
    assert effects(store) == []


def test_dead_letters_go_back_to_their_queue_as_often_as_needed(world, store, clock):
    """Each redrive has a claim of its own: the first one's is done, as a dead letter."""
    broken = [True]

    def handler(body, tx):
        if broken and body["n"] != 2:
            raise ValueError("bad")
        effect(body, tx)

    def drain(worker):
        for _ in range(4):
            worker.drain()
            clock.advance_us(600_000_000)

    publish(store, 1, 2, 3)
    worker = world(handler, max_attempts=2)
    drain(worker)
    assert effects(store) == [2]
    assert [x["seen"] for x in store.dead_letters()] == [1, 1]
    assert (store.redrive("c"), store.redrive("c"), store.redrive("other")) == (2, 0, 0)
    assert store.dead_letters() == []
    drain(worker)  # still broken: they are there again
    assert [x["seen"] for x in store.dead_letters()] == [2, 2]
    broken.clear()
    assert store.redrive("c", limit=1) == 1
    assert store.redrive("c") == 1
    drain(worker)
    assert effects(store) == [1, 2, 3]
    assert store.dead_letters() == []
    assert store.redrive("c") == 0


def test_a_redrive_that_dies_half_way_sends_nothing_twice(world, store, clock, monkeypatch):
    def boom(body, tx):
        raise ValueError("bad")

    publish(store, 1, 2)
    worker = world(boom, max_attempts=1)
    worker.drain()
    real = store.db.execute
    monkeypatch.setattr(
        store.db,
        "execute",
        lambda sql, p=(): (_ for _ in ()).throw(RuntimeError("dies")) if "INTO queue" in sql else real(sql, p),
    )
    with pytest.raises(RuntimeError):
        store.redrive("c")
    monkeypatch.undo()
    assert store.queue_depth("t", "c")[0] == 0
    assert store.redrive("c") == 2
    assert store.queue_depth("t", "c")[0] == 2


def test_a_dead_letters_event_that_is_published_again_is_handled(world, store):
    """The queue was empty in between, and gave its first id to the new message too: it was taken for a duplicate."""
    broken = [True]

    def handler(body, tx):
        if broken:
            raise ValueError("a bug")
        effect(body, tx)

    publish(store, 1)
    worker = world(handler, max_attempts=1)
    assert worker.drain().dead_lettered == 1
    broken.clear()
    publish(store, 1)
    assert worker.drain().handled == 1
    publish(store, 1)
    assert worker.drain().duplicates == 1
    assert effects(store) == [1]


def test_a_late_acknowledgement_removes_no_other_message(store, clock):
    """An id used to be given again once the queue was empty."""
    publish(store, 1)
    (slow,) = store.receive("t", "c", 1, 1_000_000)
    clock.advance_us(2_000_000)  # its time is over, another worker handles it
    (again,) = store.receive("t", "c", 1, 1_000_000)
    store.acknowledge(again)
    publish(store, 2)
    store.acknowledge(slow)
    assert [m.body for m in store.receive("t", "c", 9, 1_000_000)] == [{"n": 2}]
