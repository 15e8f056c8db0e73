"""Lambda entry points of the scoring stages and of the functions that a compiled workflow adds.

Each is `headgate.handlers.stages.NAME`; the bucket comes with the state machine's payload.

| function key | entry point |
| --- | --- |
| etlLambda, filterLambda, scoreLambda, storeLambda, reactiveLambda | etl, filter_candidates, score, store, reactive |
| workflowInputLambda, workflowBridgeLambda | write_input, bridge |
"""

from __future__ import annotations

import os

from headgate.ops import configure_logging
from headgate.pipelines.scoring import ETLStage, FilterStage, ReactiveStage, ScoreStage, StoreStage
from headgate.workflow import bridge, write_input

__all__ = ["bridge", "etl", "filter_candidates", "reactive", "score", "store", "write_input"]

if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
    configure_logging("INFO", "json")

etl = ETLStage()
filter_candidates = FilterStage()
score = ScoreStage()
store = StoreStage()
reactive = ReactiveStage()
