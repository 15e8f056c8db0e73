"""The checkpoint as a Lambda handler, and the retriever, on a server that speaks S3 (spec 002, sections 4 and 5)."""

from __future__ import annotations

import gzip
import json
import logging
import re
import string
from collections import Counter
from datetime import UTC, datetime
from functools import cache

import boto3
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headgate import handlers
from headgate.checkpoint import Checkpoint, CheckpointError, CheckpointStore, S3EventRetriever, update
from headgate.errors import ConfigError, IntegrityError
from headgate.pipelines.visits import VisitEvent
from headgate.testing.visits import write_wave

GOOD = {
    "action": "submit", "study": "adrc", "pipeline_adcid": 42, "project_label": "ingest-form", "center_label": "alpha",
    "gear_name": "form-scheduler", "ptid": "110001", "visit_date": "2024-01-15", "visit_number": "01",
    "datatype": "form", "module": "UDS", "packet": "I", "timestamp": "2024-01-15T10:00:00Z",
}  # fmt: skip
VARIABLES = ("SOURCE_BUCKET", "CHECKPOINT_BUCKET", "CHECKPOINT_KEY", "HEADGATE_CONFIG", "POWERTOOLS_SERVICE_NAME")


def name(n=0, ptid="110001"):
    return f"log-submit-20240115-1000{n:02}-42-ingest-form-{ptid}-01.json"


@pytest.fixture(scope="module")
def server():
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for variable in (*VARIABLES, "AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(variable, raising=False)
        for variable, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_CONFIG_FILE": "/nonexistent", "AWS_EC2_METADATA_DISABLED": "true",
            "POWERTOOLS_TRACE_DISABLED": "1",
        }.items():  # fmt: skip
            patch.setenv(variable, value)
        yield f"http://{host}:{port}"
    moto.stop()


@pytest.fixture
def s3(server):
    """A boto3 client of an empty server with the buckets logs and out."""
    return fresh(server)


@cache
def client_of(server):  # each that is made costs as much as an example
    return boto3.Session().client("s3")


def fresh(server):
    requests.post(f"{server}/moto-api/reset", timeout=10)
    client = client_of(server)
    for bucket in ("logs", "out"):
        client.create_bucket(Bucket=bucket)
    return client


def put(s3, *keys, body=GOOD, bucket="logs", **more):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=data, **more)


def event(**changes):
    return {"source_bucket": "logs", "checkpoint_bucket": "out", "checkpoint_key": "e.parquet", **changes}


def test_a_prefix_is_what_it_is_on_s3(s3):
    put(s3, f"prod/{name(1)}", f"production/{name(2)}", f"prod/deep/{name(3)}", f"dev/{name(4)}", f"prod{name(5)}")
    for prefix, files in {
        "prod": 3,
        "prod/": 2,
        "prod/log-submit-20240115-100001": 1,
        "prod/d": 1,
        "": 4,
        "no": 0,
    }.items():
        answer = handlers.checkpoint(event(prefix=prefix, checkpoint_key=f"{len(prefix)}.parquet"))
        assert (answer["statusCode"], answer["new_events_processed"]) == (200, files), prefix
        assert ("checkpoint_path" in answer) == bool(files)
        assert len(S3EventRetriever("logs", prefix).list_event_files()) == files


@pytest.mark.parametrize("odd", ["a b#c?d=e&f%20+ü", "100%", "a//b", "x'\"<>|", "~(*)!", "tab\there"])
def test_keys_of_any_characters_are_quoted(s3, odd):
    put(s3, f"{odd}/{name()}")
    answer = handlers.checkpoint(event(prefix=f"{odd}/", checkpoint_key=f"cp/{odd}.parquet"))
    assert (answer["statusCode"], answer["new_events_processed"]) == (200, 1)
    assert answer["checkpoint_path"] == f"s3://out/cp/{odd}.parquet"
    store = CheckpointStore("out", f"cp/{odd}.parquet")
    assert store.exists()
    assert len(store.load()) == 1
    assert S3EventRetriever("logs", odd).retrieve_and_validate_events()[1] == []
    assert handlers.checkpoint(event(prefix=f"{odd}/", checkpoint_key=f"cp/{odd}.parquet"))["total_events"] == 1


@pytest.mark.parametrize("wrong", [{}, None, [], "x", {"source_bucket": "logs"}, event(prefix=7), event(checkpoint_key=""),
                                   event(checkpoint_bucket=["out"])])  # fmt: skip
