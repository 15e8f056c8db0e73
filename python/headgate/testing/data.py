"""A data set in the exact shapes of the providers' payloads, quirks included; every text here is our own."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headgate.ports import Json

TICKERS = ("AAPL", "MSFT", "GOOGL", "AMZN", "NVDA", "META", "TSLA", "IBM", "ORCL", "INTC", "CSCO", "QCOM")
_COMPANY = {
    "AAPL": "Orchard Devices", "MSFT": "Northwind Software", "GOOGL": "Lantern Search", "AMZN": "Riverside Retail",
    "NVDA": "Copper Graphics", "META": "Plaza Networks", "TSLA": "Volt Motors", "IBM": "Granite Systems",
    "ORCL": "Delphi Data", "INTC": "Quartz Semiconductors", "CSCO": "Harbour Routing", "QCOM": "Meadow Wireless",
}  # fmt: skip
_EVENTS = (
    "beats estimates as margins rise", "warns of weaker demand", "opens a plant outside Lisbon",
    "cuts prices in a crowded market", "wins a contract worth $2.4 billion", "faces a lawsuit over patents",
    "shares jump after an upgrade", "sees profit fall for a second quarter", "names a new finance chief",
    "says growth will hold through winter", "recalls a batch of adapters", "tops forecasts, shares slip anyway",
)  # fmt: skip
_PUBLISHERS = ("Wire & Ledger", "The Morning Tape", "marketriver.example", "Corner Office Daily")


@dataclass(frozen=True)
class Story:
    """One story, as both providers will tell it."""

    number: int
    ticker: str
    headline: str
    published: datetime


def stories(count: int, now: datetime, seed: int = 7) -> list[Story]:
    """Stories of the last six days before `now`, oldest first; headlines are distinct."""
    rng = random.Random(seed)  # noqa: S311 - test data
    out = []
    for i in range(count):
        ticker = TICKERS[i % len(TICKERS)]
        event = _EVENTS[(i * 5 + i // len(TICKERS)) % len(_EVENTS)]
        published = now - timedelta(seconds=rng.randrange(600, 6 * 86_400))
        out.append(Story(i, ticker, f"{_COMPANY[ticker]} {event} ({i + 1})", published.replace(microsecond=0)))
    return sorted(out, key=lambda s: s.published)


def tiingo_article(story: Story, rng: random.Random) -> Json:
    """The shape of /tiingo/news: lower-case tickers, two time formats, null descriptions, a ticker twice."""
    crawled = story.published + timedelta(minutes=rng.randrange(1, 400), microseconds=rng.randrange(1, 10**6))
    tickers = [story.ticker.lower(), rng.choice(TICKERS).lower()]
    if story.number % 9 == 0:
        tickers += ["brk.b", story.ticker.lower()]
    microseconds = f".{rng.randrange(10**6):06d}" if story.number % 5 == 0 else ""
    crawl = crawled.isoformat() if story.number % 2 else f"{crawled.isoformat().removesuffix('+00:00')}Z"
    return {
        "id": 90_000_000 + (story.number * 7919) % 100_000,
        "title": f"  {story.headline} " if story.number % 11 == 0 else story.headline,
        "url": f"https://{rng.choice(_PUBLISHERS[2:3])}/story/{story.number}",
        "description": None if story.number % 13 == 0 else f"{story.headline}. Our own words, for the quickstart.",
        "publishedDate": f"{story.published:%Y-%m-%dT%H:%M:%S}{microseconds}Z",
        "crawlDate": crawl,
        "source": rng.choice(_PUBLISHERS),
        "tickers": tickers,
        "tags": ["Technology", "Stock"] if story.number % 3 else [],
    }


def finnhub_article(story: Story, rng: random.Random) -> Json:
    """The shape of /company-news: Unix seconds, ids out of date order, blank summaries."""
    return {
        "category": "company",
        "datetime": int(story.published.timestamp()),
        "headline": story.headline,
        "id": 140_000_000 + (story.number * 104_729) % 1_000_000,
        "image": "",
        "related": story.ticker,
        "source": rng.choice(_PUBLISHERS),
        "summary": " " if story.number % 17 == 0 else f"{story.headline}. In short.",
        "url": f"https://marketriver.example/api/news?id={story.number:064x}",
    }


def broken_articles(source: str, now: datetime) -> list[Any]:
    """What no schema can mend: each belongs in the dead letters."""
    if source == "tiingo":
        return [
            {"id": 1, "title": None, "publishedDate": f"{now:%Y-%m-%dT%H:%M:%SZ}", "tickers": ["aapl"], "tags": []},
            {"id": 2, "title": "A headline without a time", "publishedDate": "yesterday", "tickers": ["aapl"]},
            {
                "id": 3,
                "title": "No usable ticker",
                "publishedDate": f"{now:%Y-%m-%dT%H:%M:%SZ}",
                "tickers": ["brk-b", ""],
            },
            {"id": 4, "title": "Old news", "publishedDate": "2016-01-11T23:13:00Z", "tickers": ["aapl"]},
            "not an object",
        ]
    return [
        {"category": "company", "datetime": 0, "headline": "No time", "id": 5, "related": "AAPL", "summary": ""},
        {"category": "company", "datetime": int(now.timestamp()), "headline": "   ", "id": 6, "related": "AAPL"},
    ]


def press_release(source: str, now: datetime) -> list[Json]:
    """One release four times under different URLs: one item, three duplicates."""
    published = now - timedelta(hours=5)
    story = Story(999, "AAPL", "Orchard Devices to present at the Harbour conference", published)
    make = tiingo_article if source == "tiingo" else finnhub_article
    rng = random.Random(3)  # noqa: S311 - test data
    return [{**make(story, rng), "id": 7000 + i, "url": f"https://marketriver.example/pr/{i}"} for i in range(4)]


def utc(us: int) -> datetime:
    """An aware datetime of microseconds."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
