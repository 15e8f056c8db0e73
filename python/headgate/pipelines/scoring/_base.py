"""What the five stages share: the moment that ages are counted from, and counts that travel with the candidates."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from headgate.pipelines.scoring.models import read_time
from headgate.workflow import WorkflowHandler

if TYPE_CHECKING:
    from headgate.ports import Json
    from headgate.workflow import ExecutionContext


class ScoringStage(WorkflowHandler):
    """A stage whose data is an object with a list of candidates. What it does not know of that object travels on."""

    record_fields = ("candidates", "reactions")

    def moment(self, data: Any, context: ExecutionContext) -> datetime:
        """What "now" is for the candidates: the end of the run's date range, or the clock where it has none."""
        period = data.get("dateRange") if isinstance(data, dict) else None
        if isinstance(period, dict) and "end" in period:
            return read_time(context.currentStage, "dateRange.end", period["end"])
        return datetime.fromtimestamp(self.clock.now_us() / 1e6, UTC)

    @staticmethod
    def with_metrics(data: Json, **counts: Any) -> Json:
        """The data's metrics with more counts."""
        known = data.get("metrics")
        return {**(known if isinstance(known, dict) else {}), **counts}
