"""The contract of the HTTP intake, over raw sockets: paths, answers, limits, deadlines, and what is never believed."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import socket
import ssl
import subprocess
import threading
import tracemalloc
from urllib.parse import urlsplit

import pytest

from headgate._core import SystemClock, file_store
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.errors import ConfigError, Kind, StorageFullError
from headgate.ops import MemoryMetrics
from headgate.pipelines.uploads import ContentStore, FileService
from headgate.serve import IntakeAccess, IntakeLimits, IntakeServer

TEXT = b"An essay of more than fifty characters, about canals and gates."
TOKEN = "a-token-of-enough-length"


@contextlib.contextmanager
def opened(objects, store, clock, access=None, content=None, limits=None, **options):
    numbers = {"file_bytes": 10_000, "request_bytes": 40_000, "files": 3, "drain_s": 1.0, **(limits or {})}
    files = FileService(content or ContentStore(objects), store, clock)
    with IntakeServer(
        files, limits=IntakeLimits(**numbers), access=access, metrics=MemoryMetrics(), **options
    ) as server:
        yield server


@pytest.fixture
def serving(objects, store, clock):
    """Opens a server with its own limits: `serving(requests=2)`."""
    with contextlib.ExitStack() as stack:
        yield lambda access=None, content=None, options=None, **limits: stack.enter_context(
            opened(objects, store, clock, access, content, limits, **(options or {}))
        )


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One server for the tests that leave nothing behind, since stopping one takes a moment."""
    folder = tmp_path_factory.mktemp("intake")
    database = LocalDatabase(str(folder / "store.db"), durability="normal")
    store = LocalStore(database, SystemClock(), "")
    access = IntakeAccess(origins=("https://app.example",))
    with opened(file_store(str(folder / "objects")), store, SystemClock(), access) as server:
        yield server
        assert store.count("SELECT count(*) FROM outbox WHERE body NOT LIKE '%fine.txt%'") <= 1  # the upload's end
    database.close()


@pytest.fixture
def intake(serving):
    return serving()


class Shared:
    """A file that whoever reads one answer does not close."""

    def __init__(self, file):
        self.readline, self.read, self.readinto = file.readline, file.read, file.readinto

    def close(self):
        pass

    flush = close


class Client:
    """A connection that sends exactly what it is told to."""

    def __init__(self, server):
        parts = urlsplit(server.url)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=20)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()

    def makefile(self, _mode):
        """What http.client asks a socket for: one buffer for all answers of the connection."""
        return Shared(self.file)

    def send(self, data):
        self.socket.sendall(data)

    def answer(self, method="GET"):
        """Status, headers and JSON body of the next answer."""
        response = http.client.HTTPResponse(self, method=method)
        response.begin()
        body = response.read()
        return response.status, response.headers, json.loads(body) if body[:1] == b"{" else body

    def rest(self):
        """Everything until the server closes."""
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while block := self.file.read1(65536):
                data += block
        return data


def head(path="/v1/files/batch", *lines, method="POST", host="localhost"):
    return b"\r\n".join([f"{method} {path} HTTP/1.1".encode(), f"Host: {host}".encode(), *lines, b"", b""])


def multipart(*parts, batch="b", end=True):
    body = b'--X\r\nContent-Disposition: form-data; name="batch_id"\r\n\r\n%s\r\n' % batch.encode()
    for name, data in parts:
        body += b'--X\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n%s\r\n' % (name, data)
    return body + (b"--X--\r\n" if end else b"")


ENCODED = b'--X\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n%s\r\n\r\n'
FORM = b"Content-Type: multipart/form-data; boundary=X"


def length(body):
    return b"Content-Length: %d" % len(body)


def ask(server, data, method="POST"):
    with Client(server) as client:
        client.send(data)
        return client.answer(method)


def upload(server, body, *lines):
    return ask(server, head("/v1/files/batch", FORM, length(body), *lines) + body)


def jobs(store):
    return store.count("SELECT count(*) FROM outbox WHERE topic = 'uploads.files'")


# --- one request is one request


