from __future__ import annotations

import json

import pytest

from headgate import _native
from headgate.errors import AccessError, InvalidInputError, StageFailedError
from headgate.workflow import (
    GlueStep,
    LambdaStep,
    LocalRunner,
    RetryConfiguration,
    Workflow,
    WorkflowHandler,
    WorkflowType,
    create_standard_workflow,
    lint,
    output_key,
)


class Add(WorkflowHandler):
    def __init__(self, objects, clock, amount):
        super().__init__(objects, clock)
        self.amount = amount
        self.calls = 0

    def process(self, data, context):
        self.calls += 1
        return [*data, self.amount]


def workflow(*names, **options):
    return Workflow("w", WorkflowType.EXPRESS, [LambdaStep(n, n.lower(), 10) for n in names], "b", **options)


@pytest.fixture
def run(store, objects, clock):
    def start(names, functions=None, data=None, execution="e1", **options):
        stages = {n.lower(): Add(objects, clock, n) for n in names} | (functions or {})
        runner = LocalRunner(store.db, stages, clock)
        return runner.start("w", workflow(*names, **options).to_asl(), [] if data is None else data, execution), stages

    return start


def test_stages_hand_data_on_through_the_object_store(run, objects):
    execution, _ = run(["A", "B", "C"], data=["start"])
    assert execution.status == "SUCCEEDED"
    envelope = json.loads(objects.get(output_key("e1", "C")))
    assert envelope["data"] == ["start", "A", "B", "C"]
    assert envelope["metadata"]["inputRecordCount"] == 3
    assert [e["state"] for e in execution.history if e["type"] == "TaskStateExited"] == ["A", "B", "C"]


def test_any_order_works_unchanged(run, objects):
    run(["C", "A"], execution="e2")
    assert json.loads(objects.get(output_key("e2", "A")))["data"] == ["C", "A"]


def test_an_execution_id_runs_once(run):
    _, first = run(["A"])
    _, second = run(["A"])
    assert (first["a"].calls, second["a"].calls) == (1, 0)


def test_a_failing_stage_is_retried_with_doubling_waits(run, clock):
    _native.set_faults("stage.B:fail:1,stage.B:fail:2")
    before = clock.now_us()
    execution, _ = run(["A", "B"], retry=RetryConfiguration(max_attempts=2, interval_s=20))
    assert [e["type"] for e in execution.history if e["state"] == "B"] == [
        "TaskStateEntered", "TaskScheduled", "TaskStarted", "TaskFailed", "TaskScheduled", "TaskStarted", "TaskFailed",
        "TaskScheduled", "TaskStarted", "TaskSucceeded", "TaskStateExited",
    ]  # fmt: skip
    assert clock.now_us() - before == 60_000_000  # 20 s + 40 s, on the injected clock


def test_retries_end_and_the_execution_fails_with_its_cause(run, objects, store):
    _native.set_faults("stage.B:fail:0")
    with pytest.raises(StageFailedError, match=r"execution e1 failed: TransientError: fault injected at stage\.B"):
        run(["A", "B"])
    assert store.count("SELECT count(*) FROM executions WHERE status = 'FAILED'") == 1
    assert json.loads(objects.get("executions/e1/B/failure.json"))["status"] == "FAILED"
    assert objects.exists(output_key("e1", "A"))  # outputs stay


def test_what_a_retry_cannot_mend_fails_at_once(run, clock, objects):
    def refuse(payload):
        class Refused(WorkflowHandler):
            def process(self, data, context):
                raise AccessError("no")

        return Refused(objects, clock)(payload)

    before = clock.now_us()
    with pytest.raises(StageFailedError, match="HeadgatePermanentError: AccessError: no"):
        run(["A"], {"a": refuse})
    assert clock.now_us() == before


