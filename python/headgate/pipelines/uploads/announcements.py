"""What the file service announces of a file, and what it remembers of that; the settings that all its parts share."""

from __future__ import annotations

import logging
import threading
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from headgate._native import core
from headgate.identity import compact_json
from headgate.pipelines.uploads.contracts import ErrorCode, EssayValidationFailedV1, envelope
from headgate.pipelines.uploads.extract import EXTRACTORS
from headgate.pipelines.uploads.outcomes import (
    MAX_LENGTH,
    MIN_LENGTH,
    Worked,
    known_outcome,
    outcome_of,
    outcome_topic,
    replacement_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from pydantic import BaseModel

    from headgate.pipelines.uploads.content import AsyncContentServiceClientProtocol, ContentServiceClientProtocol
    from headgate.pipelines.uploads.extract import Extractor
    from headgate.ports import Clock, Json, Metrics

log = logging.getLogger("headgate.uploads")
FILES = "uploads.file."  # state documents: the files' jobs and outcomes, for replays
OUTCOME_IDS = uuid.UUID("6f0d3c5e-0d6b-5f0a-9d53-5f6a1c1d7a10")  # namespace of the events' identities


class UploadStore(Protocol):
    """What the file service asks of a store: outbox and state documents, and commits where the store has them."""

    def publish(self, topic: str, key: str, body: Json) -> None: ...
    def load_state(self, name: str) -> Json | None: ...
    def save_state(self, name: str, doc: Json) -> None: ...
    def transaction(self) -> AbstractContextManager[Any]: ...


@dataclass
class Announcements:
    """The settings of `FileService`, and its methods that announce."""

    content: ContentServiceClientProtocol | AsyncContentServiceClientProtocol
    store: UploadStore
    clock: Clock
    extractors: Mapping[str, Extractor] = field(default_factory=lambda: EXTRACTORS)
    min_length: int = MIN_LENGTH
    max_length: int = MAX_LENGTH
    extract_timeout_s: float = 30.0
    extract_memory_bytes: int = 512 * 1024 * 1024
    metrics: Metrics | None = None
    _accepting: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def conclude(self, worked: Worked, replaces: Json | None = None) -> None:
        """Announce a job's outcome and remember it, both in the caller's commit.

        Args:
            worked: the job and its event. The event's identity is that of job, outcome and what it replaces: the same
                step is one event, and a way back to an earlier text is another one.
            replaces: what was announced of the file before: its outcome as `outcome_of` gives it, the `event_id` of
                that and of the file's first event (`first`), and which one after that this is (`revision`).
        """
        outcome = outcome_of(worked.event)
        topic = outcome_topic(worked.event)
        name = job_key({"data": worked.job})
        before = "" if replaces is None else replaces["event_id"]
        identity = str(uuid.uuid5(OUTCOME_IDS, f"{name}:{compact_json(outcome)}:{before}"))
        message = envelope(topic, worked.event, self._now(), event_id=identity)
        first, revision = identity, 0
        if replaces is not None:
            message["replaces"] = replaces
            first, revision = replaces["first"], replaces["revision"]
        self.store.publish(topic, worked.job["raw_file_storage_id"], message)
        self._count(worked)
        known = {
            "format": 1, "job": worked.job, "at_us": self.clock.now_us(), "event_id": identity, "first": first,
            "revision": revision, **outcome,
        }  # fmt: skip
        self.store.save_state(FILES + name, known)

    # --- for the other parts

    def _conclude_once(self, worked: Worked) -> None:
        """Announce a job's outcome, unless it was announced; another outcome than before takes its place.

        A job whose dead letter was sent back has an outcome already, as has a file that was lost and sent again.
        """
        known = self.store.load_state(FILES + job_key({"data": worked.job}))
        if known is None:
            self.conclude(worked, worked.job.get("replaces"))
        elif outcome_of(worked.event) != known_outcome(known):
            self.conclude(worked, replacement_of(known))

    def _failure(self, job: Json, code: ErrorCode, message: str, cause: ErrorCode | None = None) -> Worked:
        event = EssayValidationFailedV1(
            batch_id=job["batch_id"], original_file_name=job["original_file_name"],
            raw_file_storage_id=job["raw_file_storage_id"], validation_error_code=code,
            validation_error_message=message[:500], file_size_bytes=job["file_size_bytes"],
            correlation_id=job.get("correlation_id"), timestamp=self._now(),
        )  # fmt: skip
        return Worked(job, event, cause or code)

    def _count(self, worked: Worked) -> None:
        if self.metrics is not None and worked.cause is not None:
            self.metrics.count("essay_validation_failed_total", error_code=worked.cause.value)

    def _publish(self, topic: str, event: BaseModel, identity: str = "") -> None:
        message = envelope(topic, event, self._now(), event_id=identity)
        self.store.publish(topic, message["data"].get("raw_file_storage_id", message["event_id"]), message)

    def _now(self) -> str:
        return str(core.format_timestamp(self.clock.now_us()))

    @staticmethod
    def _log(about: Json, phase: str, status: str, **more: Any) -> None:
        failed_here = status in {"raw_storage_failed", "processing_error"}
        level = logging.WARNING if failed_here else logging.INFO
        extra = {"corr_id": about.get("correlation_id"), "batch_id": about["batch_id"], "phase": phase}
        log.log(level, "file", extra={**extra, "status": status, **more})


def job_key(body: Json) -> str:
    """A request that is repeated, with another correlation id even, makes the same jobs."""
    job = body["data"]
    return f"{job['upload_id']}:{job['index']}"
