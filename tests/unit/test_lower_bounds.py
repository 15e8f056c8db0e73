"""Each requirement has a lower bound, and tools/lower_bounds finds it; the tool itself tries them in CI."""

from __future__ import annotations

import re
import tomllib
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool():
    loader = SourceFileLoader("lower_bounds", str(ROOT / "tools" / "lower_bounds"))
    module = module_from_spec(spec_from_loader("lower_bounds", loader))
    loader.exec_module(module)
    return module


def test_each_requirement_at_its_lower_bound(tool):
    assert tool.lowest("apscheduler>=3.10,<4") == "apscheduler==3.10"
    assert tool.lowest("pyarrow==26.*") == "pyarrow==26.*"
    found = tool.requirements()
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9.]*", requirement) for requirement in found)
    assert "holidays==0.87" in found  # half days of the exchange
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(tool.GROUPS) | {"spark", "infra", "notebook", "docs", "all"} == set(project["optional-dependencies"])
    assert all((ROOT / test).exists() for test in tool.TESTS)
