"""The Terraform of infra/: its form, the values that it renders, and that its names are those of the code. The AWS provider
cannot be had everywhere, so nothing is planned; conftest.py says how expressions are evaluated without it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import headgate.handlers
from headgate._native import core
from headgate.backends import dynamodb, dynamodb_items
from headgate.config import SPEC_NAMES, SPEC_URLS, load
from headgate.pipelines.market.metrics import NAMESPACE

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra" / "terraform"
CODE = ROOT / "python" / "headgate"
ENVIRONMENTS = ("dev", "prod")
both = pytest.mark.parametrize("environment", ENVIRONMENTS)


def of_type(resources, kind):
    return [
        (where, value)
        for where, values in resources.items()
        if f"/{where}".split("/")[-1].startswith(f"{kind}.")
        for value in values
    ]


def statements(policy):
    found = json.loads(policy)["Statement"]
    return found if isinstance(found, list) else [found]


def as_list(value):
    return value if isinstance(value, list) else [value]


@pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not installed")
def test_it_is_formatted_and_parses():
    done = subprocess.run(["terraform", "fmt", "-check", "-recursive", INFRA], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# --- the scheduler


@both
def test_the_scheduler_gets_its_keywords_literally(rendered, environment):
    """jsonencode() writes < as \\u003c, which the scheduler does not replace: every event would be answered 400."""
    schedules = of_type(rendered(environment), "aws_scheduler_schedule")
    assert schedules
    for where, schedule in schedules:
        (target,) = schedule["target"]
        assert "\\u00" not in target["input"], where
        event = json.loads(target["input"])
        for value in event.values():
            assert "aws.scheduler" not in value or re.fullmatch(r"<aws\.scheduler\.[a-z-]+>", value), where


@both
def test_the_collection_understands_the_event_of_its_schedule(rendered, environment, monkeypatch):
    (schedule,) = rendered(environment)["collection/schedule/aws_scheduler_schedule.this"]
    (target,) = schedule["target"]
    event = json.loads(target["input"].replace("<aws.scheduler.scheduled-time>", "2026-05-20T14:30:00Z"))
    assert core.parse_timestamp(event["time"]) == 1_779_287_400_000_000
    assert event["detail-type"] == "Scheduled Event"
    assert schedule["schedule_expression_timezone"] == "America/New_York"
    assert schedule["schedule_expression"] == "cron(*/5 9-16 ? * MON-FRI *)"


@both
def test_what_cannot_be_scheduled_or_run_goes_to_a_queue_with_an_alarm(rendered, environment):
    resources = rendered(environment)
    alarmed = {
        alarm["dimensions"]["QueueName"] for _, alarm in of_type(resources, "aws_cloudwatch_metric_alarm")
        if alarm.get("metric_name") == "ApproximateNumberOfMessagesVisible" and alarm["threshold"] == 1
    }  # fmt: skip
    queues = {queue["arn"]: queue["name"] for _, queue in of_type(resources, "aws_sqs_queue")}
    roles = {role["arn"]: role["id"] for _, role in of_type(resources, "aws_iam_role")}
    allowed = {}
    for _, policy in of_type(resources, "aws_iam_role_policy"):
        allowed.setdefault(policy["role"], []).extend(statements(policy["policy"]))
    for where, schedule in of_type(resources, "aws_scheduler_schedule"):
        (target,) = schedule["target"]
        (letters,) = target["dead_letter_config"]
        assert queues[letters["arn"]] in alarmed, where
        assert target["retry_policy"][0]["maximum_retry_attempts"] >= 1
        granted = {(s["Action"], s["Resource"]) for s in allowed[roles[target["role_arn"]]]}
        assert granted == {("lambda:InvokeFunction", target["arn"]), ("sqs:SendMessage", letters["arn"])}
        function = next(f for _, f in of_type(resources, "aws_lambda_function") if f["arn"] == target["arn"])
        (invoke,) = [
            c
            for _, c in of_type(resources, "aws_lambda_function_event_invoke_config")
            if c["function_name"] == function["function_name"]
        ]
        failed = invoke["destination_config"][0]["on_failure"][0]["destination"]
        assert queues[failed] in alarmed, where


# --- topics and alarms


@both
def test_alarms_and_rules_can_publish_to_their_topic(rendered, environment):
    """Through the topic's policy and through its key's; alias/aws/sns lets no service publish."""
    resources = rendered(environment)
    topics = {topic["arn"]: topic for _, topic in of_type(resources, "aws_sns_topic")}
    keys = {key["arn"]: key for _, key in of_type(resources, "aws_kms_key")}
    policies = {policy["arn"]: policy for _, policy in of_type(resources, "aws_sns_topic_policy")}
    alarms = of_type(resources, "aws_cloudwatch_metric_alarm")
    assert alarms
    for where, alarm in alarms:
        assert alarm["alarm_actions"], where
        for action in alarm["alarm_actions"]:
            for service in ("cloudwatch.amazonaws.com", "events.amazonaws.com"):
                assert allows(policies[action]["policy"], service, "sns:Publish"), (where, service)
                key = topics[action].get("kms_master_key_id")
                if key is not None:
                    for needed in ("kms:GenerateDataKey", "kms:Decrypt"):
                        assert allows(keys[key]["policy"], service, needed), (where, service)


def allows(policy, service, action):
    """Whether a service may do it in this account; EventBridge sends no condition keys with an encrypted topic."""
    for statement in statements(policy):
        services = (
            as_list(statement["Principal"].get("Service", [])) if isinstance(statement["Principal"], dict) else []
        )
        fits = any(re.fullmatch(re.escape(a).replace(r"\*", ".*"), action) for a in as_list(statement["Action"]))
        condition = statement.get("Condition", {})
        known = not condition or (
            service != "events.amazonaws.com" and condition == {"StringEquals": {"aws:SourceAccount": "123456789012"}}
        )
        if statement["Effect"] == "Allow" and service in services and fits and known:
            return True
    return False


@both
def test_functions_may_use_the_keys_of_the_topics_they_publish_to(rendered, environment):
    resources = rendered(environment)
    topics = {topic["arn"]: topic.get("kms_master_key_id") for _, topic in of_type(resources, "aws_sns_topic")}
    for where, policy in of_type(resources, "aws_iam_role_policy"):
        granted = {
            (a, r) for s in statements(policy["policy"]) for a in as_list(s["Action"]) for r in as_list(s["Resource"])
        }
        for action, resource in granted:
            if action == "sns:Publish" and topics[resource]:
                assert ("kms:GenerateDataKey", topics[resource]) in granted, where
                assert ("kms:Decrypt", topics[resource]) in granted, where


@both
def test_a_topic_may_put_messages_into_the_queues_that_subscribe(rendered, environment):
    resources = rendered(environment)
    urls = {queue["arn"]: queue["url"] for _, queue in of_type(resources, "aws_sqs_queue")}
    policies = {policy["queue_url"]: policy for _, policy in of_type(resources, "aws_sqs_queue_policy")}
    subscriptions = [s for _, s in of_type(resources, "aws_sns_topic_subscription") if s["protocol"] == "sqs"]
    assert subscriptions
    for subscription in subscriptions:
        (statement,) = statements(policies[urls[subscription["endpoint"]]]["policy"])
        assert statement["Principal"] == {"Service": "sns.amazonaws.com"}
        assert statement["Condition"] == {"ArnEquals": {"aws:SourceArn": subscription["topic_arn"]}}
        assert subscription["raw_message_delivery"] is True
        assert json.loads(subscription["filter_policy"]) == {"topic": ["market.items"]}


def test_the_filters_name_the_topics_of_the_pipeline():
    from headgate.pipelines.market import PIPELINE

    assert PIPELINE.topic == "market.items"


# --- functions


@both
def test_functions_have_handlers_variables_and_roles_that_exist(rendered, environment, tmp_path):
    resources = rendered(environment)
    functions = of_type(resources, "aws_lambda_function")
    assert {f["function_name"].rsplit("-", 1)[0] for _, f in functions} >= {
        "market-ingestion", "market-healing", "market-analysis"}  # fmt: skip
    read = "".join(path.read_text() for path in CODE.rglob("*.py"))
    for where, function in functions:
        handler = function["handler"] or function["image_config"][0]["command"][0]
        module, _, name = handler.rpartition(".")
        assert module == "headgate.handlers", where
        assert callable(getattr(headgate.handlers, name)), where
        assert (function["image_uri"] is None) == (function["package_type"] == "Zip")
        assert function["tracing_config"] == [{"mode": "Active"}]
        variables = function["environment"][0]["variables"]
        for variable in variables:
            if not variable.startswith(("HEADGATE__", "POWERTOOLS_")):
                known = variable in SPEC_NAMES or variable in SPEC_URLS or f'"{variable}"' in read
                known = known or variable.endswith("_SECRET_ARN") or f'"{variable.lower()}"' in read
                assert known, f"{where}: nothing reads {variable}"
        overrides = {k: v for k, v in variables.items() if k != "HEADGATE_CONFIG"}
        (tmp_path / "headgate.toml").write_text("")
        load(tmp_path / "headgate.toml", overrides)  # refuses what it does not know


@both
def test_log_groups_belong_to_functions_and_end(rendered, environment):
    resources = rendered(environment)
    groups = {g["name"]: g["retention_in_days"] for _, g in of_type(resources, "aws_cloudwatch_log_group")}
    assert groups == {f"/aws/lambda/{f['function_name']}": 30 for _, f in of_type(resources, "aws_lambda_function")}


def test_the_checkpoint_is_as_specified(rendered):
    resources = rendered("dev")
    (function,) = resources["checkpoint/function/aws_lambda_function.this"]
    assert (function["memory_size"], function["timeout"], function["reserved_concurrent_executions"]) == (3008, 900, 1)
    variables = function["environment"][0]["variables"]
    assert set(variables) == {
        "SOURCE_BUCKET", "CHECKPOINT_BUCKET", "CHECKPOINT_KEY", "LOG_LEVEL", "POWERTOOLS_SERVICE_NAME"}  # fmt: skip
    assert variables["CHECKPOINT_KEY"] == "checkpoints/events.parquet"
    (schedule,) = resources["checkpoint/schedule/aws_scheduler_schedule.this"]
    assert json.loads(schedule["target"][0]["input"]) == {"prefix": "prod/"}
    managed = {
        a["policy_arn"].rsplit("/", 1)[-1]
        for a in resources["checkpoint/function/aws_iam_role_policy_attachment.managed"]
    }
    assert managed == {"AWSLambdaBasicExecutionRole", "AWSXRayDaemonWriteAccess"}
    (versioning,) = resources["checkpoints/aws_s3_bucket_versioning.this"]
    assert versioning["versioning_configuration"] == [{"status": "Enabled"}]


def test_zips_use_layers_that_are_named_by_their_content(rendered):
    resources = rendered("prod")
    layers = resources["packages/aws_lambda_layer_version.this"]
    assert sorted(layer["layer_name"] for layer in layers) == [
        "headgate-prod-data-processing-0123456789ab", "headgate-prod-powertools-0123456789ab"]  # fmt: skip
    assert all(layer["skip_destroy"] for layer in layers)
    for _, function in of_type(resources, "aws_lambda_function"):
        assert sorted(function["layers"]) == sorted(layer["arn"] for layer in layers)
        assert function["runtime"] == "python3.12"


@both
def test_a_consumer_answers_in_parts_and_gives_up_into_a_queue(rendered, environment):
    resources = rendered(environment)
    (mapping,) = resources["analysis/aws_lambda_event_source_mapping.this"]
    assert mapping["function_response_types"] == ["ReportBatchItemFailures"]
    (queue,) = resources["analysis/aws_sqs_queue.this"]
    (letters,) = resources["analysis/dead_letters/aws_sqs_queue.this"]
    redrive = json.loads(queue["redrive_policy"])
    assert (redrive["deadLetterTargetArn"], redrive["maxReceiveCount"]) == (letters["arn"], 5)
    (function,) = resources["analysis/function/aws_lambda_function.this"]
    assert queue["visibility_timeout_seconds"] >= 6 * function["timeout"]
    assert letters["message_retention_seconds"] > queue["message_retention_seconds"]


# --- tables, metrics, dashboards


@both
def test_the_tables_are_those_that_the_code_makes(rendered, environment):
    class Client:
        def create_table(self, **request):
            self.made = request

        def update_time_to_live(self, **request):
            self.expiry = request["TimeToLiveSpecification"]

        def get_waiter(self, _):
            return self

        def wait(self, **_):
            pass

    resources = rendered(environment)
    for where, create in (
        ("items/aws_dynamodb_table.items", dynamodb_items.create_items_table),
        ("ledger/aws_dynamodb_table.ledger", dynamodb.create_ledger_table),
    ):
        (table,) = resources[where]
        client = Client()
        create(client, table["name"])
        made = client.made
        assert {a["name"]: a["type"] for a in table["attribute"]} == {
            a["AttributeName"]: a["AttributeType"] for a in made["AttributeDefinitions"]}  # fmt: skip
        keys = [k["AttributeName"] for k in made["KeySchema"]]
        assert [table["hash_key"], *([table["range_key"]] if "range_key" in table else [])] == keys
        assert {
            (i["name"], i["hash_key"], i["range_key"], i["projection_type"])
            for i in table.get("global_secondary_index", [])
        } == {
            (i["IndexName"], *(k["AttributeName"] for k in i["KeySchema"]), i["Projection"]["ProjectionType"])
            for i in made.get("GlobalSecondaryIndexes", [])
        }
        assert table["ttl"] == [{"attribute_name": client.expiry["AttributeName"], "enabled": True}]
        assert table["point_in_time_recovery"] == [{"enabled": True}]
        assert table["deletion_protection_enabled"] is (environment == "prod")


OWN_METRICS = {
    NAMESPACE: ("pipelines/market/metrics.py", r'Metric\(\s*"(\w+)"'),
    "SentimentAnalyzer": ("healing/_result.py", r'\("(SelfHealing\w+)",'),
    "EventLogCheckpoint": ("handlers/_checkpoint.py", r'(?:\(|metric\()"([A-Z]\w+)", [\w(0-9]'),
}


def sent_metrics():
    return {
        (namespace, name) for namespace, (file, pattern) in OWN_METRICS.items()
        for name in re.findall(pattern, (CODE / file).read_text())
    }  # fmt: skip


@both
def test_dashboards_show_exactly_the_metrics_that_are_sent(rendered, environment):
    (dashboard,) = rendered(environment)["dashboard/aws_cloudwatch_dashboard.this"]
    body = dashboard["dashboard_body"]
    shown = set(re.findall(r"Namespace=\\\\\\?\"([\w/]+)\\\\\\?\" MetricName=\\\\\\?\"(\w+)", body)) or set(
        re.findall(r'Namespace=\\"([\w/]+)\\" MetricName=\\"(\w+)', body)
    )
    assert shown == sent_metrics()
    widgets = json.loads(body)["widgets"]
    functions = {f["function_name"] for _, f in of_type(rendered(environment), "aws_lambda_function")}
    queues = {q["name"] for _, q in of_type(rendered(environment), "aws_sqs_queue")}
    for kind, names in (("FunctionName", functions), ("QueueName", queues)):
        assert {m[3] for w in widgets for m in w["properties"]["metrics"] if kind in m} == names


@both
def test_alarms_look_at_metrics_that_exist(rendered, environment):
    resources = rendered(environment)
    sent = sent_metrics()
    watched = {}
    for where, alarm in of_type(resources, "aws_cloudwatch_metric_alarm"):
        metrics = [m["metric"][0] for m in alarm.get("metric_query", []) if "metric" in m] or [alarm]
        for m in metrics:
            if not m["namespace"].startswith("AWS/"):
                assert (m["namespace"], m["metric_name"]) in sent, where
                dimensions = {
                    "SentimentAnalyzer": {"Environment": environment},
                    "EventLogCheckpoint": {"service": "event-log-checkpoint"},
                    NAMESPACE: {"service": "market-ingestion"},
                }[m["namespace"]]
                assert m["dimensions"] == dimensions, where
            watched.setdefault(m["metric_name"], []).append(alarm)
    wanted = {
        "NewItemsIngested", "CollectionSuccessRate", "ApproximateNumberOfMessagesVisible", "NumberOfNotificationsFailed", "Duration",
        "Throttles", "Errors", "SelfHealingItemsFound", "SelfHealingItemsQuarantined", "ApproximateAgeOfOldestMessage", "Invocations"}  # fmt: skip
    assert wanted <= set(watched)
    (new_items,) = watched["NewItemsIngested"]
    assert (new_items["evaluation_periods"], new_items["metric_query"][1]["metric"][0]["period"]) == (6, 600)
    assert {a["threshold"] for a in watched["NumberOfNotificationsFailed"]} == {5}


@both
def test_something_is_raised_when_nothing_runs(rendered, environment):
    """Each schedule's function has an alarm for which missing data is bad."""
    resources = rendered(environment)
    for module in {where.split("/")[0] for where in resources if "/schedule/" in where}:
        missing = [
            alarm["treat_missing_data"]
            for where, values in resources.items() if where.startswith(f"{module}/aws_cloudwatch_metric_alarm")
            for alarm in values
        ]  # fmt: skip
        assert "breaching" in missing, module


