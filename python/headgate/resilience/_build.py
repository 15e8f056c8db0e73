"""The core's policies, made from seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import TransientError

if TYPE_CHECKING:
    from headgate.ports import Clock

CircuitBreaker = core.CircuitBreaker
ConsecutiveFailureTracker = core.ConsecutiveFailureTracker
RetryBudget = core.RetryBudget
RetryPolicy = core.RetryPolicy
RateLimiter = core.RateLimiter
Bulkhead = core.Bulkhead
Guard = core.Guard
Failover = core.Failover
Request = core.HttpRequest
Source = core.Source


@dataclass(frozen=True)
class BreakerDefaults:
    """When a breaker opens, and for how long.

    Args:
        failure_threshold: failed calls within the window (spec 001, decision 5: 5 in 300 s); 0 switches the rule off.
        window_s: of the count, and of the rates unless `window_calls` is set.
        recovery_s: open to half-open, where one probe goes out.
        max_failed_collections: failed rounds in a row; 0 switches the rule off.
        failure_rate: of the calls in the window, in (0, 1]; 0 switches the rule off.
        slow_call_s: a call that took at least so long is slow; 0: none is.
        slow_call_rate: of the calls in the window, in (0, 1]; 0 switches the rule off.
        minimum_calls: before that many calls no rate is judged.
        window_calls: the rates look at the last so many calls instead of a time.
    """

    failure_threshold: int = 5
    window_s: float = 300.0
    recovery_s: float = 60.0
    max_failed_collections: int = 3
    failure_rate: float = 0.0
    slow_call_s: float = 0.0
    slow_call_rate: float = 0.0
    minimum_calls: int = 10
    window_calls: int = 0


def make_breaker(clock: Clock | None = None, options: BreakerDefaults | None = None) -> Any:
    """A circuit breaker on this clock.

    Example:
        >>> from headgate._core import ManualClock
        >>> make_breaker(ManualClock()).state
        'closed'
    """
    o = options or BreakerDefaults()
    return core.CircuitBreaker(
        o.failure_threshold, int(o.window_s * 1e6), int(o.recovery_s * 1e6), o.max_failed_collections,
        clock or core.SystemClock(), o.failure_rate, int(o.slow_call_s * 1e6), o.slow_call_rate, o.minimum_calls,
        o.window_calls,
    )  # fmt: skip


def make_tracker(clock: Clock | None = None, *, threshold: int = 3, window_s: float = 900.0) -> Any:
    """Alerts at `threshold` failed collections within the window, once per run of failures (FR-008)."""
    return core.ConsecutiveFailureTracker(threshold, int(window_s * 1e6), clock or core.SystemClock())


def make_rate_limiter(rate: float, burst: int = 1, clock: Clock | None = None) -> Any:
    """At most `burst` calls at once and `rate` a second after that, evenly.

    Raises:
        InvalidInputError: a rate that is not above 0, or a burst below 1.

    Example:
        >>> from headgate._core import ManualClock
        >>> limiter = make_rate_limiter(2, burst=1, clock=ManualClock())
        >>> limiter.try_acquire(), limiter.try_acquire()     # the second has to wait half a second
        (0, 500000)
    """
    return core.RateLimiter(rate, burst, clock or core.SystemClock())


def make_bulkhead(limit: int, clock: Clock | None = None) -> Any:
    """At most `limit` calls inside at the same time."""
    return core.Bulkhead(limit, clock or core.SystemClock())


def make_guard(
    *,
    breaker: Any = None,
    retry: Any = None,
    budget: Any = None,
    rate_limiter: Any = None,
    bulkhead: Any = None,
    wait_s: float = 0.0,
    failures: tuple[type[BaseException], ...] = (TransientError, OSError),
    clock: Clock | None = None,
    random: Any = None,
) -> Any:
    """Policies around a call: retry(breaker(rate limiter(bulkhead(call)))).

    Args:
        breaker: refuses with kind circuit_open while it is open.
        retry: a `RetryPolicy`; exceptions in `failures` are tried again, with back-off and full jitter.
        budget: a `RetryBudget` that all layers share, so that nested retries never multiply.
        rate_limiter: see `make_rate_limiter`.
        bulkhead: see `make_bulkhead`.
        wait_s: how long a call may wait at the limiter, and at the bulkhead.
        failures: what counts against the callee; any other exception passes and counts for nothing.
        clock: for back-off and slow calls.
        random: for jitter.

    Returns:
        An object that is called with the function and its arguments.

    Example:
        >>> guard = make_guard(breaker=make_breaker(), retry=RetryPolicy(3))
        >>> guard(divmod, 7, 2)
        (3, 1)
    """
    return core.Guard(
        breaker, retry, budget, rate_limiter, bulkhead, int(wait_s * 1e6), failures, clock or core.SystemClock(),
        random or core.SystemRandom(),
    )  # fmt: skip
