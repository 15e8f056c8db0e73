"""Least privilege, from both sides: each handler runs on moto with the variables that Terraform renders, every AWS call is
recorded, the function's policy must allow it, and must allow nothing that no call used."""

from __future__ import annotations

import fnmatch
import functools
import json
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, unquote

import boto3
import botocore.client
import botocore.loaders
import pytest

from headgate import handlers
from headgate.backends.dynamodb import create_ledger_table
from headgate.backends.dynamodb_items import create_items_table
from headgate.errors import ConfigError
from headgate.testing.feed import Feed, WrittenData
from headgate.testing.visits import write_wave

ACCOUNT = "123456789012"
CONFIG = """
[sources.tiingo]
priority = 1
[sources.finnhub]
priority = 2
[resilience]
timeout_s = 2
retry_attempts = 1
failure_threshold = 1
recovery_s = 0.05
[collection]
tickers = ["AAPL"]
[consumers.analysis]
topic = "market.items"
handler = "recorded_handler:handle"
effects = "writes"
queue = "sqs://https://sqs.us-east-1.amazonaws.com/123456789012/market-analysis-dev?region=us-east-1"
"""
HANDLER = """
def handle(body):
    if body.get("fail"):
        raise ValueError("no")
    return []
"""
OPEN = {"source": "aws.events", "detail-type": "Scheduled Event", "time": "2026-05-20T14:30:00Z"}
CLOSED = {**OPEN, "time": "2026-05-25T14:30:00Z"}
# Allowed, and used by something else than the handler's own calls.
BY_THE_SERVICE = {
    "sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage",  # the event source mapping
    "sqs:SendMessage",  # Lambda's destination for failed events
    "kms:Decrypt", "kms:GenerateDataKey",  # SNS, with the caller's permission
}  # fmt: skip
# Whether a completion whose answer was lost had gone through: DynamoDB says so with an error that moto does not know.
RARE = {"dynamodb:GetItem on arn:aws:dynamodb:us-east-1:123456789012:table/headgate-ledger-dev"}
TRANSACTION = {"Put": "PutItem", "Update": "UpdateItem", "Delete": "DeleteItem", "ConditionCheck": "ConditionCheckItem"}


class Calls(set):
    """(IAM action, resource, prefix that was listed or None)."""

    def add_call(self, service, operation, params):
        if service == "dynamodb":
            self.add_dynamodb(operation, params)
        elif service == "sns":
            assert operation in ("Publish", "PublishBatch")
            self.add(("sns:Publish", params["TopicArn"], None))
        elif service == "s3":
            action = {"HeadObject": "GetObject", "ListObjectsV2": "ListBucket"}.get(operation, operation)
            where = f"arn:aws:s3:::{params['Bucket']}" + (f"/{params['Key']}" if "Key" in params else "")
            self.add((f"s3:{action}", where, params.get("Prefix")))
        elif service == "secretsmanager":
            self.add((f"secretsmanager:{operation}", params["SecretId"], None))
        else:
            self.add((f"{service}:{operation}", "*", None))

    def add_dynamodb(self, operation, params):
        def table(name, index=None):
            return f"arn:aws:dynamodb:us-east-1:{ACCOUNT}:table/{name}" + (f"/index/{index}" if index else "")

        if operation == "TransactWriteItems":
            for entry in params["TransactItems"]:
                ((kind, write),) = entry.items()
                self.add((f"dynamodb:{TRANSACTION[kind]}", table(write["TableName"]), None))
        elif "RequestItems" in params:
            for name in params["RequestItems"]:
                self.add((f"dynamodb:{operation}", table(name), None))
        else:
            self.add((f"dynamodb:{operation}", table(params["TableName"], params.get("IndexName")), None))

    def add_request(self, method, path, query):
        """A request of the core's own S3 client."""
        bucket, _, key = unquote(path).lstrip("/").partition("/")
        prefix = parse_qs(query, keep_blank_values=True).get("prefix", [None])[0]
        action = {
            "GET": "GetObject" if key else "ListBucket",
            "HEAD": "GetObject",
            "PUT": "PutObject",
            "DELETE": "DeleteObject",
        }[method]
        self.add((f"s3:{action}", f"arn:aws:s3:::{bucket}" + (f"/{key}" if key else ""), prefix))


