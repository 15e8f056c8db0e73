"""Adopt a Parquet file that something else wrote: find out which files of the source are in it, and keep that."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import secrets
import struct
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from headgate._native import parquet
from headgate.checkpoint._places import (
    is_url,
    key_in_source,
    local_path,
    s3_location,
    shown,
    source_name,
    source_place,
)
from headgate.checkpoint._schemas import INFER, Reading, arrow_schema, changed, plan_of, reading_of
from headgate.checkpoint._table import sorted_by
from headgate.errors import ConfigError, ConflictError, InvalidInputError, Kind, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_FOOTER = b"headgate"
_KEY = "_headgate_file"  # the column of the rows that are read from the source
_MAGIC, _VERSION, _ENTRY = b"HGLS", 1, struct.Struct("<16sQQII")  # docs/formats.md
_DIGEST, _MOST_NAMED = 16, 5


class Adoption(NamedTuple):
    """What `adopt` found. The files that are not in the table are read by the next run of `update`."""

    rows: int
    files_in: int
    files_not_in: int
    rows_of_no_file: int
    told_by: str  # "name" or "content"
    target: str
    committed: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return self._asdict()


def adopt(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    schema: str | type[Any] | None = None,
    names: str | None = None,
    records: str | Sequence[str] = "",
    file_name: bool | str = False,
    time: Mapping[str, str] | None = None,
    sort_by: str = "",
    follow_symlinks: bool = False,
    dry_run: bool = False,
) -> Adoption:
    """Make a Parquet file (of `CheckpointStore.save`, pandas, polars, ...) a checkpoint that `update` continues.

    Which files are in it is told by name, if `file_name` says which column has the files' keys, or else by content: a
    file is in the table if all of its rows are.

    Args:
        source: what the table was made from, as for `update`.
        target: the file, on disk or s3://bucket/key. Its rows stay as they are; it is written anew, sorted.
        schema: as for `update`; None infers one from the source. The table must have its columns.
        names, records, file_name, time, sort_by, follow_symlinks: as for `update`.
        dry_run: find out, and write nothing.

    Raises:
        NotFoundError: there is no such file.
        InvalidInputError: it is a checkpoint already, its columns are others (named), no file of the source is in it,
            or one in part only.
        ConflictError: another writer replaced it meanwhile, or a run is at work.

    Example:
        >>> adopt("logs/prod", "events.parquet", schema="infer").files_in          # doctest: +SKIP
        19978
    """
    reading = reading_of(names, records, file_name, time)
    if os.fspath(target).startswith("delta+"):
        message = "adopt: a Delta table cannot be adopted; expected a Parquet file on disk or s3://bucket/key"
        raise ConfigError(message)
    place = source_place(source, follow_symlinks=follow_symlinks)
    if schema is None or schema == INFER:
        key = key_in_source(source, target)
        inferred, plan = True, str(parquet().infer(place, "records", sort_by, 0, key, "", reading.for_inference()))
    else:
        inferred, plan = False, changed(plan_of(schema), reading)
    with _held(target) as file:
        table = _fitting(file.read(), json.loads(plan), shown(target))
        found = _Source(place, plan, reading, table)
        if table.num_rows and found.not_in and not found.entries:
            message = f"adopt: not one of {found.not_in} files of the source is in {shown(target)}"
            raise InvalidInputError(message)
        rows_of_no_file = table.num_rows - found.rows
        report = Adoption(
            table.num_rows, len(found.entries), found.not_in, rows_of_no_file, found.told_by, shown(target), not dry_run
        )
        if not dry_run:
            file.write(table, _footer(plan, table, found, source_name(source), rows_of_no_file, inferred=inferred))
    return report


class _Source:
    """The source's files, and which of them are in the table."""

    def __init__(self, place: Any, plan: str, reading: Reading, table: Any) -> None:
        import tempfile

        parsed = json.loads(plan)
        parsed["fields"].append(
            {"name": _KEY, "type": "string", "nullable": True, "required": False, "source": "file_name"}
        )
        column = next((f["name"] for f in parsed["fields"][:-1] if f.get("source") == "file_name"), "")
        parsed["fields"] = [f for f in parsed["fields"] if f["name"] != column]
        options = {"settle_us": 0, "inferred": False}
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "rows.parquet")
            parquet().update(place, path, json.dumps(parsed), options, None)
            self._entries = _entries_beside(path)
            rows = _rows(path)
        self.told_by = "name" if column and table.column(column).null_count < table.num_rows else "content"
        keys = self._by_name(table, column) if self.told_by == "name" else self._by_content(rows, table)
        self.rows = sum(keys.values())
        digests = {hashlib.sha256(key.encode()).digest()[:_DIGEST] for key in keys}
        self.entries = [entry for entry in self._entries if entry[0] in digests]
        self.not_in = len(self._entries) - len(self.entries)

    def _by_name(self, table: Any, column: str) -> dict[str, int]:
        """Keys in the column of file names -> their rows."""
        digests = {entry[0] for entry in self._entries}
        found = Counter(name for name in table.column(column).to_pylist() if name is not None)
        return {k: n for k, n in found.items() if hashlib.sha256(k.encode()).digest()[:_DIGEST] in digests}

    @staticmethod
    def _by_content(rows: Any, table: Any) -> dict[str, int]:
        """Files all of whose rows are in the table -> their rows. Of equal files as many as the table has."""
        columns = [name for name in table.column_names if name in rows.column_names]
        left = Counter(_texts(table.select(columns)))
        files: dict[str, list[str]] = {}
        for key, text in zip(rows.column(_KEY).to_pylist(), _texts(rows.select(columns)), strict=True):
            files.setdefault(key, []).append(text)
        out, partly = {}, 0
        for key, texts in sorted(files.items()):
            wanted = Counter(texts)
            there = sum((wanted & left).values())
            if there == len(texts):
                left -= wanted
                out[key] = len(texts)
            else:
                partly += there > 0
        if partly:
            message = (
                f"adopt: {partly} files of the source are in the table in part only, so that what is left of them "
                "cannot be told; give the column with the files' names (--file-name COLUMN), or make a new target"
            )
            raise InvalidInputError(message)
        return out


