"""The same job on Spark: reads the same logs into the same Delta table, under the same ledger (docs/checkpoints.md).

For clusters (EMR, Glue, Kubernetes) whose logs no single machine should read. The cluster's Python needs headgate and,
on the driver, deltalake; Delta Lake's jar is needed only to read the table with Spark.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import secrets
import struct
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from headgate._native import core, parquet
from headgate._registry import DEFAULT_SCHEMA
from headgate.checkpoint._delta import DeltaPlace, check_table, commit
from headgate.checkpoint._places import source_name
from headgate.checkpoint._result import RejectedRecord
from headgate.checkpoint._schemas import arrow_schema, plan_of
from headgate.errors import ConflictError, HeadgateError, InvalidInputError, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger("headgate.checkpoint")
_ATTEMPTS = 20
_MOST_BYTES = 256 * 1024**2  # of a file, packed or not: `update`'s default
_LINES_FLAG, _REWRITTEN = 4, -1  # the first as the core has it
_MAGIC, _SEGMENT_VERSION, _ENTRY = b"HGLS", 1, struct.Struct("<16sQQII")  # docs/formats.md


def update_with_spark(
    spark: Any, source: str, target: str, *, schema: str | type[Any] = DEFAULT_SCHEMA, rescan: bool = False
) -> dict[str, int]:
    """Take every file that the table's ledger does not know, and append its rows.

    Args:
        spark: a SparkSession.
        source: a folder or URL that Spark and the driver name alike (file:///..., s3a://bucket/prefix).
        target: delta+file:///folder or delta+s3://bucket/prefix, as for `update`.
        schema: the name of a shipped schema (docs/schemas.md), or a pydantic model class.
        rescan: read known files again too, and take those whose content changed: of files of lines those that were
            added. One that does not go on where it ended is left out with a warning (`update` can take it whole).
            Without it a known name is not opened.

    Spark does not list empty files; a run of `update` on the same table counts them as rejected. Every refused record
    is logged as a warning of `headgate.checkpoint`, with the redacted name.

    Returns:
        taken_files, rows_added, rejected_records, rows_total, attempts.

    Raises:
        ConflictError: every attempt lost the race for the append.
        IntegrityError: the table is not headgate's.

    Example:
        >>> update_with_spark(spark, "s3a://logs/prod", "delta+s3://lake/events")["rows_added"]   # doctest: +SKIP
        812004
    """
    plan = plan_of(schema)
    for attempt in range(1, _ATTEMPTS + 1):
        place = DeltaPlace(target)
        if (state := place.state()).table is None:
            place.create(arrow_schema(json.loads(plan)))
            state = place.state()
        if state.footer:
            check_table(place, state, plan)
        footer = json.loads(state.footer) if state.footer else _first_footer(plan)
        _note_source(footer, source)
        known = _known(place, footer)
        found = _read(spark, source, plan, known, rescan)
        if not found["files"]:
            found["frame"].unpersist()
            return {"taken_files": 0, "rows_added": 0, "rejected_records": 0, "rows_total": footer["rows"],
                    "attempts": attempt}  # fmt: skip
        append = state.next_append()
        counts = _write_parts(place, footer, found, known, append, plan)
        won = _append(spark, place, state.table, found, plan, append, counts["rows_added"])
        found["frame"].unpersist()
        if won:
            _log_rejects(plan, found["files"])
            return {**counts, "rows_total": footer["rows"], "attempts": attempt}
        time.sleep(random.uniform(0, min(2.0, 0.02 * 2**attempt)))  # noqa: S311 - jitter
    message = f"{target}: lost the race for the append {_ATTEMPTS} times; run again"
    raise ConflictError(message)


def _note_source(footer: dict[str, Any], source: str) -> None:
    name = source_name(source.replace("s3a://", "s3://", 1)) if source.startswith(("s3a://", "s3://")) else (
        source_name(unquote(urlsplit(source).path)) if source.startswith("file:") else source
    )  # fmt: skip
    known = footer.setdefault("sources", [])
    if name not in known:
        known.append(name)


def _log_rejects(plan: str, files: list[tuple[str, int, str, int, int, bool]]) -> None:
    validator = core.Validator(plan)
    for key, _, bad, *_ in files:
        name, digest = validator.shown_name(key), _digest(key).hex()[:12]
        for offset, problems in json.loads(bad):
            log.warning("rejected %s", RejectedRecord(name, digest, offset, [(f, k) for f, k in problems]))


def _first_footer(plan: str) -> dict[str, Any]:
    return {"format": 1, "schema": json.loads(plan)["name"], "version": 0, "segments": [], "rejects": [], "rows": 0,
            "superseded": 0, "skipped": 0, "last_full_listing_us": 0}  # fmt: skip


# --- reading, on the executors


def _read(spark: Any, source: str, plan: str, known: dict[bytes, tuple[int, int]], rescan: bool) -> Any:
    """Files that are new: their ledger entries and rejects on the driver, their rows in a frame."""
    from pyspark.sql import types as t

    files = spark.read.format("binaryFile").option("recursiveFileLookup", "true").load(source)
    root = _root(source)
    names = [row.path for row in files.select("path").collect()]
    accepts_name = core.Validator(plan).accepts_name
    keys = {path: _key(path, root) for path in names}
    chosen = {path: key for path, key in keys.items() if accepts_name(key) and (rescan or _digest(key) not in known)}
    columns = t.StructType([
        t.StructField("key", t.StringType()), t.StructField("content", t.LongType()),
        t.StructField("rows", t.StringType()), t.StructField("bad", t.StringType()),
        t.StructField("begin", t.LongType()), t.StructField("lines", t.BooleanType()),
    ])  # fmt: skip
    if not chosen:
        return {"files": [], "frame": spark.createDataFrame([], columns)}
    old = {key: known[_digest(key)] for key in chosen.values() if _digest(key) in known}
    shared = spark.sparkContext.broadcast((plan, chosen, old))

    def parse(part: Iterator[Any]) -> Iterator[tuple[str, int, str, str, int, bool]]:
        plan_text, keys_by_path, before = shared.value
        path = json.loads(plan_text).get("records", [])
        validator = core.Validator(plan_text)
        for row in part:
            key = keys_by_path.get(row.path)
            if key is None:
                continue
            content = int.from_bytes(hashlib.sha256(row.content).digest()[:8], "little")
            known_content, known_rows = before.get(key, (None, 0))
            if known_content == content:
                continue
            good, bad = [], []
            packing, unpacked = _unpacked(key, bytes(row.content))
            if packing:
                bad.append([0, [["", packing]]])
            begin = _taken_part(key, unpacked, known_content if known_rows else None)
            lines = unpacked is not None and parquet().holds_lines(key, unpacked)
            # Records that end behind the part that was taken before.
            records = (
                () if unpacked is None or begin == _REWRITTEN else parquet().split_records(key, unpacked, path, begin)
            )
            for offset, text, problem in records:
                row_or_problems = [("", problem)] if problem else validator.row(text, key)
                if isinstance(row_or_problems, str):
                    good.append(row_or_problems)
                else:
                    bad.append([offset, [[field, kind] for field, kind in row_or_problems]])
            yield key, content - (content >> 63 << 64), "[" + ",".join(good) + "]", json.dumps(bad), begin, lines

    # Many small files in one task: Spark would make a task of nearly each.
    parallel = spark.sparkContext.defaultParallelism
    parsed = files.coalesce(parallel * 2).rdd.mapPartitions(parse)
    frame = spark.createDataFrame(parsed, columns).persist()
    found = frame.select("key", "content", "bad", "rows", "begin", "lines").rdd.map(
        lambda r: (r.key, r.content & (2**64 - 1), r.bad, len(json.loads(r.rows)), r.begin, r.lines)
    )
    files = found.collect()
    validator = core.Validator(plan)
    for key, *_, begin, _ in files:
        if begin == _REWRITTEN:
            log.warning("left out %s (%s): rewritten", validator.shown_name(key), _digest(key).hex()[:12])
    return {"files": [file for file in files if file[4] != _REWRITTEN], "frame": frame}


def _taken_part(key: str, content: bytes | None, known: int | None) -> int:
    """Where the part of a changed file ends that was taken before; _REWRITTEN if lines do not begin with it."""
    if known is None or content is None:
        return 0
    begin, at, digest = 0, 0, hashlib.sha256()
    for line in _lines(content):
        for part in (line.rstrip(b"\n"), b"\n" if line.endswith(b"\n") else b""):
            digest.update(part)
            at += len(part)
            if at and int.from_bytes(digest.digest()[:8], "little") == known:
                begin = at
    return begin if begin or not parquet().holds_lines(key, content) else _REWRITTEN


def _lines(content: bytes) -> list[bytes]:
    return [line + b"\n" for line in content.split(b"\n")[:-1]] + content.split(b"\n")[-1:]


def _unpacked(key: str, content: bytes) -> tuple[str, bytes | None]:
    """What is wrong with the file as such, or nothing; and its bytes, without their compression."""
    try:
        return "", parquet().unpack(key, content, _MOST_BYTES)
    except HeadgateError as error:
        return "too_large" if error.kind == Kind.MESSAGE_TOO_LARGE else "packing", None


def _root(source: str) -> str:
    parts = urlsplit(source)
    return f"{parts.netloc}{parts.path}".strip("/") + "/"


def _key(path: str, root: str) -> str:
    """Relative to the source, as the core names it."""
    parts = urlsplit(path)
    return unquote(f"{parts.netloc}{parts.path}").lstrip("/").removeprefix(root)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()[:16]


# --- the ledger, on the driver


def _known(place: DeltaPlace, footer: dict[str, Any]) -> dict[bytes, tuple[int, int]]:
    """Key digest -> (content digest, rows) of everything taken."""
    out = {}
    for name in footer["segments"]:
        body = place.part(name)
        if body[:4] != _MAGIC or hashlib.sha256(body[:-32]).digest() != body[-32:]:
            message = f"ledger segment {name} is damaged"
            raise InvalidInputError(message, "corrupt_data")
        for key, _, content, rows, _ in _ENTRY.iter_unpack(body[16:-32]):
            out[key] = (content, rows)
    return out


def _segment(entries: list[tuple[bytes, int, int, int]]) -> bytes:
    """The tag is 0: what Spark knows of a file's time is too coarse, so the next run of the core looks at it once."""
    body = _MAGIC + struct.pack("<IQ", _SEGMENT_VERSION, len(entries))
    body += b"".join(_ENTRY.pack(key, 0, content, rows, flags) for key, content, rows, flags in sorted(entries))
    return body + hashlib.sha256(body).digest()


def _write_parts(
    place: DeltaPlace, footer: dict[str, Any], found: Any, known: dict[bytes, tuple[int, int]], append: int, plan: str
) -> dict[str, int]:
    """Segments, rejects and manifest of an append; `footer` becomes the new one."""
    days: dict[str, list[tuple[bytes, int, int, int]]] = {}
    rejects, rows = [], 0
    day_of_name = core.Validator(plan).day_of_name
    for key, content, bad_text, count, begin, lines in found["files"]:
        bad = json.loads(bad_text)
        digest = _digest(key)
        before = known.get(digest, (0, 0))[1]
        kept = before if begin else 0  # of lines that grew
        flags = (1 if bad and not count + kept else 0) | (_LINES_FLAG if lines else 0)
        days.setdefault(day_of_name(key), []).append((digest, content, count + kept, flags))
        rows += count
        footer["superseded"] += before - kept
        rejects += [
            {"key": key, "offset": o, "content": content.to_bytes(8, "little").hex(),
             "problems": [{"field": f, "kind": k} for f, k in p]} for o, p in bad
        ]  # fmt: skip
    footer["version"] += 1
    footer["write_id"] = secrets.token_hex(16)
    footer["rows"] += rows
    stem = f"{footer['version']}-{footer['write_id'][:12]}"
    for n, (day, entries) in enumerate(sorted(days.items())):
        name = f"seg-{stem}{f'-{n}' if n else ''}{f'@{day}' if day else ''}.hgl"
        place.write_part(name, _segment(entries))
        footer["segments"].append(name)
    if rejects:
        name = f"rej-{stem}.jsonl"
        place.write_part(name, "".join(json.dumps(r) + "\n" for r in rejects).encode())
        footer["rejects"].append(name)
    place.write_manifest(append, json.dumps(footer))
    return {"taken_files": len(found["files"]), "rows_added": rows, "rejected_records": len(rejects)}


def _append(spark: Any, place: DeltaPlace, table: Any, found: Any, plan: str, append: int, rows: int) -> bool:
    """The one commit; False when another run's came first.

    Spark writes the files and the driver commits them, as the core's runs do. Spark's own idempotent writes
    (`txnVersion`) would not do: they look at the table as it is when the write begins, so that an append since our
    reading of the ledger goes unnoticed.
    """
    files = _write_files(spark, place, found, plan, append)
    return commit(place, append, rows, lambda properties: table.create_write_transaction(
        files, mode="append", schema=table.schema(), commit_properties=properties
    ))  # fmt: skip


def _write_files(spark: Any, place: DeltaPlace, found: Any, plan: str, append: int) -> list[Any]:
    """The rows as Parquet files of the table's folder, which nobody's commit names yet."""
    from deltalake.transaction import AddAction
    from pyspark.sql import functions as f

    columns = _spark_schema(json.loads(plan))
    frame = (
        found["frame"].select(f.explode(f.from_json("rows", f"array<struct<{columns}>>")).alias("row")).select("row.*")
    )
    uri = place.uri if place.s3 is None else place.uri.replace("s3://", "s3a://", 1)
    folder = f"spark-{append:x}"
    kind = "spark.sql.parquet.outputTimestampType"
    before = spark.conf.get(kind)
    spark.conf.set(kind, "TIMESTAMP_MICROS")  # Delta's; Spark's own default is the old INT96
    try:
        frame.write.mode("errorifexists").parquet(f"{uri}/{folder}")
    finally:
        spark.conf.set(kind, before)
    written = spark.read.parquet(f"{uri}/{folder}")
    counts = dict(written.groupBy(f.input_file_name()).count().collect())
    rows = {unquote(path).rsplit("/", 1)[-1]: n for path, n in counts.items()}
    files = spark.read.format("binaryFile").load(f"{uri}/{folder}").select("path", "length", "modificationTime")
    return [
        AddAction(
            f"{folder}/{name}", file.length, {}, int(file.modificationTime.timestamp() * 1000), True,
            json.dumps({"numRecords": rows.get(name, 0)}),
        )
        for file in files.collect()
        if (name := unquote(file.path).rsplit("/", 1)[-1]).endswith(".parquet")
    ]  # fmt: skip


def _spark_schema(plan: dict[str, Any]) -> str:
    types = {"int32": "int", "int64": "bigint", "float64": "double", "bool": "boolean", "timestamp": "timestamp",
             "string_list": "array<string>"}  # fmt: skip
    fields = [(field["name"], types.get(field["type"], "string")) for field in plan["fields"]]
    fields += [("_rest", "string")] if plan["extra"] == "rest" else []
    return ", ".join(f"`{name}`: {kind}" for name, kind in fields)
