"""Processes killed with SIGKILL at every named point; the counts at the end are exact.

`make chaos` runs more seeds (HEADGATE_CHAOS_SEEDS); each case prints its own.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from headgate import _native
from headgate._core import SystemClock
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.checkpoint import Checkpoint, update, verify
from headgate.ports import Item
from headgate.testing.visits import write_wave

pytestmark = pytest.mark.chaos
SEEDS = int(os.environ.get("HEADGATE_CHAOS_SEEDS", "2"))

CONFIG = """
[backends]
store = "sqlite:///h.db"
durability = "normal"
[consumers.analysis]
key = "headgate.pipelines.market.analysis:business_key"
lease_s = 0.3
max_attempts = 50
[healing]
threshold_hours = 0.00001
max_attempts = 50
[checkpoints.visits]
source = "logs"
target = "e.parquet"
schema = "visits"
settle_s = 0
[checkpoints.news]
source = "exports"
target = "news.parquet"
schema = "news"
settle_s = 0
export = "market"
"""


def headgate(folder, *arguments, faults=""):
    command = [sys.executable, "-m", "headgate", *map(str, arguments), "--config", folder / "headgate.toml"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "HEADGATE_FAULTS": faults}
    )  # fmt: skip


def finished(process):
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return json.loads(output)


@pytest.fixture
def world(tmp_path):
    (tmp_path / "headgate.toml").write_text(CONFIG)
    store = LocalStore(
        LocalDatabase(str(tmp_path / "h.db"), durability="normal", busy_timeout_s=30), SystemClock(), "market"
    )
    return tmp_path, store


def publish(store, count, copies=1):
    items = [Item(f"k{i:05d}", "market", "tiingo", "2026-05-01T00:00:00Z", _doc(i)) for i in range(count)]
    bodies = {item.key: _body(i) for i, item in enumerate(items)}
    store.put_items(items, "market.items", bodies)
    for _ in range(copies - 1):
        for i in range(0, count, 3):
            store.publish("market.items", f"k{i:05d}", _body(i))


def _doc(i):
    return {"dedup_key": f"k{i:05d}", "source_id": f"tiingo:{i}", "source": "tiingo", "headline": "shares rise",
            "tickers": ["AAPL"], "published_at": "2026-05-01T00:00:00Z"}  # fmt: skip


def _body(i):
    return {"source_id": f"tiingo:{i}", "key": f"k{i:05d}", "text_for_analysis": "shares rise"}


def effects(store):
    return store.db.execute("SELECT sum(analyses), max(analyses), min(analyses) FROM items")[0]


POINTS = ("before_claim", "after_claim", "after_effect", "before_commit", "after_commit")


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("point", POINTS)
def test_a_consumer_killed_at_every_point_runs_each_effect_once(world, point, seed):
    folder, store = world
    rng = random.Random(f"{point}{seed}")
    count = 60
    publish(store, count, copies=2)  # a third is delivered twice
    kills = 0
    while kills < 3:
        process = headgate(
            folder, "consume", "analysis", "--wait", "5", faults=f"consume.{point}:kill:{rng.randrange(1, 25)}"
        )
        process.communicate(timeout=60)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        kills += 1
    assert kills > 0
    finished(headgate(folder, "consume", "analysis", "--wait", "20"))
    assert effects(store) == (count, 1, 1)
    assert store.queue_depth("market.items", "analysis")[0] == 0
    assert store.count("SELECT count(*) FROM ledger WHERE state = 1") == count
    assert store.count("SELECT count(*) FROM dead_letters") == 0


@pytest.mark.parametrize("seed", range(SEEDS))
def test_consumers_killed_at_random_while_others_work(world, seed):
    folder, store = world
    rng = random.Random(seed)
    count = 1200
    publish(store, count, copies=2)
    killed = 0
    for _ in range(4):
        pair = [headgate(folder, "consume", "analysis", "--wait", "5") for _ in range(2)]
        # Wait for real progress, then kill in the middle of whatever it does.
        target = min(count - 20, store.count("SELECT coalesce(sum(analyses), 0) FROM items") + rng.randrange(5, 60))
        deadline = time.monotonic() + 30
        while store.count("SELECT coalesce(sum(analyses), 0) FROM items") < target and time.monotonic() < deadline:
            if all(p.poll() is not None for p in pair):
                break
        for process in pair:
            process.kill()
            process.communicate()
            killed += process.returncode == -signal.SIGKILL
    assert killed >= 2
    finished(headgate(folder, "consume", "analysis", "--wait", "20"))
    assert effects(store) == (count, 1, 1)
    assert store.queue_depth("market.items", "analysis")[0] == 0


def test_a_sweep_killed_in_the_middle_sends_each_item_once(world):
    folder, store = world
    publish(store, 30)
    store.db.execute("DELETE FROM outbox")  # every announcement was lost
    process = headgate(folder, "heal", faults="healing.before_item:kill:12")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert store.count("SELECT count(*) FROM outbox") == 0  # a page of a sweep is one commit
    store.db.execute("UPDATE items SET due_us = due_us + 3600000000 WHERE republish_attempts = 1")
    finished(headgate(folder, "heal"))
    assert store.count("SELECT count(*) FROM outbox") == 30
    finished(headgate(folder, "consume", "analysis"))
    assert effects(store) == (30, 1, 1)


@pytest.mark.parametrize(
    "point", ["file.before_rename", "checkpoint.after_segments", "checkpoint.before_commit", "checkpoint.after_commit"]
)
def test_a_checkpoint_killed_at_every_point_is_the_old_or_the_new_one(tmp_path, point):
    logs, target = tmp_path / "logs", tmp_path / "e.parquet"
    first = write_wave(logs, 300)
    assert update(logs, target, settle_s=0, schema="visits").rows_added == first.good
    second = write_wave(logs, 200, first=300, late=20, seed=3)
    command = [sys.executable, "-m", "headgate", "checkpoint", logs, target, "--settle", "0", "--schema", "visits"]
    killed = subprocess.run(command, capture_output=True, env={**os.environ, "HEADGATE_FAULTS": f"{point}:kill:1"})
    assert killed.returncode == -signal.SIGKILL
    committed = point == "checkpoint.after_commit"
    assert len(Checkpoint.read(target)) == first.good + (second.good if committed else 0)
    run = update(logs, target, settle_s=0, schema="visits")
    assert run.adds_up() == []
    assert run.rows_total == first.good + second.good
    assert run.rows_added == (0 if committed else second.good)
    assert not list(tmp_path.glob("*.tmp-*"))


@pytest.mark.parametrize(
    "point", ["file.before_rename", "checkpoint.after_segments", "checkpoint.before_commit", "checkpoint.after_commit"]
)
def test_a_first_run_killed_at_every_point_is_none_or_the_new_one(tmp_path, point):
    """With runs spilled: nothing of a killed one stays in the folder for them."""
    logs, target, spill = tmp_path / "logs", tmp_path / "e.parquet", tmp_path / "spill"
    wave = write_wave(logs, 3000)
    script = "import sys; from headgate import _native; from headgate.checkpoint import update;" \
             "_native.set_faults(sys.argv[4]); update(*sys.argv[1:3], schema='visits', settle_s=0, memory=100_000, spill_dir=sys.argv[3])"  # fmt: skip
    killed = subprocess.run([sys.executable, "-c", script, logs, target, spill, f"{point}:kill:1"])
    assert killed.returncode == -signal.SIGKILL
    committed = point == "checkpoint.after_commit"
    assert target.exists() == committed
    assert len(list(spill.iterdir())) == 1
    run = update(logs, target, settle_s=0, memory=100_000, spill_dir=spill, schema="visits")
    assert (run.rows_added, run.rows_total, run.adds_up()) == (0 if committed else wave.good, wave.good, [])
    assert committed or (run.spilled_bytes > 0 and list(spill.iterdir()) == [])
    assert verify(target, logs).ok
    assert not list(tmp_path.glob("*.tmp-*"))


@pytest.mark.parametrize(
    "point", ["checkpoint.while_keeping:kill:3", "file.before_rename:kill:1", "checkpoint.after_segments:kill:1",
              "checkpoint.before_commit:kill:1", "checkpoint.after_commit:kill:1"]
)  # fmt: skip
def test_an_update_killed_while_it_keeps_row_groups_is_the_old_or_the_new_one(tmp_path, point):
    logs, target = tmp_path / "logs", tmp_path / "e.parquet"
    first = write_wave(logs, 3000)
    update(logs, target, settle_s=0, row_group_rows=500, schema="visits")
    groups = [pq.read_table(target).slice(at, 500).to_pylist() for at in range(0, first.good, 500)]
    second = write_wave(logs, 200, first=3000, seed=3)
    script = "import sys; from headgate import _native; from headgate.checkpoint import update;" \
             "_native.set_faults(sys.argv[3]); update(sys.argv[1], sys.argv[2], schema='visits', settle_s=0, row_group_rows=500)"  # fmt: skip
    killed = subprocess.run([sys.executable, "-c", script, logs, target, point])
    assert killed.returncode == -signal.SIGKILL
    missing = 0 if point.startswith("checkpoint.after_commit") else second.good
    assert pq.read_metadata(target).num_rows == first.good + second.good - missing
    run = update(logs, target, settle_s=0, row_group_rows=500, schema="visits")
    assert (run.adds_up(), run.rows_added, run.rows_total) == ([], missing, first.good + second.good)
    rows = pq.read_table(target).to_pylist()
    assert [rows[at : at + 500] for at in range(0, 2500, 500)] == groups[:5]
    assert verify(target, logs).differences == []
    assert not list(tmp_path.glob("*.tmp-*"))


def test_an_export_killed_before_it_was_remembered_doubles_nothing(world):
    folder, store = world
    publish(store, 25)
    script = "import sys; from headgate.config import load; from headgate.wiring import App; from headgate import _native;" \
             "_native.set_faults('export.after_file:kill:1');" \
             "App(load(sys.argv[1])).export_items(sys.argv[2])"  # fmt: skip
    killed = subprocess.run([sys.executable, "-c", script, folder / "headgate.toml", folder / "exports"])
    assert killed.returncode == -signal.SIGKILL
    from headgate.wiring import export_items

    publish(store, 40)  # more arrive before the next export: its range must not overlap the one on disk
    export_items(store, folder / "exports")
    assert export_items(store, folder / "exports") == 0
    assert exported(folder / "exports") == [f"k{i:05d}" for i in range(40)]


def exported(folder):
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    return sorted(json.loads(line)["dedup_key"] for line in lines)


def test_racing_exporters_double_nothing(world):
    folder, store = world
    script = """
