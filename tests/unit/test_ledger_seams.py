"""What strangers give to a ledger: URLs that are none, and batches of which one claim was overtaken."""

from __future__ import annotations

import pathlib

import pytest

from headgate import Ledger
from headgate.errors import ConfigError, StaleLeaseError


@pytest.mark.parametrize("url", [None, 5, b"memory://", pathlib.Path("ledger.db"), ["memory://"]], ids=repr)
def test_a_url_is_text(url):
    with pytest.raises(ConfigError, match="ledger URL: expected text such as sqlite:///file, got a"):
        Ledger.open(url)


@pytest.mark.parametrize(
    "url", ["sqlite:ledger.db", "sqlite:/ledger.db", "SQLITE:ledger.db", "sqlite://", "sqlite:///"]
)
def test_a_url_that_names_no_file_makes_none(url, tmp_path, monkeypatch):
    """It used to make a file of the whole URL."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="expected sqlite:///relative/file"):
        Ledger.open(url)
    assert list(tmp_path.iterdir()) == []


def test_the_case_of_a_scheme_does_not_count(tmp_path):
    Ledger.open(f"SQLite:///{tmp_path}/ledger.db").claim("k")
    assert (tmp_path / "ledger.db").exists()


def test_one_overtaken_claim_of_a_batch_leaves_the_others_completed():
    completed = []

    class Client:
        """A server on which one key was overtaken."""

        delete_key = get = setex = info = staticmethod(lambda *arguments: {})

        def set_if_not_exists(self, key, value, ttl_seconds):
            return True

        def run_script(self, script, key, arguments):
            completed.append(key)
            return 0 if key.endswith("two") else 1

    ledger = Ledger.on_redis(Client())
    claims = ledger.claim_many(["one", "two", "three"])
    with pytest.raises(StaleLeaseError):
        ledger.complete_many(claims, [1, 2, 3])
    assert [key.rpartition(":")[2] for key in completed] == ["one", "two", "three"]
