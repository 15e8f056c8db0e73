"""Executions survive: resuming, leases, ids, redrive, task tokens, activities and executions within executions."""

from __future__ import annotations

import json
import threading

import pytest

from headgate import _native
from headgate._core import ManualClock, SystemClock
from headgate.backends.local import LocalDatabase
from headgate.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    StageFailedError,
    StaleLeaseError,
)
from headgate.workflow import ExecutionAlreadyExistsError, LocalRunner, StateMachine, TaskFailure

YEAR_S = 31_536_000


def task(function, **fields):
    return {"Type": "Task", "Resource": function, **fields}


def chain(*names, **fields):
    states = {}
    for place, name in enumerate(names):
        last = place + 1 == len(names)
        states[name] = task(name.lower(), **fields, **({"End": True} if last else {"Next": names[place + 1]}))
    return {"StartAt": names[0], "States": states}


class Calls:
    """Functions that count how often they are called."""

    def __init__(self, *names):
        self.counts = dict.fromkeys(names, 0)
        self.functions = {name: self._function(name) for name in names}

    def _function(self, name):
        def call(payload):
            self.counts[name] += 1
            return [*payload, name] if isinstance(payload, list) else payload

        return call


@pytest.fixture
def database(store):
    return store.db


def kinds(execution):
    return [event["type"] for event in execution.history]


# --- resuming


@pytest.mark.parametrize("commit", [1, 2, 3, 4])
def test_a_run_goes_on_from_whichever_commit_was_its_last(database, clock, commit):
    calls = Calls("a", "b", "c")
    machine = chain("A", "B", "C")
    _native.set_faults(f"workflow.before_commit:fail:{commit}")
    with pytest.raises(Exception, match="fault injected"):
        LocalRunner(database, calls.functions, clock).start("w", machine, [], "e")
    _native.set_faults("")
    before = dict(calls.counts)
    runner = LocalRunner(database, calls.functions, clock)
    execution = runner.start("w", machine, [], "e")
    assert execution.output == ["a", "b", "c"]
    # Only the task whose result was not committed is run again.
    expected = {
        1: {"a": 1, "b": 1, "c": 1},
        2: {"a": 2, "b": 1, "c": 1},
        3: {"a": 1, "b": 2, "c": 1},
        4: {"a": 1, "b": 1, "c": 2},
    }
    assert calls.counts == expected[commit], before
    assert [e["id"] for e in execution.history] == list(range(1, len(execution.history) + 1))
    assert kinds(execution).count("TaskStateExited") == 3


def test_a_map_resumes_without_running_finished_iterations_again(database, clock):
    calls = Calls("f")
    machine = {
        "StartAt": "M",
        "States": {
            "M": {
                "Type": "Map",
                "ItemProcessor": {
                    "StartAt": "F",
                    "States": {"F": task("f", Next="W"), "W": {"Type": "Wait", "Seconds": 5, "End": True}},
                },
                "End": True,
            }
        },
    }
    _native.set_faults("workflow.before_commit:fail:4")
    with pytest.raises(Exception, match="fault injected"):
        LocalRunner(database, calls.functions, clock).start("w", machine, list(range(6)), "e")
    _native.set_faults("")
    assert calls.counts["f"] == 3
    execution = LocalRunner(database, calls.functions, clock).resume("e")
    assert execution.output == list(range(6))
    assert calls.counts["f"] == 7  # six, and the one whose result was lost
    assert database.execute("SELECT count(*) FROM workflow_frames") == [(0,)]


