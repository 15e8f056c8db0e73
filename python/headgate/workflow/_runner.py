"""Runs compiled ASL on this machine, durably: every transition is one SQLite commit, a killed run resumes."""

from __future__ import annotations

import json
import logging
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.backends.local import dumps
from headgate.errors import InvalidInputError, StageFailedError
from headgate.workflow._model import lint
from headgate.workflow._stage import StageFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from headgate.ports import Json

log = logging.getLogger("headgate.workflow")
_MISSING = object()


@dataclass(frozen=True)
class Execution:
    """A finished run: its history has every attempt with its times."""

    id: str
    status: str
    error: str | None
    cause: str | None
    history: list[Json]


class LocalRunner:
    """Executes Task (Lambda), Pass, Wait, Choice, Succeed and Fail states.

    Args:
        database: a `LocalDatabase`; executions and their history live there.
        functions: function key -> callable(payload).
        clock: waits and retries sleep on it.
    """

    def __init__(self, database: Any, functions: Mapping[str, Callable[[Json], Any]], clock: Any) -> None:
        self.db = database
        self.functions = functions
        self.clock = clock

    def start(self, workflow: str, definition: Json, data: Any, execution_id: str | None = None) -> Execution:
        """Run to the end. The same execution id runs once: a second start returns or resumes the first.

        Raises:
            InvalidInputError: the definition is broken.
            StageFailedError: a stage failed after its retries; the execution is FAILED with error and cause.
        """
        problems = lint(definition)
        if problems:
            message = f"workflow {workflow!r}: {problems[0]}"
            raise InvalidInputError(message)
        execution_id = execution_id or str(uuid.uuid4())
        now = self.clock.now_us()
        cursor = {"state": definition["StartAt"], "input": data, "attempts": {}}
        with self.db.transaction() as tx:
            tx.execute(
                "INSERT INTO executions (id, workflow, status, definition, input, started_us, cursor)"
                " VALUES (?, ?, 'RUNNING', ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
                (execution_id, workflow, dumps(definition), dumps(data), now, dumps(cursor)),
            )
        return self.resume(execution_id)

    def resume(self, execution_id: str) -> Execution:
        """Go on from the last committed transition."""
        rows = self.db.execute("SELECT status, definition, input, cursor FROM executions WHERE id = ?", (execution_id,))
        if not rows:
            message = f"there is no execution {execution_id!r}"
            raise InvalidInputError(message)
        status, definition, data, cursor = rows[0][0], *(json.loads(text) for text in rows[0][1:])
        while status == "RUNNING":
            status = self._step(execution_id, definition, data, cursor)
        execution = self._load(execution_id)
        if execution.status == "FAILED":
            message = f"execution {execution_id} failed: {execution.error}: {execution.cause}"
            raise StageFailedError(message)
        return execution

    def running(self) -> list[str]:
        """Executions that have not ended: those of a killed process among them."""
        return [row[0] for row in self.db.execute("SELECT id FROM executions WHERE status = 'RUNNING' ORDER BY id")]

    # --- one transition

    def _step(self, execution_id: str, definition: Json, data: Any, cursor: Json) -> str:
        name = cursor["state"]
        state = definition["States"][name]
        scope = {
            "Execution": {"Id": execution_id, "Name": execution_id, "Input": data},
            "State": {"Name": name, "RetryCount": sum(cursor["attempts"].values())},
        }
        started = self.clock.now_us()
        try:
            output = self._run_state(state, cursor["input"], scope)
        except StageFailure as failure:
            return self._failed(execution_id, state, cursor, failure, started)
        core.fault_point("workflow.before_commit")
        event = {"duration_ms": (self.clock.now_us() - started) / 1000, "attempt": scope["State"]["RetryCount"] + 1}
        following = self._next(state, output)
        cursor.update(state=following, input=output, attempts={})
        status = "RUNNING" if following else "SUCCEEDED"
        with self.db.transaction() as tx:
            self._event(tx, execution_id, "StateSucceeded", name, event)
            if following:
                tx.execute("UPDATE executions SET cursor = ? WHERE id = ?", (dumps(cursor), execution_id))
            else:
                tx.execute(
                    "UPDATE executions SET status = ?, output = ?, ended_us = ? WHERE id = ?",
                    (status, dumps(output), self.clock.now_us(), execution_id),
                )
        return status

    def _failed(self, execution_id: str, state: Json, cursor: Json, failure: StageFailure, started: int) -> str:
        name = cursor["state"]
        event = {
            "error": failure.error_name, "cause": failure.cause[:1000],
            "duration_ms": (self.clock.now_us() - started) / 1000,
            "attempt": sum(cursor["attempts"].values()) + 1,
        }  # fmt: skip
        delay = _retry_delay(state, failure.error_name, cursor["attempts"])
        caught = None if delay is not None else _matching(state.get("Catch", ()), failure.error_name)
        if delay is None and caught is None:
            with self.db.transaction() as tx:
                self._event(tx, execution_id, "StateFailed", name, event)
                tx.execute(
                    "UPDATE executions SET status = 'FAILED', error = ?, cause = ?, ended_us = ? WHERE id = ?",
                    (failure.error_name, failure.cause[:1000], self.clock.now_us(), execution_id),
                )
            return "FAILED"
        if caught is not None:
            info = {"Error": failure.error_name, "Cause": failure.cause}
            cursor.update(
                state=caught["Next"], input=_put(cursor["input"], caught.get("ResultPath", "$"), info), attempts={}
            )
        with self.db.transaction() as tx:
            self._event(tx, execution_id, "StateRetried" if delay is not None else "StateCaught", name, event)
            tx.execute("UPDATE executions SET cursor = ? WHERE id = ?", (dumps(cursor), execution_id))
        if delay:
            self.clock.sleep_us(int(delay * 1e6))
        return "RUNNING"

    def _run_state(self, state: Json, data: Any, scope: Json) -> Any:
        kind = state["Type"]
        given = _path(state.get("InputPath", "$"), data, scope)
        if kind == "Task":
            result = self._task(state, _template(state["Parameters"], given, scope) if "Parameters" in state else given)
        elif kind == "Pass":
            result = state.get(
                "Result", _template(state["Parameters"], given, scope) if "Parameters" in state else given
            )
        elif kind == "Wait":
            seconds = _path(state["SecondsPath"], given, scope) if "SecondsPath" in state else state["Seconds"]
            self.clock.sleep_us(int(seconds * 1e6))
            return given
        elif kind == "Fail":
            raise StageFailure(state.get("Error", "Fail"), state.get("Cause", ""))
        elif kind in ("Choice", "Succeed"):
            return given
        else:
            raise StageFailure("States.Runtime", f"state type {kind!r} is not supported by the local runner")
        return _put(data, state.get("ResultPath", "$"), result)

    def _task(self, state: Json, parameters: Json) -> Any:
        if not state["Resource"].endswith("lambda:invoke"):
            raise StageFailure("States.Runtime", f"the local runner cannot run {state['Resource']!r}")
        function = self.functions.get(parameters["FunctionName"])
        if function is None:
            raise StageFailure("Lambda.ResourceNotFoundException", f"no function {parameters['FunctionName']!r}")
        try:
            return function(parameters.get("Payload", {}))
        except StageFailure:
            raise
        except Exception as error:
            # As Lambda does: the class name is the error, the text its cause.
            raise StageFailure(type(error).__name__, str(error)) from error

    @staticmethod
    def _next(state: Json, output: Any) -> str | None:
        if state["Type"] != "Choice":
            return state.get("Next")
        for rule in state.get("Choices", ()):
            if _chosen(rule, output):
                return str(rule["Next"])
        if "Default" not in state:
            raise StageFailure("States.NoChoiceMatched", "no choice matched and there is no Default")
        return str(state["Default"])

    def _event(self, tx: Any, execution_id: str, kind: str, state: str, doc: Json) -> None:
        tx.execute(
            "INSERT INTO execution_events (execution, at_us, type, state, doc) VALUES (?, ?, ?, ?, ?)",
            (execution_id, self.clock.now_us(), kind, state, dumps(doc)),
        )

    def _load(self, execution_id: str) -> Execution:
        status, error, cause = self.db.execute(
            "SELECT status, error, cause FROM executions WHERE id = ?", (execution_id,)
        )[0]
        events = self.db.execute(
            "SELECT type, state, at_us, doc FROM execution_events WHERE execution = ? ORDER BY id", (execution_id,)
        )
        history = [{"type": t, "state": s, "at_us": at, **json.loads(doc)} for t, s, at, doc in events]
        return Execution(execution_id, status, error, cause, history)


