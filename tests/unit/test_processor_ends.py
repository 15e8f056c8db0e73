"""The ends of one message that no single transport reaches: acknowledgements, writes, stored marks, bounds, faults."""

from __future__ import annotations

import json

import pytest

from headgate import Ledger, _native
from headgate._core import ManualClock
from headgate.consume import Consumer, Delivery, Outcome, Processor
from headgate.consume import _process as process_module
from headgate.errors import ConfigError, TransientError

NOW = 4_000_000_000_000_000


class World:
    """A consumer on a ledger without a database, with an acknowledgement that says when it came."""

    def __init__(self, handler=lambda body: None, *, ledger=None, effects="plain", **options):
        self.clock = ManualClock(NOW)
        self.ledger = ledger or Ledger.open("memory://", clock=self.clock)
        self.events = []
        self.handler = handler
        self.consumer = Consumer("c", "t", self.call, effects=effects, **options)
        self.processor = Processor(self.consumer, self.ledger, self.clock, self.bury)

    def call(self, body):
        self.events.append("effect")
        return self.handler(body)

    def bury(self, delivery, cause, tx):
        self.events.append(f"letter {cause.kind}")

    def acknowledge(self, tx):
        self.events.append(f"acknowledged {tx}")

    def give(self, value, ident="m-1", *, acknowledge=True, **more):
        data = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
        source = {"message_id": ident} if ident else {}
        found = self.processor.process(
            Delivery("t", data, source=source, **more), self.acknowledge if acknowledge else None
        )
        events, self.events = self.events, []
        return found.outcome, events

    def result(self, body, suffix=""):
        claim = self.ledger.claim(self.consumer.claim_key(body) + suffix, 1)
        assert claim.status == "done"
        return claim.result


def test_acknowledgements_come_last_and_once():
    world = World()
    assert world.give({"n": 1}) == (Outcome.HANDLED, ["effect", "acknowledged None"])
    assert world.give({"n": 1}) == (Outcome.DUPLICATE, ["acknowledged None"])
    assert world.give(b"[1]") == (Outcome.DEAD, ["letter invalid_record", "acknowledged None"])
    assert world.give({"n": 2}, acknowledge=False) == (Outcome.HANDLED, ["effect"])
    assert world.give({"n": 2}, acknowledge=False) == (Outcome.DUPLICATE, [])
    assert world.give(b"[1]", acknowledge=False) == (Outcome.DEAD, ["letter invalid_record"])


def test_what_fails_is_not_acknowledged_until_it_is_a_dead_letter():
    world = World(lambda body: 1 / 0, max_attempts=2)
    assert world.give({"n": 1}) == (Outcome.FAILED, ["effect"])
    assert world.give({"n": 1}) == (Outcome.DEAD, ["effect", "letter attempts_exhausted", "acknowledged None"])
    assert world.give({"n": 1}) == (Outcome.DUPLICATE, ["acknowledged None"])


def test_skipped_tombstones_are_acknowledged_and_nothing_else_is_skipped():
    world = World(tombstones="skip")
    assert world.give(None) == (Outcome.HANDLED, ["acknowledged None"])
    assert world.give(None, acknowledge=False) == (Outcome.HANDLED, [])
    assert world.give({"n": 1}) == (Outcome.HANDLED, ["effect", "acknowledged None"])


def test_writes_are_sent_with_the_completion():
    sent = []
    with pytest.raises(ConfigError, match="effects='writes' needs a dynamodb:// ledger"):
        World(effects="writes")
    ledger = Ledger.open("memory://", clock=ManualClock(NOW))
    native = ledger.native

    class Writing:
        complete_with = "there is one"

        def __getattr__(self, name):
            return getattr(native, name)

    ledger.native = Writing()
    ledger.complete_with = lambda claim, writes: (sent.append(writes), ledger.complete(claim))
    world = World(lambda body: body["writes"], ledger=ledger, effects="writes")
    assert world.give({"writes": [{"Put": 1}]}) == (Outcome.HANDLED, ["effect", "acknowledged None"])
    assert world.give({"writes": None}, acknowledge=False) == (Outcome.HANDLED, ["effect"])
    assert sent == [[{"Put": 1}], ()]


