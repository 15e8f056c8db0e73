"""Dead letters of Kafka: as large as their topic allows, tombstones that stay tombstones, redrives that run once."""

from __future__ import annotations

import json
import logging
import random
import time

import pytest

from headgate import Ledger
from headgate.consume import Consumer, KafkaWorker, current_delivery, redrive
from headgate.errors import ConfigError, TransientError
from headgate.ops import MemoryMetrics

confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
pytestmark = pytest.mark.xdist_group("kafka")
MANY = 5_000_000


class Letters:
    """A topic and its dead-letter topic, a plain handler that may be broken, a ledger in memory."""

    def __init__(self, world):
        self.world = world
        self.letters = f"{world.topic}.DLQ"
        self.ledger = Ledger.open("memory://")
        self.metrics = MemoryMetrics()
        self.handled = []
        self.broken = False

    def create(self, limit=None, letters_limit=None, partitions=1):
        for topic, size in ((self.world.topic, limit), (self.letters, letters_limit or limit)):
            more = {"max.message.bytes": str(size)} if size else {}
            self.world.create(topic, partitions=partitions, **more)

    def produce(self, *values, key=b"k", headers=None, topic=None, settings=None, **more):
        """Returns the errors of the broker."""
        producer = confluent_kafka.Producer({
            "bootstrap.servers": self.world.config["bootstrap.servers"], "message.max.bytes": 50_000_000,
            **(settings or {}),
        })  # fmt: skip
        errors = []
        for value in values:
            producer.produce(
                topic or self.world.topic,
                value,
                key,
                headers=headers,
                on_delivery=lambda e, _: errors.append(e),
                **more,
            )
        assert producer.flush(20) == 0
        return [error for error in errors if error is not None]

    def handle(self, body):
        if self.broken:
            raise ValueError("broken")
        self.handled.append((body, current_delivery().key))

    def worker(self, config=None, **options):
        options = {"effects": "plain", "max_attempts": 1, **options}
        name = options.pop("name", "c")
        consumer = Consumer(name, self.world.topic, self.handle, **options)
        return KafkaWorker(
            consumer, self.ledger, self.world.clock, {**self.world.config, **(config or {})}, metrics=self.metrics
        )

    def run(self, config=None, **options):
        return self.worker(config, **options).run(max_idle_s=1.2)

    def copy_back(self):
        """What kcat, MirrorMaker or a console does: the letters as they are, with all headers."""
        for letter in self.world.messages(self.letters, 1):
            self.produce(letter.value(), key=letter.key(), headers=letter.headers())


@pytest.fixture
def letters(kafka_world):
    return Letters(kafka_world)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"message.max.bytes": MANY, "fetch.message.max.bytes": MANY},
        {"message.max.bytes": 1_000_000},  # of somebody who only ever sends small messages
        {"queue.buffering.max.kbytes": 100, "compression.type": "lz4"},
    ],
)
def test_a_letter_is_as_large_as_its_topic_allows(letters, config):
    letters.create(MANY)
    poison = random.Random(1).randbytes(2_000_000)
    assert letters.produce(poison, b'{"n": 2}') == []
    result = letters.run(config)
    assert (result.dead_lettered, result.handled) == (1, 1)
    (letter,) = letters.world.messages(letters.letters, 1)
    assert letter.value() == poison
    assert dict(letter.headers())["headgate-error-kind"] == b"invalid_json"


def test_what_came_compressed_goes_compressed(letters):
    """Three megabytes that lay in a topic with a limit of a hundred kilobytes."""
    letters.create(100_000)
    assert letters.produce(b"x" * 3_000_000, settings={"compression.type": "gzip"}) == []
    assert letters.run().dead_lettered == 1
    (letter,) = letters.world.messages(letters.letters, 1)
    assert (letter.value(), dict(letter.headers())["headgate-attempts"]) == (b"x" * 3_000_000, b"0")
    assert redrive(letters.world.config, letters.letters) == 1
    assert len(letters.world.messages(letters.world.topic, 2)) == 2


