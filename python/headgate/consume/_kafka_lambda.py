"""Lambda handlers for the records of Kafka topics, of Amazon MSK and of clusters that somebody runs himself.

A batch holds records of several partitions. The first one that fails ends its partition's part of the batch. Without
`ReportBatchItemFailures` (event source mappings in provisioned mode have it) Lambda takes every answer for a success,
so a handler here raises when a record failed: the whole batch comes again, and what was handled is a duplicate.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from headgate.consume._batches import bytes_of, caller_of_bodies, run_records, unexpected_event
from headgate.consume._dead_letters import read_redrive_history
from headgate.consume._messages import Delivery, delivering, delivering_body, renamed_sink
from headgate.consume._process import Processor
from headgate.consume._streams import WarnOnce, parse_json
from headgate.errors import InvalidInputError, Kind, TransientError
from headgate.idempotency._lease import lambda_invocation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from headgate.consume._consumer import Consumer
    from headgate.consume._messages import DeadLetterSink, Headers
    from headgate.consume._streams import BatchHandler
    from headgate.idempotency import Ledger
    from headgate.items import LifeCycle
    from headgate.ports import Clock, Json, Metrics


def kafka_batch(
    handler: Callable[[Any], Any], *, decode: Callable[[bytes], Any] | None = None, partial: bool = False
) -> BatchHandler:
    """A Lambda handler of a function of one Kafka record's body.

    Args:
        handler: called with each record's body, or with None for a tombstone; synchronous or `async`.
            `current_delivery()` gives the record's key, headers and place.
        decode: a record's bytes -> the body; default JSON.
        partial: answer with the first failed offset of each partition, for mappings with `ReportBatchItemFailures`.

    Returns:
        `handler(event, context)` for Lambda. It raises TransientError when a record failed and `partial` is not set,
        and InvalidInputError for an event that is not one of Kafka.

    Example:
        >>> @kafka_batch
        ... def handler(body): print(body["n"])
        >>> record = {"topic": "orders", "partition": 0, "offset": 7, "value": "eyJuIjogMX0=", "headers": []}
        >>> handler({"eventSource": "aws:kafka", "records": {"orders-0": [record]}})
        1
        {'batchItemFailures': []}
    """
    call = caller_of_bodies(handler)

    def run(record: Json) -> bool:
        delivery = _delivery(record, "")
        body = None if delivery.value is None else (decode or parse_json)(delivery.value)
        with delivering(delivery), delivering_body(delivery, body):
            call(body)
        return True

    @functools.wraps(handler)
    def batch(event: Json, context: Any = None) -> Json:
        return _respond(event, context, run, {"handler": call.name}, partial=partial)

    return batch


def kafka_handler(
    consumer: Consumer, ledger: Ledger, clock: Clock, metrics: Metrics | None = None, *,
    dead_letter_sink: DeadLetterSink | None = None,
    partial: bool = False, items: LifeCycle | None = None, bury: DeadLetterSink | None = None,
) -> BatchHandler:  # fmt: skip
    """A Lambda handler that runs a `Consumer` on the records of Kafka topics.

    Claims, tombstones and redriven dead letters are treated as `KafkaWorker` does.

    Args:
        consumer: the consumer to run. Without a lease of its own, a claim lasts as long as the invocation can.
        ledger: the ledger that holds the claims; what weakens its guarantees is logged at the first invocation.
        clock: the clock; tests pass a `ManualClock`.
        metrics: receives counts and durations.
        dead_letter_sink: stores records that cannot be handled, or have failed `max_attempts` times. None: they come
            again until the event source mapping gives them up.
        partial: as for `kafka_batch`.
        items: finishes the items that the consumer handles (`headgate.items`); None: none.
    """
    processor = Processor(consumer, ledger, clock, renamed_sink(dead_letter_sink, bury), metrics, items)
    warn = WarnOnce(consumer, ledger)

    def run(record: Json) -> bool:
        return processor.process(_delivery(record, consumer.name)).outcome.settled

    def handler(event: Json, context: Any = None) -> Json:
        warn()
        return _respond(event, context, run, {"consumer": consumer.name}, partial=partial)

    return handler


def _respond(event: Any, context: Any, run: Callable[[Json], bool], about: Mapping[str, str], *, partial: bool) -> Json:
    records = _records(event)
    with lambda_invocation(context):
        failures = run_records(
            records, run, _partition_of, context=context,
            describe=lambda r: {**about, "topic": r["topic"], "message_id": f"{_partition_of(r)}-{r['offset']}"},
        )  # fmt: skip
    first: dict[str, int] = {}
    for record in failures:
        first.setdefault(_partition_of(record), record["offset"])
    if failures and not partial:
        message = f"{len(failures)} of {len(records)} Kafka records have to come again"
        raise TransientError(message)
    # The service's documentation has named the partition by both of these members.
    return {
        "batchItemFailures": [
            {"itemIdentifier": {"partition": place, "topic-partition": place, "offset": offset}}
            for place, offset in first.items()
        ]
    }


def _records(event: Any) -> list[Json]:
    found = event.get("records") if isinstance(event, dict) else None
    if not isinstance(found, dict) or not all(isinstance(part, list) for part in found.values()):
        sentence = unexpected_event(event, "Kafka", "an object records of lists")
        raise InvalidInputError(sentence, Kind.INVALID_RECORD)
    records = [record for part in found.values() for record in part]
    for index, record in enumerate(records):
        for name, kind in (("topic", str), ("partition", int), ("offset", int)):
            if not isinstance(record, dict) or not isinstance(record.get(name), kind):
                message = f"records: number {index} has no {name} as a record of Kafka has"
                raise InvalidInputError(message, Kind.INVALID_RECORD)
    return records


def _partition_of(record: Json) -> str:
    return f"{record['topic']}-{record['partition']}"


def _delivery(record: Json, consumer: str) -> Delivery:
    headers = _headers(record)
    source = {"partition": str(record["partition"]), "offset": str(record["offset"])}
    if record.get("timestamp") is not None:
        source["timestamp"] = str(record["timestamp"])
    life = read_redrive_history(headers, consumer)
    return Delivery(
        record["topic"], _bytes(record, "value"), _bytes(record, "key"), headers, source, life.redrive,
        life.redriven_for, life.origin,
    )  # fmt: skip


def _headers(record: Json) -> Headers:
    """Lambda writes a header's bytes as a list of numbers, signed ones as Java has them."""
    try:
        return tuple(
            (str(name), None if value is None else bytes(byte & 0xFF for byte in value))
            for header in record.get("headers") or ()
            for name, value in header.items()
        )
    except (AttributeError, TypeError):
        message = "headers: expected objects of a name and a list of bytes"
        raise InvalidInputError(message, Kind.INVALID_RECORD) from None


def _bytes(record: Json, name: str) -> bytes | None:
    text = record.get(name)
    return None if text is None else bytes_of(text, name)
