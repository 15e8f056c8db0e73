"""Dead-letter topics of Kafka: what goes in, and how it comes out again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headgate.errors import TransientError, needed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from headgate.consume._process import Burial, Delivery

DEAD_LETTER_TIMEOUT_S = 5.0  # spec 004, section 4
_PREFIX = "headgate-"
_REDRIVE = "headgate-redrive"
Headers = tuple[tuple[str, bytes], ...]


def kafka_module() -> Any:
    """confluent_kafka, or one sentence about how to get it."""
    with needed("Kafka needs confluent-kafka", "headgate[kafka]"):
        import confluent_kafka
        import confluent_kafka.admin
    return confluent_kafka


def redrive_count(headers: Sequence[tuple[str, bytes]]) -> int:
    """How often a message came back from the dead letters."""
    for name, value in headers:
        if name == _REDRIVE and value.isdigit():
            return int(value)
    return 0


def producer_config(config: Mapping[str, Any], *, idempotent: bool = True) -> dict[str, Any]:
    """A consumer's settings without those that a producer or an admin client does not take."""
    ours = ("bootstrap.servers", "security.", "sasl.", "ssl.", "client.id", "socket.", "broker.", "metadata.", "log")
    kept = {name: value for name, value in config.items() if name.startswith(ours)}
    return {**kept, "enable.idempotence": True, "acks": "all"} if idempotent else kept


class Publisher:
    """Sends one message and waits until the brokers have it.

    Raises:
        TransientError: it was not confirmed in time. It may have arrived all the same.
    """

    def __init__(self, config: Mapping[str, Any], timeout_s: float) -> None:
        self._kafka = kafka_module()
        timeout_ms = max(1, int(timeout_s * 1000))
        self._timeout_s = timeout_s
        self._producer = self._kafka.Producer({**producer_config(config), "message.timeout.ms": timeout_ms})

    def send(self, topic: str, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> None:
        outcome: list[Any] = []

        def delivered(error: Any, _: Any) -> None:
            outcome.append(error)

        try:
            self._producer.produce(topic, value, key, headers=list(headers), on_delivery=delivered)
        except (BufferError, self._kafka.KafkaException) as error:
            message = f"Kafka did not take a message for {topic}: {type(error).__name__}"
            raise TransientError(message) from None
        self._producer.flush(self._timeout_s + 1.0)
        if not outcome or outcome[0] is not None:
            why = outcome[0].name() if outcome else "no answer"
            message = f"a message for {topic} was not confirmed: {why}"
            raise TransientError(message)

    def close(self) -> None:
        self._producer.flush(0)


class KafkaLetters:
    """An undertaker: the original bytes, key and headers, and beside them why and where from."""

    def __init__(self, config: Mapping[str, Any], topic: str, consumer: str, timeout_s: float) -> None:
        self.topic = topic
        self._consumer = consumer
        self._config = config
        self._timeout_s = timeout_s
        self._publisher: Publisher | None = None

    def __call__(self, delivery: Delivery, burial: Burial, tx: Any) -> None:
        if self._publisher is None:
            self._publisher = Publisher(self._config, self._timeout_s)
        about = {
            "topic": delivery.topic, "consumer": self._consumer, "error-kind": str(burial.kind),
            "error": burial.reason, "attempts": str(burial.attempts), **delivery.source,
        }  # fmt: skip
        kept = tuple((name, value) for name, value in delivery.headers if not name.startswith(_PREFIX))
        added = tuple((_PREFIX + name, text.encode()) for name, text in about.items())
        count = ((_REDRIVE, str(delivery.redrive).encode()),) if delivery.redrive else ()
        self._publisher.send(self.topic, delivery.key, delivery.value, (*kept, *added, *count))

    def close(self) -> None:
        if self._publisher is not None:
            self._publisher.close()


@dataclass(frozen=True)
class DeadMessage:
    """A dead letter, as `redrive` shows it to a filter."""

    value: bytes
    key: bytes | None
    headers: Headers
    topic: str  # where it came from
    error_kind: str
    error: str
    attempts: int


def redrive(
    config: Mapping[str, Any],
    dead_letter_topic: str,
    *,
    where: Callable[[DeadMessage], bool] | None = None,
    limit: int | None = None,
    timeout_s: float = 10.0,
) -> int:
    """Send dead letters back to the topic they came from; how many.

    A redriven message has a claim key of its own, so it is handled though its first life is marked as done; the same
    letter redriven twice is handled once. Letters that `where` leaves are skipped for good by this call's group
    (`headgate-redrive-{topic}`); they stay in the topic for as long as it keeps them.

    Args:
        config: settings of librdkafka; "bootstrap.servers" at least.
        dead_letter_topic: where the letters are.
        where: which ones to send; default all.
        limit: at most so many.
        timeout_s: ends when no letter came for so long.

    Raises:
        TransientError: a message was not confirmed; what was sent before it is committed.
    """
    kafka = kafka_module()
    consumer = kafka.Consumer({
        "auto.offset.reset": "earliest", **config, "group.id": f"headgate-redrive-{dead_letter_topic}",
        "enable.auto.commit": False,
    })  # fmt: skip
    publisher = Publisher(config, DEAD_LETTER_TIMEOUT_S)
    sent = 0
    try:
        consumer.subscribe([dead_letter_topic])
        while limit is None or sent < limit:
            message = consumer.poll(timeout_s)
            if message is None:
                break
            if message.error() is not None:
                continue
            letter = _letter(message)
            if letter.topic and (where is None or where(letter)):
                again = (_REDRIVE, str(redrive_count(letter.headers) + 1).encode())
                kept = tuple((name, value) for name, value in letter.headers if not name.startswith(_PREFIX))
                publisher.send(letter.topic, letter.key, letter.value, (*kept, again))
                sent += 1
            consumer.commit(message=message, asynchronous=False)
    finally:
        publisher.close()
        consumer.close()
    return sent


def _letter(message: Any) -> DeadMessage:
    headers: Headers = tuple((name, value or b"") for name, value in message.headers() or ())
    ours = {name.removeprefix(_PREFIX): value.decode(errors="replace") for name, value in headers}
    attempts = ours.get("attempts", "0")
    return DeadMessage(
        message.value() or b"", message.key(), headers, ours.get("topic", ""), ours.get("error-kind", ""),
        ours.get("error", ""), int(attempts) if attempts.isdigit() else 0,
    )  # fmt: skip
