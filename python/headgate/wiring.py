"""Turns a configuration into working objects. Backends are chosen by URL here and connected to the engine."""

from __future__ import annotations

import inspect
import logging
import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, urlsplit

from headgate._native import core
from headgate._registry import ADAPTERS, CALENDARS, PIPELINES, PLANS, resolve
from headgate.backends.exports import export_items
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.backends.retention import Retention, prune
from headgate.checkpoint import CheckpointRun, update
from headgate.checkpoint._places import is_remote, local_path
from headgate.checkpoint._run import Mode
from headgate.consume import Consumer, ConsumeResult, KafkaWorker, SqsWorker, Worker
from headgate.errors import ConfigError, Kind
from headgate.idempotency import Ledger
from headgate.idempotency._open import sqlite_path
from headgate.identity import compact_json
from headgate.intake import (
    AlertRules,
    CollectionResult,
    Collector,
    Freshness,
    Intake,
    Pipeline,
    Taken,
    check_freshness,
    replay,
)
from headgate.items import LifeCycle
from headgate.ops import MemoryMetrics
from headgate.ports import Announcement
from headgate.resilience import (
    BreakerDefaults,
    CircuitBreakerManager,
    RetryBudget,
    RetryPolicy,
    find_ca_file,
    make_tracker,
)
from headgate.wiring_healing import HealingParts
from headgate.workflow import (
    Execution,
    LocalRunner,
    RetryConfiguration,
    Workflow,
    glue_script,
    local_functions,
    local_ports,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.config import Config, ConsumerConfig, SourceConfig
    from headgate.consume._consumer import Effects, Tombstones
    from headgate.idempotency._decorator import OnUnavailable
    from headgate.ports import Calendar, Clock, Json, ObjectStore, Publisher

log = logging.getLogger("headgate")
_STANDING_EVENTS = 100  # whose attempts say how a source stands: eight hours of collections
_UNSENT_US = 15_000_000  # time between two counts of unsent announcements


@dataclass
class App(HealingParts):
    """All objects that one configuration describes. Each is opened when it is first used."""

    config: Config
    user_agent: str = "headgate"
    extra_groups: list[tuple[str, str]] = field(
        default_factory=list
    )  # (group, topic) of the consumers that `headgate serve` adds
    longest_delay_us: int = 0  # longest time from storage to delivery that this app has relayed
    _unsent_due_us: int = field(default=-(1 << 62), init=False, repr=False)

    @cached_property
    def clock(self) -> Clock:
        return core.SystemClock(int(self.config.clock.offset_s * 1e6))

    @cached_property
    def objects(self) -> ObjectStore:
        url = self.config.locate(self.config.backends.objects)
        if url.startswith("s3://"):
            from headgate.backends.s3_objects import S3Objects

            return S3Objects(url)
        if "://" in url and not url.startswith("file://"):
            raise _scheme("backends.objects", url, "file://folder or s3://bucket/prefix")
        return core.file_store(local_path(url))

    @cached_property
    def database(self) -> LocalDatabase:
        url = self.config.locate(self.config.backends.store)
        if not url.startswith("sqlite://"):
            raise _scheme("backends.store", url, "sqlite:///file (for collections and sweeps dynamodb://table too)")
        path = sqlite_path(url)
        _make_parent(path)
        return LocalDatabase(path, durability=self.config.backends.durability)

    def has_store(self) -> bool:
        """Whether the store's file is there. Asking makes none."""
        url = self.config.locate(self.config.backends.store)
        return not url.startswith("sqlite://") or os.path.exists(sqlite_path(url))

    @property
    def is_embedded(self) -> bool:
        """Whether the store is a SQLite file: what needs transactions (queue, workflows, uploads) does too."""
        return not self.config.backends.store.startswith("dynamodb://")

    @cached_property
    def store(self) -> Any:
        """`LocalStore`, or `DynamoStore` for dynamodb://."""
        scheme, place, options = split_url(self.config.backends.store)
        if scheme == "dynamodb":
            from headgate.backends.dynamodb_items import DynamoStore

            store: Any = DynamoStore.open(place, options, self.clock, self.pipeline.name, self.pipeline.key_prefix)
        else:
            store = LocalStore(self.database, self.clock, self.pipeline.name)
        store.metrics = self.metrics
        return store

    def intake_store(self) -> LocalStore:
        """The store on a connection of its own: who uploads waits for a handler's transaction for a moment only.

        A handler in a transaction has the file's write lock, and the app's connection, until it is done.
        """
        wait_s = self.config.serve.store_wait_s
        database = LocalDatabase(
            sqlite_path(self.config.locate(self.config.backends.store)), durability=self.config.backends.durability,
            busy_timeout_s=wait_s, lock_timeout_s=wait_s,
        )  # fmt: skip
        store = LocalStore(database, self.clock, self.pipeline.name)
        store.metrics = self.metrics
        return store

    @cached_property
    def ledger(self) -> Ledger:
        url = self.config.backends.ledger
        if not url and not self.is_embedded:
            message = (
                "backends.ledger: missing; a dynamodb:// store needs a ledger of its own, for example dynamodb://table"
            )
            raise ConfigError(message)
        if not url or self.config.locate(url) == self.config.locate(self.config.backends.store):
            ledger = Ledger.on_database(self.database, clock=self.clock)
        else:
            ledger = Ledger.open(self.config.locate(url), clock=self.clock)
        if hasattr(ledger, "metrics"):
            ledger.metrics = self.metrics
        return ledger

    @cached_property
    def pipeline(self) -> Pipeline:
        """The configured pipeline."""
        found: Pipeline = self._resolve("collection.pipeline", self.config.collection.pipeline, PIPELINES)
        return found

    @cached_property
    def intake(self) -> Intake:
        return Intake(self.pipeline, self.store, self.objects, self.clock, {a.name: a for a in self.adapters})

    @cached_property
    def adapters(self) -> list[Any]:
        """The configured sources, the primary first."""
        return [self._adapter(name, source) for name, source in self._ordered_sources()]

    @cached_property
    def breakers(self) -> CircuitBreakerManager:
        """The sources' breakers, shared with the other nodes of this store."""
        r = self.config.resilience
        options = BreakerDefaults(
            r.failure_threshold, r.window_s, r.recovery_s, r.max_failed_collections, r.failure_rate, r.slow_call_s,
            r.slow_call_rate, r.minimum_calls,
        )  # fmt: skip
        return CircuitBreakerManager(
            self.store, self.clock, options=options, refresh_s=r.breaker_cache_s, quorum=r.breaker_quorum
        )

    @cached_property
    def collector(self) -> Collector:
        r = self.config.resilience
        if not self.adapters:
            message = "sources: none is configured; `headgate init` writes a file with two"
            raise ConfigError(message)
        transport = core.curl_transport(
            find_ca_file(self.config.environment.get("SSL_CERT_FILE", "")), self.user_agent, self.clock,
            int(r.connect_timeout_s * 1e6), r.max_redirects, r.max_body_bytes,
        )  # fmt: skip
        failover = core.Failover(
            RetryPolicy(r.retry_attempts, int(r.retry_base_s * 1e6), 5_000_000), int(r.return_to_primary_s * 1e6), 8,
            transport, self.clock, core.SystemRandom(), RetryBudget(), int(r.total_s * 1e6), int(r.hedge_s * 1e6),
        )  # fmt: skip
        tracker = make_tracker(self.clock, threshold=r.alert_failures, window_s=r.alert_window_s)
        alerts = AlertRules(tracker, self.clock, latency_s=r.alert_latency_s, cooldown_s=r.alert_cooldown_s)
        return Collector(
            self.intake, self.adapters, failover=failover,
            breakers={a.name: self.breakers.breaker(a.name) for a in self.adapters}, alerts=alerts, store=self.store,
            on_stored=self._notify, metrics=self.metrics, shared=self.breakers, last_resort=self._alert_directly,
        )  # fmt: skip

    def missing_keys(self) -> list[str]:
        """The environment variables of those sources that take a key and have none."""
        # A source of one's own may need no key.
        named = zip(self._ordered_sources(), self.adapters, strict=True)
        return [_key_variable(name, source) for (name, source), a in named if getattr(a, "token", True) == ""]

    def query(self) -> Json:
        """The collection's query at this moment of the pipeline's clock."""
        c = self.config.collection
        now = self.clock.now_us()
        day = 86_400 * 1_000_000
        return {
            "tickers": [t.strip().upper() for t in c.tickers],
            **({"reliability": {k.lower(): v for k, v in c.reliability.items()}} if c.reliability else {}),
            "start_date": core.format_timestamp(now - c.lookback_days * day)[:10],
            "end_date": core.format_timestamp(now)[:10],
        }

    def collect(self, cancel: Any = None) -> CollectionResult:
        """One collection; a `core.CancelToken` ends it from another thread."""
        collector, query = self.collector, self.query()  # a faulty configuration ends it here
        try:
            return collector.collect(query, cancel)
        finally:
            self._store_standings()

    def _store_standings(self) -> None:
        """Each source's standing, for dashboards; what goes wrong with it fails no collection."""
        standing = self.pipeline.standing
        if standing is None:
            return
        try:
            events = self.store.collection_events(self.pipeline.name, _STANDING_EVENTS)
            for priority, adapter in enumerate(self.adapters, 1):
                snapshot = self.breakers.breaker(adapter.name).snapshot()
                doc = standing(adapter, min(priority, 10), snapshot, events)
                self.store.save_state(f"source:{adapter.name}", doc)
        except Exception as error:
            log.warning("standings are not stored", extra={"error": type(error).__name__})

    def standings(self) -> Json:
        """How each configured source stands since its last collection (`DataSourceConfig`)."""
        found = {a.name: self.store.load_state(f"source:{a.name}") for a in self.adapters}
        return {name: doc for name, doc in found.items() if doc is not None}

    def _alert_directly(self, topic: str, key: str, body: Json) -> None:
        """Past the outbox, when the store takes nothing."""
        if self.publisher is not None:
            self.publisher.publish([Announcement(0, topic, key, compact_json(body), key)])

    @cached_property
    def metrics(self) -> MemoryMetrics:
        return MemoryMetrics()

    @cached_property
    def publisher(self) -> Publisher | None:
        """Where announcements go, or None for this machine's own consumers."""
        b = self.config.backends
        if not b.notify and not b.alerts:
            return None
        from headgate.backends.publish import RoutedPublisher, open_publisher

        default = open_publisher(b.notify) if b.notify else None
        return RoutedPublisher(default, open_publisher(b.alerts)) if b.alerts else default

    def relay(self) -> int:
        """Deliver what waits in the outbox; how many announcements."""
        groups = self.local_groups()
        if self.publisher is None:
            sent = int(self.store.relay_outbox(groups))
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
        groups: dict[str, list[str]] = {}
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
            self._resolve(f"{where}.{option}", getattr(c, option)) if getattr(c, option) else None
            for option in ("key", "payload", "serializer")
        )
        handler = self._resolve(f"{where}.handler", c.handler)
        return Consumer(
            name, c.topic, handler, key, c.lease_s, c.max_attempts, c.namespace, cast("Effects", c.effects),
            cast("OnUnavailable", c.on_unavailable), c.max_message_bytes, event_type=c.event_type or None,
            payload=payload, tombstones=cast("Tombstones", c.tombstones), unavailable_limit_s=c.unavailable_limit_s,
            backoff_base_s=c.backoff_base_s, backoff_cap_s=c.backoff_cap_s, serializer=serializer,
        )  # fmt: skip

    def worker(self, name: str) -> Any:
        """A worker for a configured consumer: `Worker`, `KafkaWorker` or `SqsWorker`, by its queue.

        Raises:
            ConfigError: there is no such consumer, its handler cannot be imported, or its queue is of no known kind.
        """
        where = f"consumers.{name}"
        c = self.consumer_config(name)
        consumer = self.consumer(name)
        if not c.queue:
            if self.ledger.database is None:
                message = (
                    "backends.ledger: consumers on the embedded queue need the ledger in the store's file (leave it "
                    "empty)"
                )
                raise ConfigError(message)
            return Worker(consumer, self.store, self.ledger, self.clock, self.metrics, self.life_cycle(name))
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
        raise _scheme(f"{where}.queue", c.queue, "kafka://host:port, sqs://queue-url, or nothing")

    @property
    def retention(self) -> Retention:
        r = self.config.retention
        return Retention(r.outbox_days, r.history_days, r.dead_letter_days, r.raw_days, r.execution_days)

    def prune(self) -> dict[str, int]:
        """Forget what is past its time, done keys included; how much of each store."""
        if not self.is_embedded:
            return {}  # the table expires its items itself
        objects = self.config.locate(self.config.backends.objects)
        folder = None if objects.startswith("s3://") else local_path(objects)  # a bucket has rules of its own
        gone = prune(self.database, folder, self.retention, self.clock)
        return {**gone, "done keys": self.ledger.prune()}

    def replay(self, source: str = "", since_us: int = 0, dry_run: bool = False) -> Taken:
        """Stored raw bodies through today's parser; see `headgate.intake.replay`."""
        return replay(self.intake, source=source, since_us=since_us, dry_run=dry_run)

    def checkpoint(self, name: str, progress: Callable[[int, int], None] | None = None) -> CheckpointRun:
        """One run of a configured checkpoint; exports the pipeline's new items first where that is configured."""
        where = f"checkpoints.{name}"
        if name not in self.config.checkpoints:
            message = f"{where}: there is no such checkpoint"
            raise ConfigError(message)
        c = self.config.checkpoints[name]
        for key in ("source", "target"):
            if not getattr(c, key):
                message = f"{where}.{key}: missing; expected a path"
                raise ConfigError(message)
        source, target = self._place(c.source), self._place(c.target)
        if c.export:
            self.export_items(local_path(source))
        if not is_remote(target):
            _make_parent(target)
        known = c.schema in ("", "infer", *PLANS)
        schema = (c.schema or None) if known else self._resolve(f"{where}.schema", c.schema)
        return update(
            source,
            target,
            schema=schema,
            mode=cast("Mode", c.mode),
            settle_s=0 if c.export else c.settle_s,  # exported files appear complete, by a rename
            progress=progress,
        )

    def _place(self, url: str) -> str:
        """Paths are relative to the configuration; URLs of other machines are what they are."""
        return url if is_remote(url) else local_path(self.config.locate(url))

    def export_items(self, folder: str) -> int:
        """Write the pipeline's new items to a folder; see `export_items`."""
        return export_items(self.store, folder)

    def workflow(self, name: str) -> tuple[Workflow, LocalRunner, Json]:
        """A configured workflow, its runner and its input."""
        where = f"workflows.{name}"
        if name not in self.config.workflows:
            message = f"{where}: there is no such workflow"
            raise ConfigError(message)
        w = self.config.workflows[name]
        retry = RetryConfiguration(max_attempts=w.retry_attempts, interval_s=w.retry_interval_s)
        workflow = self._resolve(f"{where}.definition", w.definition)(retry)
        functions = self._resolve(f"{where}.functions", w.functions)(self.objects, self.clock)
        data = {k: self.config.locate(v) if k == "events" else v for k, v in w.input.items()}
        jobs = {job: glue_script(self.config.locate(script)) for job, script in w.jobs.items()}
        known = local_functions(workflow, self.objects, self.clock, functions, jobs)
        ports = local_ports(store=self.store, objects=self.objects, bucket=workflow.bucket, clock=self.clock)
        runner = LocalRunner(
            self.database, known, self.clock, objects=self.objects, bucket=workflow.bucket, ports=ports
        )
        return workflow, runner, data

    def run_workflow(self, name: str, execution_id: str | None = None) -> Execution:
        """Run a configured workflow to its end."""
        workflow, runner, data = self.workflow(name)
        return runner.start(workflow.name, workflow.to_asl(), data, execution_id, kind=str(workflow.type))

    def resume_workflows(self) -> int:
        """Go on with what was running of the configured workflows, as far as it goes without waiting. Returns how
        many."""
        count = 0
        for name in self.config.workflows if self.is_embedded else ():
            workflow, runner, _ = self.workflow(name)
            count += len(runner.run_due(workflow.name))
        return count

    # --- parts

    def _ordered_sources(self) -> list[tuple[str, SourceConfig]]:
        return sorted(self.config.sources.items(), key=lambda entry: (entry[1].priority, entry[0]))

    def _adapter(self, name: str, source: SourceConfig) -> Any:
        where = f"sources.{name}"
        cls = self._resolve(f"{where}.kind", source.kind or name, ADAPTERS)
        variable = _key_variable(name, source)
        token = self.config.environment.get(variable, "")
        secret = self.config.environment.get(f"{name.upper()}_SECRET_ARN", "")
        if not token and secret:
            from headgate.backends.secrets import fetch_secret

            token = fetch_secret(secret)
        token = token.strip()  # a file's or a secret's last line break is no part of the key
        if any(ord(c) < 32 or ord(c) == 127 for c in token):
            message = f"{variable}: the key holds control characters; expected one line"
            raise ConfigError(message)
        options: Json = {
            "name": name,
            "token": token,
            "timeout_s": source.timeout_s or self.config.resilience.timeout_s,
        }
        base_url = source.base_url or self.config.environment.get(f"{name.upper()}_BASE_URL", "")
        if base_url:
            options["base_url"] = base_url.rstrip("/")
        if self.config.collection.sentiment:
            options["sentiment"] = True
        accepted = inspect.signature(cls).parameters
        return cls(**{k: v for k, v in options.items() if k in accepted})

    def _notify(self, result: CollectionResult) -> None:
        if self.pipeline.notify is None:
            return
        topic, body = self.pipeline.notify(result.event_id, result.source, result.taken.new, self.clock.now_us())
        self.store.publish(topic, result.event_id, body)

    @cached_property
    def calendar(self) -> Calendar:
        """When scheduled collections run."""
        made: Calendar = self._resolve("collection.calendar", self.config.collection.calendar, CALENDARS)()
        return made

    def freshness(self, at_us: int | None = None) -> Freshness:
        """How old the data is now, or at a moment."""
        now = self.clock.now_us()
        return check_freshness(self.collector.last_success_us(), at_us or now, self.calendar, now_us=now)

    @staticmethod
    def _resolve(where: str, reference: str, known: dict[str, str] | None = None) -> Any:
        try:
            return resolve(reference, known)
        except (ImportError, AttributeError, ValueError) as error:
            names = f"one of {', '.join(sorted(known))}, or " if known else ""
            message = f"{where}: cannot load {reference!r}; expected {names}module:attribute ({error})"
            raise ConfigError(message) from None