def _matching(rules: Any, error: str) -> Json | None:
    for rule in rules:
        if error in rule["ErrorEquals"] or "States.ALL" in rule["ErrorEquals"]:
            return rule  # type: ignore[no-any-return]
    return None


def _retry_delay(state: Json, error: str, attempts: dict[str, int]) -> float | None:
    """Seconds to wait before the next attempt, or None when the first matching retrier is used up."""
    retriers = state.get("Retry", [])
    rule = _matching(retriers, error)
    if rule is None:
        return None
    index = str(retriers.index(rule))
    used = attempts.get(index, 0)
    if used >= rule.get("MaxAttempts", 3):
        return None
    attempts[index] = used + 1
    delay = rule.get("IntervalSeconds", 1) * rule.get("BackoffRate", 2.0) ** used
    return float(min(delay, rule.get("MaxDelaySeconds", delay)))


def _path(path: str | None, data: Any, scope: Json) -> Any:
    """A reference path: `$`, `$.a.b`, or `$$.` into the context object; None is an empty object."""
    if path is None:
        return {}
    current = scope if path.startswith("$$") else data
    for part in path.lstrip("$").strip(".").split("."):
        if not part:
            continue
        current = current.get(part, _MISSING) if isinstance(current, dict) else _MISSING
        if current is _MISSING:
            raise StageFailure("States.ParameterPathFailure", f"the path {path} finds nothing")
    return current


