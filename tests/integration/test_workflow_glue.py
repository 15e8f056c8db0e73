"""The Glue job's script on Spark in local mode, against a real S3 server."""

from __future__ import annotations

import importlib.util
import io
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

from headgate.backends.s3_objects import S3Objects
from headgate.errors import DuplicateError
from headgate.testing.servers import S3Server
from headgate.workflow import (
    GlueStep,
    LambdaStep,
    LocalPipe,
    LocalRunner,
    Workflow,
    WorkflowHandler,
    glue_script,
    local_functions,
    output_key,
    stage_output,
)

pytest.importorskip("pyspark")
ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "infra" / "glue" / "stage_job.py"
NUMBERS = itertools.count(1)  # a bucket for each test
pytestmark = [pytest.mark.xdist_group("spark"), pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def server():
    from headgate.errors import ConfigError, Kind

    try:
        with S3Server(ROOT / ".servers" / "versitygw" / "versitygw") as running:
            yield running
    except ConfigError as error:
        if error.kind is not Kind.NOT_BUILT:
            raise
        pytest.skip(error.message)


@pytest.fixture(params=["versitygw", "moto"])
def bucket(request, monkeypatch):
    """The object store of a bucket of a real S3 server, or of moto's."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    if request.param == "versitygw":
        environment = request.getfixturevalue("server").environment()
        stop = None
    else:
        from moto.server import ThreadedMotoServer

        moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        moto.start()
        host, port = moto.get_host_and_port()
        environment = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s",
            "AWS_DEFAULT_REGION": "us-east-1",
        }  # fmt: skip
        stop = moto.stop
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    name = f"glue-{next(NUMBERS)}"
    boto3.Session().client("s3").create_bucket(Bucket=name)
    yield S3Objects(f"s3://{name}")
    if stop:
        stop()


def load_script():
    spec = importlib.util.spec_from_file_location("stage_job", SCRIPT)
    job = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(job)
    return job


class Given(WorkflowHandler):
    def process(self, data, context):
        return data


def write_input(objects, data, form="json", execution="e1"):
    class Stage(Given):
        data_format = form

    Stage(objects)({"executionId": execution, "currentStage": "Before", "workflowBucket": "b", "initialData": data})


def words_of(name, execution="e1", **change):
    arguments = {
        "--execution-id": execution, "--input-bucket": name, "--input-key": output_key(execution, "Before"),
        "--output-bucket": name, "--output-key": output_key(execution, "Heavy"), **change,
    }  # fmt: skip
    return [word for pair in arguments.items() if pair[1] is not None for word in pair]


def run_job(name, execution="e1", script=SCRIPT):
    words = words_of(name, execution)
    return subprocess.run(
        [sys.executable, str(script), *words, "--JOB_NAME", "heavy"], capture_output=True, text=True, timeout=380, check=False,
        env={**os.environ, "PYTHONPATH": ""},  # it needs nothing of headgate
    )  # fmt: skip


def name_of(bucket):
    return bucket._at.bucket


def test_one_object_at_the_output_key_and_a_second_run_changes_nothing(bucket):
    records = [{"n": n % 3, "deep": {"x": [n % 3, None]}, "text": "\u00e9"} for n in range(7)]
    write_input(bucket, {"candidates": records, "programId": "p"})
    done = run_job(name_of(bucket))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "7 records read, 3 written" in done.stdout
    assert stage_output(bucket, "e1", "Heavy") == {"candidates": records[:3], "programId": "p"}
    envelope = json.loads(bucket.get(output_key("e1", "Heavy")))
    assert (envelope["stage"], envelope["metadata"]["inputRecordCount"], envelope["metadata"]["outputRecordCount"]) == (
        "Heavy", 7, 3,
    )  # fmt: skip
    assert bucket.list("executions/e1/Heavy") == [output_key("e1", "Heavy")]  # no folder of parts
    again = run_job(name_of(bucket))
    assert (again.returncode, "the output exists" in again.stdout) == (0, True)
    assert json.loads(bucket.get(output_key("e1", "Heavy"))) == envelope
    with pytest.raises(DuplicateError):
        bucket.put(output_key("e1", "Heavy"), b"{}", True)


@pytest.mark.parametrize("bucket", ["versitygw"], indirect=True)
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_large_data_beside_the_envelope_is_read_by_the_executors(bucket, tmp_path, form):
    small = tmp_path / "stage_job.py"  # the same script with small parts, so that little data crosses them
    text = SCRIPT.read_text()
    for name, value in (("INLINE_BYTES", 16), ("RANGE_BYTES", 8)):
        assert f"{name} = {value} * 1024 * 1024" in text
        text = text.replace(f"{name} = {value} * 1024 * 1024", f"{name} = 8 * 1024")
    small.write_text(text)
    records = [{"n": n, "text": f"{n} " * 20} for n in range(200 if form == "jsonl" else 50)]
    write_input(bucket, records, form)
    done = run_job(name_of(bucket), script=small)
    assert done.returncode == 0, done.stderr[-2000:]
    assert stage_output(bucket, "e1", "Heavy") == records
    assert len(bucket.list("executions/e1/Heavy/")) == (2 if form == "jsonl" else 1)


def test_every_line_is_read_once_wherever_the_ranges_end(monkeypatch):
    job = load_script()
    body = b"".join(json.dumps({"n": n, "x": "y" * (7 * n % 13)}).encode() + b"\n" for n in range(12)) + b'{"last": 1}'

    class Client:
        def get_object(self, Range, **_):  # noqa: N803 - as boto3 names it
            first, last = Range.removeprefix("bytes=").split("-")
            return {"Body": io.BytesIO(body[int(first) : int(last) + 1])}

    monkeypatch.setattr(job, "client", Client)
    expected = [json.loads(line) for line in body.splitlines()]
    for size in (*range(1, 40), len(body) - 1, len(body), len(body) + 1):
        monkeypatch.setattr(job, "RANGE_BYTES", size)
        ranges = [("b", "k", at, min(at + size, len(body)), len(body)) for at in range(0, len(body), size)]
        assert [record for part in ranges for record in job.read_lines(part)] == expected, size


@pytest.mark.parametrize("bucket", ["moto"], indirect=True)
@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"--input-key": None}, "argument --input-key is missing; expected --execution-id"),
        ({"--output-key": "out/output.json"}, "--output-key is no path of execution 'e9'"),
        ({"--input-key": "executions/other/Before/output.json"}, "--input-key is no path of execution 'e9'"),
        ({"--input-key": output_key("e9", "Heavy")}, "--input-key and --output-key are the same"),
        ({}, "the input at executions/e9/Before/output.json does not exist"),
        ("{", "the input is not JSON"),
        ("[]", "is no stage envelope"),
        ({"stage": "Other", "executionId": "e9", "data": []}, "belongs to another execution or stage"),
        ({"stage": "Before", "executionId": "e9", "data": 7}, "the input's data is int; expected a list of records"),
    ],
)  # fmt: skip
def test_wrong_arguments_and_inputs_are_one_sentence(bucket, capsys, change, rule):
    if isinstance(change, str) or "stage" in change:
        body = change if isinstance(change, str) else json.dumps(change)
        bucket.put(output_key("e9", "Before"), body.encode())
        change = {}
    assert load_script().main(words_of(name_of(bucket), "e9", **change)) == 1  # before Spark starts
    said = capsys.readouterr().err
    assert rule in said
    assert said.count("\n") == 1
    assert not bucket.exists(output_key("e9", "Heavy"))


class Double(WorkflowHandler):
    def process(self, data, context):
        return [{"n": 2 * record["n"]} for record in data]


@pytest.mark.parametrize("bucket", ["versitygw"], indirect=True)
def test_17_2_a_standard_workflow_with_the_script_first_and_in_the_middle(bucket, store):
    steps = [GlueStep("First", "heavy", 3600), LambdaStep("Double", "double"), GlueStep("Last", "heavy", 3600)]
    workflow = Workflow("mixed", "STANDARD", steps, name_of(bucket), source_queue="requests")
    known = local_functions(workflow, bucket, None, {"double": Double}, {"heavy": glue_script(str(SCRIPT))})
    pipe = LocalPipe.of(workflow, store, LocalRunner(store.db, known, store.clock))
    pipe.send([{"n": 1}, {"n": 1}, {"n": 2}])
    result = pipe.drain()
    assert (result.succeeded, result.failed, pipe.depth()) == (1, 0, 0)
    (execution,) = {key.split("/")[1] for key in bucket.list("executions/") if "/initial/" in key}
    assert stage_output(bucket, execution, "First") == [{"n": 1}, {"n": 2}]
    assert stage_output(bucket, execution, "Last") == [{"n": 2}, {"n": 4}]


def test_the_script_imports_nothing_of_headgate():
    import ast

    found = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(ast.parse(SCRIPT.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert found <= set(sys.stdlib_module_names) | {"boto3", "botocore", "pyspark", "py4j", "pyarrow"}
