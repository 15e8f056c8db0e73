"""How a state transforms data: its input for the task, and the task's result to its output."""

from __future__ import annotations

import math
import re
from typing import Any

from headgate.workflow._failure import NO_CHOICE, QUERY, RESULT_PATH, StateError, runtime_error
from headgate.workflow._json import to_text, type_name
from headgate.workflow._jsonata import expect_type
from headgate.workflow._parse_fields import parse_timestamp
from headgate.workflow._paths import CannotPlaceError, Path, PathNotFoundError, parse_path, place
from headgate.workflow._program import (
    Catcher,
    ChoiceState,
    FailState,
    PassState,
    State,
    WaitState,
)
from headgate.workflow._values import Constant, JsonataValue, Scope, Value, select

_ROOT = parse_path("$")
_WHOLE = re.compile(r"[+-]?[0-9]{1,19}")  # what Java's Long.parseLong takes


def effective_input(state: State, scope: Scope) -> Any:
    """The input after InputPath."""
    if state.discards_input:
        return {}
    return scope.data if state.input_path is None else select(state.input_path, scope)


def arguments(state: State, scope: Scope) -> Any:
    """What the state works on: InputPath, then Parameters; or Arguments, or the input."""
    if state.is_jsonata:
        return scope.input if state.parameters is None else state.parameters.evaluate(scope)
    data = effective_input(state, scope)
    return data if state.parameters is None else state.parameters.evaluate(scope.with_data(data))


def pass_result(state: PassState, scope: Scope) -> Any:
    """What a Pass state hands on before ResultPath."""
    given = arguments(state, scope)
    return state.result if state.has_result else given


def finish(state: State, scope: Scope, result: Any, raw: Any) -> tuple[Any, dict[str, Any]]:
    """The output and the variables to assign.

    Args:
        state: the state.
        scope: as its input was evaluated in.
        result: of the task, the branches or the iterations.
        raw: the state's whole input, into which ResultPath puts the result.
    """
    if state.is_jsonata:
        scope.result = result
        output = result if state.output is None else state.output.evaluate(scope)
        return output, assigned(state.assign, scope)
    if state.result_selector is not None:
        result = state.result_selector.evaluate(scope.with_data(result))
    variables = assigned(state.assign, scope.with_data(result))
    output = put_result(state.result_path, state.discards_result, raw, result)
    return output_path(state, scope, output), variables


def pass_through(state: State, scope: Scope, extra: Value | None = None) -> tuple[Any, dict[str, Any]]:
    """The output of a state that works on nothing (Choice, Wait, Succeed), and the variables to assign.

    Args:
        state: the state.
        scope: of its input.
        extra: what assigns variables instead of the state's own Assign (a choice rule's).
    """
    assign = state.assign if extra is None else extra
    if state.is_jsonata:
        output = scope.input if state.output is None else state.output.evaluate(scope)
        return output, assigned(assign, scope)
    data = effective_input(state, scope)
    return output_path(state, scope, data), assigned(assign, scope.with_data(data))


def assigned(assign: Value | None, scope: Scope) -> dict[str, Any]:
    """The variables of an Assign."""
    if assign is None:
        return {}
    values: dict[str, Any] = assign.evaluate(scope)
    return values


def put_result(path: Path | None, discards: bool, raw: Any, result: Any) -> Any:
    """ResultPath: the raw input with the result in it.

    Raises:
        StateError: States.ResultPathMatchFailure.
    """
    if discards:
        return raw
    if path is None or not path.steps:
        return result
    try:
        return place(path, raw, result)
    except CannotPlaceError as error:
        cause = f'Unable to apply step "{error.step}" to input {to_text(raw)}'
        raise StateError(RESULT_PATH, cause, decorated=True) from None


def output_path(state: State, scope: Scope, output: Any) -> Any:
    """The output after OutputPath."""
    if state.discards_output:
        return {}
    return output if state.output_path is None else select(state.output_path, scope.with_data(output))


def caught(
    catcher: Catcher, state: State, scope: Scope, error_output: dict[str, Any], raw: Any
) -> tuple[Any, dict[str, Any]]:
    """The output of a state whose error was caught, and the variables that the catcher assigns."""
    if state.is_jsonata:
        scope.error = error_output
        output = error_output if catcher.output is None else catcher.output.evaluate(scope)
        return output, assigned(catcher.assign, scope)
    variables = assigned(catcher.assign, scope.with_data(error_output))
    discards = catcher.has_result_path and catcher.result_path is None
    return put_result(catcher.result_path, discards, raw, error_output), variables


