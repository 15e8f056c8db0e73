"""Announcements for Kafka topics."""

from __future__ import annotations

import logging
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from headgate.backends._publish_order import Lanes
from headgate.backends.kafka import LARGEST_MESSAGE_BYTES, kafka_module, make_client
from headgate.errors import ConfigError, Kind
from headgate.ports import Published, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from headgate.ports import Announcement

log = logging.getLogger("headgate.publish")
_TIMEOUT_S = 10.0
_TIMEOUT_SETTINGS = ("message.timeout.ms", "delivery.timeout.ms")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_ROUND = 10_000  # messages on their way at a time
_TOO_LARGE = {"MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE", "INVALID_MSG_SIZE"}
_INVALID = {
    "INVALID_RECORD", "INVALID_TIMESTAMP", "UNSUPPORTED_FOR_MESSAGE_FORMAT", "POLICY_VIOLATION", "TOPIC_EXCEPTION",
    "_INVALID_ARG", "INVALID_CONFIG",
}  # fmt: skip
# Of the whole topic: it does not exist (yet), may not be written, or its partitions cannot be reached.
_OF_THE_TOPIC = {
    "_UNKNOWN_TOPIC", "UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_PARTITION", "TOPIC_AUTHORIZATION_FAILED", "_MSG_TIMED_OUT",
    "_TIMED_OUT", "LEADER_NOT_AVAILABLE", "NOT_ENOUGH_REPLICAS", "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
}  # fmt: skip
_OF_THE_BROKERS = {"_MSG_TIMED_OUT", "_TIMED_OUT", "_TRANSPORT", "_ALL_BROKERS_DOWN", "_RESOLVE", "_AUTHENTICATION"}
NO_ANSWER = "_TIMED_OUT"


