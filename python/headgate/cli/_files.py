"""Files that the command line names: a path, or - for standard input."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from headgate.errors import AccessError, InvalidInputError, Kind, NotFoundError


def is_file(name: str) -> bool:
    """Whether an argument names a file (or standard input), rather than something of the configuration."""
    return name == "-" or name.endswith(".json") or Path(name).is_file()


def read_text(path: str) -> str:
    """The text of a file.

    Raises:
        NotFoundError: there is none.
        InvalidInputError: it is no text in UTF-8, or a folder.
        AccessError: this user may not read it.
    """
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        message = f"there is no file {path}"
        raise NotFoundError(message) from None
    except PermissionError:
        message = f"{path}: permission denied"
        raise AccessError(message) from None
    except UnicodeDecodeError as error:
        message = f"{path} is no text: byte {error.start} is not UTF-8"
        raise InvalidInputError(message) from None
    except IsADirectoryError:
        message = f"{path} is a folder; expected a file"
        raise InvalidInputError(message) from None


def read_json(path: str) -> Any:
    """The JSON of a file.

    Raises:
        NotFoundError: there is no such file.
        InvalidInputError: it is no JSON.
    """
    return parse_json(read_text(path), f"{path} is no JSON")


def parse_json(text: str, problem: str) -> Any:
    """The JSON of a text.

    Args:
        text: the JSON.
        problem: begins the error's sentence.

    Raises:
        InvalidInputError: it is none; kind nesting_too_deep, or number_out_of_range for an integer of more than 4,300
            digits, which Python does not read.
    """
    kind = Kind.INVALID_INPUT
    try:
        return json.loads(text)
    except RecursionError:
        message, kind = f"{problem}: it is nested too deeply", Kind.NESTING_TOO_DEEP
    except json.JSONDecodeError as error:
        message = f"{problem}: {error}"
    except ValueError:
        message, kind = f"{problem}: it has an integer of more than 4300 digits", Kind.NUMBER_OUT_OF_RANGE
    raise InvalidInputError(message, kind)
