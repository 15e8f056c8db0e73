"""What operations are told of: the conditions, the book of what was told, and the webhook."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING

from headgate._native import core
from headgate.backends.webhook import Webhook, WebhookLoop
from headgate.consume import Consumer, Worker
from headgate.errors import ConfigError
from headgate.healing import Attempts
from headgate.ops._alerts import AlertBook, Condition
from headgate.resilience import find_ca_file
from headgate.wiring.stores import Stores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headgate.ports import Json

WEBHOOK = "alerts-webhook"  # the consumer of the embedded queue that sends alerts to the webhook
_SETTING = "alerts.webhook_env"


class Alerts(Stores):
    """The methods of `App` that tell operations what is wrong."""

    @cached_property
    def alert_book(self) -> AlertBook:
        """What was told to operations, and what is wrong now."""
        return AlertBook(
            self.store, self.pipeline.alert_topic, self.clock, cooldown_s=self.config.alerts.cooldown_s,
            metrics=self.metrics,
        )  # fmt: skip

    def alert_groups(self) -> dict[str, list[str]]:
        """Topic -> the webhook's group in the embedded queue, if a webhook is configured.

        Raises:
            ConfigError: the store has no queue, or a consumer of the user's has the group's name.
        """
        if not self.config.alerts.webhook_env:
            return {}
        if not self.is_embedded:
            message = f"{_SETTING}: needs a sqlite:/// store, which keeps alerts until they arrive; use backends.alerts"
            raise ConfigError(message)
        if WEBHOOK in self.config.consumers:
            message = f"consumers.{WEBHOOK}: the name is headgate's own; expected another one"
            raise ConfigError(message)
        return {self.pipeline.alert_topic: [WEBHOOK]}

    def webhook(self) -> WebhookLoop:
        """Sends what the webhook's group holds; an outage of the webhook's server delays alerts and nothing else.

        Raises:
            ConfigError: the environment variable is not set, or holds no URL that is taken; the ledger is elsewhere.
        """
        a = self.config.alerts
        consumer = Consumer(
            WEBHOOK, self.pipeline.alert_topic, self._open_webhook(), lease_s=max(60.0, 20 * a.webhook_timeout_s),
            effects="plain", unavailable_limit_s=86_400.0, backoff_base_s=10.0, backoff_cap_s=300.0,
            on_unavailable="process",
        )  # fmt: skip
        return WebhookLoop(Worker(consumer, self.embedded_store, self.ledger, self.clock, self.metrics))

    def send_test_alert(self) -> None:
        """Send one alert that says that it is a test, past the queue.

        Raises:
            ConfigError: as `webhook`.
            TransientError, PermanentError: the webhook did not take it.
        """
        now = self.clock.now_us()
        self._open_webhook()({
            "alert_type": "test", "status": "test", "subject": "test", "count": 0, "message": "a test of the webhook",
            "timestamp": core.format_timestamp(now), "alert_id": f"{now}-test",
        })  # fmt: skip

    def _open_webhook(self) -> Webhook:
        a = self.config.alerts
        variable = f"{_SETTING}: the environment variable {a.webhook_env}"
        url = self.config.environment.get(a.webhook_env, "").strip()
        if not url:
            message = f"{variable} is not set"
            raise ConfigError(message)
        ca_file = find_ca_file(self.config.environment.get("SSL_CERT_FILE", ""))
        return Webhook(
            url, variable, self.clock, timeout_s=a.webhook_timeout_s, ca_file=ca_file, user_agent=self.user_agent
        )

    def conditions(self, jobs: Sequence[Json], wrong: Sequence[str] = ()) -> list[Condition]:
        """Everything that operations would want to know of now.

        Args:
            jobs: job, failures and error of each scheduled job that is looked at.
            wrong: what of this process stands still.
        """
        found = [
            Condition("job_failed", job["job"], f"the job {job['job']} failed: {job['error']} ({job['failures']})")
            for job in jobs if job["failures"] >= self.config.alerts.job_failures
        ]  # fmt: skip
        found += [Condition("not_alive", name, f"{name} of process {os.getpid()} stands still") for name in wrong]
        return found + (self._given_up() if self.is_embedded else [])

    def _given_up(self) -> list[Condition]:
        store = self.embedded_store
        letters: dict[str, int] = {}
        for row in store.dead_letter_counts():
            # The webhook's own would announce themselves through the webhook that refuses them.
            if (row["stage"], row["pipeline"]) != ("consume", WEBHOOK):
                subject = f"{row['stage']} {row['pipeline']}"
                letters[subject] = letters.get(subject, 0) + row["letters"]
        found = [
            Condition("dead_letters", subject, f"dead letters of {subject}: {count}; `headgate dlq` shows them", count)
            for subject, count in letters.items()
        ]
        quarantined = {
            "item": store.count(
                "SELECT count(*) FROM items WHERE pipeline = ? AND status = 'quarantined'", (self.pipeline.name,)
            )
        }
        for kind in ("claim", "workflow"):
            quarantined[kind] = len(Attempts(store, kind, self.clock).quarantined())
        return found + [
            Condition("quarantine", kind, f"quarantined, kind {kind}: {count}; `headgate heal list` shows them", count)
            for kind, count in quarantined.items() if count
        ]  # fmt: skip
