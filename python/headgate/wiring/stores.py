"""The stores of a configuration: objects, items, the ledger of claims, and what is measured on the way."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias, cast

from headgate._native import core
from headgate._registry import PIPELINES
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.checkpoint._places import local_path
from headgate.errors import ConfigError
from headgate.idempotency import Ledger
from headgate.idempotency._open import sqlite_path
from headgate.ops import MemoryMetrics
from headgate.wiring.references import load_reference, make_parent_folder, split_url, unknown_scheme

if TYPE_CHECKING:
    from headgate.backends.dynamodb_items import DynamoStore
    from headgate.config import Config
    from headgate.intake import Pipeline
    from headgate.ports import Clock, ObjectStore, Publisher

    Store: TypeAlias = LocalStore | DynamoStore


@dataclass
class Stores:
    """What everything else of an `App` is built on. Each object is opened when it is first used.

    Args:
        config: the configuration; relative paths in it are relative to its file.
        user_agent: how this process names itself to the sources that it asks.
    """

    config: Config
    user_agent: str = "headgate"

    @cached_property
    def clock(self) -> Clock:
        """The system's clock, moved by `clock.offset_s`."""
        return core.SystemClock(int(self.config.clock.offset_s * 1e6))

    @cached_property
    def metrics(self) -> MemoryMetrics:
        """Counters, gauges and distributions of this process."""
        return MemoryMetrics()

    @cached_property
    def pipeline(self) -> Pipeline:
        """The configured pipeline.

        Raises:
            ConfigError: it cannot be loaded.
        """
        found: Pipeline = load_reference("collection.pipeline", self.config.collection.pipeline, PIPELINES)
        return found

    @cached_property
    def objects(self) -> ObjectStore:
        """Raw bodies, outputs of stages and exports.

        Raises:
            ConfigError: `backends.objects` has a scheme that no object store has.
        """
        url = self.config.locate(self.config.backends.objects)
        if url.startswith("s3://"):
            from headgate.backends.s3_objects import S3Objects

            return S3Objects(url)
        if "://" in url and not url.startswith("file://"):
            raise unknown_scheme("backends.objects", url, "file://folder or s3://bucket/prefix")
        return core.file_store(local_path(url))

    @cached_property
    def database(self) -> LocalDatabase:
        """The store's SQLite file; its folder is made.

        Raises:
            ConfigError: `backends.store` is no SQLite file.
        """
        url = self.config.locate(self.config.backends.store)
        if not url.startswith("sqlite://"):
            expected = "sqlite:///file (for collections and sweeps dynamodb://table too)"
            raise unknown_scheme("backends.store", url, expected)
        path = sqlite_path(url)
        make_parent_folder(path)
        return LocalDatabase(path, durability=self.config.backends.durability)

    def has_store(self) -> bool:
        """Whether the store's file is there. Asking makes none."""
        url = self.config.locate(self.config.backends.store)
        return not url.startswith("sqlite://") or os.path.exists(sqlite_path(url))

    @property
    def is_embedded(self) -> bool:
        """Whether the store is a SQLite file: what needs transactions (queue, workflows, uploads) does too."""
        return not self.config.backends.store.startswith("dynamodb://")

    @cached_property
    def store(self) -> Store:
        """Items, outbox, dead letters and state: `LocalStore`, or `DynamoStore` for dynamodb://."""
        scheme, place, options = split_url(self.config.backends.store)
        store: Store
        if scheme == "dynamodb":
            from headgate.backends.dynamodb_items import DynamoStore

            store = DynamoStore.open(place, options, self.clock, self.pipeline.name, self.pipeline.key_prefix)
        else:
            store = LocalStore(self.database, self.clock, self.pipeline.name)
        store.metrics = self.metrics
        return store

    @property
    def embedded_store(self) -> LocalStore:
        """`store`, for what only the embedded one has: the queue, lists of state documents, counts by SQL.

        Raises:
            ConfigError: the store is no SQLite file.
        """
        if not self.is_embedded:
            message = "backends.store: this needs the embedded store; expected sqlite:///file"
            raise ConfigError(message)
        return cast("LocalStore", self.store)

    def intake_store(self) -> LocalStore:
        """The store on a connection of its own: who uploads waits for a handler's transaction for a moment only.

        A handler in a transaction has the file's write lock, and the app's connection, until it is done.
        """
        wait_s = self.config.serve.store_wait_s
        database = LocalDatabase(
            sqlite_path(self.config.locate(self.config.backends.store)), durability=self.config.backends.durability,
            busy_timeout_s=wait_s, lock_timeout_s=wait_s,
        )  # fmt: skip
        store = LocalStore(database, self.clock, self.pipeline.name)
        store.metrics = self.metrics
        return store

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger of claims; in the store's file unless `backends.ledger` names another place.

        Raises:
            ConfigError: the store is a DynamoDB table, and no ledger is named.
        """
        url = self.config.backends.ledger
        if not url and not self.is_embedded:
            message = (
                "backends.ledger: missing; a dynamodb:// store needs a ledger of its own, for example dynamodb://table"
            )
            raise ConfigError(message)
        if not url or self.config.locate(url) == self.config.locate(self.config.backends.store):
            ledger = Ledger.on_database(self.database, clock=self.clock)
        else:
            ledger = Ledger.open(self.config.locate(url), clock=self.clock)
        if hasattr(ledger, "metrics"):
            ledger.metrics = self.metrics
        return ledger

    @cached_property
    def publisher(self) -> Publisher | None:
        """Where announcements go, or None for this machine's own consumers."""
        b = self.config.backends
        if not b.notify and not b.alerts:
            return None
        from headgate.backends.publish import RoutedPublisher, open_publisher

        default = open_publisher(b.notify) if b.notify else None
        return RoutedPublisher(default, open_publisher(b.alerts)) if b.alerts else default
