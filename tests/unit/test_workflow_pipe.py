"""The local pipe: one execution a delivery, messages that come back, dead letters, and processes that die."""

from __future__ import annotations

import json

import pytest

from headgate import _native
from headgate._core import SeededRandom
from headgate.errors import InvalidInputError, TransientError
from headgate.testing.objects import MemoryObjects
from headgate.workflow import (
    HeadgatePermanentError,
    LambdaStep,
    LocalPipe,
    LocalRunner,
    RetryConfiguration,
    Workflow,
    WorkflowHandler,
    local_functions,
    stage_output,
)

MINUTE = 60_000_000


class Work(WorkflowHandler):
    """Fails as often as it is told."""

    failures = 0
    permanent = False
    seen: list

    def process(self, data, context):
        self.seen.append((context.executionId, context.currentStage))
        if self.failures:
            self.failures -= 1
            if self.permanent:
                raise HeadgatePermanentError("broken for good")
            raise TransientError("broken for now")
        return [*data, context.currentStage] if isinstance(data, list) else [data, context.currentStage]


@pytest.fixture
def parts(store, clock):
    """Makes a pipe on the test's store; `pipe.work` is its handler."""
    objects = MemoryObjects()
    work = Work(objects, clock)
    work.seen = []

    def make(kind="EXPRESS", name="orders", **options):
        steps = [LambdaStep("A", "a", 30), LambdaStep("B", "b", 30)]
        workflow = Workflow(name, kind, steps, "bucket", RetryConfiguration(1, 1), source_queue="orders.new")
        runner = LocalRunner(store.db, local_functions(workflow, objects, clock, {"a": work, "b": work}), clock)
        pipe = LocalPipe.of(workflow, store, runner, random=SeededRandom(7), **options)
        pipe.work, pipe.objects = work, objects
        return pipe

    return make


def deliveries(store):
    return store.states("workflow.delivery.")


def test_a_message_becomes_one_execution(parts, store):
    pipe = parts()
    pipe.send({"n": 1})
    result = pipe.drain()
    assert (result.received, result.succeeded, result.failed, pipe.depth()) == (1, 1, 0, 0)
    ((execution, _), _) = pipe.work.seen
    assert stage_output(pipe.objects, execution, "B") == [{"n": 1}, "A", "B"]
    assert deliveries(store) == []
    ((given,),) = store.db.execute("SELECT input FROM executions")
    (record,) = json.loads(given)
    assert (json.loads(record["body"]), record["eventSource"], record["attributes"]["ApproximateReceiveCount"]) == (
        {"n": 1}, "aws:sqs", "1",
    )  # fmt: skip


def test_a_failed_express_execution_makes_the_message_visible_again_and_is_another_one(parts, clock):
    pipe = parts()
    pipe.work.failures = 2  # both attempts of the first delivery
    pipe.send({"n": 1})
    assert pipe.drain().failed == 1
    assert (pipe.depth(), pipe.step()) == (1, False)  # hidden
    clock.advance_us(10 * MINUTE - 2_000_000)
    assert not pipe.step()
    clock.advance_us(2_000_000)
    result = pipe.drain()
    assert (result.received, result.succeeded, result.failed, result.dead_lettered, pipe.depth()) == (2, 1, 1, 0, 0)
    assert len({execution for execution, _ in pipe.work.seen}) == 2


@pytest.mark.parametrize("body", ['{"n": 1,   "text": "\u00e9"}', "no json at all {", "[1, 2]"])
def test_after_three_deliveries_a_message_is_a_dead_letter_with_its_original_text(parts, clock, store, body):
    pipe = parts()
    pipe.work.failures, pipe.work.permanent = 99, True
    pipe.send(body)
    for _ in range(3):
        pipe.drain()
        clock.advance_us(10 * MINUTE)
    assert pipe.result.received == 3
    pipe.drain()
    assert (pipe.result.received, pipe.result.dead_lettered, pipe.depth()) == (3, 1, 0)
    (letter,) = pipe.dead_letters()
    assert letter["doc"] == body
    assert "3 deliveries failed, the last with StageFailedError" in letter["reason"]
    assert store.states("workflow.") == []
    pipe.work.failures = 0
    assert pipe.redrive() == 1
    assert pipe.drain().received == 4
    assert pipe.dead_letters() == []


def test_the_receive_count_of_the_configuration_holds(parts, clock):
    pipe = parts(max_receive_count=1, visibility_timeout_s=5)
    pipe.work.failures = 99
    pipe.send([1])
    pipe.drain()
    clock.advance_us(5_000_000)
    assert pipe.drain().dead_lettered == 1


