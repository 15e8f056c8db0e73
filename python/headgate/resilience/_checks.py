"""What arguments of policies may be: a wrong one is refused where it is given, by name, in one sentence."""

from __future__ import annotations

import inspect
from typing import Any

from headgate.errors import InvalidInputError

_MOST_S = 1e12  # seconds: some 30,000 years; more does not fit the microseconds


def check_seconds(seconds: Any, name: str) -> None:
    """Refuse a text, a NaN or an infinity; a time that is over (negative) may be one that is left.

    Raises:
        InvalidInputError: it is no number of seconds.
    """
    is_number = not isinstance(seconds, bool) and isinstance(seconds, int | float)
    if not is_number or not -_MOST_S <= seconds <= _MOST_S:
        message = f"{name}: got {seconds!r}; expected a number of seconds"
        raise InvalidInputError(message)


def to_us(seconds: float, name: str) -> int:
    """Microseconds.

    Raises:
        InvalidInputError: it is no number of seconds, or negative.
    """
    check_seconds(seconds, name)
    if seconds < 0:
        message = f"{name}: got {seconds!r}; expected 0 or more"
        raise InvalidInputError(message)
    return int(seconds * 1e6)


def check_type(value: Any, kind: type | tuple[type, ...], name: str) -> None:
    """Refuse what is no such object, naming the argument.

    Raises:
        InvalidInputError: it is none.
    """
    if not isinstance(value, kind):
        expected = kind.__name__ if isinstance(kind, type) else " or ".join(k.__name__ for k in kind)
        message = f"{name}: got {value!r}; expected {expected}"
        raise InvalidInputError(message)


def check_callable(value: Any, name: str) -> None:
    """Refuse what cannot be called, and what gives its answers bit by bit: nothing of it would be guarded.

    Raises:
        InvalidInputError: it is no function, or a generator function.
    """
    if not callable(value):
        message = f"{name}: got {value!r}; expected a function"
        raise InvalidInputError(message)
    if inspect.isgeneratorfunction(value) or inspect.isasyncgenfunction(value):
        message = f"{name}: it is a generator function; expected one that returns its answer"
        raise InvalidInputError(message)


def count_of(value: Any, name: str, least: int) -> int:
    """The whole number.

    Raises:
        InvalidInputError: it is none, or smaller than `least`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        message = f"{name}: got {value!r}; expected a whole number of at least {least}"
        raise InvalidInputError(message)
    return value
