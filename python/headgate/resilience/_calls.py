"""Deadlines, hedging and failover for Python callables.

A Python call cannot be stopped from outside. One that hangs is abandoned at its deadline: the caller gets an error that
says so, the call goes on in a daemon thread, and `abandoned_calls()` counts it until it ends.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import AllSourcesFailedError, HeadgateError, Kind, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headgate.ports import Clock

_RETRIED = (TransientError, OSError)
_KEEP_IDLE = 16  # threads that wait for their next call


class _Task:
    """A call on a thread of the pool, and its outcome."""

    def __init__(self, work: Callable[[], Any], on_done: Callable[[_Task], None] | None = None) -> None:
        self.work = work
        self.done = threading.Event()
        self.on_done = on_done
        self.value: Any = None
        self.error: BaseException | None = None
        self.abandoned = False

    def run(self) -> None:
        try:
            self.value = self.work()
        except BaseException as error:
            self.error = error
        with _POOL.lock:
            self.done.set()
            if self.abandoned:
                _POOL.abandoned -= 1
        if self.on_done is not None:
            self.on_done(self)

    def result(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


class _Pool:
    """Daemon threads: a call that hangs must not keep the process from ending."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.abandoned = 0
        self._work: deque[_Task] = deque()
        self._ready = threading.Condition(self.lock)
        self._idle = 0

    def submit(self, task: _Task) -> _Task:
        with self.lock:
            self._work.append(task)
            if self._idle >= len(self._work):
                self._ready.notify()
                return task
        threading.Thread(target=self._serve, daemon=True, name="headgate-call").start()
        return task

    def _serve(self) -> None:
        while True:
            with self.lock:
                while not self._work:
                    if self._idle >= _KEEP_IDLE:
                        return
                    self._idle += 1
                    self._ready.wait()
                    self._idle -= 1
                task = self._work.popleft()
            task.run()

    def abandon(self, task: _Task) -> bool:
        """False when it has ended meanwhile."""
        with self.lock:
            if task.done.is_set():
                return False
            task.abandoned = True
            self.abandoned += 1
            return True


_POOL = _Pool()


def abandoned_calls() -> int:
    """Calls that outlived their deadline and are still running."""
    return _POOL.abandoned


def _too_late(name: str, timeout_s: float) -> TransientError:
    message = f"{name}: no answer within {timeout_s:g} s; the call was abandoned and may still be running"
    return TransientError(message, Kind.TIMEOUT)


def run_with_deadline(function: Callable[[], Any], timeout_s: float, name: str = "call") -> Any:
    """Its result, or an error at the deadline.

    Args:
        function: takes nothing; runs in another thread.
        timeout_s: seconds.
        name: for the error.

    Raises:
        TransientError: kind timeout; the call was abandoned.

    Example:
        >>> run_with_deadline(lambda: 6 * 7, 1.0)
        42
    """
    task = _POOL.submit(_Task(function))
    if not task.done.wait(max(0.0, timeout_s)) and _POOL.abandon(task):
        raise _too_late(name, timeout_s)
    return task.result()


def hedged(function: Callable[[], Any], *, after_s: float, timeout_s: float, name: str = "call") -> Any:
    """Call once more when there is no answer after `after_s`; the first that succeeds counts.

    Only for calls that may happen twice, such as reads.

    Raises:
        TransientError: kind timeout; both were abandoned.
        Exception: both failed: the first call's error.
    """
    changed = threading.Condition()
    ended: list[_Task] = []

    def tell(task: _Task) -> None:
        with changed:
            ended.append(task)
            changed.notify()

    deadline = time.monotonic() + timeout_s
    tasks = [_POOL.submit(_Task(function, tell))]
    with changed:
        changed.wait_for(lambda: bool(ended), min(after_s, timeout_s))
    if not ended and after_s < timeout_s:
        tasks.append(_POOL.submit(_Task(function, tell)))
    with changed:
        changed.wait_for(
            lambda: len(ended) == len(tasks) or any(t.error is None for t in ended),
            max(0.0, deadline - time.monotonic()),
        )
        good = next((t for t in ended if t.error is None), None)
    for task in tasks:
        _POOL.abandon(task)
    if good is not None:
        return good.value
    if len(ended) < len(tasks):
        raise _too_late(name, timeout_s)
    return tasks[0].result()


