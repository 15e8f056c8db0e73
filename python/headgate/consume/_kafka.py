"""A worker in a Kafka consumer group. Handles each partition in order, several at once, and commits offsets itself."""

from __future__ import annotations

import logging
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.backends.kafka import client_settings, consumer_settings, kafka_module, make_client
from headgate.consume._dead_letters import DEAD_LETTER_TIMEOUT_S, KafkaDeadLetterQueue, read_redrive_history
from headgate.consume._process import (
    Consumer,
    ConsumeResult,
    Delivery,
    DeliveryResult,
    Outcome,
    Processor,
    check_parts,
)
from headgate.errors import AccessError, TransientError
from headgate.idempotency._failures import code_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headgate.idempotency import Ledger
    from headgate.items import LifeCycle
    from headgate.ports import Clock, Metrics

log = logging.getLogger("headgate.consume")
_POLL_S = 0.05
_COMMIT_S = 1.0
_LAG_S = 5.0
_SLICE = 100  # a thread handles so many messages of one partition before it takes another partition
_JOIN_S = 30.0  # idle time counts from the first assignment of partitions, at the latest from here
_REVOKE_S = 10.0  # how long a rebalance waits for running handlers; their claims protect them after that
_FATAL = {"_AUTHENTICATION", "TOPIC_AUTHORIZATION_FAILED", "GROUP_AUTHORIZATION_FAILED", "SASL_AUTHENTICATION_FAILED"}


class _Partition:
    """One assignment of a partition. Each assignment gets a new object, so that results of an earlier one are
    recognised."""

    def __init__(self, topic: str, number: int) -> None:
        self.topic = topic
        self.number = number
        self.waiting: deque[Any] = deque()
        self.busy = False
        self.newest = -1  # the last offset that was buffered
        self.position = -1  # the next offset to handle; everything before it is settled
        self.committed = -1
        self.retry_us = 0  # monotonic; until then the partition is paused
        self.paused = False
        self.current = True


