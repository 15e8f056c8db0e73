"""The file service as a configuration describes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headgate.pipelines.uploads.content import ContentStore
from headgate.pipelines.uploads.service import FileService

if TYPE_CHECKING:
    from headgate.backends.local import LocalStore
    from headgate.wiring import App


def file_service(app: App, store: LocalStore | None = None) -> FileService:
    """The configured file service.

    Args:
        app: gives the objects, the clock, the metrics and the section [uploads].
        store: with a connection of its own (`App.intake_store`); None: the app's.
    """
    u = app.config.uploads
    return FileService(
        ContentStore(app.objects), store or app.store, app.clock, min_length=u.min_length, max_length=u.max_length,
        extract_timeout_s=u.extract_timeout_s, extract_memory_bytes=u.extract_memory_bytes, metrics=app.metrics,
    )  # fmt: skip
