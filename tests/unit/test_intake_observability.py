"""What a collection tells: alerts, its event, its metrics, its state. Each name, code and boundary by its value."""

from __future__ import annotations

import hashlib
import json
import uuid

import pytest

from headgate.errors import AllSourcesFailedError, TransientError
from headgate.intake import AlertRules, AlwaysOpen, Collector, Intake, RawInfo, Taken, check_freshness
from headgate.intake._alerts import COOLDOWN_S, LATENCY_S
from headgate.ops import MemoryMetrics
from headgate.pipelines.market import PIPELINE, TiingoSource, collection_metrics
from headgate.pipelines.market.metrics import NAMESPACE, NOTIFY_WITHIN_MS, Metric, notification_metric
from headgate.resilience import make_breaker, make_tracker

SECOND = 1_000_000
ARTICLE = {
    "id": 1, "title": "Title", "url": "https://x.example/1", "publishedDate": "2026-05-28T20:00:00Z",
    "source": "x.example", "tickers": ["aapl"], "tags": [],
}  # fmt: skip


# --- alerts


@pytest.fixture
def rules(clock):
    return AlertRules(make_tracker(clock), clock)


def test_the_limits_of_alerts_are_the_specified_ones():
    assert (LATENCY_S, COOLDOWN_S) == (30.0, 300.0)


def test_an_alert_s_body_has_its_fields(rules):
    (alert,) = rules.judge(False, "tiingo", 30 * SECOND + 7_500)
    assert alert.body("event-1", "now") == {
        "alert_type": "high_latency", "message": "a collection took 30007 ms", "timestamp": "now",
        "collection_event_id": "event-1", "source": "tiingo", "latency_ms": 30_007,
    }  # fmt: skip


def test_exactly_the_limit_is_not_slow(rules):
    assert rules.judge(False, "tiingo", 30 * SECOND) == []
    assert [alert.type for alert in rules.judge(False, "tiingo", 30 * SECOND + 1)] == ["high_latency"]


def test_slowness_is_told_once_per_cooldown_and_source(rules, clock):
    slow = 31 * SECOND
    assert [len(rules.judge(False, source, slow)) for source in ("a", "a", "b")] == [1, 0, 1]
    clock.advance_us(300 * SECOND - 1)
    assert rules.judge(False, "a", slow) == []
    clock.advance_us(1)
    assert [alert.facts["source"] for alert in rules.judge(False, "a", slow)] == ["a"]


def test_failures_in_a_row_and_their_end(rules):
    told = [
        [(a.type, a.message, a.facts) for a in rules.judge(failed, "a", 0)]
        for failed in (True, True, True, True, False)
    ]
    down = ("all_sources_down", "no source gave a usable answer", {})
    assert told == [
        [down], [], [("consecutive_failure", "3 collections in a row failed", {"failure_count": 3})], [],
        [("recovery", "a collection succeeded again", {})],
    ]  # fmt: skip
    # The recovery ends the cooldown: the next failure is news.
    assert [alert.type for alert in rules.judge(True, "a", 0)] == ["all_sources_down"]


def test_alerts_outlive_the_process(rules, clock):
    for _ in range(3):
        rules.judge(True, "a", 0)
    kept = json.loads(json.dumps(rules.snapshot()))
    assert kept["sent_us"] == {"all_sources_down": clock.now_us()}
    again = AlertRules(make_tracker(clock), clock)
    again.restore(kept)
    assert again.snapshot() == kept
    assert again.judge(True, "a", 0) == []
    assert [alert.type for alert in again.judge(False, "a", 0)] == ["recovery"]


# --- a collection's event, metrics and state


class Adapter:
    timeout_s = 10.0

    def __init__(self, name):
        self.name = name

    def requests(self, query):
        return []

    def fields(self, record):
        return TiingoSource().fields(record)


