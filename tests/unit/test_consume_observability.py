"""What operators see of a consumer: each outcome's processed, metrics and log lines, word for word.

Dashboards, alerts and log queries are written against these names. A test here fails when one is missing, misnamed, or
says something else.
"""

from __future__ import annotations

import json
import logging

import pytest

from headgate import Ledger
from headgate._core import ManualClock
from headgate.consume import Consumer, ConsumeResult, DeadLetterCause, Delivery, DeliveryResult, Outcome, Processor
from headgate.errors import AccessError, HeadgateError, Kind, StaleLeaseError, TransientError
from headgate.ops import MemoryMetrics

NOW = 4_000_000_000_000_000
PLAIN = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}
ABOUT = {"consumer": "billing", "topic": "orders", "message_id": "orders-3-17"}


class World:
    """One consumer, one message of Kafka, one metrics registry, one captured log."""

    def __init__(self, caplog, handler=lambda body: None, *, bury="default", **options):
        self.caplog = caplog
        caplog.set_level(logging.DEBUG, "headgate.consume")
        self.clock = ManualClock(NOW)
        self.ledger = Ledger.open("memory://", clock=self.clock)
        self.metrics = MemoryMetrics()
        self.buried = []
        self.calls = 0
        self.handler = handler
        self.consumer = Consumer("billing", "orders", self.call, effects="plain", **options)
        sink = self.bury if bury == "default" else bury
        self.processor = Processor(self.consumer, self.ledger, self.clock, sink, self.metrics)

    def call(self, body):
        self.calls += 1
        self.clock.advance_us(250_000)
        return self.handler(body)

    def bury(self, delivery, cause, tx):
        self.buried.append(cause)

    def give(self, value=b'{"n": 1}', offset=17, **more):
        return self.processor.process(
            Delivery("orders", value, b"secret-key", (), {"partition": "3", "offset": str(offset)}, **more)
        )

    def logged(self):
        """(level, text, what comes with it); tracebacks are checked and replaced by their last function."""
        found = []
        for record in self.caplog.records:
            extra = {name: value for name, value in record.__dict__.items() if name not in PLAIN}
            if "traceback" in extra:
                assert extra["traceback"].startswith(extra["error"])
                extra["traceback"] = extra["traceback"].partition(" | ")[0].rpartition(" in ")[2]
            found.append((record.levelname, record.getMessage(), extra))
        self.caplog.clear()
        return found

    def counted(self):
        """The metrics' lines but for the histogram's buckets."""
        return [x for x in self.metrics.render().splitlines() if not x.startswith("#") and "_bucket" not in x]


def counters(outcome, seconds="0.25", dead=0):
    about = 'consumer="billing"'
    return [
        *([f'dlq_messages_total{{{about},topic="orders"}} {dead}'] if dead else []),
        f'headgate_consumer_messages_total{{{about},outcome="{outcome}",topic="orders"}} 1',
        f'headgate_consumer_duration_seconds_sum{{{about},topic="orders"}} {seconds}',
        f'headgate_consumer_duration_seconds_count{{{about},topic="orders"}} 1',
    ]


def fails(body):
    raise ValueError("customer ptid-4711")


def is_away(body):
    raise ConnectionError("mail.internal:25")


class Without:
    """A ledger backend of which some calls fail."""

    def __init__(self, native, **errors):
        self._native, self._errors = native, errors

    def __getattr__(self, name):
        if name in self._errors:

            def call(*_):
                raise self._errors[name]

            return call
        return getattr(self._native, name)


def test_the_words_of_outcomes_are_fixed():
    """They are label values, and fields of `ConsumeResult`, which the command line prints."""
    assert {o.name: (o.value, o.settled) for o in Outcome} == {
        "HANDLED": ("handled", True), "DUPLICATE": ("duplicates", True), "WAITING": ("waiting", False),
        "FAILED": ("failed", False), "DEAD": ("dead_lettered", True),
    }  # fmt: skip
    result = ConsumeResult()
    for outcome in Outcome:
        result.add(DeliveryResult(outcome, error="word" if outcome is Outcome.FAILED else ""))
    assert result == ConsumeResult(5, 1, 1, 1, 1, 1, ["word"])
    for n in range(150):
        result.add(DeliveryResult(Outcome.FAILED, error=str(n)))
    assert (result.received, len(result.errors), result.errors[0], result.errors[-1]) == (155, 100, "50", "149")


