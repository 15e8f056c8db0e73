"""Visit events from log files (spec 002)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["VisitEvent"]

if TYPE_CHECKING:
    from headgate.pipelines.visits.models import VisitEvent


def __getattr__(name: str) -> Any:
    if name == "VisitEvent":
        from headgate.pipelines.visits.models import VisitEvent

        return VisitEvent
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
