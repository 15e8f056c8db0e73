"""Arguments of policies that are none: refused where they are given, by name, in one sentence; and shared state that
cannot be read."""

from __future__ import annotations

import asyncio
import datetime as dt
import math
import threading

import pytest

from headgate._core import ManualClock
from headgate.errors import InvalidInputError, TransientError
from headgate.resilience import (
    BreakerDefaults,
    Call,
    CallFailover,
    CircuitBreakerManager,
    RetryPolicy,
    ahedged,
    guarded,
    hedged,
    make_breaker,
    make_bulkhead,
    make_guard,
    make_rate_limiter,
    make_tracker,
    no_retries,
    run_with_deadline,
)


def answer():
    return 1


async def awaited():
    return 1


def generate():
    yield 1


NO_SECONDS = [None, "1", math.nan, math.inf, True, 1e300]


@pytest.mark.parametrize("seconds", NO_SECONDS)
def test_what_is_no_time_is_refused_by_its_name(seconds):
    for name, call in {
        "timeout_s": lambda: run_with_deadline(answer, seconds),
        "after_s": lambda: hedged(answer, after_s=seconds, timeout_s=1),
        "total_s": lambda: CallFailover([Call("a", answer)], total_s=math.nan if seconds is None else seconds),
        "a: timeout_s": lambda: CallFailover([Call("a", answer, timeout_s=seconds)]),
        "refresh_s": lambda: CircuitBreakerManager(refresh_s=seconds),
        "window_s": lambda: make_tracker(window_s=seconds),
        "recovery_s": lambda: make_breaker(options=BreakerDefaults(recovery_s=seconds)),
    }.items():
        with pytest.raises(InvalidInputError, match=f"{name}: got .* expected a number of seconds"):
            call()

    async def hedge():
        await ahedged(awaited, after_s=1, timeout_s=seconds)

    with pytest.raises(InvalidInputError, match="timeout_s: got"):
        asyncio.run(hedge())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_bulkhead("1"), "limit: got '1'; expected a whole number"),
        (lambda: make_rate_limiter("1"), "rate: got '1'; expected int or float"),
        (lambda: make_rate_limiter(1, 1.5), "burst: got 1.5"),
        (lambda: make_tracker(threshold=None), "threshold: got None"),
        (lambda: make_breaker(options={"failure_threshold": 1}), "options: got .* expected BreakerDefaults"),
        (lambda: make_breaker(options=BreakerDefaults(failure_threshold="3")), "failure_threshold: got '3'"),
        (lambda: make_breaker(options=BreakerDefaults(failure_rate="x")), "failure_rate: got 'x'"),
        (lambda: CircuitBreakerManager(named={"feed": {"window_s": 1}}), "feed: got .* expected BreakerDefaults"),
        (lambda: CircuitBreakerManager(quorum=0), "quorum: got 0"),
        (lambda: make_guard(retry=3), "retry: got 3; expected RetryPolicy"),
        (lambda: make_guard(breaker="feed"), "breaker: got 'feed'; expected CircuitBreaker"),
        (lambda: make_guard(wait=3), "wait: got 3; expected a function"),
        (lambda: CallFailover([Call("a", 3)]), "a: got 3; expected a function"),
        (lambda: CallFailover([Call(3, answer)]), "a call's name: got 3"),
        (lambda: CallFailover([answer]), "calls: got .* expected Call"),
        (lambda: CallFailover([Call("a", generate)]), "a: it is a generator function"),
        (lambda: hedged(generate, after_s=1, timeout_s=1), "it is a generator function"),
        (lambda: run_with_deadline(3, 1), "call: got 3; expected a function"),
        (lambda: asyncio.run(ahedged(answer, after_s=1, timeout_s=1)), "gave no awaitable; .* use hedged"),
        (lambda: guarded(retries=3), "retries is no option"),
        (lambda: guarded(guard=make_guard(), retry=RetryPolicy(3)), "got guard and retry"),
        (lambda: no_retries("1").__enter__(), "attempts: got '1'"),
        (lambda: make_breaker().restore({}), "snapshot has no state"),
        (lambda: make_breaker().restore({**make_breaker().snapshot(), "state": "opn"}), "expected closed, open or"),
    ],
)
def test_an_argument_that_is_none_is_refused_by_its_name(call, message):
    with pytest.raises(InvalidInputError, match=message):
        call()


