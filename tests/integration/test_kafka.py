"""Consumers on a real Kafka broker: commits, rebalances, back-pressure, dead letters, redrive."""

from __future__ import annotations

import itertools
import json
import logging
import threading

import pytest

from headgate import Ledger
from headgate.consume import redrive
from headgate.errors import ConfigError
from headgate.idempotency import idempotent_consumer
from headgate.ops import MemoryMetrics

confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
pytestmark = pytest.mark.xdist_group("kafka")


@pytest.fixture
def world(kafka_world):
    return kafka_world


def test_every_message_once_and_committed(world):
    world.create(world.topic)
    # A quarter is sent twice, to the same partitions: in another one a second delivery could meet the first in progress
    # and rightly wait for its lease.
    world.send([{"n": n} for n in [*range(200), *range(50)]], key=lambda i: str(i % 200))
    metrics = MemoryMetrics()
    worker = world.worker(worker={"metrics": metrics})
    result = worker.run(max_idle_s=1.5)
    assert world.effects() == list(range(200))
    assert (result.received, result.handled, result.duplicates) == (250, 200, 50)
    assert world.committed() == 250  # the duplicates' offsets too
    assert metrics.value("headgate_consumer_messages_total", consumer="c", outcome="duplicates") == 50
    assert "headgate_consumer_duration_seconds_count" in metrics.render()
    again = world.worker().run(max_idle_s=1.5)
    assert again.received == 0


def test_two_groups_each_see_everything(world):
    world.create(world.topic)
    world.send([{"n": n} for n in range(40)])
    for name in ("one", "two"):
        world.worker(name=name).run(max_idle_s=1.5)
        assert world.effects(name) == list(range(40))


def test_a_failing_message_holds_its_partition_only(world):
    world.create(world.topic)
    failed = []

    def handler(body, tx):
        if body["n"] == 0 and len(failed) < 3:
            failed.append(world.clock.mono_us())
            raise RuntimeError("not yet")
        world.insert("c")(body, tx)

    world.send([{"n": n} for n in range(60)])
    result = world.worker(handler).run(max_idle_s=1.5)
    assert world.effects() == list(range(60))
    assert (result.handled, result.failed) == (60, 3)
    assert world.committed() == 60
    pauses = [b - a for a, b in itertools.pairwise(failed)]
    assert all(pause >= 150_000 for pause in pauses)  # backed off, no busy loop


def test_poison_goes_to_the_dead_letters_with_its_bytes(world):
    world.create(world.topic, f"{world.topic}.DLQ")

    def handler(body, tx):
        if "poison" in body:
            raise ValueError("cannot be")
        world.insert("c")(body, tx)

    poison = [
        b"{broken",
        b"[1]",
        b'"text"',
        b"",
        b"\xff\xfe",
        json.dumps({"n": 1, "pad": "x" * 3000}).encode(),
        b'{"poison":1}',
    ]
    world.send([{"n": 0}, *poison, {"n": 2}], key=lambda i: "same", headers=[("trace", b"abc")])
    worker = world.worker(handler, max_attempts=2, max_message_bytes=2000)
    result = worker.run(max_idle_s=1.5)
    assert world.effects() == [0, 2]
    assert result.dead_lettered == len(poison)
    letters = world.messages(f"{world.topic}.DLQ", len(poison))
    assert sorted(letter.value() or b"" for letter in letters) == sorted(poison)
    by_value = {letter.value(): dict(letter.headers()) for letter in letters}
    headers = by_value[b'{"poison":1}']
    assert headers["trace"] == b"abc"
    assert headers["headgate-error"] == b"ValueError: cannot be"
    assert (headers["headgate-attempts"], headers["headgate-topic"]) == (b"2", world.topic.encode())
    kinds = {headers["headgate-error-kind"] for headers in by_value.values()}
    assert kinds == {b"invalid_json", b"invalid_record", b"message_too_large", b"attempts_exhausted"}
    assert world.committed() == len(poison) + 2


def test_a_dead_letter_that_cannot_be_published_commits_nothing(world):
    world.create(world.topic)
    world.send([b"{broken"])  # there is no dead-letter topic, and the broker makes none
    worker = world.start(world.worker(worker={"dead_letter_timeout_s": 0.3}))
    world.until(lambda: worker.result.waiting >= 2)
    world.stop()
    assert world.committed() == 0
    assert worker.result.dead_lettered == 0
    world.create(f"{world.topic}.DLQ")
    assert world.worker().run(max_idle_s=1.5).dead_lettered == 1
    assert world.committed() == 1


