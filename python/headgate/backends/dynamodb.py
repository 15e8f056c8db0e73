"""The ledger on DynamoDB: every step is one conditional write.

An item of the table: `pk` (`v1:` and the key), `state` (o, r, d: open, released, done), `token`, `until` and `expires`
(microseconds), `attempts`, `payload`, `error`, `result`, and `ttl` (seconds, for DynamoDB's own expiry).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from headgate.errors import (
    AccessError,
    ConfigError,
    ConflictError,
    HeadgateError,
    InvalidInputError,
    Kind,
    StaleLeaseError,
    TransientError,
    needed,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headgate.ports import Clock, Random

_THREADS = 16
_MAX_WRITES = 99  # TransactWriteItems takes 100 actions; one is the completion
_BATCH_GET = 100
_TRIES = 8  # of what a batch left unprocessed
_STORAGE = "v1:"
_NAMES = {
    "#s": "state", "#t": "token", "#u": "until", "#n": "attempts", "#p": "payload", "#r": "result", "#e": "error",
    "#x": "expires", "#l": "ttl",
}  # fmt: skip
_THROTTLED = {
    "ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded", "InternalServerError",
    "ServiceUnavailable", "TransactionConflictException", "TransactionInProgressException", "LimitExceededException",
}  # fmt: skip
Answer = tuple[str, str, int, int, bytes, str]


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
    """A `LedgerBackend` on one table."""

    def __init__(self, client: Any, table: str, done_ttl: float, clock: Clock, random: Random) -> None:
        self._client = client
        self._table = table
        self._ttl_us = int(done_ttl * 1e6)
        self._clock = clock
        self._random = random
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="headgate-dynamodb")

    @classmethod
    def open(
        cls, table: str, options: Mapping[str, str], done_ttl: float, clock: Clock, random: Random
    ) -> DynamoLedger:
        """Connect as boto3 users expect; options: region, endpoint, profile."""
        return cls(connect(options), table, done_ttl, clock, random)

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

    def complete_with(self, key: str, token: str, result: str, writes: Sequence[Mapping[str, Any]]) -> None:
        """The user's writes and the completion in one TransactWriteItems."""
        if len(writes) > _MAX_WRITES:
            message = f"a transaction holds at most {_MAX_WRITES} writes beside the completion, not {len(writes)}"
            raise InvalidInputError(message)
        completion = {"Update": self._completion(key, token, result)}
        try:
            self._client.transact_write_items(TransactItems=[*writes, completion], ClientRequestToken=token)
        except Exception as error:
            code = _code(error)
            if code == "IdempotentParameterMismatchException" and self._completed(key, token):
                return  # the first call's answer was lost; it had gone through
            if code != "TransactionCanceledException":
                raise _translated(error) from None
            self._cancelled(error, key, token, len(writes))

    def release(self, key: str, token: str, error: str) -> None:
        self._fenced(
            key, token, "SET #s = :r, #u = :zero, #e = :error", "#t = :token AND #s IN (:o, :r)",
            {":r": {"S": "r"}, ":zero": {"N": "0"}, ":error": {"S": error}},
        )  # fmt: skip

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
            for _ in range(_TRIES):
                try:
                    answer = self._client.batch_get_item(RequestItems=request)
                except Exception as error:
                    raise _translated(error) from None
                for item in answer.get("Responses", {}).get(self._table, ()):
                    if _text(item, "state") == "o" and _number(item, "until") > now:
                        found.add(_text(item, "pk").removeprefix(_STORAGE))
                request = answer.get("UnprocessedKeys") or {}
                if not request:
                    break
            else:
                message = "DynamoDB left keys unprocessed"
                raise TransientError(message, Kind.BUSY)
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
        # Items outlive their logical end by a little, so that DynamoDB never expires one that still counts.
        return {":x": {"N": str(at)}, ":l": {"N": str(at // 1_000_000 + 60)}}

    def _key(self, key: str) -> dict[str, Any]:
        return {"pk": {"S": _STORAGE + key}}

    def _update(self, key: str, expression: str, condition: str, values: dict[str, Any]) -> dict[str, Any]:
        used = {name: attribute for name, attribute in _NAMES.items() if name in expression or name in condition}
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

    def _claim(self, key: str, lease_us: int, payload: str) -> Answer:
        now = self._clock.now_us()
        token, until = self._random.token_hex(), now + lease_us
        values = {
            ":o": {"S": "o"}, ":r": {"S": "r"}, ":token": {"S": token}, ":until": {"N": str(until)},
            ":now": {"N": str(now)}, ":p": {"S": payload}, ":zero": {"N": "0"}, ":one": {"N": "1"},
            **self._expiry(lease_us),
        }  # fmt: skip
        take = "SET #s = :o, #t = :token, #u = :until, #p = :p, #x = :x, #l = :l"
        free = "(attribute_not_exists(pk) OR (#s IN (:o, :r) AND #u <= :now))"
        if payload:
            free += " AND (attribute_not_exists(#p) OR #p = :none OR #p = :p)"
            values[":none"] = {"S": ""}
        new, old = self._try(self._update(key, f"{take}, #n = if_not_exists(#n, :zero) + :one", free, values))
        if new is None and _text(old, "state") == "d" and _number(old, "expires") <= now:
            # A done key past its time: as if it were new.
            again = {k: v for k, v in values.items() if k not in {":r", ":zero", ":now", ":none"}}
            again |= {":d": {"S": "d"}, ":old": {"N": str(_number(old, "expires"))}}
            new, old = self._try(self._update(key, f"{take}, #n = :one REMOVE #e, #r", "#s = :d AND #x = :old", again))
        if new is not None:
            return "acquired", token, until, _number(new, "attempts"), b"", _text(new, "error")
        return _read(old, token, payload)

    def _completion(self, key: str, token: str, result: str) -> dict[str, Any]:
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
        reasons = [r.get("Code", "None") for r in getattr(error, "response", {}).get("CancellationReasons", [])]
        if len(reasons) > count and reasons[count] == "ConditionalCheckFailed":
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


def connect(options: Mapping[str, str]) -> Any:
    """A DynamoDB client as boto3 users expect; options: region, endpoint, profile.

    Raises:
        ConfigError: boto3 is missing, or no region or credentials are to be found.
    """
    with needed("dynamodb:// needs boto3", "headgate[aws]"):
        import boto3
        from botocore.config import Config
    config = Config(
        connect_timeout=5, read_timeout=5, retries={"max_attempts": 3, "mode": "standard"},
        max_pool_connections=_THREADS,
    )  # fmt: skip
    try:
        session = boto3.Session(profile_name=options.get("profile"), region_name=options.get("region"))
        return session.client("dynamodb", endpoint_url=options.get("endpoint"), config=config)
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


def _translated(error: Exception) -> HeadgateError:
    code = _code(error)
    if code == "ResourceNotFoundException":
        message = "there is no such DynamoDB table in this region and account"
        return ConfigError(message)
    if code in {"AccessDeniedException", "UnrecognizedClientException", "ExpiredTokenException"}:
        return AccessError(f"DynamoDB refused the credentials ({code})")
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
