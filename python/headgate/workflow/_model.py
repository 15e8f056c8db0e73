"""The definition of a workflow: its steps, how they are retried, and what it compiles to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from headgate.errors import InvalidInputError
from headgate.workflow._context import ExecutionContext, StageResult
from headgate.workflow._errors import PERMANENT_ERRORS
from headgate.workflow._naming import Naming, NamingStrategy
from headgate.workflow._stage import FunctionStage

if TYPE_CHECKING:
    from headgate.ports import Json
    from headgate.workflow._local import WorkflowRun

__all__ = [
    "PERMANENT_ERRORS", "ExecutionContext", "GlueStep", "LambdaStep", "MigrationMode", "RetryConfiguration",
    "StageResult", "Workflow", "WorkflowStepType", "WorkflowType", "create_express_workflow",
    "create_standard_workflow", "lint",
]  # fmt: skip


class WorkflowType(StrEnum):
    """EXPRESS: at most 5 minutes, only functions; the pipe waits for its end, and a failure brings the message back.

    STANDARD: up to a year, functions and Glue jobs; the pipe starts it and deletes the message.
    """

    EXPRESS = "EXPRESS"
    STANDARD = "STANDARD"

    @property
    def invocation_type(self) -> str:
        """How a pipe starts it.

        Example:
            >>> WorkflowType.EXPRESS.invocation_type
            'REQUEST_RESPONSE'
        """
        return "REQUEST_RESPONSE" if self is WorkflowType.EXPRESS else "FIRE_AND_FORGET"


class MigrationMode(StrEnum):
    """LEGACY: every function takes its data in its payload. FULL: every function is a stage of the base class. HYBRID:
    each step says which of the two it is (`uses_s3_orchestration`)."""

    LEGACY = "LEGACY"
    HYBRID = "HYBRID"
    FULL = "FULL"


class WorkflowStepType:
    """A step: `WorkflowStepType.Lambda(state, function_key)` or `WorkflowStepType.Glue(state, job_name)`."""

    Lambda: ClassVar[type[LambdaStep]]
    Glue: ClassVar[type[GlueStep]]


@dataclass(frozen=True)
class LambdaStep(WorkflowStepType):
    """A stage that runs as a function.

    Args:
        state_name: the state's name, and the stage's part of the output path.
        function_key: mapped to a function's name (deployed) or a callable (local).
        timeout_s: the function's configured limit in seconds, at most 900.
        uses_s3_orchestration: whether it is a stage of the base class, in a HYBRID workflow; None follows the mode.
        handler: what runs locally, where no `functions` say otherwise.
    """

    state_name: str
    function_key: str
    timeout_s: float = 60
    uses_s3_orchestration: bool | None = None
    handler: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class GlueStep(WorkflowStepType):
    """A stage that runs as a Glue job; the state waits for it (RUN_JOB).

    Args:
        state_name: the state's name, and the stage's part of the output path.
        job_name: the Glue job.
        timeout_s: the state's limit in seconds, at most 7 days.
    """

    state_name: str
    job_name: str
    timeout_s: float = 7200


WorkflowStepType.Lambda = LambdaStep
WorkflowStepType.Glue = GlueStep


@dataclass(frozen=True)
class RetryConfiguration:
    """How often and when a failed step is run again. Intervals are whole seconds; they grow by the backoff rate.

    Args:
        max_attempts: retries of a function after its first attempt.
        interval_s: before the first of them.
        backoff_rate: what each further interval is multiplied by.
        glue_max_attempts, glue_interval_s, glue_backoff_rate: the same for a Glue job.
    """

    max_attempts: int = 2
    interval_s: float = 20
    backoff_rate: float = 2.0
    glue_max_attempts: int = 2
    glue_interval_s: float = 300
    glue_backoff_rate: float = 2.0


Step = LambdaStep | GlueStep
# Names of the workflow's contract -> ours.
_ALIASES = {
    "workflowName": "name", "workflowType": "type", "workflowBucket": "bucket", "retryConfig": "retry",
    "sourceQueue": "source_queue", "migrationMode": "migration", "lambdaFunctions": "functions",
    "workflow_name": "name", "workflow_type": "type", "workflow_bucket": "bucket", "retry_config": "retry",
    "migration_mode": "migration", "lambda_functions": "functions",
}  # fmt: skip
_DEFAULTS: dict[str, Any] = {
    "name": None, "type": None, "steps": None, "bucket": "workflow", "retry": None, "source_queue": None,
    "functions": None, "function_names": None, "naming": None, "migration": MigrationMode.FULL,
}  # fmt: skip
_REQUIRED = ("name", "type", "steps")


@dataclass(frozen=True, init=False)
class Workflow:
    """A sequence of stages that runs on this machine and compiles to the state machine that is deployed.

    Nothing is checked while it is made; `validate()` names every problem at once, and `to_asl()` and `run()` call it.

    Args:
        name: the state machine is `{name}-Express` or `{name}-Standard`.
        type: a `WorkflowType`, or its text.
        steps: `LambdaStep`, `GlueStep` and functions with `@stage`, in their order.
        bucket: where the stages read and write.
        retry: see `RetryConfiguration`.
        source_queue: the queue that a pipe reads, if one does.
        functions: function key -> what runs locally: a handler, a stage or its class. When given, every step's key has
            to be in it (or have a handler of its own).
        function_names: function key -> name of the deployed function; a short form of `naming`.
        naming: how function keys become names; without it they are the names.
        migration: a `MigrationMode`, or its text.

    The names of the workflow's contract (`workflowName`, `workflowType`, `workflowBucket`, `sourceQueue`,
    `retryConfig`, `lambdaFunctions`, `migrationMode`) are taken too.

    Raises:
        InvalidInputError: an unknown keyword, one that was given twice, or name, type or steps are missing.

    Example:
        >>> w = Workflow("scoring", "EXPRESS", [LambdaStep("ETLStage", "etl")], bucket="scoring-data")
        >>> w.to_asl()["StartAt"]
        'ETLStage'
    """

    name: str
    type: WorkflowType
    steps: tuple[Step, ...]
    bucket: str
    retry: RetryConfiguration
    source_queue: str | None
    functions: Mapping[str, Any] | None
    naming: Naming | None
    migration: MigrationMode

    def __init__(self, *args: Any, **keywords: Any) -> None:
        given = _named(args, keywords)
        steps = given["steps"]
        if isinstance(steps, Iterable) and not isinstance(steps, str | bytes | Mapping):
            steps = tuple(_step(entry) for entry in steps)
        naming = given["naming"]
        if given["function_names"] is not None:
            if naming is not None:
                message = "Workflow: function_names and naming are both given; expected one (Naming has function_names)"
                raise InvalidInputError(message)
            naming = Naming(strategy=NamingStrategy.AUTO_GENERATED, function_names=given["function_names"])
        values = {
            "name": given["name"], "type": _coerced(WorkflowType, given["type"]), "steps": steps,
            "bucket": given["bucket"], "retry": given["retry"] if given["retry"] is not None else RetryConfiguration(),
            "source_queue": given["source_queue"], "functions": given["functions"], "naming": naming,
            "migration": _coerced(MigrationMode, given["migration"]),
        }  # fmt: skip
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def problems(self) -> list[str]:
        """Everything that keeps the workflow from running, one sentence each; empty when nothing does."""
        from headgate.workflow._validation import find_problems

        return find_problems(self)

    def validate(self) -> list[str]:
        """Refuse what cannot run; return warnings.

        Returns:
            Sentences about what can go wrong: an Express workflow whose retries do not fit into its 5 minutes.

        Raises:
            InvalidInputError: names every problem, separated by semicolons.

        Example:
            >>> Workflow("", "EXPRESS", []).validate()
            Traceback (most recent call last):
            headgate.errors.InvalidInputError: workflow '': the name is blank; it has no steps
        """
        from headgate.workflow._validation import find_warnings

        problems = self.problems()
        if problems:
            message = f"workflow {self.name!r}: {'; '.join(problems)}"
            raise InvalidInputError(message)
        return find_warnings(self)

    @property
    def invocation_type(self) -> str:
        """How a pipe starts it: REQUEST_RESPONSE (Express) or FIRE_AND_FORGET (Standard)."""
        return self.type.invocation_type

    def uses_s3(self, step: Step) -> bool:
        """Whether a step reads and writes the convention paths itself."""
        if isinstance(step, GlueStep) or self.migration is MigrationMode.FULL:
            return True
        if self.migration is MigrationMode.LEGACY:
            return False
        return step.uses_s3_orchestration is not False

    def function_name(self, key: str) -> str:
        """The deployed function of a key.

        Example:
            >>> Workflow("w", "EXPRESS", [LambdaStep("A", "a")], naming=Naming("Stack", "dev")).function_name("a")
            'Stack-dev-A'
        """
        return key if self.naming is None else self.naming.function_name(key)

    def to_asl(self) -> Json:
        """The state machine, as it is deployed and as the local runner executes it.

        Raises:
            InvalidInputError: the workflow has problems.
        """
        from headgate.workflow._compile import compile_workflow

        self.validate()
        return compile_workflow(self)

    def run(
        self,
        data: Any = None,
        *,
        functions: Mapping[str, Any] | None = None,
        jobs: Mapping[str, Callable[[Json], Any]] | None = None,
        folder: str = "headgate-data",
        objects: Any = None,
        database: Any = None,
        clock: Any = None,
        execution_id: str | None = None,
    ) -> WorkflowRun:
        """Run to the end on this machine, durably: what a killed run had finished is not run again.

        Args:
            data: the execution's input; None is JSON's null.
            functions: function key -> handler, stage or stage class; beside those of the workflow and its steps.
            jobs: Glue job name -> callable with the job's arguments, as `glue_script` makes it.
            folder: holds `headgate.db` and `objects/`, unless `database` and `objects` are given.
            objects: the object store that stands for the bucket.
            database: a `LocalDatabase` for executions and their history.
            clock: waits and retries sleep on it.
            execution_id: the same id runs once; default: a new one.

        Returns:
            Status, history, and `data`: what the last stage wrote.

        Raises:
            InvalidInputError: the workflow has problems, or a function is missing.
            StageFailedError: a stage failed after its retries.
        """
        from headgate.workflow._local import run_workflow

        return run_workflow(
            self, data, functions=functions, jobs=jobs, folder=folder, objects=objects, database=database, clock=clock,
            execution_id=execution_id,
        )  # fmt: skip

    def to_mermaid(self) -> str:
        """The compiled state machine as a Mermaid flow chart."""
        from headgate.workflow._graph import to_mermaid

        return to_mermaid(self.to_asl())

    def to_svg(self, history: Any = None) -> str:
        """The compiled state machine as SVG.

        Args:
            history: of an execution; its timings and outcomes are drawn at the states.
        """
        from headgate.workflow._svg import to_svg

        return to_svg(self.to_asl(), history)

    def _repr_html_(self) -> str:
        from headgate.workflow._svg import to_html

        problems = self.problems()
        return to_html(None, problems=problems) if problems else to_html(self.to_asl())


def _named(args: tuple[Any, ...], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by our names, defaults included."""
    names = [name for name in _DEFAULTS if name != "function_names"]
    if len(args) > len(names):
        message = f"Workflow takes at most {len(names)} positional arguments; {len(args)} were given"
        raise InvalidInputError(message)
    given = dict(zip(names, args, strict=False))
    for keyword, value in keywords.items():
        name = _ALIASES.get(keyword, keyword)
        if name not in _DEFAULTS:
            message = f"Workflow: unknown keyword {keyword!r}; expected {', '.join(_DEFAULTS)}"
            raise InvalidInputError(message)
        if name in given:
            message = f"Workflow: {name} is given twice"
            raise InvalidInputError(message)
        given[name] = value
    missing = [name for name in _REQUIRED if name not in given]
    if missing:
        message = f"Workflow: {', '.join(missing)} missing; expected Workflow(name, type, steps)"
        raise InvalidInputError(message)
    return {**_DEFAULTS, **given}


