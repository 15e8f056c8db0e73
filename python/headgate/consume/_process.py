"""What happens to one delivered message, whatever brought it: claim, run, complete; or wait, fail, bury."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol

from headgate._native import core
from headgate.errors import ConfigError, HeadgateError, InvalidInputError, Kind, StaleLeaseError, TransientError
from headgate.idempotency._decorator import claim_key, default_identity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from headgate.idempotency import Claim, Ledger
    from headgate.idempotency._decorator import OnUnavailable
    from headgate.ports import Clock, Json, Metrics, Transaction

log = logging.getLogger("headgate.consume")
Effects = Literal["transaction", "writes", "plain"]
_BACKOFF_BASE_S = 0.1
_BACKOFF_CAP_S = 60.0
_AWAY_S = 1.0  # how long a message waits when the ledger cannot be reached
_MAX_ERROR = 500


class Handler(Protocol):
    """A consumer's effect; what it returns is stored as the claim's result (JSON).

    With `effects="transaction"` it is called with (body, tx) and writes on `tx` only; with "plain" and "writes" with
    (body), and for "writes" it returns the write operations of `Ledger.complete_with`.
    """

    def __call__(self, body: Json, tx: Transaction, /) -> Any: ...


@dataclass(frozen=True)
class Consumer:
    """One consumer group on one topic.

    Args:
        name: the group, and a part of every claim key.
        topic: what it listens to.
        handler: the effect; see `Handler`.
        key: body -> business key; default the event id of the body's `data`, or of the whole body.
        lease_s: after this long without an end, another worker may take over; renewed while the handler runs.
        max_attempts: then the message goes to the dead letters.
        effects: "transaction": effect and completion are one commit of the ledger's SQLite file. "writes": the
            handler returns DynamoDB writes, sent with the completion. "plain": the effect is anywhere else, and happens
            at least once.
        on_unavailable: the ledger cannot be reached: "refuse" keeps the message, "process" runs it unprotected.
        max_message_bytes: larger ones go to the dead letters unread.
        prepare: slow work that comes before the transaction (it would keep every other writer waiting); the handler
            gets what it returns instead of the body.
        on_dead_letter: (body, reason, tx) -> None, called in the commit that buries a message of the embedded queue;
            for those who wait for its outcome.
    """

    name: str
    topic: str
    handler: Callable[..., Any]
    key: Callable[[Json], str] | None = None
    lease_s: float = 300.0
    max_attempts: int = 5
    namespace: str = "headgate"
    effects: Effects = "transaction"
    on_unavailable: OnUnavailable = "refuse"
    max_message_bytes: int = 16 * 1024 * 1024
    prepare: Callable[[Json], Any] | None = None
    on_dead_letter: Callable[[Json, str, Transaction], None] | None = None

    def claim_key(self, body: Json, redrive: int = 0) -> str:
        """The key of a message; each redrive of a dead letter is a message of its own.

        Raises:
            InvalidInputError: `key` gave nothing, or something that is not text.
        """
        identity = self.key(body) if self.key is not None else default_identity(body)
        if not isinstance(identity, str) or not identity:
            message = "the consumer's key for this message is empty or not text"
            raise InvalidInputError(message, Kind.INVALID_RECORD)
        key = claim_key(self.namespace, self.name, self.topic, identity)
        return f"{key}#redrive-{redrive}" if redrive else key


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

    def add(self, verdict: Verdict) -> None:
        """Count one message."""
        self.received += 1
        setattr(self, verdict.outcome.value, getattr(self, verdict.outcome.value) + 1)
        if verdict.error:
            self.errors.append(verdict.error)
            del self.errors[:-100]  # the newest hundred


class Outcome(StrEnum):
    HANDLED = "handled"
    DUPLICATE = "duplicates"
    WAITING = "waiting"  # somebody else has it, or the ledger is away: not acknowledged, comes back
    FAILED = "failed"  # not acknowledged, comes back
    DEAD = "dead_lettered"

    @property
    def settled(self) -> bool:
        """Whether the message is to be acknowledged."""
        return self in {Outcome.HANDLED, Outcome.DUPLICATE, Outcome.DEAD}


@dataclass(frozen=True)
class Verdict:
    """What became of a message, and for one that comes back: after how many seconds."""

    outcome: Outcome
    retry_s: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Delivery:
    """One message as a transport brought it."""

    topic: str
    value: bytes
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    source: Mapping[str, str] = field(default_factory=dict)  # partition, offset, message id ...: for the dead letter
    redrive: int = 0


@dataclass(frozen=True)
class Burial:
    """Why a message goes to the dead letters."""

    kind: Kind | str
    reason: str
    attempts: int


class Undertaker(Protocol):
    """Takes a message to the dead letters; raises when it could not. With `tx` it joins that transaction."""

    def __call__(self, delivery: Delivery, burial: Burial, tx: Transaction | None, /) -> None: ...


class Processor:
    """Runs a consumer's handler for one message after the other, from any number of threads."""

    def __init__(
        self, consumer: Consumer, ledger: Ledger, clock: Clock, bury: Undertaker, metrics: Metrics | None = None
    ) -> None:
        if consumer.effects == "transaction" and ledger.database is None:
            message = (
                f"consumer {consumer.name}: effects='transaction' needs a SQLite ledger in the database that the "
                "handler writes; use 'writes' (DynamoDB) or 'plain' (at least once) with others"
            )
            raise ConfigError(message)
        self.consumer = consumer
        self.ledger = ledger
        self.clock = clock
        self._bury = bury
        self._metrics = metrics

    def process(self, delivery: Delivery, acknowledge: Callable[[Transaction], None] | None = None) -> Verdict:
        """Handle one message.

        Args:
            delivery: the message.
            acknowledge: for a queue in the ledger's own database: removes the message, within the effect's commit.
        """
        started = self.clock.mono_us()
        try:
            verdict = self._process(delivery, acknowledge)
        except HeadgateError as error:
            # The ledger or the dead letters are away: keep the message, come back.
            log.warning("message kept", extra={"consumer": self.consumer.name, "error": error.kind.value})
            verdict = Verdict(Outcome.WAITING, _AWAY_S, error.kind.value)
        if self._metrics is not None:
            name, topic, seconds = self.consumer.name, delivery.topic, (self.clock.mono_us() - started) / 1e6
            outcome = verdict.outcome.value
            self._metrics.count("headgate_consumer_messages_total", consumer=name, topic=topic, outcome=outcome)
            self._metrics.observe("headgate_consumer_duration_seconds", seconds, consumer=name, topic=topic)
            if verdict.outcome is Outcome.DEAD:
                self._metrics.count("dlq_messages_total", consumer=name, topic=topic)
        return verdict

    def _process(self, delivery: Delivery, acknowledge: Callable[[Transaction], None] | None) -> Verdict:
        try:
            body = self._parse(delivery.value)
            key = self.consumer.claim_key(body, delivery.redrive)
        except Exception as error:
            # Nothing to claim by. A consumer's own key function may raise anything.
            kind = error.kind if isinstance(error, HeadgateError) else Kind.INVALID_RECORD
            return self._dead(delivery, None, Burial(kind, _describe(error), 0), acknowledge)
        core.fault_point("consume.before_claim")
        try:
            claim = self.ledger.claim(key, self.consumer.lease_s)
        except TransientError as error:
            if self.consumer.on_unavailable == "refuse" or self.consumer.effects != "plain":
                raise
            log.warning("no protection", extra={"consumer": self.consumer.name, "error": error.kind.value})
            return self._run_unprotected(body)
        if claim.status == "done":
            if acknowledge is not None:
                acknowledge(self.ledger.database)
            return Verdict(Outcome.DUPLICATE)
        if claim.status == "in_progress":
            # Not a duplicate. Another host's clock may be far ahead: look again after our own lease at the latest.
            wait = claim.until - self.clock.now_us() / 1e6
            return Verdict(Outcome.WAITING, min(max(wait, 0.0), self.consumer.lease_s))
        if claim.attempts > self.consumer.max_attempts:
            burial = Burial("attempts_exhausted", claim.last_error or "the worker died each time", claim.attempts - 1)
            return self._dead(delivery, claim, burial, acknowledge)
        core.fault_point("consume.after_claim")
        try:
            self._run(body, claim, acknowledge)
        except StaleLeaseError:
            # Rolled back: the successor runs it, and its claim is untouched.
            return Verdict(Outcome.FAILED, 0.0, Kind.STALE_LEASE.value)
        except Exception as error:
            return self._failed(delivery, claim, error, acknowledge)
        core.fault_point("consume.after_commit")
        return Verdict(Outcome.HANDLED)

    def _parse(self, value: bytes) -> Json:
        if len(value) > self.consumer.max_message_bytes:
            message = f"{len(value)} bytes, more than the limit of {self.consumer.max_message_bytes}"
            raise InvalidInputError(message, Kind.MESSAGE_TOO_LARGE)
        try:
            body = json.loads(value)
        except (ValueError, RecursionError):
            message = "the message is not JSON"
            raise InvalidInputError(message, Kind.INVALID_JSON) from None
        if not isinstance(body, dict):
            message = f"expected a JSON object, got {type(body).__name__}"
            raise InvalidInputError(message, Kind.INVALID_RECORD)
        return body

    def _run(self, body: Json, claim: Claim, acknowledge: Callable[[Transaction], None] | None) -> None:
        with self.ledger.renewing(claim, self.consumer.lease_s):
            given = self._prepared(body)
            if self.consumer.effects == "transaction":
                with self.ledger.database.transaction() as tx:
                    outcome = self.consumer.handler(given, tx)
                    core.fault_point("consume.after_effect")
                    if acknowledge is not None:
                        acknowledge(tx)
                    self.ledger.complete(claim, outcome)
                    core.fault_point("consume.before_commit")
                return
            outcome = self.consumer.handler(given)
            core.fault_point("consume.after_effect")
            core.fault_point("consume.before_complete")
            if self.consumer.effects == "writes":
                self.ledger.complete_with(claim, outcome or ())
            else:
                self._complete_plain(claim, outcome)

    def _complete_plain(self, claim: Claim, outcome: Any) -> None:
        try:
            self.ledger.complete(claim, outcome)
        except TransientError as error:
            # The effect stands; without its mark a redelivery after the lease runs it again.
            if self.consumer.on_unavailable == "refuse":
                raise _UnmarkedError(error) from None
            log.warning("effect without its mark", extra={"consumer": self.consumer.name, "error": error.kind.value})

    def _prepared(self, body: Json) -> Any:
        return body if self.consumer.prepare is None else self.consumer.prepare(body)

    def _run_unprotected(self, body: Json) -> Verdict:
        try:
            self.consumer.handler(self._prepared(body))
        except Exception as error:
            return Verdict(Outcome.FAILED, _BACKOFF_BASE_S, type(error).__name__)
        return Verdict(Outcome.HANDLED)

    def _failed(
        self, delivery: Delivery, claim: Claim, error: Exception, acknowledge: Callable[[Transaction], None] | None
    ) -> Verdict:
        if isinstance(error, _UnmarkedError):
            return Verdict(Outcome.WAITING, _AWAY_S, error.kind.value)
        name = type(error).__name__
        log.warning("handler failed", extra={"consumer": self.consumer.name, "attempt": claim.attempts, "error": name})
        try:
            if claim.attempts >= self.consumer.max_attempts:
                return self._dead(
                    delivery, claim, Burial("attempts_exhausted", _describe(error), claim.attempts), acknowledge
                )
            self.ledger.release(claim, _describe(error))
        except StaleLeaseError:
            # A successor has it: its claim and its message stay as they are.
            return Verdict(Outcome.FAILED, 0.0, Kind.STALE_LEASE.value)
        except TransientError as away:
            # Not released: the lease has to end first.
            return Verdict(Outcome.FAILED, _AWAY_S, away.kind.value)
        backoff = min(_BACKOFF_CAP_S, _BACKOFF_BASE_S * 2**claim.attempts)
        return Verdict(Outcome.FAILED, backoff, name)

    def _dead(
        self, delivery: Delivery, claim: Claim | None, burial: Burial, acknowledge: Callable[[Transaction], None] | None
    ) -> Verdict:
        """To the dead letters. In a database of ours letter, acknowledgement and completion are one commit; elsewhere
        the letter comes first, so that a message is never in neither place."""
        if acknowledge is not None:
            with self.ledger.database.transaction() as tx:
                self._bury(delivery, burial, tx)
                if self.consumer.on_dead_letter is not None and claim is not None:
                    self.consumer.on_dead_letter(json.loads(delivery.value), burial.reason, tx)
                acknowledge(tx)
                if claim is not None:
                    self.ledger.complete(claim, {"dead_letter": True})
        else:
            self._bury(delivery, burial, None)
            if claim is not None:
                self.ledger.complete(claim, {"dead_letter": True})
        log.warning(
            "dead letter",
            extra={"consumer": self.consumer.name, "kind": str(burial.kind), "attempts": burial.attempts},
        )
        return Verdict(Outcome.DEAD, 0.0, str(burial.kind))


class _UnmarkedError(TransientError):
    """The handler is through, the ledger is away."""

    def __init__(self, cause: TransientError) -> None:
        super().__init__(cause.message, cause.kind)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:_MAX_ERROR]
