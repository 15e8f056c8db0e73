"""`headgate package lambda`: a function's zip and its layers, the same bytes for the same content."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headgate import __version__
from headgate.errors import ConfigError, HeadgateError, InvalidInputError, Kind, NotFoundError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable

LIMIT = 250 * 1024 * 1024  # bytes of function and layers together, unpacked: AWS Lambda's quota
PYTHONS = ("3.12", "3.13")  # a wheel of 3.11 does not load in Lambda's 3.11, whose C library is older
_PLATFORMS = ("manylinux_2_34_x86_64", "manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold
_LEVEL = 9

# What the handlers need of headgate's dependencies; the rest is for the command and `headgate serve`.
LAYERS = {
    "powertools": ("aws-lambda-powertools[tracer]>=3,<4",),
    "data_processing": ("pyarrow>=26.0,<27", "pydantic>=2.7", "holidays>=0.60", "tzdata>=2024.1"),
}
# Lambda's runtimes hold these.
_IN_THE_RUNTIME = re.compile(r"(boto3|botocore|s3transfer|urllib3)(-[^/]*)?/")
# Of pyarrow: headers, sources, tests, and the libraries of what headgate does not use. `import pyarrow` and its modules
# parquet, dataset, compute and fs go on working.
_NOT_OF_PYARROW = re.compile(
    r"pyarrow/(include/|src/|tests/|.*\.(pyx|pxd|pxi|h|cc)$|.*flight.*|_?(orc|gandiva|cuda|azurefs|gcsfs|hdfs|substrait)\b.*"
    r"|libarrow_python\.so(\.\d+\.\d+\.\d+)?$|_(azurefs|gcsfs|hdfs|orc|substrait)\..*)"
)
_NOT_NEEDED = re.compile(
    r"(bin/|.*/__pycache__/|.*\.pyc$|[^/]*\.dist-info/(RECORD|INSTALLER|REQUESTED|direct_url\.json|licenses/|AUTHORS|LICENSE))"
)


@dataclass(frozen=True)
class Archive:
    """One zip that was written, or kept."""

    file: str
    sha256: str
    content_sha256: str  # of names and contents: the same whatever compressed them
    size: int
    unpacked: int
    kept: bool

    def to_dict(self) -> dict[str, Any]:
        return {
            "file": self.file, "sha256": self.content_sha256,
            "sha256_base64": base64.b64encode(bytes.fromhex(self.sha256)).decode(), "zip_sha256": self.sha256,
            "size_bytes": self.size, "unpacked_bytes": self.unpacked,
        }  # fmt: skip


def add_package(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The command `package`."""
    command = add(
        "package", run_package, "Make what is deployed: `package lambda` writes a function's zip and its layers."
    )
    command.add_argument("kind", choices=["lambda"])
    command.add_argument("--python", default=PYTHONS[0], help=f"{' or '.join(PYTHONS)} (default: %(default)s)")
    command.add_argument("--wheels", default="dist", metavar="DIR", help="where `make wheel` left them (default: dist)")
    command.add_argument("--out", default="build/lambda", metavar="DIR", help="default: build/lambda")
    command.add_argument("--constraints", metavar="FILE", help="versions of the dependencies, as pip takes them")
    command.add_argument(
        "--add", metavar="DIR", help="modules of your own (handlers, pipelines) for the function's zip"
    )


def run_package(options: argparse.Namespace) -> int:
    """Write the zips and manifest.json; print the manifest."""
    manifest = package_lambda(
        Path(options.out), Path(options.wheels), options.python, config=options.config, more=options.add,
        install=lambda folder, what: pip_install(folder, what, options.python, options.constraints),
    )  # fmt: skip
    print(json.dumps(manifest, indent=2))
    return 0


def package_lambda(
    out: Path, wheels: Path, python: str, *, install: Callable[[Path, Iterable[str]], None], config: str | None = None,
    more: str | None = None, limit: int = LIMIT,
) -> dict[str, Any]:  # fmt: skip
    """Write function.zip, a zip for each layer, and manifest.json.

    Args:
        out: the folder; a layer whose content is that of an earlier manifest is left as it is.
        wheels: a folder with headgate's wheel for that Python.
        python: "3.12" or "3.13".
        install: puts packages into a folder, for Lambda's platform.
        config: a headgate.toml for the function's zip.
        more: a folder of the user's own modules for it.
        limit: bytes that everything may have, unpacked.

    Raises:
        ConfigError: another Python.
        NotFoundError: there is no wheel for it, or a file that is named does not exist.
        InvalidInputError: it is too large for Lambda.
    """
    if python not in PYTHONS:
        message = f"--python {python}: expected {' or '.join(PYTHONS)}; for others deploy the container image"
        raise ConfigError(message)
    wheel = find_wheel(wheels, python)
    out.mkdir(parents=True, exist_ok=True)
    before = _earlier(out)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        layers = []
        versions: list[str] = []
        for name, requirements in LAYERS.items():
            folder = root / name
            install(folder, requirements)
            if name == "data_processing":
                _prune(folder, _NOT_OF_PYARROW)
            versions += _versions(folder)
            archive = write_zip(folder, out / f"{name}-{python}.zip", "python/", before.get(name))
            layers.append((name, archive))
        function = root / "function"
        with zipfile.ZipFile(wheel) as archive_file:
            archive_file.extractall(function)
        for source, target in ((config, function / "headgate.toml"), (more, function)):
            _copy(source, target)
        code = write_zip(function, out / f"function-{python}.zip", "", before.get("function"))
    total = code.unpacked + sum(archive.unpacked for _, archive in layers)
    if total > limit:
        sizes = ", ".join(f"{name} {a.unpacked:,}" for name, a in [("function", code), *layers])
        message = f"the function and its layers have {total:,} bytes unpacked; expected at most {limit:,} ({sizes})"
        raise InvalidInputError(message, Kind.MESSAGE_TOO_LARGE)
    manifest = {
        "format": 1, "headgate": __version__, "python": python, "architecture": "x86_64",
        "function": code.to_dict(), "layers": [{"name": name, **a.to_dict()} for name, a in layers],
        "unpacked_bytes": total, "dependencies": sorted(set(versions)),
    }  # fmt: skip
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return {**manifest, "kept": [name for name, a in [("function", code), *layers] if a.kept]}


