"""The local pipe: reads a queue of the embedded store and starts an execution for each message,
as EventBridge Pipes does.

One message at a time (batch size 1). The execution's input is an array with one SQS record, and each delivery is a new
execution. What becomes of the message follows the type of the workflow:

    REQUEST_RESPONSE (Express)    the pipe waits; a failed execution leaves the message, which is visible again when its
                                  visibility timeout is over, and a dead letter after `max_receive_count` deliveries
    FIRE_AND_FORGET (Standard)    the message is deleted in the commit that accepts the execution; a failure is reported
                                  to `on_failure`, as the rule on status changes does on AWS

Each delivery is written down in the commit that receives the message. A pipe that finds a delivery of a dead process
continues its execution instead of starting another one.
"""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import HeadgateError, InvalidInputError, Kind
from headgate.ports import DeadLetter
from headgate.workflow._context import check_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.ports import Json
    from headgate.workflow._model import Workflow

log = logging.getLogger("headgate.workflow")
VISIBILITY_TIMEOUT_S = 600.0
MAX_RECEIVE_COUNT = 3
MAX_PAYLOAD_CHARACTERS = 262_144  # what a pipe hands on
_INVOCATIONS = ("REQUEST_RESPONSE", "FIRE_AND_FORGET")
_IDLE_US = 50_000
_MAX_NAME = 40  # so many characters of the workflow's name go into an execution id, before 32 hexadecimal digits


@dataclass
class PipeResult:
    """What a pipe did.

    Args:
        received: deliveries.
        succeeded: executions that ended well.
        failed: executions that failed, timed out or could not be started.
        dead_lettered: messages that were given up.
        continued: executions of dead processes among those that ended.
    """

    received: int = 0
    succeeded: int = 0
    failed: int = 0
    dead_lettered: int = 0
    continued: int = 0


@dataclass(frozen=True)
class _Delivery:
    """A message that was received, and its execution."""

    execution: str
    row: int
    key: str
    count: int
    data: Any


