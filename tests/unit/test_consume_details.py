"""Defaults, names and edges of consuming that nothing else pins down, each found by mutating the code."""

from __future__ import annotations

import dataclasses
import functools
import hashlib

import pytest

from headgate import Ledger, claim_key, consume, default_identity
from headgate._core import ManualClock
from headgate.consume import Consumer, ConsumeResult, DeadLetterCause, Delivery, DeliveryResult, Outcome
from headgate.consume._consumer import UNAVAILABLE
from headgate.errors import ConfigError, InvalidInputError, TransientError
from headgate.idempotency._events import earlier_identity, read_event
from headgate.idempotency._failures import code_path, describe_error, printable
from headgate.idempotency._handler import _is_same, find_event_parameter
from headgate.idempotency._lease import default_lease_s, remaining_s


def handle(body, tx):
    """A handler."""


def test_the_defaults_of_a_consumer():
    """Documented, and changed by nobody in passing: each decides what happens to messages."""
    consumer = Consumer("c", "t", handle)
    found = {f.name: getattr(consumer, f.name) for f in dataclasses.fields(consumer)}
    expected = {
        "name": "c", "topic": "t", "handler": handle, "key": None, "lease_s": None, "max_attempts": 5,
        "namespace": "headgate", "effects": "transaction", "on_unavailable": "refuse", "max_message_bytes": 16_777_216,
        "prepare": None, "on_dead_letter": None, "event_type": None, "payload": None, "tombstones": "dead_letter",
        "unavailable": (TransientError, ConnectionError, TimeoutError), "unavailable_limit_s": 3600.0,
        "backoff_base_s": 0.1, "backoff_cap_s": 60.0, "serializer": None,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert expected["unavailable"] == UNAVAILABLE
    assert (consumer.usual_lease_s, consumer.current_lease_s()) == (300.0, 300.0)
    assert [consumer.backoff_s(n) for n in (0, 1, 5, 9, 10, 10_000)] == [0.1, 0.2, 3.2, 51.2, 60.0, 60.0]


def test_what_transports_and_processor_exchange_cannot_be_changed_on_the_way():
    for value, name in (
        (Delivery("t", b""), "value"),
        (DeliveryResult(Outcome.HANDLED), "error"),
        (DeadLetterCause("x", "y", 1), "reason"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, "other")
    assert ConsumeResult() == ConsumeResult(0, 0, 0, 0, 0, 0, [])
    assert DeliveryResult(Outcome.FAILED) == DeliveryResult(Outcome.FAILED, 0.0, "", unavailable=False)
    assert Delivery("t", None) == Delivery("t", None, None, (), {}, 0, "", "")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("name", ""), ("topic", 5), ("namespace", None), ("handler", 5), ("effects", "none"), ("on_unavailable", "x"),
        ("tombstones", "x"), ("max_attempts", 0), ("max_message_bytes", 0), ("lease_s", 0), ("unavailable_limit_s", -1),
        ("backoff_base_s", -1), ("backoff_cap_s", -1), ("unavailable", ("x",)), ("event_type", ""), ("key", 5),
        ("prepare", 5), ("on_dead_letter", 5), ("payload", 5), ("serializer", 5),
    ],
)  # fmt: skip
def test_a_wrong_option_is_named_with_its_consumer(option, value):
    with pytest.raises(ConfigError) as found:
        Consumer(**{"name": "billing", "topic": "t", "handler": handle, option: value})
    assert option in str(found.value)
    assert ("billing" in str(found.value)) is (option != "name")


def test_keys_that_earlier_releases_made_or_could_not_make():
    consumer = Consumer("c", "t", handle)
    identity = earlier_identity({"data": {"n": 1}})
    assert consumer.legacy_key({"data": {"n": 1}}) == f"headgate:c:t:{identity}"
    assert consumer.legacy_key({"data": {"n": 1}}, 2) == f"headgate:c:t:{identity}#redrive-2"
    assert consumer.legacy_key({"text": "\ud800"}) == ""
    for event in ("no JSON", b"no JSON"):
        assert earlier_identity(event) == hashlib.sha256(b"no JSON").hexdigest()
    assert earlier_identity("caf\udce9") == hashlib.sha256("caf\udce9".encode("utf-8", "surrogatepass")).hexdigest()


def test_a_model_is_known_by_what_it_is_called_in_json():
    pydantic = pytest.importorskip("pydantic", reason="pydantic is not installed")

    class Event(pydantic.BaseModel):
        event_type: str
        payload: dict = pydantic.Field(alias="data")

    event = Event(event_type="made", data={"n": 1})
    assert default_identity(event) == default_identity({"data": {"n": 1}})
    assert read_event(event).type == "made"


def test_a_dataclass_with_either_field_is_an_envelope():
    @dataclasses.dataclass
    class Typed:
        event_type: str
        n: int

    @dataclasses.dataclass
    class Enclosed:
        data: dict
        id: int

    assert read_event(Typed("made", 1)).type == "made"
    assert default_identity(Enclosed({"n": 1}, 5)) == default_identity({"n": 1})


