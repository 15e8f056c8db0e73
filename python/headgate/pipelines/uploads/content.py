"""Content clients: where blobs are kept, and how a service that is written once calls a sync or an async one."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import inspect
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from headgate.errors import (
    ConfigError,
    DuplicateError,
    HeadgateError,
    InterruptedRunError,
    Kind,
    PermanentError,
    StorageFullError,
    TransientError,
)
from headgate.pipelines.uploads.contracts import ContentType, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from headgate.ports import ObjectStore

_T = TypeVar("_T")


class ContentServiceClientProtocol(Protocol):
    """Where blobs are kept. Storing the same bytes again gives the same id."""

    def store_content(self, data: bytes, content_type: ContentType) -> str: ...
    def fetch_content(self, storage_id: str) -> bytes: ...


class AsyncContentServiceClientProtocol(Protocol):
    """The same with coroutines; for the service's async methods (`FileService.accept_async` and its kin)."""

    async def store_content(self, data: bytes, content_type: ContentType) -> str: ...
    async def fetch_content(self, storage_id: str) -> bytes: ...


class ContentStore:
    """Content-addressed blobs in an object store: `content/{type}/{SHA-256}`."""

    def __init__(self, objects: ObjectStore) -> None:
        self.objects = objects

    def store_content(self, data: bytes, content_type: ContentType) -> str:
        key = f"content/{content_type}/{hashlib.sha256(data).hexdigest()}"
        with contextlib.suppress(DuplicateError):
            self.objects.put(key, data, True)
        return key

    def fetch_content(self, storage_id: str) -> bytes:
        return self.objects.get(storage_id)


class AsyncContentStore:
    """`ContentStore` for coroutines: the object store is called on threads, the event loop goes on meanwhile.

    Args:
        objects: as for `ContentStore`; it has the same keys, so both can be used side by side.

    Example:
        >>> files = FileService(AsyncContentStore(objects), store, clock)              # doctest: +SKIP
        >>> await files.accept_async("batch-1", [UploadedFile("a.txt", b"...")])      # doctest: +SKIP
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._store = ContentStore(objects)

    async def store_content(self, data: bytes, content_type: ContentType) -> str:
        return await asyncio.to_thread(self._store.store_content, data, content_type)

    async def fetch_content(self, storage_id: str) -> bytes:
        return await asyncio.to_thread(self._store.fetch_content, storage_id)


class ContentUnavailableError(TransientError):
    """The content client failed in a way that may pass by itself. `code` is what the file's event says in the end."""

    def __init__(self, code: ErrorCode, reason: str, kind: Kind = Kind.UNAVAILABLE) -> None:
        super().__init__(f"{code}: {reason}", kind)
        self.code = code
        self.reason = reason

    def __reduce__(self) -> Any:
        return type(self), (self.code, self.reason, self.kind)


class ContentRefusedError(PermanentError):
    """The content client failed in a way that trying again does not mend. `code` is what the file's event says."""

    def __init__(self, code: ErrorCode, reason: str, kind: Kind = Kind.INTERNAL) -> None:
        super().__init__(f"{code}: {reason}", kind)
        self.code = code
        self.reason = reason

    def __reduce__(self) -> Any:
        return type(self), (self.code, self.reason, self.kind)


# Mistakes of a program, which come back each time. Anything that is unknown may pass by itself.
_MISTAKES = (PermanentError, TypeError, ValueError, LookupError, AttributeError, AssertionError, NotImplementedError)
# These are among them by class only: a full disk is emptied, and a page of an outage is no JSON.
_PASSING = (TransientError, StorageFullError, json.JSONDecodeError)


