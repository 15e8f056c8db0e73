"""A clock that nobody moves: what waits in its time ends all the same."""

from __future__ import annotations

import asyncio

import pytest

from headgate._core import ManualClock
from headgate.errors import InvalidInputError, Kind, TransientError
from headgate.pipelines.market import AllAdaptersFailedError, FailoverOrchestrator, NewsArticle, TiingoSource
from headgate.resilience import (
    BreakerDefaults,
    CircuitBreakerManager,
    Response,
    RetryPolicy,
    make_bulkhead,
    make_guard,
    make_rate_limiter,
)
from headgate.resilience._async import pause_on

START_US = 1_780_000_000_000_000
# Far more attempts than the source's ten seconds allow: on a clock that stands still they were all made.
ENDLESS = RetryPolicy(100_000, base_us=20_000, cap_us=20_000)
PATIENT = BreakerDefaults(failure_threshold=0, max_failed_collections=0)  # opens never


@pytest.fixture
def clock():
    return ManualClock(START_US)


class FailingSource:
    name = "failing"

    def __init__(self):
        self.calls = 0

    def get_news(self, tickers, start_date, end_date, limit):
        self.calls += 1
        raise TransientError("unavailable")


class AsyncFailingSource(FailingSource):
    async def get_news(self, tickers, start_date, end_date, limit):
        self.calls += 1
        raise TransientError("unavailable")


class Answering:
    name = "answering"

    def get_news(self, tickers, start_date, end_date, limit):
        return [NewsArticle("a", "answering", "Title", "2026-05-01T00:00:00Z", tickers=("AAPL",))]


def orchestrator(clock, *sources, timeout_s):
    breakers = CircuitBreakerManager(clock=clock, options=PATIENT)
    return FailoverOrchestrator(*sources, clock=clock, retry=ENDLESS, breakers=breakers, timeout_s=timeout_s)


@pytest.mark.parametrize("source", [FailingSource, AsyncFailingSource])
def test_an_awaited_failover_ends_at_the_time_of_its_source(clock, source):
    failing = source()
    with pytest.raises(AllAdaptersFailedError, match="every source failed: failing"):
        asyncio.run(orchestrator(clock, failing, timeout_s=0.15).get_news_with_failover_async(["AAPL"]))
    assert 1 <= failing.calls < 1000  # of the policy's hundred thousand


def test_the_next_source_is_asked(clock):
    found = asyncio.run(
        orchestrator(clock, FailingSource(), Answering(), timeout_s=0.15).get_news_with_failover_async(["AAPL"])
    )
    assert (found.source_used, found.is_failover) == ("answering", True)


def test_a_rate_limiter_lets_awaited_calls_through(clock):
    guard = make_guard(rate_limiter=make_rate_limiter(1000, 1, clock), wait_s=1, clock=clock)

    async def call():
        return 1

    async def three():
        return [await guard(call) for _ in range(3)]

    assert asyncio.run(three()) == [1, 1, 1]
    assert clock.now_us() >= START_US + 2_000


def test_a_full_bulkhead_refuses_after_the_wait(clock):
    bulkhead = make_bulkhead(1, clock)
    bulkhead.enter()
    guard = make_guard(bulkhead=bulkhead, wait_s=0.01, clock=clock)

    async def call():
        return 1

    with pytest.raises(TransientError, match="full") as caught:
        asyncio.run(guard(call))
    assert caught.value.kind is Kind.BUSY
    with pytest.raises(TransientError, match="full"):
        guard(divmod, 7, 2)
    with pytest.raises(TransientError, match="full"):
        bulkhead.enter(10_000)


def test_a_clock_that_no_sleep_moves_is_refused():
    class Stopped:
        def now_us(self):
            return START_US

        def mono_us(self):
            return START_US

        def sleep_us(self, us):
            pass

    with pytest.raises(InvalidInputError, match="clock: it stands still; expected one whose sleep_us moves"):
        asyncio.run(pause_on(Stopped(), 1000))


def test_pages_without_an_end_end_at_the_time_of_the_source(clock):
    class EndlessPages(TiingoSource):
        def next_pages(self, query, requests, bodies):
            return requests

    class Client:
        """Every page has another record."""

        pages = 0

        def request_many(self, requests, timeout_s):
            self.pages += 1
            if timeout_s <= 0.001:
                raise TransientError("no time is left", Kind.TIMEOUT)
            return [page(self.pages)]

    client = Client()
    asking = FailoverOrchestrator(EndlessPages(token="key"), client=client, clock=clock, timeout_s=0.05)
    with pytest.raises(AllAdaptersFailedError, match="timeout"):
        asking.get_news_with_failover(["AAPL"])


def page(number):
    body = f'[{{"id": {number}, "title": "t", "url": "https://x/{number}", "publishedDate": "2026-05-01T00:00:00Z"}}]'
    return Response(200, (), body.encode(), 0)
