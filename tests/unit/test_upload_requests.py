"""An Idempotency-Key belongs to its request; a file that was lost and sent again has one outcome."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from headgate import _native
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.backends.retention import Retention, prune
from headgate.errors import ConflictError, InvalidInputError, Kind, StorageFullError, TransientError
from headgate.identity import event_id
from headgate.pipelines.uploads import (
    BatchEssaysRegisteredV1,
    ContentType,
    FileService,
    UploadedFile,
    envelope,
    idempotency_key,
    replay_uploads,
)
from headgate.pipelines.uploads.contracts import EXCESS, FAILED, FINISHED, PROVISIONED, READY, REGISTERED
from headgate.pipelines.uploads.service import JOBS

DAY_US = 86_400_000_000
RAW_LOST = "RAW_STORAGE_FAILED"


def essay(word):
    return UploadedFile(f"{word}.txt", (word + " ").encode() * 20)


FIRST = [essay("first"), essay("second")]


def jobs(world):
    rows = world.store.db.execute("SELECT body FROM outbox WHERE topic = ? ORDER BY id", (JOBS,))
    return [json.loads(body)["data"] for (body,) in rows]


# --- the key and its request


def test_the_same_request_is_answered_as_before_and_does_nothing_twice(world):
    answers = [world.files.accept("b", FIRST, f"corr-{n}", "key-1") for n in range(3)]
    assert answers[0] == {"upload_id": "key-1", "files": 2, "stored": 2, "failed": 0, "correlation_id": "corr-0"}
    assert answers[1] == answers[2] == answers[0]
    world.settle()
    assert (len(jobs(world)), len(world.events(PROVISIONED)), len(world.events(FINISHED))) == (2, 2, 1)
    assert {event["correlation_id"] for event in world.events(PROVISIONED)} == {"corr-0"}
    assert world.files.accept("b", FIRST, "corr-9", "key-1") == answers[0]  # worked on meanwhile: no other answer


@pytest.mark.parametrize(
    ("batch", "files"),
    [
        ("other", FIRST),
        ("b", [essay("first")]),
        ("b", [essay("first"), essay("third")]),
        ("b", FIRST[::-1]),
        ("b", [FIRST[0], UploadedFile("renamed.txt", FIRST[1].data)]),
        ("b", [*FIRST, essay("third")]),
    ],
)
def test_another_request_under_a_key_is_refused_and_leaves_nothing(world, batch, files):
    world.files.accept("b", FIRST, "corr", "key-1")
    stored = []
    world.content.store_content = lambda *given: stored.append(given)
    with pytest.raises(ConflictError) as caught:
        world.files.accept(batch, files, "corr", "key-1")
    assert caught.value.kind is Kind.PAYLOAD_MISMATCH
    assert "key-1" not in str(caught.value)
    assert (stored, len(jobs(world))) == ([], 2)


def test_a_key_is_one_key_whatever_the_batch_and_other_keys_are_others(world):
    world.files.accept("b", FIRST, upload_id="key-1")
    world.files.accept("b", FIRST, upload_id="key-2")  # two requests on purpose: two times two essays
    world.files.accept("b", FIRST)
    world.settle()
    assert len(world.events(PROVISIONED)) == 6
    assert world.store.load_state("uploads.batch.b")["received_count_from_uploads"] == 6


def test_a_key_that_looks_like_a_request_without_one_is_another(world):
    unnamed = world.files.accept("b", FIRST)
    world.files.accept("other", [essay("third")], upload_id=unnamed["upload_id"])
    assert len(jobs(world)) == 3


def test_a_request_without_a_key_is_known_by_its_files(world):
    first = world.files.accept("b", FIRST, "corr-1")
    assert world.files.accept("b", FIRST, "corr-2") == first
    world.files.accept("b", FIRST[::-1], "corr-3")  # another request
    world.settle()
    assert len(world.events(PROVISIONED)) == 4


def test_what_is_remembered_of_a_request(world):
    flaky = world.files.content = Flaky(world.content, [FIRST[1].data])
    world.files.accept("b", FIRST, "corr", "key-1")
    ((name, document),) = world.store.states("uploads.request.")
    assert name == "uploads.request." + hashlib.sha256(b"key:key-1").hexdigest()
    contents = [[file.name, hashlib.sha256(file.data).hexdigest()] for file in FIRST]
    rows = world.store.db.execute("SELECT body FROM outbox WHERE topic = ?", (FAILED,))
    assert document == {
        "format": 1, "batch_id": "b", "digest": event_id({"batch_id": "b", "files": contents}), "files": 2,
        "correlation_id": "corr", "at_us": world.clock.now_us(), "lost": {"1": json.loads(rows[0][0])["event_id"]},
    }  # fmt: skip
    (job,) = jobs(world)
    assert job == {
        "upload_id": event_id({"upload_id": "key-1", "digest": document["digest"]}), "index": 0, "batch_id": "b",
        "original_file_name": "first.txt", "raw_file_storage_id": job["raw_file_storage_id"],
        "file_size_bytes": len(FIRST[0].data), "correlation_id": "corr", "accepted_us": document["at_us"],
    }  # fmt: skip
    (finished,) = world.events(FINISHED)
    assert finished == {
        "event": "essay.upload.finished", "batch_id": "b", "upload_id": job["upload_id"], "expected_count": 2,
        "upload_ts": "2026-05-28T20:26:40Z", "correlation_id": "corr",
    }  # fmt: skip
    (failed,) = world.events(FAILED)
    assert failed == {
        "event": "essay.validation.failed", "batch_id": "b", "original_file_name": "second.txt",
        "raw_file_storage_id": "STORAGE_FAILED", "validation_error_code": RAW_LOST,
        "validation_error_message": "the file could not be stored; please send it again",
        "file_size_bytes": len(FIRST[1].data), "correlation_id": "corr", "timestamp": "2026-05-28T20:26:40Z",
    }  # fmt: skip
    flaky.broken.clear()
    world.files.accept("b", FIRST, "corr", "key-1")
    lost = document["lost"]["1"]
    outcome = {"outcome": "failed", "code": RAW_LOST}
    assert jobs(world)[1]["replaces"] == {**outcome, "event_id": lost, "first": lost, "revision": 1}


def test_the_key_itself_is_kept_nowhere(world, caplog):
    caplog.set_level("DEBUG")
    world.files.accept("b", FIRST, "corr", "my-secret-key")
    world.settle()
    everything = world.store.db.execute("SELECT topic || key || body FROM outbox")
    everything += world.store.db.execute("SELECT name || doc FROM state")
    everything += world.store.db.execute("SELECT key FROM ledger")
    assert len(everything) > 8
    assert not [row for (row,) in everything if "my-secret-key" in row]
    assert "my-secret-key" not in str([record.__dict__ for record in caplog.records])


def test_a_request_whose_commit_failed_may_be_sent_again_or_changed(world, monkeypatch):
    def away(*_):
        raise TransientError("locked")

    monkeypatch.setattr(world.store, "publish", away)
    with pytest.raises(TransientError):
        world.files.accept("b", FIRST, "corr", "key-1")
    monkeypatch.undo()
    world.files.accept("other", FIRST, "corr", "key-1")
    assert len(jobs(world)) == 2


@pytest.mark.parametrize("point", ["uploads.after_raw", "uploads.after_jobs"])
def test_a_request_that_broke_off_is_whole_or_not_there(world, point):
    _native.set_faults(f"{point}:fail:1")
    with pytest.raises(TransientError):
        world.files.accept("b", FIRST, "corr-1", "key-1")
    _native.set_faults("")
    is_there = point == "uploads.after_jobs"
    assert len(jobs(world)) == (2 if is_there else 0)
    answer = world.files.accept("b", FIRST, "corr-2", "key-1")
    assert answer["correlation_id"] == ("corr-1" if is_there else "corr-2")
    world.settle()
    assert (len(world.events(PROVISIONED)), len(world.events(FINISHED))) == (2, 1)


def test_the_second_request_of_a_key_waits_for_the_first(world):
    """Draft of the IETF: 409 while the first one is still being processed."""
    real, kinds = world.content.store_content, []

    def slow(data, content_type):
        for batch, files in (("b", FIRST), ("other", FIRST)):
            with pytest.raises(ConflictError) as caught:
                world.files.accept(batch, files, "corr-2", "key-1")
            kinds.append(caught.value.kind)
        return real(data, content_type)

    world.content.store_content = slow
    world.files.accept("b", FIRST, "corr-1", "key-1")
    assert kinds == [Kind.BUSY, Kind.PAYLOAD_MISMATCH] * 2
    world.content.store_content = real
    assert world.files.accept("b", FIRST, "corr-2", "key-1")["correlation_id"] == "corr-1"


def test_of_two_processes_the_first_commit_wins(world, objects, clock):
    """Each has a service of its own; they meet in the store."""
    real, others = world.content.store_content, [("b", FIRST)]

    def slow(data, content_type):
        while others:
            batch, files = others.pop()
            FileService(Content(real), world.store, clock).accept(batch, files, "corr-2", "key-1")
        return real(data, content_type)

    world.content.store_content = slow
    assert world.files.accept("b", FIRST, "corr-1", "key-1")["correlation_id"] == "corr-2"
    assert len(jobs(world)) == 2


class Content:
    """A content client of one function."""

    def __init__(self, store_content):
        self.store_content = store_content


def test_a_rival_with_another_request_is_refused_at_its_commit(world, clock):
    real = world.content.store_content

    def slow(data, content_type):
        world.content.store_content = real
        FileService(Content(real), world.store, clock).accept("other", FIRST, "corr-2", "key-1")
        return real(data, content_type)

    world.content.store_content = slow
    with pytest.raises(ConflictError) as caught:
        world.files.accept("b", FIRST, "corr-1", "key-1")
    assert caught.value.kind is Kind.PAYLOAD_MISMATCH
    assert {job["batch_id"] for job in jobs(world)} == {"other"}


def test_many_at_once_on_connections_of_their_own_are_one_request(world, tmp_path, clock):
    start = threading.Barrier(8)

    def send(n):
        database = LocalDatabase(str(tmp_path / "store.db"), durability="normal", busy_timeout_s=30)
        try:
            service = FileService(world.content, LocalStore(database, clock), clock)
            start.wait(30)
            return service.accept("b", FIRST, f"corr-{n}", "key-1")["correlation_id"]
        finally:
            database.close()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(8)))
    assert len(set(answers)) == 1
    assert [job["correlation_id"] for job in jobs(world)] == [answers[0]] * 2


def test_a_key_is_forgotten_with_the_history_and_then_new(world, clock):
    world.files.accept("b", FIRST, "corr-1", "key-1")
    world.settle()
    clock.advance_us(91 * DAY_US)
    assert prune(world.store.db, None, Retention(), clock)["upload requests"] == 1
    # The ledger may still know the first request's jobs; another request under the key is worked on all the same.
    world.files.accept("other", [essay("third")], "corr-2", "key-1")
    world.settle()
    assert [event["batch_id"] for event in world.events(PROVISIONED)] == ["other"]


def test_a_key_is_kept_until_then(world, clock):
    world.files.accept("b", FIRST, "corr-1", "key-1")
    clock.advance_us(89 * DAY_US)
    assert prune(world.store.db, None, Retention(), clock)["upload requests"] == 0
    with pytest.raises(ConflictError):
        world.files.accept("other", FIRST, "corr-2", "key-1")


def test_a_pruned_key_with_claims_that_live_on_loses_no_file(world, clock):
    """history_days shorter than the ledger's time to live."""
    world.files.accept("b", FIRST, "corr-1", "key-1")
    world.settle()
    clock.advance_us(2 * DAY_US)
    prune(world.store.db, None, Retention(history_days=1), clock)
    world.files.accept("other", FIRST, "corr-2", "key-1")
    world.settle()
    assert [event["batch_id"] for event in world.events(PROVISIONED)] == ["b", "b", "other", "other"]


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ("abc", "abc"),
        ('"abc"', "abc"),
        (' "a b" ', "a b"),
        (r'"a\"b\\"', 'a"b\\'),
        ('"', '"'),
        ("", ""),
        ('""', ""),
        ('"abc";v=1', "abc"),
        ('"a;b"', "a;b"),
        (r'"a\\\"b"', 'a\\"b'),
        ('"abc', '"abc'),
        ('"a"b"', '"a"b"'),
    ],
)
def test_a_quoted_key_is_the_same_key(header, key):
    assert idempotency_key(header) == key


