"""What a breaker, a guard and a failover promise as values: permits that give themselves back, awaitables that are
awaited, times that are not believed, and what tenacity, stamina and pybreaker users expect."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import math
import pickle
import signal
import threading
from datetime import timedelta

import pytest

from headgate._core import ManualClock, SeededRandom, SystemClock, call_transport
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.errors import InvalidInputError, Kind, TransientError
from headgate.resilience import (
    BreakerDefaults,
    Call,
    CallFailover,
    CircuitBreakerManager,
    Failover,
    RetryBudget,
    RetryPolicy,
    Source,
    abandoned_calls,
    ahedged,
    calling,
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

SECOND = 1_000_000
DAY = 86_400 * SECOND
FAST = RetryPolicy(3, 1, 1)


@pytest.fixture
def clock():
    return ManualClock(1_780_000_000 * SECOND)


@pytest.fixture
def store(tmp_path, clock):
    return LocalStore(LocalDatabase(str(tmp_path / "h.db")), clock)


class Down:
    """Fails always, and counts."""

    def __init__(self, error=None):
        self.calls, self.error = 0, error or OSError("down")

    def __call__(self, *_):
        self.calls += 1
        raise self.error


# --- permits


@pytest.mark.parametrize("wait_at", ["limiter", "bulkhead"])
def test_a_probe_that_a_signal_ends_while_it_waits_gives_its_permit_back(wait_at):
    class StoppedError(Exception):
        pass

    def stop(*_):
        raise StoppedError

    breaker = make_breaker(options=BreakerDefaults(failure_threshold=1, recovery_s=0.0))
    breaker.on_failure()
    limiter, bulkhead = make_rate_limiter(0.001), make_bulkhead(1)
    limiter.try_acquire()
    bulkhead.enter()
    part = {"rate_limiter": limiter} if wait_at == "limiter" else {"bulkhead": bulkhead}
    guard = make_guard(breaker=breaker, wait_s=3600.0, **part)
    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(StoppedError):
            guard(int, "1")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert breaker.allow()  # the next probe may go out


def test_a_permit_that_is_dropped_is_given_back(clock):
    breaker = make_breaker(clock, BreakerDefaults(failure_threshold=1))
    breaker.on_failure()
    clock.advance_us(60 * SECOND)
    permit = breaker.permit()
    with pytest.raises(TransientError) as caught:
        breaker.permit()
    assert caught.value.kind is Kind.CIRCUIT_OPEN
    del permit
    breaker.permit().succeeded()
    assert breaker.state == "closed"


@pytest.mark.parametrize("way", ["deadline", "hedged"])
def test_a_call_that_a_signal_leaves_behind_is_counted_as_abandoned(way):
    class StoppedError(Exception):
        pass

    def stop(*_):
        raise StoppedError

    go = threading.Event()
    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(StoppedError):
            run_with_deadline(go.wait, 60) if way == "deadline" else hedged(go.wait, after_s=60, timeout_s=90)
        assert abandoned_calls() == 1
    finally:
        signal.signal(signal.SIGALRM, before)
        go.set()
    for _ in range(1000):
        if abandoned_calls() == 0:
            break
        threading.Event().wait(0.01)
    assert abandoned_calls() == 0


def test_a_late_outcome_closes_nothing(clock):
    breaker = make_breaker(clock, BreakerDefaults(failure_threshold=1))
    late = breaker.permit()
    breaker.on_failure()
    clock.advance_us(60 * SECOND)
    probe = breaker.permit()
    late.succeeded()
    assert breaker.state == "half_open"
    probe.failed()
    assert breaker.state == "open"


def test_a_late_outcome_of_a_shared_breaker_closes_nothing(store, clock):
    manager = CircuitBreakerManager(store, clock, node="a")
    handle = manager.handle("feed")
    late = handle.enter()
    for _ in range(5):
        handle.on_failure(0, handle.enter())
    clock.advance_us(60 * SECOND)
    probe = handle.enter()
    handle.on_success(0, late)
    assert (manager.state("feed"), probe > 0) == ("half_open", True)
    handle.on_success(0, probe)
    assert manager.state("feed") == "closed"


def test_a_block_of_code_is_a_call_of_the_breaker(clock):
    breaker = make_breaker(clock, BreakerDefaults(failure_threshold=2))
    for _ in range(3):
        with pytest.raises(ValueError, match="ours"), calling(breaker):
            raise ValueError("ours")
    for _ in range(2):
        with pytest.raises(OSError, match="theirs"), calling(breaker):
            raise OSError("theirs")
    with pytest.raises(TransientError, match="open"), calling(breaker):
        pytest.fail("the block was entered")


# --- times that are not to be believed


def test_an_opening_in_the_future_lets_one_probe_out(clock):
    breaker = make_breaker(clock)
    snapshot = {"state": "open", "opened_at_us": clock.now_us() + DAY, "failed_rounds": 0, "failures_us": []}
    breaker.restore(snapshot)
    assert breaker.state == "half_open"
    assert (breaker.allow(), breaker.allow()) == (True, False)
    breaker.on_success()
    assert breaker.state == "closed"


def test_failures_in_the_future_count_for_nothing(clock):
    breaker, tracker = make_breaker(clock), make_tracker(clock)
    ahead = [clock.now_us() + DAY + n for n in range(4)]
    breaker.restore({"state": "closed", "opened_at_us": 0, "failed_rounds": 0, "failures_us": ahead})
    breaker.on_failure()
    assert breaker.state == "closed"
    tracker.restore({"failures_us": ahead[:2], "alerted": False})
    assert (tracker.count, tracker.on_failure()) == (0, False)


def test_a_probe_that_was_taken_in_the_future_is_free(store, clock):
    a, b = (CircuitBreakerManager(store, clock, node=node, refresh_s=0) for node in "ab")
    for _ in range(5):
        a.allow("feed")
        a.failure("feed")
    doc = store.load_state("breaker:feed")
    store.save_state(
        "breaker:feed", {**doc, "probe": {"node": "x", "owner": "x", "until_us": clock.now_us() + 2 * DAY}}
    )
    clock.advance_us(61 * SECOND)
    assert a.allow("feed")
    assert b.state("feed") == "closed"


# --- one probe, and no lost failure, of several processes


def test_one_probe_goes_out_of_all_processes_of_a_host(store, clock):
    workers = [CircuitBreakerManager(store, clock, node="host", refresh_s=0) for _ in range(8)]
    for _ in range(5):
        workers[0].allow("feed")
        workers[0].failure("feed")
    for worker in workers:
        worker.refresh("feed")
    clock.advance_us(61 * SECOND)
    allowed = [worker for worker in workers if worker.allow("feed")]
    assert len(allowed) == 1
    allowed[0].success("feed")
    for worker in workers:
        worker.refresh("feed")
    assert {worker.state("feed") for worker in workers} == {"closed"}


def test_a_probe_that_never_went_out_is_anothers_to_send(store, clock):
    a, b = (CircuitBreakerManager(store, clock, node="host", refresh_s=0) for _ in range(2))
    for _ in range(5):
        a.allow("feed")
        a.failure("feed")
    b.refresh("feed")
    clock.advance_us(61 * SECOND)
    assert (a.allow("feed"), b.allow("feed")) == (True, False)
    a.abandoned("feed")
    assert b.allow("feed")


def test_an_opening_that_a_probe_has_ended_is_not_told_again(store, clock):
    a, b = (CircuitBreakerManager(store, clock, node="host", refresh_s=0) for _ in range(2))
    for _ in range(5):
        a.allow("feed")
        a.failure("feed")
    b.refresh("feed")
    clock.advance_us(61 * SECOND)
    assert (a.adopt("feed"), b.adopt("feed")) == (True, False)
    a.breaker("feed").allow()
    a.breaker("feed").on_success()
    a.publish("feed", cleared=True)
    b.publish("feed")  # it has seen the opening only
    assert (a.state("feed"), b.state("feed")) == ("closed", "closed")
    assert CircuitBreakerManager(store, clock, node="host").state("feed") == "closed"


def test_failed_rounds_of_several_processes_add_up(store, clock):
    workers = [CircuitBreakerManager(store, clock, node="host") for _ in range(3)]
    for worker in workers:
        worker.breaker("feed").on_round(ok=False)  # at the same time: none has seen the others'
    for worker in workers:
        worker.publish("feed")
    assert workers[-1].state("feed") == "open"


def test_failures_of_several_processes_open_it_together(store, clock):
    workers = [CircuitBreakerManager(store, clock, node="host") for _ in range(5)]
    for n, worker in enumerate(workers):
        worker.breaker("feed")
        clock.advance_us(n + 1)
        worker.breaker("feed").on_failure()
    for worker in workers:
        worker.publish("feed")
    assert workers[-1].state("feed") == "open"


# --- what is awaitable


class AsyncClient:
    async def __call__(self, *_):
        raise OSError("down")


async def failing(*_):
    raise OSError("down")


ASYNC = {
    "async def": failing, "lambda": lambda *a: failing(*a),  # noqa: PLW0108
    "object": AsyncClient(),
    "partial": functools.partial(AsyncClient()), "method": AsyncClient().__call__,
}  # fmt: skip


@pytest.mark.parametrize("name", ASYNC)
def test_a_failover_awaits_what_is_awaitable(name):
    async def second(q):
        return q * 2

    result = asyncio.run(CallFailover([Call("first", ASYNC[name]), Call("second", second)]).acall(21))
    assert (result.data, result.source_used) == (42, "second")


@pytest.mark.parametrize("name", ASYNC)
def test_a_guard_awaits_what_is_awaitable(name):
    breaker, calls = make_breaker(), []
    guard = make_guard(retry=FAST, breaker=breaker, on_retry=lambda *a: calls.append(a))

    async def six_times():
        for _ in range(6):
            with pytest.raises((OSError, TransientError)):
                await guard(ASYNC[name], 1)

    asyncio.run(six_times())
    assert breaker.state == "open"
    assert len(calls) == 3  # two of the first call, and one until the fifth failure opened it


def test_a_sync_way_refuses_what_is_awaitable():
    breaker = make_breaker()
    for refused in (
        lambda: CallFailover([Call("a", failing)])(1),
        lambda: CallFailover([Call("a", lambda _: failing(), breaker=breaker)])(1),
        lambda: run_with_deadline(failing, 1),
        lambda: run_with_deadline(lambda: failing(), 1),  # noqa: PLW0108
        lambda: hedged(failing, after_s=1, timeout_s=1),
    ):
        with pytest.raises(InvalidInputError, match=r"async|awaitable"):
            refused()
    assert breaker.snapshot()["failures_us"] == []


def test_a_callables_own_timeout_is_its_own():
    async def own(_):
        raise TimeoutError("theirs")

    def plain(_):
        raise TimeoutError("theirs")

    for function in (own, plain):
        with pytest.raises(TransientError, match="TimeoutError"):
            asyncio.run(CallFailover([Call("a", function)]).acall(1))
    assert abandoned_calls() == 0


def test_cancellation_frees_what_a_guard_holds():
    async def scenario():
        bulkhead, breaker = make_bulkhead(1), make_breaker(options=BreakerDefaults(failure_threshold=1, recovery_s=0.0))
        breaker.on_failure()
        guard = make_guard(bulkhead=bulkhead, breaker=breaker)
        started = asyncio.Event()

        async def forever():
            started.set()
            await asyncio.Event().wait()

        task = asyncio.ensure_future(guard(forever))
        await started.wait()
        assert bulkhead.inside == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return bulkhead.inside, breaker.allow()

    assert asyncio.run(scenario()) == (0, True)


def test_waiting_for_a_bulkhead_lets_the_loop_go_on():
    async def scenario():
        guard = make_guard(bulkhead=make_bulkhead(1), wait_s=30.0)
        order = []

        async def work(n):
            order.append(n)
            await asyncio.sleep(0)
            return n

        return await asyncio.gather(*(guard(work, n) for n in range(3))), sorted(order)

    assert asyncio.run(scenario()) == ([0, 1, 2], [0, 1, 2])


def test_context_variables_reach_the_threads():
    name = contextvars.ContextVar("name")
    name.set("caller")
    assert run_with_deadline(name.get, 5) == "caller"
    assert hedged(name.get, after_s=5, timeout_s=5) == "caller"
    assert CallFailover([Call("a", name.get)])().data == "caller"


def test_the_twin_of_a_slow_async_call_answers_and_the_slow_one_is_cancelled():
    async def scenario():
        calls, cancelled = [], []

        async def ask():
            calls.append(1)
            if len(calls) == 1:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    cancelled.append(1)
                    raise
            return "answer"

        return await ahedged(ask, after_s=0.01, timeout_s=5), len(calls), cancelled

    assert asyncio.run(scenario()) == ("answer", 2, [1])


# --- what counts as a failure


@pytest.mark.parametrize("failures", [OSError, (OSError,), [OSError], {OSError}, lambda e: isinstance(e, OSError)])
def test_classes_and_predicates_say_what_a_failure_is(clock, failures):
    breaker, down = make_breaker(clock), Down()
    guard = make_guard(retry=FAST, breaker=breaker, failures=failures, clock=clock)
    for _ in range(6):
        with pytest.raises((OSError, TransientError)):
            guard(down)
    assert (down.calls, breaker.state) == (5, "open")
    with pytest.raises(ValueError, match="other"):
        make_guard(retry=FAST, failures=failures, clock=clock)(Down(ValueError("other")))


@pytest.mark.parametrize("failures", ["OSError", (), [], None, 5, (OSError, "x"), BaseException, [KeyboardInterrupt]])
def test_what_is_no_failure_is_refused_at_construction(failures):
    with pytest.raises(InvalidInputError, match="failures"):
        make_guard(failures=failures)


def test_ctrl_c_is_never_retried(clock):
    down = Down(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        make_guard(retry=FAST, failures=lambda _: True, clock=clock)(down)
    assert down.calls == 1


# --- tenacity and stamina


def test_a_result_can_be_a_failure(clock):
    answers = iter([None, None, 7])
    guard = make_guard(retry=FAST, retry_on_result=lambda r: r is None, clock=clock)
    assert guard(lambda: next(answers)) == 7
    calls = []
    assert guard(lambda: calls.append(1)) is None  # tenacity raises RetryError here
    assert len(calls) == 3


def test_a_bad_result_counts_at_the_breaker(clock):
    breaker = make_breaker(clock)
    guard = make_guard(breaker=breaker, retry_on_result=lambda r: r is None, clock=clock)
    for _ in range(5):
        guard(lambda: None)
    assert breaker.state == "open"


def test_the_total_time_bounds_the_attempts(clock):
    down = Down()
    guard = make_guard(retry=RetryPolicy(100, total_us=10 * SECOND), wait=lambda e, n: 4, clock=clock)
    began = clock.now_us()
    with pytest.raises(OSError, match="down"):
        guard(down)
    assert (down.calls, clock.now_us() - began) == (3, 8 * SECOND)


def test_the_exception_says_how_long_to_wait(clock):
    error = TransientError("busy")
    error.retry_after_s = 30
    down, began = Down(error), clock.now_us()
    with pytest.raises(TransientError):
        make_guard(retry=FAST, clock=clock)(down)
    assert clock.now_us() - began == 60 * SECOND
    error.retry_after_s = math.inf
    down.calls = 0
    with pytest.raises(TransientError):
        make_guard(retry=FAST, clock=clock)(down)
    assert down.calls == 1
    assert pickle.loads(pickle.dumps(error)).retry_after_s == math.inf


@pytest.mark.parametrize(
    ("wait", "us"), [(lambda e, n: n, 3), (lambda e, n: timedelta(seconds=2), 4), (lambda e, n: 0, 0)]
)
def test_the_back_off_can_be_the_callers_own(clock, wait, us):
    began = clock.now_us()
    with pytest.raises(OSError, match="down"):
        make_guard(retry=FAST, wait=wait, clock=clock)(Down())
    assert clock.now_us() - began == us * SECOND


def test_a_hook_sees_every_wait_and_may_end_the_call(clock):
    seen = []
    with pytest.raises(OSError, match="down"):
        make_guard(retry=FAST, clock=clock, wait=lambda e, n: 1, on_retry=lambda *a: seen.append(a))(Down())
    assert [(n, s, str(e)) for n, s, e in seen] == [(1, 1.0, "down"), (2, 1.0, "down")]

    def enough(*_):
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        make_guard(retry=FAST, clock=clock, on_retry=enough)(Down())


def test_the_decorator_form(clock):
    calls = []

    @guarded(retry=FAST, clock=clock)
    def fetch(n):
        """Docs."""
        calls.append(n)
        if len(calls) < 3:
            raise OSError
        return n

    assert (fetch(5), len(calls), fetch.__name__, fetch.__doc__) == (5, 3, "fetch", "Docs.")

    @guarded
    def plain():
        return 1

    @guarded(guard=make_guard(retry=FAST))
    async def later():
        calls.append("later")
        if calls.count("later") < 3:
            raise OSError
        return 2

    assert (plain(), asyncio.run(later())) == (1, 2)

    class Client:
        @guarded(retry=FAST)
        def ask(self, n=1):
            return n

    assert (Client().ask(), Client().ask(n=4)) == (1, 4)
    for function in (lambda: (yield), 5):
        with pytest.raises(InvalidInputError):
            guarded(function)


def test_the_switch_for_tests(clock):
    down, began = Down(), clock.now_us()
    guard = make_guard(retry=RetryPolicy(9, SECOND, SECOND), clock=clock)
    with no_retries():
        with pytest.raises(OSError, match="down"):
            guard(down)
        assert down.calls == 1
    with no_retries(attempts=4), pytest.raises(OSError, match="down"):
        guard(down)
    assert (down.calls, clock.now_us()) == (5, began)  # and it did not wait
    with pytest.raises(OSError, match="down"):
        guard(down)
    assert down.calls == 14


def test_nested_retries_of_one_budget_do_not_multiply(clock):
    budget, down = RetryBudget(), Down()
    inner, outer = (make_guard(retry=FAST, budget=budget, clock=clock) for _ in range(2))
    with pytest.raises(OSError, match="down"):
        outer(inner, down)
    assert down.calls == 3
    with pytest.raises(OSError, match="down"):
        outer(down)  # the same exception object, raised by another call: it was not retried yet
    assert down.calls == 6
    with pytest.raises(TransientError):
        outer(CallFailover([Call("a", down)], retry=FAST, budget=budget, clock=clock))
    assert down.calls == 9


# --- pybreaker


def test_listeners_hear_each_change_of_state_outside_the_lock(clock):
    breaker, heard = make_breaker(clock, BreakerDefaults(failure_threshold=1)), []
    number = breaker.add_listener(lambda old, new: heard.append((old, new, breaker.state)))
    breaker.on_failure()
    clock.advance_us(60 * SECOND)
    breaker.allow()
    breaker.on_success()
    assert heard == [("closed", "open", "open"), ("open", "half_open", "half_open"), ("half_open", "closed", "closed")]
    breaker.remove_listener(number)
    breaker.on_failure()
    assert len(heard) == 3


def test_a_number_of_probes_has_to_succeed(clock):
    breaker = make_breaker(clock, BreakerDefaults(failure_threshold=1, success_threshold=2))
    breaker.on_failure()
    clock.advance_us(60 * SECOND)
    assert (breaker.allow(), breaker.allow()) == (True, False)
    breaker.on_success()
    assert breaker.state == "half_open"
    again = pickle.loads(pickle.dumps(breaker))
    assert breaker.allow()
    breaker.on_success()
    assert breaker.state == "closed"
    assert again.snapshot()["probes_succeeded"] == 1
    breaker.on_failure()
    breaker.reset()
    assert breaker.state == "closed"


# --- values


def test_values_are_picklable():
    policy = pickle.loads(pickle.dumps(RetryPolicy(7, 1, 2, 3)))
    assert (policy.max_attempts, policy.base_us, policy.cap_us, policy.total_us) == (7, 1, 2, 3)
    assert pickle.loads(pickle.dumps(RetryBudget(10, 2, 1))).tokens == 10
    assert pickle.loads(pickle.dumps(make_rate_limiter(5, 2))).try_acquire(2) == 0
    assert pickle.loads(pickle.dumps(make_bulkhead(1))).inside == 0
    breaker = make_breaker(options=BreakerDefaults(failure_threshold=1))
    breaker.on_failure()
    assert pickle.loads(pickle.dumps(breaker)).state == "open"


@pytest.mark.parametrize(
    "make",
    [
        lambda: RetryPolicy(0), lambda: RetryPolicy(3, -1), lambda: RetryPolicy(3, 1, -1), lambda: RetryPolicy(total_us=-1),
        lambda: RetryBudget(-1), lambda: make_bulkhead(0), lambda: make_rate_limiter(1, 0), lambda: make_tracker(threshold=0),
        lambda: make_guard(wait_s=-1), lambda: make_guard(wait_s=math.nan),
        lambda: make_breaker(options=BreakerDefaults(failure_threshold=-1)),
        lambda: make_breaker(options=BreakerDefaults(failure_rate=1.5)),
        lambda: make_breaker(options=BreakerDefaults(slow_call_rate=math.nan)),
        lambda: make_breaker(options=BreakerDefaults(window_s=0)),
        lambda: make_breaker(options=BreakerDefaults(recovery_s=math.inf)),
        lambda: make_breaker(options=BreakerDefaults(success_threshold=0)),
        lambda: CallFailover([Call("a", print), Call("a", print)]),
    ],
)  # fmt: skip
def test_arguments_are_validated(make):
    with pytest.raises(InvalidInputError):
        make()


def test_a_back_off_never_overflows():
    policy = RetryPolicy(100, 10**15, 10**18)
    assert 0 <= policy.delay_us(90, SeededRandom(1)) <= 10**18


def test_a_breaker_is_safe_between_threads():
    breaker, guard = make_breaker(SystemClock()), None
    guard = make_guard(breaker=breaker, bulkhead=make_bulkhead(2), wait_s=30.0)
    threads = [threading.Thread(target=lambda: [guard(int, "1") for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert breaker.state == "closed"


def test_the_cores_failover_refuses_two_sources_of_one_name(clock):
    transport = call_transport(lambda requests, us: [], clock)
    failover = Failover(RetryPolicy(1), 0, 8, transport, clock, SeededRandom(1), RetryBudget())
    sources = [Source("a", [], SECOND, make_breaker(clock)) for _ in range(2)]
    with pytest.raises(InvalidInputError, match="'a'"):
        failover.fetch(sources, lambda *a: "k", None)
