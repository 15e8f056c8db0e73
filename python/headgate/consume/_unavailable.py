"""Tells whether what a handler raised says that something it needs is unavailable."""

from __future__ import annotations

from headgate.errors import HeadgateError, TransientError

# What a handler raises when something that it needs is unavailable: no attempt, see `Consumer.unavailable`.
UNAVAILABLE: tuple[type[BaseException], ...] = (TransientError, ConnectionError, TimeoutError)
# The same of widespread clients, which have classes of their own for it: package -> names of classes.
_FOREIGN = {
    "redis": {"ConnectionError", "TimeoutError", "BusyLoadingError"},
    "requests": {"ConnectionError", "Timeout"},
    "httpx": {"ConnectError", "TimeoutException", "NetworkError", "RemoteProtocolError"},
    "urllib3": {"MaxRetryError", "NewConnectionError", "ProtocolError", "TimeoutError"},
    "aiohttp": {"ClientConnectionError"},
    "botocore": {"ConnectionError", "HTTPClientError"},
    "pymongo": {"AutoReconnect", "ServerSelectionTimeoutError"},
}
_DEEPEST = 10  # causes that are followed


def is_unavailable(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    """Whether an exception of a handler is no failure of its message.

    Args:
        error: the exception. A group is one if all exceptions inside it are.
        kinds: the classes that say so. With the default ones the exceptions of widespread clients do too, and an
            exception that was raised `from` such a one.

    Example:
        >>> is_unavailable(ExceptionGroup("tasks", [ConnectionError()]), UNAVAILABLE)
        True
        >>> is_unavailable(ExceptionGroup("tasks", [ConnectionError(), ValueError()]), UNAVAILABLE)
        False
    """
    link: BaseException | None = error
    for _ in range(_DEEPEST):
        if link is None:
            return False
        if isinstance(link, kinds):
            return True
        if isinstance(link, BaseExceptionGroup):
            return all(is_unavailable(inner, kinds) for inner in link.exceptions)
        if kinds != UNAVAILABLE or isinstance(link, HeadgateError):
            return False
        if any(base.__name__ in _FOREIGN.get(base.__module__.partition(".")[0], ()) for base in type(link).__mro__):
            return True
        link = link.__cause__
    return False
