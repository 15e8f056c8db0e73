"""Bytes of every released version stay readable; ids never change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import headgate
from headgate import Ledger, _core
from headgate.backends.local import LocalDatabase
from headgate.checkpoint import Checkpoint, update
from headgate.config import load
from headgate.errors import IntegrityError, Kind

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def test_ids_never_change():
    golden = json.loads((GOLDEN / "identity-v1.json").read_text())
    for text, expected in golden["event_ids"].items():
        assert headgate.event_ids([text]) == [expected]
    assert headgate.dedup_key("Headline", "tiingo", "2026-05-01T10:00:00Z") == golden["keys"]["dedup"]
    assert headgate.story_key("A headline!", "2026-05-01") == golden["keys"]["story"]


@pytest.mark.parametrize("version", range(1, _core.SQLITE_SCHEMA_VERSION + 1))
def test_stores_of_every_version_open_migrated_and_whole(tmp_path, version):
    path = tmp_path / "store.db"
    shutil.copy(GOLDEN / f"store-v{version}.db", path)
    database = LocalDatabase(str(path))
    assert database.execute("PRAGMA user_version") == [(_core.SQLITE_SCHEMA_VERSION,)]
    rows = database.execute("SELECT key, status, due_us FROM items ORDER BY key")
    assert rows == [("a", "pending", 1000), ("b", "pending", 5000), ("c", "analyzed", 1000)]
    assert Ledger.on_database(database).claim("k").result == {"n": 1}
    assert database.execute("PRAGMA integrity_check") == [("ok",)]


def test_a_migration_that_is_cut_leaves_the_old_version(tmp_path):
    """The whole upgrade is one transaction: an error in it (here: a table in the way) rolls all of it back."""
    path = tmp_path / "store.db"
    shutil.copy(GOLDEN / "store-v1.db", path)
    import sqlite3

    with sqlite3.connect(path) as other:
        other.execute("ALTER TABLE items ADD COLUMN due_us INTEGER")
    other.close()
    with pytest.raises(headgate.HeadgateError):
        LocalDatabase(str(path))
    other = sqlite3.connect(path)
    assert other.execute("PRAGMA user_version").fetchone() == (1,)
    assert other.execute("SELECT count(*) FROM items").fetchone() == (3,)
    other.close()


def test_the_golden_checkpoint_is_read_and_continued(tmp_path):
    target = tmp_path / "checkpoint-v1.parquet"
    shutil.copy(GOLDEN / target.name, target)
    shutil.copytree(GOLDEN / f"{target.name}.ledger", tmp_path / f"{target.name}.ledger")
    rows = Checkpoint.read(target).dataframe().to_pylist()
    assert [r["ptid"] for r in rows] == ["110001", "220002"]
    assert rows[1]["timestamp"].isoformat() == "2024-01-16T13:30:00.250000+00:00"
    assert [r["pipeline_adcid"] for r in rows] == [42, 45]
    import importlib.util

    spec = importlib.util.spec_from_file_location("make", GOLDEN / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    make.write_logs(tmp_path / "logs")
    run = update(tmp_path / "logs", target, settle_s=0)
    assert (run.taken_files, run.touched, run.rows_added, run.first_run) == (
        3,
        3,
        0,
        False,
    )  # same content, other times


def test_a_newer_checkpoint_is_refused(tmp_path):
    import pyarrow.parquet as pq

    table = pq.read_table(GOLDEN / "checkpoint-v1.parquet")
    footer = json.loads(table.schema.metadata[b"headgate"]) if table.schema.metadata else {}
    footer = footer or json.loads(pq.read_metadata(GOLDEN / "checkpoint-v1.parquet").metadata[b"headgate"])
    footer["format"] = 9
    target = tmp_path / "e.parquet"
    pq.write_table(table.replace_schema_metadata({"headgate": json.dumps(footer)}), target)
    (tmp_path / "logs").mkdir()
    with pytest.raises(IntegrityError) as caught:
        update(tmp_path / "logs", target)
    assert caught.value.kind is Kind.UNSUPPORTED_VERSION


def test_the_golden_configuration_still_loads():
    assert load(GOLDEN / "headgate-v1.toml", {}).format == 1
