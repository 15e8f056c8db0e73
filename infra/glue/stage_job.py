"""A Glue job that is a stage of a headgate workflow: one file, which imports nothing of headgate.

Job arguments, all text, as the state machine passes them:

    --execution-id   the execution's name
    --input-bucket   --input-key    executions/{execution-id}/{previous stage}/output.json
    --output-bucket  --output-key   executions/{execution-id}/{this stage}/output.json

The input is a stage's envelope. Its data is a list of records, or an object with such a list as `records`, `candidates`
or `items`; the rest of the object travels on. Data that lies beside its envelope (JSON Lines or Parquet) is read by the
executors. Change `transform` for a job of your own.

The output is one object at the output key. It is written through S3's API, not by Spark, which would write a folder of
parts under that name. Records that are too large for the envelope lie beside it as JSON Lines. An output that exists
stays: a job that runs again writes nothing.

Written for Glue 5.0 (Spark 3.5, Python 3.11); its tests run it on PySpark in local mode. boto3 finds credentials,
region and endpoint as usual.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tempfile
import time
from datetime import UTC, datetime

INLINE_BYTES = 16 * 1024 * 1024  # more than this lies beside the envelope
RANGE_BYTES = 8 * 1024 * 1024  # what one task reads of JSON Lines
ARGUMENTS = ("execution-id", "input-bucket", "input-key", "output-bucket", "output-key")
RECORDS_PER_TASK = 1_000  # a task for less costs more than it does
LISTS = ("records", "candidates", "items")
KEY = re.compile(r"executions/([A-Za-z0-9][A-Za-z0-9_-]{0,79})/([A-Za-z0-9][A-Za-z0-9_-]{0,79})/output\.json")


def transform(spark, records):
    """The job's own work: an RDD of records in, an RDD of records out. Records are JSON values as Python has them.

    This one takes out records that came before, and keeps the order.
    """
    numbered = records.zipWithIndex().map(lambda pair: (json.dumps(pair[0], sort_keys=True), pair))
    first = numbered.reduceByKey(lambda one, two: one if one[1] < two[1] else two)
    return first.values().sortBy(lambda pair: pair[1]).keys()


class JobError(Exception):
    """What is wrong with the job's arguments or input, in one sentence."""


def main(arguments=None):
    """Run the job; the process's exit code."""
    try:
        run(read_arguments(arguments))
    except JobError as error:
        print(f"stage job: {error}", file=sys.stderr)
        return 1
    return 0


