"""The sweep's rows: a batch of a hundred stale items of a thousand, among a hundred thousand, in one SQLite file."""

from __future__ import annotations

import json
import sqlite3
import statistics
import time
from typing import TYPE_CHECKING

from headgate._core import ManualClock
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.healing import run_self_healing_check
from headgate.ports import Item

if TYPE_CHECKING:
    from pathlib import Path

    from run import Row

_HOUR_US = 3_600_000_000
_STALE = 1_000


def sweep_ms(folder: Path, items: int = 100_000) -> tuple[float, float]:
    """Median milliseconds of a sweep of a hundred, and of one that finds nothing."""
    clock = ManualClock(1_800_000_000_000_000)
    store = LocalStore(LocalDatabase(str(folder / "healing.db")), clock, "bench")

    def put(first: int, last: int) -> None:
        found = [
            Item(f"k{n:07d}", "bench", "feed", "2026-01-01T00:00:00Z", {"n": n, "text": "x" * 300})
            for n in range(first, last)
        ]
        store.put_items(found, "bench.items", {item.key: {"n": 1} for item in found})
        store.db.execute("UPDATE outbox SET sent_us = 1 WHERE sent_us IS NULL")

    def sweep() -> tuple[float, int]:
        started = time.perf_counter()
        result = run_self_healing_check(
            store, None, "bench.items", "v1", announce=lambda item: {"n": item["doc"]["n"]}, clock=clock
        )
        return (time.perf_counter() - started) * 1e3, result.items_republished

    put(0, _STALE)
    clock.advance_us(2 * _HOUR_US)
    put(_STALE, items)
    full = [sweep() for _ in range(_STALE // 100)]
    assert [count for _, count in full] == [100] * (_STALE // 100)
    empty = [sweep() for _ in range(10)]
    assert [count for _, count in empty] == [0] * 10
    return statistics.median(ms for ms, _ in full), statistics.median(ms for ms, _ in empty)


def peer_ms(folder: Path, items: int = 100_000) -> float:
    """The same by hand in sqlite3, without evidence, attempts that are capped, or a cursor."""
    db = sqlite3.connect(folder / "peer.db", isolation_level=None)
    db.executescript(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
        "CREATE TABLE items (key TEXT PRIMARY KEY, status TEXT, due INTEGER, attempts INTEGER, doc TEXT);"
        "CREATE INDEX by_due ON items (due) WHERE status = 'pending';"
        "CREATE TABLE outbox (id INTEGER PRIMARY KEY, key TEXT, body TEXT, sent INTEGER);"
    )
    text = json.dumps({"n": 1, "text": "x" * 300})
    db.execute("BEGIN")
    db.executemany(
        "INSERT INTO items VALUES (?, 'pending', ?, 0, ?)",
        ((f"k{n:07d}", 0 if n < _STALE else 10**9, text) for n in range(items)),
    )
    db.execute("COMMIT")
    times = []
    for _ in range(_STALE // 100):
        started = time.perf_counter()
        db.execute("BEGIN IMMEDIATE")
        rows = db.execute(
            "SELECT key, doc FROM items WHERE status = 'pending' AND due <= 10 ORDER BY due LIMIT 100"
        ).fetchall()
        for key, doc in rows:
            body = json.dumps({"n": json.loads(doc)["n"]})
            db.execute("UPDATE items SET due = 100, attempts = attempts + 1 WHERE key = ?", (key,))
            db.execute("INSERT INTO outbox (key, body) VALUES (?, ?)", (key, body))
        db.execute("COMMIT")
        times.append((time.perf_counter() - started) * 1e3)
        assert len(rows) == 100
    db.close()
    return statistics.median(times)


def healing_rows(folder: Path) -> list[Row]:
    """The row of `make bench`."""
    from run import Row

    full, empty = sweep_ms(folder)
    note = f"{empty:.2f} ms where nothing is stale"
    return [
        Row("a sweep of 100 of 1,000 stale items among 100,000", "the same in sqlite3, by hand", full, peer_ms(folder),
            "ms", "under 10 ms", note)
    ]  # fmt: skip
