"""States and their data: what each type and field does, in JSONPath and in JSONata."""

from __future__ import annotations

import itertools
import json

import pytest

from headgate.errors import InvalidInputError, StageFailedError
from headgate.workflow import LocalRunner, Mocks, TaskFailure


@pytest.fixture
def run(store, clock):
    """Run states, the first being named first: `run({"A": {...}}, input)` -> the execution, failed or not."""
    numbers = iter(range(1_000))

    def start(states, data=None, functions=None, top=None, **options):
        definition = {"StartAt": next(iter(states)), "States": states, **(top or {})}
        name = f"e{next(numbers)}"
        runner = LocalRunner(store.db, functions or {}, clock, **options)
        try:
            return runner.start("machine", definition, {} if data is None else data, name)
        except StageFailedError:
            return runner.describe(name)

    return start


def end(kind, **fields):
    return {"Type": kind, **fields, **({} if kind in ("Succeed", "Fail", "Choice") else {"End": True})}


def kinds(execution):
    return [event["type"] for event in execution.history]


# --- input and output


@pytest.mark.parametrize(
    ("fields", "output"),
    [
        ({}, {"a": {"b": 1}, "c": [1, 2]}),
        ({"InputPath": "$.a"}, {"b": 1}),
        ({"InputPath": None}, {}),
        ({"OutputPath": "$.a.b"}, 1),
        ({"OutputPath": None}, {}),
        ({"Result": {"x.$": "$.literal"}}, {"x.$": "$.literal"}),
        ({"Result": 1, "ResultPath": "$.a.r"}, {"a": {"b": 1, "r": 1}, "c": [1, 2]}),
        ({"Result": 1, "ResultPath": None}, {"a": {"b": 1}, "c": [1, 2]}),
        ({"Parameters": {"k": 1, "p.$": "$.a.b", "q": [{"r.$": "$.c[1]"}]}}, {"k": 1, "p": 1, "q": [{"r": 2}]}),
        ({"InputPath": "$.a", "Parameters": {"p.$": "$.b"}, "ResultPath": "$.r"}, {"a": {"b": 1}, "c": [1, 2], "r": {"p": 1}}),
        ({"Parameters": {"n.$": "States.ArrayLength($.c)", "who.$": "$$.State.Name"}}, {"n": 2, "who": "A"}),
        ({"Parameters": {"all.$": "$.c[*]", "none.$": "$.zzz[*].y"}}, {"all": [1, 2], "none": []}),
        ({"Parameters": "constant"}, "constant"),
        ({"InputPath": "$$.Execution.Input.c"}, [1, 2]),
    ],
)  # fmt: skip
def test_paths_of_a_pass_state(run, fields, output):
    assert run({"A": end("Pass", **fields)}, {"a": {"b": 1}, "c": [1, 2]}).output == output


@pytest.mark.parametrize(
    ("fields", "error", "cause"),
    [
        ({"InputPath": "$.no"}, "States.Runtime", "Invalid path '$.no' : No results for path: $['no']"),
        ({"OutputPath": "$.no.x"}, "States.Runtime", "Invalid path '$.no.x' : Missing property in path $['no']"),
        ({"Parameters": {"x.$": "$.no"}}, "States.Runtime",
         "The JSONPath '$.no' specified for the field 'x.$' could not be found in the input '{\"a\":\"t\"}'"),
        ({"Parameters": {"x.$": "$undefined"}}, "States.Runtime", "The JSONPath '$undefined' specified for the field 'x.$'"),
        ({"Parameters": {"x.$": "States.ArrayGetItem(States.Array(), 0)"}}, "States.IntrinsicFailure",
         "The function 'States.ArrayGetItem(States.Array(), 0)' had the following error: the index 0"),
        ({"ResultPath": "$.a.b"}, "States.ResultPathMatchFailure", 'Unable to apply step "b" to input {"a":"t"}'),
    ],
)  # fmt: skip
def test_why_a_state_cannot_work_with_its_data(run, fields, error, cause):
    execution = run({"A": end("Pass", **fields)}, {"a": "t"})
    assert (execution.status, execution.error) == ("FAILED", error)
    assert execution.cause.startswith("An error occurred while executing the state 'A' (entered at the event id #2). ")
    assert cause in execution.cause


