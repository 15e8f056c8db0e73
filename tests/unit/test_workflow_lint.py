"""What the parser refuses, where, with which code and mend; and what `lint` warns about."""

from __future__ import annotations

import json

import pytest

from headgate.errors import InvalidInputError
from headgate.workflow import LocalRunner, lint

PASS = {"Type": "Pass", "End": True}
INVOKE = {
    "Type": "Task", "Resource": "arn:aws:states:::lambda:invoke",
    "Parameters": {"FunctionName": "f", "Payload.$": "$"}, "End": True,
}  # fmt: skip


def machine(**states):
    return {"StartAt": next(iter(states)), "States": states}


def errors(definition, kind="STANDARD"):
    return [finding for finding in lint(definition, kind) if finding.severity == "error"]


def warnings(definition, kind="STANDARD"):
    found = lint(definition, kind)
    assert all(finding.severity == "warning" for finding in found), found
    return [(finding.code, finding.path) for finding in found]


def state(**fields):
    return machine(S={**fields})


SCHEMA, TARGET = "SCHEMA_VALIDATION_FAILED", "MISSING_TRANSITION_TARGET"


@pytest.mark.parametrize(
    ("definition", "code", "path", "message"),
    [
        ({}, SCHEMA, "$", "These fields are required: [StartAt, States]"),
        ([], SCHEMA, "$", "Definition must be a valid JSON object"),
        ("{", "INVALID_JSON_DESCRIPTION", "$", "Expecting property name"),
        ({"StartAt": "A", "States": {}}, SCHEMA, "$.States", "Value cannot be empty"),
        ({**machine(A=PASS), "Extra": 1}, SCHEMA, "$", "Field 'Extra' is not supported"),
        ({**machine(A=PASS), "Version": "2.0"}, SCHEMA, "$.Version", "Value must be one of [1.0]"),
        ({**machine(A=PASS), "TimeoutSeconds": 1.5}, SCHEMA, "$.TimeoutSeconds", "Expected value of type Integer, not number 1.5"),
        ({**machine(A=PASS), "QueryLanguage": "SQL"}, SCHEMA, "$.QueryLanguage", "Value must be one of [JSONPath, JSONata]"),
        ({**machine(A={**PASS, "QueryLanguage": "JSONPath"}), "QueryLanguage": "JSONata"}, SCHEMA, "$.States.A.QueryLanguage",
         "'QueryLanguage' can not be 'JSONPath' if set to 'JSONata' for whole state machine"),
        ({"StartAt": "B", "States": {"A": PASS}}, TARGET, "$.StartAt", "Missing 'Next' target: B"),
        (machine(A={"Type": "Pass", "Next": "B"}, C=PASS), TARGET, "$.States.A.Next", "Missing 'Next' target: B"),
        (machine(A=PASS, B=PASS), TARGET, "$.States.B", 'State "B" is not reachable.'),
        (machine(A={"Type": "Pass", "Next": "B"}, B={"Type": "Pass", "Next": "A"}), "MISSING_END_STATE", "$",
         "Workflow has no terminal state"),
        (machine(A={"End": True}), SCHEMA, "$.States.A", "These fields are required: [Type]"),
        (machine(A=1), SCHEMA, "$.States.A", "Expected value of type Object, not number"),
        (machine(A={"Type": "Loop", "End": True}), SCHEMA, "$.States.A.Type", "Value must be one of [Pass, Task"),
        (machine(**{"x" * 81: PASS}), SCHEMA, "$.States." + "x" * 81, "State names have 1 to 80 characters, not 81"),
        (state(Type="Pass"), SCHEMA, "$.States.S", "One of the fields 'Next' and 'End' is required"),
        (state(Type="Pass", End=True, Next="S"), SCHEMA, "$.States.S", "Only one of the fields 'Next' and 'End' may be set"),
        (state(Type="Pass", End=False), SCHEMA, "$.States.S.End", "Value must be true"),
        (state(Type="Pass", End=True, Retry=[]), SCHEMA, "$.States.S", "Field 'Retry' is not supported"),
        (state(Type="Pass", End=True, Output=1), SCHEMA, "$.States.S", "Field 'Output' is not supported"),
        (state(Type="Pass", End=True, QueryLanguage="JSONata", Parameters={}), SCHEMA, "$.States.S", "Field 'Parameters' is not"),
        (state(Type="Pass", End=True, Comment=1), SCHEMA, "$.States.S.Comment", "Expected value of type String, not number"),
        (state(Type="Pass", End=True, InputPath="a"), SCHEMA, "$.States.S.InputPath", "Value is not a valid JSONPath"),
        (state(Type="Pass", End=True, InputPath=1), SCHEMA, "$.States.S.InputPath", "expected a string, not number"),
        (state(Type="Pass", End=True, ResultPath="$.a[*]"), SCHEMA, "$.States.S.ResultPath", "Value is not a Reference Path: '$.a[*]'"),
        (state(Type="Pass", End=True, ResultPath="$$.a"), SCHEMA, "$.States.S.ResultPath", "Value is not a Reference Path"),
        (state(Type="Pass", End=True, Parameters={"a": {"b.$": "c"}}), SCHEMA, "$.States.S.Parameters",
         "The value for the field 'b.$' must be a valid JSONPath or a valid intrinsic function call"),
        (state(Type="Pass", End=True, Parameters={"b.$": 1}), SCHEMA, "$.States.S.Parameters", "The value for the field 'b.$' must"),
        (state(Type="Pass", End=True, Parameters={"b.$": "States.No()"}), SCHEMA, "$.States.S.Parameters", "The value for the field"),
        (state(Type="Pass", End=True, Parameters={"a": 1, "a.$": "$"}), SCHEMA, "$.States.S.Parameters", "The field 'a' is duplicated"),
        (state(Type="Pass", End=True, Parameters={"a.$": "States.MathAdd('1', 2)"}), SCHEMA, "$.States.S.Parameters", "'a.$' must be"),
        (state(Type="Pass", End=True, QueryLanguage="JSONata", Output={"a": "{% 1"}), SCHEMA, "$.States.S.Output.a",
         "A JSONata expression must begin with '{%' and end with '%}'"),
        (state(Type="Task", End=True, Resource="${open"), SCHEMA, "$.States.S.Resource", "is not recognized"),
        (state(Type="Pass", End=True, Assign=[1]), SCHEMA, "$.States.S.Assign", "Expected value of type Object, not array"),
        (state(Type="Wait", End=True), SCHEMA, "$.States.S", "Exactly one of Seconds, SecondsPath, Timestamp, TimestampPath"),
        (state(Type="Wait", End=True, Seconds=-1), SCHEMA, "$.States.S.Seconds", "Value -1 is out of range: 0 to 99999999"),
        (state(Type="Wait", End=True, Seconds=1.0), SCHEMA, "$.States.S.Seconds", "Expected value of type Integer, not number 1.0"),
        (state(Type="Wait", End=True, Timestamp="2020-01-01"), SCHEMA, "$.States.S.Timestamp", "String does not match RFC3339 timestamp"),
        (state(Type="Fail", Error="E", ErrorPath="$.e"), SCHEMA, "$.States.S", "Only one of the fields 'Error' and 'ErrorPath' may be set"),
        (state(Type="Fail", CausePath="States.Format()"), SCHEMA, "$.States.S.CausePath", "Value is not a valid intrinsic function call"),
        (state(Type="Fail", End=True), SCHEMA, "$.States.S", "Field 'End' is not supported"),
        (state(Type="Choice", Default="S"), SCHEMA, "$.States.S", "These fields are required: [Choices]"),
        (state(Type="Choice", Choices=[]), SCHEMA, "$.States.S.Choices", "Value cannot be empty"),
        (state(Type="Choice", Choices=[{"Variable": "$.a", "IsNull": True}]), SCHEMA, "$.States.S.Choices[0]",
         "These fields are required: [Next]"),
        (state(Type="Choice", Choices=[{"Variable": "$.a", "Next": "S"}]), SCHEMA, "$.States.S.Choices[0]",
         "exactly one comparison operator, not 0"),
        (state(Type="Choice", Choices=[{"Variable": "$.a", "IsNull": True, "IsString": True, "Next": "S"}]), SCHEMA,
         "$.States.S.Choices[0]", "exactly one comparison operator, not 2: [IsNull, IsString]"),
        (state(Type="Choice", Choices=[{"IsNull": True, "Next": "S"}]), SCHEMA, "$.States.S.Choices[0]", "required: [Variable]"),
        (state(Type="Choice", Choices=[{"Variable": "$.a", "NumericEquals": "1", "Next": "S"}]), SCHEMA,
         "$.States.S.Choices[0].NumericEquals", "Value '1' does not fit the operator NumericEquals"),
        (state(Type="Choice", Choices=[{"And": [], "Next": "S"}]), SCHEMA, "$.States.S.Choices[0].And", "must be a list of objects"),
        (state(Type="Choice", Choices=[{"Not": [], "Next": "S"}]), SCHEMA, "$.States.S.Choices[0].Not", "must be an object"),
        (state(Type="Choice", Choices=[{"And": [{"Variable": "$.a", "IsNull": 1}], "Next": "S"}]), SCHEMA,
         "$.States.S.Choices[0].And[0].IsNull", "Value 1 does not fit"),
        (state(Type="Choice", Choices=[{"Or": [{"Variable": "$.a", "IsNull": True, "Next": "S"}], "Next": "S"}]), SCHEMA,
         "$.States.S.Choices[0].Or[0]", "Field 'Next' is not supported"),
        (state(Type="Choice", QueryLanguage="JSONata", Choices=[{"Condition": "x", "Next": "S"}]), SCHEMA,
         "$.States.S.Choices[0].Condition", "Value must be a JSONata expression"),
        (state(Type="Choice", QueryLanguage="JSONata", Choices=[{"Condition": "{% 1 + %}", "Next": "S"}]), SCHEMA,
         "$.States.S.Choices[0].Condition", "The JSONata expression '1 +' is not valid"),
        (state(Type="Choice", Choices=[{"Variable": "$.a", "IsNull": True, "Next": "X"}], Default="Y"), TARGET,
         "$.States.S.Choices[0].Next", "Missing 'Next' target: X"),
        (state(Type="Task", End=True), SCHEMA, "$.States.S", "These fields are required: [Resource]"),
        (state(Type="Task", End=True, Resource="arn:aws:states:::sqs:receiveMessage"), SCHEMA, "$.States.S.Resource", "is not recognized"),
        (state(Type="Task", End=True, Resource="arn:aws:states:::sqs:sendMessage.sync"), SCHEMA, "$.States.S.Resource", "not recognized"),
        (state(Type="Task", End=True, Resource="arn:aws:states:::aws-sdk:s3:getObject.sync"), SCHEMA, "$.States.S.Resource", "recognized"),
        (state(Type="Task", End=True, Resource="arn:aws:states:::lambda:invoke", Parameters={}), SCHEMA, "$.States.S.Parameters",
         "The field 'FunctionName' is required but was missing"),
        (state(**{**INVOKE, "TimeoutSeconds": 0}), SCHEMA, "$.States.S.TimeoutSeconds", "Value 0 is out of range"),
        (state(**{**INVOKE, "TimeoutSeconds": 5, "TimeoutSecondsPath": "$.t"}), SCHEMA, "$.States.S", "Only one of the fields"),
        (state(**{**INVOKE, "TimeoutSeconds": 5, "HeartbeatSeconds": 5}), SCHEMA, "$.States.S.HeartbeatSeconds",
         "HeartbeatSeconds 5 must be smaller than TimeoutSeconds 5"),
        (state(**{**INVOKE, "Retry": {}}), SCHEMA, "$.States.S.Retry", "Expected value of type Array, not object"),
        (state(**{**INVOKE, "Retry": [1]}), SCHEMA, "$.States.S.Retry[0]", "Expected value of type Object"),
        (state(**{**INVOKE, "Retry": [{}]}), SCHEMA, "$.States.S.Retry[0]", "These fields are required: [ErrorEquals]"),
        (state(**{**INVOKE, "Retry": [{"ErrorEquals": []}]}), SCHEMA, "$.States.S.Retry[0].ErrorEquals", "Value cannot be empty"),
        (state(**{**INVOKE, "Retry": [{"ErrorEquals": ["A"], "Interval": 1}]}), SCHEMA, "$.States.S.Retry[0]", "Field 'Interval'"),
        (state(**{**INVOKE, "Retry": [{"ErrorEquals": ["A"], "IntervalSeconds": 1.0}]}), SCHEMA, "$.States.S.Retry[0].IntervalSeconds",
         "Expected value of type Integer"),
        (state(**{**INVOKE, "Retry": [{"ErrorEquals": ["A"], "BackoffRate": 0.5}]}), SCHEMA, "$.States.S.Retry[0].BackoffRate",
         "Value 0.5 is out of range"),
        (state(**{**INVOKE, "Retry": [{"ErrorEquals": ["A"], "MaxDelaySeconds": 1}]}), SCHEMA, "$.States.S.Retry[0].MaxDelaySeconds",
         "MaxDelaySeconds 1 must be greater than IntervalSeconds 1"),
        (state(**{**INVOKE, "Retry": [{"ErrorEquals": ["A"], "JitterStrategy": "HALF"}]}), SCHEMA, "$.States.S.Retry[0].JitterStrategy",
         "Value must be one of [NONE, FULL]"),
        (state(**{**INVOKE, "Retry": [{"ErrorEquals": ["States.ALL", "A"]}]}), SCHEMA, "$.States.S.Retry[0].ErrorEquals", "must appear alone"),
        (state(**{**INVOKE, "Retry": [{"ErrorEquals": ["States.ALL"]}, {"ErrorEquals": ["A"]}]}), SCHEMA,
         "$.States.S.Retry[0].ErrorEquals", "States.ALL must be the last entry"),
        (state(**{**INVOKE, "Catch": [{"ErrorEquals": ["A"]}]}), SCHEMA, "$.States.S.Catch[0]", "These fields are required: [Next]"),
        (state(**{**INVOKE, "Catch": [{"ErrorEquals": ["A"], "Next": "X"}]}), TARGET, "$.States.S.Catch[0].Next", "target: X"),
        (state(Type="Parallel", End=True), SCHEMA, "$.States.S", "These fields are required: [Branches]"),
        (state(Type="Parallel", End=True, Branches=[]), SCHEMA, "$.States.S.Branches", "Value cannot be empty"),
        (state(Type="Parallel", End=True, Branches=[1]), SCHEMA, "$.States.S.Branches[0]", "Expected value of type Object"),
        (state(Type="Parallel", End=True, Branches=[machine(S=PASS)]), "DUPLICATE_STATE_NAME", "$.States.S.Branches[0].States.S",
         "Duplicate State name: S"),
        (state(Type="Parallel", End=True, Branches=[{"StartAt": "X", "States": {"A b": PASS}}]), TARGET, "$.States.S.Branches[0].StartAt",
         "Missing 'Next' target: X"),
        (state(Type="Map", End=True), SCHEMA, "$.States.S", "These fields are required: [ItemProcessor]"),
        (state(Type="Map", End=True, ItemProcessor=machine(A=PASS), Iterator=machine(B=PASS)), SCHEMA, "$.States.S", "Only one of the"),
        (state(Type="Map", End=True, ItemProcessor={**machine(A=PASS), "ProcessorConfig": {"Mode": "INLINE"}},
               ItemBatcher={"MaxItemsPerBatch": 1}), SCHEMA, "$.States.S",
         "Field 'ItemBatcher' is only supported in DISTRIBUTED mode"),
        (state(Type="Map", End=True, ItemProcessor={**machine(A=PASS), "ProcessorConfig": {"Mode": "DISTRIBUTED"}}), SCHEMA,
         "$.States.S.ItemProcessor.ProcessorConfig", "These fields are required: [ExecutionType]"),
        (state(Type="Map", End=True, ItemProcessor={**machine(A=PASS), "ProcessorConfig": 1}), SCHEMA,
         "$.States.S.ItemProcessor.ProcessorConfig", "Expected value of type Object"),
        (state(Type="Map", End=True, ItemSelector={}, Parameters={}, ItemProcessor=machine(A=PASS)), SCHEMA, "$.States.S", "'Parameters' may"),
        (state(Type="Map", End=True, ToleratedFailurePercentage=101, ItemProcessor=machine(A=PASS)), SCHEMA,
         "$.States.S.ToleratedFailurePercentage", "Value 101 is out of range: 0 to 100"),
        (state(Type="Map", End=True, QueryLanguage="JSONata", Items=1, ItemProcessor=machine(A=PASS)), SCHEMA, "$.States.S.Items",
         "Value must be an array or a JSONata expression"),
    ],
)  # fmt: skip
def test_what_is_refused(definition, code, path, message):
    found = errors(definition)
    assert any((f.code, f.path) == (code, path) and message in f.message for f in found), found
    assert all(f.mend for f in found)


