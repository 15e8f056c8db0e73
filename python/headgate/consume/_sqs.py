"""SQS: a worker that polls, and Lambda handlers that answer with the records to bring again."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from headgate.consume._process import Burial, Consumer, ConsumeResult, Delivery, Processor
from headgate.errors import ConfigError, HeadgateError, Kind, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.idempotency import Ledger
    from headgate.items import LifeCycle
    from headgate.ports import Clock, Json, Metrics

log = logging.getLogger("headgate.consume")
_MAX_BATCH = 10  # of ReceiveMessage
_LONG_POLL_S = 10  # how long SQS holds an empty poll; it allows 20
_MAX_VISIBILITY_S = 43_200  # 12 h, SQS's own limit
_MAX_ATTRIBUTES = 10
_AWAY_S = 1.0
_LAG_S = 5.0
_REDRIVE = "headgate-redrive"


class SqsWorker:
    """Runs one consumer on an SQS queue until told to stop.

    A message is deleted when it was handled, was a duplicate, or lies in the dead-letter queue; otherwise its
    visibility ends when it is due again.

    Args:
        consumer: what to run.
        ledger: where claims live.
        clock: injected in tests.
        client: a boto3 SQS client.
        queue_url: the queue.
        dead_letter_url: a queue for dead letters; without one they are left to the queue's own redrive policy.
        concurrency: how many messages are handled at the same time.
    """

    def __init__(
        self, consumer: Consumer, ledger: Ledger, clock: Clock, client: Any, queue_url: str, *,
        dead_letter_url: str | None = None, concurrency: int = 4, metrics: Metrics | None = None,
        items: LifeCycle | None = None,
    ) -> None:  # fmt: skip
        self.consumer = consumer
        self.clock = clock
        self.stopping = False
        self.result = ConsumeResult()
        self._client = client
        self._url = queue_url
        self._dead_url = dead_letter_url
        self._metrics = metrics
        self._last_lag_us = -(1 << 62)
        self._concurrency = concurrency
        self._processor = Processor(
            consumer, ledger, clock, None if dead_letter_url is None else self._bury, metrics, items
        )

    def stop(self) -> None:
        """Finish what is being handled, then return (safe in a signal handler)."""
        self.stopping = True

    def drain(self, wait_s: float = 0.0) -> ConsumeResult:
        """As `run`, until nothing came for `wait_s` seconds."""
        return self.run(wait_s)

    def run(self, max_idle_s: float | None = None) -> ConsumeResult:
        """Handle messages until `stop()`, or until nothing was there for `max_idle_s` seconds."""
        last_work = self.clock.mono_us()
        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="headgate-consume") as threads:
            while not self.stopping:
                left_s = _LONG_POLL_S
                if max_idle_s is not None:
                    left_s = int(max_idle_s - (self.clock.mono_us() - last_work) / 1e6)
                messages = self._receive(max(0, min(_LONG_POLL_S, left_s)))
                if messages:
                    last_work = self.clock.mono_us()
                elif max_idle_s is not None and self.clock.mono_us() - last_work >= max_idle_s * 1e6:
                    break
                for verdict in threads.map(self._handle, messages):
                    self.result.add(verdict)
                self._report_lag()
            self._last_lag_us = -(1 << 62)
            self._report_lag()
        return self.result

    def _receive(self, wait_s: int) -> list[Any]:
        try:
            answer = self._client.receive_message(
                QueueUrl=self._url, MaxNumberOfMessages=min(_MAX_BATCH, self._concurrency), WaitTimeSeconds=wait_s,
                VisibilityTimeout=min(_MAX_VISIBILITY_S, int(self.consumer.usual_lease_s) + 1),
                MessageAttributeNames=["All"],
            )  # fmt: skip
        except Exception as error:
            _raise_unless_transient(error)
            log.warning("SQS", extra={"error": type(error).__name__})
            self.clock.sleep_us(int(_AWAY_S * 1e6))
            return []
        return list(answer.get("Messages", ()))

    def _handle(self, message: Any) -> Any:
        verdict = self._processor.process(_delivery(self.consumer.topic, message["Body"], message))
        handle = {"QueueUrl": self._url, "ReceiptHandle": message["ReceiptHandle"]}
        try:
            if verdict.outcome.settled:
                self._client.delete_message(**handle)
            elif verdict.error != Kind.STALE_LEASE.value:
                seconds = min(_MAX_VISIBILITY_S, max(0, -int(-verdict.retry_s // 1)))
                self._client.change_message_visibility(**handle, VisibilityTimeout=seconds)
        except Exception as error:
            # It comes back after its visibility; what is done is known as done.
            log.warning("SQS", extra={"error": type(error).__name__})
        return verdict

    def _bury(self, delivery: Delivery, burial: Burial, tx: Any) -> None:
        about = {
            "headgate-error-kind": str(burial.kind), "headgate-error": burial.reason[:250] or "-",
            "headgate-attempts": str(burial.attempts), "headgate-consumer": self.consumer.name,
            "headgate-source-id": delivery.source.get("message_id", "-"),
        }  # fmt: skip
        attributes = {name: {"DataType": "String", "StringValue": text} for name, text in about.items()}
        kept = {name: {"DataType": "String", "StringValue": value.decode()} for name, value in delivery.headers}
        room = {name: kept[name] for name in list(kept)[: _MAX_ATTRIBUTES - len(attributes)]}
        try:
            self._client.send_message(
                QueueUrl=self._dead_url, MessageBody=(delivery.value or b"").decode("utf-8", "replace"),
                MessageAttributes={**room, **attributes},
            )  # fmt: skip
        except Exception as error:
            message = f"the dead-letter queue did not take the message: {type(error).__name__}"
            raise TransientError(message) from None

    def _report_lag(self) -> None:
        now = self.clock.mono_us()
        if self._metrics is None or now - self._last_lag_us < _LAG_S * 1e6:
            return
        self._last_lag_us = now
        names = ["ApproximateNumberOfMessages"]
        try:
            found = self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=names)["Attributes"]
        except Exception as error:
            log.warning("SQS", extra={"error": type(error).__name__})
            return
        self._metrics.gauge(
            "headgate_consumer_lag", float(found[names[0]]), consumer=self.consumer.name, topic=self.consumer.topic
        )


def sqs_batch(handler: Callable[[Any], Any]) -> Callable[[Json, Any], Json]:
    """A Lambda handler of a function of one record's body, with partial batch responses.

    What raises (`InProgress` of `@idempotent_consumer` among it) comes back; the rest is deleted. In a FIFO queue the
    records of a group that follow a failed one come back unread, in order.

    Example:
        >>> from headgate import Ledger, idempotent_consumer
        >>> @sqs_batch
        ... @idempotent_consumer(Ledger.open("memory://"), consumer="orders")
        ... def handler(body): return body["n"] + 1
        >>> handler({"Records": [{"messageId": "a", "body": '{"n": 1}'}, {"messageId": "b", "body": "?"}]}, None)
        {'batchItemFailures': [{'itemIdentifier': 'b'}]}
    """
    import functools
    import json

    def run(record: Json) -> bool:
        try:
            handler(json.loads(record["body"]))
        except Exception as error:
            log.warning("record failed", extra={"error": type(error).__name__})
            return False
        return True

    @functools.wraps(handler)
    def batch(event: Json, context: Any = None) -> Json:
        return _batch_response(event, run)

    return batch


def sqs_handler(
    consumer: Consumer, ledger: Ledger, clock: Clock, metrics: Metrics | None = None, items: LifeCycle | None = None
) -> Callable[[Json, Any], Json]:
    """A Lambda handler that runs a `Consumer` on SQS records, with partial batch responses.

    Dead letters are left to the queue's redrive policy: a record that will never do comes back until SQS moves it.
    """

    processor = Processor(consumer, ledger, clock, None, metrics, items)

    def run(record: Json) -> bool:
        delivery = _delivery(consumer.topic, record["body"], record, "messageAttributes", "stringValue")
        return processor.process(delivery).outcome.settled

    def handler(event: Json, context: Any = None) -> Json:
        return _batch_response(event, run)

    return handler


def _batch_response(event: Json, run: Callable[[Json], bool]) -> Json:
    failures = []
    blocked: set[str] = set()
    for record in event.get("Records", ()):
        group = record.get("attributes", {}).get("MessageGroupId")
        if group in blocked or not run(record):
            failures.append({"itemIdentifier": record["messageId"]})
            if group is not None:
                blocked.add(group)
    return {"batchItemFailures": failures}


def _delivery(
    topic: str, body: str, message: Json, attributes: str = "MessageAttributes", text: str = "StringValue"
) -> Delivery:
    found = message.get(attributes) or {}
    headers = tuple((name, str(value.get(text, "")).encode()) for name, value in found.items())
    count = str((found.get(_REDRIVE) or {}).get(text, "0"))
    source = {"message_id": str(message.get("MessageId") or message.get("messageId") or "")}
    return Delivery(
        topic, body.encode("utf-8", "surrogatepass"), None, headers, source, int(count) if count.isdigit() else 0
    )


def _raise_unless_transient(error: Exception) -> None:
    code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
    if code in {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"}:
        message = "there is no such SQS queue"
        raise ConfigError(message) from None
    if isinstance(error, HeadgateError):
        raise error
