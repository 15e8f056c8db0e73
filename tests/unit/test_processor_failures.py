"""Whatever a handler, a key function or a backend does, a message has one outcome and its worker goes on."""

from __future__ import annotations

import asyncio
import json

import pytest

from headgate import Ledger
from headgate._core import ManualClock
from headgate.backends.local import LocalDatabase
from headgate.consume import Consumer, Delivery, Outcome, Processor
from headgate.errors import ConfigError, ConflictError, Kind, TransientError
from headgate.idempotency._failures import code_path, describe_error, printable
from headgate.idempotency._lease import lambda_invocation

NOW = 4_000_000_000_000_000


class Unreadable(Exception):  # noqa: N818
    def __str__(self):
        raise RuntimeError("no text")


class Odd(BaseException):
    pass


def group():
    return ExceptionGroup("several", [ValueError("one"), ExceptionGroup("inner", [KeyError("two")])])


class World:
    def __init__(self, handler, *, bury=True, ledger=None, **options):
        self.clock = ManualClock(NOW)
        self.ledger = ledger or Ledger.open("memory://", clock=self.clock)
        self.buried = []
        consumer = Consumer("c", "t", handler, effects="plain", **options)
        sink = (lambda delivery, cause, tx: self.buried.append((delivery, cause))) if bury else None
        self.processor = Processor(consumer, self.ledger, self.clock, sink)

    def give(self, body=None, *, wait=True, **delivery):
        value = json.dumps({"n": 1} if body is None else body).encode()
        processed = self.processor.process(Delivery("t", value, **delivery))
        if wait:
            self.clock.advance_us(int(processed.retry_s * 1e6) + 1)
        return processed


def raising(error):
    def handle(body):
        raise error() if isinstance(error, type) or callable(error) else error

    return handle


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("caf\udce9.txt"), "ValueError: caf\\udce9.txt"),
        (ValueError("a\x00b\x1b[31m\nc"), "ValueError: a\\x00b\\x1b[31m\\nc"),
        (ValueError("x" * 5000), f"ValueError: {'x' * 488}"),
        (Unreadable(), "Unreadable: (its text cannot be read)"),
        (group(), "ExceptionGroup: several (2 sub-exceptions): ValueError: one; KeyError: 'two'"),
        (SystemExit("no settings file"), "SystemExit: no settings file"),
        (SystemExit(0), "SystemExit: 0"),
        (asyncio.CancelledError(), "CancelledError: "),
        (GeneratorExit(), "GeneratorExit: "),
        (BaseExceptionGroup("odd", [SystemExit(3)]), "BaseExceptionGroup: odd (1 sub-exception): SystemExit: 3"),
        (Odd("base"), "Odd: base"),
        (RecursionError("deep"), "RecursionError: deep"),
        (StopIteration(5), "StopIteration: 5"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_any_exception_is_a_failed_attempt_and_then_a_dead_letter(error, reason):
    world = World(raising(error), max_attempts=2)
    assert [world.give().outcome for _ in range(3)] == [Outcome.FAILED, Outcome.DEAD, Outcome.DUPLICATE]
    ((_, cause),) = world.buried
    assert (cause.reason, cause.attempts, cause.kind) == (reason, 2, "attempts_exhausted")
    cause.reason.encode()


def test_a_keyboard_interrupt_ends_the_worker_and_costs_no_attempt():
    world = World(raising(KeyboardInterrupt))
    for _ in range(7):
        with pytest.raises(KeyboardInterrupt):
            world.give()
    assert world.ledger.claim(world.processor.consumer.claim_key({"n": 1})).attempts == 1


@pytest.mark.parametrize("made", ["coroutine", "generator", "async generator"])
def test_a_handler_that_returns_before_it_ran_has_failed(made):
    ran = []

    async def coroutine():
        ran.append(1)

    def generator():
        ran.append(1)
        yield

    async def async_generator():
        ran.append(1)
        yield

    call = {"coroutine": coroutine, "generator": generator, "async generator": async_generator}[made]
    world = World(lambda body: call(), max_attempts=1)
    assert world.give().outcome is Outcome.DEAD
    assert ran == []
    assert "nothing has run" in world.buried[0][1].reason


# --- unavailability


@pytest.mark.parametrize("error", [ConnectionError, TimeoutError, ConnectionResetError, lambda: TransientError("away")])
def test_a_backend_that_is_away_for_a_while_costs_no_attempt(error):
    """It used to take five attempts in three seconds."""
    until = NOW + 20_000_000
    handled = []

    def handle(body):
        if world.clock.now_us() < until:
            raise error()
        handled.append(body["n"])

    world = World(handle)
    verdicts = []
    for _ in range(6):
        verdicts.append(world.give())
    waiting = verdicts[:-1]
    assert {v.outcome for v in waiting} == {Outcome.WAITING}
    assert all(v.unavailable for v in waiting)
    assert [v.retry_s for v in waiting] == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert verdicts[-1].outcome is Outcome.HANDLED
    assert (handled, world.buried) == ([1], [])


def test_unavailability_without_end_is_counted_in_the_end():
    world = World(raising(ConnectionError), max_attempts=3, unavailable_limit_s=600)
    outcomes = [world.give().outcome for _ in range(18)]
    assert outcomes[-3:] == [Outcome.FAILED, Outcome.FAILED, Outcome.DEAD]
    assert set(outcomes[:-3]) == {Outcome.WAITING}
    assert world.clock.now_us() - NOW > 600_000_000


def test_what_counts_as_unavailable_can_be_chosen():
    class Away(Exception):  # noqa: N818
        pass

    assert World(raising(Away), unavailable=(Away,)).give().outcome is Outcome.WAITING
    assert World(raising(ConnectionError), unavailable=()).give().outcome is Outcome.FAILED


def test_back_off_can_be_chosen():
    world = World(raising(ValueError), backoff_base_s=1.5, backoff_cap_s=7)
    assert [world.give().retry_s for _ in range(4)] == [3.0, 6.0, 7.0, 7.0]


def test_a_success_ends_the_back_off_of_unavailability():
    def handle(body):
        if body["n"] == 1:
            raise ConnectionError

    world = World(handle)
    waits = [world.give({"n": n}).retry_s for n in (1, 1, 1, 2, 1)]
    assert waits == [1.0, 2.0, 4.0, 0.0, 1.0]


def test_a_key_function_that_cannot_reach_its_backend_buries_nothing():
    answers = [ConnectionError(), None]

    def key(body):
        error = answers.pop(0) if answers else None
        if error is not None:
            raise error
        return "k"

    world = World(lambda body: None, key=key)
    assert [world.give().outcome for _ in range(2)] == [Outcome.WAITING, Outcome.HANDLED]
    assert world.buried == []


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyError("x")])
def test_dead_letters_that_cannot_be_written_for_any_reason_keep_the_message(error):
    world = World(raising(ValueError), max_attempts=1)
    world.processor._dead_letter_sink = raising_bury = raising(error)

    def bury(delivery, cause, tx):
        raising_bury(None)

    world.processor._dead_letter_sink = bury
    for _ in range(3):
        processed = world.give()
        assert (processed.outcome, processed.retry_s >= 1.0) == (Outcome.WAITING, True)
    assert world.give(b"".decode() or [1]).outcome is Outcome.WAITING


