"""Where announcements go when their readers are elsewhere: Kafka topics, SNS topics, SQS queues.

A publisher takes outbox rows and says which of them have arrived; the rest stay in the outbox. An answer may be lost
after the message arrived, so announcements come at least once, and consumers know them by their identity.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from headgate.backends.kafka import make_client, producer_settings
from headgate.errors import ConfigError, Kind, needed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headgate.ports import Announcement, Publisher

log = logging.getLogger("headgate.publish")
_TIMEOUT_S = 10.0
_ALERTS = ".alerts"
# facts of an alert -> its message attributes (spec 001, section 4)
_FACTS = {
    "alert_type": ("AlertType", "String"), "failure_count": ("FailureCount", "Number"),
    "source": ("Source", "String"), "latency_ms": ("LatencyMs", "Number"),
}  # fmt: skip
_AWS_BATCH = 10  # PublishBatch and SendMessageBatch take ten entries


class KafkaPublisher:
    """Publishes each announcement to the Kafka topic of its own name, keyed by its key.

    Args:
        config: settings of librdkafka; "bootstrap.servers" at least. Without `message.max.bytes` the topic's limit
            holds alone.
    """

    def __init__(self, config: Mapping[str, Any], timeout_s: float = _TIMEOUT_S) -> None:
        with needed("kafka:// needs confluent-kafka", "headgate[kafka]"):
            import confluent_kafka
        self._timeout_s = timeout_s
        self._errors: tuple[type[BaseException], ...] = (BufferError, confluent_kafka.KafkaException)
        settings = {"logger": log, **producer_settings(config, timeout_s)}
        self._producer = make_client(confluent_kafka.Producer, settings)

    def publish(self, announcements: Sequence[Announcement]) -> list[int]:
        arrived: list[int] = []

        def delivered(row: int) -> Any:
            return lambda error, _: arrived.append(row) if error is None else log.warning(
                "not published", extra={"error": error.name()}
            )  # fmt: skip

        for a in announcements:
            try:
                self._producer.produce(a.topic, a.body.encode(), a.key.encode(), on_delivery=delivered(a.row))
            except self._errors as error:
                log.warning("not published", extra={"error": type(error).__name__})
                break
        self._producer.flush(self._timeout_s + 1.0)
        return arrived


class SnsPublisher:
    """Publishes every announcement to one SNS topic; its own topic is the message attribute `topic`."""

    def __init__(self, client: Any, topic_arn: str) -> None:
        self._client = client
        self._arn = topic_arn

    def publish(self, announcements: Sequence[Announcement]) -> list[int]:
        return _in_tens(announcements, self._send)

    def _send(self, tens: Sequence[Announcement]) -> Any:
        entries = [
            {"Id": str(a.row), "Message": a.body, "MessageAttributes": _attributes(a), **_fifo(self._arn, a)}
            for a in tens
        ]
        return self._client.publish_batch(TopicArn=self._arn, PublishBatchRequestEntries=entries)


class SqsPublisher:
    """Sends every announcement to one SQS queue; its own topic is the message attribute `topic`."""

    def __init__(self, client: Any, queue_url: str) -> None:
        self._client = client
        self._url = queue_url

    def publish(self, announcements: Sequence[Announcement]) -> list[int]:
        return _in_tens(announcements, self._send)

    def _send(self, tens: Sequence[Announcement]) -> Any:
        entries = [
            {"Id": str(a.row), "MessageBody": a.body, "MessageAttributes": _topic(a), **_fifo(self._url, a)}
            for a in tens
        ]
        return self._client.send_message_batch(QueueUrl=self._url, Entries=entries)


class RoutedPublisher:
    """Alerts to one place, everything else to another.

    Args:
        default: takes what is no alert; None: that stays with this machine's own consumers.
        alerts: takes the topics that end in ".alerts".
    """

    def __init__(self, default: Publisher | None, alerts: Publisher) -> None:
        self._default, self._alerts = default, alerts

    def publish(self, announcements: Sequence[Announcement]) -> list[int]:
        alerts = [a for a in announcements if a.topic.endswith(_ALERTS)]
        others = [a for a in announcements if not a.topic.endswith(_ALERTS)]
        arrived = list(self._alerts.publish(alerts)) if alerts else []
        if self._default is None:
            return [*arrived, *(a.row for a in others)]
        return [*arrived, *(self._default.publish(others) if others else ())]


def open_publisher(url: str) -> Publisher:
    """The publisher that a URL names.

    Args:
        url: ``kafka://host:port[,host:port]?setting=value`` (settings of librdkafka), ``sns://topic-arn`` or
            ``sqs://queue-url-without-scheme``; for the AWS ones `region` and `endpoint` may follow a question mark.

    Raises:
        ConfigError: another scheme, or an extra that is not installed.
    """
    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    options = dict(parse_qsl(query))
    if scheme == "kafka":
        return KafkaPublisher({"bootstrap.servers": unquote(place.strip("/")), **options})
    if scheme not in {"sns", "sqs"} or not place:
        found = urlsplit(url).scheme
        message = f"backends.notify: unknown backend scheme {found!r}; expected kafka://, sns:// or sqs://"
        raise ConfigError(message, Kind.UNSUPPORTED_SCHEME)
    if scheme == "sns":
        return SnsPublisher(_client("sns", options), place)
    return SqsPublisher(*sqs_client(place, options))


def sqs_client(place: str, options: Mapping[str, str]) -> tuple[Any, str]:
    """A boto3 client and the queue's URL, for ``sqs://place?region=...&endpoint=...``."""
    plain = options.get("endpoint", "").startswith("http://")
    return _client("sqs", options), f"{'http' if plain else 'https'}://{place}"


def _client(service: str, options: Mapping[str, str]) -> Any:
    with needed(f"{service}:// needs boto3", "headgate[aws]"):
        import boto3
    return boto3.Session().client(service, region_name=options.get("region"), endpoint_url=options.get("endpoint"))


def _topic(announcement: Announcement) -> dict[str, Any]:
    return {"topic": {"DataType": "String", "StringValue": announcement.topic}}


def _attributes(announcement: Announcement) -> dict[str, Any]:
    found = _topic(announcement)
    if announcement.topic.endswith(_ALERTS):
        body = json.loads(announcement.body)
        for fact, (name, kind) in _FACTS.items():
            if fact in body:
                found[name] = {"DataType": kind, "StringValue": str(body[fact])}
    return found


def _fifo(name: str, announcement: Announcement) -> dict[str, str]:
    if not name.endswith(".fifo"):
        return {}
    # An announcement that is sent twice within five minutes is dropped by the service itself.
    return {"MessageGroupId": announcement.topic, "MessageDeduplicationId": f"{announcement.topic}-{announcement.row}"}


def _in_tens(announcements: Sequence[Announcement], send: Any) -> list[int]:
    arrived: list[int] = []
    for at in range(0, len(announcements), _AWS_BATCH):
        try:
            answer = send(announcements[at : at + _AWS_BATCH])
        except Exception as error:
            log.warning("not published", extra={"error": type(error).__name__})
            break
        arrived += [int(entry["Id"]) for entry in answer.get("Successful", ())]
    return arrived