def test_a_wrong_event_is_a_400_that_says_what_was_expected(s3, wrong):
    answer = handlers.checkpoint(wrong)
    assert (answer["statusCode"], answer["error"], answer["details"]) == (
        400, "ValidationError", {"failed_files": [], "error_count": 1})  # fmt: skip
    assert "expected" in answer["message"]


def test_there_is_a_path_only_where_there_is_a_checkpoint(s3):
    assert "checkpoint_path" not in handlers.checkpoint(event())
    put(s3, name(), body={**GOOD, "action": "fly"})
    bad = handlers.checkpoint(event())
    assert (bad["checkpoint_path"], bad["total_events"], bad["events_failed"]) == ("s3://out/e.parquet", 0, 1)
    assert bad["last_processed_timestamp"] is None
    assert bad["details"]["failed_files"] == [name(ptid="****")]
    again = handlers.checkpoint(event())
    assert (again["events_failed"], again["new_events_processed"]) == (
        0,
        0,
    )  # the bad file is remembered, not read again
    put(s3, name(1))
    good = handlers.checkpoint(event())
    assert (good["new_events_processed"], good["total_events"]) == (1, 1)


def test_a_bucket_of_bad_files_only_is_read_once(s3, tmp_path):
    for n in range(5):
        put(s3, name(n), body=b"{")
    first = update("s3://logs", "s3://out/b.parquet", schema="visits")
    second = update("s3://logs", "s3://out/b.parquet", schema="visits")
    assert (first.rejected_records, first.committed, first.rows_total) == (5, True, 0)
    assert (second.known, second.taken_files, second.committed) == (5, 0, False)
    empty = Checkpoint.read("s3://out/b.parquet")
    assert (len(empty), empty.is_empty(), empty.get_last_processed_timestamp()) == (0, True, None)
    assert empty.columns == Checkpoint.empty().columns


def test_packed_objects_that_say_so_in_a_header_are_read(s3):
    put(s3, name(1), body=gzip.compress(json.dumps(GOOD).encode()), ContentEncoding="gzip")
    put(s3, name(2))
    assert update("s3://logs", "s3://out/e.parquet", schema="visits").rows_added == 2


def test_a_run_that_can_read_no_file_names_some_of_them(s3, monkeypatch):
    """moto grants everything; what `update` raises is tested on a folder."""
    from headgate.handlers import _checkpoint

    def refused(event, observer):
        error = CheckpointError("none of the 30 new files could be read", "permission_denied")
        error.unread = [_refused(n) for n in range(30)]
        raise error

    monkeypatch.setattr(_checkpoint, "_run", refused)
    answer = handlers.checkpoint(event())
    assert (answer["statusCode"], answer["error"]) == (500, "CheckpointError")
    assert answer["details"]["error_count"] == 30
    assert len(answer["details"]["failed_files"]) == 20
    assert set(answer) == {"statusCode", "error", "message", "details"}


def _refused(n):
    from headgate.checkpoint import RejectedRecord

    return RejectedRecord(name(n, "****"), "0" * 12, 0, [("", "permission_denied")])


def test_no_credentials_is_one_config_error_everywhere(server, monkeypatch):
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    store, said = CheckpointStore("out", "e.parquet"), set()
    for call in (
        lambda: update("s3://logs", "s3://out/e.parquet"), store.exists, store.load,
        lambda: store.save(Checkpoint.empty()), S3EventRetriever("logs").list_event_files,
        lambda: Checkpoint.read("s3://out/e.parquet"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="no AWS credentials were found") as caught:
            call()
        said.add(caught.value.kind)
    assert len(said) == 1
    answer = handlers.checkpoint(event())
    assert (answer["statusCode"], answer["error"]) == (500, "CheckpointError")
    assert "no AWS credentials" in answer["message"]


def test_whatever_is_wrong_with_a_checkpoint_is_a_checkpoint_error(s3):
    put(s3, "e.parquet", body=b"no Parquet", bucket="out")
    put(s3, name())
    for call in (CheckpointStore("out", "e.parquet").load, lambda: update("s3://logs", "s3://out/e.parquet"),
                 lambda: Checkpoint.read("s3://out/e.parquet")):  # fmt: skip
        with pytest.raises(CheckpointError) as caught:
            call()
        assert isinstance(caught.value, IntegrityError)
    assert s3.get_object(Bucket="out", Key="e.parquet")["Body"].read() == b"no Parquet"


@pytest.mark.parametrize("fails", [False, True])
def test_metrics_and_service_name_of_every_run(s3, capsys, monkeypatch, fails):
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "my-service")
    put(s3, name())
    answer = handlers.checkpoint(event(source_bucket="nowhere" if fails else "logs"))
    assert answer["statusCode"] == (500 if fails else 200)
    lines = [json.loads(line) for line in "".join(capsys.readouterr()).splitlines() if line.startswith("{")]
    metrics = [line for line in lines if "_aws" in line]
    assert {"NewEventsProcessed", "EventsFailed", "ExecutionTime", "RunFailed"} <= set(metrics[0])
    assert metrics[0]["RunFailed"] == [float(fails)]
    assert {line["service"] for line in lines if "service" in line} == {"my-service"}