# --- the queue's own policy decides


def test_without_dead_letters_of_ours_attempts_are_not_capped():
    broken = [True]

    def handle(body):
        if broken:
            raise ValueError

    world = World(handle, bury=False, max_attempts=2)
    assert [world.give().outcome for _ in range(5)] == [Outcome.FAILED] * 5
    broken.clear()
    assert world.give().outcome is Outcome.HANDLED
    assert world.give([1]).outcome is Outcome.FAILED  # poison: the queue's policy takes it


# --- tombstones


def test_tombstones_are_dead_letters_skipped_or_handled():
    seen = []

    def give(world, offset):
        source = {"partition": "0", "offset": str(offset)}
        return world.processor.process(Delivery("t", None, b"row-7", source=source)).outcome

    world = World(seen.append)
    assert give(world, 1) is Outcome.DEAD
    assert world.buried[0][0].value is None
    assert "without a value" in world.buried[0][1].reason
    assert give(World(seen.append, tombstones="skip"), 1) is Outcome.HANDLED
    assert seen == []
    world = World(seen.append, tombstones="handle")
    assert [give(world, n) for n in (1, 1, 2)] == [Outcome.HANDLED, Outcome.DUPLICATE, Outcome.HANDLED]
    assert seen == [None, None]


# --- options and ledgers


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lease_s": 0}, "lease_s"),
        ({"lease_s": -1}, "lease_s"),
        ({"lease_s": float("inf")}, "lease_s"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": 2.5}, "max_attempts"),
        ({"max_attempts": True}, "max_attempts"),
        ({"effects": "plian"}, "effects"),
        ({"on_unavailable": "x"}, "on_unavailable"),
        ({"tombstones": "keep"}, "tombstones"),
        ({"max_message_bytes": 0}, "max_message_bytes"),
        ({"namespace": ""}, "namespace"),
        ({"key": "id"}, "key"),
        ({"event_type": 5}, "event_type"),
        ({"payload": 5}, "payload"),
        ({"serializer": 5}, "serializer"),
        ({"prepare": 5}, "prepare"),
        ({"on_dead_letter": 5}, "on_dead_letter"),
        ({"unavailable": ("ConnectionError",)}, "unavailable"),
        ({"backoff_base_s": -1}, "backoff_base_s"),
        ({"backoff_cap_s": float("nan")}, "backoff_cap_s"),
        ({"unavailable_limit_s": -1}, "unavailable_limit_s"),
    ],
)
def test_options_are_checked_where_they_enter(options, said):
    with pytest.raises(ConfigError, match=f"consumer c: {said}"):
        Consumer("c", "t", lambda body: None, **options)


