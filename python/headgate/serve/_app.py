"""The intake as an ASGI application: which request goes where, what it may hold, and how long it may take."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from headgate.errors import HeadgateError
from headgate.idempotency._failures import code_path
from headgate.pipelines.uploads import ContentType, idempotency_key
from headgate.serve._form import Spool, UploadForm
from headgate.serve._problems import (
    MEDIA_TYPE,
    RefusedError,
    bad_request,
    busy,
    disk_full,
    document,
    refusal_of,
    too_large,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from concurrent.futures import Executor

    from headgate.serve._http import IntakeServer

log = logging.getLogger("headgate.serve")
access_log = logging.getLogger("headgate.serve.access")
_ID = re.compile(r"[\x21-\x7e]{1,200}")  # correlation and batch ids: printable, no spaces
_LINGER_S = 2.0  # how long what is left of a refused request is read and dropped, so that its answer arrives
_LINGER_BYTES = 8 << 20
_JSON_BYTES = 64 * 1024
_POST, _GET = ("POST",), ("GET", "HEAD")
_ROUTES = {
    "/v1/content": _POST, "/v1/files/batch": _POST, "/v1/batches": _POST, "/healthz": _GET, "/readyz": _GET,
    "/metrics": _GET,
}  # fmt: skip
_PROBES = frozenset({"/healthz", "/readyz"})  # asked for by machines that have no token

Answer = tuple[HTTPStatus, bytes, str]


class Request:
    """One request: its headers, and its body in pieces, with both deadlines.

    Args:
        scope, receive: ASGI's.
        idle_s: without a byte.
        deadline: of the whole body, on the event loop's clock.
    """

    def __init__(self, scope: Any, receive: Any, idle_s: float, deadline: float) -> None:
        self.method: str = scope["method"]
        self.version: str = scope["http_version"]
        self.path: str = scope["path"]
        self.scheme: str = scope["scheme"]
        self.query: bytes = scope["query_string"]
        self.target_bytes = len(scope["raw_path"]) + len(self.query)
        self._headers: list[tuple[bytes, bytes]] = scope["headers"]
        self._receive = receive
        self._idle_s = idle_s
        self._deadline = deadline
        self.received = 0
        self.is_read = not (self.all(b"content-length") or self.all(b"transfer-encoding"))

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self._headers if key == name]

    def one(self, name: str) -> str | None:
        """A header that may be there once; two are refused, since nobody can say which was meant."""
        values = self.all(name.lower().encode())
        if len(values) > 1:
            message = f"{name}: expected once"
            raise bad_request(message)
        return values[0].decode("latin-1") if values else None

    @property
    def header_bytes(self) -> int:
        return sum(len(name) + len(value) + 4 for name, value in self._headers)

    @property
    def length(self) -> int | None:
        """What Content-Length says; None where the body comes in chunks."""
        values = self.all(b"content-length")
        return int(values[0]) if values else None

    async def body(self, limit: int, message: str) -> AsyncIterator[bytes]:
        """The pieces of the body.

        Raises:
            RefusedError: 408 for a body that stands still or takes too long, 413 above the limit, 400 for a client that
                went away.
        """
        if self.length is not None and self.length > limit:
            raise too_large(message)
        while not self.is_read:
            now = asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout_at(min(now + self._idle_s, self._deadline)):
                    event = await self._receive()
            except TimeoutError:
                refused = "the request did not arrive in time"
                raise RefusedError(HTTPStatus.REQUEST_TIMEOUT, refused) from None
            if event["type"] == "http.disconnect":
                gone = "the request ended early"
                raise bad_request(gone)
            self.received += len(event["body"])
            self.is_read = not event.get("more_body", False)
            if self.received > limit:
                raise too_large(message)
            if event["body"]:
                yield event["body"]

    async def drop_rest(self) -> None:
        """Read on for a moment: an answer is lost on a client whose connection ends while it still sends."""
        if self.is_read or (self.all(b"expect") and not self.received):
            return
        left = _LINGER_BYTES
        try:
            async with asyncio.timeout(_LINGER_S):
                while left > 0 and not self.is_read:
                    event = await self._receive()
                    left -= len(event.get("body", b""))
                    self.is_read = event["type"] == "http.disconnect" or not event.get("more_body", False)
        except TimeoutError:
            return


class IntakeApp:
    """Answers requests for an `IntakeServer`.

    Args:
        server: its service, limits and rules.
        workers: threads for what blocks; the event loop itself never touches a disk or a database.
    """

    def __init__(self, server: IntakeServer, workers: Executor) -> None:
        self._server = server
        self._workers = workers
        self._in_flight = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        limits = self._server.limits
        started = time.monotonic()
        request = Request(scope, receive, limits.idle_s, asyncio.get_running_loop().time() + limits.request_s)
        try:
            answer = await self._serve(request)
            refusal = None
        except RefusedError as error:
            refusal = error
        except HeadgateError as error:
            refusal = refusal_of(error)
            if refusal.status is HTTPStatus.SERVICE_UNAVAILABLE:
                log.warning("intake unavailable", extra={"error": error.kind.value})
        except Exception as error:
            # Its text may hold anything, so neither the answer nor the log quotes it.
            about = {"error": type(error).__name__, "traceback": code_path(error)}
            log.error("request failed", extra=about)
            message = "a bug in headgate; nothing is promised"
            refusal = RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, message)
        headers = refusal.headers if refusal else ()
        if refusal:
            answer = refusal.status, document(refusal.status, str(refusal), refusal.kind), MEDIA_TYPE
        self._note(request, answer[0], started)
        await _send(request, send, *answer, headers)

    def _note(self, request: Request, status: HTTPStatus, started: float) -> None:
        """The access log: no address, no name, no id, no query; a path only if it is one of ours."""
        route = request.path if request.path in _ROUTES else "other"
        about = {
            "method": request.method if request.method in {"GET", "HEAD", "POST"} else "other", "route": route,
            "status": int(status), "bytes": request.received, "duration_ms": int((time.monotonic() - started) * 1000),
        }  # fmt: skip
        access_log.log(logging.DEBUG if route in _PROBES else logging.INFO, "request", extra=about)
        if self._server.metrics is not None:
            self._server.metrics.count("headgate_http_requests_total", route=route, status=str(int(status)))

    async def _serve(self, request: Request) -> Answer:
        server, limits = self._server, self._server.limits
        _check_framing(request)
        if request.version not in {"1.0", "1.1"}:
            message = "expected HTTP/1.1"
            raise RefusedError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, message)
        if request.target_bytes > limits.target_bytes:
            message = f"the request's target is longer than {limits.target_bytes} bytes"
            raise RefusedError(HTTPStatus.REQUEST_URI_TOO_LONG, message)
        if request.header_bytes > limits.header_bytes:
            message = f"the request's headers are longer than {limits.header_bytes} bytes"
            raise RefusedError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, message)
        server.access.check_host(request.all(b"host"), server.host)
        own = f"{request.scheme}://{request.one('Host')}"
        server.access.check_origin(request.all(b"origin"), request.all(b"sec-fetch-site"), own)
        methods = _ROUTES.get(request.path)
        if methods is None or (request.path == "/metrics" and server.metrics is None):
            message = "no such page"
            raise RefusedError(HTTPStatus.NOT_FOUND, message)
        if request.method not in methods:
            message = f"expected {methods[0]}"
            raise RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, message, headers=(("Allow", ", ".join(methods)),))
        if request.path in _PROBES:
            return await self._probe(request.path)
        server.access.check_token(request.all(b"authorization"))
        if request.path == "/metrics":
            assert server.metrics is not None
            return HTTPStatus.OK, server.metrics.render().encode(), "text/plain; version=0.0.4"
        if server.service is None:
            message = "uploads need a sqlite:// store, this one is elsewhere"
            raise RefusedError(HTTPStatus.NOT_IMPLEMENTED, message)
        if not request.all(b"content-length") and not request.all(b"transfer-encoding"):
            message = "expected a Content-Length"
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, message)
        if any(value.strip().lower() != b"identity" for value in request.all(b"content-encoding")):
            message = "Content-Encoding: expected the plain bytes"
            raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, message)
        _check_query(request)
        return await self._take(request)

    async def _take(self, request: Request) -> Answer:
        """Whatever has a body: bounded in number, since each costs memory and disk."""
        if self._in_flight >= self._server.limits.requests:
            message = "too many requests are under way; send it again"
            raise busy(message)
        self._in_flight += 1
        try:
            # A length above the limits is not of interest here: it is answered 413, whatever the disk has.
            expected = min(request.length or 0, self._server.limits.request_bytes)
            if not await self._run(self._server.has_room, expected):
                raise disk_full()
            action = {"/v1/content": self._content, "/v1/files/batch": self._batch}.get(request.path, self._register)
            return await action(request)
        finally:
            self._in_flight -= 1

    async def _content(self, request: Request) -> Answer:
        message = "the file is larger than the limit"
        spool = await self._spooled()
        try:
            async for piece in request.body(self._server.limits.file_bytes, message):
                await self._run(spool.write, piece)
            given = parse_qs(request.query.decode("latin-1"), keep_blank_values=True).get("content_type")
            name = given[0] if given else ContentType.RAW_UPLOAD_BLOB.value
            if name not in set(ContentType) or len(given or "x") > 1:
                known = ", ".join(ContentType)
                raise bad_request(f"content_type: expected one of {known}")

            def store() -> str:
                assert self._server.service is not None
                return self._server.service.store_blob(spool.read(0, spool.size), ContentType(name))

            return _json(HTTPStatus.CREATED, {"storage_id": await self._run(store)})
        finally:
            spool.close()

    async def _batch(self, request: Request) -> Answer:
        limits = self._server.limits
        spool = await self._spooled()
        try:
            form = UploadForm((request.one("Content-Type") or "").encode("latin-1"), limits, spool)
            async for piece in request.body(limits.request_bytes, "the request is larger than the limit"):
                await self._run(form.feed, piece)
            form.end()
            batch_id = form.field("batch_id")
            if _ID.fullmatch(batch_id) is None:
                message = "batch_id: expected 1 to 200 printable characters"
                raise bad_request(message)
            if not form.files:
                message = "files: expected at least one"
                raise bad_request(message)
            correlation_id = self._correlation_id(request)
            given = request.one("Idempotency-Key")
            upload_id = "" if given is None else idempotency_key(given)
            if given is not None and _ID.fullmatch(upload_id) is None:
                message = "Idempotency-Key: expected 1 to 200 printable characters"
                raise bad_request(message)
            expected = _count(form.field("expected_count"))

            def accept() -> Any:
                assert self._server.service is not None
                return self._server.service.accept(
                    batch_id, form.files, correlation_id, upload_id, expected_count=expected, refuse_when_full=True
                )

            # A repetition is answered as the first request was: with that one's correlation id.
            found = await self._run(accept)
        finally:
            spool.close()
        message = f"{found['files']} files accepted"
        answer = {"message": message, "batch_id": batch_id, "correlation_id": found["correlation_id"]}
        return _json(HTTPStatus.ACCEPTED, answer)

    async def _register(self, request: Request) -> Answer:
        pieces = [piece async for piece in request.body(_JSON_BYTES, f"expected at most {_JSON_BYTES} bytes")]
        try:
            given = json.loads(b"".join(pieces), object_pairs_hook=_members)
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict) or given.keys() != {"batch_id", "expected_count"}:
            message = 'expected JSON: {"batch_id": "...", "expected_count": n}'
            raise bad_request(message)
        correlation_id = self._correlation_id(request)
        batch_id, expected = given["batch_id"], given["expected_count"]
        if not isinstance(batch_id, str) or _ID.fullmatch(batch_id) is None:
            message = "batch_id: expected 1 to 200 printable characters"
            raise bad_request(message)
        assert self._server.service is not None
        await self._run(self._server.service.register_batch, batch_id, expected, correlation_id)
        return _json(HTTPStatus.ACCEPTED, {"batch_id": batch_id, "expected_count": expected})

    async def _probe(self, path: str) -> Answer:
        server = self._server
        wrong = await self._run(server.health) if path == "/healthz" else await self._run(server.unready)
        if path == "/readyz" and self._in_flight >= server.limits.requests:
            wrong = [*wrong, "requests"]
        if wrong:
            message = f"not well: {', '.join(wrong)}"
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, message, retry_after_s=1)
        return _json(HTTPStatus.OK, {"status": "ok" if path == "/healthz" else "ready"})

    async def _spooled(self) -> Spool:
        spool: Spool = await self._run(Spool, self._server.incoming, self._server.has_room)
        return spool

    async def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._workers, function, *arguments)

    @staticmethod
    def _correlation_id(request: Request) -> str:
        correlation_id = request.one("X-Correlation-ID") or str(uuid.uuid4())
        if _ID.fullmatch(correlation_id) is None:
            message = "X-Correlation-ID: expected 1 to 200 printable characters"
            raise bad_request(message)
        return correlation_id


def _check_framing(request: Request) -> None:
    """Two readings of where a request ends are how a second one is smuggled past a proxy (RFC 9112, section 6.3)."""
    if request.all(b"content-length") and request.all(b"transfer-encoding"):
        message = "expected Content-Length or Transfer-Encoding, not both"
        raise bad_request(message)


def _check_query(request: Request) -> None:
    """A parameter that means nothing is a slip: what it was to say would be lost."""
    known = {"content_type"} if request.path == "/v1/content" else set()
    if not parse_qs(request.query.decode("latin-1"), keep_blank_values=True).keys() <= known:
        expected = f"at most {', '.join(known)}" if known else "none; fields belong into the body"
        message = f"query: it has a parameter that is not known; expected {expected}"
        raise bad_request(message)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's members; none when a name stands twice, since nobody can say which was meant."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else {}


def _count(text: str) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        message = "expected_count: expected a whole number"
        raise bad_request(message)
    return int(text)


def _json(status: HTTPStatus, body: dict[str, Any]) -> Answer:
    return status, json.dumps(body).encode(), "application/json"


async def _send(
    request: Request, send: Any, status: HTTPStatus, body: bytes, kind: str, headers: tuple[tuple[str, str], ...]
) -> None:
    fields = [("Content-Type", kind), ("Content-Length", str(len(body))), ("X-Content-Type-Options", "nosniff")]
    # What was not read of a request, or was read in two ways, would be taken for the next one.
    must_close = not request.is_read or status is HTTPStatus.BAD_REQUEST
    if must_close:
        fields.append(("Connection", "close"))
    encoded = [(name.encode(), value.encode()) for name, value in (*fields, *headers)]
    await send({"type": "http.response.start", "status": int(status), "headers": encoded})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if must_close and status is not HTTPStatus.REQUEST_TIMEOUT:
        await request.drop_rest()
    await send({"type": "http.response.body", "body": b"", "more_body": False})
