"""Deadlines, hedging and failover for Python callables.

A Python call cannot be stopped from outside. One that hangs is abandoned at its deadline: the caller gets an error that
says so, the call goes on in a daemon thread, and `abandoned_calls()` counts it until it ends.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from headgate._native import core
from headgate.errors import AllSourcesFailedError, HeadgateError, InvalidInputError, Kind, TransientError
from headgate.identity import refuse_equal_names
from headgate.resilience._async import is_async, pause_on, refuse_awaitable
from headgate.resilience._build import make_guard
from headgate.resilience._checks import check_callable, check_seconds, check_type, to_us
from headgate.resilience._pool import POOL, Task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from headgate.ports import Clock

_T = TypeVar("_T")
_RETRIED = (TransientError, OSError)


def abandoned_calls() -> int:
    """Calls that outlived their deadline and are still running."""
    return POOL.abandoned


def _too_late(name: str, timeout_s: float) -> TransientError:
    message = f"{name}: no answer within {timeout_s:g} s; the call was abandoned and may still be running"
    return TransientError(message, Kind.TIMEOUT)


def run_with_deadline(function: Callable[[], _T], timeout_s: float, name: str = "call") -> _T:
    """Its result, or an error at the deadline.

    Args:
        function: takes nothing; runs in another thread.
        timeout_s: seconds.
        name: for the error.

    Raises:
        TransientError: kind timeout; the call was abandoned.
        InvalidInputError: the function is async.

    Example:
        >>> run_with_deadline(lambda: 6 * 7, 1.0)
        42
    """
    check_callable(function, name)
    check_seconds(timeout_s, "timeout_s")
    if is_async(function):
        message = f"{name}: the function is async; expected a plain one: use asyncio.timeout"
        raise InvalidInputError(message)
    found: _T = refuse_awaitable(_in_time(function, timeout_s, name), name, "asyncio.timeout")
    return found


def _in_time(function: Callable[[], Any], timeout_s: float, name: str) -> Any:
    task = POOL.submit(Task(function))
    try:
        if task.done.wait(max(0.0, timeout_s)):
            return task.result()
    except BaseException:
        POOL.abandon(task)  # a signal handler raised: nobody waits for the call any more
        raise
    if POOL.abandon(task):
        raise _too_late(name, timeout_s)
    return task.result()


def hedged(function: Callable[[], _T], *, after_s: float, timeout_s: float, name: str = "call") -> _T:
    """Call once more when there is no answer after `after_s`; the first that succeeds counts.

    Only for calls that may happen twice, such as reads.

    Raises:
        TransientError: kind timeout; both were abandoned.
        InvalidInputError: the function is async.
        Exception: both failed: the first call's error.
    """
    _check_hedge(function, after_s, timeout_s, name)
    if is_async(function):
        message = f"{name}: the function is async; expected a plain one: use ahedged"
        raise InvalidInputError(message)
    found: _T = refuse_awaitable(_hedged(function, after_s, timeout_s, name), name, "ahedged")
    return found


async def ahedged(function: Callable[[], Awaitable[_T]], *, after_s: float, timeout_s: float, name: str = "call") -> _T:
    """`hedged` for async functions: the call that is slower is cancelled, and so are both when the task is.

    Raises:
        TransientError: kind timeout; both were cancelled.
        Exception: both failed: the first call's error.
    """
    _check_hedge(function, after_s, timeout_s, name)

    async def ask() -> _T:
        answer: Any = function()
        if not inspect.isawaitable(answer):
            message = f"{name}: the call gave no awaitable; expected an async function: use hedged"
            raise InvalidInputError(message)
        found: _T = await answer
        return found

    tasks = [asyncio.ensure_future(ask())]
    try:
        async with asyncio.timeout(timeout_s) as deadline:
            await asyncio.wait(tasks, timeout=after_s)
            if not tasks[0].done():
                tasks.append(asyncio.ensure_future(ask()))
            waiting = set(tasks)
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if task.exception() is None:
                        return task.result()
            return tasks[0].result()
    except TimeoutError:
        if not deadline.expired():
            raise  # the function's own
        raise _too_late(name, timeout_s) from None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _check_hedge(function: Any, after_s: float, timeout_s: float, name: str) -> None:
    check_callable(function, name)
    to_us(after_s, "after_s")
    to_us(timeout_s, "timeout_s")


def _hedged(function: Callable[[], Any], after_s: float, timeout_s: float, name: str) -> Any:
    changed = threading.Condition()
    ended: list[Task] = []

    def tell(task: Task) -> None:
        with changed:
            ended.append(task)
            changed.notify()

    deadline = time.monotonic() + timeout_s
    tasks = [POOL.submit(Task(function, tell))]
    try:
        with changed:
            changed.wait_for(lambda: bool(ended), min(after_s, timeout_s))
        if not ended and after_s < timeout_s:
            tasks.append(POOL.submit(Task(function, tell)))
        with changed:
            changed.wait_for(
                lambda: len(ended) == len(tasks) or any(t.error is None for t in ended),
                max(0.0, deadline - time.monotonic()),
            )
            good = next((t for t in ended if t.error is None), None)
    finally:
        for task in tasks:
            POOL.abandon(task)
    if good is not None:
        return good.value
    if len(ended) < len(tasks):
        raise _too_late(name, timeout_s)
    return tasks[0].result()


@dataclass(frozen=True)
class Call:
    """One way to get an answer.

    Args:
        name: for attempts and errors; of its own within a `CallFailover`.
        function: sync or async; any exception is a failure, any result an answer.
        timeout_s: for all its attempts together.
        breaker: its circuit breaker, or None.
    """

    name: str
    function: Callable[..., Any]
    timeout_s: float = 10.0
    breaker: Any = None


@dataclass(frozen=True)
class CallAttempt:
    """What one attempt came to. `outcome` is "ok", an error kind, or an exception's type name."""

    source: str
    attempt: int
    outcome: str
    message: str
    duration_ms: int


