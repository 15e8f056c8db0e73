"""The one place that loads the native extensions."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

try:
    from headgate import _core as core
except ImportError as error:  # pragma: no cover - shown by a subprocess test
    _MESSAGE = (
        "headgate's native core is missing or does not fit this Python: build it with `pip install .` "
        f"in the checkout ({error})"
    )
    raise ImportError(_MESSAGE) from None

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["core", "parquet", "set_faults"]

_ARROW_MAJOR = 26
_fault_spec = ""


def set_faults(spec: str) -> None:
    """Install fault points in every native extension, loaded now or later ('' removes them)."""
    global _fault_spec  # noqa: PLW0603 - process-wide by nature
    core.set_faults(spec)
    _fault_spec = spec
    if parquet.cache_info().currsize:
        parquet().set_faults(spec)


@cache
def parquet() -> ModuleType:
    """Load `_parquet`, after Arrow's libraries from the pyarrow wheel (found, not imported)."""
    import ctypes
    import importlib.util

    from headgate.errors import ConfigError, Kind, from_kind

    found = importlib.util.find_spec("pyarrow")
    if found is None or found.origin is None:
        message = f"checkpoints need pyarrow {_ARROW_MAJOR}.*: pip install 'pyarrow=={_ARROW_MAJOR}.*'"
        raise ConfigError(message, Kind.NOT_BUILT)
    folder = os.path.dirname(found.origin)
    try:
        for name in ("libarrow.so", "libparquet.so"):
            ctypes.CDLL(os.path.join(folder, f"{name}.{_ARROW_MAJOR}00"), mode=ctypes.RTLD_LOCAL)
        from headgate import _parquet
    except (ImportError, OSError) as error:
        message = (
            f"headgate was built for Arrow {_ARROW_MAJOR}, and the installed pyarrow does not fit: "
            f"pip install 'pyarrow=={_ARROW_MAJOR}.*' ({error})"
        )
        raise ConfigError(message, Kind.NOT_BUILT) from None
    _parquet.set_error_factory(from_kind)
    _parquet.set_faults(_fault_spec)
    return _parquet
