"""Inferred schemas: whatever JSON objects come, first or later, every value can be read back."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headgate._native import core
from headgate.checkpoint import update, verify

LEAF = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([2**53 + 1, -(2**63), 2**63, 10**18 - 1, 10**30]),
    st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([0.0, -0.0, 1.0, 1e300, 5e-324]), st.text(max_size=3),
    st.sampled_from(["2024-02-29", "2023-02-29", "2024-01-15T10:00:00Z", "2024-01-15T10:00:00.000001+02:00", "0001-01-01T00:00:00Z",
                     " 2024-01-15T10:00:00Z", "2024-01-15T10:00:60Z", "T"]),
)  # fmt: skip
NUMBER = st.sampled_from([1.5, 2**53 + 1, -(2**53), 123456789012345678, 3])
VALUE = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)
NAME = st.sampled_from(["a", "b", "timestamp", "_rest", "é", "", "a b"])
RECORD = st.one_of(st.dictionaries(NAME, VALUE, max_size=5), st.dictionaries(NAME, NUMBER, max_size=3), VALUE)


@pytest.fixture(scope="module")
def space():
    folder = Path(tempfile.mkdtemp(prefix="headgate-inference-"))
    yield folder
    shutil.rmtree(folder)


def read_back(path):
    """Every row as the object that it was, without null members."""
    table = pq.read_table(path)
    plan = json.loads(json.loads(pq.read_metadata(path).metadata[b"headgate"])["plan"])
    kinds = {field["name"]: field["type"] for field in plan["fields"]}
    for row in table.to_pylist():
        rest = json.loads(row.pop("_rest") or "{}")
        out = {}
        for name, value in row.items():
            if value is not None:
                out[name] = json.loads(value) if kinds[name] == "json" else value
        # What a column holds in part is in `_rest` as it was written.
        yield {**out, **rest}, {name: kinds[name] for name in out}


def same(found, sent, kind=""):
    if kind == "timestamp" and not isinstance(found, str):
        return int(found.timestamp() // 1 * 10**6) + found.microsecond == core.parse_timestamp(sent)
    if isinstance(sent, dict):
        return isinstance(found, dict) and found.keys() == sent.keys() and all(same(found[k], sent[k]) for k in sent)
    if isinstance(sent, list):
        return isinstance(found, list) and len(found) == len(sent) and all(map(same, found, sent))
    if isinstance(sent, bool) or isinstance(found, bool) or isinstance(sent, str):
        return found is sent or (isinstance(sent, str) and found == sent)
    if isinstance(sent, float) and isinstance(found, int | float):  # RFC 8785 writes 1e20 as an integer
        return math.isclose(float(found), sent, rel_tol=0)
    return found == sent and not isinstance(found, str)


number = iter(range(10**9))


@settings(max_examples=400, deadline=None)
@given(waves=st.lists(st.lists(RECORD, min_size=1, max_size=5), min_size=1, max_size=3))
@example(waves=[[{"": None}]])
@example(waves=[[{"a": 1.5}, {"a": 2**53 + 1}], [{"a": 123456789012345678}, {"timestamp": []}]])
def test_every_value_can_be_read_back(space, waves):
    folder = space / str(next(number))
    logs, target = folder / "logs", folder / "t.parquet"
    logs.mkdir(parents=True)
    sent, records = [], 0
    for w, wave in enumerate(waves):
        (logs / f"{w}.jsonl").write_text("\n".join(map(json.dumps, wave)))
        parts = [part for record in wave for part in (record if isinstance(record, list) else [record])]  # of arrays
        objects = [record for record in parts if isinstance(record, dict)]
        if not target.exists() and not any(record.keys() - {"_rest"} for record in objects):
            return  # nothing to infer from
        run = update(logs, target, schema="infer", settle_s=0, threads=1)
        sent += objects
        records += len(parts)
        assert run.adds_up() == []
        assert (run.rows_added, run.rejected_records) == (len(objects), len(parts) - len(objects))
    assert verify(target, logs, schema="infer").ok
    left = list(read_back(target))
    for record in sent:
        expected = {name: value for name, value in record.items() if value is not None}
        at = next(
            (
                i
                for i, (found, kinds) in enumerate(left)
                if {n for n, v in found.items() if v is not None} == expected.keys()
                and all(same(found[name], value, kinds.get(name, "")) for name, value in expected.items())
            ),
            None,
        )
        assert at is not None, (expected, left)
        left.pop(at)
    assert left == []
