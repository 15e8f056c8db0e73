"""Sentiment and how much it is worth. The formula and the table are headgate's own."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    from headgate.ports import Json

_LABELS = ("positive", "neutral", "negative")
LABEL_BORDER = 0.33  # both bounds inclusive
FINNHUB_MODEL = "finnhub-news-sentiment"
RELIABILITY_MODEL = "publisher-reliability-1"
_HALF_WEIGHT = 10  # articles at which the evidence counts half

# How far a publisher's reports can be taken at their word, 0 to 1: editorial standards and corrections policy
# published, own reporting, wire or aggregation. A judgement, not a measurement: `collection.reliability` replaces it.
RELIABILITY: Mapping[str, float] = {
    "reuters.com": 0.95, "apnews.com": 0.95, "bloomberg.com": 0.9, "wsj.com": 0.9, "ft.com": 0.9, "economist.com": 0.9,
    "cnbc.com": 0.8, "nytimes.com": 0.85, "barrons.com": 0.8, "marketwatch.com": 0.75, "forbes.com": 0.6,
    "businessinsider.com": 0.6, "yahoo.com": 0.65, "finance.yahoo.com": 0.65, "investors.com": 0.65,
    "thestreet.com": 0.55, "fool.com": 0.5, "seekingalpha.com": 0.5, "benzinga.com": 0.5, "zacks.com": 0.5,
    "prnewswire.com": 0.4, "businesswire.com": 0.4, "globenewswire.com": 0.4, "accesswire.com": 0.35,
}  # fmt: skip


def label_of(score: float) -> Literal["positive", "neutral", "negative"]:
    """The word for a score; the bounds, +-0.33, belong to positive and negative.

    Example:
        >>> [label_of(score) for score in (0.33, 0.32, -0.33)]
        ['positive', 'neutral', 'negative']
    """
    if score >= LABEL_BORDER:
        return "positive"
    return "negative" if score <= -LABEL_BORDER else "neutral"


def confidence_of(score: float, articles: int) -> float:
    """Evidence times decisiveness: n / (n + 10) * (0.5 + 0.5 * min(1, d / 0.33)).

    Args:
        score: -1 to 1.
        articles: n, the articles of the last week.

    Returns:
        0 to 1; d is the score's distance to the nearest label border.

    Example:
        >>> confidence_of(1.0, 20)
        0.6667
    """
    distance = min(abs(score - LABEL_BORDER), abs(score + LABEL_BORDER))
    evidence = articles / (articles + _HALF_WEIGHT)
    return round(evidence * (0.5 + 0.5 * min(1.0, distance / LABEL_BORDER)), 4)


def finnhub_sentiment(body: bytes) -> tuple[str, Json] | None:
    """Symbol and sentiment of a /news-sentiment answer; None for one that holds none.

    Score = bullish - bearish; both are shares of 0 to 1.
    """
    try:
        doc = json.loads(body)
        symbol = doc["symbol"]
        bull, bear = float(doc["sentiment"]["bullishPercent"]), float(doc["sentiment"]["bearishPercent"])
        articles = int(doc["buzz"]["articlesInLastWeek"])
    except (ValueError, TypeError, KeyError, OverflowError):
        return None
    score = bull - bear
    if not isinstance(symbol, str) or not math.isfinite(score) or abs(score) > 1 or articles < 0:
        return None
    score = round(score, 4)
    return symbol.upper(), _doc(score, confidence_of(score, articles), FINNHUB_MODEL)


def reliability_sentiment(publisher: Any, overrides: Mapping[str, float] | None = None) -> Json | None:
    """The sentiment of an article that nobody scored: its publisher's reliability, or None for an unknown one.

    Args:
        publisher: as the article names it; case does not count.
        overrides: beside the shipped table; keys in lower case.

    Example:
        >>> reliability_sentiment("CNBC.com")["confidence"], reliability_sentiment("blog.example")
        (0.8, None)
    """
    if not isinstance(publisher, str):
        return None
    name = publisher.strip().lower().removeprefix("www.")
    value = (overrides or {}).get(name, RELIABILITY.get(name))
    return None if value is None else _doc(None, value, RELIABILITY_MODEL)


def what_is_wrong(sentiment: Any) -> str | None:
    """Why a document is no `SentimentScore`, or None: a source's own sentiments are judged as the contract says.

    Example:
        >>> what_is_wrong({"score": 0.5, "confidence": 0.9, "label": "positive"}), what_is_wrong({"score": 1.5})
        (None, 'score: expected a number of -1 to 1, or null')
    """
    if not isinstance(sentiment, dict):
        return "the sentiment is no object"
    for name, least in (("score", -1), ("confidence", 0)):
        value = sentiment.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and least <= value <= 1):
            return f"{name}: expected a number of {least} to 1, or null"
    score, label = sentiment.get("score"), sentiment.get("label")
    if label is not None and (label not in _LABELS or (score is not None and label != label_of(score))):
        return "label: expected the one that fits the score, or null"
    return None


def _doc(score: float | None, confidence: float | None, model: str) -> Json:
    """A `SentimentScore` as a document."""
    return {
        "score": score, "confidence": confidence, "label": None if score is None else label_of(score),
        "model_version": model,
    }  # fmt: skip