def test_handled(caplog):
    world = World(caplog)
    assert world.give() == DeliveryResult(Outcome.HANDLED, 0.0, "", unavailable=False)
    assert (world.logged(), world.counted()) == ([], counters("handled"))


def test_duplicate(caplog):
    world = World(caplog)
    world.ledger.complete(world.ledger.claim(world.consumer.claim_key({"n": 1}), 30))
    assert world.give() == DeliveryResult(Outcome.DUPLICATE, 0.0, "", unavailable=False)
    assert (world.logged(), world.counted(), world.calls) == ([], counters("duplicates", "0"), 0)


def test_waiting_for_another_worker(caplog):
    world = World(caplog, lease_s=60)
    world.ledger.claim(world.consumer.claim_key({"n": 1}), 30)
    # The lease has 30 seconds left, but its worker may end sooner: the message is looked at again every five.
    assert world.give() == DeliveryResult(Outcome.WAITING, 5.0, "", unavailable=False)
    assert (world.logged(), world.counted(), world.calls) == ([], counters("waiting", "0"), 0)


def test_failed(caplog):
    world = World(caplog, fails)
    assert world.give() == DeliveryResult(Outcome.FAILED, 0.2, "ValueError", unavailable=False)
    assert world.counted() == counters("failed")
    assert world.logged() == [
        ("WARNING", "handler failed", {**ABOUT, "attempt": 1, "error": "ValueError", "traceback": "fails"})
    ]
    world.give()
    assert world.logged()[0][2]["attempt"] == 2
    assert world.give().retry_s == 0.8


def test_dead_after_its_attempts(caplog):
    world = World(caplog, fails, max_attempts=1)
    assert world.give() == DeliveryResult(Outcome.DEAD, 0.0, "attempts_exhausted", unavailable=False)
    assert world.counted() == counters("dead_lettered", dead=1)
    assert world.logged() == [
        ("WARNING", "handler failed", {**ABOUT, "attempt": 1, "error": "ValueError", "traceback": "fails"}),
        ("WARNING", "dead letter", {**ABOUT, "kind": "attempts_exhausted", "attempts": 1}),
    ]
    assert world.buried == [DeadLetterCause("attempts_exhausted", "ValueError: customer ptid-4711", 1)]


def test_dead_because_its_workers_died(caplog):
    world = World(caplog, max_attempts=2)
    for _ in range(2):
        world.ledger.claim(world.consumer.claim_key({"n": 1}), 1)
        world.clock.advance_us(2_000_000)
    assert world.give() == DeliveryResult(Outcome.DEAD, 0.0, "attempts_exhausted", unavailable=False)
    assert world.logged() == [("WARNING", "dead letter", {**ABOUT, "kind": "attempts_exhausted", "attempts": 2})]
    assert world.buried == [DeadLetterCause("attempts_exhausted", "the worker died each time", 2)]
    assert world.calls == 0


@pytest.mark.parametrize(
    ("value", "kind", "reason"),
    [
        (b"{broken", "invalid_json", "InvalidInputError: the message is not JSON"),
        (b"[1]", "invalid_record", "InvalidInputError: expected a JSON object, got list"),
        (b'{"n": "xxxxxxxxxxxx"}', "message_too_large", "InvalidInputError: 21 bytes, more than the limit of 20"),
        (None, "invalid_record", "InvalidInputError: a record without a value; expected a JSON object, or tombstones='skip' or 'handle'"),
    ],
)  # fmt: skip
def test_dead_because_it_cannot_be_read(caplog, value, kind, reason):
    world = World(caplog, max_message_bytes=20)
    assert world.give(value) == DeliveryResult(Outcome.DEAD, 0.0, kind, unavailable=False)
    assert world.counted() == counters("dead_lettered", "0", dead=1)
    assert world.logged() == [("WARNING", "dead letter", {**ABOUT, "kind": kind, "attempts": 0})]
    assert world.buried == [DeadLetterCause(Kind(kind), reason, 0)]


