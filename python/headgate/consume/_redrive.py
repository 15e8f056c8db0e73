"""Reading a dead-letter topic of Kafka, and sending its dead letters back where they came from."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from headgate.backends.kafka import client_settings, consumer_settings, kafka_module, make_client
from headgate.consume._dead_letters import (
    DEAD_LETTER_TIMEOUT_S,
    DeadMessage,
    KafkaSender,
    check_letter_topic,
    headers_to_send_back,
    read_letter,
)
from headgate.errors import AccessError, TransientError
from headgate.idempotency._options import check_count, check_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_COMMIT_EVERY = 100
_POLL_S = 0.5
_REFUSED = {"TOPIC_AUTHORIZATION_FAILED", "GROUP_AUTHORIZATION_FAILED", "SASL_AUTHENTICATION_FAILED", "_AUTHENTICATION"}


def redrive(
    config: Mapping[str, Any],
    dead_letter_topic: str,
    *,
    where: Callable[[DeadMessage], bool] | None = None,
    limit: int | None = None,
    timeout_s: float = 10.0,
    dry_run: bool = False,
    again: bool = False,
    topic: str = "",
    group: str = "",
) -> int:
    """Send dead letters back to the topic they came from. Returns how many.

    A redriven message has a claim key of its own, so it is handled though its first life is marked as done; the same
    dead letter redriven twice is handled once, and other consumer groups of the topic, which had it before, skip it. It
    goes to the partition it came from, with its key, headers and value (a tombstone stays one), and with its own
    timestamp unless half of the topic's retention has passed since then: the topic would soon delete it, so it gets
    today's.

    Dead letters that are there when the call begins are read from where the last call ended (the group
    `headgate-redrive-{topic}` remembers it); those that `where` leaves are passed over, and stay in the topic for as
    long as it keeps them: `again=True` reads them once more.

    Args:
        config: settings of librdkafka; "bootstrap.servers" at least.
        dead_letter_topic: where the dead letters are.
        where: which ones to send; default all. A tombstone's dead letter has the value None.
        limit: at most so many.
        timeout_s: how long to wait for the brokers.
        dry_run: send and remember nothing; only count.
        again: begin with the oldest dead letter that the topic has.
        topic: where dead letters go that do not say where they came from; without it they are passed over.
        group: the consumer group that remembers; default `headgate-redrive-{topic}`. Calls with other filters that must
            not pass over each other's dead letters have groups of their own.

    Raises:
        ConfigError: there is no such topic, or a setting is wrong.
        TransientError: the brokers did not answer or a message was not confirmed; what was sent is remembered.

    Example:
        >>> redrive({"bootstrap.servers": "localhost:9092"}, "orders.DLQ",             # doctest: +SKIP
        ...         where=lambda letter: letter.error_kind == "attempts_exhausted", dry_run=True)
        17
    """
    check_seconds("redrive: timeout_s", timeout_s)
    if limit is not None and check_count("redrive: limit", limit, 0) == 0:
        return 0
    reader = LetterReader(config, dead_letter_topic, timeout_s, group or f"headgate-redrive-{dead_letter_topic}")
    sender = KafkaSender(config, max(DEAD_LETTER_TIMEOUT_S, timeout_s))
    targets = _Targets(config, timeout_s)
    sent = 0
    try:
        for dead_letter in reader.dead_letters(from_start=again):
            target = dead_letter.topic or topic
            if target and (where is None or where(dead_letter)):
                if not dry_run:
                    sender.send(
                        target, dead_letter.key, dead_letter.value, headers_to_send_back(dead_letter),
                        partition=targets.partition(target, dead_letter),
                        timestamp_ms=targets.timestamp_ms(target, dead_letter),
                    )  # fmt: skip
                sent += 1
            if not dry_run:
                reader.remember()
            if sent == limit:
                break
    finally:
        sender.close()
        reader.close()
    return sent


class LetterReader:
    """Reads a topic from its partitions' beginnings or committed offsets to where they end now.

    Args:
        config: settings of librdkafka.
        topic: the dead-letter topic.
        timeout_s: how long to wait for the brokers.
        group: whose committed offsets to begin with.
    """

    def __init__(self, config: Mapping[str, Any], topic: str, timeout_s: float, group: str = "headgate-dlq") -> None:
        self._kafka = kafka_module()
        self._topic = topic
        self._timeout_s = timeout_s
        self._client = make_client(self._kafka.Consumer, {
            **consumer_settings(config), "auto.offset.reset": "earliest", "group.id": group,
            "enable.auto.commit": False, "enable.auto.offset.store": False, "enable.partition.eof": True,
            "isolation.level": "read_committed",
        })  # fmt: skip
        self._read = (0, 0)  # partition and next offset of the dead letter that was yielded last
        self._positions: dict[int, int] = {}
        self._remembered = 0

    def dead_letters(self, *, from_start: bool) -> Iterator[DeadMessage]:
        """The dead letters that are there now, each partition's in order.

        Raises:
            ConfigError: there is no such topic.
            AccessError: the broker refuses the credentials.
            TransientError: the brokers do not answer.
        """
        places = [self._kafka.TopicPartition(self._topic, number) for number in self._partitions()]
        if not from_start:
            places = self._asked(lambda: self._client.committed(places, timeout=self._timeout_s))
        for place in places:
            if place.offset < 0:
                place.offset = self._kafka.OFFSET_BEGINNING
        return self._read_from(places)

    def _read_from(self, places: list[Any]) -> Iterator[DeadMessage]:
        self._client.assign(places)
        unread = {place.partition for place in places}
        deadline = time.monotonic() + self._timeout_s
        while unread:
            message = self._client.poll(_POLL_S)
            if message is None:
                if time.monotonic() >= deadline:
                    raise TransientError(self._no_answer())
                continue
            error = message.error()
            if error is None:
                deadline = time.monotonic() + self._timeout_s
                if message.partition() in unread:
                    self._read = (message.partition(), message.offset() + 1)
                    yield read_letter(message)
            elif error.code() == self._kafka.KafkaError._PARTITION_EOF:
                unread.discard(message.partition())
                self._client.pause([self._kafka.TopicPartition(self._topic, message.partition())])
            elif error.name() in _REFUSED:
                text = f"Kafka refuses: {error.name()}"
                raise AccessError(text)
            elif error.fatal() or time.monotonic() >= deadline:
                raise TransientError(self._no_answer())

    def letter_at(self, partition: int, offset: int) -> DeadMessage | None:
        """One dead letter, or None: the topic has none at this place (any more).

        Raises:
            As `letters`.
        """
        if partition not in self._partitions():
            return None
        for dead_letter in self._read_from([self._kafka.TopicPartition(self._topic, partition, offset)]):
            return dead_letter if dead_letter.place == f"{self._topic}-{partition}-{offset}" else None
        return None

    def remember(self) -> None:
        """The dead letter that was read last is dealt with. It is committed now and then, and the rest by `close`."""
        partition, position = self._read
        self._positions[partition] = position
        self._remembered += 1
        if self._remembered % _COMMIT_EVERY == 0:
            self._commit()

    def close(self) -> None:
        """Commit what is to be remembered."""
        try:
            if self._remembered % _COMMIT_EVERY:
                self._commit()
        finally:
            self._client.close()

    def _commit(self) -> None:
        places = [self._kafka.TopicPartition(self._topic, p, at) for p, at in self._positions.items()]
        self._asked(lambda: self._client.commit(offsets=places, asynchronous=False))

    def _partitions(self) -> list[int]:
        found = self._asked(lambda: self._client.list_topics(self._topic, timeout=self._timeout_s))
        topic = found.topics[self._topic]
        if topic.error is not None:
            check_letter_topic(self._kafka, topic.error, self._topic)
        return sorted(topic.partitions)

    def _asked(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except self._kafka.KafkaException as error:
            message = f"{self._no_answer()}: {error.args[0].name()}"
            raise TransientError(message) from None

    def _no_answer(self) -> str:
        return f"the brokers did not answer for the Kafka topic {self._topic}"


class _Targets:
    """What is known of the topics that dead letters go back to."""

    def __init__(self, config: Mapping[str, Any], timeout_s: float) -> None:
        self._kafka = kafka_module()
        self._admin = make_client(self._kafka.admin.AdminClient, client_settings(config))
        self._timeout_s = timeout_s
        self._partitions: dict[str, int] = {}
        self._keeps_ms: dict[str, float] = {}

    def partition(self, topic: str, dead_letter: DeadMessage) -> int | None:
        """The partition that the record came from, so that a key's records stay in one, or None: by its key."""
        if dead_letter.partition is None or topic != dead_letter.topic:
            return None
        if topic not in self._partitions:
            try:
                found = self._admin.list_topics(topic, timeout=self._timeout_s).topics[topic]
            except self._kafka.KafkaException as error:
                message = f"the brokers did not answer for the Kafka topic {topic}: {error.args[0].name()}"
                raise TransientError(message) from None
            if found.error is not None:
                check_letter_topic(self._kafka, found.error, topic)
            self._partitions[topic] = len(found.partitions)
        return dead_letter.partition if dead_letter.partition < self._partitions[topic] else None

    def timestamp_ms(self, topic: str, dead_letter: DeadMessage) -> int:
        """The record's own timestamp, or 0: now."""
        if dead_letter.timestamp_ms == 0:
            return 0
        if topic not in self._keeps_ms:
            self._keeps_ms[topic] = self._retention_ms(topic)
        age_ms = time.time() * 1000 - dead_letter.timestamp_ms
        return dead_letter.timestamp_ms if age_ms < self._keeps_ms[topic] / 2 else 0

    def _retention_ms(self, topic: str) -> float:
        resource = self._kafka.admin.ConfigResource("topic", topic)
        try:
            found = self._admin.describe_configs([resource], request_timeout=self._timeout_s)[resource].result()
            retention_ms = float(found["retention.ms"].value)
        except (self._kafka.KafkaException, KeyError, ValueError):
            return 0.0  # not known: today's timestamp is always kept
        return float("inf") if retention_ms < 0 else retention_ms
