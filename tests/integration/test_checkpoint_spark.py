"""PySpark in local mode against the C++ engine: the same logs, the same table, the same multiset of rows."""

from __future__ import annotations

import gzip
import json
import os
import re
import sys
from collections import Counter
from datetime import UTC
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel, ConfigDict, Field

from headgate.checkpoint import Checkpoint, update, verify
from headgate.checkpoint.schema import JsonValue
from headgate.pipelines.visits import VisitEvent
from headgate.testing.visits import write_wave

pytest.importorskip("pyspark")
JARS = Path(__file__).resolve().parents[2] / ".servers" / "delta"


@pytest.fixture(scope="module")
def spark():
    from pyspark.sql import SparkSession

    jars = [str(p) for p in JARS.glob("*.jar") if p.name.startswith(("delta-", "unitycatalog-"))]
    if not jars:
        pytest.skip("Delta Lake's jars are not here; `tools/setup dev` fetches them")
    os.environ["PYSPARK_PYTHON"] = sys.executable
    session = (
        SparkSession.builder.master("local[2]").appName("headgate-test").config("spark.jars", ",".join(jars))
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
        .config("spark.sql.session.timeZone", "UTC").config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "2").config("spark.driver.memory", "1g").getOrCreate()
    )  # fmt: skip
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


class Lines(VisitEvent):
    """Visit events in files of any name, with more members."""

    model_config = ConfigDict(extra="allow")
    headgate_name = "lines"
    headgate_file_names = ()
    headgate_private = ()
    more: JsonValue = Field(default_factory=dict, alias="details")
    tags: list[str] | None = None
    score: float | None = None


def multiset(target):
    return Counter(json.dumps(r, sort_keys=True, default=str) for r in Checkpoint.read(target).dataframe().to_pylist())


@pytest.mark.xdist_group("spark")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_spark_and_the_core_fill_the_same_table(spark, tmp_path):
    from headgate.checkpoint.spark import update_with_spark

    logs, ours, theirs = tmp_path / "logs", f"delta+file://{tmp_path}/ours", f"delta+file://{tmp_path}/theirs"
    wave = write_wave(logs, 300)
    one, two = update(logs, ours, settle_s=0, schema="visits"), update_with_spark(spark, f"file://{logs}", theirs)
    empty = wave.kinds["empty"]  # Spark does not list empty files; the core rejects them
    assert (two["rows_added"], two["rejected_records"]) == (wave.good, one.rejected_records - empty)
    assert multiset(theirs) == multiset(ours)
    table = spark.read.format("delta").load(theirs.removeprefix("delta+file://"))
    assert (table.count(), dict(table.dtypes)["timestamp"]) == (wave.good, "timestamp")
    assert update_with_spark(spark, f"file://{logs}", theirs)["taken_files"] == 0

    # Both take turns on both tables: nothing is taken twice, nothing is missed.
    second = write_wave(logs, 100, first=1000, late=10, seed=3)
    assert update_with_spark(spark, f"file://{logs}", ours)["rows_added"] == second.good
    looked = update(logs, theirs, settle_s=0, schema="visits")
    assert (looked.rows_added, looked.touched) == (second.good, wave.good + wave.bad - empty)
    assert multiset(theirs) == multiset(ours)
    assert looked.rows_total == wave.good + second.good == update(logs, ours, settle_s=0, schema="visits").rows_total
    changed = next(logs.glob("log-submit-*.json"))
    changed.write_text(changed.read_text().replace('"gear_name"', ' "gear_name"'))
    assert update_with_spark(spark, f"file://{logs}", ours)["taken_files"] == 0
    assert update_with_spark(spark, f"file://{logs}", ours, rescan=True)["taken_files"] == 1


@pytest.mark.xdist_group("spark")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_lines_and_packed_files_are_read_as_the_core_does(spark, tmp_path, caplog):
    from headgate.checkpoint.spark import update_with_spark

    logs, ours, theirs = tmp_path / "logs", f"delta+file://{tmp_path}/ours", f"delta+file://{tmp_path}/theirs"
    write_wave(tmp_path / "wave", 60)
    files = sorted(path for path in (tmp_path / "wave").rglob("*.json") if path.stat().st_size)
    good = update(tmp_path / "wave", tmp_path / "w.parquet", schema=Lines, settle_s=0).rows_added
    lines = b"\n".join(path.read_bytes() for path in files)
    logs.mkdir()
    for n, path in enumerate(files):
        packed = [gzip.compress, lambda b: pa.compress(b, "zstd", asbytes=True), lambda b: b][n % 3](path.read_bytes())
        (logs / f"{path.name}{('.gz', '.zst', '')[n % 3]}").write_bytes(packed)
    (logs / "all.jsonl").write_bytes(lines)
    (logs / "all.jsonl.gz").write_bytes(gzip.compress(lines))
    (logs / "bad.jsonl.gz").write_bytes(gzip.compress(lines)[:-20])
    (logs / "bad.json.zst").write_bytes(b"zstd?")
    (logs / "other.csv").write_bytes(b"1,2")
    event = {**VisitEvent.from_json(files[0].read_bytes()).model_dump(mode="json"), "comment": "?"}
    for n, more in enumerate([
        {"details": {"b": [1.50, "é\u2028"], "a": None}, "tags": ["", '"'], "score": 1e-7, "timestamp": "0001-01-01T00:00:00Z"},
        {"details": "text", "tags": [], "score": 3, "zz": {"y": 10**30, "x": "\x00"}, "timestamp": "9999-12-31T23:59:59.999999Z"},
        {"details": None, "tags": None, "center_label": "a\nb"},
    ]):  # fmt: skip
        (logs / f"more-{n}.json").write_text(json.dumps({**event, **more}))
    one = update(logs, ours, schema=Lines, settle_s=0)
    with caplog.at_level("WARNING", "headgate.checkpoint"):
        two = update_with_spark(spark, f"file://{logs}", theirs, schema=Lines)
    assert (two["taken_files"], two["rows_added"]) == (one.taken_files, one.rows_added)
    assert one.rows_added == 3 * good + 3
    assert multiset(theirs) == multiset(ours)
    assert one.problems["packing"] == 2
    said = [record.getMessage() for record in caplog.records if record.name == "headgate.checkpoint"]
    assert Counter(said) == Counter(f"rejected {reject}" for reject in one.rejects)
    assert two["rejected_records"] == len(said) > 6
    assert verify(theirs, logs, schema=Lines).differences == []
    # These names have a day in them, the schema has none: each finds what the other has taken.
    looked = update(logs, theirs, schema=Lines, settle_s=0)
    assert (looked.rows_added, looked.touched) == (0, two["taken_files"])
    assert update_with_spark(spark, f"file://{logs}", ours, schema=Lines)["taken_files"] == 0

    # Names of the grammar, packed: the participant is hidden.
    caplog.clear()
    target = f"delta+file://{tmp_path}/visits"
    with caplog.at_level("WARNING", "headgate.checkpoint"):
        three = update_with_spark(spark, f"file://{logs}", target)
    assert three["rows_added"] == update(logs, tmp_path / "v.parquet", settle_s=0, schema="visits").rows_added > 40
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert ("-****-" in text, re.search("-1100[0-9]{2}-", text)) == (True, None)


