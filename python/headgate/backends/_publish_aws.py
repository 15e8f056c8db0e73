"""Announcements for SNS topics and SQS queues, in batches that the services take."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from typing import TYPE_CHECKING, Any

from headgate.backends._aws_clients import connect_aws
from headgate.backends._process_client import ProcessClient
from headgate.backends._publish_order import Lanes
from headgate.errors import ConfigError, Kind
from headgate.ports import Published, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from headgate.ports import Announcement

log = logging.getLogger("headgate.publish")
_BATCH = 10  # entries of a PublishBatch or SendMessageBatch
SNS_BYTES = 262_144  # limit of a message and of a batch; a topic's MaximumMessageSize may allow up to 1 MiB
SQS_BYTES = 1_048_576  # limit of a message and of a batch
ALERTS = ".alerts"
# field of an alert -> the message attribute that carries it, so that subscriptions can filter by it
_FACTS = {
    "alert_type": ("AlertType", "String"), "failure_count": ("FailureCount", "Number"),
    "source": ("Source", "String"), "latency_ms": ("LatencyMs", "Number"), "last_error": ("LastError", "String"),
}  # fmt: skip
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what both services refuse
_GROUP_ID = re.compile(r"[!-~]{1,128}")

# Codes of both services, without "AWS.SimpleQueueService." before and "Exception" behind.
_TOO_LARGE = {"BatchRequestTooLong", "MessageTooLong", "RequestEntityTooLarge"}
_INVALID = {
    "InvalidMessageContents", "InvalidParameterValue", "InvalidParameter", "ParameterValueInvalid",
    "InvalidAttributeValue", "InvalidAttributeName", "InvalidBatchEntryId", "MissingParameter", "ValidationError",
    "Validation", "ParamValidationError", "UnicodeEncodeError", "InvalidParameterCombination", "MalformedInput",
}  # fmt: skip
_CONFIG = {
    "NonExistentQueue", "QueueDoesNotExist", "NotFound", "ResourceNotFound", "QueueDeletedRecently", "InvalidAddress",
    "AuthorizationError", "AccessDenied", "AuthFailure", "InvalidClientTokenId", "InvalidAccessKeyId",
    "UnrecognizedClient", "SignatureDoesNotMatch", "InvalidSignature", "InvalidSecurity", "MissingAuthenticationToken",
    "OptInRequired", "UnsupportedOperation", "EndpointDisabled", "PlatformApplicationDisabled", "KMSAccessDenied",
    "KMSDisabled", "KMSInvalidState", "KMSInvalidKeyUsage", "KMSNotFound", "KMSOptInRequired",
}  # fmt: skip
_THROTTLED = {
    "Throttling", "Throttled", "RequestThrottled", "RequestLimitExceeded", "TooManyRequests", "KMSThrottling",
    "KMSThrottled", "OverLimit", "SlowDown", "ServiceUnavailable", "InternalError", "InternalFailure",
    "InternalServerError", "ExpiredToken", "RequestExpired", "RequestTimeout", "BandwidthLimitExceeded",
}  # fmt: skip
# An invalid parameter that no message brought with it.
_OF_THE_SETTINGS = re.compile(r"TopicArn|TargetArn|QueueUrl|MessageGroupId|ContentBasedDeduplication|FIFO", re.I)
_SAYS_TOO_LARGE = re.compile(r"too (long|large|big)|shorter than|size limit|maximum (message )?(size|length)", re.I)


class _AwsPublisher:
    """Sends in batches of ten entries and `max_bytes`; one refused message never holds up the others.

    On a FIFO topic or queue a group's announcements follow each other one by one, elsewhere those of one topic and key.
    """

    service = ""

    def __init__(self, client: Any, place: str, max_bytes: int) -> None:
        if not isinstance(max_bytes, int) or isinstance(max_bytes, bool) or max_bytes < 1:
            message = f"{self.service}: max_bytes: expected a whole number of bytes, 1 or more, got {max_bytes!r}"
            raise ConfigError(message)
        self._client = client
        self._place = place
        self._max_bytes = max_bytes
        self._is_fifo = place.endswith(".fifo")

    def publish(self, announcements: Sequence[Announcement]) -> Published:
        """Send these.

        Returns:
            The rows that arrived; `refused` those that the service can never take; `error` a `ConfigError` where the
            topic or queue does not exist or may not be used.
        """
        done = Published()
        sendable = []
        for announcement in announcements:
            refusal = self._check(announcement)
            if refusal is None:
                sendable.append(announcement)
            else:
                done.refused[announcement.row] = refusal
        lanes = Lanes(sendable, (lambda a: a.topic) if self._is_fifo else (lambda a: (a.topic, a.key)))
        arrived: set[int] = set()
        while batch := lanes.take(_BATCH, self._max_bytes, self._size):
            self._send(batch, arrived, done)
            for announcement in batch:
                if announcement.row in arrived or announcement.row in done.refused:
                    lanes.settle(announcement)
            if done.is_away or done.error is not None:
                break
        done.extend(a.row for a in announcements if a.row in arrived)
        return done

    def _send(self, batch: Sequence[Announcement], arrived: set[int], done: Published) -> None:
        try:
            answer = self._call([self._entry(a) for a in batch])
        except Exception as error:
            code, text, status = _details(error)
            judged = _judge(code, text, status)
            if judged == "config":
                done.error = ConfigError(f"{self.service}: the {self._what} cannot be used: {code}")
            elif judged == "away":
                log.warning("not published", extra={"error": code, "service": self.service, "count": len(batch)})
                done.is_away = True
            elif len(batch) > 1:  # which one it was is known when each goes by itself
                for announcement in batch:
                    if not done.is_away and done.error is None:
                        self._send([announcement], arrived, done)
            elif judged == "unknown":
                log.warning("not published", extra={"error": code, "service": self.service, "count": 1})
            else:
                done.refused[batch[0].row] = self._refusal(judged, code)
            return
        arrived.update(int(entry["Id"]) for entry in answer.get("Successful", ()))
        for entry in answer.get("Failed", ()):
            self._judge_entry(entry, done)

    def _judge_entry(self, entry: Mapping[str, Any], done: Published) -> None:
        code = _plain_code(str(entry.get("Code", "")))
        judged = _judge(code, str(entry.get("Message", "")), 400 if entry.get("SenderFault") else 500)
        if judged == "config":
            done.error = ConfigError(f"{self.service}: the {self._what} cannot be used: {code}")
        elif judged in {"too_large", "invalid"} or (entry.get("SenderFault") and judged == "unknown"):
            done.refused[int(entry["Id"])] = self._refusal(judged, code)
        else:
            log.warning("not published", extra={"error": code, "service": self.service, "count": 1})

    @property
    def _what(self) -> str:
        return "topic" if self.service == "SNS" else "queue"

    def _check(self, announcement: Announcement) -> Refusal | None:
        """Why the service would refuse it, or None."""
        for name, text in (("topic", announcement.topic), ("body", announcement.body)):
            try:
                text.encode()
            except UnicodeEncodeError:
                return Refusal(
                    Kind.INVALID_UNICODE.value, f"the {name} holds a lone surrogate, which UTF-8 cannot write"
                )
            wrong = _NOT_IN_XML.search(text)
            if wrong is not None:
                reason = f"the {name} holds U+{ord(wrong[0]):04X}, a character that {self.service} refuses"
                return Refusal("invalid_message", reason)
        if not announcement.topic:
            return Refusal("invalid_topic", f"the topic is empty, and {self.service} takes no empty message attribute")
        size = self._size(announcement)
        if size > self._max_bytes:
            reason = f"{size} bytes, attributes included; expected at most {self._max_bytes}, what {self.service} takes"
            return Refusal(Kind.MESSAGE_TOO_LARGE.value, reason)
        return None

    def _refusal(self, judged: str, code: str) -> Refusal:
        kind = Kind.MESSAGE_TOO_LARGE.value if judged == "too_large" else "invalid_message"
        return Refusal(kind, f"{self.service} refuses it: {code}")

    def _size(self, announcement: Announcement) -> int:
        """Bytes as the services count them: the body, and of each attribute its name, type and value."""
        texts = [announcement.body]
        for name, value in self._attributes(announcement).items():
            texts += [name, value["DataType"], value["StringValue"]]
        return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)

    def _attributes(self, announcement: Announcement) -> dict[str, dict[str, str]]:
        return {"topic": {"DataType": "String", "StringValue": announcement.topic}}

    def _entry(self, announcement: Announcement) -> dict[str, Any]:
        raise NotImplementedError

    def _call(self, entries: list[dict[str, Any]]) -> Any:
        raise NotImplementedError

    def _fifo(self, announcement: Announcement) -> dict[str, str]:
        if not self._is_fifo:
            return {}
        group = announcement.topic
        if _GROUP_ID.fullmatch(group) is None:
            group = hashlib.sha256(group.encode()).hexdigest()
        # An announcement that is sent again within five minutes is dropped by the service itself; no other one is.
        whose = announcement.id or f"{announcement.row}\0{announcement.key}\0{announcement.body}"
        known_by = f"{announcement.topic}\0{whose}".encode("utf-8", "surrogatepass")
        return {"MessageGroupId": group, "MessageDeduplicationId": hashlib.sha256(known_by).hexdigest()}


class SnsPublisher(_AwsPublisher):
    """Publishes every announcement to one SNS topic; its own topic is the message attribute `topic`.

    Args:
        client: a boto3 SNS client.
        topic_arn: the topic.
        max_bytes: of a batch, and of a message with its attributes; more only where the topic's MaximumMessageSize
            reports it.
    """

    service = "SNS"

    def __init__(self, client: Any, topic_arn: str, max_bytes: int = SNS_BYTES) -> None:
        super().__init__(client, topic_arn, max_bytes)

    def _attributes(self, announcement: Announcement) -> dict[str, dict[str, str]]:
        found = super()._attributes(announcement)
        if announcement.topic.endswith(ALERTS):
            facts = _document(announcement.body)
            for fact, (name, kind) in _FACTS.items():
                text = "" if facts.get(fact) is None else _NOT_IN_XML.sub("?", str(facts[fact]))
                if text:  # the service takes no empty attribute
                    found[name] = {"DataType": kind, "StringValue": text}
        return found

    def _entry(self, announcement: Announcement) -> dict[str, Any]:
        return {
            "Id": str(announcement.row), "Message": announcement.body,
            "MessageAttributes": self._attributes(announcement), **self._fifo(announcement),
        }  # fmt: skip

    def _call(self, entries: list[dict[str, Any]]) -> Any:
        return self._client.publish_batch(TopicArn=self._place, PublishBatchRequestEntries=entries)


class SqsPublisher(_AwsPublisher):
    """Sends every announcement to one SQS queue; its own topic is the message attribute `topic`.

    Args:
        client: a boto3 SQS client.
        queue_url: the queue.
        max_bytes: of a batch, and of a message with its attributes; less where the queue's MaximumMessageSize reports
            it.
    """

    service = "SQS"

    def __init__(self, client: Any, queue_url: str, max_bytes: int = SQS_BYTES) -> None:
        super().__init__(client, queue_url, max_bytes)

    def _entry(self, announcement: Announcement) -> dict[str, Any]:
        return {
            "Id": str(announcement.row), "MessageBody": announcement.body,
            "MessageAttributes": self._attributes(announcement), **self._fifo(announcement),
        }  # fmt: skip

    def _call(self, entries: list[dict[str, Any]]) -> Any:
        return self._client.send_message_batch(QueueUrl=self._place, Entries=entries)


def aws_client(service: str, options: Mapping[str, str]) -> Any:
    """A boto3 client; options: region, endpoint."""
    where = {name: options[name] for name in ("region", "endpoint") if name in options}
    return ProcessClient(lambda: connect_aws(service, where).client)


def aws_options(where: str, options: Mapping[str, str]) -> dict[str, Any]:
    """The options of an sns:// or sqs:// URL for its publisher.

    Raises:
        ConfigError: an unknown option, or max_bytes is no whole number.
    """
    known: dict[str, Callable[[str], Any]] = {"region": str, "endpoint": str, "max_bytes": int}
    for name in options:
        if name not in known:
            message = f"{where}: unknown option {name!r}; expected one of {', '.join(sorted(known))}"
            raise ConfigError(message)
    if "max_bytes" not in options:
        return {}
    if not options["max_bytes"].isdecimal():
        message = f"{where}: max_bytes: expected a whole number of bytes, got {options['max_bytes']!r}"
        raise ConfigError(message)
    return {"max_bytes": int(options["max_bytes"])}


def _details(error: Exception) -> tuple[str, str, int]:
    """(code, text, HTTP status or 0) of an exception of boto3."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return type(error).__name__, str(error), 0
    about = response.get("Error", {})
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return _plain_code(str(about.get("Code", ""))), str(about.get("Message", "")), int(status or 0)


def _plain_code(code: str) -> str:
    plain = code.removeprefix("AWS.SimpleQueueService.").removesuffix("Exception")
    return "KMS" + plain[3:].lstrip(".") if plain.lower().startswith("kms") else plain


def _judge(code: str, text: str, status: int) -> str:
    """What an error is about: "too_large" or "invalid" (the message), "config", "away", or "unknown" (a 4xx)."""
    if code in _CONFIG or (code in _INVALID and _OF_THE_SETTINGS.search(text)):
        return "config"
    if code in _TOO_LARGE or status == 413 or (code in _INVALID and _SAYS_TOO_LARGE.search(text)):
        return "too_large"
    if code in _INVALID:
        return "invalid"
    if code in _THROTTLED or not 400 <= status < 500:
        return "away"
    return "unknown"


def _document(body: str) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
