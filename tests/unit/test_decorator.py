"""`@idempotent_consumer` on every kind of handler, called as a stranger's code calls it: no optional argument."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import gc
import inspect
import runpy
import types

import pydantic
import pytest

from headgate import AsyncLedger, Ledger, idempotent_consumer
from headgate.backends.local import LocalDatabase
from headgate.errors import ConfigError, ConflictError, InvalidInputError, Kind
from headgate.idempotency import InProgress

EVENTS = [{"n": 1}, {"n": 2}, {"n": 1}]


@pytest.fixture
def ledger():
    return Ledger.open("memory://")


# --- which argument is the event


def base_of(kind):
    if kind == "dataclass":
        return dataclasses.make_dataclass("Base", ["ran"])
    if kind == "frozen dataclass":
        return dataclasses.make_dataclass("Base", ["ran"], frozen=True)
    if kind == "pydantic":
        return pydantic.create_model("Base", ran=(list, ...))
    return {"plain": object, "dict": dict, "list": list}[kind]


@pytest.mark.parametrize("kind", ["plain", "dataclass", "frozen dataclass", "pydantic", "dict", "list"])
@pytest.mark.parametrize("call", ["positional", "keyword"])
def test_methods_of_any_class(ledger, kind, call):
    ran = []

    class Handlers(base_of(kind)):
        @idempotent_consumer(ledger)
        def handle(self, event):
            assert isinstance(self, Handlers)
            ran.append(event["n"])
            return event["n"]

    made = Handlers(ran=[]) if kind in {"pydantic", "dataclass", "frozen dataclass"} else Handlers()
    results = [made.handle(e) if call == "positional" else made.handle(event=e) for e in EVENTS]
    assert (ran, results) == ([1, 2], [1, 2, 1])


def test_a_method_whose_instance_has_another_name(ledger):
    ran = []

    class Handlers:
        @idempotent_consumer(ledger)
        def handle(this, event):  # noqa: N805
            assert isinstance(this, Handlers)
            ran.append(event["n"])

    made = Handlers()
    for event in EVENTS:
        made.handle(event)
    assert ran == [1, 2]


@pytest.mark.parametrize("kind", [staticmethod, classmethod])
@pytest.mark.parametrize("inside", [False, True])
def test_static_and_class_methods_in_either_order(ledger, kind, inside):
    ran = []
    consumer = idempotent_consumer(ledger)

    def handle(*arguments):
        ran.append(arguments[-1]["n"])

    if kind is staticmethod:

        def method(event): handle(event)  # fmt: skip
    else:

        def method(cls, event): handle(cls, event)  # fmt: skip

    made = kind(consumer(method)) if inside else consumer(kind(method))
    owner = type("Owner", (), {"method": made})
    for event in EVENTS:
        owner.method(event)
        owner().method(event)
    assert ran == [1, 2]


def test_functions_called_by_keyword_and_with_more_arguments(ledger):
    ran = []

    @idempotent_consumer(ledger)
    def handle(event, context=None, *, flag=False):
        ran.append((event["n"], context, flag))

    handle(event={"n": 1})
    handle({"n": 1}, "c", flag=True)
    handle(context="c", event={"n": 2})
    assert ran == [(1, None, False), (2, "c", False)]


def test_an_option_names_the_parameter(ledger):
    ran = []

    @idempotent_consumer(ledger, event_parameter="message")
    def handle(channel, message):
        ran.append((channel, message["n"]))

    handle("a", {"n": 1})
    handle("b", {"n": 1})
    handle("b", message={"n": 2})
    assert ran == [("a", 1), ("b", 2)]
    with pytest.raises(ConfigError, match="'other'"):
        idempotent_consumer(ledger, event_parameter="other")(lambda message: None)


def test_arguments_without_a_name(ledger):
    ran = []
    idempotent_consumer(ledger, consumer="a")(lambda *args: ran.append(args))({"n": 1}, 2)
    decorated = idempotent_consumer(ledger, consumer="b", event_parameter="event")(lambda **kw: ran.append(kw))
    decorated(event={"n": 1}, more=2)
    decorated(event={"n": 1}, more=3)
    idempotent_consumer(ledger, consumer="c")(lambda *, event: ran.append(event))(event={"n": 1})
    assert ran == [({"n": 1}, 2), {"event": {"n": 1}, "more": 2}, {"n": 1}]


def test_partials_bound_methods_and_callable_objects(ledger):
    ran = []

    def handle(prefix, event):
        ran.append(f"{prefix}{event['n']}")

    class Callable:
        def __call__(self, event):
            ran.append(event["n"])

        def method(self, event):
            ran.append(-event["n"])

    made = Callable()
    for decorated in map(idempotent_consumer(ledger), [functools.partial(handle, "p"), made, made.method]):
        for event in EVENTS:
            decorated(event)
    assert ran == ["p1", "p2", 1, 2, -1, -2]


def test_async_forms(ledger):
    ran = []

    class Handlers:
        @idempotent_consumer(ledger)
        async def handle(self, event):
            ran.append(event["n"])
            return event["n"]

        async def __call__(self, event):
            ran.append(-event["n"])

    async def main():
        made = Handlers()
        assert [await made.handle(e) for e in EVENTS] == [1, 2, 1]
        decorated = idempotent_consumer(ledger)(made)
        for event in EVENTS:
            await decorated(event=event)
        partial = idempotent_consumer(ledger, consumer="partial")(functools.partial(Handlers.__call__, made))
        await partial({"n": 5})

    asyncio.run(main())
    assert ran == [1, 2, -1, -2, -5]
    assert inspect.iscoroutinefunction(Handlers.handle)


def test_a_call_that_does_not_fit_is_pythons_own_error(ledger):
    ran = []

    @idempotent_consumer(ledger)
    def handle(event, *, more=1):
        ran.append(event)

    with pytest.raises(TypeError, match="missing a required argument: 'event'"):
        handle()
    with pytest.raises(TypeError, match="unexpected keyword"):
        handle({"n": 1}, wrong=1)
    assert ran == []
    handle({"n": 1})  # the failed call left nothing held
    assert ran == [{"n": 1}]


def test_an_event_that_was_left_out_is_refused(ledger):
    with pytest.raises(InvalidInputError, match="no argument 'event'"):
        idempotent_consumer(ledger)(lambda event=None: None)()


# --- what cannot work is said when decorating


def generator(event):
    yield event


async def async_generator(event):
    yield event


class Generating:
    def __call__(self, event):
        yield event


def nothing():
    pass


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (generator, "generator"),
        (async_generator, "generator"),
        (Generating(), "generator"),
        (functools.partial(generator), "generator"),
        (Generating, "class Generating"),
        (nothing, "no argument"),
        ("text", "expected a function"),
        (None, "expected a function"),
    ],
)
def test_what_cannot_run_once_is_a_config_error(ledger, handler, said):
    with pytest.raises(ConfigError, match=said):
        idempotent_consumer(ledger)(handler)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lease": 0}, "lease"),
        ({"lease": -1.0}, "lease"),
        ({"lease": float("nan")}, "lease"),
        ({"lease": float("inf")}, "lease"),
        ({"lease": True}, "lease"),
        ({"lease": "30"}, "lease"),
        ({"on_unavailable": "proces"}, "on_unavailable"),
        ({"consumer": ""}, "consumer"),
        ({"consumer": "a\ud800"}, "consumer"),
        ({"consumer": 5}, "consumer"),
        ({"namespace": ""}, "namespace"),
        ({"event_type": ""}, "event_type"),
        ({"event_type": 5}, "event_type"),
        ({"key": "id"}, "key"),
        ({"payload": "id"}, "payload"),
        ({"serializer": "json"}, "serializer"),
        ({"deserializer": 5}, "deserializer"),
    ],
)
def test_wrong_options_are_one_sentence(ledger, options, said):
    with pytest.raises(ConfigError, match=said):
        idempotent_consumer(ledger, **options)


def test_ledgers_of_the_wrong_kind():
    with pytest.raises(ConfigError, match="AsyncLedger serves async handlers"):
        idempotent_consumer(AsyncLedger.open("memory://"))(lambda event: None)
    for wrong in ("memory://", None, object()):
        with pytest.raises(ConfigError, match="expected a Ledger or an AsyncLedger"):
            idempotent_consumer(wrong)


def test_an_async_ledger_serves_async_handlers():
    ran = []

    async def main():
        ledger = AsyncLedger.open("memory://")

        @idempotent_consumer(ledger)
        async def handle(event):
            ran.append(event["n"])
            return event["n"]

        return [await handle(event) for event in EVENTS]

    assert asyncio.run(main()) == [1, 2, 1]
    assert ran == [1, 2]


def test_a_wrapped_coroutine_function_is_found_out_and_nothing_is_marked(ledger):
    async def real(event):
        return event

    @idempotent_consumer(ledger)
    def handle(event):
        return real(event)  # as a foreign decorator does

    for _ in range(2):
        with pytest.raises(ConfigError, match="an awaitable"):
            handle({"n": 1})


def test_an_async_handler_that_returns_a_generator_has_not_run(ledger):
    ran = []

    def rows():
        ran.append(1)
        yield

    @idempotent_consumer(ledger)
    async def handle(event):
        return rows()

    for _ in range(2):
        with pytest.raises(ConfigError, match="a generator"):
            asyncio.run(handle({"n": 1}))
    assert ran == []


# --- names


def module(name, **variables):
    made = types.ModuleType(name)
    made.__dict__.update(variables)
    exec("def handle(event): ran.append(__name__)", made.__dict__)
    return made.handle


def test_one_name_in_two_modules_and_two_classes(ledger):
    ran = []
    for name in ("billing", "shipping"):
        idempotent_consumer(ledger)(module(name, ran=ran))({"n": 1})

    class One:
        @idempotent_consumer(ledger)
        def handle(self, event):
            ran.append("one")

    class Two:
        @idempotent_consumer(ledger)
        def handle(self, event):
            ran.append("two")

    One().handle({"n": 1})
    Two().handle({"n": 1})
    assert ran == ["billing", "shipping", "one", "two"]


def closure(name, ran):
    def handle(event):
        ran.append(name)

    return handle


@pytest.mark.parametrize("kind", ["closures", "lambdas", "partials", "instances", "methods", "redefined"])
def test_two_handlers_with_one_default_name_are_refused(ledger, kind):
    class Handler:
        def __call__(self, event):
            pass

        def method(self, event):
            pass

    def partial(n, event):
        pass

    def named(n):
        if n == 1:

            def _(event): return 1  # fmt: skip
        else:

            def _(event): return 2  # fmt: skip

        return _

    made = {
        "closures": lambda n: closure(n, []),
        "lambdas": lambda n: (lambda event: 1) if n == 1 else (lambda event: 2),
        "partials": lambda n: functools.partial(partial, n),
        "instances": lambda n: Handler(),
        "methods": lambda n: Handler().method,
        "redefined": named,
    }[kind]
    decorate = idempotent_consumer(ledger)
    first = decorate(made(1))
    with pytest.raises(ConfigError, match="consumer="):
        decorate(made(2))
    idempotent_consumer(Ledger.open("memory://"))(made(2))  # another ledger
    idempotent_consumer(ledger, consumer="named")(made(2))
    del first
    gc.collect()
    decorate(made(2))  # the first is no longer in use: a notebook's cell that ran again


def test_one_handler_may_be_decorated_again(ledger):
    ran = []

    def request():
        @idempotent_consumer(ledger)
        def handle(event):
            ran.append(event["n"])

        return handle

    kept = [request(), request()]
    for handle in kept:
        handle({"n": 1})
    assert ran == [1]


def test_two_scripts_are_two_consumers(tmp_path):
    """Both are called __main__ while they run."""
    script = (
        "from headgate import Ledger, idempotent_consumer\n"
        f"ledger = Ledger.open('sqlite:///{tmp_path}/ledger.db')\n"
        "@idempotent_consumer(ledger)\n"
        "def handle(event): return {name!r}\n"
        "result = handle({{'n': 1}})\n"
    )
    results = []
    for name in ("billing", "shipping", "billing"):
        path = tmp_path / f"{name}.py"
        path.write_text(script.format(name=name))
        results.append(runpy.run_path(str(path), run_name="__main__")["result"])
    # runpy leaves sys.modules["__main__"] with the script's own file while it runs, as python itself does.
    assert results == ["billing", "shipping", "billing"]


# --- keys, payloads, types


@pytest.mark.parametrize("identity", [None, "", 5, "a\ud800", ["x"]])
def test_a_key_that_is_none_runs_nothing(ledger, identity):
    ran = []
    handle = idempotent_consumer(ledger, key=lambda event: identity)(ran.append)
    with pytest.raises(InvalidInputError, match="expected text"):
        handle({"n": 1})
    assert ran == []


def test_a_builtin_can_be_a_handler(ledger):
    ran = []
    handle = idempotent_consumer(ledger, consumer="list")(ran.append)
    handle({"n": 1})
    handle({"n": 1})
    assert ran == [{"n": 1}]


def test_the_envelopes_type_is_part_of_the_key_by_default(ledger):
    ran = []

    @idempotent_consumer(ledger)
    def handle(event):
        ran.append(event["event_type"])

    for kind in ("created", "deleted", "created"):
        handle({"event_type": kind, "data": {"n": 1}})
    assert ran == ["created", "deleted"]


def test_the_same_key_with_another_payload_is_refused(ledger):
    ran = []

    @idempotent_consumer(ledger, key=lambda e: e["id"], payload=lambda e: {"amount": e["amount"]})
    def charge(event):
        ran.append(event["amount"])

    charge({"id": "a", "amount": 5})
    charge({"id": "a", "amount": 5.0})
    with pytest.raises(ConflictError) as caught:
        charge({"id": "a", "amount": 6})
    assert caught.value.kind is Kind.PAYLOAD_MISMATCH
    assert ran == [5]


def test_a_deserializer_gives_a_duplicate_what_the_first_call_gave(ledger):
    class Receipt(pydantic.BaseModel):
        amount: int

    @idempotent_consumer(ledger, serializer=Receipt.model_dump, deserializer=Receipt.model_validate)
    def charge(event):
        return Receipt(amount=event["n"])

    assert [charge({"n": 1}), charge({"n": 1})] == [Receipt(amount=1)] * 2


# --- inside a transaction of the same file


def test_a_decorated_effect_inside_a_transaction_of_its_ledger_is_refused(tmp_path):
    database = LocalDatabase(str(tmp_path / "s.db"), durability="normal")
    ledger, mails = Ledger.on_database(database), []

    @idempotent_consumer(ledger)
    def mail(event):
        mails.append(event["n"])

    with database.transaction(), pytest.raises(ConfigError, match="inside a transaction of its own ledger's file"):
        mail({"n": 1})
    assert mails == []
    mail({"n": 1})
    with database.transaction():
        elsewhere = idempotent_consumer(Ledger.open("memory://"), consumer="other")(mail.__wrapped__)
        elsewhere({"n": 2})
    assert mails == [1, 2]


def test_an_async_effect_inside_a_transaction_is_refused_too(tmp_path):
    database = LocalDatabase(str(tmp_path / "s.db"), durability="normal")
    ledger = Ledger.on_database(database)

    @idempotent_consumer(ledger)
    async def mail(event):
        return event["n"]

    async def main():
        with database.transaction(), pytest.raises(ConfigError, match="inside a transaction"):
            await mail({"n": 1})
        return await mail({"n": 1})

    assert asyncio.run(main()) == 1


# --- leases


class Context:
    """AWS Lambda's context, as far as it matters."""

    def __init__(self, left_ms):
        self.left_ms = left_ms

    def get_remaining_time_in_millis(self):
        return self.left_ms


@pytest.mark.parametrize(("options", "left"), [({}, 42.0), ({"lease": 7}, 7.0)])
def test_the_lambdas_remaining_time_is_the_default_lease(clock, options, left):
    ledger = Ledger.open("memory://", clock=clock)
    found = []

    @idempotent_consumer(ledger, key=lambda event: "k", **options)
    def handle(event, context):
        try:
            handle(event, context)
        except InProgress as busy:
            found.append(busy.until - clock.now_us() / 1e6)

    handle({"n": 1}, Context(42_000))
    assert found == [pytest.approx(left)]
