"""Whatever lies in a folder of event files: counted by kind, one line each with the redacted name, and the run goes on."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import subprocess
import sys

import pytest
from pydantic import BaseModel

from headgate.checkpoint import Checkpoint, rejected, update, verify
from headgate.errors import InvalidInputError
from headgate.testing.visits import write_wave

GOOD = {
    "action": "submit", "study": "adrc", "pipeline_adcid": 42, "project_label": "ingest-form", "center_label": "alpha",
    "gear_name": "form-scheduler", "ptid": "110001", "visit_date": "2024-01-15", "visit_number": "01",
    "datatype": "form", "module": "UDS", "packet": "I", "timestamp": "2024-01-15T10:00:00Z",
}  # fmt: skip


def event(**changes):
    return json.dumps({**GOOD, **changes}).encode()


# body -> the kinds of its problems; none: a good one
BODIES = {
    b"": ["json"],
    b"   \n": ["json"],
    b"[" * 100_000: ["nesting_too_deep"],
    b'{"action": "submit", "x": "\xff"}': ["invalid_unicode"],
    b'{"action": "\\ud800"}': ["invalid_unicode"],
    event() + b" trailing": ["json"],
    event()[:-10]: ["json"],
    event()[:-1] + b', "ptid": "110002"}': ["duplicate"],
    event(pipeline_adcid="42"): [],
    event(pipeline_adcid=42.0): ["type"],
    event(pipeline_adcid=True): ["type"],
    event(pipeline_adcid=-1): ["range"],
    event(pipeline_adcid=10**30): ["range"],
    event(visit_number=1): ["type"],
    event(surprise=1): ["unknown"],
    event(action="fly"): ["enum"],
    event(visit_date="2024-02-30"): ["date"],
    event(visit_date="2023-02-29"): ["date"],
    event(visit_date="0000-01-01"): ["date"],
    event(visit_date="9999-12-31"): [],
    event(timestamp="0001-01-01T00:00:00Z"): [],
    event(timestamp="9999-12-31T23:59:59.999999Z"): [],
    event(timestamp="10000-01-01T00:00:00Z"): ["timestamp"],
    event(timestamp="2016-12-31T23:59:60Z"): ["timestamp"],
    event(timestamp="2024-01-15"): ["timestamp"],
    event(timestamp=1705312800): ["type"],
    event(ptid=" 110001"): ["blank"],
    event(ptid="\u00e9"): ["pattern"],
    event(module="uds"): ["rule:module_of_form"],
    event(datatype="dicom"): ["rule:module_of_form"],
    b"null": ["type"],
    b'"text"': ["type"],
}


def name(n, ptid="110001", ending=".json"):
    return f"log-submit-20240115-10{n // 60:02}{n % 60:02}-{n + 1}-ingest-form-{ptid}-01{ending}"


def test_every_kind_is_counted_and_the_run_goes_on(tmp_path):
    logs, target = tmp_path / "logs", tmp_path / "e.parquet"
    logs.mkdir()
    for n, body in enumerate(BODIES):
        (logs / name(n)).write_bytes(body)
    command = [sys.executable, "-m", "headgate", "checkpoint", logs, target, "--settle", "0", "--schema", "visits"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0
    counts = json.loads(run.stdout)
    expected: dict[str, int] = {}
    for kinds in BODIES.values():
        for kind in kinds:
            expected[kind] = expected.get(kind, 0) + 1
    assert counts["problems"] == expected
    bad = sum(bool(kinds) for kinds in BODIES.values())
    assert (counts["rejected_records"], counts["rows_added"]) == (bad, len(BODIES) - bad)
    lines = [line for line in run.stderr.splitlines() if line.startswith("rejected ")]
    assert len(lines) == bad
    assert all("-ingest-form-****-01.json" in line for line in lines)
    assert "110001" not in run.stdout + run.stderr
    again = update(logs, target, settle_s=0, schema="visits")  # remembered, not read again
    assert (again.known, again.taken_files) == (len(BODIES), 0)
    assert verify(target, logs).ok


def test_every_refused_record_has_its_line_however_many(tmp_path):
    logs, target = tmp_path / "logs", tmp_path / "e.parquet"
    logs.mkdir()
    for n in range(300):
        (logs / name(n)).write_bytes(event(surprise=1, other=2) if n % 3 else event())
    run = update(logs, target, settle_s=0, schema="visits")
    assert (run.rejected_records, len(run.rejects), run.problems) == (200, 200, {"unknown": 200})  # once a record
    rejects = list(run.rejects)
    assert [reject.name for reject in rejects] == [
        name(n).replace("110001", "****") for n in sorted(range(300), key=name) if n % 3
    ]
    assert len({reject.digest for reject in rejects}) == 200
    assert (run.rejects[7], run.rejects[-1], run.rejects[5:190:40]) == (rejects[7], rejects[-1], rejects[5:190:40])
    assert (run.rejects[:3], run.rejects[::-1], run.rejects[300:]) == (rejects[:3], rejects[::-1], [])
    with pytest.raises(IndexError):
        _ = run.rejects[200]
    assert pickle.loads(pickle.dumps(run)).rejects == rejects
    command = [
        sys.executable,
        "-m",
        "headgate",
        "checkpoint",
        logs,
        tmp_path / "n.parquet",
        "--settle",
        "0",
        "--schema",
        "visits",
    ]
    for more, rows in ((["--dry-run"], 0), ([], 100)):  # a dry run says it too
        done = subprocess.run([*command, *more], capture_output=True, text=True)
        lines = [line for line in done.stderr.splitlines() if line.startswith("rejected ")]
        assert lines == [f"rejected {reject}" for reject in rejects]
        assert (tmp_path / "n.parquet").exists() == bool(rows)
    for n in range(300):
        (logs / name(n)).write_bytes(event(packet="F"))
        (logs / name(n)).chmod(0 if n else 0o644)
    as_root = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []
    done = subprocess.run([*as_root, *command], capture_output=True, text=True)
    unread = [line for line in done.stderr.splitlines() if line.startswith("not read ")]
    assert len(set(unread)) == json.loads(done.stdout)["unreadable"] == 299
    assert all(line.endswith(": permission_denied; the next run tries again") for line in unread)
    assert "110001" not in done.stdout + done.stderr


def test_a_file_of_bad_lines_takes_no_memory_and_is_read_once(tmp_path):
    logs, target = tmp_path / "logs", tmp_path / "e.parquet"
    logs.mkdir()
    (logs / "a.jsonl").write_bytes(b"x\n" * 200_000)
    (logs / "b.csv").write_bytes(b"a\n1\n")  # no file of ours
    (logs / "_SUCCESS").touch()
    run = update(logs, target, schema=Count, settle_s=0)
    assert (run.rejected_records, run.problems, run.ignored, run.committed) == (
        200_000,
        {"json": 200_000},
        2,
        True,
    )
    assert sum(1 for _ in run.rejects) == 200_000
    assert run.rejects[199_999].offset == 399_998
    digest = run.rejects[0].digest
    names = {path.name for path in tmp_path.iterdir() if path.suffix != ".lock"}
    assert names == {"logs", "e.parquet", "e.parquet.ledger"}
    (logs / "b.jsonl.gz").write_bytes(gzip.compress(b'{"n": 1}\n{"n": true}\n'))
    run = update(logs, target, schema=Count, settle_s=0)
    assert (run.rows_added, len(run.rejects), run.known) == (1, 1, 1)
    assert (run.rejects[-1].name, run.rejects[-1].offset) == ("b.jsonl.gz", 9)
    assert len(rejected(target, digest)) == 200_000
    assert update(logs, target, schema=Count, settle_s=0).known == 2


class Count(BaseModel):
    n: int


def test_a_document_of_a_million_members_is_one_problem_of_each_kind(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    members = ", ".join(f'"k{n}": 1' for n in range(1_000_000))
    (logs / name(1)).write_text('{"action": "submit", "action": 1, "action": 2, ' + members + "}")
    run = update(logs, tmp_path / "e.parquet", settle_s=0, schema="visits")
    assert run.problems["unknown"] == run.problems["duplicate"] == 1
    inferred = update(logs, tmp_path / "i.parquet", schema="infer", settle_s=0)
    assert (inferred.rejected_records, inferred.problems) == (1, {"duplicate": 1})


def test_packed_files_have_their_redacted_names(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / name(1, ending=".json.gz")).write_bytes(b"no")
    run = update(logs, tmp_path / "e.parquet", settle_s=0, schema="visits")
    assert [reject.name for reject in run.rejects] == [name(1, "****", ending=".json.gz")]


def test_names_with_blanks_and_ways_out_are_only_names(tmp_path):
    logs = tmp_path / "logs"
    (logs / "a b" / "c..").mkdir(parents=True)
    (logs / "a b" / name(1)).write_bytes(event())
    (logs / "a b" / "c.." / name(2)).write_bytes(event())
    (logs / "a b" / ".hidden.json").write_bytes(event())
    for odd in (" log-submit-20240115.json", "log-submit-20240115.json ", "log-submit-20240115.JSON", "..json"):
        (logs / odd).write_bytes(event())
    (logs / "link.json").symlink_to("/etc/hostname")
    (logs / "log-delete-20240115.json").symlink_to(tmp_path / "nowhere")
    (logs / "out").symlink_to("/", target_is_directory=True)  # links to folders are not followed
    run = update(logs, tmp_path / "e.parquet", settle_s=0, schema="visits")
    assert (run.rows_added, run.rejected_records, run.adds_up()) == (2, 0, [])


def test_large_and_packed_files(tmp_path):
    logs, target = tmp_path / "logs", tmp_path / "e.parquet"
    logs.mkdir()
    large = event()[:-1] + b" " * (100 << 20) + b"}"
    (logs / name(1)).write_bytes(large)  # 100 MB of one document: read
    (logs / name(2, ending=".json.gz")).write_bytes(gzip.compress(event()) + gzip.compress(b" \n"))  # two members
    (logs / name(3, ending=".json.gz")).write_bytes(gzip.compress(event())[:-9])
    (logs / name(4, ending=".json.zst")).write_bytes(b"not zstd")
    (logs / name(5, ending=".json.gz")).write_bytes(gzip.compress(large))
    assert update(logs, tmp_path / "most.parquet", settle_s=0, schema="visits").problems == {"packing": 2}
    with pytest.raises(InvalidInputError, match="max_file_bytes: expected 1 to 1073741824"):
        update(logs, target, settle_s=0, max_file_bytes=2 << 30, schema="visits")
    run = update(logs, target, settle_s=0, max_file_bytes=10 << 20, schema="visits")
    assert run.problems == {"packing": 2, "too_large": 2}
    assert (run.rows_added, run.rejected_records) == (1, 4)
    assert len(Checkpoint.read(target)) == 1


def test_files_without_permission_are_tried_again(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    for n in range(5):
        (logs / name(n)).write_bytes(event())
    (logs / name(0)).chmod(0)
    # Root may open anything; without these capabilities it may not.
    as_root = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []
    command = [
        *as_root,
        sys.executable,
        "-m",
        "headgate",
        "checkpoint",
        logs,
        tmp_path / "e.parquet",
        "--settle",
        "0",
        "--schema",
        "visits",
    ]
    run = subprocess.run(command, capture_output=True, text=True)
    counts = json.loads(run.stdout)
    assert (counts["rows_added"], counts["unreadable"], counts["complete"]) == (4, 1, False)
    assert counts["read_problems"] == {"permission_denied": 1}
    assert "not read log-submit-20240115-100000-1-ingest-form-****-01.json" in run.stderr
    (logs / name(0)).chmod(0o644)
    again = subprocess.run(command, capture_output=True, text=True)
    assert json.loads(again.stdout)["rows_added"] == 1
    for path in logs.iterdir():
        path.write_bytes(event(packet="F"))
        path.chmod(0)
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "none of the 5 new files" in refused.stderr
    assert "[permission_denied]" in refused.stderr


def test_a_run_leaves_the_descriptors_of_the_process_alone(tmp_path):
    """None of others is closed or copied, none of its own is left behind."""
    logs = tmp_path / "logs"
    wave = write_wave(logs, 200)
    come, go = os.pipe()
    before = sorted(os.listdir("/proc/self/fd"))
    assert update(logs, tmp_path / "events.parquet", settle_s=0, threads=4, schema="visits").rows_added == wave.good
    assert sorted(os.listdir("/proc/self/fd")) == before
    os.write(go, b"still here")
    os.close(go)
    assert (os.read(come, 99), os.read(come, 99)) == (b"still here", b"")  # no copy of the other end is open anywhere
    os.close(come)
