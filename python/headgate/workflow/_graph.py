"""The graph of any state machine: its states and transitions, and what it looks like in Mermaid."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headgate.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headgate.ports import Json

START, END = "start", "end"
_MAX_LABEL = 60


@dataclass(frozen=True)
class Edge:
    """A transition. `kind` is "next", "choice", "default" or "catch"."""

    source: str
    target: str
    label: str = ""
    kind: str = "next"


@dataclass
class Node:
    """A state, with the graphs inside it (branches of a Parallel state, the body of a Map)."""

    name: str
    kind: str
    detail: str = ""
    children: list[Graph] = field(default_factory=list)


@dataclass
class Graph:
    """The states of one level. `starts` names the first; `ends` are those after which nothing comes."""

    nodes: dict[str, Node]
    edges: list[Edge]
    start: str
    ends: list[str]
    label: str = ""


def read_graph(definition: Any, label: str = "") -> Graph:
    """The graph of a state machine (or of a branch of one).

    Args:
        definition: Amazon States Language, as an object.
        label: shown at a branch.

    Raises:
        InvalidInputError: it has no object `States`, or no text `StartAt`; a transition to a state that does not exist
            is drawn to a state of kind "missing".
    """
    states = definition.get("States") if isinstance(definition, dict) else None
    start = definition.get("StartAt") if isinstance(definition, dict) else None
    if not isinstance(states, dict) or not isinstance(start, str):
        message = "the graph cannot be drawn: expected a state machine with StartAt and an object States"
        raise InvalidInputError(message)
    nodes = {name: _node(name, state) for name, state in states.items() if isinstance(state, dict)}
    edges = [edge for name in nodes for edge in _edges(name, states[name])]
    for name in [start, *(edge.target for edge in edges)]:
        nodes.setdefault(name, Node(name, "missing", "no such state"))
    leaving = {edge.source for edge in edges if edge.kind != "catch"}
    ends = [name for name, node in nodes.items() if name not in leaving and node.kind not in ("Fail", "missing")]
    return Graph(nodes, edges, start, ends, label)


def _node(name: str, state: Json) -> Node:
    kind = str(state.get("Type", "?"))
    node = Node(name, kind, _detail(kind, state))
    for number, branch in enumerate(state.get("Branches") or [], 1):
        node.children.append(read_graph(branch, f"branch {number}"))
    body = state.get("ItemProcessor") or state.get("Iterator")
    if body is not None:
        node.children.append(read_graph(body, "for each item"))
    return node


def _detail(kind: str, state: Json) -> str:
    if kind == "Task":
        parameters = state.get("Parameters") or state.get("Arguments") or {}
        found = parameters if isinstance(parameters, dict) else {}
        named = found.get("FunctionName") or found.get("JobName") or found.get("QueueUrl") or found.get("TopicArn")
        resource = str(state.get("Resource", "")).partition(":::")[2] or str(state.get("Resource", ""))
        return f"{resource} {named}" if isinstance(named, str) else resource
    if kind == "Wait":
        forms = ("Seconds", "Timestamp", "SecondsPath", "TimestampPath")
        return next((f"{name} {state[name]}" for name in forms if name in state), "")
    if kind == "Fail":
        return str(state.get("Error", state.get("ErrorPath", "")))
    return ""


def _edges(name: str, state: Json) -> Iterator[Edge]:
    for number, rule in enumerate(state.get("Choices") or [], 1):
        if isinstance(rule, dict) and isinstance(rule.get("Next"), str):
            yield Edge(name, rule["Next"], _condition(rule) or f"rule {number}", "choice")
    if isinstance(state.get("Default"), str):
        yield Edge(name, state["Default"], "default", "default")
    if isinstance(state.get("Next"), str):
        yield Edge(name, state["Next"])
    for catcher in state.get("Catch") or []:
        if isinstance(catcher, dict) and isinstance(catcher.get("Next"), str):
            errors = catcher.get("ErrorEquals")
            label = ", ".join(map(str, errors)) if isinstance(errors, list) else "error"
            yield Edge(name, catcher["Next"], _short(label), "catch")


def _condition(rule: Json) -> str:
    """A choice's condition as one short text."""
    if isinstance(rule.get("Condition"), str):
        return _short(rule["Condition"])
    for word, joined in (("And", " and "), ("Or", " or ")):
        if isinstance(rule.get(word), list):
            return _short(joined.join(_condition(part) for part in rule[word] if isinstance(part, dict)))
    if isinstance(rule.get("Not"), dict):
        return _short(f"not ({_condition(rule['Not'])})")
    names = [name for name in rule if name not in ("Variable", "Next", "Comment", "Output", "Assign")]
    if not names or "Variable" not in rule:
        return ""
    return _short(f"{rule['Variable']} {names[0]} {rule[names[0]]}")