@dataclass(frozen=True)
class Call:
    """A call of the content client that a step of the service asks for."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


if TYPE_CHECKING:
    Steps = Generator[Call, Any, _T]


def store_content(content: Any, data: bytes, content_type: ContentType) -> Steps[str]:
    """Store a blob; whatever the client raises or returns, the outcome is an id or one of the two errors.

    Raises:
        ContentUnavailableError, ContentRefusedError: with RAW_STORAGE_FAILED or TEXT_STORAGE_FAILED.
    """
    is_raw = content_type is ContentType.RAW_UPLOAD_BLOB
    code = ErrorCode.RAW_STORAGE_FAILED if is_raw else ErrorCode.TEXT_STORAGE_FAILED
    with _classified(code):
        storage_id = yield Call(content.store_content, (data, content_type))
    if not isinstance(storage_id, str) or not storage_id or not _is_unicode(storage_id):
        expected = f"store_content returned {_kind_of(storage_id)}, expected a storage id as text"
        raise ContentRefusedError(code, expected)
    return storage_id


def fetch_content(content: Any, storage_id: str) -> Steps[bytes]:
    """Fetch a raw file; the outcome is its bytes or one of the two errors.

    Raises:
        ContentUnavailableError, ContentRefusedError: with RAW_STORAGE_FAILED; of kind not_found where the client says
            so (`NotFoundError`, `KeyError`, `FileNotFoundError`).
    """
    code = ErrorCode.RAW_STORAGE_FAILED
    with _classified(code):
        data = yield Call(content.fetch_content, (storage_id,))
    if not isinstance(data, bytes):
        raise ContentRefusedError(code, f"fetch_content returned {_kind_of(data)}, expected bytes")
    return data


@contextlib.contextmanager
def _classified(code: ErrorCode) -> Generator[None, None, None]:
    try:
        yield
    except (InterruptedRunError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        # The text of a foreign exception may hold anything (addresses, tokens), so only its type goes on.
        reason = f"{type(error).__name__}: {error}" if isinstance(error, HeadgateError) else type(error).__name__
        sentence = f"the content client failed ({reason})"
        if isinstance(error, KeyError | FileNotFoundError):
            raise ContentRefusedError(code, sentence, Kind.NOT_FOUND) from error
        kind = error.kind if isinstance(error, HeadgateError) else None
        if isinstance(error, _MISTAKES) and not isinstance(error, _PASSING):
            raise ContentRefusedError(code, sentence, kind or Kind.INTERNAL) from error
        usual = Kind.TIMEOUT if isinstance(error, TimeoutError) else Kind.UNAVAILABLE
        raise ContentUnavailableError(code, sentence, kind or usual) from error


def is_async(content: Any) -> bool:
    """Whether a content client's methods are coroutine functions."""
    return any(_is_coroutine_function(getattr(content, name, None)) for name in ("store_content", "fetch_content"))


def require_sync(content: Any, caller: str, instead: str) -> None:
    """Refuse an async content client where nothing awaits it.

    Raises:
        ConfigError: names the caller and what to use instead.
    """
    if is_async(content):
        message = f"{caller}: the content client's methods are coroutines, which nothing awaits here; use {instead}"
        raise ConfigError(message)


def run_steps(steps: Steps[_T]) -> _T:
    """Run steps with a sync content client, on this thread."""
    value: Any = None
    error: BaseException | None = None
    while True:
        done, found = _advance(steps, value, error)
        if done:
            return found  # type: ignore[no-any-return]
        value, error = None, None
        try:
            value = found.function(*found.arguments)
            if inspect.isawaitable(value):
                close = getattr(value, "close", None)
                if close is not None:
                    close()  # or Python warns that it was never awaited
                message = "a coroutine, which nothing awaits here"
                raise TypeError(message)
        except (KeyboardInterrupt, GeneratorExit):
            steps.close()
            raise
        except BaseException as raised:  # SystemExit too: it ends the request's file and not the server
            error = raised


async def run_steps_async(steps: Steps[_T]) -> _T:
    """Run steps with an async or a sync content client; what is no coroutine runs on threads, off the event loop.

    A step that has begun is finished although the caller is cancelled: it may be in the middle of a commit.
    """
    value: Any = None
    error: BaseException | None = None
    try:
        while True:
            done, found = await _finished(asyncio.ensure_future(asyncio.to_thread(_advance, steps, value, error)))
            if done:
                return found  # type: ignore[no-any-return]
            value, error = None, None
            try:
                if _is_coroutine_function(found.function):
                    value = await found.function(*found.arguments)
                else:
                    value = await asyncio.to_thread(found.function, *found.arguments)
                    value = await value if inspect.isawaitable(value) else value
            except (KeyboardInterrupt, GeneratorExit, asyncio.CancelledError):
                raise
            except BaseException as raised:
                error = raised
    finally:
        steps.close()


def _advance(steps: Steps[Any], value: Any, error: BaseException | None) -> tuple[bool, Any]:
    """(True, the result) at the end, else (False, the next call). StopIteration cannot leave a thread's future."""
    try:
        return False, steps.send(value) if error is None else steps.throw(error)
    except StopIteration as end:
        return True, end.value


async def _finished(task: asyncio.Future[_T]) -> _T:
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it
        raise


def _is_coroutine_function(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004 - of callable objects


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _kind_of(value: Any) -> str:
    if isinstance(value, str):
        return "text with a lone surrogate" if value else "an empty text"
    return "nothing" if value is None else type(value).__name__
