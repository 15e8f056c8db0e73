"""Dead letters of SQS: nothing of a message is lost on the way in, out, or through AWS's own redrive."""

from __future__ import annotations

import json
import logging

import pytest

from headgate import Ledger
from headgate.consume import Consumer, SqsWorker, read_letters_sqs, redrive_sqs
from headgate.consume._sqs_messages import is_fifo, own_fields, user_attributes, with_own_fields
from headgate.errors import ConfigError, TransientError

QUEUE, DEAD = "https://sqs/1/q", "https://sqs/1/dead"
FIFO, DEAD_FIFO = QUEUE + ".fifo", DEAD + ".fifo"
TYPED = {
    "text": {"DataType": "String", "StringValue": "a\tb\u00e9"},
    "number": {"DataType": "Number", "StringValue": "12.50"},
    "raw": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
    "custom": {"DataType": "String.url", "StringValue": "https://x"},
    "big": {"DataType": "Number.int", "StringValue": "9"},
    "png": {"DataType": "Binary.png", "BinaryValue": b"\x89PNG"},
}


class World:
    def __init__(self, sqs, clock):
        self.sqs, self.clock = sqs, clock
        self.ledger = Ledger.open("memory://", clock=clock)
        self.broken, self.done = True, []

    def handle(self, body):
        if self.broken:
            raise ValueError("a bug \x00\ufffe\udce9 in the handler")
        self.done.append(body["n"])

    def run(self, queue=QUEUE, dead=DEAD, concurrency=4, **consumer):
        made = Consumer("c", "t", self.handle, effects="plain", **{"max_attempts": 2, **consumer})
        options = {"dead_letter_url": dead, "concurrency": concurrency}
        return SqsWorker(made, self.ledger, self.clock, self.sqs, queue, **options).drain(3)

    def send(self, body='{"n": 1}', attributes=None, queue=QUEUE, **more):
        self.sqs.send_message(QueueUrl=queue, MessageBody=body, MessageAttributes=attributes or {}, **more)

    def letter(self, dead=DEAD):
        (message,) = self.sqs.of(dead)
        return message


@pytest.fixture
def world(sqs, clock):
    for url in (QUEUE, DEAD, FIFO, DEAD_FIFO):
        sqs.create(url)
    return World(sqs, clock)


def numbered(count, size=1):
    return {f"a{n}": {"DataType": "String", "StringValue": "x" * size} for n in range(count)}


def test_a_letter_keeps_body_types_and_trace_and_says_why(world):
    body = '{"n": 1,  "text": "\u00e9\\ud83d\\ude00"}'
    trace = {"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1-5e3d"}}
    few = {name: TYPED[name] for name in ("text", "number", "raw", "custom")}
    world.send(body, few, MessageSystemAttributes=trace)
    assert world.run().dead_lettered == 1
    letter = world.letter()
    assert (letter["body"], letter["trace"]) == (body, "Root=1-5e3d")
    assert {name: letter["attributes"][name] for name in few} == few
    ours = {n.removeprefix("headgate-"): v["StringValue"] for n, v in letter["attributes"].items() if n not in few}
    assert ours == {
        "redrive": "1", "error-kind": "attempts_exhausted", "attempts": "2", "consumer": "c", "source-id": "m1",
        "error": "ValueError: a bug \\x00\\ufffe\\udce9 in the handler",
    }  # fmt: skip


@pytest.mark.parametrize("count", range(11))
def test_no_attribute_of_the_users_is_dropped(world, count):
    sent = dict(list({**TYPED, **numbered(10)}.items())[:count])
    world.send(attributes=sent)
    world.run()
    found = world.letter()["attributes"]
    assert len(found) <= 10
    assert user_attributes(found) == sent
    ours = own_fields(found)
    assert (ours["redrive"], ours["error-kind"], ours["source-id"]) == ("1", "attempts_exhausted", "m1")
    world.broken = False
    assert redrive_sqs(world.sqs, DEAD, QUEUE) == 1
    assert user_attributes(world.letter(QUEUE)["attributes"]) == sent
    assert set(own_fields(world.letter(QUEUE)["attributes"])) == {"redrive"}
    world.run()
    assert world.done == [1]


@pytest.mark.parametrize("count", [0, 9, 10])
@pytest.mark.parametrize("slack", [0, 30, 60, 300, 2000])
def test_the_largest_message_can_become_a_letter_and_come_back(world, count, slack):
    sent = numbered(count, 100)
    beside = sum(len(name) + len("String") + 100 for name in sent)
    body = json.dumps({"n": 1, "pad": ""})
    body = json.dumps({"n": 1, "pad": "x" * (1_048_576 - beside - slack - len(body))})
    world.send(body, sent)
    assert world.run().dead_lettered == 1
    assert world.letter()["body"] == body
    assert user_attributes(world.letter()["attributes"]) == sent
    world.broken = False
    world.sqs.move(DEAD, QUEUE)
    assert world.run().handled == 1
    assert world.sqs.of(QUEUE) == []


