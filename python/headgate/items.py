"""The life of an item: how its announcement identifies it, and how its consumer finishes it.

An item is stored as `pending` and announced. Its announcement carries its key, and the key is the announcement's
identity wherever and however often it arrives. When the consumer that the pipeline names has handled it, the engine
ends the item as `done`, in the commit of the effect where store and ledger are one SQLite file, in one conditional
write elsewhere. A handler that wants something else calls one of these:

    from headgate import items

    def handler(body, tx):
        if not body["payload"]:
            items.fail(None, "the payload is empty")      # for good: nobody sends it again
        elif body["asynchronous"]:
            items.leave_pending()                         # somebody else finishes it, with items.finish(key)
        else:
            items.finish(status="billed")                 # the default is "done"
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headgate.errors import ConfigError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from headgate.ports import ItemLives, Json, Transaction

__all__ = [
    "DONE", "FAILED", "MARK", "PENDING", "QUARANTINED", "Ending", "LifeCycle", "Scope", "announced_key", "fail",
    "finish", "leave_pending", "mark_announcement", "use",
]  # fmt: skip

MARK = "headgate"  # the member of an announcement that holds the engine's own words; part of no identity
PENDING, DONE, FAILED, QUARANTINED = "pending", "done", "failed", "quarantined"
OPEN = frozenset({PENDING, FAILED, QUARANTINED})  # an item that is none of these was handled
_LEFT, _FAILED, _DEAD = "left_pending", "item_failed", "dead_letter"  # what a claim's result may say of its item
_STATUS = re.compile(r"[a-z][a-z0-9_]{0,39}")
_MAX_REASON = 500


def mark_announcement(body: Json, key: str, pipeline: str, attempt: int = 0, at: str = "") -> Json:
    """An announcement's body with the engine's mark: `{"headgate": {"item_key": ..., "pipeline": ...}}`.

    Args:
        body: what the pipeline announces.
        key: the item's.
        pipeline: its name.
        attempt: which republication this is; 0 is the first announcement.
        at: when it was republished, ISO 8601: no two republications of an item have the same.

    Raises:
        InvalidInputError: the body has a member `headgate` of its own.

    Example:
        >>> mark_announcement({"n": 1}, "k1", "orders", 2)["headgate"]
        {'item_key': 'k1', 'pipeline': 'orders', 'republished': 2}
    """
    if MARK in body:
        message = f"the announcement has a member {MARK!r} of its own; expected a body without it: the engine adds it"
        raise InvalidInputError(message)
    mark: Json = {"item_key": key, "pipeline": pipeline}
    if attempt:
        mark["republished"] = attempt
    if at:
        mark["at"] = at
    return {**body, MARK: mark}


def announced_key(document: Any) -> str:
    """The key of the item that a message announces, or an empty text.

    Args:
        document: a parsed message body; one in an SNS envelope is looked into.

    Example:
        >>> announced_key({"headgate": {"item_key": "k1"}}), announced_key({"n": 1})
        ('k1', '')
    """
    mark = document.get(MARK) if isinstance(document, dict) else None
    key = mark.get("item_key") if isinstance(mark, dict) else None
    return key if isinstance(key, str) else ""


def announced_at(document: Any) -> str:
    """When a message's item was republished, or an empty text: it is a first announcement, or announces nothing."""
    mark = document.get(MARK) if isinstance(document, dict) else None
    at = mark.get("at") if isinstance(mark, dict) else None
    return at if isinstance(at, str) else ""


@dataclass(frozen=True)
class Ending:
    """How an item's life ends.

    Attributes:
        status: a final word: "done", "failed", "quarantined" or one of the handler's own.
        reason: why, for those that failed.
        values: further fields of the item: sentiment, score and model_version on SQLite, any on DynamoDB.
    """

    status: str
    reason: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


class Scope:
    """Collects the calls of `finish`, `fail` and `leave_pending` while a handler runs. Applied with its effect."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.endings: dict[str, Ending] = {}
        self.is_left = False

    def result(self, outcome: Any, message_id: str) -> Any:
        """What the claim remembers: the handler's result, unless the item may be announced to be handled again."""
        ending = self.endings.get(self.key)
        word = _LEFT if self.is_left else _FAILED if ending is not None and ending.status == FAILED else ""
        return {word: True, "message": message_id} if word and self.key else outcome


_scope: ContextVar[Scope | None] = ContextVar("headgate_item_scope", default=None)
_store: ContextVar[ItemLives | None] = ContextVar("headgate_items", default=None)


def finish(key: str | None = None, status: str = DONE, **values: Any) -> bool:
    """End an item as handled.

    In a handler of a worker the item ends in the commit of the handler's effect, or right after it on other backends.
    Elsewhere (`use`) it ends at once.

    Args:
        key: the item's; None: of the message that is being handled.
        status: the final word.
        **values: see `Ending`.

    Returns:
        Whether it was open; within a handler True, because it ends later.

    Raises:
        ConfigError: no message is being handled, and no `use(store)` is around the call.
        InvalidInputError: not a final word, or the message announces no item.
    """
    if not isinstance(status, str) or status in OPEN or not _STATUS.fullmatch(status):
        message = f"finish: {status!r} is no final status; expected a lower-case word such as 'done'"
        raise InvalidInputError(message)
    return _end("finish", key, Ending(status, "", values))


