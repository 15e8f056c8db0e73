"""JSONata expressions, evaluated by the `jsonata-python` package and brought in line with Step Functions.

The package is imported when the first expression is compiled; install it with `pip install headgate[workflow]`.
"""

from __future__ import annotations

import functools
import math
import random
import uuid
from typing import Any

from headgate.errors import ConfigError, Kind
from headgate.workflow._failure import QUERY, StateError
from headgate.workflow._intrinsics import IntrinsicError, _hash, _partition, _range
from headgate.workflow._json import is_whole_text, load_json, to_text, type_name

MAX_STEPS = 2_000_000  # of one evaluation: some ten seconds
_REFUSED = ("eval",)  # Step Functions has no $eval; $parse reads JSON


class JsonataSyntaxError(ValueError):
    """The text is no JSONata expression."""


def is_expression(value: Any) -> bool:
    """Whether a string is an expression: `{% ... %}` with nothing around it."""
    return isinstance(value, str) and value.startswith("{%") and value.endswith("%}") and len(value) >= 4


@functools.cache
def _library() -> Any:
    try:
        import jsonata  # type: ignore[import-untyped]
    except ImportError:
        message = "JSONata needs the package jsonata-python; install it with: pip install 'headgate[workflow]'"
        raise ConfigError(message, Kind.NOT_BUILT) from None
    return jsonata


class Expression:
    """A compiled expression.

    Args:
        text: what stands between `{%` and `%}`.

    Raises:
        JsonataSyntaxError: it does not parse.
        ConfigError: the package is not installed.
    """

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        library = _library()
        try:
            compiled = library.Jsonata(self.text)
        except library.JException as error:
            raise JsonataSyntaxError(str(error)) from None
        except Exception as error:  # the parser of the package trips over some broken texts
            raise JsonataSyntaxError(f"{type(error).__name__}: {error}") from None
        if compiled.errors:
            raise JsonataSyntaxError(str(compiled.errors[0]))
        compiled.set_output_convert_nulls(False)
        compiled.set_validate_input(False)
        for name in _REFUSED:
            compiled.register_lambda(name, functools.partial(_no_function, name))
        for name, function in _EXTRAS.items():
            compiled.register_lambda(name, function)
        self._compiled = compiled

    def evaluate(self, variables: dict[str, Any], field: str) -> Any:
        """The value.

        Args:
            variables: `states` and the assigned variables, without their `$`.
            field: the field that holds the expression, for the error: `Output/result`.

        Raises:
            StateError: States.QueryEvaluationError, in the words of Step Functions.
        """
        utils = _library().Utils
        null = utils.NULL_VALUE
        where = f"The JSONata expression '{self.text}' specified for the field '{field}'"
        try:
            given = {k: null if v is None else v for k, v in variables.items()}
            # The package calls what is bound to this name before each step.
            value = self._compiled.evaluate(None, {**given, "__evaluate_entry": _Steps()})
        except _library().JException as error:
            code = f"{error.error}: " if error.error else ""
            cause = f"{where} threw an error during evaluation. {code}{error}"
            raise StateError(QUERY, cause, decorated=True, evaluation=True, location=field) from None
        except RecursionError:
            cause = f"{where} threw an error during evaluation. U1001: Stack overflow error"
            raise StateError(QUERY, cause, decorated=True, evaluation=True, location=field) from None
        except Exception as error:
            cause = f"{where} threw an error during evaluation. {error}"
            raise StateError(QUERY, cause, decorated=True, evaluation=True, location=field) from None
        if value is None:
            cause = f"{where} returned nothing (undefined)."
            raise StateError(QUERY, cause, decorated=True, evaluation=True, location=field)
        return _plain(value, null, where, field)


class _Steps:
    """Counts the steps of one evaluation, so that an expression that calls itself for ever ends."""

    def __init__(self) -> None:
        self._left = MAX_STEPS

    def __call__(self, *_: Any) -> None:
        self._left -= 1
        if self._left < 0:
            message = f"D1012: The expression takes more than {MAX_STEPS} steps: does a function call itself for ever?"
            raise ValueError(message)


def _plain(value: Any, null: Any, where: str, field: str) -> Any:
    """Lists and objects of the package as plain JSON."""
    if value is null or value is None:
        return None
    if isinstance(value, str):
        return _whole(value, where, field)
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            cause = f"{where} threw an error during evaluation. D1001: Number out of range: {value}"
            raise StateError(QUERY, cause, decorated=True, evaluation=True, location=field)
        return value
    if isinstance(value, list | tuple | range):
        return [_plain(item, null, where, field) for item in value]
    if isinstance(value, dict):
        return {_whole(str(key), where, field): _plain(item, null, where, field) for key, item in value.items()}
    if hasattr(value, "__iter__"):
        return [_plain(item, null, where, field) for item in value]
    cause = f"{where} returned an unexpected result type. Expected a JSON value, but was 'function'."
    raise StateError(QUERY, cause, decorated=True, evaluation=True, location=field)


def _whole(text: str, where: str, field: str) -> str:
    if not is_whole_text(text):
        cause = f"{where} threw an error during evaluation. The text holds half a surrogate pair"
        raise StateError(QUERY, cause, decorated=True, evaluation=True, location=field)
    return text


def expect_type(value: Any, expected: str, text: str, field: str) -> Any:
    """The value, if it is of the type that a field needs.

    Raises:
        StateError: States.QueryEvaluationError.
    """
    actual = type_name(value)
    if actual != expected:
        cause = (
            f"The JSONata expression '{text}' specified for the field '{field}' returned an unexpected result type. "
            f"Expected '{expected}', but was '{actual}' for value: {to_text(value)}"
        )
        raise StateError(QUERY, cause, decorated=True, evaluation=True, location=field)
    return value


# --- what Step Functions adds to JSONata, and what it leaves out


def _no_function(name: str, *arguments: Any) -> Any:
    raise ValueError(f"T1006: Attempted to invoke a non-function: ${name} is not supported")


def _parse(text: Any = None, *rest: Any) -> Any:
    if text is None:
        return None
    value = load_json(text)
    return _library().Utils.NULL_VALUE if value is None else value


def _seeded(seed: Any = None) -> float:
    # One number in 0 <= n < 1; a seed gives the same number again.
    return random.random() if seed is None else random.Random(seed).random()  # noqa: S311


def _stepped(first: Any = None, last: Any = None, step: Any = None) -> Any:
    return _unless_absent(_range, first, last, step)


def _parted(items: Any = None, size: Any = None) -> Any:
    if items is not None and not isinstance(items, list):
        items = [items]
    return _unless_absent(_partition, items, size)


def _hashed(value: Any = None, algorithm: Any = None) -> Any:
    return _unless_absent(_hash, value, algorithm)


def _unless_absent(function: Any, *arguments: Any) -> Any:
    """As in JSONata, a function of nothing is nothing."""
    if any(argument is None for argument in arguments):
        return None
    try:
        return function(*arguments)
    except IntrinsicError as error:
        raise ValueError(str(error)) from None


_EXTRAS: dict[str, Any] = {
    "partition": _parted,
    "range": _stepped,
    "hash": _hashed,
    "random": _seeded,
    "uuid": lambda: str(uuid.uuid4()),
    "parse": _parse,
}