# --- what a request may hold


def test_an_empty_form_field_is_no_file(world):
    """A browser sends a field without a chosen file as an empty file with an empty name."""
    answer = world.files.accept("b", [UploadedFile("", b""), essay("first"), UploadedFile("", b"")])
    assert (answer["files"], len(jobs(world))) == (1, 1)
    assert world.events(FINISHED)[0]["expected_count"] == 1
    assert world.files.accept("b", [essay("first")]) == answer  # the same files
    with pytest.raises(InvalidInputError, match="files: expected at least one"):
        world.files.accept("b", [UploadedFile("", b"")])


def test_an_empty_file_with_a_name_and_a_nameless_file_with_bytes_are_files(world):
    world.files.accept("b", [UploadedFile("empty.txt", b""), UploadedFile("", b"bytes")])
    world.settle()
    assert [event["validation_error_code"] for event in world.events(FAILED)] == [
        "EMPTY_CONTENT", "TEXT_EXTRACTION_FAILED"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("", FIRST), "batch_id: expected 1 to 200 printable characters"),
        ((None, FIRST), "batch_id: expected text, got NoneType"),
        (("b" * 201, FIRST), "batch_id: expected 1 to 200 printable characters"),
        (("a\nb", FIRST), "batch_id: expected 1 to 200 printable characters"),
        (("b", []), "files: expected at least one"),
        (("b", None), "files: expected a sequence of UploadedFile, got NoneType"),
        (("b", FIRST[0]), "files: expected a sequence of UploadedFile, got UploadedFile"),
        (("b", b"x"), "files: expected a sequence of UploadedFile, got bytes"),
        (("b", [("a.txt", b"x")]), "files: expected an UploadedFile, got tuple"),
        (("b", [UploadedFile(None, b"x")]), "files: expected a file's name as text, got NoneType"),
        (("b", [UploadedFile(b"a.txt", b"x")]), "files: expected a file's name as text, got bytes"),
        (("b", [UploadedFile("a.txt", "x")]), "files: expected a file's content as bytes, got str"),
        (("b", [UploadedFile("a\udce9.txt", b"x")]), "files: a file's name is not text: it holds a lone surrogate"),
        (("b", FIRST, 7), "correlation_id: expected text, got int"),
        (("b", FIRST, "a\x1b[2J"), "correlation_id: expected 1 to 200 printable characters"),
        (("b", FIRST, None, 7), "Idempotency-Key: expected text, got int"),
        (("b", FIRST, None, "k" * 201), "Idempotency-Key: expected 1 to 200 printable characters"),
    ],
)
def test_what_cannot_be_is_refused_by_a_sentence(world, arguments, sentence):
    with pytest.raises(InvalidInputError) as caught:
        world.files.accept(*arguments)
    assert str(caught.value) == sentence
    assert world.store.count("SELECT count(*) FROM outbox") == 0


