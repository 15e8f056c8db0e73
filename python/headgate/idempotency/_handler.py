"""What a handler is, before it runs: its default name, which argument of a call is the event, and what cannot work."""

from __future__ import annotations

import functools
import gc
import inspect
import os
import sys
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headgate.errors import ConfigError, HeadgateError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_Names = dict[tuple[str, str], weakref.ref[Any]]
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_MAX_WRAPPERS = 20
# Types of most events. None of them has a method that somebody decorated.
_NO_OWNERS = frozenset({dict, str, bytes, bytearray, memoryview, list, tuple, int, float, bool, type(None)})
# They call their function when somebody iterates over them.
_LAZY = frozenset({
    ("builtins", "map"), ("builtins", "filter"), ("itertools", "starmap"), ("itertools", "filterfalse"),
    ("itertools", "takewhile"), ("itertools", "dropwhile"), ("itertools", "accumulate"),
})  # fmt: skip
_INSTANCE = ("self", "cls")  # what Python's own style guide calls the first parameter of a method


def is_async(handler: Any) -> bool:
    """Whether calling the handler gives a coroutine: an `async def`, a partial of one, an object whose call is one."""
    return _is_any(inspect.iscoroutinefunction, handler)


def check_handler(where: str, handler: Any) -> None:
    """Refuse what cannot be run once per event.

    Raises:
        ConfigError: it is no function, a class, or a generator function (its body runs only when somebody iterates, so
            that the event would be marked as done before anything has happened).
    """
    if not callable(handler):
        message = f"{where}: expected a function or a callable object, got a {type(handler).__name__}"
        raise ConfigError(message)
    if inspect.isclass(handler):
        message = f"{where}: expected a function, got the class {handler.__name__}; decorate its method instead"
        raise ConfigError(message)
    if _is_any(inspect.isgeneratorfunction, handler) or _is_any(inspect.isasyncgenfunction, handler):
        message = f"{where}: a generator function runs only while somebody iterates over it; expected one that returns"
        raise ConfigError(message)


def unfinished(result: Any) -> str:
    """What a handler returned instead of a result, if it has not run yet or not to its end; or nothing.

    Other iterators are results: a database's cursor stands for a statement that has run.
    """
    if inspect.isawaitable(result):
        return "an awaitable"
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        return "a generator"
    kind = type(result)
    if (kind.__module__, kind.__name__) in _LAZY:
        return f"a lazy {kind.__name__}"
    if kind.__module__ == "contextlib" and kind.__name__.endswith("GeneratorContextManager"):
        return "a context manager"
    # A type that nobody imported cannot be the result's: looking costs no import.
    future = getattr(sys.modules.get("concurrent.futures"), "Future", None)
    return "a future" if future is not None and isinstance(result, future) else ""


def discard_unfinished(result: Any) -> None:
    """Close a coroutine that nobody will await, so that Python does not warn about it as well."""
    if inspect.iscoroutine(result) or inspect.isgenerator(result):
        result.close()


def refuse_unfinished(
    result: Any, advice: str, *, consumer: str = "", error: type[HeadgateError] = InvalidInputError
) -> None:
    """Refuse what a handler returned instead of a result because nothing of it has run yet, and close it.

    Args:
        result: what the handler returned.
        advice: what the caller expects of a handler instead; ends the sentence.
        consumer: begins the sentence, unless it is empty.
        error: the class to raise.

    Raises:
        HeadgateError: it is a coroutine, another awaitable, a generator, a future, or what `unfinished` knows besides.
    """
    what = unfinished(result)
    if what:
        discard_unfinished(result)
        begin = f"{consumer}: " if consumer else ""
        message = f"{begin}the handler returned {what}, so that nothing has run; {advice}"
        if what == "a future":
            message = f"{begin}the handler returned a future, which may fail after this; return its result()"
        raise error(message)


def handler_name(handler: Any) -> str:
    """The default name of a consumer: module and qualified name of its handler.

    A script's module is called after its file (`billing.handle` for billing.py), not `__main__`: two scripts with a
    ledger in common are two consumers.

    Example:
        >>> handler_name(default_example)
        'headgate.idempotency._handler.default_example'
    """
    target = _innermost(handler)
    name = getattr(target, "__qualname__", None)
    if not isinstance(name, str):
        target = type(target)
        name = target.__qualname__
    return f"{_module_name(getattr(target, '__module__', None) or 'builtins')}.{name}"


