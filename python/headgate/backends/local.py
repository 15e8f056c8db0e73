"""The embedded backend: one SQLite file for items, outbox, queue, state and workflow history."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import headgate.errors  # noqa: F401 - gives the core its exceptions
from headgate._native import core
from headgate.backends.local_items import LocalItems
from headgate.backends.local_letters import LocalLetters
from headgate.identity import compact_json, document_text
from headgate.ports import Announcement, DeadLetter, Item, Json, Message, Stored

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from headgate.ports import Clock, Publisher, Transaction


def dumps(value: Any) -> str:
    """Compact JSON text, as every document column holds it."""
    return compact_json(value)


class LocalDatabase:
    """One connection, shared by the threads of this process; a transaction holds it until it ends."""

    def __init__(self, path: str, *, durability: str = "full", busy_timeout_s: float = 5.0, disk: Any = None) -> None:
        self.native = core.Database(path, durability == "full", int(busy_timeout_s * 1e6), disk)
        self.lock = threading.RLock()

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self.lock:
            return self.native.execute(sql, parameters)[1]

    def changes(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        with self.lock:
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

    def close(self) -> None:
        with self.lock:
            self.native.close()


class LocalStore(LocalItems, LocalLetters):
    """Implements ItemStore, ItemLives, Queue, StateStore and HealingTable on a `LocalDatabase`."""

    atomic = True  # `transaction()` makes one commit of what is written inside

    def __init__(self, database: LocalDatabase, clock: Clock, pipeline: str = "") -> None:
        self.db = database
        self.clock = clock
        self.pipeline = pipeline
        self.last_delay_us = 0  # of the last delivery: the longest time from storage to arrival

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        with self.db.transaction() as tx:
            yield tx

    # --- items and outbox

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

    def publish(self, topic: str, key: str, body: Json) -> None:
        self.db.execute(
            "INSERT INTO outbox (topic, key, body, created_us) VALUES (?, ?, ?, ?)",
            (topic, key, dumps(body), self.clock.now_us()),
        )

    def add_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        now = self.clock.now_us()
        self.db.native.execute_many(
            "INSERT INTO dead_letters (stage, pipeline, source, kind, reason, raw_key, doc, digest, created_us)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (stage, pipeline, digest) DO UPDATE SET seen = seen + 1",
            [
                (x.stage, x.pipeline, x.source, x.kind, x.reason, x.raw_key, x.doc,
                 core.sha256_hex(x.doc.encode(errors="surrogatepass")), now)
                for x in letters
            ],
        )  # fmt: skip

    def dead_letters(self, limit: int = 1_000) -> list[Json]:
        names = ("id", "stage", "pipeline", "source", "kind", "reason", "doc", "raw_key", "seen")
        rows = self.db.execute(
            f"SELECT {', '.join(names)} FROM dead_letters WHERE seen > redriven ORDER BY id LIMIT ?",  # noqa: S608
            (limit,),
        )
        return [dict(zip(names, row, strict=True)) for row in rows]

    def redrive(self, group: str, limit: int = 10_000) -> int:
        """Send a consumer's dead letters to its queue again; how many. One commit: each goes once.

        The letters stay, out of sight, and count: what is buried again is there again, and its next redrive has
        another claim.
        """
        now = self.clock.now_us()
        with self.db.transaction() as tx:
            rows = tx.execute(
                "UPDATE dead_letters SET redriven = seen WHERE id IN (SELECT id FROM dead_letters"
                " WHERE stage = 'consume' AND pipeline = ? AND seen > redriven ORDER BY id LIMIT ?)"
                " RETURNING id, source, doc, seen",
                (group, limit),
            )
            for ident, topic, doc, seen in sorted(rows):
                tx.execute(
                    "INSERT INTO queue (topic, grp, key, body, visible_us, redrive) VALUES (?, ?, ?, ?, ?, ?)",
                    (topic, group, f"dead-letter-{ident}", doc, now, seen),
                )
        return len(rows)

    def relay_outbox(self, groups: Mapping[str, Sequence[str]], limit: int = 10_000) -> int:
        """Deliver unsent announcements to the queues of the groups of their topic; one commit, so exactly once."""
        now = self.clock.now_us()
        with self.db.transaction() as tx:
            rows = tx.execute(
                "SELECT id, topic, key, body, created_us FROM outbox WHERE sent_us IS NULL ORDER BY id LIMIT ?",
                (limit,),
            )
            self.last_delay_us = max((now - row[4] for row in rows), default=0)
            for row in rows:
                announcement = Announcement(*row[:4])
                self._enqueue(tx, groups.get(announcement.topic, ()), announcement, now)
                tx.execute("UPDATE outbox SET sent_us = ? WHERE id = ?", (now, announcement.row))
        return len(rows)

    def publish_outbox(
        self, publisher: Publisher, groups: Mapping[str, Sequence[str]] | None = None, limit: int = 1_000
    ) -> int:
        """Send unsent announcements elsewhere, in their order; how many arrived.

        A row is marked after it arrived: a crash in between sends it again.

        Args:
            publisher: takes the announcements.
            groups: topic -> consumer groups of this machine, which get them too; their commit is that of the mark. A
                topic that begins with "uploads." is ours alone and goes nowhere else.
            limit: at most so many.
        """
        found = self.db.execute(
            "SELECT id, topic, key, body, created_us FROM outbox WHERE sent_us IS NULL ORDER BY id LIMIT ?", (limit,)
        )
        rows = [Announcement(*row[:4]) for row in found]
        ours = {a.row for a in rows if a.topic.startswith("uploads.")}
        away = [a for a in rows if a.row not in ours]
        arrived = ours | set(publisher.publish(away) if away else ())
        core.fault_point("outbox.after_publish")
        now = self.clock.now_us()
        self.last_delay_us = max((now - row[4] for row in found if row[0] in arrived), default=0)
        marked = 0
        with self.db.transaction() as tx:
            for a in rows:
                if a.row not in arrived:
                    continue
                # Another relay may have sent it meanwhile: the local groups get it once.
                if tx.changes("UPDATE outbox SET sent_us = ? WHERE id = ? AND sent_us IS NULL", (now, a.row)):
                    marked += 1
                    self._enqueue(tx, (groups or {}).get(a.topic, ()), a, now)
        return marked

    @staticmethod
    def _enqueue(tx: Transaction, groups: Sequence[str], a: Announcement, now: int) -> None:
        for group in groups:
            tx.execute(
                "INSERT INTO queue (topic, grp, key, body, visible_us) VALUES (?, ?, ?, ?, ?)",
                (a.topic, group, a.key, a.body, now),
            )

    # --- queue

    def receive(self, topic: str, group: str, limit: int, lease_us: int) -> list[Message]:
        now = self.clock.now_us()
        rows = self.db.execute(
            "UPDATE queue SET visible_us = ?1, deliveries = deliveries + 1, owner = ?6"
            " WHERE id IN (SELECT id FROM queue WHERE topic = ?2 AND grp = ?3 AND visible_us <= ?4"
            " ORDER BY visible_us, id LIMIT ?5)"
            " RETURNING id, key, body, deliveries, redrive",
            (now + lease_us, topic, group, now, limit, core.process_identity()),
        )
        return [Message(i, topic, group, key, json.loads(body), n, r) for i, key, body, n, r in sorted(rows)]

    def reclaim(self, topic: str, group: str) -> int:
        """Make visible what workers hold that are proved dead on this host; how many messages."""
        now = self.clock.now_us()
        rows = self.db.execute(
            "SELECT DISTINCT owner FROM queue WHERE topic = ? AND grp = ? AND visible_us > ? AND owner IS NOT NULL",
            (topic, group, now),
        )
        return sum(
            self.db.changes(
                "UPDATE queue SET visible_us = ?1, owner = NULL WHERE topic = ?2 AND grp = ?3 AND owner = ?4"
                " AND visible_us > ?1",
                (now, topic, group, owner),
            )
            for (owner,) in rows
            if core.process_is_dead(owner)
        )

    def acknowledge(self, message: Message, transaction: Transaction | None = None) -> None:
        (transaction or self.db).execute("DELETE FROM queue WHERE id = ?", (message.id,))

    def defer(self, message: Message, until_us: int) -> None:
        self.db.execute("UPDATE queue SET visible_us = ?, owner = NULL WHERE id = ?", (until_us, message.id))

    def queue_depth(self, topic: str, group: str) -> tuple[int, int | None]:
        """Messages waiting for a group, and when the next one becomes visible (microseconds, or None)."""
        rows = self.db.execute(
            "SELECT count(*), min(visible_us) FROM queue WHERE topic = ? AND grp = ?", (topic, group)
        )
        return rows[0][0], rows[0][1]

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
