"""From an HTTP answer to `NewsArticle`s, for those who ask sources without the collector."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.errors import HeadgateError, Kind, TransientError
from headgate.intake._bodies import read_json
from headgate.pipelines.market.models import NewsArticle

if TYPE_CHECKING:
    from headgate.ports import Clock, Json
    from headgate.resilience import Response

_OK = 200


def read_answer(answer: Response | Exception, clock: Clock) -> bytes:
    """The body of a good answer.

    Raises:
        HeadgateError: there is none; `retry_after_s` says what the failover between HTTP sources would do: nothing to
            wait for, seconds, or infinity for what is not to be asked again.
    """
    if isinstance(answer, Exception):
        raise answer
    if answer.status == _OK:
        return bytes(answer.body)
    error = TransientError(f"answered with status {answer.status}", Kind.HTTP_STATUS)
    wait = core.retry_wait_s(answer.status, answer.headers, clock)
    error.retry_after_s = math.inf if wait is None else wait
    raise error


def records_of(source: Any, body: bytes) -> list[Any]:
    """A body's records, as the source reads them.

    Raises:
        TransientError: kind malformed_response.
    """
    try:
        value = read_json(body)
        records = list(source.records(value)) if hasattr(source, "records") else value
        if not isinstance(records, list):
            raise TypeError
    except Exception:
        raise malformed("answered 200 with a body of another shape") from None
    return records


def articles_of(source: Any, body: bytes) -> list[NewsArticle]:
    """A body's articles; a record that is no object is left out.

    Raises:
        TransientError: kind malformed_response: a body, or a record, that the source cannot read.
    """
    try:
        return [_article(source, record) for record in records_of(source, body) if isinstance(record, dict)]
    except HeadgateError:
        raise
    except Exception as error:
        message = f"answered 200 with a record that its source cannot read: {type(error).__name__}"
        raise malformed(message) from None


def malformed(message: str) -> TransientError:
    """A body of another shape: asking again brings the same."""
    error = TransientError(message, Kind.MALFORMED_RESPONSE)
    error.retry_after_s = math.inf
    return error


def newest(articles: list[NewsArticle], limit: int) -> list[NewsArticle]:
    """At most so many, newest first. A source's times are all of one form, so that they order as they are."""
    return sorted(articles, key=lambda a: (str(type(a.published_at)), str(a.published_at)), reverse=True)[:limit]


def name_of(source: Any) -> str:
    """What a source is called in attempts and items."""
    return str(getattr(source, "name", type(source).__name__.lower()))


def _article(source: Any, record: Json) -> NewsArticle:
    f = source.fields(record)
    ident = f["id"]
    return NewsArticle(
        None if ident is None else str(ident), name_of(source), f["headline"], f["published"], f["description"],
        f["url"], _texts(f["tickers"]), _texts(f["tags"]), f["source_name"], raw=record,
    )  # fmt: skip


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(v for v in values if isinstance(v, str)) if isinstance(values, list) else ()
