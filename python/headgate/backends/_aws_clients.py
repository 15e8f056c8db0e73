"""boto3 clients: kept between invocations of a Lambda handler, made for each object that needs one elsewhere.

Making a client takes boto3 tens of milliseconds, most of them for reading its service's model, and its connections are
opened anew. A warm invocation finds the clients of the one before.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from headgate._forks import watch
from headgate.errors import needed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Settings = Mapping[str, Any]

_MOST_KEPT = 32  # of services, regions, endpoints and credentials; the one that was not used for longest goes first
_FILES = {"AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials", "AWS_CONFIG_FILE": "~/.aws/config"}
_OTHER_VARIABLES = {"HOME", "BOTO_CONFIG", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}
# Where static credentials may come from that are known to have changed by the variables and files that are compared.
# botocore refreshes those of roles itself. Those that a program prints have no sign of their age, so they are not kept.
_COMPARED_METHODS = {"env", "shared-credentials-file", "config-file"}


class AwsConnection(NamedTuple):
    """A boto3 session, and a client of it. Several threads may use the client."""

    session: Any
    client: Any


class _KeptConnections:
    """The connections that handlers of this process have opened. A child of fork() begins with none."""

    def __init__(self) -> None:
        self._after_fork()
        watch(self, store=True)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._by_key: OrderedDict[tuple[object, ...], AwsConnection] = OrderedDict()

    def get(self, key: tuple[object, ...], make: Callable[[], AwsConnection]) -> AwsConnection:
        """The connection of a key, made where there is none. What `make` raises is raised, and kept nowhere."""
        with self._lock:
            found = self._by_key.get(key)
            if found is None:
                found = make()
                if not _keeps_its_credentials(found.session):
                    return found
                self._by_key[key] = found
            self._by_key.move_to_end(key)
            while len(self._by_key) > _MOST_KEPT:
                self._by_key.popitem(last=False)
            return found

    def clear(self) -> None:
        with self._lock:
            self._by_key.clear()


_KEPT = _KeptConnections()
_SURROUNDINGS: ContextVar[tuple[object, ...] | None] = ContextVar("headgate_aws_surroundings", default=None)


@contextmanager
def kept_clients(environment: Mapping[str, str]) -> Iterator[None]:
    """Inside, a client that this process has made under the same variables and files is used again.

    Args:
        environment: the variables that boto3 reads. Where one of them, or a file of credentials, has changed since, a
            client is made anew.
    """
    token = _SURROUNDINGS.set(_surroundings(environment))
    try:
        yield
    finally:
        _SURROUNDINGS.reset(token)


def forget_clients() -> None:
    """Make every client anew from now on; for tests that replace boto3's parts."""
    _KEPT.clear()


def connect_aws(
    service: str, options: Mapping[str, str], settings: Settings | None = None, *, needed_by: str = ""
) -> AwsConnection:
    """A client of a service, with its session.

    Args:
        service: as boto3 names it.
        options: region, endpoint and profile; where one is missing, what boto3 finds itself.
        settings: of botocore's Config.
        needed_by: what the sentence about a missing boto3 begins with; default: the service's URL.

    Raises:
        ConfigError: kind not_built, boto3 is missing. What boto3 raises is not translated.
    """
    needs_boto3 = f"{needed_by or f'{service}://'} needs boto3"
    region, endpoint, profile = (options.get(name) for name in ("region", "endpoint", "profile"))

    def make() -> AwsConnection:
        with needed(needs_boto3, "headgate[aws]"):
            import boto3
            from botocore.config import Config
        # botocore changes the settings that it is given.
        session = boto3.Session(profile_name=profile, region_name=region)
        return AwsConnection(
            session, session.client(service, endpoint_url=endpoint, config=Config(**deepcopy(dict(settings or {}))))
        )

    around = _SURROUNDINGS.get()
    if around is None:
        return make()
    return _KEPT.get((service, region, endpoint, profile, repr(settings), around), make)


def _surroundings(environment: Mapping[str, str]) -> tuple[object, ...]:
    """What boto3's choice of credentials, region and endpoint depends on, as far as it is not refreshed by itself."""
    variables = sorted((name, value) for name, value in environment.items() if _is_read_by_boto3(name))
    return tuple(variables), tuple(_version(environment.get(name) or default) for name, default in _FILES.items())


def _is_read_by_boto3(name: str) -> bool:
    # The tracer sets variables of its own in the first invocation.
    return (name.startswith("AWS_") and not name.startswith("AWS_XRAY_")) or name.upper() in _OTHER_VARIABLES


def _version(path: str) -> tuple[int, ...] | None:
    try:
        found = Path(path).expanduser().stat()
    except (OSError, RuntimeError):  # not there, or no home folder
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _keeps_its_credentials(session: Any) -> bool:
    """Whether a client of this session never holds credentials that are out of date without a sign of it."""
    from botocore.credentials import RefreshableCredentials

    found = session.get_credentials()
    return found is not None and (isinstance(found, RefreshableCredentials) or found.method in _COMPARED_METHODS)
