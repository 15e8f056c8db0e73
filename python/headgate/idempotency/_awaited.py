"""The ledger on a Redis client whose calls are awaited, without any thread."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

from headgate._native import core
from headgate.backends.redispy import (
    CANNOT_ASK,
    Commands,
    is_redis_py,
    redis_warnings,
    stale,
    translated,
    with_protocol,
)
from headgate.errors import (
    ConflictError,
    ForkedError,
    HeadgateError,
    InvalidInputError,
    Kind,
    StaleLeaseError,
    TransientError,
)
from headgate.idempotency._async import AsyncLedger
from headgate.idempotency._checks import check_key, check_keys, check_payload, error_text, lease_us, listed
from headgate.idempotency._ledger import (
    Claim,
    may_be_refused,
    note_not_kept,
    read_answer,
    refusal,
    short_ttl,
)
from headgate.idempotency._results import text_or_reason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from headgate.ports import Metrics

log = logging.getLogger("headgate.idempotency")
_PREFIX = "headgate:v1:"
_AT_ONCE = 64  # commands under way of one batch
_PATIENCE_S = 5.0  # a cancelled caller waits at most so long until its claims are released


class _Awaited:
    """The three commands of a ledger over redis.asyncio, errors translated."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def set_if_not_exists(self, key: str, value: str, ttl_seconds: int) -> bool:
        return bool(await self._call(self._client.set(key, value, nx=True, ex=ttl_seconds)))

    async def run_script(self, script: str, key: str, arguments: list[str]) -> Any:
        return await self._call(self._client.eval(script, 1, key, *arguments))

    async def info(self) -> dict[str, Any]:
        if not hasattr(self._client, "get_primaries"):
            return dict(await self._call(self._client.info()))
        await self._call(self._client.initialize())
        nodes = self._client.get_primaries()
        parts = [await self._call(self._client.info(target_nodes=node)) for node in nodes]
        return {node.name: part for node, part in zip(nodes, parts, strict=True)}

    @staticmethod
    async def _call(answer: Awaitable[Any]) -> Any:
        try:
            return await answer
        except Exception as error:
            raise translated(error) from None


