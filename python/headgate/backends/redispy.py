"""The ledger through a Redis client written in Python: redis-py for clusters, or whatever the user's container injects.

The keys and scripts are those of the core's `redis://` ledger, so both may share one server.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import (
    AccessError,
    HeadgateError,
    IntegrityError,
    Kind,
    StaleLeaseError,
    TransientError,
    needed,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headgate.ports import Clock, Random, RedisClientProtocol

_PREFIX = "headgate:v1:"
_HEAD = re.compile(rb"([ord]) (\d+) (\d+) ([0-9a-f]+) (\d+) (\d+)\n")  # docs/formats.md
Answer = tuple[str, str, int, int, bytes, str]


class ScriptLedger:
    """A `LedgerBackend` on a `RedisClientProtocol`."""

    def __init__(self, client: RedisClientProtocol, done_ttl: float, clock: Clock, random: Random) -> None:
        self._client = client
        self._ttl_us = int(done_ttl * 1e6)
        self._clock = clock
        self._random = random
        self._scripts = {name: core.redis_script(name) for name in ("claim", "complete", "release", "renew")}

    def claim(self, keys: Sequence[str], lease_us: int, payloads: Sequence[str]) -> list[Answer]:
        texts = [*payloads, *[""] * (len(keys) - len(payloads))]
        return [self._claim(key, lease_us, payload) for key, payload in zip(keys, texts, strict=True)]

    def complete(self, keys: Sequence[str], tokens: Sequence[str], results: Sequence[str]) -> None:
        for key, token, result in zip(keys, tokens, results, strict=True):
            self._fenced("complete", key, token, result, str(self._ttl_ms(0)))

    def release(self, key: str, token: str, error: str) -> None:
        self._fenced("release", key, token, error)

    def renew(self, key: str, token: str, lease_us: int) -> int:
        until = self._clock.now_us() + lease_us
        self._fenced("renew", key, token, str(until), str(self._ttl_ms(lease_us)))
        return until

    def prune(self) -> int:
        return 0  # Redis expires keys itself

    def warnings(self) -> list[str]:
        return []

    def _ttl_ms(self, lease_us: int) -> int:
        return max(self._ttl_us, 2 * lease_us) // 1000 + 1

    def _claim(self, key: str, lease_us: int, payload: str) -> Answer:
        now = self._clock.now_us()
        token, until = self._random.token_hex(), now + lease_us
        record = f"o {until} 1 {token} {len(payload.encode())} 0\n{payload}"
        ttl = self._ttl_ms(lease_us)
        if self._client.set_if_not_exists(_PREFIX + key, record, ttl // 1000 + 1):
            return "acquired", token, until, 1, b"", ""
        found = self._client.run_script(
            self._scripts["claim"], _PREFIX + key, [token, str(until), str(now), payload, str(ttl)]
        )
        return _read(found.encode() if isinstance(found, str) else found, token, payload)

    def _fenced(self, script: str, key: str, *arguments: str) -> None:
        if self._client.run_script(self._scripts[script], _PREFIX + key, list(arguments)) != 1:
            message = "the lease was overtaken by another owner, or the key is already done"
            raise StaleLeaseError(message)


def _read(record: bytes, token: str, payload: str) -> Answer:
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
    """`RedisClientProtocol` over a connected `redis.Redis` or `RedisCluster`; errors become headgate's."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._hashes: dict[str, Any] = {}

    @classmethod
    def cluster(cls, url: str) -> RedisPyClient:
        """Connect to a cluster, from any of its nodes."""
        with needed("redis+cluster:// needs redis-py", "headgate[redis]"):
            from redis.cluster import RedisCluster
        try:
            return cls(RedisCluster.from_url(url, socket_timeout=5, socket_connect_timeout=5))
        except Exception as error:
            raise _translated(error) from None

    def set_if_not_exists(self, key: str, value: str, ttl_seconds: int) -> bool:
        return bool(self._call(self._client.set, key, value, nx=True, ex=ttl_seconds))

    def delete_key(self, key: str) -> int:
        return int(self._call(self._client.delete, key))

    def get(self, key: str) -> bytes | None:
        found = self._call(self._client.get, key)
        return found.encode() if isinstance(found, str) else found

    def setex(self, key: str, ttl_seconds: int, value: str) -> None:
        self._call(self._client.setex, key, ttl_seconds, value)

    def run_script(self, script: str, key: str, arguments: list[str]) -> Any:
        return self._call(self._client.eval, script, 1, key, *arguments)

    @staticmethod
    def _call(method: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return method(*arguments, **named)
        except Exception as error:
            raise _translated(error) from None


def _translated(error: Exception) -> HeadgateError:
    name, text = type(error).__name__, str(error)
    if name == "OutOfMemoryError" or text.startswith("OOM"):
        message = "Redis has reached its maxmemory and may evict nothing"
        return TransientError(message, Kind.BACKEND_FULL)
    if name == "ReadOnlyError" or text.startswith("READONLY"):
        message = "this Redis is a read-only replica; name the primary's address"
        return TransientError(message, Kind.READ_ONLY)
    if name in {"AuthenticationError", "NoPermissionError", "AuthorizationError"}:
        message = "Redis refused the credentials or the command"
        return AccessError(message)
    return TransientError(f"Redis cannot be reached or refused: {name}", Kind.UNAVAILABLE)
