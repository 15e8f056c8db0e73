"""JSON logs in Lambda, readable ones in a terminal; no secret leaves through either."""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import Any

# What a secret looks like in text: a named one, an authorization header, a password in a URL.
_SECRETS = re.compile(
    r"(?i)\b((?:api[_-]?key|token|secret|password|passwd|authorization|x-finnhub-token)[\"']?\s*[=:]\s*[\"']?"
    r"(?:(?:token|bearer|basic)\s+)?)([^\s\"',;&]+)"
    r"|(\b[a-z][a-z0-9+.-]*://[^/\s:@]*:)([^@\s/]+)(@)"
)
_STANDARD = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {"message", "asctime", "taskName"}


def redact(text: str) -> str:
    """The text with secrets replaced by ****.

    Example:
        >>> redact("redis://u:pw@h/0 token=abc")
        'redis://u:****@h/0 token=****'
    """
    return _SECRETS.sub(lambda m: f"{m[1]}****" if m[1] else f"{m[3]}****{m[5]}", text)


class RedactFilter(logging.Filter):
    """Redacts messages, arguments and extra fields of every record that passes."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg = redact(record.getMessage())
        record.args = None
        for key, value in record.__dict__.items():
            if key not in _STANDARD and isinstance(value, str):
                secret = re.fullmatch(r"(?i).*(token|secret|password|api_?key|authorization).*", key)
                record.__dict__[key] = "****" if secret else redact(value)
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
        return json.dumps(doc, default=str)


class TextFormatter(_Formatter):
    """`12:00:01 INFO  headgate.healing: self-healing check items_found=3`."""

    def format(self, record: logging.LogRecord) -> str:
        extras = " ".join(f"{k}={v}" for k, v in self.extras(record).items())
        head = f"{self.formatTime(record, '%H:%M:%S')} {record.levelname:<7} {record.name}: {record.getMessage()}"
        text = f"{head} {extras}".rstrip()
        return f"{text}\n{redact(self.formatException(record.exc_info))}" if record.exc_info else text


def configure_logging(level: str = "INFO", style: str = "text") -> None:
    """Send headgate's records to standard error; the root logger stays the application's own."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    handler.addFilter(RedactFilter())
    logger = logging.getLogger("headgate")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
