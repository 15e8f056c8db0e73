"""Types of the checkpoint engine; stubtest holds them to the module. Private: not a stable interface."""

from collections.abc import Callable
from typing import Any, TypeAlias

_Place: TypeAlias = str | dict[str, Any]

def set_error_factory(factory: Callable[[str, str], BaseException]) -> None: ...
def error_kinds() -> list[str]: ...
def set_faults(spec: str) -> None: ...
def update(
    source: _Place,
    target: _Place,
    plan: str,
    options: dict[str, Any],
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]: ...
def stage(
    source: _Place,
    parts: _Place,
    footer_file: str,
    out: str,
    plan: str,
    options: dict[str, Any],
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]: ...
def infer(source: _Place, name: str, sort_by: str, threads: int) -> str: ...
def stored_plan(target: _Place) -> str: ...
def verify(
    source: _Place | None,
    target: _Place,
    plan: str,
    progress: Callable[[int, int], None] | None,
    rows_elsewhere: int | None = None,
) -> dict[str, Any]: ...
def count_groups(rows: Any) -> tuple[list[list[str | int | None]], list[int]]: ...
def newest_rows(rows: Any) -> bytes: ...
