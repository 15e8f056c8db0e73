"""Inferred columns lose nothing: what a column cannot hold is in `_rest` as it was written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headgate._native import parquet
from headgate.checkpoint import Checkpoint, update
from headgate.checkpoint._places import source_place
from headgate.errors import InterruptedRunError


@pytest.fixture
def take(tmp_path, target):
    logs = tmp_path / "logs"
    logs.mkdir()
    names = iter(range(1000))

    def run(*lines: Any, **options: Any) -> Any:
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (logs / f"{next(names):03}.jsonl").write_text("".join(f"{text}\n" for text in texts))
        return update(logs, target, schema="infer", settle_s=0, **options)

    return run


def types(target: str) -> dict[str, str]:
    return {field.name: str(field.type) for field in Checkpoint.read(target).dataframe().schema}


def rows(target: str) -> list[dict[str, Any]]:
    return sorted(Checkpoint.read(target).dataframe().to_pylist(), key=str)


@pytest.mark.parametrize(
    "values",
    [
        [1700000000000000000, 999, 20],
        [2**63 - 1, -(2**63), 0],
        [9007199254740993, 9007199254740992, 1],
    ],
)
def test_an_integer_that_fits_is_int64(target, take, values):
    assert take(*({"n": value} for value in values)).drifted == 0
    assert types(target)["n"] == "int64"
    assert sorted(row["n"] for row in rows(target)) == sorted(values)
    found = Checkpoint.read(target)
    assert len(found.between("n", start="1000")) == sum(value >= 1000 for value in values)


def test_a_larger_integer_keeps_its_digits(target, take):
    take({"n": 2**63}, {"n": 5})
    assert [row["n"] for row in rows(target)] == ["5", "9223372036854775808"]
    assert take({"n": 10**40}).drifted == 0
    assert str(10**40) in [row["n"] for row in rows(target)]


@pytest.mark.parametrize(
    ("text", "in_column"),
    [
        ("0.1234567890123456789", 0.12345678901234568),
        ("3.14159265358979323846264338327950288", 3.141592653589793),
        ("1e400", None),
        ("1e-400", None),
        ("-1.7976931348623157e309", None),
        ("9007199254740993.0", 9007199254740992.0),
        ("123456789012345678901234567890e-5", 1.2345678901234568e24),
    ],
)
def test_a_real_that_a_double_rounds_is_kept_as_written(target, take, text, in_column):
    run = take('{"x": 0.5}', f'{{"x": {text}, "nested": [{text}]}}')
    assert (run.drifted, run.rejected_records) == (1, 0)
    row = next(row for row in rows(target) if row["_rest"])
    assert row["x"] == in_column
    assert row["_rest"] == f'{{"x":{text}}}'
    assert row["nested"] == f"[{text}]"


@pytest.mark.parametrize("text", ["0.1", "-0.0", "0e0", "1.50", "1e22", "0.000001", "5e-324", "1.7976931348623157e308",
                                  "100000000000000000000.0", "0.30000000000000004", "2.2250738585072014E-308"])  # fmt: skip
def test_a_real_that_a_double_holds_is_no_drift(target, take, text):
    assert take(f'{{"x": {text}}}').drifted == 0
    assert rows(target)[0]["x"] == float(text)


def test_nanoseconds_are_kept(target, take):
    first, second = "2024-01-15T10:00:00.123456789Z", "2024-01-15T10:00:00.123456001Z"
    assert take({"t": first}, {"t": second}, {"t": "2024-01-15T10:00:00.123456000Z"}).drifted == 2
    assert types(target)["t"].startswith("timestamp[us")
    assert sorted(json.loads(row["_rest"])["t"] for row in rows(target) if row["_rest"]) == [second, first]


def test_the_sender_s_offset_is_kept_and_the_instant_is_right(target, take):
    run = take({"timestamp": "2015-03-29T23:01:38.221126-0600"}, {"timestamp": "2019-01-02T03:50:11Z"})
    assert run.drifted == 1
    found = rows(target)
    assert found[0]["timestamp"].isoformat() == "2015-03-30T05:01:38.221126+00:00"
    assert [row["_rest"] for row in found] == ['{"timestamp":"2015-03-29T23:01:38.221126-0600"}', None]
    assert Checkpoint.read(target).count_by(every="year") == [
        {"year": "2015", "count": 1},
        {"year": "2019", "count": 1},
    ]


def test_a_time_without_a_zone_beside_others_is_counted(target, take):
    naive = "2019-01-02T03:50:11.315110"
    assert take({"t": "2015-03-29T23:01:38Z"}, {"t": naive}).drifted == 1
    assert [row["_rest"] for row in rows(target)] == [None, f'{{"t":"{naive}"}}']


def test_times_that_all_have_no_zone_are_no_drift(target, take):
    assert take({"t": "2019-01-02T03:50:11"}, {"t": "2019-01-02T03:50:12"}).drifted == 0
    assert take({"t": "2019-01-02T03:50:13Z"}).drifted == 1


@pytest.mark.parametrize(
    ("lines", "name", "values"),
    [
        ([{"Id": 1, "id": 2}, {"id": 3}], "id", [2, 3]),
        ([{"HostName": "u"}, {"Hostname": "w"}, {"Hostname": "w"}], "Hostname", [None, "w", "w"]),
        ([{"Übung": 1}, {"übung": 2}, {"übung": 3}], "übung", [None, 2, 3]),
        ([{"ЖУК": 1, "жук": 2}], "ЖУК", [1]),
    ],
)
def test_of_names_that_differ_in_case_one_is_a_column(target, take, lines, name, values):
    duckdb = pytest.importorskip("duckdb")
    polars = pytest.importorskip("polars")
    run = take(*lines)
    assert run.rows_total == len(lines)
    found = Checkpoint.read(target)
    arrow_table = found.dataframe()
    assert sorted(arrow_table.column_names) == sorted([name, "_rest"])
    answers = [
        arrow_table[name].to_pylist(),
        [row[0] for row in duckdb.sql(f'SELECT "{name}" FROM arrow_table').fetchall()],
        found.sql(f'SELECT "{name}" AS found FROM events').column("found").to_pylist(),
        polars.DataFrame(found)[name].to_list(),
    ]
    assert [sorted(answer, key=str) for answer in answers] == [sorted(values, key=str)] * 4
    rebuilt = [
        {k: v for k, v in row.items() if k != "_rest" and v is not None} | json.loads(row["_rest"] or "{}")
        for row in rows(target)
    ]
    assert sorted(json.dumps(row, sort_keys=True) for row in rebuilt) == sorted(
        json.dumps(row, sort_keys=True) for row in lines
    )


@pytest.mark.parametrize(
    "name", ["", "\x00", "a\nb", "__fragment_index", "__filename", "_rest", "_REST", "_commit_version"]
)
def test_a_name_that_readers_cannot_take_stays_in_the_rest(target, take, name):
    pytest.importorskip("duckdb")
    assert take({name: 1, "a": 2}).rows_total == 1
    found = Checkpoint.read(target)
    assert found.columns == ["a", "_rest"]
    assert found.sql("SELECT a, _rest FROM events").to_pylist() == [
        {"a": 2, "_rest": json.dumps({name: 1}, separators=(",", ":"))}
    ]
    assert found.count_by("a") == [{"a": 2, "count": 1}]


def test_later_fields_become_columns_on_purpose(target, take):
    take({"a": 1, "n": 1})
    take({"a": 2, "b": "x", "n": 2.5})
    assert types(target) == {"a": "int64", "n": "int64", "_rest": "string"}
    run = take({"a": 3, "b": "y", "A": 4}, evolve=True)
    assert run.rows_total == 3
    assert types(target) == {"a": "int64", "n": "double", "b": "string", "_rest": "string"}
    assert take({"a": 5, "b": "z"}).rows_total == 4


def test_what_the_rest_kept_moves_into_the_new_columns(target, take):
    take({"a": 1, "t": "2024-01-01T00:00:00Z"}, {"a": None})
    take(
        {"a": 2, "b": "x", "c": [1, "y"], "t": "2024-01-01T00:00:00.123456789Z"},
        {"a": "text", "b": 5},
        {"a": 2.5, "b": None, "d": True},
    )
    assert {name for name in types(target) if name != "_rest"} == {"a", "t"}
    run = take({"a": 3, "b": "z"}, evolve=True)
    assert (run.rows_added, run.rows_total, run.adds_up()) == (1, 6, [])
    assert set(types(target)) == {"a", "t", "b", "c", "d", "_rest"}
    found = {(row["a"], row["b"], row["c"], row["d"], row["_rest"]) for row in rows(target)}
    assert found == {
        (1, None, None, None, None),
        (None, None, None, None, None),
        (2, '"x"', '[1,"y"]', None, '{"t":"2024-01-01T00:00:00.123456789Z"}'),
        (None, "5", None, None, '{"a":"text"}'),
        (None, None, None, True, '{"a":2.5}'),
        (3, '"z"', None, None, None),
    }
    assert take({"a": 4}).rows_total == 7


def test_a_table_evolves_by_records_as_it_has_read_them(tmp_path, target):
    logs = tmp_path / "wrapped"
    logs.mkdir()
    (logs / "a.x").write_text('{"Records": [{"a": 1, "filename": "own"}], "more": 1}')
    update(logs, target, schema="infer", settle_s=0, names="*.x", records="Records", file_name=True)
    (logs / "b.x").write_text('{"Records": [{"a": 2, "b": 5}], "more": 1}')
    assert update(logs, target, schema="infer", settle_s=0).rows_added == 1
    assert update(logs, target, schema="infer", settle_s=0, evolve=True).committed
    assert set(types(target)) == {"a", "b", "filename", "_rest"}
    assert {(row["a"], row["b"], row["filename"], row["_rest"]) for row in rows(target)} == {
        (1, None, "a.x", '{"filename":"own"}'), (2, 5, "b.x", None)
    }  # fmt: skip


def test_an_inference_is_stopped_by_its_progress(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}')

    def stop(done, total):
        assert 0 <= done <= total == 1
        message = "the process stops"
        raise InterruptedRunError(message)

    with pytest.raises(InterruptedRunError, match="the process stops"):
        parquet().infer(source_place(tmp_path), "records", "", 0, "", "", {}, stop)


def test_fields_that_came_later_can_be_asked_for(tmp_path, target):
    logs = tmp_path / "resources"
    logs.mkdir()
    (logs / "Patient.jsonl").write_text('{"resourceType":"Patient","id":"p1"}\n')
    update(logs, target, schema="infer", settle_s=0)
    late = '{"resourceType":"Procedure","id":"q1","performedPeriod":{"start":"2020-01-01T00:00:00Z"}}\n'
    (logs / "Procedure.jsonl").write_text(late)
    update(logs, target, schema="infer", settle_s=0)
    assert update(logs, target, schema="infer", settle_s=0, evolve=True).committed
    assert sorted(map(str, (row["performedPeriod"] for row in rows(target)))) == [
        "None", '{"start":"2020-01-01T00:00:00Z"}'
    ]  # fmt: skip
    assert [row["_rest"] for row in rows(target)] == [None, None]
