"""Items in a table of the deployment that this sweep was written for: keys (source_id, timestamp), index by_status.

Names of the keys come from the table's KeySchema. `by_status` is a pre-filter only: it may hold keys alone, and it is
read with eventual consistency, so that every candidate is fetched (BatchGetItem, consistent) before it is judged.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import ConfigError, HeadgateError, InvalidInputError, Kind, TransientError, needed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from headgate.ports import Json

_BATCH_GET = 100
_TRIES = 8  # how many times the items that a batch left unprocessed are requested again
_INDEX = "by_status"
_DEFAULT_KEYS = ("source_id", "timestamp")
_SPARE_US = 1_000_000


class ItemKey(tuple[str, str]):
    """A pair of partition and sort key, (source_id, timestamp), that also reads as the table's key.

    Example:
        >>> key = ItemKey("feed:1", "2025-12-19T20:14:12Z")
        >>> key["source_id"], key[1], dict(key)
        ('feed:1', '2025-12-19T20:14:12Z', {'source_id': 'feed:1', 'timestamp': '2025-12-19T20:14:12Z'})
    """

    names: tuple[str, str]

    def __new__(cls, partition: str, sort: str, names: tuple[str, str] = _DEFAULT_KEYS) -> ItemKey:
        made = super().__new__(cls, (partition, sort))
        made.names = names
        return made

    def keys(self) -> tuple[str, str]:
        """The attributes' names, so that `dict(key)` is the table's key."""
        return self.names

    def get(self, name: str, default: Any = None) -> Any:
        """The value of one of the two attributes."""
        return self[name] if name in self.names else default

    def __getitem__(self, at: Any) -> Any:
        return super().__getitem__(self.names.index(at) if isinstance(at, str) else at)


class ItemTable:
    """A boto3 Table, or a boto3 client and a table's name, as the sweep needs it."""

    def __init__(self, table: Any, name: str = "") -> None:
        if hasattr(table, "key_schema"):
            self.name, self._client, self._table = table.name, table.meta.client, table
            schema = table.key_schema
        elif hasattr(table, "describe_table") and name:
            with needed("a DynamoDB client needs boto3", "headgate[aws]"):
                from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
            self.name, self._client, self._table = name, table, None
            self._pack, self._unpack = TypeSerializer().serialize, TypeDeserializer().deserialize
            schema = self._call(table.describe_table, TableName=name)["Table"]["KeySchema"]
        else:
            message = "table: expected a boto3 Table, a boto3 DynamoDB client with table_name, or a store of headgate"
            raise ConfigError(message)
        by_type = {part["KeyType"]: part["AttributeName"] for part in schema}
        if set(by_type) != {"HASH", "RANGE"}:
            message = f"table {self.name}: expected a partition and a sort key, such as source_id and timestamp"
            raise ConfigError(message)
        self.names: tuple[str, str] = (by_type["HASH"], by_type["RANGE"])

    def pending_keys(self) -> Iterator[ItemKey]:
        """Keys of everything pending, by ascending sort key, page by page, future-dated ones among them."""
        request: Json = {
            "IndexName": _INDEX, "KeyConditionExpression": "#s = :pending",
            "ExpressionAttributeNames": {"#s": "status"},
            "ExpressionAttributeValues": self._packed({":pending": "pending"}), "ScanIndexForward": True,
        }  # fmt: skip
        query = self._client.query if self._table is None else self._table.query
        if self._table is None:
            request["TableName"] = self.name
        while True:
            answer = self._call(query, **request)
            for item in answer.get("Items", ()):
                yield self.key_of(self._unpacked(item))
            if not answer.get("LastEvaluatedKey"):
                return
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def fetch(self, keys: Sequence[Any]) -> list[Json]:
        """The items behind keys, read consistently, in the order of the keys; those that are gone are left out."""
        wanted = [self.as_key(key) for key in keys]
        found: dict[tuple[Any, ...], Json] = {}
        for at in range(0, len(wanted), _BATCH_GET):
            batch = list({tuple(k): k for k in wanted[at : at + _BATCH_GET]}.values())
            request: Json = {self.name: {"Keys": [self._packed(dict(k)) for k in batch], "ConsistentRead": True}}
            for attempt in range(_TRIES):
                answer = self._call(self._client.batch_get_item, RequestItems=request)
                for item in answer.get("Responses", {}).get(self.name, ()):
                    plain = self._unpacked(item)
                    found[tuple(self.key_of(plain))] = plain
                request = answer.get("UnprocessedKeys") or {}
                if not request:
                    break
                time.sleep(min(1.0, 0.05 * 2**attempt))
            else:
                message = f"DynamoDB left {len(request[self.name]['Keys'])} keys unprocessed"
                raise TransientError(message, Kind.BUSY)
        return [found[tuple(key)] for key in wanted if tuple(key) in found]

    def update(self, key: ItemKey, expression: str, condition: str, names: Mapping[str, str], values: Json) -> bool:
        """A conditional update; False: the condition does not hold."""
        arguments: Json = {
            "Key": self._packed(dict(key)), "UpdateExpression": expression, "ConditionExpression": condition,
            "ExpressionAttributeNames": dict(names), "ExpressionAttributeValues": self._packed(values),
        }  # fmt: skip
        if self._table is None:
            arguments["TableName"] = self.name
        method = self._client.update_item if self._table is None else self._table.update_item
        try:
            method(**arguments)
        except Exception as error:
            if error_code(error) == "ConditionalCheckFailedException":
                return False
            raise _translated(error) from None
        return True

    def key_of(self, item: Mapping[str, Any]) -> ItemKey:
        """The key of an item."""
        return ItemKey(item[self.names[0]], item[self.names[1]], self.names)

    def as_key(self, key: Any) -> ItemKey:
        """A key from a pair or a mapping.

        Raises:
            InvalidInputError: neither.
        """
        try:
            if isinstance(key, ItemKey):
                return key
            if hasattr(key, "keys"):
                return ItemKey(key[self.names[0]], key[self.names[1]], self.names)
            if isinstance(key, str | bytes):
                raise TypeError  # a text of two letters is no pair of them
            partition, sort = key
        except (KeyError, TypeError, ValueError):
            message = f"a key of table {self.name}: expected a pair ({', '.join(self.names)})"
            raise InvalidInputError(message) from None
        return ItemKey(partition, sort, self.names)

    # --- parts

    def _packed(self, doc: Json) -> Json:
        return doc if self._table is not None else {name: self._pack(value) for name, value in doc.items()}

    def _unpacked(self, doc: Json) -> Json:
        return dict(doc) if self._table is not None else {name: self._unpack(value) for name, value in doc.items()}

    @staticmethod
    def _call(method: Any, **arguments: Any) -> Any:
        try:
            return method(**arguments)
        except Exception as error:
            raise _translated(error) from None