def allows(statement, call):
    action, resource, prefix = call
    wanted = statement.get("Condition", {}).get("StringLike", {}).get("s3:prefix")
    return (
        action in statement["Action"]
        and any(fnmatch.fnmatchcase(resource, r) for r in statement["Resource"])
        and (wanted is None or any(fnmatch.fnmatchcase(prefix or "", w) for w in wanted))
    )


def check(rendered, module, calls):
    """The policy of a module's function against what its handler called."""
    (policy,) = rendered("dev")[f"{module}/function/aws_iam_role_policy.this"]
    statements = json.loads(policy["policy"])["Statement"]
    assert all(s["Effect"] == "Allow" and "*" not in s["Action"] for s in statements)
    refused = {c for c in calls if not any(allows(s, c) for s in statements)}
    assert refused == set()
    for statement in statements:
        for action in set(statement["Action"]) - BY_THE_SERVICE:
            for resource in statement["Resource"]:
                one = {**statement, "Action": [action], "Resource": [resource]}
                used = any(allows(one, c) for c in calls) or f"{action} on {resource}" in RARE
                assert used, f"{module}: nothing used {action} on {resource}"


class Recorded:
    """moto with a record of its requests; a call sets the rendered variables of a module's function."""

    def __init__(self, rendered, monkeypatch, folder):
        self.requests = []
        self._rendered, self._monkeypatch, self._folder = rendered, monkeypatch, folder
        self._listening = True

    def wrap(self, app):
        def recording(environ, start_response):
            if self._listening:
                self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"]))
            return app(environ, start_response)

        return recording

    @contextmanager
    def paused(self):
        self._listening = False
        try:
            yield
        finally:
            self._listening = True

    def __call__(self, module):
        (function,) = self._rendered("dev")[f"{module}/function/aws_lambda_function.this"]
        for name, value in function["environment"][0]["variables"].items():
            self._monkeypatch.setenv(name, value)
        self._monkeypatch.setenv("HEADGATE_CONFIG", str(self._folder / "headgate.toml"))
        return Calls()


@pytest.fixture
def recorded(rendered, monkeypatch, tmp_path):
    import requests
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    rendered("dev")
    # Each client reads the same megabytes of JSON: most of these tests' time.
    loader = botocore.loaders.JSONFileLoader
    monkeypatch.setattr(loader, "load_file", functools.cache(loader.load_file))
    recorder = Recorded(rendered, monkeypatch, tmp_path)
    app = recorder.wrap(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}", "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1", "AWS_CONFIG_FILE": "/nonexistent",
        "POWERTOOLS_TRACE_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    requests.post(f"http://127.0.0.1:{server.server_port}/moto-api/reset", timeout=10)
    (tmp_path / "headgate.toml").write_text(CONFIG)
    (tmp_path / "recorded_handler.py").write_text(HANDLER)
    monkeypatch.syspath_prepend(tmp_path)
    yield recorder
    server.shutdown()
    server.server_close()


def check_alarms(rendered, module, text):
    """Every alarm of a module on headgate's own metrics looks at a metric that was sent, with its dimensions."""
    sent = set()
    for line in text.splitlines():
        if line.startswith('{"_aws"'):
            doc = json.loads(line)
            for group in doc["_aws"]["CloudWatchMetrics"]:
                for names in group["Dimensions"]:
                    dimensions = frozenset((name, doc[name]) for name in names)
                    sent |= {(group["Namespace"], m["Name"], dimensions) for m in group["Metrics"]}
    for where, values in rendered("dev").items():
        for alarm in values if where.startswith(f"{module}/aws_cloudwatch_metric_alarm") else ():
            for m in [q["metric"][0] for q in alarm.get("metric_query", []) if "metric" in q] or [alarm]:
                if not m["namespace"].startswith("AWS/"):
                    wanted = (m["namespace"], m["metric_name"], frozenset(m["dimensions"].items()))
                    assert wanted in sent, f"{alarm['alarm_name']}: nothing sends {wanted}"


