"""Lambda handlers of Kinesis, DynamoDB streams and Kafka: what is handled, what the answer names, what comes again."""

from __future__ import annotations

import base64
import json
import logging
import threading
from decimal import Decimal

import pytest

from headgate import Ledger, default_identity, idempotent_consumer
from headgate._core import ManualClock
from headgate.consume import (
    Consumer,
    current_delivery,
    dynamodb_stream_batch,
    dynamodb_stream_handler,
    kafka_batch,
    kafka_handler,
    kinesis_batch,
    kinesis_handler,
)
from headgate.consume._streams import unmarshal_record
from headgate.errors import ConfigError, InvalidInputError, Kind, TransientError
from headgate.ops import MemoryMetrics

NOW = 4_000_000_000_000_000


def kinesis(number, body, shard="shardId-000000000000", key="user-1"):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return {
        "eventSource": "aws:kinesis", "eventID": f"{shard}:{number}", "eventName": "aws:kinesis:record",
        "eventSourceARN": "arn:aws:kinesis:us-east-1:1:stream/clicks",
        "kinesis": {
            "partitionKey": key, "sequenceNumber": str(number), "data": base64.b64encode(data).decode(),
            "approximateArrivalTimestamp": 1.5e9,
        },
    }  # fmt: skip


def dynamodb(number, name="INSERT", **image):
    return {
        "eventSource": "aws:dynamodb", "eventID": f"id-{number}", "eventName": name,
        "eventSourceARN": "arn:aws:dynamodb:us-east-1:1:table/users/stream/2026",
        "dynamodb": {"Keys": {"n": {"N": str(number)}}, "SequenceNumber": str(number), "NewImage": image},
    }  # fmt: skip


def kafka(offset, body, partition=0, headers=(), key=b"k", topic="orders"):
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    return {
        "topic": topic, "partition": partition, "offset": offset, "timestamp": 1545084650987,
        "timestampType": "CREATE_TIME", "value": None if data is None else base64.b64encode(data).decode(),
        "key": None if key is None else base64.b64encode(key).decode(),
        "headers": [{name: value if value is None else list(value)} for name, value in headers],
    }  # fmt: skip


def kafka_event(*records):
    found = {}
    for record in records:
        found.setdefault(f"{record['topic']}-{record['partition']}", []).append(record)
    return {"eventSource": "aws:kafka", "records": found}


class Lambda:
    """A context with so much time left."""

    def __init__(self, *left_ms):
        self.left_ms = list(left_ms)

    def get_remaining_time_in_millis(self):
        return self.left_ms.pop(0) if len(self.left_ms) > 1 else self.left_ms[0]


class World:
    """A consumer that fails for the bodies that are named bad."""

    def __init__(self, make, bad=(), **options):
        self.clock = ManualClock(NOW)
        self.ledger = Ledger.open("memory://", clock=self.clock)
        self.metrics = MemoryMetrics()
        self.bad = set(bad)
        self.seen = []
        more = {name: options.pop(name) for name in ("dead_letter_sink", "unmarshal", "partial") if name in options}
        consumer = Consumer("c", "clicks", self.handle, effects="plain", **options)
        self.handler = make(consumer, self.ledger, self.clock, self.metrics, **more)

    def handle(self, body):
        n = body if body is None else body.get("n", body.get("eventID"))
        if n in self.bad:
            raise ValueError(n)
        self.seen.append(n)


def answer(*numbers):
    return {"batchItemFailures": [{"itemIdentifier": str(number)} for number in numbers]}


# --- Kinesis


def test_a_kinesis_batch_ends_at_its_first_failure():
    seen = []

    @kinesis_batch
    def handler(body):
        if body["n"] == 3:
            raise ValueError("no")
        seen.append(body["n"])

    records = [kinesis(100 + n, {"n": n}) for n in range(1, 6)]
    assert handler({"Records": records[:2]}, None) == answer()
    assert handler({"Records": records}) == answer(103)
    assert seen == [1, 2, 1, 2]  # 4 and 5 come again after 3, in their order


def test_each_shard_has_a_checkpoint_of_its_own():
    world = World(kinesis_handler, bad=[1, 4])
    records = [kinesis(n, {"n": n}, shard=f"shardId-{n % 2}") for n in (1, 2, 3, 4, 5, 6)]
    assert world.handler({"Records": records}, None) == answer(1, 4)
    assert world.seen == [2]


