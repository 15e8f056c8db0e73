"""Breakers, retries, limits, hedging and failover between sources. The machinery is C++; this package gives it seconds,
defaults, Python callables and asyncio.

The hot types (`CircuitBreaker`, `RetryBudget`, `ConsecutiveFailureTracker`, `Guard`, ...) are the core's own, with a
constructor in seconds: their methods have no Python frame.
"""

from headgate.resilience._build import (
    BreakerDefaults,
    calling,
    guarded,
    make_breaker,
    make_bulkhead,
    make_guard,
    make_rate_limiter,
    make_tracker,
    no_retries,
)
from headgate.resilience._calls import (
    Call,
    CallAttempt,
    CallFailover,
    FailoverResult,
    abandoned_calls,
    ahedged,
    hedged,
    run_with_deadline,
)
from headgate.resilience._http import AsyncFailover, AsyncHttpClient, HttpClient, Response, find_ca_file
from headgate.resilience._manager import CircuitBreakerManager
from headgate.resilience._policies import (
    Bulkhead,
    CircuitBreaker,
    ConsecutiveFailureTracker,
    Guard,
    Permit,
    RateLimiter,
    RetryBudget,
    RetryPolicy,
)
from headgate.resilience._sources import Failover, Request, Source

__all__ = [
    "AsyncFailover", "AsyncHttpClient", "BreakerDefaults", "Bulkhead", "Call", "CallAttempt", "CallFailover",
    "CircuitBreaker", "CircuitBreakerManager", "ConsecutiveFailureTracker", "Failover", "FailoverResult", "Guard",
    "HttpClient", "Permit", "RateLimiter", "Request", "Response", "RetryBudget", "RetryPolicy", "Source",
    "abandoned_calls", "ahedged", "calling", "find_ca_file", "guarded", "hedged", "make_breaker", "make_bulkhead",
    "make_guard", "make_rate_limiter", "make_tracker", "no_retries", "run_with_deadline",
]  # fmt: skip
