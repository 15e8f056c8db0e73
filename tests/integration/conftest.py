"""A real Kafka topic with a ledger and an effects table beside it, for the tests of consumers."""

from __future__ import annotations

import json
import threading
import time
import uuid

import pytest

from headgate import Ledger
from headgate._core import SystemClock
from headgate.backends.local import LocalDatabase
from headgate.consume import Consumer, KafkaWorker


class KafkaWorld:
    """A topic of the test's own, a ledger with an effects table beside it, and workers on threads."""

    def __init__(self, server, folder):
        import confluent_kafka
        import confluent_kafka.admin

        self.kafka = confluent_kafka
        self.config = {"bootstrap.servers": server.bootstrap, "session.timeout.ms": 6000}
        self.topic = f"t-{uuid.uuid4().hex[:12]}"
        self.admin = self.kafka.admin.AdminClient({"bootstrap.servers": server.bootstrap})
        self.database = LocalDatabase(str(folder / "effects.db"), durability="normal")
        self.database.execute("CREATE TABLE effects (n INTEGER, consumer TEXT)")
        self.ledger = Ledger.on_database(self.database)
        self.clock = SystemClock()
        self.running = []

    def create(self, *topics, partitions=4, **settings):
        made = self.admin.create_topics([self.kafka.admin.NewTopic(t, partitions, 1, config=settings) for t in topics])
        for future in made.values():
            future.result(10)

    def send(self, values, key=str, headers=None):
        producer = self.kafka.Producer({"bootstrap.servers": self.config["bootstrap.servers"]})
        for i, value in enumerate(values):
            payload = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
            producer.produce(self.topic, payload, key(i), headers=headers)
        assert producer.flush(10) == 0

    def worker(self, handler=None, *, name="c", ledger=None, worker=None, **consumer):
        made = Consumer(name, self.topic, handler or self.insert(name), **consumer)
        return KafkaWorker(made, ledger or self.ledger, self.clock, self.config, **(worker or {}))

    def insert(self, name):
        return lambda body, tx: tx.execute("INSERT INTO effects VALUES (?, ?)", (body["n"], name))

    def start(self, worker):
        thread = threading.Thread(target=worker.run)
        thread.start()
        self.running.append((worker, thread))
        return worker

    def stop(self):
        for worker, _ in self.running:
            worker.stop()
        for _, thread in self.running:
            thread.join(30)
            assert not thread.is_alive()
        self.running = []

    def effects(self, name="c"):
        return [n for (n,) in self.database.execute("SELECT n FROM effects WHERE consumer = ? ORDER BY n", (name,))]

    def until(self, condition, seconds=30):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.02)

    def committed(self, name="c", topic=None):
        """Offsets of the group, summed over the partitions."""
        consumer = self.kafka.Consumer({**self.config, "group.id": name})
        places = [self.kafka.TopicPartition(topic or self.topic, p) for p in range(4)]
        found = consumer.committed(places, timeout=10)
        consumer.close()
        return sum(max(0, place.offset) for place in found)

    def messages(self, topic, count):
        consumer = self.kafka.Consumer({**self.config, "group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest"})
        consumer.subscribe([topic])
        found = []
        deadline = time.monotonic() + 20
        while len(found) < count and time.monotonic() < deadline:
            message = consumer.poll(0.2)
            if message is not None and message.error() is None:
                found.append(message)
        consumer.close()
        return found


@pytest.fixture
def kafka_world(kafka_server, tmp_path):
    world = KafkaWorld(kafka_server, tmp_path)
    yield world
    world.stop()
    world.database.close()
