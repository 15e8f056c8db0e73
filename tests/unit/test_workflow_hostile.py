"""Data that no state may hand on, and expressions that never end: the state fails, and with it nothing but its
execution."""

from __future__ import annotations

import contextlib
import json
import math
import time

import pytest

from headgate.errors import InvalidInputError, StageFailedError, TransientError
from headgate.workflow import LocalRunner, TaskFailure, _jsonata
from headgate.workflow._choice import _matches, _pattern
from headgate.workflow._execution import ExecutionAlreadyExistsError
from headgate.workflow._failure import StateError, evaluating
from headgate.workflow._intrinsics import IntrinsicError, IntrinsicSyntaxError, parse_intrinsic
from headgate.workflow._json import describe_not_json, load_json, whole_text
from headgate.workflow._jsonata import Expression
from headgate.workflow._messages import parse_json
from headgate.workflow._parse import parse_definition
from headgate.workflow._paths import PathNotFoundError, PathSyntaxError, find, parse_path
from headgate.workflow._program import Retrier
from headgate.workflow._rules import retry_delay_us
from headgate.workflow._states import as_whole

HALF = "\ud800"


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"a": [HALF]}, "$.a[0] holds half a surrogate pair"),
        ({"é" + HALF: 1}, "$ has a key that holds half a surrogate pair"),
        (10**5000, "a number of more than 4,000 digits"),
        (nested(3000), "nested more than 500 deep"),
        (math.inf, "which JSON has no number for"),
    ],
    ids=["text", "key", "digits", "depth", "infinity"],
)
def test_what_cannot_be_stored_is_no_json(value, reason):
    assert reason in describe_not_json(value)


def test_what_can_be_stored_is_json():
    value = {"é😀": [nested(400), 10**4000, -1.5e308, None, True, "\u2028"]}
    assert describe_not_json(value) is None
    assert load_json(json.dumps(value)) == value


@pytest.mark.parametrize(
    "text", ["NaN", "-Infinity", "[1e999]", '"\\ud800"', "[" * 5000 + "]" * 5000, "9" * 5000], ids=range(6)
)
def test_a_text_that_only_python_takes_for_json_is_refused(text):
    with pytest.raises(ValueError, match=r".") as caught:
        load_json(text)
    assert not isinstance(caught.value, json.JSONDecodeError)
    with pytest.raises(InvalidInputError, match="the body is not JSON"):
        parse_json(text, "the body")
    with pytest.raises(IntrinsicError, match="is not valid JSON"):
        parse_intrinsic("States.StringToJson($)").evaluate(lambda path: text)
    definition = '{"StartAt": "A", "States": {"A": {"Type": "Pass", "End": true, "Result": ' + text + "}}}"
    (finding,) = parse_definition(definition, "STANDARD").errors
    assert finding.code == "INVALID_JSON_DESCRIPTION"


@pytest.mark.parametrize("call", ["States.MathAdd(1e999, 1)", "States.ArrayGetItem($.a, 1e999)"])
def test_a_number_that_is_none_is_no_argument(call):
    with pytest.raises(IntrinsicSyntaxError, match="is no argument"):
        parse_intrinsic(call)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("$.equal.stddev()", pytest.approx(0.0, abs=1e-9)),  # rounding leaves the variance a little below 0
        ("$.huge.sum()", None),
        ("$.huge.min()", None),
        ("$.large.avg()", None),  # the sum is beyond the largest number
        ("$.texts.concat('x', 1)", "abx1"),  # texts of the list only
        ("$.whole.index(1)", 2),
        ("$.whole.index(-3)", 1),
        ("$.whole.index(3)", None),
        ("$.whole.index($.equal)", None),
    ],
)
def test_functions_of_paths_have_a_value_or_none(path, found):
    data = {
        "equal": [0.1, 0.1, 0.1], "huge": [10**400, 1], "large": [1e308, 1e308], "texts": ["a", True, 1, "b"],
        "whole": [1, 2, 3],
    }  # fmt: skip
    if found is None:
        with pytest.raises(PathNotFoundError):
            find(parse_path(path), data)
    else:
        assert find(parse_path(path), data) == found


@pytest.mark.parametrize("path", ["$.a.index()", "$.a.index('x')", "$.a.index(1, 2)"])
def test_index_takes_one_number(path):
    with pytest.raises(PathSyntaxError, match="takes one whole number"):
        parse_path(path)


@pytest.mark.parametrize(
    ("value", "number"),
    [("7", 7), ("-7", -7), ("+7", 7), ("1_0", None), (" 7", None), ("7.0", None), ("9" * 5000, None), ("", None)],
)
def test_a_text_is_a_whole_number_as_java_reads_it(value, number):
    assert as_whole(value) == number


