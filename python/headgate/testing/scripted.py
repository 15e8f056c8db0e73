"""A TCP server that does to every connection what a test tells it: hang, drip, break off, answer anything.

Example:
    >>> from headgate.resilience import HttpClient
    >>> with Scripted(say(b"200 OK", b"[]")) as server:
    ...     HttpClient().get(server.url).body
    b'[]'
"""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Act = Callable[[Any, threading.Event], None]  # (connection after the request was read, "the test is over")

# status, more header lines, length of the body
HEAD = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n"


class Scripted:
    """Reads a request, then does to the connection what it is told.

    Args:
        act: called with the connection and an event that is set at the end.
        context: an `ssl.SSLContext` for TLS.
    """

    def __init__(self, act: Act, context: Any = None) -> None:
        self.act, self.context = act, context
        self.over = threading.Event()
        self.requests = 0
        self.socket = socket.create_server(("127.0.0.1", 0))

    def __enter__(self) -> Scripted:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.socket.close()

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    @property
    def url(self) -> str:
        return f"{'https' if self.context else 'http'}://127.0.0.1:{self.port}"

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(peer,), daemon=True).start()

    def _talk(self, peer: Any) -> None:
        try:
            with peer if self.context is None else self.context.wrap_socket(peer, server_side=True) as stream:
                if stream.recv(65536):
                    self.requests += 1
                    self.act(stream, self.over)
        except OSError:
            pass  # the client cut the call


def say(status: bytes, body: bytes = b"[]", headers: bytes = b"") -> Act:
    """Answer so; `headers` are whole lines."""
    return lambda peer, over: peer.sendall(HEAD % (status, headers, len(body)) + body)


def hang(*before: bytes) -> Act:
    """Send these, then nothing until the end."""

    def act(peer: Any, over: threading.Event) -> None:
        for part in before:
            peer.sendall(part)
        over.wait(60)

    return act


class RawServer:
    """Answers each request of a kept connection with raw bytes, and remembers the heads that it has read.

    Args:
        handler: called with the connection, the request's head and its number, from 1; it sends the answer, and may
            return "close".

    Example:
        >>> with RawServer(lambda peer, head, number: peer.sendall(response(b"[]"))) as server:
        ...     server.url.startswith("http://127.0.0.1:")
        True
    """

    def __init__(self, handler: Callable[[Any, bytes, int], object]) -> None:
        self._handler = handler
        self.seen: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> RawServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: Any) -> None:
        with peer:
            try:
                while head := _read_head(peer):
                    self.seen.append(head)
                    if self._handler(peer, head, len(self.seen)) == "close":
                        return
            except OSError:
                return


def _read_head(peer: Any) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        more = peer.recv(65536)
        if not more:
            return b""
        head += more
    return head


def response(
    body: bytes = b"[]", status: str = "200 OK", headers: Sequence[tuple[str, str]] = (), *, length: bool = True
) -> bytes:
    """An answer as bytes; `length` adds the Content-Length."""
    lines = [f"HTTP/1.1 {status}", *(f"{k}: {v}" for k, v in headers)]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def path_of(head: bytes) -> str:
    """The path and query of a request's head."""
    return head.split(b" ", 2)[1].decode("latin-1")
