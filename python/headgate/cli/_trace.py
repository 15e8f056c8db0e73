"""`headgate trace ITEM`: an item's whole way, from the raw response to the row in the checkpoint."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import ConfigError, HeadgateError, NotFoundError
from headgate.healing._items import ItemKind

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from headgate.ports import Json
    from headgate.wiring import App

_META_SHOWN = ("url", "status", "fetched_us", "attempt", "size", "source")


def add_trace(add: Callable[..., Any]) -> None:
    """Register the command."""
    command = add("trace", _trace, "An item's whole way: raw body, announcements, claims, stages, checkpoint row.")
    command.add_argument("item", metavar="ITEM", help="its key")


def _trace(options: argparse.Namespace) -> int:
    from headgate.cli._main import _app, _print

    _print(trace(_app(options), options.item))
    return 0


def trace(app: App, key: str) -> Json:
    """What is known of an item. Neither documents nor bodies are shown: they may hold anything.

    Raises:
        NotFoundError: there is no such item.
        ConfigError: the store is not a SQLite file.
    """
    if not app.is_embedded:
        message = "trace: needs a sqlite:/// store"
        raise ConfigError(message)
    db = app.database
    names = (
        "pipeline", "source", "status", "timestamp", "ingested_us", "raw_key", "republish_attempts",
        "last_republished_us", "due_us", "ended_us", "reason", "story_key",
    )  # fmt: skip
    rows = db.execute(f"SELECT {', '.join(names)}, doc FROM items WHERE key = ?", (key,))  # noqa: S608
    if not rows:
        message = f"there is no item with the key {key!r}"
        raise NotFoundError(message)
    item = dict(zip(names, rows[0], strict=False))
    doc = json.loads(rows[0][-1])
    group = app.local_finisher()
    return {
        "item": {"key": key, **{n: _shown(n, v) for n, v in item.items() if n != "raw_key"}},
        "where": app.embedded_store.held_up(key, group)
        or ("nowhere on its way" if item["status"] == "pending" else "ended"),
        "raw": _raw(app, item["raw_key"]),
        "validation": _validation(app, item["raw_key"]),
        "announcements": _announcements(app, key),
        "queue": [
            {"consumer": grp, "deliveries": n, "visible_at": _iso(at)}
            for grp, n, at in db.execute(
                "SELECT grp, deliveries, visible_us FROM queue WHERE topic = ? AND key = ? ORDER BY id",
                (app.pipeline.topic, key),
            )
        ],
        "claims": _claims(app, key, {**item, "key": key, "doc": doc}),
        "workflows": _workflows(app, key, item["raw_key"]),
        "checkpoints": {name: _rows(app, name, key) for name in app.config.checkpoints},
    }


def _raw(app: App, raw_key: str | None) -> Json | None:
    if not raw_key:
        return None
    try:
        body = app.objects.get(raw_key)
    except NotFoundError:
        return {"key": raw_key, "is_stored": False}
    try:
        meta = json.loads(app.objects.get(f"{raw_key}.meta.json"))
    except NotFoundError:
        meta = {}
    return {
        "key": raw_key, "is_stored": True, "is_what_its_key_names": core.sha256_hex(body) == raw_key.rsplit("/", 1)[1],
        **{name: _shown(name, meta[name]) for name in _META_SHOWN if name in meta},
    }  # fmt: skip


def _validation(app: App, raw_key: str | None) -> Json:
    """What became of the body's other records: the item itself was accepted."""
    rows = app.database.execute(
        "SELECT kind, sum(seen) FROM dead_letters WHERE raw_key = ? GROUP BY kind ORDER BY kind", (raw_key or "",)
    )
    return {"outcome": "accepted", "refused_of_the_same_body": dict(rows)}


def _announcements(app: App, key: str) -> list[Json]:
    rows = app.database.execute(
        "SELECT id, topic, created_us, sent_us, body FROM outbox WHERE key = ? ORDER BY id", (key,)
    )
    found = []
    for row, topic, created, sent, body in rows:
        mark = json.loads(body).get("headgate") or {}
        found.append({
            "outbox_row": row, "topic": topic, "created_at": _iso(created), "sent_at": _iso(sent),
            "republication": mark.get("republished", 0),
        })  # fmt: skip
    return found


def _claims(app: App, key: str, item: Json) -> list[Json]:
    if app.ledger.database is None:
        return [{"note": "the ledger is not a SQLite file; its claims are not listed"}]
    kind = ItemKind(app.store, app.pipeline.topic, app.announcement, app.clock, pipeline=app.pipeline.name)
    body = kind.body(item, 0)
    found: list[Json] = []
    for name, configured in app.config.consumers.items():
        if configured.topic != app.pipeline.topic:
            continue
        try:
            claim = app.consumer(name).claim_key(body)
        except HeadgateError as error:
            found.append({"consumer": name, "note": f"no claim key: {error.kind.value}"})
            continue
        rows = app.ledger.database.execute(
            "SELECT key, state, attempts, until_us, last_error FROM ledger WHERE key = ?1"
            " OR (key > ?1 || '#' AND key < ?1 || '$') ORDER BY key",
            (f"v1:{claim}",),
        )
        for stored, state, attempts, until_us, error_text in rows:
            is_open = state == 0 and until_us > app.clock.now_us()
            found.append({
                "consumer": name, "claim": stored.removeprefix("v1:"), "attempts": attempts,
                "state": "done" if state == 1 else "running" if is_open else "released" if until_us == 0 else "lapsed",
                "last_error": error_text or None,
            })  # fmt: skip
    return found


def _workflows(app: App, key: str, raw_key: str | None) -> list[Json]:
    """Executions whose input names the item or its raw body."""
    wanted = [text for text in (key, raw_key) if text]
    sql = " OR ".join(["instr(input, ?) > 0"] * len(wanted))
    rows = app.database.execute(
        f"SELECT id, workflow, status, error FROM executions WHERE {sql} ORDER BY started_us",  # noqa: S608
        [json.dumps(text, ensure_ascii=False)[1:-1] for text in wanted],
    )
    found = []
    for ident, workflow, status, error in rows:
        stages = app.database.execute(
            "SELECT state, type, at_us FROM execution_events WHERE execution = ? ORDER BY id", (ident,)
        )
        found.append({
            "id": ident, "workflow": workflow, "status": status, "error": error,
            "stages": [{"state": s, "event": t, "at": _iso(at)} for s, t, at in stages],
        })  # fmt: skip
    return found


def _rows(app: App, name: str, key: str) -> Json:
    """Where the item is in a checkpoint: the numbers of its rows, in the order of the file."""
    from headgate.checkpoint import Checkpoint

    target = app.config.checkpoints[name].target
    if not target:
        return {"target": None, "rows": None}
    place = app._place(target)
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        table: Any = pa.table(Checkpoint.read(place))
    except (HeadgateError, OSError) as error:
        word = error.kind.value if isinstance(error, HeadgateError) else "io_error"
        return {"target": target, "rows": None, "note": f"cannot be read: {word}"}
    for field in table.schema:
        if not (pa.types.is_string(field.type) or pa.types.is_large_string(field.type)):
            continue
        found = pc.indices_nonzero(pc.fill_null(pc.equal(table[field.name], key), False)).to_pylist()
        if found:
            return {"target": target, "column": field.name, "rows": found}
    return {"target": target, "rows": []}


def _shown(name: str, value: Any) -> Any:
    return _iso(value) if name.endswith("_us") else value


def _iso(at_us: int | None) -> str | None:
    return None if at_us is None else core.format_timestamp(int(at_us))
