"""Refused records through today's rules again: those that match a filter, each entering once."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import ConfigError, NotFoundError
from headgate.intake._intake import Intake, Prepared, Taken
from headgate.intake._pipeline import RawInfo
from headgate.ports import DeadLetter, Item

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headgate.ports import Json

_META = ".meta.json"


@dataclass(frozen=True)
class LetterFilter:
    """Which dead letters are meant; an empty field means any.

    Args:
        stage: "intake" (refused records) or "consume" (messages that a consumer gave up).
        source: of a record: where it came from; of a message: its topic.
        kind: the rule that refused it, for example "no_headline".
        reason: text that its reason contains.
        since_us, until_us: when it was refused first, microseconds; 0: any time.
    """

    stage: str = ""
    source: str = ""
    kind: str = ""
    reason: str = ""
    since_us: int = 0
    until_us: int = 0

    def matches(self, letter: Json) -> bool:
        """Whether a letter, as `LocalStore.letters` gives it, is meant."""
        exact = (("stage", self.stage), ("source", self.source), ("kind", self.kind))
        return (
            all(not wanted or letter[name] == wanted for name, wanted in exact)
            and self.reason in (letter["reason"] or "")
            and letter["created_us"] >= self.since_us
            and (not self.until_us or letter["created_us"] <= self.until_us)
        )


@dataclass
class ReplayedLetters:
    """What became of the letters that matched. matched == entered + duplicates + refused + missing.

    Attributes:
        matched: letters of the filter that were not replayed before.
        entered: their records are items now, stored and announced.
        duplicates: their records were items already.
        refused: today's rules refuse them still; they stay.
        missing: their records cannot be read any more: no document and no raw body.
    """

    matched: int = 0
    entered: int = 0
    duplicates: int = 0
    refused: int = 0
    missing: int = 0

    def to_dict(self) -> dict[str, int]:
        """The counts as a JSON object."""
        return asdict(self)


def replay_letters(
    intake: Intake, letters: Sequence[Json], *, dry_run: bool = False, store: Any = None
) -> ReplayedLetters:
    """Parse, validate and store refused records again.

    What enters, its announcement and the mark that its letter is replayed are one commit: the second replay finds
    nothing to do. A record that is refused again later is a dead letter again.

    Args:
        intake: of the letters' pipeline.
        letters: of the stage "intake", as `LocalStore.letters` gives them.
        dry_run: count, keep nothing.
        store: marks them; default the intake's.

    Raises:
        ConfigError: the store cannot mark a letter in the commit of its item.
    """
    store = store or intake.store
    if not hasattr(store, "mark_replayed"):
        message = "dead letters are replayed one by one in a sqlite:/// store; expected one, or `headgate replay`"
        raise ConfigError(message)
    counts = ReplayedLetters()
    for letter in letters:
        counts.matched += 1
        found = _examined(intake, letter)
        if found is None:
            counts.missing += 1
        elif not found.items:
            counts.refused += 1
        elif dry_run:
            known = store.documents([item.key for item in found.items])
            counts.duplicates += len(known) == len(found.items)
            counts.entered += len(known) < len(found.items)
        else:
            _keep(intake, store, letter, found, counts)
    return counts


def _keep(intake: Intake, store: Any, letter: Json, found: Prepared, counts: ReplayedLetters) -> None:
    with store.transaction():
        if not store.mark_replayed(letter["id"], letter["seen"]):
            counts.duplicates += 1  # another replay was faster
            return
        taken = intake.keep(Prepared(len(found.items), found.items, [], found.announcements))
        if taken.stored:
            more: Json = {"raw_count": 0, "replayed": True}
            counted = Taken(taken.stored + taken.duplicates, taken.stored, taken.duplicates, 0)
            intake.record(str(uuid.uuid4()), letter["source"], intake.clock.now_us(), counted, more)
        core.fault_point("letters.before_commit")
    counts.entered += bool(taken.stored)
    counts.duplicates += not taken.stored


def _examined(intake: Intake, letter: Json) -> Prepared | None:
    """What today's rules make of a letter's record, or of its whole body where that could not be parsed."""
    raw_key = letter["raw_key"] or ""
    raw = _raw_info(intake, letter["source"], raw_key)
    try:
        record = json.loads(letter["doc"])
    except ValueError:
        record = None
    if record is not None:
        outcome = intake.examine(record, raw)
        if isinstance(outcome, Item):
            body_or_letter = intake.announcement(outcome, record, raw)
            if isinstance(body_or_letter, DeadLetter):
                return Prepared(1, [], [])
            return Prepared(1, [outcome], [], {outcome.key: body_or_letter})
    try:
        body = intake.objects.get(raw_key) if raw_key else None
    except NotFoundError:
        body = None
    if body is None:
        return None if record is None else Prepared(1, [], [])
    if record is not None and body.decode("utf-8", "replace") != letter["doc"]:
        return Prepared(1, [], [])  # one record of a body: the others are not meant
    return intake.prepare(body, raw)


def _raw_info(intake: Intake, source: str, raw_key: str) -> RawInfo:
    try:
        meta = json.loads(intake.objects.get(raw_key + _META)) if raw_key else {}
    except NotFoundError:
        meta = {}
    return RawInfo(
        source, raw_key, meta.get("fetched_us", 0), meta.get("context", {}) or {}, meta.get("attempt", 1),
        intake.readers.get(source), meta.get("url", ""),
    )  # fmt: skip
