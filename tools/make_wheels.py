"""Build the wheels: `make wheel`, or tools/make_wheels.py [--python 3.12] [--tests] [--out dist].

For each Python a wheel is built in an environment of its own, repaired with auditwheel (libcurl, OpenSSL, SQLite,
hiredis and expat move inside; Arrow stays outside, since it comes with pyarrow), checked, installed into an empty
environment, and tried there. With --tests the unit tests run on it as well.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("3.11", "3.12", "3.13")
LOCKS = ROOT / "tools" / "locks"
BUILD = ["--require-hashes", "--requirement", LOCKS / "wheel.txt"]
ARROW = ("libarrow.so.2600", "libparquet.so.2600")
EXTENSIONS = ("_core", "_parquet", "_curl")
SMOKE = """
import pathlib, sys, headgate, headgate.checkpoint as checkpoint
from headgate import Ledger, event_id
from headgate._native import core
assert pathlib.Path(headgate.__file__).is_relative_to(sys.prefix), headgate.__file__
assert event_id({"b": 1, "a": 2}) == event_id({"a": 2, "b": 1})
claim = Ledger.open("sqlite:///ledger.db").claim("k")
assert claim.status == "acquired", claim
pathlib.Path("in").mkdir()
assert checkpoint.update("in", "e.parquet").listed == 0
from headgate.resilience import HttpClient
client = HttpClient(timeout_s=1.0)
try:
    client.get("http://127.0.0.1:9/")
except Exception as error:
    assert type(error).__module__ == "headgate.errors", type(error)
print("smoke test: identity, SQLite, Parquet and libcurl work")
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", metavar="X.Y", help=f"default: {', '.join(VERSIONS)}")
    parser.add_argument("--out", default="dist", type=Path)
    parser.add_argument("--tests", action="store_true", help="run the unit tests on each wheel")
    options = parser.parse_args()
    out = (ROOT / options.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    missing, made = [], []
    for version in options.python or VERSIONS:
        python = find_python(version)
        if python is None:
            missing.append(version)
            continue
        started = time.monotonic()
        wheel = build(python, version, out)
        glibc = check(wheel)
        try_out(python, wheel, tests=options.tests)
        size = wheel.stat().st_size / 1e6
        made.append(f"{wheel.name}: {size:.1f} MB, needs glibc {glibc}, {time.monotonic() - started:.0f} s")
    for line in made:
        print(line)
    for version in missing:
        print(f"no wheel for Python {version}: no interpreter with headers is on the PATH or in pyenv")
    return 1 if missing or not made else 0


def find_python(version: str) -> Path | None:
    """An interpreter of that version whose headers are there."""
    pyenv = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"), reverse=True)
    on_path = shutil.which(f"python{version}")
    for python in [*pyenv, *([Path(on_path)] if on_path else [])]:
        code = (
            "import pathlib, sys, sysconfig; header = pathlib.Path(sysconfig.get_path('include')) / 'Python.h';"
            f"sys.exit(not header.exists() or '%d.%d' % sys.version_info[:2] != {version!r})"
        )
        if subprocess.run([python, "-c", code], check=False, capture_output=True).returncode == 0:
            return python
    return None


def environment(python: Path, folder: Path, requirements: list[object]) -> Path:
    """A virtual environment with these packages; its interpreter."""
    if not (folder / "bin" / "python").exists():
        run([python, "-m", "venv", folder])
    inside = folder / "bin" / "python"
    if requirements:
        run([inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements])
    return inside


def build(python: Path, version: str, out: Path) -> Path:
    """Build and repair a wheel."""
    tools = environment(python, ROOT / "build" / "wheels" / f"tools-{version}", BUILD)
    with tempfile.TemporaryDirectory() as raw, tempfile.TemporaryDirectory() as repaired:
        run([tools, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-build-isolation", "--no-deps",
             "--wheel-dir", raw, ROOT])  # fmt: skip
        (wheel,) = Path(raw).glob("*.whl")
        excluded = [part for name in ARROW for part in ("--exclude", name)]
        path = f"{tools.parent}:{Path('/usr/bin')}:{Path('/bin')}"
        run([tools, "-m", "auditwheel", "repair", *excluded, "--wheel-dir", repaired, wheel], env={"PATH": path})
        (found,) = Path(repaired).glob("*.whl")
        return Path(shutil.move(found, out / found.name))


def check(wheel: Path) -> str:
    """Refuse a wheel that bundles Arrow, or whose extensions export more than their entry points; the highest glibc."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
        libraries = [path for path in Path(folder).rglob("*") if ".so" in path.suffixes]
        bundled = {path.name for path in libraries}
        if any(name.startswith(("libarrow", "libparquet")) for name in bundled):
            raise SystemExit(f"{wheel.name} bundles Arrow: two copies in one process crash")
        needed = {(0, 0)}
        for path in libraries:
            text = output(["readelf", "--version-info", "--wide", path])
            needed |= {tuple(map(int, found.split("."))) for found in re.findall(r"GLIBC_(\d+\.\d+)", text)}
        for name in EXTENSIONS:
            (path,) = Path(folder).glob(f"headgate/{name}.*.so")
            exported = output(["nm", "--dynamic", "--defined-only", "--extern-only", path]).split()[2::3]
            if exported != [f"PyInit_{name}"]:
                raise SystemExit(
                    f"{wheel.name}: {name} exports {', '.join(exported[:5])}; expected PyInit_{name} alone"
                )
    return ".".join(map(str, max(needed)))


def try_out(python: Path, wheel: Path, *, tests: bool) -> None:
    """Install it into an empty environment, and use it from a folder where nothing else of headgate is."""
    with tempfile.TemporaryDirectory() as folder:
        inside = environment(python, Path(folder) / "venv", [str(wheel)])
        run([inside, "-c", SMOKE], cwd=folder)
        run([inside.parent / "headgate", "--version"], cwd=folder)
        if tests:
            for name in ("build.txt", "dev.txt"):
                locked = ["--require-hashes", "--no-build-isolation", "--requirement", LOCKS / name]
                run([inside, "-m", "pip", "install", "--quiet", *locked])
            slow = "tests/unit/test_architecture.py::test_import_is_fast"
            run([inside, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--deselect", slow, "tests/unit"], cwd=ROOT)


def run(command: list[object], **more: object) -> None:
    subprocess.run(command, check=True, **more)  # type: ignore[call-overload]


def output(command: list[object]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # type: ignore[call-overload]


if __name__ == "__main__":
    sys.exit(main())
