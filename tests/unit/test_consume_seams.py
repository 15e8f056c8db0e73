"""What strangers' handlers, key functions and results do to a consumer: each message keeps one outcome."""

from __future__ import annotations

import asyncio
import functools
import sys

import pytest

from headgate import AsyncLedger, Ledger, idempotent_consumer
from headgate._core import ManualClock
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.consume import (
    Consumer,
    Delivery,
    KafkaWorker,
    Outcome,
    Processor,
    SqsWorker,
    Worker,
    dead_letters,
    dynamodb_stream_batch,
    kafka_batch,
    kinesis_batch,
    kinesis_handler,
    sqs_batch,
    sqs_handler,
)
from headgate.consume._unavailable import UNAVAILABLE, is_unavailable
from headgate.errors import ConfigError, InvalidInputError, PermanentError, TransientError
from headgate.idempotency._failures import describe_error

NOW = 4_000_000_000_000_000
BODY = b'{"n": 1}'


class Ends(BaseException):
    pass


def ending(*arguments, **options):
    sys.exit(3)


def processor(handler, **options):
    clock = ManualClock(NOW)
    buried = []
    consumer = Consumer("c", "t", handler, **{"effects": "plain", "max_attempts": 1} | options)
    made = Processor(consumer, Ledger.open("memory://", clock=clock), clock, lambda *given: buried.append(given[1]))
    return made, buried


# --- SystemExit and its like, wherever a user's code runs


@pytest.mark.parametrize("option", ["key", "event_type", "payload"])
@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError(), Ends("x")], ids=lambda e: type(e).__name__)
def test_what_a_key_function_raises_is_its_messages_dead_letter(option, error):
    def function(body):
        raise error

    ran = []
    made, buried = processor(ran.append, **{option: function})
    assert made.process(Delivery("t", BODY)).outcome is Outcome.DEAD
    assert (ran, buried[0].kind, buried[0].reason.partition(":")[0]) == ([], "invalid_record", type(error).__name__)


def test_a_dead_letter_callback_that_ends_the_process_keeps_the_message():
    clock = ManualClock(NOW)
    store = LocalStore(LocalDatabase(":memory:"), clock)
    store.publish("t", "k", {"n": 1})
    store.relay_outbox({"t": ["c"]})
    consumer = Consumer("c", "t", lambda body: 1 / 0, effects="plain", max_attempts=1, on_dead_letter=ending)
    worker = Worker(consumer, store, Ledger.on_database(store.db, clock=clock), clock)
    result = worker.drain()
    assert (result.waiting, result.errors, worker.measure_lag()) == (1, ["SystemExit"], 1)


class Model:
    model_dump = ending


@pytest.mark.parametrize("options", [{"serializer": ending}, {}], ids=["serializer", "model"])
def test_a_result_whose_own_code_ends_the_process_repeats_no_effect(options):
    ran = []

    def handle(body):
        ran.append(body)
        return Model()

    made, _ = processor(handle, **options)
    assert [made.process(Delivery("t", BODY)).outcome for _ in range(2)] == [Outcome.HANDLED, Outcome.DUPLICATE]
    assert len(ran) == 1


def test_an_exception_whose_text_ends_the_process_is_known_by_its_type():
    class Odd(Exception):  # noqa: N818
        __str__ = ending

    assert describe_error(Odd()) == "Odd: (its text cannot be read)"


def test_ctrl_c_is_never_a_result_or_a_text():
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    made, _ = processor(lambda body: 1, key=interrupt)
    with pytest.raises(KeyboardInterrupt):
        made.process(Delivery("t", BODY))
    made, _ = processor(lambda body: 1, serializer=interrupt)
    with pytest.raises(KeyboardInterrupt):
        made.process(Delivery("t", BODY))
    with pytest.raises(KeyboardInterrupt):
        describe_error(type("Odd", (Exception,), {"__str__": interrupt})())


# --- what says that a server is away


def foreign(module, name, base=Exception):
    return type(name, (base,), {"__module__": module})


def raised_from(error, cause):
    try:
        raise error from cause
    except BaseException as caught:
        return caught


