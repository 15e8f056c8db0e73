"""Is the checkpoint what it says it is?"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from headgate._native import parquet
from headgate.checkpoint._places import key_in_source, shown, source_place, target_place
from headgate.checkpoint._schemas import plan_of_target, reading_of

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found. `ok` is true when nothing differs; files that left the source (`gone`) are no difference."""

    rows: int
    rows_in_footer: int
    rows_in_ledger: int | None
    out_of_order: int
    ledger_entries: int
    checked_files: int
    pending: int
    changed: int
    unreadable: int
    gone: int
    version: int
    differences: list[str]
    examples: list[str]

    @property
    def ok(self) -> bool:
        return not self.differences

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"ok": self.ok, **asdict(self)}


def verify(
    target: str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    *,
    schema: str | type[Any] | None = None,
    names: str | None = None,
    file_name: bool | str = False,
    follow_symlinks: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Read a checkpoint again: count its rows, check their order, the ledger and its checksums.

    With `source` every file there is read again too, and its content compared with what the ledger remembers.

    Args:
        target: the Parquet file, on disk or s3://bucket/key, or a delta+ table (whose rows have no order to check).
        source: what it was made from; None checks the target alone.
        schema: as for `update`; None: the one that the target was made with.
        names: as for `update`, of a declared schema; an inferred one knows.
        file_name: likewise.
        follow_symlinks: as for `update`.
        progress: called with (files read, files to read).

    Raises:
        NotFoundError: there is no such checkpoint.
        IntegrityError: the file or a ledger segment cannot be read.

    Example:
        >>> verify("events.parquet", "logs/prod").differences     # doctest: +SKIP
        []
    """
    origin = None if source is None else source_place(source, follow_symlinks=follow_symlinks)
    reading = reading_of(names, "", file_name, None)
    if os.fspath(target).startswith("delta+"):
        from headgate.checkpoint._delta import verify_delta

        return VerifyReport(**verify_delta(os.fspath(target), source, origin, schema, reading, progress))
    goal = target_place(target)
    plan = plan_of_target(schema, parquet().stored_schema(goal), reading, shown(target))
    key = "" if source is None else key_in_source(source, target)
    found = parquet().verify(origin, goal, plan, progress, None, key)
    return VerifyReport(**found)
