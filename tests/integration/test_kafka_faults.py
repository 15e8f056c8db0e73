"""What goes wrong around a Kafka consumer: handlers that exit, ledgers and services that are away, slow rebalances."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading

import pytest

from headgate import Ledger
from headgate.consume import Consumer, KafkaWorker, Outcome
from headgate.errors import ConfigError
from headgate.ops import MemoryMetrics
from headgate.testing.servers import RedisServer

confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
pytestmark = pytest.mark.xdist_group("kafka")


@pytest.fixture
def world(kafka_world):
    return kafka_world


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SystemExit("no settings file"), b"SystemExit: no settings file"),
        (asyncio.CancelledError(), b"CancelledError: "),
        (ValueError("bad file caf\udce9.txt"), rb"ValueError: bad file caf\udce9.txt"),
        (ValueError("line\nbreak\x1b[31m"), rb"ValueError: line\nbreak\x1b[31m"),
        (ExceptionGroup("several", [OSError("a"), KeyError("b")]), b"ExceptionGroup: several (2 sub-exceptions): OSError: a; KeyError: 'b'"),
    ],
)  # fmt: skip
def test_whatever_a_handler_raises_is_a_dead_letter_in_the_end(world, error, text):
    world.create(world.topic, f"{world.topic}.DLQ", partitions=1)

    def handler(body, tx):
        if body["n"] == 1:
            raise error
        world.insert("c")(body, tx)

    world.send([{"n": n} for n in range(4)])
    result = world.worker(handler, max_attempts=2, unavailable=(), backoff_base_s=0.01).run(max_idle_s=1.2)
    assert (result.handled, result.failed, result.dead_lettered) == (3, 1, 1)
    assert world.effects() == [0, 2, 3]
    (letter,) = world.messages(f"{world.topic}.DLQ", 1)
    assert dict(letter.headers())["headgate-error"] == text


def test_a_service_that_is_away_uses_up_no_attempt(world):
    world.create(world.topic, f"{world.topic}.DLQ", partitions=2)
    calls = []

    def handler(body, tx):
        calls.append((body["n"], world.clock.mono_us()))
        if len(calls) <= 4:
            raise ConnectionError("the mail server")
        world.insert("c")(body, tx)

    world.send([{"n": n} for n in range(6)], key=lambda i: "one partition")
    worker = world.worker(handler, max_attempts=1, backoff_cap_s=1.5)
    result = worker.run(max_idle_s=2.5)
    assert (result.waiting, result.failed, result.dead_lettered, result.handled) == (4, 0, 0, 6)
    assert world.effects() == list(range(6))
    assert [n for n, _ in calls[:5]] == [0] * 5  # the partition waits with its first message
    pauses = [(b - a) / 1e6 for (_, a), (_, b) in itertools.pairwise(calls[:5])]
    assert pauses[0] >= 1.0
    assert all(pause >= 1.5 for pause in pauses[1:])
    assert world.committed() == 6


def test_a_ledger_that_dies_and_comes_back_loses_and_buries_nothing(world, start):
    """Its server is killed again and again while messages flow; each message has one attempt only."""
    redis = start(lambda: RedisServer(persistence="always"))
    done = []
    ledger = Ledger.open(f"{redis.url}?reconnect=0.05&timeout=1")
    world.create(world.topic, f"{world.topic}.DLQ")
    metrics = MemoryMetrics()
    consumer = Consumer(
        "c", world.topic, lambda body: done.append(body["n"]), effects="plain", max_attempts=1, lease_s=2,
        backoff_cap_s=0.5,
    )  # fmt: skip
    worker = world.start(KafkaWorker(consumer, ledger, world.clock, world.config, metrics=metrics))
    for round_ in range(3):
        redis.kill()
        world.send([{"n": n} for n in range(round_ * 20, round_ * 20 + 20)])
        world.until(lambda least=worker.result.waiting + 2: worker.result.waiting >= least)
        redis.start()
        world.until(lambda least=round_ * 20 + 20: len(set(done)) >= least)
    world.until(lambda: world.committed() == 60)
    world.stop()
    assert sorted(set(done)) == list(range(60))
    assert len(done) <= 60 + 3 * 4  # an effect whose mark met the dead server runs again, at most one a partition
    result = worker.result
    assert (result.dead_lettered, result.failed) == (0, 0)
    assert result.handled + result.duplicates == 60
    assert metrics.value("dlq_messages_total") == 0


def test_a_rebalance_while_a_handler_is_slow(world, monkeypatch):
    """The partition moves while its message is being handled: the claim keeps the new owner from running it too."""
    monkeypatch.setattr("headgate.consume._kafka._REVOKE_S", 0.2)
    world.create(world.topic, partitions=2)
    entered, leave = threading.Event(), threading.Event()
    runs = []

    def handler(body):
        runs.append(body["n"])
        if body["n"] == 0:
            entered.set()
            assert leave.wait(30)
        world.insert("c")(body, world.database)

    producer = confluent_kafka.Producer({"bootstrap.servers": world.config["bootstrap.servers"]})
    for n in range(8):
        producer.produce(world.topic, b'{"n": %d}' % n, partition=n % 2)
    producer.flush(10)
    ledger = Ledger.open("memory://")
    make = {"effects": "plain", "ledger": ledger, "lease_s": 30}
    first = world.start(world.worker(handler, **make))
    assert entered.wait(20)
    second = world.start(world.worker(handler, **make))
    third = world.start(world.worker(handler, **make))
    # One of the newcomers gets the busy partition and finds its first message claimed.
    world.until(lambda: second.result.waiting + third.result.waiting >= 1 or first.result.received >= 4, 60)
    leave.set()
    world.until(lambda: len(world.effects()) == 8, 60)
    world.stop()
    assert sorted(runs) == list(range(8))  # each once
    assert sum(w.result.dead_lettered + w.result.failed for w in (first, second, third)) == 0
    assert world.worker(handler, **make).run(max_idle_s=1.2).handled == 0


@pytest.mark.parametrize("client", ["url", "redis-py"])
def test_what_weakens_the_ledger_is_said_at_start(world, start, caplog, client):
    redis = start(lambda: RedisServer(options=("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")))
    world.create(world.topic, **{"retention.ms": str(30 * 86_400_000)})
    if client == "url":
        ledger = Ledger.open(redis.url)
    else:
        ledger = Ledger.on_redis(pytest.importorskip("redis").Redis(port=redis.port))
    with caplog.at_level(logging.WARNING, "headgate.consume"):
        world.worker(lambda body: None, ledger=ledger, effects="plain").run(max_idle_s=0.5)
    texts = [r.getMessage() for r in caplog.records]
    for part in ("done keys live 86400 s, shorter than the topic's retention of 2.592e+06 s", "allkeys-lru"):
        (found,) = [r for r in caplog.records if part in r.getMessage()]
        assert (found.consumer, found.topic) == ("c", world.topic)
    assert any("restart" in text for text in texts), texts


def test_a_topic_whose_retention_cannot_be_asked_hides_no_other_warning(world, start, caplog):
    redis = start(lambda: RedisServer(options=("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")))
    worker = world.worker(lambda body: None, ledger=Ledger.open(redis.url), effects="plain")  # of no topic
    with caplog.at_level(logging.WARNING, "headgate.consume"):
        worker._warn()
    texts = [r.getMessage() for r in caplog.records]
    assert texts[0] == "could not compare the topic's retention and the ledger's time to live"
    assert caplog.records[0].error == "KafkaException"
    assert any("allkeys-lru" in text for text in texts)
    redis.stop()
    caplog.clear()
    with caplog.at_level(logging.WARNING, "headgate.consume"):
        worker._warn()
    assert [r.getMessage() for r in caplog.records][1:] == ["could not ask the ledger about its server"]


def test_a_message_that_cannot_even_be_read_stays_and_is_said(world, caplog):
    """confluent-kafka raises where a header's name is not UTF-8; a worker must not wait for that thread for ever."""
    from headgate.consume._kafka import _Partition

    class Unreadable:
        def headers(self):
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "secret")

        def offset(self):
            return 7

    with caplog.at_level(logging.WARNING, "headgate.consume"):
        processed = world.worker()._process(_Partition(world.topic, 3), Unreadable())
    assert (processed.outcome, processed.retry_s, processed.error) == (Outcome.FAILED, 1.0, "UnicodeDecodeError")
    (record,) = caplog.records
    assert (record.message, record.consumer, record.topic, record.message_id, record.error) == (
        "processing broke", "c", world.topic, f"{world.topic}-3-7", "UnicodeDecodeError",
    )  # fmt: skip
    assert "in headers" in record.traceback
    assert "secret" not in record.traceback