RedisError = foreign("redis.exceptions", "ConnectionError")


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (ConnectionRefusedError(), True),
        (TransientError("x"), True),
        (ExceptionGroup("tasks", [ConnectionError(), ExceptionGroup("more", [TimeoutError()])]), True),
        (ExceptionGroup("tasks", [ConnectionError(), ValueError()]), False),
        (raised_from(RuntimeError("wrapped"), ConnectionError()), True),
        (raised_from(RuntimeError("wrapped"), raised_from(KeyError(), TimeoutError())), True),
        (raised_from(RuntimeError("wrapped"), ValueError()), False),
        (raised_from(PermanentError("decided"), ConnectionError()), False),
        (RedisError(), True),
        (foreign("redis.exceptions", "ResponseError")(), False),
        (foreign("own.module", "BusyError", RedisError)(), True),
        (foreign("requests.exceptions", "ReadTimeout", foreign("requests.exceptions", "Timeout"))(), True),
        (foreign("requests.exceptions", "HTTPError")(), False),
        (foreign("shop.redis", "ConnectionError")(), False),
        (foreign("botocore.exceptions", "EndpointConnectionError", foreign("botocore.exceptions", "ConnectionError"))(), True),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_what_says_that_a_server_is_away(error, away):
    assert is_unavailable(error, UNAVAILABLE) is away

    def handle(body):
        raise error

    made, _ = processor(handle)
    assert (made.process(Delivery("t", BODY)).outcome is Outcome.WAITING) is away
    made, _ = processor(print, key=handle)
    assert (made.process(Delivery("t", BODY)).outcome is Outcome.WAITING) is away


def test_an_event_that_a_decorated_handler_finds_in_progress_holds_up_no_other():
    clock = ManualClock(NOW)
    store = LocalStore(LocalDatabase(":memory:"), clock)
    for n in range(3):
        store.publish("t", str(n), {"n": n})
    store.relay_outbox({"t": ["c"]})
    ran = []
    inner = Ledger.open("memory://", clock=clock)

    @idempotent_consumer(inner, consumer="inner", event_type="e", key=lambda body: str(body["n"]))
    def handle(body):
        ran.append(body["n"])

    held = inner.claim("headgate:inner:e:0", 40.0)
    consumer = Consumer("c", "t", handle, effects="plain", max_attempts=1)
    worker = Worker(consumer, store, Ledger.on_database(store.db, clock=clock), clock)
    result = worker.drain()
    assert (ran, result.waiting, result.handled, result.errors) == ([1, 2], 1, 2, ["InProgress"])
    assert worker.drain().received == 0
    handled = []
    for _ in range(8):  # looked at every five seconds, until the other one's lease ends
        clock.advance_us(5_000_001)
        handled.append(worker.drain().handled)
    assert (handled, ran) == ([0] * 7 + [1], [1, 2, 0])
    assert held.status == "acquired"


def test_a_consumer_that_names_its_exceptions_means_these():
    assert is_unavailable(ExceptionGroup("g", [KeyError()]), (KeyError,))
    for error in (ConnectionError(), RedisError(), raised_from(RuntimeError(), KeyError())):
        assert not is_unavailable(error, (KeyError,))


def test_an_exception_that_is_its_own_cause_ends():
    error = RuntimeError()
    error.__cause__ = error
    assert not is_unavailable(error, UNAVAILABLE)


# --- the handler's transaction


@pytest.mark.parametrize(
    "statement", ["COMMIT", "end", "ROLLBACK", " -- x\n/* y */ commit transaction", "rollback transaction", "END;"]
)
def test_a_handler_cannot_end_its_transaction(statement):
    clock = ManualClock(NOW)
    store = LocalStore(LocalDatabase(":memory:"), clock)
    store.db.execute("CREATE TABLE effects (n)")
    store.publish("t", "k", {"n": 1})
    store.relay_outbox({"t": ["c"]})

    def handle(body, tx):
        tx.execute("INSERT INTO effects VALUES (1)")
        tx.changes(statement) if statement == "end" else tx.execute(statement)

    consumer = Consumer("c", "t", handler=handle, max_attempts=1)
    result = Worker(consumer, store, Ledger.on_database(store.db, clock=clock), clock).drain()
    (dead,) = dead_letters(store, whole=True)
    assert (result.dead_lettered, store.db.execute("SELECT * FROM effects")) == (1, [])
    assert "would end a transaction that is not its own" in dead["reason"]


def test_savepoints_and_other_statements_work_inside_a_transaction():
    database = LocalDatabase(":memory:")
    database.execute("CREATE TABLE ended (n)")
    with database.transaction() as tx:
        tx.execute("SAVEPOINT one")
        tx.execute("INSERT INTO ended VALUES (1)")
        tx.execute("ROLLBACK TO one")
        tx.execute("rollback transaction to savepoint one")
        tx.execute("RELEASE one")
        tx.execute("/* one **/ -- COMMIT\nINSERT INTO ended VALUES ('COMMIT')")
        tx.execute("/* x */" * 10_000 + "SELECT 1")  # looked at once, however many comments there are
    assert database.execute("SELECT n FROM ended") == [("COMMIT",)]
    with pytest.raises(InvalidInputError, match="no transaction is active"):
        database.execute("COMMIT")  # outside it is SQLite's own answer


