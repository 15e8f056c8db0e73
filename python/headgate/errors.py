"""What can go wrong, grouped by what a caller would do about it.

    HeadgateError
    |-- TransientError        try again later: timeout, connection_failed, http_status, busy, unavailable, ...
    |   `-- AllSourcesFailedError
    |-- PermanentError        trying again changes nothing
    |   |-- InvalidInputError     (also a ValueError) the argument, the document, the record
    |   |-- NotFoundError         (also a KeyError)
    |   |-- AccessError           (also a PermissionError)
    |   |-- StorageFullError      (also an OSError) disk_full
    |   |-- IntegrityError        stored bytes fail their checks, or counts do not add up
    |   |-- ConfigError           the configuration, a backend URL, a missing build
    |   |-- ForkedError           a handle was in use before fork(): open a new one in the child
    |   `-- StageFailedError      a workflow stage, after its retries
    |-- ConflictError         somebody else was first: re-read, then decide
    |   |-- StaleLeaseError       the claim's owner was overtaken
    |   `-- DuplicateError        it is there already
    |-- CheckpointError       a checkpoint cannot be read or written; what is raised is two of these:
    |   |-- CheckpointAccessError       (also an AccessError)
    |   |-- CheckpointIntegrityError    (also an IntegrityError)
    |   |-- CheckpointUnavailableError  (also a TransientError)
    |   `-- CheckpointConflictError     (also a ConflictError)
    |-- InterruptedRunError   a stop request; nothing half-done remains
    `-- InternalError         a bug in headgate

Every error has `kind`, one of the stable codes in `Kind` (append-only, shared with the C++ core).
"""

from __future__ import annotations

from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING

from headgate._native import core

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Kind(StrEnum):
    """Stable machine-readable codes, in the order of the core's `ErrorCode`."""

    INTERNAL = "internal"
    INVALID_INPUT = "invalid_input"
    INVALID_JSON = "invalid_json"
    DUPLICATE_KEY = "duplicate_key"
    NESTING_TOO_DEEP = "nesting_too_deep"
    NUMBER_OUT_OF_RANGE = "number_out_of_range"
    INVALID_UNICODE = "invalid_unicode"
    INVALID_RECORD = "invalid_record"
    INVALID_SCHEMA = "invalid_schema"
    STALE_LEASE = "stale_lease"
    PAYLOAD_MISMATCH = "payload_mismatch"
    NOT_FOUND = "not_found"
    ALREADY_EXISTS = "already_exists"
    VERSION_CONFLICT = "version_conflict"
    PERMISSION_DENIED = "permission_denied"
    DISK_FULL = "disk_full"
    IO_ERROR = "io_error"
    TIMEOUT = "timeout"
    CONNECTION_FAILED = "connection_failed"
    HTTP_STATUS = "http_status"
    MALFORMED_RESPONSE = "malformed_response"
    CIRCUIT_OPEN = "circuit_open"
    ALL_SOURCES_FAILED = "all_sources_failed"
    BUSY = "busy"
    CORRUPT_DATA = "corrupt_data"
    UNSUPPORTED_VERSION = "unsupported_version"
    UNSUPPORTED_SCHEME = "unsupported_scheme"
    UNSUPPORTED_STORAGE = "unsupported_storage"
    CONFIG = "config"
    INTERRUPTED = "interrupted"
    FORKED = "forked"
    UNAVAILABLE = "unavailable"
    ADDRESS_IN_USE = "address_in_use"
    NOT_BUILT = "not_built"
    STAGE_FAILED = "stage_failed"
    COUNTS_DIFFER = "counts_differ"
    FAULT_INJECTED = "fault_injected"
    BACKEND_FULL = "backend_full"
    READ_ONLY = "read_only"
    MESSAGE_TOO_LARGE = "message_too_large"


