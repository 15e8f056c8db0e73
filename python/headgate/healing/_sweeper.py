"""The healing sweep: one loop that finds what is stuck, of any kind, and moves it on.

A thing is stuck when it has not moved for longer than its kind's threshold and there is no evidence that it is on its
way. Each attempt begins a cooldown; after the last one the thing goes into quarantine. A sweep that runs out of time
keeps a cursor, and the next sweep goes on there.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from headgate._native import core
from headgate.errors import ConfigError, HeadgateError, InvalidInputError
from headgate.identity import check_key_part

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headgate.ports import Clock, Json, StateStore

log = logging.getLogger("headgate.healing")
_PAGE = 100
_MAX_ERRORS = 100
_MOST = 10**9  # of a number of a rule: seconds of 30 years
After = tuple[int, str]
# Set as evidence for a thing that has moved since it was found; it is skipped, but keeps its place in the page.
MOVED = "moved"


@dataclass(frozen=True)
class Stuck:
    """One thing that has not moved for longer than its kind's threshold.

    Attributes:
        key: its name, unique within its kind.
        since_us: when it last moved, in microseconds since 1970.
        attempts: how often a sweep has tried already.
        held_up: the evidence that it is only late: "outbox", "queue", "claim". Empty if there is none.
        data: anything that its kind needs to heal it.
    """

    key: str
    since_us: int
    attempts: int = 0
    held_up: str = ""
    data: Any = None


class StuckKind(Protocol):
    """A kind of thing that can be stuck.

    Changes must be conditional on the thing still being stuck, so that of two sweeps at the same time only one moves
    it. A kind may also have a method `together(stuck things)`: a context manager around the changes of a page, which
    makes them one commit.
    """

    name: str

    def find(self, before_us: int, limit: int, after: After | None) -> list[Stuck]:
        """Up to `limit` things that have not moved since `before_us`, ordered by (since_us, key), beginning after
        `after`."""
        ...

    def heal(self, stuck: Stuck, before_us: int) -> bool:
        """Move the thing on and begin its cooldown. Returns False if it has moved since it was found."""
        ...

    def count_attempt(self, stuck: Stuck, before_us: int) -> bool:
        """Healing it raised: use up an attempt and begin the cooldown all the same."""
        ...

    def quarantine(self, stuck: Stuck, reason: str) -> bool:
        """Its attempts are used up: take it out of the sweeps' sight; False: it has moved meanwhile."""
        ...


@dataclass(frozen=True)
class Rule:
    """How a kind is swept.

    Args:
        threshold_s: how long something may stand still; also the cooldown between two attempts.
        batch_size: at most so many are dealt with in one sweep; those held up do not count.
        max_attempts: then it is quarantined; 0: it is tried forever.

    Raises:
        InvalidInputError: a threshold that is no time, or in the future: each sweep would announce everything again;
            a count that is none.
    """

    threshold_s: float = 3600.0
    batch_size: int = 100
    max_attempts: int = 5

    def __post_init__(self) -> None:
        check_number("threshold_s", self.threshold_s)
        check_number("batch_size", self.batch_size, least=1, is_whole=True)
        check_number("max_attempts", self.max_attempts, is_whole=True)


