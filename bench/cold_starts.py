"""Cold starts of the Lambda handlers under AWS's runtime client: from the start of the process to the answer.

The peer is what a user's function does before its own work: Powertools, pydantic, and a boto3 client.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
from pathlib import Path

from run import Row

import headgate

PEER = """
from aws_lambda_powertools import Logger, Metrics, Tracer
import boto3, pydantic
class Event(pydantic.BaseModel):
    name: str = ""
logger, metrics, tracer = Logger(service="s"), Metrics(namespace="n", service="s"), Tracer(service="s")
client = boto3.client("s3")
def handler(event, context):
    Event.model_validate(event)
    logger.info("invoked")
    return {"statusCode": 200}
"""


def cold_start_rows(folder: Path, rounds: int) -> list[Row]:
    """One row for each handler: median milliseconds to the answer, each start beside one of the peer's."""
    file = Path(__file__).resolve().parents[1] / "infra" / "ops" / "try_lambda.py"
    spec = importlib.util.spec_from_file_location("try_lambda", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    (folder / "headgate.toml").write_text(module.CONFIG)
    (folder / "peer.py").write_text(PEER)
    (folder / "logs").mkdir()
    path = [str(folder), str(Path(headgate.__file__).parents[1])]
    rows = []
    for name, (event, expected) in module.HANDLERS.items():
        ours, ready, theirs = [], [], []
        for _ in range(rounds):
            answer = module.invoke(sys.executable, path, name, event, folder)
            assert all(answer.body.get(key) == value for key, value in expected.items()), answer
            peer = module.invoke(sys.executable, path, "peer.handler", {}, folder)
            assert peer.body == {"statusCode": 200}, peer
            ours.append(answer.answered_ms)
            ready.append(answer.ready_ms)
            theirs.append(peer.answered_ms)
        note = f"loaded after {statistics.median(ready):,.0f} ms"
        work = f"cold start, {name.removeprefix('headgate.handlers.')}"
        rows.append(
            Row(
                work,
                "Powertools + pydantic + boto3",
                statistics.median(ours),
                statistics.median(theirs),
                "ms",
                "",
                note,
            )
        )
    return rows
