"""The ledger, as users see it."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

from headgate._native import core
from headgate.errors import ConfigError, HeadgateError, InvalidInputError, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from headgate.ports import Clock, Transaction

Status = Literal["acquired", "done", "in_progress"]
_DAY_S = 86_400.0
# spec 004, decision 4: done keys live 24 h on Redis, 14 days on SQLite.
_DEFAULT_TTL_S = {"sqlite": 14 * _DAY_S, "memory": 14 * _DAY_S, "redis": _DAY_S}


@dataclass(slots=True)
class Claim:
    """The answer to a claim.

    Attributes:
        key: what was claimed.
        status: "acquired" (run it, then complete), "done" (`result` is what was stored), "in_progress" (somebody
            else holds it until `until`: not a duplicate, come back).
        result: the stored result of a done key.
        token: proves ownership of an acquired key.
        until: end of the lease, seconds since the epoch.
        attempts: how often the key was acquired, this time included.
        last_error: what the last release said.
    """

    key: str
    status: Status
    result: Any = None
    token: str = ""
    until: float = 0.0
    attempts: int = 0
    last_error: str = ""
    native: Any = field(default=None, repr=False, compare=False)
    ledger: Ledger | None = field(default=None, repr=False, compare=False)

    @contextmanager
    def transaction(self, result: Any = None) -> Iterator[Transaction]:
        """Effect and completion in one commit (SQLite ledgers): write on `tx`; leaving the block completes the claim.

        Raises:
            StaleLeaseError: the lease was overtaken; nothing of the block is kept.
            InvalidInputError: the ledger's backend has no transactions to share.
        """
        if self.ledger is None or self.ledger.database is None:
            message = "transaction() needs a ledger and items in one SQLite file"
            raise InvalidInputError(message)
        with self.ledger.database.transaction() as tx:
            yield tx
            self.ledger.complete(self, result)


class Ledger:
    """Who may run an effect, and what came of it.

    Example:
        >>> ledger = Ledger.open("memory://")
        >>> claim = ledger.claim("order-1")
        >>> claim.status
        'acquired'
        >>> ledger.complete(claim, {"charged": 5})
        >>> ledger.claim("order-1").result
        {'charged': 5}
    """

    def __init__(self, native: Any, clock: Clock, database: Any = None) -> None:
        self.native = native
        self.clock = clock
        self.database = database
        self._lock: AbstractContextManager[Any] = database.lock if database is not None else nullcontext()

    @classmethod
    def open(cls, url: str, *, done_ttl: float | None = None, clock: Any = None, random: Any = None) -> Ledger:
        """Open by URL: ``sqlite:///file``, ``redis://[user:password@]host:port/db`` or ``memory://``.

        Args:
            url: where the keys live.
            done_ttl: seconds a done key is remembered; default 14 days (Redis: 24 hours). It must be longer than the
                topic can redeliver.
            clock, random: injected in tests.

        Raises:
            ConfigError: an unknown scheme, or a URL that lacks its parts.
        """
        parts = urlsplit(url)
        clock = clock or core.SystemClock()
        random = random or core.SystemRandom()
        ttl_us = int((done_ttl if done_ttl is not None else _DEFAULT_TTL_S.get(parts.scheme, _DAY_S)) * 1e6)
        if parts.scheme == "memory":
            return cls(core.memory_ledger(ttl_us, clock, random), clock)
        if parts.scheme == "sqlite":
            from headgate.backends.local import LocalDatabase

            return cls.on_database(LocalDatabase(sqlite_path(url)), done_ttl=ttl_us / 1e6, clock=clock, random=random)
        if parts.scheme == "redis":
            native = core.redis_ledger(
                parts.hostname or "127.0.0.1", parts.port or 6379, unquote(parts.username or ""),
                unquote(parts.password or ""), int(parts.path.strip("/") or 0), "headgate:v1:", ttl_us, clock, random,
            )  # fmt: skip
            return cls(native, clock)
        known = "sqlite:///file, redis://host:port/db, memory://"
        message = f"ledger URL: unknown scheme {parts.scheme!r}; expected one of {known}"
        raise ConfigError(message, Kind.UNSUPPORTED_SCHEME)

    @classmethod
    def on_database(
        cls, database: Any, *, done_ttl: float = 14 * _DAY_S, clock: Any = None, random: Any = None
    ) -> Ledger:
        """A ledger in a SQLite file that is open already, so that its completions can share transactions."""
        clock = clock or core.SystemClock()
        native = core.sqlite_ledger(database.native, int(done_ttl * 1e6), clock, random or core.SystemRandom())
        return cls(native, clock, database)

    def claim(self, key: str, lease: float = 300.0, *, payload: str = "") -> Claim:
        """Ask to run an effect.

        Args:
            key: `{namespace}:{consumer}:{type}:{event id}` by convention; any text.
            lease: seconds until another may take over; longer than the handler takes (renew for more).
            payload: a digest of what the key stands for; another one under the same key is an error.

        Raises:
            ConflictError: kind payload_mismatch.
            TransientError: the backend cannot be reached.
        """
        return self.claim_many([key], lease, payloads=[payload])[0]

    def claim_many(self, keys: Sequence[str], lease: float = 300.0, *, payloads: Sequence[str] = ()) -> list[Claim]:
        """Several keys in one round trip and one commit; a payload mismatch raises for the whole batch's reader."""
        with self._lock:
            found = self.native.claim(list(keys), int(lease * 1e6), list(payloads))
        return [self._wrap(native) for native in found]

    def complete(self, claim: Claim, result: Any = None) -> None:
        """Mark the effect done and keep its result (JSON).

        Raises:
            StaleLeaseError: another owner took over; its claim and its result stay as they are.
        """
        self.complete_many([claim], [result])

    def complete_many(self, claims: Sequence[Claim], results: Sequence[Any]) -> None:
        """Several completions; on SQLite all or none."""
        texts = [json.dumps(result, separators=(",", ":")) for result in results]
        with self._lock:
            self.native.complete([claim.native for claim in claims], texts)

    def release(self, claim: Claim, error: str = "") -> None:
        """Give an acquired key back after a failure; the attempt stays counted, the error is kept."""
        with self._lock:
            self.native.release(claim.native, error)

    def renew(self, claim: Claim, lease: float = 300.0) -> float:
        """Extend the lease; returns its new end."""
        with self._lock:
            return float(self.native.renew(claim.native, int(lease * 1e6))) / 1e6

    def prune(self) -> int:
        """Forget done keys past their time to live; how many."""
        with self._lock:
            return int(self.native.prune())

    def _wrap(self, native: Any) -> Claim:
        native.raise_for_error()
        result = json.loads(native.result) if native.status == "done" and native.result else None
        return Claim(
            native.key, native.status, result, native.token, native.until_us / 1e6, native.attempts,
            native.last_error, native, self,
        )  # fmt: skip


class Renewer:
    """Renews a claim in the background while a slow handler runs; stops when the lease is lost."""

    def __init__(self, ledger: Ledger, claim: Claim, lease: float) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ledger, claim, lease), daemon=True)

    def __enter__(self) -> Renewer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self, ledger: Ledger, claim: Claim, lease: float) -> None:
        while not self._stop.wait(lease / 3):
            try:
                ledger.renew(claim, lease)
            except HeadgateError:
                return  # completing will say why


def sqlite_path(url: str) -> str:
    """The file of a ``sqlite:///relative`` or ``sqlite:////absolute`` URL.

    Raises:
        ConfigError: there is none.
    """
    path = unquote(url.removeprefix("sqlite://")).removeprefix("/")
    if not path:
        message = f"{url!r}: expected sqlite:///relative/file or sqlite:////absolute/file"
        raise ConfigError(message)
    return path
