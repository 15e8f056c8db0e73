"""The Parquet file itself: its row groups and encodings, and that other readers see the same rows."""

from __future__ import annotations

import json
import random
import shutil
import zlib
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from headgate.checkpoint import update, verify
from headgate.checkpoint.schema import Timestamp
from headgate.errors import IntegrityError, InvalidInputError

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


def laid_out(rows):
    """The row groups of so many rows that are written at once."""
    groups = []
    while rows:
        groups.append(131_072 if rows >= 131_072 else min(rows, max(1024, rows - rows // 4)))
        rows -= groups[-1]
    return groups


def test_row_groups_are_large_and_sorted(table):
    metadata = pq.ParquetFile(table).metadata
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    # The newest rows lie in small ones, where late events tear open little.
    assert [group.num_rows for group in groups] == laid_out(ROWS) == [131_072, 131_072, 28_392, 7_098, 1_775, 591]
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


def grown(table, folder, seconds):
    """A copy of the table after an update with one event at each of these seconds; its path and what was added."""
    target = folder / "readings.parquet"
    folder.mkdir(exist_ok=True)
    shutil.copy(table, target)
    shutil.copytree(f"{table}.ledger", f"{target}.ledger")
    shutil.copytree(table.parent / "logs", folder / "logs", copy_function=shutil.copy2)
    lines = [
        json.dumps({"sensor": "new", "at": (START + timedelta(seconds=s)).isoformat(), "value": ROWS + i})
        for i, s in enumerate(seconds)
    ]
    (folder / "logs" / "more.jsonl").write_text("\n".join(lines))
    run = update(folder / "logs", target, schema=Reading, settle_s=0)
    assert run.rows_added == len(seconds)
    assert run.rows_total == ROWS + len(seconds)
    assert verify(target, folder / "logs", schema=Reading).ok
    return target


def groups_of(path):
    metadata = pq.ParquetFile(path).metadata
    return [metadata.row_group(i) for i in range(metadata.num_row_groups)]


def end_of(group):
    chunks = [group.column(i) for i in range(group.num_columns)]
    begins = [c.dictionary_page_offset if c.has_dictionary_page else c.data_page_offset for c in chunks]
    return max(begin + chunk.total_compressed_size for begin, chunk in zip(begins, chunks, strict=True))


@pytest.mark.parametrize(
    ("seconds", "kept"),
    [
        ([ROWS, ROWS + 5], 6),  # after everything
        ([ROWS + n for n in range(600)], 5),  # more than the last group has: they become one
        ([ROWS, ROWS // 2 - 1000], 4),  # late, by less than the last groups are long
        ([ROWS, 70_000], 1),  # into the second row group
        ([65_535], 1),  # as new as the last row of the first group: it comes after it
        ([65_534], 0),
        ([-10, ROWS], 0),  # before everything
    ],
)
def test_an_update_keeps_the_bytes_of_row_groups_before_the_new_rows(table, tmp_path, seconds, kept):
    old = table.read_bytes()
    target = grown(table, tmp_path, seconds)
    groups = groups_of(target)
    end = end_of(groups_of(table)[kept - 1]) if kept else 4
    assert target.read_bytes()[:end] == old[:end]
    before = laid_out(ROWS)[:kept]
    assert [group.num_rows for group in groups] == before + laid_out(ROWS + len(seconds) - sum(before))
    model = [(n // 2, n) for n in pq.read_table(table).column("value").to_pylist()]
    model += [(s, ROWS + i) for i, s in enumerate(seconds)]
    model.sort(key=lambda row: row[0])  # stable: old rows first
    assert pq.read_table(target).column("value").to_pylist() == [value for _, value in model]


def test_a_table_of_kept_and_new_row_groups_is_one_file_for_other_readers(table, tmp_path):
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    target = grown(table, tmp_path, [ROWS + n for n in range(1000)])
    expected = pq.read_table(target)
    assert expected.schema.equals(pq.read_table(table).schema)
    assert expected.column("value").to_pylist()[-1000:] == list(range(ROWS, ROWS + 1000))
    assert polars.read_parquet(target).get_column("value").to_list() == expected.column("value").to_pylist()
    with duckdb.connect() as connection:
        found = connection.execute(f"select value from '{target}'").fetchall()
        late = connection.execute(
            f"select count(*) from '{target}' t where t.at >= ?", [START + timedelta(seconds=ROWS)]
        )
        assert late.fetchone() == (1000,)
    assert [value for (value,) in found] == expected.column("value").to_pylist()


@pytest.mark.parametrize("sums", [None, "nonsense", "300:0 200:0", "4:0"])
def test_row_groups_without_their_checksums_are_written_anew(table, tmp_path, sums):
    """Tables of the first releases have none, and page indexes, which could not move along."""
    old = tmp_path / "old"
    shutil.copytree(table.parent, old, copy_function=shutil.copy2)
    metadata = {"headgate": pq.ParquetFile(table).metadata.metadata[b"headgate"]}
    if sums is not None:
        metadata["headgate.row_groups"] = sums
    rows = pq.read_table(table).replace_schema_metadata(metadata)
    pq.write_table(rows, old / table.name, row_group_size=100_000, write_page_index=True)
    target = grown(old / table.name, tmp_path / "new", [ROWS + 1])
    assert not any(group.column(1).has_column_index for group in groups_of(target))
    assert [group.num_rows for group in groups_of(target)] == laid_out(ROWS + 1)
    assert pq.read_table(target).num_rows == ROWS + 1


def sums_of(path):
    text = pq.ParquetFile(path).metadata.metadata[b"headgate.row_groups"].decode()
    return [(int(end), int(crc, 16)) for end, crc in (one.split(":") for one in text.split())]


@pytest.mark.parametrize("new", [1, 100_000])
def test_the_file_has_the_checksums_of_its_row_groups(table, tmp_path, new):
    target = grown(table, tmp_path, [ROWS + n for n in range(new)])
    assert sums_of(target)[:2] == sums_of(table)[:2]
    for path in (table, target):
        data, at = path.read_bytes(), 0
        for (end, crc), group in zip(sums_of(path), groups_of(path), strict=True):
            assert (end, crc) == (end_of(group), zlib.crc32(data[at:end]))
            at = end


def test_damage_in_a_row_group_that_would_be_kept_is_refused(table, tmp_path):
    """The table stays as it is, and verification finds the damage too."""
    damaged = tmp_path / "damaged"
    shutil.copytree(table.parent, damaged, copy_function=shutil.copy2)
    target = damaged / table.name
    data = bytearray(table.read_bytes())
    data[sums_of(table)[0][0] + 1000] ^= 4
    target.write_bytes(data)
    (damaged / "logs" / "more.jsonl").write_text(
        json.dumps({"sensor": "new", "at": (START + timedelta(days=9)).isoformat(), "value": 1})
    )
    ledger = sorted(path.name for path in Path(f"{target}.ledger").iterdir())
    says = r"readings\.parquet: row group 1 does not have the checksum it was written with"
    with pytest.raises(IntegrityError, match=says):
        update(damaged / "logs", target, schema=Reading, settle_s=0)
    assert target.read_bytes() == data
    assert not list(damaged.glob("*.tmp-*"))
    assert {path.name for path in Path(f"{target}.ledger").iterdir()} >= set(ledger)
    with pytest.raises(IntegrityError, match=says):
        verify(target, damaged / "logs", schema=Reading)


def test_small_row_groups_become_large_ones_as_they_get_more(tmp_path):
    """A binary counter: after n updates of one size as many groups as n has ones, each row written once per doubling."""
    logs, target = tmp_path / "logs", tmp_path / "r.parquet"
    logs.mkdir()
    for n in range(1, 71):
        lines = [
            {"sensor": "s", "at": (START + timedelta(seconds=3 * n + i)).isoformat(), "value": i} for i in range(3)
        ]
        (logs / f"{n:03}.jsonl").write_text("\n".join(map(json.dumps, lines)))
        old = target.read_bytes() if n > 1 else b""
        update(logs, target, schema=Reading, settle_s=0, row_group_rows=96)
        groups = [group.num_rows for group in groups_of(target)]
        full, rest = divmod(n, 32)
        assert groups == [96] * full + [3 << bit for bit in range(4, -1, -1) if rest >> bit & 1]
        kept = len(groups) - 1
        assert target.read_bytes()[: sums_of(target)[kept - 1][0]] == old[: sums_of(target)[kept - 1][0]] or not kept
    assert [row["value"] for row in pq.read_table(target).to_pylist()] == [0, 1, 2] * 70
    assert verify(target, logs, schema=Reading).ok
    # A late one tears open what comes after it, and only that.
    (logs / "late.jsonl").write_text(
        json.dumps({"sensor": "s", "at": (START + timedelta(seconds=200)).isoformat(), "value": 9})
    )
    update(logs, target, schema=Reading, settle_s=0, row_group_rows=96)
    assert [group.num_rows for group in groups_of(target)] == [96, 96, 19]
    assert verify(target, logs, schema=Reading).ok


def test_a_row_group_has_at_least_one_row(tmp_path):
    with pytest.raises(InvalidInputError, match="row_group_rows: expected at least 1, got 0"):
        update(tmp_path, tmp_path / "t.parquet", row_group_rows=0, schema="visits")
