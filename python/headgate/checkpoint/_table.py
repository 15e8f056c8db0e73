"""A checkpoint's rows: an Arrow-backed result with chainable questions, read only as far as they need."""

from __future__ import annotations

import json
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Self

from headgate.checkpoint._places import is_url, local_path, s3_location
from headgate.checkpoint._rows import Rows, table_html
from headgate.checkpoint._run import plan_of
from headgate.errors import AccessError, IntegrityError, InvalidInputError, Kind, NotFoundError, needed

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

_SHOWN_ROWS = 10
_EVERY = {"day": 10, "month": 7, "year": 4}  # characters of an ISO date


class Checkpoint:
    """Rows of a checkpoint, immutable; every question gives a new one, and nothing is read before it must be.

    Filters reach into the file: row groups whose statistics exclude a match are not read, and neither are columns that
    nobody asks for.

    Example:
        >>> events = Checkpoint.read("events.parquet")                          # doctest: +SKIP
        >>> events.filter(action="pass-qc").between("timestamp", "2024-01-01").count_by("action")  # doctest: +SKIP
    """

    def __init__(self, rows: Any, where: Any = None, sort_by: str = "timestamp") -> None:
        import pyarrow.dataset as ds

        self._dataset = rows if isinstance(rows, ds.Dataset) else ds.dataset(rows)
        self._where = where
        self._sort_by = sort_by
        self._table: Any = rows if where is None and not isinstance(rows, ds.Dataset) else None

    # --- making one

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Open a checkpoint: a Parquet file on disk or s3://, or a Delta table (delta+file://, delta+s3://).

        Raises:
            InvalidInputError: kind not_found, there is no such file.
            IntegrityError: it is not a readable Parquet file.
        """
        import pyarrow as pa
        import pyarrow.dataset as ds

        if is_url(path, "delta+file") or is_url(path, "delta+s3"):
            from headgate.checkpoint._delta import delta_dataset

            return cls(delta_dataset(str(path)))
        try:
            if is_url(path, "s3"):
                place = s3_location(path)
                shown = place.url
                place.call("head_object", Key=place.key)  # Arrow cannot tell a missing object from a refused one
                file, filesystem = f"{place.bucket}/{place.key}", place.filesystem()
                return cls(ds.dataset(file, format="parquet", filesystem=filesystem))
            shown = local_path(path)
            return cls(ds.dataset(shown, format="parquet"))
        except (FileNotFoundError, NotFoundError):
            message = f"checkpoint {shown} does not exist yet"
            raise InvalidInputError(message, Kind.NOT_FOUND) from None
        except AccessError:
            raise
        except (pa.ArrowInvalid, OSError) as error:
            message = f"checkpoint {shown} cannot be read: {error}"
            raise IntegrityError(message) from None

    @classmethod
    def empty(cls, schema: str | type[Any] = "visits") -> Self:
        """No rows, with every column of the schema."""
        return cls.from_events([], schema)

    @classmethod
    def from_events(cls, events: Iterable[Any], schema: str | type[Any] = "visits") -> Self:
        """Rows of validated events (models of the schema, or mappings of their fields), sorted by time, all kept.

        Raises:
            InvalidInputError: an event does not have the columns' types.
        """
        import pyarrow as pa

        plan = json.loads(plan_of(schema))
        columns = arrow_schema(plan)
        rows = [event if isinstance(event, dict) else event.model_dump() for event in events]
        try:
            table = pa.Table.from_pylist(rows, schema=columns)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            message = f"events: {error}"
            raise InvalidInputError(message) from None
        sort_by = plan.get("sort_by", "")
        return cls(_sorted(table, sort_by), sort_by=sort_by)

    def add_events(self, events: Iterable[Any], schema: str | type[Any] = "visits") -> Self:
        """These rows and those of `events`, sorted by time; all are kept, of equal times the older rows first."""
        import pyarrow as pa

        more = Checkpoint.from_events(events, schema).dataframe()
        mine = self.dataframe()
        both = pa.concat_tables([mine.replace_schema_metadata(None), more.select(mine.column_names)])
        return type(self)(_sorted(both, self._sort_by), sort_by=self._sort_by)

    # --- what it is

    def __len__(self) -> int:
        return int(self._dataset.count_rows(filter=self._where) if self._table is None else self._table.num_rows)

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
        """The newest timestamp (UTC), or None when there are no rows."""
        import pyarrow.compute as pc

        return pc.max(self._column(self._sort_by or "timestamp")).as_py() if len(self) else None

    @property
    def columns(self) -> list[str]:
        """The columns' names."""
        return list(self._dataset.schema.names)

    def dataframe(self) -> Any:
        """The Arrow table; read now if it was not yet."""
        if self._table is None:
            self._table = self._dataset.to_table(filter=self._where)
        return self._table

    def select(self, *names: str) -> Any:
        """The Arrow table of some columns only; the others are not read."""
        for name in names:
            self._check(name)
        if self._table is not None:
            return self._table.select(list(names))
        return self._dataset.to_table(columns=list(names), filter=self._where)

    def head(self, rows: int) -> list[dict[str, Any]]:
        """The first rows as plain values."""
        if self._table is not None:
            return list(self._table.slice(0, rows).to_pylist())
        return list(self._dataset.head(rows, filter=self._where).to_pylist())

    def _check(self, name: str) -> None:
        if name not in self.columns:
            message = f"there is no column {name!r}; expected one of {', '.join(self.columns)}"
            raise InvalidInputError(message)

    def _column(self, name: str) -> Any:
        return self.select(name).column(0)

    # --- narrowing it

    def _and(self, condition: Any) -> Self:
        where = condition if self._where is None else self._where & condition
        rows = self._dataset if self._table is None else self._table
        return type(self)(rows, where if self._table is None else condition, self._sort_by)

    def filter(self, **equals: Any) -> Self:
        """Rows whose columns equal the values; a list means any of them, None means null."""
        import pyarrow as pa
        import pyarrow.compute as pc

        out = self
        for name, value in equals.items():
            self._check(name)
            field = pc.field(name)
            if value is None:
                out = out._and(field.is_null())
            elif isinstance(value, list | tuple | set):
                kind = self._dataset.schema.field(name).type
                some = [self._scalar(name, v).as_py() for v in value if v is not None]
                either = field.isin(pa.array(some, kind))
                out = out._and(either | field.is_null() if None in value else either)
            else:
                out = out._and(field == self._scalar(name, value))
        return out

    def between(self, column: str, start: Any = None, end: Any = None) -> Self:
        """Rows with start <= column < end; strings for visit_date, aware datetimes (or ISO text) for timestamps."""
        import pyarrow.compute as pc

        self._check(column)
        field, out = pc.field(column), self
        if start is not None:
            out = out._and(field >= self._scalar(column, start))
        if end is not None:
            out = out._and(field < self._scalar(column, end))
        return out

    def _scalar(self, column: str, value: Any) -> Any:
        """The value in the column's type; text is taken as the command line gives it."""
        import pyarrow as pa

        kind = self._dataset.schema.field(column).type
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
        table = self.select(*dict.fromkeys((*columns, *((self._sort_by or "timestamp",) if every else ()))))
        keys = list(columns)
        if every is not None:
            table = table.append_column(every, self._period(table, every))
            keys = [every, *keys]
        grouped = table.group_by(keys).aggregate([([], "count_all")])
        rows = [{**{c: row[c] for c in keys}, "count": row["count_all"]} for row in grouped.to_pylist()]
        if every is not None:
            return Rows(sorted(rows, key=lambda row: tuple(str(row[c]) for c in keys)))
        return Rows(sorted(rows, key=lambda row: (-row["count"], *(str(row[c]) for c in keys))))

    def _period(self, table: Any, every: str) -> Any:
        import pyarrow.compute as pc

        if every not in _EVERY:
            message = f"every: expected one of {', '.join(_EVERY)}, got {every!r}"
            raise InvalidInputError(message)
        stamps = table.column(self._sort_by or "timestamp")
        return pc.utf8_slice_codeunits(pc.strftime(stamps, format="%Y-%m-%d"), 0, _EVERY[every])

    def latest_per(self, *columns: str, by: str = "timestamp") -> Self:
        """The newest row of every combination of the columns (of equal ones the last in the file)."""
        import pyarrow as pa

        table = self.dataframe()
        self._check(by)
        numbered = table.append_column("_row", pa.array(range(table.num_rows), pa.int64()))
        order = numbered.sort_by([(by, "ascending"), ("_row", "ascending")])
        place = order.append_column("_place", pa.array(range(order.num_rows), pa.int64()))
        newest = place.group_by(list(columns)).aggregate([("_place", "max")]).column("_place_max")
        rows = order.column("_row").take(newest).sort()
        return type(self)(table.take(rows), sort_by=self._sort_by)

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
        source = self._dataset if self._where is None else self.dataframe()
        with duckdb.connect(config={"enable_external_access": "false"}) as connection:
            connection.register("events", source)
            try:
                return connection.sql(query).to_arrow_table()
            except duckdb.Error as error:
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


def arrow_schema(plan: dict[str, Any]) -> Any:
    """The Arrow columns of a schema plan, as the core writes them."""
    import pyarrow as pa

    types = {
        "int32": pa.int32(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_(),
        "timestamp": pa.timestamp("us", "UTC"), "string_list": pa.list_(pa.string()),
    }  # fmt: skip
    fields = [pa.field(f["name"], types.get(f["type"], pa.string())) for f in plan["fields"]]
    return pa.schema([*fields, pa.field("_rest", pa.string())] if plan.get("extra") == "rest" else fields)


def _sorted(table: Any, by: str) -> Any:
    """Stably by that column."""
    import pyarrow as pa

    if not by or table.num_rows == 0:
        return table
    numbered = table.append_column("_row", pa.array(range(table.num_rows), pa.int64()))
    return numbered.sort_by([(by, "ascending"), ("_row", "ascending")]).drop_columns(["_row"])