def choose(state: ChoiceState, scope: Scope) -> tuple[str, Any, dict[str, Any]]:
    """Where a Choice leads: the next state, the output, and the variables to assign.

    Raises:
        StateError: States.NoChoiceMatched, or a condition that cannot be evaluated.
    """
    from headgate.workflow._choice import holds

    data = scope.input if state.is_jsonata else effective_input(state, scope)
    for rule in state.rules:
        if rule.condition is not None:
            matches = holds(rule.condition, scope.with_data(data))
        else:
            assert rule.expression is not None
            matches = rule.expression.evaluate(scope)
            text = rule.expression.expression.text if isinstance(rule.expression, JsonataValue) else str(matches)
            expect_type(matches, "boolean", text, "Condition")
        if matches:
            output, variables = pass_through(state, scope, rule.assign if rule.assign is not None else Constant({}))
            if rule.output is not None:
                output = rule.output.evaluate(scope)
            return rule.next, output, variables
    if state.default is None:
        cause = "Failed to transition out of the state. The state does not point to a next state."
        raise StateError(NO_CHOICE, cause, decorated=True)
    output, variables = pass_through(state, scope)
    return state.default, output, variables


def failure(state: FailState, scope: Scope) -> StateError:
    """What a Fail state ends with."""
    texts: dict[str, str | None] = {}
    for name, value in (("Error", state.error), ("Cause", state.cause)):
        text = None if value is None else value.evaluate(scope)
        if value is not None and not isinstance(text, str):
            if state.is_jsonata and isinstance(value, JsonataValue):
                expect_type(text, "string", value.expression.text, name)
            raise runtime_error(f"The {name}Path parameter does not reference a string: {to_text(text)}")
        texts[name] = text
    return StateError(texts["Error"], texts["Cause"])


def wake_time(state: WaitState, scope: Scope, now_us: int) -> int:
    """When a Wait state goes on, in microseconds.

    Raises:
        StateError: the field does not give a time.
    """
    if isinstance(state.value, Path):
        data = scope.with_data(effective_input(state, scope))
        try:
            found = data.find(state.value)
        except PathNotFoundError:
            message = f"The {state.kind} parameter does not reference an input value: {state.value.text}"
            raise runtime_error(message) from None
        shown = f"{state.value.text} == {to_text(found) if not isinstance(found, str) else found}"
        if state.kind == "TimestampPath":
            return _timestamp_us(found, f"The TimestampPath parameter cannot be parsed as {_ISO}: {shown}", query=False)
        seconds = as_whole(found)
        if seconds is None:
            raise runtime_error(f"The SecondsPath parameter cannot be parsed as a long value: {shown}")
        if seconds < 0:
            raise runtime_error(f"The SecondsPath parameter references a negative value: {shown}")
        return now_us + seconds * 1_000_000
    value = state.value.evaluate(scope) if state.value is not None else 0
    if state.kind == "Timestamp":
        return _timestamp_us(value, f"The Timestamp field cannot be parsed as {_ISO}: {value}", query=state.is_jsonata)
    if isinstance(state.value, JsonataValue):
        value = expect_type(value, "number", state.value.expression.text, "Seconds")
        if value != int(value) or value < 0:
            cause = f"The Seconds field must be a whole number that is not negative, not {to_text(value)}"
            raise StateError(QUERY, cause, decorated=True, evaluation=True, location="Seconds")
    return now_us + int(value) * 1_000_000


_ISO = "an ISO-8601 extended offset date-time format string"


def _timestamp_us(value: Any, problem: str, *, query: bool) -> int:
    time = parse_timestamp(value) if isinstance(value, str) else None
    if time is None:
        if query:
            raise StateError(QUERY, problem, decorated=True, evaluation=True, location="Timestamp")
        raise runtime_error(problem)
    seconds = math.floor(time.timestamp())
    return seconds * 1_000_000 + time.microsecond


def as_whole(value: Any) -> int | None:
    """A whole number, or a text that holds one; None for anything else."""
    if type_name(value) == "number":
        return value if isinstance(value, int) else None
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    return None


def whole_number(field: Value | Path | None, name: str, scope: Scope, *, least: int) -> int | None:
    """The number that a field or its Path form gives; None if there is none.

    Args:
        field: of the program.
        name: for errors: TimeoutSeconds.
        scope: of the state's input.
        least: the smallest that is allowed.

    Raises:
        StateError: it gives something else.
    """
    if field is None:
        return None
    if isinstance(field, Path):
        found = select(field, scope)
        number = as_whole(found)
        if number is None or number < least:
            shown = f"{field.text} == {to_text(found)}"
            reason = "cannot be parsed as a long value" if number is None else "references a negative value"
            raise runtime_error(f"The {name}Path parameter {reason}: {shown}")
        return number
    value = field.evaluate(scope)
    if isinstance(field, JsonataValue):
        expect_type(value, "number", field.expression.text, name)
        if value != int(value) or value < least:
            cause = f"The {name} field must be a whole number of at least {least}, not {to_text(value)}"
            raise StateError(QUERY, cause, decorated=True, evaluation=True, location=name)
    return int(value)
