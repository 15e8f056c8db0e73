"""Small results: a list of dicts that shows itself as a table and speaks Arrow."""

from __future__ import annotations

import html
from typing import Any


class Rows(list[dict[str, Any]]):
    """Rows with the same keys.

    Example:
        >>> rows = Rows([{"action": "submit", "count": 2}])
        >>> rows[0]["count"], rows.to_arrow().column_names
        (2, ['action', 'count'])
    """

    def to_arrow(self) -> Any:
        """A pyarrow table; readers of Arrow streams take the rows themselves."""
        import pyarrow as pa

        return pa.Table.from_pylist(list(self))

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def _repr_html_(self) -> str:
        return table_html(list(self[0]) if self else [], self)


def plain_rows(table: Any) -> list[dict[str, Any]]:
    """An Arrow table (or batch) as plain values; what Python has no value for becomes text.

    That is a date or time outside the years 1 to 9999, or one with nanoseconds.
    """
    columns = [plain_values(column) for column in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def plain_values(column: Any) -> list[Any]:
    """The same of one Arrow array."""
    try:
        return list(column.to_pylist())
    except (OverflowError, ValueError):
        return [_plain(value) for value in column]


def _plain(value: Any) -> Any:
    import pyarrow as pa

    try:
        return value.as_py()
    except (OverflowError, ValueError):
        kind = value.type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            return [_plain(one) for one in value]
        if pa.types.is_struct(kind):
            return {name: _plain(value[name]) for name in value}
        if not pa.types.is_timestamp(kind):
            return str(value.cast(pa.string()))
    text = str(value.cast(pa.timestamp(kind.unit)).cast(pa.string()))  # without a zone, which is UTC
    whole, _, fraction = text.partition(".")
    fraction = fraction.rstrip("0")
    return f"{whole.replace(' ', 'T')}{'.' if fraction else ''}{fraction}{'Z' if kind.tz else ''}"


def table_html(names: list[str], rows: list[dict[str, Any]]) -> str:
    """An HTML table; null is an empty cell."""
    cells = "".join(
        "<tr>" + "".join(f"<td>{html.escape('' if row[n] is None else str(row[n]))}</td>" for n in names) + "</tr>"
        for row in rows
    )
    header = "".join(f"<th>{html.escape(n)}</th>" for n in names)
    return f"<table><thead><tr>{header}</tr></thead><tbody>{cells}</tbody></table>"
