"""Files on the simulated disk, behind the interface that the core's file code uses."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from headgate.errors import DuplicateError, HeadgateError, Kind, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable


class SimFiles:
    """The files of one simulated process, in the steps that an operating system offers.

    Args:
        disk: a `core.SimDisk`; each changing step is one of its operations, and may be the process's last.
        owner: the process.
        locks: path -> (owner, its life) of everybody on this disk.
        life: how often the owner has been started.
        is_alive: whether that life of an owner still is.
    """

    def __init__(
        self, disk: Any, owner: str, locks: dict[str, tuple[str, int]], life: int,
        is_alive: Callable[[str, int], bool],
    ) -> None:  # fmt: skip
        self.disk = disk
        self.process_name = f"{owner}-{life}"
        self._owner = owner
        self._locks = locks
        self._life = life
        self._is_alive = is_alive

    def read(self, path: str) -> bytes:
        return bytes(self.disk.read(path))

    def write_new(self, path: str, data: bytes) -> None:
        if self._exists(path):
            message = "there is such a file"
            raise DuplicateError(message)
        self.disk.write(f"{self._owner}@{path}", data)
        self.sync(path)

    def sync(self, path: str) -> None:
        """A step of its own, for mutants that leave it out."""
        self.disk.sync(f"{self._owner}@{path}")

    def rename(self, source: str, target: str) -> None:
        self.disk.rename(f"{self._owner}@{source}", f"{self._owner}@{target}")

    def link(self, source: str, target: str) -> None:
        """With the removal of the old name, which follows, one step: a crash between them leaves a spare name only."""
        if self._exists(target):
            message = "there is such a file"
            raise DuplicateError(message)
        self.rename(source, target)

    def remove(self, path: str) -> None:
        if not self._exists(path):
            message = "there is no such file"
            raise NotFoundError(message)
        self.disk.remove(f"{self._owner}@{path}")

    def remove_all(self, path: str) -> None:
        for name in [*self.disk.list(f"{path}/"), *([path] if self._exists(path) else ())]:
            self.disk.remove(f"{self._owner}@{name}")

    def make_folders(self, path: str) -> None:
        """Folders are there as soon as something is in them."""

    def sync_folder(self, path: str) -> None:
        self.disk.sync_folder(self._owner)

    def info(self, path: str) -> tuple[int, int, int, bool]:
        if self._exists(path):
            data = self.read(path)
            # No two contents have one modification time: what is new is seen at once.
            return 0, len(data), int.from_bytes(hashlib.sha256(data).digest()[:7], "big"), False
        if self.disk.list(f"{path}/"):
            return 0, 0, 0, True
        message = "there is no such file"
        raise NotFoundError(message)

    def names(self, folder: str) -> list[str]:
        return sorted({name[len(folder) + 1 :].split("/")[0] for name in self.disk.list(f"{folder}/")})

    def walk(self, folder: str) -> list[str]:
        return [name[len(folder) + 1 :] for name in self.disk.list(f"{folder}/")]

    def try_lock(self, path: str) -> bool:
        if self.disk.stopped(self._owner):
            message = "the simulated process has stopped"
            raise HeadgateError(message, Kind.IO_ERROR)
        holder = self._locks.get(path)
        if holder is not None and self._is_alive(*holder):
            return False
        self._locks[path] = (self._owner, self._life)
        return True

    def unlock(self, path: str) -> None:
        if self._locks.get(path) == (self._owner, self._life):
            del self._locks[path]

    def _exists(self, path: str) -> bool:
        return path in self.disk.list(path)
