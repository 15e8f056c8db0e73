"""HTTP intake on Python's own server: `POST /v1/content`, `POST /v1/files/batch`, `GET /healthz`, `GET /metrics`.

For a trusted network or behind a reverse proxy, which brings TLS and authentication.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import uuid
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, urlsplit

from headgate.errors import ConflictError, HeadgateError, InvalidInputError, Kind
from headgate.pipelines.uploads import ContentType, UploadedFile, form_file_name, idempotency_key
from headgate.pipelines.uploads.content import require_sync

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headgate.ops import MemoryMetrics
    from headgate.pipelines.uploads import FileService

log = logging.getLogger("headgate.serve")
_ID = re.compile(r"[\x21-\x7e]{1,200}")  # correlation and batch ids: printable, no spaces
_SOCKET_TIMEOUT_S = 10.0  # without a byte; also how long stopping waits for idle connections
_READ_BLOCK = 1 << 20


@dataclass(frozen=True)
class IntakeLimits:
    """What a request may hold; more is answered 413."""

    file_bytes: int = 10 * 1024 * 1024
    request_bytes: int = 100 * 1024 * 1024
    files: int = 100


class _RefusedError(Exception):
    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class IntakeServer:
    """The HTTP server around a `FileService`.

    A 202 means: every raw file and its job are durable (or its failure is announced). A 503 means that nothing is
    promised; the same request may be sent again, and nothing doubles.

    Args:
        service: takes the files; None: uploads are answered 501, the other pages are there.
        host, port: where to listen; port 0 takes a free one.
        limits: see `IntakeLimits`.
        metrics: shown at /metrics.

    Raises:
        ConfigError: the service's content client is async.
    """

    def __init__(
        self, service: FileService | None, host: str = "127.0.0.1", port: int = 0, *,
        limits: IntakeLimits | None = None, metrics: MemoryMetrics | None = None,
    ) -> None:  # fmt: skip
        if service is not None:
            require_sync(service.content, "IntakeServer", "a sync client")
        self.service = service
        self.limits = limits or IntakeLimits()
        self.metrics = metrics
        self._server = _Server((host, port), _Handler)
        self._server.intake = self
        self._thread = threading.Thread(target=self._server.serve_forever, name="headgate-http", daemon=True)

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def start(self) -> IntakeServer:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Take no new connections, finish the requests that are under way."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> IntakeServer:
        return self.start()

    def __exit__(self, *_: Any) -> None:
        self.stop()


def _parts(data: bytes, boundary: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(header lines, content) of a form's parts (RFC 7578, RFC 2046 section 5.1.1); contents are exact bytes."""
    pieces = (b"\r\n" + data).split(b"\r\n--" + boundary)
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise _RefusedError(HTTPStatus.BAD_REQUEST, "the form ends early, or its boundary is not the one announced")
    for piece in pieces[1:-1]:
        head, found, content = piece.partition(b"\r\n\r\n")
        if not found:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "a part of the form has no end to its headers")
        yield head.strip(b" \t\r\n"), content


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    allow_reuse_address = True
    intake: IntakeServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _SOCKET_TIMEOUT_S
    server_version = "headgate"
    sys_version = ""

    @property
    def intake(self) -> IntakeServer:
        return cast("_Server", self.server).intake

    @property
    def service(self) -> FileService:
        return cast("FileService", self.intake.service)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/healthz":
            self._answer(HTTPStatus.OK, {"status": "ok"})
        elif path == "/metrics" and self.intake.metrics is not None:
            self._send(HTTPStatus.OK, self.intake.metrics.render().encode(), "text/plain; version=0.0.4")
        elif path in {"/v1/content", "/v1/files/batch"}:
            self._answer(HTTPStatus.METHOD_NOT_ALLOWED, {"error": "expected POST"})
        else:
            self._answer(HTTPStatus.NOT_FOUND, {"error": "no such page"})

    def do_POST(self) -> None:
        parts = urlsplit(self.path)
        actions = {"/v1/content": self._content, "/v1/files/batch": self._batch}
        try:
            action = actions.get(parts.path)
            if action is None:
                raise _RefusedError(HTTPStatus.NOT_FOUND, "no such page")
            if self.intake.service is None:
                raise _RefusedError(HTTPStatus.NOT_IMPLEMENTED, "uploads need a sqlite:// store, this one is elsewhere")
            action(self._body(), parse_qs(parts.query))
        except _RefusedError as refusal:
            # What was not read of the request would be taken for the next one.
            self.close_connection = True
            self._answer(refusal.status, {"error": str(refusal)})
        except InvalidInputError as error:
            self._answer(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        except ConflictError as error:
            is_other = error.kind is Kind.PAYLOAD_MISMATCH
            status = HTTPStatus.UNPROCESSABLE_ENTITY if is_other else HTTPStatus.CONFLICT
            self._answer(status, {"error": str(error), "kind": error.kind})
        except HeadgateError as error:
            log.warning("intake unavailable", extra={"error": error.kind.value})
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, {"error": "not stored; send it again", "kind": error.kind})

    def _content(self, data: bytes, query: dict[str, list[str]]) -> None:
        if len(data) > self.intake.limits.file_bytes:
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the file is larger than the limit")
        name = query.get("content_type", [ContentType.RAW_UPLOAD_BLOB.value])[0]
        if name not in set(ContentType):
            known = ", ".join(ContentType)
            raise _RefusedError(HTTPStatus.BAD_REQUEST, f"content_type: expected one of {known}")
        storage_id = self.service.store_blob(data, ContentType(name))
        self._answer(HTTPStatus.CREATED, {"storage_id": storage_id})

    def _batch(self, data: bytes, query: dict[str, list[str]]) -> None:
        batch_id, files = self._form(data)
        correlation_id = self.headers.get("X-Correlation-ID") or str(uuid.uuid4())
        if _ID.fullmatch(correlation_id) is None:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "X-Correlation-ID: expected 1 to 200 printable characters")
        given = self.headers.get("Idempotency-Key")
        upload_id = "" if given is None else idempotency_key(given)
        if given is not None and _ID.fullmatch(upload_id) is None:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "Idempotency-Key: expected 1 to 200 printable characters")
        # A repetition is answered as the first request was: with that one's correlation id.
        found = self.service.accept(batch_id, files, correlation_id, upload_id)
        message = f"{found['files']} files accepted"
        answer = {"message": message, "batch_id": batch_id, "correlation_id": found["correlation_id"]}
        self._answer(HTTPStatus.ACCEPTED, answer)

    def _form(self, data: bytes) -> tuple[str, list[UploadedFile]]:
        kind = Message()
        kind["Content-Type"] = self.headers.get("Content-Type", "")
        boundary = kind.get_param("boundary")
        if kind.get_content_type() != "multipart/form-data" or not isinstance(boundary, str) or not boundary:
            raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected multipart/form-data with a boundary")
        batch_id, files = "", []
        for head, payload in _parts(data, boundary.encode("latin-1", "replace")):
            about = BytesParser(policy=HTTP).parsebytes(head + b"\r\n\r\n", headersonly=True)
            file_name = form_file_name(head)
            if file_name is not None:
                files.append(UploadedFile(file_name, payload))
            elif about.get_param("name", header="content-disposition") == "batch_id":
                batch_id = payload.decode("utf-8", "replace").strip()
        limits = self.intake.limits
        if _ID.fullmatch(batch_id) is None:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "batch_id: expected 1 to 200 printable characters")
        if not files:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "files: expected at least one")
        if len(files) > limits.files or any(len(f.data) > limits.file_bytes for f in files):
            message = f"expected at most {limits.files} files of at most {limits.file_bytes} bytes"
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
        return batch_id, files

    def _body(self) -> bytes:
        text = self.headers.get("Content-Length", "")
        if not text.isdecimal():
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
        size = int(text)
        if size > self.intake.limits.request_bytes:
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request is larger than the limit")
        blocks, left = [], size
        while left > 0:
            block = self.rfile.read(min(left, _READ_BLOCK))
            if not block:
                raise _RefusedError(HTTPStatus.BAD_REQUEST, "the request ended early")
            blocks.append(block)
            left -= len(block)
        return b"".join(blocks)

    def _answer(self, status: HTTPStatus, body: dict[str, Any]) -> None:
        self._send(status, json.dumps(body).encode(), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        log.debug("http", extra={"status": args[1] if len(args) > 1 else ""})
