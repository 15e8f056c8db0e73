"""The sweep of a user's own DynamoDB table, with keys (source_id, timestamp), and SNS topic."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import HeadgateError, InvalidInputError, Kind
from headgate.healing._result import subsegment
from headgate.healing._sns import MAX_BATCH_BYTES, Published, analysis_message, publish
from headgate.healing._sweeper import error_kind
from headgate.healing._table import ItemTable, instant_us, moved_us

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headgate.healing._result import SelfHealingResult
    from headgate.healing._sweeper import Rule
    from headgate.healing._table import ItemKey
    from headgate.ports import Json

log = logging.getLogger("headgate.healing")
_PAGE = 100
_NAMES = {"#s": "status", "#sent": "sentiment", "#n": "republish_attempts", "#last": "last_republished_at"}
_STILL = "#s = :pending AND attribute_not_exists(#sent)"


def find_stale(
    table: ItemTable, before_us: int, now_us: int, limit: int, end_us: int | None = None, clock: Any = None
) -> tuple[list[Json], list[Json], bool]:
    """Stale items; those of them whose time cannot be read; and whether more remain.

    The index is read in the order of publication. An item that was published within the threshold cannot have been
    ingested before it, so it is passed over without being fetched; one that is dated in the future is fetched. Items
    that the notifier refused come last, so that they keep nobody from a turn.
    """
    found: list[Json] = []
    refused: list[Json] = []
    unread: list[Json] = []
    page: list[ItemKey] = []

    def judge() -> None:
        for item in table.fetch(page):
            if item.get("status") != "pending" or "sentiment" in item:
                continue
            try:
                is_stale = moved_us(item, table.names[1]) <= before_us
            except InvalidInputError:
                unread.append(item)
                continue
            if is_stale:
                (refused if item.get("publish_failed_at") else found).append(item)
        page.clear()

    for key in table.pending_keys():
        published_us = instant_us(key[1])
        if published_us is not None and before_us < published_us <= now_us:
            continue
        page.append(key)
        if len(page) == _PAGE:
            judge()
            if len(found) > limit or (end_us is not None and clock.mono_us() >= end_us):
                break
    judge()
    every = [*found, *refused]
    chosen = sorted(every[:limit], key=lambda item: (instant_us(item[table.names[1]]) or 0, str(item[table.names[0]])))
    return chosen, unread, len(every) > limit


def publish_again(
    client: Any, topic_arn: str, items: Sequence[Json], model_version: str, names: tuple[str, str]
) -> Published:
    """Publish items; numbers in the answer are those of `items`."""
    entries: list[Json] = []
    places: list[int] = []
    rejected: dict[int, str] = {}
    for number, item in enumerate(items):
        try:
            entries.append(analysis_message(item, names, model_version))
            places.append(number)
        except HeadgateError as error:
            rejected[number] = error.kind.value
            log.warning("entry not published", extra={"entry_id": str(number), "error": error.kind.value})
    sent = publish(client, topic_arn, entries)
    return Published(
        [places[n] for n in sent.accepted],
        {places[n]: code for n, code in sent.refused.items()},
        {**rejected, **{places[n]: code for n, code in sent.rejected.items()}},
        {places[n]: code for n, code in sent.unknown.items()},
        sent.is_down,
    )


def sweep_table(
    table: ItemTable, client: Any, topic_arn: str, model_version: str, rule: Rule, clock: Any,
    budget_s: float | None, result: SelfHealingResult,
) -> None:  # fmt: skip
    """One sweep; what it did is added to the result."""
    now_us = int(clock.now_us())
    end_us = None if budget_s is None else clock.mono_us() + int(budget_s * 1e6)
    before_us = now_us - int(rule.threshold_s * 1e6)
    with subsegment("query_stale_pending_items"):
        items, unread, result.more_remaining = find_stale(table, before_us, now_us, rule.batch_size, end_us, clock)
    result.items_found = len(items) + len(unread)
    for item in unread:
        _give_up(table, item, rule, now_us, Kind.INVALID_RECORD.value, result)
    moved: list[Json] = []
    for item in items:
        if end_us is not None and clock.mono_us() >= end_us:
            result.more_remaining = True
            result.items_found -= 1
            continue
        try:
            core.fault_point("healing.before_item")
            _begin(table, item, rule, now_us, model_version, moved, result)
        except Exception as error:
            result.failed += 1
            result.add_error(f"{_short(table, item)}: {error_kind(error)}")
            log.warning("not healed", extra={"kind": "item", "error": error_kind(error), "item": _short(table, item)})
    if not moved:
        return
    core.fault_point("healing.before_publish")
    with subsegment("republish_items_to_sns"):
        published = publish_again(client, topic_arn, moved, model_version, table.names)
    result.items_republished = len(published.accepted)
    for number, code in {**published.refused, **published.rejected, **published.unknown}.items():
        result.failed += 1
        result.add_error(f"{_short(table, moved[number])}: {code}")
    core.fault_point("healing.after_publish")
    for number in published.refused:
        _take_back(table, moved[number], now_us, result, was_sent=False)
    for number in published.unknown:
        _take_back(table, moved[number], now_us, result, was_sent=True)


def _begin(
    table: ItemTable, item: Json, rule: Rule, now_us: int, model_version: str, moved: list[Json],
    result: SelfHealingResult,
) -> None:  # fmt: skip
    """The conditional update that comes before an item is published, or its quarantine."""
    attempts = _attempts(item)
    if rule.max_attempts and attempts >= rule.max_attempts:
        _quarantine(table, item, now_us, "attempts_exhausted", result)
        return
    try:
        analysis_message(item, table.names, model_version)
    except HeadgateError as error:
        if error.kind is Kind.MESSAGE_TOO_LARGE:
            # It would be refused every time.
            result.add_error(f"{_short(table, item)}: {error.kind.value} (more than {MAX_BATCH_BYTES} bytes)")
            _quarantine(table, item, now_us, error.kind.value, result)
            return
        _give_up(table, item, rule, now_us, error.kind.value, result)
        return
    if _move(table, item, now_us):
        moved.append(item)
    else:
        result.lost_races += 1


def _move(table: ItemTable, item: Json, now_us: int) -> bool:
    """Count an attempt and begin the cooldown, if the item is as it was read: two sweeps never send it both."""
    attempts, last = item.get("republish_attempts"), item.get("last_republished_at")
    values: Json = {":pending": "pending", ":now": core.format_timestamp(now_us), ":next": _attempts(item) + 1}
    same = ["attribute_not_exists(#n)" if attempts is None else "#n = :n",
            "attribute_not_exists(#last)" if last is None else "#last = :last"]  # fmt: skip
    if attempts is not None:
        values[":n"] = attempts
    if last is not None:
        values[":last"] = last
    return table.update(
        table.key_of(item), "SET #last = :now, #n = :next REMOVE #f", f"{_STILL} AND {' AND '.join(same)}",
        {**_NAMES, "#f": "publish_failed_at"}, values,
    )  # fmt: skip


def _take_back(table: ItemTable, item: Json, now_us: int, result: SelfHealingResult, *, was_sent: bool) -> None:
    """The notifier did not take it: that is no attempt of the item's.

    One that may have arrived all the same keeps its cooldown; the other one is due again in the next sweep, behind
    those that were not refused.
    """
    stamp = core.format_timestamp(now_us)
    before, last = item.get("republish_attempts"), item.get("last_republished_at")
    sets, removes = [], []
    values: Json = {":pending": "pending", ":now": stamp, ":next": _attempts(item) + 1}
    if before is None:
        removes.append("#n")
    else:
        sets.append("#n = :before")
        values[":before"] = before
    names = dict(_NAMES)
    if not was_sent:
        names["#f"] = "publish_failed_at"
        sets.append("#f = :now")
        if last is None:
            removes.append("#last")
        else:
            sets.append("#last = :before_last")
            values[":before_last"] = last
    expression = " ".join(f"{word} {', '.join(parts)}" for word, parts in (("SET", sets), ("REMOVE", removes)) if parts)
    try:
        table.update(table.key_of(item), expression, f"{_STILL} AND #last = :now AND #n = :next", names, values)
    except HeadgateError as error:
        # It stays counted as an attempt, and waits a cooldown.
        result.add_error(f"{_short(table, item)}: {error.kind.value}")


def _give_up(table: ItemTable, item: Json, rule: Rule, now_us: int, kind: str, result: SelfHealingResult) -> None:
    """An item that cannot be announced: its attempt is used up all the same."""
    result.add_error(f"{_short(table, item)}: {kind}")
    if rule.max_attempts and _attempts(item) >= rule.max_attempts:
        _quarantine(table, item, now_us, kind, result)
        return
    result.failed += 1
    _move(table, item, now_us)


def _quarantine(table: ItemTable, item: Json, now_us: int, reason: str, result: SelfHealingResult) -> None:
    attempts = item.get("republish_attempts")
    same = "attribute_not_exists(#n)" if attempts is None else "#n = :n"
    done = table.update(
        table.key_of(item), "SET #s = :q, #why = :why, #at = :at", f"{_STILL} AND {same}",
        {**{k: _NAMES[k] for k in ("#s", "#sent", "#n")}, "#why": "quarantine_reason", "#at": "quarantined_at"},
        {
            ":q": "quarantined", ":pending": "pending", ":why": reason, ":at": core.format_timestamp(now_us),
            **({} if attempts is None else {":n": attempts}),
        },
    )  # fmt: skip
    result.quarantined += done
    result.lost_races += not done


def _attempts(item: Json) -> int:
    try:
        return int(item.get("republish_attempts") or 0)
    except (TypeError, ValueError):
        return 0


def _short(table: ItemTable, item: Json) -> str:
    """Twelve hex digits that stand for an item in logs and errors."""
    return str(core.sha256_hex(str(item.get(table.names[0])).encode("utf-8", "replace"))[:12])
