"""Requests and their identity: which files of which batch belong to an Idempotency-Key, and what was answered.

What is remembered of a request is one document of the store's state, written in the commit of its jobs. Two requests at
once, in one process or in several, therefore have one outcome, and a process that dies leaves either all or nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, overload

from headgate.errors import ConflictError, InvalidInputError, Kind
from headgate.identity import event_id
from headgate.pipelines.uploads.names import clean_file_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headgate.ports import Json

REQUESTS = "uploads.request."  # state documents: requests that were accepted, for their repetitions
_MAX_COUNT = 1_000_000  # essays of a batch
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"\s*(?:;.*)?')
_MAX_ID = 200  # characters of a batch id, correlation id or Idempotency-Key


@dataclass(frozen=True)
class UploadedFile:
    """One file of a request.

    Args:
        name: as the client called it; it is cleaned when the file is accepted (`clean_file_name`).
        data: its bytes. A file without name and bytes is no file: browsers send such a field where none was chosen.
    """

    name: str
    data: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def read(self) -> bytes:
        return self.data


@dataclass(frozen=True)
class SpooledFile:
    """A file whose bytes wait on disk, so that a request costs the memory of one of its files at a time.

    Args:
        name: as of `UploadedFile`.
        size_bytes: how many bytes there are.
        sha256: of the bytes, in hexadecimal digits.
        read: gives all of them, each time it is called.
    """

    name: str
    size_bytes: int
    sha256: str
    read: Callable[[], bytes]


Upload = UploadedFile | SpooledFile


@dataclass(frozen=True)
class UploadRequest:
    """A request that was checked, with its identity.

    Attributes:
        batch_id: the batch that its files belong to.
        files: with clean names.
        digest: of batch, names, contents and their order: what an Idempotency-Key belongs to.
        upload_id: the client's Idempotency-Key, or else the digest.
        has_key: whether the client named one.
    """

    batch_id: str
    files: tuple[Upload, ...]
    digest: str
    upload_id: str
    has_key: bool

    @classmethod
    def of(cls, batch_id: str, files: Sequence[Upload], upload_id: str = "") -> UploadRequest:
        """Check a request.

        Raises:
            InvalidInputError: an id or a name is not text, or there is no file.
        """
        check_id("batch_id", batch_id)
        if upload_id:
            check_id("Idempotency-Key", upload_id)
        if not isinstance(files, Iterable) or isinstance(files, str | bytes | dict):
            message = f"files: expected a sequence of UploadedFile, got {type(files).__name__}"
            raise InvalidInputError(message, Kind.INVALID_RECORD)
        given = tuple(clean_file(file) for file in files)
        given = tuple(file for file in given if file.name or file.size_bytes)
        if not given:
            message = "files: expected at least one"
            raise InvalidInputError(message, Kind.INVALID_RECORD)
        digest = content_digest(batch_id, given)
        return cls(batch_id, given, digest, upload_id or digest, bool(upload_id))

    @property
    def state_name(self) -> str:
        """Under which name the request is remembered. The key itself is kept nowhere."""
        origin = "key" if self.has_key else "content"
        return REQUESTS + hashlib.sha256(f"{origin}:{self.upload_id}".encode()).hexdigest()

    @property
    def job_id(self) -> str:
        """What the jobs and events of this request are known by.

        It holds the digest: another request under the same key, once the first is forgotten, has jobs of its own.
        """
        return event_id({"upload_id": self.upload_id, "digest": self.digest}) if self.has_key else self.digest

    def check_against(self, digest: str) -> None:
        """Whether this is the request that the key belongs to.

        Raises:
            ConflictError: kind payload_mismatch; it is not.
        """
        if digest != self.digest:
            message = (
                "Idempotency-Key: this key belongs to another request; expected the same batch and the same files "
                "with the same names in the same order, or a new key"
            )
            raise ConflictError(message, Kind.PAYLOAD_MISMATCH)


def content_digest(batch_id: str, files: Sequence[Upload]) -> str:
    """The identity of these files in this order, with their names, in this batch."""
    contents = [[file.name, file.sha256] for file in files]
    return event_id({"batch_id": batch_id, "files": contents})


def registered_name(batch_id: str) -> str:
    """Under which name is remembered how many essays a batch was registered with."""
    return REQUESTS + hashlib.sha256(f"registered:{batch_id}".encode()).hexdigest()


def received_name(batch_id: str, file: UploadedFile) -> str:
    """Under which name the event of a file that was received at once is remembered."""
    digest = content_digest(batch_id, [file])
    return REQUESTS + hashlib.sha256(f"received:{digest}".encode()).hexdigest()


def idempotency_key(header: str) -> str:
    """The key in an Idempotency-Key header: a quoted string, as the IETF draft has it, or bare text.

    Parameters behind a quoted string (RFC 8941) are no part of it.

    Example:
        >>> idempotency_key('"8e03978e"') == idempotency_key("8e03978e")
        True
    """
    text = header.strip()
    quoted = _QUOTED.fullmatch(text)
    return text if quoted is None else re.sub(r'\\(["\\])', r"\1", quoted[1])


@overload
def clean_file(file: UploadedFile) -> UploadedFile: ...


@overload
def clean_file(file: Upload) -> Upload: ...


def clean_file(file: Upload) -> Upload:
    """The file with a clean name.

    Raises:
        InvalidInputError: its name is not text, or its content not bytes.
    """
    if isinstance(file, SpooledFile):
        return replace(file, name=clean_file_name(file.name))
    given: Any = file
    if not isinstance(given, UploadedFile):
        message = f"files: expected an UploadedFile, got {type(given).__name__}"
        raise InvalidInputError(message, Kind.INVALID_RECORD)
    data: Any = file.data
    if not isinstance(data, bytes):
        message = f"files: expected a file's content as bytes, got {type(data).__name__}"
        raise InvalidInputError(message, Kind.INVALID_RECORD)
    return UploadedFile(clean_file_name(file.name), data)


def check_id(name: str, value: Any) -> None:
    """Whether a batch id, correlation id or key may go into events and logs.

    Raises:
        InvalidInputError: not text of 1 to 200 printable characters; the sentence names the field, never the value.
    """
    if not isinstance(value, str):
        message = f"{name}: expected text, got {type(value).__name__}"
        raise InvalidInputError(message, Kind.INVALID_RECORD)
    if not 0 < len(value) <= _MAX_ID or not value.isprintable():
        message = f"{name}: expected 1 to {_MAX_ID} printable characters"
        raise InvalidInputError(message, Kind.INVALID_RECORD)


def check_count(value: Any) -> None:
    """Whether this is how many essays a batch may have.

    Raises:
        InvalidInputError: not a whole number from 1 to a million.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_COUNT:
        message = f"expected_count: expected a whole number from 1 to {_MAX_COUNT}"
        raise InvalidInputError(message, Kind.INVALID_RECORD)


def new_document(request: UploadRequest, correlation_id: str | None, now_us: int) -> Json:
    """What is remembered of a request: `lost` maps the index of a file that could not be stored to its event's id."""
    return {
        "format": 1, "batch_id": request.batch_id, "digest": request.digest, "files": len(request.files),
        "correlation_id": correlation_id, "at_us": now_us, "lost": {},
    }  # fmt: skip


def answer_of(request: UploadRequest, document: Json) -> Json:
    """What `FileService.accept` returns, of a first request and of each repetition."""
    lost = len(document["lost"])
    return {
        "upload_id": request.upload_id, "files": document["files"], "stored": document["files"] - lost, "failed": lost,
        "correlation_id": document["correlation_id"],
    }  # fmt: skip
