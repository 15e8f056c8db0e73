from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
import threading
import uuid
from decimal import Decimal
from enum import Enum, IntEnum
from typing import ClassVar

import pytest

import headgate
from headgate.errors import InvalidInputError, Kind
from headgate.identity import document_text


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
    assert a == headgate.story_key("apples q2 beats", "2026-05-01T20:00:00Z")
    assert a != headgate.story_key("apples q2 beats", "2026-05-02T20:00:00Z")
    assert a == headgate.story_key("Apple\u2019s Q2\u2014 beats", "2026-05-01")
    assert headgate.story_key("U.S. stocks", "2026-05-01") == headgate.story_key("US stocks", "2026-05-01")


def test_a_story_is_the_same_whatever_letters_write_it():
    """NFKC and case folding: full-width forms, typographic quotes, ligatures, a sharp s."""
    plain = headgate.story_key("apples q2 profit rises", "2026-05-01")
    assert headgate.story_key("\uff21pple\u2019s Q2 pro\ufb01t RISES", "2026-05-01") == plain
    assert headgate.story_key("Stra\u00dfe 5", "2026-05-01") == headgate.story_key("STRASSE: 5", "2026-05-01")
    assert headgate.story_key("caf\u00e9 au lait", "2026-05-01") == headgate.story_key(
        "cafe\u0301\u00a0au lait", "2026-05-01"
    )
    assert headgate.story_key("caf\u00e9 au lait", "2026-05-01") != headgate.story_key("cafau lait", "2026-05-01")


def test_the_text_of_a_document_is_canonical_where_it_can_be():
    assert document_text({"b": 1.0, "a": "\u00e9"}) == '{"a":"\u00e9","b":1}'
    assert document_text({"b": 2**60, "a": "\u00e9"}) == '{"b":1152921504606846976,"a":"\u00e9"}'
    with pytest.raises(UnicodeEncodeError):
        document_text({"a": "\ud800"})


@pytest.mark.parametrize(
    ("value", "kind", "sentence"),
    [
        ({1}, Kind.INVALID_INPUT, "cannot canonicalise a set; expected dict, list, tuple, str, int, float, bool, None, "
         "Decimal, datetime, date, UUID, Enum, a dataclass or a pydantic model"),
        (Decimal("0.10000000000000000001"), Kind.NUMBER_OUT_OF_RANGE,
         "a Decimal that no double holds exactly; pass it as str, or rounded"),
        (dt.datetime(2026, 5, 1), Kind.INVALID_INPUT,
         "a datetime without a time zone has no canonical form; give it one"),
    ],
)  # fmt: skip
def test_what_has_no_form_is_refused_by_one_sentence(value, kind, sentence):
    with pytest.raises(InvalidInputError) as caught:
        headgate.identity.plain(value)
    assert (caught.value.kind, caught.value.message) == (kind, sentence)


