"""Workflows: what they refuse, all at once, and what they compile to."""

from __future__ import annotations

import json

import pytest

from headgate.errors import InvalidInputError, StageFailedError
from headgate.testing.objects import MemoryObjects
from headgate.workflow import (
    PERMANENT_ERRORS,
    GlueStep,
    LambdaStep,
    MigrationMode,
    Naming,
    RetryConfiguration,
    Workflow,
    WorkflowConfiguration,
    WorkflowHandler,
    WorkflowStepType,
    WorkflowType,
    create_express_workflow,
    create_standard_workflow,
    local_functions,
    stage,
    stage_output,
    workflow_bucket_name,
)

STEPS = [LambdaStep("A", "a"), LambdaStep("B", "b")]


def refused(workflow):
    with pytest.raises(InvalidInputError) as found:
        workflow.validate()
    with pytest.raises(InvalidInputError):
        workflow.to_asl()
    return str(found.value)


# --- making one


def test_types_are_coerced_and_steps_may_be_any_list():
    workflow = Workflow("w", " express ", (s for s in STEPS), migration="full", bucket="bucket")
    assert (workflow.type, workflow.migration, workflow.steps) == (
        WorkflowType.EXPRESS,
        MigrationMode.FULL,
        tuple(STEPS),
    )
    assert Workflow("w", "STANDARD", iter(STEPS)) == Workflow("w", WorkflowType.STANDARD, list(STEPS))


def test_the_contracts_names_are_taken():
    retry = RetryConfiguration(max_attempts=1)
    workflow = WorkflowConfiguration(
        workflowName="w", workflowType="STANDARD", steps=[WorkflowStepType.Lambda("A", "a"), WorkflowStepType.Glue("G", "j")],
        workflowBucket="bucket", sourceQueue="q", retryConfig=retry, migrationMode="HYBRID",
        lambdaFunctions={"a": None},
    )  # fmt: skip
    assert (workflow.name, workflow.bucket, workflow.source_queue, workflow.retry) == ("w", "bucket", "q", retry)
    assert all(isinstance(step, WorkflowStepType) for step in workflow.steps)
    assert workflow.validate() == []


@pytest.mark.parametrize(
    ("args", "keywords", "rule"),
    [
        (("w", "EXPRESS", STEPS), {"retires": 1}, "unknown keyword 'retires'; expected name, type, steps"),
        (("w", "EXPRESS", STEPS), {"workflowName": "x"}, "name is given twice"),
        (("w",), {}, "type, steps missing"),
        (tuple("123456789ab"), {}, "at most 9 positional arguments; 11 were given"),
        (("w", "EXPRESS", STEPS), {"naming": Naming("s", "e"), "function_names": {}}, "both given"),
    ],
)
def test_wrong_keywords_are_named(args, keywords, rule):
    with pytest.raises(InvalidInputError, match=rule):
        Workflow(*args, **keywords)
    if args == ("w", "EXPRESS", STEPS):
        with pytest.raises(InvalidInputError, match=rule):
            create_express_workflow("w", STEPS, **keywords)


def test_the_factories_validate():
    assert create_express_workflow("w", STEPS).type is WorkflowType.EXPRESS
    assert create_standard_workflow("w", [GlueStep("G", "j")]).invocation_type == "FIRE_AND_FORGET"
    with pytest.raises(InvalidInputError, match="has no steps"):
        create_standard_workflow("w", [])


# --- problems


def test_every_problem_is_named_at_once():
    workflow = Workflow(
        " ", "FAST", [LambdaStep("A", ""), LambdaStep("A", "x", 0), GlueStep("a/b", " "), "text", LambdaStep("", "y", 901)],
        "My_Bucket", RetryConfiguration(-1, 0.5, 0.5, 1.5, 0, float("nan")), source_queue="",
    )  # fmt: skip
    message = refused(workflow)
    for rule in (
        "type 'FAST': expected EXPRESS or STANDARD", "the name is blank", "source_queue is blank",
        "bucket 'My_Bucket': expected up to 63 lower-case", "step 4 is str; expected LambdaStep", "a step's name is blank",
        "step name 'a/b': expected letters", "step name 'A' is used twice", "'a/b': the Glue job's name is blank",
        "step 'A': the function key is blank", "retry.max_attempts is -1", "retry.interval_s is 0.5; expected whole seconds",
        "retry.backoff_rate is 0.5", "retry.glue_max_attempts is 1.5", "retry.glue_interval_s is 0", "glue_backoff_rate is nan",
        "step 'A': timeout_s is 0; expected whole seconds from 1 to 900 (Lambda's limit)", "timeout_s is 901",
    ):  # fmt: skip
        assert rule in message
    assert len(workflow.problems()) == len(set(workflow.problems())) == 18


