"""Dead-letter topics on Kafka: their records, and how they are read back.

A dead letter is the original record (key, value, headers) with headers that begin with `headgate-`: where the record
was, why it is a dead letter, and `headgate-redrive`, the number of the life that begins when the dead letter is sent
back. The number is in the dead letter itself, so that a dead letter which another tool copies back with its headers is
handled once.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headgate.backends.kafka import LARGEST_MESSAGE_BYTES, kafka_module, make_client, producer_settings
from headgate.errors import ConfigError, Kind, TransientError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headgate.consume._messages import DeadLetterCause, Delivery, Headers
    from headgate.ports import Metrics

log = logging.getLogger("headgate.consume")
DEAD_LETTER_TIMEOUT_S = 5.0  # how long a worker waits for the confirmation of a dead letter
# Format 1 has no format header. In it, `headgate-redrive` was the number of the last redrive, if there was one.
LETTER_FORMAT = "2"
_TOPIC, _PARTITION, _OFFSET = "headgate-topic", "headgate-partition", "headgate-offset"
_CONSUMER, _KIND, _ERROR, _ATTEMPTS = (
    "headgate-consumer", "headgate-error-kind", "headgate-error", "headgate-attempts",
)  # fmt: skip
_REDRIVE, _FORMAT, _TIMESTAMP = "headgate-redrive", "headgate-letter-format", "headgate-timestamp"
OWN_HEADERS = frozenset({
    _TOPIC, _PARTITION, _OFFSET, _CONSUMER, _KIND, _ERROR, _ATTEMPTS, _REDRIVE, _FORMAT, _TIMESTAMP,
})  # fmt: skip
_TOO_LARGE = {"MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE"}


@dataclass(frozen=True)
class RedriveHistory:
    """How often a record was a dead letter and was sent back, read from its headers.

    Attributes:
        redrive: how often it came back from this consumer's dead letters.
        redriven_for: the consumer whose dead letter it was, if it was one.
        origin: topic, partition and offset of the record that became a dead letter.
    """

    redrive: int = 0
    redriven_for: str = ""
    origin: str = ""


def read_redrive_history(headers: Headers, consumer: str) -> RedriveHistory:
    """Which life of a record this is, for one consumer group.

    A record that another group's redrive sent is not new to this group: its number does not count.
    """
    found = _own(headers)
    if _REDRIVE not in found and _KIND not in found:
        return RedriveHistory()
    count = _number(found.get(_REDRIVE, ""))
    if _KIND in found and _FORMAT not in found:
        count += 1  # a dead letter of release 0.1, copied by another tool
    owner = found.get(_CONSUMER, "")
    return RedriveHistory(count if owner in {"", consumer} else 0, owner, _place(found))


class MessageTooLargeError(TransientError):
    """The topic, or the producer's own settings, refuse a message for its size."""

    default_kind = Kind.MESSAGE_TOO_LARGE


