"""Store raw, extract, validate, store text, announce; every failure after the first step is announced too.

Plain text only for now; other formats answer TEXT_EXTRACTION_FAILED.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from headgate._native import core
from headgate.errors import DuplicateError, HeadgateError

if TYPE_CHECKING:
    from headgate.ports import Clock, ItemStore, Json, ObjectStore

PROVISIONED = "huleedu.file.essay.content.provisioned.v1"
FAILED = "huleedu.file.essay.validation.failed.v1"
STORAGE_FAILED = "STORAGE_FAILED"  # the contract's sentinel where there is no raw id
_MIN_LENGTH, _MAX_LENGTH = 50, 50_000  # section 2, characters after trimming


class ContentType(StrEnum):
    RAW_UPLOAD_BLOB = "raw_upload_blob"
    EXTRACTED_PLAINTEXT = "extracted_plaintext"


@dataclass(frozen=True)
class EssayContentProvisionedV1:
    """Both ids are there: the raw file and its text."""

    batch_id: str
    original_file_name: str
    raw_file_storage_id: str
    text_storage_id: str
    file_size_bytes: int
    timestamp: str
    content_md5_hash: str | None = None
    correlation_id: str | None = None
    event: str = "essay.content.provisioned"


@dataclass(frozen=True)
class EssayValidationFailedV1:
    """The file cannot be used; the raw id says where it is kept."""

    batch_id: str
    original_file_name: str
    raw_file_storage_id: str
    validation_error_code: str
    validation_error_message: str
    file_size_bytes: int
    timestamp: str
    correlation_id: str | None = None
    event: str = "essay.validation.failed"


def validate_text(text: str) -> str | None:
    """The error code of a text, or None."""
    length = len(text.strip())
    if length == 0:
        return "EMPTY_CONTENT"
    if length < _MIN_LENGTH:
        return "CONTENT_TOO_SHORT"
    return "CONTENT_TOO_LONG" if length > _MAX_LENGTH else None


class UploadFlow:
    """One file's way. Outcomes are announced through the outbox of `store`."""

    def __init__(self, objects: ObjectStore, store: ItemStore, clock: Clock) -> None:
        self.objects = objects
        self.store = store
        self.clock = clock

    def store_content(self, data: bytes, content_type: ContentType) -> str:
        """Content-addressed: the same bytes are kept once. Returns the storage id."""
        key = f"content/{content_type}/{hashlib.sha256(data).hexdigest()}"
        with contextlib.suppress(DuplicateError):
            self.objects.put(key, data, True)
        return key

    def receive(self, batch_id: str, file_name: str, data: bytes, correlation_id: str | None = None) -> Json:
        """Take one file; the event that was put into the outbox."""
        now = core.format_timestamp(self.clock.now_us())
        raw_id = STORAGE_FAILED

        def failed(code: str, message: str) -> Json:
            event = EssayValidationFailedV1(batch_id, file_name, raw_id, code, message, len(data), now, correlation_id)
            return self._publish(FAILED, asdict(event))

        try:
            raw_id = self.store_content(data, ContentType.RAW_UPLOAD_BLOB)
        except HeadgateError as error:
            return failed("RAW_STORAGE_FAILED", error.kind.value)
        if not file_name.lower().endswith(".txt"):
            return failed("TEXT_EXTRACTION_FAILED", "only .txt files can be read in this version")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            return failed("ENCODING_ERROR", "the file is not UTF-8")
        if code := validate_text(text):
            return failed(code, "the text is empty, too short or too long")
        try:
            text_id = self.store_content(text.encode(), ContentType.EXTRACTED_PLAINTEXT)
        except HeadgateError as error:
            return failed("TEXT_STORAGE_FAILED", error.kind.value)
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        event = EssayContentProvisionedV1(batch_id, file_name, raw_id, text_id, len(data), now, md5, correlation_id)
        return self._publish(PROVISIONED, asdict(event))

    def _publish(self, topic: str, body: Json) -> Json:
        self.store.publish(topic, body["raw_file_storage_id"], body)
        return body
