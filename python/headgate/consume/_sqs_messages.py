"""Reads SQS messages as deliveries, for workers and for Lambda, and builds the attributes that headgate adds."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headgate.consume._messages import Delivery

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_ATTRIBUTES = 10  # SQS allows so many message attributes
REDRIVE = "headgate-redrive"
# One attribute that holds all of headgate's as JSON, used when ten attributes are not enough for the user's and ours.
PACKED = "headgate"
_PREFIX = "headgate-"
_OURS = frozenset({
    PACKED, REDRIVE, "headgate-error-kind", "headgate-error", "headgate-attempts", "headgate-consumer",
    "headgate-source-id", "headgate-group",
})  # fmt: skip
Attributes = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class SqsDelivery(Delivery):
    """A delivery from SQS that remembers the message it came in, because a dead letter has to keep all of it.

    Attributes:
        body: the body as received.
        attributes: the user's message attributes, in the shape of SendMessage.
        group: the MessageGroupId, or an empty text.
        trace: the AWSTraceHeader, or an empty text.
    """

    body: str = ""
    attributes: Attributes = field(default_factory=dict)
    group: str = ""
    trace: str = ""


def is_fifo(queue: str) -> bool:
    """Whether a queue keeps the order of its groups, told by its URL or ARN alone.

    A MessageGroupId says nothing: on a standard queue it makes a fair queue, which keeps no order.
    """
    return queue.partition("?")[0].rstrip("/").endswith(".fifo")


def read_message(topic: str, message: Mapping[str, Any]) -> SqsDelivery:
    """What ReceiveMessage returned."""
    sent = {
        name: {k: v for k, v in value.items() if k in ("DataType", "StringValue", "BinaryValue")}
        for name, value in (message.get("MessageAttributes") or {}).items()
    }
    return _delivery(topic, message["Body"], message.get("MessageId"), sent, message.get("Attributes") or {})


def read_record(topic: str, record: Mapping[str, Any]) -> SqsDelivery:
    """What Lambda brings: the same in lower case, with Binary values in base64."""
    sent: Attributes = {}
    for name, value in (record.get("messageAttributes") or {}).items():
        sent[name] = {"DataType": str(value.get("dataType") or "String")}
        if value.get("binaryValue") is not None:
            sent[name]["BinaryValue"] = base64.b64decode(value["binaryValue"])
        else:
            sent[name]["StringValue"] = str(value.get("stringValue") or "")
    return _delivery(topic, record["body"], record.get("messageId"), sent, record.get("attributes") or {})


def own_fields(attributes: Attributes) -> dict[str, str]:
    """What we wrote beside a message, by short names (`error-kind`), packed or not; empty without any."""
    packed = _packed(attributes)
    found = {name: text for name, text in packed.items() if isinstance(text, str)}
    for name in _OURS - {PACKED}:
        if name in attributes:
            found[name.removeprefix(_PREFIX)] = str(attributes[name].get("StringValue", ""))
    return found


def user_attributes(attributes: Attributes) -> Attributes:
    """The user's attributes, including those that were packed into headgate's attribute."""
    packed = _packed(attributes)
    ours = _OURS if packed else _OURS - {PACKED}
    kept = {name: value for name, value in attributes.items() if name not in ours}
    for name, value in (packed.get("moved") or {}).items():
        kept[name] = {"DataType": value["type"]}
        if "base64" in value:
            kept[name]["BinaryValue"] = base64.b64decode(value["base64"])
        else:
            kept[name]["StringValue"] = value["text"]
    return kept


def with_own_fields(user: Attributes, ours: Mapping[str, str]) -> Attributes:
    """The user's attributes and ours beside them: one each if ten hold them, else ours together in one as JSON.

    Where the user has ten, the smallest of them moves into that JSON as well: nothing of the user's is ever dropped.
    """
    if len(user) + len(ours) <= MAX_ATTRIBUTES:
        return {**user, **{f"{_PREFIX}{name}": _text(value) for name, value in ours.items()}}
    kept = dict(user)
    packed: dict[str, Any] = dict(ours)
    moved = {}
    while len(kept) >= MAX_ATTRIBUTES or PACKED in kept:
        name = min(kept, key=lambda name: (name != PACKED, attributes_size({name: kept[name]}), name))
        value = kept.pop(name)
        moved[name] = {"type": value["DataType"]}
        if "BinaryValue" in value:
            moved[name]["base64"] = base64.b64encode(value["BinaryValue"]).decode()
        else:
            moved[name]["text"] = value["StringValue"]
    if moved:
        packed["moved"] = moved
    return {**kept, PACKED: _text(json.dumps(packed, separators=(",", ":")))}


def attributes_size(attributes: Attributes) -> int:
    """The bytes of names, types and values, which count towards a message's size."""
    total = 0
    for name, value in attributes.items():
        content = value.get("BinaryValue")
        size = (
            len(content) if content is not None else len(str(value.get("StringValue", "")).encode("utf-8", "replace"))
        )
        total += len(name.encode()) + len(value["DataType"].encode()) + size
    return total


def parse_count(text: str) -> int | None:
    """A small whole number, or None: what somebody wrote there is something else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _delivery(
    topic: str, body: str, message_id: str | None, sent: Attributes, system: Mapping[str, Any]
) -> SqsDelivery:
    user = user_attributes(sent)
    shown = {**sent, **user}
    if PACKED not in user:
        shown.pop(PACKED, None)
    return SqsDelivery(
        topic, body.encode("utf-8", "surrogatepass"), None,
        tuple((name, _bytes(value)) for name, value in shown.items()), {"message_id": str(message_id or "")},
        parse_count(own_fields(sent).get("redrive", "")) or 0, body=body, attributes=user,
        group=str(system.get("MessageGroupId") or ""), trace=str(system.get("AWSTraceHeader") or ""),
    )  # fmt: skip


def _bytes(value: Mapping[str, Any]) -> bytes:
    content = value.get("BinaryValue")
    return bytes(content) if content is not None else str(value.get("StringValue", "")).encode("utf-8", "surrogatepass")


def _packed(attributes: Attributes) -> dict[str, Any]:
    try:
        found = json.loads(str(attributes.get(PACKED, {}).get("StringValue", "")))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("redrive"), str) else {}


def _text(value: str) -> dict[str, Any]:
    return {"DataType": "String", "StringValue": value or "-"}
