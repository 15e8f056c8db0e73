"""The SQS worker against a service that keeps SQS's rules, on a clock that is moved by hand."""

from __future__ import annotations

import json
import logging
import queue
import threading
import types

import pytest

from headgate import Ledger
from headgate.consume import Consumer, SqsWorker
from headgate.consume._sqs_visibility import VisibilityKeeper
from headgate.errors import AccessError, ConfigError, TransientError

QUEUE, DEAD = "https://sqs/1/q", "https://sqs/1/dead"
FIFO, DEAD_FIFO = QUEUE + ".fifo", DEAD + ".fifo"


class World:
    def __init__(self, sqs, clock):
        self.sqs, self.clock = sqs, clock
        self.ledger = Ledger.open("memory://", clock=clock)
        self.done = []

    def send(self, url, *bodies, **options):
        for n, body in enumerate(bodies):
            more = {"MessageDeduplicationId": f"{n}-{body}"} if url.endswith(".fifo") else {}
            self.sqs.send_message(QueueUrl=url, MessageBody=json.dumps(body), **more, **options)

    def handle(self, body):
        self.done.append(body["n"])

    def worker(self, handler=None, url=QUEUE, ledger=None, dead=None, concurrency=4, **consumer):
        made = Consumer("c", "t", handler or self.handle, effects="plain", **consumer)
        return SqsWorker(
            made, ledger or self.ledger, self.clock, self.sqs, url, dead_letter_url=dead, concurrency=concurrency
        )  # fmt: skip


@pytest.fixture
def world(sqs, clock):
    sqs.create(QUEUE)
    return World(sqs, clock)


# --- order


def ordered(*failing):
    """A handler that fails once for each of these, and what it ran."""
    ran, left = [], list(failing)

    def handle(body):
        ran.append(body["n"])
        if body["n"] in left:
            left.remove(body["n"])
            raise ValueError("once")

    return handle, ran


@pytest.mark.parametrize("policy", [None, 5])
def test_a_fifo_group_is_handled_in_order_and_not_past_a_failure(world, policy):
    if policy is None:
        world.sqs.create(FIFO)
    else:
        world.sqs.create(FIFO, dead=world.sqs.create(DEAD_FIFO), most=policy)
    world.send(FIFO, *({"n": n} for n in range(6)), MessageGroupId="g")
    handle, ran = ordered(0, 3, 3)
    result = world.worker(handle, FIFO).drain(3)
    assert ran == [0, 0, 1, 2, 3, 3, 3, 4, 5]
    assert (result.handled, result.failed) == (6, 3)
    assert world.sqs.of(FIFO) == []


def test_messages_behind_a_failing_one_are_not_moved_unread(world):
    world.sqs.create(FIFO, dead=world.sqs.create(DEAD_FIFO), most=3)
    world.send(FIFO, *({"n": n} for n in range(5)), MessageGroupId="g")
    handle, ran = ordered(0, 0, 0)
    world.worker(handle, FIFO).drain(3)
    assert ran == [0, 0, 0, 1, 2, 3, 4]
    assert [m["body"] for m in world.sqs.of(DEAD_FIFO)] == ['{"n": 0}']


def test_a_fifo_group_waits_for_its_message_that_waits(world):
    world.sqs.create(FIFO)
    world.send(FIFO, *({"n": n} for n in range(3)), MessageGroupId="g")
    worker = world.worker(None, FIFO)
    held = world.ledger.claim(worker.consumer.claim_key({"n": 0}), 20)
    result = worker.drain(1)
    assert (world.done, result.waiting) == ([], 1)
    result = world.worker(None, FIFO).drain(30)
    assert world.done == [0, 1, 2]
    assert held.status == "acquired"


