"""Executions recorded on AWS: the local runner has to end in the same way, with the same history.

The recordings are not part of the project; where they are missing, these tests are skipped by name.
"""

from __future__ import annotations

import contextlib
import copy
import json

import pytest

from headgate._core import ManualClock
from headgate.backends.local import LocalDatabase
from headgate.errors import StageFailedError
from headgate.workflow import LocalRunner, Mocks, lint

NOW_US = 1_780_000_000_000_000
CASES = 567
# Executions that cannot agree, by name, with the reason. There is none.
CANNOT_AGREE: dict[str, str] = {}


@pytest.fixture(scope="module")
def cases(corpus):
    path = corpus / "asl-cases" / "cases.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(cases):
    """Every case once: (case, execution)."""
    found = []
    for case in cases:
        database = LocalDatabase(":memory:")
        mocks = Mocks(case["mocks"]) if case["needs_tasks"] else None
        runner = LocalRunner(database, {}, ManualClock(NOW_US), mocks=mocks)
        with contextlib.suppress(StageFailedError):  # expected of some; what it ended with is compared
            runner.start("machine", case["definition"], case["input"], "run")
        found.append((case, runner.describe("run")))
        database.close()
    return found


def without(value, paths, root):
    """A copy without what AWS gives another value for in every run."""
    value = copy.deepcopy(value)
    for path in paths:
        if path == root:
            return None
        if not path.startswith(root):
            continue
        keys = [key for key in path.removeprefix(root).replace("[", ".").replace("]", "").split(".") if key]
        node = value
        for key in keys[:-1]:
            node = node[int(key)] if isinstance(node, list) else node[key]
        node[int(keys[-1]) if isinstance(node, list) else keys[-1]] = None
    return value


def differences(case, execution):
    volatile = case["volatile"]
    cause, expected_cause = execution.cause, case["expected_cause"]
    if case.get("expected_cause_json") and cause:
        cause, expected_cause = json.loads(cause), json.loads(expected_cause)
    compared = {
        "status": (execution.status, case["expected_status"]),
        "output": (
            without(execution.output, volatile, "$.output"),
            without(case["expected_output"], volatile, "$.output"),
        ),
        "error": (execution.error, case["expected_error"]),
        "cause": (cause, expected_cause),
    }
    return {k: pair for k, pair in compared.items() if pair[0] != pair[1] and f"$.{k}" not in volatile}


def test_every_recorded_execution_ends_as_on_aws(runs):
    assert len(runs) == CASES
    wrong = {case["name"]: found for case, run in runs if (found := differences(case, run))}
    assert wrong.keys() == CANNOT_AGREE.keys(), wrong


def event(entry):
    named = entry["type"].endswith(("Entered", "Exited")) or entry["type"].startswith("MapIteration")
    shown = {"type": entry["type"], "name": entry["state"]} if named else {"type": entry["type"]}
    return shown | ({"index": entry["index"]} if "index" in entry else {})


def test_every_recorded_history_has_the_same_events_in_the_same_order(runs):
    wrong = {}
    compared = 0
    for case, run in runs:
        expected = case["expected_events"]
        if expected is None:
            continue
        compared += 1
        found = [event(entry) for entry in run.history]
        if case.get("events_unordered"):  # the recorder sorted these, and left out what ends a Parallel state
            found = sorted((e for e in found if e["type"] != "ParallelStateSucceeded"), key=json.dumps)
            expected = sorted(expected, key=json.dumps)
        if found != expected:
            wrong[case["name"]] = (found, expected)
    assert compared == 270
    assert wrong == {}


def test_event_ids_count_up_and_lead_back_to_the_start(runs):
    for _, run in runs:
        assert [entry["id"] for entry in run.history] == list(range(1, len(run.history) + 1))
        assert all(entry["previousEventId"] < entry["id"] for entry in run.history)


def test_no_recorded_definition_is_refused(cases):
    refused = {
        case["name"]: found
        for case in cases
        if (found := [f for f in lint(case["definition"]) if f.severity == "error"])
    }
    assert refused == {}


def test_what_aws_refuses_is_refused_for_the_same_reason(corpus):
    lines = (corpus / "asl-cases" / "invalid.jsonl").read_text().splitlines()
    wrong = []
    for line in lines:
        case = json.loads(line)
        errors = [f for f in lint(case["definition"], case["type"]) if f.severity == "error"]
        texts = [f"{f.code}: {f.message} at {f.location}" for f in errors]
        expected = " ".join(case["message"].split())
        first, _, place = expected.rpartition(" at ")
        first = first.split("\n")[0].partition(" at [Source")[0].removeprefix("Invalid State Machine Definition: '")
        if not any(text.startswith(first.strip()) for text in texts):
            wrong.append((case["name"], first, texts))
        if place.startswith("/") and not any(f.location == place.rstrip("'") for f in errors):
            wrong.append((case["name"], place, texts))
    assert len(lines) == 13
    assert wrong == []
