"""The interfaces between the engine and its backends.

A backend implements one of these protocols and passes its conformance suite in `headgate.testing.conformance`. Unless a
method says otherwise: times are integers in microseconds (wall-clock times since 1970 in UTC), methods may be called
from several threads, they block until the backend has answered, and a backend that cannot be reached raises
`TransientError`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

Json = dict[str, Any]


class Clock(Protocol):
    """A source of time. Implemented by `headgate._core.SystemClock` and, for tests, `ManualClock`."""

    def now_us(self) -> int:
        """The wall-clock time, microseconds since 1970 in UTC. May jump."""
        ...

    def mono_us(self) -> int:
        """A time that never goes back, for measuring durations."""
        ...

    def sleep_us(self, us: int) -> None:
        """Wait. A `ManualClock` moves itself forward instead."""
        ...


class Calendar(Protocol):
    """Decides during which hours scheduled collections run."""

    def is_open(self, at_us: int) -> bool:
        """Whether a moment (microseconds since 1970, UTC) is inside the hours."""
        ...


class Random(Protocol):
    """Randomness for claim tokens. Implemented by `headgate._core.SystemRandom` and, for tests, `SeededRandom`."""

    def token_hex(self) -> str:
        """A new random token of 128 bits, as 32 hexadecimal digits."""
        ...


class ObjectStore(Protocol):
    """Durable objects under relative keys with "/": raw bodies, stage outputs, exports."""

    def put(self, key: str, data: bytes, if_absent: bool = False) -> None:
        """Store an object. When this returns it is durable; readers see the whole object or none.

        Args:
            key: the object's key.
            data: its bytes.
            if_absent: refuse to replace an object that exists.

        Raises:
            DuplicateError: `if_absent`, and there is an object of this key.
        """
        ...

    def get(self, key: str) -> bytes:
        """The bytes of an object.

        Raises:
            NotFoundError: there is none of this key.
        """
        ...

    def exists(self, key: str) -> bool:
        """Whether there is an object of this key."""
        ...

    def list(self, prefix: str = "") -> list[str]:
        """The keys that begin with `prefix`, in order."""
        ...

    def remove(self, key: str) -> None:
        """Delete an object. Nothing happens if there is none."""
        ...


class Transaction(Protocol):
    """A database transaction: everything executed on it commits, or nothing does. For one thread at a time."""

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement. Returns its rows; an empty list if it has none."""
        ...

    def changes(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement. Returns how many rows it changed."""
        ...


@dataclass(frozen=True, slots=True)
class Item:
    """A record that was accepted: validated, with its identity.

    Attributes:
        key: its identity; unique in its pipeline.
        pipeline: the pipeline's name.
        source: the source that delivered it.
        timestamp: the record's own time, ISO 8601 in UTC.
        doc: the document that the schema has checked.
        story_key: equal for items that tell the same story, if the pipeline has such a key.
        raw_key: the key of the raw body in the object store.
        labels: words by which `ItemStore.latest` finds it, for example tickers.
        text: `doc` as JSON text, if it was made already.
    """

    key: str
    pipeline: str
    source: str
    timestamp: str
    doc: Json
    story_key: str | None = None
    raw_key: str | None = None
    labels: tuple[str, ...] = ()
    text: str | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record, message or announcement that was given up, with everything needed to send it back.

    Attributes:
        stage: where it was given up: "intake" (a record), "consume" (a message) or "outbox" (an announcement).
        pipeline: the pipeline, or the consumer.
        source: the news source, or the topic.
        kind: a stable word: one of `Kind`, or the code of the rule that rejected it.
        reason: one sentence.
        doc: the record, message or announcement.
        raw_key: the key of the raw body in the object store.
        key: the message's key.
        headers: the message's headers.
        attempts: how many times a handler has run.
        message_id: the queue's id of the message.
        identity: distinguishes dead letters of one stage and pipeline; two with the same identity are one, counted
            twice. Empty: `doc` is the identity.
    """

    stage: str
    pipeline: str
    source: str
    kind: str
    reason: str
    doc: str
    raw_key: str | None = None
    key: str | None = None
    headers: Mapping[str, str] | None = None
    attempts: int | None = None
    message_id: str | None = None
    identity: str = ""


@dataclass(frozen=True)
class Message:
    """One message of the embedded queue, as received by one consumer group.

    Attributes:
        id: its row in the queue; never given twice.
        topic: its topic.
        group: the consumer group.
        key: the key that keeps its order.
        body: the parsed body; empty if the text is no JSON object.
        deliveries: how many times it was received, this time included.
        redrive: how many times it was sent back from the dead letters.
        text: the body as stored.
        until_us: until when no other worker receives it.
    """

    id: int
    topic: str
    group: str
    key: str
    body: Json
    deliveries: int
    redrive: int = 0
    text: str = ""
    until_us: int = 0


@dataclass(frozen=True)
class Stored:
    """The result of `ItemStore.put_items`.

    Attributes:
        new_keys: the keys of the items that were stored, in the order in which they were given.
        duplicates: how many items existed already; nothing was written for them.
    """

    new_keys: tuple[str, ...]
    duplicates: int


class ItemStore(Protocol):
    """Items, the outbox of their announcements, and dead letters.

    Attributes:
        last_delay_us: the longest time from storage to arrival in the last delivery, microseconds.
    """

    last_delay_us: int

    def put_items(self, items: Sequence[Item], topic: str, bodies: Mapping[str, Json]) -> Stored:
        """Store the items that do not exist yet, each in one commit with its announcement.

        Args:
            items: to store; one whose key exists already is a duplicate and changes nothing.
            topic: the topic of the announcements.
            bodies: item key -> body of its announcement.
        """
        ...

    def documents(self, keys: Sequence[str]) -> list[Json]:
        """The documents of the given keys that exist, in the order of the keys."""
        ...

    def documents_by_key(self, keys: Sequence[str]) -> dict[str, Json]:
        """The documents of those keys that are there."""
        ...

    def widen_item(self, key: str, topic: str, before: Json, doc: Json, labels: Sequence[str], body: Json) -> bool:
        """Give a stored item a document and labels that know more; its announcement too, as long as it was not sent.

        Its status, its times and its identity stay. False, and nothing is written, when its document is not `before`
        any more, or when it is gone.
        """
        ...

    def latest(self, labels: Sequence[str], limit: int) -> list[Json]:
        """The newest documents by timestamp: of items with any of the labels, or of all items if `labels` is empty."""
        ...

    def collection_events(self, pipeline: str, last: int | None = None) -> list[Json]:
        """The collection events of a pipeline, oldest first; only the newest `last` if that is given."""
        ...

    def add_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Store dead letters. One that exists already is counted again."""
        ...

    def dead_letters(
        self, limit: int = 1_000, *, stage: str | None = None, pipeline: str | None = None, kind: str | None = None
    ) -> list[Json]:
        """Dead letters that were not sent back, oldest first, filtered by stage, pipeline and kind if these are given.

        Each has id, stage, pipeline, source, kind, reason, doc, raw_key, seen, key, headers, attempts and message_id.
        """
        ...

    def dead_letter(self, ident: str) -> Json | None:
        """The dead letter with this id, also if it was sent back; None if there is none."""
        ...

    def dead_letter_counts(self) -> list[Json]:
        """Counts by stage, pipeline and kind. Each object has these, `letters`, and `seen`, which counts
        repetitions."""
        ...

    def redrive_outbox(self, limit: int = 10_000) -> int:
        """Put announcements that are dead letters back into the outbox, each once. Returns how many."""
        ...

    def publish(self, topic: str, key: str, body: Json) -> None:
        """Write an announcement into the outbox; inside `transaction()` in its commit."""
        ...

    def add_collection_event(self, event_id: str, pipeline: str, started_us: int, doc: Json) -> None:
        """Store the result of a collection under its id."""
        ...

    def transaction(self) -> AbstractContextManager[Transaction | None]:
        """Make everything that is written inside the block one commit. Nested blocks join the outer one.

        A store without transactions (DynamoDB) gives None: there each write stands alone, and can be repeated.
        """
        ...


class Queue(Protocol):
    """A queue with at-least-once delivery and leases."""

    def receive(self, topic: str, group: str, limit: int, lease_us: int) -> list[Message]:
        """Receive up to `limit` messages. Other workers do not receive them until the lease ends."""
        ...

    def acknowledge(self, message: Message, transaction: Transaction | None = None) -> None:
        """Remove a message; with `transaction`, when that commits."""
        ...

    def defer(self, message: Message, until_us: int) -> None:
        """Make a message visible again at `until_us`, unless another worker has received it since."""
        ...


class LedgerBackend(Protocol):
    """The storage of a `Ledger`. The core has several; any object that passes `LedgerSuite` may be one.

    Times are microseconds. An answer to a claim is (status, token, until_us, attempts, result, last_error), with
    status "acquired", "done", "in_progress" or "mismatch"; an acquisition's fence may be a seventh part. `complete`,
    `release` and `renew` compare the token and raise `StaleLeaseError`. A result that is refused raises
    `InvalidInputError`, of kind message_too_large when it is too large: the key is then completed without it.

    `release` gives the attempt back when it is not `counted`, once, however often it is repeated; an error that is
    empty then leaves the one from before. A backend may have more: `claim_pair(key, legacy_key, lease_us, payload) ->
    (answer, token of the legacy key)`, which acquires both or none in one step, and `complete_with`.
    """

    def claim(self, keys: Sequence[str], lease_us: int, payloads: Sequence[str]) -> list[Any]:
        """One answer for each key, in their order; each key is decided alone and atomically.

        Args:
            keys: claim keys.
            lease_us: for how long an acquired key is this caller's.
            payloads: for each key a digest that must be equal whenever it comes again; "": no check.
        """
        ...

    def complete(self, keys: Sequence[str], tokens: Sequence[str], results: Sequence[str]) -> None:
        """Mark claims done, each with its result as JSON text, which is what every later claim of the key gets.

        Raises:
            StaleLeaseError: a token is no longer the owner's.
            InvalidInputError: a result is refused; the key is completed without it.
        """
        ...

    def release(self, key: str, token: str, error: str, counted: bool = True) -> None:
        """Give a claim back, so that the key can be acquired again at once.

        Raises:
            StaleLeaseError: the token is no longer the owner's.
        """
        ...

    def renew(self, key: str, token: str, lease_us: int) -> int:
        """Make the lease end `lease_us` from now. Returns when that is.

        Raises:
            StaleLeaseError: the token is no longer the owner's.
        """
        ...

    def prune(self) -> int:
        """Forget done keys whose time to live is over. Returns how many; 0 where the backend expires them itself."""
        ...

    def warnings(self) -> list[str]:
        """Sentences about settings of the backend that endanger claims, for example that it evicts keys."""
        ...


class RedisClientProtocol(Protocol):
    """A connected Redis client of the user's, for `Ledger.on_redis`.

    Keys and values are text; times to live are seconds. `run_script` is EVAL with one key: without it a lease cannot be
    taken over safely. `headgate.backends.redispy.RedisPyClient` makes one of any redis-py client. A client may have
    `info() -> dict` too (Redis' INFO, as redis-py gives it): the ledger's warnings are read from it. The methods of a
    client for `AsyncLedger.on_redis` may be coroutine functions.
    """

    def set_if_not_exists(self, key: str, value: str, ttl_seconds: int) -> bool:
        """SET key value NX EX ttl. Whether it was set."""
        ...

    def delete_key(self, key: str) -> int:
        """DEL key. How many keys were deleted: 0 or 1."""
        ...

    def get(self, key: str) -> bytes | None:
        """GET key. Its bytes, or None if there is no such key."""
        ...

    def setex(self, key: str, ttl_seconds: int, value: str) -> None:
        """SETEX key ttl value."""
        ...

    def run_script(self, script: str, key: str, arguments: list[str]) -> Any:
        """EVAL script 1 key arguments. What the script returned, as the client decodes it."""
        ...


@dataclass(frozen=True)
class Announcement:
    """One unsent row of the outbox.

    Attributes:
        row: its number in this call; publishers answer with it.
        topic: where it goes.
        key: announcements with the same topic and key are sent in their order.
        body: JSON text.
        id: identifies this announcement; the same whenever it is sent again.
    """

    row: int
    topic: str
    key: str
    body: str
    id: str = ""


@dataclass(frozen=True)
class Refusal:
    """The reason why an announcement can never be sent.

    Attributes:
        kind: a stable word: "message_too_large", "invalid_message", "invalid_unicode", "invalid_topic", ...
        reason: one sentence that says what was expected and what was found.
    """

    kind: str
    reason: str


class Published(list[int]):
    """The result of `Publisher.publish`: the rows that have arrived, and what is known about the others.

    Attributes:
        refused: rows that can never be sent, with the reason; the outbox makes them dead letters.
        is_away: whether the broker is unavailable, so that nothing more can be sent now.
        stuck: topics to which nothing can be sent now.
        error: the publisher's configuration is wrong. The outbox raises this after it has marked the rows.

    Example:
        >>> Published([1, 2], {3: Refusal("message_too_large", "300000 bytes, more than 262144")})
        [1, 2]
    """

    def __init__(
        self, rows: Iterable[int] = (), refused: Mapping[int, Refusal] | None = None, *, is_away: bool = False,
        stuck: Iterable[str] = (), error: Exception | None = None,
    ) -> None:  # fmt: skip
        super().__init__(rows)
        self.refused: dict[int, Refusal] = dict(refused or {})
        self.is_away = is_away
        self.stuck = set(stuck)
        self.error = error


class Publisher(Protocol):
    """Sends announcements to a broker, at least once: a row whose confirmation is lost is sent again."""

    def publish(self, announcements: Sequence[Announcement]) -> list[int]:
        """Send announcements in their order. Never raises because of a single one.

        Returns:
            The rows that have arrived; the rest is sent again later. A `Published` also says which rows can never be
            sent, so that they wait for nothing and nothing waits for them.
        """
        ...


class Metrics(Protocol):
    """Receives metrics. `headgate.ops.MemoryMetrics` keeps them for Prometheus. Methods must be fast and never
    raise."""

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        ...

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        ...

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Record one value of a distribution; durations are in seconds."""
        ...


class StateStore(Protocol):
    """Small named JSON documents with one writer: state of breakers, cursors, last runs."""

    def load_state(self, name: str) -> Json | None:
        """The document, or None."""
        ...

    def save_state(self, name: str, doc: Json) -> None:
        """Write the document durably, replacing an earlier one."""
        ...


class SharedStateStore(Protocol):
    """Small named JSON documents with several writers, changed by compare-and-set."""

    def load_state(self, name: str) -> Json | None:
        """The document, or None."""
        ...

    def swap_state(self, name: str, before: Json | None, doc: Json) -> bool:
        """Write `doc` if the document still equals `before` (None: does not exist). Returns whether it was written."""
        ...


@dataclass(frozen=True)
class StaleItem:
    """A pending item that is due for another announcement.

    Attributes:
        key: the item's key.
        due_us: when it was ingested or last announced.
        attempts: how many times a sweep has announced it.
    """

    key: str
    due_us: int
    attempts: int


class ItemLives(Protocol):
    """The methods of an item store that a consumer uses to finish items."""

    def item_status(self, key: str, tx: Transaction | None = None) -> str | None:
        """The status of an item, or None if there is no such item."""
        ...

    def end_item(
        self, key: str, status: str, reason: str = "", values: Mapping[str, Any] | None = None,
        tx: Transaction | None = None,
    ) -> bool:  # fmt: skip
        """Give an item its final status if it is pending, failed or quarantined. Returns whether it was.

        This is one commit or one conditional write; with `tx` it is part of that transaction.
        """
        ...


class HealingTable(Protocol):
    """The methods of an item store that the healing sweep uses."""

    def stale_pending(self, before_us: int, limit: int, after: tuple[int, str] | None) -> list[StaleItem]:
        """Up to `limit` pending items that are due by `before_us`, ordered by (due_us, key), beginning after
        `after`."""
        ...

    def full_items(self, keys: Iterable[str], group: str = "") -> list[Json]:
        """The items of the given keys that are still pending.

        Each object has key, source, timestamp, doc, status, republish_attempts, due_us and held_up. held_up is "outbox"
        or "queue" if the item's announcement is still on its way, and empty otherwise.

        Args:
            keys: which items.
            group: the consumer group that finishes the items; only its messages count as evidence. Empty: any group's.
        """
        ...

    def count_attempt(self, key: str, attempts: int, before_us: int) -> bool:
        """Count an attempt without announcing the item, under the same conditions as `republish`."""
        ...

    def republish(self, key: str, attempts: int, before_us: int, topic: str, body: Json) -> bool:
        """Announce an item again if it is still pending, due by `before_us`, and has this attempt count.

        Returns whether it was announced. The check, the count and the announcement are one commit.
        """
        ...

    def quarantine(self, key: str, attempts: int, reason: str = "") -> bool:
        """Put a pending item with this attempt count into quarantine. Returns whether it was."""
        ...

    def stuck_items(self, limit: int = 1_000) -> list[Json]:
        """Quarantined and failed items: key, source, status, reason, ended_us, republish_attempts."""
        ...

    def release_items(self, keys: Sequence[str] | None = None) -> int:
        """Make quarantined and failed items pending and due again. Returns how many.

        Args:
            keys: which items; None: all of the pipeline.
        """
        ...
