"""The simulated world: its processes, its faults, and who acts when."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headgate._native import core, parquet
from headgate.backends.local import LocalDatabase
from headgate.errors import DuplicateError, HeadgateError, StageFailedError, TransientError
from headgate.healing import run_self_healing_check
from headgate.pipelines.uploads import BatchEssaysRegisteredV1, UploadedFile, envelope
from headgate.pipelines.uploads.contracts import REGISTERED
from headgate.testing.simulation import _components
from headgate.testing.simulation._broker import MAX_BYTES, SimQueue
from headgate.testing.simulation._disk import SimFiles
from headgate.testing.simulation._network import SimBucket, SimFeed, SimNetwork
from headgate.testing.simulation._oracle import Oracle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headgate.ports import Json, Transaction

_START_US = 1_800_000_000_000_000
_STALE_HOURS = 0.01
_STEPS_PER_PROCESS = 12
_SETTLE_ROUNDS = 400
Handler = Callable[["Json", "Transaction"], Any]
Mutant = Callable[["Simulation", Any], None]


@dataclass
class Report:
    """What one seed did, and what it broke."""

    seed: int
    steps: int = 0
    crashes: int = 0
    power_losses: int = 0
    requests: int = 0
    lost_answers: int = 0
    accepted: int = 0
    stored: int = 0
    dead_letters: int = 0
    repeated: int = 0
    executions: int = 0
    uploads: int = 0
    checkpoint_rows: int = 0
    violations: list[str] = field(default_factory=list)
    trace: str = ""


class Simulation:
    """One simulated run of the whole system, decided by a seed.

    Args:
        seed: decides everything.
        handler: a consumer's effect (body, tx), run inside the simulated worker's transaction; default none.
        steps: actions before the faults end; default a dozen for each process.
        durability: of the store; "full" survives a loss of power.
        messages: sample bodies for the handler; the simulation adds `key`.
        mutant: breaks a part of each process, to see whether the oracle notices.
        components: which parts of the system take part, for example ("intake", "queue"). Default: all of
            `COMPONENTS`.
        rooms: the earlier name of `components`.
    """

    def __init__(
        self, seed: int, *, handler: Handler | None = None, steps: int | None = None, durability: str = "full",
        messages: Sequence[Json] = (), mutant: Mutant | None = None, components: Sequence[str] | None = None,
        rooms: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        self.report = Report(seed)
        self.rng = random.Random(seed)  # noqa: S311 - a simulation, not a secret
        if rooms is not None:
            warnings.warn("rooms= is now called components=", DeprecationWarning, stacklevel=2)
            components = rooms
        self.components = set(components or _components.COMPONENTS.values())
        self.names = [name for name, component in _components.COMPONENTS.items() if component in self.components]
        self.durability = durability
        self.clock = core.ManualClock(_START_US)
        self.tokens = core.SeededRandom(seed)
        self.disk = core.SimDisk(seed)
        self.network = SimNetwork(self.rng, self.clock, self.disk, self._meanwhile)
        # In some worlds announcements stay on the machine, in the others they go to a message service as well.
        self.has_broker = "broker" in self.components and self.rng.random() < 0.7
        self.queues = {name: SimQueue(self.rng, self.clock) for name in ("mirror", "far")}
        self.alerts = SimQueue(self.rng, self.clock)
        self.dead = SimQueue(self.rng, self.clock)  # the dead letters of the consumer far away
        self.redriven = 0
        self.changed: set[str] = set()  # records whose change was announced
        self.message_loss = 0.1  # how often an item's message is lost before its consumer looks for it
        self.unreadable: set[str] = set()  # records whose message was lost, and which no sweep can announce again
        self.has_large = self.has_broker and self.rng.random() < 0.5  # an announcement that is too large to be sent
        self.far_ledger = core.memory_ledger(1 << 60, self.clock, self.tokens)
        self.far_effects: Counter[str] = Counter()
        self.bucket = SimBucket("b", self.clock)
        self.feed: list[Json] = []
        for name in _components.FEEDS:
            self.network.add(name, SimFeed(self.feed))
        self.network.add("s3", self.bucket)
        self.accepted: list[bytes] = []
        self.written: dict[str, set[str]] = {"disk": set(), "bucket": set()}
        self.acknowledged: dict[str, set[str]] = {"disk": set(), "bucket": set()}
        self.requests = [self._request(n) for n in range(self.rng.randint(1, 4))]
        self.uploaded: list[tuple[str, list[UploadedFile]]] = []  # (batch, files) of accepted requests
        self.oracle = Oracle(self)
        self._handler = handler
        self._messages = list(messages) or [{}]
        self._steps = steps or _STEPS_PER_PROCESS * len(self.names)
        self._mutant = mutant
        self._processes: dict[str, Any] = {}
        self._lives: Counter[str] = Counter()
        self._locks: dict[str, tuple[str, int]] = {}
        self._trace = hashlib.sha256()
        self._bodies = [self._body(n) for n in range(self.rng.randint(4, 10))]
        self._calm = False
        self._calm_rounds: Counter[str] = Counter()
        self._acting: list[str] = []  # the innermost last: others act while one waits
        self._overtaken = 0
        self._scratch = ""

    def run(self) -> Report:
        """The whole run; violations are in the report."""
        self._scratch = tempfile.mkdtemp(prefix="headgate-simulation-") if "bucket" in self.components else ""
        try:
            self._run()
        finally:
            self._processes.clear()
            shutil.rmtree(self._scratch or "-", ignore_errors=True)
        self.report.requests, self.report.lost_answers = self.network.requests, self.network.lost
        self.report.trace = self._trace.hexdigest()
        return self.report

    def _run(self) -> None:
        while self.report.steps < self._steps and not self.report.violations:
            self._act(self.rng.choice(self.names))
        # The faults end: what was promised has to come true.
        self._calm = self.network.calm = True  # and the handler far away is fixed
        for name in self.names:
            self._crash(name)
        for _ in range(_SETTLE_ROUNDS):
            if self.report.violations or self._settled():
                break
            self.redriven += self.dead.move_to(self.queues["far"])
            for name in self.names:
                self._act(name)
            self.clock.advance_us(int(_components.LEASE_S * 1e6))
        if not self.report.violations:
            self.oracle.judge(final=True)
            for place in self._places():
                self.oracle.table(place, final=True)

    # --- one step

    def _act(self, name: str) -> None:
        self.report.steps += 1
        if not self._calm:
            self._fault(name)
        self._acting.append(name)
        try:
            outcome = self._attempt(name)
        finally:
            self._acting.pop()
        if self.disk.stopped(name):
            self._crash(name)
        elif self._calm and not outcome.startswith("error"):
            self._calm_rounds[name] += 1
        self._note(name, outcome)
        if _components.COMPONENTS[name] in ("checkpoint", "bucket"):
            self.oracle.table("bucket" if _components.COMPONENTS[name] == "bucket" else "disk")
        elif not self.report.violations and not self._acting:
            self.oracle.judge(final=False)

    def _attempt(self, name: str) -> str:
        try:
            parts = self._processes.get(name) or self._open(name)
            return str(getattr(self, f"_in_{_components.COMPONENTS[name]}")(name, parts))
        except HeadgateError as error:
            if error.kind.value == "corrupt_data":
                self.oracle.broken(f"{name} found corrupt data: {error}")
            return f"error {error.kind.value}"
        except Exception:
            if self.disk.stopped(name):
                return "stopped"
            raise

    def _fault(self, name: str) -> None:
        fault = self.rng.random()
        if fault < 0.20:
            self.disk.stop_after(name, self.rng.randrange(0, 40))
        elif fault < 0.26:
            self.network.stop_after(name, self.rng.randrange(1, 12))
        elif fault < 0.29 and not self._acting:
            self._lose_power()
        elif fault < 0.32:
            self._crash(name)
        if self.rng.random() < 0.3:
            self.clock.advance_us(self.rng.randrange(0, int(2 * _components.LEASE_S * 1e6)))

    def _in_intake(self, name: str, parts: Any) -> str:
        if self.has_large:
            parts.store.publish(_components.LARGE_TOPIC, "large", {"pad": "x" * 2 * MAX_BYTES})
            self.has_large = False
        if self.accepted and self.rng.random() < 0.2:
            return self._announce_change(parts)
        if not self._bodies or self.rng.random() < 0.2:
            return f"relay {self._relay(parts)}"
        # The sender keeps a body until it was taken: a crash before the answer brings it again.
        body = self._bodies[0]
        taken = parts.intake.accept("push", body)
        self.accepted.append(self._bodies.pop(0))
        if self.rng.random() < 0.2:
            self._bodies.insert(self.rng.randint(0, len(self._bodies)), body)  # and sometimes sends it again
        return f"accepted {taken.stored} {taken.duplicates} {taken.dead_letters}"

    def _announce_change(self, parts: Any) -> str:
        """A second event about a record that is stored: the same key, another type."""
        numbers = [record["n"] for record in json.loads(self.rng.choice(self.accepted))]
        for n in [n for n in numbers if isinstance(n, int)][:1]:
            parts.store.publish(_components.TOPIC, f"k{n}", {"key": f"k{n}", "event_type": _components.CHANGED})
            self.changed.add(f"k{n}")
        return "changed"

    def _in_collection(self, name: str, parts: Any) -> str:
        if not self._calm and len(self.feed) < 12:
            n = 1000 + len(self.feed)
            self.feed.append({"n": n if self.rng.random() < 0.8 else f"bad {n}"})
        taken = parts.collector.collect({}).taken
        return f"collected {taken.stored} {taken.duplicates} {taken.dead_letters}"

    def _in_healing(self, name: str, parts: Any) -> str:
        swept = run_self_healing_check(
            parts.store, None, _components.TOPIC, "v1", announce=self._announce,
            threshold_hours=_STALE_HOURS, batch_size=10, max_attempts=_components.MAX_ATTEMPTS, clock=self.clock,
            group="effects",
        )  # fmt: skip
        return f"swept {swept.items_republished}, relay {self._relay(parts)}"

    def _announce(self, item: Json) -> Json:
        if item["key"] in self.unreadable:
            message = "the item cannot be read"
            raise KeyError(message)
        return {"key": item["key"]}

    def _in_queue(self, name: str, parts: Any) -> str:
        if not self._calm and self.rng.random() < self.message_loss:
            # An item's message is lost, and only a sweep can bring its item's effect. No sweep can read some of them.
            rows = parts.database.execute(
                "SELECT id, key FROM queue WHERE topic = ? AND grp = 'effects'"
                " AND json_extract(body, '$.event_type') IS NULL ORDER BY id LIMIT 1",
                (_components.TOPIC,),
            )
            for message, key in rows:
                if _number(key) % 4 == 0:
                    self.unreadable.add(key)
                parts.database.execute("DELETE FROM queue WHERE id = ?", (message,))
        result = parts.worker.drain()
        return f"handled {result.handled} {result.duplicates} {result.waiting} {result.failed}"

    def _in_broker(self, name: str, parts: Any) -> str:
        worker = parts.mirror if name == "mirror" else parts.far
        before = worker.result.received
        worker.drain()
        return f"received {worker.result.received - before}"

    def _in_workflow(self, name: str, parts: Any) -> str:
        raw = [key for key in parts.objects.list("raw/simulated/push/") if not key.endswith(".meta.json")]
        ended = 0
        for key in raw:
            run = f"run-{key.rpartition('/')[2]}"
            known = parts.database.execute("SELECT status FROM executions WHERE id = ?", (run,))
            if known and known[0][0] != "RUNNING":
                continue
            try:
                parts.runner.start("simulated", _components.WORKFLOW, {"raw_key": key}, run)
                ended += 1
            except StageFailedError:
                ended += 1
        return f"ended {ended}"

    def _in_checkpoint(self, name: str, parts: Any) -> str:
        if not self._calm:
            key = f"e{self.rng.randrange(30)}"
            self.written["disk"].add(key)
            with contextlib.suppress(DuplicateError):
                parts.objects.put(f"log/{key}.json", _event(key), True)
            self.acknowledged["disk"].add(key)
        source = {"path": _components.LOG, "files": parts.files}
        found = parquet().update(
            source, {"path": _components.TABLE, "files": parts.files}, _components.PLAN, parts.options, None
        )
        return f"rows {found['rows_added']} {found['rows_total']}"

    def _in_bucket(self, name: str, parts: Any) -> str:
        if not self._calm:
            key = f"e{self.rng.randrange(30)}"
            self.bucket.put(f"log/{key}.json", _event(key))
            self.written["bucket"].add(key)
            self.acknowledged["bucket"].add(key)
        place = {
            "bucket": "b", "region": "r", "endpoint": "http://s3", "in_flight": 4, "ca_file": "",
            "credentials": lambda: ("a", "s", ""), "transport": parts.transport,
        }  # fmt: skip
        target = {**place, "prefix": "", "key": "table.parquet", "scratch": self._scratch}
        found = parquet().update({**place, "prefix": "log/"}, target, _components.PLAN, parts.options, None)
        return f"rows {found['rows_added']} {found['rows_total']} {found['attempts']}"

    def _in_uploads(self, name: str, parts: Any) -> str:
        handled = 0
        if self.requests and self.rng.random() < 0.5:
            batch, files = self.requests[0]
            registered = BatchEssaysRegisteredV1(batch_id=batch, expected_count=len(files))
            with parts.store.transaction():
                parts.store.publish(REGISTERED, batch, envelope(REGISTERED, registered, "2026-01-01T00:00:00Z"))
            parts.files_service.accept(batch, files, upload_id=batch)
            self.uploaded.append(self.requests.pop(0))
            if self.rng.random() < 0.3:
                self.requests.insert(self.rng.randint(0, len(self.requests)), (batch, files))  # sent again
        else:
            self._relay(parts)
            handled = sum(worker.drain().handled for worker in parts.upload_workers)
        return f"uploads {len(self.uploaded)} {handled}"

    def _relay(self, parts: Any) -> int:
        groups = {_components.TOPIC: ["effects"]}
        for worker in parts.upload_workers:
            groups[worker.consumer.topic] = [worker.consumer.name]
        if self.has_broker:
            return int(parts.store.publish_outbox(parts.publisher, groups))
        return int(parts.store.relay_outbox(groups))

    # --- what the components call

    def effect(self, body: Json, tx: Transaction) -> None:
        """The embedded queue's handler: once for each record and each kind of event, in its commit."""
        if body.get("event_type") == _components.CHANGED:
            tx.execute("INSERT INTO changes VALUES (?, ?)", (body["key"], self.clock.now_us()))
            self._maybe_fail()
            return
        if self._handler is not None:
            self._handler({**self._messages[_number(body["key"]) % len(self._messages)], **body}, tx)
        self._insert_effect(body, tx)
        self._maybe_fail()

    def _insert_effect(self, body: Json, tx: Transaction) -> None:
        tx.execute("INSERT INTO effects VALUES (?, ?)", (body["key"], self.clock.now_us()))

    def mirror(self, body: Json, tx: Transaction) -> None:
        """The message service's first handler: once, in its commit."""
        if body.get("event_type") == _components.CHANGED:
            return
        tx.execute("INSERT INTO mirrored VALUES (?, ?)", (body["key"], self.clock.now_us()))
        self._maybe_fail()

    def far_effect(self, name: str, body: Json) -> Any:
        """The second one: an effect in another system, at least once. Its process may end before it, or after it. Until
        the faults end some records are poison to it; some of its results are nothing that JSON can hold."""
        if body.get("event_type") == _components.CHANGED:
            return None
        if not self._calm and _number(body["key"]) % 7 == 0:
            message = "poison"
            raise RuntimeError(message)
        self.slow(name, body, self.rng.choice((0.0, 0.5, 2.0)))
        for after in (False, True):
            if not self._calm and self.rng.random() < 0.05:
                self.disk.kill(name)
                message = "the simulated process has stopped"
                raise TransientError(message)
            self.far_effects[body["key"]] += not after
        return object() if _number(body["key"]) % 3 == 0 else {"key": body["key"]}

    def slow(self, name: str, body: Json, leases: float = 2.0) -> Json:
        """Now and then a handler takes long, it may outlive its lease, and the others go on meanwhile."""
        if not self._calm and len(self._acting) == 1 and self.rng.random() < 0.2:
            self._overtaken += 1
            self.clock.advance_us(int(leases * _components.LEASE_S * 1e6))
            self._act(_rival(name))
        return body

    def stage_fails(self) -> bool:
        return not self._calm and self.rng.random() < 0.1

    def excuses(self) -> int:
        """How often an effect outside a transaction may have been repeated."""
        doubts = self.report.crashes + self.network.lost + self._overtaken + self.queues["far"].repeated
        return doubts + self.redriven

    def _maybe_fail(self) -> None:
        if not self._calm and self.rng.random() < 0.1:
            message = "the handler fails after its effect"
            raise RuntimeError(message)

    # --- processes and their ends

    def files(self, name: str) -> SimFiles:
        """The disk as this life of a process sees it."""
        return SimFiles(
            self.disk, name, self._locks, self._lives[name],
            lambda owner, life: self._lives[owner] == life and not self.disk.stopped(owner),
        )  # fmt: skip

    def fresh_database(self) -> LocalDatabase:
        self.disk.revive("oracle")
        return LocalDatabase("oracle@h.db", busy_timeout_s=0, disk=self.disk)

    @staticmethod
    def execution_of(body: bytes) -> str:
        return f"run-{hashlib.sha256(body).hexdigest()}"

    def _open(self, name: str) -> Any:
        self.disk.revive(name)
        self.network.revive(name)
        self._lives[name] += 1
        component = _components.COMPONENTS[name]
        is_checkpoint = component in ("checkpoint", "bucket")
        build = _components.open_checkpoint_process if is_checkpoint else _components.open_store_process
        parts = build(self, name, self.files(name))
        if self._mutant is not None and getattr(self._mutant, "checkpoint", False) == is_checkpoint:
            self._mutant(self, parts)
        self._processes[name] = parts
        return parts

    def _crash(self, name: str) -> None:
        """The process is gone: nothing of it runs any more, nothing is rolled back by it."""
        self.report.crashes += 1
        self.disk.kill(name)
        self._processes.pop(name, None)

    def _lose_power(self) -> None:
        self.report.power_losses += 1
        self.disk.lose_power()
        self._processes.clear()

    def _meanwhile(self, owner: str) -> None:
        """While `owner` waits for an answer, another process may act."""
        if len(self._acting) == 1:
            others = [name for name in self.names if name != owner]
            rival = _rival(owner)
            self._act(rival if rival in others and self.rng.random() < 0.5 else self.rng.choice(others))

    # --- the end

    def _settled(self) -> bool:
        if (
            self._bodies
            or ("uploads" in self.components and self.requests)
            or any(self._calm_rounds[name] < 2 for name in self.names)
        ):
            return False
        if self.has_broker and any(queue.messages for queue in (*self.queues.values(), self.dead)):
            return False
        try:
            store = (self._processes.get("intake") or self._open("intake")).store
            pending = {row[0] for row in store.db.execute("SELECT key FROM items WHERE status = 'pending'")}
            return not (
                pending - self.unreadable
                or store.count("SELECT count(*) FROM outbox WHERE sent_us IS NULL")
                or store.count("SELECT count(*) FROM queue")
            )
        except HeadgateError:
            return False

    def _places(self) -> list[str]:
        return [
            place for component, place in (("checkpoint", "disk"), ("bucket", "bucket")) if component in self.components
        ]

    def _request(self, n: int) -> tuple[str, list[UploadedFile]]:
        """A batch's files: no two contents are equal; some are too short, some of a kind that nobody reads."""
        endings = [self.rng.choice((".txt", ".txt", ".exe")) for _ in range(self.rng.randint(1, 3))]
        return f"b{n}", [
            UploadedFile(
                f"f{i}{ending}", b"" if self.rng.random() < 0.1 and i == 0 and n == 0 else f"text {n} {i}".encode()
            )
            for i, ending in enumerate(endings)
        ]

    def _body(self, n: int) -> bytes:
        records: list[Json] = [{"n": n * 10 + i} for i in range(self.rng.randint(1, 3))]
        if self.rng.random() < 0.3:
            records.append({"n": f"bad {n}"})
        return json.dumps(records).encode()

    def _note(self, name: str, outcome: str) -> None:
        happened = (self.report.steps, name, outcome, self.clock.now_us(), self.disk.operations, self.network.requests)
        self._trace.update(f"{happened}\n".encode())


def _rival(name: str) -> str:
    """The other process of a pair."""
    return name[:-1] + ("2" if name.endswith("1") else "1")


def _event(key: str) -> bytes:
    return json.dumps({"key": key, "n": int(key[1:])}).encode()


def _number(text: str) -> int:
    """A number of a text that is the same in every process."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)


def simulate(seed: int, **options: Any) -> Report:
    """Run one seed; see `Simulation`."""
    return Simulation(seed, **options).run()


def first_failure(seeds: int, start: int = 0, **options: Any) -> Report | None:
    """The first seed, of so many from `start`, that breaks conservation."""
    for seed in range(start, start + seeds):
        report = simulate(seed, **options)
        if report.violations:
            return report
    return None
