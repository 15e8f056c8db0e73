"""The history of an execution, as GetExecutionHistory of Step Functions shows it."""

from __future__ import annotations

from typing import Any

LIMIT = 25_000  # events of a Standard execution

# event type -> the name of its details
_DETAILS = {
    "TaskStateAborted": "", "WaitStateAborted": "", "ParallelStateAborted": "", "MapStateAborted": "",
    "TaskScheduled": "taskScheduledEventDetails", "TaskStarted": "taskStartedEventDetails",
    "LambdaFunctionScheduled": "lambdaFunctionScheduledEventDetails", "LambdaFunctionStarted": "",
    "ParallelStateStarted": "", "ParallelStateSucceeded": "", "ParallelStateFailed": "", "MapStateSucceeded": "",
    "MapStateFailed": "", "MapRunSucceeded": "",
}  # fmt: skip


def details_name(kind: str) -> str:
    """The key of an event's details: `stateEnteredEventDetails`; "" for an event without details."""
    if kind in _DETAILS:
        return _DETAILS[kind]
    if kind.endswith("StateEntered"):
        return "stateEnteredEventDetails"
    if kind.endswith("StateExited"):
        return "stateExitedEventDetails"
    return f"{kind[0].lower()}{kind[1:]}EventDetails"


class History:
    """Numbers events, and keeps those that are not yet committed.

    Args:
        next_id: the id of the next event.
        is_kept: False for the children of a distributed Map: their events are numbered, not kept.
    """

    def __init__(self, next_id: int = 1, *, is_kept: bool = True) -> None:
        self.next_id = next_id
        self.is_kept = is_kept
        self.pending: list[tuple[int, str, str | None, dict[str, Any]]] = []

    def add(
        self, kind: str, at_us: int, previous: int, state: str | None, details: dict[str, Any] | None = None
    ) -> int:
        """Add an event; its id."""
        number = self.next_id
        self.next_id += 1
        if self.is_kept:
            doc: dict[str, Any] = {"id": number, "previousEventId": previous}
            name = details_name(kind)
            if name:
                doc[name] = details or {}
            self.pending.append((at_us, kind, state, doc))
        return number

    def take(self) -> list[tuple[int, str, str | None, dict[str, Any]]]:
        """The events since the last call."""
        events, self.pending = self.pending, []
        return events
