"""`headgate ledger` and `headgate inbox`: the tables that users' databases need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headgate.errors import ConfigError, DuplicateError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

EXIT_OK = 0


def add_tables(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands and their arguments."""
    ledger = add("ledger", _create_ledger, "Make the DynamoDB table of a ledger.")
    ledger.add_argument("action", choices=("create-table",))
    ledger.add_argument("url", metavar="URL", help="dynamodb://table?region=...&endpoint=...&profile=...")
    inbox = add("inbox", _show_ddl, "Print the statement that makes the table of headgate.inbox.")
    inbox.add_argument("action", choices=("ddl",))
    inbox.add_argument("dialect", choices=("postgresql", "mysql", "sqlite"))
    inbox.add_argument("--table", default="", help="its name (default: headgate_inbox)")


def _create_ledger(options: argparse.Namespace) -> int:
    from headgate.backends.dynamodb import connect
    from headgate.idempotency import create_ledger_table
    from headgate.wiring import split_url

    scheme, table, settings = split_url(options.url)
    if scheme != "dynamodb" or not table:
        message = f"ledger create-table: expected dynamodb://table, got {scheme or 'nothing'}://"
        raise ConfigError(message)
    unknown = sorted(set(settings) - {"region", "endpoint", "profile"})
    if unknown:
        message = f"ledger create-table: unknown option {unknown[0]!r}; expected region, endpoint or profile"
        raise ConfigError(message)
    client = connect(settings)
    try:
        create_ledger_table(client, table)
    except client.exceptions.ResourceInUseException:
        message = f"there is a DynamoDB table {table} already"
        raise DuplicateError(message) from None
    print(f"made {table}")
    return EXIT_OK


def _show_ddl(options: argparse.Namespace) -> int:
    from headgate.inbox import TABLE, ddl

    print(f"{ddl(options.dialect, options.table or TABLE)};")
    return EXIT_OK
