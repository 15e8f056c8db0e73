"""What a validator's problems are in words: what each field should have been, and what it was. No values."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headgate.ports import Json

_MAX_PROBLEMS = 20
_KINDS = {dict: "object", list: "array", str: "text", bool: "boolean", int: "integer", float: "number"}


def explain(plan: str, problems: Sequence[tuple[str, str]], doc: Json) -> str:
    """One line of a record's problems.

    Args:
        plan: the schema's plan.
        problems: (field or an empty text for the record, kind), as `core.Validator` says it.
        doc: the record; only the kinds and lengths of its values are told.

    Example:
        >>> plan = '{"fields": [{"name": "n", "type": "int64", "nullable": false}]}'
        >>> explain(plan, [("n", "type")], {"n": "a secret"})
        'n: type (expected int64, got text of 8 characters)'
    """
    fields = _fields(plan)
    parts = []
    for name, kind in problems[:_MAX_PROBLEMS]:
        field = fields.get(name)
        if field is None:
            parts.append(f"{name or 'record'}: {kind}")
        else:
            parts.append(f"{name}: {kind} (expected {_expected(field)}, got {_got(doc, name)})")
    if len(problems) > _MAX_PROBLEMS:
        parts.append(f"{len(problems) - _MAX_PROBLEMS} more")
    return "; ".join(parts)


@lru_cache(maxsize=16)
def _fields(plan: str) -> dict[str, Json]:
    return {field["name"]: field for field in json.loads(plan).get("fields", ())}


def _expected(field: Json) -> str:
    words = [str(field.get("type", "a value"))]
    if field.get("values"):
        words.append(f"one of {', '.join(map(str, field['values']))}")
    if "min_length" in field or "max_length" in field:
        words.append(f"of {field.get('min_length', 0)} to {field.get('max_length', 'any number of')} characters")
    if "pattern" in field:
        words.append(f"that matches {field['pattern']}")
    if field.get("nullable"):
        words.append("or null")
    return " ".join(words)


def _got(doc: Json, name: str) -> str:
    if name not in doc:
        return "nothing"
    value: Any = doc[name]
    if value is None:
        return "null"
    kind = next((word for cls, word in _KINDS.items() if type(value) is cls), type(value).__name__)
    return f"{kind} of {len(value)} characters" if isinstance(value, str) else kind
