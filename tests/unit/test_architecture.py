"""Which modules may import which, what the shared objects export, and what an import may cost."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import headgate

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "python" / "headgate"

# A package may import the packages named here (and itself); docs/layers.md draws it.
BASE = {"_core", "_native", "_forks", "errors", "ports", "identity", "items", "_registry", "_text", "_members"}
DEPENDENCIES: dict[str, set[str]] = {
    "_native": {"_core", "_parquet", "errors"},
    "errors": {"_native"},
    "ports": set(),
    "_registry": set(),
    "_text": set(),
    "_members": set(),
    "_forks": set(),
    "identity": BASE,
    "items": {"errors", "ports"},
    "inbox": BASE,
    "resilience": BASE,
    "intake": BASE,
    "idempotency": BASE,
    "healing": BASE,
    "checkpoint": BASE,
    "consume": BASE | {"idempotency"},
    "workflow": BASE,
    "pipelines": BASE | {"resilience", "intake", "checkpoint", "workflow", "consume", "idempotency", "healing"},
    "backends": BASE,
    "config": {"errors"},
    "ops": {"_text", "_native", "ports"},
    "testing": BASE
    | {
        "backends",
        "consume",
        "healing",
        "idempotency",
        "intake",
        "pipelines",
        "resilience",
        "workflow",
    },  # the simulation runs them
    "serve": BASE | {"pipelines", "ops", "idempotency"},  # the intake of uploads over HTTP
}
# The exceptions, each with its reason.
EXEMPT = {
    ("idempotency", "backends"),  # Ledger.open resolves URLs, like the config loader
    ("checkpoint", "backends"),  # update and its kin resolve URLs too
    ("checkpoint", "pipelines"),  # for type checkers only: a name of the task list, lazily re-exported
    ("consume", "backends"),  # one helper: the compact JSON of document columns
    ("workflow", "backends"),  # likewise
    ("pipelines", "wiring"),  # for type checkers only: `App`, the argument of what a pipeline registers
    ("pipelines", "backends"),  # likewise: `LocalStore`
}
TOP = {"wiring", "handlers", "cli", "__main__", "__init__"}


def imports_of(path: Path) -> set[str]:
    packages = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "headgate" else [f"headgate.{alias.name}" for alias in node.names]
        packages |= {name.split(".")[1] for name in names if name.startswith("headgate.")}
    return packages


def test_packages_import_only_what_they_may():
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        package = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if package in TOP:
            continue
        allowed = DEPENDENCIES[package] | {package, "__version__"}
        wrong += [
            f"{path.name}: {package} -> {other}"
            for other in imports_of(path) - allowed
            if (package, other) not in EXEMPT
        ]
    assert wrong == []


ENGINE = ("resilience", "intake", "idempotency", "consume", "healing", "workflow", "checkpoint")
# File and word that stand there although the word is also one of a domain.
OTHER_MEANINGS = {
    ("workflow/_frames.py", "visits"),  # states that a frame has entered; a key of its document on disk
    ("workflow/_engine.py", "visits"),  # the same
    ("workflow/_attempts.py", "visits"),  # the same
    ("checkpoint/__init__.py", "visits"),  # for type checkers only: a name of that package, lazily re-exported
}


def test_the_engine_names_no_domain():
    """Strings and comments included. What a domain adds is registered in `_registry`, where a user's is loaded too."""
    words = re.compile(r"tiingo|finnhub|(?<![a-z])ptid|ticker|essay|packet|\b(?:visits?|news|qc)\b", re.IGNORECASE)
    found = {
        (f"{path.relative_to(PACKAGE)}", match[0].lower())
        for package in ENGINE
        for path in (PACKAGE / package).rglob("*.py")
        for match in words.finditer(path.read_text())
    }
    assert found - OTHER_MEANINGS == set()
    assert found >= OTHER_MEANINGS, "an exception that nothing needs any more"


