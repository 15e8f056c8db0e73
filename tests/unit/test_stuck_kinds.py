"""Everything else that can be stuck: announcements, uploads, batches, claims, executions, and a kind of one's own."""

from __future__ import annotations

import json
import sys
import types

import pytest

from headgate._core import ManualClock
from headgate.backends.local import dumps
from headgate.config import load
from headgate.errors import TransientError
from headgate.healing import Attempts, Rule, Stuck, Sweeper, tracked_page
from headgate.wiring import App

HOUR = 3_600_000_000
START = 1_800_000_000_000_000
CONFIG = """
[backends]
store = "sqlite:///h.db"
durability = "normal"
objects = "file://objects"
[workflows.scoring]
"""


@pytest.fixture
def app(tmp_path, monkeypatch):
    (tmp_path / "headgate.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    made = App(load("headgate.toml"), "test")
    made.__dict__["clock"] = ManualClock(START)
    return made


def test_announcements_that_nobody_relayed_are_sent_and_those_that_stay_are_reported(app, monkeypatch):
    app.store.publish("market.new_data", "e1", {"n": 1})
    app.clock.advance_us(HOUR - 1)
    assert "outbox" not in app.heal().kinds
    app.clock.advance_us(1)
    monkeypatch.setattr(app, "relay", lambda: 0)
    result = app.heal()
    assert (result.kinds["outbox"]["failed"], result.errors) == (1, ["outbox: unavailable"])
    monkeypatch.undo()
    assert app.heal().kinds["outbox"]["healed"] == 1
    assert "outbox" not in app.heal().kinds
    assert app.store.count("SELECT count(*) FROM outbox WHERE sent_us IS NULL") == 0


def upload_job(app, n):
    app.store.publish("uploads.files", f"raw{n}", {"data": {
        "upload_id": "u", "index": n, "batch_id": "b", "original_file_name": "a.txt", "raw_file_storage_id": f"raw{n}",
        "file_size_bytes": 1, "correlation_id": None,
    }})  # fmt: skip


def test_an_upload_without_an_outcome_is_worked_on_again_and_fails_in_the_end(app):
    upload_job(app, 1)
    upload_job(app, 2)
    app.store.relay_outbox({"uploads.files": ["file-service"]})
    app.clock.advance_us(2 * HOUR)
    assert app.heal().kinds["upload"]["held_up"] == 2  # in the queue: late, not stuck
    app.database.execute("DELETE FROM queue")
    for attempt in range(5):
        found = app.heal().kinds["upload"]
        assert (found["healed"], found["held_up"]) == (2, 0), attempt
        assert app.heal().kinds["upload"]["healed"] == 0 if "upload" in app.heal().kinds else True
        app.store.relay_outbox({})
        app.clock.advance_us(HOUR)
    assert app.heal().kinds["upload"]["quarantined"] == 2
    failures = app.store.count("SELECT count(*) FROM outbox WHERE body LIKE '%essay.validation.failed%'")
    assert failures == 2
    app.clock.advance_us(HOUR)
    assert "upload" not in app.heal().kinds


def test_a_batch_past_its_time_is_announced_with_what_is_there(app):
    batch = {
        "format": 1, "status": "waiting", "expected": 2, "received_count_from_uploads": 2, "failed": 0, "essays": [],
        "unassigned": [], "started_us": START, "correlation_id": None, "deadline_us": START + HOUR,
    }  # fmt: skip
    app.store.save_state("uploads.batch.b1", batch)
    app.clock.advance_us(HOUR)
    assert "batch" not in app.heal().kinds
    app.clock.advance_us(60_000_000)
    assert app.heal().kinds["batch"]["healed"] == 1
    assert app.store.load_state("uploads.batch.b1")["status"] == "timed_out"
    assert "batch" not in app.heal().kinds


def test_a_claim_whose_message_is_gone_is_listed_and_released(app):
    app.ledger.claim("headgate:bill:orders:o1", 60)
    done = app.ledger.claim("headgate:bill:orders:o2", 60)
    app.ledger.complete(done, None)
    app.ledger.claim("schedule:sweep", 60)
    app.clock.advance_us(HOUR + 59_000_000)
    assert "claim" not in app.heal().kinds
    app.clock.advance_us(1_000_000)
    assert app.heal().kinds["claim"]["healed"] == 1
    assert app.stuck() == []
    app.clock.advance_us(HOUR)
    assert app.heal().kinds["claim"]["quarantined"] == 1
    (stuck,) = app.stuck()
    assert (stuck["kind"], stuck["key"], stuck["reason"]) == ("claim", "headgate:bill:orders:o1", "lease_ended")
    app.clock.advance_us(HOUR)
    assert "claim" not in app.heal().kinds
    assert app.release("headgate:bill:orders:o1") == 1
    assert app.heal().kinds["claim"]["healed"] == 1


def running(app, ident, definition, cursor):
    app.database.execute(
        "INSERT INTO executions (id, workflow, status, definition, input, started_us, cursor)"
        " VALUES (?, 'w', 'RUNNING', ?, '{}', ?, ?)",
        (ident, dumps(definition), app.clock.now_us(), dumps(cursor)),
    )


def test_an_execution_that_stopped_is_resumed_once(app, monkeypatch):
    from headgate.workflow import LocalRunner

    definition = {
        "StartAt": "A",
        "States": {"A": {"Type": "Pass", "Next": "W"}, "W": {"Type": "Wait", "Seconds": 36_000, "Next": "B"},
                   "B": {"Type": "Pass", "End": True}},
    }  # fmt: skip
    running(app, "stopped", definition, {"state": "B", "input": {}, "attempts": {}})
    running(app, "waits", definition, {"state": "W", "input": {}, "attempts": {}})
    runner = LocalRunner(app.database, {}, app.clock)
    monkeypatch.setattr(App, "workflow", lambda self, name: (types.SimpleNamespace(name="w"), runner, {}))
    app.clock.advance_us(6 * HOUR - 1)
    assert "workflow" not in app.heal().kinds
    app.clock.advance_us(1)
    found = app.heal().kinds["workflow"]
    assert (found["healed"], found["held_up"]) == (1, 1)  # a Wait of ten hours is no standstill
    assert dict(app.database.execute("SELECT id, status FROM executions")) == {
        "stopped": "SUCCEEDED",
        "waits": "RUNNING",
    }


def test_an_execution_whose_process_died_is_resumed_and_a_waiting_one_is_not(app, monkeypatch):
    from headgate.workflow import LocalRunner

    calls = []
    definition = {
        "StartAt": "A",
        "States": {"A": {"Type": "Task", "Resource": "f", "Next": "W"},
                   "W": {"Type": "Wait", "Seconds": 36_000, "Next": "B"}, "B": {"Type": "Pass", "End": True}},
    }  # fmt: skip
    runner = LocalRunner(app.database, {"f": calls.append}, app.clock)
    monkeypatch.setattr(App, "workflow", lambda self, name: (types.SimpleNamespace(name="w"), runner, {}))
    runner.start("w", definition, {"n": 1}, "waits", wait=False)
    runner.start("w", definition, {"n": 2}, "died", wait=False)
    # As a process leaves it that is killed: its lease is not given back, and nothing but the deadline wakes it.
    app.database.execute(
        "UPDATE workflow_runs SET owner = 'gone', until_us = ?, wake_us = ? WHERE execution = 'died'",
        (app.clock.now_us() + 6 * HOUR + 1, app.clock.now_us() + 1_000 * HOUR),
    )
    app.clock.advance_us(6 * HOUR)
    found = app.heal().kinds["workflow"]
    assert (found.get("healed", 0), found["held_up"]) == (0, 2)  # a Wait of ten hours, and a lease that lasts
    app.clock.advance_us(1)
    found = app.heal().kinds["workflow"]
    assert (found["healed"], found["held_up"]) == (1, 1)
    assert app.database.execute("SELECT owner FROM workflow_runs WHERE execution = 'died'") == [(None,)]
    assert calls == [{"n": 1}, {"n": 2}]
    app.clock.advance_us(10 * HOUR)
    assert app.heal().kinds["workflow"]["healed"] == 2  # both have waited, and a threshold more
    assert dict(app.database.execute("SELECT id, status FROM executions")) == {
        "waits": "SUCCEEDED",
        "died": "SUCCEEDED",
    }


def test_an_execution_of_an_unknown_workflow_is_given_up_and_listed(app):
    running(
        app,
        "x",
        {"StartAt": "A", "States": {"A": {"Type": "Pass", "End": True}}},
        {"state": "A", "input": {}, "attempts": {}},
    )
    for _ in range(5):
        app.clock.advance_us(6 * HOUR)
        assert app.heal().kinds["workflow"]["failed"] == 1
    app.clock.advance_us(6 * HOUR)
    assert app.heal().kinds["workflow"]["quarantined"] == 1
    assert [(s["kind"], s["key"], s["attempts"]) for s in app.stuck()] == [("workflow", "x", 5)]


class Invoices:
    """A kind of one's own: invoices that wait, each with the time it was written."""

    name = "invoice"

    def __init__(self, app):
        self.app = app
        self.attempts = Attempts(app.store, self.name, app.clock)
        self.waiting = {"a": START, "b": START, "bad": START}
        self.sent = []

    def find(self, before_us, limit, after):
        found = [Stuck(key, since) for key, since in self.waiting.items() if since <= before_us]
        return tracked_page(self.attempts, found, before_us, limit, after)

    def heal(self, stuck, before_us):
        if stuck.key == "bad":
            raise TransientError("no")
        self.sent.append(stuck.key)
        del self.waiting[stuck.key]
        return self.attempts.try_once(stuck)

    def count_attempt(self, stuck, before_us):
        return self.attempts.try_once(stuck)

    def quarantine(self, stuck, reason):
        return self.attempts.quarantine(stuck, reason)


def test_a_kind_of_ones_own(app, monkeypatch):
    module = types.ModuleType("own_kinds")
    made = []
    module.invoices = lambda app: made.append(made[0] if made else Invoices(app)) or made[0]
    monkeypatch.setitem(sys.modules, "own_kinds", module)
    app.config.healing.kinds = ["own_kinds:invoices"]
    app.clock.advance_us(HOUR)
    found = app.heal()
    assert (found.kinds["invoice"]["healed"], found.kinds["invoice"]["failed"]) == (2, 1)
    assert found.errors == ["invoice: unavailable"]
    assert "invoice" not in app.heal().kinds  # its cooldown
    for _ in range(4):
        app.clock.advance_us(HOUR)
        assert app.heal().kinds["invoice"]["failed"] == 1
    app.clock.advance_us(HOUR)
    assert app.heal().kinds["invoice"]["quarantined"] == 1
    assert made[0].attempts.quarantined()[0]["key"] == "bad"
    app.config.healing.kinds = ["own_kinds:nothing"]
    assert app.heal().errors == ["config"]


def test_a_sweep_out_of_time_goes_on_where_it_stopped(app):
    clock = app.clock
    turns = []

    class Slow(Invoices):
        def heal(self, stuck, before_us):
            turns.append(stuck.key)
            clock.advance_us(1_000_000)
            return True  # and it stays as it is: nothing moves it

        def find(self, before_us, limit, after):
            found = sorted((Stuck(f"k{n}", START) for n in range(5)), key=lambda s: s.key)
            return [s for s in found if after is None or (s.since_us, s.key) > after][:limit]

    sweeper = Sweeper([(Slow(app), Rule(threshold_s=1))], clock, app.store)
    clock.advance_us(HOUR)
    reports = [sweeper.run(budget_s=2)["invoice"] for _ in range(3)]
    assert turns == ["k0", "k1", "k2", "k3", "k4", "k0"]
    assert [r.more_remaining for r in reports] == [True, True, True]


def test_the_state_of_a_sweep_is_json(app):
    Attempts(app.store, "x", app.clock).try_once(Stuck("k", 1))
    ((name, doc),) = app.store.states("healing:x:")
    assert (name, json.loads(json.dumps(doc))["attempts"]) == ("healing:x:k", 1)
