"""An sdist holds everything, and what is built from it works from any folder, even by --target."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(600)
@pytest.mark.xdist_group("build")
def test_an_sdist_builds_and_runs_elsewhere(tmp_path):
    script = "import scikit_build_core.build as b; print(b.build_sdist(r'%s'))" % tmp_path  # noqa: UP031
    name = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    (sdist,) = tmp_path.glob("*.tar.gz")
    assert sdist.name in name
    with tarfile.open(sdist) as archive:
        names = {n.partition("/")[2] for n in archive.getnames()}
    assert {"CMakeLists.txt", "cpp/CMakeLists.txt", "bindings/module.cpp", "python/headgate/py.typed"} <= names
    assert not [n for n in names if n.startswith(("tests/", "build/", ".venv", "docs/", "bench/"))]
    target = tmp_path / "site"
    # With the checkout's flags, so that ccache has what the build before has compiled.
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-build-isolation",
               "--no-deps", "--config-settings=cmake.define.HEADGATE_WERROR=ON", "--target", target, sdist]  # fmt: skip
    subprocess.run(command, check=True, cwd=tmp_path)
    assert (target / "headgate" / "_core.pyi").exists()
    assert (target / "headgate" / "pipelines" / "visits" / "plan.json").exists()
    code = (
        "import headgate, headgate.checkpoint as c, pathlib, sys;"
        "assert headgate.__file__.startswith(sys.argv[1]), headgate.__file__;"
        "pathlib.Path('in').mkdir();"
        "pathlib.Path('in/a.json').write_text('{\"n\": 1}');"
        "print(c.update('in', 'e.parquet', settle_s=0).rows_added, headgate.event_id({})[:8])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(target)], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(target)},
    )  # fmt: skip
    assert run.stdout.split() == ["1", "44136fa3"], run.stderr