def test_what_comes_again_is_known_as_done():
    world = World(kinesis_handler, bad=[3])
    records = [kinesis(n, {"n": n}) for n in range(1, 6)]
    assert world.handler({"Records": records}, None) == answer(3)
    assert world.handler({"Records": records[:2]}, None) == answer()  # the half of a split batch
    world.bad.clear()
    assert world.handler({"Records": records}, None) == answer()
    assert world.seen == [1, 2, 3, 4, 5]
    found = {
        outcome: world.metrics.value("headgate_consumer_messages_total", consumer="c", topic="clicks", outcome=outcome)
        for outcome in ("handled", "duplicates", "failed")
    }
    assert found == {"handled": 5, "duplicates": 4, "failed": 1}


def test_attempts_are_left_to_the_event_source_mapping():
    world = World(kinesis_handler, bad=[1], max_attempts=2)
    for _ in range(6):
        assert world.handler({"Records": [kinesis(1, {"n": 1})]}, None) == answer(1)
    for poison in (b"{broken", b"[1]", b""):
        assert world.handler({"Records": [kinesis(2, poison)]}, None) == answer(2)
    world.bad.clear()
    assert world.handler({"Records": [kinesis(1, {"n": 1})]}, None) == answer()
    assert world.seen == [1]


def test_a_dead_letter_sink_frees_the_shard():
    buried = []
    world = World(
        kinesis_handler,
        bad=[1],
        max_attempts=2,
        dead_letter_sink=lambda delivery, cause, tx: buried.append((delivery, cause)),
    )
    records = [kinesis(1, {"n": 1}), kinesis(2, b"{broken"), kinesis(3, {"n": 3})]
    assert world.handler({"Records": records}, None) == answer(1)
    assert world.handler({"Records": records}, None) == answer()
    assert world.seen == [3]
    assert [(d.source["sequence_number"], d.key, b.kind) for d, b in buried] == [
        ("1", b"user-1", "attempts_exhausted"), ("2", b"user-1", Kind.INVALID_JSON),
    ]  # fmt: skip


def test_a_record_that_somebody_else_holds_comes_again():
    world = World(kinesis_handler)
    world.ledger.claim(Consumer("c", "clicks", world.handle, effects="plain").claim_key({"n": 2}), 30)
    assert world.handler({"Records": [kinesis(n, {"n": n}) for n in (1, 2, 3)]}, None) == answer(2)
    world.clock.advance_us(31_000_000)
    assert world.handler({"Records": [kinesis(n, {"n": n}) for n in (2, 3)]}, None) == answer()
    assert world.seen == [1, 2, 3]


def test_async_handlers_are_awaited():
    import asyncio

    seen = []

    @kinesis_batch
    async def handler(body):
        await asyncio.sleep(0)
        seen.append((body["n"], current_delivery().message_id))
        if body["n"] == 2:
            raise ValueError("no")

    assert handler({"Records": [kinesis(n, {"n": n}) for n in (1, 2, 3)]}, None) == answer(2)
    assert seen == [(1, "shardId-000000000000:1"), (2, "shardId-000000000000:2")]


def test_the_decorator_and_the_partition_key_in_a_kinesis_batch():
    seen = []

    @kinesis_batch
    @idempotent_consumer(Ledger.open("memory://"), consumer="clicks")
    def handler(body):
        seen.append((body["data"], current_delivery().key, current_delivery().topic))

    twice = [kinesis(n, {"id": n, "data": 7}) for n in (1, 2)]  # a producer's retry: another envelope, another number
    assert handler({"Records": twice}, None) == answer()
    assert seen == [(7, b"user-1", "clicks")]


def test_data_of_another_form_has_a_decoder():
    seen = []
    handler = kinesis_batch(seen.append, decode=bytes.upper)
    assert handler({"Records": [kinesis(1, b"a,b")]}, None) == answer()
    assert seen == [b"A,B"]
    assert kinesis_batch(seen.append)({"Records": [kinesis(5, b"a,b"), kinesis(6, b"{}")]}) == answer(5)
    broken = kinesis(7, b"")
    broken["kinesis"]["data"] = "*"
    assert kinesis_batch(seen.append)({"Records": [broken]}) == answer(7)


