"""`headgate serve` as users run it: HTTP in, events out, killed and started again."""

from __future__ import annotations

import json
import os
import random
import signal
import time
import urllib.error
import urllib.request

import pytest

from headgate._core import SystemClock
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.errors import ConfigError
from headgate.pipelines.uploads import AsyncContentStore, ContentStore, FileService
from headgate.serve import IntakeLimits, IntakeServer
from headgate.testing.servers import ServeProcess

TEXT = b"An essay of more than fifty characters, about canals and gates."


def form(batch, files, boundary=b"XyZ"):
    parts = [b'--%s\r\nContent-Disposition: form-data; name="batch_id"\r\n\r\n%s\r\n' % (boundary, batch.encode())]
    for name, data in files:
        head = (
            f'Content-Disposition: form-data; name="files"; filename="{name}"\r\nContent-Type: application/octet-stream'
        )
        parts.append(b"--%s\r\n%s\r\n\r\n%s\r\n" % (boundary, head.encode(), data))
    return b"".join(parts) + b"--%s--\r\n" % boundary, f"multipart/form-data; boundary={boundary.decode()}"


def post(url, data, kind="application/octet-stream", **headers):
    request = urllib.request.Request(
        url, data, {"Content-Type": kind, **{k.replace("_", "-"): v for k, v in headers.items()}}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def send_files(url, batch, files, **headers):
    data, kind = form(batch, files)
    return post(f"{url}/v1/files/batch", data, kind, **headers)


@pytest.fixture
def intake(objects, store, clock):
    limits = IntakeLimits(file_bytes=10_000, request_bytes=40_000, files=3)
    with IntakeServer(FileService(ContentStore(objects), store, clock), limits=limits) as server:
        yield server


def test_content_is_stored_under_its_type(intake, objects):
    status, body = post(f"{intake.url}/v1/content", b"\x00raw\r\n")
    assert (status, objects.get(body["storage_id"])) == (201, b"\x00raw\r\n")
    status, body = post(f"{intake.url}/v1/content?content_type=corrected_text", b"text")
    assert body["storage_id"].startswith("content/corrected_text/")
    status, body = post(f"{intake.url}/v1/content?content_type=nothing", b"text")
    assert status == 400
    assert "raw_upload_blob" in body["error"]


def test_a_batch_is_answered_when_it_is_durable(intake, store, objects):
    status, body = send_files(intake.url, "b-1", [("a.txt", TEXT), ("é.txt", b"x")], X_Correlation_ID="corr-7")
    assert (status, body) == (202, {"message": "2 files accepted", "batch_id": "b-1", "correlation_id": "corr-7"})
    jobs = [json.loads(b)["data"] for (b,) in store.db.execute("SELECT body FROM outbox WHERE topic = 'uploads.files'")]
    assert [job["original_file_name"] for job in jobs] == ["a.txt", "é.txt"]
    assert objects.get(jobs[0]["raw_file_storage_id"]) == TEXT
    assert {job["correlation_id"] for job in jobs} == {"corr-7"}


def test_an_idempotency_key_belongs_to_its_request(intake, store):
    files = [("a.txt", TEXT), ("b.txt", b"other")]
    first = send_files(intake.url, "b", files, Idempotency_Key="key-1")
    assert first[0] == 202
    # The same again: the same status and body, the first one's correlation id in it, whatever this request says.
    assert send_files(intake.url, "b", files, Idempotency_Key="key-1", X_Correlation_ID="corr-2") == first
    assert send_files(intake.url, "b", files, Idempotency_Key='"key-1"') == first  # as the draft writes it
    for batch, others in (("other", files), ("b", files[:1]), ("b", files[::-1]), ("b", [("c.txt", TEXT), files[1]])):
        status, body = send_files(intake.url, batch, others, Idempotency_Key="key-1")
        assert (status, body["kind"]) == (422, "payload_mismatch")
        assert body["error"].startswith("Idempotency-Key: this key belongs to another request; expected ")
    assert send_files(intake.url, "other", files, Idempotency_Key="key-2")[0] == 202
    assert store.count("SELECT count(*) FROM outbox WHERE topic = 'uploads.files'") == 4
    for bad in ("a b", "k" * 201, "", '""'):
        status, body = send_files(intake.url, "b", files, Idempotency_Key=bad)
        assert (status, body["error"]) == (400, "Idempotency-Key: expected 1 to 200 printable characters")


def test_a_key_that_is_under_way_is_answered_409(intake):
    real, answers = intake.service.content.store_content, []

    def slow(data, content_type):
        answers.append(send_files(intake.url, "b", [("a.txt", TEXT)], Idempotency_Key="key-1"))
        return real(data, content_type)

    intake.service.content.store_content = slow
    assert send_files(intake.url, "b", [("a.txt", TEXT)], Idempotency_Key="key-1")[0] == 202
    ((status, body),) = answers
    assert (status, body["kind"]) == (409, "busy")
    assert "still being worked on" in body["error"]


def test_names_arrive_as_the_client_wrote_them(intake, store):
    names = {
        b'filename="caf\xe9.txt"': "café.txt",
        'filename="作文.txt"'.encode(): "作文.txt",
        b"filename*=UTF-8''%E4%BD%9C%E6%96%87.txt": "作文.txt",
        b'filename="a%22b.txt"': 'a"b.txt',
        b'filename="C:\\essays\\a.txt"': "a.txt",
    }
    for name in names:
        data, kind = form("b", [("NAME", name)])
        assert post(f"{intake.url}/v1/files/batch", data.replace(b'filename="NAME"', name), kind)[0] == 202
    rows = store.db.execute("SELECT body FROM outbox WHERE topic = 'uploads.files' ORDER BY id")
    assert [json.loads(body)["data"]["original_file_name"] for (body,) in rows] == list(names.values())


def test_an_empty_field_is_no_file(intake, store):
    status, body = send_files(intake.url, "b", [("", b""), ("a.txt", TEXT)])
    assert (status, body["message"]) == (202, "1 files accepted")
    status, body = send_files(intake.url, "b", [("", b"")])
    assert (status, body["error"]) == (400, "files: expected at least one")
    assert store.count("SELECT count(*) FROM outbox WHERE topic = 'uploads.files'") == 1


def test_a_content_client_that_fails_in_any_way_is_answered(intake):
    def broken(*_):
        raise KeyError("x")

    intake.service.content.store_content = broken
    assert post(f"{intake.url}/v1/content", b"text")[0] == 503
    assert send_files(intake.url, "b", [("a.txt", TEXT)])[0] == 202  # its failure is announced


def test_an_async_content_client_is_refused_before_it_serves(objects, store, clock):
    with pytest.raises(ConfigError, match="IntakeServer: .* use a sync client"):
        IntakeServer(FileService(AsyncContentStore(objects), store, clock))


def test_contents_arrive_byte_by_byte(intake, store, objects):
    rng = random.Random(4)
    blobs = [rng.randbytes(3000), b"\r\n--XyY\r\n\r\n\n\r--", b"", b"\r\n\r\n"]
    for blob in blobs:
        assert send_files(intake.url, "b", [("f.bin", blob)])[0] == 202
    for (body,), blob in zip(
        store.db.execute("SELECT body FROM outbox WHERE topic = 'uploads.files' ORDER BY id"), blobs, strict=True
    ):
        assert objects.get(json.loads(body)["data"]["raw_file_storage_id"]) == blob


@pytest.mark.parametrize(
    ("batch", "files", "status"),
    [
        ("b", [], 400),
        ("", [("a", b"x")], 400),
        ("with space", [("a", b"x")], 400),
        ("b", [("a", b"x" * 10_001)], 413),
        ("b", [("a", b"x" * 9_000)] * 5, 413),
        ("b", [("a", b"x")] * 4, 413),
    ],
)
def test_bad_forms_are_refused_and_leave_nothing(intake, store, batch, files, status):
    found, body = send_files(intake.url, batch, files)
    assert found == status
    assert body["error"]
    assert store.count("SELECT count(*) FROM outbox") == 0


def test_bad_requests_get_a_sentence(intake):
    data, kind = form("b", [("a.txt", TEXT)])
    batch = f"{intake.url}/v1/files/batch"
    assert post(batch, data, "text/plain")[0] == 415
    assert post(batch, data, "multipart/form-data; boundary=other")[0] == 400
    assert post(batch, data[:-10], kind)[0] == 400
    assert post(batch, data, kind, X_Correlation_ID="a b")[0] == 400
    assert post(f"{intake.url}/v2", b"x")[0] == 404
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(batch)
    with caught.value as error:
        assert error.code == 405


def test_a_database_that_is_away_promises_nothing(intake, store, monkeypatch):
    from headgate.errors import TransientError

    def away(*_):
        raise TransientError("locked")

    monkeypatch.setattr(store, "publish", away)
    status, body = send_files(intake.url, "b", [("a.txt", TEXT)])
    assert (status, body["kind"]) == (503, "unavailable")
    monkeypatch.undo()
    assert store.count("SELECT count(*) FROM outbox") == 0


def serve(folder, faults=""):
    (folder / "headgate.toml").write_text(
        '[backends]\nobjects = "file://objects"\nstore = "sqlite:///h.db"\ndurability = "normal"\n'
        "[uploads]\nready_timeout_s = 2\n[logging]\nlevel = 'ERROR'\n"
    )
    return ServeProcess(folder, {**os.environ, "HEADGATE_FAULTS": faults})


def events(folder, topic):
    store = LocalStore(LocalDatabase(str(folder / "h.db"), durability="normal", busy_timeout_s=20), SystemClock(), "")
    rows = store.db.execute("SELECT body FROM outbox WHERE topic LIKE ? ORDER BY id", (f"%{topic}%",))
    store.db.close()
    return [json.loads(body)["data"] for (body,) in rows]


def wait_for(folder, topic, count, seconds=30):
    deadline = time.monotonic() + seconds
    while len(found := events(folder, topic)) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} {topic}"
        time.sleep(0.05)
    return found


