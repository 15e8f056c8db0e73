"""What operators see: structured logs with secrets redacted, and metrics."""

from headgate.ops._logs import RedactFilter, configure_logging
from headgate.ops._metrics import MemoryMetrics
from headgate.ops._redact import redact

__all__ = ["MemoryMetrics", "RedactFilter", "configure_logging", "redact"]
