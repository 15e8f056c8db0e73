"""JSON as it travels between states: strict, compact, and limited to what a state may hand on."""

from __future__ import annotations

import json
import math
from typing import Any

LIMIT_BYTES = 262_144  # what a state, a task or an execution may hand on: 256 KiB of UTF-8


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


def describe_not_json(value: Any, where: str = "$") -> str | None:
    """Why a value is no JSON, naming the place; None when it is."""
    if value is None or isinstance(value, bool | int | str):
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{where} is {value}, which JSON has no number for"
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if (problem := describe_not_json(item, f"{where}[{index}]")) is not None:
                return problem
        return None
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                return f"{where} has a key of type {type(key).__name__}; JSON has text keys only"
            if (problem := describe_not_json(item, f"{where}.{key}")) is not None:
                return problem
        return None
    return f"{where} is of type {type(value).__name__}, which is no JSON"


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
