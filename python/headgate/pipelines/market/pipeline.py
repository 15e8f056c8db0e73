"""From either source's payload to a NewsItem, its identity and its announcements."""

from __future__ import annotations

import html
import re
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from headgate._native import core
from headgate._registry import shipped_plan
from headgate.errors import HeadgateError, InvalidInputError, Kind
from headgate.identity import story_key_of
from headgate.intake import Normalised, Pipeline, RawInfo, Reject
from headgate.intake._bodies import parse_array, read_json, readable
from headgate.pipelines.market.sentiment import reliability_sentiment, what_is_wrong
from headgate.pipelines.market.sources import READERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headgate.intake import NewItem
    from headgate.ports import Item, Json

MODEL_VERSION = "v1.0.0"  # of the analysis that consumers run; it is part of every announcement
UNAVAILABLE_AFTER = 3  # failures within 15 minutes, from which a source counts as unavailable
_FAILURE_WINDOW_US = 900 * 1_000_000
_MAX_TICKER = 5
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+")  # as `models.URI`
SOURCE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,49}")  # as the contract of an item has it
_TICKER = re.compile(r"[A-Z]{1,5}")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>|<!--.*?-->", re.DOTALL)
_BLANKS = re.compile(r"\s+")
_MAX_TICKERS = 10
_DAY_US = 86_400 * 1_000_000
_LAST_SECOND = 4_102_444_800  # 2100-01-01: a larger number is milliseconds
_MAX_SOURCE_ID = 200
_MAX_AGE_US = 7 * 86_400 * 1_000_000  # older articles are dead letters: a feed that repeats its archive is no news
_MAX_DESCRIPTION = 5000
_MAX_HEADLINE = 500
_MAX_SOURCE_NAME = 100
_MAX_TAG = 50
_MAX_URL = 2048


def parse(body: bytes, raw: RawInfo) -> list[Any]:
    """A source's body to its raw articles: a JSON array, or what the source's own `records` makes of another shape.

    Raises:
        InvalidInputError: not JSON, or of another shape.
    """
    records = getattr(raw.reader, "records", None)
    if records is None:
        return parse_array(body, raw)
    try:
        return readable(records(read_json(body)), body)
    except Exception:
        message = f"{raw.source}: the body is not of the shape that its source knows"
        raise InvalidInputError(message, Kind.MALFORMED_RESPONSE) from None


def normalise(record: Any, raw: RawInfo) -> Normalised:
    """One raw article to a NewsItem document.

    Mends what can be mended (case, blanks, markup, over-long texts, bad tickers); rejects what cannot.

    Raises:
        Reject: not_an_object, unknown_source, no_headline, no_time, too_old, from_the_future, no_ticker.
    """
    if not isinstance(record, dict):
        raise Reject("not_an_object", f"expected a JSON object, got {type(record).__name__}")
    reader = raw.reader or READERS.get(raw.source)
    if reader is None:
        raise Reject("unknown_source", "no source of that name is configured that could read it")
    fields = reader.fields(record)
    headline = _text(fields["headline"], _MAX_HEADLINE, markup=True)
    if not headline:
        raise Reject("no_headline", "the headline is missing or blank")
    published_us = _published(fields["published"])
    published = core.format_timestamp(published_us)
    day = published[:10]  # of a time that the core wrote: UTC
    key = core.dedup_key(headline, raw.source, day)
    # Age counts from the fetch, so that a replay of old blobs gives the same verdict.
    if published_us < raw.fetched_us - _MAX_AGE_US:
        raise Reject("too_old", "published more than 7 days before it was fetched", key)
    if published_us > raw.fetched_us + _DAY_US:
        raise Reject("from_the_future", "published more than a day after it was fetched", key)
    tickers = _tickers(fields["tickers"], raw.context.get("tickers", ())) or _asked_ticker(
        fields["tickers"], reader, raw
    )
    if not tickers:
        raise Reject("no_ticker", "no ticker of 1-5 letters is left after normalising", key)
    story = story_key_of(headline, day)
    tags = fields["tags"]
    source_id = fields["id"]
    source_name = _text(fields["source_name"], _MAX_SOURCE_NAME) or None
    doc: Json = {
        "entity_type": "NEWS_ITEM",
        "dedup_key": key,
        "story_key": story,
        "source": raw.source,
        "source_id": f"{raw.source}:{key if source_id is None or source_id == '' else source_id}"[:_MAX_SOURCE_ID],
        "headline": headline,
        "description": _text(fields["description"], _MAX_DESCRIPTION, markup=True) or None,
        "url": _url(fields["url"]),
        "published_at": published,
        "ingested_at": core.format_timestamp(raw.fetched_us),
        "tickers": tickers,
        "tags": [t for t in (_text(tag, _MAX_TAG) for tag in (tags if isinstance(tags, list) else ())) if t],
        "source_name": source_name,
        "raw_key": raw.key,
        "attempt": raw.attempt,
    }
    if (sentiment := _sentiment(tickers, source_name, raw)) is not None:
        doc["sentiment"] = sentiment
    return Normalised(key, published, doc, story, tuple(tickers))


