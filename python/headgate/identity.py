"""Deterministic identity: the same content has the same id on every machine, in every language, forever.

Example:
    >>> canonical_json({"b": 1.0, "a": "x"})
    b'{"a":"x","b":1}'
    >>> event_id({"b": 1, "a": 2}) == event_id({"a": 2.0, "b": 1})
    True
    >>> event_ids(['{"b": 1, "a": 2}']) == [event_id({"a": 2, "b": 1})]
    True
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, Literal

from headgate._native import core
from headgate.errors import ConfigError, InvalidInputError, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BigIntegers = Literal["refuse", "exact"]
Profile = Literal["rfc8785", "json.dumps"]

# Called for every record, so without a Python frame of our own; help() and the stubs describe them.
canonical_json = core.canonical_json
event_id = core.event_id


def event_ids(
    documents: Sequence[Any], *, threads: int = 0, big_integers: BigIntegers = "refuse", profile: Profile = "rfc8785"
) -> list[str]:
    """Event ids of many documents: JSON text (str or bytes) or objects, not mixed.

    Text is parsed strictly (duplicate keys are refused), on `threads` threads (0: all cores) and without the GIL.

    Raises:
        InvalidInputError: the first bad document, named by its position.
    """
    items = list(documents)
    if items and not isinstance(items[0], str | bytes):
        return [event_id(item, big_integers=big_integers, profile=profile) for item in items]
    if profile == "json.dumps":
        return [core.sha256_hex(_dumps(_loads(item))) for item in items]
    return core.event_ids(items, threads, big_integers)


def canonical_texts(
    documents: Sequence[str | bytes],
    *,
    threads: int = 0,
    big_integers: BigIntegers = "refuse",
    profile: Profile = "rfc8785",
) -> list[bytes]:
    """The canonical JSON of JSON texts, on the terms of `event_ids`.

    Example:
        >>> canonical_texts(['{"b": 1.0, "a": "x"}', b"[1e2]"])
        [b'{"a":"x","b":1}', b'[100]']
    """
    if profile == "json.dumps":
        return [_dumps(_loads(item)) for item in documents]
    return core.canonical_texts(list(documents), threads, big_integers)


def plain(value: Any) -> Any:
    """The one rule for objects that JSON has no form for: what they are canonicalised as.

    | type | becomes |
    | --- | --- |
    | `Decimal` | its number, if a double holds exactly those digits (DESIGN: `Decimal("0.1")` yes, 20 digits no) |
    | aware `datetime` | UTC text, `2026-05-01T10:00:00Z`, with six digits after the point only when they are not zero |
    | `date` | `2026-05-01` |
    | `UUID` | its lower-case text with hyphens |
    | `Enum` | its value |
    | dataclass | an object of its fields, by name |
    | pydantic model | an object of its fields, by alias where there is one |

    What it returns is looked at again, so that values may nest. Strings, numbers and the like come back as they are.

    Raises:
        InvalidInputError: any other type (sets and bytes among them: which order, which encoding?), a naive datetime,
            a time outside the years 1 to 9999 or with nanoseconds,
            or a Decimal that a double would change.

    Example:
        >>> import datetime, uuid
        >>> plain(uuid.UUID(int=1))
        '00000000-0000-0000-0000-000000000001'
        >>> plain(datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.timezone(datetime.timedelta(hours=2))))
        '2026-05-01T10:00:00Z'
    """
    if value is None or isinstance(value, str | int | float | dict | list | tuple):
        return value
    kind = type(value)
    if hasattr(kind, "model_dump"):
        return value.model_dump(by_alias=True)
    if hasattr(kind, "__dataclass_fields__"):
        return {name: getattr(value, name) for name, f in kind.__dataclass_fields__.items() if _is_field(f)}
    # A type that nobody imported cannot be the value's: looking costs no import.
    for module, name, rule in _RULES:
        known = getattr(sys.modules.get(module), name, None)
        if known is not None and isinstance(value, known):
            return rule(value)
    message = (
        f"cannot canonicalise a {kind.__name__}; expected dict, list, tuple, str, int, float, bool, None, Decimal, "
        "datetime, date, UUID, Enum, a dataclass or a pydantic model"
    )
    raise InvalidInputError(message)


def _is_field(field: Any) -> bool:
    return getattr(field, "_field_type", None) is sys.modules["dataclasses"]._FIELD


def _decimal(value: Any) -> Any:
    number = float(value) if value.is_finite() else inf  # a signaling NaN has no float
    if not isfinite(number) or type(value)(repr(number)) != value:
        message = "a Decimal that no double holds exactly; pass it as str, or rounded"
        raise InvalidInputError(message, Kind.NUMBER_OUT_OF_RANGE)
    return number


def _datetime(value: Any) -> str:
    if not value == value:  # noqa: PLR0124, SIM201 - pandas.NaT is a datetime by its class, and equals nothing
        message = "a datetime that is no time (NaT) has no canonical form"
        raise InvalidInputError(message)
    if getattr(value, "nanosecond", 0):  # of a pandas.Timestamp
        message = "a datetime with nanoseconds has no canonical form; round it to microseconds"
        raise InvalidInputError(message, Kind.NUMBER_OUT_OF_RANGE)
    offset = value.utcoffset()
    if offset is None:
        message = "a datetime without a time zone has no canonical form; give it one"
        raise InvalidInputError(message)
    try:
        utc = value.replace(tzinfo=None) - offset
    except (OverflowError, ValueError):  # the second one is of pandas
        utc = None
    if utc is None or not 1 <= utc.year <= 9999:
        message = "a datetime whose UTC year is not within 1 and 9999 has no canonical form"
        raise InvalidInputError(message, Kind.NUMBER_OUT_OF_RANGE)
    return f"{utc.isoformat()}Z"


_RULES: tuple[tuple[str, str, Any], ...] = (
    ("enum", "Enum", lambda value: value.value),
    ("decimal", "Decimal", _decimal),
    ("uuid", "UUID", str),
    ("datetime", "datetime", _datetime),
    ("datetime", "date", lambda value: value.isoformat()),
)


def _dumps(value: Any) -> bytes:
    """The second profile: json.dumps itself, so that equal is equal by construction."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=plain)
    except RecursionError:
        message = "nested too deep for json.dumps, or an object that contains itself"
        raise InvalidInputError(message, Kind.NESTING_TOO_DEEP) from None
    except InvalidInputError:
        raise
    except (TypeError, ValueError) as error:
        if "int_max_str_digits" in str(error):
            message = "an integer of more than 4300 digits"
            raise InvalidInputError(message, Kind.NUMBER_OUT_OF_RANGE) from None
        message = f"json.dumps refuses the object: {error}"
        raise InvalidInputError(message) from None
    return text.encode("ascii")


