"""What a deployment is told, and the entry points of the functions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Function key -> entry point; headgate.handlers.stages has them all.
ENTRY_POINTS = {
    "etlLambda": "headgate.handlers.stages.etl",
    "filterLambda": "headgate.handlers.stages.filter_candidates",
    "scoreLambda": "headgate.handlers.stages.score",
    "storeLambda": "headgate.handlers.stages.store",
    "reactiveLambda": "headgate.handlers.stages.reactive",
    "workflowInputLambda": "headgate.handlers.stages.write_input",
    "workflowBridgeLambda": "headgate.handlers.stages.bridge",
}


@dataclass(frozen=True)
class Settings:
    """One deployment.

    Args:
        name: the stack is `{name}-{environment}`, functions `{name}-{environment}-{purpose}`.
        environment: dev, prod, ...
        account, region: where.
        code: a container image's URI, or the folder that `headgate package lambda` wrote.
        emails: who is told of failures.
        naming: EXPLICIT or DUAL (old functions keep their names beside new ones).
        existing_functions: with DUAL: function key -> name of a function that is deployed elsewhere.
        entry_points: function key -> entry point, for functions of your own.
        glue_scripts: Glue job -> key of its script in the workflow bucket, under scripts/.
        checkpoints: `bucket/key` of the checkpoints that the ETL stage reads.
        keep_bucket: whether the bucket outlives the stack.
    """

    name: str
    environment: str
    account: str
    region: str
    code: str
    emails: tuple[str, ...] = ()
    naming: str = "EXPLICIT"
    existing_functions: Mapping[str, str] = field(default_factory=dict)
    entry_points: Mapping[str, str] = field(default_factory=dict)
    glue_scripts: Mapping[str, str] = field(default_factory=dict)
    checkpoints: tuple[str, ...] = ()
    keep_bucket: bool = True

    def __post_init__(self) -> None:
        wrong = [place for place in self.checkpoints if not re.fullmatch(r"[a-z0-9.-]{3,63}/[^*?]+", place)]
        if wrong:
            message = f"checkpoints: {wrong[0]!r}: expected bucket/key of a checkpoint, without s3:// and wildcards"
            raise ValueError(message)

    @property
    def stack_name(self) -> str:
        return f"{self.name}-{self.environment}"

    def manifest(self) -> dict[str, Any] | None:
        """What `headgate package lambda` wrote; None for an image.

        Raises:
            ValueError: `code` is neither of the two.
        """
        file = Path(self.code) / "manifest.json"
        if file.is_file():
            found: dict[str, Any] = json.loads(file.read_text())
            return found
        if not re.fullmatch(r"[a-z0-9.-]+\.[a-z]+/[\w./-]+(:[\w.-]+|@sha256:[0-9a-f]{64})", self.code):
            message = (
                f"code {self.code!r}: expected an image's URI with a tag or digest, or the folder that"
                " `headgate package lambda` wrote"
            )
            raise ValueError(message)
        return None

    def entry_point(self, key: str) -> str:
        """The handler of a function key.

        Raises:
            ValueError: there is none.
        """
        found = {**ENTRY_POINTS, **self.entry_points}.get(key)
        if found is None:
            message = f"function key {key!r} has no entry point; expected it in entry_points"
            raise ValueError(message)
        return found