def read_arguments(arguments):
    """The five arguments; Glue adds others, which are left to it."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ARGUMENTS:
        parser.add_argument(f"--{name}")
    options, _ = parser.parse_known_args(arguments)
    missing = [name for name in ARGUMENTS if not getattr(options, name.replace("-", "_"))]
    if missing:
        raise JobError(f"argument --{missing[0]} is missing; expected {', '.join('--' + name for name in ARGUMENTS)}")
    for name in ("input_key", "output_key"):
        found = KEY.fullmatch(getattr(options, name))
        if found is None or found[1] != options.execution_id:
            shown = name.replace("_", "-")
            raise JobError(
                f"--{shown} is no path of execution {options.execution_id!r}; expected executions/ID/STAGE/output.json"
            )
    if options.input_key == options.output_key:
        raise JobError("--input-key and --output-key are the same; a stage reads another stage's output")
    return options


def run(options):
    """Read, transform, write."""
    started = time.monotonic()
    s3 = client()
    if exists(s3, options.output_bucket, options.output_key):
        print("stage job: the output exists, nothing is done")
        return
    envelope = read_envelope(s3, options)
    data, rest, name = records_of(envelope)  # before Spark starts: what is wrong is said at once

    from pyspark.sql import SparkSession

    spark = SparkSession.builder.appName(options.output_key.split("/")[2]).getOrCreate()
    if data is None:
        records = read_beside(spark, s3, options.input_bucket, envelope["dataLocation"])
        given = envelope["metadata"]["outputRecordCount"]
    else:
        records, given = parallelize(spark, data), len(data)
    with tempfile.TemporaryFile() as lines:
        written, digest, size = collect(transform(spark, records), lines)
        head = {
            "executionId": options.execution_id,
            "stage": KEY.fullmatch(options.output_key)[2],
            "timestamp": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "metadata": {
                "processingTimeMs": int((time.monotonic() - started) * 1000),
                "inputRecordCount": given,
                "outputRecordCount": written,
            },
        }
        write(s3, options, head, lines, digest, size, rest, name)
    print(f"stage job: {given} records read, {written} written")


# --- reading


def client():
    import boto3

    return boto3.client("s3")


def code_of(error):
    """Status of an S3 error."""
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def exists(s3, bucket, key):
    from botocore.exceptions import ClientError

    try:
        s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if code_of(error) == 404:
            return False
        raise JobError(f"the output at {key} cannot be looked for: S3 answered {code_of(error)}") from None
    return True


def get(s3, bucket, key, what):
    from botocore.exceptions import ClientError

    try:
        return s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    except ClientError as error:
        reason = "does not exist" if code_of(error) == 404 else f"cannot be read: S3 answered {code_of(error)}"
        raise JobError(f"{what} at {key} {reason}") from None


def parse(text, what):
    """Strict JSON."""

    def refuse(name):
        raise ValueError(f"{name} is no JSON number")

    try:
        return json.loads(text, parse_constant=refuse)
    except ValueError as error:
        reason = f"{error.msg} (line {error.lineno}, column {error.colno})" if hasattr(error, "lineno") else str(error)
        raise JobError(f"{what} is not JSON: {reason}") from None


def read_envelope(s3, options):
    """The previous stage's envelope, checked."""
    what = "the input"
    document = parse(get(s3, options.input_bucket, options.input_key, what), what)
    expected = (options.execution_id, KEY.fullmatch(options.input_key)[2])
    if not isinstance(document, dict) or "data" not in document:
        raise JobError(f"the input at {options.input_key} is no stage envelope; expected an object with data")
    if (document.get("executionId"), document.get("stage")) != expected:
        raise JobError(f"the input at {options.input_key} belongs to another execution or stage")
    return document


def records_of(envelope):
    """The list of records, the object around it (or None), the list's name; Nones for data beside the envelope."""
    location = envelope.get("dataLocation")
    if location:
        if location.get("format") not in ("jsonl", "parquet"):
            raise JobError(f"the input's data has the format {location.get('format')!r}; expected jsonl or parquet")
        return None, None, None
    data, rest, name = envelope["data"], None, None
    if isinstance(data, dict):
        name = next((name for name in LISTS if isinstance(data.get(name), list)), None)
        rest, data = (data, data[name]) if name else (None, [data])
    if not isinstance(data, list):
        raise JobError(f"the input's data is {type(data).__name__}; expected a list of records, or an object with one")
    return data, rest, name


