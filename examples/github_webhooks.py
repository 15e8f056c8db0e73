"""A pipeline of one's own, GitHub webhooks: a model, a parser and a key; the engine knows nothing of them.

Usage: python examples/github_webhooks.py FOLDER_OF_JSON OUTPUT_FOLDER
"""

import json
import sys
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel

from headgate import Pipeline, Reject, event_id, export_items, open_intake
from headgate.checkpoint import Checkpoint, update
from headgate.checkpoint.schema import JsonValue, Timestamp
from headgate.consume import Consumer
from headgate.wiring import consume_items


class Webhook(BaseModel):
    headgate_sort_by: ClassVar[str] = "received_at"
    key: str
    repository: str
    sender: str | None = None
    action: str | None = None
    received_at: Timestamp
    payload: JsonValue


def parse(body, raw):
    event = json.loads(body)
    if "repository" not in event:
        raise Reject("no_repository", "the event belongs to no repository")
    sender = (event.get("sender") or {}).get("login")
    return {"key": event_id(event), "repository": event["repository"]["full_name"], "sender": sender,
            "action": event.get("action"), "received_at": raw.fetched_at, "payload": event}  # fmt: skip


PIPELINE = Pipeline.from_model("webhooks", Webhook, parse, key="key", announce=["repository"])


def count(body, tx):  # the effect; the commit that holds it ends the item as "done"
    tx.execute("CREATE TABLE IF NOT EXISTS seen (repository)")
    tx.execute("INSERT INTO seen VALUES (?)", (body["repository"],))


if __name__ == "__main__":
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    intake = open_intake(PIPELINE, out)
    fates = [intake.accept("github", path.read_bytes()) for path in sorted(source.rglob("*.json"))]
    print({name: sum(getattr(f, name) for f in fates) for name in ("taken", "stored", "duplicates", "dead_letters")})
    handled = consume_items(intake, Consumer("counter", PIPELINE.topic, count)).handled
    print(handled, "handled; items:", intake.store.status_counts())
    export_items(intake.store, out / "export")
    run = update(out / "export", out / "webhooks.parquet", schema=Webhook, settle_s=0)
    print(run.rows_total, "rows;", Checkpoint.read(run.target).count_by("action")[:3])
