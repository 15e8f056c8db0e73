"""From payload to NewsItem: what is mended, what is refused, and that nothing disappears."""

from __future__ import annotations

import json

import pytest

from headgate import _core
from headgate.intake import Intake, RawInfo, Reject
from headgate.pipelines.market import PIPELINE, NewsItem
from headgate.pipelines.market.analysis import score_text
from headgate.pipelines.market.pipeline import normalise

FETCHED = "2026-05-20T12:00:00Z"
US = _core.parse_timestamp(FETCHED)
GOOD = {
    "id": 1, "title": " Title ", "url": "https://x.example/1", "description": None, "publishedDate": "2026-05-19T23:13:00Z",
    "source": "x.example", "tickers": ["googl", "brk.b", "aapl", "googl"], "tags": ["", "A"],
}  # fmt: skip


def raw(source="tiingo", tickers=()):
    return RawInfo(source, "raw/key", US, {"tickers": list(tickers)})


def test_a_tiingo_article():
    item = normalise(GOOD, raw()).doc
    assert item["headline"] == "Title"
    assert item["tickers"] == ["GOOGL", "AAPL"]
    assert (item["description"], item["tags"]) == (None, ["A"])
    assert item["published_at"] == "2026-05-19T23:13:00Z"
    NewsItem.model_validate(item)


def test_a_finnhub_article():
    article = {"category": "company", "datetime": 1779148800, "headline": "H", "id": 5, "related": "AAPL", "source": "Y",
               "summary": "  ", "url": ""}  # fmt: skip
    item = normalise(article, raw("finnhub")).doc
    assert (item["source_id"], item["tickers"], item["url"], item["description"]) == ("finnhub:5", ["AAPL"], None, None)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"title": None}, "no_headline"),
        ({"title": "  "}, "no_headline"),
        ({"publishedDate": "soon"}, "no_time"),
        ({"publishedDate": None}, "no_time"),
        ({"publishedDate": True}, "no_time"),
        ({"publishedDate": "2026-05-13T11:59:59Z"}, "too_old"),
        ({"publishedDate": "2026-05-22T12:00:00Z"}, "from_the_future"),
        ({"tickers": ["brk.b", "", 7]}, "no_ticker"),
        ({"tickers": None}, "no_ticker"),
    ],
)
def test_rejects(change, kind):
    with pytest.raises(Reject) as caught:
        normalise({**GOOD, **change}, raw())
    assert caught.value.kind == kind


def test_more_than_ten_tickers_keep_the_requested_ones():
    letters = [chr(ord("a") + i) * 2 for i in range(15)]
    item = normalise({**GOOD, "tickers": letters}, raw(tickers=["OO"])).doc
    assert len(item["tickers"]) == 10
    assert item["tickers"][0] == "OO"


def test_over_long_texts_are_cut_not_lost():
    item = normalise({**GOOD, "title": "t" * 600, "description": "d" * 6000, "source": "s" * 200}, raw()).doc
    assert (len(item["headline"]), len(item["description"]), len(item["source_name"])) == (500, 5000, 100)
    assert _core.Validator(PIPELINE.plan).problems(json.dumps(item).encode()) == []


def test_every_record_has_exactly_one_fate(store, objects, clock):
    intake = Intake(PIPELINE, store, objects, clock)
    base = {**GOOD, "publishedDate": _core.format_timestamp(clock.now_us())}
    body = json.dumps(
        [base, base, {**base, "url": "https://other"}, {**base, "title": "Another"}, {**base, "title": None}, 7, None]
    ).encode()
    taken = intake.accept("tiingo", body)
    assert (taken.taken, taken.stored, taken.duplicates, taken.dead_letters) == (7, 2, 2, 3)
    again = intake.accept("tiingo", body)
    assert (again.stored, again.duplicates, again.dead_letters) == (0, 4, 3)
    assert store.count("SELECT count(*) FROM items") == 2
    assert store.count("SELECT sum(seen) FROM dead_letters") == 6
    assert store.count("SELECT count(*) FROM outbox") == 2


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"detail": "x"}', b"\xff\xfe", b"[1,"])
def test_a_body_of_another_shape_is_one_dead_letter(store, objects, clock, body):
    taken = Intake(PIPELINE, store, objects, clock).accept("tiingo", body)
    assert (taken.taken, taken.dead_letters) == (1, 1)
    assert len(objects.list("raw/")) == 2  # the body and its facts


def test_a_lone_surrogate_is_a_dead_letter(store, objects, clock):
    article = {**GOOD, "title": "x\ud800y", "publishedDate": _core.format_timestamp(clock.now_us())}
    taken = Intake(PIPELINE, store, objects, clock).accept("tiingo", json.dumps([article]).encode())
    assert (taken.taken, taken.dead_letters) == (1, 1)


def test_a_bug_in_a_normaliser_loses_nothing(store, objects, clock, caplog):
    from dataclasses import replace

    def broken(record, info):
        return normalise(record, info) if record["id"] else {}[record["title"] + " of patient 110001"]

    article = {**GOOD, "publishedDate": _core.format_timestamp(clock.now_us())}
    intake = Intake(replace(PIPELINE, normalise=broken), store, objects, clock)
    taken = intake.accept("tiingo", json.dumps([{**article, "id": 0}, article]).encode())
    assert (taken.stored, taken.dead_letters) == (1, 1)
    assert store.db.execute("SELECT kind, reason FROM dead_letters") == [("normalise_failed", "KeyError")]
    assert "normalise failed" in caplog.text
    assert "110001" not in caplog.text


def test_raw_first_even_when_the_store_fails(store, objects, clock, monkeypatch):
    intake = Intake(PIPELINE, store, objects, clock)
    monkeypatch.setattr(store, "put_items", lambda *_: (_ for _ in ()).throw(RuntimeError("down")))
    body = json.dumps([{**GOOD, "publishedDate": _core.format_timestamp(clock.now_us())}]).encode()
    with pytest.raises(RuntimeError):
        intake.accept("tiingo", body)
    (key,) = [k for k in objects.list("raw/") if not k.endswith(".meta.json")]
    assert objects.get(key) == body


def test_the_word_list():
    assert score_text("Shares jump, profits rise") == 1
    assert score_text("nothing here") == 0
    assert score_text("gains and losses") == 0


def test_recorded_articles_all_become_items(corpus, store, objects, clock):
    body = (corpus / "news/finnhub/company-news-AAPL.json").read_bytes()
    newest = max(a["datetime"] for a in json.loads(body))
    clock.advance_us((newest + 600) * 1_000_000 - clock.now_us())
    taken = Intake(PIPELINE, store, objects, clock).accept("finnhub", body)
    assert (taken.taken, taken.stored, taken.dead_letters) == (246, 246, 0)