# --- calls that cannot work


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"handler": lambda body: 1, "effects": "transaction"}, r"handler: it is called with \(body, tx\)"),
        ({"handler": lambda body, tx: 1}, r"handler: it is called with \(body\), and its signature is \(body, tx\)"),
        ({"handler": lambda: 1, "prepare": lambda body: 1}, r"handler: it is called with \(prepared\)"),
        ({"handler": lambda *, body: 1}, "handler: "),
        ({"key": lambda: "k"}, r"key: it is called with \(body\)"),
        ({"event_type": lambda: "k"}, r"event_type: it is called with \(body\)"),
        ({"payload": lambda body, more: 1}, r"payload: it is called with \(body\)"),
        ({"prepare": lambda: 1}, r"prepare: it is called with \(body\)"),
        ({"serializer": lambda: 1}, r"serializer: it is called with \(result\)"),
        ({"on_dead_letter": lambda body: 1}, r"on_dead_letter: it is called with \(body, reason, tx\)"),
    ],
)
def test_a_function_that_cannot_take_its_arguments_is_found_out_before_the_first_message(options, said):
    made = Consumer(**{"name": "c", "topic": "t", "handler": print, "effects": "plain"} | options)
    with pytest.raises(ConfigError, match=f"consumer c: {said}"):
        Processor(made, Ledger.on_database(LocalDatabase(":memory:")), ManualClock(NOW), None)


@pytest.mark.parametrize("wrap", [sqs_batch, kafka_batch, kinesis_batch, dynamodb_stream_batch])
def test_a_batch_says_that_its_handler_takes_one_body(wrap):
    """A handler for the whole event, say: every record would come back until it is given up."""
    with pytest.raises(ConfigError, match=r"it is called with \(body\), and its signature is \(event, context\)"):
        wrap(lambda event, context: None)
    for good in (print, lambda body: 1, lambda *given: 1, lambda body, more=None: 1, functools.partial(max, 1)):
        wrap(good)


@pytest.mark.parametrize("option", ["key", "payload", "event_type", "serializer", "deserializer"])
def test_a_decorators_functions_take_one_argument(option):
    with pytest.raises(ConfigError, match=rf"{option}: it is called with \("):
        idempotent_consumer(Ledger.open("memory://"), **{option: lambda: "k"})
    idempotent_consumer(Ledger.open("memory://"), **{option: str})


# --- ledgers


@pytest.mark.parametrize(
    ("ledger", "said"),
    [(AsyncLedger.open("memory://"), "a AsyncLedger"), (Ledger, "the class Ledger"), ("memory://", "a str"), (None, "a NoneType")],
)  # fmt: skip
def test_a_worker_says_which_ledger_it_needs(ledger, said):
    clock = ManualClock(NOW)
    store = LocalStore(LocalDatabase(":memory:"), clock)
    consumer = Consumer("c", "t", print, effects="plain")
    with pytest.raises(ConfigError, match=f"consumer c: a worker needs a Ledger, and got {said}"):
        Worker(consumer, store, ledger, clock)
    with pytest.raises(ConfigError, match=f"consumer c: a worker needs a Ledger, and got {said}"):
        Processor(consumer, ledger, clock, None)


@pytest.mark.parametrize(
    ("consumer", "said"), [(print, "a builtin_function_or_method"), (Consumer, "the class Consumer")]
)
def test_a_bare_handler_is_no_consumer(consumer, said):
    clock, ledger = ManualClock(NOW), Ledger.open("memory://")
    store = LocalStore(LocalDatabase(":memory:"), clock)
    for make in (
        lambda: Worker(consumer, store, ledger, clock),
        lambda: sqs_handler(consumer, ledger, clock),
        lambda: kinesis_handler(consumer, ledger, clock),
        lambda: SqsWorker(consumer, ledger, clock, None, "https://queue"),
        lambda: KafkaWorker(consumer, ledger, clock, {"bootstrap.servers": "localhost"}),
    ):
        with pytest.raises(ConfigError, match=rf"consumer: expected a Consumer\(name, topic, handler\), got {said}"):
            make()


@pytest.mark.parametrize(("store", "said"), [(LocalStore, "the class LocalStore"), (None, "a NoneType")])
def test_a_worker_says_what_it_receives_from(store, said):
    with pytest.raises(ConfigError, match=f"consumer c: a worker receives from a LocalStore, and got {said}"):
        Worker(Consumer("c", "t", print, effects="plain"), store, Ledger.open("memory://"), ManualClock(NOW))


@pytest.mark.parametrize(("ledger", "said"), [(Ledger, "the class Ledger"), ("memory://", "a str")])
def test_an_async_ledger_is_made_of_a_ledger(ledger, said):
    with pytest.raises(ConfigError, match=f"AsyncLedger: expected a Ledger, got {said}"):
        AsyncLedger(ledger)
