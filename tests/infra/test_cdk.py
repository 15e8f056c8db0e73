"""The CDK app of infra/cdk, synthesised offline: the listed properties of specification 003 on the template, cfn-lint, moto's
CloudFormation, and the template's own state machines and pipes on the local engine with S3 behind."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from headgate.handlers import stages
from headgate.pipelines.scoring import ETLStage, scoring_functions, scoring_workflow
from headgate.workflow import GlueStep, LambdaStep, LocalPipe, LocalRunner, Workflow, local_functions, output_key

assertions = pytest.importorskip("aws_cdk.assertions", reason="aws-cdk-lib is not installed")
pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed"),
    pytest.mark.xdist_group("cdk"),
]
ROOT = Path(__file__).resolve().parents[2]
ACCOUNT, REGION = "123456789012", "us-east-1"
IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/headgate@sha256:{'0' * 64}"
BUCKET = f"headgate-workflow-dev-{ACCOUNT}"
OLD = "Stack-Etl-9XK2"


class Cdk:
    """The app's modules, which lie beside each other in infra/cdk."""

    def __init__(self):
        sys.path.insert(0, str(ROOT / "infra" / "cdk"))
        try:
            self.settings, self.stack = (importlib.import_module(name) for name in ("settings", "stack"))
        finally:
            sys.path.pop(0)

    def make(self, out, workflows, **more):
        import aws_cdk as cdk

        options = {
            "name": "Headgate",
            "environment": "dev",
            "account": ACCOUNT,
            "region": REGION,
            "code": IMAGE,
            **more,
        }
        app = cdk.App(outdir=str(out))
        made = self.stack.WorkflowStack(app, self.settings.Settings(**options), workflows)
        app.synth()
        return made, json.loads((out / "Headgate-dev.template.json").read_text())


@pytest.fixture(scope="module")
def cdk():
    return Cdk()


@pytest.fixture(scope="module")
def deployed(cdk, tmp_path_factory):
    """(stack, template, folder) of an Express and a Standard workflow, with one function that keeps its old name."""
    out = tmp_path_factory.mktemp("cdk")
    mixed = Workflow("mixed", "STANDARD", [GlueStep("Dedup", "dedup"), LambdaStep("ScoreStage", "scoreLambda")])
    stack, template = cdk.make(
        out, [scoring_workflow(source_queue="requests"), mixed], emails=("o@example.com",), naming="DUAL",
        existing_functions={"etlLambda": OLD},
    )  # fmt: skip
    return stack, template, out


def of_type(template, kind):
    return {name: r["Properties"] for name, r in template["Resources"].items() if r["Type"] == kind}


def statements(template, role):
    """The statements of a role by its logical id."""
    (policy,) = template["Resources"][role]["Properties"]["Policies"]
    return policy["PolicyDocument"]["Statement"]


def role_of(properties, key="Role"):
    return properties[key]["Fn::GetAtt"][0]


def as_list(value):
    return value if isinstance(value, list) else [value]


def actions(template, role):
    return {action for s in statements(template, role) for action in as_list(s["Action"])}


def test_1_and_38_names_are_explicit_and_old_ones_may_stay(deployed):
    _, template, _ = deployed
    names = {f["FunctionName"] for f in of_type(template, "AWS::Lambda::Function").values()}
    purposes = ("FilterLambda", "ScoreLambda", "StoreLambda", "ReactiveLambda", "WorkflowInputLambda")
    assert names == {f"Headgate-dev-{purpose}" for purpose in purposes}  # etlLambda is deployed elsewhere
    groups = {g["LogGroupName"] for g in of_type(template, "AWS::Logs::LogGroup").values()}
    assert {f"/aws/lambda/{name}" for name in names} <= groups
    scoring = next(
        m
        for m in of_type(template, "AWS::StepFunctions::StateMachine").values()
        if m["StateMachineName"] == "scoring-Express"
    )
    used = [s["Parameters"]["FunctionName"] for s in json.loads(scoring["DefinitionString"])["States"].values()]
    assert used == [OLD, *(f"Headgate-dev-{purpose}" for purpose in purposes[:4])]


def test_every_function_has_an_entry_point_that_exists(deployed):
    _, template, _ = deployed
    for function in of_type(template, "AWS::Lambda::Function").values():
        module, _, name = function["ImageConfig"]["Command"][0].rpartition(".")
        assert module == "headgate.handlers.stages"
        assert callable(getattr(stages, name))


def test_the_entry_points_are_those_of_the_handlers(cdk):
    assert {path.rpartition(".")[2] for path in cdk.settings.ENTRY_POINTS.values()} == set(stages.__all__)


