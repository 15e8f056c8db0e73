"""A consumer: a handler, its topic, and the rules by which its messages are claimed, retried and buried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from headgate.consume._unavailable import UNAVAILABLE
from headgate.errors import ConfigError
from headgate.idempotency._decorator import ON_UNAVAILABLE
from headgate.idempotency._events import earlier_identity, identity_and_type
from headgate.idempotency._handler import check_handler, is_async
from headgate.idempotency._keys import claim_key
from headgate.idempotency._lease import DEFAULT_LEASE_S, default_lease_s
from headgate.idempotency._options import (
    check_callable,
    check_choice,
    check_count,
    check_name,
    check_seconds,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.consume._messages import Delivery
    from headgate.idempotency._decorator import OnUnavailable
    from headgate.ports import Json, Transaction

Effects = Literal["transaction", "writes", "plain"]
Tombstones = Literal["dead_letter", "skip", "handle"]
EFFECTS: tuple[Effects, ...] = ("transaction", "writes", "plain")
TOMBSTONES: tuple[Tombstones, ...] = ("dead_letter", "skip", "handle")


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
        handler: the effect; see `Handler`. A plain function: workers do not run coroutines.
        key: body -> business key (text, not empty); default `headgate.default_identity`.
        lease_s: after this long without an end, another worker may take over; renewed while the handler runs. None:
            300, or in Lambda what the invocation has left.
        max_attempts: then the message goes to the dead letters.
        namespace: the first part of every claim key, for services that share a ledger.
        effects: "transaction": effect and completion are one commit of the ledger's SQLite file. "writes": the
            handler returns DynamoDB writes, sent with the completion. "plain": the effect is anywhere else, and happens
            at least once.
        on_unavailable: the ledger cannot be reached: "refuse" keeps the message, "process" runs it unprotected.
        max_message_bytes: larger ones go to the dead letters unread.
        prepare: slow work that comes before the transaction (it would keep every other writer waiting); the handler
            gets what it returns instead of the body.
        on_dead_letter: (body, reason, tx) -> None, called in the commit that buries a message of the embedded queue;
            for those who wait for its outcome.
        event_type: a part of every claim key: a text, or body -> text. Default: what the message's envelope says
            (`event_type`, or `type` of CloudEvents, also as the header `ce_type`), else the topic.
        payload: body -> what has to be equal whenever the same key comes again (any JSON value); a message with another
            one goes to the dead letters.
        tombstones: what to do with a Kafka record without a value: "dead_letter", "skip" (acknowledge it), or "handle"
            (call the handler with None).
        unavailable: exceptions of the handler that say that something it needs is unavailable; by default also those
            of redis-py, requests, httpx, urllib3, aiohttp, botocore and pymongo. They, what is raised `from` them, and
            a group of nothing else count as no attempt, so that an outage buries nothing; the message comes back after
            a back-off, for as long as `unavailable_limit_s`.
        unavailable_limit_s: a message that has met such exceptions for so long in this process is counted as failing.
        backoff_base_s, backoff_cap_s: a failed message comes back after base * 2**attempts seconds, at most the cap.
        serializer: result -> a value that JSON can hold; default the rule of docs/formats.md.

    Raises:
        ConfigError: an option is not what is expected here.
    """

    name: str
    topic: str
    handler: Callable[..., Any]
    key: Callable[[Json], str] | None = None
    lease_s: float | None = None
    max_attempts: int = 5
    namespace: str = "headgate"
    effects: Effects = "transaction"
    on_unavailable: OnUnavailable = "refuse"
    max_message_bytes: int = 16 * 1024 * 1024
    prepare: Callable[[Json], Any] | None = None
    on_dead_letter: Callable[[Json, str, Transaction], None] | None = None
    event_type: str | Callable[[Json], str] | None = None
    payload: Callable[[Json], Any] | None = None
    tombstones: Tombstones = "dead_letter"
    unavailable: tuple[type[BaseException], ...] = UNAVAILABLE
    unavailable_limit_s: float = 3600.0
    backoff_base_s: float = 0.1
    backoff_cap_s: float = 60.0
    serializer: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        check_name("consumer: name", self.name)
        where = f"consumer {self.name}: "
        check_name(f"{where}topic", self.topic)
        check_name(f"{where}namespace", self.namespace)
        check_handler(f"{where}handler", self.handler)
        if is_async(self.handler) or is_async(self.prepare):
            message = (
                f"{where}handler: a worker calls plain functions and would never await this coroutine; give it a "
                "function that runs it, or use sqs_batch or @idempotent_consumer, which take async handlers"
            )
            raise ConfigError(message)
        for option in ("key", "prepare", "on_dead_letter", "payload", "serializer"):
            if getattr(self, option) is not None:
                check_callable(where + option, getattr(self, option))
        if self.event_type is not None and not callable(self.event_type):
            check_name(f"{where}event_type", self.event_type)
        check_choice(f"{where}effects", self.effects, EFFECTS)
        check_choice(f"{where}on_unavailable", self.on_unavailable, ON_UNAVAILABLE)
        check_choice(f"{where}tombstones", self.tombstones, TOMBSTONES)
        check_count(f"{where}max_attempts", self.max_attempts)
        check_count(f"{where}max_message_bytes", self.max_message_bytes)
        if self.lease_s is not None:
            check_seconds(f"{where}lease_s", self.lease_s)
        check_seconds(f"{where}unavailable_limit_s", self.unavailable_limit_s, 0.0)
        check_seconds(f"{where}backoff_base_s", self.backoff_base_s, 0.0)
        check_seconds(f"{where}backoff_cap_s", self.backoff_cap_s, 0.0)
        kinds = self.unavailable if isinstance(self.unavailable, tuple) else (self.unavailable,)
        if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
            message = f"{where}unavailable: expected a tuple of exception classes"
            raise ConfigError(message)

    @property
    def usual_lease_s(self) -> float:
        """The lease outside Lambda, seconds."""
        return DEFAULT_LEASE_S if self.lease_s is None else self.lease_s

    def current_lease_s(self) -> float:
        """The lease of a claim that is made now, seconds."""
        return default_lease_s() if self.lease_s is None else self.lease_s

    def backoff_s(self, attempts: int) -> float:
        """How long a message waits after so many failed attempts, seconds."""
        return float(min(self.backoff_cap_s, self.backoff_base_s * 2.0 ** min(attempts, 60)))

    def claim_key(self, body: Json, redrive: int = 0, event_type: str = "") -> str:
        """The key of a message; each redrive of a dead letter is a message of its own.

        Args:
            body: the parsed message.
            redrive: how often it came back from the dead letters.
            event_type: what the message's headers say, for a body whose envelope says nothing.

        Raises:
            InvalidInputError: `key` gave nothing, or something that is not text.
        """
        identity, kind = identity_and_type(body, self.key, self.event_type, self.topic, event_type)
        return claim_key(self.namespace, self.name, kind, identity, redrive)

    def tombstone_key(self, delivery: Delivery) -> str:
        """The key of a record without a value: its place in the topic, the first one if it was sent back."""
        place = delivery.origin or delivery.message_id or "-"
        return claim_key(self.namespace, self.name, self.topic, place, delivery.redrive)

    def legacy_key(self, body: Json, redrive: int = 0) -> str:
        """The key that stores before schema version 5 have for a message, or an empty text: they had none."""
        identity = self.key(body) if self.key is not None else earlier_identity(body)
        if not identity:
            return ""
        key = f"{self.namespace}:{self.name}:{self.topic}:{identity}"
        return f"{key}#redrive-{redrive}" if redrive else key
