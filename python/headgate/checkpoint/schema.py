"""Declare a record type once, as a pydantic model; the engine compiles it to its C++ validator and Arrow columns.

What cannot be compiled is named in an error, never skipped. docs/schemas.md lists the subset.
"""

from __future__ import annotations

import types
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ValidationError
from pydantic_core import PydanticUndefined

from headgate._native import core
from headgate.errors import InvalidInputError, Kind

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_BLANKS = " \t\n\v\f\r"
_INT32 = 2**31 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Column:
    """A mark in `Annotated` for what a Python type does not say.

    Args:
        type: the engine's type, when it is not the one of the annotation ("date", "json").
        digits: an integer that may also come as a string of digits.
        blanks: outer blanks of a string: "keep", "trim" or "refuse".
    """

    type: str | None = None
    digits: bool = False
    blanks: str | None = None


def _trim(value: Any) -> Any:
    return value.strip(_BLANKS) if isinstance(value, str) else value


def _no_blanks(value: Any) -> Any:
    if isinstance(value, str) and value != value.strip(_BLANKS):
        message = "outer blanks"
        raise ValueError(message)
    return value


def _date(value: Any) -> Any:
    if isinstance(value, str):
        if len(value) != 10:
            message = "not a YYYY-MM-DD date"
            raise ValueError(message)
        core.parse_timestamp(f"{value}T00:00:00Z")
    return value


def _timestamp(value: Any) -> Any:
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if not isinstance(value, str):
        message = "expected an ISO 8601 date-time string"
        raise ValueError(message)
    return _EPOCH + timedelta(microseconds=core.parse_timestamp(value.strip(_BLANKS)))


def _digits(value: Any) -> Any:
    if isinstance(value, str):
        text = value.strip(_BLANKS)
        return int(text) if text.isascii() and text.isdigit() else value
    return value


Trimmed = Annotated[str, BeforeValidator(_trim), Column(blanks="trim")]
Unpadded = Annotated[str, BeforeValidator(_no_blanks), Column(blanks="refuse")]
DateText = Annotated[str, BeforeValidator(lambda v: _date(_trim(v))), Column(type="date", blanks="trim")]
Timestamp = Annotated[datetime, BeforeValidator(_timestamp), Column(type="timestamp", blanks="trim")]
DigitsInt = Annotated[int, BeforeValidator(_digits), Column(digits=True)]
JsonValue = Annotated[Any, Column(type="json")]


@dataclass(frozen=True)
class OneOfWhen:
    """A cross-field rule: where `when_field` is in `when_in`, `field` is in `one_of`; elsewhere it is null.

    Put rules in the model's class attribute ``headgate_rules``.
    """

    name: str
    when_field: str
    when_in: tuple[str, ...]
    field: str
    one_of: tuple[str, ...]
    else_null: bool = True

    def check(self, model: BaseModel) -> None:
        """The same rule for pydantic; call it from a model validator."""
        value, when = getattr(model, self.field), getattr(model, self.when_field)
        if when in self.when_in:
            ok = value in self.one_of
        else:
            ok = value is None or not self.else_null
        if not ok:
            message = f"rule {self.name}"
            raise ValueError(message)


_KINDS = {
    "missing": "missing",
    "string_pattern_mismatch": "pattern",
    "string_too_short": "length",
    "string_too_long": "length",
    "too_short": "length",
    "too_long": "length",
    "greater_than": "range",
    "greater_than_equal": "range",
    "less_than": "range",
    "less_than_equal": "range",
}


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[tuple[str, str]]:
    """pydantic's errors in the words of the core: (field, kind), as docs/schemas.md lists them.

    Args:
        error: what validating one record raised.
        model: the model.
    """
    rules = {f"rule {rule.name}": rule for rule in getattr(model, "headgate_rules", ())}
    out = []
    for found in error.errors(include_url=False):
        if not found["loc"] and found["type"] == "model_type":
            return [("", "type")]  # not an object
        field = str(found["loc"][0]) if found["loc"] else ""
        text = str(found.get("ctx", {}).get("error", ""))
        if text in rules:
            out.append((rules[text].field, f"rule:{rules[text].name}"))
        elif found["type"] == "extra_forbidden":
            if ("", "unknown") not in out:  # once: a document may have millions, and the name may hold anything
                out.append(("", "unknown"))
        else:
            out.append((field, _kind_of(found["type"], found["input"], text, model.model_fields.get(field))))
    return out


def _kind_of(kind: str, value: Any, text: str, info: FieldInfo | None) -> str:
    if kind in _KINDS:
        return _KINDS[kind]
    if value is None:
        return "null"
    if kind in ("literal_error", "enum"):
        return "enum" if isinstance(value, str) else "type"
    if kind != "value_error" or not isinstance(value, str):
        return "type"
    if text == "outer blanks":
        return "blank"
    marks = [m for m in (info.metadata if info else ()) if isinstance(m, Column)]
    return next((m.type for m in marks if m.type in ("date", "timestamp")), "type")


