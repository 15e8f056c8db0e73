"""What `make run` says on a machine where it may not install packages, and the rule about skips in CI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def fake(folder, name, body):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def test_without_the_right_to_install_it_prints_the_line_to_type(tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    shutil.copy(ROOT / "tools" / "setup", tools / "setup")
    programs = tmp_path / "bin"
    programs.mkdir()
    fake(programs, "id", "echo 1000")
    fake(programs, "sudo", "exit 1")
    fake(programs, "apt-get", "echo must not run; exit 9")
    fake(
        programs, "dpkg-query", 'case "$*" in *libhiredis-dev*|*libcurl*) exit 1;; *) echo install ok installed;; esac'
    )
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    result = subprocess.run([tools / "setup", "build"], capture_output=True, text=True, env=environment)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].strip() == (
        "sudo apt-get install --no-install-recommends libcurl4-openssl-dev libhiredis-dev"
    )


def test_an_old_python_is_named(tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    shutil.copy(ROOT / "tools" / "setup", tools / "setup")
    fake(tmp_path, "dpkg-query", "echo install ok installed")
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": "/bin/false"}
    result = subprocess.run([tools / "setup", "build"], capture_output=True, text=True, env=environment)
    assert result.returncode == 1
    assert "needs Python 3.11 or newer" in result.stderr


def test_a_skip_that_is_not_allowed_fails_ci(tmp_path):
    """Without redis-server its suite skips by name; with CI set that is a failure."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/contract/test_backends.py",
        "-k",
        "Redis",
    ]
    results = {}
    for ci in ("", "true"):
        environment = {**os.environ, "PATH": str(tmp_path), "CI": ci}
        results[ci] = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert results[""].returncode == 0
    assert "redis-server is not installed" in results[""].stdout
    assert results["true"].returncode == 1
    assert "skip not allowed in CI" in results["true"].stdout
