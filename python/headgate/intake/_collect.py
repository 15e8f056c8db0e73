"""Pulling from sources in order of priority, and the record of what happened."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from headgate._native import core
from headgate.errors import AllSourcesFailedError, Kind, from_kind
from headgate.intake._intake import Intake, RawInfo, Taken

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headgate.intake._alerts import Alert, AlertRules
    from headgate.ports import Clock, Json, Metrics, StateStore

# spec 001, section 2: the error codes of a collection event.
_ERROR_CODES = {
    "timeout": "TIMEOUT",
    "malformed_response": "MALFORMED_RESPONSE",
    "connection_failed": "CONNECTION_FAILED",
    "circuit_open": "CIRCUIT_OPEN",
    "permission_denied": "TLS_REFUSED",
}
_HTTP_CODES = {429: "RATE_LIMIT", 401: "AUTH_FAILED", 403: "AUTH_FAILED"}
_MAX_MESSAGE = 1000  # spec 001: error_message <= 1000
_KEPT_HEADERS = ("content-type", "date", "retry-after")


class Adapter(Protocol):
    """A source: how to ask it, and how to read it.

    Besides these it may have `expects` ("array", the default, "object" or "json"), the shape of a good body;
    `next_pages(query, requests, bodies)`, the requests of the pages that follow those bodies; `extra_requests(query)`
    with `extra_context(requests, bodies)`, what is asked besides: its failure fails nothing, and its answer (None for a
    request that failed) becomes part of the records' context.
    """

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
    status: str = "success"  # partial: the source broke off after its first pages

    def to_dict(self) -> Json:
        """For people and logs; without the keys of the new items."""
        taken = {k: getattr(self.taken, k) for k in ("taken", "stored", "duplicates", "dead_letters")}
        return {
            "event_id": self.event_id, "source": self.source, "is_failover": self.is_failover, "status": self.status,
            "taken": taken, "duration_ms": self.duration_ms, "alerts": list(self.alerts), "attempts": self.attempts,
        }  # fmt: skip


@dataclass
class _Round:
    """What one collection has fetched so far."""

    source: str = ""
    is_failover: bool = False
    bodies: list[bytes] = field(default_factory=list)
    raw_keys: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    attempts: list[Json] = field(default_factory=list)
    context: Json = field(default_factory=dict)
    raw_count: int = 0
    error_kind: str = ""
    error_message: str = ""

    def add(self, fetched: Json) -> None:
        self.bodies += fetched["bodies"]
        self.raw_keys += fetched["raw_keys"]
        self.numbers += fetched["numbers"]


class Collector:
    """Collects through ordered failover; breakers, tracker and events outlive the process in the store.

    Args:
        intake: the pipeline's front door.
        adapters: sources, the primary first; any number.
        failover: the core's failover, with its transport.
        breakers: one per adapter name.
        alerts: the rules by which operations are told.
        store: keeps state and collection events.
        on_stored: called, inside the commit, with the result of a collection that stored something new.
        metrics: counts collections, items and failovers.
        shared: a `CircuitBreakerManager` whose breakers these are, when nodes share them.
    """

    def __init__(
        self,
        intake: Intake,
        adapters: Sequence[Adapter],
        *,
        failover: Any,
        breakers: dict[str, Any],
        alerts: AlertRules,
        store: Any,
        on_stored: Callable[[CollectionResult], None] | None = None,
        metrics: Metrics | None = None,
        shared: Any = None,
    ) -> None:
        self.intake = intake
        self.adapters = list(adapters)
        self.failover = failover
        self.breakers = breakers
        self.alerts = alerts
        self.store: StateStore = store
        self.on_stored = on_stored
        self.metrics = metrics
        self.shared = shared
        self._by_name = {a.name: a for a in self.adapters}
        self._last_success_us: int | None = None  # as the store had it when the collection began

    @property
    def clock(self) -> Clock:
        return self.intake.clock

    def collect(self, query: Json, cancel: Any = None) -> CollectionResult:
        """One collection. Raw bodies are stored before they are read; a failed collection has an event too.

        Args:
            query: what the adapters' `requests` take.
            cancel: a `core.CancelToken` that ends it from another thread.

        Raises:
            AllSourcesFailedError: no source gave a usable answer; the collection event tells each attempt.
        """
        self._restore()
        started_us, began = self.clock.now_us(), self.clock.mono_us()
        before = {name: breaker.state for name, breaker in self.breakers.items()}
        state = self._fetch(query, cancel)
        elapsed_us = self.clock.mono_us() - began
        failed = not state.source
        if failed and state.error_kind != Kind.ALL_SOURCES_FAILED.value:
            self._save()
            raise from_kind(state.error_kind, state.error_message)
        alerts = self.alerts.judge(failed, state.source or self.adapters[0].name, elapsed_us)
        status = "failed" if failed else "partial" if state.error_kind else "success"
        event_id = str(uuid.uuid4())
        # Items, announcements, dead letters, alerts, state and the event that counts them are one commit.
        with self.intake.store.transaction():
            taken = self._take(state, query)
            result = CollectionResult(
                event_id, state.source, state.is_failover, taken, state.attempts, elapsed_us // 1000,
                tuple(a.type for a in alerts), status,
            )  # fmt: skip
            self._save(None if failed else started_us)
            self._store_event(result, started_us, before, state)
            for alert in alerts:
                self._send_alert(alert, event_id)
            if taken.stored and self.on_stored is not None:
                self.on_stored(result)
            core.fault_point("collect.before_commit")
        self._count(result)
        if failed:
            raise AllSourcesFailedError(state.error_message)
        return result

    # --- fetching

    def _fetch(self, query: Json, cancel: Any) -> _Round:
        state = _Round()

        def keep(source: str, url: str, status: int, headers: list[tuple[str, str]], body: bytes, attempt: int) -> str:
            state.raw_count += 1
            kept = {name: value for name, value in headers if name in _KEPT_HEADERS}
            facts = {"url": url, "status": status, "headers": kept, "context": query, "attempt": attempt}
            return self.intake.keep_raw(source, body, facts)

        requests = {a.name: a.requests(query) for a in self.adapters}
        sources = [self._source(a, requests[a.name], a.timeout_s) for a in self.adapters]
        fetched = self.failover.fetch(sources, keep, cancel)
        state.attempts = fetched["attempts"]
        state.error_kind, state.error_message = fetched["error_kind"], fetched["error_message"]
        if state.error_kind:
            return state
        state.source, state.is_failover = fetched["source"], fetched["is_failover"]
        state.add(fetched)
        adapter = self._by_name[state.source]
        used_ms = max((a["duration_ms"] for a in state.attempts if a["source"] == adapter.name), default=0)
        until = self.clock.mono_us() + int(adapter.timeout_s * 1e6) - used_ms * 1000
        self._fetch_pages(adapter, query, requests[adapter.name], fetched, state, until, keep, cancel)
        self._fetch_extras(adapter, query, state, until, cancel)
        return state

    def _source(self, adapter: Adapter, requests: list[Any], seconds: float) -> Any:
        expects = getattr(adapter, "expects", "array")
        return core.Source(adapter.name, requests, int(seconds * 1e6), self.breakers[adapter.name], expects)

    def _fetch_pages(
        self, adapter: Any, query: Json, requests: list[Any], fetched: Json, state: _Round, until: int, keep: Any,
        cancel: Any,
    ) -> None:  # fmt: skip
        """The pages that follow; a source that breaks off has given a part, and the next collection asks again."""
        while hasattr(adapter, "next_pages"):
            requests = adapter.next_pages(query, requests, fetched["bodies"])
            if not requests:
                return
            left = (until - self.clock.mono_us()) / 1e6
            fetched = self._alone(adapter, requests, left, keep, cancel)
            state.attempts = [*state.attempts, *fetched["attempts"]]
            if fetched["error_kind"]:
                state.error_kind, state.error_message = fetched["error_kind"], fetched["error_message"]
                return
            if set(fetched["raw_keys"]) <= set(state.raw_keys):
                return  # a source that does not know pages gives the first one again and again
            state.add(fetched)

    def _fetch_extras(self, adapter: Any, query: Json, state: _Round, until: int, cancel: Any) -> None:
        extras = getattr(adapter, "extra_requests", None)
        requests = extras(query) if extras is not None else []
        left_us = until - self.clock.mono_us()
        if not requests or left_us <= 0:
            return
        answers = self.failover.transport.perform(requests, left_us, 8, cancel)
        bodies: list[bytes | None] = []
        for request, answer in zip(requests, answers, strict=True):
            if not answer["error_kind"]:
                facts = {"url": request.url, "status": answer["status"], "extra": True}
                self.intake.keep_raw(adapter.name, answer["body"], facts)
                state.raw_count += 1
            bodies.append(answer["body"] if not answer["error_kind"] and answer["status"] == 200 else None)
        state.context = adapter.extra_context(requests, bodies)

    def _alone(self, adapter: Any, requests: list[Any], left_s: float, keep: Any, cancel: Any) -> Json:
        """More from the source that serves: nobody else can continue its pages."""
        since = self.failover.secondary_since_us
        if left_s <= 0:
            return {"attempts": [], "error_kind": Kind.TIMEOUT.value, "error_message": "no time left for more pages"}
        fetched: Json = self.failover.fetch([self._source(adapter, requests, left_s)], keep, cancel)
        self.failover.secondary_since_us = since
        return fetched

    # --- what is kept

    def _take(self, state: _Round, query: Json) -> Taken:
        now = self.clock.now_us()
        adapter = self._by_name.get(state.source)
        context = {**query, **state.context}
        return self.intake.take_all(
            [
                (body, RawInfo(state.source, key, now, context, number, adapter))
                for body, key, number in zip(state.bodies, state.raw_keys, state.numbers, strict=True)
            ]
        )

    def _send_alert(self, alert: Alert, event_id: str) -> None:
        pipeline = self.intake.pipeline
        body = alert.body(event_id, core.format_timestamp(self.clock.now_us()))
        self.intake.store.publish(pipeline.alert_topic, f"{event_id}:{alert.type}", body)

    def _store_event(self, result: CollectionResult, started_us: int, before: dict[str, str], state: _Round) -> None:
        more: Json = {
            "success": result.status != "failed",
            "status": result.status,
            "raw_count": state.raw_count,
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
            code = _HTTP_CODES.get(last["status"], f"HTTP_{last['status']}")
            more["error_code"] = _ERROR_CODES.get(last["outcome"], code)
            more["error_message"] = (state.error_message or last["message"])[:_MAX_MESSAGE]
        source = result.source or self.adapters[0].name
        self.intake.record(result.event_id, source, started_us, result.taken, more)

    def _count(self, result: CollectionResult) -> None:
        if self.metrics is None:
            return
        source = result.source or "none"
        self.metrics.count("collections_total", source=source, status=result.status)
        self.metrics.observe("collection_seconds", result.duration_ms / 1000, source=source)
        for fate in ("stored", "duplicates", "dead_letters"):
            self.metrics.count("collected_records_total", getattr(result.taken, fate), source=source, fate=fate)
        if result.is_failover:
            self.metrics.count("failovers_total", source=source)
        for alert in result.alerts:
            self.metrics.count("alerts_total", type=alert)

    # --- state

    def last_success_us(self) -> int | None:
        """When the last collection that succeeded began, microseconds; None before the first."""
        doc = self.store.load_state(self._state_name())
        return None if doc is None else doc.get("last_success_us")

    def _state_name(self) -> str:
        return f"collector:{self.intake.pipeline.name}"

    def _restore(self) -> None:
        doc = self.store.load_state(self._state_name())
        if self.shared is not None:
            for name in self.breakers:
                self.shared.adopt(name)
        if doc is None:
            return
        if self.shared is None:
            for name, snapshot in doc["breakers"].items():
                if name in self.breakers:
                    self.breakers[name].restore(snapshot)
        # A document of the first version has the tracker alone.
        self.alerts.restore(doc.get("alerts") or {"tracker": doc["tracker"], "sent_us": {}})
        self.failover.secondary_since_us = doc["secondary_since_us"]
        self._last_success_us = doc.get("last_success_us")

    def _save(self, success_us: int | None = None) -> None:
        self._last_success_us = success_us or self._last_success_us
        self.store.save_state(
            self._state_name(),
            {
                "format": 1,
                "breakers": {name: breaker.snapshot() for name, breaker in self.breakers.items()},
                "alerts": self.alerts.snapshot(),
                "secondary_since_us": self.failover.secondary_since_us,
                "last_success_us": self._last_success_us,
            },
        )
        if self.shared is not None:
            for name in self.breakers:
                self.shared.publish(name)
