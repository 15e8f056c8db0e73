"""The `headgate` command."""

from headgate.cli._main import main

__all__ = ["main"]
