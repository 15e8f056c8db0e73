"""Every metric, label, log key and status word of spec 004: each test fails when one is missing, misnamed or wrong."""

from __future__ import annotations

import hashlib
import json
import logging

import pytest
from pydantic import ValidationError

from headgate.backends.local import LocalStore
from headgate.consume import Consumer
from headgate.errors import InvalidInputError, StorageFullError, TransientError
from headgate.pipelines.uploads import (
    BatchEssaysRegisteredV1,
    BatchTracker,
    ContentType,
    ErrorCode,
    EssayContentProvisionedV1,
    EssayUploadFinishedV1,
    EssayValidationFailedV1,
    UploadedFile,
    envelope,
    validate_text,
)
from headgate.pipelines.uploads.batches import READY_TIMEOUT_S, event_key
from headgate.pipelines.uploads.contracts import EXCESS, FAILED, FINISHED, PROVISIONED, READY, REGISTERED

TEXT = b"An essay of more than fifty characters, about canals and gates."
SECOND = 1_000_000
STANDARD = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


def facts(record):
    return {key: value for key, value in record.__dict__.items() if key not in STANDARD}


def lines(caplog, phase):
    return [
        (record.levelname, facts(record))
        for record in caplog.records
        if record.name == "headgate.uploads" and getattr(record, "phase", None) == phase
    ]


@pytest.fixture
def heard(caplog):
    caplog.set_level("INFO", "headgate.uploads")
    return caplog


class Clocked:
    """Takes time for everything that it stores, and may fail."""

    def __init__(self, world, failing=None, error=None):
        self.content, self.clock, self.failing, self.error = world.content, world.clock, failing, error
        self.fetch_content = world.content.fetch_content

    def store_content(self, data, content_type):
        self.clock.advance_us(250_000)
        if content_type is self.failing:
            raise self.error
        return self.content.store_content(data, content_type)


# --- log lines (spec 004, section 7: corr_id, batch_id, essay_id, phase, status, duration_ms)


@pytest.mark.parametrize(
    ("name", "data", "status", "took"),
    [
        ("a.txt", TEXT, "processing_success", 250),
        ("a.exe", TEXT, "extraction_failed", 0),
        ("a.txt", bytes(range(256)) * 4, "extraction_failed", 0),
        ("a.txt", b"", "content_validation_failed", 0),
        ("a.txt", b"short", "content_validation_failed", 0),
        ("a.txt", b"x" * 50_001, "content_validation_failed", 0),
    ],
)
def test_a_file_s_line_has_every_key(world, heard, name, data, status, took):
    world.files.content = Clocked(world)
    world.files.accept("batch-1", [UploadedFile(name, data)], "corr-1")
    world.settle()
    expected = {"corr_id": "corr-1", "batch_id": "batch-1", "phase": "file", "status": status, "duration_ms": took}
    assert lines(heard, "file") == [("INFO", expected)]


def test_a_lost_raw_file_s_line_has_every_key(world, heard):
    world.files.content = Clocked(world, ContentType.RAW_UPLOAD_BLOB, StorageFullError("no space"))
    world.files.accept("batch-1", [UploadedFile("a.txt", TEXT)], "corr-1")
    expected = {
        "corr_id": "corr-1", "batch_id": "batch-1", "phase": "raw", "status": "raw_storage_failed", "duration_ms": 250,
        "error": "StorageFullError",
    }  # fmt: skip
    assert lines(heard, "raw") == [("WARNING", expected)]


def test_a_lost_file_s_line_names_a_wrong_return_value(world, heard):
    world.files.content = Clocked(world)
    world.files.content.store_content = lambda *_: None
    world.files.accept("batch-1", [UploadedFile("a.txt", TEXT)])
    ((_, line),) = lines(heard, "raw")
    assert (line["corr_id"], line["error"]) == (None, "ContentRefusedError")


