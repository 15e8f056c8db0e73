"""What goes out on the wire, and what the client makes of what comes back."""

from __future__ import annotations

import gzip
import os
import zlib

import pytest

from headgate._core import SystemClock, SystemRandom
from headgate.errors import InvalidInputError, Kind, TransientError
from headgate.resilience import (
    Failover,
    HttpClient,
    Request,
    RetryBudget,
    RetryPolicy,
    Source,
    make_breaker,
    run_with_deadline,
)
from headgate.testing.scripted import RawServer, path_of, response


def replies(data):
    def handler(peer, head, number):
        peer.sendall(data)
        return "close"

    return RawServer(handler)


@pytest.mark.parametrize("value", ["a\r\nX-Admin: 1", "a\nb", "a\rb", "a\0b", "secret\n"])
def test_a_header_value_that_breaks_the_request_is_refused_unquoted(value):
    with pytest.raises(InvalidInputError, match="header X-User") as caught:
        Request("http://127.0.0.1:1/", [("X-User", value)])
    assert "secret" not in str(caught.value)
    with pytest.raises(InvalidInputError):
        HttpClient().get("http://127.0.0.1:1/", [("X-User", value)])
    with pytest.raises(InvalidInputError):
        HttpClient(user_agent=value)


@pytest.mark.parametrize("name", ["", "X User", "X:Y", "X\r\nY", "Ünïcode"])
def test_a_header_name_is_a_token(name):
    with pytest.raises(InvalidInputError, match="name"):
        Request("http://127.0.0.1:1/", [(name, "1")])


@pytest.mark.parametrize("method", ["", "GET /other HTTP/1.1\r\nX: y", "GET\n"])
def test_a_method_is_a_token(method):
    with pytest.raises(InvalidInputError, match="method"):
        Request("http://127.0.0.1:1/", [], method)


def test_a_header_without_a_value_is_sent():
    with replies(response()) as server:
        assert HttpClient().get(server.url, [("X-Blank", "")]).status == 200
    assert b"\r\nX-Blank:" in server.seen[0]


def test_head_waits_for_no_body():
    with replies(response(b"", headers=[("Content-Length", "5000"), ("X-A", "1")], length=False)) as server:
        answer = HttpClient(timeout_s=3).request(Request(server.url, [], "HEAD"))
    assert (answer.status, answer.body, answer.header("x-a")) == (200, b"", "1")
    assert server.seen[0].startswith(b"HEAD / ")


def test_interim_responses_and_trailers_are_no_headers():
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX-A: early\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    final = b"HTTP/1.1 200 OK\r\nX-A: final\r\nTransfer-Encoding: chunked\r\nTrailer: X-B\r\n\r\n"
    with replies(early + final + b"2\r\n[]\r\n0\r\nX-B: trailer\r\nX-A: trailer\r\n\r\n") as server:
        answer = HttpClient(timeout_s=3).get(server.url)
    assert (answer.status, answer.body) == (200, b"[]")
    assert [v for k, v in answer.headers if k == "x-a"] == ["final"]
    assert answer.header("link") is None
    assert answer.header("x-b") is None


def test_a_proxys_answer_to_connect_is_not_the_servers(monkeypatch):
    def handler(peer, head, number):
        peer.sendall(b"HTTP/1.1 403 Forbidden\r\nX-Proxy: 1\r\nContent-Length: 0\r\n\r\n")
        return "close"

    with RawServer(handler) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        with pytest.raises(Exception) as caught:
            HttpClient(timeout_s=3).get("https://example.invalid/")
    assert proxy.seen[0].startswith(b"CONNECT ")
    assert caught.value.kind == "connection_failed"


TEXT = b"[1," + b" " * 4000 + b"2]"
RAW = zlib.compressobj(wbits=-15)
CODED = {
    "gzip": ("gzip", gzip.compress(TEXT)), "members": ("gzip", gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:])),
    "padding": ("gzip", gzip.compress(TEXT) + b"\0" * 10), "junk": ("gzip", gzip.compress(TEXT) + b"junk"),
    "upper": ("GZIP", gzip.compress(TEXT)), "x-gzip": ("x-gzip", gzip.compress(TEXT)),
    "twice": ("gzip, gzip", gzip.compress(gzip.compress(TEXT))), "zlib": ("deflate", zlib.compress(TEXT)),
    "bare": ("deflate", RAW.compress(TEXT) + RAW.flush()), "mixed": ("deflate,gzip", gzip.compress(zlib.compress(TEXT))),
    "unknown": ("br2", TEXT), "charset": ("utf-8", TEXT), "chunked": ("aws-chunked", TEXT), "identity": ("identity", TEXT),
    "blank": ("", TEXT),
}  # fmt: skip


