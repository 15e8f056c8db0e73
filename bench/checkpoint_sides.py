"""Both sides of the checkpoint rows, each a whole process: `checkpoint_sides.py SIDE ARGUMENTS...` prints its figures."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def lines():
    from headgate.pipelines.visits import VisitEvent

    class Lines(VisitEvent):
        """Visit events in files of any name."""

        headgate_name = "lines"
        headgate_file_names = ()
        headgate_private = ()

    return Lines


def timed(call):
    started = time.perf_counter()
    out = call()
    return out, time.perf_counter() - started


def s3_headgate(prefix, target):
    from headgate.checkpoint import update

    run, seconds = timed(lambda: update(f"s3://logs/{prefix}", f"s3://out/{target}", schema="visits"))
    return {"s": seconds, "rows": run.rows_total}


def _keys(prefix, limit):
    import boto3

    client = boto3.Session().client("s3")
    keys = []
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="logs", Prefix=f"{prefix}/"):
        keys += [entry["Key"] for entry in page.get("Contents", [])]
    return client, keys[: int(limit)]


def s3_boto3_one_by_one(prefix, limit):
    def run():
        client, keys = _keys(prefix, limit)
        return sum(len(client.get_object(Bucket="logs", Key=key)["Body"].read()) > -1 for key in keys)

    count, seconds = timed(run)
    return {"s": seconds, "objects": count}


def s3_boto3_16(prefix, limit):
    def run():
        import boto3
        from botocore.config import Config

        _, keys = _keys(prefix, limit)
        client = boto3.Session().client("s3", config=Config(max_pool_connections=16))
        with ThreadPoolExecutor(16) as pool:
            return sum(pool.map(lambda k: len(client.get_object(Bucket="logs", Key=k)["Body"].read()) > -1, keys))

    count, seconds = timed(run)
    return {"s": seconds, "objects": count}


def s3_pyarrow_fs_16(prefix, limit):
    def run():
        from urllib.parse import urlsplit

        from pyarrow import fs

        endpoint = urlsplit(os.environ["AWS_ENDPOINT_URL"])
        s3 = fs.S3FileSystem(endpoint_override=endpoint.netloc, scheme=endpoint.scheme, region="us-east-1")
        found = s3.get_file_info(fs.FileSelector(f"logs/{prefix}", recursive=True))
        keys = [f.path for f in found if f.is_file][: int(limit)]

        def read(path):
            with s3.open_input_file(path) as file:
                return len(file.read()) > -1

        with ThreadPoolExecutor(16) as pool:
            return sum(pool.map(read, keys))

    count, seconds = timed(run)
    return {"s": seconds, "objects": count}


def s3_obstore_async(prefix, limit):
    async def run():
        from obstore.store import S3Store

        store = S3Store("logs", endpoint=os.environ["AWS_ENDPOINT_URL"], client_options={"allow_http": True})
        keys = [entry["path"] for page in store.list(f"{prefix}/") for entry in page][: int(limit)]
        gate = asyncio.Semaphore(128)

        async def read(key):
            async with gate:
                answer = await store.get_async(key)
                return len(await answer.bytes_async()) > -1

        return sum(await asyncio.gather(*map(read, keys)))

    count, seconds = timed(lambda: asyncio.run(run()))
    return {"s": seconds, "objects": count}


def update(logs, target):
    from headgate.checkpoint import update as run_update

    run, seconds = timed(lambda: run_update(logs, target, settle_s=0, schema="visits"))
    return {"s": seconds, "rows": run.rows_total}


def update_lines(logs, target):
    from headgate.checkpoint import update as run_update

    schema = lines()
    run, seconds = timed(lambda: run_update(logs, target, schema=schema, settle_s=0))
    return {"s": seconds, "rows": run.rows_total, "spilled": run.spilled_bytes}


def reads_everything(logs, target):
    sys.path.insert(0, str(Path(__file__).parent))
    from peers import pydantic_polars

    rows, seconds = timed(lambda: pydantic_polars(logs, target))
    return {"s": seconds, "rows": rows}


def skips_by_stamp(logs, old, target):
    """Lists names, skips stamps before the newest row, reads the rest: fast, and blind to late files."""
    import polars as pl

    from headgate.pipelines.visits import VisitEvent

    def run():
        frame = pl.read_parquet(old)
        newest = frame["timestamp"].max().strftime("%Y%m%d-%H%M%S")
        events = []
        for root, _, names in os.walk(logs):
            for name in names:
                if not name.startswith("log-"):
                    continue
                for action in ("not-pass-qc", "pass-qc", "submit", "delete"):
                    if name.startswith(f"log-{action}-"):
                        stamp = name[len(action) + 5 : len(action) + 20]
                        break
                if stamp <= newest:
                    continue
                try:
                    events.append(VisitEvent.from_json(Path(root, name).read_bytes()).model_dump())
                except ValueError:
                    continue
        fresh = pl.DataFrame(events, schema=frame.schema, infer_schema_length=None)
        both = pl.concat([frame, fresh]).sort("timestamp", maintain_order=True)
        both.write_parquet(target, compression="snappy")
        return both.height

    rows, seconds = timed(run)
    return {"s": seconds, "rows": rows}


def write_lines(folder, files, per_file, first):
    """Events a second apart, in files of many lines, shuffled a little so that sorting has work."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    first, per_file = int(first), int(per_file)
    actions = ("submit", "pass-qc", "not-pass-qc")
    for f in range(int(files)):
        lines = []
        for i in range(per_file):
            n = first + f * per_file + i
            when = n ^ 0x2A5  # neighbours change places
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1_700_000_000 + when))
            lines.append(
                f'{{"action":"{actions[n % 3]}","study":"adrc","pipeline_adcid":{40 + n % 5},"project_label":"ingest-form",'
                f'"center_label":"center-{n * 7 % 40}","gear_name":"form-scheduler","ptid":"{110000 + n // 3 % 90000}",'
                f'"visit_date":"2024-01-{1 + n % 28:02}","visit_number":"0{1 + n % 4}","datatype":"form","module":"UDS",'
                f'"packet":"{"IFT"[n % 3]}","timestamp":"{stamp}"}}\n'
            )
        Path(folder, f"events-{first:09}-{f:04}.jsonl").write_text("".join(lines))
    return {"s": 0}