def test_a_job_that_is_given_up_has_a_line_with_every_key(world, heard):
    world.files.content = Clocked(world, ContentType.EXTRACTED_PLAINTEXT, TransientError("away"))
    world.files.accept("batch-1", [UploadedFile("a.txt", TEXT)], "corr-1")
    accepted = world.clock.now_us()
    world.settle()
    ((level, line),) = lines(heard, "file")
    assert level == "WARNING"
    assert line.pop("duration_ms") == (world.clock.now_us() - accepted) // 1000 > 250  # since it was accepted
    assert line == {
        "corr_id": "corr-1", "batch_id": "batch-1", "phase": "file", "status": "processing_error",
        "error": "TEXT_STORAGE_FAILED",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("failing", "status", "took"),
    [
        (None, "processing_success", 500),
        (ContentType.RAW_UPLOAD_BLOB, "raw_storage_failed", 250),
        (ContentType.EXTRACTED_PLAINTEXT, "processing_error", 500),
    ],
)
def test_receive_writes_the_same_line(world, heard, failing, status, took):
    world.files.content = Clocked(world, failing, KeyError("x"))
    world.files.receive("batch-1", "a.txt", TEXT, "corr-1")
    level = "INFO" if failing is None else "WARNING"
    expected = {"corr_id": "corr-1", "batch_id": "batch-1", "phase": "file", "status": status, "duration_ms": took}
    assert lines(heard, "file") == [(level, expected)]


def test_a_slot_s_and_a_batch_s_line_have_every_key(world, heard):
    world.register("batch-1", 2)
    world.settle()
    world.clock.advance_us(3 * SECOND)
    world.files.accept("batch-1", [UploadedFile("a.txt", TEXT), UploadedFile("b.txt", TEXT)], "corr-2")
    world.settle()
    common = {"corr_id": "corr", "batch_id": "batch-1"}
    assert lines(heard, "slot") == [
        ("INFO", {**common, "phase": "slot", "status": "assigned", "essay_id": f"batch-1-{n}"}) for n in (1, 2)
    ]
    assert lines(heard, "batch") == [("INFO", {**common, "phase": "batch", "status": "complete", "duration_ms": 3000})]


def test_a_time_out_s_line_has_every_key(world, heard, clock):
    world.register("batch-1", 2)
    world.settle()
    clock.advance_us(int(READY_TIMEOUT_S * SECOND))
    world.tracker.check_timeouts()
    expected = {
        "corr_id": "corr", "batch_id": "batch-1", "phase": "batch", "status": "timed_out", "duration_ms": 900_000
    }  # fmt: skip
    assert lines(heard, "batch") == [("INFO", expected)]


# --- metrics


def test_the_metrics_of_a_batch_have_their_names_labels_and_seconds(world, clock):
    world.register("done", 1)
    world.register("late", 1)
    world.settle()
    clock.advance_us(4 * SECOND)
    world.files.accept("done", [UploadedFile("a.txt", TEXT)])
    world.settle()
    clock.advance_us(900 * SECOND)
    assert world.tracker.check_timeouts() == 1
    shown = world.metrics.render()
    for line in (
        "# TYPE batch_completion_seconds histogram",
        'batch_completion_seconds_sum{status="complete"} 4',
        'batch_completion_seconds_count{status="complete"} 1',
        'batch_completion_seconds_sum{status="timed_out"} 904',
        'batch_completion_seconds_count{status="timed_out"} 1',
    ):
        assert f"{line}\n" in shown


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("a.txt", b"", "EMPTY_CONTENT"),
        ("a.txt", b"short", "CONTENT_TOO_SHORT"),
        ("a.txt", b"x" * 50_001, "CONTENT_TOO_LONG"),
        ("a.txt", bytes(range(256)) * 4, "ENCODING_ERROR"),
        ("a.exe", TEXT, "UNSUPPORTED_FORMAT"),
        ("a.pdf", TEXT, "CORRUPTED_FILE"),
    ],
)
def test_the_failure_metric_has_its_name_and_label(world, name, data, code):
    world.files.accept("b", [UploadedFile(name, data)])
    world.settle()
    assert world.metrics.render().startswith(
        f'# TYPE essay_validation_failed_total counter\nessay_validation_failed_total{{error_code="{code}"}} 1\n'
    )