def _sentiment(tickers: list[str], publisher: str | None, raw: RawInfo) -> Json | None:
    """The first ticker's that the source scored; else the publisher's reliability, which is no score."""
    scored = raw.context.get("sentiment") or {}
    for ticker in tickers:
        if ticker in scored:
            found = scored[ticker]
            if (wrong := what_is_wrong(found)) is not None:
                raise Reject("invalid_sentiment", wrong)
            return {**found, "calculated_at": raw.fetched_at}
    if raw.source == "tiingo":
        return reliability_sentiment(publisher, raw.context.get("reliability"))
    return None


def _text(value: Any, limit: int, *, markup: bool = False) -> str:
    """Trimmed and cut; headlines come with entities and tags, which are no part of their words."""
    if not isinstance(value, str):
        return ""
    if markup and ("&" in value or "<" in value):
        value = _BLANKS.sub(" ", _TAG.sub(" ", html.unescape(value)))
    text: str = value
    return text.strip()[:limit].rstrip()


def _url(value: Any) -> str | None:
    """A URI, its blanks and characters outside ASCII escaped as browsers do; None for what is none, or is too long."""
    text = value.strip() if isinstance(value, str) else ""
    if not _URI.fullmatch(text):
        text = quote(text, safe="!#$%&'()*+,/:;=?@[]~")
    return text if len(text) <= _MAX_URL and _URI.fullmatch(text) else None


def _published(value: Any) -> int:
    """Microseconds of Unix seconds or milliseconds, ISO 8601 with or without a time or zone, or an RFC 5322 date."""
    if isinstance(value, str):
        text = value.strip()
        try:
            return core.parse_timestamp(text)
        except HeadgateError:
            pass
        if len(text) > 11 and text[10] == " " and text[4] == "-":
            text = f"{text[:10]}T{text[11:].strip()}"
        elif len(text) == 10 and text[4] == "-":
            text += "T00:00:00Z"
        try:
            return core.parse_timestamp(text.replace(" ", ""))
        except HeadgateError:
            value = _other_time(text)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _LAST_SECOND * 1000:
        return int(value * 1_000_000) if value < _LAST_SECOND else int(value * 1000)
    raise Reject("no_time", "the publication time is missing or cannot be read")


def _other_time(text: str) -> float | None:
    """Seconds of "1569550360" or "Mon, 11 Jan 2016 23:13:00 GMT"."""
    if text.isdecimal() and text.isascii():
        return int(text[:20])
    try:
        found = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError):
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _tickers(values: Any, requested: Any) -> list[str]:
    """Upper case, each once; of more than ten the requested ones first."""
    found: list[str] = []
    for value in values if isinstance(values, list) else ():
        ticker = value.strip().upper() if isinstance(value, str) else ""
        # [A-Z]{1,5}, without a regular expression a ticker.
        if 0 < len(ticker) <= _MAX_TICKER and ticker.isascii() and ticker.isalpha() and ticker not in found:
            found.append(ticker)
    if len(found) > _MAX_TICKERS:
        wanted = {t.upper() for t in requested}
        found.sort(key=lambda t: t not in wanted)
    return found[:_MAX_TICKERS]


def _asked_ticker(values: Any, reader: Any, raw: RawInfo) -> list[str]:
    """The one ticker that the request asked for, when the article names none at all."""
    if isinstance(values, list) and any(not isinstance(v, str) or v.strip() for v in values):
        return []
    asked = getattr(reader, "asked_tickers", None)
    found = asked(raw.url) if asked is not None and raw.url else []
    return _tickers(found, ()) if len(found) == 1 else []


