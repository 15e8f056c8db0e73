"""The scheduled collection as a Lambda function: one round of the sources, its metrics, and a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import AllSourcesFailedError, HeadgateError, InvalidInputError
from headgate.handlers._heal import heal_within
from headgate.handlers._observe import Observer
from headgate.handlers._warm import keeps_clients
from headgate.intake import is_believable

if TYPE_CHECKING:
    from headgate.intake import CollectionResult
    from headgate.ports import Json
    from headgate.wiring import App

_SERVICE = "market-ingestion"
_SCHEDULED = "Scheduled Event"
_MARKET = "market"  # whose sources cannot be asked without tickers


@keeps_clients
def handle_scheduled_collection(event: Json, context: Any = None) -> Json:
    """One collection, with the healing sweep and the delivery of announcements on every way out.

    Args:
        event: of EventBridge. A scheduled one ("detail-type" is "Scheduled Event") collects in market hours by its own
            `time`, and once an hour outside them; any other event collects at once.
        context: Lambda's.

    Returns:
        statusCode 200 (collected, or skipped while the market is closed or without tickers), 207 (no source answered:
        the last known good data stands) or 400 (the event's time cannot be read); body with source, is_failover,
        status, items_collected, new_items, duplicates, dead_letters, event_id, alerts, freshness, notified, and
        self_healing, which every answer has.

    Example:
        >>> handle_scheduled_collection({"detail-type": "Scheduled Event",
        ...                              "time": "2026-05-20T14:30:00Z"})["statusCode"]      # doctest: +SKIP
        200
    """
    from headgate.handlers._handlers import app
    from headgate.pipelines.market.metrics import NAMESPACE

    parts = app()
    observer = Observer(_SERVICE, NAMESPACE)
    answer: Json = {}
    try:
        answer = _answer(event, parts, observer)
    finally:
        # On every way out, an exception among them; the collection's own outcome stays what it is.
        swept = heal_within(parts, observer, context)
        if isinstance(answer.get("body"), dict):
            answer["body"]["self_healing"] = swept
        elif answer:
            answer["self_healing"] = swept
        observer.flush()
    return answer


def _answer(event: Any, parts: App, observer: Observer) -> Json:
    from headgate.pipelines.market.metrics import refused_metrics

    message = ""
    try:
        if isinstance(event, dict):
            at_us = core.parse_timestamp(event["time"]) if "time" in event else parts.clock.now_us()
        else:
            message = f"expected an event of EventBridge, an object, got {type(event).__name__}"
    except (HeadgateError, TypeError):
        message = "time: expected an ISO 8601 time"
    if message:
        # An answer of 400 is no error for Lambda: the log and the metrics are what alarms can see.
        observer.error("event refused", reason=message)
        for m in refused_metrics():
            observer.metric(m.name, m.value, m.unit, m.dimensions)
        return {"statusCode": 400, "error": InvalidInputError.__name__, "message": message}
    trigger = "scheduled" if event.get("detail-type") == _SCHEDULED else "manual"
    if trigger == "scheduled" and not should_collect(parts, at_us):
        observer.info("skipped", reason="market_closed")
        return {"statusCode": 200, "body": {"skipped": "market_closed", "new_items": 0}}
    if not parts.config.collection.tickers and parts.pipeline.name == _MARKET:
        observer.info("skipped", reason="no_tickers")
        return {"statusCode": 200, "body": {"skipped": "no_tickers", "new_items": 0}}
    return _collect(parts, observer, trigger, at_us)


def should_collect(parts: App, at_us: int) -> bool:
    """Always in market hours; outside them when the last success is `schedule.closed_s` ago or there was none."""
    if parts.calendar.is_open(at_us):
        return True
    closed_s = parts.config.schedule.closed_s
    last = parts.collector.last_success_us()
    known = is_believable(last, max(at_us, parts.clock.now_us()))
    return closed_s > 0 and (last is None or not known or at_us - last >= int(closed_s * 1e6))


def _collect(parts: App, observer: Observer, trigger: str, at_us: int) -> Json:
    status, body = 200, {}
    result: CollectionResult | None = None
    try:
        with observer.traced("collect"):
            result = parts.collect()
        t = result.taken
        body = {
            "event_id": result.event_id, "source": result.source, "is_failover": result.is_failover,
            "status": result.status, "items_collected": t.taken, "new_items": t.stored, "duplicates": t.duplicates,
            "dead_letters": t.dead_letters, "alerts": list(result.alerts),
        }  # fmt: skip
    except AllSourcesFailedError as error:
        status, body = 207, {"new_items": 0, "status": "failed", "errors": [error.kind.value]}
        observer.error("no source answered", reason=str(error))
    except BaseException:
        # The collection's own error is what Lambda is told; the metric of its failure goes out all the same.
        _measure_loss(parts, observer)
        raise
    body["notified"] = parts.relay()
    freshness = parts.freshness(at_us)
    body |= {"trigger_type": trigger, "freshness": freshness.to_dict()}
    if freshness.warning:
        observer.warning("stale data", warning=freshness.warning)
    _measure(parts, observer, result)
    observer.info("collected", **{k: body.get(k) for k in ("event_id", "source", "status", "new_items", "duplicates")})
    return {"statusCode": status, "body": body}


def _measure_loss(parts: App, observer: Observer) -> None:
    from headgate.pipelines.market.metrics import refused_metrics

    for m in refused_metrics(parts.adapters[0].name if parts.adapters else "none"):
        observer.metric(m.name, m.value, m.unit, m.dimensions)
    try:
        parts.relay()
    except Exception as error:
        observer.error("announcements are not delivered", reason=type(error).__name__)


def _measure(parts: App, observer: Observer, result: CollectionResult | None) -> None:
    from headgate.pipelines.market.metrics import collection_metrics, new_items_metric, notification_metric

    events = parts.store.collection_events(parts.pipeline.name, 1)
    metrics = collection_metrics(result, events[-1], parts.adapters[0].name) if events else []
    metrics.append(new_items_metric(0 if result is None else result.taken.stored))
    if result is not None and result.taken.stored:
        metrics.append(notification_metric(parts.longest_delay_us / 1000))
    for m in metrics:
        observer.metric(m.name, m.value, m.unit, m.dimensions)