def _texts(table: Any) -> list[str]:
    """Every row as one text; equal rows have equal texts."""
    return [json.dumps(row, default=str, sort_keys=True) for row in table.to_pylist()]


def _rows(path: str) -> Any:
    import pyarrow.parquet as pq

    return pq.read_table(path)


def _entries_beside(path: str) -> list[tuple[bytes, int, int, int, int]]:
    """What the engine's ledger says of the files that have rows: key digest, tag, content, rows, flags."""
    found = []
    for part in sorted(Path(f"{path}.ledger").glob("*.hgl")):
        found += list(_ENTRY.iter_unpack(part.read_bytes()[16:-32]))
    return sorted(entry for entry in found if entry[3] > 0)


def _fitting(body: bytes, plan: dict[str, Any], target: str) -> Any:
    """The table with the plan's columns and types.

    Raises:
        InvalidInputError: it is a checkpoint already, or a column differs.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(body))
        footer = pq.read_metadata(io.BytesIO(body)).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        message = f"{target} is not a readable Parquet file: {str(error).splitlines()[0]}"
        raise InvalidInputError(message, Kind.CORRUPT_DATA) from None
    if _FOOTER in footer:
        message = f"{target} is a checkpoint of headgate's already"
        raise InvalidInputError(message, Kind.ALREADY_EXISTS)
    wanted, columns, wrong = arrow_schema(plan), [], []
    for field in wanted:
        if field.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, field.type))
            wrong += [] if field.name == "_rest" else [f"{field.name} is missing"]
            continue
        column = table.column(field.name)
        try:
            columns.append(_cast(column, field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            wrong.append(f"{field.name} is {column.type}, expected {field.type}")
    known = set(wanted.names)
    wrong += [f"{name} is not in the schema" for name in table.column_names if name not in known]
    if wrong:
        more = f" and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
        message = f"adopt: the columns of {target} differ from {plan['name']}: {'; '.join(wrong[:_MOST_NAMED])}{more}"
        raise InvalidInputError(message)
    return sorted_by(pa.table(columns, schema=wanted), plan.get("sort_by", ""))


def _cast(column: Any, kind: Any) -> Any:
    """Exactly: a time without a zone is UTC; nothing is rounded."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_timestamp(kind) and pa.types.is_timestamp(column.type) and column.type.tz is None:
        column = column.cast(pa.timestamp(column.type.unit, "UTC"))
    exact = column.cast(kind)
    if pa.types.is_integer(column.type) and pa.types.is_floating(kind) and not exact.cast(column.type).equals(column):
        message = "rounded"
        raise pa.ArrowInvalid(message)
    if not pa.types.is_null(column.type) and _family(column.type) != _family(kind):
        message = "another kind"
        raise pa.ArrowInvalid(message)
    return exact


