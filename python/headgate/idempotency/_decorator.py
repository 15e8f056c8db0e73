"""`@idempotent_consumer`: claim the event, run the handler, complete the claim with the handler's result."""

from __future__ import annotations

import functools
import inspect
import logging
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from headgate.errors import ConfigError, HeadgateError, Kind, TransientError
from headgate.idempotency._events import default_identity, earlier_identity, identity_and_type
from headgate.idempotency._failures import describe_error
from headgate.idempotency._handler import (
    EventParameter,
    NameRegistry,
    check_handler,
    find_event_parameter,
    handler_name,
    is_async,
    refuse_unfinished,
)
from headgate.idempotency._keys import claim_key
from headgate.idempotency._lease import default_lease_s
from headgate.idempotency._options import check_call, check_callable, check_choice, check_name, check_seconds
from headgate.idempotency._serializers import json_serializer
from headgate.identity import event_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from headgate.idempotency._async import AsyncLedger
    from headgate.idempotency._ledger import Claim, Ledger

__all__ = ["InProgress", "claim_key", "default_identity", "idempotent_consumer"]
log = logging.getLogger("headgate.idempotency")
OnUnavailable = Literal["refuse", "process"]
ON_UNAVAILABLE: tuple[OnUnavailable, ...] = ("refuse", "process")

F = TypeVar("F", bound="Callable[..., Any]")
_NO_TYPE = "event"  # the event type where neither an envelope nor a topic names one
_DECORATE = "decorate the async function itself"
_PLAIN = frozenset({dict, list, str, int, float, bool, tuple, type(None)})
_names = NameRegistry()


class InProgress(TransientError):  # noqa: N818 - an answer, not a fault
    """Another worker holds the key: do not commit the message, come back at `until` (seconds since 1970)."""

    default_kind = Kind.BUSY

    def __init__(self, message: str, kind: Kind | str | None = None, until: float = 0.0) -> None:
        super().__init__(message, kind)
        self.until = until


def idempotent_consumer(
    ledger: Ledger | AsyncLedger,
    *,
    consumer: str | None = None,
    namespace: str = "headgate",
    event_type: str | Callable[[Any], str] | None = None,
    key: Callable[[Any], str] | None = None,
    lease: float | None = None,
    on_unavailable: OnUnavailable = "refuse",
    payload: Callable[[Any], Any] | None = None,
    event_parameter: str | None = None,
    serializer: Callable[[Any], Any] | None = None,
    deserializer: Callable[[Any], Any] | None = None,
) -> Callable[[F], F]:
    """Run a handler at most once to success per event. The claim comes first, the handler's own code after it.

    The event is the handler's first argument after `self` or `cls`, given by position or by keyword. Functions,
    methods, static and class methods, partials and callable objects can be decorated, synchronous or `async`.

    Args:
        ledger: the ledger that holds the claims. A `Ledger` serves both kinds of handlers, an `AsyncLedger`
            asynchronous ones.
        consumer: this consumer's name; two consumers of one event both run. Default: the handler's module and qualified
            name (`shop.billing.charge`).
        namespace: the first part of the key, for services that share a ledger.
        event_type: a part of the key; a text, or event -> text. Default: what the event's envelope says (`event_type`,
            or `type` of CloudEvents), else the topic of a Kafka record, else "event".
        key: event -> identity, a business key say; default `default_identity`.
        lease: seconds that a claim lasts; it is renewed while the handler runs. Default: 300, or what a Lambda context
            among the arguments, or around `sqs_batch`, has left.
        on_unavailable: what to do when the ledger cannot be reached: "refuse" raises its error, so that the message
            comes back; "process" runs the handler unprotected, with a warning in the log.
        payload: event -> what has to be equal whenever this key comes again (any JSON value); another one raises.
        event_parameter: the name of the parameter that is the event, where it is not the first one.
        serializer: result -> a value that JSON can hold. Default: the rule of docs/formats.md, which stores models,
            dataclasses, times, Decimals and the like. A result that cannot be stored completes the claim without one.
        deserializer: stored result -> what a duplicate's call returns. Default: the JSON value; a tuple comes as a
            list.

    Returns:
        A decorator. The decorated handler returns the handler's result, and for a duplicate the stored one.

    Raises:
        ConfigError: when decorating: a wrong option, a generator function or class, an `AsyncLedger` with a handler
            that is not `async`, or a second handler with the default name of another one. When called: the ledger's own
            file is inside a transaction of this thread, which could roll the claim back.
        InvalidInputError: the event has no usable key: nothing was run.
        InProgress: another worker has the event now.
        ConflictError: kind payload_mismatch: the key was used before with another payload.
        StaleLeaseError: the handler ran longer than its lease could be renewed, and another worker took over.
        Exception: the handler's own; the claim is released with the attempt counted.

    Example:
        >>> from headgate import Ledger
        >>> ledger = Ledger.open("memory://")
        >>> @idempotent_consumer(ledger)
        ... def charge(event): return event["n"] + 1
        >>> charge({"n": 1}), charge({"n": 1})
        (2, 2)
    """
    check_choice("on_unavailable", on_unavailable, ON_UNAVAILABLE)
    check_name("namespace", namespace)
    if consumer is not None:
        check_name("consumer", consumer)
    if lease is not None:
        check_seconds("lease", lease)
    if event_type is not None and not callable(event_type):
        check_name("event_type", event_type)
    for name, function in (
        ("key", key), ("payload", payload), ("serializer", serializer), ("deserializer", deserializer),
    ):  # fmt: skip
        if function is not None:
            check_callable(name, function)
            check_call(name, function, "result" if name.endswith("serializer") else "event")
    if callable(event_type):
        check_call("event_type", event_type, "event")
    if isinstance(ledger, type) or not hasattr(ledger, "claim"):
        given = f"the class {ledger.__name__}" if isinstance(ledger, type) else f"a {type(ledger).__name__}"
        message = f"ledger: expected a Ledger or an AsyncLedger, got {given}"
        raise ConfigError(message)

    def decorate(function: Any) -> Any:
        if isinstance(function, staticmethod | classmethod):
            return type(function)(decorate(function.__func__))
        name = consumer or handler_name(function)
        check_handler(name, function)
        asynchronous = is_async(function)
        if _is_async_ledger(ledger) and not asynchronous:
            message = f"{name}: an AsyncLedger serves async handlers, and this one is not; open a Ledger for it"
            raise ConfigError(message)
        guard = _Guard(
            ledger, name, namespace, event_type, key, lease, on_unavailable, payload, serializer, deserializer,
            find_event_parameter(function, event_parameter), getattr(function, "__name__", ""),
        )  # fmt: skip
        decorated = _run_async(guard, function) if asynchronous else _run(guard, function)
        if consumer is None:
            _names.add(ledger, namespace, name, decorated)
        return decorated

    return cast("Callable[[F], F]", decorate)


