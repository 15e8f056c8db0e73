"""Pipelines that are made from a pydantic model, as a user writes them."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, ClassVar

import pytest
from pydantic import BaseModel, ConfigDict, Field

from headgate import Pipeline, Reject, event_id
from headgate.checkpoint.schema import Timestamp
from headgate.errors import ConfigError, InvalidInputError
from headgate.intake import Intake, replay_letters


class Reading(BaseModel):
    headgate_sort_by: ClassVar[str] = "taken_at"
    sensor: str
    number: int
    celsius: Annotated[float, Field(ge=-90, le=60)]
    taken_at: Timestamp | None = Field(None, alias="at")
    note: str | None = None


GOOD = {"sensor": "north", "number": 1, "celsius": 3.5, "at": "2026-05-01T12:00:00+02:00"}


def parse(body, raw):
    return json.loads(body)


def made(key=None, **options):
    return Pipeline.from_model("readings", Reading, options.pop("parse", parse), key, **options)


@pytest.fixture
def intake(store, objects, clock):
    return lambda pipeline: Intake(pipeline, store, objects, clock)


def accept(intake, *records):
    return intake.accept("box", json.dumps(list(records)).encode())


def announcements(store):
    return [json.loads(body) for (body,) in store.db.execute("SELECT body FROM outbox ORDER BY id")]


def stored_keys(store):
    return [key for (key,) in store.db.execute("SELECT key FROM items ORDER BY key")]


def test_a_model_a_parser_and_a_key_are_a_pipeline(intake, store):
    taken = accept(intake(made("number")), GOOD, {**GOOD, "celsius": 4.0}, {**GOOD, "number": 2, "celsius": 99})
    assert (taken.taken, taken.stored, taken.duplicates, taken.dead_letters) == (3, 1, 1, 1)
    assert [(i.key, i.timestamp) for i in taken.new] == [("1", "2026-05-01T10:00:00Z")]
    (letter,) = store.dead_letters()
    assert (letter["kind"], "celsius" in letter["reason"]) == ("invalid_record", True)
    (body,) = announcements(store)
    assert body == {**GOOD, "key": "1", "headgate": {"item_key": "1", "pipeline": "readings"}}


def test_without_a_key_the_whole_record_is_the_identity(intake):
    taken = accept(intake(made()), GOOD, dict(reversed(GOOD.items())), {**GOOD, "celsius": 4})
    assert (taken.stored, taken.duplicates, taken.new_keys[0]) == (2, 1, event_id(GOOD))


def test_a_key_function_gets_the_record_and_may_refuse_it(intake, store):
    def key(record):
        if record["sensor"] == "test":
            raise Reject("a_test", "the sensor is being tried")
        return f"{record['sensor']}:{record['number']}"

    taken = accept(intake(made(key)), GOOD, {**GOOD, "sensor": "test"}, {"sensor": "south"}, 7)
    assert (taken.new_keys, taken.dead_letters) == (("north:1",), 3)
    assert [(d["kind"]) for d in store.dead_letters()] == ["a_test", "invalid_record", "not_an_object"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (None, "is NoneType; expected text"),
        ("", "is an empty text; expected text"),
        (7, "is int; expected text"),
        (b"x", "is bytes; expected text"),
        ("\ud800", "lone surrogate"),
    ],
)
def test_what_is_no_key_makes_no_two_records_one(intake, store, given, reason):
    taken = accept(intake(made(lambda record: given)), GOOD, {**GOOD, "number": 2})
    assert (taken.stored, taken.duplicates, taken.dead_letters) == (0, 0, 2)
    assert all(reason in letter["reason"] for letter in store.dead_letters())


def test_a_bug_in_a_key_function_is_no_verdict_of_the_model(intake, store):
    assert accept(intake(made(lambda record: record["nothing"])), GOOD).dead_letters == 1
    assert [(d["kind"], d["reason"]) for d in store.dead_letters()] == [("normalise_failed", "KeyError")]


@pytest.mark.parametrize("name", ["number", "note"])
def test_a_field_that_is_empty_or_missing_is_no_key(intake, name):
    taken = accept(intake(made(name)), {**GOOD, "note": ""}, {**GOOD, "celsius": 5})
    assert taken.stored + taken.duplicates == (2 if name == "number" else 0)


def test_what_is_announced_can_be_chosen(intake, store):
    accept(intake(made("number", announce=["sensor", "taken_at", "note"])), GOOD)
    accept(intake(made("number", announce=lambda item: {"n": item.doc["number"]})), {**GOOD, "number": 2})
    first, second = announcements(store)
    assert first.items() >= {"key": "1", "sensor": "north", "taken_at": GOOD["at"], "note": None}.items()
    assert (second["n"], set(second)) == (2, {"n", "headgate"})


def test_an_item_that_cannot_be_announced_is_a_dead_letter_and_comes_back(intake, store, caplog):
    broken = intake(made("number", announce=lambda item: {"note": item.doc["note"]}))
    taken = accept(broken, GOOD, {**GOOD, "number": 2, "note": "n"}, {**GOOD, "number": 3})
    assert (taken.stored, taken.dead_letters, stored_keys(store)) == (1, 2, ["2"])
    letters = store.letters()
    assert [(x["kind"], x["reason"]) for x in letters] == [("announce_failed", "KeyError")] * 2
    lines = [(r.pipeline, r.source, r.error) for r in caplog.records if r.getMessage() == "announce failed"]
    assert lines == [("readings", "box", "KeyError")] * 2
    assert replay_letters(broken, letters).refused == 2
    assert replay_letters(intake(made("number", announce=["note"])), letters).entered == 2
    assert stored_keys(store) == ["1", "2", "3"]


def test_the_engine_s_mark_is_not_the_record_s(intake, store):
    pipeline = Pipeline.from_model(
        "marked", type("Any", (BaseModel,), {"model_config": ConfigDict(extra="allow")}), parse
    )
    assert accept(intake(pipeline), {"headgate": 1}, {"n": 1}).dead_letters == 1
    (letter,) = store.dead_letters()
    assert (letter["kind"], "'headgate'" in letter["reason"]) == ("invalid_input", True)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"key": "nothing"}, "pipeline readings: key names 'nothing'; expected a field of the model: sensor, number"),
        ({"announce": ["at"]}, "pipeline readings: announce names 'at'; expected a field of the model: sensor"),
    ],
)
def test_fields_that_do_not_exist_are_refused_when_the_pipeline_is_made(wrong, text):
    with pytest.raises(ConfigError, match=text):
        made(**wrong)


def test_a_field_named_as_the_engine_s_mark_is_refused():
    class Marked(BaseModel):
        headgate: str

    with pytest.raises(ConfigError, match="'headgate' of an announcement is the engine's"):
        Pipeline.from_model("marked", Marked, parse)
    assert Pipeline.from_model("marked", Marked, parse, announce=[]).topic == "marked.items"
    with pytest.raises(InvalidInputError, match="expected a pydantic model"):
        Pipeline.from_model("marked", dict, parse)


@pytest.mark.parametrize("give", ["one", "instance", "generator", "instances", "tuple"])
def test_a_parser_gives_records_in_the_form_it_likes(intake, give):
    def parser(body, raw):
        record = json.loads(body)[0]
        return {
            "one": record,
            "instance": Reading(**record),
            "generator": (r for r in [record]),
            "instances": [Reading(**record)],
            "tuple": (record,),
        }[give]

    taken = accept(intake(made("number", parse=parser)), GOOD)
    assert [(i.key, i.timestamp) for i in taken.new] == [("1", "2026-05-01T10:00:00Z")]


@pytest.mark.parametrize("gives", [None, 7, "text", b"bytes", [None]])
def test_what_is_no_record_is_a_dead_letter(intake, store, gives):
    assert accept(intake(made(parse=lambda body, raw: gives)), GOOD).dead_letters == 1
    assert store.dead_letters()[0]["kind"] == "not_an_object"


def test_a_parser_may_refuse_a_body_or_fail_on_it(intake, store):
    def parser(body, raw):
        if body == b"no":
            raise Reject("unwanted", "nobody wants this")
        return json.loads(body)

    taking = intake(made("number", parse=parser))
    assert [taking.accept("box", body).dead_letters for body in (b"no", b"{", b'{"a": \xff}')] == [1, 1, 1]
    found = {d["kind"]: d["reason"] for d in store.dead_letters()}
    assert found == {
        "unwanted": "nobody wants this",
        "invalid_json": "the body is not JSON",
        "parse_failed": "UnicodeDecodeError",
    }


def test_other_parts_of_a_pipeline_are_replaced(intake):
    pipeline = dataclasses.replace(made("number", finished_by="books"), key_prefix="READING")
    assert (pipeline.finished_by, pipeline.key_prefix, pipeline.alert_topic) == ("books", "READING", "readings.alerts")
    assert accept(intake(pipeline), GOOD).stored == 1
