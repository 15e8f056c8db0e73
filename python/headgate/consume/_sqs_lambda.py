"""Lambda handlers of SQS records, which answer with the records to bring again."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

from headgate.consume._batches import caller_of_bodies, records_of, run_records
from headgate.consume._process import Processor
from headgate.consume._sqs_messages import is_fifo, read_record
from headgate.consume._sqs_queue import error_code, read_attributes, set_up_warnings
from headgate.errors import HeadgateError, InvalidInputError, Kind
from headgate.idempotency._lease import lambda_invocation, remaining_s
from headgate.identity import load_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.consume._consumer import Consumer
    from headgate.idempotency import Ledger
    from headgate.items import LifeCycle
    from headgate.ports import Clock, Json, Metrics

log = logging.getLogger("headgate.consume")


def sqs_batch(handler: Callable[[Any], Any]) -> Callable[..., Json]:
    """A Lambda handler of a function of one record's body, with partial batch responses.

    What raises (`InProgress` of `@idempotent_consumer` among it) comes back; the rest is deleted. In a FIFO queue the
    records of a group that follow a failed one come back unread, in order. An `async` handler is awaited, on one event
    loop that lasts as long as the function is warm. Inside, a claim without a lease of its own lasts as long as the
    invocation can; records for which no time is left come back unread.

    Args:
        handler: called with each record's parsed body; synchronous or `async`.

    Returns:
        `handler(event, context)` for Lambda. It raises InvalidInputError, and so fails the whole batch, for an event
        that is not one of SQS.

    Raises:
        ConfigError: the handler is a class or a generator function.

    Example:
        >>> from headgate import Ledger, idempotent_consumer
        >>> @sqs_batch
        ... @idempotent_consumer(Ledger.open("memory://"), consumer="orders")
        ... def handler(body): return body["n"] + 1
        >>> handler({"Records": [{"messageId": "a", "body": '{"n": 1}'}, {"messageId": "b", "body": "?"}]}, None)
        {'batchItemFailures': [{'itemIdentifier': 'b'}]}
    """
    call = caller_of_bodies(handler)

    def run(record: Json) -> bool:
        call(_parse(record["body"]))
        return True

    @functools.wraps(handler, updated=())
    def batch(event: Json, context: Any = None) -> Json:
        return _respond(event, context, run, {"handler": call.name})

    return batch


def sqs_handler(
    consumer: Consumer, ledger: Ledger, clock: Clock, metrics: Metrics | None = None, items: LifeCycle | None = None, *,
    client: Any = None,
) -> Callable[..., Json]:  # fmt: skip
    """A Lambda handler that runs a `Consumer` on SQS records, with partial batch responses.

    Dead letters are left to the queue's redrive policy: a record that fails comes back until SQS moves it, whatever
    `max_attempts` says, and is run again once it is moved back. Order, leases and time are kept as in `sqs_batch`.

    Args:
        consumer: the consumer to run.
        ledger: the ledger that holds the claims; what weakens its guarantees is logged at the first invocation.
        clock: the clock; tests pass a `ManualClock`.
        metrics: receives counts and durations.
        items: finishes the items that the consumer handles (`headgate.items`); None: none.
        client: a boto3 SQS client. With one, the first invocation also compares the queue's retention, redrive policy
            and visibility timeout with the ledger, the consumer and the function's time-out.

    Returns:
        `handler(event, context)` for Lambda. It raises InvalidInputError, and so fails the whole batch, for an event
        that is not one of SQS.

    Raises:
        ConfigError: the ledger cannot do what the consumer's effects need.
    """
    processor = Processor(consumer, ledger, clock, None, metrics, items)
    about = {"consumer": consumer.name}
    unchecked = [True]

    def run(record: Json) -> bool:
        return processor.process(read_record(consumer.topic, record)).outcome.settled

    def handler(event: Json, context: Any = None) -> Json:
        if unchecked:
            unchecked.clear()
            _warn(consumer, ledger, client, event, context)
        return _respond(event, context, run, about)

    return handler


def _respond(event: Json, context: Any, run: Callable[[Json], bool], about: dict[str, str]) -> Json:
    records = _records(event)
    with lambda_invocation(context):
        failures = run_records(
            records, run, _group_of, context=context,
            describe=lambda record: {**about, "message_id": record["messageId"]},
        )  # fmt: skip
    return {"batchItemFailures": [{"itemIdentifier": record["messageId"]} for record in failures]}


def _records(event: Any) -> list[Json]:
    records = records_of(event, "an SQS queue")
    for index, record in enumerate(records):
        for name in ("messageId", "body"):
            if not isinstance(record, dict) or not isinstance(record.get(name), str):
                message = f"Records[{index}].{name}: expected the text that a record of an SQS queue has"
                raise InvalidInputError(message, Kind.INVALID_RECORD)
    return records


def _group_of(record: Json) -> str | None:
    if not is_fifo(str(record.get("eventSourceARN") or "")):
        return None
    return str((record.get("attributes") or {}).get("MessageGroupId") or "")


def _parse(body: str) -> Any:
    # As bytes, so that a byte order mark is none of it.
    return load_json(body.encode("utf-8", "surrogatepass"), "the body")


def _warn(consumer: Consumer, ledger: Ledger, client: Any, event: Json, context: Any) -> None:
    """Once in the life of a function's process; nothing here may fail a batch."""
    try:
        attributes: dict[str, str] = {}
        if client is not None:
            region_and_more = _records(event)[0]["eventSourceARN"].split(":")
            url = client.get_queue_url(QueueName=region_and_more[5], QueueOwnerAWSAccountId=region_and_more[4])
            attributes = read_attributes(client, url["QueueUrl"])
        texts = set_up_warnings(attributes, {}, consumer, ledger, buries=False, timeout_s=remaining_s(context))
    except HeadgateError:
        return  # the event is refused, or the ledger is unavailable: the batch itself reports it
    except Exception as error:
        log.warning("could not check the set-up", extra={"consumer": consumer.name, "error": error_code(error)})
        return
    for text in texts:
        log.warning(text, extra={"consumer": consumer.name})
