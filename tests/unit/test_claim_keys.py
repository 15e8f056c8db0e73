"""Claim keys: no two events, consumers or namespaces share one, whatever text they hold."""

from __future__ import annotations

import collections
import dataclasses
import enum
import hashlib
import json
import types
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate import claim_key, default_identity, event_id
from headgate.consume import Consumer, Delivery, Outcome, Processor
from headgate.errors import InvalidInputError, Kind
from headgate.idempotency import Ledger
from headgate.idempotency._events import identity_and_type, read_event, type_of
from headgate.idempotency._keys import check_identity

# Texts out of the characters that structure a key, so that a rule that merges two tuples is found soon.
tricky = st.text(alphabet=":%~#a\x00é3A25", max_size=6) | st.text(alphabet=":%~a", min_size=120, max_size=130)
parts = st.tuples(tricky, tricky, tricky, tricky.filter(bool), st.integers(0, 2))


@given(parts, parts)
def test_two_tuples_never_make_one_key(one, other):
    assert (claim_key(*one) == claim_key(*other)) == (one == other)


@given(st.tuples(*[st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40)] * 3), st.text(min_size=1))
def test_any_text_makes_a_key_that_every_backend_takes(names, identity):
    try:
        identity.encode()
    except UnicodeEncodeError:
        with pytest.raises(InvalidInputError):
            claim_key(*names, identity)
        return
    key = claim_key(*names, identity)
    assert len(key.encode()) <= 1_100
    assert key.count(":") == 3


def test_long_parts_become_their_digest():
    long = claim_key("n", "c", "t", "x" * 257)
    assert claim_key("n", "c", "t", "x" * 256) == "n:c:t:" + "x" * 256
    assert long.startswith("n:c:t:~")
    assert len(long) == len("n:c:t:~") + 64
    assert claim_key("n", "c", "t", long.rpartition(":")[2]) != long  # the digest as a literal identity
    assert claim_key("n" * 5000, "c" * 5000, "t" * 5000, "é" * 5000).count("~") == 4


def test_plain_parts_are_the_key_of_earlier_releases():
    assert claim_key("shop", "billing", "orders", "a" * 64) == f"shop:billing:orders:{'a' * 64}"
    assert claim_key("shop", "billing", "orders", "a", 2) == "shop:billing:orders:a#redrive-2"


@pytest.mark.parametrize(
    ("parts", "key"),
    [
        (("n:1", "c%", "t#2", "~i~"), "n%3A1:c%25:t%232:%7Ei~"),
        (("", "", "", "i"), ":::i"),
        (("n", "c", "t", "é" * 128), "n:c:t:" + "é" * 128),
        (("n", "c", "t", "é" * 129), "n:c:t:~" + hashlib.sha256(("é" * 129).encode()).hexdigest()),
        (("n", "c", "t", ":" * 85 + "a"), "n:c:t:" + "%3A" * 85 + "a"),
        (("n", "c", "t", ":" * 86), "n:c:t:~" + hashlib.sha256((":" * 86).encode()).hexdigest()),
        (("n", "c", "t", "a b"), "n:c:t:a b"),
        (("n", "c", "t", "a" * 257), "n:c:t:~" + hashlib.sha256(("a" * 257).encode()).hexdigest()),
    ],
)
def test_the_form_of_a_key_is_this_one(parts, key):
    """A ledger outlives a release: another form would make everything that was done new."""
    assert claim_key(*parts) == key
    assert claim_key(*parts, 12) == f"{key}#redrive-12"


LONE = "of this event holds a lone surrogate; expected text that UTF-8 can write"


