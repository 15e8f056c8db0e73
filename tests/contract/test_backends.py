"""The shipped conformance suites, on every backend that exists."""

from __future__ import annotations

import itertools

import pytest

from headgate._core import file_store
from headgate.idempotency import Ledger
from headgate.testing.conformance import LedgerSuite, ObjectStoreSuite


class TestMemoryLedger(LedgerSuite):
    def open(self, clock):
        return Ledger.open("memory://", done_ttl=self.done_ttl, clock=clock)


class TestSqliteLedger(LedgerSuite):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.path = tmp_path / "ledger.db"

    def open(self, clock):
        return Ledger.open(f"sqlite:///{self.path}", done_ttl=self.done_ttl, clock=clock)


class TestRedisLedger(LedgerSuite):
    _database = itertools.count(1)

    @pytest.fixture(autouse=True)
    def _server(self, redis_url):
        self.url = redis_url

    def open(self, clock):
        return Ledger.open(self.url.replace("/0", f"/{next(self._database)}"), done_ttl=self.done_ttl, clock=clock)


class TestFileStore(ObjectStoreSuite):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.path = tmp_path / "objects"

    def open(self):
        return file_store(str(self.path))