def default_example(event: Any) -> None:
    """What `handler_name` shows in its documentation."""


class NameRegistry:
    """Which handlers of this process have which default name, per store that holds the claims.

    Two handlers of one name would take each other's events for duplicates, so the second one is refused while the first
    is in use, also where each has opened a ledger of its own on one store. A handler that is defined again (a cell of a
    notebook, a reload) may have the name of the one it replaces.
    """

    def __init__(self) -> None:
        self._by_object: weakref.WeakKeyDictionary[Any, _Names] = weakref.WeakKeyDictionary()
        self._by_address: dict[str, _Names] = {}

    def add(self, ledger: Any, namespace: str, name: str, decorated: Any) -> None:
        """Remember a decorated handler under its default name.

        Raises:
            ConfigError: another handler in use has this name.
        """
        store = getattr(ledger, "store_identity", ledger)
        if isinstance(store, str):
            names = self._by_address.setdefault(store, {})
        else:
            names = self._by_object.setdefault(store, {})
        if self._is_taken(names.get((namespace, name)), decorated):
            gc.collect()  # a handler that was replaced may only be kept by a reference cycle
            if self._is_taken(names.get((namespace, name)), decorated):
                message = (
                    f"two handlers on one ledger have the default name {name!r}; they would take each other's events "
                    "for duplicates: give each a name of its own with consumer="
                )
                raise ConfigError(message)
        names[namespace, name] = weakref.ref(decorated)

    @staticmethod
    def _is_taken(known: weakref.ref[Any] | None, decorated: Any) -> bool:
        other = known() if known is not None else None
        return other is not None and not _is_same(other.__wrapped__, decorated.__wrapped__)


@dataclass(frozen=True)
class EventParameter:
    """Which argument of a handler's call is the event.

    Attributes:
        index: its position in a call, or -1: it comes by keyword only.
        name: its name, or empty: it has none (`*args`).
        name_after_instance: the next parameter's name, which is the event where the first argument of a call is the
            instance that the handler is a method of; empty: it has none (`*args`), or there is no further one.
        may_follow_instance: whether that has to be looked for in each call. Nothing says it of a function before a
            class has it, of a method whose first parameter is not called `self`, and behind a decorator without names.
    """

    index: int
    name: str
    handler: Any
    may_follow_instance: bool = False
    name_after_instance: str = ""
    _owners: weakref.WeakKeyDictionary[type, bool] = field(
        default_factory=weakref.WeakKeyDictionary, repr=False, compare=False
    )

    def of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], decorated: Any) -> Any:
        """The event of one call.

        Raises:
            TypeError: the call does not fit the handler, as Python itself says it.
            InvalidInputError: the call leaves the event out.
        """
        index, name = self.index, self.name
        if self.may_follow_instance and args and args[0].__class__ not in _NO_OWNERS:
            has_more = len(args) > 1 or (bool(self.name_after_instance) and self.name_after_instance in kwargs)
            if has_more and self._is_instance(args[0], decorated):
                index, name = index + 1, self.name_after_instance
        if 0 <= index < len(args):
            return args[index]
        if name in kwargs:
            return kwargs[name]
        inspect.signature(self.handler).bind(*args, **kwargs)
        message = f"{handler_name(self.handler)}: the call has no argument {name!r}, which is the event"
        raise InvalidInputError(message)

    def _is_instance(self, value: Any, decorated: Any) -> bool:
        """Whether the value is what the decorated handler is a method of: an instance, or a class of a class method."""
        owner = value if isinstance(value, type) else type(value)
        found = self._owners.get(owner)
        if found is None:
            found = self._owners[owner] = _is_method_of(owner, decorated)
        return found


