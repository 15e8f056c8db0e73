"""Keys that join names: no name may hold what joins them, so that two tuples never have one key."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate import _core, dedup_key
from headgate.errors import ConfigError
from headgate.healing import Rule, Sweeper
from headgate.healing._sweeper import Attempts
from headgate.identity import check_key_part
from headgate.intake import Intake
from headgate.ops import MemoryMetrics
from headgate.pipelines.market import PIPELINE

WRONG = ["", ".", "..", "a#b", "a:b", "a/b", "a\\b", "a\0b", "a\nb", "\x9b", None, 3]


@pytest.mark.parametrize("name", WRONG)
def test_a_name_that_joins_is_refused_in_one_sentence(name):
    with pytest.raises(ConfigError, match="^here: expected a name without '#', ':' and slashes, got ") as caught:
        check_key_part("here", name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["market", "my pipeline", "a-b_c.d", "b\u00e9b\u00e9", "a|b"])
def test_other_names_are_taken(name):
    check_key_part("here", name)


def test_names_are_checked_where_they_enter(tmp_path):
    with pytest.raises(ConfigError, match="pipeline: name"):
        dataclasses.replace(PIPELINE, name="a#b")
    with pytest.raises(ConfigError, match="pipeline market: key_prefix"):
        dataclasses.replace(PIPELINE, key_prefix="NEWS#x")
    intake = Intake(PIPELINE, None, _core.file_store(str(tmp_path)), _core.SystemClock())
    with pytest.raises(ConfigError, match="source: expected a name"):
        intake.keep_raw("a/b", b"{}")
    assert intake.keep_raw("tiingo", b"{}").startswith("raw/market/tiingo/")


def kinds(*names):
    return [(SimpleNamespace(name=name), Rule(threshold_s=1)) for name in names]


@pytest.mark.parametrize("names", [("a:b",), ("cursor",), ("a", "a")])
def test_kinds_that_would_share_keys_are_refused(names):
    with pytest.raises(ConfigError, match="stuck kind: name"):
        Sweeper(kinds(*names), _core.SystemClock())
    Sweeper(kinds("a", "b"), _core.SystemClock())


NAMES = st.text("ab#:/|.- ", max_size=4)


def is_a_name(text):
    try:
        check_key_part("", text)
    except ConfigError:
        return False
    return True


@settings(max_examples=300, deadline=None)
@given(st.tuples(NAMES, NAMES), st.tuples(NAMES, NAMES))
def test_two_tuples_have_two_keys(one, other):
    if one == other or not (is_a_name(one[0]) and is_a_name(other[0])):
        return
    key = [Attempts(None, kind, None)._name(key) for kind, key in (one, other)]
    assert key[0] != key[1]


LABEL = st.text('ab"\\\\\n,={}', max_size=5)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(LABEL, LABEL), min_size=2, max_size=2, unique=True))
def test_two_sets_of_labels_are_two_series(pairs):
    metrics = MemoryMetrics()
    for a, b in pairs:
        metrics.count("n_total", a=a, b=b)
    lines = metrics.render().splitlines()[1:]
    assert len(set(lines)) == 2
    string = r'"(?:[^"\\\n]|\\[\\n"])*"'
    assert all(re.fullmatch(rf"n_total\{{a={string},b={string}\}} 1", line) for line in lines)


def test_what_the_form_of_dedup_key_means():
    """As specified, and as the docs say: a bar is not escaped."""
    assert dedup_key("a|b", "c", "2026-05-28") == dedup_key("a", "b|c", "2026-05-28")
    assert dedup_key("a", "b", "2026-05-28") != dedup_key("a", "c", "2026-05-28")
