"""Builds the simulated processes: the product's own components on a simulated clock, network and disk."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.backends.publish import RoutedPublisher, SqsPublisher
from headgate.consume import Consumer, SqsWorker, Worker
from headgate.idempotency import Ledger, default_identity
from headgate.intake import AlertRules, Collector, Intake, Normalised, Pipeline, Reject
from headgate.items import LifeCycle
from headgate.pipelines.uploads import BatchTracker, ContentStore, FileService
from headgate.resilience import RetryBudget, RetryPolicy, make_breaker, make_tracker
from headgate.testing.simulation._broker import MAX_BYTES, FarLedger, SimTopic
from headgate.testing.simulation._network import SimAdapter
from headgate.workflow import LambdaStep, LocalRunner, Workflow, WorkflowHandler, WorkflowType

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.ports import Json
    from headgate.testing.simulation._disk import SimFiles
    from headgate.testing.simulation._world import Simulation

# Name of a simulated process -> the component that it runs.
COMPONENTS = {
    "intake": "intake", "collector": "collection", "worker-1": "queue", "worker-2": "queue", "sweeper": "healing",
    "mirror": "broker", "far-1": "broker", "far-2": "broker", "runner-1": "workflow", "runner-2": "workflow",
    "checkpoint-1": "checkpoint", "checkpoint-2": "checkpoint", "bucket-1": "bucket", "bucket-2": "bucket",
    "uploads": "uploads",
}  # fmt: skip
TOPIC = "simulated.items"
LARGE_TOPIC = "simulated.large"  # has one announcement, which is larger than the message service accepts
CHANGED = "simulated.changed"  # the type of a second event about a record, with the same key and data
# Attempts of the consumer behind the message service. Few, so that crashes and bad records make dead letters.
FAR_ATTEMPTS = 3
FEEDS = ("feed-a", "feed-b")
LEASE_S = 5.0
MAX_ATTEMPTS = 1000  # crashes count as attempts, and the simulation has many of them
LOG = "objects/log"
TABLE = "table/events.parquet"
PLAN = json.dumps({
    "format": 1, "name": "simulated", "extra": "ignore", "sort_by": "", "rules": [], "file_names": [],
    "private_groups": [], "fields": [
        {"name": "key", "required": True, "nullable": False, "type": "string"},
        {"name": "n", "required": True, "nullable": False, "type": "int64"},
    ],
})  # fmt: skip
WORKFLOW = Workflow(
    # An Express workflow would time out if its process were stopped for minutes.
    "simulated", WorkflowType.STANDARD,
    [LambdaStep("Read", "read"), LambdaStep("Double", "double"), LambdaStep("Sum", "sum")],
).to_asl()  # fmt: skip


@dataclass
class Parts:
    """The objects of a process that works on the store. A mutant replaces some of them."""

    files: SimFiles
    objects: Any
    database: LocalDatabase
    store: LocalStore
    ledger: Ledger
    intake: Intake
    worker: Worker
    collector: Collector
    publisher: Any
    mirror: SqsWorker
    far: SqsWorker
    runner: LocalRunner
    files_service: FileService
    upload_workers: list[Worker]


@dataclass
class CheckpointParts:
    """The objects of a process that only updates checkpoints."""

    files: SimFiles
    objects: Any
    transport: Any
    options: dict[str, Any] = field(default_factory=dict)


def open_store_process(world: Simulation, name: str, files: SimFiles) -> Parts:
    """A process that works on the store."""
    database = LocalDatabase(f"{name}@h.db", durability=world.durability, busy_timeout_s=0, disk=world.disk)
    for table in ("effects", "mirrored", "changes"):
        database.execute(f"CREATE TABLE IF NOT EXISTS {table} (key TEXT, at INTEGER)")
    store = LocalStore(database, world.clock, "simulated")
    objects = core.file_store("objects", files)
    ledger = _without_renewals(Ledger.on_database(database, done_ttl=1e9, clock=world.clock, random=world.tokens))
    far = _without_renewals(Ledger(FarLedger(world.far_ledger, world.network, name), world.clock, done_ttl=1e9))
    intake = Intake(pipeline(), store, objects, world.clock)
    effects = _consumer("effects", world.effect, prepare=lambda body: world.slow(name, body))
    publishers = [SqsPublisher(queue.client(world.network, name), "q", MAX_BYTES) for queue in world.queues.values()]
    alerts = SqsPublisher(world.alerts.client(world.network, name), "q", MAX_BYTES)
    return Parts(
        files, objects, database, store, ledger, intake,
        _without_renewing_thread(Worker(effects, store, ledger, world.clock, items=LifeCycle(store))),
        _collector(world, name, intake, store), RoutedPublisher(SimTopic(publishers, (TOPIC, LARGE_TOPIC)), alerts),
        SqsWorker(
            _consumer("mirror", world.mirror), ledger, world.clock,
            world.queues["mirror"].client(world.network, name), "q", concurrency=1,
        ),
        SqsWorker(
            _consumer("far", lambda body: world.far_effect(name, body), FAR_ATTEMPTS, effects="plain"), far,
            world.clock,
            world.queues["far"].client(world.network, name, world.dead), "q", dead_letter_url="dead", concurrency=1,
        ),
        LocalRunner(database, stages(world, name, objects), world.clock, lease_s=LEASE_S),
        *_uploads(world, objects, store, ledger),
    )  # fmt: skip


def open_checkpoint_process(world: Simulation, name: str, files: SimFiles) -> CheckpointParts:
    """A process that updates a checkpoint."""
    # Row groups of three rows: most updates keep some of the old table's bytes.
    options = {
        "threads": 1,
        "settle_us": 0,
        "row_group_rows": 3,
        "clock": world.clock,
        "seed": world.rng.getrandbits(32),
    }
    return CheckpointParts(files, core.file_store("objects", files), world.network.transport(name), options)


def pipeline() -> Pipeline:
    """Records are {"n": integer}; anything else is a dead letter."""

    def parse(body: bytes, raw: Any) -> list[Any]:
        return list(json.loads(body))

    def normalise(record: Any, raw: Any) -> Normalised:
        if not isinstance(record["n"], int):
            message = "n is text"
            raise Reject("not_a_number", message)
        return Normalised(f"k{record['n']}", raw.fetched_at, {"key": f"k{record['n']}", "n": record["n"]})

    return Pipeline("simulated", PLAN, parse, normalise, lambda item: {"key": item.key})


def stages(world: Simulation, name: str, objects: Any) -> dict[str, Callable[[Json], Any]]:
    """The workflow's three stages: the numbers of a raw body, doubled, summed up.

    Now and then a stage outlives its execution's lease, and the other runner takes the execution over meanwhile.
    """

    class Stage(WorkflowHandler):
        def process(self, data: Any, context: Any) -> Any:
            world.slow(name, {})
            if world.stage_fails():
                message = "the stage fails"
                raise RuntimeError(message)
            if context.currentStage == "Read":
                records = json.loads(self.objects.get(data["raw_key"]))
                return [record["n"] for record in records if isinstance(record["n"], int)]
            return [2 * n for n in data] if context.currentStage == "Double" else sum(data)

    stage = Stage(objects, world.clock)
    return {"read": stage, "double": stage, "sum": stage}


class PlainText:
    """An extractor that needs no library."""

    def extract(self, data: bytes) -> str:
        return data.decode()


def _uploads(
    world: Simulation, objects: Any, store: LocalStore, ledger: Ledger
) -> tuple[FileService, list[Worker]]:  # fmt: skip
    service = FileService(
        ContentStore(objects), store, world.clock, extractors={".txt": PlainText()}, min_length=3, max_length=100
    )
    tracker = BatchTracker(store, world.clock, ready_timeout_s=1e9)
    options: dict[str, Any] = {"lease_s": LEASE_S, "max_attempts": MAX_ATTEMPTS}
    consumers = [service.consumer(**options), *tracker.consumers(**options)]
    return service, [_without_renewing_thread(Worker(consumer, store, ledger, world.clock)) for consumer in consumers]


def _collector(world: Simulation, name: str, intake: Intake, store: LocalStore) -> Collector:
    clock = world.clock
    transport = core.call_transport(world.network.transport(name), clock)
    failover = core.Failover(
        RetryPolicy(3, 100_000, 1_000_000), 60_000_000, 2, transport, clock, world.tokens, RetryBudget()
    )
    return Collector(
        intake, [SimAdapter(feed) for feed in FEEDS], failover=failover,
        breakers={feed: make_breaker(clock) for feed in FEEDS}, alerts=AlertRules(make_tracker(clock), clock),
        store=store,
    )  # fmt: skip


def _consumer(name: str, handler: Any, max_attempts: int = MAX_ATTEMPTS, **options: Any) -> Consumer:
    return Consumer(name, TOPIC, handler, _identity, LEASE_S, max_attempts, **options)


def _identity(body: Json) -> str:
    """An announcement is known by its item, as without a key function; another event about it by the same key."""
    return str(body["key"]) if body.get("event_type") == CHANGED else default_identity(body)


def _without_renewals(ledger: Ledger) -> Ledger:
    """Turn off the renewal of claims, because the simulation has no threads."""
    ledger.renewing = lambda claim, lease: nullcontext()  # type: ignore[method-assign]
    return ledger


def _without_renewing_thread(worker: Worker) -> Worker:
    """Renew messages only between two messages, because the simulation has no threads."""
    worker._keeping = nullcontext  # type: ignore[method-assign]
    return worker
