"""Text out of files. An extractor is a port: bytes in, text out, or an `ExtractionError` with a code."""

from __future__ import annotations

import codecs
import io
import threading
import zipfile
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Protocol

from headgate.errors import ConfigError, InvalidInputError, Kind, needed
from headgate.pipelines.uploads.contracts import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNPACKED_LIMIT = 200 * 1024 * 1024  # a DOCX is a ZIP archive: a small one may hold gigabytes
_COMMON = "cp1252"  # what browsers take for text that names no encoding (WHATWG Encoding Standard, windows-1252)
# The longer marks first: UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip


class ExtractionError(InvalidInputError):
    """No text could be had; `code` says why."""

    default_kind = Kind.INVALID_RECORD

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message, Kind.INVALID_RECORD)
        self.code = code


class Extractor(Protocol):
    """Raises `ExtractionError`; anything else that it raises counts as TEXT_EXTRACTION_FAILED."""

    def extract(self, data: bytes) -> str: ...


class PlainText:
    """Text in whatever encoding: its byte order mark, UTF-8, or what charset-normalizer recognises.

    Nothing is dropped or replaced: what cannot be decoded as a whole is an error.
    """

    def extract(self, data: bytes) -> str:
        encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            pass
        try:
            from charset_normalizer import from_bytes
        except ImportError:
            message = "the file is not UTF-8; for other encodings install 'headgate[uploads]'"
            raise ExtractionError(ErrorCode.ENCODING_ERROR, message) from None
        matches = list(from_bytes(data, threshold=0.1))
        if not matches or "\x00" in str(matches[0]):
            message = "the file's encoding is not recognised"
            raise ExtractionError(ErrorCode.ENCODING_ERROR, message)
        # Several code pages often explain a text equally well. The most used of them is then the better guess.
        best = matches[0]
        for match in matches:
            if match.encoding == _COMMON and match.chaos <= best.chaos and match.coherence >= best.coherence - 0.1:
                return str(match)
        return str(best)


class Pdf:
    """The text of a PDF, page by page (pypdf). A scanned page has none."""

    def extract(self, data: bytes) -> str:
        with needed("PDF files need pypdf", "headgate[uploads]"):
            from pypdf import PdfReader
            from pypdf.errors import PyPdfError
        try:
            reader = PdfReader(io.BytesIO(data))
            if reader.is_encrypted:
                message = "the PDF is encrypted"
                raise ExtractionError(ErrorCode.ENCRYPTED_FILE_UNSUPPORTED, message)
            return "\n".join(page.extract_text() for page in reader.pages)
        except (PyPdfError, ValueError, KeyError, OSError) as error:
            if isinstance(error, ExtractionError):
                raise
            message = f"the PDF is damaged ({type(error).__name__})"
            raise ExtractionError(ErrorCode.CORRUPTED_FILE, message) from None


class Docx:
    """The paragraphs of a Word document, its tables' cells included (python-docx)."""

    def extract(self, data: bytes) -> str:
        with needed("Word files need python-docx", "headgate[uploads]"):
            from docx import Document
            from docx.opc.exceptions import OpcError
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > _UNPACKED_LIMIT:
                    message = "the document is too large when unpacked"
                    raise ExtractionError(ErrorCode.CORRUPTED_FILE, message)
            document = Document(io.BytesIO(data))
        except (zipfile.BadZipFile, OpcError, KeyError, ValueError, OSError) as error:
            if isinstance(error, ExtractionError):
                raise
            message = f"the document is damaged ({type(error).__name__})"
            raise ExtractionError(ErrorCode.CORRUPTED_FILE, message) from None
        lines = [paragraph.text for paragraph in document.paragraphs]
        for table in document.tables:
            lines += ["\t".join(cell.text for cell in row.cells) for row in table.rows]
        return "\n".join(lines)


EXTRACTORS: Mapping[str, Extractor] = {
    ".txt": PlainText(), ".text": PlainText(), ".md": PlainText(), ".pdf": Pdf(), ".docx": Docx(),
}  # fmt: skip


def extract_text(
    file_name: str, data: bytes, extractors: Mapping[str, Extractor] = EXTRACTORS, timeout_s: float = 30.0
) -> str:
    """The text of a file, by the extractor of its suffix.

    Args:
        file_name: as the user called it; its suffix decides.
        data: the file.
        extractors: suffix -> extractor.
        timeout_s: an extractor that takes longer is abandoned: its thread ends when it ends.

    Raises:
        ExtractionError: UNSUPPORTED_FORMAT, CORRUPTED_FILE, ENCRYPTED_FILE_UNSUPPORTED, ENCODING_ERROR, TIMEOUT, or
            TEXT_EXTRACTION_FAILED.
        ConfigError: the extractor's library is not installed.
    """
    suffix = PurePath(file_name).suffix.lower()
    extractor = extractors.get(suffix)
    if extractor is None:
        message = f"{suffix or 'a file without suffix'} is not among {', '.join(sorted(extractors))}"
        raise ExtractionError(ErrorCode.UNSUPPORTED_FORMAT, message)
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append(extractor.extract(data))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work, name="headgate-extract", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not outcome:
        message = f"no text after {timeout_s:g} s"
        raise ExtractionError(ErrorCode.TIMEOUT, message)
    found = outcome[0]
    if isinstance(found, str):
        return found
    if isinstance(found, ExtractionError | ConfigError):
        raise found
    if isinstance(found, BaseException):
        message = f"the extractor failed ({type(found).__name__})"
        raise ExtractionError(ErrorCode.TEXT_EXTRACTION_FAILED, message) from found
    message = f"the extractor returned {type(found).__name__}, expected text"
    raise ExtractionError(ErrorCode.TEXT_EXTRACTION_FAILED, message)
