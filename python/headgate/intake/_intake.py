"""One record type's way from raw bytes to stored, announced items."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import uuid
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from headgate._native import core
from headgate.errors import DuplicateError, HeadgateError, InvalidInputError, Kind, TransientError
from headgate.identity import document_text
from headgate.intake._reasons import explain
from headgate.items import mark_announcement
from headgate.ports import DeadLetter, Item, Json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from headgate.ports import Clock, ItemStore, ObjectStore

    Merge = Callable[[Json, Json], tuple[Json, tuple[str, ...]] | None]

log = logging.getLogger("headgate.intake")
_OVERLAP_FROM = 3  # bodies: fewer are not worth a thread
_PARSE_FAILED, _NORMALISE_FAILED = "parse_failed", "normalise_failed"
# Kinds of dead letters of which the source's form is to blame, not one record.
_UNREADABLE = frozenset(
    [_PARSE_FAILED, _NORMALISE_FAILED, "not_an_object", Kind.INVALID_JSON.value, Kind.MALFORMED_RESPONSE.value]
)
_MAX_DIGITS = 4300  # of an integer that Python reads; a longer one costs time that grows with the square
_LONG_DIGITS = re.compile(rb"[0-9]{4301}")
_TRIES = 16  # of a conditional write: each loss is another process's success
_AHEAD = 2  # bodies that are prepared before they are stored


class Reject(Exception):  # noqa: N818 - a verdict on one record, not a failure of the program
    """Raised by a pipeline's `normalise` for a record that goes to the dead letters.

    Args:
        kind: a short stable code, for example "too_old".
        reason: one sentence, without personal ids.
        key: of the item that the record would be, when its identity is known: a record that is stored already is a
            duplicate, whatever is wrong with it now (an article that has grown too old).
    """

    def __init__(self, kind: str, reason: str, key: str | None = None) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.key = key


@dataclass(frozen=True)
class RawInfo:
    """What a record's normaliser may know of the response it came in."""

    source: str
    key: str
    fetched_us: int
    context: Json = field(default_factory=dict)
    attempt: int = 1
    reader: Any = None  # the source's adapter, when it is at hand
    url: str = ""  # what was asked, when that is known

    @property
    def fetched_at(self) -> str:
        """When the body was fetched, ISO 8601 in UTC."""
        return core.format_timestamp(self.fetched_us)


@dataclass(frozen=True, slots=True)
class Normalised:
    """A record in its pipeline's own form: the document that the schema checks, and its identity."""

    key: str
    timestamp: str
    doc: Json
    story_key: str | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pipeline:
    """Everything the engine needs to know of a domain.

    Args:
        name: lower case, used in topics, paths and tables.
        plan: the record type's schema plan (JSON text, see `headgate.checkpoint.schema.compile_model`).
        parse: raw body -> raw records; raises InvalidInputError for a body of another shape.
        normalise: one raw record -> `Normalised`; raises `Reject` for a bad one.
        announce: an accepted item -> the body of its announcement; the healing sweep sends the same.
        notify: (collection's event id, source, new items, time in microseconds) -> (topic, body), once for a collection
            that stored something new; None sends nothing.
        model_version: travels in the announcements of the healing sweep.
        key_prefix: of the items' keys in stores that keep everything in one table.
        finished_by: the consumer whose handling finishes an item; None: the topic's only one.
        check_query: raises InvalidInputError for a query whose records could not be stored; called before any request.
        merge: (stored document, new document) -> the stored one with what the new one knows besides, and all its
            labels; None when it knows nothing more. For records that concern several labels and come once for each.
        standing: (adapter, priority, snapshot of its breaker, collection events) -> how the source stands, which is
            stored beside the items.
    """

    name: str
    plan: str
    parse: Callable[[bytes, RawInfo], list[Any]]
    normalise: Callable[[Any, RawInfo], Normalised]
    announce: Callable[[Item], Json]
    notify: Callable[[str, str, Sequence[NewItem], int], tuple[str, Json]] | None = None
    model_version: str = "v1.0.0"
    key_prefix: str = "ITEM"
    finished_by: str | None = None
    check_query: Callable[[Json], None] | None = None
    merge: Merge | None = None
    standing: Callable[[Any, int, Json, list[Json]], Json] | None = None

    @property
    def topic(self) -> str:
        return f"{self.name}.items"

    @property
    def alert_topic(self) -> str:
        return f"{self.name}.alerts"