def test_a_body_of_a_get_is_not_the_next_request(intake, store):
    smuggled = head("/v1/content", length(b"abc")) + b"abc"
    with Client(intake) as client:
        client.send(head("/healthz", length(smuggled), b"Connection: close", method="GET") + smuggled)
        answers = client.rest()
    assert answers.count(b"HTTP/1.1 ") == 1
    assert answers.startswith(b"HTTP/1.1 200 ")
    with Client(intake) as client:  # without Connection: close either
        client.send(head("/healthz", length(smuggled), method="GET") + smuggled)
        assert client.answer()[0] == 200
        assert client.rest() == b""


@pytest.mark.parametrize(
    "lines",
    [
        (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: chunked", b"Content-Length: 5"),
        (b"Content-Length: 5", b"Content-Length: 6"),
        (b"Content-Length: 5, 6",),
        (b"Content-Length: +5",),
        (b"Content-Length: 5_0",),
        (b"Content-Length: \xb2",),
        (b"Content-Length : 5",),
        (b" Content-Length: 5",),
        (b"Content-Length:\x0b5",),
        (b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
        (b"Transfer-Encoding: gzip, chunked",),
        (b"Transfer-Encoding: xchunked",),
        (b"Host: other", b"Content-Length: 5"),
        (b"no colon at all",),
        (b"Name: with\x00zero",),
        (b"N\xe4me: value",),
        (b": no name",),
        (b"Content-Length: " + b"9" * 30,),
    ],
)
def test_what_has_two_readings_is_refused_with_a_problem_and_the_connection_ends(shared, lines):
    with Client(shared) as client:
        client.send(head("/v1/content", *lines) + b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        status, headers, body = client.answer()
        assert status in {400, 501}
        assert headers["Content-Type"] == "application/problem+json"
        assert headers["Connection"] == "close"
        assert body["status"] == status
        assert body["error"] == body["detail"]
        assert client.rest() == b""


@pytest.mark.parametrize("line", [b"GET /healthz", b"GET  /healthz HTTP/1.1", b"get\x00 / HTTP/1.1", b"GET / HTTP/9.9", b"\x16\x03\x01"])  # fmt: skip
def test_what_is_no_request_line_is_answered_too(shared, line):
    with Client(shared) as client:
        client.send(line + b"\r\nHost: localhost\r\n\r\n")
        assert client.answer()[0] in {400, 505}


def test_requests_on_one_connection_are_answered_in_their_order(intake, store):
    body = multipart((b"a.txt", TEXT))
    with Client(intake) as client:
        client.send(head("/v1/files/batch", FORM, length(body)) + body + head("/healthz", method="GET"))
        assert client.answer()[0] == 202
        assert client.answer()[2] == {"status": "ok"}
    assert jobs(store) == 1


@pytest.mark.parametrize("cut", [0, 1, 10, 200])
def test_a_client_that_sends_no_more_still_gets_its_answer(intake, store, cut):
    body = multipart((b"a.txt", TEXT * 5))
    whole = head("/v1/files/batch", FORM, length(body)) + body
    with Client(intake) as client:
        client.send(whole[: len(whole) - cut])
        client.socket.shutdown(socket.SHUT_WR)
        assert client.answer()[0] == (400 if cut else 202)
        assert client.rest() == b""
    with Client(intake) as client:
        client.send(whole + head("/healthz", method="GET"))
        client.socket.shutdown(socket.SHUT_WR)
        assert [client.answer()[0], client.answer()[0]] == [202, 200]
        assert client.rest() == b""
    assert jobs(store) == 1


def test_a_body_may_come_in_chunks(intake, store):
    body = multipart((b"a.txt", TEXT))
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[:7], body[7:100], body[100:]))
    assert ask(intake, head("/v1/files/batch", FORM, b"Transfer-Encoding: chunked") + chunks + b"0\r\n\r\n")[0] == 202
    assert jobs(store) == 1
    endless = b"Transfer-Encoding: chunked"
    status, _, problem = ask(intake, head("/v1/content", endless) + b"2711\r\n" + b"x" * 10_001 + b"\r\n")
    assert (status, problem["error"]) == (413, "the file is larger than the limit")


# --- answers


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (head("/v1/files/batch", FORM), 411),
        (head("/v1/content"), 411),
        (head("/v1/files/batch", FORM, b"Content-Length: 40001"), 413),
        (head("/v1/content", b"Content-Length: 10001"), 413),
        (head("/v1/content", b"Content-Length: 9999999999999999"), 413),
        (head("/v1/batches", b"Content-Length: 9999999999999999"), 413),
        (head("/v1/content", b"Content-Length: 1", b"Content-Encoding: gzip"), 415),
        (head("/v1/files/batch", b"Content-Type: text/plain", b"Content-Length: 1"), 415),
        (head("/v1/files/batch", b"Content-Type: multipart/form-data", b"Content-Length: 1"), 415),
        (head("/v1/files/batch", FORM + b"X" * 300, b"Content-Length: 1"), 415),
        (head("/" + "a" * 5000, method="GET"), 414),
        (head("/healthz", b"X: " + b"a" * 20_000, method="GET"), 431),
        (head("/healthz", *[b"X%d: %s" % (i, b"a" * 90) for i in range(200)], method="GET"), 431),
        (head("/v1/files/batch", method="GET"), 405),
        (head("/healthz", b"Content-Length: 0"), 405),
        (head("/v1/content?content_typ=processing_log", b"Content-Length: 1"), 400),
        (head("/v1/files/batch?batch_id=b", FORM, b"Content-Length: 1"), 400),
        (head("/v1/batches?batch_id=b", b"Content-Length: 1"), 400),
        (head("/v2", b"Content-Length: 0"), 404),
        (head("/v1/content", b"Content-Length: 1", b"Host: localhost"), 400),
        (head("/healthz", method="GET", host="evil.example"), 421),
        (head("/healthz", method="GET", host="evil.example:8080"), 421),
        (head("/healthz", method="GET", host="localhost@evil.example"), 400),
    ],
)
def test_a_refusal_is_a_problem_document(shared, request_head, status):
    found, headers, body = ask(shared, request_head)
    assert found == status
    assert headers["Content-Type"] == "application/problem+json"
    assert (body["status"], body["type"], body["detail"]) == (status, "about:blank", body["error"])
    assert ("Allow" in headers) == (status == 405)


