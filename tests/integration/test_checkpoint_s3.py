"""Checkpoints on S3: a real server (versitygw), moto, and a scripted one that fails in every way S3 can."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import boto3
import pyarrow.parquet as pq
import pytest
import requests

from headgate._native import core, parquet, set_faults
from headgate._registry import shipped_plan
from headgate.checkpoint import Checkpoint, CheckpointStore, S3EventRetriever, rejected, update, verify
from headgate.checkpoint._places import s3_location, source_place, target_place
from headgate.errors import (
    AccessError,
    ConfigError,
    ConflictError,
    HeadgateError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    TransientError,
)
from headgate.pipelines.visits import VisitEvent, Visits
from headgate.testing.servers import S3Server
from headgate.testing.visits import write_wave

ROOT = Path(__file__).resolve().parents[2]
TARGET = "s3://out/cp/events.parquet"


@pytest.fixture
def aws(monkeypatch):
    """Sets the environment that boto3 reads."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    def point(endpoint, key="headgate-test", secret="headgate-secret"):
        for name, value in {
            "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)

    return point


@pytest.fixture(params=["versitygw", "moto"])
def bucket(request, aws, start):
    """A boto3 client of a server with the buckets logs and out."""
    if request.param == "versitygw":
        server = start(lambda: S3Server(ROOT / ".servers" / "versitygw" / "versitygw"))
        aws(server.endpoint)
        yield _with_buckets()
    else:
        from moto.server import ThreadedMotoServer

        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        aws(f"http://{host}:{port}")
        requests.post(f"http://{host}:{port}/moto-api/reset", timeout=10)  # its state is the process's
        yield _with_buckets()
        server.stop()


def _with_buckets():
    client = boto3.Session().client("s3")
    for name in ("logs", "out"):
        client.create_bucket(Bucket=name)
    return client


def upload(client, folder, prefix="prod/"):
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            client.put_object(Bucket="logs", Key=prefix + path.relative_to(folder).as_posix(), Body=path.read_bytes())


def test_a_first_and_an_incremental_run_equal_those_on_disk(bucket, tmp_path):
    wave = write_wave(tmp_path / "logs", 1200)  # more than one page of a listing
    upload(bucket, tmp_path / "logs")
    first = update("s3://logs/prod", TARGET, schema="visits")
    assert (first.first_run, first.committed, first.rows_added) == (True, True, wave.good)
    assert first.target == TARGET
    assert first.adds_up() == []
    local = update(tmp_path / "logs", tmp_path / "e.parquet", settle_s=0, schema="visits")
    assert Checkpoint.read(TARGET).dataframe().equals(Checkpoint.read(tmp_path / "e.parquet").dataframe())
    assert (local.problems, local.rejected_records) == (first.problems, first.rejected_records)

    more = write_wave(tmp_path / "more", 60, first=5000, late=9, seed=3)
    upload(bucket, tmp_path / "more")
    again = update("s3://logs/prod", TARGET, schema="visits")
    assert (again.rows_added, again.known, again.version) == (more.good, first.taken_files, 2)
    assert again.late_rows >= more.late > 0
    assert not update("s3://logs/prod", TARGET, schema="visits").committed
    report = verify(TARGET, "s3://logs/prod")
    assert (report.differences, report.rows) == ([], wave.good + more.good)
    # The reject store is the only place with the whole key.
    assert rejected(TARGET, first.rejects[0].digest)[0]["problems"]


def test_an_opened_checkpoint_never_answers_from_two_versions(bucket, tmp_path):
    write_wave(tmp_path / "logs", 300)
    upload(bucket, tmp_path / "logs")
    update("s3://logs/prod", TARGET, row_group_rows=50, schema="visits")
    events = Visits.read(TARGET)
    counts = events.count_by("action")
    assert Visits.read(TARGET).latest().count_by("action") == events.latest().count_by("action")

    write_wave(tmp_path / "more", 60, first=5000, seed=3)
    upload(bucket, tmp_path / "more")
    update("s3://logs/prod", TARGET, row_group_rows=50, schema="visits")
    for ask in (
        lambda: events.count_by("action"), lambda: events.head(2), lambda: len(events.action("submit")),
        events.latest, events.completeness, events.dataframe, lambda: events.sql("SELECT 1 AS one FROM events"),
    ):  # fmt: skip
        with pytest.raises(ConflictError, match=r"events\.parquet was committed anew .* read it again"):
            ask()
    assert len(Visits.read(TARGET)) > sum(row["count"] for row in counts)


def test_keys_of_any_printable_text_come_through(bucket):
    body = _event(1)
    odd = ["a b", "a+b", "a%2Fb", "é", "a&b", "a<b>", "..", "x/../y"]
    for name in odd:
        bucket.put_object(
            Bucket="logs", Key=f"odd {name}/log-submit-20240115-100000-42-ingest-form-{'!+%~'}-01.json", Body=body
        )
    listed = update("s3://logs", TARGET, schema="visits")
    assert (listed.rows_added, listed.unreadable, listed.vanished) == (len(odd), 0, 0)


def test_a_prefix_is_a_folder(bucket):
    bucket.put_object(Bucket="logs", Key="prod/" + _name(1), Body=_event(1))
    bucket.put_object(Bucket="logs", Key="production/" + _name(2), Body=_event(2))
    assert update("s3://logs/prod", TARGET, schema="visits").rows_added == 1


def test_a_target_in_its_own_bucket_is_no_part_of_the_source(bucket):
    bucket.put_object(Bucket="logs", Key="a.json", Body=b'{"a": 1}')
    bucket.put_object(Bucket="logs", Key="b.json", Body=b"not json")
    for _ in range(2):
        run = update("s3://logs", "s3://logs/cp/events.json", schema="infer")
        assert (run.rows_total, run.adds_up()) == (1, [])
    assert verify("s3://logs/cp/events.json", "s3://logs", schema="infer").checked_files == 2


def test_lines_of_objects_that_grow_or_are_renamed_come_once(bucket):
    lines = [b'{"n": %d}\n' % n for n in range(5)]
    target = TARGET

    def put(key, body):
        bucket.put_object(Bucket="logs", Key=key, Body=body)

    put("app.jsonl", b"".join(lines[:2]))
    update("s3://logs", target, schema="infer")
    put("app.jsonl", b"".join(lines[:3]))
    assert update("s3://logs", target, schema="infer").grown == 1
    put("0.jsonl", b"".join(lines[:4]))
    put("app.jsonl", lines[4])
    put("copy.jsonl", lines[4])
    run = update("s3://logs", target, schema="infer")
    assert (run.moved, run.rows_added, run.adds_up()) == (1, 3, [])
    assert sorted(row["n"] for row in Checkpoint.read(target).dataframe().to_pylist()) == [0, 1, 2, 3, 4, 4]
    with pytest.raises(InvalidInputError, match="is fed from s3://logs/, not from s3://logs/prod/"):
        update("s3://logs/prod", target, schema="infer")


def test_a_windowed_listing_says_that_it_is_not_complete(bucket):
    for n in (1, 2):
        bucket.put_object(Bucket="logs", Key=_name(n), Body=_event(n))
    assert update("s3://logs", TARGET, listing="window", schema="visits").complete  # the first run lists everything
    bucket.put_object(Bucket="logs", Key=_name(0, day=1), Body=_event(0, day=1))  # far older than the window
    bucket.put_object(Bucket="logs", Key=_name(3), Body=_event(3))
    run = update("s3://logs", TARGET, listing="window", window_s=3600, schema="visits")
    assert (run.rows_added, run.complete) == (1, False)
    full = update("s3://logs", TARGET, schema="visits")
    assert (full.rows_added, full.complete) == (1, True)
    assert verify(TARGET, "s3://logs").ok


def test_overwritten_and_removed_objects(bucket):
    bucket.put_object(Bucket="logs", Key=_name(1), Body=_event(1))
    bucket.put_object(Bucket="logs", Key=_name(2), Body=_event(2))
    update("s3://logs", TARGET, schema="visits")
    bucket.put_object(Bucket="logs", Key=_name(1), Body=_event(1, packet="F"))
    bucket.delete_object(Bucket="logs", Key=_name(2))
    run = update("s3://logs", TARGET, schema="visits")
    assert (run.changed, run.rows_added, run.rows_total) == (1, 1, 3)
    report = verify(TARGET, "s3://logs")
    assert (report.ok, report.gone) == (True, 1)


def test_a_corrupt_checkpoint_is_refused_and_kept(bucket):
    bucket.put_object(Bucket="logs", Key=_name(1), Body=_event(1))
    for body in (b"not parquet", b"", b"PAR1" + b"\0" * 60 + b"PAR1"):
        bucket.put_object(Bucket="out", Key="cp/events.parquet", Body=body)
        with pytest.raises(HeadgateError) as caught:
            update("s3://logs", TARGET, schema="visits")
        assert not isinstance(caught.value, TransientError)
        assert bucket.get_object(Bucket="out", Key="cp/events.parquet")["Body"].read() == body


def test_a_truncated_checkpoint_is_refused(bucket):
    bucket.put_object(Bucket="logs", Key=_name(1), Body=_event(1))
    update("s3://logs", TARGET, schema="visits")
    whole = bucket.get_object(Bucket="out", Key="cp/events.parquet")["Body"].read()
    bucket.put_object(Bucket="out", Key="cp/events.parquet", Body=whole[:-50])
    with pytest.raises(IntegrityError):
        update("s3://logs", TARGET, schema="visits")


def test_a_missing_bucket_is_an_error_not_a_first_run(bucket):
    bucket.put_object(Bucket="logs", Key=_name(1), Body=_event(1))
    with pytest.raises(HeadgateError, match="NoSuchBucket"):
        update("s3://nowhere", TARGET, schema="visits")
    with pytest.raises(HeadgateError, match="NoSuchBucket"):
        update("s3://logs", "s3://nowhere/e.parquet", schema="visits")


RACER = """
import sys
from headgate.checkpoint import update
run = update("s3://logs/prod", "s3://out/cp/events.parquet", threads=1, schema="visits")
print(run.rows_added, run.attempts)
"""


def test_racing_updaters_lose_and_double_nothing(bucket, tmp_path):
    first = write_wave(tmp_path / "a", 100)
    upload(bucket, tmp_path / "a")
    update("s3://logs/prod", TARGET, schema="visits")
    second = write_wave(tmp_path / "b", 300, first=1000, late=30, seed=5)
    upload(bucket, tmp_path / "b")
    racers = [subprocess.Popen([sys.executable, "-c", RACER], stdout=subprocess.PIPE, text=True) for _ in range(8)]
    added = [int(racer.communicate()[0].split()[0]) for racer in racers]
    assert all(racer.returncode == 0 for racer in racers)
    assert sum(added) == second.good
    assert len(Checkpoint.read(TARGET)) == first.good + second.good
    assert verify(TARGET, "s3://logs/prod").ok


@pytest.mark.parametrize("point", ["checkpoint.after_segments", "checkpoint.before_commit", "checkpoint.after_commit"])
def test_a_run_killed_at_every_point_leaves_the_old_or_the_new_one(bucket, tmp_path, point):
    first = write_wave(tmp_path / "a", 60)
    upload(bucket, tmp_path / "a")
    update("s3://logs/prod", TARGET, schema="visits")
    second = write_wave(tmp_path / "b", 40, first=1000, seed=5)
    upload(bucket, tmp_path / "b")
    command = [sys.executable, "-m", "headgate", "checkpoint", "s3://logs/prod", TARGET, "--schema", "visits"]
    killed = subprocess.run(command, capture_output=True, env={**os.environ, "HEADGATE_FAULTS": f"{point}:kill:1"})
    assert killed.returncode == -9
    committed = point == "checkpoint.after_commit"
    assert len(Checkpoint.read(TARGET)) == first.good + (second.good if committed else 0)
    assert update("s3://logs/prod", TARGET, schema="visits").rows_total == first.good + second.good
    assert verify(TARGET, "s3://logs/prod").ok


def test_the_store_and_the_retriever(bucket, tmp_path):
    wave = write_wave(tmp_path / "logs", 80)
    upload(bucket, tmp_path / "logs")
    retriever = S3EventRetriever("logs", "prod/")
    keys = retriever.list_event_files()
    assert len(keys) == wave.good + wave.bad
    events, errors = retriever.retrieve_and_validate_events()
    assert (len(events), len(errors)) == (wave.good, wave.bad)
    assert all("****" in error["source_key"] or "log-" in error["source_key"] for error in errors)
    newest = max(event.timestamp for event in events)
    assert S3EventRetriever("logs", "prod/", newest).retrieve_and_validate_events()[0] == []
    with pytest.raises(NotFoundError):
        retriever.retrieve_event("prod/none.json")

    store = CheckpointStore("out", "hand/made.parquet")
    assert not store.exists()
    empty = store.load()
    assert empty.is_empty()
    assert set(empty.columns) == set(VisitEvent.model_fields)
    assert store.save(empty.add_events(events)) == "s3://out/hand/made.parquet"
    assert store.exists()
    again = CheckpointStore("out", "hand/made.parquet").load()
    assert (len(again), again.get_last_processed_timestamp()) == (wave.good, newest)


def test_a_store_never_overwrites_what_it_has_not_seen(bucket):
    bucket.put_object(Bucket="logs", Key=_name(1), Body=_event(1))
    events = [VisitEvent.from_json(_event(1))]
    one, two = (CheckpointStore("out", "hand/made.parquet") for _ in range(2))
    one.load()
    two.load()
    one.save(Checkpoint.from_events(events))
    with pytest.raises(ConflictError, match="changed since"):
        two.save(Checkpoint.empty())
    with pytest.raises(ConflictError, match="load it"):
        CheckpointStore("out", "hand/made.parquet").save(Checkpoint.empty())
    one.save(Checkpoint.from_events(events * 2))  # it knows what it wrote
    update("s3://logs", TARGET, schema="visits")
    kept = CheckpointStore("out", "cp/events.parquet")
    kept.load()
    with pytest.raises(ConflictError, match="ledger"):
        kept.save(Checkpoint.empty())
    bucket.put_object(Bucket="out", Key="hand/bad.parquet", Body=b"x")
    with pytest.raises(IntegrityError):
        CheckpointStore("out", "hand/bad.parquet").load()


# --- everything that S3 can answer


def _name(n, day=15):
    return f"log-submit-202401{day:02}-1000{n:02}-42-ingest-form-1100{n:02}-01.json"


def _event(n, day=15, packet="I"):
    return json.dumps({
        "action": "submit", "study": "adrc", "pipeline_adcid": 42, "project_label": "ingest-form",
        "center_label": "alpha", "gear_name": "form-scheduler", "ptid": f"1100{n:02}", "visit_date": "2024-01-15",
        "visit_number": "01", "datatype": "form", "module": "UDS", "packet": packet,
        "timestamp": f"2024-01-{day:02}T10:00:{n:02}Z",
    }).encode()  # fmt: skip


_ASSUMED = b"""<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>
<AccessKeyId>ASSUMED</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>
<Expiration>2999-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"""  # of STS


class ScriptedS3:
    """An S3 in memory whose answers can be told: `faults[(method, key)]` is a list of (status, code), "cut", "drop" or
    "stored-but-unanswered", one for each request; "always" repeats the last; the key "any" is every other one."""

    def __init__(self):
        self.objects, self.modified, self.faults, self.requests, self.queries = {}, {}, {}, [], []
        self.keys, self.scopes = set(), set()  # of the requests' signatures
        self.backwards = False  # listed in an order that is not S3's
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                outer.answer(self)

            do_PUT = do_DELETE = do_HEAD = do_POST = do_GET  # noqa: N815 - the names are of http.server

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128  # with five, connections made at once wait a second for each other

            def handle_error(self, request, client_address):
                pass  # cut connections are what this is for

        self.server = Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def put(self, key, body):
        self.objects[key] = body

    def answer(self, handler):
        parts = urlsplit(handler.path)
        key = unquote(parts.path).removeprefix("/").partition("/")[2]
        query = {k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        with self.lock:
            key_id, _, scope = re.search("Credential=([^,]+)", handler.headers["Authorization"])[1].partition("/")
            self.keys.add(key_id)
            self.scopes.add(scope)
            if handler.command == "POST":
                return self.send(handler, 200, _ASSUMED)
            self.requests.append((handler.command, key or "list"))
            faults = self.faults.get((handler.command, key or "list"), self.faults.get((handler.command, "any"), []))
            fault = faults[0] if faults else None
            if faults and not (len(faults) == 2 and faults[1] == "always"):
                faults.pop(0)
            if isinstance(fault, tuple):
                return self.send(handler, fault[0], f"<Error><Code>{fault[1]}</Code></Error>".encode())
            if fault == "drop":
                return self.hang_up(handler)
            if handler.command == "PUT":
                return self.write(handler, key, body, unanswered=fault == "stored-but-unanswered")
            if handler.command == "DELETE":
                self.objects.pop(key, None)
                return self.send(handler, 204, b"")
            if not key:
                self.queries.append(query)
                return self.send(handler, 200, self.listing(query))
            if key not in self.objects:
                return self.send(handler, 404, b"<Error><Code>NoSuchKey</Code></Error>")
            if handler.command == "HEAD":
                return self.send(handler, 200, b"")
            return self.read(handler, key, cut=fault == "cut")

    def etag(self, key):
        return f'"{hashlib.md5(self.objects[key]).hexdigest()}"'

    def write(self, handler, key, body, unanswered):
        match, none = handler.headers.get("If-Match"), handler.headers.get("If-None-Match")
        there = key in self.objects
        if (match and (not there or self.etag(key) != match)) or (none == "*" and there):
            return self.send(handler, 412, b"<Error><Code>PreconditionFailed</Code></Error>")
        self.objects[key] = body
        if unanswered:
            return self.hang_up(handler)
        return self.send(handler, 200, b"", {"ETag": self.etag(key)})

    def read(self, handler, key, cut):
        body, status, headers = self.objects[key], 200, {"ETag": self.etag(key)}
        if found := re.fullmatch(r"bytes=(\d*)-(\d*)", handler.headers.get("Range", "")):
            low, high = found.groups()
            begin = int(low) if low else max(0, len(body) - int(high))
            end = min(len(body), int(high) + 1) if low and high else len(body)
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(body)}"
            body, status = body[begin:end], 206
        if cut:
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body[: len(body) // 2])
            return self.hang_up(handler)
        return self.send(handler, status, body, headers)

    def listing(self, query):
        keys = sorted((k for k in self.objects if k.startswith(query.get("prefix", ""))), reverse=self.backwards)
        after = query.get("continuation-token") or query.get("start-after", "")
        keys = [k for k in keys if not after or (k < after if self.backwards else k > after)]
        page, more = keys[:5], keys[5:]
        now = datetime.now(UTC)
        entries = "".join(
            f"<Contents><Key>{escape(k)}</Key>"
            f"<LastModified>{self.modified.get(k, now):%Y-%m-%dT%H:%M:%S.000Z}</LastModified><ETag>{escape(self.etag(k))}</ETag>"
            f"<Size>{len(self.objects[k])}</Size></Contents>"
            for k in page
        )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        return (
            f"<ListBucketResult><IsTruncated>{'true' if more else 'false'}</IsTruncated>{token}{entries}</ListBucketResult>"
        ).encode()

    def hang_up(self, handler):
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)

    def send(self, handler, status, body, headers=None):
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


@pytest.fixture
def s3(aws):
    server = ScriptedS3()
    aws(server.endpoint)
    for n in range(12):
        server.put(f"prod/{_name(n)}", _event(n))
    yield server
    server.server.shutdown()
    server.server.server_close()


LOGS, OUT = "s3://b/prod", "s3://b/out.parquet"


def test_transient_answers_are_tried_again(s3):
    s3.faults = {
        ("GET", "list"): [(503, "SlowDown"), None, (503, "SlowDown")],
        ("GET", f"prod/{_name(0)}"): [(500, "InternalError"), (503, "SlowDown")],
        ("GET", f"prod/{_name(1)}"): ["cut"],
        ("GET", f"prod/{_name(2)}"): ["drop"],
        ("GET", "out.parquet"): [(503, "SlowDown")],
        ("PUT", "out.parquet"): [(503, "SlowDown"), "drop"],
    }
    run = update(LOGS, OUT, schema="visits")
    assert (run.rows_added, run.unreadable, run.attempts) == (12, 0, 1)
    assert verify(OUT, LOGS).ok


def test_single_files_that_cannot_be_read_are_counted_and_tried_by_the_next_run(s3):
    s3.faults = {
        ("GET", f"prod/{_name(0)}"): [(403, "AccessDenied")],
        ("GET", f"prod/{_name(1)}"): [(403, "InvalidObjectState")],
        ("GET", f"prod/{_name(2)}"): [(404, "NoSuchKey")],
        ("GET", f"prod/{_name(3)}"): [(500, "InternalError")] * 4,
    }
    run = update(LOGS, OUT, schema="visits")
    assert (run.rows_added, run.unreadable, run.archived, run.vanished, run.complete) == (8, 3, 1, 1, False)
    assert run.read_problems == {"permission_denied": 1, "archived": 1, "unavailable": 1}
    assert run.adds_up() == []
    assert "1100" not in str(run.unread)
    s3.faults = {}
    assert update(LOGS, OUT, schema="visits").rows_added == 4


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({("GET", "list"): [(403, "AccessDenied"), "always"]}, AccessError),
        ({("GET", "out.parquet"): [(403, "AccessDenied"), "always"]}, AccessError),
        ({("PUT", "out.parquet"): [(403, "AccessDenied"), "always"]}, AccessError),
        ({("GET", f"prod/{_name(n)}"): [(403, "AccessDenied"), "always"] for n in range(12)}, AccessError),
        ({("GET", "list"): [None, (403, "AccessDenied"), "always"]}, AccessError),  # the second page
        ({("GET", "list"): [(503, "SlowDown"), "always"]}, TransientError),
        ({("GET", "out.parquet"): ["drop", "always"]}, TransientError),
    ],
)
def test_what_fails_a_run(s3, fault, expected):
    before = dict(s3.objects)
    s3.faults = fault
    with pytest.raises(expected) as caught:
        update(LOGS, OUT, schema="visits")
    assert "1100" not in str(caught.value)
    assert "headgate-secret" not in str(caught.value)
    assert s3.objects.get("out.parquet") == before.get("out.parquet")


