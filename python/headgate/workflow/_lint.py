"""`lint`: what Step Functions refuses in a definition, and what may go wrong although it accepts it.

Example:
    >>> lint({"StartAt": "A", "States": {"A": {"Type": "Wait", "Seconds": 1, "End": True}}})
    []
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headgate.workflow._failure import ALL, Finding, child
from headgate.workflow._json import LIMIT_BYTES, size_bytes, to_text
from headgate.workflow._parse import is_terminal, parse_definition, transitions
from headgate.workflow._program import (
    Catcher,
    ChoiceState,
    FailState,
    Machine,
    MapState,
    ParallelState,
    PassState,
    Retrier,
    State,
    TaskState,
    WaitState,
)
from headgate.workflow._values import Constant, ListValue, ObjectValue, Value

EXPRESS_LIMIT_S = 300.0
_KNOWN_ERRORS = {
    "States.ALL", "States.HeartbeatTimeout", "States.Timeout", "States.TaskFailed", "States.Permissions",
    "States.ResultPathMatchFailure", "States.ParameterPathFailure", "States.QueryEvaluationError",
    "States.BranchFailed", "States.NoChoiceMatched", "States.IntrinsicFailure",
    "States.ExceedToleratedFailureThreshold", "States.ItemReaderFailed", "States.ResultWriterFailed",
    "States.DataLimitExceeded", "States.Runtime", "States.Http.Socket",
}  # fmt: skip
# (service, action) -> the argument that makes a repeated call harmless
_IDEMPOTENCY_KEYS = {
    ("sqs", "sendMessage"): "MessageDeduplicationId",
    ("sns", "publish"): "MessageDeduplicationId",
    ("states", "startExecution"): "Name",
    ("ecs", "runTask"): "ClientToken",
    ("batch", "submitJob"): "",
    ("glue", "startJobRun"): "",
    ("events", "putEvents"): "",
}


def lint(definition: Any, type: str = "STANDARD") -> list[Finding]:  # noqa: A002 - the word of Step Functions
    """Check a definition.

    Args:
        definition: the parsed JSON, or its text.
        type: STANDARD or EXPRESS.

    Returns:
        Findings; those of severity "error" are what Step Functions refuses, "warning" what may go wrong. Empty when
        there are none.
    """
    parsed = parse_definition(definition, str(type))
    if parsed.machine is None:
        return parsed.findings
    checks = _Checks(str(type))
    checks.machine(parsed.machine)
    checks.budget(parsed.machine)
    return [*parsed.findings, *checks.found]


class _Checks:
    """The warnings; they need a program that is sound."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.found: list[Finding] = []
        self.raised: set[Any] = set()  # errors that Fail states of the definition name

    def warn(self, path: str, code: str, message: str, mend: str, state: str = "") -> None:
        self.found.append(Finding(path, code, message, mend, "warning", state))

    def machine(self, machine: Machine) -> None:
        for state in machine.every_state():
            if isinstance(state, FailState) and isinstance(state.error, Constant):
                self.raised.add(state.error.value)
        for part in machine.machines():
            self._exits(part)
            for state in part.states.values():
                self._state(state)

    def _state(self, state: State) -> None:
        self._unreachable_handlers(state)
        self._error_names(state)
        if isinstance(state, TaskState):
            self._resource(state)
            self._idempotency(state)
        if isinstance(state, PassState) and state.has_result:
            self._large(state, state.result)
        if isinstance(state, ChoiceState) and state.default is None:
            self.warn(
                state.path, "NO_DEFAULT", "no rule may match, and there is no Default",
                "add Default, or be sure that one rule always matches", state.name,
            )  # fmt: skip
        if isinstance(state, MapState) and self._collects_much(state):
            self.warn(
                state.path, "PAYLOAD_LIMIT",
                f"the results of a distributed Map are handed on together and may pass {LIMIT_BYTES} bytes",
                "write them with ResultWriter, or discard them with ResultPath: null", state.name,
            )  # fmt: skip

    def _collects_much(self, state: MapState) -> bool:
        return state.is_distributed and state.reader is not None and state.writer is None and not state.discards_result

    def _unreachable_handlers(self, state: State) -> None:
        for field, entries in _handlers(state):
            seen: set[str] = set()
            for place, entry in enumerate(entries):
                if ALL in seen or set(entry.errors) <= seen:
                    self.warn(
                        f"{child(state.path, field)}[{place}]", "UNREACHABLE_HANDLER",
                        "earlier entries match all of its errors, so it is never used", "move it up, or remove it",
                        state.name,
                    )  # fmt: skip
                seen |= set(entry.errors)

    def _error_names(self, state: State) -> None:
        for field, entries in _handlers(state):
            for place, entry in enumerate(entries):
                for name in entry.errors:
                    path = f"{child(state.path, field)}[{place}].ErrorEquals"
                    if name.startswith("States.") and name not in (*_KNOWN_ERRORS, *self.raised):
                        self.warn(path, "UNKNOWN_ERROR", f"there is no error {name}", "mend its name", state.name)
                    if name == "States.Runtime":
                        self.warn(
                            path, "UNREACHABLE_HANDLER", "States.Runtime always fails the execution",
                            "remove it", state.name,
                        )  # fmt: skip

    def _resource(self, state: TaskState) -> None:
        from headgate.workflow._resources import is_foreign, is_placeholder

        resource = state.resource
        if is_foreign(resource.text):
            self.warn(
                child(state.path, "Resource"), "UNKNOWN_RESOURCE",
                f"Step Functions knows no tasks of {resource.text!r}",
                "write the ARN of a function, an activity, or arn:aws:states:::service:action", state.name,
            )  # fmt: skip
        elif not resource.text.startswith("arn:") and not is_placeholder(resource.text):
            self.warn(
                child(state.path, "Resource"), "NOT_AN_ARN",
                f"the resource {resource.text!r} is no ARN: the local runner takes it, Step Functions does not",
                "write the ARN before you deploy", state.name,
            )  # fmt: skip
        waits = resource.pattern == "waitForTaskToken" or resource.kind == "activity"
        if waits and state.timeout is None and state.heartbeat is None:
            self.warn(
                state.path, "NO_TIMEOUT", "it waits for an answer without a time limit, for up to a year",
                "add TimeoutSeconds or HeartbeatSeconds", state.name,
            )  # fmt: skip
        if resource.pattern == "waitForTaskToken" and "$$.Task.Token" not in _texts(state.parameters):
            self.warn(
                state.path, "NO_TOKEN", "nobody is given the task token, so that nobody can answer",
                "pass $$.Task.Token ($states.context.Task.Token in JSONata) among the arguments", state.name,
            )  # fmt: skip

    def _idempotency(self, state: TaskState) -> None:
        resource = state.resource
        pair = (resource.service, resource.action)
        repeats = any(retrier.max_attempts for retrier in state.retriers) or self.kind == "EXPRESS"
        if pair not in _IDEMPOTENCY_KEYS or not repeats:
            return
        key = _IDEMPOTENCY_KEYS[pair]
        if key and _has_member(state.parameters, key):
            return
        why = "an Express workflow runs a state at least once" if self.kind == "EXPRESS" else "it is retried"
        mend = f"pass {key}" if key else "make the receiver ignore repeats, for example by $$.Execution.Id in the data"
        self.warn(
            state.path, "NOT_IDEMPOTENT", f"{resource.service}:{resource.action} may be done twice: {why},"
            " and it has no idempotency key", mend, state.name,
        )  # fmt: skip

    def _large(self, state: State, value: Any) -> None:
        size = size_bytes(to_text(value))
        if size > LIMIT_BYTES:
            self.warn(
                child(state.path, "Result"), "PAYLOAD_LIMIT",
                f"it has {size} bytes, more than the {LIMIT_BYTES} that a state may hand on",
                "put the data into an object, and hand on its key", state.name,
            )  # fmt: skip

    def _exits(self, machine: Machine) -> None:
        """States from which no way leads to an end."""
        nodes = {name: _node(state) for name, state in machine.states.items()}
        exits = {name for name, node in nodes.items() if is_terminal(node)}
        while True:
            more = {n for n, node in nodes.items() if n not in exits and any(t in exits for _, t in transitions(node))}
            if not more:
                break
            exits |= more
        for name, state in machine.states.items():
            if name not in exits:
                self.warn(
                    state.path, "NO_EXIT", "no way leads from here to an end: it goes round for ever",
                    "lead one of these states to an end", name,
                )  # fmt: skip

    # --- the five minutes of Express

    def budget(self, machine: Machine) -> None:
        """Whether an Express workflow can take longer than it may."""
        if self.kind != "EXPRESS":
            return
        limit = min(EXPRESS_LIMIT_S, machine.timeout_s or EXPRESS_LIMIT_S)
        first = _longest(machine, retries=False)
        if first > limit:
            self.warn(
                machine.path, "EXPRESS_BUDGET",
                f"its states may take {first:.0f} s, an Express workflow has {limit:.0f} s",
                "lower TimeoutSeconds and Wait states, or make it STANDARD",
            )  # fmt: skip
            return
        worst = _longest(machine, retries=True)
        if worst > limit:
            self.warn(
                machine.path, "EXPRESS_BUDGET",
                f"with its retries it may take {worst:.0f} s, an Express workflow has {limit:.0f} s",
                "retry less, wait shorter, or make it STANDARD",
            )  # fmt: skip


