"""Parallel and Map states: branches, iterations, tolerated failures, batches, readers and writers."""

from __future__ import annotations

import gzip
import json

import pytest

from headgate.errors import StageFailedError
from headgate.workflow import LocalRunner

DISTRIBUTED = {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}


def task(name, **fields):
    return {"Type": "Task", "Resource": name, "End": True, **fields}


def processor(state, **fields):
    return {"StartAt": "I", "States": {"I": state}, **fields}


PASS = {"Type": "Pass", "End": True}


@pytest.fixture
def run(store, objects, clock):
    numbers = iter(range(1_000))

    def start(state, data=None, functions=None, more=None):
        definition = {"StartAt": "M", "States": {"M": {"End": True, **state}, **(more or {})}}
        if "Next" in state:
            definition["States"]["M"].pop("End")
        name = f"e{next(numbers)}"
        runner = LocalRunner(store.db, functions or {}, clock, objects=objects)
        try:
            return runner.start("machine", definition, {} if data is None else data, name)
        except StageFailedError:
            return runner.describe(name)

    return start


def kinds(execution):
    return [event["type"] for event in execution.history]


def boom(payload):
    raise ValueError("no")


# --- parallel


def test_branches_get_the_same_input_and_their_outputs_are_a_list(run):
    branches = [processor({"Type": "Pass", "Parameters": {"n": n, "in.$": "$.x"}, "End": True}) for n in range(3)]
    for place, branch in enumerate(branches):
        branch["StartAt"] = f"I{place}"
        branch["States"] = {f"I{place}": branch["States"]["I"]}
    state = {"Type": "Parallel", "Branches": branches, "Parameters": {"x.$": "$.a"}, "ResultSelector": {"r.$": "$[*].n"},
             "ResultPath": "$.out"}  # fmt: skip
    assert run(state, {"a": 5}).output == {"a": 5, "out": {"r": [0, 1, 2]}}


def test_a_branch_that_fails_aborts_the_others_and_is_caught(run):
    branches = [
        {"StartAt": "W", "States": {"W": {"Type": "Wait", "Seconds": 99, "End": True}}},
        {"StartAt": "T", "States": {"T": task("boom")}},
    ]
    state = {
        "Type": "Parallel",
        "Branches": branches,
        "Catch": [{"ErrorEquals": ["ValueError"], "ResultPath": "$.e", "Next": "C"}],
    }
    execution = run(state, {"a": 1}, {"boom": boom}, {"C": {"Type": "Succeed"}})
    assert execution.output["e"]["Error"] == "ValueError"
    assert "WaitStateAborted" in kinds(execution)
    assert kinds(execution)[-4:] == [
        "ParallelStateExited",
        "SucceedStateEntered",
        "SucceedStateExited",
        "ExecutionSucceeded",
    ]


def test_a_parallel_is_retried_as_a_whole(run):
    left = [2]
    counts = {"ok": 0}

    def flaky(payload):
        left[0] -= 1
        if left[0] >= 0:
            raise ValueError("not yet")
        return "done"

    def ok(payload):
        counts["ok"] += 1
        return "ok"

    branches = [{"StartAt": "A", "States": {"A": task("ok")}}, {"StartAt": "B", "States": {"B": task("flaky")}}]
    state = {"Type": "Parallel", "Branches": branches, "Retry": [{"ErrorEquals": ["States.ALL"]}]}
    execution = run(state, {}, {"flaky": flaky, "ok": ok})
    assert execution.output == ["ok", "done"]
    assert counts["ok"] == 3
    assert kinds(execution).count("ParallelStateStarted") == 3


def test_a_parallel_that_fails_says_so(run):
    execution = run(
        {"Type": "Parallel", "Branches": [{"StartAt": "T", "States": {"T": task("boom")}}]}, {}, {"boom": boom}
    )
    assert kinds(execution)[-3:] == ["TaskStateAborted", "ParallelStateFailed", "ExecutionFailed"]
    assert execution.error == "ValueError"


def test_results_that_the_selector_cannot_use_fail_the_state(run):
    state = {"Type": "Parallel", "Branches": [processor(PASS)], "ResultSelector": {"x.$": "$[9]"}}
    assert run(state).error == "States.Runtime"


# --- map