def test_a_server_takes_uploads_to_their_batch_and_stops_cleanly(tmp_path):
    serving = serve(tmp_path)
    status, _ = send_files(serving.url, "b", [("1.txt", TEXT), ("2.txt", b"short"), ("3.exe", b"MZ")])
    assert status == 202
    assert len(wait_for(tmp_path, "content.provisioned.v1", 1)) == 1
    assert {e["validation_error_code"] for e in wait_for(tmp_path, "validation.failed", 2)} == {
        "CONTENT_TOO_SHORT", "TEXT_EXTRACTION_FAILED"
    }  # fmt: skip
    (ready,) = wait_for(tmp_path, "essays.ready", 1)  # nobody registered it: by its time-out
    assert (ready["status"], ready["expected_count"]) == ("timed_out", 3)
    with urllib.request.urlopen(f"{serving.url}/metrics") as answer:
        text = answer.read().decode()
    assert 'essay_validation_failed_total{error_code="CONTENT_TOO_SHORT"} 1' in text
    assert "batch_completion_seconds_bucket" in text
    with urllib.request.urlopen(f"{serving.url}/healthz") as answer:
        assert json.loads(answer.read()) == {"status": "ok"}
    assert serving.stop() == ""


@pytest.mark.parametrize(
    "point", ["uploads.after_raw", "uploads.after_jobs", "consume.after_claim", "consume.before_commit"]
)
def test_a_server_killed_at_any_point_finishes_after_a_restart(tmp_path, point):
    """The original answered 202 first and lost what it had promised."""
    serving = serve(tmp_path, f"{point}:kill:1")
    promised = 0
    try:
        status, _ = send_files(
            serving.url, "b", [(f"{i}.txt", TEXT + b"%d" % i) for i in range(3)], Idempotency_Key="u1"
        )
        promised = status == 202
    except OSError:
        pass  # no answer, no promise: the client sends it again
    serving.process.communicate(timeout=30)
    assert serving.process.returncode == -signal.SIGKILL
    again = serve(tmp_path)
    if not promised:
        files = [(f"{i}.txt", TEXT + b"%d" % i) for i in range(3)]
        assert send_files(again.url, "b", files, Idempotency_Key="u1")[0] == 202
    wait_for(tmp_path, "content.provisioned.v1", 3)
    files = [(f"{i}.txt", TEXT + b"%d" % i) for i in range(3)]
    assert send_files(again.url, "b", files, Idempotency_Key="u1")[0] == 202
    assert send_files(again.url, "other", files, Idempotency_Key="u1")[0] == 422
    (ready,) = wait_for(tmp_path, "essays.ready", 1)
    assert (len(ready["essays"]), ready["expected_count"]) == (3, 3)
    assert again.stop() == ""
    assert len(events(tmp_path, "content.provisioned.v1")) == 3


