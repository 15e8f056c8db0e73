"""Filter: a chain of four filters, each of which gives reason and code for what it keeps back."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from headgate.pipelines.scoring._base import ScoringStage
from headgate.pipelines.scoring.models import Candidate, read_candidates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headgate.ports import Clock, Json, ObjectStore
    from headgate.workflow import ExecutionContext

Verdict = tuple[str, str] | None  # (reason code, reason), or None for a candidate that passes


class CandidateFilter(Protocol):
    """One filter of the chain."""

    @property
    def filter_id(self) -> str: ...

    def begin(self) -> None:
        """Before the first candidate of a run."""

    def check(self, candidate: Candidate, now: datetime) -> Verdict:
        """The code and reason of a rejection, or None."""


@dataclass
class EligibilityFilter:
    """Whether the customer can be asked at all: the subject is open and not consumed, and a channel is left.

    Args:
        closed_actions: values of the attribute `action` after which nothing is to be done.
    """

    closed_actions: frozenset[str] = frozenset({"pass-qc", "delete"})
    filter_id: str = "eligibility"

    def begin(self) -> None: ...

    def check(self, candidate: Candidate, now: datetime) -> Verdict:
        about = candidate.attributes
        action = (about.model_extra or {}).get("action")
        if action in self.closed_actions:
            return "ALREADY_CLOSED", f"latest action is {action}"
        if about.consumed:
            return "ALREADY_CONSUMED", "the subject was consumed before"
        if candidate.metadata.expiresAt <= now:
            return "EXPIRED", "the candidate has expired"
        if about.channelEligibility and not any(about.channelEligibility.values()):
            return "NO_CHANNEL", "no channel may be used"
        return None


@dataclass
class TrustFilter:
    """Whether the event can be believed: it comes from a known connector and is not of the future.

    Args:
        connectors: trusted connectors; empty trusts each that names itself.
        blocked_customers: whose candidates are kept back.
    """

    connectors: frozenset[str] = frozenset()
    blocked_customers: frozenset[str] = frozenset()
    filter_id: str = "trust"

    def begin(self) -> None: ...

    def check(self, candidate: Candidate, now: datetime) -> Verdict:
        source = candidate.metadata.sourceConnectorId
        if not source or (self.connectors and source not in self.connectors):
            return "UNTRUSTED_SOURCE", "the connector is not a trusted one"
        if candidate.customerId in self.blocked_customers:
            return "BLOCKED_CUSTOMER", "the customer is blocked"
        event = candidate.attributes.eventDate
        if event is not None and event > now:
            return "FUTURE_EVENT", "the event lies in the future"
        return None


@dataclass
class QualityFilter:
    """Whether the data is good enough: there is an event date, dates are in order, and no candidate comes twice."""

    filter_id: str = "quality"
    _seen: set[tuple[str, str, str]] = field(default_factory=set, repr=False)

    def begin(self) -> None:
        self._seen = set()

    def check(self, candidate: Candidate, now: datetime) -> Verdict:
        about = candidate.attributes
        if about.eventDate is None:
            return "NO_EVENT_DATE", "there is no event date"
        if about.deliveryDate is not None and about.deliveryDate < about.eventDate:
            return "DATES_OUT_OF_ORDER", "the delivery is before the event"
        key = (candidate.customerId, candidate.subject.type, candidate.subject.id)
        if key in self._seen:
            return "DUPLICATE_CANDIDATE", "the customer and subject came before in this run"
        self._seen.add(key)
        return None


@dataclass
class BusinessRuleFilter:
    """Whether asking is worth it: in the timing window, of enough value, with media where they are needed.

    Args:
        window_days: for candidates without a `timingWindow` of their own; None: no limit.
        least_order_value: for candidates that have an order value.
        needs_media: whether `mediaEligible` has to be true.
    """

    window_days: float | None = None
    least_order_value: float = 0.0
    needs_media: bool = False
    filter_id: str = "business_rule"

    def begin(self) -> None: ...

    def check(self, candidate: Candidate, now: datetime) -> Verdict:
        about = candidate.attributes
        days = about.timingWindow if about.timingWindow is not None else self.window_days
        if days is not None and about.eventDate is not None and now - about.eventDate > timedelta(days=days):
            return "OUTSIDE_TIMING_WINDOW", f"the event is more than {days:g} days old"
        if about.orderValue is not None and about.orderValue < self.least_order_value:
            return "ORDER_VALUE_TOO_LOW", f"the order's value is below {self.least_order_value:g}"
        if about.mediaEligible is False and self.needs_media:
            return "MEDIA_NOT_ELIGIBLE", "media are not allowed"
        return None


class FilterStage(ScoringStage):
    """Keeps the candidates that pass every filter; the first that does not let one pass says why.

    Output: the input with fewer `candidates`, with `rejected` ({customerId, subjectId, filterId, reason, reasonCode}),
    and counts by filter in `metrics`.

    Args:
        filters: default: eligibility, trust, quality, business_rule, in this order.
    """

    def __init__(
        self,
        objects: ObjectStore | None = None,
        clock: Clock | None = None,
        filters: Sequence[CandidateFilter] | None = None,
    ) -> None:
        super().__init__(objects, clock)
        chain: list[CandidateFilter] = [EligibilityFilter(), TrustFilter(), QualityFilter(), BusinessRuleFilter()]
        self.filters = chain if filters is None else list(filters)

    def process(self, data: Any, context: ExecutionContext) -> Json:
        now = self.moment(data, context)
        candidates = read_candidates(context.currentStage, data)
        for rule in self.filters:
            rule.begin()
        kept, rejected = [], []
        for candidate, given in zip(candidates, data["candidates"], strict=True):
            for rule in self.filters:
                verdict = rule.check(candidate, now)
                if verdict is not None:
                    rejected.append(candidate.rejected_by(rule.filter_id, *verdict).model_dump())
                    break
            else:
                kept.append(given)
        by_filter = Counter(entry["filterId"] for entry in rejected)
        counts = {
            "rejected": len(rejected),
            "rejectedBy": {rule.filter_id: by_filter[rule.filter_id] for rule in self.filters},
        }
        return {
            **data, "candidates": kept, "rejected": [*data.get("rejected", []), *rejected],
            "metrics": self.with_metrics(data, **counts),
        }  # fmt: skip
