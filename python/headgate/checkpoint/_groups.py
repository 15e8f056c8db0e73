"""Groups of rows, counted by the core while batches stream by: memory grows with the groups, not with the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate._native import parquet
from headgate.checkpoint._rows import plain_values
from headgate.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pyarrow import RecordBatchReader


def plain_type(kind: Any) -> Any:
    """The type of the values, where a column has them as dictionaries."""
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def key_of(column: Any, kind: Any) -> Any:
    """An expression for the column's values as the core groups them: text, or whole numbers."""
    import pyarrow as pa

    if pa.types.is_string(kind):
        return column
    if pa.types.is_nested(kind):
        message = f"rows cannot be grouped by a column of {kind}; expected text, numbers or times"
        raise InvalidInputError(message)
    if pa.types.is_date32(kind) or pa.types.is_time32(kind):
        return column.cast(pa.int32()).cast(pa.int64())
    return column.cast(pa.int64() if _is_whole(kind) else pa.string())


def order_of(column: Any, kind: Any) -> Any:
    """As key_of, of what has an order as text or whole number."""
    import pyarrow as pa

    if not (_is_whole(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        message = f"rows cannot be ordered by a column of {kind}; expected text, whole numbers or times"
        raise InvalidInputError(message)
    return key_of(column, kind)


def _is_whole(kind: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    return bool((types.is_integer(kind) and kind != pa.uint64()) or types.is_temporal(kind) or types.is_boolean(kind))


def values_of(keys: list[str | int | None], kind: Any) -> list[Any]:
    """What the core's keys stand for, as plain values of the column's type."""
    import pyarrow as pa

    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return keys
    if not _is_whole(kind):
        return plain_values(pa.array(keys, pa.string()).cast(kind))
    numbers = pa.array(keys, pa.int64())
    if pa.types.is_date32(kind) or pa.types.is_time32(kind):
        numbers = numbers.cast(pa.int32())
    return plain_values(numbers.cast(kind))


def counted(rows: RecordBatchReader) -> tuple[list[list[str | int | None]], list[int]]:
    """For every column the key of each group, and how many rows each has."""
    keys, counts = parquet().count_groups(rows)
    return keys, counts


def newest(rows: RecordBatchReader) -> Any:
    """The numbers of the rows whose last column is the largest of their group, of equal ones the last, as an array."""
    import pyarrow as pa

    found = parquet().newest_rows(rows)
    return pa.Array.from_buffers(pa.int64(), len(found) // 8, [None, pa.py_buffer(found)])


def summarised(keys: Sequence[str], columns: Mapping[str, str]) -> Callable[[RecordBatchReader], Any]:
    """One row for each combination of the keys, with Arrow's aggregates of `columns`."""

    def ask(rows: RecordBatchReader) -> Any:
        from pyarrow import acero

        wanted = [(name, f"hash_{how}", None, name) for name, how in columns.items()]
        steps = [
            acero.Declaration("record_batch_reader_source", acero.RecordBatchReaderSourceNodeOptions(rows)),
            acero.Declaration("aggregate", acero.AggregateNodeOptions(wanted, keys=list(keys))),
        ]
        return acero.Declaration.from_sequence(steps).to_table()

    return ask
