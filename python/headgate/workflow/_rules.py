"""Rules of Step Functions: which errors a Retry or Catch matches, how long a retry waits, and what is too large."""

from __future__ import annotations

import math
import random

from headgate.workflow._failure import (
    ALL,
    BRANCH_FAILED,
    DATA_LIMIT,
    HEARTBEAT_TIMEOUT,
    RUNTIME,
    TASK_FAILED,
    TIMEOUT,
    StateError,
)
from headgate.workflow._program import Retrier

_YEAR_S = 365 * 86_400


def matches(names: tuple[str, ...], error: str | None) -> bool:
    """Whether a Retry or Catch that names these errors is meant by an error."""
    if error in names:
        return True
    if error == HEARTBEAT_TIMEOUT and TIMEOUT in names:
        return True
    if ALL in names:
        return error not in (DATA_LIMIT, RUNTIME)
    return TASK_FAILED in names and error not in (TIMEOUT, HEARTBEAT_TIMEOUT, DATA_LIMIT, RUNTIME, BRANCH_FAILED)


def retry_delay_us(retrier: Retrier, used: int) -> int:
    """How long to wait before the next attempt, `used` attempts having been made."""
    try:
        delay = retrier.interval_s * float(retrier.backoff_rate) ** used
    except OverflowError:
        delay = math.inf
    if retrier.max_delay_s is not None:
        delay = min(delay, retrier.max_delay_s)
    delay = min(delay, _YEAR_S)
    if retrier.full_jitter:
        delay = random.uniform(0, delay)  # noqa: S311 - spreads load, guards nothing
    return int(delay * 1_000_000)


def too_large(what: str) -> StateError:
    """The failure of what is more than 256 KiB."""
    return StateError(
        DATA_LIMIT,
        f"The state/task '{what}' returned a result with a size exceeding the maximum number of bytes service limit.",
    )
