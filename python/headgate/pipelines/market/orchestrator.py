"""Failover between news sources as a few calls: for notebooks, scripts, and adapters that are plain Python objects.

The collector (`headgate collect`, `handle_scheduled_collection`) does more: it keeps every body before it is read, and
commits items, announcements and its own record together.
"""

from __future__ import annotations

import inspect
import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import AllSourcesFailedError, InvalidInputError
from headgate.intake import Intake, RawInfo, Taken
from headgate.intake._fetch import SeenRecords
from headgate.pipelines.market.adapters import AllAdaptersFailedError
from headgate.pipelines.market.articles import articles_of, malformed, name_of, newest, read_answer, records_of
from headgate.pipelines.market.models import NewsArticle
from headgate.pipelines.market.pipeline import SOURCE_NAME, as_day, check_query, clean_tickers
from headgate.resilience import Call, CallFailover, CircuitBreakerManager, FailoverResult, HttpClient
from headgate.resilience._async import is_async
from headgate.resilience._checks import count_of, to_us

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from headgate.ports import Clock, Json

TIMEOUT_S = 10.0  # FAILOVER_TIMEOUT_SECONDS
LOOKBACK_DAYS = 7
LIMIT = 50
_GRACE_S = 0.05  # the wire's own deadline speaks first
_DAY_US = 86_400 * 1_000_000


