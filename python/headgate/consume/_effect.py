"""Runs the handler of a claimed message and commits the result, the item's end and the acknowledgement with it."""

from __future__ import annotations

import json
import logging
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

from headgate._native import core
from headgate.consume._messages import DeadLetterCause, Delivery, Outcome
from headgate.errors import HeadgateError, InvalidInputError, TransientError
from headgate.idempotency._events import item_key_of
from headgate.idempotency._handler import refuse_unfinished
from headgate.idempotency._serializers import json_serializer
from headgate.items import announced_at

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from headgate.consume._consumer import Consumer
    from headgate.idempotency import Claim, Ledger
    from headgate.items import LifeCycle, Scope
    from headgate.ports import Json, Transaction

log = logging.getLogger("headgate.consume")

_MAX_WRITES = 99  # a DynamoDB transaction takes 100 writes; one is the completion


class UncompletedClaimError(TransientError):
    """The handler has run, but its claim could not be completed because the ledger is unavailable."""

    def __init__(self, cause: TransientError) -> None:
        super().__init__(cause.message, cause.kind)


def sending_id(delivery: Delivery, body: Json | None = None) -> str:
    """Identifies one sending of a message: the time of its republication, else the queue's message id."""
    if body is None and delivery.value is not None:
        with suppress(ValueError, RecursionError):
            body = json.loads(delivery.value)
    return announced_at(body) or delivery.message_id


