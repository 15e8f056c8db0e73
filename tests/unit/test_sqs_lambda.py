"""Lambda handlers of SQS records: order, async handlers, wrong events, time, and what the log says."""

from __future__ import annotations

import asyncio
import functools
import json
import logging

import pytest

from headgate import Ledger, idempotent_consumer
from headgate.consume import Consumer, sqs_batch, sqs_handler
from headgate.errors import ConfigError, InvalidInputError, TransientError


class Context:
    def __init__(self, *left_ms):
        self._left = list(left_ms)

    def get_remaining_time_in_millis(self):
        return self._left.pop(0) if len(self._left) > 1 else self._left[0]


def event(*bodies, groups=None, queue="q"):
    return {
        "Records": [
            {
                "messageId": f"m{n}", "body": body if isinstance(body, str) else json.dumps(body),
                "attributes": {"MessageGroupId": groups[n]} if groups else {}, "eventSource": "aws:sqs",
                "eventSourceARN": f"arn:aws:sqs:us-east-1:1:{queue}",
            }
            for n, body in enumerate(bodies)
        ]
    }  # fmt: skip


def failed(answer):
    return [entry["itemIdentifier"] for entry in answer["batchItemFailures"]]


def by_batch(handle, clock):
    return sqs_batch(handle)


def by_consumer(handle, clock):
    consumer = Consumer("c", "t", handle, effects="plain")
    return sqs_handler(consumer, Ledger.open("memory://", clock=clock), clock)


both = pytest.mark.parametrize("make", [by_batch, by_consumer])


def recorder(*failing, error=ValueError):
    ran = []

    def handle(body):
        ran.append(body["n"])
        if body["n"] in failing:
            raise error("secret")

    return handle, ran


@both
def test_a_fifo_group_comes_back_from_its_failure_on(make, clock):
    handle, ran = recorder(1)
    batch = event(*({"n": n} for n in range(5)), groups=["a", "a", "a", "b", "a"], queue="q.fifo")
    assert failed(make(handle, clock)(batch)) == ["m1", "m2", "m4"]
    assert ran == [0, 1, 3]


@both
def test_a_fair_queue_holds_nothing_back(make, clock):
    handle, ran = recorder(0)
    batch = event(*({"n": n} for n in range(3)), groups=["a"] * 3)
    assert failed(make(handle, clock)(batch)) == ["m0"]
    assert ran == [0, 1, 2]


def test_a_fifo_group_stops_at_a_record_that_waits(clock):
    handle, ran = recorder()
    ledger = Ledger.open("memory://", clock=clock)
    consumer = Consumer("c", "t", handle, effects="plain")
    ledger.claim(consumer.claim_key({"n": 0}), 60)
    batch = event({"n": 0}, {"n": 1}, groups=["a", "a"], queue="q.fifo")
    assert failed(sqs_handler(consumer, ledger, clock)(batch)) == ["m0", "m1"]
    assert ran == []


# --- async handlers


def hides_async(function):
    @functools.wraps(function)
    def call(body):
        return function(body)

    return call


@pytest.mark.parametrize("wrap", [lambda f: f, hides_async, functools.partial])
def test_async_handlers_are_awaited(wrap):
    ran = []

    async def handle(body):
        await asyncio.sleep(0)
        ran.append(body["n"])
        if body["n"] == 1:
            raise ValueError("no")

    handler = sqs_batch(wrap(handle))
    for _ in range(2):  # warm
        assert failed(handler(event({"n": 0}, {"n": 1}, {"n": 2}), None)) == ["m1"]
    assert ran == [0, 1, 2, 0, 1, 2]


def test_an_async_idempotent_handler_runs_once():
    ran = []

    @sqs_batch
    @idempotent_consumer(Ledger.open("memory://"), consumer="c")
    async def handler(body):
        ran.append(body["n"])

    assert failed(handler(event({"n": 1}, {"n": 1}, {"n": 2}), None)) == []
    assert ran == [1, 2]
    assert not asyncio.iscoroutinefunction(handler)


def test_generators_are_refused_or_fail():
    def generator(body):
        yield body

    with pytest.raises(ConfigError, match="generator function"):
        sqs_batch(generator)
    assert failed(sqs_batch(hides_async(generator))(event({"n": 1}))) == ["m0"]


@both
@pytest.mark.parametrize("error", [SystemExit, asyncio.CancelledError, ConnectionError])
def test_whatever_ends_a_record_is_its_own_failure(make, clock, error):
    handle, ran = recorder(1, error=error)
    assert failed(make(handle, clock)(event({"n": 0}, {"n": 1}, {"n": 2}))) == ["m1"]
    assert ran == [0, 1, 2]


# --- events that are none


@both
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({}, "a list Records, got an object without it"),
        ({"Records": None}, "got an object without it"),
        ({"Records": {}}, "got an object without it"),
        ([], "got a list"),
        (None, "got a NoneType"),
        ("Records", "got a str"),
        ({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "secret"}, "got an object without it"),
        ({"Records": [{"eventSource": "aws:s3", "s3": {}}]}, r"Records\[0\].messageId: expected the text"),
        ({"Records": [{"messageId": "a", "body": "{}"}, {"messageId": "b"}]}, r"Records\[1\].body: expected the text"),
        ({"Records": [{"messageId": "a", "body": {"n": 1}}]}, r"Records\[0\].body: expected the text"),
        ({"Records": ["x"]}, r"Records\[0\].messageId"),
    ],
)
def test_an_event_that_is_not_of_sqs_is_refused_whole(make, clock, wrong, sentence):
    handle, ran = recorder()
    with pytest.raises(InvalidInputError, match=sentence) as caught:
        make(handle, clock)(wrong, None)
    assert ran == []
    assert "secret" not in str(caught.value)


