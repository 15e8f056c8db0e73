"""Raw first, an event for every outcome, batches that are complete whatever order things come in."""

from __future__ import annotations

import io
import itertools
import json
import random
import threading
import time

import pytest

from headgate import Ledger
from headgate.consume import Consumer, Worker
from headgate.errors import StorageFullError, TransientError
from headgate.pipelines.uploads import (
    BatchEssaysRegisteredV1,
    ContentType,
    ErrorCode,
    EssayContentProvisionedV1,
    EssayUploadFinishedV1,
    EssayValidationFailedV1,
    ExtractionError,
    FileService,
    UploadedFile,
    envelope,
    extract_text,
    replay_uploads,
)
from headgate.pipelines.uploads.contracts import EXCESS, FAILED, FINISHED, PROVISIONED, READY, REGISTERED
from headgate.pipelines.uploads.service import JOBS

TEXT = b"An essay of more than fifty characters, about canals and gates."
SECOND = 1_000_000


# --- one file


def test_the_raw_file_is_stored_before_it_is_read(world, monkeypatch):
    calls = []
    real = world.content.store_content
    monkeypatch.setattr(world.content, "store_content", lambda data, kind: calls.append(kind) or real(data, kind))
    monkeypatch.setattr(
        "headgate.pipelines.uploads.examination.extract_text", lambda *_: calls.append("extract") or TEXT.decode()
    )
    world.files.receive("b", "a.txt", TEXT)
    assert calls == [ContentType.RAW_UPLOAD_BLOB, "extract", ContentType.EXTRACTED_PLAINTEXT]


def test_a_file_received_twice_is_announced_once(world):
    first = world.files.receive("b", "a.txt", TEXT, "corr")
    world.clock.advance_us(SECOND)
    assert world.files.receive("b", "a.txt", TEXT, "another try") == first
    assert world.events(PROVISIONED) == [first]
    short = world.files.receive("b", "b.txt", b" short ")
    assert world.files.receive("b", "b.txt", b" short ") == short
    assert len(world.events(FAILED)) == 1
    for other in [("c", "a.txt", TEXT), ("b", "c.txt", TEXT), ("b", "a.txt", TEXT + b"!")]:
        world.files.receive(*other)
    assert len(world.events(PROVISIONED)) == 4


