"""Integers of more than 4,300 digits, which Python does not read: one kind of error, wherever they come from."""

from __future__ import annotations

import json

import pytest

from headgate import Ledger, config
from headgate.backends.s3 import S3Location
from headgate.checkpoint import Checkpoint, update
from headgate.cli._files import read_json
from headgate.consume._sqs_lambda import _parse
from headgate.consume._streams import parse_json
from headgate.errors import ConfigError, InvalidInputError, Kind
from headgate.identity import canonical_json, canonical_texts, event_id, event_ids, load_json

LONG = "9" * 4301


class Number(int):
    def __str__(self) -> str:
        return "7"


@pytest.mark.parametrize("call", [
    lambda: event_id({"a": 10**4300}),
    lambda: event_id({"a": -(10**4300)}, big_integers="exact"),
    lambda: event_id({"a": 10**4300}, profile="json.dumps"),
    lambda: canonical_json({"a": Number(10**4300)}, big_integers="exact"),
    lambda: event_ids([f'{{"a": {LONG}}}'], big_integers="exact"),
    lambda: event_ids([f'{{"a": {LONG}}}'], profile="json.dumps"),
    lambda: canonical_texts([f"[-{LONG}]"], big_integers="exact"),
    lambda: load_json(LONG, "the message"),
    lambda: _parse(LONG),
    lambda: parse_json(LONG.encode()),
])  # fmt: skip
def test_long_integers_are_out_of_range(call):
    with pytest.raises(InvalidInputError) as raised:
        call()
    assert raised.value.kind is Kind.NUMBER_OUT_OF_RANGE
    assert LONG[:100] not in str(raised.value)


def test_integers_of_4300_digits_are_kept():
    assert canonical_json({"a": 10**4299}, big_integers="exact") == b'{"a":1%s}' % (b"0" * 4299)
    assert load_json(LONG[:-1], "x") == int(LONG[:-1])


@pytest.mark.parametrize(("text", "kind"), [
    ("{", Kind.INVALID_JSON), (b"\xff", Kind.INVALID_JSON), ("[" * 100_000, Kind.NESTING_TOO_DEEP),
])  # fmt: skip
def test_other_kinds_stay_what_they_are(text, kind):
    with pytest.raises(InvalidInputError, match="the message") as raised:
        load_json(text, "the message")
    assert raised.value.kind is kind


def test_a_record_with_one_is_rejected_when_it_comes_in_and_not_when_it_is_read(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "a.json").write_text('{"a": 1}')
    target = tmp_path / "out.parquet"
    update(logs, target, schema="infer", settle_s=0)
    for name, text in {"b": f'{{"a": {LONG}}}', "c": f'{{"x": [{LONG}]}}', "d": f'{{"x": {LONG[:-1]}}}'}.items():
        (logs / f"{name}.json").write_text(text)
    run = update(logs, target, schema="infer", settle_s=0)
    assert (run.rows_added, run.problems) == (1, {"number_out_of_range": 2})
    rows = Checkpoint.read(target).dataframe().to_pylist()
    assert [json.loads(row["_rest"]) for row in rows if row["_rest"]] == [{"x": int(LONG[:-1])}]


@pytest.mark.parametrize(("text", "kind"), [
    (f"format = {LONG}", Kind.NUMBER_OUT_OF_RANGE), ("a = " + "[" * 100_000, Kind.NESTING_TOO_DEEP),
])  # fmt: skip
def test_a_configuration_is_refused_in_one_sentence(tmp_path, text, kind):
    (tmp_path / "headgate.toml").write_text(text)
    with pytest.raises(ConfigError) as raised:
        config.load(tmp_path / "headgate.toml", {})
    assert raised.value.kind is kind


@pytest.mark.parametrize("url", [f"redis://h:1/{LONG}", "redis://h:1/\N{ARABIC-INDIC DIGIT ONE}"])
def test_ledger_urls(url):
    with pytest.raises(ConfigError):
        Ledger.open(url)


@pytest.mark.parametrize("number", [LONG, "0", "-1", "many", "", "1000"])
def test_s3_urls(number):
    with pytest.raises(ConfigError, match="in_flight"):
        S3Location(f"s3://bucket/key?in_flight={number}")


def test_files_that_a_command_reads(tmp_path):
    (tmp_path / "input.json").write_text(LONG)
    with pytest.raises(InvalidInputError) as raised:
        read_json(str(tmp_path / "input.json"))
    assert raised.value.kind is Kind.NUMBER_OUT_OF_RANGE