def _template(template: Any, data: Any, scope: Json) -> Any:
    if isinstance(template, dict):
        return {
            (key[:-2] if key.endswith(".$") else key): (
                _path(value, data, scope) if key.endswith(".$") else _template(value, data, scope)
            )
            for key, value in template.items()
        }
    return [_template(item, data, scope) for item in template] if isinstance(template, list) else template


def _put(data: Any, path: str | None, result: Any) -> Any:
    """ResultPath: None discards the result, `$` replaces the input, `$.a` adds to it."""
    if path is None:
        return data
    parts = [part for part in path.lstrip("$").split(".") if part]
    if not parts:
        return result
    out = dict(data) if isinstance(data, dict) else {}
    inner = out
    for part in parts[:-1]:
        inner[part] = dict(inner.get(part) or {})
        inner = inner[part]
    inner[parts[-1]] = result
    return out


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "StringEquals": lambda a, b: isinstance(a, str) and a == b,
    "BooleanEquals": lambda a, b: isinstance(a, bool) and a == b,
    "NumericEquals": lambda a, b: not isinstance(a, bool) and isinstance(a, int | float) and a == b,
    "NumericGreaterThan": lambda a, b: not isinstance(a, bool) and isinstance(a, int | float) and a > b,
    "NumericLessThan": lambda a, b: not isinstance(a, bool) and isinstance(a, int | float) and a < b,
}


def _chosen(rule: Json, data: Any) -> bool:
    if "And" in rule:
        return all(_chosen(part, data) for part in rule["And"])
    if "Or" in rule:
        return any(_chosen(part, data) for part in rule["Or"])
    if "Not" in rule:
        return not _chosen(rule["Not"], data)
    try:
        value = _path(rule["Variable"], data, {})
    except StageFailure:
        return rule.get("IsPresent") is False
    if "IsPresent" in rule:
        return bool(rule["IsPresent"])
    for operator, compare in _COMPARE.items():
        if operator in rule:
            return compare(value, rule[operator])
    raise StageFailure("States.Runtime", f"a choice with an operator the local runner does not have: {sorted(rule)}")
