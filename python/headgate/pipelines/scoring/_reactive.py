"""Reactive: reactions to single events, at most one for a customer, subject and programme within a window."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from headgate.errors import DuplicateError, InvalidInputError, NotFoundError
from headgate.identity import event_id
from headgate.pipelines.scoring._base import ScoringStage
from headgate.pipelines.scoring._etl import CANDIDATE_DAYS
from headgate.pipelines.scoring.models import (
    Attributes,
    Candidate,
    Context,
    Metadata,
    ReactiveEvent,
    Subject,
    read_candidates,
    schema_error,
)

if TYPE_CHECKING:
    from headgate.ports import Clock, Json, ObjectStore
    from headgate.workflow import ExecutionContext

DEDUP_WINDOW_S = 300.0
_US = 1_000_000
_CONNECTOR = "events"


class ReactionWindow:
    """Remembers in an object store when a key was reacted to.

    Each reaction is an object with the next number below the key's digest, written only where there is none: of several
    that see the same last reaction, one writes the next. Older ones are removed when they are twice the window old.

    Args:
        objects: the store.
        window_s: within so many seconds after a reaction there is no other one.
    """

    def __init__(self, objects: ObjectStore, window_s: float = DEDUP_WINDOW_S) -> None:
        self._objects = objects
        self._window_us = int(window_s * _US)

    def enter(self, key: str, now_us: int, owner: str) -> bool:
        """Whether the owner may react to the key now. The same owner may again, because its answer may be lost."""
        folder = f"reactions/{event_id(key)[:32]}/"
        known = self._objects.list(folder)
        last = self._read(known[-1]) if known else None
        if last is not None and last.get("owner") == owner:
            return True
        if last is not None and now_us - int(last["at_us"]) < self._window_us:
            return False
        number = int(known[-1].rpartition("/")[2]) + 1 if known else 1
        doc = {"at_us": now_us, "owner": owner, "expires_us": now_us + 2 * self._window_us}
        try:
            self._objects.put(f"{folder}{number:012d}", json.dumps(doc).encode(), True)
        except DuplicateError:
            return False
        for old in known:
            found = self._read(old)
            if found is not None and int(found["expires_us"]) <= now_us:
                self._objects.remove(old)
        return True

    def _read(self, key: str) -> Json | None:
        try:
            found: Json = json.loads(self._objects.get(key))
        except NotFoundError:
            return None
        return found


class ReactiveStage(ScoringStage):
    """Reacts to one event of EventBridge, or to the best candidates of a run.

    Input of the first kind: an EventBridge event, or an object, with `detail{customerId, eventType, subjectType,
    subjectId, programId, marketplace, eventDate, metadata}`. Its output has one candidate and one reaction, or none of
    both and `deduplicated: true` when the same customer, subject and programme had a reaction within the window.

    Input of the second kind: an object with `candidates`. Each whose best score reaches the threshold is a reaction.

    Args:
        window_s: see `ReactionWindow`.
        threshold: the least score of a reaction.
    """

    def __init__(
        self,
        objects: ObjectStore | None = None,
        clock: Clock | None = None,
        window_s: float = DEDUP_WINDOW_S,
        threshold: float = 0.5,
    ) -> None:
        super().__init__(objects, clock)
        self.window_s = window_s
        self.threshold = threshold

    def process(self, data: Any, context: ExecutionContext) -> Json:
        if isinstance(data, dict) and "detail" in data:
            return self._event(data, context)
        if not isinstance(data, dict) or "candidates" not in data:
            message = f"stage {context.currentStage!r} got neither detail nor candidates; expected one of them"
            raise InvalidInputError(message)
        return self._candidates(data, context)

    def _event(self, data: Json, context: ExecutionContext) -> Json:
        try:
            event = ReactiveEvent.model_validate(data["detail"])
        except ValidationError as error:
            raise schema_error(context.currentStage, "the event's detail", error) from None
        window = ReactionWindow(self.bucket(context), self.window_s)
        is_first = window.enter(event.dedup_key, self.clock.now_us(), context.executionId)
        candidates = [self._candidate(event, context)] if is_first else []
        reactions = [
            {"customerId": event.customerId, "subjectId": event.subjectId, "eventType": event.eventType}
        ] if is_first else []  # fmt: skip
        counts = {
            "events": 1, "subjects": len(candidates), "reactions": len(reactions), "deduplicated": int(not is_first)
        }  # fmt: skip
        return {
            "programId": event.programId, "marketplace": event.marketplace, "executionId": context.executionId,
            "candidates": candidates, "reactions": reactions, "deduplicated": not is_first, "metrics": counts,
        }  # fmt: skip

    def _candidate(self, event: ReactiveEvent, context: ExecutionContext) -> Json:
        now = datetime.fromtimestamp(self.clock.now_us() / 1e6, UTC)
        return Candidate(
            customerId=event.customerId,
            context=[Context(type="program", id=event.programId), Context(type="marketplace", id=event.marketplace)],
            subject=Subject(type=event.subjectType, id=event.subjectId, metadata=event.metadata),
            attributes=Attributes.model_validate({"eventDate": event.eventDate, "eventType": event.eventType}),
            metadata=Metadata(
                createdAt=now, updatedAt=now, expiresAt=now + timedelta(days=CANDIDATE_DAYS),
                sourceConnectorId=_CONNECTOR, workflowExecutionId=context.executionId,
            ),
        ).to_json()  # fmt: skip

    def _candidates(self, data: Json, context: ExecutionContext) -> Json:
        reactions: list[Json] = []
        seen: set[tuple[str, str, str]] = set()
        for candidate in read_candidates(context.currentStage, data):
            best = candidate.best_score()
            key = (candidate.customerId, candidate.subject.type, candidate.subject.id)
            if best is None or best.value < self.threshold or key in seen:
                continue
            seen.add(key)
            reactions.append(
                {"customerId": candidate.customerId, "subjectId": candidate.subject.id, "value": best.value,
                 "confidence": best.confidence}
            )  # fmt: skip
        metrics = self.with_metrics(data, reactions=len(reactions))
        return {**data, "reactions": reactions, "metrics": metrics}
