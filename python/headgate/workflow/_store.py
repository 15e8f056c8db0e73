"""Executions, frames, history and task tokens in the embedded store."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from headgate._native import core
from headgate.errors import StaleLeaseError
from headgate.workflow._engine import Engine
from headgate.workflow._frames import RUNNING, SUCCEEDED, Frame
from headgate.workflow._history import details_name
from headgate.workflow._json import to_text
from headgate.workflow._record import Record

if TYPE_CHECKING:
    from headgate.ports import Json

_TABLES = (
    """CREATE TABLE IF NOT EXISTS workflow_runs (
        execution TEXT PRIMARY KEY, kind TEXT NOT NULL, owner TEXT, until_us INTEGER NOT NULL, wake_us INTEGER,
        parent TEXT, next_event INTEGER NOT NULL, next_frame INTEGER NOT NULL, redrives INTEGER NOT NULL DEFAULT 0,
        redriven_us INTEGER NOT NULL DEFAULT 0, mock_calls TEXT
    ) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS workflow_runs_due ON workflow_runs (wake_us) WHERE wake_us IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS workflow_runs_children ON workflow_runs (parent) WHERE parent IS NOT NULL",
    """CREATE TABLE IF NOT EXISTS workflow_frames (
        execution TEXT NOT NULL, id INTEGER NOT NULL, parent INTEGER, status TEXT NOT NULL, doc TEXT NOT NULL,
        items TEXT, PRIMARY KEY (execution, id)
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS workflow_tokens (
        token TEXT PRIMARY KEY, execution TEXT NOT NULL, frame INTEGER NOT NULL, activity TEXT, status TEXT NOT NULL,
        input TEXT, output TEXT, error TEXT, cause TEXT, beat_us INTEGER NOT NULL, created_us INTEGER NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS workflow_tokens_of ON workflow_tokens (execution)",
    "CREATE INDEX IF NOT EXISTS workflow_tokens_waiting ON workflow_tokens (activity, created_us)"
    " WHERE status = 'waiting' AND activity IS NOT NULL",
)
WAITING, TAKEN = "waiting", "taken"  # first states of a task token; it ends as SUCCEEDED or FAILED


@dataclass(frozen=True)
class NewExecution:
    """An execution that is to be created."""

    id: str
    workflow: str
    kind: str
    definition: str
    input: str
    parent: str | None = None
    started_us: int | None = None  # None: the time of its commit


@dataclass
class Loaded:
    """An execution as it was committed."""

    record: Record
    definition: str
    status: str
    frames: list[Frame]
    next_event: int
    next_frame: int
    cursor: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What somebody has sent for a task token."""

    token: str
    frame: int
    status: str
    output: str | None
    error: str | None
    cause: str | None
    beat_us: int


class _Job:
    def __init__(self, work: Callable[[Any], Any]) -> None:
        self.work = work
        self.is_done = False
        self.result: Any = None
        self.error: BaseException | None = None


class GroupCommit:
    """Makes one transaction of what several threads commit at the same time.

    The first thread that comes commits for all that have come meanwhile; each of them gets its own result or error. It
    does not keep its database: the stores of a database share it by a weak reference to that.
    """

    def __init__(self) -> None:
        self._list = threading.Lock()
        self._turn = threading.Lock()
        self._pending: list[_Job] = []

    def run(self, database: Any, work: Callable[[Any], Any]) -> Any:
        """Run `work(transaction)` in the database, always the same one; returns what `work` does, once committed."""
        job = _Job(work)
        with self._list:
            self._pending.append(job)
        with self._turn:
            if not job.is_done:
                with self._list:
                    batch, self._pending = self._pending, []
                self._commit(database, batch)
        if job.error is not None:
            raise job.error
        return job.result

    def _commit(self, database: Any, batch: list[_Job]) -> None:
        try:
            with database.transaction() as tx:
                for job in batch:
                    job.result = job.work(tx)
        except BaseException as error:
            if len(batch) == 1:
                batch[0].error, batch[0].is_done = error, True
                return
            for job in batch:  # one of them is to blame: each on its own
                self._commit(database, [job])
            return
        for job in batch:
            job.is_done = True


_COMMITTERS: WeakKeyDictionary[Any, GroupCommit] = WeakKeyDictionary()
_COMMITTERS_LOCK = threading.Lock()


