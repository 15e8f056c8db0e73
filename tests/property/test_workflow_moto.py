"""Generated definitions on the local runner and on moto's interpreter: where both end, they end in the same way.

moto is asked only for what it does right: JSONPath definitions of Pass, Choice, Parallel, Map, Fail and Succeed states whose
paths find something. It runs in this process, on its own threads.
"""

from __future__ import annotations

import contextlib
import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headgate._core import ManualClock
from headgate.backends.local import LocalDatabase
from headgate.errors import StageFailedError
from headgate.workflow import LocalRunner, lint

moto = pytest.importorskip("moto")
INPUT = {
    "n": 3,
    "f": 1.5,
    "s": "text",
    "l": [1, 2, 3, "x"],
    "o": {"a": {"b": [True, None]}, "c": "2020-01-01T00:00:00Z"},
}
PATHS = ["$", "$.n", "$.s", "$.l", "$.l[0]", "$.l[1:3]", "$.l[*]", "$.o.a", "$.o.a.b", "$.o['c']", "$.o.a.b[0]"]
CALLS = [
    "States.Array($.n, 'x', $.o.c)", "States.ArrayLength($.l)", "States.MathAdd($.n, 4)", "States.ArrayContains($.l, 2)",
    "States.Format('{} and {}', $.s, $.n)", "States.JsonToString($.o)", "States.ArrayPartition($.l, 2)", "States.ArrayRange(1, 9, 3)",
    "States.StringSplit('a,b,c', ',')", "States.Base64Encode($.s)", "States.Hash($.s, 'SHA-1')", "States.ArrayGetItem($.l, 1)",
    "States.JsonMerge($.o, $.o.a, false)", "States.ArrayUnique(States.Array(1, 1, 2))", "States.StringToJson('{\"k\": [1]}')",
]  # fmt: skip
RULES = [
    {"Variable": "$.n", "NumericGreaterThan": 2}, {"Variable": "$.n", "NumericLessThanEquals": 2}, {"Variable": "$.s", "StringEquals": "text"},
    {"Variable": "$.s", "StringMatches": "t*t"}, {"Variable": "$.s", "IsNumeric": True}, {"Variable": "$.zzz", "IsPresent": True},
    {"Variable": "$.o.c", "TimestampLessThan": "2021-01-01T00:00:00Z"}, {"Variable": "$.f", "NumericEqualsPath": "$.n"},
    {"Variable": "$.o.a.b[0]", "BooleanEquals": True}, {"Variable": "$.l", "IsNull": False},
]  # fmt: skip

leaf_rules = st.sampled_from(RULES)
rules = st.recursive(
    leaf_rules,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=2).map(lambda parts: {"And": parts}),
        st.lists(inner, min_size=1, max_size=2).map(lambda parts: {"Or": parts}),
        inner.map(lambda part: {"Not": part}),
    ),
    max_leaves=3,
)
members = st.dictionaries(
    st.sampled_from(["p", "q", "r"]), st.sampled_from(PATHS + CALLS).map(lambda text: (text,)) | st.sampled_from([1, "c", [2]]), min_size=1
)  # fmt: skip
templates = members.map(
    lambda found: {
        f"{k}.$" if isinstance(v, tuple) else k: v[0] if isinstance(v, tuple) else v for k, v in found.items()
    }
)


@st.composite
def passes(draw):
    # Results are put beside the input, so that all paths go on to find something.
    return draw(
        st.one_of(
            templates.map(lambda t: {"Type": "Pass", "Parameters": t, "ResultPath": "$.r"}),
            st.sampled_from(PATHS).map(lambda p: {"Type": "Pass", "InputPath": p, "ResultPath": "$.i"}),
            st.just({"Type": "Pass", "Result": {"x": 1}, "ResultPath": None}),
            st.just({"Type": "Pass", "Result": [1, {"y": None}], "ResultPath": "$.o.new.deep"}),
            templates.map(lambda t: {"Type": "Pass", "Parameters": t, "ResultPath": "$.out"}),
        )
    )


