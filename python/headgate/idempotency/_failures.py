"""What is said and logged of an exception, whatever it is: never its raw text in a log, never a second exception."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

from headgate._text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_TEXT = 500
_MAX_FRAMES = 12
_MAX_INNER = 5
# Types of pydantic errors whose text comes from a user's validator and may therefore hold personal data.
_OWN_TEXTS = {"value_error", "assertion_error"}


def describe_error(error: BaseException) -> str:
    """One line for ledgers and dead letters: the exception's type and text, at most 500 characters.

    Surrogates and control characters are escaped, because files, queues and databases cannot keep them. An exception
    whose text cannot be read is described by its type. An exception group names the exceptions inside it.

    Example:
        >>> describe_error(ValueError("caf\\udce9 and\\ttab"))
        'ValueError: caf\\\\udce9 and\\\\ttab'
    """
    parts = [_one(error)]
    if isinstance(error, BaseExceptionGroup):
        parts.append("; ".join(_one(inner) for inner in list(_leaves(error))[:_MAX_INNER]))
    return ": ".join(parts)[:_MAX_TEXT]


def code_path(error: BaseException) -> str:
    """The frames of an exception and the types of what caused it, for a log: files, lines and functions, no values.

    The texts of exceptions are left out, since they may quote a message's body.
    """
    lines = []
    for link in _chain(error):
        frames = traceback.extract_tb(link.__traceback__)[-_MAX_FRAMES:]
        places = " > ".join(f"{printable(f.filename)}:{f.lineno} in {f.name}" for f in frames)
        lines.append(f"{type(link).__name__} at {places}" if places else type(link).__name__)
    return " | caused by ".join(lines)


def _one(error: BaseException) -> str:
    name = type(error).__name__
    try:
        text = _validation(error) or str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # an exception's own method may raise anything, SystemExit too
        return f"{name}: (its text cannot be read)"
    return f"{name}: {printable(text[:_MAX_TEXT])}"


def _validation(error: BaseException) -> str:
    """What pydantic expected and the kinds of what it got, without the values; an empty text for other exceptions."""
    if not type(error).__module__.startswith("pydantic"):
        return ""
    found = error.errors(include_url=False, include_context=False)  # type: ignore[attr-defined]
    parts = []
    for problem in found:
        place = ".".join(map(str, problem["loc"])) or "the whole"
        got = "nothing" if problem["type"] == "missing" else type(problem["input"]).__name__
        # The sentences of types are pydantic's own; a validator's own text may quote the value.
        said = problem["type"] if problem["type"] in _OWN_TEXTS else problem["msg"]
        parts.append(f"{place}: {said} ({problem['type']}), got {got}")
    return "; ".join(parts)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen and len(seen) < _MAX_INNER:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
