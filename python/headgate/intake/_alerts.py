"""What operations are told, and how often."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from headgate.ports import Clock, Json

# spec 001, decision 11
AlertType = Literal["consecutive_failure", "high_latency", "all_sources_down", "recovery"]
LATENCY_S = 30.0  # spec 001, section 1: three times the 10 s of one source
COOLDOWN_S = 300.0  # spec 001, section 4


@dataclass(frozen=True)
class Alert:
    """One alert. `facts` are its message attributes: FailureCount, or Source and LatencyMs."""

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

    def judge(self, failed: bool, source: str, elapsed_us: int) -> list[Alert]:
        """The alerts of one collection that ended; call it once for each."""
        alerts: list[Alert] = []
        if failed:
            if self._may_send("all_sources_down"):
                alerts.append(Alert("all_sources_down", "no source gave a usable answer"))
            if self.tracker.on_failure():
                count = self.tracker.count
                alerts.append(
                    Alert("consecutive_failure", f"{count} collections in a row failed", {"failure_count": count})
                )
        elif self.tracker.on_success():
            self._sent_us.pop("all_sources_down", None)
            alerts.append(Alert("recovery", "a collection succeeded again"))
        if elapsed_us > self._latency_us and self._may_send(f"high_latency:{source}"):
            took = elapsed_us // 1000
            alerts.append(Alert("high_latency", f"a collection took {took} ms", {"source": source, "latency_ms": took}))
        return alerts

    def _may_send(self, key: str) -> bool:
        now = self._clock.now_us()
        if now - self._sent_us.get(key, -self._cooldown_us) < self._cooldown_us:
            return False
        self._sent_us[key] = now
        return True

    def snapshot(self) -> Json:
        """What outlives the process."""
        return {"tracker": self.tracker.snapshot(), "sent_us": dict(self._sent_us)}

    def restore(self, doc: Json) -> None:
        self.tracker.restore(doc["tracker"])
        self._sent_us = dict(doc["sent_us"])
