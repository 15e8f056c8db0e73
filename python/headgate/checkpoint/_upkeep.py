"""Keeping a Delta table small: merging its files, and removing what no version names any more."""

from __future__ import annotations

import time
from typing import Any

from headgate.checkpoint._delta import DeltaPlace, named_parts
from headgate.errors import InvalidInputError, Kind

_WEEK_H = 168


def maintain(target: str, *, retention_h: float = _WEEK_H) -> dict[str, Any]:
    """Merge a Delta table's small files, and remove files and ledger parts that nothing has named for so long.

    Args:
        target: delta+file:///folder or delta+s3://bucket/prefix.
        retention_h: at least as long as the longest query or run takes, hours.

    Returns:
        files_added, files_removed (by merging), vacuumed, and ledger_removed.

    Raises:
        InvalidInputError: kind not_found, there is no such table.

    Example:
        >>> maintain("delta+file:///data/events")["files_removed"]      # doctest: +SKIP
        412
    """
    place = DeltaPlace(target)
    table = place.table()
    if table is None:
        message = f"checkpoint {place.uri} does not exist yet"
        raise InvalidInputError(message, Kind.NOT_FOUND)
    merged = table.optimize.compact()
    gone = table.vacuum(
        retention_hours=int(retention_h), dry_run=False, enforce_retention_duration=retention_h >= _WEEK_H
    )
    return {
        "files_added": merged["numFilesAdded"], "files_removed": merged["numFilesRemoved"], "vacuumed": len(gone),
        "ledger_removed": _sweep(place, time.time() - retention_h * 3600),
    }  # fmt: skip


def _sweep(place: DeltaPlace, before_s: float) -> int:
    """Remove what the last append's manifest does not name: older manifests, and parts of runs that lost or died."""
    state = place.state()
    if not state.footer:
        return 0
    named = named_parts(state.version, state.footer)
    gone = [name for name, modified_s in place.parts_there() if name not in named and modified_s < before_s]
    for name in gone:
        place.remove_part(name)
    return len(gone)
