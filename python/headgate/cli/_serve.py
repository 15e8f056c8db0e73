"""`headgate serve`: one process that takes uploads in and keeps everything behind them going."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.backends.clock_jumps import note_clock
from headgate.checkpoint._places import is_remote, local_path
from headgate.cli._alerts import AlertCheck
from headgate.cli._gauges import measure
from headgate.cli._signals import Signals
from headgate.consume import ConsumeResult, Worker
from headgate.consume._worker import warn_about
from headgate.errors import ConfigError, HeadgateError, InterruptedRunError, StageFailedError
from headgate.handlers import should_collect
from headgate.idempotency._open import sqlite_path
from headgate.pipelines.uploads import BatchTracker
from headgate.serve import IntakeAccess, IntakeLimits, IntakeServer, Job, OwnThread, Scheduler, Service
from headgate.wiring.alerts import WEBHOOK

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.config import Config
    from headgate.wiring import App

log = logging.getLogger("headgate.serve")
_TIMEOUTS_S = 1.0
_LAG_S = 15.0  # between two counts of what waits in the embedded queue; a scrape's usual interval
_CLOCK_S = 1.0
_GAUGES_S = 15.0
_CLOSE_S = 5.0  # beyond serve.drain_s, for what was cut to end
_STALLED_S = 600.0  # a loop that has not turned for so long is not alive: no handler should take longer
_WORKFLOWS_S = 1.0  # how often executions are looked at whose waits have ended


def serve(app: App, port: int | None = None, reload: Callable[[], Config] | None = None) -> int:
    """Run until SIGTERM or Ctrl-C; what is claimed is finished first, unless it takes longer than `serve.drain_s`.

    Everything takes part that the store allows: uploads and consumers of the embedded queue need a sqlite:// store.

    Args:
        app: what the configuration describes.
        port: instead of `serve.port`.
        reload: reads the configuration again and opens the log anew, on SIGHUP.
    """
    u, s = app.config.uploads, app.config.serve
    files = app.file_service() if app.is_embedded else None
    workers: list[Worker] = []
    steps: list[tuple[str, Callable[[], int]]] = [("relay", app.relay)]
    if files is not None:
        tracker = BatchTracker(app.store, app.clock, ready_timeout_s=u.ready_timeout_s, metrics=app.metrics)
        consumers = [files.consumer(), *tracker.consumers()]
        app.extra_groups += [(consumer.name, consumer.topic) for consumer in consumers]
        workers += [Worker(c, app.store, app.ledger, app.clock, app.metrics) for c in consumers]
        workers += [app.embedded_worker(name) for name, c in app.config.consumers.items() if not c.queue]
        steps += [(f"consume {w.consumer.name}", _step(w)) for w in workers]
        steps.insert(0, ("clock", _every(_CLOCK_S, partial(note_clock, app.embedded_store))))
        steps.append(("time-outs", _every(_TIMEOUTS_S, tracker.check_timeouts)))
        steps.append(("lag", _every(_LAG_S, partial(_measure_lag, workers))))
    steps.append(("gauges", _every(_GAUGES_S, partial(measure, app))))
    warn_about(app.ledger)
    app.local_groups()  # a store without a queue needs somewhere to send to: say so now, not once a second
    away = _away(app)
    service = Service(steps, [*workers, *away])
    signals, ended = Signals(reload=(signal.SIGHUP,)), threading.Event()
    jobs = scheduled_jobs(app, lambda: what_to_tell(service, scheduler, away))
    scheduler = Scheduler(jobs, app.store, app.ledger, app.clock, app.metrics)
    health = partial(_what_is_wrong, service, scheduler, away)
    listen = s.port if port is None else port
    with ExitStack() as running:
        intake = running.enter_context(open_intake(app, listen, health))
        for worker in away:
            running.enter_context(worker)
        running.enter_context(scheduler)
        print(f"serving at {intake.url}", file=sys.stderr, flush=True)
        loop = threading.Thread(target=_run_then, args=(service, ended), name="headgate-loop", daemon=True)
        loop.start()
        while signals.wait(ended) == "reload":
            if reload is not None:
                apply_again(app, intake, reload)
        service.stop()
        stopping = threading.Thread(target=_close, args=(running.pop_all(), loop), name="headgate-stop", daemon=True)
        stopping.start()
        stopping.join(s.drain_s + _CLOSE_S)
    if stopping.is_alive():
        # A transaction that did not end is rolled back with the process, and its message comes again.
        log.warning("stopped in the middle", extra={"reason": "what was under way took longer than serve.drain_s"})
        logging.shutdown()
        sys.stderr.flush()
        os._exit(0)
    # Requests that came while stopping have left their jobs in the database: the next start finds them.
    return 0


def _away(app: App) -> list[OwnThread]:
    """The consumers that wait for other machines, each on a thread of its own."""
    away = [OwnThread(name, partial(app.worker, name)) for name, c in app.config.consumers.items() if c.queue]
    if app.config.alerts.webhook_env:
        app.webhook()  # a URL that is missing or wrong is said at the start
        away.append(OwnThread(WEBHOOK, app.webhook))
    return away


def open_intake(app: App, port: int, health: Callable[[], list[str]] = list) -> IntakeServer:
    """The HTTP intake that the configuration describes.

    Raises:
        ConfigError: what `IntakeServer` says; or `serve.token_env` names a variable that is not set.
    """
    s, config = app.config.serve, app.config
    limits, access = intake_rules(config)
    if not app.is_embedded:
        return IntakeServer(None, s.host, port, limits=limits, access=access, metrics=app.metrics, health=health)
    store = app.intake_store()
    folder = str(Path(sqlite_path(config.locate(config.backends.store))).resolve().parent)
    incoming = config.locate(s.incoming) if s.incoming else folder
    if not Path(incoming).is_dir():
        message = f"serve.incoming: {incoming} is no folder"
        raise ConfigError(message)
    objects = config.locate(config.backends.objects)
    watched = [folder, *([] if is_remote(objects) else [local_path(objects)])]
    for place in watched:
        Path(place).mkdir(parents=True, exist_ok=True)

    def unready() -> list[str]:
        try:
            store.load_state("serve.ready")
        except HeadgateError:
            return ["store"]
        return []

    return IntakeServer(
        app.file_service(store), s.host, port, limits=limits, access=access, metrics=app.metrics, incoming=incoming,
        watched=watched, health=health, unready=unready,
    )  # fmt: skip


def intake_rules(config: Config) -> tuple[IntakeLimits, IntakeAccess]:
    """What a request may hold, and who may send one.

    Raises:
        ConfigError: `serve.token_env` names a variable that is not set.
    """
    u, s = config.uploads, config.serve
    limits = IntakeLimits(
        u.max_file_bytes, u.max_request_bytes, u.max_files, requests=s.max_requests, connections=s.max_connections,
        idle_s=s.idle_s, request_s=s.request_s, drain_s=s.drain_s, min_free_bytes=int(s.min_free_bytes),
    )  # fmt: skip
    token = config.environment.get(s.token_env, "") if s.token_env else ""
    if s.token_env and not token:
        message = f"serve.token_env: the environment variable {s.token_env} is not set"
        raise ConfigError(message)
    pem = [config.locate(path) if path else "" for path in (s.tls_cert, s.tls_key, s.client_ca)]
    return limits, IntakeAccess(tuple(s.allowed_hosts), tuple(s.allowed_origins), token, *pem)


def apply_again(app: App, intake: IntakeServer, reload: Callable[[], Config]) -> None:
    """Take over from the configuration what a running server can change; the rest is named in the log.

    A configuration that cannot be read changes nothing.
    """
    try:
        config = reload()
        limits, access = intake_rules(config)
        intake.change(limits, access)
    except (HeadgateError, OSError) as error:
        kind = error.kind.value if isinstance(error, HeadgateError) else type(error).__name__
        log.error("not reloaded", extra={"error": kind, "reason": str(error)})
        return
    taken = {"uploads", "serve", "logging", "base", "environment", "is_configured"}
    names = [field.name for field in fields(config) if field.name not in taken]
    waiting = [name for name in names if getattr(config, name) != getattr(app.config, name)]
    log.info("reloaded", extra={"after_a_restart": ",".join(waiting) or "nothing"})


def _run_then(service: Service, ended: threading.Event) -> None:
    """The loop on a thread of its own, so that a signal is answered while a handler runs; its end ends the process."""
    try:
        service.run()
    finally:
        ended.set()


def _close(running: ExitStack, loop: threading.Thread) -> None:
    running.close()
    loop.join()


def _what_is_wrong(service: Service, scheduler: Scheduler, away: list[OwnThread]) -> list[str]:
    """What of the process does not run any more or stands still, for /healthz."""
    wrong = [] if service.is_alive(_STALLED_S) else ["loop"]
    wrong += [] if scheduler.is_alive() else ["scheduler"]
    return wrong + [f"consumer {worker.name}" for worker in away if not worker.is_alive()]


def what_to_tell(service: Service, scheduler: Scheduler, away: list[OwnThread]) -> list[str]:
    """What stands still, for alerts: nothing of a process that was told to stop."""
    return [] if service.is_stopping else _what_is_wrong(service, scheduler, away)


def scheduled_jobs(app: App, health: Callable[[], list[str]] = list) -> list[Job]:
    """What the configuration wants done by the clock.

    Args:
        app: the configuration's parts.
        health: what of the process stands still, for alerts.
    """
    s = app.config.schedule
    jobs = [
        Job("sweep", s.sweep_s, app.heal),
        Job("prune", s.prune_s, app.prune),
    ]
    if app.config.workflows:
        jobs.append(Job("workflows", _WORKFLOWS_S, app.resume_workflows))
    for name, workflow in app.config.workflows.items():
        jobs.append(Job(f"workflow:{name}", workflow.every_s, partial(_run_workflow, app, name)))
    for name in app.config.checkpoints:
        checkpoint = CheckpointRuns(app, name)
        jobs.append(Job(f"checkpoint:{name}", s.checkpoint_s, checkpoint.run, checkpoint.cancel, int))
    # A source of one's own may need no key.
    if any(getattr(adapter, "token", True) for adapter in app.adapters):
        collection = Collection(app)
        jobs.append(Job("collect", s.collect_s, collection.run, collection.cancel, int))
    elif app.adapters:
        log.warning("no collections: none of the configured sources has an API key")
    jobs.append(Job("alerts", app.config.alerts.check_s, AlertCheck(app, list(jobs), health).run))
    return jobs


def _run_workflow(app: App, name: str) -> None:
    """One execution, to its end. What a dead process leaves running, the job `workflows` goes on with.

    Raises:
        StageFailedError: it failed.
    """
    execution = app.run_workflow(name)
    log.info("workflow done", extra={"workflow": name, "execution": execution.id, "status": execution.status})
    if execution.status != "SUCCEEDED":
        message = f"workflow {name}: the execution ended as {execution.status}"
        raise StageFailedError(message)


class Collection:
    """The collection as a job: in market hours every time, outside them as `schedule.closed_s` says."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._token: Any = None

    def run(self) -> int:
        """One collection, if it is time for one; how many records it refused."""
        if not should_collect(self._app, self._app.clock.now_us()):
            return 0
        self._token = core.CancelToken()
        try:
            result = self._app.collect(self._token)
            log.info("collected", extra={"source": result.source, "new_items": result.taken.stored})
            return int(result.taken.dead_letters)
        finally:
            warning = self._app.freshness().warning
            if warning:
                log.warning("stale data", extra={"warning": warning})

    def cancel(self) -> None:
        if self._token is not None:
            self._token.cancel()


class CheckpointRuns:
    """A configured checkpoint as a job; a run that is cancelled leaves the old checkpoint."""

    def __init__(self, app: App, name: str) -> None:
        self._app = app
        self._name = name
        self._stop = False

    def run(self) -> int:
        """One run; how many records it refused."""
        run = self._app.checkpoint(self._name, self._go_on)
        log.info("checkpoint done", extra={"checkpoint": self._name, "rows": run.rows_total, "added": run.rows_added})
        return int(run.rejected_records)

    def _go_on(self, done: int, total: int) -> None:
        if self._stop:
            message = "the process stops"
            raise InterruptedRunError(message)

    def cancel(self) -> None:
        self._stop = True


def _measure_lag(workers: list[Worker]) -> int:
    for worker in workers:
        worker.measure_lag()
    return 0


def _step(worker: Worker) -> Callable[[], int]:
    def step() -> int:
        result = ConsumeResult()
        worker.step(result)
        return result.handled + result.duplicates + result.dead_lettered

    return step


def _every(seconds: float, step: Callable[[], int]) -> Callable[[], int]:
    due = [0.0]

    def run() -> int:
        if time.monotonic() < due[0]:
            return 0
        due[0] = time.monotonic() + seconds
        return step()

    return run
