"""From either source's payload to a NewsItem, its identity and its announcements."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate._registry import shipped_plan
from headgate.errors import HeadgateError
from headgate.identity import dedup_key, story_key
from headgate.intake import Normalised, Pipeline, RawInfo, Reject
from headgate.intake._intake import parse_array

if TYPE_CHECKING:
    from headgate.ports import Item, Json

MODEL_VERSION = "v1.0.0"  # spec 000, section 4
_TICKER = re.compile(r"[A-Z]{1,5}")
_MAX_TICKERS = 10
_MAX_AGE_US = 7 * 86_400 * 1_000_000  # section 2: published within the last 7 days
_MAX_DESCRIPTION = 5000
_MAX_HEADLINE = 500
_MAX_SOURCE_NAME = 100
_MAX_TAG = 50
_MAX_URL = 2048


def normalise(record: Any, raw: RawInfo) -> Normalised:
    """One raw article to a NewsItem document.

    Mends what can be mended (case, blanks, over-long texts, bad tickers); rejects what cannot.

    Raises:
        Reject: not_an_object, no_headline, no_time, too_old, from_the_future, no_ticker.
    """
    if not isinstance(record, dict):
        raise Reject("not_an_object", f"expected a JSON object, got {type(record).__name__}")
    fields = _tiingo_fields(record) if raw.source == "tiingo" else _finnhub_fields(record)
    headline = _text(fields["headline"], _MAX_HEADLINE)
    if not headline:
        raise Reject("no_headline", "the headline is missing or blank")
    published_us = _published(fields["published"])
    # Age counts from the fetch, so that a replay of old blobs gives the same verdict (decision 10).
    if published_us < raw.fetched_us - _MAX_AGE_US:
        raise Reject("too_old", "published more than 7 days before it was fetched")
    if published_us > raw.fetched_us + 86_400 * 1_000_000:
        raise Reject("from_the_future", "published more than a day after it was fetched")
    tickers = _tickers(fields["tickers"], raw.context.get("tickers", ()))
    if not tickers:
        raise Reject("no_ticker", "no ticker of 1-5 letters is left after normalising")
    published = core.format_timestamp(published_us)
    key = dedup_key(headline, raw.source, published)
    story = story_key(headline, published)
    doc: Json = {
        "entity_type": "NEWS_ITEM",
        "dedup_key": key,
        "story_key": story,
        "source": raw.source,
        "source_id": f"{raw.source}:{fields['id'] if fields['id'] is not None else key}",
        "headline": headline,
        "description": _text(fields["description"], _MAX_DESCRIPTION) or None,
        "url": _text(fields["url"], _MAX_URL) or None,
        "published_at": published,
        "ingested_at": core.format_timestamp(raw.fetched_us),
        "tickers": tickers,
        "tags": [t for t in (_text(tag, _MAX_TAG) for tag in fields["tags"]) if t],
        "source_name": _text(fields["source_name"], _MAX_SOURCE_NAME) or None,
        "raw_key": raw.key,
    }
    return Normalised(key, published, doc, story)


def _tiingo_fields(record: Json) -> Json:
    return {
        "id": record.get("id"),
        "headline": record.get("title"),
        "description": record.get("description"),
        "url": record.get("url"),
        "published": record.get("publishedDate"),
        "tickers": record.get("tickers") or [],
        "tags": record.get("tags") or [],
        "source_name": record.get("source"),
    }


def _finnhub_fields(record: Json) -> Json:
    category = record.get("category")
    return {
        "id": record.get("id"),
        "headline": record.get("headline"),
        "description": record.get("summary"),
        "url": record.get("url"),
        "published": record.get("datetime"),
        "tickers": str(record.get("related") or "").split(","),
        "tags": [category] if category else [],
        "source_name": record.get("source"),
    }


def _text(value: Any, limit: int) -> str:
    return value.strip()[:limit].rstrip() if isinstance(value, str) else ""


def _published(value: Any) -> int:
    """Microseconds: Finnhub sends Unix seconds, Tiingo ISO 8601 in two forms."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 4_102_444_800:
        return value * 1_000_000
    if isinstance(value, str):
        try:
            return core.parse_timestamp(value.strip())
        except HeadgateError:
            pass
    raise Reject("no_time", "the publication time is missing or cannot be read")


def _tickers(values: Any, requested: Any) -> list[str]:
    """Upper case, each once; of more than ten the requested ones first (decision 11)."""
    found: list[str] = []
    for value in values if isinstance(values, list) else ():
        ticker = value.strip().upper() if isinstance(value, str) else ""
        if _TICKER.fullmatch(ticker) and ticker not in found:
            found.append(ticker)
    if len(found) > _MAX_TICKERS:
        wanted = {t.upper() for t in requested}
        found.sort(key=lambda t: t not in wanted)
    return found[:_MAX_TICKERS]


def analysis_request(doc: Json, model_version: str = MODEL_VERSION) -> Json:
    """The body of an item's announcement (spec 000, section 6); collector and healer send the same."""
    return {
        "source_id": doc["source_id"],
        "key": doc["dedup_key"],
        "source_type": doc["source"],
        "text_for_analysis": ". ".join(t for t in (doc["headline"], doc.get("description")) if t),
        "model_version": model_version,
        "matched_tickers": doc["tickers"],
        "timestamp": doc["published_at"],
    }


def _announce(item: Item) -> Json:
    return analysis_request(item.doc)


def new_data_notification(event_id: str, source: str, docs: list[Json], now_us: int) -> tuple[str, Json]:
    """Topic and NewDataNotification of a collection that stored something (section 2)."""
    published = sorted(doc["published_at"] for doc in docs)
    return "market.new_data", {
        "event_type": "NEW_MARKET_DATA",
        "timestamp": core.format_timestamp(now_us),
        "source": source,
        "item_count": len(docs),
        "tickers": sorted({t for doc in docs for t in doc["tickers"]}),
        "date_range": {"start": published[0], "end": published[-1]},
        "collection_event_id": event_id,
    }


PIPELINE = Pipeline(
    "market", shipped_plan("news"), parse_array, normalise, _announce, new_data_notification, MODEL_VERSION
)
