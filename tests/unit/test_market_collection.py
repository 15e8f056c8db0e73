"""Calendar, sentiment, freshness, sources, orchestrator and metrics of the market pipeline."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate import _core
from headgate.config import load
from headgate.errors import AllSourcesFailedError, ConfigError, InvalidInputError, TransientError
from headgate.intake import AlwaysOpen, Intake, RawInfo, Reject, check_freshness, replay
from headgate.pipelines.market import (
    PIPELINE,
    CollectionEvent,
    DataSourceConfig,
    FailoverOrchestrator,
    FinnhubSource,
    MarketCalendar,
    NewDataNotification,
    NewsArticle,
    NewsItem,
    SentimentScore,
    TiingoSource,
    collection_metrics,
    fetch_news,
    handle_scheduled_collection,
    latest_news,
    store_news_items,
)
from headgate.pipelines.market.metrics import notification_metric
from headgate.pipelines.market.pipeline import normalise
from headgate.pipelines.market.sentiment import confidence_of, finnhub_sentiment, reliability_sentiment
from headgate.testing.feed import Feed, WrittenData
from headgate.wiring import App

KEYS = {"TIINGO_API_KEY": "secret-key-1", "FINNHUB_API_KEY": "secret-key-2"}
FETCHED = _core.parse_timestamp("2026-05-20T12:00:00Z")
GOOD = {
    "id": 1, "title": "Title", "url": "https://x.example/1", "publishedDate": "2026-05-19T23:13:00Z",
    "source": "x.example", "tickers": ["aapl"], "tags": [],
}  # fmt: skip


def us(text):
    return _core.parse_timestamp(text)


# --- calendar


@pytest.fixture(scope="module")
def calendar():
    return MarketCalendar()


@pytest.mark.parametrize(
    ("at", "is_open"),
    [
        ("2026-05-20T13:29:59Z", False),  # 09:29:59 in New York, summer time
        ("2026-05-20T13:30:00Z", True),
        ("2026-05-20T19:59:59Z", True),
        ("2026-05-20T20:00:00Z", False),
        ("2026-01-20T14:29:59Z", False),  # winter time
        ("2026-01-20T14:30:00Z", True),
        ("2026-05-23T15:00:00Z", False),  # Saturday
        ("2026-05-25T15:00:00Z", False),  # Memorial Day
        ("2026-07-03T15:00:00Z", False),  # Independence Day, observed
        ("2026-11-27T17:59:59Z", True),  # the day after Thanksgiving: until 13:00
        ("2026-11-27T18:00:00Z", False),
        ("2026-12-24T18:30:00Z", False),
        ("2026-03-06T14:30:00Z", True),  # the Friday before summer time begins
        ("2026-03-09T13:30:00Z", True),  # and the Monday after
    ],
)
def test_the_exchange_is_open(calendar, at, is_open):
    assert calendar.is_open(us(at)) is is_open


def test_the_next_opening(calendar):
    assert calendar.next_open(us("2026-05-22T21:00:00Z")) == us("2026-05-26T13:30:00Z")  # over a long weekend
    assert calendar.next_open(us("2026-05-26T13:30:00Z")) == us("2026-05-26T13:30:00Z")


@given(st.datetimes(datetime(2024, 1, 1), datetime(2027, 12, 31)))
def test_a_session_is_what_is_open(at):
    calendar = MarketCalendar()
    moment = int(at.replace(tzinfo=UTC).timestamp() * 1e6)
    sessions = [s for d in (at.date(), date.fromordinal(at.toordinal() - 1)) if (s := calendar.session(d))]
    inside = any(a <= at.replace(tzinfo=UTC) < b for a, b in sessions)
    assert calendar.is_open(moment) is inside
    assert all((b - a).total_seconds() in (6.5 * 3600, 3.5 * 3600) for a, b in sessions)


# --- sentiment


def sentiment_body(bull, bear, articles=20, symbol="V"):
    return json.dumps(
        {
            "buzz": {"articlesInLastWeek": articles},
            "sentiment": {"bullishPercent": bull, "bearishPercent": bear},
            "symbol": symbol,
        }
    ).encode()


@pytest.mark.parametrize(
    ("bull", "bear", "articles", "score", "label", "confidence"),
    [
        (1, 0, 20, 1.0, "positive", 0.6667),
        (0.665, 0.335, 20, 0.33, "positive", 0.3333),  # at the border: half the evidence's weight
        (0.66, 0.34, 10, 0.32, "neutral", 0.2576),
        (0.5, 0.5, 90, 0.0, "neutral", 0.9),
        (0, 1, 0, -1.0, "negative", 0.0),
    ],
)
def test_finnhubs_sentiment(bull, bear, articles, score, label, confidence):
    symbol, doc = finnhub_sentiment(sentiment_body(bull, bear, articles))
    assert (symbol, doc["score"], doc["label"], doc["confidence"]) == ("V", score, label, confidence)
    SentimentScore.model_validate(doc)


@given(st.floats(-1, 1), st.integers(0, 10**6))
def test_confidence_is_a_share(score, articles):
    assert 0 <= confidence_of(score, articles) <= 1
    assert confidence_of(score, articles) <= confidence_of(score, articles + 1)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"symbol": 1}', sentiment_body("much", 0), sentiment_body(3, 0), sentiment_body(1, 0, -1),
     sentiment_body(1, 0, 5, None), b'{"error":"You don\'t have access to this resource."}'],
)  # fmt: skip
def test_what_is_no_sentiment_is_none(body):
    assert finnhub_sentiment(body) is None


def test_tiingo_is_unscored_with_its_publishers_reliability():
    doc = reliability_sentiment("Reuters.com ")
    assert (doc["score"], doc["label"], doc["confidence"]) == (None, None, 0.95)
    assert reliability_sentiment("reuters.com", {"reuters.com": 0.1})["confidence"] == 0.1
    assert reliability_sentiment("unknown.example") is None
    score = SentimentScore.model_validate(doc)
    assert (score.is_scored, score.is_low_confidence) == (False, False)
    assert SentimentScore(score=0.1, label="neutral", confidence=0.59).is_low_confidence
    assert not SentimentScore(score=0.1, label="neutral", confidence=0.6).is_low_confidence
    assert not SentimentScore().is_low_confidence  # unknown is not low


@pytest.mark.parametrize("bad", [{"score": 1.01}, {"score": -2}, {"confidence": 1.5}, {"label": "good"}])
def test_scores_have_their_ranges(bad):
    with pytest.raises(ValueError):
        SentimentScore(**bad)


# --- freshness


def test_freshness_in_market_hours_and_outside(calendar):
    noon = us("2026-05-20T16:00:00Z")
    night = us("2026-05-20T04:00:00Z")
    minute = 60_000_000
    assert check_freshness(noon - 15 * minute, noon, calendar).warning is None
    stale = check_freshness(noon - 16 * minute, noon, calendar)
    assert (stale.is_stale, stale.warning) == (True, "last known good: the data is 16 minutes old (limit 15)")
    assert check_freshness(None, noon, calendar).warning == "no collection has succeeded yet"
    assert not check_freshness(night - 60 * minute, night, calendar).is_stale
    closed = check_freshness(night - 61 * minute, night, calendar)
    assert (closed.is_stale, closed.warning) == (True, None)  # nobody is alarmed at night
    assert json.loads(json.dumps(stale.to_dict()))["age_s"] == 960


def test_the_last_known_good_is_served_with_its_warning(store, objects, clock):
    intake = Intake(PIPELINE, store, objects, clock)
    now = _core.format_timestamp(clock.now_us())
    articles = [NewsArticle(None, "wire", f"Story {i}", now, tickers=("AAPL",)) for i in range(3)]
    assert store_news_items(articles, intake).stored == 3
    news = latest_news(store, ["aapl"], check_freshness(None, clock.now_us(), AlwaysOpen()))
    assert (len(news.items), news.warning) == (3, "no collection has succeeded yet")
    assert latest_news(store, ["MSFT"], news.freshness).items == []


# --- normalising


@pytest.mark.parametrize(
    "published",
    ["2026-05-19T23:13:00Z", "2026-05-20T01:13:00+02:00", "2026-05-19 23:13:00", "2026-05-19 23:13:00+00:00",
     "Tue, 19 May 2026 23:13:00 GMT", "Tue, 19 May 2026 19:13:00 -0400", 1779232380, 1779232380.0, 1779232380000,
     "1779232380", "2026-05-19T23:13:00.000000", " 2026-05-19T23:13:00Z "],
)  # fmt: skip
def test_times_in_any_usual_form(published):
    item = normalise({**GOOD, "publishedDate": published}, RawInfo("tiingo", "k", FETCHED))
    assert item.doc["published_at"] == "2026-05-19T23:13:00Z"


def test_a_date_alone_is_its_midnight():
    item = normalise({**GOOD, "publishedDate": "2026-05-19"}, RawInfo("tiingo", "k", FETCHED))
    assert item.doc["published_at"] == "2026-05-19T00:00:00Z"


@pytest.mark.parametrize(
    "published", ["", "soon", "2026-13-01", [], {}, -5, 0, float("nan"), float("inf"), 10**30, "9" * 40]
)
def test_what_is_no_time_is_refused(published):
    with pytest.raises(Reject) as caught:
        normalise({**GOOD, "publishedDate": published}, RawInfo("tiingo", "k", FETCHED))
    assert caught.value.kind == "no_time"


@pytest.mark.parametrize(
    ("title", "headline"),
    [
        ("<b>Profit</b> up", "Profit up"),
        ("AT&amp;T &lt;b&gt;soars&lt;/b&gt;", "AT&T soars"),
        ("R&amp;D &#39;works&#39;", "R&D 'works'"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("<script>alert(1)</script>Up", "alert(1) Up"),
        ("<!-- x -->Up", "Up"),
    ],
)
def test_markup_in_headlines(title, headline):
    assert normalise({**GOOD, "title": title}, RawInfo("tiingo", "k", FETCHED)).doc["headline"] == headline


def test_an_item_says_which_source_attempt_and_response_gave_it():
    doc = normalise(GOOD, RawInfo("tiingo", "raw/key", FETCHED, attempt=3)).doc
    assert (doc["source"], doc["attempt"], doc["raw_key"]) == ("tiingo", 3, "raw/key")
    NewsItem.model_validate(doc)


def test_without_an_id_the_key_is_the_id():
    for ident in (None, ""):
        item = normalise({**GOOD, "id": ident}, RawInfo("tiingo", "k", FETCHED))
        assert item.doc["source_id"] == f"tiingo:{item.key}"


def test_one_id_with_two_texts_is_two_items_and_both_are_analysed(store, objects, clock):
    from headgate.pipelines.market.analysis import business_key

    intake = Intake(PIPELINE, store, objects, clock)
    now = _core.format_timestamp(clock.now_us())
    body = json.dumps([{**GOOD, "publishedDate": now, "title": t} for t in ("Profit up", "Profit down", "Profit up")])
    taken = intake.accept("tiingo", body.encode())
    assert (taken.stored, taken.duplicates) == (2, 1)
    rows = store.db.execute("SELECT body FROM outbox WHERE topic = 'market.items'")
    assert len({business_key(json.loads(b)) for (b,) in rows}) == 2


def test_an_unknown_source_is_a_dead_letter_not_a_guess():
    with pytest.raises(Reject) as caught:
        normalise(GOOD, RawInfo("nobody", "k", FETCHED))
    assert caught.value.kind == "unknown_source"


# --- sources


QUERY = {"tickers": [f"T{chr(65 + i)}" for i in range(23)], "start_date": "2026-05-13", "end_date": "2026-05-20"}


def test_tickers_are_chunked_and_tokens_stay_in_headers():
    tiingo, finnhub = TiingoSource(token="sesame").requests(QUERY), FinnhubSource(token="sesame").requests(QUERY)
    assert (len(tiingo), len(finnhub)) == (3, 23)
    assert "tickers=ta,tb" in tiingo[0].url
    assert not any("sesame" in r.url for r in [*tiingo, *finnhub])


def test_a_full_page_is_followed_by_the_next():
    source = TiingoSource(page=2)
    first = source.requests({**QUERY, "tickers": ["A", "B"]})
    full = json.dumps([{**GOOD, "id": i, "description": "d" * 60} for i in range(2)]).encode()
    (second,) = source.next_pages(QUERY, first, [full])
    assert "offset=2" in second.url
    (third,) = source.next_pages(QUERY, [second], [full])
    assert "offset=4" in third.url
    assert source.next_pages(QUERY, [third], [b"[]"]) == []
    assert source.next_pages(QUERY, [third], [json.dumps([GOOD]).encode()]) == []


CONFIG = """
[backends]
durability = "normal"
[sources.tiingo]
priority = 1
base_url = "{url}"
[sources.finnhub]
priority = 2
base_url = "{url}/api/v1"
[resilience]
timeout_s = 5
retry_attempts = 1
[collection]
tickers = ["AAPL", "MSFT", "IBM"]
calendar = "always"
sentiment = true
[collection.reliability]
"Wire & Ledger" = 0.7
"""


@pytest.fixture
def feed():
    with Feed(WrittenData(datetime.now(UTC))) as running:
        running.wave = 8
        yield running


@pytest.fixture
def app(tmp_path, feed):
    (tmp_path / "headgate.toml").write_text(CONFIG.format(url=feed.url))
    return App(load(tmp_path / "headgate.toml", KEYS))


def test_pages_are_one_collection(app, feed):
    whole = app.collect()
    paged = App(app.config)
    paged.config.backends.store = "sqlite:///paged.db"
    paged.__dict__["adapters"] = [TiingoSource(feed.url, "secret-key-1", page=20)]
    result = paged.collect()
    assert (result.taken.taken, result.taken.stored) == (whole.taken.taken, whole.taken.stored)
    assert result.status == "success"
    assert len(result.attempts) > 3
    assert all(a["breaker_after"] == "closed" for a in result.attempts)


def test_a_source_that_knows_no_pages_is_not_asked_for_ever(app, feed, monkeypatch):
    monkeypatch.setattr(TiingoSource, "next_pages", lambda self, query, requests, bodies: requests)
    result = app.collect()
    # What tiingo has beyond its first page is unknown: the next source was asked, and what there is was kept.
    assert (result.status, result.source, result.is_failover) == ("success", "finnhub", True)
    assert [a["source"] for a in result.attempts] == ["tiingo", "tiingo", "finnhub", "finnhub", "finnhub"]
    assert {doc["source"] for doc in app.store.latest([], 500)} == {"tiingo", "finnhub"}
    feed.set_mode("finnhub", "500")
    before = app.collector.last_success_us()
    part = app.collect()
    assert (part.status, part.source) == ("partial", "tiingo")
    assert app.store.collection_events("market", 1)[0]["error_code"] == "MALFORMED_RESPONSE"
    assert app.collector.last_success_us() == before  # not fresh


def test_a_source_that_breaks_off_has_given_a_part(app, feed, monkeypatch):
    pages = []

    def page_of(self, query, requests, bodies):
        pages.append(1)
        feed.set_mode("tiingo", "500")
        return requests

    monkeypatch.setattr(TiingoSource, "next_pages", page_of)
    result = app.collect()
    assert (result.status, result.source, pages) == ("partial", "tiingo", [1])
    assert result.taken.stored > 0
    (event,) = app.store.collection_events("market")
    assert (event["success"], event["status"], event["error_code"]) == (True, "partial", "HTTP_500")
    CollectionEvent.model_validate(event)


def test_finnhub_scores_its_items_and_tiingo_does_not(app, feed):
    app.collect()
    feed.set_mode("tiingo", "500")
    assert app.collect().source == "finnhub"
    docs = app.store.latest([], 1000)
    scored = [d for d in docs if d["source"] == "finnhub"]
    assert scored
    assert all(d["sentiment"]["model_version"] == "finnhub-news-sentiment" for d in scored)
    assert {d["tickers"][0] for d in scored} == {"AAPL", "MSFT", "IBM"}
    for doc in docs:
        NewsItem.model_validate(doc)
        if doc.get("sentiment"):
            SentimentScore.model_validate(doc["sentiment"])
    known = [d for d in docs if d["source"] == "tiingo" and d["source_name"] == "Wire & Ledger"]
    assert {(d["sentiment"]["score"], d["sentiment"]["confidence"]) for d in known} == {(None, 0.7)}
    taken = replay(app.intake)
    assert taken.stored == 0  # answers about sentiment are kept, and are no articles
    assert taken.taken == taken.duplicates + taken.dead_letters


def test_a_refused_sentiment_costs_nothing_else(app, feed, monkeypatch):
    from headgate.testing.feed import Answer

    feed.set_mode("tiingo", "500")
    monkeypatch.setattr(feed.content, "sentiment", lambda symbol: Answer(403, b'{"error":"no access"}'))
    result = app.collect()
    assert (result.status, result.taken.stored > 0) == ("success", True)
    assert all(d.get("sentiment") is None for d in app.store.latest([], 1000))


def test_every_shipped_source_of_ones_own(tmp_path, monkeypatch):
    """The example's thirty lines, configured as its first lines say."""
    from headgate.testing.scripted import Scripted, say

    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "examples"))
    now = _core.format_timestamp(_core.SystemClock().now_us())
    body = json.dumps({"feed": [{"uuid": "u1", "title": "Up", "time": now, "symbols": ["AAPL"], "publisher": "Wire"}]})
    with Scripted(say(b"500 no")) as down, Scripted(say(b"200 OK", body.encode())) as wire:
        text = (
            CONFIG.format(url=down.url)
            + f'[sources.wire]\nkind = "third_source:WireSource"\npriority = 3\nbase_url = "{wire.url}"\n'
        )
        (tmp_path / "headgate.toml").write_text(text)
        app = App(load(tmp_path / "headgate.toml", {**KEYS, "WIRE_API_KEY": "k"}))
        result = app.collect()
    assert (result.source, result.taken.stored) == ("wire", 1)
    (doc,) = app.store.latest(["AAPL"], 5)
    assert (doc["source"], doc["source_id"], doc["headline"]) == ("wire", "wire:u1", "Up")
    source_lines = Path(sys.modules["third_source"].__file__).read_text().split("@dataclass")[1].splitlines()
    assert len(source_lines) <= 30
    assert replay(App(load(tmp_path / "headgate.toml", KEYS)).intake).duplicates == 1


