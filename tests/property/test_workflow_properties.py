"""Properties of the workflow contract; each docstring has its tag. Those of CDK (35, 40, 41, 42) belong to the tests of the
deployment; 29 and 34 are held by the integration tests of the pipe, where jobs and alerts are."""

from __future__ import annotations

import json
import logging
import re
import tempfile
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headgate._core import ManualClock, SeededRandom
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.errors import InvalidInputError, StageFailedError, TransientError
from headgate.testing.objects import MemoryObjects
from headgate.workflow import (
    EmbeddedBucket,
    ExecutionContext,
    GlueStep,
    HeadgatePermanentError,
    LambdaStep,
    LocalPipe,
    LocalRunner,
    Naming,
    RetryConfiguration,
    Workflow,
    WorkflowHandler,
    WorkflowType,
    failure_key,
    local_functions,
    output_key,
    stage_output,
    unwrap_input,
)

NOW_US = 1_780_000_000_000_000
DAY_US = 86_400 * 1_000_000
MANY = settings(max_examples=100, deadline=None)
RUNS = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])

LETTERS = "abcXYZ019"


def _texts(first, rest, size):
    return st.builds(str.__add__, st.sampled_from(first), st.text(rest, max_size=size))


names = _texts(LETTERS, f"{LETTERS}_-", 11)
executions = _texts("abc019", "abc019-", 20)
buckets = _texts("abc019", "abc019-", 20).map(lambda name: f"{name}-x")
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
).filter(lambda value: value is not None)
json_values = values.filter(lambda value: "\\ud" not in json.dumps(value))
step_kinds = st.sampled_from(["lambda", "glue"])


@st.composite
def steps(draw, kinds=step_kinds, least=1, most=6):
    """Steps with names of their own; those of EXPRESS length in sum."""
    found = draw(
        st.lists(
            st.tuples(names.filter(lambda n: n != "initial"), kinds),
            min_size=least,
            max_size=most,
            unique_by=lambda s: s[0],
        )
    )
    return [LambdaStep(n, f"key-{n}", 30) if kind == "lambda" else GlueStep(n, f"job-{n}", 60) for n, kind in found]


lambda_steps = steps(st.just("lambda"))


@st.composite
def workflows(draw, kinds=step_kinds, kind=WorkflowType.STANDARD):
    return Workflow(draw(names), kind, draw(steps(kinds)), draw(buckets))


class Trace(WorkflowHandler):
    """Adds its stage's name; fails where it is told."""

    def __init__(self, objects, clock=None, failures=None):
        super().__init__(objects, clock)
        self.failures = failures or {}
        self.reads = []

    def process(self, data, context):
        self.reads.append((context.currentStage, data))
        left = self.failures.get(context.currentStage, 0)
        if left:
            self.failures[context.currentStage] = left - 1
            raise TransientError("told to fail")
        return (
            {"via": [*data["via"], context.currentStage]}
            if isinstance(data, dict) and "via" in data
            else {"via": [context.currentStage]}
        )


class Watched(MemoryObjects):
    """Remembers which keys were read."""

    def __init__(self):
        super().__init__()
        self.read = []

    def get(self, key):
        self.read.append(key)
        return super().get(key)


@contextmanager
def local(workflow, failures=None, objects=None):
    """A runner for a workflow of functions, on memory: (start, handler, objects, clock, store)."""
    clock = ManualClock(NOW_US)
    objects = objects if objects is not None else Watched()
    handler = Trace(objects, clock, failures)
    database = LocalDatabase(":memory:", durability="normal")
    functions = {step.function_key: handler for step in workflow.steps}
    runner = LocalRunner(database, local_functions(workflow, objects, clock, functions), clock)

    def start(data, execution="run-1"):
        return runner.start(workflow.name, workflow.to_asl(), data, execution)

    yield start, handler, objects, clock, LocalStore(database, clock, "p"), runner
    database.close()


def states(asl, resource):
    return {n: s for n, s in asl["States"].items() if resource in s.get("Resource", "")}


# --- names and paths


