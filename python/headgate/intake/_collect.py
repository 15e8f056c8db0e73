"""Pulling from sources in order of priority, and the record of what happened."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from headgate._native import core
from headgate.errors import AllSourcesFailedError, Kind, from_kind
from headgate.intake._intake import Intake, RawInfo, Taken, all_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headgate.ports import Clock, Json, StateStore

# spec 001, section 2: the error codes of a collection event.
_ERROR_CODES = {
    "timeout": "TIMEOUT",
    "malformed_response": "MALFORMED_RESPONSE",
    "connection_failed": "CONNECTION_FAILED",
    "circuit_open": "CIRCUIT_OPEN",
}
_MAX_MESSAGE = 1000  # spec 001: error_message <= 1000


class Adapter(Protocol):
    """A source: how to ask it. What it answers is the pipeline's to read."""

    name: str
    timeout_s: float

    def requests(self, query: Json) -> list[Any]:
        """`headgate.resilience.Request`s that make up one collection; secrets in headers only."""
        ...


@dataclass(frozen=True)
class CollectionResult:
    """One collection: who answered, what became of the records, and every attempt on the way."""

    event_id: str
    source: str
    is_failover: bool
    taken: Taken
    attempts: list[Json] = field(repr=False)
    duration_ms: int = 0
    alerts: tuple[str, ...] = ()


class Collector:
    """Collects through ordered failover; breakers, tracker and events outlive the process in the store.

    Args:
        intake: the pipeline's front door.
        adapters: sources, the primary first.
        failover: the core's failover, with its transport.
        breakers: one per adapter name.
        tracker: counts whole collections that failed.
        store: keeps state and collection events.
        on_stored: called, inside the commit, with the result of a collection that stored something new.
    """

    def __init__(
        self,
        intake: Intake,
        adapters: Sequence[Adapter],
        *,
        failover: Any,
        breakers: dict[str, Any],
        tracker: Any,
        store: Any,
        on_stored: Callable[[CollectionResult], None] | None = None,
    ) -> None:
        self.intake = intake
        self.adapters = list(adapters)
        self.failover = failover
        self.breakers = breakers
        self.tracker = tracker
        self.store: StateStore = store
        self.on_stored = on_stored

    @property
    def clock(self) -> Clock:
        return self.intake.clock

    def collect(self, query: Json) -> CollectionResult:
        """One collection. Raw bodies are stored before they are read; a failed collection has an event too.

        Raises:
            AllSourcesFailedError: no source gave a usable answer; the collection event tells each attempt.
        """
        self._restore()
        started_us = self.clock.now_us()
        sources = [
            core.Source(a.name, a.requests(query), int(a.timeout_s * 1e6), self.breakers[a.name]) for a in self.adapters
        ]
        raw_count = 0

        def keep(source: str, url: str, status: int, headers: list[tuple[str, str]], body: bytes) -> str:
            nonlocal raw_count
            raw_count += 1
            kept = {name: value for name, value in headers if name in ("content-type", "date", "retry-after")}
            return self.intake.keep_raw(source, body, {"url": url, "status": status, "headers": kept, "context": query})

        before = {name: breaker.state for name, breaker in self.breakers.items()}
        fetched = self.failover.fetch(sources, keep)
        failed = fetched["error_kind"]
        alerts: list[str] = []
        if failed and failed != Kind.ALL_SOURCES_FAILED.value:
            self._save()
            raise from_kind(failed, fetched["error_message"])
        if failed:
            alerts.append("all_sources_down")
            if self.tracker.on_failure():
                alerts.append("consecutive_failure")
        elif self.tracker.on_success():
            alerts.append("recovery")
        event_id = str(uuid.uuid4())
        # Items, announcements, dead letters, state and the event that counts them are one commit.
        with self.intake.store.transaction():
            taken = Taken()
            if not failed:
                now = self.clock.now_us()
                taken = all_of(
                    self.intake.take(body, RawInfo(fetched["source"], key, now, query))
                    for body, key in zip(fetched["bodies"], fetched["raw_keys"], strict=True)
                )
            result = CollectionResult(
                event_id, fetched["source"], fetched["is_failover"], taken, fetched["attempts"],
                fetched["elapsed_us"] // 1000, tuple(alerts),
            )  # fmt: skip
            self._save()
            self._store_event(result, started_us, before, raw_count, fetched["error_message"])
            if taken.stored and self.on_stored is not None:
                self.on_stored(result)
            core.fault_point("collect.before_commit")
        if failed:
            raise AllSourcesFailedError(fetched["error_message"])
        return result

    def _store_event(
        self, result: CollectionResult, started_us: int, before: dict[str, str], raw_count: int, error: str
    ) -> None:
        more: Json = {
            "success": not error,
            "raw_count": raw_count,
            "duration_ms": result.duration_ms,
            "is_failover": result.is_failover,
            "attempts": result.attempts,
            "breakers_before": before,
            "breakers_after": {name: breaker.state for name, breaker in self.breakers.items()},
            "alerts": list(result.alerts),
        }
        failures = [a for a in result.attempts if a["outcome"] != "ok"]
        if failures:
            last = failures[-1]
            more["error_code"] = _ERROR_CODES.get(last["outcome"], f"HTTP_{last['status']}")
            more["error_message"] = (error or last["message"])[:_MAX_MESSAGE]
        source = result.source or self.adapters[0].name
        self.intake.record(result.event_id, source, started_us, result.taken, more)

    def _state_name(self) -> str:
        return f"collector:{self.intake.pipeline.name}"

    def _restore(self) -> None:
        doc = self.store.load_state(self._state_name())
        if doc is None:
            return
        for name, snapshot in doc["breakers"].items():
            if name in self.breakers:
                self.breakers[name].restore(snapshot)
        self.tracker.restore(doc["tracker"])
        self.failover.secondary_since_us = doc["secondary_since_us"]

    def _save(self) -> None:
        self.store.save_state(
            self._state_name(),
            {
                "format": 1,
                "breakers": {name: breaker.snapshot() for name, breaker in self.breakers.items()},
                "tracker": self.tracker.snapshot(),
                "secondary_since_us": self.failover.secondary_since_us,
            },
        )