STUCK = """
import os
import threading


def handle(body, tx):
    tx.execute("INSERT INTO state (name, doc) VALUES (?, '{}')", ("effect:" + str(body["n"]),))
    if os.environ.get("STUCK"):
        open("holds-the-lock", "w").close()
        threading.Event().wait()
"""


def test_a_handler_that_never_ends_holds_neither_uploads_nor_the_stop(tmp_path):
    """One of 25 seconds held POST and SIGTERM as long."""
    (tmp_path / "headgate.toml").write_text(
        '[backends]\nobjects = "file://objects"\nstore = "sqlite:///h.db"\ndurability = "normal"\n'
        '[consumers.stuck]\ntopic = "work"\nhandler = "stuck:handle"\nkey = "builtins:str"\nlease_s = 1\n'
        "[serve]\nstore_wait_s = 0.1\ndrain_s = 1\n[logging]\nlevel = 'ERROR'\n"
    )
    (tmp_path / "stuck.py").write_text(STUCK)
    store = LocalStore(LocalDatabase(str(tmp_path / "h.db"), durability="normal"), SystemClock(), "")
    store.publish("work", "k", {"n": 1})
    store.db.close()
    serving = ServeProcess(tmp_path, {**os.environ, "STUCK": "1"})
    deadline = time.monotonic() + 30
    while not (tmp_path / "holds-the-lock").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    status, body = send_files(serving.url, "b", [("a.txt", TEXT)])
    assert (status, body["kind"]) == (503, "busy")
    assert serving.stop() == ""
    again = ServeProcess(tmp_path)
    assert send_files(again.url, "b", [("a.txt", TEXT)])[0] == 202
    wait_for(tmp_path, "content.provisioned.v1", 1)
    while not (done := effects(tmp_path)):
        assert time.monotonic() < deadline + 30
        time.sleep(0.02)
    assert done == ["effect:1"]
    assert again.stop() == ""


def effects(folder):
    store = LocalStore(LocalDatabase(str(folder / "h.db"), durability="normal", busy_timeout_s=20), SystemClock(), "")
    found = [name for name, _ in store.states("effect:")]
    store.db.close()
    return found