# --- orchestrator


class Adapter:
    """What an existing code base may have."""

    def __init__(self, name, answer):
        self.name, self.answer, self.calls = name, answer, 0

    def get_news(self, tickers, start_date, end_date, limit):
        self.calls += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer(tickers) if callable(self.answer) else self.answer


ARTICLES = [NewsArticle("1", "b", "Headline", "2026-05-19T00:00:00Z", tickers=("AAPL",))]


def test_the_secondarys_articles_and_the_primarys_error():
    a, b = Adapter("a", TransientError("away")), Adapter("b", ARTICLES)
    result = FailoverOrchestrator(a, b).get_news_with_failover(["aapl"])
    assert (result.data, result.source_used, result.is_failover) == (ARTICLES, "b", True)
    assert result.primary_error == "unavailable: away"
    assert result.duration_ms < 5000


def test_an_empty_list_is_an_answer():
    a, b = Adapter("a", []), Adapter("b", ARTICLES)
    result = FailoverOrchestrator(a, b).get_news_with_failover(["AAPL"])
    assert (result.data, result.is_failover, b.calls) == ([], False, 0)


def test_an_adapter_that_hangs_is_abandoned_at_its_deadline():
    go = threading.Event()
    a, b = Adapter("a", lambda _: go.wait(30)), Adapter("b", ARTICLES)
    result = FailoverOrchestrator(a, b, timeout_s=0.1).get_news_with_failover(["AAPL"])
    go.set()
    assert (result.source_used, result.attempts[0].outcome) == ("b", "timeout")
    assert 100 <= result.attempts[0].duration_ms <= 1000


