"""The file service: raw first, a job before the answer, and an event for every outcome.

A request's files are stored raw; one commit then holds a job for each and the announcement that all have come. Jobs run
as an ordinary consumer: extract, validate, store the text, announce, all in the commit that completes the job.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from headgate._native import core
from headgate.consume import Consumer
from headgate.errors import DuplicateError, HeadgateError
from headgate.identity import compact_json, event_id
from headgate.pipelines.uploads.contracts import (
    FAILED,
    FINISHED,
    PROVISIONED,
    STORAGE_FAILED,
    ContentType,
    ErrorCode,
    EssayContentProvisionedV1,
    EssayUploadFinishedV1,
    EssayValidationFailedV1,
    envelope,
)
from headgate.pipelines.uploads.extract import EXTRACTORS, ExtractionError, Extractor, extract_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import BaseModel

    from headgate.ports import Clock, Json, Metrics, ObjectStore, Transaction

log = logging.getLogger("headgate.uploads")
JOBS = "uploads.files"  # the topic of our own jobs
FILES = "uploads.file."  # state documents: the files' jobs and outcomes, for replays
_OUTCOMES = uuid.UUID("6f0d3c5e-0d6b-5f0a-9d53-5f6a1c1d7a10")  # of the events' identities
MIN_LENGTH, MAX_LENGTH = 50, 50_000  # spec 004, section 2: characters after trimming


class ContentServiceClientProtocol(Protocol):
    """Where blobs are kept. Storing the same bytes again gives the same id."""

    def store_content(self, data: bytes, content_type: ContentType) -> str: ...
    def fetch_content(self, storage_id: str) -> bytes: ...


class ContentStore:
    """Content-addressed blobs in an object store: `content/{type}/{SHA-256}`."""

    def __init__(self, objects: ObjectStore) -> None:
        self.objects = objects

    def store_content(self, data: bytes, content_type: ContentType) -> str:
        key = f"content/{content_type}/{hashlib.sha256(data).hexdigest()}"
        with contextlib.suppress(DuplicateError):
            self.objects.put(key, data, True)
        return key

    def fetch_content(self, storage_id: str) -> bytes:
        return self.objects.get(storage_id)


def validate_text(text: str, min_length: int = MIN_LENGTH, max_length: int = MAX_LENGTH) -> ErrorCode | None:
    """The error code of a text, or None.

    Example:
        >>> validate_text("too short")
        <ErrorCode.CONTENT_TOO_SHORT: 'CONTENT_TOO_SHORT'>
    """
    length = len(text.strip())
    if length == 0:
        return ErrorCode.EMPTY_CONTENT
    if length < min_length:
        return ErrorCode.CONTENT_TOO_SHORT
    return ErrorCode.CONTENT_TOO_LONG if length > max_length else None


@dataclass(frozen=True)
class UploadedFile:
    """One file of a request."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Worked:
    """A job and what came of it."""

    job: Json
    event: EssayContentProvisionedV1 | EssayValidationFailedV1


