"""Many small JSON files become one Parquet file, incrementally, exactly once per file version (spec 002)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate.checkpoint._delta import maintain
from headgate.checkpoint._rejects import rejected
from headgate.checkpoint._run import CheckpointRun, RejectedRecord, update
from headgate.checkpoint._store import CheckpointStore
from headgate.checkpoint._table import Checkpoint
from headgate.checkpoint._verify import VerifyReport, verify

if TYPE_CHECKING:
    from headgate.pipelines.visits import S3EventRetriever

__all__ = [
    "Checkpoint", "CheckpointRun", "CheckpointStore", "RejectedRecord", "S3EventRetriever", "VerifyReport", "maintain",
    "rejected", "update", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    from headgate._registry import REEXPORTS, resolve

    if name == "S3EventRetriever":
        return resolve(REEXPORTS[name])
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
