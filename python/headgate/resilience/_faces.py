"""How a class of the core gets its Python face.

A subclass would cost every call of the core a look-up of its base, some 90 ns of 800. So a face is written as a
subclass, which type checkers and documentation read, and then becomes a part of the core's class itself: its
constructor, its properties, its documentation and its repr. Methods that a face does not have stay as they are, without
a Python frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
_NOT_PARTS = {"__dict__", "__weakref__", "__slots__"}


def face(cls: type[_T]) -> type[_T]:
    """Give the core's class, the only base of `cls`, what `cls` has; the core's class itself."""
    core_class: Any = cls.__bases__[0]
    if "_core_init" not in vars(core_class):
        core_class._core_init = core_class.__init__
    for name, value in vars(cls).items():
        if name not in _NOT_PARTS:
            setattr(core_class, name, value)
    core_class.__module__ = "headgate.resilience"  # where users import it from, and where a pickle looks for it
    core_class.__name__, core_class.__qualname__ = cls.__name__, cls.__qualname__
    faced: type[_T] = core_class
    return faced


def core_init(core_class: type) -> Callable[..., Any]:
    """The constructor that the core's class had before it got its face; its first argument is the object."""
    init: Callable[..., Any] = vars(core_class)["_core_init"]
    return init
