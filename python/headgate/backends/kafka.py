"""Settings of librdkafka: which of them a producer takes, which a consumer, and one sentence for those that are wrong.

One configuration serves a consumer and the producers beside it (dead letters, redrive, announcements). Settings of the
one kind are left out for the other; a setting that librdkafka does not know is refused by name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from headgate.errors import ConfigError, needed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# librdkafka's own upper limit. The topic's max.message.bytes decides; librdkafka's default of 1 MB would refuse
# messages that their topic takes.
LARGEST_MESSAGE_BYTES = 1_000_000_000
# Marked "C" in librdkafka's CONFIGURATION.md, and confluent-kafka's names for its callbacks.
_CONSUMER_ONLY = frozenset({
    "group.id", "group.instance.id", "partition.assignment.strategy", "session.timeout.ms", "heartbeat.interval.ms",
    "group.protocol.type", "group.protocol", "group.remote.assignor", "coordinator.query.interval.ms",
    "max.poll.interval.ms", "enable.auto.commit", "auto.commit.enable", "auto.commit.interval.ms",
    "enable.auto.offset.store", "queued.min.messages", "queued.max.messages.kbytes", "fetch.wait.max.ms",
    "fetch.queue.backoff.ms", "fetch.message.max.bytes", "max.partition.fetch.bytes", "fetch.max.bytes",
    "fetch.min.bytes", "fetch.error.backoff.ms", "offset.store.method", "offset.store.path",
    "offset.store.sync.interval.ms", "isolation.level", "consume_cb", "rebalance_cb", "offset_commit_cb",
    "enable.partition.eof", "check.crcs", "auto.offset.reset", "consume.callback.max.messages", "max.poll.records",
    "share.acknowledgement.mode", "on_commit",
})  # fmt: skip
# Marked "P".
_PRODUCER_ONLY = frozenset({
    "transactional.id", "transaction.timeout.ms", "enable.idempotence", "enable.gapless.guarantee",
    "queue.buffering.max.messages", "queue.buffering.max.kbytes", "queue.buffering.max.ms", "linger.ms",
    "message.send.max.retries", "retries", "queue.buffering.backpressure.threshold", "compression.codec",
    "compression.type", "compression.level", "batch.num.messages", "batch.size", "delivery.report.only.error", "dr_cb",
    "dr_msg_cb", "sticky.partitioning.linger.ms", "request.required.acks", "acks", "request.timeout.ms",
    "message.timeout.ms", "delivery.timeout.ms", "queuing.strategy", "produce.offset.report", "partitioner",
    "partitioner_cb", "msg_order_cmp", "on_delivery",
})  # fmt: skip
# What a producer that waits for each confirmation decides itself; see `producer_settings`.
_OWN = frozenset({
    "enable.idempotence", "acks", "request.required.acks", "message.timeout.ms", "delivery.timeout.ms",
    "delivery.report.only.error", "on_delivery", "dr_cb", "dr_msg_cb", "linger.ms", "queue.buffering.max.ms",
    "sticky.partitioning.linger.ms",
})  # fmt: skip
_NAMED = re.compile(r'property:? "?([A-Za-z_][\w.]*)"?')
_SECRET = re.compile(r"password|secret|token|\.pem$|ssl\.key|jaas|\.config$")


def kafka_module() -> Any:
    """confluent_kafka, or one sentence about how to get it."""
    with needed("Kafka needs confluent-kafka", "headgate[kafka]"):
        import confluent_kafka
        import confluent_kafka.admin
    return confluent_kafka


def consumer_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what only producers take."""
    return {name: value for name, value in config.items() if name not in _PRODUCER_ONLY}


def client_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration for an admin client: without what only producers or only consumers take."""
    return {name: value for name, value in consumer_settings(config).items() if name not in _CONSUMER_ONLY}


def producer_settings(config: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
    """A configuration for a producer whose messages must arrive: size limits, buffers and compression as given.

    Idempotence, `acks` and the timeout are headgate's own, and nothing lingers, because every send is waited for.
    Without `message.max.bytes` the limit is the topic's alone.

    Args:
        config: settings of librdkafka, of a consumer or of a producer.
        timeout_s: a message that is not confirmed by then has failed.

    Raises:
        ConfigError: `transactional.id`; these producers have no transactions.
    """
    if "transactional.id" in config:
        message = "Kafka: transactional.id: headgate's producers are idempotent and have no transactions; leave it out"
        raise ConfigError(message)
    left_out = _CONSUMER_ONLY | _OWN
    given = {name: value for name, value in config.items() if name not in left_out}
    return {
        "message.max.bytes": LARGEST_MESSAGE_BYTES, **given, "enable.idempotence": True, "acks": "all",
        "message.timeout.ms": max(1, int(timeout_s * 1000)), "delivery.report.only.error": False,
    }  # fmt: skip


def make_client(make: Callable[[dict[str, Any]], Any], settings: Mapping[str, Any]) -> Any:
    """A client of confluent-kafka.

    Args:
        make: `confluent_kafka.Consumer`, `Producer` or `AdminClient`.
        settings: what it is made with.

    Raises:
        ConfigError: librdkafka does not know a setting, or does not take its value.
    """
    kafka = kafka_module()
    try:
        return make(dict(settings))
    except kafka.KafkaException as error:
        raise ConfigError(_refusal(error, settings)) from None
    except (TypeError, ValueError) as error:
        message = f"Kafka: a setting has a value of a type that librdkafka does not take: {type(error).__name__}"
        raise ConfigError(message) from None


def _refusal(error: Any, settings: Mapping[str, Any]) -> str:
    text = str(error.args[0].str() if hasattr(error.args[0], "str") else error)
    named = _NAMED.search(text)
    if text.startswith("No such configuration property") and named:
        return f"Kafka: there is no setting {named[1]!r}; expected one of librdkafka's"
    for name, value in settings.items():
        if _SECRET.search(name) and isinstance(value, str) and value:
            text = text.replace(value, "***")
    return f"Kafka: librdkafka does not take these settings: {text}"
