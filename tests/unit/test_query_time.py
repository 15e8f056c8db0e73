"""Which column is the time of rows that do not say it themselves."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from headgate.checkpoint import Checkpoint, update
from headgate.cli import main
from headgate.errors import InvalidInputError

_EARLY, _LATE = datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 5, 2, tzinfo=UTC)


def rows(**columns):
    times = {name: pa.array(values, pa.timestamp("us", "UTC")) for name, values in columns.items()}
    return Checkpoint(pa.table({"who": ["p"] * len(next(iter(columns.values()))), **times}))


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"recorded": [None, None, _EARLY], "start": [_EARLY, _LATE, None]}, ""),
        ({"recorded": [None, None, _EARLY], "start": [_EARLY, _LATE, _LATE]}, "start"),
        ({"timestamp": [None, None, _EARLY], "start": [_EARLY, _LATE, _LATE]}, "start"),
        ({"timestamp": [None, _EARLY, _EARLY], "start": [_EARLY, _LATE, _LATE]}, "timestamp"),
        ({"start": [None, None, _LATE]}, ""),
        ({"start": [None, _EARLY, _LATE]}, "start"),
    ],
)
def test_a_column_that_few_rows_have_is_not_their_time(columns, expected):
    found = rows(**columns)
    assert found.sort_by == expected
    if expected:
        assert len(found.latest_per("who")) == 1
        return
    for ask in (lambda: found.latest_per("who"), lambda: found.count_by("who", every="year")):
        with pytest.raises(InvalidInputError, match=r"the time of the rows could be .*start.*--sort-by"):
            ask()
    assert found.get_last_processed_timestamp() is None
    chosen = found.timed_by("start")
    assert chosen.latest_per("who").head(1)[0]["start"] == _LATE
    assert chosen.get_last_processed_timestamp() == _LATE


def test_only_times_are_a_time():
    with pytest.raises(InvalidInputError, match="column 'who' is string; expected a column of times"):
        rows(at=[_EARLY]).timed_by("who")


def test_the_command_asks_which_time(tmp_path, capsys):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "0.json").write_text('{"who": "p1", "recorded": "2020-01-01T00:00:00Z"}')
    for no, day in ((1, "01"), (2, "02")):
        text = f'{{"who": "p1", "start": "2024-05-{day}T00:00:00Z", "no": {no}}}'
        (tmp_path / "logs" / f"{no}.json").write_text(text)
    target = str(tmp_path / "e.parquet")
    update(tmp_path / "logs", target, schema="infer", settle_s=0)
    for asked in (["--latest", "who"], ["--since", "2024-01-01"], ["--every", "year"]):
        assert main(["query", target, *asked]) != 0
        assert "say which" in capsys.readouterr().err
    assert main(["query", target, "--latest", "who", "--sort-by", "start", "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("p1,,2024-05-02")
    assert main(["query", target, "--since", "2024-01-01", "--sort-by", "start", "--format", "csv"]) == 0
    assert capsys.readouterr().out == "count\n2\n"
