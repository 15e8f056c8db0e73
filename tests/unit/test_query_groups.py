"""Counting and choosing rows while batches stream by, against plain Python; and that an answer is of one version."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headgate.checkpoint import Checkpoint, update
from headgate.errors import IntegrityError, InvalidInputError
from headgate.pipelines.visits import Visits
from headgate.pipelines.visits.queries import VISIT
from headgate.testing.visits import write_wave

START = datetime(1969, 12, 30, tzinfo=UTC)  # times before 1970 are negative numbers


def rows_of(seed, count):
    chance = random.Random(seed)

    def maybe(value):
        return None if chance.random() < 0.1 else value

    return [
        {
            "timestamp": maybe(START + timedelta(hours=chance.randrange(2000))),
            "few": maybe(f"value-{chance.randrange(5)}"), "many": maybe(f"{chance.randrange(count)}-é"),
            "whole": maybe(chance.randrange(-3, 3)), "real": maybe(chance.randrange(4) / 3),
            "flag": maybe(chance.random() < 0.5), "day": maybe(date(2024, 2, 27) + timedelta(days=chance.randrange(4))),
            "money": maybe(Decimal(chance.randrange(3)) / 4), "only_null": None,
        }
        for _ in range(count)
    ]  # fmt: skip


SCHEMA = pa.schema({
    "timestamp": pa.timestamp("us", "UTC"), "few": pa.string(), "many": pa.string(), "whole": pa.int32(),
    "real": pa.float64(), "flag": pa.bool_(), "day": pa.date32(), "money": pa.decimal128(9, 2), "only_null": pa.string(),
})  # fmt: skip


@pytest.fixture(scope="module", params=["in memory", "file", "large text", "dictionaries", "no rows"])
def rows(request, tmp_path_factory):
    """The same rows as plain values and as a checkpoint of several row groups."""
    plain = rows_of(5, 0 if request.param == "no rows" else 4000)
    table = pa.Table.from_pylist(plain, SCHEMA)
    if request.param in ("in memory", "large text", "dictionaries"):
        kinds = {"large text": pa.large_string(), "dictionaries": pa.dictionary(pa.int8(), pa.string())}
        if request.param in kinds:
            table = table.set_column(1, "few", table["few"].cast(kinds[request.param]))
        return plain, Checkpoint(table)
    path = tmp_path_factory.mktemp("groups") / "rows.parquet"
    pq.write_table(table, path, row_group_size=700)
    return plain, Checkpoint.read(path)


@pytest.mark.parametrize(
    "by",
    ["few", "many", "whole", "real", "flag", "day", "money", "timestamp", "only_null", "few flag", "few many whole"],
)
def test_counts_are_those_of_plain_python(rows, by):
    plain, checkpoint = rows
    names = by.split()
    for kept, asked in (
        (plain, checkpoint),
        ([r for r in plain if r["few"] == "value-1"], checkpoint.filter(few="value-1")),
        ([r for r in plain if r["few"] in ("value-2", None)], checkpoint.filter(few=["value-2", None])),
        ([r for r in plain if r["whole"] is not None and r["whole"] >= 1], checkpoint.between("whole", 1)),
    ):
        model = Counter(tuple(row[name] for name in names) for row in kept)
        found = asked.count_by(*names)
        assert {tuple(row[name] for name in names): row["count"] for row in found} == model
        assert [row["count"] for row in found] == sorted(model.values(), reverse=True)
        assert asked.count_by() == ([{"count": len(kept)}] if kept else [])


@pytest.mark.parametrize("every", ["day", "month", "year"])
def test_periods_are_those_of_plain_python(rows, every):
    plain, checkpoint = rows
    letters = {"day": 10, "month": 7, "year": 4}[every]

    def period(row):
        return None if row["timestamp"] is None else row["timestamp"].isoformat()[:letters]

    model = Counter((period(row), row["few"]) for row in plain)
    found = checkpoint.count_by("few", every=every)
    assert {(row[every], row["few"]): row["count"] for row in found} == model
    assert [row[every] for row in found] == sorted((row[every] for row in found), key=str)


@pytest.mark.parametrize("by", ["timestamp", "whole", "many", "day", "few"])
def test_the_newest_rows_are_those_of_plain_python(rows, by):
    plain, checkpoint = rows
    for names in (("few",), ("many", "flag"), ("real", "few"), ()):
        for kept, asked in ((plain, checkpoint), ([r for r in plain if r["flag"]], checkpoint.filter(flag=True))):
            model = {}
            for number, row in enumerate(kept):
                key = tuple(row[name] for name in names)
                value = (row[by] is not None, row[by]) if row[by] is not None else (False,)
                if key not in model or value >= model[key][0]:
                    model[key] = (value, number)
            expected = [kept[number] for _, number in sorted(model.values(), key=lambda kept: kept[1])]
            assert asked.latest_per(*names, by=by).dataframe().to_pylist() == expected


def test_what_cannot_be_grouped_or_ordered_is_said():
    table = pa.table({"tags": [["a"], None], "real": [1.0, 2.0], "timestamp": ["x", "y"]})
    checkpoint = Checkpoint(table)
    for ask, expected in (
        (lambda: checkpoint.count_by("tags"), "rows cannot be grouped by a column of list<"),
        (lambda: checkpoint.latest_per("tags", by="real"), "rows cannot be grouped by a column of list<"),
        (lambda: checkpoint.latest_per("timestamp", by="real"), "rows cannot be ordered by a column of double"),
        (lambda: checkpoint.count_by(every="day"), "not sorted by a time"),
    ):
        with pytest.raises(InvalidInputError, match=expected):
            ask()


def completeness(events):
    """As the specification says it, visit by visit."""
    first, passed = {}, set()
    for event in events:
        visit = tuple(event[name] for name in VISIT)
        month = event["timestamp"].strftime("%Y-%m")
        if event["action"] == "submit":
            first[visit] = min(first.get(visit, month), month)
        elif event["action"] == "pass-qc":
            passed.add(visit)
    out = []
    for month in sorted(set(first.values())):
        visits = [visit for visit, when in first.items() if when == month]
        done = sum(visit in passed for visit in visits)
        out.append({"month": month, "submitted": len(visits), "passed": done, "share": done / len(visits)})
    return out


def test_completeness_is_that_of_every_visit(tmp_path):
    chance = random.Random(3)
    events = [
        {
            "action": chance.choice(["submit", "pass-qc", "not-pass-qc", "delete"]), "study": "adrc",
            "pipeline_adcid": 42, "project_label": "ingest-form", "center_label": chance.choice(["alpha", "beta"]),
            "gear_name": "form-scheduler", "ptid": str(chance.randrange(60)), "visit_date": "2024-01-15",
            "visit_number": chance.choice([None, "01"]), "datatype": "dicom", "module": None, "packet": None,
            "timestamp": datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=chance.randrange(400)),
        }
        for _ in range(500)
    ]  # fmt: skip
    in_memory = Visits.from_events(events)
    path = tmp_path / "events.parquet"
    pq.write_table(in_memory.dataframe(), path, row_group_size=90)
    for visits in (in_memory, Visits.read(path)):
        assert visits.completeness() == completeness(events)
        alpha = [event for event in events if event["center_label"] == "alpha"]
        assert visits.center("alpha").completeness() == completeness(alpha)
    assert Visits.empty().completeness() == []


def answers(events):
    return (
        len(events), events.count_by("action"), events.center("alpha").count_by("module"), events.completeness(),
        events.latest().dataframe().to_pylist(), events.head(3), events.dataframe().to_pylist(),
        events.get_last_processed_timestamp(), events.sql("SELECT count(*) AS n FROM events").to_pylist(),
    )  # fmt: skip


def test_a_checkpoint_that_was_opened_stays_what_it_was_when_another_is_committed(tmp_path):
    target = tmp_path / "e.parquet"
    write_wave(tmp_path / "logs", 900)
    update(tmp_path / "logs", target, settle_s=0, row_group_rows=100, schema="visits")
    expected = answers(Visits.read(target))
    opened, filtered = Visits.read(target), Visits.read(target)
    some = filtered.action("submit").count_by("center_label")
    write_wave(tmp_path / "logs", 900, first=900, late=40)
    update(tmp_path / "logs", target, settle_s=0, row_group_rows=100, schema="visits")
    assert answers(opened) == expected
    assert filtered.action("submit").count_by("center_label") == some
    assert len(Visits.read(target)) > expected[0]
    target.unlink()
    assert opened.count_by("action") == expected[1]


def test_damage_is_named_by_every_question(tmp_path):
    path = tmp_path / "rows.parquet"
    table = pa.Table.from_pylist(rows_of(6, 4000), SCHEMA)
    pq.write_table(table, path, row_group_size=1000, compression="none")
    data = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(2).column(1)
    start, size = column.dictionary_page_offset, column.total_compressed_size
    data[start : start + size] = b"\xff" * size
    path.write_bytes(data)
    damaged = Checkpoint.read(path)
    for ask in (
        lambda: damaged.count_by("few"), lambda: damaged.latest_per("few"), damaged.dataframe,
        lambda: damaged.select("few"), lambda: len(damaged.filter(few="x")),
    ):  # fmt: skip
        with pytest.raises(IntegrityError, match="rows.parquet cannot be read|rows cannot be read"):
            ask()
    assert len(damaged) == 4000
    assert sum(row["count"] for row in damaged.count_by("whole")) == 4000