def test_a_standard_execution_takes_its_message_and_reports_its_failure(parts, store, clock):
    events = []
    pipe = parts("STANDARD", on_failure=events.append)
    pipe.work.failures = 2
    pipe.send({"n": 1})
    pipe.send({"n": 2})
    result = pipe.drain()
    assert (result.received, result.succeeded, result.failed, pipe.depth(), pipe.dead_letters()) == (2, 1, 1, 0, [])
    (event,) = events
    assert (event["source"], event["detail-type"]) == ("aws.states", "Step Functions Execution Status Change")
    assert (event["detail"]["status"], event["detail"]["error"]) == ("FAILED", "StageFailedError")
    assert event["detail"]["name"] == pipe.work.seen[0][0]
    clock.advance_us(60 * MINUTE)
    assert not pipe.step()


def test_equal_messages_are_two_executions(parts):
    pipe = parts()
    pipe.send({"n": 1})
    pipe.send({"n": 1})
    assert pipe.drain().succeeded == 2
    assert len({execution for execution, _ in pipe.work.seen}) == 2


def test_ids_are_not_used_again_when_the_queue_was_empty_between(parts):
    pipe = parts()
    for _ in range(3):
        pipe.send({"n": 1})
        pipe.drain()
    assert (pipe.result.succeeded, len({execution for execution, _ in pipe.work.seen})) == (3, 3)


def test_announcements_of_the_topic_reach_the_pipe(parts, store):
    pipe = parts()
    store.publish("orders.new", "k1", {"n": 1})
    store.relay_outbox({"orders.new": [pipe.group]})
    assert pipe.drain().succeeded == 1


# --- a process that dies; its successor is another pipe on the same store


@pytest.mark.parametrize("kind", ["EXPRESS", "STANDARD"])
@pytest.mark.parametrize("point", ["workflow.after_receive", "workflow.before_commit", "workflow.before_settle"])
def test_what_a_dead_process_has_received_is_continued_not_started_again(parts, store, kind, point):
    pipe = parts(kind)
    pipe.send({"n": 1})
    _native.set_faults(f"{point}:fail:1")
    with pytest.raises(TransientError, match="fault injected"):
        pipe.drain()
    assert len(deliveries(store)) == 1
    _native.set_faults("")
    again = parts(kind)
    result = again.drain()
    assert (result.succeeded, result.failed, again.depth(), deliveries(store)) == (1, 0, 0, [])
    assert len({execution for execution, _ in pipe.work.seen}) == 1
    assert sorted(stage for _, stage in pipe.work.seen) == ["A", "B"]


def test_what_a_living_process_runs_is_left_to_it(parts, store, monkeypatch):
    pipe = parts()
    pipe.send({"n": 1})
    _native.set_faults("workflow.after_receive:fail:1")
    with pytest.raises(TransientError):
        pipe.drain()
    _native.set_faults("")
    ((name, doc),) = deliveries(store)
    store.save_state(name, {**doc, "owner": "1:another-process-that-lives"})
    again = parts()
    assert (again.recover(own=True), len(deliveries(store))) == (0, 1)


# --- threads


def test_standard_executions_run_side_by_side(parts):
    pipe = parts("STANDARD", workers=3)
    for n in range(6):
        pipe.send({"n": n})
    while pipe.depth():
        pipe.step()
        pipe.join(10)
    pipe.join(10)
    assert (pipe.result.received, pipe.result.succeeded) == (6, 6)


# --- bad input


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"visibility_timeout_s": 0}, "visibility timeout of more than 0"),
        ({"visibility_timeout_s": 43_201}, "at most 43200 s"),
        ({"max_receive_count": 0}, "at least 1 delivery"),
        ({"workers": -1}, "no negative number of workers"),
        ({"queue": " "}, "expected a queue"),
    ],
)
def test_wrong_options_are_named(parts, options, rule):
    with pytest.raises(InvalidInputError, match=rule):
        parts(**options)


def test_a_pipe_needs_a_queue_and_a_known_invocation(store):
    workflow = Workflow("w", "EXPRESS", [LambdaStep("A", "a")], "bucket")
    with pytest.raises(InvalidInputError, match="'w' has no source_queue"):
        LocalPipe.of(workflow, store, None)
    with pytest.raises(InvalidInputError, match="invocation type 'SYNC'; expected REQUEST_RESPONSE or FIRE_AND_FORGET"):
        LocalPipe("w", {}, "SYNC", store, None, queue="q")


def test_what_a_pipe_cannot_hand_on_is_refused_at_the_door(parts):
    pipe = parts()
    with pytest.raises(InvalidInputError, match="more than the 262,144 characters"):
        pipe.send("x" * 262_144)
    with pytest.raises(InvalidInputError, match="cannot be sent as JSON: ValueError"):
        pipe.send([float("nan")])
    with pytest.raises(InvalidInputError, match="cannot be sent as JSON: TypeError"):
        pipe.send({1, 2})
    assert pipe.depth() == 0
