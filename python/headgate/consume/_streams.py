"""Lambda handlers for the records of streams: Kinesis and DynamoDB, with partial batch responses.

Lambda reads a shard from the first failed record on again, whatever follows it. So records are handled one after the
other, the first one that fails ends its shard's part of the batch, and its sequence number is the answer. What was
handled and comes again all the same (the batch is split, an answer is lost) is a duplicate for the ledger.

The event source mapping has to name `ReportBatchItemFailures` in its `FunctionResponseTypes`: without it Lambda takes
any answer for a success. What can never be handled leaves the shard by the mapping's `MaximumRetryAttempts`,
`MaximumRecordAgeInSeconds` and on-failure destination; `BisectBatchOnFunctionError` works as well.
"""

from __future__ import annotations

import base64
import functools
import json
import logging
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from headgate.consume._batches import bytes_of, caller_of_bodies, records_of, run_records
from headgate.consume._messages import Delivery, delivering, delivering_body, renamed_sink
from headgate.consume._process import Processor
from headgate.errors import InvalidInputError, Kind
from headgate.idempotency._lease import lambda_invocation
from headgate.identity import load_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from headgate.consume._consumer import Consumer
    from headgate.consume._messages import DeadLetterSink
    from headgate.idempotency import Ledger
    from headgate.items import LifeCycle
    from headgate.ports import Clock, Json, Metrics

log = logging.getLogger("headgate.consume")
BatchHandler = Any  # (event, context=None) -> the answer; Lambda calls it with both


@dataclass(frozen=True)
class _Source:
    """The field names of one kind of stream's records."""

    name: str
    part: str
    sequence: str


_KINESIS = _Source("a Kinesis stream", "kinesis", "sequenceNumber")
_DYNAMODB = _Source("a DynamoDB stream", "dynamodb", "SequenceNumber")


def kinesis_batch(handler: Callable[[Any], Any], *, decode: Callable[[bytes], Any] | None = None) -> BatchHandler:
    """A Lambda handler of a function of one Kinesis record's body.

    What raises (`InProgress` of `@idempotent_consumer` among it) ends its shard's part of the batch; the answer names
    it, and Lambda brings it and what follows again. `current_delivery()` gives the partition key and the record's id.

    Args:
        handler: called with each record's body; synchronous or `async`.
        decode: a record's bytes -> the body; default JSON.

    Returns:
        `handler(event, context)` for Lambda. It raises InvalidInputError, and so fails the batch, for an event that is
        not one of a Kinesis stream.

    Raises:
        ConfigError: the handler is a class or a generator function.

    Example:
        >>> from headgate import Ledger, idempotent_consumer
        >>> @kinesis_batch
        ... @idempotent_consumer(Ledger.open("memory://"), consumer="orders")
        ... def handler(body): return body["n"] + 1
        >>> def record(number, data):
        ...     return {"eventID": f"shardId-0:{number}", "kinesis": {"sequenceNumber": number, "data": data}}
        >>> handler({"Records": [record("1", "eyJuIjogMX0="), record("2", "Pz8/"), record("3", "eyJuIjogM30=")]})
        {'batchItemFailures': [{'itemIdentifier': '2'}]}
    """
    call = caller_of_bodies(handler)
    read = parse_json if decode is None else decode

    def run(record: Json) -> bool:
        delivery = _kinesis_delivery(_stream_of(record), record)
        body = read(delivery.value or b"")
        with delivering(delivery), delivering_body(delivery, body):
            call(body)
        return True

    return _batch(handler, _KINESIS, run, {"handler": call.name})


def dynamodb_stream_batch(handler: Callable[[Any], Any], *, unmarshal: bool = False) -> BatchHandler:
    """A Lambda handler of a function of one record of a DynamoDB stream.

    As `kinesis_batch`. The handler gets the record as Lambda brings it: `eventName`, `eventID`, and in `dynamodb`
    `Keys`, `NewImage` and `OldImage`. `@idempotent_consumer` knows it by its `eventID`.

    Args:
        handler: called with each record; synchronous or `async`.
        unmarshal: turn the images' attribute values into plain ones; see `unmarshal_record`.

    Example:
        >>> @dynamodb_stream_batch
        ... def handler(record): return {"INSERT": 1}[record["eventName"]]
        >>> def record(number, name):
        ...     return {"eventID": number, "eventName": name, "dynamodb": {"SequenceNumber": number, "Keys": {}}}
        >>> handler({"Records": [record("10", "INSERT"), record("11", "REMOVE"), record("12", "INSERT")]})
        {'batchItemFailures': [{'itemIdentifier': '11'}]}
    """
    call = caller_of_bodies(handler)

    def run(record: Json) -> bool:
        body = unmarshal_record(record) if unmarshal else record
        delivery = _dynamodb_delivery(_table_of(record), record)
        with delivering(delivery), delivering_body(delivery, body):
            call(body)
        return True

    return _batch(handler, _DYNAMODB, run, {"handler": call.name})


