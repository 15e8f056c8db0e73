"""The workflow's integration tests on the local pipe: from a message in the queue to the outputs of every stage."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys

import pytest

from headgate import _native
from headgate._core import SeededRandom, SystemClock
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.errors import ConfigError, StageFailedError
from headgate.pipelines.scoring import ETLStage, scoring_functions, scoring_workflow
from headgate.workflow import (
    EmbeddedBucket,
    GlueStep,
    LambdaStep,
    LocalPipe,
    LocalRunner,
    Workflow,
    WorkflowHandler,
    failure_key,
    local_functions,
    output_key,
    stage_output,
)

DAY_US = 86_400 * 1_000_000
STAGES = ["ETLStage", "FilterStage", "ScoreStage", "StoreStage", "ReactiveStage"]
REQUEST = {
    "programId": "reviews", "marketplace": "de",
    "dateRange": {"start": "2026-01-01T00:00:00Z", "end": "2026-05-28T00:00:00Z"},
}  # fmt: skip


def connector(request, start, end):
    for n in range(8):
        yield {
            "customerId": f"c{n}", "subjectType": "order", "subjectId": f"s{n}", "eventDate": f"2026-0{1 + n % 5}-10T00:00:00Z",
            "attributes": {"action": "delete" if n == 3 else "submit"},
        }  # fmt: skip


@pytest.fixture
def deployed(tmp_path, store, clock):
    """The shipped workflow behind a queue: (pipe, bucket)."""
    bucket = EmbeddedBucket(tmp_path / "bucket", clock)
    functions = {**scoring_functions(bucket, clock), "etlLambda": ETLStage(bucket, clock, connector)}
    workflow = scoring_workflow(bucket="scoring", source_queue="requests")
    runner = LocalRunner(store.db, local_functions(workflow, bucket, clock, functions), clock)
    return LocalPipe.of(workflow, store, runner, random=SeededRandom(1)), bucket


def only_execution(bucket):
    (execution,) = {key.split("/")[1] for key in bucket.list("executions/")}
    return execution


def failed_attempts(store, execution):
    rows = store.db.execute("SELECT type, state FROM execution_events WHERE execution = ?", (execution,))
    return [state for kind, state in rows if kind in ("StateRetried", "StateFailed", "TaskFailed")]


@pytest.mark.parametrize("feed", ["raw", "sns"])
def test_17_1_express_from_message_to_outputs(deployed, feed):
    pipe, bucket = deployed
    body = json.dumps(REQUEST)
    if feed == "sns":
        body = json.dumps({"Type": "Notification", "TopicArn": "arn:aws:sns:eu-west-1:1:t", "Message": body})
    pipe.send(body)
    assert pipe.drain().succeeded == 1
    execution = only_execution(bucket)
    assert bucket.list("executions/") == sorted(output_key(execution, stage) for stage in STAGES)
    final = stage_output(bucket, execution, "ReactiveStage")
    assert {k: final["metrics"][k] for k in ("subjects", "rejected", "scoredCount", "storedCount", "reactions")} == {
        "subjects": 8, "rejected": 1, "scoredCount": 7, "storedCount": 7, "reactions": 6,
    }  # fmt: skip
    assert [r["subjectId"] for r in final["rejected"]] == ["s3"]
    stored = [c for key in bucket.list("candidates/") for c in json.loads(bucket.get(key))]
    assert sorted(c["customerId"] for c in stored) == ["c0", "c1", "c2", "c4", "c5", "c6", "c7"]


def test_17_3_a_failed_attempt_is_retried_and_stands_in_the_history(deployed, store, clock):
    pipe, bucket = deployed
    _native.set_faults("stage.ScoreStage:fail:1")
    before = clock.now_us()
    pipe.send(REQUEST)
    assert pipe.drain().succeeded == 1
    execution = only_execution(bucket)
    assert failed_attempts(store, execution) == ["ScoreStage"]
    assert clock.now_us() - before == 20_000_000
    assert json.loads(bucket.get(failure_key(execution, "ScoreStage")))["errorType"] == "TransientError"


def test_17_4_a_permanent_failure_ends_in_the_dead_letters_with_the_original_message(deployed, store, clock):
    pipe, bucket = deployed
    body = '{"programId":"reviews",   "marketplace":"de"}'  # no date range
    pipe.send(body)
    for _ in range(5):
        pipe.drain()
        clock.advance_us(600_000_000)
    assert (pipe.result.received, pipe.result.failed, pipe.result.dead_lettered, pipe.depth()) == (3, 3, 1, 0)
    (letter,) = pipe.dead_letters()
    assert letter["doc"] == body
    executions = {key.split("/")[1] for key in bucket.list("executions/")}
    assert len(executions) == 3  # each delivery is an execution of its own
    for execution in executions:
        assert failed_attempts(store, execution) == ["ETLStage"]  # not retried: permanent


def test_17_5_outputs_are_gone_after_seven_days(deployed, clock):
    pipe, bucket = deployed
    pipe.send(REQUEST)
    pipe.drain()
    kept = bucket.list("candidates/")
    clock.advance_us(7 * DAY_US - 1)
    assert bucket.expire() == []
    assert len(bucket.list("executions/")) == 5
    clock.advance_us(1)
    assert len(bucket.expire()) == 5
    assert (bucket.list("executions/"), bucket.list("candidates/")) == ([], kept)


def test_17_6_logs_and_history_say_what_ran(deployed, store, caplog):
    pipe, bucket = deployed
    with caplog.at_level(logging.INFO, "headgate.workflow"):
        ident = pipe.send(REQUEST)
        pipe.drain()
    execution = only_execution(bucket)
    started, *_ = [r for r in caplog.records if r.message == "execution started"]
    assert (started.executionId, started.messageId, started.delivery) == (execution, ident, 1)
    stages = [r for r in caplog.records if r.message == "stage started"]
    assert [(r.executionId, r.currentStage) for r in stages] == [(execution, stage) for stage in STAGES]
    assert [r.outputPath for r in stages] == [f"s3://scoring/{output_key(execution, stage)}" for stage in STAGES]
    assert [r.inputPath for r in stages[1:]] == [r.outputPath for r in stages[:-1]]
    ((given, status),) = store.db.execute("SELECT input, status FROM executions")
    assert (json.loads(json.loads(given)[0]["body"]), status) == (REQUEST, "SUCCEEDED")
    rows = store.db.execute("SELECT state FROM execution_events WHERE execution = ? ORDER BY id", (execution,))
    assert list(dict.fromkeys(state for (state,) in rows if state)) == STAGES


# --- Standard, with a job


class Numbers(WorkflowHandler):
    def process(self, data, context):
        return [2 * n for n in data]


def job(bucket, failures=0, calls=None):
    """What a Glue job does, without Spark: five arguments, one object at the output key."""
    left = [failures]

    def run(arguments):
        if calls is not None:
            calls.append(dict(arguments))
        if left[0]:
            left[0] -= 1
            message = "out of capacity"
            raise RuntimeError(message)
        given = json.loads(bucket.get(arguments["--input-key"]))
        stage = arguments["--output-key"].split("/")[2]
        data = [n + 1 for n in given["data"]]
        counts = {"processingTimeMs": 0, "inputRecordCount": len(data), "outputRecordCount": len(data)}
        output = {**given, "stage": stage, "data": data, "metadata": counts}
        bucket.put(arguments["--output-key"], json.dumps(output).encode(), True)

    return run


@pytest.fixture
def mixed(tmp_path, store, clock):
    """Makes a STANDARD pipe of steps named by their kinds: `mixed("GLG")`."""
    bucket = EmbeddedBucket(tmp_path / "bucket", clock)

    def make(kinds, failures=0, **options):
        steps = [
            GlueStep(f"Job{n}", "job", 600) if kind == "G" else LambdaStep(f"Stage{n}", "numbers", 60)
            for n, kind in enumerate(kinds)
        ]
        workflow = Workflow("mixed", "STANDARD", steps, "bucket", source_queue="numbers")
        make.calls = []
        jobs = {"job": job(bucket, failures, make.calls)}
        functions = {"numbers": Numbers} if "L" in kinds else {}
        known = local_functions(workflow, bucket, clock, functions, jobs)
        return LocalPipe.of(workflow, store, LocalRunner(store.db, known, clock), **options), bucket

    return make


@pytest.mark.parametrize("kinds", ["G", "GL", "LG", "LGL", "GGL", "GLG"])
def test_17_2_standard_with_a_job_first_in_the_middle_or_last(mixed, kinds):
    pipe, bucket = mixed(kinds)
    pipe.send([1, 2])
    assert (pipe.drain().succeeded, pipe.depth()) == (1, 0)
    execution = only_execution(bucket)
    expected = [1, 2]
    names = []
    for number, kind in enumerate(kinds):
        expected = [n + 1 if kind == "G" else 2 * n for n in expected]
        names.append(f"Job{number}" if kind == "G" else f"Stage{number}")
        assert stage_output(bucket, execution, names[-1]) == expected
    written = names if kinds[0] == "L" else ["initial", *names]
    assert bucket.list("executions/") == sorted(output_key(execution, name) for name in written)
    before = dict(zip(names, [None, *names] if kinds[0] == "L" else written, strict=False))
    for arguments in mixed.calls:
        stage = arguments["--output-key"].split("/")[2]
        assert arguments == {
            "--execution-id": execution, "--input-bucket": "bucket", "--input-key": output_key(execution, before[stage]),
            "--output-bucket": "bucket", "--output-key": output_key(execution, stage),
        }  # fmt: skip


def test_29_a_job_out_of_retries_fails_the_execution_with_details_and_34_is_reported(mixed, store, clock):
    """Feature: infrastructure-enhancement, Property 29 and 34."""
    events = []
    pipe, _ = mixed("LG", failures=99, on_failure=events.append)
    before = clock.now_us()
    pipe.send([1])
    assert pipe.drain().failed == 1
    assert clock.now_us() - before == 900_000_000  # 5 and 10 minutes
    ((status, cause),) = store.db.execute("SELECT status, cause FROM executions")
    assert status == "FAILED"
    assert "out of capacity" in cause
    (event,) = events
    assert event["detail"]["status"] == "FAILED"
    assert pipe.depth() == 0  # the pipe cannot bring it back


def test_a_job_is_retried_after_five_minutes(mixed, clock):
    pipe, _ = mixed("GL", failures=1)
    before = clock.now_us()
    pipe.send([1])
    assert pipe.drain().succeeded == 1
    assert clock.now_us() - before == 300_000_000


# --- the command


CONFIG = """
[backends]
objects = "file://objects"
store = "sqlite:///h.db"
durability = "normal"
[workflows.own]
definition = "own:definition"
functions = "own:functions"
queue = "own.requests"
"""
OWN = """
from headgate.workflow import LambdaStep, Workflow, stage