@dataclass(frozen=True)
class FailoverResult:
    """What `CallFailover` gives: the answer, which source gave it, and what the others said."""

    data: Any
    source_used: str
    is_failover: bool
    duration_ms: int
    primary_error: str | None = None
    attempts: tuple[CallAttempt, ...] = field(default=(), repr=False)


class CallFailover:
    """The first call that answers, in order, each within its time and all within the total.

    Args:
        calls: the primary first; any number.
        total_s: for all of them; None: the sum of their times.
        retry: a `RetryPolicy` for TransientError and OSError; None: one attempt each.
        budget: a `RetryBudget` that all layers share.
        clock, random: for durations, back-off and jitter.

    Raises:
        InvalidInputError: two calls of one name: they would share a breaker, and attempts would not tell them apart.
            A function that cannot be called or is a generator, or a time that is none.

    Example:
        >>> failover = CallFailover([Call("first", lambda q: 1 // 0), Call("second", lambda q: q * 2)])
        >>> result = failover(21)
        >>> result.data, result.source_used, result.is_failover, result.primary_error
        (42, 'second', True, 'ZeroDivisionError')
    """

    def __init__(
        self,
        calls: Sequence[Call],
        *,
        total_s: float | None = None,
        retry: Any = None,
        budget: Any = None,
        clock: Clock | None = None,
        random: Any = None,
    ) -> None:
        self._calls = list(calls)
        for call in self._calls:
            check_type(call, Call, "calls")
            check_type(call.name, str, "a call's name")
            check_callable(call.function, call.name)
            to_us(call.timeout_s, f"{call.name}: timeout_s")
        refuse_equal_names([call.name for call in self._calls])
        if total_s is not None:
            to_us(total_s, "total_s")
        self._total_s = total_s
        self._clock: Clock = clock or core.SystemClock()
        # Without a breaker: each call has its own. It decides about retries as every other guard does.
        self._guard = make_guard(retry=retry, budget=budget, failures=_RETRIED, clock=self._clock, random=random)
        self._budget = budget

    def __call__(self, *args: Any, **kwargs: Any) -> FailoverResult:
        """Ask them in order.

        Raises:
            AllSourcesFailedError: names every cause.
            InvalidInputError: one of them is async.
        """
        for call in self._calls:
            if is_async(call.function):
                message = f"{call.name}: the function is async; expected plain ones: use acall"
                raise InvalidInputError(message)
        run = _Run(self)
        while (step := run.next()) is not None:
            call, left_s = step
            try:
                value = _in_time(lambda: call.function(*args, **kwargs), left_s, call.name)  # noqa: B023
            except Exception as error:
                if (pause := run.failed(error)) > 0:
                    self._clock.sleep_us(pause)
            except BaseException:
                run.stopped()
                raise
            else:
                if inspect.isawaitable(value):
                    run.stopped()
                    refuse_awaitable(value, call.name, "acall")
                return run.succeeded(value)
        raise run.all_failed()

    async def acall(self, *args: Any, **kwargs: Any) -> FailoverResult:
        """The same on an event loop.

        Async functions are cancelled at their deadline, sync ones run in threads; what a sync one returns is awaited
        when it is awaitable.
        """
        run = _Run(self)
        while (step := run.next()) is not None:
            call, left_s = step
            try:
                value = await _answer(call, left_s, args, kwargs)
            except Exception as error:
                if (pause := run.failed(error)) > 0:
                    await pause_on(self._clock, pause)
            except BaseException:
                run.stopped()
                raise
            else:
                return run.succeeded(value)
        raise run.all_failed()