def kinesis_handler(
    consumer: Consumer, ledger: Ledger, clock: Clock, metrics: Metrics | None = None, *,
    dead_letter_sink: DeadLetterSink | None = None,
    items: LifeCycle | None = None, bury: DeadLetterSink | None = None,
) -> BatchHandler:  # fmt: skip
    """A Lambda handler that runs a `Consumer` on the records of a Kinesis stream; their data is JSON.

    Args:
        consumer: the consumer to run. Without a lease of its own, a claim lasts as long as the invocation can.
        ledger: the ledger that holds the claims; what weakens its guarantees is logged at the first invocation.
        clock: the clock; tests pass a `ManualClock`.
        metrics: receives counts and durations.
        dead_letter_sink: stores records that cannot be handled, or have failed `max_attempts` times; see
            `DeadLetterSink`. None: they come again until the event source mapping gives them up.
        items: finishes the items that the consumer handles (`headgate.items`); None: none.

    Returns:
        `handler(event, context)` for Lambda.

    Raises:
        ConfigError: the ledger cannot do what the consumer's effects need.
    """
    return _consumer_handler(
        consumer, ledger, clock, metrics, renamed_sink(dead_letter_sink, bury), items, _KINESIS, _kinesis_delivery
    )


def dynamodb_stream_handler(
    consumer: Consumer, ledger: Ledger, clock: Clock, metrics: Metrics | None = None, *,
    dead_letter_sink: DeadLetterSink | None = None,
    unmarshal: bool = False, bury: DeadLetterSink | None = None,
) -> BatchHandler:  # fmt: skip
    """A Lambda handler that runs a `Consumer` on the records of a DynamoDB stream.

    As `kinesis_handler`. The consumer's handler gets the record; its identity is the `eventID`, unless the consumer has
    a `key`, which gets the record as Lambda brings it.

    Args:
        consumer, ledger, clock, metrics, dead_letter_sink: as for `kinesis_handler`.
        unmarshal: the handler (or `prepare`) gets plain values; see `unmarshal_record`.
    """
    if unmarshal:
        prepare = consumer.prepare
        consumer = replace(
            consumer, prepare=lambda body: (prepare or _unchanged)(unmarshal_record(body))
        )  # the key function and the dead letters keep the record as received
    return _consumer_handler(
        consumer, ledger, clock, metrics, renamed_sink(dead_letter_sink, bury), None, _DYNAMODB, _dynamodb_delivery
    )


def unmarshal_record(record: Mapping[str, Any]) -> Json:
    """A record of a DynamoDB stream with plain values in `Keys`, `NewImage` and `OldImage`.

    Numbers become int, or Decimal where they have a fraction or an exponent; binary values bytes; sets sets.

    Raises:
        InvalidInputError: an attribute value is of no type that DynamoDB has.

    Example:
        >>> unmarshal_record({"dynamodb": {"NewImage": {"n": {"N": "7"}, "tags": {"L": [{"NULL": True}]}}}})
        {'dynamodb': {'NewImage': {'n': 7, 'tags': [None]}}}
    """
    change = dict(record.get("dynamodb") or {})
    for image in ("Keys", "NewImage", "OldImage"):
        if change.get(image) is not None:
            change[image] = {name: _plain(value) for name, value in change[image].items()}
    return {**record, "dynamodb": change}


def _plain(value: Any) -> Any:
    try:
        ((kind, held),) = value.items()
        read = _TYPES[kind]
        return read(held)
    except (KeyError, AttributeError, TypeError, ValueError, InvalidOperation):
        kinds = ", ".join(_TYPES)
        message = f"an attribute value of the stream's record: expected an object with one member of {kinds}"
        raise InvalidInputError(message, Kind.INVALID_RECORD) from None


def _number(text: str) -> int | Decimal:
    return int(text) if text.lstrip("+-").isdecimal() else Decimal(text)


