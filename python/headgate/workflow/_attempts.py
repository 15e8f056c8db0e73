"""The attempts of Task states: builds the request of a task, and applies its outcome to the frame."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headgate.workflow import _states
from headgate.workflow._failure import TIMEOUT, StateError, evaluating
from headgate.workflow._frames import CALLBACK, JOB, TASK, Frame
from headgate.workflow._json import LIMIT_BYTES, describe_not_json, size_bytes, to_text, whole_text
from headgate.workflow._program import Resource, State, TaskState
from headgate.workflow._rules import too_large
from headgate.workflow._values import Scope

if TYPE_CHECKING:
    from headgate.workflow._engine import Engine

SECOND_US = 1_000_000


@dataclass(frozen=True)
class TaskRequest:
    """One attempt of a task.

    Args:
        execution: the execution's id.
        workflow: the state machine's name.
        state: the state's name.
        resource: what is to be done.
        arguments: the task's input: Parameters, Arguments, or the state's input.
        key: the same for every run of this attempt, other for every other: an idempotency key.
        token: the task token, where the pattern is waitForTaskToken or the resource is an activity.
        attempt: 0 for the first, 1 for the first retry, ...
        iteration: the place in the innermost Map, or None.
        timeout_s: the time that the task has, or None.
    """

    execution: str
    workflow: str
    state: str
    resource: Resource
    arguments: Any
    key: str
    token: str
    attempt: int
    iteration: int | None
    timeout_s: int | None


@dataclass(frozen=True)
class Done:
    """The task's result."""

    result: Any


@dataclass(frozen=True)
class Failed:
    """The task's error."""

    error: str | None
    cause: str | None


@dataclass(frozen=True)
class TimedOut:
    """The task took longer than it may; `submitted`: while an answer was waited for."""

    cause: str | None = None
    submitted: bool = False


@dataclass(frozen=True)
class Submitted:
    """The task was handed to somebody who answers later.

    Args:
        output: what the service answered.
        child: the execution that is waited for, if it is one.
    """

    output: Any
    child: str | None = None


Outcome = Done | Failed | TimedOut | Submitted


def start_task(engine: Engine, frame: Frame, state: TaskState, scope: Scope) -> None:
    """Evaluate what the task needs, and put it up to be run.

    Raises:
        StateError: something cannot be evaluated.
    """
    if state.resource.pattern == "waitForTaskToken" or state.resource.kind == "activity":
        frame.data["token"] = str(uuid.uuid4())
        scope = engine.scope_of(frame, state)
    inner = scope if state.is_jsonata else scope.with_data(_states.effective_input(state, scope))
    arguments = _states.arguments(state, scope)
    if state.credentials is not None:
        state.credentials.evaluate(inner)
    timeout = _states.whole_number(state.timeout, "TimeoutSeconds", inner, least=1)
    heartbeat = _states.whole_number(state.heartbeat, "HeartbeatSeconds", inner, least=1)
    _emit_scheduled(engine, frame, state.resource, arguments, timeout, heartbeat)
    frame.data |= {"arguments": arguments, "started_us": engine.now_us()}
    for name, value in (("timeout", timeout), ("heartbeat", heartbeat)):
        if value is not None:
            frame.data[name] = value
    frame.phase = TASK
    engine.tasks.append(frame.id)


def request_of(engine: Engine, frame: Frame) -> TaskRequest:
    """What is asked of the task of a frame."""
    state = engine.state_of(frame)
    assert isinstance(state, TaskState)
    node: Frame | None = frame
    iteration = None
    while node is not None and iteration is None:
        iteration = None if node.item is None else node.item["Index"]
        node = None if node.parent is None else engine.frames[node.parent]
    record = engine.record
    return TaskRequest(
        record.id, record.workflow, state.name, state.resource, frame.data["arguments"],
        f"{record.id}:{record.redrives}:{frame.id}:{frame.visits}:{frame.retries}", frame.data.get("token", ""),
        frame.retries, iteration, frame.data.get("timeout"),
    )  # fmt: skip


def _family(resource: Resource) -> str:
    return {"lambda": "LambdaFunction", "function": "LambdaFunction", "activity": "Activity"}.get(resource.kind, "Task")


def _about(resource: Resource) -> dict[str, Any]:
    """What the events of a service task tell about it."""
    action = f"{resource.action}.{resource.pattern}" if resource.pattern else resource.action
    return {"resource": action, "resourceType": resource.service}