def polars_merge(old, more, target):
    import polars as pl

    def run():
        frame = pl.read_parquet(old)
        fresh = pl.read_ndjson(next(Path(more).glob("*.jsonl")))
        fresh = fresh.with_columns(
            pl.col("timestamp").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC", time_unit="us"),
            pl.col("pipeline_adcid").cast(pl.Int32),
        ).select(frame.columns)
        both = pl.concat([frame, fresh]).sort("timestamp", maintain_order=True)
        both.write_parquet(target, compression="snappy")
        return both.height

    rows, seconds = timed(run)
    return {"s": seconds, "rows": rows}


_DAY = ("2023-11-20T00:00:00", "2023-11-21T00:00:00")


def query_headgate(target, query):
    import pyarrow.compute
    import pyarrow.dataset  # noqa: F401 - as the peers': importing is not what is measured

    from headgate._native import parquet
    from headgate.pipelines.visits import Visits

    parquet()

    def run():
        events = Visits.read(target)
        if query == "center":
            return events.center("center-7").logged(*_DAY).count_by("action")
        return events.count_by("center_label", "action", "module")

    rows, seconds = timed(run)
    return {"s": seconds, "answer": sum(r["count"] for r in rows) * 1000 + len(rows)}


def query_polars(target, query):
    from datetime import UTC, datetime

    import polars as pl

    def run():
        frame = pl.scan_parquet(target)
        if query == "center":
            low, high = (datetime.fromisoformat(t).replace(tzinfo=UTC) for t in _DAY)
            frame = frame.filter(
                (pl.col("center_label") == "center-7") & (pl.col("timestamp") >= low) & (pl.col("timestamp") < high)
            )
            return frame.group_by("action").len().collect().to_dicts()
        return frame.group_by("center_label", "action", "module").len().collect().to_dicts()

    rows, seconds = timed(run)
    return {"s": seconds, "answer": sum(r["len"] for r in rows) * 1000 + len(rows)}


def query_duckdb(target, query):
    import duckdb

    def run():
        where = ""
        by = "center_label, action, module"
        if query == "center":
            where = (
                f"WHERE center_label = 'center-7' AND timestamp >= TIMESTAMPTZ '{_DAY[0]}Z' "
                f"AND timestamp < TIMESTAMPTZ '{_DAY[1]}Z'"
            )
            by = "action"
        return duckdb.sql(f"SELECT {by}, count(*) AS n FROM '{target}' {where} GROUP BY {by}").fetchall()

    rows, seconds = timed(run)
    return {"s": seconds, "answer": sum(r[-1] for r in rows) * 1000 + len(rows)}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
