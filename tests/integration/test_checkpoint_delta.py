"""Delta Lake tables as targets: the same rows as the file's, on disk and on a real S3 server, with racing writers."""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import boto3
import pytest

from headgate._native import set_faults
from headgate.checkpoint import Checkpoint, maintain, rejected, update, verify
from headgate.checkpoint._delta import DeltaPlace
from headgate.errors import (
    ConfigError,
    HeadgateError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    StorageFullError,
)
from headgate.pipelines.visits import VisitEvent, Visits
from headgate.testing.servers import S3Server
from headgate.testing.visits import write_wave

deltalake = pytest.importorskip("deltalake")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["file", "s3"])
def target(request, tmp_path, monkeypatch, start):
    if request.param == "file":
        return f"delta+file://{tmp_path}/table"
    server = start(lambda: S3Server(ROOT / ".servers" / "versitygw" / "versitygw"))
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    boto3.Session().client("s3").create_bucket(Bucket="tables")
    return "delta+s3://tables/events"


def multiset(checkpoint):
    return Counter(json.dumps(row, sort_keys=True, default=str) for row in checkpoint.dataframe().to_pylist())


def test_a_table_holds_the_rows_of_the_file(target, tmp_path):
    logs, file = tmp_path / "logs", tmp_path / "e.parquet"
    with pytest.raises(InvalidInputError, match="does not exist yet"):
        Checkpoint.read(target)
    for first, late in ((0, 0), (400, 20), (900, 5)):
        wave = write_wave(logs, 150, first=first, late=late, seed=first)
        one, two = update(logs, file, settle_s=0, schema="visits"), update(logs, target, settle_s=0, schema="visits")
        assert two.adds_up() == []
        assert (two.rows_added, two.rows_total, two.late_rows) == (wave.good, one.rows_total, one.late_rows)
        assert (two.problems, two.version) == (one.problems, one.version)
    assert multiset(Checkpoint.read(target)) == multiset(Checkpoint.read(file))
    again = update(logs, target, settle_s=0, schema="visits")
    assert (again.committed, again.taken_files, again.known) == (False, 0, two.known + two.taken_files)
    assert not update(logs, target, settle_s=0, dry_run=True, schema="visits").committed
    before = multiset(Checkpoint.read(target))
    assert maintain(target)["files_removed"] == 3
    assert multiset(Checkpoint.read(target)) == before
    assert update(logs, target, settle_s=0, schema="visits").taken_files == 0  # the ledger outlives the merge of files


def test_a_table_answers_as_the_file_does_and_as_of_its_version(target, tmp_path):
    logs, file = tmp_path / "logs", tmp_path / "e.parquet"
    for first in (0, 400, 900):
        write_wave(logs, 150, first=first, late=9, seed=first)
        update(logs, file, settle_s=0, row_group_rows=40, schema="visits")
        update(logs, target, settle_s=0, schema="visits")

    def answers(events):
        some = events.center("alpha", "beta").logged("2026-01-01T09:00:00")
        return (
            events.count_by("center_label", "action", "packet"), some.count_by("center_label", every="day"), len(some),
            events.count_by("pipeline_adcid"), some.qc_outcomes("module"), events.completeness("day"),
            some.completeness("day"), events.get_last_processed_timestamp(),
            multiset(events.action("submit").latest_per("center_label", "ptid")),
            len(events.visited("2030-01-01")), events.visited("2030-01-01").count_by("action"),
        )  # fmt: skip

    opened = Visits.read(target)
    expected = answers(Visits.read(file))
    assert answers(opened) == expected
    write_wave(logs, 150, first=2000)
    assert update(logs, target, settle_s=0, schema="visits").rows_added > 0
    assert answers(opened) == expected
    assert len(Visits.read(target)) > len(opened)


