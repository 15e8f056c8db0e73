"""The walk through a batch of records, and calls of handlers that may be async."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import threading

import pytest

from headgate.consume._batches import AwaitingCaller, bytes_of, records_of, run_records
from headgate.errors import ConfigError, InvalidInputError, Kind


class Context:
    """What Lambda hands to a handler: how many milliseconds are left at each question."""

    def __init__(self, *left_ms):
        self._left = list(left_ms)

    def get_remaining_time_in_millis(self):
        return self._left.pop(0) if len(self._left) > 1 else self._left[0]


def fails(*which):
    def run(record):
        ran.append(record)
        return record not in which

    ran = []
    run.ran = ran
    return run


def test_only_the_failed_records_come_again():
    run = fails(2, 4)
    assert run_records([1, 2, 3, 4, 5], run) == [2, 4]
    assert run.ran == [1, 2, 3, 4, 5]


def test_a_group_stops_at_its_failure_and_other_groups_go_on():
    run = fails(2)
    assert run_records([1, 2, 3, 4, 6], run, lambda n: n % 2) == [2, 4, 6]
    assert run.ran == [1, 2, 3]


def test_records_without_a_group_block_nothing():
    run = fails(1)
    assert run_records([1, 2], run, lambda n: None) == [1]
    assert run.ran == [1, 2]


def test_a_stream_gives_back_everything_after_its_first_failure():
    run = fails(2)
    assert run_records([1, 2, 3, 4], run, stop_at_first_failure=True) == [2, 3, 4]
    assert run.ran == [1, 2]


@pytest.mark.parametrize("error", [ValueError, SystemExit, asyncio.CancelledError, GeneratorExit])
def test_whatever_a_record_raises_is_its_own_failure(caplog, error):
    def run(record):
        if record == "a":
            raise error("secret")
        return True

    with caplog.at_level(logging.WARNING, "headgate.consume"):
        assert run_records(["a", "b"], run, describe=lambda r: {"message_id": r}) == ["a"]
    (line,) = caplog.records
    assert (line.message_id, line.error) == ("a", error.__name__)
    assert "in run" in line.traceback
    assert all("secret" not in str(value) for value in vars(line).values())


def test_ctrl_c_ends_the_batch():
    def run(record):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_records([1], run)


def test_what_there_is_no_time_for_is_given_back_unread():
    run = fails(1)
    assert run_records([1, 2, 3, 4], run, context=Context(5000, 5000, 3000, 900)) == [1, 3, 4]
    assert run.ran == [1, 2]


def test_a_function_with_a_short_timeout_gets_on():
    run = fails()
    assert run_records([1, 2, 3], run, context=Context(980, 980, 700, 300)) == [3]
    assert run.ran == [1, 2]
    run = fails()
    assert run_records([1, 2], run, context=Context(0)) == [2]
    assert run.ran == [1]


def test_the_records_that_are_given_back_are_counted_in_a_log_line(caplog):
    with caplog.at_level(logging.WARNING, "headgate.consume"):
        run_records([1, 2, 3, 4], fails(), context=Context(5000, 5000, 900))
    (line,) = caplog.records
    assert (line.message, line.given_back) == ("no time left", 3)


@pytest.mark.parametrize(("left_ms", "begun"), [(1000, 2), (999, 1)])
def test_with_a_second_left_a_record_is_begun(left_ms, begun):
    run = fails()
    run_records([1, 2], run, context=Context(60_000, 60_000, left_ms))
    assert len(run.ran) == begun


@pytest.mark.parametrize(("left_ms", "begun"), [(300, 2), (299, 1)])
def test_a_function_of_less_than_two_seconds_keeps_half_of_them(left_ms, begun):
    run = fails()
    run_records([1, 2], run, context=Context(600, 600, left_ms))
    assert len(run.ran) == begun


def test_another_event_is_refused_by_one_sentence():
    for event, got in ((None, "a NoneType"), ({}, "an object without it"), ([], "a list")):
        with pytest.raises(InvalidInputError) as caught:
            records_of(event, "an SQS queue")
        assert caught.value.message == (
            f"the event: expected what Lambda sends for an SQS queue, with a list Records, got {got}"
        )


def test_base64_is_read_strictly():
    assert bytes_of("YWI=", "data") == b"ab"
    for text in ("YWI", "Y WI=", "YWI=\n", "YW*I=", None, 7):
        with pytest.raises(InvalidInputError) as caught:
            bytes_of(text, "kinesis.data")
        assert (caught.value.kind, caught.value.message) == (Kind.INVALID_RECORD, "kinesis.data: expected base64")


# --- calls


async def double(n):
    await asyncio.sleep(0)
    return 2 * n


def foreign(function):
    """A decorator that hides that its function is async."""

    @functools.wraps(function)
    def call(*args):
        return function(*args)

    return call


class Doubler:
    async def __call__(self, n):
        return 2 * n


@pytest.mark.parametrize(
    "handler", [double, lambda n: 2 * n, foreign(double), functools.partial(double), Doubler()],
    ids=["async", "sync", "wrapped", "partial", "object"],
)  # fmt: skip
def test_handlers_of_every_form_run(handler):
    assert AwaitingCaller(handler)(4) == 8


def test_one_loop_serves_all_calls():
    async def loop_of():
        return asyncio.get_running_loop()

    call = AwaitingCaller(loop_of)
    first = call()
    assert call() is first
    del call
    gc.collect()
    assert first.is_closed()


def test_a_call_inside_a_running_loop_runs_too():
    async def handler(n):
        return n, threading.current_thread().name

    call = AwaitingCaller(handler)

    async def outer():
        return call(1), call(2)

    assert asyncio.run(outer()) == ((1, "headgate-async-handler"), (2, "headgate-async-handler"))
    assert call(3)[0] == 3


def test_an_error_inside_a_running_loop_is_raised():
    async def handler():
        raise ValueError("no")

    async def outer():
        with pytest.raises(ValueError, match="no"):
            AwaitingCaller(handler)()

    asyncio.run(outer())


def test_a_handler_that_calls_itself_is_refused_instead_of_waiting_for_ever():
    async def handler(n):
        return call(n - 1) if n else 0

    call = AwaitingCaller(handler)
    with pytest.raises(ConfigError, match="from inside its own async handler"):
        call(1)


@pytest.mark.parametrize("error", [SystemExit, asyncio.CancelledError])
def test_the_loop_survives_what_ends_a_handler(error):
    async def handler(n):
        if n:
            raise error
        return "fine"

    call = AwaitingCaller(handler)
    with pytest.raises(error):
        call(1)
    assert call(0) == "fine"


def test_a_forked_child_has_a_loop_of_its_own():
    call = AwaitingCaller(double)
    assert call(1) == 2
    child = os.fork()
    if child == 0:
        os._exit(0 if call(2) == 4 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert call(3) == 6


def test_generators_do_not_run_and_are_refused():
    def generator(body):
        yield body

    async def agenerator(body):
        yield body

    for handler in (generator, agenerator, functools.partial(generator)):
        with pytest.raises(ConfigError, match="generator function"):
            AwaitingCaller(handler)
    for handler in (foreign(generator), foreign(agenerator)):
        with pytest.raises(InvalidInputError, match="returned a generator"):
            AwaitingCaller(handler)({})


def test_an_async_result_that_has_not_run_is_refused():
    async def handler(n):
        return double(n)

    with pytest.raises(InvalidInputError, match="returned an awaitable"):
        AwaitingCaller(handler)(1)