def check_number(name: str, value: Any, *, least: int = 0, is_whole: bool = False) -> None:
    """Refuse what is no number of a rule.

    Raises:
        InvalidInputError: it is none, or below `least`.
    """
    is_number = isinstance(value, int if is_whole else int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= _MOST:
        expected = f"a {'whole ' if is_whole else ''}number of at least {least}"
        message = f"{name}: got {value!r}; expected {expected}"
        raise InvalidInputError(message)


@dataclass
class KindReport:
    """What a sweep did with one kind. found == healed + quarantined + lost_races + failed."""

    found: int = 0
    healed: int = 0
    quarantined: int = 0
    lost_races: int = 0
    failed: int = 0
    held_up: int = 0
    more_remaining: bool = False
    errors: list[str] = field(default_factory=list)

    def to_dict(self) -> Json:
        """The report as a JSON object."""
        return asdict(self)


class Sweeper:
    """Sweeps kinds, one after the other. Never raises, except KeyboardInterrupt and the like.

    Args:
        kinds: each with its rule.
        clock: the clock; tests pass a `ManualClock`.
        state: keeps where a sweep that ran out of time has stopped, so that the next one goes on there; None: it
            begins at the oldest again.

    Example:
        >>> sweeper = Sweeper([(kind, Rule(threshold_s=600))], clock)          # doctest: +SKIP
        >>> sweeper.run(budget_s=5)["uploads"].healed                          # doctest: +SKIP
        3

    Raises:
        ConfigError: a kind's name could not be told apart in the state's keys, or two kinds have one.
    """

    def __init__(self, kinds: Sequence[tuple[StuckKind, Rule]], clock: Clock, state: StateStore | None = None) -> None:
        names = [kind.name for kind, _ in kinds]
        for name in names:
            check_key_part("stuck kind: name", name)
            if name == "cursor" or names.count(name) > 1:
                message = f"stuck kind: name: {name!r} is taken; expected one of its own for each kind"
                raise ConfigError(message)
        self._kinds = kinds
        self._clock = clock
        self._state = state
        self._dry_run = False

    def run(self, budget_s: float | None = None, *, dry_run: bool = False) -> dict[str, KindReport]:
        """One sweep of every kind.

        Args:
            budget_s: seconds; what has not had its turn by then has it first in the next sweep. None: no limit.
            dry_run: count what would be done, do nothing.
        """
        self._dry_run = dry_run
        end_us = None if budget_s is None else self._clock.mono_us() + int(budget_s * 1e6)
        return {kind.name: self._sweep(kind, rule, end_us) for kind, rule in self._kinds}

    def _sweep(self, kind: StuckKind, rule: Rule, end_us: int | None) -> KindReport:
        report = KindReport()
        before_us = self._clock.now_us() - int(
            rule.threshold_s * 1e6
        )  # the same moment for the search and for all updates
        try:
            begin = self._cursor(kind)
            after = self._pass(kind, rule, before_us, end_us, report, begin, None)
            if after is None and begin is not None:
                after = self._pass(
                    kind, rule, before_us, end_us, report, None, begin
                )  # then what lies before the cursor
            if not self._dry_run and (after is not None or begin is not None):
                self._remember(kind, after)
        except Exception as error:
            _note(report, kind, error)
        return report

    def _pass(
        self, kind: StuckKind, rule: Rule, before_us: int, end_us: int | None, report: KindReport, after: After | None,
        until: After | None,
    ) -> After | None:  # fmt: skip
        """Sweep from `after` to the end, or to `until`. Returns the place where the time ran out, or None."""
        probed = False
        while True:
            if end_us is not None and self._clock.mono_us() >= end_us:
                report.more_remaining = True
                return after or (-1, "")
            # When the batch is full, one more tells whether more remain.
            is_full = report.found >= rule.batch_size
            page = kind.find(before_us, 1 if is_full and not probed else _PAGE, after)
            probed = is_full
            if not page:
                return None
            todo: list[Stuck] = []
            is_last = False
            for stuck in page:
                if until is not None and (stuck.since_us, stuck.key) > until:
                    is_last = True
                    break
                if stuck.held_up:
                    report.held_up += stuck.held_up != MOVED
                elif report.found + len(todo) >= rule.batch_size:
                    report.more_remaining = is_last = True
                    break
                else:
                    todo.append(stuck)
                after_page = (stuck.since_us, stuck.key)
            dealt = self._deal_with_all(kind, rule, todo, before_us, end_us, report)
            if dealt < len(todo):
                report.more_remaining = True
                # The next sweep begins with the first one that there was no time for.
                return (todo[dealt - 1].since_us, todo[dealt - 1].key) if dealt else after or (-1, "")
            if is_last:
                return None
            after = after_page

    def _deal_with_all(
        self, kind: StuckKind, rule: Rule, todo: Sequence[Stuck], before_us: int, end_us: int | None, report: KindReport
    ) -> int:  # fmt: skip
        """In one commit, where the kind has such; how many there was time for."""
        if not todo:
            return 0
        together = getattr(kind, "together", None)
        before = replace(report)
        try:
            with nullcontext() if together is None or self._dry_run else together(todo):
                for at, stuck in enumerate(todo):
                    if end_us is not None and self._clock.mono_us() >= end_us:
                        return at
                    self._deal_with(kind, rule, stuck, before_us, report)
        except Exception:
            # The commit failed: nothing of it was done.
            for field_name in ("found", "healed", "quarantined", "lost_races", "failed"):
                setattr(report, field_name, getattr(before, field_name))
            raise
        return len(todo)

    def _deal_with(self, kind: StuckKind, rule: Rule, stuck: Stuck, before_us: int, report: KindReport) -> None:
        report.found += 1
        is_spent = bool(rule.max_attempts) and stuck.attempts >= rule.max_attempts
        if self._dry_run:
            report.quarantined += is_spent
            report.healed += not is_spent
            return
        try:
            core.fault_point("healing.before_item")
            if is_spent:
                moved = kind.quarantine(stuck, "attempts_exhausted")
                report.quarantined += moved
            else:
                moved = kind.heal(stuck, before_us)
                report.healed += moved
            report.lost_races += not moved
            core.fault_point("healing.after_item")
        except Exception as error:
            # That one's trouble alone: its attempt is used up, and the others have their turn.
            report.failed += 1
            _note(report, kind, error, stuck)
            try:
                kind.count_attempt(stuck, before_us)
            except Exception as second:
                _note(report, kind, second, stuck)

    def _cursor(self, kind: StuckKind) -> After | None:
        found = None if self._state is None else self._state.load_state(f"healing:cursor:{kind.name}")
        return None if not found or found["at_us"] is None else (found["at_us"], found["key"])

    def _remember(self, kind: StuckKind, after: After | None) -> None:
        if self._state is not None:
            at_us, key = after or (None, "")
            self._state.save_state(f"healing:cursor:{kind.name}", {"format": 1, "at_us": at_us, "key": key})


class Attempts:
    """Attempts, cooldown and quarantine of things that keep none themselves, as documents of the store's state.

    Args:
        store: `load_state`, `save_state`, `swap_state`; and `states` for lists.
        kind: the kind's name.
        clock: of the times.
    """

    def __init__(self, store: Any, kind: str, clock: Clock) -> None:
        self._store = store
        self._kind = kind
        self._clock = clock

    def of(self, key: str) -> tuple[int, int, bool]:
        """(attempts, when the last one was or 0, whether it is quarantined)."""
        doc = self._store.load_state(self._name(key)) or {}
        return doc.get("attempts", 0), doc.get("at_us", 0), doc.get("reason") is not None

    def try_once(self, stuck: Stuck) -> bool:
        """Count an attempt, if the count is the one that was read: of two sweeps one tries."""
        return self._swap(stuck, stuck.attempts + 1, None)

    def quarantine(self, stuck: Stuck, reason: str) -> bool:
        """See `StuckKind`."""
        return self._swap(stuck, stuck.attempts, reason)

    def forget(self, key: str) -> None:
        """It moved by itself."""
        self._store.delete_state(self._name(key))

    def quarantined(self) -> list[Json]:
        """What was given up: kind, key, reason, attempts, at_us."""
        prefix = self._name("")
        return [
            {"kind": self._kind, "key": name.removeprefix(prefix), **{k: d[k] for k in ("reason", "attempts", "at_us")}}
            for name, d in self._store.states(prefix)
            if d.get("reason") is not None
        ]

    def _swap(self, stuck: Stuck, attempts: int, reason: str | None) -> bool:
        name = self._name(stuck.key)
        before = self._store.load_state(name)
        if (before or {}).get("attempts", 0) != stuck.attempts or (before or {}).get("reason") is not None:
            return False
        doc = {"format": 1, "attempts": attempts, "at_us": self._clock.now_us(), "reason": reason}
        return bool(self._store.swap_state(name, before, doc))

    def _name(self, key: str) -> str:
        return f"healing:{self._kind}:{key}"


def sorted_page(found: Sequence[Stuck], limit: int, after: After | None) -> list[Stuck]:
    """A page of a kind that finds everything at once."""
    return sorted(
        (s for s in found if after is None or (s.since_us, s.key) > after), key=lambda s: (s.since_us, s.key)
    )[:limit]


def tracked_page(
    attempts: Attempts, found: Sequence[Stuck], before_us: int, limit: int, after: After | None,
    held_up: Callable[[Stuck], str] | None = None,
) -> list[Stuck]:  # fmt: skip
    """A page of things whose attempts are kept beside them: without those in cooldown and in quarantine."""
    page: list[Stuck] = []
    for stuck in sorted_page(found, len(found), after):
        if len(page) == limit:
            break
        count, at_us, is_quarantined = attempts.of(stuck.key)
        if not is_quarantined and at_us <= before_us:
            page.append(
                Stuck(stuck.key, stuck.since_us, count, held_up(stuck) if held_up else stuck.held_up, stuck.data)
            )
    return page


def error_kind(error: BaseException) -> str:
    """A stable word for an error: never its text, which may quote a record."""
    return error.kind.value if isinstance(error, HeadgateError) else type(error).__name__


def _note(report: KindReport, kind: StuckKind, error: Exception, stuck: Stuck | None = None) -> None:
    word = error_kind(error)
    if len(report.errors) < _MAX_ERRORS:
        report.errors.append(word)
    about = {} if stuck is None else {"item": core.sha256_hex(stuck.key.encode("utf-8", "replace"))[:12]}
    log.warning("not healed", extra={"kind": kind.name, "error": word, **about})
