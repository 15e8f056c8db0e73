"""A checkpoint's rows: an Arrow-backed result with chainable questions, read only as far as they need."""

from __future__ import annotations

import json
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar

from headgate._registry import DEFAULT_SCHEMA
from headgate.checkpoint._groups import counted, key_of, newest, order_of, plain_type, values_of
from headgate.checkpoint._nested import nested_texts, nested_times, split_nested
from headgate.checkpoint._rows import Rows, plain_rows, table_html
from headgate.checkpoint._schemas import arrow_schema, plan_of
from headgate.checkpoint._snapshot import Snapshot, open_snapshot
from headgate.errors import InvalidInputError, needed

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping

    from pyarrow import RecordBatchReader

_Answer = TypeVar("_Answer")

_SHOWN_ROWS = 10
_FIRST_US, _LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999  # what a datetime holds
_EVERY = {"day": 0, "month": 1, "year": 2}  # parts of an ISO date that are left out


class Checkpoint:
    """Rows of a checkpoint, immutable; every question gives a new one, and nothing is read before it must be.

    Filters reach into the file: row groups whose statistics exclude a match are not read, and neither are columns that
    nobody asks for.

    Example:
        >>> events = Checkpoint.read("events.parquet")                          # doctest: +SKIP
        >>> events.filter(action="created").between("timestamp", "2024-01-01").count_by("action")  # doctest: +SKIP
    """

    def __init__(self, rows: Any, where: Any = None, sort_by: str | None = None) -> None:
        import pyarrow.dataset as ds

        self._table: Any = None
        if isinstance(rows, Snapshot):
            self._rows = rows
        elif isinstance(rows, ds.Dataset):
            self._rows = Snapshot(rows)
        else:
            self._rows = Snapshot(ds.dataset(rows))
            self._table = rows if where is None else None
        self._where = where
        self._narrowed: frozenset[str] = frozenset()  # columns that `where` looks at
        self._sort_by = sort_by

    # --- making one

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Open a checkpoint: a Parquet file on disk or s3://, or a Delta table (delta+file://, delta+s3://).

        What was opened stays what it is: a commit that comes later changes no answer. A file on disk is held open for
        that; an object on S3 is gone once it is replaced, and questions say so (ConflictError).

        Raises:
            InvalidInputError: kind not_found, there is no such file.
            IntegrityError: it is not a readable Parquet file.
        """
        return cls(open_snapshot(path))

    @classmethod
    def empty(cls, schema: str | type[Any] = DEFAULT_SCHEMA) -> Self:
        """No rows, with every column of the schema."""
        return cls.from_events([], schema)

    @classmethod
    def from_events(cls, events: Iterable[Any], schema: str | type[Any] = DEFAULT_SCHEMA) -> Self:
        """Rows of validated events (models of the schema, or mappings of their fields), sorted by time, all kept.

        Raises:
            InvalidInputError: an event does not have the columns' types.
        """
        import pyarrow as pa

        plan = json.loads(plan_of(schema))
        columns = arrow_schema(plan)
        rows = _rows_of(events, plan)
        try:
            table = pa.Table.from_pylist(rows, schema=columns)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            message = f"events: {error}"
            raise InvalidInputError(message) from None
        sort_by = plan.get("sort_by", "")
        return cls(sorted_by(table, sort_by), sort_by=sort_by)

    def add_events(self, events: Iterable[Any], schema: str | type[Any] = DEFAULT_SCHEMA) -> Self:
        """These rows and those of `events`, sorted by time; all are kept, of equal times the older rows first."""
        import pyarrow as pa

        more = Checkpoint.from_events(events, schema).dataframe()
        mine = self.dataframe()
        both = pa.concat_tables([mine.replace_schema_metadata(None), more.select(mine.column_names)])
        return type(self)(sorted_by(both, self.sort_by), sort_by=self._sort_by)

    # --- what it is

    def __len__(self) -> int:
        if self._table is not None:
            return int(self._table.num_rows)
        with self._rows.reading():
            return int(self._dataset().count_rows(filter=self._where))

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """Arrow's PyCapsule protocol: polars, DuckDB, pandas and pyarrow take the rows without a copy."""
        return self.dataframe().__arrow_c_stream__(requested_schema)

    def get_event_count(self) -> int:
        """How many rows."""
        return len(self)

    def is_empty(self) -> bool:
        """Whether there are no rows."""
        return len(self) == 0

    def get_last_processed_timestamp(self) -> datetime | None:
        """The newest timestamp (UTC), or None when there is none; times outside the years 1 to 9999 do not count."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if not self.sort_by:
            return None
        times = self._column(self.sort_by)
        if pa.types.is_timestamp(times.type):
            zone = times.type.tz
            times = pc.cast(times, pa.timestamp("us", zone), safe=False)
            known = pc.and_(
                pc.greater_equal(times.cast(pa.int64()), _FIRST_US), pc.less_equal(times.cast(pa.int64()), _LAST_US)
            )
            times = times.filter(known)
        newest: datetime | None = pc.max(times).as_py()
        return newest

    @property
    def sort_by(self) -> str:
        """The column that the rows are sorted by, their time; empty when there is none.

        A file says it itself; else it is `timestamp` if at least half of the rows have it, or the first column of times
        that every row has, or the only one. `timed_by` chooses another.
        """
        if self._sort_by is None:
            with self._rows.reading():
                self._sort_by = self._rows.sort_by()
        return self._sort_by

    def timed_by(self, column: str) -> Self:
        """The same rows with this column as their time, for `latest_per`, counts by time and the newest timestamp.

        Raises:
            InvalidInputError: it is no column of times.
        """
        import pyarrow as pa

        if (flat := self._with_nested([column], times=True)) is not self:
            return flat.timed_by(column)
        if not pa.types.is_timestamp(self._kind(column)):
            message = f"column {column!r} is {self._kind(column)}; expected a column of times"
            raise InvalidInputError(message)
        out = type(self)(self._rows if self._table is None else self._table, self._where, column)
        if self._table is not None:
            out._table, out._where = self._table, self._where
        out._narrowed = self._narrowed
        return out

    def time_column(self) -> str:
        """The column that is the rows' time.

        Raises:
            InvalidInputError: nobody has said which column it is.
        """
        import pyarrow as pa

        name = self.sort_by
        if name and pa.types.is_timestamp(self._kind(name)):
            return name
        times = [field.name for field in self._rows.schema if pa.types.is_timestamp(field.type)]
        if times:
            message = f"the time of the rows could be {', '.join(times)}; say which: timed_by(column), --sort-by COLUMN"
        else:
            message = (
                f"the rows are not sorted by a time, and there is no column of times among {', '.join(self.columns)}; "
                "`headgate checkpoint --time FIELD=UNIT` reads numbers as times"
            )
        raise InvalidInputError(message)

    @property
    def columns(self) -> list[str]:
        """The columns' names."""
        return list(self._rows.schema.names)

    def dataframe(self) -> Any:
        """The Arrow table; read now if it was not yet."""
        if self._table is None:
            with self._rows.reading():
                self._table = self._rows.dataset().to_table(filter=self._where)
        return self._table

    def select(self, *names: str) -> Any:
        """The Arrow table of some columns only; the others are not read."""
        for name in names:
            self._check(name)
        if self._table is not None:
            return self._table.select(list(names))
        with self._rows.reading():
            return self._rows.dataset().to_table(columns=list(names), filter=self._where)

    def head(self, rows: int) -> list[dict[str, Any]]:
        """The first rows as plain values."""
        if self._table is not None:
            return plain_rows(self._table.slice(0, rows))
        with self._rows.reading():
            return plain_rows(self._rows.dataset().head(rows, filter=self._where))

    def _check(self, name: str) -> None:
        if name not in self.columns:
            message = f"there is no column {name!r}; expected one of {', '.join(self.columns)}"
            raise InvalidInputError(message)

    def _column(self, name: str) -> Any:
        return self.select(name).column(0)

    def _with_nested(self, names: Iterable[str], *, only: Iterable[str] | None = None, times: bool = False) -> Self:
        """These rows with a column for each of `names` that is a member of a JSON column (`user.type`).

        Args:
            names: columns or such members.
            only: of the other columns these are enough; None: all are kept.
            times: the members are times, not texts.
        """
        found = {n: split_nested(n, self._rows.schema) for n in names if n not in self.columns}
        nested = {name: place for name, place in found.items() if place is not None}
        if not nested:
            return self
        bases = [base for base, _ in nested.values()]
        table = self.dataframe() if only is None else self.select(*dict.fromkeys([*bases, *only]))
        for name, (base, way) in nested.items():
            texts = nested_texts(name, table.column(base), way)
            table = table.append_column(name, nested_times(name, texts) if times else texts)
        return type(self)(table, sort_by=self.sort_by)

    # --- narrowing it

    def _and(self, column: str, condition: Any) -> Self:
        if self._table is None:
            where = condition if self._where is None else self._where & condition
            out = type(self)(self._rows, where, self._sort_by)
            out._narrowed = self._narrowed | {column}
            return out
        return type(self)(self._table, condition, self.sort_by)

    def filter(self, **equals: Any) -> Self:
        """Rows whose columns equal the values; a list means any of them, None means null.

        A name like ``user.type`` is a member of the objects in a JSON column, compared as text.
        """
        import pyarrow as pa

        out = self._with_nested(equals)
        if out is not self:
            added = [name for name in out.columns if name not in self.columns]
            rows = out.filter(**equals).dataframe().drop_columns(added)
            return type(self)(rows, sort_by=self.sort_by)
        for name, value in equals.items():
            field = self._plain(name)
            if value is None:
                out = out._and(name, field.is_null())
            elif isinstance(value, list | tuple | set):
                kind = plain_type(self._kind(name))
                some = [self._scalar(name, v).as_py() for v in value if v is not None]
                either = field.isin(pa.array(some, kind))
                out = out._and(name, either | field.is_null() if None in value else either)
            else:
                out = out._and(name, field == self._scalar(name, value))
        return out

    def between(self, column: str, start: Any = None, end: Any = None) -> Self:
        """Rows with start <= column < end; strings for visit_date, aware datetimes (or ISO text) for timestamps."""

        if (flat := self._with_nested([column])) is not self:
            rows = flat.between(column, start, end).dataframe().drop_columns([column])
            return type(self)(rows, sort_by=self.sort_by)
        field, out = self._plain(column), self
        if start is not None:
            out = out._and(column, field >= self._scalar(column, start))
        if end is not None:
            out = out._and(column, field < self._scalar(column, end))
        return out

    def _scalar(self, column: str, value: Any) -> Any:
        """The value in the column's type; text is taken as the command line gives it."""
        import pyarrow as pa

        kind = plain_type(self._kind(column))
        try:
            if isinstance(value, str) and pa.types.is_timestamp(kind):
                value = datetime.fromisoformat(value)
            if isinstance(value, datetime) and value.tzinfo is None and pa.types.is_timestamp(kind):
                return pa.scalar(value).cast(pa.timestamp("us")).cast(kind) if kind.tz is None else pa.scalar(
                    value.isoformat()
                ).cast(pa.timestamp("us")).cast(pa.int64()).cast(kind)  # fmt: skip
            if isinstance(value, str) and not pa.types.is_string(kind) and not pa.types.is_large_string(kind):
                return pa.scalar(value).cast(kind)
            if isinstance(value, date) and not isinstance(value, datetime) and pa.types.is_string(kind):
                value = value.isoformat()
            return pa.scalar(value, kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, ValueError):
            message = f"{value!r} cannot be compared with column {column!r} ({kind})"
            raise InvalidInputError(message) from None

    # --- asking it

    def count_by(self, *columns: str, every: str | None = None) -> Rows:
        """Counts of every combination of the columns, the largest first; null is a value of its own.

        Args:
            every: "day", "month" or "year": also by that part of the time column, in the order of time.
        """
        plain = [name for name in columns if name in self.columns]
        if every is not None:
            plain.append(self.time_column())
        if (flat := self._with_nested(columns, only=plain)) is not self:
            return flat.count_by(*columns, every=every)
        keys = {name: self._key(name) for name in columns}
        if every is not None:
            keys = {every: self._period(every).cast("int64"), **keys}
        if not keys:
            return Rows([{"count": len(self)}] if len(self) else [])
        found, counts = self._streamed(counted, keys, columns)
        values = [self._shown(name, every, keys) for name, keys in zip(keys, found, strict=True)]
        rows = [dict(zip((*keys, "count"), row, strict=True)) for row in zip(*values, counts, strict=True)]
        if every is not None:
            return Rows(sorted(rows, key=lambda row: tuple(str(row[c]) for c in keys)))
        return Rows(sorted(rows, key=lambda row: (-row["count"], *(str(row[c]) for c in keys))))

    def _streamed(
        self, ask: Callable[[RecordBatchReader], _Answer], columns: Mapping[str, Any], coded: Iterable[str] = ()
    ) -> _Answer:
        """What `ask` makes of these expressions' batches; the text columns `coded` may come as dictionaries."""
        import pyarrow.dataset as ds

        with self._rows.reading():
            rows = self._dataset(coded) if self._table is None else ds.dataset(self._table)
            where = self._where if self._table is None else None
            with rows.scanner(columns=dict(columns), filter=where).to_reader() as batches:
                return ask(batches)

    def _dataset(self, coded: Iterable[str] = ()) -> Any:
        """The rows before `where`; text that it looks at, and the columns `coded`, may come as dictionaries."""
        import pyarrow as pa

        names = [name for name in {*coded, *self._narrowed} if pa.types.is_string(self._kind(name))]
        return self._rows.dataset(names, self._where)

    def _kind(self, name: str) -> Any:
        self._check(name)
        return self._rows.schema.field(name).type

    def _key(self, name: str) -> Any:
        return key_of(self._plain(name), plain_type(self._kind(name)))

    def _plain(self, name: str) -> Any:
        """An expression for the column; of a user's table with dictionaries, for what they stand for."""
        import pyarrow.compute as pc

        kind = self._kind(name)
        return pc.field(name) if plain_type(kind) is kind else pc.field(name).cast(kind.value_type)

    def _period(self, every: str) -> Any:
        """The beginning of the day, month or year of the time column, as an expression."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if every not in _EVERY:
            message = f"every: expected one of {', '.join(_EVERY)}, got {every!r}"
            raise InvalidInputError(message)
        name = self.time_column()
        stamps = pc.field(name).cast(pa.timestamp("us"))  # without a zone, which is UTC: much faster
        return pc.floor_temporal(stamps, unit=every)

    def _shown(self, name: str, every: str | None, keys: list[Any]) -> list[Any]:
        """What the core's keys of a column stand for."""
        import pyarrow as pa

        if name != every:
            return values_of(keys, plain_type(self._kind(name)))
        times = (v if v is None or isinstance(v, str) else v.isoformat() for v in values_of(keys, pa.timestamp("us")))
        days = [None if v is None else v.partition("T")[0] for v in times]
        return [None if v is None else v.rsplit("-", _EVERY[every])[0] for v in days]

    def latest_per(self, *columns: str, by: str | None = None) -> Self:
        """The newest row of every combination of the columns (of equal ones the last in the file).

        Args:
            by: what is largest in the newest row, a column of text, whole numbers or times (None: the one that the
                rows are sorted by); null is the smallest.
        """
        by = (self.sort_by or self.time_column()) if by is None else by
        flat = self._with_nested(columns)
        if flat is not self:
            rows = flat.latest_per(*columns, by=by).dataframe().select(self.columns)
            return type(self)(rows, sort_by=self.sort_by)
        keys = {name: self._key(name) for name in columns}
        keys["newest by"] = order_of(self._plain(by), plain_type(self._kind(by)))
        rows = self._streamed(newest, keys, columns)
        if self._table is not None:
            return type(self)(self._table.take(rows), sort_by=self.sort_by)
        with self._rows.reading():
            table = self._rows.dataset().scanner(filter=self._where).take(rows)
        return type(self)(table, sort_by=self.sort_by)

    def sql(self, query: str) -> Any:
        """The answer of DuckDB to a query over the table `events`, as an Arrow table.

        Raises:
            ConfigError: DuckDB is not installed.
            InvalidInputError: DuckDB refuses the query.

        Example:
            >>> events.sql("SELECT action, count(*) AS n FROM events GROUP BY action")  # doctest: +SKIP
        """
        with needed("SQL needs DuckDB", "headgate[duckdb]"):
            import duckdb
        source = self._rows.dataset() if self._where is None and self._table is None else self.dataframe()
        with duckdb.connect(config={"enable_external_access": "false"}) as connection:
            connection.register("events", source)
            with self._rows.reading():
                try:
                    return connection.sql(query).to_arrow_table()
                except duckdb.Error as error:
                    self._rows.check()
                    message = f"SQL: {str(error).splitlines()[0]}"
                    raise InvalidInputError(message) from None

    def _repr_html_(self) -> str:
        count = len(self)
        names = self.columns
        head = self.head(_SHOWN_ROWS)
        more = f", the first {len(head)}:" if count > len(head) else ""
        return f"<p>{count:,} events{more}</p>{table_html(names, head)}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self):,} events: {', '.join(self.columns)}>"


