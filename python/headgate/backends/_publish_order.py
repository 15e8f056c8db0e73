"""The order in which a publisher sends: which announcements may be in flight together, and which wait for others."""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from headgate.ports import Announcement


class Lanes:
    """Announcements by lane; of each lane only the first is on its way at a time.

    A later announcement of a lane is sent after the earlier one has arrived, or was refused for good: one that fails
    for now is never overtaken, and holds up no other lane.

    Args:
        announcements: in their order.
        lane: of an announcement, for example its topic and key.
    """

    def __init__(self, announcements: Iterable[Announcement], lane: Callable[[Announcement], Hashable]) -> None:
        self._lanes: dict[Hashable, deque[tuple[int, Announcement]]] = {}
        self._lane = lane
        for place, announcement in enumerate(announcements):
            self._lanes.setdefault(lane(announcement), deque()).append((place, announcement))
        self._ready = [(entries[0][0], lane) for lane, entries in self._lanes.items()]
        heapq.heapify(self._ready)

    def take(self, count: int, budget: int, size: Callable[[Announcement], int]) -> list[Announcement]:
        """The next announcements, each of another lane, oldest first; empty: nothing may be sent any more.

        Args:
            count: at most so many.
            budget: and so many bytes together; the first is taken whatever its size.
            size: bytes of an announcement.
        """
        taken: list[Announcement] = []
        while self._ready and len(taken) < count:
            announcement = self._lanes[self._ready[0][1]][0][1]
            budget -= size(announcement)
            if taken and budget < 0:
                break
            heapq.heappop(self._ready)
            taken.append(announcement)
        return taken

    def settle(self, announcement: Announcement) -> None:
        """It arrived, or was refused for good: the next of its lane may follow. Without this the lane waits."""
        lane = self._lane(announcement)
        entries = self._lanes[lane]
        entries.popleft()
        if entries:
            heapq.heappush(self._ready, (entries[0][0], lane))
