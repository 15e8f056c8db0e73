"""A worker on the embedded queue. Effect, completion and acknowledgement are one SQLite commit."""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from headgate.consume._messages import ConsumeResult, DeadLetterCause, Delivery
from headgate.consume._process import Processor, check_parts
from headgate.errors import ConfigError, HeadgateError, TransientError
from headgate.idempotency._renew import LeaseRenewer
from headgate.ports import DeadLetter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from headgate.consume._consumer import Consumer
    from headgate.idempotency import Ledger
    from headgate.items import LifeCycle
    from headgate.ports import Message, Metrics, Transaction

log = logging.getLogger("headgate.consume")
_BATCH = 10
_IDLE_US = 50_000


class Worker:
    """Runs one consumer of the embedded queue until its queue is empty or it is told to stop.

    Messages are received ten at a time. While they are handled, or wait for their turn, the worker keeps them: a slow
    handler lets no other worker receive them. Where something that a handler or the ledger needs is unavailable, the
    worker gives back what waits and rests, longer each time (`Consumer.unavailable`); no attempt is counted.

    Args:
        consumer: the consumer to run.
        store: the store that holds the queue (`LocalStore`).
        ledger: the ledger that holds the claims. For effects="transaction" `Ledger.on_database(store.db)`: effect,
            completion and acknowledgement are one commit of one database connection.
        clock: the clock; tests pass a `ManualClock`.
        metrics: receives counts and durations.
        items: finishes the items that the consumer handles (`headgate.items`); None: none.

    Raises:
        ConfigError: the ledger is in another database than effects="transaction" needs, or it opens the store's file
            a second time, so that the two would wait for each other.
    """

    def __init__(
        self, consumer: Consumer, store: Any, ledger: Ledger, clock: Any, metrics: Metrics | None = None,
        items: LifeCycle | None = None,
    ) -> None:  # fmt: skip
        check_parts(consumer, ledger)
        if isinstance(store, type) or not hasattr(store, "receive"):
            given = f"the class {store.__name__}" if isinstance(store, type) else f"a {type(store).__name__}"
            message = f"consumer {consumer.name}: a worker receives from a LocalStore, and got {given}"
            raise ConfigError(message)
        self.consumer = consumer
        self.store = store
        self.ledger = ledger
        self.clock = clock
        self.stopping = False
        self._metrics = metrics
        joint = ledger.database is not None and ledger.database is getattr(store, "db", None)
        self._processor = Processor(consumer, ledger, clock, self._store_dead_letter, metrics, items, joint=joint)
        _check_database(consumer, store, ledger)
        self._lease_us = int(consumer.usual_lease_s * 1e6)
        self._rest_until_us = -(1 << 62)  # on the monotonic clock; no message is received before
        self._waiting: list[Message] = []  # received and not settled yet, the one being handled first
        self._lost: set[int] = set()  # ids of messages that another worker has received since
        self._met_outage: set[int] = set()  # ids of messages whose handler reported something as unavailable
        self._renewed_us = 0
        self._renewer = LeaseRenewer(_Visibility(self))  # type: ignore[arg-type]

    def stop(self) -> None:
        """Finish what is claimed, then return (safe in a signal handler)."""
        self.stopping = True

    def run(self, max_idle_s: float | None = None) -> ConsumeResult:
        """Handle messages until `stop()`, or until nothing was there for `max_idle_s` seconds."""
        self._warn()
        result = ConsumeResult()
        last_work = self.clock.mono_us()
        while not self.stopping:
            if self.step(result):
                last_work = self.clock.mono_us()
            elif max_idle_s is not None and self.clock.mono_us() - last_work >= max_idle_s * 1e6:
                break
            else:
                self.clock.sleep_us(_IDLE_US)
        return result

    def drain(self, wait_s: float = 0.0) -> ConsumeResult:
        """Handle messages until none is left.

        Args:
            wait_s: how long to wait for messages that another worker holds or that are to be tried again.
        """
        result = ConsumeResult()
        deadline = self.clock.mono_us() + int(wait_s * 1e6)
        while not self.stopping:
            if self.step(result):
                continue
            if self.measure_lag() == 0 or self.clock.mono_us() >= deadline:
                break
            self.clock.sleep_us(_IDLE_US)
        return result

    def measure_lag(self) -> int:
        """How many messages wait, visible or not; the metric `headgate_consumer_lag`."""
        depth, _ = self.store.queue_depth(self.consumer.topic, self.consumer.name)
        if self._metrics is not None:
            self._metrics.gauge("headgate_consumer_lag", depth, consumer=self.consumer.name, topic=self.consumer.topic)
        return int(depth)

    def step(self, result: ConsumeResult) -> bool:
        """One batch; False when nothing was visible, or the worker rests because something is unavailable."""
        if self.clock.mono_us() < self._rest_until_us:
            return False
        c = self.consumer
        messages = self.store.receive(c.topic, c.name, _BATCH, self._lease_us)
        if not messages and self.store.reclaim(c.topic, c.name):
            messages = self.store.receive(c.topic, c.name, _BATCH, self._lease_us)
        if not messages:
            return False
        # Messages whose handler reported an outage before come last: the outage may concern only them.
        self._waiting = sorted(messages, key=lambda message: message.id in self._met_outage)
        self._lost.clear()
        self._renewed_us = self.clock.now_us()
        try:
            with self._keeping():
                self._handle_waiting(result)
        finally:
            given_back, self._waiting = self._waiting, []
            with suppress(HeadgateError):  # else they come back when their lease ends
                for message in given_back:
                    self.store.defer(message, self.clock.now_us())
        return True

    def extend(self) -> None:
        """Keep the received messages for another lease; note which ones another worker has received meanwhile."""
        messages = list(self._waiting)
        kept = {m.id for m in self.store.extend(messages, self._lease_us)} if messages else set()
        self._lost.update(m.id for m in messages if m.id not in kept)
        self._renewed_us = self.clock.now_us()

    def _handle_waiting(self, result: ConsumeResult) -> None:
        """Handle what was received, one message after the other; what is left in `_waiting` is to be given back."""
        while self._waiting and not self.stopping:
            self._extend_if_due()
            message = self._waiting[0]
            if message.id in self._lost:
                del self._waiting[0]
                continue
            processed = self._handle(message)
            result.add(processed)
            del self._waiting[0]
            if not processed.outcome.settled:
                self._renewed_us = 0  # what was renewed in a commit was rolled back with it
            self._met_outage.discard(message.id)
            if processed.unavailable:
                # The others would not fare better.
                self._met_outage.add(message.id)
                self._rest_until_us = self.clock.mono_us() + int(processed.retry_s * 1e6)
                return

    def _handle(self, message: Message) -> Any:
        delivery = Delivery(
            message.topic, message.text.encode("utf-8", "surrogatepass"), message.key.encode(),
            source={"queue_id": str(message.id)}, redrive=message.redrive,
        )  # fmt: skip
        processed = self._processor.process(delivery, lambda tx: self._acknowledge(message, tx))
        # A stale lease means that a successor has the message: its visibility is the successor's.
        if not processed.outcome.settled and processed.error != "stale_lease":
            self.store.defer(message, self.clock.now_us() + int(processed.retry_s * 1e6))
        return processed

    def _keeping(self) -> AbstractContextManager[None]:
        """Renews the received messages, from a thread of its own, at a third of the lease."""
        return self._renewer.keep(self, self.consumer.usual_lease_s)  # type: ignore[arg-type]

    def _extend_if_due(self) -> None:
        if self.clock.now_us() - self._renewed_us > self._lease_us // 3:
            self.extend()

    def _acknowledge(self, message: Message, tx: Transaction | None) -> None:
        """Remove the message, inside the effect's commit where that is one of the queue's own database."""
        joins = tx is self.store.db
        if joins:
            # The renewing thread waits for this commit: without this others could receive what waits right behind it.
            self._extend_if_due()
        self.store.acknowledge(message, tx if joins else None)

    def _store_dead_letter(self, delivery: Delivery, cause: DeadLetterCause, tx: Transaction | None) -> None:
        text = (delivery.value or b"").decode("utf-8", "surrogatepass")
        dead_letter = DeadLetter(
            "consume", self.consumer.name, delivery.topic, str(cause.kind), cause.reason, text,
            key=(delivery.key or b"").decode("utf-8", "surrogatepass"),
            headers={name: (value or b"").decode("utf-8", "replace") for name, value in delivery.headers} or None,
            attempts=cause.attempts, message_id=delivery.message_id or None,
        )  # fmt: skip
        if tx is not None or self.consumer.on_dead_letter is None or not cause.attempts:
            self.store.add_dead_letters([dead_letter])
            return
        with self.store.transaction() as own:  # the ledger is elsewhere: dead letter and callback are one commit here
            self.store.add_dead_letters([dead_letter])
            self.consumer.on_dead_letter(json.loads(text), cause.reason, own)

    def _warn(self) -> None:
        """Say at start what about the ledger weakens the guarantees."""
        warn_about(self.ledger, self.consumer.name)