def test_the_context_object(run):
    found = run({"A": end("Pass", Parameters={"c.$": "$$"})}, {"x": 1}).output["c"]
    assert found["Execution"]["Name"].startswith("e")
    assert found["Execution"]["Id"].endswith(f":execution:machine:{found['Execution']['Name']}")
    assert found["Execution"]["Input"] == {"x": 1}
    assert found["Execution"]["StartTime"] == found["State"]["EnteredTime"]
    assert found["StateMachine"]["Name"] == "machine"


# --- variables


def test_variables_and_their_scopes(run):
    inner = {"StartAt": "I", "States": {"I": {"Type": "Pass", "Assign": {"own.$": "$.n"}, "Next": "J"},
                                        "J": end("Pass", Parameters={"outer.$": "$outer", "own.$": "$own"})}}  # fmt: skip
    states = {
        "A": {"Type": "Pass", "Result": {"n": 1}, "Assign": {"outer.$": "$.n", "both": [1]}, "Next": "P"},
        "P": {"Type": "Parallel", "Branches": [inner], "ResultPath": "$.p", "Next": "B"},
        "B": end("Pass", Parameters={"p.$": "$.p", "outer.$": "$outer", "item.$": "$both[0]"}, Assign={"outer": 2}),
    }
    execution = run(states)
    assert execution.output == {"p": [{"outer": 1, "own": 1}], "outer": 1, "item": 1}
    exited = [event["stateExitedEventDetails"] for event in execution.history if event["type"].endswith("Exited")]
    assert exited[0]["assignedVariables"] == {"outer": "1", "both": "[1]"}


def test_a_distributed_map_does_not_see_variables(run):
    processor = {
        "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"},
        "StartAt": "I", "States": {"I": end("Pass", Parameters={"x.$": "$outer"})},
    }  # fmt: skip
    states = {
        "A": {"Type": "Pass", "Assign": {"outer": 1}, "Result": [1], "Next": "M"},
        "M": end("Map", ItemProcessor=processor),
    }
    execution = run(states)
    assert (execution.status, execution.error) == ("FAILED", "States.ExceedToleratedFailureThreshold")


# --- choice