class KafkaSender:
    """Sends one message and waits until the brokers have it; safe from several threads.

    A message that is refused for its size is sent again through a producer that compresses and has no limits of its
    own: the topic's limit holds for what is stored, and the record may have come compressed.

    Args:
        config: settings of librdkafka, of the consumer that the messages come from.
        timeout_s: how long to wait for the confirmation.

    Raises:
        ConfigError: a setting that producers do not take by their nature (`transactional.id`).
    """

    def __init__(self, config: Mapping[str, Any], timeout_s: float) -> None:
        self._kafka = kafka_module()
        self._timeout_s = timeout_s
        self._settings = producer_settings(config, timeout_s)
        self._lock = threading.Lock()
        self._producers: dict[bool, Any] = {}

    def send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Sequence[Headers], *,
        partition: int | None = None, timestamp_ms: int = 0,
    ) -> int:  # fmt: skip
        """Send a message with the first of several sets of headers that the topic takes; the index of that set.

        Raises:
            MessageTooLargeError: it is too large with each of them.
            TransientError: it was not confirmed in time. It may have arrived all the same.
        """
        more: dict[str, Any] = {"timestamp": timestamp_ms} if timestamp_ms > 0 else {}
        if partition is not None:
            more["partition"] = partition
        attempts = [(False, 0), *((True, index) for index in range(len(headers)))]
        for is_roomy, index in attempts:
            try:
                self._send(is_roomy, topic, value, key, {**more, "headers": list(headers[index])})
            except MessageTooLargeError:
                if (is_roomy, index) == attempts[-1]:
                    raise
            else:
                return index
        raise AssertionError  # pragma: no cover - the last attempt returns or raises

    def close(self) -> None:
        """Give up what is not confirmed yet, and the connections."""
        with self._lock:
            producers = list(self._producers.values())
            self._producers.clear()
        for producer in producers:
            producer.flush(0)

    def _send(self, is_roomy: bool, topic: str, value: bytes | None, key: bytes | None, more: dict[str, Any]) -> None:
        outcome: list[Any] = []
        producer = self._producer(is_roomy)

        def delivered(error: Any, _: Any) -> None:
            outcome.append(error)

        try:
            producer.produce(topic, value, key, on_delivery=delivered, **more)
        except BufferError:
            if not is_roomy:  # larger than the whole buffer, or behind others that wait
                message = f"the producer's buffer (queue.buffering.max.kbytes) has no room for a message for {topic}"
                raise MessageTooLargeError(message) from None
            message = f"a message for {topic} was not confirmed: the producer's buffer is full"
            raise TransientError(message) from None
        except self._kafka.KafkaException as error:
            raise self._failed(is_roomy, topic, error.args[0]) from None
        producer.flush(self._timeout_s + 1.0)
        if not outcome:
            message = f"a message for {topic} was not confirmed: no answer"
            raise TransientError(message)
        if outcome[0] is not None:
            raise self._failed(is_roomy, topic, outcome[0])

    def _failed(self, is_roomy: bool, topic: str, error: Any) -> TransientError:
        if error.name() in _TOO_LARGE:
            message = f"a message for {topic} is larger than the topic takes (max.message.bytes)"
            return MessageTooLargeError(message)
        if error.fatal():
            with self._lock:
                self._producers.pop(is_roomy, None)  # it takes nothing any more; the next message gets a new one
        message = f"a message for {topic} was not confirmed: {error.name()}"
        return TransientError(message)

    def _producer(self, is_roomy: bool) -> Any:
        with self._lock:
            if is_roomy not in self._producers:
                settings = self._settings
                if is_roomy:
                    mine = ("compression.", "message.max.bytes", "queue.buffering.max.")
                    settings = {name: value for name, value in settings.items() if not name.startswith(mine)}
                    settings |= {"compression.type": "zstd", "message.max.bytes": LARGEST_MESSAGE_BYTES}
                self._producers[is_roomy] = make_client(self._kafka.Producer, settings)
            return self._producers[is_roomy]


class KafkaDeadLetterQueue:
    """Puts dead letters into a topic: the original bytes, key and headers, and beside them why and where from.

    The topic's limit may be the size of the record itself. Then the dead letter goes with fewer of our headers, in the
    end with none; if it is refused even so, the message stays where it is and a log line and a metric say it.
    """

    def __init__(
        self, config: Mapping[str, Any], topic: str, consumer: str, timeout_s: float, metrics: Metrics | None = None
    ) -> None:
        self.topic = topic
        self._consumer = consumer
        self._metrics = metrics
        self._sender = KafkaSender(config, timeout_s)

    def __call__(self, delivery: Delivery, cause: DeadLetterCause, tx: Any) -> None:
        kept = tuple((name, value) for name, value in delivery.headers if name not in OWN_HEADERS)
        needed = {
            _TOPIC: delivery.topic, _CONSUMER: self._consumer, _KIND: str(cause.kind), _FORMAT: LETTER_FORMAT,
            _REDRIVE: str(delivery.redrive + 1),
        }  # fmt: skip
        about = {
            **needed, _ERROR: cause.reason, _ATTEMPTS: str(cause.attempts),
            **{f"headgate-{name}": text for name, text in delivery.source.items()},
        }  # fmt: skip
        choices = ((*kept, *_encoded(about)), (*kept, *_encoded(needed)), kept)
        try:
            index = self._sender.send(self.topic, delivery.key, delivery.value, choices)
        except MessageTooLargeError:
            size = len(delivery.value or b"") + len(delivery.key or b"")
            message = (
                f"the dead-letter topic {self.topic} refuses a message of {size} bytes for its size, even without "
                "headers and compressed: raise its max.message.bytes to that of the topic it comes from; until then "
                "the message holds its partition"
            )
            self._say(message, delivery)
            if self._metrics is not None:
                self._metrics.count(
                    "headgate_dead_letters_refused_total", consumer=self._consumer, topic=delivery.topic
                )
            raise MessageTooLargeError(message) from None
        if index:
            self._say("dead letter with fewer headers: the topic's max.message.bytes leaves no room for them", delivery)

    def close(self) -> None:
        """Give up what is not confirmed yet."""
        self._sender.close()

    def _say(self, text: str, delivery: Delivery) -> None:
        about = {"consumer": self._consumer, "topic": delivery.topic, "message_id": delivery.message_id}
        log.warning(text, extra=about)