def _run(guard: _Guard, function: Any) -> Any:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        request = guard.request(args, kwargs, run)
        claim = guard.claim(request)
        if claim is not None and claim.status == "done":
            return guard.stored(claim)
        # The handler's call stands in a try of its own: an error of the ledger never runs it a second time.
        try:
            with guard.renewing(claim, request.lease):
                result = function(*args, **kwargs)
                if result.__class__ not in _PLAIN:
                    refuse_unfinished(result, _DECORATE, consumer=guard.consumer, error=ConfigError)
        except BaseException as error:
            guard.release(claim, error)
            raise
        guard.complete(claim, result)
        return result

    return run


def _run_async(guard: _Guard, function: Any) -> Any:
    import asyncio  # imported here, because it takes 35 ms that synchronous users do not need

    from headgate.idempotency._async import AsyncLedger

    given: Any = guard.ledger
    ledger: AsyncLedger = given if _is_async_ledger(given) else AsyncLedger(given)

    @functools.wraps(function)
    async def run(*args: Any, **kwargs: Any) -> Any:
        request = guard.request(args, kwargs, run)
        claim = await guard.claim_async(ledger, request)
        if claim is not None and claim.status == "done":
            return guard.stored(claim)
        try:
            async with ledger.renewing(claim, request.lease) if claim is not None else nullcontext():
                result = await function(*args, **kwargs)
                if result.__class__ not in _PLAIN:
                    refuse_unfinished(result, _DECORATE, consumer=guard.consumer, error=ConfigError)
        except BaseException as error:
            # Shielded: a second cancellation must not leave the claim held for a whole lease.
            await asyncio.shield(guard.release_async(ledger, claim, error))
            raise
        await asyncio.shield(guard.complete_async(ledger, claim, result))
        return result

    if hasattr(inspect, "markcoroutinefunction") and not inspect.iscoroutinefunction(run):
        inspect.markcoroutinefunction(run)
    return run


def _is_async_ledger(ledger: Any) -> bool:
    return inspect.iscoroutinefunction(ledger.claim)


@dataclass(slots=True)
class _Request:
    """The ledger request of one call: key, payload, lease."""

    key: str
    lease: float
    payload: str
    legacy_key: str


