"""Rules of a sweep that are none, and keys that are none: refused by name. A threshold in the future would announce
everything again with each sweep."""

from __future__ import annotations

import math

import pytest

from headgate._core import ManualClock
from headgate.errors import InvalidInputError
from headgate.healing import Rule, query_stale_pending_items, run_self_healing_check
from headgate.healing._table import ItemTable


class Untouched:
    """A store of headgate that nobody may ask."""

    def stale_pending(self, *_):
        raise AssertionError


@pytest.mark.parametrize("hours", [-1, math.nan, math.inf, "1", None, True])
def test_a_threshold_is_a_time_that_is_over(hours):
    with pytest.raises(InvalidInputError, match="threshold_s: got"):
        Rule(threshold_s=hours)
    with pytest.raises(InvalidInputError, match="threshold_hours: got"):
        query_stale_pending_items(Untouched(), hours)
    result = run_self_healing_check(Untouched(), None, "topic", threshold_hours=hours, clock=ManualClock(0))
    assert (result.items_found, result.errors) == (0, ["invalid_input"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: got 0; expected a whole number of at least 1"),  # it healed nothing
        ({"batch_size": 2.5}, "batch_size: got 2.5"),
        ({"max_attempts": -1}, "max_attempts: got -1"),
        ({"max_attempts": "5"}, "max_attempts: got '5'"),
    ],
)
def test_counts_of_a_rule_are_whole(options, message):
    with pytest.raises(InvalidInputError, match=message):
        Rule(**options)


@pytest.mark.parametrize("key", ["ab", b"ab", "a", None, 5, ("a",), {"source_id": "a"}])
def test_a_key_is_a_pair(key):
    table = object.__new__(ItemTable)
    table.name, table.names = "items", ("source_id", "timestamp")
    with pytest.raises(InvalidInputError, match="a key of table items: expected a pair"):
        table.as_key(key)
    assert table.as_key(("a", "b")) == ("a", "b")
