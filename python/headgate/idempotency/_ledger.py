"""`Ledger` and `Claim`: the public interface of the idempotency ledger."""

from __future__ import annotations

import json
import logging
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from headgate._forks import watch
from headgate._native import core
from headgate.errors import ConflictError, HeadgateError, InvalidInputError, Kind, StaleLeaseError, TransientError
from headgate.idempotency._checks import (
    LEAST_S,
    check_key,
    check_keys,
    check_payload,
    done_ttl_s,
    error_text,
    lease_us,
    listed,
)
from headgate.idempotency._results import text_or_reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from headgate.idempotency._renew import LeaseRenewer
    from headgate.ports import Clock, LedgerBackend, Metrics, RedisClientProtocol, Transaction

log = logging.getLogger("headgate.idempotency")
Status = Literal["acquired", "done", "in_progress", "mismatch"]
DAY_S = 86_400.0
_US = 1_000_000
# In characters. A server may be set to accept no longer values, and then closes the connection without an answer.
_LARGE_RESULT = 1_000_000
_UNREAD: Any = object()
_NOTHING: AbstractContextManager[Any] = nullcontext()


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
        fence: with the ledger's option `fence`, a number that is larger than those of all earlier acquisitions of the
            key, for resources that refuse a smaller one; None without it.
    """

    key: str
    status: Status
    result: Any = None
    token: str = ""
    until: float = 0.0
    attempts: int = 0
    last_error: str = ""
    ledger: Ledger | None = field(default=None, repr=False, compare=False)
    fence: int | None = None
    legacy: tuple[str, str] | None = field(default=None, repr=False, compare=False)  # the older key, and its token

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
    """Decides who may run an effect, and remembers its result. May be used from several threads.

    Example:
        >>> ledger = Ledger.open("memory://")
        >>> claim = ledger.claim("order-1")
        >>> claim.status
        'acquired'
        >>> ledger.complete(claim, {"charged": 5})
        True
        >>> ledger.claim("order-1").result
        {'charged': 5}
    """

    def __init__(
        self,
        native: LedgerBackend,
        clock: Clock,
        database: Any = None,
        done_ttl: float = DAY_S,
        *,
        metrics: Metrics | None = None,
        legacy_keys: bool = False,
    ) -> None:
        self.native = native
        self.clock = clock
        self.database = database
        self.done_ttl = done_ttl_s(done_ttl)
        self.metrics = metrics
        self._legacy_until: float | None = float("inf") if legacy_keys else _UNREAD if database is not None else None
        self._lock: AbstractContextManager[Any] = database.lock if database is not None else _NOTHING
        self._renewer: LeaseRenewer | None = None
        # What holds the claims: an address, or an object. Ledgers with an equal one share their keys.
        self.store_identity: Any = getattr(database, "address", "") or (self if database is None else database)
        watch(self)

    @classmethod
    def open(
        cls,
        url: str,
        *,
        done_ttl: float | None = None,
        clock: Any = None,
        random: Any = None,
        metrics: Metrics | None = None,
    ) -> Ledger:
        """Open by URL. A ledger that was opened and not used yet works in a child of fork() too.

        Args:
            url: ``sqlite:///file``, ``memory://``, ``redis://[user:password@]host:port/db`` and ``rediss://`` (TLS),
                ``redis+cluster://`` and ``rediss+cluster://`` (through redis-py), ``dynamodb://table``. Options follow
                a question mark (docs/configuration.md): ``fence=true`` numbers every acquisition (`Claim.fence`),
                ``legacy_keys=true`` (Redis, DynamoDB) counts keys from before an upgrade.
            done_ttl: seconds a done key is remembered; default 14 days (Redis: 24 hours). It must be longer than the
                topic can redeliver.
            clock, random: injected in tests.
            metrics: counts results that could not be kept.

        Raises:
            ConfigError: an unknown scheme or option, a URL that lacks its parts, or a done_ttl that is no time.
        """
        from headgate.idempotency._open import open_ledger

        clock = clock or core.SystemClock()
        return open_ledger(cls, url, done_ttl, clock, random or core.SystemRandom(), metrics)

    @classmethod
    def on_database(
        cls,
        database: Any,
        *,
        done_ttl: float = 14 * DAY_S,
        clock: Any = None,
        random: Any = None,
        metrics: Metrics | None = None,
        fence: bool = False,
    ) -> Ledger:
        """A ledger in a SQLite file that is open already, so that its completions can share transactions.

        Args:
            database: a `LocalDatabase`.
            done_ttl, clock, random, metrics: as for `open`.
            fence: number every acquisition (`Claim.fence`).
        """
        clock = clock or core.SystemClock()
        ttl_us = int(done_ttl_s(done_ttl) * _US)
        native = core.sqlite_ledger(database.native, ttl_us, clock, random or core.SystemRandom(), fence)
        return cls(native, clock, database, done_ttl, metrics=metrics)

    @classmethod
    def on_redis(
        cls,
        client: RedisClientProtocol,
        *,
        done_ttl: float = DAY_S,
        clock: Any = None,
        random: Any = None,
        metrics: Metrics | None = None,
        fence: bool = False,
        legacy_keys: bool = False,
    ) -> Ledger:
        """A ledger on a Redis client that was injected; it shares its keys with `redis://` ledgers of the server.

        Args:
            client: a connected `redis.Redis` or `redis.RedisCluster`, or any object with the methods of
                `RedisClientProtocol`. One of `redis.asyncio` goes to `AsyncLedger.on_redis`.
            done_ttl, clock, random, metrics: as for `open`.
            fence: number every acquisition (`Claim.fence`).
            legacy_keys: count keys from before an upgrade; for one done_ttl after it.

        Raises:
            ConfigError: an asynchronous client, or an object that lacks the protocol's methods.
        """
        from headgate.backends.redispy import ScriptLedger, synchronous

        clock = clock or core.SystemClock()
        ttl = done_ttl_s(done_ttl)
        native = ScriptLedger(synchronous(client), ttl, clock, random or core.SystemRandom(), fence=fence)
        ledger = cls(native, clock, done_ttl=ttl, metrics=metrics, legacy_keys=legacy_keys)
        ledger.store_identity = client
        return ledger

    @property
    def legacy_until(self) -> float | None:
        """Until when claim keys from before an upgrade count beside new ones (seconds since the epoch), or None.

        A SQLite file remembers it from its migration: the end of the last key that was in it then.
        """
        if self._legacy_until is _UNREAD:
            rows = self.database.execute("SELECT doc FROM state WHERE name = 'ledger.legacy_keys'")
            self._legacy_until = json.loads(rows[0][0])["until_us"] / _US if rows else None
        return self._legacy_until

    def claim(self, key: str, lease: float = 300.0, *, payload: str = "", legacy_key: str = "") -> Claim:
        """Ask to run an effect.

        Args:
            key: `{namespace}:{consumer}:{type}:{event id}` by convention; any text that is not empty.
            lease: seconds until another may take over (0.001 to 366 days); longer than the handler takes (renew for
                more).
            payload: a digest of what the key stands for; another one under the same key is an error.
            legacy_key: the name that the key had before an upgrade. While such keys count (`legacy_until`) both are
                claimed together: what is done or in progress under either is so, and what is acquired is acquired under
                both, so that workers of both versions never both run.

        Raises:
            InvalidInputError: a key that is empty, no text or no Unicode, or a lease that is none.
            ConflictError: kind payload_mismatch.
            TransientError: the backend cannot be reached, is full, or takes no writes.
            ForkedError: the ledger was in use before a fork, and cannot go on in the child.
        """
        # The usual case is checked inline: a function call would cost a tenth of a claim in memory.
        length = int(lease * _US) if lease.__class__ is float and LEAST_S <= lease <= DAY_S else lease_us(lease)
        if key.__class__ is not str or not key or not key.isascii():
            check_key(key)
        if payload != "":
            check_payload(payload)
        if legacy_key != "" and self._counts(key, legacy_key):
            claim = self._claim_pair(key, legacy_key, length, payload)
        else:
            with self._lock:
                answer = self.native.claim((key,), length, (payload,))[0]
            claim = self._wrap(key, answer)
        if claim.status == "mismatch":
            message = "this idempotency key was used before with another payload"
            raise ConflictError(message, Kind.PAYLOAD_MISMATCH)
        return claim

    def claim_many(self, keys: Sequence[str], lease: float = 300.0, *, payloads: Sequence[str] = ()) -> list[Claim]:
        """Several keys in one round trip and (SQLite) one commit; each claim has its own status.

        Args:
            keys: as for `claim`.
            lease: seconds, the same for all.
            payloads: as many as keys, or none.
        """
        length = lease_us(lease)
        keys, payloads = listed(keys, "keys"), listed(payloads, "payloads")
        check_keys(keys, payloads)
        with self._lock:
            answers = self.native.claim(keys, length, payloads)
        try:
            return [
                Claim(
                    key, status, json.loads(result) if result and status == "done" else None, token, until_us / 1e6,
                    attempts, last_error, self,
                )
                for key, (status, token, until_us, attempts, result, last_error) in zip(keys, answers, strict=True)
            ]  # fmt: skip
        except ValueError:  # a seventh part: with fences
            return list(map(self._wrap, keys, answers))

    def complete(
        self, claim: Claim, result: Any = None, *, serializer: Callable[[Any], str | bytes] | None = None
    ) -> bool:
        """Mark the effect done and keep its result as JSON. Again by the same owner: nothing changes.

        A result that cannot be kept (docs/formats.md has the rule), or is larger than the backend takes, does not undo
        the effect: the key is done without a result, with a warning in the log and in `metrics`.

        Args:
            claim: an acquired claim.
            result: what `claim()` gives to later callers, as JSON: a tuple comes back as a list.
            serializer: result -> JSON text, instead of the documented rule.

        Returns:
            Whether the result was kept.

        Raises:
            StaleLeaseError: another owner took over; its claim and its result stay as they are.
        """
        text, reason = ("null", "") if result is None and serializer is None else text_or_reason(result, serializer)
        try:
            if claim.legacy is None:
                with self._lock:
                    self.native.complete((claim.key,), (claim.token,), ("null" if text is None else text,))
            else:
                self._complete([claim], ["null" if text is None else text])
        except (InvalidInputError, TransientError) as error:
            if text is None or not may_be_refused(error, text):
                raise
            self._complete([claim], ["null"])
            reason = refusal(error)
        return not reason or self._not_kept(reason, result)

    def complete_many(
        self,
        claims: Sequence[Claim],
        results: Sequence[Any],
        *,
        serializer: Callable[[Any], str | bytes] | None = None,
    ) -> list[bool]:
        """Several completions; on SQLite all or none. Whether each result was kept.

        Raises:
            InvalidInputError: not as many results as claims.
            StaleLeaseError: one of the claims was overtaken.
        """
        claims, results = listed(claims, "claims"), listed(results, "results")
        if len(claims) != len(results):
            message = f"{len(claims)} claims need as many results, not {len(results)}"
            raise InvalidInputError(message)
        made = [text_or_reason(result, serializer) for result in results]
        reasons = [reason for _, reason in made]
        texts = ["null" if text is None else text for text, _ in made]
        try:
            self._complete(claims, texts)
        except (InvalidInputError, TransientError) as error:
            if not any(may_be_refused(error, text) for text in texts):
                raise
            with self.database.transaction() if self.database is not None else _NOTHING:
                reasons = list(map(self._complete_alone, claims, texts, reasons))
        return [not reason or self._not_kept(reason, result) for reason, result in zip(reasons, results, strict=True)]

    def complete_with(
        self,
        claim: Claim,
        writes: Sequence[Mapping[str, Any]],
        result: Any = None,
        *,
        serializer: Callable[[Any], str | bytes] | None = None,
    ) -> bool:
        """Complete and write in one transaction of the backend (DynamoDB: TransactWriteItems).

        Args:
            claim: an acquired claim.
            writes: at most 99 write operations in DynamoDB's shape ({"Put": {...}}, {"Update": {...}}, ...), no item
                twice; 98 when the claim holds a legacy key too.
            result: kept with the done key.
            serializer: as for `complete`.

        Returns:
            Whether the result was kept.

        Raises:
            StaleLeaseError: the lease was overtaken; nothing is written.
            ConflictError: a condition of one of the writes failed; nothing is written.
            InvalidInputError: the backend has no such transactions, or the writes break its limits.
        """
        transact = getattr(self.native, "complete_with", None)
        if transact is None:
            message = "complete_with() needs a dynamodb:// ledger; with SQLite use claim.transaction()"
            raise InvalidInputError(message)
        text, reason = text_or_reason(result, serializer)
        more = () if claim.legacy is None else (claim.legacy,)
        try:
            transact(claim.key, claim.token, "null" if text is None else text, writes, *more)
        except InvalidInputError as error:
            if text is None or text == "null" or error.kind is not Kind.MESSAGE_TOO_LARGE:
                raise
            transact(claim.key, claim.token, "null", writes, *more, again=True)
            reason = refusal(error)
        return not reason or self._not_kept(reason, result)

    def release(self, claim: Claim, error: str = "", *, counted: bool = True) -> None:
        """Give an acquired key back after a failure.

        Args:
            claim: an acquired claim.
            error: what went wrong, for `Claim.last_error`; at most 500 characters are kept, those that are no
                characters are escaped.
            counted: False when it was no attempt (a backend was unavailable): the count goes down by one again, once,
                and without an error text the one from before stays.

        Raises:
            StaleLeaseError: another owner took over.
        """
        text = error_text(error) if error != "" else ""
        with self._lock:
            self._release(claim, text, counted)

    def renew(self, claim: Claim, lease: float = 300.0) -> float:
        """Extend the lease; returns its new end.

        Raises:
            InvalidInputError: the lease is no time; the claim stays as it was.
            StaleLeaseError: another owner took over.
        """
        length = lease_us(lease)
        with self._lock:
            if claim.legacy is not None:
                self.native.renew(*claim.legacy, length)
            return float(self.native.renew(claim.key, claim.token, length)) / 1e6

    def renewing(self, claim: Claim, lease: float) -> AbstractContextManager[None]:
        """Renew a claim in the background while a slow handler runs, from a thread that all its claims share."""
        from headgate.idempotency._renew import LeaseRenewer

        lease_us(lease)
        if self._renewer is None:
            self._renewer = LeaseRenewer(self)
        return self._renewer.keep(claim, lease)

    def prune(self) -> int:
        """Forget done keys past their time to live. Returns how many."""
        with self._lock:
            return int(self.native.prune())

    def warnings(self, *, retention: float | None = None) -> list[str]:
        """What about the set-up weakens the guarantees, one sentence each; empty is good.

        Args:
            retention: seconds that the topic keeps, and so can deliver, a message.
        """
        with self._lock:
            found = list(self.native.warnings())
        return found + short_ttl(self.done_ttl, retention)

    # --- parts

    def _after_fork(self) -> None:
        if self.database is not None:
            self._lock = self.database.lock
        if self._renewer is not None:
            self._renewer.reset_after_fork()

    def _counts(self, key: str, legacy_key: str) -> bool:
        """Whether the legacy key has to be claimed too."""
        check_key(legacy_key, "a legacy key")
        until = self.legacy_until
        return legacy_key != key and until is not None and self.clock.now_us() < until * _US

    def _claim_pair(self, key: str, legacy_key: str, length: int, payload: str) -> Claim:
        pair = getattr(self.native, "claim_pair", None)
        with self._lock:
            if pair is not None:
                answer, legacy_token = pair(key, legacy_key, length, payload)
                claim = self._wrap(key, answer)
                claim.legacy = (legacy_key, legacy_token) if legacy_token else None
                return claim
            # A backend of the user's: the legacy key goes first, for workers of either version have to have it.
            legacy = self._wrap(legacy_key, self.native.claim((legacy_key,), length, (payload,))[0])
            if legacy.status != "acquired":
                legacy.key = key
                return legacy
            claim = self._wrap(key, self.native.claim((key,), length, (payload,))[0])
            if claim.status == "acquired":
                claim.legacy = (legacy_key, legacy.token)
                claim.attempts = max(claim.attempts, legacy.attempts)
                claim.last_error = claim.last_error or legacy.last_error
            else:
                self._release(legacy, "", counted=False)
            return claim

    def _complete(self, claims: Sequence[Claim], texts: Sequence[str]) -> None:
        keys, tokens = [c.key for c in claims], [c.token for c in claims]
        legacy = [(c.legacy, text) for c, text in zip(claims, texts, strict=True) if c.legacy is not None]
        with self._lock, self.database.transaction() if legacy and self.database is not None else _NOTHING:
            if legacy:  # first: whoever has overtaken it, the new key is not done then
                older = [pair for pair, _ in legacy]
                self.native.complete([k for k, _ in older], [t for _, t in older], [text for _, text in legacy])
            self.native.complete(keys, tokens, texts)

    def _complete_alone(self, claim: Claim, text: str, reason: str) -> str:
        """Why its result is not kept, or nothing."""
        try:
            self._complete([claim], [text])
        except (InvalidInputError, TransientError) as error:
            if not may_be_refused(error, text):
                raise
            self._complete([claim], ["null"])
            return refusal(error)
        return reason

    def _release(self, claim: Claim, text: str, counted: bool) -> None:
        overtaken: HeadgateError | None = None
        for key, token in [*([] if claim.legacy is None else [claim.legacy]), (claim.key, claim.token)]:
            try:
                if counted or not takes_counted(self.native.release):
                    self.native.release(key, token, text)
                else:
                    self.native.release(key, token, text, False)
            except StaleLeaseError as error:
                overtaken = error  # raised after the other of the two keys is released as well
        if overtaken is not None:
            raise overtaken

    def _not_kept(self, reason: str, result: Any) -> bool:
        note_not_kept(self.metrics, reason, result)
        return False

    def _wrap(self, key: str, answer: tuple[Any, ...]) -> Claim:
        if len(answer) != 6:
            return read_answer(key, answer, self)
        status, token, until_us, attempts, result, last_error = answer
        kept = json.loads(result) if result and status == "done" else None
        return Claim(key, status, kept, token, until_us / 1e6, attempts, last_error, self)


def read_answer(key: str, answer: tuple[Any, ...], ledger: Ledger | None) -> Claim:
    """A backend's answer as a claim."""
    status, token, until_us, attempts, result, last_error = answer if len(answer) == 6 else answer[:6]
    kept = json.loads(result) if result and status == "done" else None
    claim = Claim(key, status, kept, token, until_us / 1e6, attempts, last_error, ledger)
    if len(answer) > 6:
        claim.fence = answer[6]
    return claim