class LocalPipe:
    """Feeds a workflow from a queue of the embedded store.

    Args:
        name: the workflow's name.
        definition: its state machine.
        invocation_type: "REQUEST_RESPONSE" or "FIRE_AND_FORGET".
        store: a `LocalStore`; queue, deliveries and dead letters live in its file.
        runner: runs executions: `start(name, definition, input, execution_id)`.
        queue: the queue's topic.
        visibility_timeout_s: how long a message that was received is hidden from others.
        max_receive_count: after so many deliveries a message becomes a dead letter.
        on_failure: called with the event of a failed FIRE_AND_FORGET execution (source `aws.states`).
        workers: how many FIRE_AND_FORGET executions run at the same time in threads; 0 runs each before the next
            message is received.
        random: makes the ids of executions; injected in tests.

    Raises:
        InvalidInputError: a name, number or invocation type is not what was expected.

    Example:
        >>> pipe = LocalPipe.of(workflow, store, runner)                 # doctest: +SKIP
        >>> pipe.send({"programId": "p"}); pipe.drain().succeeded        # doctest: +SKIP
        1
    """

    def __init__(
        self,
        name: str,
        definition: Json,
        invocation_type: str,
        store: Any,
        runner: Any,
        *,
        queue: str,
        visibility_timeout_s: float = VISIBILITY_TIMEOUT_S,
        max_receive_count: int = MAX_RECEIVE_COUNT,
        on_failure: Callable[[Json], None] | None = None,
        workers: int = 0,
        random: Any = None,
    ) -> None:
        if invocation_type not in _INVOCATIONS:
            message = (
                f"pipe of workflow {name!r}: invocation type {invocation_type!r}; expected {' or '.join(_INVOCATIONS)}"
            )
            raise InvalidInputError(message)
        if not queue.strip() or not 0 < visibility_timeout_s <= 43_200 or max_receive_count < 1 or workers < 0:
            message = (
                f"pipe of workflow {name!r}: expected a queue, a visibility timeout of more than 0 and at most 43200 s,"
                " at least 1 delivery and no negative number of workers"
            )
            raise InvalidInputError(message)
        self.name = check_name("workflow name", name)
        self.definition = definition
        self.waits = invocation_type == "REQUEST_RESPONSE"
        self.store = store
        self.runner = runner
        self.clock = store.clock
        self.queue = queue
        self.group = f"workflow.{name}"
        self.visibility_timeout_s = visibility_timeout_s
        self.max_receive_count = max_receive_count
        self.on_failure = on_failure
        self.workers = workers
        self.result = PipeResult()
        self.stopping = False
        self._random = random or core.SystemRandom()
        self._lock = threading.Lock()
        self._active: dict[str, threading.Thread | None] = {}
        self._recovered = False

    @classmethod
    def of(cls, workflow: Workflow, store: Any, runner: Any, **options: Any) -> LocalPipe:
        """The pipe of a workflow: its state machine, its `source_queue` and the invocation type of its type.

        Args:
            workflow: has a `source_queue`, unless `queue` is given.
            store, runner, options: see `LocalPipe`.
        """
        queue = options.pop("queue", None) or workflow.source_queue
        if not queue:
            message = f"workflow {workflow.name!r} has no source_queue; expected the queue that its pipe reads"
            raise InvalidInputError(message)
        return cls(workflow.name, workflow.to_asl(), workflow.invocation_type, store, runner, queue=queue, **options)

    # --- the queue

    def send(self, body: Any) -> str:
        """Put a message into the queue: text as it is, anything else as JSON.

        Returns:
            The message's id.

        Raises:
            InvalidInputError: it is larger than what a pipe hands on, or no JSON.
        """
        try:
            text = body if isinstance(body, str) else json.dumps(body, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError) as error:
            message = f"the message cannot be sent as JSON: {type(error).__name__}"
            raise InvalidInputError(message, Kind.INVALID_JSON) from None
        if len(json.dumps([text])) > MAX_PAYLOAD_CHARACTERS:
            message = f"the message has more than the {MAX_PAYLOAD_CHARACTERS:,} characters that a pipe hands on"
            raise InvalidInputError(message, Kind.MESSAGE_TOO_LARGE)
        ident = str(self._random.token_hex())
        self.store.send_text(self.queue, self.group, ident, text)
        return ident

    def depth(self) -> int:
        """Messages in the queue, those that are hidden included."""
        return int(self.store.queue_depth(self.queue, self.group)[0])

    def dead_letters(self) -> list[Json]:
        """Messages that were given up, with `doc`, their original text. Equal messages are one, with a count."""
        return [row for row in self.store.dead_letters() if row["pipeline"] == self.group and row["stage"] == "consume"]

    def redrive(self, limit: int = 10_000) -> int:
        """Send dead letters back to the queue. Returns how many."""
        return int(self.store.redrive(self.group, limit))

    # --- running

    def stop(self) -> None:
        """Finish the execution that runs, then return (safe in a signal handler)."""
        self.stopping = True

    def drain(self) -> PipeResult:
        """Handle messages until none is visible, and wait for every execution that was started."""
        while not self.stopping and self.step():
            pass
        self.join()
        return self.result

    def run(self, before_step: Callable[[], Any] | None = None) -> PipeResult:
        """Handle messages until `stop()`.

        Args:
            before_step: called before each look at the queue, as to deliver announcements to it.
        """
        while not self.stopping:
            if before_step is not None:
                before_step()
            if not self.step():
                self.clock.sleep_us(_IDLE_US)
        return self.result

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for the executions that run in threads."""
        for thread in [t for t in self._active.values() if t is not None]:
            thread.join(timeout_s)

    def step(self) -> bool:
        """Handle one message; False when none was visible (or all workers are busy)."""
        if not self._recovered:
            self._recovered = True
            self.recover(own=True)
        if self.workers and len(self._active) >= self.workers:
            return False
        taken = self._receive()
        if taken is None:
            return self.recover() > 0
        if isinstance(taken, _Delivery):
            self._launch(taken)
        return True

    def recover(self, *, own: bool = False) -> int:
        """Continue the executions of deliveries whose process has died. Returns how many.

        What a living process runs is left to it. Of several processes that find a delivery, one takes it over.

        Args:
            own: also what this process has received but does not run, as after an error.
        """
        found = []
        for name, doc in self.store.states(self._prefix):
            execution = name.removeprefix(self._prefix)
            is_ours = own and doc["owner"] == core.process_identity() and execution not in self._active
            if not is_ours and not core.process_is_dead(doc["owner"]):
                continue
            mine = {**doc, "owner": core.process_identity()}
            if self.store.swap_state(name, doc, mine):
                found.append(_Delivery(execution, doc["row"], doc["key"], doc["count"], doc["data"]))
        for delivery in found:
            self.result.continued += 1
            self._launch(delivery)
        return len(found)

    @property
    def _prefix(self) -> str:
        return f"workflow.delivery.{self.name}."

    def _receive(self) -> _Delivery | bool | None:
        """A delivery; True when a message became a dead letter instead; None when nothing is visible."""
        with self.store.transaction():
            rows = self.store.receive_texts(self.queue, self.group, 1, int(self.visibility_timeout_s * 1e6))
            if not rows:
                return None
            row, key, text, count, _ = rows[0]
            if count > self.max_receive_count:
                self._give_up(row, key, text, count - 1)
                return True
            execution = f"{self.name[:_MAX_NAME]}-{self._random.token_hex()}"[:80]
            delivery = _Delivery(execution, row, key, count, [self._record(key, text, count)])
            self.store.save_state(
                self._prefix + execution,
                {"row": row, "key": key, "count": count, "data": delivery.data, "owner": core.process_identity()},
            )
            if not self.waits:
                self.store.db.execute("DELETE FROM queue WHERE id = ?", (row,))
        core.fault_point("workflow.after_receive")
        self.result.received += 1
        return delivery

    def _record(self, key: str, text: str, count: int) -> Json:
        return {
            "messageId": key, "receiptHandle": f"{key}-{count}", "body": text,
            "attributes": {"ApproximateReceiveCount": str(count)}, "messageAttributes": {}, "eventSource": "aws:sqs",
            "eventSourceARN": f"arn:aws:sqs:local:000000000000:{self.queue}", "awsRegion": "local",
        }  # fmt: skip

    def _give_up(self, row: int, key: str, text: str, count: int) -> None:
        failed = self.store.load_state(self._failure(key)) or {}
        error = failed.get("error", "its process died")
        reason = f"{count} deliveries failed, the last with {error}"
        letter = DeadLetter("consume", self.group, self.queue, Kind.STAGE_FAILED.value, reason, text)
        self.store.add_dead_letters([letter])
        self.store.db.execute("DELETE FROM queue WHERE id = ?", (row,))
        self.store.delete_state(self._failure(key))
        self.result.dead_lettered += 1
        log.error(
            "message given up", extra={"workflow": self.name, "messageId": key, "deliveries": count, "error": error}
        )

    def _failure(self, key: str) -> str:
        return f"workflow.failure.{self.name}.{key}"

    # --- one delivery

    def _launch(self, delivery: _Delivery) -> None:
        if self.waits or not self.workers:
            self._active[delivery.execution] = None
            self._execute(delivery)
            return
        thread = threading.Thread(
            target=self._execute, args=(delivery,), name=f"headgate-{delivery.execution}"[:60], daemon=True
        )
        self._active[delivery.execution] = thread
        thread.start()

    def _execute(self, delivery: _Delivery) -> None:
        try:
            error, cause = self._outcome(delivery)
            self._settle(delivery, error, cause)
        finally:
            self._active.pop(delivery.execution, None)

    def _outcome(self, delivery: _Delivery) -> tuple[str | None, str | None]:
        """Run (or continue) the execution; its error's name and cause, or two Nones."""
        about = {"workflow": self.name, "executionId": delivery.execution, "messageId": delivery.key}
        log.info("execution started", extra={**about, "delivery": delivery.count})
        try:
            if len(json.dumps(delivery.data)) > MAX_PAYLOAD_CHARACTERS:
                message = f"the message has more than the {MAX_PAYLOAD_CHARACTERS:,} characters that a pipe hands on"
                raise InvalidInputError(message, Kind.MESSAGE_TOO_LARGE)
            kind = "EXPRESS" if self.waits else "STANDARD"
            execution = self.runner.start(self.name, self.definition, delivery.data, delivery.execution, kind=kind)
        except HeadgateError as error:
            if error.kind is Kind.FAULT_INJECTED:
                raise  # stands for the death of this process
            log.warning("execution failed", extra={**about, "error": str(error)})
            return type(error).__name__, str(error)
        if execution.status != "SUCCEEDED":
            log.warning("execution failed", extra={**about, "error": execution.error or execution.status})
            return execution.error or execution.status, execution.cause
        log.info("execution succeeded", extra=about)
        return None, None

    def _settle(self, delivery: _Delivery, error: str | None, cause: str | None) -> None:
        core.fault_point("workflow.before_settle")
        with self._lock, self.store.transaction() as tx:
            self.store.delete_state(self._prefix + delivery.execution)
            if error is None:
                self.result.succeeded += 1
                # Not if the message was delivered again meanwhile: then it is another delivery's.
                tx.execute(
                    "DELETE FROM queue WHERE id = ? AND key = ? AND deliveries = ?",
                    (delivery.row, delivery.key, delivery.count),
                )
                self.store.delete_state(self._failure(delivery.key))
            else:
                self.result.failed += 1
                if self.waits:
                    self.store.save_state(
                        self._failure(delivery.key), {"execution": delivery.execution, "error": error}
                    )
        if error is not None and not self.waits and self.on_failure is not None:
            self.on_failure(self._event(delivery, error, cause))

    def _event(self, delivery: _Delivery, error: str, cause: str | None) -> Json:
        """What EventBridge sends to the rule on failed executions."""
        machine = f"arn:aws:states:local:000000000000:stateMachine:{self.name}"
        return {
            "version": "0", "id": delivery.execution, "source": "aws.states",
            "detail-type": "Step Functions Execution Status Change", "region": "local", "account": "000000000000",
            "time": core.format_timestamp(self.clock.now_us()), "resources": [machine],
            "detail": {
                "name": delivery.execution, "stateMachineArn": machine, "status": "FAILED", "error": error,
                "cause": cause, "input": json.dumps(delivery.data),
            },
        }  # fmt: skip
