"""`headgate heal`: one sweep, what no sweep touches any more, and its release."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headgate.errors import ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


def add_heal(add: Callable[..., Any]) -> None:
    """Register the command."""
    command = add("heal", _heal, "One sweep of what got stuck; list what was given up, or release it.")
    command.add_argument("action", nargs="?", choices=("sweep", "list", "release"), default="sweep")
    command.add_argument("item", nargs="?", metavar="ITEM", help="for release: the key of what `heal list` shows")
    command.add_argument("--all", action="store_true", help="for release: everything")
    command.add_argument("--dry-run", action="store_true", help="for a sweep: count, change nothing")
    command.add_argument("--limit", type=int, default=1_000, help="for list (default: %(default)s)")


def _heal(options: argparse.Namespace) -> int:
    from headgate.cli._main import _app, _print

    if options.action != "release" and (options.item or options.all):
        message = f"heal {options.action}: ITEM and --all belong to `heal release`"
        raise ConfigError(message)
    if options.action != "sweep" and options.dry_run:
        message = f"heal {options.action}: --dry-run belongs to a sweep"
        raise ConfigError(message)
    app = _app(options)
    if options.action == "list":
        _print(app.stuck(options.limit))
        return 0
    if options.action == "release":
        if bool(options.item) == options.all:
            message = "heal release: expected either ITEM or --all"
            raise ConfigError(message)
        released = app.release(options.item)
        _print({"released": released})
        return 0 if released or options.all else 1
    result = app.heal(dry_run=options.dry_run)
    if not options.dry_run:
        app.relay()
    _print({**result.to_dict(), **({"dry_run": True} if options.dry_run else {})})
    return 1 if result.errors else 0
