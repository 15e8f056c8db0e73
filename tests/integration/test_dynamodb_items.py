"""The DynamoDB item store when the service leaves requests unprocessed, loses answers, or dies half-way."""

from __future__ import annotations

import itertools
import os

import boto3
import pytest
from botocore.config import Config

from headgate._core import ManualClock
from headgate.backends._dynamodb_forms import decoded
from headgate.backends.dynamodb_items import DynamoStore, create_items_table, put_item_if_not_exists
from headgate.errors import ConfigError, TransientError
from headgate.ports import Item
from headgate.testing.proxy import FaultProxy

SECRET = {"aws_access_key_id": "local", "aws_secret_access_key": "local", "region_name": "us-east-1"}
NOW = 4_000_000_000_000_000
NUMBERS = itertools.count(1)


@pytest.fixture
def table(dynamo_server):
    name = f"flaky-items-{next(NUMBERS)}"
    client = boto3.Session().client("dynamodb", endpoint_url=dynamo_server.endpoint, **SECRET)
    create_items_table(client, name)
    return client, name


def items(n):
    return [Item(f"k{i}", "market", "feed", "2026-05-20T00:00:00Z", {"id": i}, labels=("A",)) for i in range(n)]


class Throttled:
    """Processes only some of each batch, as a busy table does."""

    def __init__(self, client, for_ever=False):
        self._client, self.for_ever, self.left = client, for_ever, 0

    def __getattr__(self, name):
        return getattr(self._client, name)

    def batch_write_item(self, **arguments):
        ((table, requests),) = arguments["RequestItems"].items()
        done, rest = requests[:7], requests[7:]
        if self.for_ever:
            done, rest = [], requests
        if done:
            self._client.batch_write_item(RequestItems={table: done})
        self.left += len(rest)
        return {"UnprocessedItems": {table: rest} if rest else {}}

    def batch_get_item(self, **arguments):
        ((table, request),) = arguments["RequestItems"].items()
        keys = request["Keys"]
        answer = self._client.batch_get_item(RequestItems={table: {**request, "Keys": keys[:30]}})
        self.left += len(keys[30:])
        return {**answer, "UnprocessedKeys": {table: {**request, "Keys": keys[30:]}} if keys[30:] else {}}


def test_what_a_batch_left_unprocessed_is_sent_again(table, monkeypatch):
    monkeypatch.setattr("headgate.backends.dynamodb.time.sleep", lambda _: None)
    client, name = table
    throttled = Throttled(client)
    store = DynamoStore(throttled, name, ManualClock(NOW), "market")
    bodies = {i.key: {} for i in items(60)}
    assert len(store.put_items(items(60), "t", bodies).new_keys) == 60
    assert throttled.left > 0
    assert len(store.latest(["A"], 100)) == 60  # no pointer was lost
    assert store.put_items(items(60), "t", bodies).duplicates == 60
    throttled.for_ever = True
    more = [Item("new", "market", "feed", "2026-05-20T00:00:00Z", {}, labels=("A",))]
    with pytest.raises(TransientError, match="unprocessed"):
        store.put_items(more, "t", {"new": {}})
    assert store.documents(["new"]) == []  # an item is never without its pointers


def test_a_lost_answer_is_no_duplicate(table, dynamo_server):
    _, name = table
    with FaultProxy(dynamo_server.port) as proxy:
        flaky = boto3.Session().client(
            "dynamodb", endpoint_url=f"http://127.0.0.1:{proxy.port}", **SECRET,
            config=Config(retries={"max_attempts": 3, "mode": "standard"}),
        )  # fmt: skip
        store = DynamoStore(flaky, name, ManualClock(NOW), "market")
        store.load_state("warm up")
        item = Item("k", "market", "feed", "2026-05-20T00:00:00Z", {"id": 1})
        proxy.lose_answers()
        assert store._put(item, "t", {}) is True  # it went through, was sent again, and found itself
        assert store._put(item, "t", {}) is False
        proxy.lose_answers()
        assert store.swap_state("s", None, {"v": 1}) is True
        assert store.swap_state("s", None, {"v": 2}) is False


def test_a_pointer_without_its_item_is_passed_over(table):
    client, name = table
    store = DynamoStore(client, name, ManualClock(NOW), "market")
    (item,) = items(1)
    store._write_all([store._pointer(item, "A")])  # and then the process died
    assert store.latest(["A"], 10) == []
    assert store.put_items([item], "t", {item.key: {}}).new_keys == (item.key,)
    assert [d["id"] for d in store.latest(["A"], 10)] == [0]


def test_a_consumer_finishes_an_item_once(table):
    client, name = table
    store = DynamoStore(client, name, ManualClock(NOW), "market")
    (item,) = items(1)
    store.put_items([item], "t", {item.key: {}})
    write = store.finishing_write(item.key, "analyzed", sentiment="positive", model_version="m1")
    client.transact_write_items(TransactItems=[write])
    assert store.status_counts() == {"analyzed": 1}
    assert store.stale_pending(NOW, 10, None) == []
    with pytest.raises(client.exceptions.TransactionCanceledException):
        client.transact_write_items(TransactItems=[write])


