"""What a checkpoint writes is never read as a source: its own files, and those of other targets."""

from __future__ import annotations

import pytest

from headgate.checkpoint import Checkpoint, update, verify


def targets(logs):
    pytest.importorskip("deltalake")
    return [str(logs / "out.parquet"), f"delta+file://{logs}/tab", str(logs / "deep" / "x.parquet")]


def test_targets_inside_a_source_are_no_part_of_it(logs):
    for target in targets(logs) * 3:
        update(logs, target, schema="infer", settle_s=0)
    for target in targets(logs):
        assert Checkpoint.read(target).dataframe().to_pylist() == [{"a": 1, "_rest": None}]
        report = verify(target, logs, schema="infer")
        assert (report.differences, report.checked_files) == ([], 2)


def test_a_target_is_no_source_whatever_its_name(logs):
    target = logs / "out.json"
    for _ in range(2):
        run = update(logs, target, schema="infer", settle_s=0)
        assert (run.rows_total, run.rejected_files) == (1, 1 if run.first_run else 0)


def test_a_link_to_the_source_hides_no_target(logs, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(logs)
    for _ in range(2):
        assert update(link, logs / "out.json", schema="infer", settle_s=0).rows_total == 1


def test_files_of_people_are_taken_from_folders_of_such_names(logs, tmp_path):
    (logs / "household.ledger").mkdir()
    (logs / "household.ledger" / "may.json").write_text('{"a": 2}')
    (logs / "household.ledger" / "rej-letter.jsonl").write_text('{"a": 3}\n')
    (logs / "out.json-notes.json").write_text('{"a": 4}')
    run = update(logs, logs / "out.json", schema="infer", settle_s=0)
    assert run.rows_total == 4