def _handlers(state: State) -> list[tuple[str, tuple[Retrier | Catcher, ...]]]:
    return [("Retry", state.retriers), ("Catch", state.catchers)]


def _node(state: State) -> dict[str, Any]:
    """A state as its definition's transitions show it."""
    node: dict[str, Any] = {"Type": state.type, "Next": state.next, "End": state.is_end}
    if isinstance(state, ChoiceState):
        node |= {"Default": state.default, "Choices": [{"Next": rule.next} for rule in state.rules]}
    return node | {"Catch": [{"Next": catcher.next} for catcher in state.catchers]}


def _longest(machine: Machine, *, retries: bool) -> float:
    """The longest way through a machine in seconds, every state once."""
    times: dict[str, float] = {}

    def longest(name: str, way: tuple[str, ...]) -> float:
        if name in way or name not in machine.states:
            return 0.0
        if name not in times:
            state = machine.states[name]
            targets = {target for _, target in transitions(_node(state))}
            times[name] = _time(state, retries=retries) + max((longest(t, (*way, name)) for t in targets), default=0.0)
        return times[name]

    return longest(machine.start_at, ())


def _time(state: State, *, retries: bool) -> float:
    if isinstance(state, WaitState):
        return float(state.value.value) if isinstance(state.value, Constant) and state.kind == "Seconds" else 0.0
    if isinstance(state, FailState):
        return 0.0
    once = 0.0
    if isinstance(state, TaskState) and isinstance(state.timeout, Constant):
        once = float(state.timeout.value)
    elif isinstance(state, ParallelState):
        once = max(_longest(branch, retries=retries) for branch in state.branches)
    elif isinstance(state, MapState) and state.processor is not None:
        once = _longest(state.processor, retries=retries)
    if not retries or not state.retriers:
        return once
    waits = [
        sum(
            min(r.interval_s * r.backoff_rate**i, r.max_delay_s or float("inf"))
            for i in range(min(r.max_attempts, 100))
        )
        + r.max_attempts * once
        for r in state.retriers
    ]
    return once + max(waits)


def _has_member(value: Value | None, name: str) -> bool:
    if isinstance(value, Constant):
        return isinstance(value.value, dict) and name in value.value
    return (isinstance(value, ObjectValue) and any(key == name for key, _ in value.members)) or (
        value is not None and not isinstance(value, ObjectValue | Constant)
    )  # an expression may give it


def _texts(value: Value | None) -> str:
    """The paths and expressions of a value, for a search."""
    return " ".join(_every_text(value)).replace("$states.context.Task.Token", "$$.Task.Token")


def _every_text(value: Value | None) -> Iterator[str]:
    if isinstance(value, ObjectValue):
        for _, member in value.members:
            yield from _every_text(member)
    elif isinstance(value, ListValue):
        for item in value.items:
            yield from _every_text(item)
    elif value is not None and not isinstance(value, Constant):
        found = getattr(value, "path", None) or getattr(value, "call", None) or getattr(value, "expression", None)
        text = str(getattr(found, "text", ""))
        yield text
        if text == "$$" or text.startswith("$states.context") or text == "$$.Task":
            yield "$$.Task.Token"
