"""Rows of checkpoints: S3, incremental runs, merges, ten million events, queries. Used by run.py."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
GATEWAY = ROOT / ".servers" / "versitygw" / "versitygw"


def side(name: str, *arguments: str, env: dict[str, str] | None = None) -> dict[str, float]:
    """One of `peers.py` or of this file's SIDES in a process of its own: its seconds, peak MiB, and what it printed."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, HERE / "checkpoint_sides.py", name, *map(str, arguments)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, **(env or {})},
    )  # fmt: skip
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"bench: {name} failed")
    return {"whole_s": time.perf_counter() - started, "mib": usage.ru_maxrss / 1024, **json.loads(output)}


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def s3_rows(folder: Path, rounds: int, count: int) -> list:
    from run import Row, compiled

    from headgate.testing.servers import S3Server, free_port
    from headgate.testing.visits import write_wave

    rows = []
    with S3Server(GATEWAY, folder / "s3") as server:
        wave = write_wave(server.folder / "data" / "logs" / "prod", count)
        (server.folder / "data" / "out").mkdir()
        env = server.environment()
        side("s3_headgate", "prod", "warm", env=env)
        peers = {"obstore_async": 1, "pyarrow_fs_16": 4, "boto3_16": 10, "boto3_one_by_one": 20}
        runs: dict[str, list[dict[str, float]]] = {"s3_headgate": []}
        for n in range(rounds):
            runs["s3_headgate"].append(side("s3_headgate", "prod", f"{n}.parquet", env=env))
            for peer, part in peers.items():
                runs.setdefault(peer, []).append(side(f"s3_{peer}", "prod", str(count // part), env=env))
        assert all(run["rows"] == wave.good for run in runs["s3_headgate"])
        ours = medians(runs["s3_headgate"])
        for peer in peers:
            theirs = medians(runs[peer])
            rows.append(
                Row(f"event files on S3 ({count:,}), per object", peer, ours["s"] / count * 1e6,
                    theirs["s"] / theirs["objects"] * 1e6, "us", "1x" if "obstore" in peer else "",
                    "headgate lists, reads, validates, sorts, commits; the peer lists and reads"
                    f"; peak {ours['mib']:.0f} against {theirs['mib']:.0f} MiB")
            )  # fmt: skip
        proxy = compiled("latency_proxy", folder)

        def through(milliseconds: int, call):
            port = free_port()
            with subprocess.Popen([proxy, str(port), str(server.port), str(milliseconds)]) as process:
                time.sleep(0.3)
                out = call({**env, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"})
                process.terminate()
            return out

        def ours_through(milliseconds: int) -> dict[str, float]:
            return through(milliseconds, lambda env: medians(
                [side("s3_headgate", "prod", f"far-{milliseconds}-{n}.parquet", env=env) for n in range(rounds)]
            ))  # fmt: skip

        near, far = ours_through(0), ours_through(20)
        one = through(20, lambda env: side("s3_boto3_one_by_one", "prod", str(count // 40), env=env))
        rows.append(Row(f"the same with 20 ms added to every answer ({count:,})", "boto3_one_by_one",
                        far["s"] / count * 1e6, one["s"] / one["objects"] * 1e6, "us", "60x"))  # fmt: skip
        rows.append(Row("the same with 20 ms added to every answer", "headgate, nothing added", far["s"], near["s"], "s",
                        "0.77x (1.3 of it)", f"both through the proxy, which alone costs {near['s'] / ours['s']:.2f}x"))  # fmt: skip
    return rows


def incremental_rows(folder: Path, rounds: int, count: int) -> list:
    from run import Row

    from headgate.testing.visits import write_wave

    logs, target = folder / "inc-logs", folder / "inc.parquet"
    first = write_wave(logs, count)
    side("update", logs, target)
    kept = folder / "kept"
    kept.mkdir()
    subprocess.run(["cp", "-a", target, f"{target}.ledger", kept], check=True)
    shutil.copy(target, folder / "honest.parquet")
    marker = time.time()
    time.sleep(0.05)
    second = write_wave(logs, count // 100, first=count + 1000, seed=3)
    late = write_late(logs, count, count // 10_000)  # one in a hundred of the new ones comes up to a day late
    runs: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        subprocess.run(f"rm -rf {target} {target}.ledger && cp -a {kept}/. {folder}", shell=True, check=True)
        runs.setdefault("headgate", []).append(side("update", logs, target))
        runs.setdefault("everything", []).append(side("reads_everything", logs, folder / "all.parquet"))
        runs.setdefault("honest", []).append(
            side("skips_by_stamp", logs, folder / "honest.parquet", folder / "honest-new.parquet")
        )
    ours, everything, honest = (medians(runs[k]) for k in ("headgate", "everything", "honest"))
    assert ours["rows"] == everything["rows"] == first.good + second.good + late, (ours, everything, marker)
    name = f"incremental run, 1 % new on {count:,} files, whole process"
    # What no order of files helps with: one event that is older than all others, so that every row is written anew.
    write_late(logs, 0, 1)
    oldest = []
    for _ in range(rounds):
        subprocess.run(f"rm -rf {target} {target}.ledger && cp -a {kept}/. {folder}", shell=True, check=True)
        oldest.append(side("update", logs, target))
    assert medians(oldest)["rows"] == ours["rows"] + 1
    return [
        Row(name, "pydantic + polars, which reads every file", ours["whole_s"], everything["whole_s"], "s", "15x",
            f"peak {ours['mib']:.0f} against {everything['mib']:.0f} MiB"),
        Row(name, "skips names stamped before the newest row", ours["whole_s"], honest["whole_s"], "s", "0.77x (1.3 of it)",
            f"the peer loses late files; peak {ours['mib']:.0f} against {honest['mib']:.0f} MiB"),
        Row(f"{name}, one event older than all", "pydantic + polars, which reads every file", medians(oldest)["whole_s"],
            everything["whole_s"], "s", "", f"every row is written anew; peak {medians(oldest)['mib']:.0f} MiB"),
    ]  # fmt: skip


def write_late(folder: Path, newest: int, count: int) -> int:
    """Event files, one every hour or so back from the event of that number."""
    import random
    from datetime import timedelta

    from headgate.testing.visits import _START, _STEP_S, _event, _name

    for i in range(newest - 1, newest - 1 - 115 * count, -115):
        when = _START + timedelta(seconds=_STEP_S * i + 7)
        event = _event(i, when, random.Random(i))
        (folder / _name(event, when, i)).write_text(json.dumps(event))
    return count


def large_rows(folder: Path, rounds: int, events: int) -> list:
    """A first run from JSON Lines, an update, a merge alone, Delta, and queries."""
    from run import Row

    logs, more = folder / "big", folder / "more"
    per_file = min(events, 50_000)
    side("write_lines", logs, str(events // per_file), str(per_file), "0")
    target = folder / "big.parquet"
    started = side("update_lines", logs, target)
    assert started["rows"] == events
    rows = [Row(f"first run of {events:,} events from JSON Lines", "(none)", started["s"], started["s"], "s", "",
                f"peak {started['mib']:.0f} MiB, {started['spilled'] / 2**20:.0f} MiB spilled")]  # fmt: skip
    new = max(events // 100, 1)
    side("write_lines", logs, "1", str(new), str(events))
    side("write_lines", more, "1", str(new), str(events))
    update = side("update_lines", logs, target)
    assert update["rows"] == events + new
    merge = medians([side("polars_merge", target, more, folder / "merged.parquet") for _ in range(rounds)])
    rows.append(Row(f"update of {events:,} events with {new:,}", "polars: scan_ndjson + concat + sort + write", update["s"],
                    merge["s"], "s", "1x in half the memory",
                    f"peak {update['mib']:.0f} against {merge['mib']:.0f} MiB; the peer neither validates nor commits"))  # fmt: skip
    for query, text in (
        ("center", "count by action of one center and one day"),
        ("group", "count by center, action, module"),
    ):
        ours = medians([side("query_headgate", target, query) for _ in range(rounds)])
        for peer in ("polars", "duckdb"):
            theirs = medians([side(f"query_{peer}", target, query) for _ in range(rounds)])
            assert theirs["answer"] == ours["answer"], (query, peer, ours, theirs)
            rows.append(Row(f"query of {events:,} rows: {text}", peer, ours["s"] * 1e3, theirs["s"] * 1e3, "ms", "",
                            f"peak {ours['mib']:.0f} against {theirs['mib']:.0f} MiB"))  # fmt: skip
    return rows


def delta_rows(folder: Path, rounds: int, events: int) -> list:
    from run import Row

    seconds = {}
    for size in (events // 10, events):
        logs, table = folder / f"delta-{size}", f"delta+file://{folder}/table-{size}"
        side("write_lines", logs, str(max(size // 50_000, 1)), str(min(size, 50_000)), "0")
        side("update_lines", logs, table)
        shutil.rmtree(logs)  # sources are pruned; the table keeps its rows
        found = []
        for n in range(rounds):
            side("write_lines", logs, "1", "10000", str(size + n * 10_000))
            found.append(side("update_lines", logs, table))
            assert found[-1]["rows"] == size + (n + 1) * 10_000
            shutil.rmtree(logs)
        seconds[size] = medians(found)
    small, large = seconds[events // 10], seconds[events]
    return [Row(f"Delta: append 10,000 events to {events:,}", f"to {events // 10:,}", large["s"], small["s"], "s",
                "0.77x (1.3 of it)", f"peak {large['mib']:.0f} MiB")]  # fmt: skip
