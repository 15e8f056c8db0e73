"""`headgate checkpoint`, `query` and `verify` as a terminal, a script and cron see them."""

from __future__ import annotations

import gzip
import json

import pytest

from headgate.cli import main
from headgate.errors import Kind

ONE = '{"n": 1, "ts": 1588205098.123456}'
NAMES = [
    "a\nrejected other.json (ffffffffffff) at byte 0: n: type\n.json", "\x1b[31mred.json", "\u202egood.json",
    "a\rrejected other.json (ffffffffffff) at byte 0: n: type\r.json",
]  # fmt: skip


def files(folder, **bodies):
    """A folder with these files; a dot in a name is written as __."""
    folder.mkdir(exist_ok=True)
    for name, body in bodies.items():
        (folder / name.replace("__", ".")).write_bytes(body if isinstance(body, bytes) else body.encode())
    return folder


def run(capsys, *arguments):
    """(exit code, standard output, standard error)"""
    code = main([str(a) for a in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def visits(tmp_path):
    """A folder of files that are rejected, under names that try to forge lines."""
    folder = tmp_path / "src"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_text("[1]")
    return folder


def test_no_file_name_forges_a_line_or_reaches_the_terminal(tmp_path, capsys, visits):
    (visits / "good.json").write_text('{"n": 1, "text": "\\u001b[31m\\nred\\t"}')
    code, _, err = run(capsys, "checkpoint", visits, tmp_path / "o.parquet", "--schema", "infer", "--settle", "0")
    assert code == 0
    lines = [line for line in err.split("\n") if line.startswith("rejected ")]
    assert len(lines) == len(NAMES)
    assert not set("\x1b\r\u202e") & set(err)
    for form in ([], ["--format", "json"]):
        code, out, _ = run(capsys, "query", tmp_path / "o.parquet", "--rows", "5", *form)
        assert (code, "\x1b" in out) == (0, False)
        assert r"[31m\nred\t" in out
    code, out, _ = run(capsys, "query", tmp_path / "o.parquet", "--rows", "5")
    assert len(out.splitlines()) == 2  # a heading and a row


def test_an_error_that_names_a_folder_is_one_line(tmp_path, capsys):
    code, _, err = run(capsys, "checkpoint", tmp_path / "a\nheadgate: forged\x1b[2J", tmp_path / "o.parquet")
    assert (code, err.count("\n"), "\x1b" in err) == (1, 1, False)
    assert Kind.NOT_FOUND.value in err


@pytest.mark.parametrize("terminal", [True, False])
def test_lines_about_rejected_records_are_capped_on_a_terminal(tmp_path, capsys, monkeypatch, terminal):
    source = files(tmp_path / "src", a__jsonl='{"n": 1}\n' + "x\n" * 300)
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    _, out, err = run(
        capsys, "checkpoint", source, tmp_path / "o.parquet", "--schema", "infer", "--settle", "0", "--quiet"
    )
    assert json.loads(out)["rejected_records"] == 300
    lines = err.splitlines()
    assert len([line for line in lines if line.startswith("rejected ")]) == (20 if terminal else 300)
    assert any("280 more rejected records" in line for line in lines) == terminal


def test_a_run_for_which_every_name_is_of_another_kind_fails(tmp_path, capsys):
    source = files(tmp_path / "src", a__csv="1", b__txt="2")
    for options in (["--schema", "visits"], [], ["--names", "*.json"]):
        code, _, err = run(capsys, "checkpoint", source, tmp_path / "o.parquet", *options)
        assert (code, "of another kind" in err, "--names" in err) == (1, True, True), options
        assert not (tmp_path / "o.parquet").exists()
    files(source, c__json=ONE)
    assert run(capsys, "checkpoint", source, tmp_path / "o.parquet", "--settle", "0")[0] == 0
    (source / "c.json").unlink()
    code, _, err = run(capsys, "checkpoint", source, tmp_path / "o.parquet")  # also when there is a table
    assert (code, "nothing was read" in err) == (1, True)
    (source / "a.csv").unlink()
    (source / "b.txt").unlink()
    assert run(capsys, "checkpoint", source, tmp_path / "o.parquet")[0] == 0  # an empty folder is no mistake


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ([], 0), (["--max-rejects", "2"], 0), (["--max-rejects", "1"], 4), (["--max-rejects", "0"], 4), (["--strict"], 4),
    ],
)  # fmt: skip
def test_exit_codes_of_rejected_records(tmp_path, capsys, options, code):
    source = files(tmp_path / "src", a__jsonl=f"{ONE}\nx\n{ONE}\ny\n")
    found, out, err = run(capsys, "checkpoint", source, tmp_path / "o.parquet", "--settle", "0", *options)
    assert (found, json.loads(out)["rows_added"]) == (code, 2)  # the good ones are committed all the same
    assert ("2 records were rejected, more than" in err) == bool(code)


