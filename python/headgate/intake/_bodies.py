"""Reading a body: JSON with integers of any length, and records that nothing can be made of."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headgate.errors import InvalidInputError, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from headgate.intake._pipeline import RawInfo

_MAX_DIGITS = 4300  # of an integer that Python reads; a longer one costs time that grows with the square
_LONG_DIGITS = re.compile(rb"[0-9]{4301}")


@dataclass(frozen=True)
class Unreadable:
    """A record that a `parse` sets apart: it becomes a dead letter, and the others of its body go on."""

    kind: str
    reason: str
    text: str


class _LongNumber(str):
    """The digits of an integer that is too long for an int."""

    __slots__ = ()


def read_json(body: bytes | str) -> Any:
    """A body as JSON; integers of any length are read, those of more than 4,300 digits as a text that `readable` knows.

    Raises:
        ValueError: it is not JSON, or nested too deep.

    Example:
        >>> read_json(b'[1, {"n": 2}]')
        [1, {'n': 2}]
    """
    try:
        return json.loads(body)
    except RecursionError:
        message = "nested too deep"
        raise ValueError(message) from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError:
        # int() refuses the digits.
        return json.loads(body, parse_int=lambda text: int(text) if len(text) <= _MAX_DIGITS else _LongNumber(text))


def _has_long_number(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_long_number, value.values()))
    return any(map(_has_long_number, value)) if isinstance(value, list) else isinstance(value, _LongNumber)


def readable(records: Iterable[Any], body: bytes) -> list[Any]:
    """The records of a body, those with a number that cannot be kept as `Unreadable`."""
    if _LONG_DIGITS.search(body) is None:
        return list(records)
    reason = f"a number has more than {_MAX_DIGITS} digits"
    return [
        Unreadable(Kind.NUMBER_OUT_OF_RANGE.value, reason, record_text(r)) if _has_long_number(r) else r
        for r in records
    ]


def parse_array(body: bytes, raw: RawInfo) -> list[Any]:
    """The usual `parse`: a JSON array of records.

    Raises:
        InvalidInputError: not JSON, or not an array.
    """
    try:
        value = read_json(body)
    except ValueError:
        message = f"{raw.source}: the body is not JSON"
        raise InvalidInputError(message, Kind.INVALID_JSON) from None
    if not isinstance(value, list):
        message = f"{raw.source}: expected a JSON array, got {type(value).__name__}"
        raise InvalidInputError(message, Kind.MALFORMED_RESPONSE)
    return readable(value, body)


def record_text(record: Any) -> str:
    """A record as a dead letter keeps it: JSON in ASCII; what JSON has no form for becomes text."""
    return json.dumps(record, ensure_ascii=True, default=str)