@pytest.mark.parametrize(
    ("workflow", "rule"),
    [
        (Workflow("x", "EXPRESS", [LambdaStep("A", "a", 400)]), "may take 400 s in all, an EXPRESS workflow has 300 s"),
        (Workflow("x", "EXPRESS", [LambdaStep("A", "a", 150), LambdaStep("B", "b", 151)]), "may take 301 s in all"),
        (Workflow("x", "EXPRESS", [LambdaStep("A", "a"), GlueStep("G", "j", 9)]), "'G' is a Glue job, which an EXPRESS"),
        (Workflow("x", "STANDARD", [GlueStep(f"G{n}", "j", 604_800) for n in range(53)]), "a STANDARD workflow has 31536000 s"),
        (Workflow("x", "STANDARD", [GlueStep("G", "j", 604_801)]), "timeout_s is 604801; expected whole seconds"),
        (Workflow("x", "EXPRESS", [LambdaStep("A", "a", True)]), "timeout_s is True"),
        (Workflow("x", "EXPRESS", [LambdaStep("A", "a", float("nan"))]), "timeout_s is nan"),
        (Workflow("x", "EXPRESS", [LambdaStep("A", "a", "60")]), "timeout_s is '60'"),
        (Workflow("x y", "EXPRESS", STEPS), "the name 'x y': expected letters, digits, '-' and '_'"),
        (Workflow("x" * 73, "EXPRESS", STEPS), "has 81 characters; Step Functions allows 80"),
        (Workflow("x" * 72, "STANDARD", STEPS), "has 81 characters; Step Functions allows 80"),
        (Workflow("x" * 54, "EXPRESS", STEPS, source_queue="q"), "has 65 characters; EventBridge Pipes allows 64"),
        (Workflow("x", "EXPRESS", STEPS, "b" * 64), "bucket 'bbb"),
        (Workflow("x", "EXPRESS", STEPS, "a..b"), "S3 takes no two dots"),
        (Workflow("x", "EXPRESS", STEPS, ""), "bucket '': it is blank"),
        (Workflow("x", "EXPRESS", LambdaStep("A", "a")), "steps is LambdaStep; expected a list"),
        (Workflow("x", "EXPRESS", None), "steps is NoneType; expected a list"),
        (Workflow("x", None, STEPS), "type None: expected EXPRESS or STANDARD"),
        (Workflow("x", "EXPRESS", [LambdaStep("A" * 81, "a")]), "step name 'AAA"),
        (Workflow("x", "STANDARD", [GlueStep("initial", "j")]), "'initial' is that of a state which the workflow adds"),
        (Workflow("x", "EXPRESS", STEPS, functions={"a": len}), "step 'B': unknown function key 'b'; known are: a"),
        (Workflow("x", "EXPRESS", STEPS, functions=[1]), "functions is list; expected function key -> handler"),
        (Workflow("x", "EXPRESS", STEPS, function_names={"a": "f"}), "step 'B': unknown function key 'b' has no name"),
        (Workflow("x", "EXPRESS", STEPS, function_names={"a": "f", "b": "f"}), "'a' and 'b' both have the function name 'f'"),
        (Workflow("x", "EXPRESS", STEPS, function_names={"a": "f" * 65, "b": "g"}), "has 65 characters; Lambda allows 64"),
        (Workflow("x", "EXPRESS", STEPS, function_names={"a": "f g", "b": "arn:x"}), "it is no ARN of a Lambda function"),
        (Workflow("x", "EXPRESS", STEPS, naming=Naming("S" * 60, "dev")), "has 66 characters; Lambda allows 64"),
        (Workflow("x", "EXPRESS", STEPS, naming=Naming("", "dev")), "naming stack ''"),
        (Workflow("x", "EXPRESS", STEPS, naming=Naming("s", "dev", "RANDOM")), "naming strategy 'RANDOM'"),
        (Workflow("x", "EXPRESS", STEPS, naming=Naming("s", "d", "EXPLICIT", {"a": "f"})), "EXPLICIT does not use"),
        (Workflow("x", "EXPRESS", STEPS, migration="HALF"), "migration 'HALF': expected LEGACY, HYBRID, FULL"),
        (Workflow("x", "EXPRESS", [LambdaStep("A", "a", 9, False)]), "uses_s3_orchestration=False, the workflow FULL"),
        (Workflow("x", "EXPRESS", [LambdaStep("A", "a", 9, True)], migration="LEGACY"), "the workflow LEGACY"),
        (Workflow("x", "EXPRESS", STEPS, retry=3), "retry is int; expected RetryConfiguration"),
        (Workflow("x", "EXPRESS", STEPS, source_queue=" "), "source_queue is blank"),
    ],
)  # fmt: skip
def test_each_limit_is_named(workflow, rule):
    assert rule in refused(workflow)


