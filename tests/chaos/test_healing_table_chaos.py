"""Sweepers that are killed, and two that run at once, as processes of their own, on a table and a topic outside them."""

from __future__ import annotations

import collections
import json
import signal
import subprocess
import sys
import uuid

import pytest

from headgate import Ledger, default_identity, idempotent_consumer
from headgate._core import ManualClock, format_timestamp
from headgate.healing import run_self_healing_check

boto3 = pytest.importorskip("boto3")
pytestmark = pytest.mark.chaos
HOUR = 3_600_000_000
NOW = 1_770_000_000_000_000
COUNT = 40

# A sweep in a process of its own. It waits for a line on its standard input, so that two of them begin together.
SWEEP = """
import sys
import boto3
from headgate import _native
from headgate._core import ManualClock
from headgate.healing import run_self_healing_check
name, arn, dynamo, aws, now_us, faults = sys.argv[1:]
table = boto3.resource("dynamodb", endpoint_url=dynamo).Table(name)
sns = boto3.client("sns", endpoint_url=aws)
_native.set_faults(faults)
print("ready", flush=True)
sys.stdin.readline()
result = run_self_healing_check(table, sns, arn, "v1", clock=ManualClock(int(now_us)), emit_metric=lambda *_: None)
print(result.items_found, result.items_republished, result.lost_races, result.failed)
"""


class World:
    """The table in DynamoDB Local, and a topic whose messages end in a queue."""

    def __init__(self, dynamo, aws):
        self.dynamo, self.aws = dynamo, aws
        self.name = f"items-{uuid.uuid4().hex[:8]}"
        self.now_us = NOW
        self.table = boto3.resource("dynamodb", endpoint_url=dynamo).create_table(
            TableName=self.name, BillingMode="PAY_PER_REQUEST",
            KeySchema=[{"AttributeName": "source_id", "KeyType": "HASH"},
                       {"AttributeName": "timestamp", "KeyType": "RANGE"}],
            AttributeDefinitions=[
                {"AttributeName": n, "AttributeType": "S"} for n in ("source_id", "timestamp", "status")
            ],
            GlobalSecondaryIndexes=[{
                "IndexName": "by_status", "Projection": {"ProjectionType": "KEYS_ONLY"},
                "KeySchema": [{"AttributeName": "status", "KeyType": "HASH"},
                              {"AttributeName": "timestamp", "KeyType": "RANGE"}],
            }],
        )  # fmt: skip
        self.sns = boto3.client("sns", endpoint_url=aws)
        self.sqs = boto3.client("sqs", endpoint_url=aws)
        self.arn = self.sns.create_topic(Name=self.name)["TopicArn"]
        self.url = self.sqs.create_queue(QueueName=self.name)["QueueUrl"]
        queue = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        self.sns.subscribe(TopicArn=self.arn, Protocol="sqs", Endpoint=queue)
        self.sent = collections.Counter()
        self.analysed = collections.Counter()
        self.consume = idempotent_consumer(Ledger.open("memory://"), key=default_identity, consumer="analyse")(
            self.analyse
        )

    def put(self, count):
        with self.table.batch_writer() as batch:
            for n in range(count):
                batch.put_item(Item={
                    "source_id": f"shop:{n:04d}", "timestamp": format_timestamp(NOW - 2 * HOUR - n * 1_000_000),
                    "status": "pending", "source_type": "shop", "text_for_analysis": f"Text {n}.",
                    "matched_tickers": ["ABC"],
                })  # fmt: skip

    def start(self, faults=""):
        arguments = [self.name, self.arn, self.dynamo, self.aws, str(self.now_us), faults]
        process = subprocess.Popen(
            [sys.executable, "-c", SWEEP, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        return process

    def sweep(self):
        return run_self_healing_check(
            self.table, self.sns, self.arn, "v1", clock=ManualClock(self.now_us), emit_metric=lambda *_: None
        )

    def analyse(self, body):
        """The effect; it ends the item, as the analysis of the original deployment does."""
        self.analysed[body["source_id"]] += 1
        self.table.update_item(
            Key={name: body[name] for name in ("source_id", "timestamp")},
            UpdateExpression="SET #s = :done, sentiment = :found", ExpressionAttributeNames={"#s": "status"},
            ExpressionAttributeValues={":done": "analyzed", ":found": "neutral"},
        )  # fmt: skip

    def drain(self):
        """Every message that has arrived goes to the consumer."""
        while found := self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages"):
            for message in found:
                body = json.loads(json.loads(message["Body"])["Message"])
                self.sent[body["source_id"]] += 1
                self.consume(body)
                self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])


def end_of(process):
    out, err = process.communicate("go\n", timeout=110)
    return process.returncode, [int(n) for n in out.split()], err


@pytest.fixture
def world(dynamo_server, moto_server):
    made = World(dynamo_server.endpoint, moto_server)
    yield made
    made.table.delete()


@pytest.mark.parametrize(
    ("point", "begun", "arrived"),
    [
        ("healing.before_item:kill:1", 0, 0),
        ("healing.before_item:kill:21", 20, 0),  # between two updates
        ("healing.before_publish:kill:1", COUNT, 0),  # every update is there, and nothing is sent
        ("healing.after_publish:kill:1", COUNT, COUNT),
    ],
)
def test_a_sweeper_killed_at_a_named_point_loses_and_doubles_nothing(world, point, begun, arrived):
    world.put(COUNT)
    code, printed, err = end_of(world.start(point))
    assert (code, printed) == (-signal.SIGKILL, []), err
    items = world.table.scan(ConsistentRead=True)["Items"]
    assert sum(item.get("republish_attempts", 0) for item in items) == begun
    world.drain()
    assert sum(world.sent.values()) == arrived

    # What was not begun is healed by the next sweep at once, and what was begun when its cooldown is over.
    assert world.sweep().items_republished == COUNT - begun
    world.drain()
    world.now_us += HOUR
    assert world.sweep().items_republished == begun - arrived
    world.drain()
    world.now_us += HOUR
    assert world.sweep().items_found == 0
    assert world.analysed == dict.fromkeys((f"shop:{n:04d}" for n in range(COUNT)), 1)
    assert world.sent == world.analysed
    items = world.table.scan(ConsistentRead=True)["Items"]
    assert {item["status"] for item in items} == {"analyzed"}
    # A sweep that died between the update and the topic has used up an attempt: nobody knows how far it came.
    attempts = collections.Counter(int(item["republish_attempts"]) for item in items)
    assert attempts == collections.Counter({1: COUNT - begun + arrived, 2: begun - arrived})


def test_two_processes_sweep_at_once_and_each_item_is_sent_once(world):
    world.put(COUNT)
    both = [world.start() for _ in range(2)]
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    ended = [end_of(process) for process in both]
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert sum(printed[1] for _, printed, _ in ended) == COUNT
    assert all(found == sent + lost and failed == 0 for _, (found, sent, lost, failed), _ in ended)
    world.drain()
    assert world.sent == dict.fromkeys((f"shop:{n:04d}" for n in range(COUNT)), 1)
    assert world.analysed == world.sent
