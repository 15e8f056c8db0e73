"""The types of the runner's interface: executions and state machines, and the checks of their input."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from headgate.errors import DuplicateError, InvalidInputError, NotFoundError
from headgate.workflow._json import LIMIT_BYTES, describe_not_json, size_bytes, to_text
from headgate.workflow._parse import Parsed, parse_definition
from headgate.workflow._store import ExecutionStore

if TYPE_CHECKING:
    from headgate.ports import Json


EXECUTION_ID = re.compile(r"[^\x00-\x1f\x7f-\x9f\s<>{}\[\]?*\"#%\\^|~`$&,;:/]{1,80}")
_MAX_NAME = 200  # characters of a workflow's name


class ExecutionAlreadyExistsError(DuplicateError):
    """There is an execution of this id with another input."""


@dataclass(frozen=True)
class Execution:
    """A run as it stands: its history has every event, as Step Functions shows it.

    Args:
        id: its name.
        status: RUNNING, SUCCEEDED, FAILED, TIMED_OUT or ABORTED.
        error: the error's name, if it has failed.
        cause: the reason, if it has failed.
        history: its events: id, previousEventId, type, timestamp, and their details.
        output: what it has handed on, if it has succeeded.
        workflow: the state machine's name.
        kind: STANDARD or EXPRESS.
        input: what it was started with.
        started_us: when; `ended_us` is None while it runs.
        redrives: how often it was redriven.
    """

    id: str
    status: str
    error: str | None
    cause: str | None
    history: list[Json]
    output: Any = None
    workflow: str = ""
    kind: str = "STANDARD"
    input: Any = None
    started_us: int = 0
    ended_us: int | None = None
    redrives: int = 0


@dataclass(frozen=True)
class StateMachine:
    """A definition that tasks may start: `states:startExecution`."""

    definition: Json
    kind: str = "STANDARD"


class Releasing:
    """Gives the lease back when something unforeseen ends the work."""

    def __init__(self, store: ExecutionStore, execution_id: str, owner: str) -> None:
        self._release = (store, execution_id, owner)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            store, execution_id, owner = self._release
            with suppress(Exception):
                store.release(execution_id, owner)


@lru_cache(maxsize=64)
def parsed(text: str, kind: str) -> Parsed:
    return parse_definition(text, kind)


def check_workflow_name(name: Any) -> None:
    """Refuse a name that no store could keep, or nobody could find again.

    Raises:
        InvalidInputError: it is no text of 1 to 200 printable characters.
    """
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME or not name.isprintable():
        message = f"workflow: got {name!r:.80}; expected a name of 1 to {_MAX_NAME} printable characters"
        raise InvalidInputError(message)


def definition_text(definition: Any) -> str:
    return definition if isinstance(definition, str) else to_text(definition)


def input_text(workflow: str, data: Any) -> str:
    problem = describe_not_json(data)
    if problem is not None:
        message = f"workflow {workflow!r}: the input must be JSON: {problem}"
        raise InvalidInputError(message)
    text = to_text(data)
    if size_bytes(text) > LIMIT_BYTES:
        message = f"workflow {workflow!r}: the input has {size_bytes(text)} bytes, more than {LIMIT_BYTES}"
        raise InvalidInputError(message)
    return text


def not_found(execution_id: str) -> NotFoundError:
    return NotFoundError(f"there is no execution {execution_id!r}")


def no_token() -> InvalidInputError:
    return InvalidInputError("Invalid Token, which nobody waits for")
