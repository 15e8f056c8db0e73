"""Objects in an S3 bucket: raw blobs and stage outputs of a fleet, or of functions that have no disk."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from headgate.backends.s3 import S3Location
from headgate.errors import DuplicateError, InvalidInputError, Kind, NotFoundError

if TYPE_CHECKING:
    from headgate.ports import Json

_WRITE = "headgate-write"  # user metadata: who wrote an object


class S3Objects:
    """Implements ObjectStore on `s3://bucket/prefix?region=&endpoint=&profile=`.

    S3 answers a put when the object is durable, and reads see it from then on.

    Raises:
        ConfigError: boto3 is missing, or the URL is wrong.
    """

    def __init__(self, url: str) -> None:
        self._at = S3Location(url)
        self._prefix = f"{self._at.key.rstrip('/')}/" if self._at.key else ""

    def put(self, key: str, data: bytes, if_absent: bool = False) -> None:
        """Store bytes; with `if_absent` only where nothing is.

        Raises:
            DuplicateError: something is there.
            InvalidInputError: the key is no relative path.
        """
        full = self._full(key)
        if not if_absent:
            self._at.call("put_object", Key=full, Body=data)
            return
        write_id = uuid.uuid4().hex
        condition: Json = {"IfNoneMatch": "*", "Metadata": {_WRITE: write_id}}
        try:
            self._at.call("put_object", Key=full, Body=data, **condition)
        except InvalidInputError as error:
            if error.kind is not Kind.VERSION_CONFLICT:
                raise
            # boto3 sends again when an answer was lost: then what is in the way is our own.
            found = self._at.call("head_object", Key=full)
            if found.get("Metadata", {}).get(_WRITE) != write_id:
                message = "an object of that key is there already"
                raise DuplicateError(message) from None

    def get(self, key: str) -> bytes:
        """Its bytes.

        Raises:
            NotFoundError: there is no such object.
        """
        return self._at.get(self._full(key), self._at.url)

    def exists(self, key: str) -> bool:
        try:
            self._at.call("head_object", Key=self._full(key))
        except NotFoundError:
            return False
        return True

    def list(self, prefix: str = "") -> list[str]:
        """Keys in order."""
        return sorted(key.removeprefix(self._prefix) for key in self._at.list(self._prefix + prefix))

    def remove(self, key: str) -> None:
        self._at.call("delete_object", Key=self._full(key))

    def _full(self, key: str) -> str:
        parts = key.split("/")
        if "\0" in key or any(part in {"", ".", ".."} for part in parts):
            message = "an object key must be a relative path without '..'"
            raise InvalidInputError(message)
        return self._prefix + key
