"""Alerts as HTTP requests to a URL that is itself a secret: chat systems and pagers take them so."""

from __future__ import annotations

import json
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from headgate._native import core
from headgate.errors import ConfigError, Kind, PermanentError, TransientError

if TYPE_CHECKING:
    from headgate.ports import Clock, Json

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_ANSWER_BYTES = 64 * 1024
_POLL_S = 1.0  # between two looks for alerts


class Webhook:
    """Posts JSON documents to one URL.

    TLS is verified, redirects are not followed (the URL may hold a token), and no error quotes the URL or the answer.

    Args:
        url: https://; http:// on loopback only.
        where: how errors name the setting.
        clock: of the deadlines.
        timeout_s: for a whole request.
        ca_file: the authorities; empty: libcurl's own.
        user_agent: as the server sees it.

    Raises:
        ConfigError: the URL is none that is taken.
    """

    def __init__(
        self, url: str, where: str, clock: Clock, *, timeout_s: float = 10.0, ca_file: str = "",
        user_agent: str = "headgate",
    ) -> None:  # fmt: skip
        check_url(url, where)
        self._url = url
        self._timeout_us = int(timeout_s * 1e6)
        self._transport = core.curl_transport(ca_file, user_agent, clock, self._timeout_us, 0, _ANSWER_BYTES)

    def __call__(self, body: Json) -> None:
        """Send one alert.

        Raises:
            TransientError: no answer, or one that says that a later attempt may succeed.
            PermanentError: the server refuses the request.
        """
        headers = [("Content-Type", "application/json"), ("Idempotency-Key", str(body.get("alert_id", "")))]
        # Chat systems show `text`; programs read the fields.
        text = json.dumps({"text": _text(body), **body})
        request = core.HttpRequest(self._url, headers, "POST", text)
        (answer,) = self._transport.perform([request], self._timeout_us)
        if answer["error_kind"]:
            message = f"the webhook gave no answer: {answer['error_kind']}"
            raise TransientError(message, Kind(answer["error_kind"]))
        status = int(answer["status"])
        if status // 100 == 2:
            return
        message = f"the webhook answered {status}"
        if status // 100 == 5 or status in {
            HTTPStatus.REQUEST_TIMEOUT,
            HTTPStatus.TOO_EARLY,
            HTTPStatus.TOO_MANY_REQUESTS,
        }:
            raise TransientError(message)
        raise PermanentError(message)


class WebhookLoop:
    """Runs a worker until it is told to stop, and looks for messages once a second: alerts are rare.

    Args:
        worker: of the consumer whose handler is the webhook.
    """

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._stop = threading.Event()

    def run(self) -> None:
        """Until `stop()`."""
        while not self._stop.is_set():
            self._worker.drain()
            self._stop.wait(_POLL_S)

    def stop(self) -> None:
        """Finish the request that is under way, then return."""
        self._worker.stop()
        self._stop.set()


def check_url(url: str, where: str) -> None:
    """
    Raises:
        ConfigError: the URL is none that alerts are sent to. It is not quoted: it may hold a token.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    is_taken = parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK)
    if not host or not is_taken or port == 0 or not url.isascii() or not url.isprintable() or " " in url:
        message = f"{where}: expected an https:// URL (http:// on this machine only)"
        raise ConfigError(message)


def _text(body: Json) -> str:
    status = body.get("status")
    return f"headgate: {f'{status}: ' if status else ''}{body.get('message', body.get('alert_type', 'alert'))}"
