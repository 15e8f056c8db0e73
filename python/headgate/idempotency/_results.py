"""How the result of an effect becomes the JSON that a ledger keeps; docs/formats.md has the rule as a table."""

from __future__ import annotations

import base64
import dataclasses
import json
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable

DEEPEST = 500  # levels; readers have to come back out of them with whatever stack they have
_SCALARS = frozenset({str, int, float, bool, type(None)})
_TEXT = frozenset({str})
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class _CannotKeepError(Exception):
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
        >>> dump_result({"at": date(2026, 5, 1), 1: {3, 2}})
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
        return _written(value if _is_plain(value, 0) else _plain(value, 0, set())), ""
    except _CannotKeepError as why:
        return None, str(why)
    except RecursionError:
        return None, "too_deep"
    except Exception:  # of whatever code the value brings along
        return None, "raised"


def _written(value: Any) -> str:
    try:
        return _encode(value)
    except ValueError:  # Python neither writes nor reads integers of more than 4,300 digits
        raise _CannotKeepError("number_out_of_range") from None


def _serialized(text: object) -> str:
    if not isinstance(text, str | bytes):
        raise _CannotKeepError("serializer")
    try:
        text = text if isinstance(text, str) else text.decode()
        text.encode()
        json.loads(text)
    except ValueError:
        raise _CannotKeepError("serializer") from None
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


def _plain(value: Any, depth: int, around: set[int]) -> Any:
    """The value in JSON's own types. `around`: the containers that it is in."""
    scalar = _scalar(value)
    if scalar is not _NONE:
        return scalar
    if id(value) in around:
        raise _CannotKeepError("circular")
    if depth >= DEEPEST:
        raise _CannotKeepError("too_deep")
    around.add(id(value))
    try:
        if isinstance(value, dict):
            return _object(value, depth, around)
        if isinstance(value, list | tuple):
            return [_plain(child, depth + 1, around) for child in value]
        if isinstance(value, set | frozenset):
            return [_plain(child, depth + 1, around) for child in _sorted(value)]
        if isinstance(value, Enum):
            return _plain(value.value, depth + 1, around)
        if callable(getattr(type(value), "model_dump", None)):
            return _plain(value.model_dump(mode="json", by_alias=True), depth + 1, around)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            return _object(fields, depth, around)
    finally:
        around.discard(id(value))
    raise _CannotKeepError("unknown_type")


_NONE: Any = object()


def _scalar(value: Any) -> Any:
    """What becomes one JSON value; `_NONE` for everything else."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return _NONE  # before the types that an Enum may mix in
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal | UUID | PurePath):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    return _NONE


def _object(value: dict[Any, Any], depth: int, around: set[int]) -> dict[str, Any]:
    made = {_key(key): _plain(child, depth + 1, around) for key, child in value.items()}
    if len(made) != len(value):
        raise _CannotKeepError("equal_keys")
    return made


def _key(key: Any) -> str:
    if type(key) is str:
        return key
    plain = _plain(key, 0, set())
    if isinstance(plain, dict | list):
        raise _CannotKeepError("key")
    return plain if isinstance(plain, str) else _written(plain)


def _sorted(values: set[Any] | frozenset[Any]) -> list[Any]:
    try:
        return sorted(values)
    except TypeError:
        return list(values)