def test_redriven_letters_run_once_more_and_only_once(world):
    world.create(world.topic, f"{world.topic}.DLQ")
    healthy = threading.Event()

    def handler(body, tx):
        if not healthy.is_set():
            raise ValueError("down")
        world.insert("c")(body, tx)

    world.send([{"n": n} for n in range(6)])
    assert world.worker(handler, max_attempts=1).run(max_idle_s=1.5).dead_lettered == 6
    healthy.set()
    letters = f"{world.topic}.DLQ"
    assert redrive(world.config, letters, where=lambda letter: b'"n": 5' not in letter.value, timeout_s=4) == 5
    assert redrive(world.config, letters, timeout_s=4) == 0
    assert world.worker(handler, max_attempts=1).run(max_idle_s=1.5).handled == 5
    assert world.effects() == [0, 1, 2, 3, 4]
    # The same letters redriven by somebody else: one claim key a redrive.
    world.send([{"n": 0}], headers=[("headgate-redrive", b"1")])
    assert world.worker(handler, max_attempts=1).run(max_idle_s=1.5).duplicates == 1
    assert world.effects() == [0, 1, 2, 3, 4]


def test_a_message_somebody_else_holds_comes_back(world):
    world.create(world.topic)
    world.send([{"n": n} for n in range(8)])
    worker = world.worker(lease_s=30)
    held = world.ledger.claim(worker.consumer.claim_key({"n": 3}), 30)
    world.start(worker)
    world.until(lambda: worker.result.waiting >= 1)
    world.until(lambda: len(world.effects()) >= 4)  # the other partitions go on
    assert 3 not in world.effects()
    world.ledger.release(held, "gave up")
    world.stop()
    world.worker(lease_s=30).run(max_idle_s=1.5)
    assert world.effects() == list(range(8))


def test_rebalances_lose_and_double_nothing(world):
    """Workers join and leave while messages flow; each has a ledger of its own on the same file."""
    world.create(world.topic)
    world.send([{"n": n} for n in range(600)])
    for round_ in range(3):
        world.start(world.worker())
        world.until(lambda least=round_ * 100 + 50: len(world.effects()) >= least)
    for worker, thread in world.running[:2]:
        worker.stop()
        thread.join(30)
    world.until(lambda: len(world.effects()) >= 600, 60)
    world.stop()
    assert world.effects() == list(range(600))
    assert world.committed() == 600


def test_stopping_finishes_what_is_handled_and_leaves_the_rest(world):
    world.create(world.topic, partitions=1)
    world.send([{"n": n} for n in range(20)])
    entered, leave = threading.Event(), threading.Event()

    def handler(body, tx):
        entered.set()
        assert leave.wait(20)
        world.insert("c")(body, tx)

    worker = world.start(world.worker(handler))
    assert entered.wait(20)
    worker.stop()
    leave.set()
    world.stop()
    assert world.effects() == [0]
    world.worker().run(max_idle_s=1.5)
    assert world.effects() == list(range(20))


def test_back_pressure_bounds_what_is_buffered(world):
    world.create(world.topic, partitions=1)
    world.send([{"n": n} for n in range(500)], key=lambda i: "k")
    most = []

    def handler(body, tx):
        most.append(max(len(p.waiting) for p in worker._partitions.values()))
        world.insert("c")(body, tx)

    worker = world.worker(handler, worker={"prefetch": 20})
    worker.run(max_idle_s=1.5)
    assert world.effects() == list(range(500))
    assert max(most) <= 40  # a batch may arrive on top of what was there


def test_a_ledger_that_is_away_keeps_messages(world, start):
    from headgate.testing.servers import RedisServer

    redis = start(RedisServer)
    done = []
    ledger = Ledger.open(f"{redis.url}?reconnect=0.05&timeout=1")
    world.create(world.topic)
    redis.stop()
    world.send([{"n": n} for n in range(10)])
    worker = world.start(world.worker(lambda body: done.append(body["n"]), ledger=ledger, effects="plain"))
    world.until(lambda: worker.result.waiting >= 4)
    assert done == []
    assert worker.result.received < 100  # no busy loop
    redis.start()
    world.until(lambda: len(done) == 10)
    world.stop()
    assert sorted(done) == list(range(10))
    assert world.committed() == 10


