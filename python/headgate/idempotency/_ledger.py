"""The ledger, as users see it."""

from __future__ import annotations

import json
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from headgate._native import core
from headgate.errors import ConflictError, InvalidInputError, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from headgate.idempotency._renew import Heart
    from headgate.ports import Clock, LedgerBackend, RedisClientProtocol, Transaction

Status = Literal["acquired", "done", "in_progress", "mismatch"]
DAY_S = 86_400.0
_US = 1_000_000


@dataclass(slots=True)
class Claim:
    """The answer to a claim.

    Attributes:
        key: what was claimed.
        status: "acquired" (run it, then complete), "done" (`result` is what was stored), "in_progress" (somebody
            else holds it until `until`: not a duplicate, come back); in a batch also "mismatch" (the key was used
            before with another payload; a single claim raises instead).
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
    """Who may run an effect, and what came of it. Safe to use from several threads.

    Example:
        >>> ledger = Ledger.open("memory://")
        >>> claim = ledger.claim("order-1")
        >>> claim.status
        'acquired'
        >>> ledger.complete(claim, {"charged": 5})
        >>> ledger.claim("order-1").result
        {'charged': 5}
    """

    def __init__(self, native: LedgerBackend, clock: Clock, database: Any = None, done_ttl: float = DAY_S) -> None:
        self.native = native
        self.clock = clock
        self.database = database
        self.done_ttl = done_ttl
        self._lock: AbstractContextManager[Any] = database.lock if database is not None else nullcontext()
        self._heart: Heart | None = None

    @classmethod
    def open(cls, url: str, *, done_ttl: float | None = None, clock: Any = None, random: Any = None) -> Ledger:
        """Open by URL.

        Args:
            url: ``sqlite:///file``, ``memory://``, ``redis://[user:password@]host:port/db`` and ``rediss://`` (TLS),
                ``redis+cluster://`` and ``rediss+cluster://`` (through redis-py), ``dynamodb://table``. Options follow
                a question mark (docs/configuration.md).
            done_ttl: seconds a done key is remembered; default 14 days (Redis: 24 hours). It must be longer than the
                topic can redeliver.
            clock, random: injected in tests.

        Raises:
            ConfigError: an unknown scheme or option, or a URL that lacks its parts.
        """
        from headgate.idempotency._open import open_ledger

        return open_ledger(cls, url, done_ttl, clock or core.SystemClock(), random or core.SystemRandom())

    @classmethod
    def on_database(
        cls, database: Any, *, done_ttl: float = 14 * DAY_S, clock: Any = None, random: Any = None
    ) -> Ledger:
        """A ledger in a SQLite file that is open already, so that its completions can share transactions."""
        clock = clock or core.SystemClock()
        native = core.sqlite_ledger(database.native, int(done_ttl * _US), clock, random or core.SystemRandom())
        return cls(native, clock, database, done_ttl)

    @classmethod
    def on_redis(
        cls, client: RedisClientProtocol, *, done_ttl: float = DAY_S, clock: Any = None, random: Any = None
    ) -> Ledger:
        """A ledger on a Redis client that was injected; it shares its keys with `redis://` ledgers of the server."""
        from headgate.backends.redispy import ScriptLedger

        clock = clock or core.SystemClock()
        return cls(ScriptLedger(client, done_ttl, clock, random or core.SystemRandom()), clock, done_ttl=done_ttl)

    legacy_until: float | None = None

    def claim(self, key: str, lease: float = 300.0, *, payload: str = "", legacy_key: str = "") -> Claim:
        """Ask to run an effect.

        Args:
            key: `{namespace}:{consumer}:{type}:{event id}` by convention; any text.
            lease: seconds until another may take over; longer than the handler takes (renew for more).
            payload: a digest of what the key stands for; another one under the same key is an error.

        Raises:
            ConflictError: kind payload_mismatch.
            TransientError: the backend cannot be reached, is full, or takes no writes.
        """
        with self._lock:
            answer = self.native.claim((key,), int(lease * _US), (payload,))[0]
        claim = self._wrap(key, answer)
        if claim.status == "mismatch":
            message = "this idempotency key was used before with another payload"
            raise ConflictError(message, Kind.PAYLOAD_MISMATCH)
        return claim

    def claim_many(self, keys: Sequence[str], lease: float = 300.0, *, payloads: Sequence[str] = ()) -> list[Claim]:
        """Several keys in one round trip and (SQLite) one commit; each claim has its own status."""
        keys = list(keys)
        with self._lock:
            answers = self.native.claim(keys, int(lease * _US), list(payloads))
        return list(map(self._wrap, keys, answers))

    def complete(self, claim: Claim, result: Any = None, *, serializer: Any = None) -> None:
        """Mark the effect done and keep its result (JSON). Again by the same owner: nothing changes.

        Raises:
            StaleLeaseError: another owner took over; its claim and its result stay as they are.
        """
        self.complete_many((claim,), (result,))

    def complete_many(self, claims: Sequence[Claim], results: Sequence[Any]) -> None:
        """Several completions; on SQLite all or none."""
        texts = [_dumps(result) for result in results]
        with self._lock:
            self.native.complete([c.key for c in claims], [c.token for c in claims], texts)

    def complete_with(self, claim: Claim, writes: Sequence[Mapping[str, Any]], result: Any = None) -> None:
        """Complete and write in one transaction of the backend (DynamoDB: TransactWriteItems).

        Args:
            claim: an acquired claim.
            writes: at most 99 write operations in DynamoDB's shape ({"Put": {...}}, {"Update": {...}}, ...), no item
                twice.
            result: kept with the done key.

        Raises:
            StaleLeaseError: the lease was overtaken; nothing is written.
            ConflictError: a condition of one of the writes failed; nothing is written.
            InvalidInputError: the backend has no such transactions, or the writes break its limits.
        """
        transact = getattr(self.native, "complete_with", None)
        if transact is None:
            message = "complete_with() needs a dynamodb:// ledger; with SQLite use claim.transaction()"
            raise InvalidInputError(message)
        transact(claim.key, claim.token, _dumps(result), writes)

    def release(self, claim: Claim, error: str = "", *, counted: bool = True) -> None:
        """Give an acquired key back after a failure; the attempt stays counted, the error is kept."""
        with self._lock:
            self.native.release(claim.key, claim.token, error)

    def renew(self, claim: Claim, lease: float = 300.0) -> float:
        """Extend the lease; returns its new end."""
        with self._lock:
            return float(self.native.renew(claim.key, claim.token, int(lease * _US))) / 1e6

    def renewing(self, claim: Claim, lease: float) -> AbstractContextManager[None]:
        """Renew a claim in the background while a slow handler runs, from a thread that all its claims share."""
        from headgate.idempotency._renew import Heart

        if self._heart is None:
            self._heart = Heart(self)
        return self._heart.keep(claim, lease)

    def prune(self) -> int:
        """Forget done keys past their time to live; how many."""
        with self._lock:
            return int(self.native.prune())

    def warnings(self, *, retention: float | None = None) -> list[str]:
        """What about the set-up weakens the guarantees, one sentence each; empty is good.

        Args:
            retention: seconds that the topic keeps, and so can deliver, a message.
        """
        with self._lock:
            found = list(self.native.warnings())
        if retention is not None and self.done_ttl < retention:
            found.append(
                f"done keys live {self.done_ttl:g} s, shorter than the topic's retention of {retention:g} s: a message "
                "that is delivered again after that runs again"
            )
        return found

    def _wrap(self, key: str, answer: tuple[str, str, int, int, bytes, str]) -> Claim:
        status, token, until_us, attempts, result, last_error = answer
        kept = json.loads(result) if result and status == "done" else None
        return Claim(key, status, kept, token, until_us / 1e6, attempts, last_error, self)  # type: ignore[arg-type]


def _dumps(result: Any) -> str:
    return "null" if result is None else json.dumps(result, separators=(",", ":"))