@both
def test_buckets_are_private_versioned_and_answer_tls_only(rendered, environment):
    resources = rendered(environment)
    buckets = {b["bucket"] for _, b in of_type(resources, "aws_s3_bucket")}
    assert buckets
    for kind in (
        "public_access_block",
        "versioning",
        "server_side_encryption_configuration",
        "lifecycle_configuration",
        "policy",
    ):
        assert {b["bucket"] for _, b in of_type(resources, f"aws_s3_bucket_{kind}")} == buckets, kind


def test_the_environments_differ_where_they_must_only():
    dev, prod = (INFRA / "environments" / name for name in ENVIRONMENTS)
    assert {f.name for f in dev.glob("*.tf")} == {f.name for f in prod.glob("*.tf")}
    for file in dev.glob("*.tf"):
        different = [
            line for line in zip(file.read_text().splitlines(), (prod / file.name).read_text().splitlines(), strict=True)
            if line[0] != line[1]
        ]  # fmt: skip
        assert len(different) == (2 if file.name == "main.tf" else 0), file.name


FOLDERS = sorted({file.parent for file in INFRA.rglob("*.tf")})


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(INFRA)))
def test_what_is_declared_is_used_and_typed(folder):
    """What tflint's own rules look at: it and its rules for AWS cannot be had everywhere."""
    text = "".join(file.read_text() for file in sorted(folder.glob("*.tf")))
    bare = re.sub(r"(?m)^\s*#.*$", "", text)
    for name, body in re.findall(r'variable "(\w+)" \{(.*?)\n\}', bare, re.S):
        assert re.search(rf"\bvar\.{name}\b", bare.replace(f'variable "{name}"', "")), f"variable {name} is not used"
        assert re.search(r"^\s+type\s+=", body, re.M), f"variable {name} has no type"
    for block in re.findall(r"^locals \{(.*?)\n\}", bare, re.S | re.M):
        for name in re.findall(r"^  (\w+)\s+=", block, re.M):
            assert re.search(rf"\blocal\.{name}\b", bare), f"local {name} is not used"
    for kind, name in re.findall(r'^data "(\w+)" "(\w+)"', bare, re.M):
        assert f"data.{kind}.{name}." in bare, f"data {kind}.{name} is not used"
    for name in re.findall(r'^module "(\w+)"', bare, re.M):
        assert re.fullmatch(r"[a-z_]+", name)
    if "modules" in folder.parts:
        outputs = set(re.findall(r'^output "(\w+)"', bare, re.M))
        users = "".join(file.read_text() for other in FOLDERS if other != folder for file in other.glob("*.tf"))
        assert f'"../../modules/{folder.name}"' in users or f'"../{folder.name}"' in users, (
            f"nothing uses {folder.name}"
        )
        assert all(f".{output}" in users or output in ("name", "url", "role_arn") for output in outputs), outputs