def test_a_table_that_is_not_there_is_named(table):
    client, _ = table
    store = DynamoStore(client, "nothing", ManualClock(NOW), "market")
    for call in (
        lambda: store.load_state("x"),
        lambda: store.put_items(items(1), "t", {"k0": {}}),
        store.status_counts,
    ):
        with pytest.raises(ConfigError, match="no such DynamoDB table"):
            call()


def test_an_item_and_an_event_have_the_attributes_of_the_specification(table):
    client, name = table
    store = DynamoStore(client, name, ManualClock(NOW), "market", prefix="NEWS")
    doc = {
        "entity_type": "NEWS_ITEM", "dedup_key": "k", "story_key": "s", "source": "tiingo", "source_id": "tiingo:1",
        "headline": "Up", "url": None, "published_at": "2026-05-20T00:00:00Z", "tickers": ["AAPL", "MSFT"],
        "sentiment": {"score": 0.5}, "raw_key": "raw/1", "attempt": 1,
    }  # fmt: skip
    body = {
        "source_id": "tiingo:1", "source_type": "tiingo", "text_for_analysis": "Up", "model_version": "v1",
        "matched_tickers": ["AAPL", "MSFT"], "timestamp": "2026-05-20T00:00:00Z", "key": "k",
    }  # fmt: skip
    store.put_items([Item("k", "market", "tiingo", "2026-05-20T00:00:00Z", doc, labels=("AAPL",))], "t", {"k": body})
    key = {"pk": {"S": "NEWS#k"}, "sk": {"S": "META"}}
    there = decoded(client.get_item(TableName=name, Key=key)["Item"])
    for field in ("entity_type", "dedup_key", "source", "source_id", "headline", "published_at", "tickers", "attempt"):
        assert there[field] == doc[field]
    for field in ("source_type", "text_for_analysis", "matched_tickers"):
        assert there[field] == body[field]
    assert (there["status"], there["republish_attempts"]) == ("pending", 0)
    assert {"ingested_at", "ttl_timestamp"} <= set(there)
    # What the analysis writes is absent until it has.
    assert not {"sentiment", "score", "model_version", "last_republished_at"} & set(there)
    event = {"event_id": "e" * 12, "source": "tiingo", "success": True, "item_count": 1, "attempts": [{"a": 1}]}
    store.add_collection_event("e" * 12, "market", NOW, event)
    at = "2096-10-02T07:06:40Z"
    found = client.get_item(TableName=name, Key={"pk": {"S": f"COLLECTION#{at[:10]}"}, "sk": {"S": f"{at}#{'e' * 8}"}})
    row = decoded(found["Item"])
    assert (row["source"], row["success"], row["item_count"], row["ttl"]) == ("tiingo", True, 1, row["ttl_timestamp"])
    store.save_state("source:tiingo", {"source_id": "tiingo"})
    assert "Item" in client.get_item(TableName=name, Key={"pk": {"S": "SOURCE#tiingo"}, "sk": {"S": "CONFIG"}})


def test_an_item_is_put_only_where_there_is_none(table, dynamo_server):
    _, name = table
    own = boto3.Session().resource("dynamodb", endpoint_url=dynamo_server.endpoint, **SECRET).Table(name)
    assert put_item_if_not_exists(own, {"pk": "a", "sk": "b", "n": 1})
    assert not put_item_if_not_exists(own, {"pk": "a", "sk": "b", "n": 2})
    assert own.get_item(Key={"pk": "a", "sk": "b"})["Item"]["n"] == 1
    with pytest.raises(ConfigError):
        put_item_if_not_exists(
            boto3.Session().resource("dynamodb", endpoint_url=dynamo_server.endpoint, **SECRET).Table("none"),
            {"pk": "a", "sk": "b"},
        )


def test_a_store_that_was_used_before_a_fork_works_in_the_child(table, dynamo_server, monkeypatch):
    for name, value in SECRET.items():
        monkeypatch.setenv({"region_name": "AWS_DEFAULT_REGION"}.get(name, name.upper()), value)
    _, name = table
    store = DynamoStore.open(name, {"endpoint": dynamo_server.endpoint}, ManualClock(NOW), "market")
    bodies = {i.key: {} for i in items(40)}
    assert len(store.put_items(items(20), "t", bodies).new_keys) == 20  # its threads and connections are in use
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if len(store.put_items(items(40), "t", bodies).new_keys) == 20 else 1)
        except BaseException:
            os._exit(9)
    assert len(store.documents([f"k{n}" for n in range(20)])) == 20  # the parent goes on meanwhile
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.put_items(items(40), "t", bodies).duplicates == 40
