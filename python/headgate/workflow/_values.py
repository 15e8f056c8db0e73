"""The values of fields: constants, paths, intrinsic calls, JSONata expressions, and templates of these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headgate.workflow._failure import INTRINSIC, StateError, runtime_error
from headgate.workflow._intrinsics import Call, IntrinsicError
from headgate.workflow._json import to_text
from headgate.workflow._jsonata import Expression
from headgate.workflow._paths import Path, PathNotFoundError, find

ABSENT = object()


@dataclass
class Scope:
    """What a field may refer to.

    Args:
        data: `$` of JSONPath.
        context: the context object, `$$`.
        variables: assigned so far, visible here.
        input: the state's input, `$states.input`.
        result: `$states.result`, if there is one.
        error: `$states.errorOutput`, in a catcher.
    """

    data: Any
    context: Mapping[str, Any]
    variables: Mapping[str, Any] = field(default_factory=dict)
    input: Any = ABSENT
    result: Any = ABSENT
    error: Any = ABSENT

    def with_data(self, data: Any) -> Scope:
        """The same with another `$`."""
        return Scope(data, self.context, self.variables, self.input, self.result, self.error)

    def bindings(self) -> dict[str, Any]:
        """The variables of a JSONata expression."""
        states: dict[str, Any] = {"context": self.context}
        for name, value in (("input", self.input), ("result", self.result), ("errorOutput", self.error)):
            if value is not ABSENT:
                states[name] = value
        return {**self.variables, "states": states}

    def root(self, path: Path) -> Any:
        """The value that a path starts from.

        Raises:
            PathNotFoundError: a variable that nobody has assigned.
        """
        if path.root == "$":
            return self.data
        if path.root == "$$":
            return self.context
        name = path.root[1:]
        if name not in self.variables:
            raise PathNotFoundError(f"No results for path: {path.root}")
        return self.variables[name]

    def find(self, path: Path) -> Any:
        """What a path finds; see `headgate.workflow._paths.find`."""
        return find(path, self.root(path))


class Value:
    """Something that is evaluated in a scope."""

    def evaluate(self, scope: Scope) -> Any:
        """The value.

        Raises:
            StateError: it cannot be had.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Value):
    """Itself."""

    value: Any

    def evaluate(self, scope: Scope) -> Any:
        return self.value


@dataclass(frozen=True)
class PathValue(Value):
    """What a JSONPath finds; `field` is the template's key, with its `.$`, or the field's name."""

    path: Path
    field: str

    def evaluate(self, scope: Scope) -> Any:
        try:
            return scope.find(self.path)
        except PathNotFoundError:
            shown = to_text(scope.data if self.path.root == "$" else scope.context if self.path.root == "$$" else {})
            raise runtime_error(
                f"The JSONPath '{self.path.text}' specified for the field '{self.field}' "
                f"could not be found in the input '{shown}'"
            ) from None


@dataclass(frozen=True)
class IntrinsicValue(Value):
    """The result of an intrinsic function."""

    call: Call
    field: str

    def evaluate(self, scope: Scope) -> Any:
        def resolve(path: Path) -> Any:
            return PathValue(path, self.field).evaluate(scope)

        try:
            return self.call.evaluate(resolve)
        except IntrinsicError as error:
            raise StateError(INTRINSIC, str(error), decorated=True) from None


@dataclass(frozen=True)
class JsonataValue(Value):
    """The result of a JSONata expression; `field` is its place in the state, as `Output/result`."""

    expression: Expression
    field: str

    def evaluate(self, scope: Scope) -> Any:
        return self.expression.evaluate(scope.bindings(), self.field)


@dataclass(frozen=True)
class ObjectValue(Value):
    """A template: an object with values of every kind in it."""

    members: tuple[tuple[str, Value], ...]

    def evaluate(self, scope: Scope) -> Any:
        return {key: value.evaluate(scope) for key, value in self.members}


@dataclass(frozen=True)
class ListValue(Value):
    """A template: a list with values of every kind in it."""

    items: tuple[Value, ...]

    def evaluate(self, scope: Scope) -> Any:
        return [item.evaluate(scope) for item in self.items]


def select(path: Path, scope: Scope) -> Any:
    """What InputPath, OutputPath and other plain paths find, with the words of Step Functions if they find nothing."""
    try:
        return scope.find(path)
    except PathNotFoundError as error:
        raise runtime_error(f"Invalid path '{path.text}' : {error}") from None
