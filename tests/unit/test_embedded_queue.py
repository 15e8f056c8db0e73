"""The embedded queue's worker: acknowledgement at once, leases of what waits, rests, and what a letter keeps."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading

import pytest

from headgate import Ledger
from headgate._core import ManualClock, SystemClock
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.consume import Consumer, ConsumeResult, Worker, dead_letter, dead_letter_counts, dead_letters
from headgate.errors import ConfigError, NotFoundError, TransientError
from headgate.ops import MemoryMetrics

NOW = 1_780_000_000_000_000


class Away(Ledger):
    """A ledger whose server is away while `is_away` holds."""

    is_away = True

    def claim(self, *arguments, **options):
        if self.is_away:
            message = "the ledger is away"
            raise TransientError(message)
        return super().claim(*arguments, **options)


@pytest.fixture
def clock():
    return ManualClock(NOW)


@pytest.fixture
def queue(tmp_path, clock):
    store = LocalStore(LocalDatabase(str(tmp_path / "q.db"), durability="normal"), clock, "p")
    store.db.execute("CREATE TABLE effects (n)")
    return store


def fill(store, *numbers):
    for n in numbers:
        store.publish("t", str(n), {"n": n})
    store.relay_outbox({"t": ["c"]})


def depth(store):
    return store.queue_depth("t", "c")[0]


# --- acknowledged at once


@pytest.mark.parametrize("place", ["the store's file", "another file", "memory"])
@pytest.mark.parametrize("count", [1, 12])
def test_a_plain_effect_is_acknowledged_at_once(queue, clock, tmp_path, place, count):
    ledger = {
        "the store's file": lambda: Ledger.on_database(queue.db, clock=clock),
        "another file": lambda: Ledger.open(f"sqlite:////{tmp_path}/ledger.db", clock=clock),
        "memory": lambda: Ledger.open("memory://", clock=clock),
    }[place]()
    fill(queue, *range(count))
    ran = []
    result = Worker(Consumer("c", "t", ran.append, effects="plain"), queue, ledger, clock).drain()
    assert (result.handled, len(ran), depth(queue)) == (count, count, 0)
    assert clock.now_us() == NOW  # no lease had to end


def test_a_ledger_elsewhere_and_an_acknowledgement_that_is_lost(queue, clock, tmp_path):
    """Completed, not acknowledged: the message comes back and is known as done."""
    ledger = Ledger.open(f"sqlite:////{tmp_path}/ledger.db", clock=clock)
    fill(queue, 1)
    ran = []
    worker = Worker(Consumer("c", "t", ran.append, effects="plain"), queue, ledger, clock)
    acknowledge = queue.acknowledge

    def lost(*_):
        queue.acknowledge = acknowledge
        message = "away"
        raise TransientError(message)

    queue.acknowledge = lost
    first = worker.drain(wait_s=60)
    assert (len(ran), depth(queue)) == (1, 0)
    assert (first.waiting, first.duplicates, first.received) == (1, 1, 2)
    assert queue.dead_letters() == []


KILLED = """
import os, signal, sys
from headgate import Ledger
from headgate._core import SystemClock
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.consume import Consumer, Worker

folder, clock = sys.argv[1], SystemClock()
store = LocalStore(LocalDatabase(f"{folder}/q.db", durability="normal"), clock, "p")
ledger = Ledger.open(f"sqlite:////{folder}/ledger.db", clock=clock)
def run(body):
    with open(f"{folder}/effects", "a") as file:
        file.write("x")
if sys.argv[2] == "kill":
    store.acknowledge = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
