"""Questions to a checkpoint: what they read, what they say, and how they fail."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headgate._text import json_text
from headgate.checkpoint import Checkpoint, update, verify
from headgate.errors import InvalidInputError, NotFoundError
from headgate.pipelines.visits import Visits
from headgate.testing.visits import write_wave


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    folder = tmp_path_factory.mktemp("queries")
    write_wave(folder / "logs", 300)
    update(folder / "logs", folder / "e.parquet", settle_s=0, schema="visits")
    return folder / "e.parquet"


def command(*words):
    return subprocess.run([sys.executable, "-m", "headgate", *map(str, words)], capture_output=True, text=True)


def test_a_filter_on_time_reads_the_row_groups_it_needs(tmp_path):
    start = datetime(2024, 1, 1, tzinfo=UTC)
    rows = 200_000
    table = pa.table({
        "timestamp": pa.array([start + timedelta(seconds=n) for n in range(rows)], pa.timestamp("us", "UTC")),
        "center_label": pa.array([f"center-{n * 7919 % 1000}" for n in range(rows)]),
        "payload": pa.array([f"{n * 2654435761 % 2**32:x}" * 4 for n in range(rows)]),
    })  # fmt: skip
    path = tmp_path / "big.parquet"
    pq.write_table(table, path, row_group_size=10_000, compression="snappy")
    whole = path.stat().st_size
    script = """
import sys
from headgate.checkpoint import Checkpoint
def read():
    return int(next(l for l in open('/proc/self/io') if l.startswith('rchar')).split()[1])
