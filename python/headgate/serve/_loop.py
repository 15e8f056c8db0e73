"""What a serving process does between requests: deliver, consume, look for batches whose time is over."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from headgate.errors import HeadgateError
from headgate.idempotency._failures import code_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger("headgate.serve")
_IDLE_S = 0.1
_AWAY_S = 1.0
_AGAIN_S = 5.0


class OwnThread:
    """Runs a worker that has a queue elsewhere (Kafka, SQS) on a thread; after an error a new one takes its place.

    Args:
        name: the consumer's.
        make: makes the worker.
        again_s: how long after an error, seconds.
    """

    def __init__(self, name: str, make: Callable[[], Any], again_s: float = _AGAIN_S) -> None:
        self.name = name
        self._make = make
        self._again_s = again_s
        self._stop = threading.Event()
        self._worker: Any = None
        self._thread = threading.Thread(target=self._run, name=f"headgate-{name}", daemon=True)

    def __enter__(self) -> OwnThread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """What is claimed is finished first."""
        self.stop()
        self._thread.join()

    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Take nothing new."""
        self._stop.set()
        if self._worker is not None:
            self._worker.stop()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._worker = self._make()
                if not self._stop.is_set():
                    self._worker.run()
            except Exception as error:
                # Its text may hold anything; one consumer's trouble must not end the process that serves the others.
                kind = error.kind.value if isinstance(error, HeadgateError) else type(error).__name__
                about = {"consumer": self.name, "error": kind, "traceback": code_path(error)}
                log.error("consumer stopped", extra=about)
            self._stop.wait(self._again_s)


class Service:
    """Runs steps in turn until stopped; an error of one is logged, and the others go on.

    Args:
        steps: (name, step); a step returns how much it did, and 0 lets the loop rest.
        workers: what `stop()` has to tell first, so that they finish what is claimed.
    """

    def __init__(self, steps: Sequence[tuple[str, Callable[[], int]]], workers: Sequence[Any] = ()) -> None:
        self._steps = steps
        self._workers = workers
        self._stop = threading.Event()
        self._turned = time.monotonic()
        self._has_ended = False

    def is_alive(self, stalled_s: float) -> bool:
        """Whether the loop has begun a step within so many seconds; it is alive before it runs, not after."""
        return not self._has_ended and time.monotonic() - self._turned < stalled_s

    @property
    def is_stopping(self) -> bool:
        """Whether `stop()` was called: what ends from then on ends as it should."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Finish the step that is running, then return."""
        self._stop.set()
        for worker in self._workers:
            worker.stop()

    def run(self) -> None:
        """Until `stop()`."""
        try:
            self._run()
        finally:
            self._has_ended = True

    def _run(self) -> None:
        while not self._stop.is_set():
            done, wait_s = 0, _IDLE_S
            for name, step in self._steps:
                if self._stop.is_set():
                    return
                self._turned = time.monotonic()
                try:
                    done += step()
                except HeadgateError as error:
                    log.warning("step failed", extra={"step": name, "error": error.kind.value})
                    wait_s = _AWAY_S
                except Exception as error:
                    # A bug in one step must not end the process that serves the others.
                    about = {"step": name, "error": type(error).__name__, "traceback": code_path(error)}
                    log.error("step failed", extra=about)
                    wait_s = _AWAY_S
            if not done:
                self._stop.wait(wait_s)
