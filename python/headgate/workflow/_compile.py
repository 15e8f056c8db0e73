"""Compiles a `Workflow` to Amazon States Language, with the numbers and names that AWS accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headgate.workflow._errors import PERMANENT_ERRORS
from headgate.workflow._model import GlueStep, LambdaStep, WorkflowType
from headgate.workflow._validation import EXPRESS_LIMIT_S, INITIAL_STAGE

if TYPE_CHECKING:
    from headgate.ports import Json
    from headgate.workflow._model import Workflow

# Functions that headgate adds to a workflow; they are mapped to names as a user's function keys are.
INPUT_FUNCTION = "workflowInputLambda"
BRIDGE_FUNCTION = "workflowBridgeLambda"
_BRIDGE_TIMEOUT_S = 60
_LAMBDA = "arn:aws:states:::lambda:invoke"
_GLUE = "arn:aws:states:::glue:startJobRun.sync"
_NAME = "$$.Execution.Name"


def compile_workflow(workflow: Workflow) -> Json:
    """The state machine of a valid workflow."""
    states: list[tuple[str, Json]] = []
    previous: str | None = None  # the last stage whose output lies at its convention path
    inline: str | None = None  # the step before, when its result is the state's output instead
    for index, step in enumerate(workflow.steps):
        if workflow.uses_s3(step):
            if inline is not None:
                states.append((f"{inline}-save", _bridge(workflow, "save", inline, None)))
                previous, inline = inline, None
            if isinstance(step, LambdaStep):
                context = _context(workflow, step.state_name, previous)
                name = workflow.function_name(step.function_key)
                states.append((step.state_name, _lambda(workflow, name, step.timeout_s, context)))
            else:
                if previous is None:
                    # A job reads an object, so the input of the execution has to be one.
                    context = _context(workflow, INITIAL_STAGE, None)
                    name = added_function_name(workflow, INPUT_FUNCTION)
                    states.append((INITIAL_STAGE, _lambda(workflow, name, _BRIDGE_TIMEOUT_S, context)))
                    previous = INITIAL_STAGE
                states.append((step.state_name, _glue(workflow, step, previous)))
            previous = step.state_name
            continue
        assert isinstance(step, LambdaStep)
        if inline is None and (index or workflow.source_queue is not None):
            states.append((f"{step.state_name}-load", _bridge(workflow, "load", step.state_name, previous)))
        states.append((step.state_name, _inline(workflow, step)))
        inline = step.state_name
    return _machine(workflow, states)


def added_functions(workflow: Workflow) -> list[str]:
    """The function keys that the compiled workflow needs beside those of its steps."""
    states = compile_workflow(workflow)["States"].values()
    called = {state["Parameters"].get("FunctionName") for state in states}
    return [key for key in (INPUT_FUNCTION, BRIDGE_FUNCTION) if added_function_name(workflow, key) in called]


def _machine(workflow: Workflow, states: list[tuple[str, Json]]) -> Json:
    for (_, state), following in zip(states, [*states[1:], None], strict=True):
        state.update({"End": True} if following is None else {"Next": following[0]})
    machine: Json = {
        "Comment": f"{workflow.name} ({workflow.type})",
        "StartAt": states[0][0],
        "States": dict(states),
    }
    if workflow.type is WorkflowType.EXPRESS:
        machine["TimeoutSeconds"] = EXPRESS_LIMIT_S
    return machine


def _context(workflow: Workflow, stage: str, previous: str | None) -> Json:
    """The payload of a stage. The execution's input is taken whole from the context object: a state before may have
    replaced the state's input, and the pipe's array is unwrapped by the stage."""
    payload: Json = {"executionId.$": _NAME, "currentStage": stage, "workflowBucket": workflow.bucket}
    if previous is None:
        return {**payload, "initialData.$": "$$.Execution.Input"}
    return {**payload, "previousStage": previous}


def _lambda(workflow: Workflow, name: str, timeout_s: float, payload: Json) -> Json:
    return {
        "Type": "Task",
        "Resource": _LAMBDA,
        "Parameters": {"FunctionName": name, "Payload": payload},
        "TimeoutSeconds": int(timeout_s),
        "Retry": _retriers(workflow, ""),
        "ResultPath": None,
    }


def _inline(workflow: Workflow, step: LambdaStep) -> Json:
    """A function of the old kind: its data comes in its payload, and its result is the state's output."""
    return {
        "Type": "Task",
        "Resource": _LAMBDA,
        "Parameters": {"FunctionName": workflow.function_name(step.function_key), "Payload.$": "$"},
        "OutputPath": "$.Payload",
        "TimeoutSeconds": int(step.timeout_s),
        "Retry": _retriers(workflow, ""),
    }


def _bridge(workflow: Workflow, operation: str, stage: str, previous: str | None) -> Json:
    """Between the two kinds: `save` writes the state's input as a stage's output, `load` brings the data of the
    previous stage (or of the execution) into the state's output."""
    payload: Json = {
        "operation": operation, "executionId.$": _NAME, "currentStage": stage, "workflowBucket": workflow.bucket
    }  # fmt: skip
    state = _lambda(workflow, added_function_name(workflow, BRIDGE_FUNCTION), _BRIDGE_TIMEOUT_S, payload)
    if operation == "save":
        payload["initialData.$"] = "$"
        return state
    payload |= {"initialData.$": "$$.Execution.Input"} if previous is None else {"previousStage": previous}
    del state["ResultPath"]
    return {**state, "OutputPath": "$.Payload"}


def _glue(workflow: Workflow, step: GlueStep, previous: str) -> Json:
    return {
        "Type": "Task",
        "Resource": _GLUE,
        "Parameters": {
            "JobName": step.job_name,
            "Arguments": {
                "--execution-id.$": _NAME,
                "--input-bucket": workflow.bucket,
                "--input-key.$": _path_of(previous),
                "--output-bucket": workflow.bucket,
                "--output-key.$": _path_of(step.state_name),
            },
        },
        "TimeoutSeconds": int(step.timeout_s),
        "Retry": _retriers(workflow, "glue_"),
        "ResultPath": None,
    }


def _path_of(stage: str) -> str:
    """The convention path of a stage as an intrinsic; names are safe, so nothing needs an escape."""
    return f"States.Format('executions/{{}}/{stage}/output.json', {_NAME})"


def _retriers(workflow: Workflow, prefix: str) -> list[Json]:
    """All errors last; before it, for functions, what a retry cannot mend. Glue says no more than that a job failed."""
    retry = workflow.retry
    retriers: list[Json] = [] if prefix else [{"ErrorEquals": list(PERMANENT_ERRORS), "MaxAttempts": 0}]
    return [
        *retriers,
        {
            "ErrorEquals": ["States.ALL"],
            "IntervalSeconds": int(getattr(retry, f"{prefix}interval_s")),
            "MaxAttempts": int(getattr(retry, f"{prefix}max_attempts")),
            "BackoffRate": getattr(retry, f"{prefix}backoff_rate"),
        },
    ]


def added_function_name(workflow: Workflow, key: str) -> str:
    """The deployed name of a function that headgate adds. Where all names are given, it may be among them."""
    naming = workflow.naming
    if naming is not None and naming.strategy == "AUTO_GENERATED":
        return naming.function_names.get(key, key)
    return workflow.function_name(key)
