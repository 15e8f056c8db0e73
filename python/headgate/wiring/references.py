"""How the wiring reads URLs of backends and names of functions, and what it says of those that it cannot use."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from headgate._registry import resolve
from headgate.errors import AccessError, ConfigError, Kind, StorageFullError


def split_url(url: str) -> tuple[str, str, dict[str, str]]:
    """Scheme, place and options of a backend's URL.

    Example:
        >>> split_url("dynamodb://items?region=eu-west-1")
        ('dynamodb', 'items', {'region': 'eu-west-1'})
    """
    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    return scheme, place, dict(parse_qsl(query))


def load_reference(where: str, reference: str, known: dict[str, str] | None = None) -> Any:
    """The object that a configuration key names.

    Args:
        where: the key, for the error's sentence.
        reference: "module:attribute", or one of the names in `known`.
        known: short name -> "module:attribute".

    Raises:
        ConfigError: the module or its attribute cannot be loaded.
    """
    try:
        return resolve(reference, known)
    except (ImportError, AttributeError, ValueError) as error:
        names = f"one of {', '.join(sorted(known))}, or " if known else ""
        message = f"{where}: cannot load {reference!r}; expected {names}module:attribute ({error})"
        raise ConfigError(message) from None


def unknown_scheme(where: str, url: str, expected: str) -> ConfigError:
    """The error for a URL whose scheme belongs to no backend of this port."""
    scheme = urlsplit(url).scheme or url
    return ConfigError(f"{where}: unknown backend scheme {scheme!r}; expected {expected}", Kind.UNSUPPORTED_SCHEME)


def make_parent_folder(path: str) -> None:
    """Make the folder that a file will be written to.

    Raises:
        AccessError: this user may not make it.
        ConfigError: something else than a folder is in the way.
        StorageFullError: the disk is full, or cannot be written.
    """
    parent = Path(path).resolve().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except PermissionError:
        message = f"cannot make folder {parent}: permission denied"
        raise AccessError(message) from None
    except (FileExistsError, NotADirectoryError):
        message = f"{parent} is not a folder"
        raise ConfigError(message) from None
    except OSError as error:
        message = f"cannot make folder {parent}: {error.strerror}"
        raise StorageFullError(message, Kind.IO_ERROR) from None
