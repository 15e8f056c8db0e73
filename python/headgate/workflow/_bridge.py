"""The two functions that a compiled workflow may add to its steps.

One prepares the input of a Glue job that comes first. The other passes data between plain functions, which carry it in
their payload, and stages, which read and write objects.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from headgate.errors import InvalidInputError, Kind
from headgate.workflow._context import ExecutionContext
from headgate.workflow._envelope import encode_data, read_output
from headgate.workflow._errors import is_permanent, permanent
from headgate.workflow._messages import unwrap_input
from headgate.workflow._stage import WorkflowHandler

if TYPE_CHECKING:
    from headgate.ports import Clock, Json, ObjectStore

log = logging.getLogger("headgate.workflow")
MAX_PAYLOAD_BYTES = 262_144  # what Step Functions carries between two states


class InputStage(WorkflowHandler):
    """Writes the execution's input, taken out of what carried it, as the output of the stage `initial`.

    A Glue job reads an object; when it is the first step, this function runs before it.
    """

    def process(self, data: Any, context: ExecutionContext) -> Any:
        return data


class _SaveStage(InputStage):
    """Writes what a function of the old kind returned as that step's output."""

    unwraps_input = False


class BridgeHandler:
    """Brings data from the convention paths into a payload ("load") and back ("save").

    Args:
        objects: the workflow's bucket; None opens the S3 bucket that each payload names.
        clock: the clock; tests pass a `ManualClock`.
    """

    def __init__(self, objects: ObjectStore | None = None, clock: Clock | None = None) -> None:
        self._save = _SaveStage(objects, clock)

    def __call__(self, event: Json, lambda_context: Any = None) -> Any:
        """Run one operation.

        Returns:
            For "load" the data, for "save" the StageResult.

        Raises:
            HeadgatePermanentError: an unknown operation, a missing or broken output, or data of more than 256 KiB.
        """
        rest = dict(event) if isinstance(event, dict) else {}
        operation = rest.pop("operation", None)
        if operation == "save":
            return self._save(rest)
        try:
            if operation != "load":
                message = f"the bridge was called with operation {operation!r}; expected load or save"
                raise InvalidInputError(message)
            return self._load(ExecutionContext.from_event(rest))
        except Exception as error:
            log.error("data cannot be loaded", extra={"errorType": type(error).__name__, "errorMessage": str(error)})
            if is_permanent(error):
                raise permanent(error) from error
            raise

    def _load(self, context: ExecutionContext) -> Any:
        limit = self._save.max_output_bytes
        if context.previousStage is None:
            data = unwrap_input(context.initialData)
        else:
            data = read_output(self._save.bucket(context), context.executionId, context.previousStage, limit).data
        size = len(encode_data(context.previousStage or "the execution's input", data, "json", limit))
        if size > MAX_PAYLOAD_BYTES:
            message = (
                f"step {context.currentStage!r} takes its data in its payload, at most {MAX_PAYLOAD_BYTES:,} bytes; "
                f"its input has {size:,}: make it a stage of the base class"
            )
            raise InvalidInputError(message, Kind.MESSAGE_TOO_LARGE)
        log.info(
            "data loaded",
            extra={"executionId": context.executionId, "currentStage": context.currentStage, "sizeBytes": size},
        )
        return data


# What Lambda calls: `headgate.workflow.write_input` and `headgate.workflow.bridge`. The bucket comes with each payload.
write_input = InputStage()
bridge = BridgeHandler()
