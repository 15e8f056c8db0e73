"""Least privilege, from both sides: each handler runs on moto with the variables that Terraform renders, every AWS call is
recorded, the function's policy must allow it, and must allow nothing that no call used."""

from __future__ import annotations

import fnmatch
import functools
import importlib
import json
import shutil
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, unquote

import boto3
import botocore.client
import botocore.loaders
import pytest
from botocore.exceptions import ClientError

from headgate import handlers
from headgate.backends._aws_clients import forget_clients
from headgate.backends.dynamodb import create_ledger_table
from headgate.backends.dynamodb_items import create_items_table
from headgate.checkpoint import update
from headgate.errors import ConfigError
from headgate.handlers import stages
from headgate.pipelines.scoring import ReactiveStage
from headgate.testing.feed import Feed, WrittenData
from headgate.testing.visits import write_wave

ROOT = Path(__file__).resolve().parents[2]
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

    def add_missing(self, bucket, key):
        """An object was asked for that is not there: S3 says so to those who may list its key, and 403 to others."""
        self.add(("s3:ListBucket", f"arn:aws:s3:::{bucket}", key))

    def add_request(self, method, path, query, status):
        """A request to S3 as the server got it, of boto3 or of the core's own client."""
        bucket, _, key = unquote(path).lstrip("/").partition("/")
        prefix = parse_qs(query, keep_blank_values=True).get("prefix", [None])[0]
        action = {
            "GET": "GetObject" if key else "ListBucket",
            "HEAD": "GetObject",
            "PUT": "PutObject",
            "DELETE": "DeleteObject",
        }[method]
        self.add((f"s3:{action}", f"arn:aws:s3:::{bucket}" + (f"/{key}" if key else ""), prefix))
        if key and method in ("GET", "HEAD") and status == 404:
            self.add_missing(bucket, key)


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
    check_statements(module, json.loads(policy["policy"])["Statement"], calls)


def check_statements(owner, statements, calls):
    assert all(s["Effect"] == "Allow" and "*" not in s["Action"] for s in statements)
    refused = {c for c in calls if not any(allows(s, c) for s in statements)}
    assert refused == set()
    for statement in statements:
        for action in set(statement["Action"]) - BY_THE_SERVICE:
            for resource in statement["Resource"]:
                one = {**statement, "Action": [action], "Resource": [resource]}
                used = any(allows(one, c) for c in calls) or f"{action} on {resource}" in RARE
                assert used, f"{owner}: nothing used {action} on {resource}"


class Recorded:
    """moto with a record of its requests; a call sets the rendered variables of a module's function."""

    def __init__(self, monkeypatch, folder):
        self.requests = []
        self.rendered = None
        self._monkeypatch, self._folder = monkeypatch, folder
        self._listening = True

    def wrap(self, app):
        def recording(environ, start_response):
            def starting(status, *more):
                if self._listening:
                    asked = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"]
                    self.requests.append((*asked, int(status.split()[0])))
                return start_response(status, *more)

            return app(environ, starting)

        return recording

    @contextmanager
    def paused(self):
        self._listening = False
        try:
            yield
        finally:
            self._listening = True

    def __call__(self, module):
        (function,) = self.rendered("dev")[f"{module}/function/aws_lambda_function.this"]
        for name, value in function["environment"][0]["variables"].items():
            self._monkeypatch.setenv(name, value)
        self._monkeypatch.setenv("HEADGATE_CONFIG", str(self._folder / "headgate.toml"))
        return Calls()


@pytest.fixture
def recorded(rendered, recorder):
    rendered("dev")
    recorder.rendered = rendered
    return recorder


@pytest.fixture
def recorder(monkeypatch, tmp_path):
    import requests
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    # Each client reads the same megabytes of JSON: most of these tests' time.
    load = functools.cache(botocore.loaders.JSONFileLoader().load_file)
    monkeypatch.setattr(botocore.loaders.JSONFileLoader, "load_file", lambda _, path: load(path))
    forget_clients()
    recorder = Recorded(monkeypatch, tmp_path)
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
            try:
                return made(client, operation, params)
            except ClientError as error:
                if service == "s3" and error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                    calls.add_missing(params["Bucket"], params["Key"])
                raise

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
    for request in recorded.requests[seen:]:
        calls.add_request(*request)
    check(rendered, "checkpoint", calls)
    check_alarms(rendered, "checkpoint", capsys.readouterr().out)