class Scripted:
    """A failover that answers as told, and takes 1.5 seconds for it."""

    secondary_since_us = None

    def __init__(self, clock):
        self.clock, self.answer = clock, {}

    def fetch(self, sources, keep, cancel):
        self.clock.advance_us(1_500_000)
        answer = {
            "attempts": [attempt("tiingo")], "error_kind": "", "error_message": "", "source": "tiingo",
            "is_failover": False, "bodies": [], "raw_keys": [], "numbers": [], **self.answer,
        }  # fmt: skip
        for n, body in enumerate(answer["bodies"]):
            headers = [
                ("content-type", "application/json"),
                ("date", "today"),
                ("retry-after", "1"),
                ("set-cookie", "s"),
            ]
            answer["raw_keys"].append(keep(answer["source"], f"http://{n}", 200, headers, body, n + 1))
            answer["numbers"].append(n + 1)
        return answer


def attempt(source, outcome="ok", status=200, message=""):
    return {
        "source": source, "outcome": outcome, "status": status, "message": message, "duration_ms": 5,
        "breaker_before": "closed",
    }  # fmt: skip


@pytest.fixture
def collector(store, objects, clock):
    intake = Intake(PIPELINE, store, objects, clock)
    return Collector(
        intake, [Adapter("tiingo"), Adapter("finnhub")], failover=Scripted(clock),
        breakers={name: make_breaker(clock) for name in ("tiingo", "finnhub")},
        alerts=AlertRules(make_tracker(clock), clock), store=store, metrics=MemoryMetrics(),
    )  # fmt: skip


def bodies(*records):
    return {"bodies": [json.dumps(list(records)).encode()]}


def event_of(collector):
    return collector.store.collection_events("market", 1)[0]


def test_a_collection_s_event_has_every_field(collector):
    collector.failover.answer = bodies(ARTICLE, ARTICLE, {"bad": 1})
    result = collector.collect({"tickers": ["AAPL"]})
    assert event_of(collector) == {
        "event_id": result.event_id, "source": "tiingo", "timestamp": "2026-05-28T20:26:40Z", "success": True,
        "status": "success", "item_count": 3, "new_item_count": 1, "duplicate_count": 1, "dead_letter_count": 1,
        "raw_count": 1, "duration_ms": 1500, "is_failover": False, "attempts": [attempt("tiingo")],
        "breakers_before": {"tiingo": "closed", "finnhub": "closed"},
        "breakers_after": {"tiingo": "closed", "finnhub": "closed"}, "alerts": [],
    }  # fmt: skip
    assert uuid.UUID(result.event_id).version == 4
    assert result.to_dict() == {
        "event_id": result.event_id, "source": "tiingo", "is_failover": False, "status": "success",
        "taken": {"taken": 3, "stored": 1, "duplicates": 1, "dead_letters": 1}, "duration_ms": 1500, "alerts": [],
        "attempts": [attempt("tiingo")],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("outcome", "status", "code"),
    [
        ("timeout", 0, "TIMEOUT"),
        ("malformed_response", 200, "MALFORMED_RESPONSE"),
        ("connection_failed", 0, "CONNECTION_FAILED"),
        ("circuit_open", 0, "CIRCUIT_OPEN"),
        ("permission_denied", 0, "TLS_REFUSED"),
        ("http_status", 429, "RATE_LIMIT"),
        ("http_status", 401, "AUTH_FAILED"),
        ("http_status", 403, "AUTH_FAILED"),
        ("http_status", 500, "HTTP_500"),
    ],
)
def test_each_failure_has_its_code(collector, outcome, status, code):
    """Spec 001, section 2: the error codes of a collection event; that of the last attempt that failed counts."""
    attempts = [attempt("tiingo", "timeout"), attempt("tiingo", outcome, status, "m" * 1001)]
    collector.failover.answer = {
        "attempts": [*attempts, attempt("finnhub")], "source": "finnhub", "is_failover": True, **bodies(ARTICLE)
    }  # fmt: skip
    assert collector.collect({}).is_failover
    event = event_of(collector)
    assert (event["error_code"], event["error_message"]) == (code, "m" * 1000)
    assert (event["success"], event["is_failover"], event["source"]) == (True, True, "finnhub")
    assert collector.metrics.value("failovers_total", source="finnhub") == 1


