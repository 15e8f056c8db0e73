"""Shared fixtures: real servers on loopback, the corpus, and the rule about skips."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headgate.testing.servers import DynamoServer, KafkaServer, MariaServer, PostgresServer, RedisServer

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


def started(make):
    """A server of `headgate.testing.servers`, or a skip that names the program which is missing."""
    from headgate.errors import ConfigError, Kind

    try:
        with make() as server:
            yield server
    except ConfigError as error:
        if error.kind is not Kind.NOT_BUILT:
            raise
        pytest.skip(error.message)


@pytest.fixture
def start():
    """Start a server of the test's own: `start(lambda: RedisServer(...))`."""
    from contextlib import ExitStack, contextmanager

    with ExitStack() as stack:
        yield lambda make: stack.enter_context(contextmanager(started)(make))


@pytest.fixture(scope="session")
def redis_server():
    """A real Redis of this session's own."""
    yield from started(RedisServer)


@pytest.fixture(scope="session")
def redis_url(redis_server):
    return redis_server.url


@pytest.fixture(scope="session")
def dynamo_server():
    yield from started(lambda: DynamoServer(ROOT / ".servers" / "dynamodb"))


@pytest.fixture
def aws_credentials(monkeypatch):
    """Credentials that open nothing, for clients of servers on loopback; child processes inherit them."""
    names = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    return names


@pytest.fixture
def moto_server(aws_credentials):
    """The address of a moto server of this test's own: SNS and SQS over HTTP, for other processes too."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def kafka_server():
    yield from started(lambda: KafkaServer(ROOT / ".servers" / "kafka"))


@pytest.fixture(scope="session")
def postgres_server():
    yield from started(PostgresServer)


@pytest.fixture(scope="session")
def maria_server():
    yield from started(MariaServer)


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
