"""HTTP requests, sources and the failover between them, with Python faces: times in seconds, documentation, a repr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import ConfigError
from headgate.resilience._faces import core_init, face
from headgate.resilience._policies import either_us

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headgate.ports import Clock


@face
class Request(core.HttpRequest):
    """One HTTP request. A value: it can be pickled. Its repr shows neither headers nor the query, where secrets may be.

    Args:
        url: with its query.
        headers: (name, value) pairs; secrets belong here, since URLs are logged.
        method: "GET", "POST", ...
        body: text or the characters of its bytes.

    Raises:
        InvalidInputError: a name, a value or the method holds characters that end a header.

    Example:
        >>> Request("https://api.example/items?page=2", [("X-Token", "secret")])
        Request('GET', 'https://api.example/items')
    """

    def __init__(self, url: str, headers: Sequence[tuple[str, str]] = (), method: str = "GET", body: str = "") -> None:
        core_init(Request)(self, url, list(headers), method, body)

    def __repr__(self) -> str:
        place = self.url.partition("?")[0].partition("#")[0]
        scheme, separator, rest = place.partition("://")
        host, slash, path = rest.partition("/")
        shown = f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}" if separator else scheme
        return f"Request({self.method!r}, {shown!r})"


@face
class Source(core.Source):
    """One source of a `Failover`: what it is asked, in how much time, behind which breaker.

    Args:
        name: for attempts and errors; of its own within a failover.
        requests: that make up one answer.
        budget_us: microseconds for all of them, retries included.
        breaker: its circuit breaker.
        expect: the shape of a good body: "array", "object" or "json".
        check: called with the request's number and the body that answered it; what it raises makes the body a bad one.
        may_probe: whether this process may send the probe of a half-open breaker.
        budget_s: the same as budget_us in seconds. Default 10 s.

    Example:
        >>> from headgate.resilience import make_breaker
        >>> Source("feed", [Request("https://feed.example/")], breaker=make_breaker(), budget_s=5)
        Source('feed')
    """

    def __init__(
        self, name: str, requests: Sequence[core.HttpRequest], budget_us: int | None = None,
        breaker: core.CircuitBreaker | None = None, expect: str = "array",
        check: Callable[[int, bytes], object] | None = None, may_probe: bool = True, *, budget_s: float | None = None,
    ) -> None:  # fmt: skip
        if breaker is None:
            message = f"source {name}: breaker is missing; expected a CircuitBreaker, for example make_breaker()"
            raise ConfigError(message)
        budget = either_us(budget_us, budget_s, "budget", 10_000_000)
        core_init(Source)(self, name, requests, budget, breaker, expect, check, may_probe)

    def __repr__(self) -> str:
        return f"Source({self.name!r})"


@face
class Failover(core.Failover):
    """The first source that answers, in order, on the wire. `AsyncFailover` is the same on an event loop.

    Methods:
        fetch(sources, sink, cancel=None) -> dict: one round. `sink(source, url, status, headers, body, attempt)` keeps
            each body before it is read and returns its key; a `CancelToken` ends the round from another thread.
        transport: the HTTP transport.
        secondary_since_us: since when the secondary answers, microseconds of the clock; 0: the primary does.

    Args:
        retry: a `RetryPolicy` for one request.
        return_after_us: the secondary answers so many microseconds before the primary is asked again.
        concurrency: requests of one source at the same time.
        transport: of `headgate.resilience.HttpClient`, or of a test.
        clock: for times; the system's unless one is injected.
        random: for jitter; the system's unless one is injected.
        budget: a `RetryBudget`; None: one of its own.
        total_us: for all sources together; 0: the sum of their own.
        hedge_us: a request without an answer for so long is sent once more; 0: never.
        return_after_s: return_after_us in seconds. Default 300 s.
        total_s: total_us in seconds.
        hedge_s: hedge_us in seconds.

    Example:
        >>> failover = Failover(RetryPolicy(3), transport=transport, total_s=30)    # doctest: +SKIP
        >>> failover.fetch([first, second], sink)["source"]                         # doctest: +SKIP
        'first'
    """

    def __init__(
        self, retry: core.RetryPolicy, return_after_us: int | None = None, concurrency: int = 8,
        transport: core.HttpTransport | None = None, clock: Clock | None = None, random: Any = None,
        budget: core.RetryBudget | None = None, total_us: int | None = None, hedge_us: int | None = None, *,
        return_after_s: float | None = None, total_s: float | None = None, hedge_s: float | None = None,
    ) -> None:  # fmt: skip
        if transport is None:
            message = "failover: transport is missing; expected the one of an HTTP client"
            raise ConfigError(message)
        core_init(Failover)(
            self, retry, either_us(return_after_us, return_after_s, "return_after", 300_000_000), concurrency,
            transport, clock or core.SystemClock(), random or core.SystemRandom(), budget or core.RetryBudget(),
            either_us(total_us, total_s, "total", 0), either_us(hedge_us, hedge_s, "hedge", 0),
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<Failover at {id(self):#x}>"