def load_json(text: str | bytes, what: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """JSON that a stranger wrote, by Python's own parser, with the core's kinds of errors.

    Args:
        text: the JSON.
        what: stands for it in errors.
        pairs: makes an object of its members; see `json.loads`.

    Raises:
        InvalidInputError: kind invalid_json, nesting_too_deep, or number_out_of_range for an integer of more than
            4,300 digits, which Python does not read.

    Example:
        >>> load_json('{"n": 1}', "the message")
        {'n': 1}
    """
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except InvalidInputError:
        raise
    except RecursionError:
        message = f"{what} is nested too deep for Python's json module"
        raise InvalidInputError(message, Kind.NESTING_TOO_DEEP) from None
    except (json.JSONDecodeError, UnicodeError):
        message = f"{what} is not JSON"
        raise InvalidInputError(message, Kind.INVALID_JSON) from None
    except ValueError:
        message = f"{what} has an integer of more than 4300 digits"
        raise InvalidInputError(message, Kind.NUMBER_OUT_OF_RANGE) from None


def _loads(text: str | bytes) -> Any:
    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            message = "an object names one key twice"
            raise InvalidInputError(message, Kind.DUPLICATE_KEY)
        return found

    return load_json(text, "the document", no_duplicates)


core.set_identity_rules(plain, _dumps)


def dedup_key(headline: str, source: str, published: str) -> str:
    """32 hex digits of SHA-256 over ``headline|source|YYYY-MM-DD``.

    The form is fixed by what others compute, so it stays as it is: a bar in a headline or a source's id is not
    escaped, and (``a|b``, ``c``) has the key of (``a``, ``b|c``). Ids of sources without a bar, as all shipped ones
    are, keep all keys apart.

    Args:
        headline: as the source gave it, trimmed.
        source: the source's id, for example "tiingo".
        published: the publication time, ISO 8601; its UTC date counts.
    """
    return core.dedup_key(headline, source, _utc_date(published))


compact_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def document_text(value: Any) -> str:
    """The JSON text that stores keep of a document: canonical, four times as fast as the json module; what has no
    canonical form (integers beyond 2**53 - 1) as json writes it.

    Raises:
        UnicodeEncodeError: a text holds a lone surrogate.
    """
    try:
        return core.canonical_json(value).decode()
    except InvalidInputError as error:
        text: str = compact_json(value)
        if error.kind is Kind.INVALID_UNICODE:
            text.encode()
        return text


_NO_WORD = re.compile(r"[^a-z0-9\s]+")


def story_key(headline: str, published: str) -> str:
    """32 hex digits that link one story across sources: normalised headline and UTC date, without the source.

    Normalising is NFKC, lower case, punctuation and symbols removed, single spaces: "U.S. stocks" and "US stocks" are
    one story.
    """
    return story_key_of(headline, _utc_date(published))


def story_key_of(headline: str, date: str) -> str:
    """`story_key` for a UTC date, YYYY-MM-DD, that is known to be one."""
    if headline.isascii():
        words = _NO_WORD.sub("", headline.lower())  # the same, without looking at every character in Python
    else:
        folded = unicodedata.normalize("NFKC", headline).casefold()
        # Marks belong to their letters: without them words of many scripts would fall apart.
        words = "".join(c for c in folded if c.isalnum() or c.isspace() or unicodedata.category(c).startswith("M"))
    text = f"{' '.join(words.split())}|{date}"
    return core.sha256_hex(text.encode())[:32]


def _utc_date(published: str) -> str:
    if len(published) == 10:
        published += "T00:00:00Z"
    return core.format_timestamp(core.parse_timestamp(published))[:10]


def check_key_part(where: str, name: str) -> None:
    """Refuse a name that could not be told apart inside a key or path that is made of several names.

    Keys of tables, objects and states join names by `#`, `:` and `/`. Parts that data brings along come last in them,
    or are digests; names that people choose come before, so they hold none of these.

    Raises:
        ConfigError: the name is empty, `.` or `..`, or holds `#`, `:`, a slash or a control character.
    """
    is_plain = isinstance(name, str) and name not in {"", ".", ".."} and name.isprintable()
    if not is_plain or any(c in "#:/\\" for c in name):
        message = f"{where}: expected a name without '#', ':' and slashes, got {str(name)[:100]!r}"
        raise ConfigError(message)


def refuse_equal_names(names: Sequence[str]) -> None:
    """Sources of one name would share a breaker, and nobody could tell their attempts and items apart.

    Raises:
        InvalidInputError: names the first that comes twice.
    """
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if twice is not None:
        message = f"sources: two are named {twice!r}; expected a name of its own for each"
        raise InvalidInputError(message)
