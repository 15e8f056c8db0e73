"""A signal ends or reloads a server wherever it meets the main thread."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from headgate.cli import _signals
from headgate.cli._signals import Signals


@pytest.fixture
def _handlers_as_before():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Lock:
    """An event whose lock is held, as in the middle of its `wait`: a handler that sets it would wait for ever."""

    def __init__(self):
        self.waits = 0

    def is_set(self):
        return False

    def set(self):
        raise AssertionError("a handler must not touch an event")

    def wait(self, seconds):
        """A signal that comes before the wait blocks does not end it: it is found when the wait is over."""
        self.waits += 1
        assert 0 < seconds <= 1
        if self.waits == 2:
            os.kill(os.getpid(), self.number)


@pytest.mark.usefixtures("_handlers_as_before")
@pytest.mark.parametrize(
    ("number", "found"), [(signal.SIGTERM, "end"), (signal.SIGINT, "end"), (signal.SIGHUP, "reload")]
)
def test_a_signal_that_comes_as_a_wait_begins_is_found(number, found):
    signals, event = Signals(reload=(signal.SIGHUP,)), Lock()
    event.number = number
    assert signals.wait(event) == found
    assert event.waits == 2


@pytest.mark.usefixtures("_handlers_as_before")
def test_an_end_comes_before_a_reload_and_each_reload_is_one(monkeypatch):
    monkeypatch.setattr(_signals, "_LOOK_S", 0.001)
    signals, ended = Signals(reload=(signal.SIGHUP,)), threading.Event()
    os.kill(os.getpid(), signal.SIGHUP)
    assert signals.wait(ended) == "reload"
    ended.set()
    assert signals.wait(ended) == "end"
    os.kill(os.getpid(), signal.SIGHUP)
    assert signals.wait(ended) == "end"
