"""JSON logs in Lambda, readable ones in a terminal; no secret leaves through either."""

from __future__ import annotations

import json
import logging
import os
import sys
from io import FileIO, TextIOWrapper
from typing import Any

from headgate._text import printable
from headgate.ops._redact import redact, redact_value

_STANDARD = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {"message", "asctime", "taskName"}


class RedactFilter(logging.Filter):
    """Redacts messages, arguments and extra fields of every record that passes, nested ones and bytes included."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            record.msg = redact(record.getMessage())
        except Exception as error:  # arguments that do not fit the message must not end what is being logged
            record.msg = f"a log message that cannot be shown ({type(error).__name__})"
        record.args = None
        for key, value in record.__dict__.items():
            if key not in _STANDARD:
                record.__dict__[key] = redact_value(value, key)
        return True


class _Formatter(logging.Formatter):
    def extras(self, record: logging.LogRecord) -> dict[str, Any]:
        return {k: v for k, v in record.__dict__.items() if k not in _STANDARD}


class JsonFormatter(_Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        doc = {
            "timestamp": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self.extras(record),
        }
        if record.exc_info:
            doc["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(doc, default=lambda value: redact(str(value)))


class TextFormatter(_Formatter):
    """`2026-05-28 12:00:01 INFO  headgate.healing: self-healing check items_found=3`.

    One record is one line, whatever a name or a value holds; only a traceback has lines of its own.
    """

    def format(self, record: logging.LogRecord) -> str:
        extras = " ".join(f"{k}={v}" for k, v in self.extras(record).items())
        head = f"{self.formatTime(record, '%Y-%m-%d %H:%M:%S')} {record.levelname:<7} {record.name}: "
        text = printable(f"{head}{record.getMessage()} {extras}".rstrip())
        if not record.exc_info:
            return text
        lines = redact(self.formatException(record.exc_info)).split("\n")
        return "\n".join([text, *map(printable, lines)])


class _PrivateFile(logging.FileHandler):
    """A log file that only its owner reads."""

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return TextIOWrapper(FileIO(descriptor, "a"), encoding="utf-8", errors="backslashreplace", write_through=True)


def configure_logging(level: str = "INFO", style: str = "text", file: str = "") -> None:
    """Send headgate's records to standard error, or to a file; the root logger stays the application's own.

    Called again, it opens the file anew: another program may have renamed it meanwhile.

    Args:
        level: the least that is shown.
        style: "text" or "json".
        file: a path, made with mode 0600; empty: standard error.

    Raises:
        OSError: the file cannot be opened; what was set before stays.
    """
    handler: logging.Handler = _PrivateFile(file) if file else logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    handler.addFilter(RedactFilter())
    logger = logging.getLogger("headgate")
    before, logger.handlers[:] = list(logger.handlers), [handler]
    for old in before:
        if isinstance(old, _PrivateFile):
            old.close()
    logger.setLevel(level)
    logger.propagate = False
