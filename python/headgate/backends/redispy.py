"""The ledger through a Redis client written in Python: redis-py for clusters, or whatever the user's container injects.

The keys and scripts are those of the core's `redis://` ledger, so both may share one server.
"""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any, cast

from headgate._forks import watch
from headgate._native import core
from headgate.errors import (
    AccessError,
    ConfigError,
    HeadgateError,
    IntegrityError,
    InvalidInputError,
    Kind,
    StaleLeaseError,
    TransientError,
    needed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from headgate.ports import Clock, Random, RedisClientProtocol

_PREFIX = "headgate:v1:"
_HEAD = re.compile(rb"([ord]) (\d+) (\d+) ([0-9a-f]+) (\d+) (\d+)\n")  # docs/formats.md
_METHODS = ("set_if_not_exists", "delete_key", "get", "setex", "run_script")  # the methods of RedisClientProtocol
Answer = tuple[Any, ...]


def is_asynchronous(client: object) -> bool:
    """Whether a client's calls have to be awaited, as those of redis.asyncio."""
    names = ("execute_command", *_METHODS)
    return any(inspect.iscoroutinefunction(getattr(client, name, None)) for name in names)


def is_redis_py(client: object) -> bool:
    """A client of redis-py, of either kind."""
    return any(kind.__module__.partition(".")[0] == "redis" for kind in type(client).__mro__)


def synchronous(client: Any) -> RedisClientProtocol:
    """The client as a `RedisClientProtocol`; a raw one of redis-py is wrapped.

    Raises:
        ConfigError: its calls have to be awaited, or it lacks the protocol's methods.
    """
    if is_asynchronous(client):
        message = f"a {type(client).__name__} that is awaited needs AsyncLedger.on_redis(), not Ledger.on_redis()"
        raise ConfigError(message)
    return cast("RedisClientProtocol", RedisPyClient(client) if is_redis_py(client) else with_protocol(client))


def with_protocol(client: Any) -> Any:
    """The client, when it has the methods of `RedisClientProtocol`.

    Raises:
        ConfigError: it lacks some.
    """
    missing = [name for name in _METHODS if not callable(getattr(client, name, None))]
    if missing:
        message = f"{type(client).__name__} is no Redis client: it lacks {', '.join(missing)} of RedisClientProtocol"
        raise ConfigError(message)
    return client


class Commands:
    """The ledger's steps as arguments of commands, for clients of both kinds.

    Args:
        done_ttl: seconds.
        fence: number every acquisition.
    """

    def __init__(self, done_ttl: float, clock: Clock, random: Random, *, fence: bool = False) -> None:
        self.ttl_us = int(done_ttl * 1e6)
        self.clock = clock
        self.random = random
        self.fence = fence
        names = ("claim", "claim_more", "complete", "release", "renew")
        self.scripts = {name: core.redis_script(name) for name in names}

    def ttl_ms(self, lease_us: int) -> int:
        return max(self.ttl_us, 2 * lease_us) // 1000 + 1

    def first(self, token: str, lease_us: int, payload: str, now: int) -> tuple[str, int]:
        """The record of a first claim, and its time to live in seconds."""
        record = f"o {now + lease_us} 1 {token} {len(payload.encode())} 0\n{payload}"
        return record, self.ttl_ms(lease_us) // 1000 + 1

    def again(self, key: str, token: str, lease_us: int, payload: str, now: int) -> tuple[str, list[str]]:
        """The script that decides about a key that is there, and its arguments."""
        arguments = [token, str(now + lease_us), str(now), payload, str(self.ttl_ms(lease_us))]
        if not self.fence:
            return self.scripts["claim"], arguments
        return self.scripts["claim_more"], [*arguments, core.redis_fence_key(_PREFIX + key)]

    def answer(self, found: Any, token: str, payload: str) -> Answer:
        """What the script said."""
        if not isinstance(found, list):
            return read_record(found, token, payload)
        read = read_record(found[0], token, payload)
        return (*read, int(found[2])) if read[0] == "acquired" else read


class ScriptLedger:
    """A `LedgerBackend` on a `RedisClientProtocol`."""

    def __init__(
        self, client: RedisClientProtocol, done_ttl: float, clock: Clock, random: Random, *, fence: bool = False
    ) -> None:
        self._client = client
        self._commands = Commands(done_ttl, clock, random, fence=fence)

    def claim(self, keys: Sequence[str], lease_us: int, payloads: Sequence[str]) -> list[Answer]:
        texts = [*payloads, *[""] * (len(keys) - len(payloads))]
        return [self._claim(key, lease_us, payload) for key, payload in zip(keys, texts, strict=True)]

    def complete(self, keys: Sequence[str], tokens: Sequence[str], results: Sequence[str]) -> None:
        overtaken: StaleLeaseError | None = None
        for key, token, result in zip(keys, tokens, results, strict=True):
            try:
                self._fenced("complete", key, token, result, str(self._commands.ttl_ms(0)))
            except StaleLeaseError as error:
                overtaken = error  # raised after the others are completed: their effects have happened
        if overtaken is not None:
            raise overtaken

    def release(self, key: str, token: str, error: str, counted: bool = True) -> None:
        self._fenced("release", key, token, error, "1" if counted else "0")

    def renew(self, key: str, token: str, lease_us: int) -> int:
        until = self._commands.clock.now_us() + lease_us
        self._fenced("renew", key, token, str(until), str(self._commands.ttl_ms(lease_us)))
        return until

    def prune(self) -> int:
        return 0  # Redis expires keys itself

    def warnings(self) -> list[str]:
        info = getattr(self._client, "info", None)
        return [CANNOT_ASK] if info is None else redis_warnings(info())

    def _claim(self, key: str, lease_us: int, payload: str) -> Answer:
        commands = self._commands
        now, token = commands.clock.now_us(), commands.random.token_hex()
        if not commands.fence:
            taken: Any = self._client.set_if_not_exists(_PREFIX + key, *commands.first(token, lease_us, payload, now))
            if taken is not True and taken is not False:
                refuse_awaitable(taken)
            if taken:
                return "acquired", token, now + lease_us, 1, b"", ""
        script, arguments = commands.again(key, token, lease_us, payload, now)
        return commands.answer(self._client.run_script(script, _PREFIX + key, arguments), token, payload)

    def _fenced(self, script: str, key: str, *arguments: str) -> None:
        if self._client.run_script(self._commands.scripts[script], _PREFIX + key, list(arguments)) != 1:
            raise stale()


CANNOT_ASK = (
    "this Redis client cannot be asked for the server's set-up (it has no info()): see to it that Redis evicts no "
    "ledger keys, is durable (appendonly yes) and is no replica"
)


def redis_warnings(info: Mapping[str, Any]) -> list[str]:
    """What INFO says that weakens the guarantees; of a cluster (node -> INFO) each sentence once."""
    if info and all(isinstance(part, dict) for part in info.values()) and "redis_version" not in info:
        return list(dict.fromkeys(text for part in info.values() for text in redis_warnings(part)))
    found = []
    policy = str(info.get("maxmemory_policy", ""))
    if policy.startswith("allkeys") and str(info.get("maxmemory", 0)) != "0":
        found.append(
            f"Redis may evict ledger keys (maxmemory-policy {policy}): an evicted done key lets its message run again; "
            "use noeviction or volatile-ttl"
        )
    if str(info.get("aof_enabled", 0)) != "1":
        found.append(
            "Redis loses its newest keys in a restart (appendonly is off): effects outside a transaction may then "
            "run again"
        )
    if info.get("role") == "slave":
        found.append("this Redis is a replica: it takes no claims")
    return found


def refuse_awaitable(answer: Any) -> None:
    """Raise when a client that was taken for synchronous gave something to await: nothing was stored."""
    if inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()
        message = "this Redis client has to be awaited: use AsyncLedger.on_redis()"
        raise ConfigError(message)


def stale() -> StaleLeaseError:
    return StaleLeaseError("the lease was overtaken by another owner, or the key is already done")


def read_record(record: bytes | str, token: str, payload: str) -> Answer:
    """A record as the answer to a claim."""
    if isinstance(record, str):
        record = record.encode()
    head = _HEAD.match(record)
    if head is None:
        message = "a ledger key in Redis holds something that is not a headgate record"
        raise IntegrityError(message)
    state, until, attempts, owner, payload_size, error_size = head.groups()
    at = head.end()
    middle, end = at + int(payload_size), at + int(payload_size) + int(error_size)
    kept, error, result = record[at:middle], record[middle:end].decode(errors="replace"), record[end:]
    if state == b"o" and owner.decode() == token:
        return "acquired", token, int(until), int(attempts), b"", error
    if kept and payload and kept != payload.encode():
        return "mismatch", "", int(until), int(attempts), b"", error
    if state == b"d":
        return "done", "", int(until), int(attempts), result, error
    return "in_progress", "", int(until), int(attempts), b"", error


class RedisPyClient:
    """`RedisClientProtocol` over a connected `redis.Redis` or `RedisCluster`; errors become headgate's.

    Args:
        client: of redis-py, not of redis.asyncio.
        connect: makes another one in a child of fork(); without it redis-py's own care for forks has to do.

    Raises:
        ConfigError: the client has to be awaited.
    """

    def __init__(self, client: Any, *, connect: Callable[[], Any] | None = None) -> None:
        if is_asynchronous(client):
            message = "RedisPyClient takes a client of redis-py, not of redis.asyncio: use AsyncLedger.on_redis()"
            raise ConfigError(message)
        self._made = client
        self._connect = connect
        if connect is not None:
            watch(self)

    @classmethod
    def cluster(cls, url: str) -> RedisPyClient:
        """Connect to a cluster, from any of its nodes. With TLS their names are checked, whatever redis-py does."""
        with needed("redis+cluster:// needs redis-py", "headgate[redis]"):
            from redis.cluster import RedisCluster

        is_checked = url.startswith("rediss://") and "ssl_check_hostname" not in url and "ssl_cert_reqs=none" not in url
        tls = {"ssl_check_hostname": True} if is_checked else {}  # before version 6 the default was not to

        def connect() -> Any:
            try:
                return RedisCluster.from_url(url, socket_timeout=5, socket_connect_timeout=5, **tls)
            except Exception as error:
                raise translated(error) from None

        return cls(connect(), connect=connect)

    def _after_fork(self) -> None:
        self._made = None

    @property
    def _client(self) -> Any:
        if self._made is None and self._connect is not None:
            self._made = self._connect()
        return self._made

    def set_if_not_exists(self, key: str, value: str, ttl_seconds: int) -> bool:
        return bool(self._call("set", key, value, nx=True, ex=ttl_seconds))

    def delete_key(self, key: str) -> int:
        return int(self._call("delete", key))

    def get(self, key: str) -> bytes | None:
        found = self._call("get", key)
        return found.encode() if isinstance(found, str) else found

    def setex(self, key: str, ttl_seconds: int, value: str) -> None:
        self._call("setex", key, ttl_seconds, value)

    def run_script(self, script: str, key: str, arguments: list[str]) -> Any:
        return self._call("eval", script, 1, key, *arguments)

    def info(self) -> dict[str, Any]:
        """Redis' INFO; of a cluster that of each primary."""
        cluster = hasattr(self._client, "get_primaries")
        return dict(self._call("info", **({"target_nodes": "primaries"} if cluster else {})))

    def _call(self, method: str, *arguments: Any, **named: Any) -> Any:
        client = self._client
        try:
            return getattr(client, method)(*arguments, **named)
        except Exception as error:
            raise translated(error) from None


def translated(error: Exception) -> HeadgateError:
    """What an error of redis-py means to a caller."""
    name, text = type(error).__name__, str(error)
    if name == "OutOfMemoryError" or text.startswith("OOM"):
        message = "Redis has reached its maxmemory and may evict nothing"
        return TransientError(message, Kind.BACKEND_FULL)
    if name == "ReadOnlyError" or text.startswith("READONLY"):
        message = "this Redis is a read-only replica; name the primary's address"
        return TransientError(message, Kind.READ_ONLY)
    if "invalid bulk length" in text:
        message = "a value is longer than this Redis takes (proto-max-bulk-len)"
        return InvalidInputError(message, Kind.MESSAGE_TOO_LARGE)
    if "not a headgate record" in text:
        message = "a ledger key in Redis holds something that is not a headgate record"
        return IntegrityError(message)
    if name in {"AuthenticationError", "NoPermissionError", "AuthorizationError"}:
        message = "Redis refused the credentials or the command"
        return AccessError(message)
    return TransientError(f"Redis cannot be reached or refused: {name}", Kind.UNAVAILABLE)
