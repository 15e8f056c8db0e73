"""Replay, retention and backup: what keeps a store healthy for years."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import threading

import pytest
from pydantic import BaseModel

from headgate import Intake, Ledger, Pipeline, Reject, _native
from headgate._core import ManualClock
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.backends.retention import Retention, backup, prune, report
from headgate.checkpoint.schema import compile_model
from headgate.errors import DuplicateError, HeadgateError, IntegrityError
from headgate.intake import Normalised, replay
from headgate.ports import DeadLetter

DAY = 86_400 * 1_000_000


class Record(BaseModel):
    key: str
    n: int


def pipeline(normalise):
    return Pipeline(
        "numbers", json.dumps(compile_model(Record)), lambda body, raw: json.loads(body), normalise,
        lambda item: {"key": item.key},
    )  # fmt: skip


def strict(record, raw):
    if not isinstance(record["n"], int):
        raise Reject("not_a_number", "n is text")
    return Normalised(f"k{record['n']}", raw.fetched_at, {"key": f"k{record['n']}", "n": record["n"]})


def lenient(record, raw):
    return strict({"n": int(record["n"])}, raw)


@pytest.fixture
def intake(store, objects, clock):
    made = Intake(pipeline(strict), store, objects, clock)
    made.accept("api", json.dumps([{"n": 1}, {"n": "2"}, {"n": 3}]).encode())
    made.keep_raw("api", b"<html>down</html>", {"status": 500})
    clock.advance_us(DAY)
    made.accept("other", json.dumps([{"n": 4}, {"n": "5"}]).encode())
    return made


def keys(store):
    return [key for (key,) in store.db.execute("SELECT key FROM items ORDER BY key")]


def test_a_newer_parser_brings_in_what_the_older_one_refused(intake, store, objects, clock):
    assert keys(store) == ["k1", "k3", "k4"]
    newer = Intake(pipeline(lenient), store, objects, clock)
    tried = replay(newer, dry_run=True)
    assert (tried.taken, tried.stored, tried.duplicates) == (5, 2, 3)
    assert keys(store) == ["k1", "k3", "k4"]
    done = replay(newer)
    assert (done.taken, done.stored, done.duplicates, done.dead_letters) == (5, 2, 3, 0)
    assert keys(store) == ["k1", "k2", "k3", "k4", "k5"]
    # Announced through the outbox, once.
    assert store.count("SELECT count(*) FROM outbox") == 5
    again = replay(newer)
    assert (again.stored, again.duplicates) == (0, 5)
    assert store.count("SELECT count(*) FROM outbox") == 5
    events = [e for e in store.collection_events("numbers") if e.get("replayed")]
    assert [e["new_item_count"] for e in events] == [1, 1]


def test_a_replay_may_be_narrowed(intake, store, objects, clock):
    newer = Intake(pipeline(lenient), store, objects, clock)
    assert replay(newer, source="other").stored == 1
    assert replay(newer, since_us=clock.now_us()).taken == 2
    assert replay(newer, source="nobody").taken == 0
    assert keys(store) == ["k1", "k3", "k4", "k5"]


def test_the_same_parser_changes_nothing(intake, store):
    before = store.db.execute("SELECT count(*) FROM dead_letters")[0][0]
    again = replay(intake)
    assert (again.stored, again.duplicates, again.dead_letters) == (0, 3, 2)
    assert store.count("SELECT count(*) FROM dead_letters") == before


def test_a_body_that_was_changed_is_not_replayed(intake, objects):
    key = next(k for k in objects.list("raw/numbers/other/") if not k.endswith(".json"))
    objects.put(key, b'[{"n": 99}]')
    with pytest.raises(IntegrityError, match=key.split("/")[-1]):
        replay(intake)


def filled(database, clock):
    store = LocalStore(database, clock, "p")
    for n in range(12):
        store.publish("t", str(n), {})
    store.relay_outbox({})
    store.publish("t", "unsent", {})
    store.add_collection_event("e", "p", clock.now_us(), {})
    store.add_dead_letters([DeadLetter("s", "p", "x", "k", "r", "{}")])
    for name, status in (("done", "complete"), ("open", "waiting")):
        store.save_state(f"uploads.batch.{name}", {"status": status, "started_us": clock.now_us()})
    store.save_state("breaker", {"started_us": 0})
    database.execute(
        "INSERT INTO executions (id, workflow, status, definition, input, started_us, ended_us, cursor) VALUES"
        " ('a', 'w', 'SUCCEEDED', '', '', 0, ?1, ''), ('b', 'w', 'RUNNING', '', '', 0, NULL, '')",
        (clock.now_us(),),
    )
    database.execute(
        "INSERT INTO execution_events (execution, at_us, type, doc) VALUES ('a', ?1, 't', ''), ('b', ?1, 't', '')",
        (clock.now_us(),),
    )
    ledger = Ledger.on_database(database, done_ttl=14 * 86_400, clock=clock)
    ledger.complete(ledger.claim("k"))
    ledger.claim("open", 1)
    return store, ledger


def test_everything_is_kept_for_its_time_and_not_longer(tmp_path):
    clock = ManualClock(2_000_000_000_000_000)
    database = LocalDatabase(str(tmp_path / "h.db"), durability="normal")
    store, ledger = filled(database, clock)
    objects = tmp_path / "objects"
    (objects / "raw" / "p").mkdir(parents=True)
    for name, age_days in (("old", 40), ("old.meta.json", 40), ("young", 1), (".tmp-1-1", 40)):
        path = objects / "raw" / "p" / name
        path.write_text("x")
        at = clock.now_us() / 1e6 - age_days * 86_400
        if name.startswith(".tmp"):
            at = 1_000_000
        os.utime(path, (at, at))
    assert set(prune(database, str(objects), Retention(), clock).values()) == {0, 1}  # the temporary file
    clock.advance_us(8 * DAY)
    assert {k: n for k, n in prune(database, str(objects), Retention(), clock).items() if n} == {"outbox": 12}
    clock.advance_us(90 * DAY)
    policy = Retention(raw_days=110)
    gone = prune(database, str(objects), policy, clock)
    assert {k: n for k, n in gone.items() if n} == {
        "collection events": 1, "workflow history": 1, "workflow executions": 1, "upload batches": 1, "raw blobs": 1,
    }  # fmt: skip
    assert ledger.prune() == 1
    assert sorted(path.name for path in (objects / "raw" / "p").iterdir()) == ["young"]
    # What is not finished stays, however old.
    assert store.count("SELECT count(*) FROM outbox") == 1
    assert store.load_state("uploads.batch.open") is not None
    assert store.load_state("breaker") is not None
    assert database.execute("SELECT id FROM executions") == [("b",)]
    assert store.count("SELECT count(*) FROM dead_letters") == 1
    assert prune(database, None, Retention(dead_letter_days=1), clock)["dead letters"] == 1
    shown = report(database, Retention())
    assert shown["outbox"] == {"keeps_days": 7.0, "rows": 1, "oldest": None}
    assert shown["dead letters"]["keeps_days"] == "for ever"
    assert shown["done keys"]["rows"] == 0


def test_temporary_files_that_vanish_meanwhile_are_passed_over(tmp_path):
    """Writers rename them while a folder is being listed; a link to nothing is listed and cannot be looked at, too."""
    objects = tmp_path / "objects"
    (objects / "raw" / "a").mkdir(parents=True)
    for name in (".tmp-1-0", "raw/a/.tmp-1-1"):
        (objects / name).symlink_to(tmp_path / "nothing")
    (objects / ".tmp-1-2").write_text("left by a killed writer")
    os.utime(objects / ".tmp-1-2", (1, 1))
    clock = ManualClock(_native.core.SystemClock().now_us())
    with contextlib.closing(LocalDatabase(str(tmp_path / "h.db"), durability="normal")) as database:
        gone = prune(database, str(objects), Retention(raw_days=1), clock)
    assert gone["temporary files"] == 1
    assert gone["raw blobs"] == 0


def test_a_backup_is_whole_while_others_write(tmp_path):
    database = LocalDatabase(str(tmp_path / "h.db"), durability="normal")
    database.execute("CREATE TABLE pairs (a INTEGER, b INTEGER)")
    stop = threading.Event()

    def write():
        n = 0
        while not stop.is_set():
            n += 1
            with other.transaction() as tx:
                tx.execute("INSERT INTO pairs VALUES (?, 0)", (n,))
                tx.execute("UPDATE pairs SET b = a WHERE a = ?", (n,))

    other = LocalDatabase(str(tmp_path / "h.db"), durability="normal", busy_timeout_s=30)
    thread = threading.Thread(target=write)
    thread.start()
    try:
        for i in range(5):
            assert backup(database, tmp_path / f"copy{i}.db") > 0
    finally:
        stop.set()
        thread.join()
    for i in range(5):
        copy = LocalDatabase(str(tmp_path / f"copy{i}.db"))  # same version, same application id
        assert copy.execute("SELECT count(*) FROM pairs WHERE a <> b") == [(0,)]
        assert copy.execute("PRAGMA integrity_check") == [("ok",)]
        copy.close()
    with pytest.raises(DuplicateError):
        backup(database, tmp_path / "copy0.db")


def test_a_backup_that_is_cut_leaves_nothing(tmp_path):
    database = LocalDatabase(str(tmp_path / "h.db"))
    _native.set_faults("backup.before_rename:fail:1")
    with pytest.raises(HeadgateError):
        backup(database, tmp_path / "copy.db")
    assert sorted(path.name for path in tmp_path.iterdir() if "copy" in path.name) == []


def headgate(folder, *words):
    command = [sys.executable, "-m", "headgate", *words, "--config", str(folder / "headgate.toml")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_commands(tmp_path):
    (tmp_path / "headgate.toml").write_text(
        '[backends]\nobjects = "file://objects"\nstore = "sqlite:///h.db"\n[retention]\nraw_days = 30\n'
    )
    done = headgate(tmp_path, "backup", str(tmp_path / "copy.db"))
    assert json.loads(done.stdout)["bytes"] > 0
    with sqlite3.connect(tmp_path / "copy.db") as copy:
        assert copy.execute("SELECT count(*) FROM items").fetchone() == (0,)
    copy.close()
    again = headgate(tmp_path, "backup", str(tmp_path / "copy.db"))
    assert again.returncode != 0
    assert again.stderr.count("\n") == 1
    assert json.loads(headgate(tmp_path, "prune").stdout)["done keys"] == 0
    assert json.loads(headgate(tmp_path, "replay", "--dry-run", "--since", "2026-01-01T00:00:00Z").stdout)["taken"] == 0
    assert json.loads(headgate(tmp_path, "replay", "--uploads", "--batch", "b").stdout)["files"] == 0
    mixed = headgate(tmp_path, "replay", "--uploads", "--source", "tiingo")
    assert mixed.returncode == 1
    assert mixed.stderr.count("\n") == 1
    found = json.loads(headgate(tmp_path, "doctor").stdout)
    assert found["retention"]["raw blobs"] == {"keeps_days": 30.0}
    assert found["warnings"] == []


HANDLERS = """
def good(body, tx):
    tx.execute("CREATE TABLE IF NOT EXISTS charges (id TEXT UNIQUE, amount INTEGER)")
    tx.execute("INSERT INTO charges VALUES (?, ?)", (body["key"], body["amount"]))

def fails(body, tx):
    if body["amount"] == 2:
        raise ValueError("always")
"""


def test_simulate_runs_a_users_handler(tmp_path):
    (tmp_path / "my_handlers.py").write_text(HANDLERS)
    (tmp_path / "messages.jsonl").write_text('{"amount": 1}\n\n{"amount": 2}\n')

    def run(*words):
        command = [sys.executable, "-m", "headgate", "simulate", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=tmp_path, check=False)

    good = run("--handler", "my_handlers:good", "--messages", "messages.jsonl", "--seeds", "15")
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["seeds"] == 15
    broken = run("--handler", "my_handlers:fails", "--messages", "messages.jsonl", "--seeds", "15")
    assert broken.returncode == 1
    report = json.loads(broken.stdout)
    assert "still pending" in report["violations"][0]
    assert f"seed {report['seed']}" in broken.stderr
    assert run("--handler", "my_handlers:nothing").returncode != 0
    (tmp_path / "messages.jsonl").write_text("[1]\n")
    refused = run("--messages", "messages.jsonl")
    assert "line 1" in refused.stderr
