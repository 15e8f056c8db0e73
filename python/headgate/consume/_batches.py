"""What Lambda handlers of record batches share: the walk through a batch, and calls of sync and async handlers."""

from __future__ import annotations

import base64
import binascii
import inspect
import logging
import os
import threading
import weakref
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeVar

from headgate.errors import ConfigError, InvalidInputError, Kind
from headgate.idempotency._failures import code_path
from headgate.idempotency._handler import check_handler, discard_unfinished, handler_name, refuse_unfinished
from headgate.idempotency._lease import remaining_s
from headgate.idempotency._options import check_call

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence

T = TypeVar("T")
log = logging.getLogger("headgate.consume")
_inherited_loops: list[Any] = []
_LAST_S = 1.0  # if less time is left of the Lambda invocation, no further record is started


def run_records(
    records: Sequence[T],
    run: Callable[[T], bool],
    group_of: Callable[[T], Hashable | None] | None = None,
    stop_at_first_failure: bool = False,
    *,
    context: Any = None,
    describe: Callable[[T], Mapping[str, Any]] | None = None,
) -> list[T]:
    """Run the records of a batch one after the other, and say which ones have to come again.

    A record's failure is its own, whatever it raises; only KeyboardInterrupt ends the batch. When less than a second is
    left of a Lambda invocation, the records that have not begun are given back unread, rather than being killed half
    way. The first record is always begun, so that a function with a short timeout gets on too.

    Args:
        records: the batch, in its order.
        run: record -> whether it is done. False and any exception mean that it has to come again.
        group_of: record -> its ordered group, or None: it has none. Records that follow a failed one of their group are
            given back unread, so that the group stays in order.
        stop_at_first_failure: give back everything that follows the first failed record, as streams need it.
        context: what Lambda hands to a handler; tells how much time is left.
        describe: record -> what a log line says about it (an id; never a body).

    Returns:
        The records to bring again, in the batch's order.

    Example:
        >>> run_records([1, 2, 3, 4], lambda n: n != 2, lambda n: n % 2)
        [2, 4]
    """
    failures: list[T] = []
    blocked: set[Hashable] = set()
    margin_s = min(_LAST_S, (remaining_s(context) or 2 * _LAST_S) / 2)
    for index, record in enumerate(records):
        left_s = remaining_s(context)
        if index and left_s is not None and left_s < margin_s:
            log.warning("no time left", extra={"given_back": len(records) - index})
            return [*failures, *records[index:]]
        group = group_of(record) if group_of is not None else None
        if group is not None and group in blocked:
            failures.append(record)
            continue
        try:
            done = run(record)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            about = describe(record) if describe is not None else {}
            log.warning("record failed", extra={**about, "error": type(error).__name__, "traceback": code_path(error)})
            done = False
        if done:
            continue
        failures.append(record)
        if stop_at_first_failure:
            return [*failures, *records[index + 1 :]]
        if group is not None:
            blocked.add(group)
    return failures


def records_of(event: Any, source: str) -> list[Any]:
    """The list `Records` of a Lambda event.

    Args:
        event: what Lambda handed over.
        source: where it should come from, for the error: "an SQS queue".

    Raises:
        InvalidInputError: it is another kind of event. Answering it with an empty list of failures would say that
            records were handled which nobody has read.
    """
    records = event.get("Records") if isinstance(event, dict) else None
    if not isinstance(records, list):
        raise InvalidInputError(unexpected_event(event, source, "a list Records"), Kind.INVALID_RECORD)
    return records


def unexpected_event(event: Any, source: str, expected: str) -> str:
    """The sentence for an event of another kind."""
    got = "an object without it" if isinstance(event, dict) else f"a {type(event).__name__}"
    return f"the event: expected what Lambda sends for {source}, with {expected}, got {got}"


def bytes_of(text: Any, where: str) -> bytes:
    """The bytes of a record's base64 text.

    Args:
        text: as it stands in the record.
        where: the field, for the error.

    Raises:
        InvalidInputError: it is no base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        message = f"{where}: expected base64"
        raise InvalidInputError(message, Kind.INVALID_RECORD) from None


class AwaitingCaller:
    """Calls a handler, and awaits what it returns if that can be awaited.

    All calls of one caller share one event loop, which stays open, so that an asynchronous client that a handler keeps
    from one invocation of a warm Lambda function to the next stays usable. Calls from several threads wait for each
    other. Inside a running event loop (a notebook, a test) the handler's own loop runs on a thread of its own, and the
    call blocks until it has ended.

    Args:
        handler: a function or a callable object, synchronous or `async`.

    Raises:
        ConfigError: the handler is a class or a generator function, which would not run when called.

    Example:
        >>> async def double(n): return 2 * n
        >>> AwaitingCaller(double)(4)
        8
    """

    def __init__(self, handler: Callable[..., Any]) -> None:
        check_handler(_name_of(handler), handler)
        self.name = _name_of(handler)
        self._handler = handler
        self._loop: AbstractEventLoop | None = None
        self._pid = 0
        self._lock = threading.Lock()

    def __call__(self, *arguments: Any) -> Any:
        """The handler's result.

        Raises:
            InvalidInputError: it returned a generator, of which nothing has run.
            Exception: the handler's own.
        """
        result = self._handler(*arguments)
        if inspect.isawaitable(result):
            result = self._wait_for(result)
        refuse_unfinished(result, "expected its result", consumer=self.name)
        return result

    def _wait_for(self, awaitable: Awaitable[Any]) -> Any:
        import asyncio  # 35 ms that synchronous users need not pay

        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            return self._run(awaitable)
        if running is self._loop:
            discard_unfinished(awaitable)
            message = f"{self.name}: called from inside its own async handler, which would wait for itself"
            raise ConfigError(message)
        outcome: list[Any] = []
        context = copy_context()

        def work() -> None:
            try:
                outcome.extend((context.run(self._run, awaitable), None))
            except BaseException as error:
                outcome.extend((None, error))

        thread = threading.Thread(target=work, name="headgate-async-handler")
        thread.start()
        thread.join()
        result, error = outcome
        if error is not None:
            raise error
        return result

    def _run(self, awaitable: Awaitable[Any]) -> Any:
        import asyncio

        async def wait() -> Any:
            return await awaitable

        if self._pid != os.getpid():
            # A forked child needs a loop of its own. It must not even close its copy of the parent's loop: both share
            # one epoll object.
            _inherited_loops.append(self._loop)
            self._pid, self._loop, self._lock = os.getpid(), None, threading.Lock()
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                weakref.finalize(self, _close_loop, self._loop, self._pid)
            return self._loop.run_until_complete(wait())


def caller_of_bodies(handler: Callable[..., Any]) -> AwaitingCaller:
    """A caller of a handler that gets one record's body.

    Raises:
        ConfigError: as of `AwaitingCaller`, or the handler does not take one argument.
    """
    call = AwaitingCaller(handler)
    check_call(call.name, handler, "body")
    return call


def _close_loop(loop: AbstractEventLoop, pid: int) -> None:
    if pid == os.getpid():
        loop.close()


def _name_of(handler: Any) -> str:
    return handler_name(handler) if callable(handler) else "handler"
