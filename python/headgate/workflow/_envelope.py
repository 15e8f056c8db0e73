"""The object that a stage writes: an envelope around its data, or beside it for large data.

    {"executionId", "stage", "timestamp", "data",
     "metadata": {"processingTimeMs", "inputRecordCount", "outputRecordCount"}}

Data that a stage declares as JSON Lines or Parquet is in an object of its own in the stage's folder. Its envelope has
`"data": null` and `"dataLocation": {"format", "key", "sizeBytes", "sha256"}`. The key holds the digest of the bytes, so
that two attempts never mix: the envelope that was written first names its own data.
"""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import DuplicateError, InvalidInputError, Kind, NotFoundError
from headgate.workflow._context import data_key
from headgate.workflow._messages import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headgate.ports import Json, ObjectStore
    from headgate.workflow._context import ExecutionContext

FORMATS = ("json", "jsonl", "parquet")
MAX_OUTPUT_BYTES = 256 * 1024 * 1024
_EXPECTED = "expected null, true, false, text, a finite number, a list, or a dict with text keys"
_FIELDS = {"executionId", "stage", "timestamp", "data", "metadata"}


@dataclass(frozen=True)
class Envelope:
    """A stage's output as it was read."""

    data: Any
    records: int
    document: Json


def encode_data(stage: str, data: Any, form: str, limit: int) -> bytes:
    """The bytes of a stage's data in one of the three formats, checked.

    Args:
        stage: names the stage in errors.
        data: what the stage returned.
        form: "json", "jsonl" (a list; one JSON text a line) or "parquet" (a list of flat or nested objects with the
            same names, or anything with `__arrow_c_stream__`).
        limit: the most bytes that are allowed.

    Raises:
        InvalidInputError: nothing was returned, the data is too large, or it would not be read as it was returned.
    """
    if data is None:
        message = f"stage {stage!r} returned nothing; a stage returns its data (an empty list where there is none)"
        raise InvalidInputError(message)
    if form == "json":
        encoded = _json_bytes(stage, data, "data")
    elif form == "jsonl":
        encoded = _json_lines(stage, data, limit)
    else:
        encoded = _parquet_bytes(stage, data)
    _check_size(stage, len(encoded), limit)
    return encoded


def write_output(
    objects: ObjectStore, context: ExecutionContext, data: Any, form: str, limit: int, head: Json
) -> Envelope:
    """Write a stage's output once: where one exists already, that one stands and is returned.

    Args:
        objects: the workflow's bucket.
        context: who writes.
        data: what the stage returned.
        form: see `encode_data`.
        limit: the most bytes that are allowed.
        head: `timestamp` and `metadata` of the envelope.

    Raises:
        InvalidInputError: see `encode_data`.
        TransientError: the store did not take it.
    """
    stage = context.currentStage
    encoded = encode_data(stage, data, form, limit)
    document: Json = {"executionId": context.executionId, "stage": stage, "data": None, **head}
    if form == "json":
        # The data's bytes are set in as they are, so that they are encoded and checked once.
        empty = json.dumps(document, sort_keys=True)
        before, _, after = empty.partition('"data": null')
        body = b"".join((before.encode(), b'"data": ', encoded, after.encode()))
    else:
        digest = core.sha256_hex(encoded)
        key = data_key(context.executionId, stage, f"data-{digest[:32]}.{form}")
        document["dataLocation"] = {"format": form, "key": key, "sizeBytes": len(encoded), "sha256": digest}
        with contextlib.suppress(DuplicateError):  # the same bytes, by their digest, of an attempt before
            objects.put(key, encoded, True)
        body = json.dumps(document, sort_keys=True).encode()
    core.fault_point("workflow.before_output")
    try:
        objects.put(context.output_key, body, True)
    except DuplicateError:
        # Another attempt was first. Its bytes may have been read already, so they stand.
        return read_output(objects, context.executionId, stage, limit)
    return Envelope(data, head["metadata"]["outputRecordCount"], document)


def read_output(objects: ObjectStore, execution_id: str, stage: str, limit: int) -> Envelope:
    """Read what a stage of an execution wrote.

    Raises:
        InvalidInputError: there is no output, it is no envelope of this execution and stage, too large, or its data is
            not what the envelope says.
        AccessError: the store refused.
    """
    key = f"executions/{execution_id}/{stage}/output.json"
    what = f"the output of stage {stage!r} at {key}"
    body = _get(objects, key, what)
    _check_input_size(what, len(body), limit)
    document = parse_json(body, what)
    if not isinstance(document, dict) or _FIELDS - document.keys() or not isinstance(document["metadata"], dict):
        message = f"{what} is no stage envelope; expected an object with {', '.join(sorted(_FIELDS))}"
        raise InvalidInputError(message)
    if (document["executionId"], document["stage"]) != (execution_id, stage):
        message = f"{what} belongs to another execution or stage; expected execution {execution_id!r}, stage {stage!r}"
        raise InvalidInputError(message)
    records = document["metadata"].get("outputRecordCount")
    if isinstance(records, bool) or not isinstance(records, int) or records < 0:
        message = f"{what} has no outputRecordCount in its metadata; expected a whole number"
        raise InvalidInputError(message)
    data = document["data"]
    if document.get("dataLocation") is not None:
        data = _read_beside(objects, document["dataLocation"], f"executions/{execution_id}/{stage}/", what, limit)
    return Envelope(data, records, document)


