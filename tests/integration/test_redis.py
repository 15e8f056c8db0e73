"""The Redis ledger against a real server that restarts, forgets, fills up, hides behind TLS or breaks connections."""

from __future__ import annotations

import socket
import socketserver
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from headgate import Ledger, StaleLeaseError
from headgate.backends.redispy import RedisPyClient
from headgate.errors import AccessError, ConfigError, HeadgateError, IntegrityError, Kind, TransientError
from headgate.testing.proxy import FaultProxy
from headgate.testing.servers import RedisServer, free_port

redis = pytest.importorskip("redis", reason="redis-py is not installed")
from redis.backoff import NoBackoff  # noqa: E402
from redis.retry import Retry  # noqa: E402


@pytest.fixture
def server(start):
    return start(RedisServer)


def raw(server, **options):
    return redis.Redis(port=server.port, **options)


def round_trip(ledger, key):
    claim = ledger.claim(key)
    assert claim.status == "acquired"
    ledger.complete(claim, key)
    assert ledger.claim(key).result == key


def test_tls_is_verified(start):
    server = start(lambda: RedisServer().with_tls())
    round_trip(Ledger.open(f"{server.tls_url}?ssl_ca_certs={server.ca_file}"), "k")
    ledger = Ledger.open(f"{server.tls_url}?ssl_ca_certs={server.ca_file}")
    claims = ledger.claim_many([f"many{i}" for i in range(2000)])  # more than one TLS record each way
    ledger.complete_many(claims, ["x" * 50] * len(claims))
    assert {c.status for c in ledger.claim_many([f"many{i}" for i in range(2000)])} == {"done"}
    with pytest.raises(AccessError, match="TLS"):
        Ledger.open(server.tls_url).claim("k")  # nobody vouches for the certificate
    with pytest.raises(AccessError, match="TLS"):  # it is for localhost
        Ledger.open(f"rediss://127.0.0.1:{server.tls_port}?ssl_ca_certs={server.ca_file}").claim("k")
    round_trip(Ledger.open(f"rediss://127.0.0.1:{server.tls_port}?ssl_cert_reqs=none"), "unverified")
    with pytest.raises(ConfigError, match="CA file"):
        Ledger.open(f"{server.tls_url}?ssl_ca_certs=/nothing").claim("k")
    with pytest.raises(HeadgateError):  # plain text to a TLS port
        Ledger.open(f"redis://localhost:{server.tls_port}?timeout=1&reconnect=0").claim("k")


@pytest.mark.parametrize(
    "url", ["redis://h?ssl=1", "redis://h?pool_size=0", "redis://h?timeout=soon", "redis://h/db", "rediss://h?ssl_cert_reqs=maybe"]
)  # fmt: skip
def test_bad_options_are_named(url):
    with pytest.raises(ConfigError, match="ledger URL"):
        Ledger.open(url)


def test_a_password_is_needed_and_never_shown(start):
    server = start(lambda: RedisServer(options=("--requirepass", "sesame-1")))
    with pytest.raises(AccessError) as caught:
        Ledger.open(f"redis://:wrong-2@127.0.0.1:{server.port}").claim("k")
    assert "wrong-2" not in str(caught.value)
    with pytest.raises(AccessError):
        Ledger.open(server.url).claim("k")
    round_trip(Ledger.open(f"redis://:sesame-1@127.0.0.1:{server.port}"), "k")
    round_trip(Ledger.open(f"redis://default:sesame-1@127.0.0.1:{server.port}/1"), "k")


def test_scripts_are_loaded_again_when_the_server_forgot_them(server):
    ledger = Ledger.open(server.url)
    claim = ledger.claim("k")
    with raw(server) as client:
        client.script_flush()
    ledger.complete(claim, 1)
    claims = ledger.claim_many(["a", "b"])
    ledger.complete_many(claims, [1, 2])
    with raw(server) as client:
        client.script_flush()
        assert client.info("commandstats").get("cmdstat_eval") is None  # by SHA, always
    assert [c.result for c in ledger.claim_many(["k", "a", "b"])] == [1, 1, 2]


