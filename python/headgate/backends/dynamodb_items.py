"""Items, outbox, state and events in one DynamoDB table.

The outbox entry is part of its item (`unsent`, found by a sparse index), so that stored and announced cannot part
without a transaction. DynamoDB has no conditional batch put: items are single conditional puts, several at once.

| pk | sk | what |
| --- | --- | --- |
| `NEWS#{key}` (a pipeline's prefix) | META | an item |
| `LABEL#{pipeline}#{label}` | `{timestamp}#{key}` | a pointer to an item: an index on a list cannot be had |
| `COLLECTION#{date}` | `{iso}#{event id, 8}` | a collection event |
| `OUTBOX#{id}` | META | an announcement that belongs to no item |
| `DEAD#{pipeline}#{digest}` | stage | a dead letter |
| `STATE#{name}`, `CIRCUIT#{name}`, `SOURCE#{name}` | META, STATE, CONFIG | small documents |

Indexes: `by_status` (status_key, due) and `by_unsent` (unsent_shard, unsent), both with all attributes.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from headgate._forks import watch
from headgate._native import core
from headgate.backends._dynamodb_forms import assignments, decoded, encoded, expiry
from headgate.backends._process_client import ProcessClient
from headgate.backends.dynamodb import _code, _translated, connect, until_processed
from headgate.backends.dynamodb_healing import STATUS_KEYS, DynamoItems
from headgate.backends.dynamodb_outbox import DynamoOutbox
from headgate.backends.local import dumps
from headgate.identity import compact_json
from headgate.ports import Item, Json, Stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from headgate.ports import Clock, Metrics

_THREADS = 16
_BATCH_WRITE, _BATCH_GET = 25, 100  # DynamoDB's limits for one call
_ITEM_DAYS, _EVENT_DAYS = 30, 30
_WRITTEN_LATER = frozenset(["sentiment", "score", "model_version"])  # set by the consumer that finishes an item
_FIXED = frozenset(["timestamp", "source", "ingested_at", "key", "status", "pipeline", "entity_type"])
_ANY = ""  # the label that every item has
# `status`, `timestamp` and `source` are reserved words: every name goes through a placeholder.
_INDEXES = {"by_status": ("status_key", "due"), "by_unsent": ("unsent_shard", "unsent")}


def create_items_table(client: Any, table: str) -> None:
    """Make the table (on demand, TTL on `ttl_timestamp`); for tests and first steps.

    Args:
        client: a boto3 DynamoDB client.
        table: its name.
    """
    names = {"pk": "S", "sk": "S", "status_key": "S", "due": "N", "unsent_shard": "S", "unsent": "S"}
    client.create_table(
        TableName=table, BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": n, "AttributeType": t} for n, t in names.items()],
        KeySchema=_schema("pk", "sk"),
        GlobalSecondaryIndexes=[
            {"IndexName": name, "KeySchema": _schema(key, order), "Projection": {"ProjectionType": "ALL"}}
            for name, (key, order) in _INDEXES.items()
        ],
    )  # fmt: skip
    client.get_waiter("table_exists").wait(TableName=table)
    client.update_time_to_live(
        TableName=table, TimeToLiveSpecification={"Enabled": True, "AttributeName": "ttl_timestamp"}
    )


def put_item_if_not_exists(table: Any, item: Mapping[str, Any], key: str = "pk") -> bool:
    """Put an item into any table unless there is one with its key; for tables of one's own.

    Args:
        table: a boto3 Table.
        item: with the table's whole key.
        key: the table's partition key.

    Returns:
        False when there was one already, which stays as it is.

    Raises:
        HeadgateError: what the service said instead.
    """
    try:
        table.put_item(
            Item=dict(item), ConditionExpression="attribute_not_exists(#k)", ExpressionAttributeNames={"#k": key}
        )
    except Exception as error:
        if _code(error) != "ConditionalCheckFailedException":
            raise _translated(error) from None
        return False
    return True


def _schema(key: str, order: str) -> list[dict[str, str]]:
    return [{"AttributeName": key, "KeyType": "HASH"}, {"AttributeName": order, "KeyType": "RANGE"}]


class DynamoStore(DynamoItems, DynamoOutbox):
    """Implements ItemStore, ItemLives, StateStore, SharedStateStore and HealingTable.

    Args:
        client: a boto3 DynamoDB client; several threads use it. `open` makes one that each process has for itself.
        table: see `create_items_table`.
        clock: of everything that is stored.
        pipeline: whose items these are.
        prefix: of the items' keys.
        item_days: items expire so many days after they were stored.
    """

    atomic = False  # no transaction spans several items: what belongs together is one item

    def __init__(
        self, client: Any, table: str, clock: Clock, pipeline: str, *, prefix: str = "ITEM", item_days: int = _ITEM_DAYS
    ) -> None:
        self._client = client
        self._table = table
        self.clock = clock
        self.pipeline = pipeline
        self._prefix = prefix
        self._item_days = item_days
        self.last_delay_us = 0  # longest time from storage to arrival in the last delivery, microseconds
        self.metrics: Metrics | None = None  # counts what the outbox sets aside
        self._after_fork()
        watch(self, store=True)

    def _after_fork(self) -> None:
        """A child has none of the threads."""
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="headgate-dynamodb")

    @classmethod
    def open(
        cls, table: str, options: Mapping[str, str], clock: Clock, pipeline: str, prefix: str = "ITEM"
    ) -> DynamoStore:
        """Connect as boto3 users expect; options: region, endpoint, profile.

        Raises:
            ConfigError: boto3 is missing, or no region or credentials are to be found.
        """
        client = ProcessClient(lambda: connect(options))
        return cls(client, table, clock, pipeline, prefix=prefix)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Nothing: each write stands alone, and each can be repeated."""
        yield

    # --- items

    def put_items(self, items: Sequence[Item], topic: str, bodies: Mapping[str, Json]) -> Stored:
        first = {item.key: item for item in reversed(items)}
        known = self._known(list(first))
        fresh = [item for key, item in first.items() if key not in known]
        # Pointers first: an item is never without them, and a pointer without an item is passed over.
        self._write_all([self._pointer(item, label) for item in fresh for label in dict.fromkeys((_ANY, *item.labels))])
        added = self._threads.map(lambda item: self._put(item, topic, bodies[item.key]), fresh)
        new = {item.key for item, is_new in zip(fresh, added, strict=True) if is_new}
        order = tuple(dict.fromkeys(i.key for i in items if i.key in new))
        return Stored(order, len(items) - len(order))

    def _put(self, item: Item, topic: str, body: Json) -> bool:
        now = self.clock.now_us()
        write_id = uuid.uuid4().hex
        doc: Json = {
            **_attributes({**body, **item.doc}), **self._item_key(item.key),
            "entity_type": item.doc.get("entity_type", self._prefix), "key": item.key, "pipeline": item.pipeline,
            "source": item.source, "status": "pending", "timestamp": item.timestamp,
            "doc": item.text or dumps(item.doc), "ingested_at": core.format_timestamp(now), "republish_attempts": 0,
            "due": now, "status_key": self._status_key("pending"), "write_id": write_id, "labels": list(item.labels),
            "ttl_timestamp": expiry(now, self._item_days), **self._unsent(topic, item.key, body, now),
        }  # fmt: skip
        for name, value in (("story_key", item.story_key), ("raw_key", item.raw_key)):
            if value is not None:
                doc[name] = value
        try:
            self._client.put_item(
                TableName=self._table, Item=encoded(doc), ConditionExpression="attribute_not_exists(pk)",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )  # fmt: skip
        except Exception as error:
            if _code(error) != "ConditionalCheckFailedException":
                raise _translated(error) from None
            # The client sends again when an answer was lost: then the item that is in the way is our own.
            there = decoded(getattr(error, "response", {}).get("Item", {}))
            return bool(there.get("write_id") == write_id)
        return True

    def _known(self, keys: list[str]) -> set[str]:
        """Which are stored already: a read is cheaper than a put that fails, and needs no pointers."""
        found: set[str] = set()
        for at in range(0, len(keys), _BATCH_GET):
            request: Json = {
                self._table: {
                    "Keys": [encoded(self._item_key(k)) for k in keys[at : at + _BATCH_GET]],
                    "ProjectionExpression": "#k", "ExpressionAttributeNames": {"#k": "key"},
                }
            }  # fmt: skip
            for answer in until_processed(self._client.batch_get_item, request, "UnprocessedKeys"):
                found.update(decoded(i)["key"] for i in answer.get("Responses", {}).get(self._table, ()))
        return found

    def _pointer(self, item: Item, label: str) -> Json:
        return {
            "pk": f"LABEL#{item.pipeline}#{label}", "sk": f"{item.timestamp}#{item.key}", "key": item.key,
            "ttl_timestamp": expiry(self.clock.now_us(), self._item_days),
        }  # fmt: skip

    def _write_all(self, docs: list[Json]) -> None:
        for at in range(0, len(docs), _BATCH_WRITE):
            puts = [{"PutRequest": {"Item": encoded(doc)}} for doc in docs[at : at + _BATCH_WRITE]]
            for _ in until_processed(self._client.batch_write_item, {self._table: puts}, "UnprocessedItems"):
                pass

    def documents_by_key(self, keys: Sequence[str]) -> dict[str, Json]:
        found = zip(keys, self._threads.map(self._get_item, keys), strict=True)
        return {key: json.loads(item["doc"]) for key, item in found if item}

    def widen_item(self, key: str, topic: str, before: Json, doc: Json, labels: Sequence[str], body: Json) -> bool:
        there = self._get_item(key)
        if not there or json.loads(there["doc"]) != before:
            return False
        item = Item(key, there["pipeline"], there["source"], there["timestamp"], doc, labels=tuple(labels))
        self._write_all([self._pointer(item, label) for label in labels])
        wide = {**_attributes({**body, **doc}), "doc": dumps(doc), "labels": list(labels)}
        sets, names, values = assignments({name: value for name, value in wide.items() if name not in _FIXED})
        names["#before"], values[":before"] = "doc", there["doc"]
        if not self._update(self._item_key(key), f"SET {sets}", "#before = :before", names, values):
            return False
        if there.get("outbox_key") is not None:
            # As long as it waits: the announcement of an item is part of the item.
            names = {"#b": "announcement", "#u": "unsent"}
            values = {":b": compact_json(body), ":u": there.get("unsent", "")}
            self._update(self._item_key(key), "SET #b = :b", "#u = :u", names, values)
        return True

    def documents(self, keys: Sequence[str]) -> list[Json]:
        items = self._threads.map(self._get_item, keys)
        return [json.loads(item["doc"]) for item in items if item]

    def latest(self, labels: Sequence[str], limit: int) -> list[Json]:
        found: dict[str, str] = {}
        for label in dict.fromkeys(labels or (_ANY,)):
            answer = self._call(
                self._client.query, TableName=self._table, KeyConditionExpression="pk = :pk",
                ExpressionAttributeValues=encoded({":pk": f"LABEL#{self.pipeline}#{label}"}),
                ScanIndexForward=False, Limit=limit, ConsistentRead=True,
            )  # fmt: skip
            found |= {i["key"]: i["sk"] for i in map(decoded, answer["Items"])}
        newest = sorted(found, key=lambda key: found[key], reverse=True)[:limit]
        return self.documents(newest)

    def finishing_write(self, key: str, status: str, **values: Any) -> Json:
        """The Update of a `TransactWriteItems` that finishes a pending item; for consumers with effects = "writes".

        Args:
            key: the item's.
            status: "analyzed", or another final word.
            **values: attributes to set, for example sentiment and model_version.
        """
        doc = {"status": status, "status_key": self._status_key(status), **values}
        sets, names, given = assignments(doc)
        return {
            "Update": {
                "TableName": self._table, "Key": encoded(self._item_key(key)), "UpdateExpression": f"SET {sets}",
                "ConditionExpression": "#s = :pending", "ExpressionAttributeNames": {**names, "#s": "status"},
                "ExpressionAttributeValues": encoded({":pending": "pending", **given}),
            }
        }  # fmt: skip

    # --- events

    def add_collection_event(self, event_id: str, pipeline: str, started_us: int, doc: Json) -> None:
        at = core.format_timestamp(started_us)
        expires = expiry(started_us, _EVENT_DAYS)
        entry = {
            **_attributes(doc), "ttl": expires,
            "pk": f"COLLECTION#{at[:10]}", "sk": f"{at}#{event_id[:8]}", "event_id": event_id, "due": started_us,
            "status_key": f"{pipeline}#COLLECTION", "doc": dumps({**doc, "ttl": expires}), "ttl_timestamp": expires,
        }  # fmt: skip
        self._call(self._client.put_item, TableName=self._table, Item=encoded(entry))

    def collection_events(self, pipeline: str, last: int | None = None) -> list[Json]:
        found = self._by_status("COLLECTION", last, pipeline=pipeline, newest=True)
        return [json.loads(i["doc"]) for i in reversed(found)]

    # --- state

    def load_state(self, name: str) -> Json | None:
        answer = self._call(
            self._client.get_item, TableName=self._table, Key=encoded(_state_key(name)), ConsistentRead=True
        )
        return json.loads(decoded(answer["Item"])["doc"]) if "Item" in answer else None

    def save_state(self, name: str, doc: Json) -> None:
        self._call(self._client.put_item, TableName=self._table, Item=encoded({**_state_key(name), "doc": dumps(doc)}))

    def swap_state(self, name: str, before: Json | None, doc: Json) -> bool:
        condition: Json = {"ConditionExpression": "attribute_not_exists(pk)"}
        if before is not None:
            condition = {
                "ConditionExpression": "#d = :before", "ExpressionAttributeNames": {"#d": "doc"},
                "ExpressionAttributeValues": encoded({":before": dumps(before)}),
            }  # fmt: skip
        try:
            self._client.put_item(
                TableName=self._table, Item=encoded({**_state_key(name), "doc": dumps(doc)}), **condition
            )
        except Exception as error:
            if _code(error) != "ConditionalCheckFailedException":
                raise _translated(error) from None
            return self.load_state(name) == doc  # ours, when only the answer was lost
        return True

    # --- counts

    def status_counts(self) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for word in (*STATUS_KEYS, "analyzed"):
            for page in self._pages(word):
                counts.update(item["status"] for item in page)
        return dict(sorted(counts.items()))

    # --- parts

    def _item_key(self, key: str) -> Json:
        return {"pk": f"{self._prefix}#{key}", "sk": "META"}

    def _status_key(self, status: str) -> str:
        return f"{self.pipeline}#{status}"

    def _get_item(self, key: str) -> Json:
        answer = self._call(
            self._client.get_item, TableName=self._table, Key=encoded(self._item_key(key)), ConsistentRead=True
        )
        return decoded(answer.get("Item", {}))

    def _by_status(self, status: str, limit: int | None, *, pipeline: str = "", newest: bool = False) -> list[Json]:
        found: list[Json] = []
        for page in self._pages(status, pipeline=pipeline, newest=newest):
            found += page
            if limit is not None and len(found) >= limit:
                return found[:limit]
        return found

    def _pages(
        self, status: str, *, pipeline: str = "", until: int = 10**17, since: int = 0, newest: bool = False
    ) -> Iterator[list[Json]]:
        key = f"{pipeline or self.pipeline}#{status}"
        request: Json = {
            "TableName": self._table, "IndexName": "by_status", "ScanIndexForward": not newest,
            "KeyConditionExpression": "#k = :k AND #d BETWEEN :since AND :until",
            "ExpressionAttributeNames": {"#k": "status_key", "#d": "due"},
            "ExpressionAttributeValues": encoded({":k": key, ":since": since, ":until": until}),
        }  # fmt: skip
        while True:
            answer = self._call(self._client.query, **request)
            yield [decoded(item) for item in answer["Items"]]
            if "LastEvaluatedKey" not in answer:
                return
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def _update(self, key: Json, expression: str, condition: str, names: Json, values: Json) -> int:
        """1, or 0 when the condition does not hold."""
        try:
            self._client.update_item(
                TableName=self._table, Key=encoded(key), UpdateExpression=expression, ConditionExpression=condition,
                ExpressionAttributeNames=names, ExpressionAttributeValues=encoded(values),
            )  # fmt: skip
        except Exception as error:
            if _code(error) == "ConditionalCheckFailedException":
                return 0
            raise _translated(error) from None
        return 1

    @staticmethod
    def _call(method: Callable[..., Any], **arguments: Any) -> Any:
        try:
            return method(**arguments)
        except Exception as error:
            raise _translated(error) from None


def _attributes(doc: Json) -> Json:
    """What a document's texts, numbers and lists of texts are called in the table; its whole is in `doc`.

    What a consumer writes when it finishes an item is not among them.
    """
    return {
        name: value
        for name, value in doc.items()
        if name not in _WRITTEN_LATER
        and (
            isinstance(value, str | int | float) or (isinstance(value, list) and all(isinstance(v, str) for v in value))
        )
    }


def _state_key(name: str) -> Json:
    if name.startswith("source:"):
        return {"pk": f"SOURCE#{name.removeprefix('source:')}", "sk": "CONFIG"}
    if name.startswith("breaker:"):
        return {"pk": f"CIRCUIT#{name.removeprefix('breaker:')}", "sk": "STATE"}
    return {"pk": f"STATE#{name}", "sk": "META"}
