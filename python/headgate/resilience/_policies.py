"""The core's policies with Python faces: times in seconds, defaults, documentation and a repr.

The methods that calls go through (`allow`, `on_success`, `try_acquire`, a guard's call, ...) are the core's own: see
`headgate.resilience._faces`. The constructors still take the core's microseconds under their older names (`window_us`,
`base_us`, ...).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import InvalidInputError
from headgate.resilience._checks import to_us
from headgate.resilience._faces import core_init, face

if TYPE_CHECKING:
    from headgate.ports import Clock, Random


def either_us(us: int | None, seconds: float | None, name: str, default_us: int) -> int:
    """One time that can be given in microseconds (`{name}_us`) or in seconds (`{name}_s`)."""
    if seconds is None:
        return default_us if us is None else us
    if us is not None:
        message = f"{name}_s: {name}_us is given too; expected one of them"
        raise InvalidInputError(message)
    return to_us(seconds, f"{name}_s")


def _state(policy: Any) -> tuple[Any, ...]:
    """What a pickle keeps of an object of the core."""
    state: tuple[Any, ...] = policy.__getstate__()
    return state


@face
class RetryPolicy(core.RetryPolicy):
    """How often a failed call is tried again, and how long it waits before. A value: it can be pickled and compared.

    Waits double from `base_s` to `cap_s`, with full jitter: each is drawn between 0 and that.

    Args:
        max_attempts: the first one included; 1: no retry.
        base_us: base_s in microseconds.
        cap_us: cap_s in microseconds.
        total_us: total_s in microseconds.
        base_s: before the second attempt at most. Default 0.2 s.
        cap_s: before any attempt at most. Default 5 s.
        total_s: an attempt that would begin later than this after the first one is not made. Default 0: no such limit.

    Raises:
        InvalidInputError: fewer than one attempt, or a negative time.

    Example:
        >>> RetryPolicy(5, base_s=0.1, total_s=10)
        RetryPolicy(max_attempts=5, base_s=0.1, cap_s=5, total_s=10)
    """

    def __init__(
        self, max_attempts: int = 3, base_us: int | None = None, cap_us: int | None = None, total_us: int | None = None,
        *, base_s: float | None = None, cap_s: float | None = None, total_s: float | None = None,
    ) -> None:  # fmt: skip
        core_init(RetryPolicy)(
            self, max_attempts, either_us(base_us, base_s, "base", 200_000), either_us(cap_us, cap_s, "cap", 5_000_000),
            either_us(total_us, total_s, "total", 0),
        )  # fmt: skip

    @property
    def base_s(self) -> float:
        """Seconds before the second attempt at most."""
        return self.base_us / 1e6

    @property
    def cap_s(self) -> float:
        """Seconds before any attempt at most."""
        return self.cap_us / 1e6

    @property
    def total_s(self) -> float:
        """Seconds after the first attempt, from which on none is made; 0: no such limit."""
        return self.total_us / 1e6

    def delay_s(self, attempt: int, random: Random) -> float:
        """The seconds to wait after an attempt that failed, the first one being 1. `random` draws the jitter."""
        return self.delay_us(attempt, random) / 1e6  # type: ignore[arg-type]  # the port and the core's class are one

    def _values(self) -> tuple[int, int, int, int]:
        return self.max_attempts, self.base_us, self.cap_us, self.total_us

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, RetryPolicy) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        return (
            f"RetryPolicy(max_attempts={self.max_attempts}, base_s={self.base_s:g}, cap_s={self.cap_s:g}, "
            f"total_s={self.total_s:g})"
        )


@face
class RetryBudget(core.RetryBudget):
    """A store of tokens that all layers of a call share, so that an outage is not answered with a storm of retries.

    A retry costs `cost` tokens and is not made when they are not there; a call that succeeds gives `refund` back. One
    process has one; threads may share it. A pickled copy is full.

    Methods:
        take() -> bool: pays for a retry; False: there are not enough tokens.
        refund(): a call has succeeded.
        tokens: how many there are.

    Args:
        capacity: tokens of a full budget.
        cost: of one retry.
        refund: for one success.

    Raises:
        InvalidInputError: a negative number.

    Example:
        >>> budget = RetryBudget(capacity=10, cost=5)
        >>> budget.take(), budget.take(), budget.take()
        (True, True, False)
    """

    def __init__(self, capacity: int = 500, cost: int = 5, refund: int = 1) -> None:
        core_init(RetryBudget)(self, capacity, cost, refund)

    def __repr__(self) -> str:
        return f"RetryBudget(tokens={self.tokens})"


@face
class CircuitBreaker(core.CircuitBreaker):
    """Stops calls to something that fails, and lets one probe at a time through until it answers again.

    It is closed (calls go out), open (none does) or half-open (probes do). `make_breaker` makes one of a
    `BreakerDefaults`. Threads may share it. A pickled copy has the state, on the receiving process's own clock.

    Methods:
        allow() -> bool: whether a call may go out; every allowed one ends in on_success, on_failure or on_abandoned.
        enter() -> int: `allow` with a number for the outcome, so that a late one closes nothing; 0: no.
        permit() -> Permit: the same as an object; raises `TransientError` of kind circuit_open.
        on_success(elapsed_us=0, permit=0), on_failure(elapsed_us=0, permit=0): the outcome, and how many microseconds
            the call took, for the rule of slow calls.
        on_abandoned(permit=0): the call never went out; a probe is another's to send.
        on_round(ok): the outcome of a whole round of calls, for `max_failed_collections`.
        state: "closed", "open" or "half_open".
        reset(): closed, with nothing counted.
        add_listener(f) -> int, remove_listener(number): f(state before, state after) at each change.
        snapshot() -> dict, restore(dict): the state, as JSON can hold it; times in it are microseconds.

    Args:
        failure_threshold: failed calls within the window that open it; 0 switches the rule off.
        window_us: window_s in microseconds.
        recovery_us: recovery_s in microseconds.
        max_failed_rounds: failed rounds in a row that open it; 0 switches the rule off.
        clock: the system's unless one is injected.
        failure_rate: of the calls in the window, in (0, 1]; 0 switches the rule off.
        slow_call_us: slow_call_s in microseconds.
        slow_call_rate: of the calls in the window, in (0, 1]; 0 switches the rule off.
        minimum_calls: before that many calls no rate is judged.
        window_calls: the rates look at the last so many calls instead of a time.
        success_threshold: probes that have to succeed, one after the other, before it closes.
        window_s: of the count, and of the rates. Default 300 s.
        recovery_s: open to half-open. Default 60 s.
        slow_call_s: a call that took at least so long is slow. Default 0: none is.

    Raises:
        InvalidInputError: a value is out of range.

    Example:
        >>> breaker = CircuitBreaker(1, recovery_s=30)
        >>> breaker.on_failure()
        >>> breaker.allow(), breaker
        (False, CircuitBreaker(state='open'))
    """

    def __init__(
        self, failure_threshold: int = 5, window_us: int | None = None, recovery_us: int | None = None,
        max_failed_rounds: int = 3, clock: Clock | None = None, failure_rate: float = 0.0,
        slow_call_us: int | None = None, slow_call_rate: float = 0.0, minimum_calls: int = 10, window_calls: int = 0,
        success_threshold: int = 1, *, window_s: float | None = None, recovery_s: float | None = None,
        slow_call_s: float | None = None,
    ) -> None:  # fmt: skip
        core_init(CircuitBreaker)(
            self, failure_threshold, either_us(window_us, window_s, "window", 300_000_000),
            either_us(recovery_us, recovery_s, "recovery", 60_000_000), max_failed_rounds, clock or core.SystemClock(),
            failure_rate, either_us(slow_call_us, slow_call_s, "slow_call", 0), slow_call_rate, minimum_calls,
            window_calls, success_threshold,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"CircuitBreaker(state={self.state!r})"


@face
class ConsecutiveFailureTracker(core.ConsecutiveFailureTracker):
    """Alerts once when something has failed several times within a window and not succeeded between.

    Methods:
        on_failure() -> bool: True at the failure that alerts.
        on_success() -> bool: True when this ends a run of failures that has alerted.
        count: the failures of the run.
        snapshot() -> dict, restore(dict): the state, as JSON can hold it; times in it are microseconds.

    Args:
        threshold: failures that alert.
        window_us: they lie within so many microseconds.
        clock: the system's unless one is injected.
        window_s: the same in seconds. Default 900 s.

    Example:
        >>> tracker = ConsecutiveFailureTracker(2, window_s=60)
        >>> tracker.on_failure(), tracker.on_failure(), tracker.on_success()
        (False, True, True)
    """

    def __init__(
        self, threshold: int = 3, window_us: int | None = None, clock: Clock | None = None, *,
        window_s: float | None = None,
    ) -> None:  # fmt: skip
        window = either_us(window_us, window_s, "window", 900_000_000)
        core_init(ConsecutiveFailureTracker)(self, threshold, window, clock or core.SystemClock())

    def __repr__(self) -> str:
        return f"ConsecutiveFailureTracker(count={self.count})"


@face
class RateLimiter(core.RateLimiter):
    """At most `burst` calls at once and `rate` a second after that, evenly.

    Threads may share it; a pickled copy is full.

    Methods:
        try_acquire(permits=1) -> int: 0: go; else the microseconds after which to ask again.
        acquire(timeout_us, permits=1): waits for it, at most so many microseconds; raises `TransientError` of kind
            unavailable when it would take longer.

    Args:
        rate: calls a second.
        burst: calls that may come at once.
        clock: the system's unless one is injected.

    Raises:
        InvalidInputError: a rate that is not above 0, or a burst below 1.

    Example:
        >>> from headgate._core import ManualClock
        >>> limiter = RateLimiter(2, clock=ManualClock())
        >>> limiter.try_acquire(), limiter.try_acquire(), limiter.acquire_within(1.0)
        (0, 500000, None)
    """

    def __init__(self, rate: float, burst: int = 1, clock: Clock | None = None) -> None:
        core_init(RateLimiter)(self, rate, burst, clock or core.SystemClock())

    @property
    def rate(self) -> float:
        """Calls a second."""
        return float(_state(self)[0])

    @property
    def burst(self) -> int:
        """Calls that may come at once."""
        return int(_state(self)[1])

    def acquire_within(self, timeout_s: float, permits: int = 1) -> None:
        """`acquire` in seconds."""
        self.acquire(to_us(timeout_s, "timeout_s"), permits)

    def __repr__(self) -> str:
        return f"RateLimiter(rate={self.rate:g}, burst={self.burst})"


@face
class Bulkhead(core.Bulkhead):
    """At most `limit` calls inside at the same time. Threads may share it; a pickled copy is empty.

    Methods:
        enter(timeout_us=0): waits for a place at most so many microseconds; raises `TransientError` of kind busy.
        leave(): gives the place back.
        inside: how many calls are inside.

    Args:
        limit: calls inside.
        clock: the system's unless one is injected.

    Raises:
        InvalidInputError: a limit below 1.

    Example:
        >>> bulkhead = Bulkhead(1)
        >>> bulkhead.enter_within(0.5)
        >>> bulkhead
        Bulkhead(limit=1, inside=1)
    """

    def __init__(self, limit: int, clock: Clock | None = None) -> None:
        core_init(Bulkhead)(self, limit, clock or core.SystemClock())

    @property
    def limit(self) -> int:
        """Calls inside at most."""
        return int(_state(self)[0])

    def enter_within(self, timeout_s: float) -> None:
        """`enter` in seconds."""
        self.enter(to_us(timeout_s, "timeout_s"))

    def __repr__(self) -> str:
        return f"Bulkhead(limit={self.limit}, inside={self.inside})"


@face
class Guard(core.Guard):
    """Policies around a call; `make_guard` makes one and says what each argument does.

    Calling it with a function and its arguments calls the function under the policies, and gives its result. What is
    awaitable has to be awaited: the guard then covers the awaited call. Threads may share it.

    Example:
        >>> from headgate.resilience import make_guard
        >>> make_guard(retry=RetryPolicy(3))(divmod, 7, 2)
        (3, 1)
    """

    def __repr__(self) -> str:
        return f"<Guard at {id(self):#x}>"


@face
class Permit(core.Permit):
    """One call that a breaker has let through; `CircuitBreaker.permit()` and `calling` give it.

    Methods:
        succeeded(elapsed_us=0), failed(elapsed_us=0): the outcome, and how many microseconds the call took.
        give_back(): the call never went out; nothing, once an outcome is told. A permit that is dropped is given back.
        is_settled: whether an outcome was told, or it was given back.

    Example:
        >>> permit = CircuitBreaker().permit()
        >>> permit.succeeded()
        >>> permit
        Permit(is_settled=True)
    """

    def __repr__(self) -> str:
        return f"Permit(is_settled={self.is_settled})"
