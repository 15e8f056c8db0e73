"""What operations are told of a serving process: once when something begins, once when it is over."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from headgate._native import core

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headgate.ports import Clock, Json, Metrics

log = logging.getLogger("headgate.alerts")
_STATE = "alerts"
AlertKind = Literal["dead_letters", "quarantine", "job_failed", "not_alive"]
KINDS: tuple[AlertKind, ...] = ("dead_letters", "quarantine", "job_failed", "not_alive")


@dataclass(frozen=True)
class Condition:
    """Something that is wrong at this moment.

    Args:
        kind: what.
        subject: of what: a stage and a consumer, a job. Kind and subject together name one alert.
        message: one sentence for people, without anything that data brought along.
        count: how much of it. More of it than was told is told again.
    """

    kind: AlertKind
    subject: str
    message: str
    count: int = 1


class AlertBook:
    """Turns what is wrong now into messages: raised, and recovered. What was told is in the store.

    Messages go to the outbox, in one commit with the note that they were told, so each change of state is announced
    once, whatever dies in between (a DynamoDB store has no such commit: there a crash may announce one twice). An alert
    that has just been raised and is raised anew is held back for the cooldown; if it is over by then, nothing is said.

    Args:
        store: `transaction`, `load_state`, `save_state` and `publish`.
        topic: of the messages.
        clock: of the times.
        cooldown_s: between two messages that raise one alert.
        metrics: what is active, by kind, and how many messages.
    """

    def __init__(
        self, store: Any, topic: str, clock: Clock, *, cooldown_s: float, metrics: Metrics | None = None
    ) -> None:  # fmt: skip
        self._store = store
        self._topic = topic
        self._clock = clock
        self._cooldown_us = int(cooldown_s * 1e6)
        self._metrics = metrics

    def judge(self, found: Sequence[Condition], unknown: Sequence[AlertKind] = ()) -> list[Json]:
        """Compare with what was told, and announce the changes.

        Args:
            found: everything that is wrong now.
            unknown: kinds that could not be looked at; what is active of these stays so.

        Returns:
            The messages.
        """
        now = self._clock.now_us()
        with self._store.transaction():
            state: Json = self._store.load_state(_STATE) or {"format": 1, "number": 0, "alerts": {}}
            alerts: dict[str, Json] = {name: dict(alert) for name, alert in state["alerts"].items()}
            messages: list[Json] = []

            def say(alert: Json, status: str) -> None:
                state["number"] += 1
                messages.append(_message(alert, status, state["number"], now))

            current = {_name(condition.kind, condition.subject): condition for condition in found}
            for name, condition in current.items():
                alert = alerts.setdefault(name, {"since_us": None, "told": 0, "told_us": 0})
                alert |= {"kind": condition.kind, "subject": condition.subject}
                alert |= {"message": condition.message, "count": condition.count}
                if alert["since_us"] is None:
                    alert["since_us"] = now
                alert["told"] = min(alert["told"], condition.count)
                if condition.count > alert["told"] and not self._is_recent(alert, now):
                    alert |= {"told": condition.count, "told_us": now}
                    say(alert, "raised")
            for name, alert in list(alerts.items()):
                if name in current or alert["kind"] in unknown:
                    continue
                if alert["told"]:
                    say({**alert, "count": 0}, "recovered")
                alert |= {"since_us": None, "told": 0, "count": 0}
                if not self._is_recent(alert, now):
                    del alerts[name]
            if messages or alerts != state["alerts"]:
                for message in messages:  # before the note: where the two are no one commit, twice is better than never
                    self._store.publish(self._topic, message["alert_id"], message)
                self._store.save_state(_STATE, {**state, "alerts": alerts})
        self._note(alerts, messages)
        return messages

    def active(self) -> list[Json]:
        """What is wrong as of the last look: kind, subject, message, count, since, told."""
        state = self._store.load_state(_STATE) or {"alerts": {}}
        return [
            {
                **{name: alert[name] for name in ("kind", "subject", "message", "count")},
                "since": core.format_timestamp(alert["since_us"]), "told": bool(alert["told"]),
            }
            for _, alert in sorted(state["alerts"].items()) if alert["since_us"] is not None
        ]  # fmt: skip

    def _is_recent(self, alert: Json, now: int) -> bool:
        """Whether it was raised within the cooldown; a time in the future, of a clock that was ahead, is not."""
        return bool(alert["told_us"]) and 0 <= now - alert["told_us"] < self._cooldown_us

    def _note(self, alerts: dict[str, Json], messages: list[Json]) -> None:
        for message in messages:
            about = {name: message[name] for name in ("alert_type", "subject", "status", "count")}
            log.warning("alert", extra=about)
        if self._metrics is None:
            return
        for kind in KINDS:
            active = sum(a["kind"] == kind and a["since_us"] is not None for a in alerts.values())
            self._metrics.gauge("headgate_alerts_active", active, alert=kind)
        for message in messages:
            self._metrics.count("headgate_alerts_total", alert=message["alert_type"], status=message["status"])


def _name(kind: str, subject: str) -> str:
    return f"{kind}:{subject}"  # no kind holds a colon, so that no two pairs have one name


def _message(alert: Json, status: str, number: int, now: int) -> Json:
    return {
        "alert_type": alert["kind"], "status": status, "subject": alert["subject"], "count": alert["count"],
        "message": alert["message"] if status == "raised" else f"over: {alert['message']}",
        "since": core.format_timestamp(alert["since_us"]), "timestamp": core.format_timestamp(now),
        "number": number, "alert_id": f"{now}-{number}",
    }  # fmt: skip


__all__ = ["KINDS", "AlertBook", "AlertKind", "Condition"]