def test_a_message_of_the_largest_size_that_the_topic_takes(letters, caplog):
    """There is no room for a single header; the letter goes without, and can still be sent back."""
    letters.create(20_000)
    noise = random.Random(2).randbytes(20_000)
    size = next(n for n in range(19_950, 19_800, -1) if not letters.produce(noise[:n]))
    with caplog.at_level(logging.WARNING, "headgate.consume"):
        assert letters.run().dead_lettered == 1
    (letter,) = letters.world.messages(letters.letters, 1)
    assert (letter.value(), letter.headers()) == (noise[:size], None)
    (record,) = [r for r in caplog.records if "fewer headers" in r.message]
    assert (record.consumer, record.topic, record.message_id) == (
        "c", letters.world.topic, f"{letters.world.topic}-0-0",
    )  # fmt: skip
    assert redrive(letters.world.config, letters.letters) == 0  # it does not say where it came from
    assert redrive(letters.world.config, letters.letters, topic=letters.world.topic, again=True) == 1
    assert [m.value() for m in letters.world.messages(letters.world.topic, 2)] == [noise[:size]] * 2


def test_a_little_room_is_used_for_what_redriving_needs(letters):
    letters.create(20_000)
    noise = random.Random(3).randbytes(20_000)
    largest = next(n for n in range(19_950, 19_800, -1) if not letters.produce(noise[:n]))
    letters.produce(noise[: largest - 250])
    assert letters.run().dead_lettered == 2
    _, letter = letters.world.messages(letters.letters, 2)
    assert dict(letter.headers()) == {
        "headgate-topic": letters.world.topic.encode(), "headgate-consumer": b"c", "headgate-error-kind": b"invalid_json",
        "headgate-letter-format": b"2", "headgate-redrive": b"1",
    }  # fmt: skip


def test_a_letter_that_no_way_fits_keeps_its_message_and_says_so(letters, caplog):
    letters.create(MANY, letters_limit=10_000)
    noise = random.Random(4).randbytes(300_000)
    assert letters.produce(noise, b'{"n": 2}') == []
    with caplog.at_level(logging.WARNING, "headgate.consume"):
        worker = letters.world.start(letters.worker())
        letters.world.until(lambda: worker.result.waiting >= 2)
        letters.world.stop()
    assert (worker.result.dead_lettered, letters.handled) == (0, [])
    assert letters.world.committed("c") == 0
    said = [r for r in caplog.records if "refuses a message of 300001 bytes" in r.message]
    assert len(said) == worker.result.waiting
    assert f"the dead-letter topic {letters.letters}" in said[0].message
    assert [r.error for r in caplog.records if r.message == "message kept"] == ["message_too_large"] * len(said)
    count = letters.metrics.value("headgate_dead_letters_refused_total", consumer="c", topic=letters.world.topic)
    assert count == len(said)
    entry = confluent_kafka.admin.ConfigEntry(
        "max.message.bytes", str(MANY), incremental_operation=confluent_kafka.admin.AlterConfigOpType.SET
    )
    resource = confluent_kafka.admin.ConfigResource("topic", letters.letters, incremental_configs=[entry])
    letters.world.admin.incremental_alter_configs([resource])[resource].result(10)
    result = letters.run()
    assert (result.dead_lettered, result.handled) == (1, 1)


def test_tombstones_empty_values_and_null_headers_stay_what_they_are(letters):
    letters.create()
    letters.produce(None, b"", headers=[("null", None), ("empty", b""), ("twice", b"1"), ("twice", b"2")])
    assert letters.run().dead_lettered == 2
    found = letters.world.messages(letters.letters, 2)
    assert [letter.value() for letter in found] == [None, b""]
    first = [("null", None), ("empty", b""), ("twice", b"1"), ("twice", b"2")]
    assert [letter.headers()[:4] for letter in found] == [first, first]
    seen = []
    assert redrive(letters.world.config, letters.letters, where=lambda x: seen.append(x.value) is None) == 2
    assert seen == [None, b""]
    back = letters.world.messages(letters.world.topic, 4)[2:]
    assert [(m.value(), m.key(), m.headers()[:4]) for m in back] == [(None, b"k", first), (b"", b"k", first)]


def test_tombstones_are_skipped_on_request(letters):
    letters.create()
    letters.produce(None, b'{"n": 1}')
    result = letters.run(tombstones="skip")
    assert (result.handled, letters.handled) == (2, [({"n": 1}, b"k")])
    assert letters.world.committed("c") == 2
    assert letters.world.messages(letters.letters, 0) == []


def test_a_tombstone_is_handled_with_its_key_and_once_however_often_it_is_redriven(letters):
    letters.create()
    letters.broken = True
    letters.produce(None, key=b"row-7")
    letters.produce(None, key=b"row-7")  # another deletion of a row of the same key
    assert letters.run(tombstones="handle").dead_lettered == 2
    letters.broken = False
    for _ in range(2):
        assert redrive(letters.world.config, letters.letters, again=True) == 2
    result = letters.run(tombstones="handle")
    assert (result.handled, result.duplicates) == (2, 2)
    assert letters.handled == [(None, b"row-7"), (None, b"row-7")]