def test_the_s3_calls_are_in_the_trace(s3, monkeypatch):
    from contextlib import contextmanager

    from headgate.handlers import _observe

    segments = []

    class Segment(dict):
        def put_annotation(self, key, value):
            self[key] = value

        def put_metadata(self, key, value, namespace):
            self[key] = value

    class Provider:
        @contextmanager
        def in_subsegment(self, name, **more):
            segments.append((name, more, Segment()))
            yield segments[-1][2]

    class Tracer:
        disabled = False
        provider = Provider()

    made = _observe.Observer.__init__
    monkeypatch.setattr(
        _observe.Observer, "__init__", lambda self, *a: (made(self, *a), setattr(self, "_tracer", Tracer()))[0]
    )
    put(s3, name(1), name(2))
    assert handlers.checkpoint(event())["statusCode"] == 200
    found = next((more, segment) for name, more, segment in segments if name == "S3")
    assert found[0] == {"namespace": "aws"}
    assert (found[1]["source_bucket"], found[1]["checkpoint_bucket"]) == ("logs", "out")
    assert (found[1]["calls"]["listed"], found[1]["calls"]["read"]) == (2, 2)


# --- properties of spec 002, section 5, as they are stated

ACTIONS = ["submit", "pass-qc", "not-pass-qc", "delete"]
PTID = st.text(alphabet="".join(sorted(set(string.printable[:94]) - set("/"))), min_size=1, max_size=10)
NAMED = st.builds(
    "log-{}-{}-{}-{}-{}-{}.json".format, st.sampled_from(ACTIONS),
    st.datetimes(datetime(2024, 1, 1), datetime(2026, 12, 31)).map(lambda t: f"{t:%Y%m%d-%H%M%S}"), st.integers(1, 999),
    st.sampled_from(["ingest-form", "ingest-form-dvcid", "ingest-dicom-leads"]), PTID,
    st.sampled_from(["01", "2024-01-15", "F1"]),
)  # fmt: skip
LEGACY = st.builds("log-{}-20240115.json".format, st.sampled_from(ACTIONS))
OTHER = st.sampled_from([
    "notes.txt", "log-fly-20240115-100000-42-ingest-form-1-01.json", "log-submit-2024-100000-42-ingest-form-1-01.json",
    "log-submit-20240115-100000-x-ingest-form-1-01.json", "log-submit-20240115-100000-42-ingest-form-1-01.csv",
    "log-submit-20240115.jsonx", "xlog-submit-20240115.json",
])  # fmt: skip
FOLDER = st.sampled_from(["prod/", "prod/2024/", "production/", "dev/", ""])


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    fitting=st.lists(st.tuples(FOLDER, NAMED | LEGACY), max_size=4, unique=True),
    others=st.lists(st.tuples(FOLDER, OTHER), max_size=3, unique=True),
    prefix=st.sampled_from(["", "prod", "prod/", "prod/2024/log-", "dev/", "none/"]),
)
def test_a_listing_is_exactly_the_keys_that_fit_under_the_prefix(server, fitting, others, prefix):
    """Feature: event-log-scraper, Property 1: exactly the keys that fit the pattern, under the prefix."""
    s3 = fresh(server)
    for folder, file in {*fitting, *others}:
        put(s3, folder + file)
    expected = sorted(folder + file for folder, file in set(fitting) if (folder + file).startswith(prefix))
    assert sorted(S3EventRetriever("logs", prefix).list_event_files()) == expected
    answer = handlers.checkpoint(event(prefix=prefix))
    assert answer["new_events_processed"] == len(expected)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(kinds=st.lists(st.sampled_from(["good", "torn", "schema", "gone"]), min_size=1, max_size=6))