def test_head_has_no_body_and_two_keys_are_one_too_many(shared):
    with Client(shared) as client:
        client.send(head("/healthz", method="HEAD") + head("/healthz", method="GET"))
        assert client.answer("HEAD")[2] == b""
        assert client.answer()[0] == 200
    body = multipart((b"a.txt", TEXT))
    status, _, problem = upload(shared, body, b"Idempotency-Key: a", b"Idempotency-Key: b")
    assert (status, problem["error"]) == (400, "Idempotency-Key: expected once")


def test_a_client_that_asks_first_is_told_to_go_on_or_not(intake, store):
    body = multipart((b"a.txt", TEXT))
    with Client(intake) as client:
        client.send(head("/v1/files/batch", FORM, length(body), b"Expect: 100-continue"))
        assert client.file.readline().startswith(b"HTTP/1.1 100 ")
        while client.file.readline() != b"\r\n":
            pass
        client.send(body)
        assert client.answer()[0] == 202
    assert ask(intake, head("/v1/content", b"Content-Length: 10001", b"Expect: 100-continue"))[0] == 413


# --- limits are enforced while reading: these clients never finish their body


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (multipart(*[(b"%d" % i, b"x") for i in range(4)], end=False), 413),
        (multipart((b"a", b"x" * 11_000), end=False), 413),
        (multipart(batch="b" * 5000, end=False), 413),
        (b'--X\r\nContent-Disposition: form-data; name="' + b"n" * 5000, 400),
        (b"--X\r\n" + b"A: b\r\n" * 20, 400),
        (b"".join(b'--X\r\nContent-Disposition: form-data; name="f%d"\r\n\r\nx\r\n' % i for i in range(30)), 413),
        (multipart(end=False) + multipart(end=False), 400),
        (b"--X\r\nno colon\r\n\r\n", 400),
        (b"--Y\r\n", 400),
        (b"preamble\r\n--X\r\n", 400),
        # What would be lost, or kept as something else, behind a 202:
        (multipart(end=False) + b'--X\r\nContent-Disposition: form-data; name="files"\r\n\r\ntext', 400),
        (multipart(end=False) + b'--X\r\nContent-Disposition: form-data; name="File[]"\r\n\r\ntext', 400),
        (multipart(end=False) + b"--X\r\nContent-Type: text/plain\r\n\r\ntext", 400),
        (multipart(end=False) + b"--X\r\nContent-Disposition: form-data\r\n\r\ntext", 400),
        (b'--X\r\nContent-Disposition: form-data; name="f"; filename="a"; filename="b"\r\n\r\n', 400),
        (b'--X\r\nContent-Disposition: form-data; name="f"; name="batch_id"; filename="a"\r\n\r\n', 400),
        (ENCODED % b"Content-Transfer-Encoding: base64", 415),
        (ENCODED % b"content-transfer-encoding: Quoted-Printable", 415),
        (ENCODED % b"Content-Encoding: gzip", 415),
    ],
)
def test_a_form_is_refused_before_it_ends(shared, start, status):
    with Client(shared) as client:
        client.send(head("/v1/files/batch", FORM, b"Content-Length: 40000") + start)
        found, headers, _ = client.answer()
        assert (found, headers["Connection"]) == (status, "close")