def test_a_letter_is_handled_once_whoever_sends_it_back_and_how_often(letters):
    letters.create()
    letters.broken = True
    letters.produce(b'{"n": 1}', headers=[("trace", b"t")])
    assert letters.run().dead_lettered == 1
    letters.broken = False
    letters.copy_back()
    letters.copy_back()
    assert redrive(letters.world.config, letters.letters) == 1
    assert redrive(letters.world.config, letters.letters, again=True) == 1
    result = letters.run()
    assert (result.handled, result.duplicates) == (1, 3)
    assert letters.handled == [({"n": 1}, b"k")]


def test_what_fails_again_is_a_letter_of_the_next_life(letters):
    letters.create()
    letters.broken = True
    letters.produce(b'{"n": 1}', headers=[("trace", b"t")])
    for life in (1, 2, 3):
        assert letters.run().dead_lettered == 1
        letter = letters.world.messages(letters.letters, life)[-1]
        headers = letter.headers()
        assert len(headers) == len(dict(headers))
        assert dict(headers)["headgate-redrive"] == str(life).encode()
        assert dict(headers)["trace"] == b"t"
        if life == 2:
            letters.produce(letter.value(), key=letter.key(), headers=headers)  # by another tool
        else:
            # The last one sends the letter of the second life too, which is a duplicate by then.
            assert redrive(letters.world.config, letters.letters) == (1 if life == 1 else 2)
    letters.broken = False
    result = letters.run()
    assert (result.handled, result.duplicates) == (1, 1)


@pytest.mark.parametrize("how", ["redrive", "copy"])
def test_letters_of_release_0_1_are_told_apart(letters, how):
    """They had the number of the life that had ended, or none, and `redrive()` added one."""
    letters.create()
    letters.broken = True
    letters.produce(b'{"n": 1}')
    assert letters.run().dead_lettered == 1
    old = [
        ("headgate-topic", letters.world.topic.encode()), ("headgate-consumer", b"c"),
        ("headgate-error-kind", b"attempts_exhausted"), ("headgate-error", b"ValueError: broken"),
        ("headgate-attempts", b"1"), ("headgate-partition", b"0"), ("headgate-offset", b"0"),
    ]  # fmt: skip
    again = [*old, ("headgate-redrive", b"1")]
    letters.broken = False
    for headers in (old, again, old):
        if how == "copy":
            letters.produce(b'{"n": 1}', headers=headers)
        else:
            letters.produce(b'{"n": 1}', headers=headers, topic=letters.letters)
    if how == "redrive":
        assert redrive(letters.world.config, letters.letters) == 4
    result = letters.run()
    # Two lives: the redrive of the first letter and of the second. What else came is one of these again.
    assert (result.handled, result.duplicates) == (2, 1 if how == "copy" else 2)


def test_a_redrive_for_one_group_is_not_news_to_the_others(letters):
    letters.create()
    letters.produce(b'{"n": 1}')
    assert letters.run(name="healthy").handled == 1
    letters.broken = True
    for name in ("a", "b"):  # both groups write to the topic's one dead-letter topic
        assert letters.run(name=name).dead_lettered == 1
    letters.broken = False
    letters.handled.clear()
    assert redrive(letters.world.config, letters.letters) == 2
    for name, handled, duplicates in (("healthy", 0, 2), ("a", 1, 1), ("b", 1, 1)):
        result = letters.run(name=name)
        assert (name, result.handled, result.duplicates, result.dead_lettered) == (name, handled, duplicates, 0)


def test_a_redriven_record_keeps_its_partition_key_and_time(letters):
    """The original's producer had a partitioner of its own: the key alone would lead elsewhere."""
    letters.create(partitions=4)
    yesterday = int(time.time() * 1000) - 86_400_000
    long_ago = yesterday - 6 * 86_400_000  # the topic keeps seven days: at its old time it would soon be deleted
    letters.broken = True
    for partition in range(4):
        letters.produce(b'{"n": %d}' % partition, key=b"same", partition=partition, timestamp=yesterday)
    letters.produce(b'{"n": 9}', key=None, partition=2, timestamp=long_ago)
    assert letters.run().dead_lettered == 5
    assert redrive(letters.world.config, letters.letters) == 5
    found = {}
    for message in letters.world.messages(letters.world.topic, 10):
        found.setdefault(json.loads(message.value())["n"], []).append(message)
    for partition in range(4):
        assert [(m.partition(), m.key(), m.timestamp()[1]) for m in found[partition]] == [
            (partition, b"same", yesterday)
        ] * 2
    first, back = sorted(found[9], key=lambda m: m.timestamp()[1])
    assert (first.timestamp()[1], back.partition(), back.key()) == (long_ago, 2, None)
    assert abs(back.timestamp()[1] - time.time() * 1000) < 60_000