def clean_tickers(tickers: Any) -> list[str]:
    """Symbols in upper case, each once.

    Raises:
        InvalidInputError: it is no list of texts. A text alone would be a list of its letters, which are symbols too.
    """
    given = list(tickers) if isinstance(tickers, list | tuple | set | frozenset) else None
    if given is None or not all(isinstance(t, str) for t in given):
        message = f"tickers: got {tickers!r}; expected a list of symbols, such as ['AAPL']"
        raise InvalidInputError(message)
    return list(dict.fromkeys(t.strip().upper() for t in given if t.strip()))


def check_query(query: Json) -> None:
    """Refuse what no source could be asked for, or no item stored for, before any source is asked.

    Raises:
        InvalidInputError: there is no ticker, one is not 1 to 5 letters A to Z, or a date is none or after the end.
    """
    tickers = query.get("tickers", ("ANY",))  # a source of one's own may ask for something else
    if isinstance(tickers, str):
        clean_tickers(tickers)
    days = [_day(name, query[name]) for name in ("start_date", "end_date") if name in query]
    if days != sorted(days):
        message = f"start_date: {days[0]} is after end_date {days[1]}; expected the earlier one first"
        raise InvalidInputError(message)
    if not tickers:
        message = "tickers: there is none; expected at least one symbol"
        raise InvalidInputError(message)
    bad = [t for t in tickers if not (isinstance(t, str) and _TICKER.fullmatch(t))]
    if bad:
        message = f"tickers: got {', '.join(repr(t) for t in bad[:5])}; expected symbols of 1 to 5 letters A to Z"
        raise InvalidInputError(message)


def as_day(value: Any) -> Any:
    """A date as sources are asked for it; what is no date is left for `check_query` to refuse."""
    return value.isoformat() if isinstance(value, date) and not isinstance(value, datetime) else value


def _day(name: str, value: Any) -> date:
    try:
        if isinstance(value, str) and len(value) == len("2026-05-18"):
            return date.fromisoformat(value)
    except ValueError:
        pass
    message = f"{name}: got {value!r}; expected a date such as 2026-05-18"
    raise InvalidInputError(message)


def merge(stored: Json, new: Json) -> tuple[Json, tuple[str, ...]] | None:
    """The stored item with the tickers of an article that came again for another one, at most ten."""
    tickers = list(dict.fromkeys([*stored["tickers"], *new["tickers"]]))[:_MAX_TICKERS]
    return None if tickers == stored["tickers"] else ({**stored, "tickers": tickers}, tuple(tickers))


def standing(source: Any, priority: int, breaker: Json, events: list[Json]) -> Json:
    """A source's `DataSourceConfig` as a document; a plain one, since pydantic is not loaded for it."""
    good = bad = window = None
    failures = 0
    for event in events:
        mine = [a["outcome"] for a in event.get("attempts", ()) if a["source"] == source.name]
        asked = [outcome for outcome in mine if outcome != "circuit_open"]
        if not asked:
            continue
        if asked[-1] == "ok":
            good, failures, window = event["timestamp"], 0, None
        else:
            bad, failures = event["timestamp"], failures + 1
            window = window or bad
    recent = [t for t in breaker["failures_us"] if bad and t >= core.parse_timestamp(bad) - _FAILURE_WINDOW_US]
    available = breaker["state"] == "closed" and max(failures, len(recent)) < UNAVAILABLE_AFTER
    doc: Json = {
        "source_id": source.name, "display_name": source.name.capitalize()[:50], "priority": priority,
        "is_available": available, "consecutive_failures": failures, "last_success_at": good, "last_failure_at": bad,
        "failure_window_start": window,
        "api_config": {"base_url": getattr(source, "base_url", None), "timeout_seconds": source.timeout_s},
    }  # fmt: skip
    return doc


def analysis_request(doc: Json, model_version: str = MODEL_VERSION) -> Json:
    """The body of an item's announcement; collector and healer send the same."""
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


def new_data_notification(event_id: str, source: str, new: Sequence[NewItem], now_us: int) -> tuple[str, Json]:
    """Topic and NewDataNotification of a collection that stored something."""
    published = [item.timestamp for item in new]
    return "market.new_data", {
        "event_type": "NEW_MARKET_DATA",
        "timestamp": core.format_timestamp(now_us),
        "source": source,
        "item_count": len(new),
        "tickers": sorted({ticker for item in new for ticker in item.labels}),
        "date_range": {"start": min(published), "end": max(published)},
        "collection_event_id": event_id,
    }


PIPELINE = Pipeline(
    "market", shipped_plan("news"), parse, normalise, _announce, new_data_notification, MODEL_VERSION, "NEWS",
    check_query=check_query, merge=merge, standing=standing,
)  # fmt: skip
