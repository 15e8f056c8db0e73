"""Reading a checkpoint: an Arrow-backed result with the questions people ask."""

from __future__ import annotations

import html
from datetime import datetime
from typing import TYPE_CHECKING, Any

from headgate.checkpoint._run import local_path
from headgate.errors import IntegrityError, InvalidInputError, Kind

if TYPE_CHECKING:
    import os

_SHOWN_ROWS = 10


class Checkpoint:
    """Rows of a checkpoint, immutable; every method gives a new one.

    Example:
        >>> events = Checkpoint.read("events.parquet")                          # doctest: +SKIP
        >>> events.filter(action="pass-qc").count_by("action")  # doctest: +SKIP
    """

    def __init__(self, table: Any) -> None:
        self._table = table

    @classmethod
    def read(cls, path: str | os.PathLike[str], columns: list[str] | None = None) -> Checkpoint:
        """Read a checkpoint file.

        Raises:
            InvalidInputError: kind not_found, there is no such file.
            IntegrityError: it is not a readable Parquet file.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = local_path(path)
        try:
            return cls(pq.read_table(file, columns=columns))
        except FileNotFoundError:
            message = f"checkpoint {file} does not exist yet"
            raise InvalidInputError(message, Kind.NOT_FOUND) from None
        except pa.ArrowInvalid as error:
            message = f"checkpoint {file} cannot be read: {error}"
            raise IntegrityError(message) from None

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """Arrow's PyCapsule protocol: polars, DuckDB, pandas and pyarrow take the rows without a copy."""
        return self._table.__arrow_c_stream__(requested_schema)

    def get_event_count(self) -> int:
        return len(self)

    def is_empty(self) -> bool:
        return len(self) == 0

    def get_last_processed_timestamp(self) -> datetime | None:
        """The newest timestamp (UTC), or None when there are no rows."""
        import pyarrow.compute as pc

        return pc.max(self._column("timestamp")).as_py() if len(self) else None

    def dataframe(self) -> Any:
        """The Arrow table."""
        return self._table

    def _column(self, name: str) -> Any:
        if name not in self._table.column_names:
            message = f"there is no column {name!r}; expected one of {', '.join(self._table.column_names)}"
            raise InvalidInputError(message)
        return self._table.column(name)

    def filter(self, **equals: Any) -> Checkpoint:
        """Rows whose columns equal the values; a list means any of them, None means null."""
        import pyarrow as pa
        import pyarrow.compute as pc

        table = self._table
        for name, value in equals.items():
            column = Checkpoint(table)._column(name)
            if value is None:
                mask = pc.is_null(column)
            elif isinstance(value, list | tuple | set):
                mask = pc.is_in(column, value_set=pa.array(list(value)))
            else:
                mask = pc.equal(column, value)
            table = table.filter(mask)
        return Checkpoint(table)

    def between(self, column: str, start: Any = None, end: Any = None) -> Checkpoint:
        """Rows with start <= column < end; strings for visit_date, aware datetimes (or ISO text) for timestamps."""
        import pyarrow as pa
        import pyarrow.compute as pc

        values = self._column(column)
        table = self._table
        for bound, compare in ((start, pc.greater_equal), (end, pc.less)):
            if bound is not None:
                if isinstance(bound, str) and pa.types.is_timestamp(values.type):
                    bound = datetime.fromisoformat(bound)  # noqa: PLW2901
                table = table.filter(compare(table.column(column), pa.scalar(bound, values.type)))
        return Checkpoint(table)

    def count_by(self, *columns: str) -> list[dict[str, Any]]:
        """Counts of every combination of the columns, the largest first; null is a value of its own."""
        for name in columns:
            self._column(name)
        grouped = self._table.group_by(list(columns)).aggregate([([], "count_all")])
        rows = [{**{c: row[c] for c in columns}, "count": row["count_all"]} for row in grouped.to_pylist()]
        return sorted(rows, key=lambda row: (-row["count"], *(str(row[c]) for c in columns)))

    def latest_per(self, *columns: str, by: str = "timestamp") -> Checkpoint:
        """The newest row of every combination of the columns (of equal ones the last in the file)."""
        import pyarrow as pa

        self._column(by)
        numbered = self._table.append_column("_row", pa.array(range(len(self)), pa.int64()))
        order = numbered.sort_by([(by, "ascending"), ("_row", "ascending")])
        last: dict[tuple[Any, ...], int] = {}
        keys = zip(*(order.column(c).to_pylist() for c in columns), order.column("_row").to_pylist(), strict=True)
        for *key, row in keys:
            last[tuple(key)] = row
        return Checkpoint(self._table.take(sorted(last.values())))

    def _repr_html_(self) -> str:
        head = self._table.slice(0, _SHOWN_ROWS).to_pylist()
        names = self._table.column_names
        cells = "".join(
            "<tr>" + "".join(f"<td>{html.escape(str(row[n]))}</td>" for n in names) + "</tr>" for row in head
        )
        header = "".join(f"<th>{html.escape(n)}</th>" for n in names)
        return f"<p>{len(self):,} events</p><table><thead><tr>{header}</tr></thead><tbody>{cells}</tbody></table>"
