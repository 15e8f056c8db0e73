"""The healing sweep: finds what is stuck and announces it again, so that the ordinary claim decides
(docs/healing.md)."""

from headgate.healing._items import ItemKind
from headgate.healing._result import (
    SELF_HEALING_BATCH_SIZE,
    SELF_HEALING_MAX_ATTEMPTS,
    SELF_HEALING_THRESHOLD_HOURS,
    SelfHealingResult,
)
from headgate.healing._sweep import (
    get_full_items,
    query_stale_pending_items,
    republish_items_to_sns,
    run_self_healing_check,
)
from headgate.healing._sweeper import (
    After,
    Attempts,
    KindReport,
    Rule,
    Stuck,
    StuckKind,
    Sweeper,
    sorted_page,
    tracked_page,
)

__all__ = [
    "SELF_HEALING_BATCH_SIZE", "SELF_HEALING_MAX_ATTEMPTS", "SELF_HEALING_THRESHOLD_HOURS", "After", "Attempts",
    "ItemKind", "KindReport", "Rule", "SelfHealingResult", "Stuck", "StuckKind", "Sweeper",
    "get_full_items", "query_stale_pending_items", "republish_items_to_sns", "run_self_healing_check",
    "sorted_page", "tracked_page",
]  # fmt: skip
