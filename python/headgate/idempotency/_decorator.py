"""`@idempotent_consumer`: the check is the first step of handling."""

from __future__ import annotations

import functools
import json
import logging
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from headgate._native import core
from headgate.errors import ConfigError, HeadgateError, Kind, TransientError
from headgate.identity import event_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from headgate.idempotency._ledger import Claim, Ledger

log = logging.getLogger("headgate.idempotency")
OnUnavailable = Literal["refuse", "process"]

F = TypeVar("F", bound="Callable[..., Any]")


class InProgress(TransientError):  # noqa: N818 - an answer, not a fault
    """Another worker holds the key: do not commit the message, come back at `until`."""

    default_kind = Kind.BUSY

    def __init__(self, message: str, kind: Kind | str | None = None, until: float = 0.0) -> None:
        super().__init__(message, kind)
        self.until = until


def claim_key(namespace: str, consumer: str, event_type: str, identity: str) -> str:
    """`{namespace}:{consumer}:{event type}:{event id}` (spec 004, decision 1)."""
    return f"{namespace}:{consumer}:{event_type}:{identity}"


def idempotent_consumer(
    ledger: Ledger,
    *,
    consumer: str | None = None,
    namespace: str = "headgate",
    event_type: str | Callable[[Any], str] = "event",
    key: Callable[[Any], str] | None = None,
    lease: float = 300.0,
    on_unavailable: OnUnavailable = "refuse",
) -> Callable[[F], F]:
    """Run a handler at most once to success per event; its first argument is the event. The check comes first.

    Args:
        ledger: where claims live.
        consumer: this consumer's name (default: the function's); two consumers of one event both run.
        namespace: the first part of the key, for services that share a ledger.
        event_type: a part of the key; a text, or event -> text.
        key: event -> identity, a business key say; default `event_id(event["data"])` when there is data, else of the
            whole event.
        lease: seconds; renewed while the handler runs.
        on_unavailable: what to do when the ledger cannot be reached: "refuse" raises its error, so that the message
            comes back; "process" runs the handler unprotected, with a warning in the log.

    Returns:
        The handler's result; for a duplicate the stored one.

    Raises:
        InProgress: another worker has it now.
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
    if on_unavailable not in ("refuse", "process"):
        message = f"on_unavailable must be 'refuse' or 'process', not {on_unavailable!r}"
        raise ConfigError(message)

    def decorate(function: F) -> F:
        guard = _Guard(ledger, consumer or function.__name__, namespace, event_type, key, lease, on_unavailable)

        @functools.wraps(function)
        def run(event: Any, *args: Any, **kwargs: Any) -> Any:
            claim = guard.claim(event)
            if claim is not None and claim.status == "done":
                return claim.result
            # The handler's call stands in a try of its own: an error of the ledger never runs it a second time.
            try:
                with guard.renewing(claim):
                    result = function(event, *args, **kwargs)
            except BaseException as error:
                guard.failed(claim, error)
                raise
            guard.finished(claim, result)
            return result

        @functools.wraps(function)
        async def run_async(event: Any, *args: Any, **kwargs: Any) -> Any:
            import asyncio  # 35 ms that synchronous users need not pay

            claim = await asyncio.to_thread(guard.claim, event)
            if claim is not None and claim.status == "done":
                return claim.result
            try:
                with guard.renewing(claim):
                    result = await function(event, *args, **kwargs)
            except BaseException as error:
                guard.failed(claim, error)
                raise
            await asyncio.to_thread(guard.finished, claim, result)
            return result

        return cast("F", run_async if _is_async(function) else run)

    return decorate


@dataclass(frozen=True)
class _Guard:
    """What happens before and after a handler's call."""

    ledger: Ledger
    consumer: str
    namespace: str
    event_type: str | Callable[[Any], str]
    key: Callable[[Any], str] | None
    lease: float
    on_unavailable: OnUnavailable

    def claim(self, event: Any) -> Claim | None:
        """None: the ledger is away and the handler runs unprotected."""
        identity = self.key(event) if self.key is not None else default_identity(event)
        kind = self.event_type if isinstance(self.event_type, str) else self.event_type(event)
        try:
            claim = self.ledger.claim(claim_key(self.namespace, self.consumer, kind, identity), self.lease)
        except TransientError as error:
            if self.on_unavailable == "refuse":
                raise
            log.warning("processing without protection", extra={"consumer": self.consumer, "error": error.kind})
            return None
        if claim.status == "in_progress":
            message = "another worker holds this event; try again when its lease ends"
            raise InProgress(message, until=claim.until)
        return claim

    def renewing(self, claim: Claim | None) -> AbstractContextManager[None]:
        return nullcontext() if claim is None else self.ledger.renewing(claim, self.lease)

    def failed(self, claim: Claim | None, error: BaseException) -> None:
        # A lost lease must not hide the handler's own error, nor touch the successor's claim.
        if claim is None:
            return
        try:
            self.ledger.release(claim, f"{type(error).__name__}: {error}"[:500])
        except HeadgateError as release_error:
            error.add_note(f"releasing the claim failed too: {release_error.kind}")

    def finished(self, claim: Claim | None, result: Any) -> None:
        if claim is None:
            return
        try:
            self.ledger.complete(claim, result)
        except TransientError as error:
            # The effect stands; only its mark is missing, so that it may run again after the lease.
            if self.on_unavailable == "refuse":
                raise
            log.warning("the ledger went away before the mark", extra={"consumer": self.consumer, "error": error.kind})


def _is_async(function: Any) -> bool:
    import inspect

    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def default_identity(event: Any) -> str:
    """The event id of `data` (a producer's retry makes a new envelope), or of the whole event.

    Raw bytes and text, and Kafka messages by their value, are parsed first; what is no JSON is known by its bytes.

    Example:
        >>> default_identity(b'{"id": "new", "data": {"n": 1}}') == default_identity({"id": "old", "data": {"n": 1.0}})
        True
    """
    value = getattr(event, "value", None)
    if callable(value):  # a confluent_kafka.Message
        event = value()
    if isinstance(event, bytes | str):
        try:
            event = json.loads(event)
        except ValueError:
            return core.sha256_hex(event.encode("utf-8", "surrogatepass") if isinstance(event, str) else event)
    if isinstance(event, dict) and "data" in event:
        return event_id(event["data"])
    return event_id(event)
