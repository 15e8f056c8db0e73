"""The event contracts of the essay pipeline: names, fields and topics as its other services expect them."""

from __future__ import annotations

import uuid
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

REGISTERED = "huleedu.batch.essays.registered.v1"
PROVISIONED = "huleedu.file.essay.content.provisioned.v1"
FAILED = "huleedu.file.essay.validation.failed.v1"
FINISHED = "huleedu.file.essay.upload.finished.v1"
READY = "huleedu.els.batch.essays.ready.v1"
EXCESS = "huleedu.els.excess.content.provisioned.v1"
STORAGE_FAILED = "STORAGE_FAILED"  # the contract's sentinel where there is no raw id
SCHEMA_VERSION = 1


class ContentType(StrEnum):
    """What a stored blob is."""

    ORIGINAL_ESSAY = "original_essay"
    CORRECTED_TEXT = "corrected_text"
    PROCESSING_LOG = "processing_log"
    NLP_METRICS_JSON = "nlp_metrics_json"
    STUDENT_FACING_AI_FEEDBACK_TEXT = "student_facing_ai_feedback_text"
    AI_EDITOR_REVISION_TEXT = "ai_editor_revision_text"
    AI_DETAILED_ANALYSIS_JSON = "ai_detailed_analysis_json"
    GRAMMAR_ANALYSIS_JSON = "grammar_analysis_json"
    CJ_RESULTS_JSON = "cj_results_json"
    RAW_UPLOAD_BLOB = "raw_upload_blob"
    EXTRACTED_PLAINTEXT = "extracted_plaintext"


class ErrorCode(StrEnum):
    """Why a file cannot be used."""

    EMPTY_CONTENT = "EMPTY_CONTENT"
    CONTENT_TOO_SHORT = "CONTENT_TOO_SHORT"
    CONTENT_TOO_LONG = "CONTENT_TOO_LONG"
    INVALID_FORMAT = "INVALID_FORMAT"
    ENCODING_ERROR = "ENCODING_ERROR"
    RAW_STORAGE_FAILED = "RAW_STORAGE_FAILED"
    TEXT_STORAGE_FAILED = "TEXT_STORAGE_FAILED"
    TEXT_EXTRACTION_FAILED = "TEXT_EXTRACTION_FAILED"
    UNSUPPORTED_FORMAT = "UNSUPPORTED_FORMAT"
    CORRUPTED_FILE = "CORRUPTED_FILE"
    ENCRYPTED_FILE_UNSUPPORTED = "ENCRYPTED_FILE_UNSUPPORTED"
    TIMEOUT = "TIMEOUT"
    UNKNOWN_VALIDATION_ERROR = "UNKNOWN_VALIDATION_ERROR"


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EssayContentProvisionedV1(_Event):
    """Both ids are there: the raw file and its text."""

    event: Literal["essay.content.provisioned"] = "essay.content.provisioned"
    batch_id: str
    original_file_name: str
    raw_file_storage_id: str
    text_storage_id: str
    file_size_bytes: int = Field(ge=0)
    content_md5_hash: str | None = None
    correlation_id: str | None = None
    timestamp: str


class EssayValidationFailedV1(_Event):
    """The file cannot be used; the raw id says where it is kept."""

    event: Literal["essay.validation.failed"] = "essay.validation.failed"
    batch_id: str
    original_file_name: str
    raw_file_storage_id: str
    validation_error_code: ErrorCode
    validation_error_message: str
    file_size_bytes: int = Field(ge=0)
    correlation_id: str | None = None
    timestamp: str


class EssayUploadFinishedV1(_Event):
    """The last file of one request is stored; several requests of a batch add up.

    `upload_id` says which request it was. It is an addition of ours to the contract and may be left out.
    """

    event: Literal["essay.upload.finished"] = "essay.upload.finished"
    batch_id: str
    upload_id: str | None = None
    expected_count: int = Field(ge=0)
    upload_ts: str
    correlation_id: str | None = None


class BatchEssaysRegisteredV1(_Event):
    """So many essays are to come."""

    event: Literal["batch.essays.registered"] = "batch.essays.registered"
    batch_id: str
    expected_count: int = Field(ge=1)
    correlation_id: str | None = None


class Essay(_Event):
    """A slot of a batch and what fills it."""

    essay_id: str
    text_storage_id: str
    raw_file_storage_id: str
    original_file_name: str


class BatchEssaysReadyV1(_Event):
    """Nothing more is awaited: every expected essay is there, failed, or missing after the time-out."""

    event: Literal["batch.essays.ready"] = "batch.essays.ready"
    batch_id: str
    status: Literal["complete", "timed_out"]
    expected_count: int
    essays: list[Essay]
    failed_count: int
    missing_count: int
    timestamp: str
    correlation_id: str | None = None


class ExcessContentProvisionedV1(_Event):
    """A good file for which the batch has no slot."""

    event: Literal["excess.content.provisioned"] = "excess.content.provisioned"
    batch_id: str
    original_file_name: str
    raw_file_storage_id: str
    text_storage_id: str
    timestamp: str
    correlation_id: str | None = None


def envelope(
    topic: str, data: BaseModel, timestamp: str, source: str = "file-service", event_id: str = ""
) -> dict[str, Any]:
    """The message around an event. Its id is made once, here: the outbox keeps it through every retry.

    Args:
        topic: the event type.
        data: one of the contracts.
        timestamp: ISO 8601, UTC.
        source: the service that says so.
        event_id: where the event has an identity of its own; default a random one.
    """
    return {
        "event_id": event_id or str(uuid.uuid4()), "event_type": topic, "event_timestamp": timestamp,
        "source_service": source, "schema_version": SCHEMA_VERSION,
        "correlation_id": getattr(data, "correlation_id", None), "data": data.model_dump(mode="json"),
    }  # fmt: skip