class ExecutionStore:
    """The tables of executions in a `LocalDatabase`.

    Args:
        database: the store.
        clock: tells the time of rows.
    """

    def __init__(self, database: Any, clock: Any) -> None:
        self.db = database
        self.clock = clock
        with _COMMITTERS_LOCK:
            known = database in _COMMITTERS
            self._group = _COMMITTERS.setdefault(database, GroupCommit())
        if not known:
            with database.transaction() as tx:
                for statement in _TABLES:
                    tx.execute(statement)

    # --- creating and claiming

    def create(self, new: NewExecution, owner: str | None, until_us: int) -> bool:
        """Create an execution, claimed by an owner; False if there is one of this id."""

        def work(tx: Any) -> bool:
            core.fault_point("workflow.before_commit")
            return self._insert(tx, new, owner, until_us)

        created = bool(self._group.run(self.db, work))
        core.fault_point("workflow.after_commit")
        return created

    def _insert(self, tx: Any, new: NewExecution, owner: str | None, until_us: int) -> bool:
        now = self.clock.now_us() if new.started_us is None else new.started_us
        added = tx.changes(
            "INSERT INTO executions (id, workflow, status, definition, input, started_us, cursor)"
            " VALUES (?, ?, 'RUNNING', ?, ?, ?, '{}') ON CONFLICT (id) DO NOTHING",
            (new.id, new.workflow, new.definition, new.input, now),
        )
        if added:
            tx.execute(
                "INSERT INTO workflow_runs (execution, kind, owner, until_us, wake_us, parent, next_event, next_frame)"
                " VALUES (?, ?, ?, ?, ?, ?, 1, 1)",
                (new.id, new.kind, owner, until_us, now, new.parent),
            )
        return bool(added)

    def claim(self, execution: str, owner: str, until_us: int) -> tuple[bool, str | None, int]:
        """Take the lease of a running execution if it is free, or was held by `owner`'s former self.

        Returns:
            Whether it was taken; otherwise who holds it, and until when.
        """
        with self.db.transaction() as tx:
            now = self.clock.now_us()
            rows = tx.execute(
                "SELECT r.owner, r.until_us FROM workflow_runs r JOIN executions e ON e.id = r.execution"
                " WHERE r.execution = ? AND e.status = 'RUNNING'",
                (execution,),
            )
            if not rows:
                return False, None, 0
            holder, until = rows[0]
            if holder is not None and until > now and not _is_dead(holder):
                return False, holder, until
            tx.execute(
                "UPDATE workflow_runs SET owner = ?, until_us = ? WHERE execution = ?", (owner, until_us, execution)
            )
        return True, owner, until_us

    def release(self, execution: str, owner: str) -> None:
        """Give a lease back, if it is still this owner's."""
        self.db.execute(
            "UPDATE workflow_runs SET owner = NULL, until_us = 0 WHERE execution = ? AND owner = ?", (execution, owner)
        )

    def adopt(self, execution: str) -> None:
        """Give an execution of an earlier version of this package the row that it lacks."""
        self.db.execute(
            "INSERT INTO workflow_runs (execution, kind, until_us, wake_us, next_event, next_frame)"
            " SELECT id, 'STANDARD', 0, started_us, 1, 1 FROM executions WHERE id = ? AND status = 'RUNNING'"
            " ON CONFLICT (execution) DO NOTHING",
            (execution,),
        )

    # --- reading

    def load(self, execution: str) -> Loaded | None:
        """An execution and all of its frames; None if there is none."""
        rows = self.db.execute(
            "SELECT e.workflow, e.status, e.definition, e.input, e.started_us, e.cursor, r.kind, r.next_event,"
            " r.next_frame, r.redrives, r.redriven_us, r.mock_calls"
            " FROM executions e LEFT JOIN workflow_runs r ON r.execution = e.id WHERE e.id = ?",
            (execution,),
        )
        if not rows:
            return None
        workflow, status, definition, data, started, cursor, kind, event, frame, redrives, redriven, mocks = rows[0]
        record = Record(
            execution, workflow, kind or "STANDARD", json.loads(data), started, redrives or 0, redriven or 0,
            json.loads(mocks) if mocks else {},
        )  # fmt: skip
        frames = [
            Frame.from_row(*row)
            for row in self.db.execute(
                "SELECT id, parent, status, doc, items FROM workflow_frames WHERE execution = ? ORDER BY id",
                (execution,),
            )
        ]
        return Loaded(record, definition, status, frames, event or 1, frame or 1, json.loads(cursor or "{}"))

    def answers(self, execution: str) -> list[Answer]:
        """What has been sent for the tokens of an execution, heartbeats included."""
        rows = self.db.execute(
            "SELECT token, frame, status, output, error, cause, beat_us FROM workflow_tokens WHERE execution = ?",
            (execution,),
        )
        return [Answer(*row) for row in rows]

    def status_of(self, execution: str) -> tuple[str, str | None, str | None, str | None] | None:
        """Status, output (as text), error and cause; None if there is no such execution."""
        rows = self.db.execute("SELECT status, output, error, cause FROM executions WHERE id = ?", (execution,))
        return rows[0] if rows else None

    def children_of(self, execution: str) -> list[str]:
        """Running executions that an execution has started."""
        rows = self.db.execute(
            "SELECT r.execution FROM workflow_runs r JOIN executions e ON e.id = r.execution"
            " WHERE r.parent = ? AND e.status = 'RUNNING' ORDER BY r.execution",
            (execution,),
        )
        return [row[0] for row in rows]

    def due(self, now_us: int, limit: int, workflow: str | None = None) -> list[str]:
        """Running executions whose time to go on has come, the longest waiting first."""
        rows = self.db.execute(
            "SELECT r.execution FROM workflow_runs r JOIN executions e ON e.id = r.execution"
            " WHERE r.wake_us <= ? AND e.status = 'RUNNING' AND (? IS NULL OR e.workflow = ?)"
            " ORDER BY r.wake_us LIMIT ?",
            (now_us, workflow, workflow, limit),
        )
        return [row[0] for row in rows]

    def next_wake_us(self) -> int | None:
        """When the next running execution is due."""
        rows = self.db.execute(
            "SELECT min(r.wake_us) FROM workflow_runs r JOIN executions e ON e.id = r.execution"
            " WHERE e.status = 'RUNNING'"
        )
        return rows[0][0]  # type: ignore[no-any-return]

    def history(self, execution: str) -> list[Json]:
        """The events of an execution, in order."""
        rows = self.db.execute(
            "SELECT type, state, at_us, doc FROM execution_events WHERE execution = ? ORDER BY id", (execution,)
        )
        return [_event(*row) for row in rows]

    # --- committing

    def commit(
        self, engine: Engine, owner: str, until_us: int | None, new: list[NewExecution], wake_us: int | None
    ) -> None:
        """Commit what an engine has done since the last commit, if the lease is still this owner's.

        Args:
            engine: the execution.
            owner: who runs it.
            until_us: the lease's new end; None gives it back.
            new: executions that it starts.
            wake_us: when it is to go on by itself.

        Raises:
            StaleLeaseError: somebody else runs it now; nothing was written.
        """
        self._group.run(self.db, self._work(engine, owner, until_us, new, wake_us))
        core.fault_point("workflow.after_commit")

    def commit_in(self, tx: Any, engine: Engine, owner: str, until_us: int) -> None:
        """As `commit`, as part of a transaction that is open."""
        self._work(engine, owner, until_us, [], self.clock.now_us())(tx)

    def _work(
        self, engine: Engine, owner: str, until_us: int | None, new: list[NewExecution], wake_us: int | None
    ) -> Callable[[Any], None]:  # fmt: skip
        record = engine.record
        events = engine.history.take()
        dirty = [engine.frames[number] for number in engine.dirty if number in engine.frames]
        items = [engine.frames[number] for number in engine.new_items if number in engine.frames]
        deleted = engine.deleted
        engine.dirty, engine.new_items, engine.deleted = set(), set(), []
        rows = [(record.id, f.id, f.parent, f.status, f.to_row()) for f in dirty]
        tokens = [f for f in dirty if f.is_running and "token" in f.data and f.phase in ("task", "callback")]
        now = self.clock.now_us()

        def work(tx: Any) -> None:
            core.fault_point("workflow.before_commit")
            has_ended = engine.status != RUNNING
            held = tx.changes(
                "UPDATE workflow_runs SET owner = ?, until_us = ?, wake_us = ?, next_event = ?, next_frame = ?,"
                " redrives = ?, redriven_us = ?, mock_calls = ? WHERE execution = ? AND owner = ?",
                (
                    None if has_ended or until_us is None else owner, until_us or 0, None if has_ended else wake_us,
                    engine.history.next_id, engine.next_frame, record.redrives, record.redriven_us,
                    to_text(record.mock_calls) if record.mock_calls else None, record.id, owner,
                ),
            )  # fmt: skip
            if not held:
                raise StaleLeaseError(f"execution {record.id} is run by somebody else: its lease was taken over")
            if events:
                tx.native.execute_many(
                    "INSERT INTO execution_events (execution, at_us, type, state, doc) VALUES (?, ?, ?, ?, ?)",
                    [(record.id, at, kind, state, to_text(doc)) for at, kind, state, doc in events],
                )
            if engine.status == SUCCEEDED:
                tx.execute("DELETE FROM workflow_frames WHERE execution = ?", (record.id,))
            else:
                self._write_frames(tx, record.id, deleted, rows, items)
            self._write_tokens(tx, engine, tokens, now)
            for child in new:
                self._insert(tx, child, None, 0)
            if has_ended:
                self._end(tx, engine, now)

        return work

    @staticmethod
    def _write_frames(
        tx: Any, execution: str, deleted: list[int], rows: list[tuple[Any, ...]], items: list[Frame]
    ) -> None:  # fmt: skip
        if deleted:
            tx.native.execute_many(
                "DELETE FROM workflow_frames WHERE execution = ? AND id = ?",
                [(execution, number) for number in deleted],
            )
        if rows:
            tx.native.execute_many(
                "INSERT INTO workflow_frames (execution, id, parent, status, doc) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (execution, id) DO UPDATE SET status = excluded.status, doc = excluded.doc",
                rows,
            )
        for frame in items:
            text = to_text(frame.data["items"]) if "items" in frame.data else None
            tx.execute(
                "UPDATE workflow_frames SET items = ? WHERE execution = ? AND id = ?", (text, execution, frame.id)
            )

    @staticmethod
    def _write_tokens(tx: Any, engine: Engine, frames: list[Frame], now: int) -> None:
        for frame in frames:
            resource = engine.state_of(frame).resource  # type: ignore[attr-defined]
            activity = resource.action if resource.kind == "activity" else None
            tx.execute(
                "INSERT INTO workflow_tokens (token, execution, frame, activity, status, input, beat_us, created_us)"
                " VALUES (?, ?, ?, ?, 'waiting', ?, ?, ?) ON CONFLICT (token) DO NOTHING",
                (frame.data["token"], engine.record.id, frame.id, activity, to_text(frame.data["arguments"]), now, now),
            )

    @staticmethod
    def _end(tx: Any, engine: Engine, now: int) -> None:
        record = engine.record
        output = to_text(engine.output) if engine.status == SUCCEEDED else None
        tx.execute(
            "UPDATE executions SET status = ?, output = ?, error = ?, cause = ?, ended_us = ? WHERE id = ?",
            (engine.status, output, engine.error, engine.cause, now, record.id),
        )
        tx.execute("DELETE FROM workflow_tokens WHERE execution = ?", (record.id,))
        # Whoever waits for it goes on at once.
        tx.execute(
            "UPDATE workflow_runs SET wake_us = ? WHERE execution ="
            " (SELECT parent FROM workflow_runs WHERE execution = ?)",
            (now, record.id),
        )

    # --- tokens

    def answer(self, token: str, status: str, output: str | None, error: str | None, cause: str | None) -> str | None:
        """Keep the answer to a token; the activity's or the callback's execution is due then.

        Returns:
            The execution, or None: there is no such token, or it has been answered.
        """
        with self.db.transaction() as tx:
            rows = tx.execute(
                "SELECT execution FROM workflow_tokens WHERE token = ? AND status IN ('waiting', 'taken')", (token,)
            )
            if not rows:
                return None
            tx.execute(
                "UPDATE workflow_tokens SET status = ?, output = ?, error = ?, cause = ? WHERE token = ?",
                (status, output, error, cause, token),
            )
            tx.execute("UPDATE workflow_runs SET wake_us = ? WHERE execution = ?", (self.clock.now_us(), rows[0][0]))
        return str(rows[0][0])

    def beat(self, token: str) -> bool:
        """Keep a heartbeat; False if nobody waits for the token."""
        return bool(
            self.db.changes(
                "UPDATE workflow_tokens SET beat_us = ? WHERE token = ? AND status IN ('waiting', 'taken')",
                (self.clock.now_us(), token),
            )
        )

    def take_activity(self, activity: str) -> tuple[str, str] | None:
        """The longest waiting task of an activity: its token and its input."""
        with self.db.transaction() as tx:
            rows = tx.execute(
                "SELECT token, input FROM workflow_tokens WHERE activity = ? AND status = 'waiting'"
                " ORDER BY created_us, token LIMIT 1",
                (activity,),
            )
            if not rows:
                return None
            tx.execute(
                "UPDATE workflow_tokens SET status = 'taken', beat_us = ? WHERE token = ?",
                (self.clock.now_us(), rows[0][0]),
            )
        return rows[0]  # type: ignore[no-any-return]


def _event(kind: str, state: str | None, at_us: int, text: str) -> Json:
    doc = json.loads(text)
    event: Json = {"id": doc.pop("id", 0), "previousEventId": doc.pop("previousEventId", 0), "type": kind}
    event |= {"timestamp": core.format_timestamp(at_us), "at_us": at_us, "state": state}
    name = details_name(kind)
    details = doc.get(name) if name else None
    if isinstance(details, dict) and "index" in details:
        event["index"] = details["index"]
    event.update(doc)
    return event


def _is_dead(owner: str) -> bool:
    """Whether the process of an owner is proved dead: on this host, since this boot."""
    identity = owner.rpartition("/")[0]
    boot, _, process = identity.partition(":")
    if boot != core.process_identity().partition(":")[0]:
        return False  # another machine: only the end of its lease tells
    number, _, started = process.partition(":")
    try:
        with open(f"/proc/{number}/stat", encoding="utf-8") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except FileNotFoundError:
        return os.path.exists("/proc/self")  # without /proc nothing is proved
    except OSError:
        return False
    return fields[0] == "Z" or fields[19] != started