def test_a_back_off_beyond_all_numbers_is_the_longest():
    assert retry_delay_us(Retrier(("E",), 1, 3, 99_999_999, 5, False), 900) == 5_000_000
    assert retry_delay_us(Retrier(("E",), 1, 3, 10, None, False), 900) == 365 * 86_400 * 1_000_000


@pytest.mark.parametrize(
    ("pattern", "text", "is_match"),
    [
        ("*", "", True),
        ("a*c", "abc", True),
        ("a*c", "ac\n", False),
        ("a*a", "a", False),
        ("*b*", "abc", True),
        ("a**c", "abbc", True),
        ("\\**", "*x", True),
        ("\\**", "x*", False),
        ("a\\\\*", "a\\b", True),
        ("a*bc*bc", "abcbc", True),
        ("a*bc*bc", "abc", False),
    ],
)
def test_stars_match_any_text(pattern, text, is_match):
    assert _matches(_pattern(pattern), text) is is_match


def test_many_stars_do_not_cost_more_than_one():
    began = time.process_time()
    assert not _matches(_pattern("*a" * 30 + "b"), "a" * 100_000)
    assert time.process_time() - began < 1  # a regular expression takes longer than the universe has


def test_an_expression_that_calls_itself_for_ever_ends(monkeypatch):
    monkeypatch.setattr(_jsonata, "MAX_STEPS", 1_000)
    with pytest.raises(StateError, match="D1012: The expression takes more than 1000 steps") as caught:
        Expression("($f := function($n) { $f($n + 1) }; $f(0))").evaluate({"states": {}}, "Output")
    assert caught.value.error == "States.QueryEvaluationError"


@pytest.mark.parametrize("text", ["$states.input", "{'k': $states.input}", "{$states.input: 1}", "[$states.input]"])
def test_an_expression_gives_no_half_characters(text):
    with pytest.raises(StateError, match="half a surrogate pair"):
        Expression(text).evaluate({"states": {"input": HALF}}, "Output")


def test_only_what_concerns_the_state_is_its_failure():
    with pytest.raises(StateError, match="KeyError: 'x\\\\ud800'") as caught, evaluating():
        raise KeyError("x" + HALF)
    assert caught.value.error == "States.Runtime"
    with pytest.raises(StateError, match="nested too deeply"), evaluating():
        raise RecursionError("maximum recursion depth exceeded")
    with pytest.raises(TransientError), evaluating():
        raise TransientError("the store is away")


# --- executions


@pytest.fixture
def run(store, clock):
    numbers = iter(range(100))

    def start(function, retry=None, ports=None, resource="f"):
        task = {"Type": "Task", "Resource": resource, "End": True, "Retry": retry or []}
        name = f"e{next(numbers)}"
        runner = LocalRunner(store.db, {"f": function}, clock, ports=ports or {})
        try:
            return runner.start("machine", {"StartAt": "A", "States": {"A": task}}, {}, name)
        except StageFailedError:
            return runner.describe(name)

    return start


def raising(error):
    def function(_):
        raise error

    return function


def test_no_result_and_no_exception_leaves_an_execution_running(run):
    for result in (HALF, {HALF: 1}, nested(3000), 10**5000):
        execution = run(lambda _, result=result: result)
        assert (execution.status, execution.error) == ("FAILED", "Runtime.MarshalError")
    for error, name, cause in (
        (ValueError(HALF), "ValueError", r"\\ud800"),
        (TaskFailure("E" + HALF, HALF), r"E\ud800", r"\ud800"),
        (SystemExit(2), "Runtime.ExitError", "exit status 2"),
    ):
        execution = run(raising(error))
        assert (execution.status, execution.error) == ("FAILED", name)
        assert cause in execution.cause


def test_what_a_port_raises_is_an_error_of_the_task(run):
    calls = []

    def port(request):
        calls.append(request.attempt)
        raise KeyError("QueueUrl")

    retry = [{"ErrorEquals": ["KeyError"], "MaxAttempts": 2}]
    execution = run(None, retry, {"sqs:sendMessage": port}, "arn:aws:states:::sqs:sendMessage")
    assert (execution.status, execution.error, calls) == ("FAILED", "KeyError", [0, 1, 2])


def test_one_execution_that_cannot_go_on_does_not_stop_the_others(store, clock, monkeypatch, caplog):
    runner = LocalRunner(store.db, {}, clock)
    wait = {"StartAt": "A", "States": {"A": {"Type": "Wait", "Seconds": 5, "End": True}}}
    for name in ("bad", "good"):
        runner.start("machine", wait, {}, name, wait=False)
    advance = runner.advance

    def advancing(execution):
        if execution == "bad":
            raise ValueError("a bug that quotes data")
        return advance(execution)

    monkeypatch.setattr(runner, "advance", advancing)
    clock.advance_us(5_000_000)
    assert sorted(runner.run_due()) == ["bad", "good"]
    assert runner.describe("good").status == "SUCCEEDED"
    assert "quotes" not in caplog.text


