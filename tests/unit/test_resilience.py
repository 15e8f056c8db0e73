"""Guards, calls with deadlines, hedging, failover of callables, and breakers that nodes share."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from headgate._core import ManualClock, SeededRandom
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.errors import AllSourcesFailedError, InvalidInputError, Kind, TransientError
from headgate.resilience import (
    BreakerDefaults,
    Call,
    CallFailover,
    CircuitBreakerManager,
    RetryBudget,
    RetryPolicy,
    abandoned_calls,
    hedged,
    make_breaker,
    make_bulkhead,
    make_guard,
    make_rate_limiter,
    run_with_deadline,
)

SECOND = 1_000_000


@pytest.fixture
def clock():
    return ManualClock(1_780_000_000 * SECOND)


class Flaky:
    """Fails so many times, then answers."""

    def __init__(self, failures, error=None):
        self.failures, self.error, self.calls = failures, error or ConnectionError("down"), 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return args, kwargs


# --- guard


def test_a_guard_retries_with_jitter_and_passes_the_arguments(clock):
    guard = make_guard(retry=RetryPolicy(3, 200_000, 5_000_000), clock=clock, random=SeededRandom(1))
    flaky = Flaky(2)
    before = clock.now_us()
    assert guard(flaky, 1, two=2) == ((1,), {"two": 2})
    assert flaky.calls == 3
    assert 0 < clock.now_us() - before < 600_000


def test_a_guard_gives_the_last_error_as_it_is(clock):
    guard = make_guard(retry=RetryPolicy(3), clock=clock)
    flaky = Flaky(9)
    with pytest.raises(ConnectionError, match="down"):
        guard(flaky)
    assert flaky.calls == 3


def test_errors_that_say_nothing_of_the_callee_are_not_retried_and_open_nothing(clock):
    breaker = make_breaker(clock)
    flaky = Flaky(99, ValueError("bad argument"))
    guard = make_guard(breaker=breaker, retry=RetryPolicy(5), clock=clock)
    for _ in range(20):
        with pytest.raises(ValueError, match="bad argument"):
            guard(flaky)
    assert (flaky.calls, breaker.state) == (20, "closed")


def test_an_open_breaker_refuses_without_a_call(clock):
    breaker = make_breaker(clock)
    guard = make_guard(breaker=breaker, retry=RetryPolicy(10), clock=clock)
    flaky = Flaky(99)
    with pytest.raises(ConnectionError):
        guard(flaky)
    assert flaky.calls == 5  # the fifth failure opened it, and no retry went through it
    with pytest.raises(TransientError) as caught:
        guard(flaky)
    assert (caught.value.kind, flaky.calls) == (Kind.CIRCUIT_OPEN, 5)
    clock.advance_us(60 * SECOND)
    assert guard(divmod, 7, 2) == (3, 1)
    assert breaker.state == "closed"


def test_nested_guards_do_not_multiply_their_retries(clock):
    budget = RetryBudget(10, 5, 1)
    inner = make_guard(retry=RetryPolicy(10), budget=budget, clock=clock)
    outer = make_guard(retry=RetryPolicy(10), budget=budget, clock=clock)
    flaky = Flaky(10**6)
    with pytest.raises(ConnectionError):
        outer(inner, flaky)
    assert flaky.calls == 3  # the first and the two retries that all layers have together


def test_a_guard_holds_rate_and_concurrency(clock):
    guard = make_guard(rate_limiter=make_rate_limiter(1, 2, clock), clock=clock)
    assert [guard(int, "1") for _ in range(2)] == [1, 1]
    with pytest.raises(TransientError, match="rate limit") as caught:
        guard(int, "1")
    assert caught.value.kind is Kind.UNAVAILABLE
    bulkhead = make_bulkhead(1)
    guard = make_guard(bulkhead=bulkhead, breaker=make_breaker(clock))
    with pytest.raises(TransientError, match="bulkhead is full") as caught:
        guard(guard, int, "1")  # the outer call is inside
    assert caught.value.kind is Kind.BUSY
    assert (bulkhead.inside, guard(int, "2")) == (0, 2)


def test_a_guard_wants_a_callable():
    with pytest.raises(TypeError, match="callable"):
        make_guard()()
    with pytest.raises(InvalidInputError):
        make_rate_limiter(0)


# --- deadlines and hedging


def none_abandoned():
    for _ in range(1000):
        if abandoned_calls() == 0:
            return True
        threading.Event().wait(0.01)
    return False


def test_a_call_that_hangs_is_abandoned_and_said_so():
    assert none_abandoned()  # by the tests before
    go = threading.Event()
    with pytest.raises(
        TransientError, match=r"slow: no answer within 0.05 s; the call was abandoned and may still be"
    ) as e:
        run_with_deadline(lambda: go.wait(30), 0.05, "slow")
    assert e.value.kind is Kind.TIMEOUT
    assert abandoned_calls() == 1
    go.set()
    assert none_abandoned()


def test_errors_come_out_as_they_are():
    with pytest.raises(ZeroDivisionError):
        run_with_deadline(lambda: 1 // 0, 5)
    with pytest.raises(KeyboardInterrupt):
        run_with_deadline(lambda: (_ for _ in ()).throw(KeyboardInterrupt), 5)


def test_many_calls_at_once_share_the_threads():
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda i: run_with_deadline(lambda: i * i, 30), range(500))) == [
            i * i for i in range(500)
        ]


def test_a_hanging_call_does_not_keep_the_process():
    code = (
        "import threading; from headgate.resilience import run_with_deadline\n"
        "try: run_with_deadline(threading.Event().wait, 0.05)\n"
        "except Exception as e: print(e.kind.value)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout.strip()) == (0, "timeout"), done.stderr


def test_the_twin_of_a_slow_call_answers():
    go = threading.Event()
    calls = []

    def sometimes():
        calls.append(1)
        if len(calls) == 1:
            go.wait(30)
        return len(calls)

    assert hedged(sometimes, after_s=0.02, timeout_s=10) == 2
    go.set()
    assert hedged(lambda: "at once", after_s=10, timeout_s=10) == "at once"
    with pytest.raises(ZeroDivisionError):
        hedged(lambda: 1 // 0, after_s=0.0, timeout_s=10)
    stop = threading.Event()
    with pytest.raises(TransientError, match="abandoned"):
        hedged(lambda: stop.wait(30), after_s=0.01, timeout_s=0.05)
    stop.set()


# --- failover of callables


def test_the_first_that_answers(clock):
    a, b, c = Flaky(9), Flaky(0), Flaky(0)
    result = CallFailover([Call("a", a), Call("b", b), Call("c", c)], clock=clock)("x")
    assert (result.data, result.source_used, result.is_failover) == ((("x",), {}), "b", True)
    assert result.primary_error == "ConnectionError"  # not its text: it may quote a secret
    assert [(t.source, t.attempt, t.outcome) for t in result.attempts] == [("a", 1, "ConnectionError"), ("b", 1, "ok")]
    assert c.calls == 0
    result = CallFailover([Call("b", b)], clock=clock)()
    assert (result.is_failover, result.primary_error) == (False, None)


def test_all_causes_are_named_and_none_is_quoted(clock):
    open_breaker = make_breaker(clock, BreakerDefaults(failure_threshold=1))
    open_breaker.on_failure()
    calls = [
        Call("a", Flaky(9, RuntimeError("token=sesame"))), Call("b", Flaky(9, TransientError("away"))),
        Call("c", Flaky(0), breaker=open_breaker),
    ]  # fmt: skip
    with pytest.raises(AllSourcesFailedError) as caught:
        CallFailover(calls, clock=clock)()
    text = "every source failed: a RuntimeError; b unavailable (away); c circuit_open (not called: the circuit breaker is open)"
    assert str(caught.value) == text
    with pytest.raises(AllSourcesFailedError, match="there is none"):
        CallFailover([])()


def test_retries_stay_within_the_sources_time(clock):
    flaky = Flaky(2)
    failover = CallFailover([Call("a", flaky)], retry=RetryPolicy(3), clock=clock, random=SeededRandom(2))
    assert failover().attempts[-1].attempt == 3
    slow = Flaky(99)

    def takes_four_seconds():
        clock.advance_us(4 * SECOND)
        slow()

    second = Flaky(0)
    failover = CallFailover(
        [Call("a", takes_four_seconds, 10.0), Call("b", second)], retry=RetryPolicy(10, 1, 1), clock=clock
    )
    result = failover()
    assert (result.source_used, slow.calls) == ("b", 3)


def test_the_total_time_holds_for_all(clock):
    def takes_seven_seconds():
        clock.advance_us(7 * SECOND)
        raise ConnectionError

    calls = [Call(name, takes_seven_seconds) for name in "abc"]
    with pytest.raises(AllSourcesFailedError, match="c timeout \\(not called: the time for all sources is used up"):
        CallFailover(calls, total_s=12, clock=clock)()


def test_async_calls_are_cancelled_at_their_deadline():
    cancelled = []

    async def hangs():
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    async def answers():
        return "b"

    async def main():
        failover = CallFailover([Call("a", hangs, 0.05), Call("b", answers)])
        result = await failover.acall()
        assert (result.data, result.is_failover, cancelled) == ("b", True, [1])
        go = threading.Event()
        failover = CallFailover([Call("a", lambda: go.wait(30), 0.05), Call("b", lambda: "sync")])
        assert (await failover.acall()).data == "sync"
        go.set()
        with pytest.raises(AllSourcesFailedError):
            await CallFailover([Call("a", Flaky(9))], retry=RetryPolicy(2, 1, 1)).acall()

    asyncio.run(main())


# --- breakers that nodes share


@pytest.fixture
def store(tmp_path, clock):
    return LocalStore(LocalDatabase(os.fspath(tmp_path / "h.db")), clock)


def fail(manager, times=5):
    for _ in range(times):
        manager.allow("s")
        manager.failure("s")


def test_a_breaker_survives_a_restart(store, clock):
    fail(CircuitBreakerManager(store, clock, node="n1"), 4)
    again = CircuitBreakerManager(store, clock, node="n1")
    assert again.state("s") == "closed"
    fail(again, 1)
    assert again.state("s") == "open"
    assert CircuitBreakerManager(store, clock, node="n1").allow("s") is False


def test_one_bad_node_cannot_open_it_for_all_but_two_can(store, clock):
    nodes = [CircuitBreakerManager(store, clock, node=f"n{i}", refresh_s=0) for i in range(3)]
    fail(nodes[0])
    assert [n.allow("s") for n in nodes] == [False, True, True]
    nodes[1].success("s")
    nodes[2].success("s")
    fail(nodes[1])
    assert [n.allow("s") for n in nodes] == [False, False, False]
    assert nodes[2].state("s") == "open"


def test_one_probe_goes_out_of_all_nodes_together(store, clock):
    nodes = [CircuitBreakerManager(store, clock, node=f"n{i}", refresh_s=0) for i in range(3)]
    fail(nodes[0])
    fail(nodes[1])
    clock.advance_us(60 * SECOND)
    allowed = [n.allow("s") for n in nodes]
    assert sum(allowed[:2]) == 1  # of those that had opened
    nodes[allowed.index(True)].success("s")
    assert [n.allow("s") for n in nodes[2:]] == [True]
    late = CircuitBreakerManager(store, clock, node="n9")
    assert late.allow("s") is True


def test_a_failed_probe_keeps_the_others_out(store, clock):
    nodes = [CircuitBreakerManager(store, clock, node=f"n{i}", refresh_s=0) for i in range(2)]
    fail(nodes[0])
    fail(nodes[1])
    clock.advance_us(60 * SECOND)
    assert nodes[0].allow("s") is True
    assert nodes[1].allow("s") is False
    nodes[0].failure("s")
    assert nodes[0].allow("s") is False
    assert nodes[1].allow("s") is True  # its own turn: n1's recovery time is over, and no probe is out
    nodes[1].abandoned("s")


def test_another_nodes_news_leave_a_probe_alone(store, clock):
    nodes = [CircuitBreakerManager(store, clock, node=f"n{i}", refresh_s=0) for i in range(3)]
    fail(nodes[0])
    fail(nodes[1])
    clock.advance_us(60 * SECOND)
    assert nodes[0].allow("s") is True
    nodes[2].publish("s")  # as a collection does after each run
    assert nodes[1].allow("s") is False


def test_a_lost_store_means_a_local_decision(clock):
    class Lost:
        def load_state(self, name):
            raise TransientError("away")

        def swap_state(self, name, before, doc):
            raise TransientError("away")

    manager = CircuitBreakerManager(Lost(), clock)
    assert manager.allow("s") is True
    fail(manager)
    assert manager.allow("s") is False
    clock.advance_us(60 * SECOND)
    assert manager.allow("s") is True
    assert manager.allow("s") is False  # one probe, here
    manager.success("s")
    assert manager.states() == {"s": "closed"}
    assert manager.store_failures > 0


def test_processes_of_one_node_add_their_failures_up(store, clock):
    a, b = (CircuitBreakerManager(store, clock, node="n1", refresh_s=0) for _ in range(2))
    for manager in (a, b, a, b, a):
        manager.allow("s")
        clock.advance_us(1)
        manager.failure("s")
    assert a.state("s") == "open"
    assert b.allow("s") is False


def test_writers_that_race_lose_nothing(store, clock):
    def work(i):
        manager = CircuitBreakerManager(store, clock, node=f"n{i}", refresh_s=0)
        fail(manager)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))
    doc = store.load_state("breaker:s")
    assert sorted(doc["nodes"]) == [f"n{i}" for i in range(6)]
    assert all(len(v["snapshot"]["failures_us"]) == 5 for v in doc["nodes"].values())