DISTRIBUTED = {**machine(A=PASS), "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}}


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        ({"ItemReader": {}}, ".ItemReader", "required: [Resource]"),
        ({"ItemReader": {"Resource": "arn:aws:states:::s3:deleteObject", "ReaderConfig": {"InputType": "JSON"}}}, ".ItemReader.Resource", "is not recognized"),
        ({"ItemReader": {"Resource": "arn:aws:states:::s3:getObject"}}, ".ItemReader.ReaderConfig", "required: [InputType]"),
        ({"ItemReader": {"Resource": "arn:aws:states:::s3:getObject", "ReaderConfig": {"InputType": "XML"}}},
         ".ItemReader.ReaderConfig.InputType", "Value must be one of [JSON, JSONL, CSV, MANIFEST, PARQUET]"),
        ({"ItemReader": {"Resource": "arn:aws:states:::s3:getObject", "ReaderConfig": {"InputType": "CSV", "CSVHeaderLocation": "GIVEN"}}},
         ".ItemReader.ReaderConfig", "The field 'CSVHeaders' is required"),
        ({"ItemBatcher": {}}, ".ItemBatcher", "required: [MaxItemsPerBatch]"),
        ({"ResultWriter": {"Resource": "arn:aws:states:::s3:getObject"}}, ".ResultWriter.Resource", "is not recognized"),
        ({"ResultWriter": {"WriterConfig": {"Transformation": "SQUASH"}}}, ".ResultWriter.WriterConfig.Transformation", "NONE, COMPACT"),
        ({"Label": "x" * 41}, ".Label", "A label has at most 40 characters"),
    ],
)  # fmt: skip
def test_what_is_refused_in_distributed_maps(fields, path, message):
    found = errors(state(Type="Map", End=True, ItemProcessor=DISTRIBUTED, **fields))
    assert [(f.path, message in f.message) for f in found] == [(f"$.States.S{path}", True)]


