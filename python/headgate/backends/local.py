"""The embedded backend: one SQLite file for items, outbox, queue, state and workflow history."""

from __future__ import annotations

import json
import os
import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from headgate._forks import watch
from headgate._native import core
from headgate.backends._local_messages import LocalMessages
from headgate.backends.local_dead_letters import LocalDeadLetters
from headgate.backends.local_items import LocalItems
from headgate.errors import InvalidInputError, Kind, TransientError
from headgate.identity import compact_json, document_text
from headgate.ports import Item, Json, Stored

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from headgate.ports import Clock, Metrics, Transaction


def dumps(value: Any) -> str:
    """Compact JSON text, as every document column holds it."""
    return compact_json(value)


class _BoundedLock:
    """A re-entrant lock that is waited for so long at most.

    Raises:
        TransientError: kind busy; another thread has it.
    """

    def __init__(self, timeout_s: float) -> None:
        self._lock = threading.RLock()
        self._timeout_s = timeout_s

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=self._timeout_s):
            message = "the database's connection is in use by another thread"
            raise TransientError(message, Kind.BUSY)

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def acquire(self, blocking: bool = True) -> bool:
        return self._lock.acquire(timeout=self._timeout_s) if blocking else self._lock.acquire(blocking=False)

    def release(self) -> None:
        self._lock.release()


# A statement that ends a transaction, behind any comments; ROLLBACK TO goes back to a savepoint.
_END = re.compile(
    r"(?:\s|--[^\n]*\n|/\*(?:[^*]|\*(?!/))*\*/)*(?:COMMIT\b|END\b|ROLLBACK(?!\s+(?:TRANSACTION\s+)?TO\b)\b)",
    re.IGNORECASE,
)