@MANY
@given(stack=names, environment=names, key=names)
def test_1_function_names_and_their_log_groups(stack, environment, key):
    """Feature: infrastructure-enhancement, Property 1."""
    naming = Naming(stack, environment)
    name = naming.function_name(key)
    assert re.fullmatch(rf"{re.escape(stack)}-{re.escape(environment)}-[A-Z0-9][A-Za-z0-9_-]*", name)
    assert naming.log_group(key) == f"/aws/lambda/{name}"
    assert naming.function_name(key) == name  # no random suffix
    problems = Workflow("w", "EXPRESS", [LambdaStep("A", key)], "bucket", naming=naming).problems()
    assert bool(problems) == (len(name) > 64)


@MANY
@given(execution=executions, stage=names, data=json_values)
def test_2_the_output_key_is_made_of_execution_and_stage(execution, stage, data):
    """Feature: infrastructure-enhancement, Property 2."""
    objects = MemoryObjects()
    Trace(objects)(ExecutionContext(execution, stage, "bucket", None, data))
    assert objects.list() == [f"executions/{execution}/{stage}/output.json"] == [output_key(execution, stage)]


@MANY
@given(execution=executions, pair=st.lists(names, min_size=2, max_size=2, unique=True))
def test_3_the_input_key_is_made_of_execution_and_previous_stage(execution, pair):
    """Feature: infrastructure-enhancement, Property 3."""
    previous, stage = pair
    objects = Watched()
    handler = Trace(objects)
    handler(ExecutionContext(execution, previous, "bucket", None, {"via": []}))
    handler(ExecutionContext(execution, stage, "bucket", previous))
    assert objects.read == [f"executions/{execution}/{previous}/output.json"]
    assert handler.reads[-1] == (stage, {"via": [previous]})


@MANY
@given(execution=executions, stage=names, data=json_values)
def test_4_the_first_stage_reads_no_object(execution, stage, data):
    """Feature: infrastructure-enhancement, Property 4."""
    objects = Watched()
    handler = Trace(objects)
    handler(ExecutionContext(execution, stage, "bucket", None, data))
    assert objects.read == []
    assert handler.reads == [(stage, unwrap_input(data))]


@MANY
@given(name=st.text(max_size=90))
def test_names_that_are_no_part_of_a_path_never_become_one(name):
    """Feature: infrastructure-enhancement, Property 2 and 3 for hostile names."""
    objects = MemoryObjects()
    safe = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}", name) is not None
    if safe:
        Trace(objects)(ExecutionContext(name, "A", "bucket", None, 1))
    else:
        with pytest.raises(HeadgatePermanentError):
            Trace(objects)(ExecutionContext(name, "A", "bucket", None, 1))
    assert objects.list() == ([output_key(name, "A")] if safe else [])


@RUNS
@given(workflow=workflows(st.just("lambda")), fails=st.booleans(), data=st.data())
def test_5_and_6_outputs_share_a_prefix_and_stay(workflow, fails, data):
    """Feature: infrastructure-enhancement, Property 5 and 6: after success and after failure."""
    stages = [s.state_name for s in workflow.steps]
    broken = data.draw(st.sampled_from(stages)) if fails else None
    with local(workflow, {broken: 99} if broken else None) as (start, _, objects, *_rest):
        if broken:
            with pytest.raises(StageFailedError):
                start({"via": []})
        else:
            start({"via": []})
        done = stages[: stages.index(broken)] if broken else stages
        expected = [output_key("run-1", stage) for stage in done] + ([failure_key("run-1", broken)] if broken else [])
        assert objects.list() == sorted(expected)
        assert all(key.startswith("executions/run-1/") for key in objects.list())


@settings(max_examples=60, deadline=None)
@given(ages=st.lists(st.floats(0, 14), min_size=1, max_size=6), other=st.floats(0, 400))
def test_7_outputs_are_deleted_after_seven_days(ages, other):
    """Feature: infrastructure-enhancement, Property 7."""
    with tempfile.TemporaryDirectory() as folder:
        clock = ManualClock(NOW_US)
        bucket = EmbeddedBucket(folder, clock)
        at = 0
        bucket.put("kept/forever.json", b"{}")
        written = {}
        for number, age in enumerate(sorted(ages, reverse=True)):
            step = int((14 - age) * DAY_US) - at
            clock.advance_us(step)
            at += step
            written[output_key(f"run-{number}", "A")] = at
            bucket.put(output_key(f"run-{number}", "A"), b"{}", True)
        clock.advance_us(14 * DAY_US - at)
        old = sorted(key for key, when in written.items() if 14 * DAY_US - when >= 7 * DAY_US)
        assert [key for key in written if not bucket.exists(key)] == [key for key in written if key in old]
        assert sorted(bucket.expire()) == old
        assert bucket.list() == sorted([*(set(written) - set(old)), "kept/forever.json"])
        clock.advance_us(int(other * DAY_US))
        bucket.expire()
        assert bucket.exists("kept/forever.json")


