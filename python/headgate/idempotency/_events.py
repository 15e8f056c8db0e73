"""Reads events: the document, type and topic of an event, and from these its identity.

Handlers get events in many forms: dicts and other mappings, pydantic models and dataclasses, JSON as text or bytes,
records of three Kafka clients, SQS records of a Lambda event. All of them are read here, and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import InvalidInputError, Kind
from headgate.idempotency._keys import check_identity
from headgate.idempotency._transports import (
    DELIVERED,
    MARKS,
    Record,
    is_record_object,
    read_record,
    read_record_object,
    refusal_of,
)
from headgate.identity import canonical_json, event_id
from headgate.items import MARK, announced_key

if TYPE_CHECKING:
    from collections.abc import Callable


_EMPTY_KINDS = (str, bytes, dict, list, tuple)


@dataclass(slots=True)
class EventView:
    """An event, read.

    Attributes:
        document: the parsed JSON value, or the object that the handler gets, if it is neither text nor bytes.
        text: the event's bytes where they are no JSON; otherwise None.
        topic: of a Kafka record; otherwise empty.
        place: topic, partition and offset of a Kafka record, which identify a record without a value.
        type: what the envelope says: `event_type`, or the `type` of CloudEvents; otherwise empty.
        stream_id: the id that a DynamoDB stream gave to this record; otherwise empty.
        refusal: why it has no identity by itself; empty: it has one.
    """

    document: Any
    text: bytes | None = None
    topic: str = ""
    place: str = ""
    type: str = ""
    stream_id: str = ""
    refusal: str = ""


def read_event(event: Any) -> EventView:
    """Read an event of any form that a handler may get.

    Raises:
        InvalidInputError: the type that the envelope names is text with a lone surrogate.
    """
    if event.__class__ is dict and MARKS.isdisjoint(event):
        return EventView(event, type=type_of(event))  # the form of most events
    topic = place = header_type = ""
    record: Record | None = None
    if is_record_object(event):
        record = read_record_object(event)
    elif isinstance(event, Mapping):
        if event.get("eventSource") == "aws:dynamodb" and event.get("eventID"):
            return EventView(event, stream_id=str(event["eventID"]))
        if refusal := refusal_of(event):
            return EventView(event, refusal=refusal)
        record = read_record(event)
    if record is not None:
        topic, place, header_type, event = record.topic, record.place, record.type, record.body
    if event is None:
        return EventView(None, None, topic, place, header_type)
    if isinstance(event, bytes | bytearray | memoryview | str):
        raw = event.encode("utf-8", "surrogatepass") if isinstance(event, str) else bytes(event)
        try:
            event = json.loads(event if isinstance(event, str) else raw)
        except (ValueError, RecursionError):
            return EventView(None, raw, topic, place, header_type)
    document = _as_document(event)
    if is_notification(document):
        return read_event(document["Message"])  # every publication has another envelope
    return EventView(document, None, topic, place, type_of(document) or header_type)


def is_notification(document: Any) -> bool:
    """Whether a message is the envelope in which SNS delivers to SQS and HTTP, without raw delivery."""
    return (
        isinstance(document, dict)
        and document.get("Type") == "Notification"
        and isinstance(document.get("Message"), str)
        and "TopicArn" in document
    )


def item_key_of(event: Any) -> str:
    """The key of the item that an event announces, or an empty text; see `headgate.items`."""
    return announced_key(read_event(event).document)


def type_of(document: Any) -> str:
    """The type that an envelope names: `event_type`, or `type` of a CloudEvent or of another envelope around `data`.

    Example:
        >>> type_of({"event_type": "order.created", "data": {}}), type_of({"type": "x", "n": 1})
        ('order.created', '')
    """
    if not isinstance(document, dict):
        return ""
    found = document.get("event_type")
    if found is None and ("specversion" in document or "data" in document):
        found = document.get("type")
    if found is None or found == "":
        return ""
    if isinstance(found, str):
        return str.__str__(found)
    text = canonical_json(found, big_integers="exact").decode()
    if text.startswith('"'):  # an Enum's value, say: the type that a JSON text of the event names
        return str(json.loads(text))
    return f"json={text}"  # a number: another type than its text


def identity_of(view: EventView) -> str:
    """The identity of an event that was read; see `default_identity`.

    Raises:
        InvalidInputError: it has none.
    """
    document = view.document
    if document.__class__ is not dict or view.stream_id or view.refusal:
        identity = _identity_by_form(view)
        if identity:
            return identity
    if key := announced_key(document):
        return key
    if isinstance(document, dict):
        data = document.get("data")
        if data or (data is not None and not isinstance(data, _EMPTY_KINDS)):  # else every envelope with it were one
            document = data
        elif MARK in document or document.get("republished") is True:
            # The marks of a republication say how often something was sent, not what it is.
            document = {k: v for k, v in document.items() if k not in (MARK, "republished")}
    return event_id(document, big_integers="exact")


def _identity_by_form(view: EventView) -> str:
    """The identity of an event that something else than its document tells, or nothing."""
    if view.refusal:
        raise InvalidInputError(view.refusal, Kind.INVALID_RECORD)
    if view.text:
        return str(core.sha256_hex(view.text))
    if view.stream_id:
        return view.stream_id
    if view.document is None and view.place:
        return view.place
    if view.document is None or view.document == "":
        message = "the event is empty, and so would be the next one; expected something to know it by, or a key"
        raise InvalidInputError(message, Kind.INVALID_RECORD)
    return ""


def default_identity(event: Any) -> str:
    """What makes an event that event when no key function is given: the event id of its `data`, else of the whole.

    The announcement of an item is known by the item's key (`headgate.items`), and the marks of a republication, the
    member `headgate` and `"republished": true`, are no part of any identity. Envelopes of SNS are looked into.

    An envelope is made anew when its producer tries again; its `data` stays. One with empty `data` is known as a whole.
    Text and bytes are parsed first; what is no JSON is known by its bytes. Kafka records of confluent-kafka, aiokafka,
    kafka-python and of a Lambda event are known by their value, one without a value (a tombstone) by its topic,
    partition and offset; messages of SQS, as boto3 or a Lambda event brings them, by their body; records of Kinesis by
    their data, those of a DynamoDB stream by their `eventID`. Integers beyond 2**53 - 1 count with all their digits.

    Args:
        event: a mapping, a pydantic model, a dataclass, JSON text or bytes, a Kafka record, a record of a Lambda event,
            a message of boto3, or any value that `headgate.canonical_json` takes.

    Returns:
        64 hex digits, except for a Kafka record without a value, a record of a DynamoDB stream, and the announcement of
        an item.

    Raises:
        InvalidInputError: the event has no canonical form (a lone surrogate, a set, a naive datetime ...), is empty
            (None, an empty text), or is a Lambda event of several SQS messages.

    Example:
        >>> default_identity(b'{"id": "new", "data": {"n": 1}}') == default_identity({"id": "old", "data": {"n": 1.0}})
        True
    """
    return identity_of(read_event(event))


def earlier_identity(event: Any) -> str | None:
    """The identity that stores before schema version 5 have for this event, or None: it had none there."""
    value = getattr(event, "value", None)
    if callable(value):
        event = value()
    try:
        if isinstance(event, bytes | str):
            try:
                event = json.loads(event)
            except ValueError:
                return core.sha256_hex(event.encode("utf-8", "surrogatepass") if isinstance(event, str) else event)
        if isinstance(event, dict) and MARK in event:  # known as it was announced first: without marks
            event = {k: v for k, v in event.items() if k not in (MARK, "republished")}
        return event_id(event["data"] if isinstance(event, dict) and "data" in event else event)
    except (InvalidInputError, RecursionError):
        return None


def _as_document(event: Any) -> Any:
    """A mapping or an object with fields as a dict, so that an envelope is known as one whatever it is written in."""
    if isinstance(event, dict):
        return event
    if isinstance(event, Mapping):
        return dict(event)
    kind = type(event)
    if hasattr(kind, "model_dump"):
        return event.model_dump(by_alias=True)
    fields = getattr(kind, "__dataclass_fields__", None)
    if fields is not None and ("data" in fields or "event_type" in fields):
        import dataclasses

        return {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
    return event


def identity_and_type(
    event: Any,
    key: Callable[[Any], Any] | None,
    event_type: str | Callable[[Any], Any] | None,
    default_type: str,
    stated_type: str = "",
) -> tuple[str, str]:
    """The two parts of a claim key that an event gives, for decorators and consumers alike.

    Args:
        event: as the handler gets it.
        key: event -> identity; None: the default identity.
        event_type: a text, or event -> text; None: what the envelope says, else what the transport says.
        default_type: where nothing of these says a type and the event has no topic of its own.
        stated_type: what the transport's headers say, for an event whose envelope says nothing.

    Raises:
        InvalidInputError: no usable identity or type.
    """
    view = read_event(event)
    now = DELIVERED.get()
    if now is not None and now[0] is event:
        record = now[1]
        view.type, view.topic = view.type or record.type, view.topic or record.topic
        view.place = view.place or record.place
    identity = identity_of(view) if key is None else check_identity(key(event))
    if event_type is None:
        return identity, view.type or stated_type or view.topic or default_type
    return identity, require_event_type(event_type(event) if callable(event_type) else event_type)


def require_event_type(text: object) -> str:
    """The text that an `event_type` option gave for an event.

    Raises:
        InvalidInputError: it is not text.
    """
    if not isinstance(text, str):
        message = f"event_type gave a {type(text).__name__} for this event; expected text"
        raise InvalidInputError(message, Kind.INVALID_RECORD)
    return text
