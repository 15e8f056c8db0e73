"""The `headgate` command."""

from __future__ import annotations

import contextlib
import os
import sys


def find_own_modules() -> None:
    """Let every command import modules that lie in the working directory, as `python -m headgate` does.

    With PYTHONSAFEPATH, or Python's option -P, they are not looked for.
    """
    if not getattr(sys.flags, "safe_path", False):
        with contextlib.suppress(FileNotFoundError):  # the directory was removed
            if (here := os.getcwd()) not in sys.path and "" not in sys.path:
                sys.path.insert(0, here)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code; see `headgate --help`."""
    find_own_modules()
    try:
        from headgate.cli._main import main as run
    except ImportError as error:
        # A missing or foreign native core: one sentence, no traceback.
        print(f"headgate: {error} [not_built]", file=sys.stderr)
        return 1
    return run(arguments)


__all__ = ["main"]
