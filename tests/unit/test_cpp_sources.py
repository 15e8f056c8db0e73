"""Which C++ modules may include which, what each mutex guards, and that the checks of the C++ sources cannot be skipped."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)
# Headers of a backend that are not named after it: the simulated disk is a virtual file system of SQLite.
HEADER_OF = {"sim_disk": "sqlite"}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.[ch]pp"))


def module_of(path: Path) -> str:
    """ "net" for cpp/src/net/retry.cpp, "backends/s3" for its header and for its sources, "bindings" for those."""
    parts = path.relative_to(ROOT).parts
    if parts[0] == "bindings":
        return "bindings"
    module, *rest = parts[3:] if parts[1] == "include" else parts[2:]
    if module != "backends":
        return module
    name = rest[0].removesuffix(".hpp")
    return f"backends/{HEADER_OF.get(name, name)}"


def drawn_graph() -> dict[str, set[str]]:
    """What docs/layers.md allows: each C++ module with the modules that it may use, directly or through others."""
    text = (ROOT / "docs" / "layers.md").read_text()
    drawing = re.search(r"^C\+\+:(.*?)^bindings:", text, re.MULTILINE | re.DOTALL)[1]
    direct: dict[str, set[str]] = {}
    for chain in re.split(r"[;\n]", drawing):
        groups = [re.split(r"\s*[,+]\s*", group.strip()) for group in chain.split("<-")] if chain.strip() else []
        for used, users in itertools.pairwise(groups):
            for user in users:
                direct.setdefault(user, set()).update(used)
    direct.setdefault("base", set())

    def closure(module: str) -> set[str]:
        return direct[module].union(*(closure(used) for used in direct[module]))

    return {module: closure(module) for module in direct}


def test_every_module_is_drawn():
    assert {module_of(path) for path in sources("cpp")} == set(drawn_graph())


def test_cpp_modules_include_only_what_they_may():
    graph = drawn_graph()
    wrong = []
    for path in sources("cpp"):
        module = module_of(path)
        for header in INCLUDE.findall(path.read_text()):
            if header.startswith("headgate/"):
                used = module_of(ROOT / "cpp" / "include" / header)
                if used != module and used not in graph[module]:
                    wrong.append(f"{path.relative_to(ROOT)}: {module} -> {used}")
            elif not (path.parent / header).is_file():
                wrong.append(f"{path.relative_to(ROOT)}: {header} is a private header of another module")
    assert wrong == []


def test_bindings_use_public_headers_only():
    wrong = [
        f"{path.name}: {header}"
        for path in sources("bindings")
        for header in INCLUDE.findall(path.read_text())
        if not header.startswith("headgate/") and not (ROOT / "bindings" / header).is_file()
    ]
    assert wrong == []


def test_targets_link_only_what_the_modules_may_use():
    graph = drawn_graph()
    targets = {module.rpartition("/")[2]: module for module in graph}
    text = (ROOT / "cpp" / "CMakeLists.txt").read_text()
    found = re.findall(r"headgate_module\((\w+) SOURCES [^)]*?(?:KNOWS ([^)]*))?\)", text)
    assert {name for name, _ in found} == set(targets)
    wrong = [
        f"{name} -> {used}"
        for name, links in found
        for used in re.findall(r"headgate_(\w+)", links)
        if targets[used] not in graph[targets[name]]
    ]
    assert wrong == []


def test_mutexes_are_annotated_ones():
    plain = re.compile(
        r"std::(mutex|shared_mutex|recursive_mutex|lock_guard|unique_lock|shared_lock|scoped_lock|condition_variable)\b"
    )
    wrong = [
        f"{path.relative_to(ROOT)}: std::{match[1]}"
        for path in sources("cpp", "bindings")
        if path.name != "mutex.hpp"
        for match in plain.finditer(path.read_text())
    ]
    assert wrong == []


def test_every_mutex_guards_something():
    wrong = []
    for path in sources("cpp", "bindings"):
        if path.name == "mutex.hpp":
            continue
        text = path.read_text()
        for name in re.findall(r"^\s*(?:mutable |static )?(?:Shared)?Mutex (\w+);", text, re.MULTILINE):
            if not re.search(rf"HG_(GUARDED_BY|REQUIRES)\({name}\)", text):
                wrong.append(f"{path.relative_to(ROOT)}: {name} guards nothing")
    assert wrong == []


COUNTER = """
#include "headgate/base/mutex.hpp"
class Counter {
public:
    void add() {
        const headgate::MutexLock lock(mutex_);
        ++count_;
    }
    int count() const { return count_; }  // expected-error {{requires holding mutex 'mutex_'}}

private:
    mutable headgate::Mutex mutex_;
    int count_ HG_GUARDED_BY(mutex_) = 0;
};
"""


def test_the_analysis_refuses_an_access_without_the_mutex(tmp_path):
    source = tmp_path / "counter.cpp"
    source.write_text(COUNTER)
    flags = ["-std=c++20", "-fsyntax-only", "-Wthread-safety", "-Werror", "-Xclang", "-verify", f"-I{ROOT}/cpp/include"]
    run = subprocess.run(["clang++", *flags, source], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.fixture
def lint(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    monkeypatch.setattr(sys, "argv", ["lint_cxx.py"])
    import lint_cxx

    return lint_cxx


def test_lint_fails_without_clang_tidy(lint, monkeypatch, capsys):
    monkeypatch.setattr(lint.shutil, "which", lambda name: None)
    assert lint.main() == 1
    assert capsys.readouterr().err.startswith("clang-tidy is not installed")


def test_lint_looks_again_at_what_a_header_changes(lint, monkeypatch, tmp_path):
    (tmp_path / "bindings").mkdir()
    (tmp_path / ".clang-tidy").write_text("Checks: '*'")
    source = tmp_path / "bindings" / "a.cpp"
    source.write_text('#include "b.hpp"\n')
    (tmp_path / "bindings" / "b.hpp").write_text('#include "c.hpp"\n')
    (tmp_path / "bindings" / "c.hpp").write_text("// one\n")
    monkeypatch.setattr(lint, "ROOT", tmp_path)
    before = lint.digest(source, "g++ a.cpp", [], "14")
    assert lint.digest(source, "g++ a.cpp", [], "14") == before
    (tmp_path / "bindings" / "c.hpp").write_text("// two\n")
    assert lint.digest(source, "g++ a.cpp", [], "14") != before
    assert {lint.digest(source, "g++ -O2 a.cpp", [], "14"), lint.digest(source, "g++ a.cpp", [], "15")}.isdisjoint(
        {before}
    )