def test_a_file_that_could_not_be_stored_is_received_again(world, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(world.content, "store_content", lambda *_: (_ for _ in ()).throw(OSError("full")))
        assert world.files.receive("b", "a.txt", TEXT)["raw_file_storage_id"] == "STORAGE_FAILED"
    assert "text_storage_id" in world.files.receive("b", "a.txt", TEXT)
    assert (len(world.events(FAILED)), len(world.events(PROVISIONED))) == (1, 1)


def test_a_good_file(world):
    world.files.accept("b", [UploadedFile("a.txt", TEXT)], "corr")
    world.settle()
    (event,) = world.events(PROVISIONED)
    EssayContentProvisionedV1.model_validate(event)
    assert world.content.fetch_content(event["raw_file_storage_id"]) == TEXT
    assert world.content.fetch_content(event["text_storage_id"]) == TEXT
    assert (event["correlation_id"], event["file_size_bytes"]) == ("corr", len(TEXT))
    (body,) = [
        json.loads(b) for (b,) in world.store.db.execute("SELECT body FROM outbox WHERE topic = ?", (PROVISIONED,))
    ]
    assert set(body) == {
        "event_id",
        "event_type",
        "event_timestamp",
        "source_service",
        "schema_version",
        "correlation_id",
        "data",
    }
    assert body["event_type"] == PROVISIONED


@pytest.mark.parametrize(
    ("name", "data", "code", "detail"),
    [
        ("a.txt", b"", "EMPTY_CONTENT", "0"),
        ("a.txt", b"  \n", "EMPTY_CONTENT", "0"),
        ("a.txt", b"short", "CONTENT_TOO_SHORT", "5"),
        ("a.txt", b"x" * 50_001, "CONTENT_TOO_LONG", "50001"),
        ("a.txt", bytes(range(256)) * 4, "ENCODING_ERROR", "encoding"),
        ("a.exe", TEXT, "TEXT_EXTRACTION_FAILED", "UNSUPPORTED_FORMAT"),
        ("a.pdf", TEXT, "TEXT_EXTRACTION_FAILED", "CORRUPTED_FILE"),
        ("a.docx", b"PK\x03\x04 no archive", "TEXT_EXTRACTION_FAILED", "CORRUPTED_FILE"),
    ],
)
def test_every_failure_is_announced_with_the_raw_id(world, name, data, code, detail):
    world.files.accept("b", [UploadedFile(name, data)])
    world.settle()
    (event,) = world.events(FAILED)
    EssayValidationFailedV1.model_validate(event)
    assert event["validation_error_code"] == code
    assert detail in event["validation_error_message"]
    assert world.content.fetch_content(event["raw_file_storage_id"]) == data
    # The event has the contract's code, the metric the extractor's own.
    counted = detail if code == "TEXT_EXTRACTION_FAILED" else code
    assert world.metrics.value("essay_validation_failed_total", error_code=counted) == 1
    assert world.metrics.value("essay_validation_failed_total") == 1


def test_a_failing_raw_store_is_announced_too(world, monkeypatch):
    def full(*_):
        raise StorageFullError("no space")

    monkeypatch.setattr(world.content, "store_content", full)
    world.files.accept("b", [UploadedFile("a.txt", TEXT)])
    world.settle()
    (event,) = world.events(FAILED)
    assert (event["validation_error_code"], event["raw_file_storage_id"]) == ("RAW_STORAGE_FAILED", "STORAGE_FAILED")


def test_a_text_store_that_recovers_costs_nothing_and_one_that_does_not_is_announced(world, monkeypatch):
    """The original emitted nothing here, and the batch waited for ever."""
    real, broken = world.content.store_content, [1]

    def flaky(data, kind):
        if kind is ContentType.EXTRACTED_PLAINTEXT and broken:
            broken.pop()
            raise TransientError("away")
        return real(data, kind)

    monkeypatch.setattr(world.content, "store_content", flaky)
    world.files.accept("b", [UploadedFile("a.txt", TEXT)])
    world.settle()
    assert len(world.events(PROVISIONED)) == 1
    broken += [1] * 10
    world.files.accept("b", [UploadedFile("b.txt", TEXT + b"2")])
    world.settle()
    (event,) = world.events(FAILED)
    assert event["validation_error_code"] == "TEXT_STORAGE_FAILED"
    assert event["raw_file_storage_id"].startswith("content/raw_upload_blob/")
    assert world.store.count("SELECT count(*) FROM dead_letters") == 1


def test_a_repeated_request_does_nothing_twice(world):
    files = [UploadedFile("a.txt", TEXT), UploadedFile("a.txt", TEXT)]  # two equal files are two essays
    for correlation in ("first", "again"):
        world.files.accept("b", files, correlation)
    world.settle()
    assert len(world.events(PROVISIONED)) == 2
    world.register("b", 2)
    world.settle()
    assert world.events(READY)[0]["expected_count"] == 2
    assert world.store.load_state("uploads.batch.b")["received_count_from_uploads"] == 2


# --- extractors


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom", "utf-32", "cp1251", "iso-8859-1", "shift_jis"]
)
def test_text_in_other_encodings_is_read_whole(encoding):
    texts = {
        "cp1251": "Съешь ещё этих мягких французских булок, да выпей чаю. " * 8,
        "iso-8859-1": "Där går en älg över ängen, och på en ö sitter en åldrig fågel och sjunger. " * 8,
        "shift_jis": "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。" * 8,
    }
    text = texts.get(encoding, "Zażółć gęślą jaźń — naïve café, 😀. " * 4)
    data = (
        "\ufeff".encode("utf-16-le") + text.encode("utf-16-le")
        if encoding == "utf-16-le-bom"
        else text.encode(encoding)
    )
    assert extract_text("a.txt", data) == text