@dataclass(frozen=True)
class Call:
    """One way to get an answer.

    Args:
        name: for attempts and errors.
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
    """Who answered what (spec 001, section 4)."""

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
        self._total_s = total_s
        self._retry = retry
        self._budget = budget
        self._clock: Clock = clock or core.SystemClock()
        self._random = random or core.SystemRandom()

    def __call__(self, *args: Any, **kwargs: Any) -> FailoverResult:
        """Ask them in order.

        Raises:
            AllSourcesFailedError: names every cause.
        """
        run = _Run(self._calls, self._total_s, self._retry, self._budget, self._clock, self._random)
        while (step := run.next()) is not None:
            call, left_s = step
            try:
                value = run_with_deadline(lambda: call.function(*args, **kwargs), left_s, call.name)  # noqa: B023
            except Exception as error:
                if (pause := run.failed(error)) > 0:
                    self._clock.sleep_us(pause)
            except BaseException:
                run.stopped()
                raise
            else:
                return run.succeeded(value)
        raise run.all_failed()

    async def acall(self, *args: Any, **kwargs: Any) -> FailoverResult:
        """The same on an event loop: async functions are cancelled at their deadline, sync ones run in threads."""
        run = _Run(self._calls, self._total_s, self._retry, self._budget, self._clock, self._random)
        while (step := run.next()) is not None:
            call, left_s = step
            try:
                if inspect.iscoroutinefunction(call.function):
                    try:
                        value = await asyncio.wait_for(call.function(*args, **kwargs), left_s)
                    except TimeoutError:
                        raise _too_late(call.name, left_s) from None
                else:
                    value = await in_thread(lambda: call.function(*args, **kwargs), left_s, call.name)  # noqa: B023
            except Exception as error:
                if (pause := run.failed(error)) > 0:
                    await asyncio.sleep(pause / 1e6)
            except BaseException:
                run.stopped()
                raise
            else:
                return run.succeeded(value)
        raise run.all_failed()


async def in_thread(
    function: Callable[[], Any], timeout_s: float | None = None, name: str = "call", cancel: Any = None
) -> Any:
    """Await a sync call on the pool; when the task is cancelled, `cancel.cancel()` is told."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_Task] = loop.create_future()

    def tell(task: _Task) -> None:
        def hand_over() -> None:
            if not future.done():
                future.set_result(task)

        if not loop.is_closed():
            loop.call_soon_threadsafe(hand_over)

    task = _POOL.submit(_Task(function, tell))
    try:
        return (await asyncio.wait_for(future, timeout_s)).result()
    except TimeoutError:
        if _POOL.abandon(task):
            raise _too_late(name, timeout_s or 0.0) from None
        return task.result()
    except asyncio.CancelledError:
        if cancel is not None:
            cancel.cancel()
        raise


class _Run:
    """One failover's way through its calls, without the waiting."""

    def __init__(
        self, calls: list[Call], total_s: float | None, retry: Any, budget: Any, clock: Clock, random: Any
    ) -> None:
        self._calls = calls
        self._retry, self._budget = retry, budget
        self._clock, self._random = clock, random
        self._started_us = clock.mono_us()
        self._total_us = None if total_s is None else self._started_us + int(total_s * 1e6)
        self._attempts: list[CallAttempt] = []
        self._at = 0
        self._attempt = 0
        self._until_us = 0
        self._attempt_started_us = 0

    def next(self) -> tuple[Call, float] | None:
        while self._at < len(self._calls):
            call = self._calls[self._at]
            now = self._clock.mono_us()
            if self._attempt == 0:
                self._until_us = now + int(call.timeout_s * 1e6)
                if self._total_us is not None:
                    self._until_us = min(self._until_us, self._total_us)
            if self._until_us <= now:
                if self._attempt == 0:
                    self._note(call, Kind.TIMEOUT.value, "not called: the time for all sources is used up", now)
                self._advance()
            elif call.breaker is not None and not call.breaker.allow():
                self._note(call, Kind.CIRCUIT_OPEN.value, "not called: the circuit breaker is open", now)
                self._advance()
            else:
                self._attempt += 1
                self._attempt_started_us = now
                return call, (self._until_us - now) / 1e6
        return None

    def failed(self, error: Exception) -> int:
        """Microseconds to wait before `next`."""
        call = self._calls[self._at]
        if call.breaker is not None:
            call.breaker.on_failure(self._clock.mono_us() - self._attempt_started_us)
        # An exception's text may quote what it was called with; only our own are known to hold no secret.
        ours = isinstance(error, HeadgateError)
        kind = error.kind.value if isinstance(error, HeadgateError) else type(error).__name__
        self._note(call, kind, str(error) if ours else "", self._attempt_started_us)
        timed_out = ours and kind == Kind.TIMEOUT.value
        if self._retry is not None and isinstance(error, _RETRIED) and not timed_out:
            delay = int(self._retry.delay_us(self._attempt, self._random))
            may = (
                self._attempt < self._retry.max_attempts
                and self._clock.mono_us() + delay < self._until_us
                and (call.breaker is None or call.breaker.state == "closed")
                and (self._budget is None or self._budget.take())
            )
            if may:
                return delay
        self._advance()
        return 0

    def stopped(self) -> None:
        breaker = self._calls[self._at].breaker
        if breaker is not None:
            breaker.on_abandoned()

    def succeeded(self, value: Any) -> FailoverResult:
        call = self._calls[self._at]
        now = self._clock.mono_us()
        if call.breaker is not None:
            call.breaker.on_success(now - self._attempt_started_us)
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
        return AllSourcesFailedError(f"every source failed: {causes or 'there is none'}")

    def _note(self, call: Call, outcome: str, message: str, since_us: int) -> None:
        took = (self._clock.mono_us() - since_us) // 1000
        self._attempts.append(CallAttempt(call.name, self._attempt, outcome, message, took))

    def _advance(self) -> None:
        self._at += 1
        self._attempt = 0
