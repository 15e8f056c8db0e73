"""Clients of services whose connections a child of fork() must not share with its parent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate._forks import watch

if TYPE_CHECKING:
    from collections.abc import Callable


class ProcessClient:
    """A client that each process makes for itself: two that write on one connection would get each other's answers.

    Args:
        make: makes a client; called at once, so that its errors come early, and again in a child when it is used there.

    Example:
        >>> client = ProcessClient(lambda: {"made": 1})
        >>> list(client.keys())
        ['made']
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: Any = make()
        watch(self, store=True)

    def _after_fork(self) -> None:
        # Not closed: the connections are the parent's.
        self._parents, self._made = self._made, None

    def __getattr__(self, name: str) -> Any:
        if self._made is None:
            self._made = self._make()
        return getattr(self._made, name)
