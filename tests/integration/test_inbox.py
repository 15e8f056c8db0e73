"""The mark and the effect in one transaction, on real databases, with workers that race and crash."""

from __future__ import annotations

import contextlib
import sqlite3
import threading

import pytest

from headgate import inbox
from headgate.errors import ConfigError, InvalidInputError


class Postgres:
    dialect = "postgresql"

    def __init__(self, server):
        self.dsn = server.dsn

    def connect(self, **options):
        import psycopg

        return psycopg.connect(self.dsn, **options)

    def autocommit(self):
        return self.connect(autocommit=True)


class Maria:
    dialect = "mysql"

    def __init__(self, server):
        self.port = server.port
        with contextlib.closing(self.connect(database=None)) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE DATABASE IF NOT EXISTS test_inbox")

    def connect(self, *, database="test_inbox", **options):
        import pymysql

        return pymysql.connect(host="127.0.0.1", port=self.port, user="root", database=database, **options)

    def autocommit(self):
        return self.connect(autocommit=True)


class Sqlite:
    dialect = "sqlite"

    def __init__(self, folder):
        self.path = folder / "own.db"

    def connect(self):
        return sqlite3.connect(self.path, timeout=30)

    def autocommit(self):
        return sqlite3.connect(self.path, isolation_level=None)


@pytest.fixture(params=["postgresql", "mysql", "sqlite"])
def database(request, tmp_path):
    if request.param == "sqlite":
        made = Sqlite(tmp_path)
    elif request.param == "postgresql":
        made = Postgres(request.getfixturevalue("postgres_server"))
    else:
        made = Maria(request.getfixturevalue("maria_server"))
    with contextlib.closing(made.connect()) as connection:
        cursor = connection.cursor()
        cursor.execute(f"DROP TABLE IF EXISTS {inbox.TABLE}")
        cursor.execute("DROP TABLE IF EXISTS effects")
        cursor.execute(inbox.ddl(made.dialect))
        cursor.execute("CREATE TABLE effects (event VARCHAR(20), worker INT)")
        connection.commit()
    return made


def effects(database):
    with contextlib.closing(database.connect()) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT event FROM effects ORDER BY event")
        return [row[0] for row in cursor.fetchall()]


def handle(connection, event, worker, crash=False):
    """Mark, effect, commit; a crash is a connection that ends before the commit."""
    if inbox.once(connection, event):
        connection.cursor().execute(f"INSERT INTO effects VALUES ('{event}', {worker})")
    if crash:
        connection.rollback()
    else:
        connection.commit()


def deliver(connection, event, worker, crash):
    """A message whose transaction the database gave up (MySQL: deadlock, 1213) comes back."""
    while True:
        try:
            return handle(connection, event, worker, crash)
        except Exception as error:
            connection.rollback()
            if error.args[0] != 1213:
                raise


def test_racing_deliveries_have_one_effect(database):
    """Five workers see forty events each, in other orders, and crash before every third commit."""
    errors = []

    def work(worker):
        with contextlib.closing(database.connect()) as connection:
            for turn in range(2):
                for n in range(40):
                    event = f"e{(n * 7 + worker * 11) % 40:02}"
                    try:
                        deliver(connection, event, worker, crash=turn == 0 and (n + worker) % 3 == 0)
                    except Exception as error:
                        errors.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert effects(database) == [f"e{n:02}" for n in range(40)]


def test_a_crash_leaves_neither_mark_nor_effect(database):
    with contextlib.closing(database.connect()) as connection:
        handle(connection, "e", 1, crash=True)
        assert effects(database) == []
        assert inbox.once(connection, "e")
        connection.rollback()


def test_any_text_is_a_key_of_its_own(database):
    keys = ["a", "A", "a ", "é", "e\u0301", "x" * 5000, "nul\x00", " "]
    with contextlib.closing(database.connect()) as connection:
        assert [inbox.once(connection, key) for key in keys] == [True] * len(keys)
        assert [inbox.once(connection, key) for key in keys] == [False] * len(keys)
        connection.commit()


def test_old_marks_are_pruned(database):
    with contextlib.closing(database.connect()) as connection:
        assert inbox.once(connection, "k")
        assert inbox.prune(connection, 60) == 0
        connection.cursor().execute("UPDATE headgate_inbox SET created_s = created_s - 120")
        assert inbox.prune(connection, 60) == 1
        assert inbox.once(connection, "k")
        connection.commit()


def test_autocommit_is_refused(database):
    with contextlib.closing(database.autocommit()) as connection, pytest.raises(ConfigError, match="autocommit"):
        inbox.once(connection, "k")


def test_bad_names_are_refused():
    with pytest.raises(InvalidInputError):
        inbox.ddl("oracle")
    with pytest.raises(InvalidInputError):
        inbox.ddl("sqlite", "x; DROP TABLE y")
    with pytest.raises(ConfigError, match="dialect="):
        inbox.once(object(), "k")