def test_the_lease_is_what_the_invocation_has_left():
    untils = []

    @kinesis_batch
    @idempotent_consumer(Ledger.open("memory://"), consumer="clicks")
    def handler(body):
        from headgate.idempotency._lease import default_lease_s

        untils.append(default_lease_s())

    assert handler({"Records": [kinesis(1, {"n": 1})]}, Lambda(20_000)) == answer()
    assert 19 < untils[0] <= 20


def test_what_has_no_time_left_comes_again():
    world = World(kinesis_handler)
    records = [kinesis(n, {"n": n}) for n in (1, 2, 3)]
    # Asked: for the lease, for the margin, before each record.
    assert world.handler({"Records": records}, Lambda(9_000, 9_000, 9_000, 9_000, 400)) == answer(3)
    assert world.seen == [1, 2]


@pytest.mark.parametrize("make", [kinesis_batch, dynamodb_stream_batch])
@pytest.mark.parametrize(
    ("event", "message"),
    [
        (None, "with a list Records, got a NoneType"),
        ({}, "got an object without it"),
        ({"records": {}}, "got an object without it"),
        ({"Records": {}}, "got an object without it"),
        ({"Records": ["x"]}, r"Records\[0\]"),
        ({"Records": [{"messageId": "1", "body": "{}"}]}, r"Records\[0\].*SequenceNumber|sequenceNumber"),
        ({"Records": [], "window": {"start": "x"}}, "tumbling window"),
    ],
)
def test_an_event_of_something_else_is_refused(make, event, message):
    with pytest.raises(InvalidInputError, match=message):
        make(lambda record: None)(event, None)


def test_what_cannot_run_is_refused_when_it_is_made():
    def generator(body):
        yield body

    for make in (kinesis_batch, dynamodb_stream_batch, kafka_batch):
        with pytest.raises(ConfigError, match="generator"):
            make(generator)
    for make in (kinesis_handler, dynamodb_stream_handler, kafka_handler):
        with pytest.raises(ConfigError, match="effects='transaction'"):
            make(Consumer("c", "t", lambda body, tx: None), Ledger.open("memory://"), ManualClock(NOW))


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyError("x"), ValueError("caf\udce9"), ExceptionGroup("g", [OSError()])]
)
def test_whatever_a_handler_raises_is_its_records_failure(error, caplog):
    def fail(body):
        raise error

    with caplog.at_level(logging.WARNING):
        assert kinesis_batch(fail)({"Records": [kinesis(1, {"n": "secret-7"})]}, None) == answer(1)
        world = World(kinesis_handler)
        world.handle = None
        consumer = Consumer("c", "clicks", fail, effects="plain")
        handler = kinesis_handler(consumer, world.ledger, world.clock)
        assert handler({"Records": [kinesis(1, {"n": "secret-7"})]}, None) == answer(1)
    first = caplog.records[0]
    assert (first.message, first.error, first.message_id) == (
        "record failed", type(error).__name__, "shardId-000000000000:1",
    )  # fmt: skip
    assert first.handler.endswith("fail")
    assert "in fail" in first.traceback
    assert "secret-7" not in caplog.text


class Weak:
    def __init__(self, native):
        self.native, self.asked = native, 0

    def __getattr__(self, name):
        return getattr(self.native, name)

    def warnings(self):
        self.asked += 1
        return ["the server may evict keys"]


@pytest.mark.parametrize(
    ("make", "event"),
    [
        (kinesis_handler, {"Records": [kinesis(1, {"n": 1})]}),
        (dynamodb_stream_handler, {"Records": [dynamodb(1)]}),
        (kafka_handler, kafka_event(kafka(1, {"n": 1}))),
    ],
)
def test_what_weakens_the_ledger_is_said_once(make, event, caplog):
    world = World(make)
    world.ledger.native = Weak(world.ledger.native)
    with caplog.at_level(logging.WARNING, "headgate.consume"):
        world.handler(event, None)
        world.handler(event, None)
    (record,) = caplog.records
    assert (record.message, record.consumer, record.topic) == ("the server may evict keys", "c", "clicks")
    assert world.ledger.native.asked == 1


# --- DynamoDB