def test_results_and_marks_are_stored_as_they_always_were():
    """Ledgers outlive releases: what is stored under a done key is read by the next one."""
    world = World(lambda body: {"n": body["n"]})
    world.give({"n": 1})
    assert world.result({"n": 1}) == {"n": 1}
    world = World(lambda body: 1 / 0, max_attempts=1)
    world.give({"n": 1})
    assert world.result({"n": 1}) == {"dead_letter": True, "message": "m-1"}
    world.handler = lambda body: "second life"
    assert world.give({"n": 1}, "m-2") == (Outcome.HANDLED, ["effect", "acknowledged None"])
    assert world.result({"n": 1}, "#again-1") == "second life"
    assert world.give({"n": 1}, "m-2")[0] is Outcome.DUPLICATE
    assert world.give({"n": 1}, "m-3")[0] is Outcome.DUPLICATE  # the effect has happened


def test_a_serializer_of_ones_own_makes_what_is_stored():
    world = World(lambda body: complex(1, 2), serializer=lambda result: {"text": str(result)})
    assert world.give({"n": 1})[0] is Outcome.HANDLED
    assert world.result({"n": 1}) == {"text": "(1+2j)"}


def test_only_a_dead_letter_that_was_sent_again_is_handled_again():
    world = World(lambda body: {"message": "other"})
    world.give({"n": 1})
    assert world.give({"n": 1}, "m-2")[0] is Outcome.DUPLICATE  # its result only looks like a mark
    world = World(lambda body: 1 / 0, max_attempts=1)
    assert world.give({"n": 1})[0] is Outcome.DEAD
    world.handler = lambda body: None
    assert world.give({"n": 1}, "m-1")[0] is Outcome.DUPLICATE  # the same message, delivered again
    assert world.give({"n": 1}, "")[0] is Outcome.DUPLICATE  # no transport's name to tell it by
    assert world.give({"n": 1}, "m-2", redriven_for="another")[0] is Outcome.DUPLICATE
    assert world.give({"n": 1}, "m-3", redriven_for="c")[0] is Outcome.DUPLICATE
    assert world.give({"n": 1}, "m-4", redriven_for="c", redrive=1)[0] is Outcome.HANDLED
    assert world.give({"n": 1}, "m-5")[0] is Outcome.HANDLED


@pytest.mark.parametrize("name", ["ce_type", "ce-type"])
def test_the_header_of_cloud_events_is_a_part_of_the_key(name):
    world = World()
    found = [
        world.give({"n": 1}, headers=headers)[0]
        for headers in (((name, b"a"),), ((name, b"b"),), ((name, b"a"),), ((name, None),), ())
    ]
    assert found == [Outcome.HANDLED, Outcome.HANDLED, Outcome.DUPLICATE, Outcome.HANDLED, Outcome.DUPLICATE]


def test_payloads_count_with_all_their_digits():
    world = World(key=lambda body: "k", payload=lambda body: body["n"])
    assert world.give({"n": 2**60})[0] is Outcome.HANDLED
    assert world.give({"n": 2**60})[0] is Outcome.DUPLICATE
    assert world.give({"n": 2**60 + 1}) == (Outcome.DEAD, ["letter payload_mismatch", "acknowledged None"])


def test_the_largest_message_is_still_read():
    world = World(max_message_bytes=8)
    assert world.give(b'{"n": 1}')[0] is Outcome.HANDLED
    assert world.give(b'{"n": 11}') == (Outcome.DEAD, ["letter message_too_large", "acknowledged None"])


def test_the_limit_of_unavailability_is_exact():
    world = World(max_attempts=1, unavailable_limit_s=10.0)
    world.handler = _away
    assert world.give({"n": 1})[0] is Outcome.WAITING
    world.clock.advance_us(10_000_000)
    assert world.give({"n": 1})[0] is Outcome.WAITING
    world.clock.advance_us(1)
    assert world.give({"n": 1})[0] is Outcome.DEAD
    assert world.processor._away_since == {}
    assert world.give({"n": 2})[0] is Outcome.WAITING
    assert len(world.processor._away_since) == 1
    world.handler = lambda body: None
    assert world.give({"n": 2})[0] is Outcome.HANDLED
    assert world.processor._away_since == {}


