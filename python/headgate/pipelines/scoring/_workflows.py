"""The workflows that are made of the five stages, and what runs them on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate.errors import InvalidInputError
from headgate.pipelines.scoring._etl import ETLStage
from headgate.pipelines.scoring._filters import FilterStage
from headgate.pipelines.scoring._reactive import ReactiveStage
from headgate.pipelines.scoring._score import ScoreStage
from headgate.pipelines.scoring._store import StoreStage
from headgate.workflow import LambdaStep, RetryConfiguration, Workflow, WorkflowHandler, WorkflowType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headgate.ports import Json, ObjectStore

STAGES: dict[str, type[WorkflowHandler]] = {
    "etlLambda": ETLStage, "filterLambda": FilterStage, "scoreLambda": ScoreStage, "storeLambda": StoreStage,
    "reactiveLambda": ReactiveStage,
}  # fmt: skip
_STAGE_TIMEOUT_S = 50  # the five fit into an Express run


def scoring_workflow(
    retry: RetryConfiguration | None = None,
    bucket: str = "workflow",
    stages: Sequence[str] = tuple(STAGES),
    source_queue: str | None = None,
) -> Workflow:
    """The shipped definition: ETL, Filter, Score, Store, Reactive; each stage may take 50 s.

    Args:
        retry: see `RetryConfiguration`.
        bucket: where the stages read and write.
        stages: function keys in another order, or fewer of them; each stage works at any place after what makes
            candidates.
        source_queue: the queue that a pipe reads.

    Raises:
        InvalidInputError: a key is not one of the five.

    Example:
        >>> list(scoring_workflow(stages=["reactiveLambda", "scoreLambda"]).to_asl()["States"])
        ['ReactiveStage', 'ScoreStage']
    """
    unknown = [key for key in stages if key not in STAGES]
    if unknown:
        message = f"there is no stage {unknown[0]!r}; expected {', '.join(STAGES)}"
        raise InvalidInputError(message)
    steps = [LambdaStep(STAGES[key].__name__, key, timeout_s=_STAGE_TIMEOUT_S) for key in stages]
    return Workflow(
        "scoring", WorkflowType.EXPRESS, steps, bucket, retry or RetryConfiguration(), source_queue=source_queue
    )


def reactive_workflow(
    retry: RetryConfiguration | None = None, bucket: str = "workflow", source_queue: str | None = None
) -> Workflow:
    """What answers single events: Reactive, Filter, Score, Store."""
    stages = ("reactiveLambda", "filterLambda", "scoreLambda", "storeLambda")
    steps = [LambdaStep(STAGES[key].__name__, key, timeout_s=_STAGE_TIMEOUT_S) for key in stages]
    return Workflow(
        "reactive", WorkflowType.EXPRESS, steps, bucket, retry or RetryConfiguration(), source_queue=source_queue
    )


def scoring_functions(objects: ObjectStore, clock: Any = None) -> dict[str, Callable[[Json], Any]]:
    """Function key -> stage, on this object store."""
    return {key: stage(objects, clock) for key, stage in STAGES.items()}
