"""When the market is open: NYSE days, holidays and early closes, in New York's own time."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from importlib import import_module
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from headgate.errors import ConfigError, Kind, needed

_OPEN, _CLOSE, _EARLY_CLOSE = time(9, 30), time(16, 0), time(13, 0)


class MarketCalendar:
    """Sessions of the New York Stock Exchange: 09:30 <= t < 16:00, early closes at 13:00.

    Holidays and early closes come from the `holidays` package.

    Raises:
        ConfigError: kind not_built; `holidays` or the time zone data is missing.

    Example:
        >>> calendar = MarketCalendar()
        >>> [calendar.session(date(2026, 11, day)) is not None for day in (25, 26, 28)]   # Thanksgiving, a Saturday
        [True, False, False]
        >>> calendar.session(date(2026, 11, 27))[1].isoformat()                           # the day after: early close
        '2026-11-27T13:00:00-05:00'
    """

    def __init__(self) -> None:
        with needed("market hours need a list of holidays", "holidays"):
            exchange: Any = import_module("holidays.financial.ny_stock_exchange")
        try:
            self._zone = ZoneInfo("America/New_York")
        except ZoneInfoNotFoundError:
            message = "market hours need time zone data: pip install tzdata"
            raise ConfigError(message, Kind.NOT_BUILT) from None
        self._holidays: Any = exchange.NewYorkStockExchange()
        self._early: Any = exchange.NewYorkStockExchange(categories=("half_day",))
        self._session = lru_cache(maxsize=64)(self._session_of)

    def session(self, day: date) -> tuple[datetime, datetime] | None:
        """Opening and closing of a day, aware; None when the market stays closed."""
        return self._session(day)

    def _session_of(self, day: date) -> tuple[datetime, datetime] | None:
        if day.weekday() >= 5 or day in self._holidays:
            return None
        close = _EARLY_CLOSE if day in self._early else _CLOSE
        return (
            datetime.combine(day, _OPEN, self._zone),
            datetime.combine(day, close, self._zone),
        )

    def is_open(self, at_us: int) -> bool:
        """Whether the market is open at this time, microseconds since 1970 UTC."""
        at = _utc(at_us).astimezone(self._zone)
        session = self.session(at.date())
        return session is not None and session[0] <= at < session[1]

    def next_open(self, at_us: int) -> int:
        """The next opening at or after this time, microseconds."""
        at = _utc(at_us)
        day = at.astimezone(self._zone).date()
        for ahead in range(15):  # the longest closure in the exchange's history since 1933 was six days
            session = self.session(day + timedelta(days=ahead))
            if session is not None and session[0] >= at:
                return int(session[0].timestamp() * 1_000_000)
        message = "no opening within two weeks"
        raise ConfigError(message)


def _utc(us: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
