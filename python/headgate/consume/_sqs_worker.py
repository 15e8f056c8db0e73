"""A worker that polls an SQS queue."""

from __future__ import annotations

import logging
import uuid
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from headgate.consume._messages import ConsumeResult, DeliveryResult, Outcome
from headgate.consume._process import Processor, check_parts
from headgate.consume._sqs_dead_letters import DeadLetterRefusedError, SqsDeadLetterQueue
from headgate.consume._sqs_messages import SqsDelivery, is_fifo, read_message
from headgate.consume._sqs_queue import (
    error_code,
    is_refusal,
    max_receive_count,
    raise_if_final,
    read_attributes,
    set_up_warnings,
)
from headgate.consume._sqs_visibility import MAX_VISIBILITY_S, HeldMessage, VisibilityKeeper
from headgate.errors import ConfigError, HeadgateError, Kind
from headgate.idempotency._failures import code_path
from headgate.idempotency._options import check_count, check_name

if TYPE_CHECKING:
    from headgate.consume._consumer import Consumer
    from headgate.idempotency import Ledger
    from headgate.items import LifeCycle
    from headgate.ports import Clock, Metrics

log = logging.getLogger("headgate.consume")
_MAX_BATCH = 10  # ReceiveMessage returns so many messages at most
_LONG_POLL_S = 10  # how long SQS holds an empty poll; it allows 20
_BUSY_POLL_S = 2  # shorter while messages are being handled, so that their results are processed soon
_AWAY_S = 1.0
_LAG_S = 5.0
_WAIT_S = 1.0  # how long the loop waits for a result of its threads
_SHORT_WAIT_S = 0.1
_LONG_WAIT_S = 60.0  # until a message that the dead-letter queue refuses is tried again
_WAITING_PER_THREAD = 10  # this worker keeps so many waiting messages per thread; further ones stay in the queue


class _Received:
    """One received message."""

    def __init__(self, delivery: SqsDelivery, held: HeldMessage) -> None:
        self.delivery = delivery
        self.held = held
        self.waits = 0  # how many times in a row it met a backend that was unavailable


