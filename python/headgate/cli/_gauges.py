"""What a serving process measures of its store every few seconds, for /metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headgate.wiring import App


def measure(app: App) -> int:
    """Set the gauges: how much waits, for how long, and what is open.

    Returns:
        0: a measurement is no work that the loop should go on with at once.
    """
    metrics, store, now_us = app.metrics, app.store, app.clock.now_us()
    metrics.gauge("headgate_outbox_unsent", store.unsent_count())
    if app.is_embedded:
        _measure_queues(app, now_us)
        _measure_letters(app)
    if app.config.sources:
        age_s = app.freshness(now_us).age_s
        if age_s is not None:
            metrics.gauge("headgate_freshness_seconds", age_s)
        for adapter in app.adapters:
            state = app.breakers.state(adapter.name)
            for name in ("closed", "half_open", "open"):
                metrics.gauge("headgate_breaker_state", state == name, source=adapter.name, state=name)
    return 0


def _measure_queues(app: App, now_us: int) -> None:
    """Messages, and since when the oldest could be taken. A queue that was emptied is shown with 0."""
    store = app.embedded_store
    rows = store.db.execute("SELECT grp, count(*), min(visible_us) FROM queue GROUP BY grp")
    waiting = {group: (count, visible_us) for group, count, visible_us in rows}
    known = [group for groups in app.local_groups().values() for group in groups]
    for group in {*known, *waiting}:
        count, visible_us = waiting.get(group, (0, None))
        age_s = max(0.0, (now_us - visible_us) / 1e6) if visible_us is not None else 0.0
        app.metrics.gauge("headgate_queue_messages", count, group=group)
        app.metrics.gauge("headgate_queue_oldest_seconds", age_s, group=group)
    ((unsent_us,),) = store.db.execute("SELECT min(created_us) FROM outbox WHERE sent_us IS NULL")
    age_s = max(0.0, (now_us - unsent_us) / 1e6) if unsent_us is not None else 0.0
    app.metrics.gauge("headgate_outbox_oldest_seconds", age_s)


def _measure_letters(app: App) -> None:
    """Dead letters that were not sent back. A DynamoDB table would have to be read for them, so it is not."""
    letters = dict.fromkeys(("intake", "consume", "outbox"), 0)
    for count in app.store.dead_letter_counts():
        letters[count["stage"]] = letters.get(count["stage"], 0) + count["letters"]
    for stage, number in letters.items():
        app.metrics.gauge("headgate_dead_letters_open", number, stage=stage)
