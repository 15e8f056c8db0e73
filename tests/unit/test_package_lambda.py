"""`headgate package lambda`: deterministic zips, layers that are reused, the limit, and what it says where something is missing."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile

import pytest

from headgate.cli import main
from headgate.cli._package import LAYERS, package_lambda, pip_install
from headgate.errors import ConfigError, HeadgateError, InvalidInputError, NotFoundError

PYARROW = {
    "pyarrow/__init__.py": b"", "pyarrow/libarrow.so.2600": b"arrow", "pyarrow/libparquet.so.2600": b"parquet",
    "pyarrow/libarrow_python.so.2600": b"python", "pyarrow/libarrow_python.so": b"python", "pyarrow/lib.cpython-312.so": b"lib",
    "pyarrow/libarrow_python.so.2600.1.0": b"python", "pyarrow/libarrow_flight.so.2600": b"flight",
    "pyarrow/_flight.cpython-312.so": b"flight", "pyarrow/flight.py": b"", "pyarrow/include/arrow/api.h": b"h",
    "pyarrow/tests/test_array.py": b"", "pyarrow/array.pxi": b"", "pyarrow/_gcsfs.cpython-312.so": b"gcs",
    "pyarrow/libarrow_dataset.so.2600": b"dataset", "pyarrow/libarrow_substrait.so.2600": b"needed by lib",
    "pyarrow/_s3fs.cpython-312.so": b"s3", "pyarrow/libarrow_s3.so.2600": b"s3", "pyarrow/orc.py": b"", "pyarrow/fs.py": b"",
    "pyarrow-26.0.1.dist-info/METADATA": b"Version: 26.0.1", "pyarrow-26.0.1.dist-info/RECORD": b"changes",
}  # fmt: skip
POWERTOOLS = {
    "aws_lambda_powertools/__init__.py": b"", "aws_lambda_powertools/__pycache__/__init__.cpython-311.pyc": b"?",
    "botocore/session.py": b"large", "boto3/__init__.py": b"", "aws_lambda_powertools-3.9.0.dist-info/METADATA": b"",
    "boto3-1.40.0.dist-info/METADATA": b"", "bin/jp.py": b"#!/somewhere/python",
}  # fmt: skip


def install(folder, requirements):
    assert tuple(requirements) in LAYERS.values()
    files = POWERTOOLS if "powertools" in requirements[0] else PYARROW
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@pytest.fixture
def wheels(tmp_path):
    folder = tmp_path / "dist"
    folder.mkdir()
    write_wheel(folder, b"core")
    return folder


def write_wheel(folder, core):
    with zipfile.ZipFile(folder / "headgate-0.1.0-cp312-cp312-manylinux_2_34_x86_64.whl", "w") as archive:
        archive.writestr("headgate/__init__.py", "")
        archive.writestr("headgate/_core.cpython-312-x86_64-linux-gnu.so", core)
        archive.writestr("headgate-0.1.0.dist-info/RECORD", "x")


def names(path):
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def test_the_function_and_its_layers_are_apart_and_pruned(wheels, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "my_handlers.py").write_text("x = 1")
    (tmp_path / "headgate.toml").write_text("format = 1")
    out = tmp_path / "out"
    manifest = package_lambda(
        out, wheels, "3.12", install=install, config=str(tmp_path / "headgate.toml"), more=str(own)
    )
    assert names(out / "function-3.12.zip") == {
        "headgate/__init__.py", "headgate/_core.cpython-312-x86_64-linux-gnu.so", "headgate.toml", "my_handlers.py"}  # fmt: skip
    assert names(out / "powertools-3.12.zip") == {
        "python/aws_lambda_powertools/__init__.py", "python/aws_lambda_powertools-3.9.0.dist-info/METADATA"}  # fmt: skip
    assert names(out / "data_processing-3.12.zip") == {
        "python/pyarrow/__init__.py", "python/pyarrow/libarrow.so.2600", "python/pyarrow/libparquet.so.2600",
        "python/pyarrow/libarrow_python.so.2600", "python/pyarrow/lib.cpython-312.so", "python/pyarrow/libarrow_dataset.so.2600",
        "python/pyarrow/libarrow_substrait.so.2600", "python/pyarrow/_s3fs.cpython-312.so", "python/pyarrow/libarrow_s3.so.2600",
        "python/pyarrow/fs.py", "python/pyarrow-26.0.1.dist-info/METADATA"}  # fmt: skip
    assert manifest["dependencies"] == ["aws-lambda-powertools==3.9.0", "pyarrow==26.0.1"]
    for entry in [manifest["function"], *manifest["layers"]]:
        data = (out / entry["file"]).read_bytes()
        assert (entry["zip_sha256"], entry["size_bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
    assert json.loads((out / "manifest.json").read_text())["python"] == "3.12"


def test_it_is_the_same_to_the_byte(wheels, tmp_path):
    made = []
    for name in ("one", "two"):
        package_lambda(tmp_path / name, wheels, "3.12", install=install)
        os.utime(wheels / "headgate-0.1.0-cp312-cp312-manylinux_2_34_x86_64.whl", (1, 1))
        made.append({f.name: f.read_bytes() for f in (tmp_path / name).iterdir()})
    assert made[0] == made[1]


def test_a_layer_whose_content_is_the_same_stays(wheels, tmp_path):
    out = tmp_path / "out"
    first = package_lambda(out, wheels, "3.12", install=install)
    assert first["kept"] == []
    before = {f.name: f.stat().st_mtime_ns for f in out.glob("*.zip")}
    write_wheel(wheels, b"another core")
    second = package_lambda(out, wheels, "3.12", install=install)
    assert second["kept"] == ["powertools", "data_processing"]
    assert second["unpacked_bytes"] == first["unpacked_bytes"] + len(b"another core") - len(b"core")
    after = {f.name: f.stat().st_mtime_ns for f in out.glob("*.zip")}
    assert {name for name in before if before[name] != after[name]} == {"function-3.12.zip"}
    (out / "powertools-3.12.zip").write_bytes(b"damaged")
    assert package_lambda(out, wheels, "3.12", install=install)["kept"] == ["function", "data_processing"]


def test_too_large_names_the_sizes_and_writes_no_manifest(wheels, tmp_path):
    with pytest.raises(InvalidInputError, match=r"expected at most 50 \(function 4, powertools"):
        package_lambda(tmp_path / "out", wheels, "3.12", install=install, limit=50)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_what_is_missing_is_said(wheels, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    with pytest.raises(NotFoundError, match=r"no wheel of headgate for Python 3.13 in .*; `make wheel` makes it"):
        package_lambda(out, wheels, "3.13", install=install)
    with pytest.raises(
        ConfigError, match=r"--python 3.11: expected 3.12 or 3.13; for others deploy the container image"
    ):
        package_lambda(out, wheels, "3.11", install=install)
    with pytest.raises(NotFoundError, match="does not exist"):
        package_lambda(out, wheels, "3.12", install=install, config=str(tmp_path / "no.toml"))
    assert main(["package", "lambda", "--wheels", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err.endswith("is installed [not_found]\n")
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(HeadgateError, match=r"pip cannot install x for Python 3.12: it said nothing"):
        pip_install(out, ["x"], "3.12")