def test_other_groups_go_on_beside_a_slow_one(world):
    world.sqs.create(FIFO)
    for group in ("a", "b"):
        for n in range(2):
            body = json.dumps({"n": f"{group}{n}"})
            world.sqs.send_message(QueueUrl=FIFO, MessageBody=body, MessageGroupId=group, MessageDeduplicationId=body)
    b_is_done = threading.Event()
    ran = []

    def handle(body):
        if body["n"] == "a0":
            assert b_is_done.wait(20)
        ran.append(body["n"])
        if body["n"] == "b1":
            b_is_done.set()

    world.worker(handle, FIFO).drain(1)
    assert ran == ["b0", "b1", "a0", "a1"]


def test_a_fair_queue_is_not_fifo(world):
    world.send(QUEUE, *({"n": n} for n in range(3)), MessageGroupId="tenant")
    both = threading.Barrier(3, timeout=20)
    result = world.worker(lambda body: both.wait() and None).drain(0)
    assert result.handled == 3  # side by side


def test_a_lost_answer_of_a_fifo_receive_is_asked_for_again(world):
    world.sqs.create(FIFO)
    world.send(FIFO, {"n": 1}, MessageGroupId="g")
    world.sqs.failures.append(("receive_message", ConnectionError()))
    world.worker(None, FIFO).drain(5)
    ids = [options["ReceiveRequestAttemptId"] for name, options in world.sqs.calls if name == "receive_message"]
    assert ids[0] == ids[1]
    assert ids[1] != ids[2]


# --- a backend that is away


class Away:
    """A ledger's backend that cannot be reached until a moment."""

    def __init__(self, native, clock, until_us):
        self._native, self._clock, self._until_us = native, clock, until_us

    def __getattr__(self, name):
        def call(*arguments):
            if self._clock.mono_us() < self._until_us:
                raise TransientError("away")
            return getattr(self._native, name)(*arguments)

        return call if name != "complete_with" else None


@pytest.mark.parametrize("away_s", [60, 1800])
def test_an_outage_moves_nothing_to_the_dead_letters(world, away_s):
    world.sqs.create(QUEUE, dead=world.sqs.create(DEAD), most=3)
    world.send(QUEUE, *({"n": n} for n in range(25)))
    until = world.clock.mono_us() + away_s * 1_000_000
    away = Ledger(Away(world.ledger.native, world.clock, until), world.clock)
    counts = []

    def handle(body):
        counts.append(max(m["received"] for m in world.sqs.of(QUEUE)))
        world.handle(body)

    # The lease is longer than all of this, since it is renewed in real time and this clock runs ahead.
    result = world.worker(handle, ledger=away, lease_s=7200).drain(70)
    assert sorted(world.done) == list(range(25))
    assert (world.sqs.of(QUEUE), world.sqs.of(DEAD)) == ([], [])
    assert set(counts) == {1}  # nothing was received twice
    assert result.dead_lettered == 0


def test_a_handler_whose_service_is_away_costs_no_receives(world):
    world.sqs.create(QUEUE, dead=world.sqs.create(DEAD), most=3)
    world.send(QUEUE, *({"n": n} for n in range(3)))
    start = world.clock.mono_us()

    def handle(body):
        if world.clock.mono_us() < start + 60_000_000:
            raise ConnectionError("no route")
        world.handle(body)

    world.worker(handle, lease_s=7200).drain(70)
    assert sorted(world.done) == [0, 1, 2]
    assert world.sqs.of(DEAD) == []


@pytest.mark.parametrize("concurrency", [1, 4])
def test_one_message_whose_service_is_away_does_not_stop_the_others(world, concurrency):
    world.send(QUEUE, *({"n": n} for n in range(40)))

    def handle(body):
        if body["n"] == 0:
            raise ConnectionError("only mine")
        world.handle(body)

    world.worker(handle, lease_s=7200, concurrency=concurrency).drain(5)
    assert sorted(world.done) == list(range(1, 40))
    (left,) = world.sqs.of(QUEUE)
    assert left["received"] == 1