def test_a_server_that_lists_in_another_order_costs_a_second_listing_only(s3):
    s3.put("prod/other.json", b"{}")
    for n in range(12):
        s3.objects[f"prod/{_name(n)}"] = _event(n).replace(f"10:00:{n:02}".encode(), b"10:00:00")  # ties: names decide
    update(LOGS, "s3://b/forwards.parquet", schema="visits")
    s3.backwards, s3.requests = True, []
    run = update(LOGS, OUT, schema="visits")
    assert (run.rows_added, run.ignored, run.attempts, run.adds_up()) == (12, 1, 1, [])
    assert s3.requests.count(("GET", "list")) <= 2 * 3 + 1  # pages, twice, and one for the sweep
    tables = [pq.read_table(io.BytesIO(s3.objects[key])) for key in ("forwards.parquet", "out.parquet")]
    assert tables[0].equals(tables[1])
    assert update(LOGS, OUT, schema="visits").known == 12


def test_a_commit_whose_answer_was_lost_is_recognised(s3):
    s3.faults = {("PUT", "out.parquet"): ["stored-but-unanswered"]}
    run = update(LOGS, OUT, schema="visits")  # the repeated PUT answers 412: it is our own write
    assert (run.committed, run.attempts, run.rows_added) == (True, 1, 12)
    s3.put(f"prod/{_name(20)}", _event(20))
    s3.faults = {("PUT", "out.parquet"): ["stored-but-unanswered"]}
    assert (update(LOGS, OUT, schema="visits").rows_total, len(json.loads(_footer(s3))["segments"])) == (13, 2)


