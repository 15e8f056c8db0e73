"""Rejected records come in once the model is mended, each of them once."""

from __future__ import annotations

import hashlib
import json
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from headgate.checkpoint import Checkpoint, rejected, update, verify
from headgate.errors import InvalidInputError, NotFoundError


class Strict(BaseModel):
    headgate_name: ClassVar[str] = "ev"
    n: int
    s: str = ""


class Mended(BaseModel):
    headgate_name: ClassVar[str] = "ev"
    n: int | None = None
    s: str = ""


@pytest.fixture
def run(tmp_path, target):
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "a.json").write_text('{"n": 1}')
    (logs / "b.json").write_text('{"n": null}')
    (logs / "c.jsonl").write_text('{"n": 2}\n{"n": null}\n{"n": "3"}\n{"n": 4}\n{"n": null, "s": 5}\n')
    (logs / "d.json").write_text("not json")

    def take(schema: Any, **options: Any) -> Any:
        found = update(logs, target, schema=schema, settle_s=0, **options)
        assert found.adds_up() == []
        return found

    take.logs = logs  # type: ignore[attr-defined]
    return take


def numbers(target: str) -> list[Any]:
    return sorted((row["n"] for row in Checkpoint.read(target).select("n").to_pylist()), key=str)


def test_rejected_records_come_in_once(run, target):
    assert run(Strict).rejected_records == 5
    assert run(Mended).taken_files == 0
    dry = run(Mended, retry_rejected=True, dry_run=True)
    assert (dry.rows_added, dry.rejected_records, dry.committed) == (2, 3, False)
    found = run(Mended, retry_rejected=True)
    assert (found.retried, found.rows_added, found.rejected_records, found.rows_total) == (3, 2, 3, 5)
    assert numbers(target) == [1, 2, 4, None, None]
    assert verify(target, run.logs, schema=Mended).differences == []
    again = run(Mended, retry_rejected=True)
    assert (again.rows_added, again.rejected_records) == (0, 3)
    assert numbers(target) == [1, 2, 4, None, None]
    assert run(Mended).taken_files == 0


@pytest.mark.parametrize(
    ("rule", "added"), [("null", 2), ("n", 2), ("n: null", 2), ("type", 0), ("json", 0), ("record: json", 0), ("s", 0)]
)
def test_a_rule_chooses_what_is_tried_again(run, target, rule, added):
    run(Strict)
    assert run(Mended, retry_rejected=rule).rows_added == added
    assert run(Mended, retry_rejected=True).rows_added == 2 - added


def test_what_came_in_is_no_longer_shown_as_rejected(run, target):
    run(Strict)
    digest = hashlib.sha256(b"b.json").hexdigest()[:12]
    assert rejected(target, digest)[0]["problems"] == [{"field": "n", "kind": "null"}]
    run(Mended, retry_rejected=True)
    with pytest.raises(NotFoundError):
        rejected(target, digest)
    lines = rejected(target, hashlib.sha256(b"c.jsonl").hexdigest()[:12])
    assert [record["offset"] for record in lines] == [21, 41]


def test_an_older_version_of_a_file_is_not_tried_again(run, target):
    run(Strict)
    (run.logs / "b.json").write_text('{"n": 7}')
    assert run(Mended).changed == 1
    assert run(Mended, retry_rejected=True).rows_added == 1  # of c.jsonl
    assert numbers(target) == [1, 2, 4, 7, None]


def test_lines_that_were_rejected_before_a_file_grew_are_tried_again(run, target):
    run(Strict)
    with (run.logs / "c.jsonl").open("a") as log:
        log.write('{"n": 8}\n')
    assert run(Strict).grown == 1
    with (run.logs / "c.jsonl").open("a") as log:
        log.write('{"n": 9}\n')
    found = run(Mended, retry_rejected=True)
    assert (found.grown, found.rows_added) == (1, 3)
    assert numbers(target) == [1, 2, 4, 8, 9, None, None]
    assert verify(target, run.logs, schema=Mended).differences == []


def test_a_reject_store_of_an_earlier_version_is_read(run, tmp_path):
    target = tmp_path / "e.parquet"
    update(run.logs, target, schema=Strict, settle_s=0)
    for part in (tmp_path / "e.parquet.ledger").glob("rej-*.jsonl"):
        old = [{k: v for k, v in json.loads(text).items() if k != "content"} for text in part.read_text().splitlines()]
        part.write_text("".join(json.dumps(record) + "\n" for record in old))
    found = update(run.logs, target, schema=Mended, settle_s=0, retry_rejected=True)
    assert found.rows_added == 1  # b.json; of c.jsonl nobody knows whether these are its lines


def test_an_empty_rule_is_no_rule(run):
    with pytest.raises(InvalidInputError, match="retry_rejected"):
        run(Strict, retry_rejected="")