def _rows_of(events: Iterable[Any], plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Models as the core writes them (what they allow besides goes to `_rest`); dicts are rows already."""
    from headgate._members import record_of
    from headgate._native import core

    validator = core.Validator(json.dumps(plan))
    members = {field["name"]: field.get("keys", [field["name"]]) for field in plan["fields"]}
    times = [field["name"] for field in plan["fields"] if field["type"] == "timestamp"]

    def row_of(event: Any) -> dict[str, Any]:
        fields = event.model_dump(mode="json")
        row = validator.row(json.dumps(record_of(fields, members)).encode())
        if not isinstance(row, str):
            message = f"events: {', '.join(f'{field}: {kind}' for field, kind in row)}"
            raise InvalidInputError(message)
        out: dict[str, Any] = json.loads(row)
        return out | {name: datetime.fromisoformat(out[name]) for name in times if out[name] is not None}

    return [event if isinstance(event, dict) else row_of(event) for event in events]


def sorted_by(table: Any, by: str) -> Any:
    """Stably by that column, rows without a value first."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not by or table.num_rows == 0:
        return table
    keys = pa.table({
        "at": pc.fill_null(table.column(by).cast(pa.int64()), -(2**63)), "row": pa.array(range(table.num_rows)),
    })  # fmt: skip
    return table.take(pc.sort_indices(keys, sort_keys=[("at", "ascending"), ("row", "ascending")]))