def _family(kind: Any) -> str:
    """Types between which Arrow casts without changing what a value means; it would also parse texts."""
    import pyarrow as pa

    families = {
        "number": (pa.types.is_integer, pa.types.is_floating), "boolean": (pa.types.is_boolean,),
        "time": (pa.types.is_timestamp,), "text": (pa.types.is_string, pa.types.is_large_string, pa.types.is_date),
    }  # fmt: skip
    found = (name for name, tests in families.items() if any(test(kind) for test in tests))
    return next(found, "other")


class _Footer(NamedTuple):
    segment: str
    body: bytes
    text: str


def _footer(plan: str, table: Any, found: _Source, source: str, rows_of_no_file: int, *, inferred: bool) -> _Footer:
    import pyarrow.compute as pc

    parsed = json.loads(plan)
    write_id = secrets.token_hex(16)
    segment = f"seg-1-{write_id[:12]}.hgl"
    body = _MAGIC + struct.pack("<IQ", _VERSION, len(found.entries))
    body += b"".join(_ENTRY.pack(*entry) for entry in found.entries)
    footer: dict[str, Any] = {
        "format": 1, "schema": parsed["name"], "version": 1, "write_id": write_id, "segments": [segment], "rejects": [],
        "rows": table.num_rows, "last_full_listing_us": 0, "superseded": rows_of_no_file, "skipped": 0,
        "sources": [source],
    }  # fmt: skip
    sort_by = parsed.get("sort_by", "")
    if sort_by and table.num_rows and (last := pc.max(table.column(sort_by).cast("int64")).as_py()) is not None:
        footer["last_timestamp_us"] = last
    if inferred:
        footer["plan"] = plan
    return _Footer(segment, body + hashlib.sha256(body).digest(), json.dumps(footer))


def _written(table: Any, footer: _Footer) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({_FOOTER: footer.text}), buffer, compression="snappy")
    return buffer.getvalue()


class _LocalFile:
    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._seen: os.stat_result | None = None

    def read(self) -> bytes:
        try:
            self._seen = self._path.stat()
            return self._path.read_bytes()
        except FileNotFoundError:
            message = f"{self._path} does not exist; without it `update` makes a new checkpoint"
            raise NotFoundError(message) from None

    def write(self, table: Any, footer: _Footer) -> None:
        parts = Path(f"{self._path}.ledger")
        parts.mkdir(exist_ok=True)
        _durable(parts / footer.segment, footer.body)
        temporary = self._path.with_name(f"{self._path.name}.tmp-{footer.segment[6:18]}")
        _durable(temporary, _written(table, footer))
        now = self._path.stat()
        if self._seen is None or (now.st_ino, now.st_size, now.st_mtime_ns) != (
            self._seen.st_ino, self._seen.st_size, self._seen.st_mtime_ns
        ):  # fmt: skip
            temporary.unlink()
            message = f"{self._path} changed while it was adopted; run again"
            raise ConflictError(message)
        temporary.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _durable(path: Path, body: bytes) -> None:
    with path.open("xb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())


class _Object:
    def __init__(self, url: str) -> None:
        self._place = s3_location(url)
        self._etag = ""

    def read(self) -> bytes:
        answer = self._place.call("get_object", Key=self._place.key)
        self._etag = str(answer["ETag"])
        return bytes(answer["Body"].read())

    def write(self, table: Any, footer: _Footer) -> None:
        self._place.call("put_object", Key=f"{self._place.key}.ledger/{footer.segment}", Body=footer.body)
        try:
            self._place.call("put_object", Key=self._place.key, Body=_written(table, footer), IfMatch=self._etag)
        except InvalidInputError as error:
            if error.kind is not Kind.VERSION_CONFLICT:
                raise
            message = f"{self._place.url} changed while it was adopted; run again"
            raise ConflictError(message) from None


@contextlib.contextmanager
def _held(target: str | os.PathLike[str]) -> Iterator[_LocalFile | _Object]:
    """The target; one on disk with the lock that runs of `update` hold."""
    if is_url(target, "s3"):
        yield _Object(os.fspath(target))
        return
    path = local_path(target)
    if not os.path.exists(path):
        message = f"{path} does not exist; without it `update` makes a new checkpoint"
        raise NotFoundError(message)
    with open(f"{path}.lock", "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"{path}: a run is at work; try again when it has ended"
            raise ConflictError(message) from None
        yield _LocalFile(path)
