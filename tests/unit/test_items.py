"""The life of an item: announced under its key, finished by its consumer, failed or left pending by its handler."""

from __future__ import annotations

import json

import pytest

from headgate import default_identity, items
from headgate._core import ManualClock
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.consume import Consumer, Worker
from headgate.consume._messages import Delivery, Outcome
from headgate.consume._process import Processor
from headgate.errors import ConfigError, InvalidInputError
from headgate.healing import run_self_healing_check
from headgate.idempotency import Ledger
from headgate.items import LifeCycle, mark_announcement
from headgate.ports import Item

HOUR = 3_600_000_000
TOPIC = "orders.items"


class World:
    """A store of the pipeline "orders" with one consumer, whose effects are rows of a table."""

    def __init__(self, path, handler=None, *, effects="transaction", finishes=True, **options):
        self.clock = ManualClock(1_800_000_000_000_000)
        self.store = LocalStore(LocalDatabase(str(path), durability="normal"), self.clock, "orders")
        self.ledger = Ledger.on_database(self.store.db, clock=self.clock)
        self.store.db.execute("CREATE TABLE paid (k)")
        self.handler = handler or self.pay
        options.setdefault("max_attempts", 3)
        plain = effects == "plain"
        consumer = Consumer(
            "bill", TOPIC, (lambda body: self.handler(body, self.store.db)) if plain else self._call, effects=effects,
            **options,
        )  # fmt: skip
        self.worker = Worker(consumer, self.store, self.ledger, self.clock, items=LifeCycle(self.store, finishes))

    def _call(self, body, tx):
        return self.handler(body, tx)

    @staticmethod
    def pay(body, tx):
        tx.execute("INSERT INTO paid VALUES (?)", (body["n"],))

    def put(self, *numbers):
        found = [Item(f"k{n}", "orders", "shop", "2026-01-01T00:00:00Z", {"n": n}) for n in numbers]
        self.store.put_items(
            found, TOPIC, {i.key: mark_announcement({"n": i.doc["n"]}, i.key, "orders") for i in found}
        )

    def relay(self):
        return self.store.relay_outbox({TOPIC: ["bill"]})

    def sweep(self, **options):
        return run_self_healing_check(
            self.store,
            None,
            TOPIC,
            "v1",
            announce=lambda i: {"n": i["doc"]["n"]},
            clock=self.clock,
            group="bill",
            **options,
        )

    def drain(self):
        self.relay()
        return self.worker.drain()

    def paid(self):
        return [k for (k,) in self.store.db.execute("SELECT k FROM paid ORDER BY k")]

    def status(self, key="k1"):
        return self.store.item_status(key)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "h.db"


@pytest.mark.parametrize("effects", ["transaction", "plain"])
def test_a_handled_item_is_done_and_never_swept(path, effects):
    world = World(path, effects=effects)
    world.put(1, 2)
    assert world.drain().handled == 2
    assert world.store.status_counts() == {"done": 2}
    world.clock.advance_us(2 * HOUR)
    assert world.sweep().items_found == 0
    assert world.paid() == [1, 2]


def test_the_item_ends_in_the_commit_of_the_effect(path):
    """A handler that raises after its effect leaves neither effect nor end."""
    world = World(path)
    fails = [True]

    def handler(body, tx):
        world.pay(body, tx)
        if fails.pop() if fails else False:
            raise RuntimeError

    world.handler = handler
    world.put(1)
    assert world.drain().failed == 1
    assert (world.paid(), world.status()) == ([], "pending")
    world.clock.advance_us(10_000_000)
    assert world.drain().handled == 1
    assert (world.paid(), world.status()) == ([1], "done")


def test_a_sweep_doubles_no_effect_of_a_consumer_without_a_key(path):
    """The item's mark of the sweep is no part of its identity, so that the second announcement is a duplicate."""
    world = World(path, finishes=False)  # as if the end were lost
    world.put(1)
    assert world.drain().handled == 1
    world.clock.advance_us(HOUR)
    assert world.sweep().items_republished == 1
    result = world.drain()
    assert (result.handled, result.duplicates, world.paid()) == (0, 1, [1])


def test_a_duplicate_ends_an_item_whose_end_was_lost(path):
    world = World(path, finishes=False)
    world.put(1)
    world.drain()
    assert world.status() == "pending"
    world.clock.advance_us(HOUR)
    world.sweep()
    world.worker._processor._effect._items = LifeCycle(world.store, True)
    assert world.drain().duplicates == 1
    assert (world.status(), world.paid()) == ("done", [1])


