"""News from market-data sources that fail, and what a collection of it looks like."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from headgate._registry import REEXPORTS, resolve

_EXPORTS = {
    "NewsItem": "models", "NewsArticle": "models", "SentimentScore": "models", "CollectionEvent": "models",
    "DataSourceConfig": "models", "NewDataNotification": "models", "TiingoSource": "sources",
    "FinnhubSource": "sources", "NewsSource": "sources", "PIPELINE": "pipeline", "analysis_request": "pipeline",
    "new_data_notification": "pipeline", "analyse": "analysis", "FailoverOrchestrator": "orchestrator",
    "fetch_news": "orchestrator", "store_news_items": "orchestrator", "MarketCalendar": "calendar",
    "AdapterError": "adapters", "RateLimitError": "adapters", "AllAdaptersFailedError": "adapters",
    "TiingoAdapter": "adapters", "FinnhubAdapter": "adapters", "LatestNews": "latest", "latest_news": "latest",
    "collection_metrics": "metrics",
}  # fmt: skip
__all__ = [
    "PIPELINE", "AdapterError", "AllAdaptersFailedError", "CollectionEvent", "DataSourceConfig",
    "FailoverOrchestrator", "FinnhubAdapter", "FinnhubSource", "LatestNews", "MarketCalendar", "NewDataNotification",
    "NewsArticle", "NewsItem", "NewsSource", "RateLimitError", "SentimentScore", "TiingoAdapter", "TiingoSource",
    "analyse", "analysis_request", "collection_metrics", "fetch_news", "handle_scheduled_collection",
    "latest_news", "new_data_notification", "store_news_items",
]  # fmt: skip

if TYPE_CHECKING:
    from headgate.pipelines.market.adapters import (
        AdapterError,
        AllAdaptersFailedError,
        FinnhubAdapter,
        RateLimitError,
        TiingoAdapter,
    )
    from headgate.pipelines.market.analysis import analyse
    from headgate.pipelines.market.calendar import MarketCalendar
    from headgate.pipelines.market.latest import LatestNews, latest_news
    from headgate.pipelines.market.metrics import collection_metrics
    from headgate.pipelines.market.models import (
        CollectionEvent,
        DataSourceConfig,
        NewDataNotification,
        NewsArticle,
        NewsItem,
        SentimentScore,
    )
    from headgate.pipelines.market.orchestrator import FailoverOrchestrator, fetch_news, store_news_items
    from headgate.pipelines.market.pipeline import PIPELINE, analysis_request, new_data_notification
    from headgate.pipelines.market.sources import FinnhubSource, NewsSource, TiingoSource


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    if name == "handle_scheduled_collection":
        return resolve(REEXPORTS[name])
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