@dataclass(frozen=True)
class DeadMessage:
    """A dead letter, as it is read from its topic.

    Attributes:
        value: the record's bytes; None for a tombstone.
        key: the record's key, or None.
        headers: all of them, headgate's own among them.
        topic: where the record came from; empty if the dead letter does not say.
        error_kind: a stable word of `Kind`, or "attempts_exhausted".
        error: the reason, one line.
        attempts: how often the handler was tried.
        consumer: whose dead letter it is.
        redrive: the life that begins when it is sent back: 1 for the first redrive.
        partition: where the record was in its topic, or None.
        message_id: topic, partition and offset of the record; empty if the dead letter does not say.
        dead_letter_topic: where the dead letter lies.
        place: where exactly: dead-letter topic, partition and offset.
        timestamp_ms: of the original record, Unix time; 0 if the dead letter does not say.
    """

    value: bytes | None
    key: bytes | None
    headers: Headers
    topic: str
    error_kind: str
    error: str
    attempts: int
    consumer: str = ""
    redrive: int = 1
    partition: int | None = None
    message_id: str = ""
    dead_letter_topic: str = ""
    place: str = ""
    timestamp_ms: int = 0


def read_letter(message: Any) -> DeadMessage:
    """A record of a dead-letter topic, read."""
    headers: Headers = tuple(message.headers() or ())
    found = _own(headers)
    partition = found.get(_PARTITION, "")
    return DeadMessage(
        value=message.value(), key=message.key(), headers=headers, topic=found.get(_TOPIC, ""),
        error_kind=found.get(_KIND, ""), error=found.get(_ERROR, ""), attempts=_number(found.get(_ATTEMPTS, "")),
        consumer=found.get(_CONSUMER, ""),
        redrive=_number(found.get(_REDRIVE, "")) + (0 if _FORMAT in found else 1),
        partition=_number(partition) if partition else None, message_id=_place(found),
        dead_letter_topic=message.topic(), place=f"{message.topic()}-{message.partition()}-{message.offset()}",
        timestamp_ms=_number(found.get(_TIMESTAMP, ""), 15),
    )  # fmt: skip


def headers_to_send_back(dead_letter: DeadMessage) -> tuple[Headers, ...]:
    """The headers of a redriven record, from the wanted ones to none of ours."""
    kept = tuple((name, value) for name, value in dead_letter.headers if name not in OWN_HEADERS)
    found = _own(dead_letter.headers)
    needed = {_REDRIVE: str(dead_letter.redrive), **({_CONSUMER: dead_letter.consumer} if dead_letter.consumer else {})}
    origin = {name: found[name] for name in (_TOPIC, _PARTITION, _OFFSET) if name in found}
    return (*kept, *_encoded({**needed, **origin})), (*kept, *_encoded(needed)), kept


def check_letter_topic(kafka: Any, error: Any, topic: str) -> None:
    """Say what is wrong with a topic.

    Raises:
        ConfigError: there is none of this name.
        TransientError: it cannot be read now.
    """
    if error.code() in {kafka.KafkaError.UNKNOWN_TOPIC_OR_PART, kafka.KafkaError._UNKNOWN_TOPIC}:
        message = f"there is no Kafka topic {topic}"
        raise ConfigError(message)
    message = f"the Kafka topic {topic} cannot be read: {error.name()}"
    raise TransientError(message)


def _encoded(about: Mapping[str, str]) -> Headers:
    return tuple((name, text.encode("utf-8", "backslashreplace")) for name, text in about.items())


def _own(headers: Headers) -> dict[str, str]:
    """Our own headers as text; of one that is there several times the last."""
    return {
        name: value.decode("utf-8", "replace") for name, value in headers if name in OWN_HEADERS and value is not None
    }


def _place(found: Mapping[str, str]) -> str:
    parts = [found.get(name, "") for name in (_TOPIC, _PARTITION, _OFFSET)]
    return "-".join(parts) if all(parts) else ""


def _number(text: str, digits: int = 9) -> int:
    return int(text) if text.isdecimal() and text.isascii() and len(text) <= digits else 0
