"""Unwraps the data of a message: a pipe's array, an SQS record, an SNS envelope.

EventBridge Pipes hands a state machine a JSON array of SQS records even when the batch size is 1. The body of a record
is text. When SNS feeds the queue without raw delivery, that text is itself an envelope with the message as text.
This module is the only place that knows these shapes; stages call it for the input of an execution.
"""

from __future__ import annotations

import json
from typing import Any

from headgate.errors import InvalidInputError, Kind
from headgate.workflow._json import load_json

_RECORD_MARKS = ("messageId", "receiptHandle", "eventSource", "eventSourceARN")
_SNS_CONFIRMATIONS = ("SubscriptionConfirmation", "UnsubscribeConfirmation")


def unwrap_input(value: Any) -> Any:
    """The data inside an execution's input; what is in no envelope comes back as it is.

    Accepted are: a pipe's array with one SQS record, `{"Records": [...]}` with one record as Lambda gets it from SQS or
    SNS, a single SQS record, and in each of them, or alone, an SNS envelope.

    Args:
        value: the input of an execution, parsed from JSON.

    Raises:
        InvalidInputError: there are several records or none, a body is not JSON text, or the message is no
            notification but a confirmation of a subscription. The message never quotes the body.

    Example:
        >>> unwrap_input([{"messageId": "m1", "body": '{"programId": "p"}'}])
        {'programId': 'p'}
        >>> unwrap_input({"programId": "p"})
        {'programId': 'p'}
    """
    records = _records(value)
    if records is None:
        return _without_sns(value)
    if len(records) != 1:
        message = f"the execution's input holds {len(records)} queue records; expected 1 (a pipe with batch size 1)"
        raise InvalidInputError(message)
    record = records[0]
    if isinstance(record.get("Sns"), dict):
        return _parse(record["Sns"].get("Message"), "the SNS record's Message")
    return _without_sns(_parse(record.get("body"), "the SQS record's body"))


def _records(value: Any) -> list[Any] | None:
    """The queue records that `value` holds, or None when it is ordinary data."""
    if isinstance(value, dict):
        if set(value) == {"Records"} and isinstance(value["Records"], list):
            records = value["Records"]
            if not records:
                return records
            return _same_kind(records, [_is_record(r) or _is_sns_record(r) for r in records])
        return [value] if _is_record(value) and ("receiptHandle" in value or "eventSource" in value) else None
    if isinstance(value, list) and value:
        return _same_kind(value, [_is_record(record) for record in value])
    return None


def _same_kind(records: list[Any], found: list[bool]) -> list[Any] | None:
    if any(found) and not all(found):
        message = "the execution's input mixes queue records with other values; expected one queue record"
        raise InvalidInputError(message)
    return records if all(found) else None


def _is_record(value: Any) -> bool:
    """Whether a value looks like an SQS record: a body, and beside it nothing or what SQS adds."""
    if not isinstance(value, dict) or "body" not in value:
        return False
    return any(mark in value for mark in _RECORD_MARKS) or (len(value) == 1 and isinstance(value["body"], str))


def _is_sns_record(value: Any) -> bool:
    return isinstance(value, dict) and value.get("EventSource") == "aws:sns" and isinstance(value.get("Sns"), dict)


def _without_sns(value: Any) -> Any:
    if not isinstance(value, dict) or "TopicArn" not in value:
        return value
    if value.get("Type") in _SNS_CONFIRMATIONS:
        message = f"the message is an SNS {value['Type']}; expected a Notification"
        raise InvalidInputError(message)
    if value.get("Type") == "Notification" and "Message" in value:
        return _parse(value["Message"], "the SNS envelope's Message")
    return value


def _parse(text: Any, what: str) -> Any:
    if not isinstance(text, str):
        message = f"{what} is {type(text).__name__}; expected JSON as text"
        raise InvalidInputError(message)
    return parse_json(text, what)


def parse_json(text: str | bytes, what: str) -> Any:
    """Parse strict JSON: no NaN or Infinity, no name twice in an object, UTF-8.

    Args:
        text: the JSON.
        what: names it in the error.

    Raises:
        InvalidInputError: kind invalid_json; with the position, never with the content.

    Example:
        >>> parse_json('{"a": NaN}', "the body")
        Traceback (most recent call last):
        headgate.errors.InvalidInputError: the body is not JSON: NaN is no JSON number
    """
    try:
        return load_json(text, _object)
    except json.JSONDecodeError as error:
        message = f"{what} is not JSON: {error.msg} (line {error.lineno}, column {error.colno})"
    except UnicodeDecodeError as error:
        message = f"{what} is not JSON: byte {error.start} is not UTF-8"
    except ValueError as error:  # raised by the two hooks, and by integers with more digits than Python converts
        message = f"{what} is not JSON: {error}"
    raise InvalidInputError(message, Kind.INVALID_JSON)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        message = "an object has the same name twice"
        raise ValueError(message)
    return found