def _short(text: str) -> str:
    flat = " ".join(str(text).split())
    return flat if len(flat) <= _MAX_LABEL else flat[: _MAX_LABEL - 3] + "..."


# --- Mermaid

_OPEN = {
    "Choice": ("{", "}"), "Wait": ("([", "])"), "Pass": ("[/", "/]"), "Succeed": ("((", "))"), "Fail": ("((", "))")
}  # fmt: skip


def to_mermaid(definition: Json) -> str:
    """A state machine as a Mermaid flow chart.

    Args:
        definition: Amazon States Language, as an object.

    Returns:
        The text of the chart. Names and conditions are escaped, so that no text of the definition is read as Mermaid.

    Raises:
        InvalidInputError: it is no state machine.

    Example:
        >>> print(to_mermaid({"StartAt": "A", "States": {"A": {"Type": "Pass", "End": True}}}))
        flowchart TD
          n0((start)) --> n1
          n1[/"A"/]
          n1 --> n2((end))
    """
    writer = _Mermaid()
    lines = writer.level(read_graph(definition), "  ", top=True)
    return "\n".join(["flowchart TD", *lines])


class _Mermaid:
    def __init__(self) -> None:
        self._next = 0

    def ident(self) -> str:
        self._next += 1
        return f"n{self._next - 1}"

    def level(self, graph: Graph, pad: str, *, top: bool) -> list[str]:
        lines: list[str] = []
        start = self.ident() if top else ""
        idents = {name: self.ident() for name in graph.nodes}
        if top:
            lines.append(f"{pad}{start}((start)) --> {idents[graph.start]}")
        for name, node in graph.nodes.items():
            if node.children:
                lines.append(f"{pad}subgraph {idents[name]} [{_quoted(f'{name} ({node.kind})')}]")
                for child in node.children:
                    inner = self.ident()
                    lines.append(f"{pad}  subgraph {inner} [{_quoted(child.label)}]")
                    lines += self.level(child, pad + "    ", top=False)
                    lines.append(f"{pad}  end")
                lines.append(f"{pad}end")
            else:
                before, after = _OPEN.get(node.kind, ("[", "]"))
                shown = name if node.kind == "Pass" or not node.detail else f"{name}\n{node.detail}"
                lines.append(f"{pad}{idents[name]}{before}{_quoted(shown)}{after}")
        for edge in graph.edges:
            arrow = "-.->" if edge.kind == "catch" else "-->"
            label = f"|{_quoted(edge.label)}|" if edge.label else ""
            lines.append(f"{pad}{idents[edge.source]} {arrow}{label} {idents[edge.target]}")
        if top and graph.ends:
            end = self.ident()
            lines.append(f"{pad}{idents[graph.ends[0]]} --> {end}((end))")
            lines += [f"{pad}{idents[name]} --> {end}" for name in graph.ends[1:]]
        return lines


def _quoted(text: str) -> str:
    """A label in quotes; what Mermaid or HTML would read becomes an entity."""
    safe = []
    for character in text:
        if character == "\n":
            safe.append("<br/>")
        elif character.isalnum() or character in " _-.,:()=+*/@'":
            safe.append(character)
        else:
            safe.append(f"#{ord(character)};")
    return '"' + "".join(safe) + '"'