def _footer(s3):
    import io

    import pyarrow.parquet as pq

    return pq.read_metadata(io.BytesIO(s3.objects["out.parquet"])).metadata[b"headgate"]


def test_a_missing_ledger_segment_is_corruption(s3):
    update(LOGS, OUT, schema="visits")
    segment = next(k for k in s3.objects if k.startswith("out.parquet.ledger/seg-"))
    s3.objects.pop(segment)
    with pytest.raises(IntegrityError, match="missing"):
        update(LOGS, OUT, schema="visits")


def test_expired_credentials_are_asked_for_again(s3):
    s3.faults = {("GET", "list"): [(400, "ExpiredToken")]}
    assert update(LOGS, OUT, schema="visits").rows_added == 12


def test_profiles_endpoints_and_roles_resolve_as_boto3_does(s3, tmp_path, monkeypatch):
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "ENDPOINT_URL", "DEFAULT_REGION", "REGION"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    (tmp_path / "credentials").write_text("[reader]\naws_access_key_id=READER\naws_secret_access_key=s\n")
    (tmp_path / "config").write_text(f"""
[profile reader]
region = eu-west-3
endpoint_url = {s3.endpoint}
[profile role]
role_arn = arn:aws:iam::123456789012:role/logs
source_profile = reader
region = eu-west-3
endpoint_url = {s3.endpoint}
[profile rotating]
credential_process = {sys.executable} {tmp_path / "keys.py"}
region = eu-west-3
endpoint_url = {s3.endpoint}
""")
    (tmp_path / "keys.py").write_text(f"""
import json, pathlib
count = pathlib.Path({str(tmp_path / "count")!r})
n = len(count.read_text()) if count.exists() else 0
count.write_text("x" * (n + 1))
print(json.dumps({{"Version": 1, "AccessKeyId": f"ROTATED{{n}}", "SecretAccessKey": "s", "SessionToken": "t",
                  "Expiration": "2020-01-01T00:00:00Z" if n == 0 else "2999-01-01T00:00:00Z"}}))
""")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for profile, keys in (("reader", {"READER"}), ("role", {"READER", "ASSUMED"})):
        s3.keys.clear()
        target = tmp_path / f"{profile}.parquet"
        assert update(f"{LOGS}?profile={profile}", target, schema="visits").rows_added == 12
        assert s3.keys == keys  # the role's is asked for with the profile's
        assert all(scope.endswith("/eu-west-3/s3/aws4_request") or "/sts/" in scope for scope in s3.scopes)
    monkeypatch.setenv("AWS_PROFILE", "rotating")
    s3.keys.clear()
    assert update(LOGS, tmp_path / "rotating.parquet", schema="visits").rows_added == 12
    assert s3.keys
    assert max(s3.keys) > "ROTATED0"  # what had expired was asked for anew, while running or before
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert s3_location("s3://b/k?region=us-east-1").endpoint == "https://s3-fips.us-east-1.amazonaws.com"
    monkeypatch.delenv("AWS_USE_FIPS_ENDPOINT")
    assert s3_location("s3://b/k?region=us-east-1").endpoint == ""
    assert s3_location("s3://b/k?region=eu-west-3").endpoint == ""


