"""The five stages ETL, Filter, Score, Store and Reactive, with the model of a candidate."""

from headgate.pipelines.scoring._etl import ETLStage, checkpoint_connector
from headgate.pipelines.scoring._filters import (
    BusinessRuleFilter,
    CandidateFilter,
    EligibilityFilter,
    FilterStage,
    QualityFilter,
    TrustFilter,
)
from headgate.pipelines.scoring._reactive import ReactionWindow, ReactiveStage
from headgate.pipelines.scoring._score import ScoreStage, age_model
from headgate.pipelines.scoring._store import CandidateTable, ObjectCandidates, StoreStage
from headgate.pipelines.scoring._workflows import reactive_workflow, scoring_functions, scoring_workflow
from headgate.pipelines.scoring.models import Candidate, ReactiveEvent, Rejection, Score

__all__ = [
    "BusinessRuleFilter", "Candidate", "CandidateFilter", "CandidateTable", "ETLStage", "EligibilityFilter",
    "FilterStage", "ObjectCandidates", "QualityFilter", "ReactionWindow", "ReactiveEvent", "ReactiveStage", "Rejection",
    "Score", "ScoreStage", "StoreStage", "TrustFilter", "age_model", "checkpoint_connector", "reactive_workflow",
    "scoring_functions", "scoring_workflow",
]  # fmt: skip
