"""What a stranger gives the market's calls: a text for a list, dates and adapters that are none. Refused before any
source is asked; what an adapter gives instead of articles is its failure."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest

from headgate import handlers
from headgate._core import ManualClock, parse_timestamp
from headgate.config import Config, SourceConfig
from headgate.errors import AllSourcesFailedError, ConfigError, InvalidInputError
from headgate.handlers import _handlers
from headgate.pipelines.market import (
    FailoverOrchestrator,
    FinnhubAdapter,
    FinnhubSource,
    NewsArticle,
    TiingoAdapter,
    TiingoSource,
    store_news_items,
)
from headgate.wiring.sources import _made

AT = "2026-05-18T10:00:00Z"
CLOCK = ManualClock(parse_timestamp("2026-05-20T12:00:00Z"))


def article(number=1, at=AT, source="plain"):
    return NewsArticle(str(number), source, f"Title {number}", at, tickers=("AAPL",))


class Plain:
    """An adapter that gives what it is told, and remembers what it was asked."""

    def __init__(self, answer, name="plain"):
        self.answer, self.name, self.asked = answer, name, []

    def get_news(self, tickers, start_date, end_date, limit):
        self.asked.append((tickers, start_date, end_date))
        return self.answer


def ask(source, *args, **options):
    return FailoverOrchestrator(source, clock=CLOCK).get_news_with_failover(*args, **options)


@pytest.mark.parametrize("tickers", ["AAPL", b"AAPL", None, 5, {"AAPL": 1}, [1], [None], [], [" "], ["BRK.B"]])
def test_tickers_are_a_list_of_symbols(tickers):
    plain = Plain([])
    with pytest.raises(InvalidInputError, match="tickers: "):
        ask(plain, tickers)  # a text was a list of its letters, each of which is a symbol
    for adapter in (TiingoAdapter("k"), FinnhubAdapter("k")):
        with pytest.raises(InvalidInputError, match="tickers: "):
            adapter.get_news(tickers, "2026-05-18", "2026-05-19")
    assert plain.asked == []


@pytest.mark.parametrize(
    ("dates", "message"),
    [
        (("yesterday", None), "start_date: got 'yesterday'"),
        (("2026-13-01", None), "start_date: got '2026-13-01'"),
        (("18/05/2026", None), "start_date"),
        (("2026-05-18T00:00:00Z", None), "start_date"),
        ((dt.datetime(2026, 5, 18, tzinfo=dt.UTC), None), "start_date"),
        ((20260518, None), "start_date"),
        (("", None), "start_date"),
        ((None, "2026-02-30"), "end_date"),
        (("2026-05-19", "2026-05-18"), "start_date: 2026-05-19 is after end_date 2026-05-18"),
        (("2026-05-21", None), "start_date: 2026-05-21 is after end_date 2026-05-20"),
    ],
)
def test_dates_are_dates_and_in_their_order(dates, message):
    plain = Plain([])
    with pytest.raises(InvalidInputError, match=message):
        ask(plain, ["AAPL"], *dates)
    assert plain.asked == []


def test_a_date_may_be_one_and_the_week_ends_with_the_span():
    plain = Plain([])
    ask(plain, {"aapl ", "AAPL"}, dt.date(2026, 5, 1), dt.date(2026, 5, 2))
    ask(plain, ("aapl",), None, "2025-01-08")
    ask(plain, ["aapl"])
    assert plain.asked == [
        (["AAPL"], "2026-05-01", "2026-05-02"),
        (["AAPL"], "2025-01-01", "2025-01-08"),
        (["AAPL"], "2026-05-13", "2026-05-20"),
    ]


@pytest.mark.parametrize("limit", [0, -1, None, "3", 2.5, True])
def test_a_limit_is_a_whole_number(limit):
    with pytest.raises(InvalidInputError, match="limit: got"):
        ask(Plain([article()]), ["AAPL"], limit=limit)
    with pytest.raises(InvalidInputError, match="limit: got"):
        TiingoAdapter("k").get_news(["AAPL"], "2026-05-18", "2026-05-19", limit)


@pytest.mark.parametrize("answer", [None, 5, "abc", b"abc", {"a": 1}, [{"title": "t"}], [None], [article(), "x"]])
@pytest.mark.parametrize("is_async", [False, True])
def test_what_is_no_list_of_articles_is_a_failure_and_the_next_source_is_asked(answer, is_async):
    async def later(*_):
        return answer

    first = Plain(answer)
    if is_async:
        first.get_news = later
    orchestrator = FailoverOrchestrator(first, Plain([article()], "second"), clock=CLOCK)
    if is_async:
        result = asyncio.run(orchestrator.get_news_with_failover_async(["AAPL"]))
    else:
        result = orchestrator.get_news_with_failover(["AAPL"])
    assert (result.source_used, result.attempts[0].outcome) == ("second", "malformed_response")


def test_an_adapter_that_gives_too_many_is_cut_to_the_newest():
    found = ask(Plain(article(n, f"2026-05-1{n}T00:00:00Z") for n in range(9)), ["AAPL"], limit=2).data
    assert [a.article_id for a in found] == ["8", "7"]
    lazy = Plain(None)

    def breaking():
        yield article()
        raise OSError

    lazy.answer = breaking()
    with pytest.raises(AllSourcesFailedError, match="plain OSError"):
        ask(lazy, ["AAPL"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FailoverOrchestrator(None), "sources: there is none"),
        (lambda: FailoverOrchestrator(object()), "got 'object'; expected an object with requests and fields"),
        (lambda: FailoverOrchestrator("tiingo"), "got 'str'"),
        (lambda: FailoverOrchestrator(TiingoSource), "got the class TiingoSource"),
        (lambda: FailoverOrchestrator(Plain([]), timeout_s=None), "timeout_s: got None"),
        (lambda: TiingoSource("api.tiingo.com"), "base_url: expected an address"),
        (lambda: FinnhubSource("file:///etc/passwd"), "base_url: expected an address"),
        (lambda: TiingoSource(None), "base_url: expected an address"),
        (lambda: TiingoSource(token=None), "token: got NoneType"),
        (lambda: FinnhubSource(token=b"key"), "token: got bytes"),
        (lambda: TiingoSource(page=0), "page: got 0"),
    ],
)
def test_a_source_that_is_none_is_refused(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()


def test_an_address_may_end_with_a_slash():
    query = {"tickers": ["AAPL"], "start_date": "2026-05-18", "end_date": "2026-05-19"}
    for source, path in ((TiingoSource, "/tiingo/news?"), (FinnhubSource, "/company-news?")):
        (request,) = source("http://x.example/").requests(query)
        assert request.url.startswith("http://x.example" + path)


@pytest.mark.parametrize(
    ("articles", "message"),
    [
        ([article(), {"title": "t"}], "number 2 is dict; expected a NewsArticle"),
        (None, "number 1 is NoneType"),
        ("text", "number 1 is str"),
        ([article(), article(source=None)], "number 2 has the source None"),
        ([article(source="../../etc")], "has the source '../../etc'"),
        ([article(source="Wire One")], "has the source 'Wire One'"),
    ],
)
def test_what_is_no_article_is_refused_before_any_is_stored(articles, message):
    with pytest.raises(InvalidInputError, match=message):
        store_news_items(articles, None)


# --- configured sources


class Fixed:
    """A source without options."""

    name, timeout_s = "wire", 5.0

    def requests(self, query):
        return []


class Open(Fixed):
    def __init__(self, **options):
        self.options = options


class Broken(Fixed):
    def __init__(self, region):
        raise AssertionError


@pytest.mark.parametrize(
    ("name", "section", "cls", "message"),
    [
        ("wire", {"base_url": "http://x"}, Fixed, "sources.wire.base_url: mod:C takes no base_url"),
        ("wire", {"timeout_s": 3.0}, Fixed, "sources.wire.timeout_s"),
        ("wire", {"token_env": "KEY"}, Fixed, "sources.wire.token_env: mod:C takes no token"),
        ("wire", {}, Broken, "cannot be made: TypeError"),
        ("wire", {}, lambda: "text", "mod:C has no name; expected a source"),
        ("wire one", {}, Fixed, "expected a name of letters"),
        ("../wire", {}, Fixed, "expected a name of letters"),
        ("tiingo", {"base_url": "x"}, TiingoSource, "sources.tiingo: base_url: expected an address"),
    ],
)
def test_a_section_that_its_source_does_not_take_is_refused(name, section, cls, message):
    source = SourceConfig(kind="mod:C", **section)
    options = {"name": name, "token": "k", "timeout_s": 5.0, **{k: v for k, v in section.items() if k == "base_url"}}
    with pytest.raises(ConfigError, match=message):
        _made(name, source, cls, options)


def test_a_source_of_any_options_gets_them_all():
    options = {"name": "wire", "token": "k", "timeout_s": 5.0, "base_url": "http://x"}
    made = _made("wire", SourceConfig(kind="mod:C", base_url="http://x", token_env="K"), Open, options)
    assert made.options == options


# --- handlers


class Parts:
    config = Config()

    def __getattr__(self, name):
        raise AssertionError(name)


@pytest.mark.parametrize("event", [None, [], "x", 5])
def test_an_event_that_is_none_is_refused(event, monkeypatch):
    monkeypatch.setattr(_handlers, "app", Parts)
    assert handlers.heal(event)["statusCode"] == 400
    answer = handlers.collect(event)
    assert (answer["statusCode"], answer["error"]) == (400, "InvalidInputError")
    assert type(event).__name__ in answer["message"]


@pytest.mark.parametrize("dry_run", ["false", 1, None])
def test_a_dry_run_is_true_or_false(dry_run, monkeypatch):
    monkeypatch.setattr(_handlers, "app", Parts)
    answer = handlers.heal({"dry_run": dry_run})
    assert (answer["statusCode"], answer["error"]) == (400, "InvalidInputError")  # "false" swept nothing
