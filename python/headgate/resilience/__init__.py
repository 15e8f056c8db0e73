"""Breakers, retries, limits, hedging and failover between sources. The machinery is C++; this room gives it seconds,
defaults, Python callables and asyncio.

The hot types (`CircuitBreaker`, `RetryBudget`, `ConsecutiveFailureTracker`, `Guard`) are the core's own, without a
wrapper.
"""

from headgate.resilience._build import (
    BreakerDefaults,
    Bulkhead,
    CircuitBreaker,
    ConsecutiveFailureTracker,
    Failover,
    Guard,
    RateLimiter,
    Request,
    RetryBudget,
    RetryPolicy,
    Source,
    make_breaker,
    make_bulkhead,
    make_guard,
    make_rate_limiter,
    make_tracker,
)
from headgate.resilience._calls import (
    Call,
    CallAttempt,
    CallFailover,
    FailoverResult,
    abandoned_calls,
    hedged,
    run_with_deadline,
)
from headgate.resilience._http import AsyncFailover, AsyncHttpClient, HttpClient, Response, find_ca_file
from headgate.resilience._manager import CircuitBreakerManager

__all__ = [
    "AsyncFailover", "AsyncHttpClient", "BreakerDefaults", "Bulkhead", "Call", "CallAttempt", "CallFailover",
    "CircuitBreaker", "CircuitBreakerManager", "ConsecutiveFailureTracker", "Failover", "FailoverResult", "Guard",
    "HttpClient", "RateLimiter", "Request", "Response", "RetryBudget", "RetryPolicy", "Source", "abandoned_calls",
    "find_ca_file", "hedged", "make_breaker", "make_bulkhead", "make_guard", "make_rate_limiter", "make_tracker",
    "run_with_deadline",
]  # fmt: skip
