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
    run = update(tmp_path / "logs", target, settle_s=0, schema="visits")
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
        update(tmp_path / "logs", target, schema="visits")
    assert caught.value.kind is Kind.UNSUPPORTED_VERSION


def test_the_golden_configuration_still_loads():
    assert load(GOLDEN / "headgate-v1.toml", {}).format == 1


def test_keys_of_before_count_as_long_as_the_last_of_them_lives(tmp_path):
    """A store of version 4, whose ledger holds what the earlier key forms left."""
    import sqlite3

    from headgate._core import ManualClock

    path = tmp_path / "store.db"
    shutil.copy(GOLDEN / "store-v4.db", path)
    now = 4_000_000_000_000_000
    rows = [
        ("v1:done", 1, "t", "o", 0, 1, "", '"before"', None, now + 50_000_000),
        ("v1:open", 0, "t", "o", now + 10_000_000, 2, "", None, None, None),
    ]
    with sqlite3.connect(path) as other:
        other.execute("DELETE FROM ledger")
        other.executemany("INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    other.close()
    clock = ManualClock(now)
    ledger = Ledger.on_database(LocalDatabase(str(path)), clock=clock)
    until = now + 10_000_000 + 14 * 86_400 * 1_000_000
    document = ledger.database.execute("SELECT doc FROM state WHERE name = 'ledger.legacy_keys'")
    assert json.loads(document[0][0]) == {"format": 1, "until_us": until}
    assert ledger.legacy_until == until / 1e6
    assert ledger.claim("new-done", legacy_key="done").result == "before"
    assert ledger.claim("new-open", legacy_key="open").status == "in_progress"
    clock.advance_us(11_000_000)
    claim = ledger.claim("new-open", legacy_key="open")
    assert (claim.status, claim.attempts) == ("acquired", 3)
    clock.advance_us(14 * 86_400 * 1_000_000)
    assert ledger.claim("other", legacy_key="open").legacy is None  # none of them counts any more
    columns = {name for _, name, *_ in ledger.database.execute("PRAGMA table_info(dead_letters)")}
    assert {"key", "headers", "attempts", "message_id"} <= columns


def test_a_store_without_claims_has_no_keys_of_before(tmp_path):
    import sqlite3

    path = tmp_path / "store.db"
    shutil.copy(GOLDEN / "store-v4.db", path)
    with sqlite3.connect(path) as other:
        other.execute("DELETE FROM ledger")
    other.close()
    ledger = Ledger.on_database(LocalDatabase(str(path)))
    assert ledger.legacy_until is None
    assert ledger.database.execute("SELECT count(*) FROM state") == [(0,)]
    assert Ledger.open("memory://").legacy_until is None
    new = Ledger.open(f"sqlite:///{tmp_path}/new.db")
    assert new.legacy_until is None
    released = tmp_path / "released.db"
    shutil.copy(GOLDEN / "store-v4.db", released)
    with sqlite3.connect(released) as other:
        other.execute("UPDATE ledger SET state = 0, until_us = 0, expires_us = NULL")
    other.close()
    import time

    found = Ledger.open(f"sqlite:///{released}").legacy_until  # a released key has no end: 14 days from the upgrade
    assert 0 <= time.time() + 14 * 86_400 - found < 120