def test_limits_themselves_are_taken():
    assert Workflow("x" * 72, "EXPRESS", [LambdaStep("A" * 80, "a", 300)], "b" * 63).problems() == []
    assert Workflow("x" * 53, "EXPRESS", STEPS, source_queue="q").problems() == []
    assert Workflow("x", "STANDARD", [LambdaStep("A", "a", 900.0), GlueStep("G", "j", 604_800)]).problems() == []


def test_retries_that_do_not_fit_are_a_warning_with_their_number():
    (warning,) = Workflow("w", "EXPRESS", [LambdaStep("A", "a", 200)]).validate()
    assert "with all 2 retries it may take 660 s, and an EXPRESS workflow has 300 s" in warning
    assert "0 of 2 retries fit in 300 s" in warning
    (warning,) = Workflow("w", "EXPRESS", [LambdaStep("A", "a", 100), LambdaStep("B", "b", 50)]).validate()
    assert "with all 4 retries it may take 570 s" in warning  # 3 * 150 + 2 * (20 + 40)
    assert "'A', 1 of 2 retries fit" in warning  # 150 + 20 + 100 = 270; the next needs 140 more
    assert Workflow("w", "EXPRESS", [LambdaStep("A", "a", 80)]).validate() == []  # 3 * 80 + 60 = 300
    assert Workflow("w", "STANDARD", [LambdaStep("A", "a", 900)]).validate() == []
    (warning,) = Workflow("w", "STANDARD", STEPS, "b").validate()
    assert "bucket 'b' can only be a local one" in warning


def test_bucket_names_of_an_environment():
    assert workflow_bucket_name("dev", "123456789012", "scoring") == "scoring-workflow-dev-123456789012"
    with pytest.raises(InvalidInputError, match="expected up to 63 lower-case"):
        workflow_bucket_name("Dev", "1")


# --- what it compiles to


def test_the_whole_of_a_mixed_definition():
    workflow = Workflow("w", "STANDARD", [LambdaStep("A", "a", 30), GlueStep("G", "job", 600)], "bucket")
    permanent = {"ErrorEquals": list(PERMANENT_ERRORS), "MaxAttempts": 0}
    assert workflow.to_asl() == {
        "Comment": "w (STANDARD)",
        "StartAt": "A",
        "States": {
            "A": {
                "Type": "Task",
                "Resource": "arn:aws:states:::lambda:invoke",
                "Parameters": {
                    "FunctionName": "a",
                    "Payload": {
                        "executionId.$": "$$.Execution.Name", "currentStage": "A", "workflowBucket": "bucket",
                        "initialData.$": "$$.Execution.Input",
                    },
                },
                "TimeoutSeconds": 30,
                "Retry": [
                    permanent,
                    {"ErrorEquals": ["States.ALL"], "IntervalSeconds": 20, "MaxAttempts": 2, "BackoffRate": 2.0},
                ],
                "ResultPath": None,
                "Next": "G",
            },
            "G": {
                "Type": "Task",
                "Resource": "arn:aws:states:::glue:startJobRun.sync",
                "Parameters": {
                    "JobName": "job",
                    "Arguments": {
                        "--execution-id.$": "$$.Execution.Name",
                        "--input-bucket": "bucket",
                        "--input-key.$": "States.Format('executions/{}/A/output.json', $$.Execution.Name)",
                        "--output-bucket": "bucket",
                        "--output-key.$": "States.Format('executions/{}/G/output.json', $$.Execution.Name)",
                    },
                },
                "TimeoutSeconds": 600,
                "Retry": [{"ErrorEquals": ["States.ALL"], "IntervalSeconds": 300, "MaxAttempts": 2, "BackoffRate": 2.0}],
                "ResultPath": None,
                "End": True,
            },
        },
    }  # fmt: skip


