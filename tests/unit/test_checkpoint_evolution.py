"""A table and a schema that is not the one it was made with: refused by column, or evolved on purpose."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import BaseModel, Field, create_model

from headgate.checkpoint import Checkpoint, update, verify
from headgate.checkpoint.schema import JsonValue
from headgate.errors import IntegrityError, InvalidInputError

_NAMED = {"headgate_name": "ev"}


def model(**fields: Any) -> type[BaseModel]:
    made = create_model(
        "Ev", **{name: kind if isinstance(kind, tuple) else (kind, ...) for name, kind in fields.items()}
    )
    made.headgate_name = "ev"  # type: ignore[attr-defined]
    return made


@pytest.fixture
def take(tmp_path, target):
    logs = tmp_path / "logs"
    logs.mkdir()
    names = iter(range(1000))

    def run(text: str | None, schema: Any, **options: Any) -> Any:
        if text is not None:
            (logs / f"{next(names):03}.json").write_text(text)
        return update(logs, target, schema=schema, settle_s=0, **options)

    run.source = logs  # type: ignore[attr-defined]
    return run


def rows(target: str, *columns: str) -> list[Any]:
    found = Checkpoint.read(target).select(*columns).to_pylist()
    return sorted((tuple(row.values()) for row in found), key=str)


@pytest.mark.parametrize(
    ("then", "document", "complaint"),
    [
        (float, '{"n": 2.5}', "column 'n' is int64 in the table and float64 in the schema"),
        (bool, '{"n": true}', "column 'n' is int64 in the table and bool in the schema"),
        (str, '{"n": "2"}', "column 'n' is int64 in the table and string in the schema"),
        (datetime, '{"n": "2024-01-01T00:00:00Z"}', "column 'n' is int64 in the table and timestamp in the schema"),
        (JsonValue, '{"n": [1]}', "column 'n' is int64 in the table and json in the schema"),
        (Annotated[int, Field(ge=0, le=9)], '{"n": 3}', "column 'n' is int64 in the table and int32 in the schema"),
    ],
)
def test_another_type_is_refused_and_takes_nothing(target, take, then, document, complaint):
    take('{"n": 1}', model(n=int))
    with pytest.raises(IntegrityError, match=complaint):
        take(document, model(n=then))
    with pytest.raises(IntegrityError, match=complaint):
        take(None, model(n=then), dry_run=True)
    assert rows(target, "n") == [(1,)]


def test_a_wrong_model_marks_no_good_file_as_rejected(target, take):
    take('{"n": 1}', model(n=int))
    with pytest.raises(IntegrityError, match="does not have the columns of schema 'ev'"):
        take('{"n": 2}', model(n=str))
    assert take(None, model(n=int)).rows_added == 1
    assert rows(target, "n") == [(1,), (2,)]


def test_text_and_json_text_are_told_apart(target, take):
    take('{"s": "a"}', model(s=str))
    with pytest.raises(IntegrityError, match="column 's' is string in the table and json in the schema"):
        take('{"s": "b"}', model(s=JsonValue))


@pytest.mark.parametrize("evolve", [False, True])
def test_what_cannot_evolve_is_refused_by_name(target, take, evolve):
    take('{"n": 1, "s": "a"}', model(n=int, s=str))
    for schema, complaint in (
        (model(n=int), "column 's' of the table is missing in the schema"),
        (model(n=int, s=int), "column 's' is string in the table and int64 in the schema"),
        (model(n=int, s=str, t=str), "column 't' is new and cannot be null"),
    ):
        with pytest.raises(IntegrityError, match=complaint):
            take(None, schema, evolve=evolve)
    assert rows(target, "n", "s") == [(1, "a")]


def test_a_new_nullable_column_comes_on_purpose_only(target, take):
    take('{"n": 1}', model(n=int))
    wider = model(n=int, s=(str | None, None), tags=(list[str] | None, None), at=(datetime | None, None))
    with pytest.raises(IntegrityError, match=r"column 's' is new; .*evolve=True \(--evolve\)"):
        take('{"n": 2, "s": "b", "tags": ["x"], "at": "2024-01-01T00:00:00Z"}', wider)
    run = take(None, wider, evolve=True)
    assert (run.rows_added, run.rows_total, run.adds_up()) == (1, 2, [])
    assert rows(target, "n", "s", "tags") == [(1, None, None), (2, "b", ["x"])]
    assert take('{"n": 3}', wider).rows_total == 3
    assert verify(target, take.source, schema=wider).differences == []
    with pytest.raises(IntegrityError, match="column 's' of the table is missing in the schema"):
        take(None, model(n=int))


def test_a_table_evolves_even_when_no_file_is_new(target, take):
    take('{"n": 1}', model(n=int))
    wider = model(n=float, s=(str | None, None))
    assert take(None, wider, evolve=True).committed
    assert not take(None, wider, evolve=True).committed
    assert rows(target, "n", "s") == [(1.0, None)]
    assert take('{"n": 2.5}', wider).rows_total == 2


@pytest.mark.parametrize(
    ("narrow", "wide", "second", "expected"),
    [
        (Annotated[int, Field(ge=0, le=9)], int, 2**40, [1, 2**40]),
        (Annotated[int, Field(ge=0, le=9)], float, 2.5, [1.0, 2.5]),
        (int, float, -7.999, [-7.999, 1.0]),
    ],
)
def test_a_number_becomes_wider_on_purpose(target, take, narrow, wide, second, expected):
    take('{"k": "a", "n": 1}', model(k=str, n=narrow))
    run = take(f'{{"k": "b", "n": {second}}}', model(k=str, n=wide), evolve=True)
    assert (run.rows_added, run.rows_total) == (1, 2)
    assert sorted(n for n, _ in rows(target, "n", "k")) == expected
    assert verify(target, take.source, schema=model(k=str, n=wide)).differences == []


def test_no_digit_is_lost_when_numbers_become_wider(target, take):
    take('{"n": 9007199254740993}', model(n=int))
    with pytest.raises((InvalidInputError, IntegrityError), match="9007199254740993"):
        take('{"n": 2.5}', model(n=float), evolve=True)
    assert rows(target, "n") == [(9007199254740993,)]
    assert take('{"n": 3}', model(n=int)).rows_total == 2


def test_rows_stay_sorted_when_a_table_evolves(tmp_path):
    class Before(BaseModel):
        headgate_name: ClassVar[str] = "ev"
        headgate_sort_by: ClassVar[str] = "at"
        at: datetime
        n: Annotated[int, Field(ge=0, le=9)]

    class After(Before):
        n: float  # type: ignore[assignment]
        s: str | None = None

    logs, target = tmp_path / "logs", tmp_path / "e.parquet"
    logs.mkdir()
    lines = "".join(f'{{"at": "2024-01-{day:02}T00:00:00Z", "n": {day % 9}}}\n' for day in range(2, 30, 2))
    (logs / "a.jsonl").write_text(lines)
    update(logs, target, schema=Before, settle_s=0, row_group_rows=3)
    (logs / "b.json").write_text('{"at": "2024-01-15T00:00:00Z", "n": 0.5, "s": "x"}')
    update(logs, target, schema=After, settle_s=0, row_group_rows=3, evolve=True)
    report = verify(target, logs, schema=After)
    assert (report.ok, report.out_of_order, report.rows) == (True, 0, 15)

    class Resorted(After):
        headgate_sort_by: ClassVar[str] = "later"
        later: datetime | None = None

    with pytest.raises(IntegrityError, match="its rows are sorted by 'at', not by 'later'"):
        update(logs, target, schema=Resorted, settle_s=0, evolve=True)
