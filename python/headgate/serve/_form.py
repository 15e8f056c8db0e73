"""A form's files, written to disk while they arrive, with every limit enforced before more is read.

The grammar is python-multipart's; this module only decides what a part may hold. All parts of a request go into one
file without a name, so that nothing of an unfinished request is left behind when the process dies.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from headgate.pipelines.uploads import SpooledFile, form_file_name
from headgate.pipelines.uploads.names import parameter_names
from headgate.serve._problems import RefusedError, bad_request, disk_full, too_large

if TYPE_CHECKING:
    from collections.abc import Callable

    from headgate.serve._http import IntakeLimits

_UNSUPPORTED = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
_KNOWN = frozenset({"batch_id", "expected_count"})  # fields that mean something; browsers' others are left unread
_FILES = frozenset({"file", "files", "file[]", "files[]"})  # under these names a client means a file
_PLAIN = frozenset({b"", b"7bit", b"8bit", b"binary"})  # transfer encodings that change no byte
_FIELD_BYTES = 4096  # of a field that is no file: ids and counts
_FIELDS = 20  # parts that are no files
_PART_HEADERS = 16
_PART_HEADER_BYTES = 4096  # of one header line of a part
_FREE_EVERY = 8 << 20  # bytes written between two looks at the free space


class Spool:
    """Bytes of one request on disk.

    Args:
        folder: on the disk that has the room; None: the system's folder for temporary files.
        has_room: asked before anything is written and every few megabytes; False refuses the request.
    """

    def __init__(self, folder: str | None, has_room: Callable[[int], bool]) -> None:
        self._has_room = has_room
        self._unchecked = _FREE_EVERY
        self.size = 0
        try:
            self._file = tempfile.TemporaryFile(dir=folder, prefix="headgate-", buffering=0)  # noqa: SIM115 - close()
        except OSError:
            raise disk_full() from None

    def write(self, data: bytes) -> None:
        """Append.

        Raises:
            RefusedError: 503; the disk is full, or nearly.
        """
        self._unchecked += len(data)
        if self._unchecked >= _FREE_EVERY:
            self._unchecked = 0
            if not self._has_room(len(data)):
                raise disk_full()
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError:
            raise disk_full() from None
        self.size += len(data)

    def read(self, offset: int, size: int) -> bytes:
        """What was written there."""
        blocks, end = [], offset + size
        while offset < end:
            block = os.pread(self._file.fileno(), end - offset, offset)
            if not block:
                message = "the spooled request is shorter than what was written"
                raise OSError(message)
            blocks.append(block)
            offset += len(block)
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    def close(self) -> None:
        """Forget it all."""
        self._file.close()


@dataclass
class _Part:
    """The part that is being read. A part without a file name is a field."""

    name: str = ""
    file_name: str | None = None
    offset: int = 0
    size: int = 0
    digest: Any = None
    value: bytes = b""


class UploadForm:
    """Reads `multipart/form-data` from pieces of a body.

    Args:
        content_type: the request's header.
        limits: files and bytes of each.
        spool: where the files go.

    Raises:
        RefusedError: 415; no form, or one without a usable boundary.
    """

    def __init__(self, content_type: bytes, limits: IntakeLimits, spool: Spool) -> None:
        kind, parameters = parse_options_header(content_type)
        boundary = parameters.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not boundary:
            raise RefusedError(_UNSUPPORTED, "expected multipart/form-data with a boundary")
        self._limits = limits
        self._spool = spool
        self._part = _Part()
        self._field, self._value = b"", b""
        self._is_whole = False
        self._has_disposition = False
        self._fields: dict[str, bytes] = {}
        self._others = 0
        self.files: list[SpooledFile] = []
        callbacks: Any = {
            "on_part_begin": self._begin, "on_header_field": self._on_field, "on_header_value": self._on_value,
            "on_header_end": self._on_header, "on_headers_finished": self._on_headers, "on_part_data": self._on_data,
            "on_part_end": self._end, "on_end": self._finish,
        }  # fmt: skip
        try:
            self._parser = MultipartParser(
                boundary, callbacks, max_header_count=_PART_HEADERS, max_header_size=_PART_HEADER_BYTES
            )
        except FormParserError:
            raise RefusedError(_UNSUPPORTED, "boundary: expected at most 70 characters") from None

    def feed(self, data: bytes) -> None:
        """Take the next piece.

        Raises:
            RefusedError: 400 for what is no form, 413 for what is larger than the limits, 503 for a full disk.
        """
        try:
            self._parser.write(data)
        except FormParserError:
            message = "the form is damaged: its parts are not what its boundary and RFC 7578 say"
            raise bad_request(message) from None

    def end(self) -> None:
        """All pieces were there.

        Raises:
            RefusedError: 400; the form has no end.
        """
        if not self._is_whole:
            message = "the form ends early, or its boundary is not the one announced"
            raise bad_request(message)

    def field(self, name: str) -> str:
        """A field's text, without white space around it; empty where the form has none."""
        return self._fields.get(name, b"").decode("utf-8", "replace").strip()

    # --- what the parser calls

    def _begin(self) -> None:
        self._part, self._has_disposition = _Part(), False

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        field, value = self._field, self._value
        self._field, self._value = b"", b""
        if field.lower() in (b"content-transfer-encoding", b"content-encoding"):
            # RFC 7578, 4.7: nobody sends them, and nobody decodes them; the file would be another one.
            if value.strip().lower() not in _PLAIN | {b"identity"}:
                message = f"{field.decode('latin-1').title()} of a part: expected the plain bytes of the file"
                raise RefusedError(_UNSUPPORTED, message)
            return
        if field.lower() != b"content-disposition":
            return
        if self._has_disposition:
            message = "a part of the form has two Content-Disposition headers"
            raise bad_request(message)
        self._has_disposition = True
        names = [name.lower() for name in parameter_names(value)]
        if names.count(b"name") > 1 or names.count(b"filename") > 1 or names.count(b"filename*") > 1:
            message = "a part of the form has two names, or two file names"
            raise bad_request(message)
        _, parameters = parse_options_header(value)
        self._part.name = parameters.get(b"name", b"").decode("utf-8", "replace")
        self._part.file_name = form_file_name(b"Content-Disposition: " + value)

    def _on_headers(self) -> None:
        part, limits = self._part, self._limits
        if part.file_name is not None:
            if len(self.files) >= limits.files:
                raise self._over_limits()
            part.offset, part.digest = self._spool.size, hashlib.sha256()
            return
        if not self._has_disposition or not part.name:
            message = "a part of the form has no name: expected Content-Disposition: form-data; name=..."
            raise bad_request(message)
        self._others += 1
        if self._others > _FIELDS:
            message = f"expected at most {_FIELDS} fields beside the files"
            raise too_large(message)
        if part.name in self._fields:
            # Which of two batches was meant, nobody can say.
            message = f"{part.name}: expected once in the form"
            raise bad_request(message)

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        part, piece = self._part, data[start:end]
        part.size += len(piece)
        if part.file_name is None:
            if part.name.lower() in _FILES and part.size:
                # Whoever sends bytes under this name means a file; an answer of 202 would promise it.
                message = f"{part.name.lower()}: expected a file, with a file name"
                raise bad_request(message)
            if part.size > _FIELD_BYTES:
                message = f"expected at most {_FIELD_BYTES} bytes in a field that is no file"
                raise too_large(message)
            part.value += piece
            return
        if part.size > self._limits.file_bytes:
            raise self._over_limits()
        part.digest.update(piece)
        self._spool.write(piece)

    def _end(self) -> None:
        part = self._part
        if part.file_name is None:
            if part.name in _KNOWN:
                self._fields[part.name] = part.value
            return
        spool, offset, size = self._spool, part.offset, part.size
        self.files.append(SpooledFile(part.file_name, size, part.digest.hexdigest(), lambda: spool.read(offset, size)))

    def _finish(self) -> None:
        self._is_whole = True

    def _over_limits(self) -> RefusedError:
        return too_large(f"expected at most {self._limits.files} files of at most {self._limits.file_bytes} bytes")