def error_code(error: BaseException) -> str:
    """The AWS code of an error, or the name of its type."""
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code", "") if isinstance(response, dict) else ""
    return str(code) or type(error).__name__


def moved_us(item: Mapping[str, Any], sort_name: str) -> int:
    """When an item moved last: sent again, ingested, or, where nothing else is known, published.

    Raises:
        InvalidInputError: no time of it can be read.
    """
    for name in ("last_republished_at", "ingested_at", sort_name):
        found = instant_us(item.get(name))
        if found is not None:
            return found
    message = f"no time of the item can be read; expected ISO 8601 in ingested_at or {sort_name}"
    raise InvalidInputError(message, Kind.INVALID_RECORD)


def instant_us(value: Any) -> int | None:
    """Microseconds of ISO 8601 text (a time without a zone is UTC) or of epoch seconds; None: neither."""
    if isinstance(value, str):
        text = value.strip()
        for candidate in (text, f"{text}Z"):
            try:
                return int(core.parse_timestamp(candidate))
            except HeadgateError:
                continue
        return None
    if value is None or isinstance(value, bool):
        return None
    try:
        return int(value * 1_000_000)
    except (TypeError, ValueError, OverflowError):
        return None


def _translated(error: Exception) -> HeadgateError:
    if isinstance(error, HeadgateError):
        return error
    code = error_code(error)
    return TransientError(f"DynamoDB refused or cannot be reached: {code}", Kind.UNAVAILABLE)
