"""Announcements for SNS, SQS and Kafka: services that enforce their limits, refuse some messages, or are away."""

from __future__ import annotations

import logging
import re
from typing import ClassVar

import pytest

from headgate._core import ManualClock
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.backends.publish import KafkaPublisher, RoutedPublisher, SnsPublisher, SqsPublisher, open_publisher
from headgate.errors import ConfigError, InvalidInputError
from headgate.ops import MemoryMetrics
from headgate.ports import Announcement, Published

NOW = 1_780_000_000_000_000
ALLOWED = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")


class ClientError(Exception):
    """As botocore's: the answer of the service."""

    def __init__(self, code, status=400, text=""):
        super().__init__(code)
        self.response = {"Error": {"Code": code, "Message": text}, "ResponseMetadata": {"HTTPStatusCode": status}}


class Service:
    """SNS and SQS as they are: ten entries, a limit of bytes with attributes, distinct ids, no control characters.

    Args:
        limit: bytes of a batch.
        refuse: body -> (code, sender fault) of an entry that fails, or None.
        fail: (number of the request) -> an exception instead of an answer, or None.
    """

    def __init__(self, limit, refuse=lambda body: None, fail=lambda n: None):
        self.limit, self.refuse, self.fail = limit, refuse, fail
        self.batches, self.arrived, self.entries = [], [], []
        self.requests = 0

    def publish_batch(self, **request):
        return self._take(request["PublishBatchRequestEntries"], "Message")

    def send_message_batch(self, **request):
        return self._take(request["Entries"], "MessageBody")

    def _take(self, entries, name):
        self.requests += 1
        error = self.fail(self.requests)
        if error is not None:
            raise error
        if len(entries) > 10:
            raise ClientError("TooManyEntriesInBatchRequest")
        if sum(self._size(entry, entry[name]) for entry in entries) > self.limit:
            raise ClientError("BatchRequestTooLong")
        assert len({entry["Id"] for entry in entries}) == len(entries)
        answer = {"Successful": [], "Failed": []}
        taken = []
        for entry in entries:
            body = entry[name]
            refused = self.refuse(body)
            if not ALLOWED.fullmatch(body):
                refused = ("InvalidMessageContents", True)
            if refused is not None:
                answer["Failed"].append({"Id": entry["Id"], "Code": refused[0], "SenderFault": refused[1]})
                continue
            taken.append(body)
            self.entries.append(entry)
            answer["Successful"].append({"Id": entry["Id"]})
        self.batches.append(len(entries))
        self.arrived += taken
        return answer

    @staticmethod
    def _size(entry, body):
        found = len(body.encode())
        for name, value in entry["MessageAttributes"].items():
            assert value["StringValue"]
            found += len(name) + len(value["DataType"]) + len(value["StringValue"].encode())
        return found


KINDS = {
    "sns": (SnsPublisher, "arn:aws:sns:us-east-1:1:t", 262_144),
    "sqs": (SqsPublisher, "https://sqs/1/q", 1_048_576),
}


@pytest.fixture(params=sorted(KINDS))
def kind(request):
    return request.param


def connect(kind, *, fifo=False, **options):
    cls, place, limit = KINDS[kind]
    service = Service(limit, **options)
    return service, cls(service, place + (".fifo" if fifo else "")), limit


@pytest.fixture
def outbox():
    store = LocalStore(LocalDatabase(":memory:"), ManualClock(NOW), "p")
    store.metrics = MemoryMetrics()
    return store


def letters(store):
    return [(x["stage"], x["source"], x["key"], x["kind"]) for x in store.dead_letters()]


# --- bytes and counts


