"""The seams between the engine and its backends. A backend is whatever passes the suites in `headgate.testing`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

Json = dict[str, Any]


class Clock(Protocol):
    """Time in microseconds. `headgate._core.SystemClock` and `ManualClock` are the two that exist."""

    def now_us(self) -> int: ...
    def mono_us(self) -> int: ...
    def sleep_us(self, us: int) -> None: ...


class Calendar(Protocol):
    """Decides when scheduled work is due."""

    def is_open(self, at_us: int) -> bool:
        """Whether this moment (microseconds since 1970, UTC) is inside the hours."""
        ...


class Random(Protocol):
    """Randomness for tokens. `headgate._core.SystemRandom` and `SeededRandom` are the two that exist."""

    def token_hex(self) -> str: ...


class ObjectStore(Protocol):
    """Durable objects under relative keys: raw blobs, stage outputs, exports."""

    def put(self, key: str, data: bytes, if_absent: bool = False) -> None: ...
    def get(self, key: str) -> bytes: ...
    def exists(self, key: str) -> bool: ...
    def list(self, prefix: str = "") -> list[str]: ...
    def remove(self, key: str) -> None: ...


class Transaction(Protocol):
    """A database transaction: everything executed on it commits, or nothing does."""

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]: ...
    def changes(self, sql: str, parameters: Sequence[Any] = ()) -> int: ...


@dataclass(frozen=True, slots=True)
class Item:
    """A record that was accepted: validated, with its identity."""

    key: str
    pipeline: str
    source: str
    timestamp: str
    doc: Json
    story_key: str | None = None
    raw_key: str | None = None
    labels: tuple[str, ...] = ()  # what it can be looked up by
    text: str | None = field(default=None, repr=False, compare=False)  # `doc` as JSON, when that was made before


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that was refused, with everything needed to replay it.

    Attributes:
        stage: "intake" (a source's record), "consume" (a message of the embedded queue) or "outbox" (an announcement).
        pipeline: the pipeline, or the consumer.
        source: the news source, or the topic.
        kind: a stable word of `Kind`, or a rule's own.
        reason: one sentence.
        doc: the record, message or announcement.
        raw_key: where the raw body lies that it came from.
        key: the message's key.
        headers: the message's headers.
        attempts: how often a handler has tried.
        message_id: what the queue calls the message.
        identity: what two letters of one stage and pipeline are told apart by; empty: `doc`.
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
    """One delivery to one consumer group."""

    id: int
    topic: str
    group: str
    key: str
    body: Json
    deliveries: int
    redrive: int = 0  # how often it came back from the dead letters
    text: str = ""  # the body as it was stored; `body` is empty where this is no JSON object
    until_us: int = 0  # until when nobody else receives it


@dataclass(frozen=True)
class Stored:
    """What became of a batch of items: the keys that were new, and how many were there already."""

    new_keys: tuple[str, ...]
    duplicates: int


class ItemStore(Protocol):
    """Items, their announcements (outbox) and what was refused."""

    last_delay_us: int

    def put_items(self, items: Sequence[Item], topic: str, bodies: Mapping[str, Json]) -> Stored:
        """Store what is absent; item and announcement in one commit."""
        ...

    def documents(self, keys: Sequence[str]) -> list[Json]:
        """The documents of those keys that are there, in their order."""
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
        """The newest documents by timestamp; of any of the labels, or of all items when there is none."""
        ...

    def collection_events(self, pipeline: str, last: int | None = None) -> list[Json]:
        """Oldest first; only the `last` ones where that is given."""
        ...

    def add_dead_letters(self, letters: Sequence[DeadLetter]) -> None: ...
    def dead_letters(
        self, limit: int = 1_000, *, stage: str | None = None, pipeline: str | None = None, kind: str | None = None
    ) -> list[Json]:
        """Those that were not sent back, oldest first, of a stage, pipeline and kind where these are given.

        Each has id, stage, pipeline, source, kind, reason, doc, raw_key, seen, key, headers, attempts and message_id.
        """
        ...

    def dead_letter(self, ident: str) -> Json | None:
        """The dead letter with this id, one that was sent back too, or None."""
        ...

    def dead_letter_counts(self) -> list[Json]:
        """How many there are by stage, pipeline and kind: these, letters, and seen (repeated ones counted)."""
        ...

    def redrive_outbox(self, limit: int = 10_000) -> int:
        """Put announcements that were set aside back into the outbox, each once; how many."""
        ...

    def publish(self, topic: str, key: str, body: Json) -> None: ...
    def add_collection_event(self, event_id: str, pipeline: str, started_us: int, doc: Json) -> None: ...
    def transaction(self) -> AbstractContextManager[Transaction]:
        """Everything written inside is one commit; nested use joins the outer one."""
        ...


class Queue(Protocol):
    """At-least-once delivery with leases."""

    def receive(self, topic: str, group: str, limit: int, lease_us: int) -> list[Message]: ...
    def acknowledge(self, message: Message, transaction: Transaction | None = None) -> None: ...
    def defer(self, message: Message, until_us: int) -> None: ...


class LedgerBackend(Protocol):
    """What a `Ledger` runs on; the core's ledgers are such, and any object that passes `LedgerSuite` may be one.

    Times are microseconds. An answer to a claim is (status, token, until_us, attempts, result, last_error), with
    status "acquired", "done", "in_progress" or "mismatch"; an acquisition's fence may be a seventh part. `complete`,
    `release` and `renew` compare the token and raise `StaleLeaseError`. A result that is refused raises
    `InvalidInputError`, of kind message_too_large when it is too large: the key is then completed without it.

    `release` gives the attempt back when it is not `counted`, once, however often it is repeated; an error that is
    empty then leaves the one from before. A backend may have more: `claim_pair(key, legacy_key, lease_us, payload) ->
    (answer, token of the legacy key)`, which acquires both or none in one step, and `complete_with`.
    """

    def claim(self, keys: Sequence[str], lease_us: int, payloads: Sequence[str]) -> list[Any]: ...
    def complete(self, keys: Sequence[str], tokens: Sequence[str], results: Sequence[str]) -> None: ...
    def release(self, key: str, token: str, error: str, counted: bool = True) -> None: ...
    def renew(self, key: str, token: str, lease_us: int) -> int: ...
    def prune(self) -> int: ...
    def warnings(self) -> list[str]: ...


class RedisClientProtocol(Protocol):
    """A Redis client that the user's container provides; `Ledger.on_redis` runs on it.

    Keys and values are text; times to live are seconds. `run_script` is EVAL with one key: without it a lease cannot be
    taken over safely. `headgate.backends.redispy.RedisPyClient` makes one of any redis-py client. A client may have
    `info() -> dict` too (Redis' INFO, as redis-py gives it): the ledger's warnings are read from it. The methods of a
    client for `AsyncLedger.on_redis` may be coroutine functions.
    """

    def set_if_not_exists(self, key: str, value: str, ttl_seconds: int) -> bool: ...
    def delete_key(self, key: str) -> int: ...
    def get(self, key: str) -> bytes | None: ...
    def setex(self, key: str, ttl_seconds: int, value: str) -> None: ...
    def run_script(self, script: str, key: str, arguments: list[str]) -> Any: ...


@dataclass(frozen=True)
class Announcement:
    """One row of the outbox.

    Attributes:
        row: its number, by which a publisher answers; of this call only.
        topic, key: where it goes, and what keeps its order: of one topic and key, none overtakes an earlier one.
        body: JSON text.
        id: the same whenever this announcement is sent again, and no other announcement's.
    """

    row: int
    topic: str
    key: str
    body: str
    id: str = ""


@dataclass(frozen=True)
class Refusal:
    """Why an announcement can never be sent.

    Attributes:
        kind: a stable word: "message_too_large", "invalid_message", "invalid_unicode", "invalid_topic", ...
        reason: one sentence: what was expected, what was got.
    """

    kind: str
    reason: str


class Published(list[int]):
    """The rows that have arrived, and what a publisher knows of the others.

    Attributes:
        refused: rows that can never be sent; the outbox sets them aside as dead letters.
        is_away: nothing more can be sent now.
        stuck: topics of which nothing can be sent now.
        error: the publisher is set up wrongly; the outbox raises it once the rows above are marked.

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
    """Takes announcements elsewhere. Both an answer and a message may be lost: a row may be sent again."""

    def publish(self, announcements: Sequence[Announcement]) -> list[int]:
        """Send these, in their order; never raises because of one of them.

        Returns:
            The rows that have arrived; the rest is sent again later. A `Published` also says which rows can never be
            sent, so that they wait for nothing and nothing waits for them.
        """
        ...


class Metrics(Protocol):
    """Where counts and durations go; `headgate.ops.MemoryMetrics` keeps them for Prometheus."""

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None: ...
    def gauge(self, name: str, value: float, **labels: str) -> None: ...
    def observe(self, name: str, value: float, **labels: str) -> None: ...


class StateStore(Protocol):
    """Small named documents: breakers, trackers."""

    def load_state(self, name: str) -> Json | None: ...
    def save_state(self, name: str, doc: Json) -> None: ...


class SharedStateStore(Protocol):
    """Small named documents that several writers change: a compare-and-set beside the reading."""

    def load_state(self, name: str) -> Json | None: ...
    def swap_state(self, name: str, before: Json | None, doc: Json) -> bool:
        """Write `doc` only if the document is still `before` (None: there is none); whether it was written."""
        ...


@dataclass(frozen=True)
class StaleItem:
    """A pending item that is due for another announcement."""

    key: str
    due_us: int
    attempts: int


class ItemLives(Protocol):
    """What the consumer that finishes items needs of an item store."""

    def item_status(self, key: str, tx: Transaction | None = None) -> str | None:
        """An item's status, or None: there is no such item."""
        ...

    def end_item(
        self, key: str, status: str, reason: str = "", values: Mapping[str, Any] | None = None,
        tx: Transaction | None = None,
    ) -> bool:  # fmt: skip
        """Give an item that is pending, failed or quarantined its final status; whether it was one of these.

        One commit, or one conditional write; with `tx` a part of that transaction.
        """
        ...


class HealingTable(Protocol):
    """What the sweep needs of an item store."""

    def stale_pending(self, before_us: int, limit: int, after: tuple[int, str] | None) -> list[StaleItem]: ...
    def full_items(self, keys: Iterable[str], group: str = "") -> list[Json]:
        """Of the keys that are still pending: key, source, timestamp, doc, status, republish_attempts, due_us, and
        held_up: "outbox" or "queue" where its announcement is still on its way, otherwise an empty text.

        Args:
            keys: which items.
            group: the consumer group that finishes them: only its messages count; empty: any group's.
        """
        ...

    def count_attempt(self, key: str, attempts: int, before_us: int) -> bool:
        """Use up an attempt without an announcement, under the conditions of `republish`."""
        ...

    def republish(self, key: str, attempts: int, before_us: int, topic: str, body: Json) -> bool:
        """Announce again, if the item is still pending, due by `before_us`, and has this attempt count."""
        ...

    def quarantine(self, key: str, attempts: int, reason: str = "") -> bool: ...
    def stuck_items(self, limit: int = 1_000) -> list[Json]:
        """Items that nothing sends again by itself: key, source, status, reason, ended_us, republish_attempts."""
        ...

    def release_items(self, keys: Sequence[str] | None = None) -> int:
        """Make quarantined and failed items pending and due again; how many.

        Args:
            keys: which; None: all of the pipeline.
        """
        ...
