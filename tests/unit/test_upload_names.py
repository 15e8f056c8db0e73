"""File names: every encoding that clients send, and nothing in them that a log or a path should not hold."""

from __future__ import annotations

import base64
import logging
import time

import pytest

from headgate.errors import InvalidInputError, Kind, TransientError
from headgate.pipelines.uploads import UploadedFile, clean_file_name, form_file_name
from headgate.pipelines.uploads.contracts import PROVISIONED

TEXT = b"An essay of more than fifty characters, about canals and gates."


def part(value):
    return b'Content-Type: text/plain\r\nContent-Disposition: form-data; name="files"' + value


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (b'; filename="a.txt"', "a.txt"),
        (b"; filename=a.txt", "a.txt"),
        (b';filename="a.txt";size=3', "a.txt"),
        (b'; FILENAME="a.txt"', "a.txt"),
        (b'; filename=""', ""),
        (b"", None),
        (b'; filename="caf\xc3\xa9.txt"', "café.txt"),
        (b'; filename="caf\xe9.txt"', "café.txt"),
        (b'; filename="10\x80.txt"', "10€.txt"),
        (b'; filename="\x81.txt"', "\x81.txt"),
        ('; filename="作文 😀.txt"'.encode(), "作文 😀.txt"),
        (b"; filename*=UTF-8''caf%C3%A9.txt", "café.txt"),
        (b"; filename*=utf-8'en'%e4%bd%9c%e6%96%87.txt", "作文.txt"),
        (b"; filename*=ISO-8859-1''caf%E9.txt", "café.txt"),
        (b"; filename*=''caf%C3%A9.txt", "café.txt"),
        (b"; filename=\"cafe.txt\"; filename*=UTF-8''caf%C3%A9.txt", "café.txt"),
        (b"; filename*=UTF-8''caf%C3%A9.txt; filename=\"cafe.txt\"", "café.txt"),
        (b"; filename*=\"UTF-8''caf%C3%A9.txt\"", "café.txt"),
        (b"; filename=\"plain.txt\"; filename*=nonsense''%FF", "plain.txt"),
        (b"; filename=\"plain.txt\"; filename*=UTF-8''%FF", "plain.txt"),
        (b'; filename="plain.txt"; filename*=no-quotes', "plain.txt"),
        (b'; filename="a%22b%22.txt"', 'a"b".txt'),
        (b'; filename="a\\"b\\".txt"', 'a"b".txt'),
        (b'; filename="a\\\\b.txt"', "a\\b.txt"),
        (b'; filename="100%25 %C3%A9.txt"', "100%25 %C3%A9.txt"),
        (b'; filename="a%0Ab%0d.txt"', "a\nb\r.txt"),
        (b'; filename="a%0D%0a.txt"', "a\r\n.txt"),
        (b'; filename="C:\\essays\\a.txt"', "C:\\essays\\a.txt"),
        (b'; filename="a; filename=b.txt"', "a; filename=b.txt"),
        (b'; filename="a=b, c.txt"', "a=b, c.txt"),
        (b'; filename="=?utf-8?q?a?=.txt"', "=?utf-8?q?a?=.txt"),
        (b"; filename==?UTF-8?B?w6kudHh0?=", "é.txt"),
        (b'; filename="=?utf-8?q?=C3=A9?= =?utf-8?q?_1=2Etxt?="', "é 1.txt"),
        (b'; filename="=?nonsense?b?w6k=?="', "=?nonsense?b?w6k=?="),
        (b"; filename=a b.txt ; size=3", "a b.txt"),
        (b"; filename*=nonsense''a.txt", "nonsense''a.txt"),  # a file, whatever its name
        (b'; filename*1="b.txt"; filename*0="a "', "a b.txt"),
        (b"; filename*0*=UTF-8''caf; filename*1*=%C3%A9; filename*2=\".txt\"", "café.txt"),
        (b"; filename*0*=nonsense; filename*1=.txt", "nonsense.txt"),
        (b';\r\n filename="a.txt"', "a.txt"),
        (b'; filename="first.txt"; filename="second.txt"', "first.txt"),
    ],
)
def test_the_name_of_a_form_s_file(value, name):
    assert form_file_name(part(value)) == name
    assert form_file_name(part(value).replace(b"Content-Disposition:", b"content-disposition :")) == name


def test_only_the_disposition_names_a_file():
    assert form_file_name(b'X-Other: form-data; filename="a.txt"') is None
    assert form_file_name(b"no header at all") is None


def test_a_name_that_never_ends_takes_no_time():
    started = time.monotonic()
    form_file_name(part(b'; filename="' + b"\\" * 100_001))
    form_file_name(part(b"; a" * 50_000))
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("a.txt", "a.txt"),
        ("작문.txt", "작문.txt"),
        ("e\u0301.txt", "e\u0301.txt"),  # as macOS writes it: kept
        ("👩\u200d🎓.txt", "👩\u200d🎓.txt"),
        ("", ""),
        ("/etc/passwd", "passwd"),
        ("../../a.txt", "a.txt"),
        ("C:\\essays\\a.txt", "a.txt"),
        ("folder/", "folder"),
        ("..", "unnamed"),
        (".", "unnamed"),
        ("///", "unnamed"),
        (".txt", ".txt"),
        ("a\nb\r\t\0.txt", "a_b___.txt"),
        ("\x1b[31mred\x7f\x85.txt", "_[31mred__.txt"),
        ("a\u2028b\u2029.txt", "a_b_.txt"),
        ("a\u202etxt.exe", "a_txt.exe"),
        ("a\u2066b\u2069\u202a\u2065.txt", "a_b__\u2065.txt"),
        ("a\u202f\u206a\u202d.txt", "a\u202f\u206a_.txt"),  # the neighbours of those marks are none
        ("x" * 251 + ".txt", "x" * 251 + ".txt"),
        ("x" * 252 + ".txt", "x" * 251 + ".txt"),
        ("x" * 300, "x" * 255),
        ("a." + "x" * 300, ("a." + "x" * 300)[:255]),
    ],
)
def test_a_name_loses_what_controls_and_nothing_else(name, clean):
    assert clean_file_name(name) == clean
    assert clean_file_name(clean) == clean


