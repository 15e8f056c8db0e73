"""Whether a batch is complete: provisioned + failed >= expected, whatever order the events come in.

A batch is one document of the store's state, read and written in the transaction of the event that changes it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.consume import Consumer
from headgate.errors import InvalidInputError, Kind
from headgate.pipelines.uploads.contracts import (
    EXCESS,
    FAILED,
    FINISHED,
    PROVISIONED,
    READY,
    REGISTERED,
    BatchEssaysReadyV1,
    Essay,
    ExcessContentProvisionedV1,
    envelope,
)

if TYPE_CHECKING:
    from pydantic import BaseModel

    from headgate.ports import Clock, Json, Metrics, Transaction

log = logging.getLogger("headgate.uploads")
READY_TIMEOUT_S = 900.0  # issue 4: the readiness time-out's default
TOPICS = (REGISTERED, PROVISIONED, FAILED, FINISHED)
_PREFIX = "uploads.batch."
_SOURCE = "essay-lifecycle-service"


def event_key(body: Json) -> str:
    """What makes an event of a batch that event.

    Two copies of one file may have equal data, so their events are known by the id that the producer gave them once,
    before its outbox; a registration by its batch, the end of an upload by that upload.
    """
    data = body.get("data", {})
    if data.get("event") == "batch.essays.registered":
        return f"registered:{data['batch_id']}"
    if data.get("event") == "essay.upload.finished":
        return f"finished:{data['upload_id']}"
    return str(body["event_id"])


class BatchTracker:
    """Counts a batch's events and announces when nothing more is to be awaited.

    Args:
        store: the store whose state holds the batches, and whose outbox takes the announcements (`LocalStore`).
        clock: injected in tests.
        ready_timeout_s: a batch that is not complete so long after its first event is announced with what is there.
        metrics: `batch_completion_seconds{status}`.
    """

    def __init__(
        self, store: Any, clock: Clock, *, ready_timeout_s: float = READY_TIMEOUT_S, metrics: Metrics | None = None
    ) -> None:
        self.store = store
        self.clock = clock
        self.ready_timeout_s = ready_timeout_s
        self.metrics = metrics

    def consumers(self, name: str = "batches", **options: Any) -> list[Consumer]:
        """One consumer a topic, all of them this tracker."""
        return [Consumer(name, topic, self.handle, event_key, **options) for topic in TOPICS]

    def handle(self, body: Json, tx: Transaction) -> Json:
        """Take in one event; returns the batch's counts.

        Raises:
            InvalidInputError: not one of the four event types, or without a batch.
        """
        data = body.get("data", {})
        batch_id, event = data.get("batch_id"), data.get("event")
        if not isinstance(batch_id, str) or not batch_id:
            message = "an event without batch_id"
            raise InvalidInputError(message, Kind.INVALID_RECORD)
        batch = self._load(batch_id)
        batch["correlation_id"] = batch["correlation_id"] or data.get("correlation_id")
        if event == "batch.essays.registered":
            batch["expected"] = data["expected_count"]
        elif event == "essay.upload.finished":
            # Several requests of a batch add up; the event's own claim keeps a repeated one out.
            batch["received_count_from_uploads"] += data["expected_count"]
        elif event == "essay.validation.failed":
            batch["failed"] += 1
        elif event == "essay.content.provisioned":
            self._provisioned(batch, data, body.get("replaces"))
        else:
            message = "not an event of an essay batch"
            raise InvalidInputError(message, Kind.INVALID_RECORD)
        self._assign(batch_id, batch)
        if self._complete(batch):
            self._announce(batch_id, batch, "complete")
        self.store.save_state(_PREFIX + batch_id, batch)
        return {k: batch[k] for k in ("expected", "failed", "status", "received_count_from_uploads")} | {
            "essays": len(batch["essays"])
        }

    def check_timeouts(self) -> int:
        """Announce the batches whose time is over; how many."""
        now = self.clock.now_us()
        ended = 0
        for name, _ in self.store.states(_PREFIX):
            with self.store.transaction():
                batch = self.store.load_state(name)
                if batch is None or batch["status"] != "waiting" or batch["deadline_us"] > now:
                    continue
                self._announce(name.removeprefix(_PREFIX), batch, "timed_out")
                self.store.save_state(name, batch)
                ended += 1
        return ended

    # --- parts

    def _load(self, batch_id: str) -> Json:
        now = self.clock.now_us()
        return self.store.load_state(_PREFIX + batch_id) or {
            "format": 1, "status": "waiting", "expected": None, "received_count_from_uploads": 0, "failed": 0,
            "essays": [], "unassigned": [], "started_us": now, "correlation_id": None,
            "deadline_us": now + int(self.ready_timeout_s * 1e6),
        }  # fmt: skip

    @staticmethod
    def _provisioned(batch: Json, data: Json, replaces: Json | None) -> None:
        """A file's text; of a replay it takes the place of what was announced before."""
        content = {k: data[k] for k in ("text_storage_id", "raw_file_storage_id", "original_file_name")}
        if replaces is not None and batch["status"] == "waiting":
            if replaces["outcome"] == "failed":
                batch["failed"] -= 1  # the failure may come after this: then it makes up for it
            else:
                old = {**content, "text_storage_id": replaces["text_storage_id"]}
                for known in (*batch["essays"], *batch["unassigned"]):
                    if old.items() <= known.items():
                        known.update(content)
                        return
        batch["unassigned"].append(content)

    def _assign(self, batch_id: str, batch: Json) -> None:
        """Give what was provisioned a slot; what finds none is excess. Before the registration everything waits."""
        if batch["expected"] is None:
            return
        for content in batch["unassigned"]:
            if len(batch["essays"]) < batch["expected"] and batch["status"] == "waiting":
                essay_id = f"{batch_id}-{len(batch['essays']) + 1}"
                batch["essays"].append({"essay_id": essay_id, **content})
                self._log(batch_id, batch, "slot", "assigned", essay_id=essay_id)
            else:
                excess = ExcessContentProvisionedV1(
                    batch_id=batch_id, timestamp=self._now(), correlation_id=batch["correlation_id"], **content
                )
                self._publish(EXCESS, excess)
        batch["unassigned"] = []

    @staticmethod
    def _complete(batch: Json) -> bool:
        expected = batch["expected"]
        waiting = bool(batch["status"] == "waiting")
        return waiting and expected is not None and len(batch["essays"]) + batch["failed"] >= expected

    def _announce(self, batch_id: str, batch: Json, status: Any) -> None:
        batch["status"] = status
        expected = batch["expected"]
        if expected is None:  # never registered: what was announced by uploads is the best there is
            expected = batch["expected"] = batch["received_count_from_uploads"]
            batch["essays"] = [
                {"essay_id": f"{batch_id}-{i + 1}", **content} for i, content in enumerate(batch["unassigned"])
            ]
            batch["unassigned"] = []
        missing = max(0, expected - len(batch["essays"]) - batch["failed"])
        ready = BatchEssaysReadyV1(
            batch_id=batch_id, status=status, expected_count=expected, failed_count=batch["failed"],
            essays=[Essay(**essay) for essay in batch["essays"]], missing_count=missing, timestamp=self._now(),
            correlation_id=batch["correlation_id"],
        )  # fmt: skip
        self._publish(READY, ready)
        seconds = (self.clock.now_us() - batch["started_us"]) / 1e6
        if self.metrics is not None:
            self.metrics.observe("batch_completion_seconds", seconds, status=status)
        self._log(batch_id, batch, "batch", status, duration_ms=int(seconds * 1000))

    def _publish(self, topic: str, event: BaseModel) -> None:
        message = envelope(topic, event, self._now(), _SOURCE)
        self.store.publish(topic, message["event_id"], message)

    def _now(self) -> str:
        return str(core.format_timestamp(self.clock.now_us()))

    @staticmethod
    def _log(batch_id: str, batch: Json, phase: str, status: str, **more: Any) -> None:
        corr_id = batch["correlation_id"]
        log.info("batch", extra={"corr_id": corr_id, "batch_id": batch_id, "phase": phase, "status": status, **more})
