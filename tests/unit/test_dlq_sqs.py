"""`headgate dlq` for consumers on SQS."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from headgate.backends import publish
from headgate.cli._dlq_sqs import count_letters, dlq_sqs
from headgate.config import ConsumerConfig
from headgate.errors import ConfigError, TransientError
from headgate.wiring import App

QUEUE, DEAD = "https://sqs/1/q", "https://sqs/1/dead"


@pytest.fixture
def app(sqs, monkeypatch):
    monkeypatch.setattr(publish, "aws_client", lambda service, options: sqs)
    for url in (QUEUE, DEAD):
        sqs.create(url)
    for n in range(3):
        about = {
            "headgate-error-kind": "attempts_exhausted",
            "headgate-error": "ValueError: no",
            "headgate-redrive": "1",
        }
        attributes = {name: {"DataType": "String", "StringValue": text} for name, text in about.items()}
        attributes["mine"] = {"DataType": "String", "StringValue": "x"}
        sqs.send_message(QueueUrl=DEAD, MessageBody=f'{{"n": {n}}}', MessageAttributes=attributes)
    made = {
        "billing": ConsumerConfig(queue="sqs://sqs/1/q?region=us-east-1", dead_letters=DEAD),
        "policy": ConsumerConfig(queue="sqs://sqs/1/q"), "local": ConsumerConfig(),
    }  # fmt: skip
    return App(SimpleNamespace(consumers=made))


def test_letters_are_listed_without_their_bodies(app):
    found = dlq_sqs(app, "list", "billing")
    assert found[0] == {
        "message_id": "m1", "consumer": "", "kind": "attempts_exhausted", "reason": "ValueError: no", "attempts": 0,
        "source_id": "", "redrive": 1, "bytes": 8,
    }  # fmt: skip
    assert [letter["message_id"] for letter in found] == ["m1", "m2", "m3"]
    assert len(dlq_sqs(app, "list", "billing", 2)) == 2


def test_one_letter_is_shown_whole(app):
    found = dlq_sqs(app, "show", "billing", message_id="m2")
    assert (found["body"], found["headers"]) == ('{"n": 1}', {"mine": "x"})
    with pytest.raises(ConfigError, match="no letter 'm9' among the first 3 of billing"):
        dlq_sqs(app, "show", "billing", message_id="m9")


def test_letters_go_back_and_are_counted(app, sqs):
    assert dlq_sqs(app, "redrive", "billing", 2) == {"billing": 2}
    assert dlq_sqs(app, "redrive", "billing", None) == {"billing": 1}
    assert [m["body"] for m in sqs.of(QUEUE)] == ['{"n": 0}', '{"n": 1}', '{"n": 2}']
    assert sqs.of(DEAD) == []


def test_letters_are_counted_where_they_lie(app, sqs):
    assert count_letters(app, "billing") == (DEAD, 3)
    sqs.receive_message(QueueUrl=DEAD, MaxNumberOfMessages=2, WaitTimeSeconds=0, VisibilityTimeout=60)
    assert count_letters(app, "billing") == (DEAD, 3)  # those that somebody looks at are letters too
    assert count_letters(app, "policy") == ("", 0)  # no queue that letters could be in
    sqs.queues[QUEUE]["attributes"]["RedrivePolicy"] = (
        '{"deadLetterTargetArn": "arn:aws:sqs:us-east-1:1:dead", "maxReceiveCount": 5}'
    )
    assert count_letters(app, "policy") == (DEAD, 3)  # where the queue's own policy moves them
    assert count_letters(app, "billing") == (DEAD, 3)


def test_a_queue_that_cannot_be_counted_is_an_error(app, sqs, sqs_error):
    sqs.failures.append(("get_queue_attributes", sqs_error("ServiceUnavailable")))
    with pytest.raises(TransientError, match="SQS cannot be reached"):
        count_letters(app, "billing")
    del sqs.queues[DEAD]
    with pytest.raises(ConfigError):
        count_letters(app, "billing")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("policy", r"consumers.policy.dead_letters: missing, .* set it to the URL of that dead-letter queue"),
        ("local", "consumers.local.queue: expected sqs://"),
        ("gone", "consumers.gone: there is no such consumer; expected one of: billing, local, policy"),
    ],
)
def test_what_to_do_is_said(app, name, sentence):
    with pytest.raises(ConfigError, match=sentence):
        dlq_sqs(app, "redrive", name)
