"""`headgate.inbox` never says "seen" of what it has not looked at."""

from __future__ import annotations

import sqlite3

import pytest

from headgate import inbox
from headgate.errors import ConfigError, InvalidInputError


@pytest.fixture
def database():
    connection = sqlite3.connect(":memory:")
    connection.execute(inbox.ddl("sqlite"))
    yield connection
    connection.close()


@pytest.mark.parametrize(
    ("key", "said"), [(None, "None"), ("", "an empty text"), (5, "a int"), (b"k", "a bytes"), ({}, "a dict")]
)
def test_a_key_that_says_nothing_is_refused(database, key, said):
    with pytest.raises(InvalidInputError, match=rf"the key of once\(\) is {said}; expected text"):
        inbox.once(database, key)
    assert not database.in_transaction


class AsyncCommit:
    """As psycopg's AsyncConnection: its cursors are objects, whose calls give coroutines."""

    async def commit(self):
        """Never called."""

    def cursor(self):
        raise AssertionError


class AsyncCursor:
    """As mysql.connector.aio: the cursor itself has to be awaited."""

    async def cursor(self):
        raise AssertionError


@pytest.mark.parametrize("connection", [AsyncCommit(), AsyncCursor()])
def test_an_asynchronous_connection_is_refused(connection):
    """Nothing would be written, and every event would be a duplicate."""
    for call in (inbox.once, inbox.prune):
        with pytest.raises(ConfigError, match="is asynchronous, and this call awaits nothing"):
            call(connection, "key" if call is inbox.once else 1.0, dialect="postgresql")


@pytest.mark.parametrize("count", [-1, None, 2])
def test_a_driver_that_does_not_count_is_no_duplicate(count):
    class Cursor:
        rowcount = count

        def execute(self, sql, parameters):
            assert sql.startswith("INSERT IGNORE")

        def close(self):
            """Nothing to close."""

    class Connection:
        cursor = Cursor

    with pytest.raises(ConfigError, match=r"once\(\) cannot tell whether the mark is new"):
        inbox.once(Connection(), "key", dialect="mysql")


@pytest.mark.parametrize("older_than", [0, -1, float("nan"), float("inf"), None, "5", True])
def test_marks_that_are_still_needed_are_not_forgotten(database, older_than):
    assert inbox.once(database, "key")
    with pytest.raises(InvalidInputError, match="older_than: expected seconds, more than 0"):
        inbox.prune(database, older_than)
    assert not inbox.once(database, "key")


def test_a_table_is_named_by_text():
    with pytest.raises(InvalidInputError, match="a table's name is letters"):
        inbox.ddl("sqlite", None)
