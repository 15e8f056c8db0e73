"""The types that workers and the processor exchange: a delivered message, its outcome, the cause of a dead letter."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from headgate.errors import ConfigError
from headgate.idempotency._transports import Record, delivered, stated_type

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from headgate.errors import Kind
    from headgate.ports import Transaction

# Header names and values as received. A name may occur several times; a Kafka header may have no value (None).
Headers = tuple[tuple[str, bytes | None], ...]


@dataclass
class ConsumeResult:
    """Counts of messages by outcome. received == handled + duplicates + waiting + failed + dead_lettered.

    `errors` has the error of the last hundred messages that ended with one.
    """

    received: int = 0
    handled: int = 0
    duplicates: int = 0
    waiting: int = 0
    failed: int = 0
    dead_lettered: int = 0
    errors: list[str] = field(default_factory=list)

    def add(self, processed: DeliveryResult) -> None:
        """Count one message."""
        self.received += 1
        setattr(self, processed.outcome.value, getattr(self, processed.outcome.value) + 1)
        if processed.error:
            self.errors.append(processed.error)
            del self.errors[:-100]


class Outcome(StrEnum):
    """How the handling of one delivery ended."""

    HANDLED = "handled"
    DUPLICATE = "duplicates"
    # Another worker has the claim, or a backend is unavailable. Not acknowledged; delivered again; no attempt counted.
    WAITING = "waiting"
    # The handler failed. Not acknowledged; delivered again; one attempt counted.
    FAILED = "failed"
    DEAD = "dead_lettered"

    @property
    def settled(self) -> bool:
        """Whether the message is to be acknowledged."""
        return self in {Outcome.HANDLED, Outcome.DUPLICATE, Outcome.DEAD}


@dataclass(frozen=True)
class DeliveryResult:
    """How the handling of one delivered message ended, and what the worker should do with it.

    Attributes:
        outcome: how it ended.
        retry_s: if the message comes back: after how many seconds it should be delivered again.
        error: a stable word of `Kind`, or the class name of the handler's exception; empty if there was no error.
        unavailable: whether a backend cannot be reached. Other messages would fail in the same way, so a worker that
            polls should pause.
    """

    outcome: Outcome
    retry_s: float = 0.0
    error: str = ""
    unavailable: bool = False


@dataclass(frozen=True)
class Delivery:
    """One message as a worker received it, from any kind of queue.

    Attributes:
        topic: the topic, or the queue's name.
        value: the body's bytes. None is a Kafka tombstone, which deletes its key.
        key: the message's key, if the queue has keys.
        headers: names and values as received.
        source: the message's position or id in its queue (partition, offset, timestamp, message id). Kept with a dead
            letter.
        redrive: how many times this consumer's dead-letter queue has sent the message back.
        redriven_for: the consumer whose dead-letter queue sent it back; may be another one. Empty if none did.
        origin: topic, partition and offset of the record that became a dead letter, if the headers contain them.
    """

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    source: Mapping[str, str] = field(default_factory=dict)
    redrive: int = 0
    redriven_for: str = ""
    origin: str = ""

    @property
    def message_id(self) -> str:
        """The queue's name for this message, for logs and dead letters. A message that is sent again has another
        one."""
        if "partition" in self.source:
            return f"{self.topic}-{self.source['partition']}-{self.source.get('offset', '')}"
        return next(iter(self.source.values()), "")


@dataclass(frozen=True)
class DeadLetterCause:
    """Why a message becomes a dead letter.

    Attributes:
        kind: a stable word: one of `Kind`, or "attempts_exhausted".
        reason: one sentence, or the last exception.
        attempts: how many times the handler has run; 0 if the message could not be read.
    """

    kind: Kind | str
    reason: str
    attempts: int


class DeadLetterSink(Protocol):
    """Stores dead letters: a table, a Kafka topic, an SQS queue, or a function of the user's."""

    def __call__(self, delivery: Delivery, cause: DeadLetterCause, tx: Transaction | None, /) -> None:
        """Store one dead letter durably before returning.

        Called from the threads that handle messages, possibly from several at once.

        Args:
            delivery: the message.
            cause: why it is given up.
            tx: the transaction in which the message is acknowledged and its claim completed, for a sink in the same
                database; None: the sink commits by itself.

        Raises:
            Exception: the dead letter was not stored. The message stays in its queue and comes back.
        """
        ...


def renamed_sink(sink: DeadLetterSink | None, bury: DeadLetterSink | None) -> DeadLetterSink | None:
    """The dead-letter sink of a call that may still use the keyword's earlier name, `bury`."""
    if bury is None:
        return sink
    import warnings

    warnings.warn("bury= is now called dead_letter_sink=", DeprecationWarning, stacklevel=3)
    return bury


_current: ContextVar[Delivery | None] = ContextVar("headgate_current_delivery", default=None)


def current_delivery() -> Delivery:
    """The message that is being handled, for handlers that need its key, headers or position.

    Works in every handler and on every thread of a worker, in async handlers too. A thread that the handler starts
    itself sees it only with `contextvars.copy_context()`.

    Raises:
        ConfigError: called outside a handler.

    Example:
        >>> def mirror(row):                            # a consumer with tombstones="handle"
        ...     if row is None:
        ...         delete_row(current_delivery().key)  # Debezium's tombstone of a deleted row
    """
    found = _current.get()
    if found is None:
        message = "current_delivery() was called where no message is being handled; call it in a consumer's handler"
        raise ConfigError(message)
    return found


@contextmanager
def delivering(delivery: Delivery) -> Iterator[None]:
    """Make `current_delivery()` return this message inside the block."""
    token = _current.set(delivery)
    try:
        yield
    finally:
        _current.reset(token)


def delivering_body(delivery: Delivery, body: Any) -> AbstractContextManager[None]:
    """Let a decorated handler that gets this very body know its topic, its place and what its headers say."""
    place = delivery.origin or delivery.message_id
    return delivered(Record(body, delivery.topic, place, stated_type(delivery.headers)))