def find_event_parameter(handler: Any, option: str | None) -> EventParameter:
    """Where the event stands in the calls of a handler: the first argument after `self` or `cls`, or the one that the
    option names.

    Raises:
        ConfigError: the handler takes no argument, or none of the option's name.
    """
    try:
        parameters = list(inspect.signature(handler).parameters.values())
    except (TypeError, ValueError):  # a builtin that does not tell
        return EventParameter(0, option or "", handler)
    places = [p for p in parameters if p.kind in _POSITIONAL]
    if option is not None:
        return _named(handler, option, parameters, places)
    name = getattr(_innermost(handler), "__qualname__", "")
    in_class = "." in name and not name.rpartition(".")[0].endswith("<locals>") and not inspect.ismethod(handler)
    if len(places) > 1 and places[0].name in _INSTANCE:
        return EventParameter(1, places[1].name, handler)
    variable = next((p for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL), None)
    keyword = next((p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY), "")
    if places and places[0].name in _INSTANCE and in_class:
        if variable is None and not keyword:
            raise ConfigError(_without_event(handler))
        return EventParameter(1 if variable is not None else -1, keyword, handler)
    if places:
        may_follow = inspect.isfunction(handler) and (len(places) > 1 or variable is not None or bool(keyword))
        after = places[1].name if len(places) > 1 else "" if variable is not None else keyword
        return EventParameter(0, places[0].name, handler, may_follow, after)
    if variable is not None:
        return EventParameter(0, "", handler, inspect.isfunction(handler))
    if not keyword:
        raise ConfigError(_without_event(handler))
    return EventParameter(-1, keyword, handler)


def _named(handler: Any, option: str, parameters: list[inspect.Parameter], places: list[Any]) -> EventParameter:
    for parameter in parameters:
        if parameter.name == option and parameter.kind not in {
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        }:
            return EventParameter(places.index(parameter) if parameter in places else -1, option, handler)
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return EventParameter(-1, option, handler)
    message = f"{handler_name(handler)}: event_parameter={option!r}, but it has no parameter of that name"
    raise ConfigError(message)


def _without_event(handler: Any) -> str:
    return f"{handler_name(handler)}: it takes no argument that could be the event"


def _innermost(handler: Any) -> Any:
    while isinstance(handler, functools.partial):
        handler = handler.func
    return handler


def _is_any(test: Callable[[Any], bool], handler: Any) -> bool:
    target = _innermost(handler)
    return test(target) or (not inspect.isclass(target) and test(getattr(target, "__call__", None)))  # noqa: B004


def _module_name(module: str) -> str:
    if module != "__main__":
        return module
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        return str(spec.name.removesuffix(".__main__"))
    file = getattr(main, "__file__", None)
    return os.path.splitext(os.path.basename(file))[0] if file else module


def _is_method_of(cls: type, decorated: Any) -> bool:
    """Whether a decorated function is a method of the class: one of its attributes leads to it, or its name says so.

    Another decorator around it may hide it, and a subclass may override it and call it by `super()`.
    """
    owner, _, name = decorated.__qualname__.rpartition(".")
    for base in cls.__mro__:
        members = vars(base)
        for member in members.values():
            if _leads_to(member, decorated):
                return not isinstance(member, staticmethod)
        if base.__qualname__ == owner and base.__module__ == decorated.__module__:
            return not isinstance(members.get(name), staticmethod)
    return False


def _leads_to(member: Any, function: Any) -> bool:
    for _ in range(_MAX_WRAPPERS):
        if member is function:
            return True
        if isinstance(member, staticmethod | classmethod):
            member = member.__func__
        else:  # without running anything: a member may be a proxy that works in a request only
            member = inspect.getattr_static(member, "__wrapped__", None)
        if member is None:
            return False
    return False


def _is_same(first: Any, second: Any) -> bool:
    """Whether two handlers are one: the same function over the same variables, however often it was defined."""
    if first is second:
        return True
    if isinstance(first, functools.partial) and isinstance(second, functools.partial):
        same_arguments = first.args == second.args and first.keywords == second.keywords
        return same_arguments and _is_same(first.func, second.func)
    if inspect.ismethod(first) and inspect.ismethod(second):
        return first.__self__ is second.__self__ and _is_same(first.__func__, second.__func__)
    if not (inspect.isfunction(first) and inspect.isfunction(second)):
        return False
    cells = [[cell.cell_contents for cell in f.__closure__ or ()] for f in (first, second)]
    return (
        first.__code__ is second.__code__
        and first.__defaults__ == second.__defaults__
        and len(cells[0]) == len(cells[1])
        and all(a is b for a, b in zip(*cells, strict=True))
    )
