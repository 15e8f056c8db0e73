"""clang-tidy, and clang's thread-safety analysis, over every C++ source of the core, the backends and the bindings.

    tools/lint_cxx.py [--deep] [FILE ...]

Each file is checked by its command in build/check/compile_commands.json, which `cmake --preset check` writes. A file
that passed is not checked again until it, one of our headers that it includes, its command, .clang-tidy or clang-tidy
itself changes. `--deep` turns on the deep mode of the analyzer, which takes twice as long as its shallow one.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "check"
PASSED = BUILD / "tidy"
ONCE = BUILD / "once"  # compile_commands.json with one entry per file: clang-tidy runs a file for each that it finds
CHECKED = ("cpp/src", "bindings")
INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)
ARGUMENTS = ["-Wreserved-identifier", "-Wthread-safety", "-Wno-ignored-optimization-argument"]
SHALLOW = ["-Xclang", "-analyzer-config", "-Xclang", "mode=shallow"]


def headers_of(source: Path) -> set[Path]:
    """The headers of ours that `source` includes, directly or through others."""
    found: set[Path] = set()
    waiting = [source]
    while waiting:
        file = waiting.pop()
        for name in INCLUDE.findall(file.read_text()):
            for folder in (file.parent, ROOT / "cpp" / "include", ROOT / "cpp" / "src", ROOT / "bindings"):
                header = (folder / name).resolve()
                if header.is_file() and header not in found:
                    found.add(header)
                    waiting.append(header)
    return found


def digest(source: Path, command: str, arguments: list[str], tool: str) -> str:
    """Changes with everything of ours that the result depends on."""
    out = hashlib.sha256("\0".join([command, *arguments, tool]).encode())
    settings = [folder / ".clang-tidy" for folder in (ROOT, source.parent)]
    for file in sorted({source, *headers_of(source), *filter(Path.is_file, settings)}):
        out.update(f"\0{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return out.hexdigest()


def check(source: Path, arguments: list[str], mark: Path) -> str:
    """Returns what clang-tidy found, or nothing."""
    command = ["clang-tidy", "-p", str(ONCE), "--quiet", *(f"--extra-arg={argument}" for argument in arguments)]
    run = subprocess.run([*command, str(source)], check=False, capture_output=True, text=True)
    if run.returncode == 0:
        mark.touch()
        return ""
    return run.stdout or run.stderr


def main() -> int:
    parser = argparse.ArgumentParser(description="clang-tidy over the C++ sources")
    parser.add_argument("--deep", action="store_true", help="the analyzer's deep mode")
    parser.add_argument("files", nargs="*", type=Path, help="only these")
    options = parser.parse_args()
    if shutil.which("clang-tidy") is None:
        print(
            "clang-tidy is not installed, and `make check` needs it: install the packages of tools/setup dev",
            file=sys.stderr,
        )
        return 1
    tool = subprocess.run(["clang-tidy", "--version"], capture_output=True, text=True, check=True).stdout
    entries = {entry["file"]: entry for entry in json.loads((BUILD / "compile_commands.json").read_text())}
    ONCE.mkdir(exist_ok=True)
    (ONCE / "compile_commands.json").write_text(json.dumps(list(entries.values())))
    commands = {Path(file): entry["command"] for file, entry in entries.items()}
    wanted = [file.resolve() for file in options.files] or [
        file for folder in CHECKED for file in sorted((ROOT / folder).rglob("*.cpp"))
    ]
    if missing := [str(file.relative_to(ROOT)) for file in wanted if file not in commands]:
        print(f"no target of CMake compiles: {', '.join(missing)}", file=sys.stderr)
        return 1
    arguments = ARGUMENTS + ([] if options.deep else SHALLOW)
    PASSED.mkdir(exist_ok=True)
    marks = {file: PASSED / digest(file, commands[file], arguments, tool) for file in wanted}
    open_files = [file for file in wanted if not marks[file].exists()]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda file: check(file, arguments, marks[file]), open_files))
    for file, text in zip(open_files, found, strict=True):
        if text:
            print(f"clang-tidy: {file.relative_to(ROOT)}\n{text}", file=sys.stderr)
    return 1 if any(found) else 0


if __name__ == "__main__":
    sys.exit(main())
