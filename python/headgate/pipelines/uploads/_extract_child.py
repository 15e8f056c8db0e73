"""The process in which documents are read: a script of its own, without headgate, its memory and its environment.

Libraries for documents are large, and what they read is written by strangers. Here they have limits that the kernel
enforces, and nothing to take: no keys, no connections, no files of the parent.

The file comes on standard input. Standard output gets one JSON object: `text`, or `code` and `message`.
"""

from __future__ import annotations

import io
import json
import resource
import sys
import zipfile
from typing import Any

_BLOCK = 1 << 16
_TEXT_LIMIT = 64 * 1024 * 1024  # characters; the longest text that is allowed anywhere is 100 million by configuration
_OUTPUT_LIMIT = 512 * 1024 * 1024  # bytes: six for a character, in the worst case
_COMMON = "cp1252"  # what browsers take for text that names no encoding (WHATWG Encoding Standard, windows-1252)


class _NoTextError(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def main(arguments: list[str]) -> None:
    about: dict[str, Any] = json.loads(arguments[0])
    limit_resources(about["memory_bytes"], about["cpu_s"])
    sys.path[:] = about["path"]
    try:
        text = extract(about["kind"], sys.stdin.buffer.read(), about["unpacked_limit"])
        if len(text) > _TEXT_LIMIT:
            raise _NoTextError("CORRUPTED_FILE", "the text is too large")
        found: dict[str, Any] = {"text": text}
    except _NoTextError as error:
        found = {"code": error.code, "message": str(error)}
    except MemoryError:
        found = {"code": "CORRUPTED_FILE", "message": f"it needs more than {about['memory_bytes'] >> 20} MiB of memory"}
    except Exception as error:
        code = str(getattr(error, "code", "TEXT_EXTRACTION_FAILED"))
        message = str(error) if hasattr(error, "code") else f"the extractor failed ({type(error).__name__})"
        found = {"code": code, "message": message}
    # ASCII: a lone surrogate arrives at the parent as what it is, and is refused there.
    sys.stdout.write(json.dumps(found))
    sys.stdout.flush()


def limit_resources(memory_bytes: int, cpu_s: int) -> None:
    """What the kernel holds this process to. The parent's own wall-clock limit is beside these."""
    for what, limit in (
        (resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_CPU, cpu_s), (resource.RLIMIT_FSIZE, _OUTPUT_LIMIT),
        (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 256),
    ):  # fmt: skip
        hard = resource.getrlimit(what)[1]
        lowest = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (lowest, lowest))


def extract(kind: str, data: bytes, unpacked_limit: int) -> str:
    if kind == "pdf":
        return _pdf(data)
    if kind == "docx":
        return _docx(data, unpacked_limit)
    if kind == "text":
        return _text(data)
    import importlib

    module, _, name = kind.partition(":")
    found: Any = getattr(importlib.import_module(module), name)().extract(data)
    if not isinstance(found, str):
        message = f"the extractor returned {type(found).__name__}, expected text"
        raise _NoTextError("TEXT_EXTRACTION_FAILED", message)
    return found


def _pdf(data: bytes) -> str:
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted:
            message = "the PDF is encrypted"
            raise _NoTextError("ENCRYPTED_FILE_UNSUPPORTED", message)
        return "\n".join(page.extract_text() for page in reader.pages)
    except (PyPdfError, ValueError, KeyError, OSError) as error:
        message = f"the PDF is damaged ({type(error).__name__})"
        raise _NoTextError("CORRUPTED_FILE", message) from None


def _docx(data: bytes, unpacked_limit: int) -> str:
    from docx import Document
    from docx.opc.exceptions import OpcError

    try:
        _check_unpacked(data, unpacked_limit)
        document = Document(io.BytesIO(data))
    except (zipfile.BadZipFile, OpcError, KeyError, ValueError, OSError, NotImplementedError) as error:
        message = f"the document is damaged ({type(error).__name__})"
        raise _NoTextError("CORRUPTED_FILE", message) from None
    lines = [paragraph.text for paragraph in document.paragraphs]
    for table in document.tables:
        # The cells as they are written. `row.cells` repeats a cell for each column that it says it spans: a document of
        # 43 KB made 28 seconds of work of that.
        for row in table._tbl.tr_lst:
            lines.append("\t".join("\n".join(paragraph.text for paragraph in cell.p_lst) for cell in row.tc_lst))
    return "\n".join(lines)


def _check_unpacked(data: bytes, limit: int) -> None:
    """Inflates every entry once, block by block: what an archive says of its sizes is not believed.

    An entry that is longer than it says fails its checksum where it should end.
    """
    left = limit
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as file:
                while block := file.read(_BLOCK):
                    left -= len(block)
                    if left < 0:
                        message = "the document is too large when unpacked"
                        raise _NoTextError("CORRUPTED_FILE", message)


def _text(data: bytes) -> str:
    from charset_normalizer import from_bytes

    matches = list(from_bytes(data, threshold=0.1))
    if not matches or "\x00" in str(matches[0]):
        message = "the file's encoding is not recognised"
        raise _NoTextError("ENCODING_ERROR", message)
    # Several code pages often explain a text equally well. The most used of them is then the better guess.
    best = matches[0]
    for match in matches:
        if match.encoding == _COMMON and match.chaos <= best.chaos and match.coherence >= best.coherence - 0.1:
            return str(match)
    return str(best)


if __name__ == "__main__":
    main(sys.argv[1:])