@stage
def double(data):
    return [2 * n for n in data["numbers"]]

def definition(retry):
    return Workflow("own", "EXPRESS", [double, LambdaStep("total", "total")], retry=retry)

def functions(objects, clock):
    @stage
    def total(data):
        return {"sum": sum(data)}
    return {"total": total}
"""
SERVE = """
import argparse, os, sys
from headgate import _native
from headgate.cli._workflow_serve import add_serve_arguments, serve_workflow
from headgate.config import load
from headgate.wiring import App
_native.set_faults(os.environ.get("HEADGATE_FAULTS", ""))
parser = argparse.ArgumentParser()
add_serve_arguments(parser)
sys.exit(serve_workflow(App(load("headgate.toml")), parser.parse_args(sys.argv[1:])))
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "headgate.toml").write_text(CONFIG)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "message.json").write_text('{"numbers": [1, 2, 3]}')
    return tmp_path


def serve(folder, *words, **environment):
    return subprocess.run(
        [sys.executable, "-c", SERVE, "own", *words], cwd=folder, capture_output=True, text=True, timeout=90,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", **environment},
    )  # fmt: skip


def outputs(folder):
    return sorted(
        json.loads(path.read_text())["data"]["sum"] for path in folder.glob("objects/executions/*/total/output.json")
    )


