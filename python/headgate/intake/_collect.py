"""Pulling from sources in order of priority, and the record of what happened."""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import AllSourcesFailedError, HeadgateError, InterruptedRunError, Kind, from_kind
from headgate.identity import refuse_equal_names
from headgate.intake._fetch import Adapter, Fetcher, Round
from headgate.intake._freshness import is_believable
from headgate.intake._intake import Intake, Taken
from headgate.intake._pipeline import RawInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headgate.intake._alerts import Alert, AlertRules
    from headgate.ports import Clock, Json, Metrics, SharedStateStore

__all__ = ["Adapter", "CollectionResult", "Collector"]

log = logging.getLogger("headgate.intake")
# Kind of a failed attempt -> the error code of a collection event. Frozen: dashboards filter by these words.
_ERROR_CODES = {
    "timeout": "TIMEOUT",
    "malformed_response": "MALFORMED_RESPONSE",
    "connection_failed": "CONNECTION_FAILED",
    "circuit_open": "CIRCUIT_OPEN",
    "permission_denied": "TLS_REFUSED",
}
_HTTP_CODES = {429: "RATE_LIMIT", 401: "AUTH_FAILED", 403: "AUTH_FAILED"}
_MAX_MESSAGE = 1000  # characters of error_message; consumers of the event refuse longer ones
_TRIES = 64  # of a conditional write of the state: each loss is another process's success


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
        last_resort: takes (topic, id, body) of an alert that cannot be stored, because the store is what failed.

    Raises:
        InvalidInputError: two adapters of one name, or none.
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
        last_resort: Callable[[str, str, Json], object] | None = None,
    ) -> None:
        self.intake = intake
        self.adapters = list(adapters)
        refuse_equal_names([a.name for a in self.adapters])
        self.failover = failover
        self.breakers = breakers
        self.alerts = alerts
        self.store: SharedStateStore = store
        self.on_stored = on_stored
        self.metrics = metrics
        self.shared = shared
        self.last_resort = last_resort
        self._by_name = {a.name: a for a in self.adapters}

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
            InvalidInputError: the query asks for what the pipeline cannot store; no source was asked.
            HeadgateError: a store failed. There is an event, a metric and an alert of that, as far as the store lets.
        """
        if self.intake.pipeline.check_query is not None:
            self.intake.pipeline.check_query(query)
        started_us, began = self.clock.now_us(), self.clock.mono_us()
        state, result, cause = Round(), None, None
        try:
            may_probe = self._restore()
            before = {name: breaker.state for name, breaker in self.breakers.items()}
            fetcher = Fetcher(self.intake, self.adapters, self.failover, self.breakers)
            state = fetcher.fetch(query, cancel, may_probe)
            if not state.source and state.error_kind != Kind.ALL_SOURCES_FAILED.value:
                self._publish_breakers(before)  # ended from outside: that says nothing of the sources
                cause = from_kind(state.error_kind, state.error_message)
            else:
                elapsed_us = self.clock.mono_us() - began
                result = self._keep(state, query, started_us, elapsed_us, before)
        except InterruptedRunError:
            raise
        except Exception as error:
            self._report_loss(error, state, started_us, self.clock.mono_us() - began)
            if isinstance(error, HeadgateError):
                raise
            message = f"a collection could not be stored: {type(error).__name__}"
            raise from_kind(Kind.UNAVAILABLE.value, message) from error
        if result is None:
            raise cause or from_kind(Kind.INTERRUPTED.value, "interrupted")
        self._count(result)
        if result.status == "failed":
            raise AllSourcesFailedError(state.error_message)
        return result

    def _keep(
        self, state: Round, query: Json, started_us: int, elapsed_us: int, before: dict[str, str]
    ) -> CollectionResult:
        failed = not state.source
        event_id = str(uuid.uuid4())
        # Items, announcements, dead letters, alerts, state and the event that counts them are one commit.
        with self.intake.store.transaction():
            taken = self._take(state, query)
            if taken.unreadable and taken.unreadable == taken.taken and not state.error_kind:
                message = f"{state.source}: none of its {taken.taken} records could be read"
                state.failed(Kind.MALFORMED_RESPONSE.value, message)
            status = "failed" if failed else "partial" if state.error_kind else "success"
            is_fresh = not failed and not state.repeats and not (taken.unreadable and taken.unreadable == taken.taken)
            alerts = self._settle(failed, state, elapsed_us, started_us if is_fresh else None)
            result = CollectionResult(
                event_id, state.source, state.is_failover, taken, state.attempts, elapsed_us // 1000,
                tuple(a.type for a in alerts), status,
            )  # fmt: skip
            self._store_event(result, started_us, before, state)
            for alert in alerts:
                self._send_alert(alert, event_id)
            if taken.stored and self.on_stored is not None:
                self.on_stored(result)
            self._publish_breakers(before)
            core.fault_point("collect.before_commit")
        return result

    def _report_loss(self, error: Exception, state: Round, started_us: int, elapsed_us: int) -> None:
        """A store failed: its event, its metric and its alert, each as far as that is possible."""
        kind, message = _described(error)
        state.source, state.is_failover = "", False
        state.failed(kind, message)
        event_id = str(uuid.uuid4())
        alerts: list[Alert] = []
        source = self.adapters[0].name if self.adapters else "none"
        try:
            with self.intake.store.transaction():
                alerts = self._settle(True, state, elapsed_us, None, store_failed=True)
                result = CollectionResult(
                    event_id, "", False, Taken(), state.attempts, elapsed_us // 1000,
                    tuple(a.type for a in alerts), "failed",
                )  # fmt: skip
                self._store_event(result, started_us, {}, state)
                for alert in alerts:
                    self._send_alert(alert, event_id)
        except Exception as second:
            # The store takes nothing at all: what is left are the logs, the metrics and the way past the outbox.
            names = {"error": kind, "second_error": _described(second)[0], "event_id": event_id}
            log.error("a failed collection could not be recorded", extra={"source": source, **names})
            alerts = alerts or self.alerts.judge(True, source, elapsed_us, message, store_failed=True)
            self._alert_directly(alerts, event_id)
        result = CollectionResult(
            event_id, "", False, Taken(), state.attempts, elapsed_us // 1000, tuple(a.type for a in alerts), "failed"
        )
        self._count(result)

    def _alert_directly(self, alerts: list[Alert], event_id: str) -> None:
        if self.last_resort is None:
            return
        for alert in alerts:
            body = alert.body(event_id, core.format_timestamp(self.clock.now_us()))
            try:
                self.last_resort(self.intake.pipeline.alert_topic, f"{event_id}:{alert.type}", body)
            except Exception as error:
                log.error("an alert could not be sent", extra={"alert": alert.type, "error": _described(error)[0]})

    # --- what is kept

    def _take(self, state: Round, query: Json) -> Taken:
        now = self.clock.now_us()
        context = {**query, **state.context}
        return self.intake.take_all(
            [
                (p.body, RawInfo(p.source, p.raw_key, now, context, p.attempt, self._by_name.get(p.source), p.url))
                for p in state.parts
            ]
        )

    def _send_alert(self, alert: Alert, event_id: str) -> None:
        pipeline = self.intake.pipeline
        body = alert.body(event_id, core.format_timestamp(self.clock.now_us()))
        self.intake.store.publish(pipeline.alert_topic, f"{event_id}:{alert.type}", body)

    def _store_event(self, result: CollectionResult, started_us: int, before: dict[str, str], state: Round) -> None:
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
        last = failures[-1] if failures else None
        if last is not None and state.error_kind in {"", Kind.ALL_SOURCES_FAILED.value, last["outcome"]}:
            more["error_code"] = _error_code(last["outcome"], last["status"])
            more["error_message"] = (state.error_message or last["message"])[:_MAX_MESSAGE]
        elif state.error_kind:
            more["error_code"] = _error_code(state.error_kind, 0)
            more["error_message"] = state.error_message[:_MAX_MESSAGE]
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

    def _restore(self) -> dict[str, bool]:
        """Take over what other processes know; which sources this process may send the probe of a breaker to."""
        doc = self.store.load_state(self._state_name())
        may_probe: dict[str, bool] = {}
        if self.shared is not None:
            may_probe = {name: self.shared.adopt(name) for name in self.breakers}
        if doc is None:
            return may_probe
        if self.shared is None:
            for name, snapshot in doc["breakers"].items():
                if name in self.breakers:
                    self.breakers[name].restore(snapshot)
        since = doc["secondary_since_us"]
        self.failover.secondary_since_us = since if is_believable(since, self.clock.now_us()) else 0
        return may_probe

    def _settle(
        self, failed: bool, state: Round, elapsed_us: int, success_us: int | None, *, store_failed: bool = False
    ) -> list[Alert]:
        """Judge the collection by what all processes have seen, and write that down.

        Collections may overlap: each reads the state at its own end, so that a run of failures alerts once, and no
        failure is lost.
        """
        name, source = self._state_name(), state.source or self.adapters[0].name
        last_error = _last_error(state)
        for _ in range(_TRIES):
            before = self.store.load_state(name)
            doc = before or {
                "tracker": None,
                "alerts": {"tracker": {"failures_us": [], "alerted": False}, "sent_us": {}},
            }
            # A document of the first version has the tracker alone.
            self.alerts.restore(doc.get("alerts") or {"tracker": doc["tracker"], "sent_us": {}})
            alerts = self.alerts.judge(failed, source, elapsed_us, last_error, store_failed=store_failed)
            known = doc.get("last_success_us")
            times = [t for t in (known if is_believable(known, self.clock.now_us()) else None, success_us) if t]
            after: Json = {
                "format": 1,
                "breakers": {name: breaker.snapshot() for name, breaker in self.breakers.items()},
                "alerts": self.alerts.snapshot(),
                "secondary_since_us": self.failover.secondary_since_us,
                "last_success_us": max(times, default=None),
            }
            if self.store.swap_state(name, before, after):
                return alerts
        message = "the collector's state: other processes write it all the time"
        raise from_kind(Kind.BUSY.value, message)

    def _publish_breakers(self, before: dict[str, str]) -> None:
        if self.shared is not None:
            for name, breaker in self.breakers.items():
                # A probe that succeeded ends the opening for all: else each process would send one of its own.
                self.shared.publish(name, cleared=before[name] != "closed" and breaker.state == "closed")


def _error_code(outcome: str, status: int) -> str:
    if outcome == Kind.HTTP_STATUS.value:
        return _HTTP_CODES.get(status, f"HTTP_{status}")
    return _ERROR_CODES.get(outcome, outcome.upper())


def _last_error(state: Round) -> str:
    """Source, kind and sentence of the last failure, for those who are alerted."""
    bad = [a for a in state.attempts if a["outcome"] != "ok"]
    if bad and state.error_kind in {"", Kind.ALL_SOURCES_FAILED.value}:
        last = bad[-1]
        return f"{last['source']} {last['outcome']}: {last['message']}"[:_MAX_MESSAGE]
    return f"{state.error_kind}: {state.error_message}"[:_MAX_MESSAGE] if state.error_kind else ""


def _described(error: Exception) -> tuple[str, str]:
    """Kind and sentence; the text of an exception of others may quote what it was called with."""
    if isinstance(error, HeadgateError):
        return error.kind.value, error.message
    return Kind.UNAVAILABLE.value, f"a collection could not be stored: {type(error).__name__}"
