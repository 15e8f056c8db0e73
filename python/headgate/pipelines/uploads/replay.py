"""Stored uploads through today's extractors: what could not be read before, or is read better now, is announced."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from headgate.errors import Kind
from headgate.pipelines.uploads.announcements import FILES
from headgate.pipelines.uploads.content import ContentRefusedError
from headgate.pipelines.uploads.outcomes import known_outcome, outcome_of, replacement_of

if TYPE_CHECKING:
    from headgate.pipelines.uploads.service import FileService
    from headgate.ports import Json


@dataclass(frozen=True)
class ReplayedUploads:
    """files == unchanged + mended + improved + kept + missing.

    Attributes:
        files: looked at.
        unchanged: the same outcome as before: the same text, or still none.
        mended: had failed, has a text now.
        improved: had a text, has another one now.
        kept: had a text, would fail now: a replay takes nothing back.
        missing: the raw file is no longer stored.
    """

    files: int = 0
    unchanged: int = 0
    mended: int = 0
    improved: int = 0
    kept: int = 0
    missing: int = 0

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


def replay_uploads(service: FileService, store: Any, *, batch_id: str = "", dry_run: bool = False) -> ReplayedUploads:
    """Extract and validate every stored upload again.

    An outcome's event has the identity of its job, its text and what it replaces, so that a replay that is repeated, or
    cut and started again, announces nothing twice; it says what it replaces, and the batch counts the file once.

    Args:
        service: with today's extractors and limits.
        store: the service's own; it knows the jobs (`LocalStore`).
        batch_id: only this batch's.
        dry_run: count, announce nothing.

    Raises:
        TransientError, StorageFullError: of the stores; what was announced until then stays. Whatever a content client
            raises is a `ContentUnavailableError`, or, where trying again does not mend it, an outcome of the file.
    """
    counts = dict.fromkeys(ReplayedUploads.__dataclass_fields__, 0)
    for name, known in store.states(FILES):
        job = known["job"]
        if batch_id and job["batch_id"] != batch_id:
            continue
        counts["files"] += 1
        before = known_outcome(known)
        try:
            worked = service.examine(job)
        except ContentRefusedError as error:
            if error.kind is not Kind.NOT_FOUND:
                raise
            counts["missing"] += 1
            continue
        fate = _fate(before, outcome_of(worked.event))
        counts[fate] += 1
        if fate not in {"mended", "improved"} or dry_run:
            continue
        with store.transaction():
            # Another replay may have been here since.
            if store.load_state(name) == known:
                service.conclude(worked, replacement_of(known))
    return ReplayedUploads(**counts)


def _fate(before: Json, now: Json) -> str:
    if before == now or before["outcome"] == now["outcome"] == "failed":
        return "unchanged"
    if now["outcome"] == "failed":
        return "kept"
    return "mended" if before["outcome"] == "failed" else "improved"