@MANY
@given(workflow=workflows(st.just("lambda")), data=json_values)
def test_8_a_payload_has_the_contracts_fields_and_no_data_of_stages(workflow, data):
    """Feature: infrastructure-enhancement, Property 8."""
    fields = {"executionId", "currentStage", "previousStage", "workflowBucket", "initialData"}
    for number, state in enumerate(workflow.to_asl()["States"].values()):
        payload = {name.removesuffix(".$"): value for name, value in state["Parameters"]["Payload"].items()}
        assert set(payload) == fields - {"previousStage" if number == 0 else "initialData"}
        assert len(json.dumps(payload)) < 1_000
        assert state["ResultPath"] is None
    context = ExecutionContext("e", "A", "bucket", "B", None)
    assert ExecutionContext.from_event(context.to_event()) == context


@MANY
@given(workflow=workflows(), bucket=buckets, data=st.data())
def test_9_nothing_is_hard_coded(workflow, bucket, data):
    """Feature: infrastructure-enhancement, Property 9: names, buckets and paths are those of the definition and of nothing else."""
    text = json.dumps(workflow.to_asl())
    renamed = json.dumps(Workflow(workflow.name, workflow.type, workflow.steps, bucket).to_asl())
    assert renamed.replace(f'"{bucket}"', f'"{workflow.bucket}"') == text
    assert set(re.findall(r"executions/\{\}/([^/]+)/", text)) <= {s.state_name for s in workflow.steps} | {"initial"}


@RUNS
@given(order=st.permutations(["A", "B", "C", "D"]), count=st.integers(1, 4))
def test_10_stages_work_in_any_order_and_number(order, count):
    """Feature: infrastructure-enhancement, Property 10."""
    workflow = Workflow("w", "EXPRESS", [LambdaStep(n, n) for n in order[:count]], "bucket")
    with local(workflow) as (start, _, objects, *_rest):
        assert start({"via": []}).status == "SUCCEEDED"
        assert stage_output(objects, "run-1", order[count - 1]) == {"via": order[:count]}


@MANY
@given(execution=executions, stage=names, bucket=buckets, data=json_values)
def test_11_a_handler_runs_alone_on_a_made_up_context(execution, stage, bucket, data):
    """Feature: infrastructure-enhancement, Property 11."""
    result = Trace(MemoryObjects())(
        {"executionId": execution, "currentStage": stage, "workflowBucket": bucket, "initialData": data}
    )
    assert (result["status"], result["stage"]) == ("SUCCESS", stage)


@MANY
@given(execution=executions, stage=names, data=json_values, later=st.integers(0, 10**9))
def test_a_retry_has_the_same_bytes(execution, stage, data, later):
    """Decision 9: same execution, same key, same bytes."""
    clock = ManualClock(NOW_US)
    objects = MemoryObjects()

    class Echo(WorkflowHandler):
        def process(self, given, context):
            return [given]

    context = ExecutionContext(execution, stage, "bucket", None, data)
    Echo(objects, clock)(context)
    first = objects.get(output_key(execution, stage))
    clock.advance_us(later)
    Echo(objects, clock)(context)
    assert objects.get(output_key(execution, stage)) == first
    assert stage_output(objects, execution, stage) == [unwrap_input(data)]


# --- the definition


@MANY
@given(chosen=lambda_steps, name=names, bucket=buckets)
def test_12_13_and_27_express(chosen, name, bucket):
    """Feature: infrastructure-enhancement, Property 12, 13 and 27, as far as the definition has them: type, five minutes, the pipe waits."""
    workflow = Workflow(name, "EXPRESS", chosen, bucket)
    assert (workflow.type, workflow.invocation_type) == (WorkflowType.EXPRESS, "REQUEST_RESPONSE")
    assert workflow.to_asl()["TimeoutSeconds"] == 300


