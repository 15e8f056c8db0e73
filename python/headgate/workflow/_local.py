"""Runs a workflow on this machine: its compiled state machine on the local runner, its functions on an object store."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import InvalidInputError, NotFoundError, StageFailedError, TransientError
from headgate.workflow._bridge import BridgeHandler, InputStage
from headgate.workflow._compile import BRIDGE_FUNCTION, INPUT_FUNCTION, added_function_name, added_functions
from headgate.workflow._context import output_key
from headgate.workflow._envelope import MAX_OUTPUT_BYTES, read_output
from headgate.workflow._model import GlueStep, LambdaStep
from headgate.workflow._stage import FunctionStage, WorkflowHandler

if TYPE_CHECKING:
    from headgate.ports import Json
    from headgate.workflow._model import Workflow

_CAUSE_LINES = 5


@dataclass(frozen=True)
class WorkflowRun:
    """An execution that has ended.

    Args:
        id: the execution's name.
        status: "SUCCEEDED"; a failure is raised.
        data: what the last stage wrote; None where the last step takes its data in its payload.
        history: what happened, in its order, with times.
        definition: the state machine that ran.
    """

    id: str
    status: str
    data: Any
    history: list[Json] = field(repr=False)
    definition: Json = field(repr=False)

    def _repr_html_(self) -> str:
        from headgate.workflow._svg import to_html

        return to_html(self.definition, self.history, title=f"{self.id}: {self.status}")


def run_workflow(
    workflow: Workflow,
    data: Any,
    *,
    functions: Mapping[str, Any] | None,
    jobs: Mapping[str, Callable[[Json], Any]] | None,
    folder: str,
    objects: Any,
    database: Any,
    clock: Any,
    execution_id: str | None,
) -> WorkflowRun:
    """See `Workflow.run`."""
    from headgate.backends.local import LocalDatabase
    from headgate.workflow._runner import LocalRunner

    definition = workflow.to_asl()
    _check_given(workflow, functions, jobs)
    clock = clock or core.SystemClock()
    objects = objects if objects is not None else core.file_store(os.path.join(folder, "objects"))
    known = local_functions(workflow, objects, clock, functions, jobs)
    opened = None
    if database is None:
        os.makedirs(folder, exist_ok=True)
        database = opened = LocalDatabase(os.path.join(folder, "headgate.db"))
    try:
        runner = LocalRunner(database, known, clock)
        execution = runner.start(workflow.name, definition, data, execution_id, kind=str(workflow.type))
    finally:
        if opened is not None:
            opened.close()
    last = workflow.steps[-1]
    result = None
    if workflow.uses_s3(last):
        result = read_output(objects, execution.id, last.state_name, MAX_OUTPUT_BYTES).data
    return WorkflowRun(execution.id, execution.status, result, list(execution.history), definition)


def _check_given(workflow: Workflow, functions: Mapping[str, Any] | None, jobs: Mapping[str, Any] | None) -> None:
    """Refuse what no step would call: it is most likely a wrong name."""
    steps = workflow.steps
    keys = {step.function_key for step in steps if isinstance(step, LambdaStep)}
    names = {step.job_name for step in steps if isinstance(step, GlueStep)}
    for what, given, known in (("function key", functions, keys), ("Glue job", jobs, names)):
        unknown = sorted(set(given or {}) - known)
        if unknown:
            shown = ", ".join(sorted(known)) or "there are none"
            message = f"workflow {workflow.name!r}: no step has the {what} {unknown[0]!r}; known are: {shown}"
            raise InvalidInputError(message)


def local_functions(
    workflow: Workflow,
    objects: Any,
    clock: Any = None,
    functions: Mapping[str, Any] | None = None,
    jobs: Mapping[str, Callable[[Json], Any]] | None = None,
) -> dict[str, Callable[[Json], Any]]:
    """What the local runner calls for a workflow: function name -> callable, Glue job name -> callable.

    Args:
        workflow: a valid workflow.
        objects: the object store that stands for the bucket.
        clock: given to the stages.
        functions: function key -> handler, stage or stage class; they win over those of the workflow and its steps.
        jobs: Glue job name -> callable with the job's arguments.

    Raises:
        InvalidInputError: there is nothing to run for a step.
    """
    given = {**(workflow.functions or {}), **(functions or {})}
    found: dict[str, Callable[[Json], Any]] = {}
    for step in workflow.steps:
        if isinstance(step, GlueStep):
            job = (jobs or {}).get(step.job_name)
            if job is None:
                message = (
                    f"workflow {workflow.name!r}: step {step.state_name!r} has nothing to run for the Glue job "
                    f"{step.job_name!r}; expected it in jobs (glue_script makes one of a script)"
                )
                raise InvalidInputError(message)
            found[step.job_name] = job
            continue
        handler = given.get(step.function_key, step.handler)
        if handler is None:
            message = (
                f"workflow {workflow.name!r}: step {step.state_name!r} has nothing to run for the function key "
                f"{step.function_key!r}; expected it in functions"
            )
            raise InvalidInputError(message)
        found[workflow.function_name(step.function_key)] = _bound(handler, objects, clock)
    added: dict[str, Callable[[Json], Any]] = {
        INPUT_FUNCTION: InputStage(objects, clock), BRIDGE_FUNCTION: BridgeHandler(objects, clock)
    }  # fmt: skip
    return found | {added_function_name(workflow, key): added[key] for key in added_functions(workflow)}


def _bound(handler: Any, objects: Any, clock: Any) -> Callable[[Json], Any]:
    """A callable of the payload alone, on this object store where the handler has none of its own."""
    if isinstance(handler, type) and issubclass(handler, WorkflowHandler):
        made: Callable[[Json], Any] = handler(objects, clock)
        return made
    if isinstance(handler, FunctionStage) and not handler.has_objects:
        return handler.bound(objects, clock)
    if not callable(handler):
        message = f"a function of a workflow is {type(handler).__name__}; expected a handler, a stage or its class"
        raise InvalidInputError(message)
    required = [
        p for p in inspect.signature(handler).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]  # fmt: skip
    if len(required) >= 2:
        return lambda payload: handler(payload, None)  # a plain Lambda handler of event and context
    return handler  # type: ignore[no-any-return]


def glue_script(
    script: str, *, environment: Mapping[str, str] | None = None, python: str = ""
) -> Callable[[Json], Any]:
    """A Glue job for the local runner: the job's own script in a process of its own, with the job's arguments.

    Args:
        script: the script's path.
        environment: of that process; None: this one's own.
        python: the interpreter; default: this one.

    Returns:
        A callable of the arguments (`{"--execution-id": ..., ...}`) that raises `StageFailedError` when the script
        fails, with the last lines of what it wrote.

    Example:
        >>> glue_script("job.py")({"--execution-id": "run-1"})        # doctest: +SKIP
    """

    def run(arguments: Json) -> Json:
        wrong = [name for name, value in arguments.items() if not isinstance(value, str)]
        if wrong:
            message = f"Glue job argument {wrong[0]} is no text; Glue takes text only"
            raise InvalidInputError(message)
        words = [word for name, value in arguments.items() for word in (name, value)]
        try:
            ended = subprocess.run(  # noqa: S603 - the user's own script
                [python or sys.executable, script, *words], capture_output=True, text=True, check=False, env=environment
            )
        except OSError as error:
            message = f"the Glue job {script} cannot be started: {error.strerror}"
            raise TransientError(message) from None
        if ended.returncode != 0:
            tail = " | ".join(line for line in ended.stderr.strip().splitlines()[-_CAUSE_LINES:])
            message = f"the Glue job {os.path.basename(script)} ended with exit code {ended.returncode}: {tail[-1000:]}"
            raise StageFailedError(message)
        return {"JobRunState": "SUCCEEDED"}

    return run


def stage_output(objects: Any, execution_id: str, stage: str) -> Any:
    """The data that a stage of an execution wrote.

    Raises:
        NotFoundError: it has written none.
        InvalidInputError: what lies there is no envelope of this execution and stage.
    """
    if not objects.exists(output_key(execution_id, stage)):
        message = f"stage {stage!r} of execution {execution_id!r} has written no output"
        raise NotFoundError(message)
    return read_output(objects, execution_id, stage, MAX_OUTPUT_BYTES).data
