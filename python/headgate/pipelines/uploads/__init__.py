"""Uploads: the raw file is stored before anything reads it, and every file has an outcome."""

from headgate.pipelines.uploads.batches import BatchTracker
from headgate.pipelines.uploads.content import (
    AsyncContentServiceClientProtocol,
    AsyncContentStore,
    ContentRefusedError,
    ContentServiceClientProtocol,
    ContentStore,
    ContentUnavailableError,
)
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
from headgate.pipelines.uploads.names import clean_file_name, form_file_name
from headgate.pipelines.uploads.outcomes import Worked, validate_text
from headgate.pipelines.uploads.replay import ReplayedUploads, replay_uploads
from headgate.pipelines.uploads.requests import SpooledFile, UploadedFile, idempotency_key
from headgate.pipelines.uploads.service import FileService

__all__ = [
    "AsyncContentServiceClientProtocol", "AsyncContentStore", "BatchEssaysReadyV1", "BatchEssaysRegisteredV1",
    "BatchTracker", "ContentRefusedError", "ContentServiceClientProtocol", "ContentStore", "ContentType",
    "ContentUnavailableError", "ErrorCode", "EssayContentProvisionedV1", "EssayUploadFinishedV1",
    "EssayValidationFailedV1", "ExcessContentProvisionedV1", "ExtractionError", "Extractor", "FileService",
    "ReplayedUploads", "SpooledFile", "UploadedFile", "Worked", "clean_file_name", "envelope", "extract_text",
    "form_file_name", "idempotency_key", "replay_uploads", "validate_text",
]  # fmt: skip
