"""Dead letters and quarantined items of the embedded store, in one list that can be filtered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate.backends._publish_pages import OUTBOX
from headgate.ports import Json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headgate.ports import Clock

_DEAD_LETTER = (
    "id",
    "stage",
    "pipeline",
    "source",
    "kind",
    "reason",
    "raw_key",
    "doc",
    "seen",
    "redriven",
    "created_us",
)


class LocalDeadLetters:
    """A part of `LocalStore`."""

    db: Any
    clock: Clock
    pipeline: str

    def letters(self, *, replayed: bool = False, limit: int = 100_000) -> list[Json]:
        """Everything that was given up, the oldest first.

        Args:
            replayed: also the dead letters that were replayed or redriven since.
            limit: of each of the two places.

        Returns:
            place ("dead_letter" or "item"), id (of a dead letter; of an item its key), stage, pipeline, source, kind
            (the rule), reason, raw_key, doc, seen, created_us, age_s.
        """
        now = self.clock.now_us()
        also = "" if replayed else " WHERE seen > redriven"
        rows = self.db.execute(
            f"SELECT {', '.join(_DEAD_LETTER)} FROM dead_letters{also} ORDER BY id LIMIT ?",  # noqa: S608
            (limit,),
        )
        found = [{"place": "dead_letter", **dict(zip(_DEAD_LETTER, row, strict=True))} for row in rows]
        for status in ("quarantined", "failed"):
            rows = self.db.execute(
                "SELECT key, source, reason, raw_key, doc, ended_us, ingested_us FROM items"
                " WHERE pipeline = ? AND status = ? ORDER BY rowid LIMIT ?",
                (self.pipeline, status, limit),
            )
            found += [
                {
                    "place": "item", "id": key, "stage": "heal" if status == "quarantined" else "consume",
                    "pipeline": self.pipeline, "source": source, "kind": status, "reason": reason or "",
                    "raw_key": raw_key, "doc": doc, "seen": 1, "redriven": 0, "created_us": ended or ingested,
                }
                for key, source, reason, raw_key, doc, ended, ingested in rows
            ]  # fmt: skip
        found.sort(key=lambda dead_letter: dead_letter["created_us"])
        return [{**dead_letter, "age_s": max(0, now - dead_letter["created_us"]) / 1e6} for dead_letter in found]

    def letter_counts(self, pipeline: str) -> Json:
        """Refused records of a pipeline: seen (each time counts), unresolved, replayed; and a consumer's letters."""
        rows = self.db.execute(
            "SELECT stage, count(*), sum(seen), sum(seen > redriven) FROM dead_letters"
            " WHERE (stage = 'intake' AND pipeline = ?) OR stage = 'consume' GROUP BY stage",
            (pipeline,),
        )
        found = {stage: (count, seen, left) for stage, count, seen, left in rows}
        count, seen, left = found.get("intake", (0, 0, 0))
        messages, _, waiting = found.get("consume", (0, 0, 0))
        return {
            "seen": seen, "unresolved": left, "replayed": count - left, "of_consumers": messages,
            "of_consumers_unresolved": waiting,
        }  # fmt: skip

    def mark_replayed(self, ident: int, seen: int) -> bool:
        """A refused record has entered: its dead letter is out of sight, unless it is refused again."""
        return bool(
            self.db.changes(
                "UPDATE dead_letters SET redriven = seen WHERE id = ? AND seen = ? AND seen > redriven", (ident, seen)
            )
        )

    def redrive_letters(self, idents: Sequence[int]) -> int:
        """Send these dead letters of consumers to their queues again, and these announcements to the outbox, each once;
        how many. One commit."""
        now, sent = self.clock.now_us(), 0
        with self.db.transaction() as tx:
            for ident in idents:
                rows = tx.execute(
                    "UPDATE dead_letters SET redriven = seen WHERE id = ? AND stage IN ('consume', ?)"
                    " AND seen > redriven RETURNING stage, source, pipeline, doc, seen, key",
                    (ident, OUTBOX),
                )
                for stage, topic, group, doc, seen, key in rows:
                    if stage == OUTBOX:
                        tx.execute(
                            "INSERT INTO outbox (topic, key, body, created_us) VALUES (?, ?, ?, ?)",
                            (topic, key, doc, now),
                        )
                    else:
                        tx.execute(
                            "INSERT INTO queue (topic, grp, key, body, visible_us, redrive) VALUES (?, ?, ?, ?, ?, ?)",
                            (topic, group, key if key is not None else f"dead-letter-{ident}", doc, now, seen),
                        )
                    sent += 1
        return sent
