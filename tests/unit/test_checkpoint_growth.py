"""Files of lines that grow, are rotated or begin anew; files of the future; and another source."""

from __future__ import annotations

import gzip
import json
import os
import time
from typing import Any

import pytest

from headgate.checkpoint import Checkpoint, update, verify
from headgate.cli import main
from headgate.errors import InvalidInputError


def line(n: int) -> str:
    return json.dumps({"n": n}) + "\n"


def lines(*numbers: int) -> str:
    return "".join(map(line, numbers))


@pytest.fixture
def logs(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder


@pytest.fixture
def run(logs, target):
    def take(**options: Any) -> Any:
        found = update(logs, target, schema="infer", settle_s=0, **options)
        assert found.adds_up() == []
        return found

    return take


def numbers(target: str) -> list[int]:
    return sorted(row["n"] for row in Checkpoint.read(target).select("n").to_pylist())


def is_whole(target: str, logs: Any) -> bool:
    return verify(target, logs, schema="infer").differences == []


@pytest.mark.parametrize("name", ["app.jsonl", "app.jsonl.1.jsonl"])
@pytest.mark.parametrize("end", ["\n", ""])
def test_lines_that_are_added_come_alone(run, logs, target, name, end):
    (logs / name).write_text(lines(1, 2).rstrip("\n") + end)
    run()
    (logs / name).write_text(lines(1, 2, 3))
    found = run()
    assert (found.grown, found.changed, found.records, found.rows_added) == (1, 0, 1, 1)
    (logs / name).write_text(lines(1, 2, 3, 4, 5).rstrip("\n"))
    assert run().rows_added == 2
    assert numbers(target) == [1, 2, 3, 4, 5]
    assert is_whole(target, logs)
    assert run().known == 1


def test_a_rotation_takes_each_line_once(run, logs, target):
    (logs / "app.jsonl").write_text(lines(1, 2))
    run()
    with (logs / "app.jsonl").open("a") as log:
        log.write(line(3))
    (logs / "app.jsonl").rename(logs / "app.1.jsonl")
    (logs / "app.jsonl").write_text(lines(4))
    found = run()
    assert (found.moved, found.rows_added) == (1, 2)
    with (logs / "app.jsonl").open("a") as log:
        log.write(line(5))
    (logs / "app.1.jsonl").rename(logs / "app.2.jsonl")
    (logs / "app.jsonl").rename(logs / "app.1.jsonl")
    (logs / "app.jsonl").write_text(lines(6))
    assert run().rows_added == 2
    assert numbers(target) == [1, 2, 3, 4, 5, 6]
    assert is_whole(target, logs)
    assert run().taken_files == 0


def test_a_rotated_file_may_come_back_in_a_later_run_or_packed(run, logs, target):
    (logs / "app.jsonl").write_text(lines(1, 2))
    run()
    (logs / "app.1.jsonl.gz").write_bytes(gzip.compress(lines(1, 2, 3).encode()))
    (logs / "app.jsonl").unlink()
    assert run().rows_added == 1
    (logs / "app.jsonl").write_text(lines(4))
    assert run().rows_added == 1
    (logs / "app.1.jsonl.gz").rename(logs / "app.2.jsonl.gz")
    assert run().rows_added == 0
    assert numbers(target) == [1, 2, 3, 4]
    assert is_whole(target, logs)


def test_a_copy_beside_its_original_is_a_file_of_its_own(run, logs, target):
    (logs / "a.jsonl").write_text(lines(1))
    run()
    (logs / "b.jsonl").write_text(lines(1))
    assert run().rows_added == 1
    (logs / "c.jsonl").write_text(lines(1))
    assert run(rescan=True).rows_added == 1
    assert numbers(target) == [1, 1, 1]


def test_lines_that_begin_anew_are_left_out_by_name(run, logs, target):
    (logs / "app.jsonl").write_text(lines(1, 2, 3))
    (logs / "other.jsonl").write_text(lines(7))
    run()
    (logs / "app.jsonl").write_text(lines(2, 3, 4))
    (logs / "other.jsonl").write_text(lines(7, 8))
    found = run()
    assert (found.unreadable, found.complete, found.rows_added) == (1, False, 1)
    assert [(one.name, one.problems) for one in found.unread] == [("app.jsonl", [("", "rewritten")])]
    found = run()  # alone
    assert (found.unreadable, found.read_problems) == (1, {"rewritten": 1})
    assert numbers(target) == [1, 2, 3, 7, 8]
    assert run(take_rewritten=True).changed == 1
    assert numbers(target) == [1, 2, 2, 3, 3, 4, 7, 8]
    assert is_whole(target, logs)


def test_documents_keep_their_versions(run, logs, target):
    (logs / "a.json").write_text('{"n": 1}')
    run()
    (logs / "a.json").write_text('{\n  "n": 2\n}\n')
    assert run().changed == 1
    assert numbers(target) == [1, 2]


def test_a_torn_last_line_comes_once_it_is_whole(run, logs, target):
    log = logs / "app.jsonl"
    log.write_text(lines(1, 2) + '{"n": 3')
    found = run()
    assert (found.rows_added, found.rejected_records) == (2, 1)
    assert is_whole(target, logs)
    log.write_text(lines(1, 2) + '{"n": 33}\n')
    found = run()
    assert (found.grown, found.rows_added, found.rejected_records) == (1, 1, 0)
    assert numbers(target) == [1, 2, 33]
    assert is_whole(target, logs)


def test_a_torn_last_line_that_has_come_in_is_not_taken_once_more(run, logs, target):
    log = logs / "app.jsonl"
    log.write_text(lines(1, 2) + '{"n": 3')
    run()
    log.write_text(lines(1, 2, 3))
    run()
    for _ in range(2):
        assert run(retry_rejected=True).rows_added == 0
    assert numbers(target) == [1, 2, 3]


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ('[{"n": 3}, null]', [1, 2, 3, 4]),
        ('[null, {"n": 3}]', [1, 2, 3, 4]),
        ('[{"n": 3}, {"n"', [1, 2, 4]),
        ('{"n": 3} {"n": ', [1, 2, 4]),
        ('{\n"n": 3}\n{"n": 5} {"n":', [1, 2, 3, 4]),
    ],
)
def test_no_record_of_an_open_last_line_is_taken_twice(run, logs, target, last, expected):
    log = logs / "app.jsonl"
    log.write_text(lines(1, 2) + last)
    run()
    assert is_whole(target, logs)
    log.write_text(lines(1, 2) + last + "\n" + line(4))
    assert list(run().unread) == []
    assert numbers(target) == expected
    assert is_whole(target, logs)