def test_7_outputs_end_after_a_week_and_the_bucket_is_private(deployed):
    _, template, _ = deployed
    found = assertions.Template.from_json(template)
    found.has_resource_properties("AWS::S3::Bucket", {
        "BucketName": BUCKET,
        "LifecycleConfiguration": {"Rules": [
            {"ExpirationInDays": 7, "Prefix": "executions/", "Status": "Enabled"},
            {"ExpirationInDays": 1, "Prefix": "reactions/", "Status": "Enabled"}]},
        "PublicAccessBlockConfiguration": {
            "BlockPublicAcls": True, "BlockPublicPolicy": True, "IgnorePublicAcls": True, "RestrictPublicBuckets": True},
    })  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind", "invocation", "start"),
    [
        ("scoring", "EXPRESS", "REQUEST_RESPONSE", "states:StartSyncExecution"),
        ("mixed", "STANDARD", "FIRE_AND_FORGET", "states:StartExecution"),
    ],
)
def test_12_13_18_19_27_41_the_pipe_fits_the_type(deployed, name, kind, invocation, start):
    _, template, _ = deployed
    (machine,) = [
        m
        for m in of_type(template, "AWS::StepFunctions::StateMachine").values()
        if m["StateMachineName"].startswith(name)
    ]
    assert machine["StateMachineType"] == kind
    arn = f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:{machine['StateMachineName']}"
    (pipe,) = [p for p in of_type(template, "AWS::Pipes::Pipe").values() if p["Name"] == f"{name}-event-pipe"]
    assert pipe["Target"] == arn
    assert pipe["TargetParameters"]["StepFunctionStateMachineParameters"] == {"InvocationType": invocation}
    assert pipe["SourceParameters"]["SqsQueueParameters"]["BatchSize"] == 1
    granted = statements(template, role_of(pipe, "RoleArn"))
    assert [(as_list(s["Action"]), s["Resource"]) for s in granted] == [
        (["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"], pipe["Source"]), ([start], arn)]  # fmt: skip


def test_14_32_33_a_failed_message_comes_back_until_it_is_a_dead_letter(deployed):
    _, template, _ = deployed
    queues = of_type(template, "AWS::SQS::Queue")
    sources = {q["QueueName"]: q for q in queues.values() if "RedrivePolicy" in q}
    assert set(sources) == {"Headgate-dev-requests", "Headgate-dev-mixed"}
    for name, queue in sources.items():
        assert queue["RedrivePolicy"]["maxReceiveCount"] == 3
        letters = queues[queue["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"][0]]
        assert letters["QueueName"] == f"{name}-dead-letters"
        assert queue["VisibilityTimeout"] > 300  # an Express execution's most


def test_34_failures_of_a_standard_workflow_reach_somebody(deployed):
    _, template, _ = deployed
    topics = of_type(template, "AWS::SNS::Topic")
    rules = {r["Name"]: r for r in of_type(template, "AWS::Events::Rule").values()}
    rule = rules["mixed-Standard-failures"]
    assert rule["EventPattern"]["detail"]["status"] == ["FAILED", "TIMED_OUT", "ABORTED"]
    assert rule["EventPattern"]["detail"]["stateMachineArn"] == [
        f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:mixed-Standard"
    ]
    for one in rules.values():
        assert [t["Arn"]["Ref"] in topics for t in one["Targets"]] == [True]
    (policy,) = of_type(template, "AWS::SNS::TopicPolicy").values()
    (key,) = of_type(template, "AWS::KMS::Key").values()
    for document, action in ((policy["PolicyDocument"], "sns:Publish"), (key["KeyPolicy"], "kms:GenerateDataKey*")):
        found = {
            s["Principal"]["Service"]: s.get("Condition") for s in document["Statement"]
            if "Service" in s["Principal"] and action in as_list(s["Action"])
        }  # fmt: skip
        assert found == {
            "cloudwatch.amazonaws.com": {"StringEquals": {"aws:SourceAccount": ACCOUNT}}, "events.amazonaws.com": None}  # fmt: skip
    (subscription,) = of_type(template, "AWS::SNS::Subscription").values()
    assert (subscription["Protocol"], subscription["Endpoint"]) == ("email", "o@example.com")


def test_35_logs_and_traces(deployed):
    _, template, _ = deployed
    groups = of_type(template, "AWS::Logs::LogGroup")
    assert {g["RetentionInDays"] for g in groups.values()} == {14}
    for machine in of_type(template, "AWS::StepFunctions::StateMachine").values():
        assert machine["TracingConfiguration"] == {"Enabled": True}
        logging = machine["LoggingConfiguration"]
        assert (logging["Level"], logging["IncludeExecutionData"]) == ("ALL", True)
        (destination,) = logging["Destinations"]
        group = groups[destination["CloudWatchLogsLogGroup"]["LogGroupArn"]["Fn::GetAtt"][0]]
        assert group["LogGroupName"] == f"/aws/vendedlogs/states/{machine['StateMachineName']}"
    assert all(f["TracingConfig"] == {"Mode": "Active"} for f in of_type(template, "AWS::Lambda::Function").values())


