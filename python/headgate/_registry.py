"""Names that cross rooms, in one table: what a user may write instead of importing (exempt in the layering test)."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

# schema name -> package with its plan.json, made from the pydantic model by tools/make_plans.py
PLANS = {"visits": "headgate.pipelines.visits", "news": "headgate.pipelines.market"}

# name in headgate.toml -> module:attribute
ADAPTERS = {
    "tiingo": "headgate.pipelines.market.sources:TiingoSource",
    "finnhub": "headgate.pipelines.market.sources:FinnhubSource",
}
# names of the task lists that a room offers although another one owns them
REEXPORTS = {
    "S3EventRetriever": "headgate.pipelines.visits.retriever:S3EventRetriever",
    "handle_scheduled_collection": "headgate.handlers._collect:handle_scheduled_collection",
}
# name in headgate.toml -> the calendar of scheduled collections
CALENDARS = {
    "nyse": "headgate.pipelines.market.calendar:MarketCalendar",
    "always": "headgate.intake:AlwaysOpen",
}
# what a sweep of a table that is not headgate's own sends -> module:function(item, key names, model version)
MESSAGES = {"analysis": "headgate.pipelines.market.requests:analysis_body"}
PIPELINES = {"market": "headgate.pipelines.market.pipeline:PIPELINE"}


def shipped_plan(name: str) -> str:
    """The plan text of a shipped schema."""
    _, *folders = PLANS[name].split(".")
    with open(os.path.join(os.path.dirname(__file__), *folders, "plan.json"), encoding="utf-8") as file:
        return file.read()


def resolve(reference: str, known: dict[str, str] | None = None) -> Any:
    """The object behind "module:attribute", or behind a name in `known`.

    Raises:
        ValueError, ImportError, AttributeError: as Python says it; callers make it a sentence.
    """
    module, separator, attribute = (known or {}).get(reference, reference).partition(":")
    if not separator:
        message = f"expected 'module:attribute', got {reference!r}"
        raise ValueError(message)
    return getattr(import_module(module), attribute)
