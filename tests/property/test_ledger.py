"""The ledger against a model, on every backend: whatever is called in whatever order, the answers are the model's."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from headgate import Ledger, StaleLeaseError
from headgate._core import ManualClock
from headgate.errors import ConflictError

SECOND = 1_000_000
TTL = 50.0
KEYS = st.sampled_from(["a", "b", "c"])
OWNERS = st.integers(0, 4)
STEPS = int(os.environ.get("HEADGATE_MODEL_STEPS", "40"))


@dataclass
class Entry:
    state: str = "free"  # free, open, done
    owner: int = -1  # the acquisition that holds it, or completed it, or released it last
    until: int = 0
    attempts: int = 0
    payload: str = ""
    result: object = None
    error: str = ""
    expires: int = 0


class LedgerMachine(RuleBasedStateMachine):
    """Five owners, three keys. `make` is set by the tests."""

    make = None
    expires_by_wall_clock = False
    _serial = itertools.count()

    def __init__(self):
        super().__init__()
        self.clock = ManualClock(4_000_000_000 * SECOND)  # past any expiry by a server's own clock
        self.ledger = type(self).make(self.clock)
        self.space = f"m{next(self._serial)}:"  # servers outlive an example
        self.model: dict[str, Entry] = {}
        self.held = {}  # owner -> (claim, acquisition)
        self.acquisitions = itertools.count()

    def entry(self, key):
        entry = self.model.setdefault(key, Entry())
        if entry.state == "done" and entry.expires <= self.clock.now_us():
            entry = self.model[key] = Entry()
        return entry

    def expected(self, key, payload):
        entry = self.entry(key)
        if entry.payload and payload and entry.payload != payload:
            return "mismatch"
        if entry.state == "done":
            return "done"
        return "in_progress" if entry.state == "open" and entry.until > self.clock.now_us() else "acquired"

    def check_claim(self, key, payload, lease, owner, claim):
        expected, entry = self.expected(key, payload), self.entry(key)
        assert claim.status == expected
        if expected == "acquired":
            acquisition = next(self.acquisitions)
            entry.state, entry.owner, entry.payload = "open", acquisition, payload
            entry.until = self.clock.now_us() + lease * SECOND
            entry.attempts += 1
            self.held[owner] = (claim, acquisition, key)
            assert claim.attempts == entry.attempts
            assert claim.last_error == entry.error
            assert claim.until == entry.until / 1e6
        elif expected == "done":
            assert claim.result == entry.result
        elif expected == "in_progress":
            assert claim.until == entry.until / 1e6

    @rule(key=KEYS, owner=OWNERS, lease=st.integers(1, 20), payload=st.sampled_from(["", "", "p", "q"]))
    def claim(self, key, owner, lease, payload):
        try:
            claim = self.ledger.claim(self.space + key, lease, payload=payload)
        except ConflictError:
            assert self.expected(key, payload) == "mismatch"
        else:
            self.check_claim(key, payload, lease, owner, claim)

    @rule(owner=OWNERS, lease=st.integers(1, 20))
    def claim_all(self, owner, lease):
        keys = ["a", "b", "c"]
        claims = self.ledger.claim_many([self.space + key for key in keys], lease)
        for key, claim in zip(keys, claims, strict=True):
            self.check_claim(key, "", lease, owner, claim)

    def attempt(self, owner, call, allowed):
        """Run `call` for what the owner holds; `allowed(entry, acquisition)` says whether it must succeed."""
        if owner not in self.held:
            return None
        claim, acquisition, key = self.held[owner]
        before = self.model[key]
        if before.state == "done" and before.expires <= self.clock.now_us():
            return None  # forgotten or about to be: either answer is right
        entry = self.entry(key)
        mine = entry.owner == acquisition
        try:
            call(claim)
        except StaleLeaseError:
            assert not (mine and allowed(entry))
            return None
        assert mine
        assert allowed(entry)
        return entry

    @rule(owner=OWNERS, result=st.integers() | st.text(max_size=5) | st.none())
    def complete(self, owner, result):
        entry = self.attempt(
            owner, lambda claim: self.ledger.complete(claim, result), lambda e: e.state in {"open", "done"}
        )
        if entry is not None and entry.state == "open":
            entry.state, entry.result = "done", result
            entry.expires = (1 << 62) if self.expires_by_wall_clock else self.clock.now_us() + int(TTL) * SECOND

    @rule(
        owner=OWNERS,
        error=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8),
        counted=st.booleans(),
    )
    def release(self, owner, error, counted):
        entry = self.attempt(
            owner,
            lambda claim: self.ledger.release(claim, error, counted=counted),
            lambda e: e.state in {"open", "free"},
        )
        if entry is not None:
            entry.attempts -= entry.state == "open" and not counted
            entry.state, entry.error = "free", error if counted or error else entry.error

    @rule(owner=OWNERS, lease=st.integers(1, 20))
    def renew(self, owner, lease):
        entry = self.attempt(owner, lambda claim: self.ledger.renew(claim, lease), lambda e: e.state == "open")
        if entry is not None:
            entry.until = self.clock.now_us() + lease * SECOND

    @rule(seconds=st.integers(1, 12))
    def time_passes(self, seconds):
        self.clock.advance_us(seconds * SECOND)

    @rule()
    def a_long_time_passes(self):
        if not self.expires_by_wall_clock:
            self.clock.advance_us(int(TTL) * SECOND)
            self.ledger.prune()

    @invariant()
    def at_most_one_owner_can_complete(self):
        current = {(key, entry.owner) for key, entry in self.model.items() if entry.state == "open"}
        assert len(current) == len({key for key, _ in current})


def run(make, examples, *, expires_by_wall_clock=False):
    machine = type("Machine", (LedgerMachine,), {
        "make": staticmethod(make), "expires_by_wall_clock": expires_by_wall_clock,
    })  # fmt: skip
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=STEPS, deadline=None, derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


def test_memory():
    run(lambda clock: Ledger.open("memory://", done_ttl=TTL, clock=clock), 150)


def test_sqlite(tmp_path):
    from headgate.backends.local import LocalDatabase

    database = LocalDatabase(str(tmp_path / "ledger.db"), durability="normal")
    run(lambda clock: Ledger.on_database(database, done_ttl=TTL, clock=clock), 60)


# Redis forgets by its own clock, which a test cannot move: time to live there is long, and the rule stays off.
def test_redis(redis_server):
    run(lambda clock: Ledger.open(redis_server.url, done_ttl=1e6, clock=clock), 80, expires_by_wall_clock=True)


def test_redis_through_an_injected_client(redis_server):
    from redis import Redis

    from headgate.backends.redispy import RedisPyClient

    client = RedisPyClient(Redis.from_url(redis_server.url, db=2))
    run(lambda clock: Ledger.on_redis(client, done_ttl=1e6, clock=clock), 30, expires_by_wall_clock=True)


@pytest.mark.timeout(300)
def test_dynamodb(dynamo_server):
    import boto3

    from headgate._core import SystemRandom
    from headgate.backends.dynamodb import DynamoLedger, create_ledger_table

    client = boto3.Session().client(
        "dynamodb", endpoint_url=dynamo_server.endpoint, region_name="us-east-1", aws_access_key_id="local",
        aws_secret_access_key="local",
    )  # fmt: skip
    create_ledger_table(client, "model")

    def make(clock):
        return Ledger(DynamoLedger(client, "model", TTL, clock, SystemRandom()), clock, done_ttl=TTL)

    run(make, 15)
