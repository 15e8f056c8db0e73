"""Logs, traces and metrics of a Lambda handler: Powertools where it is installed, this package's logs elsewhere."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class Observer:
    """One invocation's logger, tracer and metrics.

    Args:
        service: a dimension of every metric; POWERTOOLS_SERVICE_NAME wins.
        namespace: of the metrics.
    """

    def __init__(self, service: str, namespace: str) -> None:
        service = os.environ.get("POWERTOOLS_SERVICE_NAME") or service
        self._measured = False
        self._namespace = namespace
        try:
            from aws_lambda_powertools import Logger, Metrics, Tracer
        except ImportError:
            self._tracer = self._metrics = None
            self._log: Any = None
            self._plain = logging.getLogger(f"headgate.{service}")
            return
        self._log = Logger(service=service)
        self._tracer = Tracer(service=service)
        self._metrics = Metrics(namespace=namespace, service=service)

    def info(self, message: str, **fields: Any) -> None:
        self._say(logging.INFO, message, fields)

    def warning(self, message: str, **fields: Any) -> None:
        self._say(logging.WARNING, message, fields)

    def error(self, message: str, **fields: Any) -> None:
        self._say(logging.ERROR, message, fields)

    def _say(self, level: int, message: str, fields: dict[str, Any]) -> None:
        if self._log is None:
            self._plain.log(level, message, extra=fields)
        else:
            # Powertools takes fields as keywords of its level methods only.
            getattr(self._log, logging.getLevelName(level).lower())(message, extra=fields)

    def metric(
        self, name: str, value: float, unit: str = "Count", dimensions: dict[str, str] | None = None,
        namespace: str = "",
    ) -> None:  # fmt: skip
        """One value, sent at the end of the invocation; one with dimensions of its own at once.

        Args:
            name, value, unit: CloudWatch's.
            dimensions: of this value alone.
            namespace: of a value with dimensions, instead of the observer's.
        """
        if self._metrics is None:
            return
        if dimensions:
            from aws_lambda_powertools import single_metric
            from aws_lambda_powertools.metrics import MetricUnit

            with single_metric(
                name=name, unit=MetricUnit(unit), value=value, namespace=namespace or self._namespace
            ) as one:
                for dimension, of in dimensions.items():
                    one.add_dimension(name=dimension, value=of)
        else:
            self._measured = True
            self._metrics.add_metric(name=name, unit=unit, value=value)

    @contextmanager
    def traced(self, name: str) -> Iterator[None]:
        """A subsegment of the trace."""
        if self._tracer is None or self._tracer.disabled:
            yield
            return
        with self._tracer.provider.in_subsegment(name=f"## {name}"):
            yield

    @contextmanager
    def traced_s3(self, **buckets: str) -> Iterator[dict[str, Any]]:
        """The S3 calls of a run as one subsegment of the remote service S3, as X-Ray's own of boto3 are.

        The core makes the requests, thousands of them with many in flight: a subsegment each would not fit a trace.

        Args:
            buckets: what each bucket is to the run (source_bucket=...), for the annotations.

        Yields:
            A dict for what the calls did; it becomes the subsegment's metadata.
        """
        done: dict[str, Any] = {}
        if self._tracer is None or self._tracer.disabled:
            yield done
            return
        with self._tracer.provider.in_subsegment(name="S3", namespace="aws") as segment:
            for name, bucket in buckets.items():
                segment.put_annotation(name, bucket)
            try:
                yield done
            finally:
                segment.put_metadata("calls", done, self._namespace)

    def flush(self) -> None:
        """Send the metrics; each group once, so that nothing leaks into the next invocation."""
        if self._metrics is not None and self._measured:
            self._metrics.flush_metrics()
            self._metrics.clear_metrics()