@RUNS
@given(workflow=workflows(st.just("lambda"), WorkflowType.EXPRESS))
def test_15_express_runs_in_order_each_writes_and_each_but_the_first_reads(workflow):
    """Feature: infrastructure-enhancement, Property 15."""
    stages = [s.state_name for s in workflow.steps]
    asl = workflow.to_asl()
    chain, name = [], asl["StartAt"]
    while name:
        chain.append(name)
        name = asl["States"][name].get("Next")
    assert chain == stages
    assert [n for n, s in asl["States"].items() if s.get("End")] == stages[-1:]
    with local(workflow) as (start, handler, objects, *_rest):
        start({"via": []})
        assert [stage for stage, _ in handler.reads] == stages
        assert objects.read[: len(stages) - 1] == [output_key("run-1", stage) for stage in stages[:-1]]
        assert objects.list() == sorted(output_key("run-1", stage) for stage in stages)


retries = st.builds(
    RetryConfiguration,
    st.integers(0, 9),
    st.integers(1, 600),
    st.floats(1, 5),
    st.integers(0, 9),
    st.integers(1, 900),
    st.floats(1, 5),
)


@MANY
@given(chosen=steps(), retry=retries | st.just(RetryConfiguration()))
def test_16_17_21_and_24_retries_and_integrations(chosen, retry):
    """Feature: infrastructure-enhancement, Property 16, 17, 21 and 24."""
    asl = Workflow("w", "STANDARD", chosen, "bucket", retry).to_asl()
    for state in states(asl, "lambda:invoke").values():
        assert state["ResultPath"] is None
        assert state["Retry"][0]["MaxAttempts"] == 0
        assert "HeadgatePermanentError" in state["Retry"][0]["ErrorEquals"]
        assert state["Retry"][1:] == [
            {"ErrorEquals": ["States.ALL"], "IntervalSeconds": retry.interval_s, "MaxAttempts": retry.max_attempts,
             "BackoffRate": retry.backoff_rate}
        ]  # fmt: skip
    jobs = states(asl, "glue")
    assert set(jobs) == {s.state_name for s in chosen if isinstance(s, GlueStep)}
    for state in jobs.values():
        assert state["Resource"] == "arn:aws:states:::glue:startJobRun.sync"
        assert state["Retry"] == [
            {"ErrorEquals": ["States.ALL"], "IntervalSeconds": retry.glue_interval_s,
             "MaxAttempts": retry.glue_max_attempts, "BackoffRate": retry.glue_backoff_rate}
        ]  # fmt: skip
    numbers = re.findall(r'"(?:IntervalSeconds|MaxAttempts|TimeoutSeconds)": ([^,}]+)', json.dumps(asl))
    assert all(number.isdigit() for number in numbers)


def test_16_and_24_the_defaults_are_the_contracts():
    """Feature: infrastructure-enhancement, Property 16 and 24."""
    asl = Workflow("w", "STANDARD", [LambdaStep("A", "a"), GlueStep("G", "g")], "bucket").to_asl()
    found = [s["Retry"][-1] for s in asl["States"].values()]
    assert [(r["MaxAttempts"], r["IntervalSeconds"], r["BackoffRate"]) for r in found] == [(2, 20, 2.0), (2, 300, 2.0)]


