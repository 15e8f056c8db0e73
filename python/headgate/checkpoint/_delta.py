"""A Delta Lake table as the target: for histories that one file is no longer comfortable for (docs/checkpoints.md).

Every append carries an application transaction of this module's name, so that of two racing appends one loses, reloads
and leaves out what the other has taken. The transaction's version is `n << 24 | random`: n counts the appends, and the
whole number names the manifest (`_headgate.ledger/manifest-VERSION.json`) that says which ledger segments belong to it.
Parts are written before the append and are nobody's until it is there.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from headgate._native import core, parquet
from headgate.checkpoint._places import MOST_PART_BYTES, key_in_source, s3_location
from headgate.checkpoint._schemas import Plan, Reading, arrow_schema, plan_for, plan_of_target
from headgate.errors import (
    ConfigError,
    ConflictError,
    IntegrityError,
    InvalidInputError,
    Kind,
    NotFoundError,
    StorageFullError,
    needed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from headgate.backends.s3 import S3Location

APPLICATION = "headgate"
_ATTEMPTS = 50
_BASE = "_headgate"  # Delta leaves names that start with an underscore alone
_RANDOM_BITS = 24
_SHOWN = 200  # characters of a name in an error
_FOOTER = b"headgate"


def _deltalake() -> Any:
    with needed("delta+ targets need deltalake", "headgate[delta]"):
        import deltalake
    return deltalake


@dataclass(frozen=True)
class State:
    """A table as it is at one moment: None, 0 and "" before the first append."""

    table: Any | None
    version: int
    footer: str

    def schema(self) -> tuple[str, str]:
        """Name and plan as the last append's manifest has them; empty before the first."""
        footer = json.loads(self.footer) if self.footer else {}
        return str(footer.get("schema", "")), str(footer.get("plan", ""))

    def next_append(self) -> int:
        """A version that no other run will take."""
        return ((self.version >> _RANDOM_BITS) + 1) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)