class FailoverOrchestrator:
    """News from the first source that answers.

    Args:
        primary, secondary, others: each a `NewsSource` (Tiingo, Finnhub, your own), or an adapter with
            `get_news(tickers, start_date, end_date, limit)` that returns `NewsArticle`s.
        timeout_s: for each source; an HTTP call is cut on the wire, a Python call is abandoned.
        breakers: shared circuit breakers; None: this object's own.
        retry, budget: for transient errors, within the source's time.
        client: the HTTP client.
        clock: for dates, breakers and durations.

    Raises:
        InvalidInputError: two sources of one name: they would share a breaker. Give one another `name`. Or something
            is no source, or there is none.

    Example:
        >>> orchestrator = FailoverOrchestrator(TiingoSource(token="..."), FinnhubSource(token="..."))  # doctest: +SKIP
        >>> result = orchestrator.get_news_with_failover(["AAPL"])                                      # doctest: +SKIP
        >>> result.source_used, result.is_failover, len(result.data)                                    # doctest: +SKIP
        ('finnhub', True, 48)
    """

    def __init__(
        self,
        primary: Any,
        secondary: Any = None,
        *others: Any,
        timeout_s: float = TIMEOUT_S,
        breakers: CircuitBreakerManager | None = None,
        retry: Any = None,
        budget: Any = None,
        client: HttpClient | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.sources = [check_source(s) for s in (primary, secondary, *others) if s is not None]
        if not self.sources:
            message = "sources: there is none; expected at least a primary"
            raise InvalidInputError(message)
        to_us(timeout_s, "timeout_s")
        self.clock: Clock = clock or core.SystemClock()
        self.breakers = breakers or CircuitBreakerManager(clock=self.clock)
        self._timeout_s = timeout_s
        self._client = client or HttpClient()
        calls = [
            Call(name_of(s), self._asker(s), timeout_s + _GRACE_S, self.breakers.handle(name_of(s)))
            for s in self.sources
        ]
        self._failover = CallFailover(calls, retry=retry, budget=budget, clock=self.clock)

    def get_news_with_failover(
        self,
        tickers: Sequence[str],
        start_date: str | None = None,
        end_date: str | None = None,
        limit: int = LIMIT,
    ) -> FailoverResult:
        """Ask the sources in order.

        Args:
            tickers: symbols.
            start_date, end_date: ISO dates, UTC; default: the last seven days.
            limit: at most so many articles, newest first.

        Returns:
            `data` is a list of `NewsArticle`; an empty list is an answer, not a failure.

        Raises:
            AllAdaptersFailedError: an `AllSourcesFailedError` and an `AdapterError`; names every cause.
            InvalidInputError: no ticker, or one that no item could be stored for.
        """
        query = self._query(tickers, start_date, end_date, limit)
        try:
            return self._failover(query, limit)
        except AllSourcesFailedError as error:
            raise AllAdaptersFailedError(error.message) from None

    async def get_news_with_failover_async(
        self,
        tickers: Sequence[str],
        start_date: str | None = None,
        end_date: str | None = None,
        limit: int = LIMIT,
    ) -> FailoverResult:
        """The same on an event loop."""
        query = self._query(tickers, start_date, end_date, limit)
        try:
            return await self._failover.acall(query, limit)
        except AllSourcesFailedError as error:
            raise AllAdaptersFailedError(error.message) from None

    def _query(self, tickers: Sequence[str], start_date: str | None, end_date: str | None, limit: int) -> Json:
        count_of(limit, "limit", 1)
        now = self.clock.now_us()
        end = core.format_timestamp(now)[:10] if end_date is None else end_date
        query = {"tickers": clean_tickers(tickers), "end_date": as_day(end)}
        check_query(query)
        if start_date is None:
            until = min(now, core.parse_timestamp(f"{query['end_date']}T00:00:00Z"))
            start_date = core.format_timestamp(until - LOOKBACK_DAYS * _DAY_US)[:10]
        query["start_date"] = as_day(start_date)
        check_query(query)
        return query

    def _asker(self, source: Any) -> Any:
        if hasattr(source, "requests"):
            return lambda query, limit: newest(self._ask(source, query), limit)
        if is_async(source.get_news):

            async def ask(query: Json, limit: int) -> Any:
                found = await source.get_news(query["tickers"], query["start_date"], query["end_date"], limit)
                return _articles(found, limit)

            return ask
        return lambda query, limit: _articles(
            source.get_news(query["tickers"], query["start_date"], query["end_date"], limit), limit
        )

    def _ask(self, source: Any, query: Json) -> list[NewsArticle]:
        # The wire takes real time: pages end with it too, though an injected clock may stand still.
        deadline = self.clock.mono_us() + int(self._timeout_s * 1e6)
        wire_deadline_s = time.monotonic() + self._timeout_s
        articles: list[NewsArticle] = []
        seen = SeenRecords()
        requests = source.requests(query)
        is_first = True
        while requests:
            left = min((deadline - self.clock.mono_us()) / 1e6, wire_deadline_s - time.monotonic())
            answers = self._client.request_many(requests, timeout_s=max(0.001, left))
            bodies = [read_answer(a, self.clock) for a in answers]
            news = [seen.add(records_of(source, body)) for body in bodies]
            if not is_first and not any(news):
                # It does not know pages: what it has beyond the first is unknown.
                raise malformed("answered 200 with the records of the page before")
            for body in bodies:
                articles += articles_of(source, body)
            more = getattr(source, "next_pages", None)
            requests = more(query, requests, bodies) if more is not None else []
            is_first = False
        return articles


def check_source(source: Any) -> Any:
    """The source, if it can be asked.

    Raises:
        InvalidInputError: it is a class, or has neither `requests` and `fields` nor `get_news`.
    """
    is_http = callable(getattr(source, "requests", None)) and callable(getattr(source, "fields", None))
    if isinstance(source, type) or not (is_http or callable(getattr(source, "get_news", None))):
        kind = f"the class {source.__name__}" if isinstance(source, type) else repr(type(source).__name__)
        message = f"sources: got {kind}; expected an object with requests and fields, or with get_news"
        raise InvalidInputError(message)
    return source


def _articles(found: Any, limit: int) -> Any:
    """What an adapter gave, at most so many, newest first. An awaitable is left to who awaits it.

    Raises:
        TransientError: kind malformed_response; it is no list of articles.
    """
    if inspect.isawaitable(found):
        return _awaited_articles(found, limit)
    articles = [] if isinstance(found, str | bytes | dict) or not hasattr(found, "__iter__") else list(found)
    is_list = hasattr(found, "__iter__") and not isinstance(found, str | bytes | dict)
    if not is_list or not all(isinstance(article, NewsArticle) for article in articles):
        raise malformed("get_news gave something else than a list of NewsArticle")
    return newest(articles, limit)


async def _awaited_articles(found: Any, limit: int) -> Any:
    return _articles(await found, limit)


class _ArticleReader:
    """Reads what `store_news_items` keeps as the raw body."""

    def fields(self, record: Json) -> Json:
        return {
            "id": record.get("article_id"), "headline": record.get("title"), "description": record.get("description"),
            "url": record.get("url"), "published": record.get("published_at"), "tickers": record.get("tickers") or [],
            "tags": record.get("tags") or [], "source_name": record.get("source_name"),
        }  # fmt: skip


def fetch_news(
    orchestrator: FailoverOrchestrator,
    tickers: Sequence[str],
    *,
    start_date: str | None = None,
    end_date: str | None = None,
    limit: int = LIMIT,
) -> FailoverResult:
    """Articles of the first source that answers; see `FailoverOrchestrator.get_news_with_failover`."""
    return orchestrator.get_news_with_failover(tickers, start_date, end_date, limit)


def _checked(articles: Any) -> list[NewsArticle]:
    """The articles.

    Raises:
        InvalidInputError: one is none, or its source has a name that no item may have.
    """
    found = list(articles) if hasattr(articles, "__iter__") and not isinstance(articles, str | dict) else [articles]
    for at, article in enumerate(found):
        if not isinstance(article, NewsArticle):
            message = f"articles: number {at + 1} is {type(article).__name__}; expected a NewsArticle"
            raise InvalidInputError(message)
        if not isinstance(article.source, str) or not SOURCE_NAME.fullmatch(article.source):
            message = f"articles: number {at + 1} has the source {article.source!r}; expected a name such as 'wire'"
            raise InvalidInputError(message)
    return found


def store_news_items(articles: Iterable[NewsArticle] | FailoverResult, intake: Intake) -> Taken:
    """Keep articles, normalise them, and store and announce those that are new.

    Args:
        articles: of any sources, or what `fetch_news` gave.
        intake: the market pipeline's front door (`headgate.open_intake`, or an app's).

    Returns:
        taken == stored + duplicates + dead_letters.

    Raises:
        InvalidInputError: one of them is no article, or names no source; nothing is stored then.
    """
    attempt = 1
    found: Iterable[NewsArticle]
    if isinstance(articles, FailoverResult):
        attempt = articles.attempts[-1].attempt if articles.attempts else 1
        found = articles.data
    else:
        found = articles
    by_source: dict[str, list[Json]] = {}
    for article in _checked(found):  # all of them, before any is stored
        record = asdict(article)
        record.pop("raw")
        by_source.setdefault(article.source, []).append(record)
    total = Taken()
    for source, records in by_source.items():
        body = json.dumps(records, default=str).encode()
        key = intake.keep_raw(f"{source}.articles", body, {"attempt": attempt, "extra": True})
        info = RawInfo(source, key, intake.clock.now_us(), {}, attempt, _ArticleReader())
        with intake.store.transaction():
            total += intake.take(body, info)
    return total
