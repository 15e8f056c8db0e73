"""Options that are checked where they enter, so that a wrong one is one sentence and not a lost message later."""

from __future__ import annotations

import inspect
from math import isfinite
from typing import TYPE_CHECKING, Any

from headgate.errors import ConfigError
from headgate.idempotency._checks import LEAST_S, LONGEST_LEASE_S

if TYPE_CHECKING:
    from collections.abc import Iterable


def check_seconds(where: str, value: Any, low: float = LEAST_S, high: float = LONGEST_LEASE_S) -> float:
    """A number of seconds inside its bounds.

    Raises:
        ConfigError: it is no finite number from `low` to `high`.
    """
    good = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) and low <= value <= high
    if not good:
        message = f"{where}: expected seconds from {low:g} to {high:g}, got {value!r}"
        raise ConfigError(message)
    return float(value)


def check_count(where: str, value: Any, low: int = 1) -> int:
    """A whole number that is at least `low`.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        message = f"{where}: expected a whole number, {low} or more, got {value!r}"
        raise ConfigError(message)
    return value


def check_choice(where: str, value: Any, choices: Iterable[str]) -> None:
    """One of a few words.

    Raises:
        ConfigError: it is another one.
    """
    known = tuple(choices)
    if value not in known:
        message = f"{where} must be one of {', '.join(map(repr, known))}, not {value!r}"
        raise ConfigError(message)


def check_name(where: str, value: Any) -> None:
    """Text that can be part of a key.

    Raises:
        ConfigError: it is empty, no text, or holds a lone surrogate.
    """
    good = isinstance(value, str) and bool(value)
    if good:
        try:
            value.encode()
        except UnicodeEncodeError:
            good = False
    if not good:
        shown = repr(value) if isinstance(value, str) else f"a {type(value).__name__}"
        message = f"{where}: expected text that is not empty and that UTF-8 can write, got {shown}"
        raise ConfigError(message)


def check_call(where: str, function: Any, *arguments: str) -> None:
    """Whether a function can be called with so many arguments by position.

    Args:
        where: begins the sentence.
        function: None: there is none, and nothing to check.
        arguments: what it is called with, in words.

    Raises:
        ConfigError: it cannot; every message would fail with a TypeError.
    """
    if function is None:
        return
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin that does not tell
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        message = f"{where}: it is called with ({', '.join(arguments)}), and its signature is {signature}: {error}"
        raise ConfigError(message) from None


def check_callable(where: str, value: Any) -> None:
    """A function or another object that can be called.

    Raises:
        ConfigError: it is something else.
    """
    if not callable(value):
        message = f"{where}: expected a function, got a {type(value).__name__}"
        raise ConfigError(message)
