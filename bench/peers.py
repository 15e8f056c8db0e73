"""What a user would write instead, each as a whole process: `peers.py SIDE FOLDER TARGET` prints {"rows": n}."""

from __future__ import annotations

import json
import os
import sys


def headgate(folder: str, target: str) -> int:
    from headgate.checkpoint import update

    return update(folder, target, settle_s=0, schema="visits").rows_total


def walk(folder: str):
    for root, _, names in os.walk(folder):
        for name in names:
            yield os.path.join(root, name)


def pydantic_polars(folder: str, target: str) -> int:
    """Validate with the same model, build a frame, sort, write."""
    import polars as pl

    from headgate.pipelines.visits import VisitEvent

    events = []
    for path in walk(folder):
        if not os.path.basename(path).startswith("log-"):
            continue
        try:
            with open(path, "rb") as file:
                events.append(VisitEvent.from_json(file.read()).model_dump())
        except ValueError:
            continue
    frame = pl.DataFrame(events, infer_schema_length=None).sort("timestamp", maintain_order=True)
    frame.write_parquet(target, compression="snappy")
    return frame.height


def orjson_pyarrow(folder: str, target: str) -> int:
    """The naive loop: no validation, no sorting, no memory of what was taken."""
    import orjson
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.string()) for name in (
        "action", "study", "pipeline_adcid", "project_label", "center_label", "gear_name", "ptid", "visit_date",
        "visit_number", "datatype", "module", "packet", "timestamp")])  # fmt: skip
    total = 0
    with pq.ParquetWriter(target, schema, compression="snappy") as writer:
        batch = []

        def flush():
            columns = [
                pa.array([None if e.get(n) is None else str(e.get(n)) for e in batch], pa.string())
                for n in schema.names
            ]
            writer.write_table(pa.table(columns, schema=schema))
            batch.clear()

        for path in walk(folder):
            with open(path, "rb") as file:
                try:
                    event = orjson.loads(file.read())
                except ValueError:
                    continue
            if isinstance(event, dict):
                batch.append(event)
                total += 1
            if len(batch) == 20_000:
                flush()
        if batch:
            flush()
    return total


if __name__ == "__main__":
    side, folder, target = sys.argv[1:]
    print(json.dumps({"rows": globals()[side](folder, target)}))
