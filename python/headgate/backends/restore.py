"""A backup in the place of the store, checked before anything changes."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

from headgate._native import core
from headgate.backends.local import LocalDatabase
from headgate.errors import DuplicateError, HeadgateError, IntegrityError, Kind, NotFoundError, StorageFullError

_SUFFIXES = ("", "-wal", "-shm")  # SQLite's files beside the database
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table'"
_APPLICATION_ID = b"HGat"  # PRAGMA application_id, at byte 68 of the file


def restore(source: str | os.PathLike[str], target: str | os.PathLike[str], *, replace: bool = False) -> int:
    """Put a backup in the place of the store; its size in bytes. Every process of the store has to be stopped.

    The backup is copied and checked before anything changes. A store that is replaced is kept beside the new one, as
    `{name}.replaced-{n}`.

    Args:
        source: a file that `backup` made, or a store that is not in use.
        target: the store's file.
        replace: whether there may be a store.

    Raises:
        NotFoundError: there is no such backup.
        DuplicateError: there is a store, and it is not to be replaced.
        IntegrityError: the backup is damaged, or no store of headgate.
        StorageFullError: no room for it.
    """
    backup_file, path = Path(source), Path(target)
    if not backup_file.exists():
        message = f"{backup_file.name}: there is no such backup"
        raise NotFoundError(message)
    _check_head(backup_file)  # before it is copied: it may be anything, of any size
    if path.exists() and not replace:
        message = f"{path.name} is there already; --replace keeps it beside the restored one"
        raise DuplicateError(message)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _copy(backup_file, temporary)
        _check_store(temporary, backup_file.name)
        core.fault_point("restore.before_rename")
        if path.exists():
            _set_aside(path)
        temporary.rename(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        if isinstance(error, HeadgateError):
            raise
        message = f"the backup cannot be restored: {error.strerror}"
        raise StorageFullError(message) from None
    finally:
        for suffix in _SUFFIXES:
            Path(f"{temporary}{suffix}").unlink(missing_ok=True)
    return path.stat().st_size


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as given, target.open("wb") as copy:
        os.fchmod(copy.fileno(), 0o600)
        shutil.copyfileobj(given, copy, 1 << 20)
        copy.flush()
        os.fsync(copy.fileno())


def _check_head(path: Path) -> None:
    """Whether the file begins as a store does; devices, pipes and folders are not opened."""
    head = b""
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(72)
    if head[:16] != b"SQLite format 3\0" or head[68:72] != _APPLICATION_ID:
        message = f"{path.name} is no store of headgate"
        raise IntegrityError(message)


def _check_store(path: Path, name: str) -> None:
    """Whether the file is a whole store, with what a new one has and nothing that would run by itself; an older one is
    brought to this version."""
    try:
        database = LocalDatabase(str(path))
    except HeadgateError as error:
        if error.kind is Kind.UNSUPPORTED_VERSION:
            raise
        message = f"{name} is damaged: it cannot be opened as a store"
        raise IntegrityError(message) from None
    try:
        _check_tables(database, name)
        ((found,), *_) = database.execute("PRAGMA integrity_check(1)")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        database.close()
    if found != "ok":
        message = f"{name} is damaged: it fails SQLite's integrity check"
        raise IntegrityError(message)


def _check_tables(database: LocalDatabase, name: str) -> None:
    new = LocalDatabase(":memory:")
    try:
        tables = {table for (table,) in new.execute(_TABLES)}
    finally:
        new.close()
    found = {table for (table,) in database.execute(_TABLES)}
    for table in sorted(tables):
        if table not in found:
            message = f"{name} is no whole store: it has no table {table}"
            raise IntegrityError(message)
    triggers = database.execute("SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger'")
    if on_ours := [table for _, table in triggers if table in tables]:
        message = f"{name} is no store of headgate's making: its table {on_ours[0]} has a trigger"
        raise IntegrityError(message)


def _set_aside(path: Path) -> None:
    """Rename a store with what belongs to it, the log of its last commits included."""
    number = next(n for n in itertools.count(1) if not Path(f"{path}.replaced-{n}").exists())
    for suffix in reversed(_SUFFIXES):
        part = Path(f"{path}{suffix}")
        if part.exists():
            part.rename(f"{path}.replaced-{number}{suffix}")
