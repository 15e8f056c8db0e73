"""tools/make_wheels.py: what it refuses, and what it says where something is missing. The wheels themselves take minutes."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[2] / "tools" / "make_wheels.py"
NAMES = [f"headgate/{name}.cpython-312-x86_64-linux-gnu.so" for name in ("_core", "_parquet", "_curl")]


@pytest.fixture
def tool(monkeypatch):
    """The module, with readelf and nm answered: every file needs glibc 2.34 and exports its entry point."""
    spec = importlib.util.spec_from_file_location("make_wheels", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.exports = {name: [f"PyInit_{name}"] for name in module.EXTENSIONS}

    def output(command):
        if command[0] == "readelf":
            return "Name: GLIBC_2.9  Name: GLIBC_2.34  Name: GLIBC_2.4"
        return "".join(f"00001 T {symbol}\n" for symbol in module.exports[Path(command[-1]).name.split(".")[0]])

    monkeypatch.setattr(module, "output", output)
    return module


def wheel(folder, *names):
    path = folder / "headgate-0.1.0-cp312-cp312-manylinux_2_34_x86_64.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in (*NAMES, *names):
            archive.writestr(name, "")
    return path


def test_the_highest_glibc_is_named_by_number(tool, tmp_path):
    assert tool.check(wheel(tmp_path, "headgate.libs/libcurl-1234.so.4")) == "2.34"


def test_a_wheel_that_would_crash_is_refused(tool, tmp_path):
    with pytest.raises(SystemExit, match="bundles Arrow"):
        tool.check(wheel(tmp_path, "headgate.libs/libarrow-1234.so.2600"))
    tool.exports["_curl"].append("SSL_read")
    with pytest.raises(SystemExit, match="_curl exports PyInit__curl, SSL_read; expected PyInit__curl alone"):
        tool.check(wheel(tmp_path))


def test_an_interpreter_that_is_missing_is_named(tool, tmp_path, capsys, monkeypatch):
    assert tool.find_python("3.99") is None
    monkeypatch.setattr("sys.argv", ["make_wheels.py", "--python", "3.99", "--out", str(tmp_path)])
    assert tool.main() == 1
    assert capsys.readouterr().out == (
        "no wheel for Python 3.99: no interpreter with headers is on the PATH or in pyenv\n"
    )
