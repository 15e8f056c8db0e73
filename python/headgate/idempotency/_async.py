"""The ledger for asyncio."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from headgate._forks import watch
from headgate.errors import ConfigError, HeadgateError
from headgate.idempotency._checks import done_ttl_s, lease_us
from headgate.idempotency._ledger import DAY_S, Claim, Ledger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from concurrent.futures import Future

    from headgate.ports import Metrics

T = TypeVar("T")
log = logging.getLogger("headgate.idempotency")
_THREADS = 8  # equals the connections of a Redis ledger's pool; more threads would wait for one


class AsyncLedger:
    """A `Ledger` whose calls can be awaited. The core waits outside the GIL, in threads of the ledger's own; a client
    of redis.asyncio (`on_redis`) is awaited without any thread.

    A claim that is cancelled while it is under way is given back when it arrives, without counting as an attempt. Any
    other cancelled call may have gone through: it can be repeated.

    Example:
        >>> async def main():
        ...     ledger = AsyncLedger.open("memory://")
        ...     claim = await ledger.claim("order-1")
        ...     await ledger.complete(claim, {"charged": 5})
        ...     return (await ledger.claim("order-1")).result
        >>> asyncio.run(main())
        {'charged': 5}
    """

    def __init__(self, ledger: Ledger) -> None:
        given: Any = ledger
        if isinstance(given, type) or not hasattr(given, "claim"):
            what = f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"
            message = f"AsyncLedger: expected a Ledger, got {what}; AsyncLedger.open(url) opens one"
            raise ConfigError(message)
        self.sync: Ledger = ledger
        self._threads: ThreadPoolExecutor | None = None
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
    ) -> AsyncLedger:
        """See `Ledger.open`."""
        return cls(Ledger.open(url, done_ttl=done_ttl, clock=clock, random=random, metrics=metrics))

    @classmethod
    def on_redis(
        cls,
        client: Any,
        *,
        done_ttl: float = DAY_S,
        clock: Any = None,
        random: Any = None,
        metrics: Metrics | None = None,
        fence: bool = False,
        legacy_keys: bool = False,
    ) -> AsyncLedger:
        """A ledger on a Redis client that was injected; it shares its keys with `redis://` ledgers of the server.

        Args:
            client: of redis.asyncio (`Redis` or `RedisCluster`, whatever its decode_responses), or any object with the
                methods of `RedisClientProtocol`; coroutine functions are awaited, others run in threads.
            done_ttl, clock, random, metrics, fence, legacy_keys: as for `Ledger.on_redis`.

        Raises:
            ConfigError: the client lacks the protocol's methods.

        Example:
            ledger = AsyncLedger.on_redis(redis.asyncio.Redis.from_url("redis://127.0.0.1:6379/0"))
        """
        from headgate.backends.redispy import is_asynchronous

        options: dict[str, Any] = {
            "done_ttl": done_ttl_s(done_ttl), "clock": clock, "random": random, "metrics": metrics, "fence": fence,
            "legacy_keys": legacy_keys,
        }  # fmt: skip
        if not is_asynchronous(client):
            return cls(Ledger.on_redis(client, **options))
        from headgate.idempotency._awaited import AwaitedLedger

        return AwaitedLedger(client, **options)

    @property
    def done_ttl(self) -> float:
        """Seconds a done key is remembered."""
        return self.sync.done_ttl

    @property
    def store_identity(self) -> Any:
        """See `Ledger.store_identity`."""
        return self.sync.store_identity

    @property
    def metrics(self) -> Metrics | None:
        """Counts results that could not be kept; may be set."""
        return self.sync.metrics

    @metrics.setter
    def metrics(self, metrics: Metrics | None) -> None:
        self.sync.metrics = metrics

    @property
    def legacy_until(self) -> float | None:
        """See `Ledger.legacy_until`."""
        return self.sync.legacy_until

    async def claim(self, key: str, lease: float = 300.0, *, payload: str = "", legacy_key: str = "") -> Claim:
        """See `Ledger.claim`; cancelled, it leaves nothing behind."""
        return await self._claim(partial(self.sync.claim, key, lease, payload=payload, legacy_key=legacy_key))

    async def claim_many(
        self, keys: Sequence[str], lease: float = 300.0, *, payloads: Sequence[str] = ()
    ) -> list[Claim]:
        """See `Ledger.claim_many`; cancelled, it leaves nothing behind."""
        return await self._claim(partial(self.sync.claim_many, keys, lease, payloads=payloads))

    async def complete(
        self, claim: Claim, result: Any = None, *, serializer: Callable[[Any], str | bytes] | None = None
    ) -> bool:
        """See `Ledger.complete`."""
        return await self._run(partial(self.sync.complete, claim, result, serializer=serializer))

    async def complete_many(
        self,
        claims: Sequence[Claim],
        results: Sequence[Any],
        *,
        serializer: Callable[[Any], str | bytes] | None = None,
    ) -> list[bool]:
        """See `Ledger.complete_many`."""
        return await self._run(partial(self.sync.complete_many, claims, results, serializer=serializer))

    async def complete_with(
        self,
        claim: Claim,
        writes: Sequence[Mapping[str, Any]],
        result: Any = None,
        *,
        serializer: Callable[[Any], str | bytes] | None = None,
    ) -> bool:
        """See `Ledger.complete_with`."""
        return await self._run(partial(self.sync.complete_with, claim, writes, result, serializer=serializer))

    async def release(self, claim: Claim, error: str = "", *, counted: bool = True) -> None:
        """See `Ledger.release`."""
        await self._run(partial(self.sync.release, claim, error, counted=counted))

    async def renew(self, claim: Claim, lease: float = 300.0) -> float:
        """See `Ledger.renew`."""
        return await self._run(partial(self.sync.renew, claim, lease))

    @asynccontextmanager
    async def renewing(self, claim: Claim, lease: float) -> AsyncIterator[None]:
        """Renew a claim in the background while the block runs: `async with ledger.renewing(claim, 30): ...`."""
        lease_us(lease)
        with self.sync.renewing(claim, lease):
            yield

    async def prune(self) -> int:
        """See `Ledger.prune`."""
        return await self._run(self.sync.prune)

    async def warnings(self, *, retention: float | None = None) -> list[str]:
        """See `Ledger.warnings`."""
        return await self._run(partial(self.sync.warnings, retention=retention))

    # --- parts

    def _after_fork(self) -> None:
        self._threads = None  # they are the parent's

    def _pool(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="headgate-ledger")
        return self._threads

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._pool().submit(call))

    async def _claim(self, call: Callable[[], T]) -> T:
        pool = self._pool()
        future = pool.submit(call)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            waiting = threading.get_ident()

            def give_back(done: Future[T]) -> None:
                if threading.get_ident() != waiting:
                    _give_back(done)
                    return
                try:  # it had ended already: the event loop must not wait for the backend
                    pool.submit(_give_back, done)
                except RuntimeError:  # the interpreter is about to end
                    _give_back(done)

            future.add_done_callback(give_back)
            raise


def _give_back(done: Future[Any]) -> None:
    """Release the claim of a cancelled call, since the caller does not know about it."""
    if done.cancelled() or done.exception() is not None:
        return
    found = done.result()
    for claim in found if isinstance(found, list) else [found]:
        if claim.status == "acquired":
            try:
                claim.ledger.release(claim, counted=False)
            except HeadgateError as error:
                log.warning("a cancelled claim is held until its lease ends", extra={"error": error.kind.value})
