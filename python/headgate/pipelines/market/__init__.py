"""News from market-data sources that fail (spec 001)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_EXPORTS = {
    "NewsItem": "models", "SentimentScore": "models", "CollectionEvent": "models", "DataSourceConfig": "models",
    "NewDataNotification": "models", "TiingoSource": "sources", "FinnhubSource": "sources", "PIPELINE": "pipeline",
    "analysis_request": "pipeline", "new_data_notification": "pipeline", "analyse": "analysis",
}  # fmt: skip
__all__ = [
    "PIPELINE", "CollectionEvent", "DataSourceConfig", "FinnhubSource", "NewDataNotification", "NewsItem",
    "SentimentScore", "TiingoSource", "analyse", "analysis_request", "new_data_notification",
]  # fmt: skip

if TYPE_CHECKING:
    from headgate.pipelines.market.analysis import analyse
    from headgate.pipelines.market.models import (
        CollectionEvent,
        DataSourceConfig,
        NewDataNotification,
        NewsItem,
        SentimentScore,
    )
    from headgate.pipelines.market.pipeline import PIPELINE, analysis_request, new_data_notification
    from headgate.pipelines.market.sources import FinnhubSource, TiingoSource


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