class Record:
    topic, partition, offset, value = "t", 0, 7, b'{"n": 1}'

    def __init__(self, *headers):
        self.headers = headers


def test_the_type_in_a_kafka_header_is_read_whatever_it_holds():
    assert read_event(Record(("ce_type", b"made"))).type == "made"
    assert read_event(Record(("ce-type", "made"))).type == "made"
    assert read_event(Record(("ce_type", None), ("ce-type", b"made"))).type == "made"
    assert read_event(Record(("ce_type", b"\xff"))).type == "\\xff"  # not the same as another broken text
    assert read_event(Record()).type == ""


def test_parts_of_a_key_are_measured_in_bytes_and_named():
    assert claim_key("n", "c", "t", "é" * 128) == f"n:c:t:{'é' * 128}"
    assert claim_key("n", "c", "t", "é" * 129).startswith("n:c:t:~")
    assert claim_key("n", "c", "t", "e" * 256) == f"n:c:t:{'e' * 256}"
    for part, arguments in (
        ("namespace", (None, "c", "t", "k")), ("consumer", ("n", None, "t", "k")),
        ("event type", ("n", "c", None, "k")), ("key", ("n", "c", "t", 5)),
    ):  # fmt: skip
        with pytest.raises(InvalidInputError, match=f"the {part} of a claim is"):
            claim_key(*arguments)


class Lambda:
    def __init__(self, left_ms):
        self.left_ms = left_ms

    def get_remaining_time_in_millis(self):
        return self.left_ms


def test_the_lease_of_an_invocation_that_is_nearly_over():
    assert [default_lease_s([Lambda(ms)]) for ms in (0, 500, 1000, 1500)] == [1.0, 1.0, 1.0, 1.5]
    assert default_lease_s(["event", Lambda(2000)]) == 2.0
    assert default_lease_s(["event", object()]) == 300.0
    assert (remaining_s(Lambda(250)), remaining_s(None)) == (0.25, None)


def test_what_caused_an_exception_is_in_its_code_path():
    def fails(how):
        try:
            raise KeyError("a")
        except KeyError as error:
            if how == "from":
                raise ValueError("b") from error
            if how == "from None":
                raise ValueError("b") from None
            raise ValueError("b")  # noqa: B904

    for how, chain in (
        ("from", ["ValueError", "KeyError"]),
        ("in", ["ValueError", "KeyError"]),
        ("from None", ["ValueError"]),
    ):
        with pytest.raises(ValueError, match="b") as found:
            fails(how)
        assert [link.split()[0] for link in code_path(found.value).split(" | caused by ")] == chain
    assert code_path(ValueError("never raised")) == "ValueError"


def test_texts_of_errors_are_one_printable_line_of_500_characters():
    assert printable("a\ud800\x00\u2028é") == "a\\ud800\\x00\\u2028é"
    assert describe_error(ValueError("x" * 600)) == f"ValueError: {'x' * 488}"
    many = ExceptionGroup("g", [OSError(str(n)) for n in range(9)])
    assert describe_error(many).endswith("OSError: 0; OSError: 1; OSError: 2; OSError: 3; OSError: 4")


def test_partials_are_one_handler_when_function_and_arguments_are():
    def one(event, a=0): ...
    def two(event, a=0): ...

    same = functools.partial(one, a=1)
    assert _is_same(same, functools.partial(one, a=1))
    for other in (functools.partial(one, a=2), functools.partial(two, a=1), functools.partial(one, 1), one):
        assert not _is_same(same, other)


def test_where_the_event_stands():
    def keyword_only(*, event): ...
    def variable(*events, more=0): ...
    def named(first, message): ...

    found = [find_event_parameter(handler, None) for handler in (keyword_only, variable, named)]
    assert [(p.index, p.name) for p in found] == [(-1, "event"), (0, ""), (0, "first")]
    assert find_event_parameter(named, "message").index == 1
    with pytest.raises(ConfigError, match="event_parameter='other', but it has no parameter of that name"):
        find_event_parameter(named, "other")


@pytest.mark.parametrize(("old", "new"), [("Burial", "DeadLetterCause"), ("Verdict", "DeliveryResult")])
def test_earlier_names_of_classes_warn_and_work(old, new):
    with pytest.warns(DeprecationWarning, match=new):
        assert getattr(consume, old) is getattr(consume, new)


@pytest.mark.parametrize("make", [consume.kafka_handler, consume.kinesis_handler, consume.dynamodb_stream_handler])
def test_the_earlier_keyword_of_the_dead_letter_sink_warns_and_works(make):
    clock = ManualClock(1)
    consumer = Consumer("c", "orders", lambda body: None, effects="plain")
    with pytest.warns(DeprecationWarning, match="dead_letter_sink"):
        make(consumer, Ledger.open("memory://", clock=clock), clock, bury=lambda delivery, cause, tx: None)
