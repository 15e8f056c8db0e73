"""Taking a request in: its files are stored raw; then one commit holds a job for each, and what is remembered of it."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

from headgate._native import core
from headgate.errors import ConflictError, Kind, StorageFullError
from headgate.pipelines.uploads.announcements import OUTCOME_IDS, Announcements, job_key
from headgate.pipelines.uploads.content import ContentRefusedError, ContentUnavailableError, store_content
from headgate.pipelines.uploads.contracts import (
    FAILED,
    FINISHED,
    REGISTERED,
    STORAGE_FAILED,
    BatchEssaysRegisteredV1,
    ContentType,
    ErrorCode,
    EssayUploadFinishedV1,
)
from headgate.pipelines.uploads.requests import (
    Upload,
    UploadRequest,
    answer_of,
    check_count,
    check_id,
    new_document,
    registered_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from headgate.pipelines.uploads.content import Steps
    from headgate.ports import Json

JOBS = "uploads.files"  # the topic of our own jobs
_SEND_AGAIN = "the file could not be stored; please send it again"


class Acceptance(Announcements):
    """The methods of `FileService` that take requests in."""

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
            identity = str(uuid.uuid5(OUTCOME_IDS, f"{job_key({'data': worked.job})}:raw"))
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
