"""Score: a model's value and confidence for each candidate, and a fallback where the model has none."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from headgate.errors import TransientError
from headgate.pipelines.scoring._base import ScoringStage
from headgate.pipelines.scoring.models import Candidate, Score, read_candidates

if TYPE_CHECKING:
    from headgate.ports import Clock, Json, ObjectStore
    from headgate.workflow import ExecutionContext

log = logging.getLogger("headgate.scoring")
HALF_LIFE_DAYS = 30.0
FALLBACK_VALUE = 0.1
Model = Callable[[Candidate, datetime], "tuple[float, float] | None"]


def age_model(candidate: Candidate, now: datetime) -> tuple[float, float] | None:
    """Older events score higher: 1 - 2^(-age / 30 days).

    Returns:
        Value and confidence; the confidence is less where the candidate says little about itself. None where there is
        no event date, or it lies in the future.
    """
    event = candidate.attributes.eventDate
    if event is None or event > now:
        return None
    age_days = (now - event).total_seconds() / 86_400
    known = sum(v is not None for v in (candidate.attributes.deliveryDate, candidate.attributes.orderValue))
    return round(1 - 2 ** (-age_days / HALF_LIFE_DAYS), 6), round(0.8 + 0.1 * known, 1)


class ScoreStage(ScoringStage):
    """Gives each candidate a score of one model.

    A model that has no answer gives the fallback, with confidence 0. A model that fails gives it too and is counted as
    an error, so that `scoredCount + fallbackCount + errorCount` is the number of candidates. When the model failed for
    every candidate, the stage fails and is retried.

    Args:
        model: called with (candidate, now); value and confidence (0 to 1), or None.
        model_id: names it in the scores.
        fallback: the value where there is none.
    """

    def __init__(
        self,
        objects: ObjectStore | None = None,
        clock: Clock | None = None,
        model: Model = age_model,
        model_id: str = "age-1",
        fallback: float = FALLBACK_VALUE,
    ) -> None:
        super().__init__(objects, clock)
        self.model = model
        self.model_id = model_id
        self.fallback = fallback

    def process(self, data: Any, context: ExecutionContext) -> Json:
        now = self.moment(data, context)
        candidates = read_candidates(context.currentStage, data)
        counts = {"scoredCount": 0, "fallbackCount": 0, "errorCount": 0}
        scored = []
        for candidate, given in zip(candidates, data["candidates"], strict=True):
            value, confidence, count = self._value(candidate, now)
            counts[count] += 1
            score = Score(modelId=self.model_id, value=value, confidence=confidence, timestamp=now)
            scored.append(
                {**given, "scores": {**given.get("scores", {}), self.model_id: score.model_dump(mode="json")}}
            )
        if candidates and counts["errorCount"] == len(candidates):
            message = f"stage {context.currentStage!r}: the model {self.model_id!r} failed for every candidate"
            raise TransientError(message)
        return {**data, "candidates": scored, "metrics": self.with_metrics(data, **counts)}

    def _value(self, candidate: Candidate, now: datetime) -> tuple[float, float, str]:
        try:
            found = self.model(candidate, now)
        except Exception as error:  # one candidate's failure is counted, the others are scored
            log.warning("model failed", extra={"model": self.model_id, "error": type(error).__name__})
            return self.fallback, 0.0, "errorCount"
        if found is None:
            return self.fallback, 0.0, "fallbackCount"
        value, confidence = found
        if not math.isfinite(value) or not 0 <= confidence <= 1:
            log.warning("model answered no score", extra={"model": self.model_id})
            return self.fallback, 0.0, "errorCount"
        return float(value), float(confidence), "scoredCount"
