"""Ctrl-C ends a call that waits for somebody else's lock or answer."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time

from headgate.backends.local import LocalDatabase

WAIT_FOR_LOCK = """
import sys
from headgate.backends.local import LocalDatabase
database = LocalDatabase(sys.argv[1], busy_timeout_s=60)
print("ready", flush=True)
with database.transaction():
    pass
"""
WAIT_FOR_REDIS = """
import sys
from headgate import Ledger
print("ready", flush=True)
Ledger.open(sys.argv[1]).claim("k")
"""


def interrupt(script, argument, waits):
    """Seconds from SIGINT to the end of the process; the best of three on a busy machine."""
    times = []
    for _ in range(3):
        command = [sys.executable, "-c", script, argument]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        waits(process)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        times.append(time.monotonic() - started)
        assert errors.strip().endswith("KeyboardInterrupt"), errors
        if times[-1] < 1:
            break
    return min(times)


def blocked(process):
    """Until the process sleeps in a system call of its wait (poll or nanosleep), as /proc tells."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with open(f"/proc/{process.pid}/wchan") as wchan:
            if any(name in wchan.read() for name in ("nanosleep", "poll", "hrtimer")):
                return
        with open(f"/proc/{process.pid}/stat") as stat:
            if stat.read().rpartition(")")[2].split()[0] == "S":
                return


def test_waiting_for_a_database_lock(tmp_path):
    path = str(tmp_path / "a.db")
    holder = LocalDatabase(path)
    with holder.transaction():
        assert interrupt(WAIT_FOR_LOCK, path, blocked) < 1


def test_waiting_for_a_redis_that_never_answers():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()

        def connected(process):
            peer, _ = silent.accept()
            assert peer.recv(1) == b"*"  # the claim has been sent
            peers.append(peer)

        peers = []
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        assert interrupt(WAIT_FOR_REDIS, url, connected) < 1
        for peer in peers:
            peer.close()
