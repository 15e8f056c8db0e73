"""Executes a program: moves frames from state to state until each frame waits for a task, a time or its children.

The engine does no I/O: it evaluates, numbers events, and collects what is to be committed. Who runs it (the runner)
commits, runs tasks, hands their outcomes in, and wakes it when a time has come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from headgate._native import core
from headgate.workflow import _states
from headgate.workflow._failure import RUNTIME, StateError, evaluating
from headgate.workflow._frames import (
    ABORTED,
    ATTEMPT,
    BACKOFF,
    CHILDREN,
    ENTER,
    FAILED,
    RUNNING,
    SLEEP,
    SUCCEEDED,
    TIMED_OUT,
    TIMED_PHASES,
    Frame,
)
from headgate.workflow._history import LIMIT, History
from headgate.workflow._json import LIMIT_BYTES, size_bytes, to_text
from headgate.workflow._program import (
    ChoiceState,
    FailState,
    Machine,
    MapState,
    ParallelState,
    PassState,
    State,
    SucceedState,
    TaskState,
    WaitState,
)
from headgate.workflow._record import Record
from headgate.workflow._rules import matches, retry_delay_us, too_large
from headgate.workflow._values import Scope

EXPRESS_LIMIT_US = 300 * 1_000_000
STANDARD_LIMIT_US = 365 * 86_400 * 1_000_000
_EXPRESS_EVENTS = 1_000_000  # Express keeps no history; this only ends loops that do nothing
_EVENTS_OF_A_STEP = 8  # a step adds at most so many history events, including the end of the execution
_OPEN_WHEN_FAILED = ("Task", "Wait")  # a failing Parallel or Map has had its own Failed event


class Engine:
    """One execution in memory.

    Args:
        record: the execution.
        machine: its program.
        frames: as they were committed; empty for a new one.
        history: counts its events.
        now_us: tells the time.
        services: reads the items of distributed Maps and writes their results; see `headgate.workflow._items`.
    """

    def __init__(
        self,
        record: Record,
        machine: Machine,
        frames: list[Frame],
        history: History,
        now_us: Callable[[], int],
        services: Any = None,
    ) -> None:
        self.record = record
        self.now_us = now_us
        self.services = services
        self.history = history
        self.machine = machine
        self.machines = {m.path: m for m in machine.machines()}
        self.frames = {frame.id: frame for frame in frames}
        self.children: dict[int, list[int]] = {}
        self.histories: dict[int, History] = {}
        self.dirty: set[int] = set()
        self.deleted: list[int] = []
        self.new_items: set[int] = set()
        self.ready: deque[int] = deque()
        self.tasks: deque[int] = deque()
        self.timed: set[int] = (
            set()
        )  # frames that wait for a time or an answer; entries that are no longer valid are removed lazily
        self.status = RUNNING
        self.output: Any = None
        self.error: str | None = None
        self.cause: str | None = None
        self.next_frame = 1 + max(self.frames, default=0)
        for frame in frames:
            if frame.parent is not None:
                self.children.setdefault(frame.parent, []).append(frame.id)
            if frame.phase in TIMED_PHASES:
                self.timed.add(frame.id)

    # --- beginning and going on

    def begin(self) -> None:
        """Make the root frame of a new execution."""
        root = self.new_frame(None, self.machine, 0, self.record.input)
        details = {"input": to_text(self.record.input), "inputDetails": {"truncated": False}, "roleArn": "local"}
        self.history.add("ExecutionStarted", self.now_us(), 0, None, details)
        self.ready.append(root.id)

    def go_on(self) -> None:
        """Find what the committed frames are about to do."""
        for frame in self.frames.values():
            if not frame.is_running:
                continue
            if frame.phase in (ENTER, ATTEMPT):
                self.ready.append(frame.id)
            elif frame.phase == "task":
                self.tasks.append(frame.id)
            elif frame.phase == CHILDREN:
                self._containers().go_on(self, frame, self.state_of(frame))

    def new_frame(self, parent: Frame | None, machine: Machine, index: int, data: Any) -> Frame:
        """A frame at the start of a machine."""
        frame = Frame(
            self.next_frame, None if parent is None else parent.id, machine.path, machine.start_at, data, index
        )
        self.next_frame += 1
        self.frames[frame.id] = frame
        if parent is not None:
            self.children.setdefault(parent.id, []).append(frame.id)
            frame.last_event = parent.last_event
        self.dirty.add(frame.id)
        return frame

    def drop_children(self, frame: Frame) -> None:
        """Forget the frames below one; their results have been taken."""
        for number in self.children.pop(frame.id, ()):
            child = self.frames.pop(number)
            self.drop_children(child)
            self.dirty.discard(number)
            self.new_items.discard(number)
            self.deleted.append(number)

    # --- what frames see

    def state_of(self, frame: Frame) -> State:
        return self.machines[frame.machine].states[frame.state]

    def history_of(self, frame: Frame) -> History:
        """The execution's history, or the own one of a distributed Map's child."""
        node: Frame | None = frame
        while node is not None:
            if node.own_history:
                return self.histories.setdefault(node.id, History(node.last_event + 1, is_kept=False))
            node = None if node.parent is None else self.frames[node.parent]
        return self.history

    def emit(self, frame: Frame, kind: str, details: dict[str, Any] | None = None) -> int:
        """Add an event to a frame's history."""
        frame.last_event = self.history_of(frame).add(kind, self.now_us(), frame.last_event, frame.state, details)
        return frame.last_event

    def variables_of(self, frame: Frame) -> dict[str, Any]:
        """Assigned variables that a frame sees: its own, and those of the frames around it."""
        if frame.parent is None or frame.own_history:
            return frame.variables
        return {**self.variables_of(self.frames[frame.parent]), **frame.variables}

    def scope_of(self, frame: Frame, state: State, item: dict[str, Any] | None = None) -> Scope:
        """What the fields of a frame's state may refer to."""
        context = self.context_of(frame, state, item)
        return Scope(frame.input, context, self.variables_of(frame), frame.input)

    def context_of(self, frame: Frame, state: State, item: dict[str, Any] | None = None) -> dict[str, Any]:
        """The context object, `$$`."""
        record = self.record
        execution = {
            "Id": record.arn, "Input": record.input, "StartTime": core.format_timestamp(record.started_us),
            "Name": record.id, "RoleArn": "local", "RedriveCount": record.redrives,
        }  # fmt: skip
        node: Frame | None = frame
        while node is not None:
            if item is None and node.item is not None:
                item = self._item(node)
            if node.own_history and "name" in node.data.get("own", {}):
                own = node.data["own"]
                execution |= {"Id": f"{record.arn}:{own['name']}", "Name": own["name"], "Input": own["input"]}
                break
            node = None if node.parent is None else self.frames[node.parent]
        if record.redriven_us:
            execution["RedriveTime"] = core.format_timestamp(record.redriven_us)
        inner: dict[str, Any] = {"Name": state.name, "EnteredTime": core.format_timestamp(frame.entered_us)}
        if isinstance(state, TaskState | ParallelState | MapState):
            inner["RetryCount"] = frame.retries
        context: dict[str, Any] = {
            "Execution": execution,
            "StateMachine": {"Id": record.machine_arn, "Name": record.workflow},
            "State": inner,
        }
        if item is not None:
            context["Map"] = {"Item": item}
        if "token" in frame.data:
            context["Task"] = {"Token": frame.data["token"]}
        return context

    def _item(self, frame: Frame) -> dict[str, Any]:
        assert frame.item is not None
        assert frame.parent is not None
        items = self.frames[frame.parent].data.get("items")
        index = frame.item["Index"]
        found = {**frame.item, "Value": items[index] if items else None}
        keys = self.frames[frame.parent].data.get("keys")
        return {**found, "Key": keys[index]} if keys else found

    # --- moving on

    def run_ready(self) -> None:
        """Move every frame on until it waits for something."""
        limit = (LIMIT if self.record.kind == "STANDARD" else _EXPRESS_EVENTS) - _EVENTS_OF_A_STEP
        while self.ready and self.status == RUNNING:
            self._step(self.frames.get(self.ready.popleft()), limit)

    def _step(self, frame: Frame | None, limit: int) -> None:
        while frame is not None and frame.is_running and frame.phase in (ENTER, ATTEMPT) and self.status == RUNNING:
            if self.history_of(frame).next_id > limit:
                most = limit + _EVENTS_OF_A_STEP
                cause = f"The execution reached the maximum number of history events ({most})."
                self.end(FAILED, frame, error=RUNTIME, cause=cause)
                return
            state = self.state_of(frame)
            self.dirty.add(frame.id)
            if frame.phase == ENTER:
                self._enter(frame, state)
            try:
                with evaluating():
                    self._attempt(frame, state)
            except StateError as error:
                self.fail(frame, state, error)

    def _enter(self, frame: Frame, state: State) -> None:
        frame.entered_us = self.now_us()
        frame.attempts, frame.retries, frame.wake_us = {}, 0, None
        if "items" in frame.data:
            self.new_items.add(frame.id)  # its column is emptied
        frame.data = {"own": frame.data["own"]} if "own" in frame.data else {}
        frame.visits += 1
        if frame.parent is None and frame.last_event == 1:
            frame.last_event = 0  # in Step Functions too, the first state has no previous event
        details = {"name": state.name, "input": to_text(frame.input), "inputDetails": {"truncated": False}}
        frame.entered_event = self.emit(frame, f"{state.type}StateEntered", details)
        frame.phase = ATTEMPT

    def _attempt(self, frame: Frame, state: State) -> None:
        scope = self.scope_of(frame, state)
        if isinstance(state, PassState):
            output, variables = _states.finish(state, scope, _states.pass_result(state, scope), frame.input)
            self.leave(frame, state, output, variables, state.next)
        elif isinstance(state, ChoiceState):
            target, output, variables = _states.choose(state, scope)
            self.leave(frame, state, output, variables, target)
        elif isinstance(state, SucceedState):
            output, variables = _states.pass_through(state, scope)
            self.leave(frame, state, output, variables, None)
        elif isinstance(state, FailState):
            raise _states.failure(state, scope)
        elif isinstance(state, WaitState):
            wake = _states.wake_time(state, scope, self.now_us())
            if wake > self.now_us():
                self.wait(frame, SLEEP, wake)
            else:
                self._leave_wait(frame, state)
        elif isinstance(state, TaskState):
            from headgate.workflow._attempts import start_task

            start_task(self, frame, state, scope)
        else:
            self._containers().start(self, frame, state, scope)

    def _leave_wait(self, frame: Frame, state: State) -> None:
        output, variables = _states.pass_through(state, self.scope_of(frame, state))
        self.leave(frame, state, output, variables, state.next)

    @staticmethod
    def _containers() -> Any:
        from headgate.workflow import _containers

        return _containers

    def leave(self, frame: Frame, state: State, output: Any, variables: dict[str, Any], target: str | None) -> None:
        """Leave a state.

        Raises:
            StateError: the output is larger than a state may hand on.
        """
        text = to_text(output)
        if size_bytes(text) > LIMIT_BYTES:
            raise too_large(state.name)
        details: dict[str, Any] = {"name": state.name, "output": text, "outputDetails": {"truncated": False}}
        if variables:
            frame.variables = {**frame.variables, **variables}
            details["assignedVariables"] = {name: to_text(value) for name, value in variables.items()}
        self.dirty.add(frame.id)
        self.emit(frame, f"{state.type}StateExited", details)
        if target is None:
            self._complete(frame, output)
        else:
            frame.state, frame.input, frame.phase, frame.wake_us = target, output, ENTER, None

    def _complete(self, frame: Frame, output: Any) -> None:
        frame.status, frame.output, frame.wake_us = SUCCEEDED, output, None
        if frame.parent is None:
            self.end(SUCCEEDED, frame, output=output)
        else:
            parent = self.frames[frame.parent]
            self._containers().child_succeeded(self, parent, self.state_of(parent), frame)

    # --- failing

    def fail(self, frame: Frame, state: State, error: StateError) -> None:
        """A state failed: retry it, catch the error, or let the frame fail."""
        cause = error.cause
        if error.decorated:
            cause = (
                f"An error occurred while executing the state '{state.name}' "
                f"(entered at the event id #{frame.entered_event}). {error.cause}"
            )
        self.dirty.add(frame.id)
        if error.evaluation:
            details = {"error": error.error, "cause": cause, "location": error.location, "state": state.name}
            self.emit(frame, "EvaluationFailed", details)
        if error.error != RUNTIME:
            if self._retry(frame, state, error):
                return
            for catcher in state.catchers:
                if matches(catcher.errors, error.error):
                    output_error = {"Error": error.error or "", "Cause": cause or ""}
                    self._catch(frame, state, catcher, output_error)
                    return
        self._fail_frame(frame, state, error.error, cause)

    def _catch(self, frame: Frame, state: State, catcher: Any, error_output: dict[str, Any]) -> None:
        frame.data.pop("token", None)
        try:
            with evaluating():
                scope = self.scope_of(frame, state)
                output, variables = _states.caught(catcher, state, scope, error_output, frame.input)
            self.drop_children(frame)
            self.leave(frame, state, output, variables, catcher.next)
        except StateError as second:
            cause = second.cause
            if second.decorated:
                entered = f"(entered at the event id #{frame.entered_event})"
                cause = f"An error occurred while executing the state '{state.name}' {entered}. {cause}"
            if second.evaluation:
                details = {"error": second.error, "cause": cause, "location": second.location, "state": state.name}
                self.emit(frame, "EvaluationFailed", details)
            self._fail_frame(frame, state, second.error, cause)
            return
        if frame.is_running and frame.phase == ENTER:
            self.ready.append(frame.id)

    def _retry(self, frame: Frame, state: State, error: StateError) -> bool:
        for place, retrier in enumerate(state.retriers):
            if not matches(retrier.errors, error.error):
                continue
            used = frame.attempts.get(str(place), 0)
            if used >= retrier.max_attempts:
                return False  # only the first retrier that names the error counts
            frame.attempts[str(place)] = used + 1
            frame.retries += 1
            self.drop_children(frame)
            self.wait(frame, BACKOFF, self.now_us() + retry_delay_us(retrier, used))
            return True
        return False

    def _fail_frame(self, frame: Frame, state: State, error: str | None, cause: str | None) -> None:
        if isinstance(state, ParallelState | MapState):
            self._containers().container_failed(self, frame, state, error, cause)
        frame.status, frame.error, frame.cause, frame.wake_us = FAILED, error, cause, None
        self.dirty.add(frame.id)
        if frame.parent is None:
            self.end(FAILED, frame, error=error, cause=cause)
            return
        if state.type in _OPEN_WHEN_FAILED:
            self.emit(frame, f"{state.type}StateAborted")
        parent = self.frames[frame.parent]
        self._containers().child_failed(self, parent, self.state_of(parent), frame)

    def abort_frame(self, frame: Frame) -> None:
        """Stop a frame and all below it: another one has failed."""
        for number in self.children.get(frame.id, ()):
            if self.frames[number].is_running:
                self.abort_frame(self.frames[number])
        state = self.state_of(frame)
        if frame.phase != ENTER and state.type in ("Task", "Wait", "Parallel", "Map"):
            self.emit(frame, f"{state.type}StateAborted")
        frame.status, frame.wake_us = ABORTED, None
        self.dirty.add(frame.id)

    def end(
        self,
        status: str,
        frame: Frame | None,
        *,
        output: Any = None,
        error: str | None = None,
        cause: str | None = None,
    ) -> None:
        """End the execution."""
        self.status, self.output, self.error, self.cause = status, output, error, cause
        previous = frame.last_event if frame is not None and frame.parent is None else self.history.next_id - 1
        kind = {SUCCEEDED: "Succeeded", FAILED: "Failed", TIMED_OUT: "TimedOut", ABORTED: "Aborted"}[status]
        details: dict[str, Any] = {"output": to_text(output), "outputDetails": {"truncated": False}}
        if status != SUCCEEDED:
            details = {k: v for k, v in (("error", error), ("cause", cause)) if v is not None}
        self.history.add(f"Execution{kind}", self.now_us(), previous, None, details)
        self.ready.clear()
        self.tasks.clear()

    # --- redrive

    def redrive(self) -> None:
        """Go on from where the execution failed: what has succeeded is not run again."""
        self.record.redrives += 1
        self.record.redriven_us = self.now_us()
        root = next(frame for frame in self.frames.values() if frame.parent is None)
        previous = self.history.next_id - 1
        details = {"redriveCount": self.record.redrives}
        root.last_event = self.history.add("ExecutionRedriven", self.now_us(), previous, None, details)
        self._revive(root)

    def _revive(self, frame: Frame) -> None:
        if frame.status == SUCCEEDED:
            return
        state = self.state_of(frame)
        frame.status, frame.error, frame.cause, frame.wake_us = RUNNING, None, None, None
        frame.attempts, frame.retries = {}, 0
        self.dirty.add(frame.id)
        children = [self.frames[number] for number in self.children.get(frame.id, ())]
        if not children or all(child.status == SUCCEEDED for child in children):
            self.drop_children(frame)
            frame.phase = ENTER if frame.phase == ENTER or isinstance(state, FailState) else ATTEMPT
            self.ready.append(frame.id)
            return
        frame.phase = CHILDREN
        for child in children:
            self._revive(child)
        self._containers().go_on(self, frame, state)

    # --- time

    @property
    def deadline_us(self) -> int:
        """When the execution's time is over."""
        begun = self.record.redriven_us or self.record.started_us
        limit = EXPRESS_LIMIT_US if self.record.kind == "EXPRESS" else STANDARD_LIMIT_US
        if self.machine.timeout_s is not None:
            limit = min(limit, int(self.machine.timeout_s * 1_000_000))
        return begun + limit

    def fire_due(self) -> None:
        """Wake what is due now, and within the execution's time."""
        now = min(self.now_us(), self.deadline_us)
        due = [frame for frame in self.waiting() if frame.wake_us is not None and frame.wake_us <= now]
        for frame in sorted(due, key=lambda f: (f.wake_us or 0, f.id)):
            if self.status != RUNNING or not frame.is_running or frame.id not in self.frames:
                continue
            self._wake(frame)

    def wait(self, frame: Frame, phase: str, wake_us: int | None) -> None:
        """Let a frame wait: in a phase, and until a time if there is one."""
        frame.phase, frame.wake_us = phase, wake_us
        self.timed.add(frame.id)

    def waiting(self) -> list[Frame]:
        """The frames that wait for a time or an answer."""
        found = []
        for number in list(self.timed):
            frame = self.frames.get(number)
            if frame is None or not frame.is_running or frame.phase not in TIMED_PHASES:
                self.timed.discard(number)
            else:
                found.append(frame)
        return found

    def check_deadline(self) -> None:
        """End the execution if its time is over; what was due by then has been done before."""
        if self.status == RUNNING and self.now_us() >= self.deadline_us:
            self.end(TIMED_OUT, None)

    def _wake(self, frame: Frame) -> None:
        state = self.state_of(frame)
        self.dirty.add(frame.id)
        frame.wake_us = None
        if frame.phase == BACKOFF:
            frame.phase = ATTEMPT
        elif frame.phase == SLEEP:
            try:
                with evaluating():
                    self._leave_wait(frame, state)
            except StateError as error:
                self.fail(frame, state, error)
        elif frame.phase in TIMED_PHASES:
            from headgate.workflow._attempts import time_out

            time_out(self, frame, state)
        if frame.is_running and frame.phase in (ENTER, ATTEMPT):
            self.ready.append(frame.id)

    def next_wake_us(self) -> tuple[int, bool]:
        """When to come back, and whether that is more than the end of the execution's time."""
        times = [frame.wake_us for frame in self.waiting() if frame.wake_us is not None]
        return min([*times, self.deadline_us]), bool(times)
