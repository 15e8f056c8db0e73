"""Whatever a content client raises or returns becomes an event; async clients work with the async methods only."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import io
import pickle
import sys
import threading
import zipfile
from typing import ClassVar

import pytest

from headgate import Ledger
from headgate.consume import Worker
from headgate.errors import (
    AccessError,
    ConfigError,
    ConflictError,
    InterruptedRunError,
    Kind,
    NotFoundError,
    StorageFullError,
    TransientError,
)
from headgate.ops import MemoryMetrics
from headgate.pipelines.uploads import (
    AsyncContentStore,
    ContentRefusedError,
    ContentStore,
    ContentType,
    ContentUnavailableError,
    ErrorCode,
    ExtractionError,
    FileService,
    UploadedFile,
    extract_text,
    replay_uploads,
)
from headgate.pipelines.uploads.contracts import FAILED, PROVISIONED, READY

TEXT = b"An essay of more than fifty characters, about canals and gates."
RAW, PLAIN = ContentType.RAW_UPLOAD_BLOB, ContentType.EXTRACTED_PLAINTEXT


class BotoCoreError(Exception):
    """As of a library whose exceptions have no base of ours."""


async def coroutine():
    return "id"


MISTAKES = [KeyError("x"), TypeError("x"), AttributeError("x"), ValueError("x"), NotFoundError("x"), AccessError("x")]
PASSING = [
    TimeoutError(), ConnectionResetError(), OSError("x"), BotoCoreError("secret-token"),
    TransientError("x"), StorageFullError("x"), ConflictError("x"), RuntimeError("x"),
    SystemExit(3),
]  # fmt: skip
WRONG = [None, "", "half\ud800", b"id", 7, coroutine]


def name_of(value):
    return "coroutine" if value is coroutine else repr(value)


class Broken:
    """A content client that fails for one kind of blob, or for fetching."""

    def __init__(self, content, kind, outcome):
        self.content, self.kind, self.outcome, self.calls = content, kind, outcome, 0

    def _fail(self):
        self.calls += 1
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome() if self.outcome is coroutine else self.outcome

    def store_content(self, data, content_type):
        return self._fail() if content_type is self.kind else self.content.store_content(data, content_type)

    def fetch_content(self, storage_id):
        return self._fail() if self.kind == "fetch" else self.content.fetch_content(storage_id)


def codes(world):
    return [event["validation_error_code"] for event in world.events(FAILED)]


@pytest.mark.parametrize("outcome", [*MISTAKES, *PASSING, *WRONG], ids=name_of)
def test_a_raw_store_that_fails_in_any_way_is_announced(world, outcome):
    world.files.content = Broken(world.content, RAW, outcome)
    assert world.files.accept("b", [UploadedFile("a.txt", TEXT)])["failed"] == 1
    event = world.files.receive("b", "b.txt", TEXT)
    assert event["raw_file_storage_id"] == "STORAGE_FAILED"
    assert codes(world) == ["RAW_STORAGE_FAILED"] * 2
    assert world.metrics.value("essay_validation_failed_total", error_code="RAW_STORAGE_FAILED") == 2
    assert "secret-token" not in str(world.events(FAILED))


@pytest.mark.parametrize("outcome", [*MISTAKES, *WRONG], ids=name_of)
def test_a_text_store_that_cannot_work_is_announced_at_once(world, outcome):
    broken = world.files.content = Broken(world.content, PLAIN, outcome)
    world.files.accept("b", [UploadedFile("a.txt", TEXT)])
    world.settle()
    assert (broken.calls, codes(world)) == (1, ["TEXT_STORAGE_FAILED"])
    assert world.content.fetch_content(world.events(FAILED)[0]["raw_file_storage_id"]) == TEXT
    assert world.store.count("SELECT count(*) FROM dead_letters") == 0


@pytest.mark.parametrize("outcome", PASSING, ids=name_of)
def test_a_text_store_that_may_recover_is_tried_again_and_announced_in_the_end(world, outcome):
    broken = world.files.content = Broken(world.content, PLAIN, outcome)
    world.files.accept("b", [UploadedFile("a.txt", TEXT)])
    world.settle()
    assert (broken.calls, codes(world)) == (2, ["TEXT_STORAGE_FAILED"])  # the consumer's attempts
    assert "secret-token" not in str(world.events(FAILED))
    broken.outcome = None
    broken.kind = "nothing"
    world.files.accept("b", [UploadedFile("b.txt", TEXT)])
    world.settle()
    assert len(world.events(PROVISIONED)) == 1


@pytest.mark.parametrize("outcome", [*MISTAKES, *PASSING, *WRONG], ids=name_of)
def test_receive_says_whose_fault_it_was(world, outcome):
    world.files.content = Broken(world.content, PLAIN, outcome)
    event = world.files.receive("b", "a.txt", TEXT)
    assert event["validation_error_code"] == "TEXT_STORAGE_FAILED"
    assert world.content.fetch_content(event["raw_file_storage_id"]) == TEXT


@pytest.mark.parametrize("outcome", [*MISTAKES, *PASSING, None, "text", coroutine], ids=name_of)
def test_a_raw_file_that_cannot_be_read_back_is_announced(world, outcome):
    broken = world.files.content = Broken(world.content, "fetch", outcome)
    world.register("b", 1)
    world.files.accept("b", [UploadedFile("a.txt", TEXT)])
    world.settle()
    assert codes(world) == ["RAW_STORAGE_FAILED"]
    assert broken.calls == (2 if outcome in PASSING else 1)
    assert world.events(READY)[0]["failed_count"] == 1


def test_a_client_that_is_interrupted_is_no_failure_of_the_file(world):
    world.files.content = Broken(world.content, RAW, InterruptedRunError("stop"))
    for take in (
        lambda: world.files.accept("b", [UploadedFile("a.txt", TEXT)]),
        lambda: world.files.receive("b", "a.txt", TEXT),
    ):
        with pytest.raises(InterruptedRunError):
            take()
    assert world.store.count("SELECT count(*) FROM outbox") == 0


@pytest.mark.parametrize("outcome", MISTAKES + WRONG, ids=name_of)
def test_a_replay_takes_a_broken_text_store_for_an_outcome(world, outcome):
    world.files.accept("b", [UploadedFile("a.txt", TEXT), UploadedFile("b.exe", TEXT)])
    world.settle()
    service = FileService(Broken(world.content, PLAIN, outcome), world.store, world.clock)
    found = replay_uploads(service, world.store)
    assert (found.kept, found.unchanged) == (1, 1)
    assert (len(world.events(FAILED)), len(world.events(PROVISIONED))) == (1, 1)


@pytest.mark.parametrize("outcome", PASSING, ids=name_of)
@pytest.mark.parametrize("kind", [PLAIN, "fetch"])
def test_a_replay_stops_with_a_typed_error_where_the_client_is_away(world, kind, outcome):
    world.files.accept("b", [UploadedFile("a.txt", TEXT)])
    world.settle()
    service = FileService(Broken(world.content, kind, outcome), world.store, world.clock)
    with pytest.raises(ContentUnavailableError) as caught:
        replay_uploads(service, world.store)
    code = ErrorCode.TEXT_STORAGE_FAILED if kind is PLAIN else ErrorCode.RAW_STORAGE_FAILED
    assert caught.value.code is code
    assert "secret-token" not in str(caught.value)


@pytest.mark.parametrize("outcome", [KeyError("x"), NotFoundError("x"), FileNotFoundError("x")], ids=name_of)
def test_a_replay_counts_what_the_client_no_longer_has(world, outcome):
    world.files.accept("b", [UploadedFile("a.txt", TEXT)])
    world.settle()
    service = FileService(Broken(world.content, "fetch", outcome), world.store, world.clock)
    assert replay_uploads(service, world.store).missing == 1


def test_a_replay_counts_no_failures_of_what_it_does_not_announce(world):
    world.files.accept("b", [UploadedFile("a.txt", b"short")])
    world.settle()
    metrics = MemoryMetrics()
    replay_uploads(FileService(world.content, world.store, world.clock, metrics=metrics), world.store)
    assert metrics.value("essay_validation_failed_total") == 0
    assert world.metrics.value("essay_validation_failed_total") == 1


def test_the_errors_name_their_kind_and_survive_pickling(world):
    for outcome, kind, error_class in (
        (TimeoutError(), Kind.TIMEOUT, ContentUnavailableError),
        (BotoCoreError(), Kind.UNAVAILABLE, ContentUnavailableError),
        (StorageFullError("x"), Kind.DISK_FULL, ContentUnavailableError),
        (KeyError("x"), Kind.NOT_FOUND, ContentRefusedError),
        (TypeError("x"), Kind.INTERNAL, ContentRefusedError),
        (AccessError("x"), Kind.PERMISSION_DENIED, ContentRefusedError),
        (None, Kind.INTERNAL, ContentRefusedError),
    ):
        world.files.content = Broken(world.content, RAW, outcome)
        with pytest.raises(error_class) as caught:
            world.files.store_blob(TEXT, RAW)
        assert (caught.value.kind, caught.value.code) == (kind, ErrorCode.RAW_STORAGE_FAILED)
        copy = pickle.loads(pickle.dumps(caught.value))
        assert (type(copy), str(copy), copy.code, copy.kind) == (
            error_class, str(caught.value), caught.value.code, caught.value.kind
        )  # fmt: skip


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (None, "store_content returned nothing, expected a storage id as text"),
        ("", "store_content returned an empty text, expected a storage id as text"),
        (7, "store_content returned int, expected a storage id as text"),
        (coroutine, "the content client failed (TypeError)"),
        (TransientError("away"), "the content client failed (TransientError: away)"),
        (KeyError("secret"), "the content client failed (KeyError)"),
        (RuntimeError("secret"), "the content client failed (RuntimeError)"),
    ],
)
def test_the_sentence_of_a_failure(world, outcome, reason):
    world.files.content = Broken(world.content, RAW, outcome)
    with pytest.raises((ContentUnavailableError, ContentRefusedError)) as caught:
        world.files.store_blob(TEXT, RAW)
    assert str(caught.value) == f"RAW_STORAGE_FAILED: {reason}"
    assert caught.value.reason == reason
    world.files.content = Broken(world.content, "fetch", 7)
    world.files.accept("b", [UploadedFile("a.txt", TEXT)])
    world.settle()
    message = world.events(FAILED)[0]["validation_error_message"]
    assert message == "RAW_STORAGE_FAILED: fetch_content returned int, expected bytes"


def test_a_blob_is_written_only_where_it_is_not_there():
    class Objects:
        calls: ClassVar[list[tuple]] = []

        def put(self, key, data, if_absent=False):
            self.calls.append((key, data, if_absent))

    digest = hashlib.sha256(TEXT).hexdigest()
    assert ContentStore(Objects()).store_content(TEXT, PLAIN) == f"content/extracted_plaintext/{digest}"
    assert Objects.calls == [(f"content/extracted_plaintext/{digest}", TEXT, True)]


# --- extractors


@pytest.mark.parametrize("suffix", [".txt", ".text", ".md", ".TXT"])
def test_suffixes_of_plain_text(suffix):
    assert extract_text(f"a{suffix}", TEXT) == TEXT.decode()


@pytest.mark.parametrize(("module", "suffix", "what"), [("pypdf", ".pdf", "PDF"), ("docx", ".docx", "Word")])
def test_a_missing_library_is_named_with_its_cure(monkeypatch, module, suffix, what):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError) as caught:
        extract_text(f"a{suffix}", TEXT)
    assert str(caught.value).startswith(f"{what} files need ")
    assert str(caught.value).endswith("pip install 'headgate[uploads]'")


def test_an_extractor_runs_on_a_thread_that_keeps_no_process_alive():
    class Looks:
        def extract(self, data):
            thread = threading.current_thread()
            return f"{thread.name} {thread.daemon}"

    assert extract_text("a.txt", TEXT, {".txt": Looks()}) == "headgate-extract True"


@pytest.mark.parametrize(("limit", "code"), [(99, "too large when unpacked"), (100, "the document is damaged")])
def test_a_document_that_unpacks_to_too_much_is_refused_unread(monkeypatch, limit, code):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a", b"x" * 60)
        file.writestr("b", b"x" * 40)
    monkeypatch.setattr("headgate.pipelines.uploads.extract._UNPACKED_LIMIT", limit)
    with pytest.raises(ExtractionError, match=code) as caught:
        extract_text("a.docx", archive.getvalue())
    assert caught.value.code is ErrorCode.CORRUPTED_FILE


def test_the_limits_are_the_documented_ones(world):
    service = FileService(world.content, world.store, world.clock)
    assert (service.min_length, service.max_length, service.extract_timeout_s) == (50, 50_000, 30)
    assert inspect.signature(extract_text).parameters["timeout_s"].default == 30


@pytest.mark.parametrize(
    ("found", "message"),
    [(None, "returned NoneType"), (b"bytes", "returned bytes"), (SystemExit(1), "failed (SystemExit)")],
)
def test_an_extractor_that_gives_no_text_is_announced(world, found, message):
    class Odd:
        def extract(self, data):
            if isinstance(found, BaseException):
                raise found
            return found

    world.files.extractors = {".txt": Odd()}
    event = world.files.receive("b", "a.txt", TEXT)
    assert event["validation_error_code"] == "TEXT_EXTRACTION_FAILED"
    assert message in event["validation_error_message"]


def test_a_text_with_a_lone_surrogate_is_no_text(world):
    class Odd:
        def extract(self, data):
            return "\udce9" * 100

    world.files.extractors = {".txt": Odd()}
    world.files.accept("b", [UploadedFile("a.txt", TEXT)])
    world.settle()
    assert codes(world) == ["ENCODING_ERROR"]


def test_a_library_that_is_missing_is_the_extractor_s_failure(world):
    class Needs:
        def extract(self, data):
            raise ConfigError("PDF files need pypdf: pip install 'headgate[uploads]'", Kind.NOT_BUILT)

    world.files.extractors = {".pdf": Needs()}
    event = world.files.receive("b", "a.pdf", TEXT)
    assert event["validation_error_code"] == "TEXT_EXTRACTION_FAILED"
    assert "pip install" in event["validation_error_message"]


@pytest.mark.parametrize(
    "code", ["UNSUPPORTED_FORMAT", "CORRUPTED_FILE", "TIMEOUT", "ENCRYPTED_FILE_UNSUPPORTED", "ENCODING_ERROR"]
)
def test_each_code_of_an_extractor_has_a_count_of_its_own(world, code):
    class Fails:
        def extract(self, data):
            raise ExtractionError(ErrorCode(code), "why")

    world.files.extractors = {".txt": Fails()}
    world.files.accept("b", [UploadedFile("a.txt", TEXT)])
    world.settle()
    (event,) = world.events(FAILED)
    contract = code if code == "ENCODING_ERROR" else "TEXT_EXTRACTION_FAILED"
    assert (event["validation_error_code"], event["validation_error_message"]) == (contract, f"{code}: why")
    assert f'essay_validation_failed_total{{error_code="{code}"}} 1\n' in world.metrics.render()
    assert world.metrics.value("essay_validation_failed_total") == 1


# --- async clients


class AsyncClient:
    """Coroutines that really yield to the event loop, and remember on which thread they ran."""

    def __init__(self, content):
        self.content, self.threads = content, set()

    async def store_content(self, data, content_type):
        await asyncio.sleep(0)
        self.threads.add(threading.get_ident())
        return self.content.store_content(data, content_type)

    async def fetch_content(self, storage_id):
        await asyncio.sleep(0)
        self.threads.add(threading.get_ident())
        return self.content.fetch_content(storage_id)


def drained(world, service):
    async def run():
        consumer = service.consumer("async-files", loop=asyncio.get_running_loop(), max_attempts=2)
        world.store.relay_outbox({consumer.topic: [consumer.name]})
        worker = Worker(consumer, world.store, Ledger.on_database(world.store.db, clock=world.clock), world.clock)
        return await asyncio.to_thread(worker.drain)

    return asyncio.run(run())


@pytest.mark.parametrize("make", [AsyncContentStore, lambda objects: AsyncClient(ContentStore(objects)), ContentStore])
def test_a_file_goes_its_whole_way_through_the_async_methods(world, objects, make):
    service = FileService(make(objects), world.store, world.clock)
    files = [UploadedFile("a.txt", TEXT), UploadedFile("b.exe", TEXT)]

    async def take():
        first = await service.accept_async("b", files, "corr", "key-1")
        assert await service.accept_async("b", files, "corr-2", "key-1") == first
        with pytest.raises(ConflictError):
            await service.accept_async("other", files, "corr", "key-1")
        await service.receive_async("b", "c.txt", TEXT)
        return first

    assert asyncio.run(take())["stored"] == 2
    assert drained(world, service).handled == 2
    assert len(world.events(PROVISIONED)) == 2
    assert codes(world) == ["TEXT_EXTRACTION_FAILED"]
    assert world.content.fetch_content(world.events(PROVISIONED)[1]["text_storage_id"]) == TEXT


def test_coroutines_run_on_their_loop_and_the_rest_does_not(world, objects):
    client = AsyncClient(ContentStore(objects))
    service = FileService(client, world.store, world.clock)
    elsewhere = []

    class Notes:
        def extract(self, data):
            elsewhere.append(threading.get_ident())
            return data.decode()

    service.extractors = {".txt": Notes()}
    asyncio.run(service.receive_async("b", "a.txt", TEXT))
    assert client.threads == {threading.get_ident()}
    assert elsewhere
    assert threading.get_ident() not in elsewhere


class PartlyAsync:
    def __init__(self, content):
        self.store_content = content.store_content

    async def fetch_content(self, storage_id): ...


class CallableObject:
    async def __call__(self, *given): ...


class ByObjects:
    store_content = fetch_content = CallableObject()


@pytest.mark.parametrize(
    "make", [AsyncContentStore, lambda objects: PartlyAsync(ContentStore(objects)), lambda _: ByObjects()]
)
def test_the_sync_methods_refuse_an_async_client(world, objects, make):
    service = FileService(make(objects), world.store, world.clock)
    for name, instead, call in (
        ("accept", "accept_async", lambda: service.accept("b", [UploadedFile("a.txt", TEXT)])),
        ("receive", "receive_async", lambda: service.receive("b", "a.txt", TEXT)),
        ("work", "work_async", lambda: service.work({"data": {}})),
        ("consumer", "consumer(loop=...)", service.consumer),
        ("examine", "a sync client", lambda: replay_uploads(service, world.store)),
        ("store_blob", "the client itself", lambda: service.store_blob(TEXT, RAW)),
    ):
        if name == "examine":
            FileService(world.content, world.store, world.clock).accept("b", [UploadedFile("a.txt", TEXT)])
            world.settle()
        with pytest.raises(ConfigError) as caught:
            call()
        assert str(caught.value).startswith(f"{name}: ")
        assert instead in str(caught.value)


@pytest.mark.parametrize("outcome", [KeyError("x"), TimeoutError(), None], ids=name_of)
def test_an_async_client_s_failures_are_events_too(world, objects, outcome):
    class Fails(AsyncClient):
        async def store_content(self, data, content_type):
            await asyncio.sleep(0)
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

    service = FileService(Fails(ContentStore(objects)), world.store, world.clock)
    assert asyncio.run(service.accept_async("b", [UploadedFile("a.txt", TEXT)]))["failed"] == 1
    asyncio.run(service.receive_async("b", "b.txt", TEXT))
    assert codes(world) == ["RAW_STORAGE_FAILED"] * 2


def test_a_request_that_is_cancelled_may_be_sent_again(world, objects):
    entered = asyncio.Event()

    class Hangs(AsyncClient):
        async def store_content(self, data, content_type):
            entered.set()
            await asyncio.Event().wait()

    service = FileService(Hangs(ContentStore(objects)), world.store, world.clock)
    files = [UploadedFile("a.txt", TEXT)]

    async def run():
        task = asyncio.create_task(service.accept_async("b", files, "corr", "key-1"))
        await entered.wait()
        with pytest.raises(ConflictError):
            await service.accept_async("b", files, "corr", "key-1")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        service.content = AsyncClient(ContentStore(objects))
        return await service.accept_async("b", files, "corr", "key-1")

    assert asyncio.run(run())["stored"] == 1


def test_a_commit_that_has_begun_is_finished_although_its_caller_is_cancelled(world, objects, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    real = world.store.publish

    def slow(*given):
        begun.set()
        assert go_on.wait(30)
        real(*given)

    monkeypatch.setattr(world.store, "publish", slow)
    service = FileService(AsyncContentStore(objects), world.store, world.clock)

    async def run():
        task = asyncio.create_task(service.accept_async("b", [UploadedFile("a.txt", TEXT)], "corr", "key-1"))
        await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await service.accept_async("b", [UploadedFile("a.txt", TEXT)], "corr-2", "key-1")

    assert asyncio.run(run())["correlation_id"] == "corr"


def test_a_text_store_that_is_away_for_a_while_costs_no_attempt_and_one_that_stays_away_ends_the_job(world):
    """With a consumer as it is by default: five attempts used to be over after three seconds."""
    world.workers[0] = Worker(
        world.files.consumer(), world.store, Ledger.on_database(world.store.db, clock=world.clock), world.clock
    )
    real, until = world.content.store_content, world.clock.now_us() + 300 * 1_000_000

    def away(data, kind):
        if kind == "extracted_plaintext" and world.clock.now_us() < until:
            raise TimeoutError
        return real(data, kind)

    world.content.store_content = away
    world.files.accept("b", [UploadedFile("a.txt", b"long enough a text to be one of those that are taken " * 2)])
    for _ in range(60):
        world.settle_once()
    assert (len(world.events(PROVISIONED)), len(world.events(FAILED))) == (1, 0)
    until = world.clock.now_us() + 10**15
    world.files.accept(
        "b", [UploadedFile("b.txt", b"another text that is long enough to be one of those that are taken")]
    )
    for _ in range(60):
        world.settle_once()
    (failed,) = world.events(FAILED)
    assert failed["validation_error_code"] == "TEXT_STORAGE_FAILED"
