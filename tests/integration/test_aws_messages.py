"""SQS consumers, Lambda handlers of SQS records, and announcements to SNS, SQS and Kafka."""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid

import pytest

from headgate import Ledger
from headgate._core import SystemClock
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.backends.publish import KafkaPublisher, SnsPublisher, SqsPublisher, open_publisher
from headgate.consume import Consumer, SqsWorker, read_letters_sqs, redrive_sqs, sqs_batch, sqs_handler
from headgate.errors import ConfigError, TransientError
from headgate.idempotency import InProgress, idempotent_consumer
from headgate.ops import MemoryMetrics

boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
SECRET = {"aws_access_key_id": "local", "aws_secret_access_key": "local", "region_name": "us-east-1"}


@pytest.fixture(scope="module")
def aws():
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class World:
    def __init__(self, endpoint, folder):
        self.sqs = boto3.Session().client("sqs", endpoint_url=endpoint, **SECRET)
        self.sns = boto3.Session().client("sns", endpoint_url=endpoint, **SECRET)
        self.url = self.queue()
        self.database = LocalDatabase(str(folder / "effects.db"), durability="normal")
        self.database.execute("CREATE TABLE effects (n INTEGER)")
        self.ledger = Ledger.on_database(self.database)
        self.clock = SystemClock()

    def queue(self, **attributes):
        suffix = ".fifo" if "FifoQueue" in attributes else ""
        return self.sqs.create_queue(QueueName=f"q-{uuid.uuid4().hex[:8]}{suffix}", Attributes=attributes)["QueueUrl"]

    def send(self, *bodies):
        for body in bodies:
            self.sqs.send_message(QueueUrl=self.url, MessageBody=body if isinstance(body, str) else json.dumps(body))

    def insert(self, body, tx):
        tx.execute("INSERT INTO effects VALUES (?)", (body["n"],))

    def worker(self, handler=None, *, ledger=None, worker=None, **consumer):
        made = Consumer("c", "orders", handler or self.insert, **consumer)
        return SqsWorker(made, ledger or self.ledger, self.clock, self.sqs, self.url, **(worker or {}))

    def effects(self):
        return [n for (n,) in self.database.execute("SELECT n FROM effects ORDER BY n")]

    def with_policy(self, most, **attributes):
        """A queue that moves a message to the dead-letter queue which comes back too, after so many receives."""
        dead = self.queue(**attributes)
        arn = self.sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": str(most)})
        self.url = self.queue(RedrivePolicy=policy, **attributes)
        return dead

    def left(self, url=None):
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=url or self.url, AttributeNames=names)["Attributes"]
        return sum(int(value) for value in found.values())


@pytest.fixture
def world(aws, tmp_path):
    return World(aws, tmp_path)


def test_every_message_once_and_deleted(world):
    world.send(*({"n": n % 20} for n in range(30)))
    metrics = MemoryMetrics()
    result = world.worker(worker={"metrics": metrics}).run(max_idle_s=0)
    assert world.effects() == list(range(20))
    assert (result.handled, result.duplicates) == (20, 10)
    assert world.left() == 0
    assert metrics.value("headgate_consumer_messages_total", outcome="handled") == 20
    assert "headgate_consumer_lag" in metrics.render()


def test_failures_come_back_and_end_in_the_dead_letter_queue(world):
    dead = world.queue()
    calls = []

    def handler(body, tx):
        calls.append(body["n"])
        raise ValueError("no")

    world.send({"n": 1}, "{broken", "[]")
    worker = world.worker(handler, max_attempts=2, worker={"dead_letter_url": dead})
    result = worker.run(max_idle_s=3)
    assert calls == [1, 1]
    assert (result.failed, result.dead_lettered) == (1, 3)
    assert world.left() == 0
    letters = world.sqs.receive_message(QueueUrl=dead, MaxNumberOfMessages=10, MessageAttributeNames=["All"])[
        "Messages"
    ]
    kinds = {m["Body"]: m["MessageAttributes"]["headgate-error-kind"]["StringValue"] for m in letters}
    assert kinds == {'{"n": 1}': "attempts_exhausted", "{broken": "invalid_json", "[]": "invalid_record"}


