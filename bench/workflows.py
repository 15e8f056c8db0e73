"""Durable workflows: three steps against DBOS on SQLite, one by one and eight at a time; a Map of 10,000 items; a virtual year.

`workflows.py SIDE FOLDER` prints an object of seconds and counts, and each side's fsync policy. DBOS comes from
tools/requirements-bench.txt and may live in an environment of its own: `workflows.py --peer PYTHON FOLDER`.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time

RUNS = 200
AT_ONCE = 8
ITEMS = 10_000
STEPS = 3


def _threads(work, runs: int, at_once: int) -> float:
    """Seconds that `runs` calls of work(n) take on so many threads."""
    numbers = iter(range(runs))
    lock = threading.Lock()

    def loop() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            work(number)

    threads = [threading.Thread(target=loop) for _ in range(at_once)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started


def machine() -> dict:
    states = {}
    for n in range(STEPS):
        states[f"S{n}"] = {
            "Type": "Task",
            "Resource": "add",
            **({"End": True} if n + 1 == STEPS else {"Next": f"S{n + 1}"}),
        }
    return {"StartAt": "S0", "States": states}


def headgate(folder: str, durability: str = "full") -> dict:
    from headgate._core import ManualClock, SystemClock
    from headgate.backends.local import LocalDatabase
    from headgate.workflow import LocalRunner

    database = LocalDatabase(os.path.join(folder, f"headgate-{durability}.db"), durability=durability)
    runner = LocalRunner(database, {"add": lambda n: n + 1}, SystemClock())
    definition = machine()
    assert runner.start("w", definition, 0, "warm").output == STEPS

    def run(prefix: str):
        return lambda number: _expect(runner.start("w", definition, number, f"{prefix}{number}").output, number + STEPS)

    found = {
        "policy": f"synchronous={database.execute('PRAGMA synchronous')[0][0]}, journal={database.execute('PRAGMA journal_mode')[0][0]}",
        "alone_s": _threads(run("a"), RUNS, 1) / RUNS,
        "together_s": _threads(run("t"), RUNS * 2, AT_ONCE) / (RUNS * 2),
    }
    mapping = {"ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}, "StartAt": "I"}
    tasks = {**mapping, "States": {"I": {"Type": "Task", "Resource": "add", "End": True}}}
    state = {"Type": "Map", "ItemProcessor": tasks, "End": True}
    started = time.perf_counter()
    output = runner.start("w", {"StartAt": "M", "States": {"M": state}}, list(range(ITEMS)), "map").output
    found["map_s"] = time.perf_counter() - started
    _expect(output[-1], ITEMS)
    clock = ManualClock(0)
    year = LocalRunner(database, {}, clock)
    wait = {"StartAt": "W", "States": {"W": {"Type": "Wait", "Seconds": 31_536_000, "End": True}}}
    year.start("w", wait, {}, "warm-year")
    started, cpu = time.perf_counter(), time.process_time()
    year.start("w", wait, {}, "year")
    found |= {"year_s": time.perf_counter() - started, "year_cpu_s": time.process_time() - cpu}
    database.close()
    return found


def dbos(folder: str) -> dict:
    from dbos import DBOS, SetWorkflowID

    path = os.path.join(folder, "dbos.db")
    DBOS(
        config={
            "name": "bench",
            "system_database_url": f"sqlite:///{path}",
            "log_level": "ERROR",
            "run_admin_server": False,
        }
    )

    @DBOS.step()
    def add(n: int) -> int:
        return n + 1

    @DBOS.workflow()
    def three(n: int) -> int:
        for _ in range(STEPS):
            n = add(n)
        return n

    DBOS.launch()

    def run(prefix: str):
        def one(number: int) -> None:
            with SetWorkflowID(f"{prefix}{number}"):
                _expect(three(number), number + STEPS)

        return one

    run("warm")(0)
    found = {
        "alone_s": _threads(run("a"), RUNS, 1) / RUNS,
        "together_s": _threads(run("t"), RUNS * 2, AT_ONCE) / (RUNS * 2),
    }
    DBOS.destroy()
    check = sqlite3.connect(path)
    found["policy"] = f"journal={check.execute('PRAGMA journal_mode').fetchone()[0]}, synchronous as its engine sets it"
    check.close()
    return found


def _expect(found, wanted) -> None:
    if found != wanted:
        raise SystemExit(f"expected {wanted}, not {found}")


def main() -> None:
    if sys.argv[1] == "--peer":
        done = subprocess.run([sys.argv[2], __file__, "dbos", sys.argv[3]], check=True, capture_output=True, text=True)
        print(done.stdout.strip())
        return
    side, folder = sys.argv[1:3]
    print(json.dumps(dbos(folder) if side == "dbos" else headgate(folder, *sys.argv[3:])))


if __name__ == "__main__":
    main()
