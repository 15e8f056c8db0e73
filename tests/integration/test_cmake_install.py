"""`cmake --install`, and a program of another project that finds and uses what was installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ["curl", "file", "redis", "s3", "sqlite", "store"]  # these need the others


def run(*command, cwd=ROOT):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.timeout(900)
@pytest.mark.xdist_group("build")
def test_another_project_builds_against_what_was_installed(tmp_path):
    run("cmake", "--preset", "dev")
    run("cmake", "--build", "--preset", "dev", "-j", "2", "--target", *(f"headgate_{name}" for name in LIBRARIES))
    prefix, project = tmp_path / "prefix", tmp_path / "project"
    run("cmake", "--install", str(ROOT / "build" / "dev"), "--prefix", str(prefix))
    shutil.copytree(ROOT / "examples" / "cpp", project)  # so that nothing of this checkout is found beside it
    run("cmake", "-S", str(project), "-B", str(project / "build"), f"-DCMAKE_PREFIX_PATH={prefix}", "-G", "Ninja")
    run("cmake", "--build", str(project / "build"))
    program = project / "build" / "claim"
    said = [run(str(program), "ledger.db", text, cwd=tmp_path) for text in ('{"a":1,"b":2}', '{"b":2,"a":1}', "{}")]
    assert said == ["acquired\n", "done\n", "acquired\n"]
    wrong = subprocess.run([program, "ledger.db", "{"], cwd=tmp_path, capture_output=True, text=True)
    assert wrong.returncode == 1
    assert wrong.stderr
    text = "".join(path.read_text() for path in (prefix / "lib").rglob("*.cmake"))
    assert str(ROOT) not in text  # what was installed can be moved
    assert os.listdir(prefix / "include") == ["headgate"]


def test_warnings_are_errors_in_a_checkout_only(tmp_path):
    """An sdist is built with compilers that warn of other things."""
    for name in ("cpp", "cmake"):
        shutil.copytree(ROOT / name, tmp_path / "source" / name)
    shutil.copy(ROOT / "CMakeLists.txt", tmp_path / "source")
    for build, wanted in (("sdist", "OFF"), ("checkout", "ON")):
        if build == "checkout":
            (tmp_path / "source" / ".git").write_text("gitdir: elsewhere")
        words = ["-S", str(tmp_path / "source"), "-B", str(tmp_path / build), "-DHEADGATE_TESTS=OFF", "-G", "Ninja"]
        run("cmake", *words)
        assert f"HEADGATE_WERROR:BOOL={wanted}" in (tmp_path / build / "CMakeCache.txt").read_text()
