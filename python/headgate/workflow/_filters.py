"""The filter expressions of JSONPath: `[?(@.price > 10 && @.kind in ['a', 'b'])]`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headgate.workflow._paths import Path

Filter = Callable[[Any, Any], bool]  # (the item, the whole data)
Value = Callable[[Any, Any], Any]
_ABSENT = object()
_SYMBOLS = ("===", "!==", "==", "!=", "<=", ">=", "=~", "<", ">")
_WORDS = ("in", "nin", "subsetof", "anyof", "noneof", "size", "empty", "contains", "type")


class FilterParser:
    """Reads `(condition)` of a filter from a position of a path's text; `at` is left behind it."""

    def __init__(self, text: str, at: int, path_at: Callable[[str, int], tuple[Path, int]]) -> None:
        self.text = text
        self.at = at
        self.path_at = path_at

    def parse(self) -> Filter:
        self._expect("(")
        condition = self._either()
        self._expect(")")
        return condition

    def _either(self) -> Filter:
        parts = [self._both()]
        while self._take("||"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else lambda item, root: any(part(item, root) for part in parts)

    def _both(self) -> Filter:
        parts = [self._negated()]
        while self._take("&&"):
            parts.append(self._negated())
        return parts[0] if len(parts) == 1 else lambda item, root: all(part(item, root) for part in parts)

    def _negated(self) -> Filter:
        self._blanks()
        if self._peek() == "!" and not self.text.startswith("!=", self.at):
            self.at += 1
            inner = self._negated()
            return lambda item, root: not inner(item, root)
        if self._peek() == "(":
            return self.parse()
        return self._comparison()

    def _comparison(self) -> Filter:
        left, is_path = self._value()
        operator = self._operator()
        if operator is None:
            if not is_path:
                raise ValueError("a filter needs a comparison or a path")
            return lambda item, root: left(item, root) is not _ABSENT
        right, _ = self._value()
        compare = _COMPARISONS[operator]
        return lambda item, root: compare(left(item, root), right(item, root))

    def _operator(self) -> str | None:
        self._blanks()
        for symbol in _SYMBOLS:
            if self.text.startswith(symbol, self.at):
                self.at += len(symbol)
                return symbol
        word = re.compile(r"[A-Za-z]+").match(self.text, self.at)
        if word and word[0].lower() in _WORDS:
            self.at = word.end()
            return word[0].lower()
        return None

    def _value(self) -> tuple[Value, bool]:
        self._blanks()
        first = self._peek()
        if first in ("@", "$"):
            path, self.at = self.path_at(self.text, self.at)
            return _path_value(path), True
        literal = self._literal()
        return (lambda item, root: literal), False

    def _literal(self) -> Any:
        first = self._peek()
        if first in ("'", '"'):
            return self._text(first)
        if first == "[":
            return self._list()
        if first == "/":
            return self._regex()
        number = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?").match(self.text, self.at)
        if number:
            self.at = number.end()
            return float(number[0]) if number[1] or number[2] else int(number[0])
        for word, value in (("true", True), ("false", False), ("null", None)):
            if self.text.startswith(word, self.at):
                self.at += len(word)
                return value
        bare = re.compile(r"[A-Za-z_]\w*").match(self.text, self.at)
        if bare:  # a text whose quotes were left out
            self.at = bare.end()
            return bare[0]
        raise ValueError(f"expected a value at position {self.at}")

    def _list(self) -> list[Any]:
        self.at += 1
        items: list[Any] = []
        while True:
            self._blanks()
            if self._peek() == "]":
                self.at += 1
                return items
            if self._peek() == ",":
                self.at += 1
                continue
            items.append(self._literal())

    def _text(self, quote: str) -> str:
        self.at += 1
        out = []
        while self._peek() != quote:
            if not self._peek():
                raise ValueError("the quotes are not closed")
            if self._peek() == "\\":
                self.at += 1
            out.append(self._peek())
            self.at += 1
        self.at += 1
        return "".join(out)

    def _regex(self) -> re.Pattern[str]:
        end = self.at + 1
        while end < len(self.text) and self.text[end] != "/":
            end += 2 if self.text[end] == "\\" else 1
        body = self.text[self.at + 1 : end]
        self.at = end + 1
        flags = 0
        while self._peek() in ("i", "m", "s", "x"):
            flags |= {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL, "x": re.VERBOSE}[self._peek()]
            self.at += 1
        try:
            return re.compile(body, flags)
        except re.error as error:
            raise ValueError(f"the regular expression /{body}/ is broken: {error}") from None

    def _take(self, symbol: str) -> bool:
        self._blanks()
        if self.text.startswith(symbol, self.at):
            self.at += len(symbol)
            return True
        return False

    def _expect(self, symbol: str) -> None:
        if not self._take(symbol):
            raise ValueError(f"expected {symbol!r} at position {self.at}")

    def _blanks(self) -> None:
        while self._peek() in (" ", "\t", "\n"):
            self.at += 1

    def _peek(self) -> str:
        return self.text[self.at] if self.at < len(self.text) else ""


def _path_value(path: Path) -> Value:
    from headgate.workflow._paths import PathNotFoundError, find

    def value(item: Any, root: Any) -> Any:
        try:
            return find(path, root if path.root == "$" else item)
        except PathNotFoundError:
            return _ABSENT

    return value


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return type(value).__name__


def _equal(a: Any, b: Any) -> bool:
    if a is _ABSENT or b is _ABSENT:
        return a is b
    return _kind(a) == _kind(b) and bool(a == b)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda a, b: _kind(a) == _kind(b) and _kind(a) in ("number", "str") and compare(a, b)


def _among(a: Any, b: Any) -> bool:
    return isinstance(b, list) and any(_equal(a, item) for item in b)


def _matches(a: Any, b: Any) -> bool:
    return isinstance(b, re.Pattern) and isinstance(a, str) and b.fullmatch(a) is not None


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": _equal,
    "===": _equal,
    "!=": lambda a, b: not _equal(a, b),
    "!==": lambda a, b: not _equal(a, b),
    "<": _ordered(lambda a, b: bool(a < b)),
    "<=": _ordered(lambda a, b: bool(a <= b)),
    ">": _ordered(lambda a, b: bool(a > b)),
    ">=": _ordered(lambda a, b: bool(a >= b)),
    "=~": _matches,
    "in": _among,
    "nin": lambda a, b: not _among(a, b),
    "subsetof": lambda a, b: isinstance(a, list) and all(_among(x, b) for x in a),
    "anyof": lambda a, b: isinstance(a, list) and any(_among(x, b) for x in a),
    "noneof": lambda a, b: isinstance(a, list) and not any(_among(x, b) for x in a),
    "size": lambda a, b: isinstance(a, list | str | dict) and len(a) == b,
    "empty": lambda a, b: isinstance(a, list | str | dict) and (not a) is bool(b),
    "contains": lambda a, b: _among(b, a) if isinstance(a, list) else isinstance(a, str) and str(b) in a,
    "type": lambda a, b: _kind(a) == b,
}
