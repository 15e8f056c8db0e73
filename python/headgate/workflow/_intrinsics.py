"""The 18 intrinsic functions of the States Language: parsing of calls and their evaluation.

Example:
    >>> call = parse_intrinsic("States.Format('Hello, {}', $.name)")
    >>> call.evaluate(lambda path: "Ada")
    'Hello, Ada'
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import math
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from headgate.workflow._json import load_json, to_text
from headgate.workflow._paths import Path, PathSyntaxError, parse_path

Resolve = Callable[[Path], Any]
_HASHES = {"MD5": "md5", "SHA-1": "sha1", "SHA-256": "sha256", "SHA-384": "sha384", "SHA-512": "sha512"}
_NUMERIC = ("States.MathAdd", "States.MathRandom", "States.ArrayRange")
_MAX_HASH_INPUT = 10_000
_MAX_BASE64_INPUT = 10_000
_MAX_RANGE = 1_000


class IntrinsicSyntaxError(ValueError):
    """The text is no call of an intrinsic function."""


class IntrinsicError(ValueError):
    """A function cannot do its work with these arguments."""


@dataclass(frozen=True)
class Call:
    """A parsed call; arguments are literals, `Path`s or further calls."""

    name: str
    arguments: tuple[Any, ...]
    text: str

    def paths(self) -> list[Path]:
        """All paths in it, at any depth."""
        found: list[Path] = []
        for argument in self.arguments:
            if isinstance(argument, Path):
                found.append(argument)
            elif isinstance(argument, Call):
                found += argument.paths()
        return found

    def evaluate(self, resolve: Resolve) -> Any:
        """Compute the result.

        Args:
            resolve: gives the value of a path.

        Raises:
            IntrinsicError: the arguments are not what the function needs.
        """
        values = [
            resolve(a) if isinstance(a, Path) else a.evaluate(resolve) if isinstance(a, Call) else a
            for a in self.arguments
        ]
        try:
            return FUNCTIONS[self.name][2](*values)
        except IntrinsicError as error:
            raise IntrinsicError(f"The function '{self.text}' had the following error: {error}") from None


@functools.lru_cache(maxsize=1024)
def parse_intrinsic(text: str) -> Call:
    """Parse a call such as `States.Array(1, $.a, 'x')`.

    Raises:
        IntrinsicSyntaxError: an unknown function, a wrong number of arguments, or broken text.
    """
    parser = _Parser(text)
    parser.blanks()
    call = parser.call()
    parser.blanks()
    if parser.at != len(text):
        raise parser.error("nothing may follow the call")
    return call


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def call(self) -> Call:
        start = self.at
        while self.peek().isalnum() or self.peek() in (".", "_"):
            self.at += 1
        name = self.text[start : self.at]
        if name not in FUNCTIONS:
            raise self.error(f"there is no intrinsic function {name!r}")
        self.blanks()
        if self.peek() != "(":
            raise self.error("expected '('")
        self.at += 1
        arguments = self._arguments()
        least, most, _ = FUNCTIONS[name]
        if not least <= len(arguments) <= most:
            expected = str(least) if least == most else f"at least {least}" if most > 100 else f"{least} to {most}"
            raise self.error(f"{name} takes {expected} arguments, not {len(arguments)}")
        if name in _NUMERIC and any(isinstance(a, str | bool) or a is None for a in arguments):
            raise self.error(f"{name} takes numbers")
        return Call(name, tuple(arguments), self.text[start : self.at])

    def _arguments(self) -> list[Any]:
        arguments: list[Any] = []
        self.blanks()
        if self.peek() == ")":
            self.at += 1
            return arguments
        while True:
            self.blanks()
            arguments.append(self._argument())
            self.blanks()
            if self.peek() == ")":
                self.at += 1
                return arguments
            if self.peek() != ",":
                raise self.error("expected ',' or ')'")
            self.at += 1

    def _argument(self) -> Any:
        first = self.peek()
        if first == "'":
            return self._text()
        if first == "$":
            return self._path()
        if self.text.startswith("States.", self.at):
            return self.call()
        start = self.at
        while self.peek() and self.peek() not in ",) \t\n":
            self.at += 1
        word = self.text[start : self.at]
        if word in ("true", "false", "null"):
            return {"true": True, "false": False, "null": None}[word]
        try:
            value = load_json(word)
        except ValueError:
            raise self.error(f"{word!r} is no argument") from None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(f"{word!r} is no argument")
        return value

    def _text(self) -> str:
        self.at += 1
        out = []
        while self.peek() != "'":
            if not self.peek():
                raise self.error("the quotes are not closed")
            if self.peek() == "\\":
                self.at += 1
                following = self.peek()
                if following not in ("'", "{", "}", "\\"):
                    raise self.error(f"there is no escape \\{following}")
                out.append("\\" + following if following in ("{", "}") else following)  # States.Format unescapes braces
                self.at += 1
                continue
            out.append(self.peek())
            self.at += 1
        self.at += 1
        return "".join(out)

    def _path(self) -> Path:
        start = self.at
        depth = 0
        quote = ""
        while self.at < len(self.text):
            c = self.peek()
            if quote:
                if c == "\\":
                    self.at += 1
                elif c == quote:
                    quote = ""
            elif c in ("'", '"') and depth:
                quote = c
            elif c in "[(":
                depth += 1
            elif c in "])" and depth:
                depth -= 1
            elif c in ",)" and not depth:
                break
            self.at += 1
        try:
            return parse_path(self.text[start : self.at].strip())
        except PathSyntaxError as error:
            raise self.error(str(error)) from None

    def blanks(self) -> None:
        while self.peek() in (" ", "\t", "\n"):
            self.at += 1

    def peek(self) -> str:
        return self.text[self.at] if self.at < len(self.text) else ""

    def error(self, reason: str) -> IntrinsicSyntaxError:
        return IntrinsicSyntaxError(f"{self.text!r} at position {self.at}: {reason}")


# --- the functions


def _number(value: Any, what: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise IntrinsicError(f"{what} must be a number, not {to_text(value)}")
    return value


def _whole(value: Any, what: str) -> int:
    """A whole number; fractions are rounded half up, as Java's Math.round does."""
    return math.floor(_number(value, what) + 0.5) if isinstance(value, float) else int(_number(value, what))


