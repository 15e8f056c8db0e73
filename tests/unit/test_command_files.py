"""Files and modules that a command names: what is wrong with them is a sentence, never "a bug in headgate"."""

from __future__ import annotations

import io
import sys

import pytest

from headgate._registry import load_module
from headgate.cli._files import parse_json, read_json, read_text
from headgate.cli._workflow import _handlers
from headgate.errors import ConfigError, InvalidInputError, NotFoundError
from headgate.wiring.references import load_reference


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"\xff\xfe", "is no text: byte 0 is not UTF-8"),
        (b"[" * 100_000, "is no JSON: it is nested too deeply"),
        (b"9" * 5000, "is no JSON: it has an integer of more than 4300 digits"),
        (b"{", "is no JSON: Expecting"),
        (b"", "is no JSON: Expecting"),
    ],
    ids=["text", "depth", "digits", "json", "empty"],
)
def test_a_file_that_is_no_json(tmp_path, body, message):
    (tmp_path / "x.json").write_bytes(body)
    with pytest.raises(InvalidInputError, match=message):
        read_json(str(tmp_path / "x.json"))


def test_a_file_that_is_none(tmp_path, monkeypatch):
    with pytest.raises(NotFoundError, match="there is no file"):
        read_text(str(tmp_path / "nope"))
    with pytest.raises(InvalidInputError, match="is a folder; expected a file"):
        read_text(str(tmp_path))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8"))
    with pytest.raises(InvalidInputError, match="- is no text"):
        read_text("-")
    with pytest.raises(InvalidInputError, match="expected JSON: it is nested too deeply"):
        parse_json("[" * 100_000, "expected JSON")


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (1, "def f(:", "SyntaxError"),
        (2, "raise SystemExit(3)", "SystemExit: 3"),
        (3, "{}['key']", "KeyError"),
        (4, "import nothing_of_the_kind", "No module named"),
    ],
)
def test_a_module_whose_own_code_fails(tmp_path, monkeypatch, number, code, message):
    name = f"failing_module_{number}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImportError, match=message):
        load_module(name)
    with pytest.raises(ConfigError, match=message):
        load_reference("consumers.x.handler", f"{name}:handle")
    with pytest.raises(ConfigError, match=f"--handlers {name}.py: .*{message}"):
        _handlers(f"{name}.py")
