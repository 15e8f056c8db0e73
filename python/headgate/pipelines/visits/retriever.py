"""Event files of a bucket, one step at a time; `headgate.checkpoint.update` does it in bulk."""

from __future__ import annotations

import logging
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from headgate._native import core
from headgate._registry import shipped_plan
from headgate.checkpoint._result import shown_problems
from headgate.checkpoint.schema import problems_of
from headgate.errors import AccessError, HeadgateError, InvalidInputError
from headgate.identity import load_json
from headgate.pipelines.visits.models import FILE_NAMES, VisitEvent

if TYPE_CHECKING:
    from datetime import datetime

log = logging.getLogger("headgate.checkpoint")
_THREADS = 16
_VISITS = core.Validator(shipped_plan("visits"))
_NAMES = [re.compile(pattern) for pattern in FILE_NAMES]


def redacted(key: str) -> str:
    """The file's name as logs may show it: the participant id is hidden."""
    return _VISITS.shown_name(key)


class S3EventRetriever:
    """Lists, reads and validates event files.

    Args:
        bucket: its name.
        prefix: only keys that start with it, as S3 understands it: `prod` takes `production/` too, `prod/` does not.
        since_timestamp: only events strictly later (None: all). For runs that must not lose late files, use `update`.
        **options: region, endpoint, profile, as in s3:// URLs.

    Example:
        >>> events, errors = S3EventRetriever("logs", "prod/").retrieve_and_validate_events()   # doctest: +SKIP
    """

    def __init__(self, bucket: str, prefix: str = "", since_timestamp: datetime | None = None, **options: str) -> None:
        from headgate.checkpoint._places import s3_location, s3_url

        self._place = s3_location(s3_url(bucket, prefix, **options))
        self._since = since_timestamp

    def list_event_files(self) -> list[str]:
        """Keys under the prefix whose names fit the grammar, all pages.

        Raises:
            AccessError, TransientError.
        """
        return [key for key in self._place.list() if any(p.fullmatch(key.rsplit("/", 1)[-1]) for p in _NAMES)]

    def retrieve_event(self, key: str) -> dict[str, Any]:
        """The JSON document of one file.

        Raises:
            NotFoundError, AccessError, TransientError; InvalidInputError: it is not a JSON object.
        """
        out = load_json(self._place.get(key, redacted(key)), redacted(key))
        if not isinstance(out, dict):
            message = f"{redacted(key)}: not a JSON object"
            raise InvalidInputError(message)
        return out

    def should_process_event(self, event: VisitEvent) -> bool:
        """Whether it is strictly later than `since_timestamp`."""
        return self._since is None or event.timestamp > self._since

    def retrieve_and_validate_events(self) -> tuple[list[VisitEvent], list[dict[str, Any]]]:
        """Every readable, valid event, and for every other file {source_key (redacted), errors}.

        Raises:
            AccessError: on the listing, or on every file.
        """
        keys = self.list_event_files()
        events: list[VisitEvent] = []
        errors: list[dict[str, Any]] = []
        refused: list[AccessError] = []
        with ThreadPoolExecutor(_THREADS) as pool:
            for key, result in zip(keys, pool.map(self._one, keys), strict=True):
                if isinstance(result, VisitEvent):
                    if self.should_process_event(result):
                        events.append(result)
                    continue
                if isinstance(result, AccessError):
                    refused.append(result)
                errors.append({"source_key": redacted(key), "errors": _problems(result)})
                log.warning("event file refused", extra={"file": redacted(key), "problems": errors[-1]["errors"]})
        if keys and len(refused) == len(keys):
            raise refused[0]
        return events, errors

    def _one(self, key: str) -> VisitEvent | Exception:
        try:
            return VisitEvent.from_json(self._place.get(key, redacted(key)))
        except (HeadgateError, ValueError) as error:
            return error


def _problems(error: Exception) -> list[str]:
    """Fields and kinds; never a value, which may be personal."""
    if isinstance(error, ValidationError):
        return shown_problems(problems_of(error, VisitEvent))
    return [error.kind.value] if isinstance(error, HeadgateError) else ["json"]