def open_intake(pipeline: Pipeline, folder: str | os.PathLike[str]) -> Intake:
    """An intake on the embedded backends, all below one folder: `headgate.db` and `objects/`.

    Example:
        >>> intake = open_intake(pipeline, "data")                  # doctest: +SKIP
        >>> intake.accept("github", body).stored                    # doctest: +SKIP
        1
    """
    root = os.fspath(folder)
    objects = core.file_store(os.path.join(root, "objects"))
    clock = core.SystemClock()
    store = LocalStore(LocalDatabase(os.path.join(root, "headgate.db")), clock, pipeline.name)
    return Intake(pipeline, store, objects, clock)


def consume_items(intake: Intake, consumer: Consumer) -> ConsumeResult:
    """Deliver the announcements of an intake of `open_intake` to a consumer, and let it handle and finish the items.

    Effect, completion and the item's end are one commit. What fails or is held by another worker stays in the queue.

    Args:
        intake: on the embedded backends.
        consumer: of the pipeline's topic.

    Raises:
        ConfigError: the consumer listens to another topic.
    """
    store: Any = intake.store
    if consumer.topic != intake.pipeline.topic:
        message = f"consumer {consumer.name}: listens to {consumer.topic}; expected {intake.pipeline.topic}"
        raise ConfigError(message)
    store.relay_outbox({consumer.topic: [consumer.name]})
    ledger = Ledger.on_database(store.db, clock=intake.clock)
    return Worker(consumer, store, ledger, intake.clock, items=LifeCycle(store)).drain()


def split_url(url: str) -> tuple[str, str, dict[str, str]]:
    """Scheme, place and options of a backend's URL."""
    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    return scheme, place, dict(parse_qsl(query))


def _key_variable(name: str, source: SourceConfig) -> str:
    return source.token_env or f"{name.upper()}_API_KEY"


def _scheme(where: str, url: str, expected: str) -> ConfigError:
    scheme = urlsplit(url).scheme or url
    return ConfigError(f"{where}: unknown backend scheme {scheme!r}; expected {expected}", Kind.UNSUPPORTED_SCHEME)


def _make_parent(path: str) -> None:
    from pathlib import Path

    from headgate.errors import AccessError, StorageFullError

    parent = Path(path).resolve().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except PermissionError:
        message = f"cannot make folder {parent}: permission denied"
        raise AccessError(message) from None
    except (FileExistsError, NotADirectoryError):
        message = f"{parent} is not a folder"
        raise ConfigError(message) from None
    except OSError as error:
        message = f"cannot make folder {parent}: {error.strerror}"
        raise StorageFullError(message, Kind.IO_ERROR) from None
