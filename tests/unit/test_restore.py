"""A backup that is restored: nothing is exported twice, nothing is overwritten, and what is no backup is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from headgate import _native
from headgate.backends.exports import export_items
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.backends.restore import restore
from headgate.backends.retention import backup
from headgate.errors import DuplicateError, HeadgateError, IntegrityError, NotFoundError
from headgate.ports import Item


def put(store, numbers, when="2026-05-01", key="ITEM#{}"):
    items = [
        Item(key.format(f"k{n}"), "market", "tiingo", when, {"dedup_key": f"k{n}", "ingested_at": when})
        for n in numbers
    ]
    store.put_items(items, "market.items", {item.key: {} for item in items})


def exported(folder):
    lines = [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
    return sorted(json.loads(line)["dedup_key"] for line in lines)


@pytest.fixture
def opened(tmp_path, clock):
    made = []

    def make():
        made.append(LocalStore(LocalDatabase(str(tmp_path / "h.db"), durability="normal"), clock, "market"))
        return made[-1]

    yield make
    for store in made:
        store.db.close()


@pytest.mark.parametrize("key", ["{}", "ITEM#{}", "{}#x"])
def test_a_restored_store_exports_nothing_twice_and_overwrites_nothing(opened, tmp_path, key):
    """Run, backup, run, restore, run: the same numbers were given to other items, 9 rows for 6."""
    store, out = opened(), tmp_path / "exports"
    put(store, range(3), key=key)
    assert export_items(store, out) == 3
    backup(store.db, tmp_path / "copy.db")
    put(store, range(3, 6), key=key)
    assert export_items(store, out) == 3
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    store.db.close()
    restore(tmp_path / "copy.db", tmp_path / "h.db", replace=True)
    store = opened()
    # Collected again, in another order, one of them late; a document without a field that is its key is known as a whole.
    when = "2026-05-01" if key == "{}#x" else "2026-05-02"
    put(store, [7, 4, 3], when, key)
    assert export_items(store, out) == 1
    put(store, [5, 8], when, key)
    assert export_items(store, out) == 1
    assert export_items(store, out) == 0
    assert exported(out) == [f"k{n}" for n in (0, 1, 2, 3, 4, 5, 7, 8)]
    assert {name: (out / name).read_bytes() for name in before} == before


def test_an_export_of_a_restored_store_that_is_cut_is_done_once(opened, tmp_path):
    store, out = opened(), tmp_path / "exports"
    backup(store.db, tmp_path / "copy.db")
    put(store, range(3))
    export_items(store, out)
    store.db.close()
    restore(tmp_path / "copy.db", tmp_path / "h.db", replace=True)
    store = opened()
    put(store, [2, 3])
    _native.set_faults("export.after_file:fail:1")
    with pytest.raises(HeadgateError):
        export_items(store, out)
    put(store, [4])
    export_items(store, out)
    assert exported(out) == ["k0", "k1", "k2", "k3", "k4"]


def test_the_store_that_is_replaced_is_kept(opened, tmp_path):
    store = opened()
    backup(store.db, tmp_path / "copy.db")
    put(store, range(3))
    with pytest.raises(DuplicateError, match="--replace"):
        restore(tmp_path / "copy.db", tmp_path / "h.db")
    store.db.close()
    for n in (1, 2):
        assert restore(tmp_path / "copy.db", tmp_path / "h.db", replace=True) > 0
        assert (tmp_path / f"h.db.replaced-{n}").exists()
    assert opened().count("SELECT count(*) FROM items") == 0
    kept = LocalDatabase(str(tmp_path / "h.db.replaced-1"))
    assert kept.execute("SELECT count(*) FROM items") == [(3,)]
    kept.close()
    assert (tmp_path / "h.db").stat().st_mode & 0o777 == 0o600


def test_what_is_no_backup_changes_nothing(opened, tmp_path):
    store = opened()
    put(store, range(3))
    backup(store.db, tmp_path / "copy.db")
    whole = (tmp_path / "copy.db").read_bytes()
    bad = {"empty": b"", "text": b"not a database" * 100, "cut": whole[: len(whole) // 2], "other": whole[:68] + b"\0" * 4 + whole[72:],
           "flipped": whole[:4096] + b"\xff" * 4096 + whole[8192:]}  # fmt: skip
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(IntegrityError):
            restore(tmp_path / name, tmp_path / "h.db", replace=True)
    with pytest.raises(NotFoundError):
        restore(tmp_path / "nothing", tmp_path / "h.db", replace=True)
    _native.set_faults("restore.before_rename:fail:1")
    with pytest.raises(HeadgateError):
        restore(tmp_path / "copy.db", tmp_path / "h.db", replace=True)
    assert store.count("SELECT count(*) FROM items") == 3
    assert [path.name for path in tmp_path.iterdir() if "tmp" in path.name or "replaced" in path.name] == []


def test_a_backup_is_a_whole_store_and_runs_nothing_by_itself(opened, tmp_path):
    store = opened()
    put(store, range(3))
    backup(store.db, tmp_path / "whole.db")

    def changed(name, *statements):
        shutil.copy(tmp_path / "whole.db", tmp_path / name)
        database = LocalDatabase(str(tmp_path / name))
        for statement in statements:
            database.execute(statement)
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.close()
        return tmp_path / name

    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    bad = [
        Path("/dev/zero"), tmp_path / "folder", tmp_path / "pipe",
        changed("negative", "PRAGMA user_version = -5"),
        changed("part", "DROP TABLE outbox"),
        changed("trigger", "CREATE TRIGGER t AFTER INSERT ON items BEGIN DELETE FROM items; END"),
    ]  # fmt: skip
    for path in bad:
        with pytest.raises(IntegrityError):
            restore(path, tmp_path / "h.db", replace=True)
    assert store.count("SELECT count(*) FROM items") == 3
    store.db.close()
    own = changed("own", "CREATE TABLE mine (a)", "CREATE TRIGGER t AFTER INSERT ON mine BEGIN DELETE FROM mine; END")
    restore(own, tmp_path / "h.db", replace=True)  # a handler's own tables are kept
    assert opened().count("SELECT count(*) FROM mine") == 0
