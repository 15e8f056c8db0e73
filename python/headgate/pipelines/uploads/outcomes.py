"""What becomes of a file: its outcome, how outcomes differ, and the words for them in events, metrics and logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headgate.pipelines.uploads.contracts import (
    FAILED,
    PROVISIONED,
    ErrorCode,
    EssayContentProvisionedV1,
    EssayValidationFailedV1,
)

if TYPE_CHECKING:
    from headgate.ports import Json

MIN_LENGTH, MAX_LENGTH = 50, 50_000  # characters after trimming; `[uploads]` sets others
_EXTRACTION_CODES = (ErrorCode.TEXT_EXTRACTION_FAILED, ErrorCode.ENCODING_ERROR)
_PROCESSING_CODES = (ErrorCode.TEXT_STORAGE_FAILED, ErrorCode.UNKNOWN_VALIDATION_ERROR)


@dataclass(frozen=True)
class Worked:
    """A job and what came of it.

    Attributes:
        job: the file's job.
        event: its outcome.
        cause: of a failure: the extractor's or validator's own code, as the metric counts it. The event's code is the
            contract's, which has one code for most of the extractor's.
    """

    job: Json
    event: EssayContentProvisionedV1 | EssayValidationFailedV1
    cause: ErrorCode | None = None


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


def outcome_topic(event: EssayContentProvisionedV1 | EssayValidationFailedV1) -> str:
    """Where an outcome is announced."""
    return PROVISIONED if isinstance(event, EssayContentProvisionedV1) else FAILED


def outcome_of(event: EssayContentProvisionedV1 | EssayValidationFailedV1) -> Json:
    """What makes one outcome of a file differ from another: the text, or why there is none."""
    if isinstance(event, EssayContentProvisionedV1):
        return {"outcome": "provisioned", "text_storage_id": event.text_storage_id}
    return {"outcome": "failed", "code": event.validation_error_code.value}


def known_outcome(known: Json) -> Json:
    """The outcome in a file's state document, as `outcome_of` gives it."""
    return {key: known[key] for key in ("outcome", "text_storage_id", "code") if key in known}


def replacement_of(known: Json) -> Json:
    """What the next event of a file says of the one before, out of the file's state document."""
    return {
        **known_outcome(known), "event_id": known["event_id"], "first": known.get("first", known["event_id"]),
        "revision": known.get("revision", 0) + 1,
    }  # fmt: skip


def status_word(event: EssayContentProvisionedV1 | EssayValidationFailedV1) -> str:
    """The word for an outcome in the log, as dashboards of the essay pipeline filter it."""
    if isinstance(event, EssayContentProvisionedV1):
        return "processing_success"
    code = event.validation_error_code
    if code is ErrorCode.RAW_STORAGE_FAILED:
        return "raw_storage_failed"
    if code in _PROCESSING_CODES:
        return "processing_error"
    return "extraction_failed" if code in _EXTRACTION_CODES else "content_validation_failed"
