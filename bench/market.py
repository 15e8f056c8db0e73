"""Rows of the market pipeline: failover over the wire, breaker and retry around a call, and 100,000 items collected and stored."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
_START = 1_779_000_000  # the articles' times, Unix seconds


def serve(count: int, page: int) -> None:
    """A static source: /tiingo/news pages of `page` articles from bodies made before; /hang never answers."""
    import socket
    import threading

    bodies = [
        json.dumps([article(i) for i in range(at, min(at + page, count))]).encode() for at in range(0, count, page)
    ]
    bodies.append(b"[]")
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    print(listener.getsockname()[1], flush=True)

    def talk(peer):
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = b""
        while data := peer.recv(65536):
            buffer += data
            while b"\r\n\r\n" in buffer:
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                path = head.split(b" ", 2)[1].decode()
                if path.startswith("/hang"):
                    continue
                at = (
                    int(path.partition("offset=")[2].split("&")[0] or 0) // page
                    if "tiingo" in path
                    else len(bodies) - 1
                )
                body = bodies[min(at, len(bodies) - 1)]
                peer.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
                    + body
                )

    while True:
        peer, _ = listener.accept()
        threading.Thread(target=talk, args=(peer,), daemon=True).start()


def article(i: int) -> dict:
    return {
        "id": i, "title": f"Company {i % 997} reports result number {i} for the quarter", "url": f"https://x.example/{i}",
        "description": f"What the company said about result {i}, in a sentence or two of the usual length. " * 2,
        "publishedDate": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(_START - i % 500_000)), "source": "cnbc.com",
        "tickers": ["aapl", "msft"], "tags": ["Technology"], "crawlDate": "2026-05-17T00:00:00Z",
    }  # fmt: skip


class Server:
    def __init__(self, count: int, page: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "serve", str(count), str(page)], stdout=subprocess.PIPE, text=True
        )
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def failover_rows(folder: Path, rounds: int) -> list:
    import pycurl
    from run import Row

    from headgate import _core
    from headgate.resilience import RetryBudget, RetryPolicy, make_breaker

    clock = _core.SystemClock()
    with Server(1, 1) as server:
        url = f"{server.url}/finnhub"
        transport = _core.curl_transport("", "bench", clock)
        failover = _core.Failover(RetryPolicy(), 300_000_000, 8, transport, clock, _core.SystemRandom(), RetryBudget())
        breakers = [make_breaker(clock), make_breaker(clock)]

        def sources(first: str, budget_us: int):
            return [
                _core.Source(name, [_core.HttpRequest(u, [])], budget_us, b)
                for name, u, b in (("a", first, breakers[0]), ("b", url, breakers[1]))
            ]

        healthy = sources(url, 10_000_000)
        easy = pycurl.Curl()
        out = []
        easy.setopt(pycurl.URL, url)
        easy.setopt(pycurl.WRITEFUNCTION, out.append)

        def bare():
            out.clear()
            easy.perform()
            return b"".join(out)

        def ours():
            return failover.fetch(healthy, lambda *_: "k")

        assert ours()["bodies"][0] == bare() == b"[]"
        a, b = [], []
        for _ in range(rounds * 600):
            for call, times in ((ours, a), (bare, b)):
                started = time.perf_counter()
                call()
                times.append((time.perf_counter() - started) * 1e6)
        ours_us, bare_us = statistics.median(a), statistics.median(b)
        rows = [
            Row("a fetch with failover, healthy source", "bare pycurl, one handle", ours_us, bare_us, "us",
                "at most 15 us over it", f"{ours_us - bare_us:.1f} us over it: breaker, judgement of the body, sink, attempts")
        ]  # fmt: skip
        late = []
        for _ in range(rounds):
            breakers[0] = make_breaker(clock)
            failover.secondary_since_us = 0
            started = time.perf_counter()
            fetched = failover.fetch(sources(f"{server.url}/hang", 1_000_000), lambda *_: "k")
            late.append(time.perf_counter() - started)
            assert fetched["source"] == "b"
        rows.append(
            Row("the primary hangs, deadline 1 s", "the deadline", statistics.median(late), 1.0, "s",
                "by the deadline + 100 ms", f"{(statistics.median(late) - 1) * 1000:.1f} ms after it, secondary included")
        )  # fmt: skip
    return rows


def policy_rows(rounds: int) -> list:
    import pybreaker
    import tenacity
    from run import Row, paired

    from headgate.resilience import RetryBudget, RetryPolicy, make_breaker, make_guard

    n = 20_000
    theirs = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=60)
    retrying = tenacity.Retrying(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_random_exponential(0.2, max=5))
    guard = make_guard(breaker=make_breaker(), retry=RetryPolicy(3), budget=RetryBudget())
    alone = make_guard(breaker=make_breaker())

    def call(x):
        return x

    def loop(once):
        def run():
            for i in range(n):
                once(i)

        return run

    plain = paired(loop(call), loop(call), rounds)[0] / n * 1e6
    ours, breaker = paired(loop(lambda i: alone(call, i)), loop(lambda i: theirs.call(call, i)), rounds)
    both, retry = paired(loop(lambda i: guard(call, i)), loop(lambda i: theirs.call(retrying, call, i)), rounds)
    note = f"0.3 us from Python; {both / n * 1e6 - plain:.2f} us over the bare call"
    return [
        Row("breaker around a call that succeeds", "pybreaker", ours / n * 1e6, breaker / n * 1e6, "us", ""),
        Row(
            "breaker + retry + budget around it",
            "pybreaker + tenacity",
            both / n * 1e6,
            retry / n * 1e6,
            "us",
            "0.3 us",
            note,
        ),
    ]


CONFIG = """
[backends]
durability = "normal"
[sources.tiingo]
base_url = "{url}"
[resilience]
timeout_s = 60
[collection]
tickers = ["AAPL", "MSFT"]
calendar = "always"
[clock]
offset_s = {offset}
"""


def collect_headgate(folder: str, url: str) -> int:
    from headgate.config import load
    from headgate.wiring import App

    path = Path(folder) / "headgate.toml"
    path.write_text(CONFIG.format(url=url, offset=_START + 600 - time.time()))
    app = App(load(path, {"TIINGO_API_KEY": "k"}))
    taken = app.collect().taken
    assert taken.taken == taken.stored + taken.duplicates + taken.dead_letters
    return taken.stored


def collect_peer(folder: str, url: str) -> int:
    """requests, the same pydantic model, sqlite3: one transaction a page, a unique key, an index by status."""
    import hashlib
    import sqlite3

    import requests

    from headgate.pipelines.market.models import NewsItem

    db = sqlite3.connect(Path(folder) / "peer.db")
    db.executescript(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
        "CREATE TABLE items (key TEXT PRIMARY KEY, status TEXT, published TEXT, doc TEXT);"
        "CREATE INDEX by_status ON items (status, published);"
        "CREATE TABLE item_tickers (ticker TEXT, published TEXT, key TEXT, PRIMARY KEY (ticker, published, key));"
        "CREATE TABLE outbox (id INTEGER PRIMARY KEY, key TEXT, body TEXT);"
    )
    session = requests.Session()
    offset, stored = 0, 0
    while True:
        answer = session.get(f"{url}/tiingo/news", params={"tickers": "aapl,msft", "offset": offset}, timeout=10)
        answer.raise_for_status()
        articles = answer.json()
        if not articles:
            break
        offset += len(articles)
        for a in articles:
            text = f"{a['title']}|tiingo|{a['publishedDate'][:10]}"
            key = hashlib.sha256(text.encode()).hexdigest()[:32]
            item = NewsItem.model_validate_json(json.dumps({
                "dedup_key": key, "story_key": key, "source": "tiingo", "source_id": f"tiingo:{a['id']}",
                "headline": a["title"], "description": a["description"], "url": a["url"], "published_at": a["publishedDate"],
                "ingested_at": "2026-05-17T00:00:00Z", "tickers": [t.upper() for t in a["tickers"]], "tags": a["tags"],
                "source_name": a["source"],
            }))  # fmt: skip
            doc = item.model_dump_json()
            published = a["publishedDate"]
            if db.execute("INSERT OR IGNORE INTO items VALUES (?, 'pending', ?, ?)", (key, published, doc)).rowcount:
                stored += 1
                db.executemany(
                    "INSERT OR IGNORE INTO item_tickers VALUES (?, ?, ?)", [(t, published, key) for t in item.tickers]
                )
                db.execute(
                    "INSERT INTO outbox (key, body) VALUES (?, ?)",
                    (key, json.dumps({"key": key, "text": item.headline})),
                )
        db.commit()
    return stored


def inserts_alone(source: Path, target: Path) -> float:
    """Seconds that the core needs to insert what a run has stored, ready-made and in its one commit: nothing else."""
    from headgate import _core
    from headgate.backends.local import LocalDatabase

    stored = LocalDatabase(str(source / "headgate-data" / "headgate.db"), durability="normal")
    bodies = dict(stored.execute("SELECT key, body FROM outbox WHERE topic = 'market.items'"))
    rows = [
        (key, pipeline, source_name, timestamp, doc, bodies[key], tuple(json.loads(doc)["tickers"]), story, raw)
        for key, pipeline, source_name, timestamp, doc, story, raw in stored.execute(
            "SELECT key, pipeline, source, timestamp, doc, story_key, raw_key FROM items ORDER BY rowid"
        )
    ]
    stored.close()
    fresh = LocalDatabase(str(target), durability="normal")
    started = time.perf_counter()
    fresh.native.begin()
    for at in range(0, len(rows), 1000):
        assert all(_core.put_items(fresh.native, "market.items", rows[at : at + 1000], 1))
    fresh.native.commit()
    took = time.perf_counter() - started
    fresh.close()
    return took


def collection_rows(folder: Path, rounds: int, count: int) -> list:
    from run import Row

    runs: dict[str, list[float]] = {"headgate": [], "peer": []}
    peaks: dict[str, float] = {}
    with Server(count, 1000) as server:
        for n in range(rounds):
            for side, times in runs.items():
                work = folder / f"{side}-{n}"
                work.mkdir()
                started = time.perf_counter()
                process = subprocess.Popen(
                    [sys.executable, __file__, side, str(work), server.url], stdout=subprocess.PIPE, text=True
                )
                stored = int(process.stdout.read())
                _, status, usage = os.wait4(process.pid, 0)
                assert (status, stored) == (0, count), (side, status, stored)
                times.append(time.perf_counter() - started)
                peaks[side] = usage.ru_maxrss / 1024
    ours, theirs = (statistics.median(runs[s]) for s in ("headgate", "peer"))
    alone = statistics.median(inserts_alone(folder / "headgate-0", folder / f"alone-{n}.db") for n in range(rounds))
    return [
        Row(f"collect and store {count:,} items, whole process", "requests + pydantic + sqlite3", ours, theirs, "s", "5x",
            f"raw bodies, announcements, events besides; peak {peaks['headgate']:.0f} against {peaks['peer']:.0f} MiB"),
        Row(f"the same {count:,} items, only SQLite's inserts of ready-made rows", "the peer's whole run", alone, theirs,
            "s", "", "what no collector over these tables can be faster than"),
    ]  # fmt: skip


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    if what == "serve":
        serve(int(arguments[0]), int(arguments[1]))
    else:
        print({"headgate": collect_headgate, "peer": collect_peer}[what](*arguments))
