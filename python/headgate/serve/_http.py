"""HTTP intake: `POST /v1/content`, `/v1/files/batch`, `/v1/batches`, `GET /healthz`, `/readyz`, `/metrics`.

Uvicorn with h11 reads HTTP, python-multipart reads forms; what is ours is which request is served (decision 0016).
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headgate.errors import ConfigError, Kind, needed
from headgate.pipelines.uploads.content import require_sync
from headgate.serve._access import IntakeAccess

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headgate.ops import MemoryMetrics
    from headgate.pipelines.uploads import FileService

log = logging.getLogger("headgate.serve")
_BACKLOG = 256
_KEEP_ALIVE_S = 5
_GIVE_UP_S = 5.0  # after the drain deadline: for cancelled requests to end


@dataclass(frozen=True)
class IntakeLimits:
    """What a request may hold and how long it may take; more is refused while it is read.

    Args:
        file_bytes, request_bytes, files: larger is answered 413.
        header_bytes, target_bytes: larger is answered 431 and 414.
        requests: bodies that are read or stored at once; more are answered 503 with Retry-After.
        connections: that are open at once; more are answered 503 with Retry-After.
        idle_s: a request that sends nothing for so long is answered 408; its head has as long in all.
        request_s: for a whole body.
        drain_s: how long stopping waits for requests that are under way.
        min_free_bytes: less on a watched disk is answered 503 before anything is read.
    """

    file_bytes: int = 10 * 1024 * 1024
    request_bytes: int = 100 * 1024 * 1024
    files: int = 100
    header_bytes: int = 16 * 1024
    target_bytes: int = 4096
    requests: int = 32
    connections: int = 256
    idle_s: float = 10.0
    request_s: float = 300.0
    drain_s: float = 20.0
    min_free_bytes: int = 0


class IntakeServer:
    """The HTTP server around a `FileService`.

    A 202 means: every raw file and its job are durable (or its failure is announced). A 503 means that nothing is
    promised; the same request may be sent again, and nothing doubles.

    Args:
        service: takes the files; None: uploads are answered 501, the other pages are there.
        host, port: where to listen; port 0 takes a free one.
        limits: see `IntakeLimits`.
        access: see `IntakeAccess`. By default only this machine is served, without a token.
        metrics: shown at /metrics.
        incoming: the folder on whose disk files wait until they are stored; None: the system's for temporary files.
        watched: folders whose disks must have `limits.min_free_bytes`.
        health: what is wrong with the process, in words; asked for at /healthz.
        unready: why no uploads can be taken just now; asked for at /readyz.

    Raises:
        ConfigError: the service's content client is async; the address can be reached from other machines and neither a
            token nor client certificates are asked for; a certificate cannot be read; kind not_built: uvicorn, h11 or
            python-multipart is missing; kind address_in_use.
    """

    def __init__(
        self, service: FileService | None, host: str = "127.0.0.1", port: int = 0, *,
        limits: IntakeLimits | None = None, access: IntakeAccess | None = None, metrics: MemoryMetrics | None = None,
        incoming: str | None = None, watched: Sequence[str] = (), health: Callable[[], list[str]] = list,
        unready: Callable[[], list[str]] = list,
    ) -> None:  # fmt: skip
        if service is not None:
            require_sync(service.content, "IntakeServer", "a sync client")
        self.service = service
        self.host = host
        self.limits = limits or IntakeLimits()
        self.access = access or IntakeAccess()
        self.metrics = metrics
        self.incoming = incoming
        self.health = health
        self._watched = [folder for folder in (*watched, incoming) if folder]
        self._unready = unready
        self._is_stopping = False
        self.access.check_listening(host)
        # More threads would only wait for each other: each holds one file in memory, and the store has one writer.
        self._workers = ThreadPoolExecutor(8, thread_name_prefix="headgate-intake")
        self._server = self._make_server()
        self._socket = _listen(host, port)
        self._thread = threading.Thread(target=self._run, name="headgate-http", daemon=True)

    def _make_server(self) -> Any:
        with needed("headgate serve needs uvicorn, h11 and python-multipart", "headgate"):
            import uvicorn

            from headgate.serve._app import IntakeApp
            from headgate.serve._protocol import protocol_class
        # It quotes what it cannot parse, and a process without handlers of its own would print that.
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
        access = self.access
        config = uvicorn.Config(
            IntakeApp(self, self._workers), http=protocol_class(self.limits), loop="asyncio", lifespan="off", ws="none",
            log_config=None, access_log=False, proxy_headers=False, server_header=False,
            h11_max_incomplete_event_size=self.limits.header_bytes, timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(self.limits.drain_s)), backlog=_BACKLOG,
            ssl_certfile=access.tls_cert or None, ssl_keyfile=access.tls_key or None,
            ssl_ca_certs=access.client_ca or None,
            ssl_cert_reqs=ssl.CERT_REQUIRED if access.client_ca else ssl.CERT_NONE,
        )  # fmt: skip
        try:
            config.load()
        except (OSError, ssl.SSLError) as error:
            message = f"serve.tls_cert, serve.tls_key, serve.client_ca: cannot be used ({type(error).__name__})"
            raise ConfigError(message) from None
        return uvicorn.Server(config)

    @property
    def url(self) -> str:
        host, port = self._socket.getsockname()[:2]
        name = f"[{host}]" if ":" in host else host
        return f"{'https' if self.access.tls_cert else 'http'}://{name}:{port}"

    def has_room(self, size: int) -> bool:
        """Whether every watched disk stays above the low watermark with so many bytes more."""
        needed_bytes = self.limits.min_free_bytes + size
        return all(shutil.disk_usage(folder).free >= needed_bytes for folder in self._watched)

    def unready(self) -> list[str]:
        """Why no uploads can be taken just now; empty: they can."""
        why = self._unready()
        if self._is_stopping:
            why = [*why, "stopping"]
        if self._watched and not self.has_room(0):
            why = [*why, "disk"]
        return why

    def change(self, limits: IntakeLimits, access: IntakeAccess) -> None:
        """New rules for the requests that come from now on, and certificates read anew. The address stays.

        Raises:
            ConfigError: the rules do not allow the address; TLS is switched on or off; a certificate cannot be read.
        """
        access.check_listening(self.host)
        if (bool(access.tls_cert), access.client_ca) != (bool(self.access.tls_cert), self.access.client_ca):
            message = "serve.tls_cert, serve.client_ca: TLS and clients' certificates change with a restart only"
            raise ConfigError(message)
        if access.tls_cert:
            try:
                self._server.config.ssl.load_cert_chain(access.tls_cert, access.tls_key)
            except (OSError, ssl.SSLError) as error:
                message = f"serve.tls_cert, serve.tls_key: cannot be used ({type(error).__name__})"
                raise ConfigError(message) from None
        self.limits, self.access = limits, access
        self._server.config.http_protocol_class.limits = limits

    def start(self) -> IntakeServer:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Take no new connections, finish the requests that are under way; after `drain_s` they are cut."""
        self._is_stopping = True
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(self.limits.drain_s + _GIVE_UP_S)
        self._socket.close()
        self._workers.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> IntakeServer:
        return self.start()

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        asyncio.get_running_loop().set_exception_handler(_note_trouble)
        await self._server.serve(sockets=[self._socket])
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # for the transports to close


def _note_trouble(_: asyncio.AbstractEventLoop, about: dict[str, Any]) -> None:
    """What asyncio has to say of a connection (a failed handshake, a reset) may quote it; its kind may not."""
    log.debug("connection failed", extra={"error": type(about.get("exception")).__name__})


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]  # fmt: skip
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        message = f"serve.host: {host} is no address of this machine ({error.strerror})"
        raise ConfigError(message) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        message = f"serve: cannot listen at {host}:{port}: {(error.strerror or 'refused').lower()}"
        raise ConfigError(message, Kind.ADDRESS_IN_USE) from None
    return listener
