"""A user's serializer gives any value that JSON can hold; a ledger wants the JSON text of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate.idempotency._results import dump_result

if TYPE_CHECKING:
    from collections.abc import Callable


def json_serializer(serializer: Callable[[Any], Any]) -> Callable[[Any], str]:
    """The serializer of `Ledger.complete` for one of a decorator or a consumer: result -> JSON text.

    Args:
        serializer: result -> a value that JSON, or the rule of docs/formats.md, can hold.

    Example:
        >>> json_serializer(lambda result: {"n": result})(5)
        '{"n":5}'
    """

    def serialize(result: Any) -> str:
        text = dump_result(serializer(result))
        if text is None:
            message = "the serializer gave a value that JSON cannot hold"
            raise ValueError(message)
        return text

    return serialize
