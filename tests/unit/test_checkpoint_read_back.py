"""What is read back beside a table stays in its folder, and links out of a source are followed only when asked."""

from __future__ import annotations

import json
import os

import pyarrow.parquet as pq
import pytest

from headgate.checkpoint import Checkpoint, update, verify
from headgate.checkpoint._rejects import rejected
from headgate.cli import main
from headgate.errors import HeadgateError, IntegrityError, InvalidInputError, Kind

NAMES = ["../../../../../dev/zero", "/dev/zero", "..", ".", "", "a/../b", "a\0b", ".tmp-1", "a\nb"]


@pytest.fixture
def out(logs, tmp_path):
    target = tmp_path / "out.parquet"
    update(logs, target, schema="infer", settle_s=0)
    return target


def with_footer(target, **changes):
    table = pq.read_table(target)
    metadata = dict(table.schema.metadata or {})
    footer = {**json.loads(pq.read_metadata(target).metadata[b"headgate"]), **changes}
    pq.write_table(table.replace_schema_metadata({**metadata, b"headgate": json.dumps(footer)}), target)


def refused(call):
    with pytest.raises(IntegrityError) as raised:
        call()
    assert raised.value.kind is Kind.CORRUPT_DATA
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("kind", ["segments", "rejects"])
@pytest.mark.parametrize("name", NAMES)
def test_names_of_a_footer_stay_in_its_folder(logs, out, kind, name):
    """A part named ../../../../../dev/zero ended the process."""
    with_footer(out, **{kind: [name]})
    before = out.read_bytes()
    refused(lambda: update(logs, out, schema="infer", settle_s=0))
    refused(lambda: verify(out, logs, schema="infer"))
    refused(lambda: rejected(out, "0" * 8))
    assert out.read_bytes() == before


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path), lambda _path: None])
def test_parts_are_files(logs, out, make):
    (name,) = json.loads(pq.read_metadata(out).metadata[b"headgate"])["segments"]
    part = out.with_name("out.parquet.ledger") / name
    part.unlink()
    make(part)
    refused(lambda: update(logs, out, schema="infer", settle_s=0))
    refused(lambda: verify(out, schema="infer"))


def test_a_reject_segment_of_anything_is_one_sentence(out):
    (name,) = json.loads(pq.read_metadata(out).metadata[b"headgate"])["rejects"]
    for text in (b"\xff\n", b"{\n", b"[]\n", b"{}\n", b"[" * 100_000 + b"\n", b'{"key": ' + b"9" * 5000 + b"}\n"):
        (out.with_name("out.parquet.ledger") / name).write_bytes(text)
        refused(lambda: rejected(out, "0" * 8))


def test_numbers_of_a_footer_have_bounds(logs, out):
    for changes in ({"version": 2**63 - 1}, {"rows": -1}, {"rows": 1e300}, {"superseded": 2**62}):
        with_footer(out, **changes)
        refused(lambda: update(logs, out, schema="infer", settle_s=0))


def test_a_table_that_is_no_file_is_refused(logs, tmp_path):
    os.mkfifo(tmp_path / "pipe.parquet")
    with pytest.raises(InvalidInputError):
        update(logs, tmp_path / "pipe.parquet", schema="infer", settle_s=0)


class TestDelta:
    @pytest.fixture
    def table(self, logs, tmp_path):
        pytest.importorskip("deltalake")
        update(logs, f"delta+file://{tmp_path}/tab", schema="infer", settle_s=0)
        return tmp_path / "tab"

    @pytest.mark.parametrize("path", [
        "../logs/a.json", "%2e%2e/logs/a.json", "/etc/passwd", "file:///etc/passwd", "a%00b", "x/../../y", "s3://b/k",
    ])  # fmt: skip
    def test_files_of_its_log_are_in_its_folder(self, logs, table, path):
        add = {"path": path, "partitionValues": {}, "size": 1, "modificationTime": 1, "dataChange": True}
        log = table / "_delta_log"
        (log / f"{len(list(log.glob('*.json'))):020}.json").write_text(json.dumps({"add": add}) + "\n")
        target = f"delta+file://{table}"
        refused(lambda: update(logs, target, schema="infer", settle_s=0))
        refused(lambda: verify(target, schema="infer"))
        with pytest.raises(HeadgateError):
            Checkpoint.read(target)

    @pytest.mark.parametrize("name", NAMES)
    def test_names_of_its_manifest_stay_in_its_folder(self, logs, table, name):
        (manifest,) = (table / "_headgate.ledger").glob("manifest-*.json")
        sound = json.loads(manifest.read_text())
        for kind in ("segments", "rejects"):
            manifest.write_text(json.dumps({**sound, kind: [name]}))
            refused(lambda: update(logs, f"delta+file://{table}", schema="infer", settle_s=0))
            refused(lambda: rejected(f"delta+file://{table}", "0" * 8))
        for text in (b"\xff", b"[]", b"{", b"9" * 5000):
            manifest.write_bytes(text)
            refused(lambda: update(logs, f"delta+file://{table}", schema="infer", settle_s=0))


@pytest.fixture
def linked(logs, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.json").write_text('{"a": 7}')
    (logs / "out.json").symlink_to(outside / "secret.json")
    (logs / "folder").symlink_to(outside)
    (logs / "in.json").symlink_to("a.json")
    return logs


def test_links_out_of_a_source_are_named_and_left_out(linked, tmp_path):
    target = tmp_path / "out.parquet"
    for _ in range(2):
        run = update(linked, target, schema="infer", settle_s=0)
        assert sorted((one.name, one.problems[0][1]) for one in run.unread) == [
            ("folder", "outside_source"), ("out.json", "outside_source"),
        ]  # fmt: skip
        assert (run.unreadable, run.complete, run.rows_total) == (2, False, 2)


@pytest.mark.parametrize("scheme", ["", "delta+file://"])
def test_links_are_followed_when_asked(linked, tmp_path, scheme):
    pytest.importorskip("deltalake")
    (tmp_path / "outside" / "back").symlink_to(linked)
    target = f"{scheme}{tmp_path}/out"
    for _ in range(2):
        run = update(linked, target, schema="infer", settle_s=0, follow_symlinks=True)
        assert (run.unreadable, run.rows_total) == (0, 4)
    report = verify(target, linked, schema="infer", follow_symlinks=True)
    assert (report.differences, report.checked_files) == ([], 5)


def test_the_command_names_links_and_follows_them(linked, tmp_path, capsys):
    target = str(tmp_path / "out.parquet")
    command = ["checkpoint", str(linked), target, "--schema", "infer", "--settle", "0"]
    assert main(command) == 5
    assert "--follow-symlinks reads it" in capsys.readouterr().err
    assert main([*command, "--follow-symlinks"]) == 0
    assert json.loads(capsys.readouterr().out)["rows_total"] == 4
    assert main(["verify", target, str(linked), "--schema", "infer", "--follow-symlinks"]) == 0


def test_a_bucket_has_no_links(tmp_path):
    with pytest.raises(InvalidInputError, match="follow_symlinks"):
        update("s3://bucket/prefix", tmp_path / "out.parquet", follow_symlinks=True)
