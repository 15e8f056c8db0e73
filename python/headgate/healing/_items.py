"""Pending items of headgate's own stores: finds them, looks for evidence that they are on their way, announces them
again."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import InvalidInputError
from headgate.healing._sweeper import MOVED, After, Stuck
from headgate.items import mark_announcement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from headgate.ports import Clock, HealingTable, Json


class ItemKind:
    """Items that are pending for longer than the threshold since they were ingested or last announced.

    Args:
        table: the items, a `HealingTable`.
        topic: where announcements go.
        announce: item (as `HealingTable.full_items` gives it) -> body.
        clock: of the marks.
        pipeline: the items' pipeline, for the mark.
        model_version: passed on in each announcement, unless empty.
        group: the consumer group that finishes them; empty: any group's message is evidence.
        evidence: more of it, for example claims with a running lease: the announcements by key -> key -> what holds
            the item up.
    """

    name = "item"

    def __init__(
        self, table: Any, topic: str, announce: Callable[[Json], Json], clock: Clock, *, pipeline: str = "",
        model_version: str = "", group: str = "",
        evidence: Callable[[Mapping[str, Json]], Mapping[str, str]] | None = None,
    ) -> None:  # fmt: skip
        self._table: HealingTable = table
        self._store: Any = table
        self._topic = topic
        self._announce = announce
        self._clock = clock
        self._pipeline = pipeline or topic.removesuffix(".items")
        self._model_version = model_version
        self._group = group
        self._evidence = evidence
        self._bodies: dict[str, Json | Exception] = {}  # item key -> announcement (or its error), for the current page

    def find(self, before_us: int, limit: int, after: After | None) -> list[Stuck]:
        stale = self._table.stale_pending(before_us, limit, after)
        items = {item["key"]: item for item in self._table.full_items([s.key for s in stale], self._group)}
        claimed = self._claimed(list(items.values()))
        found = []
        for s in stale:
            item = items.get(s.key)
            if item is None:
                # Finished meanwhile. It stands for its place in the order, so that the next page begins behind it.
                found.append(Stuck(s.key, s.due_us, s.attempts, MOVED))
                continue
            held_up = item.get("held_up") or claimed.get(s.key, "")
            found.append(Stuck(s.key, s.due_us, item["republish_attempts"], held_up, item))
        return found

    def heal(self, stuck: Stuck, before_us: int) -> bool:
        body = self._bodies.pop(stuck.key, None)
        if isinstance(body, Exception):
            raise body
        if body is None:
            body = self.body(stuck.data, stuck.attempts + 1)
        return self._table.republish(stuck.key, stuck.attempts, before_us, self._topic, body)

    @contextmanager
    def together(self, page: Sequence[Stuck]) -> Iterator[None]:
        """A page's announcements in one commit, on stores that have such; the pipeline makes the bodies before it."""
        if not getattr(self._store, "atomic", False):
            yield
            return
        for stuck in page:
            try:
                self._bodies[stuck.key] = self.body(stuck.data, stuck.attempts + 1)
            except Exception as error:
                self._bodies[stuck.key] = error  # raised when this item is healed, so that the others go on
        try:
            with self._store.transaction():
                yield
        finally:
            self._bodies.clear()

    def count_attempt(self, stuck: Stuck, before_us: int) -> bool:
        return self._table.count_attempt(stuck.key, stuck.attempts, before_us)

    def quarantine(self, stuck: Stuck, reason: str) -> bool:
        return self._table.quarantine(stuck.key, stuck.attempts, reason)

    def body(self, item: Json, attempt: int) -> Json:
        """The announcement of an item, marked as sent again; the marks are part of no identity."""
        announced: object = self._announce(item)
        if not isinstance(announced, dict):
            message = f"announce gave a {type(announced).__name__}; expected a JSON object"
            raise InvalidInputError(message)
        more = {"model_version": self._model_version} if self._model_version else {}
        at = core.format_timestamp(self._clock.now_us())
        body = {**announced, **more, "republished": True}
        return mark_announcement(body, item["key"], self._pipeline, attempt, at)

    def _claimed(self, items: Sequence[Json]) -> Mapping[str, str]:
        if self._evidence is None:
            return {}
        bodies: dict[str, Json] = {}
        for item in items:
            try:
                bodies[item["key"]] = self.body(item, item["republish_attempts"] + 1)
            except Exception:  # noqa: S112 - healing it will report it, and count it
                continue
        return self._evidence(bodies)
