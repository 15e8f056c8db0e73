"""Which record was refused, and why: the reject segments beside a checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

from headgate._native import parquet
from headgate.checkpoint._places import MOST_PART_BYTES, is_url, local_path, s3_location, shown
from headgate.errors import IntegrityError, InvalidInputError, Kind, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIGEST = 32  # hex digits of the 128 bits that the ledger keeps


def rejected(target: str | os.PathLike[str], digest: str) -> list[dict[str, Any]]:
    """Every refused record of the file whose digest starts with `digest`, with the file's whole key.

    This is the only place that gives the key, which may hold a personal id; logs and results carry the digest.

    Args:
        target: the Parquet file, on disk or s3://bucket/key, or a Delta table.
        digest: the 12 hex digits of a log line, or more.

    Returns:
        [{key, offset (bytes), problems: [{field, kind}]}], the oldest first; without those that came in since.

    Raises:
        InvalidInputError: not at least 8 hex digits. NotFoundError: no such checkpoint, or nothing with that digest.

    Example:
        >>> rejected("events.parquet", "5f1d7a84db35")[0]["problems"]       # doctest: +SKIP
        [{'field': 'visit_date', 'kind': 'date'}]
    """
    wanted = digest.lower()
    if not 8 <= len(wanted) <= _DIGEST or set(wanted) - set("0123456789abcdef"):
        message = f"digest {digest!r}: expected 8 to {_DIGEST} hex digits"
        raise InvalidInputError(message)
    latest: dict[tuple[Any, ...], dict[str, Any]] = {}
    found: list[dict[str, Any]] = []
    for name, data in _segments(target):
        try:
            for record in map(json.loads, data.decode().split("\n")[:-1]):
                if hashlib.sha256(record["key"].encode()).hexdigest().startswith(wanted):
                    content = record.pop("content", None)
                    latest[record["key"], record["offset"], content] = record
            found = [record for record in latest.values() if record["problems"]]  # none: it was taken by a later run
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            message = f"a reject segment of {target} cannot be read: {name}"
            raise IntegrityError(message) from None
    if not found:
        message = f"no refused record has the digest {wanted}"
        raise NotFoundError(message)
    return found


def _segments(target: str | os.PathLike[str]) -> Iterator[tuple[str, bytes]]:
    if os.fspath(target).startswith("delta+"):
        from headgate.checkpoint._delta import DeltaPlace

        table = DeltaPlace(os.fspath(target))
        for name in table.footer()["rejects"]:
            yield name, table.part(name)
        return
    footer = _footer(target)
    parquet().check_footer(footer, shown(target))
    for name in json.loads(footer)["rejects"]:
        if is_url(target, "s3"):
            place = s3_location(target)
            yield name, place.get(f"{place.key}.ledger/{name}", f"{place.url}.ledger/{name}", limit=MOST_PART_BYTES)
        else:
            yield name, parquet().read_part(local_path(target), name)


def _footer(target: str | os.PathLike[str]) -> str:
    import pyarrow.parquet as pq

    try:
        if is_url(target, "s3"):
            place = s3_location(target)
            metadata = pq.read_metadata(f"{place.bucket}/{place.key}", filesystem=place.filesystem()).metadata
        else:
            metadata = pq.read_metadata(local_path(target)).metadata
    except FileNotFoundError:
        message = f"checkpoint {target} does not exist yet"
        raise NotFoundError(message) from None
    if b"headgate" not in (metadata or {}):
        message = f"{target} is not a headgate checkpoint"
        raise InvalidInputError(message, Kind.CORRUPT_DATA)
    return str(metadata[b"headgate"].decode("utf-8", "replace"))
