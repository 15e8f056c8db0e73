"""Uvicorn's h11 protocol with what it leaves to a proxy: deadlines, a bound on connections, problem documents."""

from __future__ import annotations

import logging
import sys
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from headgate.serve._problems import MEDIA_TYPE, document

if TYPE_CHECKING:
    import asyncio

    from headgate.serve._http import IntakeLimits

_FLUSH_S = 5.0  # a connection that is to end, and whose client reads nothing, is cut after so long
_silent = logging.getLogger("headgate.serve.connections")  # what uvicorn says of a connection may quote the request
_silent.addHandler(logging.NullHandler())
_silent.propagate = False
_silent.setLevel(logging.CRITICAL)
_SENTENCES = {
    HTTPStatus.BAD_REQUEST: "the request is not HTTP as RFC 9112 has it",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "the request's headers are longer than the limit",
    HTTPStatus.NOT_IMPLEMENTED: "Transfer-Encoding: expected chunked, once",
    HTTPStatus.REQUEST_TIMEOUT: "the request did not arrive in time",
    HTTPStatus.SERVICE_UNAVAILABLE: "too many connections are open; send it again",
}


def protocol_class(limits: IntakeLimits) -> type[asyncio.Protocol]:
    """The protocol of a server with these limits."""
    return type("IntakeProtocol", (_IntakeProtocol,), {"limits": limits})


class _IntakeProtocol(H11Protocol):
    limits: IntakeLimits

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.logger = _silent
        self.access_log = False  # it names addresses and paths; ours does not
        self._head_timer: asyncio.TimerHandle | None = None
        self._has_begun = False
        self._is_half_closed = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._arm()
        if len(self.connections) > self.limits.connections:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._has_begun = True
        super().data_received(data)
        if self._is_answering():
            self._disarm()
        elif self._head_timer is None:
            self._arm()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client sends no more, but may still read: the base class would close without an answer."""
        if not self._is_answering() or self.scheme == "https":
            return None
        self._is_half_closed = True
        if self.cycle.more_body:
            self.conn.receive_data(b"")
            self.handle_events()  # h11 finds that the body ended early, which is answered
        return True

    def on_response_complete(self) -> None:
        self._has_begun = False
        super().on_response_complete()
        if self._is_half_closed and not self._is_answering():
            self.transport.close()
        if self.transport.is_closing():
            self._cut_later()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._cut_later()

    def send_400_response(self, msg: str) -> None:
        """Answers what h11 cannot read: the base class calls this in its handler of h11's error."""
        error = sys.exc_info()[1]
        hint = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        self._refuse(HTTPStatus(hint))

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer without a request, and end the connection."""
        body = document(status, _SENTENCES.get(status, status.phrase))
        headers = [
            (b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]  # fmt: skip
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            headers.append((b"retry-after", b"1"))
        try:
            for event in (
                h11.Response(status_code=int(status), headers=headers, reason=status.phrase.encode()),
                h11.Data(data=body), h11.EndOfMessage(),
            ):  # fmt: skip
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:
            pass  # an answer is under way already; nothing can be said any more
        self.transport.close()
        self._cut_later()

    # --- deadlines

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _arm(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.idle_s, self._head_is_late)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._is_answering() or self.transport.is_closing():
            return
        if self._has_begun and self.conn.our_state is h11.IDLE:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.transport.close()
            self._cut_later()

    def _cut_later(self) -> None:
        self.loop.call_later(_FLUSH_S, self.transport.abort)
