"""Log lines by their whole content: operators search for the words, and dashboards read the keys."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from headgate import Ledger, idempotent_consumer
from headgate._core import ManualClock
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.consume import Consumer, DeadLetterCause, KafkaWorker, Worker, sqs_handler
from headgate.consume._effect import Effect
from headgate.consume._kafka import _Partition
from headgate.consume._sqs_dead_letters import SqsDeadLetterQueue, _delete, _make_visible
from headgate.consume._sqs_messages import read_message
from headgate.consume._worker import _Visibility
from headgate.errors import ConflictError, TransientError
from headgate.idempotency import AsyncLedger
from headgate.idempotency._async import _give_back
from headgate.idempotency._ledger import takes_counted
from headgate.intake import AlertRules, Collector, Intake, RawInfo
from headgate.intake._fetch import Fetcher, Round
from headgate.ops import MemoryMetrics
from headgate.pipelines.market import PIPELINE
from headgate.resilience import make_tracker

NOW = 4_000_000_000_000_000
USUAL = set(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}


@pytest.fixture
def lines(caplog):
    """Every line so far: (logger, level, text, its own attributes)."""
    caplog.set_level(logging.INFO)

    def read():
        found = [
            (r.name, r.levelname, r.getMessage(), {k: v for k, v in vars(r).items() if k not in USUAL})
            for r in caplog.records
        ]
        caplog.clear()
        return found

    return read


def raising(error):
    def call(*arguments, **options):
        raise error

    return call


AWAY = raising(TransientError("x"))
BROKEN = raising(RuntimeError("secret"))


def consumer(**options):
    return Consumer("billing", "orders", lambda body: 1, effects="plain", **options)


# --- the ledger and the decorator


def test_a_result_that_is_not_kept(lines):
    metrics = MemoryMetrics()
    ledger = Ledger.open("memory://", metrics=metrics)
    ledger.complete(ledger.claim("secret"), object())
    about = {"reason": "unknown_type", "type": "object"}
    assert lines() == [("headgate.idempotency", "WARNING", "result not kept; the effect is done", about)]
    assert metrics.value("headgate_results_not_kept_total", reason="unknown_type") == 1


def test_a_backend_that_counts_every_attempt(lines):
    assert not takes_counted(lambda key, token, error: None)
    text = "this ledger's backend counts the attempt: its release() has no parameter `counted`"
    assert lines() == [("headgate.idempotency", "WARNING", text, {})]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_effect_without_protection(lines, monkeypatch, asynchronous):
    ledger = Ledger.open("memory://")
    decorate = idempotent_consumer(ledger, consumer="billing", on_unavailable="process")

    async def handle_later(event):
        return event

    handle = decorate(handle_later if asynchronous else lambda event: event)

    def call():
        return asyncio.run(handle({"n": 1})) if asynchronous else handle({"n": 1})

    monkeypatch.setattr(ledger, "complete", AWAY)
    assert call() == {"n": 1}
    monkeypatch.setattr(ledger, "claim", AWAY)
    assert call() == {"n": 1}
    about = {"consumer": "billing", "error": "unavailable"}
    assert [line for line in lines() if line[0] != "asyncio"] == [
        ("headgate.idempotency", "WARNING", "the ledger went away before the mark", about),
        ("headgate.idempotency", "WARNING", "processing without protection", about),
    ]


def test_a_cancelled_claim_that_cannot_be_given_back(lines):
    done: Future = Future()
    claim = SimpleNamespace(status="acquired", ledger=SimpleNamespace(release=AWAY))
    done.set_result(claim)
    _give_back(done)
    text = "a cancelled claim is held until its lease ends"
    expected = [("headgate.idempotency", "WARNING", text, {"error": "unavailable"})]
    assert lines() == expected

    class Client:
        """As redis.asyncio; no command is sent."""

        async def set_if_not_exists(self, *arguments):
            """Never called."""

        delete_key = get = setex = run_script = set_if_not_exists

    async def away(*arguments, **options):
        raise TransientError("x")

    ledger = AsyncLedger.on_redis(Client())
    ledger.release = away
    asyncio.run(ledger._undo([Ledger.open("memory://").claim("k")]))
    assert [line for line in lines() if line[0] != "asyncio"] == expected


# --- consumers


def test_an_item_that_is_not_finished(lines):
    effect = Effect(consumer(), Ledger.open("memory://"), SimpleNamespace(settle=AWAY), joint=False)
    effect._settle_unmarked(object())
    about = {"consumer": "billing", "error": "unavailable"}
    assert lines() == [("headgate.consume", "WARNING", "item not finished", about)]


def test_messages_that_are_not_renewed(lines):
    _Visibility(SimpleNamespace(extend=BROKEN)).renew(None, 1.0)
    assert lines() == [("headgate.consume", "WARNING", "messages not renewed", {"error": "RuntimeError"})]
    with pytest.raises(ConflictError):
        _Visibility(SimpleNamespace(extend=raising(ConflictError("x")))).renew(None, 1.0)


@pytest.mark.parametrize("warnings", [["short"], AWAY])
def test_what_a_worker_says_of_its_ledger(lines, warnings):
    clock = ManualClock(NOW)
    store = LocalStore(LocalDatabase(":memory:"), clock)
    ledger = Ledger.on_database(store.db, clock=clock)
    ledger.warnings = warnings if callable(warnings) else lambda: warnings
    Worker(consumer(), store, ledger, clock).run(0)
    about = {"consumer": "billing"} | ({"error": "unavailable"} if callable(warnings) else {"warning": "short"})
    assert lines() == [("headgate.consume", "WARNING", "ledger", about)]


def test_lag_has_its_name_and_labels():
    clock = ManualClock(NOW)
    store = LocalStore(LocalDatabase(":memory:"), clock)
    store.publish("orders", "k", {"n": 1})
    store.relay_outbox({"orders": ["billing"]})
    metrics = MemoryMetrics()
    Worker(consumer(), store, Ledger.on_database(store.db, clock=clock), clock, metrics).measure_lag()
    assert metrics.value("headgate_consumer_lag", consumer="billing", topic="orders") == 1


# --- SQS


def test_dead_letters_that_cannot_be_deleted_or_shown(lines):
    client = SimpleNamespace(delete_message=BROKEN, change_message_visibility=BROKEN)
    assert not _delete(client, "https://q", {"ReceiptHandle": "r"})
    _make_visible(client, "https://q", {"m": "r"})
    assert lines() == [
        ("headgate.consume", "WARNING", "a dead letter was sent and not deleted", {"error": "RuntimeError"}),
        ("headgate.consume", "WARNING", "a dead letter stays invisible", {"error": "RuntimeError", "seconds": 300}),
    ]


def test_a_dead_letter_without_room_for_its_reason(lines):
    sent = []
    client = SimpleNamespace(send_message=lambda **given: sent.append(given["MessageAttributes"]))
    queue = SqsDeadLetterQueue(client, "https://dead", "billing", "https://q")
    queue.limit_bytes = 60
    queue(read_message("orders", {"Body": "x" * 20, "MessageId": "m"}), DeadLetterCause("invalid_json", "why", 0), None)
    about = {"consumer": "billing", "message_id": "m", "kind": "invalid_json"}
    assert lines() == [("headgate.consume", "WARNING", "no room in the dead letter for its reason", about)]
    assert list(sent[0]) == ["headgate-redrive"]


def test_a_set_up_that_cannot_be_checked(lines):
    handler = sqs_handler(
        consumer(), Ledger.open("memory://"), ManualClock(NOW), client=SimpleNamespace(get_queue_url=BROKEN)
    )
    record = {"messageId": "m", "body": "{}", "eventSourceARN": "arn:aws:sqs:us-east-1:1:q"}
    assert handler({"Records": [record]}) == {"batchItemFailures": []}
    about = {"consumer": "billing", "error": "RuntimeError"}
    assert lines() == [("headgate.consume", "WARNING", "could not check the set-up", about)]


# --- Kafka


def test_kafka_settings_that_are_left_out(lines, monkeypatch):
    config = {"bootstrap.servers": "localhost:1", "group.id": "mine", "enable.auto.commit": True}
    worker = KafkaWorker(consumer(), Ledger.open("memory://"), ManualClock(NOW), config)
    monkeypatch.setattr(worker, "_retention_s", BROKEN)
    monkeypatch.setattr(worker._ledger, "warnings", lambda retention: ["short"] if retention is None else [])
    worker._warn()
    about = {"consumer": "billing", "topic": "orders"}
    left_out = "Kafka settings that the worker sets itself are left out: enable.auto.commit, group.id"
    compare = "could not compare the topic's retention and the ledger's time to live"
    assert lines() == [
        ("headgate.consume", "WARNING", left_out, about),
        ("headgate.consume", "WARNING", compare, {**about, "error": "RuntimeError"}),
        ("headgate.consume", "WARNING", "short", about),
    ]


def test_offsets_that_are_not_committed(lines):
    worker = KafkaWorker(consumer(), Ledger.open("memory://"), ManualClock(NOW), {"bootstrap.servers": "localhost:1"})
    kafka = worker._kafka
    error = kafka.KafkaError(kafka.KafkaError._TRANSPORT)
    part = _Partition("orders", 0)
    part.position = 5
    worker._partitions["orders", 0] = part
    worker._commit(SimpleNamespace(commit=raising(kafka.KafkaException(error))), wait=False)
    assert part.committed == -1
    part.committed = 5
    worker._on_commit(error, [kafka.TopicPartition("orders", 0)])
    assert part.committed == -1  # sent again with the next commit
    line = ("headgate.consume", "WARNING", "offsets not committed", {"error": "_TRANSPORT"})
    assert lines() == [line, line]


# --- collections


def test_a_pipeline_whose_parser_breaks(lines, store, objects, clock):
    intake = Intake(dataclasses.replace(PIPELINE, parse=BROKEN), store, objects, clock)
    assert intake.take(b"[]", RawInfo("tiingo", "raw-1", clock.now_us(), {})).dead_letters == 1
    about = {"pipeline": "market", "source": "tiingo", "error": "RuntimeError"}
    assert lines() == [("headgate.intake", "ERROR", "parse failed", about)]


def fetcher(store, objects, clock, perform=lambda *arguments: []):
    failover = SimpleNamespace(transport=SimpleNamespace(perform=perform), secondary_since_us=None)
    return Fetcher(Intake(PIPELINE, store, objects, clock), [], failover, {})


def test_pages_that_cannot_be_told(lines, store, objects, clock):
    state, adapter = Round(), SimpleNamespace(name="tiingo", next_pages=BROKEN)
    fetcher(store, objects, clock)._fetch_pages(adapter, {}, [], {"bodies": []}, state, None, None)
    assert lines() == [
        ("headgate.intake", "WARNING", "next pages cannot be told", {"source": "tiingo", "error": "RuntimeError"})
    ]
    assert state.error_message.startswith("the pages that follow are unknown: ")


@pytest.mark.parametrize("broken", ["asked", "read"])
def test_extras_that_fail_fail_nothing(lines, store, objects, clock, broken):
    answers = [{"error_kind": "timeout", "status": 0, "body": b""}]
    adapter = SimpleNamespace(
        name="tiingo", extra_context=BROKEN,
        extra_requests=BROKEN if broken == "asked" else lambda query: [SimpleNamespace(url="https://x.example")],
    )  # fmt: skip
    state = Round(until_us=clock.mono_us() + 1_000_000)
    fetcher(store, objects, clock, lambda *arguments: answers)._fetch_extras(adapter, {}, state, None)
    about = {"source": "tiingo", "error": "RuntimeError"}
    assert lines() == [("headgate.intake", "WARNING", f"extras cannot be {broken}", about)]
    assert (state.error_kind, state.context) == ("", {})


def test_a_loss_that_cannot_be_recorded(lines, store, objects, clock):
    sent = []
    collector = Collector(
        Intake(PIPELINE, store, objects, clock), [SimpleNamespace(name="tiingo")], failover=SimpleNamespace(),
        breakers={}, alerts=AlertRules(make_tracker(clock), clock), store=store,
        last_resort=lambda *alert: sent.append(alert) or BROKEN(),
    )  # fmt: skip
    collector._settle = BROKEN
    collector._report_loss(TransientError("the disk is away"), Round(), clock.now_us(), 5)
    found = lines()
    event_id = found[0][3].pop("event_id")
    about = {"source": "tiingo", "error": "unavailable", "second_error": "unavailable"}
    assert found == [
        ("headgate.intake", "ERROR", "a failed collection could not be recorded", about),
        ("headgate.intake", "ERROR", "an alert could not be sent",
         {"alert": "store_failed", "error": "unavailable"}),
    ]  # fmt: skip
    assert [(topic, key) for topic, key, _ in sent] == [("market.alerts", f"{event_id}:store_failed")]
