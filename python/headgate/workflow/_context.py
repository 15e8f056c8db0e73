"""The context that a stage receives, the result that it reports, and the object paths of an execution."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headgate.errors import InvalidInputError

if TYPE_CHECKING:
    from headgate.ports import Json

# Execution ids and stage names become parts of object keys. Step Functions allows 80 characters for both.
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
SAFE_NAME_RULE = "expected letters, digits, '-' and '_', at most 80, a letter or digit first"
_FIELDS = ("executionId", "currentStage", "previousStage", "workflowBucket", "initialData")


def is_safe_name(name: object) -> bool:
    """Whether a name can be a part of an object key and of the names of Step Functions.

    Example:
        >>> is_safe_name("ETLStage"), is_safe_name("../etc")
        (True, False)
    """
    return isinstance(name, str) and _SAFE_NAME.fullmatch(name) is not None


def check_name(what: str, name: object) -> str:
    """The name, if it can be a part of an object key.

    Raises:
        InvalidInputError: it cannot; the message says what it names and what was expected.
    """
    if not is_safe_name(name):
        message = f"{what} {str(name)[:100]!r}: {SAFE_NAME_RULE}"
        raise InvalidInputError(message)
    return str(name)


def output_key(execution_id: str, stage: str) -> str:
    """Where a stage of an execution writes its output (properties 2, 3 and 5 of the workflow contract).

    Raises:
        InvalidInputError: a name is not safe as a part of a path.

    Example:
        >>> output_key("run-1", "ETLStage")
        'executions/run-1/ETLStage/output.json'
    """
    return f"{_folder(execution_id, stage)}/output.json"


def failure_key(execution_id: str, stage: str) -> str:
    """Where a stage writes the StageResult of its last failed attempt.

    Example:
        >>> failure_key("run-1", "ETLStage")
        'executions/run-1/ETLStage/failure.json'
    """
    return f"{_folder(execution_id, stage)}/failure.json"


def data_key(execution_id: str, stage: str, name: str) -> str:
    """Where a stage writes data that is too large for its envelope.

    Example:
        >>> data_key("run-1", "ETLStage", "data-12ab.jsonl")
        'executions/run-1/ETLStage/data-12ab.jsonl'
    """
    return f"{_folder(execution_id, stage)}/{name}"


def _folder(execution_id: str, stage: str) -> str:
    return f"executions/{check_name('execution id', execution_id)}/{check_name('stage name', stage)}"


@dataclass(frozen=True)
class ExecutionContext:
    """What a stage is told: identifiers and places, never the data of another stage (property 8).

    Args:
        executionId: the execution's name; the same for all stages of one run.
        currentStage: the stage that is to run; a part of its output path.
        workflowBucket: where the stages of this workflow read and write.
        previousStage: whose output is the input; None for the first stage.
        initialData: the input of the execution, for the first stage only.

    Example:
        >>> ExecutionContext("run-1", "ETLStage", "bucket", None, {"programId": "p"}).is_first
        True
    """

    executionId: str  # noqa: N815 - the contract's own names
    currentStage: str  # noqa: N815
    workflowBucket: str  # noqa: N815
    previousStage: str | None = None  # noqa: N815
    initialData: Any = None  # noqa: N815

    @property
    def is_first(self) -> bool:
        """Whether the stage takes the execution's input instead of a previous stage's output."""
        return self.previousStage is None

    @property
    def input_key(self) -> str | None:
        """The object that the stage reads, or None for the first stage."""
        return None if self.previousStage is None else output_key(self.executionId, self.previousStage)

    @property
    def output_key(self) -> str:
        """The object that the stage writes."""
        return output_key(self.executionId, self.currentStage)

    def to_event(self) -> Json:
        """The payload that a state machine sends for this context.

        Example:
            >>> ExecutionContext("run-1", "B", "bucket", "A").to_event()
            {'executionId': 'run-1', 'currentStage': 'B', 'workflowBucket': 'bucket', 'previousStage': 'A'}
        """
        event: Json = {
            "executionId": self.executionId, "currentStage": self.currentStage, "workflowBucket": self.workflowBucket
        }  # fmt: skip
        return event | ({"initialData": self.initialData} if self.is_first else {"previousStage": self.previousStage})

    @classmethod
    def from_event(cls, event: Any) -> ExecutionContext:
        """Read the payload that the state machine sends.

        Raises:
            InvalidInputError: a field is missing, unknown, or no name that is safe as a part of a path.
        """
        if isinstance(event, ExecutionContext):
            event = event.to_event()
        if not isinstance(event, dict):
            message = f"a stage was called with {type(event).__name__}; expected an object of {', '.join(_FIELDS)}"
            raise InvalidInputError(message)
        unknown = sorted(str(name) for name in event.keys() - set(_FIELDS))
        if unknown:
            message = f"a stage was called with the unknown field {unknown[0]!r}; expected {', '.join(_FIELDS)}"
            raise InvalidInputError(message)
        missing = [name for name in ("executionId", "currentStage", "workflowBucket") if name not in event]
        previous = event.get("previousStage")
        if previous is None and "initialData" not in event:
            missing.append("initialData (or previousStage)")
        if missing:
            message = f"a stage was called without {', '.join(missing)}"
            raise InvalidInputError(message)
        check_name("executionId", event["executionId"])
        stage = check_name("currentStage", event["currentStage"])
        if previous is not None and check_name("previousStage", previous) == stage:
            message = f"stage {stage!r} was told to read its own output; expected another stage as previousStage"
            raise InvalidInputError(message)
        bucket = event["workflowBucket"]
        if not isinstance(bucket, str) or not bucket.strip():
            message = f"stage {stage!r}: workflowBucket is blank; expected the name of a bucket"
            raise InvalidInputError(message)
        return cls(event["executionId"], stage, bucket, previous, event.get("initialData"))


@dataclass(frozen=True)
class StageResult:
    """What a stage reports; the data itself lies at its output path.

    Args:
        status: "SUCCESS" or "FAILED".
        stage: its name.
        recordsProcessed: how many records its output holds.
        errorMessage: of a failure.
        errorType: the name of the exception's class.
        stack: the lines of its traceback.
    """

    status: str
    stage: str
    recordsProcessed: int = 0  # noqa: N815
    errorMessage: str | None = None  # noqa: N815
    errorType: str | None = None  # noqa: N815
    stack: tuple[str, ...] = ()

    def to_dict(self) -> Json:
        """The fields that have something to say.

        Example:
            >>> StageResult("SUCCESS", "ETLStage", 3).to_dict()
            {'status': 'SUCCESS', 'stage': 'ETLStage', 'recordsProcessed': 3, 'errorMessage': None}
        """
        result: Json = {
            "status": self.status, "stage": self.stage, "recordsProcessed": self.recordsProcessed,
            "errorMessage": self.errorMessage,
        }  # fmt: skip
        return result | ({"errorType": self.errorType, "stack": list(self.stack)} if self.errorType else {})