def test_queries_follow_credentials_that_change(bucket, tmp_path):
    write_wave(tmp_path / "logs", 60)
    upload(bucket, tmp_path / "logs")
    update("s3://logs/prod", TARGET, schema="visits")
    events = Visits.read(TARGET)
    place = events._rows._place
    first = place.filesystem()
    assert place.filesystem() is first
    counts = events.count_by("action")
    place._filesystem = (("a role's key of an hour ago", "", ""), first)
    assert events.count_by("action") == counts
    assert place.filesystem() is not first


def test_orphans_of_dead_runs_are_swept_when_nobody_can_need_them(s3):
    parts = [f"out.parquet.ledger/{name}" for name in ("seg-9-dead.hgl", "seg-8-dead@20240115.hgl", "rej-9-dead.jsonl")]
    for part in (*parts, "out.parquet.ledger.txt", "out.parquet.old"):
        s3.put(part, b"x")
    update(LOGS, OUT, schema="visits")
    assert set(parts) < set(s3.objects)  # they are young: their run may still work
    for key in s3.objects:
        s3.modified[key] = datetime.now(UTC) - timedelta(hours=25)
    s3.modified[parts[1]] = datetime.now(UTC) - timedelta(hours=23)
    s3.put(f"prod/{_name(20)}", _event(20))
    s3.faults = {("DELETE", parts[0]): [(403, "AccessDenied")]}
    assert update(LOGS, OUT, schema="visits").rows_total == 13  # what cannot be removed harms nothing
    s3.put(f"prod/{_name(21)}", _event(21))
    assert set(parts[:2]) < set(s3.objects)
    assert parts[2] not in s3.objects
    assert update(LOGS, OUT, schema="visits").rows_total == 14
    assert parts[0] not in s3.objects
    assert {parts[1], "out.parquet.ledger.txt", "out.parquet.old"} < set(s3.objects)
    assert verify(OUT, LOGS).ok  # what old commits wrote and the newest names is still there


