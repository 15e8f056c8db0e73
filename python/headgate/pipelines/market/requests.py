"""The analysis request of an item as it lies in a table with keys (source_id, timestamp)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate.errors import InvalidInputError, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headgate.ports import Json


def analysis_body(item: Mapping[str, Any], key_names: tuple[str, str], model_version: str) -> tuple[Json, str]:
    """The message of an item that is announced again, and its source type, which is a message attribute as well.

    `timestamp` is exactly the stored sort key: the analysis updates the item under it.

    Args:
        item: the whole item.
        key_names: of the table's partition and sort key.
        model_version: travels along.

    Raises:
        InvalidInputError: a part of the key is missing.
    """
    source_id, timestamp = item.get(key_names[0]), item.get(key_names[1])
    if not isinstance(source_id, str) or not source_id or not isinstance(timestamp, str) or not timestamp:
        message = f"the item has no {key_names[0]} or {key_names[1]}"
        raise InvalidInputError(message, Kind.INVALID_RECORD)
    source_type = str(item.get("source_type") or source_id.partition(":")[0])
    body = {
        "source_id": source_id,
        "source_type": source_type,
        "text_for_analysis": item.get("text_for_analysis", ""),
        "model_version": model_version,
        "matched_tickers": item.get("matched_tickers") or [],
        "timestamp": timestamp,
        "republished": True,
    }
    return body, source_type