class HeadgateError(Exception):
    """The root. `kind` is the stable code; `str()` is one sentence without secrets or personal ids.

    `retry_after_s` is how long to wait before another try, where that is known: guards and failovers wait at least so
    long, and do not try again when it is infinite.
    """

    default_kind = Kind.INTERNAL
    retry_after_s: float | None = None

    def __init__(self, message: str, kind: Kind | str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.kind = Kind(kind) if kind is not None else self.default_kind

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[type[HeadgateError], tuple[str, str], dict[str, object]]:
        return type(self), (self.message, self.kind.value), self.__dict__


class TransientError(HeadgateError):
    """Try again later."""

    default_kind = Kind.UNAVAILABLE


class AllSourcesFailedError(TransientError):
    """No source of a failover gave a usable answer."""

    default_kind = Kind.ALL_SOURCES_FAILED


class PermanentError(HeadgateError):
    """Trying again changes nothing."""

    default_kind = Kind.INVALID_INPUT


class InvalidInputError(PermanentError, ValueError):
    """An argument, document or record is not what was expected."""


class NotFoundError(PermanentError, KeyError):
    """There is no such object, row or file."""

    default_kind = Kind.NOT_FOUND


class AccessError(PermanentError, PermissionError):
    """The system refused access."""

    default_kind = Kind.PERMISSION_DENIED


class StorageFullError(PermanentError, OSError):
    """No space is left where headgate writes."""

    default_kind = Kind.DISK_FULL


class IntegrityError(PermanentError):
    """Stored bytes fail their own checks, or a run's counts do not add up."""

    default_kind = Kind.CORRUPT_DATA


class CheckpointError(HeadgateError):
    """A checkpoint cannot be read or written; it stays as it is, and is never taken for a first run.

    What is raised is also an AccessError, IntegrityError, TransientError or ConflictError, whichever says why. `unread`
    names the files of a source, if the reason is that not one of them could be read.
    """

    unread: Sequence[object] = ()


class CheckpointAccessError(CheckpointError, AccessError):
    """Access to a checkpoint was refused."""

    default_kind = Kind.PERMISSION_DENIED


class CheckpointIntegrityError(CheckpointError, IntegrityError):
    """A checkpoint is damaged, or not one of headgate's."""

    default_kind = Kind.CORRUPT_DATA


class CheckpointUnavailableError(CheckpointError, TransientError):
    """A checkpoint cannot be reached now."""

    default_kind = Kind.UNAVAILABLE


class ConfigError(PermanentError):
    """The configuration, a backend URL or the installation is wrong."""

    default_kind = Kind.CONFIG


class ForkedError(PermanentError):
    """A connection was in use before fork() and cannot go on in the child; the message says what to do."""

    default_kind = Kind.FORKED


class StageFailedError(PermanentError):
    """A workflow stage failed after its retries."""

    default_kind = Kind.STAGE_FAILED


class ConflictError(HeadgateError):
    """Somebody else was first."""

    default_kind = Kind.VERSION_CONFLICT


class CheckpointConflictError(CheckpointError, ConflictError):
    """A checkpoint was replaced by another writer."""

    default_kind = Kind.VERSION_CONFLICT


class StaleLeaseError(ConflictError):
    """The lease was overtaken: another owner holds the key, or it is done."""

    default_kind = Kind.STALE_LEASE


class DuplicateError(ConflictError):
    """A conditional create found something there."""

    default_kind = Kind.ALREADY_EXISTS


class InterruptedRunError(HeadgateError):
    """A stop request ended the call; nothing half-done remains."""

    default_kind = Kind.INTERRUPTED


class InternalError(HeadgateError):
    """A bug in headgate; please report it."""


_CLASSES: dict[Kind, type[HeadgateError]] = {
    Kind.INTERNAL: InternalError,
    Kind.STALE_LEASE: StaleLeaseError,
    Kind.PAYLOAD_MISMATCH: ConflictError,
    Kind.NOT_FOUND: NotFoundError,
    Kind.ALREADY_EXISTS: DuplicateError,
    Kind.VERSION_CONFLICT: ConflictError,
    Kind.PERMISSION_DENIED: AccessError,
    Kind.DISK_FULL: StorageFullError,
    Kind.IO_ERROR: TransientError,
    Kind.TIMEOUT: TransientError,
    Kind.CONNECTION_FAILED: TransientError,
    Kind.HTTP_STATUS: TransientError,
    Kind.MALFORMED_RESPONSE: TransientError,
    Kind.CIRCUIT_OPEN: TransientError,
    Kind.ALL_SOURCES_FAILED: AllSourcesFailedError,
    Kind.BUSY: TransientError,
    Kind.CORRUPT_DATA: IntegrityError,
    Kind.UNSUPPORTED_VERSION: IntegrityError,
    Kind.COUNTS_DIFFER: IntegrityError,
    Kind.UNSUPPORTED_SCHEME: ConfigError,
    Kind.UNSUPPORTED_STORAGE: ConfigError,
    Kind.CONFIG: ConfigError,
    Kind.NOT_BUILT: ConfigError,
    Kind.ADDRESS_IN_USE: ConfigError,
    Kind.INTERRUPTED: InterruptedRunError,
    Kind.FORKED: ForkedError,
    Kind.UNAVAILABLE: TransientError,
    Kind.STAGE_FAILED: StageFailedError,
    Kind.FAULT_INJECTED: TransientError,
    Kind.BACKEND_FULL: TransientError,
    Kind.READ_ONLY: TransientError,
}


def from_kind(kind: str, message: str) -> HeadgateError:
    """The exception for a kind, as the core raises it.

    Example:
        >>> type(from_kind("stale_lease", "overtaken")).__name__
        'StaleLeaseError'
    """
    known = Kind(kind)
    return _CLASSES.get(known, InvalidInputError)(message, known)


_OF_CHECKPOINTS: dict[type[HeadgateError], type[CheckpointError]] = {
    AccessError: CheckpointAccessError,
    IntegrityError: CheckpointIntegrityError,
    TransientError: CheckpointUnavailableError,
    ConflictError: CheckpointConflictError,
}


@contextmanager
def about_checkpoint() -> Iterator[None]:
    """What fails inside is a CheckpointError too."""
    try:
        yield
    except CheckpointError:
        raise
    except tuple(_OF_CHECKPOINTS) as error:
        of = next(of for kind, of in _OF_CHECKPOINTS.items() if isinstance(error, kind))
        raise of(error.message, error.kind) from error


@contextmanager
def needed(sentence: str, install: str) -> Iterator[None]:
    """Import an optional package inside; where it is missing, one sentence says how to get it.

    Args:
        sentence: who needs what.
        install: what pip takes.

    Raises:
        ConfigError: kind not_built.

    Example:
        >>> with needed("sums need abacus", "headgate[none]"):
        ...     import no_such_abacus
        Traceback (most recent call last):
        headgate.errors.ConfigError: sums need abacus: pip install 'headgate[none]'
    """
    try:
        yield
    except ImportError:
        message = f"{sentence}: pip install '{install}'"
        raise ConfigError(message, Kind.NOT_BUILT) from None


core.set_error_factory(from_kind)
