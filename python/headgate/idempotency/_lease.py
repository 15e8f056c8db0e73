"""How long a claim lasts when nobody says: 300 seconds, or what AWS Lambda leaves of its invocation."""

from __future__ import annotations

import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from headgate.idempotency._checks import LONGEST_LEASE_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DEFAULT_LEASE_S = 300.0  # longer than most handlers run; slow ones are renewed
_MIN_S = 1.0
_ends_at: ContextVar[float | None] = ContextVar("headgate_invocation_ends_at", default=None)


@contextmanager
def lambda_invocation(context: Any) -> Iterator[None]:
    """Inside, claims without a lease of their own last as long as the invocation can.

    Args:
        context: what AWS Lambda hands to a handler; without `get_remaining_time_in_millis` nothing changes.
    """
    left_s = remaining_s(context)
    token = _ends_at.set(None if left_s is None else time.monotonic() + left_s)
    try:
        yield
    finally:
        _ends_at.reset(token)


def remaining_s(context: Any) -> float | None:
    """The seconds that a Lambda context has left, or None: it is no such context."""
    ask = getattr(context, "get_remaining_time_in_millis", None)
    if not callable(ask):
        return None
    try:
        left_s = float(ask()) / 1000.0
    except (TypeError, ValueError):  # a stand-in of a test that says nothing
        return None
    return min(left_s, LONGEST_LEASE_S) if left_s == left_s else None  # noqa: PLR0124 - also not a number


def default_lease_s(arguments: Iterable[Any] = ()) -> float:
    """The lease of a claim, in seconds, where none was given.

    Args:
        arguments: of the handler's call; a Lambda context may be among them.
    """
    for argument in arguments:
        left_s = remaining_s(argument)
        if left_s is not None:
            return max(_MIN_S, left_s)
    ends_at = _ends_at.get()
    return DEFAULT_LEASE_S if ends_at is None else max(_MIN_S, ends_at - time.monotonic())