def test_batches_are_limited_by_bytes_and_by_count(kind, outbox):
    service, publisher, limit = connect(kind)
    for n in range(10):
        outbox.publish("orders", str(n), {"n": n, "text": "y" * (limit // 7)})  # each fits, ten together do not
    for n in range(25):
        outbox.publish("orders", f"small-{n}", {"n": n})
    assert outbox.publish_outbox(publisher) == 35
    assert (len(service.arrived), outbox.unsent_count(), letters(outbox)) == (35, 0, [])
    assert service.requests == len(service.batches) <= 6
    assert max(service.batches) == 10


def test_attributes_count_too(kind, outbox):
    """The body alone is under the limit, with its attribute it is exactly over, or exactly at it."""
    service, publisher, limit = connect(kind)
    room = limit - len("topicStringorders") - len('{"t":""}')
    outbox.publish("orders", "at", {"t": "é" * (room // 2) + "y" * (room % 2)})
    outbox.publish("orders", "over", {"t": "y" * (room + 1)})
    assert outbox.publish_outbox(publisher) == 1
    assert letters(outbox) == [("outbox", "orders", "over", "message_too_large")]
    (letter,) = outbox.dead_letters()
    assert f"{limit + 1} bytes, attributes included; expected at most {limit}" in letter["reason"]
    assert service.requests == 1


def test_a_topic_that_takes_more_may_be_given_more(outbox):
    service = Service(1_048_576)
    outbox.publish("orders", "k", {"t": "y" * 300_000})
    assert outbox.publish_outbox(SnsPublisher(service, "arn", max_bytes=1_048_576)) == 1
    for wrong in (0, -1, "many", True):
        with pytest.raises(ConfigError, match="max_bytes: expected a whole number of bytes"):
            SnsPublisher(service, "arn", wrong)


def test_a_queue_that_takes_less_refuses_what_is_larger_and_the_rest_passes(outbox):
    service = Service(1_000)  # its MaximumMessageSize
    for n in range(12):
        outbox.publish("orders", str(n), {"n": n, "text": "y" * (5_000 if n == 3 else 80)})
    assert outbox.publish_outbox(SqsPublisher(service, "https://sqs/1/q")) == 11
    assert letters(outbox) == [("outbox", "orders", "3", "message_too_large")]
    assert outbox.unsent_count() == 0


# --- what can never be sent


def test_what_can_never_be_sent_is_set_aside_with_its_reason_and_nothing_waits(kind, outbox, caplog):
    service, publisher, limit = connect(kind)
    outbox.publish("orders", "large", {"text": "y" * limit})
    outbox.publish("orders", "noncharacter", {"text": "\uffff"})
    outbox.db.execute("INSERT INTO outbox (topic, key, body, created_us) VALUES ('orders', 'raw', '\x01', 1)")
    outbox.publish("bad\x00topic", "k", {"n": 0})
    outbox.publish("", "k", {"n": 0})
    for n in range(3):
        outbox.publish("orders", "large", {"n": n})
    with caplog.at_level(logging.WARNING):
        assert outbox.publish_outbox(publisher) == 3
    assert letters(outbox) == [
        ("outbox", "orders", "large", "message_too_large"), ("outbox", "orders", "noncharacter", "invalid_message"),
        ("outbox", "orders", "raw", "invalid_message"), ("outbox", "bad\x00topic", "k", "invalid_message"),
        ("outbox", "", "k", "invalid_topic"),
    ]  # fmt: skip
    assert (outbox.unsent_count(), service.requests) == (0, 3)
    assert "U+FFFF" in outbox.dead_letters()[1]["reason"]
    set_aside = [r for r in caplog.records if r.message == "announcements set aside"]
    assert [(r.reason, r.count, r.stage) for r in set_aside] == [
        ("message_too_large", 1, "outbox"), ("invalid_message", 3, "outbox"), ("invalid_topic", 1, "outbox"),
    ]  # fmt: skip
    assert outbox.metrics.value("headgate_outbox_set_aside_total", reason="message_too_large") == 1
    assert outbox.metrics.value("headgate_outbox_set_aside_total", reason="invalid_message") == 3
    assert outbox.publish_outbox(publisher) == 0


@pytest.mark.parametrize(
    ("code", "kind_word"),
    [("InvalidMessageContents", "invalid_message"), ("InvalidParameterValue", "invalid_message"),
     ("SomethingNew", "invalid_message"), ("MessageTooLong", "message_too_large")],
)  # fmt: skip
def test_an_entry_that_fails_by_the_senders_fault_is_set_aside(kind, outbox, code, kind_word):
    service, publisher, _ = connect(kind, refuse=lambda body: (code, True) if '"n":1}' in body else None)
    for n in range(3):
        outbox.publish("orders", str(n), {"n": n})
    assert outbox.publish_outbox(publisher) == 2
    assert letters(outbox) == [("outbox", "orders", "1", kind_word)]
    assert code in outbox.dead_letters()[0]["reason"]
    assert service.requests == 1


@pytest.mark.parametrize(
    "code", ["BatchRequestTooLong", "AWS.SimpleQueueService.BatchRequestTooLong", "InvalidParameterValue"]
)
def test_a_batch_that_is_refused_as_a_whole_goes_one_by_one(kind, outbox, code):
    service, publisher, _ = connect(kind)
    take = service._take

    def strict(entries, name):
        if any('"n":4}' in entry[name] for entry in entries):
            raise ClientError(code)
        return take(entries, name)

    service._take = strict
    for n in range(10):
        outbox.publish("orders", str(n), {"n": n})
    assert outbox.publish_outbox(publisher) == 9
    assert [key for _, _, key, _ in letters(outbox)] == ["4"]
    assert outbox.unsent_count() == 0


def test_two_equal_announcements_are_two_letters(kind, outbox):
    _, publisher, limit = connect(kind)
    for _ in range(2):
        outbox.publish("orders", "k", {"text": "y" * limit})
    outbox.publish("orders", "other", {"text": "y" * limit})
    assert outbox.publish_outbox(publisher) == 0
    assert len(outbox.dead_letters()) == 3
    assert [(x["pipeline"], x["kind"], x["letters"]) for x in outbox.dead_letter_counts()] == [
        ("p", "message_too_large", 3)
    ]


def test_letters_go_back_into_the_outbox_once(kind, outbox):
    refused = [True]
    service, publisher, _ = connect(kind, refuse=lambda body: ("InvalidMessageContents", True) if refused else None)
    for n in range(3):
        outbox.publish("orders", str(n), {"n": n})
    assert (outbox.publish_outbox(publisher), len(outbox.dead_letters())) == (0, 3)
    assert (outbox.redrive_outbox(limit=2), outbox.redrive_outbox(), outbox.redrive_outbox()) == (2, 1, 0)
    assert (outbox.dead_letters(), outbox.unsent_count()) == ([], 3)
    assert (outbox.publish_outbox(publisher), len(outbox.dead_letters())) == (0, 3)  # still refused: there again
    refused.clear()
    assert (outbox.redrive_outbox(), outbox.publish_outbox(publisher)) == (3, 3)
    assert service.arrived == ['{"n":0}', '{"n":1}', '{"n":2}']


def test_letter_and_mark_are_one_commit(kind, outbox):
    from headgate import _native

    _, publisher, limit = connect(kind)
    outbox.publish("orders", "k", {"text": "y" * limit})
    _native.set_faults("outbox.before_set_aside:fail:1")
    with pytest.raises(Exception, match=r"outbox\.before_set_aside"):
        outbox.publish_outbox(publisher)
    _native.set_faults("")
    assert (outbox.dead_letters(), outbox.unsent_count()) == ([], 1)
    assert (outbox.publish_outbox(publisher), len(outbox.dead_letters()), outbox.unsent_count()) == (0, 1, 0)


def test_a_refused_announcement_still_reaches_this_machines_groups(kind, outbox):
    _, publisher, limit = connect(kind)
    outbox.publish("orders", "k", {"text": "y" * limit})
    assert outbox.publish_outbox(publisher, {"orders": ["here"]}) == 0
    assert (outbox.queue_depth("orders", "here")[0], len(outbox.dead_letters())) == (1, 1)


def test_a_lone_surrogate_is_refused_where_it_enters(outbox):
    for topic, key, body in (("\ud800", "k", {}), ("t", "\ud800", {}), ("t", "k", {"x": "\ud800"})):
        with pytest.raises(InvalidInputError, match="lone surrogate"):
            outbox.publish(topic, key, body)
    assert outbox.unsent_count() == 0


# --- what may pass later


@pytest.mark.parametrize(
    "code", ["InternalError", "ThrottlingException", "KMS.ThrottlingException", "ServiceUnavailable"]
)
@pytest.mark.parametrize("sender_fault", [False, True])
def test_an_entry_that_fails_for_now_stays_and_is_not_overtaken_by_its_key(kind, outbox, code, sender_fault):
    failing = [True]
    service, publisher, _ = connect(
        kind, refuse=lambda body: (code, sender_fault) if failing and '"n":1}' in body else None
    )
    for n, key in enumerate(("a", "b", "a", "b", "c", "b")):
        outbox.publish("orders", key, {"n": n})
    assert outbox.publish_outbox(publisher) == 3
    assert service.arrived == ['{"n":0}', '{"n":4}', '{"n":2}']
    assert (letters(outbox), outbox.unsent_count()) == ([], 3)
    failing.clear()
    assert outbox.publish_outbox(publisher) == 3
    assert service.arrived[3:] == ['{"n":1}', '{"n":3}', '{"n":5}']


def test_what_waits_at_the_head_keeps_nothing_from_the_pages_behind_it(kind, outbox):
    service, publisher, _ = connect(kind, refuse=lambda body: ("InternalError", False) if '"bad"' in body else None)
    for n in range(30):
        outbox.publish("orders", f"bad-{n}", {"bad": n})
    outbox.publish("orders", "bad-3", {"n": "behind"})
    for n in range(5):
        outbox.publish("orders", f"good-{n}", {"n": n})
    assert outbox.publish_outbox(publisher, limit=4) == 4
    assert outbox.publish_outbox(publisher, limit=4) == 1
    assert service.arrived == [f'{{"n":{n}}}' for n in range(5)]
    assert outbox.unsent_count() == 31


@pytest.mark.parametrize(
    "error", [ClientError("ThrottlingException"), ClientError("InternalFailure", 500), OSError("gone")]
)
def test_a_service_that_is_away_is_asked_once_and_everything_stays(kind, outbox, error):
    service, publisher, _ = connect(kind, fail=lambda n: error if n == 3 else None)
    for n in range(50):
        outbox.publish("orders", str(n), {"n": n})
    assert outbox.publish_outbox(publisher) == 20
    assert (service.requests, outbox.unsent_count(), letters(outbox)) == (3, 30, [])
    assert outbox.publish_outbox(publisher) == 30
    assert service.arrived == [f'{{"n":{n}}}' for n in range(50)]


def test_an_error_that_nobody_knows_keeps_one_announcement_only(kind, outbox):
    service, publisher, _ = connect(kind)
    take = service._take

    def strict(entries, name):
        if any('"n":4}' in entry[name] for entry in entries):
            raise ClientError("NeverHeardOf")
        return take(entries, name)

    service._take = strict
    for n in range(12):
        outbox.publish("orders", str(n), {"n": n})
    assert outbox.publish_outbox(publisher) == 11
    assert (letters(outbox), outbox.unsent_count()) == ([], 1)


@pytest.mark.parametrize(
    "error",
    [ClientError("AWS.SimpleQueueService.NonExistentQueue"), ClientError("NotFound", 404), ClientError("AccessDenied", 403),
     ClientError("InvalidParameter", 400, "Invalid parameter: TopicArn"), ClientError("KmsDisabled")],
)  # fmt: skip
def test_a_wrong_place_is_a_wrong_configuration_and_no_poison(kind, outbox, error):
    wrong = [error]
    _, publisher, _ = connect(kind, fail=lambda n: wrong[0] if wrong and n == 2 else None)
    for n in range(15):
        outbox.publish("orders", str(n), {"n": n})
    with pytest.raises(ConfigError, match="cannot be used"):
        outbox.publish_outbox(publisher)
    assert (outbox.unsent_count(), letters(outbox)) == (5, [])  # what arrived before is marked
    wrong.clear()
    assert outbox.publish_outbox(publisher) == 5


def test_boto3s_own_checks_refuse_the_message_alone(kind, outbox):
    class ParamValidationError(Exception):
        pass

    service, publisher, _ = connect(kind)
    take = service._take

    def strict(entries, name):
        if any('"n":4}' in entry[name] for entry in entries):
            raise ParamValidationError
        return take(entries, name)

    service._take = strict
    for n in range(10):
        outbox.publish("orders", str(n), {"n": n})
    assert outbox.publish_outbox(publisher) == 9
    assert letters(outbox) == [("outbox", "orders", "4", "invalid_message")]


# --- FIFO


def test_the_order_of_a_fifo_group_holds_through_a_failure(kind, outbox):
    failing = [True]
    service, publisher, _ = connect(
        kind, fifo=True, refuse=lambda body: ("InternalError", False) if failing and '"n":4}' in body else None
    )
    for n in range(12):
        outbox.publish(f"topic-{n % 2}", str(n), {"n": n})
    assert outbox.publish_outbox(publisher) == 8
    failing.clear()
    assert outbox.publish_outbox(publisher) == 4
    for group in range(2):
        mine = [e for e in service.entries if e["MessageGroupId"] == f"topic-{group}"]
        assert [e.get("Message") or e["MessageBody"] for e in mine] == [f'{{"n":{n}}}' for n in range(group, 12, 2)]


def test_ids_of_fifo_messages_are_valid_and_belong_to_one_announcement(kind, outbox):
    service, publisher, _ = connect(kind, fifo=True)
    other = LocalStore(LocalDatabase(":memory:"), ManualClock(NOW + 1), "p")
    for store in (outbox, other):  # the same row numbers in two files
        for topic in ("orders", "größe und more", "x" * 300):
            store.publish(topic, "k", {"n": 1})
        store.publish_outbox(publisher)
    ids = [e["MessageDeduplicationId"] for e in service.entries]
    assert len(set(ids)) == 6
    valid = re.compile(r"[!-~]{1,128}")
    assert all(
        valid.fullmatch(e["MessageGroupId"]) and valid.fullmatch(e["MessageDeduplicationId"]) for e in service.entries
    )
    outbox.db.execute("UPDATE outbox SET sent_us = NULL")  # a crash before the rows were marked
    outbox.publish_outbox(publisher)
    assert [e["MessageDeduplicationId"] for e in service.entries[6:]] == ids[:3]


# --- publishers of one's own, and routes


class Own:
    """A publisher that knows rows only."""

    def __init__(self, refuse=()):
        self.refuse, self.offered = refuse, []

    def publish(self, announcements):
        self.offered.append([a.key for a in announcements])
        return [a.row for a in announcements if a.key not in self.refuse]


def test_a_publisher_that_knows_rows_only_goes_on_as_before(outbox):
    for n in range(6):
        outbox.publish("orders", str(n % 3), {"n": n})
    own = Own(refuse={"1"})
    assert outbox.publish_outbox(own, limit=2) == 2
    assert own.offered == [["0", "1"], ["2"]]
    assert outbox.publish_outbox(Own(refuse=set("012"))) == 0
    assert outbox.publish_outbox(Own()) == 4


def test_an_alert_is_sent_whatever_characters_its_error_holds(outbox):
    service, publisher, _ = connect("sns")
    outbox.publish("p.alerts", "k", {"last_error": "gone\x00\x1b away", "source": "feed"})
    assert outbox.publish_outbox(publisher) == 1
    (entry,) = service.entries
    assert entry["MessageAttributes"]["LastError"]["StringValue"] == "gone?? away"


def test_routes_keep_what_each_place_says(outbox):
    alerts, publisher, _ = connect("sns", refuse=lambda body: ("InvalidParameter", True) if '"n":1' in body else None)
    routed = RoutedPublisher(Own(refuse={"2"}), publisher)
    for n, topic in enumerate(("orders", "p.alerts", "orders", "p.alerts")):
        outbox.publish(topic, str(n), {"n": n, "alert_type": "x", "failure_count": 0, "source": None, "latency_ms": ""})
    assert outbox.publish_outbox(routed) == 2
    assert letters(outbox) == [("outbox", "p.alerts", "1", "invalid_message")]
    assert outbox.unsent_count() == 1
    (entry,) = alerts.entries
    assert {name: value["StringValue"] for name, value in entry["MessageAttributes"].items()} == {
        "topic": "p.alerts", "AlertType": "x", "FailureCount": "0",
    }  # fmt: skip
    away = RoutedPublisher(None, SnsPublisher(Service(1, fail=lambda n: OSError()), "arn"))
    assert isinstance(away.publish([Announcement(1, "p.alerts", "k", "{}")]), Published)


def test_options_of_urls_are_used_or_refused(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    pytest.importorskip("boto3", reason="boto3 is not installed")
    assert open_publisher("sns://arn?region=us-east-1&max_bytes=1048576")._max_bytes == 1_048_576
    for url, expected in (
        ("sns://arn?region=us-east-1&max_byte=5", "unknown option 'max_byte'"),
        ("sqs://q?region=us-east-1&max_bytes=lots", "expected a whole number of bytes, got 'lots'"),
    ):
        with pytest.raises(ConfigError, match=expected):
            open_publisher(url)


# --- Kafka


class Brokers:
    """A producer of confluent-kafka whose brokers answer as told.

    `answer` says for (topic, key, body, how many records came in this flush) the name of an error, or None.
    """

    answer = staticmethod(lambda topic, key, body, together: None)
    opened: ClassVar[list[dict]] = []
    arrived: ClassVar[list[tuple[str, bytes]]] = []

    def __init__(self, config):
        self.config = config
        self.opened.append(config)
        self.waiting = []

    def produce(self, topic, value, key, on_delivery):
        import confluent_kafka

        if len(value) > int(self.config.get("message.max.bytes", 1_000_000)):
            raise confluent_kafka.KafkaException(
                confluent_kafka.KafkaError(confluent_kafka.KafkaError.MSG_SIZE_TOO_LARGE)
            )
        if len(self.waiting) >= int(self.config.get("queue.buffering.max.messages", 100_000)):
            raise BufferError
        self.waiting.append((topic, key, value, on_delivery))

    def flush(self, timeout):
        import confluent_kafka

        waiting, self.waiting = self.waiting, []
        for topic, key, value, report in waiting:
            name = self.answer(topic, key, value, len(waiting))
            fatal = name == "FATAL"
            if name is None:
                self.arrived.append((topic, value))
                report(None, None)
            elif name != "LOST":
                code = getattr(confluent_kafka.KafkaError, "_FATAL" if fatal else name)
                report(confluent_kafka.KafkaError(code, fatal=fatal), None)
        return 0


@pytest.fixture
def brokers(monkeypatch):
    confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")

    class Fresh(Brokers):
        opened: ClassVar[list[dict]] = []
        arrived: ClassVar[list[tuple[str, bytes]]] = []

    monkeypatch.setattr(confluent_kafka, "Producer", Fresh)
    return Fresh


def kafka(**settings):
    return KafkaPublisher({"bootstrap.servers": "b", **settings})


def numbers(brokers):
    return [int(re.search(rb'"n":(\d+)', value)[1]) for _, value in brokers.arrived]


def test_what_kafka_never_takes_is_set_aside_and_nothing_waits(brokers, outbox):
    # A topic's own limit is found by the brokers, who refuse all records of a batch; alone each is judged for itself.
    brokers.answer = staticmethod(
        lambda topic, key, body, together: "MSG_SIZE_TOO_LARGE" if together > 1 or len(body) > 50_000 else None
    )
    outbox.publish("orders", "huge", {"n": 0, "text": "y" * 2_000_000})
    outbox.publish("orders", "large", {"n": 1, "text": "y" * 60_000})
    outbox.publish("bad topic", "k", {"n": 2})
    outbox.publish("orders", "small", {"n": 3})
    outbox.publish("orders", "large", {"n": 4})
    assert outbox.publish_outbox(kafka()) == 2
    assert numbers(brokers) == [3, 4]
    assert letters(outbox) == [
        ("outbox", "orders", "huge", "message_too_large"), ("outbox", "orders", "large", "message_too_large"),
        ("outbox", "bad topic", "k", "invalid_topic"),
    ]  # fmt: skip
    assert outbox.unsent_count() == 0


@pytest.mark.parametrize("name", ["INVALID_RECORD", "POLICY_VIOLATION", "TOPIC_EXCEPTION"])
def test_permanent_errors_of_kafka_are_told_from_others(brokers, outbox, name):
    brokers.answer = staticmethod(lambda topic, key, body, together: name if key == b"bad" else None)
    for n, key in enumerate(("a", "bad", "b")):
        outbox.publish("orders", key, {"n": n})
    assert outbox.publish_outbox(kafka()) == 2
    assert [key for _, _, key, _ in letters(outbox)] == ["bad"]


@pytest.mark.parametrize(
    "name", ["NOT_LEADER_FOR_PARTITION", "REQUEST_TIMED_OUT", "CLUSTER_AUTHORIZATION_FAILED", "LOST"]
)
def test_other_errors_of_kafka_keep_the_announcement_and_its_key_waits(brokers, outbox, name):
    brokers.answer = staticmethod(lambda topic, key, body, together: name if b'"n":1}' in body else None)
    for n, key in enumerate(("a", "b", "b", "c")):
        outbox.publish(f"topic-{key}", key, {"n": n})
    assert outbox.publish_outbox(kafka()) == 2
    assert (numbers(brokers), letters(outbox), outbox.unsent_count()) == ([0, 3], [], 2)
    brokers.answer = staticmethod(Brokers.answer)
    assert outbox.publish_outbox(kafka()) == 2
    assert numbers(brokers) == [0, 3, 1, 2]


def test_an_unknown_topic_keeps_its_own_announcements_only(brokers, outbox):
    asked = []

    def answer(topic, key, body, together):
        asked.append(topic)
        return "_UNKNOWN_TOPIC" if topic == "missing" else None

    brokers.answer = staticmethod(answer)
    for n in range(12):
        outbox.publish(("missing", "orders")[n % 2], str(n % 3), {"n": n})
    assert outbox.publish_outbox(kafka(), limit=6) == 6
    assert (outbox.unsent_count(), letters(outbox)) == (6, [])
    assert asked.count("missing") == 3  # once for each key, not again on the next page


def test_brokers_that_are_away_are_asked_once(brokers, outbox):
    asked = []

    def answer(topic, key, body, together):
        asked.append(key)
        return "_MSG_TIMED_OUT"

    brokers.answer = staticmethod(answer)
    for n in range(40):
        outbox.publish(f"topic-{n % 4}", str(n), {"n": n})
    assert outbox.publish_outbox(kafka(), limit=10) == 0
    assert (len(asked), outbox.unsent_count()) == (10, 40)


def test_a_producer_that_failed_for_good_is_replaced(brokers, outbox):
    publisher = kafka()
    brokers.answer = staticmethod(lambda topic, key, body, together: "FATAL")
    outbox.publish("orders", "k", {"n": 1})
    assert (outbox.publish_outbox(publisher), outbox.unsent_count()) == (0, 1)
    brokers.answer = staticmethod(Brokers.answer)
    assert outbox.publish_outbox(publisher) == 1
    assert len(brokers.opened) == 2


def test_a_full_queue_of_the_producer_is_emptied_first(brokers, outbox):
    for n in range(10):
        outbox.publish("orders", str(n), {"n": n})
    assert outbox.publish_outbox(kafka(**{"queue.buffering.max.messages": 3})) == 10


def test_settings_of_the_url_reach_the_producer(brokers, outbox):
    open_publisher("kafka://b:9092")
    assert brokers.opened.pop()["message.max.bytes"] == 1_000_000_000  # the topic's own limit decides
    publisher = open_publisher("kafka://b:9092?message.max.bytes=5000000&message.timeout.ms=2500&compression.type=zstd")
    (config,) = brokers.opened
    assert (config["message.max.bytes"], config["message.timeout.ms"], config["compression.type"]) == (
        "5000000", "2500", "zstd",
    )  # fmt: skip
    assert (config["enable.idempotence"], config["acks"], publisher._timeout_s) == (True, "all", 2.5)
    outbox.publish("orders", "k", {"n": 1, "text": "y" * 2_000_000})
    assert outbox.publish_outbox(publisher) == 1


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("enable.idempotence=false", "would let announcements be lost"), ("acks=1", "would let announcements be lost"),
     ("message.timeout.ms=soon", "expected milliseconds"), ("no.such.setting=1", "no.such.setting"),
     ("message.max.bytes=many", "message.max.bytes")],
)  # fmt: skip
def test_settings_that_kafka_does_not_know_are_named(setting, expected):
    pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    with pytest.raises(ConfigError, match=expected):
        open_publisher(f"kafka://127.0.0.1:9?{setting}")


def test_a_setting_that_kafka_does_not_take_is_one_sentence_without_its_secrets():
    pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")
    from headgate.backends.publish import KafkaPublisher

    with pytest.raises(ConfigError, match=r"there is no setting 'no\.such'"):
        KafkaPublisher({"bootstrap.servers": "localhost:1", "no.such": "1"})
    with pytest.raises(ConfigError) as caught:
        KafkaPublisher(
            {"bootstrap.servers": "localhost:1", "ssl.key.password": "hunter2", "security.protocol": "hunter2"}
        )
    assert "hunter2" not in str(caught.value)