def test_a_text_in_an_error_is_whole():
    assert whole_text("é" + HALF) == "é\\ud800"
    assert whole_text(5) == "5"


# --- items of a Map


class Objects:
    """An object store of one object that fails as it is told."""

    def __init__(self, body=b"", error=None):
        self.body, self.error = body, error

    def get(self, key):
        return self.body

    def put(self, key, data):
        if self.error is not None:
            raise self.error


def mapped(store, clock, objects, kind="JSON", **fields):
    processor = {
        "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}, "StartAt": "P",
        "States": {"P": {"Type": "Pass", "End": True}},
    }  # fmt: skip
    config = {"InputType": kind, **({"CSVHeaderLocation": "FIRST_ROW"} if kind == "CSV" else {})}
    reader = {
        "Resource": "arn:aws:states:::s3:getObject", "ReaderConfig": config, "Parameters": {"Bucket": "b", "Key": "k"},
    }  # fmt: skip
    state = {"Type": "Map", "End": True, "ItemProcessor": processor, "ItemReader": reader, **fields}
    runner = LocalRunner(store.db, {}, clock, objects=objects)
    try:
        return runner.start("machine", {"StartAt": "A", "States": {"A": state}}, {}, "e")
    except StageFailedError:
        return runner.describe("e")


@pytest.mark.parametrize(
    ("kind", "body", "found"),
    [
        ("JSONL", '{"a": "x\u2028y"}\r\n\n[2]\n', [{"a": "x\u2028y"}, [2]]),  # U+2028 ends no line of JSON
        ("CSV", "id,text\n1," + "x" * 200_000, [{"id": "1", "text": "x" * 200_000}]),
        ("CSV", "id,id\n1,2", "two columns are named 'id'"),  # the first was lost
        ("JSON", "[NaN]", "NaN is no JSON number"),
        ("JSON", '["\\ud800"]', "half a surrogate pair"),
    ],
    ids=["lines", "long", "columns", "number", "text"],
)
def test_items_are_read_whole_or_refused(store, clock, kind, body, found):
    execution = mapped(store, clock, Objects(body.encode()), kind)
    if isinstance(found, list):
        assert execution.output == found
    else:
        assert (execution.status, execution.error) == ("FAILED", "States.ItemReaderFailed")
        assert found in execution.cause


def test_results_that_cannot_be_written_are_the_states_failure(store, clock):
    writer = {"Resource": "arn:aws:states:::s3:putObject", "Parameters": {"Bucket": "b", "Prefix": "out"}}
    objects = Objects(b"[1]", InvalidInputError("an object key must be a relative path without '..'"))
    execution = mapped(store, clock, objects, ResultWriter=writer)
    assert (execution.status, execution.error) == ("FAILED", "States.ResultWriterFailed")  # it was left running


@pytest.mark.parametrize("name", ["m" + HALF, "", None, 5, "x" * 300, "a\nb"])
def test_a_name_that_no_store_keeps_is_refused(store, clock, name):
    with pytest.raises(InvalidInputError, match="workflow: got .*; expected a name"):
        LocalRunner(store.db, {}, clock).start(name, {"StartAt": "A", "States": {"A": {"Type": "Succeed"}}}, {})


# --- ids


PASS = {"StartAt": "A", "States": {"A": {"Type": "Pass", "End": True}}}


def test_an_id_of_another_workflow_is_not_this_ones(store, clock):
    """The other one's output was handed on as this one's."""
    runner = LocalRunner(store.db, {}, clock)
    assert runner.start("first", PASS, {}, "day-1").status == "SUCCEEDED"
    assert runner.start("first", PASS, {}, "day-1").status == "SUCCEEDED"  # the same again
    with pytest.raises(ExecutionAlreadyExistsError, match="is one of workflow 'first'"):
        runner.start("second", PASS, {}, "day-1")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("day-1", "StepFunctions.ExecutionAlreadyExistsException"),
        ("two words", "StepFunctions.InvalidNameException"),
        ("x" * 81, "StepFunctions.InvalidNameException"),
        ("child-1", None),
    ],
)
def test_a_child_has_a_name_of_its_own(store, clock, name, error):
    task = {
        "Type": "Task", "Resource": "arn:aws:states:::states:startExecution.sync:2", "End": True,
        "Parameters": {"StateMachineArn": "child", "Input": {}, "Name": name},
    }  # fmt: skip
    runner = LocalRunner(store.db, {}, clock, machines={"child": PASS})
    runner.start("first", PASS, {}, "day-1")
    with contextlib.suppress(StageFailedError):
        runner.start("parent", {"StartAt": "A", "States": {"A": task}}, {}, "p")
    assert runner.describe("p").error == error
