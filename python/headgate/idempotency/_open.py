"""Opens the ledger that a URL names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from headgate._native import core
from headgate.errors import ConfigError, Kind
from headgate.idempotency._checks import done_ttl_s
from headgate.idempotency._ledger import DAY_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from urllib.parse import SplitResult

    from headgate.idempotency._ledger import Ledger
    from headgate.ports import Metrics

# How long done keys are remembered by default. Redis keeps them in memory, so their time is shorter there.
_MOST_DATABASE_DIGITS = 10
_DEFAULT_TTL_S = {
    "redis": DAY_S, "rediss": DAY_S, "redis+cluster": DAY_S, "rediss+cluster": DAY_S,
    "sqlite": 14 * DAY_S, "memory": 14 * DAY_S, "dynamodb": 14 * DAY_S,
}  # fmt: skip
_KNOWN = "sqlite:///file, redis://host:port/db, rediss://host:port/db, redis+cluster://host:port, dynamodb://table, memory://"
PREFIX = "headgate:v1:"


def open_ledger(
    cls: type[Ledger], url: str, done_ttl: float | None, clock: Any, random: Any, metrics: Metrics | None
) -> Ledger:
    """The ledger that a URL names; see `Ledger.open`."""
    parts = _split(url)
    if parts.scheme not in _DEFAULT_TTL_S:
        message = f"ledger URL: unknown scheme {parts.scheme!r}; expected one of {_KNOWN}"
        raise ConfigError(message, Kind.UNSUPPORTED_SCHEME)
    ttl = done_ttl_s(done_ttl if done_ttl is not None else _DEFAULT_TTL_S[parts.scheme])
    ttl_us = int(ttl * 1e6)
    if parts.scheme == "memory":
        options = _options(parts, {"fence": _yes})
        native = core.memory_ledger(ttl_us, clock, random, options.get("fence", False))
        return cls(native, clock, done_ttl=ttl, metrics=metrics)
    if parts.scheme == "sqlite":
        from headgate.backends.local import LocalDatabase

        options = _options(parts, {"fence": _yes})
        database = LocalDatabase(sqlite_path(url.partition("?")[0]))
        return cls.on_database(
            database, done_ttl=ttl, clock=clock, random=random, metrics=metrics, fence=options.get("fence", False)
        )
    if parts.scheme == "dynamodb":
        from headgate.backends.dynamodb import DynamoLedger

        options = _options(parts, {"region": str, "endpoint": str, "profile": str, "fence": _yes, "legacy_keys": _yes})
        fence, legacy = options.pop("fence", False), options.pop("legacy_keys", False)
        table = DynamoLedger.open(_host(parts), options, ttl, clock, random, fence=fence)
        ledger = cls(table, clock, done_ttl=ttl, metrics=metrics, legacy_keys=legacy)
        ledger.store_identity = _address(parts, *sorted(options.items()))
        return ledger
    if parts.scheme.endswith("+cluster"):
        from headgate.backends.redispy import RedisPyClient

        plain, mine = _without(url.replace("+cluster", "", 1), {"fence", "legacy_keys"})
        options = {name: _checked(name, text, _yes) for name, text in mine.items()}
        client = RedisPyClient.cluster(plain)
        ledger = cls.on_redis(client, done_ttl=ttl, clock=clock, random=random, metrics=metrics, **options)
        ledger.store_identity = _address(parts)
        return ledger
    options = _options(
        parts,
        {
            "ssl_ca_certs": str, "ssl_cert_reqs": _verify, "pool_size": _count, "timeout": _seconds,
            "reconnect": _seconds, "fence": _yes, "legacy_keys": _yes,
        },
    )  # fmt: skip
    native = core.redis_ledger(
        parts.hostname or "127.0.0.1", parts.port or 6379, unquote(parts.username or ""), unquote(parts.password or ""),
        _database(parts), PREFIX, parts.scheme == "rediss", options.get("ssl_cert_reqs", True),
        options.get("ssl_ca_certs", ""), options.get("pool_size", 8), int(options.get("timeout", 5.0) * 1e6),
        int(options.get("reconnect", 1.0) * 1e6), ttl_us, clock, random, options.get("fence", False),
    )  # fmt: skip
    ledger = cls(native, clock, done_ttl=ttl, metrics=metrics, legacy_keys=options.get("legacy_keys", False))
    ledger.store_identity = _address(parts, _database(parts))
    return ledger


def sqlite_path(url: str) -> str:
    """The file of a ``sqlite:///relative`` or ``sqlite:////absolute`` URL.

    Raises:
        ConfigError: there is none.
    """
    path = unquote(url[len("sqlite://") :]).removeprefix("/") if url[:9].lower() == "sqlite://" else ""
    if not path:
        message = f"{url!r}: expected sqlite:///relative/file or sqlite:////absolute/file"
        raise ConfigError(message)
    return path


def _address(parts: SplitResult, *more: Any) -> str:
    """What tells one store from others; without the credentials of its URL."""
    if parts.scheme == "dynamodb":
        return f"dynamodb:{parts.netloc}:{more}"
    return f"{parts.scheme.replace('rediss', 'redis')}:{parts.hostname or '127.0.0.1'}:{parts.port or 6379}:{more}"


def _options(parts: SplitResult, known: dict[str, Callable[[str], Any]]) -> dict[str, Any]:
    found = {}
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known:
            shown = repr(name) if re.fullmatch(r"[a-z_]{1,30}", name) and "@" not in parts.query else "in the URL"
            message = f"ledger URL: unknown option {shown}; expected one of {', '.join(sorted(known))}"
            raise ConfigError(message)
        found[name] = _checked(name, text, known[name])
    return found


def _checked(name: str, text: str, convert: Callable[[str], Any]) -> Any:
    try:
        return convert(text)
    except ValueError:
        message = f"ledger URL: option {name} has a value that it does not take"
        raise ConfigError(message) from None


def _split(url: str) -> SplitResult:
    """The parts of a URL. Nothing of one that cannot be read is quoted: a password may stand anywhere in it.

    Raises:
        ConfigError: it cannot be read.
    """
    given: Any = url
    if not isinstance(given, str):
        message = f"ledger URL: expected text such as sqlite:///file, got a {type(given).__name__}"
        raise ConfigError(message)
    try:
        parts = urlsplit(url)
        _ = parts.port, parts.hostname
    except ValueError:
        message = (
            "ledger URL: cannot be read; expected redis://user:password@host:port/db, with each of @ / : ? # of a "
            "password percent-encoded"
        )
        raise ConfigError(message) from None
    return parts


def _without(url: str, names: set[str]) -> tuple[str, dict[str, str]]:
    """The URL without some of its options, and those: the others are redis-py's."""
    parts = urlsplit(url)
    found = parse_qsl(parts.query, keep_blank_values=True)
    kept = urlencode([(name, text) for name, text in found if name not in names])
    return urlunsplit(parts._replace(query=kept)), {name: text for name, text in found if name in names}


def _seconds(text: str) -> float:
    if not 0 <= float(text) <= 86_400:
        raise ValueError
    return float(text)


def _yes(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError
    return text == "true"


def _verify(text: str) -> bool:
    if text not in {"required", "none"}:
        raise ValueError
    return text == "required"


def _count(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def _database(parts: SplitResult) -> int:
    text = parts.path.strip("/")
    if text and not (text.isascii() and text.isdecimal() and len(text) < _MOST_DATABASE_DIGITS):
        message = "ledger URL: expected a database number after the slash"
        raise ConfigError(message)
    return int(text or 0)


def _host(parts: SplitResult) -> str:
    if not parts.netloc:
        message = f"ledger URL: {parts.scheme}:// needs a name, as in {parts.scheme}://table"
        raise ConfigError(message)
    return unquote(parts.netloc)