def _emit_scheduled(
    engine: Engine, frame: Frame, resource: Resource, arguments: Any, timeout: int | None, heartbeat: int | None
) -> None:
    family = _family(resource)
    times = {"timeoutInSeconds": timeout, "heartbeatInSeconds": heartbeat}
    given = {name: value for name, value in times.items() if value is not None}
    if family == "Task":
        about = _about(resource)
        engine.emit(frame, "TaskScheduled", {**about, "region": "local", "parameters": to_text(arguments), **given})
        engine.emit(frame, "TaskStarted", about)
        return
    details = {"resource": resource.text, "input": to_text(arguments), "inputDetails": {"truncated": False}, **given}
    engine.emit(frame, f"{family}Scheduled", details)
    if family == "LambdaFunction":
        engine.emit(frame, "LambdaFunctionStarted")


def apply_outcome(engine: Engine, frame: Frame, outcome: Outcome) -> None:
    """Go on with what a task has brought."""
    state = engine.state_of(frame)
    assert isinstance(state, TaskState)
    engine.dirty.add(frame.id)
    if isinstance(outcome, Submitted):
        _submit(engine, frame, state, outcome)
        return
    if isinstance(outcome, TimedOut):
        _time_out(engine, frame, state, outcome.cause)
        return
    if isinstance(outcome, Failed):
        _fail_task(engine, frame, state, outcome.error, outcome.cause)
        return
    problem = describe_not_json(outcome.result)
    if problem is not None:
        message = f"Unable to marshal response: {problem}"
        cause = to_text({"errorMessage": message, "errorType": "Runtime.MarshalError", "stackTrace": []})
        _fail_task(engine, frame, state, "Runtime.MarshalError", cause)
        return
    text = to_text(outcome.result)
    if size_bytes(text) > LIMIT_BYTES:
        error = too_large(state.resource.text)
        _fail_task(engine, frame, state, error.error, error.cause)
        return
    about = _about(state.resource) if _family(state.resource) == "Task" else {}
    details = {**about, "output": text, "outputDetails": {"truncated": False}}
    engine.emit(frame, f"{_family(state.resource)}Succeeded", details)
    _finish(engine, frame, state, outcome.result)


def _finish(engine: Engine, frame: Frame, state: TaskState, result: Any) -> None:
    try:
        with evaluating():
            output, variables = _states.finish(state, engine.scope_of(frame, state), result, frame.input)
        engine.leave(frame, state, output, variables, state.next)
    except StateError as error:
        engine.fail(frame, state, error)
    _queue(engine, frame)


def _queue(engine: Engine, frame: Frame) -> None:
    if frame.is_running and frame.phase in ("enter", "attempt"):
        engine.ready.append(frame.id)


def _fail_task(engine: Engine, frame: Frame, state: TaskState, error: str | None, cause: str | None) -> None:
    error, cause = (None if text is None else whole_text(text) for text in (error, cause))
    details = {k: v for k, v in (("error", error), ("cause", cause)) if v is not None}
    about = _about(state.resource) if _family(state.resource) == "Task" else {}
    engine.emit(frame, f"{_family(state.resource)}Failed", {**about, **details})
    engine.fail(frame, state, StateError(error, cause))


def _submit(engine: Engine, frame: Frame, state: TaskState, outcome: Submitted) -> None:
    if state.resource.kind != "activity":
        details = {**_about(state.resource), "output": to_text(outcome.output)}
        engine.emit(frame, "TaskSubmitted", details)
    engine.wait(frame, CALLBACK if outcome.child is None else JOB, None)
    if outcome.child is not None:
        frame.data["child"] = outcome.child
    frame.data["beat_us"] = engine.now_us()
    set_deadline(frame)


def set_deadline(frame: Frame) -> None:
    """When a task that somebody else does is given up: by its time limit, or for want of a heartbeat."""
    data = frame.data
    times = []
    if "timeout" in data:
        times.append(data["started_us"] + data["timeout"] * SECOND_US)
    if "heartbeat" in data:
        times.append(data["beat_us"] + data["heartbeat"] * SECOND_US)
    frame.wake_us = min(times) if times else None


def time_out(engine: Engine, frame: Frame, state: State) -> None:
    """A callback or a job did not come in time."""
    assert isinstance(state, TaskState)
    _time_out(engine, frame, state, None)


def _time_out(engine: Engine, frame: Frame, state: TaskState, cause: str | None) -> None:
    about = _about(state.resource) if _family(state.resource) == "Task" else {}
    cause = None if cause is None else whole_text(cause)
    details = {**about, "error": TIMEOUT} | ({} if cause is None else {"cause": cause})
    engine.emit(frame, f"{_family(state.resource)}TimedOut", details)
    engine.fail(frame, state, StateError(TIMEOUT, cause))
