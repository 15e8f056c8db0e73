"""What setup, CI, images and wheels download is known by its hash, and is what the requirements ask for."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "tools" / "locks"
NAMES = ("build", "dev", "bench", "docs", "wheel", "serve", "lambda", "lowest")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PIN = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;]+)(?: ; .+?)?(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n")


def pins(name):
    """Package -> version of a lock file. Every byte of the file is a comment or such a line."""
    text = re.sub(r"^#.*\n", "", (LOCKS / f"{name}.txt").read_text(), flags=re.M)
    found = {canonicalize_name(m[1]): m[2] for m in PIN.finditer(text)}
    assert PIN.sub("", text) == "", name
    return found


def lines(name):
    """The requirements of a file, those that it includes as well."""
    for text in (ROOT / "tools" / f"requirements-{name}.txt").read_text().splitlines():
        line = text.partition("#")[0].strip()
        if line.startswith("-r "):
            yield from lines(line.removeprefix("-r requirements-").removesuffix(".txt"))
        elif line:
            yield line


def extras(*names):
    return [*PROJECT["dependencies"], *(r for name in names for r in PROJECT["optional-dependencies"][name])]


WANTED = {
    **{name: [*lines(name)] for name in ("build", "dev", "bench", "docs", "wheel")},
    "serve": extras("aws", "kafka", "redis", "uploads"), "lambda": [*extras("aws"), "awslambdaric>=3,<5"],
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_lock_file_names_versions_and_hashes_and_no_place(name):
    assert pins(name)
    text = (LOCKS / f"{name}.txt").read_text()
    assert not re.search(r"://|index-url|find-links|trusted-host|(?<!\w)-[efi] ", text)


@pytest.mark.parametrize("name", WANTED)
def test_a_lock_file_has_what_is_asked_for(name):
    """Fails after a requirement was changed: run tools/lock."""
    found = pins(name)
    for text in WANTED[name]:
        wanted = Requirement(text)
        version = found.get(canonicalize_name(wanted.name))
        assert version is not None, f"{text} is not in tools/locks/{name}.txt"
        assert wanted.specifier.contains(version), f"{text}: tools/locks/{name}.txt has {version}"


def test_the_lowest_versions_are_those_of_the_project():
    loader = SourceFileLoader("lower_bounds", str(ROOT / "tools" / "lower_bounds"))
    module = module_from_spec(spec_from_loader("lower_bounds", loader))
    loader.exec_module(module)
    found = pins("lowest")
    for text in module.requirements():
        wanted = Requirement(text)
        assert wanted.specifier.contains(found[canonicalize_name(wanted.name)]), text


def test_lock_files_agree():
    """What is installed into one environment is of one version, and images hold what was tested."""
    tested = pins("dev")
    for name in NAMES:
        if name != "lowest":
            assert {p: v for p, v in pins(name).items() if tested.get(p, v) != v} == {}, name


# name -> versions without a vulnerability that was known when this was written
SAFE = {
    "h11": ">=0.16", "python-multipart": ">=0.0.34", "pypdf": ">=6.21.4", "pyspark": ">=4.0.1", "aws-cdk-lib": ">=2.177",
    "jupyterlab": ">=4.4.8", "mkdocs-material": ">=9.5.32", "setuptools": ">=78.1.1", "wheel": ">=0.46.2",
    "pydantic": ">=2.4", "redis": ">=4.5.5", "pyarrow": ">=23.0.1", "requests": ">=2.32.4", "urllib3": ">=2.6.3",
    "jinja2": ">=3.1.6", "werkzeug": ">=3.1.5", "cryptography": ">=46.0.5", "lxml": ">=6.1", "certifi": ">=2024.7.4",
}  # fmt: skip


def test_lower_bounds_are_above_known_vulnerabilities():
    asked = [*extras(*PROJECT["optional-dependencies"]), *(r for name in ("build", "dev", "docs") for r in lines(name))]
    wrong = []
    for text in asked:
        wanted = Requirement(text)
        lower = min((s.version for s in wanted.specifier if s.operator in {">=", "=="}), default=None)
        safe = SAFE.get(canonicalize_name(wanted.name))
        if safe and (lower is None or not SpecifierSet(safe).contains(lower.replace(".*", ".0"))):
            wrong.append(f"{text}: expected {safe}")
    assert wrong == []
    for name in NAMES:
        for package, version in pins(name).items():
            assert SpecifierSet(SAFE.get(package, "")).contains(version), (name, package, version)


@pytest.mark.parametrize(
    "path",
    ["tools/setup", "Makefile", "tools/lower_bounds", "tools/make_wheels.py", "infra/docker/steps.sh",
     "infra/docker/serve.Dockerfile", "infra/docker/lambda.Dockerfile", ".ci/run", ".devcontainer/devcontainer.json"],
)  # fmt: skip
def test_nothing_is_downloaded_that_is_not_known(path):
    """Each installation checks hashes, or takes no index. (Our own wheel brings what it needs: make_wheels tries it.)"""
    text = (ROOT / path).read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if re.search(r"pip\"?,? \"?(install|download|wheel)\b", line) and "ensurepip" not in line:
            statement = line if path.endswith((".sh", "Makefile", "setup")) else text
            assert re.search(r"--require-hashes|--no-index|--no-deps", statement), line
        assert not re.search(r"\b(curl|wget|npm|npx|pipx|uvx?)\s+(-\w+\s+)*(http|install|run)", line), line


# --- jars


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "lib").mkdir()
    for name in ("a-1.jar", "b 2.jar"):
        (tmp_path / "lib" / name).write_text(name)
    (tmp_path / "lib" / ".complete").touch()
    digests = subprocess.run(["sha256sum", "a-1.jar", "b 2.jar"], cwd=tmp_path / "lib", capture_output=True, text=True)
    (tmp_path / "lib.sha256").write_text(digests.stdout)
    return tmp_path


def check(folder):
    command = [ROOT / "tools" / "check_digests", folder / "lib.sha256", folder / "lib"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stderr


def test_files_that_are_known_are_taken(folder):
    assert check(folder) == (0, "")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda lib: (lib / "a-1.jar").write_text("other"), "a-1.jar"),
        (lambda lib: (lib / "b 2.jar").unlink(), "b 2.jar"),
        (lambda lib: (lib / "c-3.jar").touch(), "c-3.jar"),
    ],
)
def test_a_changed_missing_or_unknown_file_is_named(folder, change, name):
    change(folder / "lib")
    code, said = check(folder)
    assert code == 1
    assert said.endswith(f"lib does not hold what lib.sha256 says; missing, changed or unknown: {name}\n")


@pytest.mark.parametrize("server", ["kafka", "dynamodb", "delta"])
def test_the_digests_are_of_the_versions_that_are_asked_for(server):
    pom = (ROOT / "tools" / "java" / f"{server}.xml").read_text()
    known = [line.split("  ", 1) for line in (ROOT / "tools" / "java" / f"{server}.sha256").read_text().splitlines()]
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest, _ in known)
    asked = re.findall(r"<artifactId>([\w.-]+)</artifactId><version>([\w.]+)</version>", pom)
    assert asked
    assert {f"{artifact}-{version}.jar" for artifact, version in asked} <= {name for _, name in known}
