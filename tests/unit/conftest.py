"""What several unit tests share: uploads, checkpoint targets, and a stand-in for SQS that keeps its rules."""

from __future__ import annotations

import itertools
import json
import re
import threading

import pytest

from headgate import Ledger
from headgate.consume import Worker
from headgate.ops import MemoryMetrics
from headgate.pipelines.uploads import BatchEssaysRegisteredV1, BatchTracker, ContentStore, FileService, envelope
from headgate.pipelines.uploads.contracts import REGISTERED

SECOND = 1_000_000


class UploadWorld:
    def __init__(self, objects, store, clock, content=None):
        self.store, self.clock, self.metrics = store, clock, MemoryMetrics()
        self.content = content or ContentStore(objects)
        self.files = FileService(self.content, store, clock, metrics=self.metrics)
        self.tracker = BatchTracker(store, clock, metrics=self.metrics)
        ledger = Ledger.on_database(store.db, clock=clock)
        consumers = [self.files.consumer(max_attempts=2, unavailable=()), *self.tracker.consumers()]
        self.groups = {c.topic: [c.name] for c in consumers}
        self.workers = [Worker(c, store, ledger, clock) for c in consumers]

    def settle_once(self):
        """Deliver and work once, then let half a minute pass."""
        self.store.relay_outbox(self.groups)
        for worker in self.workers:
            worker.drain()
        self.clock.advance_us(30 * SECOND)

    def settle(self):
        while True:
            moved = self.store.relay_outbox(self.groups)
            results = [worker.drain() for worker in self.workers]
            if not moved and not any(r.received for r in results):
                depth = sum(self.store.queue_depth(t, g)[0] for t, (g,) in self.groups.items())
                if depth == 0:
                    return
                self.clock.advance_us(SECOND)

    def events(self, topic):
        return [
            json.loads(b)["data"]
            for (b,) in self.store.db.execute("SELECT body FROM outbox WHERE topic = ? ORDER BY id", (topic,))
        ]

    def send(self, topic, event):
        self.store.publish(topic, "k", envelope(topic, event, "2026-05-01T00:00:00Z"))

    def register(self, batch, expected):
        self.send(REGISTERED, BatchEssaysRegisteredV1(batch_id=batch, expected_count=expected, correlation_id="corr"))


@pytest.fixture
def world(objects, store, clock):
    return UploadWorld(objects, store, clock)


# --- SQS

_ALLOWED = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")


class SqsError(Exception):
    """What boto3 raises."""

    def __init__(self, code):
        super().__init__(f"An error occurred ({code})")
        self.response = {"Error": {"Code": code}}


