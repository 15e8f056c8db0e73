"""`headgate workflow graph`: a state machine as Mermaid or SVG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from headgate.cli._files import is_file, read_json
from headgate.errors import InvalidInputError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


def add_graph_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments of `headgate workflow graph`."""
    command.add_argument("definition", help="an ASL file in JSON (- is stdin), or the name of a configured workflow")
    command.add_argument("--format", choices=("mermaid", "svg"), default="mermaid", help="default: %(default)s")
    command.add_argument("--history", metavar="FILE", help="events of an execution in JSON, for an SVG")
    command.add_argument("--out", metavar="FILE", help="write there instead of standard output")


def draw_graph(options: argparse.Namespace, configured: Callable[[str], Any]) -> int:
    """Draw a definition.

    Args:
        options: what `add_graph_arguments` defines.
        configured: the definition of a configured workflow's name.

    Raises:
        InvalidInputError: a file is no JSON, or no state machine; a history with Mermaid, which has no timings.
        NotFoundError: there is no such file.
    """
    from headgate.workflow import to_mermaid, to_svg  # not at the start of every other command

    named = options.definition
    definition = read_json(named) if is_file(named) else configured(named)
    if options.history and options.format != "svg":
        message = "--history is drawn in SVG only; expected --format svg"
        raise InvalidInputError(message)
    history = read_json(options.history) if options.history else None
    if isinstance(history, dict):
        history = history.get("events") or history.get("history")
    text = to_svg(definition, history) if options.format == "svg" else to_mermaid(definition)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")
    else:
        print(text)
    return 0