def test_a_collection_that_failed_has_an_event_alerts_and_metrics(collector):
    collector.failover.answer = {
        "attempts": [attempt("tiingo", "timeout", 0, "late")], "error_kind": "all_sources_failed", "source": "",
        "error_message": "nobody answered",
    }  # fmt: skip
    with pytest.raises(AllSourcesFailedError, match="nobody answered"):
        collector.collect({})
    event = event_of(collector)
    assert (event["success"], event["status"], event["source"]) == (False, "failed", "tiingo")
    assert (event["error_code"], event["error_message"], event["alerts"]) == (
        "TIMEOUT", "nobody answered", ["all_sources_down"]
    )  # fmt: skip
    ((topic, key, text),) = collector.store.db.execute("SELECT topic, key, body FROM outbox")
    assert (topic, key) == ("market.alerts", f"{event['event_id']}:all_sources_down")
    assert json.loads(text) == {
        "alert_type": "all_sources_down", "message": "no source gave a usable answer",
        "timestamp": "2026-05-28T20:26:41.500000Z", "collection_event_id": event["event_id"],
    }  # fmt: skip
    assert collector.last_success_us() is None
    shown = collector.metrics.render()
    for line in (
        'collections_total{source="none",status="failed"} 1',
        'alerts_total{type="all_sources_down"} 1',
        'collection_seconds_sum{source="none"} 1.5',
    ):
        assert f"{line}\n" in shown


def test_another_error_than_that_is_raised_and_leaves_no_event(collector):
    collector.failover.answer = {"error_kind": "timeout", "error_message": "cancelled", "source": ""}
    with pytest.raises(TransientError, match="cancelled"):
        collector.collect({})
    assert collector.store.collection_events("market") == []


def test_the_metrics_of_a_collection_have_their_names_and_labels(collector):
    collector.failover.answer = bodies(ARTICLE, ARTICLE, {"bad": 1})
    collector.collect({})
    assert collector.metrics.render().split("# TYPE collection_seconds")[0] == (
        "# TYPE collected_records_total counter\n"
        'collected_records_total{fate="dead_letters",source="tiingo"} 1\n'
        'collected_records_total{fate="duplicates",source="tiingo"} 1\n'
        'collected_records_total{fate="stored",source="tiingo"} 1\n'
        "# TYPE collections_total counter\n"
        'collections_total{source="tiingo",status="success"} 1\n'
    )
    assert 'collection_seconds_sum{source="tiingo"} 1.5\n' in collector.metrics.render()


def test_the_state_of_a_collector_is_kept_and_found_again(collector, clock):
    began = clock.now_us()
    collector.failover.answer = bodies(ARTICLE)
    collector.failover.secondary_since_us = 7
    collector.collect({})
    assert collector.last_success_us() == began
    kept = collector.store.load_state("collector:market")
    assert kept == {
        "format": 1, "breakers": {name: b.snapshot() for name, b in collector.breakers.items()},
        "alerts": collector.alerts.snapshot(), "secondary_since_us": 7, "last_success_us": began,
    }  # fmt: skip
    collector.failover.secondary_since_us = None
    collector.failover.answer = {"error_kind": "all_sources_failed", "source": "", "attempts": []}
    with pytest.raises(AllSourcesFailedError):
        collector.collect({})
    assert collector.failover.secondary_since_us == 7
    assert collector.last_success_us() == began  # a failure is no success
    # Another process knows what was told and how often.
    again = AlertRules(make_tracker(clock), clock)
    successor = Collector(
        collector.intake, collector.adapters, failover=collector.failover, breakers=collector.breakers, alerts=again,
        store=collector.store,
    )  # fmt: skip
    with pytest.raises(AllSourcesFailedError):
        successor.collect({})
    assert event_of(collector)["alerts"] == []  # within the cooldown
    assert again.tracker.count == 2


def test_a_raw_body_is_kept_with_the_facts_of_its_fetch(collector, objects, clock):
    collector.failover.answer = bodies(ARTICLE)
    collector.collect({"tickers": ["AAPL"]})
    body = json.dumps([ARTICLE]).encode()
    digest = hashlib.sha256(body).hexdigest()
    key = f"raw/market/tiingo/{digest[:2]}/{digest}"
    assert objects.get(key) == body
    assert json.loads(objects.get(f"{key}.meta.json")) == {
        "source": "tiingo", "size": len(body), "fetched_us": clock.now_us(), "url": "http://0", "status": 200,
        "headers": {"content-type": "application/json", "date": "today", "retry-after": "1"},
        "context": {"tickers": ["AAPL"]}, "attempt": 1,
    }  # fmt: skip