def test_identities_ignore_every_mark_of_a_republication():
    first = mark_announcement({"n": 1}, "k1", "orders")
    again = mark_announcement({"n": 1, "republished": True, "model_version": "v2"}, "k1", "orders", 3)
    assert default_identity(first) == default_identity(again) == "k1"
    assert (
        default_identity(json.dumps(again))
        == default_identity({"eventSource": "aws:sqs", "body": json.dumps(first)})
        == "k1"
    )
    assert default_identity({"n": 1, "republished": True}) == default_identity({"n": 1})
    assert default_identity({"n": 1, "republished": "yes"}) != default_identity({"n": 1})
    with pytest.raises(InvalidInputError, match="member 'headgate' of its own"):
        mark_announcement(first, "k1", "orders")


def test_a_handler_names_its_own_end(path):
    world = World(path)

    def handler(body, tx):
        world.pay(body, tx)
        return items.finish(status="billed", sentiment="neutral", score=0.5)

    world.handler = handler
    world.put(1)
    world.drain()
    assert world.status() == "billed"
    assert world.store.db.execute("SELECT sentiment, score, ended_us IS NOT NULL FROM items") == [("neutral", 0.5, 1)]


def test_a_handler_fails_an_item_for_good_and_a_release_brings_it_back(path):
    world = World(path, lambda body, tx: items.fail(None, "nobody can pay this"))
    world.put(1)
    assert world.drain().handled == 1
    assert world.status() == "failed"
    (stuck,) = world.store.stuck_items()
    assert (stuck["key"], stuck["reason"]) == ("k1", "nobody can pay this")
    world.clock.advance_us(2 * HOUR)
    assert world.sweep().items_found == 0
    world.handler = world.pay
    assert world.store.release_items(["k1"]) == 1
    assert world.store.release_items(["k1"]) == 0
    assert world.sweep().items_republished == 1
    assert world.drain().handled == 1
    assert (world.status(), world.paid()) == ("done", [1])


def test_a_handler_leaves_an_item_pending_for_somebody_else(path):
    world = World(path, lambda body, tx: items.leave_pending())
    world.put(1, 2)
    assert world.drain().handled == 2
    assert world.status() == "pending"
    with items.use(world.store):
        assert items.finish("k1") is True
        assert items.finish("k1") is False
    # Nobody finishes the second one: it is announced again, and the handler runs again.
    world.handler = world.pay
    world.clock.advance_us(HOUR)
    assert world.sweep().items_republished == 1
    assert world.drain().handled == 1
    assert (world.store.status_counts(), world.paid()) == ({"done": 2}, [2])


def test_a_handler_ends_other_items_in_its_commit(path):
    world = World(path)

    def handler(body, tx):
        items.finish("k2", "merged")
        if not world.paid():
            world.pay(body, tx)
            raise RuntimeError
        world.pay(body, tx)

    world.handler = handler
    world.put(2)
    world.put(1)
    world.store.db.execute("DELETE FROM outbox WHERE key = 'k2'")
    world.drain()
    assert world.status("k2") == "pending"  # rolled back
    world.handler = lambda body, tx: items.finish("k2", "merged")
    world.clock.advance_us(10_000_000)
    world.drain()
    assert world.store.status_counts() == {"done": 1, "merged": 1}


def test_words_are_checked_where_they_are_said(path):
    for call in (lambda: items.finish("k"), items.leave_pending, lambda: items.fail("k", "x")):
        with pytest.raises(ConfigError, match="no message"):
            call()
    with pytest.raises(InvalidInputError, match="no final status"):
        items.finish("k", "pending")
    world = World(path)
    with items.use(world.store), pytest.raises(InvalidInputError, match="no field 'colour'"):
        items.finish("k1", colour="red")
    with items.use(world.store), pytest.raises(InvalidInputError, match="announces no item"):
        items.finish()


def test_a_dead_letter_takes_its_item_out_of_the_sweeps(path):
    def handler(body, tx):
        raise ValueError

    world = World(path, handler, max_attempts=1)
    world.put(1)
    assert world.drain().dead_lettered == 1
    assert world.status() == "quarantined"
    assert world.store.stuck_items()[0]["reason"] == "dead letter: attempts_exhausted"
    world.clock.advance_us(2 * HOUR)
    assert world.sweep().items_found == 0
    # A release and a redrive, in any order, are one effect.
    world.handler = world.pay
    assert world.store.release_items() == 1
    assert world.sweep().items_republished == 1
    assert world.store.redrive("bill") == 1
    result = world.drain()
    assert (result.handled, result.duplicates, world.paid(), world.status()) == (1, 1, [1], "done")


