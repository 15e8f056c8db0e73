"""Graphs of any state machine: Mermaid, SVG, and the timings of a run."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from datetime import UTC, datetime, timedelta

import pytest

from headgate.errors import InvalidInputError
from headgate.workflow import GlueStep, LambdaStep, Workflow, to_mermaid, to_svg
from headgate.workflow._timings import state_timings

EVIL = '<script>alert("1")</script> & \' `x` ]]> %% --> "]|\x00\n'
BIG = {
    "Comment": EVIL,
    "StartAt": "Look",
    "States": {
        "Look": {
            "Type": "Choice",
            "Choices": [
                {"Variable": "$.n", "NumericGreaterThan": 5, "Next": "Each"},
                {"Not": {"And": [{"Variable": "$.a", "StringEquals": EVIL}, {"Variable": "$.b", "IsPresent": True}]}, "Next": EVIL},
                {"Condition": "{% $n < 1 %}", "Next": "Both"},
            ],
            "Default": "Small",
        },
        "Each": {
            "Type": "Map", "Next": "Wait",
            "ItemProcessor": {"StartAt": "Inner", "States": {"Inner": {"Type": "Pass", "End": True}}},
        },
        "Both": {
            "Type": "Parallel", "End": True,
            "Branches": [{"StartAt": n, "States": {n: {"Type": "Succeed"}}} for n in ("L", "R")],
        },
        EVIL: {
            "Type": "Task", "Resource": "arn:aws:states:::sqs:sendMessage", "Parameters": {"QueueUrl": EVIL},
            "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "Small"}], "Next": "Nowhere",
        },
        "Wait": {"Type": "Wait", "Seconds": 5, "Next": "Look"},
        "Again": {"Type": "Pass", "Next": "Again"},
        "Small": {"Type": "Fail", "Error": "TooSmall"},
    },
}  # fmt: skip


def texts(svg):
    root = ElementTree.fromstring(svg)
    assert {element.tag.partition("}")[2] for element in root.iter()} <= {
        "svg", "title", "defs", "marker", "path", "rect", "circle", "g", "text",
    }  # fmt: skip
    return [element.text for element in root.iter() if element.tag.endswith("}text")]


def test_svg_shows_every_state_and_escapes_everything():
    found = texts(to_svg(BIG))
    for name in (
        "Look",
        "Each",
        "Inner",
        "Both",
        "L",
        "R",
        "Wait",
        "Small",
        "Again",
        "Nowhere",
        "no such state",
        "TooSmall",
        "Seconds 5",
    ):
        assert name in found
    assert any(text.startswith("<script>") for text in found)  # as text, not as an element
    assert "default" in found
    assert "$.n NumericGreaterThan 5" in found
    assert "branch 1" in found
    assert "for each item" in found


def test_mermaid_shows_every_state_and_reads_nothing_of_the_definition():
    chart = to_mermaid(BIG)
    assert chart.startswith("flowchart TD\n")
    assert "<script" not in chart
    assert "`" not in chart
    assert "%%" not in chart
    assert '{"Look"}' in chart
    assert '|"#36;.n NumericGreaterThan 5"|' in chart
    assert '-.->|"States.ALL"|' in chart
    assert chart.count("subgraph") == chart.count("\n      end") + chart.count("\n    end") + chart.count("\n  end")
    for line in chart.splitlines()[1:]:
        assert line.count('"') % 2 == 0


def test_a_workflows_graph_is_that_of_its_definition():
    workflow = Workflow("w", "STANDARD", [GlueStep("G", "job"), LambdaStep("A", "a")], "bucket")
    assert workflow.to_mermaid() == to_mermaid(workflow.to_asl())
    assert "glue:startJobRun.sync job" in texts(workflow.to_svg())
    assert "initial" in texts(workflow.to_svg())


@pytest.mark.parametrize("broken", [None, [], {}, {"StartAt": "A"}, {"States": {}}, {"StartAt": 1, "States": {}}])
def test_what_is_no_state_machine_is_refused(broken):
    for draw in (to_svg, to_mermaid):
        with pytest.raises(InvalidInputError, match="expected a state machine with StartAt and an object States"):
            draw(broken)


def test_a_long_chain_and_a_wide_choice_are_placed_without_overlap():
    from headgate.workflow._graph import read_graph
    from headgate.workflow._layout import lay_out

    wide = {
        "Type": "Choice",
        "Choices": [{"Variable": "$", "IsNull": True, "Next": f"S{n}"} for n in range(12)],
        "Default": "S0",
    }
    states = (
        {"C": wide} | {f"S{n}": {"Type": "Pass", "Next": f"S{n + 1}"} for n in range(40)} | {"S40": {"Type": "Succeed"}}
    )
    layout = lay_out(read_graph({"StartAt": "C", "States": states}), {})
    boxes = list(layout.boxes.values())
    for number, one in enumerate(boxes):
        assert one.x - one.width / 2 >= 0
        assert one.x + one.width / 2 <= layout.width + 0.01
        for other in boxes[number + 1 :]:
            apart = abs(one.x - other.x) >= (one.width + other.width) / 2 - 0.01
            assert apart or one.y + one.height <= other.y or other.y + other.height <= one.y


# --- timings


LOCAL = [
    {"type": "StateSucceeded", "state": "A", "duration_ms": 12.34},
    {"type": "StateRetried", "state": "B", "duration_ms": 500},
    {"type": "StateSucceeded", "state": "B", "duration_ms": 1500},
    {"type": "StateFailed", "state": "C", "duration_ms": 700_000},
]
START = datetime(2026, 1, 1, tzinfo=UTC)


def aws(kind, number, previous, seconds, name=None, **more):
    details = {"StateEntered": "stateEnteredEventDetails", "StateExited": "stateExitedEventDetails"}
    found = {
        "type": kind,
        "id": number,
        "previousEventId": previous,
        "timestamp": START + timedelta(seconds=seconds),
        **more,
    }
    for end, member in details.items():
        if kind.endswith(end):
            found[member] = {"name": name}
    return found


AWS = [
    aws("ExecutionStarted", 1, 0, 0),
    aws("TaskStateEntered", 2, 0, 0, "A"),
    aws("TaskScheduled", 3, 2, 0.5),
    aws("TaskFailed", 4, 3, 1),
    aws("TaskScheduled", 5, 4, 21),
    aws("TaskSucceeded", 6, 5, 22),
    aws("TaskStateExited", 7, 6, 22, "A"),
    aws("TaskStateEntered", 8, 7, 22, "B"),
    aws("TaskTimedOut", 9, 8, 52),
    aws("ExecutionFailed", 10, 9, 52),
]


def test_timings_of_the_local_history():
    found = state_timings(LOCAL)
    assert {name: (t.text(), t.status) for name, t in found.items()} == {
        "A": ("12.3 ms", "succeeded"), "B": ("2.0 s, 1 failed attempt", "retried"), "C": ("12 min, 1 failed attempt", "failed"),
    }  # fmt: skip


@pytest.mark.parametrize("form", ["datetime", "text", "seconds"])
def test_timings_of_step_functions_history(form):
    change = {"datetime": lambda t: t, "text": lambda t: t.isoformat(), "seconds": lambda t: t.timestamp()}[form]
    found = state_timings([{**event, "timestamp": change(event["timestamp"])} for event in AWS])
    assert (found["A"].duration_ms, found["A"].failures, found["A"].status) == (22_000, 1, "retried")
    assert (found["B"].duration_ms, found["B"].failures, found["B"].status) == (30_000, 1, "failed")


def test_timings_are_drawn_at_the_states():
    asl = Workflow("w", "STANDARD", [LambdaStep(n, n) for n in "ABC"], "bucket").to_asl()
    svg = to_svg(asl, LOCAL)
    assert "12.3 ms" in texts(svg)
    assert "2.0 s, 1 failed attempt" in texts(svg)
    assert svg.count("#fce8e6") == 1  # one state failed
    assert state_timings(["text", 7, {"type": "Other"}]) == state_timings(None) == {}