def test_a_body_that_was_pushed_has_an_event_of_its_own(store, objects, clock):
    intake = Intake(PIPELINE, store, objects, clock)
    taken = intake.accept("tiingo", json.dumps([ARTICLE]).encode())
    assert (taken.taken, taken.stored, len(taken.new_keys)) == (1, 1, 1)
    (event,) = store.collection_events("market")
    uuid.UUID(event.pop("event_id"))
    assert event == {
        "source": "tiingo", "timestamp": "2026-05-28T20:26:40Z", "success": True, "item_count": 1, "new_item_count": 1,
        "duplicate_count": 0, "dead_letter_count": 0, "duration_ms": 0, "is_failover": False, "raw_count": 1,
    }  # fmt: skip


def test_a_bug_in_a_normaliser_is_logged_with_its_keys(store, objects, clock, caplog):
    import dataclasses

    def broken(record, raw):
        raise RuntimeError("secret text")

    intake = Intake(dataclasses.replace(PIPELINE, normalise=broken), store, objects, clock)
    caplog.set_level("ERROR", "headgate.intake")
    taken = intake.take(b'[{"a": 1}]', RawInfo("tiingo", "raw-1", clock.now_us(), {}))
    assert taken.dead_letters == 1
    (record,) = caplog.records
    assert (record.name, record.levelname, record.getMessage()) == ("headgate.intake", "ERROR", "normalise failed")
    assert (record.pipeline, record.source, record.error) == ("market", "tiingo", "RuntimeError")
    assert "secret text" not in str(record.__dict__)
    (letter,) = store.dead_letters()
    expected = {"stage": "intake", "pipeline": "market", "source": "tiingo", "kind": "normalise_failed",
                "reason": "RuntimeError", "doc": '{"a": 1}', "raw_key": "raw-1"}  # fmt: skip
    assert {key: letter[key] for key in expected} == expected


def test_the_sum_of_bodies_is_field_by_field():
    assert Taken(1, 2, 3, 4) + Taken(10, 20, 30, 40) == Taken(11, 22, 33, 44)


# --- freshness


@pytest.mark.parametrize(("is_open", "limit_s"), [(True, 900.0), (False, 3600.0)])
def test_data_is_stale_after_its_limit_and_not_at_it(is_open, limit_s):
    class Hours:
        def is_open(self, at_us):
            return is_open

    limit_us = int(limit_s * SECOND)
    fresh, stale = (check_freshness(1, 1 + age, Hours()) for age in (limit_us, limit_us + 1))
    assert (fresh.is_stale, stale.is_stale, fresh.limit_s, fresh.age_s) == (False, True, limit_s, limit_s)
    said = "last known good: the data is 15 minutes old (limit 15)" if is_open else None
    assert (fresh.warning, stale.warning) == (None, said)
    assert check_freshness(2 * SECOND, SECOND, Hours()).age_s == 0.0  # a clock that went back
    never = check_freshness(None, 0, Hours())
    assert never.warning == ("no collection has succeeded yet" if is_open else None)
    assert never.to_dict() == {
        "market_open": is_open, "age_s": None, "limit_s": limit_s, "is_stale": True, "last_success": None,
        "warning": never.warning,
    }  # fmt: skip
    assert AlwaysOpen().is_open(0) is True
    assert check_freshness(0, SECOND, AlwaysOpen()).last_success == "1970-01-01T00:00:00Z"


# --- the market's metrics (spec 001, section 7)


def collected(**more):
    return {
        "source": "tiingo", "success": True, "duration_ms": 1500, "is_failover": False, "alerts": [], "attempts": [],
        **more,
    }  # fmt: skip


class Result:
    def __init__(self, taken):
        self.taken = taken


TIINGO = {"Source": "tiingo"}


