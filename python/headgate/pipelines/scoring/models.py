"""The contracts of the scoring stages, as pydantic models: candidates, their scores, rejections and reactive events.

Stages hand candidates on as JSON objects; each checks those it gets against `Candidate`, so that a stage may stand at
any place of a workflow. Names are those of the contract.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from headgate.errors import InvalidInputError, Kind

Identifier = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Context(_Model):
    """Something that a candidate was found in: a marketplace, a programme, a vertical."""

    type: Identifier
    id: Identifier


class Subject(_Model):
    """What the customer may be asked about."""

    type: Identifier
    id: Identifier
    metadata: dict[str, Any] = Field(default_factory=dict)


class Score(_Model):
    """A model's opinion; `confidence` is 0 for a fallback."""

    modelId: Identifier  # noqa: N815 - the contract's own names
    value: float
    confidence: Fraction
    timestamp: AwareDatetime


class Attributes(BaseModel):
    """What filters and models look at; a connector may add more."""

    model_config = ConfigDict(extra="allow")

    eventDate: AwareDatetime | None = None  # noqa: N815
    deliveryDate: AwareDatetime | None = None  # noqa: N815
    timingWindow: Annotated[float, Field(gt=0)] | None = None  # noqa: N815 - days after the event
    orderValue: Annotated[float, Field(ge=0)] | None = None  # noqa: N815
    mediaEligible: bool | None = None  # noqa: N815
    channelEligibility: dict[str, bool] = Field(default_factory=dict)  # noqa: N815
    consumed: bool = False


class Metadata(_Model):
    """Where a candidate comes from and how long it is good."""

    createdAt: AwareDatetime  # noqa: N815
    updatedAt: AwareDatetime  # noqa: N815
    expiresAt: AwareDatetime  # noqa: N815
    version: Annotated[int, Field(ge=1)] = 1
    sourceConnectorId: str  # noqa: N815
    workflowExecutionId: Identifier  # noqa: N815


class Rejection(_Model):
    """Why a filter kept a candidate back."""

    customerId: Identifier  # noqa: N815
    subjectId: Identifier  # noqa: N815
    filterId: Identifier  # noqa: N815
    reason: str
    reasonCode: Identifier  # noqa: N815


class Candidate(_Model):
    """A customer and a subject that may fit together.

    Example:
        >>> Candidate.model_validate({"customerId": "c1", "subject": {"type": "order", "id": "o1"}, "metadata": {
        ...     "createdAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:00:00Z",
        ...     "expiresAt": "2026-02-01T00:00:00Z", "sourceConnectorId": "orders", "workflowExecutionId": "run-1",
        ... }}).subject.id
        'o1'
    """

    customerId: Identifier  # noqa: N815
    context: list[Context] = Field(default_factory=list)
    subject: Subject
    scores: dict[str, Score] = Field(default_factory=dict)
    attributes: Attributes = Field(default_factory=Attributes)
    metadata: Metadata
    rejectionHistory: list[Rejection] = Field(default_factory=list)  # noqa: N815

    def rejected_by(self, filter_id: str, code: str, reason: str) -> Rejection:
        """A rejection of this candidate."""
        return Rejection(
            customerId=self.customerId, subjectId=self.subject.id, filterId=filter_id, reason=reason, reasonCode=code
        )

    def best_score(self) -> Score | None:
        """The highest score of any model."""
        return max(self.scores.values(), key=lambda score: score.value, default=None)

    def to_json(self) -> dict[str, Any]:
        """As stages hand it on: without what is not set."""
        return self.model_dump(mode="json", exclude_none=True)


class ReactiveEvent(BaseModel):
    """The `detail` of an EventBridge event that asks for a reaction; what else it holds is kept in `metadata`."""

    model_config = ConfigDict(extra="forbid")

    customerId: Identifier  # noqa: N815
    eventType: Identifier  # noqa: N815
    subjectType: Identifier  # noqa: N815
    subjectId: Identifier  # noqa: N815
    programId: Identifier  # noqa: N815
    marketplace: Identifier
    eventDate: AwareDatetime  # noqa: N815
    metadata: dict[str, Any] = Field(default_factory=dict)

    @property
    def dedup_key(self) -> str:
        """Events with the same key within the window are one.

        Example:
            >>> ReactiveEvent(customerId="c", eventType="BUY", subjectType="order", subjectId="o", programId="p",
            ...               marketplace="m", eventDate="2026-01-01T00:00:00Z").dedup_key
            'c:order:o:p'
        """
        return f"{self.customerId}:{self.subjectType}:{self.subjectId}:{self.programId}"


_CANDIDATES = TypeAdapter(list[Candidate])


def read_candidates(stage: str, data: Any) -> list[Candidate]:
    """The candidates of a stage's input.

    Raises:
        InvalidInputError: there is no list of candidates, or one does not fit the model; the message names the place
            and the rule, never the value.
    """
    if not isinstance(data, dict) or not isinstance(data.get("candidates"), list):
        message = f"stage {stage!r} got no candidates; expected an object with a list of that name"
        raise InvalidInputError(message)
    try:
        return _CANDIDATES.validate_python(data["candidates"])
    except ValidationError as error:
        raise schema_error(stage, "candidates", error) from None


def schema_error(stage: str, what: str, error: ValidationError) -> InvalidInputError:
    """One sentence about where a document does not fit its model."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    message = f"stage {stage!r}: {what} do not fit their model at {place}: {first['msg']}{more}"
    return InvalidInputError(message, Kind.INVALID_RECORD)


def read_time(stage: str, name: str, text: Any) -> datetime:
    """A moment with its time zone.

    Raises:
        InvalidInputError: it is none.
    """
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        found = None
    if found is None or found.tzinfo is None:
        message = f"stage {stage!r}: {name} is no moment; expected ISO 8601 with a time zone"
        raise InvalidInputError(message)
    return found
