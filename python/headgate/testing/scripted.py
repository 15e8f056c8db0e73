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
    from collections.abc import Callable

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