print(Worker(Consumer("c", "t", run, effects="plain"), store, ledger, clock).drain(5).duplicates)
"""


def test_a_worker_killed_between_its_mark_and_its_acknowledgement_repeats_nothing(queue, tmp_path):
    """The ledger lies in a file of its own, so that the two are two commits."""
    queue.clock = SystemClock()
    fill(queue, 1)
    queue.db.close()

    def run(how):
        return subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path), how], capture_output=True, text=True, timeout=60, env=os.environ
        )  # fmt: skip

    assert run("kill").returncode == -signal.SIGKILL
    after = run("go on")
    assert (after.returncode, after.stdout.strip()) == (0, "1"), after.stderr  # one duplicate
    assert (tmp_path / "effects").read_text() == "x"
    store = LocalStore(LocalDatabase(str(tmp_path / "q.db")), SystemClock(), "p")
    assert depth(store) == 0


@pytest.mark.parametrize("place", ["the store's file", "another file", "memory"])
def test_who_waits_for_a_dead_letter_is_told_in_its_commit(queue, clock, tmp_path, place):
    ledger = {
        "the store's file": lambda: Ledger.on_database(queue.db, clock=clock),
        "another file": lambda: Ledger.open(f"sqlite:////{tmp_path}/ledger.db", clock=clock),
        "memory": lambda: Ledger.open("memory://", clock=clock),
    }[place]()

    def handle(body):
        raise ValueError("no")

    def told(body, reason, tx):
        tx.execute("INSERT INTO effects VALUES (?)", (body["n"],))
        if not again:
            again.append(1)
            message = "the callback fails the first time"
            raise TransientError(message)

    again: list[int] = []
    fill(queue, 7)
    consumer = Consumer("c", "t", handle, effects="plain", max_attempts=1, on_dead_letter=told, lease_s=1)
    result = Worker(consumer, queue, ledger, clock).drain(60)
    assert (result.dead_lettered, result.failed, depth(queue)) == (1, 1, 0)
    assert [x["seen"] for x in queue.dead_letters()] == [1]
    assert queue.db.execute("SELECT n FROM effects") == [(7,)]


# --- which ledger


def test_a_ledger_on_another_database_is_refused(queue, clock, tmp_path):
    other = Ledger.open(f"sqlite:////{tmp_path}/other.db", clock=clock)
    with pytest.raises(ConfigError, match=r"consumer c: .*expected Ledger\.on_database\(store\.db\)"):
        Worker(Consumer("c", "t", lambda body, tx: None), queue, other, clock)
    with pytest.raises(ConfigError, match="needs a SQLite ledger"):
        Worker(Consumer("c", "t", lambda body, tx: None), queue, Ledger.open("memory://", clock=clock), clock)


@pytest.mark.parametrize("effects", ["plain", "transaction"])
def test_a_second_connection_to_the_stores_file_is_refused(queue, clock, tmp_path, effects):
    twin = Ledger.open(f"sqlite:////{tmp_path}/q.db", clock=clock)
    with pytest.raises(ConfigError, match=r"expected Ledger\.on_database\(store\.db\)"):
        Worker(Consumer("c", "t", lambda *_: None, effects=effects), queue, twin, clock)


# --- leases of what was received


@pytest.mark.parametrize("effects", ["plain", "transaction"])
def test_messages_behind_a_slow_one_are_not_received_by_another_worker(queue, clock, effects):
    ledger = Ledger.on_database(queue.db, clock=clock)
    seen: list[tuple[str, int]] = []
    others = ConsumeResult()

    def slow(body, tx=None):
        seen.append(("first", body["n"]))
        clock.advance_us(25_000_000)  # nearly a lease each: ten messages take eight leases
        if effects == "plain":
            second.step(others)

    def quick(body, tx=None):
        seen.append(("second", body["n"]))

    fill(queue, *range(10))
    second = Worker(Consumer("c", "t", quick, effects=effects, lease_s=30), queue, ledger, clock)
    first = Worker(Consumer("c", "t", slow, effects=effects, lease_s=30), queue, ledger, clock)
    result = ConsumeResult()
    acknowledge = queue.acknowledge

    def then_the_other(message, tx=None):
        acknowledge(message, tx)

    queue.acknowledge = then_the_other
    first.step(result)
    assert (result.handled, others.received) == (10, 0)
    assert seen == [("first", n) for n in range(10)]
    assert (second.drain().received, depth(queue)) == (0, 0)


def test_a_handler_slower_than_its_lease_keeps_its_message_and_those_behind_it(tmp_path):
    """With the system's clock: the renewing thread is at work while the handler is."""
    clock = SystemClock()
    store = LocalStore(LocalDatabase(str(tmp_path / "q.db"), durability="normal"), clock, "p")
    fill(store, *range(3))
    ledger = Ledger.on_database(store.db, clock=clock)
    others, inside, leave = ConsumeResult(), threading.Event(), threading.Event()

    def slow(body):
        if body["n"] == 0:
            inside.set()
            assert leave.wait(30)

    first = Worker(Consumer("c", "t", slow, effects="plain", lease_s=0.6), store, ledger, clock)
    second = Worker(Consumer("c", "t", lambda body: None, effects="plain", lease_s=0.6), store, ledger, clock)
    result = ConsumeResult()
    thread = threading.Thread(target=first.step, args=(result,))
    thread.start()
    assert inside.wait(30)
    until = clock.mono_us() + 2_000_000  # more than three leases
    while clock.mono_us() < until:
        second.step(others)
        clock.sleep_us(50_000)
    leave.set()
    thread.join(30)
    assert (result.handled, others.received, depth(store)) == (3, 0, 0)


