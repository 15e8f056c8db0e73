"""Breakers, retries and failover between sources. The machinery is C++; this room gives it seconds and defaults.

The hot types (`CircuitBreaker`, `RetryBudget`, `ConsecutiveFailureTracker`) are the core's own, without a wrapper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import headgate.errors  # noqa: F401 - gives the core its exceptions
from headgate._native import core

if TYPE_CHECKING:
    from headgate.ports import Clock

CircuitBreaker = core.CircuitBreaker
ConsecutiveFailureTracker = core.ConsecutiveFailureTracker
RetryBudget = core.RetryBudget
RetryPolicy = core.RetryPolicy
Failover = core.Failover
Request = core.HttpRequest
Source = core.Source


@dataclass(frozen=True)
class BreakerDefaults:
    """Spec 001, decision 5: 5 failures in 300 s or 3 failed collections in a row open; half-open after 60 s."""

    failure_threshold: int = 5
    window_s: float = 300.0
    recovery_s: float = 60.0
    max_failed_collections: int = 3


def make_breaker(clock: Clock, options: BreakerDefaults | None = None) -> Any:
    """A circuit breaker on this clock.

    Example:
        >>> from headgate._core import ManualClock
        >>> make_breaker(ManualClock()).state
        'closed'
    """
    o = options or BreakerDefaults()
    return core.CircuitBreaker(
        o.failure_threshold, int(o.window_s * 1e6), int(o.recovery_s * 1e6), o.max_failed_collections, clock
    )


def make_tracker(clock: Clock, *, threshold: int = 3, window_s: float = 900.0) -> Any:
    """Alerts at `threshold` failed collections within the window, once per run of failures (FR-008)."""
    return core.ConsecutiveFailureTracker(threshold, int(window_s * 1e6), clock)


__all__ = [
    "BreakerDefaults", "CircuitBreaker", "ConsecutiveFailureTracker", "Failover", "Request", "RetryBudget",
    "RetryPolicy", "Source", "make_breaker", "make_tracker",
]  # fmt: skip
