"""What the engine knows of a domain: a `Pipeline`, and the values that its functions get and give."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from headgate._members import Member, first_value, record_of
from headgate._native import core
from headgate._registry import compile_model
from headgate.errors import ConfigError, HeadgateError, InvalidInputError
from headgate.identity import check_key_part, document_text, event_id
from headgate.items import MARK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pydantic import BaseModel

    from headgate.ports import Item, Json

    Merge = Callable[[Json, Json], tuple[Json, tuple[str, ...]] | None]


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

    def __post_init__(self) -> None:
        check_key_part("pipeline: name", self.name)
        check_key_part(f"pipeline {self.name}: key_prefix", self.key_prefix)

    @classmethod
    def from_model(
        cls,
        name: str,
        model: type[BaseModel],
        parse: Callable[[bytes, RawInfo], Any],
        key: str | Callable[[Json], str] | None = None,
        *,
        announce: Sequence[str] | Callable[[Item], Json] | None = None,
        finished_by: str | None = None,
    ) -> Pipeline:
        """A pipeline of a pydantic model, a parser and a key.

        Args:
            name: lower case, used in topics, paths and tables.
            model: what a record is; `headgate.checkpoint.schema.compile_model` says what it may hold. A record that it
                refuses becomes a dead letter with the field and the reason. An item's time is the field that the model
                names in `headgate_sort_by`, or the time of the fetch where there is none.
            parse: (raw body, `RawInfo`) -> the records in it, as objects of the model's form or as instances of it: a
                list, any other iterable, or a single one. It may raise `Reject` for the body.
            key: a record's identity, the same for the same record wherever it comes from: the name of a field that
                holds text or an integer, or a function of the record (a dict) that returns text and may raise `Reject`.
                None: `event_id` of the whole record.
            announce: what an item's announcement holds besides its key: names of fields, or a function of the item.
                None: the whole record as it came; a field `key` of its own is then what `key` holds.
            finished_by: the consumer whose handling finishes an item; None: the topic's only one.

        Returns:
            The pipeline; `dataclasses.replace` sets what is not named here.

        Raises:
            ConfigError: `key` or `announce` names no field of the model, or a field that is announced is named
                `headgate`: that member of an announcement is the engine's.
            InvalidInputError: kind invalid_schema: the model has what cannot be compiled.

        Example:
            >>> from pydantic import BaseModel
            >>> class Order(BaseModel):
            ...     order_id: str
            ...     cents: int
            >>> Pipeline.from_model("orders", Order, lambda body, raw: json.loads(body), "order_id").topic
            'orders.items'
        """
        plan = compile_model(model)
        members = {field["name"]: field.get("keys", [field["name"]]) for field in plan["fields"]}
        form = _ModelForm(name, plan, members, parse, key)
        if callable(announce):
            announcement = announce
        else:
            names = list(members) if announce is None else list(announce)
            _check_fields(name, "announce", names, members)
            if MARK in names:
                message = (
                    f"pipeline {name}: {MARK!r} of an announcement is the engine's; expected other names in announce"
                )
                raise ConfigError(message)
            announcement = _Announcement(None if announce is None else [(n, members[n]) for n in names])
        return cls(name, json.dumps(plan), form.parse, form.normalise, announcement, finished_by=finished_by)

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


def check_item_key(key: object) -> None:
    """Refuse an identity that would make two records one, or none.

    Raises:
        InvalidInputError: it is no text, or empty.
        UnicodeEncodeError: it holds a lone surrogate.
    """
    if not isinstance(key, str) or not key:
        got = "an empty text" if key == "" else type(key).__name__
        message = f"the key of this record is {got}; expected text that is not empty"
        raise InvalidInputError(message)
    key.encode()


class _ModelForm:
    """The functions `parse` and `normalise` of a pipeline that was made from a model."""

    def __init__(
        self,
        name: str,
        plan: Json,
        members: dict[str, list[Member]],
        parse: Callable[[bytes, RawInfo], Any],
        key: str | Callable[[Json], str] | None,
    ) -> None:
        if isinstance(key, str):
            _check_fields(name, "key", [key], members)
        self._parse = parse
        self._key = key
        self._members = members
        self._time = members.get(plan["sort_by"], [])
        self._validator = core.Validator(json.dumps(plan))

    def parse(self, body: bytes, raw: RawInfo) -> list[Any]:
        found = self._parse(body, raw)
        single = isinstance(found, dict | str | bytes) or hasattr(found, "model_dump") or not hasattr(found, "__iter__")
        records = [found] if single else found
        return [self._document(record) for record in records]

    def normalise(self, record: Any, raw: RawInfo) -> Normalised:
        if not isinstance(record, dict):
            raise Reject("not_an_object", f"expected a JSON object, got {type(record).__name__}")
        return Normalised(self._identity(record), self._timestamp(record, raw), record)

    def _document(self, record: Any) -> Any:
        """An instance of a model as the object that the model would read."""
        if not hasattr(record, "model_dump"):
            return record
        fields: Json = record.model_dump(mode="json")
        return record_of(fields, self._members)

    def _identity(self, record: Json) -> str:
        if self._key is None:
            return event_id(record)
        if isinstance(self._key, str):
            value = first_value(record, self._members[self._key])
            return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        try:
            return self._key(record)
        except (Reject, HeadgateError):
            raise
        except Exception:
            # The function may count on fields that this record lacks; then the model's verdict is the reason.
            if self._validator.problems(document_text(record).encode()):
                return "invalid"  # `Intake` refuses the record for these problems, so this is no item's key
            raise

    def _timestamp(self, record: Json, raw: RawInfo) -> str:
        value = first_value(record, self._time)
        if isinstance(value, str):
            try:
                return core.format_timestamp(core.parse_timestamp(value.strip()))
            except HeadgateError:
                pass  # the model judges the value; a field that may be any text is no time
        return raw.fetched_at


class _Announcement:
    """The function `announce` of a pipeline that was made from a model: the whole record, or some of its fields."""

    def __init__(self, fields: list[tuple[str, list[Member]]] | None) -> None:
        self._fields = fields

    def __call__(self, item: Item) -> Json:
        if self._fields is None:
            return {"key": item.key, **item.doc}
        return {"key": item.key, **{name: first_value(item.doc, members) for name, members in self._fields}}


def _check_fields(pipeline: str, argument: str, names: Iterable[str], members: Iterable[str]) -> None:
    known = list(members)
    for name in names:
        if name not in known:
            message = (
                f"pipeline {pipeline}: {argument} names {name!r}; expected a field of the model: {', '.join(known)}"
            )
            raise ConfigError(message)