def test_what_is_on_its_way_is_held_up_and_not_stuck(path):
    world = World(path)
    world.put(1)
    for _ in range(8):  # the relay is down for eight hours
        world.clock.advance_us(HOUR)
        result = world.sweep()
        assert (result.items_found, result.held_up) == (0, 1)
    world.relay()
    for _ in range(8):  # and nobody reads the queue for another eight
        world.clock.advance_us(HOUR)
        result = world.sweep()
        assert (result.items_found, result.held_up) == (0, 1)
    assert world.store.count("SELECT count(*) FROM outbox") == 1
    assert world.store.count("SELECT sum(republish_attempts) FROM items") == 0
    assert world.drain().handled == 1
    assert (world.paid(), world.status()) == ([1], "done")


def test_another_groups_message_is_no_evidence(path):
    world = World(path)
    world.put(1)
    world.store.relay_outbox({TOPIC: ["audit"]})
    world.clock.advance_us(HOUR)
    assert world.sweep().items_republished == 1


def test_a_hundred_that_are_held_up_keep_nobody_from_a_turn(path):
    world = World(path)
    world.put(*range(150))
    world.relay()
    world.store.db.execute("DELETE FROM queue WHERE key IN ('k148', 'k149')")
    world.clock.advance_us(HOUR)
    result = world.sweep(batch_size=10)
    assert (result.items_republished, result.held_up, result.more_remaining) == (2, 148, False)


def test_an_item_that_cannot_be_announced_uses_up_its_attempts_alone(path, caplog):
    world = World(path)
    world.put(1, 2, 3)
    world.store.db.execute("DELETE FROM outbox")

    def announce(item):
        if item["key"] == "k2":
            raise KeyError("secret")
        return {"n": item["doc"]["n"]}

    def sweep():
        return run_self_healing_check(
            world.store, None, TOPIC, "v1", announce=announce, clock=world.clock, group="bill"
        )

    world.clock.advance_us(HOUR)
    result = sweep()
    assert (result.items_found, result.items_republished, result.failed, result.errors) == (3, 2, 1, ["KeyError"])
    assert "secret" not in caplog.text
    assert [r.kind for r in caplog.records if r.message == "not healed"] == ["item"]
    assert sweep().items_found == 0  # its cooldown has begun
    for _ in range(4):
        world.clock.advance_us(HOUR)
        assert sweep().failed == 1
    world.clock.advance_us(HOUR)
    assert sweep().quarantined == 1
    assert world.drain().handled == 2
    assert world.store.status_counts() == {"done": 2, "quarantined": 1}


def test_a_remote_queue_finishes_an_item_after_its_claim(path):
    """Kafka and SQS: the message is no row of the store, and its ledger may be elsewhere."""
    world = World(path)
    ledger = Ledger.open("memory://", clock=world.clock)
    calls = []
    processor = Processor(
        Consumer("bill", TOPIC, lambda body: calls.append(body["n"]), effects="plain"), ledger, world.clock, None,
        items=LifeCycle(world.store, True),
    )  # fmt: skip
    world.put(1)
    body = json.dumps(mark_announcement({"n": 1}, "k1", "orders")).encode()
    envelope = json.dumps(
        {"Type": "Notification", "TopicArn": "t", "MessageId": "1", "Message": body.decode()}
    ).encode()
    assert processor.process(Delivery(TOPIC, body, source={"id": "1"})).outcome is Outcome.HANDLED
    assert world.status() == "done"
    assert processor.process(Delivery(TOPIC, envelope, source={"id": "2"})).outcome is Outcome.DUPLICATE
    assert calls == [1]


def test_a_store_that_is_away_repeats_no_effect(path, monkeypatch):
    from headgate.errors import TransientError

    world = World(path)
    ledger = Ledger.open("memory://", clock=world.clock)
    calls = []
    processor = Processor(
        Consumer("bill", TOPIC, lambda body: calls.append(body["n"]), effects="plain"), ledger, world.clock, None,
        items=LifeCycle(world.store, True),
    )  # fmt: skip
    world.put(1)
    delivery = Delivery(TOPIC, json.dumps(mark_announcement({"n": 1}, "k1", "orders")).encode(), source={"id": "1"})
    end_item = world.store.end_item

    def away(*arguments, **options):
        raise TransientError("the table is away")

    monkeypatch.setattr(world.store, "end_item", away)
    assert processor.process(delivery).outcome is Outcome.WAITING
    monkeypatch.setattr(world.store, "end_item", end_item)
    assert processor.process(delivery).outcome is Outcome.DUPLICATE
    assert (world.status(), calls) == ("done", [1])