@pytest.mark.parametrize(
    ("length", "code"),
    [(0, "EMPTY_CONTENT"), (1, "CONTENT_TOO_SHORT"), (49, "CONTENT_TOO_SHORT"), (50, None), (50_000, None),
     (50_001, "CONTENT_TOO_LONG")],
)  # fmt: skip
def test_the_limits_of_a_text_are_inclusive(length, code):
    assert validate_text(f" \n{'x' * length}\t") == code


def test_a_text_of_the_wrong_length_is_told_the_limits(world):
    event = world.files.receive("b", "a.txt", b" short ")
    assert event["validation_error_message"] == "a text has 50 to 50000 characters, this one 5"


# --- events


def test_the_events_of_uploads_have_their_names_and_sources(world):
    world.register("b", 1)
    world.files.accept("b", [UploadedFile("a.txt", TEXT), UploadedFile("b.txt", TEXT), UploadedFile("c.txt", b"")])
    world.settle()
    rows = world.store.db.execute("SELECT topic, body FROM outbox WHERE topic <> 'uploads.files' ORDER BY id")
    found = {topic: json.loads(body) for topic, body in rows}
    names = {
        REGISTERED: ("huleedu.batch.essays.registered.v1", "batch.essays.registered", "file-service"),
        FINISHED: ("huleedu.file.essay.upload.finished.v1", "essay.upload.finished", "file-service"),
        PROVISIONED: ("huleedu.file.essay.content.provisioned.v1", "essay.content.provisioned", "file-service"),
        FAILED: ("huleedu.file.essay.validation.failed.v1", "essay.validation.failed", "file-service"),
        READY: ("huleedu.els.batch.essays.ready.v1", "batch.essays.ready", "essay-lifecycle-service"),
        EXCESS: ("huleedu.els.excess.content.provisioned.v1", "excess.content.provisioned", "essay-lifecycle-service"),
    }
    assert found.keys() == names.keys()
    for topic, body in found.items():
        assert (topic, body["data"]["event"], body["source_service"]) == names[topic]
        assert (body["event_type"], body["schema_version"]) == (topic, 1)
        assert body["event_timestamp"] == ("2026-05-01T00:00:00Z" if topic == REGISTERED else "2026-05-28T20:26:40Z")
    assert found[FINISHED]["data"]["upload_ts"] == "2026-05-28T20:26:40Z"
    provisioned = found[PROVISIONED]["data"]
    assert provisioned["content_md5_hash"] == hashlib.md5(TEXT, usedforsecurity=False).hexdigest()
    assert (provisioned["timestamp"], provisioned["file_size_bytes"]) == ("2026-05-28T20:26:40Z", len(TEXT))
    failed = found[FAILED]["data"]
    assert (failed["timestamp"], failed["file_size_bytes"]) == ("2026-05-28T20:26:40Z", 0)


def finished(**more):
    data = {"event": "essay.upload.finished", "batch_id": "b", "expected_count": 2, "upload_ts": "t1", **more}
    return {"event_id": "random", "event_type": FINISHED, "data": data}


def received(world):
    return world.store.load_state("uploads.batch.b")["received_count_from_uploads"]


