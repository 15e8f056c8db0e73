"""The 18 intrinsic functions."""

from __future__ import annotations

import contextlib
import hashlib
import json
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.workflow._intrinsics import (
    FUNCTIONS,
    IntrinsicError,
    IntrinsicSyntaxError,
    parse_intrinsic,
    same,
)
from headgate.workflow._paths import find

DATA = {
    "s": "text",
    "n": 3,
    "f": 2.5,
    "list": [1, 2, 2, "2"],
    "object": {"a": 1, "b": [True, None]},
    "deep": {"x": [1]},
}


def evaluate(text, data=None):
    return parse_intrinsic(text).evaluate(lambda path: find(path, DATA if data is None else data))


def test_there_are_eighteen():
    assert len(FUNCTIONS) == 18


@pytest.mark.parametrize(
    ("call", "result"),
    [
        ("States.Format('{} is {}', 'x', 1)", "x is 1"),
        ("States.Format('{}', $.object)", "{a=1, b=[true, null]}"),
        ("States.Format('{}', $.list)", "[1, 2, 2, 2]"),
        ("States.Format('no braces')", "no braces"),
        ("States.Format($.s)", "text"),
        (r"States.Format('\{\} {}', 1)", "{} 1"),
        (r"States.Format('it\'s {}', true)", "it's true"),
        (r"States.Format('a\\b')", "a\\b"),
        ("States.StringToJson('{\"a\": [1]}')", {"a": [1]}),
        ("States.StringToJson('')", None),
        ("States.JsonToString($.object)", '{"a":1,"b":[true,null]}'),
        ("States.Array()", []),
        ("States.Array('a', 1, null, $.n, States.Array(true))", ["a", 1, None, 3, [True]]),
        ("States.ArrayPartition($.list, 3)", [[1, 2, 2], ["2"]]),
        ("States.ArrayContains($.list, 2)", True),
        ("States.ArrayContains($.list, '1')", False),
        ("States.ArrayContains(States.Array(1), true)", False),
        ("States.ArrayRange(1, 9, 4)", [1, 5, 9]),
        ("States.ArrayRange(5, 1, -2)", [5, 3, 1]),
        ("States.ArrayRange(1, 0, 1)", []),
        ("States.ArrayGetItem($.list, 3)", "2"),
        ("States.ArrayLength($.list)", 4),
        ("States.ArrayUnique($.list)", [1, 2, "2"]),
        ("States.Base64Encode('Hello')", "SGVsbG8="),
        ("States.Base64Decode('SGVsbG8=')", "Hello"),
        ("States.Hash('x', 'SHA-256')", hashlib.sha256(b"x").hexdigest()),
        ("States.Hash($.object, 'MD5')", hashlib.md5(b'{"a":1,"b":[true,null]}').hexdigest()),
        ("States.JsonMerge($.object, States.StringToJson('{\"a\":2}'), false)", {"a": 2, "b": [True, None]}),
        ("States.MathAdd(1, -3)", -2),
        ("States.MathAdd($.f, 0)", 3),
        ("States.StringSplit('a,b;c', ',;')", ["a", "b", "c"]),
        ("States.StringSplit('abc', '')", ["abc"]),
        ("  States.MathAdd( 1 ,\t2 )  ", 3),
        ("States.ArrayGetItem(States.StringSplit('a-b', '-'), States.MathAdd(0, 1))", "b"),
        ("States.ArrayLength($.deep['x'])", 1),
    ],
)
def test_results(call, result):
    found = evaluate(call)
    assert found == result
    assert type(found) is type(result)