class Effect:
    """Runs a consumer's handler and commits everything that belongs to its effect.

    Args:
        consumer: whose handler runs.
        ledger: where the claim is completed.
        items: finishes the items that the consumer handles; None: none.
        joint: whether the queue is in the ledger's database, so that acknowledgement and completion are one commit.

    May be called from several threads, like the ledger.
    """

    def __init__(self, consumer: Consumer, ledger: Ledger, items: LifeCycle | None, *, joint: bool) -> None:
        self._consumer = consumer
        self._ledger = ledger
        self._items = items
        self._joint = joint
        self.acknowledges = consumer.effects == "transaction" or (consumer.effects == "plain" and joint)

    def run(
        self, delivery: Delivery, body: Json | None, claim: Claim,
        acknowledge: Callable[[Transaction | None], None] | None,
    ) -> Outcome:  # fmt: skip
        """Run the handler and complete its claim.

        Returns:
            Whether it was handled, or its item was already, under another claim.

        Raises:
            UncompletedClaimError: the handler has run, and its claim could not be completed.
            BaseException: the handler's own.
        """
        item, life = self._item_of(body), sending_id(delivery, body)
        shared = self._shares()
        # Check before slow work; a handler in a transaction is checked again inside it.
        early = self._consumer.prepare is not None or not shared or self._consumer.effects != "transaction"
        if item and early and self._items is not None and self._items.is_ended(item):
            return self._skip(claim, acknowledge)
        with self._ledger.renewing(claim, self._consumer.usual_lease_s), self._handling(item) as scope:
            given = self._prepared(body)
            if self._consumer.effects == "transaction":
                with self._ledger.database.transaction() as tx:
                    if item and shared and self._items is not None and self._items.is_ended(item, tx):
                        return self._skip(claim, acknowledge)
                    outcome = self._finished(self._consumer.handler(given, tx))
                    core.fault_point("consume.after_effect")
                    if acknowledge is not None:
                        acknowledge(tx)
                    if shared:
                        self._settle(scope, tx)
                    self._complete(claim, self._kept(scope, outcome, life))
                    core.fault_point("consume.before_commit")
                if not shared:
                    self._settle(scope)
                return Outcome.HANDLED
            outcome = self._finished(self._consumer.handler(given))
            core.fault_point("consume.after_effect")
            core.fault_point("consume.before_complete")
            if self._consumer.effects == "writes":
                self._complete_with(claim, scope, outcome or (), life)
            else:
                self._complete_plain(claim, scope, self._kept(scope, outcome, life), acknowledge)
        return Outcome.HANDLED

    # --- items (`headgate.items`)

    def end_known(self, body: Json | None, claim: Claim) -> None:
        """End the item of a message that was handled: a worker may have died between completion and end."""
        if self._items is not None:
            self._items.settle_known(self._item_of(body), claim.result)

    def _item_of(self, body: Json | None) -> str:
        return item_key_of(body) if self._items is not None and body is not None else ""

    def _handling(self, item: str) -> AbstractContextManager[Scope | None]:
        return nullcontext() if self._items is None else self._items.handling(item)

    def _shares(self) -> bool:
        """Whether items and ledger are in one database, so that one commit holds both."""
        return self._items is not None and self._items.shares(self._ledger.database)

    def _settle(self, scope: Scope | None, tx: Transaction | None = None) -> None:
        if self._items is not None and scope is not None:
            self._items.settle(scope, tx)

    def _settle_unmarked(self, scope: Scope | None) -> None:
        """End the items of an effect that no claim remembers."""
        try:
            self._settle(scope)
        except HeadgateError as error:
            # The effect has happened but is not recorded; the healing sweep will announce the item again.
            log.warning("item not finished", extra={"consumer": self._consumer.name, "error": error.kind.value})

    @staticmethod
    def _kept(scope: Scope | None, outcome: Any, life: str) -> Any:
        return outcome if scope is None else scope.result(outcome, life)

    def _skip(self, claim: Claim, acknowledge: Callable[[Transaction | None], None] | None) -> Outcome:
        """Complete the claim without running the handler: the item was handled under another message's claim."""
        self._ledger.complete(claim, None)
        if acknowledge is not None and self.acknowledges:
            acknowledge(self._ledger.database)
        return Outcome.DUPLICATE

    def _complete_with(self, claim: Claim, scope: Scope | None, writes: Sequence[Any], life: str) -> None:
        """The handler's writes, the item's end and the completion: one transaction if it does not get too large."""
        ends: list[Any] | None = []
        if self._items is not None and scope is not None:
            writes = list(writes)
            ends = self._items.writes(scope, writes)
        fits = ends is not None and (not ends or len(writes) + len(ends) <= _MAX_WRITES)
        more = () if (kept := self._kept(scope, None, life)) is None else (kept,)
        self._ledger.complete_with(claim, [*writes, *ends] if fits and ends else writes, *more)
        if not fits:
            self._settle(scope)

    def _complete(self, claim: Claim, outcome: Any) -> None:
        if self._consumer.serializer is None:
            self._ledger.complete(claim, outcome)
        else:
            self._ledger.complete(claim, outcome, serializer=json_serializer(self._consumer.serializer))

    def _complete_plain(
        self, claim: Claim, scope: Scope | None, outcome: Any,
        acknowledge: Callable[[Transaction | None], None] | None,
    ) -> None:  # fmt: skip
        """Mark the effect as done, end its item and acknowledge it: in one commit where all are in the ledger's
        database. Elsewhere the mark comes first: without the item's end, the next announcement is a duplicate that ends
        it."""
        database = self._ledger.database
        joint: AbstractContextManager[Any] = nullcontext()
        inside = acknowledge if self._joint else None
        shared = self._shares()
        if database is not None and (inside is not None or shared):
            joint = database.transaction()
        try:
            with joint as tx:
                self._complete(claim, outcome)
                self._settle(scope, tx if shared else None)
                if inside is not None:
                    inside(tx)
        except TransientError as error:
            # The effect has happened. Without the completed claim, a redelivery after the lease runs it again.
            if self._consumer.on_unavailable == "refuse":
                raise UncompletedClaimError(error) from None
            log.warning("effect without its mark", extra={"consumer": self._consumer.name, "error": error.kind.value})
            self._settle_unmarked(scope)
            if inside is not None:
                inside(None)

    def _finished(self, outcome: Any) -> Any:
        refuse_unfinished(outcome, "a worker calls plain functions")
        return outcome

    def _prepared(self, body: Json | None) -> Any:
        return body if self._consumer.prepare is None or body is None else self._consumer.prepare(body)

    def run_unprotected(self, body: Json | None, acknowledge: Callable[[Transaction | None], None] | None) -> None:
        """Run the handler without a claim, because the ledger is unavailable.

        Raises:
            BaseException: the handler's own.
        """
        with self._handling(self._item_of(body)) as scope:
            self._finished(self._consumer.handler(self._prepared(body)))
        self._settle_unmarked(scope)
        if acknowledge is not None:
            acknowledge(None)

    def quarantine_item(self, delivery: Delivery, cause: DeadLetterCause, tx: Transaction | None = None) -> None:
        """Put the item that a dead letter announces into quarantine.

        Args:
            tx: the transaction that holds the dead letter; ignored where the items are in another database.
        """
        if self._items is None or delivery.value is None:
            return
        try:
            key = item_key_of(json.loads(delivery.value))
        except (ValueError, RecursionError, InvalidInputError):
            return  # a message that cannot be parsed announces no item
        if key:
            self._items.quarantine(key, str(cause.kind), tx if self._shares() else None)
