"""Times that Python's datetime cannot hold: refused when they come in, shown as text where a table has them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel, ValidationError

from headgate.checkpoint import Checkpoint, update
from headgate.checkpoint.schema import Timestamp
from headgate.cli import main
from headgate.pipelines.visits import Visits

_OUTSIDE = ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "9999-12-31T23:59:59.999999-00:01"]
_INSIDE = ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00-01:00"]


class Ev(BaseModel):
    headgate_name: ClassVar[str] = "ev"
    headgate_sort_by: ClassVar[str] = "at"
    at: Timestamp


def take(tmp_path, lines, schema) -> tuple[Any, str]:
    logs, target = tmp_path / "logs", str(tmp_path / "e.parquet")
    logs.mkdir()
    (logs / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return update(logs, target, schema=schema, settle_s=0), target


@pytest.mark.parametrize("text", _OUTSIDE)
def test_core_and_model_refuse_a_year_that_no_datetime_has(text, tmp_path):
    with pytest.raises(ValidationError):
        Ev(at=text)
    run, _ = take(tmp_path, [{"at": text}, {"at": "2024-01-01T00:00:00Z"}], Ev)
    assert (run.rejected_records, run.problems) == (1, {"timestamp": 1})


@pytest.mark.parametrize("text", _INSIDE)
def test_core_and_model_take_the_first_and_the_last_year(text, tmp_path):
    assert Ev(at=text).at.year in (1, 9999)
    run, target = take(tmp_path, [{"at": text}], Ev)
    assert run.rejected_records == 0
    assert Checkpoint.read(target).get_last_processed_timestamp() == Ev(at=text).at


def test_an_inferred_column_of_such_times_alone_is_text(tmp_path, capsys):
    lines = [{"timestamp": text, "n": 1} for text in _OUTSIDE]
    run, target = take(tmp_path, lines, "infer")
    assert (run.rows_total, run.rejected_records, run.drifted) == (3, 0, 0)
    assert sorted(row["timestamp"] for row in Checkpoint.read(target).head(9)) == sorted(_OUTSIDE)
    assert main(["query", target, "--by", "timestamp"]) == 0
    assert "0001-01-01T00:00:00+01:00" in capsys.readouterr().out


@pytest.mark.parametrize("odd", _OUTSIDE)
def test_one_such_time_makes_no_column_of_times_text(tmp_path, odd):
    run, target = take(tmp_path, [{"timestamp": odd}, {"timestamp": "2024-01-01T00:00:00Z"}], "infer")
    assert (run.rows_total, run.drifted) == (2, 1)
    rows = Checkpoint.read(target)
    assert [row["_rest"] for row in rows.head(9) if row["_rest"]] == [
        json.dumps({"timestamp": odd}, separators=(",", ":"))
    ]
    assert rows.count_by(every="year") == [{"year": "2024", "count": 1}, {"year": None, "count": 1}]
    assert rows.get_last_processed_timestamp() == datetime(2024, 1, 1, tzinfo=UTC)


def odd_rows():
    """A table that an earlier version, or somebody else, has made."""
    first, last = -62_135_600_400_000_000, 253_402_304_399_000_000  # an hour before the year 1, and after 9999
    at = pa.array([first, 0, None, last], pa.timestamp("us", "UTC"))
    return pa.table({"timestamp": at, "n": pa.array([1, 2, 3, 4]), "ns": pa.array([1, 2, 3, 4], pa.timestamp("ns"))})


@pytest.fixture
def odd_file(tmp_path):
    pq.write_table(odd_rows(), tmp_path / "odd.parquet")
    return str(tmp_path / "odd.parquet")


@pytest.mark.parametrize("read", [False, True])
def test_no_question_fails_at_an_odd_time(odd_file, read):
    rows = Checkpoint.read(odd_file) if read else Checkpoint(odd_rows())
    shown = ["0000-12-31T23:00:00Z", datetime(1970, 1, 1, tzinfo=UTC), None, "10000-01-01T00:59:59Z"]
    assert [row["timestamp"] for row in rows.head(9)] == shown
    assert [row["ns"] for row in rows.head(1)] == ["1970-01-01T00:00:00.000000001"]
    assert sorted(str(row["timestamp"]) for row in rows.count_by("timestamp")) == sorted(map(str, shown))
    assert rows.get_last_processed_timestamp() == datetime(1970, 1, 1, tzinfo=UTC)
    assert [row["year"] for row in rows.count_by(every="year")] == ["0000", "10000", "1970", None]
    assert {row["month"] for row in rows.count_by(every="month")} == {"0000-12", "10000-01", "1970-01", None}
    assert len(rows.latest_per("n").head(9)) == 4
    assert "10000-01-01" in rows._repr_html_()


@pytest.mark.parametrize(
    "asked", [["--rows", "9"], ["--by", "timestamp"], ["--by", "n", "--every", "month"], ["--latest", "n"],
              ["--sql", "select timestamp from events"]],
)  # fmt: skip
@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_the_command_shows_an_odd_time_as_text(odd_file, capsys, asked, form):
    if "--sql" in asked:
        pytest.importorskip("duckdb")
    assert main(["query", odd_file, *asked, "--format", form]) == 0
    assert "10000-01" in capsys.readouterr().out


def test_visits_of_any_century_have_days():
    rows = pa.table({
        "action": ["submit"] * 4, "visit_date": ["0001-01-01", "9999-12-31", "1969-12-31", "yesterday"],
        "timestamp": pa.array([0, 0, 0, 0], pa.timestamp("us", "UTC")),
    })  # fmt: skip
    days = Visits(rows).days_to("submit").dataframe()["days"].to_pylist()
    assert days == [719_162.0, -2_932_896.0, 1.0, None]