def test_dead_because_its_key_cannot_be_made(caplog):
    def key(body):
        return body["nothing"]

    world = World(caplog, key=key)
    assert world.give() == DeliveryResult(Outcome.DEAD, 0.0, "invalid_record", unavailable=False)
    assert world.logged() == [
        ("WARNING", "no key", {**ABOUT, "error": "KeyError", "traceback": "key"}),
        ("WARNING", "dead letter", {**ABOUT, "kind": "invalid_record", "attempts": 0}),
    ]
    assert world.buried == [DeadLetterCause(Kind.INVALID_RECORD, "KeyError: 'nothing'", 0)]


def test_dead_because_its_payload_is_another_one(caplog):
    world = World(caplog, key=lambda body: "order-1", payload=lambda body: body["n"])
    assert world.give().outcome is Outcome.HANDLED
    assert world.give(b'{"n": 2}', 18) == DeliveryResult(Outcome.DEAD, 0.0, "payload_mismatch", unavailable=False)
    ((_, text, extra),) = world.logged()
    assert (text, extra) == (
        "dead letter", {**ABOUT, "message_id": "orders-3-18", "kind": "payload_mismatch", "attempts": 0},
    )  # fmt: skip
    assert world.buried[0].kind == Kind.PAYLOAD_MISMATCH
    assert world.buried[0].reason.startswith("ConflictError: ")
    assert world.give().outcome is Outcome.DUPLICATE


def test_left_to_the_queue(caplog):
    world = World(caplog, fails, bury=None, max_attempts=1)
    for attempt in (1, 2, 3):
        processed = world.give()
        assert (processed.outcome, processed.retry_s, processed.error) == (
            Outcome.FAILED,
            0.1 * 2**attempt,
            "ValueError",
        )
        assert [text for _, text, _ in world.logged()] == ["handler failed"]
    assert world.give(b"[1]") == DeliveryResult(Outcome.FAILED, 0.1, "invalid_record", unavailable=False)
    assert world.logged() == [("WARNING", "left to the queue's redrive policy", {**ABOUT, "kind": "invalid_record"})]
    assert world.metrics.value("dlq_messages_total") == 0


def test_kept_while_what_its_handler_needs_is_away(caplog):
    world = World(caplog, is_away, max_attempts=1)
    for retry_s in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0):
        assert world.give() == DeliveryResult(Outcome.WAITING, retry_s, "ConnectionError", unavailable=True)
        ((level, text, extra),) = world.logged()
        assert (level, text) == ("WARNING", "handler failed")
        assert extra == {
            **ABOUT, "attempt": extra["attempt"], "error": "ConnectionError", "traceback": "is_away", "unavailable": True,
        }  # fmt: skip
    assert world.buried == []
    world.handler = lambda body: None
    assert world.give().outcome is Outcome.HANDLED
    world.handler = is_away
    assert world.give(b'{"n": 2}', 18).retry_s == 1.0  # the back-off begins anew


def test_no_longer_away_but_failing_after_the_limit(caplog):
    world = World(caplog, is_away, max_attempts=1, unavailable_limit_s=10.0)
    assert world.give().unavailable
    world.clock.advance_us(9_000_000)
    assert world.give().unavailable
    world.clock.advance_us(1_000_000)
    assert world.give() == DeliveryResult(Outcome.DEAD, 0.0, "attempts_exhausted", unavailable=False)
    assert [text for _, text, _ in world.logged()] == ["handler failed"] * 3 + ["dead letter"]


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (TransientError("no answer from 10.0.0.7"), "unavailable"),
        (TransientError("full", Kind.BACKEND_FULL), "backend_full"),
        (AccessError("no"), "permission_denied"),
    ],
)
def test_kept_while_the_ledger_is_away(caplog, error, word):
    """Sixty seconds of it: nothing is buried, nothing is lost, no attempt is used up."""
    world = World(caplog, max_attempts=1, backoff_cap_s=15.0)
    native = world.ledger.native
    world.ledger.native = Without(native, claim=error)
    waits = []
    while sum(waits) < 60:
        processed = world.give()
        assert processed == DeliveryResult(Outcome.WAITING, processed.retry_s, word, unavailable=True)
        waits.append(processed.retry_s)
        world.clock.advance_us(int(processed.retry_s * 1e6))
        assert world.logged() == [("WARNING", "message kept", {**ABOUT, "error": word})]
    assert waits == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0]
    assert world.metrics.value("headgate_consumer_messages_total", outcome="waiting") == 7
    world.ledger.native = native
    assert world.give().outcome is Outcome.HANDLED
    assert (world.calls, world.buried) == (1, [])


