"""The last known good news, served whatever the sources do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headgate.intake import Freshness
    from headgate.ports import ItemStore, Json


@dataclass(frozen=True)
class LatestNews:
    """The newest items, and how fresh they are."""

    items: list[Json]
    freshness: Freshness

    @property
    def warning(self) -> str | None:
        """What to show beside stale items."""
        return self.freshness.warning


def latest_news(store: ItemStore, tickers: Sequence[str], freshness: Freshness, limit: int = 50) -> LatestNews:
    """The newest stored items, with a warning when they are stale.

    Args:
        store: the item store.
        tickers: any of these; none: all.
        freshness: see `headgate.intake.check_freshness`.
        limit: at most so many, newest first.
    """
    return LatestNews(store.latest([t.strip().upper() for t in tickers], limit), freshness)