class DeltaPlace:
    """Where a table and its ledger are.

    Raises:
        ConfigError: not delta+file:///folder or delta+s3://bucket/prefix, or deltalake is missing.
    """

    def __init__(self, url: str) -> None:
        self._delta = _deltalake()
        inner = url.removeprefix("delta+")
        self.options: dict[str, str] = {}
        self.parts: str | dict[str, Any]
        self.s3: S3Location | None = None
        if inner.startswith("s3://"):
            s3 = self.s3 = s3_location(inner)
            self.uri = s3.url.rstrip("/")
            place = s3.place(prefix=True)
            access, secret, token = s3.credentials()
            self.options = {
                "AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret, "AWS_REGION": s3.region,
                "AWS_CONDITIONAL_PUT": "etag",
            }  # fmt: skip
            if token:
                self.options["AWS_SESSION_TOKEN"] = token
            if s3.endpoint:
                self.options |= {"AWS_ENDPOINT_URL": s3.endpoint, "AWS_ALLOW_HTTP": "true"}
            self.parts = {**place, "prefix": "", "key": f"{place['prefix']}{_BASE}"}
        elif inner.startswith("file://"):
            parts = urlsplit(inner)
            self.uri = unquote(parts.netloc + parts.path)
            self.parts = os.path.join(self.uri, _BASE)
        else:
            message = f"{url}: expected delta+file:///folder or delta+s3://bucket/prefix"
            raise ConfigError(message, Kind.UNSUPPORTED_SCHEME)

    def table(self) -> Any | None:
        """The Delta table as it is now, or None when there is none.

        Raises:
            IntegrityError: its log names a file that is not in its folder.
        """
        if not self._delta.DeltaTable.is_deltatable(self.uri, storage_options=self.options):
            return None
        table = self._delta.DeltaTable(self.uri, storage_options=self.options)
        _check_files(table, self.uri)
        return table

    def create(self, columns: Any) -> Any:
        """An empty table; of racing creators one makes it, and all append to it as it then is."""
        try:
            return self._delta.DeltaTable.create(
                self.uri, schema=columns, mode="error", storage_options=self.options or None
            )
        except (self._delta.exceptions.DeltaError, OSError):
            if (found := self.table()) is None:
                raise
            return found

    def state(self) -> State:
        """The table, and what the manifest of its last append says."""
        table = self.table()
        version = version_of(table, self)
        return State(table, version, self._read_manifest(version) if version else "")

    def footer(self) -> dict[str, Any]:
        """What the last append's manifest says.

        Raises:
            NotFoundError: there is no such table, or nothing was appended yet.
        """
        state = self.state()
        if not state.footer:
            message = f"checkpoint {self.uri} does not exist yet"
            raise NotFoundError(message)
        return dict(json.loads(state.footer))

    def part(self, name: str) -> bytes:
        """One of the ledger's files.

        Raises:
            IntegrityError: it is missing, no file, or too long to be one. NotFoundError: it is missing on S3.
        """
        if self.s3 is None:
            return bytes(parquet().read_part(str(self.parts), name))
        name = f"{_BASE}.ledger/{name}"
        return self.s3.get(f"{self.prefix}{name}", f"{self.uri}/{name}", limit=MOST_PART_BYTES)

    def _read_manifest(self, version: int) -> str:
        name = f"manifest-{version}.json"
        if self.s3 is None and not Path(self.uri, f"{_BASE}.ledger", name).exists():
            message = f"{self.uri}: the manifest of append {version} is missing"
            raise IntegrityError(message)
        try:
            text = self.part(name).decode()
        except NotFoundError:
            message = f"{self.uri}: the manifest of append {version} is missing"
            raise IntegrityError(message) from None
        except UnicodeDecodeError:
            message = f"{self.uri}: the manifest of append {version} cannot be read"
            raise IntegrityError(message) from None
        parquet().check_footer(text, f"append {version} of {self.uri}")
        return text

    def write_part(self, name: str, body: bytes) -> None:
        """A new one: never over another run's."""
        name = f"{_BASE}.ledger/{name}"
        if self.s3 is None:
            path = Path(self.uri, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
        else:
            self.s3.call("put_object", Key=f"{self.prefix}{name}", Body=body, IfNoneMatch="*")

    def write_manifest(self, version: int, text: str) -> None:
        self.write_part(f"manifest-{version}.json", text.encode())

    def parts_there(self) -> list[tuple[str, float]]:
        """What lies in the ledger's folder, and when it was written (seconds since the epoch)."""
        if self.s3 is None:
            found = []
            for path in Path(self.uri, f"{_BASE}.ledger").glob("*"):
                with contextlib.suppress(FileNotFoundError):  # another maintain() was first
                    found.append((path.name, path.stat().st_mtime))
            return found
        folder_key = f"{self.prefix}{_BASE}.ledger/"
        return [(key.removeprefix(folder_key), modified) for key, modified in self.s3.entries(folder_key)]

    def remove_part(self, name: str) -> None:
        if self.s3 is None:
            Path(self.uri, f"{_BASE}.ledger", name).unlink(missing_ok=True)
        else:
            self.s3.call("delete_object", Key=f"{self.prefix}{_BASE}.ledger/{name}")

    @property
    def prefix(self) -> str:
        """Of the table's keys on S3."""
        return str(self.parts["key"]).removesuffix(_BASE) if isinstance(self.parts, dict) else ""


def update_delta(
    origin: str | dict[str, Any],
    target: str,
    schema: str | type[Any] | None,
    sort_by: str,
    reading: Reading,
    options: dict[str, Any],
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """`update` for a delta+ target; the counts of the run that won. `origin`: the source as the core takes it."""
    import random

    place = DeltaPlace(target)
    for attempt in range(1, _ATTEMPTS + 1):
        state = place.state()

        def infer(known: str) -> str:
            return str(
                parquet().infer(
                    origin, "records", sort_by, options["threads"], options["target_key"], known,
                    reading.for_inference(), progress,
                )
            )  # fmt: skip

        plan = plan_for(schema, state.schema(), infer, reading, place.uri, evolve=options["evolve"])
        with _scratch(options["spill_dir"]) as scratch:
            found, won = _attempt(place, state, plan, origin, options, progress, scratch)
        found["attempts"] = attempt
        if won:
            return found
        time.sleep(random.uniform(0, min(2.0, 0.02 * 2**attempt)))  # noqa: S311 - jitter
    message = f"{place.uri}: lost the race for the append {_ATTEMPTS} times; run again"
    raise ConflictError(message)


@contextlib.contextmanager
def _scratch(parent: str = "") -> Iterator[str]:
    """A folder that the next run removes if this one is killed."""
    import tempfile

    folder = parquet().Scratch(parent or tempfile.gettempdir())
    try:
        yield folder.path
    finally:
        folder.remove()


def _check_files(table: Any, shown: str) -> None:
    """Whether every file that the log names is in the table's folder: readers, Spark's too, would open any other."""
    for path in table.get_add_actions().column("path").to_pylist():
        decoded = unquote(str(path))
        parts = decoded.split("/")
        if not decoded or "\0" in decoded or decoded.startswith("/") or ".." in parts or ":" in parts[0]:
            message = f"{shown}: its log names a file that is not in its folder: {str(path)[:_SHOWN]!r}"
            raise IntegrityError(message)


def version_of(table: Any | None, place: DeltaPlace) -> int:
    """Of the last append; 0 before the first.

    Raises:
        IntegrityError: the table has rows, and no append of headgate's.
    """
    if table is None:
        return 0
    version = table.transaction_version(APPLICATION)
    if version is None and not table.file_uris():
        return 0  # made, perhaps by several at once, and nothing appended yet
    if version is None:
        message = f"{place.uri} is a Delta table that headgate did not make"
        raise IntegrityError(message)
    return int(version)


def _attempt(
    place: DeltaPlace, state: State, plan: Plan, origin: Any, options: dict[str, Any],
    progress: Callable[[int, int], None] | None, scratch: str,
) -> tuple[dict[str, Any], bool]:  # fmt: skip
    import pyarrow.parquet as pq

    wanted = arrow_schema(json.loads(plan.text))
    options = {**options, "inferred": plan.inferred}
    stored = columns_of(state.table) if state.footer else wanted
    told, out = os.path.join(scratch, "footer.parquet"), os.path.join(scratch, "rows.parquet")
    if state.footer:
        write_footer(told, _ordered(stored, wanted), state.footer)
    found = parquet().stage(origin, place.parts, told if state.footer else "", out, plan.text, options, progress)
    if not found["committed"]:
        return found, True
    with pq.ParquetFile(out) as rows:
        manifest = rows.metadata.metadata[_FOOTER].decode()
        append = state.next_append()
        try:
            place.write_manifest(append, manifest)
            core.fault_point("delta.before_append")
            into = state.table or place.create(wanted)
            # A table that was made meanwhile may have an append already: this one's conflict check would not see it.
            unchanged = version_of(into, place) == state.version
            won = unchanged and _append(
                place, into, append, rows, _evolved(stored, wanted), found["rows_added"], plan.text, scratch
            )
        except Exception as error:
            _take_back(place, named_parts(append, manifest) - named_parts(state.version, state.footer))
            if os.strerror(errno.ENOSPC) in str(error):  # as deltalake, too, tells it
                message = f"{place.uri}: {os.strerror(errno.ENOSPC)}"
                raise StorageFullError(message) from None
            raise
    core.fault_point("delta.after_append")
    return found, won


def named_parts(version: int, manifest: str) -> set[str]:
    """The parts that belong to an append, its manifest among them; none for the state before the first."""
    if not manifest:
        return set()
    footer = json.loads(manifest)
    return {f"manifest-{version}.json", *footer["segments"], *footer["rejects"]}


def _take_back(place: DeltaPlace, parts: set[str]) -> None:
    """Remove what a failed run has written, as a full disk would keep it for a week; of what was appended, nothing."""
    if place.s3 is not None:
        return  # a request that seems to have failed may still arrive
    with contextlib.suppress(Exception):  # the caller has an error to tell, and `maintain` finds what is left
        state = place.state()
        for name in parts - named_parts(state.version, state.footer):
            place.remove_part(name)


def _evolved(stored: Any, wanted: Any) -> Any:
    """The table's columns in their order, with the types that the schema has, and after them the new ones."""
    import pyarrow as pa

    new = [field for field in wanted if stored.get_field_index(field.name) < 0]
    return pa.schema([*(wanted.field(field.name) for field in stored), *new])


def _ordered(stored: Any, wanted: Any) -> Any:
    """The table's columns in the order of the schema, which a Delta table does not care for."""
    import pyarrow as pa

    place = {field.name: at for at, field in enumerate(wanted)}
    return pa.schema(sorted(stored, key=lambda field: place.get(field.name, len(place))))


def _append(
    place: DeltaPlace, table: Any, append: int, new: Any, columns: Any, rows: int, plan: str, scratch: str
) -> bool:
    """The one commit, of the rows in the Parquet file `new`; False when another run's came first.

    The core has found that the table may become one of these columns. New ones come with an append. All rows are
    written anew where numbers become wider, because readers of Delta tables do not widen what a file has, and where
    columns of an inferred schema are new, because rows have their values in `_rest`.
    """
    import pyarrow as pa
    from deltalake import write_deltalake

    stored = columns_of(table)
    widens = any(not columns.field(field.name).type.equals(field.type) for field in stored)
    adds = len(columns) > len(stored)
    files = [new]
    mode: dict[str, Any] = {"mode": "append", **({"schema_mode": "merge"} if adds else {})}
    if widens or (adds and json.loads(plan).get("lenient")):
        mode = {"mode": "overwrite", "schema_mode": "overwrite"}
        files = [
            _rows_anew(place, table, plan, scratch),
            new,
        ]  # first: deltalake cannot read a table while it writes it

    def batches() -> Iterator[Any]:
        for file in files:
            for batch in file.iter_batches():
                yield batch.select(columns.names).cast(columns)

    with contextlib.ExitStack() as stack:
        for file in files[:-1]:
            stack.enter_context(file)
        return commit(place, append, rows, lambda properties: write_deltalake(
            table, pa.RecordBatchReader.from_batches(columns, batches()), commit_properties=properties, **mode
        ))  # fmt: skip


def _rows_anew(place: DeltaPlace, table: Any, plan: str, scratch: str) -> Any:
    """The rows of the table as the plan has them, as a Parquet file."""
    import pyarrow.parquet as pq

    old, anew = os.path.join(scratch, "old.parquet"), os.path.join(scratch, "anew.parquet")
    dataset = table.to_pyarrow_dataset()
    plain = columns_of(table)
    with pq.ParquetWriter(old, plain) as writer:
        for batch in dataset.to_batches():
            writer.write_batch(batch.select(plain.names).cast(plain))
    try:
        parquet().evolve_rows(old, anew, plan)
    except InvalidInputError as error:
        message = str(error).replace(old, place.uri)
        raise InvalidInputError(message) from None
    os.unlink(old)
    return pq.ParquetFile(anew)


def columns_of(table: Any) -> Any:
    """The Arrow schema of a Delta table."""
    import pyarrow as pa

    return pa.schema(table.schema().to_arrow())


def commit(place: DeltaPlace, append: int, rows: int, write: Callable[[Any], None]) -> bool:
    """Commit an append; False when another run's came first.

    Args:
        place: the table's.
        append: this append's version of the application's transaction.
        rows: how many it adds.
        write: commits with the properties given, on the table as it was when its version was read: only then does the
            transaction conflict with whatever was appended since.
    """
    from deltalake import CommitProperties, Transaction
    from deltalake.exceptions import DeltaError

    properties = CommitProperties(
        app_transactions=[Transaction(APPLICATION, append)], custom_metadata={"headgate.rows": str(rows)}
    )
    try:
        write(properties)
    except (DeltaError, OSError) as error:
        now = place.table()
        if now is not None and now.transaction_version(APPLICATION) == append:
            return True  # the answer was lost, the commit was not
        conflict = "ransaction" in str(error) or "already exists" in str(error) or "onflict" in str(error)
        if conflict:
            return False
        message = f"{place.uri}: {type(error).__name__}: {str(error).splitlines()[0]}"
        raise IntegrityError(message, Kind.IO_ERROR) from None
    return True


def write_footer(path: str, columns: Any, footer: str) -> None:
    """What is committed, as the core reads it: the footer of a file without rows."""
    import pyarrow.parquet as pq

    pq.write_table(columns.empty_table().replace_schema_metadata({_FOOTER: footer}), path)


def check_table(place: DeltaPlace, state: State, plan: str) -> None:
    """Refuse a table that does not have the columns of the plan.

    Raises:
        IntegrityError: kind corrupt_data, with the names of the columns that differ.
    """
    with _scratch() as scratch:
        told = os.path.join(scratch, "footer.parquet")
        write_footer(told, _ordered(columns_of(state.table), arrow_schema(json.loads(plan))), state.footer)
        parquet().check_columns(told, plan, place.uri)


def verify_delta(
    target: str, source: str | os.PathLike[str] | None, origin: str | dict[str, Any] | None,
    schema: str | type[Any] | None, reading: Reading, progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:  # fmt: skip
    """`verify` for a delta+ target: every row is read, the ledger is the one that the last append names."""
    place = DeltaPlace(target)
    state = place.state()
    if state.table is None or not state.footer:
        message = f"{place.uri} does not exist"
        raise NotFoundError(message)
    plan = plan_of_target(schema, state.schema(), reading, place.uri)
    rows = sum(batch.num_rows for batch in state.table.to_pyarrow_dataset().to_batches())
    with _scratch() as scratch:
        told = os.path.join(scratch, "footer.parquet")
        write_footer(told, _ordered(columns_of(state.table), arrow_schema(json.loads(plan))), state.footer)
        goal = {"footer_file": told, "parts": place.parts}
        key = "" if source is None else key_in_source(source, target)
        found: dict[str, Any] = parquet().verify(origin, goal, plan, progress, rows, key)
        return found


def delta_dataset(url: str) -> Any:
    """The table's rows as an Arrow dataset.

    Raises:
        InvalidInputError: kind not_found, there is no such table.
    """
    place = DeltaPlace(url)
    table = place.table()
    if table is None:
        message = f"checkpoint {place.uri} does not exist yet"
        raise InvalidInputError(message, Kind.NOT_FOUND)
    return table.to_pyarrow_dataset()
