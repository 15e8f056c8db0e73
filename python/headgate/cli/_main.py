"""Arguments, exit codes, and one clear sentence for every error."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headgate import __version__, _native
from headgate.cli._alerts import add_alerts
from headgate.cli._checkpoint import add_commands
from headgate.cli._collect import add_collect
from headgate.cli._dead_letters import add_dead_letters
from headgate.cli._dev import add_dev
from headgate.cli._dlq import add_dlq
from headgate.cli._heal import add_heal
from headgate.cli._jobs import add_jobs
from headgate.cli._package import add_package
from headgate.cli._reconcile import add_reconcile
from headgate.cli._tables import add_tables
from headgate.cli._trace import add_trace
from headgate.cli._workflow import add_workflow, with_default_action
from headgate.errors import ConfigError, HeadgateError, InternalError, InterruptedRunError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.config import Config
    from headgate.wiring import App

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_COUNTS, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code: 0 fine, 1 an error, 2 wrong usage, 3 counts differ, 130 interrupted."""
    parser = _parser()
    options = parser.parse_args(with_default_action(sys.argv[1:] if arguments is None else arguments))
    command: Callable[[argparse.Namespace], int] | None = getattr(options, "run", None)
    if command is None:
        parser.print_help()
        return EXIT_USAGE
    mask = os.umask(0o077)
    os.umask(mask)  # there is no other way to read it
    try:
        _native.set_faults(os.environ.get("HEADGATE_FAULTS", ""))
        return command(options)
    except KeyboardInterrupt:
        return _fail(options, InterruptedRunError("interrupted; nothing half-done remains"), EXIT_INTERRUPTED)
    except InterruptedRunError as error:
        return _fail(options, error, EXIT_INTERRUPTED)
    except HeadgateError as error:
        return _fail(options, error, EXIT_FAILED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        message = f"{(error.strerror or str(error)).lower()}:{where}" if where else (error.strerror or str(error))
        return _fail(options, HeadgateError(message, "disk_full" if error.errno == 28 else "io_error"), EXIT_FAILED)
    except Exception as error:
        return _fail(options, InternalError(f"a bug in headgate: {type(error).__name__}: {error}"), EXIT_FAILED)
    finally:
        os.umask(mask)  # of a program that calls this function


def _fail(options: argparse.Namespace, error: HeadgateError, code: int) -> int:
    from headgate._text import printable
    from headgate.ops import redact

    if options.debug:
        import traceback

        traceback.print_exc()
    print(f"headgate: {printable(redact(str(error)))} [{error.kind.value}]", file=sys.stderr)
    return code


def _app(options: argparse.Namespace) -> App:
    from headgate.config import load
    from headgate.wiring import App

    config = load(options.config)
    if config.backends.private_files:
        os.umask(0o077)
    set_logging(config, debug=options.debug)
    return App(config, f"headgate/{__version__}")


def set_logging(config: Config, *, debug: bool) -> None:
    """Logging as the configuration says; again for a file that was renamed."""
    from headgate.ops import configure_logging

    style = config.logging.format
    if style == "auto":
        style = "json" if "AWS_LAMBDA_FUNCTION_NAME" in config.environment else "text"
    file = config.locate(config.logging.file) if config.logging.file else ""
    configure_logging("DEBUG" if debug else config.logging.level, style, file)


def _print(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))


def _init(options: argparse.Namespace) -> int:
    from headgate.config import default_toml
    from headgate.errors import DuplicateError

    path = Path(options.path)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(default_toml())
    except FileExistsError:
        message = f"{path} exists already; remove it first, or name another file"
        raise DuplicateError(message) from None
    print(f"wrote {path}")
    return EXIT_OK


def _run(options: argparse.Namespace) -> int:
    from headgate.cli._pass import one_pass

    outcome = one_pass(_app(options))
    _print(outcome.to_dict())
    for line in outcome.errors:
        print(f"headgate: {line}", file=sys.stderr)
    for line in outcome.wrong:
        print(f"headgate: counts differ: {line}", file=sys.stderr)
    return EXIT_COUNTS if outcome.wrong else EXIT_FAILED if outcome.errors else EXIT_OK


def _demo(options: argparse.Namespace) -> int:
    from headgate.cli._demo import run_demo

    return run_demo(Path(options.out), options.feed, options.port, options.files, quiet=options.quiet)


