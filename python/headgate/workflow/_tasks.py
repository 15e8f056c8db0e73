"""Runs tasks: Python functions in the place of Lambda, and headgate's own backends in the place of other services."""

from __future__ import annotations

import inspect
import json
import traceback
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from headgate.errors import HeadgateError, InterruptedRunError, StaleLeaseError
from headgate.workflow._attempts import Done, Failed, Outcome, Submitted, TaskRequest, TimedOut
from headgate.workflow._failure import RUNTIME
from headgate.workflow._json import describe_not_json, to_text, whole_text
from headgate.workflow._program import Machine, Resource, TaskState
from headgate.workflow._values import Constant, JsonataValue, ObjectValue

Port = Callable[[TaskRequest], Any]
_TRACE_LINES = 10


class TaskFailure(Exception):  # noqa: N818 - its name travels as an error name of the States Language
    """A task failed with an error name and a cause; ports and functions may raise it.

    Args:
        error: the name that Retry and Catch match.
        cause: for people.
    """

    def __init__(self, error: str, cause: str) -> None:
        super().__init__(cause)
        self.error = error
        self.cause = cause


@runtime_checkable
class KnowsJobs(Protocol):
    """A port of jobs that can tell beforehand which there are."""

    def knows(self, name: str) -> bool: ...


class TaskTable:
    """What the tasks of a runner are done by.

    Args:
        functions: name -> callable(payload), in the place of Lambda functions.
        ports: "service:action" (such as "sqs:sendMessage") -> callable(request) -> result.
    """

    def __init__(self, functions: Mapping[str, Callable[[Any], Any]], ports: Mapping[str, Port]) -> None:
        self.functions = functions
        self.ports = ports

    def run(self, request: TaskRequest) -> Outcome:
        """Do a task once; whatever it raises is its outcome."""
        resource = request.resource
        try:
            if resource.kind == "activity":
                return Submitted(None)
            if resource.kind in ("lambda", "function"):
                return Done(self._invoke(resource.action, request.arguments))
            if (resource.service, resource.action) == ("lambda", "invoke"):
                result: Any = self._lambda_invoke(request.arguments)
            else:
                result = self._serve(f"{resource.service}:{resource.action}", request)
        except TaskFailure as failure:
            return Failed(failure.error, failure.cause)
        except TimeoutError as error:
            return TimedOut(str(error) or None)
        except (StaleLeaseError, InterruptedRunError):
            raise  # of whoever runs the execution: they say nothing of the task
        except Exception as error:
            return Failed(*lambda_error(error))
        if isinstance(result, Submitted):
            return result
        return Submitted(result) if resource.pattern == "waitForTaskToken" else Done(result)

    def _serve(self, name: str, request: TaskRequest) -> Any:
        port = self.ports.get(name)
        if port is None:
            raise TaskFailure(RUNTIME, f"state {request.state!r}: {_no_port(request.resource, name)}")
        return port(request)

    def _lambda_invoke(self, arguments: Any) -> dict[str, Any]:
        name = arguments.get("FunctionName") if isinstance(arguments, dict) else None
        if not isinstance(name, str):
            raise TaskFailure("Lambda.SdkClientException", "FunctionName must be a text")
        payload = self._invoke(name, arguments.get("Payload", {}))
        number = str(uuid.uuid4())
        return {
            "ExecutedVersion": "$LATEST",
            "Payload": payload,
            "SdkHttpMetadata": {"HttpStatusCode": 200},
            "SdkResponseMetadata": {"RequestId": number},
            "StatusCode": 200,
        }

    def find(self, name: str) -> Callable[[Any], Any] | None:
        """The function of a name, an ARN, or either with a qualifier."""
        parts = name.split(":")
        short = parts[6] if name.startswith("arn:") and len(parts) > 6 else parts[0]
        return self.functions.get(name) or self.functions.get(short)

    def _invoke(self, name: str, payload: Any) -> Any:
        function = self.find(name)
        if function is None:
            raise TaskFailure(
                "Lambda.ResourceNotFoundException",
                f"Function not found: {name} (Service: AWSLambda; Status Code: 404; Error Code:"
                " ResourceNotFoundException; Request ID: local; Proxy: null)",
            )
        try:
            result = function(json.loads(to_text(payload)))
        except TaskFailure:
            raise
        except SystemExit as error:  # Lambda's own name for a function that ends its process
            cause = f"RequestId: local Error: Runtime exited with error: exit status {error.code}"
            raise TaskFailure("Runtime.ExitError", cause) from None
        except Exception as error:
            raise TaskFailure(*lambda_error(error)) from error
        if inspect.iscoroutine(result):
            result.close()  # or Python warns that it was never awaited
        problem = describe_not_json(result)
        if problem is not None:
            message = f"Unable to marshal response: {problem}"
            cause = to_text({"errorMessage": message, "errorType": "Runtime.MarshalError", "stackTrace": []})
            raise TaskFailure("Runtime.MarshalError", cause)
        return json.loads(to_text(result))

    # --- what there is for a program

    def missing(self, machine: Machine) -> list[str]:
        """What a program needs and this table does not have; one sentence each, naming the state."""
        found = []
        for state in machine.every_state():
            if isinstance(state, TaskState):
                reason = self._missing(state)
                if reason:
                    found.append(f"state {state.name!r} (at {state.path}): {reason}")
        return found

    def _missing(self, state: TaskState) -> str | None:
        resource = state.resource
        if resource.kind == "activity":
            return None
        if resource.kind in ("lambda", "function"):
            return None if self.find(resource.action) or self.find(resource.text) else _no_function(resource.action)
        if (resource.service, resource.action) == ("lambda", "invoke"):
            name = _constant(state, "FunctionName")
            return None if name is None or self.find(name) else _no_function(name)
        name = f"{resource.service}:{resource.action}"
        if name == "states:startExecution":
            return None
        jobs, job = getattr(self.ports.get(name), "__self__", None), _constant(state, "JobName")
        if isinstance(jobs, KnowsJobs) and job is not None and not jobs.knows(job):
            return f"there is no job {job!r}; pass it in `jobs` of local_ports, in `functions`, or mock the state"
        return None if name in self.ports else _no_port(resource, name)


