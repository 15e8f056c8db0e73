from __future__ import annotations

import json
import logging

import pytest

from headgate.ops import configure_logging, redact


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


@pytest.mark.parametrize("style", ["json", "text"])
def test_no_name_can_forge_a_line_of_the_log(capsys, style):
    configure_logging("INFO", style)
    forged = "a\n12:00:00 ERROR forged\r\x1b[31m\u2028.json"
    logging.getLogger("headgate.test").warning("cannot read %s", forged, extra={"file": forged})
    output = capsys.readouterr().err
    assert output.count("\n") == 1
    assert not set("\r\x1b\u2028") & set(output)
    assert r"a\n12:00:00 ERROR forged" in output
