"""Stored raw bodies through today's parser: the same ids, so nothing doubles."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING

from headgate._native import core
from headgate.errors import ConfigError, IntegrityError, NotFoundError
from headgate.intake._intake import Intake, Taken
from headgate.intake._pipeline import RawInfo

if TYPE_CHECKING:
    from headgate.ports import Json

_META = ".meta.json"
_OK = 200


class _DryRun(Exception):  # noqa: N818 - undoes a transaction, nothing is wrong
    pass


def replay(intake: Intake, *, source: str = "", since_us: int = 0, dry_run: bool = False) -> Taken:
    """Parse, validate and identify every stored raw body of the pipeline again; what is new is stored and announced.

    What became acceptable since (a parser was mended, a rule relaxed) enters by the front door; what was stored before
    is a duplicate by its identity; what is still refused is the dead letter that it was.

    Args:
        intake: of the pipeline; its objects hold the bodies.
        source: only this one's.
        since_us: only bodies fetched at or after this time, microseconds.
        dry_run: count, keep nothing.

    Returns:
        What became of every record; bodies that a source answered with an error are left out.

    Raises:
        IntegrityError: a body no longer has the content that its key names.
    """
    if dry_run and not getattr(intake.store, "atomic", True):
        message = "replay: a dry run needs a store that can undo; expected sqlite:///"
        raise ConfigError(message)
    total = Taken()
    prefix = f"raw/{intake.pipeline.name}/"
    for key in intake.objects.list(f"{prefix}{source}/" if source else prefix):
        if key.endswith(_META):
            continue
        meta = _meta(intake, key)
        if meta.get("extra") or meta.get("status", _OK) != _OK or meta.get("fetched_us", 0) < since_us:
            continue
        body = intake.objects.get(key)
        _check(key, body)
        name = key.removeprefix(prefix).split("/")[0]
        raw = RawInfo(
            name,
            key,
            meta.get("fetched_us", 0),
            meta.get("context", {}),
            meta.get("attempt", 1),
            intake.readers.get(name),
            meta.get("url", ""),
        )
        try:
            with intake.store.transaction():
                taken = intake.take(body, raw)
                if taken.stored:
                    more: Json = {"raw_count": 0, "replayed": True}
                    intake.record(str(uuid.uuid4()), raw.source, intake.clock.now_us(), taken, more)
                total += taken
                if dry_run:
                    raise _DryRun
        except _DryRun:
            continue
    return total


def _meta(intake: Intake, key: str) -> Json:
    try:
        found: Json = json.loads(intake.objects.get(key + _META))
    except NotFoundError:
        return {}  # a crash between the body and its facts
    return found


def _check(key: str, body: bytes) -> None:
    if core.sha256_hex(body) != key.rsplit("/", 1)[1]:
        message = f"{key}: the stored bytes are not those that the key names"
        raise IntegrityError(message)
