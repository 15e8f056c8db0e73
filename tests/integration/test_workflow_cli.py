"""`headgate workflow` as it is typed."""

from __future__ import annotations

import json

import pytest

from headgate.cli import main
from headgate.cli._workflow import with_default_action
from headgate.workflow import LocalRunner

MACHINE = {
    "StartAt": "Double",
    "States": {
        "Double": {"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "ResultSelector": {"n.$": "$.Payload"},
                   "Parameters": {"FunctionName": "double", "Payload.$": "$.n"}, "Next": "Wait"},
        "Wait": {"Type": "Wait", "Seconds": 86_400, "End": True},
    },
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "headgate.toml").write_text('[backends]\nstore = "sqlite:///store.db"\nobjects = "file://objects"\n')
    (tmp_path / "m.asl.json").write_text(json.dumps(MACHINE))
    name = f"handlers_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text("def double(n):\n    return 2 * n\n\n\ndef _hidden(n):\n    return n\n")
    return tmp_path, name


@pytest.fixture
def headgate(folder, capsys):
    def run(*arguments):
        code = main(["workflow", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_file_is_run_and_looked_at(headgate, folder):
    _, handlers = folder
    code, out, _ = headgate(
        "run", "m.asl.json", "--input", '{"n": 4}', "--handlers", handlers, "--virtual-time", "--id", "x"
    )
    assert (code, json.loads(out)["output"]) == (0, {"n": 8})
    assert "SUCCEEDED" in headgate("list")[1]
    assert json.loads(headgate("list", "--json", "--workflow", "m")[1])[0]["id"] == "x"
    assert json.loads(headgate("show", "x")[1])["events"] == 9
    assert json.loads(headgate("history", "x", "--json")[1])[0]["type"] == "ExecutionStarted"
    assert headgate("history", "x")[1].splitlines()[1].split()[2:] == ["TaskStateEntered", "Double"]
    code, _, err = headgate("run", "m.asl.json", "--input", '{"n": 5}', "--handlers", handlers, "--id", "x")
    assert (code, "exists with another input" in err) == (1, True)


def test_input_from_files_and_mocks(headgate, folder):
    path, _ = folder
    (path / "in.json").write_text('{"n": 1}')
    (path / "mocks.json").write_text(json.dumps({"Double": [{"error": "Down", "cause": "today"}]}))
    code, out, err = headgate(
        "run", "m.asl.json", "--input", "@in.json", "--mocks", "mocks.json", "--virtual-time", "--id", "m"
    )
    assert (code, json.loads(out)["error"], json.loads(out)["cause"]) == (1, "Down", "today")
    assert "execution m failed: Down: today" in err
    (path / "mocks.json").write_text(json.dumps({"Double": [{"result": {"Payload": 5}}]}))
    code, out, _ = headgate("redrive", "m", "--mocks", "mocks.json", "--virtual-time", "--json")
    assert (code, json.loads(out)["output"], json.loads(out)["redrives"]) == (0, {"n": 5}, 1)


def test_what_was_interrupted_is_resumed(headgate, folder):
    _, handlers = folder
    from headgate.backends.local import LocalDatabase

    headgate("list")  # makes the store
    database = LocalDatabase("store.db")
    from headgate._core import SystemClock

    runner = LocalRunner(database, {"double": lambda n: 2 * n}, SystemClock())
    runner.start("m", MACHINE, {"n": 3}, "later", wait=False)
    database.close()
    code, out, _ = headgate("resume", "--handlers", handlers, "--virtual-time")
    assert (code, json.loads(out)["output"]) == (0, {"n": 6})
    code, _, err = headgate("resume", "nobody")
    assert (code, "there is no execution 'nobody'" in err) == (1, True)


def test_an_execution_is_stopped(headgate, folder):
    _, handlers = folder
    from headgate._core import SystemClock
    from headgate.backends.local import LocalDatabase

    database = LocalDatabase("store.db")
    LocalRunner(database, {"double": id}, SystemClock()).start(
        "w", {"StartAt": "W", "States": {"W": {"Type": "Wait", "Seconds": 9, "End": True}}}, {}, "s", wait=False
    )
    database.close()
    code, out, _ = headgate("stop", "s", "--error", "E", "--cause", "C")
    assert (code, json.loads(out)["status"]) == (0, "ABORTED")
    code, _, err = headgate("resume", "s", "--handlers", handlers)
    assert (code, "was aborted: E: C" in err) == (1, True)


def test_tokens_and_activities_are_answered_from_the_command_line(headgate, folder):
    from headgate._core import SystemClock
    from headgate.backends.local import LocalDatabase

    machine = {
        "StartAt": "A",
        "States": {"A": {"Type": "Task", "Resource": "arn:aws:states:eu-west-1:1:activity:approve", "End": True}},
    }
    database = LocalDatabase("store.db")
    runner = LocalRunner(database, {}, SystemClock())
    for name in ("yes", "no"):
        runner.start("w", machine, {"who": name}, name, wait=False)
    database.close()
    first = json.loads(headgate("take", "approve")[1])
    second = json.loads(headgate("take", "approve")[1])
    assert json.loads(headgate("take", "approve")[1]) is None
    assert {first["input"]["who"], second["input"]["who"]} == {"yes", "no"}
    assert headgate("heartbeat", first["taskToken"])[0] == 0
    assert headgate("succeed", first["taskToken"], "--output", "[1]")[0] == 0
    assert headgate("fail", second["taskToken"], "--error", "Refused", "--cause", "no")[0] == 0
    assert headgate("succeed", first["taskToken"])[0] == 1
    code, out, err = headgate("resume")
    assert (code, "Refused" in err, out.count('"SUCCEEDED"')) == (1, True, 1)


def test_lint_says_what_is_wrong(headgate, folder):
    path, _ = folder
    assert headgate("lint", "m.asl.json") == (0, "no findings\n", "")
    (path / "bad.asl.json").write_text('{"StartAt": "A", "States": {"A": {"Type": "Wait", "End": true}}}')
    code, out, _ = headgate("lint", "bad.asl.json")
    assert (code, out.startswith("error: state 'A': Exactly one of Seconds")) == (1, True)
    assert json.loads(headgate("lint", "bad.asl.json", "--json")[1])[0]["path"] == "$.States.A"
    (path / "no.json").write_text("nope")
    assert "Unrecognized token 'nope'" in headgate("lint", "no.json")[1]
    assert headgate("lint", "missing.json")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "missing.json"), "there is no file missing.json"),
        (("run", "m.asl.json", "--input", "{"), "expected JSON, @FILE or -"),
        (("run", "m.asl.json", "--handlers", "no_such_module"), "--handlers no_such_module: No module named"),
        (("run", "m.asl.json"), "there is no function 'double'"),
        (("run", "m.asl.json", "--mocks", "list.json"), "expected an object of state names"),
        (("run", "nothing"), "workflows.nothing: there is no such workflow"),
    ],
)
def test_what_cannot_be_run(headgate, folder, arguments, message):
    path, _ = folder
    (path / "list.json").write_text("[]")
    code, _, err = headgate(*arguments)
    assert code == 1
    assert message in err