def test_a_first_claim_is_one_command(server):
    ledger = Ledger.open(server.url)
    with raw(server) as client:
        client.config_resetstat()
        ledger.claim("k")
        assert client.info("commandstats")["cmdstat_set"]["calls"] == 1
        assert "cmdstat_evalsha" not in client.info("commandstats")


def test_a_restart_is_waited_for(start):
    server = start(lambda: RedisServer(persistence="always"))
    ledger = Ledger.open(f"{server.url}?reconnect=10&timeout=20")
    first = ledger.claim("k")
    server.stop()
    thread = threading.Thread(target=server.start)
    thread.start()
    ledger.complete(first, "kept")
    thread.join()
    assert ledger.claim("k").result == "kept"


def test_a_server_that_is_loading_its_data_is_waited_for(start):
    """It takes connections and answers LOADING; that failed calls at once."""
    slow = ("--key-load-delay", "100")  # microseconds a key; it looks up from its work after every 1,024
    server = start(lambda: RedisServer(persistence="always", options=slow))
    ledger = Ledger.open(f"{server.url}?reconnect=30&timeout=60")
    claims = ledger.claim_many([f"k{i}" for i in range(20_000)])
    server.restart()
    with raw(server, retry=Retry(NoBackoff(), 0)) as client, pytest.raises(redis.exceptions.BusyLoadingError):
        client.get("k")
    ledger.complete_many(claims, ["kept"] * 20_000)
    assert {ledger.claim(f"k{i}").result for i in (0, 19_999)} == {"kept"}
    server.restart()
    impatient = Ledger.open(f"{server.url}?reconnect=0")
    with pytest.raises(TransientError, match="LOADING") as caught:
        impatient.claim("k")
    assert caught.value.kind is Kind.UNAVAILABLE


def test_a_server_that_is_away_fails_at_once_after_the_first_wait(server):
    ledger = Ledger.open(f"{server.url}?reconnect=0.05")
    ledger.claim("k")
    server.stop()
    for _ in range(20):
        with pytest.raises(TransientError) as caught:
            ledger.claim("k")
        assert caught.value.kind is Kind.UNAVAILABLE
    assert "cannot be reached" in str(caught.value)
    server.start()
    again = Ledger.open(f"{server.url}?reconnect=5")
    assert again.claim("k").status == "acquired"  # nothing was on disk


def test_a_lost_answer_changes_nothing(server):
    """The command went through, its answer did not: the repeated command finds its own work."""
    with FaultProxy(server.port) as proxy:
        ledger = Ledger.open(f"redis://127.0.0.1:{proxy.port}/0")
        ledger.claim("warm up")
        proxy.lose_answers()
        claim = ledger.claim("k")
        assert (claim.status, claim.attempts) == ("acquired", 1)
        proxy.lose_answers()
        assert ledger.renew(claim, 60) > 0
        proxy.lose_answers()
        ledger.complete(claim, "once")
        assert ledger.claim("k").result == "once"
        failed = ledger.claim("f")
        proxy.lose_answers()
        ledger.release(failed, "boom")
        assert ledger.claim("f").attempts == 2
        proxy.lose_answers()
        claims = ledger.claim_many([f"batch{i}" for i in range(50)])
        assert {(c.status, c.attempts) for c in claims} == {("acquired", 1)}


def test_idle_connections_that_died_are_replaced(server):
    with FaultProxy(server.port) as proxy:
        ledger = Ledger.open(f"redis://127.0.0.1:{proxy.port}/0")
        with ThreadPoolExecutor(6) as threads:
            list(threads.map(lambda i: ledger.claim(f"a{i}"), range(60)))
        proxy.cut()
        assert {ledger.claim(f"b{i}").status for i in range(20)} == {"acquired"}


def test_the_pool_is_bounded_and_shared(server):
    ledger = Ledger.open(f"{server.url}?pool_size=2")
    with ThreadPoolExecutor(16) as threads:
        claims = list(threads.map(lambda i: ledger.claim(f"k{i}"), range(400)))
        list(threads.map(lambda c: ledger.complete(c, 1), claims))
    with raw(server) as client:
        assert client.info("clients")["connected_clients"] <= 3  # two of ours, and this one


