"""The healing sweep as a part of other handlers, and as one with its own schedule."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

from headgate.errors import HeadgateError, InvalidInputError
from headgate.handlers._observe import Observer
from headgate.handlers._warm import keeps_clients

if TYPE_CHECKING:
    from headgate.ports import Json
    from headgate.wiring import App

NAMESPACE = "SentimentAnalyzer"
_SERVICE = "self-healing"
_SPARE_S = 2.0  # left to the invocation for its answer, its logs and its metrics
_LEAST_S = 0.5


@keeps_clients
def heal(event: Json, context: Any = None) -> Json:
    """One sweep, within the time that the invocation has; for a schedule of its own.

    Args:
        event: of EventBridge; `{"dry_run": true}` counts only.
        context: Lambda's.

    Returns:
        statusCode 200, or 207 where `errors` says what went wrong; body: see `SelfHealingResult`. 400 with error and
        message for an event that is none: nothing is swept then.
    """
    from headgate.handlers._handlers import app

    parts = app()
    observer = Observer(_SERVICE, NAMESPACE)
    try:
        dry_run = event.get("dry_run", False) if isinstance(event, dict) else None
        if not isinstance(dry_run, bool):
            message = "expected an object, with dry_run true or false if it is there"
            observer.error("event refused", reason=message)
            return {"statusCode": 400, "error": InvalidInputError.__name__, "message": message}
        body = heal_within(parts, observer, context, dry_run=dry_run)
    finally:
        observer.flush()
    return {"statusCode": 207 if body.get("errors") else 200, "body": {"errors": [], **body}}


def heal_within(parts: App, observer: Observer, context: Any, *, dry_run: bool = False) -> Json:
    """A sweep and the delivery of what it announced, within the remaining time of an invocation. Never raises."""
    emit = partial(observer.metric, namespace=NAMESPACE)
    environment = os.environ.get("ENVIRONMENT") or os.environ.get("HEADGATE_ENVIRONMENT") or "dev"
    try:
        with observer.traced("self_healing"):
            result = parts.heal(_budget_s(context), dry_run=dry_run, emit_metric=emit, environment=environment)
        body = result.summary()
        if result.items_republished and not dry_run:
            body["notified"] = parts.relay()
    except Exception as error:
        # The sweep says itself what went wrong; this is what came after it.
        kind = error.kind.value if isinstance(error, HeadgateError) else type(error).__name__
        observer.error("self-healing failed", error=kind)
        return {"items_found": 0, "items_republished": 0, "execution_time_ms": 0.0, "errors": [kind]}
    return body


def _budget_s(context: Any) -> float | None:
    remaining = getattr(context, "get_remaining_time_in_millis", None)
    if remaining is None:
        return None
    return max(_LEAST_S, float(remaining()) / 1000 - _SPARE_S)
