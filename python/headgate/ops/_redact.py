"""What a secret looks like, in text and in values: by its name, by where it stands, or by its own form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

HIDDEN = "****"
_DEPTH = 8  # of nested values; what lies deeper is shown as a whole, redacted as text
_ITEMS = 1000

# Part of a name: DB_PASSWORD, client_secret, aws_session_token, X-Amz-Signature, apiKey. Not of `token_env`, which
# names a variable, nor of `tokens` and `token_count`, which count.
_SECRET_NAME = re.compile(
    r"(?i)token(?!s\b|_count|_env|ize)|secret(?!_arn|_env)|passw(?:or)?d|passphrase|\bpwd|api[_-]?key|access[_-]?key"
    r"|private[_-]?key|account[_-]?key|shared[_-]?key|credential|authorization|amz-signature|\bsig(?:nature)?\b|cookie"
)
# A name, what stands between it and its value, and the scheme of an authorization.
_NAME = re.compile(
    r"""(?i)(?<![\w.-])([\w.-]{1,200})(\\?["']?\s{0,3}(?:=>|[=:])\s{0,3})"""
    r"""((?:(?:token|bearer|basic|digest|negotiate|aws4-hmac-sha256)\s{1,3})?)"""
)
_VALUE = re.compile(
    r"""(?xs)
      b?"(?:[^"\\]|\\.)*"                    # a quoted value, to its closing quote
    | b?'(?:[^'\\]|\\.)*'
    | b?\\"(?:[^"\\]|\\\\\\.|\\[^"\\])*\\"   # one in text that is quoted itself
    | b?\\?["'].*                            # one that was cut: all that is left
    | [^\s"'&]+                              # or to the next white space
    """
)
# A URL's user information ends at the last @: passwords with @, / and , are as common as the encoding of them is not.
_WORD = re.compile(r"""[^\s"'<>]+""")
_URL = re.compile(r"(?i)\b[a-z][a-z0-9+.-]{0,30}:/{0,3}")
_FORMS = re.compile(
    r"""(?x)
    \b(?:AKIA|ASIA)[0-9A-Z]{16}\b                                             # an access key's id of AWS
    | \beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*                                       # a JSON web token
    | \bgh[pousr]_\w{20,}                                                     # a token of GitHub
    | -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY-----.*?(?:-----END[ ][A-Z ]*PRIVATE[ ]KEY-----|\Z)
    """,
    re.DOTALL,
)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+([\w.~+/=-]{8,})")


def redact(text: str) -> str:
    """The text with secrets replaced by ****.

    Example:
        >>> redact("redis://u:p@w/x@h/0 token=abc")
        'redis://u:****@h/0 token=****'
    """
    text = _FORMS.sub(HIDDEN, text)
    if "@" in text:
        text = _WORD.sub(_hide_user, text)
    text = _BEARER.sub(lambda m: f"{m[1]} {HIDDEN}", text)
    parts, end = [], 0
    for found in _NAME.finditer(text):
        value = _VALUE.match(text, found.end()) if found.start() >= end and _SECRET_NAME.search(found[1]) else None
        if value is not None:
            parts += [text[end : found.end()], _hidden(value[0])]
            end = value.end()
    return "".join([*parts, text[end:]])


def redact_value(value: Any, name: str = "", depth: int = _DEPTH) -> Any:
    """A value of a log record with secrets replaced: whole under a secret's name, and wherever one is in it.

    What is no number, text or container is its text, redacted: its own form may hold anything.
    """
    if name and _SECRET_NAME.search(name) and value is not None:
        return HIDDEN
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return redact(bytes(value).decode("utf-8", "backslashreplace"))
    if depth > 0 and isinstance(value, Mapping):
        return {
            redact(str(key)): redact_value(item, str(key), depth - 1) for key, item in list(value.items())[:_ITEMS]
        }  # fmt: skip
    if depth > 0 and isinstance(value, list | tuple | AbstractSet):
        return [redact_value(item, "", depth - 1) for item in list(value)[:_ITEMS]]
    return redact(_shown(value))


def _shown(value: Any) -> str:
    try:
        return str(value)
    except Exception as error:
        return f"<{type(value).__name__}: {type(error).__name__} when shown>"


def _hidden(value: str) -> str:
    """What is shown instead of a value: quotes and closing punctuation stay, so that the rest can be read."""
    quote = re.match(r"""b?(\\?["'])""", value)
    if quote is not None:
        return f"{quote[1]}{HIDDEN}{quote[1]}"
    end = re.search(r"[,;)\]}]+$", value)
    return f"{HIDDEN}{end[0] if end else ''}"


def _hide_user(found: re.Match[str]) -> str:
    word = found[0]
    at = word.rfind("@")
    url = _URL.search(word, 0, at) if 0 < at < len(word) - 1 else None
    if url is None:
        return word
    user, colon, _ = word[url.end() : at].partition(":")
    if "/" in user:
        return word  # an @ in a path
    return f"{word[: url.end()]}{user + colon if colon else ''}{HIDDEN}{word[at:]}"
