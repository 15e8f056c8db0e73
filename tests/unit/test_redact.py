"""Secrets in every place where a user can put one, and none of them in what operators see."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate import HeadgateError, Ledger
from headgate.ops import RedactFilter, redact
from headgate.ops._logs import JsonFormatter, TextFormatter


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("client_secret=abc", "client_secret=****"),
        ("DB_PASSWORD: abc", "DB_PASSWORD: ****"),
        ("export AWS_SECRET_ACCESS_KEY=abc/d+e", "export AWS_SECRET_ACCESS_KEY=****"),
        ("aws_session_token='a b'", "aws_session_token='****'"),
        ("key AKIAABCDEFGHIJKLMNOP used", "key **** used"),
        ("?X-Amz-Signature=abc&x=1", "?X-Amz-Signature=****&x=1"),
        ("my-refresh-token: abc", "my-refresh-token: ****"),
        ("passwd=a,b;c", "passwd=****"),
        ("(password=abc)", "(password=****)"),
        (r'{"password": "a\"b c", "n": 1}', '{"password": "****", "n": 1}'),
        ("{'secret_key': b'a b'}", "{'secret_key': '****'}"),
        (r"{\"token\": \"abc\"}", r"{\"token\": \"****\"}"),
        ('{"token": "cut in the mid', '{"token": "****"'),
        ("Authorization: Bearer abc.def rest", "Authorization: Bearer **** rest"),
        ("sent bearer abcdefghijk", "sent bearer ****"),
        ("Set-Cookie: id=abc", "Set-Cookie: ****"),
        ("redis://u:p@ss@h:1/0", "redis://u:****@h:1/0"),
        ("redis://u:p/a,s:s?#@h", "redis://u:****@h"),
        ("redis://:pw@h", "redis://:****@h"),
        ("https://ghp_0123456789012345678901@github.com", "https://****@github.com"),
        ("redis:/u:pw@h", "redis:/u:****@h"),
        ("redis:u:pw@h", "redis:u:****@h"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.abc", "****"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY----- x", "**** x"),
        ("fencing tokens: 3, token_count=4", "fencing tokens: 3, token_count=4"),
        (
            "serve.token_env: the environment variable is not set",
            "serve.token_env: the environment variable is not set",
        ),
        ("https://h/users/a@b", "https://h/users/a@b"),
        ("kept monkey: 3", "kept monkey: 3"),
    ],
)
def test_secrets_by_name_by_place_and_by_form(text, expected):
    assert redact(text) == expected
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize("text", ["token" * 4000, "a." * 10_000, "a:" * 10_000 + "@b", "x" * 50_000, "=password" * 3000, "eyJ" * 9000])  # fmt: skip
def test_the_cost_grows_with_the_text(text):
    begun = time.process_time()
    redact(text)
    assert time.process_time() - begun < 5


WORD = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=6, max_size=12).map(
    lambda word: f"Zq{word}9"
)
HARD = st.lists(WORD, min_size=1, max_size=4).flatmap(
    lambda words: st.lists(st.sampled_from("@/,:;=+-._~!#$%^*()|"), min_size=len(words), max_size=len(words)).map(
        lambda between: (words, "".join(f"{w}{b}" for w, b in zip(words, between, strict=True)).rstrip(",;)"))
    )
)
NAMES = st.sampled_from(
    ["token", "api_token", "password", "DB_PASSWORD", "client_secret", "aws_secret_access_key", "Authorization", "apiKey", "X-Api-Key"]
)  # fmt: skip


class Shows:
    def __init__(self, text):
        self.text = text

    def __str__(self):
        return f"password={self.text}"


class Broken:
    def __str__(self):
        raise RuntimeError("token=sesame")


@settings(max_examples=40, deadline=None)
@given(HARD, NAMES, st.sampled_from([JsonFormatter, TextFormatter]))
def test_no_secret_leaves_through_a_log(hard, name, formatter):
    words, secret = hard
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter())
    handler.addFilter(RedactFilter())
    log = logging.Logger("headgate.test")
    log.addHandler(handler)
    log.warning("a message with %s=%s", name, secret)
    log.warning("redis://user:%s@host:6379/0 is away", secret)
    log.warning("header %s", {name: secret})
    log.warning("%s", json.dumps({"deep": [{name: secret + ' "quoted" ' + secret}]}))
    log.warning(
        "extras",
        extra={
            name: secret, "url": f"https://u:{secret}@h/?x=1", "config": {"backend": {name: secret}, "list": [{name: secret}]},
            "body": f"{name}={secret}".encode(), "headers": [(name, f"{name}: {secret}")], "what": Shows(secret), "bad": Broken(),
            "set": {f"{name}={secret}"},
        },
    )  # fmt: skip
    try:
        try:
            raise ValueError(f"{name}={secret}")
        except ValueError as error:
            raise RuntimeError(f"https://u:{secret}@h") from error
    except RuntimeError:
        log.exception("failed")
    log.warning("too few %s %s", f"{name}={secret}")  # noqa: PLE1206 - on purpose
    text = out.getvalue()
    assert text.count("****") >= 8
    for word in words:
        assert word not in text
    assert "sesame" not in text


def test_a_text_line_is_one_line_with_a_date():
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(TextFormatter())
    handler.addFilter(RedactFilter())
    log = logging.Logger("headgate.test")
    log.addHandler(handler)
    log.warning("name \x1b[31mred\n2026-01-01 00:00:00 ERROR forged \x9b \u202e", extra={"file": "a\x1b]0;x\x07\r\nb"})
    line = out.getvalue()
    assert line.count("\n") == 1
    assert line[:10].count("-") == 2
    assert line.rstrip("\n").isprintable()
    assert r"\x1b[31mred\n2026" in line


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:sesame/1@h", "redis://u:sesame@h:x/0", "redis://u:sesame@[::1", "redis:u:sesame@h", "redis//u:sesame@h",
        "rediss://u:1?sesame@h/0", "rediss://u:sesame#1@h", "redis://u:sesame@h/x", "redis://u:p@h/0?pool_size=sesame",
        "redis+cluster://u:sesame@h:x",
    ],
)  # fmt: skip
def test_a_ledger_url_that_cannot_be_read_is_not_quoted(url, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HeadgateError) as caught:
        Ledger.open(url).claim("k")
    assert "sesame" not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize(
    ("url", "checked"),
    [
        ("rediss+cluster://h:1", True),
        ("rediss+cluster://h:1?ssl_check_hostname=false", None),
        ("rediss+cluster://h:1?ssl_cert_reqs=none", None),
        ("redis+cluster://h:1", None),
    ],
)
def test_the_names_of_a_cluster_s_nodes_are_checked(url, checked, monkeypatch):
    """redis-py did not by default before version 6: any certificate of a known authority would do."""
    cluster = pytest.importorskip("redis.cluster")
    seen = []
    monkeypatch.setattr(cluster.RedisCluster, "from_url", lambda url, **options: seen.append(options) or object())
    with contextlib.suppress(HeadgateError):
        Ledger.open(url)
    assert seen[0].get("ssl_check_hostname") is checked