@pytest.mark.parametrize(
    ("rule", "data", "holds"),
    [
        ({"Variable": "$.v", "StringEquals": "a"}, "a", True),
        ({"Variable": "$.v", "StringLessThan": "b"}, "a", True),
        ({"Variable": "$.v", "StringGreaterThan": "a"}, "\U0001f600", True),
        ({"Variable": "$.v", "StringGreaterThanEquals": "b"}, "a", False),
        ({"Variable": "$.v", "StringLessThanEquals": "a"}, 1, False),
        ({"Variable": "$.v", "StringMatches": "log-*.txt"}, "log-1.txt", True),
        ({"Variable": "$.v", "StringMatches": "log-*.txt"}, "log-1.txtx", False),
        ({"Variable": "$.v", "StringMatches": "a\\*b*"}, "a*bc", True),
        ({"Variable": "$.v", "StringMatches": "a\\\\*"}, "a\\x", True),
        ({"Variable": "$.v", "StringMatches": "a\\*"}, "ab", False),
        ({"Variable": "$.v", "NumericEquals": 1}, 1.0, True),
        ({"Variable": "$.v", "NumericEquals": 1}, True, False),
        ({"Variable": "$.v", "NumericLessThan": 2}, "1", False),
        ({"Variable": "$.v", "NumericGreaterThanEquals": -1.5}, -1.5, True),
        ({"Variable": "$.v", "BooleanEquals": False}, False, True),
        ({"Variable": "$.v", "BooleanEquals": False}, 0, False),
        ({"Variable": "$.v", "TimestampEquals": "2020-01-01T00:00:00Z"}, "2020-01-01T01:00:00+01:00", True),
        ({"Variable": "$.v", "TimestampLessThan": "2020-01-01T00:00:00.5Z"}, "2020-01-01T00:00:00.123456789Z", True),
        ({"Variable": "$.v", "TimestampGreaterThan": "2020-01-01T00:00:00Z"}, "2020-01-02", False),
        ({"Variable": "$.v", "NumericEqualsPath": "$.w"}, 5, True),
        ({"Variable": "$.v", "StringEqualsPath": "$.w"}, 5, False),
        ({"Variable": "$.v", "IsNull": True}, None, True),
        ({"Variable": "$.v", "IsNull": False}, None, False),
        ({"Variable": "$.v", "IsNumeric": True}, False, False),
        ({"Variable": "$.v", "IsString": True}, "", True),
        ({"Variable": "$.v", "IsBoolean": True}, True, True),
        ({"Variable": "$.v", "IsTimestamp": True}, "2020-01-01T00:00:00Z", True),
        ({"Variable": "$.v", "IsTimestamp": True}, "2020-01-01T00:00:00", False),
        ({"Variable": "$.v", "IsPresent": True}, None, True),
        ({"Variable": "$.zzz", "IsPresent": False}, 1, True),
        ({"Variable": "$.zzz.y", "IsPresent": True}, 1, False),
        ({"Not": {"Variable": "$.v", "NumericEquals": 5}}, 5, False),
        ({"And": [{"Variable": "$.v", "IsNumeric": True}, {"Variable": "$.v", "NumericEquals": 5}]}, 5, True),
        ({"And": [{"Variable": "$.v", "IsString": True}, {"Variable": "$.zzz", "NumericEquals": 5}]}, 5, False),
        ({"Or": [{"Variable": "$.v", "IsNumeric": True}, {"Variable": "$.zzz", "NumericEquals": 5}]}, 5, True),
        ({"Or": [{"Not": {"Variable": "$.v", "IsNumeric": True}}]}, 5, False),
    ],
)  # fmt: skip
def test_choice_rules(run, rule, data, holds):
    states = {
        "C": {"Type": "Choice", "Choices": [{**rule, "Next": "Yes"}], "Default": "No"},
        "Yes": end("Pass", Result=True),
        "No": end("Pass", Result=False),
    }
    assert run(states, {"v": data, "w": 5}).output is holds


def test_a_choice_needs_what_it_looks_at(run):
    states = {
        "C": {"Type": "Choice", "Choices": [{"Variable": "$.no", "IsNull": True, "Next": "S"}]},
        "S": end("Succeed"),
    }
    execution = run(states)
    assert execution.error == "States.Runtime"
    assert execution.cause.endswith(
        "Invalid path '$.no': The choice state's condition path references an invalid value."
    )
    states["C"]["Choices"][0] = {"Variable": "$.v", "NumericEqualsPath": "$.no", "Next": "S"}
    assert run(states, {"v": 1}).error == "States.Runtime"


def test_no_rule_matches(run):
    states = {
        "C": {"Type": "Choice", "Choices": [{"Variable": "$.v", "IsNull": True, "Next": "S"}]},
        "S": end("Succeed"),
    }
    execution = run(states, {"v": 1})
    assert execution.error == "States.NoChoiceMatched"
    assert "does not point to a next state" in execution.cause


def test_rules_assign_variables(run):
    states = {
        "C": {
            "Type": "Choice", "Assign": {"from": "default"}, "Default": "S", "OutputPath": "$.v",
            "Choices": [{"Variable": "$.v", "IsNumeric": True, "Assign": {"from": "rule", "v.$": "$.v"}, "Next": "S"}],
        },
        "S": end("Pass", Parameters={"from.$": "$from"}),
    }  # fmt: skip
    assert run(states, {"v": 1}).output == {"from": "rule"}
    assert run(states, {"v": "x"}).output == {"from": "default"}