# --- time


@both
def test_what_there_is_no_time_for_comes_back_unread(make, clock):
    handle, ran = recorder()
    # Asked at the start, by the set-up, before each record and for each lease: the last answer stays.
    context = Context(*([9000] * 3), 900)
    answer = make(handle, clock)(event(*({"n": n} for n in range(6))), context)
    assert ran == list(range(len(ran)))
    assert 1 <= len(ran) < 6
    assert failed(answer) == [f"m{n}" for n in range(len(ran), 6)]


class Leases:
    """A ledger that notes how long its claims last."""

    def __init__(self, ledger):
        self._ledger, self.found = ledger, []

    def __getattr__(self, name):
        return getattr(self._ledger, name)

    def claim(self, key, lease=300.0, **more):
        self.found.append(lease)
        return self._ledger.claim(key, lease, **more)


def test_the_remaining_time_is_the_lease(clock):
    ledger = Leases(Ledger.open("memory://"))
    handle, _ = recorder()
    consumer = Consumer("c", "t", handle, effects="plain")
    sqs_handler(consumer, ledger, clock)(event({"n": 1}), Context(40_000))
    sqs_batch(idempotent_consumer(ledger, consumer="d")(handle))(event({"n": 1}), Context(40_000))

    async def ahandle(body):
        pass

    sqs_batch(idempotent_consumer(Leases(ledger), consumer="e")(ahandle))(event({"n": 1}), Context(40_000))
    sqs_handler(consumer, ledger, clock)(event({"n": 2}), None)
    assert [round(lease, -1) for lease in ledger.found] == [40, 40, 40, 300]


# --- what is said


def lines(caplog, text):
    return [record for record in caplog.records if record.getMessage() == text]


def test_the_log_names_record_and_place_and_nothing_of_the_body(caplog):
    def handle(body):
        raise ValueError(f"secret {body}")

    with caplog.at_level(logging.WARNING, "headgate.consume"):
        answer = sqs_batch(handle)(event({"n": "secret"}, "secret {", {"n": 2}))
    assert failed(answer) == ["m0", "m1", "m2"]
    found = lines(caplog, "record failed")
    assert [(line.message_id, line.error) for line in found] == [
        ("m0", "ValueError"), ("m1", "InvalidInputError"), ("m2", "ValueError"),
    ]  # fmt: skip
    assert all(line.handler.endswith("handle") for line in found)
    assert "in handle" in found[0].traceback
    assert all("secret" not in str(value) for line in found for value in vars(line).values())


def test_a_consumers_log_names_it_too(caplog, clock):
    handle, _ = recorder(1)
    with caplog.at_level(logging.WARNING, "headgate.consume"):
        by_consumer(handle, clock)(event({"n": 1}, "?"))
    assert [(r.consumer, r.message_id) for r in caplog.records] == [("c", "m0"), ("c", "m1")]


def test_the_set_up_is_checked_at_the_first_invocation(caplog, clock, sqs):
    sqs.create("https://sqs/1/q", VisibilityTimeout="30", MessageRetentionPeriod="9999999")
    sqs.get_queue_url = lambda **asked: {"QueueUrl": "https://sqs/{QueueOwnerAWSAccountId}/{QueueName}".format(**asked)}
    handle, _ = recorder()
    consumer = Consumer("c", "t", handle, effects="plain")
    handler = sqs_handler(consumer, Ledger.open("memory://", clock=clock), clock, client=sqs)
    with caplog.at_level(logging.WARNING, "headgate.consume"):
        for n in range(2):
            assert failed(handler(event({"n": n}), Context(60_000))) == []
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 3
    assert "retention of 1e+07 s" in texts[0]
    assert "no redrive policy" in texts[1]
    assert "visibility timeout of 30 s is shorter than the function's time-out of 60 s" in texts[2]


def test_a_ledger_that_is_away_at_the_start_fails_no_batch(clock, monkeypatch):
    handle, ran = recorder()
    ledger = Ledger.open("memory://", clock=clock)

    def away(**_):
        raise TransientError("away")

    monkeypatch.setattr(ledger, "warnings", away)
    handler = sqs_handler(Consumer("c", "t", handle, effects="plain"), ledger, clock)
    assert failed(handler(event({"n": 1}))) == []
    assert ran == [1]


def test_attributes_of_a_record_are_read_as_a_worker_reads_them(clock):
    kinds = []

    def handle(body):
        kinds.append(body["n"])

    consumer = Consumer("c", "t", handle, effects="plain")
    ledger = Ledger.open("memory://", clock=clock)
    handler = sqs_handler(consumer, ledger, clock)
    batch = event({"n": 1}, {"n": 1}, {"n": 1}, {"n": 1})
    attribute = {"stringValue": "order.created", "dataType": "String"}
    batch["Records"][1]["messageAttributes"] = {"ce_type": attribute}
    batch["Records"][2]["messageAttributes"] = {"headgate-redrive": {"stringValue": "1", "dataType": "String"}}
    batch["Records"][3]["messageAttributes"] = {"raw": {"binaryValue": "AP8=", "dataType": "Binary"}}
    assert failed(handler(batch)) == []
    assert kinds == [1, 1, 1]  # another type and another life are others; the last one is a duplicate


def test_the_shipped_handler_refuses_events_of_other_services():
    from headgate.handlers import consume

    records = [{"eventSource": "aws:kinesis", "kinesis": {}}]
    for wrong, said in (
        ({"Records": records}, "an event of aws:kinesis"),
        ({"eventSource": "aws:kafka", "records": {}}, "an event of aws:kafka"),
        ({"records": {}}, "an event of another service"),
        ([], "expected an object, got list"),
    ):
        with pytest.raises(InvalidInputError, match=said):
            consume(wrong)