def test_without_a_dead_letter_queue_poison_stays(world):
    world.send("{broken")
    result = world.worker().run(max_idle_s=0)
    assert (result.dead_lettered, result.failed) == (0, 1)  # the queue's own redrive policy counts it
    assert world.left() == 1


def test_stop_finishes_what_is_handled(world):
    world.send(*({"n": n} for n in range(20)))

    def handler(body, tx):
        worker.stop()
        world.insert(body, tx)

    worker = world.worker(handler, worker={"concurrency": 2})
    worker.run()
    assert 1 <= len(world.effects()) <= 2
    assert world.left() == 20 - len(world.effects())


def test_a_queue_that_is_not_there_is_named(world):
    world.url += "-gone"
    with pytest.raises(ConfigError, match="no such SQS queue"):
        world.worker().run(max_idle_s=0)


# --- with SQS's own redrive policy, in real time


class Away:
    """A ledger's backend that cannot be reached at first."""

    def __init__(self, native, seconds):
        self._native, self._back = native, time.monotonic() + seconds

    def __getattr__(self, name):
        def call(*arguments):
            if time.monotonic() < self._back:
                raise TransientError("away")
            return getattr(self._native, name)(*arguments)

        return call if name != "complete_with" else None


def test_a_slow_handler_and_an_outage_cost_one_receive(world):
    dead = world.with_policy(2)
    world.send({"n": 1}, {"n": 2}, {"n": 3})
    ledger = Ledger(Away(Ledger.open("memory://").native, 4), world.clock)
    done = []

    def slow(body):
        if body["n"] == 1:
            time.sleep(4)  # three times as long as the message is invisible without renewal
        done.append(body["n"])

    options = {"lease_s": 0.5, "effects": "plain", "ledger": ledger}
    workers = [world.worker(slow, **options) for _ in range(2)]
    threads = [threading.Thread(target=worker.run, args=(6,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [1, 2, 3]
    assert (world.left(), world.left(dead)) == (0, 0)
    assert sum(worker.result.handled for worker in workers) == 3


def test_a_fifo_queue_keeps_its_order_and_moves_only_what_failed(world):
    dead = world.with_policy(2, FifoQueue="true", ContentBasedDeduplication="true")
    for n in range(4):
        world.sqs.send_message(QueueUrl=world.url, MessageBody=json.dumps({"n": n}), MessageGroupId="g")
    ran = []

    def handler(body):
        ran.append(body["n"])
        if body["n"] == 0:
            raise ValueError("always")

    world.worker(handler, effects="plain", ledger=Ledger.open("memory://")).run(max_idle_s=2)
    assert ran == [0, 0, 1, 2, 3]
    assert (world.left(), world.left(dead)) == (0, 1)


def test_letters_with_ten_typed_attributes_go_through_moto_and_back(world):
    dead, broken, done = world.queue(), [1], []
    attributes = {f"a{n}": {"DataType": "Number", "StringValue": str(n)} for n in range(9)}
    attributes["raw"] = {"DataType": "Binary", "BinaryValue": b"\x00\xff"}
    world.sqs.send_message(QueueUrl=world.url, MessageBody='{"n": 1}', MessageAttributes=attributes)

    def handler(body, tx):
        if broken:
            raise ValueError("a bug")
        done.append(body["n"])

    worker = world.worker(handler, max_attempts=1, worker={"dead_letter_url": dead})
    assert worker.drain().dead_lettered == 1
    (letter,) = read_letters_sqs(world.sqs, dead, wait_s=0)
    assert sorted(letter.headers) == sorted([(f"a{n}", b"%d" % n) for n in range(9)] + [("raw", b"\x00\xff")])
    broken.clear()
    assert redrive_sqs(world.sqs, dead, world.url, wait_s=0) == 1
    world.worker(handler, worker={"dead_letter_url": dead}).drain()
    assert (done, world.left(), world.left(dead)) == ([1], 0, 0)


def event(*bodies, groups=None, queue="q.fifo"):
    records = []
    for i, body in enumerate(bodies):
        text = body if isinstance(body, str) else json.dumps(body)
        arn = f"arn:aws:sqs:us-east-1:1:{queue}"
        record = {"messageId": f"m{i}", "body": text, "attributes": {}, "eventSourceARN": arn}
        if groups:
            record["attributes"]["MessageGroupId"] = groups[i]
        records.append(record)
    return {"Records": records}


def failures(answer):
    return [entry["itemIdentifier"] for entry in answer["batchItemFailures"]]


def test_a_lambda_handler_answers_with_what_has_to_come_back(world):
    def handler(body, tx):
        if body["n"] == 2:
            raise ValueError("no")
        world.insert(body, tx)

    consumer = Consumer("c", "orders", handler)
    run = sqs_handler(consumer, world.ledger, world.clock)
    held = world.ledger.claim(consumer.claim_key({"n": 3}), 60)
    answer = run(event({"n": 1}, {"n": 1}, {"n": 2}, {"n": 3}, "{broken", {"n": 4}, queue="standard"), None)
    assert failures(answer) == ["m2", "m3", "m4"]
    assert world.effects() == [1, 4]
    world.ledger.release(held)
    assert failures(run(event({"n": 3}), None)) == []


def test_a_fifo_group_keeps_its_order(world):
    seen = []

    @sqs_batch
    @idempotent_consumer(world.ledger, consumer="fifo")
    def handler(body):
        if body["n"] == 1:
            raise ValueError("no")
        seen.append(body["n"])

    answer = handler(event(*({"n": n} for n in range(5)), groups=["a", "a", "a", "b", "a"]), None)
    assert failures(answer) == ["m1", "m2", "m4"]
    assert seen == [0, 3]


def test_the_decorator_in_a_batch_sends_held_records_back(world):
    inside, leave = threading.Event(), threading.Event()

    @idempotent_consumer(world.ledger, consumer="slow")
    def slow(body):
        inside.set()
        leave.wait(10)
        return body["n"]

    batch = sqs_batch(slow)
    thread = threading.Thread(target=slow, args=({"n": 1},))
    thread.start()
    assert inside.wait(10)
    with pytest.raises(InProgress):
        slow({"n": 1})
    assert failures(batch(event({"n": 1}), None)) == ["m0"]
    leave.set()
    thread.join()
    assert failures(batch(event({"n": 1}), None)) == []


# --- announcements


@pytest.fixture
def outbox(tmp_path):
    store = LocalStore(LocalDatabase(str(tmp_path / "outbox.db"), durability="normal"), SystemClock(), "p")
    for n in range(25):
        store.publish(f"topic-{n % 2}", f"key-{n}", {"n": n})
    return store


def bodies(world, url):
    found = []
    while messages := world.sqs.receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
    ).get("Messages"):
        found += messages
        for message in messages:
            world.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return found


def test_announcements_reach_sqs(world, outbox):
    assert outbox.publish_outbox(SqsPublisher(world.sqs, world.url)) == 25
    assert outbox.publish_outbox(SqsPublisher(world.sqs, world.url)) == 0
    found = bodies(world, world.url)
    assert sorted(json.loads(m["Body"])["n"] for m in found) == list(range(25))
    assert {m["MessageAttributes"]["topic"]["StringValue"] for m in found} == {"topic-0", "topic-1"}


def test_announcements_reach_sns(world, outbox):
    arn = world.sns.create_topic(Name="announcements")["TopicArn"]
    queue_arn = world.sqs.get_queue_attributes(QueueUrl=world.url, AttributeNames=["QueueArn"])["Attributes"][
        "QueueArn"
    ]
    world.sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=queue_arn, Attributes={"RawMessageDelivery": "true"})
    assert outbox.publish_outbox(SnsPublisher(world.sns, arn)) == 25
    assert sorted(json.loads(m["Body"])["n"] for m in bodies(world, world.url)) == list(range(25))


def test_a_fifo_queue_drops_what_is_sent_twice(world, outbox):
    url = world.queue(FifoQueue="true")
    publisher = SqsPublisher(world.sqs, url)
    outbox.publish_outbox(publisher)
    outbox.db.execute("UPDATE outbox SET sent_us = NULL")  # a crash before the rows were marked
    assert outbox.publish_outbox(publisher) == 25
    assert len(bodies(world, url)) == 25


def test_what_did_not_arrive_stays(world, outbox):
    publisher = SqsPublisher(world.sqs, world.url + "-gone")
    with pytest.raises(ConfigError, match="SQS: the queue cannot be used"):
        outbox.publish_outbox(publisher)
    assert outbox.count("SELECT count(*) FROM outbox WHERE sent_us IS NULL") == 25


@pytest.mark.xdist_group("kafka")
def test_announcements_reach_kafka(kafka_server, outbox):
    confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": kafka_server.bootstrap})
    for future in admin.create_topics([confluent_kafka.admin.NewTopic("topic-0", 1, 1)]).values():
        future.result(10)
    publisher = KafkaPublisher({"bootstrap.servers": kafka_server.bootstrap}, timeout_s=2)
    assert outbox.publish_outbox(publisher) == 13  # topic-1 does not exist: its announcements stay
    assert outbox.count("SELECT count(*) FROM outbox WHERE sent_us IS NULL") == 12
    consumer = confluent_kafka.Consumer({
        "bootstrap.servers": kafka_server.bootstrap, "group.id": "check", "auto.offset.reset": "earliest",
    })  # fmt: skip
    consumer.subscribe(["topic-0"])
    found = []
    while len(found) < 13:
        message = consumer.poll(20)
        assert message is not None
        found.append((message.key(), json.loads(message.value())["n"]))
    consumer.close()
    assert found == [(f"key-{n}".encode(), n) for n in range(0, 25, 2)]


@pytest.mark.xdist_group("kafka")
def test_what_a_kafka_topic_does_not_take_is_set_aside_and_the_rest_arrives(kafka_server, tmp_path):
    confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": kafka_server.bootstrap})
    settings = {"max.message.bytes": "2000"}
    name = f"sizes-{uuid.uuid4().hex[:8]}"
    for future in admin.create_topics([confluent_kafka.admin.NewTopic(name, 1, 1, config=settings)]).values():
        future.result(10)
    store = LocalStore(LocalDatabase(str(tmp_path / "sizes.db"), durability="normal"), SystemClock(), "p")
    for n, size in enumerate((10, 5_000, 1_500, 2_000_000, 1_500, 10, 10)):
        store.publish(name, f"key-{n % 3}", {"n": n, "text": "".join(chr(97 + i * i % 26) for i in range(size))})
    publisher = KafkaPublisher({"bootstrap.servers": kafka_server.bootstrap}, timeout_s=10)
    assert store.publish_outbox(publisher) == 5
    assert (store.unsent_count(), store.publish_outbox(publisher)) == (0, 0)
    assert [(x["stage"], x["kind"], json.loads(x["doc"])["n"]) for x in store.dead_letters()] == [
        ("outbox", "message_too_large", 1), ("outbox", "message_too_large", 3),
    ]  # fmt: skip
    consumer = confluent_kafka.Consumer({
        "bootstrap.servers": kafka_server.bootstrap, "group.id": "sizes", "auto.offset.reset": "earliest",
    })  # fmt: skip
    consumer.subscribe([name])
    found = []
    while len(found) < 5:
        message = consumer.poll(20)
        assert message is not None
        found.append(json.loads(message.value())["n"])
    consumer.close()
    assert sorted(found) == [0, 2, 4, 5, 6]
    assert [n for n in found if n % 3 == 0] == [0, 6]  # the order of each key
    assert [n for n in found if n % 3 == 2] == [2, 5]


def test_publisher_urls(monkeypatch):
    for name, value in SECRET.items():
        monkeypatch.setenv(name.upper().replace("REGION_NAME", "AWS_DEFAULT_REGION"), value)
    assert isinstance(open_publisher("sns://arn:aws:sns:us-east-1:1:t"), SnsPublisher)
    assert isinstance(open_publisher("sqs://sqs.us-east-1.amazonaws.com/1/q?endpoint=http://127.0.0.1:1"), SqsPublisher)
    assert isinstance(open_publisher("kafka://127.0.0.1:9?client.id=x"), KafkaPublisher)
    for url in ("smtp://x", "sns://"):
        with pytest.raises(ConfigError, match="expected kafka"):
            open_publisher(url)
