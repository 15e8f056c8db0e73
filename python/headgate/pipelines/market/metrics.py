"""The metrics of a collection, by the names that the alarms and dashboards in `infra/` read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from headgate.intake._alerts import LATENCY_S

if TYPE_CHECKING:
    from headgate.intake import CollectionResult
    from headgate.ports import Json

NAMESPACE = "SentimentAnalyzer/Ingestion"
NOTIFY_WITHIN_MS = 30_000.0  # the promise: announced within 30 s of being stored


@dataclass(frozen=True)
class Metric:
    """One value; units are CloudWatch's."""

    name: str
    value: float
    unit: str = "Count"
    dimensions: dict[str, str] = field(default_factory=dict)


def collection_metrics(result: CollectionResult | None, event: Json, primary: str) -> list[Metric]:
    """What a collection says of itself.

    Args:
        result: of a collection that succeeded, at least in part; None for one that failed.
        event: its stored collection event.
        primary: the first source's name.
    """
    source = {"Source": event["source"]}
    failed = not event["success"]
    duration = float(event["duration_ms"])
    is_failover = {"IsFailover": str(bool(event["is_failover"])).lower()}
    metrics = [
        Metric("CollectionSuccess", 0 if failed else 1, "Count", {**source, **is_failover}),
        Metric("CollectionFailure", 1 if failed else 0, "Count", source),
        Metric("CollectionSuccessRate", 0.0 if failed else 100.0, "Percent"),
        Metric("CollectionLatencyMs", duration, "Milliseconds", {**source, **is_failover}),
    ]
    if "high_latency" in event["alerts"]:
        above = {"ThresholdExceeded": str(duration > LATENCY_S * 1000).lower()}
        metrics.append(Metric("HighLatencyAlert", 1, "Count", {**source, **above}))
    if result is not None:
        t = result.taken
        known = t.stored + t.duplicates
        metrics += [
            Metric("ItemsCollected", t.taken, "Count", source),
            Metric("ItemsDuplicate", t.duplicates, "Count", source),
            Metric("DuplicateRate", 100.0 * t.duplicates / known if known else 0.0, "Percent", source),
        ]
    if event["is_failover"]:
        metrics += [
            Metric("FailoverCount", 1, "Count", source),
            Metric("FailoverDurationSeconds", duration / 1000, "Seconds", source),
        ]
    probed = [a for a in event["attempts"] if a["source"] == primary and a["breaker_before"] == "half_open"]
    if probed:
        metrics.append(Metric("PrimaryRecoveryAttempt", 1, "Count", {"Source": primary}))
        if probed[-1]["outcome"] == "ok":
            metrics.append(Metric("PrimaryRecoverySuccess", 1, "Count", {"Source": primary}))
    return metrics


def refused_metrics(source: str = "none") -> list[Metric]:
    """A scheduled event that could not be read, or a collection that could not be stored, is one that failed.

    Args:
        source: the first source's name, when it was to be asked.
    """
    return [
        Metric("CollectionSuccessRate", 0.0, "Percent"),
        Metric("CollectionFailure", 1, "Count", {"Source": source}),
        new_items_metric(0),
    ]


def new_items_metric(stored: int) -> Metric:
    """How many items were new, a zero among them: the alarm on no new items for an hour needs each collection's."""
    return Metric("NewItemsIngested", stored)


def notification_metric(latency_ms: float) -> Metric:
    """From storage to delivery (the promise is 30 s)."""
    return Metric(
        "NotificationLatencyMs", latency_ms, "Milliseconds", {"SLAMet": str(latency_ms <= NOTIFY_WITHIN_MS).lower()}
    )
