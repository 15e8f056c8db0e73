"""Parts of a definition that several states share: values, paths, templates, Retry, Catch, and the findings."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from headgate.workflow._failure import ALL, Finding, child
from headgate.workflow._intrinsics import IntrinsicSyntaxError, parse_intrinsic
from headgate.workflow._json import type_name
from headgate.workflow._jsonata import Expression, JsonataSyntaxError, is_expression
from headgate.workflow._paths import Path, PathSyntaxError, parse_path
from headgate.workflow._program import Catcher, Language, Retrier
from headgate.workflow._values import Constant, IntrinsicValue, JsonataValue, ListValue, ObjectValue, PathValue, Value

SCHEMA = "SCHEMA_VALIDATION_FAILED"
TRANSITION = "MISSING_TRANSITION_TARGET"
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


def parse_timestamp(text: str) -> datetime | None:
    """A time of RFC 3339 with a capital T and an offset, as Step Functions takes it; None for anything else."""
    if not _TIMESTAMP.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(_six_digits(text))
    except ValueError:
        return None


def _six_digits(text: str) -> str:
    return re.sub(r"\.(\d+)", lambda m: "." + m[1][:6].ljust(6, "0"), text)


class Findings:
    """Collects what is wrong, with the state that it concerns."""

    def __init__(self) -> None:
        self.all: list[Finding] = []
        self.state = ""

    def error(self, path: str, message: str, mend: str, code: str = SCHEMA) -> None:
        self.all.append(Finding(path, code, message, mend, "error", self.state))

    def warn(self, path: str, message: str, mend: str, code: str) -> None:
        self.all.append(Finding(path, code, message, mend, "warning", self.state))


class FieldReader:
    """Reads the fields of one object of the definition; whatever is wrong goes to the findings.

    Args:
        node: the object.
        path: where it stands.
        language: JSONPath or JSONata.
        findings: where problems go.
    """

    def __init__(self, node: dict[str, Any], path: str, language: Language, findings: Findings) -> None:
        self.node = node
        self.path = path
        self.language = language
        self.findings = findings

    def at(self, name: str) -> str:
        return child(self.path, name)

    def refuse(self, name: str, message: str, mend: str, code: str = SCHEMA) -> None:
        self.findings.error(self.at(name) if name else self.path, message, mend, code)

    def check_known(self, allowed: set[str]) -> None:
        for name in self.node:
            if name not in allowed:
                self.findings.error(
                    self.path,
                    f"Field '{name}' is not supported",
                    f"remove it, or use one of: {', '.join(sorted(allowed))}",
                )

    def require(self, *names: str) -> bool:
        missing = [name for name in names if name not in self.node]
        if missing:
            self.findings.error(
                self.path, f"These fields are required: [{', '.join(missing)}]", f"add {', '.join(missing)}"
            )
        return not missing

    # --- plain values

    def text(self, name: str, default: str = "") -> str:
        value = self.node.get(name, default)
        if isinstance(value, str):
            return value
        self.refuse(name, f"Expected value of type String, not {type_name(value)}", "write it in quotes")
        return default

    def text_of(self, name: str, choices: tuple[str, ...], default: str) -> str:
        value = self.text(name, default)
        if value not in choices:
            self.refuse(name, f"Value must be one of [{', '.join(choices)}], not '{value}'", f"write {choices[0]}")
            return default
        return value

    def number(
        self, name: str, default: Any, *, least: float, most: float = 99_999_999, whole: bool = True
    ) -> Any:  # fmt: skip
        value = self.node.get(name, default)
        if value is default:
            return default
        kind = "Integer" if whole else "Number"
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            self.refuse(
                name, f"Expected value of type {kind}, not {type_name(value)} {value!r}", f"write a {kind.lower()}"
            )
            return default
        if not least <= value <= most:
            self.refuse(name, f"Value {value} is out of range: {least} to {most}", "write a value within the range")
            return default
        return value

    # --- values that are computed

    def path_field(self, name: str, *, reference: bool = False) -> Path | None:
        text = self.node.get(name)
        if not isinstance(text, str):
            self.refuse(
                name, f"Value is not a valid JSONPath: expected a string, not {type_name(text)}", "write a path: $.a"
            )
            return None
        try:
            path = parse_path(text)
        except PathSyntaxError as error:
            kind = "Reference Path" if reference else "JSONPath"
            self.refuse(name, f"Value is not a valid {kind}: {error}", "write a path such as $.a.b")
            return None
        if reference and not path.is_reference:
            self.refuse(
                name,
                f"Value is not a Reference Path: '{text}'",
                "name one place by names and indices, such as $.a.b[0]",
            )
            return None
        return path

    def path_or_call(self, name: str) -> Value | None:
        """ErrorPath and CausePath: a path or an intrinsic call."""
        text = self.node.get(name)
        if isinstance(text, str) and text.startswith("States."):
            try:
                return IntrinsicValue(parse_intrinsic(text), name)
            except IntrinsicSyntaxError as error:
                self.refuse(name, f"Value is not a valid intrinsic function call: {error}", "mend the call")
                return None
        path = self.path_field(name)
        return None if path is None else PathValue(path, name)

    def number_or_path(
        self, name: str, *, least: float, most: float = 99_999_999, whole: bool = True
    ) -> Value | Path | None:
        """A number, `{% expression %}` in JSONata, or the field of the same name with `Path` in JSONPath."""
        path_name = f"{name}Path"
        if name in self.node and path_name in self.node:
            self.refuse("", f"Only one of the fields '{name}' and '{path_name}' may be set", f"remove {path_name}")
            return None
        if path_name in self.node:
            return self.path_field(path_name)
        if name not in self.node:
            return None
        value = self.node[name]
        if self.language == "JSONata" and is_expression(value):
            return self.expression(value, name, self.at(name))
        number = self.number(name, None, least=least, most=most, whole=whole)
        return None if number is None else Constant(number)

    def value(self, name: str) -> Value | None:
        """A field that may hold anything: a payload template in JSONPath, expressions in JSONata."""
        if name not in self.node:
            return None
        value = self.node[name]
        if self.language == "JSONata":
            return self.jsonata(value, name, self.at(name))
        if not isinstance(value, dict | list) and name not in ("Parameters", "Result"):
            self.refuse(name, f"Expected value of type Object, not {type_name(value)}", "write an object")
            return None
        return self.template(value, self.at(name))

    def template(self, node: Any, path: str) -> Value:
        """A JSONPath payload template: members whose name ends in `.$` are paths or intrinsic calls."""
        if isinstance(node, list):
            items = tuple(self.template(item, path) for item in node)
            if all(isinstance(item, Constant) for item in items):
                return Constant(node)
            return ListValue(items)
        if not isinstance(node, dict):
            return Constant(node)
        members = []
        for key, value in node.items():
            if key.endswith(".$") and key[:-2] in node:
                self.findings.error(path, f"The field '{key[:-2]}' is duplicated by '{key}'", "keep one of them")
            if key.endswith(".$"):
                members.append((key[:-2], self._dynamic(key, value, path)))
            else:
                members.append((key, self.template(value, path)))
        if all(isinstance(value, Constant) for _, value in members):
            return Constant(node)
        return ObjectValue(tuple(members))

    def _dynamic(self, key: str, value: Any, path: str) -> Value:
        try:
            if isinstance(value, str) and value.startswith("$"):
                return PathValue(parse_path(value), key)
            if isinstance(value, str) and value.startswith("States."):
                return IntrinsicValue(parse_intrinsic(value), key)
            reason = f"{value!r} is neither"
        except (PathSyntaxError, IntrinsicSyntaxError) as error:
            reason = str(error)
        self.findings.error(
            path,
            f"The value for the field '{key}' must be a valid JSONPath or a valid intrinsic function call",
            f"mend it ({reason}), or take the .$ from the name if it is a constant",
        )
        return Constant(None)

    def jsonata(self, node: Any, field: str, path: str) -> Value:
        """Any JSON whose strings `{% ... %}` are expressions; `field` is what errors call the place."""
        if is_expression(node):
            return self.expression(node, field, path)
        if isinstance(node, str) and (node.startswith("{%") or node.endswith("%}")):
            self.findings.error(
                path,
                "A JSONata expression must begin with '{%' and end with '%}'",
                "write {% expression %}, or a space before it if it is plain text",
            )
        if isinstance(node, list):
            items = tuple(self.jsonata(item, f"{field}[{i}]", f"{path}[{i}]") for i, item in enumerate(node))
            return Constant(node) if all(isinstance(i, Constant) for i in items) else ListValue(items)
        if isinstance(node, dict):
            members = tuple((k, self.jsonata(v, f"{field}/{k}", child(path, k))) for k, v in node.items())
            return Constant(node) if all(isinstance(v, Constant) for _, v in members) else ObjectValue(members)
        return Constant(node)

    def expression(self, text: str, field: str, path: str) -> Value:
        try:
            return JsonataValue(Expression(text[2:-2]), field)
        except JsonataSyntaxError as error:
            self.findings.error(
                path, f"The JSONata expression '{text[2:-2].strip()}' is not valid: {error}", "mend the expression"
            )
            return Constant(None)

    # --- Retry and Catch

    def retriers(self) -> tuple[Retrier, ...]:
        allowed = {
            "ErrorEquals", "IntervalSeconds", "MaxAttempts", "BackoffRate", "MaxDelaySeconds", "JitterStrategy",
            "Comment",
        }  # fmt: skip
        found = []
        entries = self._entries("Retry", allowed)
        for place, entry in enumerate(entries):
            errors = self._errors(entry, place, entries)
            interval = entry.number("IntervalSeconds", 1, least=1)
            longest = entry.number("MaxDelaySeconds", None, least=1, most=31_622_400)
            if longest is not None and longest <= interval:
                entry.refuse(
                    "MaxDelaySeconds",
                    f"MaxDelaySeconds {longest} must be greater than IntervalSeconds {interval}",
                    "make it greater, or remove it",
                )
            found.append(
                Retrier(
                    errors, interval,
                    entry.number("MaxAttempts", 3, least=0),
                    entry.number("BackoffRate", 2.0, least=1.0, whole=False),
                    longest,
                    entry.text_of("JitterStrategy", ("NONE", "FULL"), "NONE") == "FULL",
                )
            )  # fmt: skip
        return tuple(found)

    def catchers(self, targets: Any) -> tuple[Catcher, ...]:
        allowed = {"ErrorEquals", "Next", "Comment", "Assign"}
        allowed |= {"Output"} if self.language == "JSONata" else {"ResultPath"}
        found = []
        entries = self._entries("Catch", allowed)
        for place, entry in enumerate(entries):
            errors = self._errors(entry, place, entries)
            entry.require("Next")
            found.append(
                Catcher(
                    errors,
                    targets(entry, "Next"),
                    entry.path_field("ResultPath", reference=True)
                    if entry.node.get("ResultPath") is not None
                    else None,
                    "ResultPath" in entry.node,
                    entry.value("Assign"),
                    entry.value("Output"),
                )
            )
        return tuple(found)

    def _entries(self, name: str, allowed: set[str]) -> list[FieldReader]:
        entries = self.node.get(name, [])
        if not isinstance(entries, list):
            self.refuse(name, f"Expected value of type Array, not {type_name(entries)}", "write a list of objects")
            return []
        readers = []
        for place, entry in enumerate(entries):
            path = f"{self.at(name)}[{place}]"
            if not isinstance(entry, dict):
                self.findings.error(path, f"Expected value of type Object, not {type_name(entry)}", "write an object")
                continue
            reader = FieldReader(entry, path, self.language, self.findings)
            reader.check_known(allowed)
            readers.append(reader)
        return readers

    def _errors(self, entry: FieldReader, place: int, entries: list[FieldReader]) -> tuple[str, ...]:
        if not entry.require("ErrorEquals"):
            return ()
        names = entry.node["ErrorEquals"]
        if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
            entry.refuse(
                "ErrorEquals", "Value cannot be empty: expected a list of error names", "name an error, or States.ALL"
            )
            return ()
        if ALL in names and len(names) > 1:
            entry.refuse("ErrorEquals", f"{ALL} must appear alone in ErrorEquals", f"leave only {ALL}, or remove it")
        if ALL in names and place + 1 < len(entries):
            entry.refuse("ErrorEquals", f"{ALL} must be the last entry", "move this entry to the end")
        return tuple(names)