def test_an_orchestrators_breaker_opens():
    a, b = Adapter("a", TransientError("away")), Adapter("b", ARTICLES)
    orchestrator = FailoverOrchestrator(a, b)
    for _ in range(8):
        assert orchestrator.get_news_with_failover(["AAPL"]).source_used == "b"
    assert a.calls == 5
    assert orchestrator.breakers.states() == {"a": "open", "b": "closed"}


def test_all_down_names_both():
    with pytest.raises(AllSourcesFailedError, match="a unavailable.*; b unavailable"):
        FailoverOrchestrator(
            Adapter("a", TransientError("x")), Adapter("b", TransientError("y"))
        ).get_news_with_failover(["A"])
    with pytest.raises(InvalidInputError):
        FailoverOrchestrator(Adapter("a", [])).get_news_with_failover([" "])


def test_http_sources_end_to_end(feed, store, objects):
    clock = _core.SystemClock()
    store.clock = clock
    sources = TiingoSource(feed.url, "k", page=20), FinnhubSource(f"{feed.url}/api/v1", "k")
    orchestrator = FailoverOrchestrator(*sources, timeout_s=5)
    first = fetch_news(orchestrator, ["AAPL"], limit=500)
    assert (first.source_used, first.is_failover, len(first.data) > 20) == ("tiingo", False, True)
    feed.set_mode("tiingo", "error:0")
    second = asyncio.run(orchestrator.get_news_with_failover_async(["AAPL"]))
    assert (second.source_used, second.primary_error) == ("finnhub", "http_status: answered with status 403")
    assert len(second.data) <= 50
    intake = Intake(PIPELINE, store, objects, clock)
    taken = store_news_items(first, intake)
    assert taken.taken == len(first.data) == taken.stored + taken.duplicates + taken.dead_letters
    assert taken.stored > 0
    assert store_news_items(first.data, intake).stored == 0


