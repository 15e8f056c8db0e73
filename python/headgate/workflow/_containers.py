"""Parallel and Map states: starting their children, collecting the results, and failing."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from headgate.workflow import _states
from headgate.workflow._failure import TOLERATED, StateError, evaluating, runtime_error
from headgate.workflow._frames import CHILDREN, FAILED, SUCCEEDED, Frame
from headgate.workflow._json import to_text
from headgate.workflow._jsonata import expect_type
from headgate.workflow._paths import Path
from headgate.workflow._program import MapState, ParallelState, State
from headgate.workflow._values import Constant, JsonataValue, Scope, select

if TYPE_CHECKING:
    from headgate.workflow._engine import Engine

INLINE_CONCURRENCY = 40  # iterations of an inline Map that run at once, at most
DISTRIBUTED_CONCURRENCY = 1_000


def start(engine: Engine, frame: Frame, state: State, scope: Scope) -> None:
    """Start the branches or iterations of a state."""
    if isinstance(state, ParallelState):
        given = _states.arguments(state, scope)
        engine.emit(frame, "ParallelStateStarted")
        frame.phase = CHILDREN
        for index, branch in enumerate(state.branches):
            engine.ready.append(engine.new_frame(frame, branch, index, given).id)
        return
    assert isinstance(state, MapState)
    _start_map(engine, frame, state, scope)


def go_on(engine: Engine, frame: Frame, state: State) -> None:
    """After a restart: start the iterations that are missing."""
    if isinstance(state, MapState):
        frame.data.pop("counts", None)
        _go_on(engine, frame, state)


def _start_map(engine: Engine, frame: Frame, state: MapState, scope: Scope) -> None:
    from headgate.workflow._items import batches, read_items

    inner = scope if state.is_jsonata else scope.with_data(_states.effective_input(state, scope))
    keys: list[str] = []
    if state.reader is not None:
        items = read_items(engine.services, state, inner)
    else:
        items, keys = _given_items(state, inner)
    concurrency = _states.whole_number(state.max_concurrency, "MaxConcurrency", inner, least=0)
    count = _states.whole_number(state.tolerated_count, "ToleratedFailureCount", inner, least=0)
    percentage = _percentage(state, inner)
    if state.batcher is not None:
        chosen = [_selected(engine, frame, state, _item(index, value, keys)) for index, value in enumerate(items)]
        items, keys = batches(state.batcher, chosen, inner), []
    for name in ("counts", "count", "percentage", "keys", "run"):
        frame.data.pop(name, None)
    most = DISTRIBUTED_CONCURRENCY if state.is_distributed else INLINE_CONCURRENCY
    frame.data["items"] = items
    frame.data["limit"] = min(concurrency or most, most)
    for name, value in (("count", count), ("percentage", percentage), ("keys", keys)):
        if value:
            frame.data[name] = value
    engine.new_items.add(frame.id)
    engine.emit(frame, "MapStateStarted", {"length": len(items)})
    if state.is_distributed:
        frame.data["run"] = f"{engine.record.arn}/{state.label or state.name}:{uuid.uuid4()}"
        engine.emit(frame, "MapRunStarted", {"mapRunArn": frame.data["run"]})
    frame.phase = CHILDREN
    _spawn(engine, frame, state)


def _given_items(state: MapState, scope: Scope) -> tuple[list[Any], list[str]]:
    """The items that the state's input or its Items hold, and their keys, if they are an object's members."""
    if isinstance(state.items, Path):
        value, shown = select(state.items, scope), state.items.text
    elif state.items is not None:
        value = state.items.evaluate(scope)
        if not state.is_distributed or not isinstance(value, dict):
            text = state.items.expression.text if isinstance(state.items, JsonataValue) else to_text(value)
            expect_type(value, "array", text, "Items")
        shown = "Items"
    else:
        value, shown = scope.data, "$"
    if isinstance(value, dict) and state.is_distributed:
        return list(value.values()), list(value)
    if not isinstance(value, list):
        raise runtime_error(f'Reference path "{shown}" must point to array.')
    return value, []


def _percentage(state: MapState, scope: Scope) -> float | None:
    field = state.tolerated_percentage
    if field is None:
        return None
    value = select(field, scope) if isinstance(field, Path) else field.evaluate(scope)
    if isinstance(field, JsonataValue):
        expect_type(value, "number", field.expression.text, "ToleratedFailurePercentage")
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise runtime_error(f"The ToleratedFailurePercentage must be a number from 0 to 100, not {to_text(value)}")
    return float(value)


def _item(index: int, value: Any, keys: list[str]) -> dict[str, Any]:
    item = {"Index": index, "Value": value}
    return {**item, "Key": keys[index]} if keys else item


def _selected(engine: Engine, frame: Frame, state: MapState, item: dict[str, Any]) -> Any:
    """An item after ItemSelector."""
    if state.selector is None:
        return item["Value"]
    if isinstance(state.selector, Constant):
        return state.selector.value
    scope = engine.scope_of(frame, state, item)
    return state.selector.evaluate(
        scope if state.is_jsonata else scope.with_data(_states.effective_input(state, scope))
    )


def _counts(engine: Engine, frame: Frame) -> tuple[int, int, int]:
    """How many children were started, are running, and have failed. Counted once, then kept up to date in memory."""
    counts = frame.data.get("counts")
    if counts is None:
        children = [engine.frames[number] for number in engine.children.get(frame.id, ())]
        running = sum(child.is_running for child in children)
        counts = (len(children), running, sum(child.status == FAILED for child in children))
    return counts[0], counts[1], counts[2]


def _spawn(engine: Engine, frame: Frame, state: MapState) -> None:
    """Start iterations while there are items and the concurrency allows it; finish the state when all have ended.

    Raises:
        StateError: ItemSelector cannot be evaluated.
    """
    assert state.processor is not None
    items = frame.data["items"]
    started, running, failed = _counts(engine, frame)
    while started < len(items) and running < frame.data["limit"]:
        item = _item(started, items[started], frame.data.get("keys", []))
        given = items[started] if state.batcher is not None else _selected(engine, frame, state, item)
        child = engine.new_frame(frame, state.processor, started, given)
        child.item = {"Index": started}
        if state.is_distributed:
            child.own_history = True
            child.last_event = 1
            child.data["own"] = {"name": str(uuid.uuid4()), "input": given}
        else:
            previous, child.state = child.state, state.name
            engine.emit(child, "MapIterationStarted", {"name": state.name, "index": started})
            child.state = previous
        engine.ready.append(child.id)
        started += 1
        running += 1
    frame.data["counts"] = (started, running, failed)
    if started == len(items) and running == 0:
        _finish(engine, frame, state, _results(engine, frame), "Map")


def _results(engine: Engine, frame: Frame) -> list[Any]:
    children = [engine.frames[number] for number in engine.children.get(frame.id, ())]
    return [child.output for child in children if child.status == SUCCEEDED]


def _finish(engine: Engine, frame: Frame, state: State, results: list[Any], kind: str) -> None:
    """All children have ended: take their results, and leave the state."""
    engine.dirty.add(frame.id)
    try:
        result: Any = results
        if isinstance(state, MapState) and state.writer is not None:
            from headgate.workflow._items import write_results

            result = write_results(engine, frame, state)
        if isinstance(state, MapState) and state.is_distributed:
            engine.emit(frame, "MapRunSucceeded")
        scope = engine.scope_of(frame, state)
        with evaluating():
            output, variables = _states.finish(state, scope, result, frame.input)
        engine.emit(frame, f"{kind}StateSucceeded")
        engine.drop_children(frame)
        frame.data.pop("items", None)
        engine.new_items.add(frame.id)
        engine.leave(frame, state, output, variables, state.next)
    except StateError as error:
        engine.fail(frame, state, error)
    if frame.is_running and frame.phase == "enter":
        engine.ready.append(frame.id)


def child_succeeded(engine: Engine, frame: Frame, state: State, child: Frame) -> None:
    """A branch or an iteration has ended well."""
    if isinstance(state, ParallelState):
        frame.last_event = max(frame.last_event, child.last_event)
        children = [engine.frames[number] for number in engine.children[frame.id]]
        if all(c.status == SUCCEEDED for c in children):
            _finish(engine, frame, state, [c.output for c in children], "Parallel")
        return
    assert isinstance(state, MapState)
    _iteration_ended(engine, frame, state, child, "Succeeded")
    _go_on(engine, frame, state)


def _go_on(engine: Engine, frame: Frame, state: MapState) -> None:
    try:
        with evaluating():
            _spawn(engine, frame, state)
    except StateError as error:
        _abort_children(engine, frame)
        engine.fail(frame, state, error)


def _iteration_ended(engine: Engine, frame: Frame, state: MapState, child: Frame, how: str) -> None:
    started, running, failed = _counts(engine, frame)
    frame.data["counts"] = (started, running - 1, failed + (how == "Failed"))
    if not state.is_distributed:
        name, child.state = child.state, state.name
        engine.emit(child, f"MapIteration{how}", {"name": state.name, "index": child.index})
        child.state = name
        frame.last_event = max(frame.last_event, child.last_event)


def child_failed(engine: Engine, frame: Frame, state: State, child: Frame) -> None:
    """A branch or an iteration has failed."""
    frame_error = StateError(child.error, child.cause)
    if isinstance(state, ParallelState):
        frame.last_event = max(frame.last_event, child.last_event)
        _abort_children(engine, frame)
        engine.fail(frame, state, frame_error)
        _queue(engine, frame)
        return
    assert isinstance(state, MapState)
    _iteration_ended(engine, frame, state, child, "Failed")
    _, _, failed = _counts(engine, frame)
    allowed = _tolerated(frame)
    if failed <= allowed:
        _go_on(engine, frame, state)
        return
    _abort_children(engine, frame)
    if state.is_distributed or allowed > 0:
        frame_error = StateError(TOLERATED, "The specified tolerated failure threshold was exceeded")
    engine.fail(frame, state, frame_error)
    _queue(engine, frame)


def _queue(engine: Engine, frame: Frame) -> None:
    if frame.is_running and frame.phase in ("enter", "attempt") and frame.id not in engine.ready:
        engine.ready.append(frame.id)


def _tolerated(frame: Frame) -> float:
    """How many iterations may fail: the smaller of what count and percentage allow."""
    limits = []
    if "count" in frame.data:
        limits.append(float(frame.data["count"]))
    if "percentage" in frame.data:
        limits.append(len(frame.data["items"]) * frame.data["percentage"] / 100)
    return min(limits, default=0.0)


def _abort_children(engine: Engine, frame: Frame) -> None:
    state = engine.state_of(frame)
    for number in engine.children.get(frame.id, ()):
        child = engine.frames[number]
        if not child.is_running:
            continue
        engine.abort_frame(child)
        if isinstance(state, MapState) and not state.is_distributed:
            name, child.state = child.state, state.name
            engine.emit(child, "MapIterationAborted", {"name": state.name, "index": child.index})
            child.state = name
        frame.last_event = max(frame.last_event, child.last_event)


def container_failed(engine: Engine, frame: Frame, state: State, error: str | None, cause: str | None) -> None:
    """The events of a Parallel or Map whose failure nobody retries or catches."""
    if isinstance(state, MapState) and "run" in frame.data:
        details = {k: v for k, v in (("error", error), ("cause", cause)) if v is not None}
        engine.emit(frame, "MapRunFailed", details)
    engine.emit(frame, f"{state.type}StateFailed")
