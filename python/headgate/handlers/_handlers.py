"""One function per job. Each opens its parts per invocation from HEADGATE_CONFIG (or ./headgate.toml); boto3 clients
stay open between invocations."""

from __future__ import annotations

import base64
import logging
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from headgate.config import load
from headgate.errors import InvalidInputError, Kind
from headgate.handlers._warm import keeps_clients
from headgate.ops import configure_logging
from headgate.wiring import App

if TYPE_CHECKING:
    from headgate.ports import Json

log = logging.getLogger("headgate.handlers")
_UPLOAD_FIELDS = ("batch_id", "file_name", "content", "correlation_id")


def app() -> App:
    config = load(os.environ.get("HEADGATE_CONFIG"))
    in_lambda = "AWS_LAMBDA_FUNCTION_NAME" in config.environment
    style = config.logging.format if config.logging.format != "auto" else ("json" if in_lambda else "text")
    configure_logging(config.logging.level, style)
    return App(config)


@keeps_clients
def consume(event: Json, context: Any = None) -> Json:
    """Run a configured consumer: HEADGATE_CONSUMER, or the first one.

    Args:
        event: of an SQS event source mapping, answered with the messages to bring again (`batchItemFailures`; set
            ReportBatchItemFailures); or `{"consumer": name}`, or `{}`: what waits in the consumer's own queue is
            drained.
        context: Lambda's.

    Raises:
        InvalidInputError: the event is of another service.
    """
    from headgate.idempotency._lease import lambda_invocation

    source = _event_source(event)
    parts = app()
    name = event.get("consumer") or os.environ.get("HEADGATE_CONSUMER") or next(iter(parts.config.consumers), "")
    if source:
        from headgate.consume import sqs_handler

        handle = sqs_handler(parts.consumer(name), parts.ledger, parts.clock, parts.metrics, parts.life_cycle(name))
        return handle(event, context)
    parts.relay()
    with lambda_invocation(context):
        return {"statusCode": 200, "body": asdict(parts.worker(name).drain())}


def _event_source(event: Any) -> str:
    """The service whose messages an event carries; an empty text for an event without any."""
    if not isinstance(event, dict):
        message = f"consume: expected an object, got {type(event).__name__}"
        raise InvalidInputError(message, Kind.INVALID_RECORD)
    records = event.get("Records")
    first = records[0] if isinstance(records, list) and records else {}
    source = event.get("eventSource") or (first.get("eventSource") if isinstance(first, dict) else "")
    if source == "aws:sqs" or (records is not None and not source):
        return "aws:sqs"
    if source or "records" in event:
        message = (
            f"consume: an event of {str(source or 'another service')[:50]}; expected one of SQS. headgate.consume has"
            " kafka_handler, kinesis_handler and dynamodb_stream_handler for others"
        )
        raise InvalidInputError(message, Kind.INVALID_RECORD)
    return ""


@keeps_clients
def upload(event: Json, context: Any = None) -> Json:
    """One file: `{"batch_id", "file_name", "content" (base64), "correlation_id"?}`; the event that was announced.

    An event that is not so is answered 400 with one sentence, and nothing is stored or announced. The announcement is
    durable with the answer, and delivered before it; where that fails, the next delivery or the healing sweep does it.
    """
    try:
        batch, name, correlation_id, data = _upload_fields(event)
    except InvalidInputError as error:
        return _refused(error)
    parts = app()
    try:
        body = parts.file_service().receive(batch, name, data, correlation_id)
    except InvalidInputError as error:
        return _refused(error)
    try:
        parts.relay()
    except Exception as error:
        log.error("announcements are not delivered yet", extra={"error": type(error).__name__})
    return {"statusCode": 202, "body": body}


def _refused(error: InvalidInputError) -> Json:
    return {"statusCode": 400, "error": "InvalidInputError", "message": f"upload: {error}"}


def _upload_fields(event: Any) -> tuple[str, str, str | None, bytes]:
    if not isinstance(event, dict):
        message = f"expected an object with batch_id, file_name and content, got {type(event).__name__}"
        raise InvalidInputError(message, Kind.INVALID_RECORD)
    unknown = sorted(str(name)[:50] for name in event.keys() - set(_UPLOAD_FIELDS))
    if unknown:
        message = f"{unknown[0]!r} is not among {', '.join(_UPLOAD_FIELDS)}"
        raise InvalidInputError(message, Kind.INVALID_RECORD)
    fields: list[Any] = []
    for name in _UPLOAD_FIELDS:
        value = event.get(name)
        if value is None and name == "correlation_id":
            fields.append(None)
            continue
        if not isinstance(value, str):
            got = "nothing" if value is None else type(value).__name__
            message = f"{name}: expected text, got {got}"
            raise InvalidInputError(message, Kind.INVALID_RECORD)
        fields.append(value)
    batch, name, content, correlation_id = fields
    try:
        return batch, name, correlation_id, base64.b64decode(content, validate=True)
    except ValueError:
        message = "content: expected base64"
        raise InvalidInputError(message, Kind.INVALID_RECORD) from None
