"""Claims with leases and owner tokens: an effect runs once, whoever delivers its message how often."""

from headgate.idempotency._decorator import InProgress, idempotent_consumer
from headgate.idempotency._ledger import Claim, Ledger

__all__ = ["Claim", "InProgress", "Ledger", "idempotent_consumer"]