def test_what_another_worker_has_received_is_left_to_it(queue, clock):
    """The first worker stood still for longer than its lease, without renewing anything."""
    ledger = Ledger.on_database(queue.db, clock=clock)
    taken: list[object] = []

    def still(body):
        if body["n"] == 0:
            clock.advance_us(400_000_000)
            taken.extend(queue.receive("t", "c", 2, 300_000_000))

    fill(queue, *range(4))
    worker = Worker(Consumer("c", "t", still, effects="plain", lease_s=300), queue, ledger, clock)
    result = ConsumeResult()
    worker.step(result)
    assert [m.body["n"] for m in taken] == [0, 1]
    assert result.received == 3  # 0, and those that nobody else had received
    assert depth(queue) == 1  # 1 is the other one's, and still its own
    assert queue.receive("t", "c", 10, 1_000_000) == []


def test_a_message_given_back_too_late_is_left_to_its_new_owner(queue, clock):
    fill(queue, 1)
    (old,) = queue.receive("t", "c", 1, 1_000_000)
    clock.advance_us(2_000_000)
    (new,) = queue.receive("t", "c", 1, 1_000_000)
    queue.defer(old, clock.now_us())
    assert (queue.extend([old], 9_000_000), queue.receive("t", "c", 1, 1)) == ([], [])
    assert queue.extend([new], 9_000_000) == [new]
    queue.defer(new, clock.now_us())
    assert queue.extend([new], 9_000_000) == []
    assert len(queue.receive("t", "c", 1, 1)) == 1


def test_stopping_and_interrupting_give_back_what_waits(queue, clock):
    ledger = Ledger.on_database(queue.db, clock=clock)

    def interrupted(body):
        raise KeyboardInterrupt

    fill(queue, *range(5))
    with pytest.raises(KeyboardInterrupt):
        Worker(Consumer("c", "t", interrupted, effects="plain"), queue, ledger, clock).drain()
    assert Worker(Consumer("c", "t", lambda body: None, effects="plain"), queue, ledger, clock).drain().handled == 5


def test_a_body_that_is_no_json_is_a_dead_letter_and_nothing_waits(queue, clock):
    queue.db.execute(
        "INSERT INTO queue (topic, grp, key, body, visible_us) VALUES ('t', 'c', 'k', '{broken', 1), ('t', 'c', 'k', '[]', 1)"
    )
    fill(queue, 1)
    ledger = Ledger.on_database(queue.db, clock=clock)
    result = Worker(Consumer("c", "t", lambda body, tx: None), queue, ledger, clock).drain()
    assert (result.handled, result.dead_lettered, depth(queue)) == (1, 2, 0)
    assert [(x["kind"], x["doc"]) for x in queue.dead_letters()] == [
        ("invalid_json", "{broken"),
        ("invalid_record", "[]"),
    ]


# --- something is away


@pytest.mark.parametrize("error", [ConnectionError("away"), TimeoutError("away"), TransientError("away")])
@pytest.mark.parametrize("effects", ["plain", "transaction"])
def test_what_is_away_for_twenty_seconds_uses_up_no_attempt(queue, clock, error, effects):
    calls = []
    back = clock.now_us() + 20_000_000

    def handle(body, tx=None):
        calls.append(body["n"])
        if clock.now_us() < back:
            raise error

    fill(queue, *range(12))
    ledger = Ledger.on_database(queue.db, clock=clock)
    result = Worker(Consumer("c", "t", handle, effects=effects, max_attempts=5), queue, ledger, clock).drain(120)
    assert (result.handled, result.failed, result.dead_lettered, depth(queue)) == (12, 0, 0, 0)
    assert queue.dead_letters() == []
    assert sorted(set(calls)) == list(range(12))
    assert len(calls) - 12 == result.waiting == 5  # 1, 2, 4, 8 and 16 s: the worker rests, whatever message it was


def test_a_failure_of_the_message_itself_still_counts(queue, clock):
    def handle(body):
        raise ValueError("no")

    fill(queue, 1)
    ledger = Ledger.on_database(queue.db, clock=clock)
    consumer = Consumer("c", "t", handle, effects="plain", max_attempts=5, backoff_base_s=1, backoff_cap_s=3)
    result = Worker(consumer, queue, ledger, clock).drain(120)
    assert (result.failed, result.dead_lettered, depth(queue)) == (4, 1, 0)
    assert 2 + 3 + 3 + 3 <= (clock.now_us() - NOW) / 1e6 < 12  # the configured back-off


def test_a_ledger_that_is_away_for_a_minute_buries_nothing(queue, clock):
    ledger = Away.open("memory://", clock=clock)
    fill(queue, *range(3))
    ran = []
    worker = Worker(Consumer("c", "t", ran.append, effects="plain"), queue, ledger, clock)
    result = ConsumeResult()
    while clock.now_us() < NOW + 60_000_000:
        worker.step(result)
        clock.advance_us(50_000)
    Away.is_away = False
    try:
        final = worker.drain(120)
    finally:
        Away.is_away = True
    assert (len(ran), result.waiting, final.handled, depth(queue)) == (3, 6, 3, 0)
    assert queue.dead_letters() == []


