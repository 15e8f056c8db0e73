"""`headgate dlq`: what is given up, why, and sending it back."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from headgate._text import printable
from headgate.cli._checkpoint import show_reject
from headgate.errors import ConfigError, HeadgateError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from headgate.ports import Json
    from headgate.wiring import App

EXIT_OK, EXIT_FAILED = 0, 1


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
        return _counts(app)
    if not options.name and options.stage in {None, "consume"}:
        _say_what_is_elsewhere(app, options.action)
    return EXIT_OK


def _counts(app: App) -> int:
    """Counts of the store, and of every configured consumer whose own queue keeps its letters; what could not be
    counted is named on standard error, and the exit code is 1."""
    from headgate.consume import dead_letter_counts

    found = dead_letter_counts(app.store)
    queues: dict[str, Json] = {}
    missing = False
    for name, settings in app.config.consumers.items():
        if not settings.queue:
            continue
        try:
            rows = _count_elsewhere(app, name, queues)
        except HeadgateError as error:
            missing = True
            print(f"headgate: dlq: not counted: {printable(name)}: {_words(error)}", file=sys.stderr)
        else:
            found += rows
    _print(found)
    return EXIT_FAILED if missing else EXIT_OK


def _count_elsewhere(app: App, name: str, queues: dict[str, Json]) -> list[Json]:
    """The rows of a consumer whose own queue keeps its letters.

    Args:
        app: the configuration's parts.
        name: the consumer's.
        queues: rows of SQS queues that were counted already, by URL: consumers that share one share its row.
    """
    reader = _reader(app, name)
    assert reader is not None
    if isinstance(reader, _KafkaReader):
        return [_row(name, kind, count) for kind, count in sorted(reader.count().items())]
    url, count = reader.count()
    if url in queues:
        queues[url]["pipeline"] += f", {name}"
        return []
    row = _row(name, None, count)
    if url:
        queues[url] = row
    return [row] if count else []


def _row(name: str, kind: str | None, count: int) -> Json:
    """As the store's; SQS counts messages and does not say of which kind they are."""
    return {"stage": "consume", "pipeline": name, "kind": kind, "letters": count, "seen": count}


def _say_what_is_elsewhere(app: App, action: str) -> None:
    names = [name for name, settings in app.config.consumers.items() if settings.queue]
    if names:
        what = "not listed" if action == "list" else "not sent back"
        shown = printable(", ".join(names))
        print(f"headgate: dlq {action}: {what}: letters in queues of their own, of {shown}; name one", file=sys.stderr)


def _words(error: HeadgateError) -> str:
    from headgate.ops import redact

    return f"{printable(redact(str(error)))} [{error.kind.value}]"


def _list(app: App, options: argparse.Namespace) -> list[Json]:
    from headgate.consume import dead_letters  # not at the start of every other command

    reader = _reader(app, options.name)
    if reader is None:
        return dead_letters(
            app.store, stage=options.stage, consumer=options.name, kind=options.kind, limit=options.limit
        )  # fmt: skip
    found = reader.list(options.limit) if options.stage in {None, "consume"} else []
    # A reason may quote what a message held: like the body it is shown on request.
    shown = [{name: value for name, value in letter.items() if name != "reason"} for letter in found]
    return [letter for letter in shown if options.kind in {None, letter["kind"]}]


def _show(options: argparse.Namespace, open_app: Callable[[argparse.Namespace], App]) -> int:
    from headgate.consume import dead_letter

    if not options.name:
        message = "dlq show: expected the ID of a dead letter, or DIGEST and --target CHECKPOINT"
        raise ConfigError(message)
    if options.target:
        return show_reject(options.target, options.name)
    app = open_app(options)
    reader = _reader(app, options.consumer)
    letter = dead_letter(app.store, options.name) if reader is None else reader.show(options.name)
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
            done[name] = reader.redrive(options.limit)
        else:
            app.worker(name)  # says so where there is no such consumer
            done[name] = app.embedded_store.redrive(name, options.limit)
    return done


class _KafkaReader:
    """The dead letters of a consumer whose queue is a Kafka topic."""

    def __init__(self, app: App, consumer: str) -> None:
        self._module = import_module("headgate.cli._dlq_kafka")
        self._of = (app, consumer, app.config.consumers[consumer])

    def list(self, limit: int) -> list[Json]:
        return list(self._module.list_letters(*self._of, limit=limit))

    def count(self) -> dict[str, int]:
        return dict(self._module.count_letters(*self._of))

    def show(self, ident: str) -> Json:
        return dict(self._module.show_letter(*self._of, ident))

    def redrive(self, limit: int) -> int:
        return int(self._module.redrive(*self._of, limit=limit))


class _SqsReader:
    """The dead letters of a consumer whose queue is an SQS queue; a letter's id is its message id."""

    def __init__(self, app: App, consumer: str) -> None:
        self._module = import_module("headgate.cli._dlq_sqs")
        self._run = self._module.dlq_sqs
        self._app, self._consumer = app, consumer

    def list(self, limit: int) -> list[Json]:
        return list(self._run(self._app, "list", self._consumer, limit))

    def count(self) -> tuple[str, int]:
        url, count = self._module.count_letters(self._app, self._consumer)
        return str(url), int(count)

    def show(self, ident: str) -> Json:
        return dict(self._run(self._app, "show", self._consumer, None, ident))

    def redrive(self, limit: int) -> int:
        return int(self._run(self._app, "redrive", self._consumer, limit)[self._consumer])


def _reader(app: App, consumer: str | None) -> _KafkaReader | _SqsReader | None:
    """Reads the dead letters of a consumer whose own queue keeps them; None: the store has them."""
    settings = app.config.consumers.get(consumer or "")
    if settings is None or not settings.queue or consumer is None:
        return None
    scheme = settings.queue.partition("://")[0]
    if scheme == "kafka":
        return _KafkaReader(app, consumer)
    if scheme == "sqs":
        return _SqsReader(app, consumer)
    message = f"consumers.{consumer}.queue: expected kafka:// or sqs://, got {settings.queue.partition('?')[0]!r}"
    raise ConfigError(message)


def _print(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))