def _no_function(name: str) -> str:
    return f"there is no function {name!r}; pass it in `functions`, or mock the state"


def _no_port(resource: Resource, name: str) -> str:
    return f"the runner does not support {resource.text!r}; pass ports={{{name!r}: function}}, or mock the state"


def _constant(state: TaskState, member: str) -> str | None:
    """A member of the task's arguments, if it is a constant text."""
    given = state.parameters
    if isinstance(given, Constant) and isinstance(given.value, dict):
        value = given.value.get(member)
        return value if isinstance(value, str) else None
    if isinstance(given, ObjectValue):
        value = dict(given.members).get(member)
        return value.value if isinstance(value, Constant) and isinstance(value.value, str) else None
    assert given is None or isinstance(given, JsonataValue | Constant) or given is not None
    return None


def lambda_error(error: Exception) -> tuple[str, str]:
    """Error name and cause of an exception, as Lambda reports it: the class's name, and JSON."""
    name = str(getattr(error, "error_name", type(error).__name__))  # a stage's failure names its error itself
    text = whole_text(error.message if isinstance(error, HeadgateError) else error)
    frames = traceback.extract_tb(error.__traceback__)[1:][-_TRACE_LINES:]
    trace = [f"  {frame.name}, line {frame.lineno}" for frame in frames]
    return name, to_text({"errorMessage": text, "errorType": name, "stackTrace": trace})


def plain_cause(cause: str | None) -> str:
    """The message in a cause that Lambda has written as JSON; the cause itself otherwise."""
    try:
        doc = json.loads(cause or "")
        return str(doc["errorMessage"])
    except (ValueError, TypeError, KeyError):
        return cause or ""
