"""One function per job. Each opens its parts per invocation from HEADGATE_CONFIG (or ./headgate.toml)."""

from __future__ import annotations

import base64
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from headgate.config import load
from headgate.ops import configure_logging
from headgate.wiring import App

if TYPE_CHECKING:
    from headgate.ports import Json


def app() -> App:
    config = load(os.environ.get("HEADGATE_CONFIG"))
    in_lambda = "AWS_LAMBDA_FUNCTION_NAME" in config.environment
    style = config.logging.format if config.logging.format != "auto" else ("json" if in_lambda else "text")
    configure_logging(config.logging.level, style)
    return App(config)


def consume(event: Json, context: Any = None) -> Json:
    """Drain a configured consumer: `{"consumer": name}`."""
    parts = app()
    name = event.get("consumer") or next(iter(parts.config.consumers), "")
    parts.relay()
    return {"statusCode": 200, "body": asdict(parts.worker(name).drain())}


def upload(event: Json, context: Any = None) -> Json:
    """One file: `{"batch_id", "file_name", "content" (base64), "correlation_id"?}`; the event that was announced."""
    from headgate.pipelines.uploads import ContentStore, FileService

    parts = app()
    try:
        data = base64.b64decode(event["content"], validate=True)
        batch, name = event["batch_id"], event["file_name"]
    except (KeyError, ValueError) as error:
        return {"statusCode": 400, "error": "InvalidInputError", "message": f"upload: missing or broken field {error}"}
    service = FileService(ContentStore(parts.objects), parts.store, parts.clock)
    return {"statusCode": 202, "body": service.receive(batch, name, data, event.get("correlation_id"))}
