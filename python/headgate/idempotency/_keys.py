"""Claim keys: one text for namespace, consumer, event type and identity, that no other such tuple can make.

A key is `{namespace}:{consumer}:{event type}:{identity}`. Inside a part, the characters
that structure a key (`%`, `:`, `#` and a leading `~`) are percent-encoded. A part that would be longer than 256 bytes
is replaced by `~` and the SHA-256 of it, so that a key never has more than 1,100 bytes, whatever the texts: DynamoDB's
partition keys end at 2,048. A message that comes back from the dead letters has a key of its own: `#redrive-{n}`
follows.
"""

from __future__ import annotations

from functools import lru_cache

from headgate._native import core
from headgate.errors import InvalidInputError, Kind

_MAX_PART_BYTES = 256
_ESCAPES = str.maketrans({"%": "%25", ":": "%3A", "#": "%23"})


def claim_key(namespace: str, consumer: str, event_type: str, identity: str, redrive: int = 0) -> str:
    """The key under which an effect is claimed in a `Ledger`.

    Args:
        namespace: separates services that share one ledger; may be empty.
        consumer: the name of the consumer; two consumers of one event both run.
        event_type: the type that the event's envelope names, or its topic.
        identity: what makes the event that event: `default_identity(event)` or a business key. Not empty.
        redrive: how often the message came back from the dead letters.

    Raises:
        InvalidInputError: a part is not text, holds a lone surrogate (kind invalid_unicode), or the identity is empty.

    Example:
        >>> claim_key("shop", "billing", "order.created", "order:17")
        'shop:billing:order.created:order%3A17'
        >>> claim_key("shop", "billing", "order.created", "x" * 5000)[:29]
        'shop:billing:order.created:~c'
    """
    if not identity:
        message = "the key of an event is empty; expected text that makes the event that event"
        raise InvalidInputError(message, Kind.INVALID_RECORD)
    try:
        names = _names(namespace, consumer, event_type)
    except TypeError:  # a part that is no text, and cannot be hashed either
        names = _names.__wrapped__(namespace, consumer, event_type)
    key = f"{names}:{_part(identity, 'key')}"
    return f"{key}#redrive-{redrive}" if redrive else key


def check_identity(identity: object) -> str:
    """The identity as plain text, if a key can be made of it.

    Raises:
        InvalidInputError: None, something else than text, an empty text, or text with a lone surrogate: each would
            make several events one, or no backend could keep it.
    """
    if not isinstance(identity, str):
        message = f"the key of this event is {_kind(identity)}; expected text"
        raise InvalidInputError(message, Kind.INVALID_RECORD)
    if not identity:
        message = "the key of this event is an empty text; expected text that makes the event that event"
        raise InvalidInputError(message, Kind.INVALID_RECORD)
    return _checked_text(str.__str__(identity), "key")


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


@lru_cache(maxsize=4096)
def _names(namespace: str, consumer: str, event_type: str) -> str:
    """The first three parts, which are the same for many events."""
    return f"{_part(namespace, 'namespace')}:{_part(consumer, 'consumer')}:{_part(event_type, 'event type')}"


def _part(text: str, name: str) -> str:
    if isinstance(text, str) and len(text) <= _MAX_PART_BYTES and text.isalnum() and text.isascii():
        return text  # digests and most names: nothing to escape
    escaped = text.translate(_ESCAPES) if isinstance(text, str) else _checked_text(text, name)
    if escaped.startswith("~"):
        escaped = f"%7E{escaped[1:]}"
    if escaped.isascii() and len(escaped) <= _MAX_PART_BYTES:
        return escaped
    _checked_text(text, name)
    if len(escaped.encode()) <= _MAX_PART_BYTES:
        return escaped
    return f"~{core.sha256_hex(text.encode())}"


def _checked_text(text: object, name: str) -> str:
    if not isinstance(text, str):
        message = f"the {name} of a claim is {_kind(text)}; expected text"
        raise InvalidInputError(message, Kind.INVALID_RECORD)
    try:
        text.encode()
    except UnicodeEncodeError:
        message = f"the {name} of this event holds a lone surrogate; expected text that UTF-8 can write"
        raise InvalidInputError(message, Kind.INVALID_UNICODE) from None
    return text
