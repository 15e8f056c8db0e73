"""What a forked child has to begin anew: locks that another thread may have held, threads and sockets of the parent."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class ForkAware(Protocol):
    """An object that mends itself in a child."""

    def _after_fork(self) -> None: ...


_STORES: WeakSet[ForkAware] = WeakSet()
_USERS: WeakSet[ForkAware] = WeakSet()


def watch(item: ForkAware, *, store: bool = False) -> None:
    """Call `item._after_fork()` in every child of fork(), as long as the item lives.

    Args:
        item: may be compared by identity only, and referred to weakly.
        store: others depend on it, so it comes before them.

    Example:
        >>> class Pool:
        ...     def _after_fork(self): self.threads = None
        >>> watch(Pool())
    """
    (_STORES if store else _USERS).add(item)


def _in_child() -> None:
    for group in (_STORES, _USERS):
        for item in list(group):
            item._after_fork()


os.register_at_fork(after_in_child=_in_child)