def test_a_table_can_be_checked(target, tmp_path):
    logs = tmp_path / "logs"
    with pytest.raises(NotFoundError, match="does not exist"):
        verify(target)
    for first in (0, 400):
        write_wave(logs, 120, first=first, seed=first)
        run = update(logs, target, settle_s=0, schema="visits")
    report = verify(target, logs)
    assert (report.ok, report.differences) == (True, [])
    assert report.rows == report.rows_in_footer == report.rows_in_ledger == run.rows_total
    assert (report.checked_files, report.version) == (report.ledger_entries, 2)
    assert verify(target).ok  # alone, without its source
    # What is not right is named.
    changed = next(logs.glob("log-submit-*.json"))
    changed.write_text(changed.read_text().replace('"gear_name"', ' "gear_name"'))
    write_wave(logs, 5, first=900, seed=9)
    report = verify(target, logs)
    assert (report.changed, report.pending > 0, len(report.differences)) == (1, True, 2)
    table = DeltaPlace(target).table()
    table.delete("action = 'submit'")
    report = verify(target)
    assert 0 < report.rows < report.rows_in_footer
    assert len(report.differences) == 2
    command = [sys.executable, "-m", "headgate", "verify", target]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["rows"] == report.rows


def test_what_no_append_names_is_removed_and_no_more(target, tmp_path, monkeypatch):
    logs = tmp_path / "logs"
    for first in (0, 400, 800):
        write_wave(logs, 60, first=first, seed=first)
        run = update(logs, target, settle_s=0, schema="visits")
    # A run that dies between its parts and its append leaves them behind.
    write_wave(logs, 20, first=2000, seed=4)
    with monkeypatch.context() as broken:
        broken.setattr("headgate.checkpoint._delta._append", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            update(logs, target, settle_s=0, schema="visits")
    place = DeltaPlace(target)
    before = len(place.parts_there())
    if place.s3 is None:  # listed, and gone when it is looked at: a link to nothing is so too
        Path(place.uri, "_headgate.ledger", "seg-gone.hgl").symlink_to(tmp_path / "nothing")
        assert len(place.parts_there()) == before
    assert maintain(target)["ledger_removed"] == 0  # all of it is young: a run may be at work
    removed = maintain(target, retention_h=0)["ledger_removed"]
    assert removed >= 4  # two manifests of the past, one that never was, and a segment at least
    assert len(place.parts_there()) == before - removed
    assert verify(target).ok
    again = update(logs, target, settle_s=0, schema="visits")
    assert (again.known, again.rows_total > run.rows_total) == (run.known + run.taken_files, True)
    assert verify(target, logs).ok


RACER = """
import sys
from headgate.checkpoint import update
print(update(sys.argv[1], sys.argv[2], schema="visits", settle_s=0, threads=1).rows_added)
"""


def test_racing_appends_lose_and_double_nothing(target, tmp_path):
    logs = tmp_path / "logs"
    first = write_wave(logs, 100)
    update(logs, target, settle_s=0, schema="visits")
    second = write_wave(logs, 200, first=1000, late=10, seed=5)
    command = [sys.executable, "-c", RACER, logs, target]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    added = [int(racer.communicate()[0]) for racer in racers]
    assert all(racer.returncode == 0 for racer in racers)
    assert (sum(added), sorted(added)[:5]) == (second.good, [0] * 5)
    assert len(Checkpoint.read(target)) == first.good + second.good


def test_racing_creators_make_one_table(tmp_path):
    logs, target = tmp_path / "logs", f"delta+file://{tmp_path}/table"
    wave = write_wave(logs, 100)
    command = [sys.executable, "-c", RACER, logs, target]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert sum(int(racer.communicate()[0]) for racer in racers) == wave.good
    assert len(Checkpoint.read(target)) == wave.good


def test_a_crash_before_the_append_is_taken_again(tmp_path, monkeypatch):
    logs, target = tmp_path / "logs", f"delta+file://{tmp_path}/table"
    first = write_wave(logs, 50)
    update(logs, target, settle_s=0, schema="visits")
    second = write_wave(logs, 50, first=1000, seed=5)
    from headgate.checkpoint import _delta

    with monkeypatch.context() as patch:
        patch.setattr(_delta, "_append", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            update(logs, target, settle_s=0, schema="visits")
    assert len(Checkpoint.read(target)) == first.good
    assert update(logs, target, settle_s=0, schema="visits").rows_added == second.good


def test_a_run_that_fails_takes_back_what_it_wrote(target, tmp_path):
    logs, place = tmp_path / "logs", DeltaPlace(target)
    for first in (0, 1000):
        before = set(place.parts_there())
        wave = write_wave(logs, 60, first=first, seed=first)
        set_faults("checkpoint.after_segments:fail:1")
        with pytest.raises(HeadgateError, match="fault injected"):
            update(logs, target, settle_s=0, schema="visits")
        assert set(place.parts_there()) == before
        set_faults("")
        assert update(logs, target, settle_s=0, schema="visits").rows_added == wave.good
        assert len(place.parts_there()) > len(before)


@pytest.mark.parametrize("there", [False, True])
def test_an_append_that_fails_keeps_only_what_may_be_named(tmp_path, monkeypatch, there):
    """On disk, where it is certain: what was appended after all, and built upon by another run, stays."""
    logs, target = tmp_path / "logs", f"delta+file://{tmp_path}/table"
    place, good = DeltaPlace(target), 0
    if there:
        good = write_wave(logs, 50).good
        update(logs, target, settle_s=0, schema="visits")
    good += write_wave(logs, 50, first=1000, seed=5).good
    before = set(place.parts_there())
    set_faults("delta.before_append:fail:1")
    with pytest.raises(HeadgateError, match="fault injected"):
        update(logs, target, settle_s=0, schema="visits")
    set_faults("")
    assert set(place.parts_there()) == before
    write = deltalake.write_deltalake

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    def appended_and_built_upon(*arguments, **options):
        write(*arguments, **options)
        monkeypatch.setattr(deltalake, "write_deltalake", write)
        write_wave(logs, 50, first=2000, seed=6)
        update(logs, target, settle_s=0, schema="visits")
        full()

    monkeypatch.setattr(deltalake, "write_deltalake", full)
    with pytest.raises(StorageFullError, match="table: No space left on device$"):
        update(logs, target, settle_s=0, schema="visits")
    assert set(place.parts_there()) == before
    monkeypatch.setattr(deltalake, "write_deltalake", appended_and_built_upon)
    with pytest.raises(HeadgateError, match="No space left"):
        update(logs, target, settle_s=0, schema="visits")
    run = update(logs, target, settle_s=0, schema="visits")
    assert (run.taken_files, run.committed) == (0, False)
    assert len(Checkpoint.read(target)) == run.rows_total > good
    assert verify(target, logs).ok


@pytest.mark.parametrize("point", [
    "checkpoint.after_segments", "checkpoint.before_commit", "checkpoint.after_commit", "delta.before_append",
    "delta.after_append",
])  # fmt: skip
def test_a_run_killed_at_every_point_leaves_the_old_or_the_new_one(target, tmp_path, point):
    logs, spill = tmp_path / "logs", tmp_path / "spill"
    command = [
        sys.executable,
        "-m",
        "headgate",
        "checkpoint",
        logs,
        target,
        "--settle",
        "0",
        "--spill-dir",
        spill,
        "--schema",
        "visits",
    ]
    good = 0
    for first in (0, 1000):
        wave = write_wave(logs, 60, first=first, seed=first)
        killed = subprocess.run(command, capture_output=True, env={**os.environ, "HEADGATE_FAULTS": f"{point}:kill:1"})
        assert killed.returncode == -9
        assert len(list(spill.iterdir())) == 1  # its temporary folder, which the next run removes
        committed = point == "delta.after_append"
        if committed or good:
            assert len(Checkpoint.read(target)) == good + (wave.good if committed else 0)
        run = update(logs, target, settle_s=0, spill_dir=spill, schema="visits")
        good += wave.good
        assert (run.rows_total, run.rows_added, run.adds_up()) == (good, 0 if committed else wave.good, [])
        assert len(Checkpoint.read(target)) == good
        assert list(spill.iterdir()) == []
    assert verify(target, logs).ok


def test_the_reject_store_of_a_table_resolves_digests(target, tmp_path):
    logs = tmp_path / "logs"
    with pytest.raises(NotFoundError, match="does not exist yet"):
        rejected(target, "0123456789ab")
    waves = [write_wave(logs, 120)]
    runs = [update(logs, target, settle_s=0, schema="visits")]
    waves.append(write_wave(logs, 60, first=400, seed=3))
    runs.append(update(logs, target, settle_s=0, schema="visits"))
    for wave, run in zip(waves, runs, strict=True):
        assert len(run.rejects) == wave.bad > 0
        for reject in run.rejects:
            (found,) = rejected(target, reject.digest)
            assert [(p["field"], p["kind"]) for p in found["problems"]] == reject.problems
            assert (logs / found["key"]).exists()
    command = [sys.executable, "-m", "headgate", "dlq", "show", runs[1].rejects[0].digest, "--target", target]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == rejected(target, runs[1].rejects[0].digest)


def test_inferred_schemas_keep_their_plan(tmp_path):
    logs, target = tmp_path / "logs", f"delta+file://{tmp_path}/table"
    logs.mkdir()
    (logs / "1.json").write_text('{"id": 1, "timestamp": "2024-01-01T00:00:00Z"}')
    update(logs, target, schema="infer", settle_s=0)
    (logs / "2.json").write_text('{"id": "two", "timestamp": "2024-01-02T00:00:00Z", "new": [1]}')
    run = update(logs, target, schema="infer", settle_s=0)
    assert (run.rows_added, run.drifted) == (1, 1)
    rows = sorted(Checkpoint.read(target).dataframe().to_pylist(), key=lambda r: r["timestamp"])
    assert (rows[1]["id"], json.loads(rows[1]["_rest"])) == (None, {"id": "two", "new": [1]})


def test_what_is_not_ours_is_left_alone(tmp_path):
    import pyarrow as pa
    from deltalake import write_deltalake

    logs = tmp_path / "logs"
    write_wave(logs, 10)
    write_deltalake(tmp_path / "other", pa.table({"x": [1]}))
    with pytest.raises(IntegrityError, match="did not make"):
        update(logs, f"delta+file://{tmp_path}/other", settle_s=0, schema="visits")
    target = f"delta+file://{tmp_path}/table"
    update(logs, target, settle_s=0, schema="visits")
    for manifest in (tmp_path / "table" / "_headgate.ledger").glob("manifest-*"):
        manifest.unlink()
    with pytest.raises(HeadgateError, match="manifest"):
        update(logs, target, settle_s=0, schema="visits")
    with pytest.raises(ConfigError, match="expected delta"):
        update(logs, "delta+gs://b/t", settle_s=0, schema="visits")


class Undated(VisitEvent):
    """The same events; only the names of their files are read differently."""

    headgate_file_names = (r"log-.*\.json",)


class Dated(VisitEvent):
    headgate_file_names = (r"log-[a-z-]+-(?P<stamp>[0-9]{8})-.*\.json",)


class DatedByVisit(VisitEvent):
    headgate_file_names = (r"log-.*-[0-9]{6}-(?P<stamp>[0-9]{8})\.json",)


@pytest.mark.parametrize("order", list(itertools.permutations([Undated, Dated, DatedByVisit])))
def test_a_schema_that_reads_other_days_in_names_takes_nothing_twice(tmp_path, order):
    """The ledger is divided by the day of the name: what is known has to be found whatever day it was written under."""
    logs, target = tmp_path / "logs", f"delta+file://{tmp_path}/table"
    logs.mkdir()

    def log_events(first):
        for n in range(first, first + 20):
            day = n % 3 + 1
            (logs / f"log-submit-2024011{day}-1000{n:02}-42-ingest-form-1100{n:02}-2024020{day}.json").write_text(json.dumps(
                {"action": "submit", "study": "adrc", "pipeline_adcid": 42, "project_label": "ingest-form",
                 "center_label": "alpha", "gear_name": "form-scheduler", "ptid": f"1100{n:02}", "visit_date": f"2024-02-0{day}",
                 "visit_number": "01", "datatype": "form", "module": "UDS", "packet": "I",
                 "timestamp": f"2024-01-1{day}T10:00:{n:02}Z"}
            ))  # fmt: skip

    total = 0
    for n, schema in enumerate((*order, *order)):
        log_events(20 * n if n < 3 else 0)
        total += 20 if n < 3 else 0
        run = update(logs, target, schema=schema, settle_s=0)
        assert (run.rows_total, run.known + run.taken_files, run.changed) == (total, total, 0), schema
        assert verify(target, logs, schema=schema).differences == []
    assert Checkpoint.read(target).get_event_count() == total == 60
