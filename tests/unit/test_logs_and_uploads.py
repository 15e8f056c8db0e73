from __future__ import annotations

import json
import logging

import pytest

from headgate.ops import configure_logging, redact
from headgate.pipelines.uploads import ContentType, UploadFlow


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Token abc123 rest", "Authorization: Token **** rest"),
        ("X-Finnhub-Token: abc", "X-Finnhub-Token: ****"),
        ("redis://user:p%40ss@host:1/0", "redis://user:****@host:1/0"),
        ("https://x.example/?token=abc&symbol=A", "https://x.example/?token=****&symbol=A"),
        ('{"api_key": "abc", "n": 1}', '{"api_key": "****", "n": 1}'),
        ("nothing secret", "nothing secret"),
    ],
)
def test_redact(text, expected):
    assert redact(text) == expected


@pytest.mark.parametrize("style", ["json", "text"])
def test_logs_carry_no_secret(capsys, style):
    configure_logging("INFO", style)
    log = logging.getLogger("headgate.test")
    log.info(
        "calling %s",
        "https://u:hunter2@h/?token=hunter2",
        extra={"api_token": "hunter2", "url": "a token=hunter2", "n": 3},
    )
    try:
        raise ValueError("password=hunter2")
    except ValueError:
        log.exception("failed")
    output = capsys.readouterr().err
    assert "hunter2" not in output
    assert "calling" in output
    if style == "json":
        first = json.loads(output.splitlines()[0])
        assert (first["level"], first["n"], first["api_token"]) == ("INFO", 3, "****")


@pytest.mark.parametrize("in_lambda", [True, False])
def test_handlers_log_json_in_lambda_and_text_elsewhere(tmp_path, monkeypatch, capsys, in_lambda):
    from headgate import handlers

    (tmp_path / "headgate.toml").write_text("")
    monkeypatch.setenv("HEADGATE_CONFIG", str(tmp_path / "headgate.toml"))
    monkeypatch.delenv("AWS_LAMBDA_FUNCTION_NAME", raising=False)
    if in_lambda:
        monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "f")
    handlers.heal({})
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("{") == in_lambda
    assert "self-healing check" in line
    if in_lambda:
        assert json.loads(line)["items_found"] == 0


TEXT = b"x" * 60


@pytest.fixture
def flow(objects, store, clock):
    return UploadFlow(objects, store, clock)


def test_a_good_upload(flow, objects, store):
    event = flow.receive("b", "a.txt", TEXT, "corr")
    assert event["event"] == "essay.content.provisioned"
    assert objects.get(event["raw_file_storage_id"]) == TEXT == objects.get(event["text_storage_id"])
    assert event["raw_file_storage_id"].startswith(f"content/{ContentType.RAW_UPLOAD_BLOB}/")
    assert store.count("SELECT count(*) FROM outbox WHERE topic LIKE '%provisioned%'") == 1


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("a.txt", b"", "EMPTY_CONTENT"),
        ("a.txt", b"  \n", "EMPTY_CONTENT"),
        ("a.txt", b"short", "CONTENT_TOO_SHORT"),
        ("a.txt", b"x" * 50_001, "CONTENT_TOO_LONG"),
        ("a.txt", b"\xff" * 60, "ENCODING_ERROR"),
        ("a.pdf", TEXT, "TEXT_EXTRACTION_FAILED"),
    ],
)
def test_every_failure_is_announced_with_the_raw_id(flow, objects, name, data, code):
    event = flow.receive("b", name, data)
    assert (event["event"], event["validation_error_code"]) == ("essay.validation.failed", code)
    assert objects.get(event["raw_file_storage_id"]) == data


def test_a_failing_raw_store_is_announced_too(flow, monkeypatch):
    from headgate.errors import StorageFullError

    def full(*_):
        raise StorageFullError("no space")

    monkeypatch.setattr(flow, "store_content", full)
    event = flow.receive("b", "a.txt", TEXT)
    assert (event["validation_error_code"], event["raw_file_storage_id"]) == ("RAW_STORAGE_FAILED", "STORAGE_FAILED")
