"""Stages: what they read and write, what they refuse, and how their failures leave them."""

from __future__ import annotations

import json
import logging
import pickle

import pydantic
import pytest

from headgate import _native
from headgate.errors import AccessError, ConfigError, InvalidInputError, Kind, NotFoundError, TransientError
from headgate.testing.objects import MemoryObjects
from headgate.workflow import (
    PERMANENT_ERRORS,
    BridgeHandler,
    ExecutionContext,
    HeadgatePermanentError,
    InputStage,
    StageFailure,
    WorkflowHandler,
    WorkflowLambdaHandler,
    failure_key,
    output_key,
    stage,
    stage_output,
)


class Call(WorkflowHandler):
    """A stage whose work is given."""

    def __init__(self, objects, clock, work, **options):
        for name, value in options.items():
            setattr(self, name, value)
        super().__init__(objects, clock)
        self.work = work
        self.calls = 0

    def process(self, data, context):
        self.calls += 1
        return self.work(data)


def event(current="B", previous=None, data="unset", execution="e1", **more):
    found = {"executionId": execution, "currentStage": current, "workflowBucket": "bucket", **more}
    if previous is not None:
        found["previousStage"] = previous
    if data != "unset":
        found["initialData"] = data
    return found


@pytest.fixture
def memory():
    return MemoryObjects()


def run(objects, clock, work, payload, **options):
    return Call(objects, clock, work, **options)(payload)


def envelope(objects, name, execution="e1"):
    return json.loads(objects.get(output_key(execution, name)))


# --- the contract


def test_an_output_has_the_envelope_and_the_next_stage_gets_its_data(memory, clock):
    result = run(memory, clock, lambda data: [*data, 3], event("A", data=[1, 2]))
    assert result == {"status": "SUCCESS", "stage": "A", "recordsProcessed": 3, "errorMessage": None}
    assert envelope(memory, "A") == {
        "executionId": "e1", "stage": "A", "timestamp": "2026-05-28T20:26:40Z", "data": [1, 2, 3],
        "metadata": {"processingTimeMs": 0, "inputRecordCount": 2, "outputRecordCount": 3},
    }  # fmt: skip
    seen = []
    run(memory, clock, lambda data: seen.append(data) or "done", event("B", "A"))
    assert seen == [[1, 2, 3]]
    assert envelope(memory, "B")["metadata"]["inputRecordCount"] == 3
    assert stage_output(memory, "e1", "B") == "done"
    with pytest.raises(NotFoundError, match="'C' of execution 'e1' has written no output"):
        stage_output(memory, "e1", "C")


def test_the_names_of_the_task_list_are_aliases():
    assert WorkflowLambdaHandler is WorkflowHandler


def test_a_context_can_be_given_instead_of_a_payload(memory, clock):
    context = ExecutionContext("e1", "A", "bucket", initialData={"n": 1})
    assert run(memory, clock, lambda data: data, context)["status"] == "SUCCESS"
    assert ExecutionContext.from_event(context.to_event()) == context
    # The contract's own example has both; the previous stage wins.
    both = ExecutionContext.from_event(event("FilterStage", "ETLStage", data={"messageId": "m"}))
    assert (both.is_first, both.input_key) == (False, "executions/e1/ETLStage/output.json")


@pytest.mark.parametrize(
    ("payload", "rule"),
    [
        ({}, "without executionId, currentStage, workflowBucket"),
        ("text", "called with str; expected an object"),
        (event("A"), r"without initialData \(or previousStage\)"),
        (event("A", data=1, extra=2), "unknown field 'extra'"),
        (event("../A", data=1), r"currentStage '\.\./A'"),
        (event("A", "b/c"), "previousStage 'b/c'"),
        (event("A", "A"), "'A' was told to read its own output"),
        (event("A", data=1, execution="."), r"executionId '\.'"),
        (event("A", data=1, execution="x" * 81), "executionId 'xxx"),
        ({**event("A", data=1), "executionId": 7}, "executionId '7'"),
        ({**event("A", data=1), "workflowBucket": " "}, "'A': workflowBucket is blank"),
    ],
)
def test_a_payload_that_is_not_the_contract_is_refused_for_good(memory, clock, payload, rule):
    with pytest.raises(HeadgatePermanentError, match=rule):
        run(memory, clock, lambda data: data, payload)
    assert memory.list() == []


