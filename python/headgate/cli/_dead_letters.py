"""`headgate dead-letters`: what was refused or given up, in one list; export, and replay once a rule is mended."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from headgate.errors import ConfigError, NotFoundError, needed
from headgate.intake import LetterFilter, replay_letters

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from headgate.ports import Json
    from headgate.wiring import App

_SHOWN = ("place", "id", "stage", "pipeline", "source", "kind", "reason", "raw_key", "seen", "age_s")


def add_dead_letters(add: Callable[..., Any]) -> None:
    """Register the command."""
    command = add("dead-letters", _dead_letters, "What was refused or given up: list, count, export, replay.")
    command.add_argument("action", nargs="?", choices=("list", "count", "export", "replay"), default="list")
    command.add_argument("target", nargs="?", metavar="FILE", help="for export: the Parquet file")
    command.add_argument("--stage", default="", help="intake, outbox, consume or heal")
    command.add_argument("--source", default="", help="only of this source or topic")
    command.add_argument("--rule", default="", help="only what this rule refused, for example no_headline")
    command.add_argument("--reason", default="", help="only where the reason contains this")
    command.add_argument("--since", metavar="TIME", help="only what was refused since, ISO 8601")
    command.add_argument("--until", metavar="TIME", help="only what was refused until, ISO 8601")
    command.add_argument("--limit", type=int, default=1_000, help="for list (default: %(default)s)")
    command.add_argument("--dry-run", action="store_true", help="for replay: count, keep nothing")


def _dead_letters(options: argparse.Namespace) -> int:
    from headgate.cli._main import _app, _print

    app = _app(options)
    if not app.is_embedded:
        message = "dead-letters: needs a sqlite:/// store; `headgate dlq` lists those of a dynamodb:// one"
        raise ConfigError(message)
    found = [letter for letter in app.embedded_store.letters() if _filter(options).matches(letter)]
    if options.action == "export":
        if not options.target:
            message = "dead-letters export: expected the Parquet FILE to write"
            raise ConfigError(message)
        _print({"target": options.target, "rows": export(app, found, options.target)})
    elif options.action == "count":
        counts = Counter((x["place"], x["stage"], x["source"], x["kind"]) for x in found)
        _print([
            {"place": p, "stage": s, "source": o, "kind": k, "count": n} for (p, s, o, k), n in counts.most_common()
        ])  # fmt: skip
    elif options.action == "replay":
        _print({**replay(app, found, dry_run=options.dry_run), "dry_run": options.dry_run})
    else:
        # Without the documents: they may hold anything, and a terminal's history is no place for it.
        _print([{name: letter[name] for name in _SHOWN} for letter in found[: options.limit]])
    return 0


def export(app: App, letters: list[Json], target: str) -> int:
    """Write letters with their documents and raw bodies as Parquet; how many.

    Columns: place, id, stage, pipeline, source, kind, reason, raw_key, doc, raw_body (binary; null: no longer stored),
    seen, created_us (microseconds since 1970), age_s.
    """
    with needed("an export needs pyarrow", "pyarrow"):
        import pyarrow as pa
        from pyarrow import parquet
    texts = ("place", "id", "stage", "pipeline", "source", "kind", "reason", "raw_key", "doc")
    columns: dict[str, Any] = {name: pa.array([_text(x[name]) for x in letters], pa.string()) for name in texts}
    bodies: dict[str, bytes | None] = {}
    for letter in letters:
        key = letter["raw_key"] or ""
        if key not in bodies:
            bodies[key] = _body(app, key)
    columns["raw_body"] = pa.array([bodies[x["raw_key"] or ""] for x in letters], pa.binary())
    columns["seen"] = pa.array([x["seen"] for x in letters], pa.int64())
    columns["created_us"] = pa.array([x["created_us"] for x in letters], pa.timestamp("us", "UTC"))
    columns["age_s"] = pa.array([x["age_s"] for x in letters], pa.float64())
    parquet.write_table(pa.table(columns), target)
    return len(letters)


def replay(app: App, letters: list[Json], *, dry_run: bool) -> Json:
    """Refused records through today's rules, announcements to the outbox, consumers' messages to their queues, given-up
    items to the sweep."""
    records = [x for x in letters if x["place"] == "dead_letter" and x["stage"] == "intake"]
    messages = [x["id"] for x in letters if x["place"] == "dead_letter" and x["stage"] == "consume"]
    aside = [x["id"] for x in letters if x["place"] == "dead_letter" and x["stage"] == "outbox"]
    items = [x["id"] for x in letters if x["place"] == "item"]
    found = replay_letters(app.intake, [x for x in records if x["pipeline"] == app.pipeline.name], dry_run=dry_run)
    return {
        "records": found.to_dict(),
        "announcements": len(aside) if dry_run else app.embedded_store.redrive_letters(aside),
        "messages": len(messages) if dry_run else app.embedded_store.redrive_letters(messages),
        "items": len(items) if dry_run else app.store.release_items(items),
    }


def _filter(options: argparse.Namespace) -> LetterFilter:
    from headgate._native import core

    since = core.parse_timestamp(options.since) if options.since else 0
    until = core.parse_timestamp(options.until) if options.until else 0
    return LetterFilter(options.stage, options.source, options.rule, options.reason, since, until)


def _text(value: Any) -> str | None:
    """As Parquet keeps text: a lone surrogate, which UTF-8 cannot write, becomes a question mark."""
    return None if value is None else str(value).encode("utf-8", "replace").decode()


def _body(app: App, key: str) -> bytes | None:
    try:
        return app.objects.get(key) if key else None
    except NotFoundError:
        return None


__all__ = ["add_dead_letters", "export", "replay"]