def test_unprotected(caplog):
    world = World(caplog, on_unavailable="process")
    world.ledger.native = Without(world.ledger.native, claim=TransientError("away"))
    assert world.give() == DeliveryResult(Outcome.HANDLED, 0.0, "", unavailable=False)
    assert world.logged() == [("WARNING", "no protection", {**ABOUT, "error": "unavailable"})]
    world.handler = fails
    assert world.give() == DeliveryResult(Outcome.FAILED, 0.1, "ValueError", unavailable=False)
    assert world.logged()[1:] == [("WARNING", "handler failed", {**ABOUT, "error": "ValueError", "traceback": "fails"})]


def test_done_without_its_mark(caplog):
    world = World(caplog)
    world.ledger.native = Without(world.ledger.native, complete=TransientError("away"))
    assert world.give() == DeliveryResult(Outcome.WAITING, 1.0, "unavailable", unavailable=True)
    assert world.logged() == [("WARNING", "effect without its mark", {**ABOUT, "error": "unavailable"})]
    world = World(caplog, on_unavailable="process")
    world.ledger.native = Without(world.ledger.native, complete=TransientError("away"))
    assert world.give() == DeliveryResult(Outcome.HANDLED, 0.0, "", unavailable=False)
    ((level, text, extra),) = world.logged()
    assert (level, text) == ("WARNING", "effect without its mark")
    assert (extra["consumer"], extra["error"]) == ("billing", "unavailable")


def test_overtaken(caplog):
    world = World(caplog)
    world.ledger.native = Without(world.ledger.native, complete=StaleLeaseError("overtaken"))
    assert world.give() == DeliveryResult(Outcome.FAILED, 0.0, "stale_lease", unavailable=False)
    assert (world.logged(), world.counted()) == ([], counters("failed"))
    world = World(caplog, fails)
    world.ledger.native = Without(world.ledger.native, release=StaleLeaseError("overtaken"))
    assert world.give() == DeliveryResult(Outcome.FAILED, 0.0, "stale_lease", unavailable=False)
    assert [text for _, text, _ in world.logged()] == ["handler failed"]


def test_a_failure_that_cannot_be_recorded(caplog):
    world = World(caplog, fails)
    world.ledger.native = Without(world.ledger.native, release=TransientError("full", Kind.BACKEND_FULL))
    assert world.give() == DeliveryResult(Outcome.FAILED, 1.0, "backend_full", unavailable=True)
    assert [text for _, text, _ in world.logged()] == ["handler failed"]


def test_dead_letters_that_cannot_be_kept(caplog):
    def refuses(delivery, cause, tx):
        raise TransientError("away", Kind.CONNECTION_FAILED)

    def breaks(delivery, cause, tx):
        raise RuntimeError("a bug")

    world = World(caplog, bury=refuses)
    assert world.give(b"[1]") == DeliveryResult(Outcome.WAITING, 1.0, "connection_failed", unavailable=True)
    assert world.logged() == [("WARNING", "message kept", {**ABOUT, "error": "connection_failed"})]
    world = World(caplog, bury=breaks)
    assert world.give(b"[1]") == DeliveryResult(Outcome.WAITING, 1.0, "RuntimeError", unavailable=False)
    assert world.logged() == [("WARNING", "message kept", {**ABOUT, "error": "RuntimeError", "traceback": "breaks"})]
    assert world.counted()[:1] == [
        'headgate_consumer_messages_total{consumer="billing",outcome="waiting",topic="orders"} 1'
    ]


