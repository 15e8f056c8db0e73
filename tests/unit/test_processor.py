"""One message and everything that can be wrong with it, its handler, its ledger or the clock."""

from __future__ import annotations

import json

import pytest

from headgate import Ledger
from headgate._core import ManualClock
from headgate.consume import Consumer, DeadLetterCause, Delivery, Outcome, Processor
from headgate.errors import AccessError, Kind, TransientError
from headgate.ops import MemoryMetrics

NOW = 4_000_000_000_000_000


class World:
    def __init__(self, handler=lambda body: None, *, ledger=None, bury=None, **options):
        self.clock = ManualClock(NOW)
        self.ledger = ledger or Ledger.open("memory://", clock=self.clock)
        self.buried: list[tuple[Delivery, DeadLetterCause]] = []
        self.metrics = MemoryMetrics()
        self.calls = []
        self.handler = handler
        consumer = Consumer("c", "t", self.call, effects="plain", **options)
        self.processor = Processor(consumer, self.ledger, self.clock, bury or self.bury, self.metrics)

    def call(self, body):
        self.calls.append(body)
        return self.handler(body)

    def bury(self, delivery, cause, tx):
        self.buried.append((delivery, cause))

    def give(self, value, **more):
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self.processor.process(Delivery("t", data, **more))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b"", Kind.INVALID_JSON),
        (b"{broken", Kind.INVALID_JSON),
        (b"\xff\xfe\x00", Kind.INVALID_JSON),
        (b"[" * 100_000, Kind.NESTING_TOO_DEEP),
        (b"[1, 2]", Kind.INVALID_RECORD),
        (b"null", Kind.INVALID_RECORD),
        (b'"text"', Kind.INVALID_RECORD),
        (b'{"n": 1, "pad": "' + b"x" * 200 + b'"}', Kind.MESSAGE_TOO_LARGE),
        (b'{"n": "\\ud800"}', Kind.INVALID_UNICODE),
    ],
)
def test_poison_is_buried_with_its_bytes(value, kind):
    world = World(max_message_bytes=150 if b"pad" in value else 1 << 20)
    processed = world.give(value)
    assert processed.outcome is Outcome.DEAD
    ((delivery, cause),) = world.buried
    assert (delivery.value, cause.kind) == (value, kind)
    assert "\n" not in cause.reason
    assert world.calls == []
    assert world.metrics.value("dlq_messages_total", topic="t") == 1


@pytest.mark.parametrize(
    "key", [lambda body: "", lambda body: None, lambda body: 5, lambda body: body["nothing"], lambda body: 1 / 0]
)
def test_a_key_that_is_none_is_poison(key):
    world = World(key=key)
    assert world.give({"n": 1}).outcome is Outcome.DEAD
    assert world.buried[0][1].kind == Kind.INVALID_RECORD


def test_without_data_the_whole_event_is_the_identity():
    world = World()
    assert [world.give(e).outcome for e in ({"a": 1}, {"a": 2}, {"a": 1}, {"data": {"a": 3}}, {"id": 2, "data": {"a": 3}})] == [
        Outcome.HANDLED, Outcome.HANDLED, Outcome.DUPLICATE, Outcome.HANDLED, Outcome.DUPLICATE,
    ]  # fmt: skip


def test_a_failing_handler_runs_once_a_delivery_and_is_buried_in_the_end():
    def fails(body):
        raise ValueError("no")

    world = World(fails, max_attempts=3)
    outcomes = [world.give({"n": 1}) for _ in range(4)]
    assert [v.outcome for v in outcomes] == [Outcome.FAILED, Outcome.FAILED, Outcome.DEAD, Outcome.DUPLICATE]
    assert [v.retry_s for v in outcomes[:2]] == [0.2, 0.4]
    assert len(world.calls) == 3
    assert world.buried[0][1] == DeadLetterCause("attempts_exhausted", "ValueError: no", 3)


def test_dead_letters_that_cannot_be_buried_keep_the_message():
    def broken(delivery, cause, tx):
        raise TransientError("away")

    def fails(body):
        raise ValueError("no")

    world = World(fails, bury=broken, max_attempts=1)
    for value in (b"{broken", {"n": 1}):
        for _ in range(3):
            processed = world.give(value)
            assert not processed.outcome.settled
            assert processed.retry_s > 0