def test_exit_codes_of_runs_that_leave_something_for_the_next_one(tmp_path, capsys, monkeypatch):
    from headgate.cli import _checkpoint as command

    source = files(tmp_path / "src", a__json=ONE)
    assert run(capsys, "checkpoint", source, tmp_path / "o.parquet", "--settle", "0", "--strict")[0] == 0
    files(source, b__json=ONE)
    late = ["checkpoint", source, tmp_path / "o.parquet", "--settle", "3600"]
    assert run(capsys, *late)[0] == 0
    code, _, err = run(capsys, *late, "--strict")
    assert (code, "1 files wait for the next run" in err) == (5, True)

    class Options:
        strict, max_rejects, source, schema = False, None, "s", None

    from headgate.checkpoint import CheckpointRun

    numbers = dict.fromkeys(CheckpointRun._fields, 0) | {
        "complete": False,
        "listed": 3,
        "unreadable": 1,
        "taken_files": 2,
    }
    assert command._verdict(CheckpointRun(**numbers), Options)[0] == 5  # access to one file was refused
    assert command._verdict(CheckpointRun(**numbers | {"listed": 9}), Options)[0] == 3


def test_the_schema_is_that_of_the_target(tmp_path, capsys, visits):
    from headgate.testing.visits import write_wave

    wave = write_wave(tmp_path / "logs", 30)
    target = tmp_path / "e.parquet"
    assert run(capsys, "checkpoint", tmp_path / "logs", target, "--schema", "visits", "--settle", "0")[0] == 0
    code, out, _ = run(capsys, "checkpoint", tmp_path / "logs", target, "--settle", "0")
    assert (code, json.loads(out)["rows_total"]) == (0, wave.good)
    assert run(capsys, "verify", target, tmp_path / "logs")[0] == 0
    files(tmp_path / "src2", a__json=ONE)
    inferred = tmp_path / "i.parquet"
    assert run(capsys, "checkpoint", tmp_path / "src2", inferred, "--settle", "0")[0] == 0
    assert run(capsys, "verify", inferred, tmp_path / "src2")[0] == 0
    code, _, err = run(capsys, "checkpoint", tmp_path / "src2", inferred, "--schema", "visits", "--settle", "0")
    assert (code, "holds records of schema 'records', not 'visits'" in err) == (1, True)