def short_ttl(done_ttl: float, retention: float | None) -> list[str]:
    """The warning about done keys that are forgotten while their message can still come."""
    if retention is None or done_ttl >= retention:
        return []
    return [
        f"done keys live {done_ttl:g} s, shorter than the topic's retention of {retention:g} s: a message "
        "that is delivered again after that runs again"
    ]


def note_not_kept(metrics: Metrics | None, reason: str, result: Any) -> None:
    """Say that an effect is done without its result; neither the result nor the key is named."""
    name = type(result).__name__
    log.warning("result not kept; the effect is done", extra={"reason": reason, "type": name})
    if metrics is not None:
        metrics.count("headgate_results_not_kept_total", reason=reason)


def takes_counted(release: Callable[..., Any]) -> bool:
    """Whether a backend can give an attempt back; one that was written before counts it, with a warning."""
    import inspect

    try:
        parameters = inspect.signature(release).parameters.values()
    except (TypeError, ValueError):  # the core's
        return True
    if any(p.name == "counted" or p.kind in {p.VAR_POSITIONAL, p.VAR_KEYWORD} for p in parameters):
        return True
    log.warning("this ledger's backend counts the attempt: its release() has no parameter `counted`")
    return False


def may_be_refused(error: HeadgateError, text: str) -> bool:
    """Whether a completion may have failed because of its result."""
    return text != "null" and (isinstance(error, InvalidInputError) or len(text) > _LARGE_RESULT)


def refusal(error: HeadgateError) -> str:
    return "too_large" if error.kind is Kind.MESSAGE_TOO_LARGE else "refused"
