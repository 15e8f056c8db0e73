"""`WorkflowHandler`, the base class of stages, and the decorator `@stage`.

A stage reads its input and writes its output under paths that follow a convention, in an envelope. A failure always
leaves the stage as an exception.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import traceback
from typing import TYPE_CHECKING, Any, overload

from headgate._native import core
from headgate.errors import ConfigError, InvalidInputError
from headgate.workflow._context import ExecutionContext, StageResult, check_name, failure_key, output_key
from headgate.workflow._envelope import FORMATS, MAX_OUTPUT_BYTES, read_output, write_output
from headgate.workflow._errors import (
    PERMANENT_ERROR,
    HeadgatePermanentError,
    StageFailure,
    is_permanent,
    permanent,
)
from headgate.workflow._messages import unwrap_input

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.ports import Clock, Json, ObjectStore

__all__ = [
    "PERMANENT_ERROR", "FunctionStage", "HeadgatePermanentError", "StageFailure", "WorkflowHandler", "open_bucket",
    "output_key", "stage",
]  # fmt: skip
log = logging.getLogger("headgate.workflow")
_MAX_MESSAGE = 1_000
_MAX_STACK_LINES = 40


class WorkflowHandler:
    """Subclass and write `process(data, context) -> data`; an instance is called with the state machine's payload.

    A stage is idempotent: its output is written only where there is none, so the same execution has the same bytes
    under the same key whatever is retried, and a stage whose output exists is not run again. Effects beside the output
    have to be repeatable or guarded by the idempotency ledger, because a redelivered message is a new execution.

    Args:
        objects: the workflow's bucket, whatever its name; None opens the S3 bucket that each payload names.
        clock: the clock; tests pass a `ManualClock`.

    Attributes:
        data_format: "json" (inside the envelope), or "jsonl" or "parquet" (beside it, for large data).
        max_output_bytes: the most that the stage reads or writes.
        record_fields: members of an object that are counted as its records, the first list among them.
        unwraps_input: whether the first stage takes its data out of a pipe's array, SQS record or SNS envelope.

    Example:
        >>> class Double(WorkflowHandler):
        ...     def process(self, data, context):
        ...         return [2 * n for n in data]
        >>> from headgate.testing.objects import MemoryObjects
        >>> objects = MemoryObjects()
        >>> result = Double(objects)({"executionId": "run-1", "currentStage": "Double", "workflowBucket": "b",
        ...                           "initialData": [1, 2]})
        >>> result["recordsProcessed"], "executions/run-1/Double/output.json" in objects.list()
        (2, True)
    """

    data_format: str = "json"
    max_output_bytes: int = MAX_OUTPUT_BYTES
    record_fields: tuple[str, ...] = ("records", "candidates", "items")
    unwraps_input: bool = True

    def __init__(self, objects: ObjectStore | None = None, clock: Clock | None = None) -> None:
        if self.data_format not in FORMATS:
            message = f"{type(self).__name__}.data_format is {self.data_format!r}; expected one of {', '.join(FORMATS)}"
            raise ConfigError(message)
        self._given_objects = objects
        self._opened: dict[str, ObjectStore] = {}
        self.clock: Any = clock or core.SystemClock()

    @property
    def objects(self) -> Any:
        """The object store that this stage was made with.

        Raises:
            ConfigError: it was made without one; `bucket(context)` has the one of an execution.
        """
        if self._given_objects is None:
            message = f"{type(self).__name__} was made without an object store; ask bucket(context) for the execution's"
            raise ConfigError(message)
        return self._given_objects

    def bucket(self, context: ExecutionContext) -> Any:
        """The object store of an execution: the one that was given, or the S3 bucket that its payload names."""
        if self._given_objects is not None:
            return self._given_objects
        name = context.workflowBucket
        if name not in self._opened:
            self._opened[name] = open_bucket(name)
        return self._opened[name]

    def process(self, data: Any, context: ExecutionContext) -> Any:
        """The stage's own work.

        Args:
            data: the previous stage's data, or the execution's input for the first stage.
            context: who runs, for which execution.

        Returns:
            This stage's data: JSON values (text, finite numbers, booleans, None inside, lists, dicts with text keys).
        """
        raise NotImplementedError

    def count(self, data: Any) -> int:
        """How many records some data holds: a list's length, that of the first list among `record_fields`, or 1."""
        if isinstance(data, dict):
            found = (data[name] for name in self.record_fields if isinstance(data.get(name), list))
            return len(next(found, (data,)))
        if isinstance(data, list):
            return len(data)
        return int(getattr(data, "num_rows", 1))

    def __call__(self, event: Json | ExecutionContext, lambda_context: Any = None) -> Json:
        """Run the stage for one payload of the state machine.

        Returns:
            The StageResult as an object: status, stage, recordsProcessed (the records of the output), errorMessage.

        Raises:
            HeadgatePermanentError: what a retry cannot mend: a missing or broken input, refused access, a result that
                is no JSON. Its text begins with the name of the cause.
            Exception: anything else, as it was raised; the state machine retries it.
        """
        try:
            context = ExecutionContext.from_event(event)
        except InvalidInputError as error:
            log.error("stage refused", extra={"errorType": type(error).__name__, "errorMessage": str(error)})
            raise permanent(error) from error
        where = {
            "executionId": context.executionId, "currentStage": context.currentStage,
            "inputPath": self._shown(context, context.input_key),
            "outputPath": self._shown(context, context.output_key),
        }  # fmt: skip
        log.info("stage started", extra=where)
        try:
            records = self._run(context)
        except Exception as error:
            raised = self._failed(context, error, where)
            if raised is error:
                raise
            raise raised from error
        log.info("stage succeeded", extra={**where, "recordsProcessed": records})
        return StageResult("SUCCESS", context.currentStage, records).to_dict()

    def _run(self, context: ExecutionContext) -> int:
        started = self.clock.mono_us()
        core.fault_point(f"stage.{context.currentStage}")
        objects = self.bucket(context)
        limit = self.max_output_bytes
        if objects.exists(context.output_key):
            # A retry after the write: the first bytes stand, the effect is not repeated.
            return read_output(objects, context.executionId, context.currentStage, limit).records
        if context.previousStage is None:
            data = unwrap_input(context.initialData) if self.unwraps_input else context.initialData
            given = self.count(data)
        else:
            read = read_output(objects, context.executionId, context.previousStage, limit)
            data, given = read.data, read.records
        result = self.process(data, context)
        head = {
            "timestamp": core.format_timestamp(self.clock.now_us()),
            "metadata": {
                "processingTimeMs": max(0, (self.clock.mono_us() - started) // 1000),
                "inputRecordCount": given,
                "outputRecordCount": self.count(result),
            },
        }
        return write_output(objects, context, result, self.data_format, limit, head).records

    def _failed(self, context: ExecutionContext, error: Exception, where: Json) -> Exception:
        """Write and log the failure; the exception to raise."""
        stack = traceback.format_exception(error)[-_MAX_STACK_LINES:]
        result = StageResult(
            "FAILED", context.currentStage, 0, str(error)[:_MAX_MESSAGE], type(error).__name__,
            tuple(line.rstrip() for line in stack),
        )  # fmt: skip
        is_final = isinstance(error, HeadgatePermanentError) or is_permanent(error)
        log.log(
            logging.ERROR if is_final else logging.WARNING,  # what is retried is no error yet
            "stage failed",
            extra={**where, "errorType": result.errorType, "errorMessage": result.errorMessage, "permanent": is_final,
                   "stack": list(result.stack)},
        )  # fmt: skip
        try:
            key = failure_key(context.executionId, context.currentStage)
            self.bucket(context).put(key, json.dumps(result.to_dict(), sort_keys=True).encode())
        except Exception as second:  # the stage's own error matters more than its record
            log.warning("the failure could not be recorded", extra={**where, "error": type(second).__name__})
            error.add_note(f"the failure could not be recorded: {type(second).__name__}")
        return permanent(error) if is_final and not isinstance(error, StageFailure) else error

    def _shown(self, context: ExecutionContext, key: str | None) -> str | None:
        return None if key is None else f"s3://{context.workflowBucket}/{key}"


class FunctionStage(WorkflowHandler):
    """A stage made of a plain function by `@stage`: a handler for Lambda, and a step of a `Workflow`.

    `function` is the plain function, for its own tests.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str,
        function_key: str,
        timeout_s: int = 60,
        data_format: str = "json",
        objects: ObjectStore | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.data_format = data_format
        super().__init__(objects, clock)
        self.function = function
        self.name = check_name("stage name", name)
        self.function_key = function_key
        self.timeout_s = timeout_s
        self._takes_context = _positional(function) >= 2
        functools.update_wrapper(self, function)

    def process(self, data: Any, context: ExecutionContext) -> Any:
        return self.function(data, context) if self._takes_context else self.function(data)

    @property
    def has_objects(self) -> bool:
        """Whether it was made with an object store of its own."""
        return self._given_objects is not None

    def bound(self, objects: ObjectStore, clock: Clock | None = None) -> FunctionStage:
        """The same stage on another object store."""
        return FunctionStage(
            self.function, name=self.name, function_key=self.function_key, timeout_s=self.timeout_s,
            data_format=self.data_format, objects=objects, clock=clock,
        )  # fmt: skip


@overload
def stage(function: Callable[..., Any], /) -> FunctionStage: ...


@overload
def stage(
    *, name: str | None = None, function_key: str | None = None, timeout_s: int = 60, data_format: str = "json"
) -> Callable[[Callable[..., Any]], FunctionStage]: ...


def stage(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    function_key: str | None = None,
    timeout_s: int = 60,
    data_format: str = "json",
) -> Any:
    """Make a stage of a plain function of `data`, or of `data` and `context`.

    Args:
        function: what the stage does.
        name: the state's name; default: the function's name.
        function_key: what names the function in a workflow; default: the stage's name.
        timeout_s: the function's limit in seconds.
        data_format: "json", "jsonl" or "parquet".

    Raises:
        InvalidInputError: the name is not safe as a part of a path, or the function takes no argument.

    Example:
        >>> @stage
        ... def double(data):
        ...     return [2 * n for n in data]
        >>> double.function([1, 2])
        [2, 4]
        >>> from headgate.testing.objects import MemoryObjects
        >>> event = {"executionId": "run-1", "currentStage": "double", "workflowBucket": "b", "initialData": [1, 2]}
        >>> double.bound(MemoryObjects())(event)["status"]
        'SUCCESS'
    """

    def make(inner: Callable[..., Any]) -> FunctionStage:
        shown = str(name or getattr(inner, "__name__", type(inner).__name__))
        if not 1 <= _positional(inner) <= 2:
            message = f"stage {shown!r}: expected a function of data, or of data and context"
            raise InvalidInputError(message)
        return FunctionStage(
            inner, name=shown, function_key=function_key or shown, timeout_s=timeout_s, data_format=data_format
        )

    return make if function is None else make(function)


def open_bucket(name: str) -> Any:
    """The object store of an S3 bucket, with credentials, region and endpoint as boto3 finds them.

    Raises:
        ConfigError: boto3 is missing, or there are no credentials.
    """
    from headgate.backends.s3_objects import S3Objects

    return S3Objects(f"s3://{name}")


def _positional(function: Callable[..., Any]) -> int:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        return 2
    return sum(p.kind in kinds for p in parameters)
