"""How the result of an effect becomes the JSON that a ledger keeps; docs/formats.md has the rule as a table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

DEEPEST = 500  # levels; readers have to come back out of them with whatever stack they have
_SCALARS = frozenset({str, int, float, bool, type(None)})
_TEXT = frozenset({str})
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class CannotKeepError(Exception):
    """Why: unknown_type, circular, too_deep, key, equal_keys, serializer, raised or number_out_of_range."""


def dump_result(value: Any, serializer: Callable[[Any], str | bytes] | None = None) -> str | None:
    """A result as JSON text, or None when it cannot be kept.

    Plain JSON values as `json.dumps` writes them; pydantic models and dataclasses as objects, dates and times as ISO
    8601 text, a timedelta in seconds, Decimal, UUID and paths as text, an Enum as its value, sets as lists, bytes as
    base64 text, at any depth. Keys that are not text become text by the same rule.

    Args:
        value: what the handler returned.
        serializer: value -> JSON text, instead of the rule.

    Returns:
        None for a circular or too deep value, an unknown type, two keys that would become one, or when a method of the
        value raised.

    Example:
        >>> import datetime
        >>> dump_result({"at": datetime.date(2026, 5, 1), 1: {3, 2}})
        '{"at":"2026-05-01","1":[2,3]}'
        >>> dump_result(object()) is None
        True
    """
    return text_or_reason(value, serializer)[0]


def text_or_reason(value: Any, serializer: Callable[[Any], str | bytes] | None = None) -> tuple[str | None, str]:
    """(JSON text, ""), or (None, one word that says why it cannot be kept)."""
    if value is None and serializer is None:
        return "null", ""
    kind = type(value)
    try:
        if serializer is None and kind in _SCALARS and kind is not int:
            return _encode(value), ""
        if serializer is not None:
            return _serialized(serializer(value)), ""
        if _is_plain(value, 0):
            return written(value), ""
        from headgate.idempotency._conversion import converted  # 10 ms that plain results need not pay

        return written(converted(value)), ""
    except CannotKeepError as why:
        return None, str(why)
    except RecursionError:
        return None, "too_deep"
    except KeyboardInterrupt:
        raise
    except BaseException:  # the value's own methods may raise anything, SystemExit too
        return None, "raised"


def written(value: Any) -> str:
    """JSON's own types as JSON text."""
    try:
        return _encode(value)
    except ValueError:  # Python neither writes nor reads integers of more than 4,300 digits
        raise CannotKeepError("number_out_of_range") from None


def _serialized(text: object) -> str:
    if not isinstance(text, str | bytes):
        raise CannotKeepError("serializer")
    try:
        text = text if isinstance(text, str) else text.decode()
        text.encode()
        json.loads(text)
    except ValueError:
        raise CannotKeepError("serializer") from None
    return text


def _is_plain(value: Any, depth: int) -> bool:
    """Whether `json.dumps` writes it by the rule: only JSON's own types, only text as keys."""
    kind = type(value)
    if kind is dict:
        if depth >= DEEPEST or not _TEXT.issuperset(map(type, value)):
            return False
        children = value.values()
    elif kind is list or kind is tuple:
        if depth >= DEEPEST:
            return False
        children = value
    else:
        return kind in _SCALARS
    if _SCALARS.issuperset(map(type, children)):
        return True
    for child in children:  # noqa: SIM110 - a generator would be a frame more for every level
        if not _is_plain(child, depth + 1):
            return False
    return True