class _Line:
    """Messages that are handled one after the other: those of one FIFO group, or a single one of a standard queue."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.waiting: deque[_Received] = deque()
        self.is_running = False
        self.due_us = 0  # monotonic; not handled before


class SqsWorker:
    """Runs one consumer on an SQS queue until told to stop.

    A message is deleted when it was handled, was a duplicate, or is in the dead-letter queue. One that failed becomes
    visible again when it is due. One that waits, because another worker has its claim or because a backend is
    unavailable, stays with this worker and invisible, so that an outage does not use up the queue's `maxReceiveCount`;
    while a backend is unavailable nothing further is received. The visibility of every message is renewed for as long
    as it is here.

    Of a FIFO queue (`.fifo` at the end of its URL) the messages of a group are handled one by one and not past one that
    failed or waits; groups are handled at the same time.

    Args:
        consumer: the consumer to run.
        ledger: the ledger that holds the claims.
        clock: the clock; tests pass a `ManualClock`.
        client: a boto3 SQS client.
        queue_url: the queue.
        dead_letter_url: a queue for dead letters, which get their reason as attributes (docs/consumers.md). Without one
            they are left to the queue's own redrive policy, and `max_attempts` does not count.
        concurrency: how many messages are handled at the same time.
        metrics: counts, durations and lag.
        items: finishes the items that the consumer handles (`headgate.items`); None: none.

    Raises:
        ConfigError: an option is not what is expected here.

    Example:
        >>> worker = SqsWorker(consumer, ledger, clock, boto3.client("sqs"), url)       # doctest: +SKIP
        >>> signal.signal(signal.SIGTERM, lambda *_: worker.stop())                     # doctest: +SKIP
        >>> worker.run()                                                                # doctest: +SKIP
    """

    def __init__(
        self, consumer: Consumer, ledger: Ledger, clock: Clock, client: Any, queue_url: str, *,
        dead_letter_url: str | None = None, concurrency: int = 4, metrics: Metrics | None = None,
        items: LifeCycle | None = None,
    ) -> None:  # fmt: skip
        check_parts(consumer, ledger)
        where = f"consumer {consumer.name}: "
        _check_url(f"{where}queue_url", queue_url)
        if dead_letter_url is not None:
            _check_url(f"{where}dead_letter_url", dead_letter_url)
            if dead_letter_url == queue_url:
                message = f"{where}dead_letter_url: expected another queue than the one that is consumed"
                raise ConfigError(message)
        self.consumer = consumer
        self.clock = clock
        self.stopping = False
        self.result = ConsumeResult()
        self._client = client
        self._url = queue_url
        self._dead_letters = (
            None if dead_letter_url is None else SqsDeadLetterQueue(client, dead_letter_url, consumer.name, queue_url)
        )
        self._metrics = metrics
        self._last_lag_us = -(1 << 62)
        self._concurrency = check_count(f"{where}concurrency", concurrency)
        self._most_waiting = self._concurrency * _WAITING_PER_THREAD
        self._ledger = ledger
        self._processor = Processor(consumer, ledger, clock, self._dead_letters, metrics, items)
        self._is_fifo = is_fifo(queue_url)
        # A receive counts for every message of its batch. Where the queue moves messages by that count, the later ones
        # of a group would be moved unread together with a first one that fails, so that a FIFO queue with a redrive
        # policy, or one that is not known, is read message by message.
        self._most = 1 if self._is_fifo else _MAX_BATCH
        self._attempt_id = ""
        self._is_checked = False
        self._answers: SimpleQueue[tuple[_Line, DeliveryResult | None, BaseException | None]] = SimpleQueue()
        self._lines: list[_Line] = []
        self._running = 0
        self._last_work_us = 0
        self._rest_until_us = 0  # monotonic; nothing is received or handled before
        self._receive_after_us = 0
        self._is_probing = False  # after a pause, one message is handled to see whether the backend is available again
        self._has_asked = False  # whether messages were requested since the last pause
        self._is_ending = False
        self._receive_failures = 0
        self._fatal: BaseException | None = None  # an exception that has to end the worker, such as KeyboardInterrupt
        self._keeper: VisibilityKeeper

    def stop(self) -> None:
        """Finish what is being handled, give the rest back, then return (safe in a signal handler)."""
        self.stopping = True

    def drain(self, wait_s: float = 0.0) -> ConsumeResult:
        """As `run`, until nothing came for `wait_s` seconds."""
        return self.run(wait_s)

    def run(self, max_idle_s: float | None = None) -> ConsumeResult:
        """Handle messages until `stop()`, or until nothing was there to do for `max_idle_s` seconds.

        Raises:
            ConfigError: the queue or the dead-letter queue does not exist.
            AccessError: SQS refuses the credentials.
        """
        self._check_set_up()
        self._is_ending = False
        self._fatal = None
        self._rest_until_us = self._receive_after_us = self._receive_failures = 0
        self._is_probing = False
        # A second more than the lease, and two at least: SQS counts whole seconds.
        self._keeper = VisibilityKeeper(self._client, self._url, max(2, int(self.consumer.usual_lease_s) + 1))
        threads = ThreadPoolExecutor(self._concurrency, thread_name_prefix="headgate-consume")
        try:
            self._loop(threads, max_idle_s)
        finally:
            self._is_ending = True
            threads.shutdown(wait=True)
            self._collect(0.0)
            for line in self._lines:
                self._give_back(line)
            self._lines.clear()
            self._keeper.close()
        if self._fatal is not None:
            raise self._fatal
        self._last_lag_us = -(1 << 62)
        self._report_lag()
        return self.result

    # --- the loop's steps, all on the thread that called run()

    def _loop(self, threads: ThreadPoolExecutor, max_idle_s: float | None) -> None:
        self._last_work_us = self.clock.mono_us()
        while not self.stopping and self._fatal is None:
            self._collect(0.0)
            if not self._wants_fresh():
                self._dispatch(threads)
            self._report_lag()
            now = self.clock.mono_us()
            if self._running:
                self._last_work_us = now
            idle_left_s = _LONG_POLL_S if max_idle_s is None else max_idle_s - (now - self._last_work_us) / 1e6
            poll_s = _BUSY_POLL_S if self._running else _LONG_POLL_S
            left_s = max(0.0, min(poll_s, idle_left_s, self._next_due_s(now)))
            room = self._room(now)
            if room > 0:
                self._has_asked = True
                messages = self._receive(room, int(left_s))
                if messages:
                    self._last_work_us = self.clock.mono_us()
                    self._accept(messages)
                    continue
            if self._running:
                if room <= 0 or left_s < 1.0:  # otherwise the poll itself has waited
                    self._collect(_WAIT_S if room <= 0 else max(_SHORT_WAIT_S, left_s))
                continue
            now = self.clock.mono_us()
            if max_idle_s is not None and now - self._last_work_us >= max_idle_s * 1e6:
                return
            if room <= 0 or left_s < 1.0:
                self._pause(now, max_idle_s)

    def _pause(self, now: int, max_idle_s: float | None) -> None:
        """Wait until a kept message is due or a pause ends, but no longer than the loop may idle."""
        wait_s = min(_WAIT_S, self._next_due_s(now))
        resting_us = max(self._rest_until_us, self._receive_after_us) - now
        if resting_us > 0:
            wait_s = min(_WAIT_S, resting_us / 1e6)
        if max_idle_s is not None:
            wait_s = min(wait_s, max_idle_s - (now - self._last_work_us) / 1e6)
        self.clock.sleep_us(max(1000, int(wait_s * 1e6)))

    def _room(self, now: int) -> int:
        """How many messages to ask for: none while a backend is unavailable, and no more than can be begun at once."""
        if max(self._rest_until_us, self._receive_after_us) > now:
            return 0
        if self._is_probing:
            return 1 if not self._lines or self._wants_fresh() else 0
        ready = sum(1 for line in self._lines if not line.is_running and line.due_us <= now)
        return min(self._most, self._concurrency - self._running - ready)

    def _wants_fresh(self) -> bool:
        """Whether a rest has just ended and a message that was not tried yet should show if the backend is back.

        One whose own service stays unavailable must not keep the others waiting behind it.
        """
        if not self._is_probing or self._has_asked or self._running or len(self._lines) >= self._most_waiting:
            return False
        if max(self._rest_until_us, self._receive_after_us) > self.clock.mono_us():
            return False
        return all(line.waiting[0].waits for line in self._lines)

    def _next_due_s(self, now: int) -> float:
        """In how many seconds a message that waits here is to be tried again."""
        due = [line.due_us for line in self._lines if not line.is_running]
        return max(0.0, (min(due) - now) / 1e6) if due else float("inf")

    def _receive(self, room: int, wait_s: int) -> list[Any]:
        more: dict[str, Any] = {}
        if self._is_fifo:
            # With the same id, a receive whose answer was lost can be repeated and gives the same messages.
            self._attempt_id = self._attempt_id or uuid.uuid4().hex
            more["ReceiveRequestAttemptId"] = self._attempt_id
        try:
            answer = self._client.receive_message(
                QueueUrl=self._url, MaxNumberOfMessages=room, WaitTimeSeconds=wait_s, AttributeNames=["All"],
                MessageAttributeNames=["All"], VisibilityTimeout=self._keeper.visibility_s, **more,
            )  # fmt: skip
        except Exception as error:
            raise_if_final(error)
            if is_refusal(error):
                self._attempt_id = ""
            log.warning("SQS", extra={"consumer": self.consumer.name, "error": error_code(error)})
            away_s = self._growing_s(self._receive_failures)
            self._receive_failures += 1
            self._receive_after_us = self.clock.mono_us() + int(away_s * 1e6)
            return []
        self._receive_failures = 0
        self._attempt_id = ""
        return list(answer.get("Messages", ()))

    def _accept(self, messages: list[Any]) -> None:
        for message in messages:
            delivery = read_message(self.consumer.topic, message)
            received = _Received(delivery, self._keeper.hold(message["ReceiptHandle"]))
            group = delivery.group if self._is_fifo else ""
            line = next((line for line in self._lines if line.group == group), None) if group else None
            if line is None:
                line = _Line(group)
                self._lines.append(line)
            line.waiting.append(received)

    def _dispatch(self, threads: ThreadPoolExecutor) -> None:
        now = self.clock.mono_us()
        if self._rest_until_us > now:
            return
        ready = sorted(
            (line for line in self._lines if not line.is_running and line.due_us <= now),
            key=lambda line: (line.waiting[0].waits > 0, line.due_us),
        )
        free = max(0, (1 if self._is_probing else self._concurrency) - self._running)
        for line in ready[:free]:
            line.is_running = True
            self._running += 1
            threads.submit(self._work, line)

    def _collect(self, wait_s: float) -> None:
        """Process the results of the threads."""
        while True:
            try:
                line, processed, error = self._answers.get(timeout=wait_s) if wait_s else self._answers.get_nowait()
            except Empty:
                break
            wait_s = 0.0
            if processed is not None:
                self.result.add(processed)
                self._rest(processed)
            else:
                self._fatal = self._fatal or error
                self._running -= 1
                self._last_work_us = self.clock.mono_us()
                line.is_running = False
                if not line.waiting:
                    self._lines.remove(line)

    def _rest(self, processed: DeliveryResult) -> None:
        """Receive nothing while a backend is unavailable: it would only be counted against the messages."""
        if processed.unavailable:
            self._rest_until_us = max(self._rest_until_us, self.clock.mono_us() + int(processed.retry_s * 1e6))
            self._is_probing, self._has_asked = True, False
        else:
            self._is_probing = False

    # --- on a thread of the pool

    def _work(self, line: _Line) -> None:
        """Handle a line's messages in their order, until one of them is unsettled."""
        fatal: BaseException | None = None
        try:
            while line.waiting and not self.stopping and not self._is_ending:
                received = line.waiting[0]
                processed = self._handle(received)
                if processed.outcome.settled or not self._keeps(received, processed):
                    line.waiting.popleft()
                self._finish(line, received, processed)
                self._answers.put((line, processed, None))
                if not processed.outcome.settled:
                    break
        except BaseException as error:
            fatal = error
        self._answers.put((line, None, fatal))

    def _handle(self, received: _Received) -> DeliveryResult:
        try:
            return self._processor.process(received.delivery)
        except Exception as error:
            # A bug in headgate: the message stays in the queue.
            about = {"consumer": self.consumer.name, "message_id": received.delivery.message_id}
            log.error("processing broke", extra={**about, "traceback": code_path(error)})
            return DeliveryResult(Outcome.FAILED, _AWAY_S, type(error).__name__)

    def _keeps(self, received: _Received, processed: DeliveryResult) -> bool:
        """Whether an unsettled message stays with this worker until it is due, so that no further receive is
        counted."""
        waits = processed.outcome is Outcome.WAITING or processed.unavailable
        if not waits or processed.error in {Kind.STALE_LEASE.value, DeadLetterRefusedError.__name__}:
            return False
        if self.stopping or self._is_ending or not received.held.is_held:
            return False
        return sum(1 for other in list(self._lines) if not other.is_running) < self._most_waiting

    def _finish(self, line: _Line, received: _Received, processed: DeliveryResult) -> None:
        """Delete a message, keep it, or make it visible again."""
        if processed.outcome.settled:
            self._keeper.let_go(received.held)
            self._call("delete_message", received)
            return
        retry_s = processed.retry_s
        if processed.unavailable:
            # One message that alone meets something that is unavailable must not make the others rest again and again.
            retry_s = max(retry_s, self._growing_s(received.waits))
            received.waits += 1
        if line.waiting and line.waiting[0] is received:
            line.due_us = self.clock.mono_us() + int(max(retry_s, _SHORT_WAIT_S) * 1e6)
            return
        # The rest of the group first: as long as this one is invisible, SQS hands out none of them.
        while line.waiting:
            self._release(line.waiting.popleft(), 0.0)
        if processed.error == DeadLetterRefusedError.__name__:
            retry_s = max(retry_s, _LONG_WAIT_S)
        if processed.error == Kind.STALE_LEASE.value:
            self._keeper.let_go(received.held)  # another worker has the message and renews its visibility
        else:
            self._release(received, retry_s)

    # --- the rest

    def _growing_s(self, failures: int) -> float:
        return min(max(self.consumer.backoff_cap_s, _AWAY_S), _AWAY_S * 2.0 ** min(failures, 60))

    def _give_back(self, line: _Line) -> None:
        """What was not handled becomes visible at once, and what waits when it is due; the first of a group last."""
        now = self.clock.mono_us()
        while len(line.waiting) > 1:
            self._release(line.waiting.pop(), 0.0)
        if line.waiting:
            self._release(line.waiting.pop(), max(0.0, (line.due_us - now) / 1e6))

    def _release(self, received: _Received, retry_s: float) -> None:
        self._keeper.let_go(received.held)
        seconds = min(MAX_VISIBILITY_S, max(0, -int(-retry_s // 1)))
        self._call("change_message_visibility", received, VisibilityTimeout=seconds)

    def _call(self, name: str, received: _Received, **more: Any) -> None:
        try:
            getattr(self._client, name)(QueueUrl=self._url, ReceiptHandle=received.held.receipt, **more)
        except Exception as error:
            # It comes back after its visibility time-out; a message that was handled is a duplicate.
            about = {"consumer": self.consumer.name, "message_id": received.delivery.message_id}
            log.warning("SQS", extra={**about, "call": name, "error": error_code(error)})

    def _check_set_up(self) -> None:
        """Read the queues' attributes once and log what weakens the guarantees."""
        if self._is_checked or not hasattr(self._client, "get_queue_attributes"):
            return
        attributes = read_attributes(self._client, self._url)
        dead: dict[str, str] = {}
        if self._dead_letters is not None:
            try:
                dead = read_attributes(self._client, self._dead_letters.url)
            except ConfigError:
                message = f"consumer {self.consumer.name}: dead_letter_url: there is no such SQS queue"
                raise ConfigError(message) from None
        self._is_checked = True
        if self._is_fifo and attributes and max_receive_count(attributes) is None:
            self._most = _MAX_BATCH
        texts: list[str] = []
        with suppress(HeadgateError):  # the ledger is unavailable: the first claim will report it
            texts = set_up_warnings(
                attributes, dead, self.consumer, self._ledger, buries=self._dead_letters is not None
            )
        for text in texts:
            log.warning(text, extra={"consumer": self.consumer.name})

    def _report_lag(self) -> None:
        now = self.clock.mono_us()
        if self._metrics is None or now - self._last_lag_us < _LAG_S * 1e6:
            return
        self._last_lag_us = now
        names = ["ApproximateNumberOfMessages"]
        try:
            found = self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=names)["Attributes"]
        except Exception as error:
            log.warning("SQS", extra={"consumer": self.consumer.name, "error": error_code(error)})
            return
        self._metrics.gauge(
            "headgate_consumer_lag", float(found[names[0]]), consumer=self.consumer.name, topic=self.consumer.topic
        )


def _check_url(where: str, url: Any) -> None:
    check_name(where, url)
    if url.startswith("arn:"):
        message = f"{where}: expected the queue's URL, got an ARN"
        raise ConfigError(message)
