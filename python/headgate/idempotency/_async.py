"""The ledger for asyncio."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from headgate.idempotency._ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from headgate.idempotency._ledger import Claim

T = TypeVar("T")
_THREADS = 8  # as many as a Redis ledger has connections


class AsyncLedger:
    """A `Ledger` whose calls can be awaited. The core waits outside the GIL, in threads of the ledger's own.

    A cancelled call may have gone through: claim the key again to find out (an own claim is in progress until its lease
    ends).

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
        self.sync = ledger
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="headgate-ledger")

    @classmethod
    def open(cls, url: str, *, done_ttl: float | None = None, clock: Any = None, random: Any = None) -> AsyncLedger:
        """As `Ledger.open`."""
        return cls(Ledger.open(url, done_ttl=done_ttl, clock=clock, random=random))

    async def claim(self, key: str, lease: float = 300.0, *, payload: str = "") -> Claim:
        """As `Ledger.claim`."""
        return await self._run(partial(self.sync.claim, key, lease, payload=payload))

    async def claim_many(
        self, keys: Sequence[str], lease: float = 300.0, *, payloads: Sequence[str] = ()
    ) -> list[Claim]:
        """As `Ledger.claim_many`."""
        return await self._run(partial(self.sync.claim_many, keys, lease, payloads=payloads))

    async def complete(self, claim: Claim, result: Any = None) -> None:
        """As `Ledger.complete`."""
        await self._run(partial(self.sync.complete, claim, result))

    async def complete_many(self, claims: Sequence[Claim], results: Sequence[Any]) -> None:
        """As `Ledger.complete_many`."""
        await self._run(partial(self.sync.complete_many, claims, results))

    async def complete_with(self, claim: Claim, writes: Sequence[Mapping[str, Any]], result: Any = None) -> None:
        """As `Ledger.complete_with`."""
        await self._run(partial(self.sync.complete_with, claim, writes, result))

    async def release(self, claim: Claim, error: str = "") -> None:
        """As `Ledger.release`."""
        await self._run(partial(self.sync.release, claim, error))

    async def renew(self, claim: Claim, lease: float = 300.0) -> float:
        """As `Ledger.renew`."""
        return await self._run(partial(self.sync.renew, claim, lease))

    async def prune(self) -> int:
        """As `Ledger.prune`."""
        return await self._run(self.sync.prune)

    async def warnings(self, *, retention: float | None = None) -> list[str]:
        """As `Ledger.warnings`."""
        return await self._run(partial(self.sync.warnings, retention=retention))

    @asynccontextmanager
    async def renewing(self, claim: Claim, lease: float) -> AsyncIterator[None]:
        """As `Ledger.renewing`."""
        with self.sync.renewing(claim, lease):
            yield

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)
