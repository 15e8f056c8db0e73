"""One function per job. Each opens its parts per invocation from HEADGATE_CONFIG (or ./headgate.toml)."""

from __future__ import annotations

import base64
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from headgate.config import load
from headgate.errors import AllSourcesFailedError, HeadgateError, InvalidInputError
from headgate.ops import configure_logging
from headgate.wiring import App

if TYPE_CHECKING:
    from headgate.ports import Json


def _app() -> App:
    config = load(os.environ.get("HEADGATE_CONFIG"))
    in_lambda = "AWS_LAMBDA_FUNCTION_NAME" in config.environment
    style = config.logging.format if config.logging.format != "auto" else ("json" if in_lambda else "text")
    configure_logging(config.logging.level, style)
    return App(config)


def collect(event: Json, context: Any = None) -> Json:
    """Scheduled collection: 200 fine, 207 no source answered; the healing sweep runs on every way out."""
    app = _app()
    body: Json = {}
    status = 200
    try:
        result = app.collect()
        body = {"source": result.source, "is_failover": result.is_failover, "new_items": result.taken.stored,
                "duplicates": result.taken.duplicates, "dead_letters": result.taken.dead_letters}  # fmt: skip
    except AllSourcesFailedError as error:
        status, body = 207, {"new_items": 0, "errors": [error.kind.value]}
    finally:
        healed = app.heal()
        app.relay()
        body["self_healing"] = healed.to_dict()
    return {"statusCode": status, "body": body}


def heal(event: Json, context: Any = None) -> Json:
    """One sweep."""
    app = _app()
    result = app.heal()
    app.relay()
    return {"statusCode": 200, "body": result.to_dict()}


def consume(event: Json, context: Any = None) -> Json:
    """Drain a configured consumer: `{"consumer": name}`."""
    app = _app()
    name = event.get("consumer") or next(iter(app.config.consumers), "")
    app.relay()
    return {"statusCode": 200, "body": asdict(app.worker(name).drain())}


def checkpoint(event: Json, context: Any = None) -> Json:
    """One run: `{"checkpoint": name}`. The response has the names of spec 002, section 4."""
    try:
        app = _app()
        name = event.get("checkpoint") or next(iter(app.config.checkpoints), "")
        run = app.checkpoint(name)
    except HeadgateError as error:
        code = 400 if isinstance(error, InvalidInputError) else 500
        return {
            "statusCode": code,
            "error": type(error).__name__,
            "message": str(error),
            "details": {"kind": error.kind.value},
        }
    from headgate._native import core

    last = core.format_timestamp(run.last_timestamp_us) if run.last_timestamp_us is not None else None
    return {
        "statusCode": 200,
        "checkpoint_path": run.target,
        "new_events_processed": run.rows_added,
        "total_events": run.rows_total,
        "events_failed": run.rejected_records,
        "last_processed_timestamp": last,
        "execution_time_ms": run.execution_time_ms,
    }


def upload(event: Json, context: Any = None) -> Json:
    """One file: `{"batch_id", "file_name", "content" (base64), "correlation_id"?}`; the event that was announced."""
    from headgate.pipelines.uploads import ContentStore, FileService

    app = _app()
    try:
        data = base64.b64decode(event["content"], validate=True)
        batch, name = event["batch_id"], event["file_name"]
    except (KeyError, ValueError) as error:
        return {"statusCode": 400, "error": "InvalidInputError", "message": f"upload: missing or broken field {error}"}
    service = FileService(ContentStore(app.objects), app.store, app.clock)
    return {"statusCode": 202, "body": service.receive(batch, name, data, event.get("correlation_id"))}