class AwaitedLedger(AsyncLedger):
    """`AsyncLedger.on_redis` gives one for clients that are awaited. Its calls belong to one event loop, as its client.

    Args:
        client: of redis.asyncio, or with the methods of `RedisClientProtocol` as coroutine functions.
    """

    def __init__(
        self,
        client: Any,
        *,
        done_ttl: float,
        clock: Any = None,
        random: Any = None,
        metrics: Metrics | None = None,
        fence: bool = False,
        legacy_keys: bool = False,
    ) -> None:
        self._store_identity = client
        self._client: Any = _Awaited(client) if is_redis_py(client) else with_protocol(client)
        self._done_ttl = done_ttl
        self._metrics = metrics
        self._clock = clock or core.SystemClock()
        self._legacy_until = float("inf") if legacy_keys else None
        self._commands = Commands(done_ttl, self._clock, random or core.SystemRandom(), fence=fence)
        self._used_in = 0
        self._undoing: set[asyncio.Future[None]] = set()

    @property
    def sync(self) -> NoReturn:  # type: ignore[override]
        message = "this AsyncLedger awaits its client: there is no synchronous Ledger of it"
        raise InvalidInputError(message)

    @property
    def store_identity(self) -> Any:
        return self._store_identity

    @property
    def done_ttl(self) -> float:
        return self._done_ttl

    @property
    def metrics(self) -> Metrics | None:
        return self._metrics

    @metrics.setter
    def metrics(self, metrics: Metrics | None) -> None:
        self._metrics = metrics

    @property
    def legacy_until(self) -> float | None:
        return self._legacy_until

    async def claim(self, key: str, lease: float = 300.0, *, payload: str = "", legacy_key: str = "") -> Claim:
        length = lease_us(lease)
        check_key(key)
        check_payload(payload)
        if legacy_key != "":
            check_key(legacy_key, "a legacy key")
        self._check_process()
        if legacy_key not in {"", key} and self._legacy_until is not None:
            (claim,) = await self._uncancelled(self._claim_pair(key, legacy_key, length, payload))
        else:
            (claim,) = await self._uncancelled(self._claim_one(key, length, payload))
        if claim.status == "mismatch":
            message = "this idempotency key was used before with another payload"
            raise ConflictError(message, Kind.PAYLOAD_MISMATCH)
        return claim

    async def claim_many(
        self, keys: Sequence[str], lease: float = 300.0, *, payloads: Sequence[str] = ()
    ) -> list[Claim]:
        length = lease_us(lease)
        keys, payloads = listed(keys, "keys"), listed(payloads, "payloads")
        check_keys(keys, payloads)
        self._check_process()
        texts = payloads or [""] * len(keys)
        calls = [self._claim_one(k, length, p) for k, p in zip(keys, texts, strict=True)]
        return await self._uncancelled(*calls)

    async def complete(
        self, claim: Claim, result: Any = None, *, serializer: Callable[[Any], str | bytes] | None = None
    ) -> bool:
        self._check_process()
        text, reason = text_or_reason(result, serializer)
        try:
            await self._complete(claim, "null" if text is None else text)
        except (InvalidInputError, TransientError) as error:
            if text is None or not may_be_refused(error, text):
                raise
            await self._complete(claim, "null")
            reason = refusal(error)
        if reason:
            note_not_kept(self._metrics, reason, result)
        return not reason

    async def complete_many(
        self,
        claims: Sequence[Claim],
        results: Sequence[Any],
        *,
        serializer: Callable[[Any], str | bytes] | None = None,
    ) -> list[bool]:
        claims, results = listed(claims, "claims"), listed(results, "results")
        if len(claims) != len(results):
            message = f"{len(claims)} claims need as many results, not {len(results)}"
            raise InvalidInputError(message)
        pairs = zip(claims, results, strict=True)
        return _all_or_error(await _each([self.complete(c, r, serializer=serializer) for c, r in pairs]))

    async def complete_with(
        self,
        claim: Claim,
        writes: Sequence[Mapping[str, Any]],
        result: Any = None,
        *,
        serializer: Callable[[Any], str | bytes] | None = None,
    ) -> bool:
        message = "complete_with() needs a dynamodb:// ledger; with SQLite use claim.transaction()"
        raise InvalidInputError(message)

    async def release(self, claim: Claim, error: str = "", *, counted: bool = True) -> None:
        text = error_text(error) if error != "" else ""
        self._check_process()
        overtaken: HeadgateError | None = None
        for key, token in _held(claim):
            try:
                await self._fenced("release", key, token, text, "1" if counted else "0")
            except StaleLeaseError as error_of_one:
                overtaken = error_of_one  # raised after the other of the two keys is released as well
        if overtaken is not None:
            raise overtaken

    async def renew(self, claim: Claim, lease: float = 300.0) -> float:
        length = lease_us(lease)
        self._check_process()
        until = self._clock.now_us() + length
        for key, token in _held(claim):
            await self._fenced("renew", key, token, str(until), str(self._commands.ttl_ms(length)))
        return float(until) / 1e6

    @asynccontextmanager
    async def renewing(self, claim: Claim, lease: float) -> AsyncIterator[None]:
        lease_us(lease)
        task = asyncio.get_running_loop().create_task(self._keep(claim, lease))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def prune(self) -> int:
        return 0  # Redis expires keys itself

    async def warnings(self, *, retention: float | None = None) -> list[str]:
        self._check_process()
        info = getattr(self._client, "info", None)
        found = [CANNOT_ASK] if info is None else redis_warnings(await info())
        return found + short_ttl(self._done_ttl, retention)

    # --- parts

    def _check_process(self) -> None:
        if self._used_in not in {0, os.getpid()}:
            message = "this asynchronous Redis client was in use before fork(): make client and ledger in the child"
            raise ForkedError(message)
        self._used_in = os.getpid()

    async def _claim_one(self, key: str, length: int, payload: str) -> Claim:
        commands, stored = self._commands, _PREFIX + key
        now, token = self._clock.now_us(), commands.random.token_hex()
        first = commands.first(token, length, payload, now)
        if not commands.fence and await self._client.set_if_not_exists(stored, *first):
            return read_answer(key, ("acquired", token, now + length, 1, b"", ""), None)
        script, arguments = commands.again(key, token, length, payload, now)
        answer = commands.answer(await self._client.run_script(script, stored, arguments), token, payload)
        return read_answer(key, answer, None)

    async def _uncancelled(self, *calls: Any) -> list[Claim]:
        """Claims whose commands go on when the caller is cancelled: the server may have them already, so that they are
        given back only when they have arrived."""
        task = asyncio.ensure_future(_each(list(calls)))
        try:
            found = await asyncio.shield(task)
        except asyncio.CancelledError:
            undo = asyncio.ensure_future(self._undo_what_comes(task))
            self._undoing.add(undo)  # the loop itself keeps no task alive
            undo.add_done_callback(self._undoing.discard)
            with suppress(asyncio.CancelledError):
                await asyncio.wait({undo}, timeout=_PATIENCE_S)
            raise
        if any(isinstance(one, BaseException) for one in found):
            await self._undo(found)
        return _all_or_error(found)

    async def _undo_what_comes(self, task: asyncio.Future[list[Any]]) -> None:
        await asyncio.wait({task})
        if not task.cancelled():
            await self._undo(task.result())

    async def _undo(self, found: list[Any]) -> None:
        """Release claims that a cancelled caller does not know about."""
        for claim in found:
            if isinstance(claim, Claim) and claim.status == "acquired":
                try:
                    await self.release(claim, counted=False)
                except StaleLeaseError:
                    pass  # its lease is over
                except HeadgateError as error:
                    log.warning("a cancelled claim is held until its lease ends", extra={"error": error.kind.value})

    async def _claim_pair(self, key: str, legacy_key: str, length: int, payload: str) -> Claim:
        # The legacy key goes first, for workers of either version have to have it.
        legacy = await self._claim_one(legacy_key, length, payload)
        if legacy.status != "acquired":
            legacy.key = key
            return legacy
        try:
            claim = await self._claim_one(key, length, payload)
        except HeadgateError:
            await self._undo([legacy])
            raise
        if claim.status != "acquired":
            await self._undo([legacy])
            return claim
        claim.legacy = (legacy_key, legacy.token)
        claim.attempts = max(claim.attempts, legacy.attempts)
        claim.last_error = claim.last_error or legacy.last_error
        return claim

    async def _complete(self, claim: Claim, text: str) -> None:
        for key, token in _held(claim):
            await self._fenced("complete", key, token, text, str(self._commands.ttl_ms(0)))

    async def _fenced(self, script: str, key: str, *arguments: str) -> None:
        if await self._client.run_script(self._commands.scripts[script], _PREFIX + key, list(arguments)) != 1:
            raise stale()

    async def _keep(self, claim: Claim, lease: float) -> None:
        delay = lease / 3
        while True:
            await asyncio.sleep(delay)
            try:
                await self.renew(claim, lease)
                delay = lease / 3
            except ConflictError:
                return  # the lease is lost; completing the claim raises
            except HeadgateError:
                delay = lease / 10  # the backend is unavailable: soon again, while the lease lasts


def _held(claim: Claim) -> list[tuple[str, str]]:
    """The keys of a claim with their tokens, the legacy one first."""
    return [*([] if claim.legacy is None else [claim.legacy]), (claim.key, claim.token)]


def _all_or_error(found: list[Any]) -> list[Any]:
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found


async def _each(calls: list[Any]) -> list[Any]:
    """What the calls gave or raised, some of them under way at once."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(call: Any) -> Any:
        async with gate:
            return await call

    return list(await asyncio.gather(*map(one, calls), return_exceptions=True))
