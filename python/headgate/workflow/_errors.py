"""Decides which failures of a stage are worth a retry, and under which error name they leave it.

Amazon States Language matches error names exactly, and Lambda reports an exception by the name of its class. Whatever a
retry cannot mend therefore leaves a stage as `HeadgatePermanentError`, with the cause in its text. The retrier that a
workflow compiles to has that name and a few of Lambda's own first, with no attempt, and all errors after it.
"""

from __future__ import annotations

import json
from typing import Any

from headgate.errors import PermanentError

PERMANENT_ERROR = "HeadgatePermanentError"
# The names of the zero-attempt retrier. `Sandbox.Timedout` and `Runtime.*` are Lambda's own names for a function
# that ran out of time or memory or cannot be loaded; `States.Timeout` is the state's own limit.
PERMANENT_ERRORS = (
    PERMANENT_ERROR, "States.Timeout", "Sandbox.Timedout", "Runtime.OutOfMemory", "Runtime.ImportModuleError",
    "Runtime.HandlerNotFound", "Runtime.UserCodeSyntaxError", "Lambda.ResourceNotFoundException",
    "Lambda.AccessDeniedException",
)  # fmt: skip
_MAX_CAUSE = 2_000  # characters; Lambda and Step Functions cut longer ones
_THROTTLED = 429
_REQUEST_TIMEOUT = 408


class StageFailure(Exception):  # noqa: N818 - its name travels as an ASL error name
    """What the runner and Lambda see; `error_name` is matched by the ASL retriers."""

    def __init__(self, error_name: str, cause: str) -> None:
        super().__init__(cause)
        self.error_name = error_name
        self.cause = cause

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.error_name, self.cause)


class HeadgatePermanentError(StageFailure):
    """What a retry cannot mend: Lambda reports it by this class's name, which the zero-attempt retrier holds.

    A stage may raise it itself.

    Example:
        >>> raise HeadgatePermanentError("the programme does not exist")
        Traceback (most recent call last):
        headgate.workflow._errors.HeadgatePermanentError: the programme does not exist
    """

    def __init__(self, cause: str) -> None:
        super().__init__(PERMANENT_ERROR, cause[:_MAX_CAUSE])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.cause,)


def is_permanent(error: BaseException) -> bool:
    """Whether trying the stage again with the same input would fail again.

    Permanent are headgate's own `PermanentError`s, refused access and missing or invalid requests of AWS (a status of
    4xx other than 408 and 429), JSON that cannot be parsed, data that fails a pydantic model, refused access to a file
    and a lack of memory. Everything else is retried: that is what the contract says of unknown errors.

    Example:
        >>> is_permanent(PermissionError("no")), is_permanent(TimeoutError("slow"))
        (True, False)
    """
    if isinstance(error, PermanentError | json.JSONDecodeError | PermissionError | MemoryError | RecursionError):
        return True
    module = type(error).__module__.partition(".")[0]
    if module in ("botocore", "boto3"):
        response = getattr(error, "response", None)
        if not isinstance(response, dict):
            return False  # no answer came: a connection, a time-out
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = str(response.get("Error", {}).get("Code", ""))
        if "Throttl" in code or code in ("SlowDown", "RequestTimeout", "ProvisionedThroughputExceededException"):
            return False
        return 400 <= int(status or 0) < 500 and status not in (_THROTTLED, _REQUEST_TIMEOUT)
    return module in ("pydantic", "pydantic_core") and type(error).__name__ == "ValidationError"


def permanent(error: BaseException) -> HeadgatePermanentError:
    """The same failure under the name that is not retried, with the cause in its text.

    Example:
        >>> str(permanent(PermissionError("no entry")))
        'PermissionError: no entry'
    """
    return HeadgatePermanentError(f"{type(error).__name__}: {_text(error)}")


def _text(error: BaseException) -> str:
    """What is wrong, without the data: pydantic and the JSON parser would quote it."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} (line {error.lineno}, column {error.colno})"
    if type(error).__module__.startswith("pydantic") and hasattr(error, "errors"):
        found = error.errors(include_input=False, include_url=False, include_context=False)
        return "; ".join(f"{'.'.join(map(str, entry['loc']))}: {entry['type']}" for entry in found[:5])
    return str(error)
