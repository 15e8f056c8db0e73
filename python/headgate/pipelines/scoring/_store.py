"""Store: candidates are written once, in batches of 25."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from headgate.errors import DuplicateError, HeadgateError, PermanentError, TransientError
from headgate.identity import canonical_json, event_id
from headgate.pipelines.scoring._base import ScoringStage
from headgate.pipelines.scoring.models import read_candidates

if TYPE_CHECKING:
    from headgate.ports import Clock, Json, ObjectStore
    from headgate.workflow import ExecutionContext

BATCH = 25
_THREADS = 8


class CandidateTable(Protocol):
    """Where candidates are kept."""

    def put_batch(self, place: str, batch: list[Json]) -> int:
        """Store what is absent of at most 25 candidates; how many were new. It is called again for a batch whose answer
        was lost, and by several threads."""


class ObjectCandidates:
    """A table in an object store: one object a batch, written only where there is none.

    The key is the digest of who and what the batch is about (customer, subject, event date and scores), so the same
    candidates of another execution are not stored again.

    Args:
        objects: the store.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def put_batch(self, place: str, batch: list[Json]) -> int:
        what = [
            [c["customerId"], c["subject"], c.get("attributes", {}).get("eventDate"),
             {name: [s["value"], s["confidence"]] for name, s in c.get("scores", {}).items()}]
            for c in batch
        ]  # fmt: skip
        try:
            self._objects.put(f"candidates/{place}/{event_id(what)}.json", canonical_json(batch), True)
        except DuplicateError:
            return 0
        return len(batch)


class StoreStage(ScoringStage):
    """Stores the candidates; those that are there already are counted apart.

    A batch that is refused for good is listed in `failedCandidates` ({customerId, subjectId, reason}). A batch that
    fails for a time fails the stage after the others were tried: its retry finds those and stores the rest.

    Args:
        table: makes the table of an object store; default: `ObjectCandidates`.
    """

    def __init__(
        self,
        objects: ObjectStore | None = None,
        clock: Clock | None = None,
        table: Callable[[Any], CandidateTable] = ObjectCandidates,
    ) -> None:
        super().__init__(objects, clock)
        self.table = table

    def process(self, data: Any, context: ExecutionContext) -> Json:
        read_candidates(context.currentStage, data)
        table = self.table(self.bucket(context))
        place = "/".join(_part(data.get(name)) for name in ("programId", "marketplace"))
        ordered = sorted(data["candidates"], key=lambda c: (c["customerId"], c["subject"]["type"], c["subject"]["id"]))
        batches = [ordered[at : at + BATCH] for at in range(0, len(ordered), BATCH)]
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="headgate-store") as threads:
            outcomes = list(threads.map(lambda batch: _put(table, place, batch), batches))
        stored = known = 0
        failed: list[Json] = []
        for batch, outcome in zip(batches, outcomes, strict=True):
            if isinstance(outcome, PermanentError):
                reason = f"{type(outcome).__name__}: {outcome}"
                failed += [
                    {"customerId": c["customerId"], "subjectId": c["subject"]["id"], "reason": reason} for c in batch
                ]
            elif isinstance(outcome, HeadgateError):
                message = f"stage {context.currentStage!r}: a batch of candidates could not be stored: {outcome}"
                raise TransientError(message)
            else:
                stored += outcome
                known += len(batch) - outcome
        counts = {"storedCount": stored, "alreadyStored": known, "failedCount": len(failed)}
        metrics = self.with_metrics(data, **counts)
        return {**data, **counts, "failedCandidates": failed, "metrics": metrics}


def _put(table: CandidateTable, place: str, batch: list[Json]) -> int | HeadgateError:
    try:
        return table.put_batch(place, batch)
    except HeadgateError as error:
        return error


def _part(name: Any) -> str:
    """A part of a key: the name itself where it is safe, else its digest."""
    text = str(name) if name else "none"
    is_safe = len(text) <= 64 and all(c.isascii() and (c.isalnum() or c in "-_") for c in text)
    return text if is_safe else event_id(text)[:16]
