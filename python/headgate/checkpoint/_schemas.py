"""Which plan a run reads its files by: a declared schema, the one that a target was made with, or inference."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from headgate._native import core
from headgate._registry import PLANS, shipped_plan
from headgate.errors import HeadgateError, InvalidInputError, NotFoundError

INFER = "infer"
FILE_NAME = "filename"  # as DuckDB calls it
UNITS = ("s", "ms", "us", "ns")
_REGULAR = ("\\", "(", "|", "^", "$", ".+", "[.]")  # what no glob of file names has


class Reading(NamedTuple):
    """How files are read, besides their schema: the options of `update` of these names, checked."""

    names: str = ""  # a regular expression of the core's subset
    records: tuple[str, ...] = ()
    file_name: str = ""
    times: dict[str, str] = {}  # noqa: RUF012 - nobody changes it

    def for_inference(self) -> dict[str, Any]:
        """As the core takes it."""
        return {
            "file_names": self.names, "records": list(self.records), "file_column": self.file_name, "times": self.times,
        }  # fmt: skip


def reading_of(
    names: str | None, records: str | Sequence[str], file_name: bool | str, time: Mapping[str, str] | None
) -> Reading:
    """Checked options.

    Raises:
        InvalidInputError: one that cannot be understood.
    """
    for field, unit in (time or {}).items():
        if unit not in UNITS:
            message = f"time: {field!r} is in {unit!r}; expected one of {', '.join(UNITS)}"
            raise InvalidInputError(message)
    column = FILE_NAME if file_name is True else file_name or ""
    if column == "_rest":
        message = "file_name: the column _rest is for unknown fields; name another one"
        raise InvalidInputError(message)
    return Reading(_pattern(names), _path(records), column, dict(time or {}))


def _pattern(names: str | None) -> str:
    """The regular expression behind a glob or a regular expression."""
    if names is None:
        return ""
    if not names or "/" in names or names.endswith((".gz", ".zst")):
        message = (
            f"names: {names!r}: names are judged without their folder and without .gz and .zst; expected as *.json"
        )
        raise InvalidInputError(message)
    regular = names.startswith(".*") or any(mark in names for mark in _REGULAR)
    pattern = names if regular else _from_glob(names)
    try:
        core.Pattern(pattern)
    except HeadgateError as error:
        message = f"names: {names!r} is neither a glob (*.json) nor a regular expression: {error.message}"
        raise InvalidInputError(message) from None
    return pattern


def _from_glob(glob: str) -> str:
    out, at, depth = "", 0, 0
    while at < len(glob):
        char = glob[at]
        end = glob.find("]", at + 2)
        if char == "[" and end > 0:
            inner = glob[at + 1 : end].replace("\\", "\\\\")
            out += f"[^{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"
            at = end
        elif char == "{" and "}" in glob[at:]:
            out, depth = f"{out}(?:", depth + 1
        elif char == "}" and depth:
            out, depth = f"{out})", depth - 1
        elif char == "," and depth:
            out += "|"
        else:
            out += {"*": ".*", "?": "."}.get(char) or (char if char.isalnum() or not char.isascii() else f"[{char}]")
        at += 1
    return out


def _path(records: str | Sequence[str]) -> tuple[str, ...]:
    """`a.b`, a JSON Pointer (/a/b, for names with dots), or the members themselves."""
    if not isinstance(records, str):
        path = tuple(records)
    elif records.startswith("/"):
        path = tuple(part.replace("~1", "/").replace("~0", "~") for part in records[1:].split("/"))
    else:
        path = tuple(records.split(".")) if records else ()
    if not all(isinstance(part, str) and part for part in path):
        message = f"records: {records!r}: expected the names of members, as in Records or data.items"
        raise InvalidInputError(message)
    return path


class Plan(NamedTuple):
    """A schema plan, and whether a target keeps it in its footer because it was inferred."""

    text: str
    inferred: bool


def plan_for(
    schema: str | type[Any] | None, stored: tuple[str, str], infer: Callable[[str], str], reading: Reading, target: str,
    *, evolve: bool = False,
) -> Plan:  # fmt: skip
    """The plan of a run.

    Args:
        schema: as `update` takes it; None: the one that the target was made with, or inference on the first run.
        stored: name and plan in the target's footer.
        infer: infers one from the source, with `reading`; given a plan, adds to it what the source has besides.
        reading: the other options.
        target: as errors name it.
        evolve: a plan that is stored may grow.

    Raises:
        InvalidInputError: the target was made with a model or with other options.
    """
    name, plan = stored
    if schema is None:
        schema = found_schema(name, plan, target)
    if schema == INFER:
        known = _as_stored(plan, reading, target) if plan else ""
        return Plan(known if known and not evolve else infer(known), True)
    return Plan(changed(plan_of(schema), reading), False)


def plan_of_target(schema: str | type[Any] | None, stored: tuple[str, str], reading: Reading, target: str) -> str:
    """The plan that a target was made with.

    Raises:
        NotFoundError: there is no such target.
        InvalidInputError: it was made with a model that is not given, or its schema was not inferred.
    """
    name, plan = stored
    if not name:
        message = f"{target} does not exist"
        raise NotFoundError(message)
    if schema is None:
        schema = found_schema(name, plan, target)
    if schema != INFER:
        return changed(plan_of(schema), reading)
    if not plan:
        message = f"{target} has no inferred schema; name the one it was made with"
        raise InvalidInputError(message)
    return _as_stored(plan, reading, target)


def found_schema(name: str, plan: str, target: str) -> str:
    """The schema that a target's footer tells.

    Raises:
        InvalidInputError: it is a model, which the footer has only the name of.
    """
    if plan or not name:
        return INFER
    if name in PLANS:
        return name
    message = f"schema: {target} holds records of the model {name}; name it (--schema module:Model, schema=Model)"
    raise InvalidInputError(message)


def plan_of(schema: str | type[Any]) -> str:
    """The plan text of a registered name or a pydantic model class."""
    if isinstance(schema, str):
        if schema not in PLANS:
            expected = f"infer, {', '.join(sorted(PLANS))}, or a model class"
            message = f"schema: {schema!r} is not registered; expected one of {expected}"
            raise InvalidInputError(message)
        return shipped_plan(schema)
    from headgate.checkpoint.schema import compile_model

    return json.dumps(compile_model(schema))


def changed(text: str, reading: Reading) -> str:
    """A declared plan, read as the options say."""
    if reading == Reading():
        return text
    plan = json.loads(text)
    _set_names(plan, reading)
    if reading.records:
        plan["records"] = list(reading.records)
    kinds = {field["name"]: field for field in plan["fields"]}
    for name, unit in reading.times.items():
        if kinds.get(name, {}).get("type") != "timestamp":
            message = f"time: {name!r} is not a datetime of the schema {plan['name']}"
            raise InvalidInputError(message)
        kinds[name]["time"] = unit
    if reading.file_name:
        if reading.file_name in kinds:
            message = f"file_name: the schema {plan['name']} has a field {reading.file_name!r}; name another column"
            raise InvalidInputError(message)
        plan["fields"].append(_file_field(reading.file_name))
    return json.dumps(plan)


def _file_field(name: str) -> dict[str, Any]:
    return {"name": name, "type": "string", "required": False, "nullable": True, "source": "file_name"}


def _set_names(plan: dict[str, Any], reading: Reading) -> None:
    if reading.names:
        private = plan.get("private_groups", [])  # then logs show nothing of a name
        plan["file_names"] = [f"(?P<{private[0]}>{reading.names})" if private else reading.names]


def _as_stored(text: str, reading: Reading, target: str) -> str:
    """The plan of a table that is there; other names of files may be read into it, but its rows stay as they are."""
    plan = json.loads(text)
    _set_names(plan, reading)
    times = {field["name"]: field["time"] for field in plan["fields"] if "time" in field}
    column = next((field["name"] for field in plan["fields"] if field.get("source") == "file_name"), "")
    differs = [
        ("records", list(reading.records), plan.get("records", [])),
        ("file_name", reading.file_name, column),
        ("time", reading.times, {name: unit for name, unit in times.items() if name in reading.times}),
    ]  # fmt: skip
    for option, wanted, known in differs:
        if wanted and wanted != known:
            message = f"{option}: {target} was made with {known or 'none'}, not with {wanted}; make a new target"
            raise InvalidInputError(message)
    return json.dumps(plan)


def arrow_schema(plan: dict[str, Any]) -> Any:
    """The Arrow columns of a schema plan, as the core writes them."""
    import pyarrow as pa

    types = {
        "int32": pa.int32(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_(),
        "timestamp": pa.timestamp("us", "UTC"), "string_list": pa.list_(pa.string()),
    }  # fmt: skip
    fields = [pa.field(f["name"], types.get(f["type"], pa.string())) for f in plan["fields"]]
    return pa.schema([*fields, pa.field("_rest", pa.string())] if plan.get("extra") == "rest" else fields)