# --- metrics, standing, contracts


def test_metrics_by_the_specified_names(app, feed):
    result = app.collect()
    (event,) = app.store.collection_events("market", 1)
    names = {m.name: m for m in collection_metrics(result, event, "tiingo")}
    assert (names["CollectionSuccess"].value, names["CollectionFailure"].value) == (1, 0)
    assert names["ItemsCollected"].value == result.taken.taken
    assert "FailoverCount" not in names
    feed.set_mode("tiingo", "500")
    result = app.collect()
    (event,) = app.store.collection_events("market", 1)
    names = {m.name: m for m in collection_metrics(result, event, "tiingo")}
    assert names["FailoverCount"].dimensions == {"Source": "finnhub"}
    assert names["CollectionLatencyMs"].dimensions["IsFailover"] == "true"
    feed.set_mode("finnhub", "500")
    with pytest.raises(AllSourcesFailedError):
        app.collect()
    (event,) = app.store.collection_events("market", 1)
    names = {m.name: m for m in collection_metrics(None, event, "tiingo")}
    assert (names["CollectionFailure"].value, names["CollectionSuccessRate"].value) == (1, 0.0)
    assert notification_metric(29_999).dimensions == {"SLAMet": "true"}
    assert notification_metric(30_001).dimensions == {"SLAMet": "false"}
    assert app.metrics.value("collections_total") == 3
    assert app.metrics.value("failovers_total") == 1


