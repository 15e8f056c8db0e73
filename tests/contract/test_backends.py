"""The shipped conformance suites, on every backend that exists."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import threading
import time
from pathlib import Path

import pytest

from headgate._core import file_store
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.idempotency import AsyncLedger, Ledger
from headgate.testing.conformance import LedgerSuite, ObjectStoreSuite
from headgate.testing.items import ItemStoreSuite
from headgate.testing.servers import RedisServer, S3Server, free_port

ROOT = Path(__file__).resolve().parents[2]
DYNAMO = {"aws_access_key_id": "local", "aws_secret_access_key": "local", "region_name": "us-east-1"}


class TestMemoryLedger(LedgerSuite):
    def open(self, clock):
        return Ledger.open("memory://", done_ttl=self.done_ttl, clock=clock)

    def open_with(self, clock, *, fence=False, legacy_keys=False):
        native = Ledger.open(f"memory://?fence={str(fence).lower()}", done_ttl=self.done_ttl, clock=clock).native
        return Ledger(native, clock, done_ttl=self.done_ttl, legacy_keys=legacy_keys)


class TestSqliteLedger(LedgerSuite):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.path = tmp_path / "ledger.db"

    def open(self, clock):
        return Ledger.open(f"sqlite:///{self.path}", done_ttl=self.done_ttl, clock=clock)

    def open_with(self, clock, *, fence=False, legacy_keys=False):
        database = LocalDatabase(str(self.path))
        if legacy_keys:  # as the migration to version 5 leaves it
            doc = f'{{"format":1,"until_us":{clock.now_us() + 10**9}}}'
            database.execute("INSERT INTO state (name, doc) VALUES ('ledger.legacy_keys', ?)", (doc,))
        return Ledger.on_database(database, done_ttl=self.done_ttl, clock=clock, fence=fence)


class TestRedisLedger(LedgerSuite):
    expires_by_wall_clock = True
    _database = itertools.count(1)

    @pytest.fixture(autouse=True)
    def _server(self, redis_server):
        from redis import Redis

        with Redis(port=redis_server.port) as client:
            client.flushall()
        self.url = redis_server.url

    def open(self, clock):
        return Ledger.open(self.url, done_ttl=self.done_ttl, clock=clock)

    def open_with(self, clock, **options):
        query = "&".join(f"{name}={str(value).lower()}" for name, value in options.items())
        return Ledger.open(f"{self.url}?{query}", done_ttl=self.done_ttl, clock=clock)


class TestInjectedRedisLedger(TestRedisLedger):
    """The same server and keys, through redis-py and `RedisClientProtocol`."""

    def open(self, clock):
        from redis import Redis

        from headgate.backends.redispy import RedisPyClient

        return Ledger.on_redis(RedisPyClient(Redis.from_url(self.url)), done_ttl=self.done_ttl, clock=clock)

    def open_with(self, clock, **options):
        from redis import Redis

        raw = Redis.from_url(self.url, decode_responses=True)  # of redis-py itself, answering with text
        return Ledger.on_redis(raw, done_ttl=self.done_ttl, clock=clock, **options)


@pytest.fixture(scope="module")
def redis_cluster():
    """Two nodes, half of the slots each."""
    from redis import Redis

    buses = [str(free_port()), str(free_port())]
    options = [("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", bus) for bus in buses]
    with RedisServer(options=options[0]) as one, RedisServer(options=options[1]) as two:
        first, second = Redis(port=one.port), Redis(port=two.port)
        first.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
        second.execute_command("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
        first.execute_command("CLUSTER", "MEET", "127.0.0.1", two.port, buses[1])
        for client in (first, second):
            deadline = time.monotonic() + 30
            while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
                assert time.monotonic() < deadline
        first.close()
        second.close()
        yield one, two


class TestClusterLedger(LedgerSuite):
    expires_by_wall_clock = True

    @pytest.fixture(autouse=True)
    def _server(self, redis_cluster):
        from redis import Redis

        for node in redis_cluster:
            with Redis(port=node.port) as client:
                client.flushall()
        self.url = redis_cluster[0].url

    def open(self, clock):
        url = self.url.replace("redis://", "redis+cluster://")
        return Ledger.open(url, done_ttl=self.done_ttl, clock=clock)

    def open_with(self, clock, **options):
        query = "&".join(f"{name}={str(value).lower()}" for name, value in options.items())
        url = self.url.replace("redis://", "redis+cluster://")
        return Ledger.open(f"{url}?{query}", done_ttl=self.done_ttl, clock=clock)


class TestDynamoLedger(LedgerSuite):
    _table = itertools.count(1)

    @pytest.fixture(autouse=True)
    def _server(self, dynamo_server, monkeypatch):
        for name, value in DYNAMO.items():
            monkeypatch.setenv(name.upper().replace("REGION_NAME", "AWS_DEFAULT_REGION"), value)
        self.endpoint = dynamo_server.endpoint

    def open(self, clock):
        return self.open_with(clock)

    def open_with(self, clock, **options):
        import boto3

        from headgate.backends.dynamodb import create_ledger_table

        table = f"ledger-{next(self._table)}"
        create_ledger_table(boto3.Session().client("dynamodb", endpoint_url=self.endpoint, **DYNAMO), table)
        query = "".join(f"&{name}={str(value).lower()}" for name, value in options.items())
        url = f"dynamodb://{table}?endpoint={self.endpoint}{query}"
        return Ledger.open(url, done_ttl=self.done_ttl, clock=clock)


class Awaited:
    """An `AsyncLedger` that the synchronous suite can call, from several threads too."""

    def __init__(self, ledger):
        self._ledger = ledger

    def __getattr__(self, name):
        method = getattr(self._ledger, name)
        assert inspect.iscoroutinefunction(method)
        return lambda *args, **kwargs: asyncio.run(method(*args, **kwargs))


class TestAsyncMemoryLedger(TestMemoryLedger):
    def open(self, clock):
        return Awaited(AsyncLedger(super().open(clock)))

    def open_with(self, clock, **options):
        return Awaited(AsyncLedger(super().open_with(clock, **options)))


class TestAsyncSqliteLedger(TestSqliteLedger):
    def open(self, clock):
        return Awaited(AsyncLedger(super().open(clock)))

    def open_with(self, clock, **options):
        return Awaited(AsyncLedger(super().open_with(clock, **options)))


class TestAsyncRedisLedger(TestRedisLedger):
    def open(self, clock):
        return Awaited(AsyncLedger(super().open(clock)))

    def open_with(self, clock, **options):
        return Awaited(AsyncLedger(super().open_with(clock, **options)))


class TestAsyncDynamoLedger(TestDynamoLedger):
    def open_with(self, clock, **options):
        return Awaited(AsyncLedger(super().open_with(clock, **options)))


class Looped:
    """An `AsyncLedger` of a client that belongs to one event loop, for the synchronous suite."""

    def __init__(self, make):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

        async def made():
            return make()

        self._client, self._ledger = self._wait(made())

    def _wait(self, call):
        return asyncio.run_coroutine_threadsafe(call, self._loop).result(60)

    def __getattr__(self, name):
        method = getattr(self._ledger, name)
        assert inspect.iscoroutinefunction(method)
        return lambda *args, **kwargs: self._wait(method(*args, **kwargs))

    def close(self):
        self._wait(self._client.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class TestAwaitedRedisLedger(TestRedisLedger):
    """redis.asyncio, without a thread; answers are bytes."""

    decode = False

    @pytest.fixture(autouse=True)
    def _loops(self):
        self.looped = []
        yield
        for one in self.looped:
            one.close()

    def client(self):
        from redis.asyncio import Redis

        return Redis.from_url(self.url, decode_responses=self.decode)

    def open(self, clock):
        return self.open_with(clock)

    def open_with(self, clock, **options):
        def make():
            client = self.client()
            return client, AsyncLedger.on_redis(client, done_ttl=self.done_ttl, clock=clock, **options)

        self.looped.append(Looped(make))
        return self.looped[-1]


class TestAwaitedRedisLedgerOfText(TestAwaitedRedisLedger):
    decode = True


class TestAwaitedClusterLedger(TestAwaitedRedisLedger):
    @pytest.fixture(autouse=True)
    def _server(self, redis_cluster):
        from redis import Redis

        for node in redis_cluster:
            with Redis(port=node.port) as client:
                client.flushall()
        self.url = redis_cluster[0].url

    def client(self):
        from redis.asyncio.cluster import RedisCluster

        return RedisCluster.from_url(self.url.removesuffix("/0"))


class TestFileStore(ObjectStoreSuite):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.path = tmp_path / "objects"

    def open(self):
        return file_store(str(self.path))


class TestSqliteItems(ItemStoreSuite):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = tmp_path

    def open(self, clock):
        return LocalStore(LocalDatabase(str(self.folder / "items.db"), durability="normal"), clock, "market")


class TestDynamoItems(ItemStoreSuite):
    _table = itertools.count(1)

    @pytest.fixture(autouse=True)
    def _server(self, dynamo_server):
        import boto3

        self.client = boto3.Session().client("dynamodb", endpoint_url=dynamo_server.endpoint, **DYNAMO)

    def open(self, clock):
        from headgate.backends.dynamodb_items import DynamoStore, create_items_table

        table = f"items-{next(self._table)}"
        create_items_table(self.client, table)
        return DynamoStore(self.client, table, clock, "market", prefix="NEWS")


class TestS3Objects(ObjectStoreSuite):
    """On versitygw, and on moto."""

    @pytest.fixture(autouse=True, params=["versitygw", "moto"])
    def _server(self, request, start, monkeypatch):
        import boto3

        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        stop = None
        if request.param == "versitygw":
            environment = start(lambda: S3Server(ROOT / ".servers" / "versitygw" / "versitygw")).environment()
        else:
            from moto.server import ThreadedMotoServer

            server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
            server.start()
            stop = server.stop
            host, port = server.get_host_and_port()
            environment = {
                "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_DEFAULT_REGION": "us-east-1",
            }  # fmt: skip
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        self.client = boto3.Session().client("s3")
        self.client.create_bucket(Bucket="raw")
        yield
        for entry in self.client.list_objects_v2(Bucket="raw").get("Contents", []):
            self.client.delete_object(Bucket="raw", Key=entry["Key"])
        self.client.delete_bucket(Bucket="raw")
        if stop is not None:
            stop()

    def open(self):
        from headgate.backends.s3_objects import S3Objects

        return S3Objects("s3://raw/prod/objects/")

    def test_more_than_a_page_and_only_ours(self):
        objects = self.open()
        for i in range(1005):
            objects.put(f"raw/{i:04d}", b"x", True)
        self.client.put_object(Bucket="raw", Key="elsewhere", Body=b"x")
        assert objects.list("raw/") == [f"raw/{i:04d}" for i in range(1005)]
        assert "elsewhere" not in "".join(objects.list())
        for i in range(1005):
            objects.remove(f"raw/{i:04d}")
