"""Kinds of stuck things on the embedded store: announcements, claims, workflow executions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from headgate.errors import TransientError
from headgate.healing._sweeper import After, Attempts, Stuck, sorted_page, tracked_page

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from headgate.ports import Clock

_MOST = 10_000  # how many things of one kind a sweep looks at


class OutboxKind:
    """Announcements that have been unsent for longer than the threshold.

    A sweep runs the relay once. Announcements that are still unsent then are counted as failed. They are tried again in
    every sweep and never given up.

    Args:
        waiting: (before_us, limit) -> (place, since_us) of the unsent announcements, oldest first.
        relay: sends what it can. Returns how many.
    """

    name = "outbox"

    def __init__(self, waiting: Callable[[int, int], list[tuple[str, int]]], relay: Callable[[], int]) -> None:
        self._waiting = waiting
        self._relay = relay
        self._left: set[str] | None = None

    def find(self, before_us: int, limit: int, after: After | None) -> list[Stuck]:
        found = [Stuck(place, since_us) for place, since_us in self._waiting(before_us, _MOST)]
        return sorted_page(found, limit, after)

    def heal(self, stuck: Stuck, before_us: int) -> bool:
        if self._left is None:
            self._left = set()
            self._relay()
            self._left = {place for place, _ in self._waiting(before_us, _MOST)}
        if stuck.key in self._left:
            message = "the notifier has not taken the announcement"
            raise TransientError(message)
        return True

    def count_attempt(self, stuck: Stuck, before_us: int) -> bool:
        return True

    def quarantine(self, stuck: Stuck, reason: str) -> bool:
        return False


class ClaimKind:
    """Claims whose lease ended without an end, and whose message is not on its way: a worker died.

    One attempt makes the messages of workers that are proved dead visible. What is still so after the cooldown is
    listed (`headgate heal list`): its message comes from elsewhere, or never.

    Args:
        database: the ledger's.
        store: a `LocalStore`.
        reclaim: (consumer) -> messages made visible.
        clock: of the attempts.
    """

    name = "claim"

    def __init__(self, database: Any, store: Any, reclaim: Callable[[str], int], clock: Clock) -> None:
        self._db = database
        self._store = store
        self._reclaim = reclaim
        self.attempts = Attempts(store, self.name, clock)

    def find(self, before_us: int, limit: int, after: After | None) -> list[Stuck]:
        rows = self._db.execute(
            "SELECT key, until_us FROM ledger WHERE state = 0 AND until_us > 0 AND until_us <= ? AND key LIKE 'v1:%'"
            " AND key NOT LIKE 'v1:schedule:%' AND key NOT LIKE 'v1:healing:%'"
            " ORDER BY until_us, key LIMIT ?",
            (before_us, _MOST),
        )
        found = [Stuck(key.removeprefix("v1:"), until_us) for key, until_us in rows]
        return tracked_page(self.attempts, found, before_us, limit, after, self._evidence)

    def heal(self, stuck: Stuck, before_us: int) -> bool:
        self._reclaim(_part(stuck.key, 1))
        return self.attempts.try_once(stuck)

    def count_attempt(self, stuck: Stuck, before_us: int) -> bool:
        return self.attempts.try_once(stuck)

    def quarantine(self, stuck: Stuck, reason: str) -> bool:
        return self.attempts.quarantine(stuck, "lease_ended")

    def _evidence(self, stuck: Stuck) -> str:
        group, identity = _part(stuck.key, 1), _part(stuck.key, -1)
        if self._db.execute("SELECT 1 FROM queue WHERE grp = ? AND key = ? LIMIT 1", (group, identity)):
            return "queue"
        if self._db.execute("SELECT 1 FROM items WHERE key = ? AND status = 'pending'", (identity,)):
            return "item"  # the sweep of items looks after it
        return ""


class WorkflowKind:
    """Executions that run, but have not moved for longer than the threshold: they are resumed.

    One that waits for a time, or for an answer within one, has not stopped; nor has one whose lease a process renews.

    Args:
        database: theirs.
        store: keeps the attempts (`LocalStore`).
        resume: (execution id, workflow) -> runs it as far as it goes, unless another process is at it (then False).
        clock: of the attempts.
    """

    name = "workflow"

    def __init__(self, database: Any, store: Any, resume: Callable[[str, str], bool], clock: Clock) -> None:
        self._db = database
        self._resume = resume
        self._clock = clock
        self.attempts = Attempts(store, self.name, clock)

    def find(self, before_us: int, limit: int, after: After | None) -> list[Stuck]:
        rows = self._db.execute(
            "SELECT x.id, x.workflow, x.definition, x.cursor, max(x.started_us, coalesce("
            " (SELECT max(at_us) FROM execution_events WHERE execution = x.id), 0)) AS moved_us"
            " FROM executions x WHERE x.status = 'RUNNING' ORDER BY moved_us, x.id LIMIT ?",
            (_MOST,),
        )
        runs = self._runs()
        found = []
        for ident, workflow, definition, cursor, moved in rows:
            if moved > before_us:
                continue
            if ident in runs:
                held_up = self._held_up(*runs[ident], before_us)
            else:  # committed by an earlier version
                held_up = _waits(json.loads(definition), json.loads(cursor), moved, before_us)
            found.append(Stuck(ident, moved, 0, held_up, workflow))
        return tracked_page(self.attempts, found, before_us, limit, after)

    def _runs(self) -> dict[str, tuple[str | None, int, int | None]]:
        """Execution -> (owner, end of its lease, when it goes on by itself)."""
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'workflow_runs'"):
            return {}
        rows = self._db.execute(
            "SELECT r.execution, r.owner, r.until_us, r.wake_us FROM workflow_runs r"
            " JOIN executions x ON x.id = r.execution WHERE x.status = 'RUNNING'"
        )
        return {ident: (owner, until, wake) for ident, owner, until, wake in rows}

    def _held_up(self, owner: str | None, until_us: int, wake_us: int | None, before_us: int) -> str:
        if owner is not None:  # a process is at it, or has died at it
            return "lease" if until_us > self._clock.now_us() else ""
        return "wait" if wake_us is not None and wake_us > before_us else ""

    def heal(self, stuck: Stuck, before_us: int) -> bool:
        if not self.attempts.try_once(stuck):
            return False
        return self._resume(stuck.key, stuck.data)

    def count_attempt(self, stuck: Stuck, before_us: int) -> bool:
        return True  # `heal` has counted it before it began

    def quarantine(self, stuck: Stuck, reason: str) -> bool:
        return self.attempts.quarantine(stuck, reason)


def _waits(definition: Mapping[str, Any], cursor: Mapping[str, Any], moved_us: int, before_us: int) -> str:
    """Whether an execution is in a Wait state that has not ended a threshold ago."""
    state = definition["States"].get(cursor["state"], {})
    if state.get("Type") != "Wait":
        return ""
    seconds = state.get("Seconds")
    if seconds is None:
        path = str(state.get("SecondsPath", "")).lstrip("$").strip(".").split(".")
        value = cursor["input"]
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        seconds = value
    if not isinstance(seconds, int | float):
        return ""
    return "wait" if moved_us + int(seconds * 1e6) > before_us else ""


def _part(claim_key: str, at: int) -> str:
    """A part of `namespace:consumer:type:identity#...`, as it was before it was escaped."""
    parts = claim_key.partition("#")[0].split(":")
    return unquote(parts[at] if len(parts) > 1 else claim_key)