def test_a_letter_without_room_for_its_reason_says_it_in_the_log(world, caplog):
    body = json.dumps({"n": 1, "pad": "x" * (1_048_576 - 20)})
    world.send(body)
    with caplog.at_level(logging.WARNING, "headgate.consume"):
        world.run()
    (line,) = [r for r in caplog.records if "no room" in r.getMessage()]
    assert (line.consumer, line.message_id, line.kind) == ("c", "m1", "attempts_exhausted")


def test_a_message_that_the_dead_letter_queue_cannot_take_stays(world):
    world.sqs.create(DEAD, MaximumMessageSize="1024")
    world.send(json.dumps({"n": 1, "pad": "x" * 2000}))
    world.send('{"n": 2}')
    result = world.run()
    assert result.dead_lettered == 1  # the other one
    assert len(world.sqs.of(QUEUE)) == 1
    assert len(world.sqs.of(DEAD)) == 1


def test_a_dead_letter_queue_that_is_away_keeps_the_message(world):
    world.send()
    world.sqs.failures += [("send_message", ConnectionError())] * 2
    result = world.run(lease_s=7200.0, max_attempts=1)
    assert (result.dead_lettered, len(world.sqs.of(DEAD)), len(world.sqs.of(QUEUE))) in {(1, 1, 0), (0, 0, 1)}


# --- sent back


def moved_by_aws(world, queue, dead):
    world.sqs.move(dead, queue)


def body_only(world, queue, dead):
    (letter,) = world.sqs.of(dead)
    world.sqs.of(dead).clear()
    more = {"MessageGroupId": "g", "MessageDeduplicationId": "again"} if queue == FIFO else {}
    world.send(letter["body"], queue=queue, **more)


def by_us(world, queue, dead):
    assert redrive_sqs(world.sqs, dead, queue) == 1


@pytest.mark.parametrize("again", [moved_by_aws, body_only, by_us])
@pytest.mark.parametrize(("queue", "dead"), [(QUEUE, DEAD), (FIFO, DEAD_FIFO), (FIFO, DEAD), (QUEUE, DEAD_FIFO)])
def test_a_letter_that_is_sent_back_is_handled_once(world, queue, dead, again):
    more = {"MessageGroupId": "g", "MessageDeduplicationId": "1"} if queue == FIFO else {}
    world.send(queue=queue, **more)
    world.run(queue, dead)
    assert (world.sqs.of(queue), len(world.sqs.of(dead))) == ([], 1)
    again(world, queue, dead)
    world.run(queue, dead)  # still broken: a letter again, with the number of its next life
    assert (world.sqs.of(queue), len(world.sqs.of(dead))) == ([], 1)
    world.broken = False
    again_2 = moved_by_aws if again is body_only else again
    again_2(world, queue, dead)
    world.run(queue, dead)
    assert world.done == [1]
    assert (world.sqs.of(queue), world.sqs.of(dead)) == ([], [])


def test_a_letter_sent_back_twice_is_handled_once(world):
    world.send()
    world.run()
    copy = dict(world.letter())
    world.broken = False
    redrive_sqs(world.sqs, DEAD, QUEUE)
    world.sqs.of(QUEUE).append({**copy, "id": "m77"})
    result = world.run(concurrency=1)
    assert (world.done, result.handled, result.duplicates) == ([1], 1, 1)


def test_a_letter_that_was_sent_and_not_deleted_is_handled_once(world):
    world.send()
    world.run()
    world.broken = False
    world.sqs.failures.append(("delete_message", ConnectionError()))
    assert redrive_sqs(world.sqs, DEAD, QUEUE) == 1
    assert redrive_sqs(world.sqs, DEAD, QUEUE) == 1
    result = world.run(concurrency=1)
    assert (world.done, result.duplicates, world.sqs.of(DEAD)) == ([1], 1, [])


def test_letters_of_the_queues_own_policy_come_back_too(world):
    world.sqs.create(QUEUE, dead=DEAD, most=2)
    world.send(attributes=TYPED)
    world.run(dead=None, max_attempts=1)
    assert world.letter()["attributes"] == TYPED
    world.broken = False
    assert redrive_sqs(world.sqs, DEAD, QUEUE) == 1
    world.run(dead=None, max_attempts=1)
    assert world.done == [1]


def test_a_letter_of_release_0_1_is_a_life_of_its_own(world):
    world.send(attributes={"headgate-error-kind": {"DataType": "String", "StringValue": "x"}}, queue=DEAD)
    redrive_sqs(world.sqs, DEAD, QUEUE)
    assert own_fields(world.letter(QUEUE)["attributes"]) == {"redrive": "1"}


