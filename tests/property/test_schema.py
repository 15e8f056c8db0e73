"""The C++ validator against pydantic, and patterns against `re`."""

from __future__ import annotations

import copy
import json
import math
import re
from datetime import UTC, date, datetime
from enum import Enum
from typing import Annotated, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import AliasChoices, AliasPath, ConfigDict, Field, StringConstraints, ValidationError, create_model

from headgate import _core
from headgate._registry import shipped_plan
from headgate._text import printable
from headgate.checkpoint.schema import (
    DateText,
    DigitsInt,
    JsonValue,
    Timestamp,
    Trimmed,
    Unpadded,
    compile_model,
    problems_of,
)
from headgate.pipelines.visits import VisitEvent
from headgate.pipelines.visits.models import FILE_NAMES

VALIDATOR = _core.Validator(shipped_plan("visits"))
GOOD = {
    "action": "submit", "study": "adrc", "pipeline_adcid": 42, "project_label": "ingest-form", "center_label": "alpha",
    "gear_name": "form-scheduler", "ptid": "110001", "visit_date": "2024-01-15", "visit_number": "01",
    "datatype": "form", "module": "UDS", "packet": "I", "timestamp": "2024-01-15T10:00:00Z",
}  # fmt: skip
ODD = st.sampled_from(
    [None, True, False, 0, 1, -1, 42.0, 1e300, 2**31, 2**31 - 1, "", " ", "42", " 42 ", "-1", "4_2", "４２", "x" * 11,
     "a b", " 110001", "110001\n", "UDS", "uds", "FTLD-NP", "dicom", "delete", "2024-02-30", "2024-1-5", " 2024-01-15 ",
     "2024-01-15T10:00:00", "2024-01-15T10:00:00.123456789+02:00", "2024-01-15 10:00:00", "2024-01-15T10:00:60Z",
     "2024-01-15T10:00:00z", 1705312800, [], {}, ["a"], {"a": 1}, "é", "\u00a0x", "0001-01-01T00:00:00Z", "9999-12-31"]
)  # fmt: skip


# Times as people write them; texts of digits are left out, which differ on purpose (docs/schemas.md).
TIMES = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["2024-01-15", "2024-02-30", "0001-01-02", "9999-12-30", "0000-01-01", "2024-1-5", "+2024-01-15"]),
        st.sampled_from(["", "T", "t", " ", "_", "-", "  "]),
        st.sampled_from(["10:00", "10:00:00", "23:59:59", "24:00:00", "10:60", "10:00:60", "10", "1000", "10:00:0"]),
        st.sampled_from(["", ".5", ",5", ".", ".1234567", ".123456789012", ".x"]),
        st.sampled_from(["", "Z", "z", "+02:00", "+0200", "+02", "-00:00", "+23:59", "+24:00", "+02:60", " Z", "\u221202:00",
                         "+2:00", "+02:0", "+02:000", "-", "ZZ", "\u2212", "+02-00"]),
    ),
)  # fmt: skip


def agree(text: str) -> None:
    problems = VALIDATOR.problems(text.encode())
    found: list[tuple[str, str]] | None = []
    try:
        VisitEvent.from_json(text)
    except ValidationError as error:
        found = problems_of(error, VisitEvent)
    except ValueError:
        found = None  # not JSON, or a key twice
    if found is None:
        assert problems != [], text
    else:
        assert sorted(problems) == sorted(found), text


@settings(max_examples=3000, deadline=None)
@given(
    st.dictionaries(st.sampled_from([*GOOD, "other"]), ODD, max_size=3),
    st.sets(st.sampled_from(list(GOOD)), max_size=2),
)
@example({}, set())
@example({"datatype": "dicom", "module": None}, set())
@example({"pipeline_adcid": "007"}, set())
def test_validator_and_pydantic_agree(changes, removed):
    event = {k: v for k, v in {**copy.deepcopy(GOOD), **changes}.items() if k not in removed}
    agree(json.dumps(event))


class Colour(Enum):
    RED = "red"
    GREEN = "green"