def test_a_full_server_is_named_and_loses_nothing(server):
    ledger = Ledger.open(server.url)
    claim = ledger.claim("before")
    with raw(server) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "100kb")
        with pytest.raises(TransientError) as caught:
            ledger.claim("k")
        assert caught.value.kind is Kind.BACKEND_FULL
        with pytest.raises(TransientError) as caught:
            Ledger.on_redis(RedisPyClient(client)).claim("k")
        assert caught.value.kind is Kind.BACKEND_FULL
        client.config_set("maxmemory", "0")
    ledger.complete(claim)
    assert ledger.claim("k").status == "acquired"


def test_a_replica_takes_no_claims(start, server):
    replica = start(lambda: RedisServer(options=("--replicaof", "127.0.0.1", str(server.port))))
    with raw(replica) as client:
        ledger = Ledger.open(replica.url)
        with pytest.raises(TransientError) as caught:
            ledger.claim("k")
        assert caught.value.kind is Kind.READ_ONLY
        assert any("replica" in text for text in ledger.warnings())
        client.replicaof("NO", "ONE")
        assert ledger.claim("k").status == "acquired"


def test_warnings_name_eviction_and_loss(server):
    with raw(server) as client:
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
    texts = Ledger.open(server.url).warnings(retention=7 * 86_400)
    assert len(texts) == 3
    assert "allkeys-lru" in texts[0]
    assert "appendonly" in texts[1]
    assert "604800 s" in texts[2]
    assert "86400 s" in texts[2]


def test_a_durable_server_gives_no_warning(start):
    server = start(lambda: RedisServer(persistence="always"))
    assert Ledger.open(server.url).warnings(retention=3600) == []


def test_a_node_of_a_cluster_says_what_to_use(start):
    server = start(lambda: RedisServer(options=("--cluster-enabled", "yes", "--cluster-port", str(free_port()))))
    with raw(server) as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 100)
    with pytest.raises(HeadgateError, match=r"CLUSTERDOWN|redis\+cluster"):
        Ledger.open(server.url).claim("k")


def test_foreign_keys_are_left_alone(server):
    ledger = Ledger.open(server.url)
    with raw(server) as client:
        for value in ("1", "o 1 2", "o 1 2 abc 9 9\n", "x 1 1 ab 0 0\n"):
            client.set("headgate:v1:k", value)
            with pytest.raises(IntegrityError):
                ledger.claim("k")
            assert client.get("headgate:v1:k") == value.encode()


def test_both_clients_read_each_others_keys(server):
    native, injected = Ledger.open(server.url), Ledger.on_redis(RedisPyClient(raw(server)))
    for one, other in ((native, injected), (injected, native)):
        key = f"k{id(one)}"
        claim = one.claim(key, payload="ключ")
        assert other.claim(key).status == "in_progress"
        with pytest.raises(HeadgateError):
            other.claim(key, payload="another")
        other.release(claim, "boom\n")
        again = one.claim(key, payload="ключ")
        assert (again.attempts, again.last_error) == (2, "boom\n")
        with pytest.raises(StaleLeaseError):
            other.complete(claim)
        other.complete(again, {"é": 1})
        assert one.claim(key).result == {"é": 1}


class OlderRedis(socketserver.BaseRequestHandler):
    """Before a real server: answers `SET ... NX GET` as Redis 6 does, forwards everything else."""

    def handle(self):
        with socket.create_connection(("127.0.0.1", self.server.target)) as real:
            while block := self.request.recv(1 << 16):
                if b"NX\r\n$3\r\nGET\r\n" in block:
                    self.request.sendall(b"-ERR syntax error\r\n" * block.count(b"NX\r\n$3\r\nGET\r\n"))
                else:
                    real.sendall(block)
                    self.request.sendall(real.recv(1 << 16))


def test_an_older_server_is_served_by_the_script(server):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), OlderRedis) as older:
        older.target, older.daemon_threads = server.port, True
        threading.Thread(target=older.serve_forever, daemon=True).start()
        ledger = Ledger.open(f"redis://127.0.0.1:{older.server_address[1]}/0")
        round_trip(ledger, "k")
        ledger.release(ledger.claim("f"), "boom")
        assert [c.status for c in ledger.claim_many(["k", "f", "new"])] == ["done", "acquired", "acquired"]
        older.shutdown()
