"""What is awaitable, and the guard's way of calling it: the decisions are the core's, only the waiting is asyncio's."""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import TYPE_CHECKING, Any

from headgate.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from headgate.ports import Clock


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a call gives an awaitable for certain: `async def` functions and methods, partials of them, and objects
    whose `__call__` is one. A lambda that returns a coroutine is seen only when it is called.

    Example:
        >>> async def ask(): ...
        >>> is_async(ask), is_async(functools.partial(ask)), is_async(print)
        (True, True, False)
    """
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def refuse_awaitable(value: Any, name: str, instead: str) -> Any:
    """The value, unless it is awaitable: nobody would await it, and its outcome would be taken for an answer.

    Raises:
        InvalidInputError: it is awaitable; a coroutine is closed, so that nothing warns of it later.
    """
    if not inspect.isawaitable(value):
        return value
    if inspect.iscoroutine(value):
        value.close()
    message = f"{name}: the call gave an awaitable; expected a plain result: use {instead}"
    raise InvalidInputError(message)


async def pause_on(clock: Clock, us: int) -> None:
    """Wait on the event loop, in the time of a clock.

    A clock that has not moved meanwhile is a test's, a `ManualClock`: its `sleep_us` moves it. What waits for a moment
    of that clock, a token of a rate limiter or the end of a call's time, would wait for ever otherwise.

    Raises:
        InvalidInputError: the clock's `sleep_us` does not move it either.
    """
    before_us = clock.mono_us()
    await asyncio.sleep(us / 1e6)
    if us <= 0 or clock.mono_us() != before_us:
        return
    clock.sleep_us(us)
    if clock.mono_us() == before_us:
        message = "clock: it stands still; expected one whose sleep_us moves its mono_us, as ManualClock does"
        raise InvalidInputError(message)


async def run_guarded(
    guard: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    first: Any = None,
    admission: Any = None,
) -> Any:
    """One call of a guard whose function is awaitable.

    Args:
        guard: the core's `Guard`.
        args: the function and its arguments.
        kwargs: of the function.
        first: what the first call gave, when the function was called before it was known to be awaitable.
        admission: what that call holds.
    """
    function, *rest = args
    clock = guard._clock
    started, sequence, attempt = clock.mono_us(), guard._next_sequence(), 0
    while True:
        attempt += 1
        if admission is None:
            admission = guard._ask()
            try:
                while (pause := guard._try_turn(admission)) > 0:
                    await pause_on(clock, pause)
            except BaseException:
                guard._give_back(admission)
                raise
        began = clock.mono_us()
        error: Exception | None = None
        result: Any = None
        try:
            result = await (function(*rest, **kwargs) if first is None else first)
        except Exception as raised:
            error = raised
        except BaseException:
            guard._give_back(admission)  # cancelled: that says nothing of the callee
            raise
        elapsed = clock.mono_us() - began
        if error is None and not guard._is_bad(result):
            guard._succeeded(admission, elapsed)
            return result
        delay = guard._failed(
            admission, error, result, attempt=attempt, elapsed_us=elapsed, started_us=started, sequence=sequence
        )
        if delay is None:
            if error is not None:
                raise error
            return result
        first = admission = None
        await pause_on(clock, delay)
