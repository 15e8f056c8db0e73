"""C++ against the reference implementation, on whatever Hypothesis can think of."""

from __future__ import annotations

import json
import math
import random
import struct

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

import headgate
from headgate.errors import InvalidInputError

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
NUMBERS = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=6),
    max_leaves=25,
)


@settings(max_examples=1500, deadline=None)
@given(JSON)
def test_objects_as_the_reference(value):
    assert headgate.canonical_json(value) == rfc8785.dumps(value)


@settings(max_examples=1500, deadline=None)
@given(JSON, st.booleans())
def test_text_as_the_reference(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only, indent=1)
    assert headgate.canonical_texts([text])[0] == rfc8785.dumps(value)
    assert headgate.event_ids([text]) == [headgate.event_id(value)]


@settings(max_examples=3000, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_as_the_reference(value):
    assert headgate.canonical_json(value) == rfc8785.dumps(value)


@settings(max_examples=1500, deadline=None)
@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\u0129eE+-. tfn', max_size=60).map(str.encode))
def test_hostile_bytes_are_refused_or_right(data):
    """What the core accepts, Python's own parser accepts with the same meaning."""
    try:
        ours = headgate.canonical_texts([data])[0]
    except InvalidInputError:
        return
    theirs = json.loads(data)
    assert ours == rfc8785.dumps(theirs)


@pytest.mark.parametrize("text", ["[1,]", '{"a":1,}', "\ufeff{}", "NaN", "[Infinity]", "01", '"\t"'])
def test_what_lenient_parsers_accept_is_refused(text):
    with pytest.raises(InvalidInputError):
        headgate.canonical_texts([text])[0]


@settings(max_examples=1500, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=6),
        max_leaves=25,
    )
)
def test_the_second_profile_is_json_dumps(value):
    expected = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    assert headgate.canonical_json(value, profile="json.dumps") == expected
    text = json.dumps(value)
    assert headgate.canonical_texts([text], profile="json.dumps") == [expected]
    assert headgate.event_ids([text], profile="json.dumps") == [headgate.event_id(value, profile="json.dumps")]


def ecmascript(value: float) -> str:
    """ECMA-262 Number::toString from Python's repr, whose digits are the shortest too; a second way to the same text."""
    sign, text = ("-", repr(-value)) if value < 0 else ("", repr(value))
    mantissa, _, exponent = text.partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    n = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    k = len(digits)
    if k == 0:
        return "0"
    if k <= n <= 21:
        return sign + digits + "0" * (n - k)
    if 0 < n <= 21:
        return f"{sign}{digits[:n]}.{digits[n:]}"
    if -6 < n <= 0:
        return f"{sign}0.{'0' * -n}{digits}"
    shown = digits if k == 1 else f"{digits[0]}.{digits[1:]}"
    return f"{sign}{shown}e{'+' if n > 0 else '-'}{abs(n - 1)}"


def interesting_doubles():
    """Where shortest-digit printers go wrong: powers of two and ten and their neighbours, subnormals, integers."""
    powers = [math.ldexp(1.0, e) for e in range(-1074, 1024)] + [float(f"1e{e}") for e in range(-323, 309)]
    for power in powers:
        yield from (power, -power, math.nextafter(power, 0), math.nextafter(power, math.inf))
    yield from (float(n) for n in range(-2000, 2000))
    yield from (2.0**53 + n for n in range(-2000, 2000))


def test_a_million_doubles_have_the_ecmascript_form():
    rng = random.Random(8785)
    values = list(interesting_doubles())
    while len(values) < 1_000_000:
        block = struct.unpack("<4096d", rng.randbytes(4096 * 8))
        values.extend(value for value in block if math.isfinite(value))
        values.extend(rng.uniform(-1e6, 1e6) for _ in range(512))
        values.extend(round(rng.uniform(-1e4, 1e4), 2) for _ in range(512))
    values = [value for value in values if math.isfinite(value)][:1_000_000]
    ours = headgate.canonical_json(values)[1:-1].decode().split(",")
    wrong = [(value, text) for value, text in zip(values, ours, strict=True) if text != ecmascript(value)]
    assert wrong[:5] == []