@MANY
@given(workflow=workflows())
def test_18_19_20_22_23_and_28_standard(workflow):
    """Feature: infrastructure-enhancement, Property 18, 19, 20, 22, 23 and 28: any mixture, five arguments, convention paths, Glue at any place."""
    assert workflow.invocation_type == "FIRE_AND_FORGET"
    asl = workflow.to_asl()
    stages = [s.state_name for s in workflow.steps]
    added = ["initial"] if isinstance(workflow.steps[0], GlueStep) else []
    assert list(asl["States"]) == [*added, *stages]
    before = dict(zip(stages, [*added, *stages] if added else [None, *stages], strict=False))
    for name, state in states(asl, "glue").items():
        arguments = state["Parameters"]["Arguments"]
        assert set(arguments) == {
            "--execution-id.$",
            "--input-bucket",
            "--input-key.$",
            "--output-bucket",
            "--output-key.$",
        }
        assert all(isinstance(value, str) for value in arguments.values())
        assert arguments["--input-bucket"] == arguments["--output-bucket"] == workflow.bucket
        path = "States.Format('executions/{{}}/{}/output.json', $$.Execution.Name)"
        assert arguments["--input-key.$"] == path.format(before[name])
        assert arguments["--output-key.$"] == path.format(name)
        assert state["ResultPath"] is None
    for state in asl["States"].values():
        targets = {state.get("Next")} - {None}
        assert targets <= set(asl["States"])
        assert bool(targets) != bool(state.get("End"))


@MANY
@given(times=st.lists(st.integers(1, 900), min_size=1, max_size=6), glue=st.booleans())
def test_25_express_is_refused_when_it_cannot_be_met(times, glue):
    """Feature: infrastructure-enhancement, Property 25: on the sum over the chain, not stage by stage."""
    chosen = [LambdaStep(f"S{n}", f"k{n}", seconds) for n, seconds in enumerate(times)]
    if glue:
        chosen.append(GlueStep("G", "g", 60))
    problems = Workflow("w", "EXPRESS", chosen, "bucket").problems()
    assert bool(problems) == (glue or sum(times) > 300)
    assert all("use STANDARD" in problem for problem in problems)
    assert Workflow("w", "STANDARD", chosen, "bucket").problems() == []


@MANY
@given(text=st.sampled_from(["EXPRESS", "STANDARD", "express", " Standard "]) | st.text(max_size=12))
def test_26_the_type_is_an_option(text):
    """Feature: infrastructure-enhancement, Property 26."""
    workflow = Workflow("w", text, [LambdaStep("A", "a")], "bucket")
    if text.strip().upper() in ("EXPRESS", "STANDARD"):
        assert workflow.type is WorkflowType(text.strip().upper())
        assert workflow.problems() == []
    else:
        with pytest.raises(InvalidInputError, match="expected EXPRESS or STANDARD"):
            workflow.validate()


# --- failures


@RUNS
@given(workflow=workflows(st.just("lambda")), data=st.data())
def test_30_and_31_out_of_retries_the_execution_is_failed_with_type_message_and_stage(workflow, data):
    """Feature: infrastructure-enhancement, Property 30 and 31."""
    broken = data.draw(st.sampled_from([s.state_name for s in workflow.steps]))
    with local(workflow, {broken: 99}) as (start, handler, objects, clock, store, _):
        before = clock.now_us()
        with pytest.raises(StageFailedError, match=r"failed: TransientError: told to fail"):
            start({"via": []})
        assert [stage for stage, _ in handler.reads].count(broken) == 3
        assert clock.now_us() - before == 60_000_000  # 20 s and 40 s
        ((status, error),) = store.db.execute("SELECT status, error FROM executions WHERE id = 'run-1'")
        assert (status, error) == ("FAILED", "TransientError")
        history = json.dumps(
            store.db.execute("SELECT type, state, doc FROM execution_events WHERE execution = 'run-1'")
        )
        assert all(part in history for part in (broken, "TransientError", "told to fail"))
        failure = json.loads(objects.get(failure_key("run-1", broken)))
        assert (failure["errorType"], failure["errorMessage"], failure["stage"]) == (
            "TransientError",
            "told to fail",
            broken,
        )
        assert failure["stack"]


