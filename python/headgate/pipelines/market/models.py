"""The contracts of the market pipeline as pydantic models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from headgate.checkpoint.schema import JsonValue, Timestamp, Trimmed
from headgate.pipelines.market.sentiment import label_of

Ticker = Annotated[str, StringConstraints(pattern=r"^[A-Z]{1,5}$")]
Label = Literal["positive", "neutral", "negative"]
URI = r"^[A-Za-z][A-Za-z0-9+.-]*:[!-~]+$"  # RFC 3986: a scheme, and no blanks
LOW_CONFIDENCE = 0.6  # below it, a confidence is shown as low


class NewsItem(BaseModel):
    """One article from one source; its key is the deduplication key alone.

    `source`, `attempt` and `raw_key` say which source, which try and which stored response gave it.
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    headgate_name: ClassVar[str] = "news"
    headgate_sort_by: ClassVar[str] = "published_at"
    headgate_file_names: ClassVar[tuple[str, ...]] = (r"items-[0-9]+-[0-9]+\.jsonl",)

    entity_type: Literal["NEWS_ITEM"] = "NEWS_ITEM"
    dedup_key: Annotated[str, StringConstraints(pattern=r"^[a-f0-9]{32}$")]
    story_key: Annotated[str, StringConstraints(pattern=r"^[a-f0-9]{32}$")]
    source: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,49}$")]
    source_id: Annotated[Trimmed, StringConstraints(min_length=1, max_length=200)]
    headline: Annotated[Trimmed, StringConstraints(min_length=1, max_length=500)]
    description: Annotated[Trimmed, StringConstraints(max_length=5000)] | None = None
    url: Annotated[Trimmed, StringConstraints(max_length=2048, pattern=URI)] | None = None
    published_at: Timestamp
    ingested_at: Timestamp
    tickers: Annotated[list[Ticker], Field(min_length=1, max_length=10)]
    tags: list[str] = Field(default_factory=list)
    source_name: Annotated[Trimmed, StringConstraints(max_length=100)] | None = None
    sentiment: JsonValue | None = None
    raw_key: str | None = None
    attempt: Annotated[int, Field(ge=1)] | None = None


class SentimentScore(BaseModel):
    """A score with its confidence. Null means unscored, and is never shown as 0.

    Example:
        >>> SentimentScore(score=0.33, confidence=0.5, label="positive").is_low_confidence
        True
    """

    # The contract's `model_version` begins as pydantic's own methods do, and before 2.10 it warned of that.
    model_config = ConfigDict(protected_namespaces=())

    score: Annotated[float, Field(ge=-1, le=1)] | None = None
    confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    label: Label | None = None
    model_version: str | None = None
    calculated_at: Timestamp | None = None

    @model_validator(mode="after")
    def _label_fits(self) -> SentimentScore:
        if self.score is not None and self.label is not None and self.label != label_of(self.score):
            message = f"label: {self.label} does not fit the score; expected {label_of(self.score)}"
            raise ValueError(message)
        return self

    @staticmethod
    def label_of(score: float) -> Label:
        """The word for a score; the bounds, +-0.33, belong to positive and negative."""
        return label_of(score)

    @property
    def is_scored(self) -> bool:
        """Whether there is a score at all; without one it is shown as "unscored"."""
        return self.score is not None

    @property
    def is_low_confidence(self) -> bool:
        """Below 0.6, when there is a confidence."""
        return self.confidence is not None and self.confidence < LOW_CONFIDENCE


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
    ttl: int | None = None  # epoch seconds, 30 days on


class DataSourceConfig(BaseModel):
    """A source's standing, as dashboards show it."""

    source_id: str
    display_name: Annotated[str, Field(max_length=50)]
    priority: Annotated[int, Field(ge=1, le=10)]
    is_available: bool
    consecutive_failures: Annotated[int, Field(ge=0)]
    last_success_at: Timestamp | None = None
    last_failure_at: Timestamp | None = None
    failure_window_start: Timestamp | None = None
    api_config: dict[str, Any] | None = None

    @staticmethod
    def of(source: Any, priority: int, breaker: dict[str, Any], events: list[dict[str, Any]]) -> DataSourceConfig:
        """A source's standing from its breaker's snapshot and the collection events, oldest first.

        Args:
            source: an adapter.
            priority: 1 is the primary.
            breaker: the snapshot of its circuit breaker.
            events: stored collection events; their attempts are counted.
        """
        from headgate.pipelines.market.pipeline import standing

        return DataSourceConfig.model_validate(standing(source, priority, breaker, events))


def _unique(tickers: list[str]) -> list[str]:
    if len(set(tickers)) != len(tickers):
        message = "tickers: expected each once"
        raise ValueError(message)
    return tickers


class NewDataNotification(BaseModel):
    """Sent once per collection that stored something new."""

    event_type: Literal["NEW_MARKET_DATA"] = "NEW_MARKET_DATA"
    timestamp: Timestamp
    source: str
    item_count: Annotated[int, Field(ge=1)]
    tickers: Annotated[list[Ticker], AfterValidator(_unique)]
    date_range: dict[str, Timestamp] | None = None
    collection_event_id: str | None = None


@dataclass(frozen=True)
class NewsArticle:
    """An article as a source tells it, before it becomes a NewsItem.

    Args:
        article_id: the source's own id, if it has one.
        source: the source's name.
        title: the headline.
        published_at: ISO 8601, or Unix seconds.
        tickers: in any case; what is no ticker is dropped later.
        source_name: the publisher.
    """

    article_id: str | None
    source: str
    title: str
    published_at: Any
    description: str | None = None
    url: str | None = None
    tickers: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    source_name: str | None = None
    sentiment_score: float | None = None
    sentiment_label: str | None = None
    raw: Any = field(default=None, repr=False, compare=False)  # the record that it was made of
