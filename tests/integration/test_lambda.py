"""The checkpoint handler under AWS's own runtime client, which talks to a runtime API of this test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest

from headgate.checkpoint import Checkpoint
from headgate.testing.visits import write_wave

pytest.importorskip("awslambdaric")


@pytest.fixture
def bucket(monkeypatch):
    import requests
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    requests.post(f"http://{host}:{port}/moto-api/reset", timeout=10)
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "a-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    client = boto3.Session().client("s3")
    for name in ("logs", "out"):
        client.create_bucket(Bucket=name)
    yield client
    server.stop()


class RuntimeApi:
    """Hands out events one by one and keeps the answers (AWS Lambda's runtime interface, 2018-06-01)."""

    def __init__(self, events):
        self.answers = []
        self.done = threading.Event()
        waiting = list(enumerate(events))
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                if not waiting:
                    outer.done.set()
                    threading.Event().wait(60)
                    return
                number, event = waiting.pop(0)
                body = json.dumps(event).encode()
                self.send_response(200)
                self.send_header("Lambda-Runtime-Aws-Request-Id", f"request-{number}")
                self.send_header("Lambda-Runtime-Deadline-Ms", "4102444800000")
                self.send_header(
                    "Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:us-east-1:1:function:checkpoint"
                )
                self.send_header("Lambda-Runtime-Trace-Id", "Root=1-5759e988-bd862e3fe1be46a994272793")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.answers.append((self.path.rsplit("/", 1)[-1], json.loads(body)))
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def run(self):
        environment = {
            **os.environ, "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self.server.server_port}", "_HANDLER": "handlers.checkpoint",
            "AWS_LAMBDA_FUNCTION_NAME": "checkpoint", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "3008",
            "AWS_LAMBDA_FUNCTION_VERSION": "1", "AWS_LAMBDA_LOG_GROUP_NAME": "g", "AWS_LAMBDA_LOG_STREAM_NAME": "s",
            "POWERTOOLS_TRACE_DISABLED": "1", "LOG_LEVEL": "INFO",
        }  # fmt: skip
        command = [sys.executable, "-m", "awslambdaric", "headgate.handlers.checkpoint"]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.done.wait(60), process.communicate(timeout=5)
        process.kill()
        output = process.communicate()[0]
        self.server.shutdown()
        self.server.server_close()
        return output


def test_first_incremental_and_failing_runs(bucket, tmp_path):
    wave = write_wave(tmp_path, 60)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            bucket.put_object(
                Bucket="logs", Key=f"prod/{path.relative_to(tmp_path).as_posix()}", Body=path.read_bytes()
            )
    event = {"source_bucket": "logs", "checkpoint_bucket": "out", "checkpoint_key": "cp/e.parquet", "prefix": "prod/"}
    api = RuntimeApi(
        [
            event,
            event,
            {**event, "source_bucket": "nowhere"},
            {"source_bucket": 7, **dict.fromkeys(("checkpoint_key",), "x")},
        ]
    )
    output = api.run()
    assert [kind for kind, _ in api.answers] == ["response"] * 4
    first, second, failed, wrong = (answer for _, answer in api.answers)
    assert first["statusCode"] == 200
    assert set(first) >= {
        "checkpoint_path", "new_events_processed", "total_events", "events_failed", "last_processed_timestamp",
        "execution_time_ms",
    }  # fmt: skip
    assert (first["checkpoint_path"], first["new_events_processed"], first["events_failed"]) == (
        "s3://out/cp/e.parquet", wave.good, wave.bad)  # fmt: skip
    assert len(first["details"]["failed_files"]) == wave.bad
    assert (second["new_events_processed"], second["total_events"]) == (0, wave.good)
    assert second["last_processed_timestamp"] == first["last_processed_timestamp"]
    assert (failed["statusCode"], failed["error"], failed["details"]["error_count"]) == (500, "CheckpointError", 1)
    assert (wrong["statusCode"], wrong["error"]) == (400, "ValidationError")
    assert len(Checkpoint.read("s3://out/cp/e.parquet")) == wave.good

    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    metrics = [line for line in lines if "_aws" in line]
    assert [line["RunFailed"] for line in metrics] == [
        [0.0],
        [0.0],
        [1.0],
        [1.0],
    ]  # a 400 or 500 is no error for Lambda
    assert metrics[0]["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "EventLogCheckpoint"
    assert (metrics[0]["NewEventsProcessed"], metrics[0]["EventsFailed"], metrics[0]["IncrementalRun"]) == (
        [wave.good], [wave.bad], [0])  # fmt: skip
    assert metrics[1]["IncrementalRun"] == [1]
    logs = [line for line in lines if "level" in line]
    assert [line["message"] for line in logs if line["level"] == "ERROR"] == ["checkpoint failed", "wrong event"]
    assert all(line["service"] == "event-log-checkpoint" for line in logs)
    assert "a-secret" not in output


@pytest.mark.timeout(300)  # eleven cold starts
def test_every_handler_answers_under_the_runtime_client(tmp_path, capsys):
    """From this environment; `infra/ops/try_lambda.py` does it from the zips."""
    import importlib.util
    from pathlib import Path

    import headgate.handlers
    from headgate.handlers import stages

    root = Path(__file__).resolve().parents[2]
    spec = importlib.util.spec_from_file_location("try_lambda", root / "infra" / "ops" / "try_lambda.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    assert module.try_handlers(sys.executable, [str(Path(headgate.__file__).parents[1])], tmp_path) == []
    assert capsys.readouterr().out.count("cold start") == len(module.HANDLERS)
    names = set(headgate.handlers.__all__) - {"handle_scheduled_collection", "should_collect"}
    names |= {f"stages.{name}" for name in stages.__all__}
    assert {handler.removeprefix("headgate.handlers.") for handler in module.HANDLERS} == names
