"""A folder of small JSON files becomes one Parquet file, incrementally, exactly once per file version (spec 002)."""

from headgate.checkpoint._run import CheckpointRun, RejectedRecord, update
from headgate.checkpoint._table import Checkpoint

__all__ = ["Checkpoint", "CheckpointRun", "RejectedRecord", "update"]