def test_a_run_that_fails_takes_back_what_it_wrote(s3):
    for n in (20, 21):  # a first run, and an update
        s3.put(f"prod/{_name(n)}", _event(n))
        before = set(s3.objects)
        set_faults("checkpoint.before_commit:fail:1")
        with pytest.raises(HeadgateError, match="fault injected"):
            update(LOGS, OUT, schema="visits")
        assert set(s3.objects) == before
        set_faults("")
        # Once a commit was asked for, it may have been made, and then another one may name the same parts.
        s3.faults = {("PUT", "out.parquet"): [(403, "AccessDenied")]}
        with pytest.raises(AccessError):
            update(LOGS, OUT, schema="visits")
        assert len(set(s3.objects) - before) == 1
        s3.faults = {}
        assert update(LOGS, OUT, schema="visits").committed
    assert verify(OUT, LOGS).ok


def test_what_cannot_be_taken_back_is_not_tried_again_and_again(s3):
    s3.put(f"prod/{_name(20)}", b"{")  # refused: a second part
    s3.faults = {("DELETE", "any"): [(403, "AccessDenied"), "always"]}
    set_faults("checkpoint.before_commit:fail:1")
    with pytest.raises(HeadgateError, match="fault injected"):
        update(LOGS, OUT, schema="visits")
    assert [method for method, _ in s3.requests].count("DELETE") == 1
    assert len([key for key in s3.objects if key.startswith("out.parquet.ledger/")]) == 2


