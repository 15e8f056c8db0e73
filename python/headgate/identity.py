"""Deterministic identity: the same content has the same id on every machine, in every language, for ever."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any, Literal

import headgate.errors  # noqa: F401 - gives the core its exceptions
from headgate._native import core

if TYPE_CHECKING:
    from collections.abc import Sequence

BigIntegers = Literal["refuse", "exact"]


def canonical_json(obj: Any, *, big_integers: BigIntegers = "refuse") -> bytes:
    """The RFC 8785 form of a Python object.

    Args:
        obj: dict (str keys), list, tuple, str, int, float, bool or None, nested at most 128 levels.
        big_integers: "refuse" raises for integers beyond 2**53 - 1, which a double cannot keep apart;
            "exact" keeps their digits (no longer RFC 8785).

    Raises:
        InvalidInputError: another type, NaN or infinity, a lone surrogate, too deep, or a big integer.

    Example:
        >>> canonical_json({"b": 1.0, "a": "x"})
        b'{"a":"x","b":1}'
    """
    return core.canonical_json(obj, big_integers)


def event_id(obj: Any, *, big_integers: BigIntegers = "refuse") -> str:
    """64 hex digits: SHA-256 over the canonical JSON of exactly this object.

    Example:
        >>> event_id({"b": 1, "a": 2}) == event_id({"a": 2.0, "b": 1})
        True
    """
    return core.event_id(obj, big_integers)


def event_ids(documents: Sequence[Any], *, threads: int = 0, big_integers: BigIntegers = "refuse") -> list[str]:
    """Event ids of many documents: JSON text (str or bytes) or objects, not mixed.

    Text is parsed strictly (duplicate keys are refused), on `threads` threads (0: all cores) and without the GIL.

    Raises:
        InvalidInputError: the first bad document, named by its position.
    """
    items = list(documents)
    if items and not isinstance(items[0], str | bytes):
        return [core.event_id(item, big_integers) for item in items]
    return core.event_ids(items, threads, big_integers)


def dedup_key(headline: str, source: str, published: str) -> str:
    """32 hex digits of SHA-256 over ``headline|source|YYYY-MM-DD`` (spec 001, section 2).

    Args:
        headline: as the source gave it, trimmed.
        source: the source's id, for example "tiingo".
        published: the publication time, ISO 8601; its UTC date counts.
    """
    return core.dedup_key(headline, source, _utc_date(published))


def story_key(headline: str, published: str) -> str:
    """32 hex digits that link one story across sources: normalised headline and UTC date, without the source.

    Normalising is NFKC, lower case, letters and digits only, single spaces.
    """
    words = "".join(c if c.isalnum() else " " for c in unicodedata.normalize("NFKC", headline).casefold())
    text = f"{' '.join(words.split())}|{_utc_date(published)}"
    return core.sha256_hex(text.encode())[:32]


def _utc_date(published: str) -> str:
    if len(published) == 10:
        published += "T00:00:00Z"
    return core.format_timestamp(core.parse_timestamp(published))[:10]
