"""JSON as it travels between states: strict, compact, and limited to what a state may hand on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

LIMIT_BYTES = 262_144  # what a state, a task or an execution may hand on: 256 KiB of UTF-8
_MAX_DEPTH = 500  # of lists and objects in each other; Python's own encoder gives up at about twice as many
_MAX_BITS = 14_000  # of a whole number: its text stays below the 4,300 digits that Python reads back

_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def to_text(value: Any) -> str:
    """Compact JSON, as Step Functions writes it into causes and history."""
    return _ENCODER.encode(value)


def size_bytes(text: str) -> int:
    """The size that counts against the limit."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def is_too_large(value: Any) -> bool:
    """Whether a value may not be handed on."""
    return size_bytes(to_text(value)) > LIMIT_BYTES


def load_json(text: str | bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parse JSON that states may hand on: what `describe_not_json` finds nothing wrong with.

    Python's own parser takes NaN and Infinity, makes infinity of 1e999, and half a character of an escape.

    Args:
        text: the JSON.
        pairs: makes an object of its members; see `json.loads`.

    Raises:
        ValueError: what is wrong, without the text.

    Example:
        >>> load_json('[1e999]')
        Traceback (most recent call last):
        ValueError: the number 1e999 is out of range
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite_float, object_pairs_hook=pairs)
    except RecursionError:
        message = "it is nested too deeply"
        raise ValueError(message) from None
    if (problem := describe_not_json(value)) is not None:
        raise ValueError(problem)
    return value


def _refuse_constant(name: str) -> Any:
    message = f"{name} is no JSON number"
    raise ValueError(message)


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        message = f"the number {text[:40]} is out of range"
        raise ValueError(message)
    return value


def describe_not_json(value: Any, where: str = "$", depth: int = 0) -> str | None:
    """Why a value is no JSON that can be stored and read again, naming the place; None when it is."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, str):
        return None if is_whole_text(value) else f"{where} holds half a surrogate pair, which is no text"
    if isinstance(value, int):
        return None if value.bit_length() <= _MAX_BITS else f"{where} is a number of more than 4,000 digits"
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{where} is {value}, which JSON has no number for"
    if depth > _MAX_DEPTH:
        return f"it is nested more than {_MAX_DEPTH} deep, or contains itself"
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if (problem := describe_not_json(item, f"{where}[{index}]", depth + 1)) is not None:
                return problem
        return None
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                return f"{where} has a key of type {type(key).__name__}; JSON has text keys only"
            if not is_whole_text(key):
                return f"{where} has a key that holds half a surrogate pair, which is no text"
            if (problem := describe_not_json(item, f"{where}.{key}", depth + 1)) is not None:
                return problem
        return None
    return f"{where} is of type {type(value).__name__}, which is no JSON"


def is_whole_text(text: str) -> bool:
    """Whether a text can be written as UTF-8: it holds no half of a surrogate pair."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def whole_text(text: Any) -> str:
    """A text that can be stored, of what an exception or a stranger says: halves of surrogate pairs are escaped.

    Example:
        >>> whole_text("a\\ud800")
        'a\\\\ud800'
    """
    return str(text).encode("utf-8", "backslashreplace").decode()


def type_name(value: Any) -> str:
    """What JSONata and Step Functions call a value's type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object" if isinstance(value, dict) else "function"