def test_a_dynamodb_batch_gets_the_records_as_they_are():
    seen = []

    @dynamodb_stream_batch
    def handler(record):
        if record["eventName"] == "REMOVE":
            raise ValueError("no")
        seen.append((record, current_delivery().key, current_delivery().topic))

    records = [dynamodb(1, a={"S": "x"}), dynamodb(2, "REMOVE"), dynamodb(3)]
    assert handler({"Records": records}, None) == answer(2)
    assert seen == [(records[0], b'{"n":{"N":"1"}}', "users")]


def test_a_dynamodb_record_is_known_by_its_event_id():
    record = dynamodb(1, a={"S": "x"})
    assert default_identity(record) == default_identity({**record, "awsRegion": "other"}) == "id-1"
    world = World(dynamodb_stream_handler)
    again = {**record, "userIdentity": None}
    same_image = {**record, "eventID": "id-2"}
    assert world.handler({"Records": [record, again, same_image]}, None) == answer()
    assert world.seen == ["id-1", "id-2"]
    seen = []
    handler = dynamodb_stream_batch(
        idempotent_consumer(Ledger.open("memory://"), consumer="u")(lambda x: seen.append(x["eventID"])), unmarshal=True
    )
    assert handler({"Records": [record, again, same_image]}, None) == answer()
    assert seen == ["id-1", "id-2"]


def test_a_key_of_ones_own_wins():
    world = World(dynamodb_stream_handler, key=lambda record: record["dynamodb"]["Keys"]["n"]["N"], unmarshal=True)
    assert world.handler({"Records": [dynamodb(7), {**dynamodb(7), "eventID": "other"}]}, None) == answer()
    assert world.seen == ["id-7"]


def test_attribute_values_become_plain_ones():
    image = {
        "s": {"S": "text"}, "i": {"N": "-12345678901234567890"}, "d": {"N": "1.50"}, "e": {"N": "1E+3"},
        "b": {"B": "AAE="}, "yes": {"BOOL": True}, "null": {"NULL": True}, "m": {"M": {"l": {"L": [{"N": "1"}]}}},
        "ss": {"SS": ["a", "b"]}, "ns": {"NS": ["1", "2.5"]}, "bs": {"BS": ["AA=="]},
    }  # fmt: skip
    record = dynamodb(1, **image)
    plain = unmarshal_record(record)["dynamodb"]
    assert plain["NewImage"] == {
        "s": "text", "i": -12345678901234567890, "d": Decimal("1.50"), "e": Decimal("1E+3"), "b": b"\x00\x01",
        "yes": True, "null": None, "m": {"l": [1]}, "ss": {"a", "b"}, "ns": {1, Decimal("2.5")}, "bs": {b"\x00"},
    }  # fmt: skip
    assert (plain["Keys"], plain["SequenceNumber"]) == ({"n": 1}, "1")
    assert record["dynamodb"]["NewImage"] == image  # the record itself is left alone
    seen = []
    assert dynamodb_stream_batch(seen.append, unmarshal=True)({"Records": [record]}) == answer()
    assert seen[0]["dynamodb"]["NewImage"]["i"] == -12345678901234567890
    world = World(dynamodb_stream_handler, unmarshal=True, prepare=lambda body: body["dynamodb"]["NewImage"])
    world.handler({"Records": [dynamodb(1, n={"N": "5"})]}, None)
    assert world.seen == [5]


@pytest.mark.parametrize(
    "value", [{"X": "1"}, {"N": "abc"}, {}, {"S": "a", "N": "1"}, "text", {"L": [{"Q": 1}]}, {"B": "*"}]
)
def test_an_attribute_value_of_no_known_type_is_refused(value):
    with pytest.raises(InvalidInputError, match="expected an object with one member of S, N, B"):
        unmarshal_record(dynamodb(1, a=value))
    assert dynamodb_stream_batch(lambda record: None, unmarshal=True)({"Records": [dynamodb(9, a=value)]}) == answer(9)


# --- Kafka


def test_a_kafka_batch_raises_so_that_it_comes_again_as_a_whole():
    world = World(kafka_handler, bad=[2])
    event = kafka_event(*(kafka(n, {"n": n}, partition=n % 2) for n in range(1, 7)))
    with pytest.raises(TransientError, match="3 of 6 Kafka records"):
        world.handler(event, None)
    assert sorted(world.seen) == [1, 3, 5]
    world.bad.clear()
    assert world.handler(event, None) == {"batchItemFailures": []}
    assert sorted(world.seen) == [1, 2, 3, 4, 5, 6]