def test_a_windowed_listing_asks_for_names_until_a_day_has_passed(s3):
    """After a full listing, ledger = source (decision 1)."""
    s3.put(f"prod/{_name(30, day=1)}", _event(30, day=1))
    hour_us = 3600 * 10**6
    clock = core.ManualClock(1_705_312_800_000_000)

    def run():
        del s3.requests[:], s3.queries[:]
        found = parquet().update(
            source_place(LOGS), target_place(OUT), shipped_plan("visits"),
            {"window_us": hour_us, "clock": clock}, None,
        )  # fmt: skip
        asked = {
            query.get("start-after", "")
            for query in s3.queries
            if query["prefix"].startswith("prod/") and "continuation-token" not in query
        }
        return found["rows_added"], found["complete"], asked

    def since(stamp):
        return {f"prod/log-{action}-{stamp}" for action in ("submit", "pass-qc", "not-pass-qc", "delete")}

    assert run() == (13, True, {""})  # the first run lists everything
    s3.put(f"prod/{_name(31, day=1)}", _event(31, day=1))
    s3.put(f"prod/{_name(32)}", _event(32))
    clock.advance_us(11 * hour_us)
    assert run() == (1, False, since("20240115-090011"))  # an hour before the newest event that it knows
    clock.advance_us(11 * hour_us)
    assert run() == (0, False, since("20240115-090032"))
    clock.advance_us(2 * hour_us)  # a day since the last full one
    assert run() == (1, True, {""})
    assert verify(OUT, LOGS).ok
    for _ in range(2):
        clock.advance_us(23 * hour_us)
        assert run()[:2] == (0, False)
        clock.advance_us(hour_us)
        assert run()[:2] == (0, True)  # it is remembered, though there was nothing new


def test_places_that_cannot_be_are_named(s3, monkeypatch):
    for url, expected in (
        ("s3:///key", "no bucket"),
        ("s3://b/prod?colour=red", "unknown option 'colour'"),
        ("s3://b/prod?profile=nobody", "nobody"),
    ):
        with pytest.raises(ConfigError, match=expected):
            update(url, OUT, schema="visits")
    with pytest.raises(ConfigError, match="key of the Parquet file"):
        update(LOGS, "s3://b/", schema="visits")
    with pytest.raises(InvalidInputError, match="does not exist yet"):
        Checkpoint.read("s3://b/none.parquet")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(ConfigError, match="no AWS credentials"):
        update(LOGS, OUT, schema="visits")
