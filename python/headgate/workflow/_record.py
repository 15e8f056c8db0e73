"""An execution as it is stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Record:
    """An execution as the store knows it.

    Args:
        id: its name.
        workflow: the state machine's name.
        kind: STANDARD or EXPRESS.
        input: of the execution.
        started_us: when it was started; with `redriven_us`, the beginning of its time limit.
        redrives: how often it was redriven.
    """

    id: str
    workflow: str
    kind: str
    input: Any
    started_us: int
    redrives: int = 0
    redriven_us: int = 0
    mock_calls: dict[str, int] = field(default_factory=dict)

    @property
    def arn(self) -> str:
        word = "express" if self.kind == "EXPRESS" else "execution"
        return f"arn:aws:states:local:000000000000:{word}:{self.workflow}:{self.id}"

    @property
    def machine_arn(self) -> str:
        return f"arn:aws:states:local:000000000000:stateMachine:{self.workflow}"