def test_while_a_backend_is_away_each_rest_ends_with_one_fresh_message(world):
    world.send(QUEUE, *({"n": n} for n in range(60)))
    away = Ledger(Away(world.ledger.native, world.clock, 1 << 62), world.clock)
    start = world.clock.mono_us()
    worker = world.worker(ledger=away, concurrency=2, lease_s=7200)

    def sleep(micros, sleep=world.clock.sleep_us):
        sleep(micros)
        if world.clock.mono_us() - start > 120_000_000:
            worker.stop()

    worker.clock = Ticking(world.clock, sleep)
    worker.run()
    assert {m["received"] for m in world.sqs.of(QUEUE)} == {0, 1}
    assert sum(m["received"] for m in world.sqs.of(QUEUE)) <= 2 + 8  # rests of 1, 2, 4 ... 60 seconds
    assert world.done == []


class Ticking:
    """A clock that tells when somebody sleeps."""

    def __init__(self, clock, sleep):
        self._clock, self.sleep_us = clock, sleep

    def __getattr__(self, name):
        return getattr(self._clock, name)


def test_a_twin_of_a_slow_message_is_received_once(world):
    world.sqs.create(QUEUE, dead=world.sqs.create(DEAD), most=3)
    world.send(QUEUE, {"n": 1})
    worker = world.worker(lease_s=7200)
    world.ledger.claim(worker.consumer.claim_key({"n": 1}), 60)
    (message,) = world.sqs.of(QUEUE)
    result = worker.drain(70)
    assert (world.done, message["received"]) == ([1], 1)
    assert result.waiting == 12  # looked at every five seconds


# --- visibility


def test_visibility_is_renewed_at_a_third_and_ends_with_the_message(world):
    world.send(QUEUE, {"n": 1})
    renewed = threading.Event()
    change = world.sqs.change_message_visibility

    def changed(**options):
        change(**options)
        renewed.set()

    world.sqs.change_message_visibility = changed

    def handle(body):
        assert renewed.wait(20)
        world.handle(body)

    world.worker(handle, lease_s=0.5).drain(0)
    assert world.done == [1]
    assert not [t for t in threading.enumerate() if t.name.startswith(("headgate-visibility", "headgate-consume"))]


def test_nothing_is_renewed_after_letting_go(world):
    world.send(QUEUE, {"n": 1})
    receipt = world.sqs.receive_message(QueueUrl=QUEUE, MaxNumberOfMessages=1, WaitTimeSeconds=0, VisibilityTimeout=1)[
        "Messages"
    ][0]["ReceiptHandle"]
    keeper = VisibilityKeeper(world.sqs, QUEUE, 300)  # nothing is due while this test runs
    held = keeper.hold(receipt)
    keeper.let_go(held)
    held.due_s = 0.0
    keeper._renew(held)
    keeper.close()
    assert world.sqs.count("change_message_visibility") == 0


def test_visibility_ends_at_twelve_hours(world, caplog):
    keeper = VisibilityKeeper(world.sqs, QUEUE, 300)
    held = keeper.hold("m1/1")
    held.received_s -= 43_200 - 200
    world.send(QUEUE, {"n": 1})
    keeper._renew(held)
    held.received_s -= 200
    with caplog.at_level(logging.WARNING, "headgate.consume"):
        keeper._renew(held)
    keeper.close()
    (call,) = [options for name, options in world.sqs.calls if name == "change_message_visibility"]
    assert 190 <= call["VisibilityTimeout"] <= 199
    assert not held.is_held
    assert "visibility not renewed" in caplog.text


class RefusingError(Exception):
    """An error as boto3 raises it."""

    def __init__(self, code):
        super().__init__(code)
        self.response = {"Error": {"Code": code}}


@pytest.fixture
def seconds(monkeypatch):
    """The monotonic clock of the thread that renews, moved by hand."""
    now = [1000.0]
    monkeypatch.setattr("headgate.consume._sqs_visibility.time", types.SimpleNamespace(monotonic=lambda: now[0]))
    return now