class NewItem(NamedTuple):
    """What a collection's notification may say of an item that was new."""

    key: str
    timestamp: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Taken:
    """The outcome of every record: taken == stored + duplicates + dead_letters.

    `unreadable` of the dead letters are records that the source's reader could not make anything of.
    """

    taken: int = 0
    stored: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    new: tuple[NewItem, ...] = field(default=(), repr=False)
    unreadable: int = 0

    @property
    def new_keys(self) -> tuple[str, ...]:
        """Keys of the items that were stored."""
        return tuple(item.key for item in self.new)

    def __add__(self, other: Taken) -> Taken:
        return Taken(
            self.taken + other.taken,
            self.stored + other.stored,
            self.duplicates + other.duplicates,
            self.dead_letters + other.dead_letters,
            self.new + other.new,
            self.unreadable + other.unreadable,
        )


@dataclass(frozen=True)
class Prepared:
    """A body's records on their way to the store."""

    records: int
    items: list[Item]
    letters: list[DeadLetter]
    announcements: dict[str, Json] = field(default_factory=dict)
    keys: dict[int, str] = field(default_factory=dict)  # place of a letter -> key of the item that it would be


class Intake:
    """Takes raw bodies of one pipeline.

    Example:
        >>> intake = Intake(pipeline, store, objects, clock)                 # doctest: +SKIP
        >>> intake.accept("github", b'[{"action": "opened"}]').stored       # doctest: +SKIP
        1
    """

    def __init__(
        self,
        pipeline: Pipeline,
        store: ItemStore,
        objects: ObjectStore,
        clock: Clock,
        readers: Mapping[str, Any] | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.readers = dict(readers or {})  # source -> its adapter
        self.store = store
        self.objects = objects
        self.clock = clock
        self._validator = core.Validator(pipeline.plan)

    def keep_raw(self, source: str, body: bytes, meta: Json | None = None) -> str:
        """Store a body before anything reads it. The key is its content: the same bytes are kept once.

        Returns:
            The object key; beside it lies `<key>.meta.json` with the first fetch's facts.
        """
        digest = hashlib.sha256(body).hexdigest()
        key = f"raw/{self.pipeline.name}/{source}/{digest[:2]}/{digest}"
        facts = {"source": source, "size": len(body), "fetched_us": self.clock.now_us(), **(meta or {})}
        for name, data in ((key, body), (f"{key}.meta.json", json.dumps(facts, sort_keys=True).encode())):
            try:
                self.objects.put(name, data, True)
            except DuplicateError:
                continue
        return key

    def accept(self, source: str, body: bytes, context: Json | None = None) -> Taken:
        """Take a body that was pushed to us: raw first, then as in a collection, with an event of its own."""
        started_us = self.clock.now_us()
        key = self.keep_raw(source, body, {"context": context} if context else None)
        with self.store.transaction():
            raw = RawInfo(source, key, started_us, context or {}, reader=self.readers.get(source))
            taken = self.take(body, raw)
            self.record(str(uuid.uuid4()), source, started_us, taken, {"raw_count": 1})
        return taken

    def record(self, event_id: str, source: str, started_us: int, taken: Taken, more: Json) -> None:
        """Store a collection event (spec 001, section 2): what came in, and what became of it."""
        doc = {
            "event_id": event_id,
            "source": source,
            "timestamp": core.format_timestamp(started_us),
            "success": True,
            "item_count": taken.taken,
            "new_item_count": taken.stored,
            "duplicate_count": taken.duplicates,
            "dead_letter_count": taken.dead_letters,
            "duration_ms": (self.clock.now_us() - started_us) // 1000,
            "is_failover": False,
            **more,
        }
        self.store.add_collection_event(event_id, self.pipeline.name, started_us, doc)

    def take(self, body: bytes, raw: RawInfo) -> Taken:
        """Parse, validate, identify and store what a body holds. The body is in the object store already."""
        return self.keep(self.prepare(body, raw))

    def prepare(self, body: bytes, raw: RawInfo) -> Prepared:
        """What `keep` stores of a body: parsed, validated and identified, nothing written."""
        core.fault_point("intake.after_raw")
        try:
            records = list(self.pipeline.parse(body, raw))
        except InvalidInputError as error:
            return Prepared(1, [], [self._body_letter(raw, error.kind.value, error.message, body)])
        except Exception as error:
            name = type(error).__name__
            log.error("parse failed", extra={"pipeline": self.pipeline.name, "source": raw.source, "error": name})
            return Prepared(1, [], [self._body_letter(raw, _PARSE_FAILED, name, body)])
        items: list[Item] = []
        letters: list[DeadLetter] = []
        keys: dict[int, str] = {}
        for record in records:
            outcome = self.examine(record, raw, lambda key: keys.update({len(letters): key}))
            if isinstance(outcome, Item):
                items.append(outcome)
            else:
                letters.append(outcome)
        return Prepared(len(records), items, letters, self.announced(items).announcements, keys)

    def announced(self, items: list[Item]) -> Prepared:
        """Accepted items with their announcements, each with its item's key: its identity however often it is sent."""
        name = self.pipeline.name
        bodies = {i.key: mark_announcement(self.pipeline.announce(i), i.key, name) for i in items}
        return Prepared(len(items), items, [], bodies)

    def keep(self, prepared: Prepared) -> Taken:
        """Store what was prepared."""
        items, letters = prepared.items, self._unknown(prepared)
        self.store.add_dead_letters(letters)
        stored = self.store.put_items(items, self.pipeline.topic, prepared.announcements)
        fresh = set(stored.new_keys)
        labels = self._widen(items, fresh)
        new = {i.key: NewItem(i.key, i.timestamp, labels.get(i.key, i.labels)) for i in items if i.key in fresh}
        known = len(prepared.letters) - len(letters)
        unreadable = sum(letter.kind in _UNREADABLE for letter in letters)
        return Taken(
            prepared.records, len(fresh), stored.duplicates + known, len(letters), tuple(new.values()), unreadable
        )

    def _unknown(self, prepared: Prepared) -> list[DeadLetter]:
        """The letters without those whose item is stored: they are duplicates."""
        if not prepared.keys:
            return prepared.letters
        known = self.store.documents_by_key(list(dict.fromkeys(prepared.keys.values())))
        return [x for at, x in enumerate(prepared.letters) if prepared.keys.get(at) not in known]

    def _widen(self, items: list[Item], fresh: set[str]) -> dict[str, tuple[str, ...]]:
        """What duplicates know besides goes to the stored items; the labels of those that changed."""
        merge = self.pipeline.merge
        if merge is None:
            return {}
        first: set[str] = set()
        again: dict[str, list[Item]] = {}
        for item in items:
            if item.key in fresh and item.key not in first:
                first.add(item.key)
            else:
                again.setdefault(item.key, []).append(item)
        found: dict[str, tuple[str, ...]] = {}
        for key, doc in self.store.documents_by_key(list(again)).items():
            if (labels := self._widen_one(key, doc, again[key], merge)) is not None:
                found[key] = labels
        return found

    def _widen_one(self, key: str, doc: Json | None, items: list[Item], merge: Merge) -> tuple[str, ...] | None:
        """The labels that an item has now, or None: nothing changed."""
        for _ in range(_TRIES):
            if doc is None:
                return None
            wide, labels = doc, None
            for item in items:
                if (merged := merge(wide, item.doc)) is not None:
                    wide, labels = merged
            if labels is None:
                return None
            item = replace(items[0], doc=wide, text=None, labels=labels)
            body = mark_announcement(self.pipeline.announce(item), key, self.pipeline.name)
            if self.store.widen_item(key, self.pipeline.topic, doc, wide, labels, body):
                return labels
            doc = self.store.documents_by_key([key]).get(key)  # another process was faster
        message = f"item {key}: other processes change it all the time"
        raise TransientError(message, Kind.BUSY)

    def take_all(self, bodies: Sequence[tuple[bytes, RawInfo]]) -> Taken:
        """Several bodies, in their order: while the store writes one, the next is prepared on another thread."""
        if len(bodies) < _OVERLAP_FROM:
            return all_of(self.take(body, raw) for body, raw in bodies)
        kept: list[Taken] = []
        with ThreadPoolExecutor(1, thread_name_prefix="headgate-prepare") as helper:
            ahead: deque[Future[Prepared]] = deque()
            for body, raw in bodies:
                ahead.append(helper.submit(self.prepare, body, raw))
                if len(ahead) > _AHEAD:
                    kept.append(self.keep(ahead.popleft().result()))
            kept += [self.keep(future.result()) for future in ahead]
        return all_of(kept)

    def examine(self, record: Any, raw: RawInfo, on_key: Callable[[str], object] | None = None) -> Item | DeadLetter:
        """One raw record: the item that it becomes, or why it is refused; nothing is written.

        Args:
            record: as the pipeline's `parse` gave it.
            raw: what is known of its response.
            on_key: called for a refused record whose identity is known, with the key.
        """
        if isinstance(record, Unreadable):
            return self._letter(raw, record.kind, record.reason, record.text)
        try:
            normal = self.pipeline.normalise(record, raw)
            text = document_text(normal.doc)
            encoded = text.encode()
        except Reject as reject:
            if reject.key is not None and on_key is not None:
                on_key(reject.key)
            return self._letter(raw, reject.kind, reject.reason, _text(record))
        except HeadgateError as error:
            return self._letter(raw, error.kind.value, error.message, _text(record))
        except UnicodeEncodeError:
            return self._letter(raw, Kind.INVALID_UNICODE.value, "a text holds a lone surrogate", _text(record))
        except Exception as error:
            # A bug in a pipeline must not lose the rest of the body, nor the record: it can be replayed once mended.
            # The exception's text may quote the record, so the log has its type only.
            name = type(error).__name__
            log.error("normalise failed", extra={"pipeline": self.pipeline.name, "source": raw.source, "error": name})
            return self._letter(raw, _NORMALISE_FAILED, name, _text(record))
        problems = self._validator.problems(encoded)
        if problems:
            reason = explain(self.pipeline.plan, problems, normal.doc)
            return self._letter(raw, Kind.INVALID_RECORD.value, reason, _text(record))
        return Item(normal.key, self.pipeline.name, raw.source, normal.timestamp, normal.doc, normal.story_key, raw.key,
                    normal.labels, text)  # fmt: skip

    def _body_letter(self, raw: RawInfo, kind: str, reason: str, body: bytes) -> DeadLetter:
        return self._letter(raw, kind, reason, body.decode("utf-8", "replace"))

    def _letter(self, raw: RawInfo, kind: str, reason: str, doc: str) -> DeadLetter:
        return DeadLetter("intake", self.pipeline.name, raw.source, kind, reason, doc, raw.key)


@dataclass(frozen=True)
class Unreadable:
    """A record that a `parse` sets apart: it becomes a dead letter, and the others of its body go on."""

    kind: str
    reason: str
    text: str


class _LongNumber(str):
    """The digits of an integer that is too long for an int."""

    __slots__ = ()


def read_json(body: bytes | str) -> Any:
    """A body as JSON; integers of any length are read, those of more than 4,300 digits as a text that `readable` knows.

    Raises:
        ValueError: it is not JSON, or nested too deep.

    Example:
        >>> read_json(b'[1, {"n": 2}]')
        [1, {'n': 2}]
    """
    try:
        return json.loads(body)
    except RecursionError:
        message = "nested too deep"
        raise ValueError(message) from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError:
        # int() refuses the digits.
        return json.loads(body, parse_int=lambda text: int(text) if len(text) <= _MAX_DIGITS else _LongNumber(text))


def _has_long_number(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_long_number, value.values()))
    return any(map(_has_long_number, value)) if isinstance(value, list) else isinstance(value, _LongNumber)


