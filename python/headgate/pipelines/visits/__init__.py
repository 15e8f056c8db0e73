"""Visit events from log files."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["S3EventRetriever", "VisitEvent", "Visits"]

if TYPE_CHECKING:
    from headgate.pipelines.visits.models import VisitEvent
    from headgate.pipelines.visits.queries import Visits
    from headgate.pipelines.visits.retriever import S3EventRetriever

_HOMES = {"VisitEvent": "models", "Visits": "queries", "S3EventRetriever": "retriever"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