def test_fail_open_is_a_choice(world, start):
    from headgate.testing.servers import RedisServer

    redis = start(RedisServer)
    redis.stop()
    done = []
    ledger = Ledger.open(f"{redis.url}?reconnect=0.05&timeout=1")
    world.create(world.topic)
    world.send([{"n": n} for n in range(10)])
    worker = world.worker(lambda body: done.append(body["n"]), ledger=ledger, effects="plain", on_unavailable="process")
    assert worker.run(max_idle_s=1.5).handled == 10
    assert sorted(done) == list(range(10))


def test_a_short_memory_is_warned_about(world, caplog):
    world.create(world.topic, **{"retention.ms": str(30 * 86_400_000)})
    with caplog.at_level(logging.WARNING, "headgate.consume"):
        world.worker().run(max_idle_s=1)
    assert any("retention of 2.592e+06 s" in record.message for record in caplog.records)


def test_the_decorator_takes_kafka_messages_as_they_are(world):
    world.create(world.topic)
    world.send([{"id": n, "data": {"n": n % 5}} for n in range(20)])
    seen = []

    @idempotent_consumer(world.ledger, consumer="plain-loop")
    def handle(message):
        seen.append(json.loads(message.value())["data"]["n"])

    for message in world.messages(world.topic, 20):
        handle(message)
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_transactions_need_a_database(world):
    with pytest.raises(ConfigError, match="effects"):
        world.worker(ledger=Ledger.open("memory://"))


def test_a_commit_that_the_broker_refuses_is_sent_again(world):
    """Offsets are committed without waiting; the answer comes later, and may be no."""
    from headgate.consume._kafka import _Partition

    class Kafka:
        def __init__(self):
            self.commits = []

        def commit(self, offsets, asynchronous):
            self.commits.append([(place.partition, place.offset) for place in offsets])

    worker, kafka = world.worker(), Kafka()
    for number, position in ((0, 5), (1, 7)):
        worker._partitions[world.topic, number] = part = _Partition(world.topic, number)
        part.position = position
    worker._commit(kafka, wait=False)
    worker._commit(kafka, wait=False)
    assert kafka.commits == [[(0, 5), (1, 7)]]
    accepted = confluent_kafka.TopicPartition(world.topic, 0, 5)
    worker._on_commit(None, [accepted])
    worker._commit(kafka, wait=False)
    assert len(kafka.commits) == 1
    gone = confluent_kafka.TopicPartition(world.topic, 9, 1)  # somebody else's by now
    worker._on_commit(confluent_kafka.KafkaError(confluent_kafka.KafkaError.REQUEST_TIMED_OUT), [accepted, gone])
    worker._commit(kafka, wait=False)
    assert kafka.commits[1:] == [[(0, 5)]]


def test_uploads_reach_kafka_with_their_raw_ids(world, tmp_path, kafka_server):
    """Spec 004, step 2.6: listen to Kafka and validate the events that an upload sends."""
    from headgate._core import file_store
    from headgate.backends.local import LocalStore
    from headgate.backends.publish import KafkaPublisher
    from headgate.consume import Worker
    from headgate.pipelines.uploads import (
        ContentStore,
        EssayContentProvisionedV1,
        EssayUploadFinishedV1,
        EssayValidationFailedV1,
        FileService,
        UploadedFile,
    )
    from headgate.pipelines.uploads.contracts import FAILED, FINISHED, PROVISIONED

    models = {PROVISIONED: EssayContentProvisionedV1, FAILED: EssayValidationFailedV1, FINISHED: EssayUploadFinishedV1}
    world.create(*models)
    store = LocalStore(world.database, world.clock, "uploads")
    content = ContentStore(file_store(str(tmp_path / "objects")))
    service = FileService(content, store, world.clock)
    good = b"An essay of more than fifty characters, about canals and gates."
    service.accept("b", [UploadedFile("good.txt", good), UploadedFile("empty.txt", b"")], "corr")
    publisher = KafkaPublisher({"bootstrap.servers": kafka_server.bootstrap})
    consumer = service.consumer()
    for _ in range(2):
        store.publish_outbox(publisher, {consumer.topic: [consumer.name]})
        Worker(consumer, store, world.ledger, world.clock).drain()
    for topic, model in models.items():
        (message,) = world.messages(topic, 1)
        body = json.loads(message.value())
        event = model.model_validate(body["data"])
        assert (body["event_type"], body["correlation_id"]) == (topic, "corr")
        if topic != FINISHED:
            assert content.fetch_content(event.raw_file_storage_id) == (good if topic == PROVISIONED else b"")
