"""`headgate collect`: one collection, for people and for scripts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headgate._text import json_text
from headgate.errors import AllSourcesFailedError, ConfigError, TransientError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from headgate.ports import Json
    from headgate.wiring import App

_SHIPPED = ("tiingo", "finnhub")
_COUNTS_DIFFER = 3


def add_collect(add: Callable[..., Any]) -> None:
    """Register the command."""
    command = add(
        "collect", _collect, "One collection, against the real APIs when TIINGO_API_KEY / FINNHUB_API_KEY are set."
    )
    command.add_argument("tickers", nargs="*", metavar="TICKER", help="instead of collection.tickers")
    command.add_argument("--json", action="store_true", help="print the collection event as JSON")


def _collect(options: argparse.Namespace) -> int:
    from headgate.cli._main import _app

    app = _app(options)
    if not options.config and not Path("headgate.toml").exists():
        _sources_of_the_environment(app)
    if options.tickers:
        app.config.collection.tickers = list(options.tickers)
    failed = None
    try:
        app.collect()
    except AllSourcesFailedError as error:
        failed = error
    finally:
        _deliver(app)  # of a collection that failed too: its alerts wait in the outbox
    (event,) = app.store.collection_events(app.pipeline.name, 1)
    warning = app.freshness().warning
    if options.json or not sys.stdout.isatty():
        print(json_text(event))
    else:
        _show(event)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    if failed is not None:
        raise failed
    fates = event["new_item_count"] + event["duplicate_count"] + event["dead_letter_count"]
    return 0 if event["item_count"] == fates else _COUNTS_DIFFER


def _deliver(app: App) -> None:
    """Send what waits in the outbox, when there is somebody who takes it; without one it waits for `headgate serve`."""
    if app.publisher is None and not (app.is_embedded and app.local_groups()):
        return
    try:
        app.relay()
    except TransientError as error:
        print(f"warning: announcements are not delivered yet: {error}", file=sys.stderr)


def _sources_of_the_environment(app: App) -> None:
    from headgate.config import SourceConfig

    keys = [(name, f"{name.upper()}_API_KEY", f"{name.upper()}_SECRET_ARN") for name in _SHIPPED]
    have = [name for name, key, arn in keys if app.config.environment.get(key) or app.config.environment.get(arn)]
    if not have:
        expected = " or ".join(key for _, key, _ in keys)
        message = f"collect needs {expected} in the environment, or a headgate.toml with sources"
        raise ConfigError(message)
    app.config.sources = {name: SourceConfig(priority=i + 1) for i, name in enumerate(have)}


def _show(event: Json) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    how = "failover" if event["is_failover"] else "primary"
    if event["success"]:
        console.print(
            f"[bold]{event['source']}[/bold] ({how}) gave {event['item_count']} articles in {event['duration_ms']} ms: "
            f"{event['new_item_count']} new, {event['duplicate_count']} known, {event['dead_letter_count']} dead"
            " letters"
        )
    table = Table("source", "request", "attempt", "outcome", "status", "ms", "breaker")
    for a in event["attempts"]:
        color = "green" if a["outcome"] == "ok" else "red"
        moved = (
            a["breaker_after"]
            if a["breaker_before"] == a["breaker_after"]
            else f"{a['breaker_before']} -> {a['breaker_after']}"
        )
        table.add_row(
            a["source"], str(a["request"] + 1), str(a["attempt"]), f"[{color}]{a['outcome']}[/{color}]",
            str(a["status"] or ""), str(a["duration_ms"]), moved,
        )  # fmt: skip
    console.print(table)
    for alert in event["alerts"]:
        console.print(f"alert: {alert}", style="yellow")
