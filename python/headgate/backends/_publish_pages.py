"""How an outbox, whatever its store, is given to a publisher: page by page, past what has to wait."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from headgate.ports import Published

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from headgate.ports import Announcement, Metrics, Publisher, Refusal

log = logging.getLogger("headgate.publish")
OUTBOX = "outbox"  # the stage of dead letters that were announcements


def publish_pages(
    publisher: Publisher,
    read: Callable[[int], Sequence[Announcement]],
    settle: Callable[[Sequence[Announcement], Mapping[int, Refusal], frozenset[int]], int],
    limit: int,
    stays: Callable[[Announcement], bool] = lambda _: False,
) -> int:
    """Give unsent announcements to a publisher until all were offered once, or `limit` of them arrived; how many did.

    What does not arrive keeps its place: no later announcement of its topic and key is offered any more, and none of
    its topic where the publisher says that the topic is stuck. Everything else goes on.

    Args:
        publisher: the publisher.
        read: how many -> the next page; empty after the last one.
        settle: (page, refused rows, arrived rows) -> how many of the page were sent; marks them.
        limit: at most so many.
        stays: what counts as arrived without being offered: it belongs to this machine alone.

    Raises:
        ConfigError: the publisher is set up wrongly; what arrived before is marked.
    """
    sent = 0
    waiting: set[tuple[str, str]] = set()
    stuck: set[str] = set()
    while sent < limit and (page := read(limit - sent)):
        offered = [a for a in page if not stays(a) and a.topic not in stuck and (a.topic, a.key) not in waiting]
        answer = publisher.publish(offered) if offered else Published()
        rows = frozenset(answer)
        refused = answer.refused if isinstance(answer, Published) else {}
        sent += settle(page, refused, rows | {a.row for a in page if stays(a)})
        if isinstance(answer, Published):
            if answer.error is not None:
                raise answer.error
            if answer.is_away:
                break
            stuck |= answer.stuck
        elif offered and not rows:
            break  # it does not say which ones could still pass: likely none
        left = [a for a in offered if a.row not in rows and a.row not in refused]
        waiting |= {(a.topic, a.key) for a in left}
    return sent


def report_refusals(refused: Iterable[Refusal], metrics: Metrics | None) -> None:
    """One log line and one count for each reason; no topic, key or body."""
    for kind, count in Counter(refusal.kind for refusal in refused).items():
        log.warning("announcements set aside", extra={"count": count, "reason": kind, "stage": OUTBOX})
        if metrics is not None:
            metrics.count("headgate_outbox_set_aside_total", count, reason=kind)
