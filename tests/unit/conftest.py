"""The world of uploads: a file service, a batch tracker and their workers on one store."""

from __future__ import annotations

import json

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
        consumers = [self.files.consumer(max_attempts=2), *self.tracker.consumers()]
        self.groups = {c.topic: [c.name] for c in consumers}
        self.workers = [Worker(c, store, ledger, clock) for c in consumers]

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
