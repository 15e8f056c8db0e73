"""The outbox and the dead letters of a DynamoDB table (see `dynamodb_items`)."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.backends._dynamodb_forms import assignments, decoded, encoded, expiry
from headgate.backends._local_messages import dead_letter_digest, set_aside, storable
from headgate.backends._publish_pages import OUTBOX, publish_pages, report_refusals
from headgate.backends.dynamodb import _code, _translated
from headgate.identity import compact_json
from headgate.ports import Announcement, DeadLetter, Json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from concurrent.futures import ThreadPoolExecutor

    from headgate.ports import Clock, Metrics, Publisher, Refusal

UNSENT_SHARD = "0"  # the partition of the index of unsent announcements
EVENT_DAYS = 30
_WANTED = (
    "stage", "pipeline", "source", "kind", "reason", "doc", "raw_key", "seen", "key", "headers", "attempts",
    "message_id",
)  # fmt: skip


class DynamoOutbox:
    """The outbox and the dead letters of `ItemStore`."""

    _client: Any
    _table: str
    _threads: ThreadPoolExecutor
    clock: Clock
    pipeline: str
    last_delay_us: int
    metrics: Metrics | None

    # What the rest of the store gives.
    _call: Callable[..., Any]
    _update: Callable[..., int]
    _pages: Callable[..., Iterator[list[Json]]]
    _status_key: Callable[[str], str]

    # --- outbox

    def publish(self, topic: str, key: str, body: Json) -> None:
        """Announce something that belongs to no item."""
        self._call(self._client.put_item, TableName=self._table, Item=encoded(self._announcement(topic, key, body)))

    def publish_outbox(
        self, publisher: Publisher, groups: Mapping[str, Sequence[str]] | None = None, limit: int = 1_000
    ) -> int:
        """Send unsent announcements, oldest first; how many arrived. A crash before the mark sends one again.

        What the publisher says can never be sent becomes a dead letter of the stage "outbox", in one transaction with
        its mark. What does not arrive for now keeps its place before later announcements of its topic and key; other
        keys do not wait for it.

        Raises:
            ConfigError: the topic or queue does not exist, or may not be used. What arrived before is marked.
        """
        rows: dict[int, Json] = {}
        pages = self._unsent_pages(limit)
        self.last_delay_us = 0

        def read(_: int) -> list[Announcement]:
            found = next(pages, [])
            first = len(rows)
            rows.update(enumerate(found, first))
            return [
                Announcement(n, row["topic"], row["outbox_key"], row["announcement"], row["unsent"])
                for n, row in enumerate(found, first)
            ]

        def settle(page: Sequence[Announcement], refused: Mapping[int, Refusal], arrived: frozenset[int]) -> int:
            core.fault_point("outbox.after_publish")
            now = self.clock.now_us()
            delays = [now - int(rows[a.row]["unsent"][:20]) for a in page if a.row in arrived]
            self.last_delay_us = max([self.last_delay_us, *delays])
            sent = sum(self._threads.map(self._mark_sent, [rows[a.row] for a in page if a.row in arrived]))
            aside = [a for a in page if a.row in refused]
            done = self._threads.map(lambda a: self._set_aside(rows[a.row], a, refused[a.row]), aside)
            report_refusals((refused[a.row] for a, kept in zip(aside, done, strict=True) if kept), self.metrics)
            return sent

        return publish_pages(publisher, read, settle, limit)

    def unsent_count(self) -> int:
        """How many announcements wait in the outbox."""
        return sum(page["Count"] for page in self._unsent_answers(Select="COUNT"))

    def redrive_outbox(self, limit: int = 10_000) -> int:
        """Put announcements that were set aside back into the outbox, each once. Returns how many."""
        dead_letters = self._dead_letters(limit, stage=OUTBOX)
        return sum(self._threads.map(self._redrive, dead_letters))

    def _unsent_answers(self, **more: Any) -> Iterator[Any]:
        request: Json = {
            "TableName": self._table, "IndexName": "by_unsent", "KeyConditionExpression": "#h = :h",
            "ExpressionAttributeNames": {"#h": "unsent_shard"},
            "ExpressionAttributeValues": encoded({":h": UNSENT_SHARD}), **more,
        }  # fmt: skip
        while True:
            answer = self._call(self._client.query, **request)
            yield answer
            if "LastEvaluatedKey" not in answer:
                return
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def _unsent_pages(self, limit: int) -> Iterator[list[Json]]:
        for answer in self._unsent_answers(Limit=limit):
            if answer["Items"]:
                yield [decoded(item) for item in answer["Items"]]

    def _mark_sent(self, row: Json) -> int:
        # Announced again meanwhile: that announcement has another stamp, and stays.
        mark = self._sent_mark(row)
        return self._update(
            {"pk": row["pk"], "sk": row["sk"]}, mark["UpdateExpression"], mark["ConditionExpression"],
            mark["ExpressionAttributeNames"], {":seen": row["unsent"], ":now": self.clock.now_us()},
        )  # fmt: skip

    def _sent_mark(self, row: Json) -> Json:
        return {
            "TableName": self._table, "Key": encoded({"pk": row["pk"], "sk": row["sk"]}),
            "UpdateExpression": "REMOVE #u, #h SET #t = :now", "ConditionExpression": "#u = :seen",
            "ExpressionAttributeNames": {"#u": "unsent", "#h": "unsent_shard", "#t": "sent_us"},
            "ExpressionAttributeValues": encoded({":seen": row["unsent"], ":now": self.clock.now_us()}),
        }  # fmt: skip

    def _set_aside(self, row: Json, announcement: Announcement, refusal: Refusal) -> bool:
        """Write the dead letter and mark the row, in one transaction. Returns False if another relay has sent it
        meanwhile."""
        dead_letter = self._dead_letter_update(set_aside(self.pipeline, announcement, refusal))
        return self._transact([{"Update": self._sent_mark(row)}, {"Update": dead_letter}])

    def _redrive(self, dead_letter: Json) -> bool:
        names = {"#seen": "seen", "#redriven": "redriven"}
        hide = {
            "TableName": self._table, "Key": encoded({"pk": dead_letter["pk"], "sk": dead_letter["sk"]}),
            "UpdateExpression": "SET #redriven = :seen",
            "ConditionExpression": "#seen = :seen AND (attribute_not_exists(#redriven) OR #redriven < :seen)",
            "ExpressionAttributeNames": names, "ExpressionAttributeValues": encoded({":seen": dead_letter["seen"]}),
        }  # fmt: skip
        body = json.loads(dead_letter["doc"])
        again = self._announcement(dead_letter["source"], dead_letter.get("key", ""), body)
        return self._transact([{"Update": hide}, {"Put": {"TableName": self._table, "Item": encoded(again)}}])

    def _transact(self, writes: list[Json]) -> bool:
        """Whether all was written; False: a condition does not hold, and nothing was."""
        try:
            self._client.transact_write_items(TransactItems=writes)
        except Exception as error:
            reasons = getattr(error, "response", {}).get("CancellationReasons", ())
            if _code(error) == "TransactionCanceledException" and any(
                reason.get("Code") == "ConditionalCheckFailed" for reason in reasons
            ):
                return False
            raise _translated(error) from None
        return True

    def _announcement(self, topic: str, key: str, body: Json) -> Json:
        now = self.clock.now_us()
        return {
            "pk": f"OUTBOX#{uuid.uuid4().hex}", "sk": "META", **self._unsent(topic, key, body, now),
            "ttl_timestamp": expiry(now, EVENT_DAYS),
        }  # fmt: skip

    def _unsent(self, topic: str, key: str, body: Json, now: int) -> Json:
        return {
            "unsent_shard": UNSENT_SHARD, "unsent": f"{now:020d}#{uuid.uuid4().hex[:8]}", "topic": topic,
            "outbox_key": key, "announcement": compact_json(body),
        }  # fmt: skip

    # --- dead letters

    def add_dead_letters(self, dead_letters: Sequence[DeadLetter]) -> None:
        """Keep refused records; one that is there already is counted."""
        list(
            self._threads.map(
                lambda x: self._call(self._client.update_item, **self._dead_letter_update(x)), dead_letters
            )
        )

    def _dead_letter_update(self, x: DeadLetter) -> Json:
        values: Json = {
            "status_key": self._status_key("DEAD"), "due": self.clock.now_us(), "stage": x.stage,
            "pipeline": x.pipeline, "source": storable(x.source), "kind": x.kind, "reason": storable(x.reason),
            "raw_key": x.raw_key or "", "doc": storable(x.doc),
        }  # fmt: skip
        more = {
            "key": None if x.key is None else storable(x.key), "attempts": x.attempts,
            "headers": None if x.headers is None else storable(compact_json(dict(x.headers))),
            "message_id": None if x.message_id is None else storable(x.message_id),
        }  # fmt: skip
        values |= {name: value for name, value in more.items() if value is not None}
        sets, names, given = assignments(values, "if_not_exists({name}, {value})")
        return {
            "TableName": self._table,
            "Key": encoded({"pk": f"DEAD#{x.pipeline}#{dead_letter_digest(x)}", "sk": x.stage}),
            "UpdateExpression": f"SET {sets} ADD #seen :one", "ExpressionAttributeNames": {**names, "#seen": "seen"},
            "ExpressionAttributeValues": encoded({":one": 1, **given}),
        }  # fmt: skip

    def dead_letters(
        self, limit: int = 1_000, *, stage: str | None = None, pipeline: str | None = None, kind: str | None = None
    ) -> list[Json]:
        """See `ItemStore.dead_letters`."""
        return [_shown(x) for x in self._dead_letters(limit, stage=stage, pipeline=pipeline, kind=kind)]

    def dead_letter(self, ident: str) -> Json | None:
        """See `ItemStore.dead_letter`."""
        for page in self._pages("DEAD"):
            for dead_letter in page:
                if _ident(dead_letter) == ident:
                    return {
                        **_shown(dead_letter),
                        "redriven": dead_letter.get("redriven", 0),
                        "created_us": dead_letter["due"],
                    }
        return None

    def dead_letter_counts(self) -> list[Json]:
        """See `ItemStore.dead_letter_counts`."""
        found: dict[tuple[str, str, str], list[int]] = {}
        for dead_letter in self._dead_letters(None):
            counts = found.setdefault((dead_letter["stage"], dead_letter["pipeline"], dead_letter["kind"]), [0, 0])
            counts[0] += 1
            counts[1] += dead_letter["seen"]
        return [
            {"stage": stage, "pipeline": pipeline, "kind": kind, "letters": counts[0], "seen": counts[1]}
            for (stage, pipeline, kind), counts in sorted(found.items())
        ]

    def _dead_letters(self, limit: int | None, **wanted: str | None) -> list[Json]:
        """Dead letters that were not sent back, oldest first."""
        found: list[Json] = []
        for page in self._pages("DEAD"):
            found += [
                x for x in page
                if x["seen"] > x.get("redriven", 0) and all(v is None or x.get(k) == v for k, v in wanted.items())
            ]  # fmt: skip
            if limit is not None and len(found) >= limit:
                return found[:limit]
        return found


def _ident(dead_letter: Json) -> str:
    digest = dead_letter["pk"].rpartition("#")[2]
    return f"{dead_letter['stage']}-{digest[:16]}"


def _shown(dead_letter: Json) -> Json:
    shown: Json = {"id": _ident(dead_letter), **{name: dead_letter.get(name) for name in _WANTED}}
    if shown["headers"] is not None:
        shown["headers"] = json.loads(shown["headers"])
    return shown
