"""SIGKILL at every commit of an execution with a Map, a Parallel, a retry, a wait and a nested execution."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest

from headgate import _native
from headgate._core import ManualClock
from headgate.backends.local import LocalDatabase
from headgate.workflow import LocalRunner

NOW_US = 1_780_000_000_000_000


def task(name, **fields):
    return {"Type": "Task", "Resource": name, **fields}


CHILD = {"StartAt": "C", "States": {"C": task("child", End=True)}}
MACHINE = {
    "StartAt": "First",
    "States": {
        "First": task("first", Next="Each"),
        "Each": {
            "Type": "Map", "MaxConcurrency": 2,
            "ItemProcessor": {
                "StartAt": "Item", "States": {"Item": task("item", Next="Rest"), "Rest": {"Type": "Wait", "Seconds": 5, "End": True}},
            },
            "Next": "Both",
        },
        "Both": {
            "Type": "Parallel",
            "Branches": [
                {"StartAt": "Left", "States": {"Left": task("left", End=True)}},
                {"StartAt": "Right", "States": {
                    "Right": task("right", Parameters={"attempt.$": "$$.State.RetryCount", "data.$": "$"},
                                  Retry=[{"ErrorEquals": ["ValueError"], "IntervalSeconds": 3}], End=True),
                }},
            ],
            "Next": "Nested",
        },
        "Nested": {
            "Type": "Task", "Resource": "arn:aws:states:::states:startExecution.sync:2",
            "Parameters": {"StateMachineArn": "child", "Name": "kid", "Input.$": "$"}, "End": True,
        },
    },
}  # fmt: skip
COMMITS = 12  # of an undisturbed run, both executions together
EVENTS = 61  # of the outer execution
ONCE = Counter(first=1, item=3, left=1, right=2, child=1)


def runner_on(path, log):
    """A runner whose functions write a line to the log before anything else."""

    def function(name):
        def call(payload):
            with open(log, "a") as file:
                file.write(f"{name}\n")
            if name == "right":
                if payload["attempt"] == 0:
                    raise ValueError("once")
                return payload["data"]
            return payload if name != "first" else [1, 2, 3]

        return call

    functions = {name: function(name) for name in ("first", "item", "left", "right", "child")}
    database = LocalDatabase(path, durability="normal")
    return LocalRunner(database, functions, ManualClock(NOW_US), machines={"child": CHILD})


def in_a_process(work):
    """Run something in a forked process; how that ended."""
    number = os.fork()
    if number == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(number, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def start(path, log, faults=""):
    def work():
        _native.set_faults(faults)
        runner_on(path, log).start("w", MACHINE, {}, "e")

    return in_a_process(work)


def counts(log):
    return Counter(log.read_text().split())


@pytest.mark.parametrize("point", ["before_commit", "after_commit"])
@pytest.mark.parametrize("hit", range(1, COMMITS + 1))
def test_a_killed_execution_goes_on_without_repeating_what_was_committed(tmp_path, point, hit):
    path, log = str(tmp_path / "s.db"), tmp_path / "log"
    log.write_text("")
    assert start(path, log, f"workflow.{point}:kill:{hit}") == -signal.SIGKILL
    assert start(path, log) == 0  # the same id: it goes on
    found = counts(log)
    repeated = sum((found - ONCE).values())
    assert found >= ONCE
    # At most the one task whose result was not committed; nothing after a commit.
    assert repeated <= (1 if point == "before_commit" else 0), found
    runner = runner_on(path, log)
    execution = runner.describe("e")
    assert execution.status == "SUCCEEDED"
    assert execution.output["Output"] == [[1, 2, 3], [1, 2, 3]]
    assert [event["id"] for event in execution.history] == list(range(1, len(execution.history) + 1))
    assert len(execution.history) == EVENTS
    assert runner.db.execute("SELECT count(*) FROM workflow_frames") == [(0,)]
    assert runner.db.execute("SELECT count(*) FROM workflow_tokens") == [(0,)]
    runner.db.close()


def test_an_undisturbed_run_makes_the_commits_that_are_counted_on(tmp_path):
    path, log = str(tmp_path / "s.db"), tmp_path / "log"
    log.write_text("")
    assert start(path, log, f"workflow.after_commit:kill:{COMMITS + 1}") == 0
    assert counts(log) == ONCE