def test_a_partial_answer_names_the_first_failed_offset_of_each_partition():
    world = World(kafka_handler, bad=[2, 5], partial=True)
    event = kafka_event(*(kafka(n, {"n": n}, partition=n % 2) for n in range(1, 7)))
    found = world.handler(event, None)["batchItemFailures"]
    assert [(f["itemIdentifier"]["topic-partition"], f["itemIdentifier"]["offset"]) for f in found] == [
        ("orders-1", 5), ("orders-0", 2),
    ]  # fmt: skip
    assert all(f["itemIdentifier"]["partition"] == f["itemIdentifier"]["topic-partition"] for f in found)
    assert world.seen == [1, 3]


def test_keys_headers_and_tombstones_of_kafka_records():
    seen = []

    @kafka_batch
    def handler(body):
        delivery = current_delivery()
        seen.append((body, delivery.key, delivery.headers, delivery.message_id))

    headers = [("text", b"abc"), ("null", None), ("high", b"\xff\x00")]
    signed = kafka(9, {"n": 1}, headers=headers)
    signed["headers"][2]["high"] = [-1, 0]  # as Java writes bytes
    assert handler(kafka_event(kafka(7, None), kafka(8, {"n": 1}, headers=headers, key=None), signed)) == answer()
    first = (("text", b"abc"), ("null", None), ("high", b"\xff\x00"))
    assert seen == [
        (None, b"k", (), "orders-0-7"), ({"n": 1}, None, first, "orders-0-8"), ({"n": 1}, b"k", first, "orders-0-9"),
    ]  # fmt: skip
    world = World(kafka_handler, tombstones="handle")
    assert world.handler(kafka_event(kafka(7, None), kafka(7, None), kafka(8, None)), None) == answer()
    assert world.seen == [None, None]


def test_a_redriven_kafka_record_is_a_life_of_its_own():
    world = World(kafka_handler)
    again = [("headgate-redrive", b"1"), ("headgate-consumer", b"c")]
    other = [("headgate-redrive", b"1"), ("headgate-consumer", b"another")]
    records = [kafka(n, {"n": 1}, headers=h) for n, h in enumerate([(), again, again, other])]
    assert world.handler(kafka_event(*records), None) == answer()
    assert world.seen == [1, 1]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (None, "got a NoneType"),
        ({"Records": []}, "got an object without it"),
        ({"records": []}, "got an object without it"),
        ({"records": {"t-0": {}}}, "got an object without it"),
        ({"records": {"t-0": ["x"]}}, "number 0 has no topic"),
        ({"records": {"t-0": [{"topic": "t", "partition": 0}]}}, "number 0 has no offset"),
    ],
)
def test_an_event_of_no_kafka_is_refused(event, message):
    with pytest.raises(InvalidInputError, match=message):
        kafka_batch(lambda body: None)(event, None)


@pytest.mark.parametrize("part", [{"value": "*"}, {"key": 5}, {"headers": [["x"]]}, {"headers": [{"x": "text"}]}])
def test_a_kafka_record_that_cannot_be_read_fails(part):
    handler = kafka_batch(lambda body: None, partial=True)
    found = handler(kafka_event({**kafka(3, {"n": 1}), **part}))
    assert [f["itemIdentifier"]["offset"] for f in found["batchItemFailures"]] == [3]


# --- the message that is being handled


def test_the_current_delivery_is_each_threads_own():
    from headgate.consume import Delivery, Processor

    both = threading.Barrier(2, timeout=10)
    seen = {}

    def handle(body):
        both.wait()
        seen[body["n"]] = current_delivery().key

    processor = Processor(
        Consumer("c", "t", handle, effects="plain"), Ledger.open("memory://"), ManualClock(NOW), lambda *_: None
    )
    threads = [
        threading.Thread(target=processor.process, args=(Delivery("t", b'{"n": %d}' % n, b"key-%d" % n),))
        for n in (1, 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {1: b"key-1", 2: b"key-2"}
    with pytest.raises(ConfigError, match="where no message is being handled"):
        current_delivery()
