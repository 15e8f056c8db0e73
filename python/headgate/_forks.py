"""Resets objects in a child of fork().

A child has only the thread that forked: locks that other threads held stay locked, and threads and sockets belong to
the parent. Objects that own such things register here and are reset in the child.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class ForkAware(Protocol):
    """An object that can be reset in a child of fork()."""

    def _after_fork(self) -> None: ...


_STORES: WeakSet[ForkAware] = WeakSet()
_USERS: WeakSet[ForkAware] = WeakSet()


def watch(item: ForkAware, *, store: bool = False) -> None:
    """Call `item._after_fork()` in every child of fork(), as long as the item lives.

    Args:
        item: must be hashable by identity and weakly referenceable.
        store: whether other items depend on this one, so that it is reset first.

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
