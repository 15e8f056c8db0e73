"""Extractors in a process of their own: limits that hold, nothing inherited, sizes that are counted."""

from __future__ import annotations

import fcntl
import io
import struct
import subprocess
import sys
import time
import zipfile
import zlib

import pytest

from headgate.pipelines.uploads import ExtractionError, extract_text
from headgate.pipelines.uploads.contracts import ErrorCode

MODULE = """
import os
import subprocess
import sys


class Burns:
    def extract(self, data):
        while True:
            pass


class Sleeps:
    def extract(self, data):
        import fcntl
        import threading
        lock = open(LOCK, "w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"], pass_fds=[lock.fileno()])
        threading.Event().wait()


class Hoards:
    def extract(self, data):
        return len([bytes(10_000_000) for _ in range(1000)]) * "x"


class Dies:
    def extract(self, data):
        os.abort()


class Tells:
    def extract(self, data):
        files = []
        for number in set(os.listdir("/proc/self/fd")) - set("012"):
            try:
                files.append(os.readlink(f"/proc/self/fd/{number}"))
            except FileNotFoundError:
                pass  # the listing's own
        return repr((sorted(os.environ), files, os.getcwd(), sys.stdin.isatty()))


class Fails:
    def extract(self, data):
        raise RuntimeError("token=sesame")


class Bytes:
    def extract(self, data):
        return data
"""


@pytest.fixture
def apart(tmp_path, monkeypatch):
    """`apart("Burns")`: an extractor of the user's own that is made in the other process."""
    (tmp_path / "lock").touch()
    (tmp_path / "extractors_of_mine.py").write_text(f"LOCK = {str(tmp_path / 'lock')!r}\n{MODULE}")
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(name):
        return type(name, (), {"apart": f"extractors_of_mine:{name}"})()

    return make


@pytest.fixture
def started(monkeypatch):
    """The processes that were started."""
    real, made = subprocess.Popen, []
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: made.append(real(*a, **k)) or made[-1])
    return made


def failure(name, data, extractors=None, **options):
    with pytest.raises(ExtractionError) as caught:
        extract_text(name, data, extractors, **options) if extractors else extract_text(name, data, **options)
    return caught.value.code, caught.value.message


@pytest.mark.parametrize("name", ["Burns", "Sleeps"])
def test_an_extractor_that_takes_too_long_is_ended_and_not_only_left(apart, started, name, tmp_path):
    """A PDF of 8 KB burned on after its TIMEOUT, one processor for ever."""
    begun = time.monotonic()
    assert failure("a.x", b"", {".x": apart(name)}, timeout_s=1.0)[0] is ErrorCode.TIMEOUT
    assert time.monotonic() - begun < 20
    (process,) = started
    assert process.returncode is not None
    with (tmp_path / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # what it has started has ended too


def test_an_extractor_has_a_limit_of_memory(apart):
    code, message = failure("a.x", b"", {".x": apart("Hoards")}, memory_bytes=256 << 20)
    assert (code, message) == (ErrorCode.CORRUPTED_FILE, "it needs more than 256 MiB of memory")


def test_an_extractor_that_dies_is_that_file_s_failure(apart):
    assert failure("a.x", b"", {".x": apart("Dies")}) == (
        ErrorCode.TEXT_EXTRACTION_FAILED, "the extractor's process died (signal 6)"
    )  # fmt: skip


def test_an_extractor_inherits_nothing(apart, monkeypatch):
    monkeypatch.setenv("TIINGO_API_KEY", "sesame")
    told = extract_text("a.x", b"", {".x": apart("Tells")})
    environment, files, folder, _ = eval(told)
    assert set(environment) <= {"PATH", "LC_CTYPE"}
    assert [file for file in files if not file.startswith(("/proc/", "/dev/"))] == []
    assert folder == "/"


def test_an_extractor_s_failure_quotes_nothing(apart):
    assert failure("a.x", b"", {".x": apart("Fails")}) == (
        ErrorCode.TEXT_EXTRACTION_FAILED, "the extractor failed (RuntimeError)"
    )  # fmt: skip
    assert "returned bytes" in failure("a.x", b"", {".x": apart("Bytes")})[1]


def lying_archive(size):
    """A ZIP whose entry says 100 bytes and holds `size`."""
    packer, block = zlib.compressobj(1, zlib.DEFLATED, -15), bytes(1_000_000)
    packed = b"".join(packer.compress(block) for _ in range(size // len(block))) + packer.flush()
    name = b"word/document.xml"
    crc = zlib.crc32(bytes(100))
    head = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, 0, 8, 0, 0, crc, len(packed), 100, len(name), 0) + name
    entry = struct.pack(
        "<4sHHHHHHIIIHHHHHII", b"PK\1\2", 20, 20, 0, 8, 0, 0, crc, len(packed), 100, len(name), 0, 0, 0, 0, 0, 0
    ) + name  # fmt: skip
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(entry), len(head) + len(packed), 0)
    return head + packed + entry + end


def test_inflated_bytes_are_counted_not_believed():
    """520 KB that claim to be 100 bytes took a gigabyte."""
    data = lying_archive(300_000_000)
    assert len(data) < 2_000_000
    code, message = failure("a.docx", data, memory_bytes=256 << 20)
    assert code is ErrorCode.CORRUPTED_FILE
    assert message.startswith("the document is damaged")  # and not: it needed more memory


def test_a_cell_that_spans_a_million_columns_is_one_cell():
    """A document of 43 KB took 28 seconds."""
    docx = pytest.importorskip("docx")
    document = docx.Document()
    document.add_table(1, 1).cell(0, 0).text = "wide"
    out = io.BytesIO()
    document.save(out)
    wide = io.BytesIO()
    with zipfile.ZipFile(out) as source, zipfile.ZipFile(wide, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename == "word/document.xml":
                data = data.replace(b"<w:tcPr>", b'<w:tcPr><w:gridSpan w:val="100000000"/>', 1)
                assert b"gridSpan" in data
            target.writestr(entry, data)
    assert extract_text("a.docx", wide.getvalue(), timeout_s=20).strip() == "wide"


def test_text_in_utf_8_needs_no_process(started):
    assert extract_text("a.txt", "naïve".encode()) == "naïve"
    assert started == []
    assert sys.executable
