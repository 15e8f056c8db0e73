"""Types of the checkpoint engine; stubtest holds them to the module. Private: not a stable interface."""

from collections.abc import Callable
from typing import Any

def set_error_factory(factory: Callable[[str, str], BaseException]) -> None: ...
def error_kinds() -> list[str]: ...
def set_faults(spec: str) -> None: ...
def update(
    source: str,
    target: str,
    plan: str,
    watermark: bool,
    settle_us: int,
    threads: int,
    dry_run: bool,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]: ...