def _string(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise IntrinsicError(f"{what} must be a string, not {to_text(value)}")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise IntrinsicError(f"{what} must be an array, not {to_text(value)}")
    return value


def java_text(value: Any) -> str:
    """A value as Java's toString() shows it: what States.Format puts in the place of {}."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "[" + ", ".join(java_text(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}={java_text(item)}" for key, item in value.items()) + "}"
    return to_text(value)


def _format(template: Any, *values: Any) -> str:
    text = _string(template, "the first argument")
    out: list[str] = []
    left = list(values)
    at = 0
    while at < len(text):
        if text[at] == "\\" and text[at + 1 : at + 2] in ("{", "}", "\\", "'"):
            out.append(text[at + 1])
            at += 2
        elif text.startswith("{}", at):
            if not left:
                raise IntrinsicError("number of arguments do not match the occurrences of {}")
            out.append(java_text(left.pop(0)))
            at += 2
        else:
            out.append(text[at])
            at += 1
    if left:
        raise IntrinsicError("number of arguments do not match the occurrences of {}")
    return "".join(out)


def _string_to_json(value: Any) -> Any:
    text = _string(value, "the argument")
    if not text.strip():
        return None
    try:
        return load_json(text)
    except ValueError:
        raise IntrinsicError(f"'{text}' is not valid JSON") from None


def _partition(items: Any, size: Any) -> list[Any]:
    array, width = _list(items, "the first argument"), _whole(size, "the size of a part")
    if width <= 0:
        raise IntrinsicError("the size of a part must be a positive number")
    return [array[i : i + width] for i in range(0, len(array), width)]


def same(a: Any, b: Any) -> bool:
    """Equality of JSON values: 1 and 1.0 are the same, 1 and true are not."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and bool(a == b)


def _range(first: Any, last: Any, step: Any) -> list[int]:
    start, end, by = (_whole(v, "an argument") for v in (first, last, step))
    if by == 0:
        raise IntrinsicError("the step must not be 0")
    values = range(start, end + (1 if by > 0 else -1), by)
    if len(values) > _MAX_RANGE:
        raise IntrinsicError(f"a range has at most {_MAX_RANGE} values, not {len(values)}")
    return list(values)


def _get_item(items: Any, index: Any) -> Any:
    array, place = _list(items, "the first argument"), _whole(index, "the index")
    if not 0 <= place < len(array):
        raise IntrinsicError(f"the index {place} is outside of an array of {len(array)}")
    return array[place]


def _unique(items: Any) -> list[Any]:
    kept: list[Any] = []
    for item in _list(items, "the argument"):
        if not any(same(item, other) for other in kept):
            kept.append(item)
    return kept


def _encode(value: Any) -> str:
    text = _string(value, "the argument")
    if len(text) > _MAX_BASE64_INPUT:
        raise IntrinsicError(f"the text is longer than {_MAX_BASE64_INPUT} characters")
    return base64.b64encode(text.encode()).decode()


def _decode(value: Any) -> str:
    text = _string(value, "the argument")
    if len(text) > _MAX_BASE64_INPUT:
        raise IntrinsicError(f"the text is longer than {_MAX_BASE64_INPUT} characters")
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise IntrinsicError("the text is not valid Base64") from None


def _hash(value: Any, algorithm: Any) -> str:
    name = _string(algorithm, "the algorithm")
    if name not in _HASHES:
        raise IntrinsicError(f"the algorithm must be one of {', '.join(_HASHES)}, not '{name}'")
    text = value if isinstance(value, str) else to_text(value)
    if len(text) > _MAX_HASH_INPUT:
        raise IntrinsicError(f"the text is longer than {_MAX_HASH_INPUT} characters")
    return hashlib.new(_HASHES[name], text.encode(), usedforsecurity=False).hexdigest()


def _merge(first: Any, second: Any, deep: Any) -> dict[str, Any]:
    if not isinstance(first, dict) or not isinstance(second, dict):
        raise IntrinsicError("both of the first arguments must be objects")
    if deep is not False:
        raise IntrinsicError("only the shallow merge is supported; the third argument must be false")
    return {**first, **second}


def _random(start: Any, end: Any, seed: Any = None) -> int:
    low, high = _whole(start, "the start"), _whole(end, "the end")
    if low >= high:
        raise IntrinsicError("the start must be less than the end")
    source = random.SystemRandom() if seed is None else random.Random(_whole(seed, "the seed"))  # noqa: S311
    return source.randrange(low, high)


def _add(a: Any, b: Any) -> int:
    return _whole(a, "the first argument") + _whole(b, "the second argument")


def _split(value: Any, separators: Any) -> list[str]:
    text, cuts = _string(value, "the first argument"), _string(separators, "the separator")
    parts, current = [], ""
    for character in text:
        if character in cuts:
            parts.append(current)
            current = ""
        else:
            current += character
    return [part for part in [*parts, current] if part]


_MANY = 1_000
# name -> (fewest arguments, most, what it does)
FUNCTIONS: dict[str, tuple[int, int, Callable[..., Any]]] = {
    "States.Format": (1, _MANY, _format),
    "States.StringToJson": (1, 1, _string_to_json),
    "States.JsonToString": (1, 1, to_text),
    "States.Array": (0, _MANY, lambda *items: list(items)),
    "States.ArrayPartition": (2, 2, _partition),
    "States.ArrayContains": (2, 2, lambda items, value: any(same(i, value) for i in _list(items, "the array"))),
    "States.ArrayRange": (3, 3, _range),
    "States.ArrayGetItem": (2, 2, _get_item),
    "States.ArrayLength": (1, 1, lambda items: len(_list(items, "the argument"))),
    "States.ArrayUnique": (1, 1, _unique),
    "States.Base64Encode": (1, 1, _encode),
    "States.Base64Decode": (1, 1, _decode),
    "States.Hash": (2, 2, _hash),
    "States.JsonMerge": (3, 3, _merge),
    "States.MathRandom": (2, 3, _random),
    "States.MathAdd": (2, 2, _add),
    "States.StringSplit": (2, 2, _split),
    "States.UUID": (0, 0, lambda: str(uuid.uuid4())),
}  # fmt: skip