def test_express_allows_less():
    assert errors(state(Type="Map", End=True, ItemProcessor=DISTRIBUTED), "EXPRESS")[0].message.startswith(
        "Express state machine"
    )
    for resource, word in (
        ("arn:aws:states:::glue:startJobRun.sync", "'.sync' service integration"),
        ("arn:aws:states:::lambda:invoke.waitForTaskToken", "'.waitForTaskToken' service integration"),
        ("arn:aws:states:eu-west-1:1:activity:a", "activities"),
    ):
        definition = state(Type="Task", End=True, Resource=resource, Parameters={"JobName": "j", "FunctionName": "f"})
        assert word in errors(definition, "EXPRESS")[0].message
        assert errors(definition) == []


def test_every_problem_is_told_at_once():
    definition = machine(
        A={"Type": "Pass", "Next": "B", "Foo": 1},
        B={"Type": "Wait", "Next": "C"},
        C={"Type": "Task", "Resource": "arn:aws:nothing", "End": True},
    )
    assert [f.state for f in errors(definition)] == ["A", "B", "C"]
    assert str(errors(definition)[0]).startswith("state 'A': Field 'Foo' is not supported (at $.States.A; SCHEMA_")


def test_places_in_both_notations():
    (found,) = errors(machine(**{"Fetch it": {"Type": "Wait", "End": True, "Seconds": "x"}}))
    assert (found.path, found.location) == ("$.States['Fetch it'].Seconds", "/States/Fetch it/Seconds")