def test_counts_are_those_of_the_records(memory, clock):
    counts = WorkflowHandler(memory, clock).count
    assert [counts(d) for d in ([], [1, 2], {"candidates": [1] * 3}, {"records": []}, {"a": [1]}, 7)] == [
        0,
        2,
        3,
        0,
        1,
        1,
    ]


# --- byte for byte the same


def test_a_retry_writes_nothing_and_does_nothing_again(memory, clock):
    handler = Call(memory, clock, lambda data: [1])
    handler(event("A", data=0))
    first = memory.get(output_key("e1", "A"))
    clock.advance_us(5_000_000)
    assert handler(event("A", data=0))["recordsProcessed"] == 1
    assert (handler.calls, memory.get(output_key("e1", "A"))) == (1, first)


def test_of_two_attempts_at_once_the_first_to_write_stands(memory, clock):
    def overtaken(data):
        Call(memory, clock, lambda _: ["first", "first"])(event("A", data=0))
        return ["second"]

    clock.advance_us(1_000_000)
    assert run(memory, clock, overtaken, event("A", data=0))["recordsProcessed"] == 2
    assert envelope(memory, "A")["data"] == ["first", "first"]


def test_a_lost_answer_to_the_write_leaves_one_output(memory, clock):
    class Lossy(MemoryObjects):
        lost = 0

        def put(self, key, data, if_absent=False):
            super().put(key, data, if_absent)
            if key.endswith("output.json") and not self.lost:
                self.lost = 1
                raise TransientError("no answer", Kind.TIMEOUT)

    objects = Lossy()
    handler = Call(objects, clock, lambda data: [1])
    with pytest.raises(TransientError):
        handler(event("A", data=0))
    before = objects.get(output_key("e1", "A"))
    assert handler(event("A", data=0))["status"] == "SUCCESS"
    assert (objects.get(output_key("e1", "A")), handler.calls) == (before, 1)


# --- strict JSON


@pytest.mark.parametrize(
    ("result", "rule"),
    [
        (None, "nothing; a stage returns its data"),
        ({"a": [1, {"b": float("nan")}]}, r"data\.a\[1\]\.b is NaN"),
        ([float("inf")], r"data\[0\] is inf"),
        ({1: 2}, "data has the key 1 of type int"),
        ({"a": {"x"}}, r"data\.a is set"),
        ([object()], r"data\[0\] is object"),
        ([b"x"], r"data\[0\] is bytes"),
        ((1, 2), "data is tuple"),
        (["\ud800"], r"data\[0\] is text with half a surrogate pair"),
        ({"\udc00": 1}, "a key of data is text with half"),
    ],
)
def test_what_is_no_json_is_refused_by_state_and_place_and_nothing_is_written(memory, clock, result, rule):
    with pytest.raises(HeadgatePermanentError, match=rf"InvalidInputError: stage 'A' returned .*{rule}"):
        run(memory, clock, lambda data: result, event("A", data=0))
    assert memory.list() == [failure_key("e1", "A")]


def test_what_contains_itself_is_refused(memory, clock):
    loop = []
    loop.append(loop)
    with pytest.raises(HeadgatePermanentError, match="stage 'A' returned data that is not JSON"):
        run(memory, clock, lambda data: loop, event("A", data=0))


def test_half_a_gigabyte_is_refused_by_state_and_rule(memory, clock):
    huge = ["x" * (512 * 1024 * 1024)]
    with pytest.raises(
        HeadgatePermanentError, match=r"stage 'A' returned 536,870,914 bytes of data; expected at most 268,"
    ):
        run(memory, clock, lambda data: huge.pop(), event("A", data=0))
    assert memory.list() == [failure_key("e1", "A")]


@pytest.mark.parametrize("form", ["json", "jsonl", "parquet"])
def test_the_limit_holds_for_every_format_and_for_what_is_read(memory, clock, form):
    records = [{"n": str(n) * 9} for n in range(400)]
    with pytest.raises(HeadgatePermanentError, match=r"stage 'A' returned .* bytes of data; expected at most 500 "):
        run(memory, clock, lambda data: records, event("A", data=0), data_format=form, max_output_bytes=500)
    run(memory, clock, lambda data: records, event("A", data=0), data_format=form)
    with pytest.raises(
        HeadgatePermanentError, match=r"output of stage 'A' at executions/e1/A/output.json has .* bytes"
    ):
        run(memory, clock, lambda data: data, event("B", "A"), max_output_bytes=500)


