"""infra/ops/deploy.py against a local endpoint: deploying, trying out, rolling back; and the images' and the service's files."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import re
import shlex
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from headgate import handlers

ROOT = Path(__file__).resolve().parents[2]
TERRAFORM = """#!/bin/sh
echo "$@" >> "$CALLS"
case $1 in output) echo '{"collect": "c", "heal": "h", "consume": "q", "checkpoint": null}';; esac
"""
OK = {"c": {"statusCode": 200}, "h": {"statusCode": 200}, "q": {"batchItemFailures": []}}


class Lambda(ThreadingHTTPServer):
    """Answers invocations as told: function name -> body; the events that came."""

    daemon_threads = True

    def __init__(self):
        self.answers, self.events = dict(OK), {}
        super().__init__(("127.0.0.1", 0), _Invocation)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class _Invocation(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        name = re.fullmatch(r"/2015-03-31/functions/([\w-]+)/invocations", self.path)[1]
        self.server.events[name] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = self.server.answers[name]
        body = json.dumps(answer).encode()
        self.send_response(200)
        if "errorType" in answer:
            self.send_header("X-Amz-Function-Error", "Unhandled")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def deploying(tmp_path, monkeypatch):
    """(module, Lambda, Terraform's calls so far)."""
    spec = importlib.util.spec_from_file_location("deploy", ROOT / "infra" / "ops" / "deploy.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ENVIRONMENTS", tmp_path)
    (tmp_path / "dev").mkdir()
    program = tmp_path / "terraform.sh"
    program.write_text(TERRAFORM)
    program.chmod(0o755)
    server = Lambda()
    for name, value in {
        "TERRAFORM": str(program), "CALLS": str(tmp_path / "calls"), "AWS_ACCESS_KEY_ID": "t", "AWS_SECRET_ACCESS_KEY": "t",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)

    def applied():
        calls = (tmp_path / "calls").read_text().splitlines()
        return [re.search(r"image_uri=(\S+)", call)[1] for call in calls if call.startswith("apply")]

    yield module, server, applied
    server.shutdown()
    server.server_close()


def test_deploying_trying_out_and_rolling_back(deploying, capsys):
    module, server, applied = deploying
    assert module.main(["deploy", "dev", "--image", "registry/h:1"]) == 0
    assert module.main(["deploy", "dev", "--image", "registry/h:2"]) == 0
    assert "c: ok" in capsys.readouterr().out
    assert module.main(["rollback", "dev"]) == 0
    assert applied() == ["registry/h:1", "registry/h:2", "registry/h:1"]
    server.answers["h"] = {"errorType": "Runtime.ImportModuleError"}
    assert module.main(["deploy", "dev", "--image", "registry/h:3"]) == 1
    assert applied()[3:] == ["registry/h:3", "registry/h:1"]  # what ran before runs again
    error = capsys.readouterr().err
    assert (
        'h: expected {"statusCode": 200}, got Runtime.ImportModuleError; what was deployed before runs again' in error
    )
    server.answers["c"] = {"statusCode": 400, "error": "InvalidInputError"}
    assert module.main(["smoke", "dev"]) == 1
    assert "c: expected" in capsys.readouterr().err


def test_wrong_usage_is_one_sentence(deploying, capsys, tmp_path, monkeypatch):
    module, server, _ = deploying
    for words, said in (
        (["deploy", "prod", "--image", "x"], "there is no environment 'prod'; expected one of dev"),
        (["deploy", "dev"], "expected either --image URI or --packages DIR"),
        (["deploy", "dev", "--packages", str(tmp_path)], "has no manifest.json"),
        (["rollback", "dev"], "there is nothing to roll back to"),
    ):
        assert module.main(words) == 1
        assert said in capsys.readouterr().err
    server.answers["q"] = {"errorType": "X"}
    assert module.main(["deploy", "dev", "--image", "x"]) == 1
    assert "there is nothing before it to roll back to" in capsys.readouterr().err
    monkeypatch.setenv("TERRAFORM", "no-such-program")
    assert module.main(["smoke", "dev"]) == 1
    assert "no-such-program is not installed" in capsys.readouterr().err


def test_the_smoke_test_names_handlers_that_exist_and_the_environments_output(deploying):
    module, _, _ = deploying
    output = (ROOT / "infra" / "terraform" / "environments" / "dev" / "outputs.tf").read_text()
    assert set(module.SMOKE) == set(re.findall(r"^    (\w+) +=", output, re.M))
    assert all(callable(getattr(handlers, name)) for name in module.SMOKE)


# --- images and service


@pytest.mark.parametrize("name", ["serve", "lambda"])
def test_images_are_built_in_stages_and_run_as_a_user_with_a_health_check(name):
    text = (ROOT / "infra" / "docker" / f"{name}.Dockerfile").read_text()
    _, first, last = text.split("\nFROM ")
    assert "-dev " not in last
    assert re.search(r"^USER headgate$", last, re.M)
    assert re.search(r"^HEALTHCHECK .*--timeout", last, re.M)
    assert "steps.sh wheel" in first
    assert "steps.sh check" in last
    for source in re.findall(r"^COPY (?!--from)(\S+)", text, re.M):
        assert (ROOT / source).exists(), source


def test_the_steps_say_how_they_are_used():
    done = subprocess.run([ROOT / "infra" / "docker" / "steps.sh"], capture_output=True, text=True)
    assert (done.returncode, done.stderr[:25]) == (2, "expected: steps.sh wheel ")


def test_the_service_runs_once_for_a_state_directory(tmp_path):
    unit = (ROOT / "infra" / "ops" / "systemd" / "headgate.service").read_text()
    words = shlex.split(re.search(r"^ExecStart=(.*)$", unit, re.M)[1])
    lock = words.index("/var/lib/headgate/lock")
    code = int(words[words.index("--conflict-exit-code") + 1])
    assert f"RestartPreventExitStatus={code}" in unit
    assert "--no-fork" in words[:lock]  # SIGTERM reaches headgate itself
    command = ["flock", *words[1:lock], str(tmp_path / "lock"), "true"]
    with (tmp_path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert subprocess.run(command).returncode == code
    assert subprocess.run(command).returncode == 0
    from headgate.cli._main import _parser

    options = _parser().parse_args(words[lock + 2 :])
    assert options.config == "/etc/headgate/headgate.toml"