def find_wheel(folder: Path, python: str) -> Path:
    """The newest wheel of headgate for that Python."""
    tag = f"cp{python.replace('.', '')}"
    found = sorted(folder.glob(f"headgate-*-{tag}-*.whl"), key=lambda path: path.stat().st_mtime)
    if not found:
        message = (
            f"there is no wheel of headgate for Python {python} in {folder}; `make wheel` makes it where a Python"
            f" {python} with headers is installed"
        )
        raise NotFoundError(message)
    return found[-1]


def pip_install(folder: Path, requirements: Iterable[str], python: str, constraints: str | None = None) -> None:
    """Install packages for Lambda's platform into a folder, without an interpreter of that version."""
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:",
        "--implementation", "cp", "--python-version", python, "--target", str(folder), "--no-compile",
        *(part for platform in _PLATFORMS for part in ("--platform", platform)),
        *(("--constraint", constraints) if constraints else ()), *requirements,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the list is our own
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1].removeprefix("ERROR: ")
        message = f"pip cannot install {', '.join(requirements)} for Python {python}: {reason}"
        raise HeadgateError(message, Kind.CONFIG)


def write_zip(folder: Path, target: Path, prefix: str, before: Archive | None) -> Archive:
    """A zip of a folder that depends on names and contents alone; an earlier one of the same content stays."""
    files = []
    digest = hashlib.sha256()
    unpacked = 0
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or _NOT_NEEDED.match(name) or (prefix and _IN_THE_RUNTIME.match(name)):
            continue
        data = path.read_bytes()
        digest.update(f"{prefix}{name}\0{len(data)}\0".encode())
        digest.update(data)
        unpacked += len(data)
        files.append((name, path))
    content = digest.hexdigest()
    if before is not None and before.content_sha256 == content and before.file == target.name:
        return Archive(before.file, before.sha256, content, before.size, unpacked, kept=True)
    temporary = target.with_suffix(".new")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
        for name, path in files:
            entry = zipfile.ZipInfo(prefix + name, _TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if ".so" in path.name else 0o100644) << 16
            entry.create_system = 3  # Unix, wherever this runs
            archive.writestr(entry, path.read_bytes(), compresslevel=_LEVEL)
    temporary.replace(target)
    return Archive(target.name, _hash(target), content, target.stat().st_size, unpacked, kept=False)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _earlier(out: Path) -> dict[str, Archive]:
    """What an earlier manifest describes and is still there, byte for byte."""
    try:
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        entries = [{"name": "function", **manifest["function"]}, *manifest["layers"]]
        found = {}
        for e in entries:
            path = out / Path(e["file"]).name
            if path.is_file() and _hash(path) == e["zip_sha256"]:
                found[e["name"]] = Archive(path.name, e["zip_sha256"], e["sha256"], path.stat().st_size, 0, kept=True)
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # none, or of another form: everything is written anew
    return found


def _prune(folder: Path, unwanted: re.Pattern[str]) -> None:
    for path in list(folder.rglob("*")):
        if path.is_file() and unwanted.match(path.relative_to(folder).as_posix()):
            path.unlink()


def _versions(folder: Path) -> list[str]:
    """name==version of every package in a folder."""
    found = []
    for path in folder.glob("*.dist-info"):
        name, _, version = path.name.removesuffix(".dist-info").rpartition("-")
        if not _IN_THE_RUNTIME.match(f"{name}/"):
            found.append(f"{name.replace('_', '-').lower()}=={version}")
    return found


def _copy(source: str | None, target: Path) -> None:
    if source is None:
        return
    path = Path(source)
    try:
        if path.is_dir():
            shutil.copytree(path, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(path, target)
    except FileNotFoundError:
        message = f"{source} does not exist"
        raise NotFoundError(message) from None