# --- large data beside the envelope


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_large_data_lies_beside_its_envelope(memory, clock, form):
    records = [{"n": n, "deep": {"x": [1, 2]}, "text": "\u00e9\n"} for n in range(50)]
    assert run(memory, clock, lambda data: records, event("A", data=0), data_format=form)["recordsProcessed"] == 50
    found = envelope(memory, "A")
    assert (found["data"], found["dataLocation"]["format"]) == (None, form)
    assert memory.list() == sorted([found["dataLocation"]["key"], output_key("e1", "A")])
    got = []
    run(memory, clock, lambda data: got.extend(data) or [], event("B", "A"))
    assert got == records


def test_arrow_tables_go_to_parquet_as_they_are(memory, clock):
    import pyarrow as pa

    table = pa.table({"n": [1, None, 3]})
    assert run(memory, clock, lambda data: table, event("A", data=0), data_format="parquet")["recordsProcessed"] == 3
    assert stage_output(memory, "e1", "A") == [{"n": 1}, {"n": None}, {"n": 3}]


@pytest.mark.parametrize(
    ("form", "result", "rule"),
    [
        ("jsonl", {"a": 1}, "returned dict; expected a list"),
        ("jsonl", [1, float("nan")], r"data\[1\] is NaN"),
        ("parquet", [1], "expected a list of objects for Parquet"),
        ("parquet", [{"a": 1}, {"b": 2}], "records that Parquet would change"),
        ("parquet", [{"a": 1}, {"a": "x"}], "records that Parquet cannot hold"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(memory, clock, form, result, rule):
    with pytest.raises(HeadgatePermanentError, match=rule):
        run(memory, clock, lambda data: result, event("A", data=0), data_format=form)
    assert memory.list() == [failure_key("e1", "A")]


def test_changed_data_beside_an_envelope_is_noticed(memory, clock):
    run(memory, clock, lambda data: [1, 2], event("A", data=0), data_format="jsonl")
    key = envelope(memory, "A")["dataLocation"]["key"]
    memory.put(key, b"1\n3\n")
    with pytest.raises(HeadgatePermanentError, match="SHA-256 differs"):
        run(memory, clock, lambda data: data, event("B", "A"))
    memory.remove(key)
    with pytest.raises(HeadgatePermanentError, match="the data of the output of stage 'A' .* does not exist"):
        run(memory, clock, lambda data: data, event("B", "A"))


def test_an_unknown_format_is_refused_when_the_stage_is_made(memory, clock):
    with pytest.raises(ConfigError, match=r"data_format is 'csv'; expected one of json, jsonl, parquet"):
        Call(memory, clock, None, data_format="csv")


# --- what is read


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (None, "the output of stage 'A' at executions/e1/A/output.json does not exist"),
        (b"{", "is not JSON: "),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b"\xff\xfe\xfa", "is not JSON"),
        (b"[1]", "is no stage envelope"),
        (b'{"data": [1]}', "is no stage envelope"),
        ({"executionId": "other"}, "belongs to another execution or stage"),
        ({"stage": "Z"}, "belongs to another execution or stage"),
        ({"metadata": {"outputRecordCount": "3"}}, "has no outputRecordCount"),
        (
            {"dataLocation": {"format": "jsonl", "key": "executions/e2/A/data.jsonl"}},
            "dataLocation that cannot be read",
        ),
        ({"dataLocation": {"format": "csv", "key": "executions/e1/A/x"}}, "dataLocation that cannot be read"),
    ],
)
def test_a_broken_input_is_permanent(memory, clock, body, rule):
    if isinstance(body, dict):
        base = {"executionId": "e1", "stage": "A", "timestamp": "t", "data": [1], "metadata": {"outputRecordCount": 1}}
        body = json.dumps({**base, **body}).encode()
    if body is not None:
        memory.put(output_key("e1", "A"), body)
    handler = Call(memory, clock, lambda data: data)
    with pytest.raises(HeadgatePermanentError, match=rule):
        handler(event("B", "A"))
    assert handler.calls == 0


