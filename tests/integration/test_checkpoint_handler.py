"""The checkpoint as a Lambda handler, and the retriever, on a server that speaks S3 (spec 002, sections 4 and 5)."""

from __future__ import annotations

import json
import string
from datetime import UTC, datetime

import boto3
import pytest
import requests
from hypothesis import given, settings
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


def fresh(server):
    requests.post(f"{server}/moto-api/reset", timeout=10)
    client = boto3.Session().client("s3")
    for bucket in ("logs", "out"):
        client.create_bucket(Bucket=bucket)
    return client


def put(s3, *keys, body=GOOD, bucket="logs", **more):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=data, **more)


def event(**changes):
    return {"source_bucket": "logs", "checkpoint_bucket": "out", "checkpoint_key": "e.parquet", **changes}


ACTIONS = ["submit", "pass-qc", "not-pass-qc", "delete"]
PTID = st.text(alphabet="".join(sorted(set(string.printable[:94]) - set("/"))), min_size=1, max_size=10)
VISIT = ("center_label", "study", "ptid", "visit_date", "visit_number")


@pytest.mark.parametrize("odd", ["a b#c?d=e&f%20+ü", "100%", "a//b", "x'\"<>|", "~(*)!"])
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


def test_a_whole_wave_on_s3_equals_the_one_on_disk(s3, tmp_path):
    write_wave(tmp_path / "logs", 60)
    for path in (tmp_path / "logs").rglob("*.json"):
        put(s3, f"prod/{path.relative_to(tmp_path / 'logs').as_posix()}", body=path.read_bytes())
    local = update(tmp_path / "logs", tmp_path / "e.parquet", schema="visits", settle_s=0)
    answer = handlers.checkpoint(event(prefix="prod/"))
    assert (answer["new_events_processed"], answer["events_failed"]) == (local.rows_added, local.rejected_records)


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
