"""Whether a batch is complete: provisioned + failed >= expected, whatever order the events come in.

A batch is one document of the store's state, read and written in the transaction of the event that changes it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.consume import Consumer
from headgate.errors import InvalidInputError, Kind
from headgate.identity import event_id
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
READY_TIMEOUT_S = 900.0  # a batch that is incomplete for so long is announced with what is there
TOPICS = (REGISTERED, PROVISIONED, FAILED, FINISHED)
_PREFIX = "uploads.batch."
_OPEN = "uploads.open."  # the deadlines of the batches that are waiting
_SOURCE = "essay-lifecycle-service"
# The fields of EssayUploadFinishedV1, whoever sends it. The last one is there or not: left out, it means null.
_FINISHED_FIELDS = ("event", "batch_id", "expected_count", "upload_ts", "correlation_id")
_CONTENT_FIELDS = ("text_storage_id", "raw_file_storage_id", "original_file_name")


def event_key(body: Json) -> str:
    """What makes an event of a batch that event.

    Two copies of one file may have equal data, so their events are known by the id that the producer gave them once,
    before its outbox; a registration by its batch; the end of an upload by that upload, or where the producer names
    none, by what its contract has: a redelivery is equal in all of it, another request of the batch is not.

    Raises:
        InvalidInputError: the event has nothing to be known by.
    """
    data = _data_of(body)
    event = data.get("event")
    if event == "batch.essays.registered":
        return f"registered:{_batch_of(data)}"
    if event == "essay.upload.finished":
        if data.get("upload_id") is not None:
            return f"finished:{data['upload_id']}"
        return f"finished:{event_id({name: data.get(name) for name in _FINISHED_FIELDS})}"
    known_as = body.get("event_id")
    if not isinstance(known_as, str) or not known_as:
        message = "event_id: expected text, to know the event by"
        raise InvalidInputError(message, Kind.INVALID_RECORD)
    return known_as


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
        self._is_indexed = False

    def consumers(self, name: str = "batches", **options: Any) -> list[Consumer]:
        """One consumer a topic, all of them this tracker."""
        return [Consumer(name, topic, self.handle, event_key, **options) for topic in TOPICS]

    def handle(self, body: Json, tx: Transaction) -> Json:
        """Take in one event; returns the batch's counts.

        Raises:
            InvalidInputError: not one of the four event types, without a batch, or with a field of another type.
        """
        data = _data_of(body)
        batch_id, event = _batch_of(data), data.get("event")
        known = self.store.load_state(_PREFIX + batch_id)
        batch = self._new_batch() if known is None else known
        batch.setdefault("files", {})
        batch["correlation_id"] = batch["correlation_id"] or data.get("correlation_id")
        if event == "batch.essays.registered":
            batch["expected"] = _count_of(data, at_least=1)
        elif event == "essay.upload.finished":
            # Several requests of a batch add up; the event's own claim keeps a repeated one out.
            batch["received_count_from_uploads"] += _count_of(data, at_least=0)
        elif event in {"essay.validation.failed", "essay.content.provisioned"}:
            self._take_outcome(batch, data, body)
        else:
            message = "not an event of an essay batch"
            raise InvalidInputError(message, Kind.INVALID_RECORD)
        self._assign(batch_id, batch)
        if self._complete(batch):
            self._announce(batch_id, batch, "complete")
        self._save(batch_id, batch, is_new=known is None)
        return {k: batch[k] for k in ("expected", "failed", "status", "received_count_from_uploads")} | {
            "essays": len(batch["essays"])
        }

    def check_timeouts(self) -> int:
        """Announce the batches whose time is over; how many. What it costs grows with the batches that are open."""
        if not self._is_indexed:
            self._index_open()
        now = self.clock.now_us()
        ended = 0
        for marker, known in self.store.states(_OPEN):
            if known["deadline_us"] > now + self._longest_us():
                self._hold_to(marker, now)
            elif known["deadline_us"] <= now:
                ended += self._end(marker.removeprefix(_OPEN), now)
        return ended

    # --- parts

    def _new_batch(self) -> Json:
        now = self.clock.now_us()
        return {
            "format": 1, "status": "waiting", "expected": None, "received_count_from_uploads": 0, "failed": 0,
            "essays": [], "unassigned": [], "started_us": now, "correlation_id": None,
            "deadline_us": now + self._longest_us(),
        }  # fmt: skip

    def _longest_us(self) -> int:
        return int(self.ready_timeout_s * 1e6)

    def _save(self, batch_id: str, batch: Json, *, is_new: bool = False) -> None:
        """The batch, and a small document beside it for as long as it is open."""
        self.store.save_state(_PREFIX + batch_id, batch)
        if batch["status"] != "waiting":
            self.store.delete_state(_OPEN + batch_id)
        elif is_new:
            self.store.save_state(_OPEN + batch_id, {"format": 1, "deadline_us": batch["deadline_us"]})

    def _index_open(self) -> None:
        """Once a process: batches of stores from before there were the small documents."""
        for name, batch in self.store.states(_PREFIX):
            if batch["status"] == "waiting":
                with self.store.transaction():
                    current = self.store.load_state(name)
                    if current is not None:
                        self._save(name.removeprefix(_PREFIX), current, is_new=True)
        self._is_indexed = True

    def _end(self, batch_id: str, now_us: int) -> int:
        with self.store.transaction():
            batch = self.store.load_state(_PREFIX + batch_id)
            if batch is None or batch["status"] != "waiting":
                self.store.delete_state(_OPEN + batch_id)
                return 0
            if batch["deadline_us"] > now_us:
                return 0
            self._announce(batch_id, batch, "timed_out")
            self._save(batch_id, batch)
        return 1

    def _hold_to(self, marker: str, now_us: int) -> None:
        """A batch that began while the clock was ahead waits no longer than any other."""
        batch_id = marker.removeprefix(_OPEN)
        with self.store.transaction():
            batch = self.store.load_state(_PREFIX + batch_id)
            if batch is not None and batch["status"] == "waiting":
                log.warning("batch from the future", extra={"batch_id": batch_id})
                batch["deadline_us"] = now_us + self._longest_us()
                self._save(batch_id, batch, is_new=True)

    @staticmethod
    def _take_outcome(batch: Json, data: Json, body: Json) -> None:
        """A file's outcome. Each file has one: that of its latest event, whatever order the events come in.

        A file is known by the id of its first event, which later ones name: a replay's, or that of a file which was
        lost and sent again. What was announced with the batch is not taken back: a text that comes later is excess.
        """
        replaces = body.get("replaces")
        if replaces is None:
            file_id, revision = event_key(body), 0
        else:
            file_id, revision = replaces.get("first", replaces["event_id"]), replaces.get("revision", 1)
        outcome = "failed" if data["event"] == "essay.validation.failed" else "provisioned"
        known = batch["files"].get(file_id, {"revision": -1, "outcome": ""})
        if known["revision"] >= revision or (known["outcome"], outcome) == ("provisioned", "failed"):
            return
        batch["files"][file_id] = {"revision": revision, "outcome": outcome}
        is_waiting = batch["status"] == "waiting"
        if outcome == "failed":
            batch["failed"] += known["outcome"] != "failed"
            return
        content = {"file": file_id, **{name: _text_of(data, name) for name in _CONTENT_FIELDS}}
        if is_waiting and known["outcome"] == "failed":
            batch["failed"] -= 1
        if is_waiting and known["outcome"] == "provisioned":
            for slot in (*batch["essays"], *batch["unassigned"]):
                if slot.get("file") == file_id:
                    slot.update(content)
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
                    batch_id=batch_id, timestamp=self._now(), correlation_id=batch["correlation_id"],
                    **{name: content[name] for name in _CONTENT_FIELDS},
                )  # fmt: skip
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
            essays=[Essay(**{n: essay[n] for n in ("essay_id", *_CONTENT_FIELDS)}) for essay in batch["essays"]],
            missing_count=missing, timestamp=self._now(), correlation_id=batch["correlation_id"],
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


def _data_of(body: Json) -> Json:
    data = body.get("data")
    if not isinstance(data, dict):
        message = "data: expected an object with the event"
        raise InvalidInputError(message, Kind.INVALID_RECORD)
    return data


def _batch_of(data: Json) -> str:
    return _text_of(data, "batch_id")


def _text_of(data: Json, name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not value:
        message = f"{name}: expected text"
        raise InvalidInputError(message, Kind.INVALID_RECORD)
    return value


def _count_of(data: Json, at_least: int) -> int:
    value = data.get("expected_count")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 3.0 is JSON's 3
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        message = f"expected_count: expected a whole number of at least {at_least}"
        raise InvalidInputError(message, Kind.INVALID_RECORD)
    return value