# --- failures by kind


class Throttled(Exception):  # noqa: N818 - stands for botocore's ClientError
    __module__ = "botocore.exceptions"

    def __init__(self, status, code):
        super().__init__(f"{status} {code}")
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


class Point(pydantic.BaseModel):
    x: int


def raises(error):
    def work(data):
        raise error

    return work


@pytest.mark.parametrize(
    "error",
    [
        AccessError("S3 answered 403"), NotFoundError("gone"), InvalidInputError("schema"), PermissionError("no"), MemoryError(),
        json.JSONDecodeError("bad", "secret body", 3), Throttled(403, "AccessDenied"), Throttled(404, "NoSuchKey"),
        HeadgatePermanentError("mine"),
    ],
)  # fmt: skip
def test_what_a_retry_cannot_mend_leaves_under_the_name_of_the_zero_attempt_retrier(memory, clock, error):
    with pytest.raises(HeadgatePermanentError) as found:
        run(memory, clock, raises(error), event("A", data=0))
    assert type(found.value).__name__ in PERMANENT_ERRORS  # Lambda reports the class's name
    assert type(error).__name__ in str(found.value) or error is found.value
    assert "secret" not in str(found.value)
    assert isinstance(pickle.loads(pickle.dumps(found.value)), HeadgatePermanentError)


def test_data_that_fails_a_model_is_permanent_and_not_quoted(memory, clock):
    with pytest.raises(HeadgatePermanentError, match="ValidationError: x: int_parsing") as found:
        run(memory, clock, lambda data: Point(**data), event("A", data={"x": "secret"}))
    assert "secret" not in str(found.value)


@pytest.mark.parametrize(
    "error",
    [
        TransientError("503"), TimeoutError("slow"), ConnectionError(), ValueError("a bug"), Throttled(503, "SlowDown"),
        Throttled(500, "InternalError"), Throttled(429, "TooMany"), Throttled(400, "ThrottlingException"),
        StageFailure("Own.Error", "cause"),
    ],
)  # fmt: skip
def test_everything_else_leaves_as_it_was_raised(memory, clock, error):
    with pytest.raises(type(error)) as found:
        run(memory, clock, raises(error), event("A", data=0))
    assert found.value is error
    assert not isinstance(found.value, HeadgatePermanentError)


def test_a_failure_is_written_logged_and_then_raised(memory, clock, caplog):
    with caplog.at_level(logging.INFO, "headgate.workflow"), pytest.raises(ValueError, match="the reason"):
        run(memory, clock, raises(ValueError("the reason")), event("A", data=0))
    found = json.loads(memory.get(failure_key("e1", "A")))
    assert (found["status"], found["stage"], found["errorType"], found["errorMessage"], found["recordsProcessed"]) == (
        "FAILED", "A", "ValueError", "the reason", 0,
    )  # fmt: skip
    assert any("in work" in line for line in found["stack"])
    record = caplog.records[-1]
    assert (record.message, record.errorType, record.permanent) == ("stage failed", "ValueError", False)
    assert record.stack == found["stack"]
    assert output_key("e1", "A") not in memory.list()


def test_a_failure_that_cannot_be_recorded_still_leaves(clock):
    class Refusing(MemoryObjects):
        def put(self, key, data, if_absent=False):
            raise AccessError("403")

    with pytest.raises(HeadgatePermanentError, match="AccessError: 403") as found:
        run(Refusing(), clock, lambda data: [1], event("A", data=0))
    assert "the failure could not be recorded: AccessError" in found.value.__cause__.__notes__[0]


# --- logs (properties 36 and 37)


def test_the_start_is_logged_with_execution_stage_and_paths(memory, clock, caplog):
    with caplog.at_level(logging.INFO, "headgate.workflow"):
        run(memory, clock, lambda data: [1], event("A", data=0))
        run(memory, clock, lambda data: [1], event("B", "A"))
    starts = [r for r in caplog.records if r.message == "stage started"]
    assert [(r.executionId, r.currentStage, r.inputPath, r.outputPath) for r in starts] == [
        ("e1", "A", None, "s3://bucket/executions/e1/A/output.json"),
        ("e1", "B", "s3://bucket/executions/e1/A/output.json", "s3://bucket/executions/e1/B/output.json"),
    ]
    assert caplog.records[0] is starts[0]


