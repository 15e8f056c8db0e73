"""Reads the items of distributed Maps from the object store, and writes their results there."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any, Protocol

from headgate.errors import HeadgateError, InterruptedRunError, NotFoundError, StaleLeaseError, TransientError
from headgate.workflow import _states
from headgate.workflow._failure import ITEM_READER, RESULT_WRITER, StateError
from headgate.workflow._frames import FAILED, SUCCEEDED, Frame
from headgate.workflow._json import LIMIT_BYTES, load_json, to_text
from headgate.workflow._program import ItemBatcher, ItemReader, MapState
from headgate.workflow._values import Scope

if TYPE_CHECKING:
    from headgate.workflow._engine import Engine

DEFAULT_BATCH_BYTES = 262_144


class Objects(Protocol):
    """What readers and writers need of an object store."""

    def get(self, key: str) -> bytes: ...
    def put(self, key: str, data: bytes) -> Any: ...
    def list(self, prefix: str) -> Any: ...


class MapObjects:
    """The object store as Maps see it: buckets are its top folders, or are left out for its own bucket.

    Args:
        objects: the store.
        buckets: names of buckets whose keys are the store's own keys; others are folders `bucket/`.
    """

    def __init__(self, objects: Any, buckets: tuple[str, ...] = ("workflow",)) -> None:
        self.objects = objects
        self.buckets = buckets

    def key(self, bucket: str, key: str) -> str:
        return key if bucket in self.buckets else f"{bucket}/{key}"

    def get(self, bucket: str, key: str) -> bytes:
        return bytes(self.objects.get(self.key(bucket, key)))

    def put(self, bucket: str, key: str, data: bytes) -> None:
        self.objects.put(self.key(bucket, key), data)

    def list(self, bucket: str, prefix: str) -> list[str]:
        inner = self.key(bucket, "")
        found = self.objects.list(self.key(bucket, prefix))
        return [str(key).removeprefix(inner) for key in found]


def read_items(services: MapObjects | None, state: MapState, scope: Scope) -> list[Any]:
    """The items that an ItemReader finds.

    Raises:
        StateError: States.ItemReaderFailed.
    """
    reader = state.reader
    assert reader is not None
    given = reader.parameters.evaluate(scope)
    if services is None:
        raise StateError(ITEM_READER, "The runner has no object store to read items from")
    most = _states.whole_number(reader.max_items, "MaxItems", scope, least=0) or None
    try:
        items = _read(services, reader, given)
    except NotFoundError:
        bucket, key = given.get("Bucket"), given.get("Key", given.get("Prefix", ""))
        raise StateError(ITEM_READER, f"The object {key} does not exist in bucket {bucket}") from None
    except (TransientError, InterruptedRunError, StaleLeaseError):
        raise  # the execution goes on from here when the store is back
    except (HeadgateError, ValueError, KeyError, IndexError, TypeError, csv.Error) as error:
        error = ValueError(f"there is no {error}") if isinstance(error, KeyError | IndexError) else error
        cause = f"The items of {given.get('Key', given.get('Prefix', ''))} cannot be read: {error}"
        raise StateError(ITEM_READER, cause) from None
    return items[:most]


def _read(services: MapObjects, reader: ItemReader, given: dict[str, Any]) -> list[Any]:
    bucket = given["Bucket"]
    if reader.action == "listObjectsV2":
        prefix = given.get("Prefix", "")
        keys = sorted(services.list(bucket, prefix))
        if reader.transformation == "LOAD_AND_FLATTEN":
            return [item for key in keys for item in _parse(services.get(bucket, key), reader, services, bucket)]
        return [{"Key": key, "Size": len(services.get(bucket, key))} for key in keys]
    return _parse(services.get(bucket, given["Key"]), reader, services, bucket)


def _parse(data: bytes, reader: ItemReader, services: MapObjects, bucket: str) -> list[Any]:
    kind = reader.input_type
    if kind == "PARQUET":
        from pyarrow import parquet

        rows = parquet.read_table(io.BytesIO(data)).to_pylist()
        return list(load_json(json.dumps(rows, default=str)))  # times and decimals as text
    text = data.decode("utf-8-sig")
    if kind == "JSONL":
        return [load_json(line) for line in text.split("\n") if line.strip()]
    if kind == "CSV":
        # Python's own limit is half of what an item may have.
        csv.field_size_limit(max(csv.field_size_limit(), LIMIT_BYTES))
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=reader.delimiter) if row]
        headers = list(reader.headers) if reader.header_location == "GIVEN" else (rows[0] if rows else [])
        body = rows if reader.header_location == "GIVEN" else rows[1:]
        twice = next((name for at, name in enumerate(headers) if name in headers[:at]), None)
        if twice is not None:
            message = f"two columns are named {twice!r}"
            raise ValueError(message)
        return [dict(zip(headers, row + [""] * (len(headers) - len(row)), strict=False)) for row in body]
    value = load_json(text)
    if kind == "MANIFEST":
        return [item for entry in value["files"] for item in _manifest_file(services, bucket, entry["key"])]
    for part in reader.items_pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        value = value[int(name)] if isinstance(value, list) else value[name]
    if isinstance(value, dict):
        return [{"Key": key, "Value": item} for key, item in value.items()]
    if not isinstance(value, list):
        message = "expected an array or an object"
        raise ValueError(message)
    return value


def _manifest_file(services: MapObjects, bucket: str, key: str) -> list[dict[str, Any]]:
    """A file of an S3 inventory: rows of bucket, key and size."""
    import gzip

    data = services.get(bucket, key)
    text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    names = ("Bucket", "Key", "Size")
    return [dict(zip(names, row, strict=False)) for row in csv.reader(io.StringIO(text, newline="")) if row]


def batches(batcher: ItemBatcher, items: list[Any], scope: Scope) -> list[Any]:
    """The items in batches, each as the input of one iteration.

    Raises:
        StateError: a field of the batcher gives no number.
    """
    most = _states.whole_number(batcher.max_items, "MaxItemsPerBatch", scope, least=1)
    limit = _states.whole_number(batcher.max_bytes, "MaxInputBytesPerBatch", scope, least=1) or DEFAULT_BATCH_BYTES
    extra = {} if batcher.input is None else {"BatchInput": batcher.input.evaluate(scope)}
    overhead = len(to_text({**extra, "Items": []}).encode())
    found: list[Any] = []
    current: list[Any] = []
    size = overhead
    for item in items:
        length = len(to_text(item).encode()) + 1
        if current and ((most is not None and len(current) >= most) or size + length > limit):
            found.append({**extra, "Items": current})
            current, size = [], overhead
        current.append(item)
        size += length
    if current:
        found.append({**extra, "Items": current})
    return found


def write_results(engine: Engine, frame: Frame, state: MapState) -> Any:
    """Write the results of a Map, and give what the state hands on instead of them.

    Raises:
        StateError: States.ResultWriterFailed.
    """
    writer = state.writer
    assert writer is not None
    children = [engine.frames[number] for number in engine.children.get(frame.id, ())]
    good: list[Any] = [_result(engine, state, child) for child in children if child.status == SUCCEEDED]
    bad = [_result(engine, state, child) for child in children if child.status == FAILED]
    if writer.transformation != "NONE":
        good = [json.loads(entry["Output"]) for entry in good]
        if writer.transformation == "FLATTEN":
            good = [part for entry in good for part in (entry if isinstance(entry, list) else [entry])]
    if not writer.action:
        return good
    scope = engine.scope_of(frame, state)
    assert writer.parameters is not None
    given = writer.parameters.evaluate(
        scope if state.is_jsonata else scope.with_data(_states.effective_input(state, scope))
    )
    services: MapObjects | None = engine.services
    if services is None:
        raise StateError(RESULT_WRITER, "The runner has no object store to write results to")
    run = frame.data["run"].rpartition(":")[2]
    folder = f"{given.get('Prefix', '').rstrip('/')}/{run}".lstrip("/")
    ending = writer.output_type.lower()
    files: dict[str, list[Any]] = {"SUCCEEDED": [], "FAILED": [], "PENDING": []}
    try:
        for status, entries in (("SUCCEEDED", good), ("FAILED", bad)):
            if not entries:
                continue
            body = "\n".join(to_text(e) for e in entries) if ending == "jsonl" else to_text(entries)
            key = f"{folder}/{status}_0.{ending}"
            services.put(given["Bucket"], key, body.encode())
            files[status].append({"Key": key, "Size": len(body.encode())})
        manifest = {"DestinationBucket": given["Bucket"], "MapRunArn": frame.data["run"], "ResultFiles": files}
        services.put(given["Bucket"], f"{folder}/manifest.json", to_text(manifest).encode())
    except (TransientError, InterruptedRunError, StaleLeaseError):
        raise
    except (HeadgateError, KeyError, TypeError, OSError) as error:
        raise StateError(RESULT_WRITER, f"The results cannot be written: {type(error).__name__}: {error}") from None
    details = {"Bucket": given["Bucket"], "Key": f"{folder}/manifest.json"}
    return {"MapRunArn": frame.data["run"], "ResultWriterDetails": details}


def _result(engine: Engine, state: MapState, child: Frame) -> dict[str, Any]:
    name = child.data.get("own", {}).get("name", str(child.index))
    entry: dict[str, Any] = {"ExecutionArn": f"{engine.record.arn}:{name}", "Name": name, "Status": child.status}
    if child.status == SUCCEEDED:
        return {**entry, "Output": to_text(child.output)}
    return {**entry, "Error": child.error, "Cause": child.cause}
