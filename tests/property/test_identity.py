"""C++ against the reference implementation, on whatever Hypothesis can think of."""

from __future__ import annotations

import json

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

import headgate
from headgate import _core
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
    assert _core.canonical_json_text(text) == rfc8785.dumps(value)
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
        ours = _core.canonical_json_text(data)
    except InvalidInputError:
        return
    theirs = json.loads(data)
    assert ours == rfc8785.dumps(theirs)


@pytest.mark.parametrize("text", ["[1,]", '{"a":1,}', "\ufeff{}", "NaN", "[Infinity]", "01", '"\t"'])
def test_what_lenient_parsers_accept_is_refused(text):
    with pytest.raises(InvalidInputError):
        _core.canonical_json_text(text)
