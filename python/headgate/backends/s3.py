"""S3 as boto3 users know it: profiles, roles, AWS_ENDPOINT_URL and the rest resolve through botocore; the bytes go
through the core."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from headgate.backends._aws_clients import connect_aws
from headgate.backends._process_client import ProcessClient
from headgate.errors import (
    AccessError,
    ConfigError,
    IntegrityError,
    InvalidInputError,
    Kind,
    NotFoundError,
    TransientError,
    needed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_IN_FLIGHT = 192  # requests at once and thread; docs/benchmarks.md
_MOST_DIGITS = 4
_OPTIONS = {"region", "endpoint", "profile", "scratch", "in_flight", "prefix"}
_MISSING = {"NoSuchKey", "404", "NotFound"}
_DENIED = {"AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}
# botocore's exceptions for credentials that are missing, incomplete, or that a role or a login does not give
_CREDENTIAL_ERRORS = {
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError",
    "NoAuthTokenError", "SSOError", "SSOTokenLoadError", "UnauthorizedSSOTokenError", "LoginError",
    "LoginTokenLoadError", "LoginRefreshRequired",
}  # fmt: skip


def _no_credentials(why: str = "") -> ConfigError:
    more = f" ({why})" if why else ""
    return ConfigError(f"no AWS credentials were found in the environment, the profile or the instance's role{more}")


class S3Location:
    """What `s3://bucket/key?region=&endpoint=&profile=` names, with the session that reaches it.

    Args:
        url: options after `?` win over the environment and the profile: region, endpoint, profile, scratch (a folder
            for temporary files), in_flight (requests at once and thread), prefix (of a source: only keys of which what
            follows the URL's key starts with it, as S3 understands a prefix).

    Raises:
        ConfigError: boto3 is missing, an unknown option, or a profile that does not exist.
    """

    def __init__(self, url: str) -> None:
        with needed("s3:// needs boto3", "headgate[aws]"):
            from botocore.exceptions import BotoCoreError
        parts = urlsplit(url)
        self.bucket, self.key = parts.netloc, unquote(parts.path.removeprefix("/"))
        self.options = dict(parse_qsl(parts.query, keep_blank_values=True))
        self._filesystem: tuple[tuple[str, str, str], Any] | None = None
        unknown = sorted(set(self.options) - _OPTIONS)
        if not self.bucket or unknown:
            what = f"unknown option {unknown[0]!r}" if unknown else "no bucket"
            message = f"s3 URL: {what}; expected s3://bucket/key with options of {', '.join(sorted(_OPTIONS))}"
            raise ConfigError(message)
        self._in_flight = _number_of_requests(self.options.get("in_flight", str(_IN_FLIGHT)))
        try:
            self._connection = ProcessClient(lambda: connect_aws("s3", self.options))
        except (BotoCoreError, ValueError) as error:
            message = f"s3 URL: {error}"
            raise ConfigError(message) from None

    @property
    def session(self) -> Any:
        """boto3's, of this process."""
        return self._connection.session

    @property
    def client(self) -> Any:
        """boto3's, of this process."""
        return self._connection.client

    @property
    def url(self) -> str:
        """Without options."""
        return f"s3://{self.bucket}/{self.key}"

    @property
    def endpoint(self) -> str:
        """Empty for AWS's usual one, which the core makes from bucket and region; FIPS and dual-stack ones are said."""
        found = str(self.client.meta.endpoint_url).replace("aws-global", self.region)
        usual = ("s3.amazonaws.com", f"s3.{self.region}.amazonaws.com")
        return "" if urlsplit(found).hostname in usual else found

    @property
    def region(self) -> str:
        return str(self.client.meta.region_name or "us-east-1").replace("aws-global", "us-east-1")

    def credentials(self) -> tuple[str, str, str]:
        """Access key, secret key and session token as of now; botocore refreshes those of roles.

        Raises:
            ConfigError: there are none.
        """
        from botocore.exceptions import BotoCoreError

        try:
            found = self.session.get_credentials()
            frozen = found.get_frozen_credentials() if found is not None else None
        except BotoCoreError as error:  # half of them, or a role or a login that gives none
            raise _no_credentials(type(error).__name__) from None
        if frozen is None or not frozen.access_key:
            raise _no_credentials()
        return frozen.access_key, frozen.secret_key, frozen.token or ""

    def place(self, *, prefix: bool) -> dict[str, Any]:
        """The settings for the core. With `prefix`, the key is a folder and ends with a slash unless it is empty."""
        self.credentials()  # no credentials are said here, not by every request
        key = f"{self.key.rstrip('/')}/" if prefix and self.key else self.key
        return {
            "bucket": self.bucket, "prefix": key if prefix else "", "key": key, "region": self.region,
            "endpoint": self.endpoint, "ca_file": self._ca_file(), "credentials": self.credentials,
            "in_flight": self._in_flight,
            "scratch": self.options.get("scratch") or tempfile.gettempdir(), "within": self.options.get("prefix", ""),
        }  # fmt: skip

    def filesystem(self) -> Any:
        """Arrow's own S3 file system, for readers that want parts of a file; another one once credentials change."""
        from pyarrow import fs

        found = self.credentials()
        if self._filesystem is None or self._filesystem[0] != found:
            access, secret, token = found
            parts = urlsplit(self.endpoint)
            more = {"scheme": parts.scheme, "endpoint_override": parts.netloc} if self.endpoint else {}
            made = fs.S3FileSystem(
                access_key=access, secret_key=secret, session_token=token or None, region=self.region, **more
            )
            self._filesystem = found, made
        return self._filesystem[1]

    def call(self, name: str, shown: str | None = None, **arguments: Any) -> Any:
        """A method of the boto3 client, on this bucket, with its errors as ours; see `translated`."""
        method = getattr(self.client, name)
        return translated(lambda: method(Bucket=self.bucket, **arguments), shown or self.url)

    def get(self, key: str, shown: str, limit: int | None = None) -> bytes:
        """The bytes of one object; `shown` stands for it in errors.

        Raises:
            IntegrityError: kind message_too_large, it has more than `limit` bytes; none of them is read.
        """

        def read() -> bytes:
            answer = self.client.get_object(Bucket=self.bucket, Key=key)
            if limit is not None and int(answer["ContentLength"]) > limit:
                message = f"{shown} has more than {limit} bytes"
                raise IntegrityError(message, Kind.MESSAGE_TOO_LARGE)
            return bytes(answer["Body"].read())

        return bytes(translated(read, shown))

    def list(self, prefix: str | None = None) -> Iterator[str]:
        """Every key that starts with this one, or with `prefix`, page by page."""
        return (key for key, _ in self.entries(prefix))

    def entries(self, prefix: str | None = None) -> Iterator[tuple[str, float]]:
        """The same, with the time of the last change, seconds since the epoch."""
        start = self.key if prefix is None else prefix
        pages = iter(self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=start))
        while page := translated(lambda: next(pages, None), self.url):
            for entry in page.get("Contents", []):
                yield entry["Key"], entry["LastModified"].timestamp()

    def _ca_file(self) -> str:
        bundle = self.session._session.get_config_variable("ca_bundle")
        if bundle:
            return str(bundle)
        if self.endpoint.startswith("http://"):
            return ""
        try:
            import certifi
        except ImportError:
            return ""
        return certifi.where()


def _number_of_requests(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < _MOST_DIGITS and int(text) > 0):
        message = "s3 URL: in_flight: expected a whole number from 1 to 999"
        raise ConfigError(message)
    return int(text)


def translated(call: Callable[[], Any], what: str) -> Any:
    """A boto3 call with its errors as ours; they name a code, never a key.

    Raises:
        NotFoundError, AccessError, InvalidInputError, TransientError; ConfigError: there are no credentials.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return call()
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        message = f"{what}: S3 answered {status} {code}"
        if code in _MISSING:
            raise NotFoundError(message) from None
        if code in _DENIED or status == 403:
            raise AccessError(message) from None
        if status == 412:
            raise InvalidInputError(message, Kind.VERSION_CONFLICT) from None
        if status >= 500 or code == "SlowDown":
            raise TransientError(message) from None
        raise InvalidInputError(message, Kind.HTTP_STATUS) from None
    except BotoCoreError as error:
        if type(error).__name__ in _CREDENTIAL_ERRORS:
            raise _no_credentials(type(error).__name__) from None
        message = f"{what}: {type(error).__name__}"
        raise TransientError(message, Kind.CONNECTION_FAILED) from None
