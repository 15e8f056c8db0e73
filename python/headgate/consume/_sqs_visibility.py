"""Messages kept invisible while a worker has them, as the leases of their claims are renewed."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from headgate.consume._sqs_queue import error_code, is_refusal

log = logging.getLogger("headgate.consume")
MAX_VISIBILITY_S = 43_200  # 12 h after it was received, SQS ends a message's invisibility


class HeldMessage:
    """A received message whose visibility is renewed until it is let go."""

    def __init__(self, receipt: str, now_s: float, due_s: float) -> None:
        self.receipt = receipt
        self.received_s = now_s
        self.due_s = due_s
        self.lock = threading.Lock()
        self.is_held = True


class VisibilityKeeper:
    """One thread that renews the visibility of a worker's messages at a third of it, for 12 hours at most.

    Without it, SQS would hand out a message again while its handler is still at work, and count that as a receive.
    """

    def __init__(self, client: Any, url: str, visibility_s: int) -> None:
        self.visibility_s = min(MAX_VISIBILITY_S, visibility_s)
        self._client = client
        self._url = url
        self._changed = threading.Condition()
        self._held: set[HeldMessage] = set()
        self._thread: threading.Thread | None = None
        self._is_ending = False

    def hold(self, receipt: str) -> HeldMessage:
        """Keep a message that was just received invisible."""
        now_s = time.monotonic()
        held = HeldMessage(receipt, now_s, now_s + self.visibility_s / 3)
        with self._changed:
            self._held.add(held)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="headgate-visibility", daemon=True)
                self._thread.start()
            self._changed.notify()
        return held

    def let_go(self, held: HeldMessage) -> None:
        """Stop renewing. Afterwards no renewal of this message is under way, so that the caller's own call is last."""
        with self._changed:
            self._held.discard(held)
        with held.lock:
            held.is_held = False

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._is_ending = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._is_ending:
                    return
                now_s = time.monotonic()
                ready = [held for held in self._held if held.due_s <= now_s]
                if not ready:
                    first_s = min((held.due_s for held in self._held), default=None)
                    self._changed.wait(None if first_s is None else first_s - now_s)
                    continue
            for held in ready:
                self._renew(held)

    def _renew(self, held: HeldMessage) -> None:
        left_s = int(MAX_VISIBILITY_S - (time.monotonic() - held.received_s)) - 1
        with held.lock:
            if not held.is_held:
                return
            if left_s < 1:
                self._give_up(held, "12 hours have passed")
                return
            try:
                self._client.change_message_visibility(
                    QueueUrl=self._url, ReceiptHandle=held.receipt, VisibilityTimeout=min(self.visibility_s, left_s)
                )
                held.due_s = time.monotonic() + self.visibility_s / 3
            except Exception as error:
                if is_refusal(error):
                    self._give_up(held, error_code(error))
                else:
                    held.due_s = time.monotonic() + self.visibility_s / 10  # SQS is unavailable: soon again

    def _give_up(self, held: HeldMessage, reason: str) -> None:
        """It will be delivered again while it is here; its claim still keeps the effect from happening twice."""
        log.warning("visibility not renewed", extra={"error": reason})
        held.is_held = False
        with self._changed:
            self._held.discard(held)
