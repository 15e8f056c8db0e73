"""Times from the future: what a store does after its clock was ahead and went back.

A message that was queued while the clock was a day ahead would be invisible for a day, an item would not be healed, the
claim of a worker that died would be held. The store remembers the latest time that it has seen. When the clock is
behind it, what was written in between is moved back.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headgate.backends.local import LocalStore
    from headgate.ports import Json

log = logging.getLogger("headgate.store")
SKEW_US = 60_000_000  # how far the clocks of processes of one store may differ
_NOTED_EVERY_US = 10_000_000  # between two writes of the latest time
_LATEST, _JUMP = "clock.latest", "clock.jump"  # state documents
# Times that hold something back. Leases and back-offs last twelve hours at most, and may rightly be in the future;
# those that are more than half of the jump ahead were written before it. Should one of them be a live worker's, then
# another worker may take its message early: the ledger's claim and fencing token keep the effect to one.
_MOVED = (
    "UPDATE queue SET visible_us = visible_us - :jump WHERE visible_us > :after",
    "UPDATE items SET due_us = due_us - :jump WHERE due_us > :after",
    "UPDATE ledger SET until_us = until_us - :jump WHERE state = 0 AND until_us > :after",
)


def note_clock(store: LocalStore) -> int:
    """Remember the time, and move back what is in the future after a jump; how many rows were moved."""
    now_us = store.clock.now_us()
    latest_us = (store.load_state(_LATEST) or {"at_us": 0})["at_us"]
    jump_us = latest_us - now_us
    if jump_us <= SKEW_US:
        if now_us - latest_us >= _NOTED_EVERY_US:
            store.save_state(_LATEST, {"format": 1, "at_us": now_us})
        return 0
    moved = 0
    with store.transaction():
        again = (store.load_state(_LATEST) or {"at_us": 0})["at_us"]
        if again != latest_us:
            return 0  # another process was first
        for statement in _MOVED:
            sql = statement.replace(":jump", "?1").replace(":after", "?2")
            moved += store.db.changes(sql, (jump_us, now_us + jump_us // 2))
        store.save_state(_LATEST, {"format": 1, "at_us": now_us})
        store.save_state(_JUMP, {"format": 1, "at_us": now_us, "back_s": jump_us / 1e6, "moved": moved})
    log.warning("the clock went back", extra={"back_s": jump_us / 1e6, "moved": moved})
    return moved


def last_jump(store: LocalStore) -> Json | None:
    """When the clock went back last, by how much, and how many rows were moved; None: it never did."""
    found: Json | None = store.load_state(_JUMP)
    return found
