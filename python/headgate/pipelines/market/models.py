"""The contracts of spec 001, section 2, as pydantic models."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from headgate.checkpoint.schema import JsonValue, Timestamp, Trimmed

Ticker = Annotated[str, StringConstraints(pattern=r"^[A-Z]{1,5}$")]


class NewsItem(BaseModel):
    """One article from one source; its key is the deduplication key alone (decision 1)."""

    model_config = ConfigDict(extra="forbid", strict=True)
    headgate_name: ClassVar[str] = "news"
    headgate_sort_by: ClassVar[str] = "published_at"
    headgate_file_names: ClassVar[tuple[str, ...]] = (r"items-[0-9]+-[0-9]+\.jsonl",)

    entity_type: Literal["NEWS_ITEM"] = "NEWS_ITEM"
    dedup_key: Annotated[str, StringConstraints(pattern=r"^[a-f0-9]{32}$")]
    story_key: Annotated[str, StringConstraints(pattern=r"^[a-f0-9]{32}$")]
    source: Literal["tiingo", "finnhub"]
    source_id: Annotated[Trimmed, StringConstraints(min_length=1, max_length=200)]
    headline: Annotated[Trimmed, StringConstraints(min_length=1, max_length=500)]
    description: Annotated[Trimmed, StringConstraints(max_length=5000)] | None = None
    url: Annotated[Trimmed, StringConstraints(min_length=1, max_length=2048)] | None = None
    published_at: Timestamp
    ingested_at: Timestamp
    tickers: Annotated[list[Ticker], Field(min_length=1, max_length=10)]
    tags: list[str] = Field(default_factory=list)
    source_name: Annotated[Trimmed, StringConstraints(max_length=100)] | None = None
    sentiment: JsonValue | None = None
    raw_key: str | None = None


class SentimentScore(BaseModel):
    """A score with its confidence; null confidence means unscored, and is never shown as 0."""

    score: Annotated[float, Field(ge=-1, le=1)]
    confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    label: Literal["positive", "neutral", "negative"]
    model_version: str | None = None
    calculated_at: Timestamp | None = None

    @staticmethod
    def label_of(score: float) -> Literal["positive", "neutral", "negative"]:
        """+-0.33 inclusive (section 2)."""
        if score >= 0.33:
            return "positive"
        return "negative" if score <= -0.33 else "neutral"


class CollectionEvent(BaseModel):
    """What a collection reports; the stored event has its attempts and breaker states besides."""

    model_config = ConfigDict(extra="allow")

    event_id: str
    source: str
    timestamp: Timestamp
    success: bool
    item_count: Annotated[int, Field(ge=0)]
    new_item_count: Annotated[int, Field(ge=0)]
    duration_ms: Annotated[int, Field(ge=0, le=60_000)]
    is_failover: bool
    error_code: Annotated[str, Field(max_length=50)] | None = None
    error_message: Annotated[str, Field(max_length=1000)] | None = None


class DataSourceConfig(BaseModel):
    """A source's standing, as dashboards show it."""

    source_id: str
    display_name: Annotated[str, Field(max_length=50)]
    priority: Annotated[int, Field(ge=1, le=10)]
    is_available: bool
    consecutive_failures: Annotated[int, Field(ge=0)]
    api_config: dict[str, Any] | None = None


class NewDataNotification(BaseModel):
    """Sent once per collection that stored something new."""

    event_type: Literal["NEW_MARKET_DATA"] = "NEW_MARKET_DATA"
    timestamp: Timestamp
    source: str
    item_count: Annotated[int, Field(ge=1)]
    tickers: list[Ticker]
    collection_event_id: str | None = None