def test_an_effect_that_runs_unprotected_is_acknowledged_too(queue, clock):
    ledger = Away.open("memory://", clock=clock)
    fill(queue, *range(3))
    ran = []
    consumer = Consumer("c", "t", ran.append, effects="plain", on_unavailable="process")
    result = Worker(consumer, queue, ledger, clock).drain()
    assert (result.handled, len(ran), depth(queue)) == (3, 3, 0)


def test_a_message_whose_own_server_is_away_does_not_keep_the_others(queue, clock):
    def handle(body):
        if body["n"] == 0:
            raise ConnectionError("only this one")
        ran.append(body["n"])

    ran: list[int] = []
    fill(queue, *range(5))
    ledger = Ledger.on_database(queue.db, clock=clock)
    Worker(Consumer("c", "t", handle, effects="plain"), queue, ledger, clock).drain(3)
    assert (ran, depth(queue)) == ([1, 2, 3, 4], 1)


# --- what is said at start


def test_a_worker_says_at_start_what_weakens_its_guarantees(queue, clock, caplog):
    ledger = Ledger.open("memory://", clock=clock)
    ledger.warnings = lambda **_: ["done keys may be evicted"]
    worker = Worker(Consumer("c", "t", lambda body: None, effects="plain"), queue, ledger, clock)
    with caplog.at_level(logging.WARNING):
        worker.run(max_idle_s=0)
    assert [(r.consumer, r.warning) for r in caplog.records] == [("c", "done keys may be evicted")]


# --- letters


def test_a_letter_keeps_what_came_with_its_message_and_is_shown_on_request(queue, clock):
    def handle(body):
        raise ValueError("secret reason")

    fill(queue, 7)
    metrics = MemoryMetrics()
    ledger = Ledger.on_database(queue.db, clock=clock)
    Worker(Consumer("c", "t", handle, effects="plain", max_attempts=2), queue, ledger, clock, metrics).drain(60)
    assert dead_letter_counts(queue) == [
        {"stage": "consume", "pipeline": "c", "kind": "attempts_exhausted", "letters": 1, "seen": 1}
    ]
    (short,) = dead_letters(queue, consumer="c")
    assert {"reason", "doc", "body", "key", "headers"} & set(short) == set()
    assert (short["attempts"], short["message_id"], short["source"]) == (2, "1", "t")
    (whole,) = dead_letters(queue, stage="consume", kind="attempts_exhausted", whole=True)
    shown = dead_letter(queue, short["id"])
    assert {name: shown[name] for name in whole} == whole
    assert (shown["body"], shown["key"], shown["reason"]) == ('{"n":7}', "7", "ValueError: secret reason")
    assert dead_letters(queue, consumer="other") == dead_letters(queue, stage="outbox") == []
    with pytest.raises(NotFoundError, match="there is no dead letter 99"):
        dead_letter(queue, 99)


def test_a_validation_failure_says_what_was_expected_and_the_kind_of_what_was_got(queue, clock):
    import pydantic

    class Order(pydantic.BaseModel):
        n: int
        name: str

        @pydantic.field_validator("name")
        @classmethod
        def check(cls, value):
            message = f"{value} is secret"
            raise ValueError(message)

    queue.publish("t", "k", {"n": "a secret", "name": "a secret"})
    queue.relay_outbox({"t": ["c"]})
    ledger = Ledger.on_database(queue.db, clock=clock)
    consumer = Consumer("c", "t", Order.model_validate, effects="plain", max_attempts=1)
    assert Worker(consumer, queue, ledger, clock).drain().dead_lettered == 1
    (letter,) = dead_letters(queue, whole=True)
    assert "n: Input should be a valid integer" in letter["reason"]
    assert "(int_parsing), got str" in letter["reason"]
    assert "name: value_error (value_error), got str" in letter["reason"]
    assert "secret" not in letter["reason"]
    assert json.loads(letter["body"])["name"] == "a secret"


def test_a_redriven_letter_keeps_its_key(queue, clock):
    broken, keys = [True], []

    def handle(body):
        if broken:
            raise ValueError("no")

    fill(queue, 7)
    ledger = Ledger.on_database(queue.db, clock=clock)
    worker = Worker(Consumer("c", "t", handle, effects="plain", max_attempts=1), queue, ledger, clock)
    assert worker.drain().dead_lettered == 1
    broken.clear()
    assert (queue.redrive("c"), queue.redrive("c")) == (1, 0)
    keys += [key for (key,) in queue.db.execute("SELECT key FROM queue")]
    assert (keys, worker.drain().handled) == (["7"], 1)
