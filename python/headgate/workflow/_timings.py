"""How long each state of an execution took and how it ended, from the execution's history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

_ENDED = ("StateSucceeded", "StateCaught")
_FAILURES = (
    "TaskFailed", "TaskTimedOut", "TaskStartFailed", "TaskSubmitFailed", "LambdaFunctionFailed",
    "LambdaFunctionTimedOut", "LambdaFunctionStartFailed", "LambdaFunctionScheduleFailed", "ActivityFailed",
    "ActivityTimedOut",
)  # fmt: skip


@dataclass
class Timing:
    """What became of a state.

    Args:
        runs: how often it was entered.
        failures: failed attempts.
        duration_ms: all its runs together, waits between attempts included where the history has them.
        status: "running", "succeeded", "retried" (succeeded after failures) or "failed".
    """

    runs: int = 0
    failures: int = 0
    duration_ms: float = 0.0
    status: str = "running"

    def text(self) -> str:
        """One line.

        Example:
            >>> Timing(1, 2, 61_250.0, "retried").text()
            '61.2 s, 2 failed attempts'
        """
        ms = self.duration_ms
        shown = f"{ms:.1f} ms" if ms < 1_000 else f"{ms / 1_000:.1f} s" if ms < 600_000 else f"{ms / 60_000:.0f} min"
        more = [f"{self.runs} runs"] if self.runs > 1 else []
        if self.failures:
            more.append(f"{self.failures} failed attempt{'s' if self.failures > 1 else ''}")
        return ", ".join([shown if self.status != "running" else "running", *more])


def state_timings(history: Any) -> dict[str, Timing]:
    """State name -> what became of it.

    Args:
        history: a list of events: those of the local runner, or those of Step Functions' GetExecutionHistory. Events of
            other kinds are passed over.

    Example:
        >>> state_timings([{"type": "StateSucceeded", "state": "A", "duration_ms": 5.0}])["A"].text()
        '5.0 ms'
    """
    found: dict[str, Timing] = {}
    open_since: dict[str, list[float]] = {}
    state_of: dict[Any, str] = {}  # event id -> the state that it happened in
    for event in history or ():
        if not isinstance(event, Mapping):
            continue
        kind = str(event.get("type", ""))
        at_ms = _milliseconds(event)
        if kind.startswith("State"):
            _count_local(found, kind, event)
            continue
        name = _name_of(event) or state_of.get(event.get("previousEventId"), "")
        if not name:
            continue
        state_of[event.get("id")] = name
        timing = found.setdefault(name, Timing())
        if kind.endswith("StateEntered"):
            timing.runs += 1
            timing.status = "running"
            open_since.setdefault(name, []).append(at_ms)
        elif kind.endswith("StateExited"):
            starts = open_since.get(name) or [at_ms]
            timing.duration_ms += max(0.0, at_ms - starts.pop(0))
            timing.status = "retried" if timing.failures else "succeeded"
        elif kind in _FAILURES:
            timing.failures += 1
    if any(isinstance(e, Mapping) and e.get("type") in ("ExecutionFailed", "ExecutionTimedOut") for e in history or ()):
        ends = [_milliseconds(e) for e in history if isinstance(e, Mapping)]
        for name, starts in open_since.items():
            if starts and found[name].status == "running":
                found[name].status = "failed"
                found[name].duration_ms += max(0.0, max(ends) - starts[0])
    return found


def _count_local(found: dict[str, Timing], kind: str, event: Mapping[str, Any]) -> None:
    timing = found.setdefault(str(event.get("state")), Timing())
    timing.duration_ms += float(event.get("duration_ms") or 0.0)
    if kind in _ENDED:
        timing.runs += 1
        timing.status = "retried" if timing.failures or kind == "StateCaught" else "succeeded"
    else:
        timing.failures += 1
        if kind == "StateFailed":
            timing.runs += 1
            timing.status = "failed"


def _name_of(event: Mapping[str, Any]) -> str:
    for member in ("stateEnteredEventDetails", "stateExitedEventDetails"):
        details = event.get(member)
        if isinstance(details, Mapping):
            return str(details.get("name", ""))
    return str(event.get("state") or "")


def _milliseconds(event: Mapping[str, Any]) -> float:
    if isinstance(event.get("at_us"), int | float):
        return float(event["at_us"]) / 1_000
    at = event.get("timestamp")
    if isinstance(at, datetime):
        return at.timestamp() * 1_000
    if isinstance(at, int | float):
        return float(at) * 1_000
    try:
        return datetime.fromisoformat(str(at)).timestamp() * 1_000
    except ValueError:
        return 0.0