def test_asl_of_a_file_is_printed(headgate):
    assert json.loads(headgate("run", "m.asl.json", "--asl")[1]) == MACHINE


def test_handlers_may_be_a_mapping(headgate, folder):
    path, name = folder
    (path / f"{name}_map.py").write_text(
        "functions = {'double': lambda n: 3 * n}\nother = {'double': lambda n: 4 * n}\nno = 1\n"
    )
    run = ("run", "m.asl.json", "--input", '{"n": 1}', "--virtual-time", "--handlers")
    assert json.loads(headgate(*run, f"{name}_map")[1])["output"] == {"n": 3}
    assert json.loads(headgate(*run, f"{name}_map:other")[1])["output"] == {"n": 4}
    assert "no is no mapping" in headgate(*run, f"{name}_map:no")[2]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["workflow", "scoring"], ["workflow", "run", "--json", "scoring"]),
        (["workflow", "--id", "x", "scoring"], ["workflow", "run", "--json", "--id", "x", "scoring"]),
        (["workflow", "list"], ["workflow", "list"]),
        (["workflow", "serve", "x"], ["workflow", "serve", "x"]),
        (["workflow"], ["workflow"]),
        (["run"], ["run"]),
    ],
)
def test_the_older_form_is_understood(given, meant):
    assert with_default_action(given, ("serve",)) == meant


def test_without_an_action_help_is_shown(headgate):
    code, out, _ = headgate()
    assert (code, "redrive" in out) == (2, True)
