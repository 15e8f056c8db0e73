"""Candidates from a table of events, filtered, scored, stored once, and reacted to once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate.checkpoint import Checkpoint
from headgate.errors import InvalidInputError
from headgate.identity import event_id
from headgate.workflow import ExecutionContext, LambdaStep, RetryConfiguration, Workflow, WorkflowHandler, WorkflowType

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.ports import Json, ObjectStore

_HALF_LIFE_DAYS = 30.0
_FALLBACK_SCORE = 0.1


class ETLStage(WorkflowHandler):
    """Reads events from a checkpoint and groups them into candidates.

    Input: programId, marketplace, dateRange{start, end}, and where the events are: events (path of a checkpoint),
    subject (columns that make a subject), customer (a column), done and open (values of `action`).
    """

    def process(self, data: Any, context: ExecutionContext) -> Json:
        try:
            events = Checkpoint.read(data["events"]).between(
                "timestamp", data["dateRange"]["start"], data["dateRange"]["end"]
            )
            columns = [data["customer"], *data["subject"]]
            program, market = data["programId"], data["marketplace"]
        except (KeyError, TypeError) as error:
            message = f"the execution's input lacks {error}"
            raise InvalidInputError(message) from None
        latest = events.latest_per(*columns).dataframe().to_pylist()
        return {
            "programId": program,
            "marketplace": market,
            "executionId": context.executionId,
            "end": data["dateRange"]["end"],
            "metrics": {"events": len(events), "subjects": len(latest)},
            "candidates": [
                {
                    # The subject may be a person: only its digest travels on.
                    "subject": {"type": "visit", "id": event_id([row[c] for c in columns])[:16]},
                    "customerId": str(row[data["customer"]]),
                    "attributes": {"eventDate": row["timestamp"].isoformat(), "action": row["action"]},
                }
                for row in latest
            ],
        }


class FilterStage(WorkflowHandler):
    """Keeps candidates that are still open; the others are listed with reason and code."""

    closed = ("pass-qc", "delete")

    def process(self, data: Any, context: ExecutionContext) -> Json:
        kept, rejected = [], []
        for candidate in data["candidates"]:
            action = candidate["attributes"]["action"]
            if action in self.closed:
                rejected.append(
                    {"customerId": candidate["customerId"], "subjectId": candidate["subject"]["id"],
                     "filterId": "eligibility", "reason": f"latest action is {action}", "reasonCode": "ALREADY_CLOSED"}
                )  # fmt: skip
            else:
                kept.append(candidate)
        return {
            **data,
            "candidates": kept,
            "rejected": rejected,
            "metrics": {**data["metrics"], "rejected": len(rejected)},
        }


class ScoreStage(WorkflowHandler):
    """Older open visits score higher: 1 - 2^(-age / 30 days); what cannot be scored gets the fallback."""

    def process(self, data: Any, context: ExecutionContext) -> Json:
        from datetime import datetime

        end = datetime.fromisoformat(data["end"])
        fallback = 0
        scored = []
        for candidate in data["candidates"]:
            age_days = (end - datetime.fromisoformat(candidate["attributes"]["eventDate"])).total_seconds() / 86_400
            value = round(1 - 2 ** (-age_days / _HALF_LIFE_DAYS), 6) if age_days >= 0 else _FALLBACK_SCORE
            fallback += age_days < 0
            scored.append({**candidate, "scores": {"modelId": "age-1", "value": value, "confidence": 1.0}})
        counts = {"scoredCount": len(scored) - fallback, "fallbackCount": fallback, "errorCount": 0}
        return {**data, "candidates": scored, "metrics": {**data["metrics"], **counts}}


class StoreStage(WorkflowHandler):
    """Writes each candidate once, under its own key, whatever is retried."""

    def process(self, data: Any, context: ExecutionContext) -> Json:
        from headgate.errors import DuplicateError
        from headgate.identity import canonical_json

        stored = known = 0
        batches: dict[str, list[Json]] = {}
        for candidate in data["candidates"]:
            batches.setdefault(candidate["customerId"], []).append(candidate)
        for customer, candidates in sorted(batches.items()):
            key = f"candidates/{data['programId']}/{event_id(customer)[:16]}/{event_id(candidates)[:32]}.json"
            try:
                self.objects.put(key, canonical_json(candidates), True)
                stored += len(candidates)
            except DuplicateError:
                known += len(candidates)
        return {**data, "metrics": {**data["metrics"], "storedCount": stored, "alreadyStored": known, "failedCount": 0}}


class ReactiveStage(WorkflowHandler):
    """The highest scores of each customer become reactions, one per customer and subject."""

    threshold = 0.5

    def process(self, data: Any, context: ExecutionContext) -> Json:
        reactions = [
            {"customerId": c["customerId"], "subjectId": c["subject"]["id"], "value": c["scores"]["value"]}
            for c in data["candidates"]
            if c["scores"]["value"] >= self.threshold
        ]
        return {"metrics": {**data["metrics"], "reactions": len(reactions)}, "reactions": reactions}


_STAGES: dict[str, type[WorkflowHandler]] = {
    "etlLambda": ETLStage, "filterLambda": FilterStage, "scoreLambda": ScoreStage, "storeLambda": StoreStage,
    "reactiveLambda": ReactiveStage,
}  # fmt: skip


def scoring_workflow(retry: RetryConfiguration | None = None, bucket: str = "workflow") -> Workflow:
    """The shipped definition; each stage may take 50 s, so that the five fit an EXPRESS run."""
    steps = [LambdaStep(stage.__name__, key, timeout_s=50) for key, stage in _STAGES.items()]
    return Workflow("scoring", WorkflowType.EXPRESS, steps, bucket, retry or RetryConfiguration())


def scoring_functions(objects: ObjectStore, clock: Any = None) -> dict[str, Callable[[Json], Any]]:
    """Function key -> stage, on this object store."""
    return {key: stage(objects, clock) for key, stage in _STAGES.items()}