def test_a_parallel_resumes_where_each_branch_was(database, clock):
    calls = Calls("a", "b")
    branches = [
        {"StartAt": "A", "States": {"A": task("a", Next="AA"), "AA": {"Type": "Wait", "Seconds": 60, "End": True}}},
        {"StartAt": "B", "States": {"B": {"Type": "Wait", "Seconds": 30, "Next": "BB"}, "BB": task("b", End=True)}},
    ]
    machine = {"StartAt": "P", "States": {"P": {"Type": "Parallel", "Branches": branches, "End": True}}}
    runner = LocalRunner(database, calls.functions, clock)
    runner.start("w", machine, [], "e", wait=False)
    assert calls.counts == {"a": 1, "b": 0}
    assert runner.next_wake_us() == clock.now_us() + 30_000_000
    clock.advance_us(30_000_000)
    again = LocalRunner(database, calls.functions, clock)
    assert again.run_due() == ["e"]
    assert again.run_due() == []
    assert again.resume("e").output == [["a"], ["b"]]
    assert calls.counts == {"a": 1, "b": 1}


def test_variables_and_retry_counts_survive(database, clock):
    fails = [True, True, False]

    def flaky(payload):
        if fails.pop(0):
            raise ValueError("not yet")
        return payload

    machine = {
        "StartAt": "Set",
        "States": {
            "Set": {"Type": "Pass", "Assign": {"x": {"deep": [1]}}, "Next": "Try"},
            "Try": task("flaky", Parameters={"n.$": "$$.State.RetryCount", "x.$": "$x.deep"},
                        Retry=[{"ErrorEquals": ["ValueError"], "IntervalSeconds": 7, "MaxAttempts": 5}], End=True),
        },
    }  # fmt: skip
    runner = LocalRunner(database, {"flaky": flaky}, clock)
    runner.start("w", machine, {}, "e", wait=False)
    assert runner.next_wake_us() == clock.now_us() + 7_000_000
    execution = LocalRunner(database, {"flaky": flaky}, clock).resume("e")
    assert execution.output == {"n": 2, "x": [1]}
    assert execution.ended_us - execution.started_us == 21_000_000  # 7 s and 14 s


def test_a_virtual_year_is_one_jump(database, clock):
    machine = {"StartAt": "W", "States": {"W": {"Type": "Wait", "Seconds": YEAR_S - 1, "End": True}}}
    before = clock.now_us()
    execution = LocalRunner(database, {}, clock).start("w", machine, {})
    assert execution.status == "SUCCEEDED"
    assert clock.now_us() - before == (YEAR_S - 1) * 1_000_000


def test_an_execution_of_an_earlier_version_goes_on(database, clock):
    machine = chain("A", "B")
    cursor = {"state": "B", "input": ["a"], "attempts": {}}
    database.execute(
        "INSERT INTO executions (id, workflow, status, definition, input, started_us, cursor) VALUES ('old', 'w',"
        " 'RUNNING', ?, '[]', ?, ?)",
        (json.dumps(machine), clock.now_us(), json.dumps(cursor)),
    )
    calls = Calls("a", "b")
    assert LocalRunner(database, calls.functions, clock).resume("old").output == ["a", "b"]
    assert calls.counts == {"a": 0, "b": 1}


# --- ids


def test_an_id_runs_once_and_refuses_another_input(database, clock):
    calls = Calls("a")
    runner = LocalRunner(database, calls.functions, clock)
    first = runner.start("w", chain("A"), [], "e")
    assert runner.start("w", chain("A"), [], "e") == first
    assert calls.counts["a"] == 1
    with pytest.raises(ExecutionAlreadyExistsError, match="execution 'e' exists with another input") as refused:
        runner.start("w", chain("A"), [1], "e")
    assert isinstance(refused.value, ConflictError)


@pytest.mark.parametrize("name", ["a b", "a/b", "x" * 81, "a\n", "ä:b"])
def test_ids_that_are_no_names_are_refused(database, clock, name):
    with pytest.raises(InvalidInputError, match="expected 1 to 80 characters"):
        LocalRunner(database, {"a": id}, clock).start("w", chain("A"), [], name)


def test_the_input_must_be_json_and_not_too_large(database, clock):
    runner = LocalRunner(database, {"a": lambda p: p}, clock)
    with pytest.raises(InvalidInputError, match=r"the input must be JSON: \$\.x is of type set"):
        runner.start("w", chain("A"), {"x": {1}})
    with pytest.raises(InvalidInputError, match="the input has 262145 bytes, more than 262144"):
        runner.start("w", chain("A"), "x" * 262_143)
    assert runner.running() == []