def test_a_model_beside_the_command_is_found_and_asked_for_again(tmp_path, capsys, monkeypatch):
    import sys

    (tmp_path / "beside_the_command.py").write_text(
        "from pydantic import BaseModel\n\n\nclass Ev(BaseModel):\n    n: int\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    files(tmp_path / "src", a__json='{"n": 1}')
    arguments = ["checkpoint", "src", "o.parquet", "--settle", "0"]
    assert run(capsys, *arguments, "--schema", "beside_the_command:Ev")[0] == 0
    for again in (arguments, ["verify", "o.parquet"]):
        code, _, err = run(capsys, *again)
        assert (code, "holds records of the model ev; name it (--schema module:Model" in err) == (1, True)


def test_names_of_files_by_glob_and_by_regular_expression(tmp_path, capsys):
    source = files(tmp_path / "src", **{"a.log.1": ONE, "b.log.2": ONE, "c.json": ONE, "d+e.txt": ONE, "ü.x": ONE})
    for n, (names, expected) in enumerate({
        "*.log.*": 2, "*.log.[!1]": 1, "{a,c}.*": 2, "?.json": 1, "d+e.txt": 1, "*": 5, r".+\.log\.[0-9]": 2, r".*\.x": 1, ".*": 5,
        "(a|b).log.1": 1,
    }.items()):  # fmt: skip
        _, out, _ = run(capsys, "checkpoint", source, tmp_path / f"{n}.parquet", "--names", names, "--settle", "0")
        assert json.loads(out)["taken_files"] == expected, names
    for wrong in ("", "a/*.json", "*.json.gz", "(", "ü.*"):
        code, _, err = run(capsys, "checkpoint", source, tmp_path / "w.parquet", "--names", wrong)
        assert (code, "headgate: names: " in err) == (1, True), wrong


def test_times_as_numbers_sort_and_narrow(tmp_path, capsys):
    rows = [{"ts": 1588205098.123456, "n": 1}, {"ts": 1588291498, "n": 2}, {"ts": "1588205098.5", "n": 3}]
    source = files(tmp_path / "src", a__jsonl="\n".join(map(json.dumps, rows)))
    target = tmp_path / "o.parquet"
    assert run(capsys, "checkpoint", source, target, "--time", "ts=s", "--settle", "0")[0] == 0
    _, out, _ = run(capsys, "query", target, "--every", "day", "--format", "json")
    assert json.loads(out) == [{"day": "2020-04-30", "count": 2}, {"day": "2020-05-01", "count": 1}]
    _, out, _ = run(capsys, "query", target, "--until", "2020-04-30T00:04:58.123457Z")
    assert out.split() == ["count", "1"]
    _, out, _ = run(capsys, "query", target, "--latest", "_rest", "--format", "json")
    assert json.loads(out)[0]["n"] == 2
    for wrong, says in {"ts": "expected FIELD=UNIT", "ts=h": "expected one of s, ms, us, ns", "no=s": "has a field 'no'",
                        "n=ns": ""}.items():  # fmt: skip
        code, _, err = run(
            capsys, "checkpoint", source, tmp_path / f"{wrong}.parquet", "--time", wrong, "--settle", "0"
        )
        assert (code, says in err) == (1 if says else 0, True), wrong


def test_digits_beyond_microseconds_are_kept(tmp_path, capsys):
    source = files(
        tmp_path / "src", a__jsonl='{"at": 1588205098123456789}\n{"at": 1588205098123456000}\n{"at": -1}\n{"at": 9e30}'
    )
    target = tmp_path / "o.parquet"
    _, out, _ = run(capsys, "checkpoint", source, target, "--time", "at=ns", "--settle", "0")
    assert json.loads(out)["drifted"] == 3
    _, out, _ = run(capsys, "query", target, "--rows", "9", "--format", "json")
    found = {row["_rest"]: row["at"] for row in json.loads(out)}
    assert found == {
        '{"at":1588205098123456789}': "2020-04-30 00:04:58.123456+00:00", None: "2020-04-30 00:04:58.123456+00:00",
        '{"at":-1}': "1969-12-31 23:59:59.999999+00:00", '{"at":9e+30}': None,
    }  # fmt: skip


def test_the_file_of_every_record(tmp_path, capsys):
    (tmp_path / "src").mkdir()
    files(tmp_path / "src" / "day1", a__json='{"n": 1, "filename": "own"}')
    files(tmp_path / "src" / "day2", a__json='[{"n": 2}, {"n": 3}]')
    target = tmp_path / "o.parquet"
    assert run(capsys, "checkpoint", tmp_path / "src", target, "--file-name", "--settle", "0")[0] == 0
    _, out, _ = run(capsys, "query", target, "--rows", "9", "--format", "json")
    assert [(r["n"], r["filename"], r["_rest"]) for r in json.loads(out)] == [
        (1, "day1/a.json", '{"filename":"own"}'), (2, "day2/a.json", None), (3, "day2/a.json", None)]  # fmt: skip
    assert run(capsys, "checkpoint", tmp_path / "src", target, "--settle", "0")[0] == 0  # remembered
    code, _, err = run(capsys, "checkpoint", tmp_path / "src", target, "--file-name", "source", "--settle", "0")
    assert (code, "was made with filename, not with source" in err) == (1, True)


@pytest.mark.parametrize(
    ("path", "body", "rows", "problems"),
    [
        ("Records", '{"Records": [{"n": 1}, {"n": 2}], "more": 1}', [1, 2], {}),
        ("a.b", '{"a": {"b": [{"n": 1}]}}\n{"a": {"b": [{"n": 2}]}}', [1, 2], {}),
        ("a.b", '[{"a": [{"b": [{"n": 1}]}, {"b": [{"n": 2}, 3]}]}]', [1, 2], {"type": 1}),
        ("/a.b/c~1d", '{"a.b": {"c/d": [{"n": 1}]}}', [1], {}),
        ("Records", '{"R\\u0065cords": [{"n": 1}]}', [1], {}),
        ("Records", '{"records": [{"n": 1}]}\n{"Records": [{"n": 2}]}', [2], {"records": 1}),
        (
            "Records",
            '{"Records": {"n": 1}}\n{"Records": null}\n{"Records": []}\n{"Records": [{"n": 2}]}',
            [2],
            {"records": 2},
        ),
        ("Records", '{"Records": [{"n": 1}], "Records": []}\n{"Records": [{"n": 2}]}', [2], {"duplicate": 1}),
        ("Records", '{"Records": [{"n": 1}, {"n": tru}], "x": ', [], {"json": 1}),
    ],
)
def test_records_of_a_wrapper(tmp_path, capsys, path, body, rows, problems):
    source = files(
        tmp_path / "src",
        a__json=body,
        z__json='{"Records": [{"n": 9}], "a": {"b": [{"n": 9}]}, "a.b": {"c/d": [{"n": 9}]}}',
    )
    target = tmp_path / "o.parquet"
    code, out, _ = run(capsys, "checkpoint", source, target, "--records", path, "--settle", "0")
    assert (code, json.loads(out)["problems"]) == (0, problems)
    _, out, _ = run(capsys, "query", target, "--rows", "9", "--format", "json")
    assert sorted(row["n"] for row in json.loads(out)) == [*rows, 9]
    code, _, err = run(capsys, "checkpoint", source, target, "--records", "other", "--settle", "0")
    assert (code, "records: " in err) == (1, True)


@pytest.mark.parametrize("schema", ["mine:Z"])
def test_the_same_for_a_model(tmp_path, capsys, monkeypatch, schema):
    (tmp_path / "mine.py").write_text(
        "from datetime import datetime\nfrom pydantic import BaseModel\n\n\nclass Z(BaseModel, extra='allow'):\n    ts: datetime\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    files(
        tmp_path / "src",
        a__log='{"x": [{"ts": 1588205098.5, "filename": 3}, {"ts": "2020-01-01T00:00Z"}, {"ts": true}]}',
    )
    options = [
        "--schema",
        schema,
        "--time",
        "ts=s",
        "--records",
        "x",
        "--file-name",
        "--names",
        "*.log",
        "--settle",
        "0",
    ]
    code, out, _ = run(capsys, "checkpoint", "src", "o.parquet", *options)
    assert (code, json.loads(out)["problems"]) == (0, {"type": 1})
    _, out, _ = run(capsys, "query", "o.parquet", "--rows", "9", "--format", "json")
    assert [(r["ts"][:21], r["filename"], r["_rest"]) for r in json.loads(out)] == [
        ("2020-04-30 00:04:58.5", "a.log", '{"filename":3}'), ("2020-01-01 00:00:00+0", "a.log", None)]  # fmt: skip
    assert run(capsys, "verify", "o.parquet", "src", "--schema", schema, "--file-name", "--names", "*.log")[0] == 0
    code, _, err = run(capsys, "checkpoint", "src", "p.parquet", "--schema", "visits", "--time", "ptid=s")
    assert (code, "'ptid' is not a datetime of the schema visits" in err) == (1, True)


def test_what_was_seen_instead_of_records_is_said(tmp_path, capsys):
    source = files(tmp_path / "src", a__json="[1, 2]", b__json='{"n":', c__json=b"\x1f\x8bno", d__json="[3]")
    code, _, err = run(capsys, "checkpoint", source, tmp_path / "o.parquet", "--settle", "0")
    assert code == 1
    for part in ("no record in 4 files", "3 records are no objects: type", "1 records are no objects: json", "packing"):
        assert part in err
    empty = files(tmp_path / "empty", a__jsonl="")
    assert "all of them are empty" in run(capsys, "checkpoint", empty, tmp_path / "o.parquet", "--settle", "0")[2]
    assert (
        "there is no file"
        in run(capsys, "checkpoint", (tmp_path / "n").mkdir() or tmp_path / "n", tmp_path / "o.parquet")[2]
    )


def test_questions_that_need_a_time_or_visits_say_so(tmp_path, capsys):
    source, target = files(tmp_path / "src", a__json=ONE), tmp_path / "o.parquet"
    assert run(capsys, "checkpoint", source, target, "--settle", "0")[0] == 0
    for options, says in ((["--since", "2020-01-01"], "no column of times"), (["--latest", "n"], "no column of times"),
                          (["--latest"], "these are no visits; name the columns, of n, ts")):  # fmt: skip
        code, _, err = run(capsys, "query", target, *options)
        assert (code, says in err) == (1, True), options


@pytest.mark.parametrize("padding", [0, 1, 700])
def test_gzip_padded_with_zeros_is_unpacked_as_gzip_does(padding):
    from headgate._native import parquet

    one, two = gzip.compress(b'{"n": 1}\n'), gzip.compress(b'{"n": 2}\n')
    packed = one + bytes(padding) + two + bytes(padding)
    assert parquet().unpack("a.jsonl.gz", packed, 10_000) == gzip.decompress(packed) == b'{"n": 1}\n{"n": 2}\n'
