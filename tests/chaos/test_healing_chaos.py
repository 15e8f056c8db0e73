"""Thousands of items stuck in many ways, two sweepers at once that are killed at every named point, a notifier that fails:
every healable item finishes exactly once, nothing that is fresh or moving is touched, the poisoned end in quarantine."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys

import pytest

from headgate._core import ManualClock
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.consume import Consumer, Worker
from headgate.healing import run_self_healing_check
from headgate.idempotency import Ledger
from headgate.items import LifeCycle, mark_announcement
from headgate.ports import Item

pytestmark = pytest.mark.chaos
HOUR = 3_600_000_000
START = 1_800_000_000_000_000
TOPIC = "orders.items"
SCALE = int(os.environ.get("HEADGATE_CHAOS_ITEMS", "1000"))  # the whole of it is 10,000: a quarter is stuck
WAYS = (
    "announcement_lost", "never_delivered", "message_lost", "worker_died", "end_lost", "left_pending", "handler_fails",
    "cannot_be_announced",
)  # fmt: skip


class Notifier:
    """Takes announcements to the queue of this store; fails a third of its entries, and now and then its answer is lost."""

    def __init__(self, store, rng):
        self.store, self.rng = store, rng

    def publish(self, announcements):
        arrived = []
        for a in announcements:
            if self.rng.random() < 1 / 3:
                continue
            self.store.db.execute(
                "INSERT INTO queue (topic, grp, key, body, visible_us) VALUES (?, 'bill', ?, ?, ?)",
                (a.topic, a.key, a.body, self.store.clock.now_us()),
            )
            if self.rng.random() < 0.95:
                arrived.append(a.row)  # otherwise it arrived, and nobody knows
        return arrived


class World:
    def __init__(self, path, clock=None):
        self.clock = clock or ManualClock(START)
        self.store = LocalStore(LocalDatabase(str(path), durability="normal", busy_timeout_s=60), self.clock, "orders")
        self.ledger = Ledger.on_database(self.store.db, clock=self.clock)
        consumer = Consumer("bill", TOPIC, self.pay, max_attempts=2, lease_s=60, backoff_base_s=0.001)
        self.worker = Worker(consumer, self.store, self.ledger, self.clock, items=LifeCycle(self.store))
        self.store.db.execute("CREATE TABLE IF NOT EXISTS paid (k)")

    def pay(self, body, tx):
        tx.execute("INSERT INTO paid VALUES (?)", (body["n"],))
        if body["way"] == "handler_fails":
            raise ValueError

    def put(self, numbers, way):
        docs = [{"n": n, "way": way} for n in numbers]
        found = [Item(f"k{d['n']:05d}", "orders", "shop", "2026-01-01T00:00:00Z", d) for d in docs]
        self.store.put_items(found, TOPIC, {i.key: mark_announcement(i.doc, i.key, "orders") for i in found})
        return [i.key for i in found]

    @staticmethod
    def announce(item):
        if item["doc"]["way"] == "cannot_be_announced":
            raise KeyError(item["key"])
        return item["doc"]

    def sweep(self, **options):
        return run_self_healing_check(
            self.store, None, TOPIC, "v1", announce=self.announce, clock=self.clock, group="bill", **options
        )

    def deliver(self):
        return self.store.relay_outbox({TOPIC: ["bill"]})


def break_in_eight_ways(world):
    """A quarter of the items is stuck; returns the keys of each way."""
    each = SCALE // 4 // len(WAYS)
    keys = {way: world.put(range(at * each, (at + 1) * each), way) for at, way in enumerate(WAYS)}

    def drop(table, names):
        with world.store.transaction() as tx:
            for key in names:
                tx.execute(f"DELETE FROM {table} WHERE key = ?", (key,))

    drop("outbox", keys["announcement_lost"] + keys["cannot_be_announced"])
    with world.store.transaction() as tx:
        for key in keys["never_delivered"]:  # sent, when nobody listened
            tx.execute("UPDATE outbox SET sent_us = 1 WHERE key = ?", (key,))
    world.deliver()
    drop("queue", keys["message_lost"] + keys["handler_fails"])
    for key in keys["worker_died"]:  # claimed, and the message went with the worker
        body = mark_announcement({"n": int(key[1:]), "way": "worker_died"}, key, "orders")
        world.ledger.claim(world.worker.consumer.claim_key(body), 60)
    drop("queue", keys["worker_died"] + keys["left_pending"])
    # Handled, and then the item's end was lost: the effect is there, and must not come again.
    keep = world.worker._processor._effect._items
    world.worker._processor._effect._items = None
    assert world.worker.drain().handled == each
    world.worker._processor._effect._items = keep
    return keys


def test_every_healable_item_finishes_exactly_once(tmp_path):
    world = World(tmp_path / "h.db")
    db = world.store.db
    keys = break_in_eight_ways(world)
    each = len(keys["end_lost"])
    stuck = each * len(WAYS)
    # Moving ones: in the queue of a consumer that is slow but alive, or announced and not relayed yet. As old as the others.
    moving = world.put(range(20_000, 20_000 + SCALE // 4), "moving")
    world.deliver()
    unsent = world.put(range(30_000, 30_000 + SCALE // 4), "unsent")
    world.clock.advance_us(2 * HOUR)
    fresh = world.put(range(40_000, 40_000 + SCALE // 4), "fresh")
    db.execute("UPDATE outbox SET sent_us = 1 WHERE key LIKE 'k4%'")
    rng = random.Random(1)
    notifier = Notifier(world.store, rng)
    second = World(tmp_path / "h.db", world.clock)

    first = [world.sweep(), second.sweep()]
    assert sum(r.items_republished for r in first) <= 200
    touched = {k for (k,) in db.execute("SELECT key FROM items WHERE republish_attempts > 0")}
    assert not touched & {*moving, *unsent, *fresh}

    for _ in range(60):
        world.sweep()
        second.sweep()
        for _ in range(12):
            world.store.publish_outbox(notifier)
        world.worker.drain()
        world.clock.advance_us(30_000_000)
        world.worker.drain()
        still = db.execute("SELECT count(*) FROM items WHERE status = 'pending' AND key NOT LIKE 'k4%'")[0][0]
        if not still:
            break
        world.clock.advance_us(HOUR)

    paid = dict(db.execute("SELECT k, count(*) FROM paid GROUP BY k"))
    poisoned = {*keys["handler_fails"], *keys["cannot_be_announced"]}
    healable = [k for way in WAYS for k in keys[way] if k not in poisoned]
    assert {paid.get(int(k[1:]), 0) for k in [*healable, *moving, *unsent]} == {1}
    assert not any(paid.get(int(k[1:])) for k in poisoned)
    counts = world.store.status_counts()
    assert counts["quarantined"] == len(poisoned) == 2 * each
    assert counts["done"] == stuck - 2 * each + len(moving) + len(unsent) + counts.get("fresh", 0) + sum(
        paid.get(int(k[1:]), 0) for k in fresh
    )
    attempts = dict(db.execute("SELECT key, republish_attempts FROM items WHERE status = 'quarantined'"))
    assert {attempts[k] for k in keys["cannot_be_announced"]} == {5}


def test_the_hundred_and_first_is_never_starved(tmp_path):
    world = World(tmp_path / "h.db")
    world.put(range(300), "cannot_be_announced")
    good = world.put([999], "announcement_lost")
    world.store.db.execute("DELETE FROM outbox")
    world.clock.advance_us(HOUR)
    sweeps = [world.sweep() for _ in range(4)]
    assert [s.failed for s in sweeps] == [100, 100, 100, 0]
    assert sum(s.items_republished for s in sweeps) == 1
    world.deliver()
    assert world.worker.drain().handled == 1
    assert world.store.item_status(good[0]) == "done"


CHILD = """
import sys
sys.path.insert(0, {folder!r})
from headgate import _native
from headgate._core import ManualClock
from test_healing_chaos import World
_native.set_faults({faults!r})
world = World({path!r}, ManualClock({now}))
world.sweep()
"""


@pytest.mark.parametrize("point", ["healing.before_item", "healing.after_item"])
def test_sweepers_killed_at_every_named_point(tmp_path, point):
    world = World(tmp_path / "h.db")
    world.put(range(120), "announcement_lost")
    world.store.db.execute("DELETE FROM outbox")
    world.clock.advance_us(HOUR)
    killed = 0
    for at in (1, 50, 100):
        code = CHILD.format(
            folder=os.path.dirname(__file__),
            faults=f"{point}:kill:{at}",
            path=str(tmp_path / "h.db"),
            now=world.clock.now_us(),
        )
        process = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, timeout=120)
        killed += process.returncode == -signal.SIGKILL
    assert killed == 3
    for _ in range(3):
        world.sweep()
    assert world.store.count("SELECT count(*) FROM outbox") == 120
    world.deliver()
    assert world.worker.drain().handled == 120
    assert world.store.db.execute("SELECT count(*), count(DISTINCT k) FROM paid") == [(120, 120)]
    assert json.dumps(world.store.status_counts()) == '{"done": 120}'


TOGETHER = """
import sys
sys.path.insert(0, {folder!r})
from headgate._core import ManualClock
from test_healing_chaos import World
world = World({path!r}, ManualClock({now}))
print("ready", flush=True)
sys.stdin.readline()
sweeps = [world.sweep() for _ in range(4)]
print(sum(s.items_republished for s in sweeps), sum(s.failed for s in sweeps), sum(len(s.errors) for s in sweeps))
"""


def test_two_processes_sweep_one_file_and_each_item_is_announced_once(tmp_path):
    world = World(tmp_path / "h.db")
    world.put(range(300), "announcement_lost")
    world.store.db.execute("DELETE FROM outbox")
    world.clock.advance_us(HOUR)
    code = TOGETHER.format(folder=os.path.dirname(__file__), path=str(tmp_path / "h.db"), now=world.clock.now_us())
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = [[int(n) for n in process.communicate(timeout=110)[0].split()] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert (sum(p[0] for p in printed), [p[1:] for p in printed]) == (300, [[0, 0], [0, 0]])
    assert world.store.db.execute("SELECT count(*), count(DISTINCT key) FROM outbox") == [(300, 300)]
    world.deliver()
    assert world.worker.drain().handled == 300
    assert world.store.db.execute("SELECT count(*), count(DISTINCT k) FROM paid") == [(300, 300)]