Checkpoint.read(sys.argv[1]).filter(center_label='none').between('timestamp', '2030-01-01').count_by('center_label')
before = read()
found = Checkpoint.read(sys.argv[1]).between('timestamp', '2024-01-01T10:00:00', '2024-01-01T11:00:00')
print(len(found.count_by('center_label')) > 0, len(found.dataframe()), read() - before)
"""
    output = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True).stdout
    some, count, read = output.split()
    assert (some, int(count)) == ("True", 3600)
    assert int(read) < whole / 4


def test_sql_over_the_rows(events):
    checkpoint = Checkpoint.read(events)
    answer = checkpoint.sql(
        "SELECT action, count(*) AS count FROM events GROUP BY action ORDER BY 2 DESC, 1"
    ).to_pylist()
    assert answer == checkpoint.count_by("action")
    narrowed = checkpoint.filter(action="submit").sql("SELECT count(*) AS n FROM events").to_pylist()
    assert narrowed == [{"n": len(checkpoint.filter(action="submit"))}]
    with pytest.raises(InvalidInputError, match="SQL"):
        checkpoint.sql("SELEC 1")
    with pytest.raises(InvalidInputError, match="SQL"):
        checkpoint.sql("SELECT * FROM read_csv('/etc/passwd')")


def test_arrow_takes_the_rows_without_a_copy(events):
    import polars

    checkpoint = Checkpoint.read(events)
    assert polars.DataFrame(checkpoint.filter(action="submit")).height == len(checkpoint.filter(action="submit"))
    assert pa.table(checkpoint).num_rows == len(checkpoint)


def test_the_notebook_shows_ten_rows_escaped(events):
    html = Checkpoint.read(events)._repr_html_()
    assert html.count("<tr>") == 11
    assert "297 events, the first 10:" in html
    odd = Checkpoint(pa.table({"timestamp": pa.array([None], pa.timestamp("us", "UTC")), "x": ["<script>"]}))
    assert "<script>" not in odd._repr_html_()
    assert "None" not in odd._repr_html_()
    assert repr(odd).startswith("<Checkpoint of 1 events")


def test_questions_about_what_is_not_there_are_named(events):
    checkpoint = Visits.read(events)
    for ask in (
        lambda: checkpoint.filter(nope=1), lambda: checkpoint.between("nope"), lambda: checkpoint.count_by("nope"),
        lambda: checkpoint.filter(pipeline_adcid="x"), lambda: checkpoint.logged("yesterday"),
        lambda: checkpoint.completeness("week"),
    ):  # fmt: skip
        with pytest.raises(InvalidInputError):
            ask()


def test_the_command_asks_the_same(events):
    checkpoint = Visits.read(events)
    by_action = json.loads(command("query", events, "--by", "action", "--format", "json").stdout)
    assert by_action == checkpoint.count_by("action")
    assert command("query", events, "--where", "packet=", "--format", "csv").stdout == (
        f"count\n{len(checkpoint.packet(None))}\n"
    )
    middle = "2026-01-05T09:00:00"
    narrowed = command("query", events, "--where", "pipeline_adcid=42", "--since", middle, "--format", "json").stdout
    assert json.loads(narrowed) == [{"count": len(checkpoint.filter(pipeline_adcid=42).logged(middle))}]
    rows = json.loads(command("query", events, "--rows", "3", "--format", "json").stdout)
    assert [r["ptid"] for r in rows] == [r["ptid"] for r in checkpoint.head(3)]
    latest = command("query", events, "--latest", "center_label", "--format", "json").stdout
    assert len(json.loads(latest)) == 5
    days = json.loads(command("query", events, "--days-to", "submit", "--format", "json").stdout)
    assert len(days) == checkpoint.actions()["submit"]
    assert json.loads(command("query", events, "--latest", "--format", "json").stdout) == json.loads(
        json.dumps(checkpoint.latest().dataframe().to_pylist(), default=str)
    )
    for words, expected in (
        (("--qc", "center_label,packet"), checkpoint.qc_outcomes("center_label", "packet")),
        (("--qc",), checkpoint.qc_outcomes()),
        (("--completeness", "day"), checkpoint.completeness("day")),
        (("--by", "action", "--every", "month"), checkpoint.count_by("action", every="month")),
        (("--every", "day"), checkpoint.count_by(every="day")),
        (("--where", "center_label=alpha", "--where", "center_label=beta", "--by", "center_label"),
         checkpoint.center("alpha", "beta").count_by("center_label")),
        (("--where", "packet=I", "--where", "packet=", "--by", "packet"), checkpoint.packet("I", None).count_by("packet")),
        (("--from", "visit_date=2026-01-02", "--before", "visit_date=2026-01-04", "--by", "visit_date"),
         checkpoint.visited("2026-01-02", "2026-01-04").count_by("visit_date")),
    ):  # fmt: skip
        assert expected, words
        assert json.loads(command("query", events, *words, "--format", "json").stdout) == expected, words
    refused = command("query", events, "--every", "day", "--qc")
    assert (refused.returncode, "--every goes with --by" in refused.stderr) == (1, True)
    assert "expected column=value" in command("query", events, "--from", "visit_date").stderr
    sql = command("query", events, "--sql", "SELECT 1 AS one", "--format", "csv").stdout
    assert sql == "one\n1\n"


def test_a_terminal_shows_a_table_or_where_that_is_too_wide_a_line_for_each_value(monkeypatch, capsys):
    from headgate.cli._checkpoint import _show

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    _show([{"center": "[b]x", "ok": True, "id": 12345, "count": 12345, "share": 2 / 3, "none": None}], "table")
    shown = capsys.readouterr().out
    assert all(cell in shown for cell in ("[b]x", "True", " 12345 ", "12,345", "0.6667"))
    assert "None" not in shown
    _show([{"center": "[b]x", "note": "word " * 20}], "table")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1 ")
    assert lines[1] == "center  [b]x"
    assert lines[2].startswith("note    word word")
    for form, out in (("table", ""), ("csv", ""), ("json", "[]\n")):
        _show([], form)
        assert capsys.readouterr().out == out


def test_the_time_of_other_schemas_is_known(tmp_path):
    table = pa.table({
        "name": ["a", "b", "a"], "seen": pa.array([3, 2, 1], pa.timestamp("us", "UTC")),
        "at": pa.array([1, 2, 3], pa.timestamp("us", "UTC")),
    })  # fmt: skip
    path = tmp_path / "t.parquet"
    pq.write_table(table, path, sorting_columns=[pq.SortingColumn(2)])
    checkpoint = Checkpoint.read(path)
    assert checkpoint.sort_by == "at"
    assert checkpoint.get_last_processed_timestamp() == datetime(1970, 1, 1, 0, 0, 0, 3, UTC)
    assert [row["at"].microsecond for row in checkpoint.latest_per("name").dataframe().to_pylist()] == [2, 3]
    assert checkpoint.filter(name="a").count_by(every="year") == [{"year": "1970", "count": 2}]
    assert checkpoint.latest_per("name", by="seen").sort_by == "at"
    read = Checkpoint.read(path)
    assert len(read.dataframe()) == 3
    assert read.filter(name="a").sort_by == "at"
    shown = command("query", path, "--since", "1970-01-01T00:00:00.000002", "--by", "name", "--format", "json").stdout
    assert json.loads(shown) == [{"name": "a", "count": 1}, {"name": "b", "count": 1}]
    assert Checkpoint(table).sort_by == "seen"
    assert Checkpoint(table.select(["name"])).sort_by == ""
    with pytest.raises(InvalidInputError, match="not sorted by a time"):
        Checkpoint(table.select(["name"])).count_by(every="day")


def test_verify_and_the_reject_store_on_the_command_line(tmp_path):
    wave = write_wave(tmp_path / "logs", 100)
    target = tmp_path / "e.parquet"
    run = command("checkpoint", tmp_path / "logs", target, "--settle", "0", "--schema", "visits")
    assert run.returncode == 0
    assert f"{wave.good} new rows" in run.stderr
    assert json.loads(run.stdout)["rows_total"] == wave.good
    digest = run.stderr.split("(", 1)[1][:12]
    shown = command("dlq", "show", digest, "--target", target)
    assert json.loads(shown.stdout)[0]["key"].endswith(".json")
    assert command("dlq", "show", "0" * 12, "--target", target).returncode == 1
    assert command("dlq", "show", "xyz", "--target", target).returncode == 1
    fine = command("verify", target, tmp_path / "logs")
    assert (fine.returncode, json.loads(fine.stdout)["ok"]) == (0, True)
    next((tmp_path / "logs").glob("log-*.json")).write_text("{}")
    differs = command("verify", target, tmp_path / "logs")
    assert differs.returncode == 3
    assert "other content" in differs.stderr
    again = command("checkpoint", tmp_path / "logs", target, "--settle", "0", "--schema", "visits", "--dry-run")
    assert "would be in" in again.stderr
    assert (
        command("checkpoint", tmp_path / "logs", target, "--settle", "0", "--schema", "visits", "--rescan").returncode
        == 0
    )
    with pytest.raises(NotFoundError):
        verify(tmp_path / "none.parquet")


def test_counts_are_lists_that_show_a_table_and_speak_arrow():
    import json

    import pyarrow as pa

    from headgate.checkpoint._rows import Rows

    rows = Rows([{"action": "<b>", "packet": None, "count": 2}, {"action": "x", "packet": "I", "count": 1}])
    assert json.loads(json.dumps(rows)) == rows == list(rows)
    assert pa.RecordBatchReader.from_stream(rows).read_all().to_pylist() == rows
    shown = rows._repr_html_()
    assert "<td>&lt;b&gt;</td><td></td><td>2</td>" in shown
    assert Rows()._repr_html_().startswith("<table>")


@pytest.mark.parametrize("value", ["=1+1", "+1", "-1", "@x", "\t=1", "  =1", "=cmd|' /C calc'!A0"])
def test_csv_cells_are_no_formulas_unless_they_are_asked_for(events, value):
    sql = ("query", events, "--format", "csv", "--sql", f"SELECT {literal(value)} AS a, -1 AS n, 'plain' AS p")
    assert cells(command(*sql).stdout) == [["a", "n", "p"], [f"'{value}", "-1", "plain"]]
    assert cells(command(*sql, "--formulas").stdout) == [["a", "n", "p"], [value, "-1", "plain"]]


def literal(value):
    return "chr(" + ") || chr(".join(str(ord(c)) for c in value) + ")"


def cells(text):
    return list(csv.reader(io.StringIO(text, newline="")))


def test_what_controls_a_terminal_is_shown_and_not_obeyed(events):
    sql = ("query", events, "--sql", "SELECT chr(27) || '[31mred' || chr(10) || 'x' || chr(155) AS a")
    assert command(*sql).stdout == "a\n\\x1b[31mred\\nx\\x9b\n"
    assert json_text({"a": "é\x9b\u202e\x7f\n"}) == '{\n  "a": "é\\u009b\\u202e\\u007f\\n"\n}'