import sys
from headgate._core import SystemClock
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.wiring import export_items
store = LocalStore(LocalDatabase(sys.argv[1], durability="normal", busy_timeout_s=60), SystemClock(), "market")
for _ in range(30):
    export_items(store, sys.argv[2])
"""
    command = [sys.executable, "-c", script, folder / "h.db", folder / "exports"]
    racers = [subprocess.Popen(command) for _ in range(3)]
    for count in range(50, 1050, 50):
        publish(store, count)  # those that are there already stay as they are
    for racer in racers:
        assert racer.wait(timeout=60) == 0
    from headgate.wiring import export_items

    export_items(store, folder / "exports")
    assert exported(folder / "exports") == [f"k{i:05d}" for i in range(1000)]


@pytest.mark.parametrize("point", ["file.before_rename", "intake.after_raw", "collect.before_commit"])
def test_a_collection_killed_at_every_point_leaves_all_or_nothing(tmp_path, point):
    from datetime import UTC, datetime

    from headgate.cli._pass import store_checks
    from headgate.config import load
    from headgate.testing.feed import Feed, WrittenData
    from headgate.wiring import App

    with Feed(WrittenData(datetime.now(UTC))) as feed:
        (tmp_path / "headgate.toml").write_text(f'[sources.tiingo]\nbase_url = "{feed.url}"\n')
        keys = {"TIINGO_API_KEY": "k"}
        command = [sys.executable, "-m", "headgate", "collect", "--config", tmp_path / "headgate.toml"]
        environment = {**os.environ, **keys, "HEADGATE_FAULTS": f"{point}:kill:1"}
        killed = subprocess.run(command, capture_output=True, env=environment)
        assert killed.returncode == -signal.SIGKILL
        app = App(load(tmp_path / "headgate.toml", keys))
        assert app.store.count("SELECT count(*) FROM items") == 0
        result = app.collect()
        assert result.taken.stored > 0
        assert [c for c in store_checks(app) if not c.holds] == []
        assert app.store.count("SELECT count(*) FROM outbox WHERE topic = 'market.new_data'") == 1


def test_racing_updaters_lose_and_double_nothing(tmp_path):
    logs, target = tmp_path / "logs", tmp_path / "e.parquet"
    good = write_wave(logs, 100).good
    command = [sys.executable, "-m", "headgate", "checkpoint", logs, target, "--settle", "0", "--schema", "visits"]
    for wave in range(1, 4):
        racers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(4)]
        good += write_wave(logs, 150, first=wave * 1000, seed=wave).good  # while they run
        for racer in racers:
            racer.communicate(timeout=60)
            assert racer.returncode == 0
    run = update(logs, target, settle_s=0, schema="visits")
    assert run.rows_total == good
    assert update(logs, target, settle_s=0, schema="visits").committed is False


def test_racing_intakes_store_each_item_once(world, objects):
    folder, store = world
    script = """
import json, sys
from headgate._core import SystemClock, file_store, format_timestamp
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.intake import Intake
from headgate.pipelines.market import PIPELINE
clock = SystemClock()
store = LocalStore(LocalDatabase(sys.argv[1], durability="normal", busy_timeout_s=60), clock, "market")
now = format_timestamp(clock.now_us())[:10] + "T00:00:00Z"
articles = [{"id": i, "title": f"Story {i}", "publishedDate": now, "tickers": ["aapl"]} for i in range(200)]
taken = Intake(PIPELINE, store, file_store(sys.argv[2]), clock).accept("tiingo", json.dumps(articles).encode())
print(taken.stored)
"""
    command = [sys.executable, "-c", script, folder / "h.db", folder / "objects"]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    stored = [int(racer.communicate(timeout=60)[0]) for racer in racers]
    assert sum(stored) == 200
    assert store.count("SELECT count(*) FROM items") == store.count("SELECT count(*) FROM outbox") == 200


def test_faults_are_off_by_default():
    _native.core.fault_point("anything")
