"""The classes of `headgate.resilience` as a user meets them: documented, in seconds, with a repr, without a slower call."""

from __future__ import annotations

import inspect
import pickle

import pytest

import headgate._core as core
import headgate.resilience as resilience
from headgate._core import ManualClock, SeededRandom, call_transport
from headgate.errors import ConfigError, InvalidInputError
from headgate.resilience import (
    Bulkhead,
    CircuitBreaker,
    ConsecutiveFailureTracker,
    Failover,
    Guard,
    RateLimiter,
    Request,
    RetryBudget,
    RetryPolicy,
    Source,
    make_breaker,
    make_guard,
)

FACES = (
    "Bulkhead", "CircuitBreaker", "ConsecutiveFailureTracker", "Failover", "Guard", "Permit", "RateLimiter", "Request",
    "RetryBudget", "RetryPolicy", "Source",
)  # fmt: skip


@pytest.mark.parametrize("name", FACES)
def test_a_face_says_what_it_is(name):
    face = getattr(resilience, name)
    assert face.__module__ == "headgate.resilience"
    assert face.__name__ == name
    assert len(face.__doc__) > 200
    assert ">>>" in face.__doc__


@pytest.mark.parametrize("name", resilience.__all__)
def test_every_public_name_is_documented(name):
    assert inspect.getdoc(getattr(resilience, name))


def test_times_are_seconds():
    policy = RetryPolicy(4, base_s=0.5, cap_s=2, total_s=30)
    assert (policy.base_us, policy.cap_us, policy.total_us) == (500_000, 2_000_000, 30_000_000)
    assert (policy.base_s, policy.cap_s, policy.total_s) == (0.5, 2.0, 30.0)
    assert policy.delay_s(1, SeededRandom(1)) == policy.delay_us(1, SeededRandom(1)) / 1e6
    clock = ManualClock()
    breaker = CircuitBreaker(1, window_s=10, recovery_s=2, clock=clock)
    breaker.on_failure()
    clock.advance_us(1_999_999)
    assert breaker.state == "open"
    clock.advance_us(1)
    assert breaker.state == "half_open"
    tracker = ConsecutiveFailureTracker(2, clock=clock, window_s=1)
    tracker.on_failure()
    clock.advance_us(1_100_000)
    assert not tracker.on_failure()


def test_the_defaults_are_those_of_the_functions_that_make_them():
    assert CircuitBreaker().__reduce_ex__(2)[2] == make_breaker().__reduce_ex__(2)[2]
    assert RetryPolicy() == RetryPolicy(3, 200_000, 5_000_000, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RetryPolicy(base_us=1, base_s=1), "base_s: base_us is given too; expected one of them"),
        (lambda: RetryPolicy(base_s="1"), "base_s: got '1'; expected a number of seconds"),
        (lambda: RetryPolicy(cap_s=float("nan")), "cap_s: got nan; expected a number of seconds"),
        (lambda: RetryPolicy(total_s=-1), "total_s: got -1; expected 0 or more"),
        (lambda: CircuitBreaker(recovery_s=True), "recovery_s: got True; expected a number of seconds"),
        (lambda: Bulkhead(1).enter_within(-1), "timeout_s: got -1; expected 0 or more"),
    ],
)
def test_a_time_that_is_none_is_one_sentence(make, message):
    with pytest.raises(InvalidInputError) as caught:
        make()
    assert caught.value.message == message


def test_what_is_missing_is_one_sentence():
    with pytest.raises(ConfigError, match="source feed: breaker is missing; expected a CircuitBreaker"):
        Source("feed", [])
    with pytest.raises(ConfigError, match="failover: transport is missing; expected"):
        Failover(RetryPolicy())


def test_a_repr_shows_the_values_and_no_secret():
    transport = call_transport(lambda *_: None, ManualClock())
    request = Request("https://user:secret@h.example/news?token=secret#secret", [("X-Key", "secret")], body="secret")
    shown = {
        repr(x)
        for x in (
            RetryPolicy(), RetryBudget(), CircuitBreaker(), ConsecutiveFailureTracker(), RateLimiter(2, 3), Bulkhead(4),
            CircuitBreaker().permit(), request, Request("/path", []), Source("feed", [request], breaker=make_breaker()),
        )
    }  # fmt: skip
    assert shown == {
        "RetryPolicy(max_attempts=3, base_s=0.2, cap_s=5, total_s=0)", "RetryBudget(tokens=500)",
        "CircuitBreaker(state='closed')", "ConsecutiveFailureTracker(count=0)", "RateLimiter(rate=2, burst=3)",
        "Bulkhead(limit=4, inside=0)", "Permit(is_settled=False)", "Request('GET', 'https://h.example/news')",
        "Request('GET', '/path')", "Source('feed')",
    }  # fmt: skip
    for opaque in (make_guard(), Failover(RetryPolicy(), transport=transport)):
        assert repr(opaque).startswith(f"<{type(opaque).__name__} at 0x")


def test_values_are_pickled_as_what_they_are():
    values = (
        RetryPolicy(7, base_s=1), RetryBudget(10, 2), CircuitBreaker(2), RateLimiter(2, 3), Bulkhead(4),
        Request("https://h.example/?a=b", [("X-Key", "v")], "POST", "body"),
    )  # fmt: skip
    for value in values:
        copy = pickle.loads(pickle.dumps(value))
        assert type(copy) is type(value)
        assert repr(copy) == repr(value)
    assert pickle.loads(pickle.dumps(values[0])) == values[0]
    assert values[0] != RetryPolicy(8, base_s=1)
    assert len({RetryPolicy(7), RetryPolicy(7), RetryPolicy(8)}) == 2
    copy = pickle.loads(pickle.dumps(values[-1]))
    assert copy.__getstate__() == values[-1].__getstate__()


@pytest.mark.parametrize(
    ("face", "methods"),
    [
        (CircuitBreaker, "allow enter permit on_success on_failure on_abandoned on_round"),
        (ConsecutiveFailureTracker, "on_failure on_success"),
        (RetryBudget, "take refund"),
        (RateLimiter, "try_acquire acquire"),
        (Bulkhead, "enter leave"),
        (Guard, "__call__"),
        (Failover, "fetch"),
    ],
)
def test_no_python_frame_is_on_the_way_of_a_call(face, methods):
    """A face is the core's class: what a call goes through is native, and no base has to be looked up."""
    assert face is getattr(core, face.__name__)
    for name in methods.split():
        assert not inspect.isfunction(getattr(face, name))