def test_whole_numbers_are_integers_in_the_text():
    retry = RetryConfiguration(2.0, 1.0, 1.5, 3.0, 60.0)
    steps = [LambdaStep("A", "a", 30.0), GlueStep("G", "j", 60.0)]
    text = json.dumps(Workflow("w", "STANDARD", steps, retry=retry).to_asl())
    assert '"IntervalSeconds": 1,' in text
    assert '"TimeoutSeconds": 30' in text
    assert '"MaxAttempts": 3,' in text
    assert not any(
        f'"{field}": {number}.0' in text for field in ("IntervalSeconds", "MaxAttempts") for number in range(99)
    )


def test_an_express_machine_has_its_five_minutes():
    assert Workflow("w", "EXPRESS", STEPS).to_asl()["TimeoutSeconds"] == 300
    assert "TimeoutSeconds" not in Workflow("w", "STANDARD", STEPS).to_asl()


def test_a_glue_job_that_comes_first_has_its_input_written():
    asl = Workflow("w", "STANDARD", [GlueStep("G", "j"), LambdaStep("B", "b")], "bucket").to_asl()
    assert (asl["StartAt"], list(asl["States"])) == ("initial", ["initial", "G", "B"])
    first = asl["States"]["initial"]
    assert first["Parameters"]["FunctionName"] == "workflowInputLambda"
    assert first["Parameters"]["Payload"]["currentStage"] == "initial"
    assert asl["States"]["G"]["Parameters"]["Arguments"]["--input-key.$"].startswith(
        "States.Format('executions/{}/initial/"
    )


def test_function_keys_become_names():
    named = Workflow("w", "STANDARD", [GlueStep("G", "j"), *STEPS], naming=Naming("Stack", "dev")).to_asl()
    assert [s["Parameters"].get("FunctionName") for s in named["States"].values()] == [
        "Stack-dev-WorkflowInputLambda", None, "Stack-dev-A", "Stack-dev-B",
    ]  # fmt: skip
    arn = "arn:aws:lambda:eu-west-1:123456789012:function:Old-A-X1:live"
    dual = Workflow("w", "EXPRESS", STEPS, naming=Naming("Stack", "dev", "dual".upper(), {"a": arn})).to_asl()
    assert [s["Parameters"]["FunctionName"] for s in dual["States"].values()] == [arn, "Stack-dev-B"]


def test_a_hybrid_workflow_has_bridges_where_the_kinds_meet():
    steps = [LambdaStep("Old", "old", 9, False), LambdaStep("New", "new"), LambdaStep("Older", "older", 9, False)]
    asl = Workflow("w", "EXPRESS", steps, "bucket", migration="HYBRID").to_asl()
    assert list(asl["States"]) == ["Old", "Old-save", "New", "Older-load", "Older"]
    assert asl["States"]["Old"]["Parameters"] == {"FunctionName": "old", "Payload.$": "$"}
    assert asl["States"]["Old"]["OutputPath"] == "$.Payload"
    assert asl["States"]["Old-save"]["Parameters"]["Payload"] == {
        "operation": "save", "executionId.$": "$$.Execution.Name", "currentStage": "Old", "workflowBucket": "bucket",
        "initialData.$": "$",
    }  # fmt: skip
    assert asl["States"]["New"]["Parameters"]["Payload"]["previousStage"] == "Old"
    assert asl["States"]["Older-load"]["Parameters"]["Payload"]["previousStage"] == "New"
    fed = Workflow("w", "EXPRESS", steps[:1], "bucket", migration="LEGACY", source_queue="q").to_asl()
    assert list(fed["States"]) == ["Old-load", "Old"] if steps[0].uses_s3_orchestration is False else []


# --- running one


class Append(WorkflowHandler):
    def process(self, data, context):
        return [*data, context.currentStage]


@pytest.fixture
def run(store, clock):
    objects = MemoryObjects()

    def start(workflow, data, **options):
        return workflow.run(data, objects=objects, database=store.db, clock=clock, **options)

    start.objects = objects
    return start


def test_functions_run_as_they_are_written(run):
    @stage
    def double(data):
        return [2 * n for n in data]

    @stage(timeout_s=10)
    def total(data):
        return {"sum": sum(data)}

    done = run(Workflow("numbers", "EXPRESS", [double, total]), [1, 2, 3])
    assert (done.status, done.data) == ("SUCCEEDED", {"sum": 12})
    assert stage_output(run.objects, done.id, "double") == [2, 4, 6]
    html = done._repr_html_()
    assert "<svg" in html
    assert f"{done.id}: SUCCEEDED" in html


