"""JSONPath as Step Functions reads it: the Jayway dialect, with its rules for what is missing.

A path is definite when it can find at most one value; a definite path that finds nothing is an error, any other gives
a list that may be empty.

Example:
    >>> find(parse_path("$.orders[?(@.price > 5)].id"), {"orders": [{"id": 1, "price": 4}, {"id": 2, "price": 6}]})
    [2]
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import Any

from headgate.workflow._filters import Filter, FilterParser

_WORD_END = frozenset(".[]() \t\n'\",")
_WORD_END_IN_FILTER = _WORD_END | frozenset("<>=!&|~")
_FROM_END = re.compile(r"\(\s*@\.length\s*-\s*(\d+)\s*\)")  # the older way to write a negative index
FUNCTIONS = (
    "length",
    "size",
    "min",
    "max",
    "avg",
    "sum",
    "stddev",
    "keys",
    "first",
    "last",
    "concat",
    "index",
    "append",
)


class PathSyntaxError(ValueError):
    """The text is no JSONPath."""


class PathNotFoundError(LookupError):
    """A definite path finds nothing; the text is the reason that Step Functions gives."""


@dataclass(frozen=True)
class Step:
    """One step of a path.

    Args:
        kind: name, names, wildcard, index, indices, slice, filter, or function.
        value: names (tuple of str), indices (tuple of int), (start, stop) of a slice, a `Filter`, or a function's call.
        deep: whether it is looked for at every depth (`..`).
    """

    kind: str
    value: Any = None
    deep: bool = False

    @property
    def is_definite(self) -> bool:
        return not self.deep and self.kind in ("name", "index", "function")

    def __str__(self) -> str:
        deep = ".." if self.deep else ""
        if self.kind in ("name", "names"):
            return deep + "[" + ",".join(f"'{n}'" for n in self.value) + "]"
        if self.kind == "wildcard":
            return deep + "[*]"
        if self.kind in ("index", "indices"):
            return deep + "[" + ",".join(str(i) for i in self.value) + "]"
        if self.kind == "slice":
            start, stop = self.value
            return f"{deep}[{'' if start is None else start}:{'' if stop is None else stop}]"
        if self.kind == "filter":
            return deep + "[?]"
        return f".{self.value[0]}()"


@dataclass(frozen=True)
class Path:
    """A parsed path.

    Args:
        text: as it was written.
        root: "$" for the data, "$$" for the context object, "$name" for a variable.
        steps: from the root on.
    """

    text: str
    root: str
    steps: tuple[Step, ...]

    @functools.cached_property
    def is_definite(self) -> bool:
        if any(step.kind == "function" for step in self.steps):
            return True  # a function's result is one value, whatever it was computed from
        for place, step in enumerate(self.steps):
            merged = step.kind == "names" and not step.deep and place + 1 == len(self.steps)
            if not step.is_definite and not merged:
                return False
        return True

    @property
    def is_reference(self) -> bool:
        """Whether it names one place by names and indices alone, so that something can be written there."""
        return self.root == "$" and all(s.is_definite and s.kind != "function" for s in self.steps)

    def __str__(self) -> str:
        return "$" + "".join(str(step) for step in self.steps)


@functools.lru_cache(maxsize=4096)
def parse_path(text: str) -> Path:
    """Parse a JSONPath.

    Raises:
        PathSyntaxError: what was expected, and where.
    """
    return _PathParser(text).parse()


class _PathParser:
    def __init__(self, text: str, ends: frozenset[str] = _WORD_END) -> None:
        self.text = text
        self.at = 0
        self.ends = ends  # what ends a name

    def parse(self) -> Path:
        if not self.text.startswith("$"):
            raise PathSyntaxError(f"{self.text!r}: expected a path that begins with $")
        self.at = 1
        root = "$"
        if self._peek() == "$":
            self.at, root = 2, "$$"
        elif self._peek().isidentifier():
            start = self.at
            while self._peek().isalnum() or self._peek() == "_":
                self.at += 1
            root = "$" + self.text[start : self.at]
        steps = self.steps()
        if self.at != len(self.text):
            raise self._error("expected '.' or '['")
        return Path(self.text, root, steps)

    def steps(self) -> tuple[Step, ...]:
        steps: list[Step] = []
        while self._peek() in (".", "["):
            deep = self.text.startswith("..", self.at)
            if deep:
                self.at += 2
            elif self._peek() == ".":
                self.at += 1  # `$.[0]` is the same as `$[0]`
            steps.append(self._bracket(deep) if self._peek() == "[" else self._named(deep))
        return tuple(steps)

    def _named(self, deep: bool) -> Step:
        if self._peek() == "*":
            self.at += 1
            return Step("wildcard", None, deep)
        start = self.at
        while self._peek() and self._peek() not in self.ends:
            self.at += 1
        name = self.text[start : self.at]
        if not name:
            raise self._error("expected a name")
        if self._peek() == "(":
            if name not in FUNCTIONS:
                raise self._error(f"there is no function {name}()")
            arguments = self._arguments()
            if name == "index" and (len(arguments) != 1 or not isinstance(arguments[0], int | Path)):
                raise self._error("index() takes one whole number")
            return Step("function", (name, arguments))
        return Step("name", (name,), deep)

    def _arguments(self) -> tuple[Any, ...]:
        self.at += 1
        found: list[Any] = []
        while True:
            self._blanks()
            if self._peek() == ")":
                self.at += 1
                return tuple(found)
            if self._peek() == ",":
                self.at += 1
            elif self._peek() in ("$", "@"):
                found.append(self._inner_path())
            elif self._peek() in ("'", '"'):
                found.append(self._quoted())
            else:
                found.append(self._number())

    def _inner_path(self) -> Path:
        start = self.at
        self.at += 1
        steps = self.steps()
        return Path(self.text[start : self.at], self.text[start], steps)

    def _bracket(self, deep: bool) -> Step:
        self.at += 1
        self._blanks()
        first = self._peek()
        if first in ("'", '"'):
            step = self._names(deep)
        elif first == "*":
            self.at += 1
            step = Step("wildcard", None, deep)
        elif first == "?":
            step = Step("filter", self._filter(), deep)
        else:
            step = self._numbers(deep)
        self._blanks()
        if self._peek() != "]":
            raise self._error("expected ']'")
        self.at += 1
        return step

    def _names(self, deep: bool) -> Step:
        names = [self._quoted()]
        self._blanks()
        while self._peek() == ",":
            self.at += 1
            self._blanks()
            names.append(self._quoted())
            self._blanks()
        return Step("name" if len(names) == 1 else "names", tuple(names), deep)

    def _numbers(self, deep: bool) -> Step:
        from_end = _FROM_END.match(self.text, self.at)
        if from_end:
            self.at = from_end.end()
            return Step("index", (-int(from_end[1]),), deep)
        start = None if self._peek() == ":" else self._number()
        self._blanks()
        if self._peek() == ":":
            self.at += 1
            self._blanks()
            stop = None if self._peek() == "]" else self._number()
            return Step("slice", (start, stop), deep)
        indices = [start]
        while self._peek() == ",":
            self.at += 1
            self._blanks()
            indices.append(self._number())
            self._blanks()
        return Step("index" if len(indices) == 1 else "indices", tuple(indices), deep)

    def _filter(self) -> Filter:
        self.at += 1
        parser = FilterParser(self.text, self.at, parse_inner_path)
        try:
            found = parser.parse()
        except ValueError as error:
            raise PathSyntaxError(f"{self.text!r}: {error}") from None
        self.at = parser.at
        return found

    def _number(self) -> int:
        start = self.at
        if self._peek() == "-":
            self.at += 1
        while self._peek().isdigit():
            self.at += 1
        try:
            return int(self.text[start : self.at])
        except ValueError:
            raise self._error("expected a name in quotes, a whole number, '*' or '?('") from None

    def _quoted(self) -> str:
        quote = self._peek()
        if quote not in ("'", '"'):
            raise self._error("expected a name in quotes")
        self.at += 1
        out = []
        while self._peek() != quote:
            if not self._peek():
                raise self._error("the quotes are not closed")
            if self._peek() == "\\" and self.text[self.at + 1 : self.at + 2] == quote:
                self.at += 1  # a backslash before anything else is itself
            out.append(self._peek())
            self.at += 1
        self.at += 1
        return "".join(out)

    def _blanks(self) -> None:
        while self._peek() in (" ", "\t", "\n"):
            self.at += 1

    def _peek(self) -> str:
        return self.text[self.at] if self.at < len(self.text) else ""

    def _error(self, reason: str) -> PathSyntaxError:
        return PathSyntaxError(f"{self.text!r} at position {self.at}: {reason}")


def parse_inner_path(text: str, at: int) -> tuple[Path, int]:
    """The path that begins at a position of a filter, and where it ends."""
    parser = _PathParser(text, _WORD_END_IN_FILTER)
    parser.at = at
    path = parser._inner_path()
    return path, parser.at


def find(path: Path, data: Any) -> Any:
    """The value of a definite path, or the list of what an indefinite one finds.

    Raises:
        PathNotFoundError: a definite path finds nothing.
    """
    value = data
    left = path.steps
    while True:
        # A function takes all that the steps before it have found, as one value.
        place = next((i for i, step in enumerate(left) if step.kind == "function"), len(left))
        if place == len(left):
            return _find(path, left, value, data)
        value = _find(path, left[:place], value, data)
        result = _function(left[place].value, value, data)
        if result is None:
            raise PathNotFoundError(f"No results for path: {path}")
        value = result[0]
        left = left[place + 1 :]


def _find(path: Path, steps: tuple[Step, ...], data: Any, root: Any) -> Any:
    definite = (path if steps is path.steps else Path(path.text, path.root, steps)).is_definite
    try:
        found = _walk(steps, 0, data, root, "$", True)
    except PathNotFoundError:
        if definite:
            raise
        return []
    if not definite:
        return found
    if not found:
        raise PathNotFoundError(f"No results for path: {path}")
    return found[0]


def _walk(steps: tuple[Step, ...], at: int, data: Any, root: Any, where: str, definite: bool) -> list[Any]:
    if at == len(steps):
        return [data]
    step = steps[at]
    out: list[Any] = []
    for node in _every_container(data) if step.deep else (data,):
        certain = definite and not step.deep
        for place, value in _select(step, node, root, where, certain, at + 1 == len(steps)):
            out += _walk(steps, at + 1, value, root, place, certain and step.is_definite)
    return out


def _every_container(data: Any) -> list[Any]:
    """The data and all objects and lists in it, each before what it holds."""
    found: list[Any] = []
    stack = [data]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            found.append(node)
            stack += reversed(list(node.values()))
        elif isinstance(node, list):
            found.append(node)
            stack += reversed(node)
    return found


def _select(step: Step, data: Any, root: Any, where: str, certain: bool, is_last: bool) -> list[tuple[str, Any]]:
    kind = step.kind
    if kind in ("name", "names"):
        return _members(step, data, where, certain, is_last)
    if kind == "wildcard":
        values = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
        return [(f"{where}[*]", value) for value in values]
    if kind == "filter":
        return _filtered(step, data, root, where, certain)
    if not isinstance(data, list):
        if not certain:
            return []
        if data is None:
            raise PathNotFoundError(f"The path {where} is null")
        raise PathNotFoundError(f"Filter: {step} can only be applied to arrays. Current context is: {_shown(data)}")
    if kind == "slice":
        start, stop = step.value
        return [(where, value) for value in data[start:stop]]
    found = []
    for index in step.value:
        if -len(data) <= index < len(data):
            found.append((f"{where}[{index}]", data[index]))
    return found


def _members(step: Step, data: Any, where: str, certain: bool, is_last: bool) -> list[tuple[str, Any]]:
    if not isinstance(data, dict):
        if not certain:
            return []
        raise PathNotFoundError(
            f"Expected to find an object with property {step} in path {where} but found '{_java_class(data)}'. This is"
            " not a json object according to the JsonProvider:"
            " 'com.jayway.jsonpath.spi.json.JacksonJsonNodeJsonProvider'."
        )
    present = [name for name in step.value if name in data]
    if step.deep and len(present) < len(step.value):
        return []
    if step.kind == "names" and is_last:
        return [(where, {name: data[name] for name in present})]
    if not present and not is_last and certain:
        raise PathNotFoundError(f"Missing property in path {where}['{step.value[0]}']")
    return [(f"{where}['{name}']", data[name]) for name in present]


def _filtered(step: Step, data: Any, root: Any, where: str, certain: bool) -> list[tuple[str, Any]]:
    accepts: Filter = step.value
    if isinstance(data, dict):
        return [(where, data)] if accepts(data, root) else []
    if isinstance(data, list):
        return [(f"{where}[{i}]", item) for i, item in enumerate(data) if accepts(item, root)]
    if certain:
        raise PathNotFoundError(f"Filter: {step} can not be applied to primitives. Current context is: {_shown(data)}")
    return []


def _function(call: tuple[str, tuple[Any, ...]], data: Any, root: Any) -> list[Any] | None:
    """A function's result in a list, or None if it has none for this value."""
    name, arguments = call
    given = [_argument(a, data, root) for a in arguments]
    if name in ("length", "size"):
        return [len(data)] if isinstance(data, list | dict | str) else None
    if name == "keys":
        return [list(data)] if isinstance(data, dict) else None
    if name == "concat":
        texts = [part for part in data if isinstance(part, str)] if isinstance(data, list) else []
        return ["".join([*texts, *(part if isinstance(part, str) else _shown(part) for part in given)])]
    if name == "append":
        return [[*data, *given]] if isinstance(data, list) else [data]
    if name in ("first", "last", "index"):
        place = 0 if name == "first" else -1 if name == "last" else given[0]
        if isinstance(place, bool) or not isinstance(place, int):
            return None
        return [data[place]] if isinstance(data, list) and -len(data) <= place < len(data) else None
    values = [v for v in (data if isinstance(data, list) else []) + given if _is_number(v)]
    if not values:
        raise PathNotFoundError(f"Aggregation function attempted to calculate value using empty array: {name}()")
    try:
        result = _aggregate(name, [float(value) for value in values])
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise PathNotFoundError(f"Aggregation function attempted to calculate a value that is no number: {name}()")
    return [result]


