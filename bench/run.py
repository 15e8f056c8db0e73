"""`make bench`: headgate against what a user would write instead, on the same input, answers compared.

Each row runs both sides alternately, several times, in this one process tree; what counts is the ratio of medians.
Figures are of the machine that ran them; docs/benchmarks.md says what they do not show.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass
class Row:
    work: str
    peer: str
    headgate: float
    peer_value: float
    unit: str
    wanted: str
    note: str = ""

    @property
    def ratio(self) -> float:
        return self.peer_value / self.headgate

    def line(self) -> str:
        return (
            f"| {self.work} | {self.peer} | {self.headgate:,.2f} | {self.peer_value:,.2f} | {self.unit} | "
            f"{self.ratio:.2f}x | {self.wanted} | {self.note} |"
        )


def paired(ours, theirs, rounds: int) -> tuple[float, float]:
    """Medians of alternating runs, after one of each to warm up."""
    ours()
    theirs()
    a, b = [], []
    for _ in range(rounds):
        for call, times in ((ours, a), (theirs, b)):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
    return statistics.median(a), statistics.median(b)


def child(*command: str | Path) -> dict[str, float]:
    """Run a command that prints an object; wall seconds and peak MiB of the whole process beside what it says."""
    started = time.perf_counter()
    process = subprocess.Popen(list(command), stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"bench: {command} failed")
    return {"s": time.perf_counter() - started, "mib": usage.ru_maxrss / 1024, **json.loads(output)}


def compiled(name: str, folder: Path, *libraries: str) -> Path:
    """A C++ program of this folder."""
    out = folder / name
    if not out.exists():
        subprocess.run(
            ["g++", "-std=c++20", "-O2", HERE / f"{name}.cpp", *libraries, "-pthread", "-o", out], check=True
        )
    return out


def event_files(folder: Path, count: int, rounds: int) -> list[Row]:
    from headgate.testing.visits import write_wave

    logs = folder / f"logs-{count}"
    wave = write_wave(logs, count)
    rows = []
    runs: dict[str, list[dict[str, float]]] = {}
    sides = ("headgate", "pydantic_polars", "orjson_pyarrow", "floor")
    for _ in range(rounds):
        for side in sides:
            command = [compiled("floor", folder), logs] if side == "floor" else [
                sys.executable, HERE / "peers.py", side, logs, folder / f"{side}.parquet"
            ]  # fmt: skip
            runs.setdefault(side, []).append(child(*command))
            for leftover in folder.glob(f"{side}.parquet*"):
                subprocess.run(["rm", "-rf", leftover], check=True)
    best = {side: {k: statistics.median(r[k] for r in found) for k in ("s", "mib")} for side, found in runs.items()}
    expected = {"headgate": wave.good, "pydantic_polars": wave.good}
    for side, rows_expected in expected.items():
        assert all(r["rows"] == rows_expected for r in runs[side]), (side, runs[side], wave)
    ours = best["headgate"]
    notes = {
        "pydantic_polars": "validates; same rows",
        "orjson_pyarrow": "does not validate, sort or remember",
        "floor": "in C++: list, open, fstat, read, close on two threads",
    }
    wanted = {
        "pydantic_polars": "10x marginal",
        "orjson_pyarrow": "3x marginal",
        "floor": "floor x 2.5 + 80 ms at 50,000",
    }
    for side in sides[1:]:
        memory = f"{notes[side]}; peak {ours['mib']:.0f} against {best[side]['mib']:.0f} MiB"
        rows.append(
            Row(
                f"{count:,} event files to Parquet, whole process",
                side,
                ours["s"],
                best[side]["s"],
                "s",
                wanted[side],
                memory,
            )
        )
    return rows


def marginal(small: list[Row], large: list[Row], files: int) -> list[Row]:
    """Cost of a file beyond the start of the process."""
    out = []
    for a, b in zip(small, large, strict=True):
        scale = 1e6 / files
        out.append(
            Row("marginal cost of an event file", a.peer, (b.headgate - a.headgate) * scale,
                (b.peer_value - a.peer_value) * scale, "us/file",
                "at most 1.7 floors (0.59x)" if a.peer == "floor" else b.wanted)
        )  # fmt: skip
    return out


def identity(rounds: int) -> list[Row]:
    import hashlib

    import orjson
    import rfc8785

    import headgate

    objects = [
        {"action": "submit", "study": "adrc", "pipeline_adcid": 42 + i % 5, "ptid": f"{110000 + i}", "center_label": "alpha",
         "project_label": "ingest-form", "gear_name": "form-scheduler", "visit_date": "2024-01-15", "visit_number": "01",
         "datatype": "form", "module": "UDS", "packet": "I", "timestamp": "2024-01-15T10:00:00Z", "score": i / 7,
         "comment": "x" * 150}
        for i in range(20_000)
    ]  # fmt: skip
    texts = [json.dumps(o).encode() for o in objects]
    few, few_texts = objects[:2000], texts[:2000]

    def by_orjson(items):
        return [hashlib.sha256(orjson.dumps(orjson.loads(t), option=orjson.OPT_SORT_KEYS)).hexdigest() for t in items]

    def by_rfc8785(items):
        return [hashlib.sha256(rfc8785.dumps(o)).hexdigest() for o in items]

    assert headgate.event_ids(few_texts) == by_rfc8785(few) == [headgate.event_id(o) for o in few]
    per = 1e6 / len(texts)
    rows = []
    for threads, wanted in ((0, "2.5x"), (1, "1.3x")):
        ours, theirs = paired(lambda n=threads: headgate.event_ids(texts, threads=n), lambda: by_orjson(texts), rounds)
        cores = "all cores" if threads == 0 else "one core"
        rows.append(
            Row(
                f"event id from JSON text (~500 B), batch, {cores}",
                "orjson + hashlib",
                ours * per,
                theirs * per,
                "us",
                wanted,
                "the peer is not RFC 8785",
            )
        )
    ours, theirs = paired(lambda: headgate.event_ids(few_texts), lambda: by_rfc8785(few), rounds)
    rows.append(
        Row(
            "event id, batch", "rfc8785 (from objects)", ours * 1e6 / 2000, theirs * 1e6 / 2000, "us", "20x", "same ids"
        )
    )
    ours, theirs = paired(
        lambda: [headgate.event_id(o) for o in objects],
        lambda: [hashlib.sha256(orjson.dumps(o, option=orjson.OPT_SORT_KEYS)).hexdigest() for o in objects],
        rounds,
    )
    rows.append(
        Row(
            "event id from a dict",
            "orjson + hashlib",
            ours * per,
            theirs * per,
            "us",
            "within 1.3x (0.77x)",
            "the peer is not RFC 8785",
        )
    )
    return rows


INSERT_CLAIM = (
    "INSERT INTO ledger (key, state, token, owner, until_us, attempts, payload) VALUES (?1, 0, ?2, ?3, ?4, 1, ?5)"
    " ON CONFLICT (key) DO NOTHING"
)


def claims(folder: Path, rounds: int) -> list[Row]:
    import sqlite3

    from headgate import Ledger
    from headgate.backends.local import LocalDatabase

    rows = []
    counter = iter(range(10**9))
    for durability, wanted_one, wanted_many in (
        ("normal", "1x", "2x"),
        ("full", "0.91x", "a batch of 100 at most 5 % per key"),
    ):
        ledger = Ledger.on_database(LocalDatabase(str(folder / f"{durability}.db"), durability=durability))
        peer = sqlite3.connect(folder / f"peer-{durability}.db", isolation_level=None)
        peer.execute("PRAGMA journal_mode = WAL")
        peer.execute(f"PRAGMA synchronous = {durability}")
        peer.execute(
            "CREATE TABLE ledger (key TEXT PRIMARY KEY, token TEXT, until INTEGER, attempts INTEGER) WITHOUT ROWID"
        )
        count = 500

        def insert(key, peer=peer):
            peer.execute(
                "INSERT INTO ledger VALUES (?, ?, ?, 1) ON CONFLICT (key) DO UPDATE SET attempts = attempts + 1 WHERE until < 5",
                (key, os.urandom(16).hex(), int(time.time() * 1e6)),
            )

        def ours_one(ledger=ledger):
            for _ in range(count):
                assert ledger.claim(f"k{next(counter)}").status == "acquired"

        def theirs_one(insert=insert):
            for _ in range(count):
                insert(f"k{next(counter)}")

        def ours_many(ledger=ledger):
            for _ in range(count // 100):
                ledger.claim_many([f"k{next(counter)}" for _ in range(100)])

        def theirs_many(peer=peer, insert=insert):
            for _ in range(count // 100):
                peer.execute("BEGIN IMMEDIATE")
                for _ in range(100):
                    insert(f"k{next(counter)}")
                peer.execute("COMMIT")

        def rows_alone(ledger=ledger):
            """The row of a claim and nothing else: no Python claim, no token made, no status."""
            for _ in range(count // 100):
                ready = [(f"v1:k{next(counter)}", "0" * 32, "o" * 52, 1, "") for _ in range(100)]
                ledger.database.native.execute_many(INSERT_CLAIM, ready)

        per = 1e6 / count
        one = paired(ours_one, theirs_one, rounds)
        many = paired(ours_many, theirs_many, rounds)
        alone = paired(rows_alone, theirs_many, rounds)
        name = f"durable claim in SQLite, synchronous={durability}"
        rows.append(
            Row(
                f"{name}, one commit each",
                "sqlite3 upsert",
                one[0] * per,
                one[1] * per,
                "us",
                wanted_one,
                "the peer has no status, fence or result",
            )
        )
        share = f"{many[0] / one[0]:.1%} of one by one"
        rows.append(
            Row(f"{name}, batches of 100", "sqlite3 upsert", many[0] * per, many[1] * per, "us", wanted_many, share)
        )
        rows.append(
            Row(f"{name}, the rows alone", "sqlite3 upsert", alone[0] * per, alone[1] * per, "us", "",
                "inserted by the core, nothing claimed: what a batch cannot be faster than")
        )  # fmt: skip
    return rows


def redis_claims(folder: Path, rounds: int) -> list[Row]:
    """Claims on a Redis of our own on loopback: against bare hiredis (the same SET) and against redis-py."""
    import redis
    from aws_lambda_powertools.utilities.idempotency import IdempotencyConfig, idempotent_function
    from aws_lambda_powertools.utilities.idempotency.persistence.redis import RedisCachePersistenceLayer

    from headgate import Ledger, idempotent_consumer
    from headgate.testing.servers import RedisServer

    peer = compiled("hiredis_peer", folder, "-lhiredis")
    counter = iter(range(10**9))
    count = 2000
    per = 1e6 / count
    with RedisServer() as server:
        ledger = Ledger.open(server.url)
        client = redis.Redis(port=server.port)

        def bare(mode: str) -> float:
            output = subprocess.run([peer, str(server.port), str(count), mode], check=True, capture_output=True)
            return float(output.stdout) * per

        def ours() -> None:
            for _ in range(count):
                claim = ledger.claim(f"k{next(counter)}")
                ledger.complete(claim)

        def redis_py() -> None:
            for _ in range(count):
                key = f"p{next(counter)}"
                assert client.set(key, "1", nx=True, px=300_000)
                client.set(key, "done", px=86_400_000)

        def ours_many() -> None:
            claims = ledger.claim_many([f"k{next(counter)}" for _ in range(count)])
            assert all(claim.status == "acquired" for claim in claims)

        def redis_py_many() -> None:
            pipe = client.pipeline(transaction=False)
            for _ in range(count):
                pipe.set(f"p{next(counter)}", "1", nx=True, px=300_000)
            assert all(pipe.execute())

        once = idempotent_consumer(ledger)(lambda event: {"n": event["n"]})
        layer = RedisCachePersistenceLayer(client=redis.Redis(port=server.port, decode_responses=True))
        powertools = idempotent_function(
            lambda event: {"n": event["n"]}, data_keyword_argument="event", persistence_store=layer,
            config=IdempotencyConfig(expires_after_seconds=86_400),
        )  # fmt: skip

        def decorated() -> None:
            for _ in range(count):
                n = next(counter)
                assert once({"n": n}) == {"n": n}

        def by_powertools() -> None:
            for _ in range(count):
                n = next(counter)
                assert powertools(event={"n": n}) == {"n": n}

        both = paired(decorated, by_powertools, rounds)
        again = once({"n": -1}), once({"n": -1}), powertools(event={"n": -1}), powertools(event={"n": -1})
        assert len({json.dumps(answer) for answer in again}) == 1
        one, many = paired(ours, redis_py, rounds), paired(ours_many, redis_py_many, rounds)
        trips = statistics.median(bare("trips") for _ in range(rounds))
        pipeline = statistics.median(bare("pipeline") for _ in range(rounds))
        client.close()
    name, batch = "claim + complete on Redis, one by one", f"claims on Redis, batches of {count}"
    return [
        Row(name, "two blocking hiredis trips in C", one[0] * per, trips, "us", "0.8x (1.25 of two trips)"),
        Row(name, "redis-py SET NX, then SET", one[0] * per, one[1] * per, "us", "1.67x", "no lease, token or result"),
        Row(
            "an idempotent handler on Redis, first call",
            "AWS Powertools",
            both[0] * per,
            both[1] * per,
            "us",
            "",
            "event in, effect, result kept; no lease is renewed there",
        ),
        Row(batch, "hiredis pipeline in C, same command", many[0] * per, pipeline, "us", "0.77x (1.3 of it)"),
        Row(batch, "redis-py pipeline of SET NX", many[0] * per, many[1] * per, "us", "", "no lease, token or result"),
    ]


def workflow_rows(folder: Path) -> list[Row]:
    """Three durable steps against DBOS on SQLite, each side in a process of its own; a Map and a virtual year beside them."""
    ours = child(sys.executable, HERE / "workflows.py", "headgate", folder)
    theirs = child(sys.executable, HERE / "workflows.py", "dbos", folder)
    policy = f"fsync: ours {ours['policy']}; theirs {theirs['policy']}"
    return [
        Row(
            "workflow, three durable steps",
            "DBOS on SQLite",
            ours["alone_s"] * 1e3,
            theirs["alone_s"] * 1e3,
            "ms",
            "4x",
            policy,
        ),
        Row(
            "the same, eight at a time",
            "DBOS on SQLite",
            ours["together_s"] * 1e3,
            theirs["together_s"] * 1e3,
            "ms",
            "15x",
            policy,
        ),
        Row("Map of 10,000 tasks", "itself", ours["map_s"], ours["map_s"], "s", "", "every result committed"),
        Row(
            "virtual year",
            "10 ms",
            ours["year_cpu_s"] * 1e3,
            10.0,
            "ms CPU",
            "1x",
            f"{ours['year_s'] * 1e3:.1f} ms with its commits",
        ),
    ]


def _fresh(folder: Path, n: int) -> Path:
    out = folder / str(n)
    out.mkdir()
    return out


def main() -> None:
    import checkpoints  # beside this file; they need Row from here
    import cold_starts
    import healing
    import market

    sys.modules.setdefault("run", sys.modules[__name__])
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer files and rounds")
    parser.add_argument("--rounds", type=int, default=5)
    parts = ("identity", "claims", "redis", "files", "s3", "incremental", "large", "delta", "failover", "collect",
             "workflows", "healing", "cold")  # fmt: skip
    parser.add_argument("--only", choices=parts, help="these rows only, printed and not kept")
    options = parser.parse_args()
    small, large = (2_000, 6_000) if options.quick else (50_000, 200_000)
    rounds = 2 if options.quick else options.rounds
    few = min(rounds, 3)

    def files(folder: Path, _: int) -> list[Row]:
        a, b = event_files(folder, small, few), event_files(folder, large, few)
        return a + b + marginal(a, b, large - small)

    events = (100_000,) if options.quick else (1_000_000, 10_000_000)
    every = {
        "identity": lambda _, n: identity(n),
        "claims": claims,
        "redis": redis_claims,
        "files": files,
        "s3": lambda folder, _: checkpoints.s3_rows(folder, few, small // (1 if options.quick else 2)),
        "incremental": lambda folder, _: checkpoints.incremental_rows(folder, few, large),
        "large": lambda folder, _: [row for n in events for row in checkpoints.large_rows(_fresh(folder, n), few, n)],
        "failover": lambda folder, n: market.failover_rows(folder, n) + market.policy_rows(n),
        "collect": lambda folder, _: market.collection_rows(folder, few, small * 2),
        "workflows": lambda folder, _: workflow_rows(folder),
        "delta": lambda folder, _: checkpoints.delta_rows(folder, few, events[-1]),
        "healing": lambda folder, _: healing.healing_rows(folder),
        "cold": cold_starts.cold_start_rows,
    }
    rows: list[Row] = []
    for name in [options.only] if options.only else parts:
        with tempfile.TemporaryDirectory() as scratch:
            rows += every[name](Path(scratch), rounds)
    if options.only:
        print("\n".join(row.line() for row in rows))
        return
    table = [
        "| work | peer | headgate | peer's | unit | peer / headgate | wanted | note |",
        "| --- | --- | ---: | ---: | --- | ---: | --- | --- |",
    ]
    table += [row.line() for row in rows]
    print("\n".join(table))
    out = HERE / "out"
    out.mkdir(exist_ok=True)
    facts = {
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    (out / "bench.json").write_text(
        json.dumps({"machine": facts, "rows": [{**asdict(r), "ratio": r.ratio} for r in rows]}, indent=1)
    )


if __name__ == "__main__":
    main()
