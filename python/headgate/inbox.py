"""Exactly once in the user's own database: the mark and the effect are one transaction.

Example:
    >>> import sqlite3
    >>> db = sqlite3.connect(":memory:")
    >>> _ = db.execute(ddl("sqlite"))
    >>> def handle(event):
    ...     with db:                                     # one transaction
    ...         if once(db, event["id"]):
    ...             db.execute("CREATE TABLE IF NOT EXISTS t (n)")
    ...             db.execute("INSERT INTO t VALUES (?)", (event["n"],))
    >>> for delivery in range(3):
    ...     handle({"id": "e1", "n": 5})
    >>> db.execute("SELECT count(*) FROM t").fetchone()
    (1,)
    >>> db.close()
"""

from __future__ import annotations

import inspect
import re
import time
from typing import Any, Literal

from headgate._native import core
from headgate.errors import ConfigError, InvalidInputError

__all__ = ["Dialect", "ddl", "once", "prune"]

Dialect = Literal["postgresql", "mysql", "sqlite"]
# The driver's module says which database it speaks to.
_DRIVERS: dict[str, Dialect] = {
    "psycopg": "postgresql", "psycopg2": "postgresql", "pg8000": "postgresql", "pymysql": "mysql", "MySQLdb": "mysql",
    "mysql": "mysql", "mariadb": "mysql", "sqlite3": "sqlite", "pysqlite3": "sqlite",
}  # fmt: skip
_INSERT = {
    "postgresql": "INSERT INTO {} (id, created_s) VALUES (%s, %s) ON CONFLICT (id) DO NOTHING",
    "mysql": "INSERT IGNORE INTO {} (id, created_s) VALUES (%s, %s)",
    "sqlite": "INSERT INTO {} (id, created_s) VALUES (?, ?) ON CONFLICT (id) DO NOTHING",
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?")
TABLE = "headgate_inbox"
_LONGEST_S = 100 * 366 * 86_400.0


def ddl(dialect: Dialect, table: str = TABLE) -> str:
    """The statement that makes the table; for the user's own migrations.

    Args:
        dialect: "postgresql", "mysql" (MariaDB too) or "sqlite".
        table: its name, with a schema if need be.
    """
    _check(dialect, table)
    text = "CHAR(67) CHARACTER SET ascii COLLATE ascii_bin" if dialect == "mysql" else "CHAR(67)"
    return f"CREATE TABLE IF NOT EXISTS {table} (id {text} PRIMARY KEY, created_s BIGINT NOT NULL)"


def once(connection: Any, key: str, *, table: str = TABLE, dialect: Dialect | None = None) -> bool:
    """Whether this transaction is the first to see the key; mark it seen, as part of the transaction.

    The caller writes its effect in the same transaction and commits: both are kept, or neither. A transaction that is
    under way elsewhere with the same key is waited for (PostgreSQL, MySQL) or refused by the database as busy (SQLite);
    MySQL may end one of two such transactions as a deadlock. Either way the message comes back and finds the mark.

    Args:
        connection: an open DB-API connection, not in autocommit mode.
        key: what must happen once: `claim_key(...)`, an event id, a business key; any text.
        table: made by `ddl`.
        dialect: when the driver's name does not tell it.

    Raises:
        InvalidInputError: the key is no text, or empty: every event without one would be the same.
        ConfigError: autocommit is on (the mark would be kept without the effect), the driver is not known, is an
            asynchronous one, or does not say whether the mark is new.
    """
    _check_key(key)
    dialect = dialect or _dialect(connection)
    _check(dialect, table)
    if _autocommits(connection):
        message = "once() needs a transaction, but the connection commits every statement (autocommit)"
        raise ConfigError(message)
    cursor = _cursor(connection)
    try:
        # A digest: any key fits, whatever the column's collation and length.
        digest = "v1:" + core.sha256_hex(key.encode("utf-8", "surrogatepass"))
        cursor.execute(_INSERT[dialect].format(table), (digest, int(time.time())))
        count = cursor.rowcount
    finally:
        cursor.close()
    if count not in (0, 1):
        message = f"once() cannot tell whether the mark is new: the driver's rowcount is {count!r}, expected 0 or 1"
        raise ConfigError(message)
    return bool(count == 1)


def prune(connection: Any, older_than: float, *, table: str = TABLE, dialect: Dialect | None = None) -> int:
    """Forget what was seen more than `older_than` seconds ago. Returns how many. The caller commits.

    Args:
        older_than: seconds; longer than the topic can redeliver.

    Raises:
        InvalidInputError: it is no positive number: marks of events that may still come would be forgotten.
    """
    is_number = isinstance(older_than, int | float) and not isinstance(older_than, bool)
    if not is_number or not 0 < older_than < _LONGEST_S:
        message = f"older_than: expected seconds, more than 0, got {older_than!r}"
        raise InvalidInputError(message)
    dialect = dialect or _dialect(connection)
    _check(dialect, table)
    mark = "?" if dialect == "sqlite" else "%s"
    cursor = _cursor(connection)
    try:
        cursor.execute(f"DELETE FROM {table} WHERE created_s < {mark}", (int(time.time() - older_than),))  # noqa: S608
        return int(cursor.rowcount)
    finally:
        cursor.close()


def _check_key(key: object) -> None:
    if not isinstance(key, str) or not key:
        given = "an empty text" if key == "" else "None" if key is None else f"a {type(key).__name__}"
        message = f"the key of once() is {given}; expected text that makes the event that event"
        raise InvalidInputError(message)


def _cursor(connection: Any) -> Any:
    """A cursor that works when it is called; one whose calls have to be awaited would do nothing and say "seen"."""
    if _is_async(type(connection), "commit") or _is_async(type(connection), "cursor"):
        message = (
            f"a {type(connection).__name__} of {type(connection).__module__} is asynchronous, and this call awaits "
            "nothing; expected a synchronous connection of the driver"
        )
        raise ConfigError(message)
    return connection.cursor()


def _is_async(cls: type, name: str) -> bool:
    return inspect.iscoroutinefunction(getattr(cls, name, None))


def _dialect(connection: Any) -> Dialect:
    for cls in type(connection).__mro__:
        found = _DRIVERS.get(cls.__module__.split(".")[0])
        if found is not None:
            return found
    known = ", ".join(sorted(_DRIVERS))
    message = f"cannot tell the database of a {type(connection).__module__} connection; pass dialect= (known: {known})"
    raise ConfigError(message)


def _autocommits(connection: Any) -> bool:
    if hasattr(connection, "get_autocommit"):  # pymysql
        return bool(connection.get_autocommit())
    if hasattr(connection, "isolation_level") and hasattr(connection, "in_transaction"):  # sqlite3
        legacy = getattr(connection, "autocommit", -1) == -1  # LEGACY_TRANSACTION_CONTROL, and Python before 3.12
        manual = connection.isolation_level is None if legacy else connection.autocommit is True
        return manual and not connection.in_transaction
    return getattr(connection, "autocommit", False) is True


def _check(dialect: str, table: str) -> None:
    if dialect not in _INSERT:
        message = f"dialect must be one of {', '.join(_INSERT)}, not {dialect!r}"
        raise InvalidInputError(message)
    if not isinstance(table, str) or _NAME.fullmatch(table) is None:
        message = "a table's name is letters, digits and underscores, with a schema at most"
        raise InvalidInputError(message)