def _binary(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


_TYPES: dict[str, Callable[[Any], Any]] = {
    "S": str, "N": _number, "B": _binary, "BOOL": bool, "NULL": lambda _: None,
    "M": lambda held: {name: _plain(value) for name, value in held.items()},
    "L": lambda held: [_plain(value) for value in held],
    "SS": lambda held: {str(text) for text in held}, "NS": lambda held: {_number(text) for text in held},
    "BS": lambda held: {_binary(text) for text in held},
}  # fmt: skip


def _batch(handler: Any, source: _Source, run: Callable[[Json], bool], about: dict[str, str]) -> BatchHandler:
    @functools.wraps(handler)
    def batch(event: Json, context: Any = None) -> Json:
        return _respond(source, event, context, run, about)

    return batch


def _consumer_handler(
    consumer: Consumer, ledger: Ledger, clock: Clock, metrics: Metrics | None, sink: DeadLetterSink | None,
    items: LifeCycle | None, source: _Source, deliver: Callable[[str, Json], Delivery],
) -> BatchHandler:  # fmt: skip
    processor = Processor(consumer, ledger, clock, sink, metrics, items)
    warn = WarnOnce(consumer, ledger)

    def run(record: Json) -> bool:
        return processor.process(deliver(consumer.topic, record)).outcome.settled

    def handler(event: Json, context: Any = None) -> Json:
        warn()
        return _respond(source, event, context, run, {"consumer": consumer.name, "topic": consumer.topic})

    return handler


class WarnOnce:
    """Logs once, at the first call, what weakens the guarantees of a consumer's ledger."""

    def __init__(self, consumer: Consumer, ledger: Ledger) -> None:
        self._about = {"consumer": consumer.name, "topic": consumer.topic}
        self._ledger: Ledger | None = ledger

    def __call__(self) -> None:
        ledger, self._ledger = self._ledger, None
        if ledger is None:
            return
        try:
            texts = ledger.warnings()
        except Exception as error:
            more = {**self._about, "error": type(error).__name__}
            log.warning("could not ask the ledger about its server", extra=more)
            return
        for text in texts:
            log.warning(text, extra=self._about)


def _respond(source: _Source, event: Any, context: Any, run: Callable[[Json], bool], about: Mapping[str, str]) -> Json:
    records = _records(source, event)
    with lambda_invocation(context):
        failures = run_records(
            records, run, _shard_of, context=context, describe=lambda record: {**about, "message_id": _id_of(record)}
        )
    first: dict[str, str] = {}  # by shard: Lambda's batches are of one, but nothing depends on that
    for record in failures:
        first.setdefault(_shard_of(record), record[source.part][source.sequence])
    return {"batchItemFailures": [{"itemIdentifier": number} for number in first.values()]}


def _records(source: _Source, event: Any) -> list[Json]:
    records = records_of(event, source.name)
    if "window" in event:
        message = f"the event: it is one of a tumbling window of {source.name}; expected a mapping without one"
        raise InvalidInputError(message, Kind.INVALID_RECORD)
    for index, record in enumerate(records):
        part = record.get(source.part) if isinstance(record, dict) else None
        number = part.get(source.sequence) if isinstance(part, dict) else None
        if not isinstance(number, str) or not number:
            where = f"Records[{index}].{source.part}.{source.sequence}"
            message = f"{where}: expected the sequence number that a record of {source.name} has"
            raise InvalidInputError(message, Kind.INVALID_RECORD)
    return records


def _shard_of(record: Json) -> str:
    """The shard that a Kinesis record's id begins with; of a DynamoDB stream every batch is of one shard."""
    shard, found, _ = str(record.get("eventID") or "").rpartition(":")
    return shard if found else ""


def _id_of(record: Json) -> str:
    """What the record is called in logs; it is the same whenever the record comes again."""
    stated = str(record.get("eventID") or "")
    return stated or str((record.get("kinesis") or record["dynamodb"]).get("sequenceNumber") or "")


def _kinesis_delivery(topic: str, record: Json) -> Delivery:
    part = record["kinesis"]
    data = bytes_of(part.get("data") or "", "kinesis.data")
    key = part.get("partitionKey")
    source = {"event_id": _id_of(record), "sequence_number": part["sequenceNumber"]}
    return Delivery(topic, data, None if key is None else _encoded(str(key)), (), source)


def _dynamodb_delivery(topic: str, record: Json) -> Delivery:
    part = record["dynamodb"]
    keys = part.get("Keys")
    source = {"event_id": _id_of(record), "sequence_number": part["SequenceNumber"]}
    key = None if keys is None else _encoded(json.dumps(keys, sort_keys=True, separators=(",", ":")))
    return Delivery(topic, _encoded(json.dumps(record, separators=(",", ":"))), key, (), source)


def _stream_of(record: Json) -> str:
    return str(record.get("eventSourceARN") or "").rpartition("stream/")[2] or "kinesis"


def _table_of(record: Json) -> str:
    return str(record.get("eventSourceARN") or "").partition("table/")[2].partition("/")[0] or "dynamodb"


def parse_json(data: bytes) -> Any:
    try:
        return load_json(data, "the record's data")
    except InvalidInputError as error:
        message = f"{error}; expected JSON, or a function decode="
        raise InvalidInputError(message, error.kind) from None


def _unchanged(body: Any) -> Any:
    return body


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
