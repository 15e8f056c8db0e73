"""The consumers of a configuration: how announcements reach them, who works for them, and who finishes an item."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias, cast

from headgate._registry import FILE_SERVICE, resolve
from headgate.backends.evidence import running_claims
from headgate.consume import Consumer, KafkaWorker, SqsWorker, Worker
from headgate.errors import ConfigError
from headgate.healing._sweeper import error_kind
from headgate.items import LifeCycle
from headgate.ports import Item
from headgate.wiring.alerts import Alerts
from headgate.wiring.references import load_reference, split_url, unknown_scheme

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headgate.backends.local import LocalStore
    from headgate.config import ConsumerConfig
    from headgate.consume._consumer import Effects, Tombstones
    from headgate.idempotency._decorator import OnUnavailable
    from headgate.pipelines.uploads import FileService
    from headgate.ports import Json

    AnyWorker: TypeAlias = Worker | KafkaWorker | SqsWorker

log = logging.getLogger("headgate.healing")
_UNSENT_US = 15_000_000  # time between two counts of unsent announcements


@dataclass
class Consumers(Alerts):
    """The methods of `App` that deliver announcements and work on them.

    Args:
        extra_groups: (group, topic) of the consumers that `headgate serve` adds.
        longest_delay_us: longest time from storage to delivery that this app has relayed.
    """

    extra_groups: list[tuple[str, str]] = field(default_factory=list)
    longest_delay_us: int = 0
    _unsent_due_us: int = field(default=-(1 << 62), init=False, repr=False)

    # --- delivery

    def relay(self) -> int:
        """Deliver what waits in the outbox; how many announcements."""
        groups = self.local_groups()
        if self.publisher is None:
            sent = self.embedded_store.relay_outbox(groups)
            self._measure_delay(sent)
            return sent
        sent = 0
        try:
            while arrived := self.store.publish_outbox(self.publisher, groups):
                self._measure_delay(arrived)
                sent += arrived
        finally:
            self._measure_unsent()
        return sent

    def local_groups(self) -> dict[str, list[str]]:
        """Topic -> the consumer groups of the embedded queue.

        Raises:
            ConfigError: the store has no queue, and there are such groups, or nowhere to send announcements to.
        """
        groups = self.alert_groups()
        for name, consumer in self.config.consumers.items():
            if not consumer.queue:
                groups.setdefault(consumer.topic, []).append(name)
        for name, topic in self.extra_groups:
            groups.setdefault(topic, []).append(name)
        if not self.is_embedded and (groups or not self.config.backends.notify):
            message = (
                "backends.notify: a dynamodb:// store has no queue of its own; expected sns://, sqs:// or kafka://,"
                " and consumers with a queue"
            )
            raise ConfigError(message)
        return groups

    def _measure_delay(self, sent: int) -> None:
        """Record the time from storage to delivery."""
        if sent:
            self.longest_delay_us = max(self.longest_delay_us, self.store.last_delay_us)
            self.metrics.observe("notification_seconds", self.store.last_delay_us / 1e6)

    def _measure_unsent(self) -> None:
        """How many announcements wait; not at every turn, since a store has to count them."""
        now = self.clock.mono_us()
        if now >= self._unsent_due_us:
            self._unsent_due_us = now + _UNSENT_US
            self.metrics.gauge("headgate_outbox_unsent", self.store.unsent_count())

    # --- consumers and their workers

    def consumer_config(self, name: str) -> ConsumerConfig:
        """What the configuration says of a consumer.

        Raises:
            ConfigError: there is no such consumer.
        """
        if name not in self.config.consumers:
            known = ", ".join(sorted(self.config.consumers)) or "none is configured"
            message = f"consumers.{name}: there is no such consumer; expected one of: {known}"
            raise ConfigError(message)
        return self.config.consumers[name]

    def consumer(self, name: str) -> Consumer:
        """A configured consumer, without its transport.

        Raises:
            ConfigError: there is no such consumer, or a function that it names cannot be imported.
        """
        where, c = f"consumers.{name}", self.consumer_config(name)
        key, payload, serializer = (
            load_reference(f"{where}.{option}", getattr(c, option)) if getattr(c, option) else None
            for option in ("key", "payload", "serializer")
        )
        handler = load_reference(f"{where}.handler", c.handler)
        return Consumer(
            name, c.topic, handler, key, c.lease_s, c.max_attempts, c.namespace, cast("Effects", c.effects),
            cast("OnUnavailable", c.on_unavailable), c.max_message_bytes, event_type=c.event_type or None,
            payload=payload, tombstones=cast("Tombstones", c.tombstones), unavailable_limit_s=c.unavailable_limit_s,
            backoff_base_s=c.backoff_base_s, backoff_cap_s=c.backoff_cap_s, serializer=serializer,
        )  # fmt: skip

    def worker(self, name: str) -> AnyWorker:
        """A worker for a configured consumer: `Worker`, `KafkaWorker` or `SqsWorker`, by its queue.

        Raises:
            ConfigError: there is no such consumer, its handler cannot be imported, or its queue is of no known kind.
        """
        c = self.consumer_config(name)
        if not c.queue:
            return self.embedded_worker(name)
        consumer = self.consumer(name)
        scheme, place, options = split_url(c.queue)
        if scheme == "kafka":
            return KafkaWorker(
                consumer, self.ledger, self.clock, {"bootstrap.servers": place.strip("/"), **options},
                concurrency=c.concurrency, dead_letter_topic=c.dead_letters or None, metrics=self.metrics,
                items=self.life_cycle(name),
            )  # fmt: skip
        if scheme == "sqs":
            from headgate.backends.publish import sqs_client

            client, url = sqs_client(place, options)
            return SqsWorker(
                consumer, self.ledger, self.clock, client, url, dead_letter_url=c.dead_letters or None,
                concurrency=c.concurrency, metrics=self.metrics, items=self.life_cycle(name),
            )  # fmt: skip
        raise unknown_scheme(f"consumers.{name}.queue", c.queue, "kafka://host:port, sqs://queue-url, or nothing")

    def embedded_worker(self, name: str) -> Worker:
        """A worker for a configured consumer of the embedded queue.

        Raises:
            ConfigError: as of `worker`; or the ledger is not in the store's file.
        """
        consumer = self.consumer(name)
        if self.ledger.database is None:
            message = (
                "backends.ledger: consumers on the embedded queue need the ledger in the store's file (leave it empty)"
            )
            raise ConfigError(message)
        return Worker(consumer, self.store, self.ledger, self.clock, self.metrics, self.life_cycle(name))

    def file_service(self, store: LocalStore | None = None) -> FileService:
        """The configured file service of the uploads pipeline.

        Args:
            store: with a connection of its own (`intake_store`); None: the app's.
        """
        service: FileService = resolve(FILE_SERVICE)(self, store)
        return service

    # --- the ends of items

    @cached_property
    def finisher(self) -> str:
        """The consumer whose handling finishes an item; an empty text: none of the configured ones.

        Raises:
            ConfigError: `collection.finished_by` names no configured consumer.
        """
        topic = self.pipeline.topic
        consumers = self.config.consumers
        named = self.config.collection.finished_by
        if named and named not in consumers:
            known = ", ".join(sorted(consumers)) or "none is configured"
            message = f"collection.finished_by: there is no consumer {named!r}; expected one of: {known}"
            raise ConfigError(message)
        named = named or self.pipeline.finished_by or ""
        if named:
            return str(named)
        on_topic = [name for name, consumer in consumers.items() if consumer.topic == topic]
        if len(on_topic) > 1:
            log.warning("no consumer finishes items", extra={"topic": topic, "consumers": ", ".join(sorted(on_topic))})
        return on_topic[0] if len(on_topic) == 1 else ""

    def local_finisher(self) -> str:
        """The finishing consumer, if its queue is the embedded one: only its messages are evidence then."""
        configured = self.config.consumers.get(self.finisher)
        return self.finisher if configured is not None and not configured.queue else ""

    def life_cycle(self, name: str) -> LifeCycle | None:
        """A configured consumer's part in the lives of items; None: it gets none of this pipeline's announcements."""
        consumer = self.config.consumers[name]
        is_ours = consumer.topic == self.pipeline.topic
        if not is_ours and consumer.queue:
            return None  # its store may not even be on this machine
        return LifeCycle(self.store, finishes=is_ours and name == self.finisher)

    def announcement(self, item: Json) -> Json:
        """The body of an item's announcement, as its pipeline makes it."""
        accepted = Item(item["key"], self.pipeline.name, item["source"], item["timestamp"], item["doc"])
        return dict(self.pipeline.announce(accepted))

    def held_claims(self, bodies: Mapping[str, Json]) -> dict[str, str]:
        """Of announcements by their items' keys: those that a consumer is handling, with the word "claim".

        A consumer of the embedded queue needs no look at the ledger: its message is in the queue until it is handled.
        """
        places: dict[str, str] = {}
        for name in self._remote_consumers():
            consumer = self.consumer(name)
            for key, body in bodies.items():
                try:
                    places[consumer.claim_key(body)] = key
                except Exception as error:
                    log.warning("no claim key", extra={"consumer": name, "error": error_kind(error)})
        running = running_claims(self.ledger, list(places)) if places else set()
        return {places[claim]: "claim" for claim in running}

    def _remote_consumers(self) -> list[str]:
        """The consumers of this pipeline's announcements whose queue is not the embedded one."""
        topic = self.pipeline.topic
        return [name for name, c in self.config.consumers.items() if c.topic == topic and c.queue]