# What a field of a user's model may be, and values that it takes; others get the odd ones.
FIELDS = {
    "str": (str, ["", "x", " é "]),
    "short": (Annotated[str, StringConstraints(min_length=1, max_length=3)], ["abc", "é"]),
    "pattern": (Annotated[str, StringConstraints(pattern=r"^[a-c]{1,2}(-[0-9]+)?$")], ["a", "bc-12"]),
    "trimmed": (Annotated[Trimmed, StringConstraints(min_length=1)], [" a ", "b"]),
    "unpadded": (Unpadded, ["a b"]),
    "literal": (Literal["UDS", "dicom"], ["UDS"]),
    "enum": (Colour, ["red"]),
    "int": (int, [0, -1, 2**53]),
    "small": (Annotated[int, Field(ge=-1, lt=43)], [-1, 42]),
    "digits": (Annotated[DigitsInt, Field(gt=0, le=2**31 - 1)], ["42", 7]),
    "float": (float, [0, 1.5, -1e300]),
    "unit": (Annotated[float, Field(ge=0, le=1)], [0, 1, 0.5]),
    "bool": (bool, [True, False]),
    "timestamp": (Timestamp, ["2024-01-15T10:00:00Z", "2024-01-15T10:00:00.5+02:00"]),
    "date": (DateText, ["2024-02-29"]),
    "moment": (datetime, ["2024-01-15T10:00:00Z", "2024-01-15 10:00"]),
    "day": (date, ["2024-02-29"]),
    "list": (list[str], [[], ["a", ""]]),
    "tickers": (
        Annotated[list[Annotated[str, StringConstraints(pattern=r"^[A-Z]{1,5}$")]], Field(min_length=1, max_length=2)],
        [["A"], ["ABCDE", "Z"]],
    ),
    "any": (JsonValue, [None, [], {"a": [1]}]),
}


def is_no_number(value):
    """Text of digits is a time for pydantic, and not for the core."""
    return not (isinstance(value, str) and re.fullmatch(r"[-+0-9.]+", value))


@st.composite
def models(draw):
    """A model of a few such fields, and a record for it: often good, often not."""
    chosen = draw(st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=5, unique=True))
    fields, record = {}, {}
    for name in chosen:
        kind, good = FIELDS[name]
        optional, alias = draw(st.booleans()), f"{name}Of" if draw(st.booleans()) else None
        default = draw(st.sampled_from([..., None, good[0]] if optional else [..., good[0]]))
        if name in ("timestamp", "enum", "moment", "day") and default is not ...:
            default = None if optional else ...
        choices = draw(st.permutations([name, f"{name}Of", f"{name}_of"]))[: draw(st.integers(2, 3))]
        several = AliasChoices(*choices) if draw(st.integers(0, 3)) == 0 else None
        inner = f"{name}In"
        if draw(st.integers(0, 3)) == 0:  # a member of an object that several fields share
            path = AliasPath("outer", inner)
            several = AliasChoices(path, *choices) if draw(st.booleans()) else AliasChoices(*choices, path)
            odd = ODD.filter(is_no_number) if kind in (datetime, date) else ODD
            outer = record.setdefault("outer", {})
            if draw(st.booleans()) and isinstance(outer, dict):
                outer[inner] = draw(st.one_of(st.sampled_from(good), odd))
            elif draw(st.integers(0, 5)) == 0:
                record["outer"] = draw(ODD)
        how = {"validation_alias": several} if several else {"alias": alias}
        fields[name] = (kind | None if optional else kind, Field(default, **how))
        for member in draw(st.permutations(choices)) if several else [alias or name]:
            odd = ODD.filter(is_no_number) | TIMES if kind in (datetime, date) else ODD
            if draw(st.integers(0, 5)):
                record[member] = draw(st.one_of(st.sampled_from(good), odd))
    extra = draw(st.sampled_from(["forbid", "ignore", "allow"]))
    by_name = draw(st.booleans())
    record |= {draw(st.sampled_from(["other", "Of"])): 1} if draw(st.integers(0, 3)) == 0 else {}
    return create_model(
        "Model", __config__=ConfigDict(extra=extra, strict=True, populate_by_name=by_name), **fields
    ), record


