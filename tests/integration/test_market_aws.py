"""The scheduled handler on AWS services: DynamoDB, SNS, SQS and Secrets Manager through moto, configured as specified."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from datetime import UTC, datetime

import boto3
import pytest
import requests

from headgate.backends.dynamodb_items import create_items_table
from headgate.errors import AccessError, ConfigError
from headgate.handlers import handle_scheduled_collection
from headgate.handlers import heal as handlers_heal
from headgate.testing.feed import Feed, WrittenData

CONFIG = """
[backends]
objects = "s3://market-raw/dev"
[sources.tiingo]
priority = 1
[sources.finnhub]
priority = 2
[resilience]
timeout_s = 2
retry_attempts = 1
[collection]
tickers = ["AAPL", "MSFT"]
"""


@pytest.fixture(scope="module")
def feed():
    with Feed(WrittenData(datetime.now(UTC))) as running:
        yield running


@pytest.fixture
def aws(monkeypatch, tmp_path, feed):
    """Everything that the environment names of spec 001, section 7, point at."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    requests.post(f"{endpoint}/moto-api/reset", timeout=10)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "headgate.toml").write_text(CONFIG)
    environment = {
        "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_CONFIG_FILE": "/nonexistent",
        "HEADGATE_CONFIG": str(tmp_path / "headgate.toml"), "TIINGO_BASE_URL": feed.url,
        "FINNHUB_BASE_URL": f"{feed.url}/api/v1", "FINNHUB_API_KEY": "k", "DATABASE_TABLE": "sentiment-analyzer-test",
        "CLOUD_REGION": "us-east-1", "POWERTOOLS_TRACE_DISABLED": "true",
    }  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    session = boto3.Session()
    sns, sqs, secrets = (session.client(s) for s in ("sns", "sqs", "secretsmanager"))
    arn = secrets.create_secret(Name="tiingo", SecretString='{"api_key": "secret-key-1"}')["ARN"]
    monkeypatch.setenv("TIINGO_SECRET_ARN", arn)
    queues = {}
    for name, variable in (("news", "SNS_TOPIC_ARN"), ("alerts", "ALERT_TOPIC_ARN")):
        topic = sns.create_topic(Name=name)["TopicArn"]
        queues[name] = sqs.create_queue(QueueName=name)["QueueUrl"]
        target = sqs.get_queue_attributes(QueueUrl=queues[name], AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=target)
        monkeypatch.setenv(variable, topic)
    session.client("s3").create_bucket(Bucket="market-raw")
    create_items_table(session.client("dynamodb"), "sentiment-analyzer-test")
    feed.wave = 1
    for name in ("tiingo", "finnhub"):
        feed.set_mode(name, "healthy")

    def drain(name):
        found = []
        while messages := sqs.receive_message(QueueUrl=queues[name], MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                body = json.loads(message["Body"])
                found.append(
                    (json.loads(body["Message"]), {k: v["Value"] for k, v in body["MessageAttributes"].items()})
                )
                sqs.delete_message(QueueUrl=queues[name], ReceiptHandle=message["ReceiptHandle"])
        return found

    yield drain
    server.stop()


def at(text, **more):
    return {"source": "aws.events", "detail-type": "Scheduled Event", "time": text, **more}


OPEN, CLOSED = at("2026-05-20T14:30:00Z"), at("2026-05-25T14:30:00Z")  # a Wednesday, and Memorial Day


def test_a_scheduled_collection_and_the_same_again(aws, feed):
    out = io.StringIO()
    with redirect_stdout(out):
        first = handle_scheduled_collection(OPEN)
    body = first["body"]
    assert (first["statusCode"], body["source"], body["status"], body["trigger_type"]) == (
        200,
        "tiingo",
        "success",
        "scheduled",
    )
    assert body["new_items"] > 0
    assert body["items_collected"] == body["new_items"] + body["duplicates"] + body["dead_letters"]
    messages = aws("news")
    notices = [m for m, a in messages if a["topic"] == "market.new_data"]
    assert len(messages) == body["notified"] == body["new_items"] + 1  # one request each, and one notification
    assert (notices[0]["event_type"], notices[0]["item_count"]) == ("NEW_MARKET_DATA", body["new_items"])
    metrics = {}
    for line in out.getvalue().splitlines():
        doc = json.loads(line)
        for group in doc.get("_aws", {}).get("CloudWatchMetrics", ()):
            assert group["Namespace"] in ("SentimentAnalyzer/Ingestion", "SentimentAnalyzer")  # the sweep's: below
            if group["Namespace"] == "SentimentAnalyzer/Ingestion":
                metrics |= {m["Name"]: doc[m["Name"]] for m in group["Metrics"]}
    assert {
        "CollectionSuccess",
        "CollectionLatencyMs",
        "ItemsCollected",
        "DuplicateRate",
        "NotificationLatencyMs",
    } <= set(metrics)
    assert 0 < metrics["NotificationLatencyMs"][0] < 30_000  # SC-005
    assert "secret-key-1" not in out.getvalue()
    keys = [e["Key"] for e in boto3.Session().client("s3").list_objects_v2(Bucket="market-raw")["Contents"]]
    assert any(key.startswith("dev/raw/market/tiingo/") for key in keys)  # before it was read
    second = handle_scheduled_collection(OPEN)["body"]
    assert (second["new_items"], second["notified"], aws("news")) == (0, 0, [])


def test_a_closed_market_is_left_alone_once_there_is_data(aws, feed):
    first = handle_scheduled_collection(at(datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")))
    assert first["body"]["new_items"] > 0  # never collected: now, whatever the hour
    asked = len(feed.requests)
    closed = handle_scheduled_collection(CLOSED)
    swept = closed["body"].pop("self_healing")
    assert closed == {"statusCode": 200, "body": {"skipped": "market_closed", "new_items": 0}}
    assert (swept["items_found"], swept["items_republished"], "errors" in swept) == (0, 0, False)
    assert len(feed.requests) == asked
    assert handle_scheduled_collection({"source": "manual"})["body"]["trigger_type"] == "manual"
    bad = handle_scheduled_collection(at("yesterday"))
    assert (bad["statusCode"], bad["self_healing"]["items_found"]) == (400, 0)


class Context:
    """Lambda's, with so much time left."""

    def __init__(self, seconds):
        self.seconds = seconds

    def get_remaining_time_in_millis(self):
        return int(self.seconds * 1000)


def metrics_of(out):
    """Name -> (value, unit, Environment) of the sweep's metrics in EMF lines."""
    found = {}
    for line in out.getvalue().splitlines():
        doc = json.loads(line)
        for group in doc.get("_aws", {}).get("CloudWatchMetrics", ()):
            if group["Namespace"] == "SentimentAnalyzer":
                assert group["Dimensions"] == [["Environment"]] or "Environment" in group["Dimensions"][0]
                for m in group["Metrics"]:
                    value = doc[m["Name"]]
                    found[m["Name"]] = (value[0] if isinstance(value, list) else value, m["Unit"], doc["Environment"])
    return found


def test_every_way_out_sweeps_with_its_metrics(aws, feed, monkeypatch):
    """Closed, without tickers, with a bad event, with all sources down, and as its own function."""
    monkeypatch.setenv("ENVIRONMENT", "preprod")
    monkeypatch.setenv("SELF_HEALING_THRESHOLD_HOURS", "0.0000001")
    first = handle_scheduled_collection(OPEN, Context(30))["body"]
    stored = first["new_items"]
    assert len(aws("news")) >= stored
    dynamo = boto3.Session().client("dynamodb")
    units = {
        "SelfHealingItemsFound": "Count", "SelfHealingItemsRepublished": "Count", "SelfHealingItemsQuarantined": "Count",
        "SelfHealingExecutionTime": "Milliseconds", "SelfHealingErrors": "Count",
    }  # fmt: skip

    def answer(event, context, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        out = io.StringIO()
        with redirect_stdout(out):
            given = handle_scheduled_collection(event, context)
        for name in environment:
            monkeypatch.delenv(name)
        found = metrics_of(out)
        assert {name: unit for name, (_, unit, _) in found.items()} == units
        assert {where for _, _, where in found.values()} == {"preprod"}
        return given, found

    closed, found = answer(CLOSED, Context(30))
    assert (closed["body"]["skipped"], found["SelfHealingItemsRepublished"][0]) == ("market_closed", stored)
    assert closed["body"]["self_healing"]["notified"] == stored
    none, _ = answer(OPEN, Context(30), HEADGATE__COLLECTION__TICKERS="")
    assert none["body"]["skipped"] == "no_tickers"
    bad, _ = answer(at("yesterday"), None)
    assert bad["statusCode"] == 400
    for name in ("tiingo", "finnhub"):
        feed.set_mode(name, "error:0")
    down, found = answer(OPEN, Context(30))
    assert (down["statusCode"], "self_healing" in down["body"]) == (207, True)
    assert found["SelfHealingItemsFound"][0] == stored
    monkeypatch.setattr("headgate.wiring.App.collect", lambda self: 1 / 0)
    out = io.StringIO()
    with redirect_stdout(out), pytest.raises(ZeroDivisionError):
        handle_scheduled_collection(OPEN, Context(30))
    assert set(metrics_of(out)) == set(units)
    swept = handlers_heal({}, Context(0.1))
    assert swept["statusCode"] == 200
    off, found = answer(CLOSED, Context(30), SELF_HEALING_ENABLED="false")
    assert (off["body"]["self_healing"]["items_found"], found["SelfHealingItemsFound"][0]) == (0, 0)
    assert dynamo.describe_table(TableName="sentiment-analyzer-test")


def test_a_sweep_that_fails_leaves_the_collection_as_it_was(aws, feed, monkeypatch):
    monkeypatch.setattr("headgate.backends.dynamodb_items.DynamoStore.stale_pending", lambda *_: 1 / 0)
    given = handle_scheduled_collection(OPEN)
    assert (given["statusCode"], given["body"]["self_healing"]["errors"]) == (200, ["ZeroDivisionError"])


def test_the_commands_work_on_a_table(aws, feed, capsys):
    from headgate.cli import main

    handle_scheduled_collection(OPEN)
    for arguments in (["status"], ["heal", "--dry-run"], ["heal", "list"], ["heal"], ["heal", "release", "--all"]):
        capsys.readouterr()
        assert main(arguments) == 0, arguments
    capsys.readouterr()
    assert main(["reconcile"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"] == []
    assert main(["status"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown["items"]) == {"pending"}
    assert shown["outbox_unsent"] == 0


def test_three_failures_alert_once_with_attributes(aws, feed):
    handle_scheduled_collection(OPEN)
    aws("news")
    for name in ("tiingo", "finnhub"):
        feed.set_mode(name, "error:0")
    answers = [handle_scheduled_collection(OPEN) for _ in range(5)]
    assert {a["statusCode"] for a in answers} == {207}
    assert answers[-1]["body"]["freshness"]["last_success"] is not None
    alerts = aws("alerts")
    assert [a["AlertType"] for _, a in alerts] == ["all_sources_down", "consecutive_failure"]
    assert alerts[1][1]["FailureCount"] == "3"
    assert aws("news") == []


def test_the_secret_that_cannot_be_read(aws, monkeypatch):
    monkeypatch.setenv("TIINGO_SECRET_ARN", "arn:aws:secretsmanager:us-east-1:123456789012:secret:none")
    with pytest.raises(AccessError) as caught:
        handle_scheduled_collection(OPEN)
    assert "123456789012" not in str(caught.value)


def test_a_table_without_a_topic_is_said_at_once(aws, monkeypatch):
    monkeypatch.delenv("SNS_TOPIC_ARN")
    with pytest.raises(ConfigError, match=r"backends\.notify"):
        handle_scheduled_collection(OPEN)
