"""Runs workflows on this machine, durably: what has happened is committed, and a killed run goes on from there."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import (
    HeadgateError,
    InvalidInputError,
    StageFailedError,
    StaleLeaseError,
)
from headgate.workflow._drive import Drive, Progress, TaskPool
from headgate.workflow._engine import Engine
from headgate.workflow._execution import (
    EXECUTION_ID,
    Execution,
    ExecutionAlreadyExistsError,
    Releasing,
    StateMachine,
    check_workflow_name,
    definition_text,
    input_text,
    no_token,
    not_found,
    parsed,
)
from headgate.workflow._frames import ABORTED, FAILED, RUNNING, SUCCEEDED, Frame
from headgate.workflow._history import History
from headgate.workflow._items import MapObjects
from headgate.workflow._json import describe_not_json, to_text
from headgate.workflow._mocks import Mocks
from headgate.workflow._ports import Jobs
from headgate.workflow._program import Machine
from headgate.workflow._record import Record
from headgate.workflow._store import ExecutionStore, NewExecution
from headgate.workflow._tasks import Port, TaskTable, plain_cause

if TYPE_CHECKING:
    from headgate.ports import Json

log = logging.getLogger("headgate.workflow")
_POLL_US = 100_000  # how often a waiting start() looks for answers from other processes
_REDRIVE_DAYS = 14
_REDRIVES = 1_000


class LocalRunner:
    """Executes definitions of the Amazon States Language.

    Args:
        database: a `LocalDatabase`; executions, their frames and their history live there.
        functions: name -> callable(payload), in the place of Lambda functions.
        clock: waits and retries sleep on it; a clock that jumps (`ManualClock`) makes virtual time.
        objects: the object store of distributed Maps.
        bucket: the bucket whose keys are the object store's own; other buckets are folders in it.
        ports: "service:action" -> callable(request); see `headgate.workflow.local_ports`.
        machines: name -> definition, for tasks that start executions.
        mocks: outcomes of tasks by state name; see `headgate.workflow.Mocks`.
        concurrency: tasks of one execution that run at once, on a real clock.
        lease_s: how long an execution stays with a process that does not renew its lease.

    A runner may be used by several threads at once. Every task attempt is made at least once; its result is committed
    with the state that it leads to, in one transaction.

    Example:
        >>> from headgate.backends.local import LocalDatabase
        >>> from headgate._core import ManualClock
        >>> runner = LocalRunner(LocalDatabase(":memory:"), {"double": lambda n: 2 * n}, ManualClock(0))
        >>> machine = {"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "double", "End": True}}}
        >>> runner.start("doubling", machine, 21).output
        42
    """

    def __init__(
        self,
        database: Any,
        functions: Mapping[str, Callable[[Any], Any]],
        clock: Any,
        *,
        objects: Any = None,
        bucket: str = "workflow",
        ports: Mapping[str, Port] | None = None,
        machines: Mapping[str, StateMachine | Json] | None = None,
        mocks: Mocks | None = None,
        concurrency: int = 32,
        lease_s: float = 30.0,
    ) -> None:
        self.db = database
        self.functions = functions
        self.clock = clock
        self.store = ExecutionStore(database, clock)
        # Jobs may be among the functions; a port of one's own wins.
        self.tasks = TaskTable(functions, {"glue:startJobRun": Jobs(functions).run, **(ports or {})})
        self.machines = dict(machines or {})
        self.mocks = mocks
        self.bucket = bucket
        self.objects = None if objects is None else MapObjects(objects, (bucket,))
        self.concurrency = concurrency
        self.lease_us = int(lease_s * 1e6)
        self.is_real_time = isinstance(clock, core.SystemClock)
        self.pool = TaskPool(concurrency)

    # --- running

    def start(
        self,
        workflow: str,
        definition: Json,
        data: Any,
        execution_id: str | None = None,
        *,
        kind: str = "STANDARD",
        wait: bool = True,
    ) -> Execution:
        """Start an execution and run it to its end.

        The same execution id runs once: a second start with an equal input joins the first, or returns what became of
        it.

        Args:
            workflow: the state machine's name.
            definition: the state machine.
            data: the input, any JSON.
            execution_id: its name; None makes one.
            kind: STANDARD or EXPRESS.
            wait: False returns as soon as the execution waits for something; `run_due` goes on with it.

        Raises:
            InvalidInputError: the definition is broken or needs what this runner does not have, or the input is no
                JSON or too large; nothing was started.
            ExecutionAlreadyExistsError: the id was used with another input.
            StageFailedError: the execution ended without success; error and cause are in the message.
        """
        check_workflow_name(workflow)
        machine = self._check(workflow, definition, kind)
        name = execution_id or str(uuid.uuid4())
        if not EXECUTION_ID.fullmatch(name):
            message = (
                f'execution id {name!r}: expected 1 to 80 characters without spaces or any of <>{{}}[]?*"#%\\^|~`$&,;:/'
            )
            raise InvalidInputError(message)
        given = input_text(workflow, data)
        owner = self._owner()
        now = self.clock.now_us()
        new = NewExecution(name, workflow, str(kind), definition_text(definition), given, started_us=now)
        if self.store.create(new, owner, now + self.lease_us):
            record = Record(name, workflow, str(kind), json.loads(given), now)
            engine = Engine(record, machine, [], History(), self.clock.now_us, self.objects)
            engine.begin()
            with self._releasing(name, owner):
                self._drive(engine, owner)
        else:
            known = self.store.load(name)
            if known is not None and known.record.workflow != workflow:
                message = f"execution {name!r} is one of workflow {known.record.workflow!r}; use another id"
                raise ExecutionAlreadyExistsError(message)
            if known is not None and to_text(known.record.input) != given:
                message = f"execution {name!r} exists with another input; use another id"
                raise ExecutionAlreadyExistsError(message)
        return self.resume(name) if wait else self.describe(name)

    def resume(self, execution_id: str) -> Execution:
        """Go on with an execution to its end, or return it if it has ended.

        On a clock that jumps, an execution that waits for an answer (a task token) without a time limit is returned
        while it is RUNNING: nothing that the clock does can wake it.

        Raises:
            NotFoundError: there is no such execution.
            StageFailedError: it ended without success.
        """
        self._status(execution_id)
        while not self._is_through(execution_id):
            pass
        execution = self.describe(execution_id)
        if execution.status not in (SUCCEEDED, RUNNING):
            verb = {"TIMED_OUT": "timed out", "ABORTED": "was aborted"}.get(execution.status, "failed")
            reason = "".join(f": {part}" for part in (execution.error, plain_cause(execution.cause)) if part)
            message = f"execution {execution_id} {verb}{reason}"
            raise StageFailedError(message)
        return execution

    def _is_through(self, execution_id: str) -> bool:
        """Advance an execution and those that it has started; sleep until the next of them is due."""
        progress = self.advance(execution_id)
        children = self.store.children_of(execution_id)
        for child in children:
            self._advance_family(child)
        if progress.status != RUNNING:
            return True
        left = self.store.children_of(execution_id)
        if left != children:
            return False  # one of them has ended: its parent may go on
        waits = [progress, *(self._peek(child) for child in left)]
        now = self.clock.now_us()
        if progress.held_until_us is not None:  # somebody else runs it: look again soon, or when its lease ends
            self._sleep_until(progress.held_until_us, answers=True)
            return False
        if any(p.wake_us is not None and p.wake_us <= now for p in waits):
            return False
        timers = [p.wake_us for p in waits if p.wake_us is not None and (p.has_timer or not p.waits_for_answer)]
        if not timers and not self.is_real_time:
            return True
        answers = any(p.waits_for_answer for p in waits)
        self._sleep_until(min(timers) if timers else now + _POLL_US, answers=answers)
        return False

    def _advance_family(self, execution_id: str) -> None:
        self.advance(execution_id)
        for child in self.store.children_of(execution_id):
            self._advance_family(child)

    def _peek(self, execution_id: str) -> Progress:
        rows = self.db.execute("SELECT wake_us FROM workflow_runs WHERE execution = ?", (execution_id,))
        return Progress(RUNNING, rows[0][0] if rows else None, has_timer=True)

    def _sleep_until(self, wake_us: int, *, answers: bool = False) -> None:
        left = wake_us - self.clock.now_us()
        if left <= 0:
            return
        if self.is_real_time:
            self.clock.sleep_us(min(left, _POLL_US if answers else 10 * _POLL_US))
        elif hasattr(self.clock, "advance_us"):
            self.clock.advance_us(left)  # a virtual year is one jump, not a sleep in steps
        else:
            self.clock.sleep_us(left)

    def advance(self, execution_id: str) -> Progress:
        """Run an execution until it waits or ends, if nobody else runs it; never sleeps.

        Raises:
            NotFoundError: there is no such execution.
        """
        status = self._status(execution_id)
        if status != RUNNING:
            return Progress(status)
        owner = self._owner()
        taken, holder, until = self.store.claim(execution_id, owner, self.clock.now_us() + self.lease_us)
        if not taken and holder is None:
            self.store.adopt(execution_id)
            taken, holder, until = self.store.claim(execution_id, owner, self.clock.now_us() + self.lease_us)
        if not taken:
            return Progress(self._status(execution_id), held_until_us=until)
        with self._releasing(execution_id, owner):
            engine = self._load(execution_id)
            engine.go_on()
            return self._drive(engine, owner)

    def _drive(self, engine: Engine, owner: str) -> Progress:
        try:
            return Drive(self, engine, owner).run()
        except StaleLeaseError:
            log.info("an execution was taken over", extra={"execution": engine.record.id})
            return Progress(self._status(engine.record.id), held_until_us=self.clock.now_us() + _POLL_US)

    def run_due(self, workflow: str | None = None, *, limit: int = 100) -> list[str]:
        """Advance every execution whose time has come; what one of them fails with does not stop the others.

        Args:
            workflow: only executions of this state machine.
            limit: executions, at most.

        Returns:
            The executions that were advanced.
        """
        found = self.store.due(self.clock.now_us(), limit, workflow)
        for execution in found:
            try:
                self.advance(execution)
            except HeadgateError as error:
                log.warning("an execution cannot go on", extra={"execution": execution, "error": str(error)})
            except Exception as error:
                log.error("an execution cannot go on", extra={"execution": execution, "error": type(error).__name__})
        return found

    def next_wake_us(self) -> int | None:
        """When the next running execution is due, in microseconds; None if none is."""
        return self.store.next_wake_us()

    # --- looking

    def running(self) -> list[str]:
        """Executions that have not ended: those of a killed process among them."""
        return [row[0] for row in self.db.execute("SELECT id FROM executions WHERE status = 'RUNNING' ORDER BY id")]

    def describe(self, execution_id: str, *, history: bool = True) -> Execution:
        """An execution as it stands.

        Raises:
            NotFoundError: there is no such execution.
        """
        rows = self.db.execute(
            "SELECT e.workflow, e.status, e.input, e.output, e.error, e.cause, e.started_us, e.ended_us, r.kind,"
            " r.redrives"
            " FROM executions e LEFT JOIN workflow_runs r ON r.execution = e.id WHERE e.id = ?",
            (execution_id,),
        )
        if not rows:
            raise not_found(execution_id)
        workflow, status, data, output, error, cause, started, ended, kind, redrives = rows[0]
        return Execution(
            execution_id, status, error, cause, self.store.history(execution_id) if history else [],
            None if output is None else json.loads(output), workflow, kind or "STANDARD", json.loads(data), started,
            ended, redrives or 0,
        )  # fmt: skip

    def executions(self, workflow: str | None = None, *, limit: int = 100) -> list[Execution]:
        """The latest executions, newest first, without their history."""
        rows = self.db.execute(
            "SELECT id FROM executions WHERE ? IS NULL OR workflow = ? ORDER BY started_us DESC, id LIMIT ?",
            (workflow, workflow, limit),
        )
        return [self.describe(row[0], history=False) for row in rows]

    def history(self, execution_id: str) -> list[Json]:
        """The events of an execution.

        Raises:
            NotFoundError: there is no such execution.
        """
        self._status(execution_id)
        return self.store.history(execution_id)

    # --- ending and redriving

    def stop(self, execution_id: str, error: str | None = None, cause: str | None = None) -> Execution:
        """End a running execution as ABORTED. A task that is running is not interrupted; its result is dropped.

        Raises:
            NotFoundError: there is no such execution.
        """
        if self._status(execution_id) == RUNNING:
            owner = self._owner()
            self.store.adopt(execution_id)
            self.db.execute(
                "UPDATE workflow_runs SET owner = ?, until_us = ? WHERE execution = ?",
                (owner, self.clock.now_us() + self.lease_us, execution_id),
            )
            engine = self._load(execution_id, check=False)
            engine.end(ABORTED, None, error=error, cause=cause)
            self.store.commit(engine, owner, None, [], None)
        return self.describe(execution_id)

    def redrive(self, execution_id: str, *, wait: bool = True) -> Execution:
        """Go on with a failed execution from where it failed; states that have succeeded are not run again.

        Raises:
            NotFoundError: there is no such execution.
            InvalidInputError: it cannot be redriven: it runs, has succeeded, is Express, ended more than 14 days ago,
                or has used up 1,000 redrives or its history.
            StageFailedError: it failed again.
        """
        execution = self.describe(execution_id, history=False)
        reason = self._not_redrivable(execution)
        if reason:
            message = f"execution {execution_id!r} cannot be redriven: {reason}"
            raise InvalidInputError(message)
        owner = self._owner()
        with self.db.transaction() as tx:
            changed = tx.changes(
                "UPDATE executions SET status = 'RUNNING', error = NULL, cause = NULL, ended_us = NULL"
                " WHERE id = ? AND status = ?",
                (execution_id, execution.status),
            )
            if changed:
                tx.execute(
                    "UPDATE workflow_runs SET owner = ?, until_us = ? WHERE execution = ?",
                    (owner, self.clock.now_us() + self.lease_us, execution_id),
                )
                engine = self._load(execution_id)
                engine.redrive()
                self.store.commit_in(tx, engine, owner, self.clock.now_us() + self.lease_us)
        if changed:
            with self._releasing(execution_id, owner):
                self._drive(engine, owner)
        return self.resume(execution_id) if wait else self.describe(execution_id)

    def _not_redrivable(self, execution: Execution) -> str | None:
        if execution.status not in (FAILED, ABORTED, "TIMED_OUT"):
            return f"its status is {execution.status}"
        if execution.kind == "EXPRESS":
            return "Express executions cannot be"
        if execution.redrives >= _REDRIVES:
            return f"it was redriven {_REDRIVES} times"
        if self.clock.now_us() - (execution.ended_us or 0) > _REDRIVE_DAYS * 86_400_000_000:
            return f"it ended more than {_REDRIVE_DAYS} days ago"
        loaded = self.store.load(execution.id)
        if loaded is None or not loaded.frames:
            return "its frames are not there any more"
        if loaded.next_event >= 24_999:
            return "its history is full"
        return None

    # --- task tokens and activities

    def send_task_success(self, token: str, output: Any) -> None:
        """Answer a task token with a result; any process may, at any time until the task times out.

        Raises:
            InvalidInputError: nobody waits for the token, or the result is no JSON.
        """
        problem = describe_not_json(output)
        if problem is not None:
            message = f"the output of a task must be JSON: {problem}"
            raise InvalidInputError(message)
        self._answer(token, SUCCEEDED, to_text(output), None, None)

    def send_task_failure(self, token: str, error: str = "", cause: str = "") -> None:
        """Answer a task token with an error.

        Raises:
            InvalidInputError: nobody waits for the token.
        """
        self._answer(token, FAILED, None, error, cause)

    def send_task_heartbeat(self, token: str) -> None:
        """Tell that a task is still being worked on.

        Raises:
            InvalidInputError: nobody waits for the token.
        """
        if not self.store.beat(token):
            raise no_token()

    def get_activity_task(self, activity: str) -> tuple[str, Any] | None:
        """Take the longest waiting task of an activity: its token and its input; None if there is none.

        Args:
            activity: its name or ARN.
        """
        found = self.store.take_activity(activity.rpartition(":")[2])
        return None if found is None else (found[0], json.loads(found[1]))

    def _answer(self, token: str, status: str, output: str | None, error: str | None, cause: str | None) -> None:
        if self.store.answer(token, status, output, error, cause) is None:
            raise no_token()

    # --- parts

    def machine(self, arn: str) -> tuple[str, str, str] | None:
        """A state machine by its ARN or name: its name, its definition as text, and its kind."""
        name = arn.rpartition(":")[2]
        found = self.machines.get(arn, self.machines.get(name))
        if found is None:
            return None
        if isinstance(found, StateMachine):
            return name, definition_text(found.definition), found.kind
        return name, definition_text(found), "STANDARD"

    def _check(self, workflow: str, definition: Json, kind: str) -> Machine:
        found = parsed(definition_text(definition), str(kind))
        if found.machine is None:
            problems = "; ".join(str(finding) for finding in found.errors)
            message = f"workflow {workflow!r}: {problems}"
            raise InvalidInputError(message)
        self._check_supported(workflow, found.machine)
        return found.machine

    def _check_supported(self, workflow: str, machine: Machine) -> None:
        # With mocks, what is neither mocked nor there fails when it is reached: a test may stop before.
        missing = self.tasks.missing(machine) if self.mocks is None else []
        if missing:
            message = f"workflow {workflow!r}: {'; '.join(missing)}"
            raise InvalidInputError(message)

    def _load(self, execution_id: str, *, check: bool = True) -> Engine:
        loaded = self.store.load(execution_id)
        if loaded is None:
            raise not_found(execution_id)
        record = loaded.record
        machine = parsed(loaded.definition, record.kind).machine
        if machine is None:
            message = f"execution {execution_id!r}: its definition is not valid any more"
            raise InvalidInputError(message)
        if check:
            self._check_supported(record.workflow, machine)
        frames, cursor = loaded.frames, loaded.cursor
        is_new = not frames
        if is_new and cursor.get("state") in machine.states:  # committed by an earlier version of this package
            frames = [Frame(1, None, machine.path, cursor["state"], cursor.get("input"))]
        engine = Engine(record, machine, frames, History(loaded.next_event), self.clock.now_us, self.objects)
        engine.next_frame = max(engine.next_frame, loaded.next_frame)
        if not frames:
            engine.begin()
            engine.ready.clear()  # go_on() finds it
        return engine

    def _status(self, execution_id: str) -> str:
        found = self.store.status_of(execution_id)
        if found is None:
            raise not_found(execution_id)
        return found[0]

    def _owner(self) -> str:
        return f"{core.process_identity()}/{uuid.uuid4().hex[:12]}"

    def _releasing(self, execution_id: str, owner: str) -> Releasing:
        return Releasing(self.store, execution_id, owner)