class _Visibility:
    """What the renewing thread calls: a worker's messages instead of a ledger's claim."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def renew(self, claim: Any, lease: float) -> float:
        try:
            self._worker.extend()
        except HeadgateError:
            raise
        except Exception as error:
            # For example a store that was closed: the messages come back when their lease ends.
            log.warning("messages not renewed", extra={"error": type(error).__name__})
        return 0.0


def warn_about(ledger: Ledger, consumer: str = "") -> None:
    """Log what about a ledger's set-up weakens the guarantees, one line each; one line where it is unavailable."""
    about = {"consumer": consumer} if consumer else {}
    try:
        texts: Sequence[str] = ledger.warnings()
    except TransientError as error:
        log.warning("ledger", extra={**about, "error": error.kind.value})
        return
    for text in texts:
        log.warning("ledger", extra={**about, "warning": text})


def _check_database(consumer: Consumer, store: Any, ledger: Ledger) -> None:
    where = f"consumer {consumer.name}: "
    ours = getattr(store, "db", None)
    if ledger.database is None or ledger.database is ours or ours is None:
        return
    if consumer.effects == "transaction":
        message = (
            f"{where}effects='transaction' needs the ledger on the store's own database, so that effect, completion "
            "and acknowledgement are one commit; expected Ledger.on_database(store.db)"
        )
        raise ConfigError(message)
    theirs = _file_of(ledger.database)
    if theirs and theirs == _file_of(ours):
        message = (
            f"{where}the ledger opens the store's file a second time, and the two would wait for each other; expected "
            "Ledger.on_database(store.db)"
        )
        raise ConfigError(message)


def _file_of(database: Any) -> str:
    rows = database.execute("PRAGMA database_list")
    return next((os.path.realpath(path) for _, name, path in rows if name == "main" and path), "")