@st.composite
def definitions(draw):
    numbers = iter(range(100))

    def states_of(parts):
        names = [f"S{next(numbers)}" for _ in parts]
        states = {}
        for place, (name, part) in enumerate(zip(names, parts, strict=True)):
            last = place + 1 == len(parts)
            if part["Type"] == "Choice":
                other = f"S{next(numbers)}"
                states[other] = {"Type": "Succeed"}
                target = other if last else names[place + 1]
                states[name] = {"Type": "Choice", "Choices": [{**part["rule"], "Next": target}], "Default": other}
            else:
                states[name] = {**part, **({"End": True} if last else {"Next": names[place + 1]})}
        return {"StartAt": names[0], "States": states}

    choice = rules.map(lambda rule: {"Type": "Choice", "rule": rule})
    parts = draw(st.lists(st.one_of(passes(), choice), min_size=1, max_size=3))
    kind = draw(st.sampled_from(["plain", "parallel", "map", "fail"]))
    inner = draw(st.lists(passes(), min_size=1, max_size=2))
    if kind == "parallel":
        branches = [states_of(inner), states_of([{"Type": "Pass"}])]
        parts.append({"Type": "Parallel", "Branches": branches, "ResultPath": "$.branches"})
    elif kind == "map":
        selector = {"n.$": "$.n", "f.$": "$.f", "s.$": "$.s", "l.$": "$.l", "o.$": "$.o", "item.$": "$$.Map.Item.Value"}
        parts.append({
            "Type": "Map", "ItemsPath": "$.l", "MaxConcurrency": 1, "ItemSelector": selector, "ResultPath": "$.items",
            "ItemProcessor": {"ProcessorConfig": {"Mode": "INLINE"}, **states_of(inner)},
        })  # fmt: skip
    machine = states_of(parts)
    if kind == "fail":
        first = machine["StartAt"]
        machine["States"]["Broken"] = {"Type": "Fail", "Error": "Broken", "Cause": "on purpose"}
        if machine["States"][first]["Type"] == "Choice":
            machine["States"][first]["Default"] = "Broken"
        else:
            machine["States"].pop("Broken")
    return machine


def on_runner(definition):
    database = LocalDatabase(":memory:")
    runner = LocalRunner(database, {}, ManualClock(0))
    with contextlib.suppress(StageFailedError):
        runner.start("w", definition, INPUT, "e")
    found = runner.describe("e")
    database.close()
    return found.status, found.output, found.error, found.cause


@pytest.fixture(scope="module")
def on_moto():
    import boto3

    with moto.mock_aws(config={"stepfunctions": {"execute_state_machine": True}}):
        client = boto3.client(
            "stepfunctions", region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
        )

        def run(definition):
            role = "arn:aws:iam::123456789012:role/r"
            name = f"m{time.monotonic_ns()}"
            arn = client.create_state_machine(name=name, definition=json.dumps(definition), roleArn=role)[
                "stateMachineArn"
            ]
            execution = client.start_execution(stateMachineArn=arn, input=json.dumps(INPUT))["executionArn"]
            for _ in range(600):
                found = client.describe_execution(executionArn=execution)
                if found["status"] != "RUNNING":
                    output = json.loads(found["output"]) if found.get("output") else None
                    return found["status"], output, found.get("error"), found.get("cause")
                time.sleep(0.01)  # moto runs it on a thread of its own
            return None

        yield run


@settings(
    max_examples=30, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(definitions())
def test_generated_definitions_end_as_on_moto(on_moto, definition):
    reached = {definition["StartAt"]}
    assert [f for f in lint(definition) if f.severity == "error" and "not reachable" not in f.message] == [], reached
    if any("not reachable" in f.message for f in lint(definition)):
        return
    expected = on_moto(definition)
    assert expected is not None
    status, output, error, cause = on_runner(definition)
    assert (status, output, error or None, cause or None) == (
        expected[0],
        expected[1],
        expected[2] or None,
        expected[3] or None,
    )
