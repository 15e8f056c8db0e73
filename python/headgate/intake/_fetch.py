"""Asking the sources: the primary first, page by page, with every body kept before anything reads it."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from headgate._native import core
from headgate.errors import HeadgateError, InvalidInputError, Kind
from headgate.intake._intake import Intake
from headgate.intake._pipeline import RawInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from headgate.ports import Clock, Json

log = logging.getLogger("headgate.intake")
_OK = 200
_KEPT_HEADERS = ("content-type", "date", "retry-after")


class Adapter(Protocol):
    """A source: how to ask it, and how to read it.

    Besides these it may have `expects` ("array", the default, "object" or "json"), the shape of a good body;
    `next_pages(query, requests, bodies)`, the requests of the pages that follow those bodies; `extra_requests(query)`
    with `extra_context(requests, bodies)`, what is asked besides: its failure fails nothing, and its answer (None for a
    request that failed) becomes part of the records' context. What any of them raises is a failure of this source.
    """

    name: str
    timeout_s: float

    def requests(self, query: Json) -> list[Any]:
        """`headgate.resilience.Request`s that make up one collection; secrets in headers only."""
        ...


@dataclass(frozen=True)
class Part:
    """One body of a collection."""

    source: str
    body: bytes
    raw_key: str
    attempt: int
    url: str


@dataclass
class Round:
    """What one collection has fetched so far."""

    source: str = ""
    is_failover: bool = False
    parts: list[Part] = field(default_factory=list)
    attempts: list[Json] = field(default_factory=list)
    context: Json = field(default_factory=dict)
    raw_count: int = 0
    error_kind: str = ""
    error_message: str = ""
    until_us: int = 0  # of the source's time
    repeats: bool = False  # the last source gave the same page again and again: what it has beyond is unknown

    def failed(self, kind: str, message: str) -> None:
        """Why the collection is not whole."""
        self.error_kind, self.error_message = kind, message


class SeenRecords:
    """Whether a page brings anything new: a source that ignores the offset gives its first page for ever.

    Example:
        >>> seen = SeenRecords()
        >>> seen.add([{"id": 1}, {"id": 2}]), seen.add([{"id": 2}, {"id": 3}]), seen.add([{"id": 1}]), seen.add([])
        (True, True, False, True)
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def add(self, records: Sequence[Any]) -> bool:
        """False when the page has records, and none of them is new."""
        found = {hash(json.dumps(record, sort_keys=True, default=str)) for record in records}
        is_new = not found or not found <= self._seen
        self._seen |= found
        return is_new


def explain_raised(error: Exception) -> tuple[str, str]:
    """Kind and sentence of what a source's own code raised. The text of an exception of others may quote a record."""
    if isinstance(error, HeadgateError):
        return error.kind.value, error.message
    return Kind.CONFIG.value, f"the source's own code raised {type(error).__name__}"