def test_a_dry_run_counts_and_changes_nothing(letters):
    letters.create()
    letters.broken = True
    letters.produce(*(b'{"n": %d}' % n for n in range(7)))
    assert letters.run().dead_lettered == 7
    config = letters.world.config
    assert redrive(config, letters.letters, dry_run=True) == 7
    assert redrive(config, letters.letters, dry_run=True, limit=3) == 3
    assert redrive(config, letters.letters, where=lambda x: json.loads(x.value)["n"] % 2 == 0, dry_run=True) == 4
    assert redrive(config, letters.letters, limit=0) == 0
    assert len(letters.world.messages(letters.world.topic, 7)) == 7
    assert redrive(config, letters.letters, limit=2) == 2
    assert redrive(config, letters.letters, limit=2, where=lambda x: json.loads(x.value)["n"] >= 4) == 2
    assert redrive(config, letters.letters) == 1  # number 6: the others were passed over
    assert redrive(config, letters.letters) == 0
    assert redrive(config, letters.letters, again=True, dry_run=True) == 7
    letters.broken = False
    assert letters.run().handled == 5
    assert sorted(body["n"] for body, _ in letters.handled) == [0, 1, 4, 5, 6]


def test_a_redrive_that_fails_half_way_goes_on_with_the_letter_that_failed(letters):
    letters.create()
    letters.broken = True
    letters.produce(*(b'{"n": %d}' % n for n in range(3)))
    assert letters.run().dead_lettered == 3

    def fails_at_the_second(letter):
        if b"1" in letter.value:
            raise RuntimeError("a filter of the user's")
        return True

    with pytest.raises(RuntimeError):
        redrive(letters.world.config, letters.letters, where=fails_at_the_second)
    assert redrive(letters.world.config, letters.letters) == 2


def test_wrong_settings_and_topics_are_one_sentence(letters):
    letters.create()
    config = letters.world.config
    with pytest.raises(ConfigError, match=f"there is no Kafka topic {letters.letters}x"):
        redrive(config, f"{letters.letters}x")
    with pytest.raises(ConfigError, match="there is no setting 'fetch.bytes'"):
        redrive({**config, "fetch.bytes": 1}, letters.letters)
    with pytest.raises(ConfigError, match="there is no setting 'fetch.bytes'"):
        letters.run({"fetch.bytes": 1})
    with pytest.raises(ConfigError, match=r"transactional\.id"):
        letters.worker({"transactional.id": "x"})
    with pytest.raises(ConfigError, match="redrive: limit"):
        redrive(config, letters.letters, limit=-1)
    with pytest.raises(TransientError, match="did not answer"):
        redrive({**config, "bootstrap.servers": "127.0.0.1:1", "log_level": 0}, letters.letters, timeout_s=0.5)


def test_settings_that_the_worker_decides_itself_are_named(letters, caplog):
    letters.create()
    letters.produce(b'{"n": 1}')
    with caplog.at_level(logging.WARNING, "headgate.consume"):
        assert letters.run({"group.id": "mine", "enable.auto.commit": True, "linger.ms": 5}).handled == 1
    assert any("left out: enable.auto.commit, group.id" in record.message for record in caplog.records)


def test_announcements_are_as_large_as_their_topic_allows(letters, kafka_server):
    from headgate.backends.publish import KafkaPublisher, open_publisher
    from headgate.ports import Announcement

    letters.create(MANY)
    big = Announcement(1, letters.world.topic, "k", json.dumps({"pad": "x" * 2_000_000}))
    assert list(KafkaPublisher({"bootstrap.servers": kafka_server.bootstrap}).publish([big])) == [1]
    url = f"kafka://{kafka_server.bootstrap}?compression.type=lz4&fetch.max.bytes=1000000"
    assert list(open_publisher(url).publish([big])) == [1]
    with pytest.raises(ConfigError, match="lingering"):
        open_publisher(f"kafka://{kafka_server.bootstrap}?lingering=1")
    limited = KafkaPublisher({"bootstrap.servers": kafka_server.bootstrap, "message.max.bytes": "1500000"})
    assert list(limited.publish([big])) == []  # the configuration's own limit holds
