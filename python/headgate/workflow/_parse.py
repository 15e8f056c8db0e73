"""Parses a definition of the States Language into a typed program, and finds every problem on the way.

Example:
    >>> parsed = parse_definition({"StartAt": "A", "States": {"A": {"Type": "Pass", "Next": "B"}}})
    >>> [str(f) for f in parsed.findings][0]
    "state 'A': Missing 'Next' target: B (at $.States.A.Next; MISSING_TRANSITION_TARGET): name one of: A"
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from headgate.workflow._choice import parse_condition
from headgate.workflow._failure import Finding, child
from headgate.workflow._json import load_json, type_name
from headgate.workflow._jsonata import is_expression
from headgate.workflow._parse_fields import TRANSITION, FieldReader, Findings, parse_timestamp
from headgate.workflow._parse_map import map_fields
from headgate.workflow._program import (
    ChoiceRule,
    ChoiceState,
    FailState,
    Language,
    Machine,
    MapState,
    ParallelState,
    PassState,
    Resource,
    State,
    SucceedState,
    TaskState,
    WaitState,
)
from headgate.workflow._resources import REQUIRED, parse_resource
from headgate.workflow._values import Constant, Value

_LANGUAGES = ("JSONPath", "JSONata")
_NAME_LIMIT = 80
_COMMON = {"Type", "Comment", "QueryLanguage"}
_PATHS = {"InputPath", "OutputPath"}
_FLOW = {"Next", "End"}
_RESULT = {"ResultSelector", "ResultPath"}
_RECOVERY = {"Retry", "Catch"}
# state type -> the fields it may have in both languages, in JSONPath only, in JSONata only
FIELDS: dict[str, tuple[set[str], set[str], set[str]]] = {
    "Pass": ({*_FLOW, "Assign"}, {*_PATHS, "Parameters", "Result", "ResultPath"}, {"Output"}),
    "Task": (
        {*_FLOW, *_RECOVERY, "Assign", "Resource", "TimeoutSeconds", "HeartbeatSeconds", "Credentials"},
        {*_PATHS, *_RESULT, "Parameters", "TimeoutSecondsPath", "HeartbeatSecondsPath"},
        {"Arguments", "Output"},
    ),
    "Choice": ({"Choices", "Default", "Assign"}, _PATHS, {"Output"}),
    "Wait": ({*_FLOW, "Assign", "Seconds", "Timestamp"}, {*_PATHS, "SecondsPath", "TimestampPath"}, {"Output"}),
    "Succeed": (set(), _PATHS, {"Output"}),
    "Fail": ({"Error", "Cause"}, {"ErrorPath", "CausePath"}, set()),
    "Parallel": (
        {*_FLOW, *_RECOVERY, "Assign", "Branches"}, {*_PATHS, *_RESULT, "Parameters"}, {"Arguments", "Output"},
    ),
    "Map": (
        {
            *_FLOW, *_RECOVERY, "Assign", "ItemProcessor", "Iterator", "ItemSelector", "MaxConcurrency", "ItemReader",
            "ItemBatcher", "ResultWriter", "ToleratedFailureCount", "ToleratedFailurePercentage", "Label",
        },
        {
            *_PATHS, *_RESULT, "Parameters", "ItemsPath", "MaxConcurrencyPath", "ToleratedFailureCountPath",
            "ToleratedFailurePercentagePath",
        },
        {"Items", "Output"},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Parsed:
    """What became of a definition: the program, unless there are errors, and all findings."""

    machine: Machine | None
    findings: list[Finding]

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]


def parse_definition(definition: Any, kind: str = "STANDARD") -> Parsed:
    """Parse a definition.

    Args:
        definition: the parsed JSON, or its text.
        kind: STANDARD or EXPRESS, which allows less.
    """
    findings = Findings()
    node = _as_object(definition, findings)
    if node is None:
        return Parsed(None, findings.all)
    machine = _MachineReader(findings, kind).top(node)
    broken = any(finding.severity == "error" for finding in findings.all)
    return Parsed(None if broken else machine, findings.all)


def _as_object(definition: Any, findings: Findings) -> dict[str, Any] | None:
    doubled: list[str] = []

    def pairs(members: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in members:
            if key in found:
                doubled.append(key)
            found[key] = value
        return found

    if isinstance(definition, str):
        if not definition.strip():
            findings.error("$", "Definition must be a valid JSON object", "write a JSON object with StartAt and States")
            return None
        try:
            definition = load_json(definition, pairs)
        except ValueError as error:
            findings.error("$", _json_problem(definition, error), "mend the JSON", "INVALID_JSON_DESCRIPTION")
            return None
    if not isinstance(definition, dict):
        findings.error("$", "Definition must be a valid JSON object", "write a JSON object with StartAt and States")
        return None
    for key in doubled:
        findings.error("$", f"The name '{key}' stands twice in one object", "rename one", "DUPLICATE_STATE_NAME")
    return definition


def _json_problem(text: str, error: ValueError) -> str:
    """What is wrong with a text that is no JSON, in the words of Step Functions where they are known."""
    word = re.match(r"\s*([A-Za-z_]\w*)", text)
    if word and word[1] not in ("true", "false", "null"):
        return (
            f"Unrecognized token '{word[1]}': was expecting (JSON String, Number, Array, Object or token 'null',"
            " 'true' or 'false')"
        )
    return str(error)


class _MachineReader:
    def __init__(self, findings: Findings, kind: str) -> None:
        self.findings = findings
        self.kind = kind
        self.names: dict[str, str] = {}
        self.top_language: Language = "JSONPath"

    def top(self, node: dict[str, Any]) -> Machine | None:
        reader = FieldReader(node, "$", "JSONPath", self.findings)
        reader.check_known({"Comment", "StartAt", "States", "Version", "TimeoutSeconds", "QueryLanguage"})
        self.top_language = self._language(reader, "JSONPath")
        if "Version" in node and node["Version"] != "1.0":
            reader.refuse("Version", "Value must be one of [1.0]", "write 1.0, or remove it")
        timeout = reader.number("TimeoutSeconds", None, least=1)
        return self.machine(node, "$", timeout)

    def _language(self, reader: FieldReader, default: Language) -> Language:
        value = reader.node.get("QueryLanguage", default)
        if value not in _LANGUAGES:
            reader.refuse(
                "QueryLanguage", f"Value must be one of [{', '.join(_LANGUAGES)}]", "write JSONPath or JSONata"
            )
            return default
        return value  # type: ignore[no-any-return]

    def machine(self, node: dict[str, Any], path: str, timeout: float | None = None) -> Machine | None:
        """The part that a machine, a branch and a Map's processor have in common."""
        outer = self.findings.state
        reader = FieldReader(node, path, "JSONPath", self.findings)
        reader.text("Comment")
        missing = not reader.require(*(n for n in ("StartAt", "States") if n not in node))
        states = node.get("States")
        if not isinstance(states, dict) or not states:
            if "States" in node:
                reader.refuse("States", "Value cannot be empty: expected an object of states", "add a state")
            return None
        parsed = {}
        for name, state in states.items():
            found = self.state(name, state, child(reader.at("States"), name))
            if found is not None:
                parsed[name] = found
        self.findings.state = outer
        self._check_flow(node, path, states)
        return None if missing else Machine(path, str(node["StartAt"]), parsed, timeout, str(node.get("Comment", "")))

    def state(self, name: str, node: Any, path: str) -> State | None:
        self.findings.state = name
        if not isinstance(node, dict):
            self.findings.error(path, f"Expected value of type Object, not {type_name(node)}", "write a state")
            return None
        if not 0 < len(name) <= _NAME_LIMIT:
            self.findings.error(path, f"State names have 1 to {_NAME_LIMIT} characters, not {len(name)}", "shorten it")
        if name in self.names:
            message = f"Duplicate State name: {name}, which is also at {self.names[name]}"
            self.findings.error(
                path, message, "names are unique in the whole definition: rename one", "DUPLICATE_STATE_NAME"
            )
        self.names[name] = path
        bare = FieldReader(node, path, self.top_language, self.findings)
        if not bare.require("Type"):
            return None
        kind = node["Type"]
        if kind not in FIELDS:
            bare.refuse("Type", f"Value must be one of [{', '.join(FIELDS)}], not {kind!r}", "mend the type")
            return None
        language = self._language(bare, self.top_language)
        if self.top_language == "JSONata" and language == "JSONPath":
            bare.refuse(
                "QueryLanguage",
                "'QueryLanguage' can not be 'JSONPath' if set to 'JSONata' for whole state machine",
                "set JSONata at the states that need it instead of the whole machine",
            )
        both, json_path, jsonata = FIELDS[kind]
        reader = FieldReader(node, path, language, self.findings)
        reader.check_known(_COMMON | both | (jsonata if language == "JSONata" else json_path))
        reader.text("Comment")
        return self._typed(kind, reader, self._shared(name, kind, reader))

    def _shared(self, name: str, kind: str, reader: FieldReader) -> dict[str, Any]:
        node = reader.node
        shared: dict[str, Any] = {"name": name, "type": kind, "path": reader.path, "language": reader.language}
        if "Next" in FIELDS[kind][0]:
            self._transition(reader, shared)
        for field, key, discards in (
            ("InputPath", "input_path", "discards_input"), ("OutputPath", "output_path", "discards_output"),
            ("ResultPath", "result_path", "discards_result"),
        ):  # fmt: skip
            if field in node and field in FIELDS[kind][1] and reader.language == "JSONPath":
                if node[field] is None:
                    shared[discards] = True
                else:
                    shared[key] = reader.path_field(field, reference=field == "ResultPath")
        arguments = "Arguments" if reader.language == "JSONata" else "Parameters"
        if kind != "Map" and arguments in FIELDS[kind][2 if reader.language == "JSONata" else 1]:
            shared["parameters"] = reader.value(arguments)
        if reader.language == "JSONPath":
            shared["result_selector"] = reader.value("ResultSelector")
        elif kind != "Fail":
            shared["output"] = reader.value("Output")
        shared["assign"] = reader.value("Assign")
        if "Assign" in node and not isinstance(node["Assign"], dict):
            reader.refuse(
                "Assign", f"Expected value of type Object, not {type_name(node['Assign'])}", "write an object"
            )
        if "Retry" in FIELDS[kind][0]:
            shared["retriers"] = reader.retriers()
            shared["catchers"] = reader.catchers(_target)
        return shared

    def _transition(self, reader: FieldReader, shared: dict[str, Any]) -> None:
        node = reader.node
        if "Next" in node and "End" in node:
            reader.refuse("", "Only one of the fields 'Next' and 'End' may be set", "remove one of them")
        elif "Next" not in node and "End" not in node:
            reader.refuse("", "One of the fields 'Next' and 'End' is required", 'add "End": true or "Next"')
        if "End" in node and node["End"] is not True:
            reader.refuse("End", "Value must be true", 'write "End": true, or Next instead')
        shared["next"] = _target(reader, "Next") if "Next" in node else None
        shared["is_end"] = "End" in node

    def _typed(self, kind: str, reader: FieldReader, shared: dict[str, Any]) -> State | None:
        builders: dict[str, Callable[[FieldReader, dict[str, Any]], State | None]] = {
            "Pass": self._pass, "Task": self._task, "Choice": self._choice, "Wait": self._wait,
            "Succeed": lambda _, shared: SucceedState(**shared), "Fail": self._fail, "Parallel": self._parallel,
            "Map": self._map,
        }  # fmt: skip
        return builders[kind](reader, shared)

    def _pass(self, reader: FieldReader, shared: dict[str, Any]) -> State:
        return PassState(**shared, result=reader.node.get("Result"), has_result="Result" in reader.node)

    def _fail(self, reader: FieldReader, shared: dict[str, Any]) -> State:
        values: dict[str, Any] = {}
        for field in ("Error", "Cause"):
            if field in reader.node and f"{field}Path" in reader.node:
                reader.refuse(
                    "", f"Only one of the fields '{field}' and '{field}Path' may be set", f"remove {field}Path"
                )
            if f"{field}Path" in reader.node and reader.language == "JSONPath":
                values[field.lower()] = reader.path_or_call(f"{field}Path")
            elif field in reader.node:
                text = reader.text(field)
                is_dynamic = reader.language == "JSONata" and is_expression(text)
                values[field.lower()] = (
                    reader.expression(text, field, reader.at(field)) if is_dynamic else Constant(text)
                )
        return FailState(**shared, **values)

    def _wait(self, reader: FieldReader, shared: dict[str, Any]) -> State:
        node = reader.node
        given = [name for name in ("Seconds", "SecondsPath", "Timestamp", "TimestampPath") if name in node]
        if len(given) != 1:
            reader.refuse(
                "", f"Exactly one of Seconds, SecondsPath, Timestamp, TimestampPath is required, not {len(given)}",
                "keep one of them",
            )  # fmt: skip
            return WaitState(**shared)
        name = given[0]
        if name.endswith("Path"):
            return WaitState(**shared, kind=name, value=reader.path_field(name))
        if reader.language == "JSONata" and is_expression(node[name]):
            return WaitState(**shared, kind=name, value=reader.expression(node[name], name, reader.at(name)))
        if name == "Seconds":
            return WaitState(**shared, kind=name, value=Constant(reader.number(name, 0, least=0)))
        text = reader.text(name)
        if parse_timestamp(text) is None:
            reader.refuse(name, "String does not match RFC3339 timestamp", "write it as 2026-01-31T12:00:00Z")
        return WaitState(**shared, kind=name, value=Constant(text))

    def _choice(self, reader: FieldReader, shared: dict[str, Any]) -> State:
        node = reader.node
        default = _target(reader, "Default") if "Default" in node else None
        if not reader.require("Choices"):
            return ChoiceState(**shared)
        entries = node["Choices"]
        if not isinstance(entries, list) or not entries:
            reader.refuse("Choices", "Value cannot be empty: expected a list of rules", "add a rule")
            return ChoiceState(**shared)
        rules = []
        for place, entry in enumerate(entries):
            path = f"{reader.at('Choices')}[{place}]"
            if not isinstance(entry, dict):
                self.findings.error(path, f"Expected value of type Object, not {type_name(entry)}", "write a rule")
                continue
            rules.append(self._rule(FieldReader(entry, path, reader.language, self.findings)))
        return ChoiceState(**shared, rules=tuple(rules), default=default)

    def _rule(self, reader: FieldReader) -> ChoiceRule:
        reader.require("Next")
        target = _target(reader, "Next")
        if reader.language == "JSONPath":
            condition = parse_condition(reader, {"Next", "Assign", "Comment"})
            return ChoiceRule(target, reader.path, condition, assign=reader.value("Assign"))
        reader.check_known({"Condition", "Next", "Assign", "Output", "Comment"})
        expression = None
        if reader.require("Condition"):
            text = reader.node["Condition"]
            if is_expression(text) or isinstance(text, bool):
                expression = reader.jsonata(text, "Condition", reader.at("Condition"))
            else:
                reader.refuse("Condition", "Value must be a JSONata expression", "write {% expression %}")
        return ChoiceRule(target, reader.path, None, expression, reader.value("Assign"), reader.value("Output"))

    def _task(self, reader: FieldReader, shared: dict[str, Any]) -> State:
        resource = self._resource(reader)
        timeout = reader.number_or_path("TimeoutSeconds", least=1)
        heartbeat = reader.number_or_path("HeartbeatSeconds", least=1)
        if isinstance(timeout, Constant) and isinstance(heartbeat, Constant) and heartbeat.value >= timeout.value:
            reader.refuse(
                "HeartbeatSeconds",
                f"HeartbeatSeconds {heartbeat.value} must be smaller than TimeoutSeconds {timeout.value}",
                "make it smaller",
            )
        return TaskState(
            **shared, resource=resource, timeout=timeout, heartbeat=heartbeat, credentials=self._credentials(reader)
        )

    def _credentials(self, reader: FieldReader) -> Value | None:
        node = reader.node.get("Credentials")
        if node is None:
            return None
        if isinstance(node, dict) and "RoleArn" not in node and "RoleArn.$" not in node:
            reader.refuse("Credentials", "The field 'RoleArn' is required but was missing", "add RoleArn")
        return reader.value("Credentials")

    def _resource(self, reader: FieldReader) -> Resource:
        unknown = Resource("", "function")
        if not reader.require("Resource"):
            return unknown
        node = reader.node["Resource"]
        if isinstance(node, dict) and all(key == "Ref" or key.startswith("Fn::") for key in node):
            return Resource(f"${{{json.dumps(node)}}}", "function")  # CloudFormation puts an ARN there
        text = reader.text("Resource")
        found = parse_resource(text)
        if found is None:
            reader.refuse(
                "Resource",
                f"The resource provided {text} is not recognized. The value is not a valid resource ARN, or the"
                " resource is not available in this region.",
                "write the ARN of a function, an activity, or arn:aws:states:::service:action",
            )
            return unknown
        if self.kind == "EXPRESS" and (found.is_sync or found.pattern or found.kind == "activity"):
            shown = f".{'sync' if found.is_sync else found.pattern}" if found.pattern else "activity"
            what = f"'{shown}' service integration" if found.pattern else "activities"
            message = f"Express state machine does not support {what}"
            reader.refuse("Resource", message, "make the state machine STANDARD, or do not wait here")
        if found.kind == "service":
            self._required_parameters(reader, found)
        return found

    def _required_parameters(self, reader: FieldReader, resource: Resource) -> None:
        name = "Arguments" if reader.language == "JSONata" else "Parameters"
        given = reader.node.get(name)
        if not isinstance(given, dict):
            return  # the state's input holds them, or an expression gives them
        for field in REQUIRED.get((resource.service, resource.action), ()):
            if field not in given and f"{field}.$" not in given:
                reader.refuse(
                    name,
                    f"The field '{field}' is required but was missing",
                    f"add {field}",
                )

    def _parallel(self, reader: FieldReader, shared: dict[str, Any]) -> State:
        if not reader.require("Branches"):
            return ParallelState(**shared)
        entries = reader.node["Branches"]
        if not isinstance(entries, list) or not entries:
            reader.refuse("Branches", "Value cannot be empty: expected a list of branches", "add a branch")
            return ParallelState(**shared)
        branches = []
        for place, entry in enumerate(entries):
            branch = self.inner(entry, f"{reader.at('Branches')}[{place}]", {"Comment", "StartAt", "States"})
            if branch is not None:
                branches.append(branch)
        return ParallelState(**shared, branches=tuple(branches))

    def inner(self, node: Any, path: str, allowed: set[str]) -> Machine | None:
        """A branch or a processor."""
        if not isinstance(node, dict):
            self.findings.error(path, f"Expected value of type Object, not {type_name(node)}", "write a state machine")
            return None
        FieldReader(node, path, "JSONPath", self.findings).check_known(allowed)
        outer = self.findings.state
        machine = self.machine(node, path)
        self.findings.state = outer
        return machine

    def _map(self, reader: FieldReader, shared: dict[str, Any]) -> State:
        return MapState(**shared, **map_fields(reader, self.inner, self.kind))

    # --- how states lead to each other

    def _check_flow(self, node: dict[str, Any], path: str, states: dict[str, Any]) -> None:
        known = ", ".join(states)
        start = node.get("StartAt")
        if "StartAt" in node and start not in states:
            message = f"Missing 'Next' target: {start}"
            self.findings.error(child(path, "StartAt"), message, f"name one of: {known}", TRANSITION)
        outer = self.findings.state
        for name, state in states.items():
            self.findings.state = name
            for field, target in transitions(state):
                if target not in states:
                    where = child(child(path, "States"), name) + field
                    self.findings.error(where, f"Missing 'Next' target: {target}", f"name one of: {known}", TRANSITION)
        self.findings.state = outer
        if not any(is_terminal(state) for state in states.values()):
            self.findings.error(
                path, "Workflow has no terminal state", 'end it with "End": true, Succeed or Fail', "MISSING_END_STATE"
            )
            return
        if start not in states:
            return
        reached = reachable(start, states)
        for name in states:
            if name not in reached:
                self.findings.state = name
                where = child(child(path, "States"), name)
                message = f'State "{name}" is not reachable.'
                self.findings.error(where, message, "lead to it with Next, or remove it", TRANSITION)
        self.findings.state = outer


def _target(reader: FieldReader, field: str) -> str:
    return reader.text(field)


def is_terminal(state: Any) -> bool:
    """Whether an execution may end in a state of the definition."""
    return isinstance(state, dict) and (state.get("End") is True or state.get("Type") in ("Succeed", "Fail"))


def transitions(state: Any) -> list[tuple[str, str]]:
    """Where a state of the definition leads: (field, target)."""
    if not isinstance(state, dict):
        return []
    found = [(f".{field}", state[field]) for field in ("Next", "Default") if isinstance(state.get(field), str)]
    for field in ("Choices", "Catch"):
        entries = state.get(field)
        for place, entry in enumerate(entries if isinstance(entries, list) else ()):
            if isinstance(entry, dict) and isinstance(entry.get("Next"), str):
                found.append((f".{field}[{place}].Next", entry["Next"]))
    return found


def reachable(start: Any, states: dict[str, Any]) -> set[str]:
    """The states that can be reached from a state of the definition."""
    found: set[str] = set()
    left = [start]
    while left:
        name = left.pop()
        if name in found or name not in states:
            continue
        found.add(name)
        left += [target for _, target in transitions(states[name])]
    return found
