"""Real Kafka, real Redis, and everything that goes wrong between them; the counts at the end are exact.

Two groups read one topic. `tx` writes rows in the commit that completes its claim (SQLite): each event exactly once.
`plain` appends lines to a file under a Redis ledger: each at least once, and how often more is counted. Consumers die at
every named point and at random, the broker and Redis restart, connections are cut and slowed, rebalances are forced.
The schedule comes from a seed, which is printed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from headgate.backends.local import LocalDatabase
from headgate.testing.proxy import FaultProxy
from headgate.testing.servers import KafkaServer, RedisServer

confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]
SEEDS = max(1, int(os.environ.get("HEADGATE_CHAOS_SEEDS", "2")) // 2)
EVENTS = int(os.environ.get("HEADGATE_CHAOS_EVENTS", "10000"))
LEASE_S = 2.0
PARTITIONS = 6
STEP = EVENTS // 50  # sent between two actions; the rest follows after the chaos
POINTS = {
    "tx": ("before_claim", "after_claim", "mid_handler", "after_effect", "before_commit", "after_commit",
           "before_offset_commit", "after_offset_commit"),
    "plain": ("before_claim", "after_claim", "mid_handler", "after_effect", "before_complete", "after_commit",
              "before_offset_commit", "after_offset_commit"),
}  # fmt: skip
HANDLERS = """
import os
from headgate._native import core

def tx(body, tx):
    core.fault_point("consume.mid_handler")
    tx.execute("INSERT INTO effects VALUES (?)", (body["data"]["n"],))

def plain(body):
    core.fault_point("consume.mid_handler")
    with open(os.environ["EFFECTS"], "ab", buffering=0) as out:
        out.write(b"%d\\n" % body["data"]["n"])