@pytest.mark.parametrize("name", ["app.json", "app.log", "APP.NDJSON", "app.geojson"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lines_are_told_by_what_is_in_a_file(run, logs, target, name, mark):
    (logs / name).write_text(mark + lines(1, 2))
    run()
    (logs / name).write_text(mark + lines(1, 2, 3))
    assert (run().grown, numbers(target)) == (1, [1, 2, 3])
    (logs / name).write_text(mark + lines(2, 3, 4))
    assert run().read_problems == {"rewritten": 1}
    assert numbers(target) == [1, 2, 3]


# What was there when a file was read while it was written, and what it became.
WRITTEN_MEANWHILE = {
    "a document": ('{\n  "n": 1,\n', '{\n  "n": 1,\n  "m": 2\n}\n', [1]),
    "an array": ('[{"n": 1},\n', '[{"n": 1},\n{"n": 2}\n]\n', [1, 2]),
    "documents over several lines": ('{\n"n": 1\n}\n{\n', '{\n"n": 1\n}\n{\n"n": 2\n}\n', [1, 2]),
    "an array on a line": ('[{"n": 1}, {"n": 2}]\n', '[{"n": 1}, {"n": 2}]\n[{"n": 3}]\n', [1, 2, 3]),
}


@pytest.mark.parametrize("what", WRITTEN_MEANWHILE)
def test_what_was_read_while_it_was_written_comes_in_once(run, logs, target, what):
    before, after, expected = WRITTEN_MEANWHILE[what]
    (logs / "a.json").write_text(before)
    (logs / "z.json").write_text('{"n": 9}')
    run()
    (logs / "a.json").write_text(after)
    found = run()
    assert (found.taken_files, found.rejected_records, numbers(target)) == (1, 0, [*expected, 9])
    for options in ({"rescan": True}, {"retry_rejected": True}):
        assert run(**options).rows_added == 0
    assert is_whole(target, logs)


def test_a_log_of_text_that_comes_to_be_one_of_objects_loses_none(run, logs, target):
    (logs / "a.log").write_text("started\n" * 5 + lines(1, 2))
    (logs / "z.json").write_text('{"n": 9}')
    assert run().rejected_records == 1
    (logs / "a.log").write_text("started\n" * 5 + lines(*range(1, 9)))
    assert run().rejected_records == 5
    assert numbers(target) == list(range(1, 10))


def test_records_of_documents_on_lines_that_are_added_come_alone(run, logs, target):
    (logs / "a.jsonl").write_text('{"R": [{"n": 1}, {"n": 2}]}\n')
    run(records="R")
    (logs / "a.jsonl").write_text('{"R": [{"n": 1}, {"n": 2}]}\n{"R": [{"n": 3}, {"n": 4}]}\n')
    found = run()
    assert (found.grown, found.records, numbers(target)) == (1, 2, [1, 2, 3, 4])


def test_a_file_that_was_empty_grows(run, logs, target):
    (logs / "a.jsonl").write_text(lines(1))
    (logs / "b.jsonl").write_text("")
    run()
    (logs / "b.jsonl").write_text(lines(2))
    assert run().rows_added == 1
    assert numbers(target) == [1, 2]


def test_a_large_file_grows_in_pieces(run, logs, target):
    (logs / "app.jsonl").write_text(lines(*range(20_000)))
    run()
    (logs / "app.jsonl").write_text(lines(*range(60_000)))
    assert run().rows_added == 40_000
    assert numbers(target) == list(range(60_000))


def test_a_time_ahead_of_the_clock_does_not_keep_a_file_waiting(logs, target):
    now = time.time()
    for name, age in (("old", 3600), ("young", 0), ("soon", -1), ("future", -86_400 * 365)):
        (logs / f"{name}.json").write_text('{"n": 1}')
        os.utime(logs / f"{name}.json", (now - age, now - age))
    found = update(logs, target, schema="infer", settle_s=1000)
    assert (found.taken_files, found.deferred, found.adds_up()) == (2, 2, [])


def test_another_source_is_refused_by_name(run, logs, target, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    (logs / "0.json").write_text('{"n": 1}')
    (other / "0.json").write_text('{"n": 2}')
    run()
    for dry_run in (False, True):
        with pytest.raises(InvalidInputError, match=f"is fed from {logs}, not from {other}"):
            update(other, target, schema="infer", settle_s=0, dry_run=dry_run)
    assert update(other, target, schema="infer", settle_s=0, other_source=True).rows_total == 2
    update(logs, target, schema="infer", settle_s=0)  # both are known now
    monkeypatch.chdir(tmp_path)
    assert update("other/../logs/", target, schema="infer", settle_s=0).listed == 1


def test_the_command_says_how_to_take_what_begins_anew(logs, target, capsys):
    for text in (lines(1, 2), lines(2, 3)):
        (logs / "app.jsonl").write_text(text)
        main(["checkpoint", str(logs), target, "--schema", "infer", "--settle", "0"])
    assert "--take-rewritten takes all of it" in capsys.readouterr().err
    assert main(["checkpoint", str(logs), target, "--schema", "infer", "--settle", "0", "--take-rewritten"]) == 0
    assert numbers(target) == [1, 2, 2, 3]