def test_the_task_list_s_upload_finished_is_accepted_as_specified(world):
    """event, batch_id, expected_count, upload_ts, correlation_id?: other producers name no upload."""
    model = EssayUploadFinishedV1(batch_id="b", expected_count=2, upload_ts="t1")
    assert model.upload_id is None
    for n, body in enumerate([finished(), finished(), envelope(FINISHED, model, "now")]):
        world.store.publish(FINISHED, "k", {**body, "event_id": f"random-{n}"})  # a producer's retry has a new id
    world.settle()
    assert received(world) == 2
    for body in (
        finished(upload_ts="t2"), finished(expected_count=3), finished(correlation_id="c"), finished(upload_id="u"),
        finished(upload_id="v"), finished(upload_id="v", upload_ts="t3"),
    ):  # fmt: skip
        world.store.publish(FINISHED, "k", body)
    world.settle()
    assert received(world) == 2 + 2 + 3 + 2 + 2 + 2
    assert world.store.count("SELECT count(*) FROM dead_letters") == 0


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "data: expected an object with the event"),
        ({"data": []}, "data: expected an object with the event"),
        ({"data": {"event": "batch.essays.registered", "expected_count": 1}}, "batch_id: expected text"),
        ({"data": {"event": "batch.essays.registered", "batch_id": "", "expected_count": 1}}, "batch_id: expected text"),
        ({"data": {"event": "batch.essays.registered", "batch_id": "b", "expected_count": 0}},
         "expected_count: expected a whole number of at least 1"),
        (finished(expected_count="2"), "expected_count: expected a whole number of at least 0"),
        (finished(expected_count=True), "expected_count: expected a whole number of at least 0"),
        (finished(expected_count=-1), "expected_count: expected a whole number of at least 0"),
        ({"event_id": "1", "data": {"event": "essay.content.provisioned", "batch_id": "b", "text_storage_id": "t"}},
         "raw_file_storage_id: expected text"),
        ({"data": {"event": "essay.validation.failed", "batch_id": "b"}}, "event_id: expected text, to know the event by"),
        ({"event_id": "", "data": {"event": "essay.validation.failed", "batch_id": "b"}},
         "event_id: expected text, to know the event by"),
        ({"event_id": "1", "data": {"event": "something.else", "batch_id": "b"}}, "not an event of an essay batch"),
    ],
)  # fmt: skip
def test_an_event_that_cannot_be_counted_is_refused_by_a_sentence(world, body, sentence):
    with pytest.raises(InvalidInputError) as caught, world.store.transaction() as tx:
        event_key(body)
        world.tracker.handle(body, tx)
    assert str(caught.value) == sentence
    assert world.store.load_state("uploads.batch.b") is None


def test_an_upload_of_no_files_is_counted(world):
    world.store.publish(FINISHED, "k", finished(expected_count=0))
    world.settle()
    assert received(world) == 0


def test_the_words_of_the_contracts_are_those_of_the_spec():
    assert [kind.value for kind in ContentType] == [
        "original_essay", "corrected_text", "processing_log", "nlp_metrics_json", "student_facing_ai_feedback_text",
        "ai_editor_revision_text", "ai_detailed_analysis_json", "grammar_analysis_json", "cj_results_json",
        "raw_upload_blob", "extracted_plaintext",
    ]  # fmt: skip
    assert [code.value for code in ErrorCode] == [
        "EMPTY_CONTENT", "CONTENT_TOO_SHORT", "CONTENT_TOO_LONG", "INVALID_FORMAT", "ENCODING_ERROR",
        "RAW_STORAGE_FAILED", "TEXT_STORAGE_FAILED", "TEXT_EXTRACTION_FAILED", "UNSUPPORTED_FORMAT", "CORRUPTED_FILE",
        "ENCRYPTED_FILE_UNSUPPORTED", "TIMEOUT", "UNKNOWN_VALIDATION_ERROR",
    ]  # fmt: skip
    assert [code.name for code in ErrorCode] == [code.value for code in ErrorCode]
    assert [kind.name.lower() for kind in ContentType] == [kind.value for kind in ContentType]


PROVISIONED_FIELDS = {
    "batch_id": "b", "original_file_name": "a", "raw_file_storage_id": "r", "text_storage_id": "t",
    "file_size_bytes": 0, "timestamp": "t",
}  # fmt: skip
FAILED_FIELDS = {
    "batch_id": "b", "original_file_name": "a", "raw_file_storage_id": "r", "validation_error_code": "TIMEOUT",
    "validation_error_message": "m", "file_size_bytes": 0, "timestamp": "t",
}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "fields", "event", "number"),
    [
        (EssayContentProvisionedV1, PROVISIONED_FIELDS, "essay.content.provisioned", "file_size_bytes"),
        (EssayValidationFailedV1, FAILED_FIELDS, "essay.validation.failed", "file_size_bytes"),
        (EssayUploadFinishedV1, {"batch_id": "b", "expected_count": 0, "upload_ts": "t"}, "essay.upload.finished",
         "expected_count"),
        (BatchEssaysRegisteredV1, {"batch_id": "b", "expected_count": 1}, "batch.essays.registered", "expected_count"),
    ],
)  # fmt: skip
def test_a_contract_takes_its_fields_and_nothing_else(model, fields, event, number):
    made = model.model_validate(fields)
    assert made.event == event
    assert made.correlation_id is None
    with pytest.raises(ValidationError):
        model.model_validate({**fields, "more": 1})
    with pytest.raises(ValidationError):
        model.model_validate({**fields, number: fields[number] - 1})
    with pytest.raises(ValidationError):
        model.model_validate({**fields, "event": "other"})
    for name in fields:
        with pytest.raises(ValidationError):
            model.model_validate({key: value for key, value in fields.items() if key != name})
    with pytest.raises(ValidationError):
        made.batch_id = "changed"


