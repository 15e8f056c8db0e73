"""`headgate.checkpoint.update` and what it answers."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

from headgate._native import parquet
from headgate._registry import PLANS, shipped_plan
from headgate.errors import ConfigError, InvalidInputError, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

Mode = Literal["ledger", "watermark"]


@dataclass(frozen=True)
class RejectedRecord:
    """A refused record, as logs may show it: the name redacted, 12 hex digits of the key's digest."""

    name: str
    digest: str
    offset: int
    problems: list[tuple[str, str]]


@dataclass(frozen=True)
class CheckpointRun:
    """Every count of a run. `adds_up()` names the sums that must hold."""

    first_run: bool
    committed: bool
    listed: int
    ignored: int
    deferred: int
    known: int
    touched: int
    changed: int
    vanished: int
    unreadable: int
    taken_files: int
    rejected_files: int
    records: int
    rejected_records: int
    skipped_before_watermark: int
    rows_added: int
    late_rows: int
    rows_before: int
    rows_total: int
    bytes_read: int
    file_size: int
    version: int
    last_timestamp_us: int | None
    problems: dict[str, int]
    rejects: list[RejectedRecord] = field(repr=False)
    target: str = ""
    execution_time_ms: float = 0.0

    def adds_up(self) -> list[str]:
        """The sums that do not hold; empty when all do."""
        files = self.ignored + self.deferred + self.known + self.vanished + self.unreadable + self.taken_files
        rows = self.rows_added + self.rejected_records + self.skipped_before_watermark
        checks = {
            f"listed {self.listed} != ignored + deferred + known + vanished + unreadable + taken {files}": self.listed
            == files,
            f"records {self.records} != rows added + rejected + skipped {rows}": self.records == rows,
            f"rows total {self.rows_total} != before {self.rows_before} + added {self.rows_added}": self.rows_total
            == self.rows_before + self.rows_added,
        }
        return [text for text, holds in checks.items() if not holds]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the list of rejects."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "rejects"}


def update(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    schema: str | type[Any] = "visits",
    mode: Mode = "ledger",
    settle_s: float = 2.0,
    threads: int = 0,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> CheckpointRun:
    """Take every file of `source` that was not taken yet, and commit the result to `target` at once.

    Args:
        source: a folder (path or file:// URL) of .json files, or .jsonl with one record a line; nested folders too.
        target: the Parquet file; its ledger lies beside it in `<target>.ledger/`.
        schema: "visits", "news", or a pydantic model class (see docs/schemas.md).
        mode: "ledger" takes whatever is new, late files too; "watermark" only records strictly later than the newest.
        settle_s: files younger than this (seconds) wait for the next run.
        threads: reading threads; 0 means all cores.
        dry_run: read and count, write nothing.
        progress: called with (files read, files to read) about 20 times a second.

    Raises:
        IntegrityError: the old checkpoint cannot be read; it stays as it is.
        ConflictError: another writer that does not honour the lock replaced the target.
        AccessError, StorageFullError, TransientError: as their names say; nothing half-written remains.

    Example:
        >>> run = update("logs/prod", "events.parquet")          # doctest: +SKIP
        >>> run.rows_added, run.rejected_records                 # doctest: +SKIP
        (19978, 22)
    """
    if mode not in ("ledger", "watermark"):
        message = f"mode: expected 'ledger' or 'watermark', got {mode!r}"
        raise InvalidInputError(message)
    folder, file = local_path(source), local_path(target)
    if not os.path.isdir(folder):
        message = f"checkpoint source: {folder} is not a folder"
        raise InvalidInputError(message, Kind.NOT_FOUND)
    started = time.monotonic()
    found = parquet().update(
        folder, file, plan_of(schema), mode == "watermark", int(settle_s * 1e6), threads, dry_run, progress
    )
    rejects = [RejectedRecord(*reject) for reject in found.pop("first_rejects")]
    return CheckpointRun(
        **found, rejects=rejects, target=file, execution_time_ms=round((time.monotonic() - started) * 1000, 1)
    )


def plan_of(schema: str | type[Any]) -> str:
    """The plan text of a registered name or a pydantic model class."""
    if isinstance(schema, str):
        if schema not in PLANS:
            message = (
                f"schema: {schema!r} is not registered; expected one of {', '.join(sorted(PLANS))}, or a model class"
            )
            raise InvalidInputError(message)
        return shipped_plan(schema)
    from headgate.checkpoint.schema import compile_model

    return json.dumps(compile_model(schema))


def local_path(url: str | os.PathLike[str]) -> str:
    """The path behind a path or a file:// URL.

    Raises:
        ConfigError: a scheme that this backend does not have.
    """
    text = os.fspath(url)
    parts = urlsplit(text)
    if parts.scheme == "file":
        return unquote(parts.netloc + parts.path)
    if "://" in text:
        message = f"{parts.scheme}:// is not supported here; expected a path or file:///path"
        raise ConfigError(message, Kind.UNSUPPORTED_SCHEME)
    return text
