from __future__ import annotations

import threading

import pytest

from headgate import _native
from headgate.healing import query_stale_pending_items, run_self_healing_check
from headgate.ports import Item

HOUR = 3_600_000_000


def put(store, count, prefix="k"):
    items = [Item(f"{prefix}{i:04d}", "market", "tiingo", "2020-01-01T00:00:00Z", {"n": i}) for i in range(count)]
    store.put_items(items, "market.items", {item.key: {"n": 1} for item in items})
    store.db.execute("UPDATE outbox SET sent_us = 1")


def sweep(store, clock, **options):
    return run_self_healing_check(
        store, None, "market.items", "v1.0.0", announce=lambda item: {"key": item["key"]}, clock=clock, **options
    )  # fmt: skip


def unsent(store):
    return store.count("SELECT count(*) FROM outbox WHERE sent_us IS NULL")


def test_age_counts_from_ingestion_not_publication(store, clock):
    put(store, 3)  # published in 2020, ingested now
    assert sweep(store, clock).items_found == 0
    clock.advance_us(HOUR - 1)
    assert sweep(store, clock).items_found == 0
    clock.advance_us(1)
    result = sweep(store, clock)
    assert (result.items_found, result.items_republished, unsent(store)) == (3, 3, 3)


def test_cooldown_then_again_then_quarantine(store, clock):
    put(store, 1)
    for attempt in range(5):
        clock.advance_us(HOUR)
        assert sweep(store, clock).items_republished == 1, attempt
        store.db.execute("UPDATE outbox SET sent_us = 1")
        assert sweep(store, clock).items_found == 0
    clock.advance_us(HOUR)
    result = sweep(store, clock)
    assert (result.items_republished, result.quarantined) == (0, 1)
    assert store.status_counts() == {"quarantined": 1}
    clock.advance_us(HOUR)
    assert sweep(store, clock).items_found == 0


def test_poisoned_items_never_block_the_next_ones(store, clock):
    put(store, 250)
    clock.advance_us(HOUR)
    first = sweep(store, clock)
    assert (first.items_republished, first.more_remaining) == (100, True)
    second, third = sweep(store, clock), sweep(store, clock)
    assert (second.items_republished, third.items_republished, third.more_remaining) == (100, 50, False)
    assert unsent(store) == 250


def test_finished_items_are_left_alone(store, clock):
    put(store, 2)
    clock.advance_us(HOUR)
    keys = query_stale_pending_items(store, 1.0, 10, clock=clock)
    store.db.execute("UPDATE items SET status = 'analyzed', sentiment = 'neutral' WHERE key = ?", (keys[0],))
    assert [item["key"] for item in store.full_items(keys)] == keys[1:]
    assert sweep(store, clock).items_republished == 1


def test_an_item_finished_in_between_is_not_sent(store, clock):
    put(store, 1)
    clock.advance_us(HOUR)
    (item,) = store.full_items(query_stale_pending_items(store, 1.0, 10, clock=clock))
    store.db.execute("UPDATE items SET status = 'analyzed', sentiment = 'neutral'")
    assert store.republish(item["key"], item["republish_attempts"], clock.now_us(), "t", {}) is False
    assert unsent(store) == 0


def test_two_sweepers_send_each_item_once(tmp_path, clock):
    from headgate.backends.local import LocalDatabase, LocalStore

    path = str(tmp_path / "s.db")
    first = LocalStore(LocalDatabase(path, durability="normal", busy_timeout_s=30), clock, "market")
    put(first, 200)
    clock.advance_us(HOUR)
    stores = [
        first,
        *(LocalStore(LocalDatabase(path, durability="normal", busy_timeout_s=30), clock, "market") for _ in range(3)),
    ]
    results = []
    threads = [
        threading.Thread(target=lambda s=s: results.append(sweep(s, clock, batch_size=200))) for s in stores
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(r.items_republished for r in results) == 200
    assert unsent(first) == 200
    assert all(r.errors == [] for r in results)


def test_a_sweep_between_query_and_fetch_is_noticed(store, clock):
    """The fetch reads the other sweep's new attempt count, so the count alone would let the item be sent twice."""
    put(store, 3)
    clock.advance_us(HOUR)
    before = clock.now_us() - HOUR
    keys = query_stale_pending_items(store, 1.0, 10, clock=clock)
    assert sweep(store, clock).items_republished == 3
    for item in store.full_items(keys):
        assert store.republish(item["key"], item["republish_attempts"], before, "t", {}) is False
    assert unsent(store) == 3


def test_an_item_dated_in_the_future_is_found(store, clock):
    store.put_items([Item("f", "market", "x", "2099-01-01T00:00:00Z", {})], "t", {"f": {}})
    clock.advance_us(2 * HOUR)
    assert sweep(store, clock).items_republished == 1


def test_it_never_raises(store, clock):
    put(store, 1)
    clock.advance_us(HOUR)
    _native.set_faults("healing.before_item:fail:1")
    with pytest.raises(Exception, match="fault injected"):
        _native.core.fault_point("healing.before_item")
    _native.set_faults("")
    store.db.close()
    assert sweep(store, clock).errors == ["invalid_input"]


def test_the_sweep_uses_its_index(store):
    plan = store.db.execute(
        "EXPLAIN QUERY PLAN SELECT key FROM items INDEXED BY items_due WHERE pipeline = 'm' AND status = 'pending'"
        " AND due_us <= 1 AND sentiment IS NULL ORDER BY due_us, key LIMIT 5"
    )
    assert any("SEARCH items USING INDEX items_due" in row[3] for row in plan)