def test_the_cost_of_a_part_does_not_grow_with_the_length_of_its_headers_squared(serving):
    """A hundred thousand header lines took minutes; now the parser stops at the 17th."""
    server = serving(request_bytes=10_000_000)
    body = b"--X\r\n" + b"A: b\r\n" * 1_000_000
    with Client(server) as client:
        client.send(head("/v1/files/batch", FORM, length(body)) + body[:200_000])
        assert client.answer()[0] == 400


def test_unfinished_bodies_cost_disk_not_memory_and_are_bounded_in_number(serving, tmp_path):
    size, incoming = 4_000_000, tmp_path / "incoming"
    incoming.mkdir()
    server = serving(requests=3, file_bytes=2 * size, request_bytes=3 * size, options={"incoming": str(incoming)})
    start = multipart((b"a.txt", b"x" * size), end=False)
    tracemalloc.start()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(server)) for _ in range(3)]
        for client in clients:
            client.send(head("/v1/files/batch", FORM, b"Content-Length: %d" % (3 * size)) + start)
        held = tracemalloc.get_traced_memory()[1]
        status, headers, body = upload(server, multipart((b"a.txt", TEXT)))
        assert (status, headers["Retry-After"], body["kind"]) == (503, "1", "busy")
        assert ask(server, head("/readyz", method="GET"))[0] == 503
        assert ask(server, head("/healthz", method="GET"))[0] == 200
    tracemalloc.stop()
    assert held < 2 * size  # our own copy of what is sent, and a few blocks
    assert list(incoming.iterdir()) == []


def test_more_connections_than_allowed_are_told_so(serving):
    server = serving(connections=2)
    with Client(server) as one, Client(server) as two:
        for client in (one, two):
            client.send(head("/healthz", method="GET"))
            assert client.answer()[0] == 200
        with Client(server) as third:
            status, headers, _ = third.answer()
            assert (status, headers["Retry-After"]) == (503, "1")


# --- deadlines


@pytest.mark.parametrize("start", [b"GET /healthz HT", head("/v1/content", b"Content-Length: 5") + b"ab"])
def test_what_stands_still_is_answered_408(serving, start):
    with Client(serving(idle_s=0.2)) as client:
        client.send(start)
        status, headers, _ = client.answer()
        assert (status, headers["Connection"]) == (408, "close")
        assert client.rest() == b""


def test_a_connection_that_says_nothing_is_closed(serving):
    with Client(serving(idle_s=0.2)) as client:
        assert client.rest() == b""


def test_a_body_that_trickles_has_a_deadline_in_all(serving):
    """It sent a byte within each idle deadline and held its thread for ever."""
    server = serving(idle_s=30.0, request_s=0.3)
    ended = threading.Event()
    with Client(server) as client:

        def trickle():
            with contextlib.suppress(OSError):
                while not ended.wait(0.05):
                    client.send(b"x")

        client.send(head("/v1/content", b"Content-Length: 9000"))
        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            assert client.answer()[0] == 408
        finally:
            ended.set()
            thread.join()


@pytest.mark.parametrize(
    "start", [b"", b"POST /v1/con", head("/v1/content", b"Content-Length: 9") + b"ab", head("/healthz", method="GET")]
)
def test_no_client_holds_the_stop(objects, store, clock, start):
    with opened(objects, store, clock, limits={"idle_s": 60.0}) as server, Client(server) as client:
        client.send(start)
        if start.startswith(b"GET"):
            client.answer()
        server.stop()
        assert not server._thread.is_alive()
        client.rest()


