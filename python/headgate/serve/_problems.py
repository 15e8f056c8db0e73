"""What a request is refused with: a status, one sentence, and the problem document around it (RFC 9457)."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from headgate.errors import ConflictError, HeadgateError, InvalidInputError, Kind, StorageFullError

MEDIA_TYPE = "application/problem+json"
_BUSY_S = 1  # what Retry-After says: a request slot or the database's write lock is free again soon
_FULL_S = 30  # and a full disk is not


class RefusedError(Exception):
    """The request is not served.

    Args:
        status: the answer's.
        message: one sentence: what was wrong and what was expected. It never quotes the request.
        kind: a stable code beside it.
        retry_after_s: when to send it again; 0: the answer does not say.
        headers: of the answer.
    """

    def __init__(
        self, status: HTTPStatus, message: str, kind: str = "", *, retry_after_s: int = 0,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status = status
        self.kind = kind
        retry = (("Retry-After", str(retry_after_s)),) if retry_after_s else ()
        self.headers = (*headers, *retry)


def busy(message: str) -> RefusedError:
    """Too much is under way; the same request may be sent again at once."""
    return RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, message, Kind.BUSY.value, retry_after_s=_BUSY_S)


def disk_full() -> RefusedError:
    """There is no room for the request; nothing is promised."""
    message = "the disk is nearly full; nothing of the request is kept, send it again later"
    return RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, message, Kind.DISK_FULL.value, retry_after_s=_FULL_S)


def too_large(message: str) -> RefusedError:
    return RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)


def bad_request(message: str) -> RefusedError:
    return RefusedError(HTTPStatus.BAD_REQUEST, message)


def refusal_of(error: HeadgateError) -> RefusedError:
    """How an error of the file service is answered."""
    if isinstance(error, InvalidInputError):
        return bad_request(str(error))
    if isinstance(error, ConflictError):
        is_other = error.kind is Kind.PAYLOAD_MISMATCH
        status = HTTPStatus.UNPROCESSABLE_ENTITY if is_other else HTTPStatus.CONFLICT
        return RefusedError(status, str(error), error.kind.value)
    if isinstance(error, StorageFullError) or error.kind is Kind.DISK_FULL:
        return disk_full()
    message = "not stored; send it again"
    return RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, message, error.kind.value, retry_after_s=_BUSY_S)


def document(status: HTTPStatus, message: str, kind: str = "") -> bytes:
    """The body of a refusal. `error` is the sentence too, for clients of before there were problem documents."""
    problem: dict[str, Any] = {
        "type": "about:blank", "title": status.phrase, "status": int(status), "detail": message, "error": message,
    }  # fmt: skip
    if kind:
        problem["kind"] = kind
    return json.dumps(problem).encode()
