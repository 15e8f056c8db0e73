"""VisitEvent and the file-name grammar."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from headgate.checkpoint.schema import DateText, DigitsInt, OneOfWhen, Timestamp, Trimmed, Unpadded

_ACTION = "(?P<action>submit|pass-qc|not-pass-qc|delete)"
_HEAD = rf"log-{_ACTION}-(?P<stamp>[0-9]{{8}}-[0-9]{{6}})-(?P<adcid>[0-9]+)"
_DATATYPES = (
    "apoe", "biomarker", "dicom", "enrollment", "form", "genetic-availability", "gwas", "imputation", "scan-analysis",
)  # fmt: skip
_PROJECT = rf"(?P<project>(?:sandbox-)?ingest-(?:{'|'.join(_DATATYPES)})(?:-(?:adrc|dvcid|leads))?)"
# ptid is any printable text of at most ten characters without '/'; the last part is a visit number or, since
# February 2026, the visit date.
_PTID, _VISIT = "[!-.0-~]{1,10}", r"(?:[0-9]{4}-[0-9]{2}-[0-9]{2}|[^-/]+)"
# A name is redacted by the first of these that it matches. Logs show the visit only where it is clear where the ptid
# ends, and the project only where it is a known one: hyphens may be in each of the three.
FILE_NAMES = (
    rf"{_HEAD}-{_PROJECT}-(?P<ptid>[!-,.0-~]{{1,10}})-(?P<visit>[0-9]{{1,3}}|[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})\.json",
    rf"{_HEAD}-{_PROJECT}-(?P<participant>(?:[A-Za-z0-9_-]+-)?{_PTID}-{_VISIT})\.json",
    rf"{_HEAD}-(?P<participant>[A-Za-z0-9_-]+-{_PTID}-{_VISIT})\.json",
    rf"log-{_ACTION}-(?P<stamp>[0-9]{{8}})\.json",
)
MODULES = ("UDS", "FTLD", "LBD", "MDS", "FTLD-NP", "FTLD-B")  # an unknown one is rejected
MODULE_RULE = OneOfWhen("module_of_form", "datatype", ("form",), "module", MODULES)

NonEmpty = Annotated[Trimmed, StringConstraints(min_length=1)]


def _no_constant(name: str) -> Any:
    message = f"{name} is not JSON"
    raise ValueError(message)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        message = "an object names one key twice"
        raise ValueError(message)
    return out


class VisitEvent(BaseModel):
    """One event of one visit.

    Example:
        >>> VisitEvent.from_json('{"action": "fly"}')              # doctest: +SKIP
    """

    model_config = ConfigDict(extra="forbid", strict=True, validate_assignment=True)
    headgate_name: ClassVar[str] = "visits"
    headgate_sort_by: ClassVar[str] = "timestamp"
    headgate_file_names: ClassVar[tuple[str, ...]] = FILE_NAMES
    headgate_listing_prefixes: ClassVar[tuple[str, ...]] = tuple(
        f"log-{action}-" for action in ("submit", "pass-qc", "not-pass-qc", "delete")
    )
    headgate_private: ClassVar[tuple[str, ...]] = ("ptid", "participant")
    headgate_rules: ClassVar[tuple[OneOfWhen, ...]] = (MODULE_RULE,)

    action: Literal["submit", "pass-qc", "not-pass-qc", "delete"]
    study: NonEmpty = "adrc"
    pipeline_adcid: Annotated[DigitsInt, Field(gt=0, le=2**31 - 1)]
    project_label: NonEmpty
    center_label: NonEmpty
    gear_name: NonEmpty
    ptid: Annotated[Unpadded, StringConstraints(pattern=r"^[!-~]{1,10}$")]
    visit_date: DateText
    visit_number: Trimmed | None = None
    datatype: Literal[
        "apoe", "biomarker", "dicom", "enrollment", "form", "genetic-availability", "gwas", "imputation",
        "scan-analysis",
    ]  # fmt: skip
    module: Trimmed | None = None
    packet: Trimmed | None = None
    timestamp: Timestamp

    @model_validator(mode="after")
    def _rules(self) -> VisitEvent:
        for rule in self.headgate_rules:
            rule.check(self)
        return self

    @classmethod
    def from_json(cls, text: str | bytes) -> VisitEvent:
        """Validate one JSON document, as strictly as the bulk path does.

        Raises:
            ValueError: not JSON, a key twice, or a pydantic ValidationError.
        """
        try:
            document = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
        except RecursionError:
            message = "the JSON is nested too deeply"
            raise ValueError(message) from None
        return cls.model_validate(document)