def test_the_pipes_array_is_taken_apart_by_the_first_stage(run):
    workflow = Workflow("w", "EXPRESS", STEPS, functions={"a": Append, "b": Append})
    assert run(workflow, [{"messageId": "m", "body": "[1]"}]).data == [1, "A", "B"]


def test_stages_handlers_classes_and_plain_functions_are_taken(run, clock):
    own = MemoryObjects()

    def plain(event, context):
        return Append(run.objects, clock)(event)

    steps = [LambdaStep(name, name.lower()) for name in "ABC"]
    functions = {"a": Append, "b": Append(run.objects, clock), "c": plain}
    assert run(Workflow("w", "EXPRESS", steps), [], functions=functions).data == ["A", "B", "C"]
    assert own.list() == []


@pytest.mark.parametrize(
    ("workflow", "options", "rule"),
    [
        (Workflow("w", "EXPRESS", STEPS), {}, "step 'A' has nothing to run for the function key 'a'"),
        (Workflow("w", "EXPRESS", STEPS), {"functions": {"a": Append, "b": Append, "c": Append}}, "no step has the function key 'c'"),
        (Workflow("w", "EXPRESS", STEPS), {"functions": {"a": 7, "b": Append}}, "a function of a workflow is int"),
        (Workflow("w", "STANDARD", [GlueStep("G", "j")]), {}, "step 'G' has nothing to run for the Glue job 'j'"),
        (Workflow("w", "STANDARD", [GlueStep("G", "j")]), {"jobs": {"j": len, "k": len}}, "no step has the Glue job 'k'"),
        (Workflow("w", "EXPRESS", []), {}, "it has no steps"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_named_before_anything_runs(run, store, workflow, options, rule):
    with pytest.raises(InvalidInputError, match=rule):
        run(workflow, [], **options)
    assert store.count("SELECT count(*) FROM executions") == 0


def test_deployed_names_run_too(run):
    workflow = Workflow("w", "EXPRESS", STEPS, naming=Naming("Stack", "dev"), functions={"a": Append, "b": Append})
    assert run(workflow, []).data == ["A", "B"]
    assert set(local_functions(workflow, run.objects)) == {"Stack-dev-A", "Stack-dev-B"}


@pytest.mark.parametrize("old", ["A", "B", "C", "AB", "BC", "AC", "ABC"])
def test_old_handlers_and_stages_run_in_one_workflow(run, old):
    def handler(name):
        return lambda event, context: [*event, name]

    steps = [LambdaStep(n, n.lower(), 9, n not in old) for n in "ABC"]
    functions = {n.lower(): handler(n) if n in old else Append for n in "ABC"}
    workflow = Workflow("w", "EXPRESS", steps, migration="HYBRID", functions=functions)
    done = run(workflow, ["x"])
    assert done.status == "SUCCEEDED"
    if "C" not in old:
        assert done.data == ["x", "A", "B", "C"]
    assert done.data is None or "C" not in old


def test_a_failure_is_raised_and_names_the_permanent_error(run, clock):
    @stage(name="A", function_key="a")
    def broken(data):
        return float("nan")

    before = clock.now_us()
    with pytest.raises(
        StageFailedError, match="HeadgatePermanentError: InvalidInputError: stage 'A' returned data that is not"
    ):
        run(Workflow("w", "EXPRESS", [broken]), 1)
    assert clock.now_us() == before  # it was not tried again


def test_a_run_with_defaults_is_durable_in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = []

    @stage
    def count(data):
        calls.append(data)
        return [data]

    workflow = Workflow("w", "EXPRESS", [count])
    assert workflow.run({"n": 1}, execution_id="one").data == [{"n": 1}]
    assert workflow.run({"n": 1}, execution_id="one").data == [{"n": 1}]
    assert calls == [{"n": 1}]
    assert (tmp_path / "headgate-data" / "objects" / "executions" / "one" / "count" / "output.json").exists()


def test_notebooks_show_the_graph_or_what_is_wrong():
    assert "<svg" in Workflow("w", "EXPRESS", STEPS)._repr_html_()
    assert "<li>it has no steps</li>" in Workflow("<w>", "EXPRESS", [])._repr_html_()
    assert "&lt;w&gt;" in Workflow("<w>", "EXPRESS", [])._repr_html_()
