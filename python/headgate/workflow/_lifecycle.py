"""A folder that stands for the workflow's bucket, with its lifecycle rule: outputs are deleted 7 days after they were
written. Ages are those of the injected clock, so that a week passes in a test without waiting."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headgate.ports import Clock

_DAY_US = 86_400 * 1_000_000


@dataclass(frozen=True)
class LifecycleRule:
    """Objects whose key begins with `prefix` are deleted `days` after they were written.

    Args:
        name: the rule's id.
        prefix: of the keys.
        days: how long they are kept.
    """

    name: str = "DeleteOldExecutions"
    prefix: str = "executions/"
    days: float = 7


class EmbeddedBucket:
    """Implements ObjectStore on a folder, as `file://` does, and expires objects as S3's lifecycle rules do.

    S3 deletes at the midnight (UTC) after the time is over; this bucket when `expire()` is called. An object whose time
    is over is not found any more. The time of a write is the file's modification time.

    Args:
        folder: where the objects lie.
        clock: what "now" is.
        rules: which objects expire; default: `executions/` after 7 days.

    Raises:
        InvalidInputError: a rule that keeps objects for no time at all.

    Example:
        >>> import tempfile
        >>> from headgate._core import ManualClock
        >>> clock = ManualClock(1_780_000_000_000_000)
        >>> bucket = EmbeddedBucket(tempfile.mkdtemp(), clock)
        >>> bucket.put("executions/run-1/A/output.json", b"{}")
        >>> clock.advance_us(7 * 86_400 * 1_000_000)
        >>> bucket.exists("executions/run-1/A/output.json"), bucket.expire()
        (False, ['executions/run-1/A/output.json'])
    """

    def __init__(
        self, folder: str | os.PathLike[str], clock: Clock, rules: Sequence[LifecycleRule] = (LifecycleRule(),)
    ) -> None:
        wrong = [rule for rule in rules if not rule.days > 0]
        if wrong:
            message = f"lifecycle rule {wrong[0].name!r} keeps objects for {wrong[0].days} days; expected more than 0"
            raise InvalidInputError(message)
        self._folder = Path(folder)
        self._files: Any = core.file_store(os.fspath(folder))
        self._clock = clock
        self.rules = tuple(rules)

    def put(self, key: str, data: bytes, if_absent: bool = False) -> None:
        """Store bytes; with `if_absent` only where nothing is. An object whose time is over counts as nothing.

        Raises:
            DuplicateError: something is there.
            InvalidInputError: the key is no relative path.
        """
        if if_absent and self._is_over(key):
            self._files.remove(key)
        self._files.put(key, data, if_absent)
        at_ns = self._clock.now_us() * 1_000
        os.utime(self._folder / key, ns=(at_ns, at_ns))

    def get(self, key: str) -> bytes:
        """Its bytes.

        Raises:
            NotFoundError: there is no such object, or its time is over.
        """
        if self._is_over(key):
            self._files.remove(key)
        return bytes(self._files.get(key))

    def exists(self, key: str) -> bool:
        return bool(self._files.exists(key)) and not self._is_over(key)

    def list(self, prefix: str = "") -> list[str]:
        """Keys in order."""
        return [key for key in self._files.list(prefix) if not self._is_over(key)]

    def remove(self, key: str) -> None:
        self._files.remove(key)

    def expire(self) -> Sequence[str]:
        """Delete what the rules say; the keys that were deleted."""
        gone = [key for key in self._files.list("") if self._is_over(key)]
        for key in gone:
            self._files.remove(key)
        return gone

    def _is_over(self, key: str) -> bool:
        days = [rule.days for rule in self.rules if key.startswith(rule.prefix)]
        if not days:
            return False
        try:
            written_us = (self._folder / key).stat().st_mtime_ns // 1_000
        except OSError:
            return False
        return self._clock.now_us() - written_us >= int(min(days) * _DAY_US)
