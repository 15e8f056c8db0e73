"""`headgate dlq`: what is given up, why, and sending it back."""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING, Any

from headgate.cli._checkpoint import show_reject
from headgate.consume import dead_letter, dead_letter_counts, dead_letters
from headgate.errors import ConfigError
from headgate.idempotency._failures import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from headgate.ports import Json
    from headgate.wiring import App

EXIT_OK = 0
# Queues that keep their dead letters themselves -> the module that reads them.
_QUEUES = {"sqs": "headgate.cli._dlq_sqs", "kafka": "headgate.cli._dlq_kafka"}


def add_dlq(
    add: Callable[..., argparse.ArgumentParser], open_app: Callable[[argparse.Namespace], App]
) -> None:  # fmt: skip
    """The command and its arguments."""
    text = "Count dead letters, list or show them, send them back, or show a checkpoint's rejected record."
    dlq = add("dlq", lambda options: _run(options, open_app), text)
    dlq.add_argument(
        "action", nargs="?", choices=("counts", "list", "show", "redrive"), default="counts",
        help="counts by stage, consumer and kind (default); list of them, without contents; show one; redrive them",
    )  # fmt: skip
    dlq.add_argument(
        "name", nargs="?", metavar="NAME",
        help="list, redrive: a consumer; show: a letter's id, or with --target 12 hex digits of a log line",
    )  # fmt: skip
    dlq.add_argument("--target", metavar="FILE", help="show: the checkpoint that rejected a record")
    dlq.add_argument("--consumer", metavar="NAME", help="show: the consumer whose queue keeps its letters itself")
    dlq.add_argument(
        "--stage", choices=("intake", "consume", "outbox"),
        help="list: only of this stage; redrive: outbox puts announcements that were set aside back",
    )  # fmt: skip
    dlq.add_argument("--kind", help="list: only of this kind")
    dlq.add_argument("--body", action="store_true", help="show: the body too")
    dlq.add_argument("--json", action="store_true", help="show: JSON instead of text")
    dlq.add_argument("--limit", type=int, default=100, help="list, redrive: at most so many (default: %(default)s)")


def _run(options: argparse.Namespace, open_app: Callable[[argparse.Namespace], App]) -> int:
    if options.limit < 1:
        message = f"dlq: --limit: expected 1 or more, got {options.limit}"
        raise ConfigError(message)
    if options.action == "show":
        return _show(options, open_app)
    app = open_app(options)
    if options.action == "redrive":
        _print(_redrive(app, options))
    elif options.action == "list":
        _print(_list(app, options))
    else:
        _print(dead_letter_counts(app.store))
    return EXIT_OK


def _list(app: App, options: argparse.Namespace) -> list[Json]:
    reader = _reader(app, options.name)
    if reader is not None:
        module, config = reader
        return list(module.list_letters(app, options.name, config, limit=options.limit))
    return dead_letters(
        app.store, stage=options.stage, consumer=options.name, kind=options.kind, limit=options.limit
    )  # fmt: skip


def _show(options: argparse.Namespace, open_app: Callable[[argparse.Namespace], App]) -> int:
    if not options.name:
        message = "dlq show: expected the ID of a dead letter, or DIGEST and --target CHECKPOINT"
        raise ConfigError(message)
    if options.target:
        return show_reject(options.target, options.name)
    app = open_app(options)
    reader = _reader(app, options.consumer)
    if reader is not None:
        module, config = reader
        letter = dict(module.show_letter(app, options.consumer, config, options.name))
    else:
        letter = dead_letter(app.store, options.name)
    body = letter.pop("body")
    size = len((body or "").encode("utf-8", "surrogatepass"))
    if options.json:
        _print({**letter, "body": body} if options.body else {**letter, "body_bytes": size})
        return EXIT_OK
    width = max(map(len, letter))
    for name, value in letter.items():
        # Nothing that a message brought along may control the terminal.
        shown = "" if value is None else value if isinstance(value, str) else json.dumps(value)
        print(f"{printable(name):<{width}}  {printable(shown)}".rstrip())
    shown = ("" if body is None else printable(body)) if options.body else f"{size} bytes; --body shows them"
    print(f"{'body':<{width}}  {shown}".rstrip())
    return EXIT_OK


def _redrive(app: App, options: argparse.Namespace) -> dict[str, int]:
    if options.stage == "outbox":
        if options.name:
            message = "dlq redrive --stage outbox: announcements belong to no consumer; expected no name"
            raise ConfigError(message)
        return {"outbox": app.store.redrive_outbox(options.limit)}
    if options.stage == "intake":
        message = "dlq redrive --stage intake: records come back from their stored bodies; expected `headgate replay`"
        raise ConfigError(message)
    names = [options.name] if options.name else [n for n, c in app.config.consumers.items() if not c.queue]
    done = {}
    for name in names:
        reader = _reader(app, name)
        if reader is not None:
            module, config = reader
            done[name] = int(module.redrive(app, name, config, limit=options.limit))
        else:
            app.worker(name)  # says so where there is no such consumer
            done[name] = app.store.redrive(name, options.limit)
    return done


def _reader(app: App, consumer: str | None) -> tuple[Any, Any] | None:
    """The module that reads the dead letters of a consumer's own queue, with its settings; None: the store has them."""
    settings = app.config.consumers.get(consumer or "")
    if settings is None or not settings.queue:
        return None
    scheme = settings.queue.partition("://")[0]
    if scheme not in _QUEUES:
        message = f"consumers.{consumer}.queue: expected kafka:// or sqs://, got {scheme}://"
        raise ConfigError(message)
    return import_module(_QUEUES[scheme]), settings


def _print(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))
