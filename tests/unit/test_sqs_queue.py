"""What is read of an SQS queue and of its messages, value by value."""

from __future__ import annotations

import base64
import json
import logging

import pytest

from headgate import Ledger
from headgate.consume import Consumer
from headgate.consume._sqs_messages import attributes_size, parse_count, read_message, read_record
from headgate.consume._sqs_queue import error_code, is_refusal, max_receive_count, read_attributes, set_up_warnings
from headgate.errors import ConfigError


class AwsError(Exception):
    """An error as boto3 raises it."""

    def __init__(self, code):
        super().__init__("a text that may quote a message")
        self.response = {"Error": {"Code": code}}


class Queue:
    def __init__(self, answer):
        self.answer = answer

    def get_queue_attributes(self, **options):
        assert options == {"QueueUrl": "url", "AttributeNames": ["All"]}
        if isinstance(self.answer, Exception):
            raise self.answer
        return {"Attributes": self.answer}


def warnings(attributes, dead=None, *, buries=True, timeout_s=None, max_attempts=5):
    consumer = Consumer("c", "t", lambda body: None, effects="plain", max_attempts=max_attempts)
    # A ledger in memory has one warning of its own, and one more when the queue keeps messages longer than it.
    ledger = Ledger.open("memory://")
    found = set_up_warnings(attributes, dead or {}, consumer, ledger, buries=buries, timeout_s=timeout_s)
    return [text for text in found if text not in ledger.warnings(retention=345_600)]


def test_attributes_that_cannot_be_read_are_none_and_a_log_line(caplog):
    assert read_attributes(Queue({"A": "1"}), "url") == {"A": "1"}
    assert read_attributes(object(), "url") == {}  # a client that cannot tell
    with caplog.at_level(logging.WARNING, "headgate.consume"):
        assert read_attributes(Queue(AwsError("AccessDenied")), "url") == {}
    (line,) = caplog.records
    assert (line.message, line.error) == ("could not read the attributes of an SQS queue", "AccessDenied")
    for code in ("AWS.SimpleQueueService.NonExistentQueue", "com.amazonaws.sqs#QueueDoesNotExist"):
        with pytest.raises(ConfigError, match="there is no such SQS queue"):
            read_attributes(Queue(AwsError(code)), "url")


@pytest.mark.parametrize(
    ("error", "code", "is_final"),
    [
        (AwsError("ReceiptHandleIsInvalid"), "ReceiptHandleIsInvalid", True),
        (AwsError("AWS.SimpleQueueService.UnsupportedOperation"), "UnsupportedOperation", True),
        (AwsError("com.amazonaws.sqs#InvalidMessageContents"), "InvalidMessageContents", True),
        (AwsError("ServiceUnavailable"), "ServiceUnavailable", False),
        (AwsError(""), "AwsError", False),
        (TimeoutError(), "TimeoutError", False),
    ],
)
def test_what_sqs_will_refuse_again(error, code, is_final):
    assert (error_code(error), is_refusal(error)) == (code, is_final)


@pytest.mark.parametrize(
    ("policy", "most"),
    [('{"maxReceiveCount": 3}', 3), ('{"maxReceiveCount": "3"}', 3), ("{}", None), ("no json", None), ("[]", None)],
)
def test_the_redrive_policy(policy, most):
    assert max_receive_count({"RedrivePolicy": policy}) == most
    assert max_receive_count({}) is None


def test_a_queue_with_the_values_that_sqs_itself_chooses_has_no_warning():
    assert warnings({"QueueArn": "a"}, {"QueueArn": "d"}, timeout_s=30) == []
    # Without attributes only the ledger can be judged.
    assert warnings({}, {}, buries=False, timeout_s=900) == []


