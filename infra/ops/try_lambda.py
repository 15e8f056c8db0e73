"""Run every handler under AWS's own runtime client, from the zips of `headgate package lambda`, as Lambda would.

    try_lambda.py build/lambda [--python PATH]    the function in one folder, the layers in another, nothing else

Prints what each answered and how long its cold start took: from the start of the process to its first question for an
event, and to its answer. Needs an interpreter of the manifest's Python version; awslambdaric is fetched for it. No AWS
service is called.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CONFIG = """
[backends]
store = "sqlite:///headgate.db"
objects = "file://objects"
[collection]
tickers = []
[consumers.analysis]
[checkpoints.visits]
source = "logs"
target = "visits.parquet"
schema = "visits"
"""
# Stages fail here for want of a payload: the answer shows that the module is loaded and the handler runs.
_STAGES = ("etl", "filter_candidates", "score", "store", "reactive", "write_input", "bridge")
# Entry point -> (event, what the answer holds).
HANDLERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "headgate.handlers.collect": ({"time": "2026-05-20T14:30:00Z"}, {"statusCode": 200}),
    "headgate.handlers.heal": ({}, {"statusCode": 200}),
    "headgate.handlers.consume": ({"Records": []}, {"batchItemFailures": []}),
    "headgate.handlers.upload": ({}, {"statusCode": 400}),
    "headgate.handlers.checkpoint": ({"checkpoint": "visits"}, {"statusCode": 200, "total_events": 0}),
    **{f"headgate.handlers.stages.{name}": ({}, {"errorType": "HeadgatePermanentError"}) for name in _STAGES},
}
_START_S = 60


@dataclass
class Answer:
    """What a handler answered, and when, in milliseconds after the start of its process."""

    body: dict[str, Any]
    ready_ms: float
    answered_ms: float
    output: str


class _Runtime(BaseHTTPRequestHandler):
    """AWS Lambda's runtime interface (2018-06-01): one event, then none."""

    protocol_version = "HTTP/1.1"
    server: RuntimeApi

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.server.ready_at is not None:
            self.server.stopped.wait()
            return
        self.server.ready_at = time.monotonic()
        body = json.dumps(self.server.event).encode()
        self.send_response(200)
        for name, value in {
            "Lambda-Runtime-Aws-Request-Id": "request-1", "Lambda-Runtime-Deadline-Ms": "4102444800000",
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:123456789012:function:headgate",
            "Content-Type": "application/json", "Content-Length": str(len(body)),
        }.items():  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.server.answer = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.answered_at = time.monotonic()
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()
        self.server.answered.set()


class RuntimeApi(ThreadingHTTPServer):
    """Hands one event to a runtime client, and takes its answer or its error."""

    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """The client is killed once it has answered."""

    def __init__(self, event: dict[str, Any]) -> None:
        self.event = event
        self.answer: dict[str, Any] = {}
        self.ready_at: float | None = None
        self.answered_at = 0.0
        self.answered, self.stopped = threading.Event(), threading.Event()
        super().__init__(("127.0.0.1", 0), _Runtime)


def invoke(python: str, path: list[str], handler: str, event: dict[str, Any], folder: Path) -> Answer:
    """One cold start."""
    environment = {
        "PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.pathsep.join(path), "LANG": "C.UTF-8", "TZ": "UTC",
        "HOME": str(folder), "HEADGATE_CONFIG": str(folder / "headgate.toml"), "POWERTOOLS_TRACE_DISABLED": "1",
        "AWS_LAMBDA_FUNCTION_NAME": "headgate", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
        "AWS_LAMBDA_FUNCTION_VERSION": "1", "AWS_LAMBDA_LOG_GROUP_NAME": "g", "AWS_LAMBDA_LOG_STREAM_NAME": "s",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none",
        "_HANDLER": handler,
    }  # fmt: skip
    api = RuntimeApi(event)
    threading.Thread(target=api.serve_forever, args=(0.02,), daemon=True).start()
    environment["AWS_LAMBDA_RUNTIME_API"] = f"127.0.0.1:{api.server_port}"
    started = time.monotonic()
    process = subprocess.Popen(
        [python, "-m", "awslambdaric", handler], env=environment, cwd=folder, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    answered = api.answered.wait(_START_S)
    process.kill()
    output = process.communicate()[0]
    api.stopped.set()
    api.shutdown()
    api.server_close()
    if not answered:
        api.answer = {"errorType": "no answer"}
    ready = 1000 * ((api.ready_at or time.monotonic()) - started)
    return Answer(api.answer, ready, 1000 * (api.answered_at - started) if answered else 0.0, output)


def try_handlers(python: str, path: list[str], folder: Path) -> list[str]:
    """Invoke each handler and print its line; what was wrong."""
    (folder / "headgate.toml").write_text(CONFIG)
    (folder / "logs").mkdir(exist_ok=True)
    wrong = []
    for handler, (event, expected) in HANDLERS.items():
        answer = invoke(python, path, handler, event, folder)
        if any(answer.body.get(key) != value for key, value in expected.items()):
            wrong.append(f"{handler}: expected {expected}, got {str(answer.body)[:300]}\n{answer.output[-2000:]}")
            continue
        print(f"{handler:32} cold start {answer.ready_ms:6.0f} ms, answered after {answer.answered_ms:6.0f} ms")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path)
    parser.add_argument("--python", help="an interpreter of the manifest's version (default: found by name)")
    options = parser.parse_args()
    manifest = json.loads((options.packages / "manifest.json").read_text())
    version = manifest["python"]
    pyenv = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"), reverse=True)
    # pyenv's own first: its shim on the PATH runs only the versions that are switched on.
    python = options.python or (str(pyenv[0]) if pyenv else shutil.which(f"python{version}"))
    if python is None:
        print(f"there is no Python {version} here; name one with --python", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for part, place in [(manifest["function"], "task"), *((layer, "opt") for layer in manifest["layers"])]:
            with zipfile.ZipFile(options.packages / part["file"]) as archive:
                archive.extractall(root / place)
        # Lambda's runtime holds the runtime client and boto3.
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", root / "runtime",
             "awslambdaric>=3,<5", "boto3>=1.34,<2"], check=True,
        )  # fmt: skip
        folder = root / "work"
        folder.mkdir()
        path = [str(root / "task"), str(root / "opt" / "python"), str(root / "runtime")]
        wrong = try_handlers(python, path, folder)
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