def _consume(options: argparse.Namespace) -> int:
    app = _app(options)
    worker = app.worker(options.name)
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    _warn(app)
    app.relay()
    result = worker.run() if options.forever else worker.drain(options.wait)
    _print(asdict(result))
    return EXIT_OK if not result.errors else EXIT_FAILED


def _serve(options: argparse.Namespace) -> int:
    from headgate.cli._serve import serve
    from headgate.config import load

    app = _app(options)

    def reload() -> Config:
        config = load(options.config)
        set_logging(config, debug=options.debug)
        return config

    return serve(app, options.port, reload)


def _warn(app: App) -> None:
    try:
        texts = app.ledger.warnings()
    except TransientError as error:
        texts = [f"{error} (the consumer keeps its messages until the ledger is there)"]
    for text in texts:
        print(f"warning: {text}", file=sys.stderr)


def _status(options: argparse.Namespace) -> int:
    app = _app(options)
    if not app.config.is_configured and not app.has_store():
        message = "status: there is no headgate.toml in this folder; `headgate init` writes one, --config names one"
        raise ConfigError(message)
    _print(
        {
            **app.status(),
            "alerts": app.alert_book.active(),
            "last_collection": next(iter(app.store.collection_events(app.pipeline.name, 1)), None),
            "freshness": app.freshness().to_dict() if app.config.sources else None,
            "breakers": {a.name: app.breakers.state(a.name) for a in app.adapters},
            "sources": app.standings(),
        }
    )
    return EXIT_OK


def _doctor(options: argparse.Namespace) -> int:
    from headgate._native import core, parquet

    app = _app(options)
    findings: dict[str, Any] = {
        "headgate": __version__,
        "sqlite_schema": core.SQLITE_SCHEMA_VERSION,
        "python": sys.version.split()[0],
    }
    for name, check in (("parquet", parquet), ("objects", lambda: app.objects), ("store", lambda: app.store)):
        check()
        findings[name] = "ok"
    from headgate.backends.retention import report

    try:
        warnings = app.ledger.warnings()
    except TransientError as error:
        warnings = [str(error)]
    status = app.status()
    waiting = {name: status[name] for name in ("outbox_unsent", "queues", "dead_letters") if name in status}
    findings |= {"warnings": warnings, "waiting": waiting, "alerts": app.alert_book.active()}
    if app.is_embedded:  # a table expires its items itself
        findings["retention"] = report(app.database, app.retention)
    _print(findings)
    return EXIT_OK


def _prune(options: argparse.Namespace) -> int:
    _print(_app(options).prune())
    return EXIT_OK


def _backup(options: argparse.Namespace) -> int:
    from headgate.backends.retention import backup

    size = backup(_app(options).database, options.target)
    _print({"target": options.target, "bytes": size})
    return EXIT_OK


def _restore(options: argparse.Namespace) -> int:
    from headgate.backends.restore import restore
    from headgate.config import load
    from headgate.idempotency._open import sqlite_path

    config = load(options.config)
    url = config.locate(config.backends.store)
    if not url.startswith("sqlite://"):
        message = "restore: expected backends.store to be sqlite:///file; other stores have backups of their own"
        raise ConfigError(message)
    path = sqlite_path(url)
    size = restore(options.source, path, replace=options.replace)
    _print({"store": path, "bytes": size})
    return EXIT_OK


def _replay(options: argparse.Namespace) -> int:
    from headgate._native import core

    if options.uploads:
        return _replay_uploads(options)
    since_us = core.parse_timestamp(options.since) if options.since else 0
    taken = _app(options).replay(options.source, since_us, options.dry_run)
    _print({"taken": taken.taken, "stored": taken.stored, "duplicates": taken.duplicates,
            "dead_letters": taken.dead_letters, "dry_run": options.dry_run})  # fmt: skip
    return EXIT_OK


def _replay_uploads(options: argparse.Namespace) -> int:
    from headgate.pipelines.uploads import replay_uploads

    if options.source or options.since:
        message = "replay --uploads: --source and --since are of a pipeline's bodies; expected --batch or nothing"
        raise ConfigError(message)
    app = _app(options)
    found = replay_uploads(app.file_service(), app.store, batch_id=options.batch, dry_run=options.dry_run)
    _print({**found.to_dict(), "dry_run": options.dry_run})
    return EXIT_OK