def test_what_is_not_there_is_said(database, clock):
    runner = LocalRunner(database, {}, clock)
    for call in (runner.resume, runner.describe, runner.history, runner.advance, runner.redrive, runner.stop):
        with pytest.raises(NotFoundError, match="there is no execution 'nobody'"):
            call("nobody")


# --- leases


def test_two_starters_at_once_run_every_task_once(tmp_path):
    clock = SystemClock()
    counts = dict.fromkeys("abc", 0)
    lock = threading.Lock()
    gate = threading.Barrier(2, timeout=20)

    def count(name):
        def call(payload):
            with lock:
                counts[name] += 1
            return payload

        return call

    functions = {name: count(name) for name in counts}
    outputs = []

    def starter():
        database = LocalDatabase(str(tmp_path / "shared.db"), durability="normal")
        gate.wait()
        outputs.append(LocalRunner(database, functions, clock).start("w", chain("A", "B", "C"), 1, "e").output)
        database.close()

    threads = [threading.Thread(target=starter) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert outputs == [1, 1]
    assert counts == {"a": 1, "b": 1, "c": 1}


def test_whoever_lost_the_lease_commits_nothing(database, clock):
    runner = LocalRunner(database, {"a": lambda p: p}, clock)
    taken_over = []

    def steal(payload):
        if not taken_over:
            taken_over.append(True)
            database.execute(
                "UPDATE workflow_runs SET owner = 'boot:1:1/other', until_us = ?", (clock.now_us() + 5_000_000,)
            )
        return payload

    machine = chain("A")
    slow = LocalRunner(database, {"a": steal}, clock)
    execution = slow.start("w", machine, [], "e")
    # The first attempt's result was dropped; after the other's lease had ended, this one went on.
    assert execution.status == "SUCCEEDED"
    assert kinds(execution).count("LambdaFunctionSucceeded") == 1
    assert runner.resume("e").status == "SUCCEEDED"


def test_a_lease_that_is_held_is_waited_for(database, clock):
    runner = LocalRunner(database, {"a": lambda p: p}, clock)
    _native.set_faults("workflow.before_commit:fail:2")
    with pytest.raises(Exception, match="fault injected"):
        runner.start("w", chain("A"), [], "e")
    _native.set_faults("")
    until = clock.now_us() + 9_000_000
    database.execute("UPDATE workflow_runs SET owner = 'elsewhere:1:1/x', until_us = ?", (until,))
    assert runner.advance("e").held_until_us == until
    assert runner.resume("e").status == "SUCCEEDED"
    assert clock.now_us() >= until


def test_a_dead_process_of_this_machine_is_not_waited_for(database, clock):
    runner = LocalRunner(database, {"a": lambda p: p}, clock)
    _native.set_faults("workflow.before_commit:fail:2")
    with pytest.raises(Exception, match="fault injected"):
        runner.start("w", chain("A"), [], "e")
    _native.set_faults("")
    boot = _native.core.process_identity().partition(":")[0]
    database.execute("UPDATE workflow_runs SET owner = ?, until_us = ?", (f"{boot}:1:1/x", clock.now_us() + 10**12))
    before = clock.now_us()
    assert runner.resume("e").status == "SUCCEEDED"  # process 1 was not started at tick 1
    assert clock.now_us() == before


def test_a_stale_commit_is_refused_by_name(database, clock):
    runner = LocalRunner(database, {"a": lambda p: p}, clock)
    runner.start(
        "w", {"StartAt": "W", "States": {"W": {"Type": "Wait", "Seconds": 9, "End": True}}}, [], "e", wait=False
    )
    engine = runner._load("e")
    with pytest.raises(StaleLeaseError, match="execution e is run by somebody else"):
        runner.store.commit(engine, "not the owner", None, [], None)


# --- redrive


def test_redrive_goes_on_where_it_failed(database, clock):
    calls = Calls("a", "c")
    broken = [True]

    def b(payload):
        if broken[0]:
            raise ValueError("broken")
        return [*payload, "b"]

    runner = LocalRunner(database, {**calls.functions, "b": b}, clock)
    with pytest.raises(StageFailedError, match="execution e failed: ValueError: broken"):
        runner.start("w", chain("A", "B", "C"), [], "e")
    with pytest.raises(StageFailedError):
        runner.redrive("e")
    broken[0] = False
    execution = runner.redrive("e")
    assert execution.output == ["a", "b", "c"]
    assert (execution.redrives, calls.counts) == (2, {"a": 1, "c": 1})
    assert kinds(execution).count("ExecutionRedriven") == 2
    assert kinds(execution).count("TaskStateEntered") == 3  # the failed state is not entered again
    with pytest.raises(InvalidInputError, match="cannot be redriven: its status is SUCCEEDED"):
        runner.redrive("e")


def test_redrive_runs_only_the_branches_and_iterations_that_failed(database, clock):
    counts = {}
    broken = {2, 5}

    def work(n):
        counts[n] = counts.get(n, 0) + 1
        if n in broken:
            raise ValueError(n)
        return n * 10

    machine = {
        "StartAt": "M",
        "States": {"M": {"Type": "Map", "MaxConcurrency": 3, "ItemProcessor": {"StartAt": "F", "States": {"F": task("work", End=True)}}, "End": True}},
    }  # fmt: skip
    runner = LocalRunner(database, {"work": work}, clock)
    with pytest.raises(StageFailedError):
        runner.start("w", machine, [0, 1, 2, 3, 4, 5], "e")
    assert counts == {0: 1, 1: 1, 2: 1}
    broken.clear()
    assert runner.redrive("e").output == [0, 10, 20, 30, 40, 50]
    assert counts == {0: 1, 1: 1, 2: 2, 3: 1, 4: 1, 5: 1}


def test_what_cannot_be_redriven(database, clock):
    def fail(payload):
        raise ValueError

    runner = LocalRunner(database, {"a": fail}, clock)
    with pytest.raises(StageFailedError):
        runner.start("w", chain("A"), [], "x", kind="EXPRESS")
    with pytest.raises(InvalidInputError, match="Express executions cannot be"):
        runner.redrive("x")
    with pytest.raises(StageFailedError):
        runner.start("w", chain("A"), [], "old")
    clock.advance_us(15 * 86_400_000_000)
    with pytest.raises(InvalidInputError, match="it ended more than 14 days ago"):
        runner.redrive("old")


def test_a_stopped_execution_is_aborted_and_can_be_redriven(database, clock):
    machine = {"StartAt": "W", "States": {"W": {"Type": "Wait", "Seconds": 9, "End": True}}}
    runner = LocalRunner(database, {}, clock)
    runner.start("w", machine, [], "e", wait=False)
    stopped = runner.stop("e", "Enough", "of this")
    assert (stopped.status, stopped.error, stopped.cause) == ("ABORTED", "Enough", "of this")
    assert kinds(stopped)[-1] == "ExecutionAborted"
    with pytest.raises(StageFailedError, match="execution e was aborted: Enough: of this"):
        runner.resume("e")
    assert runner.redrive("e").status == "SUCCEEDED"


# --- time limits


def test_express_ends_after_five_minutes_and_standard_after_a_year(database, clock):
    def machine(seconds):
        return {"StartAt": "W", "States": {"W": {"Type": "Wait", "Seconds": seconds, "End": True}}}

    runner = LocalRunner(database, {}, clock)
    assert runner.start("w", machine(300), {}, "a", kind="EXPRESS").status == "SUCCEEDED"
    with pytest.raises(StageFailedError, match="execution b timed out"):
        runner.start("w", machine(301), {}, "b", kind="EXPRESS")
    assert runner.describe("b").status == "TIMED_OUT"
    assert runner.start("w", machine(YEAR_S), {}, "c").status == "SUCCEEDED"
    with pytest.raises(StageFailedError, match="timed out"):
        runner.start("w", machine(YEAR_S + 1), {}, "d")
    assert kinds(runner.describe("d"))[-1] == "ExecutionTimedOut"


def test_a_loop_without_a_wait_ends_at_the_history_limit(database, clock):
    machine = {
        "StartAt": "A",
        "States": {
            "A": {"Type": "Pass", "Next": "B"},
            "B": {"Type": "Choice", "Choices": [{"Variable": "$.x", "IsPresent": True, "Next": "C"}], "Default": "A"},
            "C": {"Type": "Succeed"},
        },
    }
    runner = LocalRunner(database, {}, clock)
    with pytest.raises(StageFailedError, match=r"the maximum number of history events \(25000\)"):
        runner.start("w", machine, {}, "e")
    assert len(runner.history("e")) <= 25_000


def test_a_task_that_takes_longer_than_it_may_times_out(database, clock):
    def slow(payload):
        clock.advance_us(11_000_000)
        return payload

    runner = LocalRunner(database, {"a": slow}, clock)
    with pytest.raises(StageFailedError, match=r"States\.Timeout"):
        runner.start("w", chain("A", TimeoutSeconds=10), [], "e")
    assert kinds(runner.describe("e"))[-2:] == ["LambdaFunctionTimedOut", "ExecutionFailed"]


def test_on_a_real_clock_a_task_is_given_up_while_it_runs(tmp_path):
    release = threading.Event()
    database = LocalDatabase(str(tmp_path / "real.db"), durability="normal")
    runner = LocalRunner(database, {"a": lambda payload: release.wait(30)}, SystemClock())
    try:
        with pytest.raises(StageFailedError, match=r"States\.Timeout"):
            runner.start("w", chain("A", TimeoutSeconds=1), [], "e")
    finally:
        release.set()
    database.close()


def test_on_a_real_clock_branches_run_at_the_same_time(tmp_path):
    meeting = threading.Barrier(3, timeout=20)

    def meet(payload):
        return meeting.wait() >= 0

    branches = [{"StartAt": n, "States": {n: task("meet", End=True)}} for n in "ABC"]
    machine = {"StartAt": "P", "States": {"P": {"Type": "Parallel", "Branches": branches, "End": True}}}
    database = LocalDatabase(str(tmp_path / "real.db"), durability="normal")
    runner = LocalRunner(database, {"meet": meet}, SystemClock())
    assert runner.start("w", machine, {}).output == [True, True, True]
    database.close()


# --- task tokens, activities


SEND = {
    "Type": "Task",
    "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
    "Parameters": {"QueueUrl": "q", "MessageBody": {"token.$": "$$.Task.Token"}},
    "End": True,
}


def tokens_of(clock, database, **fields):
    sent = []

    def send(request):
        sent.append(request.arguments["MessageBody"]["token"])
        return {"MessageId": "m"}

    runner = LocalRunner(database, {}, clock, ports={"sqs:sendMessage": send})
    machine = {"StartAt": "S", "States": {"S": {**SEND, **fields}}}
    return runner, machine, sent


def test_another_process_answers_a_task_token(database, clock):
    runner, machine, sent = tokens_of(clock, database)
    waiting = runner.start("w", machine, {}, "e")  # nothing that the clock does can wake it
    assert waiting.status == "RUNNING"
    assert kinds(waiting)[-1] == "TaskSubmitted"
    other = LocalRunner(database, {}, clock, ports={"sqs:sendMessage": None})
    other.send_task_success(sent[0], {"paid": True})
    assert runner.run_due() == ["e"]
    assert runner.describe("e").output == {"paid": True}
    for send in (other.send_task_success, other.send_task_failure):
        with pytest.raises(InvalidInputError, match="Invalid Token"):
            send(sent[0], "late")
    assert len(sent) == 1


def test_a_token_may_be_answered_with_an_error(database, clock):
    catch = [{"ErrorEquals": ["Refused"], "ResultPath": "$.why", "Next": "S2"}]
    runner, machine, sent = tokens_of(clock, database, Catch=catch)
    machine["States"]["S2"] = {"Type": "Succeed"}
    runner.start("w", machine, {}, "e")
    runner.send_task_failure(sent[0], "Refused", "no money")
    assert runner.resume("e").output == {"why": {"Error": "Refused", "Cause": "no money"}}


def test_a_token_that_is_answered_while_the_message_is_sent(database, clock):
    box = {}

    def send(request):
        box["runner"].send_task_success(request.token, 7)
        return {}

    runner = box["runner"] = LocalRunner(database, {}, clock, ports={"sqs:sendMessage": send})
    assert runner.start("w", {"StartAt": "S", "States": {"S": SEND}}, {}).output == 7


def test_heartbeats_keep_a_task_alive_until_they_stop(database, clock):
    runner, machine, sent = tokens_of(clock, database, HeartbeatSeconds=10, TimeoutSeconds=100)
    runner.start("w", machine, {}, "e", wait=False)
    for _ in range(3):
        clock.advance_us(8_000_000)
        runner.send_task_heartbeat(sent[0])
        runner.advance("e")
    assert runner.describe("e").status == "RUNNING"
    with pytest.raises(StageFailedError, match=r"States\.Timeout"):
        runner.resume("e")
    assert clock.now_us() - runner.describe("e").started_us == 34_000_000
    with pytest.raises(InvalidInputError, match="Invalid Token"):
        runner.send_task_heartbeat(sent[0])


def test_an_activity_is_taken_by_a_worker(database, clock):
    machine = {
        "StartAt": "A",
        "States": {"A": {"Type": "Task", "Resource": "arn:aws:states:eu-west-1:1:activity:approve", "End": True}},
    }
    runner = LocalRunner(database, {}, clock)
    assert runner.get_activity_task("approve") is None
    runner.start("w", machine, {"order": 1}, "e", wait=False)
    worker = LocalRunner(database, {}, clock)
    token, given = worker.get_activity_task("arn:aws:states:eu-west-1:1:activity:approve")
    assert given == {"order": 1}
    assert worker.get_activity_task("approve") is None  # each is taken once
    runner.advance("e")
    worker.send_task_success(token, "yes")
    execution = runner.resume("e")
    assert execution.output == "yes"
    assert [k for k in kinds(execution) if k.startswith("Activity")] == [
        "ActivityScheduled", "ActivityStarted", "ActivitySucceeded",
    ]  # fmt: skip


# --- executions within executions


def nested(pattern, **fields):
    resource = f"arn:aws:states:::states:startExecution{pattern}"
    given = {"StateMachineArn": "arn:aws:states:eu-west-1:1:stateMachine:child", "Input": {"n.$": "$.n"}, **fields}
    return {"StartAt": "S", "States": {"S": {"Type": "Task", "Resource": resource, "Parameters": given, "End": True}}}


CHILD = {
    "StartAt": "W",
    "States": {"W": {"Type": "Wait", "Seconds": 60, "Next": "F"}, "F": task("f", InputPath="$.n", End=True)},
}


def test_a_nested_execution_is_waited_for(database, clock):
    runner = LocalRunner(database, {"f": lambda n: n + 1}, clock, machines={"child": StateMachine(CHILD)})
    execution = runner.start("w", nested(".sync:2", Name="kid"), {"n": 1}, "e")
    assert execution.output["Output"] == 2
    assert execution.output["Status"] == "SUCCEEDED"
    assert runner.describe("kid").workflow == "child"
    assert clock.now_us() - execution.started_us == 60_000_000
    text = runner.start("w", nested(".sync"), {"n": 5}, "e2").output["Output"]
    assert json.loads(text) == 6


def test_a_nested_execution_that_fails_fails_the_task(database, clock):
    def refuse(n):
        raise TaskFailure("Bad", "luck")

    runner = LocalRunner(database, {"f": refuse}, clock, machines={"child": CHILD})
    with pytest.raises(StageFailedError, match=r"States\.TaskFailed"):
        runner.start("w", nested(".sync"), {"n": 1}, "e")
    cause = json.loads(runner.describe("e").cause)
    assert (cause["Status"], cause["Error"], cause["Cause"]) == ("FAILED", "Bad", "luck")


def test_an_execution_that_is_only_started(database, clock):
    runner = LocalRunner(database, {"f": lambda n: n}, clock, machines={"child": CHILD})
    execution = runner.start("w", nested("", Name="kid"), {"n": 1}, "e")
    assert execution.output["ExecutionArn"].endswith(":child:kid")
    assert runner.resume("kid").output == 1
    with pytest.raises(StageFailedError, match="ExecutionAlreadyExists"):
        runner.start("w", nested("", Name="kid"), {"n": 2}, "e2")
    with pytest.raises(StageFailedError, match="StateMachineDoesNotExist"):
        LocalRunner(database, {}, clock).start("w", nested(""), {"n": 2}, "e3")


def test_a_nested_execution_is_started_once_although_its_starter_is_killed(database, clock):
    calls = Calls("f")
    options = {"machines": {"child": CHILD}}
    _native.set_faults("workflow.before_commit:fail:3")
    with pytest.raises(Exception, match="fault injected"):
        LocalRunner(database, calls.functions, clock, **options).start("w", nested(".sync:2"), {"n": 1}, "e")
    _native.set_faults("")
    execution = LocalRunner(database, calls.functions, clock, **options).resume("e")
    assert execution.output["Output"] == 1
    assert calls.counts == {"f": 1}
    assert database.execute("SELECT count(*) FROM executions") == [(2,)]


# --- results


@pytest.mark.parametrize("result", [{1, 2}, object(), float("nan"), {"a": b"x"}, {1: 2}])
def test_a_result_that_is_no_json_fails_the_state_clearly(database, clock, result):
    runner = LocalRunner(database, {"a": lambda payload: result}, clock)
    with pytest.raises(StageFailedError, match=r"Runtime\.MarshalError: Unable to marshal response: \$"):
        runner.start("w", chain("A"), [], "e")


def test_a_result_that_is_too_large_fails_the_state(database, clock):
    runner = LocalRunner(database, {"a": lambda payload: "x" * 300_000}, clock)
    catch = [{"ErrorEquals": ["States.ALL"], "Next": "B"}]
    machine = {"StartAt": "A", "States": {"A": task("a", Catch=catch, End=True), "B": {"Type": "Succeed"}}}
    with pytest.raises(StageFailedError, match=r"States\.DataLimitExceeded.*size exceeding the maximum"):
        runner.start("w", machine, [], "e")  # States.ALL does not catch it
    catch[0]["ErrorEquals"] = ["States.DataLimitExceeded"]
    assert runner.start("w", machine, [], "e2").status == "SUCCEEDED"


def test_functions_cannot_change_what_the_execution_keeps(database, clock):
    def spoil(payload):
        payload["x"] = "spoiled"

    machine = {"StartAt": "A", "States": {"A": task("a", ResultPath=None, End=True)}}
    assert LocalRunner(database, {"a": spoil}, clock).start("w", machine, {"x": 1}).output == {"x": 1}


def test_what_is_not_supported_is_refused_before_anything_runs(database, clock):
    calls = Calls("a")
    machine = chain("A", "B")
    machine["States"]["B"] = {"Type": "Task", "Resource": "arn:aws:states:::aws-sdk:ec2:stopInstances", "End": True}
    runner = LocalRunner(database, calls.functions, clock)
    with pytest.raises(
        InvalidInputError, match=r"state 'B' \(at \$\.States\.B\): the runner does not support 'arn.*ec2"
    ):
        runner.start("w", machine, [], "e")
    assert calls.counts == {"a": 0}
    assert runner.running() == []


def test_an_execution_is_not_resumed_without_its_functions(database, clock):
    runner = LocalRunner(database, {"a": lambda p: p}, clock)
    machine = {"StartAt": "W", "States": {"W": {"Type": "Wait", "Seconds": 9, "Next": "A"}, "A": task("a", End=True)}}
    runner.start("w", machine, [], "e", wait=False)
    clock.advance_us(10_000_000)
    bare = LocalRunner(database, {}, clock)
    with pytest.raises(InvalidInputError, match="there is no function 'a'"):
        bare.resume("e")
    assert bare.run_due() == ["e"]  # said in the log; the execution stays as it is
    assert runner.resume("e").status == "SUCCEEDED"


def test_what_is_pruned_leaves_nothing_behind(database, clock):
    from headgate.backends.retention import Retention, prune

    def fail(payload):
        raise ValueError

    runner = LocalRunner(database, {"a": fail}, clock)
    with pytest.raises(StageFailedError):
        runner.start("w", chain("A"), [], "old")  # its frames are kept for a redrive
    clock.advance_us(91 * 86_400_000_000)
    prune(database, None, Retention(), clock)
    prune(database, None, Retention(), clock)  # events first, then the execution
    for table in ("executions", "execution_events", "workflow_runs", "workflow_frames"):
        assert database.execute(f"SELECT count(*) FROM {table}") == [(0,)]


def test_lists_show_the_latest_first(database, clock):
    runner = LocalRunner(database, {"a": lambda p: p}, clock)
    for number in range(3):
        runner.start("w" if number else "other", chain("A"), [], f"e{number}")
        clock.advance_us(1)
    assert [e.id for e in runner.executions()] == ["e2", "e1", "e0"]
    assert [e.id for e in runner.executions("w", limit=1)] == ["e2"]


def test_eight_threads_share_commits(tmp_path):
    database = LocalDatabase(str(tmp_path / "g.db"), durability="normal")
    runner = LocalRunner(database, {"a": lambda p: p}, SystemClock())
    outputs = []

    def work(number):
        outputs.append(runner.start("w", chain("A"), number, f"e{number}").output)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outputs) == list(range(8))
    database.close()


