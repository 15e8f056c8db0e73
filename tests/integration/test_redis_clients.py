"""Redis ledgers on injected clients of every kind, in forked children, and cancelled at any moment."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from headgate import Ledger, StaleLeaseError
from headgate._core import ManualClock, redis_fence_key
from headgate.backends.redispy import CANNOT_ASK, RedisPyClient
from headgate.errors import ConfigError, IntegrityError, InvalidInputError, TransientError
from headgate.idempotency import AsyncLedger
from headgate.testing.servers import RedisServer

redis = pytest.importorskip("redis", reason="redis-py is not installed")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from test_ledger import hold_none, in_child  # noqa: E402


@pytest.fixture
def server(start):
    return start(RedisServer)


def raw(server, **options):
    return redis.Redis(port=server.port, **options)


def awaited(server, **options):
    from redis.asyncio import Redis

    return Redis(port=server.port, **options)


# --- what is refused


class AsyncProtocol:
    """`RedisClientProtocol` with coroutine functions, on a client of redis.asyncio."""

    def __init__(self, client):
        self._client = client

    async def set_if_not_exists(self, key, value, ttl_seconds):
        return bool(await self._client.set(key, value, nx=True, ex=ttl_seconds))

    async def delete_key(self, key):
        return await self._client.delete(key)

    async def get(self, key):
        return await self._client.get(key)

    async def setex(self, key, ttl_seconds, value):
        await self._client.setex(key, ttl_seconds, value)

    async def run_script(self, script, key, arguments):
        return await self._client.eval(script, 1, key, *arguments)


def test_what_has_to_be_awaited_is_refused_by_the_synchronous_form(server):
    from redis.asyncio.cluster import RedisCluster

    for client in (awaited(server), RedisCluster(host="127.0.0.1", port=server.port), AsyncProtocol(awaited(server))):
        with pytest.raises(ConfigError, match=r"needs AsyncLedger\.on_redis\(\)"):
            Ledger.on_redis(client)
    with pytest.raises(ConfigError, match=r"not of redis\.asyncio"):
        RedisPyClient(awaited(server))

    class Plain:
        def set_if_not_exists(self, key, value, ttl_seconds):
            return asynchronous.set_if_not_exists(key, value, ttl_seconds)

        def run_script(self, script, key, arguments):
            raise AssertionError

        delete_key = get = setex = run_script

    asynchronous = AsyncProtocol(awaited(server))
    with pytest.raises(ConfigError, match="has to be awaited"):
        Ledger.on_redis(Plain()).claim("k")
    with raw(server) as client:
        assert client.keys() == []  # nothing was claimed, and nothing was said to be


def test_an_object_that_is_no_client_is_refused():
    class Old:
        def set_if_not_exists(self, key, value, ttl_seconds):
            return True

        def delete_key(self, key):
            return 1

    for make in (Ledger.on_redis, AsyncLedger.on_redis):
        with pytest.raises(
            ConfigError, match="Old is no Redis client: it lacks get, setex, run_script of RedisClientProtocol"
        ):
            make(Old())
        with pytest.raises(ConfigError, match="str is no Redis client"):
            make("redis://localhost")


# --- asynchronous clients


def test_all_clients_share_keys(server):
    async def run():
        text, binary, own = awaited(server, decode_responses=True), awaited(server), awaited(server)
        ledgers = [
            AsyncLedger.on_redis(text), AsyncLedger.on_redis(binary), AsyncLedger.on_redis(AsyncProtocol(own)),
            AsyncLedger.on_redis(raw(server)), AsyncLedger.open(server.url),
        ]  # fmt: skip
        for i, one in enumerate(ledgers):
            for j, other in enumerate(ledgers):
                key = f"ключ {i} {j}"
                claim = await one.claim(key, payload="ключ")
                assert (await other.claim(key)).status == "in_progress"
                await other.release(claim, "boom é")
                claim = await other.claim(key, payload="ключ")
                assert (claim.attempts, claim.last_error) == (2, "boom é")
                async with one.renewing(claim, 30):
                    assert await one.complete(claim, {"é": [1]}) is True
                assert (await other.claim(key)).result == {"é": [1]}
        for client in (text, binary, own):
            await client.aclose()

    asyncio.run(run())


def test_an_awaited_client_needs_no_thread(server):
    async def run():
        import threading

        before = set(threading.enumerate())
        client = awaited(server)
        ledger = AsyncLedger.on_redis(client)
        claims = await ledger.claim_many([f"k{i}" for i in range(500)])
        assert await ledger.complete_many(claims, list(range(500))) == [True] * 500
        new = set(threading.enumerate()) - before  # asyncio has one of its own, for names of hosts
        assert [t.name for t in new if "headgate" in t.name] == []
        with pytest.raises(InvalidInputError, match="no synchronous Ledger"):
            _ = ledger.sync
        with pytest.raises(InvalidInputError, match="dynamodb://"):
            await ledger.complete_with(claims[0], [])
        await client.aclose()

    asyncio.run(run())


def test_an_awaited_claim_is_renewed_while_the_handler_runs(server):
    async def run():
        client = awaited(server)
        ledger = AsyncLedger.on_redis(client)
        claim = await ledger.claim("k", 0.15)
        async with ledger.renewing(claim, 0.15):
            await asyncio.sleep(0.5)  # three leases
            assert (await ledger.claim("k")).status == "in_progress"
        await ledger.complete(claim, 1)
        with pytest.raises(InvalidInputError):
            async with ledger.renewing(claim, 0):
                pass
        await client.aclose()

    asyncio.run(run())


def test_results_that_are_not_kept_are_told_here_too(server):
    class Counts:
        found: list = []  # noqa: RUF012

        def count(self, name, amount=1.0, **labels):
            self.found.append((name, labels["reason"]))

    async def run():
        client = awaited(server)
        ledger = AsyncLedger.on_redis(client, metrics=Counts())
        assert await ledger.complete(await ledger.claim("k"), object()) is False
        assert ((found := await ledger.claim("k")).status, found.result) == ("done", None)
        await client.aclose()

    asyncio.run(run())
    assert Counts.found == [("headgate_results_not_kept_total", "unknown_type")]


def test_a_batch_that_fails_in_part_holds_nothing(server):
    async def run():
        client = awaited(server)
        ledger = AsyncLedger.on_redis(client)
        await client.set("headgate:v1:foreign", "x")
        with pytest.raises(IntegrityError):
            await ledger.claim_many(["a", "foreign", "b"])
        assert [(c.status, c.attempts) for c in await ledger.claim_many(["a", "b"])] == [("acquired", 1)] * 2
        await client.aclose()

    asyncio.run(run())


def test_no_random_moment_leaves_a_key_held_by_threads(server):
    hold_none(lambda: AsyncLedger.open(server.url), 200, 0.001, 7)


@pytest.mark.parametrize("decode", [False, True])
def test_no_random_moment_leaves_a_key_held_by_an_awaited_client(server, decode):
    made = []

    def make():
        made.append(awaited(server, decode_responses=decode))
        return AsyncLedger.on_redis(made[0])

    async def close():
        await made[0].aclose()

    hold_none(make, 150, 0.002, 8, close)


# --- warnings


def test_every_client_gives_the_cores_warnings(start, server):
    replica = start(lambda: RedisServer(options=("--replicaof", "127.0.0.1", str(server.port))))
    with raw(server) as client:
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")

    async def of_awaited(one, decode):
        client = awaited(one, decode_responses=decode)
        found = await AsyncLedger.on_redis(client).warnings(retention=7 * 86_400)
        await client.aclose()
        return found

    for one, count in ((server, 3), (replica, 3)):
        expected = Ledger.open(one.url).warnings(retention=7 * 86_400)
        assert len(expected) == count
        assert Ledger.on_redis(raw(one)).warnings(retention=7 * 86_400) == expected
        assert Ledger.on_redis(raw(one, decode_responses=True)).warnings(retention=7 * 86_400) == expected
        assert asyncio.run(AsyncLedger.on_redis(raw(one)).warnings(retention=7 * 86_400)) == expected
        for decode in (False, True):
            assert asyncio.run(of_awaited(one, decode)) == expected


def test_a_client_that_cannot_be_asked_says_so(server):
    class NoInfo:
        def __init__(self):
            self._client = RedisPyClient(raw(server))

        def __getattr__(self, name):
            if name == "info":
                raise AttributeError(name)
            return getattr(self._client, name)

    assert Ledger.on_redis(NoInfo()).warnings() == [CANNOT_ASK]
    assert asyncio.run(AsyncLedger.on_redis(AsyncProtocol(awaited(server))).warnings()) == [CANNOT_ASK]


# --- fences


def test_a_fence_outlives_the_key_and_is_shared_by_all_clients(server):
    from redis.crc import key_slot

    async def of_awaited(key):
        client = awaited(server)
        found = (await AsyncLedger.on_redis(client, fence=True).claim(key, 10)).fence
        await client.aclose()
        return found

    for key in ("k", "a{b}c", "{}", "x" * 5_000):
        takers = [
            lambda key: Ledger.open(f"{server.url}?fence=true").claim(key, 10).fence,
            lambda key: Ledger.on_redis(raw(server), fence=True).claim(key, 10).fence,
            lambda key: asyncio.run(of_awaited(key)),
        ]
        found = []
        with raw(server) as client:
            for _ in range(3):
                for take in takers:
                    found.append(take(key))
                    client.delete(f"headgate:v1:{key}")  # as its time to live does
            counter = redis_fence_key(f"headgate:v1:{key}")
            assert client.pttl(counter) == -1
            assert key_slot(counter.encode()) == key_slot(f"headgate:v1:{key}".encode())
        assert found == sorted(set(found))


def test_without_the_option_nothing_is_counted(server):
    ledger = Ledger.open(server.url)
    ledger.complete(ledger.claim("k"))
    with raw(server) as client:
        assert client.keys() == [b"headgate:v1:k"]


def test_foreign_keys_are_left_alone_by_every_script(server):
    with raw(server) as client:
        client.set("headgate:v1:k", "mine")
        for ledger in (
            Ledger.open(f"{server.url}?fence=true&legacy_keys=true"),
            Ledger.on_redis(raw(server), fence=True, legacy_keys=True),
        ):
            with pytest.raises(IntegrityError):
                ledger.claim("k")
            with pytest.raises(IntegrityError):
                ledger.claim("new", legacy_key="k")
            assert client.get("headgate:v1:k") == b"mine"
            assert client.exists("headgate:v1:new") == 0


# --- legacy keys


def test_a_pair_is_one_round_trip(server):
    ledger = Ledger.open(f"{server.url}?legacy_keys=true")
    assert ledger.legacy_until == float("inf")
    ledger.claim("warm up", legacy_key="loads the script")
    with raw(server) as client:
        client.config_resetstat()
        claim = ledger.claim("new", legacy_key="old")
        stats = client.info("commandstats")
        assert stats["cmdstat_evalsha"]["calls"] == 1
        assert sorted(client.keys("headgate:v1:[no]*")) == [b"headgate:v1:new", b"headgate:v1:old"]
    assert claim.legacy[0] == "old"


# --- large results


def test_a_result_larger_than_the_server_takes_completes_without_it(start):
    server = start(lambda: RedisServer(options=("--proto-max-bulk-len", "1mb")))
    large = "x" * 3_000_000
    ledgers = [Ledger.open(f"{server.url}?reconnect=0.05"), Ledger.on_redis(raw(server))]
    for i, ledger in enumerate(ledgers):
        assert ledger.complete(ledger.claim(f"k{i}"), large) is False
        assert (ledger.claim(f"k{i}").status, ledger.claim(f"k{i}").result) == ("done", None)
        claims = ledger.claim_many([f"a{i}", f"b{i}"])
        assert ledger.complete_many(claims, [large, "small"]) == [False, True]
        assert ledger.claim(f"b{i}").result == "small"


# --- fork


def test_a_redis_ledger_that_was_only_opened_works_in_the_child(server):
    ledger = Ledger.open(server.url)
    assert in_child(lambda: ledger.claim("order-1").status) == "acquired"
    assert ledger.claim("order-1").status == "in_progress"
    found = in_child(lambda: ledger.claim("k").status)
    assert found == "ForkedError: a Redis ledger was in use before fork(); open a new one in the child"
    assert in_child(lambda: Ledger.open(server.url).claim("order-1").status) == "in_progress"
    assert ledger.claim("k").status == "acquired"  # the parent goes on


def test_a_used_pool_does_not_hang_the_child(server):
    """Another thread holds a connection, or the pool's lock, at the moment of the fork."""
    from concurrent.futures import ThreadPoolExecutor

    ledger = Ledger.open(server.url)
    ledger.claim("warm up")
    with ThreadPoolExecutor(4) as threads:
        busy = [threads.submit(lambda i=i: [ledger.claim(f"{i}-{n}") for n in range(300)]) for i in range(4)]
        found = {in_child(lambda: ledger.claim("k").status)[:12] for _ in range(10)}
        assert {len(f.result()) for f in busy} == {300}
    assert found == {"ForkedError:"}