def test_files_that_fail_do_not_stop_the_others(server, kinds):
    """Feature: event-log-scraper, Property 4: failing files do not stop the others."""
    s3 = fresh(server)
    bodies = {"good": GOOD, "torn": b'{"action": ', "schema": {**GOOD, "datatype": "x"}, "gone": GOOD}
    for n, kind in enumerate(kinds):
        put(s3, name(n), body=bodies[kind])
    retriever = S3EventRetriever("logs")
    listed = retriever.list_event_files()
    for n, kind in enumerate(kinds):
        if kind == "gone":
            s3.delete_object(Bucket="logs", Key=name(n))
    retriever.list_event_files = lambda: listed  # the listing was before
    events, errors = retriever.retrieve_and_validate_events()
    assert len(events) == kinds.count("good")
    assert len(errors) == len(kinds) - len(events)
    answer = handlers.checkpoint(event())
    assert answer["new_events_processed"] == kinds.count("good")
    assert answer["events_failed"] == kinds.count("torn") + kinds.count("schema")


RULES = {
    "action": ["fly", "", 1, None, "SUBMIT"], "study": ["", "  ", None, 3], "pipeline_adcid": [0, -1, "x", 1.5, True, None, ""],
    "project_label": ["", None], "center_label": [" ", 1], "gear_name": ["", []], "ptid": ["", "12345678901", "a b", "é", 7],
    "visit_date": ["2024-02-30", "15.01.2024", "", None, "2024-1-5"], "visit_number": [1, {}], "datatype": ["pdf", None],
    "module": ["XYZ", None, "uds"], "packet": [1], "timestamp": ["2024-01-15", "yesterday", 1705312800, None, ""],
}  # fmt: skip
BREAK = st.sampled_from([(field, value) for field, values in RULES.items() for value in values])


MISSING = object()  # instead of a value: the record has no such member
REMOVED = st.sampled_from([(f, MISSING) for f in GOOD if f not in ("study", "visit_number", "packet")])


# Several records a run: what takes the time is S3, not the rules.
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(broken=st.lists(BREAK | REMOVED, min_size=10, max_size=20))
def test_every_rule_is_enforced(server, broken):
    """Feature: event-log-scraper, Property 5: all validation rules; each broken rule names its own field."""
    s3 = fresh(server)
    for n, (field, value) in enumerate(broken):
        put(s3, name(n), body={k: v for k, v in {**GOOD, field: value}.items() if v is not MISSING})
    events, errors = S3EventRetriever("logs").retrieve_and_validate_events()
    assert (events, len(errors)) == ([], len(broken))
    named = Counter(field for error in errors for field in {text.partition(": ")[0] for text in error["errors"]})
    assert named >= Counter(field for field, _ in broken)  # several threads read, so that the order says nothing
    run = update("s3://logs", "s3://out/e.parquet", schema="visits")
    assert (run.rows_added, run.rejected_records) == (0, len(broken))
    for (field, _), reject in zip(broken, run.rejects, strict=True):
        assert field in [named for named, _ in reject.problems]