def imports_within(package: str) -> dict[str, set[str]]:
    """Module of a package -> the modules of it that it imports, in functions too, but not for type checkers only."""
    prefix = f"headgate.{package.replace('/', '.')}."
    modules = {path.stem: ast.parse(path.read_text()) for path in (PACKAGE / package).glob("*.py")}
    found: dict[str, set[str]] = {}
    for name, tree in modules.items():
        skipped = {
            id(node)
            for block in ast.walk(tree)
            if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
            for node in ast.walk(block)
        }
        found[name] = {
            node.module.rsplit(".", 1)[1]
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and id(node) not in skipped
            if (node.module or "").startswith(prefix)
        }
    return found


@pytest.mark.parametrize("package", ["checkpoint", "wiring", "resilience", "pipelines/uploads"])
def test_the_modules_of_a_package_import_each_other_in_no_circle(package):
    left = imports_within(package)
    while free := [name for name, imported in left.items() if not imported & left.keys()]:
        for name in free:
            del left[name]
    assert left == {}


def test_the_wiring_names_no_pipeline():
    """It loads them through `_registry`, as it loads a user's; a type checker may know their types."""
    named = {
        path.name
        for path in (PACKAGE / "wiring").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and "headgate.pipelines" in (node.module or "")
        if node.col_offset != 4  # the level of `if TYPE_CHECKING`; what a function imports is deeper
    }
    assert named == set()


def test_the_parts_of_the_wiring_stay_small():
    long = {p.name: n for p in (PACKAGE / "wiring").glob("*.py") if (n := len(p.read_text().splitlines())) >= 400}
    assert long == {}


@pytest.mark.parametrize("folder", ["cpp/include", "cpp/src", "bindings"])
def test_third_party_headers_stay_in_their_backend(folder):
    homes = {
        "curl/": "backends/curl", "zlib.h": "backends/curl", "sqlite3.h": "backends/sqlite", "hiredis/": "backends/redis",
        "arrow/": "backends/parquet", "parquet/": "backends/parquet", "pybind11/": "bindings/py.hpp", "openssl/": ("hash", "backends/redis", "backends/s3"),
        "expat.h": "backends/s3",
        "Python.h": "nowhere",
    }  # fmt: skip
    wrong = []
    for path in (ROOT / folder).rglob("*.[ch]pp"):
        for header in re.findall(r"#include <([^>]+)>", path.read_text()):
            for start, home in homes.items():
                if header.startswith(start) and not any(
                    h in str(path) for h in ([home] if isinstance(home, str) else home)
                ):
                    wrong.append(f"{path}: {header}")
    assert wrong == []


def test_the_environment_is_read_at_the_top_only():
    readers = {
        path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for path in PACKAGE.rglob("*.py")
        if re.search(r"os\.environ|getenv", path.read_text())
    }
    assert readers <= {"config", "handlers", "cli"}


@pytest.mark.parametrize("extension", ["_core", "_parquet", "_curl"])
def test_extensions_export_their_entry_point_only(extension):
    (file,) = Path(headgate.__file__).parent.glob(f"{extension}.*.so")
    output = subprocess.run(["nm", "-D", "--defined-only", file], check=True, capture_output=True, text=True).stdout
    names = {line.split()[-1] for line in output.splitlines() if line.strip()}
    assert names == {f"PyInit_{extension}"}


def test_no_extension_carries_a_path_of_the_build_machine():
    for extension in ("_core", "_parquet", "_curl"):
        (file,) = Path(headgate.__file__).parent.glob(f"{extension}.*.so")
        dynamic = subprocess.run(["readelf", "-d", file], check=True, capture_output=True, text=True).stdout
        assert "RPATH" not in dynamic
        assert "RUNPATH" not in dynamic


HEAVY = ("pyarrow", "boto3", "redis", "confluent_kafka", "pydantic", "rich", "polars", "asyncio")
IMPORT_BUDGET_MS = 60
# What these modules of Python itself take to import on the machine that the budget was written on. A machine that
# needs longer for them is slower, not headgate: the budget grows in proportion there.
YARDSTICK = "asyncio, dataclasses, json, pathlib, urllib.parse"
YARDSTICK_MS = 40