def test_a_time_that_is_over_is_a_timeout_not_a_mistake():
    ended = threading.Event()
    try:
        with pytest.raises(TransientError, match="no answer within -1 s"):
            run_with_deadline(ended.wait, -1)
    finally:
        ended.set()


def test_static_and_class_methods_are_guarded_too():
    class Client:
        @guarded
        @staticmethod
        def plain(n):
            return n

        @guarded
        @classmethod
        def made(cls, n):
            return cls, n

    assert Client.plain(1) == Client().plain(1) == 1
    assert Client.made(1) == Client().made(1) == (Client, 1)


@pytest.mark.parametrize(
    ("asked", "calls", "waited_us"),
    [
        (2, 3, 4_000_000),
        (dt.timedelta(seconds=2), 3, 4_000_000),  # it was taken for none at all
        ("2", 1, 0),  # what cannot be read is longer than anybody waits
        (math.inf, 1, 0),
        (10**400, 1, 0),
        (None, 3, 0),
    ],
    ids=["number", "timedelta", "text", "never", "huge", "none"],
)
def test_what_an_exception_says_of_the_next_try(asked, calls, waited_us):
    clock, made = ManualClock(0), []

    def fail():
        made.append(1)
        error = OSError("busy")
        error.retry_after_s = asked
        raise error

    with pytest.raises(OSError, match="busy"):
        make_guard(retry=RetryPolicy(3, 0, 0), clock=clock)(fail)
    assert (len(made), clock.mono_us()) == (calls, waited_us)


def test_a_back_off_that_is_none_is_refused():
    def fail():
        raise OSError("busy")

    with pytest.raises(InvalidInputError, match="wait: it gave str; expected seconds"):
        make_guard(retry=RetryPolicy(3), wait=lambda error, attempt: "5", clock=ManualClock(0))(fail)


# --- shared state


class Memory:
    def __init__(self, doc):
        self.doc = doc

    def load_state(self, name):
        return self.doc

    def swap_state(self, name, before, after):
        self.doc = after
        return True


GOOD = {"format": 1, "nodes": {}, "probe": None, "cleared_us": 0}
SNAPSHOT = {"state": "open", "opened_at_us": 5, "failed_rounds": 0, "failures_us": []}


@pytest.mark.parametrize(
    "doc",
    [
        {},
        [],
        "x",
        {**GOOD, "format": 2},
        {**GOOD, "nodes": None},
        {**GOOD, "nodes": {"n": {}}},
        {**GOOD, "nodes": {"n": {"at_us": "x", "snapshot": SNAPSHOT}}},
        {**GOOD, "nodes": {"n": {"at_us": 1, "snapshot": {**SNAPSHOT, "opened_at_us": None}}}},
        {**GOOD, "nodes": {"n": {"at_us": 1, "snapshot": {**SNAPSHOT, "state": "opn"}}}},
        {**GOOD, "probe": {"until_us": "x"}},
        {**GOOD, "cleared_us": "x"},
    ],
)
def test_shared_state_that_cannot_be_read_is_a_lost_store_and_stays_as_it_is(doc):
    store = Memory(doc)
    clock = ManualClock(10**15)
    manager = CircuitBreakerManager(store, clock, options=BreakerDefaults(failure_threshold=2), refresh_s=0)
    for _ in range(2):
        assert manager.allow("feed")
        manager.failure("feed")
    assert (manager.allow("feed"), manager.state("feed")) == (False, "open")  # a decision of its own
    assert manager.store_failures > 0
    assert store.doc is doc
