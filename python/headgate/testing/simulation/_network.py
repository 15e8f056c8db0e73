"""The simulated network: requests that never arrive, answers that are lost, late, cut, wrong, or in another order."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from headgate._native import core
from headgate.errors import HeadgateError, Kind, TransientError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

_SLOWEST_US = 20_000_000
_KEYS_PER_PAGE = 10  # small, so that listings go on
_REFUSED = {"error_kind": "connection_failed", "error_message": "simulated: no connection"}
_LATE = {"error_kind": "timeout", "error_message": "simulated: no answer in time"}
_CUT = {"error_kind": "connection_failed", "error_message": "simulated: the connection broke"}


@dataclass(frozen=True)
class Request:
    """What a simulated server sees."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Response:
    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {"status": self.status, "body": self.body, "headers": list(self.headers)}


class SimNetwork:
    """Carries requests to simulated servers and answers back, as its seed decides.

    Args:
        rng: decides what happens to every request.
        clock: slow answers advance it.
        disk: knows which processes live; a process that stops at a request stops there too.
        meanwhile: called while an answer is on its way; other processes may act.
    """

    def __init__(self, rng: random.Random, clock: Any, disk: Any, meanwhile: Callable[[str], None]) -> None:
        self.calm = False
        self.requests = 0
        self.lost = 0  # arrived, and the answer did not come back
        self._rng = rng
        self._clock = clock
        self._disk = disk
        self._meanwhile = meanwhile
        self._servers: dict[str, Callable[[Request], Response]] = {}
        self._left: dict[str, int] = {}  # owner -> requests until it stops

    def add(self, host: str, server: Callable[[Request], Response]) -> None:
        """Requests to `host` are answered by `server`."""
        self._servers[host] = server

    def stop_after(self, owner: str, requests: int) -> None:
        """The owner's n-th request from now is not sent, nor is any later one."""
        self._left[owner] = requests

    def revive(self, owner: str) -> None:
        self._left.pop(owner, None)

    def transport(self, owner: str) -> Any:
        """`owner`'s HTTP transport, as the core takes it."""
        return lambda requests, timeout_us: self._perform(owner, requests, timeout_us)

    def reach(self, owner: str, call: Callable[[], Any]) -> Any:
        """A remote call that is not HTTP: it may not arrive, and its answer may be lost.

        Raises:
            TransientError: either; the caller cannot tell which.
        """
        self._count(owner)
        fate = "ok" if self.calm else self._rng.choice(("ok", "ok", "ok", "ok", "ok", "refused", "lost"))
        if fate == "refused":
            raise TransientError(_REFUSED["error_message"])
        answer = call()
        self._pass_on(owner)
        if fate == "lost":
            self.lost += 1
            raise TransientError(_LATE["error_message"], Kind.TIMEOUT)
        return answer

    def _perform(
        self, owner: str, requests: Sequence[tuple[str, str, list[tuple[str, str]], bytes]], timeout_us: int
    ) -> list[tuple[int, dict[str, Any]]]:
        order = list(range(len(requests)))
        if not self.calm:
            self._rng.shuffle(order)
        answers = [(index, self._one(owner, *requests[index], timeout_us)) for index in order]
        if not self.calm:
            self._rng.shuffle(answers)
        return answers

    def _one(
        self, owner: str, method: str, url: str, headers: list[tuple[str, str]], body: bytes, timeout_us: int
    ) -> dict[str, Any]:
        self._count(owner)
        parts = urlsplit(url)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        request = Request(method, unquote(parts.path), query, {k.lower(): v for k, v in headers}, body)
        server = self._servers[parts.netloc]
        if self.calm:
            return server(request).to_dict()
        fate = self._rng.random()
        if fate < 0.08:
            return dict(_REFUSED)
        if fate < 0.14:
            return Response(self._rng.choice((500, 503, 429)), b"busy").to_dict()
        if fate < 0.16:
            return Response(200, b"<html>sign in</html>").to_dict() if isinstance(server, SimFeed) else dict(_REFUSED)
        answer = server(request)
        self._pass_on(owner)
        took = self._rng.randrange(0, _SLOWEST_US) if fate < 0.30 else self._rng.randrange(0, 50_000)
        self._clock.advance_us(min(took, timeout_us))
        if took >= timeout_us or 0.30 <= fate < 0.36:
            self.lost += 1
            return dict(_LATE if took >= timeout_us else _CUT)
        return answer.to_dict()

    def _pass_on(self, owner: str) -> None:
        if not self.calm and self._rng.random() < 0.15:
            self._meanwhile(owner)

    def _count(self, owner: str) -> None:
        self.requests += 1
        if owner in self._left:
            self._left[owner] -= 1
            if self._left[owner] <= 0:
                self._disk.kill(owner)
        if self._disk.stopped(owner):
            message = "the simulated process has stopped"
            raise HeadgateError(message, Kind.IO_ERROR)


