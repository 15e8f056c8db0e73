"""The definition of a workflow and its compilation to ASL (spec 003)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from headgate.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headgate.ports import Json

# Error names that stages raise for what a retry cannot mend (spec 003, decision 2): ASL matches names exactly.
PERMANENT_ERRORS = ("HeadgatePermanentError", "States.DataLimitExceeded", "Lambda.InvalidParameterValueException")
EXPRESS_LIMIT_S = 300  # section 2: an Express run may take 5 min
_STATE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")  # safe as a part of an object key, ASL's limit


class WorkflowType(StrEnum):
    EXPRESS = "EXPRESS"
    STANDARD = "STANDARD"


@dataclass(frozen=True)
class LambdaStep:
    """A stage that runs as a function.

    Args:
        state_name: the state's name, and the stage's part of the output path.
        function_key: resolved to a function name (deployed) or a callable (local).
        timeout_s: the function's configured limit.
    """

    state_name: str
    function_key: str
    timeout_s: int = 60


@dataclass(frozen=True)
class GlueStep:
    """A stage that runs as a Glue job; the state waits for it (RUN_JOB)."""

    state_name: str
    job_name: str
    timeout_s: int = 7200


@dataclass(frozen=True)
class RetryConfiguration:
    """Lambda: all errors, 2 more attempts, 20 s doubling; Glue: 2, 5 min doubling (section 2)."""

    max_attempts: int = 2
    interval_s: float = 20
    backoff_rate: float = 2.0
    glue_max_attempts: int = 2
    glue_interval_s: float = 300
    glue_backoff_rate: float = 2.0


@dataclass(frozen=True)
class ExecutionContext:
    """What a stage is told: identifiers and places, never the data (property 8)."""

    executionId: str  # noqa: N815 - the contract's own names
    currentStage: str  # noqa: N815
    workflowBucket: str  # noqa: N815
    previousStage: str | None = None  # noqa: N815
    initialData: Any = None  # noqa: N815

    @classmethod
    def from_event(cls, event: Json) -> ExecutionContext:
        """Read the payload that the state machine sends.

        Raises:
            InvalidInputError: a field is missing.
        """
        try:
            return cls(
                event["executionId"], event["currentStage"], event["workflowBucket"],
                event.get("previousStage"), event.get("initialData"),
            )  # fmt: skip
        except (KeyError, TypeError) as error:
            message = f"a stage was called without {error}; expected executionId, currentStage and workflowBucket"
            raise InvalidInputError(message) from None


@dataclass(frozen=True)
class StageResult:
    """What a stage reports; the data itself lies at its output path."""

    status: str
    stage: str
    recordsProcessed: int = 0  # noqa: N815
    errorMessage: str | None = None  # noqa: N815


@dataclass(frozen=True)
class Workflow:
    """A sequence of stages.

    Example:
        >>> w = Workflow("scoring", WorkflowType.EXPRESS, [LambdaStep("ETLStage", "etl")], bucket="b")
        >>> w.to_asl()["StartAt"]
        'ETLStage'
    """

    name: str
    type: WorkflowType
    steps: Sequence[LambdaStep | GlueStep]
    bucket: str = "workflow"
    retry: RetryConfiguration = field(default_factory=RetryConfiguration)

    def validate(self) -> list[str]:
        """Refuse what cannot run; return warnings.

        Raises:
            InvalidInputError: one sentence that names the step.
        """
        errors = _structure_errors(self)
        warnings: list[str] = []
        first = sum(step.timeout_s for step in self.steps)
        if self.type is WorkflowType.EXPRESS and not errors:
            glue = [step.state_name for step in self.steps if isinstance(step, GlueStep)]
            if glue:
                errors.append(
                    f"step {glue[0]!r} is a Glue job, which an EXPRESS workflow cannot wait for; use STANDARD"
                )
            elif first > EXPRESS_LIMIT_S:
                errors.append(
                    f"the stages may take {first} s in all, an EXPRESS workflow has {EXPRESS_LIMIT_S} s; use STANDARD"
                )
            else:
                warnings.extend(_retry_warning(self, first))
        if errors:
            message = f"workflow {self.name!r}: {errors[0]}"
            raise InvalidInputError(message)
        return warnings

    def to_asl(self) -> Json:
        """The state machine, as it is deployed and as the local runner executes it."""
        self.validate()
        states: Json = {}
        for index, step in enumerate(self.steps):
            previous = self.steps[index - 1].state_name if index else None
            state = (
                _lambda_state(self, step, previous)
                if isinstance(step, LambdaStep)
                else _glue_state(self, step, previous)
            )
            if index + 1 < len(self.steps):
                state["Next"] = self.steps[index + 1].state_name
            else:
                state["End"] = True
            states[step.state_name] = state
        return {"Comment": f"{self.name} ({self.type})", "StartAt": self.steps[0].state_name, "States": states}


def _structure_errors(workflow: Workflow) -> list[str]:
    names = [step.state_name for step in workflow.steps]
    errors = []
    if not workflow.name.strip():
        errors.append("the name is blank")
    if not names:
        errors.append("it has no steps")
    errors.extend(
        f"step name {name!r}: expected letters, digits, '-' and '_', at most 80"
        for name in names
        if not _STATE_NAME.fullmatch(name)
    )
    errors.extend(f"step name {name!r} is used twice" for name in sorted({n for n in names if names.count(n) > 1}))
    return errors


def _retry_warning(workflow: Workflow, first: int) -> list[str]:
    retry = workflow.retry
    waits = sum(retry.interval_s * retry.backoff_rate**i for i in range(retry.max_attempts))
    slowest = max(step.timeout_s for step in workflow.steps)
    worst = first + waits + retry.max_attempts * slowest
    if worst <= EXPRESS_LIMIT_S:
        return []
    fits = 0
    spent = float(first)
    for i in range(retry.max_attempts):
        spent += retry.interval_s * retry.backoff_rate**i + slowest
        fits += spent <= EXPRESS_LIMIT_S
    return [
        f"with all retries of one stage it may take {worst:.0f} s; "
        f"{fits} retries of the slowest fit in {EXPRESS_LIMIT_S} s"
    ]


def _context(workflow: Workflow, step: LambdaStep | GlueStep, previous: str | None) -> Json:
    payload: Json = {
        "executionId.$": "$$.Execution.Name",
        "currentStage": step.state_name,
        "workflowBucket": workflow.bucket,
    }
    if previous is None:
        payload["initialData.$"] = "$$.Execution.Input"
    else:
        payload["previousStage"] = previous
    return payload


def _lambda_state(workflow: Workflow, step: LambdaStep, previous: str | None) -> Json:
    r = workflow.retry
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Parameters": {"FunctionName": step.function_key, "Payload": _context(workflow, step, previous)},
        "TimeoutSeconds": step.timeout_s,
        "Retry": [
            {"ErrorEquals": list(PERMANENT_ERRORS), "MaxAttempts": 0},
            {"ErrorEquals": ["States.ALL"], "MaxAttempts": r.max_attempts, "IntervalSeconds": r.interval_s,
             "BackoffRate": r.backoff_rate},
        ],
        "ResultPath": None,
    }  # fmt: skip


def _glue_state(workflow: Workflow, step: GlueStep, previous: str | None) -> Json:
    r = workflow.retry
    source = f"'executions/{{}}/{previous}/output.json'" if previous else "'executions/{}/initial/output.json'"
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::glue:startJobRun.sync",
        "Parameters": {
            "JobName": step.job_name,
            "Arguments": {
                "--execution-id.$": "$$.Execution.Name",
                "--input-bucket": workflow.bucket,
                "--input-key.$": f"States.Format({source}, $$.Execution.Name)",
                "--output-bucket": workflow.bucket,
                "--output-key.$": f"States.Format('executions/{{}}/{step.state_name}/output.json', $$.Execution.Name)",
            },
        },
        "TimeoutSeconds": step.timeout_s,
        "Retry": [
            {"ErrorEquals": ["States.ALL"], "MaxAttempts": r.glue_max_attempts, "IntervalSeconds": r.glue_interval_s,
             "BackoffRate": r.glue_backoff_rate}
        ],
        "ResultPath": None,
    }  # fmt: skip


def create_express_workflow(name: str, steps: Sequence[LambdaStep | GlueStep], **options: Any) -> Workflow:
    """A validated EXPRESS workflow."""
    workflow = Workflow(name, WorkflowType.EXPRESS, steps, **options)
    workflow.validate()
    return workflow


def create_standard_workflow(name: str, steps: Sequence[LambdaStep | GlueStep], **options: Any) -> Workflow:
    """A validated STANDARD workflow."""
    workflow = Workflow(name, WorkflowType.STANDARD, steps, **options)
    workflow.validate()
    return workflow


def lint(definition: Json) -> list[str]:
    """What is wrong with an ASL definition's structure; empty when nothing is."""
    states = definition.get("States", {})
    problems = [] if definition.get("StartAt") in states else ["StartAt names no state"]
    for name, state in states.items():
        target = state.get("Next")
        ends = state.get("End") or state.get("Type") in ("Succeed", "Fail", "Choice")
        if target is not None and target not in states:
            problems.append(f"state {name!r}: Next names no state {target!r}")
        if target is None and not ends:
            problems.append(f"state {name!r}: neither Next nor End")
        for retrier in state.get("Retry", ())[:-1]:
            if "States.ALL" in retrier.get("ErrorEquals", ()):
                problems.append(f"state {name!r}: a retrier with States.ALL must be the last")
    return problems
