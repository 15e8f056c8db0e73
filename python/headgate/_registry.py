"""The table of names that connect packages without an import.

A name in `headgate.toml`, such as `tiingo`, is resolved here to "module:attribute". The module is imported when the
name is used, so that the engine depends on no pipeline.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

# Schema name -> the package that holds its plan.json. tools/make_plans.py makes the plan from the pydantic model.
PLANS = {"visits": "headgate.pipelines.visits", "news": "headgate.pipelines.market"}

# The schema of those functions of `headgate.checkpoint` that have to take one and are given none.
DEFAULT_SCHEMA = "visits"

# Source kind in headgate.toml -> the adapter class.
ADAPTERS = {
    "tiingo": "headgate.pipelines.market.sources:TiingoSource",
    "finnhub": "headgate.pipelines.market.sources:FinnhubSource",
}
# Public names that one package offers although another one defines them.
REEXPORTS = {
    "S3EventRetriever": "headgate.pipelines.visits.retriever:S3EventRetriever",
    "handle_scheduled_collection": "headgate.handlers._collect:handle_scheduled_collection",
}
# Calendar name in headgate.toml -> the class that says when scheduled collections run.
CALENDARS = {
    "nyse": "headgate.pipelines.market.calendar:MarketCalendar",
    "always": "headgate.intake:AlwaysOpen",
}
# Kind of announcement that a sweep of a user's own table sends -> function(item, key names, model version).
MESSAGES = {"analysis": "headgate.pipelines.market.requests:analysis_body"}
# Pipeline name in headgate.toml -> the `Pipeline` object.
PIPELINES = {"market": "headgate.pipelines.market.pipeline:PIPELINE"}
# What shipped pipelines add to the healing sweep of the embedded store: function(app) -> [(StuckKind, Rule)].
STUCK_KINDS = ("headgate.pipelines.uploads.stuck:stuck_kinds",)
# The service behind the HTTP intake of `headgate serve` and the upload handler: function(app, store) -> FileService.
FILE_SERVICE = "headgate.pipelines.uploads.configured:file_service"


def shipped_plan(name: str) -> str:
    """The plan text of a shipped schema."""
    _, *folders = PLANS[name].split(".")
    with open(os.path.join(os.path.dirname(__file__), *folders, "plan.json"), encoding="utf-8") as file:
        return file.read()


def compile_model(model: type[Any]) -> dict[str, Any]:
    """The schema plan of a pydantic model, made by `headgate.checkpoint.schema.compile_model`."""
    plan: dict[str, Any] = resolve("headgate.checkpoint.schema:compile_model")(model)
    return plan


def resolve(reference: str, known: dict[str, str] | None = None) -> Any:
    """The object behind "module:attribute", or behind a name in `known`.

    Raises:
        ValueError, ImportError, AttributeError: as Python says it; callers make it a sentence.
    """
    module, separator, attribute = (known or {}).get(reference, reference).partition(":")
    if not separator:
        message = f"expected 'module:attribute', got {reference!r}"
        raise ValueError(message)
    return getattr(load_module(module), attribute)


def load_module(name: str) -> Any:
    """A module that a user names.

    Raises:
        ImportError: there is none, or its own code fails: callers make it a sentence, whatever it raises.
        HeadgateError: of headgate's own modules (a library is missing).
    """
    try:
        return import_module(name)
    except ImportError:
        raise
    except (Exception, SystemExit) as error:
        if hasattr(error, "kind"):
            raise  # headgate's own, which says what is missing
        message = f"module {name} cannot be loaded: {type(error).__name__}: {error}"
        raise ImportError(message) from error
