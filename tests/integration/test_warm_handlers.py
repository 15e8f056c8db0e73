"""Warm invocations of the Lambda handlers: every boto3 client of the first invocation serves the second one too, unless
credentials changed or the process is a fork."""

from __future__ import annotations

import base64
import functools
import os
import urllib.request
from datetime import UTC, datetime

import boto3
import botocore.loaders
import botocore.session
import pytest

from headgate import handlers
from headgate.backends._aws_clients import connect_aws, forget_clients, kept_clients
from headgate.backends.dynamodb import create_ledger_table
from headgate.backends.dynamodb_items import create_items_table
from headgate.handlers import stages
from headgate.testing.feed import Feed, WrittenData
from headgate.testing.visits import write_wave

CONFIG = """
[backends]
store = "dynamodb://items"
ledger = "dynamodb://ledger"
objects = "s3://raw"
notify = "sns://arn:aws:sns:us-east-1:123456789012:news"
[sources.tiingo]
base_url = "{feed}"
[collection]
tickers = ["AAPL"]
calendar = "always"
[consumers.analysis]
topic = "market.items"
handler = "json:dumps"
effects = "plain"
queue = "sqs://{queue}"
"""
EVENTS = {
    "checkpoint": {"source_bucket": "logs", "checkpoint_bucket": "raw", "checkpoint_key": "e.parquet"},
    "collect": {"detail-type": "manual"},
    "consume": {"Records": [{
        "messageId": "m", "body": "{}", "attributes": {}, "messageAttributes": {}, "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:q"}]},
    "heal": {},
    "upload": {"batch_id": "b", "file_name": "a.txt", "content": base64.b64encode(b"x" * 60).decode()},
}  # fmt: skip
# In the order of an execution: stage -> the one before it.
STAGES = {
    "etl": None, "filter_candidates": "etl", "score": "filter_candidates", "store": "score", "reactive": "store",
    "write_input": None, "bridge": "write_input",
}  # fmt: skip
RUN = {
    "programId": "reviews", "marketplace": "de", "dateRange": {"start": "2020-01-01T00:00:00Z", "end": "2030-01-01T00:00:00Z"},
    "events": "s3://raw/e.parquet", "customer": "ptid", "subject": ["ptid"],
}  # fmt: skip


@pytest.fixture
def created(monkeypatch):
    """The services that clients were made for, in order."""
    services = []
    load = functools.cache(botocore.loaders.JSONFileLoader().load_file)
    monkeypatch.setattr(botocore.loaders.JSONFileLoader, "load_file", lambda _, path: load(path))  # half of the time
    make = boto3.Session.client

    def client(self, service_name, *args, **options):
        services.append(service_name)
        return make(self, service_name, *args, **options)

    monkeypatch.setattr(boto3.Session, "client", client)
    forget_clients()
    yield services
    forget_clients()


@pytest.fixture
def cloud(created, moto_server, monkeypatch, tmp_path):
    """Tables, topic, queue and buckets, the configuration that names them, and a source of news."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_server)
    monkeypatch.setenv("POWERTOOLS_TRACE_DISABLED", "true")
    monkeypatch.setenv("TIINGO_API_KEY", "k")
    urllib.request.urlopen(urllib.request.Request(f"{moto_server}/moto-api/reset", method="POST"), timeout=10).close()
    session = boto3.Session()
    create_items_table(session.client("dynamodb"), "items")
    create_ledger_table(session.client("dynamodb"), "ledger")
    session.client("sns").create_topic(Name="news")
    url = session.client("sqs").create_queue(QueueName="q")["QueueUrl"].removeprefix("http://")
    s3 = session.client("s3")
    for bucket in ("raw", "logs"):
        s3.create_bucket(Bucket=bucket)
    write_wave(tmp_path / "wave", 1)
    for path in (tmp_path / "wave").rglob("*.json"):
        s3.put_object(Bucket="logs", Key=path.name, Body=path.read_bytes())
    with Feed(WrittenData(datetime.now(UTC))) as feed:
        (tmp_path / "headgate.toml").write_text(CONFIG.format(feed=feed.url, queue=url))
        monkeypatch.setenv("HEADGATE_CONFIG", str(tmp_path / "headgate.toml"))
        created.clear()
        yield


def test_every_handler_is_tried():
    assert {*EVENTS, "handle_scheduled_collection", "should_collect"} == set(handlers.__all__)
    assert set(STAGES) == set(stages.__all__)


@pytest.mark.parametrize("name", EVENTS)
def test_a_warm_invocation_opens_no_client(cloud, created, name):
    def invoke():
        answer = getattr(handlers, name)(EVENTS[name], None)
        assert answer.get("statusCode", 200) < 300, answer

    invoke()
    assert created
    assert len(created) == len(set(created)), "one client a service"
    created.clear()
    invoke()
    assert created == []


def test_warm_stages_open_no_client(cloud, created):
    assert handlers.checkpoint(EVENTS["checkpoint"])["statusCode"] == 200
    for execution in ("run-1", "run-2"):
        for name, before in STAGES.items():
            payload = {
                "executionId": execution, "currentStage": name, "workflowBucket": "raw", "previousStage": before,
                "initialData": RUN, **({"operation": "load"} if name == "bridge" else {}),
            }  # fmt: skip
            if execution == "run-1":
                forget_clients()  # each stage is a function of its own
            created.clear()
            getattr(stages, name)(payload, None)
            assert execution == "run-1" or created == [], name


@pytest.fixture
def counted(created, aws_credentials, tmp_path, monkeypatch):
    """How many clients there are after one invocation more; they do nothing."""
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setattr("boto3.Session", Session)
    Session.made = 0

    def invoke():
        with kept_clients(os.environ):
            connect_aws("s3", {})
        return Session.made

    return invoke


class Session:
    """boto3's, with botocore's credentials and no clients."""

    made = 0

    def __init__(self, **_):
        self._session = botocore.session.Session()

    def client(self, *_, **__):
        Session.made += 1

    def get_credentials(self):
        return self._session.get_credentials()


def test_other_credentials_make_another_client(counted, tmp_path, monkeypatch):
    assert [counted(), counted()] == [1, 1]
    monkeypatch.setenv("AWS_SESSION_TOKEN", "another")
    assert [counted(), counted()] == [2, 2]
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    assert [counted(), counted()] == [3, 3]
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert [counted(), counted()] == [4, 4]


def test_credentials_that_cannot_be_compared_are_asked_for_each_time(counted, tmp_path, monkeypatch):
    """A program that prints them may print others next time; and where there are none, some may come."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert [counted(), counted()] == [1, 2]
    (tmp_path / "printed").write_text('{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b"}')
    (tmp_path / "config").write_text(f"[default]\ncredential_process = cat {tmp_path / 'printed'}\n")
    assert [counted(), counted()] == [3, 4]


def test_outside_of_handlers_each_object_has_its_own(counted):
    """With the credentials of its time."""
    counted()
    assert connect_aws("s3", {}).session is not connect_aws("s3", {}).session


def test_clients_that_were_not_used_for_long_are_dropped(counted, monkeypatch):
    monkeypatch.setattr("headgate.backends._aws_clients._MOST_KEPT", 2)

    def with_token(token):
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)
        return counted()

    assert [with_token(token) for token in ("a", "b", "a", "c", "a", "b")] == [1, 2, 2, 3, 3, 4]


def test_a_child_of_fork_makes_its_own(counted):
    counted()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, bytes([counted()]))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 1) == bytes([2])
    assert counted() == 1
