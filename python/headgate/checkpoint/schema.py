"""Declare a record type once, as a pydantic model; the engine compiles it to its C++ validator and Arrow columns.

What cannot be compiled is named in an error, never skipped. docs/schemas.md lists the subset.
"""

from __future__ import annotations

import json
import types
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel, BeforeValidator, RootModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from headgate._members import Member
from headgate._native import core
from headgate.errors import InvalidInputError, Kind

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


def _trimmed_date(value: Any) -> Any:
    return _date(_trim(value))


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
DateText = Annotated[str, BeforeValidator(_trimmed_date), Column(type="date", blanks="trim")]
Timestamp = Annotated[datetime, BeforeValidator(_timestamp), Column(type="timestamp", blanks="trim")]
DigitsInt = Annotated[int, BeforeValidator(_digits), Column(digits=True)]
JsonValue = Annotated[Any, Column(type="json")]
_COMPILED = (_trim, _no_blanks, _trimmed_date, _timestamp, _digits)
# attribute of the mark -> what it is in the plan, and the step inwards of an open bound
_BOUNDS = (("ge", "minimum", 0), ("gt", "minimum", 1), ("le", "maximum", 0), ("lt", "maximum", -1))
_EXACT = 2**53
_PLAIN = {datetime: "timestamp", date: "date"}
# of a model's config: what changes which values are taken
_SETTINGS = (
    "str_strip_whitespace", "str_to_lower", "str_to_upper", "str_min_length", "str_max_length", "coerce_numbers_to_str",
)  # fmt: skip


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
    names: dict[tuple[int | str, ...], str] = {
        (key,) if isinstance(key, str) else tuple(key): name
        for name, info in model.model_fields.items()
        for key in _keys(name, info, by_name=False)
    }
    out = []
    for found in error.errors(include_url=False):
        if not found["loc"] and found["type"] == "model_type":
            return [("", "type")]  # not an object
        location = found["loc"]
        field = str(location[0]) if location else ""
        field = next((names[location[:n]] for n in range(len(location), 0, -1) if location[:n] in names), field)
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
    if not kind.endswith(("value_error", "_parsing")) or not isinstance(value, str):
        return "type"
    if text == "outer blanks":
        return "blank"
    annotation, _, metadata = _unwrap(info.annotation if info else None)
    marks = [m for m in (*metadata, *(info.metadata if info else ())) if isinstance(m, Column)]
    return next((m.type for m in marks if m.type in ("date", "timestamp")), _PLAIN.get(annotation, "type"))