def _simulate(options: argparse.Namespace) -> int:
    from headgate.cli._simulate import run_seeds

    return run_seeds(options)


def _upkeep(add: Callable[..., argparse.ArgumentParser]) -> None:
    replay = add("replay", _replay, "Parse stored raw bodies again; what is new since is stored and announced.")
    replay.add_argument("--source", default="", help="only this one's bodies")
    replay.add_argument("--since", metavar="TIME", help="only bodies fetched since, ISO 8601")
    replay.add_argument("--uploads", action="store_true", help="uploaded files instead, through today's extractors")
    replay.add_argument("--batch", default="", help="with --uploads: only this batch's files")
    replay.add_argument("--dry-run", action="store_true", help="count, keep nothing")
    add("prune", _prune, "Forget what is past its time ([retention]).")
    simulate = add("simulate", _simulate, "Run seeds of crashes, lost power and slow handlers around a handler.")
    simulate.add_argument("--handler", metavar="MODULE:FUNCTION", help="called with (body, tx); default: none")
    simulate.add_argument("--messages", metavar="FILE", help="sample bodies for it, JSON Lines")
    simulate.add_argument("--seeds", type=int, default=100, help="how many (default: %(default)s)")
    simulate.add_argument("--seed", type=int, default=0, help="the first one (default: %(default)s)")
    backup = add("backup", _backup, "Copy the store to a new file while it is in use.")
    backup.add_argument("target")
    restore = add("restore", _restore, "Put a backup in the place of the store; stop every process of it first.")
    restore.add_argument("source", help="a file that backup made")
    restore.add_argument("--replace", action="store_true", help="keep the present store as NAME.replaced-N")


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--config", metavar="FILE", help="the configuration (default: ./headgate.toml, else defaults)")
    shared.add_argument("--debug", action="store_true", help="tracebacks and debug logs")
    shared.add_argument("--quiet", action="store_true", help="no progress")
    parser = argparse.ArgumentParser(
        prog="headgate", description="Ingestion: nothing is lost, nothing happens twice, what gets stuck is healed."
    )
    parser.add_argument("--version", action="version", version=f"headgate {__version__}")
    parser.set_defaults(debug=False)
    commands = parser.add_subparsers(metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, parents=[shared], help=text, description=text)
        command.set_defaults(run=run)
        return command

    add("run", _run, "One whole pass: collect, consume, heal, checkpoints, workflows.")
    demo = add("demo", _demo, "A pass on a quickstart configuration, with faults from outside and a report.")
    demo.add_argument("--out", default="headgate-demo", metavar="DIR", help="output folder (default: %(default)s)")
    demo.add_argument("--feed", metavar="DIR", help="serve recorded responses from DIR instead of the shipped data")
    demo.add_argument("--port", type=int, default=0, help="the feed's port (default: any free one)")
    demo.add_argument("--files", type=int, default=20_000, help="visit-event files (default: %(default)s)")
    init = add("init", _init, "Write a headgate.toml with every key, its default and its meaning.")
    init.add_argument("path", nargs="?", default="headgate.toml")
    add_collect(add)
    consume = add("consume", _consume, "Deliver the outbox and drain a consumer's queue.")
    consume.add_argument("name")
    consume.add_argument("--wait", type=float, default=0, metavar="S", help="seconds to wait for held messages")
    consume.add_argument("--forever", action="store_true", help="until SIGTERM, which finishes what is claimed")
    serve = add("serve", _serve, "HTTP intake for uploads, consumers, sweeps and time-outs, until SIGTERM.")
    serve.add_argument("--port", type=int, help="instead of serve.port; 0 takes a free one")
    add_heal(add)
    add_dead_letters(add)
    add_reconcile(add)
    add_trace(add)
    add_commands(add)
    add_workflow(add, shared)
    add_jobs(add, _app)
    add_alerts(add, _app)
    add("status", _status, "What is stored, waiting and stuck.")
    add("doctor", _doctor, "Check the installation and the configured backends.")
    _upkeep(add)
    add_dlq(add, _app)
    add_tables(add)
    add_package(add)
    add_dev(add)
    return parser