@pytest.mark.parametrize("name", CODED)
def test_a_body_is_decoded_as_requests_and_httpx_do(name):
    coding, body = CODED[name]
    with replies(response(body, headers=[("Content-Encoding", coding)])) as server:
        assert HttpClient(timeout_s=3).get(server.url).body == TEXT
    assert b"\r\nAccept-Encoding: gzip, deflate\r\n" in server.seen[0]


@pytest.mark.parametrize(
    "body", [TEXT, gzip.compress(TEXT)[:-12], gzip.compress(TEXT) + gzip.compress(TEXT)[:20]],
    ids=["plain", "cut", "second member cut"],
)  # fmt: skip
def test_a_body_that_is_not_what_its_coding_says_is_no_answer(body):
    with (
        replies(response(body, headers=[("Content-Encoding", "gzip")])) as server,
        pytest.raises(TransientError) as caught,
    ):
        HttpClient(timeout_s=3).get(server.url)
    assert caught.value.kind is Kind.MALFORMED_RESPONSE


def test_the_decoded_size_counts():
    bomb = gzip.compress(gzip.compress(b"0" * 50_000_000))
    coding = [("Content-Encoding", "gzip, gzip")]
    with replies(response(bomb, headers=coding)) as server, pytest.raises(TransientError, match="limit"):
        HttpClient(timeout_s=9, max_body=1_000_000).get(server.url)


@pytest.mark.parametrize("data", [b"SSH-2.0-x\r\n", b"[1]", b"HTTP/1.1 abc OK\r\n\r\n", b"HTTP/3.0 200 OK\r\n\r\n[]"])
def test_an_answer_that_is_not_http_is_said_to_be_none(data):
    with replies(data) as server, pytest.raises(TransientError, match="not HTTP") as caught:
        HttpClient(timeout_s=3).get(server.url)
    assert caught.value.kind is Kind.MALFORMED_RESPONSE


@pytest.mark.parametrize(
    "data",
    [b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n[]", b"HTTP/1.1 200 OK\nContent-Length: 2\n\n[]"],
)
def test_small_mistakes_are_read_over(data):
    with replies(data) as server:
        assert HttpClient(timeout_s=3).get(server.url).body == b"[]"


def test_a_folded_header_is_one():
    with replies(b"HTTP/1.1 200 OK\r\nX-A: one\r\n two\r\nContent-Length: 2\r\n\r\n[]") as server:
        assert HttpClient(timeout_s=3).get(server.url).header("x-a") == "one two"


def test_a_hedged_failover_that_was_used_before_a_fork_says_so_in_the_child():
    def handler(peer, head, number):
        peer.sendall(response(f'["{path_of(head)}"]'.encode()))

    with RawServer(handler) as server:
        transport = HttpClient().transport
        failover = Failover(RetryPolicy(1), 0, 8, transport, SystemClock(), SystemRandom(), RetryBudget(), 0, 2_000_000)

        def ask(path):
            source = Source("s", [Request(server.url + path, [])], 3_000_000, make_breaker())
            return failover.fetch([source], lambda *a: "k", None)

        assert ask("/before")["bodies"] == [b'["/before"]']
        child = os.fork()
        if child == 0:
            outcome = ask("/child")
            os._exit(0 if outcome["attempts"][0]["outcome"] == "forked" and not outcome["bodies"] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert ask("/after")["bodies"] == [b'["/after"]']
        assert {path_of(head) for head in server.seen} == {"/before", "/after"}


def test_the_pool_of_calls_works_in_a_child():
    assert run_with_deadline(lambda: 1, 5) == 1  # its thread is idle now, and the child has none
    child = os.fork()
    if child == 0:
        try:
            os._exit(run_with_deadline(lambda: 0, 5))
        except BaseException:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
