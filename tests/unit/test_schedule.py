"""Jobs by the clock: caught up once, never twice at once, cancelled when the process stops."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from headgate import _core
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.errors import InterruptedRunError, TransientError
from headgate.idempotency import Ledger
from headgate.serve import Job, Scheduler


@pytest.fixture
def parts(tmp_path):
    clock = _core.ManualClock(1_780_000_000_000_000)
    database = LocalDatabase(str(tmp_path / "h.db"), durability="normal")
    return LocalStore(database, clock), Ledger.on_database(database, clock=clock), clock


def test_a_missed_run_is_caught_up_once(parts):
    store, ledger, clock = parts
    runs = []
    job = Job("collect", 300, lambda: runs.append(clock.now_us()))
    scheduler = Scheduler([job], store, ledger, clock)
    assert scheduler.wait_us(job) == 0  # it never ran
    assert scheduler.run_once(job)
    assert scheduler.wait_us(job) == 300_000_000
    clock.advance_us(3600 * 1_000_000)  # the process was down; twelve runs were missed
    again = Scheduler([job], store, ledger, clock)
    assert again.wait_us(job) == 0
    assert again.run_once(job)
    assert again.wait_us(job) == 300_000_000
    assert len(runs) == 2


def test_two_processes_run_it_once(parts):
    store, ledger, clock = parts
    inside, go, runs = threading.Event(), threading.Event(), []

    def work():
        runs.append(1)
        inside.set()
        go.wait(30)

    job = Job("collect", 300, work)
    schedulers = [Scheduler([job], store, ledger, clock) for _ in range(3)]
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(schedulers[0].run_once, job)
        assert inside.wait(30)
        assert schedulers[1].run_once(job) is False  # it is being run
        go.set()
        assert first.result() is True
    assert schedulers[2].run_once(job) is False  # it was run a moment ago
    assert runs == [1]


@pytest.mark.parametrize("error", [TransientError("away"), ValueError("token=sesame")])
def test_a_job_that_fails_comes_again_and_quotes_nothing(parts, error, caplog):
    store, ledger, clock = parts

    def work():
        raise error

    job = Job("collect", 300, work)
    scheduler = Scheduler([job], store, ledger, clock)
    assert scheduler.run_once(job) is False
    assert "sesame" not in caplog.text
    assert [r.getMessage() for r in caplog.records] == ["job failed"]
    clock.advance_us(300_000_000)
    assert scheduler.wait_us(job) == 0


def test_an_interrupted_job_is_caught_up_by_the_next_process(parts):
    store, ledger, clock = parts

    def work():
        raise InterruptedRunError("stop")

    job = Job("collect", 300, work)
    assert Scheduler([job], store, ledger, clock).run_once(job) is False
    assert Scheduler([job], store, ledger, clock).wait_us(job) == 0


def test_it_runs_by_the_clock_and_stops_what_it_can(parts):
    store, ledger, _ = parts
    ran, started, cancelled = threading.Event(), threading.Event(), threading.Event()

    def hangs():
        started.set()
        assert cancelled.wait(30)
        raise InterruptedRunError("stop")

    jobs = [Job("quick", 3600, ran.set), Job("slow", 3600, hangs, cancelled.set), Job("off", 0, lambda: 1 / 0)]
    with Scheduler(jobs, store, ledger, _core.SystemClock()):
        assert ran.wait(30)
        assert started.wait(30)
    assert cancelled.is_set()
    assert store.load_state("schedule:off") is None


def test_without_a_ledger_one_process_still_keeps_its_runs_apart(parts):
    store, _, clock = parts
    job = Job("x", 10, lambda: None)
    assert Scheduler([job], store, None, clock).run_once(job)


def test_a_run_in_the_future_holds_nothing_back(parts, caplog):
    """The clock was a day ahead for a moment; every job then stood still for a day, without a line."""
    store, ledger, clock = parts
    runs = []
    job = Job("sweep", 2, lambda: runs.append(clock.now_us()))
    scheduler = Scheduler([job], store, ledger, clock)
    clock.advance_us(86_400_000_000)
    assert scheduler.run_once(job)
    back = _core.ManualClock(clock.now_us() - 86_400_000_000)
    again = Scheduler([job], store, Ledger.on_database(store.db, clock=back), back)
    assert again.wait_us(job) == 0
    assert again.run_once(job)
    assert next((r.getMessage(), r.job, r.ahead_s) for r in caplog.records) == ("run in the future", "sweep", 86_400)
    assert again.wait_us(job) == 2_000_000
    assert len(runs) == 2


def test_a_clock_that_is_a_little_behind_does_not_run_a_job_twice(parts):
    store, ledger, clock = parts
    job = Job("collect", 300, lambda: None)
    assert Scheduler([job], store, ledger, clock).run_once(job)
    behind = _core.ManualClock(clock.now_us() - 2_000_000)
    other = Scheduler([job], store, Ledger.on_database(store.db, clock=behind), behind)
    assert other.run_once(job) is False
    assert other.wait_us(job) == 300_000_000
