"""Files that the command line names: a path, or - for standard input."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from headgate.errors import InvalidInputError, NotFoundError


def is_file(name: str) -> bool:
    """Whether an argument names a file (or standard input), rather than something of the configuration."""
    return name == "-" or name.endswith(".json") or Path(name).is_file()


def read_text(path: str) -> str:
    """The text of a file.

    Raises:
        NotFoundError: there is none.
    """
    if path == "-":
        return sys.stdin.read()
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        message = f"there is no file {path}"
        raise NotFoundError(message) from None


def read_json(path: str) -> Any:
    """The JSON of a file.

    Raises:
        NotFoundError: there is no such file.
        InvalidInputError: it is no JSON.
    """
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        message = f"{path} is no JSON: {error}"
        raise InvalidInputError(message) from None
