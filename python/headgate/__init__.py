"""headgate: an ingestion pipeline. Nothing is lost, nothing happens twice, what gets stuck is healed.

Everything public is imported on first use, so that `import headgate` stays fast and needs none of pyarrow, pydantic,
boto3, redis or kafka.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Public name -> the module that defines it. The module is imported when the name is first used.
_EXPORTS = {
    "canonical_json": "headgate.identity",
    "canonical_texts": "headgate.identity",
    "event_id": "headgate.identity",
    "event_ids": "headgate.identity",
    "dedup_key": "headgate.identity",
    "story_key": "headgate.identity",
    "Ledger": "headgate.idempotency",
    "AsyncLedger": "headgate.idempotency",
    "Claim": "headgate.idempotency",
    "claim_key": "headgate.idempotency",
    "default_identity": "headgate.idempotency",
    "idempotent_consumer": "headgate.idempotency",
    "HeadgateError": "headgate.errors",
    "StaleLeaseError": "headgate.errors",
    "Kind": "headgate.errors",
    "Intake": "headgate.intake",
    "Pipeline": "headgate.intake",
    "Reject": "headgate.intake",
    "open_intake": "headgate.wiring",
    "export_items": "headgate.backends.exports",
}
_SUBMODULES = (
    "backends", "checkpoint", "cli", "config", "consume", "errors", "handlers", "healing", "idempotency", "identity",
    "inbox", "intake", "items", "ops", "pipelines", "ports", "resilience", "serve", "testing", "wiring", "workflow",
)  # fmt: skip

__version__ = "0.1.0"
__all__ = [
    "AsyncLedger",
    "Claim",
    "HeadgateError",
    "Intake",
    "Kind",
    "Ledger",
    "Pipeline",
    "Reject",
    "StaleLeaseError",
    "__version__",
    "canonical_json",
    "canonical_texts",
    "claim_key",
    "dedup_key",
    "default_identity",
    "event_id",
    "event_ids",
    "export_items",
    "idempotent_consumer",
    "open_intake",
    "story_key",
]

if TYPE_CHECKING:
    from headgate.backends.exports import export_items
    from headgate.errors import HeadgateError, Kind, StaleLeaseError
    from headgate.idempotency import AsyncLedger, Claim, Ledger, claim_key, default_identity, idempotent_consumer
    from headgate.identity import canonical_json, canonical_texts, dedup_key, event_id, event_ids, story_key
    from headgate.intake import Intake, Pipeline, Reject
    from headgate.wiring import open_intake


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = getattr(importlib.import_module(_EXPORTS[name]), name)
        globals()[name] = value
        return value
    if name in _SUBMODULES:
        return importlib.import_module(f"headgate.{name}")
    message = f"module 'headgate' has no attribute {name!r}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted({*__all__, *_SUBMODULES})