def test_items_and_their_selector(run):
    state = {
        "Type": "Map", "ItemsPath": "$.list", "ItemProcessor": processor(PASS), "ResultPath": "$.out", "OutputPath": "$.out",
        "ItemSelector": {"i.$": "$$.Map.Item.Index", "v.$": "$$.Map.Item.Value", "all.$": "$.x"},
    }  # fmt: skip
    assert run(state, {"list": ["a", "b"], "x": 1}).output == [
        {"i": 0, "v": "a", "all": 1},
        {"i": 1, "v": "b", "all": 1},
    ]
    assert run(state, {"list": [], "x": 1}).output == []


@pytest.mark.parametrize(
    ("state", "data", "cause"),
    [
        ({"ItemsPath": "$.no"}, {}, "Invalid path '$.no' : No results for path: $['no']"),
        ({"ItemsPath": "$.x"}, {"x": 1}, 'Reference path "$.x" must point to array.'),
        ({}, {"x": 1}, 'Reference path "$" must point to array.'),
        (
            {"ItemSelector": {"v.$": "$.no"}},
            [1],
            "The JSONPath '$.no' specified for the field 'v.$' could not be found",
        ),
        ({"MaxConcurrencyPath": "$[0]"}, ["x"], "The MaxConcurrencyPath parameter cannot be parsed as a long value"),
        ({"ToleratedFailurePercentagePath": "$[0]"}, ["x"], "must be a number from 0 to 100"),
    ],
)
def test_items_that_cannot_be_had(run, state, data, cause):
    execution = run({"Type": "Map", "ItemProcessor": processor(PASS), **state}, data)
    assert (execution.error, kinds(execution)[-2]) == ("States.Runtime", "MapStateFailed")
    assert cause in execution.cause


def test_concurrency_is_kept(store, clock):
    state = {
        "Type": "Map",
        "MaxConcurrency": 2,
        "ItemProcessor": processor({"Type": "Wait", "Seconds": 10, "End": True}),
        "End": True,
    }
    runner = LocalRunner(store.db, {}, clock)
    before = clock.now_us()
    runner.start("w", {"StartAt": "M", "States": {"M": state}}, [1, 2, 3, 4, 5], "e")
    assert clock.now_us() - before == 30_000_000
    state["MaxConcurrency"] = 0
    before = clock.now_us()
    runner.start("w", {"StartAt": "M", "States": {"M": state}}, list(range(41)), "f")
    assert clock.now_us() - before == 20_000_000  # an inline Map runs forty at once


def only_even(n):
    if n % 2:
        raise ValueError(n)
    return n