BUCKET = "headgate-workflow-dev-123456789012"
RUN = {
    "programId": "reviews", "marketplace": "de", "dateRange": {"start": "2020-01-01T00:00:00Z", "end": "2030-01-01T00:00:00Z"},
    "events": f"s3://{BUCKET}/e.parquet", "customer": "ptid", "subject": ["ptid"],
}  # fmt: skip
REACTION = {"detail": {
    "customerId": "c", "eventType": "late", "subjectType": "visit", "subjectId": "s", "programId": "reviews",
    "marketplace": "de", "eventDate": "2026-01-01T00:00:00Z"}}  # fmt: skip
# In the order of an execution: function key -> (entry point, stage before it).
STAGES = {
    "etlLambda": ("etl", None), "filterLambda": ("filter_candidates", "etl"), "scoreLambda": ("score", "filter_candidates"),
    "storeLambda": ("store", "etl"), "reactiveLambda": ("reactive", "store"), "workflowInputLambda": ("write_input", None),
    "workflowBridgeLambda": ("bridge", "write_input"),
}  # fmt: skip


def test_the_stages_may_do_exactly_what_they_do(recorder, tmp_path, monkeypatch):
    """Against the statements that the CDK app gives each function."""
    pytest.importorskip("aws_cdk", reason="aws-cdk-lib is not installed")
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    monkeypatch.syspath_prepend(str(ROOT / "infra" / "cdk"))
    policies, settings = importlib.import_module("policies"), importlib.import_module("settings")
    assert set(STAGES) == set(settings.ENTRY_POINTS)
    boto3.Session().client("s3").create_bucket(Bucket=BUCKET)
    write_wave(tmp_path / "logs", 1)
    assert update(tmp_path / "logs", f"s3://{BUCKET}/e.parquet", schema="visits", settle_s=0).rows_total == 1
    for key, (name, before) in STAGES.items():
        assert settings.ENTRY_POINTS[key] == f"headgate.handlers.stages.{name}"
        stage = getattr(stages, name)
        seen = len(recorder.requests)

        def invoke(execution, before=before, data=RUN, stage=stage, name=name):
            more = {"operation": "load"} if name == "bridge" else {}
            payload = {"executionId": execution, "currentStage": name, "workflowBucket": BUCKET}
            stage({**payload, "previousStage": before, "initialData": data, **more}, None)

        invoke("run-1")
        invoke("run-1")  # its answer was lost: what it wrote is there
        if name == "bridge":
            stage({"operation": "save", "executionId": "run-1", "currentStage": "saved", "workflowBucket": BUCKET,
                   "initialData": [1]}, None)  # fmt: skip
        with pytest.raises(Exception, match="does not exist"):
            invoke("run-2", before="lost")
        if name == "store":  # another execution with the same candidates finds them stored
            with recorder.paused():
                body = (
                    boto3.Session()
                    .client("s3")
                    .get_object(Bucket=BUCKET, Key="executions/run-1/etl/output.json")["Body"]
                )
            invoke("run-3", before=None, data=json.load(body)["data"])
        if name == "reactive":
            stage = ReactiveStage(window_s=0.0)  # what it did a window ago is removed
            for number in range(3):
                invoke(f"event-{number}", before=None, data=REACTION, stage=stage)
        calls = Calls()
        for request in recorder.requests[seen:]:
            calls.add_request(*request)
        allowed = policies.stage_function(key, f"arn:aws:s3:::{BUCKET}", [f"{BUCKET}/e.parquet"])
        lists = [s.to_statement_json() for s in allowed]
        for statement in lists:
            for part in ("Action", "Resource"):
                statement[part] = statement[part] if isinstance(statement[part], list) else [statement[part]]
        check_statements(key, lists, calls)
