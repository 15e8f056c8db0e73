"""Messages in a store's SQLite file: the outbox, the queues of the consumer groups, the dead letters."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.backends._publish_pages import OUTBOX, publish_pages, report_refusals
from headgate.errors import InvalidInputError, Kind
from headgate.identity import compact_json
from headgate.ports import Announcement, DeadLetter, Json, Message

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headgate.backends.local import LocalDatabase
    from headgate.ports import Clock, Metrics, Publisher, Refusal, Transaction

_OURS = "uploads."  # topics that begin so have their readers on this machine, and nowhere else
_DEAD_LETTER = (
    "id", "stage", "pipeline", "source", "kind", "reason", "doc", "raw_key", "seen", "key", "headers", "attempts",
    "message_id",
)  # fmt: skip


class LocalMessages:
    """Implements `Queue`, and the outbox and dead letters of `ItemStore`."""

    db: LocalDatabase
    clock: Clock
    pipeline: str
    last_delay_us: int
    metrics: Metrics | None = None

    # --- outbox

    def publish(self, topic: str, key: str, body: Json) -> None:
        """Announce something; inside `transaction()` together with what else is written there.

        Raises:
            InvalidInputError: topic, key or body hold a lone surrogate, which no file and no transport can keep.
        """
        row = (topic, key, compact_json(body))
        for name, text in zip(("topic", "key", "body"), row, strict=True):
            _check_unicode(name, text)
        self.db.execute(
            "INSERT INTO outbox (topic, key, body, created_us) VALUES (?, ?, ?, ?)", (*row, self.clock.now_us())
        )

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

        A row is marked after it arrived: a crash in between sends it again. What the publisher says can never be sent
        becomes a dead letter of the stage "outbox", in one commit with its mark. What does not arrive for now keeps
        its place before later announcements of its topic and key; other keys do not wait for it.

        Args:
            publisher: takes the announcements.
            groups: topic -> consumer groups of this machine, which get them too; their commit is that of the mark. A
                topic that begins with "uploads." is ours alone and goes nowhere else.
            limit: at most so many.

        Raises:
            ConfigError: the topic or queue does not exist, or may not be used. What arrived before is marked.
        """
        after = 0
        created: dict[int, int] = {}
        self.last_delay_us = 0

        def read(count: int) -> list[Announcement]:
            nonlocal after
            rows = self.db.execute(
                "SELECT id, topic, key, body, created_us FROM outbox WHERE sent_us IS NULL AND id > ?"
                " ORDER BY id LIMIT ?",
                (after, count),
            )
            created.clear()
            created.update((row[0], row[4]) for row in rows)
            after = rows[-1][0] if rows else after
            # Row and time together: another file's announcement of the same row has another id.
            return [Announcement(n, topic, key, body, f"{n}-{us}") for n, topic, key, body, us in rows]

        def settle(page: Sequence[Announcement], refused: Mapping[int, Refusal], arrived: frozenset[int]) -> int:
            core.fault_point("outbox.after_publish")
            now = self.clock.now_us()
            delays = [now - created[a.row] for a in page if a.row in arrived]
            self.last_delay_us = max([self.last_delay_us, *delays])
            return self._mark(page, refused, arrived, groups or {}, now)

        return publish_pages(publisher, read, settle, limit, lambda a: a.topic.startswith(_OURS))

    def unsent_count(self) -> int:
        """How many announcements wait in the outbox."""
        return int(self.db.execute("SELECT count(*) FROM outbox WHERE sent_us IS NULL")[0][0])

    def redrive_outbox(self, limit: int = 10_000) -> int:
        """Put announcements that were set aside back into the outbox. Returns how many. One commit: each goes once."""
        now = self.clock.now_us()
        with self.db.transaction() as tx:
            rows = tx.execute(
                "UPDATE dead_letters SET redriven = seen WHERE id IN (SELECT id FROM dead_letters"
                " WHERE stage = ? AND seen > redriven ORDER BY id LIMIT ?) RETURNING id, source, key, doc",
                (OUTBOX, limit),
            )
            for _, topic, key, doc in sorted(rows):
                tx.execute(
                    "INSERT INTO outbox (topic, key, body, created_us) VALUES (?, ?, ?, ?)", (topic, key, doc, now)
                )
        return len(rows)

    def _mark(
        self, page: Sequence[Announcement], refused: Mapping[int, Refusal], arrived: frozenset[int],
        groups: Mapping[str, Sequence[str]], now: int,
    ) -> int:  # fmt: skip
        marked = 0
        aside: list[tuple[Announcement, Refusal]] = []
        with self.db.transaction() as tx:
            for a in page:
                if a.row not in arrived and a.row not in refused:
                    continue
                # Another relay may have sent it meanwhile: the local groups get it once.
                if not tx.changes("UPDATE outbox SET sent_us = ? WHERE id = ? AND sent_us IS NULL", (now, a.row)):
                    continue
                self._enqueue(tx, groups.get(a.topic, ()), a, now)
                if a.row in arrived:
                    marked += 1
                else:
                    aside.append((a, refused[a.row]))
            if aside:
                self.add_dead_letters([set_aside(self.pipeline, a, refusal) for a, refusal in aside])
                core.fault_point("outbox.before_set_aside")
        report_refusals((refusal for _, refusal in aside), self.metrics)
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
        """Up to `limit` messages that nobody holds; nobody else receives them for `lease_us` microseconds."""
        now = self.clock.now_us()
        rows = self.db.execute(
            "UPDATE queue SET visible_us = ?1, deliveries = deliveries + 1, owner = ?6"
            " WHERE id IN (SELECT id FROM queue WHERE topic = ?2 AND grp = ?3 AND visible_us <= ?4"
            " ORDER BY visible_us, id LIMIT ?5)"
            " RETURNING id, key, body, deliveries, redrive",
            (now + lease_us, topic, group, now, limit, core.process_identity()),
        )
        return [Message(i, topic, group, key, _object(body), n, r, body) for i, key, body, n, r in sorted(rows)]

    def receive_texts(self, topic: str, group: str, limit: int, lease_us: int) -> list[tuple[int, str, str, int, int]]:
        """As `receive`, with the bodies as the text that was sent: (id, key, body, deliveries, redrive)."""
        found = self.receive(topic, group, limit, lease_us)
        return [(m.id, m.key, m.text, m.deliveries, m.redrive) for m in found]

    def send_text(self, topic: str, group: str, key: str, body: str) -> None:
        """Put a message of any text into a group's queue, as `receive_texts` brings it."""
        self.db.execute(
            "INSERT INTO queue (topic, grp, key, body, visible_us) VALUES (?, ?, ?, ?, ?)",
            (topic, group, key, body, self.clock.now_us()),
        )

    def extend(self, messages: Sequence[Message], lease_us: int) -> list[Message]:
        """Keep received messages invisible for `lease_us` microseconds from now. Returns those that are still ours.

        A message that another worker has received meanwhile, or that was acknowledged or deferred, is left alone.
        """
        until = self.clock.now_us() + lease_us
        with self.db.transaction() as tx:
            return [
                m
                for m in messages
                if tx.changes(
                    "UPDATE queue SET visible_us = ? WHERE id = ? AND deliveries = ? AND owner = ?",
                    (until, m.id, m.deliveries, core.process_identity()),
                )
            ]

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
        """Remove a message."""
        (transaction or self.db).execute("DELETE FROM queue WHERE id = ?", (message.id,))

    def defer(self, message: Message, until_us: int) -> None:
        """Give a message back, for any worker from `until_us` on; one that another worker has by now stays with it."""
        self.db.execute(
            "UPDATE queue SET visible_us = ?, owner = NULL WHERE id = ? AND deliveries = ?",
            (until_us, message.id, message.deliveries),
        )

    def queue_depth(self, topic: str, group: str) -> tuple[int, int | None]:
        """Messages waiting for a group, and when the next one becomes visible (microseconds, or None)."""
        rows = self.db.execute(
            "SELECT count(*), min(visible_us) FROM queue WHERE topic = ? AND grp = ?", (topic, group)
        )
        return rows[0][0], rows[0][1]

    # --- dead letters

    def add_dead_letters(self, dead_letters: Sequence[DeadLetter]) -> None:
        """Keep refused records; one that is there already is counted."""
        now = self.clock.now_us()
        with self.db.lock:
            self.db.native.execute_many(
                "INSERT INTO dead_letters (stage, pipeline, source, kind, reason, raw_key, doc, digest, created_us,"
                " key, headers, attempts, message_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (stage, pipeline, digest) DO UPDATE SET seen = seen + 1, reason = excluded.reason,"
                " kind = excluded.kind, attempts = excluded.attempts, message_id = excluded.message_id",
                [_dead_letter_row(dead_letter, now) for dead_letter in dead_letters],
            )

    def dead_letters(
        self, limit: int = 1_000, *, stage: str | None = None, pipeline: str | None = None, kind: str | None = None
    ) -> list[Json]:
        """See `ItemStore.dead_letters`."""
        rows = self.db.execute(
            f"SELECT {', '.join(_DEAD_LETTER)} FROM dead_letters WHERE seen > redriven AND (?2 IS NULL OR stage = ?2)"  # noqa: S608
            " AND (?3 IS NULL OR pipeline = ?3) AND (?4 IS NULL OR kind = ?4) ORDER BY id LIMIT ?1",
            (limit, stage, pipeline, kind),
        )
        return [_dead_letter(row) for row in rows]

    def dead_letter(self, ident: str) -> Json | None:
        """See `ItemStore.dead_letter`; an id is a number."""
        if not ident.isdecimal() or len(ident) > 18:
            return None
        rows = self.db.execute(
            f"SELECT {', '.join((*_DEAD_LETTER, 'redriven', 'created_us'))} FROM dead_letters WHERE id = ?",  # noqa: S608
            (int(ident),),
        )
        return {**_dead_letter(rows[0]), "redriven": rows[0][-2], "created_us": rows[0][-1]} if rows else None

    def dead_letter_counts(self) -> list[Json]:
        """See `ItemStore.dead_letter_counts`."""
        rows = self.db.execute(
            "SELECT stage, pipeline, kind, count(*), sum(seen) FROM dead_letters WHERE seen > redriven"
            " GROUP BY stage, pipeline, kind ORDER BY stage, pipeline, kind"
        )
        return [dict(zip(("stage", "pipeline", "kind", "letters", "seen"), row, strict=True)) for row in rows]

    def redrive(self, group: str, limit: int = 10_000) -> int:
        """Send a consumer's dead letters to its queue again. Returns how many. One commit: each goes once.

        The dead letters stay, out of sight, and count: what fails again is there again, and its next redrive has
        another claim.
        """
        now = self.clock.now_us()
        with self.db.transaction() as tx:
            rows = tx.execute(
                "UPDATE dead_letters SET redriven = seen WHERE id IN (SELECT id FROM dead_letters"
                " WHERE stage = 'consume' AND pipeline = ? AND seen > redriven ORDER BY id LIMIT ?)"
                " RETURNING id, source, doc, seen, key",
                (group, limit),
            )
            for ident, topic, doc, seen, key in sorted(rows, key=lambda row: row[0]):
                tx.execute(
                    "INSERT INTO queue (topic, grp, key, body, visible_us, redrive) VALUES (?, ?, ?, ?, ?, ?)",
                    (topic, group, key if key is not None else f"dead-letter-{ident}", doc, now, seen),
                )
        return len(rows)


