"""Deterministic simulation: one seed drives time, disk, crashes and the order of everything around the real rooms.

The rooms are the product's own: intake, outbox, queue, ledger, workers, healing, on the core's SQLite. The disk is one
in memory that forgets what was not synced. A process may stop at any of its disk operations; what it held in memory is
abandoned, nothing is rolled back by it, and another life of it opens what is left. The oracle is conservation: every
record that was accepted is exactly one of stored and announced (its effect happened once), dead-lettered with a reason,
or pending with an age; after the faults end, nothing is pending.

Example:
    >>> report = simulate(seed=7)
    >>> report.violations
    []
    >>> report.trace == simulate(seed=7).trace
    True
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.consume import Consumer, Worker
from headgate.errors import DuplicateError, HeadgateError, NotFoundError
from headgate.healing import run_self_healing_check
from headgate.idempotency import Ledger
from headgate.intake import Intake, Normalised, Pipeline, Reject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headgate.ports import Json, Transaction

_START_US = 1_800_000_000_000_000
_LEASE_S = 5.0
_STALE_HOURS = 0.01
_MAX_ATTEMPTS = 1000  # crashes count as attempts; here they are many
_SETTLE_STEPS = 400
_PLAN = json.dumps({
    "format": 1, "name": "simulated", "extra": "ignore", "sort_by": "", "rules": [], "file_names": [],
    "private_groups": [], "fields": [
        {"name": "key", "required": True, "nullable": False, "type": "string"},
        {"name": "n", "required": True, "nullable": False, "type": "int64"},
    ],
})  # fmt: skip
Handler = Callable[["Json", "Transaction"], Any]


class SimObjects:
    """An object store on the simulated disk, in the steps of a durable write."""

    def __init__(self, disk: Any, owner: str) -> None:
        self.disk = disk
        self.owner = owner

    def put(self, key: str, data: bytes, if_absent: bool = False) -> None:
        if if_absent and self.exists(key):
            message = "there is such an object"
            raise DuplicateError(message)
        temporary = f"{self.owner}@objects/.tmp-{self.owner}"
        self.disk.write(temporary, data)
        self.sync(temporary)
        self.disk.rename(temporary, f"{self.owner}@objects/{key}")
        self.disk.sync_folder(self.owner)

    def sync(self, path: str) -> None:
        self.disk.sync(path)

    def get(self, key: str) -> bytes:
        return bytes(self.disk.read(f"{self.owner}@objects/{key}"))

    def exists(self, key: str) -> bool:
        try:
            self.get(key)
        except NotFoundError:
            return False
        return True

    def list(self, prefix: str = "") -> list[str]:
        return [name.removeprefix("objects/") for name in self.disk.list(f"objects/{prefix}")]

    def remove(self, key: str) -> None:
        self.disk.remove(f"{self.owner}@objects/{key}")


@dataclass
class Report:
    """What one seed did, and what it broke."""

    seed: int
    steps: int = 0
    crashes: int = 0
    power_losses: int = 0
    accepted: int = 0
    stored: int = 0
    dead_letters: int = 0
    violations: list[str] = field(default_factory=list)
    trace: str = ""


@dataclass
class Parts:
    """What a process is made of; a mutant replaces some of it."""

    database: LocalDatabase
    store: LocalStore
    objects: SimObjects
    ledger: Ledger
    intake: Intake
    worker: Worker


Mutant = Callable[["Simulation", Parts], None]


class Simulation:
    """One run.

    Args:
        seed: decides everything.
        handler: a consumer's effect (body, tx), run inside the simulated worker's transaction; default none.
        steps: actions before the faults end.
        durability: of the store; "full" survives a loss of power.
        messages: sample bodies for the handler; the simulation adds `key`.
        mutant: breaks a part of each process, to see whether the oracle notices.
    """

    def __init__(
        self, seed: int, *, handler: Handler | None = None, steps: int = 60, durability: str = "full",
        messages: Sequence[Json] = (), mutant: Mutant | None = None,
    ) -> None:  # fmt: skip
        self.report = Report(seed)
        self.rng = random.Random(seed)  # noqa: S311 - a simulation, not a secret
        self.clock = core.ManualClock(_START_US)
        self.tokens = core.SeededRandom(seed)
        self.disk = core.SimDisk(seed)
        self._handler = handler
        self._steps = steps
        self._durability = durability
        self._mutant = mutant
        self._processes: dict[str, Parts] = {}
        self._trace = hashlib.sha256()
        self._bodies = [self._body(n) for n in range(self.rng.randint(4, 10))]
        self._accepted: list[bytes] = []
        self._calm = False
        self._inside = False  # an action within a slow handler
        self._messages = list(messages) or [{}]

    def run(self) -> Report:
        """The whole run; violations are in the report."""
        names = ("intake", "worker-1", "worker-2", "sweeper")
        while self.report.steps < self._steps and not self.report.violations:
            self._act(self.rng.choice(names))
        # The faults end: what was promised has to come true.
        self._calm = True
        for name in names:
            self._crash(name)
        for _ in range(_SETTLE_STEPS):
            if self.report.violations or self._settled():
                break
            for name in names:
                self._act(name)
            self.clock.advance_us(int(_LEASE_S * 1e6))
        if not self.report.violations:
            self._judge(final=True)
        self.report.trace = self._trace.hexdigest()
        return self.report

    # --- one step

    def _act(self, name: str) -> None:
        self.report.steps += 1
        if not self._calm:
            fault = self.rng.random()
            if fault < 0.25:
                self.disk.stop_after(name, self.rng.randrange(0, 40))
            elif fault < 0.30:
                self._lose_power()
            elif fault < 0.33:
                self._crash(name)
            if self.rng.random() < 0.3:
                self.clock.advance_us(self.rng.randrange(0, int(2 * _LEASE_S * 1e6)))
        outcome = "ok"
        try:
            parts = self._processes.get(name) or self._open(name)
            outcome = self._work(name, parts)
        except Exception as error:
            kind = error.kind.value if isinstance(error, HeadgateError) else type(error).__name__
            outcome = f"error {kind}"
            if self.disk.stopped(name):
                self._crash(name)
            elif not isinstance(error, HeadgateError):
                raise
        self._note(name, outcome)
        if not self.report.violations:
            self._judge(final=False)

    def _work(self, name: str, parts: Parts) -> str:
        if name == "intake":
            if not self._bodies or self.rng.random() < 0.2:
                return f"relay {self._relay(parts)}"
            # The sender keeps a body until it was taken: a crash before the answer brings it again.
            body = self._bodies[0]
            taken = parts.intake.accept("feed", body)
            self._accepted.append(self._bodies.pop(0))
            if self.rng.random() < 0.2:
                self._bodies.insert(self.rng.randint(0, len(self._bodies)), body)  # and sometimes sends it again
            return f"accepted {taken.stored} {taken.duplicates} {taken.dead_letters}"
        if name == "sweeper":
            swept = run_self_healing_check(
                parts.store, "simulated.items", "v1", announce=_announce, threshold_hours=_STALE_HOURS,
                batch_size=10, max_attempts=_MAX_ATTEMPTS, clock=self.clock,
            )  # fmt: skip
            return f"swept {swept.items_republished}, relay {self._relay(parts)}"
        result = parts.worker.drain()
        return f"handled {result.handled} {result.duplicates} {result.waiting} {result.failed}"

    @staticmethod
    def _relay(parts: Parts) -> int:
        return parts.store.relay_outbox({"simulated.items": ["effects"]})

    def _open(self, name: str) -> Parts:
        self.disk.revive(name)
        database = LocalDatabase(f"{name}@h.db", durability=self._durability, busy_timeout_s=0, disk=self.disk)
        database.execute("CREATE TABLE IF NOT EXISTS effects (key TEXT, at INTEGER)")
        store = LocalStore(database, self.clock, "simulated")
        objects = SimObjects(self.disk, name)
        ledger = Ledger.on_database(database, done_ttl=1e9, clock=self.clock, random=self.tokens)
        ledger.renewing = lambda claim, lease: nullcontext()  # type: ignore[method-assign]  # no threads in here
        intake = Intake(_pipeline(), store, objects, self.clock)
        consumer = Consumer(
            "effects", "simulated.items", self._effect, lambda body: str(body["key"]), _LEASE_S, _MAX_ATTEMPTS,
            prepare=lambda body: self._slow(name, body),
        )  # fmt: skip
        parts = Parts(database, store, objects, ledger, intake, Worker(consumer, store, ledger, self.clock))
        if self._mutant is not None:
            self._mutant(self, parts)
        self._processes[name] = parts
        return parts

    def _slow(self, name: str, body: Json) -> Json:
        """Now and then a handler outlives its lease, and the others go on meanwhile."""
        if not self._calm and not self._inside and self.rng.random() < 0.2:
            self._inside = True
            try:
                self.clock.advance_us(int(2 * _LEASE_S * 1e6))
                self._act("worker-2" if name == "worker-1" else "worker-1")
            finally:
                self._inside = False
        return body

    def _effect(self, body: Json, tx: Transaction) -> None:
        if self._handler is not None:
            self._handler({**self._messages[hash_of(body["key"]) % len(self._messages)], **body}, tx)
        self._insert_effect(body, tx)
        if not self._calm and self.rng.random() < 0.1:
            message = "the handler fails after its effect"
            raise RuntimeError(message)

    def _insert_effect(self, body: Json, tx: Transaction) -> None:
        tx.execute("INSERT INTO effects VALUES (?, ?)", (body["key"], self.clock.now_us()))
        tx.execute("UPDATE items SET status = 'analyzed', sentiment = 'neutral' WHERE key = ?", (body["key"],))

    # --- faults

    def _crash(self, name: str) -> None:
        """The process is gone: nothing of it runs any more, nothing is rolled back by it."""
        self.report.crashes += 1
        self.disk.kill(name)
        self._processes.pop(name, None)

    def _lose_power(self) -> None:
        self.report.power_losses += 1
        self.disk.lose_power()
        self._processes.clear()

    # --- the oracle

    def _judge(self, *, final: bool) -> None:
        """Look at the disk as a process that comes fresh; it must not disturb the others."""
        self.disk.revive("oracle")
        try:
            database = LocalDatabase("oracle@h.db", busy_timeout_s=0, disk=self.disk)
            rows = database.execute("SELECT key, status, raw_key FROM items")
            items = {key: status for key, status, _ in rows}
            effects = Counter(key for (key,) in database.execute("SELECT key FROM effects"))
            letters = Counter(json.loads(doc)["n"] for (doc,) in database.execute("SELECT doc FROM dead_letters"))
            announced = {key for (key,) in database.execute("SELECT key FROM outbox")}
            database.close()
        except HeadgateError as error:
            if final or error.kind.value != "invalid_input":  # no table yet: nothing was accepted
                self._broken(f"the store cannot be read: {error.kind.value}")
            elif self._accepted:
                self._broken("the store lost its tables")
            return
        finally:
            self.disk.kill("oracle")
        objects = SimObjects(self.disk, "oracle")
        for key in {raw_key for _, _, raw_key in rows}:
            if not objects.exists(key):
                self._broken("a record is stored whose raw body is not")
        raw = {objects.get(key) for key in objects.list("raw/") if not key.endswith(".meta.json")}
        for body in self._accepted:
            if body not in raw:
                self._broken("an accepted body is not in the object store")
            for record in json.loads(body):
                self._judge_record(record, items, effects, letters, announced, final=final)
        for key, count in effects.items():
            if count > 1:
                self._broken(f"the effect of {key} happened {count} times")
            if key not in items:
                self._broken(f"the effect of {key} happened, but the record is not stored")
        for name in (key for key in items if key not in announced):
            self._broken(f"{name} is stored and was never announced")
        if final:
            self.report.accepted = sum(len(json.loads(body)) for body in self._accepted)
            self.report.stored, self.report.dead_letters = len(items), len(letters)

    def _judge_record(
        self, record: Json, items: dict[str, str], effects: Counter[str], letters: Counter[Any],
        announced: set[str], *, final: bool,
    ) -> None:  # fmt: skip
        key, bad = f"k{record['n']}", isinstance(record["n"], str)
        if bad and letters[record["n"]] != 1:
            self._broken(f"a bad record has {letters[record['n']]} dead letters")
        if bad:
            return
        if key not in items or key not in announced:
            self._broken(f"the accepted record {key} is not stored and announced")
        elif final and effects[key] != 1:
            self._broken(f"{key} is still pending after the faults ended")

    def _settled(self) -> bool:
        if self._bodies:
            return False
        try:
            parts = self._processes.get("intake") or self._open("intake")
            pending = parts.store.count("SELECT count(*) FROM items WHERE status = 'pending'")
            waiting = parts.store.queue_depth("simulated.items", "effects")[0]
            unsent = parts.store.count("SELECT count(*) FROM outbox WHERE sent_us IS NULL")
        except HeadgateError:
            return False
        return pending == waiting == unsent == 0

    # --- the rest

    def _body(self, n: int) -> bytes:
        records: list[Json] = [{"n": n * 10 + i} for i in range(self.rng.randint(1, 3))]
        if self.rng.random() < 0.3:
            records.append({"n": f"bad {n}"})
        return json.dumps(records).encode()

    def _broken(self, what: str) -> None:
        if what not in self.report.violations:
            self.report.violations.append(what)

    def _note(self, name: str, outcome: str) -> None:
        line = f"{self.report.steps} {name} {outcome} {self.clock.now_us()} {self.disk.operations}\n"
        self._trace.update(line.encode())


def hash_of(text: str) -> int:
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


def _pipeline() -> Pipeline:
    def parse(body: bytes, raw: Any) -> list[Any]:
        return list(json.loads(body))

    def normalise(record: Any, raw: Any) -> Normalised:
        if not isinstance(record["n"], int):
            message = "n is text"
            raise Reject("not_a_number", message)
        return Normalised(f"k{record['n']}", raw.fetched_at, {"key": f"k{record['n']}", "n": record["n"]})

    return Pipeline("simulated", _PLAN, parse, normalise, lambda item: {"key": item.key})


def _announce(item: Json) -> Json:
    return {"key": item["key"]}
