"""The conditions of Choice states in JSONPath: their parsing and their evaluation."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from headgate.workflow._failure import runtime_error
from headgate.workflow._json import type_name
from headgate.workflow._parse_fields import FieldReader, parse_timestamp
from headgate.workflow._paths import Path, PathNotFoundError
from headgate.workflow._program import Condition
from headgate.workflow._values import Scope

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "Equals": operator.eq,
    "LessThan": operator.lt,
    "GreaterThan": operator.gt,
    "LessThanEquals": operator.le,
    "GreaterThanEquals": operator.ge,
}
TYPE_TESTS = ("IsNull", "IsPresent", "IsNumeric", "IsString", "IsBoolean", "IsTimestamp")
COMPARISONS = (
    *(f"{kind}{order}" for kind in ("String", "Numeric", "Timestamp") for order in _ORDERS),
    "BooleanEquals",
)  # each also with Path behind it
OPERATORS = {*COMPARISONS, *(f"{name}Path" for name in COMPARISONS), *TYPE_TESTS, "StringMatches"}
_LOGIC = ("And", "Or", "Not")


def parse_condition(reader: FieldReader, extra: set[str]) -> Condition | None:
    """The condition that an object of Choices holds.

    Args:
        reader: the object.
        extra: fields that may stand beside the condition: Next, Assign and Comment of a rule.
    """
    node = reader.node
    used = [name for name in node if name in OPERATORS or name in _LOGIC]
    reader.check_known({"Variable", *OPERATORS, *_LOGIC, *extra})
    if len(used) != 1:
        reader.refuse(
            "",
            f"A choice rule must have exactly one comparison operator, not {len(used)}: [{', '.join(used)}]",
            "keep one; join several with And or Or",
        )
        return None
    name = used[0]
    if name in _LOGIC:
        return _parse_logic(reader, name)
    if not reader.require("Variable"):
        return None
    variable = reader.path_field("Variable")
    if name.endswith("Path"):
        return Condition(name.removesuffix("Path"), variable=variable, value_path=reader.path_field(name))
    value = node[name]
    if not _fits(name, value):
        reader.refuse(name, f"Value {value!r} does not fit the operator {name}", f"write {_EXPECTED[_kind(name)]}")
    return Condition(name, variable=variable, value=value)


def _parse_logic(reader: FieldReader, name: str) -> Condition:
    node = reader.node[name]
    entries = [node] if name == "Not" else node
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        expected = "an object" if name == "Not" else "a list of objects that is not empty"
        reader.refuse(name, f"Value of {name} must be {expected}", f"write {expected}")
        return Condition(name)
    parts = []
    for place, entry in enumerate(entries):
        path = reader.at(name) if name == "Not" else f"{reader.at(name)}[{place}]"
        part = parse_condition(FieldReader(entry, path, reader.language, reader.findings), {"Comment"})
        if part is not None:
            parts.append(part)
    return Condition(name, tuple(parts))


_EXPECTED = {
    "String": "a text in quotes", "Numeric": "a number", "Boolean": "true or false", "Is": "true or false",
    "Timestamp": "a time such as 2026-01-31T12:00:00Z",
}  # fmt: skip


def _kind(name: str) -> str:
    return next(kind for kind in _EXPECTED if name.startswith(kind))


def _fits(name: str, value: Any) -> bool:
    kind = _kind(name)
    if kind == "String":
        return isinstance(value, str)
    if kind == "Numeric":
        return type_name(value) == "number"
    if kind == "Timestamp":
        return isinstance(value, str) and parse_timestamp(value) is not None
    return isinstance(value, bool)


def holds(condition: Condition, scope: Scope) -> bool:
    """Whether a condition is true.

    Raises:
        StateError: States.Runtime: a path finds nothing; only IsPresent asks for that.
    """
    if condition.operator == "And":
        return all(holds(part, scope) for part in condition.parts)
    if condition.operator == "Or":
        return any(holds(part, scope) for part in condition.parts)
    if condition.operator == "Not":
        return not holds(condition.parts[0], scope)
    assert condition.variable is not None
    if condition.operator == "IsPresent":
        try:
            scope.find(condition.variable)
        except PathNotFoundError:
            return condition.value is False
        return condition.value is True
    left = _find(condition.variable, scope)
    right = condition.value if condition.value_path is None else _find(condition.value_path, scope)
    if condition.operator in TYPE_TESTS:
        return _has_type(condition.operator, left) is right
    if condition.operator == "StringMatches":
        return isinstance(left, str) and _matches(_pattern(right), left)
    return _compare(condition.operator, left, right)


def _find(path: Path, scope: Scope) -> Any:
    try:
        return scope.find(path)
    except PathNotFoundError:
        raise runtime_error(
            f"Invalid path '{path.text}': The choice state's condition path references an invalid value."
        ) from None


def _has_type(name: str, value: Any) -> bool:
    if name == "IsTimestamp":
        return isinstance(value, str) and parse_timestamp(value) is not None
    expected = {"IsNull": "null", "IsNumeric": "number", "IsString": "string", "IsBoolean": "boolean"}[name]
    return type_name(value) == expected


def _compare(name: str, left: Any, right: Any) -> bool:
    """A comparison of values of another type than the operator's is false."""
    kind = next(k for k in ("String", "Numeric", "Timestamp", "Boolean") if name.startswith(k))
    order = _ORDERS[name.removeprefix(kind)]
    if kind == "Timestamp":
        left, right = (parse_timestamp(v) if isinstance(v, str) else None for v in (left, right))
        return left is not None and right is not None and order(left, right)
    expected = {"String": "string", "Numeric": "number", "Boolean": "boolean"}[kind]
    if type_name(left) != expected or type_name(right) != expected:
        return False
    if kind == "String":
        # By UTF-16 units, as Java compares; the same as by code points except beyond U+FFFF.
        left, right = (v.encode("utf-16-be", "surrogatepass") for v in (left, right))
    return order(left, right)


@lru_cache(maxsize=256)
def _pattern(text: str) -> tuple[str, ...]:
    """The texts between the stars; `\\*` is a star of its own, and `\\\\` a backslash."""
    parts = [""]
    at = 0
    while at < len(text):
        if text[at] == "\\" and text[at + 1 : at + 2] in ("*", "\\"):
            parts[-1] += text[at + 1]
            at += 2
            continue
        if text[at] == "*":
            parts.append("")
        else:
            parts[-1] += text[at]
        at += 1
    return tuple(parts)


def _matches(parts: tuple[str, ...], text: str) -> bool:
    """Whether the text is the parts with anything between them. The leftmost place of each part will do, so that the
    time does not grow with the number of stars, as a regular expression's would."""
    if len(parts) == 1:
        return text == parts[0]
    first, last = parts[0], parts[-1]
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for part in parts[1:-1]:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True