def test_messages_that_others_may_have_handled_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(process_module, "_MAX_AWAY", 2)
    for numbers, expected in (([1, 2], [Outcome.DEAD, Outcome.DEAD]), ([1, 2, 3], [Outcome.WAITING, Outcome.DEAD])):
        world = World(_away, max_attempts=1, unavailable_limit_s=10.0)
        for n in numbers:
            assert world.give({"n": n})[0] is Outcome.WAITING
        assert len(world.processor._away_since) == 2
        world.clock.advance_us(11_000_000)
        # Of three the first was forgotten, so that its time begins anew (and the second is forgotten in its place).
        assert world.give({"n": 2})[0] is Outcome.DEAD
        assert world.give({"n": 1})[0] is expected[0]


@pytest.mark.parametrize("point", ["before_claim", "after_claim", "after_effect", "before_complete", "after_commit"])
def test_a_fault_at_each_named_point_keeps_the_message(point):
    """Chaos tests and the simulation kill at these names; one that is misspelt would never be reached."""
    world = World()
    _native.set_faults(f"consume.{point}:fail:1")
    outcome, events = world.give({"n": 1})
    assert outcome is Outcome.WAITING
    assert events == {
        "before_claim": [], "after_claim": [], "after_commit": ["effect", "acknowledged None"],
    }.get(point, ["effect"])  # fmt: skip
    world.clock.advance_us(600_000_000)
    expected = Outcome.DUPLICATE if point == "after_commit" else Outcome.HANDLED
    assert world.give({"n": 1})[0] is expected


@pytest.mark.parametrize("protected", [True, False])
def test_an_interrupt_ends_the_worker_and_counts_nothing(protected):
    def interrupted(body):
        raise KeyboardInterrupt

    world = World(interrupted, on_unavailable="process")
    if not protected:
        native = world.ledger.native

        class Away:
            def __getattr__(self, name):
                if name == "claim":
                    raise TransientError("away")
                return getattr(native, name)

        world.ledger.native = Away()
    with pytest.raises(KeyboardInterrupt):
        world.give({"n": 1})
    assert world.events == ["effect"]


def _away(body):
    raise ConnectionError("down")


class Joint:
    """A consumer whose ledger, queue and effects are one SQLite file; every step writes its name into a table."""

    def __init__(self, store, clock, handler, **options):
        self.db = store.db
        self.db.execute("CREATE TABLE steps (step TEXT)")
        self.ledger = Ledger.on_database(store.db, clock=clock)
        self.consumer = Consumer("c", "t", handler, **options)
        self.processor = Processor(self.consumer, self.ledger, clock, self.bury)
        self.broken = False

    def step(self, tx, text):
        tx.execute("INSERT INTO steps VALUES (?)", (text,))

    def bury(self, delivery, cause, tx):
        self.step(tx, f"letter {cause.reason}")

    def acknowledge(self, tx):
        self.step(tx, "acknowledged")
        if self.broken:
            raise RuntimeError("the queue")

    def give(self, value, ident="m-1"):
        delivery = Delivery("t", value, source={"queue_id": ident})
        outcome = self.processor.process(delivery, self.acknowledge).outcome
        steps = [step for (step,) in self.db.execute("SELECT step FROM steps ORDER BY rowid")]
        self.db.execute("DELETE FROM steps")
        return outcome, steps


def test_letter_acknowledgement_and_mark_are_one_commit(store, clock):
    def handler(body, tx):
        raise ValueError("bad")

    def on_dead_letter(body, reason, tx):
        world.step(tx, f"{body} is dead: {reason}")

    world = Joint(store, clock, handler, max_attempts=1, on_dead_letter=on_dead_letter, tombstones="handle")
    world.broken = True
    assert world.give(b'{"n": 1}') == (Outcome.WAITING, [])  # all of it is undone with the acknowledgement
    assert world.give(b'{"n": 1}') == (Outcome.WAITING, [])
    world.broken = False
    steps = ["letter ValueError: bad", "{'n': 1} is dead: ValueError: bad", "acknowledged"]
    assert world.give(b'{"n": 1}') == (Outcome.DEAD, steps)
    claim = world.ledger.claim(world.consumer.claim_key({"n": 1}), 1)
    assert (claim.status, claim.result) == ("done", {"dead_letter": True, "message": "m-1"})
    assert world.give(b'{"n": 1}') == (Outcome.DUPLICATE, ["acknowledged"])
    # Without a body nobody can be told which item it was.
    assert world.give(None, "m-2") == (Outcome.DEAD, ["letter ValueError: bad", "acknowledged"])
    reason = "letter InvalidInputError: expected a JSON object, got list"
    assert world.give(b"[1]", "m-3") == (Outcome.DEAD, [reason, "acknowledged"])


