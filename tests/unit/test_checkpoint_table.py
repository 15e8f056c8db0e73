"""The Parquet file itself: its row groups and encodings, and that other readers see the same rows."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import ClassVar

import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from headgate.checkpoint import update
from headgate.checkpoint.schema import Timestamp

START = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = 300_000


class Reading(BaseModel):
    headgate_sort_by: ClassVar[str] = "at"

    sensor: str
    at: Timestamp
    value: int


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    logs = folder / "logs"
    logs.mkdir()
    seconds = list(range(ROWS))
    random.Random(4).shuffle(seconds)
    for part in range(3):
        with open(logs / f"part-{part}.jsonl", "w") as file:
            for n in seconds[part::3]:
                at = (START + timedelta(seconds=n // 2)).isoformat()
                file.write(json.dumps({"sensor": f"s-{n % 7}", "at": at, "value": n}) + "\n")
    run = update(logs, folder / "readings.parquet", schema=Reading, settle_s=0)
    assert run.rows_total == ROWS
    return folder / "readings.parquet"


def test_row_groups_are_large_and_sorted(table):
    metadata = pq.ParquetFile(table).metadata
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [131_072, 131_072, ROWS - 2 * 131_072]
    bounds = [(group.column(1).statistics.min, group.column(1).statistics.max) for group in groups]
    assert all(earlier[1] <= later[0] for earlier, later in pairwise(bounds))


def test_the_sort_column_is_kept_as_differences(table):
    columns = pq.ParquetFile(table).metadata.row_group(0)
    assert "DELTA_BINARY_PACKED" in columns.column(1).encodings
    assert "RLE_DICTIONARY" in columns.column(0).encodings
    # A dictionary of 65,536 different seconds would take half a MiB.
    assert columns.column(1).total_compressed_size < 131_072


def test_other_readers_see_the_same_rows(table):
    duckdb = pytest.importorskip("duckdb")
    values = pq.read_table(table).column("value").to_pylist()
    assert sorted(values) == list(range(ROWS))
    with duckdb.connect() as connection:
        rows = connection.execute(f"select value, epoch(t.at) from read_parquet('{table}') t").fetchall()
    assert [value for value, _ in rows] == values
    assert [second for _, second in rows] == [START.timestamp() + value // 2 for value in values]