class Fetcher:
    """Asks adapters through the core's failover.

    Args:
        intake: keeps the bodies.
        adapters: sources, the primary first.
        failover: the core's, with its transport.
        breakers: one per adapter name.
    """

    def __init__(self, intake: Intake, adapters: Sequence[Any], failover: Any, breakers: Mapping[str, Any]) -> None:
        self._intake, self._failover, self._breakers = intake, failover, breakers
        self._adapters = list(adapters)
        self._by_name = {a.name: a for a in self._adapters}

    @property
    def _clock(self) -> Clock:
        return self._intake.clock

    def fetch(self, query: Json, cancel: Any, may_probe: Mapping[str, bool]) -> Round:
        """One collection's bodies. What the object store raises comes out; everything else is in the round."""
        state = Round()

        def keep(source: str, url: str, status: int, headers: list[tuple[str, str]], body: bytes, attempt: int) -> str:
            state.raw_count += 1
            kept = {name: value for name, value in headers if name in _KEPT_HEADERS}
            facts = {"url": url, "status": status, "headers": kept, "context": query, "attempt": attempt}
            return self._intake.keep_raw(source, body, facts)

        asked = {}
        for adapter in self._adapters:
            try:
                requests = list(adapter.requests(query))
                # Made here only to be tried: what is no request, or a missing attribute, is its failure too.
                self._source(adapter, requests, query, adapter.timeout_s)
                asked[adapter.name] = requests
            except Exception as error:
                state.attempts.append(self._not_asked(adapter.name, *explain_raised(error)))
        first = self._adapters[0].name
        left = [a for a in self._adapters if a.name in asked]
        while left:
            adapter = self._fetch_first(left, asked, query, state, keep, cancel, may_probe)
            if adapter is None:
                break
            state.is_failover = adapter.name != first
            if not state.repeats:
                break
            # What the source has beyond its first page is unknown: the next one is asked as well.
            left = left[left.index(adapter) + 1 :]
        if state.source:
            self._fetch_extras(self._by_name[state.source], query, state, cancel)
        elif not state.error_kind:
            causes = "; ".join(f"{a['source']} {a['outcome']} ({a['message']})" for a in state.attempts)
            state.failed(Kind.ALL_SOURCES_FAILED.value, f"every source failed: {causes}")
        return state

    def _fetch_first(
        self, adapters: list[Any], asked: Json, query: Json, state: Round, keep: Any, cancel: Any,
        may_probe: Mapping[str, bool],
    ) -> Any:  # fmt: skip
        """The first of them that answers, with its pages; None when none does."""
        sources = [
            self._source(a, asked[a.name], query, a.timeout_s, may_probe=may_probe.get(a.name, True)) for a in adapters
        ]
        fetched = self._fetch_in_order(sources, keep, cancel)
        state.attempts = [*state.attempts, *fetched["attempts"]]
        if fetched["error_kind"]:
            # A part of an earlier source stands, and its error with it.
            if not state.source or fetched["error_kind"] != Kind.ALL_SOURCES_FAILED.value:
                state.failed(fetched["error_kind"], fetched["error_message"])
            return None
        state.failed("", "")
        state.repeats = False
        adapter = self._by_name[fetched["source"]]
        state.source = adapter.name
        used_ms = max((a["duration_ms"] for a in fetched["attempts"] if a["source"] == adapter.name), default=0)
        state.until_us = self._clock.mono_us() + int(adapter.timeout_s * 1e6) - used_ms * 1000
        self._add(state, adapter, asked[adapter.name], fetched)
        self._fetch_pages(adapter, query, asked[adapter.name], fetched, state, keep, cancel)
        return adapter

    def _fetch_in_order(self, sources: list[Any], keep: Any, cancel: Any) -> Json:
        """The failover's fetch; without the primary, the others stay secondaries."""
        if sources[0].name == self._adapters[0].name:
            whole: Json = self._failover.fetch(sources, keep, cancel)
            return whole
        since, self._failover.secondary_since_us = self._failover.secondary_since_us, 0
        fetched: Json = self._failover.fetch(sources, keep, cancel)
        served = since or (0 if fetched["error_kind"] else self._clock.now_us())
        self._failover.secondary_since_us = served
        return fetched

    @staticmethod
    def _add(state: Round, adapter: Any, requests: list[Any], fetched: Json) -> None:
        urls = dict(enumerate(request.url for request in requests))
        found = zip(fetched["bodies"], fetched["raw_keys"], fetched["numbers"], strict=True)
        state.parts += [Part(adapter.name, *one, urls.get(at, "")) for at, one in enumerate(found)]

    def _not_asked(self, name: str, kind: str, message: str) -> Json:
        state = self._breakers[name].state
        return {
            "source": name, "request": 0, "attempt": 0, "outcome": kind, "message": message, "status": 0,
            "duration_ms": 0, "breaker_before": state, "breaker_after": state, "hedged": False,
        }  # fmt: skip

    def _source(self, adapter: Any, requests: list[Any], query: Json, seconds: float, *, may_probe: bool = True) -> Any:
        expects = getattr(adapter, "expects", "array")
        check: Callable[[int, bytes], Any] | None = None
        if hasattr(adapter, "records") or expects != "array":
            # Its shape says little: an error text may be a JSON object too. An array's records are judged one by one.
            def check(index: int, body: bytes) -> None:
                self._read(adapter, body, requests[index].url, query)

        return core.Source(
            adapter.name, requests, int(seconds * 1e6), self._breakers[adapter.name], expects, check, may_probe
        )

    def _read(self, adapter: Any, body: bytes, url: str, query: Json) -> list[Any]:
        """A body's records.

        Raises:
            InvalidInputError: they cannot be read.
        """
        raw = RawInfo(adapter.name, "", self._clock.now_us(), query, 1, adapter, url)
        try:
            return list(self._intake.pipeline.parse(body, raw))
        except HeadgateError:
            raise
        except Exception as error:
            _, message = explain_raised(error)
            raise InvalidInputError(message, Kind.MALFORMED_RESPONSE) from None

    def _fetch_pages(
        self, adapter: Any, query: Json, requests: list[Any], fetched: Json, state: Round, keep: Any, cancel: Any
    ) -> None:  # fmt: skip
        """The pages that follow; a source that breaks off has given a part, and the next collection asks again."""
        seen: SeenRecords | None = None
        while hasattr(adapter, "next_pages"):
            try:
                more = list(adapter.next_pages(query, requests, fetched["bodies"]))
                if not more:
                    return
                if seen is None:
                    seen = SeenRecords()
                    for body, request in zip(fetched["bodies"], requests, strict=True):
                        seen.add(self._read(adapter, body, request.url, query))
            except Exception as error:
                kind, message = explain_raised(error)
                log.warning("next pages cannot be told", extra={"source": adapter.name, "error": type(error).__name__})
                state.failed(kind, f"the pages that follow are unknown: {message}")
                return
            requests = more
            fetched = self._alone(
                adapter, requests, query, (state.until_us - self._clock.mono_us()) / 1e6, keep, cancel
            )
            state.attempts = [*state.attempts, *fetched["attempts"]]
            if fetched["error_kind"]:
                state.failed(fetched["error_kind"], fetched["error_message"])
                return
            if not self._any_new(seen, adapter, requests, fetched["bodies"], query):
                state.repeats = True
                message = f"{adapter.name}: the page that follows has the records of the one before"
                state.failed(Kind.MALFORMED_RESPONSE.value, message)
                return
            self._add(state, adapter, requests, fetched)

    def _any_new(self, seen: SeenRecords, adapter: Any, requests: list[Any], bodies: list[bytes], query: Json) -> bool:
        found = False
        for body, request in zip(bodies, requests, strict=True):
            try:
                found = seen.add(self._read(adapter, body, request.url, query)) or found
            except InvalidInputError:
                found = True  # becomes a dead letter
        return found

    def _alone(self, adapter: Any, requests: list[Any], query: Json, left_s: float, keep: Any, cancel: Any) -> Json:
        """More from the source that serves: nobody else can continue its pages."""
        since = self._failover.secondary_since_us
        if left_s <= 0:
            return {"attempts": [], "error_kind": Kind.TIMEOUT.value, "error_message": "no time left for more pages"}
        fetched: Json = self._failover.fetch([self._source(adapter, requests, query, left_s)], keep, cancel)
        self._failover.secondary_since_us = since
        return fetched

    def _fetch_extras(self, adapter: Any, query: Json, state: Round, cancel: Any) -> None:
        """What is asked besides; whatever goes wrong with it fails nothing."""
        extras = getattr(adapter, "extra_requests", None)
        if extras is None:
            return
        left_us = state.until_us - self._clock.mono_us()
        try:
            requests = list(extras(query))
            if not requests or left_us <= 0:
                return
            answers = self._failover.transport.perform(requests, left_us, 8, cancel)
            good = [not a["error_kind"] and a["status"] == _OK for a in answers]
            bodies = [a["body"] if is_good else None for a, is_good in zip(answers, good, strict=True)]
        except Exception as error:
            log.warning("extras cannot be asked", extra={"source": adapter.name, "error": type(error).__name__})
            return
        for request, answer in zip(requests, answers, strict=True):
            if not answer["error_kind"]:
                facts = {"url": request.url, "status": answer["status"], "extra": True}
                self._intake.keep_raw(adapter.name, answer["body"], facts)
                state.raw_count += 1
        try:
            state.context = dict(adapter.extra_context(requests, bodies))
        except Exception as error:
            log.warning("extras cannot be read", extra={"source": adapter.name, "error": type(error).__name__})
