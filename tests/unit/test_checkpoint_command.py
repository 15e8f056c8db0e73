"""`headgate checkpoint`, `query` and `verify` as a terminal, a script and cron see them."""

from __future__ import annotations

import gzip
import json

import pytest

from headgate.cli import main
from headgate.errors import Kind

ONE = '{"n": 1, "ts": 1588205098.123456}'
NAMES = ["a\rrejected other.json (ffffffffffff) at byte 0: n: type\r.json", "\x1b[31mred.json", "\u202egood.json"]


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


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ([], 0), (["--max-rejects", "2"], 0), (["--max-rejects", "1"], 4), (["--max-rejects", "0"], 4), (["--strict"], 4),
    ],
)  # fmt: skip
def test_exit_codes_of_rejected_records(tmp_path, capsys, options, code):
    source = files(tmp_path / "src", a__jsonl=f"{ONE}\nx\n{ONE}\ny\n")
    found, out, err = run(
        capsys, "checkpoint", source, tmp_path / "o.parquet", "--schema", "infer", "--settle", "0", *options
    )
    assert (found, json.loads(out)["rows_added"]) == (code, 2)  # the good ones are committed all the same
    assert ("2 records were rejected, more than" in err) == bool(code)


def test_exit_codes_of_runs_that_leave_something_for_the_next_one(tmp_path, capsys, monkeypatch):
    from headgate.cli import _checkpoint as command

    source = files(tmp_path / "src", a__json=ONE)
    assert (
        run(capsys, "checkpoint", source, tmp_path / "o.parquet", "--schema", "infer", "--settle", "0", "--strict")[0]
        == 0
    )
    files(source, b__json=ONE)
    late = ["checkpoint", source, tmp_path / "o.parquet", "--schema", "infer", "--settle", "3600"]
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


def test_a_run_for_which_every_name_is_of_another_kind_fails(tmp_path, capsys):
    source = files(tmp_path / "src", a__csv="1", b__txt="2")
    code, _, err = run(capsys, "checkpoint", source, tmp_path / "o.parquet", "--schema", "visits")
    assert (code, "nothing was read" in err, "of another kind" in err) == (1, True, True)
    assert not (tmp_path / "o.parquet").exists()
    (source / "a.csv").unlink()
    (source / "b.txt").unlink()
    assert run(capsys, "checkpoint", source, tmp_path / "o.parquet", "--schema", "visits")[0] == 0


def test_a_model_beside_the_command_is_found(tmp_path, capsys, monkeypatch):
    import sys

    (tmp_path / "beside_the_command.py").write_text(
        "from pydantic import BaseModel\n\n\nclass Ev(BaseModel):\n    n: int\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    files(tmp_path / "src", a__json='{"n": 1}')
    assert run(capsys, "checkpoint", "src", "o.parquet", "--settle", "0", "--schema", "beside_the_command:Ev")[0] == 0


@pytest.mark.parametrize("padding", [0, 1, 700])
def test_gzip_padded_with_zeros_is_unpacked_as_gzip_does(padding):
    from headgate._native import parquet

    one, two = gzip.compress(b'{"n": 1}\n'), gzip.compress(b'{"n": 2}\n')
    packed = one + bytes(padding) + two + bytes(padding)
    assert parquet().unpack("a.jsonl.gz", packed, 10_000) == gzip.decompress(packed) == b'{"n": 1}\n{"n": 2}\n'
