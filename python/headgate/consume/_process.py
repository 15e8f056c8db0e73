"""Processes one delivered message, from any kind of queue.

A message is claimed, its handler runs, and the claim is completed. If another worker has the claim, the message waits.
If the handler fails, the claim is released and the message comes back; after too many attempts it is a dead letter.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.consume._consumer import Consumer, Effects, Handler
from headgate.consume._effect import Effect, UncompletedClaimError, sending_id
from headgate.consume._messages import (
    ConsumeResult,
    DeadLetterCause,
    DeadLetterSink,
    Delivery,
    DeliveryResult,
    Outcome,
    delivering,
    delivering_body,
)
from headgate.consume._unavailable import is_unavailable
from headgate.errors import (
    ConfigError,
    ConflictError,
    HeadgateError,
    InvalidInputError,
    Kind,
    StaleLeaseError,
    TransientError,
)
from headgate.idempotency._decorator import InProgress
from headgate.idempotency._failures import code_path, describe_error
from headgate.idempotency._options import check_call
from headgate.idempotency._transports import stated_type
from headgate.identity import load_json
from headgate.items import handled_under

if TYPE_CHECKING:
    from headgate.idempotency import Claim, Ledger
    from headgate.items import LifeCycle
    from headgate.ports import Clock, Json, Metrics, Transaction

__all__ = [
    "ConsumeResult", "Consumer", "DeadLetterCause", "DeadLetterSink", "Delivery", "DeliveryResult", "Effects",
    "Handler", "Outcome", "Processor",
]  # fmt: skip
log = logging.getLogger("headgate.consume")
_AWAY_S = 1.0  # first back-off when the ledger or the dead-letter sink is unavailable; doubles from there
_OWNER_S = 5.0  # a message whose claim somebody else has is looked at again after so long, or when the lease ends
_DEAD = "dead_letter"
_MAX_AWAY = 10_000  # how many messages whose handler was unavailable are remembered at most
Acknowledge = Callable[["Transaction | None"], None]


def check_parts(consumer: Any, ledger: Any) -> None:
    """Refuse what is no `Consumer`, and what is no `Ledger`.

    Raises:
        ConfigError: a bare handler instead of a consumer; an `AsyncLedger`, the class itself or a URL for a ledger.
    """
    if not isinstance(consumer, Consumer):
        given = f"the class {consumer.__name__}" if isinstance(consumer, type) else f"a {type(consumer).__name__}"
        message = f"consumer: expected a Consumer(name, topic, handler), got {given}"
        raise ConfigError(message)
    if isinstance(ledger, type) or not hasattr(ledger, "database"):
        given = f"the class {ledger.__name__}" if isinstance(ledger, type) else f"a {type(ledger).__name__}"
        message = f"consumer {consumer.name}: a worker needs a Ledger, and got {given}"
        raise ConfigError(message)


def _check_calls(consumer: Consumer) -> None:
    where = f"consumer {consumer.name}: "
    body = "body" if consumer.prepare is None else "prepared"
    check_call(f"{where}handler", consumer.handler, body, *(("tx",) if consumer.effects == "transaction" else ()))
    for option in ("key", "payload", "prepare"):
        check_call(where + option, getattr(consumer, option), "body")
    if callable(consumer.event_type):
        check_call(f"{where}event_type", consumer.event_type, "body")
    check_call(f"{where}serializer", consumer.serializer, "result")
    check_call(f"{where}on_dead_letter", consumer.on_dead_letter, "body", "reason", "tx")


class Processor:
    """Runs a consumer's handler for one message after the other, from any number of threads.

    Args:
        consumer: the consumer to run.
        ledger: the ledger that holds the claims.
        clock: the clock; tests pass a `ManualClock`.
        dead_letter_sink: takes dead letters; None: the transport leaves messages that fail to its queue's own redrive
            policy, so that their attempts are not capped here.
        metrics: receives counts and durations.
        items: finishes the items that the consumer handles (`headgate.items`); None: none.
        joint: for a queue in a database: whether this is the ledger's own, so that acknowledgement, dead letter and
            completion can be one commit. Else each is its own, and the acknowledgement comes last.

    Raises:
        ConfigError: the ledger cannot do what the consumer's effects need, or a function of the consumer cannot be
            called with the arguments that it gets.
    """

    def __init__(
        self, consumer: Consumer, ledger: Ledger, clock: Clock, dead_letter_sink: DeadLetterSink | None,
        metrics: Metrics | None = None, items: LifeCycle | None = None, *, joint: bool = True,
    ) -> None:  # fmt: skip
        check_parts(consumer, ledger)
        _check_calls(consumer)
        if consumer.effects == "transaction" and ledger.database is None:
            message = (
                f"consumer {consumer.name}: effects='transaction' needs a SQLite ledger in the database that the "
                "handler writes; use 'writes' (DynamoDB) or 'plain' (at least once) with others"
            )
            raise ConfigError(message)
        if consumer.effects == "writes" and getattr(ledger.native, "complete_with", None) is None:
            message = f"consumer {consumer.name}: effects='writes' needs a dynamodb:// ledger; use 'plain' with others"
            raise ConfigError(message)
        self.consumer = consumer
        self.ledger = ledger
        self.clock = clock
        self._dead_letter_sink = dead_letter_sink
        self._metrics = metrics
        self._joint = joint and ledger.database is not None
        self._effect = Effect(consumer, ledger, items, joint=self._joint)
        self._away_streak = 0  # unavailable answers in a row, of whatever message: the back-off grows with it
        self._away_since: dict[str, int] = {}  # claim key -> when its handler first said that something is unavailable

    def process(self, delivery: Delivery, acknowledge: Acknowledge | None = None) -> DeliveryResult:
        """Claim a message, run the handler, and complete the claim. Never raises, except KeyboardInterrupt.

        May be called from several threads at once.

        Args:
            delivery: the message.
            acknowledge: removes the message from a queue that is a database table. It gets the transaction of the
                effect if the queue is in the ledger's database, and None otherwise. None: the caller acknowledges,
                when the outcome is settled (`Outcome.settled`).
        """
        started = self.clock.mono_us()
        try:
            with delivering(delivery):
                processed = self._process(delivery, acknowledge)
        except HeadgateError as error:
            # The ledger or the dead-letter sink is unavailable: the message stays in its queue.
            self._log("message kept", delivery, error=error.kind.value)
            processed = self._away(error.kind.value)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # A transport's or a callback's bug must not end the worker: nothing was settled, so the message comes back.
            self._log("message kept", delivery, error=type(error).__name__, traceback=code_path(error))
            processed = DeliveryResult(Outcome.WAITING, _AWAY_S, type(error).__name__)
        if not processed.unavailable:
            self._away_streak = 0
        if self._metrics is not None:
            name, topic, seconds = self.consumer.name, delivery.topic, (self.clock.mono_us() - started) / 1e6
            outcome = processed.outcome.value
            self._metrics.count("headgate_consumer_messages_total", consumer=name, topic=topic, outcome=outcome)
            self._metrics.observe("headgate_consumer_duration_seconds", seconds, consumer=name, topic=topic)
            if processed.outcome is Outcome.DEAD:
                self._metrics.count("dlq_messages_total", consumer=name, topic=topic)
        return processed

    def _process(self, delivery: Delivery, acknowledge: Acknowledge | None) -> DeliveryResult:
        if delivery.value is None and self.consumer.tombstones == "skip":
            if acknowledge is not None:
                acknowledge(None)
            return DeliveryResult(Outcome.HANDLED)
        try:
            body, key, legacy_key, payload = self._read(delivery)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if is_unavailable(error, self.consumer.unavailable):
                self._log("message kept", delivery, error=type(error).__name__, traceback=code_path(error))
                return self._away(type(error).__name__)
            # Without a key nothing can be claimed. A consumer's own key function may raise anything.
            kind = error.kind if isinstance(error, HeadgateError) else Kind.INVALID_RECORD
            if not isinstance(error, HeadgateError):
                self._log("no key", delivery, error=type(error).__name__, traceback=code_path(error))
            return self._dead(delivery, None, DeadLetterCause(kind, describe_error(error), 0), acknowledge)
        core.fault_point("consume.before_claim")
        try:
            claim = self._claim(delivery, body, key, legacy_key, payload)
        except TransientError as error:
            if self.consumer.on_unavailable == "refuse" or self.consumer.effects != "plain":
                raise
            self._log("no protection", delivery, error=error.kind.value)
            return self._run_unprotected(delivery, body, acknowledge)
        except ConflictError as error:
            if error.kind is not Kind.PAYLOAD_MISMATCH:
                raise
            return self._dead(delivery, None, DeadLetterCause(error.kind, describe_error(error), 0), acknowledge)
        if claim.status == "done":
            self._effect.end_known(body, claim)
            if acknowledge is not None:
                acknowledge(self.ledger.database)
            return DeliveryResult(Outcome.DUPLICATE)
        if claim.status == "in_progress":
            return self._wait_for_owner(claim.until)
        if self._dead_letter_sink is not None and claim.attempts > self.consumer.max_attempts:
            cause = DeadLetterCause(
                "attempts_exhausted", claim.last_error or "the worker died each time", claim.attempts - 1
            )
            return self._dead(delivery, claim, cause, acknowledge)
        core.fault_point("consume.after_claim")
        try:
            with delivering_body(delivery, body):
                outcome = self._effect.run(delivery, body, claim, acknowledge)
        except KeyboardInterrupt:
            with suppress(HeadgateError):
                self.ledger.release(claim, "interrupted", counted=False)
            raise
        except StaleLeaseError:
            # Our lease was lost and the effect was rolled back. The new owner runs the handler.
            return DeliveryResult(Outcome.FAILED, 0.0, Kind.STALE_LEASE.value)
        except BaseException as error:
            # SystemExit and cancellation count as failures of the handler; they must not end the worker.
            return self._failed(delivery, claim, error, acknowledge)
        self._away_since.pop(claim.key, None)
        if acknowledge is not None and not self._effect.acknowledges:
            # If this fails, the message is delivered again and found to be a duplicate.
            acknowledge(None)
        core.fault_point("consume.after_commit")
        return DeliveryResult(outcome)

    def _read(self, delivery: Delivery) -> tuple[Json | None, str, str, str]:
        """(body, claim key, claim key of earlier releases or "", payload digest or "")."""
        if delivery.value is None:
            if self.consumer.tombstones == "dead_letter":
                message = "a record without a value; expected a JSON object, or tombstones='skip' or 'handle'"
                raise InvalidInputError(message, Kind.INVALID_RECORD)
            return None, self.consumer.tombstone_key(delivery), "", ""
        body = self._parse(delivery.value)
        key = self.consumer.claim_key(body, delivery.redrive, stated_type(delivery.headers))
        legacy = self.consumer.legacy_key(body, delivery.redrive) if self.ledger.legacy_until else ""
        payload = ""
        if self.consumer.payload is not None:
            payload = core.event_id(self.consumer.payload(body), big_integers="exact")
        return body, key, legacy, payload

    def _parse(self, value: bytes) -> Json:
        if len(value) > self.consumer.max_message_bytes:
            message = f"{len(value)} bytes, more than the limit of {self.consumer.max_message_bytes}"
            raise InvalidInputError(message, Kind.MESSAGE_TOO_LARGE)
        body = load_json(value, "the message")
        if not isinstance(body, dict):
            message = f"expected a JSON object, got {type(body).__name__}"
            raise InvalidInputError(message, Kind.INVALID_RECORD)
        return body

    def _claim(self, delivery: Delivery, body: Json | None, key: str, legacy_key: str, payload: str) -> Claim:
        """Claim a message's effect.

        A key that ended as a dead letter, or with its item still open, says that of one message. Another message of the
        same key was sent again by somebody, and is claimed under the next key, `#again-1`, `#again-2` and so on: once
        it is handled, every further message of the event finds it there. A message whose headers say how often it was
        redriven needs no such search.
        """
        more = {"payload": payload} if payload else {}
        again, life = 0, sending_id(delivery, body)
        while True:
            suffix = f"#again-{again}" if again else ""
            if legacy_key:
                more["legacy_key"] = legacy_key + suffix
            claim = self.ledger.claim(key + suffix, self.consumer.current_lease_s(), **more)
            other = handled_under(claim.result) if claim.status == "done" else ""
            if other in {"", life} or not life or delivery.redriven_for:
                return claim
            again += 1

    def _run_unprotected(
        self, delivery: Delivery, body: Json | None, acknowledge: Acknowledge | None
    ) -> DeliveryResult:
        try:
            with delivering_body(delivery, body):
                self._effect.run_unprotected(body, acknowledge)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._log("handler failed", delivery, error=type(error).__name__, traceback=code_path(error))
            return DeliveryResult(Outcome.FAILED, self.consumer.backoff_s(0), type(error).__name__)
        return DeliveryResult(Outcome.HANDLED)

    def _failed(
        self, delivery: Delivery, claim: Claim, error: BaseException,
        acknowledge: Acknowledge | None,
    ) -> DeliveryResult:  # fmt: skip
        if isinstance(error, UncompletedClaimError):
            self._log("effect without its mark", delivery, error=error.kind.value)
            return self._away(error.kind.value)
        name = type(error).__name__
        busy = isinstance(error, InProgress)  # of a decorated handler: this event waits, and no other one
        away = not busy and self._is_away(claim, error)
        self._log(
            "message kept" if busy else "handler failed", delivery, attempt=claim.attempts, error=name,
            traceback=code_path(error), unavailable=away,
        )  # fmt: skip
        try:
            if away or busy:
                self.ledger.release(claim, describe_error(error), counted=False)
                return self._wait_for_owner(error.until, name) if isinstance(error, InProgress) else self._away(name)
            if self._dead_letter_sink is not None and claim.attempts >= self.consumer.max_attempts:
                return self._dead(
                    delivery,
                    claim,
                    DeadLetterCause("attempts_exhausted", describe_error(error), claim.attempts),
                    acknowledge,
                )
            self.ledger.release(claim, describe_error(error))
        except StaleLeaseError:
            # Another worker has the claim now; leave its claim and message alone.
            return DeliveryResult(Outcome.FAILED, 0.0, Kind.STALE_LEASE.value)
        except TransientError as gone:
            # The claim could not be released, so it stays until its lease ends.
            return DeliveryResult(
                Outcome.FAILED, self._away(gone.kind.value).retry_s, gone.kind.value, unavailable=True
            )
        return DeliveryResult(Outcome.FAILED, self.consumer.backoff_s(claim.attempts), name)

    def _wait_for_owner(self, until: float, error: str = "") -> DeliveryResult:
        """Somebody else has the claim. He may be done long before his lease ends, and that end comes from a clock which
        may be far ahead: look again soon."""
        wait_s = until - self.clock.now_us() / 1e6
        return DeliveryResult(Outcome.WAITING, min(max(wait_s, 0.0), self.consumer.usual_lease_s, _OWNER_S), error)

    def _is_away(self, claim: Claim, error: BaseException) -> bool:
        """Whether a failure is not this message's: something its handler needs is unavailable, and not for too long."""
        if not is_unavailable(error, self.consumer.unavailable):
            return False
        now = self.clock.mono_us()
        since = self._away_since.setdefault(claim.key, now)
        if len(self._away_since) > _MAX_AWAY:
            self._away_since.pop(
                next(iter(self._away_since))
            )  # drop the oldest entry; another worker may have handled it
        return now - since <= self.consumer.unavailable_limit_s * 1e6

    def _away(self, error: str) -> DeliveryResult:
        """The message waits for a backend: longer each time, and no attempt is counted."""
        self._away_streak += 1
        wait_s = min(self.consumer.backoff_cap_s, _AWAY_S * 2.0 ** min(self._away_streak - 1, 60))
        return DeliveryResult(Outcome.WAITING, max(wait_s, _AWAY_S), error, unavailable=True)

    def _dead(
        self, delivery: Delivery, claim: Claim | None, cause: DeadLetterCause,
        acknowledge: Acknowledge | None,
    ) -> DeliveryResult:  # fmt: skip
        """To the dead letters. In a database of ours dead letter, acknowledgement and completion are one commit;
        elsewhere the dead letter comes first, so that a message is never in neither place."""
        if self._dead_letter_sink is None:
            self._log("left to the queue's redrive policy", delivery, kind=str(cause.kind))
            return DeliveryResult(Outcome.FAILED, self.consumer.backoff_s(cause.attempts), str(cause.kind))
        try:
            self._store_dead_letter_and_complete(self._dead_letter_sink, delivery, claim, cause, acknowledge)
        except BaseException:
            # The dead letter could not be kept. The message comes back for it without another run, with the same
            # reason, and without waiting for the end of this lease.
            if claim is not None:
                with suppress(HeadgateError):
                    self.ledger.release(claim, cause.reason, counted=claim.attempts <= self.consumer.max_attempts)
            raise
        if claim is not None:
            self._away_since.pop(claim.key, None)
        self._log("dead letter", delivery, kind=str(cause.kind), attempts=cause.attempts)
        return DeliveryResult(Outcome.DEAD, 0.0, str(cause.kind))

    def _store_dead_letter_and_complete(
        self, dead_letter_sink: DeadLetterSink, delivery: Delivery, claim: Claim | None, cause: DeadLetterCause,
        acknowledge: Acknowledge | None,
    ) -> None:  # fmt: skip
        mark = {_DEAD: True, "message": sending_id(delivery)}
        if acknowledge is not None and self._joint:
            with self.ledger.database.transaction() as tx:
                dead_letter_sink(delivery, cause, tx)
                if self.consumer.on_dead_letter is not None and claim is not None and delivery.value is not None:
                    self.consumer.on_dead_letter(json.loads(delivery.value), cause.reason, tx)
                acknowledge(tx)
                self._effect.quarantine_item(delivery, cause, tx)
                if claim is not None:
                    self.ledger.complete(claim, mark)
        else:
            dead_letter_sink(delivery, cause, None)
            self._effect.quarantine_item(delivery, cause)
            if claim is not None:
                self.ledger.complete(claim, mark)
            if acknowledge is not None:
                acknowledge(None)

    def _log(self, text: str, delivery: Delivery, **more: Any) -> None:
        """A warning with consumer, topic and message id, for every transport; no key, no body, no exception's text."""
        about = {"consumer": self.consumer.name, "topic": delivery.topic, "message_id": delivery.message_id}
        log.warning(text, extra={**about, **{k: v for k, v in more.items() if v is not False}})
