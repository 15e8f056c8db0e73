"""`headgate reconcile`: what came in, what is done, what is where; it adds up to the last item, or exit code 3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from headgate.ports import Json
    from headgate.wiring import App

_COUNTS_DIFFER = 3


def add_reconcile(add: Callable[..., Any]) -> None:
    """Register the command."""
    add("reconcile", _reconcile, "What came in, what is done, what is where; exit code 3 if it does not add up.")


def _reconcile(options: argparse.Namespace) -> int:
    from headgate.cli._main import _app, _print

    found = reconcile(_app(options))
    _print(found)
    return _COUNTS_DIFFER if found["differences"] else 0


def reconcile(app: App) -> Json:
    """Count every record from its arrival to where it is now.

    Returns:
        records: taken, stored, duplicates, dead_letters, as the collection events say. items: in_store, by status;
        pending: where the pending ones are ("outbox", "queue", "stuck", and "moving": sent less than a threshold ago).
        dead_letters: unresolved, replayed. differences: one sentence for each sum that does not hold.
    """
    store, name = app.store, app.pipeline.name
    with store.transaction():  # one moment for every count
        events = store.collection_events(name)
        by_status = store.status_counts()
        before_us = app.clock.now_us() - int(app.config.healing.threshold_hours * 3600e6)
        places = store.pending_places(before_us)
        letters = store.letter_counts(name)

    def total(key: str) -> int:
        return sum(event[key] for event in events)

    records = {
        "taken": total("item_count"), "stored": total("new_item_count"), "duplicates": total("duplicate_count"),
        "dead_letters": total("dead_letter_count"),
    }  # fmt: skip
    in_store = sum(by_status.values())
    sums = (
        ("records taken", records["taken"], "stored + duplicates + dead letters",
         records["stored"] + records["duplicates"] + records["dead_letters"]),
        ("items stored by collections", records["stored"], "items in the store", in_store),
        ("dead letters of collections", records["dead_letters"], "dead letters in the store", letters["seen"]),
        ("pending items", by_status.get("pending", 0), "outbox + queue + stuck + moving", sum(places.values())),
    )  # fmt: skip
    return {
        "pipeline": name,
        "records": records,
        "items": {"in_store": in_store, **by_status},
        "pending": places,
        "dead_letters": letters,
        "differences": [f"{a}: {x}; {b}: {y}" for a, x, b, y in sums if x != y],
    }