class KafkaPublisher:
    """Publishes each announcement to the Kafka topic of its own name, keyed by its key.

    Announcements of one topic and key follow each other one by one; the others are sent concurrently. A
    topic that does not exist keeps its own announcements waiting (it may be created), and no others.

    Args:
        config: settings of librdkafka; "bootstrap.servers" at least. "message.timeout.ms" is how long one
            announcement may take, "message.max.bytes" how large one may be.
        timeout_s: how long one may take, if the settings do not contain it.

    Raises:
        ConfigError: librdkafka knows no such setting, or a setting would let announcements be lost.
    """

    def __init__(self, config: Mapping[str, Any], timeout_s: float = _TIMEOUT_S) -> None:
        self._kafka = kafka_module()
        # Without a limit of its own the topic's limit holds alone: librdkafka's default of 1 MB may be below it.
        self._config = {"message.max.bytes": LARGEST_MESSAGE_BYTES, **config, **_safe(config)}
        stated = next((self._config[name] for name in _TIMEOUT_SETTINGS if name in self._config), None)
        if stated is None:
            self._config["message.timeout.ms"] = int(timeout_s * 1000)
            self._timeout_s = timeout_s
        else:
            self._timeout_s = _milliseconds(stated) / 1000
        self._producer: Any = None
        self._open()  # a wrong setting is said now, not when the first announcement comes

    def publish(self, announcements: Sequence[Announcement]) -> Published:
        """Send these.

        Returns:
            The rows that arrived; `refused` those that no attempt can bring through.
        """
        done = Published()
        sendable = []
        for announcement in announcements:
            refusal = _check(announcement)
            if refusal is None:
                sendable.append(announcement)
            else:
                done.refused[announcement.row] = refusal
        lanes = Lanes(sendable, lambda a: (a.topic, a.key))
        waiting: Counter[str] = Counter()
        while batch := lanes.take(_ROUND, _ROUND, lambda _: 1):
            batch = [a for a in batch if a.topic not in done.stuck]
            answers = self._send_all(batch)
            for announcement in batch:
                answer = answers.get(announcement.row, NO_ANSWER)
                if answer in _TOO_LARGE and len(batch) > 1:
                    # The brokers refuse a whole batch of records: which one it was is known when each goes by itself.
                    answer = self._send_all([announcement]).get(announcement.row, NO_ANSWER)
                if answer == "":
                    done.append(announcement.row)
                elif answer in _TOO_LARGE or answer in _INVALID:
                    done.refused[announcement.row] = self._refusal(announcement, answer)
                else:
                    waiting[answer] += 1
                    if answer in _OF_THE_TOPIC:
                        done.stuck.add(announcement.topic)
                    continue
                lanes.settle(announcement)
        for name, count in waiting.items():
            log.warning("not published", extra={"error": name, "service": "Kafka", "count": count})
        done.is_away = bool(waiting) and not done and not done.refused and set(waiting) <= _OF_THE_BROKERS
        return done

    def _send_all(self, batch: Iterable[Announcement]) -> dict[int, str]:
        """Row -> the name of its error, or an empty text: it arrived."""
        producer = self._open()
        answers: dict[int, str] = {}

        def delivered(row: int) -> Any:
            def report(error: Any, _: Any) -> None:
                answers[row] = "" if error is None else self._name(error)

            return report

        for a in batch:
            name = self._produce(producer, a, delivered(a.row))
            if name == "_QUEUE_FULL":
                producer.flush(self._timeout_s + 1.0)
                name = self._produce(producer, a, delivered(a.row))
            if name:
                answers[a.row] = name
        producer.flush(self._timeout_s + 1.0)
        return answers

    def _produce(self, producer: Any, announcement: Announcement, report: Any) -> str:
        """The name of the error that librdkafka answers at once, or an empty text."""
        try:
            producer.produce(
                announcement.topic, announcement.body.encode(), announcement.key.encode(), on_delivery=report
            )
        except BufferError:
            return "_QUEUE_FULL"
        except self._kafka.KafkaException as error:
            return self._name(error.args[0])
        return ""

    def _name(self, error: Any) -> str:
        if error.fatal():
            self._producer = None  # it sends nothing any more: the next call opens another one
        name = str(error.name())
        return "retriable" if error.retriable() and (name in _TOO_LARGE or name in _INVALID) else name

    def _open(self) -> Any:
        if self._producer is None:
            self._producer = make_client(self._kafka.Producer, {"logger": log, **self._config})
        return self._producer

    def _refusal(self, announcement: Announcement, name: str) -> Refusal:
        if name in _TOO_LARGE:
            size = len(announcement.body.encode()) + len(announcement.key.encode())
            reason = (
                f"{size} bytes, more than message.max.bytes of the producer or max.message.bytes of the topic ({name})"
            )
            return Refusal(Kind.MESSAGE_TOO_LARGE.value, reason)
        return Refusal("invalid_topic" if name == "TOPIC_EXCEPTION" else "invalid_message", f"Kafka refuses it: {name}")


def _check(announcement: Announcement) -> Refusal | None:
    """Why Kafka would refuse it, or None."""
    if _TOPIC.fullmatch(announcement.topic) is None or announcement.topic in {".", ".."}:
        reason = "the topic's name is not one of Kafka's: 1 to 249 letters, digits, dots, underscores and hyphens"
        return Refusal("invalid_topic", reason)
    for name, text in (("key", announcement.key), ("body", announcement.body)):
        try:
            text.encode()
        except UnicodeEncodeError:
            return Refusal(Kind.INVALID_UNICODE.value, f"the {name} holds a lone surrogate, which UTF-8 cannot write")
    return None


def _safe(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without which an announcement could be lost or doubled by the producer itself."""
    acks = next((name for name in ("acks", "request.required.acks") if name in config), "acks")
    for name, good in (("enable.idempotence", ("true",)), (acks, ("all", "-1"))):
        if str(config.get(name, good[0])).lower() not in good:
            message = f"kafka://: {name}={config[name]} would let announcements be lost; expected {good[0]} or nothing"
            raise ConfigError(message)
    return {"enable.idempotence": True, acks: "all"}


def _milliseconds(value: Any) -> int:
    try:
        found = int(value)
    except (TypeError, ValueError):
        found = 0
    if found < 1:
        message = f"kafka://: message.timeout.ms: expected milliseconds, 1 or more, got {value!r}"
        raise ConfigError(message)
    return found