def test_an_error_in_one_commit_of_a_group_spares_the_others():
    from headgate.workflow._store import GroupCommit

    database = LocalDatabase(":memory:")
    database.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)")
    group = GroupCommit()
    errors = []
    start = threading.Barrier(5, timeout=20)

    def work(number):
        start.wait()
        try:
            group.run(database, lambda tx: tx.execute("INSERT INTO t VALUES (?)", (number,)) if number != 3 else 1 / 0)
        except ZeroDivisionError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert database.execute("SELECT n FROM t ORDER BY n") == [(0,), (1,), (2,), (4,)]
    assert len(errors) == 1


def test_a_manual_clock_is_not_needed_for_virtual_time(database):
    class Jumping:
        def __init__(self):
            self.at = 0

        def now_us(self):
            return self.at

        def sleep_us(self, us):
            self.at += us

    machine = {"StartAt": "W", "States": {"W": {"Type": "Wait", "Seconds": 86_400, "End": True}}}
    assert LocalRunner(database, {}, Jumping()).start("w", machine, {}).status == "SUCCEEDED"


def test_a_database_is_freed_with_the_runners_that_used_it(tmp_path):
    """A process that opens many databases, as a test suite or a simulation does, does not keep them."""
    import gc
    import weakref

    database = LocalDatabase(str(tmp_path / "h.db"))
    LocalRunner(database, {"f": lambda n: n}, ManualClock(0)).start(
        "w", {"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "f", "End": True}}}, 1
    )
    gone = weakref.ref(database)
    database.close()
    del database
    gc.collect()
    assert gone() is None