def test_redis_py_goes_on_in_the_child_by_itself(server):
    ledger = Ledger.on_redis(raw(server))
    claim = ledger.claim("k")
    assert in_child(lambda: ledger.claim("k").status) == "in_progress"
    assert in_child(lambda: ledger.complete(claim, 1)) == "True"
    assert ledger.claim("k").result == 1
    asynchronous = AsyncLedger(ledger)
    assert asyncio.run(asynchronous.claim("k")).result == 1  # its threads exist now
    assert in_child(lambda: asyncio.run(asynchronous.claim("k")).result) == "1"


def test_an_awaited_client_in_use_says_what_to_do(server):
    async def use(ledger):
        return (await ledger.claim("k")).status

    client, unused = awaited(server), awaited(server)
    ledger, other = AsyncLedger.on_redis(client), AsyncLedger.on_redis(unused)
    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(use(ledger)) == "acquired"
    assert in_child(lambda: asyncio.run(use(other))) == "in_progress"
    assert in_child(lambda: asyncio.run(use(ledger))).startswith(
        "ForkedError: this asynchronous Redis client was in use"
    )
    loop.run_until_complete(client.aclose())
    loop.close()


def test_a_cluster_ledger_connects_anew_in_the_child(start):
    from headgate.testing.servers import free_port

    node = start(lambda: RedisServer(options=("--cluster-enabled", "yes", "--cluster-port", str(free_port()))))
    with raw(node) as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
            pass
    ledger = Ledger.open(node.url.replace("redis://", "redis+cluster://"))
    assert in_child(lambda: ledger.claim("k").status) == "acquired"
    assert ledger.claim("k").status == "in_progress"
    assert in_child(lambda: ledger.claim("k").status) == "in_progress"
    assert "appendonly" in " ".join(ledger.warnings())


# --- a clock of the ledger's own


def test_a_lost_lease_stays_lost(server):
    clock = ManualClock(4_000_000_000_000_000)

    async def run():
        client = awaited(server)
        ledger = AsyncLedger.on_redis(client, clock=clock)
        claim = await ledger.claim("k", 10)
        clock.advance_us(11_000_000)
        second = await ledger.claim("k", 10)
        for call in (ledger.complete, ledger.renew, ledger.release):
            with pytest.raises(StaleLeaseError):
                await call(claim)
        assert json.loads(json.dumps(second.attempts)) == 2
        await client.aclose()

    asyncio.run(run())


def test_an_awaited_client_whose_server_is_away_is_one_clear_error():
    async def run():
        from redis.asyncio import Redis

        client = Redis(port=1)
        with pytest.raises(TransientError, match="cannot be reached"):
            await AsyncLedger.on_redis(client).claim("k")
        await client.aclose()

    asyncio.run(run())
