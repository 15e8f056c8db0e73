"""Stuck means: pending, without a result, and untouched for a threshold since it was ingested or last sent again."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import HeadgateError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headgate.ports import HealingTable, Json

log = logging.getLogger("headgate.healing")

# spec 000, section 4.
SELF_HEALING_THRESHOLD_HOURS = 1.0
SELF_HEALING_BATCH_SIZE = 100
SELF_HEALING_MAX_ATTEMPTS = 5  # decision 3
_PAGE = 100


@dataclass
class SelfHealingResult:
    """What one sweep did. items_found == items_republished + quarantined + lost_races."""

    items_found: int = 0
    items_republished: int = 0
    quarantined: int = 0
    lost_races: int = 0
    more_remaining: bool = False
    errors: list[str] = field(default_factory=list)
    execution_time_ms: float = 0.0

    def to_dict(self) -> Json:
        return asdict(self)


def query_stale_pending_items(
    table: HealingTable,
    threshold_hours: float = SELF_HEALING_THRESHOLD_HOURS,
    limit: int = SELF_HEALING_BATCH_SIZE,
    *,
    clock: Any = None,
) -> list[str]:
    """Keys of stale pending items, the longest waiting first; items in cooldown are not among them.

    Age counts from ingestion or the last republish, never from publication (decision 1).
    """
    return _stale_keys(table, _due_before(clock or core.SystemClock(), threshold_hours), limit)


def _due_before(clock: Any, threshold_hours: float) -> int:
    return int(clock.now_us()) - int(threshold_hours * 3600e6)


def _stale_keys(table: HealingTable, before: int, limit: int) -> list[str]:
    keys: list[str] = []
    after: tuple[int, str] | None = None
    while len(keys) < limit:
        page = table.stale_pending(before, min(_PAGE, limit - len(keys)), after)
        if not page:
            break
        keys.extend(item.key for item in page)
        after = (page[-1].due_us, page[-1].key)
    return keys


def get_full_items(table: HealingTable, keys: Sequence[str]) -> list[Json]:
    """The items behind the keys, without those that were finished in between."""
    return table.full_items(keys)


def republish_items_to_sns(
    table: HealingTable,
    topic: str,
    items: Sequence[Json],
    model_version: str,
    *,
    announce: Callable[[Json], Json],
    before_us: int,
) -> int:
    """Announce items again; how many were.

    The conditional update (still pending, due by `before_us`, same attempt count) and the announcement are one commit:
    two sweepers never send one item twice in a window. On the embedded backend the outbox is the publisher.
    """
    sent = 0
    for item in items:
        body = {**announce(item), "model_version": model_version, "republished": True}
        sent += table.republish(item["key"], item["republish_attempts"], before_us, topic, body)
    return sent


def run_self_healing_check(
    table: HealingTable,
    topic: str,
    model_version: str,
    *,
    announce: Callable[[Json], Json],
    threshold_hours: float = SELF_HEALING_THRESHOLD_HOURS,
    batch_size: int = SELF_HEALING_BATCH_SIZE,
    max_attempts: int = SELF_HEALING_MAX_ATTEMPTS,
    clock: Any = None,
) -> SelfHealingResult:
    """One sweep. Never raises: what goes wrong is in `errors`, and the caller's own outcome stays.

    Args:
        table: the items (`headgate.ports.HealingTable`).
        topic: where announcements go.
        model_version: passed on in each announcement.
        announce: item (as `HealingTable.full_items` gives it) -> body.
        threshold_hours: how long an item may be pending; also the cooldown between two announcements.
        batch_size: at most this many announcements per sweep.
        max_attempts: after so many the item is quarantined.
        clock: injected in tests.
    """
    clock = clock or core.SystemClock()
    result = SelfHealingResult()
    started = clock.mono_us()
    try:
        before_us = _due_before(clock, threshold_hours)  # one moment for the query and for every update
        # One more than may be sent tells whether more remain; quarantining does not use up the batch.
        keys = _stale_keys(table, before_us, batch_size + 1)
        result.more_remaining = len(keys) > batch_size
        items = get_full_items(table, keys[:batch_size])
        result.items_found = len(items)
        for item in items:
            core.fault_point("healing.before_item")
            try:
                if item["republish_attempts"] >= max_attempts:
                    moved = table.quarantine(item["key"], item["republish_attempts"])
                    result.quarantined += moved
                else:
                    moved = bool(
                        republish_items_to_sns(
                            table, topic, [item], model_version, announce=announce, before_us=before_us
                        )
                    )
                    result.items_republished += moved
                result.lost_races += not moved
            except HeadgateError as error:
                result.errors.append(error.kind.value)
    except HeadgateError as error:
        result.errors.append(error.kind.value)
    result.execution_time_ms = (clock.mono_us() - started) / 1000
    log.info(
        "self-healing check",
        extra={
            "items_found": result.items_found,
            "items_republished": result.items_republished,
            "quarantined": result.quarantined,
            "threshold_hours": threshold_hours,
            "execution_time_ms": result.execution_time_ms,
        },
    )
    return result