def test_word_documents_are_read():
    docx = pytest.importorskip("docx")
    document = docx.Document()
    document.add_paragraph("First paragraph — with a dash.")
    table = document.add_table(1, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "left", "right"
    out = io.BytesIO()
    document.save(out)
    assert extract_text("A.DOCX", out.getvalue()) == "First paragraph — with a dash.\nleft\tright"


def pdf(text, password=None):
    pypdf = pytest.importorskip("pypdf")
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = pypdf.PdfWriter()
    page = writer.add_blank_page(300, 300)
    font = DictionaryObject({
        NameObject("/Type"): NameObject("/Font"), NameObject("/Subtype"): NameObject("/Type1"),
        NameObject("/BaseFont"): NameObject("/Helvetica"),
    })  # fmt: skip
    page[NameObject("/Resources")] = DictionaryObject(
        {NameObject("/Font"): DictionaryObject({NameObject("/F1"): writer._add_object(font)})}
    )
    stream = DecodedStreamObject()
    stream.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode())
    page[NameObject("/Contents")] = writer._add_object(stream)
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_pdfs_are_read():
    assert extract_text("a.pdf", pdf("Hello from a page")).strip() == "Hello from a page"


def test_an_encrypted_pdf_is_named():
    with pytest.raises(ExtractionError) as caught:
        extract_text("a.pdf", pdf("secret", "key"))
    assert caught.value.code is ErrorCode.ENCRYPTED_FILE_UNSUPPORTED


def test_an_extractor_that_hangs_is_abandoned():
    release = threading.Event()

    class Hangs:
        def extract(self, data):
            release.wait(30)
            return ""

    class Breaks:
        def extract(self, data):
            raise RuntimeError("no")

    started = time.monotonic()
    with pytest.raises(ExtractionError) as caught:
        extract_text("a.x", b"", {".x": Hangs()}, timeout_s=0.05)
    assert caught.value.code is ErrorCode.TIMEOUT
    assert time.monotonic() - started < 5
    release.set()
    with pytest.raises(ExtractionError) as caught:
        extract_text("a.x", b"", {".x": Breaks()})
    assert caught.value.code is ErrorCode.TEXT_EXTRACTION_FAILED


# --- batches (spec 004, section 7)


def good(n):
    return [UploadedFile(f"essay{i}.txt", TEXT + str(i).encode()) for i in range(n)]


def test_three_good_and_one_empty_are_ready_with_three(world):
    world.register("b", 4)
    world.files.accept("b", [*good(3), UploadedFile("empty.txt", b"")], "corr")
    world.settle()
    (ready,) = world.events(READY)
    assert (ready["status"], len(ready["essays"]), ready["failed_count"], ready["missing_count"]) == (
        "complete",
        3,
        1,
        0,
    )
    assert len({essay["essay_id"] for essay in ready["essays"]}) == 3
    assert "batch_completion_seconds_count" in world.metrics.render()


def test_nine_for_seven_give_two_excess_events(world):
    world.register("b", 7)
    world.files.accept("b", good(9))
    world.settle()
    (ready,) = world.events(READY)
    assert len(ready["essays"]) == 7
    excess = world.events(EXCESS)
    assert len(excess) == 2
    used = {essay["text_storage_id"] for essay in ready["essays"]}
    assert not used & {event["text_storage_id"] for event in excess}


def test_five_of_seven_are_announced_when_their_time_is_over(world, clock):
    world.register("b", 7)
    world.files.accept("b", good(5))
    world.settle()
    assert world.events(READY) == []
    assert world.tracker.check_timeouts() == 0
    clock.advance_us(900 * SECOND)
    assert world.tracker.check_timeouts() == 1
    assert world.tracker.check_timeouts() == 0
    (ready,) = world.events(READY)
    assert (ready["status"], len(ready["essays"]), ready["missing_count"]) == ("timed_out", 5, 2)
    # What comes after is excess.
    world.files.accept("b", [UploadedFile("late.txt", TEXT + b"late")])
    world.settle()
    assert len(world.events(READY)) == 1
    assert len(world.events(EXCESS)) == 1