def test_the_longest_ids_are_taken(world):
    assert world.files.accept("b" * 200, FIRST, "c" * 200, "k" * 200)["stored"] == 2


# --- files that were lost


class Flaky:
    """A content client that cannot store some raw files."""

    def __init__(self, content, broken):
        self.content, self.broken = content, set(broken)
        self.fetch_content = content.fetch_content

    def store_content(self, data, content_type):
        if content_type is ContentType.RAW_UPLOAD_BLOB and data in self.broken:
            raise StorageFullError("no space")
        return self.content.store_content(data, content_type)


@pytest.mark.parametrize("key", ["", "key-1"])
def test_a_lost_file_that_is_sent_again_has_one_outcome(world, key):
    flaky = world.files.content = Flaky(world.content, [FIRST[1].data])
    world.register("b", 3)
    first = world.files.accept("b", FIRST, "corr-1", key)
    assert (first["stored"], first["failed"]) == (1, 1)
    world.settle()
    assert [event["validation_error_code"] for event in world.events(FAILED)] == [RAW_LOST]
    assert world.store.load_state("uploads.batch.b")["failed"] == 1
    # It fails again: the same outcome, told once.
    assert world.files.accept("b", FIRST, "corr-2", key) == first
    world.settle()
    assert (len(world.events(FAILED)), world.metrics.value("essay_validation_failed_total")) == (1, 1)
    flaky.broken.clear()
    again = world.files.accept("b", FIRST, "corr-3", key)
    assert again == {**first, "stored": 2, "failed": 0}
    world.settle()
    batch = world.store.load_state("uploads.batch.b")
    assert (batch["failed"], len(batch["essays"]), batch["received_count_from_uploads"]) == (0, 2, 2)
    assert {event["correlation_id"] for event in world.events(PROVISIONED)} == {"corr-1"}
    assert world.files.accept("b", FIRST, "corr-4", key) == again
    world.files.accept("b", [essay("third")])
    world.settle()
    (ready,) = world.events(READY)
    assert (len(ready["essays"]), ready["failed_count"], ready["missing_count"]) == (3, 0, 0)


