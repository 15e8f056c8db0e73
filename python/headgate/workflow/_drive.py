"""Drives one execution: runs its tasks, hands outcomes to the engine, and commits."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.workflow._attempts import (
    Done,
    Failed,
    Outcome,
    Submitted,
    TaskRequest,
    TimedOut,
    apply_outcome,
    request_of,
    set_deadline,
)
from headgate.workflow._engine import Engine
from headgate.workflow._execution import EXECUTION_ID
from headgate.workflow._frames import CALLBACK, FAILED, JOB, RUNNING, SUCCEEDED, TASK, Frame
from headgate.workflow._json import load_json, to_text
from headgate.workflow._mocks import is_submitted_first
from headgate.workflow._store import TAKEN, NewExecution

if TYPE_CHECKING:
    from headgate.workflow._runner import LocalRunner

_FLUSH_S = 1.0  # a task that runs longer is shown in the history before it ends


@dataclass(frozen=True)
class Progress:
    """How far an execution came.

    Args:
        status: RUNNING while it waits for something.
        wake_us: when to come back; None when it has ended.
        has_timer: whether something is due then, other than the end of the execution's time.
        waits_for_answer: whether a task token or another execution may wake it at any time.
        held_until_us: somebody else runs it, and its lease ends then.
    """

    status: str
    wake_us: int | None = None
    has_timer: bool = False
    waits_for_answer: bool = False
    held_until_us: int | None = None


class TaskPool:
    """Runs tasks on daemon threads, which are started as they are needed.

    A task that outlives its time limit is given up, not stopped: its thread goes on until the function returns.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._work: queue.SimpleQueue[tuple[Callable[[], Outcome], queue.SimpleQueue[Any], Any]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0

    def submit(self, work: Callable[[], Outcome], results: queue.SimpleQueue[Any], tag: Any) -> None:
        """Run `work()` and put (tag, outcome) into `results`."""
        with self._lock:
            if self._idle == 0 and self._threads < self._most:
                self._threads += 1
                threading.Thread(target=self._serve, name="headgate-task", daemon=True).start()
            else:
                self._idle -= 1
        self._work.put((work, results, tag))

    def _serve(self) -> None:
        while True:
            work, results, tag = self._work.get()
            try:
                outcome: Any = work()
            except BaseException as error:
                outcome = error
            with self._lock:
                self._idle += 1
            results.put((tag, outcome))


class Drive:
    """One owner's work on one execution, until it waits or ends.

    Args:
        runner: whose functions, mocks and store are used.
        engine: the execution.
        owner: holds the lease.
    """

    def __init__(self, runner: LocalRunner, engine: Engine, owner: str) -> None:
        self.runner = runner
        self.engine = engine
        self.owner = owner
        self.store = runner.store
        self.clock = runner.clock
        self.new: list[NewExecution] = []
        self.results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.in_flight: dict[int, tuple[TaskRequest, int | None]] = {}
        self.committed_us = self.clock.now_us()

    def run(self) -> Progress:
        """Go on until the execution waits or ends; what was done is committed.

        Raises:
            StaleLeaseError: the lease was taken over; what was not committed is lost, and is done again by the other.
        """
        engine = self.engine
        while True:
            self._take_answers()
            engine.fire_due()
            engine.run_ready()
            engine.check_deadline()
            if engine.status != RUNNING:
                self._commit(None, None)
                return Progress(engine.status)
            if engine.tasks or self.in_flight:
                if self.runner.is_real_time:
                    self._on_threads()
                else:
                    self._run_one()
                continue
            wake, has_timer = engine.next_wake_us()
            if wake > self.clock.now_us() and not self._has_answers():
                self._commit(None, wake)
                return Progress(RUNNING, wake, has_timer, bool(self._waiting()))

    # --- tasks

    def _run_one(self) -> None:
        """Run the next task here and now, and measure its time on the clock."""
        frame = self._next_task()
        if frame is None:
            return
        request, outcome = self._prepare(frame)
        if outcome is None:
            before = self.clock.now_us()
            outcome = self.runner.tasks.run(request)
            took_us = self.clock.now_us() - before
            if request.timeout_s is not None and took_us > request.timeout_s * 1_000_000:
                outcome = TimedOut()
        self._apply(frame, request, outcome)
        self._commit_task()

    def _on_threads(self) -> None:
        """Start what can be started, wait for an outcome or a time, and apply what has come."""
        engine = self.engine
        while engine.tasks and len(self.in_flight) < self.runner.concurrency:
            frame = self._next_task()
            if frame is None:
                continue
            request, outcome = self._prepare(frame)
            if outcome is not None:
                self._apply(frame, request, outcome)
                self._commit_task()
                return
            limit = None if request.timeout_s is None else self.clock.now_us() + request.timeout_s * 1_000_000
            self.in_flight[frame.id] = (request, limit)
            self.runner.pool.submit(partial(self.runner.tasks.run, request), self.results, request)
        if self.in_flight and self._collect():
            engine.run_ready()
            self._commit_task()

    def _collect(self) -> bool:
        """Wait for outcomes; whether there were any."""
        now = self.clock.now_us()
        times = [limit for _, limit in self.in_flight.values() if limit is not None]
        times.append(self.engine.next_wake_us()[0])
        patience = max(0.0, min(_FLUSH_S, (min(times) - now) / 1e6))
        got = False
        try:
            item = self.results.get(timeout=patience)
            while True:
                got |= self._arrived(*item)
                item = self.results.get_nowait()
        except queue.Empty:
            pass
        now = self.clock.now_us()
        for number, (request, limit) in list(self.in_flight.items()):
            if limit is not None and now >= limit:
                del self.in_flight[number]
                frame = self.engine.frames.get(number)
                if frame is not None and frame.is_running and frame.phase == TASK:
                    self._apply(frame, request, TimedOut())
                    got = True
        self._forget_abandoned()
        if not got and now - self.committed_us > min(_FLUSH_S * 1e6, self.runner.lease_us / 3):
            self._commit(self._until(), self.engine.next_wake_us()[0])
        return got

    def _arrived(self, request: TaskRequest, outcome: Any) -> bool:
        for number, (waiting, _) in list(self.in_flight.items()):
            if waiting.key != request.key:
                continue
            del self.in_flight[number]
            frame = self.engine.frames.get(number)
            if frame is None or not frame.is_running or frame.phase != TASK:
                return False
            if isinstance(outcome, BaseException):
                raise outcome
            self._apply(frame, request, outcome)
            return True
        return False  # given up before

    def _forget_abandoned(self) -> None:
        for number in list(self.in_flight):
            frame = self.engine.frames.get(number)
            if frame is None or not frame.is_running or frame.phase != TASK:
                del self.in_flight[number]

    def _next_task(self) -> Frame | None:
        frame = self.engine.frames.get(self.engine.tasks.popleft())
        return frame if frame is not None and frame.is_running and frame.phase == TASK else None

    def _prepare(self, frame: Frame) -> tuple[TaskRequest, Outcome | None]:
        """The request, and its outcome if it needs no function to be called."""
        request = request_of(self.engine, frame)
        mocks = self.runner.mocks
        if mocks is not None and request.state in mocks:
            outcome = mocks.outcome(request, self.engine.record.mock_calls)
            if is_submitted_first(request, outcome):
                apply_outcome(self.engine, frame, Submitted({}))
                frame.wake_us = None
            return request, outcome
        if (request.resource.service, request.resource.action) == ("states", "startExecution"):
            return request, self._start_execution(request)
        if request.resource.pattern == "waitForTaskToken":
            # The token is known to the store before anybody can answer it.
            self._commit(self._until(), None)
        return request, None

    def _apply(self, frame: Frame, request: TaskRequest, outcome: Outcome) -> None:
        apply_outcome(self.engine, frame, outcome)

    def _commit_task(self) -> None:
        """Commit what a task has brought, unless the loop is about to commit anyway."""
        engine = self.engine
        engine.run_ready()
        if engine.status == RUNNING and (engine.tasks or self.in_flight):
            self._commit(self._until(), self.clock.now_us())

    # --- other executions

    def _start_execution(self, request: TaskRequest) -> Outcome:
        given = request.arguments if isinstance(request.arguments, dict) else {}
        arn = str(given.get("StateMachineArn", ""))
        found = self.runner.machine(arn)
        if found is None:
            return Failed(
                "StepFunctions.StateMachineDoesNotExistException",
                f"State Machine Does Not Exist: '{arn}' (Service: AWSStepFunctions; Status Code: 400)",
            )
        name, definition, kind = found
        data = given.get("Input", {})
        if isinstance(data, str):
            try:
                data = load_json(data)
            except ValueError:
                cause = "Invalid State Machine Execution Input: 'Input' is no JSON"
                return Failed("StepFunctions.InvalidExecutionInputException", cause)
        child = str(given.get("Name") or request.key.replace(":", "-"))
        if given.get("Name") and EXECUTION_ID.fullmatch(child) is None:  # one of ours may be longer
            cause = f"Invalid Name: '{child[:80]}' (Service: AWSStepFunctions; Status Code: 400)"
            return Failed("StepFunctions.InvalidNameException", cause)
        new = NewExecution(child, name, kind, definition, to_text(data), self.engine.record.id)
        known = self.store.load(child)
        # Ids are the store's: the execution of another state machine is not this one's.
        if known is not None and (known.record.workflow, to_text(known.record.input)) != (name, new.input):
            return Failed(
                "StepFunctions.ExecutionAlreadyExistsException",
                f"Execution Already Exists: '{child}' (Service: AWSStepFunctions; Status Code: 400)",
            )
        if known is None:
            self.new.append(new)
        now = core.format_timestamp(self.clock.now_us())
        answer = {"ExecutionArn": f"arn:aws:states:local:000000000000:execution:{name}:{child}", "StartDate": now}
        if request.resource.is_sync:
            return Submitted(answer, child)
        return Submitted(answer) if request.resource.pattern else Done(answer)

    def _child_outcome(self, frame: Frame) -> Outcome | None:
        child = frame.data["child"]
        if any(new.id == child for new in self.new):
            return None
        loaded = self.store.load(child)
        answer = self.store.status_of(child)
        if loaded is None or answer is None or answer[0] == RUNNING:
            return None
        status, output, error, cause = answer
        record = loaded.record
        request = request_of(self.engine, frame)
        doc: dict[str, Any] = {
            "ExecutionArn": record.arn, "Input": to_text(record.input), "InputDetails": {"Included": True},
            "Name": child, "RedriveCount": record.redrives,
            "StartDate": core.format_timestamp(record.started_us), "StateMachineArn": record.machine_arn,
            "Status": status, "StopDate": core.format_timestamp(self.clock.now_us()),
        }  # fmt: skip
        if status != SUCCEEDED:
            doc |= {k: v for k, v in (("Error", error), ("Cause", cause)) if v is not None}
            return Failed("States.TaskFailed", to_text(doc))
        plain = request.resource.pattern == "sync:2"
        doc |= {"Output": json.loads(output or "null") if plain else output, "OutputDetails": {"Included": True}}
        if plain:
            doc["Input"] = record.input
        return Done(doc)

    # --- answers

    def _waiting(self) -> list[Frame]:
        return [frame for frame in self.engine.waiting() if frame.phase in (CALLBACK, JOB)]

    def _has_answers(self) -> bool:
        """Whether an answer has come since they were last looked at."""
        waiting = self._waiting()
        if any(f.phase == JOB and self._child_outcome(f) is not None for f in waiting):
            return True
        tokens = {f.data.get("token") for f in waiting if f.phase == CALLBACK}
        if not tokens:
            return False
        ended = (SUCCEEDED, FAILED)
        return any(a.status in ended and a.token in tokens for a in self.store.answers(self.engine.record.id))

    def _take_answers(self) -> None:
        waiting = self._waiting()
        if not waiting:
            return
        tokens = {f.data["token"]: f for f in waiting if f.phase == CALLBACK and "token" in f.data}
        for answer in self.store.answers(self.engine.record.id) if tokens else ():
            frame = tokens.get(answer.token)
            if frame is None or not frame.is_running or frame.phase != CALLBACK:
                continue
            if answer.status == SUCCEEDED:
                apply_outcome(self.engine, frame, Done(json.loads(answer.output or "null")))
            elif answer.status == FAILED:
                apply_outcome(self.engine, frame, Failed(answer.error, answer.cause))
            else:
                self._heard(frame, answer.status, answer.beat_us)
        for frame in waiting:
            outcome = self._child_outcome(frame) if frame.is_running and frame.phase == JOB else None
            if outcome is not None:
                apply_outcome(self.engine, frame, outcome)

    def _heard(self, frame: Frame, status: str, beat_us: int) -> None:
        """A heartbeat, or a worker that has taken an activity's task."""
        if status == TAKEN and not frame.data.get("taken"):
            frame.data["taken"] = True
            self.engine.emit(frame, "ActivityStarted")
            self.engine.dirty.add(frame.id)
        if beat_us > frame.data.get("beat_us", 0):
            frame.data["beat_us"] = beat_us
            set_deadline(frame)
            self.engine.dirty.add(frame.id)

    # --- commits

    def _until(self) -> int:
        return int(self.clock.now_us()) + self.runner.lease_us

    def _commit(self, until_us: int | None, wake_us: int | None) -> None:
        new, self.new = self.new, []
        self.store.commit(self.engine, self.owner, until_us, new, wake_us)
        self.committed_us = self.clock.now_us()
