"""`headgate serve` collecting by the clock: one process, stopped in the middle of a hang, killed and started again."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from datetime import UTC, datetime

import pytest

from headgate._core import SystemClock
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.testing.feed import Feed, WrittenData
from headgate.testing.servers import ServeProcess

CONFIG = """
[backends]
objects = "file://objects"
store = "sqlite:///h.db"
durability = "normal"
[sources.tiingo]
priority = 1
base_url = "{url}"
[sources.finnhub]
priority = 2
base_url = "{url}/api/v1"
[resilience]
timeout_s = {timeout}
[collection]
tickers = ["AAPL", "MSFT"]
calendar = "always"
[consumers.analysis]
key = "headgate.pipelines.market.analysis:business_key"
[checkpoints.news]
source = "exports"
target = "news.parquet"
schema = "news"
export = "market"
[schedule]
collect_s = {every}
checkpoint_s = 1
[logging]
level = "ERROR"
"""
KEYS = {"TIINGO_API_KEY": "k1", "FINNHUB_API_KEY": "k2"}


def serve(folder, faults=""):
    return ServeProcess(folder, {**os.environ, **KEYS, "HEADGATE_FAULTS": faults})


@pytest.fixture
def feed():
    with Feed(WrittenData(datetime.now(UTC))) as running:
        yield running


def write_config(folder, feed, every=3600, timeout=5):
    (folder / "headgate.toml").write_text(CONFIG.format(url=feed.url, every=every, timeout=timeout))


def look(folder):
    store = LocalStore(
        LocalDatabase(str(folder / "h.db"), durability="normal", busy_timeout_s=20), SystemClock(), "market"
    )
    try:
        return store.collection_events("market"), store.status_counts(), store.load_state("schedule:collect")
    finally:
        store.db.close()


def wait_for(condition, seconds=40):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_one_process_collects_analyses_and_checkpoints(tmp_path, feed):
    write_config(tmp_path, feed)
    serving = serve(tmp_path)
    wait_for(lambda: look(tmp_path)[0])
    counts = wait_for(lambda: (c := look(tmp_path)[1]) and "pending" not in c and c)
    wait_for((tmp_path / "news.parquet").exists)
    with urllib.request.urlopen(f"{serving.url}/metrics") as answer:
        text = answer.read().decode()
    assert 'collections_total{source="tiingo",status="success"} 1' in text
    assert 'notification_seconds_bucket{le="+Inf"}' in text
    assert serving.stop() == ""
    assert list(counts) == ["analyzed"]
    again = serve(tmp_path)  # its next collection is an hour away
    assert again.stop() == ""
    assert len(look(tmp_path)[0]) == 1


def test_stopped_in_the_middle_of_a_hang_it_ends_at_once_and_catches_up_later(tmp_path, feed):
    write_config(tmp_path, feed, timeout=60)
    feed.set_mode("tiingo", "hang")
    serving = serve(tmp_path)
    assert feed.hanging.wait(30)
    begun = time.monotonic()
    serving.stop()
    assert time.monotonic() - begun < 20  # not the minute of the source
    events, _, state = look(tmp_path)
    assert (events, state["started_us"]) == ([], 0)
    feed.set_mode("tiingo", "healthy")
    again = serve(tmp_path)
    wait_for(lambda: look(tmp_path)[0])
    again.stop()
    assert [e["source"] for e in look(tmp_path)[0]] == ["tiingo"]


@pytest.mark.parametrize("point", ["intake.after_raw", "collect.before_commit"])
def test_killed_in_a_collection_nothing_is_lost_or_doubled(tmp_path, feed, point):
    write_config(tmp_path, feed, every=1)
    serving = serve(tmp_path, f"{point}:kill:1")
    serving.process.communicate(timeout=60)
    assert serving.process.returncode == -signal.SIGKILL
    events, counts, _ = look(tmp_path)
    assert (events, counts) == ([], {})
    again = serve(tmp_path)
    events = wait_for(lambda: len(e := look(tmp_path)[0]) >= 2 and e)
    again.stop()
    events, counts, _ = look(tmp_path)
    assert sum(counts.values()) == sum(e["new_item_count"] for e in events) == events[0]["new_item_count"] > 0
    assert all(json.dumps(e) for e in events)


def test_a_checkpoint_under_way_is_cancelled_and_leaves_the_old_one(tmp_path, feed):
    from headgate.cli._serve import CheckpointRuns
    from headgate.config import load
    from headgate.errors import InterruptedRunError
    from headgate.testing.visits import write_wave
    from headgate.wiring import App

    write_wave(tmp_path / "logs", 5000)
    (tmp_path / "headgate.toml").write_text('[checkpoints.v]\nsource = "logs"\ntarget = "v.parquet"\nsettle_s = 0\n')
    app = App(load(tmp_path / "headgate.toml", {}))
    job = CheckpointRuns(app, "v")
    job.cancel()
    with pytest.raises(InterruptedRunError):
        job.run()
    assert not (tmp_path / "v.parquet").exists()
    CheckpointRuns(app, "v").run()
    assert (tmp_path / "v.parquet").exists()


def test_without_a_key_nothing_is_asked_and_that_is_said(tmp_path, feed, caplog):
    from headgate.cli._serve import scheduled_jobs
    from headgate.config import load
    from headgate.wiring import App

    write_config(tmp_path, feed)
    jobs = [j.name for j in scheduled_jobs(App(load(tmp_path / "headgate.toml", KEYS)))]
    assert jobs == ["sweep", "prune", "checkpoint:news", "collect", "alerts"]
    assert not caplog.records
    jobs = [j.name for j in scheduled_jobs(App(load(tmp_path / "headgate.toml", {})))]
    assert jobs == ["sweep", "prune", "checkpoint:news", "alerts"]
    assert "has an API key" in caplog.text
    (tmp_path / "none.toml").write_text("")
    assert [j.name for j in scheduled_jobs(App(load(tmp_path / "none.toml", {})))] == ["sweep", "prune", "alerts"]