def _aggregate(name: str, values: list[float]) -> float:
    if name in ("min", "max"):
        return min(values) if name == "min" else max(values)
    total = sum(values)
    if name == "sum":
        return total
    mean = total / len(values)
    if name == "avg":
        return mean
    # Rounding may leave the variance of equal values below 0.
    return math.sqrt(max(0.0, sum(v * v for v in values) / len(values) - mean * mean))


def _argument(argument: Any, data: Any, root: Any) -> Any:
    if isinstance(argument, Path):
        return find(argument, root if argument.root == "$" else data)
    return argument


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _java_class(value: Any) -> str:
    if value is None:
        return "com.fasterxml.jackson.databind.node.NullNode"
    kinds = {
        bool: "BooleanNode", int: "IntNode", float: "DoubleNode", str: "TextNode", list: "ArrayNode", dict: "ObjectNode"
    }  # fmt: skip
    return f"com.fasterxml.jackson.databind.node.{kinds[type(value)]}"


def _shown(value: Any) -> str:
    from headgate.workflow._json import to_text

    return to_text(value)


class CannotPlaceError(LookupError):
    """A result cannot be put where ResultPath wants it; `step` is where it ends."""

    def __init__(self, step: str) -> None:
        super().__init__(step)
        self.step = step


def place(path: Path, data: Any, value: Any) -> Any:
    """A copy of the data with a value at a reference path; objects that are missing are made.

    Raises:
        CannotPlaceError: something that is no object or list is in the way.
    """
    return _place(path.steps, 0, data, value)


def _place(steps: tuple[Step, ...], at: int, data: Any, value: Any) -> Any:
    if at == len(steps):
        return value
    step = steps[at]
    key = step.value[0]
    if step.kind == "name":
        if data is None or isinstance(data, dict):
            copy = dict(data or {})
            copy[key] = _place(steps, at + 1, copy.get(key), value)
            return copy
        raise CannotPlaceError(key)
    if not isinstance(data, list) or not -len(data) <= key < len(data):
        raise CannotPlaceError(str(key))
    items = list(data)
    items[key] = _place(steps, at + 1, items[key], value)
    return items
