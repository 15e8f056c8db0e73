"""What strangers put around `@idempotent_consumer`: other decorators, subclasses, factories, results that run later."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import itertools
from concurrent.futures import Future

import pytest

from headgate import AsyncLedger, Ledger, default_identity, event_id, idempotent_consumer
from headgate.backends.local import LocalDatabase
from headgate.consume import (
    Consumer,
    Delivery,
    Outcome,
    Processor,
    current_delivery,
    kafka_batch,
    kinesis_batch,
    sqs_batch,
)
from headgate.errors import ConfigError, HeadgateError, InvalidInputError
from headgate.idempotency._events import read_event

EVENTS = [{"n": 1}, {"n": 2}, {"n": 1}]


@pytest.fixture
def ledger():
    return Ledger.open("memory://")


# --- which argument is the event, where another decorator or class stands in between


def traced(function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        return function(*args, **kwargs)

    return call


def nameless(function):
    def call(*args, **kwargs):
        return function(*args, **kwargs)

    return call


def handlers_of(form, decorate, ran):
    """An object whose `handle` is decorated; every instance is equal, so that one taken for the event would show."""

    @dataclasses.dataclass
    class Handlers:
        name: str = "same"

        def plain(this, event):  # noqa: N805
            ran.append(event["n"])

    class Overriding(Handlers):
        def handle(this, event):  # noqa: N805
            return super().handle(event)

    plain = Handlers.plain
    plain.__name__, plain.__qualname__ = "handle", plain.__qualname__.replace("plain", "handle")
    if form == "outer decorator":
        Handlers.handle = traced(decorate(plain))
    elif form == "outer decorator without names":
        Handlers.handle = nameless(decorate(plain))
    elif form == "inner decorator without names":
        Handlers.handle = decorate(nameless(plain))
    elif form == "function of a module":

        def handle(this, event):
            ran.append(event["n"])

        handle.__qualname__ = "handle"
        Handlers.handle = decorate(handle)
    elif form == "overridden":
        Handlers.handle = decorate(plain)
        return Overriding()
    elif form == "another name":
        Handlers.run = decorate(plain)
        Handlers.handle = Handlers.run
    return Handlers()


@pytest.mark.parametrize(
    "form",
    ["outer decorator", "outer decorator without names", "inner decorator without names", "function of a module",
     "overridden", "another name"],
)  # fmt: skip
def test_an_instance_is_never_taken_for_the_event(ledger, form):
    ran = []
    made = handlers_of(form, idempotent_consumer(ledger), ran)
    for event in EVENTS:
        made.handle(event)
    assert ran == [1, 2]


def test_a_keyword_names_the_event_after_an_instance_of_any_name(ledger):
    ran = []

    @dataclasses.dataclass
    class Handlers:
        @idempotent_consumer(ledger)
        def handle(this, event):  # noqa: N805
            ran.append(event["n"])

        @idempotent_consumer(ledger)
        def by_keyword(this, *, event):  # noqa: N805
            ran.append(event["n"])

        @classmethod
        @idempotent_consumer(ledger)
        def of_class(klass, event):  # noqa: N804
            ran.append(event["n"])

        @staticmethod
        @idempotent_consumer(ledger)
        def static(event, context=None):
            ran.append(event["n"])

    made = Handlers()
    for call in (made.handle, made.by_keyword, Handlers.of_class, Handlers.static):
        for event in EVENTS:
            call(event=event)
        assert ran == [1, 2]
        ran.clear()


def test_members_of_a_class_are_looked_at_without_running_them(ledger):
    class Proxy:
        def __getattr__(self, name):
            raise RuntimeError("works in a request only")

    @dataclasses.dataclass
    class Handlers:
        request = Proxy()

        @staticmethod
        @idempotent_consumer(ledger)
        def static(this, event):
            ran.append(event["n"])

        @idempotent_consumer(ledger)
        def handle(this, event):  # noqa: N805
            ran.append(event["n"])

    ran = []
    for event in EVENTS:
        Handlers().handle(event)
    assert ran == [1, 2]
    Handlers.static(Handlers(), {"n": 3})
    Handlers.static(Handlers(), {"n": 4})  # the event is the first argument: a static method has no instance
    assert ran == [1, 2, 3]


def test_an_event_may_have_the_handler_as_its_own_method(ledger):
    ran = []

    @dataclasses.dataclass
    class Order:
        n: int

        @idempotent_consumer(ledger)
        def confirm(this, context=None):  # noqa: N805
            ran.append(this.n)

    @idempotent_consumer(ledger)
    def ship(order, context=None):
        ran.append(order.n)

    for n in (1, 2, 1):
        Order(n).confirm()
        ship(Order(n), None)
    assert ran == [1, 1, 2, 2]


# --- two handlers of one name, each with a ledger of its own


def made_by_a_factory(ledger, ran, name):
    @idempotent_consumer(ledger)
    async def handle(event):
        ran.append(name)

    return handle


@pytest.mark.parametrize("second", ["a file", "a database", "async", "a client"])
def test_a_second_ledger_of_one_store_does_not_hide_that_a_name_is_taken(tmp_path, second, fake_redis):
    url = f"sqlite:///{tmp_path}/ledger.db"
    ran = []
    one = Ledger.on_redis(fake_redis) if second == "a client" else Ledger.open(url)
    kept = made_by_a_factory(one, ran, "mail")
    other = {
        "a file": lambda: Ledger.open(f"sqlite:///{tmp_path}/x/../ledger.db"),
        "a database": lambda: Ledger.on_database(LocalDatabase(f"{tmp_path}/ledger.db")),
        "async": lambda: AsyncLedger(one),
        "a client": lambda: AsyncLedger.on_redis(fake_redis),
    }[second]()
    with pytest.raises(ConfigError, match="consumer="):
        made_by_a_factory(other, ran, "text message")
    elsewhere = made_by_a_factory(Ledger.open(f"sqlite:///{tmp_path}/other.db"), ran, "text message")
    for handle in (kept, elsewhere):
        asyncio.run(handle({"n": 1}))
    assert ran == ["mail", "text message"]


@pytest.fixture
def fake_redis():
    class Client:
        """The methods of `RedisClientProtocol`; each claim is the first one."""

        delete_key = get = setex = staticmethod(lambda *arguments: None)

        def set_if_not_exists(self, key, value, ttl_seconds):
            return True

        def run_script(self, script, key, arguments):
            return 1

        def info(self):
            return {}

    return Client()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("redis://u:one@host/0", "rediss://u:two@HOST:6379", True),
        ("redis://host/0", "redis://host/1", False),
        ("redis://host:6379", "redis://host:6380", False),
        ("redis://host", "redis+cluster://host", False),
    ],
)
def test_a_store_is_known_by_its_address_and_never_by_a_password(one, other, same):
    names = [Ledger.open(url).store_identity for url in (one, other) if "cluster" not in url]
    if len(names) == 2:
        assert (names[0] == names[1]) is same
    assert not any(word in str(name) for name in names for word in ("one", "two"))


# --- what cannot work


@pytest.mark.parametrize("wrong", [Ledger, AsyncLedger])
def test_a_class_is_no_ledger(wrong):
    with pytest.raises(
        ConfigError, match=f"ledger: expected a Ledger or an AsyncLedger, got the class {wrong.__name__}"
    ):
        idempotent_consumer(wrong)


@contextlib.contextmanager
def block():
    yield


@contextlib.asynccontextmanager
async def async_block():
    yield


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (lambda: map(print, [1]), "a lazy map, so that nothing has run"),
        (lambda: filter(print, [1]), "a lazy filter, so that nothing has run"),
        (lambda: itertools.starmap(print, [[1]]), "a lazy starmap, so that nothing has run"),
        (block, "a context manager, so that nothing has run"),
        (async_block, "a context manager, so that nothing has run"),
        (Future, "a future, which may fail after this"),
    ],
)
def test_what_runs_later_marks_nothing_as_done(ledger, result, said):
    calls = []

    @idempotent_consumer(ledger)
    def handle(event):
        calls.append(event)
        return result() if len(calls) == 1 else "done"

    with pytest.raises(HeadgateError, match=said):
        handle({"n": 1})
    assert handle({"n": 1}) == "done"  # the claim was given back


@pytest.mark.parametrize("result", [iter([1]), zip([1], [2], strict=True), contextlib.nullcontext()])
def test_other_iterators_are_results_of_what_has_run(ledger, result):
    calls = []

    @idempotent_consumer(ledger)
    def handle(event):
        calls.append(event)
        return result

    for _ in range(2):
        handle({"n": 1})
    assert len(calls) == 1


# --- events as queues bring them


def kafka_of_lambda(value, offset):
    return {"topic": "orders", "partition": 0, "offset": offset, "timestamp": offset, "timestampType": "CREATE_TIME",
            "value": value, "headers": [{"ce_type": [111, 107]}]}  # fmt: skip


def sqs_of_lambda(receipt):
    return {"eventSource": "aws:sqs", "messageId": "m", "receiptHandle": receipt, "body": '{"n": 1}'}


@pytest.mark.parametrize(
    "delivered",
    [
        lambda n: {"MessageId": "m", "ReceiptHandle": f"{n}", "Body": '{"n": 1}', "Attributes": {"Count": f"{n}"}},
        lambda n: {"eventSource": "aws:kinesis", "eventID": f"s:{n}", "kinesis": {"data": "eyJuIjogMX0="}},
        lambda n: kafka_of_lambda("eyJuIjogMX0=", n),
        lambda n: {"Records": [sqs_of_lambda(f"{n}")]},
        lambda n: {"Records": [{"EventSource": "aws:sns", "Sns": {"MessageId": f"{n}", "Message": '{"n": 1}'}}]},
    ],
    ids=["boto3", "kinesis", "kafka", "one of sqs", "one of sns"],
)
def test_a_record_is_known_by_what_it_carries(ledger, delivered):
    ran = []

    @idempotent_consumer(ledger)
    def handle(event, context=None):
        ran.append(event)

    for n in range(3):
        handle(delivered(n), None)
    assert len(ran) == 1
    assert default_identity(delivered(0)) == default_identity({"n": 1})


def test_kafka_records_of_a_lambda_event_name_type_and_place():
    view = read_event(kafka_of_lambda("eyJuIjogMX0=", 7))
    assert (view.type, view.topic, view.place) == ("ok", "orders", "orders-0-7")
    assert [default_identity(kafka_of_lambda(value, 7)) for value in (None, "")] == ["orders-0-7"] * 2
    broken = kafka_of_lambda("no base64", 7)
    assert default_identity(broken) == event_id(broken)


@pytest.mark.parametrize(
    "event",
    [None, "", b"", "null", '""', {"eventSource": "aws:sqs", "body": None}, {"eventSource": "aws:sqs", "body": ""},
     {"EventSource": "aws:sns", "Sns": {"MessageId": "1"}}],
)  # fmt: skip
def test_an_event_that_says_nothing_is_never_the_next_one(ledger, event):
    ran = []

    @idempotent_consumer(ledger)
    def handle(event):
        ran.append(event)

    with pytest.raises(InvalidInputError, match="the event is empty"):
        handle(event)
    idempotent_consumer(ledger, key=lambda event: "k", consumer="named")(handle.__wrapped__)(event)
    assert ran == [event]


@pytest.mark.parametrize("data", [{}, [], "", None])
def test_an_envelope_with_empty_data_is_known_as_a_whole(data):
    one, other = ({"event_id": n, "event_type": "cache.flush", "data": data} for n in "12")
    assert default_identity(one) != default_identity(other)
    assert default_identity({"event_id": "1", "data": 0}) == default_identity({"event_id": "2", "data": 0})


def test_a_batch_of_sqs_messages_is_refused_unless_it_has_a_key(ledger):
    ran = []
    batch = {"Records": [sqs_of_lambda("1"), sqs_of_lambda("2")]}

    @idempotent_consumer(ledger)
    def handle(event, context):
        ran.append(event)

    with pytest.raises(InvalidInputError, match=r"a batch of 2 SQS messages.*sqs_batch"):
        handle(batch, None)
    idempotent_consumer(ledger, key=lambda event: "k", consumer="named")(handle.__wrapped__)(batch, None)
    assert ran == [batch]


@pytest.mark.parametrize("sns", ["text", None, []])
def test_what_only_looks_like_a_record_is_known_as_a_whole(sns):
    event = {"EventSource": "aws:sns", "Sns": sns}
    assert default_identity(event) == event_id(event)


# --- bodies without their record


def kafka_event(*records):
    return {"records": {"all-0": [{**kafka_of_lambda(value, n), "topic": topic, "headers": []}
                                  for n, (topic, value) in enumerate(records)]}}  # fmt: skip


def test_a_body_belongs_to_the_topic_that_brings_it(ledger):
    ran = []

    @kafka_batch
    @idempotent_consumer(ledger)
    def handle(body):
        ran.append((current_delivery().topic, body))

    event = kafka_event(("created", "eyJuIjogMX0="), ("deleted", "eyJuIjogMX0="), ("deleted", "eyJuIjogMX0="))
    handle(event)
    handle(event)
    assert ran == [("created", {"n": 1}), ("deleted", {"n": 1})]


def test_tombstones_of_a_batch_are_known_by_their_places(ledger):
    ran = []

    @kafka_batch
    @idempotent_consumer(ledger)
    async def handle(body):
        ran.append(current_delivery().message_id)

    for _ in range(2):
        handle(kafka_event(("rows", None), ("rows", None)))
    assert ran == ["rows-0-0", "rows-0-1"]


def test_bodies_of_two_streams_are_two_events(ledger):
    ran = []

    @kinesis_batch
    @idempotent_consumer(ledger)
    def handle(body):
        ran.append(current_delivery().topic)

    record = {"eventID": "s:1", "kinesis": {"sequenceNumber": "1", "data": "eyJuIjogMX0="}}
    for stream in ("a", "b", "a"):
        handle({"Records": [{**record, "eventSourceARN": f"arn:aws:kinesis:us-east-1:1:stream/{stream}"}]})
    assert ran == ["a", "b"]


def test_a_decorated_handler_of_a_consumer_knows_the_topic_and_a_tombstones_place(ledger):
    ran = []

    @idempotent_consumer(ledger)
    def handle(body):
        ran.append((current_delivery().topic, current_delivery().message_id, body))

    consumers = {
        topic: Consumer(topic, topic, handle, effects="plain", tombstones="handle") for topic in ("one", "two")
    }
    for topic, value, offset in (("one", b'{"n": 1}', 1), ("two", b'{"n": 1}', 1), ("one", None, 2), ("one", None, 3)):
        made = Processor(consumers[topic], ledger, ledger.clock, None)
        delivery = Delivery(topic, value, source={"partition": "0", "offset": str(offset)})
        assert made.process(delivery).outcome is Outcome.HANDLED
    assert ran == [("one", "one-0-1", {"n": 1}), ("two", "two-0-1", {"n": 1}), ("one", "one-0-2", None),
                   ("one", "one-0-3", None)]  # fmt: skip


def test_only_the_body_itself_has_the_records_topic(ledger):
    keys = []

    @idempotent_consumer(ledger, key=lambda event: "k", event_type=None)
    def inner(event):
        keys.append(event["n"])

    @kafka_batch
    def handle(body):
        inner({"n": 1})

    handle(kafka_event(("one", "eyJuIjogMX0="), ("two", "eyJuIjogMX0=")))
    inner({"n": 1})
    assert keys == [1]


@pytest.mark.parametrize("left_ms", [None, "soon", float("nan"), 10**15])
def test_a_context_that_says_nothing_sensible_is_no_bare_error(ledger, left_ms):
    class Context:
        def get_remaining_time_in_millis(self):
            return left_ms

    ran = []

    @sqs_batch
    @idempotent_consumer(ledger)
    def handle(body, context=None):
        ran.append(body)

    assert handle({"Records": [sqs_of_lambda("1")]}, Context()) == {"batchItemFailures": []}
    idempotent_consumer(ledger, consumer="named")(handle.__wrapped__.__wrapped__)({"n": 2}, Context())
    assert ran == [{"n": 1}, {"n": 2}]


def test_a_byte_order_mark_is_no_part_of_a_body():
    ran = []
    record = sqs_of_lambda("1") | {"body": '\ufeff{"n": 1}'}
    assert sqs_batch(ran.append)({"Records": [record]}) == {"batchItemFailures": []}
    assert ran == [{"n": 1}]
