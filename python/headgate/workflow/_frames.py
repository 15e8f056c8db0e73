"""Frames: where an execution stands. There is one frame for each machine, Parallel branch and Map iteration.

Frames form a tree. Each is one row of the store, written when it changes, so that an execution goes on after a crash
from where its last commit left every frame.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from headgate.workflow._json import to_text

RUNNING, SUCCEEDED, FAILED, ABORTED, TIMED_OUT = "RUNNING", "SUCCEEDED", "FAILED", "ABORTED", "TIMED_OUT"

# What a running frame is about to do, or waits for.
ENTER = "enter"  # its state is to be entered
ATTEMPT = "attempt"  # the next attempt of its state is due, after a retry's delay or a redrive
TASK = "task"  # a task is to be run, or is running
CALLBACK = "callback"  # somebody is to answer a task token
JOB = "job"  # another execution is to end
SLEEP = "sleep"  # a Wait state
BACKOFF = "backoff"  # a retry's delay
CHILDREN = "children"  # its branches or iterations
TIMED_PHASES = (CALLBACK, JOB, SLEEP, BACKOFF)


@dataclass
class Frame:
    """One frame.

    Args:
        id: within its execution, in the order of creation.
        parent: the frame that waits for this one; None for the root.
        machine: the path of its `Machine` in the program.
        index: the branch's or iteration's place.
        state: the name of its current state.
        phase: what it is about to do.
        input: the current state's input.
        variables: assigned in this frame.
        status: RUNNING, SUCCEEDED, FAILED or ABORTED.
        output: of a frame that has succeeded.
        error: of a frame that has failed, and `cause`.
        wake_us: when it goes on by itself.
        entered_event: the id of the event that entered the current state, and `entered_us`, its time.
        last_event: the id of the frame's latest event: the next one's previousEventId.
        attempts: used attempts of each retrier, by its place in Retry.
        retries: all of them together, `$$.State.RetryCount`.
        visits: states entered so far; makes keys of task attempts unique.
        data: of the current state: the arguments of its task, deadlines, the items of a Map, ...
        item: the item of an iteration: index, value, and key.
        own_history: whether it is an execution of its own in history (the children of a distributed Map).
    """

    id: int
    parent: int | None
    machine: str
    state: str
    input: Any
    index: int = 0
    phase: str = ENTER
    variables: dict[str, Any] = field(default_factory=dict)
    status: str = RUNNING
    output: Any = None
    error: str | None = None
    cause: str | None = None
    wake_us: int | None = None
    entered_event: int = 0
    entered_us: int = 0
    last_event: int = 0
    attempts: dict[str, int] = field(default_factory=dict)
    retries: int = 0
    visits: int = 0
    data: dict[str, Any] = field(default_factory=dict)
    item: dict[str, Any] | None = None
    own_history: bool = False

    @property
    def is_running(self) -> bool:
        return self.status == RUNNING

    def to_row(self) -> str:
        """Its document in the store, without what has a column of its own."""
        if self.status == SUCCEEDED:
            # Only the output of a finished frame is read again.
            return to_text(
                {"machine": self.machine, "index": self.index, "output": self.output, "last": self.last_event}
            )
        data = {key: value for key, value in self.data.items() if key not in ("items", "counts")}
        doc: dict[str, Any] = {
            "machine": self.machine, "index": self.index, "state": self.state, "phase": self.phase, "input": self.input,
            "entered_event": self.entered_event, "entered_us": self.entered_us, "last": self.last_event,
        }  # fmt: skip
        for name, value in (
            ("variables", self.variables), ("attempts", self.attempts), ("retries", self.retries),
            ("visits", self.visits), ("data", data), ("item", self.item), ("own_history", self.own_history),
            ("error", self.error), ("cause", self.cause), ("wake_us", self.wake_us),
        ):  # fmt: skip
            if value:
                doc[name] = value
        return to_text(doc)

    @classmethod
    def from_row(cls, number: int, parent: int | None, status: str, text: str, items: str | None) -> Frame:
        """What `to_row` wrote."""
        doc = json.loads(text)
        data = doc.get("data", {})
        if items is not None:
            data["items"] = json.loads(items)
        return cls(
            number, parent, doc["machine"], doc.get("state", ""), doc.get("input"), doc["index"],
            doc.get("phase", ENTER), doc.get("variables", {}), status, doc.get("output"), doc.get("error"),
            doc.get("cause"), doc.get("wake_us"), doc.get("entered_event", 0), doc.get("entered_us", 0), doc["last"],
            doc.get("attempts", {}), doc.get("retries", 0), doc.get("visits", 0), data, doc.get("item"),
            doc.get("own_history", False),
        )  # fmt: skip