def test_a_letter_that_cannot_be_kept_waits_for_no_lease_and_runs_nothing_again():
    world = World(lambda body: 1 / 0, max_attempts=2)
    letters = []

    def refuse(delivery, cause, tx):
        letters.append((cause.reason, cause.attempts))
        raise TransientError("the dead-letter topic is away")

    world.processor._dead_letter_sink = refuse
    assert world.give({"n": 1}) == (Outcome.FAILED, ["effect"])
    assert world.give({"n": 1}) == (Outcome.FAILED, ["effect"])
    for _ in range(3):
        assert world.give({"n": 1}) == (Outcome.WAITING, [])  # at once, though the lease is 300 s
    world.processor._dead_letter_sink = world.bury
    assert world.give({"n": 1}) == (Outcome.DEAD, ["letter attempts_exhausted", "acknowledged None"])
    assert letters == [("ZeroDivisionError: division by zero", 2)] * 4


def test_a_transaction_is_never_run_unprotected(store, clock):
    calls = []
    world = Joint(store, clock, lambda body, tx: calls.append(body), on_unavailable="process")
    native = world.ledger.native

    class Away:
        def __getattr__(self, name):
            if name == "claim":
                raise TransientError("busy")
            return getattr(native, name)

    world.ledger.native = Away()
    assert world.give(b'{"n": 1}') == (Outcome.WAITING, [])
    assert calls == []


def test_a_prepared_tombstone_is_still_none():
    seen = []
    world = World(seen.append, tombstones="handle", prepare=lambda body: body["inner"])
    assert world.give(None)[0] is Outcome.HANDLED
    assert world.give({"inner": 7})[0] is Outcome.HANDLED
    assert seen == [None, 7]


def test_the_last_known_error_is_the_reason_when_workers_died_after_it():
    world = World(max_attempts=2)
    reasons = []
    world.processor._dead_letter_sink = lambda delivery, cause, tx: reasons.append((cause.reason, cause.attempts))
    key = world.consumer.claim_key({"n": 1})
    world.ledger.release(world.ledger.claim(key, 1), "ValueError: the first time")
    world.ledger.claim(key, 1)  # and died
    world.clock.advance_us(2_000_000)
    assert world.give({"n": 1})[0] is Outcome.DEAD
    assert reasons == [("ValueError: the first time", 2)]


def test_what_has_not_run_is_said():
    async def later():
        """Never awaited: the processor closes it."""

    reasons = []
    for result, what in ((later, "an awaitable"), (lambda: (x for x in ()), "a generator")):
        world = World(lambda body, result=result: result(), max_attempts=1)
        world.processor._dead_letter_sink = lambda delivery, cause, tx: reasons.append(cause.reason)
        assert world.give({"n": 1})[0] is Outcome.DEAD
        sentence = f"the handler returned {what}, so that nothing has run; a worker calls plain functions"
        assert reasons.pop() == f"InvalidInputError: {sentence}"


def test_ledgers_that_cannot_do_what_a_consumer_needs_are_named():
    ledger, clock = Ledger.open("memory://"), ManualClock(NOW)
    for effects, wanted, expected in (
        ("transaction", ledger, "consumer billing: effects='transaction' needs a SQLite ledger in the database that the "
         "handler writes; use 'writes' (DynamoDB) or 'plain' (at least once) with others"),
        ("writes", ledger, "consumer billing: effects='writes' needs a dynamodb:// ledger; use 'plain' with others"),
        ("plain", object(), "consumer billing: a worker needs a Ledger, and got a object"),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as found:
            Processor(Consumer("billing", "t", lambda *_: None, effects=effects), wanted, clock, None)
        assert str(found.value) == expected