class LocalDatabase:
    """One connection, shared by the threads of this process; a transaction holds it until it ends.

    Args:
        path: the file.
        durability: "full" survives power loss, "normal" a crashed process.
        busy_timeout_s: how long another connection's write lock is waited for.
        disk: injected in tests.
        lock_timeout_s: how long another thread of this process is waited for; None: until it is done.

    The file is made or migrated at once; the connection is made on first use. A child of fork() may use what its parent
    opened and has not used yet; what was in use is a `ForkedError` there.
    """

    def __init__(
        self, path: str, *, durability: str = "full", busy_timeout_s: float = 5.0, disk: Any = None,
        lock_timeout_s: float | None = None,
    ) -> None:  # fmt: skip
        self.native = core.Database(path, durability == "full", int(busy_timeout_s * 1e6), disk)
        self.address = f"sqlite:{os.path.realpath(path)}" if path and path != ":memory:" else ""
        self._lock_timeout_s = lock_timeout_s
        self.lock = self._new_lock()
        watch(self, store=True)

    def _new_lock(self) -> Any:
        return threading.RLock() if self._lock_timeout_s is None else _BoundedLock(self._lock_timeout_s)

    def _after_fork(self) -> None:
        self.lock = self._new_lock()  # a thread that the child has not may have held it

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self.lock:
            self._refuse_end(sql)
            return self.native.execute(sql, parameters)[1]

    def changes(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        with self.lock:
            self._refuse_end(sql)
            return self.native.execute(sql, parameters)[2]

    @contextmanager
    def transaction(self) -> Iterator[LocalDatabase]:
        """BEGIN IMMEDIATE ... COMMIT; any exception rolls back. Nested use joins the outer transaction."""
        with self.lock:
            if self.native.in_transaction:
                yield self
                return
            self.native.begin()
            try:
                yield self
            except BaseException:
                self.native.rollback()
                raise
            self.native.commit()

    def _refuse_end(self, sql: str) -> None:
        """A transaction of `transaction()` is ended by it alone: whoever ended it inside would undo an effect that is
        then marked as done, or keep one that is not."""
        if self.native.in_transaction and _END.match(sql):
            message = (
                "the statement would end a transaction that is not its own; expected none of COMMIT, END and ROLLBACK: "
                "an exception rolls back (SAVEPOINT and ROLLBACK TO can be used)"
            )
            raise InvalidInputError(message)

    def close(self) -> None:
        with self.lock:
            self.native.close()


class LocalStore(LocalItems, LocalDeadLetters, LocalMessages):
    """Implements ItemStore, ItemLives, Queue, StateStore and HealingTable on a `LocalDatabase`."""

    atomic = True  # `transaction()` makes one commit of what is written inside

    def __init__(self, database: LocalDatabase, clock: Clock, pipeline: str = "") -> None:
        self.db = database
        self.clock = clock
        self.pipeline = pipeline
        self.last_delay_us = 0  # longest time from storage to arrival in the last delivery, microseconds
        self.metrics: Metrics | None = None  # counts what the outbox sets aside

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        with self.db.transaction() as tx:
            yield tx

    # --- items

    def put_items(self, items: Sequence[Item], topic: str, bodies: Mapping[str, Json]) -> Stored:
        rows = [
            (
                i.key,
                i.pipeline,
                i.source,
                i.timestamp,
                i.text or document_text(i.doc),
                document_text(bodies[i.key]),
                i.labels,
                i.story_key,
                i.raw_key,
            )
            for i in items
        ]
        with self.db.lock:
            added = core.put_items(self.db.native, topic, rows, self.clock.now_us())
        new = tuple(item.key for item, is_new in zip(items, added, strict=True) if is_new)
        return Stored(new, len(items) - len(new))

    def documents(self, keys: Sequence[str]) -> list[Json]:
        found = (self.db.execute("SELECT doc FROM items WHERE key = ?", (key,)) for key in keys)
        return [json.loads(rows[0][0]) for rows in found if rows]

    def documents_by_key(self, keys: Sequence[str]) -> dict[str, Json]:
        found = ((key, self.db.execute("SELECT doc FROM items WHERE key = ?", (key,))) for key in keys)
        return {key: json.loads(rows[0][0]) for key, rows in found if rows}

    def widen_item(self, key: str, topic: str, before: Json, doc: Json, labels: Sequence[str], body: Json) -> bool:
        with self.db.transaction() as tx:
            if self.documents_by_key([key]).get(key) != before:
                return False
            tx.changes("UPDATE items SET doc = ? WHERE key = ?", (document_text(doc), key))
            for label in labels:
                tx.changes(
                    "INSERT OR IGNORE INTO item_labels (pipeline, label, timestamp, item)"
                    " SELECT pipeline, ?, timestamp, rowid FROM items WHERE key = ?",
                    (label, key),
                )
            tx.changes(
                "UPDATE outbox SET body = ? WHERE topic = ? AND key = ? AND sent_us IS NULL",
                (document_text(body), topic, key),
            )
        return True

    def latest(self, labels: Sequence[str], limit: int) -> list[Json]:
        if not labels:
            statuses = self.db.execute("SELECT DISTINCT status FROM items WHERE pipeline = ?", (self.pipeline,))
            rows = [
                row
                for (status,) in statuses
                for row in self.db.execute(
                    "SELECT timestamp, rowid, doc FROM items WHERE pipeline = ? AND status = ?"
                    " ORDER BY timestamp DESC LIMIT ?",
                    (self.pipeline, status, limit),
                )
            ]
            return [json.loads(doc) for _, _, doc in sorted(rows, reverse=True)[:limit]]
        newest: dict[int, str] = {}
        for label in dict.fromkeys(labels):
            rows = self.db.execute(
                "SELECT item, timestamp FROM item_labels WHERE pipeline = ? AND label = ?"
                " ORDER BY timestamp DESC, item DESC LIMIT ?",
                (self.pipeline, label, limit),
            )
            newest.update(rows)
        first = sorted(newest.items(), key=lambda entry: (entry[1], entry[0]), reverse=True)[:limit]
        docs = (self.db.execute("SELECT doc FROM items WHERE rowid = ?", (item,)) for item, _ in first)
        return [json.loads(rows[0][0]) for rows in docs if rows]

    # --- state

    def load_state(self, name: str) -> Json | None:
        rows = self.db.execute("SELECT doc FROM state WHERE name = ?", (name,))
        return json.loads(rows[0][0]) if rows else None

    def save_state(self, name: str, doc: Json) -> None:
        self.db.execute(
            "INSERT INTO state (name, doc) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET doc = excluded.doc",
            (name, dumps(doc)),
        )

    def swap_state(self, name: str, before: Json | None, doc: Json) -> bool:
        with self.db.transaction():
            if self.load_state(name) != before:
                return False
            self.save_state(name, doc)
        return True

    def states(self, prefix: str) -> list[tuple[str, Json]]:
        """The documents whose names begin so."""
        rows = self.db.execute(
            "SELECT name, doc FROM state WHERE name >= ?1 AND name < ?2 ORDER BY name", (prefix, prefix + "\U0010ffff")
        )
        return [(name, json.loads(doc)) for name, doc in rows]

    def delete_state(self, name: str) -> None:
        self.db.execute("DELETE FROM state WHERE name = ?", (name,))

    def add_collection_event(self, event_id: str, pipeline: str, started_us: int, doc: Json) -> None:
        self.db.execute(
            "INSERT INTO collection_events (event_id, pipeline, started_us, doc) VALUES (?, ?, ?, ?)",
            (event_id, pipeline, started_us, dumps(doc)),
        )

    def collection_events(self, pipeline: str, last: int | None = None) -> list[Json]:
        rows = self.db.execute(
            "SELECT doc FROM collection_events WHERE pipeline = ? ORDER BY id DESC LIMIT ?",
            (pipeline, -1 if last is None else last),
        )
        return [json.loads(doc) for (doc,) in reversed(rows)]

    # --- export and counts

    def items_after(self, rowid: int, limit: int) -> list[tuple[int, str]]:
        """(rowid, document) of this pipeline's items in order of arrival, for exports."""
        return [
            (i, doc)
            for i, doc in self.db.execute(
                "SELECT rowid, doc FROM items WHERE pipeline = ? AND rowid > ? ORDER BY rowid LIMIT ?",
                (self.pipeline, rowid, limit),
            )
        ]

    def count(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """The single number that a query gives."""
        value = self.db.execute(sql, parameters)[0][0]
        return int(value or 0)

    def status_counts(self) -> dict[str, int]:
        rows = self.db.execute(
            "SELECT status, count(*) FROM items WHERE pipeline = ? GROUP BY status ORDER BY status", (self.pipeline,)
        )
        return dict(rows)