class Sqs:
    """Takes renewals, or raises what it was given."""

    def __init__(self, *errors):
        self.errors, self.asked = list(errors), []

    def change_message_visibility(self, **options):
        self.asked.append(options)
        if self.errors and (error := self.errors.pop(0)):
            raise error


def test_a_renewal_is_due_at_a_third_and_again_a_third_later(seconds):
    sqs = Sqs()
    keeper = VisibilityKeeper(sqs, QUEUE, 300)
    held = keeper.hold("r")
    assert held.due_s == 1100.0
    seconds[0] = 1100.0
    keeper._renew(held)
    keeper.close()
    assert sqs.asked == [{"QueueUrl": QUEUE, "ReceiptHandle": "r", "VisibilityTimeout": 300}]
    assert (held.due_s, held.is_held) == (1200.0, True)


def test_a_renewal_that_sqs_does_not_answer_is_tried_again_after_a_tenth(seconds, caplog):
    sqs = Sqs(ConnectionError("away"), RefusingError("ServiceUnavailable"))
    keeper = VisibilityKeeper(sqs, QUEUE, 300)
    held = keeper.hold("r")
    keeper._renew(held)
    assert (held.due_s, held.is_held) == (1030.0, True)
    keeper._renew(held)
    keeper._renew(held)
    keeper.close()
    assert (held.due_s, held.is_held, len(sqs.asked)) == (1100.0, True, 3)
    assert not caplog.records


def test_a_renewal_that_sqs_refuses_is_the_last_and_is_logged(seconds, caplog):
    sqs = Sqs(RefusingError("ReceiptHandleIsInvalid"))
    keeper = VisibilityKeeper(sqs, QUEUE, 300)
    held = keeper.hold("r")
    with caplog.at_level(logging.WARNING, "headgate.consume"):
        keeper._renew(held)
        keeper._renew(held)
    keeper.close()
    assert (held.is_held, len(sqs.asked)) == (False, 1)
    (line,) = caplog.records
    assert (line.message, line.error) == ("visibility not renewed", "ReceiptHandleIsInvalid")


@pytest.mark.parametrize(("left_s", "asked"), [(302, 300), (301, 300), (300, 299), (2, 1), (1, None), (0, None)])
def test_a_renewal_never_reaches_beyond_twelve_hours(seconds, left_s, asked):
    sqs = Sqs()
    keeper = VisibilityKeeper(sqs, QUEUE, 300)
    held = keeper.hold("r")
    seconds[0] += 43_200 - left_s
    keeper._renew(held)
    keeper.close()
    assert [options["VisibilityTimeout"] for options in sqs.asked] == ([] if asked is None else [asked])
    assert held.is_held is (asked is not None)


def test_a_visibility_is_never_asked_for_longer_than_sqs_takes():
    assert VisibilityKeeper(Sqs(), QUEUE, 100_000).visibility_s == 43_200


def test_one_thread_renews_what_is_due_and_nothing_else(world):
    renewed = queue.SimpleQueue()
    world.sqs.change_message_visibility = lambda **options: renewed.put(options["ReceiptHandle"])
    keeper = VisibilityKeeper(world.sqs, QUEUE, 300)
    held = [keeper.hold(receipt) for receipt in ("a", "b", "c")]
    threads = [t for t in threading.enumerate() if t.name == "headgate-visibility"]
    keeper.let_go(held[0])
    held[0].due_s = held[1].due_s = 0.0
    held.append(keeper.hold("d"))  # wakes the thread
    assert renewed.get(timeout=20) == "b"
    keeper.close()
    assert renewed.empty()
    assert len(threads) == 1
    assert threads[0].daemon


# --- stop