def test_39_the_definition_is_the_compiled_one(deployed):
    """Nothing adds a retrier, and a mixed workflow is as the local runner knows it."""
    stack, template, _ = deployed
    given = {
        m["StateMachineName"]: json.loads(m["DefinitionString"])
        for m in of_type(template, "AWS::StepFunctions::StateMachine").values()
    }
    assert given == {"scoring-Express": stack.workflows[0].to_asl(), "mixed-Standard": stack.workflows[1].to_asl()}


def test_40_42_roles_allow_what_their_owners_do_and_nothing_else(deployed):
    _, template, _ = deployed
    data = {"s3:GetObject", "s3:PutObject", "s3:ListBucket"}
    own = data | {"logs:CreateLogStream", "logs:PutLogEvents", "xray:PutTraceSegments", "xray:PutTelemetryRecords"}
    for function in of_type(template, "AWS::Lambda::Function").values():
        role, purpose = role_of(function), function["FunctionName"].rpartition("-")[2]
        assert actions(template, role) == own | ({"s3:DeleteObject"} if purpose == "ReactiveLambda" else set())
        folders = {"executions/*", {"StoreLambda": "candidates/*", "ReactiveLambda": "reactions/*"}.get(purpose)} - {
            None
        }
        reached, listed = set(), set()
        for s in statements(template, role):
            if s["Action"] == "s3:ListBucket":
                listed |= set(s["Condition"]["StringLike"]["s3:prefix"])
            elif as_list(s["Action"])[0].startswith("s3:"):
                reached |= set(as_list(s["Resource"]))
        assert reached == {f"arn:aws:s3:::{BUCKET}/{folder}" for folder in folders}
        assert listed == folders - {"candidates/*"}
    for machine in of_type(template, "AWS::StepFunctions::StateMachine").values():
        role = role_of(machine, "RoleArn")
        assert not {a for a in actions(template, role) if a.startswith("s3:")}
        states = json.loads(machine["DefinitionString"])["States"].values()
        invoked = {s["Parameters"]["FunctionName"] for s in states if "FunctionName" in s["Parameters"]}
        jobs = {s["Parameters"]["JobName"] for s in states if "JobName" in s["Parameters"]}
        granted = {
            r.rpartition(":")[2]
            for s in statements(template, role)
            if as_list(s["Action"])[0].startswith(("lambda:", "glue:"))
            for r in as_list(s["Resource"])
        }
        assert granted == invoked | {f"job/{job}" for job in jobs}
    (job,) = of_type(template, "AWS::Glue::Job").values()
    assert (job["GlueVersion"], job["Name"], job["MaxRetries"]) == ("5.0", "dedup", 0)
    assert actions(template, role_of(job)) >= data
    for properties in of_type(template, "AWS::IAM::Role").values():
        for policy in properties["Policies"]:
            for s in policy["PolicyDocument"]["Statement"]:
                assert not [a for a in as_list(s["Action"]) if a.endswith("*")]
                free = ("xray:", "logs:", "cloudwatch:PutMetricData")  # these know no resources
                assert s["Resource"] != "*" or all(a.startswith(free) for a in as_list(s["Action"]))


def test_alarms_of_the_specification_are_told_to_somebody(deployed):
    _, template, _ = deployed
    alarms = of_type(template, "AWS::CloudWatch::Alarm").values()
    limits = {(a.get("MetricName"), a["Threshold"]) for a in alarms}
    assert limits >= {
        ("ExecutionsFailed", 5), ("ExecutionsTimedOut", 0), ("ExecutionTime", 240_000), ("ApproximateNumberOfMessagesVisible", 0),
        ("ApproximateNumberOfMessagesVisible", 1000), ("ApproximateAgeOfOldestMessage", 3600), ("Throttles", 0), ("Duration", 40_000),
        (None, 5)}  # fmt: skip
    assert all(a["AlarmActions"][0]["Ref"] in of_type(template, "AWS::SNS::Topic") for a in alarms)