def test_the_metrics_of_a_good_collection():
    both = {**TIINGO, "IsFailover": "false"}
    assert collection_metrics(Result(Taken(5, 2, 1, 2)), collected(), "tiingo") == [
        Metric("CollectionSuccess", 1, "Count", both),
        Metric("CollectionFailure", 0, "Count", TIINGO),
        Metric("CollectionSuccessRate", 100.0, "Percent", {}),
        Metric("CollectionLatencyMs", 1500.0, "Milliseconds", both),
        Metric("ItemsCollected", 5, "Count", TIINGO),
        Metric("ItemsDuplicate", 1, "Count", TIINGO),
        Metric("DuplicateRate", 100 / 3, "Percent", TIINGO),
    ]
    assert collection_metrics(Result(Taken()), collected(), "tiingo")[-1] == Metric(
        "DuplicateRate", 0.0, "Percent", TIINGO
    )
    assert NAMESPACE == "SentimentAnalyzer/Ingestion"


def test_the_metrics_of_a_failed_collection():
    both = {**TIINGO, "IsFailover": "false"}
    assert collection_metrics(None, collected(success=False), "tiingo") == [
        Metric("CollectionSuccess", 0, "Count", both),
        Metric("CollectionFailure", 1, "Count", TIINGO),
        Metric("CollectionSuccessRate", 0.0, "Percent", {}),
        Metric("CollectionLatencyMs", 1500.0, "Milliseconds", both),
    ]


def test_the_metrics_of_a_failover_and_of_the_primary_s_recovery():
    finnhub = {"Source": "finnhub"}
    event = collected(source="finnhub", is_failover=True)
    found = collection_metrics(None, event, "tiingo")
    assert found[0].dimensions == {"Source": "finnhub", "IsFailover": "true"}
    assert found[4:] == [
        Metric("FailoverCount", 1, "Count", finnhub), Metric("FailoverDurationSeconds", 1.5, "Seconds", finnhub)
    ]  # fmt: skip
    tries = [
        {"source": "tiingo", "breaker_before": "half_open", "outcome": outcome} for outcome in ("ok", "timeout", "ok")
    ]
    others = [
        {"source": "tiingo", "breaker_before": "closed", "outcome": "ok"},
        {"source": "finnhub", "breaker_before": "half_open", "outcome": "ok"},
    ]
    assert collection_metrics(None, collected(attempts=others), "tiingo")[4:] == []
    attempted, recovered = (Metric(f"PrimaryRecovery{word}", 1, "Count", TIINGO) for word in ("Attempt", "Success"))
    assert collection_metrics(None, collected(attempts=[*others, *tries[:2]]), "tiingo")[4:] == [attempted]
    assert collection_metrics(None, collected(attempts=tries), "tiingo")[4:] == [attempted, recovered]


@pytest.mark.parametrize(("duration", "above"), [(30_000, "false"), (30_001, "true")])
def test_the_metric_of_a_slow_collection(duration, above):
    event = collected(alerts=["high_latency"], duration_ms=duration)
    expected = Metric("HighLatencyAlert", 1, "Count", {**TIINGO, "ThresholdExceeded": above})
    assert collection_metrics(None, event, "tiingo")[4:] == [expected]


@pytest.mark.parametrize(("latency", "met"), [(NOTIFY_WITHIN_MS, "true"), (30_000.1, "false")])
def test_the_metric_of_a_notification(latency, met):
    assert NOTIFY_WITHIN_MS == 30_000
    assert notification_metric(latency) == Metric("NotificationLatencyMs", latency, "Milliseconds", {"SLAMet": met})


def test_a_collection_in_the_future_is_not_fresh():
    """The clock was ahead once: the data then counted as fresh for as long as the jump."""
    now, ahead = 1_780_000_000_000_000, 86_400_000_000
    found = check_freshness(now + ahead, now, AlwaysOpen())
    assert (found.age_s, found.is_stale) == (None, True)
    assert found.warning.endswith("in the future: the clock was ahead then")
    assert check_freshness(now + 1_000_000, now, AlwaysOpen()).age_s == 0.0  # another host's clock
