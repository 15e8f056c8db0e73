"""Stuck means: pending, without a result, untouched for a threshold, and nothing of it on its way."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import ConfigError
from headgate.healing._items import ItemKind
from headgate.healing._original import find_stale, publish_again, sweep_table
from headgate.healing._result import (
    SELF_HEALING_BATCH_SIZE,
    SELF_HEALING_MAX_ATTEMPTS,
    SELF_HEALING_THRESHOLD_HOURS,
    SelfHealingResult,
    emit_result,
    subsegment,
)
from headgate.healing._sns import require_topic
from headgate.healing._sweeper import Rule, Sweeper, check_number, error_kind
from headgate.healing._table import ItemTable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headgate.healing._sweeper import KindReport
    from headgate.ports import Json

log = logging.getLogger("headgate.healing")
_PAGE = 100


def query_stale_pending_items(
    table: Any,
    threshold_hours: float = SELF_HEALING_THRESHOLD_HOURS,
    limit: int = SELF_HEALING_BATCH_SIZE,
    *,
    clock: Any = None,
    table_name: str = "",
) -> list[Any]:
    """Keys of stale pending items; items in cooldown, and those with a sentiment, are not among them.

    Age counts from ingestion or the last republication; from the publication time only where the item has neither.

    Args:
        table: a boto3 Table; a boto3 client with `table_name`; or a store of headgate.
        threshold_hours: an item that is exactly so old is stale.
        limit: at most so many.
        clock: the clock; tests pass a `ManualClock`.
        table_name: for a client.

    Returns:
        Pairs (source_id, timestamp), ascending by timestamp, that read as the table's key too; of a store of headgate
        the items' keys, the longest waiting first.

    Raises:
        InvalidInputError: the threshold or the limit is no number, or negative.
        HeadgateError: the table cannot be read.
    """
    check_number("threshold_hours", threshold_hours)
    check_number("limit", limit, is_whole=True)
    clock = clock or core.SystemClock()
    before_us = _due_before(clock, threshold_hours)
    with subsegment("query_stale_pending_items"):
        if _is_store(table):
            return _stale_keys(table, before_us, limit)
        items = ItemTable(table, table_name)
        return [items.key_of(item) for item in find_stale(items, before_us, int(clock.now_us()), limit)[0]]


def get_full_items(table: Any, keys: Sequence[Any], *, table_name: str = "") -> list[Json]:
    """The items behind the keys, read consistently, without those that are gone, analysed, or no longer pending.

    Args:
        table: as for `query_stale_pending_items`.
        keys: what that gave, pairs, or mappings.
        table_name: for a client.
    """
    with subsegment("get_full_items"):
        if _is_store(table):
            found: list[Json] = table.full_items(keys)
            return found
        return [
            item
            for item in ItemTable(table, table_name).fetch(keys)
            if item.get("status") == "pending" and "sentiment" not in item
        ]


def republish_items_to_sns(
    client: Any, topic_arn: str, items: Sequence[Json], model_version: str = "v1.0.0",
    *, key_names: tuple[str, str] = ("source_id", "timestamp"),
) -> int:  # fmt: skip
    """Publish items to the analysis topic, in batches by count and bytes; how many SNS accepted.

    It only publishes: `run_self_healing_check` makes the conditional updates that keep two sweeps apart before it.
    What fails is logged, by entry and code, and the rest goes on.

    Args:
        client: a boto3 SNS client.
        topic_arn: of the topic.
        items: as `get_full_items` gives them.
        model_version: travels in each message.
        key_names: of the table's keys.

    Raises:
        ConfigError: the topic is empty.
    """
    require_topic(topic_arn)
    with subsegment("republish_items_to_sns"):
        return len(publish_again(client, topic_arn, items, model_version, key_names).accepted)


def run_self_healing_check(
    table: Any,
    sns_client: Any,
    topic_arn: str,
    model_version: str = "v1.0.0",
    *,
    announce: Callable[[Json], Json] | None = None,
    threshold_hours: float = SELF_HEALING_THRESHOLD_HOURS,
    batch_size: int = SELF_HEALING_BATCH_SIZE,
    max_attempts: int = SELF_HEALING_MAX_ATTEMPTS,
    clock: Any = None,
    budget_s: float | None = None,
    emit_metric: Callable[[str, float, str, dict[str, str]], Any] | None = None,
    environment: str = "dev",
    table_name: str = "",
    group: str = "",
    evidence: Any = None,
    pipeline: str = "",
) -> SelfHealingResult:
    """One sweep of pending items. Never raises: what goes wrong is in `errors`, and the caller's own outcome stays.

    Args:
        table: a boto3 Table; a boto3 client with `table_name`; or a store of headgate.
        sns_client: a boto3 SNS client; None for a store of headgate, whose outbox is the publisher.
        topic_arn: where announcements go: an SNS topic, or the outbox's topic.
        model_version: passed on in each announcement.
        announce: for a store of headgate: item -> body of its announcement.
        threshold_hours: how long an item may stand still; also the cooldown between two announcements.
        batch_size: at most this many items in a sweep.
        max_attempts: after so many announcements the item is quarantined.
        clock: the clock; tests pass a `ManualClock`.
        budget_s: the sweep ends after so long, and the next one goes on; None: no limit.
        emit_metric: (name, value, unit, dimensions), called for each of the five metrics, in the zero case too.
        environment: the metrics' dimension.
        table_name: for a boto3 client.
        group, evidence, pipeline: for a store of headgate; see `ItemKind`.
    """
    clock = clock or core.SystemClock()
    result = SelfHealingResult()
    started = clock.mono_us()
    try:
        with subsegment("run_self_healing_check"):
            require_topic(topic_arn)
            check_number("threshold_hours", threshold_hours)
            rule = Rule(threshold_hours * 3600.0, batch_size, max_attempts)
            if _is_store(table):
                if sns_client is not None:
                    message = "sns_client: a store of headgate publishes through its outbox; expected None"
                    raise ConfigError(message)
                kind = ItemKind(
                    table, topic_arn, announce or _announce_nothing, clock, pipeline=pipeline,
                    model_version=model_version, group=group, evidence=evidence,
                )  # fmt: skip
                take_over(result, Sweeper([(kind, rule)], clock, table).run(budget_s)["item"])
            else:
                sweep_table(ItemTable(table, table_name), sns_client, topic_arn, model_version, rule, clock, budget_s,
                            result)  # fmt: skip
    except Exception as error:
        result.add_error(error_kind(error))
        log.error("self-healing failed", extra={"error": error_kind(error)})
    result.execution_time_ms = (clock.mono_us() - started) / 1000
    report_result(result, threshold_hours, emit_metric, environment)
    return result


def report_result(result: SelfHealingResult, threshold_hours: float, emit_metric: Any, environment: str) -> None:
    """The sweep's one log line, in the zero case too, and its metrics."""
    unsent = emit_result(result, emit_metric, environment)
    log.info(
        "self-healing check: %d found, %d republished", result.items_found, result.items_republished,
        extra={
            "items_found": result.items_found, "items_republished": result.items_republished,
            "quarantined": result.quarantined, "held_up": result.held_up, "more_remaining": result.more_remaining,
            "threshold_hours": threshold_hours, "execution_time_ms": result.execution_time_ms,
            "errors": len(result.errors), **({"metrics_error": unsent} if unsent else {}),
        },
    )  # fmt: skip


def take_over(result: SelfHealingResult, report: KindReport) -> None:
    """The report of the items' kind as a `SelfHealingResult`."""
    result.items_found, result.items_republished = report.found, report.healed
    result.quarantined, result.held_up = report.quarantined, report.held_up
    result.lost_races, result.failed = report.lost_races, report.failed
    result.more_remaining = report.more_remaining
    for error in report.errors:
        result.add_error(error)


def _is_store(table: Any) -> bool:
    """Whether it is a store of headgate; a boto3 Table or client has a `meta`."""
    return hasattr(table, "stale_pending") and not hasattr(table, "meta")


def _due_before(clock: Any, threshold_hours: float) -> int:
    return int(clock.now_us()) - int(threshold_hours * 3600e6)


def _announce_nothing(item: Json) -> Json:
    return {"key": item["key"]}


def _stale_keys(table: Any, before: int, limit: int) -> list[str]:
    keys: list[str] = []
    after: tuple[int, str] | None = None
    while len(keys) < limit:
        page = table.stale_pending(before, min(_PAGE, limit - len(keys)), after)
        if not page:
            break
        keys.extend(item.key for item in page)
        after = (page[-1].due_us, page[-1].key)
    return keys
