"""Uploads: the raw file is stored before anything reads it (spec 004)."""

from headgate.pipelines.uploads._flow import (
    ContentType,
    EssayContentProvisionedV1,
    EssayValidationFailedV1,
    UploadFlow,
    validate_text,
)

__all__ = ["ContentType", "EssayContentProvisionedV1", "EssayValidationFailedV1", "UploadFlow", "validate_text"]
