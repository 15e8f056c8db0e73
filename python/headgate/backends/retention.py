"""What the embedded store forgets, and when; and a copy of it while it works."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import DuplicateError, StorageFullError

if TYPE_CHECKING:
    from headgate.backends.local import LocalDatabase
    from headgate.ports import Clock

_DAY_US = 86_400 * 1_000_000
_ROWS = 5_000  # rows of one commit, so that writers are never kept waiting for long
_TEMPORARY_US = _DAY_US  # a killed process leaves temporary files; nobody writes one for a day


@dataclass(frozen=True)
class Retention:
    """Days; 0 keeps forever. Done keys live by the ledger's own time to live."""

    outbox_days: float = 7.0
    history_days: float = 90.0
    dead_letter_days: float = 0.0
    raw_days: float = 0.0
    execution_days: float = 7.0


# store -> (which rule, table, its time in microseconds, what else must hold)
_TABLES: dict[str, tuple[str, str, str, str]] = {
    "outbox": ("outbox_days", "outbox", "sent_us", "sent_us IS NOT NULL"),
    "collection events": ("history_days", "collection_events", "started_us", "1"),
    "workflow history": (
        "history_days", "execution_events", "at_us",
        "execution IN (SELECT id FROM executions WHERE ended_us IS NOT NULL)",
    ),
    "workflow executions": (
        "history_days", "executions", "ended_us",
        "ended_us IS NOT NULL AND NOT EXISTS (SELECT 1 FROM execution_events WHERE execution = executions.id)",
    ),
    "upload batches": (
        "history_days", "state", "json_extract(doc, '$.started_us')",
        "name LIKE 'uploads.batch.%' AND json_extract(doc, '$.status') <> 'waiting'",
    ),
    "uploaded files": ("history_days", "state", "json_extract(doc, '$.at_us')", "name LIKE 'uploads.file.%'"),
    "upload requests": ("history_days", "state", "json_extract(doc, '$.at_us')", "name LIKE 'uploads.request.%'"),
    "dead letters": ("dead_letter_days", "dead_letters", "created_us", "1"),
}  # fmt: skip


def prune(database: LocalDatabase, objects: str | None, policy: Retention, clock: Clock) -> dict[str, int]:
    """Forget what is past its time; how much of each store.

    Args:
        database: the store.
        objects: the folder of the object store, if it is one.
        policy: how long things live.
        clock: what "now" is.
    """
    now = clock.now_us()
    gone = {}
    for name, (rule, table, time, also) in _TABLES.items():
        days = getattr(policy, rule)
        gone[name] = _prune_table(database, table, f"{time} < ? AND {also}", now - int(days * _DAY_US)) if days else 0
    _prune_runs(database)
    if objects is not None:
        gone["raw blobs"] = _prune_files(Path(objects) / "raw", now - int(policy.raw_days * _DAY_US), policy.raw_days)
        kept_us = int(policy.execution_days * _DAY_US)
        gone["workflow outputs"] = _prune_files(Path(objects) / "executions", now - kept_us, policy.execution_days)
        gone["temporary files"] = _prune_temporary(Path(objects))
    return gone


def _prune_runs(database: LocalDatabase) -> None:
    """Forget the frames, tokens and leases of executions that are gone; their tables are there once one has run."""
    with database.transaction() as tx:
        for table in ("workflow_frames", "workflow_tokens", "workflow_runs"):
            if tx.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)):
                tx.execute(f"DELETE FROM {table} WHERE execution NOT IN (SELECT id FROM executions)")


def report(database: LocalDatabase, policy: Retention) -> dict[str, dict[str, Any]]:
    """For each store: the rule, how many rows there are, and the age of the oldest one that the rule covers."""
    found = {}
    for name, (rule, table, time, also) in _TABLES.items():
        total = database.execute(f"SELECT count(*) FROM {table}")[0][0]
        oldest = database.execute(f"SELECT min({time}) FROM {table} WHERE {also}")[0][0]
        days = getattr(policy, rule)
        found[name] = {
            "keeps_days": days or "for ever", "rows": total,
            "oldest": core.format_timestamp(int(oldest)) if oldest is not None else None,
        }  # fmt: skip
    done, expired = database.execute("SELECT count(*), min(expires_us) FROM ledger WHERE state = 1")[0]
    found["done keys"] = {
        "keeps_days": "the ledger's time to live", "rows": done,
        "next_expiry": core.format_timestamp(expired) if expired is not None else None,
    }  # fmt: skip
    found["raw blobs"] = {"keeps_days": policy.raw_days or "for ever"}
    found["workflow outputs"] = {"keeps_days": policy.execution_days or "for ever"}
    return found


def backup(database: LocalDatabase, target: str | os.PathLike[str]) -> int:
    """A consistent copy of the store while others write to it; its size in bytes.

    The copy is complete or not there: it is written beside the target, synced, and renamed.

    Args:
        database: the store.
        target: a file that is not there yet.

    Raises:
        DuplicateError: there is such a file.
        StorageFullError: no room for it.
    """
    path = Path(target)
    if path.exists():
        message = f"{path.name} is there already; a backup overwrites nothing"
        raise DuplicateError(message)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        database.execute("VACUUM INTO ?", (str(temporary),))
        with temporary.open("rb") as copy:
            os.fsync(copy.fileno())
        core.fault_point("backup.before_rename")
        os.link(temporary, path)  # unlike a rename it fails when somebody else was first
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError:
        message = f"{path.name} is there already; a backup overwrites nothing"
        raise DuplicateError(message) from None
    except OSError as error:
        message = f"the backup cannot be written: {error.strerror}"
        raise StorageFullError(message) from None
    finally:
        temporary.unlink(missing_ok=True)
    return path.stat().st_size


def _prune_table(database: LocalDatabase, table: str, condition: str, before_us: int) -> int:
    key = "name" if table == "state" else "id"
    gone = 0
    while True:
        changed = database.changes(
            f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} WHERE {condition} LIMIT {_ROWS})",
            (before_us,),
        )
        gone += changed
        if changed < _ROWS:
            return gone


def _prune_files(folder: Path, before_us: int, days: float) -> int:
    gone = 0
    if not days or not folder.is_dir():
        return gone
    for path in folder.rglob("*"):
        if path.is_file() and _remove_if_older(path, before_us):
            gone += not path.name.endswith(".meta.json")
    return gone


def _prune_temporary(folder: Path) -> int:
    """Left by killed writers. By the system's clock, as files' times are, whatever an injected one says."""
    before_us = core.SystemClock().now_us() - _TEMPORARY_US
    return sum(_remove_if_older(path, before_us) for path in folder.rglob(".tmp-*")) if folder.is_dir() else 0


def _remove_if_older(path: Path, before_us: int) -> bool:
    """Whether it was; a file that its writer renamed since it was listed is nobody's leftover."""
    try:
        if path.stat().st_mtime_ns // 1000 >= before_us:
            return False
    except FileNotFoundError:
        return False
    path.unlink(missing_ok=True)
    return True