def test_cfn_lint_finds_nothing(deployed):
    _, _, out = deployed
    lint = Path(sys.executable).parent / "cfn-lint"
    done = subprocess.run(
        [lint, "--regions", REGION, "--", out / "Headgate-dev.template.json"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_moto_creates_the_stack(deployed, monkeypatch):
    """As far as moto goes; it says what it leaves out."""
    import warnings

    import boto3
    from moto import mock_aws

    _, template, out = deployed
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        client = boto3.client("cloudformation")
        body = (out / "Headgate-dev.template.json").read_text()
        client.create_stack(StackName="Headgate-dev", TemplateBody=body, Capabilities=["CAPABILITY_NAMED_IAM"])
        assert client.describe_stacks()["Stacks"][0]["StackStatus"] == "CREATE_COMPLETE"
        machines = {m["name"]: m for m in boto3.client("stepfunctions").list_state_machines()["stateMachines"]}
        assert set(machines) == {"scoring-Express", "mixed-Standard"}
        queues = {url.rsplit("/", 1)[1] for url in boto3.client("sqs").list_queues()["QueueUrls"]}
        assert queues == {q["QueueName"] for q in of_type(template, "AWS::SQS::Queue").values()}
        assert [b["Name"] for b in boto3.client("s3").list_buckets()["Buckets"]] == [BUCKET]
    left_out = {word for w in said for word in str(w.message).split() if word.startswith("AWS::")}
    assert left_out <= {
        "AWS::CloudWatch::Alarm", "AWS::Glue::Job", "AWS::Pipes::Pipe", "AWS::S3::BucketPolicy", "AWS::SNS::TopicPolicy",
        "AWS::SNS::Subscription", "AWS::Logs::LogGroup"}  # fmt: skip


def connector(request, start, end):
    for n in range(4):
        yield {
            "customerId": f"c{n}", "subjectType": "order", "subjectId": f"s{n}", "eventDate": f"2026-0{1 + n}-10T00:00:00Z",
            "attributes": {"action": "submit"},
        }  # fmt: skip


def test_the_template_runs_on_the_local_engine_with_s3_behind(deployed, store, clock, monkeypatch):
    import boto3
    from moto import mock_aws

    from headgate.backends.s3_objects import S3Objects

    stack, template, _ = deployed
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    machine = next(
        m
        for m in of_type(template, "AWS::StepFunctions::StateMachine").values()
        if m["StateMachineName"] == "scoring-Express"
    )
    pipe = next(
        p for p in of_type(template, "AWS::Pipes::Pipe").values() if p["Target"].endswith(machine["StateMachineName"])
    )
    queue = next(
        q for q in of_type(template, "AWS::SQS::Queue").values() if pipe["Source"].endswith(f":{q['QueueName']}")
    )
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        objects = S3Objects(f"s3://{BUCKET}")
        functions = {**scoring_functions(objects, clock), "etlLambda": ETLStage(objects, clock, connector)}
        runner = LocalRunner(store.db, local_functions(stack.workflows[0], objects, clock, functions), clock)
        local = LocalPipe(
            "scoring", json.loads(machine["DefinitionString"]),
            pipe["TargetParameters"]["StepFunctionStateMachineParameters"]["InvocationType"], store, runner,
            queue=queue["QueueName"], visibility_timeout_s=queue["VisibilityTimeout"],
            max_receive_count=queue["RedrivePolicy"]["maxReceiveCount"],
        )  # fmt: skip
        dates = {"start": "2026-01-01T00:00:00Z", "end": "2026-05-28T00:00:00Z"}
        local.send({"programId": "reviews", "marketplace": "de", "dateRange": dates})
        assert local.drain().succeeded == 1
        execution = objects.list("executions/")[0].split("/")[1]
        wanted = [
            output_key(execution, s) for s in ("ETLStage", "FilterStage", "ScoreStage", "StoreStage", "ReactiveStage")
        ]
        assert objects.list("executions/") == sorted(wanted)
        local.send({"programId": 7})
        assert local.drain().succeeded == 1
        clock.sleep_us(601 * 1_000_000 * 3)
        for _ in range(3):
            local.drain()
            clock.sleep_us(601 * 1_000_000)
        assert local.result.dead_lettered == 1


def test_what_cannot_be_deployed_is_said(cdk, tmp_path):
    with pytest.raises(ValueError, match="expected an image's URI with a tag or digest, or the folder that"):
        cdk.make(tmp_path, [scoring_workflow()], code="../nowhere")
    with pytest.raises(
        ValueError, match=r"checkpoints: 's3://b/k': expected bucket/key of a checkpoint, without s3://"
    ):
        cdk.make(tmp_path, [scoring_workflow()], code=IMAGE, checkpoints=("s3://b/k",))
    other = Workflow("w", "EXPRESS", [LambdaStep("A", "ownLambda")])
    with pytest.raises(ValueError, match="'ownLambda' has no entry point"):
        cdk.make(tmp_path, [other])
