"""A worker on the embedded queue. Effect, completion and acknowledgement are one SQLite commit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate.backends.local import dumps  # the queue's documents are compact JSON
from headgate.consume._messages import Burial, ConsumeResult, Delivery
from headgate.consume._process import Processor
from headgate.ports import DeadLetter

if TYPE_CHECKING:
    from headgate.consume._consumer import Consumer
    from headgate.idempotency import Ledger
    from headgate.items import LifeCycle
    from headgate.ports import Message, Metrics, Transaction

_BATCH = 10
_IDLE_US = 50_000


class Worker:
    """Runs one consumer until its queue is empty or it is told to stop."""

    def __init__(
        self, consumer: Consumer, store: Any, ledger: Ledger, clock: Any, metrics: Metrics | None = None,
        items: LifeCycle | None = None,
    ) -> None:  # fmt: skip
        self.consumer = consumer
        self.store = store
        self.ledger = ledger
        self.clock = clock
        self.stopping = False
        self._metrics = metrics
        self._processor = Processor(consumer, ledger, clock, self._bury, metrics, items)

    def stop(self) -> None:
        """Finish what is claimed, then return (safe in a signal handler)."""
        self.stopping = True

    def run(self, max_idle_s: float | None = None) -> ConsumeResult:
        """Handle messages until `stop()`, or until nothing was there for `max_idle_s` seconds."""
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
            depth, _ = self.store.queue_depth(self.consumer.topic, self.consumer.name)
            if self._metrics is not None:
                self._metrics.gauge(
                    "headgate_consumer_lag", depth, consumer=self.consumer.name, topic=self.consumer.topic
                )
            if depth == 0 or self.clock.mono_us() >= deadline:
                break
            self.clock.sleep_us(_IDLE_US)
        return result

    def step(self, result: ConsumeResult) -> bool:
        """One batch; False when nothing was visible."""
        c = self.consumer
        lease_us = int(c.usual_lease_s * 1e6)
        messages = self.store.receive(c.topic, c.name, _BATCH, lease_us)
        if not messages and self.store.reclaim(c.topic, c.name):
            messages = self.store.receive(c.topic, c.name, _BATCH, lease_us)
        for index, message in enumerate(messages):
            if self.stopping:
                for rest in messages[index:]:
                    self.store.defer(rest, self.clock.now_us())
                break
            self._handle(message, result)
        return bool(messages)

    def _handle(self, message: Message, result: ConsumeResult) -> None:
        delivery = Delivery(
            message.topic, dumps(message.body).encode("utf-8", "surrogatepass"), message.key.encode(),
            source={"queue_id": str(message.id)}, redrive=message.redrive,
        )  # fmt: skip
        verdict = self._processor.process(delivery, lambda tx: self._acknowledge(message, tx))
        # A stale lease means that a successor has the message: its visibility is the successor's.
        if not verdict.outcome.settled and verdict.error != "stale_lease":
            self.store.defer(message, self.clock.now_us() + int(verdict.retry_s * 1e6))
        result.add(verdict)

    def _acknowledge(self, message: Message, tx: Transaction | None) -> None:
        """Remove the message, inside the effect's commit where that is one of the queue's own database."""
        self.store.acknowledge(message, tx if tx is self.store.db else None)

    def _bury(self, delivery: Delivery, burial: Burial, tx: Transaction | None) -> None:
        text = (delivery.value or b"").decode("utf-8", "surrogatepass")
        letter = DeadLetter("consume", self.consumer.name, delivery.topic, str(burial.kind), burial.reason, text)
        self.store.add_dead_letters([letter])