def set_aside(pipeline: str, announcement: Announcement, refusal: Refusal) -> DeadLetter:
    """The dead letter of an announcement that can never be sent."""
    return DeadLetter(
        OUTBOX, pipeline, announcement.topic, refusal.kind, refusal.reason, announcement.body, key=announcement.key,
        attempts=1, message_id=announcement.id, identity=f"{announcement.topic}\0{announcement.key}\0{announcement.id}",
    )  # fmt: skip


def dead_letter_digest(dead_letter: DeadLetter) -> str:
    """What a store tells dead letters of one stage and pipeline apart by."""
    return str(core.sha256_hex((dead_letter.identity or dead_letter.doc).encode(errors="surrogatepass")))


def storable(text: str) -> str:
    """The text with lone surrogates as their escapes, which are those of JSON; no database can keep them."""
    return text.encode("utf-8", "backslashreplace").decode()


def _dead_letter_row(x: DeadLetter, now: int) -> tuple[Any, ...]:
    headers = None if x.headers is None else compact_json(dict(x.headers))
    texts = [None if text is None else storable(text) for text in (x.key, headers, x.message_id)]
    return (
        x.stage, x.pipeline, storable(x.source), x.kind, storable(x.reason), x.raw_key, storable(x.doc),
        dead_letter_digest(x), now, texts[0], texts[1], x.attempts, texts[2],
    )  # fmt: skip


def _dead_letter(row: Sequence[Any]) -> Json:
    dead_letter: Json = dict(zip(_DEAD_LETTER, row, strict=False))
    dead_letter["headers"] = None if dead_letter["headers"] is None else json.loads(dead_letter["headers"])
    return dead_letter


def _check_unicode(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        message = f"publish: the {name} holds a lone surrogate; expected text that UTF-8 can write"
        raise InvalidInputError(message, Kind.INVALID_UNICODE) from None


def _object(text: str) -> Json:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
