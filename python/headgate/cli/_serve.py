"""`headgate serve`: one process that takes uploads in and keeps everything behind them going."""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING

from headgate.consume import ConsumeResult, Worker
from headgate.pipelines.uploads import BatchTracker, ContentStore, FileService
from headgate.serve import IntakeLimits, IntakeServer, Service

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.wiring import App

_SWEEP_S = 60.0
_TIMEOUTS_S = 1.0
_PRUNE_S = 3600.0


def serve(app: App, port: int | None = None) -> int:
    """Run until SIGTERM or Ctrl-C; what is claimed is finished first."""
    u, s = app.config.uploads, app.config.serve
    files = FileService(
        ContentStore(app.objects), app.store, app.clock, min_length=u.min_length, max_length=u.max_length,
        extract_timeout_s=u.extract_timeout_s, metrics=app.metrics,
    )  # fmt: skip
    tracker = BatchTracker(app.store, app.clock, ready_timeout_s=u.ready_timeout_s, metrics=app.metrics)
    consumers = [files.consumer(), *tracker.consumers()]
    app.extra_groups += [(consumer.name, consumer.topic) for consumer in consumers]
    workers = [Worker(c, app.store, app.ledger, app.clock, app.metrics) for c in consumers]
    workers += [app.worker(name) for name, c in app.config.consumers.items() if not c.queue]
    limits = IntakeLimits(u.max_file_bytes, u.max_request_bytes, u.max_files)
    steps: list[tuple[str, Callable[[], int]]] = [("relay", app.relay)]
    steps += [(f"consume {w.consumer.name}", _step(w)) for w in workers]
    steps += [
        ("time-outs", _every(_TIMEOUTS_S, tracker.check_timeouts)),
        ("prune", _every(_PRUNE_S, lambda: sum(app.prune().values()))),
        ("sweep", _every(_SWEEP_S, lambda: app.heal().items_republished)),
    ]
    service = Service(steps, workers)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    with IntakeServer(
        files, s.host, s.port if port is None else port, limits=limits, metrics=app.metrics
    ) as intake:  # fmt: skip
        print(f"serving at {intake.url}", file=sys.stderr, flush=True)
        service.run()
    # Requests that came while stopping have left their jobs in the database: the next start finds them.
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