@settings(max_examples=1500, deadline=None)
@given(models())
def test_validator_and_any_model_agree(model_and_record):
    """Every compiled constraint, judged as strictly as pydantic judges JSON."""
    model, record = model_and_record
    text = json.dumps(record)
    found = []
    try:
        model.model_validate_json(text)
    except ValidationError as error:
        found = problems_of(error, model)
    assert sorted(_core.Validator(json.dumps(compile_model(model))).problems(text.encode())) == sorted(found), text


Moment = create_model("Moment", __config__=ConfigDict(strict=True), at=(datetime, ...), day=(date | None, None))
MOMENT = _core.Validator(json.dumps(compile_model(Moment)))


@settings(max_examples=2000, deadline=None)
@given(
    TIMES
    | st.text(alphabet="0123456789-:.,TtZz+ _", max_size=26).filter(lambda text: not re.fullmatch(r"[-+0-9.,]+", text))
)
@example("2024-01-15T10:00")
def test_every_way_to_write_a_time_is_read_as_pydantic_reads_it(text):
    try:
        expected = Moment.model_validate_json(json.dumps({"at": text})).at
    except ValidationError:
        expected = None
    found = MOMENT.row(json.dumps({"at": text}).encode())
    assert isinstance(found, str) == (expected is not None), text
    if expected is not None:
        aware = expected if expected.tzinfo else expected.replace(tzinfo=UTC)
        assert datetime.fromisoformat(json.loads(found)["at"]) == aware
    try:
        day = Moment.model_validate_json(json.dumps({"at": "2024-01-15T10:00:00Z", "day": text})).day
    except ValidationError:
        day = None
    problems = MOMENT.problems(json.dumps({"at": "2024-01-15T10:00:00Z", "day": text}).encode())
    assert (problems == []) == (day is not None), text


Floats = create_model("Floats", __config__=ConfigDict(strict=True), n=(float, ...), whole=(int, 0))
FLOATS = _core.Validator(json.dumps(compile_model(Floats)))


@settings(max_examples=1000, deadline=None)
@given(st.from_regex(r"-?(0|[1-9][0-9]{0,25})([.][0-9]{1,25})?([eE][-+]?[0-9]{1,4})?", fullmatch=True))
@example("1e-400")
@example("-2e-324")
@example("0.0e-99999")
@example("0e999")
@example("5e-324")
def test_every_number_is_read_as_pydantic_reads_it(token):
    expected = Floats.model_validate_json(f'{{"n": {token}}}').n
    found = FLOATS.row(f'{{"n": {token}}}'.encode())
    if math.isinf(expected):
        assert found == [("n", "range")]  # on purpose: what JSON cannot say is kept nowhere
    else:
        assert float(json.loads(found)["n"]) == expected
    try:
        whole = Floats.model_validate_json(f'{{"n": 1, "whole": {token}}}').whole
    except ValidationError:
        whole = None
    problems = FLOATS.problems(f'{{"n": 1, "whole": {token}}}'.encode())
    fits = whole is not None and -(2**63) <= whole < 2**63
    assert problems == ([] if fits else [("whole", "type" if whole is None else "range")])


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(list(GOOD)), ODD)
def test_duplicate_keys_are_refused_by_both(key, value):
    text = json.dumps(GOOD)[:-1] + f", {json.dumps(key)}: {json.dumps(value)}}}"
    agree(text)
    assert VALIDATOR.problems(text.encode()) != []


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_judged_alike(text):
    if "\ud800" <= max(text, default="a") <= "\udfff":
        return
    agree(text.replace("\ud800", ""))


ATOMS = st.sampled_from(["a", "b", "-", r"\.", r"\d", "[ab]", "[^a]", "[a-c0-2]", "(?:a|b-)", "(?P<g>ab?)", "."])
QUANTIFIERS = st.sampled_from(["", "?", "{2}", "{1,2}", "{0,3}", "??"])