@pytest.fixture
def market(recorded, rendered, monkeypatch):
    """The tables, topics, buckets and secrets of the environment, and its sources."""
    session = boto3.Session()
    resources = rendered("dev")
    dynamo, sns, secrets = (session.client(s) for s in ("dynamodb", "sns", "secretsmanager"))
    create_items_table(dynamo, resources["items/aws_dynamodb_table.items"][0]["name"])
    create_ledger_table(dynamo, resources["ledger/aws_dynamodb_table.ledger"][0]["name"])
    for topic in ("news", "alerts"):
        sns.create_topic(Name=resources[f"{topic}/aws_sns_topic.this"][0]["name"])
    session.client("s3").create_bucket(Bucket=resources["raw/aws_s3_bucket.this"][0]["bucket"])
    for name in ("tiingo", "finnhub"):
        arn = secrets.create_secret(Name=name, SecretString='{"api_key": "k"}')["ARN"]
        wanted = f"arn:aws:secretsmanager:us-east-1:{ACCOUNT}:secret:{name}"
        assert arn.startswith(wanted)
    with Feed(WrittenData(datetime.now(UTC))) as feed:
        monkeypatch.setenv("TIINGO_BASE_URL", feed.url)
        monkeypatch.setenv("FINNHUB_BASE_URL", f"{feed.url}/api/v1")
        yield feed


@pytest.fixture
def watched(monkeypatch):
    """Records boto3's calls from here on."""

    def start(calls):
        made = botocore.client.BaseClient._make_api_call

        def call(client, operation, params):
            service = client.meta.service_model.service_name
            calls.add_call(service, operation, params)
            if service == "secretsmanager":  # moto adds other letters to a secret's name than the test's variables have
                params = {**params, "SecretId": params["SecretId"].rsplit(":", 1)[1].split("-")[0]}
            return made(client, operation, params)

        monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", call)

    return start


def test_the_collection_may_do_exactly_what_it_does(recorded, market, watched, rendered, monkeypatch, capsys):
    calls = recorded("collection")
    watched(calls)
    assert handlers.collect(OPEN)["body"]["new_items"] > 0
    assert handlers.collect(OPEN)["body"]["new_items"] == 0
    market.wave = 2
    assert handlers.collect(OPEN)["body"]["new_items"] > 0
    assert handlers.collect(CLOSED)["statusCode"] == 200
    market.set_mode("tiingo", "500")
    assert handlers.collect(OPEN)["body"]["is_failover"]
    market.set_mode("finnhub", "500")
    assert [handlers.collect(OPEN)["statusCode"] for _ in range(3)] == [207] * 3
    monkeypatch.setenv("SELF_HEALING_THRESHOLD_HOURS", "0.0000001")
    assert handlers.collect(CLOSED)["body"]["self_healing"]["items_republished"] > 0
    check(rendered, "collection", calls)
    check_alarms(rendered, "collection", capsys.readouterr().out)


def test_the_healing_function_may_do_exactly_what_it_does(recorded, market, watched, rendered, monkeypatch, capsys):
    recorded("collection")
    monkeypatch.setenv("TIINGO_API_KEY", "k")
    monkeypatch.setenv("FINNHUB_API_KEY", "k")
    handlers.collect(OPEN)
    # Alerts that were not delivered: the sweep delivers them too.
    market.set_mode("tiingo", "500")
    market.set_mode("finnhub", "500")
    with monkeypatch.context() as undelivered:
        undelivered.setattr("headgate.wiring.App.relay", lambda _: 0)
        alerts = [alert for _ in range(4) for alert in handlers.collect(OPEN)["body"].get("alerts", ["failed"])]
    assert alerts
    calls = recorded("healing")
    watched(calls)
    monkeypatch.setenv("HEADGATE__HEALING__OUTBOX_HOURS", "0.0000001")
    assert handlers.heal({})["statusCode"] == 200
    monkeypatch.setenv("SELF_HEALING_THRESHOLD_HOURS", "0.0000001")
    monkeypatch.setenv("HEADGATE__HEALING__BUDGET_S", "0.1")  # the sweep ends early, and remembers where
    assert handlers.heal({})["body"]["more_remaining"]
    monkeypatch.delenv("HEADGATE__HEALING__BUDGET_S")
    assert handlers.heal({})["body"]["items_republished"] > 0
    monkeypatch.setenv("HEADGATE__HEALING__MAX_ATTEMPTS", "1")
    assert handlers.heal({})["body"]["quarantined"] > 0
    check(rendered, "healing", calls)
    check_alarms(rendered, "healing", capsys.readouterr().out)


