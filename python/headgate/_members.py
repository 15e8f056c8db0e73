"""Members of a record that hold a field: names, or the way to a nested one (pydantic's AliasPath)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Member = str | list[str]
_NONE = object()


def first_value(record: dict[str, Any], members: Iterable[Member]) -> Any:
    """The value of the first of several members that a record has, or None."""
    found = (_value(record, member) for member in members)
    return next((value for value in found if value is not _NONE), None)


def _value(record: Any, member: Member) -> Any:
    for name in [member] if isinstance(member, str) else member:
        if not isinstance(record, dict) or name not in record:
            return _NONE
        record = record[name]
    return record


def record_of(fields: dict[str, Any], members: dict[str, list[Member]]) -> dict[str, Any]:
    """The record that has these fields in the first of the members that may hold each."""
    out: dict[str, Any] = {}
    for name, value in fields.items():
        first = members.get(name, [name])[0]
        *way, last = [first] if isinstance(first, str) else first
        inner = out
        for part in way:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return out
