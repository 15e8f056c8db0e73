"""Whatever a source's code or body does, and whatever a store does: the next source is asked, or the record is a dead
letter; there is an event, a metric and an alert; and nothing is called a success that is none."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta

import pytest

from headgate import _core
from headgate.cli._main import main
from headgate.config import load
from headgate.errors import AllSourcesFailedError, ConfigError, HeadgateError, InvalidInputError, Kind, TransientError
from headgate.intake import AlwaysOpen, RawInfo, Reject, check_freshness
from headgate.pipelines.market import (
    DataSourceConfig,
    FailoverOrchestrator,
    FinnhubAdapter,
    FinnhubSource,
    NewDataNotification,
    NewsItem,
    RateLimitError,
    SentimentScore,
    TiingoAdapter,
    TiingoSource,
)
from headgate.pipelines.market.pipeline import normalise
from headgate.resilience import Request, RetryPolicy
from headgate.testing.scripted import RawServer, path_of, response
from headgate.wiring import App

KEYS = {"TIINGO_API_KEY": "k1", "FINNHUB_API_KEY": "k2"}
NOW = datetime.now(UTC)
TODAY = (NOW - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
CONFIG = """
[sources.tiingo]
base_url = "{first}"
[sources.finnhub]
priority = 2
base_url = "{second}"
[resilience]
timeout_s = 5
retry_base_s = 0.001
[collection]
tickers = ["AAPL"]
calendar = "always"
"""


def article(number=1, **more):
    return {"id": number, "title": f"Title {number}", "publishedDate": TODAY, "tickers": ["aapl"], **more}


def finnhub_article(number=1, **more):
    at = int((NOW - timedelta(hours=1)).timestamp())
    return {"id": number, "headline": f"Title {number}", "datetime": at, "related": "AAPL", **more}


def answering(body, status="200 OK", headers=()):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return RawServer(lambda peer, head, number: peer.sendall(response(data, status, headers)))


@pytest.fixture
def make(tmp_path):
    def app(first, second, more=""):
        (tmp_path / "headgate.toml").write_text(CONFIG.format(first=first.url, second=second.url) + more)
        return App(load(tmp_path / "headgate.toml", KEYS))

    return app


def last_event(app):
    return app.store.collection_events("market", 1)[0]


# --- bodies


def test_a_number_of_thousands_of_digits_is_one_dead_letter(make):
    digits = b"9" * 5000
    body = b'[{"pad": "' + b"x" * 60_000 + b'", "id": ' + digits + b"}," + json.dumps(article()).encode() + b"]"
    with answering(body) as first, answering([]) as second:
        app = make(first, second)
        result = app.collect()
    assert (result.taken.taken, result.taken.stored, result.taken.dead_letters) == (2, 1, 1)
    (letter,) = app.store.dead_letters()
    assert letter["kind"] == "number_out_of_range"
    assert digits.decode() in letter["doc"]  # no digit is lost


def test_a_byte_order_mark_is_no_part_of_a_body(make):
    with answering(b"\xef\xbb\xbf" + json.dumps([article()]).encode()) as first, answering([]) as second:
        app = make(first, second)
        result = app.collect()
        news = TiingoAdapter("k", base_url=first.url).get_news(["AAPL"], TODAY[:10], TODAY[:10])
    assert (result.source, result.status, result.taken.stored) == ("tiingo", "success", 1)
    assert len(news) == 1


@pytest.mark.parametrize("body", [{"error": "rate limited"}, {"articles": None}, {"articles": 5}, "text", 7, [1]])
def test_an_object_with_an_error_text_means_the_next_source(make, body):
    with answering(body) as first, answering([finnhub_article()]) as second:
        app = make(first, second)
        app.adapters[0] = Wire(first.url)
        app.collector.__init__(  # the wire instead of tiingo
            app.intake, [Wire(first.url), app.adapters[1]], failover=app.collector.failover,
            breakers={n: app.breakers.breaker(n) for n in ("wire", "finnhub")}, alerts=app.collector.alerts,
            store=app.store, shared=app.breakers,
        )  # fmt: skip
        result = app.collect()
    assert (result.source, result.is_failover) == ("finnhub", True)
    assert result.attempts[0]["outcome"] == "malformed_response"


class Wire:
    """A source whose bodies are objects."""

    name, timeout_s, expects = "wire", 5.0, "json"

    def __init__(self, url):
        self.url = url

    def requests(self, query):
        return [Request(self.url, [])]

    def records(self, body):
        return body["articles"]

    def fields(self, record):
        return TiingoSource().fields(record)


@pytest.mark.parametrize("method", ["requests", "next_pages"])
def test_what_a_sources_own_code_raises_is_its_failure(make, monkeypatch, method):
    def broken(*_):
        raise KeyError("a secret record")

    monkeypatch.setattr(TiingoSource, method, broken)
    with answering([article()]) as first, answering([finnhub_article()]) as second:
        app = make(first, second)
        result = app.collect()
    assert "secret" not in json.dumps(result.attempts)
    if method == "requests":
        assert (result.source, result.is_failover, result.attempts[0]["outcome"]) == ("finnhub", True, "config")
        assert app.collector.failover.secondary_since_us > 0
    else:
        assert (result.source, result.status, result.taken.stored) == ("tiingo", "partial", 1)
        assert "KeyError" in last_event(app)["error_message"]


@pytest.mark.parametrize("requests", [5, ["no request"], [None], "text"])
def test_what_is_no_request_is_the_sources_failure(make, monkeypatch, requests):
    monkeypatch.setattr(TiingoSource, "requests", lambda self, query: requests)
    with answering([]) as first, answering([finnhub_article()]) as second:
        result = make(first, second).collect()
    assert (result.source, result.attempts[0]["outcome"], result.alerts) == ("finnhub", "config", ())


def test_a_reader_that_fails_on_every_record_is_no_fresh_success(make, monkeypatch):
    def broken(self, record):
        raise KeyError("title")

    monkeypatch.setattr(TiingoSource, "fields", broken)
    with answering([article(1), article(2)]) as first, answering([]) as second:
        app = make(first, second)
        result = app.collect()
    assert (result.status, result.taken.dead_letters) == ("partial", 2)
    assert last_event(app)["error_code"] == "MALFORMED_RESPONSE"
    assert app.collector.last_success_us() is None
    assert app.freshness().is_stale


def test_a_source_without_a_request_is_no_success(make, monkeypatch):
    monkeypatch.setattr(TiingoSource, "requests", lambda self, query: [])
    with answering([]) as first, answering([]) as second:
        assert make(first, second).collect().source == "finnhub"
        assert first.seen == []


def test_an_offset_that_is_ignored_is_a_failure_of_the_orchestrators_source():
    page = [article(n, description="d" * 80) for n in range(20)]
    with answering(page) as first, answering([finnhub_article()]) as second:
        sources = TiingoSource(first.url, "k", page=20), FinnhubSource(second.url, "k")
        result = FailoverOrchestrator(*sources).get_news_with_failover(["AAPL"])
    assert (result.source_used, len(first.seen)) == ("finnhub", 2)
    assert "page before" in result.primary_error


# --- stores


class Failing:
    """A store whose methods fail as told."""

    def __init__(self, inner, *names):
        self._inner, self._names = inner, names

    def __getattr__(self, name):
        if name in self._names:
            raise TransientError("the disk is away", Kind.IO_ERROR)
        return getattr(self._inner, name)


def test_an_object_store_that_fails_is_an_event_a_metric_and_an_alert(make):
    with answering([article()]) as first, answering([]) as second:
        app = make(first, second)
        app.intake.objects = Failing(app.objects, "put")
        for _ in range(3):
            with pytest.raises(TransientError, match="disk is away"):
                app.collect()
    events = app.store.collection_events("market")
    assert [e["alerts"] for e in events] == [["store_failed"], [], ["consecutive_failure"]]
    assert [(e["success"], e["error_code"]) for e in events] == [(False, "IO_ERROR")] * 3
    assert app.metrics.value("collections_total", source="none", status="failed") == 3
    bodies = [json.loads(b) for (b,) in app.database.execute("SELECT body FROM outbox WHERE topic = 'market.alerts'")]
    assert all("disk is away" in body["last_error"] for body in bodies)
    assert app.freshness().is_stale


def test_an_item_store_that_fails_is_told_past_the_outbox(make):
    sent = []
    with answering([article()]) as first, answering([]) as second:
        app = make(first, second)
        app.collector.last_resort = lambda topic, key, body: sent.append((topic, body["alert_type"]))
        app.intake.store = Failing(app.store, "put_items", "add_collection_event")
        with pytest.raises(HeadgateError, match="disk is away"):
            app.collect()
    assert sent == [("market.alerts", "store_failed")]
    assert app.metrics.value("collections_total", source="none", status="failed") == 1
    assert app.store.count("SELECT count(*) FROM items") == 0


def test_an_error_of_ones_own_hook_is_no_bug_in_headgate(make):
    def broken(_):
        raise LookupError("hook")

    with answering([article()]) as first, answering([]) as second:
        app = make(first, second)
        app.collector.on_stored = broken
        with pytest.raises(TransientError, match="LookupError"):
            app.collect()
    assert last_event(app)["success"] is False


# --- alerts and state of several processes


def test_collections_that_overlap_alert_once_and_lose_no_failure(tmp_path):
    gate = threading.Barrier(3)

    def slow(peer, head, number):
        if number > 1:
            gate.wait(20)
        peer.sendall(response(b"{}", "403 X"))

    with RawServer(slow) as server:
        (tmp_path / "headgate.toml").write_text(
            f'[sources.tiingo]\nbase_url = "{server.url}"\n[resilience]\nfailure_threshold = 1000\n'
            'max_failed_collections = 1000\n[collection]\ntickers = ["AAPL"]\ncalendar = "always"\n'
        )

        def collect():
            app = App(load(tmp_path / "headgate.toml", KEYS))
            with pytest.raises(AllSourcesFailedError):
                app.collect()

        collect()
        threads = [threading.Thread(target=collect) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    app = App(load(tmp_path / "headgate.toml", KEYS))
    alerts = [alert for event in app.store.collection_events("market") for alert in event["alerts"]]
    assert sorted(alerts) == ["all_sources_down", "consecutive_failure"]
    assert len(app.store.load_state("collector:market")["alerts"]["tracker"]["failures_us"]) == 4


def test_one_collection_of_all_processes_sends_the_probe(tmp_path):
    is_down, started, go = [True], threading.Event(), threading.Event()

    def primary(peer, head, number):
        if is_down[0]:
            peer.sendall(response(b"{}", "403 X"))
            return
        started.set()
        go.wait(20)
        peer.sendall(response(json.dumps([article()]).encode()))

    with RawServer(primary) as first, answering([]) as second:

        def collect(offset_s):
            text = CONFIG.format(first=first.url, second=second.url).replace(
                "timeout_s = 5", "timeout_s = 15\nfailure_threshold = 2\nreturn_to_primary_s = 0"
            )
            (tmp_path / "headgate.toml").write_text(f"{text}[clock]\noffset_s = {offset_s}\n")
            return App(load(tmp_path / "headgate.toml", KEYS)).collect()

        for _ in range(2):
            assert collect(0).source == "finnhub"
        is_down[0] = False
        probe = []
        thread = threading.Thread(target=lambda: probe.append(collect(61)))
        thread.start()
        assert started.wait(20)
        other = collect(61)
        go.set()
        thread.join()
    assert other.source == "finnhub"
    assert "another process" in other.attempts[0]["message"]
    assert (probe[0].source, len(first.seen)) == ("tiingo", 3)
    states = App(load(tmp_path / "headgate.toml", KEYS)).breakers
    assert states.state("tiingo") == "closed"


def test_a_clock_that_was_ahead_leaves_nothing_behind(make):
    with answering([article()]) as first, answering([]) as second:
        ahead = make(first, second, "[clock]\noffset_s = 86400\n")
        ahead.collect()
        app = make(first, second)
        freshness = app.freshness()
        assert (freshness.age_s, freshness.is_stale) == (None, True)
        assert "future" in freshness.warning
        app.collect()
        assert app.freshness().age_s < 60


def test_an_alert_that_was_sent_in_the_future_is_sent_again(make):
    with answering({}, "500 X") as first, answering({}, "500 X") as second:
        with pytest.raises(AllSourcesFailedError):
            make(first, second, "[clock]\noffset_s = 86400\n").collect()
        app = make(first, second)
        with pytest.raises(AllSourcesFailedError):
            app.collect()
    assert last_event(app)["alerts"] == ["all_sources_down"]


def test_freshness_goes_by_the_events_own_time():
    hour = 3600 * 1_000_000
    at = _core.parse_timestamp("2026-05-20T14:30:00Z")
    assert check_freshness(at - hour, at, AlwaysOpen(), now_us=at + 9 * hour).age_s == 3600
    assert check_freshness(at + hour, at, AlwaysOpen(), now_us=at + 9 * hour).age_s == 0
    assert check_freshness(at + hour, at, AlwaysOpen(), now_us=at).age_s is None


# --- items


def test_an_article_of_two_tickers_keeps_both(make):
    def each(peer, head, number):
        ticker = path_of(head).partition("symbol=")[2].partition("&")[0]
        peer.sendall(response(json.dumps([finnhub_article(1, related=ticker)]).encode()))

    with answering({}, "500 X") as first, RawServer(each) as second:
        app = make(first, second)
        app.config.collection.tickers = ["AAPL", "MSFT"]
        result = app.collect()
        assert (result.taken.stored, result.taken.duplicates) == (1, 1)
        (doc,) = app.store.latest(["MSFT"], 5)
        assert doc["tickers"] == ["AAPL", "MSFT"]
        assert app.store.latest(["AAPL"], 5) == [doc]
        bodies = dict(app.database.execute("SELECT topic, body FROM outbox WHERE topic != 'market.alerts'"))
        assert json.loads(bodies["market.items"])["matched_tickers"] == ["AAPL", "MSFT"]
        app.relay()
        app.config.collection.tickers = ["IBM"]
        assert app.collect().taken.duplicates == 1
    (doc,) = app.store.latest(["IBM"], 5)
    assert doc["tickers"] == ["AAPL", "MSFT", "IBM"]
    assert app.store.count("SELECT count(*) FROM outbox WHERE topic = 'market.items'") == 1  # announced once


@pytest.mark.parametrize(("related", "stored"), [("", 1), (" ", 1), (None, 1), ("0700.HK", 0)])
def test_a_blank_related_is_the_ticker_that_was_asked_for(make, related, stored):
    with answering({}, "500 X") as first, answering([finnhub_article(related=related)]) as second:
        app = make(first, second)
        assert app.collect().taken.stored == stored
    assert [doc["tickers"] for doc in app.store.latest([], 5)] == [["AAPL"]] * stored


def test_a_known_item_is_a_duplicate_however_old(make, monkeypatch):
    with answering([article()]) as first, answering([]) as second:
        app = make(first, second)
        assert app.collect().taken.stored == 1
        later = make(first, second, f"[clock]\noffset_s = {8 * 86400}\n")
        taken = later.collect().taken
        assert (taken.stored, taken.duplicates, taken.dead_letters) == (0, 1, 0)
    with answering([article(2)]) as first, answering([]) as second:
        taken = make(first, second, f"[clock]\noffset_s = {8 * 86400}\n").collect().taken
        assert (taken.stored, taken.duplicates, taken.dead_letters) == (0, 0, 1)


@pytest.mark.parametrize("tickers", [["BRK.B"], ["TOOLONG"], ["AAPL", ""], ["A1"], [], ["ÄPL"]])
def test_tickers_that_cannot_be_stored_are_refused_before_any_request(make, tickers):
    with answering([]) as first, answering([]) as second:
        app = make(first, second)
        app.config.collection.tickers = tickers
        with pytest.raises(InvalidInputError, match="tickers"):
            app.collect()
        with pytest.raises(InvalidInputError, match="tickers"):
            FailoverOrchestrator(TiingoSource(first.url, "k")).get_news_with_failover(
                [t for t in tickers if t != "AAPL"]
            )
        assert first.seen == second.seen == []


def test_a_sources_standing_is_stored_and_shown(make, tmp_path, monkeypatch, capsys):
    with answering({}, "500 X") as first, answering([finnhub_article()]) as second:
        app = make(first, second)
        app.collect()
    down, up = (DataSourceConfig.model_validate(app.store.load_state(f"source:{n}")) for n in ("tiingo", "finnhub"))
    assert (down.consecutive_failures, up.consecutive_failures, up.priority) == (1, 0, 2)
    monkeypatch.chdir(tmp_path)
    assert main(["status"]) == 0
    shown = json.loads(capsys.readouterr().out)["sources"]
    assert {name: s["is_available"] for name, s in shown.items()} == {"tiingo": False, "finnhub": True}


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://x.example/a?b=%20c", "https://x.example/a?b=%20c"), ("https://x.example/a b", "https://x.example/a%20b"),
        ("https://x.example/\u00e9", "https://x.example/%C3%A9"), ("no url", None), ("/relative", None), ("", None), (7, None),
        ("https://x.example/" + "a" * 2048, None), (" https://x.example/ ", "https://x.example/"),
    ],
)  # fmt: skip
def test_a_url_is_one_or_none(url, kept):
    item = normalise(article(url=url), RawInfo("tiingo", "k", int(NOW.timestamp() * 1e6))).doc
    assert item["url"] == kept
    NewsItem.model_validate(item)


@pytest.mark.parametrize(
    "bad",
    [
        {"score": 1.5}, {"score": True}, {"score": "0.5"}, {"confidence": -0.1}, {"label": "good"}, 5,
        {"score": 0.9, "label": "negative"}, {"score": float("nan")},
    ],
)  # fmt: skip
def test_a_sentiment_keeps_its_contract(bad):
    raw = RawInfo("wire", "k", int(NOW.timestamp() * 1e6), {"sentiment": {"AAPL": bad}}, 1, TiingoSource())
    with pytest.raises(Reject) as caught:
        normalise(article(), raw)
    assert caught.value.kind == "invalid_sentiment"


def test_contracts_check_what_they_declare():
    with pytest.raises(ValueError, match="label"):
        SentimentScore(score=0.9, label="negative")
    with pytest.raises(ValueError, match="each once"):
        NewDataNotification(timestamp=TODAY, source="tiingo", item_count=1, tickers=["AAPL", "AAPL"])


# --- keys, names and commands


def test_a_key_is_stripped_and_one_of_two_lines_is_refused(tmp_path):
    (tmp_path / "headgate.toml").write_text("[sources.tiingo]\npriority = 1\n")
    app = App(load(tmp_path / "headgate.toml", {"TIINGO_API_KEY": " k1\n"}))
    assert app.adapters[0].token == "k1"
    with pytest.raises(ConfigError, match="TIINGO_API_KEY") as caught:
        _ = App(load(tmp_path / "headgate.toml", {"TIINGO_API_KEY": "secret\nline"})).adapters
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "headers"), [("403 X", []), ("404 X", []), ("429 X", [("Retry-After", "60")]), ("429 X", [])]
)
def test_the_orchestrator_asks_again_what_the_collector_asks_again(status, headers):
    with answering({}, status, headers) as server:
        orchestrator = FailoverOrchestrator(TiingoSource(server.url, "t"), retry=RetryPolicy(3, 1, 1))
        with pytest.raises(AllSourcesFailedError):
            orchestrator.get_news_with_failover(["AAPL"])
        assert len(server.seen) == 1
    with answering({}, "503 X") as server:
        orchestrator = FailoverOrchestrator(TiingoSource(server.url, "t"), retry=RetryPolicy(3, 1, 1))
        with pytest.raises(AllSourcesFailedError):
            orchestrator.get_news_with_failover(["AAPL"])
        assert len(server.seen) == 3


def test_sources_of_one_name_are_refused():
    with pytest.raises(InvalidInputError, match="tiingo"):
        FailoverOrchestrator(TiingoSource(token="a"), TiingoSource(token="b"))
    FailoverOrchestrator(TiingoSource(token="a"), TiingoSource(token="b", name="tiingo-2"))


def test_the_adapters_of_the_task_list():
    from headgate.pipelines.market import AdapterError

    span = ["AAPL"], "2026-05-18", "2026-05-19"
    with answering([article(1), article(2)]) as server:
        found = TiingoAdapter("k", base_url=server.url).get_news(*span, limit=1)
        assert [a.source for a in found] == ["tiingo"]
        assert b"Authorization: Token k" in server.seen[0]
    with answering({}, "429 X", [("Retry-After", "7")]) as server, pytest.raises(RateLimitError) as caught:
        FinnhubAdapter("k", base_url=server.url).get_news(*span)
    assert caught.value.retry_after == 7
    with answering({}, "429 X") as server, pytest.raises(RateLimitError) as caught:
        FinnhubAdapter("k", base_url=server.url).get_news(*span)
    assert (caught.value.retry_after, isinstance(caught.value, AdapterError)) == (60, True)
    with answering({}, "404 X") as server:
        assert TiingoAdapter("k", base_url=server.url).get_news(*span) == []
    with answering({}, "200 OK") as server, pytest.raises(AdapterError, match="shape"):
        TiingoAdapter("k", base_url=server.url).get_news(*span)
    with answering([finnhub_article()]) as server:
        adapters = TiingoAdapter("k", base_url="http://127.0.0.1:1"), FinnhubAdapter("k", base_url=server.url)
        result = FailoverOrchestrator(*adapters).get_news_with_failover(["AAPL"])
        assert (result.source_used, len(result.data)) == ("finnhub", 1)
    with pytest.raises(AdapterError, match=r"tiingo .*; finnhub "):
        FailoverOrchestrator(adapters[0], FinnhubAdapter("k", base_url="http://127.0.0.1:1")).get_news_with_failover(
            ["A"]
        )


def test_collect_delivers_its_outbox(make, tmp_path, monkeypatch, capsys):
    consumer = '[consumers.scores]\ntopic = "market.items"\nhandler = "builtins:print"\n'
    with answering([article()]) as first, answering([]) as second:
        app = make(first, second, consumer)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("TIINGO_API_KEY", "k")
        assert main(["collect", "AAPL", "--json", "--quiet"]) == 0
    assert app.store.unsent_count() == 0
    assert app.store.count("SELECT count(*) FROM queue WHERE topic = 'market.items'") == 1


def test_run_names_the_missing_variable_and_does_the_rest(make, tmp_path, monkeypatch, capsys):
    with answering([]) as first, answering([]) as second:
        make(first, second)
        monkeypatch.chdir(tmp_path)
        for name in KEYS:
            monkeypatch.delenv(name, raising=False)
        assert main(["run"]) == 1
        assert first.seen == second.seen == []
    out, err = capsys.readouterr()
    assert "TIINGO_API_KEY" in err
    assert json.loads(out)["healing"]
    (tmp_path / "headgate.toml").write_text("")
    assert main(["run"]) == 0
