"""The lives of items on the embedded backend: their ends, and what the healing sweep needs to know and to do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from headgate.errors import InvalidInputError
from headgate.identity import compact_json
from headgate.items import FAILED, PENDING, QUARANTINED
from headgate.ports import Json, StaleItem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from headgate.ports import Clock, Transaction

_VALUES = ("sentiment", "score", "model_version")  # fields that a handler may set together with the status
_KEYS = 400  # keys in one SQL statement
# Where an item's announcement is: ?1 is the topic, ?2 the consumer group or an empty text; the item is `i`.
_PLACE = (
    "CASE WHEN EXISTS (SELECT 1 FROM outbox o WHERE o.topic = ?1 AND o.key = i.key AND o.sent_us IS NULL) THEN 'outbox'"
    " WHEN EXISTS (SELECT 1 FROM queue q INDEXED BY queue_of WHERE q.topic = ?1 AND q.key = i.key"
    " AND (?2 = '' OR q.grp = ?2)) THEN 'queue'"
)
_FULL = (
    f"SELECT i.key, i.doc, i.republish_attempts, i.due_us, i.source, i.timestamp, {_PLACE} ELSE '' END"  # noqa: S608
    " FROM items i WHERE i.key IN ({marks}) AND i.status = 'pending' AND i.sentiment IS NULL"
)
_OPEN = "status IN ('pending', 'failed', 'quarantined')"


class LocalItems:
    """Implements ItemLives and HealingTable; `LocalStore` is one."""

    db: Any
    clock: Clock
    pipeline: str

    # --- ends

    def item_status(self, key: str, tx: Transaction | None = None) -> str | None:
        rows = (tx or self.db).execute("SELECT status FROM items WHERE key = ?", (key,))
        return rows[0][0] if rows else None

    def end_item(
        self, key: str, status: str, reason: str = "", values: Mapping[str, Any] | None = None,
        tx: Transaction | None = None,
    ) -> bool:  # fmt: skip
        """See `headgate.ports.ItemLives`.

        Raises:
            InvalidInputError: a value that items have no column for.
        """
        given = dict(values or {})
        unknown = sorted(set(given) - set(_VALUES))
        if unknown:
            message = f"an item on SQLite has no field {unknown[0]!r}; expected one of {', '.join(_VALUES)}"
            raise InvalidInputError(message)
        sets = "".join(f", {name} = ?" for name in given)
        sql = f"UPDATE items SET status = ?, reason = ?, ended_us = ?{sets} WHERE key = ? AND {_OPEN}"  # noqa: S608
        return bool((tx or self.db).changes(sql, (status, reason or None, self.clock.now_us(), *given.values(), key)))

    # --- healing

    def stale_pending(self, before_us: int, limit: int, after: tuple[int, str] | None) -> list[StaleItem]:
        due, key = after or (-1, "")
        rows = self.db.execute(
            "SELECT key, due_us, republish_attempts FROM items INDEXED BY items_due WHERE pipeline = ?1"
            " AND status = 'pending' AND due_us <= ?2 AND due_us >= ?3 AND (due_us > ?3 OR key > ?4)"
            " AND sentiment IS NULL ORDER BY due_us, key LIMIT ?5",
            (self.pipeline, before_us, due, key, limit),
        )
        return [StaleItem(k, d, n) for k, d, n in rows]

    def full_items(self, keys: Iterable[str], group: str = "") -> list[Json]:
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Json] = {}
        for at in range(0, len(wanted), _KEYS):
            part = wanted[at : at + _KEYS]
            sql = _FULL.format(marks=", ".join("?" * len(part)))  # only the number of marks is put in
            rows = self.db.execute(sql, (f"{self.pipeline}.items", group, *part))
            for key, doc, attempts, due, source, timestamp, held_up in rows:
                found[key] = {
                    "key": key, "source": source, "timestamp": timestamp, "doc": json.loads(doc), "status": PENDING,
                    "republish_attempts": attempts, "due_us": due, "held_up": held_up,
                }  # fmt: skip
        return [found[key] for key in wanted if key in found]

    def held_up(self, key: str, group: str = "", tx: Transaction | None = None) -> str:
        """Where an item's announcement is, or an empty text: "outbox" (not sent), "queue" (not acknowledged)."""
        sql = f"SELECT {_PLACE} ELSE '' END FROM (SELECT ?3 AS key) i"  # noqa: S608 - only the constant is put in
        return str((tx or self.db).execute(sql, (f"{self.pipeline}.items", group, key))[0][0])

    def republish(self, key: str, attempts: int, before_us: int, topic: str, body: Json) -> bool:
        """Count the attempt, move the due time, put the announcement in the outbox: one commit, and only if the item
        is still pending, still due, and has the attempt count that was read.

        Still due, too: between a sweep's query and its fetch another sweep may have sent the item, and the fetch then
        reads the new count.
        """
        with self.db.transaction() as tx:
            moved = self._move(tx, key, attempts, before_us)
            if moved:
                tx.execute(
                    "INSERT INTO outbox (topic, key, body, created_us) VALUES (?, ?, ?, ?)",
                    (topic, key, compact_json(body), self.clock.now_us()),
                )
        return moved

    def count_attempt(self, key: str, attempts: int, before_us: int) -> bool:
        return self._move(self.db, key, attempts, before_us)

    def _move(self, tx: Any, key: str, attempts: int, before_us: int) -> bool:
        now = self.clock.now_us()
        return bool(
            tx.changes(
                "UPDATE items SET last_republished_us = ?1, due_us = ?1, republish_attempts = republish_attempts + 1"
                " WHERE key = ?2 AND status = 'pending' AND sentiment IS NULL AND republish_attempts = ?3"
                " AND due_us <= ?4",
                (now, key, attempts, before_us),
            )
        )

    def quarantine(self, key: str, attempts: int, reason: str = "") -> bool:
        return bool(
            self.db.changes(
                "UPDATE items SET status = 'quarantined', reason = ?, ended_us = ?"
                " WHERE key = ? AND status = 'pending' AND republish_attempts = ?",
                (reason or None, self.clock.now_us(), key, attempts),
            )
        )

    def pending_places(self, before_us: int) -> dict[str, int]:
        """Where the pending items are: "outbox", "queue", "stuck" (due by `before_us`), or "moving"."""
        rows = self.db.execute(
            f"SELECT {_PLACE} WHEN i.due_us <= ?3 THEN 'stuck' ELSE 'moving' END AS place, count(*)"  # noqa: S608
            " FROM items i WHERE i.pipeline = ?4 AND i.status = 'pending' GROUP BY place ORDER BY place",
            (f"{self.pipeline}.items", "", before_us, self.pipeline),
        )
        return dict(rows)

    def unsent_before(self, before_us: int, limit: int) -> list[tuple[str, int]]:
        """(place, since when) of the announcements that wait to be sent, the oldest first."""
        rows = self.db.execute(
            "SELECT id, created_us FROM outbox WHERE sent_us IS NULL AND created_us <= ? ORDER BY id LIMIT ?",
            (before_us, limit),
        )
        return [(f"{row:020d}", since) for row, since in rows]

    def has_topic(self, topic: str) -> bool:
        """Whether something was announced to a topic."""
        return bool(self.db.execute("SELECT 1 FROM outbox WHERE topic = ? LIMIT 1", (topic,)))

    def stuck_items(self, limit: int = 1_000) -> list[Json]:
        names = ("key", "source", "status", "reason", "ended_us", "republish_attempts")
        rows: list[tuple[Any, ...]] = []
        for status in (FAILED, QUARANTINED):
            rows += self.db.execute(
                f"SELECT {', '.join(names)} FROM items WHERE pipeline = ? AND status = ?"  # noqa: S608
                " ORDER BY ended_us, key LIMIT ?",
                (self.pipeline, status, limit - len(rows)),
            )
        return [dict(zip(names, row, strict=True)) for row in rows]

    def release_items(self, keys: Sequence[str] | None = None) -> int:
        sql = (
            "UPDATE items SET status = 'pending', reason = NULL, ended_us = NULL, republish_attempts = 0, due_us = 0"
            " WHERE pipeline = ? AND status IN ('quarantined', 'failed')"
        )
        if keys is None:
            return int(self.db.changes(sql, (self.pipeline,)))
        with self.db.transaction() as tx:
            return sum(tx.changes(f"{sql} AND key = ?", (self.pipeline, key)) for key in keys)