# --- what 202 means


def test_a_202_comes_after_the_raw_file_and_the_job(serving, store, objects):
    seen = []

    class Watching(ContentStore):
        def store_content(self, data, content_type):
            key = super().store_content(data, content_type)
            seen.append((self.objects.get(key), jobs(store)))
            return key

    server = serving(content=Watching(objects))
    assert upload(server, multipart((b"a.txt", TEXT), (b"b.txt", b"other")))[0] == 202
    assert seen == [(TEXT, 0), (b"other", 0)]
    assert jobs(store) == 2


def test_a_full_disk_is_503_and_throws_nothing_away(serving, store, objects):
    """It was 202, and the file was gone: RAW_STORAGE_FAILED."""

    class Full(ContentStore):
        def store_content(self, data, content_type):
            raise StorageFullError("no space")

    for path, body in (("/v1/files/batch", multipart((b"a.txt", TEXT))), ("/v1/content", TEXT)):
        status, headers, problem = ask(serving(content=Full(objects)), head(path, FORM, length(body)) + body)
        assert (status, headers["Retry-After"], problem["kind"]) == (503, "30", "disk_full")
    assert store.count("SELECT count(*) FROM outbox") == 0


def test_below_the_low_watermark_nothing_is_taken(serving, store, tmp_path):
    server = serving(min_free_bytes=1 << 62, options={"watched": [str(tmp_path)]})
    status, headers, problem = upload(server, multipart((b"a.txt", TEXT)))
    assert (status, headers["Retry-After"], problem["kind"]) == (503, "30", "disk_full")
    status, _, problem = ask(server, head("/readyz", method="GET"))
    assert (status, problem["error"]) == (503, "not well: disk")
    assert store.count("SELECT count(*) FROM outbox") == 0


def test_an_upload_waits_for_a_handlers_transaction_for_a_moment_only(tmp_path, objects, clock):
    """A handler of 25 seconds in a transaction held every upload for as long."""
    path = str(tmp_path / "h.db")
    handler = LocalDatabase(path, durability="normal")
    database = LocalDatabase(path, durability="normal", busy_timeout_s=0.05, lock_timeout_s=0.05)
    body = multipart((b"a.txt", TEXT))
    with opened(objects, LocalStore(database, clock, ""), clock) as server:
        with handler.transaction():
            handler.execute("INSERT INTO state (name, doc) VALUES ('x', '{}')")
            status, headers, problem = upload(server, body)
            assert (status, headers["Retry-After"], problem["kind"]) == (503, "1", "busy")
        with database.lock:  # another thread of the intake
            assert upload(server, body)[2]["kind"] == "busy"
        assert upload(server, body)[0] == 202
    database.close()
    handler.close()


# --- who is served


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"Origin: https://evil.example", 403),
        (b"Origin: null", 403),
        (b"Origin: http://localhost.evil.example", 403),
        (b"Sec-Fetch-Site: cross-site", 403),
        (b"Sec-Fetch-Site: same-site", 403),
        (b"Origin: http://localhost", 202),
        (b"Origin: https://app.example", 202),
        (b"Origin: https://behind.a.proxy\r\nSec-Fetch-Site: same-origin", 202),
        (b"Sec-Fetch-Site: same-origin", 202),
        (b"Sec-Fetch-Site: none", 202),
    ],
)
def test_a_page_of_another_origin_may_not_post(shared, line, status):
    assert upload(shared, multipart((b"fine.txt", TEXT)), line)[0] == status


