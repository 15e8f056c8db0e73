"""The core's HTTP client for Python: reuse, cancelling, limits, proxies, compression, HTTP/2."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import socket
import ssl
import subprocess
import threading
import time
from datetime import UTC, datetime

import pytest

from headgate._core import CancelToken
from headgate.errors import InterruptedRunError, TransientError
from headgate.resilience import AsyncHttpClient, HttpClient, Request
from headgate.testing.feed import Feed, WrittenData
from headgate.testing.scripted import HEAD, Scripted, hang, say

OK = b"200 OK"


@pytest.fixture(scope="module")
def feed():
    with Feed(WrittenData(datetime.now(UTC))) as running:
        yield running


def test_async_forms_are_cancelled_on_the_wire(feed):
    gone = threading.Event()

    def watch(peer, over):
        peer.settimeout(20)
        if peer.recv(1) == b"":
            gone.set()

    async def main(url):
        client = AsyncHttpClient(timeout_s=60)
        task = asyncio.create_task(client.get(url))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await asyncio.gather(
            *(client.get(f"{feed.url}/tiingo/news", [("Authorization", "Token x")]) for _ in range(5))
        )

    with Scripted(watch) as server:
        answers = asyncio.run(main(server.url))
        assert gone.wait(5)  # the server saw the connection close
    assert [a.status for a in answers] == [200] * 5


def test_connections_are_reused_and_proxies_honoured(feed, monkeypatch):
    client = HttpClient()
    url = f"{feed.url}/tiingo/news?tickers=aapl"
    headers = [("Authorization", "Token x")]
    assert client.get(url, headers).status == 200
    asked = []

    def proxy(peer, over):
        asked.append(1)
        say(b"204 No Content", b"")(peer, over)

    with Scripted(proxy) as server:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.port}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert HttpClient().get(url, headers).status == 200
        assert HttpClient().get("http://somewhere.example/x").status == 204
    assert asked == [1]


def test_a_cancelled_call_ends_within_100_ms():
    took = []
    with Scripted(hang()) as server:
        client = HttpClient(timeout_s=60)
        for _ in range(5):  # the best of five: what the program does, not what a busy machine adds
            token, at = CancelToken(), []

            def cancel(token=token, at=at):
                at.append(time.monotonic())
                token.cancel()

            threading.Timer(0.1, cancel).start()
            (answer,) = client.request_many([Request(server.url, [])], cancel=token)
            took.append(time.monotonic() - at[0])
            assert isinstance(answer, InterruptedRunError)
    assert min(took) < 0.1


def test_a_connection_is_used_again():
    connections = []

    def keep(peer, over):
        connections.append(1)
        body = HEAD.replace(b"Connection: close\r\n", b"") % (OK, b"", 2) + b"[]"
        peer.sendall(body)
        while peer.recv(65536):
            peer.sendall(body)

    with Scripted(keep) as server:
        client = HttpClient()
        assert [client.get(server.url).status for _ in range(20)] == [200] * 20
    assert len(connections) == 1


def test_a_compressed_body_is_unpacked_and_its_real_size_counts():
    bomb = gzip.compress(b"[" + b" " * 5_000_000 + b"]")
    with Scripted(say(OK, bomb, b"Content-Encoding: gzip\r\n")) as server:
        assert HttpClient().get(server.url).body == b"[" + b" " * 5_000_000 + b"]"
        (answer,) = HttpClient(max_body=1_000_000).request_many([Request(server.url, [])])
    assert "larger than the limit" in str(answer)


def test_http_2_is_spoken_where_the_server_does(certificate_of_localhost):
    import h2.config
    import h2.connection
    import h2.events

    context, ca = certificate_of_localhost
    context.set_alpn_protocols(["h2"])
    spoken = []

    def act(peer, over):
        raise AssertionError("not used")

    class Server(Scripted):
        def _talk(self, peer):
            with self.context.wrap_socket(peer, server_side=True) as stream:
                spoken.append(stream.selected_alpn_protocol())
                connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
                connection.initiate_connection()
                stream.sendall(connection.data_to_send())
                while data := stream.recv(65536):
                    for event in connection.receive_data(data):
                        if isinstance(event, h2.events.RequestReceived):
                            connection.send_headers(event.stream_id, [(":status", "200")])
                            connection.send_data(event.stream_id, b"[]", end_stream=True)
                    stream.sendall(connection.data_to_send())

    with Server(act, context) as server:
        client = HttpClient(ca_file=str(ca))
        answers = client.request_many([Request(f"https://localhost:{server.port}/{i}", []) for i in range(5)])
    assert [a.body for a in answers] == [b"[]"] * 5
    assert set(spoken) == {"h2"}


@pytest.fixture
def certificate_of_localhost(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"],
        check=True, capture_output=True, cwd=tmp_path,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return context, tmp_path / "cert.pem"


def test_a_connection_that_is_not_taken_is_given_up_before_the_deadline():
    """A full backlog: the system answers no SYN."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        waiting = []
        for _ in range(4):
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(full.getsockname())
            waiting.append(s)
        begun = time.monotonic()
        client = HttpClient(timeout_s=30, connect_timeout_s=0.3)
        (answer,) = client.request_many([Request(f"http://127.0.0.1:{full.getsockname()[1]}/", [])])
        assert isinstance(answer, TransientError)
        assert time.monotonic() - begun < 10
        for s in waiting:
            s.close()
