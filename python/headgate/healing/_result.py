"""What a sweep says of itself."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from headgate.ports import Json

SELF_HEALING_THRESHOLD_HOURS = 1.0
SELF_HEALING_BATCH_SIZE = 100
SELF_HEALING_MAX_ATTEMPTS = 5  # then an item is quarantined, so that a poisonous one does not circle for ever
NAMESPACE = "SentimentAnalyzer"
_MAX_ERRORS = 100


@dataclass
class SelfHealingResult:
    """What one sweep did. items_found == items_republished + quarantined + lost_races + failed.

    Attributes:
        items_found: stuck items that the sweep dealt with; those held up are not among them.
        items_republished: announced again.
        errors: what went wrong, the first hundred, by kind or by the service's code.
        execution_time_ms: of the sweep.
        more_remaining: stuck items were left for the next sweep.
        quarantined: items that have used up their attempts.
        held_up: items past the threshold whose announcement is still on its way: not stuck, and no attempt.
        lost_races: another sweep or a consumer was faster.
        failed: items that could not be announced; each used up an attempt.
        kinds: the same counts for every other kind of thing that can be stuck.
    """

    items_found: int = 0
    items_republished: int = 0
    errors: list[str] = field(default_factory=list)
    execution_time_ms: float = 0.0
    more_remaining: bool = False
    quarantined: int = 0
    held_up: int = 0
    lost_races: int = 0
    failed: int = 0
    kinds: dict[str, Json] = field(default_factory=dict)

    def to_dict(self) -> Json:
        """The result as a JSON object."""
        return asdict(self)

    def summary(self) -> Json:
        """What a handler's answer says of it: `errors` and `kinds` only when there are any."""
        optional = ("errors", "kinds")
        return {k: v for k, v in asdict(self).items() if v or k not in optional}

    def add_error(self, text: str) -> None:
        """Note what went wrong."""
        if len(self.errors) < _MAX_ERRORS:
            self.errors.append(text)


def emit_result(
    result: SelfHealingResult, emit: Callable[[str, float, str, dict[str, str]], Any] | None, environment: str
) -> str:
    """Send the sweep's five metrics, in the zero case too; the error's type when they cannot be sent."""
    if emit is None:
        return ""
    dimensions = {"Environment": environment}
    try:
        for name, value, unit in (
            ("SelfHealingItemsFound", result.items_found, "Count"),
            ("SelfHealingItemsRepublished", result.items_republished, "Count"),
            ("SelfHealingItemsQuarantined", result.quarantined, "Count"),
            ("SelfHealingExecutionTime", result.execution_time_ms, "Milliseconds"),
            ("SelfHealingErrors", len(result.errors), "Count"),
        ):
            emit(name, float(value), unit, dimensions)
    except Exception as error:
        return type(error).__name__
    return ""


def subsegment(name: str) -> AbstractContextManager[Any]:
    """A subsegment of the X-Ray trace where the SDK is loaded and a segment is open; otherwise nothing."""
    import sys

    module = sys.modules.get("aws_xray_sdk.core")
    recorder = getattr(module, "xray_recorder", None)
    if recorder is None:
        return nullcontext()
    try:
        if recorder.current_segment() is None:
            return nullcontext()
        made: AbstractContextManager[Any] = recorder.in_subsegment(name)
    except Exception:  # no segment is open: the SDK raises, or logs, as it is configured
        return nullcontext()
    return made