def test_other_names_are_served_when_they_are_allowed(serving):
    server = serving(IntakeAccess(hosts=("uploads.example",)))
    for host, status in (("uploads.example:8080", 200), ("UPLOADS.example", 200), ("127.0.0.1", 200), ("[::1]", 200), ("x", 421)):  # fmt: skip
        assert ask(server, head("/healthz", method="GET", host=host))[0] == status


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"X: y", 401),
        (b"Authorization: Bearer wrong", 401),
        (b"Authorization: Basic " + TOKEN.encode(), 401),
        (b"Authorization: Bearer " + TOKEN.encode() + b"\r\nAuthorization: Bearer x", 401),
        (b"Authorization: Bearer " + TOKEN.encode(), 202),
        (b"Authorization: bearer " + TOKEN.encode(), 202),
    ],
)
def test_the_token_is_asked_for(serving, store, line, status):
    server = serving(IntakeAccess(token=TOKEN))
    found, headers, _ = upload(server, multipart((b"a.txt", TEXT)), line)
    assert (found, "WWW-Authenticate" in headers) == (status, status == 401)
    assert ask(server, head("/metrics", *line.split(b"\r\n"), method="GET"))[0] == (401 if status == 401 else 200)
    assert ask(server, head("/healthz", method="GET"))[0] == 200
    assert TOKEN not in repr(server.access)


@pytest.mark.parametrize(
    ("host", "access", "message"),
    [
        ("0.0.0.0", IntakeAccess(), "serve.host: 0.0.0.0 can be reached from other machines"),
        ("::", IntakeAccess(), "serve.host: :: can be reached"),
        ("uploads.example", IntakeAccess(), "serve.host: uploads.example can be reached"),
        ("127.0.0.1", IntakeAccess(token="short"), "serve.token_env: expected a token of at least 16 characters"),
        ("127.0.0.1", IntakeAccess(tls_cert="a.pem"), "serve.tls_cert, serve.tls_key: expected both or neither"),
        ("127.0.0.1", IntakeAccess(client_ca="a.pem"), "serve.client_ca: client certificates need TLS"),
        ("127.0.0.1", IntakeAccess(tls_cert="/no", tls_key="/no"), "serve.tls_cert, serve.tls_key, serve.client_ca: cannot be used"),
    ],
)  # fmt: skip
def test_elsewhere_is_refused_without_a_token_or_certificates(host, access, message):
    with pytest.raises(ConfigError) as caught:
        IntakeServer(None, host, access=access)
    assert str(caught.value).startswith(message)


def test_a_port_that_is_taken_is_one_sentence(intake):
    with pytest.raises(ConfigError, match="cannot listen at 127.0.0.1") as caught:
        IntakeServer(None, port=int(intake.url.rsplit(":", 1)[1]))
    assert caught.value.kind is Kind.ADDRESS_IN_USE


# --- batches, health, logs


def registered(store):
    rows = store.db.execute("SELECT body FROM outbox WHERE topic LIKE '%registered%' ORDER BY id")
    return [(d["batch_id"], d["expected_count"]) for (text,) in rows for d in [json.loads(text)["data"]]]


def test_how_many_files_a_batch_has_can_be_registered(intake, store):
    """Nothing could, and every batch ended by its time-out."""

    def register(body):
        return ask(intake, head("/v1/batches", length(body)) + body)[::2]

    assert register(b'{"batch_id": "b", "expected_count": 2}') == (202, {"batch_id": "b", "expected_count": 2})
    assert register(b'{"batch_id": "b", "expected_count": 2}')[0] == 202
    status, problem = register(b'{"batch_id": "b", "expected_count": 3}')
    assert (status, problem["kind"]) == (422, "payload_mismatch")
    for bad in (b"", b"[]", b"{", b"[" * 50_000, b'{"batch_id": "b"}', b'{"batch_id": "b", "expected_count": 0}',
                b'{"batch_id": "b", "expected_count": true}', b'{"batch_id": " ", "expected_count": 1}',
                b'{"batch_id": "b", "expected_count": 1, "expected_count": 2}',
                b'{"batch_id": "b", "expected_count": 1, "more": 1}', b'{"batch_id": 7, "expected_count": 1}'):  # fmt: skip
        assert register(bad)[0] == 400, bad
    field = b'--X\r\nContent-Disposition: form-data; name="expected_count"\r\n\r\n%s\r\n'
    body = multipart((b"a.txt", TEXT), batch="c")
    assert upload(intake, field % b"1" + body)[0] == 202
    assert upload(intake, field % b"1" + body)[0] == 202  # the same again
    assert upload(intake, field % b"5" + body)[0] == 422
    assert upload(intake, field % b"-1" + body)[0] == 400
    assert upload(intake, field % b"1" + field % b"1" + body)[0] == 400
    assert registered(store) == [("b", 2), ("c", 1)]
    assert jobs(store) == 1


