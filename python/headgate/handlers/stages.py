"""Lambda entry points of the scoring stages and of the functions that a compiled workflow adds.

Each is `headgate.handlers.stages.NAME`; the bucket comes with the state machine's payload.

| function key | entry point |
| --- | --- |
| etlLambda, filterLambda, scoreLambda, storeLambda, reactiveLambda | etl, filter_candidates, score, store, reactive |
| workflowInputLambda, workflowBridgeLambda | write_input, bridge |
"""

from __future__ import annotations

import os

from headgate.handlers._warm import keeps_clients
from headgate.ops import configure_logging
from headgate.pipelines.scoring import ETLStage, FilterStage, ReactiveStage, ScoreStage, StoreStage
from headgate.workflow import BridgeHandler, InputStage

__all__ = ["bridge", "etl", "filter_candidates", "reactive", "score", "store", "write_input"]

if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
    configure_logging("INFO", "json")

etl = keeps_clients(ETLStage())
filter_candidates = keeps_clients(FilterStage())
score = keeps_clients(ScoreStage())
store = keeps_clients(StoreStage())
reactive = keeps_clients(ReactiveStage())
write_input = keeps_clients(InputStage())
bridge = keeps_clients(BridgeHandler())
