"""Many small JSON files become one Parquet file, incrementally, exactly once per file version.

Everything is imported on first use: a run of some new files takes a few tenths of a second, imports included.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headgate.checkpoint._adopt import Adoption, adopt
    from headgate.checkpoint._rejects import rejected
    from headgate.checkpoint._result import CheckpointRun, RejectedRecord
    from headgate.checkpoint._run import update
    from headgate.checkpoint._store import CheckpointStore
    from headgate.checkpoint._table import Checkpoint
    from headgate.checkpoint._upkeep import maintain
    from headgate.checkpoint._verify import VerifyReport, verify
    from headgate.errors import CheckpointError
    from headgate.pipelines.visits import S3EventRetriever

_EXPORTS = {
    "Adoption": "_adopt",
    "Checkpoint": "_table",
    "CheckpointRun": "_result",
    "CheckpointStore": "_store",
    "RejectedRecord": "_result",
    "VerifyReport": "_verify",
    "adopt": "_adopt",
    "maintain": "_upkeep",
    "rejected": "_rejects",
    "update": "_run",
    "verify": "_verify",
}
__all__ = [
    "Adoption", "Checkpoint", "CheckpointError", "CheckpointRun", "CheckpointStore", "RejectedRecord",
    "S3EventRetriever", "VerifyReport", "adopt", "maintain", "rejected", "update", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    elif name == "CheckpointError":
        from headgate import errors

        value = errors.CheckpointError
    elif name == "S3EventRetriever":
        from headgate._registry import REEXPORTS, resolve

        value = resolve(REEXPORTS[name])
    else:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
