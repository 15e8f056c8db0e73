"""The part of `wiring.App` that finishes items and heals: consumers that finish items, and the kinds of the sweep."""

from __future__ import annotations

import logging
from dataclasses import asdict
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from headgate._registry import resolve
from headgate.backends.clock_jumps import last_jump
from headgate.backends.evidence import running_claims
from headgate.errors import ConfigError
from headgate.healing import ItemKind, Rule, SelfHealingResult, Sweeper
from headgate.healing._kinds import BatchKind, ClaimKind, OutboxKind, UploadKind, WorkflowKind
from headgate.healing._sweep import report_result, take_over
from headgate.healing._sweeper import Attempts, error_kind
from headgate.items import LifeCycle
from headgate.ports import Item

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from headgate.healing import KindReport, StuckKind
    from headgate.pipelines.uploads import FileService
    from headgate.ports import Json

log = logging.getLogger("headgate.healing")
_HOUR_S = 3600.0
_BATCH_LATE_S = 60.0  # `headgate serve` ends batches within a second; the sweep is for those it missed
_COUNTED = 1_000


class HealingParts:
    """The methods of `App` for finishing items and for the healing sweep."""

    config: Any
    store: Any
    clock: Any
    pipeline: Any
    ledger: Any
    relay: Any
    metrics: Any
    consumer: Any
    objects: Any
    database: Any
    workflow: Any

    @property
    def is_embedded(self) -> bool:
        """See `App`."""
        raise NotImplementedError

    def file_service(self, store: Any = None) -> FileService:
        """The configured file service.

        Args:
            store: with a connection of its own (`intake_store`); None: the app's.
        """
        from headgate.pipelines.uploads import ContentStore, FileService

        u = self.config.uploads
        return FileService(
            ContentStore(self.objects), store or self.store, self.clock, min_length=u.min_length,
            max_length=u.max_length, extract_timeout_s=u.extract_timeout_s,
            extract_memory_bytes=u.extract_memory_bytes, metrics=self.metrics,
        )  # fmt: skip

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

    # --- sweeps

    def heal(
        self, budget_s: float | None = None, *, dry_run: bool = False,
        emit_metric: Callable[[str, float, str, dict[str, str]], Any] | None = None, environment: str = "dev",
    ) -> SelfHealingResult:  # fmt: skip
        """One sweep of everything that can be stuck. Never raises; what goes wrong is in `errors`.

        Args:
            budget_s: at most so long, and never longer than `healing.budget_s`.
            dry_run: count, change nothing.
            emit_metric: see `headgate.healing.run_self_healing_check`.
            environment: the metrics' dimension.
        """
        h = self.config.healing
        result = SelfHealingResult()
        started = 0
        try:
            started = self.clock.mono_us()
            if h.enabled:
                budget_s = h.budget_s if budget_s is None else min(budget_s, h.budget_s)
                found = Sweeper(self.stuck_kinds(), self.clock, self.store).run(budget_s, dry_run=dry_run)
                take_over(result, found.pop("item"))
                for name, report in found.items():
                    if any(asdict(report).values()):
                        result.kinds[name] = report.to_dict()
                    self._count(name, report)
                    for error in report.errors:
                        result.add_error(f"{name}: {error}")
        except Exception as error:
            result.add_error(error_kind(error))
            log.error("self-healing failed", extra={"error": error_kind(error)})
        if started:
            result.execution_time_ms = (self.clock.mono_us() - started) / 1000
        report_result(result, h.threshold_hours, emit_metric, environment)
        return result

    def stuck_kinds(self) -> list[tuple[StuckKind, Rule]]:
        """What is swept, each with its rule."""
        h = self.config.healing
        items = ItemKind(
            self.store, self.pipeline.topic, self.announcement, self.clock, pipeline=self.pipeline.name,
            model_version=self.pipeline.model_version, group=self.local_finisher(),
            evidence=self.held_claims if self._remote_consumers() else None,
        )  # fmt: skip

        def rule(hours: float, attempts: int = h.max_attempts) -> Rule:
            return Rule(hours * _HOUR_S, h.batch_size, attempts)

        kinds: list[tuple[StuckKind, Rule]] = [
            (items, rule(h.threshold_hours)),
            (OutboxKind(self.store.unsent_before, self.relay), rule(h.outbox_hours, 0)),
        ]
        if self.is_embedded:
            kinds += self._embedded_kinds(rule)
        for reference in h.kinds:
            kinds.append((self._own_kind(reference), rule(h.threshold_hours)))
        return kinds

    def _embedded_kinds(self, rule: Callable[..., Rule]) -> list[tuple[StuckKind, Rule]]:
        h = self.config.healing
        kinds: list[tuple[StuckKind, Rule]] = []
        if self.store.states("uploads.") or self.store.has_topic("uploads.files"):
            from headgate.pipelines.uploads import BatchTracker

            u, files = self.config.uploads, self.file_service()
            tracker = BatchTracker(self.store, self.clock, ready_timeout_s=u.ready_timeout_s, metrics=self.metrics)
            kinds.append((UploadKind(self.store, files.give_up), rule(h.upload_hours)))
            kinds.append((BatchKind(self.store, tracker.check_timeouts), Rule(_BATCH_LATE_S, h.batch_size, 0)))
        if self.ledger.database is not None:
            claims = ClaimKind(self.ledger.database, self.store, self._reclaim, self.clock)
            kinds.append((claims, rule(h.claim_hours, 1)))
        kinds.append((WorkflowKind(self.database, self.store, self._resume, self.clock), rule(h.workflow_hours)))
        return kinds

    def _own_kind(self, reference: str) -> StuckKind:
        try:
            made: StuckKind = resolve(reference, None)(self)
        except (ImportError, AttributeError, ValueError) as error:
            message = f"healing.kinds: cannot load {reference!r}; expected module:function ({error})"
            raise ConfigError(message) from None
        return made

    def local_finisher(self) -> str:
        """The finishing consumer, if its queue is the embedded one: only its messages are evidence then."""
        configured = self.config.consumers.get(self.finisher)
        return self.finisher if configured is not None and not configured.queue else ""

    def _reclaim(self, group: str) -> int:
        configured = self.config.consumers.get(group)
        return int(self.store.reclaim(configured.topic, group)) if configured is not None else 0

    def _resume(self, execution_id: str, workflow: str) -> bool:
        for name in self.config.workflows:
            defined, runner, _ = self.workflow(name)
            if defined.name != workflow:
                continue
            return bool(runner.advance(execution_id).held_until_us is None)
        message = f"workflow {workflow!r} is not configured here, so that its executions cannot be resumed"
        raise ConfigError(message)

    def _count(self, name: str, report: KindReport) -> None:
        for outcome in ("healed", "quarantined", "failed"):
            amount = getattr(report, outcome)
            if amount:
                self.metrics.count("headgate_healing_total", amount, kind=name, outcome=outcome)
        self.metrics.gauge("headgate_healing_held_up", report.held_up, kind=name)

    # --- what is stuck, for people

    def stuck(self, limit: int = 1_000) -> list[Json]:
        """What no sweep touches any more: quarantined and failed items, and what else was given up.

        Returns:
            kind, key, status, reason, source, attempts, since (ISO 8601).
        """
        found = [
            {
                "kind": "item", "key": i["key"], "status": i["status"], "reason": i["reason"], "source": i["source"],
                "attempts": i["republish_attempts"], "since": self._iso(i["ended_us"]),
            }
            for i in self.store.stuck_items(limit)
        ]  # fmt: skip
        if self.is_embedded:
            for name in ("claim", "workflow"):
                found += [
                    {
                        "kind": name, "key": x["key"], "status": "quarantined", "reason": x["reason"], "source": None,
                        "attempts": x["attempts"], "since": self._iso(x["at_us"]),
                    }
                    for x in Attempts(self.store, name, self.clock).quarantined()
                ]  # fmt: skip
        return found[:limit]

    def release(self, key: str | None = None) -> int:
        """Let the sweeps have what was given up again, with all its attempts; how many things.

        Args:
            key: of one thing; None: everything.
        """
        released = int(self.store.release_items(None if key is None else [key]))
        if self.is_embedded:
            for name in ("claim", "workflow"):
                attempts = Attempts(self.store, name, self.clock)
                for entry in attempts.quarantined():
                    if key is None or entry["key"] == key:
                        attempts.forget(entry["key"])
                        released += 1
        return released

    def _iso(self, at_us: int | None) -> str | None:
        from headgate._native import core

        return None if at_us is None else core.format_timestamp(int(at_us))

    def status(self) -> Json:
        """What is stored, waiting and stuck, on every backend."""
        found: Json = {"items": self.store.status_counts()}
        if self.is_embedded:
            count = partial(self.store.count)
            found |= {
                "outbox_unsent": count("SELECT count(*) FROM outbox WHERE sent_us IS NULL"),
                "queues": {
                    name: self.store.queue_depth(c.topic, name)[0]
                    for name, c in self.config.consumers.items() if not c.queue
                },
                "dead_letters": count("SELECT count(*) FROM dead_letters WHERE seen > redriven"),
                "executions_running": count("SELECT count(*) FROM executions WHERE status = 'RUNNING'"),
            }  # fmt: skip
        else:
            waiting = len(self.store.unsent_before(self.clock.now_us(), _COUNTED))
            letters = len(self.store.dead_letters(_COUNTED))
            found |= {
                "outbox_unsent": waiting, "dead_letters": letters,
                **({"counted_up_to": _COUNTED} if _COUNTED in (waiting, letters) else {}),
            }  # fmt: skip
        jump = last_jump(self.store) if self.is_embedded else None
        return {**found, "finished_by": self.finisher or None, **({"clock_jump": jump} if jump else {})}
