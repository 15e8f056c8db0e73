"""The notebooks in examples/ run from top to bottom, in a plain interpreter without a kernel, and hold no output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs(path, monkeypatch, tmp_path):
    import matplotlib as mpl

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mpl.use("agg")
    import matplotlib.pyplot as plt

    names: dict = {"__name__": "notebook"}
    cells = json.loads(path.read_text())["cells"]
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec", dont_inherit=True), names)
    assert len(plt.gcf().axes) == 2
    plt.close("all")


def test_there_are_two():
    assert [path.name for path in NOTEBOOKS] == ["explore_checkpoint.ipynb", "failover.ipynb"]
