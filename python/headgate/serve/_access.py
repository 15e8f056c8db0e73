"""Who may send requests: where the server listens, which Host and Origin it serves, and the bearer token."""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlsplit

from headgate.errors import ConfigError
from headgate.serve._problems import RefusedError, bad_request

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_TOKEN_MIN = 16  # characters; a shorter one can be guessed over the network


@dataclass(frozen=True)
class IntakeAccess:
    """Who is served.

    Args:
        hosts: names that a request's Host may have, beside loopback's and the one that the server listens at; "*": any.
        origins: web origins (`https://app.example`) whose pages may send requests, beside the server's own.
        token: what `Authorization: Bearer ...` has to say; empty: nothing is asked for.
        tls_cert, tls_key: PEM files; the server speaks TLS then.
        client_ca: a PEM file; only clients with a certificate that it vouches for are served (mutual TLS).
    """

    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    token: str = field(default="", repr=False)
    tls_cert: str = ""
    tls_key: str = ""
    client_ca: str = ""

    def check_listening(self, host: str) -> None:
        """Whether the server may listen there.

        Raises:
            ConfigError: an address that other machines reach, without a token or client certificates; a short token; a
                key without its certificate.
        """
        if bool(self.tls_cert) != bool(self.tls_key):
            message = "serve.tls_cert, serve.tls_key: expected both or neither"
            raise ConfigError(message)
        if self.client_ca and not self.tls_cert:
            message = "serve.client_ca: client certificates need TLS; expected serve.tls_cert and serve.tls_key too"
            raise ConfigError(message)
        if self.token and len(self.token) < _TOKEN_MIN:
            message = f"serve.token_env: expected a token of at least {_TOKEN_MIN} characters"
            raise ConfigError(message)
        if not is_loopback(host) and not self.token and not self.client_ca:
            message = (
                f"serve.host: {host} can be reached from other machines; expected a loopback address, or a token "
                "(serve.token_env), or client certificates (serve.client_ca)"
            )
            raise ConfigError(message)

    def check_host(self, values: list[bytes], listening_at: str) -> None:
        """Refuse a Host that is not ours: a page on another name that resolves to this machine (DNS rebinding).

        Raises:
            RefusedError: 400 without exactly one name, 421 for a foreign one.
        """
        name = _host_name(values[0].decode("latin-1")) if len(values) == 1 else None
        if name is None:
            message = "Host: expected one name, with a port or without"
            raise bad_request(message)
        is_anywhere = not self.hosts and listening_at in {"0.0.0.0", "::"}  # noqa: S104 - compared with, not bound
        ours = {*_LOOPBACK, listening_at.lower(), *(host.lower() for host in self.hosts)}
        if not (is_anywhere or "*" in ours or name in ours):
            message = "Host: this server has another name (serve.allowed_hosts)"
            raise RefusedError(HTTPStatus.MISDIRECTED_REQUEST, message)

    def check_origin(self, origins: list[bytes], sites: list[bytes], own: str) -> None:
        """Refuse what a page of another origin sends: browsers let it, and attach what they know of the user.

        Raises:
            RefusedError: 403.
        """
        if sites == [b"same-origin"]:
            return  # a browser says so, no page can; behind a proxy with TLS `own` is not what the browser sees
        allowed = {own.lower(), *(origin.lower().rstrip("/") for origin in self.origins)}
        foreign = [origin for origin in origins if origin.decode("latin-1").lower() not in allowed]
        # Old browsers send no Origin; what they send instead of it is no page's to forge.
        foreign += [site for site in sites if not origins and site.strip() not in {b"same-origin", b"none"}]
        if foreign:
            message = "Origin: pages of another origin may not send requests (serve.allowed_origins)"
            raise RefusedError(HTTPStatus.FORBIDDEN, message)

    def check_token(self, values: list[bytes]) -> None:
        """Whether the request has the token.

        Raises:
            RefusedError: 401.
        """
        if not self.token:
            return
        given = values[0] if len(values) == 1 else b""
        scheme, _, token = given.partition(b" ")
        is_it = hmac.compare_digest(token.strip(), self.token.encode())
        if scheme.lower() != b"bearer" or not is_it:
            message = "Authorization: expected the server's bearer token"
            raise RefusedError(HTTPStatus.UNAUTHORIZED, message, headers=(("WWW-Authenticate", "Bearer"),))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_name(host: str) -> str | None:
    """The name in a Host header, without its port; None where it is none."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return None
    is_plain = parts.netloc == host and not set(host) & set(" \t@,")
    return parts.hostname if is_plain else None
