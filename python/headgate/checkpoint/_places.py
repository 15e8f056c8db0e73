"""Where checkpoints come from and go: paths, file:// and s3:// URLs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from headgate.errors import ConfigError, InvalidInputError, Kind

if TYPE_CHECKING:
    from headgate.backends.s3 import S3Location

MOST_PART_BYTES = 1 << 30  # of a file beside a table that is read back: kMostPartBytes of the core
_EXPECTED = "expected a path, file:///path or s3://bucket/key"


def local_path(url: str | os.PathLike[str]) -> str:
    """The path behind a path or a file:// URL.

    Raises:
        ConfigError: a scheme that this backend does not have.
    """
    text = os.fspath(url)
    scheme, separator, _ = text.partition("://")
    if text.startswith("file:"):
        from urllib.parse import unquote, urlsplit

        parts = urlsplit(text)
        return unquote(parts.netloc + parts.path)
    if separator:
        message = f"{scheme}:// is not supported here; expected a path or file:///path"
        raise ConfigError(message, Kind.UNSUPPORTED_SCHEME)
    return text


def is_url(url: str | os.PathLike[str], scheme: str) -> bool:
    """Whether `url` is of that scheme."""
    return os.fspath(url).startswith(f"{scheme}://")


def is_remote(url: str | os.PathLike[str]) -> bool:
    """Whether `url` is not a plain local path or file:// URL."""
    return os.fspath(url).startswith(("s3://", "delta+"))


def s3_url(bucket: str, key: str, **options: str) -> str:
    """The URL of a key, whatever characters it has; `options` are those of s3:// URLs."""
    from urllib.parse import quote, urlencode

    return f"s3://{bucket}/{quote(key)}" + (f"?{urlencode(options)}" if options else "")


def s3_prefix_url(bucket: str, prefix: str) -> str:
    """The URL of a source: all keys that start with `prefix`, as S3 understands it.

    Files are known by what follows the prefix's last slash.
    """
    folder, slash, rest = prefix.rpartition("/")
    return s3_url(bucket, f"{folder}{slash}", **({"prefix": rest} if rest else {}))


def s3_location(url: str | os.PathLike[str]) -> S3Location:
    """The place on S3."""
    from headgate.backends.s3 import S3Location

    return S3Location(os.fspath(url))


def source_place(url: str | os.PathLike[str], *, follow_symlinks: bool = False) -> str | dict[str, Any]:
    """A source as the core takes it.

    Raises:
        InvalidInputError: kind not_found, there is no such folder; links are to be followed in a bucket.
        ConfigError: an unknown scheme.
    """
    if is_url(url, "s3"):
        if follow_symlinks:
            message = "follow_symlinks: a bucket has no symbolic links; it is for folders"
            raise InvalidInputError(message)
        return s3_location(url).place(prefix=True)
    folder = _local(url)
    if not os.path.isdir(folder):
        message = f"checkpoint source: {folder} is not a folder"
        raise InvalidInputError(message, Kind.NOT_FOUND)
    return {"folder": folder, "follow_links": True} if follow_symlinks else folder


def target_place(url: str | os.PathLike[str]) -> str | dict[str, Any]:
    """A target as the core takes it.

    Raises:
        ConfigError: an unknown scheme, or no key.
    """
    if is_url(url, "s3"):
        place = s3_location(url).place(prefix=False)
        if not place["key"] or place["key"].endswith("/"):
            message = "checkpoint target: expected s3://bucket/key with the key of the Parquet file"
            raise ConfigError(message)
        return place
    return _local(url)


def key_in_source(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> str:
    """The key that a target inside its own source would have there; empty when it lies elsewhere."""
    goal = os.fspath(target).removeprefix("delta+")
    if is_url(source, "s3") and is_url(goal, "s3"):
        here, there = s3_location(source), s3_location(goal)
        prefix = f"{here.key.rstrip('/')}/" if here.key else ""
        same = here.bucket == there.bucket and here.endpoint == there.endpoint
        return there.key.removeprefix(prefix).rstrip("/") if same and there.key.startswith(prefix) else ""
    if "://" in goal.removeprefix("file://") or is_url(source, "s3"):
        return ""
    folder, path = os.path.realpath(_local(source)), os.path.realpath(_local(goal))
    return os.path.relpath(path, folder) if path.startswith(folder.rstrip("/") + "/") else ""


def source_name(url: str | os.PathLike[str]) -> str:
    """How a table remembers what it was fed from: a folder's whole path, or a bucket and prefix without options."""
    if is_url(url, "s3"):
        place = s3_location(url)
        return f"s3://{place.bucket}/{place.key.rstrip('/')}/".replace("//", "/").replace("s3:/", "s3://", 1)
    return os.path.realpath(_local(url))


def shown(url: str | os.PathLike[str]) -> str:
    """How results name a target: a path, or an s3:// URL without options."""
    return s3_location(url).url if is_url(url, "s3") else _local(url)


def _local(url: str | os.PathLike[str]) -> str:
    text = os.fspath(url)
    if "://" in text and not text.startswith("file://"):
        message = f"{text.partition('://')[0]}:// is not supported here; {_EXPECTED}"
        raise ConfigError(message, Kind.UNSUPPORTED_SCHEME)
    return local_path(text)
