"""Publishes analysis requests to SNS in batches within the service's limits, and reads the answer of each entry."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate._registry import MESSAGES, resolve
from headgate.errors import ConfigError, InvalidInputError, Kind
from headgate.healing._table import error_code

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headgate.ports import Json

log = logging.getLogger("headgate.healing")
_ENTRIES = 10  # PublishBatch takes so many entries
MAX_BATCH_BYTES = 262_144  # limit of PublishBatch for all entries together, attributes included
# The service's own refusals of a whole call: nothing of it was taken.
_REFUSED = {
    "AuthorizationError", "AuthorizationErrorException", "NotFound", "NotFoundException", "InvalidParameter",
    "InvalidParameterException", "Throttled", "ThrottledException", "Throttling", "ThrottlingException",
    "BatchRequestTooLong", "BatchRequestTooLongException", "ExpiredToken", "InvalidClientTokenId", "AccessDenied",
    "AccessDeniedException", "KMSAccessDenied", "KMSDisabled", "EndpointConnectionError", "NoCredentialsError",
    "ParamValidationError", "TooManyEntriesInBatchRequest", "UnrecognizedClientException", "OptInRequired",
}  # fmt: skip


@dataclass
class Published:
    """What became of each message, by its number.

    Attributes:
        accepted: taken by the service.
        refused: not taken, and not the message's fault: code.
        rejected: will never be taken as it is: code.
        unknown: the answer is missing, so that it may have arrived: code.
        is_down: a whole call failed; further ones would too.
    """

    accepted: list[int] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    rejected: dict[int, str] = field(default_factory=dict)
    unknown: dict[int, str] = field(default_factory=dict)
    is_down: bool = False

    @property
    def errors(self) -> list[str]:
        """One line for each message that was not taken: its number and the code."""
        found = {**self.refused, **self.rejected, **self.unknown}
        return [f"{number}: {code}" for number, code in sorted(found.items())]


def analysis_message(item: Mapping[str, Any], names: tuple[str, str], model_version: str) -> Json:
    """The entry of an item without its Id: Message and MessageAttributes.

    Raises:
        InvalidInputError: a key is missing, a value has no JSON, or the message is larger than SNS takes.
    """
    body, source_type = resolve("analysis", MESSAGES)(item, names, model_version)
    entry = {
        "Message": json.dumps(body, default=plain),
        "MessageAttributes": {
            "source_type": {"DataType": "String", "StringValue": source_type},
            "republished": {"DataType": "String", "StringValue": "true"},
        },
    }
    if size_of(entry) > MAX_BATCH_BYTES:
        message = f"the message has {size_of(entry)} bytes; SNS takes {MAX_BATCH_BYTES}"
        raise InvalidInputError(message, Kind.MESSAGE_TOO_LARGE)
    return entry


def publish(client: Any, topic_arn: str, entries: Sequence[Json]) -> Published:
    """Send entries in batches by count and bytes; never raises for what the service says."""
    published = Published()
    for numbers in _batches(entries):
        if published.is_down:
            published.refused.update(dict.fromkeys(numbers, "not_tried"))
            continue
        batch = [{"Id": str(n), **entries[n], **_fifo(topic_arn, entries[n])} for n in numbers]
        try:
            answer = client.publish_batch(TopicArn=topic_arn, PublishBatchRequestEntries=batch)
        except Exception as error:
            code = error_code(error)
            (published.refused if code in _REFUSED else published.unknown).update(dict.fromkeys(numbers, code))
            published.is_down = True
            log.warning("not published", extra={"error": code, "entries": len(numbers)})
            continue
        _read(answer, numbers, published)
    return published


def size_of(entry: Json) -> int:
    """Bytes that count towards the limit of a batch."""
    about = entry["MessageAttributes"]
    named = sum(len(n.encode()) + len(a["DataType"]) + len(a["StringValue"].encode()) for n, a in about.items())
    return len(entry["Message"].encode()) + named


def require_topic(topic_arn: str) -> None:
    """Raises:
    ConfigError: there is no topic.
    """
    if not isinstance(topic_arn, str) or not topic_arn.strip():
        message = "topic_arn: empty; expected the topic that analysis requests go to"
        raise ConfigError(message)


def plain(value: Any) -> Any:
    """JSON's own types for what DynamoDB reads: numbers come as Decimal, sets as sets."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    message = f"a {type(value).__name__} has no JSON form"
    raise InvalidInputError(message, Kind.INVALID_RECORD)


def _batches(entries: Sequence[Json]) -> list[list[int]]:
    batches: list[list[int]] = []
    size = 0
    for number, entry in enumerate(entries):
        add = size_of(entry)
        if not batches or len(batches[-1]) == _ENTRIES or size + add > MAX_BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(number)
        size += add
    return batches


def _read(answer: Mapping[str, Any], numbers: Sequence[int], published: Published) -> None:
    sent = set(numbers)
    taken = [int(entry["Id"]) for entry in answer.get("Successful") or ()]
    published.accepted += [n for n in taken if n in sent]
    failed = {int(entry["Id"]): entry for entry in answer.get("Failed") or ()}
    for number in numbers:
        if number in taken:
            continue
        entry = failed.get(number, {})
        code = str(entry.get("Code") or "no_answer")
        blamed = published.rejected if entry.get("SenderFault") else published.refused
        (blamed if entry else published.unknown)[number] = code
        log.warning("entry not published", extra={"entry_id": str(number), "error": code})


def _fifo(topic_arn: str, entry: Json) -> Json:
    if not topic_arn.endswith(".fifo"):
        return {}
    # The same message twice within five minutes would be dropped as a duplicate: that is the service's own cooldown.
    digest = core.sha256_hex(entry["Message"].encode())
    return {"MessageGroupId": digest[:16], "MessageDeduplicationId": digest}