class StandInSqs:
    """Queues by URL, on an injected clock; a poll that finds nothing moves the clock on. Unlike moto it enforces sizes,
    attributes and the characters that SQS takes."""

    def __init__(self, clock):
        self.clock = clock
        self.queues = {}
        self.calls = []
        self.failures = []  # (method, exception) to raise next
        self.lock = threading.Lock()
        self._changed = threading.Event()
        self._ids = itertools.count(1)

    def create(self, url, *, dead=None, most=None, **attributes):
        found = {
            "MaximumMessageSize": "1048576",
            "MessageRetentionPeriod": "3600",
            "VisibilityTimeout": "30",
            **attributes,
        }
        if dead is not None:
            found["RedrivePolicy"] = json.dumps({"deadLetterTargetArn": dead, "maxReceiveCount": most})
        self.queues[url] = {"attributes": found, "messages": [], "dead": dead, "most": most, "seen": set()}
        return url

    def of(self, url):
        return self.queues[url]["messages"]

    def count(self, method):
        return sum(1 for name, _ in self.calls if name == method)

    def _enter(self, method, options):
        self.calls.append((method, options))
        if method != "receive_message":
            self._changed.set()
        for index, (name, error) in enumerate(self.failures):
            if name == method:
                del self.failures[index]
                raise error
        if options["QueueUrl"] not in self.queues:
            raise SqsError("AWS.SimpleQueueService.NonExistentQueue")
        return self.queues[options["QueueUrl"]]

    def send_message(self, **options):
        with self.lock:
            queue = self._enter("send_message", options)
            attributes = options.get("MessageAttributes", {})
            texts = [options["MessageBody"], *(v.get("StringValue", "") for v in attributes.values())]
            if not options["MessageBody"] or any(not _ALLOWED.fullmatch(text) for text in texts):
                raise SqsError("InvalidMessageContents")
            size = len(options["MessageBody"].encode())
            for name, value in attributes.items():
                content = value.get("BinaryValue") or value["StringValue"].encode()
                if not content or value["DataType"].partition(".")[0] not in {"String", "Number", "Binary"}:
                    raise SqsError("InvalidParameterValue")
                size += len(name.encode()) + len(value["DataType"].encode()) + len(content)
            if len(attributes) > 10 or size > int(queue["attributes"]["MaximumMessageSize"]):
                raise SqsError("InvalidParameterValue")
            if options["QueueUrl"].endswith(".fifo"):
                if not options.get("MessageGroupId") or not options.get("MessageDeduplicationId"):
                    raise SqsError("MissingParameter")
                if options["MessageDeduplicationId"] in queue["seen"]:
                    return
                queue["seen"].add(options["MessageDeduplicationId"])
            queue["messages"].append({
                "id": f"m{next(self._ids)}", "body": options["MessageBody"], "attributes": attributes,
                "group": options.get("MessageGroupId"), "received": 0, "visible_us": 0, "receipt": None,
                "trace": options.get("MessageSystemAttributes", {}).get("AWSTraceHeader", {}).get("StringValue"),
                "dedup": options.get("MessageDeduplicationId"),
            })  # fmt: skip

    def receive_message(self, **options):
        with self.lock:
            queue = self._enter("receive_message", options)
            found = self._take(queue, options)
        for _ in range(options["WaitTimeSeconds"]):
            # Handlers are still at work on real threads: time moves on only when none of them does anything.
            self._changed.clear()
            if found or self._changed.wait(0.02):
                break
            self.clock.sleep_us(1_000_000)
            with self.lock:
                found = self._take(queue, options)
        return {"Messages": found} if found else {}

    def _take(self, queue, options):
        now, found = self.clock.mono_us(), []
        fifo = options["QueueUrl"].endswith(".fifo")
        locked = {m["group"] for m in queue["messages"] if m["visible_us"] > now} if fifo else set()
        for message in list(queue["messages"]):
            if len(found) == options["MaxNumberOfMessages"]:
                break
            if message["visible_us"] > now or (fifo and message["group"] in locked):
                continue
            if queue["most"] is not None and message["received"] >= queue["most"]:
                queue["messages"].remove(message)
                self.queues[queue["dead"]]["messages"].append({**message, "received": 0})
                continue
            message["received"] += 1
            message["visible_us"] = now + options["VisibilityTimeout"] * 1_000_000
            message["receipt"] = f"{message['id']}/{message['received']}"
            system = {"ApproximateReceiveCount": str(message["received"])}
            system |= {"MessageGroupId": message["group"]} if message["group"] else {}
            system |= {"AWSTraceHeader": message["trace"]} if message["trace"] else {}
            found.append({
                "MessageId": message["id"], "ReceiptHandle": message["receipt"], "Body": message["body"],
                "MessageAttributes": message["attributes"], "Attributes": system,
            })  # fmt: skip
        return found

    def _find(self, queue, receipt):
        return next((m for m in queue["messages"] if m["id"] == receipt.partition("/")[0]), None)

    def delete_message(self, **options):
        with self.lock:
            queue = self._enter("delete_message", options)
            message = self._find(queue, options["ReceiptHandle"])
            if message is not None:
                queue["messages"].remove(message)

    def change_message_visibility(self, **options):
        with self.lock:
            queue = self._enter("change_message_visibility", options)
            message = self._find(queue, options["ReceiptHandle"])
            if message is None:
                raise SqsError("ReceiptHandleIsInvalid")
            message["visible_us"] = self.clock.mono_us() + options["VisibilityTimeout"] * 1_000_000

    def get_queue_attributes(self, **options):
        with self.lock:
            queue = self._enter("get_queue_attributes", options)
            hidden = sum(m["visible_us"] > self.clock.mono_us() for m in queue["messages"])
            return {
                "Attributes": {
                    **queue["attributes"],
                    "ApproximateNumberOfMessages": str(len(queue["messages"]) - hidden),
                    "ApproximateNumberOfMessagesNotVisible": str(hidden),
                }
            }

    def get_queue_url(self, **options):
        url = next((u for u in self.queues if u.endswith(f"/{options['QueueName']}")), "")
        with self.lock:
            self._enter("get_queue_url", {**options, "QueueUrl": url})
        return {"QueueUrl": url}

    def move(self, source, target):
        """As AWS's own redrive does: body and attributes as they are, a new message id."""
        for message in self.of(source):
            self.of(target).append({**message, "id": f"m{next(self._ids)}", "received": 0, "visible_us": 0})
        self.of(source).clear()


@pytest.fixture
def sqs_error():
    return SqsError


@pytest.fixture
def sqs(clock):
    return StandInSqs(clock)


@pytest.fixture
def logs(tmp_path):
    """A folder with a file that is taken and one that is refused."""
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "a.json").write_text('{"a": 1}')
    (folder / "b.json").write_text("not json")
    return folder


@pytest.fixture(params=["parquet", "delta"])
def target(request, tmp_path):
    """Where a checkpoint goes: one Parquet file, or a Delta table in a folder."""
    if request.param == "delta":
        pytest.importorskip("deltalake")
        return f"delta+file://{tmp_path}/table"
    return str(tmp_path / "events.parquet")
