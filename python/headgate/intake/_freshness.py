"""How old the data is, and whether that is too old."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headgate._native import core

if TYPE_CHECKING:
    from headgate.ports import Calendar, Json

OPEN_LIMIT_S = 15 * 60.0  # while collections are scheduled: three missed ones
SKEW_US = 60_000_000  # how far hosts' clocks may differ
CLOSED_LIMIT_S = 60 * 60.0  # outside market hours up to an hour is fine


def is_believable(at_us: int | None, now_us: int) -> bool:
    """Whether a stored time can be true: one that lies ahead was written by a clock that was wrong.

    Example:
        >>> is_believable(1_000_000, 2_000_000), is_believable(86_400_000_000, 0), is_believable(None, 0)
        (True, False, False)
    """
    return at_us is not None and at_us <= now_us + SKEW_US


@dataclass(frozen=True)
class AlwaysOpen:
    """The calendar of sources that never close."""

    def is_open(self, at_us: int) -> bool:
        return True


@dataclass(frozen=True)
class Freshness:
    """The data's state at a moment. The last collection that succeeded counts: a quiet hour is not stale.

    `age_s` is None when none has succeeded yet, and when the last success lies in the future: nobody knows its age.
    """

    market_open: bool
    age_s: float | None
    limit_s: float
    last_success: str | None

    @property
    def is_stale(self) -> bool:
        """Older than allowed, of unknown age, or never collected."""
        return self.age_s is None or self.age_s > self.limit_s

    @property
    def warning(self) -> str | None:
        """What readers of stale data are told; None outside market hours, where nobody is alarmed."""
        if not self.is_stale or not self.market_open:
            return None
        if self.age_s is None and self.last_success is not None:
            return f"the last collection is dated {self.last_success}, in the future: the clock was ahead then"
        if self.age_s is None:
            return "no collection has succeeded yet"
        return f"last known good: the data is {self.age_s / 60:.0f} minutes old (limit {self.limit_s / 60:.0f})"

    def to_dict(self) -> Json:
        return {
            "market_open": self.market_open, "age_s": self.age_s, "limit_s": self.limit_s, "is_stale": self.is_stale,
            "last_success": self.last_success, "warning": self.warning,
        }  # fmt: skip


def check_freshness(
    last_success_us: int | None, at_us: int, calendar: Calendar, *, now_us: int | None = None
) -> Freshness:
    """Judge the data's age.

    Args:
        last_success_us: when the last collection that succeeded began (`Collector.last_success_us()`), or None.
        at_us: the moment to judge at, microseconds; a scheduled event's own time, or now.
        calendar: decides which limit counts.
        now_us: what the clock says, when that is not `at_us`: a success after it is not believed.

    Example:
        >>> check_freshness(0, 16 * 60 * 1_000_000, AlwaysOpen()).warning
        'last known good: the data is 16 minutes old (limit 15)'
        >>> check_freshness(86_400_000_000, 0, AlwaysOpen()).age_s is None
        True
    """
    is_open = calendar.is_open(at_us)
    age = None
    if last_success_us is not None and is_believable(last_success_us, max(at_us, now_us or at_us)):
        age = max(0.0, (at_us - last_success_us) / 1e6)
    last = None if last_success_us is None else core.format_timestamp(last_success_us)
    return Freshness(is_open, age, OPEN_LIMIT_S if is_open else CLOSED_LIMIT_S, last)
