"""Jobs by the clock: missed runs are caught up once, and none runs twice at once, here or in another process."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import HeadgateError, InterruptedRunError, NotFoundError, needed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headgate.idempotency import Ledger
    from headgate.ports import Clock, Json, Metrics, StateStore

log = logging.getLogger("headgate.serve")
_LEASE_S = 60.0  # renewed while a job runs; a process that died gives its job up after it at the latest
_SKEW_US = 60_000_000  # how far hosts' clocks may differ


@dataclass(frozen=True)
class Job:
    """Something to do every so often.

    Args:
        name: stable; its state is kept under it.
        every_s: from start to start, seconds.
        run: does it; errors are logged, and the next run comes as planned.
        cancel: called when the process stops while it runs; None: it is waited for.
        rejects: from what `run` returns, how many records that run refused; None: it refuses none.
    """

    name: str
    every_s: float
    run: Callable[[], Any]
    cancel: Callable[[], None] | None = None
    rejects: Callable[[Any], int] | None = None


class Scheduler:
    """Runs jobs on threads of APScheduler.

    When a job was last started is in the store: a process that was down starts what it missed once, at once. A claim in
    the ledger lets one process run a job at a time.

    Args:
        jobs: each with its interval.
        store: keeps the times.
        ledger: keeps the claims; None: only this process's own runs are kept apart.
        clock: of the times.
        metrics: runs by outcome, failures in a row and the last success of each job.

    Raises:
        ConfigError: kind not_built; APScheduler is missing.
    """

    def __init__(
        self, jobs: Sequence[Job], store: StateStore, ledger: Ledger | None, clock: Clock,
        metrics: Metrics | None = None,
    ) -> None:  # fmt: skip
        with needed("headgate serve needs APScheduler", "apscheduler>=3.10.2,<4"):
            from apscheduler.executors.pool import ThreadPoolExecutor
            from apscheduler.schedulers.background import BackgroundScheduler
        logging.getLogger("apscheduler").setLevel(logging.WARNING)
        self._jobs = [job for job in jobs if job.every_s > 0]
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._metrics = metrics
        self._running: set[str] = set()
        self._scheduler = BackgroundScheduler(
            timezone=UTC, executors={"default": ThreadPoolExecutor(max(1, len(self._jobs)))},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )  # fmt: skip

    def __enter__(self) -> Scheduler:
        for job in self._jobs:
            first = datetime.now(UTC) + timedelta(microseconds=self.wait_us(job))
            self._scheduler.add_job(
                self.run_once, "interval", args=(job,), seconds=job.every_s, next_run_time=first, id=job.name
            )
        self._scheduler.start()
        return self

    def __exit__(self, *_: object) -> None:
        """No new runs; those under way are cancelled where they can be, and waited for."""
        self._scheduler.pause()
        for job in self._jobs:
            if job.name in self._running and job.cancel is not None:
                job.cancel()
        self._scheduler.shutdown(wait=True)

    def is_alive(self) -> bool:
        """Whether jobs are started when they are due."""
        return bool(self._scheduler.running)

    def wait_us(self, job: Job) -> int:
        """How long until its next run; 0 when one was missed, it never ran, or its last run is in the future."""
        state = self._store.load_state(_key(job)) or {"started_us": 0}
        every_us = int(job.every_s * 1e6)
        ahead_us = int(state["started_us"]) - self._clock.now_us()
        if ahead_us > min(_SKEW_US, every_us // 2):
            # The clock was ahead when it ran. Hosts whose clocks differ by less than this do not undo each other.
            log.warning("run in the future", extra={"job": job.name, "ahead_s": ahead_us // 1_000_000})
            return 0
        return min(every_us, max(0, ahead_us + every_us))

    def run_once(self, job: Job, *, now: bool = False) -> bool:
        """Run a job, unless another process is at it or has just run it; whether it ran.

        Args:
            job: one of the scheduler's.
            now: although it was run a moment ago.
        """
        try:
            if self._ledger is None:
                self._run(job)
                return True
            claim = self._ledger.claim(_key(job), _LEASE_S)
            if claim.status != "acquired":
                return False
            # Another process may have run it while this one waited for the claim.
            ran = now or self.wait_us(job) <= int(job.every_s * 5e5)
            try:
                if ran:
                    with self._ledger.renewing(claim, _LEASE_S):
                        self._run(job)
            finally:
                self._ledger.release(claim)
        except InterruptedRunError:
            return False
        except HeadgateError as error:
            log.warning("job failed", extra={"job": job.name, "error": error.kind.value})
            return False
        except Exception as error:
            # Its text may hold anything; a job's bug must not end the process that serves the others.
            log.error("job failed", extra={"job": job.name, "error": type(error).__name__})
            return False
        return ran

    def states(self) -> list[Json]:
        """Of every job: when it ran last, whether that went well, and when it runs next."""
        return [self._state_of(job) for job in self._jobs]

    def find(self, name: str) -> Job:
        """The job of that name.

        Raises:
            NotFoundError: there is none.
        """
        for job in self._jobs:
            if job.name == name:
                return job
        known = ", ".join(job.name for job in self._jobs) or "none is configured"
        message = f"jobs: there is no job {name!r}; expected one of: {known}"
        raise NotFoundError(message)

    def reset(self, job: Job) -> None:
        """Forget a job's last runs: it runs at the next opportunity, and its failures are counted anew."""
        self._store.save_state(_key(job), {"format": 1, "started_us": 0})

    def _state_of(self, job: Job) -> Json:
        state = self._store.load_state(_key(job)) or {}
        next_us = self._clock.now_us() + self.wait_us(job)
        return {
            "job": job.name, "every_s": job.every_s, "last_start": _shown(state.get("started_us")),
            "last_success": _shown(state.get("ok_us")), "failures": state.get("failures", 0),
            "error": state.get("error"), "rejects": state.get("rejects", 0), "next_run": _shown(next_us),
        }  # fmt: skip

    def _run(self, job: Job) -> None:
        before = self._store.load_state(_key(job)) or {"format": 1, "started_us": 0}
        state: Json = {**before, "format": 1, "started_us": self._clock.now_us()}
        self._store.save_state(_key(job), state)
        self._running.add(job.name)
        try:
            done = job.run()
            rejects = job.rejects(done) if job.rejects is not None else 0
        except InterruptedRunError:
            self._store.save_state(_key(job), before)  # the next process catches it up
            raise
        except Exception as error:
            kind = error.kind.value if isinstance(error, HeadgateError) else type(error).__name__
            self._note(job, {**state, "failures": state.get("failures", 0) + 1, "error": kind})
            raise
        else:
            well = {"ok_us": self._clock.now_us(), "failures": 0, "error": None, "rejects": rejects}
            self._note(job, {**state, **well})
            if self._metrics is not None and job.rejects is not None:
                self._metrics.count("headgate_job_rejects_total", rejects, job=job.name)
        finally:
            self._running.discard(job.name)

    def _note(self, job: Job, state: Json) -> None:
        self._store.save_state(_key(job), state)
        if self._metrics is not None:
            self._metrics.count("headgate_job_runs_total", job=job.name, outcome="failed" if state["error"] else "ok")
            self._metrics.gauge("headgate_job_failures", state["failures"], job=job.name)
            self._metrics.gauge("headgate_job_last_success_seconds", state.get("ok_us", 0) / 1e6, job=job.name)


def _shown(at_us: int | None) -> str | None:
    return str(core.format_timestamp(at_us)) if at_us else None


def _key(job: Job) -> str:
    return f"schedule:{job.name}"
