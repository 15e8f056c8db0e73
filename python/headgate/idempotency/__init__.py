"""Claims with leases and owner tokens: an effect runs once, whoever delivers its message how often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate.idempotency._decorator import InProgress, claim_key, default_identity, idempotent_consumer
from headgate.idempotency._ledger import Claim, Ledger

__all__ = [
    "AsyncLedger", "Claim", "InProgress", "Ledger", "claim_key", "create_ledger_table", "default_identity",
    "idempotent_consumer",
]  # fmt: skip

if TYPE_CHECKING:
    from headgate.backends.dynamodb import create_ledger_table
    from headgate.idempotency._async import AsyncLedger


def __getattr__(name: str) -> Any:
    if name == "AsyncLedger":  # asyncio is not cheap to import
        from headgate.idempotency._async import AsyncLedger

        return AsyncLedger
    if name == "create_ledger_table":
        from headgate.backends.dynamodb import create_ledger_table

        return create_ledger_table
    message = f"module 'headgate.idempotency' has no attribute {name!r}"
    raise AttributeError(message)
