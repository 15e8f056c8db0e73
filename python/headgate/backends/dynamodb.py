"""The ledger on DynamoDB: every step is one conditional write.

An item of the table: `pk` (`v1:` and the key; `v1#` and the key's SHA-256 when that would be longer than DynamoDB's
2,048 bytes), `state` (o, r, d: open, released, done), `token`, `until` and `expires` (microseconds), `attempts`,
`payload`, `error`, `result`, `fence`, and `ttl` (seconds, for DynamoDB's own expiry).
"""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from headgate._forks import watch
from headgate._native import core
from headgate.backends._aws_clients import connect_aws
from headgate.errors import (
    AccessError,
    ConfigError,
    ConflictError,
    ForkedError,
    HeadgateError,
    InvalidInputError,
    Kind,
    StaleLeaseError,
    TransientError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from headgate.ports import Clock, Random

_THREADS = 16
# botocore's settings. The handlers' ledger and store share a client, and each has so many threads.
_CLIENT = {
    "connect_timeout": 5, "read_timeout": 5, "retries": {"max_attempts": 3, "mode": "standard"},
    "max_pool_connections": 2 * _THREADS,
}  # fmt: skip
_MAX_WRITES = 99  # TransactWriteItems takes 100 actions; one is the completion
_BATCH_GET = 100
_TRIES = 8  # how many times the items that a batch left unprocessed are sent again
_STORAGE = "v1:"
_DIGESTED = "v1#"  # no literal key begins so
_LONGEST_KEY = 2_048  # bytes of a partition key
_LONGEST_ITEM = 400 * 1024
_COUNTERS = 64  # fences are counted in so many items, since one item takes about a thousand writes a second
_DAY_S = 86_400
_FENCE_LIFE_S = 3_600  # a number that was taken longer ago is not used any more
_NAMES = {
    "#s": "state", "#t": "token", "#u": "until", "#n": "attempts", "#p": "payload", "#r": "result", "#e": "error",
    "#x": "expires", "#l": "ttl", "#f": "fence",
}  # fmt: skip
_THROTTLED = {
    "ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded", "InternalServerError",
    "ServiceUnavailable", "TransactionConflictException", "TransactionInProgressException", "LimitExceededException",
}  # fmt: skip
Answer = tuple[Any, ...]


def create_ledger_table(client: Any, table: str) -> None:
    """Make a table for a ledger (on-demand capacity, TTL on `ttl`); for tests and first steps.

    Args:
        client: a boto3 DynamoDB client.
        table: its name.
    """
    client.create_table(
        TableName=table, BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
    )  # fmt: skip
    client.get_waiter("table_exists").wait(TableName=table, WaiterConfig={"Delay": 1})
    client.update_time_to_live(TableName=table, TimeToLiveSpecification={"Enabled": True, "AttributeName": "ttl"})


class DynamoLedger:
    """A `LedgerBackend` on one table.

    Args:
        client: a boto3 DynamoDB client.
        done_ttl: seconds.
        fence: number every acquisition, from one of 64 counters in the table (one of a key's own would stay forever).
        reconnect: makes another client in a child of fork(), which must not use the parent's connections.
    """

    def __init__(
        self,
        client: Any,
        table: str,
        done_ttl: float,
        clock: Clock,
        random: Random,
        *,
        fence: bool = False,
        reconnect: Callable[[], Any] | None = None,
    ) -> None:
        self._made = client
        self._table = table
        self._ttl_us = int(done_ttl * 1e6)
        self._clock = clock
        self._random = random
        self._fence = fence
        self._reconnect = reconnect
        self._used = False
        self._forked = False
        self._pool: ThreadPoolExecutor | None = None
        watch(self)

    @classmethod
    def open(
        cls,
        table: str,
        options: Mapping[str, str],
        done_ttl: float,
        clock: Clock,
        random: Random,
        *,
        fence: bool = False,
    ) -> DynamoLedger:
        """Connect as boto3 users expect; options: region, endpoint, profile."""
        client = connect(options)
        return cls(client, table, done_ttl, clock, random, fence=fence, reconnect=lambda: connect(options))

    def _after_fork(self) -> None:
        self._pool = None  # its threads are the parent's
        if self._reconnect is not None:
            self._made = None
        elif self._used:
            self._forked = True

    @property
    def _client(self) -> Any:
        if self._forked:
            message = (
                "this DynamoDB client was in use before fork(), and its connections are the parent's: make the ledger "
                "in the child, or open it as dynamodb://table"
            )
            raise ForkedError(message)
        self._used = True
        if self._made is None and self._reconnect is not None:
            self._made = self._reconnect()
        return self._made

    @property
    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="headgate-dynamodb")
        return self._pool

    def claim(self, keys: Sequence[str], lease_us: int, payloads: Sequence[str]) -> list[Answer]:
        texts = [*payloads, *[""] * (len(keys) - len(payloads))]
        if len(keys) == 1:
            return [self._claim(keys[0], lease_us, texts[0])]
        return list(self._threads.map(self._claim, keys, [lease_us] * len(keys), texts))

    def complete(self, keys: Sequence[str], tokens: Sequence[str], results: Sequence[str]) -> None:
        if len(keys) == 1:
            self._complete(keys[0], tokens[0], results[0])
        else:
            list(self._threads.map(self._complete, keys, tokens, results))

    def complete_with(
        self,
        key: str,
        token: str,
        result: str,
        writes: Sequence[Mapping[str, Any]],
        legacy: tuple[str, str] | None = None,
        *,
        again: bool = False,
    ) -> None:
        """The user's writes and the completion (with a legacy key: both) in one TransactWriteItems.

        `again`: another request than the one of before, which was refused: it has another ClientRequestToken.
        """
        owned = [(key, token)] if legacy is None else [(key, token), legacy]
        most = _MAX_WRITES + 1 - len(owned)
        if len(writes) > most:
            message = f"a transaction holds at most {most} writes beside the completion, not {len(writes)}"
            raise InvalidInputError(message)
        completions = [{"Update": self._completion(*pair, result)} for pair in owned]
        request = f"n{token}" if again else token
        try:
            self._client.transact_write_items(TransactItems=[*writes, *completions], ClientRequestToken=request)
        except Exception as error:
            code = _code(error)
            if code == "IdempotentParameterMismatchException" and self._completed(key, token):
                return  # the first call's answer was lost; it had gone through
            if code != "TransactionCanceledException":
                raise _translated(error) from None
            self._cancelled(error, key, token, len(writes))

    def release(self, key: str, token: str, error: str, counted: bool = True) -> None:
        values = {":r": {"S": "r"}, ":zero": {"N": "0"}}
        steps = "SET #s = :r, #u = :zero"
        if counted or error:
            steps += ", #e = :error"
            values[":error"] = {"S": error}
        if not counted:
            # The first release finds it open; a repeated one finds it released, and gives no other attempt back.
            given = self._update(
                key, f"{steps}, #n = #n - :one", "#t = :token AND #s = :o",
                {**values, ":one": {"N": "1"}, ":token": {"S": token}, ":o": {"S": "o"}},
            )  # fmt: skip
            if self._try(given)[0] is not None:
                return
        self._fenced(
            key, token, steps, "#t = :token AND #s IN (:o, :r)" if counted else "#t = :token AND #s = :r", values
        )

    def renew(self, key: str, token: str, lease_us: int) -> int:
        until = self._clock.now_us() + lease_us
        self._fenced(
            key, token, "SET #u = :until, #x = :x, #l = :l", "#t = :token AND #s = :o",
            {":until": {"N": str(until)}, **self._expiry(lease_us)},
        )  # fmt: skip
        return until

    def running(self, keys: Sequence[str]) -> set[str]:
        """Which of these keys are claimed by somebody whose lease has not ended; BatchGetItem, a hundred keys each."""
        now, found = self._clock.now_us(), set()
        for at in range(0, len(keys), _BATCH_GET):
            request: dict[str, Any] = {
                self._table: {
                    "Keys": [self._key(key) for key in keys[at : at + _BATCH_GET]], "ConsistentRead": True,
                    "ProjectionExpression": "pk, #s, #u", "ExpressionAttributeNames": {"#s": "state", "#u": "until"},
                }
            }  # fmt: skip
            for answer in until_processed(self._client.batch_get_item, request, "UnprocessedKeys"):
                for item in answer.get("Responses", {}).get(self._table, ()):
                    if _text(item, "state") == "o" and _number(item, "until") > now:
                        found.add(_text(item, "pk").removeprefix(_STORAGE))
        return found

    def prune(self) -> int:
        return 0  # DynamoDB expires items itself, by `ttl`

    def warnings(self) -> list[str]:
        try:
            found = self._client.describe_time_to_live(TableName=self._table)["TimeToLiveDescription"]
        except Exception as error:
            raise _translated(error) from None
        if found.get("TimeToLiveStatus") in {"ENABLED", "ENABLING"} and found.get("AttributeName") == "ttl":
            return []
        return [f"table {self._table} has no time to live on the attribute `ttl`: done keys stay for ever"]

    # --- parts

    def _expiry(self, lease_us: int) -> dict[str, Any]:
        at = self._clock.now_us() + max(self._ttl_us, 2 * lease_us)
        # Items outlive their logical end by a little, so that DynamoDB never expires one that still counts; with fences
        # by a day, so that no number that was taken before can come after it.
        later = _DAY_S if self._fence else 60
        return {":x": {"N": str(at)}, ":l": {"N": str(at // 1_000_000 + later)}}

    def _key(self, key: str) -> dict[str, Any]:
        return {"pk": {"S": storage_key(key)}}

    def _update(self, key: str, expression: str, condition: str, values: dict[str, Any]) -> dict[str, Any]:
        used = {name: attribute for name, attribute in _NAMES.items() if name in expression or name in condition}
        values = {name: value for name, value in values.items() if _names(name, f"{expression} {condition}")}
        return {
            "TableName": self._table, "Key": self._key(key), "UpdateExpression": expression,
            "ConditionExpression": condition, "ExpressionAttributeNames": used, "ExpressionAttributeValues": values,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }  # fmt: skip

    def _try(self, update: dict[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """(the new item, {}) or (None, the item that failed the condition)."""
        try:
            return self._client.update_item(**update, ReturnValues="ALL_NEW")["Attributes"], {}
        except Exception as error:
            if _code(error) != "ConditionalCheckFailedException":
                raise _translated(error) from None
            return None, getattr(error, "response", {}).get("Item", {})

    def claim_pair(self, key: str, legacy_key: str, lease_us: int, payload: str) -> tuple[Answer, str]:
        """Both keys or none: in one transaction when both are new, else the legacy key first, for workers of either
        version have to have that one."""
        if not self._fence:
            token, now = self._random.token_hex(), self._clock.now_us()
            updates = [
                {"Update": self._take(name, token, lease_us, payload, now, None)[0]} for name in (key, legacy_key)
            ]
            for entry in updates:
                entry["Update"]["ConditionExpression"] = "attribute_not_exists(pk)"
                entry["Update"]["ExpressionAttributeValues"] = {
                    name: value
                    for name, value in entry["Update"]["ExpressionAttributeValues"].items()
                    if _names(name, entry["Update"]["UpdateExpression"])
                }
            try:
                self._client.transact_write_items(TransactItems=updates, ClientRequestToken=f"c{token}")
            except Exception as error:
                if _code(error) != "TransactionCanceledException":
                    raise _translated(error) from None
            else:
                return ("acquired", token, now + lease_us, 1, b"", ""), token
        legacy = self._claim(legacy_key, lease_us, payload)
        if legacy[0] != "acquired":
            return legacy, ""
        answer = self._claim(key, lease_us, payload)
        if answer[0] != "acquired":
            self.release(legacy_key, legacy[1], "", counted=False)
            return answer, ""
        attempts, error_text = max(answer[3], legacy[3]), answer[5] or legacy[5]
        return (*answer[:3], attempts, b"", error_text, *answer[6:]), legacy[1]

    def _claim(self, key: str, lease_us: int, payload: str) -> Answer:
        token = self._random.token_hex()
        while True:
            started = self._age()
            number = self._next_number(key) if self._fence else None
            answer = self._claim_with(key, lease_us, payload, token, number)
            if number is None or answer[0] != "acquired":
                if answer[0] == "behind":
                    continue  # another owner took a later number first
                return answer
            if self._age() - started <= _FENCE_LIFE_S:
                return (*answer, number)
            # This machine slept in between: by now the item of a later owner may have come and gone.
            self.release(key, token, "", counted=False)
            token = self._random.token_hex()

    @staticmethod
    def _age() -> float:
        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

    def _next_number(self, key: str) -> int:
        counter = f"fence:{int(core.sha256_hex(key.encode())[:8], 16) % _COUNTERS}"
        try:
            found = self._client.update_item(
                TableName=self._table, Key={"pk": {"S": counter}}, UpdateExpression="ADD #f :one",
                ExpressionAttributeNames={"#f": "fence"}, ExpressionAttributeValues={":one": {"N": "1"}},
                ReturnValues="UPDATED_NEW",
            )  # fmt: skip
        except Exception as error:
            raise _translated(error) from None
        return _number(found["Attributes"], "fence")

    def _take(
        self, key: str, token: str, lease_us: int, payload: str, now: int, number: int | None
    ) -> tuple[dict[str, Any], dict[str, Any], str]:
        """The update that claims a key that is free, its values, and its assignments."""
        values = {
            ":o": {"S": "o"}, ":r": {"S": "r"}, ":token": {"S": token}, ":until": {"N": str(now + lease_us)},
            ":now": {"N": str(now)}, ":p": {"S": payload}, ":zero": {"N": "0"}, ":one": {"N": "1"}, ":none": {"S": ""},
            **self._expiry(lease_us),
        }  # fmt: skip
        take = "SET #s = :o, #t = :token, #u = :until, #p = :p, #x = :x, #l = :l"
        free = "(attribute_not_exists(pk) OR (#s IN (:o, :r) AND #u <= :now))"
        if payload:
            free += " AND (attribute_not_exists(#p) OR #p = :none OR #p = :p)"
        if number is not None:
            take += ", #f = :f"
            free += f" AND {_LATER}"
            values[":f"] = {"N": str(number)}
        return self._update(key, f"{take}, #n = if_not_exists(#n, :zero) + :one", free, values), values, take

    def _claim_with(self, key: str, lease_us: int, payload: str, token: str, number: int | None) -> Answer:
        now = self._clock.now_us()
        update, values, take = self._take(key, token, lease_us, payload, now, number)
        new, old = self._try(update)
        if new is None and _text(old, "state") == "d" and _number(old, "expires") <= now:
            # A done key past its time: as if it were new.
            values |= {":d": {"S": "d"}, ":old": {"N": str(_number(old, "expires"))}}
            still = "#s = :d AND #x = :old" + (f" AND {_LATER}" if number is not None else "")
            new, old = self._try(self._update(key, f"{take}, #n = :one REMOVE #e, #r", still, values))
        if new is not None:
            return "acquired", token, now + lease_us, _number(new, "attempts"), b"", _text(new, "error")
        answer = _read(old, token, payload)
        if number is not None and answer[0] == "in_progress" and answer[2] <= now:
            return ("behind",)
        if number is not None and answer[0] == "done" and _number(old, "expires") <= now:
            return ("behind",)
        return answer

    def _completion(self, key: str, token: str, result: str) -> dict[str, Any]:
        if len(result) > _LONGEST_ITEM:
            raise _too_large()
        return self._update(
            key, "SET #s = :d, #r = :result, #x = :x, #l = :l", "#t = :token AND #s = :o",
            {":d": {"S": "d"}, ":o": {"S": "o"}, ":token": {"S": token}, ":result": {"S": result}, **self._expiry(0)},
        )  # fmt: skip

    def _complete(self, key: str, token: str, result: str) -> None:
        new, old = self._try(self._completion(key, token, result))
        if new is None and (_text(old, "token") != token or _text(old, "state") != "d"):
            raise _stale()

    def _fenced(self, key: str, token: str, expression: str, condition: str, values: dict[str, Any]) -> None:
        values = {":token": {"S": token}, ":o": {"S": "o"}, **values}
        new, _ = self._try(self._update(key, expression, condition, values))
        if new is None:
            raise _stale()

    def _completed(self, key: str, token: str) -> bool:
        try:
            item = self._client.get_item(TableName=self._table, Key=self._key(key), ConsistentRead=True).get("Item", {})
        except Exception as error:
            raise _translated(error) from None
        return _text(item, "state") == "d" and _text(item, "token") == token

    def _cancelled(self, error: Exception, key: str, token: str, count: int) -> None:
        given = getattr(error, "response", {}).get("CancellationReasons", [])
        reasons = [r.get("Code", "None") for r in given]
        if any(r.get("Code") == "ValidationError" and "size" in r.get("Message", "") for r in given[count:]):
            raise _too_large()
        if "ConditionalCheckFailed" in reasons[count:]:
            if self._completed(key, token):
                return
            raise _stale()
        if any(code in {"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"} for code in reasons):
            message = "the transaction met another one; try again"
            raise TransientError(message, Kind.BUSY)
        if "ConditionalCheckFailed" in reasons:
            message = f"the condition of write {reasons.index('ConditionalCheckFailed')} failed; nothing was written"
            raise ConflictError(message)
        message = f"DynamoDB refused the transaction: {', '.join(sorted(set(reasons) - {'None'}))}"
        raise InvalidInputError(message)


def storage_key(key: str) -> str:
    """The partition key of a claim key. Keys that DynamoDB would find too long are known by their digest, which no
    other key can be stored as.

    Example:
        >>> storage_key("order-1"), storage_key("x" * 3000)[:8]
        ('v1:order-1', 'v1#e1630')
    """
    stored = _STORAGE + key
    if len(stored.encode()) <= _LONGEST_KEY:
        return stored
    return _DIGESTED + core.sha256_hex(key.encode())


_LATER = "(attribute_not_exists(#f) OR #f < :f)"


def _names(value: str, expression: str) -> bool:
    """Whether an expression has the value's name (one name may begin another)."""
    return re.search(rf"{value}\b", expression) is not None


def _too_large() -> InvalidInputError:
    message = "the item is larger than the 400 KB that DynamoDB takes"
    return InvalidInputError(message, Kind.MESSAGE_TOO_LARGE)


def connect(options: Mapping[str, str]) -> Any:
    """A DynamoDB client as boto3 users expect; options: region, endpoint, profile.

    Raises:
        ConfigError: boto3 is missing, or no region or credentials are to be found.
    """
    try:
        return connect_aws("dynamodb", options, _CLIENT).client
    except HeadgateError:
        raise
    except Exception as error:
        raise _translated(error) from None


def _text(item: Mapping[str, Any], name: str) -> str:
    return str(item.get(name, {}).get("S", ""))


def _number(item: Mapping[str, Any], name: str) -> int:
    return int(item.get(name, {}).get("N", 0))


def _read(item: Mapping[str, Any], token: str, payload: str) -> Answer:
    state, until, attempts = _text(item, "state"), _number(item, "until"), _number(item, "attempts")
    error, kept = _text(item, "error"), _text(item, "payload")
    if state == "o" and _text(item, "token") == token:
        return "acquired", token, until, attempts, b"", error  # our own: the first answer was lost
    if kept and payload and kept != payload:
        return "mismatch", "", until, attempts, b"", error
    if state == "d":
        return "done", "", until, attempts, _text(item, "result").encode(), error
    return "in_progress", "", until, attempts, b"", error


def _stale() -> StaleLeaseError:
    return StaleLeaseError("the lease was overtaken by another owner, or the key is already done")


def _code(error: Exception) -> str:
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def until_processed(call: Callable[..., Any], request: dict[str, Any], left: str) -> Iterator[dict[str, Any]]:
    """The answers of a batch call, which is made again, a little later each time, for what the service left over.

    Args:
        call: `batch_get_item` or `batch_write_item` of a client.
        request: its `RequestItems`.
        left: the answer's member with what is left: "UnprocessedKeys" or "UnprocessedItems".

    Raises:
        TransientError: kind busy; something was left each time.
    """
    for attempt in range(_TRIES):
        try:
            answer = call(RequestItems=request)
        except Exception as error:
            raise _translated(error) from None
        yield answer
        request = answer.get(left) or {}
        if not request:
            return
        time.sleep(min(1.0, 0.05 * 2**attempt))
    message = f"DynamoDB left {sum(map(len, request.values()))} requests unprocessed"
    raise TransientError(message, Kind.BUSY)


def _translated(error: Exception) -> HeadgateError:
    if isinstance(error, HeadgateError):
        return error
    code = _code(error)
    if code == "ResourceNotFoundException":
        message = "there is no such DynamoDB table in this region and account"
        return ConfigError(message)
    if code in {"AccessDeniedException", "UnrecognizedClientException", "ExpiredTokenException"}:
        return AccessError(f"DynamoDB refused the credentials ({code})")
    if code == "ValidationException" and "size" in str(error) and "exceeded" in str(error):
        return _too_large()
    if code in {
        "ValidationException",
        "IdempotentParameterMismatchException",
        "ItemCollectionSizeLimitExceededException",
    }:
        return InvalidInputError(f"DynamoDB refused the request ({code})")
    if type(error).__name__ in {"NoRegionError", "ProfileNotFound", "NoCredentialsError", "PartialCredentialsError"}:
        return ConfigError(f"dynamodb://: {error}")
    if code in _THROTTLED:
        return TransientError(f"DynamoDB is busy ({code})", Kind.BUSY)
    return TransientError(f"DynamoDB cannot be reached or refused: {code or type(error).__name__}", Kind.UNAVAILABLE)