def test_serve_takes_messages_and_announcements(folder):
    sent = serve(folder, "--send", "message.json", "--until-empty")
    assert sent.returncode == 0, sent.stderr
    assert json.loads(sent.stdout) == {
        "received": 1, "succeeded": 1, "failed": 0, "dead_lettered": 0, "continued": 0, "waiting": 0,
    }  # fmt: skip
    store = LocalStore(LocalDatabase(str(folder / "h.db"), durability="normal"), SystemClock(), "p")
    store.publish("own.requests", "k", {"numbers": [5]})
    store.db.close()
    assert json.loads(serve(folder, "--until-empty").stdout)["succeeded"] == 1
    assert outputs(folder) == [10, 12]


@pytest.mark.parametrize(
    "point", ["workflow.after_receive:kill:1", "stage.total:kill:1", "workflow.before_settle:kill:1"]
)
def test_a_killed_pipe_continues_its_execution(folder, point):
    killed = serve(folder, "--send", "message.json", "--until-empty", HEADGATE_FAULTS=point)
    assert killed.returncode == -signal.SIGKILL
    again = serve(folder, "--until-empty")
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert (found["continued"], found["succeeded"], found["received"], found["waiting"]) == (1, 1, 0, 0)
    assert outputs(folder) == [12]
    assert len(list((folder / "objects" / "executions").iterdir())) == 1