@pytest.mark.parametrize(
    ("fields", "output"),
    [
        ({"ToleratedFailureCount": 2}, [0, 2, 4]),
        ({"ToleratedFailurePercentage": 40}, [0, 2, 4]),
        ({"ToleratedFailureCountPath": "$[2]"}, [0, 2, 4]),
        ({"ToleratedFailurePercentagePath": "$[4]"}, None),
        ({"ToleratedFailureCount": 1}, None),
        ({"ToleratedFailureCount": 5, "ToleratedFailurePercentage": 10}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("mode", [{}, {"ProcessorConfig": DISTRIBUTED}])
def test_failures_that_are_tolerated(run, fields, output, mode):
    execution = run(
        {"Type": "Map", "ItemProcessor": processor(task("even"), **mode), **fields},
        [0, 1, 2, 3, 4],
        {"even": only_even},
    )
    assert execution.output == output
    if output is None:
        plain = not mode and not fields
        assert execution.error == ("ValueError" if plain else "States.ExceedToleratedFailureThreshold")
        assert kinds(execution)[-2] == "MapStateFailed"
        assert ("MapRunFailed" in kinds(execution)) is bool(mode)


def test_a_failing_iteration_aborts_those_that_run(run):
    inner = {
        "StartAt": "C",
        "States": {
            "C": {"Type": "Choice", "Choices": [{"Variable": "$", "NumericEquals": 1, "Next": "F"}], "Default": "W"},
            "W": {"Type": "Wait", "Seconds": 5, "End": True},
            "F": {"Type": "Fail", "Error": "E"},
        },
    }
    execution = run({"Type": "Map", "ItemProcessor": inner}, [0, 1, 2])
    found = [(event["type"], event.get("index")) for event in execution.history if "Iteration" in event["type"]]
    assert ("MapIterationFailed", 1) in found
    assert ("MapIterationAborted", 0) in found
    assert execution.error == "E"


def test_maps_within_maps(run):
    inner = processor({"Type": "Map", "ItemProcessor": {"StartAt": "J", "States": {"J": {
        "Type": "Pass", "Parameters": {"i.$": "$$.Map.Item.Index"}, "OutputPath": "$.i", "End": True}}}, "End": True})  # fmt: skip
    assert run({"Type": "Map", "ItemProcessor": inner}, [[7, 7], [], [7]]).output == [[0, 1], [], [0]]


def test_a_distributed_map_takes_an_object_too(run):
    state = {
        "Type": "Map", "ItemsPath": "$.o", "ItemProcessor": processor(PASS, ProcessorConfig=DISTRIBUTED),
        "ItemSelector": {"k.$": "$$.Map.Item.Key", "v.$": "$$.Map.Item.Value"},
    }  # fmt: skip
    assert run(state, {"o": {"a": 1, "b": 2}}).output == [{"k": "a", "v": 1}, {"k": "b", "v": 2}]


def test_a_distributed_map_keeps_the_events_of_its_children_to_itself(run):
    state = {"Type": "Map", "ItemProcessor": processor(PASS, ProcessorConfig=DISTRIBUTED), "Label": "run"}
    execution = run(state, list(range(50)))
    assert execution.output == list(range(50))
    assert kinds(execution) == [
        "ExecutionStarted", "MapStateEntered", "MapStateStarted", "MapRunStarted", "MapRunSucceeded", "MapStateSucceeded",
        "MapStateExited", "ExecutionSucceeded",
    ]  # fmt: skip
    assert "/run:" in execution.history[3]["mapRunStartedEventDetails"]["mapRunArn"]


def test_a_child_of_a_distributed_map_has_its_own_context(run):
    state = {"Type": "Map", "ItemProcessor": processor({"Type": "Pass", "Parameters": {"x.$": "$$.Execution.Input"}, "OutputPath": "$.x",
                                                        "End": True}, ProcessorConfig=DISTRIBUTED)}  # fmt: skip
    assert run(state, [{"n": 1}, {"n": 2}]).output == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize(
    ("batcher", "sizes"),
    [
        ({"MaxItemsPerBatch": 3}, [3, 3, 1]),
        ({"MaxItemsPerBatchPath": "$.per"}, [2, 2, 2, 1]),
        ({"MaxInputBytesPerBatch": 40}, [3, 3, 1]),
        ({"MaxItemsPerBatch": 2, "MaxInputBytesPerBatch": 200_000, "BatchInput": {"b.$": "$.per"}}, [2, 2, 2, 1]),
    ],
)
def test_batches(run, batcher, sizes):
    state = {
        "Type": "Map",
        "ItemsPath": "$.l",
        "ItemBatcher": batcher,
        "ItemProcessor": processor(PASS, ProcessorConfig=DISTRIBUTED),
    }
    found = run(state, {"l": ["item-1", "item-2", "item-3", "item-4", "item-5", "item-6", "item-7"], "per": 2}).output
    assert [len(batch["Items"]) for batch in found] == sizes
    assert all(batch.get("BatchInput") == {"b": 2} for batch in found) is ("BatchInput" in batcher)


# --- readers and writers


def reading(config, key="in/data", **more):
    reader = {
        "Resource": "arn:aws:states:::s3:getObject",
        "ReaderConfig": config,
        "Parameters": {"Bucket": "data", "Key": key},
    }
    return {"Type": "Map", "ItemReader": reader, "ItemProcessor": processor(PASS, ProcessorConfig=DISTRIBUTED), **more}


@pytest.mark.parametrize(
    ("config", "content", "items"),
    [
        ({"InputType": "JSON"}, '[1, {"a": 2}]', [1, {"a": 2}]),
        ({"InputType": "JSON", "MaxItems": 1}, "[1, 2]", [1]),
        ({"InputType": "JSON", "MaxItemsPath": "$.most"}, "[1, 2, 3]", [1, 2]),
        ({"InputType": "JSON", "ItemsPointer": "/a/0/b~1c"}, '{"a": [{"b/c": [5]}]}', [5]),
        ({"InputType": "JSON"}, '{"a": 1}', [{"Key": "a", "Value": 1}]),
        ({"InputType": "JSONL"}, '{"a": 1}\n\n[2]\n', [{"a": 1}, [2]]),
        ({"InputType": "CSV"}, 'id,name\n1,"x, y"\n2,\n', [{"id": "1", "name": "x, y"}, {"id": "2", "name": ""}]),
        ({"InputType": "CSV", "CSVHeaderLocation": "GIVEN", "CSVHeaders": ["a", "b"], "CSVDelimiter": "PIPE"}, "1|2\n3\n",
         [{"a": "1", "b": "2"}, {"a": "3", "b": ""}]),
    ],
)  # fmt: skip
def test_reading_items_from_an_object(run, objects, config, content, items):
    objects.put("data/in/data", content.encode())
    assert run(reading(config), {"most": 2}).output == items


def test_reading_a_table(run, objects):
    import io

    import pyarrow as pa
    from pyarrow import parquet

    sink = io.BytesIO()
    parquet.write_table(pa.table({"n": [1, 2], "s": ["a", None]}), sink)
    objects.put("data/in/data", sink.getvalue())
    assert run(reading({"InputType": "PARQUET"})).output == [{"n": 1, "s": "a"}, {"n": 2, "s": None}]


def test_reading_a_manifest_and_a_listing(run, objects):
    objects.put("data/inv/1.csv", b'"b","k1","10"\n"b","k2","20"\n')
    objects.put("data/inv/2.csv.gz", gzip.compress(b'"b","k3","30"\n'))
    files = [{"key": "inv/1.csv"}, {"key": "inv/2.csv.gz"}]
    objects.put("data/in/data", json.dumps({"files": files}).encode())
    found = run(reading({"InputType": "MANIFEST"})).output
    assert [item["Key"] for item in found] == ["k1", "k2", "k3"]
    lister = {"Resource": "arn:aws:states:::s3:listObjectsV2", "Parameters": {"Bucket": "data", "Prefix.$": "$.p"}}
    state = {"Type": "Map", "ItemReader": lister, "ItemProcessor": processor(PASS, ProcessorConfig=DISTRIBUTED)}
    assert [item["Key"] for item in run(state, {"p": "inv/"}).output] == ["inv/1.csv", "inv/2.csv.gz"]
    objects.put("data/many/a", b"[1, 2]")
    objects.put("data/many/b", b"[3]")
    lister["ReaderConfig"] = {"InputType": "JSON", "Transformation": "LOAD_AND_FLATTEN"}
    assert run(state, {"p": "many/"}).output == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (None, "The object in/data does not exist in bucket data"),
        (b"{", "cannot be read: "),
        (b"5", "expected an array or an object"),
    ],
)
def test_items_that_cannot_be_read(run, objects, content, cause):
    if content is not None:
        objects.put("data/in/data", content)
    execution = run(reading({"InputType": "JSON"}))
    assert execution.error == "States.ItemReaderFailed"
    assert cause in execution.cause


@pytest.mark.parametrize(
    ("config", "good"),
    [
        (None, ["0", "20"]),
        ({"Transformation": "COMPACT", "OutputType": "JSON"}, [0, 20]),
        ({"Transformation": "FLATTEN", "OutputType": "JSONL"}, [0, 20]),
    ],
)
def test_writing_results_to_objects(run, objects, config, good):
    writer = {"Resource": "arn:aws:states:::s3:putObject", "Parameters": {"Bucket": "data", "Prefix": "out"}}
    if config:
        writer["WriterConfig"] = config
    state = {
        "Type": "Map", "ItemProcessor": processor(task("f"), ProcessorConfig=DISTRIBUTED), "ResultWriter": writer,
        "ToleratedFailureCount": 1,
    }  # fmt: skip

    def f(n):
        if n == 1:
            raise ValueError("one")
        return 10 * n

    output = run(state, [0, 1, 2], {"f": f}).output
    manifest = json.loads(objects.get("data/" + output["ResultWriterDetails"]["Key"]))
    files = manifest["ResultFiles"]
    key = files["SUCCEEDED"][0]["Key"]
    text = objects.get(f"data/{key}").decode()
    found = [json.loads(line) for line in text.splitlines()] if key.endswith("jsonl") else json.loads(text)
    assert (found if config else [entry["Output"] for entry in found]) == good
    failed = objects.get("data/" + files["FAILED"][0]["Key"]).decode()
    assert "ValueError" in failed


def test_results_are_transformed_without_being_written(run):
    state = {
        "Type": "Map", "ItemProcessor": processor(PASS, ProcessorConfig=DISTRIBUTED),
        "ResultWriter": {"WriterConfig": {"Transformation": "FLATTEN"}},
    }  # fmt: skip
    assert run(state, [[1, 2], [3], 4]).output == [1, 2, 3, 4]


def test_without_an_object_store_nothing_is_read_or_written(store, clock):
    runner = LocalRunner(store.db, {}, clock)
    with pytest.raises(StageFailedError, match=r"States\.ItemReaderFailed: The runner has no object store"):
        runner.start("w", {"StartAt": "M", "States": {"M": {**reading({"InputType": "JSON"}), "End": True}}}, {}, "e")
