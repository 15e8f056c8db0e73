"""Consumers with a queue elsewhere: one that breaks is made again, and stopping waits for what is claimed."""

from __future__ import annotations

import json
import logging
import threading

import pytest

from headgate.errors import TransientError
from headgate.serve import OwnThread
from headgate.serve._loop import Service


class Worker:
    def __init__(self, finished):
        self.running, self.told, self.finished = threading.Event(), threading.Event(), finished

    def run(self):
        self.running.set()
        assert self.told.wait(30)
        self.finished.append(self)  # what was claimed

    def stop(self):
        self.told.set()


@pytest.mark.parametrize("error", [TransientError("away"), ValueError("token=sesame")])
def test_a_consumer_that_breaks_is_made_again_and_quotes_nothing(error, caplog):
    finished, made, there = [], [], threading.Event()

    def make():
        made.append(Worker(finished))
        if len(made) == 1:
            raise error
        there.set()
        return made[-1]

    with caplog.at_level(logging.ERROR), OwnThread("copies", make, again_s=0):
        assert there.wait(30)
        assert made[1].running.wait(30)
        assert finished == []
    assert finished == made[1:]
    assert len(made) == 2
    (record,) = caplog.records
    assert record.consumer == "copies"
    assert "sesame" not in str(vars(record))


def test_one_that_is_told_to_stop_before_it_runs_does_not_run():
    finished = []
    thread = OwnThread("copies", lambda: Worker(finished), again_s=0)
    thread.stop()
    with thread:
        pass
    assert finished == []


@pytest.mark.parametrize("error", [TransientError("away"), KeyError("token=sesame"), RuntimeError()])
def test_a_step_that_breaks_ends_neither_the_loop_nor_the_other_steps(error, caplog, monkeypatch):
    """Only errors of headgate's own used to be caught: any other one ended `headgate serve`."""
    monkeypatch.setattr("headgate.serve._loop._AWAY_S", 0.0)
    rounds = []

    def broken():
        raise error

    def works():
        rounds.append(1)
        if len(rounds) == 3:
            service.stop()
        return 1

    service = Service([("broken", broken), ("works", works)])
    with caplog.at_level(logging.WARNING):
        service.run()
    assert len(rounds) == 3
    assert [(r.getMessage(), r.step) for r in caplog.records] == [("step failed", "broken")] * 3
    assert "sesame" not in str([vars(r) for r in caplog.records])


def test_the_reason_of_a_refused_record_says_what_was_expected_and_the_kind_of_what_was_got():
    from headgate.intake._reasons import explain

    plan = json.dumps({
        "fields": [
            {"name": "n", "type": "int64", "nullable": True}, {"name": "key", "type": "string", "pattern": "^[a-f]{4}$"},
            {"name": "text", "type": "string", "min_length": 1, "max_length": 5}, {"name": "word", "type": "string", "values": ["a", "b"]},
            {"name": "tags", "type": "list"},
        ]
    })  # fmt: skip
    problems = [
        ("n", "type"),
        ("key", "pattern"),
        ("text", "length"),
        ("word", "value"),
        ("tags", "missing"),
        ("", "unknown"),
    ]
    reason = explain(
        plan, problems, {"n": "secret", "key": "secret", "text": "secret", "word": None, "extra": "secret"}
    )
    assert reason.split("; ") == [
        "n: type (expected int64 or null, got text of 6 characters)",
        "key: pattern (expected string that matches ^[a-f]{4}$, got text of 6 characters)",
        "text: length (expected string of 1 to 5 characters, got text of 6 characters)",
        "word: value (expected string one of a, b, got null)",
        "tags: missing (expected list, got nothing)",
        "record: unknown",
    ]
    many = explain(plan, [("n", "type")] * 30, {})
    assert (many.count("n: type"), many.endswith("; 10 more")) == (20, True)