@dataclass(frozen=True)
class _Guard:
    """Claims before a handler's call, and completes or releases the claim after it."""

    ledger: Ledger | AsyncLedger
    consumer: str
    namespace: str
    event_type: str | Callable[[Any], str] | None
    key: Callable[[Any], str] | None
    lease: float | None
    on_unavailable: OnUnavailable
    payload: Callable[[Any], Any] | None
    serializer: Callable[[Any], Any] | None
    deserializer: Callable[[Any], Any] | None
    parameter: EventParameter
    function_name: str

    def request(self, args: tuple[Any, ...], kwargs: dict[str, Any], decorated: Any) -> _Request:
        self._refuse_own_transaction()
        event = self.parameter.of(args, kwargs, decorated)
        identity, kind = identity_and_type(event, self.key, self.event_type, _NO_TYPE)
        digest = "" if self.payload is None else event_id(self.payload(event), big_integers="exact")
        lease = self.lease if self.lease is not None else default_lease_s((*args[1:], *kwargs.values()))
        legacy = self._legacy_key(event, kind) if getattr(self.ledger, "legacy_until", None) else ""
        return _Request(claim_key(self.namespace, self.consumer, kind, identity), lease, digest, legacy)

    def claim(self, request: _Request) -> Claim | None:
        """The claim, or None if the ledger is unavailable and the handler is to run without one."""
        ledger = cast("Ledger", self.ledger)
        try:
            return self._owned(ledger.claim(request.key, request.lease, **self._more(request)))
        except InProgress:
            raise
        except TransientError as error:
            self._unprotected(error)
            return None

    async def claim_async(self, ledger: AsyncLedger, request: _Request) -> Claim | None:
        try:
            return self._owned(await ledger.claim(request.key, request.lease, **self._more(request)))
        except InProgress:
            raise
        except TransientError as error:
            self._unprotected(error)
            return None

    def renewing(self, claim: Claim | None, lease: float) -> AbstractContextManager[None]:
        return nullcontext() if claim is None else cast("Ledger", self.ledger).renewing(claim, lease)

    def stored(self, claim: Claim) -> Any:
        return claim.result if self.deserializer is None else self.deserializer(claim.result)

    def release(self, claim: Claim | None, error: BaseException) -> None:
        # A lost lease must not hide the handler's own error, nor touch the successor's claim.
        if claim is None:
            return
        try:
            cast("Ledger", self.ledger).release(claim, describe_error(error))
        except HeadgateError as release_error:
            error.add_note(f"releasing the claim failed too: {release_error.kind}")

    async def release_async(self, ledger: AsyncLedger, claim: Claim | None, error: BaseException) -> None:
        if claim is None:
            return
        try:
            await ledger.release(claim, describe_error(error))
        except HeadgateError as release_error:
            error.add_note(f"releasing the claim failed too: {release_error.kind}")

    def complete(self, claim: Claim | None, result: Any) -> None:
        if claim is None:
            return
        try:
            cast("Ledger", self.ledger).complete(claim, result, **self._serializing())
        except TransientError as error:
            self._unmarked(error)

    async def complete_async(self, ledger: AsyncLedger, claim: Claim | None, result: Any) -> None:
        if claim is None:
            return
        try:
            await ledger.complete(claim, result, **self._serializing())
        except TransientError as error:
            self._unmarked(error)

    # --- parts

    @staticmethod
    def _more(request: _Request) -> dict[str, str]:
        more = {"payload": request.payload} if request.payload else {}
        return more | ({"legacy_key": request.legacy_key} if request.legacy_key else {})

    def _serializing(self) -> dict[str, Any]:
        return {} if self.serializer is None else {"serializer": json_serializer(self.serializer)}

    @staticmethod
    def _owned(claim: Claim) -> Claim:
        if claim.status == "in_progress":
            message = "another worker holds this event; try again when its lease ends"
            raise InProgress(message, until=claim.until)
        return claim

    def _unprotected(self, error: TransientError) -> None:
        if self.on_unavailable == "refuse":
            raise error
        log.warning("processing without protection", extra={"consumer": self.consumer, "error": error.kind.value})

    def _unmarked(self, error: TransientError) -> None:
        # The effect has happened, but its claim is not completed; it may run again after the lease.
        if self.on_unavailable == "refuse":
            raise error
        log.warning(
            "the ledger went away before the mark", extra={"consumer": self.consumer, "error": error.kind.value}
        )

    def _refuse_own_transaction(self) -> None:
        """A claim that joined a transaction of the caller would be rolled back with it, and the effect repeated."""
        database = getattr(getattr(self.ledger, "sync", self.ledger), "database", None)
        # Without waiting: a lock that another thread has says that the transaction is not this thread's.
        if database is None or not database.lock.acquire(blocking=False):
            return
        try:
            inside = database.native.in_transaction
        finally:
            database.lock.release()
        if inside:
            message = (
                f"{self.consumer}: called inside a transaction of its own ledger's file, which could roll the claim "
                "back after the effect; call it outside (a consumer's prepare=), or give it a ledger in another file"
            )
            raise ConfigError(message)

    def _legacy_key(self, event: Any, kind: str) -> str:
        """The key that stores before schema version 5 have for this event; see docs/formats.md."""
        identity = self.key(event) if self.key is not None else earlier_identity(event)
        if not identity:
            return ""
        earlier_type = kind if self.event_type is not None else _NO_TYPE
        name = self.function_name if self.consumer == handler_name(self.parameter.handler) else self.consumer
        return f"{self.namespace}:{name}:{earlier_type}:{identity}"