class KafkaWorker:
    """Runs one consumer on its Kafka topic until told to stop.

    A message is acknowledged (its offset committed) when it was handled, was a duplicate, or is in the dead-letter
    topic. A message that failed or that another worker holds pauses its partition and is fetched again when due; the
    other partitions go on. Offsets are cumulative, so only the contiguous settled prefix is ever committed.

    Args:
        consumer: the consumer to run; `consumer.name` is the consumer group.
        ledger: the ledger that holds the claims.
        clock: the clock; tests pass a `ManualClock`.
        config: settings of librdkafka; "bootstrap.servers" at least. Those of producers (`message.max.bytes`,
            `compression.type` ...) hold for the dead letters. The worker's own settings win, and it says which.
        concurrency: how many partitions are handled at the same time.
        prefetch: messages buffered a partition; more pauses it until half are handled.
        dead_letter_topic: default `{topic}.DLQ`.
        dead_letter_timeout_s: a dead letter that is not confirmed by then keeps its message uncommitted.
        metrics: counts, durations and lag.
        items: finishes the items that the consumer handles (`headgate.items`).

    Raises:
        ConfigError: the ledger cannot do what the consumer needs, or a setting is wrong (those that only librdkafka
            knows when `run` begins).

    Example:
        >>> worker = KafkaWorker(consumer, Ledger.open("redis://localhost"), clock,     # doctest: +SKIP
        ...                      {"bootstrap.servers": "localhost:9092"})
        >>> signal.signal(signal.SIGTERM, lambda *_: worker.stop())                     # doctest: +SKIP
        >>> worker.run()                                                                # doctest: +SKIP
    """

    def __init__(
        self, consumer: Consumer, ledger: Ledger, clock: Clock, config: Mapping[str, Any], *, concurrency: int = 4,
        prefetch: int = 100, dead_letter_topic: str | None = None,
        dead_letter_timeout_s: float = DEAD_LETTER_TIMEOUT_S, metrics: Metrics | None = None,
        items: LifeCycle | None = None,
    ) -> None:  # fmt: skip
        check_parts(consumer, ledger)
        self.consumer = consumer
        self.clock = clock
        self._ledger = ledger
        self.stopping = False
        self.result = ConsumeResult()
        self._kafka = kafka_module()
        self._dead_letters = KafkaDeadLetterQueue(
            config, dead_letter_topic or f"{consumer.topic}.DLQ", consumer.name, dead_letter_timeout_s, metrics
        )
        self._processor = Processor(consumer, ledger, clock, self._dead_letters, metrics, items)
        self._metrics = metrics
        self._concurrency = concurrency
        self._prefetch = prefetch
        self._partitions: dict[tuple[str, int], _Partition] = {}
        self._answers: SimpleQueue[tuple[_Partition, Any, DeliveryResult | None]] = SimpleQueue()
        self._running = 0
        self._joined = False
        self._last_commit_us = 0
        self._last_lag_us = 0
        lease_ms = int(consumer.usual_lease_s * 1000)
        self._config = {
            "auto.offset.reset": "earliest", "partition.assignment.strategy": "cooperative-sticky",
            # A resumed partition waits for the fetch that is under way: half a second by default.
            "fetch.wait.max.ms": 100, "isolation.level": "read_committed",
            "max.poll.interval.ms": max(300_000, 3 * lease_ms),
            "logger": logging.getLogger("headgate.consume.librdkafka"), **consumer_settings(config), **self._own(),
        }  # fmt: skip
        self._left_out = sorted(n for n, value in self._own().items() if n in config and config[n] != value)

    def _own(self) -> dict[str, Any]:
        """Settings that the configuration must not change, because the guarantees depend on them."""
        return {
            "group.id": self.consumer.name, "enable.auto.commit": False, "enable.auto.offset.store": False,
            "on_commit": self._on_commit,
        }  # fmt: skip

    def stop(self) -> None:
        """Finish what is being handled, commit, leave the group, return (safe in a signal handler)."""
        self.stopping = True

    def run(self, max_idle_s: float | None = None) -> ConsumeResult:
        """Handle messages until `stop()`.

        Args:
            max_idle_s: also return when nothing was there to do for so long.

        Raises:
            AccessError: the broker refuses the credentials or the topic.
            ConfigError: librdkafka does not know a setting, or does not take its value.
        """
        kafka = make_client(self._kafka.Consumer, self._config)
        threads = ThreadPoolExecutor(self._concurrency, thread_name_prefix="headgate-consume")
        started = last_work = self.clock.mono_us()
        try:
            self._warn()
            kafka.subscribe(
                [self.consumer.topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
            )
            while not self.stopping:
                batch = kafka.consume(self._prefetch, timeout=0.0 if self._settle(kafka) else _POLL_S)
                self._buffer(kafka, batch)
                self._dispatch(threads)
                self._resume(kafka)
                now = self.clock.mono_us()
                busy = batch or self._running or any(p.retry_us or p.waiting for p in self._partitions.values())
                if busy or (not self._joined and now - started < _JOIN_S * 1e6):
                    last_work = now
                elif max_idle_s is not None and now - last_work >= max_idle_s * 1e6:
                    break
                if now - self._last_commit_us >= _COMMIT_S * 1e6:
                    self._commit(kafka, wait=False)
                if self._metrics is not None and now - self._last_lag_us >= _LAG_S * 1e6:
                    self._report_lag(kafka)
        finally:
            self._finish(kafka, list(self._partitions.values()), self.consumer.usual_lease_s)
            if self._metrics is not None:
                self._report_lag(kafka)
            threads.shutdown(wait=True)
            kafka.close()
            self._dead_letters.close()
        return self.result

    def drain(self, wait_s: float = 0.0) -> ConsumeResult:
        """As `run`, until nothing came for `wait_s` seconds, at least one."""
        return self.run(max(1.0, wait_s))

    # --- the loop's steps, all on the one thread that owns the Kafka consumer

    def _buffer(self, kafka: Any, batch: list[Any]) -> None:
        for message in batch:
            error = message.error()
            if error is not None:
                self._complain(error)
                continue
            part = self._partitions.get((message.topic(), message.partition()))
            # Messages that were fetched before a seek may still arrive after it. They are skipped and fetched again.
            if part is None or part.retry_us or message.offset() <= part.newest:
                continue
            part.newest = message.offset()
            part.waiting.append(message)
            if len(part.waiting) >= self._prefetch and not part.paused:
                self._pause(kafka, part)

    def _dispatch(self, threads: ThreadPoolExecutor) -> None:
        for part in self._partitions.values():
            if self._running >= self._concurrency:
                return
            if part.waiting and not part.busy and not part.retry_us:
                part.busy = True
                self._running += 1
                threads.submit(self._work, part)

    def _work(self, part: _Partition) -> None:
        """Handle the messages of one partition in order until one is unsettled. Runs on a thread of the pool."""
        for _ in range(_SLICE):
            try:
                message = part.waiting.popleft()
            except IndexError:
                break
            processed = self._process(part, message)
            self._answers.put((part, message, processed))
            if not processed.outcome.settled or self.stopping or not part.current:
                break
        self._answers.put((part, None, None))

    def _process(self, part: _Partition, message: Any) -> DeliveryResult:
        try:
            return self._processor.process(self._delivery(part, message))
        except BaseException as error:
            # A bug in headgate: the message stays uncommitted.
            log.error(
                "processing broke",
                extra={
                    "consumer": self.consumer.name, "topic": part.topic, "error": type(error).__name__,
                    "message_id": f"{part.topic}-{part.number}-{message.offset()}", "traceback": code_path(error),
                },
            )  # fmt: skip
            return DeliveryResult(Outcome.FAILED, 1.0, type(error).__name__)

    def _delivery(self, part: _Partition, message: Any) -> Delivery:
        headers = tuple(message.headers() or ())
        source = {"partition": str(part.number), "offset": str(message.offset())}
        kind, timestamp_ms = message.timestamp()
        if kind != self._kafka.TIMESTAMP_NOT_AVAILABLE:
            source["timestamp"] = str(timestamp_ms)
        life = read_redrive_history(headers, self.consumer.name)
        return Delivery(
            part.topic, message.value(), message.key(), headers, source, life.redrive, life.redriven_for, life.origin
        )

    def _settle(self, kafka: Any, wait_s: float = 0.0) -> bool:
        """Process the results of the threads. Returns whether there were any."""
        some = False
        while True:
            try:
                part, message, processed = self._answers.get(timeout=wait_s) if wait_s else self._answers.get_nowait()
            except Empty:
                return some
            some, wait_s = True, 0.0
            if processed is None:
                self._running -= 1
                part.busy = False
                continue
            self.result.add(processed)
            if not part.current:
                continue  # the partition was revoked; its next owner handles the message
            if processed.outcome.settled:
                part.position = message.offset() + 1
            else:
                self._seek_back(kafka, part, message.offset(), processed.retry_s)

    def _seek_back(self, kafka: Any, part: _Partition, offset: int, retry_s: float) -> None:
        part.waiting.clear()
        part.position = offset
        part.newest = offset - 1
        part.retry_us = self.clock.mono_us() + max(1, int(retry_s * 1e6))
        if not part.paused:
            self._pause(kafka, part)

    def _resume(self, kafka: Any) -> None:
        now = self.clock.mono_us()
        for part in self._partitions.values():
            if part.retry_us and part.retry_us <= now and not part.busy:
                try:
                    kafka.seek(self._place(part, part.position))
                except self._kafka.KafkaException as error:
                    self._complain(error.args[0])  # the broker is unavailable: again on the next round
                    part.retry_us = now + 1_000_000
                    continue
                part.retry_us = 0
                kafka.resume([self._place(part)])
                part.paused = False
            elif part.paused and not part.retry_us and len(part.waiting) <= self._prefetch // 2:
                kafka.resume([self._place(part)])
                part.paused = False

    def _pause(self, kafka: Any, part: _Partition) -> None:
        kafka.pause([self._place(part)])
        part.paused = True

    def _commit(self, kafka: Any, *, wait: bool, parts: list[_Partition] | None = None) -> None:
        self._last_commit_us = self.clock.mono_us()
        wanted = self._partitions.values() if parts is None else parts
        dirty = [p for p in wanted if p.position > p.committed]
        if not dirty:
            return
        core.fault_point("consume.before_offset_commit")
        try:
            kafka.commit(offsets=[self._place(p, p.position) for p in dirty], asynchronous=not wait)
        except self._kafka.KafkaException as error:
            # Nothing is lost: messages that are delivered again are duplicates.
            log.warning("offsets not committed", extra={"error": error.args[0].name()})
            return
        for part in dirty:
            part.committed = part.position
        core.fault_point("consume.after_offset_commit")

    def _on_commit(self, error: Any, places: list[Any]) -> None:
        """Callback of kafka.consume(): offsets whose commit failed are sent again with the next commit."""
        for place in places:
            refused = error or place.error
            part = self._partitions.get((place.topic, place.partition))
            if refused is not None and part is not None:
                log.warning("offsets not committed", extra={"error": refused.name()})
                part.committed = -1

    def _finish(self, kafka: Any, parts: list[_Partition], wait_s: float) -> None:
        """Wait for running handlers of these partitions, then commit their offsets."""
        deadline = self.clock.mono_us() + int(wait_s * 1e6)
        for part in parts:
            part.waiting.clear()
        while any(part.busy for part in parts) and self.clock.mono_us() < deadline:
            self._settle(kafka, _POLL_S)
        self._commit(kafka, wait=True, parts=parts)

    # --- rebalances; called by kafka.consume() and kafka.close()

    def _assigned(self, kafka: Any, places: list[Any]) -> None:
        self._joined = True
        for place in places:
            self._partitions[place.topic, place.partition] = _Partition(place.topic, place.partition)

    def _revoked(self, kafka: Any, places: list[Any]) -> None:
        gone = self._known(places)
        self._finish(kafka, gone, _REVOKE_S)
        self._forget(gone)

    def _lost(self, kafka: Any, places: list[Any]) -> None:
        """The partitions may already have a new owner: commit nothing."""
        self._forget(self._known(places))

    def _known(self, places: list[Any]) -> list[_Partition]:
        return [p for p in (self._partitions.get((x.topic, x.partition)) for x in places) if p is not None]

    def _forget(self, parts: list[_Partition]) -> None:
        for part in parts:
            part.current = False
            del self._partitions[part.topic, part.number]

    # --- the rest

    def _place(self, part: _Partition, offset: int | None = None) -> Any:
        if offset is None:
            return self._kafka.TopicPartition(part.topic, part.number)
        return self._kafka.TopicPartition(part.topic, part.number, offset)

    def _complain(self, error: Any) -> None:
        name = error.name()
        if name in _FATAL:
            message = f"Kafka refuses: {name}"
            raise AccessError(message)
        if error.fatal():
            message = f"Kafka's client gave up: {name}"
            raise TransientError(message)
        log.warning("Kafka", extra={"error": name})

    def _warn(self) -> None:
        """Log what weakens the guarantees, for example a ledger that forgets keys before the topic deletes messages."""
        about = {"consumer": self.consumer.name, "topic": self.consumer.topic}
        if self._left_out:
            names = ", ".join(self._left_out)
            log.warning("Kafka settings that the worker sets itself are left out: %s", names, extra=about)
        try:
            retention: float | None = self._retention_s()
        except Exception as error:
            more = {**about, "error": type(error).__name__}
            log.warning("could not compare the topic's retention and the ledger's time to live", extra=more)
            retention = None
        try:
            texts = self._ledger.warnings(retention=retention)
        except Exception as error:
            log.warning("could not ask the ledger about its server", extra={**about, "error": type(error).__name__})
            return
        for text in texts:
            log.warning(text, extra=about)

    def _retention_s(self) -> float:
        resource = self._kafka.admin.ConfigResource("topic", self.consumer.topic)
        admin = make_client(self._kafka.admin.AdminClient, client_settings(self._config))
        settings = admin.describe_configs([resource], request_timeout=5)[resource].result(6)
        retention_ms = int(settings["retention.ms"].value)
        return retention_ms / 1000 if retention_ms >= 0 else float("inf")  # -1 keeps messages forever

    def _report_lag(self, kafka: Any) -> None:
        self._last_lag_us = self.clock.mono_us()
        for part in list(self._partitions.values()):
            _, high = kafka.get_watermark_offsets(self._place(part), cached=True)
            if high >= 0 and self._metrics is not None and part.position >= 0:
                self._metrics.gauge(
                    "headgate_consumer_lag", max(0, high - part.position), consumer=self.consumer.name,
                    topic=part.topic, partition=str(part.number),
                )  # fmt: skip
