"""Checks of the values that callers give to a ledger. Each value is checked once, where it enters."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

from headgate.errors import ConfigError, InvalidInputError, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST_S = 0.001
LONGEST_LEASE_S = 366 * 86_400.0
LONGEST_TTL_S = 100 * 366 * 86_400.0  # keys that live longer are not asked for by anybody, and times have to fit
LONGEST_ERROR = 500
_US = 1_000_000
# Of the control characters only those that a message legitimately has stay as they are.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n\r"}


def lease_us(lease: float) -> int:
    """A lease in microseconds.

    Args:
        lease: seconds.

    Raises:
        InvalidInputError: it is not a number of seconds between 0.001 and 366 days.

    Example:
        >>> lease_us(1.5)
        1500000
    """
    if (lease.__class__ is float or lease.__class__ is int) and LEAST_S <= lease <= LONGEST_LEASE_S:
        return int(lease * _US)
    if not _is_number(lease):
        message = f"a lease is a number of seconds, not {type(lease).__name__}"
        raise InvalidInputError(message)
    if not LEAST_S <= lease <= LONGEST_LEASE_S:  # also not a number
        message = f"a lease is between {LEAST_S} s and {LONGEST_LEASE_S:g} s (366 days), not {float(lease):g}"
        raise InvalidInputError(message)
    return int(lease * _US)


def done_ttl_s(done_ttl: float) -> float:
    """How long done keys are remembered, in seconds.

    Raises:
        ConfigError: it is not a number of seconds of at least 0.001.
    """
    if not _is_number(done_ttl) or not isfinite(done_ttl):
        shown = f"{done_ttl:g}" if _is_number(done_ttl) else type(done_ttl).__name__
        message = f"done_ttl is a number of seconds, not {shown}"
        raise ConfigError(message)
    if not LEAST_S <= done_ttl <= LONGEST_TTL_S:
        message = f"done_ttl is between {LEAST_S} s and {LONGEST_TTL_S:g} s (100 years), not {float(done_ttl):g}"
        raise ConfigError(message)
    return float(done_ttl)


def check_key(key: object, what: str = "a key") -> None:
    """Refuse what is no text, empty, or has half of a surrogate pair; other text of any length is a key.

    Raises:
        InvalidInputError: kind invalid_unicode for a lone surrogate.
    """
    if not isinstance(key, str):
        message = f"{what} of the ledger is text, not {type(key).__name__}"
        raise InvalidInputError(message)
    if not key:
        message = f"{what} of the ledger must not be empty: events without identity would be one event"
        raise InvalidInputError(message)
    if not key.isascii():
        _check_unicode(key, what)


def check_payload(payload: object) -> None:
    """Refuse a payload digest that is no text, or has a lone surrogate."""
    if not isinstance(payload, str):
        message = f"a payload digest is text, not {type(payload).__name__}"
        raise InvalidInputError(message)
    if not payload.isascii():
        _check_unicode(payload, "a payload digest")


def check_keys(keys: Sequence[str], payloads: Sequence[str]) -> None:
    """Check the keys of a batch, and that there are as many payloads as keys, or none."""
    try:
        plain = all(keys) and all(map(str.isascii, keys))
    except TypeError:  # one that is no text
        plain = False
    if not plain:
        for key in keys:
            check_key(key)
    if payloads and len(payloads) != len(keys):
        message = f"{len(keys)} keys need as many payloads, or none, not {len(payloads)}"
        raise InvalidInputError(message)
    for payload in payloads:
        check_payload(payload)


def listed(values: Sequence[Any], what: str) -> list[Any]:
    """The values of a batch as a list. A single text is refused, so that it is not taken for a list of characters."""
    if isinstance(values, str | bytes):
        message = f"{what} are a sequence, not {type(values).__name__}"
        raise InvalidInputError(message)
    try:
        return list(values)
    except TypeError:
        message = f"{what} are a sequence, not {type(values).__name__}"
        raise InvalidInputError(message) from None


def error_text(error: object) -> str:
    """What a failure said, as every backend can store it: at most 500 characters, lone surrogates and control
    characters (but tab and line ends) escaped.

    Example:
        >>> error_text("caf\\udce9.txt\\x00")
        'caf\\\\udce9.txt\\\\x00'
    """
    if not isinstance(error, str):
        message = f"the error of a release is text, not {type(error).__name__}"
        raise InvalidInputError(message)
    text = error[:LONGEST_ERROR]
    if text.isascii() and text.isprintable():
        return text
    text = text.encode("utf-8", "backslashreplace").decode().translate(_CONTROLS)
    return text[:LONGEST_ERROR]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_unicode(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        message = f"{what} of the ledger holds half of a surrogate pair, which no store can keep"
        raise InvalidInputError(message, Kind.INVALID_UNICODE) from None
