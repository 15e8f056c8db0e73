"""ETL: candidates from a source of events."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from headgate.errors import InvalidInputError
from headgate.identity import event_id
from headgate.pipelines.scoring._base import ScoringStage
from headgate.pipelines.scoring.models import Attributes, Candidate, Context, Metadata, Subject, read_time

if TYPE_CHECKING:
    from headgate.ports import Clock, Json, ObjectStore
    from headgate.workflow import ExecutionContext

CANDIDATE_DAYS = 30
# What a connector yields: customerId, subjectType, subjectId, and optionally subjectMetadata, eventDate (ISO 8601),
# attributes, and `events`: how many events it stands for (default: 1).
Connector = Callable[["Json", datetime, datetime], Iterable["Json"]]


class ETLStage(ScoringStage):
    """Reads events of a period and makes a candidate of each.

    Input: `{programId, marketplace, dateRange{start, end}}`, and what the connector needs. Output: `{candidates,
    metrics, programId, marketplace, dateRange, executionId}`.

    Args:
        connector: called with (input, start, end); default: `checkpoint_connector`.
        connector_id: what candidates name as their source.
        candidate_days: how long a candidate is good.
    """

    def __init__(
        self,
        objects: ObjectStore | None = None,
        clock: Clock | None = None,
        connector: Connector | None = None,
        connector_id: str = "checkpoint",
        candidate_days: float = CANDIDATE_DAYS,
    ) -> None:
        super().__init__(objects, clock)
        self.connector = connector or checkpoint_connector
        self.connector_id = connector_id
        self.candidate_days = candidate_days

    def process(self, data: Any, context: ExecutionContext) -> Json:
        stage = context.currentStage
        for name in ("programId", "marketplace", "dateRange"):
            if not isinstance(data, dict) or not data.get(name):
                message = (
                    f"stage {stage!r}: the input lacks {name}; expected programId, marketplace, dateRange{{start, end}}"
                )
                raise InvalidInputError(message)
        period = data["dateRange"]
        if not isinstance(period, dict) or not {"start", "end"} <= period.keys():
            message = f"stage {stage!r}: dateRange lacks start or end"
            raise InvalidInputError(message)
        start, end = (read_time(stage, f"dateRange.{name}", period[name]) for name in ("start", "end"))
        if start > end:
            message = f"stage {stage!r}: dateRange.start is after dateRange.end"
            raise InvalidInputError(message)
        now = datetime.fromtimestamp(self.clock.now_us() / 1e6, UTC)
        metadata = Metadata(
            createdAt=now, updatedAt=now, expiresAt=max(now, end) + timedelta(days=self.candidate_days),
            sourceConnectorId=self.connector_id, workflowExecutionId=context.executionId,
        )  # fmt: skip
        where = [
            Context(type="program", id=str(data["programId"])),
            Context(type="marketplace", id=str(data["marketplace"])),
        ]
        read = 0
        candidates = []
        for event in self.connector(data, start, end):
            read += int(event.get("events", 1))
            candidates.append(_candidate(event, where, metadata))
        return {
            "programId": data["programId"],
            "marketplace": data["marketplace"],
            "dateRange": {"start": period["start"], "end": period["end"]},
            "executionId": context.executionId,
            "metrics": {"events": read, "subjects": len(candidates)},
            "candidates": candidates,
        }


def _candidate(event: Json, where: list[Context], metadata: Metadata) -> Json:
    return Candidate(
        customerId=event["customerId"], context=where,
        subject=Subject(type=event["subjectType"], id=event["subjectId"], metadata=event.get("subjectMetadata", {})),
        attributes=Attributes.model_validate({"eventDate": event.get("eventDate"), **event.get("attributes", {})}),
        metadata=metadata,
    ).to_json()  # fmt: skip


def checkpoint_connector(data: Json, start: datetime, end: datetime) -> Iterable[Json]:
    """The latest event of each subject in a checkpoint.

    Args:
        data: has `events` (the checkpoint's path or URL), `customer` (a column), `subject` (columns that make a
            subject), and optionally `attributes` (columns to keep; default: `action`).
        start, end: of the period.

    Raises:
        InvalidInputError: a name is missing, or the checkpoint has no such column.
    """
    from headgate.checkpoint import Checkpoint

    missing = [name for name in ("events", "customer", "subject") if not data.get(name)]
    if missing:
        message = f"the input lacks {', '.join(missing)}; expected events, customer and subject to read a checkpoint"
        raise InvalidInputError(message)
    columns = [data["customer"], *data["subject"]]
    kept = data.get("attributes", ["action"])
    events = Checkpoint.read(data["events"]).between("timestamp", start.isoformat(), end.isoformat())
    table = events.latest_per(*columns).dataframe()
    unknown = [name for name in [*columns, *kept] if name not in table.column_names]
    if unknown:
        message = f"the checkpoint has no column {unknown[0]!r}"
        raise InvalidInputError(message)
    for number, row in enumerate(table.to_pylist()):
        yield {
            "customerId": str(row[data["customer"]]),
            "subjectType": "visit",
            # The subject may be a person: only its digest travels on.
            "subjectId": event_id([row[name] for name in columns])[:16],
            "eventDate": row["timestamp"].isoformat(),
            "attributes": {name: row[name] for name in kept if row[name] is not None},
            "events": 1 if number else 1 + len(events) - table.num_rows,
        }
