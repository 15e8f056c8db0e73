"""A Parquet file of something else becomes a checkpoint: what is in it is not read again, and the rest is."""

from __future__ import annotations

import json

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from headgate.checkpoint import Checkpoint, adopt, update, verify
from headgate.cli import main
from headgate.errors import ConfigError, ConflictError, InvalidInputError, NotFoundError
from headgate.testing.visits import write_wave

ROWS = [{"n": n, "text": f"t{n % 3}", "at": f"2024-01-{n + 1:02}T10:00:00Z"} for n in range(9)]


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "src"
    folder.mkdir()
    for n in range(0, 9, 3):
        (folder / f"{n}.json").write_text("\n".join(map(json.dumps, ROWS[n : n + 3])))
    return folder


def by_pandas(rows, path):
    """As pandas writes it: times in nanoseconds, and a note of its own in the footer."""
    table = pa.Table.from_pylist(rows)
    times = pc.strptime(table["at"], "%Y-%m-%dT%H:%M:%SZ", "ns").cast(pa.timestamp("ns", "UTC"))
    table = table.set_column(table.column_names.index("at"), "at", times)
    pq.write_table(table.replace_schema_metadata({"pandas": "{}"}), path)


def by_polars(rows, path):
    pl.DataFrame(rows).with_columns(pl.col("at").str.to_datetime(time_zone="UTC")).write_parquet(path)


@pytest.mark.parametrize("write", [by_pandas, by_polars])
def test_files_in_a_table_are_told_by_content(tmp_path, source, write):
    target = tmp_path / "o.parquet"
    gone = {"n": 99, "text": "old", "at": "2023-01-01T00:00:00Z"}  # of a file that the source does not have any more
    write([gone, *ROWS[:6]][::-1], target)
    before = target.read_bytes()
    dry = adopt(source, target, sort_by="at", dry_run=True)
    assert target.read_bytes() == before
    found = adopt(source, target, sort_by="at")
    assert (found.rows, found.files_in, found.files_not_in, found.rows_of_no_file, found.told_by) == (
        7,
        2,
        1,
        1,
        "content",
    )
    assert dry == found._replace(committed=False)
    run = update(source, target, settle_s=0)
    assert (run.known, run.rows_added, run.rows_total, run.first_run) == (2, 3, 10, False)
    assert [row["n"] for row in Checkpoint.read(target).dataframe().to_pylist()] == [99, *range(9)]
    assert verify(target, source).ok
    assert update(source, target, settle_s=0).taken_files == 0
    other = tmp_path / "other"
    other.mkdir()
    (other / "0.json").write_text(json.dumps(ROWS[8]))
    with pytest.raises(InvalidInputError, match=f"is fed from {source}, not from {other}"):
        update(other, target, settle_s=0)


def test_files_in_a_table_are_told_by_name(tmp_path, source):
    """By name, rows that were changed in the table since are those of their file all the same."""
    target = tmp_path / "o.parquet"
    rows = [{**row, "text": "changed", "file": f"{row['n'] // 3 * 3}.json"} for row in ROWS[:6]]
    by_polars(rows, target)
    found = adopt(source, target, file_name="file")
    assert (found.files_in, found.files_not_in, found.told_by) == (2, 1, "name")
    assert update(source, target, settle_s=0).rows_added == 3
    assert {row["file"] for row in Checkpoint.read(target).count_by("file")} == {"0.json", "3.json", "6.json"}
    assert verify(target, source).ok


def test_a_table_of_declared_records(tmp_path):
    wave = write_wave(tmp_path / "logs", 60)
    update(tmp_path / "logs", tmp_path / "whole.parquet", schema="visits", settle_s=0)
    table = Checkpoint.read(tmp_path / "whole.parquet").dataframe()
    target = tmp_path / "e.parquet"
    pq.write_table(table.slice(0, 40).replace_schema_metadata(None), target)
    found = adopt(tmp_path / "logs", target, schema="visits")
    assert (found.rows, found.files_in, found.rows_of_no_file) == (40, 40, 0)
    run = update(tmp_path / "logs", target, settle_s=0)
    assert (run.rows_total, run.rows_added) == (wave.good, wave.good - 40)
    assert Checkpoint.read(target).dataframe().sort_by(table_order(table)).equals(table.sort_by(table_order(table)))


def table_order(table):
    return [(name, "ascending") for name in table.column_names]


def test_of_equal_files_as_many_are_in_the_table_as_it_has_rows(tmp_path, source):
    for name in ("a.json", "b.json"):
        (source / name).write_text(json.dumps(ROWS[0] | {"n": 50}))
    target = tmp_path / "o.parquet"
    by_polars([*ROWS, ROWS[0] | {"n": 50}], target)
    assert adopt(source, target).files_not_in == 1
    assert update(source, target, settle_s=0).rows_added == 1


def test_what_cannot_be_adopted_is_said_and_left_as_it_is(tmp_path, source, capsys):
    target = tmp_path / "o.parquet"

    def refused(match, error=InvalidInputError, **options):
        before = target.read_bytes() if target.exists() else None
        with pytest.raises(error, match=match):
            adopt(source, target, **options)
        assert (target.read_bytes() if target.exists() else None) == before

    refused("does not exist", NotFoundError)
    by_polars(ROWS[:4], target)
    refused("1 files of the source are in the table in part only")
    by_polars([{**row, "more": 1} for row in ROWS], target)
    refused("more is not in the schema")
    pl.DataFrame([{"n": str(row["n"]), "text": 1, "at": row["at"]} for row in ROWS]).write_parquet(target)
    refused("n is .*, expected int64; text is int64, expected string")
    by_polars([{"n": 1.5, "text": "x", "at": "2024-01-01T00:00:00Z"}], target)
    refused("n is double, expected int64")
    pl.DataFrame([{"n": 1}]).write_parquet(target)
    refused("text is missing; at is missing")
    by_polars([{**row, "n": row["n"] + 100} for row in ROWS], target)
    refused("not one of 3 files of the source is in")
    target.write_bytes(b"no Parquet")
    refused("is not a readable Parquet file")
    target.unlink()
    update(source, target, settle_s=0)
    refused("is a checkpoint of headgate's already")
    with pytest.raises(ConfigError, match="a Delta table cannot be adopted"):
        adopt(source, f"delta+file://{tmp_path}/t")
    assert main(["checkpoint", str(source), str(target), "--adopt"]) == 1
    assert "already [already_exists]" in capsys.readouterr().err


def test_a_run_at_work_keeps_others_out(tmp_path, source):
    import fcntl

    target = tmp_path / "o.parquet"
    by_polars(ROWS, target)
    with open(f"{target}.lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConflictError, match="a run is at work"):
            adopt(source, target)


def test_on_the_command_line(tmp_path, source, capsys):
    target = tmp_path / "o.parquet"
    by_polars(ROWS[:3], target)
    assert main(["checkpoint", str(source), str(target), "--adopt"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["files_in"] == 1
    assert "1 files are in" in err
    assert main(["checkpoint", str(source), str(target), "--adopt", "--strict", "--settle", "0"]) == 1
    assert "--adopt reads no new files: it goes without --settle, --strict" in capsys.readouterr().err
    assert main(["checkpoint", str(source), str(target), "--settle", "0", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["rows_added"] == 6
    assert pq.read_metadata(target).num_rows == 9
