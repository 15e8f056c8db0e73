"""Where announcements go when their readers are elsewhere: Kafka topics, SNS topics, SQS queues.

A publisher takes outbox rows and says which of them have arrived and which can never be sent; the outbox marks the
first, sets the second aside as dead letters, and keeps the rest. An answer may be lost after the message arrived, so
announcements come at least once, and consumers know them by their identity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from headgate.backends._publish_aws import ALERTS, SnsPublisher, SqsPublisher, aws_client, aws_options
from headgate.backends._publish_kafka import KafkaPublisher
from headgate.errors import ConfigError, Kind
from headgate.ports import Published

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headgate.ports import Announcement, Publisher

__all__ = ["KafkaPublisher", "RoutedPublisher", "SnsPublisher", "SqsPublisher", "open_publisher", "sqs_client"]


class RoutedPublisher:
    """Alerts to one place, everything else to another.

    Args:
        default: takes what is no alert; None: that stays with this machine's own consumers.
        alerts: takes the topics that end in ".alerts".
    """

    def __init__(self, default: Publisher | None, alerts: Publisher) -> None:
        self._default, self._alerts = default, alerts

    def publish(self, announcements: Sequence[Announcement]) -> Published:
        """Send these, each to its place. One place being away keeps nothing from the other."""
        alerts = [a for a in announcements if a.topic.endswith(ALERTS)]
        others = [a for a in announcements if not a.topic.endswith(ALERTS)]
        parts = [_published(self._alerts.publish(alerts))] if alerts else []
        if self._default is None:
            parts.append(Published(a.row for a in others))
        elif others:
            parts.append(_published(self._default.publish(others)))
        return Published(
            (row for part in parts for row in part),
            {row: refusal for part in parts for row, refusal in part.refused.items()},
            is_away=all(part.is_away for part in parts),
            stuck={topic for part in parts for topic in part.stuck},
            error=next((part.error for part in parts if part.error is not None), None),
        )


def open_publisher(url: str) -> Publisher:
    """The publisher that a URL names.

    Args:
        url: ``kafka://host:port[,host:port]?setting=value`` (settings of librdkafka), ``sns://topic-arn`` or
            ``sqs://queue-url-without-scheme``; for the AWS ones `region`, `endpoint` and `max_bytes` (of a batch, and
            of a message with its attributes; default 262144 and 1048576) may follow a question mark.

    Raises:
        ConfigError: another scheme, an unknown option, or an extra that is not installed.
    """
    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if scheme == "kafka":
        return KafkaPublisher({"bootstrap.servers": unquote(place.strip("/")), **options})
    if scheme not in {"sns", "sqs"} or not place:
        found = urlsplit(url).scheme
        message = f"backends.notify: unknown backend scheme {found!r}; expected kafka://, sns:// or sqs://"
        raise ConfigError(message, Kind.UNSUPPORTED_SCHEME)
    own = aws_options(f"backends.notify: {scheme}://", options)
    if scheme == "sns":
        return SnsPublisher(aws_client("sns", options), place, **own)
    return SqsPublisher(*sqs_client(place, options), **own)


def sqs_client(place: str, options: Mapping[str, str]) -> tuple[Any, str]:
    """A boto3 client and the queue's URL, for ``sqs://place?region=...&endpoint=...``."""
    plain = options.get("endpoint", "").startswith("http://")
    return aws_client("sqs", options), f"{'http' if plain else 'https'}://{place}"


def _published(rows: Sequence[int]) -> Published:
    return rows if isinstance(rows, Published) else Published(rows)
