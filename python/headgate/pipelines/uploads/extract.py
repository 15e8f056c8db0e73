"""Text out of files. An extractor is a port: bytes in, text out, or an `ExtractionError` with a code."""

from __future__ import annotations

import codecs
import contextlib
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Protocol

from headgate.errors import ConfigError, InvalidInputError, Kind, needed
from headgate.pipelines.uploads.contracts import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNPACKED_LIMIT = 200 * 1024 * 1024  # a DOCX is a ZIP archive: a small one may hold gigabytes
_CHILD = Path(__file__).with_name("_extract_child.py")
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


@dataclass(frozen=True)
class ExtractLimits:
    """What an extractor in a process of its own may use.

    Args:
        timeout_s: seconds of wall clock, and of processor time; then the process is killed.
        memory_bytes: of address space, the interpreter's own included.
    """

    timeout_s: float = 30.0
    memory_bytes: int = 512 * 1024 * 1024


class PlainText:
    """Text in whatever encoding: its byte order mark, UTF-8, or what charset-normalizer recognises.

    Nothing is dropped or replaced: what cannot be decoded as a whole is an error.
    """

    apart = "text"

    def extract(self, data: bytes, limits: ExtractLimits | None = None) -> str:
        encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            pass
        try:
            _require("charset_normalizer")
        except ImportError:
            message = "the file is not UTF-8; for other encodings install 'headgate[uploads]'"
            raise ExtractionError(ErrorCode.ENCODING_ERROR, message) from None
        return extract_apart(self.apart, data, limits or ExtractLimits())


class Pdf:
    """The text of a PDF, page by page (pypdf). A scanned page has none."""

    apart = "pdf"

    def extract(self, data: bytes, limits: ExtractLimits | None = None) -> str:
        with needed("PDF files need pypdf", "headgate[uploads]"):
            _require("pypdf")
        return extract_apart(self.apart, data, limits or ExtractLimits())


class Docx:
    """The paragraphs of a Word document, its tables' cells included (python-docx)."""

    apart = "docx"

    def extract(self, data: bytes, limits: ExtractLimits | None = None) -> str:
        with needed("Word files need python-docx", "headgate[uploads]"):
            _require("docx")
        return extract_apart(self.apart, data, limits or ExtractLimits())


EXTRACTORS: Mapping[str, Extractor] = {
    ".txt": PlainText(), ".text": PlainText(), ".md": PlainText(), ".pdf": Pdf(), ".docx": Docx(),
}  # fmt: skip


def extract_text(
    file_name: str, data: bytes, extractors: Mapping[str, Extractor] = EXTRACTORS, timeout_s: float = 30.0,
    memory_bytes: int = 512 * 1024 * 1024,
) -> str:  # fmt: skip
    """The text of a file, by the extractor of its suffix.

    The shipped extractors run in a process of their own, which is killed at a limit and gets nothing of this one's
    environment. An extractor of one's own does too if it says so: `apart = "module:Class"` names what is made there,
    without arguments. Otherwise it runs on a thread, which cannot be ended.

    Args:
        file_name: as the user called it; its suffix decides.
        data: the file.
        extractors: suffix -> extractor.
        timeout_s: then an extractor's process is killed, or its thread left to itself.
        memory_bytes: what an extractor's process may use.

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
    limits = ExtractLimits(timeout_s, memory_bytes)
    if isinstance(extractor, PlainText | Pdf | Docx):
        return extractor.extract(data, limits)
    apart = getattr(extractor, "apart", None)
    return extract_apart(apart, data, limits) if apart else _extract_on_thread(extractor, data, timeout_s)


def extract_apart(kind: str, data: bytes, limits: ExtractLimits) -> str:
    """Run an extractor in a process of its own, and end that process whatever happens.

    Raises:
        ExtractionError: what the extractor says; TIMEOUT; or TEXT_EXTRACTION_FAILED for a process that died.
    """
    about = {
        "kind": kind, "memory_bytes": limits.memory_bytes, "cpu_s": max(1, math.ceil(limits.timeout_s)),
        "unpacked_limit": _UNPACKED_LIMIT, "path": sys.path,
    }  # fmt: skip
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as found:
        given.write(data)
        given.seek(0)
        process = subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, "-I", "-X", "utf8", str(_CHILD), json.dumps(about)], stdin=given, stdout=found,
            stderr=subprocess.DEVNULL, cwd="/", env={"PATH": os.defpath}, start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(limits.timeout_s)
        except subprocess.TimeoutExpired:
            status = -signal.SIGXCPU
        finally:
            # Its session, so that what it may have started ends too.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if status in {-signal.SIGXCPU, -signal.SIGKILL}:
            message = f"no text after {limits.timeout_s:g} s"
            raise ExtractionError(ErrorCode.TIMEOUT, message)
        found.seek(0)
        answer = found.read()
    try:
        outcome = json.loads(answer)
    except ValueError:
        how = f"signal {-status}" if status < 0 else f"exit code {status}"
        message = f"the extractor's process died ({how})"
        raise ExtractionError(ErrorCode.TEXT_EXTRACTION_FAILED, message) from None
    if "text" in outcome:
        return str(outcome["text"])
    is_known = outcome["code"] in set(ErrorCode)
    code = ErrorCode(outcome["code"]) if is_known else ErrorCode.TEXT_EXTRACTION_FAILED
    raise ExtractionError(code, outcome["message"])


def _require(module: str) -> None:
    """Whether a library is there, without loading it here.

    Raises:
        ImportError: it is not.
    """
    try:
        spec = importlib.util.find_spec(module)
    except ValueError:  # it was taken out of sys.modules
        spec = None
    if spec is None:
        raise ImportError(module)


def _extract_on_thread(extractor: Extractor, data: bytes, timeout_s: float) -> str:
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