def test_serve_needs_a_queue_and_an_embedded_store(folder):
    from headgate.cli._workflow_serve import make_pipe
    from headgate.config import load
    from headgate.wiring import App

    (folder / "headgate.toml").write_text(CONFIG.replace('queue = "own.requests"\n', ""))
    sys.path.insert(0, str(folder))
    try:
        with pytest.raises(ConfigError, match=r"workflows.own.queue: missing"):
            make_pipe(App(load(str(folder / "headgate.toml"))), "own")
        with pytest.raises(ConfigError, match=r"workflows.other: there is no such workflow"):
            make_pipe(App(load(str(folder / "headgate.toml"))), "other")
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("own", None)


def test_graph_draws_files_and_configured_workflows(tmp_path, capsys):
    from headgate.cli._workflow_graph import add_graph_arguments, draw_graph
    from headgate.errors import InvalidInputError, NotFoundError

    asl = scoring_workflow(bucket="scoring").to_asl()
    (tmp_path / "m.asl.json").write_text(json.dumps(asl))
    (tmp_path / "h.json").write_text(
        json.dumps({"events": [{"type": "StateSucceeded", "state": "ETLStage", "duration_ms": 7}]})
    )
    (tmp_path / "broken.json").write_text("{")

    def draw(*words):
        parser = argparse.ArgumentParser()
        add_graph_arguments(parser)
        return draw_graph(parser.parse_args([str(w) for w in words]), {"scoring": asl}.__getitem__)

    draw("scoring")
    assert capsys.readouterr().out.startswith("flowchart TD")
    draw(tmp_path / "m.asl.json", "--format", "svg", "--history", tmp_path / "h.json", "--out", tmp_path / "m.svg")
    assert "7.0 ms" in (tmp_path / "m.svg").read_text()
    with pytest.raises(InvalidInputError, match="--history is drawn in SVG only"):
        draw("scoring", "--history", tmp_path / "h.json")
    with pytest.raises(InvalidInputError, match=r"broken.json is no JSON"):
        draw(tmp_path / "broken.json")
    with pytest.raises(NotFoundError, match=r"there is no file .*none.json"):
        draw(tmp_path / "none.json")


def test_a_stage_failure_without_the_pipe_is_raised(deployed):
    pipe, _ = deployed
    with pytest.raises(StageFailedError, match="lacks programId"):
        pipe.runner.start(pipe.name, pipe.definition, {}, "direct")
