"""The file service: raw first, a job before the answer, and an event for every outcome.

A request's files are stored raw; one commit then holds a job for each, the announcement that all have come, and what is
remembered of the request for its repetitions. Jobs run as an ordinary consumer: extract, validate, store the text,
announce, all in the commit that completes the job.

Each way through the service is written once, as steps that ask for calls of the content client; the sync methods make
those calls, the async ones await them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from headgate.consume import Consumer
from headgate.pipelines.uploads.acceptance import JOBS, Acceptance
from headgate.pipelines.uploads.announcements import FILES, job_key
from headgate.pipelines.uploads.content import require_sync, run_steps, run_steps_async, store_content
from headgate.pipelines.uploads.contracts import ContentType, ErrorCode
from headgate.pipelines.uploads.examination import CONTENT_CODES, Examination
from headgate.pipelines.uploads.outcomes import Worked
from headgate.pipelines.uploads.requests import Upload, check_count, check_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headgate.ports import Json, Transaction

__all__ = ["FILES", "JOBS", "UNAVAILABLE_LIMIT_S", "FileService"]
UNAVAILABLE_LIMIT_S = 600.0


class FileService(Acceptance, Examination):
    """Takes files in and works on them.

    Args:
        content: where blobs go: a sync client, or an async one for the methods that end in `_async`.
        store: outbox, queue and state documents (`LocalStore`; without jobs `DynamoStore` too).
        clock: injected in tests.
        extractors: suffix -> extractor.
        min_length, max_length: characters of a text after trimming.
        extract_timeout_s, extract_memory_bytes: what an extractor may use (`extract_text`).
        metrics: counts failures by code (`essay_validation_failed_total{error_code}`).
    """

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
        return Consumer(name, JOBS, self.process, job_key, prepare=prepare, on_dead_letter=self.give_up, **options)

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
        code = next((code for code in CONTENT_CODES if code in reason), ErrorCode.UNKNOWN_VALIDATION_ERROR)
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
