"""Working on a stored file: its text is extracted, validated and stored, or there is a code that says why not."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from headgate.errors import ConfigError, Kind
from headgate.pipelines.uploads.announcements import Announcements
from headgate.pipelines.uploads.content import (
    ContentRefusedError,
    ContentUnavailableError,
    fetch_content,
    store_content,
)
from headgate.pipelines.uploads.contracts import STORAGE_FAILED, ContentType, ErrorCode, EssayContentProvisionedV1
from headgate.pipelines.uploads.extract import ExtractionError, extract_text
from headgate.pipelines.uploads.outcomes import Worked, outcome_topic, status_word, validate_text
from headgate.pipelines.uploads.requests import UploadedFile, check_id, clean_file, received_name

if TYPE_CHECKING:
    from headgate.pipelines.uploads.content import Steps
    from headgate.ports import Json

CONTENT_CODES = (ErrorCode.RAW_STORAGE_FAILED, ErrorCode.TEXT_STORAGE_FAILED)


class Examination(Announcements):
    """The methods of `FileService` that work on files."""

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
            is_final = worked.cause not in CONTENT_CODES
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


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        message = "the extractor gave a lone surrogate, which is no text"
        raise ExtractionError(ErrorCode.ENCODING_ERROR, message) from None
