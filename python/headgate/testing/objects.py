"""An object store in memory, for tests of stages and handlers."""

from __future__ import annotations

import threading

from headgate.errors import DuplicateError, InvalidInputError, NotFoundError


class MemoryObjects:
    """Implements ObjectStore in a dict; several threads may use it.

    Example:
        >>> objects = MemoryObjects()
        >>> objects.put("a/b", b"1")
        >>> objects.get("a/b"), objects.list("a/")
        (b'1', ['a/b'])
    """

    def __init__(self) -> None:
        self._held: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put(self, key: str, data: bytes, if_absent: bool = False) -> None:
        """Store bytes; with `if_absent` only where nothing is.

        Raises:
            DuplicateError: something is there.
            InvalidInputError: the key is no relative path.
        """
        if "\0" in key or any(part in {"", ".", ".."} for part in key.split("/")):
            message = "an object key must be a relative path without '..'"
            raise InvalidInputError(message)
        with self._lock:
            if if_absent and key in self._held:
                message = "an object of that key is there already"
                raise DuplicateError(message)
            self._held[key] = bytes(data)

    def get(self, key: str) -> bytes:
        """Its bytes.

        Raises:
            NotFoundError: there is no such object.
        """
        try:
            return self._held[key]
        except KeyError:
            message = "there is no such object"
            raise NotFoundError(message) from None

    def exists(self, key: str) -> bool:
        return key in self._held

    def list(self, prefix: str = "") -> list[str]:
        """Keys in order."""
        with self._lock:
            return sorted(key for key in self._held if key.startswith(prefix))

    def remove(self, key: str) -> None:
        with self._lock:
            self._held.pop(key, None)