@RUNS
@given(failures=st.integers(0, 12), permanent=st.booleans())
def test_14_32_and_33_express_failures_bring_the_message_back_up_to_the_limit(failures, permanent):
    """Feature: infrastructure-enhancement, Property 14, 32 and 33: each delivery has three attempts, three deliveries are made, then it is a dead letter."""
    workflow = Workflow("w", "EXPRESS", [LambdaStep("A", "a", 30)], "bucket", source_queue="q")
    with local(workflow, {"A": failures}) as (_, handler, _objects, clock, store, runner):
        pipe = LocalPipe.of(workflow, store, runner, random=SeededRandom(failures))
        body = json.dumps({"via": [], "n": failures})
        pipe.send(body)
        for _ in range(5):
            pipe.drain()
            assert pipe.step() is False  # hidden, or gone
            clock.advance_us(600_000_000)
        lost = failures >= 9
        assert pipe.result.received == min(3, failures // 3 + 1)
        assert pipe.result.succeeded == (0 if lost else 1)
        assert (pipe.result.dead_lettered, pipe.depth()) == (int(lost), 0)
        assert [letter["doc"] for letter in pipe.dead_letters()] == ([body] if lost else [])
        assert len(handler.reads) == min(9, failures + 1)


# --- logs


@MANY
@given(
    execution=executions, pair=st.lists(names, min_size=2, max_size=2, unique=True), bucket=buckets, first=st.booleans()
)
def test_36_and_37_the_start_is_logged_with_context_and_paths(execution, pair, bucket, first):
    """Feature: infrastructure-enhancement, Property 36 and 37."""
    previous, stage = pair
    objects = MemoryObjects()
    handler = Trace(objects)
    handler(ExecutionContext(execution, previous, bucket, None, {"via": []}))
    records = []

    class Keep(logging.Handler):
        def emit(self, record):
            records.append(record)

    logger, keep = logging.getLogger("headgate.workflow"), Keep()
    level = logger.level
    logger.addHandler(keep)
    logger.setLevel(logging.INFO)
    try:
        context = (
            ExecutionContext(f"{execution}2"[:80], stage, bucket, None, 1)
            if first
            else ExecutionContext(execution, stage, bucket, previous)
        )
        handler(context)
    finally:
        logger.removeHandler(keep)
        logger.setLevel(level)
    start = records[0]
    assert (start.message if hasattr(start, "message") else start.getMessage()) == "stage started"
    assert (start.executionId, start.currentStage) == (context.executionId, stage)
    assert start.outputPath == f"s3://{bucket}/executions/{context.executionId}/{stage}/output.json"
    assert start.inputPath == (None if first else f"s3://{bucket}/executions/{execution}/{previous}/output.json")


# --- migration


@MANY
@given(keys=st.lists(names, min_size=1, max_size=5, unique_by=lambda k: k[:1].upper() + k[1:]), data=st.data())
def test_38_both_naming_styles_side_by_side(keys, data):
    """Feature: infrastructure-enhancement, Property 38."""
    old = data.draw(st.sets(st.sampled_from(keys)))
    given_names = {key: f"AutoStack-{key}-9XK2L" for key in old}
    naming = Naming("Stack", "dev", "DUAL", given_names)
    workflow = Workflow(
        "w", "EXPRESS", [LambdaStep(f"S{n}", key, 10) for n, key in enumerate(keys)], "bucket", naming=naming
    )
    found = [s["Parameters"]["FunctionName"] for s in workflow.to_asl()["States"].values()]
    assert found == [given_names.get(key) or f"Stack-dev-{key[:1].upper()}{key[1:]}" for key in keys]


@RUNS
@given(kinds=st.lists(st.booleans(), min_size=1, max_size=5))
def test_39_one_stage_at_a_time_can_migrate(kinds):
    """Feature: infrastructure-enhancement, Property 39: whichever stages are of the base class, the data goes the same way."""
    chosen = [LambdaStep(f"S{n}", f"k{n}", 10, is_new) for n, is_new in enumerate(kinds)]
    workflow = Workflow("w", "EXPRESS", chosen, "bucket", migration="HYBRID")
    objects, clock, last = MemoryObjects(), ManualClock(NOW_US), []

    def old(name):
        def handler(event, context):
            last[:] = [*event, name]
            return list(last)

        return handler

    class New(WorkflowHandler):
        def process(self, data, context):
            last[:] = [*data, context.currentStage]
            return list(last)

    functions = {
        s.function_key: New(objects, clock) if is_new else old(s.state_name)
        for s, is_new in zip(chosen, kinds, strict=True)
    }
    database = LocalDatabase(":memory:", durability="normal")
    done = workflow.run(["x"], functions=functions, objects=objects, database=database, clock=clock)
    database.close()
    assert (done.status, last) == ("SUCCEEDED", ["x", *(s.state_name for s in chosen)])
