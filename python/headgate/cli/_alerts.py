"""`headgate alerts`: what is wrong now, and a test of the webhook; and the job of `headgate serve` that looks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from headgate.errors import ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from headgate.serve import Job
    from headgate.wiring import App

EXIT_OK = 0


def add_alerts(add: Callable[..., argparse.ArgumentParser], open_app: Callable[[argparse.Namespace], App]) -> None:
    """The command and its arguments."""

    def run(options: argparse.Namespace) -> int:
        return _alerts(open_app(options), options.action)

    alerts = add("alerts", run, "What is wrong now, as of the last look; look now; or send a test alert.")
    alerts.add_argument(
        "action", nargs="?", choices=("list", "check", "test"), default="list",
        help="list: what is active (default); check: look now, announce what changed; test: send one to the webhook",
    )  # fmt: skip


def _alerts(app: App, action: str) -> int:
    if action == "test":
        if not app.config.alerts.webhook_env:
            message = "alerts test: no webhook is configured; expected alerts.webhook_env"
            raise ConfigError(message)
        app.send_test_alert()
        _print({"sent": True})
        return EXIT_OK
    if action == "check":
        from headgate.cli._serve import scheduled_jobs

        _print(AlertCheck(app, scheduled_jobs(app)).run())
        return EXIT_OK
    _print(app.alert_book.active())
    return EXIT_OK


class AlertCheck:
    """The look at what is wrong, as a job.

    Args:
        app: the configuration's parts.
        jobs: the scheduled ones that are looked at.
        health: what of the process stands still.
    """

    def __init__(self, app: App, jobs: Sequence[Job], health: Callable[[], Sequence[str]] = tuple) -> None:
        self._app = app
        self._jobs = [job for job in jobs if job.name != "alerts"]  # its own failures it cannot tell
        self._health = health

    def run(self) -> Any:
        """Look, and announce what changed; the messages."""
        from headgate.serve import Scheduler

        states = Scheduler(self._jobs, self._app.store, None, self._app.clock).states()
        return self._app.alert_book.judge(self._app.conditions(states, self._health()))


def _print(value: Any) -> None:
    print(json.dumps(value, indent=2))