def test_health_says_what_does_not_run(serving):
    wrong = []
    server = serving(options={"health": lambda: wrong})
    assert ask(server, head("/healthz", method="GET"))[2] == {"status": "ok"}
    wrong.append("loop")
    status, headers, problem = ask(server, head("/healthz", method="GET"))
    assert (status, problem["error"], "Retry-After" in headers) == (503, "not well: loop", True)
    assert ask(server, head("/readyz", method="GET"))[2] == {"status": "ready"}


def test_the_access_log_knows_nobody(intake, caplog):
    secret = b"maria-garcia"
    with caplog.at_level(logging.DEBUG):
        body = multipart((secret + b".txt", TEXT), batch="maria-garcia")
        agent = b"User-Agent: maria-garcia", b"X-Correlation-ID: c", b"Referer: http://maria-garcia"
        assert upload(intake, body, *agent)[0] == 202
        assert ask(intake, head("/maria-garcia?maria-garcia", method="GET"))[0] == 404
        assert ask(intake, b"maria-garcia\r\n\r\n")[0] == 400
        assert upload(intake, b"--X\r\nmaria-garcia\r\n\r\n")[0] == 400
    lines = [r for r in caplog.records if r.name == "headgate.serve.access"]
    assert [(r.method, r.route, r.status) for r in lines] == [
        ("POST", "/v1/files/batch", 202), ("GET", "other", 404), ("POST", "/v1/files/batch", 400)
    ]  # fmt: skip
    for record in caplog.records:
        about = {k: v for k, v in vars(record).items() if k != "batch_id"}
        assert "maria" not in str(about)
        assert "127.0.0.1" not in str(about) or record.name == "asyncio"
    assert intake.metrics.value("headgate_http_requests_total", route="other", status="404") == 1


def test_a_bug_is_answered_without_its_text(serving, objects, store, caplog, monkeypatch):
    server = serving()

    def broken(*_, **__):
        raise RuntimeError("token=sesame")

    monkeypatch.setattr(server.service, "accept", broken)
    status, _, problem = upload(server, multipart((b"a.txt", TEXT)))
    assert (status, problem["error"]) == (500, "a bug in headgate; nothing is promised")
    assert "sesame" not in str(problem) + str([vars(r) for r in caplog.records])


# --- TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A certificate authority, a server's certificate, and a client's."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words):
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)

    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(*new, "-x509", "-days", "2", "-subj", "/CN=headgate tests", "-keyout", "ca.key", "-out", "ca.pem")
    for name in ("server", "client"):
        openssl(*new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
                "-extfile", "names", "-out", f"{name}.pem")  # fmt: skip
    return folder


def ask_by_tls(server, certificates, *, with_certificate):
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    if with_certificate:
        context.load_cert_chain(str(certificates / "client.pem"), str(certificates / "client.key"))
    with Client(server) as plain, context.wrap_socket(plain.socket, server_hostname="localhost") as secure:
        secure.sendall(head("/healthz", b"Connection: close", method="GET"))
        return secure.recv(65536)


def test_only_clients_with_a_certificate_are_served(serving, certificates):
    pem = [str(certificates / name) for name in ("server.pem", "server.key", "ca.pem")]
    access = IntakeAccess(tls_cert=pem[0], tls_key=pem[1], client_ca=pem[2])
    server = serving(access)
    assert server.url.startswith("https://")
    access.check_listening("0.0.0.0")
    assert ask_by_tls(server, certificates, with_certificate=True).startswith(b"HTTP/1.1 200 ")
    with contextlib.suppress(ssl.SSLError, ConnectionResetError):
        assert ask_by_tls(server, certificates, with_certificate=False) == b""
    server.change(IntakeLimits(), access)  # certificates are read anew
    assert ask_by_tls(server, certificates, with_certificate=True).startswith(b"HTTP/1.1 200 ")
    with pytest.raises(ConfigError, match="with a restart only"):
        server.change(IntakeLimits(), IntakeAccess())
    with Client(server) as client:  # plain HTTP on the port of TLS
        client.send(head("/healthz", method="GET"))
        assert b"HTTP/1.1 200" not in client.rest()
