"""Public data sets as they come: each is taken in whole, and every record can be rebuilt from the table."""

from __future__ import annotations

import gzip
import json
from collections import Counter

import pyarrow.parquet as pq
import pytest

from headgate.checkpoint import Checkpoint, update, verify

# set -> what the run is told besides; the records of each file come from Python's own parser below
SETS = {
    "cloudtrail": {},
    "fhir": {},
    "osv": {},
    "sysmon": {},
    "usgs": {"records": "features"},
    "zeek": {},
}


@pytest.fixture
def real(corpus):
    """The folder of public sets."""
    if not (corpus / "real").is_dir():
        pytest.skip("the recorded corpus is not here")
    return corpus / "real"


def records_of(path, records=""):
    """What Python's own parser reads: a document, an array, or JSON Lines."""
    text = path.read_text(encoding="utf-8")
    try:
        whole = json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    if records:
        return whole[records]
    return whole if isinstance(whole, list) else [whole]


def canonical(value):
    """One text for values that are equal: times as moments, numbers by value; null members are absent ones."""
    if isinstance(value, dict):
        return {name: canonical(inner) for name, inner in sorted(value.items())}
    if isinstance(value, list):
        return [canonical(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def rebuilt(target):
    """Every row as the object that it was, without null members; times as the core formats them."""
    from headgate._native import core

    table = pq.read_table(target)
    plan = json.loads(json.loads(pq.read_metadata(target).metadata[b"headgate"])["plan"])
    kinds = {field["name"]: field["type"] for field in plan["fields"]}
    times = [name for name, kind in kinds.items() if kind == "timestamp"]
    for name in times:
        at = table.column_names.index(name)
        table = table.set_column(at, name, table[name].cast("int64"))
    for row in table.to_pylist():
        out = json.loads(row.pop("_rest") or "{}")
        for name, value in row.items():
            if value is not None and name not in out:
                out[name] = (
                    json.loads(value) if kinds[name] == "json"
                    else core.format_timestamp(value) if name in times else value
                )  # fmt: skip
        yield out, set(times)


def text_of(record, times):
    from headgate._native import core

    plain = {}
    for name, value in record.items():
        if value is not None:
            is_time = name in times and isinstance(value, str)
            plain[name] = core.format_timestamp(core.parse_timestamp(value)) if is_time else canonical(value)
    return json.dumps(plain, sort_keys=True)


@pytest.mark.parametrize("name", SETS)
def test_every_record_of_a_public_set_can_be_rebuilt(tmp_path, real, name):
    folder, target = real / name, tmp_path / "o.parquet"
    run = update(folder, target, settle_s=0, **SETS[name])
    sent = [record for path in sorted(folder.iterdir()) for record in records_of(path, **SETS[name])]
    assert (run.rows_added, run.rejected_records, run.ignored, run.adds_up()) == (len(sent), 0, 0, [])
    found = list(rebuilt(target))
    times = found[0][1]
    assert Counter(text_of(r, times) for r, _ in found) == Counter(text_of(r, times) for r in sent)
    assert update(folder, target, settle_s=0).taken_files == 0
    assert verify(target, folder).ok


def test_the_same_records_under_other_names_and_packed_are_the_same_rows(tmp_path, real):
    folder = real / "zeek"
    packed = tmp_path / "packed"
    packed.mkdir()
    for path in folder.iterdir():
        (packed / f"{path.stem}.20200430").write_bytes(gzip.compress(path.read_bytes()))
    plain = update(folder, tmp_path / "a.parquet", settle_s=0, time={"ts": "s"}, file_name=True)
    other = update(packed, tmp_path / "b.parquet", settle_s=0, names="*.2020*", time={"ts": "s"}, file_name="file")
    assert plain.rows_added == other.rows_added > 300
    one, two = Checkpoint.read(tmp_path / "a.parquet"), Checkpoint.read(tmp_path / "b.parquet")
    assert one.sort_by == two.sort_by == "ts"
    assert sorted(one.count_by(every="day"), key=str) == sorted(two.count_by(every="day"), key=str)
    assert {row["filename"] for row in one.count_by("filename")} == {path.name for path in folder.iterdir()}
    exact = {record["ts"] for path in folder.iterdir() for record in records_of(path)}
    assert {round(at.timestamp(), 6) for at in one.dataframe()["ts"].to_pylist()} == {round(ts, 6) for ts in exact}