async def _answer(call: Call, left_s: float, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        async with asyncio.timeout(left_s) as deadline:
            if is_async(call.function):
                return await call.function(*args, **kwargs)
            value = await in_thread(lambda: call.function(*args, **kwargs), name=call.name)
            return await value if inspect.isawaitable(value) else value
    except TimeoutError:
        if not deadline.expired():
            raise  # the function's own, which says nothing of our deadline
        raise _too_late(call.name, left_s) from None


async def in_thread(
    function: Callable[[], Any], timeout_s: float | None = None, name: str = "call", cancel: Any = None
) -> Any:
    """Await a sync call on the pool; when the task is cancelled, `cancel.cancel()` is told."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Task] = loop.create_future()

    def tell(task: Task) -> None:
        def hand_over() -> None:
            if not future.done():
                future.set_result(task)

        if not loop.is_closed():
            loop.call_soon_threadsafe(hand_over)

    task = POOL.submit(Task(function, tell))
    try:
        async with asyncio.timeout(timeout_s):
            await future
    except TimeoutError:
        if POOL.abandon(task):
            raise _too_late(name, timeout_s or 0.0) from None
    except asyncio.CancelledError:
        if cancel is not None:
            cancel.cancel()
        POOL.abandon(task)
        raise
    return task.result()


class _Run:
    """One failover's way through its calls, without the waiting."""

    def __init__(self, failover: CallFailover) -> None:
        self._calls = failover._calls
        self._guard, self._budget = failover._guard, failover._budget
        self._clock = failover._clock
        self._started_us = self._clock.mono_us()
        total_s = failover._total_s
        self._total_us = None if total_s is None else self._started_us + int(total_s * 1e6)
        self._sequence = self._guard._next_sequence()
        self._attempts: list[CallAttempt] = []
        self._at = 0
        self._attempt = 0
        self._until_us = 0
        self._attempt_started_us = 0
        self._source_started_us = 0
        self._permit = 0
        self._last_error: Exception | None = None

    def next(self) -> tuple[Call, float] | None:
        while self._at < len(self._calls):
            call = self._calls[self._at]
            now = self._clock.mono_us()
            if self._attempt == 0:
                self._source_started_us = now
                self._until_us = now + int(call.timeout_s * 1e6)
                if self._total_us is not None:
                    self._until_us = min(self._until_us, self._total_us)
            if self._until_us <= now:
                if self._attempt == 0:
                    self._note(call, Kind.TIMEOUT.value, "not called: the time for all sources is used up", now)
                self._advance()
            elif call.breaker is not None and not self._may_call(call.breaker):
                self._note(call, Kind.CIRCUIT_OPEN.value, "not called: the circuit breaker is open", now)
                self._advance()
            else:
                self._attempt += 1
                self._attempt_started_us = now
                return call, (self._until_us - now) / 1e6
        return None

    def _may_call(self, breaker: Any) -> bool:
        self._permit = breaker.enter()
        return self._permit != 0

    def failed(self, error: Exception) -> int:
        """Microseconds to wait before `next`."""
        call = self._calls[self._at]
        self._last_error = error
        if call.breaker is not None:
            call.breaker.on_failure(self._clock.mono_us() - self._attempt_started_us, self._permit)
        # An exception's text may quote what it was called with; only our own are known to hold no secret.
        ours = isinstance(error, HeadgateError)
        kind = error.kind.value if isinstance(error, HeadgateError) else type(error).__name__
        self._note(call, kind, str(error) if ours else "", self._attempt_started_us)
        timed_out = ours and kind == Kind.TIMEOUT.value
        if not timed_out and (call.breaker is None or call.breaker.state == "closed"):
            left = self._until_us - self._clock.mono_us()
            delay = self._guard._failed(
                core.Admission(),
                error,
                None,
                attempt=self._attempt,
                elapsed_us=0,
                started_us=self._source_started_us,
                sequence=self._sequence,
                left_us=left,
            )
            if delay is not None:
                return int(delay)
        self._advance()
        return 0

    def stopped(self) -> None:
        breaker = self._calls[self._at].breaker
        if breaker is not None:
            breaker.on_abandoned(self._permit)

    def succeeded(self, value: Any) -> FailoverResult:
        call = self._calls[self._at]
        now = self._clock.mono_us()
        if call.breaker is not None:
            call.breaker.on_success(now - self._attempt_started_us, self._permit)
        if self._budget is not None:
            self._budget.refund()
        first = next((a for a in self._attempts if a.source == self._calls[0].name), None)
        cause = f"{first.outcome}: {first.message}" if first is not None and first.message else None
        self._note(call, "ok", "", self._attempt_started_us)
        return FailoverResult(
            value, call.name, self._at > 0, (now - self._started_us) // 1000,
            cause or (first.outcome if first is not None and self._at > 0 else None), tuple(self._attempts),
        )  # fmt: skip

    def all_failed(self) -> AllSourcesFailedError:
        causes = "; ".join(f"{a.source} {a.outcome}" + (f" ({a.message})" if a.message else "") for a in self._attempts)
        error = AllSourcesFailedError(f"every source failed: {causes or 'there is none'}")
        if (mark := getattr(self._last_error, "_headgate_retried", None)) is not None:
            error._headgate_retried = mark  # type: ignore[attr-defined]  # the core's: these retries are not multiplied
        return error

    def _note(self, call: Call, outcome: str, message: str, since_us: int) -> None:
        took = (self._clock.mono_us() - since_us) // 1000
        self._attempts.append(CallAttempt(call.name, self._attempt, outcome, message, took))

    def _advance(self) -> None:
        self._at += 1
        self._attempt = 0
