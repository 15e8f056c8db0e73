"""File names as clients send them: in any encoding, with paths, with characters that no log should see raw."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePath
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

from headgate.errors import InvalidInputError, Kind

_MAX_LENGTH = 255  # characters; what most file systems take as bytes or UTF-16 units
_UNNAMED = "unnamed"
_UNSAFE_CATEGORIES = {"Cc", "Zl", "Zp"}  # control characters, line and paragraph separators
# They reverse what follows when shown: "exe.txt" may be a name that ends in "txt.exe".
_DIRECTION_MARKS = {chr(n) for n in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
_PARAMETER = re.compile(rb';\s*([^\s=;"]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*)', re.DOTALL)
_SECTION = re.compile(rb"filename\*(\d{1,2})(\*?)")  # RFC 2231: a long name in parts
_ENCODED_WORDS = re.compile(r"(?:=\?[\w.-]+\?[BbQq]\?[^?\s]*\?=\s*)+", re.ASCII)
# What browsers percent-encode in a form's names, and nothing else (WHATWG HTML, "multipart/form-data" encoding).
_FORM_ESCAPES = {b"%22": b'"', b"%0D": b"\r", b"%0A": b"\n", b"%0d": b"\r", b"%0a": b"\n"}


def clean_file_name(name: str) -> str:
    """The name under which a file goes on: without folders, without characters that control a terminal or a log.

    Folders before the name are dropped ("C:\\\\essays\\\\a.txt" and "../a.txt" become "a.txt"), each control character,
    line separator and text-direction mark becomes "_", and a name longer than 255 characters keeps its beginning and
    its suffix. Cleaning a clean name changes nothing.

    Args:
        name: as the client sent it; empty where it sent none.

    Raises:
        InvalidInputError: not text, or text with a lone surrogate (a name that was decoded wrongly).

    Example:
        >>> clean_file_name("../essays/caf\\u00e9\\n.txt")
        'café_.txt'
    """
    given: Any = name
    if not isinstance(given, str):
        message = f"files: expected a file's name as text, got {type(name).__name__}"
        raise InvalidInputError(message, Kind.INVALID_RECORD)
    if any("\ud800" <= char <= "\udfff" for char in name):
        message = "files: a file's name is not text: it holds a lone surrogate"
        raise InvalidInputError(message, Kind.INVALID_UNICODE)
    if not name:
        return ""
    last = re.split(r"[\\/]", name.rstrip("\\/"))[-1]
    clean = "".join("_" if _is_unsafe(char) else char for char in last)
    if clean in {"", ".", ".."}:
        return _UNNAMED
    if len(clean) > _MAX_LENGTH:
        suffix = PurePath(clean).suffix
        suffix = suffix if len(suffix) < _MAX_LENGTH else ""
        clean = clean[: _MAX_LENGTH - len(suffix)] + suffix
    return clean


def form_file_name(headers: bytes) -> str | None:
    """The file name in the headers of a part of a form (RFC 7578), or None where the part is no file.

    `filename*` (RFC 8187) is preferred, and its parts (RFC 2231) are joined. A plain `filename` is UTF-8, as browsers
    send it, or else Windows-1252; encoded words of mails (RFC 2047) are read, and escapes are undone: `%22`, `%0D` and
    `%0A` (browsers), a backslash before a quote or a backslash (curl).

    Args:
        headers: the header lines of the part, as they came.

    Example:
        >>> form_file_name(b'Content-Disposition: form-data; name="files"; filename="caf\\xe9.txt"')
        'café.txt'
    """
    unfolded = re.sub(rb"\r?\n[ \t]+", b" ", headers)
    for line in unfolded.splitlines():
        field, colon, value = line.partition(b":")
        if colon and field.strip().lower() == b"content-disposition":
            return _name_in(value)
    return None


def parameter_names(header: bytes) -> list[bytes]:
    """The names of a header's parameters, as they came: `form-data; name="files"; filename="a"` has name, filename."""
    return [name for name, _ in _PARAMETER.findall(header)]


def _name_in(disposition: bytes) -> str | None:
    parameters: dict[bytes, bytes] = {}
    for name, value in _PARAMETER.findall(disposition):
        parameters.setdefault(name.lower(), value)
    if b"filename*" in parameters:
        extended = _decode_extended(_unquoted(parameters[b"filename*"]))
        if extended is not None:
            return extended
    if b"filename" not in parameters:
        # One that cannot be read is a name all the same: the part is a file.
        unread = parameters.get(b"filename*")
        return _joined(parameters) if unread is None else _decode(_unquoted(unread))
    plain = _unquoted(parameters[b"filename"])
    return _without_encoded_words(_decode(re.sub(rb"%(?:22|0[DdAa])", lambda found: _FORM_ESCAPES[found[0]], plain)))


def _joined(parameters: dict[bytes, bytes]) -> str | None:
    """A name in parts, `filename*0`, `filename*1` and so on; or None: there is none."""
    parts = sorted((int(found[1]), bool(found[2]), value) for name, value in parameters.items()
                   if (found := _SECTION.fullmatch(name)))  # fmt: skip
    if not parts:
        return None
    if not any(is_encoded for _, is_encoded, _ in parts):
        return _decode(b"".join(_unquoted(value) for _, _, value in parts))
    joined = b"".join(_unquoted(value) if is_encoded else quote_from_bytes(_unquoted(value)).encode()
                      for _, is_encoded, value in parts)  # fmt: skip
    extended = _decode_extended(joined)
    return _decode(joined) if extended is None else extended


def _without_encoded_words(name: str) -> str:
    """A name that a client wrote as a mail's header (RFC 2047): `=?UTF-8?B?w6kudHh0?=` is `é.txt`."""
    if not _ENCODED_WORDS.fullmatch(name):
        return name
    from email.header import decode_header, make_header

    try:
        return str(make_header(decode_header(name)))
    except (ValueError, LookupError, UnicodeError):
        return name


def _unquoted(value: bytes) -> bytes:
    value = value.strip()
    if len(value) > 1 and value.startswith(b'"') and value.endswith(b'"'):
        return re.sub(rb'\\(["\\])', rb"\1", value[1:-1])
    return value


def _decode(data: bytes) -> str:
    for encoding in ("utf-8", "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")  # gives every byte a character; cp1252 leaves five out


def _decode_extended(value: bytes) -> str | None:
    """`charset'language'percent-encoded`; None where it cannot be read, so that the plain name is taken."""
    charset, _, rest = value.partition(b"'")
    _, found, text = rest.partition(b"'")
    if not found:
        return None
    try:
        return unquote_to_bytes(text).decode(charset.decode("ascii") or "utf-8")
    except (LookupError, UnicodeError):
        return None


def _is_unsafe(char: str) -> bool:
    return unicodedata.category(char) in _UNSAFE_CATEGORIES or char in _DIRECTION_MARKS