KEY = st.lists(st.text(alphabet=string.ascii_letters + string.digits + " #?&=%+'(),;@!*~é", min_size=1, max_size=8),
               min_size=1, max_size=3).map("/".join)  # fmt: skip


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(key=KEY)
def test_the_answer_holds_the_uri_of_what_was_written(server, key):
    """Feature: event-log-scraper, Property 10: the success response holds the S3 URI."""
    s3 = fresh(server)
    put(s3, name())
    answer = handlers.checkpoint(event(checkpoint_key=key))
    assert (answer["statusCode"], answer["checkpoint_path"]) == (200, f"s3://out/{key}")
    bucket, _, found = answer["checkpoint_path"].removeprefix("s3://").partition("/")
    assert s3.get_object(Bucket=bucket, Key=found)["Body"].read(4) == b"PAR1"


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(bad=st.lists(st.sampled_from(["torn", "action", "date"]), max_size=5), good=st.integers(0, 4), ptid=PTID)
def test_the_log_counts_and_names_every_error(server, bad, good, ptid):
    """Feature: event-log-scraper, Property 18: counts in the log; each validation error with details and path."""
    s3 = fresh(server)
    bodies = {"torn": b"{", "action": {**GOOD, "action": "x"}, "date": {**GOOD, "visit_date": "2024-02-30"}}
    for n, kind in enumerate(bad):
        put(s3, name(n, ptid), body=bodies[kind])
    for n in range(good):
        put(s3, name(n + 10, ptid))
    records = []

    class Keep(logging.Handler):
        def emit(self, record):
            records.append(record)

    handler, log = Keep(), logging.getLogger("event-log-checkpoint")
    log.addHandler(handler)
    try:
        answer = handlers.checkpoint(event())
    finally:
        log.removeHandler(handler)
    done = next(r for r in records if r.getMessage() == "checkpoint done")
    assert (done.files_read, done.events_processed, done.events_failed, done.total_events) == (
        len(bad) + good, good, len(bad), good)  # fmt: skip
    said = [r for r in records if r.getMessage() == "record rejected"]
    expected = {"torn": ["record: json"], "action": ["action: enum"], "date": ["visit_date: date"]}
    assert sorted(r.problems for r in said) == sorted(expected[kind] for kind in bad)
    assert all(re.fullmatch(r"log-submit-20240115-1000\d\d-42-ingest-form-\*\*\*\*(-01)?\.json", r.file) for r in said)
    assert answer["details"]["failed_files"] == [r.file for r in said] if bad else "details" not in answer


@settings(max_examples=100, deadline=None)
@given(
    found=st.lists(
        st.tuples(st.sampled_from(ACTIONS), st.dates(datetime(2020, 1, 1).date()), st.datetimes(datetime(2020, 1, 1),
                  datetime(2030, 1, 1))), max_size=12,
    )
)  # fmt: skip
def test_days_can_be_computed_for_submit_and_pass_qc(found):
    """Feature: event-log-scraper, Property 12: days between visit_date and timestamp, for submit and pass-qc."""
    from headgate.pipelines.visits import Visits

    events = [
        VisitEvent.model_validate({**GOOD, "action": action, "visit_date": f"{day}", "timestamp": f"{at.isoformat()}Z"})
        for action, day, at in found
    ]
    for action in ("submit", "pass-qc"):
        days = Visits.from_events(events).days_to(action).dataframe()["days"].to_pylist()
        expected = sorted(
            (at.replace(tzinfo=UTC) - datetime(day.year, day.month, day.day, tzinfo=UTC)).total_seconds() / 86_400
            for kind, day, at in found
            if kind == action
        )
        assert sorted(days) == pytest.approx(expected)


VISIT = ("center_label", "study", "ptid", "visit_date", "visit_number")


@settings(max_examples=100, deadline=None)
@given(
    found=st.lists(
        st.tuples(
            st.sampled_from(["alpha", "beta"]), st.sampled_from(["adrc", "leads"]), st.sampled_from(["1", "2"]),
            st.sampled_from(["2024-01-15", "2024-02-01"]), st.sampled_from([None, "01", "1"]), st.integers(0, 9),
        ), max_size=15,
    )
)  # fmt: skip
def test_the_latest_event_of_every_visit_is_found(found):
    """Feature: event-log-scraper, Property 17: the latest event per visit; null visit numbers group as a value."""
    from headgate.pipelines.visits import Visits

    events = [
        VisitEvent.model_validate(
            {**GOOD, **dict(zip(VISIT, visit, strict=True)), "timestamp": f"2024-03-01T10:00:0{at}Z"}
        )
        for *visit, at in found
    ]
    newest = {}
    for *visit, at in found:
        newest[tuple(visit)] = max(at, newest.get(tuple(visit), 0))
    rows = Visits.from_events(events).latest().dataframe().to_pylist()
    assert {tuple(row[c] for c in VISIT): row["timestamp"].second for row in rows} == newest
    assert len(rows) == len(newest)


def test_a_whole_wave_on_s3_equals_the_one_on_disk(s3, tmp_path):
    write_wave(tmp_path / "logs", 60)
    for path in (tmp_path / "logs").rglob("*.json"):
        put(s3, f"prod/{path.relative_to(tmp_path / 'logs').as_posix()}", body=path.read_bytes())
    local = update(tmp_path / "logs", tmp_path / "e.parquet", schema="visits", settle_s=0)
    answer = handlers.checkpoint(event(prefix="prod/"))
    assert (answer["new_events_processed"], answer["events_failed"]) == (local.rows_added, local.rejected_records)
