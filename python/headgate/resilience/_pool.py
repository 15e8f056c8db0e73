"""Daemon threads for calls that have a deadline: a call that hangs must not keep the process from ending."""

from __future__ import annotations

import threading
from collections import deque
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from headgate._forks import watch

if TYPE_CHECKING:
    from collections.abc import Callable

_KEEP_IDLE = 16  # threads that wait for their next call


class Task:
    """A call on a thread of the pool, and its outcome. It sees the context variables of the thread that made it."""

    def __init__(self, work: Callable[[], Any], on_done: Callable[[Task], None] | None = None) -> None:
        self._work = work
        self._context = copy_context()
        self.done = threading.Event()
        self._on_done = on_done
        self.value: Any = None
        self.error: BaseException | None = None
        self.abandoned = False

    def run(self) -> None:
        try:
            self.value = self._context.run(self._work)
        except BaseException as error:
            self.error = error
        with POOL.lock:
            self.done.set()
            if self.abandoned:
                POOL.abandoned -= 1
        if self._on_done is not None:
            self._on_done(self)

    def result(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


class Pool:
    """Threads that are made when none is idle, and kept for the next calls."""

    def __init__(self) -> None:
        self._after_fork()
        watch(self)

    def _after_fork(self) -> None:
        """A child has none of the threads, and another thread may have held the lock at the fork."""
        self.lock = threading.Lock()
        self.abandoned = 0
        self._work: deque[Task] = deque()
        self._ready = threading.Condition(self.lock)
        self._idle = 0

    def submit(self, task: Task) -> Task:
        with self.lock:
            self._work.append(task)
            if self._idle >= len(self._work):
                self._ready.notify()
                return task
        threading.Thread(target=self._serve, daemon=True, name="headgate-call").start()
        return task

    def _serve(self) -> None:
        while True:
            with self.lock:
                while not self._work:
                    if self._idle >= _KEEP_IDLE:
                        return
                    self._idle += 1
                    self._ready.wait()
                    self._idle -= 1
                task = self._work.popleft()
            task.run()

    def abandon(self, task: Task) -> bool:
        """False when it has ended meanwhile."""
        with self.lock:
            if task.done.is_set():
                return False
            if not task.abandoned:
                task.abandoned = True
                self.abandoned += 1
            return True


POOL = Pool()
