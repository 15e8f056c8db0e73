"""The typed program that a definition is parsed into. Every node knows where it stands in the definition."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from headgate.workflow._paths import Path
from headgate.workflow._values import Value

Language = Literal["JSONPath", "JSONata"]


@dataclass(frozen=True)
class Retrier:
    """One entry of Retry; times in seconds."""

    errors: tuple[str, ...]
    interval_s: float = 1
    max_attempts: int = 3
    backoff_rate: float = 2.0
    max_delay_s: float | None = None
    full_jitter: bool = False


@dataclass(frozen=True)
class Catcher:
    """One entry of Catch."""

    errors: tuple[str, ...]
    next: str
    result_path: Path | None = None  # None discards the error, see `has_result_path`
    has_result_path: bool = False
    assign: Value | None = None
    output: Value | None = None


@dataclass(frozen=True)
class State:
    """What all states have. A field that the definition does not have is None."""

    name: str
    type: str
    path: str
    language: Language
    next: str | None = None
    is_end: bool = False
    input_path: Path | None = None
    discards_input: bool = False  # InputPath: null
    output_path: Path | None = None
    discards_output: bool = False  # OutputPath: null
    parameters: Value | None = None  # Parameters, or Arguments of JSONata
    result_selector: Value | None = None
    result_path: Path | None = None
    discards_result: bool = False  # ResultPath: null
    output: Value | None = None
    assign: Value | None = None
    retriers: tuple[Retrier, ...] = ()
    catchers: tuple[Catcher, ...] = ()

    @property
    def is_jsonata(self) -> bool:
        return self.language == "JSONata"


@dataclass(frozen=True)
class PassState(State):
    result: Any = None
    has_result: bool = False


@dataclass(frozen=True)
class SucceedState(State):
    pass


@dataclass(frozen=True)
class FailState(State):
    """Error and Cause may be constants, paths, intrinsic calls, or expressions."""

    error: Value | None = None
    cause: Value | None = None


@dataclass(frozen=True)
class WaitState(State):
    """Exactly one of the four: `kind` is Seconds, SecondsPath, Timestamp, or TimestampPath."""

    kind: str = "Seconds"
    value: Value | Path | None = None


@dataclass(frozen=True)
class Condition:
    """A node of a JSONPath choice rule.

    Args:
        operator: And, Or, Not, or a comparison such as NumericEquals (without `Path`).
        parts: of And, Or and Not.
        variable: what a comparison looks at.
        value: what it compares with, if that is constant.
        value_path: or where that is found.
    """

    operator: str
    parts: tuple[Condition, ...] = ()
    variable: Path | None = None
    value: Any = None
    value_path: Path | None = None


@dataclass(frozen=True)
class ChoiceRule:
    """A rule: a JSONPath condition, or a JSONata one."""

    next: str
    path: str
    condition: Condition | None = None
    expression: Value | None = None
    assign: Value | None = None
    output: Value | None = None


@dataclass(frozen=True)
class ChoiceState(State):
    rules: tuple[ChoiceRule, ...] = ()
    default: str | None = None


@dataclass(frozen=True)
class Resource:
    """What a Task does, taken from its ARN.

    Args:
        text: the ARN as it stands.
        kind: "lambda" (a function's own ARN), "activity", "service" (arn:aws:states:::service:action), or "function"
            (a bare name, which only this runner takes).
        service: of a service: "lambda", "sqs", "aws-sdk:s3", ...
        action: of a service: "invoke", "sendMessage"; of the others: the name.
        pattern: "", "sync", "sync:2", or "waitForTaskToken".
    """

    text: str
    kind: str
    service: str = ""
    action: str = ""
    pattern: str = ""

    @property
    def is_sync(self) -> bool:
        return self.pattern.startswith("sync")


@dataclass(frozen=True)
class TaskState(State):
    resource: Resource = Resource("", "function")
    timeout: Value | Path | None = None
    heartbeat: Value | Path | None = None
    credentials: Value | None = None


@dataclass(frozen=True)
class ParallelState(State):
    branches: tuple[Machine, ...] = ()


@dataclass(frozen=True)
class ItemReader:
    """Where a distributed Map reads its items."""

    action: str  # getObject or listObjectsV2
    parameters: Value
    input_type: str = "JSON"  # JSON, JSONL, CSV, MANIFEST, PARQUET
    header_location: str = "FIRST_ROW"
    headers: tuple[str, ...] = ()
    delimiter: str = ","
    max_items: Value | Path | None = None
    items_pointer: str = ""
    transformation: str = "NONE"  # LOAD_AND_FLATTEN: a listing's objects are read


@dataclass(frozen=True)
class ItemBatcher:
    """How items are put together for one iteration."""

    max_items: Value | Path | None = None
    max_bytes: Value | Path | None = None
    input: Value | None = None


@dataclass(frozen=True)
class ResultWriter:
    """Where a distributed Map writes its results."""

    action: str = ""  # putObject, or nothing: only the transformation
    parameters: Value | None = None
    transformation: str = "NONE"
    output_type: str = "JSON"


@dataclass(frozen=True)
class MapState(State):
    processor: Machine | None = None
    is_distributed: bool = False
    execution_type: str = "STANDARD"
    items: Value | Path | None = None  # Items of JSONata, ItemsPath of JSONPath
    selector: Value | None = None
    reader: ItemReader | None = None
    batcher: ItemBatcher | None = None
    writer: ResultWriter | None = None
    max_concurrency: Value | Path | None = None
    tolerated_count: Value | Path | None = None
    tolerated_percentage: Value | Path | None = None
    label: str = ""


@dataclass(frozen=True)
class Machine:
    """A state machine, a branch of a Parallel state, or the processor of a Map state."""

    path: str
    start_at: str
    states: dict[str, State] = field(default_factory=dict)
    timeout_s: float | None = None
    comment: str = ""

    def machines(self) -> list[Machine]:
        """This one and all machines inside of it."""
        found = [self]
        for state in self.states.values():
            if isinstance(state, ParallelState):
                for branch in state.branches:
                    found += branch.machines()
            elif isinstance(state, MapState) and state.processor is not None:
                found += state.processor.machines()
        return found

    def every_state(self) -> list[State]:
        """All states, at any depth."""
        return [state for machine in self.machines() for state in machine.states.values()]