# --- wait, fail, succeed


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({"Seconds": 90}, 90),
        ({"SecondsPath": "$.n"}, 5),
        ({"SecondsPath": "$.text"}, 6),
        ({"Timestamp": "2026-05-28T20:27:00Z"}, 20),
        ({"TimestampPath": "$.at"}, 3600),
        ({"Timestamp": "2020-01-01T00:00:00Z"}, 0),
        ({"Seconds": 0}, 0),
    ],
)
def test_waits(run, clock, fields, seconds):
    before = clock.now_us()
    data = {"n": 5, "text": "6", "at": "2026-05-28T23:26:40+02:00"}
    assert run({"W": end("Wait", **fields)}, data).output == data
    assert clock.now_us() - before == seconds * 1_000_000


@pytest.mark.parametrize(
    ("fields", "data", "cause"),
    [
        ({"SecondsPath": "$.n"}, {}, "The SecondsPath parameter does not reference an input value: $.n"),
        ({"SecondsPath": "$.n"}, {"n": -1}, "The SecondsPath parameter references a negative value: $.n == -1"),
        (
            {"SecondsPath": "$.n"},
            {"n": "soon"},
            "The SecondsPath parameter cannot be parsed as a long value: $.n == soon",
        ),
        ({"SecondsPath": "$.n"}, {"n": True}, "cannot be parsed as a long value: $.n == true"),
        (
            {"TimestampPath": "$.t"},
            {"t": "noon"},
            "The TimestampPath parameter cannot be parsed as an ISO-8601 extended offset",
        ),
        ({"TimestampPath": "$.t"}, {}, "The TimestampPath parameter does not reference an input value: $.t"),
    ],
)
def test_waits_that_cannot_be(run, fields, data, cause):
    execution = run({"W": end("Wait", **fields)}, data)
    assert execution.error == "States.Runtime"
    assert cause in execution.cause


def test_failing(run):
    assert run({"F": end("Fail", Error="E", Cause="C")}).cause == "C"
    execution = run(
        {"F": end("Fail", ErrorPath="$.e", CausePath="States.Format('{} of {}', $.n, $$.State.Name)")},
        {"e": "E", "n": 1},
    )
    assert (execution.error, execution.cause) == ("E", "1 of F")
    assert run({"F": end("Fail", ErrorPath="$.n")}, {"n": 1}).error == "States.Runtime"
    assert run({"S": end("Succeed", InputPath="$.a", OutputPath="$.b")}, {"a": {"b": 2}}).output == 2


# --- tasks


def boom(payload):
    raise ValueError("no")


