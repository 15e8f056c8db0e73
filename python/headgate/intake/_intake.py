"""One record type's way from raw bytes to stored, announced items."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import DuplicateError, HeadgateError, InvalidInputError, Kind, TransientError
from headgate.identity import check_key_part, document_text
from headgate.intake._bodies import Unreadable, record_text
from headgate.intake._pipeline import NewItem, RawInfo, Reject, check_item_key
from headgate.intake._reasons import explain
from headgate.items import mark_announcement
from headgate.ports import DeadLetter, Item, Json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from headgate.intake._pipeline import Merge, Pipeline
    from headgate.ports import Clock, ItemStore, ObjectStore

log = logging.getLogger("headgate.intake")
_OVERLAP_FROM = 3  # bodies: fewer are not worth a thread
_PARSE_FAILED, _NORMALISE_FAILED, _ANNOUNCE_FAILED = "parse_failed", "normalise_failed", "announce_failed"
# Kinds of dead letters of which the source's form is to blame, not one record.
_UNREADABLE = frozenset(
    [_PARSE_FAILED, _NORMALISE_FAILED, "not_an_object", Kind.INVALID_JSON.value, Kind.MALFORMED_RESPONSE.value]
)
_TRIES = 16  # of a conditional write: each loss is another process's success
_AHEAD = 2  # bodies that are prepared before they are stored


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

        Raises:
            ConfigError: the source's name is none that a path can hold.
        """
        check_key_part("source", source)
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
        given: Any = body
        if not isinstance(given, bytes | bytearray | memoryview):
            message = f"body: got {type(given).__name__}; expected the bytes as they came"
            raise InvalidInputError(message)
        body = bytes(given)
        given = {} if context is None else context
        try:
            is_object = isinstance(given, dict) and json.dumps(given, allow_nan=False) != ""
        except (TypeError, ValueError, RecursionError):
            is_object = False
        if not is_object:
            message = f"context: got {type(given).__name__}; expected an object of JSON values"
            raise InvalidInputError(message)
        started_us = self.clock.now_us()
        key = self.keep_raw(source, body, {"context": context} if context else None)
        with self.store.transaction():
            raw = RawInfo(source, key, started_us, context or {}, reader=self.readers.get(source))
            taken = self.take(body, raw)
            self.record(str(uuid.uuid4()), source, started_us, taken, {"raw_count": 1})
        return taken

    def record(self, event_id: str, source: str, started_us: int, taken: Taken, more: Json) -> None:
        """Store a collection event: what came in, and what became of it."""
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
        except Reject as reject:
            return Prepared(1, [], [self._body_letter(raw, reject.kind, reject.reason, body)])
        except InvalidInputError as error:
            return Prepared(1, [], [self._body_letter(raw, error.kind.value, error.message, body)])
        except json.JSONDecodeError:
            return Prepared(1, [], [self._body_letter(raw, Kind.INVALID_JSON.value, "the body is not JSON", body)])
        except Exception as error:
            name = type(error).__name__
            log.error("parse failed", extra={"pipeline": self.pipeline.name, "source": raw.source, "error": name})
            return Prepared(1, [], [self._body_letter(raw, _PARSE_FAILED, name, body)])
        items: list[Item] = []
        letters: list[DeadLetter] = []
        keys: dict[int, str] = {}
        announcements: dict[str, Json] = {}
        for record in records:
            outcome = self.examine(record, raw, lambda key: keys.update({len(letters): key}))
            if isinstance(outcome, Item):
                announcement = self.announcement(outcome, record, raw)
                if not isinstance(announcement, DeadLetter):
                    items.append(outcome)
                    announcements.setdefault(outcome.key, announcement)  # of two records, the first is stored
                    continue
                outcome = announcement
            letters.append(outcome)
        return Prepared(len(records), items, letters, announcements, keys)

    def announcement(self, item: Item, record: Any, raw: RawInfo) -> Json | DeadLetter:
        """The body that announces an accepted item, with its key: the announcement's identity however often it is sent.

        An item that the pipeline cannot announce would never be handled, so its record becomes a dead letter.
        """
        try:
            return mark_announcement(self.pipeline.announce(item), item.key, self.pipeline.name)
        except HeadgateError as error:
            return self._letter(raw, error.kind.value, error.message, record_text(record))
        except Exception as error:
            name = type(error).__name__
            log.error("announce failed", extra={"pipeline": self.pipeline.name, "source": raw.source, "error": name})
            return self._letter(raw, _ANNOUNCE_FAILED, name, record_text(record))

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
            check_item_key(normal.key)
            text = document_text(normal.doc)
            encoded = text.encode()
        except Reject as reject:
            if reject.key is not None and on_key is not None:
                on_key(reject.key)
            return self._letter(raw, reject.kind, reject.reason, record_text(record))
        except HeadgateError as error:
            return self._letter(raw, error.kind.value, error.message, record_text(record))
        except UnicodeEncodeError:
            return self._letter(raw, Kind.INVALID_UNICODE.value, "a text holds a lone surrogate", record_text(record))
        except Exception as error:
            # A bug in a pipeline must not lose the rest of the body, nor the record: it can be replayed once mended.
            # The exception's text may quote the record, so the log has its type only.
            name = type(error).__name__
            log.error("normalise failed", extra={"pipeline": self.pipeline.name, "source": raw.source, "error": name})
            return self._letter(raw, _NORMALISE_FAILED, name, record_text(record))
        problems = self._validator.problems(encoded)
        if problems:
            reason = explain(self.pipeline.plan, problems, normal.doc)
            return self._letter(raw, Kind.INVALID_RECORD.value, reason, record_text(record))
        return Item(normal.key, self.pipeline.name, raw.source, normal.timestamp, normal.doc, normal.story_key, raw.key,
                    normal.labels, text)  # fmt: skip

    def _body_letter(self, raw: RawInfo, kind: str, reason: str, body: bytes) -> DeadLetter:
        return self._letter(raw, kind, reason, body.decode("utf-8", "replace"))

    def _letter(self, raw: RawInfo, kind: str, reason: str, doc: str) -> DeadLetter:
        return DeadLetter("intake", self.pipeline.name, raw.source, kind, reason, doc, raw.key)


def all_of(takens: Iterable[Taken]) -> Taken:
    """The sum of several bodies' outcomes."""
    found = list(takens)
    # Not one by one: that would copy the new items once a body.
    return Taken(
        sum(t.taken for t in found), sum(t.stored for t in found), sum(t.duplicates for t in found),
        sum(t.dead_letters for t in found), tuple(item for t in found for item in t.new),
        sum(t.unreadable for t in found),
    )  # fmt: skip
