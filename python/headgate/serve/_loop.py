"""What a serving process does between requests: deliver, consume, look for batches whose time is over."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from headgate.errors import HeadgateError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger("headgate.serve")
_IDLE_S = 0.1
_AWAY_S = 1.0


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

    def stop(self) -> None:
        """Finish the step that is running, then return (safe in a signal handler)."""
        self._stop.set()
        for worker in self._workers:
            worker.stop()

    def run(self) -> None:
        """Until `stop()`."""
        while not self._stop.is_set():
            done, wait_s = 0, _IDLE_S
            for name, step in self._steps:
                if self._stop.is_set():
                    return
                try:
                    done += step()
                except HeadgateError as error:
                    log.warning("step failed", extra={"step": name, "error": error.kind.value})
                    wait_s = _AWAY_S
            if not done:
                self._stop.wait(wait_s)
