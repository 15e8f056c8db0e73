"""A TCP proxy that misbehaves when told: cuts, delays, answers that never arrive.

Example:
    >>> with FaultProxy(redis.port) as proxy:           # doctest: +SKIP
    ...     ledger = Ledger.open(f"redis://127.0.0.1:{proxy.port}/0")
    ...     proxy.lose_answers()                         # the server does the work, the client never hears of it
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any

_BLOCK = 64 * 1024


class FaultProxy:
    """Forwards a port of loopback to another, one thread a direction.

    Args:
        target: the real server's port.
        port: where to listen; 0 takes a free one.
    """

    def __init__(self, target: int, port: int = 0) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", port), reuse_port=False)
        self.port = int(self._listener.getsockname()[1])
        self.connections = 0  # accepted so far
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._closed = False
        self._refusing = False
        self._delay_s = 0.0
        self._lose = 0
        self._thread = threading.Thread(target=self._accept, name="headgate-proxy", daemon=True)

    def start(self) -> FaultProxy:
        self._thread.start()
        return self

    def cut(self) -> None:
        """Close every connection that is open now."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                _close(end)

    def refuse(self, refusing: bool = True) -> None:
        """Close new connections at once (and cut the open ones), or accept again."""
        self._refusing = refusing
        if refusing:
            self.cut()

    def slow(self, delay_s: float) -> None:
        """Hold every block back for so many seconds, both ways; 0 is fast again."""
        self._delay_s = delay_s

    def lose_answers(self, count: int = 1) -> None:
        """Swallow the next `count` answers and cut their connections: the work is done, and nobody hears of it."""
        self._lose = count

    def close(self) -> None:
        self._closed = True
        _close(self._listener)
        self.cut()

    def __enter__(self) -> FaultProxy:
        return self.start()

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self._refusing:
                _close(client)
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.target), timeout=5)
            except OSError:
                _close(client)
                continue
            server.settimeout(None)
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = (client, server)
            with self._lock:
                self._pairs.append(pair)
            for source, sink, answers in ((client, server, False), (server, client, True)):
                threading.Thread(
                    target=self._pump, args=(source, sink, answers, pair), name="headgate-proxy-pump", daemon=True
                ).start()

    def _pump(
        self, source: socket.socket, sink: socket.socket, answers: bool, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(_BLOCK):
                if self._delay_s:
                    time.sleep(self._delay_s)
                if answers and self._take_loss():
                    break
                sink.sendall(block)
        with self._lock, contextlib.suppress(ValueError):
            self._pairs.remove(pair)
        for end in pair:
            _close(end)

    def _take_loss(self) -> bool:
        with self._lock:
            if self._lose == 0:
                return False
            self._lose -= 1
            return True


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