def _step(entry: Any) -> Any:
    """A step of what may stand for one; anything else stays what it is and is named by `validate()`."""
    if isinstance(entry, FunctionStage):
        return LambdaStep(entry.name, entry.function_key, entry.timeout_s, handler=entry)
    return entry


def _coerced(kind: type[StrEnum], value: Any) -> Any:
    """A member for its text, whatever its case; anything else stays what it is."""
    try:
        return kind(value.strip().upper()) if isinstance(value, str) else value
    except ValueError:
        return value


def create_express_workflow(name: str, steps: Iterable[Any], **options: Any) -> Workflow:
    """A validated EXPRESS workflow.

    Args:
        name, steps, options: see `Workflow`.

    Raises:
        InvalidInputError: names every problem.

    Example:
        >>> create_express_workflow("w", [LambdaStep("A", "a")]).invocation_type
        'REQUEST_RESPONSE'
    """
    return _created(name, WorkflowType.EXPRESS, steps, options)


def create_standard_workflow(name: str, steps: Iterable[Any], **options: Any) -> Workflow:
    """A validated STANDARD workflow.

    Args:
        name, steps, options: see `Workflow`.

    Raises:
        InvalidInputError: names every problem.

    Example:
        >>> create_standard_workflow("w", [GlueStep("G", "job")]).invocation_type
        'FIRE_AND_FORGET'
    """
    return _created(name, WorkflowType.STANDARD, steps, options)


def _created(name: str, kind: WorkflowType, steps: Iterable[Any], options: Mapping[str, Any]) -> Workflow:
    workflow = Workflow(name, kind, steps, **options)
    workflow.validate()
    return workflow


def lint(definition: Json) -> list[str]:
    """What is wrong with an ASL definition's structure; empty when nothing is."""
    states = definition.get("States", {})
    problems = [] if definition.get("StartAt") in states else ["StartAt names no state"]
    for name, state in states.items():
        target = state.get("Next")
        ends = state.get("End") or state.get("Type") in ("Succeed", "Fail", "Choice")
        if target is not None and target not in states:
            problems.append(f"state {name!r}: Next names no state {target!r}")
        if target is None and not ends:
            problems.append(f"state {name!r}: neither Next nor End")
        for retrier in state.get("Retry", ())[:-1]:
            if "States.ALL" in retrier.get("ErrorEquals", ()):
                problems.append(f"state {name!r}: a retrier with States.ALL must be the last")
    return problems