def test_import_is_light():
    code = (
        "import sys, json; import headgate; headgate.event_id({}); headgate.Ledger; headgate.idempotent_consumer;"
        f"print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert json.loads(output) == []


def test_libcurl_is_loaded_by_the_first_transport_only(tmp_path):
    code = f"""
from pathlib import Path
import headgate, headgate.resilience
from headgate.checkpoint import update
from headgate.testing.visits import write_wave

def loaded():
    return "libcurl" in open("/proc/self/maps").read()

write_wave(Path({str(tmp_path / "logs")!r}), 40)
update({str(tmp_path / "logs")!r}, {str(tmp_path / "events.parquet")!r}, settle_s=0, schema="visits")
before = loaded()
headgate.resilience.HttpClient()
print(before, loaded())
"""
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.split() == ["False", "True"]


def test_a_missing_libcurl_is_one_sentence():
    code = """
import sys
sys.modules["headgate._curl"] = None
from headgate.errors import ConfigError
from headgate.resilience import HttpClient
try:
    HttpClient()
except ConfigError as error:
    print(error.kind.value, error)
"""
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.startswith("not_built headgate's HTTP transport cannot be loaded: it needs libcurl (")
    assert output.count("\n") == 1


def import_ms(statement: str) -> float:
    code = f"import time; t = time.perf_counter(); {statement}; print((time.perf_counter() - t) * 1000)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def test_import_is_fast():
    """The best of several processes: the budget is about work, not about a busy machine."""
    ours, yardstick = [], []
    for _ in range(7):
        ours.append(import_ms("import headgate; headgate.event_id({}); headgate.Ledger"))
        yardstick.append(import_ms(f"import {YARDSTICK}"))
    budget = IMPORT_BUDGET_MS * max(1.0, min(yardstick) / YARDSTICK_MS)
    assert min(ours) < budget, (ours, yardstick)


@pytest.mark.parametrize(
    ("statement", "not_needed"),
    [
        # Every command starts with this one; `headgate --version` used to import the whole engine.
        ("import headgate.cli._main", "headgate.workflow headgate.consume headgate.idempotency headgate.wiring asyncio"),
        ("from headgate import Ledger, idempotent_consumer; idempotent_consumer(Ledger.open('memory://'))(print)({})",
         "decimal uuid pathlib base64 asyncio headgate.consume headgate.backends.dynamodb"),
    ],
)  # fmt: skip
def test_what_starts_often_imports_no_more_than_it_needs(statement, not_needed):
    code = f"import sys; {statement}; print(*sorted(set({not_needed.split()}) & set(sys.modules)), sep=',')"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.splitlines()[-1] == ""


def test_hashing_and_sqlite_need_no_arrow():
    code = (
        "import sys; import headgate; headgate.event_id({}); headgate.Ledger.open('memory://').claim('k');"
        "assert not any('arrow' in m for m in sys.modules);"
        "assert 'libarrow' not in open('/proc/self/maps').read()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_thread_starts_at_import():
    code = "import headgate, headgate.wiring, os; print(len(os.listdir('/proc/self/task')))"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.strip() == "1"


def test_public_names_are_frozen():
    assert headgate.__all__ == [
        "AsyncLedger", "Claim", "HeadgateError", "Intake", "Kind", "Ledger", "Pipeline", "Reject", "StaleLeaseError", "__version__",
        "canonical_json", "canonical_texts", "claim_key", "dedup_key", "default_identity", "event_id", "event_ids", "export_items",
        "idempotent_consumer", "open_intake", "story_key",
    ]  # fmt: skip
    for name in headgate.__all__:
        assert getattr(headgate, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        headgate.nonsense  # noqa: B018


def test_shipped_plans_equal_their_models():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from make_plans import plans
    finally:
        sys.path.pop(0)
    for path, text in plans().items():
        assert path.read_text() == text, f"{path} is out of date: run tools/make_plans.py"


def test_versions_agree():
    import tomllib

    from headgate import _core

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cmake = re.search(r"project\(headgate VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text())[1]
    assert headgate.__version__ == _core.__version__ == project["version"] == cmake