def fail(key: str | None, reason: str) -> bool:
    """End an item for good without its having been handled; `headgate heal release` brings it back.

    Args:
        key: the item's; None: of the message that is being handled.
        reason: one sentence, without personal ids.

    Returns, raises: as `finish`.
    """
    # A text of an exception may hold halves of surrogate pairs, which no store keeps.
    text = str(reason).encode("utf-8", "backslashreplace").decode()
    return _end("fail", key, Ending(FAILED, text[:_MAX_REASON]))


def leave_pending() -> None:
    """Let the handler's return not finish the item; somebody calls `finish(key)` later.

    If nobody does, the healing sweep announces the item again after its threshold, and the handler runs again.

    Raises:
        ConfigError: no message is being handled.
    """
    scope = _scope.get()
    if scope is None:
        message = "leave_pending: no message of an item is being handled here"
        raise ConfigError(message)
    scope.is_left = True


@contextmanager
def use(store: ItemLives) -> Iterator[None]:
    """Let `finish` and `fail` work on a store outside of a worker's handler: in a script, in a Lambda function.

    Example:
        >>> with use(app.store):                                    # doctest: +SKIP
        ...     finish("k1", "paid")
        True
    """
    before = _store.set(store)
    try:
        yield
    finally:
        _store.reset(before)


def _end(what: str, key: str | None, ending: Ending) -> bool:
    scope = _scope.get()
    key = key if key is not None or scope is None else scope.key
    for name, value in ending.values.items():
        if isinstance(value, str) and any("\ud800" <= char <= "\udfff" for char in value):
            message = f"{what}: {name} holds half a surrogate pair; expected text that can be stored"
            raise InvalidInputError(message)
    if not isinstance(key, str) or not key:
        message = f"{what}: the message announces no item; expected the item's key"
        raise InvalidInputError(message)
    if scope is not None:
        scope.endings[key] = ending
        if key == scope.key:
            scope.is_left = False
        return True
    store = _store.get()
    if store is None:
        message = f"{what}: no message is being handled here; expected a call within headgate.items.use(store)"
        raise ConfigError(message)
    return store.end_item(key, ending.status, ending.reason, ending.values)


@dataclass(frozen=True)
class LifeCycle:
    """Finishes the items that a consumer handles. Used by `Processor`.

    Args:
        store: the items.
        finishes: whether the consumer finishes the items that it handles; False: only what its handler says counts.
    """

    store: ItemLives
    finishes: bool = True

    def shares(self, database: Any) -> bool:
        """Whether items and ledger are in one database, so that one commit holds both."""
        return database is not None and getattr(self.store, "db", None) is database

    def is_ended(self, key: str, tx: Transaction | None = None) -> bool:
        """Whether an item was handled already, whatever message said so."""
        status = self.store.item_status(key, tx) if key and self.finishes else None
        return status is not None and status not in OPEN

    @contextmanager
    def handling(self, key: str) -> Iterator[Scope]:
        """Collects what the handler says of items."""
        scope = Scope(key)
        before = _scope.set(scope)
        try:
            yield scope
        finally:
            _scope.reset(before)

    def endings(self, scope: Scope) -> dict[str, Ending]:
        """Which items end, and how, now that the handler has finished."""
        found = dict(scope.endings)
        if self.finishes and scope.key and not scope.is_left:
            found.setdefault(scope.key, Ending(DONE))
        return found

    def settle(self, scope: Scope, tx: Transaction | None = None) -> None:
        """End what the handler has handled."""
        for key, ending in self.endings(scope).items():
            self.store.end_item(key, ending.status, ending.reason, ending.values, tx)

    def settle_known(self, key: str, result: Any, tx: Transaction | None = None) -> None:
        """End the item of a message whose claim is done: a worker died between the two, and the sweep announced it."""
        if self.finishes and key and not handled_under(result):
            self.store.end_item(key, DONE, tx=tx)

    def quarantine(self, key: str, reason: str, tx: Transaction | None = None) -> None:
        """Put an item whose message is a dead letter into quarantine. A redrive or a release brings it back, no
        sweep."""
        if self.finishes and key:
            self.store.end_item(key, QUARANTINED, f"dead letter: {reason}"[:_MAX_REASON], tx=tx)

    def writes(self, scope: Scope, others: Sequence[Mapping[str, Any]]) -> list[Any] | None:
        """The endings as writes of the transaction that completes the claim, or None: they have to follow it."""
        make = getattr(self.store, "ending_write", None)
        if make is None:
            return None
        taken = [_place(write) for write in others]
        found = []
        for key, ending in self.endings(scope).items():
            if self.store.item_status(key) is None:
                continue  # the item has expired
            write = make(key, ending.status, ending.reason, ending.values)
            if _place(write) not in taken:  # the handler ends it itself
                found.append(write)
        return found


def handled_under(result: Any) -> str:
    """The id of the message under which a claim was completed without finishing its item, or an empty text.

    Such a claim holds a dead letter, an item that failed, or one that was left pending: another message under the same
    key (a redrive, a release, a sweep) is handled as a life of its own.
    """
    if isinstance(result, dict) and any(result.get(word) is True for word in (_DEAD, _FAILED, _LEFT)):
        return str(result.get("message", "")) or "-"
    return ""


def _place(write: Mapping[str, Any]) -> Any:
    ((_, arguments),) = write.items()
    return (arguments.get("TableName"), arguments.get("Key"))