def test_lag_is_reported_for_each_partition(world):
    world.create(world.topic, partitions=2)
    world.send([{"n": n} for n in range(10)], key=str)
    metrics = MemoryMetrics()
    world.worker(worker={"metrics": metrics}).run(max_idle_s=1.2)
    lines = [line for line in metrics.render().splitlines() if line.startswith("headgate_consumer_lag{")]
    assert sorted(lines) == [
        f'headgate_consumer_lag{{consumer="c",partition="{p}",topic="{world.topic}"}} 0' for p in (0, 1)
    ]
    assert metrics.value("headgate_consumer_messages_total", consumer="c", topic=world.topic, outcome="handled") == 10


def test_dead_letters_from_the_command_line(world):
    from headgate.cli import _dlq_kafka
    from headgate.config import ConsumerConfig
    from headgate.errors import NotFoundError

    world.create(world.topic, f"{world.topic}.DLQ", partitions=1)
    healthy = threading.Event()

    def handler(body, tx):
        if not healthy.is_set():
            raise ValueError("down")
        world.insert("c")(body, tx)

    world.send(
        [{"n": 1, "name": "Ada"}, None, b"[1]", {"n": 2}],
        key=lambda i: f"key-{i}",
        headers=[("h", b"v\xff"), ("null", None)],
    )
    assert world.worker(handler, max_attempts=1).run(max_idle_s=1.2).dead_lettered == 4
    assert world.worker(handler, name="other", max_attempts=1).run(max_idle_s=1.2).dead_lettered == 4
    config = ConsumerConfig(
        topic=world.topic, queue=f"kafka://{world.config['bootstrap.servers']}?socket.timeout.ms=9000"
    )
    found = _dlq_kafka.list_letters(None, "c", config)
    assert found[0] == {
        "id": "0-0", "stage": "consume", "pipeline": "c", "source": world.topic, "kind": "attempts_exhausted",
        "attempts": 1, "message_id": f"{world.topic}-0-0", "redrive": 1, "size_bytes": 23,
    }  # fmt: skip
    assert [x["kind"] for x in found] == [
        "attempts_exhausted",
        "invalid_record",
        "invalid_record",
        "attempts_exhausted",
    ]
    assert [x["id"] for x in _dlq_kafka.list_letters(None, "other", config, limit=2)] == ["0-4", "0-5"]
    shown = _dlq_kafka.show_letter(None, "c", config, "0-0")
    assert shown == {
        **found[0], "reason": "ValueError: down", "key": "key-0", "headers": [["h", "v\\xff"], ["null", None]],
        "timestamp_ms": shown["timestamp_ms"], "body": '{"n": 1, "name": "Ada"}',
    }  # fmt: skip
    assert abs(shown["timestamp_ms"] / 1000 - world.clock.now_us() / 1e6) < 60
    assert _dlq_kafka.show_letter(None, "c", config, "0-1")["body"] is None
    reason = _dlq_kafka.show_letter(None, "c", config, f"{world.topic}.DLQ-0-2")["reason"]
    assert reason == "InvalidInputError: expected a JSON object, got list"
    for nowhere in ("0-4", "0-99", "7-0", "0", "x-y", ""):
        with pytest.raises(NotFoundError, match="there is no dead letter"):
            _dlq_kafka.show_letter(None, "c", config, nowhere)
    assert _dlq_kafka.count_letters(None, "c", config) == {"attempts_exhausted": 2, "invalid_record": 2}
    assert _dlq_kafka.redrive(None, "c", config, dry_run=True) == 4
    assert _dlq_kafka.redrive(None, "c", config, limit=1) == 1
    assert _dlq_kafka.count_letters(None, "c", config) == {"attempts_exhausted": 1, "invalid_record": 2}
    assert _dlq_kafka.redrive(None, "c", config) == 3
    assert _dlq_kafka.count_letters(None, "c", config) == {}
    assert _dlq_kafka.redrive(None, "c", config) == 0
    healthy.set()
    result = world.worker(handler, max_attempts=1).run(max_idle_s=1.2)
    assert (result.handled, result.dead_lettered) == (2, 2)
    assert world.effects() == [1, 2]
    with pytest.raises(ConfigError, match="there is no Kafka topic"):
        _dlq_kafka.list_letters(None, "c", ConsumerConfig(topic="t", dead_letters="none", queue=config.queue))
