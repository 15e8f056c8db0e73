"""Ctrl-C ends a call that waits for somebody else's lock or answer."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import pytest

from headgate.backends.local import LocalDatabase
from headgate.checkpoint import update
from headgate.testing.visits import write_wave

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


UPDATE_FROM_S3 = """
from headgate.checkpoint import update
import sys
print("ready", flush=True)
update("s3://logs/prod", sys.argv[1], schema="visits")
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


@contextmanager
def silent_server(first):
    """Takes connections and never answers. Gives its port, and what waits until one has sent `first`."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        peers = []

        def connected(_):
            peer, _ = silent.accept()
            assert peer.recv(1) == first
            peers.append(peer)

        yield silent.getsockname()[1], connected
        for peer in peers:
            peer.close()


def test_waiting_for_a_redis_that_never_answers():
    with silent_server(b"*") as (port, connected):
        assert interrupt(WAIT_FOR_REDIS, f"redis://127.0.0.1:{port}/0", connected) < 1


def test_waiting_for_a_listing_that_never_comes(tmp_path, monkeypatch):
    for name, value in (("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "s"), ("REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    with silent_server(b"G") as (port, connected):
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        assert interrupt(UPDATE_FROM_S3, str(tmp_path / "e.parquet"), connected) < 1
    assert not (tmp_path / "e.parquet").exists()


class Stopped(Exception):  # noqa: N818 - the caller's own
    pass


def test_a_progress_callback_sees_every_file_and_may_end_the_run(tmp_path):
    good = write_wave(tmp_path / "logs", 4000).good
    seen = []
    update(
        tmp_path / "logs",
        tmp_path / "e.parquet",
        settle_s=0,
        progress=lambda done, total: seen.append((done, total)),
        schema="visits",
    )
    assert seen == sorted(seen)
    done, total = seen[-1]
    assert done == total >= good

    def stop(done, total):
        raise Stopped

    with pytest.raises(Stopped):
        update(tmp_path / "logs", tmp_path / "n.parquet", settle_s=0, rescan=True, progress=stop, schema="visits")
    assert not (tmp_path / "n.parquet").exists()


def test_a_terminal_shows_how_far_it_is(tmp_path):
    """On a pseudo-terminal; elsewhere there is no bar."""
    write_wave(tmp_path / "logs", 300)
    command = [
        sys.executable,
        "-m",
        "headgate",
        "checkpoint",
        tmp_path / "logs",
        tmp_path / "e.parquet",
        "--settle",
        "0",
        "--schema",
        "visits",
    ]
    master, slave = pty.openpty()
    with subprocess.Popen(command, stderr=slave, stdout=subprocess.PIPE) as process:
        os.close(slave)
        shown = b""
        with suppress(OSError):  # the terminal's other end is closed
            while more := os.read(master, 4096):
                shown += more
        assert process.wait() == 0
    os.close(master)
    assert b"reading files" in shown
    assert b"100%" in shown
    done = subprocess.run([*command, "--dry-run"], capture_output=True)
    assert b"reading files" not in done.stderr