"""
CONFIG = """
[backends]
store = "sqlite:///{name}.db"
ledger = "{ledger}"
durability = "normal"
[consumers.{name}]
topic = "events"
handler = "chaos_handlers:{name}"
queue = "kafka://127.0.0.1:{port}?session.timeout.ms=2000&heartbeat.interval.ms=500&reconnect.backoff.max.ms=500"
effects = "{effects}"
lease_s = {lease}
max_attempts = 100
concurrency = 3
"""


class Fleet:
    """The consumers of one group, as processes."""

    def __init__(self, name, folder, rng):
        self.name, self.folder, self.rng = name, folder, rng
        self.processes = {}  # process -> the point it is to die at, or None
        self.died_at = Counter()
        self.killed = 0

    def add(self, point=None, soon=False):
        # Offsets are committed once a second, the other points are passed with every message.
        hit = self.rng.randrange(1, 3 if soon or (point and "offset" in point) else 25)
        faults = f"consume.{point}:kill:{hit}" if point else ""
        environment = {
            **os.environ, "HEADGATE_FAULTS": faults, "PYTHONPATH": str(self.folder),
            "EFFECTS": str(self.folder / "effects.txt"),
        }  # fmt: skip
        command = [
            sys.executable, "-m", "headgate", "consume", self.name, "--forever", "--config", f"{self.name}.toml"
        ]  # fmt: skip
        with (self.folder / f"{self.name}.log").open("ab") as log:
            process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)
        self.processes[process] = point

    def reap(self):
        """Take note of the dead; anything but our own SIGKILL is a failure of the test."""
        for process, point in list(self.processes.items()):
            if process.poll() is None:
                continue
            del self.processes[process]
            assert process.returncode == -signal.SIGKILL, (self.folder / f"{self.name}.log").read_text()[-3000:]
            self.killed += 1
            if point is not None:
                self.died_at[point] += 1

    def kill_one(self):
        free = [p for p, point in self.processes.items() if point is None or self.died_at[point]]
        if free:
            self.rng.choice(free).kill()

    def missing(self):
        return [point for point in POINTS[self.name] if not self.died_at[point]]

    def hurry(self):
        """Nobody waits to die at a missing point: make room for one that does."""
        if self.missing() and not set(self.missing()) & set(self.processes.values()):
            self.kill_one()

    def next_point(self):
        """A point nobody has died at yet, while there is one."""
        return next((point for point in self.missing() if point not in self.processes.values()), None)

    def stop(self, how=signal.SIGTERM):
        for process in self.processes:
            process.send_signal(how)
        for process in self.processes:
            process.wait(60)


class World:
    def __init__(self, folder, jars, persistence):
        self.folder = folder
        self.redis = RedisServer(folder / "redis", persistence=persistence)
        self.kafka = KafkaServer(jars, folder / "kafka")
        self.kafka_proxy = FaultProxy(self.kafka.port)
        self.redis_proxy = FaultProxy(self.redis.port)
        self.kafka.advertised = self.kafka_proxy.port

    def __enter__(self):
        self.kafka_proxy.start()
        self.redis_proxy.start()
        self.redis.start()
        self.kafka.start()
        self.producer = confluent_kafka.Producer({
            "bootstrap.servers": f"127.0.0.1:{self.kafka.port}", "linger.ms": 20, "enable.idempotence": True,
        })  # fmt: skip
        return self

    def __exit__(self, *error):
        for server in (self.kafka, self.redis):
            server.stop(signal.SIGKILL)
        self.kafka_proxy.close()
        self.redis_proxy.close()

    def actions(self):
        return {
            "cut kafka": self.kafka_proxy.cut,
            "cut redis": self.redis_proxy.cut,
            "slow both": self.slow,
            "lose an answer of redis": lambda: self.redis_proxy.lose_answers(2),
            "restart the broker": lambda: self.kafka.restart(signal.SIGKILL),
            "restart redis": lambda: self.redis.restart(signal.SIGKILL),
        }

    def slow(self):
        for proxy in (self.kafka_proxy, self.redis_proxy):
            proxy.slow(0.02)
        time.sleep(0.5)
        for proxy in (self.kafka_proxy, self.redis_proxy):
            proxy.slow(0)

    def plan(self, rng):
        """EVENTS events in order, a third of them once or twice again later."""
        numbers = list(range(EVENTS))
        again = rng.sample(numbers, EVENTS // 3)
        numbers += again + rng.sample(again, len(again) // 3)
        head, tail = numbers[: EVENTS // 2], numbers[EVENTS // 2 :]
        rng.shuffle(tail)
        self.unsent = head + tail
        self.sent = 0

    def produce(self, count, rng):
        """Send the next so many; a delivery has an envelope of its own, and often another partition."""
        numbers, self.unsent = self.unsent[:count], self.unsent[count:]
        for n in numbers:
            body = {"event_id": f"delivery-{self.sent}", "data": {"n": n}}
            self.producer.produce("events", json.dumps(body).encode(), str(rng.randrange(1000)).encode())
            self.producer.poll(0)
            self.sent += 1
        assert self.producer.flush(60) == 0

    def settled(self, group):
        consumer = confluent_kafka.Consumer({"bootstrap.servers": f"127.0.0.1:{self.kafka.port}", "group.id": group})
        try:
            places = [confluent_kafka.TopicPartition("events", p) for p in range(PARTITIONS)]
            return sum(max(0, place.offset) for place in consumer.committed(places, timeout=10))
        except confluent_kafka.KafkaException:
            return -1
        finally:
            consumer.close()


@pytest.mark.parametrize("persistence", ["always", "none"])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_event_has_its_effect(tmp_path, pytestconfig, seed, persistence):
    jars = pytestconfig.rootpath / ".servers" / "kafka"
    if not jars.is_dir():
        pytest.skip(f"there is no Kafka in {jars}")
    print(f"seed {seed}, redis persistence {persistence}, {EVENTS} events")
    rng = random.Random(f"{seed}{persistence}")
    with World(tmp_path, jars, persistence) as world:
        (tmp_path / "chaos_handlers.py").write_text(HANDLERS)
        redis_url = f"redis://127.0.0.1:{world.redis_proxy.port}/0?reconnect=0.2&timeout=2"
        for name, ledger, effects in (("tx", "", "transaction"), ("plain", redis_url, "plain")):
            text = CONFIG.format(name=name, ledger=ledger, effects=effects, port=world.kafka_proxy.port, lease=LEASE_S)
            (tmp_path / f"{name}.toml").write_text(text)
        database = LocalDatabase(str(tmp_path / "tx.db"), durability="normal", busy_timeout_s=30)
        database.execute("CREATE TABLE effects (n INTEGER)")
        admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": f"127.0.0.1:{world.kafka.port}"})
        topics = [confluent_kafka.admin.NewTopic(t, PARTITIONS, 1) for t in ("events", "events.DLQ")]
        for future in admin.create_topics(topics).values():
            future.result(20)
        world.plan(rng)
        fleets = [Fleet("tx", tmp_path, rng), Fleet("plain", tmp_path, rng)]
        try:
            done = run_chaos(world, fleets, rng)
            world.produce(len(world.unsent), rng)
            sent = world.sent
            for fleet in fleets:
                fleet.reap()
                for process in fleet.processes:
                    process.kill()  # some of them may be waiting to die at a point
                for process in list(fleet.processes):
                    process.wait()
                fleet.reap()
                fleet.add()
                fleet.add()
            settle(world, fleets, sent)
        finally:
            for fleet in fleets:
                fleet.stop()
        rows = Counter(n for (n,) in database.execute("SELECT n FROM effects"))
        lines = Counter(int(line) for line in (tmp_path / "effects.txt").read_text().split())
        repeated = sum(lines.values()) - len(lines)
        kills = {fleet.name: fleet.killed for fleet in fleets}
        print(f"sent {sent}, actions {dict(done)}, kills {kills}, plain effects repeated {repeated}")
        # Transactional effects: exactly once, whatever happened.
        assert rows == Counter(range(EVENTS))
        # The others: none lost; repeated only where a mark was lost.
        assert set(lines) == set(range(EVENTS))
        for fleet in fleets:
            assert fleet.missing() == []
        if persistence == "always":
            # A process that died, or could not reach Redis for its whole patience, between effect and mark.
            assert repeated <= 3 * fleets[1].killed + 3 * 2 * done["restart redis"] + 3 * 2 * done["cut redis"]
        assert admin.list_topics("events.DLQ", timeout=10) is not None
        letters = confluent_kafka.Consumer({"bootstrap.servers": f"127.0.0.1:{world.kafka.port}", "group.id": "x"})
        ends = [
            letters.get_watermark_offsets(confluent_kafka.TopicPartition("events.DLQ", p), timeout=10)[1]
            for p in range(PARTITIONS)
        ]
        letters.close()
        assert sum(ends) == 0
        database.close()


def run_chaos(world, fleets, rng):
    """Until every action happened and every point had its victim, in each group."""
    done = Counter()
    actions = world.actions()
    order = rng.sample(list(actions), len(actions))
    started = time.monotonic()
    waiting = order
    while waiting or any(fleet.missing() for fleet in fleets):
        assert time.monotonic() - started < 300, (done, {fleet.name: fleet.missing() for fleet in fleets})
        # Always less than what is left: where machines are slow, consumers that are to die at their nth message get it.
        world.produce(max(1, min(STEP, len(world.unsent) // 20)), rng)
        for fleet in fleets:
            fleet.reap()
            while len(fleet.processes) < 2:
                fleet.add(fleet.next_point(), soon=not waiting)
        # Each fault once, in an order of the seed, with deaths and rebalances in between. After the last fault
        # only the points' own victims die: on a slow machine a group that is rebalanced every second handles nothing.
        if not waiting:
            name = "nothing"
            for fleet in fleets:
                fleet.hurry()
        elif rng.random() < 0.5:
            name = waiting[0]
        else:
            name = rng.choice(["kill", "join", "nothing", "nothing"])
        if name == "kill":
            rng.choice(fleets).kill_one()
        elif name == "join":
            rng.choice(fleets).add(None)  # a third one: a rebalance now, another when it dies
        elif name != "nothing":
            actions[name]()
        done[name] += 1
        time.sleep(rng.uniform(0.3, 1.2))
        print(
            f"{time.monotonic() - started:5.1f} {name}", {f.name: sum(f.died_at.values()) for f in fleets}, flush=True
        )
        waiting = [a for a in order if not done[a]]
        for fleet in fleets:
            if len(fleet.processes) > 3:
                fleet.kill_one()
    return done


def settle(world, fleets, sent):
    """Clean consumers finish: nobody waits for a dead one longer than its lease and the session time-out."""
    last, moved = {}, {fleet.name: time.monotonic() for fleet in fleets}
    while True:
        counts = {fleet.name: world.settled(fleet.name) for fleet in fleets}
        if all(count == sent for count in counts.values()):
            return
        now = time.monotonic()
        for name, count in counts.items():
            if count != last.get(name):
                last[name], moved[name] = count, now
            if count != sent:
                assert now - moved[name] < 20 * LEASE_S, f"{name} is stuck at {count} of {sent}"
        for fleet in fleets:
            assert all(process.poll() is None for process in fleet.processes), "a clean consumer ended"
        time.sleep(0.2)
