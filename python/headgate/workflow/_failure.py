"""Errors of workflows: of a state while it runs, and of a definition before it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from headgate.errors import HeadgateError
from headgate.workflow._json import whole_text

_MAX_TEXT = 500  # characters of an exception in a cause
# Names that the States Language gives to errors. They are matched by Retry and Catch, so they never change.
ALL = "States.ALL"
TASK_FAILED = "States.TaskFailed"
TIMEOUT = "States.Timeout"
HEARTBEAT_TIMEOUT = "States.HeartbeatTimeout"
RUNTIME = "States.Runtime"
DATA_LIMIT = "States.DataLimitExceeded"
INTRINSIC = "States.IntrinsicFailure"
QUERY = "States.QueryEvaluationError"
RESULT_PATH = "States.ResultPathMatchFailure"
PARAMETER_PATH = "States.ParameterPathFailure"
NO_CHOICE = "States.NoChoiceMatched"
TOLERATED = "States.ExceedToleratedFailureThreshold"
ITEM_READER = "States.ItemReaderFailed"
RESULT_WRITER = "States.ResultWriterFailed"
BRANCH_FAILED = "States.BranchFailed"


class StateError(Exception):
    """A state failed.

    Args:
        error: the error's name, which Retry and Catch match; None for a Fail state that names none.
        cause: one text for people, or None.
        decorated: whether the cause is told with the state's name and the event that entered it, as Step Functions does
            for failures of its own.
        evaluation: whether an `EvaluationFailed` event stands before the failure (JSONata).
        location: the field that could not be evaluated.
    """

    def __init__(
        self,
        error: str | None,
        cause: str | None,
        *,
        decorated: bool = False,
        evaluation: bool = False,
        location: str | None = None,
    ) -> None:
        super().__init__(cause)
        self.error = error
        self.cause = cause
        self.decorated = decorated
        self.evaluation = evaluation
        self.location = location


def runtime_error(cause: str) -> StateError:
    """A `States.Runtime` failure: neither retried nor caught by States.ALL, it ends the execution."""
    return StateError(RUNTIME, cause, decorated=True)


@contextmanager
def evaluating() -> Iterator[None]:
    """Whatever goes wrong while a state's fields are evaluated is the state's failure: an execution always ends.

    Errors of headgate's own (a store, a lease) pass: they say nothing of the state.

    Raises:
        StateError: States.Runtime instead of any other exception.
    """
    try:
        yield
    except (StateError, HeadgateError):
        raise
    except Exception as error:
        text = "the data are nested too deeply" if isinstance(error, RecursionError) else whole_text(error)
        message = f"The fields of the state cannot be evaluated: {type(error).__name__}: {text[:_MAX_TEXT]}"
        raise runtime_error(message) from error


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or doubtful, in a definition.

    Args:
        path: where, as a JSONPath into the definition: `$.States.Fetch.Retry[0]`.
        code: stable, for machines: SCHEMA_VALIDATION_FAILED, MISSING_TRANSITION_TARGET, NOT_IDEMPOTENT, ...
        message: what is wrong; for errors in the words of Step Functions.
        mend: what to do about it.
        severity: "error" for what cannot run, "warning" for what may go wrong.
        state: the state that it concerns, or "".
    """

    path: str
    code: str
    message: str
    mend: str
    severity: str = "error"
    state: str = ""

    def __str__(self) -> str:
        where = f"state {self.state!r}: " if self.state else ""
        return f"{where}{self.message} (at {self.path}; {self.code}): {self.mend}"

    @property
    def location(self) -> str:
        """The place in the notation of Step Functions: `/States/Fetch/Retry[0]`."""
        return _slashes(self.path)


def _slashes(path: str) -> str:
    import re

    text = re.sub(r"\['((?:[^'\\]|\\.)*)'\]", lambda m: "/" + m[1].replace("\\'", "'"), path.removeprefix("$"))
    text = re.sub(r"\.", "/", text) if "['" not in path else re.sub(r"\.(?=[A-Z])", "/", text)
    return text or "/"


def child(path: str, name: str) -> str:
    """The path of a member: `$.States` and `Fetch it` give `$.States['Fetch it']`."""
    import re

    return f"{path}.{name}" if re.fullmatch(r"[\w$-]+", name) else f"{path}['{name}']"