def test_a_killed_run_resumes_at_its_last_transition(store, objects, clock):
    stages = {n: Add(objects, clock, n.upper()) for n in ("a", "b")}
    runner = LocalRunner(store.db, stages, clock)
    _native.set_faults("workflow.before_commit:fail:2")
    with pytest.raises(Exception, match="fault injected at workflow"):
        runner.start("w", workflow("A", "B").to_asl(), [], "e9")
    _native.set_faults("")
    assert runner.running() == ["e9"]
    again = LocalRunner(store.db, stages, clock).resume("e9")
    assert again.status == "SUCCEEDED"
    assert json.loads(objects.get(output_key("e9", "B")))["data"] == ["A", "B"]
    assert stages["b"].calls == 1  # its output was there: the effect is not repeated


def test_the_payload_has_the_five_fields_and_no_data():
    asl = workflow("A", "B").to_asl()
    assert set(asl["States"]["A"]["Parameters"]["Payload"]) == {
        "executionId.$", "currentStage", "workflowBucket", "initialData.$",
    }  # fmt: skip
    assert asl["States"]["B"]["Parameters"]["Payload"]["previousStage"] == "A"
    assert asl["States"]["A"]["ResultPath"] is None
    assert asl["States"]["B"]["Retry"][-1] == {
        "ErrorEquals": ["States.ALL"], "MaxAttempts": 2, "IntervalSeconds": 20, "BackoffRate": 2.0,
    }  # fmt: skip
    assert lint(asl) == []


def test_express_is_refused_when_it_cannot_fit():
    with pytest.raises(InvalidInputError, match="may take 600 s in all, an EXPRESS workflow has 300 s"):
        Workflow("w", WorkflowType.EXPRESS, [LambdaStep("A", "a", 300), LambdaStep("B", "b", 300)]).validate()
    with pytest.raises(InvalidInputError, match="'G' is a Glue job"):
        Workflow("w", WorkflowType.EXPRESS, [GlueStep("G", "job", 10)]).validate()
    warnings = Workflow("w", WorkflowType.EXPRESS, [LambdaStep("A", "a", 200)]).validate()
    assert "0 of 2 retries fit in 300 s" in warnings[0]
    glue = create_standard_workflow("w", [LambdaStep("A", "a"), GlueStep("G", "job")]).to_asl()
    assert glue["States"]["G"]["Resource"].endswith("startJobRun.sync")


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], "it has no steps"),
        ([LambdaStep("A", "a"), LambdaStep("A", "b")], "'A' is used twice"),
        ([LambdaStep("a/b", "a")], "expected letters"),
    ],
)
def test_broken_definitions_are_named(steps, expected):
    with pytest.raises(InvalidInputError, match=expected):
        Workflow("w", WorkflowType.STANDARD, steps).validate()


def test_choice_pass_wait_and_catch(store, clock):
    definition = {
        "StartAt": "Look",
        "States": {
            "Look": {"Type": "Choice", "Choices": [{"Variable": "$.n", "NumericGreaterThan": 5, "Next": "Big"}], "Default": "Small"},
            "Big": {"Type": "Task", "Resource": "lambda:invoke", "Parameters": {"FunctionName": "boom", "Payload": {"n.$": "$.n"}},
                    "Catch": [{"ErrorEquals": ["ValueError"], "ResultPath": "$.error", "Next": "Rest"}], "Next": "Rest"},
            "Rest": {"Type": "Wait", "Seconds": 31_536_000, "Next": "Mark"},
            "Mark": {"Type": "Pass", "Result": "caught", "ResultPath": "$.mark", "End": True},
            "Small": {"Type": "Fail", "Error": "TooSmall", "Cause": "n"},
        },
    }  # fmt: skip

    def boom(payload):
        raise ValueError(payload["n"])

    runner = LocalRunner(store.db, {"boom": boom}, clock)
    assert runner.start("c", definition, {"n": 9}, "c1").status == "SUCCEEDED"
    output = json.loads(store.db.execute("SELECT output FROM executions WHERE id = 'c1'")[0][0])
    cause = json.loads(output["error"].pop("Cause"))  # as Lambda reports an exception
    assert (cause["errorType"], cause["errorMessage"]) == ("ValueError", "9")
    assert output == {"n": 9, "error": {"Error": "ValueError"}, "mark": "caught"}
    with pytest.raises(StageFailedError, match="TooSmall"):
        runner.start("c", definition, {"n": 1}, "c2")