@pytest.mark.parametrize(
    ("name", "kind"),
    [(None, Kind.INVALID_RECORD), (b"a.txt", Kind.INVALID_RECORD), ("\ud800", Kind.INVALID_UNICODE),
     ("a\udfff", Kind.INVALID_UNICODE)],
)  # fmt: skip
def test_what_is_no_text_is_refused(name, kind):
    with pytest.raises(InvalidInputError) as caught:
        clean_file_name(name)
    assert caught.value.kind is kind
    str(caught.value).encode()


def test_names_are_clean_in_events_and_never_in_logs(world, caplog):
    caplog.set_level("DEBUG")
    world.files.accept("b", [UploadedFile("../Zoë's\x1b[2J essay\n.txt", TEXT)])
    world.files.receive("b", "C:\\Zoë's\r.txt", TEXT)
    world.settle()
    names = {event["original_file_name"] for event in world.events(PROVISIONED)}
    assert names == {"Zoë's_[2J essay_.txt", "Zoë's_.txt"}
    assert caplog.records
    assert not [record for record in caplog.records if "Zo" in str(record.__dict__)]


# --- the handler


@pytest.fixture
def upload(tmp_path, monkeypatch):
    from headgate.handlers import upload

    (tmp_path / "headgate.toml").write_text(
        '[backends]\nobjects = "file://objects"\nstore = "sqlite:///h.db"\ndurability = "normal"\n'
        "[uploads]\nmin_length = 5\n"
    )
    monkeypatch.setenv("HEADGATE_CONFIG", str(tmp_path / "headgate.toml"))
    logger = logging.getLogger("headgate")
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield upload
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


GOOD = {"batch_id": "b", "file_name": "a.txt", "content": base64.b64encode(b"a short text").decode()}


def test_the_handler_announces_by_the_configured_limits(upload):
    answer = upload({**GOOD, "correlation_id": "corr"})
    assert (answer["statusCode"], answer["body"]["event"]) == (202, "essay.content.provisioned")
    assert answer["body"]["correlation_id"] == "corr"
    assert upload({**GOOD, "correlation_id": None})["statusCode"] == 202


def test_the_handler_delivers_what_it_announced(upload, tmp_path):
    """Nothing else would on Lambda, until the next collection or sweep."""
    from headgate.handlers._handlers import app

    with (tmp_path / "headgate.toml").open("a") as file:
        file.write(f'[consumers.index]\ntopic = "{PROVISIONED}"\nhandler = "json:dumps"\neffects = "plain"\n')
    assert upload(GOOD)["statusCode"] == 202
    assert app().embedded_store.unsent_count() == 0
    assert app().worker("index").drain().received == 1


def test_an_upload_stands_where_its_announcement_cannot_be_delivered(upload, monkeypatch, capsys):
    def relay(_):
        raise TransientError("the broker at secret-host is away")

    monkeypatch.setattr("headgate.wiring.App.relay", relay)
    assert upload(GOOD)["statusCode"] == 202
    said = capsys.readouterr().err
    assert "announcements are not delivered yet error=TransientError" in said
    assert "secret-host" not in said


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        (None, "expected an object with batch_id, file_name and content, got NoneType"),
        ([GOOD], "expected an object with batch_id, file_name and content, got list"),
        ({}, "batch_id: expected text, got nothing"),
        ({**GOOD, "batch_id": 7}, "batch_id: expected text, got int"),
        ({**GOOD, "batch_id": ""}, "batch_id: expected 1 to 200 printable characters"),
        ({**GOOD, "batch_id": "a\nb"}, "batch_id: expected 1 to 200 printable characters"),
        ({**GOOD, "file_name": None}, "file_name: expected text, got nothing"),
        ({**GOOD, "file_name": ["a.txt"]}, "file_name: expected text, got list"),
        ({**GOOD, "file_name": "\ud800"}, "files: a file's name is not text: it holds a lone surrogate"),
        ({**GOOD, "content": b"YQ=="}, "content: expected text, got bytes"),
        ({**GOOD, "content": "no base64!"}, "content: expected base64"),
        ({**GOOD, "content": "YQ"}, "content: expected base64"),
        ({**GOOD, "content": "é"}, "content: expected base64"),
        ({**GOOD, "correlation_id": 7}, "correlation_id: expected text, got int"),
        ({**GOOD, "corelation_id": "x"}, "'corelation_id' is not among batch_id, file_name, content, correlation_id"),
    ],
)
def test_the_handler_answers_a_bad_event_with_a_sentence(upload, event, sentence):
    assert upload(event) == {"statusCode": 400, "error": "InvalidInputError", "message": f"upload: {sentence}"}