class Colour(Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    when: dt.datetime
    rest: list[Decimal] = dataclasses.field(default_factory=list)
    count: ClassVar[int] = 0


PLUS_2 = dt.timezone(dt.timedelta(hours=2))


@pytest.mark.parametrize(
    ("value", "same_as"),
    [
        (Decimal("1.50"), 1.5),
        (Decimal("0.1"), 0.1),
        (Decimal("1E+22"), 1e22),
        (Decimal("-0"), 0),
        (dt.datetime(2026, 5, 1, 12, tzinfo=PLUS_2), "2026-05-01T10:00:00Z"),
        (dt.datetime(2026, 5, 1, 12, 0, 0, 5, tzinfo=dt.UTC), "2026-05-01T12:00:00.000005Z"),
        (dt.date(2026, 5, 1), "2026-05-01"),
        (uuid.UUID("5F0C0000-0000-4000-8000-000000000001"), "5f0c0000-0000-4000-8000-000000000001"),
        (Colour.RED, "red"),
        (
            Point(1, dt.datetime(2026, 1, 1, tzinfo=dt.UTC), [Decimal("2.5")]),
            {"x": 1, "when": "2026-01-01T00:00:00Z", "rest": [2.5]},
        ),
    ],
)
def test_other_types_by_the_one_rule(value, same_as):
    assert headgate.canonical_json({"v": [value]}) == headgate.canonical_json({"v": [same_as]})
    assert headgate.event_id(value) == headgate.event_id(same_as)


def test_pydantic_models_are_objects_of_their_fields():
    from pydantic import BaseModel, Field

    class Inner(BaseModel):
        price: Decimal

    class Outer(BaseModel):
        inner: Inner
        colour: Colour
        kind: str = Field(alias="type")

    value = Outer(inner=Inner(price="2.5"), colour="red", type="t")
    assert headgate.canonical_json(value) == b'{"colour":"red","inner":{"price":2.5},"type":"t"}'


class NoTime(dt.datetime):
    """As pandas.NaT: a datetime by its class, without a value."""

    __hash__ = dt.datetime.__hash__

    def __eq__(self, other: object) -> bool:
        return False

    def utcoffset(self) -> dt.timedelta:
        raise ValueError


class Fine(dt.datetime):
    """As a pandas.Timestamp with nanoseconds."""

    nanosecond = 7


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (Decimal("0.1000000000000000055511151231257827"), Kind.NUMBER_OUT_OF_RANGE),
        (Decimal("9007199254740993"), Kind.NUMBER_OUT_OF_RANGE),
        (Decimal("NaN"), Kind.NUMBER_OUT_OF_RANGE),
        (Decimal("1e400"), Kind.NUMBER_OUT_OF_RANGE),
        (Decimal("sNaN"), Kind.NUMBER_OUT_OF_RANGE),
        (dt.datetime(2026, 1, 1), Kind.INVALID_INPUT),
        (dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.timezone(dt.timedelta(hours=-1))), Kind.NUMBER_OUT_OF_RANGE),
        (dt.datetime(1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))), Kind.NUMBER_OUT_OF_RANGE),
        (NoTime(2026, 1, 1, tzinfo=dt.UTC), Kind.INVALID_INPUT),
        (Fine(2026, 1, 1, tzinfo=dt.UTC), Kind.NUMBER_OUT_OF_RANGE),
        (b"bytes", Kind.INVALID_INPUT),
        (object(), Kind.INVALID_INPUT),
        (Point, Kind.INVALID_INPUT),
    ],
)
def test_the_rule_refuses_what_has_no_one_form(value, kind):
    with pytest.raises(InvalidInputError) as caught:
        headgate.canonical_json([value])
    assert caught.value.kind is kind


def test_an_object_that_contains_itself_ends_in_an_error():
    point = Point(1, dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    point.rest = [point]
    loop = {}
    loop["self"] = loop
    for value in (point, loop):
        for profile in ("rfc8785", "json.dumps"):
            with pytest.raises(InvalidInputError):
                headgate.canonical_json(value, profile=profile)


def test_a_rule_may_call_back_and_may_change_what_is_read():
    class Sly:
        def __init__(self, action):
            self.action = action

        def model_dump(self, by_alias):
            return self.action()

    assert headgate.canonical_json({"a": Sly(lambda: headgate.event_id({"b": 1})), "z": 1}) == headgate.canonical_json(
        {"a": headgate.event_id({"b": 1}), "z": 1}
    )
    changing = {"a": Sly(lambda: changing.update(new=1) or 1), "b": 2}
    with pytest.raises(InvalidInputError, match="changed while"):
        headgate.canonical_json(changing)
    shrinking = [Sly(lambda: shrinking.clear() or 1), 2]
    assert headgate.canonical_json(shrinking) == b"[1]"
    raising = Sly(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        headgate.canonical_json([raising])
    assert headgate.canonical_json([1]) == b"[1]"


def test_the_second_profile_keeps_existing_keys():
    value = {"b": 1.0, "a": "\u00e9", "n": 10**30}
    assert headgate.canonical_json(value, profile="json.dumps") == b'{"a":"\\u00e9","b":1.0,"n":1' + b"0" * 30 + b"}"
    with pytest.raises(InvalidInputError) as caught:
        headgate.canonical_texts(['{"a":1,"a":2}'], profile="json.dumps")
    assert caught.value.kind is Kind.DUPLICATE_KEY
    with pytest.raises(InvalidInputError) as caught:
        headgate.event_ids(["[" * 100_000], profile="json.dumps")
    assert caught.value.kind is Kind.NESTING_TOO_DEEP
    with pytest.raises(InvalidInputError, match="profile"):
        headgate.event_id({}, profile="sorted")


def test_calls_are_refused_as_python_refuses_them():
    for arguments, named in (((), {}), (({}, {}), {}), (({},), {"nothing": 1})):
        with pytest.raises(TypeError):
            headgate.event_id(*arguments, **named)


def test_threads_do_not_share_a_writer():
    expected = [headgate.event_id({"n": n, "pad": "x" * n}) for n in range(300)]
    wrong = []

    def work():
        for n in range(300):
            if headgate.event_id({"n": n, "pad": "x" * n}) != expected[n]:
                wrong.append(n)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