def test_where_and_limit_choose_and_the_rest_stays_visible(world):
    for n in range(25):
        world.send(json.dumps({"n": n}))
    world.run()
    assert redrive_sqs(world.sqs, DEAD, QUEUE, where=lambda letter: json.loads(letter.body)["n"] % 2 == 0) == 13
    assert redrive_sqs(world.sqs, DEAD, QUEUE, limit=3) == 3
    assert redrive_sqs(world.sqs, DEAD, QUEUE, limit=0) == 0
    left = world.sqs.of(DEAD)
    assert len(left) == 9
    assert all(m["visible_us"] <= world.clock.mono_us() for m in left)


def test_a_fifo_group_behind_a_letter_that_stays_keeps_its_order(world):
    for n in range(6):
        world.send(json.dumps({"n": n}), queue=FIFO, MessageGroupId="ab"[n % 2], MessageDeduplicationId=str(n))
    world.run(FIFO, DEAD_FIFO)
    assert redrive_sqs(world.sqs, DEAD_FIFO, FIFO, where=lambda letter: letter.body != '{"n": 2}') == 4
    assert [m["body"] for m in world.sqs.of(DEAD_FIFO)] == ['{"n": 2}', '{"n": 4}']
    back = {group: [m["body"] for m in world.sqs.of(FIFO) if m["group"] == group] for group in "ab"}
    assert back == {"a": ['{"n": 0}'], "b": ['{"n": 1}', '{"n": 3}', '{"n": 5}']}


def test_a_fair_queues_group_is_kept(world):
    world.send(MessageGroupId="tenant")
    world.run()
    assert world.letter()["group"] == "tenant"
    redrive_sqs(world.sqs, DEAD, QUEUE)
    assert world.letter(QUEUE)["group"] == "tenant"


def test_a_letter_is_sent_to_a_fifo_queue_once_although_its_answer_was_lost(world):
    world.send(queue=FIFO, MessageGroupId="g", MessageDeduplicationId="1")
    send = world.sqs.send_message

    def loses_its_answer(**options):
        send(**options)
        world.sqs.send_message = send
        raise ConnectionError

    world.sqs.send_message = loses_its_answer
    world.run(FIFO, DEAD_FIFO, lease_s=1.0)
    assert len(world.sqs.of(DEAD_FIFO)) == 1


def test_letters_can_be_looked_at_and_stay(world):
    world.send(attributes={"text": TYPED["text"]})
    world.run()
    for _ in range(2):
        (letter,) = read_letters_sqs(world.sqs, DEAD)
        assert (letter.error_kind, letter.attempts, letter.consumer) == ("attempts_exhausted", 2, "c")
        assert (letter.source_id, letter.redrive, letter.value) == ("m1", 1, b'{"n": 1}')
        assert letter.headers == (("text", "a\tb\u00e9".encode()),)
    assert read_letters_sqs(world.sqs, DEAD, limit=0) == []


def test_what_cannot_be_redriven_is_said(world):
    with pytest.raises(ConfigError, match="no such SQS queue"):
        redrive_sqs(world.sqs, DEAD + "-gone", QUEUE)
    with pytest.raises(ConfigError, match="limit"):
        redrive_sqs(world.sqs, DEAD, QUEUE, limit=-1)
    world.send()
    world.run()
    world.sqs.failures.append(("send_message", ConnectionError()))
    with pytest.raises(TransientError, match="did not take a dead letter back: ConnectionError"):
        redrive_sqs(world.sqs, DEAD, QUEUE)
    assert world.letter()["visible_us"] <= world.clock.mono_us()


# --- parts


@pytest.mark.parametrize(
    ("queue", "fifo"),
    [
        ("https://sqs.us-east-1.amazonaws.com/1/q.fifo", True), ("arn:aws:sqs:us-east-1:1:q.fifo", True),
        ("http://localhost:4566/1/q.fifo/", True), ("q.fifo", True), ("https://x/1/q", False),
        ("https://x.fifo/1/q", False), ("arn:aws:sqs:us-east-1:1:fifo", False), ("", False),
    ],
)  # fmt: skip
def test_fifo_is_told_by_the_name(queue, fifo):
    assert is_fifo(queue) is fifo


@pytest.mark.parametrize("text", ["-1", "1.5", "\u00b2", "\u0661", "", "9" * 400, "abc"])
def test_a_redrive_count_that_is_none_is_the_first_life(world, text):
    world.broken = False
    world.send(attributes={"headgate-redrive": {"DataType": "String", "StringValue": text}} if text else None)
    assert world.run().handled == 1


def test_an_attribute_of_the_users_that_is_called_headgate_is_theirs():
    user = {"headgate": {"DataType": "String", "StringValue": '{"mine": 1}'}, **numbered(8)}
    packed = with_own_fields(user, {"redrive": "1", "error": "x"})
    assert len(packed) <= 10
    assert user_attributes(packed) == user
    assert own_fields(packed) == {"redrive": "1", "error": "x"}
