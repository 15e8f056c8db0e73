"""Members of the objects in a JSON column, as columns of their own: `user.type`."""

from __future__ import annotations

import json
from typing import Any

from headgate._native import core
from headgate.errors import HeadgateError, InvalidInputError


def split_nested(name: str, schema: Any) -> tuple[str, list[str]] | None:
    """The column of text and the way inside its objects that a name with dots means; None if it means none."""
    import pyarrow as pa

    parts = name.split(".")
    for n in range(len(parts) - 1, 0, -1):
        column = ".".join(parts[:n])
        at = schema.get_field_index(column)
        if at >= 0 and pa.types.is_string(schema.field(at).type):
            return column, parts[n:]
    return None


def nested_texts(name: str, column: Any, way: list[str]) -> Any:
    """The member of every row as text: strings as they are, other values as JSON; null where there is none.

    Raises:
        InvalidInputError: no row has it.
    """
    import pyarrow as pa

    coded = column.combine_chunks().dictionary_encode()
    values = [_member(text, way) for text in coded.dictionary.to_pylist()]
    if values and not any(is_there for is_there, _ in values):
        message = (
            f"there is no column {name!r}, and no row has such a member in column {name[: -len('.'.join(way)) - 1]!r}"
        )
        raise InvalidInputError(message)
    texts = pa.array(
        [value if value is None or isinstance(value, str) else _json(value) for _, value in values], pa.string()
    )
    return texts.take(coded.indices)


def nested_times(name: str, texts: Any) -> Any:
    """These texts as times in UTC; null where a text is no time.

    Raises:
        InvalidInputError: none of them is one.
    """
    import pyarrow as pa

    coded = texts.dictionary_encode()
    times = [_time(text) for text in coded.dictionary.to_pylist()]
    if times and all(time is None for time in times):
        message = f"no row has a time in {name!r}; expected ISO 8601, as in 2024-01-15T10:00:00Z"
        raise InvalidInputError(message)
    return pa.array(times, pa.int64()).take(coded.indices).cast(pa.timestamp("us", "UTC"))


def _member(text: str, way: list[str]) -> tuple[bool, Any]:
    """Whether the object in `text` has the member, and its value."""
    try:
        value = json.loads(text)
    except ValueError:
        return False, None  # a column of plain text
    for name in way:
        if not isinstance(value, dict) or name not in value:
            return False, None
        value = value[name]
    return True, value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _time(text: str) -> int | None:
    try:
        return core.parse_timestamp(text)
    except HeadgateError:
        return None