def test_an_envelope_has_a_random_id_and_may_be_given_one():
    event = BatchEssaysRegisteredV1(batch_id="b", expected_count=1, correlation_id="c")
    first, second = envelope(REGISTERED, event, "now"), envelope(REGISTERED, event, "now", "me", "mine")
    assert (len(first.pop("event_id")), second.pop("event_id")) == (36, "mine")
    data = {"event": "batch.essays.registered", "batch_id": "b", "expected_count": 1, "correlation_id": "c"}
    common = {
        "event_type": REGISTERED, "event_timestamp": "now", "schema_version": 1, "correlation_id": "c", "data": data
    }  # fmt: skip
    assert first == {**common, "source_service": "file-service"}
    assert second == {**common, "source_service": "me"}
    failed = envelope(FAILED, EssayValidationFailedV1(**FAILED_FIELDS), "now")["data"]
    assert type(failed["validation_error_code"]) is str  # plain JSON, no enum


# --- batches


def test_a_batch_ends_at_its_time_and_not_before(world, store, clock):
    tracker = BatchTracker(store, clock)
    assert tracker.ready_timeout_s == READY_TIMEOUT_S == 900
    world.register("b", 2)
    world.settle()
    clock.advance_us(900 * SECOND - 1)
    assert tracker.check_timeouts() == 0
    clock.advance_us(1)
    assert tracker.check_timeouts() == 1
    (ready,) = world.events(READY)
    assert (ready["status"], ready["expected_count"], ready["missing_count"], ready["correlation_id"]) == (
        "timed_out", 2, 2, "corr"
    )  # fmt: skip


def test_the_time_of_a_batch_can_be_chosen(store, clock):
    tracker = BatchTracker(store, clock, ready_timeout_s=2.5)
    with store.transaction() as tx:
        tracker.handle(finished(), tx)
    clock.advance_us(2_499_999)
    assert tracker.check_timeouts() == 0
    clock.advance_us(1)
    assert tracker.check_timeouts() == 1


def test_what_handling_an_event_returns_is_the_batch_s_counts(store, clock):
    tracker = BatchTracker(store, clock)
    text = EssayContentProvisionedV1(
        batch_id="b", original_file_name="a", raw_file_storage_id="r", text_storage_id="t", file_size_bytes=1,
        timestamp="t",
    )  # fmt: skip
    with store.transaction() as tx:
        registered = {"data": {"event": "batch.essays.registered", "batch_id": "b", "expected_count": 1}}
        tracker.handle(registered, tx)
        found = tracker.handle(envelope(PROVISIONED, text, "t"), tx)
    assert found == {"expected": 1, "failed": 0, "status": "complete", "received_count_from_uploads": 0, "essays": 1}


def test_the_consumers_have_their_names_topics_and_options(world):
    consumer = world.files.consumer(lease_s=7)
    assert (consumer.name, consumer.topic, consumer.lease_s) == ("file-service", "uploads.files", 7)
    assert world.files.consumer("mine").name == "mine"
    found = world.tracker.consumers(max_attempts=9)
    assert {c.topic for c in found} == {REGISTERED, PROVISIONED, FAILED, FINISHED}
    assert {(c.name, c.max_attempts) for c in found} == {("batches", 9)}
    assert all(isinstance(c, Consumer) for c in found)
    assert isinstance(world.store, LocalStore)
