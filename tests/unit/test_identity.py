from __future__ import annotations

import json
import math
from enum import IntEnum

import pytest

import headgate
from headgate.errors import InvalidInputError, Kind


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"b": 1.0, "a": "x"}, b'{"a":"x","b":1}'),
        ([None, True, False, 0, -0.0, 1e21, 1e-7, 0.1], b"[null,true,false,0,0,1e+21,1e-7,0.1]"),
        ({"é": 1, "e": 2, "\U0001f600": 3, "\ufb33": 4}, '{"e":2,"é":1,"\U0001f600":3,"\ufb33":4}'.encode()),
        ((1, [2, (3,)]), b"[1,[2,[3]]]"),
        ('\x07\x1f\n"\\', b'"\\u0007\\u001f\\n\\"\\\\"'),
        (2**53 - 1, b"9007199254740991"),
    ],
)
def test_canonical_json(value, expected):
    assert headgate.canonical_json(value) == expected


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (2**53, Kind.NUMBER_OUT_OF_RANGE),
        (-(2**53), Kind.NUMBER_OUT_OF_RANGE),
        (10**30, Kind.NUMBER_OUT_OF_RANGE),
        (math.nan, Kind.NUMBER_OUT_OF_RANGE),
        (math.inf, Kind.NUMBER_OUT_OF_RANGE),
        ("\ud800", Kind.INVALID_UNICODE),
        ({1: 2}, Kind.INVALID_INPUT),
        ({"a": {1, 2}}, Kind.INVALID_INPUT),
    ],
)
def test_refusals(value, kind):
    with pytest.raises(InvalidInputError) as caught:
        headgate.canonical_json(value)
    assert caught.value.kind is kind


def test_big_integers_on_request():
    assert headgate.canonical_json(10**30, big_integers="exact") == b"1" + b"0" * 30
    with pytest.raises(InvalidInputError, match="big_integers"):
        headgate.canonical_json(1, big_integers="round")


def test_nesting_ends_in_an_error_not_in_a_crash():
    value = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(InvalidInputError) as caught:
        headgate.canonical_json(value)
    assert caught.value.kind is Kind.NESTING_TOO_DEEP


def test_int_subclasses_are_their_number():
    class Colour(IntEnum):
        RED = 3

    assert headgate.canonical_json({"c": Colour.RED}) == b'{"c":3}'


def test_event_ids_of_text_and_objects_agree():
    objects = [{"n": i, "s": "x" * i} for i in range(200)]
    texts = [json.dumps(o) for o in objects]
    assert (
        headgate.event_ids(texts, threads=2) == headgate.event_ids(objects) == [headgate.event_id(o) for o in objects]
    )
    assert headgate.event_ids([t.encode() for t in texts]) == headgate.event_ids(texts)
    assert headgate.event_ids([]) == []
    with pytest.raises(InvalidInputError, match="document 1"):
        headgate.event_ids(["1", '{"a":1,"a":1}'])


def test_dedup_key_counts_the_utc_date():
    key = headgate.dedup_key("Headline", "tiingo", "2026-05-01T23:30:00-04:00")
    assert key == headgate.dedup_key("Headline", "tiingo", "2026-05-02")
    assert key != headgate.dedup_key("Headline", "finnhub", "2026-05-02")
    assert len(key) == 32


def test_story_key_links_the_same_story():
    a = headgate.story_key("Apple's  Q2: BEATS!", "2026-05-01T10:00:00Z")
    assert a == headgate.story_key("apple s q2 beats", "2026-05-01T20:00:00Z")
    assert a != headgate.story_key("apple s q2 beats", "2026-05-02T20:00:00Z")