class SimFeed:
    """A news source: what was published so far, in pages of `page` records.

    Args:
        items: the world's records; it grows.
    """

    def __init__(self, items: list[Any], page: int = 3) -> None:
        self._items = items
        self._page = page

    def __call__(self, request: Request) -> Response:
        at = int(request.query.get("offset", "0"))
        return Response(200, json.dumps(self._items[at : at + self._page]).encode())


class SimAdapter:
    """How a collector reads a `SimFeed`."""

    timeout_s = 10.0

    def __init__(self, name: str) -> None:
        self.name = name

    def requests(self, query: Any) -> list[Any]:
        return [self._page(0)]

    def next_pages(self, query: Any, requests: list[Any], bodies: list[bytes]) -> list[Any]:
        """The page that follows; an empty one is the last."""
        if not json.loads(bodies[-1]):
            return []
        at = int(parse_qs(urlsplit(requests[-1].url).query)["offset"][0])
        return [self._page(at + len(json.loads(bodies[-1])))]

    def _page(self, offset: int) -> Any:
        return core.HttpRequest(f"http://{self.name}/news?offset={offset}", [])


class SimBucket:
    """What the checkpoint needs of S3: objects, ranges, listings in pages, conditional writes.

    Args:
        name: of the bucket, the first part of every path.
        clock: stamps objects.
    """

    def __init__(self, name: str, clock: Any) -> None:
        self.objects: dict[str, bytes] = {}
        self._root = f"/{name}"
        self._clock = clock
        self._stamps: dict[str, int] = {}

    def put(self, key: str, data: bytes) -> None:
        self.objects[key] = data
        self._stamps[key] = self._clock.now_us()

    def __call__(self, request: Request) -> Response:
        key = request.path.removeprefix(self._root).lstrip("/")
        if not key:
            return self._list(request.query)
        there = self.objects.get(key)
        if request.method == "PUT":
            return self._put(key, there, request)
        if request.method == "DELETE":
            self.objects.pop(key, None)
            return Response(204)
        if there is None:
            return Response(404, b"<Error><Code>NoSuchKey</Code></Error>")
        wanted = request.headers.get("if-match")
        if wanted is not None and wanted != _etag(there):
            return Response(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        begin, end = _range(request.headers.get("range"), len(there))
        headers = (("etag", _etag(there)), ("content-range", f"bytes {begin}-{end - 1}/{len(there)}"))
        return Response(206 if "range" in request.headers else 200, there[begin:end], headers)

    def _put(self, key: str, there: bytes | None, request: Request) -> Response:
        if request.headers.get("if-none-match") == "*" and there is not None:
            return Response(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        wanted = request.headers.get("if-match")
        if wanted is not None and there is None:
            return Response(404, b"<Error><Code>NoSuchKey</Code></Error>")
        if wanted is not None and there is not None and wanted != _etag(there):
            return Response(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        self.put(key, request.body)
        return Response(200, b"", (("etag", _etag(request.body)),))

    def _list(self, query: dict[str, str]) -> Response:
        after = query.get("continuation-token") or query.get("start-after", "")
        keys = sorted(k for k in self.objects if k.startswith(query.get("prefix", "")) and k > after)
        page, rest = keys[:_KEYS_PER_PAGE], keys[_KEYS_PER_PAGE:]
        contents = "".join(
            f"<Contents><Key>{escape(k)}</Key><LastModified>{core.format_timestamp(self._stamps[k])}</LastModified>"
            f"<ETag>{escape(_etag(self.objects[k]))}</ETag></Contents>"
            for k in page
        )
        more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if rest else ""
        truncated = "true" if rest else "false"
        text = f"<ListBucketResult><IsTruncated>{truncated}</IsTruncated>{more}{contents}</ListBucketResult>"
        return Response(200, text.encode())


def _etag(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()[:32]}"'


def _range(text: str | None, size: int) -> tuple[int, int]:
    if text is None:
        return 0, size
    first, _, last = text.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1)