def message(number, body, **more):
    return {
        "messageId": f"m{number}", "body": json.dumps(body), "attributes": {}, "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:us-east-1:{ACCOUNT}:market-analysis-dev", "messageAttributes": {}, **more,
    }  # fmt: skip


def test_the_consumer_may_do_exactly_what_it_does(recorded, market, watched, rendered, monkeypatch, capsys):
    recorded("collection")
    monkeypatch.setenv("TIINGO_API_KEY", "k")
    monkeypatch.setenv("FINNHUB_API_KEY", "k")
    sqs, sns = (boto3.Session().client(s) for s in ("sqs", "sns"))
    url = sqs.create_queue(QueueName="q")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    (subscription,) = rendered("dev")["news/aws_sns_topic_subscription.queue"]
    sns.subscribe(
        TopicArn=subscription["topic_arn"], Protocol="sqs", Endpoint=arn,
        Attributes={"RawMessageDelivery": "true", "FilterPolicy": subscription["filter_policy"]},
    )  # fmt: skip
    stored = handlers.collect(OPEN)["body"]["new_items"]
    bodies = []
    while found := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
        for one in found:
            bodies.append(json.loads(one["Body"]))
            sqs.delete_message(QueueUrl=url, ReceiptHandle=one["ReceiptHandle"])
    assert len(bodies) == stored  # the notification of the whole collection is filtered out
    calls = recorded("analysis")
    watched(calls)
    failing = message(99, {**bodies.pop(), "fail": True})
    records = [message(n, body) for n, body in enumerate(bodies)]
    assert handlers.consume({"Records": records}) == {"batchItemFailures": []}
    assert handlers.consume({"Records": records[:1]}) == {"batchItemFailures": []}
    assert handlers.consume({"Records": [failing]})["batchItemFailures"] == [{"itemIdentifier": "m99"}]
    check(rendered, "analysis", calls)


def test_a_consumer_that_is_not_configured_fails_the_whole_batch(recorded, market, monkeypatch):
    recorded("analysis")
    monkeypatch.setenv("HEADGATE_CONSUMER", "other")
    with pytest.raises(ConfigError, match="there is no such consumer"):
        handlers.consume({"Records": [message(1, {})]})


def test_the_checkpoint_may_do_exactly_what_it_does(recorded, rendered, tmp_path, capsys):
    from moto.s3.models import s3_backends

    calls = recorded("checkpoint")
    client = boto3.Session().client("s3")
    (target,) = rendered("dev")["checkpoints/aws_s3_bucket.this"]
    for bucket in ("event-logs", target["bucket"]):
        client.create_bucket(Bucket=bucket)
    (schedule,) = rendered("dev")["checkpoint/schedule/aws_scheduler_schedule.this"]
    event = json.loads(schedule["target"][0]["input"])
    seen = len(recorded.requests)
    for n in range(2):
        folder = tmp_path / f"wave{n}"
        write_wave(folder, 15, first=15 * n)  # one of a hundred is bad: its reject log lies beside the checkpoint
        for path in folder.rglob("*.json"):
            with recorded.paused():
                client.put_object(Bucket="event-logs", Key=f"prod/{path.relative_to(folder)}", Body=path.read_bytes())
        answer = handlers.checkpoint(event)
        assert answer["statusCode"] == 200, answer
        if n == 0:  # what a run wrote that died a week ago; the next run deletes it
            with recorded.paused():
                orphan = "checkpoints/events.parquet.ledger/seg-9-000000000000.hgl"
                client.put_object(Bucket=target["bucket"], Key=orphan, Body=b"")
            key = s3_backends[ACCOUNT]["aws"].buckets[target["bucket"]].keys[orphan]
            key.last_modified -= timedelta(days=7)
    assert answer["total_events"] == 29
    for method, path, query in recorded.requests[seen:]:
        calls.add_request(method, path, query)
    check(rendered, "checkpoint", calls)
    check_alarms(rendered, "checkpoint", capsys.readouterr().out)
