"""Evidence for the healing sweep: finds claims whose lease is running, in the ledgers that can be asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate.backends.dynamodb import DynamoLedger

if TYPE_CHECKING:
    from collections.abc import Sequence

_STORAGE = "v1:"
_KEYS = 500  # keys in one SQL statement


def running_claims(ledger: Any, keys: Sequence[str]) -> set[str]:
    """Which of these keys have a claim whose lease has not ended.

    Args:
        ledger: a `Ledger`. SQLite and DynamoDB can be asked. Other ledgers give an empty set; there only the cooldown
            keeps a sweep away from what is being handled.
        keys: claim keys.
    """
    wanted = list(dict.fromkeys(keys))
    if not wanted:
        return set()
    if ledger.database is not None:
        found: set[str] = set()
        for at in range(0, len(wanted), _KEYS):
            part = wanted[at : at + _KEYS]
            marks = ", ".join("?" * len(part))
            rows = ledger.database.execute(
                f"SELECT key FROM ledger WHERE key IN ({marks}) AND state = 0 AND until_us > ?",  # noqa: S608
                (*(_STORAGE + key for key in part), ledger.clock.now_us()),
            )
            found |= {key.removeprefix(_STORAGE) for (key,) in rows}
        return found
    if isinstance(ledger.native, DynamoLedger):
        return ledger.native.running(wanted)
    return set()
