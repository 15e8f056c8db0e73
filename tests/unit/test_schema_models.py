"""A user's own pydantic model: compiled as it is meant, or refused by name; never skipped."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from enum import Enum, IntEnum
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    StringConstraints,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from headgate._native import core
from headgate.checkpoint import Checkpoint, update
from headgate.checkpoint.schema import Column, JsonValue, OneOfWhen, Timestamp, Trimmed, compile_model, problems_of
from headgate.errors import InvalidInputError, Kind


class Number(IntEnum):
    ONE = 1


class Checked(BaseModel):
    a: int

    @field_validator("a")
    @classmethod
    def even(cls, value: int) -> int:
        return value


class Related(BaseModel):
    a: int

    @model_validator(mode="after")
    def related(self) -> Related:
        return self


class Names(RootModel[list[str]]):
    pass


class Stripped(BaseModel):
    model_config = ConfigDict(str_strip_whitespace=True)
    a: str


class WrongSort(BaseModel):
    headgate_sort_by: ClassVar[str] = "a"
    a: str


class WrongRule(BaseModel):
    headgate_rules: ClassVar[tuple[OneOfWhen, ...]] = (OneOfWhen("r", "kind", ("x",), "a", ("y",)),)
    a: str


@pytest.mark.parametrize(
    ("annotation", "default", "says"),
    [
        (dict[str, int], ..., "field 'a': the type dict"),
        (list[int], ..., "field 'a': a list of anything but str"),
        (list[str | None], ..., "field 'a': a list of anything but str"),
        (int | str, ..., "field 'a': the type"),
        (Checked, ..., "field 'a': the type"),
        (Literal[1, 2], ..., "field 'a': a Literal of anything but str"),
        (Number, ..., "field 'a': an Enum of anything but str"),
        (Annotated[str, BeforeValidator(str.upper)], ..., "field 'a': the constraint BeforeValidator"),
        (Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)], ..., "field 'a': the constraint"),
        (Annotated[str, StringConstraints(to_lower=True, pattern="^a$")], ..., "field 'a': the constraint"),
        (Annotated[str, StringConstraints(pattern="a+")], ..., "not of a whole value"),
        (Annotated[str, StringConstraints(pattern=r"^[[:alpha:]]$")], ..., "pattern"),
        (list[Annotated[str, StringConstraints(max_length=3)]], ..., "max_length of list items"),
        (Annotated[int, Field(multiple_of=2)], ..., "field 'a': the constraint MultipleOf"),
        (Annotated[int, Field(multiple_of=2)] | None, ..., "field 'a': the constraint MultipleOf"),
        (Annotated[float, Field(gt=0)], ..., "field 'a': the constraint Gt"),
        (Annotated[int, Field(ge=2**60)], ..., "beyond what a double holds exactly"),
        (Annotated[Timestamp, Field(ge=datetime(2024, 1, 1, tzinfo=UTC))], ..., "field 'a': the constraint Ge"),
        (Timestamp, datetime(2024, 1, 1, tzinfo=UTC), "a default that is not plain JSON"),
        (float, float("nan"), "a default that is not plain JSON"),
        (int, Field(default_factory=int), "a default_factory other than list or dict"),
        (int, Field(validation_alias=AliasPath("x", 0)), "field 'a': an AliasPath with a position in a list"),
        (Literal["x"], "z", "field 'a': its own default is refused (enum)"),
        (int, "1", "field 'a': its own default is refused (type)"),
        (Annotated[str, Column(type="jsonb")], ..., "unknown type"),
    ],
)
def test_what_cannot_be_compiled_is_named(annotation, default, says):
    model = create_model("Model", a=(annotation, default))
    with pytest.raises(InvalidInputError) as caught:
        compile_model(model)
    assert says in str(caught.value)
    assert caught.value.kind == Kind.INVALID_SCHEMA


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (Checked, "Checked: the validator even cannot"),
        (Related, "Related: the validator related cannot"),
        (Stripped, "Stripped: the setting str_strip_whitespace cannot"),
        (Names, "expected a pydantic model of an object"),
        (dict, "expected a pydantic model of an object"),
        (WrongSort, "sort_by must name a timestamp field"),
        (WrongRule, "rule 'r' names a field that does not exist"),
        (create_model("Twice", a=(int, Field(alias="b")), b=(int, ...)), "shares a member"),
        (create_model("Empty"), "no fields"),
    ],
)
def test_models_that_cannot_be_compiled_are_named(model, says, tmp_path):
    with pytest.raises(InvalidInputError, match=says) as caught:
        update(tmp_path, tmp_path / "e.parquet", schema=model)
    assert caught.value.kind == Kind.INVALID_SCHEMA
    assert list(tmp_path.iterdir()) == []


class Visit(BaseModel):
    """Members in camel case, as many services send them."""

    model_config = ConfigDict(alias_generator=to_camel, extra="allow", strict=True)
    headgate_sort_by: ClassVar[str] = "seen_at"

    visit_id: int
    seen_at: datetime
    born: date | None = None
    kind: Annotated[str, Field(validation_alias=AliasChoices("kind", "type"))] = 'say "é"\n'
    tags: list[str] = ["a", "b"]
    more: JsonValue = Field(default_factory=dict)
    score: Annotated[int, Field(gt=0, lt=100)] | None = None


def test_aliases_defaults_and_plain_times_reach_the_table(tmp_path):
    logs, target = tmp_path / "logs", tmp_path / "v.parquet"
    logs.mkdir()
    (logs / "v.jsonl").write_text(
        '{"visitId": 2, "seenAt": "2024-01-15T10:00:00.5+02:00", "type": "x", "tags": [], "more": [1, {"b": 1, "a": 2}]}\n'
        '{"visitId": 1, "seenAt": "2024-01-15T07:00:00Z", "born": "1960-02-29", "score": 99, "visit_id": 9, "zz": 1}\n'
        '{"visitId": 3, "seenAt": "2024-01-15"}\n{"visitId": 3, "seenAt": 1705312800}\n'
        '{"visitId": 3, "seenAt": "2024-01-15T07:00:00Z", "born": "2023-02-29"}\n'
        '{"visitId": 3, "seenAt": "2024-01-15T07:00:00Z", "kind": "x", "kind": "y"}\n'
        '{"visitId": 3, "seenAt": "2024-01-15T07:00:00Z", "score": 100}\n{"visit_id": 3}\n'
    )
    run = update(logs, target, schema=Visit, settle_s=0)
    assert run.problems == {"timestamp": 1, "type": 1, "date": 1, "duplicate": 1, "range": 1, "missing": 2}
    first, second = Checkpoint.read(target).dataframe().to_pylist()
    assert first == {
        "visit_id": 1, "seen_at": datetime(2024, 1, 15, 7, tzinfo=UTC), "born": "1960-02-29", "kind": 'say "é"\n',
        "tags": ["a", "b"], "more": "{}", "score": 99, "_rest": '{"visit_id":9,"zz":1}',
    }  # fmt: skip
    assert (second["seen_at"], second["kind"], second["tags"], second["more"], second["_rest"]) == (
        datetime(2024, 1, 15, 8, 0, 0, 500_000, tzinfo=UTC), "x", [], '[1,{"a":2,"b":1}]', None)  # fmt: skip
    by_hand = Checkpoint.from_events([Visit.model_validate_json(
        '{"visitId": 1, "seenAt": "2024-01-15T07:00:00Z", "born": "1960-02-29", "score": 99, "zz": 1}'
    )], Visit)  # fmt: skip
    assert by_hand.dataframe().to_pylist() == [{**first, "_rest": '{"zz":1}'}]


def test_a_model_that_takes_names_too_reads_both():
    model = create_model(
        "Both", __config__=ConfigDict(populate_by_name=True, extra="forbid"), a=(int, Field(alias="A"))
    )
    validator = core.Validator(json.dumps(compile_model(model)))
    assert validator.problems(b'{"A": 1}') == validator.problems(b'{"a": 1}') == []
    assert validator.problems(b'{"a": 1, "A": 1}') == validator.problems(b'{"A": 1, "a": 1}') == [("", "unknown")]


@pytest.mark.parametrize("text", ['{"id": 1, "ID": 2}', '{"ID": 2, "id": 1}', '{"ID": 1}'])
def test_of_several_choices_the_first_one_counts(tmp_path, text):
    for extra, rest in (("ignore", None), ("allow", '{"ID":2}' if '"id"' in text else None)):
        model = create_model(
            "Ev", __config__=ConfigDict(extra=extra), id=(int, Field(validation_alias=AliasChoices("id", "ID")))
        )
        logs, target = tmp_path / extra, tmp_path / f"{extra}.parquet"
        logs.mkdir()
        (logs / "a.json").write_text(text)
        assert update(logs, target, schema=model, settle_s=0).rows_added == 1
        assert Checkpoint.read(target).dataframe().to_pylist() == [
            {"id": 1, **({"_rest": rest} if extra == "allow" else {})}
        ]


class Call(BaseModel):
    n: int = 0
    who: str | None = Field(None, validation_alias=AliasPath("user", "type"))
    tags: list[str] = Field([], validation_alias=AliasChoices("tags", AliasPath("user", "deep", "tags")))
    raw: JsonValue = Field(None, validation_alias=AliasPath("user", "deep", "raw"))


@pytest.mark.parametrize(
    ("text", "who", "tags", "raw"),
    [
        ('{"user": {"type": "IAM", "other": [{"type": "no"}]}}', "IAM", [], None),
        ('{"user": {"deep": {"raw": {"b": 1, "type": "no"}, "tags": ["a", "b"]}, "type": "x"}}', "x", ["a", "b"],
         '{"b":1,"type":"no"}'),
        ('{"user": {"deep": {"tags": ["a"]}}, "tags": ["first"]}', None, ["first"], None),
        ('{"user": [{"type": "no"}], "type": "no"}', None, [], None),
        ('{"user": "type", "n": {"type": "no"}}', None, None, None),
        ('{"user": {"type": {"type": "no"}}}', None, None, None),
        ('{"user": {"type": null, "deep": {"type": "no"}}}', None, [], None),
        ('{"other": {"type": "no"}, "deep": {"raw": 1}}', None, [], None),
        ('{"user": 1, "n": 7}', None, [], None),
    ],
)  # fmt: skip
def test_nested_members_fill_columns(text, who, tags, raw):
    validator = core.Validator(json.dumps(compile_model(Call)))
    found = validator.row(text.encode())
    if tags is None:
        assert found in ([("n", "type")], [("who", "type")])
        with pytest.raises(ValidationError) as caught:
            Call.model_validate_json(text, strict=True)
        assert problems_of(caught.value, Call) == found
        return
    row = json.loads(found)
    assert (row["who"], row["tags"], row["raw"]) == (who, tags, raw)


def test_a_record_with_nested_members_is_kept_whole_beside_its_columns(tmp_path):
    class Ev(Call):
        model_config = ConfigDict(extra="allow")

    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.json").write_text('{"user": {"type": "IAM", "more": 1}}')
    assert update(tmp_path / "logs", tmp_path / "t.parquet", schema=Ev, settle_s=0).rows_added == 1
    [row] = Checkpoint.read(tmp_path / "t.parquet").dataframe().to_pylist()
    assert (row["who"], row["_rest"]) == ("IAM", '{"user":{"more":1,"type":"IAM"}}')
    event = Call.model_validate({"user": {"type": "x", "deep": {"tags": ["t"]}}})
    assert Checkpoint.from_events([event], Call).head(1)[0]["who"] == "x"


@pytest.mark.parametrize(
    "fields",
    [
        {"a": (str, Field(validation_alias=AliasPath("x", "y"))), "x": (int, 0)},
        {"a": (str, Field(validation_alias=AliasPath("x", "y"))), "b": (int, Field(validation_alias=AliasPath("x", "y")))},
        {"a": (str, Field(validation_alias=AliasPath("x", "y"))),
         "b": (int, Field(validation_alias=AliasPath("x", "y", "z")))},
    ],
)  # fmt: skip
def test_a_member_of_two_fields_is_refused(fields):
    with pytest.raises(InvalidInputError, match="shares a member"):
        compile_model(create_model("Ev", **fields))


class Colour(Enum):
    RED = "red"


class Row(BaseModel):
    text: Trimmed
    whole: int
    real: float
    yes: bool
    when: Timestamp
    names: list[str]
    any: JsonValue
    colour: Colour = Colour.RED
    none: str | None = None


def test_a_row_is_what_the_table_gets(tmp_path):
    record: dict[str, Any] = {
        "text": ' "a"\t\u2028é ', "whole": -(2**63), "real": 1e-7, "yes": False, "when": "2024-01-15T10:00:00.00025-01:00",
        "names": ["", '"', "\u0001"], "any": {"b": 1.0, "a": None},
    }  # fmt: skip
    plan = compile_model(Row)
    row = json.loads(core.Validator(json.dumps(plan)).row(json.dumps(record).encode()))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "r.json").write_text(json.dumps(record))
    update(tmp_path / "logs", tmp_path / "r.parquet", schema=Row, settle_s=0)
    (stored,) = Checkpoint.read(tmp_path / "r.parquet").dataframe().to_pylist()
    when = stored.pop("when")
    assert datetime.fromisoformat(row.pop("when")) == when == datetime(2024, 1, 15, 11, 0, 0, 250, tzinfo=UTC)
    assert row == stored
    assert row["any"] == '{"a":null,"b":1}'
    assert core.Validator(json.dumps(plan)).row(b'{"text": 1}')[0] == ("text", "type")
