"""`@idempotent_consumer`: the check is the first step of handling."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeVar, cast

from headgate.errors import HeadgateError, Kind, TransientError
from headgate.idempotency._ledger import Claim, Ledger, Renewer
from headgate.identity import event_id

if TYPE_CHECKING:
    from collections.abc import Callable

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
    event_type: str = "event",
    key: Callable[[Any], str] | None = None,
    lease: float = 300.0,
) -> Callable[[F], F]:
    """Run a handler at most once to success per event; its first argument is the event.

    Args:
        ledger: where claims live.
        consumer: this consumer's name (default: the function's); two consumers of one event both run.
        namespace, event_type: parts of the key.
        key: event -> identity; default `event_id(event["data"])` when there is data, else of the whole event.
        lease: seconds; renewed while the handler runs.

    Returns:
        The handler's result; for a duplicate the stored one.

    Raises:
        InProgress: another worker has it now.
        Exception: the handler's own; the claim is released with the attempt counted.

    Example:
        >>> ledger = Ledger.open("memory://")
        >>> @idempotent_consumer(ledger)
        ... def charge(event): return event["n"] + 1
        >>> charge({"n": 1}), charge({"n": 1})
        (2, 2)
    """

    def decorate(function: F) -> F:
        name = consumer or function.__name__

        def claim_for(event: Any) -> Claim:
            identity = key(event) if key is not None else default_identity(event)
            claim = ledger.claim(claim_key(namespace, name, event_type, identity), lease)
            if claim.status == "in_progress":
                message = "another worker holds this event; try again when its lease ends"
                raise InProgress(message, until=claim.until)
            return claim

        def failed(claim: Claim, error: BaseException) -> None:
            # A lost lease must not hide the handler's own error, nor touch the successor's claim.
            try:
                ledger.release(claim, f"{type(error).__name__}: {error}"[:500])
            except HeadgateError as release_error:
                error.add_note(f"releasing the claim failed too: {release_error.kind}")

        @functools.wraps(function)
        def run(event: Any, *args: Any, **kwargs: Any) -> Any:
            claim = claim_for(event)
            if claim.status == "done":
                return claim.result
            try:
                with Renewer(ledger, claim, lease):
                    result = function(event, *args, **kwargs)
            except BaseException as error:
                failed(claim, error)
                raise
            ledger.complete(claim, result)
            return result

        @functools.wraps(function)
        async def run_async(event: Any, *args: Any, **kwargs: Any) -> Any:
            import asyncio  # 35 ms that synchronous users need not pay

            claim = await asyncio.to_thread(claim_for, event)
            if claim.status == "done":
                return claim.result
            try:
                with Renewer(ledger, claim, lease):
                    result = await function(event, *args, **kwargs)
            except BaseException as error:
                failed(claim, error)
                raise
            await asyncio.to_thread(ledger.complete, claim, result)
            return result

        return cast("F", run_async if _is_async(function) else run)

    return decorate


def _is_async(function: Any) -> bool:
    import inspect

    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def default_identity(event: Any) -> str:
    """SHA-256 over the canonical JSON of `data` (a producer's retry makes a new envelope), or of the whole event."""
    if isinstance(event, dict) and "data" in event:
        return event_id(event["data"])
    return event_id(event)
