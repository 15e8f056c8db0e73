"""`headgate workflow serve`: the local pipe of a configured workflow, from a queue of the embedded store."""

from __future__ import annotations

import json
import logging
import signal
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from headgate.cli._files import read_text
from headgate.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from headgate.ports import Json
    from headgate.wiring import App
    from headgate.workflow import LocalPipe

log = logging.getLogger("headgate.workflow")
_WORKERS = 4


def add_serve_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments of `headgate workflow serve`."""
    command.add_argument("name", help="a workflow of the configuration")
    command.add_argument("--queue", default="", help="the topic to read (default: workflows.NAME.queue)")
    command.add_argument("--send", metavar="FILE", action="append", default=[], help="send a text first; - is stdin")
    command.add_argument("--until-empty", action="store_true", help="end when no message is visible")
    command.add_argument("--redrive", action="store_true", help="send its dead letters back to the queue first")
    command.add_argument(
        "--workers", type=int, default=_WORKERS, help="STANDARD executions at the same time (default: %(default)s)"
    )


def serve_workflow(app: App, options: argparse.Namespace) -> int:
    """Run the pipe until SIGTERM or Ctrl-C (or, with `until_empty`, until nothing is left), and print its counts.

    Args:
        app: the configured parts; its store has to be an embedded one.
        options: what `add_serve_arguments` defines.

    Raises:
        ConfigError: there is no such workflow, it has no queue, or the store has no queue of its own.
    """
    pipe = make_pipe(app, options.name, options.queue, options.workers)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: pipe.stop())
    for path in options.send:
        pipe.send(read_text(path))
    if options.redrive:
        print(f"{pipe.redrive()} dead letters sent back", file=sys.stderr, flush=True)
    if options.until_empty:
        app.relay()
        pipe.drain()
    else:
        print(f"serving workflow {options.name} from queue {pipe.queue}", file=sys.stderr, flush=True)
        pipe.run(app.relay)
    print(json.dumps({**asdict(pipe.result), "waiting": pipe.depth()}, indent=2))
    return 0


def make_pipe(app: App, name: str, queue: str = "", workers: int = 0) -> LocalPipe:
    """The pipe of a configured workflow; announcements of its topic reach it through the outbox.

    Raises:
        ConfigError: see `serve_workflow`.
    """
    from headgate.workflow import LocalPipe  # not at the start of every other command

    workflow, runner, _ = app.workflow(name)
    config = app.config.workflows[name]
    topic = queue or config.queue or workflow.source_queue or ""
    if not topic:
        message = f"workflows.{name}.queue: missing; expected the topic that the pipe reads (or source_queue, --queue)"
        raise ConfigError(message)
    if not app.is_embedded:
        message = f"workflows.{name}: the local pipe reads a queue of the embedded store; expected a sqlite:// store"
        raise ConfigError(message)
    pipe = LocalPipe.of(
        workflow, app.store, runner, queue=topic, visibility_timeout_s=config.visibility_timeout_s,
        max_receive_count=config.max_receive_count, on_failure=_report, workers=workers,
    )  # fmt: skip
    app.extra_groups.append((pipe.group, topic))
    return pipe


def _report(event: Json) -> None:
    """An alert for a failed STANDARD execution: one line on standard error, where the logs go."""
    detail = event["detail"]
    log.error(
        "execution failed: nobody waits for it",
        extra={"executionId": detail["name"], "error": detail["error"], "cause": detail["cause"]},
    )