def test_a_duplicate_publish_changes_the_state_once(world):
    world.register("b", 2)
    event = EssayContentProvisionedV1(
        batch_id="b",
        original_file_name="a",
        raw_file_storage_id="r",
        text_storage_id="t",
        file_size_bytes=1,
        timestamp="t",
    )
    message = envelope(PROVISIONED, event, "t")
    for _ in range(3):
        world.store.publish(PROVISIONED, "k", message)
    world.settle()
    batch = world.store.load_state("uploads.batch.b")
    assert (len(batch["essays"]), batch["status"]) == (1, "waiting")


def test_a_batch_that_nobody_registered_is_announced_too(world, clock):
    world.files.accept("b", good(2))
    world.settle()
    clock.advance_us(901 * SECOND)
    world.tracker.check_timeouts()
    (ready,) = world.events(READY)
    assert (ready["expected_count"], len(ready["essays"]), ready["missing_count"]) == (2, 2, 0)


@pytest.mark.parametrize("seed", range(20))
def test_every_order_of_events_gives_the_same_batch(world, seed):
    """Registration, two requests, five good files and one bad one, each delivered up to three times in any order."""
    messages = [(REGISTERED, BatchEssaysRegisteredV1(batch_id="b", expected_count=6))]
    messages += [
        (FINISHED, EssayUploadFinishedV1(batch_id="b", upload_id=str(i), expected_count=3, upload_ts="t"))
        for i in range(2)
    ]
    messages += [
        (PROVISIONED, EssayContentProvisionedV1(batch_id="b", original_file_name=f"{i}", raw_file_storage_id=f"r{i}",
                                                text_storage_id=f"t{i}", file_size_bytes=1, timestamp="t"))
        for i in range(5)
    ]  # fmt: skip
    messages.append((FAILED, EssayValidationFailedV1(
        batch_id="b", original_file_name="x", raw_file_storage_id="rx", validation_error_code="EMPTY_CONTENT",
        validation_error_message="m", file_size_bytes=0, timestamp="t",
    )))  # fmt: skip
    rng = random.Random(seed)
    sent = [(topic, envelope(topic, event, "t")) for topic, event in messages]
    deliveries = list(itertools.chain.from_iterable([m] * rng.randint(1, 3) for m in sent))
    rng.shuffle(deliveries)
    for topic, body in deliveries:
        world.store.publish(topic, "k", body)
        if rng.random() < 0.5:
            world.settle()
    world.settle()
    (ready,) = world.events(READY)
    assert (ready["status"], ready["failed_count"], ready["missing_count"]) == ("complete", 1, 0)
    assert sorted(essay["text_storage_id"] for essay in ready["essays"]) == [f"t{i}" for i in range(5)]
    assert world.events(EXCESS) == []
    assert world.store.load_state("uploads.batch.b")["received_count_from_uploads"] == 6


class Reads:
    """An extractor of one function."""

    def __init__(self, extract):
        self.extract = extract


NEWER = {".essay": Reads(bytes.decode), ".txt": Reads(bytes.decode)}


def replayed(world, extractors=NEWER, **options):
    service = FileService(world.content, world.store, world.clock, extractors=extractors)
    found = replay_uploads(service, world.store, **options)
    assert found.files == found.unchanged + found.mended + found.improved + found.kept + found.missing
    world.settle()
    return found


def test_a_newer_extractor_mends_what_had_failed_and_nothing_doubles(world):
    world.register("b", 2)
    world.files.accept("b", [UploadedFile("good.txt", TEXT), UploadedFile("new.essay", TEXT * 2)])
    world.register("open", 3)
    world.files.accept("open", [UploadedFile("new.essay", TEXT * 2), UploadedFile("empty.txt", b"")], upload_id="u")
    world.settle()
    assert (len(world.events(PROVISIONED)), len(world.events(FAILED))) == (1, 3)
    assert replayed(world, dry_run=True).mended == 2
    assert len(world.events(PROVISIONED)) == 1
    found = replayed(world, batch_id="open")
    assert found.to_dict() == {"files": 2, "unchanged": 1, "mended": 1, "improved": 0, "kept": 0, "missing": 0}
    # The batch that still waits counts the file once, as content.
    batch = world.store.load_state("uploads.batch.open")
    assert (batch["failed"], len(batch["essays"]), batch["status"]) == (1, 1, "waiting")
    # The one that was announced gets it as excess.
    assert replayed(world).mended == 1
    assert [e["batch_id"] for e in world.events(EXCESS)] == ["b"]
    assert replayed(world).unchanged == 4
    assert (len(world.events(PROVISIONED)), len(world.events(FAILED)), len(world.events(READY))) == (3, 3, 1)


