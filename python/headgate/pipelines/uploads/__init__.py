"""Uploads: the raw file is stored before anything reads it (spec 004)."""

from headgate.pipelines.uploads.batches import BatchTracker
from headgate.pipelines.uploads.contracts import (
    BatchEssaysReadyV1,
    BatchEssaysRegisteredV1,
    ContentType,
    ErrorCode,
    EssayContentProvisionedV1,
    EssayUploadFinishedV1,
    EssayValidationFailedV1,
    ExcessContentProvisionedV1,
    envelope,
)
from headgate.pipelines.uploads.extract import ExtractionError, Extractor, extract_text
from headgate.pipelines.uploads.replay import ReplayedUploads, replay_uploads
from headgate.pipelines.uploads.service import (
    ContentServiceClientProtocol,
    ContentStore,
    FileService,
    UploadedFile,
    validate_text,
)

__all__ = [
    "BatchEssaysReadyV1", "BatchEssaysRegisteredV1", "BatchTracker", "ContentServiceClientProtocol", "ContentStore",
    "ContentType", "ErrorCode", "EssayContentProvisionedV1", "EssayUploadFinishedV1", "EssayValidationFailedV1",
    "ExcessContentProvisionedV1", "ExtractionError", "Extractor", "FileService", "ReplayedUploads", "UploadedFile",
    "envelope", "extract_text", "replay_uploads", "validate_text",
]  # fmt: skip
