"""The `headgate` command."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code; see `headgate --help`."""
    try:
        from headgate.cli._main import main as run
    except ImportError as error:
        # A missing or foreign native core: one sentence, no traceback.
        print(f"headgate: {error} [not_built]", file=sys.stderr)
        return 1
    return run(arguments)


__all__ = ["main"]
