"""Signals of a process that runs until it is told to end."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOOK_S = 0.2
END = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """What the process was told by signals; made on the main thread, which alone waits for them.

    A handler only notes what came. It interrupts the main thread anywhere, also where that holds the lock of an event:
    setting the event from there would wait for ever. And a signal that arrives just before a wait begins does not end
    that wait, so waits are short.

    Args:
        end: signals that end the process.
        reload: signals that ask for the configuration to be read again.
    """

    def __init__(self, end: Sequence[int] = END, reload: Sequence[int] = ()) -> None:
        self._ends = False
        self._reloads = False
        for number in end:
            signal.signal(number, self._note_end)
        for number in reload:
            signal.signal(number, self._note_reload)

    def wait(self, ended: threading.Event | None = None) -> Literal["end", "reload"]:
        """Block until a signal came, or another thread has set `ended`, which is an end too."""
        ended = threading.Event() if ended is None else ended
        while True:
            if self._ends or ended.is_set():
                return "end"
            if self._reloads:
                self._reloads = False
                return "reload"
            ended.wait(_LOOK_S)

    def _note_end(self, *_: object) -> None:
        self._ends = True

    def _note_reload(self, *_: object) -> None:
        self._reloads = True