CATCH_ALL = [{"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "Caught"}]


def test_a_task_from_input_to_output(run):
    state = end(
        "Task", Resource="arn:aws:states:::lambda:invoke", InputPath="$.in",
        Parameters={"FunctionName": "arn:aws:lambda:eu-west-1:1:function:add:live", "Payload": {"n.$": "$.n"}},
        ResultSelector={"sum.$": "$.Payload.sum", "code.$": "$.StatusCode"}, ResultPath="$.out", OutputPath="$.out",
        Assign={"sum.$": "$.sum"},
    )  # fmt: skip
    execution = run({"T": state}, {"in": {"n": 4}}, {"add": lambda p: {"sum": p["n"] + 1}})
    assert execution.output == {"sum": 5, "code": 200}
    exited = execution.history[-2]["stateExitedEventDetails"]
    assert exited["assignedVariables"] == {"sum": "5"}
    scheduled = execution.history[2]["taskScheduledEventDetails"]
    assert (scheduled["resourceType"], scheduled["resource"]) == ("lambda", "invoke")


def test_a_function_is_called_by_its_own_arn(run):
    arn = "arn:aws:lambda:eu-west-1:123456789012:function:add"
    execution = run({"T": end("Task", Resource=arn)}, 4, {"add": lambda n: n + 1})
    assert execution.output == 5
    assert kinds(execution)[2:5] == ["LambdaFunctionScheduled", "LambdaFunctionStarted", "LambdaFunctionSucceeded"]


def test_an_error_is_retried_by_the_first_retrier_that_names_it_then_caught(run, clock):
    retry = [
        {"ErrorEquals": ["KeyError"], "MaxAttempts": 9},
        {
            "ErrorEquals": ["ValueError"],
            "IntervalSeconds": 2,
            "MaxAttempts": 4,
            "BackoffRate": 3,
            "MaxDelaySeconds": 10,
        },
        {"ErrorEquals": ["States.ALL"], "MaxAttempts": 9},
    ]
    calls = []

    def fail(payload):
        calls.append(clock.now_us())
        raise ValueError("no")

    states = {"T": end("Task", Resource="f", Retry=retry, Catch=CATCH_ALL), "Caught": end("Succeed")}
    execution = run(states, {"x": 1}, {"f": fail})
    assert [(b - a) // 1_000_000 for a, b in itertools.pairwise(calls)] == [2, 6, 10, 10]
    assert execution.output["x"] == 1
    assert execution.output["error"]["Error"] == "ValueError"
    assert json.loads(execution.output["error"]["Cause"])["errorMessage"] == "no"


def test_full_jitter_waits_at_most_the_delay(run, clock):
    retry = [
        {
            "ErrorEquals": ["States.ALL"],
            "IntervalSeconds": 100,
            "MaxAttempts": 3,
            "BackoffRate": 1,
            "JitterStrategy": "FULL",
        }
    ]
    before = clock.now_us()
    run({"T": end("Task", Resource="f", Retry=retry)}, {}, {"f": boom})
    assert 0 < clock.now_us() - before < 300_000_000


@pytest.mark.parametrize(
    ("names", "error", "caught"),
    [
        (["States.ALL"], "Any", True),
        (["States.TaskFailed"], "Any", True),
        (["States.TaskFailed"], "States.Timeout", False),
        (["States.Timeout"], "States.Timeout", True),
        (["Other"], "Any", False),
        (["States.ALL"], "States.Runtime", False),
        (["States.Runtime"], "States.Runtime", False),
        (["States.ALL"], "States.DataLimitExceeded", False),
        (["States.DataLimitExceeded"], "States.DataLimitExceeded", True),
    ],
)
def test_which_errors_are_caught(run, names, error, caught):
    def fail(payload):
        raise TaskFailure(error, "why")

    catch = [{"ErrorEquals": names, "Next": "Caught"}]
    execution = run(
        {"T": end("Task", Resource="f", Catch=catch), "Caught": end("Pass", Result="caught")}, {}, {"f": fail}
    )
    assert (execution.output == "caught") is caught
    assert execution.error == (None if caught else error)


def test_a_catcher_may_fail_itself(run):
    catch = [{"ErrorEquals": ["States.ALL"], "ResultPath": "$.a.b", "Next": "Caught"}]
    execution = run({"T": end("Task", Resource="f", Catch=catch), "Caught": end("Succeed")}, {"a": 1}, {"f": boom})
    assert execution.error == "States.ResultPathMatchFailure"


def test_timeouts_from_paths(run):
    for name in ("TimeoutSeconds", "HeartbeatSeconds"):
        state = end("Task", Resource="f", **{f"{name}Path": "$.t"})
        assert run({"T": state}, {"t": 5}, {"f": lambda p: 1}).output == 1
        assert "No results for path: $['t']" in run({"T": state}, {}, {"f": lambda p: 1}).cause
        assert "references a negative value" in run({"T": state}, {"t": 0}, {"f": lambda p: 1}).cause
        assert "cannot be parsed" in run({"T": state}, {"t": "x"}, {"f": lambda p: 1}).cause


def test_mocks_by_state_attempt_and_iteration(run):
    retry = [{"ErrorEquals": ["Slow"], "MaxAttempts": 2}]
    inner = {
        "StartAt": "T",
        "States": {"T": end("Task", Resource="arn:aws:states:::aws-sdk:ec2:describeInstances", Retry=retry)},
    }
    mocks = Mocks({"T": [
        {"result": "zero", "iteration": 0},
        {"error": "Slow", "cause": "x", "iteration": 1}, {"result": "one", "iteration": 1},
        {"result": "other"},
    ]})  # fmt: skip
    execution = run({"M": end("Map", MaxConcurrency=1, ItemProcessor=inner)}, [0, 1], mocks=mocks)
    assert execution.output == ["zero", "one"]
    timed_out = run({"T": end("Task", Resource="f")}, {}, mocks=Mocks({"T": [{"timed_out": True}]}))
    assert (timed_out.error, kinds(timed_out)[-2]) == ("States.Timeout", "LambdaFunctionTimedOut")


@pytest.mark.parametrize(
    ("mocks", "message"),
    [
        ({"T": []}, "expected a list of outcomes that is not empty"),
        ({"T": [{}]}, "mocks of state 'T', entry 0: expected result, error or timed_out"),
        ({"T": [{"result": 1, "reslt": 2}]}, "not reslt"),
    ],
)
def test_mocks_that_are_wrong(mocks, message):
    with pytest.raises(InvalidInputError, match=message):
        Mocks(mocks)


def test_what_is_neither_mocked_nor_there_fails_when_it_is_reached(run):
    state = end("Task", Resource="arn:aws:states:::aws-sdk:ec2:describeInstances")
    execution = run({"T": state}, {}, mocks=Mocks({"Other": [{"result": 1}]}))
    assert execution.error == "States.Runtime"
    assert "does not support 'arn:aws:states:::aws-sdk:ec2:describeInstances'" in execution.cause


# --- JSONata


def jsonata(kind, **fields):
    return end(kind, QueryLanguage="JSONata", **fields)


@pytest.mark.parametrize(
    ("expression", "output"),
    [
        ("$states.input.n + 1", 3),
        ("$states.input.items[price > 1].name", "b"),
        ("$states.input.items[price > 1].name[]", ["b"]),
        ("$states.input.nothing = null", True),
        ("$states.input.nothing", None),
        ("{'a': null, 'b': [null]}", {"a": None, "b": [None]}),
        ("$states.context.State.Name", "A"),
        ("$partition([1,2,3], 2)", [[1, 2], [3]]),
        ("$range(1, 7, 3)", [1, 4, 7]),
        ("$hash('x', 'MD5')", "9dd4e461268c8034f5c8564e155c67a6"),
        ("$parse('{\"a\": null}')", {"a": None}),
        ("$random(5) = $random(5)", True),
        ("$length($uuid())", 36),
        ("$map([1,2], function($v) { $v * 2 })", [2, 4]),
        ("$exists($states.input.zzz)", False),
        ("$sum($states.input.items.price)", 3),
        ("$x + 1", 43),
    ],
)
def test_jsonata_values(run, expression, output):
    states = {
        "S": {"Type": "Pass", "Assign": {"x": 42}, "Next": "A"},
        "A": jsonata("Pass", Output=f"{{% {expression} %}}"),
    }
    data = {"n": 2, "nothing": None, "items": [{"name": "a", "price": 1}, {"name": "b", "price": 2}]}
    assert run(states, data).output == output


@pytest.mark.parametrize(
    ("expression", "cause"),
    [
        ("$zzz", "The JSONata expression '$zzz' specified for the field 'Output/o' returned nothing (undefined)."),
        ("$states.input.zzz", "returned nothing (undefined)."),
        ("'a' + 1", "threw an error during evaluation. T2001: "),
        ("$nothing(1)", "threw an error during evaluation. T1006: "),
        ("$uppercase", "Expected a JSON value, but was 'function'"),
        ("$partition([1], 0)", "must be a positive number"),
        ("$hash('x', 'CRC')", "the algorithm must be one of"),
        ("$parse('{')", "threw an error during evaluation"),
        ("$eval('1')", "threw an error during evaluation"),
        ("1/0", "threw an error during evaluation"),
    ],
)
def test_jsonata_errors(run, expression, cause):
    execution = run({"A": jsonata("Pass", Output={"o": f"{{% {expression} %}}"})})
    assert execution.error == "States.QueryEvaluationError"
    assert cause in execution.cause
    assert kinds(execution)[-2] == "EvaluationFailed"
    details = execution.history[-2]["evaluationFailedEventDetails"]
    assert (details["location"], details["state"]) == ("Output/o", "A")


def test_a_task_in_jsonata(run):
    state = jsonata(
        "Task", Resource="arn:aws:states:::lambda:invoke",
        Arguments={"FunctionName": "f", "Payload": {"n": "{% $states.input.n %}", "plain": "$.n", " {%": " {% 1 %} "}},
        Output="{% $states.result.Payload %}", Assign={"got": "{% $states.result.StatusCode %}"},
        TimeoutSeconds="{% $states.input.n * 10 %}",
    )  # fmt: skip
    execution = run({"A": state}, {"n": 2}, {"f": lambda p: p})
    assert execution.output == {"n": 2, "plain": "$.n", " {%": " {% 1 %} "}
    assert execution.history[2]["taskScheduledEventDetails"]["timeoutInSeconds"] == 20


def test_evaluation_errors_can_be_caught_and_tell_what_went_wrong(run):
    catch = [{"ErrorEquals": ["States.QueryEvaluationError"], "Output": "{% $states.errorOutput.Error %}",
              "Assign": {"c": "{% $states.errorOutput.Cause %}"}, "Next": "B"}]  # fmt: skip
    states = {
        "A": jsonata("Task", Resource="f", Arguments="{% $zzz %}", Catch=catch),
        "B": jsonata("Pass", Output="{% [$states.input, $contains($c, 'undefined')] %}"),
    }
    assert run(states, {}, {"f": boom}).output == ["States.QueryEvaluationError", True]


def test_choice_wait_and_fail_in_jsonata(run, clock):
    states = {
        "C": jsonata("Choice", Choices=[
            {"Condition": "{% $states.input.n > 5 %}", "Next": "F", "Assign": {"big": True}, "Output": "{% $states.input.n %}"},
        ], Default="W"),
        "W": jsonata("Wait", Seconds="{% $states.input.n * 2 %}", Output={"waited": True}, Assign={"n": "{% $states.input.n %}"}),
        "F": jsonata("Fail", Error="{% 'E' & $string($states.input) %}", Cause="{% $big ? 'big' : 'small' %}"),
    }  # fmt: skip
    before = clock.now_us()
    assert run(states, {"n": 3}).output == {"waited": True}
    assert clock.now_us() - before == 6_000_000
    execution = run(states, {"n": 9})
    assert (execution.error, execution.cause) == ("E9", "big")
    states["C"]["Choices"][0]["Condition"] = "{% 1 %}"
    assert "Expected 'boolean', but was 'number' for value: 1" in run(states, {"n": 1}).cause


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        (jsonata("Wait", Seconds="{% -1 %}"), "The Seconds field must be a whole number that is not negative, not -1"),
        (jsonata("Wait", Seconds="{% 'x' %}"), "Expected 'number', but was 'string'"),
        (jsonata("Wait", Timestamp="{% 'noon' %}"), "The Timestamp field cannot be parsed as an ISO-8601"),
        (jsonata("Fail", Error="{% 1 %}"), "Expected 'string', but was 'number'"),
        (
            jsonata("Task", Resource="f", TimeoutSeconds="{% 0 %}"),
            "The TimeoutSeconds field must be a whole number of at least 1",
        ),
        (jsonata("Task", Resource="f", TimeoutSeconds="{% 'x' %}"), "Expected 'number', but was 'string'"),
    ],
)
def test_fields_that_evaluate_to_something_else(run, state, cause):
    execution = run({"A": state}, {}, {"f": boom})
    assert execution.error == "States.QueryEvaluationError"
    assert cause in execution.cause


def test_jsonata_for_the_whole_machine(run):
    states = {"A": {"Type": "Pass", "Output": {"n": "{% 1 + 1 %}"}, "End": True}}
    assert run(states, {}, top={"QueryLanguage": "JSONata"}).output == {"n": 2}
