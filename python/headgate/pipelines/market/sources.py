"""How to ask Tiingo and Finnhub, and how to read them. Tokens travel in headers only.

A third source is any class with the members of `NewsSource`; examples/third_source.py has one in thirty lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from headgate.errors import InvalidInputError
from headgate.intake._bodies import read_json
from headgate.pipelines.market.sentiment import finnhub_sentiment
from headgate.resilience import Request
from headgate.resilience._checks import count_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headgate.ports import Json

_TIINGO_TICKERS = 10  # per request; more are chunked
_TIINGO_LIMIT = 1000  # the documented maximum
_SMALLEST_ARTICLE = 60  # bytes: a shorter body than limit * this cannot be a full page


class NewsSource(Protocol):
    """What the market pipeline needs of a source; `headgate.intake.Adapter` says what it may have besides."""

    @property
    def name(self) -> str: ...
    @property
    def timeout_s(self) -> float: ...
    def requests(self, query: Json) -> list[Any]:
        """The requests of one collection. The query has tickers (upper case), start_date and end_date (ISO dates)."""
        ...

    def fields(self, record: Json) -> Json:
        """One raw article as id, headline, description, url, published, tickers, tags, source_name.

        Raw values will do: texts are trimmed and cut, times read in any usual form, bad tickers dropped afterwards.
        """
        ...


def _check_access(base_url: Any, token: Any) -> None:
    """Refuse an address or a token that no request could have; the token is never shown.

    Raises:
        InvalidInputError: what was expected.
    """
    if not isinstance(base_url, str) or not base_url.lower().startswith(("http://", "https://")):
        message = "base_url: expected an address that begins with https:// or http://"
        raise InvalidInputError(message)
    if not isinstance(token, str):
        message = f"token: got {type(token).__name__}; expected text"
        raise InvalidInputError(message)


@dataclass(frozen=True)
class TiingoSource:
    """`GET /tiingo/news`, ten tickers a request, page by page.

    Args:
        base_url: https://api.tiingo.com, or a feed on loopback.
        token: the API key.
        timeout_s: for the whole collection.
        page: articles per request, at most 1,000.
    """

    base_url: str = "https://api.tiingo.com"
    token: str = ""
    timeout_s: float = 10.0
    name: str = "tiingo"
    page: int = _TIINGO_LIMIT

    def __post_init__(self) -> None:
        _check_access(self.base_url, self.token)
        count_of(self.page, "page", 1)

    def requests(self, query: Json) -> list[Request]:
        tickers = [t.lower() for t in query["tickers"]]
        chunks = [tickers[i : i + _TIINGO_TICKERS] for i in range(0, len(tickers), _TIINGO_TICKERS)]
        return [self._request(query, ",".join(chunk), 0) for chunk in chunks]

    def next_pages(self, query: Json, requests: Sequence[Request], bodies: Sequence[bytes]) -> list[Request]:
        """The page after each full one."""
        following = []
        for request, body in zip(requests, bodies, strict=True):
            if len(body) < self.page * _SMALLEST_ARTICLE or len(read_json(body)) < self.page:
                continue
            asked = {k: v[0] for k, v in parse_qs(urlsplit(request.url).query).items()}
            following.append(self._request(query, asked["tickers"], int(asked.get("offset", 0)) + self.page))
        return following

    def asked_tickers(self, url: str) -> list[str]:
        """The tickers that a request was about."""
        return parse_qs(urlsplit(url).query).get("tickers", [""])[0].split(",")

    def _request(self, query: Json, tickers: str, offset: int) -> Request:
        parameters: Json = {
            "tickers": tickers, "startDate": query["start_date"], "endDate": query["end_date"], "limit": self.page,
            "sortBy": "publishedDate",
        }  # fmt: skip
        if offset:
            parameters["offset"] = offset
        headers = [("Authorization", f"Token {self.token}"), ("Content-Type", "application/json")]
        return Request(f"{self.base_url.rstrip('/')}/tiingo/news?{urlencode(parameters, safe=',')}", headers)

    def fields(self, record: Json) -> Json:
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


@dataclass(frozen=True)
class FinnhubSource:
    """`GET /company-news`, one ticker a request; the token in a header, since a query ends up in logs.

    Args:
        base_url: https://finnhub.io/api/v1, or a feed on loopback.
        token: the API key.
        timeout_s: for the whole collection.
        sentiment: ask `GET /news-sentiment` too (a premium endpoint: a refusal costs nothing but the sentiment).
    """

    base_url: str = "https://finnhub.io/api/v1"
    token: str = ""
    timeout_s: float = 10.0
    name: str = "finnhub"
    sentiment: bool = False

    def __post_init__(self) -> None:
        _check_access(self.base_url, self.token)

    def requests(self, query: Json) -> list[Request]:
        dates = urlencode({"from": query["start_date"], "to": query["end_date"]})
        return [self._request(f"company-news?symbol={quote(ticker)}&{dates}") for ticker in query["tickers"]]

    def asked_tickers(self, url: str) -> list[str]:
        """The ticker that a request was about."""
        return parse_qs(urlsplit(url).query).get("symbol", [])

    def extra_requests(self, query: Json) -> list[Request]:
        """The tickers' sentiments."""
        if not self.sentiment:
            return []
        return [self._request(f"news-sentiment?symbol={quote(ticker)}") for ticker in query["tickers"]]

    def extra_context(self, requests: Sequence[Request], bodies: Sequence[bytes | None]) -> Json:
        """{"sentiment": {ticker: sentiment}} of those that were answered."""
        found = (finnhub_sentiment(body) for body in bodies if body is not None)
        return {"sentiment": dict(pair for pair in found if pair is not None)}

    def _request(self, rest: str) -> Request:
        return Request(f"{self.base_url.rstrip('/')}/{rest}", [("X-Finnhub-Token", self.token)])

    def fields(self, record: Json) -> Json:
        category = record.get("category")
        return {
            "id": record.get("id"),
            "headline": record.get("headline"),
            "description": record.get("summary"),
            "url": record.get("url"),
            "published": record.get("datetime"),
            "tickers": (record.get("related") or "").split(",") if isinstance(record.get("related"), str) else [],
            "tags": [category] if category else [],
            "source_name": record.get("source"),
        }


# The readers of the shipped sources, for bodies whose adapter is not configured (any more).
READERS: dict[str, NewsSource] = {"tiingo": TiingoSource(), "finnhub": FinnhubSource()}
