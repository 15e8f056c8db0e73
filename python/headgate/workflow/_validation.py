"""Checks a workflow: errors that keep it from running here or on AWS, and warnings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from headgate.errors import InvalidInputError
from headgate.workflow._context import SAFE_NAME_RULE, is_safe_name
from headgate.workflow._model import GlueStep, LambdaStep, MigrationMode, RetryConfiguration, WorkflowType
from headgate.workflow._naming import (
    MAX_PIPE_NAME,
    MAX_STATE_MACHINE_NAME,
    MIN_BUCKET_NAME,
    Naming,
    bucket_name_problem,
    function_name_problem,
    pipe_name,
    state_machine_name,
)

if TYPE_CHECKING:
    from headgate.workflow._model import Step, Workflow

EXPRESS_LIMIT_S = 300
STANDARD_LIMIT_S = 366 * 86_400 - 86_400  # one year
LAMBDA_LIMIT_S = 900
GLUE_LIMIT_S = 7 * 86_400
INITIAL_STAGE = "initial"
_MAX_ASL_NUMBER = 99_999_999


def find_problems(workflow: Workflow) -> list[str]:
    """Everything that keeps a workflow from running, one sentence each."""
    steps = _known_steps(workflow)
    return [
        *_name_problems(workflow),
        *_step_problems(workflow),
        *_function_problems(workflow, steps),
        *_retry_problems(workflow.retry),
        *_migration_problems(workflow, steps),
        *_time_problems(workflow, steps),
    ]


def find_warnings(workflow: Workflow) -> list[str]:
    """What may go wrong with a valid workflow: a bucket that S3 will not make, retries that do not fit into an Express
    run."""
    found = []
    if len(workflow.bucket) < MIN_BUCKET_NAME:
        found.append(
            f"bucket {workflow.bucket!r} can only be a local one: S3 takes names of {MIN_BUCKET_NAME} to 63 characters"
        )
    return [*found, *_retry_warnings(workflow)]


def _retry_warnings(workflow: Workflow) -> list[str]:
    if workflow.type is not WorkflowType.EXPRESS:
        return []
    retry = workflow.retry
    first = sum(step.timeout_s for step in workflow.steps)
    waits = [retry.interval_s * retry.backoff_rate**n for n in range(int(retry.max_attempts))]
    retries = int(retry.max_attempts) * len(workflow.steps)
    worst = first + sum(waits) * len(workflow.steps) + retry.max_attempts * first
    if worst <= EXPRESS_LIMIT_S:
        return []
    slowest = max(workflow.steps, key=lambda step: step.timeout_s)
    fits, spent = 0, float(first)
    for wait in waits:
        spent += wait + slowest.timeout_s
        fits += spent <= EXPRESS_LIMIT_S
    return [
        f"with all {retries} retries it may take {worst:.0f} s, and an EXPRESS workflow has {EXPRESS_LIMIT_S} s. Of the"
        f" slowest stage, {slowest.state_name!r}, {fits} of {int(retry.max_attempts)} retries fit in"
        f" {EXPRESS_LIMIT_S} s; a run that takes longer times out, and its message comes back"
    ]


def _known_steps(workflow: Workflow) -> list[Step]:
    steps: Any = workflow.steps
    return [step for step in steps if isinstance(step, LambdaStep | GlueStep)] if isinstance(steps, tuple) else []


def _name_problems(workflow: Workflow) -> list[str]:
    found = []
    name: Any = workflow.name
    kind: Any = workflow.type
    if not isinstance(kind, WorkflowType):
        found.append(f"type {kind!r}: expected {' or '.join(WorkflowType)}")
    if not isinstance(name, str) or not name.strip():
        found.append("the name is blank")
    else:
        if not all(c.isascii() and (c.isalnum() or c in "-_") for c in name):
            found.append(f"the name {name[:100]!r}: expected letters, digits, '-' and '_'")
        machine = state_machine_name(name, str(kind))
        if len(machine) > MAX_STATE_MACHINE_NAME:
            found.append(
                f"the state machine's name {machine[:40]}... has {len(machine)} characters; Step Functions allows"
                f" {MAX_STATE_MACHINE_NAME}"
            )
        if workflow.source_queue is not None and len(pipe_name(name)) > MAX_PIPE_NAME:
            found.append(
                f"the pipe's name {pipe_name(name)[:40]}... has {len(pipe_name(name))} characters; EventBridge Pipes"
                f" allows {MAX_PIPE_NAME}"
            )
    queue: Any = workflow.source_queue
    if queue is not None and (not isinstance(queue, str) or not queue.strip()):
        found.append("source_queue is blank; expected a queue's name, ARN or URL")
    problem = bucket_name_problem(workflow.bucket)
    return [*found, f"bucket {workflow.bucket!r}: {problem}"] if problem else found


def _step_problems(workflow: Workflow) -> list[str]:
    steps: Any = workflow.steps
    if not isinstance(steps, tuple):
        return [f"steps is {type(steps).__name__}; expected a list of LambdaStep, GlueStep or @stage functions"]
    if not steps:
        return ["it has no steps"]
    found = [
        f"step {number} is {type(step).__name__}; expected LambdaStep, GlueStep or a function with @stage"
        for number, step in enumerate(steps, 1)
        if not isinstance(step, LambdaStep | GlueStep)
    ]
    known = _known_steps(workflow)
    names = [step.state_name for step in known]
    for name in names:
        if not isinstance(name, str) or not name.strip():
            found.append("a step's name is blank")
        elif not is_safe_name(name):
            found.append(f"step name {name[:100]!r}: {SAFE_NAME_RULE}, because it is a part of an object's path")
    text = [name for name in names if isinstance(name, str)]
    found.extend(f"step name {name!r} is used twice" for name in sorted({n for n in text if text.count(n) > 1}))
    generated = _generated_names(workflow)
    found.extend(f"step name {name!r} is that of a state which the workflow adds" for name in text if name in generated)
    found.extend(
        f"state name {name[:40]}... has {len(name)} characters; Step Functions allows 80"
        for name in sorted(generated)
        if len(name) > 80
    )
    for step in known:
        if isinstance(step, GlueStep) and (not isinstance(step.job_name, str) or not step.job_name.strip()):
            found.append(f"step {step.state_name!r}: the Glue job's name is blank")
        elif isinstance(step, GlueStep) and len(step.job_name) > 255:
            size = len(step.job_name)
            found.append(f"step {step.state_name!r}: the Glue job's name has {size} characters; Glue allows 255")
    return found


def _generated_names(workflow: Workflow) -> set[str]:
    """States that the compiler adds to this workflow."""
    steps: Any = workflow.steps
    if not isinstance(workflow.migration, MigrationMode) or not isinstance(steps, tuple) or not steps:
        return set()
    names = {INITIAL_STAGE} if isinstance(steps[0], GlueStep) else set()
    for step in _known_steps(workflow):
        if not workflow.uses_s3(step) and isinstance(step.state_name, str):
            names |= {f"{step.state_name}-load", f"{step.state_name}-save"}
    return names


def _function_problems(workflow: Workflow, steps: list[Step]) -> list[str]:
    found: list[str] = []
    naming: Any = workflow.naming
    functions: Any = workflow.functions
    if naming is not None and not isinstance(naming, Naming):
        return [f"naming is {type(naming).__name__}; expected Naming"]
    if functions is not None and not isinstance(functions, Mapping):
        return [f"functions is {type(functions).__name__}; expected function key -> handler"]
    if naming is not None:
        found.extend(naming.problems())
    used: dict[str, str] = {}
    for step in steps:
        if not isinstance(step, LambdaStep):
            continue
        key = step.function_key
        if not isinstance(key, str) or not key.strip():
            found.append(f"step {step.state_name!r}: the function key is blank")
            continue
        if functions is not None and key not in functions and step.handler is None:
            known = ", ".join(sorted(map(str, functions))) or "there are none"
            found.append(f"step {step.state_name!r}: unknown function key {key!r}; known are: {known}")
        if naming is not None and found and naming.problems():
            continue
        try:
            name = workflow.function_name(key)
        except InvalidInputError as error:
            known = ", ".join(sorted(naming.function_names)) if naming is not None else ""
            found.append(f"step {step.state_name!r}: unknown {error}; known are: {known or 'none'}")
            continue
        problem = function_name_problem(name)
        if problem:
            found.append(f"step {step.state_name!r}: function name {name[:100]!r}: {problem}")
        other = used.setdefault(name, key)
        if other != key:
            found.append(f"the function keys {other!r} and {key!r} both have the function name {name!r}")
    return found


def _retry_problems(retry: Any) -> list[str]:
    if not isinstance(retry, RetryConfiguration):
        return [f"retry is {type(retry).__name__}; expected RetryConfiguration"]
    found = []
    for prefix in ("", "glue_"):
        attempts, interval, rate = (
            getattr(retry, f"{prefix}{field}") for field in ("max_attempts", "interval_s", "backoff_rate")
        )
        what = f"retry.{prefix}"
        if not _is_whole(attempts, 0, _MAX_ASL_NUMBER):
            found.append(f"{what}max_attempts is {attempts!r}; expected a whole number from 0 to {_MAX_ASL_NUMBER}")
        if not _is_whole(interval, 1, _MAX_ASL_NUMBER):
            found.append(f"{what}interval_s is {interval!r}; expected whole seconds from 1 to {_MAX_ASL_NUMBER}")
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 1 <= rate < math.inf:
            found.append(f"{what}backoff_rate is {rate!r}; expected a number of at least 1")
    return found


def _migration_problems(workflow: Workflow, steps: list[Step]) -> list[str]:
    mode: Any = workflow.migration
    if not isinstance(mode, MigrationMode):
        return [f"migration {mode!r}: expected {', '.join(MigrationMode)}"]
    wrong = {MigrationMode.LEGACY: True, MigrationMode.FULL: False}.get(mode)
    return [
        f"step {step.state_name!r} says uses_s3_orchestration={step.uses_s3_orchestration}, the workflow {mode};"
        " expected HYBRID for a mixture"
        for step in steps
        if isinstance(step, LambdaStep) and wrong is not None and step.uses_s3_orchestration is wrong
    ]


def _time_problems(workflow: Workflow, steps: list[Step]) -> list[str]:
    found = []
    for step in steps:
        limit = LAMBDA_LIMIT_S if isinstance(step, LambdaStep) else GLUE_LIMIT_S
        if not _is_whole(step.timeout_s, 1, limit):
            what = "Lambda" if isinstance(step, LambdaStep) else "Glue"
            found.append(
                f"step {step.state_name!r}: timeout_s is {step.timeout_s!r}; expected whole seconds from 1 to {limit}"
                f" ({what}'s limit)"
            )
    if workflow.type is WorkflowType.EXPRESS:
        found.extend(
            f"step {step.state_name!r} is a Glue job, which an EXPRESS workflow cannot wait for; use STANDARD"
            for step in steps
            if isinstance(step, GlueStep)
        )
    numbers = [s.timeout_s for s in steps if isinstance(s.timeout_s, int | float) and s.timeout_s == s.timeout_s]
    total = sum(numbers)
    limit = EXPRESS_LIMIT_S if workflow.type is WorkflowType.EXPRESS else STANDARD_LIMIT_S
    if isinstance(workflow.type, WorkflowType) and total > limit:
        use = "; use STANDARD" if workflow.type is WorkflowType.EXPRESS else ""
        article = "an" if workflow.type is WorkflowType.EXPRESS else "a"
        found.append(f"the stages may take {total:.0f} s in all, {article} {workflow.type} workflow has {limit} s{use}")
    return found


def _is_whole(value: Any, low: int, high: int) -> bool:
    """Whether a value is a whole number in a range; 20.0 is one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return low <= value <= high and value == int(value)
