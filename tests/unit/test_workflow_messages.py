"""The one place that takes data out of pipe arrays, SQS records and SNS envelopes."""

from __future__ import annotations

import json

import pytest

from headgate.errors import InvalidInputError
from headgate.workflow import unwrap_input

DATA = {"programId": "p", "n": [1, {"deep": None}]}
BODY = json.dumps(DATA)
SNS = {
    "Type": "Notification",
    "MessageId": "s",
    "TopicArn": "arn:aws:sns:eu-west-1:1:t",
    "Message": BODY,
    "Timestamp": "t",
}


def record(body, **more):
    return {"messageId": "m", "receiptHandle": "r", "body": body, "attributes": {}, "eventSource": "aws:sqs", **more}


@pytest.mark.parametrize(
    "value",
    [
        DATA,
        [record(BODY)],
        [{"messageId": "m", "body": BODY}],
        [{"body": BODY}],
        {"Records": [record(BODY)]},
        record(BODY),
        [record(json.dumps(SNS))],
        {"Records": [record(json.dumps(SNS))]},
        SNS,
        {"Records": [{"EventSource": "aws:sns", "EventVersion": "1.0", "Sns": {"Message": BODY, "TopicArn": "a"}}]},
    ],
)
def test_the_data_comes_out_of_every_shape(value):
    assert unwrap_input(value) == DATA


@pytest.mark.parametrize(
    "value",
    [
        None, 7, "text", [], [1, 2], {}, [{}], {"Records": "text"}, {"Records": [1]}, {"body": "text"},
        {"Type": "Notification"}, {"Type": "Notification", "TopicArn": "a"}, [{"body": 1}],
        [{"body": "text", "title": "an article"}], {"Records": [], "more": 1}, {"Message": "{}", "TopicArn": "x"},
    ],
)  # fmt: skip
def test_data_in_no_envelope_stays_what_it_is(value):
    assert unwrap_input(value) == value


def test_only_one_envelope_of_each_kind_is_taken_off():
    inner = [record(BODY)]
    assert unwrap_input([record(json.dumps(inner))]) == inner
    nested = {**SNS, "Message": json.dumps(SNS)}
    assert unwrap_input([record(json.dumps(nested))]) == SNS


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ([record(BODY), record(BODY)], "holds 2 queue records; expected 1"),
        ({"Records": []}, "holds 0 queue records; expected 1"),
        ([record(BODY), {"n": 1}], "mixes queue records with other values"),
        ([record("{")], "SQS record's body is not JSON: .* column 2"),
        ([record("")], "SQS record's body is not JSON"),
        ([record('{"a": Infinity}')], "Infinity is no JSON number"),
        ([record('{"a": 1, "a": 2}')], "the same name twice"),
        ([record("[" * 100_000)], "nested too deeply"),
        ([record({"n": 1})], "body is dict; expected JSON as text"),
        ([record(json.dumps({**SNS, "Message": "secret {"}))], "SNS envelope's Message is not JSON"),
        ([record(json.dumps({**SNS, "Message": 7}))], "SNS envelope's Message is int; expected JSON as text"),
        ([record(json.dumps({**SNS, "Type": "SubscriptionConfirmation"}))], "SNS SubscriptionConfirmation"),
        ({"Records": [{"EventSource": "aws:sns", "Sns": {}}]}, "SNS record's Message is NoneType"),
    ],
)
def test_what_cannot_be_taken_out_is_refused_with_one_sentence(value, rule):
    with pytest.raises(InvalidInputError, match=rule) as found:
        unwrap_input(value)
    assert "secret" not in str(found.value)
    assert "\n" not in str(found.value)