def test_a_name_that_stands_twice():
    text = '{"StartAt": "A", "States": {"A": {"Type": "Fail"}, "A": {"Type": "Succeed"}}}'
    assert errors(text)[0].code == "DUPLICATE_STATE_NAME"


def test_a_definition_may_be_text():
    assert lint(json.dumps(machine(A=PASS))) == []


@pytest.mark.parametrize(
    "resource", ["${FetchArn}", "arn:aws:lambda:${R}:${A}:function:f", "<arn>", "{{arn}}", "%ARN%", "$SOME_ARN"]
)
def test_placeholders_of_deployment_tools_are_left_alone(resource):
    assert lint(state(Type="Task", End=True, Resource=resource)) == []


SQS = {
    "Type": "Task", "Resource": "arn:aws:states:::sqs:sendMessage", "End": True,
    "Parameters": {"QueueUrl": "q", "MessageBody.$": "$"},
}  # fmt: skip
RETRY = [{"ErrorEquals": ["States.ALL"]}]


@pytest.mark.parametrize(
    ("definition", "kind", "expected"),
    [
        (state(**INVOKE), "STANDARD", []),
        (state(**SQS), "STANDARD", []),
        (state(**SQS, Retry=RETRY), "STANDARD", [("NOT_IDEMPOTENT", "$.States.S")]),
        (state(**SQS), "EXPRESS", [("NOT_IDEMPOTENT", "$.States.S")]),
        (state(**{**SQS, "Parameters": {**SQS["Parameters"], "MessageDeduplicationId.$": "$.id"}}, Retry=RETRY), "STANDARD", []),
        (state(**{**SQS, "QueryLanguage": "JSONata", "Arguments": "{% $states.input %}", "Parameters": None}), "EXPRESS", None),
        (state(Type="Task", Resource="fetch", End=True), "STANDARD", [("NOT_AN_ARN", "$.States.S.Resource")]),
        (state(Type="Task", Resource="arn:aws:swf:us-east-1:1:task:X", End=True), "STANDARD", [("UNKNOWN_RESOURCE", "$.States.S.Resource")]),
        (state(Type="Task", Resource={"Fn::GetAtt": ["F", "Arn"]}, End=True), "STANDARD", []),
        (state(Type="Map", End=True, Label="l", ItemProcessor=machine(A=PASS)), "STANDARD",
         [("NO_PROCESSOR_CONFIG", "$.States.S.ItemProcessor")]),
        (machine(A={**INVOKE, "Catch": [{"ErrorEquals": ["States.Mine"], "Next": "B"}]}, B={"Type": "Fail", "Error": "States.Mine"}),
         "STANDARD", []),
        (state(**{**INVOKE, "Retry": [{"ErrorEquals": ["A", "B"]}, {"ErrorEquals": ["B"]}]}), "STANDARD",
         [("UNREACHABLE_HANDLER", "$.States.S.Retry[1]")]),
        (state(**{**INVOKE, "Retry": [{"ErrorEquals": ["States.Runtime"]}]}), "STANDARD",
         [("UNREACHABLE_HANDLER", "$.States.S.Retry[0].ErrorEquals")]),
        (state(**{**INVOKE, "Retry": [{"ErrorEquals": ["States.Nothing"]}]}), "STANDARD",
         [("UNKNOWN_ERROR", "$.States.S.Retry[0].ErrorEquals")]),
        (state(Type="Task", End=True, Resource="arn:aws:states:eu-west-1:1:activity:a"), "STANDARD", [("NO_TIMEOUT", "$.States.S")]),
        (state(**{**INVOKE, "Resource": "arn:aws:states:::lambda:invoke.waitForTaskToken", "TimeoutSeconds": 9}), "STANDARD",
         [("NO_TOKEN", "$.States.S")]),
        (state(**{**INVOKE, "Resource": "arn:aws:states:::lambda:invoke.waitForTaskToken", "TimeoutSeconds": 9,
                  "Parameters": {"FunctionName": "f", "Payload": {"t.$": "$$.Task.Token"}}}), "STANDARD", []),
        (state(Type="Pass", Result="x" * 300_000, End=True), "STANDARD", [("PAYLOAD_LIMIT", "$.States.S.Result")]),
        (state(Type="Map", End=True, ItemProcessor=DISTRIBUTED, ItemReader={
            "Resource": "arn:aws:states:::s3:getObject", "ReaderConfig": {"InputType": "JSON"}}), "STANDARD",
         [("PAYLOAD_LIMIT", "$.States.S")]),
        (machine(C={"Type": "Choice", "Choices": [{"Variable": "$.a", "IsNull": True, "Next": "A"}]}, A=PASS), "STANDARD",
         [("NO_DEFAULT", "$.States.C")]),
        (machine(C={"Type": "Choice", "Choices": [{"Variable": "$.a", "IsNull": True, "Next": "A"}], "Default": "L"}, A=PASS,
                 L={"Type": "Pass", "Next": "M"}, M={"Type": "Pass", "Next": "L"}), "STANDARD",
         [("NO_EXIT", "$.States.L"), ("NO_EXIT", "$.States.M")]),
        (state(**{**INVOKE, "TimeoutSeconds": 301}), "EXPRESS", [("EXPRESS_BUDGET", "$")]),
        (state(**{**INVOKE, "TimeoutSeconds": 200, "Retry": [{"ErrorEquals": ["States.ALL"], "MaxAttempts": 1}]}), "EXPRESS",
         [("EXPRESS_BUDGET", "$")]),
        (state(**{**INVOKE, "TimeoutSeconds": 60, "Retry": [{"ErrorEquals": ["States.ALL"], "MaxAttempts": 2}]}), "EXPRESS", []),
        (machine(W={"Type": "Wait", "Seconds": 200, "Next": "X"}, X={"Type": "Wait", "Seconds": 200, "End": True}), "EXPRESS",
         [("EXPRESS_BUDGET", "$")]),
    ],
)  # fmt: skip
def test_warnings(definition, kind, expected):
    if expected is None:
        definition["States"]["S"].pop("Parameters")
        expected = []
    assert warnings(definition, kind) == expected


def test_a_broken_definition_starts_nothing(store, clock):
    runner = LocalRunner(store.db, {}, clock)
    with pytest.raises(
        InvalidInputError, match=r"workflow 'w': state 'S': .*RFC3339.*\(at \$\.States\.S\.Timestamp; SCHEMA"
    ):
        runner.start("w", state(Type="Wait", Timestamp="now", End=True), {})
    assert runner.running() == []