def test_a_slow_collection_is_told_once_per_cooldown(app):
    app.config.resilience.alert_latency_s = 0.0
    assert "high_latency" in app.collect().alerts
    assert app.collect().alerts == ()
    (body,) = app.database.execute("SELECT body FROM outbox WHERE topic = 'market.alerts'")
    alert = json.loads(body[0])
    assert (alert["alert_type"], alert["source"], alert["latency_ms"] >= 0) == ("high_latency", "tiingo", True)


def test_the_standing_of_a_source(app, feed):
    app.collect()
    feed.set_mode("tiingo", "500")
    for _ in range(3):
        app.collect()
    events = app.store.collection_events("market")
    breakers = app.collector.breakers
    down, up = (DataSourceConfig.of(a, n + 1, breakers[a.name].snapshot(), events) for n, a in enumerate(app.adapters))
    assert (down.is_available, down.consecutive_failures) == (False, 3)
    assert down.last_success_at.isoformat() == events[0]["timestamp"].replace("Z", "+00:00")
    assert (up.is_available, up.consecutive_failures, up.priority) == (True, 0, 2)
    assert "secret" not in down.model_dump_json()


def test_the_notification_keeps_its_contract(app):
    app.collect()
    (body,) = app.database.execute("SELECT body FROM outbox WHERE topic = 'market.new_data'")
    notice = NewDataNotification.model_validate_json(body[0])
    assert notice.item_count == app.store.count("SELECT count(*) FROM items")
    assert notice.date_range["start"] <= notice.date_range["end"]


def test_names_of_the_task_list_are_where_they_belong():
    from headgate.handlers import collect

    assert handle_scheduled_collection is collect


def test_a_reliability_out_of_range_is_refused(tmp_path):
    (tmp_path / "h.toml").write_text('[collection.reliability]\n"x.example" = 1.5\n')
    with pytest.raises(ConfigError, match=r"collection.reliability.x.example"):
        load(tmp_path / "h.toml", {})


@given(st.lists(st.text(max_size=7)))
def test_tickers_are_what_the_pattern_says(values):
    import re

    from headgate.pipelines.market.pipeline import _tickers

    mended = (v.strip().upper() for v in values)
    expected = list(dict.fromkeys(v for v in mended if re.fullmatch(r"[A-Z]{1,5}", v)))[:10]
    assert _tickers(values, ()) == expected
