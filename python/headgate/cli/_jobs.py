"""`headgate jobs`: what `headgate serve` does by the clock, when each last went well, and running one now."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from headgate.errors import ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from headgate.wiring import App

EXIT_OK, EXIT_FAILED = 0, 1


def add_jobs(add: Callable[..., argparse.ArgumentParser], open_app: Callable[[argparse.Namespace], App]) -> None:
    """The command and its arguments."""

    def run(options: argparse.Namespace) -> int:
        return _jobs(open_app(options), options.action, options.name)

    jobs = add("jobs", run, "Scheduled jobs: list them, run one now, or forget its last runs.")
    jobs.add_argument("action", nargs="?", choices=("list", "run", "reset"), default="list")
    jobs.add_argument("name", nargs="?", default="", help="with run and reset: the job's name")


def _jobs(app: App, action: str, name: str) -> int:
    from headgate.cli._serve import scheduled_jobs
    from headgate.serve import Scheduler

    if (action == "list") == bool(name):
        message = f"jobs {action}: " + (
            "expected no name" if name else "expected a job's name; `headgate jobs` lists them"
        )
        raise ConfigError(message)
    scheduler = Scheduler(scheduled_jobs(app), app.store, app.ledger, app.clock)
    if action == "list":
        print(json.dumps(scheduler.states(), indent=2))
        return EXIT_OK
    job = scheduler.find(name)
    if action == "reset":
        scheduler.reset(job)
        print(json.dumps({"job": name, "reset": True}))
        return EXIT_OK
    ran = scheduler.run_once(job, now=True)
    (state,) = (state for state in scheduler.states() if state["job"] == name)
    print(json.dumps({**state, "ran": ran}, indent=2))
    return EXIT_OK if ran else EXIT_FAILED