def test_a_key_function_that_needs_what_is_away(caplog):
    def key(body):
        raise TimeoutError("ldap")

    world = World(caplog, key=key)
    assert world.give() == DeliveryResult(Outcome.WAITING, 1.0, "TimeoutError", unavailable=True)
    assert world.logged() == [("WARNING", "message kept", {**ABOUT, "error": "TimeoutError", "traceback": "key"})]


def test_tombstones(caplog):
    world = World(caplog, tombstones="skip")
    assert world.give(None) == DeliveryResult(Outcome.HANDLED, 0.0, "", unavailable=False)
    assert (world.logged(), world.counted(), world.calls) == ([], counters("handled", "0"), 0)
    seen = []
    world = World(caplog, seen.append, tombstones="handle")
    assert world.give(None).outcome is Outcome.HANDLED
    assert world.give(None).outcome is Outcome.DUPLICATE
    assert world.give(None, 18).outcome is Outcome.HANDLED
    assert world.give(None, 40, redrive=1, redriven_for="billing", origin="orders-3-17").outcome is Outcome.HANDLED
    assert world.give(None, 41, redrive=1, redriven_for="billing", origin="orders-3-17").outcome is Outcome.DUPLICATE
    assert seen == [None] * 3


def test_nothing_that_a_message_holds_is_logged(caplog):
    world = World(caplog, fails, max_attempts=2, key=lambda body: body["id"])
    body = json.dumps({"id": "secret-id", "n": "secret-body"}).encode()
    for value in (body, body, b'{"secret-broken": '):
        world.give(value)
    text = " ".join(str(record.__dict__) for record in caplog.records)
    assert len(caplog.records) == 4
    for secret in ("secret", "4711"):
        assert secret not in text


def test_a_message_id_for_every_transport():
    assert Delivery("t", b"", source={"message_id": "m-1", "queue": "q"}).message_id == "m-1"
    assert Delivery("t", b"", source={"queue_id": "7"}).message_id == "7"
    assert Delivery("t", b"", source={"partition": "0", "offset": "9", "timestamp": "5"}).message_id == "t-0-9"
    assert Delivery("t", b"").message_id == ""


def test_letter_headers_have_their_names(monkeypatch):
    pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    from headgate.consume import _dead_letters

    sent = []

    class Sender:
        def __init__(self, config, timeout_s):
            pass

        def send(self, topic, key, value, headers, **more):
            sent.append((topic, key, value, headers[0], more))
            return 0

    monkeypatch.setattr(_dead_letters, "KafkaSender", Sender)
    bury = _dead_letters.KafkaDeadLetterQueue({}, "orders.DLQ", "billing", 5.0)
    source = {"partition": "3", "offset": "17", "timestamp": "1780000000000"}
    headers = (("trace", b"t"), ("headgate-error", b"of an earlier life"), ("headgate-mine", b"x"), ("null", None))
    bury(Delivery("orders", b"v", b"k", headers, source, 2), DeadLetterCause(Kind.INVALID_JSON, "why\udce9", 4), None)
    assert sent == [
        (
            "orders.DLQ", b"k", b"v",
            (
                ("trace", b"t"), ("headgate-mine", b"x"), ("null", None), ("headgate-topic", b"orders"),
                ("headgate-consumer", b"billing"), ("headgate-error-kind", b"invalid_json"),
                ("headgate-letter-format", b"2"), ("headgate-redrive", b"3"), ("headgate-error", b"why\\udce9"),
                ("headgate-attempts", b"4"), ("headgate-partition", b"3"), ("headgate-offset", b"17"),
                ("headgate-timestamp", b"1780000000000"),
            ),
            {},
        )
    ]  # fmt: skip


def test_an_undertaker_that_is_denied_is_kept_waiting_too(caplog):
    def denied(delivery, cause, tx):
        raise HeadgateError("no", Kind.PERMISSION_DENIED)

    world = World(caplog, fails, bury=denied, max_attempts=1)
    assert world.give() == DeliveryResult(Outcome.WAITING, 1.0, "permission_denied", unavailable=True)
    assert [text for _, text, _ in world.logged()] == ["handler failed", "message kept"]
    assert world.metrics.value("dlq_messages_total") == 0