async def coroutine(body):
    pass


def generator(body):
    yield


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("", "t", print), "name"),
        (("c", "", print), "topic"),
        (("c\ud800", "t", print), "name"),
        (("c", "t", coroutine), "never await"),
        (("c", "t", generator), "generator"),
        (("c", "t", "module:handle"), "expected a function"),
    ],
)
def test_what_cannot_work_is_refused_when_the_consumer_is_made(arguments, said):
    with pytest.raises(ConfigError, match=said):
        Consumer(*arguments)


def test_ledgers_that_cannot_serve_a_consumer_are_refused():
    from headgate import AsyncLedger

    clock = ManualClock(NOW)
    consumer = Consumer("c", "t", print, effects="plain")
    with pytest.raises(ConfigError, match="AsyncLedger"):
        Processor(consumer, AsyncLedger.open("memory://"), clock, None)
    with pytest.raises(ConfigError, match="effects='writes' needs a dynamodb"):
        Processor(Consumer("c", "t", print, effects="writes"), Ledger.open("memory://"), clock, None)


def test_the_invocations_remaining_time_is_the_default_lease():
    class Context:
        def get_remaining_time_in_millis(self):
            return 42_000

    consumer = Consumer("c", "t", print)
    with lambda_invocation(Context()):
        assert 41.0 < consumer.current_lease_s() <= 42.0
        assert Consumer("c", "t", print, lease_s=5).current_lease_s() == 5
        with lambda_invocation(object()):
            assert consumer.current_lease_s() == 300
    assert consumer.current_lease_s() == 300


def test_a_plain_effect_is_acknowledged_in_the_commit_of_its_completion(tmp_path):
    database = LocalDatabase(str(tmp_path / "s.db"), durability="normal")
    clock = ManualClock(NOW)
    consumer = Consumer("c", "t", lambda body: None, effects="plain")
    processor = Processor(consumer, Ledger.on_database(database, clock=clock), clock, None)
    inside = []
    processed = processor.process(Delivery("t", b"{}"), lambda tx: inside.append((tx, database.native.in_transaction)))
    assert (processed.outcome, inside) == (Outcome.HANDLED, [(database, True)])
    processor = Processor(consumer, Ledger.open("memory://", clock=clock), clock, None)
    processor.process(Delivery("t", b"{}"), inside.append)
    assert inside[1:] == [None]


def test_a_conflict_that_is_no_payload_keeps_the_message():
    class Refusing:
        database = None
        legacy_until = None

        def claim(self, *_, **__):
            raise ConflictError("somebody else", Kind.VERSION_CONFLICT)

    processor = Processor(Consumer("c", "t", print, effects="plain"), Refusing(), ManualClock(NOW), None)
    assert processor.process(Delivery("t", b"{}")).outcome is Outcome.WAITING


# --- what is said of an exception


def test_a_log_has_the_code_path_and_no_text_of_the_exception(caplog):
    def inner(body):
        raise KeyError(f"customer {body['secret']}")

    def handle(body):
        try:
            inner(body)
        except KeyError as error:
            raise ValueError(f"no {body['secret']}") from error

    with caplog.at_level("DEBUG"):
        World(handle).give({"secret": "ptid-4711"}, source={"message_id": "m-1"})
    (record,) = [r for r in caplog.records if r.getMessage() == "handler failed"]
    assert (record.consumer, record.topic, record.message_id, record.attempt, record.error) == (
        "c", "t", "m-1", 1, "ValueError",
    )  # fmt: skip
    assert "in handle" in record.traceback
    assert "KeyError at" in record.traceback
    assert "in inner" in record.traceback
    assert "4711" not in caplog.text + str(record.__dict__)


def test_an_exception_that_causes_itself_is_described():
    error = ValueError("loop")
    error.__cause__ = error
    assert code_path(error) == "ValueError"
    assert describe_error(error) == "ValueError: loop"


@pytest.mark.parametrize("text", ["plain", "é", "a\tb", "\ud800", "\x7f", "\u2028", "\x85", ""])
def test_printable_text_can_be_kept_anywhere(text):
    shown = printable(text)
    assert shown.isprintable()
    shown.encode()
    assert (shown == text) == text.isprintable()
