"""What can be stuck of uploads: files without an outcome, and batches whose time is over."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from headgate.healing import Rule, Stuck, sorted_page
from headgate.pipelines.uploads.batches import BatchTracker
from headgate.pipelines.uploads.configured import file_service

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.healing import After, StuckKind
    from headgate.wiring import App

_UPLOAD_JOBS, _UPLOAD_STATE, _BATCH_STATE = "uploads.files", "uploads.file.", "uploads.batch."
_MOST = 10_000  # how many things of one kind a sweep looks at
_HOUR_S = 3600.0
_BATCH_LATE_S = 60.0  # `headgate serve` ends batches within a second; the sweep is for those it missed


def stuck_kinds(app: App) -> list[tuple[StuckKind, Rule]]:
    """The kinds of the sweep, each with its rule; none in a store that never saw an upload."""
    store, h, u = app.embedded_store, app.config.healing, app.config.uploads
    if not (store.states("uploads.") or store.has_topic(_UPLOAD_JOBS)):
        return []
    files = file_service(app)
    tracker = BatchTracker(store, app.clock, ready_timeout_s=u.ready_timeout_s, metrics=app.metrics)
    return [
        (UploadKind(store, files.give_up), Rule(h.upload_hours * _HOUR_S, h.batch_size, h.max_attempts)),
        (BatchKind(store, tracker.check_timeouts), Rule(_BATCH_LATE_S, h.batch_size, 0)),
    ]


class UploadKind:
    """Uploaded files without an outcome.

    A sweep announces the file's job again. After the last attempt it announces the file as failed, so that its batch
    does not wait for it.

    Args:
        store: a `LocalStore`.
        give_up: (job's body, reason, transaction): announces the failure.
    """

    name = "upload"

    def __init__(self, store: Any, give_up: Callable[[Any, str, Any], None]) -> None:
        self._store = store
        self._give_up = give_up

    def find(self, before_us: int, limit: int, after: After | None) -> list[Stuck]:
        rows = self._store.db.execute(
            "SELECT max(created_us), count(*), max(sent_us IS NULL), key, body,"
            " json_extract(body, '$.data.upload_id') || ':' || json_extract(body, '$.data.index') AS job"
            " FROM outbox WHERE topic = ?1"
            " GROUP BY job HAVING max(created_us) <= ?2 AND NOT EXISTS (SELECT 1 FROM state WHERE name = ?3 || job)"
            " ORDER BY 1, job LIMIT ?4",
            (_UPLOAD_JOBS, before_us, _UPLOAD_STATE, _MOST),
        )
        found = []
        for since_us, count, unsent, key, body, job in rows:
            queued = self._store.db.execute(
                "SELECT 1 FROM queue INDEXED BY queue_of WHERE topic = ? AND key = ? LIMIT 1", (_UPLOAD_JOBS, key)
            )
            held_up = "outbox" if unsent else "queue" if queued else ""
            found.append(Stuck(job, since_us, count - 1, held_up, (key, json.loads(body))))
        return sorted_page(found, limit, after)

    def heal(self, stuck: Stuck, before_us: int) -> bool:
        key, body = stuck.data
        with self._store.transaction():
            if not self._is_as_found(stuck):
                return False
            self._store.publish(_UPLOAD_JOBS, key, body)
        return True

    def count_attempt(self, stuck: Stuck, before_us: int) -> bool:
        return False  # the database is unavailable: the next sweep finds it as it is

    def quarantine(self, stuck: Stuck, reason: str) -> bool:
        with self._store.transaction() as tx:
            if not self._is_as_found(stuck):
                return False
            self._give_up(stuck.data[1], reason, tx)
        return True

    def _is_as_found(self, stuck: Stuck) -> bool:
        rows = self._store.db.execute(
            "SELECT count(*) FROM outbox WHERE topic = ?1 AND json_extract(body, '$.data.upload_id') || ':' ||"
            " json_extract(body, '$.data.index') = ?2",
            (_UPLOAD_JOBS, stuck.key),
        )
        return rows[0][0] == stuck.attempts + 1 and self._store.load_state(_UPLOAD_STATE + stuck.key) is None


class BatchKind:
    """Batches of uploads that are not complete though their time is over: they are announced with what is there.

    Args:
        store: a `LocalStore`.
        check_timeouts: announces all of them (`BatchTracker.check_timeouts`).
    """

    name = "batch"

    def __init__(self, store: Any, check_timeouts: Callable[[], int]) -> None:
        self._store = store
        self._check = check_timeouts

    def find(self, before_us: int, limit: int, after: After | None) -> list[Stuck]:
        found = [
            Stuck(name.removeprefix(_BATCH_STATE), doc["deadline_us"])
            for name, doc in self._store.states(_BATCH_STATE)
            if doc["status"] == "waiting" and doc["deadline_us"] <= before_us
        ]
        return sorted_page(found, limit, after)

    def heal(self, stuck: Stuck, before_us: int) -> bool:
        self._check()
        doc = self._store.load_state(_BATCH_STATE + stuck.key)
        return doc is not None and doc["status"] != "waiting"

    def count_attempt(self, stuck: Stuck, before_us: int) -> bool:
        return False

    def quarantine(self, stuck: Stuck, reason: str) -> bool:
        return False
