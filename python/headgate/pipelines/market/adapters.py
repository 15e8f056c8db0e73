"""Tiingo and Finnhub as plain objects with `get_news`, and the errors that such adapters raise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import AllSourcesFailedError, Kind, TransientError
from headgate.pipelines.market.articles import articles_of, newest, read_answer
from headgate.pipelines.market.pipeline import as_day, check_query, clean_tickers
from headgate.pipelines.market.sources import FinnhubSource, TiingoSource
from headgate.resilience import HttpClient
from headgate.resilience._checks import count_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headgate.pipelines.market.models import NewsArticle

DEFAULT_RETRY_AFTER_S = 60.0
_NOT_FOUND, _TOO_MANY = 404, 429


class AdapterError(TransientError):
    """A source gave no usable answer. `retry_after_s` says when another try may help; infinite: no try does."""


class RateLimitError(AdapterError):
    """Too many requests (429).

    Args:
        message: one sentence.
        retry_after: seconds to wait, as the source says it, or 60.
    """

    default_kind = Kind.HTTP_STATUS

    def __init__(
        self, message: str, kind: Kind | str | None = None, *, retry_after: float = DEFAULT_RETRY_AFTER_S
    ) -> None:
        super().__init__(message, kind)
        self.retry_after_s = retry_after

    @property
    def retry_after(self) -> float:
        """Seconds to wait before the next request."""
        return DEFAULT_RETRY_AFTER_S if self.retry_after_s is None else self.retry_after_s


class AllAdaptersFailedError(AllSourcesFailedError, AdapterError):
    """Every source failed; the message names each cause."""


class _Adapter:
    """One source, asked by itself."""

    def __init__(self, source: Any, timeout_s: float, client: HttpClient | None) -> None:
        self.source = source
        self.name: str = source.name
        self.timeout_s = timeout_s
        self._client = client or HttpClient(timeout_s=timeout_s)
        self._clock = core.SystemClock()

    def get_news(self, tickers: Sequence[str], start_date: str, end_date: str, limit: int = 50) -> list[NewsArticle]:
        """Articles of a span of days, newest first.

        Args:
            tickers: symbols.
            start_date, end_date: ISO dates.
            limit: at most so many.

        Raises:
            RateLimitError: 429.
            AdapterError: any other status but 200 and 404, no complete answer in time, or a body of another shape.
            InvalidInputError: no ticker, or one that is none; a date that is none; a limit below 1.
        """
        count_of(limit, "limit", 1)
        query = {"tickers": clean_tickers(tickers), "start_date": as_day(start_date), "end_date": as_day(end_date)}
        check_query(query)
        found: list[NewsArticle] = []
        for answer in self._client.request_many(self.source.requests(query), timeout_s=self.timeout_s):
            if not isinstance(answer, Exception) and answer.status == _NOT_FOUND:
                continue  # no such symbol: no news of it
            try:
                found += articles_of(self.source, read_answer(answer, self._clock))
            except TransientError as error:
                raise self._as_adapter_error(error, answer) from None
        return newest(found, limit)

    @staticmethod
    def _as_adapter_error(error: TransientError, answer: Any) -> AdapterError:
        if getattr(answer, "status", 0) != _TOO_MANY:
            ours = AdapterError(error.message, error.kind)
            ours.retry_after_s = error.retry_after_s
            return ours
        said = error.retry_after_s if answer.header("retry-after") is not None else None
        wait = DEFAULT_RETRY_AFTER_S if said is None else said
        return RateLimitError(error.message, error.kind, retry_after=wait)


class TiingoAdapter(_Adapter):
    """Tiingo's news.

    Args:
        api_key: the token.
        base_url: https://api.tiingo.com, or a feed on loopback.
        timeout_s: for one `get_news`.
        client: the HTTP client.

    Example:
        >>> TiingoAdapter("key").get_news(["AAPL"], "2026-05-18", "2026-05-19")   # doctest: +SKIP
    """

    def __init__(
        self, api_key: str, *, base_url: str = TiingoSource.base_url, timeout_s: float = 10.0,
        client: HttpClient | None = None,
    ) -> None:  # fmt: skip
        super().__init__(TiingoSource(base_url, api_key, timeout_s), timeout_s, client)


class FinnhubAdapter(_Adapter):
    """Finnhub's company news.

    Args:
        api_key: the token.
        base_url: https://finnhub.io/api/v1, or a feed on loopback.
        timeout_s: for one `get_news`.
        client: the HTTP client.

    Example:
        >>> FinnhubAdapter("key").get_news(["AAPL"], "2026-05-18", "2026-05-19")   # doctest: +SKIP
    """

    def __init__(
        self, api_key: str, *, base_url: str = FinnhubSource.base_url, timeout_s: float = 10.0,
        client: HttpClient | None = None,
    ) -> None:  # fmt: skip
        super().__init__(FinnhubSource(base_url, api_key, timeout_s), timeout_s, client)