@dataclass
class FileService:
    """Takes files in and works on them.

    Args:
        content: where blobs go.
        store: outbox, queue and state documents (`LocalStore`).
        clock: injected in tests.
        extractors: suffix -> extractor.
        min_length, max_length: characters of a text after trimming.
        extract_timeout_s: then an extractor is abandoned.
        metrics: counts failures by code.
    """

    content: ContentServiceClientProtocol
    store: Any
    clock: Clock
    extractors: Mapping[str, Extractor] = field(default_factory=lambda: EXTRACTORS)
    min_length: int = MIN_LENGTH
    max_length: int = MAX_LENGTH
    extract_timeout_s: float = 30.0
    metrics: Metrics | None = None

    def accept(
        self, batch_id: str, files: Sequence[UploadedFile], correlation_id: str | None = None, upload_id: str = ""
    ) -> Json:
        """Make a request's files durable; only then may it be answered.

        Args:
            batch_id: the batch they belong to.
            files: at least one.
            correlation_id: travels through every event and log line.
            upload_id: the request's identity; the same one again (a client's retry) does nothing twice. Default: of
                batch, names and contents.

        Raises:
            TransientError, StorageFullError: the database could not take the jobs; nothing is promised then.
        """
        now = self._now()
        digests = [[f.name, hashlib.sha256(f.data).hexdigest()] for f in files]
        upload_id = upload_id or event_id({"batch_id": batch_id, "files": digests})
        jobs: list[tuple[str, Json]] = []
        lost: list[EssayValidationFailedV1] = []
        for index, file in enumerate(files):
            try:
                raw_id = self.content.store_content(file.data, ContentType.RAW_UPLOAD_BLOB)
            except (HeadgateError, OSError) as error:
                self._log(correlation_id, batch_id, "raw", "raw_storage_failed", error=type(error).__name__)
                lost.append(self._failure(
                    {"batch_id": batch_id, "original_file_name": file.name, "raw_file_storage_id": STORAGE_FAILED,
                     "file_size_bytes": len(file.data), "correlation_id": correlation_id},
                    ErrorCode.RAW_STORAGE_FAILED, "the file could not be stored; please send it again",
                ))  # fmt: skip
                continue
            job = {
                "upload_id": upload_id, "index": index, "batch_id": batch_id, "original_file_name": file.name,
                "raw_file_storage_id": raw_id, "file_size_bytes": len(file.data), "correlation_id": correlation_id,
            }  # fmt: skip
            jobs.append((raw_id, job))
        core.fault_point("uploads.after_raw")
        with self.store.transaction():
            for raw_id, job in jobs:
                self.store.publish(JOBS, raw_id, {"data": job})
            for failure in lost:
                self._publish(FAILED, failure)
            finished = EssayUploadFinishedV1(
                batch_id=batch_id, upload_id=upload_id, expected_count=len(files), upload_ts=now,
                correlation_id=correlation_id,
            )  # fmt: skip
            self._publish(FINISHED, finished, event_id({"upload_id": upload_id}))
        core.fault_point("uploads.after_jobs")
        return {"upload_id": upload_id, "stored": len(jobs), "failed": len(lost)}

    def consumer(self, name: str = "file-service", **options: Any) -> Consumer:
        """The consumer that works on the jobs."""
        return Consumer(name, JOBS, self.process, _job_key, prepare=self.work, on_dead_letter=self.give_up, **options)

    def work(self, body: Json) -> Worked:
        """One job, up to its event. What may pass by itself (a full disk) is raised and tried again."""
        job = body["data"]
        started = self.clock.mono_us()
        event = self.examine(job)
        duration_ms = (self.clock.mono_us() - started) // 1000
        self._log(job.get("correlation_id"), job["batch_id"], "file", _status(event), duration_ms=duration_ms)
        return Worked(job, event)

    def process(self, worked: Worked, tx: Transaction) -> Json:
        """Announce what came of a job, in the commit that completes it; returns the event's data."""
        self.conclude(worked)
        return worked.event.model_dump(mode="json")

    def give_up(self, body: Json, reason: str, tx: Transaction) -> None:
        """A job that failed to the end: its batch must not wait for it."""
        job = body["data"]
        self.conclude(Worked(job, self._failure(job, ErrorCode.UNKNOWN_VALIDATION_ERROR, reason)))
        self._log(job.get("correlation_id"), job["batch_id"], "file", "processing_error")

    def receive(self, batch_id: str, file_name: str, data: bytes, correlation_id: str | None = None) -> Json:
        """One file, its whole way at once, without a job: for scripts and handlers that wait for the outcome."""
        about = {
            "batch_id": batch_id, "original_file_name": file_name, "file_size_bytes": len(data),
            "correlation_id": correlation_id, "raw_file_storage_id": STORAGE_FAILED,
        }  # fmt: skip
        event: EssayContentProvisionedV1 | EssayValidationFailedV1
        try:
            about["raw_file_storage_id"] = self.content.store_content(data, ContentType.RAW_UPLOAD_BLOB)
            event = self.examine(about, data)
        except HeadgateError as error:
            lost = about["raw_file_storage_id"] == STORAGE_FAILED
            code = ErrorCode.RAW_STORAGE_FAILED if lost else ErrorCode.TEXT_STORAGE_FAILED
            event = self._failure(about, code, error.kind.value)
        self._publish(PROVISIONED if isinstance(event, EssayContentProvisionedV1) else FAILED, event)
        return event.model_dump(mode="json")

    # --- parts

    def conclude(self, worked: Worked, replaces: Json | None = None) -> None:
        """Announce a job's outcome and remember it, both in the caller's commit.

        Args:
            worked: the job and its event. The event's identity is that of job, outcome and what it replaces: the same
                step is one event, and a way back to an earlier text is another one.
            replaces: what was announced of the job before, as `outcome_of` gives it, and the `event_id` of that.
        """
        outcome = outcome_of(worked.event)
        topic = PROVISIONED if outcome["outcome"] == "provisioned" else FAILED
        name = _job_key({"data": worked.job})
        before = "" if replaces is None else replaces["event_id"]
        identity = str(uuid.uuid5(_OUTCOMES, f"{name}:{compact_json(outcome)}:{before}"))
        message = envelope(topic, worked.event, self._now(), event_id=identity)
        if replaces is not None:
            message["replaces"] = replaces
        self.store.publish(topic, worked.job["raw_file_storage_id"], message)
        known = {"format": 1, "job": worked.job, "at_us": self.clock.now_us(), "event_id": identity, **outcome}
        self.store.save_state(FILES + name, known)

    def examine(self, job: Json, data: bytes | None = None) -> EssayContentProvisionedV1 | EssayValidationFailedV1:
        """Extract, validate and store a file's text; nothing is announced."""
        if data is None:
            data = self.content.fetch_content(job["raw_file_storage_id"])
        try:
            text = extract_text(job["original_file_name"], data, self.extractors, self.extract_timeout_s)
        except ExtractionError as error:
            code = error.code if error.code is ErrorCode.ENCODING_ERROR else ErrorCode.TEXT_EXTRACTION_FAILED
            return self._failure(job, code, f"{error.code}: {error.message}")
        code_found = validate_text(text, self.min_length, self.max_length)
        if code_found is not None:
            limits = f"a text has {self.min_length} to {self.max_length} characters, this one {len(text.strip())}"
            return self._failure(job, code_found, limits)
        text_id = self.content.store_content(text.encode(), ContentType.EXTRACTED_PLAINTEXT)
        return EssayContentProvisionedV1(
            batch_id=job["batch_id"], original_file_name=job["original_file_name"],
            raw_file_storage_id=job["raw_file_storage_id"], text_storage_id=text_id,
            file_size_bytes=job["file_size_bytes"], correlation_id=job.get("correlation_id"), timestamp=self._now(),
            content_md5_hash=hashlib.md5(data, usedforsecurity=False).hexdigest(),
        )  # fmt: skip

    def _failure(self, job: Json, code: ErrorCode, message: str) -> EssayValidationFailedV1:
        if self.metrics is not None:
            self.metrics.count("essay_validation_failed_total", error_code=code.value)
        return EssayValidationFailedV1(
            batch_id=job["batch_id"], original_file_name=job["original_file_name"],
            raw_file_storage_id=job["raw_file_storage_id"], validation_error_code=code,
            validation_error_message=message[:500], file_size_bytes=job["file_size_bytes"],
            correlation_id=job.get("correlation_id"), timestamp=self._now(),
        )  # fmt: skip

    def _publish(self, topic: str, event: BaseModel, key: str = "") -> None:
        message = envelope(topic, event, self._now())
        self.store.publish(topic, key or message["data"].get("raw_file_storage_id", message["event_id"]), message)

    def _now(self) -> str:
        return str(core.format_timestamp(self.clock.now_us()))

    @staticmethod
    def _log(corr_id: str | None, batch_id: str, phase: str, status: str, **more: Any) -> None:
        log.info("file", extra={"corr_id": corr_id, "batch_id": batch_id, "phase": phase, "status": status, **more})


def _job_key(body: Json) -> str:
    """A request that is repeated, with another correlation id even, makes the same jobs."""
    job = body["data"]
    return f"{job['upload_id']}:{job['index']}"


def outcome_of(event: EssayContentProvisionedV1 | EssayValidationFailedV1) -> Json:
    """What makes one outcome of a file differ from another: the text, or why there is none."""
    if isinstance(event, EssayContentProvisionedV1):
        return {"outcome": "provisioned", "text_storage_id": event.text_storage_id}
    return {"outcome": "failed", "code": event.validation_error_code.value}


def _status(event: EssayContentProvisionedV1 | EssayValidationFailedV1) -> str:
    """The status words of the log (spec 004, section 2)."""
    if isinstance(event, EssayContentProvisionedV1):
        return "processing_success"
    extraction = event.validation_error_code in {ErrorCode.TEXT_EXTRACTION_FAILED, ErrorCode.ENCODING_ERROR}
    return "extraction_failed" if extraction else "content_validation_failed"