@pytest.mark.parametrize(
    "text",
    ["States.Nothing()", "States.Array", "States.Array(", "States.Array(1", "States.Array(1 2)", "States.Array(,)", "States.Array(x)",
     "States.Array('x)", r"States.Format('\n')", 'States.StringToJson(\'{"t":"a \\"b\\""}\')', "States.UUID(1)", "States.MathAdd(1)", "States.MathAdd('1', 2)",
     "States.Array(1) rest", "States.Hash('x')", "Array(1)", "States.ArrayRange(1,2)", 'States.Array("x")', "States.Array($.)",
     "States.Format()"],
)  # fmt: skip
def test_what_is_no_call(text):
    with pytest.raises(IntrinsicSyntaxError):
        parse_intrinsic(text)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("States.Format('{} {}', 1)", "number of arguments do not match the occurrences of {}"),
        ("States.Format('{}', 1, 2)", "number of arguments do not match the occurrences of {}"),
        ("States.Format($.n)", "the first argument must be a string, not 3"),
        ("States.StringToJson('nope')", "'nope' is not valid JSON"),
        ("States.StringToJson('NaN')", "is not valid JSON"),
        ("States.ArrayPartition($.s, 2)", 'must be an array, not "text"'),
        ("States.ArrayPartition($.list, 0)", "must be a positive number"),
        ("States.ArrayRange(1, 9, 0)", "the step must not be 0"),
        ("States.ArrayRange(0, 1000, 1)", "at most 1000 values, not 1001"),
        ("States.ArrayGetItem($.list, 4)", "the index 4 is outside of an array of 4"),
        ("States.ArrayGetItem($.list, -1)", "is outside"),
        ("States.ArrayLength('x')", "must be an array"),
        ("States.Base64Decode('***')", "not valid Base64"),
        ("States.Hash('x', 'CRC')", "one of MD5, SHA-1, SHA-256, SHA-384, SHA-512"),
        ("States.JsonMerge($.object, $.object, true)", "only the shallow merge"),
        ("States.JsonMerge($.object, 1, false)", "must be objects"),
        ("States.MathRandom(5, 5)", "the start must be less than the end"),
        ("States.MathAdd($.s, 2)", 'must be a number, not "text"'),
        ("States.MathAdd($.yes, 2)", "must be a number, not true"),
        ("States.Base64Encode($.long)", "longer than 10000 characters"),
        ("States.Base64Decode($.long)", "longer than 10000 characters"),
        ("States.Hash($.long, 'MD5')", "longer than 10000 characters"),
    ],
)
def test_what_a_function_cannot_do(call, reason):
    with pytest.raises(IntrinsicError, match="had the following error") as raised:
        evaluate(call, {**DATA, "yes": True, "long": "x" * 10_001})
    assert reason in str(raised.value)


def test_random_numbers_keep_their_bounds_and_their_seed():
    assert {evaluate("States.MathRandom(1, 3)") for _ in range(60)} == {1, 2}
    assert evaluate("States.MathRandom(0, 1000000, 7)") == evaluate("States.MathRandom(0, 1000000, 7)")
    assert uuid.UUID(evaluate("States.UUID()")).version == 4
    assert evaluate("States.UUID()") != evaluate("States.UUID()")


def test_paths_of_nested_calls_are_known():
    call = parse_intrinsic("States.Array($.a, States.Format('{}', $$.Execution.Id), $v)")
    assert [path.text for path in call.paths()] == ["$.a", "$$.Execution.Id", "$v"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(JSON)
def test_json_text_and_back(value):
    text = evaluate("States.JsonToString($.v)", {"v": value})
    assert json.loads(text) == value
    assert evaluate("States.StringToJson($.v)", {"v": text}) == value


@settings(max_examples=150, deadline=None)
@given(st.lists(JSON, max_size=8), st.integers(1, 5))
def test_partitions_join_to_the_list(items, size):
    parts = evaluate("States.ArrayPartition($.v, $.n)", {"v": items, "n": size})
    assert [item for part in parts for item in part] == items
    assert all(len(part) == size for part in parts[:-1])


@settings(max_examples=150, deadline=None)
@given(st.lists(JSON, max_size=8))
def test_unique_items_differ_and_cover_the_list(items):
    kept = evaluate("States.ArrayUnique($.v)", {"v": items})
    assert all(not same(a, b) for i, a in enumerate(kept) for b in kept[:i])
    assert all(any(same(item, other) for other in kept) for item in items)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40))
def test_base64_and_back(text):
    encoded = evaluate("States.Base64Encode($.v)", {"v": text})
    assert evaluate("States.Base64Decode($.v)", {"v": encoded}) == text


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab,;", max_size=12), st.sampled_from([",", ";", ",;"]))
def test_splitting_drops_what_is_empty(text, separators):
    parts = evaluate("States.StringSplit($.v, $.s)", {"v": text, "s": separators})
    assert all(part and not set(part) & set(separators) for part in parts)
    assert "".join(parts) == "".join(c for c in text if c not in separators)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="States.ArrayFormat()'\\{}$,1 n\"", max_size=24))
def test_any_text_parses_or_is_refused(text):
    with contextlib.suppress(IntrinsicSyntaxError):
        assert parse_intrinsic(text).name in FUNCTIONS
