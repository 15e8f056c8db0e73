"""The sweep that finds what got stuck and sends it again through the front door (spec 000)."""

from headgate.healing._sweep import (
    SELF_HEALING_BATCH_SIZE,
    SELF_HEALING_MAX_ATTEMPTS,
    SELF_HEALING_THRESHOLD_HOURS,
    SelfHealingResult,
    get_full_items,
    query_stale_pending_items,
    republish_items_to_sns,
    run_self_healing_check,
)

__all__ = [
    "SELF_HEALING_BATCH_SIZE", "SELF_HEALING_MAX_ATTEMPTS", "SELF_HEALING_THRESHOLD_HOURS", "SelfHealingResult",
    "get_full_items", "query_stale_pending_items", "republish_items_to_sns", "run_self_healing_check",
]  # fmt: skip
