"""What operations are told, and how often."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from headgate.intake._freshness import is_believable

if TYPE_CHECKING:
    from headgate.ports import Clock, Json

# Frozen: rules on the receiving side filter by these words.
AlertType = Literal["consecutive_failure", "high_latency", "all_sources_down", "recovery", "store_failed"]
LATENCY_S = 30.0  # three times the 10 s that one source has
COOLDOWN_S = 300.0  # between two alerts of one kind


@dataclass(frozen=True)
class Alert:
    """One alert. `facts` are its message attributes: FailureCount and LastError, or Source and LatencyMs."""

    type: AlertType
    message: str
    facts: dict[str, Any] = field(default_factory=dict)

    def body(self, event_id: str, timestamp: str) -> Json:
        return {
            "alert_type": self.type, "message": self.message, "timestamp": timestamp,
            "collection_event_id": event_id, **self.facts,
        }  # fmt: skip


class AlertRules:
    """Turns a collection's outcome into alerts.

    Three failed collections within fifteen minutes alert once per run of failures, and its end alerts once (the
    tracker's doing). That all sources are down, or that one is slow, is told at most once per cooldown.

    Args:
        tracker: a `ConsecutiveFailureTracker` of whole collections.
        clock: the pipeline's.
        latency_s: a collection that took longer is slow.
        cooldown_s: between two alerts of a kind (for latency: of a source).
    """

    def __init__(
        self, tracker: Any, clock: Clock, *, latency_s: float = LATENCY_S, cooldown_s: float = COOLDOWN_S
    ) -> None:
        self.tracker = tracker
        self._clock = clock
        self._latency_us = int(latency_s * 1e6)
        self._cooldown_us = int(cooldown_s * 1e6)
        self._sent_us: dict[str, int] = {}

    def judge(
        self, failed: bool, source: str, elapsed_us: int, last_error: str = "", *, store_failed: bool = False
    ) -> list[Alert]:
        """The alerts of one collection that ended; call it once for each.

        Args:
            failed: nothing could be collected, or it could not be stored.
            source: that answered, or the primary.
            elapsed_us: of the whole collection.
            last_error: why it failed; goes into the failure alerts.
            store_failed: the sources are not to blame: a store is.
        """
        alerts: list[Alert] = []
        if failed:
            kind: AlertType = "store_failed" if store_failed else "all_sources_down"
            text = "what was collected could not be stored" if store_failed else "no source gave a usable answer"
            facts = {"last_error": last_error} if last_error else {}
            if self._may_send(kind):
                alerts.append(Alert(kind, text, facts if store_failed else {}))
            if self.tracker.on_failure():
                count = self.tracker.count
                facts = {"failure_count": count, **facts}
                alerts.append(Alert("consecutive_failure", f"{count} collections in a row failed", facts))
        elif self.tracker.on_success():
            self._sent_us.pop("all_sources_down", None)
            alerts.append(Alert("recovery", "a collection succeeded again"))
        if elapsed_us > self._latency_us and self._may_send(f"high_latency:{source}"):
            took = elapsed_us // 1000
            alerts.append(Alert("high_latency", f"a collection took {took} ms", {"source": source, "latency_ms": took}))
        return alerts

    def _may_send(self, key: str) -> bool:
        now = self._clock.now_us()
        sent = self._sent_us.get(key)
        # An alert that was sent in the future was sent by a clock that was wrong.
        if sent is not None and is_believable(sent, now) and now - sent < self._cooldown_us:
            return False
        self._sent_us[key] = now
        return True

    def snapshot(self) -> Json:
        """What outlives the process."""
        return {"tracker": self.tracker.snapshot(), "sent_us": dict(self._sent_us)}

    def restore(self, doc: Json) -> None:
        self.tracker.restore(doc["tracker"])
        self._sent_us = dict(doc["sent_us"])
