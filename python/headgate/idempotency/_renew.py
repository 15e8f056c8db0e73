"""Renews leases in the background while slow handlers run."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from headgate.errors import ConflictError, HeadgateError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headgate.idempotency._ledger import Claim, Ledger


_IDLE_S = 1.0


class LeaseRenewer:
    """Renews all running claims of a ledger from one background thread.

    A claim is renewed each time a third of its lease has passed. If the ledger cannot be reached, the renewal is
    repeated after a tenth of the lease. If the lease was lost to another worker, renewing stops; completing the claim
    will then raise `StaleLeaseError`. The thread starts with the first claim and ends when there has been none for a
    second. Methods may be called from any thread.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._wake = threading.Condition()
        self._due: dict[int, tuple[float, Claim, float]] = {}
        self._thread: threading.Thread | None = None

    def reset_after_fork(self) -> None:
        """Start without claims in a child of fork(): the claims are the parent's, and its thread does not exist
        here."""
        self._wake = threading.Condition()
        self._due = {}
        self._thread = None

    @contextmanager
    def keep(self, claim: Claim, lease: float) -> Iterator[None]:
        """Renew a claim until the block ends or its lease is lost."""
        self._add(claim, lease)
        try:
            yield
        finally:
            with self._wake:
                self._due.pop(id(claim), None)

    def _add(self, claim: Claim, lease: float) -> None:
        with self._wake:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="headgate-renew", daemon=True)
                self._thread.start()
            due = time.monotonic() + lease / 3
            first = min((entry[0] for entry in self._due.values()), default=None)
            self._due[id(claim)] = (due, claim, lease)
            if first is None or due < first:
                self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                now = time.monotonic()
                ready = [entry for entry in self._due.values() if entry[0] <= now]
                if not ready:
                    first = min((entry[0] for entry in self._due.values()), default=None)
                    if first is None and not self._wake.wait(_IDLE_S) and not self._due:
                        self._thread = None  # ends, so that an unused ledger can be freed
                        return
                    if first is not None:
                        self._wake.wait(first - now)
                    continue
            for _, claim, lease in ready:
                self._renew(claim, lease)

    def _renew(self, claim: Claim, lease: float) -> None:
        delay = lease / 3
        try:
            self._ledger.renew(claim, lease)
        except ConflictError:
            delay = -1.0  # the lease is lost: stop renewing
        except HeadgateError:
            delay = lease / 10  # the backend is unavailable: try again soon, while the lease lasts
        with self._wake:
            if id(claim) in self._due:
                if delay < 0:
                    del self._due[id(claim)]
                else:
                    self._due[id(claim)] = (time.monotonic() + delay, claim, lease)