def _read_beside(objects: ObjectStore, location: Any, folder: str, what: str, limit: int) -> Any:
    form, key = (location.get("format"), location.get("key")) if isinstance(location, dict) else (None, None)
    if form not in ("jsonl", "parquet") or not isinstance(key, str) or not key.startswith(folder):
        message = (
            f"{what} has a dataLocation that cannot be read; expected format jsonl or parquet and a key in {folder}"
        )
        raise InvalidInputError(message)
    body = _get(objects, key, f"the data of {what}")
    _check_input_size(what, len(body), limit)
    digest = location.get("sha256")
    if digest is not None and digest != core.sha256_hex(body):
        message = f"{what}: the data at {key} is not what the stage wrote (its SHA-256 differs)"
        raise InvalidInputError(message, Kind.CORRUPT_DATA)
    if form == "jsonl":
        return [parse_json(line, f"line {n} of {key}") for n, line in enumerate(_lines(body), 1)]
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(pa.BufferReader(body)).to_pylist()
    except pa.ArrowException as error:
        message = f"{what}: the data at {key} is no Parquet file ({type(error).__name__})"
        raise InvalidInputError(message) from None


def _lines(body: bytes) -> Iterator[bytes]:
    return (line for line in body.split(b"\n") if line.strip())


def _get(objects: ObjectStore, key: str, what: str) -> bytes:
    try:
        return objects.get(key)
    except NotFoundError:
        message = f"{what} does not exist"
        raise InvalidInputError(message, Kind.NOT_FOUND) from None


# --- encoding


def _json_bytes(stage: str, data: Any, path: str) -> bytes:
    """Compact JSON in UTF-8, if reading it gives back exactly what was returned."""
    try:
        text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        encoded = text.encode()
        if json.loads(text) == data:
            return encoded
    except (TypeError, ValueError, RecursionError, UnicodeEncodeError):
        pass  # the search below says which value it is
    where = _first_problem(data, path, 0) or f"{path} is nested too deeply, contains itself, or holds a number too long"
    message = f"stage {stage!r} returned data that is not JSON: {where}; {_EXPECTED}"
    raise InvalidInputError(message, Kind.INVALID_JSON)


def _first_problem(value: Any, path: str, depth: int) -> str | None:
    """Where the first value that JSON cannot hold is, and what it is; never the value of a text."""
    if depth > 200:
        return f"{path[:200]} is nested more than 200 levels deep or contains itself"
    if value is None or value is True or value is False or type(value) is int:
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{path} is {value!r}".replace("nan", "NaN")
    if isinstance(value, str):
        is_unicode = not any("\ud800" <= character <= "\udfff" for character in value)
        return None if is_unicode else f"{path} is text with half a surrogate pair"
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                return f"{path} has the key {key!r:.40} of type {type(key).__name__}"
            found = _first_problem(key, f"a key of {path}", depth) or _first_problem(item, f"{path}.{key}", depth + 1)
            if found:
                return found
        return None
    if isinstance(value, list):
        numbered = (_first_problem(item, f"{path}[{n}]", depth + 1) for n, item in enumerate(value))
        return next((found for found in numbered if found), None)
    return f"{path} is {type(value).__name__}"


def _json_lines(stage: str, data: Any, limit: int) -> bytes:
    if not isinstance(data, list):
        message = f"stage {stage!r} returned {type(data).__name__}; expected a list, which is what JSON Lines can hold"
        raise InvalidInputError(message)
    lines = bytearray()
    for number, record in enumerate(data):
        lines += _json_bytes(stage, record, f"data[{number}]")
        lines += b"\n"
        _check_size(stage, len(lines), limit)
    return bytes(lines)


def _parquet_bytes(stage: str, data: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if hasattr(data, "__arrow_c_stream__"):
            table = pa.table(data)
        else:
            if not isinstance(data, list) or not all(isinstance(record, dict) for record in data):
                message = f"stage {stage!r} returned {type(data).__name__}; expected a list of objects for Parquet"
                raise InvalidInputError(message)
            table = pa.Table.from_pylist(data)
            if table.to_pylist() != data:
                message = (
                    f"stage {stage!r} returned records that Parquet would change; expected the same names in each, and"
                    " values of one type for each name (JSON Lines keeps all others)"
                )
                raise InvalidInputError(message)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
    except pa.ArrowException as error:
        message = f"stage {stage!r} returned records that Parquet cannot hold ({type(error).__name__}); use JSON Lines"
        raise InvalidInputError(message) from None
    return bytes(sink.getvalue())


def _check_size(stage: str, size: int, limit: int) -> None:
    if size > limit:
        message = f"stage {stage!r} returned {size:,} bytes of data; expected at most {limit:,} (max_output_bytes)"
        raise InvalidInputError(message, Kind.MESSAGE_TOO_LARGE)


def _check_input_size(what: str, size: int, limit: int) -> None:
    if size > limit:
        message = f"{what} has {size:,} bytes; expected at most {limit:,} (max_output_bytes of the stage that reads it)"
        raise InvalidInputError(message, Kind.MESSAGE_TOO_LARGE)
