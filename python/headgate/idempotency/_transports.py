"""The records that queues and streams put around an event: where its body is, and what the record itself says.

A record changes with every delivery (a receipt handle, an offset), so that an event is known by what is in it.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_RECORD_FIELDS = ("topic", "partition", "offset", "value")  # what the records of every Kafka client have
_TYPE_HEADERS = ("ce_type", "ce-type")  # CloudEvents in binary mode: over Kafka, over HTTP
# A dict with none of these is no record.
MARKS = frozenset({"eventSource", "EventSource", "TopicArn", "ReceiptHandle", "timestampType", "Records"})
_BATCH = (
    "the event is a batch of {count} SQS messages, which come in other batches when they come again; decorate the "
    "function of one message and wrap it with headgate.consume.sqs_batch, or give it a key"
)


# The body that a batch or a worker is delivering now, and its record.
DELIVERED: ContextVar[tuple[Any, Record] | None] = ContextVar("headgate_delivered", default=None)


@dataclass(slots=True)
class Record:
    """A record of a transport.

    Attributes:
        body: what it carries, not parsed; None: nothing.
        topic: of Kafka; otherwise empty.
        place: topic, partition and offset of a Kafka record; otherwise empty.
        type: what its headers say; otherwise empty.
    """

    body: Any
    topic: str = ""
    place: str = ""
    type: str = ""


@contextmanager
def delivered(record: Record) -> Iterator[None]:
    """Inside, a decorated handler that gets this very body knows the record that it came in."""
    token = DELIVERED.set((record.body, record))
    try:
        yield
    finally:
        DELIVERED.reset(token)


def is_record_object(event: Any) -> bool:
    """Whether an event is a record of a Kafka client."""
    return not isinstance(event, dict | str | bytes) and all(hasattr(event, name) for name in _RECORD_FIELDS)


def read_record_object(record: Any) -> Record:
    """A record of confluent-kafka, which has methods, or of aiokafka or kafka-python, which have attributes."""

    def get(name: str) -> Any:
        found = getattr(record, name, None)
        return found() if callable(found) else found

    headers = {name: value for name, value in get("headers") or () if value is not None}
    topic = str(get("topic") or "")
    place = f"{topic}-{get('partition')}-{get('offset')}"
    return Record(get("value"), topic, place, _type_in(headers))


def read_record(event: Mapping[str, Any]) -> Record | None:
    """A record of SQS, SNS, Kinesis or Kafka in a Lambda event, a message as boto3 receives it, or a Lambda event with
    one such message of SQS or SNS; None: it is something else."""
    source = event.get("eventSource")
    if source == "aws:sqs" and "body" in event:
        return Record(event["body"])
    if "ReceiptHandle" in event and "Body" in event:
        return Record(event["Body"])
    if event.get("EventSource") == "aws:sns" and isinstance(event.get("Sns"), Mapping):
        return Record(event["Sns"].get("Message"))
    if source == "aws:kinesis" and isinstance(event.get("kinesis"), Mapping):
        data = _from_base64(event["kinesis"].get("data"))
        return None if data is None else Record(data)
    if "timestampType" in event and all(name in event for name in _RECORD_FIELDS[:3]):
        return _read_kafka(event)
    records = event.get("Records")
    if isinstance(records, list) and len(records) == 1 and _is_message(records[0]):
        return read_record(records[0])
    return None


def refusal_of(event: Any) -> str:
    """The sentence for an event that never comes again as it is, or nothing."""
    records = event.get("Records") if isinstance(event, Mapping) else None
    if not isinstance(records, list) or len(records) < 2 or not _is_message(records[0]):
        return ""
    return _BATCH.format(count=len(records))


def _is_message(record: Any) -> bool:
    if not isinstance(record, Mapping):
        return False
    return record.get("eventSource") == "aws:sqs" or record.get("EventSource") == "aws:sns"


def _read_kafka(record: Mapping[str, Any]) -> Record | None:
    value = record.get("value")
    body = None if value is None else _from_base64(value)
    if value is not None and body is None:
        return None
    topic = str(record["topic"])
    headers: dict[str, Any] = {}
    for header in record.get("headers") or ():
        for name, content in header.items() if isinstance(header, Mapping) else ():
            if name in _TYPE_HEADERS and isinstance(content, list):
                headers[name] = bytes(byte & 0xFF for byte in content)
    return Record(body, topic, f"{topic}-{record['partition']}-{record['offset']}", _type_in(headers))


def stated_type(headers: Iterable[tuple[str, bytes | None]]) -> str:
    """The type that CloudEvents in binary mode have in a header, or nothing."""
    return _type_in({name: value for name, value in headers if value})


def _type_in(headers: Mapping[str, Any]) -> str:
    stated = next((headers[name] for name in _TYPE_HEADERS if name in headers), b"")
    return stated.decode("utf-8", "backslashreplace") if isinstance(stated, bytes) else str(stated)


def _from_base64(text: Any) -> bytes | None:
    """The bytes, or None: it is no base64."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (ValueError, TypeError):
        return None
