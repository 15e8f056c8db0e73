"""Retry-After in every form that RFC 9110 has, and in those that servers send instead; what is asked again, and when."""

from __future__ import annotations

import math

import pytest

from headgate._core import ManualClock, SeededRandom, call_transport, retry_wait_s
from headgate.resilience import Failover, Request, RetryBudget, RetryPolicy, Source, make_breaker

SECOND = 1_000_000
NOW = "Sun, 06 Nov 1994 08:49:37 GMT"
NOW_S = 784_111_777


@pytest.fixture
def clock():
    return ManualClock(NOW_S * SECOND)


def wait(clock, *values, status=429, date=None):
    headers = [("retry-after", v) for v in values] + ([("date", date)] if date else [])
    return retry_wait_s(status, headers, clock)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120), (" 120 ", 120), ("0", 0), ("Sun, 06 Nov 1994 08:51:37 GMT", 120),
        ("Sunday, 06-Nov-94 08:51:37 GMT", 120), ("Sun Nov  6 08:51:37 1994", 120), ("Sun Nov 16 08:49:37 1994", 864_000),
        ("Sun, 06 Nov 1994 08:51:37 +0000", 120), ("Sun, 06 Nov 1994 09:51:37 +0100", 120),
        ("Sun, 06 Nov 1994 08:51:37 UTC", 120), ("Sun, 6 Nov 1994 08:51:37 GMT", 120), ("06 Nov 1994 08:51:37 GMT", 120),
        ("Sun, 06 Nov 1994 08:51:37", 120), ("1994-11-06T08:51:37Z", 120), ("1994-11-06T09:51:37+01:00", 120),
        (str(NOW_S + 120 + 1_000_000_000), 1_000_000_120), ("120.5", 120.5), ("0.0000001", 1e-6), ("120s", 120),
        ("120, 60", 120), ('"120"', 120), ("99999999999999999999", 3_162_240_000),
        ("Sun, 06 Nov 1994 08:00:00 GMT", 0), ("Friday, 31-Dec-99 23:59:59 GMT", 162_573_022),
        ("Sunday, 06-Nov-60 08:49:37 GMT", 0),
    ],
)  # fmt: skip
def test_what_it_asks_for(clock, value, seconds):
    assert wait(clock, value) == pytest.approx(seconds, abs=1e-6)


def test_milliseconds_since_1970_are_a_time():
    clock = ManualClock(1_780_000_000 * SECOND)
    assert wait(clock, str(1_780_000_060)) == 60
    assert wait(clock, str(1_780_000_060_000)) == 60


@pytest.mark.parametrize(
    "value", ["soon", "-1", "1e3", "12:00", "Sun, 99 Nov 1994 08:51:37 GMT", "0x10", "1 hour", ","]
)
def test_what_cannot_be_read_is_longer_than_anybody_waits(clock, value):
    assert wait(clock, value) == math.inf
    assert wait(clock, value, status=503) == math.inf


def test_the_longest_of_several_counts_and_dates_count_from_the_servers_own(clock):
    assert wait(clock, "5", "60") == 60
    assert wait(clock, "Sun, 06 Nov 1994 10:00:10 GMT", date="Sun, 06 Nov 1994 10:00:00 GMT") == 10


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (429, [], None), (429, [("retry-after", "")], None), (429, [("retry-after", "1")], 1), (503, [], 0),
        (500, [], 0), (502, [], 0), (504, [], 0), (403, [("retry-after", "1")], None), (404, [], None), (501, [], None),
    ],
)  # fmt: skip
def test_what_is_asked_again(clock, status, headers, expected):
    assert retry_wait_s(status, headers, clock) == expected


@pytest.mark.parametrize(
    "value", ["3600", "Sunday, 06-Nov-94 09:49:37 GMT", "Sun Nov  6 09:49:37 1994", "3600.5", "soon"]
)
def test_a_wait_that_does_not_fit_is_one_request(clock, value):
    sent = []

    def answer(requests, timeout_us):
        sent.extend(requests)
        return [(i, {"status": 429, "body": b"{}", "headers": [("retry-after", value)]}) for i in range(len(requests))]

    failover = Failover(
        RetryPolicy(3), 0, 8, call_transport(answer, clock), clock, SeededRandom(1), RetryBudget(), 0, 0
    )
    source = Source("s", [Request("http://s/", [])], 10 * SECOND, make_breaker(clock))
    assert failover.fetch([source], lambda *a: "k", None)["error_kind"] == "all_sources_failed"
    assert len(sent) == 1
