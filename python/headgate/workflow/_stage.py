"""The base class of stages: paths by convention, the envelope, and failures that are never swallowed."""

from __future__ import annotations

import json
import logging
import traceback
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import InvalidInputError, NotFoundError, PermanentError
from headgate.workflow._model import ExecutionContext, StageResult

if TYPE_CHECKING:
    from headgate.ports import Json, ObjectStore

log = logging.getLogger("headgate.workflow")
PERMANENT_ERROR = "HeadgatePermanentError"


class StageFailure(Exception):  # noqa: N818 - its name travels as an ASL error name
    """What the runner and Lambda see; `error_name` is matched by the ASL retriers."""

    def __init__(self, error_name: str, cause: str) -> None:
        super().__init__(cause)
        self.error_name = error_name
        self.cause = cause


class HeadgatePermanentError(StageFailure):
    """Lambda reports an exception by its class name; this one is in the zero-attempt retrier."""

    def __init__(self, cause: str) -> None:
        super().__init__(PERMANENT_ERROR, cause)


def output_key(execution_id: str, stage: str) -> str:
    """Where a stage of an execution writes (property 2).

    Example:
        >>> output_key("run-1", "ETLStage")
        'executions/run-1/ETLStage/output.json'
    """
    return f"executions/{execution_id}/{stage}/output.json"


class WorkflowHandler:
    """Subclass and write `process(data, context) -> data`; an instance is called with the state machine's payload.

    Args:
        objects: the workflow's bucket.
        clock: injected in tests.

    A stage is idempotent: the same execution and input write the same bytes to the same key.
    """

    def __init__(self, objects: ObjectStore, clock: Any = None) -> None:
        self.objects = objects
        self.clock = clock or core.SystemClock()

    def process(self, data: Any, context: ExecutionContext) -> Any:
        """The stage's own work: the previous stage's data (or the execution's input) in, this stage's data out."""
        raise NotImplementedError

    def count(self, data: Any) -> int:
        """How many records some data holds."""
        if isinstance(data, dict) and isinstance(data.get("candidates"), list):
            return len(data["candidates"])
        return len(data) if isinstance(data, list) else 1

    def __call__(self, event: Json, lambda_context: Any = None) -> Json:
        """Run the stage.

        Raises:
            HeadgatePermanentError: what a retry cannot mend: a missing or broken input, refused access.
            Exception: anything else, as it was raised; the state machine retries it.
        """
        context = ExecutionContext.from_event(event)
        target = output_key(context.executionId, context.currentStage)
        source = output_key(context.executionId, context.previousStage) if context.previousStage else None
        log.info(
            "stage started",
            extra={"executionId": context.executionId, "currentStage": context.currentStage, "input_path": source,
                   "output_path": target},
        )  # fmt: skip
        started = self.clock.mono_us()
        try:
            core.fault_point(f"stage.{context.currentStage}")
            if self.objects.exists(target):
                # A retry after the write: the first bytes stand, the effect is not repeated.
                return asdict(StageResult("SUCCESS", context.currentStage, self.count(self._read(target))))
            data = self._read(source) if source else context.initialData
            result = self.process(data, context)
            envelope = {
                "executionId": context.executionId,
                "stage": context.currentStage,
                "timestamp": core.format_timestamp(self.clock.now_us()),
                "data": result,
                "metadata": {
                    "processingTimeMs": (self.clock.mono_us() - started) // 1000,
                    "inputRecordCount": self.count(data),
                    "outputRecordCount": self.count(result),
                },
            }
            self.objects.put(target, json.dumps(envelope, sort_keys=True, default=str).encode())
        except Exception as error:
            self._write_failure(context, error)
            if isinstance(error, PermanentError):
                raise HeadgatePermanentError(f"{type(error).__name__}: {error}") from error
            raise
        return asdict(StageResult("SUCCESS", context.currentStage, self.count(result)))

    def _read(self, key: str) -> Any:
        try:
            return json.loads(self.objects.get(key))["data"]
        except NotFoundError:
            message = f"the previous stage's output {key} does not exist"
            raise InvalidInputError(message) from None
        except (ValueError, KeyError, TypeError):
            message = f"the previous stage's output {key} is not a stage envelope"
            raise InvalidInputError(message) from None

    def _write_failure(self, context: ExecutionContext, error: Exception) -> None:
        failure = {
            **asdict(StageResult("FAILED", context.currentStage, 0, str(error)[:1000])),
            "errorType": type(error).__name__,
            "stack": traceback.format_exception_only(error),
        }
        key = f"executions/{context.executionId}/{context.currentStage}/failure.json"
        try:
            self.objects.put(key, json.dumps(failure).encode())
        except Exception as second:  # the stage's own error matters more than its record
            error.add_note(f"the failure could not be recorded: {type(second).__name__}")
