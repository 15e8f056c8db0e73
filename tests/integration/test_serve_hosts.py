"""Two hosts serve one DynamoDB table: each run happens once, each item is there once, and either may die."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime

import boto3
import pytest

from headgate._core import SystemClock
from headgate.backends.dynamodb import create_ledger_table
from headgate.backends.dynamodb_items import DynamoStore, create_items_table
from headgate.testing.feed import Feed, WrittenData
from headgate.testing.servers import ServeProcess

pytest.importorskip("moto")
EVERY_S = 2
CONFIG = """
[backends]
objects = "file://objects"
store = "dynamodb://hosts-items?endpoint={dynamo}&region=us-east-1"
ledger = "dynamodb://hosts-ledger?endpoint={dynamo}&region=us-east-1"
notify = "sqs://{queue}?endpoint={aws}&region=us-east-1"
[sources.tiingo]
priority = 1
base_url = "{url}"
[sources.finnhub]
priority = 2
base_url = "{url}/api/v1"
[resilience]
timeout_s = 5
[collection]
tickers = ["AAPL", "MSFT"]
calendar = "always"
[consumers.copies]
topic = "market.items"
handler = "copies:copy"
key = "copies:key"
effects = "plain"
queue = "sqs://{queue}?endpoint={aws}&region=us-east-1"
[schedule]
collect_s = {every}
[logging]
level = "ERROR"
"""
HANDLERS = """
import os

def key(body):
    return body.get("key") or body["event_id"]

def copy(body):
    with open(os.environ["COPIES"], "ab", buffering=0) as out:
        out.write(key(body).encode() + b"\\n")
"""


def host(folder, config, copies):
    """One machine: a folder of its own, nothing shared but the services."""
    folder.mkdir()
    (folder / "headgate.toml").write_text(config)
    (folder / "copies.py").write_text(HANDLERS)
    keys = {"TIINGO_API_KEY": "k1", "FINNHUB_API_KEY": "k2", "COPIES": str(copies), "PYTHONPATH": str(folder)}
    return ServeProcess(folder, {**os.environ, **keys})


@pytest.fixture
def services(dynamo_server, moto_server):
    queue = boto3.Session().client("sqs", endpoint_url=moto_server).create_queue(QueueName="announcements")["QueueUrl"]
    tables = boto3.Session().client("dynamodb", endpoint_url=dynamo_server.endpoint)
    create_items_table(tables, "hosts-items")
    create_ledger_table(tables, "hosts-ledger")
    with Feed(WrittenData(datetime.now(UTC))) as feed:
        values = {
            "dynamo": dynamo_server.endpoint,
            "aws": moto_server,
            "queue": queue.removeprefix("http://"),
            "url": feed.url,
        }
        yield CONFIG.format(**values, every=EVERY_S), tables, feed
    for name in ("hosts-items", "hosts-ledger"):
        tables.delete_table(TableName=name)


def wait_for(condition, seconds=150):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def post(url):
    try:
        urllib.request.urlopen(urllib.request.Request(f"{url}/v1/content", data=b"x"), timeout=10)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["error"]


@pytest.mark.timeout(600)
def test_two_hosts_share_the_work_and_one_may_die(tmp_path, services):
    config, tables, feed = services
    copies = tmp_path / "copies.txt"
    copies.touch()
    store = DynamoStore(tables, "hosts-items", SystemClock(), "market", prefix="NEWS")
    hosts = [host(tmp_path / name, config, copies) for name in ("a", "b")]
    assert post(hosts[0].url) == (501, "uploads need a sqlite:// store, this one is elsewhere")
    wait_for(lambda: len(store.collection_events("market")) >= 3)
    hosts[0].stop(signal.SIGKILL)
    before = len(store.collection_events("market"))
    feed.wave = 2
    wait_for(lambda: len(store.collection_events("market")) >= before + 3)
    first = store.collection_events("market")
    wait_for(lambda: set(copies.read_text().split()) >= {i["key"] for i in stored(tables)})
    assert "Traceback" not in hosts[1].stop()
    events = sorted(store.collection_events("market"), key=lambda event: event["timestamp"])
    assert len(events) >= len(first) > before
    # Never two at once: half the interval lies between two starts, whoever made them; an event is a moment late.
    starts = [datetime.fromisoformat(event["timestamp"]) for event in events]
    gaps = [(b - a).total_seconds() for a, b in itertools.pairwise(starts)]
    assert min(gaps) >= EVERY_S / 4
    # What was new is new once; nothing is missing.
    keys = [item["key"] for item in stored(tables)]
    assert len(keys) == len(set(keys)) > 10
    # Without a transaction in DynamoDB, a collection that died may have left items without its event.
    assert sum(event["new_item_count"] for event in events) <= len(keys)
    lines = copies.read_text().split()
    assert len(lines) - len(set(lines)) <= 3  # one host died between an effect and its mark, at most once a thread


def stored(tables):
    pages = tables.get_paginator("scan").paginate(TableName="hosts-items")
    return [
        {"key": item["pk"]["S"].partition("#")[2]}
        for page in pages
        for item in page["Items"]
        if item["pk"]["S"].startswith("NEWS#")
    ]
