"""The five stages ETL, Filter, Score, Store, Reactive (spec 003)."""

from headgate.pipelines.scoring._stages import (
    ETLStage,
    FilterStage,
    ReactiveStage,
    ScoreStage,
    StoreStage,
    scoring_functions,
    scoring_workflow,
)

__all__ = [
    "ETLStage", "FilterStage", "ReactiveStage", "ScoreStage", "StoreStage", "scoring_functions", "scoring_workflow",
]  # fmt: skip