def compile_model(model: type[BaseModel]) -> dict[str, Any]:
    """The schema plan of a pydantic model.

    Class attributes read: ``headgate_name``, ``headgate_sort_by``, ``headgate_rules``, ``headgate_file_names``
    (regular expressions of the documented subset), ``headgate_private`` (their groups that logs must not show),
    ``headgate_listing_prefixes`` (what names start with before a stamp YYYYMMDD-HHMMSS, for windowed listings).

    Raises:
        InvalidInputError: kind invalid_schema, naming the field and what cannot be compiled.
    """
    if not (isinstance(model, type) and issubclass(model, BaseModel)) or issubclass(model, RootModel):
        message = f"schema: expected a pydantic model of an object, got {model!r}"
        raise InvalidInputError(message, Kind.INVALID_SCHEMA)
    _refuse_what_is_code(model)
    config = model.model_config
    by_name = bool(config.get("validate_by_name") or config.get("populate_by_name"))
    plan: dict[str, Any] = {
        "format": 1,
        "name": getattr(model, "headgate_name", model.__name__.lower()),
        # pydantic's "allow" keeps what it does not know; so does the column _rest
        "extra": {"forbid": "forbid", "allow": "rest"}.get(str(config.get("extra")), "ignore"),
        "sort_by": getattr(model, "headgate_sort_by", ""),
        "fields": [_field(name, info, by_name=by_name) for name, info in model.model_fields.items()],
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
    core.Validator(json.dumps(plan))  # says what it cannot take
    return plan


def _refuse(name: str, what: str) -> InvalidInputError:
    return InvalidInputError(f"field {name!r}: {what} cannot be compiled (docs/schemas.md)", Kind.INVALID_SCHEMA)


def _refuse_what_is_code(model: type[BaseModel]) -> None:
    """Validators and settings that the core would have to run as pydantic does."""
    code = model.__pydantic_decorators__
    found = [f"the validator {name}" for name in (*code.validators, *code.field_validators, *code.root_validators)]
    if not getattr(model, "headgate_rules", ()):  # one that checks these is what they say
        found += [f"the validator {name}" for name in code.model_validators]
    found += [f"the setting {name}" for name in _SETTINGS if model.model_config.get(name)]
    if found:
        message = f"{model.__name__}: {', '.join(found)} cannot be compiled (docs/schemas.md)"
        raise InvalidInputError(message, Kind.INVALID_SCHEMA)


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


def _field(name: str, info: FieldInfo, *, by_name: bool) -> dict[str, Any]:
    annotation, nullable, metadata = _unwrap(info.annotation)
    metadata = [*metadata, *info.metadata]
    plan: dict[str, Any] = {"name": name, "required": info.is_required(), "nullable": nullable}
    if (keys := _keys(name, info, by_name=by_name)) != [name]:
        plan["keys"] = keys
    marks = [m for m in metadata if isinstance(m, Column)]
    if info.default_factory in (list, dict):
        plan["default"] = info.default_factory()
    elif info.default_factory is not None:
        raise _refuse(name, "a default_factory other than list or dict")
    elif info.default is not PydanticUndefined and info.default is not None:
        plan["default"] = info.default.value if isinstance(info.default, Enum) else info.default
        try:
            json.dumps(plan["default"], allow_nan=False)
        except (TypeError, ValueError):
            raise _refuse(name, "a default that is not plain JSON") from None
    if get_origin(annotation) is list:
        annotation, nullable_item, inner = _unwrap(get_args(annotation)[0])
        if annotation is not str or nullable_item:
            raise _refuse(name, "a list of anything but str")
        plan["type"] = "string_list"
        _constraints(name, plan, [m for m in inner if not isinstance(m, Column)], of_items=True)
        marks.extend(m for m in inner if isinstance(m, Column))
    else:
        plan["type"] = _type(name, annotation, plan, marks)
        plan["nullable"] = plan["nullable"] or annotation is Any
    _constraints(name, plan, metadata, of_items=False)
    for mark in marks:
        if mark.blanks is not None:
            plan["blanks"] = mark.blanks
        if mark.digits:
            plan["digits"] = True
    if plan["type"] == "int64" and plan.get("maximum", _INT32 + 1) <= _INT32:
        plan["type"] = "int32"
    return plan


def _keys(name: str, info: FieldInfo, *, by_name: bool) -> list[Member]:
    """The members of a record that may hold the field; a list is the way to a nested one."""
    alias = info.validation_alias
    if alias is None:
        return [name]
    keys: list[Member] = []
    for choice in alias.choices if isinstance(alias, AliasChoices) else [alias]:
        path = [choice] if isinstance(choice, str) else choice.path
        if not all(isinstance(part, str) for part in path):
            raise _refuse(name, "an AliasPath with a position in a list")
        keys.append(str(path[0]) if len(path) == 1 else [str(part) for part in path])
    return [*keys, *([name] if by_name and name not in keys else [])]


def _type(name: str, annotation: Any, plan: dict[str, Any], marks: list[Column]) -> str:
    for mark in marks:
        if mark.type is not None:
            return mark.type
    if get_origin(annotation) is Literal:
        values = list(get_args(annotation))
        if None in values:
            values.remove(None)
            plan["nullable"] = True
        if not all(isinstance(v, str) for v in values):
            raise _refuse(name, "a Literal of anything but str")
        plan["values"] = values
        return "string"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        if not all(isinstance(member.value, str) for member in annotation):
            raise _refuse(name, "an Enum of anything but str")
        plan["values"] = [member.value for member in annotation]
        return "string"
    simple: dict[Any, str] = {str: "string", int: "int64", float: "float64", bool: "bool", **_PLAIN}
    if annotation in simple:
        if annotation is datetime:
            plan["time"] = "wide"  # pydantic's own grammar; Timestamp's is the core's
        return simple[annotation]
    raise _refuse(name, f"the type {annotation!r}")


def _constraints(name: str, plan: dict[str, Any], metadata: list[Any], *, of_items: bool) -> None:
    for mark in metadata:
        if isinstance(mark, FieldInfo):  # Field(...) inside a union or a list
            _constraints(name, plan, mark.metadata, of_items=of_items)
            continue
        if isinstance(mark, Column) or (isinstance(mark, BeforeValidator) and mark.func in _COMPILED):
            continue  # those of this module are what their Column says
        # pydantic's and annotated_types' marks alike: what is set must be one of these
        given = {n for n in dir(mark) if not n.startswith("_")}
        given -= {n for n in given if getattr(mark, n) is None or getattr(mark, n) is False}
        known = {"strict"}  # as the core always is
        for key in ("min_length", "max_length", "pattern"):
            if key in given:
                known.add(key)
                if of_items and key != "pattern":
                    raise _refuse(name, f"{key} of list items (use a pattern)")
                if key == "pattern" and not (mark.pattern.startswith("^") and mark.pattern.endswith("$")):
                    raise _refuse(name, f"the pattern {mark.pattern!r}, which is not of a whole value (^...$),")
                plan[key] = getattr(mark, key)
        if not of_items:
            known |= _bounds(name, plan, mark, given)
        if isinstance(mark, BeforeValidator) or given - known:
            raise _refuse(name, f"the constraint {mark!r}")


def _bounds(name: str, plan: dict[str, Any], mark: Any, given: set[str]) -> set[str]:
    found = set()
    for attribute, key, step in _BOUNDS:
        if attribute not in given or plan["type"] not in ("int64", "float64"):
            continue
        value = getattr(mark, attribute)
        if plan["type"] == "float64" and step:
            continue  # an open bound on a float has no closed form
        if abs(value) > _EXACT:
            raise _refuse(name, f"the bound {value}, beyond what a double holds exactly,")
        plan[key] = value + step
        found.add(attribute)
    return found
