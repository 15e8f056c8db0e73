"""A worker on the embedded queue. Effect, completion and acknowledgement are one SQLite commit."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from headgate._native import core
from headgate.backends.local import dumps  # the queue's documents are compact JSON
from headgate.errors import StaleLeaseError
from headgate.idempotency._decorator import claim_key, default_identity
from headgate.ports import DeadLetter

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.idempotency import Claim, Ledger
    from headgate.ports import Json, Message, Transaction

log = logging.getLogger("headgate.consume")
_BATCH = 10
_IDLE_US = 50_000


class Handler(Protocol):
    """A consumer's effect. It writes on `tx` only; what it returns is stored as the claim's result."""

    def __call__(self, body: Json, tx: Transaction) -> Any: ...


@dataclass(frozen=True)
class Consumer:
    """One consumer group on one topic.

    Args:
        name: the group, and a part of every claim key.
        topic: what it listens to.
        handler: the effect.
        key: body -> business key; default the event id of the body.
        lease_s: after this long without an end, another worker may take over.
        max_attempts: then the message goes to the dead letters.
    """

    name: str
    topic: str
    handler: Handler
    key: Callable[[Json], str] | None = None
    lease_s: float = 300.0
    max_attempts: int = 5
    namespace: str = "headgate"

    def claim_key(self, message: Message) -> str:
        identity = self.key(message.body) if self.key is not None else default_identity(message.body)
        return claim_key(self.namespace, self.name, message.topic, identity)


@dataclass
class ConsumeResult:
    """received == handled + duplicates + waiting + failed + dead_lettered."""

    received: int = 0
    handled: int = 0
    duplicates: int = 0
    waiting: int = 0
    failed: int = 0
    dead_lettered: int = 0
    errors: list[str] = field(default_factory=list)


class Worker:
    """Runs one consumer until its queue is empty or it is told to stop."""

    def __init__(self, consumer: Consumer, store: Any, ledger: Ledger, clock: Any) -> None:
        self.consumer = consumer
        self.store = store
        self.ledger = ledger
        self.clock = clock
        self.stopping = False

    def stop(self) -> None:
        """Finish what is claimed, then return (safe in a signal handler)."""
        self.stopping = True

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
            if depth == 0 or self.clock.mono_us() >= deadline:
                break
            self.clock.sleep_us(_IDLE_US)
        return result

    def step(self, result: ConsumeResult) -> bool:
        """One batch; False when nothing was visible."""
        c = self.consumer
        messages = self.store.receive(c.topic, c.name, _BATCH, int(c.lease_s * 1e6))
        for index, message in enumerate(messages):
            if self.stopping:
                for rest in messages[index:]:
                    self.store.defer(rest, self.clock.now_us())
                break
            result.received += 1
            self._handle(message, result)
        return bool(messages)

    def _handle(self, message: Message, result: ConsumeResult) -> None:
        core.fault_point("consume.before_claim")
        claim = self.ledger.claim(self.consumer.claim_key(message), self.consumer.lease_s)
        if claim.status == "done":
            self.store.acknowledge(message)
            result.duplicates += 1
            return
        if claim.status == "in_progress":
            # Not a duplicate: it comes back when the other's lease has ended.
            self.store.defer(message, int(claim.until * 1e6))
            result.waiting += 1
            return
        if claim.attempts > self.consumer.max_attempts:
            self._bury(message, claim, claim.last_error or "the worker died each time")
            result.dead_lettered += 1
            return
        core.fault_point("consume.after_claim")
        try:
            with self.ledger.database.transaction() as tx:
                outcome = self.consumer.handler(message.body, tx)
                core.fault_point("consume.after_effect")
                self.store.acknowledge(message, tx)
                self.ledger.complete(claim, outcome)
                core.fault_point("consume.before_commit")
        except StaleLeaseError:
            # Rolled back: the successor runs it, and its claim is untouched.
            result.failed += 1
            result.errors.append("stale_lease")
        except Exception as error:
            self._failed(message, claim, error, result)
        else:
            core.fault_point("consume.after_commit")
            result.handled += 1

    def _failed(self, message: Message, claim: Claim, error: Exception, result: ConsumeResult) -> None:
        name = type(error).__name__
        result.errors.append(name)
        log.warning("handler failed", extra={"consumer": self.consumer.name, "attempt": claim.attempts, "error": name})
        try:
            if claim.attempts >= self.consumer.max_attempts:
                self._bury(message, claim, f"{name}: {error}")
                result.dead_lettered += 1
                return
            self.ledger.release(claim, f"{name}: {error}"[:500])
            self.store.defer(message, self.clock.now_us() + int(min(60.0, 0.1 * 2**claim.attempts) * 1e6))
        except StaleLeaseError:
            result.errors.append("stale_lease")  # a successor has it: its claim and its message stay as they are
        result.failed += 1

    def _bury(self, message: Message, claim: Claim, reason: str) -> None:
        """Dead letter, acknowledgement and completion in one commit: a message is never in both places or in none."""
        letter = DeadLetter(
            "consume", self.consumer.name, message.topic, "attempts_exhausted", reason[:500], dumps(message.body)
        )
        with self.ledger.database.transaction() as tx:
            self.store.add_dead_letters([letter])
            self.store.acknowledge(message, tx)
            self.ledger.complete(claim, {"dead_letter": True})