@settings(max_examples=3000, deadline=None)
@given(st.lists(st.tuples(ATOMS, QUANTIFIERS), max_size=5), st.text(alphabet="ab-.c012é", max_size=8))
def test_patterns_match_as_re(parts, text):
    pattern = "".join(a + q for a, q in parts)
    if pattern.count("(?P<g>") > 1:
        return
    ours = _core.Pattern(pattern)
    theirs = re.compile(pattern, re.ASCII).fullmatch(text)
    assert (ours.fullmatch(text) is not None) == (theirs is not None), pattern
    assert ours.matches(text) == (theirs is not None), pattern


@settings(max_examples=1000, deadline=None)
@given(
    st.sampled_from(["submit", "pass-qc", "not-pass-qc", "delete"]),
    st.integers(1, 999),
    st.sampled_from(["ingest-form", "ingest-form-dvcid", "ingest-genetic-availability", "ingest-dicom-leads"]),
    st.text(alphabet="".join(chr(c) for c in range(33, 127) if chr(c) not in "/-"), min_size=1, max_size=10),
    st.sampled_from(["01", "1", "2024-01-15"]),
)
def test_file_names_of_the_grammar_are_accepted_and_redacted(action, adcid, project, ptid, visit):
    name = f"log-{action}-20240115-100000-{adcid}-{project}-{ptid}-{visit}.json"
    patterns = [_core.Pattern(p) for p in FILE_NAMES]
    groups = next(g for p in patterns if (g := p.fullmatch(name)) is not None)
    assert (groups["action"], groups["ptid"], groups["visit"]) == (action, ptid, visit)
    redacted = _core.Validator(shipped_plan("visits")).shown_name(name)
    assert redacted == f"log-{action}-20240115-100000-{adcid}-{project}-****-{visit}.json"


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(["ingest-form", "ingest-form-leads", "ingest-form-newstudy", "other-project"]),
    st.lists(st.text(alphabet="QXZ789", min_size=3, max_size=4), min_size=2, max_size=2),
    st.sampled_from(["01", "VISIT", "2024-01-15"]),
)
def test_no_part_of_a_participant_id_with_hyphens_is_shown(project, parts, visit):
    name = f"log-submit-20240115-100000-42-{project}-{'-'.join(parts)}-{visit}.json.gz"
    validator = _core.Validator(shipped_plan("visits"))
    assert validator.accepts_name(name)
    assert validator.day_of_name(name) == "20240115"
    known = {"ingest-form-newstudy": "ingest-form-", "other-project": ""}.get(project, f"{project}-")
    assert validator.shown_name(name) == f"log-submit-20240115-100000-42-{known}****.json.gz"


def test_a_visit_that_may_be_part_of_the_participant_id_is_not_shown():
    shown_name = _core.Validator(shipped_plan("visits")).shown_name
    head = "log-submit-20240115-100000-42-ingest-form"
    assert shown_name(f"{head}-110-AB.json") == f"{head}-****.json"
    assert shown_name(f"{head}-110001-01.json") == f"{head}-****-01.json"
    assert shown_name(f"sandbox/{head}-110001-2024-01-15.json") == f"{head}-****-2024-01-15.json"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("a\r\tb\x00\x1b[31m\x7f", r"a\r\tb\x00\x1b[31m\x7f"),
        ("\x85\x9b\u2028\u202e\u2066\u200f\u061c", r"\x85\x9b\u2028\u202e\u2066\u200f\u061c"),
        ("caf\u00e9 \u65e5\u672c \U0001f600 a\\b", "caf\u00e9 \u65e5\u672c \U0001f600 a\\b"),
    ],
)
def test_names_are_shown_without_control_characters(raw, shown):
    plan = {"format": 1, "name": "n", "fields": [{"name": "n", "type": "int64"}]}
    assert _core.Validator(json.dumps(plan)).shown_name(f"{raw}.json") == f"{shown}.json"
    assert printable(raw) == shown  # both sides alike
