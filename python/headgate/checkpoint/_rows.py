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


def table_html(names: list[str], rows: list[dict[str, Any]]) -> str:
    """An HTML table; null is an empty cell."""
    cells = "".join(
        "<tr>" + "".join(f"<td>{html.escape('' if row[n] is None else str(row[n]))}</td>" for n in names) + "</tr>"
        for row in rows
    )
    header = "".join(f"<th>{html.escape(n)}</th>" for n in names)
    return f"<table><thead><tr>{header}</tr></thead><tbody>{cells}</tbody></table>"