def test_a_better_text_takes_the_place_of_the_first_and_nothing_is_taken_back(world):
    world.register("b", 2)
    world.files.accept("b", [UploadedFile("good.txt", TEXT)])
    world.settle()
    (first,) = world.events(PROVISIONED)
    assert replayed(world, {".txt": Reads(lambda data: "short")}).kept == 1
    assert replayed(world, {".txt": Reads(lambda data: data.decode().upper())}).improved == 1
    (essay,) = world.store.load_state("uploads.batch.b")["essays"]
    assert essay["text_storage_id"] != first["text_storage_id"]
    assert world.content.fetch_content(essay["text_storage_id"]) == TEXT.upper()
    # The way back is an event of its own, not a duplicate of the first; so is the way there again.
    for better in (TEXT, TEXT.upper()):
        assert replayed(world, {".txt": Reads(lambda data, text=better: text.decode())}).improved == 1
        (essay,) = world.store.load_state("uploads.batch.b")["essays"]
        assert world.content.fetch_content(essay["text_storage_id"]) == better
    assert world.events(FAILED) == world.events(EXCESS) == []


def test_two_replays_at_once_announce_once(world):
    world.files.accept("b", [UploadedFile("new.essay", TEXT * 2)])
    world.settle()

    class Slow:
        def extract(self, data):
            newer = FileService(world.content, world.store, world.clock, extractors=NEWER)
            if not world.events(PROVISIONED):
                assert replay_uploads(newer, world.store).mended == 1
            return data.decode()

    assert replayed(world, {".essay": Slow()}).mended == 1  # it found so; the other one had announced it
    assert len(world.events(PROVISIONED)) == 1


def test_a_raw_file_that_was_pruned_is_said(world):
    world.files.accept("b", [UploadedFile("new.essay", TEXT)])
    world.settle()
    world.content.objects.remove(world.events(FAILED)[0]["raw_file_storage_id"])
    assert replayed(world).missing == 1


def test_a_failure_that_arrives_after_its_mending_counts_nothing(world):
    """Events of two topics come in any order."""
    world.files.accept("b", [UploadedFile("new.essay", TEXT * 2)], upload_id="u")
    world.store.relay_outbox({JOBS: ["file-service"]})
    world.workers[0].drain()
    service = FileService(world.content, world.store, world.clock, extractors=NEWER)
    assert replay_uploads(service, world.store).mended == 1
    failed, mended = (
        json.loads(body)
        for (body,) in world.store.db.execute(
            "SELECT body FROM outbox WHERE topic IN (?, ?) ORDER BY id", (FAILED, PROVISIONED)
        )
    )
    with world.store.transaction() as tx:
        for body in (mended, failed):
            world.tracker.handle(body, tx)
    batch = world.store.load_state("uploads.batch.b")
    assert (batch["failed"], len(batch["unassigned"])) == (0, 1)


def test_foreign_events_go_to_the_dead_letters(world):
    world.store.publish(PROVISIONED, "k", {"event_id": "1", "data": {"event": "something.else", "batch_id": "b"}})
    world.store.publish(PROVISIONED, "k", {"event_id": "2", "data": {"event": "essay.content.provisioned"}})
    world.store.publish(PROVISIONED, "k", {"data": {}})
    world.settle()
    assert world.store.count("SELECT count(*) FROM dead_letters") == 3


def test_slow_preparation_stays_outside_the_transaction(store, clock):
    seen = []
    consumer = Consumer(
        "c", "t", lambda given, tx: seen.append((given, store.db.native.in_transaction)),
        prepare=lambda body: (body["n"] + 1, store.db.native.in_transaction),
    )  # fmt: skip
    store.publish("t", "k", {"n": 1})
    store.relay_outbox({"t": ["c"]})
    Worker(consumer, store, Ledger.on_database(store.db, clock=clock), clock).drain()
    assert seen == [((2, False), True)]
