"""What transports and the processor exchange: a delivered message, its outcome, why it is a dead letter."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from headgate.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from headgate.errors import Kind
    from headgate.ports import Transaction

# Names and bytes, as they came: a name may be there several times, and a Kafka header may have no value.
Headers = tuple[tuple[str, bytes | None], ...]


@dataclass
class ConsumeResult:
    """How many messages ended how; received == handled + duplicates + waiting + failed + dead_lettered."""

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
    """How the handling of one delivery ended."""

    HANDLED = "handled"
    DUPLICATE = "duplicates"
    WAITING = "waiting"  # somebody else has it, or a backend is away: not acknowledged, comes back, no attempt counted
    FAILED = "failed"  # not acknowledged, comes back, one attempt counted
    DEAD = "dead_lettered"

    @property
    def settled(self) -> bool:
        """Whether the message is to be acknowledged."""
        return self in {Outcome.HANDLED, Outcome.DUPLICATE, Outcome.DEAD}


@dataclass(frozen=True)
class Verdict:
    """What became of a message.

    Attributes:
        outcome: see `Outcome`.
        retry_s: of a message that comes back, after how many seconds it should.
        error: a stable word of `Kind`, or the type of the handler's exception.
        unavailable: a backend is away, so that other messages will not fare better: a transport that polls should rest.
    """

    outcome: Outcome
    retry_s: float = 0.0
    error: str = ""
    unavailable: bool = False


@dataclass(frozen=True)
class Delivery:
    """One message as a transport brought it.

    Attributes:
        topic: where it came from.
        value: its bytes; None is a Kafka tombstone, a record that deletes its key.
        key: the record's key, where the transport has one.
        headers: name and bytes, as they came; a Kafka header without a value has None.
        source: where exactly: partition, offset, timestamp, message id ...; kept with a dead letter.
        redrive: how often the message came back from the dead letters of this consumer.
        redriven_for: the consumer from whose dead letters it came back, which may be another one.
        origin: where the record was when it became a dead letter, if it came back and its headers say so.
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
        """What the transport calls this message, in logs and dead letters; a message that is sent again has another."""
        if "partition" in self.source:
            return f"{self.topic}-{self.source['partition']}-{self.source.get('offset', '')}"
        return next(iter(self.source.values()), "")


@dataclass(frozen=True)
class Burial:
    """Why a message goes to the dead letters."""

    kind: Kind | str
    reason: str
    attempts: int


class Undertaker(Protocol):
    """Takes a message to the dead letters; raises when it could not. With `tx` it joins that transaction."""

    def __call__(self, delivery: Delivery, burial: Burial, tx: Transaction | None, /) -> None: ...


_current: ContextVar[Delivery | None] = ContextVar("headgate_current_delivery", default=None)


def current_delivery() -> Delivery:
    """The message that is being handled: its key, headers and place, for handlers that need more than the body.

    Every transport sets it, for each message apart, whatever number of threads handle messages at the same time. An
    async handler sees it too. A thread that the handler starts itself sees it only with `contextvars.copy_context()`.

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
    """Inside, `current_delivery()` gives this message."""
    token = _current.set(delivery)
    try:
        yield
    finally:
        _current.reset(token)