def test_a_lost_file_that_turns_out_to_be_bad_counts_once(world):
    flaky = world.files.content = Flaky(world.content, [b"short"])
    world.register("b", 3)
    files = [essay("first"), UploadedFile("short.txt", b"short")]
    for _ in range(2):
        world.files.accept("b", files)
        world.settle()
        flaky.broken.clear()
    assert [e["validation_error_code"] for e in world.events(FAILED)] == [RAW_LOST, "CONTENT_TOO_SHORT"]
    batch = world.store.load_state("uploads.batch.b")
    assert (batch["failed"], len(batch["essays"]), batch["status"]) == (1, 1, "waiting")


def test_a_lost_file_that_comes_after_its_batch_was_announced_is_excess(world):
    flaky = world.files.content = Flaky(world.content, [FIRST[1].data])
    world.register("b", 2)
    for _ in range(2):
        world.files.accept("b", FIRST)
        world.settle()
        flaky.broken.clear()
    (ready,) = world.events(READY)
    assert (len(ready["essays"]), ready["failed_count"]) == (1, 1)
    assert [event["original_file_name"] for event in world.events(EXCESS)] == ["second.txt"]


def outcome_messages(world):
    rows = world.store.db.execute(
        "SELECT topic, body FROM outbox WHERE topic IN (?, ?) ORDER BY id", (FAILED, PROVISIONED)
    )
    return [(topic, json.loads(body)) for topic, body in rows]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_a_lost_file_counts_once_in_every_order(world, objects, store, clock, order):
    """Lost, sent again, read, and read better: four events of two files in any order, some of them twice."""
    flaky = world.files.content = Flaky(world.content, [FIRST[1].data])
    world.files.accept("b", FIRST)
    flaky.broken.clear()
    world.files.accept("b", FIRST)
    store.relay_outbox({JOBS: ["file-service"]})
    world.workers[0].drain()

    class Upper:
        def extract(self, data):
            return data.decode().upper()

    newer = FileService(world.content, store, clock, extractors={".txt": Upper()})
    assert replay_uploads(newer, store).improved == 2
    messages = outcome_messages(world)
    assert len(messages) == 5  # one failure, two texts, two better ones
    mine = [message for message in messages if message[1]["data"]["original_file_name"] == "second.txt"]
    others = [message for message in messages if message not in mine]
    assert len(mine) == 3
    sent = [(mine + others[:1])[i][1] for i in order]
    rng = random.Random(str(order))
    registered = BatchEssaysRegisteredV1(batch_id="b", expected_count=3)
    sent.insert(rng.randint(0, len(sent)), envelope(REGISTERED, registered, "t"))
    for body in sent:
        for _ in range(rng.randint(1, 2)):
            with store.transaction() as tx:
                world.tracker.handle(body, tx)
    batch = store.load_state("uploads.batch.b")
    assert (batch["failed"], len(batch["essays"]), batch["unassigned"]) == (0, 2, [])
    texts = {essay["original_file_name"]: essay["text_storage_id"] for essay in batch["essays"]}
    assert world.content.fetch_content(texts["second.txt"]) == FIRST[1].data.decode().upper().encode()


def test_a_job_that_is_redriven_from_the_dead_letters_replaces_its_failure(world):
    """Its failure was announced when it was given up."""
    real = world.content.store_content

    def broken(data, content_type):
        if content_type is ContentType.EXTRACTED_PLAINTEXT:
            raise TimeoutError
        return real(data, content_type)

    world.content.store_content = broken
    world.register("b", 2)
    world.files.accept("b", [essay("first")])
    world.settle()
    assert [event["validation_error_code"] for event in world.events(FAILED)] == ["TEXT_STORAGE_FAILED"]
    assert world.store.redrive("file-service") == 1
    world.settle()  # given up again: the same outcome, told once
    assert len(world.events(FAILED)) == 1
    world.content.store_content = real
    assert world.store.redrive("file-service") == 1
    world.settle()
    batch = world.store.load_state("uploads.batch.b")
    assert (batch["failed"], len(batch["essays"]), len(world.events(PROVISIONED))) == (0, 1, 1)
