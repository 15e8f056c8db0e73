"""The file service: raw first, a job before the answer, and an event for every outcome.

A request's files are stored raw; one commit then holds a job for each, the announcement that all have come, and what is
remembered of the request for its repetitions. Jobs run as an ordinary consumer: extract, validate, store the text,
announce, all in the commit that completes the job.

Each way through the service is written once, as steps that ask for calls of the content client; the sync methods make
those calls, the async ones await them.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.consume import Consumer
from headgate.errors import ConfigError, ConflictError, Kind, StorageFullError
from headgate.identity import compact_json
from headgate.pipelines.uploads.content import (
    AsyncContentServiceClientProtocol,
    ContentRefusedError,
    ContentServiceClientProtocol,
    ContentUnavailableError,
    fetch_content,
    require_sync,
    run_steps,
    run_steps_async,
    store_content,
)
from headgate.pipelines.uploads.contracts import (
    FAILED,
    FINISHED,
    REGISTERED,
    STORAGE_FAILED,
    BatchEssaysRegisteredV1,
    ContentType,
    ErrorCode,
    EssayContentProvisionedV1,
    EssayUploadFinishedV1,
    EssayValidationFailedV1,
    envelope,
)
from headgate.pipelines.uploads.extract import EXTRACTORS, ExtractionError, Extractor, extract_text
from headgate.pipelines.uploads.outcomes import (
    MAX_LENGTH,
    MIN_LENGTH,
    Worked,
    known_outcome,
    outcome_of,
    outcome_topic,
    replacement_of,
    status_word,
    validate_text,
)
from headgate.pipelines.uploads.requests import (
    Upload,
    UploadedFile,
    UploadRequest,
    answer_of,
    check_count,
    check_id,
    clean_file,
    new_document,
    received_name,
    registered_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pydantic import BaseModel

    from headgate.pipelines.uploads.content import Steps
    from headgate.ports import Clock, Json, Metrics, Transaction

UNAVAILABLE_LIMIT_S = 600.0
log = logging.getLogger("headgate.uploads")
JOBS = "uploads.files"  # the topic of our own jobs
FILES = "uploads.file."  # state documents: the files' jobs and outcomes, for replays
_OUTCOMES = uuid.UUID("6f0d3c5e-0d6b-5f0a-9d53-5f6a1c1d7a10")  # of the events' identities
_CONTENT_CODES = (ErrorCode.RAW_STORAGE_FAILED, ErrorCode.TEXT_STORAGE_FAILED)
_SEND_AGAIN = "the file could not be stored; please send it again"


@dataclass
class FileService:
    """Takes files in and works on them.

    Args:
        content: where blobs go: a sync client, or an async one for the methods that end in `_async`.
        store: outbox, queue and state documents (`LocalStore`).
        clock: injected in tests.
        extractors: suffix -> extractor.
        min_length, max_length: characters of a text after trimming.
        extract_timeout_s, extract_memory_bytes: what an extractor may use (`extract_text`).
        metrics: counts failures by code (`essay_validation_failed_total{error_code}`).
    """

    content: ContentServiceClientProtocol | AsyncContentServiceClientProtocol
    store: Any
    clock: Clock
    extractors: Mapping[str, Extractor] = field(default_factory=lambda: EXTRACTORS)
    min_length: int = MIN_LENGTH
    max_length: int = MAX_LENGTH
    extract_timeout_s: float = 30.0
    extract_memory_bytes: int = 512 * 1024 * 1024
    metrics: Metrics | None = None
    _accepting: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def accept(
        self, batch_id: str, files: Sequence[Upload], correlation_id: str | None = None, upload_id: str = "", *,
        expected_count: int | None = None, refuse_when_full: bool = False,
    ) -> Json:  # fmt: skip
        """Make a request's files durable; only then may it be answered.

        The same request again does nothing twice and is answered as the first one was, with the first one's
        correlation id; only files that could not be stored then (RAW_STORAGE_FAILED) are stored now, and their outcome
        takes the place of that failure. What is remembered of a request lives as long as `retention.history_days`.

        Args:
            batch_id: the batch they belong to.
            files: at least one; a file without name and bytes is an empty form field and counts as none.
            correlation_id: travels through every event and log line.
            upload_id: the client's Idempotency-Key. It belongs to this batch, these names and contents in this order,
                whatever batch it is sent with. Default: the request is known by those alone.
            expected_count: registers the batch with so many essays in the same commit (`register_batch`).
            refuse_when_full: a full disk refuses the request, which may be sent again, instead of failing its files.

        Returns:
            `upload_id`, `files`, `stored`, `failed` (RAW_STORAGE_FAILED), `correlation_id`.

        Raises:
            InvalidInputError: an id or a name is not text, or there is no file.
            ConflictError: kind payload_mismatch: the key belongs to another request, or the batch is registered with
                another count. Kind busy: the first request of this key is still being worked on.
            ConfigError: the content client is async.
            TransientError, StorageFullError: the database could not take the jobs; nothing is promised then.
        """
        require_sync(self.content, "accept", "accept_async")
        return run_steps(self._accept(batch_id, files, correlation_id, upload_id, expected_count, refuse_when_full))

    async def accept_async(
        self, batch_id: str, files: Sequence[Upload], correlation_id: str | None = None, upload_id: str = "", *,
        expected_count: int | None = None, refuse_when_full: bool = False,
    ) -> Json:  # fmt: skip
        """`accept` for an async content client, or for a sync one off the event loop."""
        steps = self._accept(batch_id, files, correlation_id, upload_id, expected_count, refuse_when_full)
        return await run_steps_async(steps)

    def register_batch(self, batch_id: str, expected_count: int, correlation_id: str | None = None) -> bool:
        """Announce how many essays a batch has, so that it is complete when they are there; whether this was news.

        Raises:
            InvalidInputError: an id is not text, or the count not a whole number of at least 1.
            ConflictError: kind payload_mismatch; the batch is registered with another count.
            TransientError, StorageFullError: the database could not take it; nothing is promised then.
        """
        check_id("batch_id", batch_id)
        if correlation_id is not None:
            check_id("correlation_id", correlation_id)
        check_count(expected_count)
        with self.store.transaction():
            return self._register(batch_id, expected_count, correlation_id)

    def consumer(
        self, name: str = "file-service", *, loop: asyncio.AbstractEventLoop | None = None, **options: Any
    ) -> Consumer:
        """The consumer that works on the jobs.

        Args:
            name: its group.
            loop: for an async content client: the running event loop that its coroutines belong to. The worker then
                runs on another thread (`await asyncio.to_thread(worker.drain)`).
            options: of `Consumer`. A content client that is away costs a job no attempt for ten minutes
                (`unavailable_limit_s`), which is less than a batch waits for it; then its attempts count.

        Raises:
            ConfigError: the content client is async and there is no loop.
        """
        options.setdefault("unavailable_limit_s", UNAVAILABLE_LIMIT_S)
        prepare: Callable[[Json], Worked] = self.work
        if loop is not None:
            running = loop

            def work_on_loop(body: Json) -> Worked:
                return asyncio.run_coroutine_threadsafe(self.work_async(body), running).result()

            prepare = work_on_loop
        else:
            require_sync(self.content, "consumer", "consumer(loop=...), with the worker on another thread")
        return Consumer(name, JOBS, self.process, _job_key, prepare=prepare, on_dead_letter=self.give_up, **options)

    def work(self, body: Json) -> Worked:
        """One job, up to its event. What may pass by itself (a full disk, a time-out) is raised and tried again.

        Raises:
            ContentUnavailableError: the content client failed in a way that may pass.
            ConfigError: an extractor's library is not installed, or the content client is async.
        """
        require_sync(self.content, "work", "work_async")
        return run_steps(self._work(body))

    async def work_async(self, body: Json) -> Worked:
        """`work` for an async content client."""
        return await run_steps_async(self._work(body))

    def process(self, worked: Worked, tx: Transaction) -> Json:
        """Announce what came of a job, in the commit that completes it; returns the event's data."""
        self._conclude_once(worked)
        return worked.event.model_dump(mode="json")

    def give_up(self, body: Json, reason: str, tx: Transaction) -> None:
        """A job that failed to the end: its batch must not wait for it."""
        job = body["data"]
        # The reason is the last error's text, whose head is the code where it was the content client's.
        code = next((code for code in _CONTENT_CODES if code in reason), ErrorCode.UNKNOWN_VALIDATION_ERROR)
        self._conclude_once(self._failure(job, code, reason))
        age_us = self.clock.now_us() - job.get("accepted_us", self.clock.now_us())
        self._log(job, "file", "processing_error", duration_ms=age_us // 1000, error=code.value)

    def receive(self, batch_id: str, file_name: str, data: bytes, correlation_id: str | None = None) -> Json:
        """One file, its whole way at once, without a job: for scripts and handlers that wait for the outcome.

        The same batch, name and content again is answered with the event of the first time, and nothing is announced:
        Lambda calls a handler twice. A file that could not be stored is tried again instead.

        Returns:
            The data of the event that was announced.

        Raises:
            InvalidInputError: an id or the name is not text, or the content not bytes.
            ConfigError: the content client is async.
            TransientError, StorageFullError: the database could not take the event.
        """
        require_sync(self.content, "receive", "receive_async")
        return run_steps(self._receive(batch_id, file_name, data, correlation_id))

    async def receive_async(
        self, batch_id: str, file_name: str, data: bytes, correlation_id: str | None = None
    ) -> Json:
        """`receive` for an async content client, or for a sync one off the event loop."""
        return await run_steps_async(self._receive(batch_id, file_name, data, correlation_id))

    def store_blob(self, data: bytes, content_type: ContentType) -> str:
        """Store one blob and nothing else; its storage id.

        Raises:
            ContentUnavailableError, ContentRefusedError: whatever the content client raised.
        """
        require_sync(self.content, "store_blob", "the client itself")
        return run_steps(store_content(self.content, data, content_type))

    def examine(self, job: Json) -> Worked:
        """Extract, validate and store a file's text again; nothing is announced. A replay uses it.

        Raises:
            ContentUnavailableError: the content client failed in a way that may pass.
            ContentRefusedError: kind not_found; the raw file is no longer stored.
            ConfigError: an extractor's library is not installed, or the content client is async.
        """
        require_sync(self.content, "examine", "a sync client")
        return run_steps(self._examine(job, refuse_missing=True))

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
        name = _job_key({"data": worked.job})
        before = "" if replaces is None else replaces["event_id"]
        identity = str(uuid.uuid5(_OUTCOMES, f"{name}:{compact_json(outcome)}:{before}"))
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

    # --- the ways through, as steps

    def _accept(
        self, batch_id: str, files: Sequence[Upload], correlation_id: str | None, upload_id: str,
        expected_count: int | None, refuse_when_full: bool,
    ) -> Steps[Json]:  # fmt: skip
        if correlation_id is not None:
            check_id("correlation_id", correlation_id)
        if expected_count is not None:
            check_count(expected_count)
        request = UploadRequest.of(batch_id, files, upload_id)
        with self._only_one_at_once(request):
            known = self._known(request)
            missing = range(len(request.files)) if known is None else sorted(int(index) for index in known["lost"])
            if known is not None and not missing and expected_count is None:
                return answer_of(request, known)
            stored: dict[int, str] = {}
            lost: list[int] = []
            about: Json = {"batch_id": batch_id, "correlation_id": correlation_id}
            for index in missing:
                started = self.clock.mono_us()
                try:
                    raw = store_content(self.content, request.files[index].read(), ContentType.RAW_UPLOAD_BLOB)
                    stored[index] = yield from raw
                except (ContentUnavailableError, ContentRefusedError) as error:
                    if refuse_when_full and error.kind is Kind.DISK_FULL:
                        message = "no space is left for raw files"
                        raise StorageFullError(message) from None
                    duration_ms = (self.clock.mono_us() - started) // 1000
                    cause = type(error.__cause__ or error).__name__
                    self._log(about, "raw", "raw_storage_failed", duration_ms=duration_ms, error=cause)
                    lost.append(index)
            core.fault_point("uploads.after_raw")
            with self.store.transaction():
                answer = self._commit(request, correlation_id, stored, lost)
                if expected_count is not None:
                    self._register(request.batch_id, expected_count, correlation_id)
            core.fault_point("uploads.after_jobs")
            return answer

    def _commit(
        self, request: UploadRequest, correlation_id: str | None, stored: dict[int, str], lost: list[int]
    ) -> Json:
        """Jobs, failures and what is remembered of the request. Another process may have been first: then this is a
        repetition."""
        known = self._known(request)
        is_first = known is None
        if known is None:
            known = new_document(request, correlation_id, self.clock.now_us())
        for index, raw_id in stored.items():
            failure = known["lost"].pop(str(index), None)
            if not is_first and failure is None:
                continue
            job = self._job(request, known, index, raw_id)
            if failure is not None:
                lost_outcome = {"outcome": "failed", "code": ErrorCode.RAW_STORAGE_FAILED.value}
                job["replaces"] = {**lost_outcome, "event_id": failure, "first": failure, "revision": 1}
            self.store.publish(JOBS, raw_id, {"data": job})
        for index in lost if is_first else ():
            worked = self._failure(
                self._job(request, known, index, STORAGE_FAILED), ErrorCode.RAW_STORAGE_FAILED, _SEND_AGAIN
            )
            identity = str(uuid.uuid5(_OUTCOMES, f"{_job_key({'data': worked.job})}:raw"))
            self._publish(FAILED, worked.event, identity)
            self._count(worked)
            known["lost"][str(index)] = identity
        if is_first:
            finished = EssayUploadFinishedV1(
                batch_id=request.batch_id, upload_id=request.job_id, expected_count=len(request.files),
                upload_ts=self._now(), correlation_id=correlation_id,
            )  # fmt: skip
            self._publish(FINISHED, finished)
        self.store.save_state(request.state_name, known)
        return answer_of(request, known)

    def _register(self, batch_id: str, expected_count: int, correlation_id: str | None) -> bool:
        name = registered_name(batch_id)
        known = self.store.load_state(name)
        if known is not None:
            if known["expected_count"] != expected_count:
                message = "expected_count: the batch is registered with another count"
                raise ConflictError(message, Kind.PAYLOAD_MISMATCH)
            return False
        event = BatchEssaysRegisteredV1(
            batch_id=batch_id, expected_count=expected_count, correlation_id=correlation_id
        )  # fmt: skip
        self._publish(REGISTERED, event)
        self.store.save_state(name, {"format": 1, "expected_count": expected_count, "at_us": self.clock.now_us()})
        return True

    def _work(self, body: Json) -> Steps[Worked]:
        job = body["data"]
        started = self.clock.mono_us()
        worked = yield from self._examine(job)
        self._log(job, "file", status_word(worked.event), duration_ms=(self.clock.mono_us() - started) // 1000)
        return worked

    def _receive(self, batch_id: str, file_name: str, data: bytes, correlation_id: str | None) -> Steps[Json]:
        check_id("batch_id", batch_id)
        if correlation_id is not None:
            check_id("correlation_id", correlation_id)
        file = clean_file(UploadedFile(file_name, data))
        known_as = received_name(batch_id, file)
        if (known := self.store.load_state(known_as)) is not None:
            return dict(known["event"])
        started = self.clock.mono_us()
        about = {
            "batch_id": batch_id, "original_file_name": file.name, "file_size_bytes": len(data),
            "correlation_id": correlation_id, "raw_file_storage_id": STORAGE_FAILED,
        }  # fmt: skip
        try:
            raw = store_content(self.content, data, ContentType.RAW_UPLOAD_BLOB)
            about["raw_file_storage_id"] = yield from raw
            worked = yield from self._examine(about, data)
            is_final = worked.cause not in _CONTENT_CODES
        except (ContentUnavailableError, ContentRefusedError) as error:
            worked, is_final = self._failure(about, error.code, error.message), False
        except ConfigError as error:  # an extractor's library is not there
            worked, is_final = self._failure(about, ErrorCode.TEXT_EXTRACTION_FAILED, error.message), False
        event = worked.event.model_dump(mode="json")
        with self.store.transaction():
            if (known := self.store.load_state(known_as)) is not None:  # another process was first
                return dict(known["event"])
            self._publish(outcome_topic(worked.event), worked.event)
            if is_final:
                self.store.save_state(known_as, {"format": 1, "at_us": self.clock.now_us(), "event": event})
        self._count(worked)
        self._log(about, "file", status_word(worked.event), duration_ms=(self.clock.mono_us() - started) // 1000)
        return event

    def _examine(self, job: Json, data: bytes | None = None, *, refuse_missing: bool = False) -> Steps[Worked]:
        """What becomes of a file: a text, or why there is none. Only what may pass by itself is raised."""
        try:
            if data is None:
                data = yield from fetch_content(self.content, job["raw_file_storage_id"])
            text = extract_text(
                job["original_file_name"], data, self.extractors, self.extract_timeout_s, self.extract_memory_bytes
            )
            encoded = _encoded(text)
            cause = validate_text(text, self.min_length, self.max_length)
            if cause is not None:
                limits = f"a text has {self.min_length} to {self.max_length} characters, this one {len(text.strip())}"
                return self._failure(job, cause, limits)
            text_id = yield from store_content(self.content, encoded, ContentType.EXTRACTED_PLAINTEXT)
        except ExtractionError as error:
            code = error.code if error.code is ErrorCode.ENCODING_ERROR else ErrorCode.TEXT_EXTRACTION_FAILED
            return self._failure(job, code, f"{error.code}: {error.message}", error.code)
        except ContentRefusedError as error:
            if refuse_missing and error.kind is Kind.NOT_FOUND and error.code is ErrorCode.RAW_STORAGE_FAILED:
                raise
            return self._failure(job, error.code, error.message)
        event = EssayContentProvisionedV1(
            batch_id=job["batch_id"], original_file_name=job["original_file_name"],
            raw_file_storage_id=job["raw_file_storage_id"], text_storage_id=text_id,
            file_size_bytes=job["file_size_bytes"], correlation_id=job.get("correlation_id"), timestamp=self._now(),
            content_md5_hash=hashlib.md5(data, usedforsecurity=False).hexdigest(),
        )  # fmt: skip
        return Worked(job, event)

    # --- parts

    @contextmanager
    def _only_one_at_once(self, request: UploadRequest) -> Iterator[None]:
        """A key's second request while the first is under way in this process is refused, not worked on beside it.
        Of two processes the one that commits first wins, and the other one's request is a repetition."""
        if not request.has_key:
            yield
            return
        with self._lock:
            under_way = self._accepting.get(request.state_name)
            if under_way is not None:
                request.check_against(under_way)
                message = "Idempotency-Key: the first request of this key is still being worked on; send it again later"
                raise ConflictError(message, Kind.BUSY)
            self._accepting[request.state_name] = request.digest
        try:
            yield
        finally:
            with self._lock:
                del self._accepting[request.state_name]

    def _known(self, request: UploadRequest) -> Json | None:
        """What is remembered of the request, or None; refuses another one under its key."""
        known: Json | None = self.store.load_state(request.state_name)
        if known is not None:
            request.check_against(known["digest"])
        return known

    @staticmethod
    def _job(request: UploadRequest, known: Json, index: int, raw_id: str) -> Json:
        file = request.files[index]
        return {
            "upload_id": request.job_id, "index": index, "batch_id": request.batch_id, "original_file_name": file.name,
            "raw_file_storage_id": raw_id, "file_size_bytes": file.size_bytes,
            "correlation_id": known["correlation_id"], "accepted_us": known["at_us"],
        }  # fmt: skip

    def _conclude_once(self, worked: Worked) -> None:
        """Announce a job's outcome, unless it was announced; another outcome than before takes its place.

        A job whose dead letter was sent back has an outcome already, as has a file that was lost and sent again.
        """
        known = self.store.load_state(FILES + _job_key({"data": worked.job}))
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


def _job_key(body: Json) -> str:
    """A request that is repeated, with another correlation id even, makes the same jobs."""
    job = body["data"]
    return f"{job['upload_id']}:{job['index']}"


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        message = "the extractor gave a lone surrogate, which is no text"
        raise ExtractionError(ErrorCode.ENCODING_ERROR, message) from None
