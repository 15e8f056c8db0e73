"""The table of what workflows support: every row is run here, and the page in the docs is made from it.

Run with HEADGATE_WRITE_DOCS=1 to write the section of docs/workflows.md anew.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headgate.workflow import LocalRunner, StateMachine, TaskFailure, lint, local_ports

PAGE = Path(__file__).resolve().parents[2] / "docs" / "workflows.md"
BEGIN, END = "<!-- supported: made by tests/unit/test_workflow_support.py -->", "<!-- end of supported -->"


def end(kind, **fields):
    return {"Type": kind, **fields, **({} if kind in ("Choice", "Succeed", "Fail") else {"End": True})}


def one(**fields):
    return {"StartAt": "S", "States": {"S": end(**fields)}}


def two(first, **second):
    return {"StartAt": "S", "States": {"S": {**first, "Next": "T"}, "T": end(**second)}}


INNER = {"StartAt": "I", "States": {"I": end("Pass")}}
DISTRIBUTED = {**INNER, "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}}
CATCH = [{"ErrorEquals": ["Boom"], "ResultPath": "$.e", "Next": "T"}]


def service(resource, **parameters):
    return one(kind="Task", Resource=f"arn:aws:states:::{resource}", Parameters=parameters)


S3 = "arn:aws:states:::s3:"
# group, feature, definition, input, whether it runs ("yes"), or is refused before anything runs ("no"), and a note
ROWS = [
    ("States", "Pass, Succeed, Fail, Choice, Wait", one(kind="Pass"), 1, "yes", "waits are rows with a time; virtual time jumps"),
    ("States", "Task", one(kind="Task", Resource="echo"), 1, "yes", "a bare name is a function of the runner, too"),
    ("States", "Parallel", one(kind="Parallel", Branches=[INNER]), 1, "yes", "branches run at the same time on a real clock"),
    ("States", "Map, inline", one(kind="Map", ItemProcessor=INNER), [1], "yes", "up to 40 at once, as AWS"),
    ("States", "Map, distributed", one(kind="Map", ItemProcessor=DISTRIBUTED), [1], "yes", "children are numbered, their events not kept"),
    ("States", "ItemSelector, ItemBatcher", one(kind="Map", ItemProcessor=DISTRIBUTED, ItemSelector={"v.$": "$$.Map.Item.Value"},
                                                ItemBatcher={"MaxItemsPerBatch": 2}), [1, 2, 3], "yes", ""),
    ("States", "ItemReader: JSON, JSONL, CSV, Parquet, manifest, listObjectsV2",
     one(kind="Map", ItemProcessor=DISTRIBUTED, ItemReader={"Resource": S3 + "getObject", "ReaderConfig": {"InputType": "JSON"},
                                                            "Parameters": {"Bucket": "b", "Key": "k"}}), {}, "yes", "from the object store"),
    ("States", "ResultWriter, with WriterConfig", one(kind="Map", ItemProcessor=DISTRIBUTED, ResultWriter={
        "Resource": S3 + "putObject", "Parameters": {"Bucket": "b", "Prefix": "p"}}), [1], "yes", "to the object store, with manifest.json"),
    ("States", "ToleratedFailureCount and Percentage", one(kind="Map", ToleratedFailureCount=1, ItemProcessor={
        "StartAt": "I", "States": {"I": end("Task", Resource="boom")}}), [1], "yes", "of inline Maps as well"),
    ("States", "Retry (BackoffRate, MaxDelaySeconds, JitterStrategy)",
     one(kind="Task", Resource="once", Retry=[{"ErrorEquals": ["States.ALL"], "MaxDelaySeconds": 9, "JitterStrategy": "FULL"}]), 1, "yes", ""),
    ("States", "Catch (ResultPath, Assign, Output)", two({"Type": "Task", "Resource": "boom", "Catch": CATCH}, kind="Succeed"), {}, "yes", ""),
    ("States", "TimeoutSeconds, HeartbeatSeconds and their Path forms",
     one(kind="Task", Resource="echo", TimeoutSeconds=5, HeartbeatSecondsPath="$.h"), {"h": 2}, "yes",
     "a function that takes longer is given up, not killed"),
    ("States", "Credentials", one(kind="Task", Resource="echo", Credentials={"RoleArn": "arn"}), 1, "yes", "evaluated; there are no roles here"),
    ("Data", "InputPath, Parameters, ResultSelector, ResultPath, OutputPath",
     one(kind="Task", Resource="echo", InputPath="$.a", Parameters={"x.$": "$"}, ResultSelector={"y.$": "$.x"}, ResultPath="$.r",
         OutputPath="$.r"), {"a": 1}, "yes", ""),
    ("Data", "JSONPath: filters, slices, wildcards, deep scan, functions",
     one(kind="Pass", Parameters={"x.$": "$..a[?(@.n > 1)].n", "m.$": "$.a[*].n.max()"}), {"a": [{"n": 1}, {"n": 2}]}, "yes",
     "the Jayway dialect"),
    ("Data", "the 18 intrinsic functions", one(kind="Pass", Parameters={"x.$": "States.MathAdd(1, 2)"}), {}, "yes", ""),
    ("Data", "variables (Assign) and their scopes", two({"Type": "Pass", "Assign": {"v": 1}}, kind="Pass", Parameters={"v.$": "$v"}), {}, "yes", ""),
    ("Data", "context object ($$, $states.context)", one(kind="Pass", Parameters={"n.$": "$$.Execution.Name"}), {}, "yes", ""),
    ("Data", "JSONata: Arguments, Output, Assign, Condition, Items",
     one(kind="Pass", QueryLanguage="JSONata", Output="{% $states.input.n + 1 %}"), {"n": 1}, "yes", "needs headgate[workflow]"),
    ("Tasks", "lambda:invoke and function ARNs", service("lambda:invoke", FunctionName="echo", Payload=1), 1, "yes", "Python functions"),
    ("Tasks", "glue:startJobRun, .sync", service("glue:startJobRun.sync", JobName="job"), {}, "yes", "a function, or the job's own script"),
    ("Tasks", "sqs:sendMessage, sns:publish, events:putEvents", service("sqs:sendMessage", QueueUrl="q", MessageBody="m"), {}, "yes",
     "the store's outbox"),
    ("Tasks", "dynamodb:getItem, putItem, updateItem, deleteItem", service("dynamodb:getItem", TableName="t", Key={"id": {"S": "1"}}), {}, "yes",
     "a table of the store; the commoner expressions"),
    ("Tasks", "aws-sdk:s3:getObject, putObject, listObjectsV2, deleteObject", service("aws-sdk:s3:listObjectsV2", Bucket="b"), {}, "yes",
     "the object store"),
    ("Tasks", "states:startExecution, .sync, .sync:2", service("states:startExecution.sync:2", StateMachineArn="child", Input={}), {}, "yes",
     "created in the same commit"),
    ("Tasks", ".waitForTaskToken and activities", one(kind="Task", Resource="arn:aws:states:eu-west-1:1:activity:a", TimeoutSeconds=5), {}, "wait",
     "answered by the API or the command, from any process"),
    ("Tasks", "other aws-sdk:* actions", service("aws-sdk:ec2:stopInstances"), {}, "no", "unless mocked, or given as a port"),
    ("Tasks", "http:invoke, ecs, batch, athena, ... ", service("batch:submitJob"), {}, "no", "unless mocked, or given as a port"),
]  # fmt: skip


@pytest.fixture
def runner(store, objects, clock):
    left = [1]

    def once(payload):
        if left[0]:
            left[0] = 0
            raise ValueError("once")
        return payload

    def boom(payload):
        raise TaskFailure("Boom", "it")

    objects.put("b/k", b"[1]")
    functions = {"echo": lambda payload: payload, "once": once, "boom": boom, "job": lambda arguments: None}
    ports = local_ports(store=store, objects=objects, tables={"t": ("id",)})
    return LocalRunner(
        store.db, functions, clock, objects=objects, ports=ports, machines={"child": StateMachine(INNER)}
    )


@pytest.mark.parametrize(
    ("feature", "definition", "data", "support"), [(r[1], *r[2:5]) for r in ROWS], ids=[r[1] for r in ROWS]
)
def test_every_row_of_the_table_is_true(runner, feature, definition, data, support):
    assert [f for f in lint(definition) if f.severity == "error"] == []
    if support == "no":
        with pytest.raises(ValueError, match="the runner does not support 'arn:aws:states:::"):
            runner.start("w", definition, data, "e")
        assert runner.running() == []
        return
    execution = runner.start("w", definition, data, "e", wait=support != "wait")
    assert execution.status == ("RUNNING" if support == "wait" else "SUCCEEDED"), execution


def table():
    lines = []
    group = ""
    for row in ROWS:
        if row[0] != group:
            group = row[0]
            lines += ["", f"| {group} | Local runner | Note |", "| --- | --- | --- |"]
        runs = "refused by name" if row[4] == "no" else "yes"
        lines.append(f"| {row[1].strip()} | {runs} | {row[5]} |")
    return "\n".join(lines).strip()


def test_the_page_shows_the_table():
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    shown, _, after = rest.partition(END)
    if os.environ.get("HEADGATE_WRITE_DOCS"):
        PAGE.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}")
        return
    assert shown.strip() == table()
