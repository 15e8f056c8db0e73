"""The lives of items on DynamoDB: their ends, and what the healing sweep needs to know and to do.

A page of a sweep costs one query of `by_status`, one consistent BatchGetItem, and one conditional write an item that is
announced again. An item's announcement is in the item itself until it was sent (`unsent`), so evidence costs nothing.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.backends._dynamodb_forms import assignments, decoded, encoded
from headgate.backends.dynamodb import until_processed
from headgate.backends.dynamodb_outbox import UNSENT_SHARD
from headgate.items import DONE, FAILED, PENDING, QUARANTINED
from headgate.ports import Json, StaleItem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from headgate.ports import Clock, Transaction

_BATCH_GET = 100
_OPEN = (PENDING, FAILED, QUARANTINED)
STATUS_KEYS = (DONE, *_OPEN)  # how items are found by status; a handler's own final word counts as done


class DynamoItems:
    """Implements ItemLives and HealingTable; `DynamoStore` is one."""

    clock: Clock
    pipeline: str
    _client: Any
    _table: str
    _threads: Any
    # Parts of `DynamoStore`.
    _item_key: Any
    _status_key: Any
    _unsent: Any
    _pages: Any
    _update: Any
    _by_status: Any
    _get_item: Any
    _call: Any

    # --- ends

    def item_status(self, key: str, tx: Transaction | None = None) -> str | None:
        item = self._get_item(key)
        return str(item["status"]) if item else None

    def end_item(
        self, key: str, status: str, reason: str = "", values: Mapping[str, Any] | None = None,
        tx: Transaction | None = None,
    ) -> bool:  # fmt: skip
        """See `headgate.ports.ItemLives`. An announcement of it that is not sent yet is taken back."""
        return bool(self._update(self._item_key(key), *self._ending_update(status, reason, values)))

    def ending_write(self, key: str, status: str, reason: str = "", values: Mapping[str, Any] | None = None) -> Json:
        """`end_item` as the Update of a `TransactWriteItems`, which fails where the item ended already."""
        expression, condition, names, given = self._ending_update(status, reason, values)
        return {
            "Update": {
                "TableName": self._table, "Key": encoded(self._item_key(key)), "UpdateExpression": expression,
                "ConditionExpression": condition, "ExpressionAttributeNames": names,
                "ExpressionAttributeValues": encoded(given),
            }
        }  # fmt: skip

    def _ending_update(
        self, status: str, reason: str, values: Mapping[str, Any] | None
    ) -> tuple[str, str, dict[str, str], Json]:
        """Expression, condition, names and values of the update that ends an open item."""
        sets, names, given = assignments(self._ending(status, reason, values))
        return (
            f"SET {sets} REMOVE #u, #h", "#s IN (:o0, :o1, :o2)",
            {**names, "#s": "status", "#u": "unsent", "#h": "unsent_shard"},
            {**{f":o{i}": word for i, word in enumerate(_OPEN)}, **given},
        )  # fmt: skip

    def _ending(self, status: str, reason: str, values: Mapping[str, Any] | None) -> Json:
        about = {"reason": reason} if reason else {}
        now = self.clock.now_us()
        place = self._status_key(status if status in (*STATUS_KEYS, "analyzed") else DONE)
        return {"status": status, "status_key": place, "ended_us": now, **about, **(values or {})}

    # --- healing

    def stale_pending(self, before_us: int, limit: int, after: tuple[int, str] | None) -> list[StaleItem]:
        due, key = after or (-1, "")
        found: list[StaleItem] = []
        for page in self._pages(PENDING, until=before_us, since=max(0, due)):
            found += [StaleItem(i["key"], i["due"], i["republish_attempts"]) for i in page if not i.get("sentiment")]
            found = sorted((s for s in found if (s.due_us, s.key) > (due, key)), key=lambda s: (s.due_us, s.key))
            # The index orders by time alone: a tie at the border may go on in the next page.
            if len(found) > limit and found[limit - 1].due_us < found[-1].due_us:
                break
        return found[:limit]

    def full_items(self, keys: Iterable[str], group: str = "") -> list[Json]:
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Json] = {}
        for item in self._fetch(wanted):
            if item["status"] == PENDING and not item.get("sentiment"):
                found[item["key"]] = {
                    "key": item["key"], "source": item["source"], "timestamp": item["timestamp"],
                    "doc": json.loads(item["doc"]), "status": item["status"], "due_us": item["due"],
                    "republish_attempts": item["republish_attempts"],
                    "held_up": "outbox" if "unsent" in item else "",
                }  # fmt: skip
        return [found[key] for key in wanted if key in found]

    def _fetch(self, keys: Sequence[str]) -> Iterator[Json]:
        for at in range(0, len(keys), _BATCH_GET):
            wanted = [encoded(self._item_key(key)) for key in keys[at : at + _BATCH_GET]]
            request = {self._table: {"Keys": wanted, "ConsistentRead": True}}
            for answer in until_processed(self._client.batch_get_item, request, "UnprocessedKeys"):
                yield from map(decoded, answer.get("Responses", {}).get(self._table, ()))

    def republish(self, key: str, attempts: int, before_us: int, topic: str, body: Json) -> bool:
        now = self.clock.now_us()
        return self._move(key, attempts, before_us, now, self._unsent(topic, key, body, now))

    def count_attempt(self, key: str, attempts: int, before_us: int) -> bool:
        return self._move(key, attempts, before_us, self.clock.now_us(), {})

    def _move(self, key: str, attempts: int, before_us: int, now: int, more: Json) -> bool:
        values = {
            "due": now, "last_republished_at": core.format_timestamp(now), "republish_attempts": attempts + 1, **more,
        }  # fmt: skip
        sets, names, given = assignments(values)
        return bool(
            self._update(
                self._item_key(key), f"SET {sets}",
                "#s = :pending AND #n = :attempts AND #due <= :before AND attribute_not_exists(#sent)",
                {**names, "#s": "status", "#n": "republish_attempts", "#due": "due", "#sent": "sentiment"},
                {":pending": PENDING, ":attempts": attempts, ":before": before_us, **given},
            )
        )  # fmt: skip

    def quarantine(self, key: str, attempts: int, reason: str = "") -> bool:
        sets, names, given = assignments(self._ending(QUARANTINED, reason, None))
        return bool(
            self._update(
                self._item_key(key), f"SET {sets}", "#s = :pending AND #n = :attempts",
                {**names, "#s": "status", "#n": "republish_attempts"},
                {":pending": PENDING, ":attempts": attempts, **given},
            )
        )  # fmt: skip

    def pending_places(self, before_us: int) -> dict[str, int]:
        """Where the pending items are: "outbox", "stuck" (due by `before_us`), or "moving"."""
        found = dict.fromkeys(("moving", "outbox", "stuck"), 0)
        for page in self._pages(PENDING):
            for item in page:
                place = "outbox" if "unsent" in item else "stuck" if item["due"] <= before_us else "moving"
                found[place] += 1
        return {place: n for place, n in found.items() if n}

    def letter_counts(self, pipeline: str) -> Json:
        """Refused records of a pipeline: seen (each time counts) and how many different ones are left."""
        letters = [x for x in self._by_status("DEAD", None) if x["stage"] == "intake" and x["pipeline"] == pipeline]
        return {
            "seen": sum(x["seen"] for x in letters),
            "unresolved": sum(x["seen"] > x.get("redriven", 0) for x in letters),
        }

    def unsent_before(self, before_us: int, limit: int) -> list[tuple[str, int]]:
        """(place, since when) of the announcements that wait to be sent, the oldest first."""
        request: Json = {
            "TableName": self._table, "IndexName": "by_unsent", "KeyConditionExpression": "#h = :h AND #u <= :until",
            "ExpressionAttributeNames": {"#h": "unsent_shard", "#u": "unsent"},
            "ExpressionAttributeValues": encoded({":h": UNSENT_SHARD, ":until": f"{before_us:020d}~"}),
        }  # fmt: skip
        found: list[tuple[str, int]] = []
        while len(found) < limit:
            answer = self._call(self._client.query, **request, Limit=limit - len(found))
            found += [(row["unsent"], int(row["unsent"][:20])) for row in map(decoded, answer["Items"])]
            if "LastEvaluatedKey" not in answer:
                break
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]
        return found

    def stuck_items(self, limit: int = 1_000) -> list[Json]:
        names = ("key", "source", "status", "reason", "ended_us", "republish_attempts")
        found: list[Json] = []
        for status in (FAILED, QUARANTINED):
            found += [
                {n: item.get(n) for n in names} for item in self._by_status(status, limit - len(found)) if "key" in item
            ]
        return found

    def release_items(self, keys: Sequence[str] | None = None) -> int:
        if keys is None:
            keys = [item["key"] for status in (FAILED, QUARANTINED) for item in self._by_status(status, None)]
        return sum(self._threads.map(self._release, keys))

    def _release(self, key: str) -> int:
        values = {"status": PENDING, "status_key": self._status_key(PENDING), "republish_attempts": 0, "due": 0}
        sets, names, given = assignments(values)
        return int(
            self._update(
                self._item_key(key), f"SET {sets} REMOVE #r, #e", "#s IN (:o0, :o1)",
                {**names, "#s": "status", "#r": "reason", "#e": "ended_us"},
                {":o0": FAILED, ":o1": QUARANTINED, **given},
            )
        )  # fmt: skip
