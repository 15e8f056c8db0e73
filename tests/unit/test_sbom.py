"""The bill of materials names everything that an installation brings along."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

pytest.importorskip("packaging")
TOOL = Path(__file__).resolve().parents[2] / "tools" / "make_sbom.py"


@pytest.fixture(scope="module")
def sbom():
    spec = importlib.util.spec_from_file_location("make_sbom", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names(bill):
    return {component["name"] for component in bill["components"]}


def test_what_is_needed_by_what_is_needed_is_named(sbom, tmp_path):
    sbom.main([str(tmp_path / "out" / "headgate.cdx.json")])
    bill = json.loads((tmp_path / "out" / "headgate.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    assert {"pyarrow", "pydantic", "pydantic-core", "uvicorn", "h11", "click", "python-multipart"} <= names(bill)
    assert not {"pytest", "pypdf", "boto3", "headgate"} & names(bill)
    for component in bill["components"]:
        assert component["purl"] == f"pkg:pypi/{component['name']}@{component['version']}"


def test_extras_count_and_unknown_ones_are_named(sbom):
    assert {"pypdf", "python-docx", "lxml"} <= names(sbom.bill({"uploads"}))
    with pytest.raises(SystemExit, match="nothing: there is no such extra"):
        sbom.bill({"nothing"})
    with pytest.raises(SystemExit, match="no-such-package: not installed here"):
        sbom.collect(["no-such-package>=1"], set())
