"""How to ask Tiingo and Finnhub (spec 001, section 3). Tokens travel in headers only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from headgate.resilience import Request

if TYPE_CHECKING:
    from headgate.ports import Json

_TIINGO_TICKERS = 10  # per request; more are chunked
_TIINGO_LIMIT = 1000  # the documented maximum


@dataclass(frozen=True)
class TiingoSource:
    """`GET /tiingo/news`, ten tickers a request.

    Args:
        base_url: https://api.tiingo.com, or a feed on loopback.
        token: the API key.
        timeout_s: for the whole collection.
    """

    base_url: str = "https://api.tiingo.com"
    token: str = ""
    timeout_s: float = 10.0
    name: str = "tiingo"

    def requests(self, query: Json) -> list[Request]:
        tickers = [t.lower() for t in query["tickers"]]
        chunks = [tickers[i : i + _TIINGO_TICKERS] for i in range(0, len(tickers), _TIINGO_TICKERS)]
        headers = [("Authorization", f"Token {self.token}"), ("Content-Type", "application/json")]
        return [
            Request(f"{self.base_url}/tiingo/news?{urlencode(self._parameters(query, chunk), safe=',')}", headers)
            for chunk in chunks
        ]

    @staticmethod
    def _parameters(query: Json, tickers: list[str]) -> Json:
        return {
            "tickers": ",".join(tickers),
            "startDate": query["start_date"],
            "endDate": query["end_date"],
            "limit": _TIINGO_LIMIT,
            "sortBy": "publishedDate",
        }


@dataclass(frozen=True)
class FinnhubSource:
    """`GET /company-news`, one ticker a request; the token in a header, since a query ends up in logs."""

    base_url: str = "https://finnhub.io/api/v1"
    token: str = ""
    timeout_s: float = 10.0
    name: str = "finnhub"

    def requests(self, query: Json) -> list[Request]:
        headers = [("X-Finnhub-Token", self.token)]
        dates = urlencode({"from": query["start_date"], "to": query["end_date"]})
        return [
            Request(f"{self.base_url}/company-news?symbol={quote(ticker)}&{dates}", headers)
            for ticker in query["tickers"]
        ]
