"""JSONPath in the dialect of Step Functions: what paths find, and what they say when they find nothing."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.workflow._paths import (
    CannotPlaceError,
    PathNotFoundError,
    PathSyntaxError,
    find,
    parse_path,
    place,
)

BOOKS = {
    "store": {
        "book": [
            {"title": "A", "price": 8.95, "tags": ["x", "y"], "kind": "ref"},
            {"title": "B", "price": 12.99, "kind": "fiction", "isbn": "1"},
            {"title": "C", "price": 22.99, "kind": "fiction", "isbn": None},
        ],
        "bicycle": {"price": 19.95, "price-list": [1, 2]},
    },
    "limit": 10,
    "odd key": {"a.b": 1, "it's": 2, 'q"': 3},
    "null": None,
    "text": "abc",
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("$", BOOKS),
        ("$.limit", 10),
        ("$.null", None),
        ("$['limit']", 10),
        ('$["limit"]', 10),
        ("$['odd key']['a.b']", 1),
        ("$['odd key']['it\\'s']", 2),
        ("$['odd key']['q\"']", 3),
        ("$.store.bicycle.price-list", [1, 2]),
        ("$.store.book[0].title", "A"),
        ("$.store.book[-1].title", "C"),
        ("$.store.book[(@.length-1)].title", "C"),
        ("$.store.book.[0].['title']", "A"),
        ("$.store.book[?(@.kind == fiction)].title", ["B", "C"]),
        ("$.store.book[0,2].title", ["A", "C"]),
        ("$.store.book[0:2].title", ["A", "B"]),
        ("$.store.book[:1].title", ["A"]),
        ("$.store.book[1:].title", ["B", "C"]),
        ("$.store.book[-2:].title", ["B", "C"]),
        ("$.store.book[:-2].title", ["A"]),
        ("$.store.book[*].price", [8.95, 12.99, 22.99]),
        ("$.store.book.*.title", ["A", "B", "C"]),
        ("$.store.book[9:].title", []),
        ("$.store.bicycle.*", [19.95, [1, 2]]),
        ("$..price", [8.95, 12.99, 22.99, 19.95]),
        ("$..book[0].title", ["A"]),
        ("$..nothing", []),
        ("$..['title','kind']", [{"title": "A", "kind": "ref"}, {"title": "B", "kind": "fiction"}, {"title": "C", "kind": "fiction"}]),
        ("$.store.book[0]['title','price']", {"title": "A", "price": 8.95}),
        ("$.store.book[?(@.isbn)].title", ["B", "C"]),
        ("$.store.book[?(!@.isbn)].title", ["A"]),
        ("$.store.book[?(@.price < 10)].title", ["A"]),
        ("$.store.book[?(@.price <= $.limit)].title", ["A"]),
        ("$.store.book[?(@.price>10 && @.kind=='fiction')].title", ["B", "C"]),
        ("$.store.book[?(@.price < 9 || @.title == 'C')].title", ["A", "C"]),
        ("$.store.book[?(@.kind != 'fiction')].title", ["A"]),
        ("$.store.book[?((@.kind == 'ref') || (@.isbn == '1'))].title", ["A", "B"]),
        ("$.store.book[?(@.isbn == null)].title", ["C"]),
        ("$.store.book[?(@.title in ['A', 'C'])].title", ["A", "C"]),
        ("$.store.book[?(@.title nin ['A', 'C'])].title", ["B"]),
        ("$.store.book[?(@.tags size 2)].title", ["A"]),
        ("$.store.book[?(@.tags contains 'x')].title", ["A"]),
        ("$.store.book[?(@.tags anyof ['x', 'z'])].title", ["A"]),
        ("$.store.book[?(@.tags noneof ['q'])].title", ["A"]),
        ("$.store.book[?(@.tags subsetof ['x', 'y', 'z'])].title", ["A"]),
        ("$.store.book[?(@.title =~ /[a-b]/i)].title", ["A", "B"]),
        ("$.store.book[?(@.title empty false)].title", ["A", "B", "C"]),
        ("$.store.book[?(@['price'] > 20)].title", ["C"]),
        ("$.store.bicycle[?(@.price > 1)].price", [19.95]),
        ("$.store.book[?(@.price < 'x')].title", []),
        ("$.store.book[?(@.price == '8.95')].title", []),
        ("$.store.book.length()", 3),
        ("$.text.length()", 3),
        ("$.store.book[*].price.max()", 22.99),
        ("$..price.min()", 8.95),
        ("$.store.bicycle.price-list.sum()", 3.0),
        ("$.store.bicycle.price-list.avg()", 1.5),
        ("$.store.bicycle.price-list.stddev()", 0.5),
        ("$.store.bicycle.keys()", ["price", "price-list"]),
        ("$.store.bicycle.price-list.first()", 1),
        ("$.store.bicycle.price-list.last()", 2),
        ("$.store.bicycle.price-list.index(-1)", 2),
        ("$.store.bicycle.price-list.append(3)", [1, 2, 3]),
        ("$.store.book[*].title.concat('!')", "ABC!"),
    ],
)  # fmt: skip
def test_what_a_path_finds(path, found):
    assert find(parse_path(path), BOOKS) == found


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("$.no", "No results for path: $['no']"),
        ("$.store.no", "No results for path: $['store']['no']"),
        ("$.no.more", "Missing property in path $['no']"),
        ("$.store.book[7]", "No results for path: $['store']['book'][7]"),
        ("$.store[0]", "Filter: [0] can only be applied to arrays. Current context is: {"),
        ("$.null[0]", "The path $['null'] is null"),
        (
            "$.text.x",
            "Expected to find an object with property ['x'] in path $['text'] but found 'com.fasterxml.jackson",
        ),
        ("$.null.x", "but found 'com.fasterxml.jackson.databind.node.NullNode'"),
        ("$.limit.length()", "No results for path: $['limit'].length()"),
        ("$.text.sum()", "Aggregation function attempted to calculate value using empty array"),
    ],
)
def test_why_a_definite_path_finds_nothing(path, reason):
    with pytest.raises(PathNotFoundError) as raised:
        find(parse_path(path), BOOKS)
    assert reason in str(raised.value)


@pytest.mark.parametrize(
    "path", ["$.no[*]", "$.no.more[0:1].x", "$.text[*]", "$.text[?(@.x)]", "$.no..x", "$.limit[1,2]"]
)
def test_an_indefinite_path_finds_an_empty_list(path):
    assert find(parse_path(path), BOOKS) == []


@pytest.mark.parametrize(
    "text",
    ["", "a", ".a", "$.", "$a.", "$..", "$[", "$[]", "$['a", "$['a'", "$[a]", "$[1", "$.a b", "$.a[?]", "$.a[?(]", "$.a[?(@.x ==)]",
     "$.a[?('x')]", "$.a[?(@.x =~ /(/)]", "$.a[?(@.x == 'y)]", "$.a.nothing()", "$.a['b',]", "$.a)"],
)  # fmt: skip
def test_what_is_no_path(text):
    with pytest.raises(PathSyntaxError):
        parse_path(text)


@pytest.mark.parametrize(
    ("text", "root", "definite", "reference"),
    [
        ("$.a", "$", True, True),
        ("$$.Execution.Id", "$$", True, False),
        ("$name.x[0]", "$name", True, False),
        ("$_x1", "$_x1", True, False),
        ("$.a[0]['b']", "$", True, True),
        ("$.a[*]", "$", False, False),
        ("$..a", "$", False, False),
        ("$.a.length()", "$", True, False),
        ("$['a','b']", "$", True, False),
        ("$['a','b'].c", "$", False, False),
    ],
)
def test_roots_and_kinds_of_paths(text, root, definite, reference):
    path = parse_path(text)
    assert (path.root, path.is_definite, path.is_reference) == (root, definite, reference)


@pytest.mark.parametrize(
    ("path", "data", "result"),
    [
        ("$", {"a": 1}, "new"),
        ("$.b", {"a": 1}, {"a": 1, "b": "new"}),
        ("$.a", {"a": 1}, {"a": "new"}),
        ("$.a.b.c", {}, {"a": {"b": {"c": "new"}}}),
        ("$.a.b", {"a": None}, {"a": {"b": "new"}}),
        ("$.a[1]", {"a": [1, 2]}, {"a": [1, "new"]}),
        ("$.a[-1].x", {"a": [{}]}, {"a": [{"x": "new"}]}),
        ("$.x", None, {"x": "new"}),
    ],
)
def test_placing_a_result(path, data, result):
    assert place(parse_path(path), data, "new") == result


@pytest.mark.parametrize(
    ("path", "data"),
    [("$.a.b", {"a": "text"}), ("$.a", [1]), ("$.a[5]", {"a": [1]}), ("$.a[0]", {"a": {}}), ("$.a", 3)],
)
def test_places_that_cannot_be(path, data):
    with pytest.raises(CannotPlaceError):
        place(parse_path(path), data, 1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c d"]), inner, max_size=3),
    max_leaves=12,
)
STEPS = st.lists(st.sampled_from(["a", "b", "c d", 0, 1, -1]), max_size=4)


def written(steps):
    return "$" + "".join(f"[{s}]" if isinstance(s, int) else f"['{s}']" for s in steps)


@settings(max_examples=200, deadline=None)
@given(JSON, STEPS)
def test_a_definite_path_is_the_same_as_indexing(data, steps):
    expected, there = data, True
    for step in steps:
        try:
            if isinstance(step, int) is not isinstance(expected, list) or not isinstance(expected, list | dict):
                raise KeyError
            expected = expected[step]
        except (KeyError, IndexError):
            there = False
            break
    path = parse_path(written(steps))
    if there:
        assert find(path, data) == expected
    else:
        with pytest.raises(PathNotFoundError):
            find(path, data)


@settings(max_examples=200, deadline=None)
@given(JSON, st.lists(st.sampled_from(["a", "b", "c d"]), max_size=4))
def test_what_was_placed_is_found_and_nothing_else_changes(data, names):
    import copy

    before = copy.deepcopy(data)
    path = parse_path(written(names))
    try:
        after = place(path, data, "new")
    except CannotPlaceError:
        after = None
    assert data == before
    if after is not None:
        assert find(path, after) == "new"
        for other in ("a", "b", "c d"):
            if isinstance(data, dict) and other in data and names[:1] != [other]:
                assert names == [] or after[other] == data[other]


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_a_deep_scan_finds_every_member_of_a_name(data):
    def members(node):
        if isinstance(node, dict):
            return [v for k, v in node.items() if k == "a"] + [m for v in node.values() for m in members(v)]
        return [m for v in node for m in members(v)] if isinstance(node, list) else []

    def key(value):
        return repr(value)

    assert sorted(find(parse_path("$..a"), data), key=key) == sorted(members(data), key=key)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="$.[]'\"?(@=<>&|!*:,-0aB _/~)", max_size=14))
def test_any_text_parses_or_is_refused_by_name(text):
    with contextlib.suppress(PathSyntaxError, PathNotFoundError):
        find(parse_path(text), {"a": [1, {"B": 2}]})  # nothing else is raised