def test_a_stage_that_fails_before_its_work_has_logged_its_paths(memory, clock, caplog):
    with caplog.at_level(logging.INFO, "headgate.workflow"), pytest.raises(HeadgatePermanentError):
        run(memory, clock, lambda data: data, event("B", "A"))
    assert caplog.records[0].inputPath == "s3://bucket/executions/e1/A/output.json"


# --- the decorator


def test_a_function_becomes_a_stage(memory, clock):
    @stage
    def double(data):
        """Twice."""
        return [2 * n for n in data]

    @stage(name="Sum", function_key="sumLambda", timeout_s=9, data_format="json")
    def total(data, context):
        return {"sum": sum(data), "of": context.executionId}

    assert (double.name, double.function_key, double.timeout_s, double.__doc__) == ("double", "double", 60, "Twice.")
    assert (total.name, total.function_key, total.timeout_s) == ("Sum", "sumLambda", 9)
    assert double.function([1]) == [2]
    double.bound(memory, clock)(event("double", data=[1, 2]))
    total.bound(memory, clock)(event("Sum", "double"))
    assert envelope(memory, "Sum")["data"] == {"sum": 6, "of": "e1"}


@pytest.mark.parametrize(
    ("function", "options", "rule"),
    [
        (lambda: 1, {"name": "x"}, "expected a function of data, or of data and context"),
        (lambda a, b, c: 1, {"name": "x"}, "expected a function of data"),
        (lambda data: 1, {}, "stage name '<lambda>'"),
        (lambda data: 1, {"name": "a b"}, "stage name 'a b'"),
    ],
)
def test_functions_that_are_no_stage_are_refused(function, options, rule):
    with pytest.raises(InvalidInputError, match=rule):
        stage(**options)(function)


def test_a_stage_without_a_store_opens_the_bucket_of_its_payload(memory, clock, monkeypatch):
    from headgate.workflow import _stage

    opened = []
    monkeypatch.setattr(_stage, "open_bucket", lambda name: opened.append(name) or memory)
    handler = InputStage(None, clock)
    with pytest.raises(ConfigError, match="InputStage was made without an object store"):
        handler.objects  # noqa: B018
    handler(event("initial", data=[1]))
    handler(event("again", "initial"))
    assert (opened, envelope(memory, "again")["data"]) == (["bucket"], [1])


# --- the bridge between old handlers and stages


def test_the_bridge_loads_and_saves(memory, clock):
    bridge = BridgeHandler(memory, clock)
    record = [{"messageId": "m", "body": '{"n": 1}'}]
    assert bridge({"operation": "load", **event("A", data=record)}) == {"n": 1}
    # What an old handler returns is no message, whatever it looks like.
    bridge({"operation": "save", **event("A", data=[{"body": "text"}])})
    assert stage_output(memory, "e1", "A") == [{"body": "text"}]
    assert bridge({"operation": "load", **event("B", "A")}) == [{"body": "text"}]


@pytest.mark.parametrize(
    ("payload", "rule"),
    [
        ({}, "operation None; expected load or save"),
        ({"operation": "copy", **event("A", data=1)}, "operation 'copy'"),
        ({"operation": "load", **event("B", "A")}, "output of stage 'A' .* does not exist"),
        (
            {"operation": "load", **event("B", data="x" * 262_145)},
            "step 'B' takes its data in its payload, at most 262,144",
        ),
        ({"operation": "save", **event("B", data=None)}, "stage 'B' returned nothing"),
    ],
)
def test_the_bridge_refuses_by_name(memory, clock, payload, rule):
    with pytest.raises(HeadgatePermanentError, match=rule):
        BridgeHandler(memory, clock)(payload)


def test_a_fault_before_the_output_leaves_none(memory, clock):
    _native.set_faults("workflow.before_output:fail:1")
    handler = Call(memory, clock, lambda data: [1])
    with pytest.raises(TransientError, match="fault injected"):
        handler(event("A", data=0))
    assert memory.list() == [failure_key("e1", "A")]
    assert handler(event("A", data=0))["recordsProcessed"] == 1
