"""Members of JSON columns in questions: `user.type`."""

from __future__ import annotations

import json

import pytest

from headgate.checkpoint import Checkpoint, update
from headgate.cli import main
from headgate.errors import InvalidInputError

RECORDS = [
    {"n": 1, "user": {"type": "IAM", "at": "2024-01-15T10:00:00Z", "deep": {"a.b": 1}}, "name": "x.y"},
    {"n": 2, "user": {"type": "Root", "at": "2024-02-15T10:00:00+01:00"}, "name": "{}"},
    {"n": 3, "user": {"type": "IAM", "at": "2024-01-16T10:00:00Z", "deep": {}}, "name": None},
    {"n": 4, "user": {"type": None}, "name": "z"},
    {"n": 5, "name": "z"},
]


@pytest.fixture
def target(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.jsonl").write_text("\n".join(map(json.dumps, RECORDS)))
    update(tmp_path / "logs", tmp_path / "t.parquet", settle_s=0)
    return str(tmp_path / "t.parquet")


@pytest.fixture(params=[False, True], ids=["file", "table"])
def events(request, target):
    read = Checkpoint.read(target)
    return Checkpoint(read.dataframe()) if request.param else read


def numbers(events):
    return sorted(events.select("n").column(0).to_pylist())


def test_rows_are_counted_by_a_nested_member(events):
    assert events.count_by("user.type") == [
        {"user.type": "IAM", "count": 2}, {"user.type": None, "count": 2}, {"user.type": "Root", "count": 1},
    ]  # fmt: skip
    assert {"user.type": "IAM", "n": 3, "count": 1} in events.count_by("user.type", "n")
    assert events.filter(n=[1, 2]).count_by("user.deep") == [
        {"user.deep": None, "count": 1}, {"user.deep": '{"a.b":1}', "count": 1},
    ]  # fmt: skip


def test_rows_are_chosen_by_a_nested_member(events):
    chosen = events.filter(**{"user.type": "IAM"})
    assert numbers(chosen) == [1, 3]
    assert chosen.columns == events.columns
    assert numbers(events.filter(**{"user.type": None})) == [4, 5]
    assert numbers(events.filter(**{"user.type": ["Root", None], "n": [2, 4]})) == [2, 4]
    assert numbers(events.between("user.at", "2024-01-16", "2024-02")) == [3]


def test_a_nested_time_can_be_the_time_of_the_rows(events):
    timed = events.timed_by("user.at")
    assert timed.count_by(every="month") == [
        {"month": "2024-01", "count": 2}, {"month": "2024-02", "count": 1}, {"month": None, "count": 2},
    ]  # fmt: skip
    assert numbers(timed.latest_per("user.type").filter(**{"user.type": "IAM"})) == [3]


@pytest.mark.parametrize("name", ["user.nobody", "name.x", "nothing.x", "user.", "n.x"])
def test_a_member_that_no_row_has_is_no_column(events, name):
    with pytest.raises(InvalidInputError, match="there is no column"):
        events.count_by(name)
    with pytest.raises(InvalidInputError, match="there is no column"):
        events.filter(**{name: "x"})


def test_a_member_without_times_is_not_the_time(events):
    with pytest.raises(InvalidInputError, match=r"no row has a time in 'user.type'"):
        events.timed_by("user.type")


def test_the_command_takes_nested_names(target, capsys):
    assert main(["query", target, "--by", "user.type", "--where", "user.type=IAM"]) == 0
    assert capsys.readouterr().out == "user.type\tcount\nIAM\t2\n"
    assert main(["query", target, "--sort-by", "user.at", "--every", "year"]) == 0
    assert "2024\t3" in capsys.readouterr().out