@pytest.mark.parametrize(
    ("arguments", "kind", "sentence"),
    [
        (("n", "c", "t", ""), Kind.INVALID_RECORD,
         "the key of an event is empty; expected text that makes the event that event"),
        (("n", "c", "t", None), Kind.INVALID_RECORD,
         "the key of an event is empty; expected text that makes the event that event"),
        (("n", "c", "t", 7), Kind.INVALID_RECORD, "the key of a claim is a int; expected text"),
        ((None, "c", "t", "i"), Kind.INVALID_RECORD, "the namespace of a claim is None; expected text"),
        (("n", 7, "t", "i"), Kind.INVALID_RECORD, "the consumer of a claim is a int; expected text"),
        (("n", "c", ["t"], "i"), Kind.INVALID_RECORD, "the event type of a claim is a list; expected text"),
        (("n", "c", "t", "\ud800"), Kind.INVALID_UNICODE, f"the key {LONE}"),
        (("n", "c", "\udfff", "i"), Kind.INVALID_UNICODE, f"the event type {LONE}"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_key_is_one_sentence(arguments, kind, sentence):
    with pytest.raises(InvalidInputError) as caught:
        claim_key(*arguments)
    assert (caught.value.kind, caught.value.message) == (kind, sentence)


@pytest.mark.parametrize(
    ("identity", "kind", "sentence"),
    [
        (None, Kind.INVALID_RECORD, "the key of this event is None; expected text"),
        (b"i", Kind.INVALID_RECORD, "the key of this event is a bytes; expected text"),
        ("", Kind.INVALID_RECORD,
         "the key of this event is an empty text; expected text that makes the event that event"),
        ("\udfff", Kind.INVALID_UNICODE, f"the key {LONE}"),
    ],
)  # fmt: skip
def test_what_a_key_function_gives_is_refused_by_one_sentence(identity, kind, sentence):
    with pytest.raises(InvalidInputError) as caught:
        check_identity(identity)
    assert (caught.value.kind, caught.value.message) == (kind, sentence)


# --- what an event says of itself


class Envelope(pydantic.BaseModel):
    event_type: str
    data: dict[str, int]
    event_id: str = "e-1"


@dataclasses.dataclass
class PlainEnvelope:
    event_type: str
    data: dict[str, int]
    event_id: str = "e-1"


class OwnDict(dict):
    pass


class ConfluentRecord:
    """What confluent-kafka's Message looks like: methods."""

    def __init__(self, value, topic="orders", headers=None):
        self._value, self._topic, self._headers = value, topic, headers

    def value(self):
        return self._value

    def topic(self):
        return self._topic

    def partition(self):
        return 3

    def offset(self):
        return 41

    def key(self):
        return b"k"

    def headers(self):
        return self._headers


# aiokafka has a dataclass, kafka-python a named tuple; both have attributes.
AiokafkaRecord = dataclasses.make_dataclass(
    "ConsumerRecord", ["topic", "partition", "offset", "timestamp", "key", "value", "checksum", "headers"]
)
KafkaPythonRecord = collections.namedtuple(
    "ConsumerRecord", ["topic", "partition", "leader_epoch", "offset", "timestamp", "key", "value", "headers"]
)


def records(value, headers=()):
    return [
        ConfluentRecord(value, headers=list(headers)),
        AiokafkaRecord("orders", 3, 41, 0, b"k", value, None, tuple(headers)),
        KafkaPythonRecord("orders", 3, 0, 41, 0, b"k", value, list(headers)),
    ]


BODY = {"event_type": "order.created", "event_id": "e-2", "data": {"n": 1}}


@pytest.mark.parametrize(
    "event",
    [
        BODY,
        OwnDict(BODY),
        types.MappingProxyType(BODY),
        collections.UserDict(BODY),
        Envelope(event_type="order.created", data={"n": 1}),
        PlainEnvelope("order.created", {"n": 1}),
        json.dumps(BODY),
        json.dumps(BODY).encode(),
        bytearray(json.dumps(BODY).encode()),
        {"eventSource": "aws:sqs", "messageId": "m", "receiptHandle": "changes", "body": json.dumps(BODY)},
        *records(json.dumps(BODY).encode()),
        *records(BODY),  # a client with a deserializer
    ],
    ids=lambda event: type(event).__name__,
)
def test_an_event_is_known_in_every_form(event):
    assert default_identity(event) == event_id({"n": 1})
    assert read_event(event).type == "order.created"


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({"event_type": "a", "type": "b", "data": 1}, "a"),
        ({"type": "b", "specversion": "1.0", "id": "1"}, "b"),
        ({"type": "b", "data": 1}, "b"),
        ({"type": "b", "n": 1}, ""),  # a field of a business document
        ({"event_type": "", "data": 1}, ""),
        ({"event_type": 5, "data": 1}, "json=5"),
        ({"event_type": "5", "data": 1}, "5"),
        ({"event_type": enum.Enum("Kind", {"A": "order.created"}).A, "data": 1}, "order.created"),
        ({"event_type": enum.Enum("Kind", {"A": 5}).A, "data": 1}, "json=5"),
        ([1], ""),
        ("text", ""),
    ],
)
def test_the_type_is_what_the_envelope_says(document, kind):
    assert type_of(document) == kind


def test_cloud_events_in_binary_mode_have_their_type_in_a_header():
    for record in records(b'{"n": 1}', [("ce_type", b"order.deleted"), ("x", None)]):
        assert (read_event(record).type, read_event(record).topic) == ("order.deleted", "orders")


def test_a_tombstone_is_known_by_its_place():
    assert {default_identity(record) for record in records(None)} == {"orders-3-41"}


def test_integers_of_any_length_count_with_all_their_digits():
    one, other = (default_identity({"data": {"id": n}}) for n in (2**64 + 1, 2**64 + 2))
    assert one != other
    assert default_identity({"data": {"id": 2**53 - 1}}) == event_id({"id": 2**53 - 1})


def test_an_envelope_without_data_is_known_as_a_whole():
    assert default_identity({"id": 1, "data": None}) != default_identity({"id": 2, "data": None})


def test_what_is_no_json_is_known_by_its_bytes():
    assert default_identity(b"\xff\x00") != default_identity(b"\xff\x01")
    assert default_identity(b"[" * 100_000) == default_identity("[" * 100_000)


# --- consumers


def process(consumer: Consumer, *messages: Any, ledger: Ledger | None = None) -> list[tuple[str, str]]:
    """(outcome, kind of the dead letter) of each message; a message is a body, or (topic, body, headers)."""
    ledger = ledger or Ledger.open("memory://")
    buried: list[Any] = []
    processor = Processor(consumer, ledger, ledger.clock, lambda delivery, burial, tx: buried.append(burial))
    found = []
    for message in messages:
        topic, body, headers = message if isinstance(message, tuple) else ("t", message, ())
        verdict = processor.process(Delivery(topic, json.dumps(body).encode(), headers=tuple(headers)))
        found.append((verdict.outcome.value, verdict.error if verdict.outcome is Outcome.DEAD else ""))
    return found


def test_created_and_deleted_with_equal_data_are_two_events():
    consumer = Consumer("c", "t", lambda body: None, effects="plain")
    created, deleted = ({"event_type": t, "data": {"n": 1}} for t in ("created", "deleted"))
    assert [o for o, _ in process(consumer, created, deleted, created)] == ["handled", "handled", "duplicates"]


def test_the_type_of_a_header_counts_where_the_body_says_none():
    consumer = Consumer("c", "t", lambda body: None, effects="plain")
    one, other = (("t", {"n": 1}, [("ce_type", kind)]) for kind in (b"created", b"deleted"))
    assert [o for o, _ in process(consumer, one, other, one)] == ["handled", "handled", "duplicates"]


def test_an_event_type_of_ones_own_replaces_the_envelopes():
    created, deleted = ({"event_type": t, "data": {"n": 1}} for t in ("created", "deleted"))
    for event_type in ("order", lambda body: "order"):
        consumer = Consumer("c", "t", lambda body: None, effects="plain", event_type=event_type)
        assert [o for o, _ in process(consumer, created, deleted)] == ["handled", "duplicates"]


@pytest.mark.parametrize(
    ("identity", "kind", "said"),
    [
        (None, "invalid_record", "is None"),
        ("", "invalid_record", "empty text"),
        (7, "invalid_record", "a int"),
        (b"x", "invalid_record", "a bytes"),
        ("a\udc80", "invalid_unicode", "lone surrogate"),
    ],
)
def test_a_key_that_is_none_is_a_dead_letter_with_the_reason(identity, kind, said):
    consumer = Consumer("c", "t", lambda body: None, lambda body: identity, effects="plain")
    buried = []
    ledger = Ledger.open("memory://")
    processor = Processor(consumer, ledger, ledger.clock, lambda delivery, burial, tx: buried.append(burial))
    for n in (1, 2):
        verdict = processor.process(Delivery("t", json.dumps({"n": n}).encode()))
        assert (verdict.outcome, verdict.error) == (Outcome.DEAD, kind)
    assert said in buried[0].reason
    assert buried[0].attempts == 0


def test_an_event_type_option_that_gives_no_text_is_a_dead_letter():
    consumer = Consumer("c", "t", lambda body: None, effects="plain", event_type=lambda body: body.get("nothing"))
    assert process(consumer, {"n": 1}) == [("dead_lettered", "invalid_record")]


def test_the_same_key_with_another_payload_is_a_dead_letter():
    consumer = Consumer("c", "t", lambda body: None, lambda body: body["id"], effects="plain", payload=lambda b: b["n"])
    bodies = [{"id": "a", "n": 1}, {"id": "a", "n": 2}, {"id": "a", "n": 1.0}, {"id": "b", "n": 2}]
    assert process(consumer, *bodies) == [
        ("handled", ""), ("dead_lettered", "payload_mismatch"), ("duplicates", ""), ("handled", ""),
    ]  # fmt: skip


def test_another_message_of_a_key_that_ended_as_a_dead_letter_is_handled():
    """Somebody sent the dead letter's body again, without its attributes."""
    broken, ran, buried = [True], [], []

    def handle(body):
        if broken:
            raise ValueError
        ran.append(body["n"])

    ledger = Ledger.open("memory://")
    consumer = Consumer("c", "t", handle, effects="plain", max_attempts=1)
    processor = Processor(consumer, ledger, ledger.clock, lambda delivery, burial, tx: buried.append(burial))

    def give(message_id):
        return processor.process(Delivery("t", b'{"n": 1}', source={"message_id": message_id})).outcome

    assert [give("m1"), give("m1")] == [Outcome.DEAD, Outcome.DUPLICATE]
    broken.clear()
    assert [give("m1"), give("m2"), give("m2"), give("m1")] == [
        Outcome.DUPLICATE, Outcome.HANDLED, Outcome.DUPLICATE, Outcome.DUPLICATE,
    ]  # fmt: skip
    assert ran == [1]
    # A further message of the event is a duplicate, too: the effect has happened.
    assert [give("m3"), give("m1"), give("m3")] == [Outcome.DUPLICATE] * 3
    assert ran == [1]


def test_messages_that_are_sent_again_may_end_as_dead_letters_again():
    broken, ran = [True], []

    def handle(body):
        if broken:
            raise ValueError
        ran.append(body["n"])

    ledger = Ledger.open("memory://")
    processor = Processor(
        Consumer("c", "t", handle, effects="plain", max_attempts=1), ledger, ledger.clock, lambda *_: None
    )

    def give(message_id):
        return processor.process(Delivery("t", b'{"n": 1}', source={"message_id": message_id})).outcome

    assert [give(name) for name in ("m1", "m2", "m2", "m3", "m1", "m3")] == [
        Outcome.DEAD, Outcome.DEAD, Outcome.DUPLICATE, Outcome.DEAD, Outcome.DUPLICATE, Outcome.DUPLICATE,
    ]  # fmt: skip
    broken.clear()
    assert [give(name) for name in ("m2", "m4", "m5", "m1")] == [
        Outcome.DUPLICATE, Outcome.HANDLED, Outcome.DUPLICATE, Outcome.DUPLICATE,
    ]  # fmt: skip
    assert ran == [1]


# --- envelopes of SNS, and types that several places state


def sns_record(body, message_id="m-1"):
    """What a function that SNS invokes gets in `Records`."""
    return {
        "EventSource": "aws:sns", "EventVersion": "1.0", "EventSubscriptionArn": f"arn:{message_id}",
        "Sns": {"Type": "Notification", "MessageId": message_id, "Message": body, "Timestamp": message_id},
    }  # fmt: skip


def test_a_record_of_a_function_that_sns_invokes_is_known_by_its_message():
    body = json.dumps(BODY)
    once, again = sns_record(body), sns_record(body, "m-2")
    assert default_identity(once) == default_identity(again) == default_identity(BODY)
    assert read_event(once).type == "order.created"
    assert default_identity(sns_record("no json")) == default_identity(b"no json")
    assert default_identity(sns_record("a")) != default_identity(sns_record("b"))


def test_only_records_of_sns_are_opened():
    for other in ({**sns_record("{}"), "EventSource": "aws:other"}, {"EventSource": "aws:sns", "n": 1}):
        assert default_identity(other) == event_id(other)


def test_the_envelope_that_sns_puts_around_a_message_is_opened_in_a_dict_too():
    envelope = {"Type": "Notification", "TopicArn": "arn", "MessageId": "1", "Message": json.dumps(BODY)}
    assert default_identity(envelope) == default_identity({**envelope, "MessageId": "2"}) == default_identity(BODY)
    assert read_event(envelope).type == "order.created"


@pytest.mark.parametrize(
    ("event", "stated", "found"),
    [
        (ConfluentRecord(b'{"event_type": "envelope"}', headers=[("ce_type", b"header")]), "stated", "envelope"),
        (ConfluentRecord(b'{"n": 1}', headers=[("ce_type", b"header")]), "stated", "header"),
        (ConfluentRecord(b'{"n": 1}'), "stated", "stated"),
        (ConfluentRecord(b'{"n": 1}'), "", "orders"),
        ({"n": 1}, "", "default"),
    ],
)
def test_the_nearest_place_states_the_type(event, stated, found):
    assert identity_and_type(event, None, None, "default", stated)[1] == found


def test_an_event_type_that_is_no_text_is_one_sentence():
    with pytest.raises(InvalidInputError) as caught:
        identity_and_type({"n": 1}, None, lambda event: event["n"], "default")
    assert caught.value.message == "event_type gave a int for this event; expected text"
