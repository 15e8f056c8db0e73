"""The core's HTTP client and failover for Python, sync and async."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import from_kind
from headgate.resilience._calls import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headgate.ports import Clock, Json

_CA_FILES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


def find_ca_file(named: str = "") -> str:
    """The CA bundle of this machine: `named` (SSL_CERT_FILE), a known place, certifi's, or empty for libcurl's own.

    A wheel's libcurl carries the path of the machine that built it, hence the search at run time.
    """
    for path in (named, *_CA_FILES):
        if path and Path(path).exists():
            return path
    if find_spec("certifi") is not None:
        import certifi

        return str(certifi.where())
    return ""


@dataclass(frozen=True)
class Response:
    """A complete answer, whatever its status."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    elapsed_us: int

    def header(self, name: str) -> str | None:
        """The first header of that name, which is lower case."""
        return next((value for key, value in self.headers if key == name), None)


class HttpClient:
    """libcurl with reused connections, HTTP/2, gzip, verified TLS, deadlines on the wire and a size limit.

    Proxy variables (`HTTPS_PROXY`, `NO_PROXY`) count. Safe to share between threads.

    Args:
        timeout_s: for a whole call, unless it says otherwise.
        connect_timeout_s: for the connection alone.
        max_body: bytes; a larger answer is an error of kind malformed_response.
        max_redirects: followed within one origin only, since headers may hold a token.
        max_per_host: connections to one host.
        ca_file: see `find_ca_file`.
        user_agent: as servers see it.
        clock: for the deadlines.
    """

    def __init__(
        self,
        *,
        timeout_s: float = 10.0,
        connect_timeout_s: float = 5.0,
        max_body: int = 32 * 1024 * 1024,
        max_redirects: int = 3,
        max_per_host: int = 8,
        ca_file: str | None = None,
        user_agent: str = "headgate",
        clock: Clock | None = None,
    ) -> None:
        self.timeout_s = timeout_s
        self.transport = core.curl_transport(
            find_ca_file() if ca_file is None else ca_file, user_agent, clock or core.SystemClock(),
            int(connect_timeout_s * 1e6), max_redirects, max_body, max_per_host,
        )  # fmt: skip

    def request_many(
        self, requests: Sequence[Any], *, timeout_s: float | None = None, concurrency: int = 8, cancel: Any = None
    ) -> list[Response | Exception]:
        """All of them under one deadline, in their order; what got no complete answer is its error.

        Args:
            requests: `Request`s.
            timeout_s: for all of them together.
            concurrency: in flight at the same time.
            cancel: a `core.CancelToken`; cancelling it from another thread ends the call within 100 ms.
        """
        seconds = self.timeout_s if timeout_s is None else timeout_s
        return [
            from_kind(a["error_kind"], a["error_message"])
            if a["error_kind"]
            else Response(a["status"], tuple(map(tuple, a["headers"])), a["body"], a["elapsed_us"])
            for a in self.transport.perform(list(requests), int(seconds * 1e6), concurrency, cancel)
        ]

    def request(self, request: Any, *, timeout_s: float | None = None, cancel: Any = None) -> Response:
        """One answer.

        Raises:
            TransientError: kind timeout, connection_failed or malformed_response (too large).
            AccessError: the TLS certificate is not valid for the host.
            InterruptedRunError: cancelled.
        """
        (answer,) = self.request_many([request], timeout_s=timeout_s, cancel=cancel)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def get(self, url: str, headers: Sequence[tuple[str, str]] = (), *, timeout_s: float | None = None) -> Response:
        """A GET; see `request`.

        Example:
            >>> HttpClient().get("https://example.com/").status    # doctest: +SKIP
            200
        """
        return self.request(core.HttpRequest(url, list(headers)), timeout_s=timeout_s)


class AsyncHttpClient:
    """`HttpClient` on an event loop; a cancelled task's call is cut within 100 ms.

    Example:
        >>> response = await AsyncHttpClient().get("https://example.com/")     # doctest: +SKIP
    """

    def __init__(self, **options: Any) -> None:
        self.client = HttpClient(**options)

    async def request_many(
        self, requests: Sequence[Any], *, timeout_s: float | None = None, concurrency: int = 8
    ) -> list[Response | Exception]:
        token = core.CancelToken()
        answers: list[Response | Exception] = await in_thread(
            lambda: self.client.request_many(requests, timeout_s=timeout_s, concurrency=concurrency, cancel=token),
            cancel=token,
        )
        return answers

    async def request(self, request: Any, *, timeout_s: float | None = None) -> Response:
        (answer,) = await self.request_many([request], timeout_s=timeout_s)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def get(
        self, url: str, headers: Sequence[tuple[str, str]] = (), *, timeout_s: float | None = None
    ) -> Response:
        return await self.request(core.HttpRequest(url, list(headers)), timeout_s=timeout_s)


class AsyncFailover:
    """The core's `Failover` on an event loop.

    Args:
        failover: the core's object; its state is shared with sync users of it.
    """

    def __init__(self, failover: Any) -> None:
        self.failover = failover

    async def fetch(self, sources: Sequence[Any], sink: Callable[..., str]) -> Json:
        """As `Failover.fetch`; the sink is called on another thread."""
        token = core.CancelToken()
        fetched: Json = await in_thread(lambda: self.failover.fetch(list(sources), sink, token), cancel=token)
        return fetched