def compile_model(model: type[BaseModel]) -> dict[str, Any]:
    """The schema plan of a pydantic model.

    Class attributes read: ``headgate_name``, ``headgate_sort_by``, ``headgate_rules``, ``headgate_file_names``
    (regular expressions of the documented subset), ``headgate_private`` (their groups that logs must not show),
    ``headgate_listing_prefixes`` (what names start with before a stamp YYYYMMDD-HHMMSS, for windowed listings).

    Raises:
        InvalidInputError: kind invalid_schema, naming the field and what cannot be compiled.
    """
    config = model.model_config
    plan: dict[str, Any] = {
        "format": 1,
        "name": getattr(model, "headgate_name", model.__name__.lower()),
        # pydantic's "allow" keeps what it does not know; so does the column _rest
        "extra": {"forbid": "forbid", "allow": "rest"}.get(str(config.get("extra")), "ignore"),
        "sort_by": getattr(model, "headgate_sort_by", ""),
        "fields": [_field(name, info) for name, info in model.model_fields.items()],
        "rules": [
            {
                "name": rule.name,
                "when": {"field": rule.when_field, "in": list(rule.when_in)},
                "field": rule.field,
                "in": list(rule.one_of),
                "else_null": rule.else_null,
            }
            for rule in getattr(model, "headgate_rules", ())
        ],
        "file_names": list(getattr(model, "headgate_file_names", ())),
        "private_groups": list(getattr(model, "headgate_private", ())),
        "listing_prefixes": list(getattr(model, "headgate_listing_prefixes", ())),
    }
    return plan


def _refuse(name: str, what: str) -> InvalidInputError:
    return InvalidInputError(f"field {name!r}: {what} cannot be compiled (docs/schemas.md)", Kind.INVALID_SCHEMA)


def _unwrap(annotation: Any) -> tuple[Any, bool, list[Any]]:
    """(the type without Optional and Annotated, nullable, metadata found on the way)."""
    metadata: list[Any] = []
    nullable = False
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            metadata.extend(more)
        elif get_origin(annotation) in (Union, types.UnionType):
            rest = [a for a in get_args(annotation) if a is not type(None)]
            if len(rest) != 1:
                return annotation, nullable, metadata
            nullable = nullable or len(rest) < len(get_args(annotation))
            annotation = rest[0]
        else:
            return annotation, nullable, metadata


def _field(name: str, info: FieldInfo) -> dict[str, Any]:
    annotation, nullable, metadata = _unwrap(info.annotation)
    metadata = [*metadata, *info.metadata]
    plan: dict[str, Any] = {"name": name, "required": info.is_required(), "nullable": nullable}
    marks = [m for m in metadata if isinstance(m, Column)]
    if info.default is not PydanticUndefined and info.default is not None:
        plan["default"] = info.default.value if isinstance(info.default, Enum) else info.default
    elif info.default_factory is list:
        plan["default"] = []
    if get_origin(annotation) is list:
        annotation, _, inner = _unwrap(get_args(annotation)[0])
        if annotation is not str:
            raise _refuse(name, "a list of anything but str")
        plan["type"] = "string_list"
        _constraints(name, plan, [m for m in inner if not isinstance(m, Column)], of_items=True)
        marks.extend(m for m in inner if isinstance(m, Column))
    else:
        plan["type"] = _type(name, annotation, plan, marks)
    _constraints(name, plan, metadata, of_items=False)
    for mark in marks:
        if mark.blanks is not None:
            plan["blanks"] = mark.blanks
        if mark.digits:
            plan["digits"] = True
    if plan["type"] == "int64" and plan.get("maximum", _INT32 + 1) <= _INT32:
        plan["type"] = "int32"
    return plan


def _type(name: str, annotation: Any, plan: dict[str, Any], marks: list[Column]) -> str:
    for mark in marks:
        if mark.type is not None:
            return mark.type
    if get_origin(annotation) is Literal:
        values = list(get_args(annotation))
        if not all(isinstance(v, str) for v in values):
            raise _refuse(name, "a Literal of anything but str")
        plan["values"] = values
        return "string"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        plan["values"] = [str(member.value) for member in annotation]
        return "string"
    simple = {str: "string", int: "int64", float: "float64", bool: "bool"}
    if annotation in simple:
        return simple[annotation]
    raise _refuse(name, f"the type {annotation!r}")


def _constraints(name: str, plan: dict[str, Any], metadata: list[Any], *, of_items: bool) -> None:
    for mark in metadata:
        if isinstance(mark, Column | BeforeValidator):
            continue  # before-validators of this module are what their Column says
        known = False
        for attribute, key in (("min_length", "min_length"), ("max_length", "max_length"), ("pattern", "pattern")):
            value = getattr(mark, attribute, None)
            if value is not None:
                if of_items and key != "pattern":
                    raise _refuse(name, f"{key} of list items (use a pattern)")
                plan[key] = value
                known = True
        if not of_items:
            known = _bounds(plan, mark) or known
        if not known and mark.__class__.__name__ != "FieldInfo":
            raise _refuse(name, f"the constraint {mark!r}")


def _bounds(plan: dict[str, Any], mark: Any) -> bool:
    found = False
    for attribute, key, step in (
        ("ge", "minimum", 0),
        ("gt", "minimum", 1),
        ("le", "maximum", 0),
        ("lt", "maximum", -1),
    ):
        value = getattr(mark, attribute, None)
        if value is not None:
            if step and plan["type"] != "int64":
                continue  # an open bound on a float has no closed form
            plan[key] = value + step
            found = True
    return found
