"""A pipeline on the embedded backends without a configuration: for scripts and tests."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, cast

from headgate._native import core
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.consume import Consumer, ConsumeResult, Worker
from headgate.errors import ConfigError
from headgate.idempotency import Ledger
from headgate.intake import Intake, Pipeline
from headgate.items import LifeCycle

if TYPE_CHECKING:
    from headgate.ports import Clock


def open_intake(pipeline: Pipeline, folder: str | os.PathLike[str]) -> Intake:
    """An intake on the embedded backends, all below one folder: `headgate.db` and `objects/`.

    Example:
        >>> intake = open_intake(pipeline, "data")                  # doctest: +SKIP
        >>> intake.accept("github", body).stored                    # doctest: +SKIP
        1
    """
    root = os.fspath(folder)
    objects = core.file_store(os.path.join(root, "objects"))
    clock: Clock = core.SystemClock()
    store = LocalStore(LocalDatabase(os.path.join(root, "headgate.db")), clock, pipeline.name)
    return Intake(pipeline, store, objects, clock)


def consume_items(intake: Intake, consumer: Consumer) -> ConsumeResult:
    """Deliver the announcements of an intake of `open_intake` to a consumer, and let it handle and finish the items.

    Effect, completion and the item's end are one commit. What fails or is held by another worker stays in the queue.

    Args:
        intake: on the embedded backends.
        consumer: of the pipeline's topic.

    Raises:
        ConfigError: the consumer listens to another topic.
    """
    store = cast("LocalStore", intake.store)
    if consumer.topic != intake.pipeline.topic:
        message = f"consumer {consumer.name}: listens to {consumer.topic}; expected {intake.pipeline.topic}"
        raise ConfigError(message)
    store.relay_outbox({consumer.topic: [consumer.name]})
    ledger = Ledger.on_database(store.db, clock=intake.clock)
    return Worker(consumer, store, ledger, intake.clock, items=LifeCycle(store)).drain()
