"""What operators see: structured logs with secrets redacted."""

from headgate.ops._logs import RedactFilter, configure_logging, redact

__all__ = ["RedactFilter", "configure_logging", "redact"]