def parallelize(spark, items):
    """Items over the executors; as JSON texts, which cost less to send than Python's objects."""
    texts = [json.dumps(item) for item in items]
    parts = max(1, min(len(texts) // RECORDS_PER_TASK, spark.sparkContext.defaultParallelism * 2))
    return spark.sparkContext.parallelize(texts, parts).map(json.loads)


def read_beside(spark, s3, bucket, location):
    """The records of an object beside its envelope; each task reads its own part of it."""
    form, key, size = location.get("format"), location.get("key"), int(location.get("sizeBytes", 0))
    if form == "jsonl":
        ranges = [(bucket, key, at, min(at + RANGE_BYTES, size), size) for at in range(0, size, RANGE_BYTES)]
        if not ranges:
            return spark.sparkContext.emptyRDD()
        return spark.sparkContext.parallelize(ranges, len(ranges)).flatMap(read_lines)
    import io

    import pyarrow.parquet as pq

    groups = pq.ParquetFile(io.BytesIO(get(s3, bucket, key, "the input's data"))).num_row_groups
    parts = [(bucket, key, group) for group in range(groups)]
    return spark.sparkContext.parallelize(parts, max(1, groups)).flatMap(read_row_group)


def read_lines(part):
    """The lines that begin in a range of a JSON Lines object."""
    bucket, key, start, end, size = part
    s3 = client()
    first = max(0, start - 1)  # the byte before tells whether a line begins at the start
    body = s3.get_object(Bucket=bucket, Key=key, Range=f"bytes={first}-{end - 1}")["Body"].read()
    while end < size and not body.endswith(b"\n"):
        more = min(size, end + RANGE_BYTES)
        body += s3.get_object(Bucket=bucket, Key=key, Range=f"bytes={end}-{more - 1}")["Body"].read()
        end = more
        cut = body.find(b"\n", part[3] - first)
        if cut >= 0:
            body = body[: cut + 1]
            break
    lines = body.split(b"\n")
    if start > 0:
        lines = lines[1:]  # the end of a line that began before, or the newline itself
    return [parse(line, f"a line of {key}") for line in lines if line.strip()]


def read_row_group(part):
    """The rows of one row group of a Parquet object."""
    import io

    import pyarrow.parquet as pq

    bucket, key, group = part
    body = client().get_object(Bucket=bucket, Key=key)["Body"].read()
    return pq.ParquetFile(io.BytesIO(body)).read_row_group(group).to_pylist()


# --- writing


def encode(record):
    return json.dumps(record, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def collect(records, lines):
    """Write records as JSON Lines, part by part, so that memory holds one part; how many, their digest and size."""
    from py4j.protocol import Py4JJavaError

    written, digest, size = 0, hashlib.sha256(), 0
    try:
        for text in records.map(encode).toLocalIterator():
            line = text.encode() + b"\n"
            lines.write(line)
            digest.update(line)
            written += 1
            size += len(line)
    except Py4JJavaError as error:
        found = re.search(r"(JobError|ValueError|TypeError): ([^\n]+)", str(error.java_exception))
        raise JobError(found[2] if found else f"Spark failed: {error.java_exception.getClass().getName()}") from None
    return written, digest.hexdigest(), size


def write(s3, options, head, lines, digest, size, rest, name):
    """One object at the output key."""
    lines.seek(0)
    if size <= INLINE_BYTES:
        data = [json.loads(line) for line in lines]
        document = {**head, "data": data if rest is None else {**rest, name: data}}
    elif rest is not None:
        raise JobError(
            f"the records have {size:,} bytes, more than the {INLINE_BYTES:,} of an envelope, and their object cannot"
            " lie beside it; expected a list of records from the stage before"
        )
    else:
        key = options.output_key.replace("output.json", f"data-{digest[:32]}.jsonl")
        s3.upload_fileobj(lines, options.output_bucket, key)
        location = {"format": "jsonl", "key": key, "sizeBytes": size, "sha256": digest}
        document = {**head, "data": None, "dataLocation": location}
    put_if_absent(s3, options.output_bucket, options.output_key, json.dumps(document, sort_keys=True).encode())


def put_if_absent(s3, bucket, key, body):
    """Another run of this job may have been first: then its output stands."""
    from botocore.exceptions import ClientError, ParamValidationError

    try:
        try:
            s3.put_object(Bucket=bucket, Key=key, Body=body, IfNoneMatch="*")
        except ParamValidationError:  # a boto3 of before conditional writes
            if not exists(s3, bucket, key):
                s3.put_object(Bucket=bucket, Key=key, Body=body)
    except ClientError as error:
        if code_of(error) != 412:
            raise JobError(f"the output at {key} cannot be written: S3 answered {code_of(error)}") from None


if __name__ == "__main__":
    code = main()
    if code:  # Glue takes any SystemExit for a failure
        sys.exit(code)
