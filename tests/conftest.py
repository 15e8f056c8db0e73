"""Shared fixtures: real servers on loopback, the corpus, and the rule about skips."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ROOT.parent / "shared" / "data"
ALLOWED_SKIPS = ROOT / "tests" / "allowed_skips.txt"
NOW_US = 1_780_000_000_000_000  # 2026-05-28T20:26:40Z


def pytest_report_header() -> str:
    import headgate

    return f"headgate {headgate.__version__}, corpus {'found' if CORPUS.exists() else 'not here'}"


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI a skip whose reason is not in allowed_skips.txt fails the run."""
    if not os.environ.get("CI") or hasattr(session.config, "workerinput"):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    allowed = [line.split("#")[0].strip() for line in ALLOWED_SKIPS.read_text().splitlines()]
    for report in reporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(entry and entry in reason for entry in allowed):
            reporter.write_line(f"skip not allowed in CI: {report.nodeid}: {reason}", red=True)
            session.exitstatus = 1


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory):
    """A real Redis of this session's own."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    port = free_port()
    folder = tmp_path_factory.mktemp("redis")
    command = [program, "--port", str(port), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--dir", folder]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while True:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert time.monotonic() < deadline, "redis-server did not start"
        time.sleep(0.01)
    yield f"redis://127.0.0.1:{port}/0"
    server.terminate()
    server.wait()


@pytest.fixture(scope="session")
def corpus() -> Path:
    if not CORPUS.exists():
        pytest.skip("the recorded corpus is not here")
    return CORPUS


@pytest.fixture
def clock():
    from headgate._core import ManualClock

    return ManualClock(NOW_US)


@pytest.fixture
def store(tmp_path: Path, clock):
    from headgate.backends.local import LocalDatabase, LocalStore

    database = LocalDatabase(str(tmp_path / "store.db"), durability="normal")
    yield LocalStore(database, clock, "market")
    database.close()


@pytest.fixture
def objects(tmp_path: Path):
    from headgate._core import file_store

    return file_store(str(tmp_path / "objects"))


@pytest.fixture(autouse=True)
def _no_faults():
    yield
    from headgate import _native

    _native.set_faults("")
