"""Results that are not JSON's own types: models, times, numbers and containers, by the rule of docs/formats.md."""

from __future__ import annotations

import base64
import dataclasses
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

from headgate.idempotency._results import DEEPEST, CannotKeepError, written

_NONE: Any = object()


def converted(value: Any) -> Any:
    """The value in JSON's own types.

    Raises:
        CannotKeepError: some part of it has no such form.
    """
    return _plain(value, 0, set())


def _plain(value: Any, depth: int, around: set[int]) -> Any:
    """The value in JSON's own types. `around`: the containers that it is in."""
    scalar = _scalar(value)
    if scalar is not _NONE:
        return scalar
    if id(value) in around:
        raise CannotKeepError("circular")
    if depth >= DEEPEST:
        raise CannotKeepError("too_deep")
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
    raise CannotKeepError("unknown_type")


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
        raise CannotKeepError("equal_keys")
    return made


def _key(key: Any) -> str:
    if type(key) is str:
        return key
    plain = _plain(key, 0, set())
    if isinstance(plain, dict | list):
        raise CannotKeepError("key")
    return plain if isinstance(plain, str) else written(plain)


def _sorted(values: set[Any] | frozenset[Any]) -> list[Any]:
    try:
        return sorted(values)
    except TypeError:
        return list(values)