def test_stop_gives_the_rest_of_a_group_back_at_once(world):
    world.sqs.create(FIFO)
    world.send(FIFO, *({"n": n} for n in range(5)), MessageGroupId="g")

    def handle(body):
        worker.stop()
        world.handle(body)

    worker = world.worker(handle, FIFO)
    result = worker.run()
    assert (world.done, result.handled) == ([0], 1)
    assert [m["visible_us"] <= world.clock.mono_us() for m in world.sqs.of(FIFO)] == [True] * 4


def test_polling_does_not_wait_for_the_slowest(world):
    world.send(QUEUE, *({"n": n} for n in range(30)))
    others = threading.Semaphore(0)

    def handle(body):
        if body["n"] == 0:
            for _ in range(29):
                assert others.acquire(timeout=20)
        else:
            others.release()
        world.handle(body)

    world.worker(handle, concurrency=2).drain(0)
    assert world.done[-1] == 0
    assert sorted(world.done) == list(range(30))


def test_ctrl_c_in_a_handler_ends_the_worker_and_gives_the_message_back(world):
    world.send(QUEUE, {"n": 1})

    def handle(body):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.worker(handle).drain(0)
    assert world.sqs.of(QUEUE)[0]["visible_us"] <= world.clock.mono_us()
    assert world.worker().drain(0).handled == 1


def test_sys_exit_in_a_handler_is_one_failure(world):
    world.send(QUEUE, {"n": 1}, {"n": 2})

    def handle(body):
        if body["n"] == 1:
            raise SystemExit("no settings file")
        world.handle(body)

    result = world.worker(handle).drain(0)
    assert (world.done, result.failed) == ([2], 1)


# --- options and warnings


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"concurrency": 0}, "concurrency: expected a whole number, 1 or more, got 0"),
        ({"url": ""}, "queue_url: expected text"),
        ({"url": "arn:aws:sqs:us-east-1:1:q"}, "queue_url: expected the queue's URL, got an ARN"),
        ({"dead": "arn:aws:sqs:us-east-1:1:q"}, "dead_letter_url: expected the queue's URL"),
        ({"dead": QUEUE}, "dead_letter_url: expected another queue"),
    ],
)
def test_options_are_checked(world, options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        world.worker(**options)


def said(world, caplog, **options):
    with caplog.at_level(logging.WARNING, "headgate.consume"):
        worker = world.worker(**options)
        worker.drain(0)
        worker.drain(0)
    assert all(record.consumer == "c" for record in caplog.records)
    return [record.getMessage() for record in caplog.records]


def test_a_sound_set_up_warns_of_nothing(world, caplog):
    world.sqs.create(QUEUE, dead=world.sqs.create(DEAD), most=5)
    assert said(world, caplog) == []


@pytest.mark.parametrize(
    ("queue", "options", "sentence"),
    [
        ({"dead": DEAD, "most": 3}, {}, "after 3 receives, fewer than max_attempts = 5"),
        ({}, {}, "no redrive policy and the consumer no dead-letter queue"),
        ({"dead": DEAD, "most": 9, "MessageRetentionPeriod": "9999999"}, {}, "retention of 1e+07 s"),
        ({"MaximumMessageSize": "2048"}, {"dead": DEAD}, "takes 1024 bytes and the queue 2048"),
    ],
)
def test_weaknesses_are_said_once(world, caplog, queue, options, sentence):
    world.sqs.create(DEAD, MaximumMessageSize="1024")
    world.sqs.create(QUEUE, **queue)
    (text,) = said(world, caplog, **options)
    assert sentence in text


def test_a_dead_letter_queue_that_is_not_there_is_named(world):
    with pytest.raises(ConfigError, match="dead_letter_url: there is no such SQS queue"):
        world.worker(dead=DEAD).drain(0)


def test_refused_credentials_end_the_worker(world, sqs_error):
    world.sqs.failures.append(("receive_message", sqs_error("AccessDenied")))
    with pytest.raises(AccessError, match="SQS refuses: AccessDenied"):
        world.worker().drain(0)
