"""The core's policies, made from seconds."""

from __future__ import annotations

import functools
import inspect
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from headgate._native import core
from headgate.errors import InvalidInputError, TransientError
from headgate.resilience._async import run_guarded
from headgate.resilience._checks import check_callable, check_type, count_of, to_us
from headgate.resilience._policies import (
    Bulkhead,
    CircuitBreaker,
    ConsecutiveFailureTracker,
    Guard,
    RateLimiter,
    RetryBudget,
    RetryPolicy,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from datetime import timedelta

    from headgate.ports import Clock

    # What counts as a failure: classes, one or several, or a predicate of the exception.
    Failures = type[BaseException] | Collection[type[BaseException]] | Callable[[Exception], bool]

_F = TypeVar("_F", bound="Callable[..., Any]")


@dataclass(frozen=True)
class BreakerDefaults:
    """When a breaker opens, and for how long.

    Args:
        failure_threshold: failed calls within the window; 0 switches the rule off.
        window_s: of the count, and of the rates unless `window_calls` is set.
        recovery_s: open to half-open, where one probe goes out.
        max_failed_collections: failed rounds in a row; 0 switches the rule off.
        failure_rate: of the calls in the window, in (0, 1]; 0 switches the rule off.
        slow_call_s: a call that took at least so long is slow; 0: none is.
        slow_call_rate: of the calls in the window, in (0, 1]; 0 switches the rule off.
        minimum_calls: before that many calls no rate is judged.
        window_calls: the rates look at the last so many calls instead of a time.
        success_threshold: probes that have to succeed, one after the other, before it closes.

    Raises:
        InvalidInputError: by `make_breaker`, for a value that is out of range.
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
    success_threshold: int = 1


_COUNTS = {
    "failure_threshold": 0, "max_failed_collections": 0, "minimum_calls": 0, "window_calls": 0, "success_threshold": 1,
}  # fmt: skip


def make_breaker(clock: Clock | None = None, options: BreakerDefaults | None = None) -> CircuitBreaker:
    """A circuit breaker on this clock.

    Example:
        >>> from headgate._core import ManualClock
        >>> make_breaker(ManualClock()).state
        'closed'
    """
    o = options or BreakerDefaults()
    check_type(o, BreakerDefaults, "options")
    for name, least in _COUNTS.items():
        count_of(getattr(o, name), name, least)
    for name in ("failure_rate", "slow_call_rate"):
        check_type(getattr(o, name), (int, float), name)
    return CircuitBreaker(
        o.failure_threshold, to_us(o.window_s, "window_s"), to_us(o.recovery_s, "recovery_s"), o.max_failed_collections,
        clock or core.SystemClock(), o.failure_rate, to_us(o.slow_call_s, "slow_call_s"), o.slow_call_rate,
        o.minimum_calls, o.window_calls, o.success_threshold,
    )  # fmt: skip


def make_tracker(
    clock: Clock | None = None, *, threshold: int = 3, window_s: float = 900.0
) -> ConsecutiveFailureTracker:
    """Alerts at `threshold` failed collections within the window, once per run of failures.

    Raises:
        InvalidInputError: a threshold below 1, or a window that is no time.
    """
    count_of(threshold, "threshold", 1)
    return ConsecutiveFailureTracker(threshold, to_us(window_s, "window_s"), clock or core.SystemClock())


def make_rate_limiter(rate: float, burst: int = 1, clock: Clock | None = None) -> RateLimiter:
    """At most `burst` calls at once and `rate` a second after that, evenly.

    Raises:
        InvalidInputError: a rate that is not above 0, or a burst below 1.

    Example:
        >>> from headgate._core import ManualClock
        >>> limiter = make_rate_limiter(2, burst=1, clock=ManualClock())
        >>> limiter.try_acquire(), limiter.try_acquire()     # the second has to wait half a second
        (0, 500000)
    """
    check_type(rate, (int, float), "rate")
    return RateLimiter(rate, count_of(burst, "burst", 1), clock)


def make_bulkhead(limit: int, clock: Clock | None = None) -> Bulkhead:
    """At most `limit` calls inside at the same time.

    Raises:
        InvalidInputError: a limit below 1.
    """
    return Bulkhead(count_of(limit, "limit", 1), clock)


def make_guard(
    *,
    breaker: core.CircuitBreaker | None = None,
    retry: core.RetryPolicy | None = None,
    budget: core.RetryBudget | None = None,
    rate_limiter: core.RateLimiter | None = None,
    bulkhead: core.Bulkhead | None = None,
    wait_s: float = 0.0,
    failures: Failures = (TransientError, OSError),
    retry_on_result: Callable[[Any], bool] | None = None,
    wait: Callable[[Any, int], float | timedelta | None] | None = None,
    on_retry: Callable[[int, float, BaseException | None], object] | None = None,
    clock: Clock | None = None,
    random: Any = None,
) -> Guard:
    """Policies around a call: retry(breaker(rate limiter(bulkhead(call)))).

    Args:
        breaker: refuses with kind circuit_open while it is open.
        retry: a `RetryPolicy`; what counts as a failure is tried again, with back-off and full jitter. An error that
            has `retry_after_s` is not tried again before, and not at all when that is infinite.
        budget: a `RetryBudget` that all layers share. A failure that an inner guard of the budget has retried is not
            retried by the outer ones.
        rate_limiter: see `make_rate_limiter`.
        bulkhead: see `make_bulkhead`.
        wait_s: how long a call may wait at the limiter, and at the bulkhead.
        failures: what counts against the callee: exception classes, or a predicate of the exception. Any other
            exception passes and counts for nothing.
        retry_on_result: a predicate: such a result is a failure too. When the attempts are used up it is returned.
        wait: instead of the policy's back-off: (error or result, attempt) -> seconds, a timedelta, or None for the
            policy's.
        on_retry: called before each wait with the attempt that failed, the seconds to wait and the error (None for a
            result). What it raises ends the call.
        clock: for back-off, slow calls and the policy's total time.
        random: for jitter.

    Returns:
        An object that is called with the function and its arguments. What is awaitable has to be awaited: the guard
        then covers the awaited call.

    Raises:
        InvalidInputError: an argument is none of these.

    Example:
        >>> guard = make_guard(breaker=make_breaker(), retry=RetryPolicy(3))
        >>> guard(divmod, 7, 2)
        (3, 1)
    """
    for value, kind, name in (
        (breaker, CircuitBreaker, "breaker"), (retry, RetryPolicy, "retry"), (budget, RetryBudget, "budget"),
        (rate_limiter, RateLimiter, "rate_limiter"), (bulkhead, Bulkhead, "bulkhead"),
    ):  # fmt: skip
        if value is not None:
            check_type(value, kind, name)
    for hook, name in ((retry_on_result, "retry_on_result"), (wait, "wait"), (on_retry, "on_retry")):
        if hook is not None:
            check_callable(hook, name)
    return Guard(
        breaker, retry, budget, rate_limiter, bulkhead, to_us(wait_s, "wait_s"), _checked_failures(failures),
        retry_on_result, wait, on_retry, run_guarded_call, clock or core.SystemClock(), random or core.SystemRandom(),
    )  # fmt: skip


def run_guarded_call(
    guard: Any, args: tuple[Any, ...], kwargs: dict[str, Any], first: Any = None, admission: Any = None
) -> Any:
    """What the core calls for an awaitable function: a coroutine."""
    return run_guarded(guard, args, kwargs, first, admission)


def _checked_failures(failures: Any) -> Any:
    """A tuple of exception classes, or the predicate."""
    if isinstance(failures, type):
        failures = (failures,)
    if isinstance(failures, list | tuple | set | frozenset):
        classes = tuple(failures)
        if classes and all(isinstance(c, type) and issubclass(c, Exception) for c in classes):
            return classes
    elif callable(failures):
        return failures
    message = f"failures: got {failures!r}; expected subclasses of Exception, or a predicate of an exception"
    raise InvalidInputError(message)


def guarded(function: _F | None = None, /, **options: Any) -> Any:
    """`make_guard` as a decorator, for functions, methods and coroutine functions.

    Args:
        function: with no options the function itself.
        options: as `make_guard` takes them, or `guard=` one that is made already.

    Raises:
        InvalidInputError: a generator function: what it yields cannot be tried again.

    Example:
        >>> @guarded(retry=RetryPolicy(3))
        ... def fetch(n: int) -> int:
        ...     return n + 1
        >>> fetch(1), fetch.__name__
        (2, 'fetch')
    """
    given: Any = function
    if given is not None and not callable(given) and not isinstance(given, classmethod):
        message = f"guarded: got {given!r}; expected a function, or options by name"
        raise InvalidInputError(message)
    guard = options.pop("guard", None)
    if guard is not None and options:
        message = f"guarded: got guard and {', '.join(sorted(options))}; expected one or the other"
        raise InvalidInputError(message)
    unknown = sorted(set(options) - set(inspect.signature(make_guard).parameters))
    if unknown:
        message = f"guarded: {unknown[0]} is no option; expected those of make_guard, or guard"
        raise InvalidInputError(message)
    guard = guard or make_guard(**{"retry": RetryPolicy(), **options})

    def decorate(wrapped: _F) -> _F:
        if isinstance(wrapped, staticmethod | classmethod):
            inner: Any = wrapped.__func__
            return cast("_F", type(wrapped)(decorate(inner)))
        check_callable(wrapped, getattr(wrapped, "__name__", repr(wrapped)))
        if inspect.iscoroutinefunction(wrapped):

            @functools.wraps(wrapped)
            async def acall(*args: Any, **kwargs: Any) -> Any:
                return await guard(wrapped, *args, **kwargs)

            return cast("_F", acall)

        @functools.wraps(wrapped)
        def call(*args: Any, **kwargs: Any) -> Any:
            return guard(wrapped, *args, **kwargs)

        return cast("_F", call)

    return decorate if function is None else decorate(function)


@contextmanager
def calling(breaker: core.CircuitBreaker, failures: Failures = (TransientError, OSError)) -> Iterator[core.Permit]:
    """A block of code as one call of a breaker.

    Args:
        breaker: asked on entry.
        failures: as for `make_guard`; other exceptions count for nothing.

    Raises:
        TransientError: kind circuit_open; the block was not entered.

    Example:
        >>> with calling(make_breaker()) as permit:
        ...     answer = 6 * 7
        >>> permit.is_settled
        True
    """
    checked = _checked_failures(failures)
    permit = breaker.permit()
    try:
        yield permit
    except Exception as error:
        counts = isinstance(error, checked) if isinstance(checked, tuple) else bool(checked(error))
        if counts:
            permit.failed()
        raise
    else:
        permit.succeeded()
    finally:
        permit.give_back()  # nothing, once an outcome is told


@contextmanager
def no_retries(attempts: int = 1) -> Iterator[None]:
    """For tests: guards and failovers of callables make at most so many attempts, and do not wait between them.

    It is a switch of the process: it holds for every thread. The core's `Failover` between HTTP sources is not changed.

    Args:
        attempts: 1 switches retries off.

    Raises:
        InvalidInputError: fewer than one attempt.

    Example:
        >>> with no_retries():
        ...     make_guard(retry=RetryPolicy(9))(divmod, 7, 2)
        (3, 1)
    """
    count_of(attempts, "attempts", 1)
    before = core.retry_switch()
    core.set_retry_switch(attempts)
    try:
        yield
    finally:
        core.set_retry_switch(before)