class Failing:
    """A ledger backend that answers every call with an error."""

    def __init__(self, error):
        self.error = error

    def __getattr__(self, name):
        def call(*_):
            raise self.error

        return call


@pytest.mark.parametrize(
    "error",
    [
        TransientError("full", Kind.BACKEND_FULL),
        TransientError("replica", Kind.READ_ONLY),
        TransientError("away", Kind.UNAVAILABLE),
        AccessError("no"),
    ],
)
def test_whatever_the_ledger_says_the_message_is_kept_and_waits(error):
    clock = ManualClock(NOW)
    world = World(ledger=Ledger(Failing(error), clock))
    processed = world.give({"n": 1})
    assert processed.outcome is Outcome.WAITING
    assert processed.error == error.kind.value
    assert processed.retry_s >= 1  # no busy loop
    assert world.calls == []


def test_fail_open_runs_it_unprotected():
    clock = ManualClock(NOW)
    ledger = Ledger(Failing(TransientError("away")), clock)
    world = World(ledger=ledger, on_unavailable="process")
    assert world.give({"n": 1}).outcome is Outcome.HANDLED
    assert len(world.calls) == 1


def test_fail_open_prepares_as_ever():
    """The unprotected path used to hand the bare body to a handler that expects what `prepare` returns."""
    ledger = Ledger(Failing(TransientError("away")), ManualClock(NOW))
    world = World(ledger=ledger, on_unavailable="process", prepare=lambda body: ("prepared", body))
    assert world.give({"n": 1}).outcome is Outcome.HANDLED
    assert world.calls == [("prepared", {"n": 1})]


def test_a_ledger_that_goes_away_after_the_effect_marks_nothing_and_runs_nothing_twice_at_once():
    world = World()
    real = world.ledger.native

    class Leaves:
        def __getattr__(self, name):
            if name == "complete":
                raise_away = Failing(TransientError("away"))
                return raise_away.complete
            return getattr(real, name)

    world.ledger.native = Leaves()
    first = world.give({"n": 1})
    assert (first.outcome, first.error) == (Outcome.WAITING, "unavailable")
    assert len(world.calls) == 1  # the handler is not called again for an error of the ledger
    world.ledger.native = real
    assert world.give({"n": 1}).outcome is Outcome.WAITING  # the lease stands


@pytest.mark.parametrize(("left_s", "looks_again_s"), [(300.0, 5.0), (5.0, 5.0), (0.5, 0.5)])
def test_a_message_that_somebody_handles_does_not_wait_for_the_end_of_his_lease(left_s, looks_again_s):
    """It held up its partition or group for the whole lease, although its owner was done in a moment."""
    world = World(lease_s=300)
    held = world.ledger.claim(world.processor.consumer.claim_key({"n": 1}), left_s)
    processed = world.give({"n": 1})
    assert (processed.outcome, processed.retry_s) == (Outcome.WAITING, pytest.approx(looks_again_s))
    world.ledger.complete(held)
    assert world.give({"n": 1}).outcome is Outcome.DUPLICATE


def test_a_clock_that_jumps_back_keeps_the_message_and_waits_no_longer_than_a_lease():
    world = World(lease_s=3)
    held = world.ledger.claim(world.processor.consumer.claim_key({"n": 1}), 3)
    earlier = ManualClock(NOW - 3600 * 1_000_000)
    world.processor.clock = earlier
    processed = world.give({"n": 1})
    assert processed.outcome is Outcome.WAITING
    assert processed.retry_s == 3  # not an hour
    world.ledger.complete(held)
    assert world.give({"n": 1}).outcome is Outcome.DUPLICATE


def test_a_redrive_is_a_message_of_its_own():
    world = World()
    assert world.give({"n": 1}).outcome is Outcome.HANDLED
    assert world.give({"n": 1}, redrive=1).outcome is Outcome.HANDLED
    assert world.give({"n": 1}, redrive=1).outcome is Outcome.DUPLICATE


def test_errors_quote_no_more_than_they_may(caplog):
    def fails(body):
        raise ValueError(f"customer {body['secret']} refused")

    world = World(fails, max_attempts=5)
    with caplog.at_level("DEBUG"):
        world.give({"secret": "ptid-4711"})
    assert "4711" not in caplog.text
