"""The healing sweep of a configuration: the kinds of things that can be stuck, and what people are told of them."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate._registry import STUCK_KINDS, resolve
from headgate.backends.clock_jumps import last_jump
from headgate.errors import ConfigError
from headgate.healing import ItemKind, Rule, SelfHealingResult, Sweeper
from headgate.healing._kinds import ClaimKind, OutboxKind, WorkflowKind
from headgate.healing._sweep import report_result, take_over
from headgate.healing._sweeper import Attempts, error_kind
from headgate.wiring.consumers import Consumers
from headgate.wiring.jobs import Jobs
from headgate.wiring.references import load_reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.healing import KindReport, StuckKind
    from headgate.ports import Json

log = logging.getLogger("headgate.healing")
_HOUR_S = 3600.0
_COUNTED = 1_000


class Healing(Jobs, Consumers):
    """The methods of `App` for the healing sweep, and for what it has given up."""

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
        store = self.embedded_store
        for reference in STUCK_KINDS:
            kinds += resolve(reference)(self)
        if self.ledger.database is not None:
            claims = ClaimKind(self.ledger.database, store, self._reclaim, self.clock)
            kinds.append((claims, rule(h.claim_hours, 1)))
        kinds.append((WorkflowKind(self.database, store, self._resume, self.clock), rule(h.workflow_hours)))
        return kinds

    def _own_kind(self, reference: str) -> StuckKind:
        made: StuckKind = load_reference("healing.kinds", reference)(self)
        return made

    def _reclaim(self, group: str) -> int:
        configured = self.config.consumers.get(group)
        return self.embedded_store.reclaim(configured.topic, group) if configured is not None else 0

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
        return None if at_us is None else core.format_timestamp(int(at_us))

    def status(self) -> Json:
        """What is stored, waiting and stuck, on every backend."""
        found: Json = {"items": self.store.status_counts()}
        if self.is_embedded:
            store = self.embedded_store
            found |= {
                "outbox_unsent": store.count("SELECT count(*) FROM outbox WHERE sent_us IS NULL"),
                "queues": {
                    **dict.fromkeys((name for name, c in self.config.consumers.items() if not c.queue), 0),
                    **dict(store.db.execute("SELECT grp, count(*) FROM queue GROUP BY grp ORDER BY grp")),
                },
                "dead_letters": store.count("SELECT count(*) FROM dead_letters WHERE seen > redriven"),
                "executions_running": store.count("SELECT count(*) FROM executions WHERE status = 'RUNNING'"),
            }  # fmt: skip
        else:
            waiting = len(self.store.unsent_before(self.clock.now_us(), _COUNTED))
            letters = len(self.store.dead_letters(_COUNTED))
            found |= {
                "outbox_unsent": waiting, "dead_letters": letters,
                **({"counted_up_to": _COUNTED} if _COUNTED in (waiting, letters) else {}),
            }  # fmt: skip
        jump = last_jump(self.embedded_store) if self.is_embedded else None
        return {**found, "finished_by": self.finisher or None, **({"clock_jump": jump} if jump else {})}
