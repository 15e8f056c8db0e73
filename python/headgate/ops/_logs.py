"""JSON logs in Lambda, readable ones in a terminal; no secret leaves through either."""

from __future__ import annotations

import json
import logging
import sys
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


def configure_logging(level: str = "INFO", style: str = "text") -> None:
    """Send headgate's records to standard error; the root logger stays the application's own."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    handler.addFilter(RedactFilter())
    logger = logging.getLogger("headgate")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