def readable(records: Iterable[Any], body: bytes) -> list[Any]:
    """The records of a body, those with a number that cannot be kept as `Unreadable`."""
    if _LONG_DIGITS.search(body) is None:
        return list(records)
    reason = f"a number has more than {_MAX_DIGITS} digits"
    return [Unreadable(Kind.NUMBER_OUT_OF_RANGE.value, reason, _text(r)) if _has_long_number(r) else r for r in records]


def parse_array(body: bytes, raw: RawInfo) -> list[Any]:
    """The usual `parse`: a JSON array of records.

    Raises:
        InvalidInputError: not JSON, or not an array.
    """
    try:
        value = read_json(body)
    except ValueError:
        message = f"{raw.source}: the body is not JSON"
        raise InvalidInputError(message, Kind.INVALID_JSON) from None
    if not isinstance(value, list):
        message = f"{raw.source}: expected a JSON array, got {type(value).__name__}"
        raise InvalidInputError(message, Kind.MALFORMED_RESPONSE)
    return readable(value, body)


def all_of(takens: Iterable[Taken]) -> Taken:
    """The sum of several bodies' outcomes."""
    found = list(takens)
    # Not one by one: that would copy the new items once a body.
    return Taken(
        sum(t.taken for t in found), sum(t.stored for t in found), sum(t.duplicates for t in found),
        sum(t.dead_letters for t in found), tuple(item for t in found for item in t.new),
        sum(t.unreadable for t in found),
    )  # fmt: skip


def _text(record: Any) -> str:
    return json.dumps(record, ensure_ascii=True, default=str)
