"""Metrics kept in memory and shown as Prometheus text."""

from __future__ import annotations

import threading
from bisect import bisect_left
from math import isfinite, isnan

# Prometheus' own default buckets, seconds (client libraries' guidelines), and two below for our short calls.
BUCKETS = (0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_Key = tuple[str, tuple[tuple[str, str], ...]]


class MemoryMetrics:
    """Counters, gauges and histograms of this process; safe from several threads.

    Example:
        >>> metrics = MemoryMetrics()
        >>> metrics.count("dlq_messages_total", topic="orders")
        >>> print(metrics.render(), end="")
        # TYPE dlq_messages_total counter
        dlq_messages_total{topic="orders"} 1
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[_Key, float] = {}
        self._gauges: dict[_Key, float] = {}
        self._histograms: dict[_Key, tuple[list[int], list[float]]] = {}

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        key = _key(name, labels)
        with self._lock:
            self._counters[key] = self._counters.get(key, 0.0) + amount

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        with self._lock:
            self._gauges[_key(name, labels)] = value

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add an observation, in seconds, to a histogram."""
        with self._lock:
            buckets, total = self._histograms.setdefault(_key(name, labels), ([0] * (len(BUCKETS) + 1), [0.0]))
            buckets[bisect_left(BUCKETS, value)] += 1
            total[0] += value

    def value(self, name: str, **labels: str) -> float:
        """A counter or gauge; labels that are not named are summed over."""
        wanted = set(_key(name, labels)[1])
        with self._lock:
            found = [*self._counters.items(), *self._gauges.items()]
        return sum(value for (known, have), value in found if known == name and wanted <= set(have))

    def render(self) -> str:
        """Everything in Prometheus' text format (version 0.0.4)."""
        lines: list[str] = []
        typed: set[str] = set()

        def head(name: str, kind: str) -> None:
            if name not in typed:
                typed.add(name)
                lines.append(f"# TYPE {name} {kind}")

        with self._lock:
            for kind, series in (("counter", self._counters), ("gauge", self._gauges)):
                for (name, labels), value in sorted(series.items()):
                    head(name, kind)
                    lines.append(f"{name}{_labels(labels)} {_number(value)}")
            for (name, labels), (buckets, total) in sorted(self._histograms.items()):
                head(name, "histogram")
                seen = 0
                for bound, inside in zip((*map(str, BUCKETS), "+Inf"), buckets, strict=True):
                    seen += inside
                    lines.append(f"{name}_bucket{_labels((*labels, ('le', bound)))} {seen}")
                lines.append(f"{name}_sum{_labels(labels)} {_number(total[0])}")
                lines.append(f"{name}_count{_labels(labels)} {seen}")
        return "".join(f"{line}\n" for line in lines)


def _key(name: str, labels: dict[str, str]) -> _Key:
    return name, tuple(sorted(labels.items()))


def _number(value: float) -> str:
    """Every digit: six of them made 1,234,567 messages 1.23457e+06, and moved a Unix time by hours."""
    number = float(value)
    if not isfinite(number):
        return "NaN" if isnan(number) else "+Inf" if number > 0 else "-Inf"
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)


def _labels(labels: tuple[tuple[str, str], ...]) -> str:
    if not labels:
        return ""
    escaped = ((k, v.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for k, v in labels)
    return "{" + ",".join(f'{k}="{v}"' for k, v in escaped) + "}"