def test_each_weakness_of_a_queue_is_one_sentence():
    few = {"RedrivePolicy": '{"maxReceiveCount": 4}'}
    assert warnings(few, max_attempts=4) == []
    (text,) = warnings(few, max_attempts=5)
    assert text == (
        "the queue's redrive policy moves a message after 4 receives, fewer than max_attempts = 5: raise "
        "maxReceiveCount or lower max_attempts"
    )
    (text,) = warnings({"QueueArn": "a"}, buries=False)
    assert text == (
        "the queue has no redrive policy and the consumer no dead-letter queue: a message that always fails comes back "
        "for 345600 s and is then deleted by SQS"
    )
    assert warnings({"MaximumMessageSize": "1024"}, {"MaximumMessageSize": "1024"}) == []
    (text,) = warnings({"MaximumMessageSize": "1025"}, {"MaximumMessageSize": "1024"})
    assert text == (
        "the dead-letter queue takes 1024 bytes and the queue 1025: larger messages cannot become dead letters"
    )
    (text,) = warnings({"VisibilityTimeout": "59"}, timeout_s=60)
    assert text == (
        "the queue's visibility timeout of 59 s is shorter than the function's time-out of 60 s: a message is "
        "delivered again while it is being handled"
    )
    assert warnings({"VisibilityTimeout": "60"}, timeout_s=60) == []
    assert len(warnings({"QueueArn": "a"}, timeout_s=31)) == 1


def test_a_record_of_lambda_and_a_received_message_are_read_alike():
    received = {
        "MessageId": "m", "Body": "b\ud800",
        "MessageAttributes": {
            "text": {"DataType": "String.x", "StringValue": "t"}, "bytes": {"DataType": "Binary", "BinaryValue": b"\xff"},
        },
        "Attributes": {"MessageGroupId": "g", "AWSTraceHeader": "Root=1"},
    }  # fmt: skip
    record = {
        "messageId": "m", "body": "b\ud800",
        "messageAttributes": {
            "text": {"dataType": "String.x", "stringValue": "t", "stringListValues": []},
            "bytes": {"dataType": "Binary", "binaryValue": base64.b64encode(b"\xff").decode()},
        },
        "attributes": {"MessageGroupId": "g", "AWSTraceHeader": "Root=1"},
    }  # fmt: skip
    one, other = read_message("topic", received), read_record("topic", record)
    for delivery in (one, other):
        assert (delivery.topic, delivery.value, delivery.body) == ("topic", b"b\xed\xa0\x80", "b\ud800")
        assert delivery.headers == (("text", b"t"), ("bytes", b"\xff"))
        assert delivery.attributes == received["MessageAttributes"]
        assert (delivery.group, delivery.trace, delivery.message_id) == ("g", "Root=1", "m")


def test_a_message_that_says_little_is_read_all_the_same():
    delivery = read_record("t", {"body": "x", "messageAttributes": {"a": {}}})
    assert delivery.attributes == {"a": {"DataType": "String", "StringValue": ""}}
    assert (delivery.group, delivery.trace, delivery.redrive) == ("", "", 0)
    assert read_message("t", {"Body": "x"}).headers == ()


def test_the_bytes_of_attributes_are_those_that_sqs_counts():
    """Name, type and value, in UTF-8."""
    assert attributes_size({}) == 0
    text = {"caf\u00e9": {"DataType": "String", "StringValue": "\u00fc1"}}
    assert attributes_size(text) == 5 + 6 + 3
    both = {**text, "b": {"DataType": "Binary", "BinaryValue": b"1234"}}
    assert attributes_size(both) == 14 + 1 + 6 + 4


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("12", 12),
        ("999999999", 999_999_999),
        ("1000000000", None),
        ("-1", None),
        ("\u0663", None),
        ("", None),
    ],
)
def test_a_count_is_a_small_whole_number(text, count):
    assert parse_count(text) == count


def test_what_is_packed_beside_a_message_is_shown_only_if_a_user_wrote_it():
    packed = json.dumps({"redrive": "2", "moved": {"mine": {"type": "String", "text": "v"}}})
    name = "headgate"
    ours = read_message("t", {"Body": "x", "MessageAttributes": {name: {"DataType": "String", "StringValue": packed}}})
    assert (ours.redrive, dict(ours.headers)) == (2, {"mine": b"v"})
    users = read_message("t", {"Body": "x", "MessageAttributes": {name: {"DataType": "String", "StringValue": "{}"}}})
    assert (users.redrive, dict(users.headers)) == (0, {name: b"{}"})