@pytest.mark.xdist_group("spark")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("loser", "winner"), [("spark", "core"), ("core", "spark"), ("spark", "spark")])
def test_a_race_on_one_table_has_one_winner_and_doubles_nothing(spark, tmp_path, monkeypatch, loser, winner):
    """The other one appends the same files, and more, between this one's reading and its commit."""
    from headgate.checkpoint import _delta
    from headgate.checkpoint import spark as on_spark

    logs, target = tmp_path / "logs", f"delta+file://{tmp_path}/table"
    first = write_wave(logs, 60)
    update(logs, target, settle_s=0, schema="visits")
    second = write_wave(logs, 40, first=1000, seed=2)
    module = on_spark if loser == "spark" else _delta
    real, waves = module._append, []

    def append(*arguments):
        if not waves:
            waves.append(write_wave(logs, 20, first=2000, seed=3))
            monkeypatch.setattr(module, "_append", real)
            if winner == "core":
                update(logs, target, settle_s=0, schema="visits")
            else:
                on_spark.update_with_spark(spark, f"file://{logs}", target)
        return real(*arguments)

    monkeypatch.setattr(module, "_append", append)
    if loser == "spark":
        assert on_spark.update_with_spark(spark, f"file://{logs}", target)["attempts"] > 1
    else:
        assert update(logs, target, settle_s=0, schema="visits").attempts > 1
    (third,) = waves
    update(logs, target, settle_s=0, schema="visits")
    report = verify(target, logs)
    assert report.differences == []
    assert report.rows == first.good + second.good + third.good == sum(multiset(target).values())


@pytest.mark.xdist_group("spark")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_spark_reads_a_table_that_kept_row_groups_of_older_ones(spark, tmp_path):
    """Row groups of several updates under one last footer, times kept as differences."""
    for wave in range(4):
        write_wave(tmp_path / "logs", 20, first=1 + 100 * wave, seed=wave)
        run = update(tmp_path / "logs", tmp_path / "events.parquet", settle_s=0, row_group_rows=8, schema="visits")
    expected = pq.read_table(tmp_path / "events.parquet").to_pylist()
    assert len(expected) == run.rows_total
    table = spark.read.parquet(str(tmp_path / "events.parquet"))
    rows = table.select("ptid", "timestamp", "action").collect()
    found = Counter((r.ptid, r.timestamp.astimezone(UTC), r.action) for r in rows)
    assert found == Counter((e["ptid"], e["timestamp"].astimezone(UTC), e["action"]) for e in expected)
    middle = expected[len(expected) // 2]["timestamp"].replace(microsecond=0)
    late = table.filter(f"timestamp >= timestamp'{middle:%Y-%m-%d %H:%M:%S}Z'")
    assert late.count() == sum(e["timestamp"] >= middle for e in expected)


class Numbered(BaseModel):
    headgate_name: ClassVar[str] = "numbered"
    n: int


def test_lines_that_were_added_come_alone(spark, tmp_path, caplog):
    from headgate.checkpoint.spark import update_with_spark

    logs, target = tmp_path / "logs", f"delta+file://{tmp_path}/table"
    logs.mkdir()
    (logs / "a.jsonl").write_text('{"n": 1}\n{"n": 2}')

    def run():
        return update_with_spark(spark, f"file://{logs}", target, schema=Numbered, rescan=True)["rows_added"]

    assert run() == 2
    (logs / "a.jsonl").write_text('{"n": 1}\n{"n": 2}\n{"n": 3}\n')
    assert run() == 1
    assert verify(target, logs, schema=Numbered).differences == []
    (logs / "a.jsonl").write_text('{"n": 2}\n{"n": 3}\n{"n": 4}\n')
    assert run() == 0
    assert "rewritten" in caplog.text
    assert sorted(row["n"] for row in Checkpoint.read(target).dataframe().to_pylist()) == [1, 2, 3]
    (logs / "a.jsonl").write_text('{"n": 1}\n{"n": 2}\n{"n": 3}\n{"n": 4}\n')
    assert update(logs, target, schema=Numbered, settle_s=0).grown == 1
