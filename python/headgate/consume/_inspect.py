"""Looking at dead letters: counts and redacted lists by default, one whole dead letter on request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate.errors import NotFoundError

if TYPE_CHECKING:
    from headgate.ports import Json

# What a list shows. A key, a body, headers and reasons may hold anything: they are shown on request.
_REDACTED = ("id", "stage", "pipeline", "source", "kind", "seen", "attempts", "message_id", "raw_key")


def dead_letter_counts(store: Any) -> list[Json]:
    """How many dead letters a store holds, by stage, pipeline (or consumer) and kind.

    Args:
        store: `LocalStore` or `DynamoStore`.

    Returns:
        One object each: stage, pipeline, kind, dead letters, and seen, which counts repeated dead letters each time.

    Example:
        >>> dead_letter_counts(store)                                          # doctest: +SKIP
        [{'stage': 'consume', 'pipeline': 'billing', 'kind': 'attempts_exhausted', 'letters': 2, 'seen': 3}]
    """
    return list(store.dead_letter_counts())


def dead_letters(
    store: Any, *, stage: str | None = None, consumer: str | None = None, kind: str | None = None, limit: int = 100,
    whole: bool = False,
) -> list[Json]:  # fmt: skip
    """Dead letters that were not sent back, oldest first.

    Args:
        store: `LocalStore` or `DynamoStore`.
        stage: only of this one: "intake", "consume" or "outbox".
        consumer: only of this consumer (of the stage "intake": of this pipeline).
        kind: only of this kind, for example "attempts_exhausted".
        limit: at most so many.
        whole: with reason, key, headers and body; without it nothing that a message brought along.
    """
    found = store.dead_letters(limit, stage=stage, pipeline=consumer, kind=kind)
    return [_whole(x) if whole else {name: x.get(name) for name in _REDACTED} for x in found]


def dead_letter(store: Any, ident: str | int) -> Json:
    """One dead letter with all that is known of it.

    Args:
        store: `LocalStore` or `DynamoStore`.
        ident: its id, as `dead_letters` gives it.

    Returns:
        id, stage, pipeline, source, kind, reason, key, headers, attempts, message_id, raw_key, seen, redriven,
        created_us (microseconds since 1970), body.

    Raises:
        NotFoundError: there is none.
    """
    found = store.dead_letter(str(ident))
    if found is None:
        message = f"there is no dead letter {ident}; `headgate dlq list` shows their ids"
        raise NotFoundError(message)
    return _whole(found)


def _whole(dead_letter: Json) -> Json:
    rest = {name: value for name, value in dead_letter.items() if name != "doc"}
    return {**rest, "body": dead_letter["doc"]}
