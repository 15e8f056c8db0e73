"""`headgate simulate`: a user's own handler among crashes, lost power and overtaken leases."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path

from headgate._registry import resolve
from headgate.cli._progress import bar
from headgate.errors import ConfigError, InvalidInputError
from headgate.testing.simulation import simulate

# The components that a consumer's handler meets. The others are tested by headgate's own tests.
_HANDLER_COMPONENTS = ("intake", "queue", "healing")
_TOTALS = (
    "seeds", "crashes", "power_losses", "requests", "lost_answers", "accepted", "stored", "dead_letters", "repeated",
    "executions", "uploads", "checkpoint_rows",
)  # fmt: skip


def run_seeds(options: argparse.Namespace) -> int:
    """Run the seeds; the first that breaks conservation ends it with exit code 1 and its report."""
    handler = None
    if options.handler:
        sys.path.insert(0, str(Path.cwd()))
        try:
            handler = resolve(options.handler)
        except (ImportError, AttributeError, ValueError) as error:
            message = f"--handler: cannot load {options.handler!r}; expected module:function ({error})"
            raise ConfigError(message) from None
    messages = _messages(options.messages) if options.messages else []
    # Thousands of simulated failures would drown the report.
    logging.getLogger("headgate").setLevel(logging.CRITICAL)
    totals = dict.fromkeys(_TOTALS, 0)
    with bar("simulating", quiet=options.quiet) as progress:
        for seed in range(options.seed, options.seed + options.seeds):
            report = simulate(
                seed, handler=handler, messages=messages, components=_HANDLER_COMPONENTS if handler else None
            )
            totals["seeds"] += 1
            for name in _TOTALS[1:]:
                totals[name] += getattr(report, name)
            if progress is not None:
                progress(totals["seeds"], options.seeds)
            if report.violations:
                print(json.dumps(asdict(report), indent=2))
                print(f"headgate: seed {seed} breaks conservation: {report.violations[0]}", file=sys.stderr)
                return 1
    print(json.dumps({**totals, "violations": 0}, indent=2))
    return 0


def _messages(path: str) -> list[dict[str, object]]:
    found = []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        message = f"--messages: cannot read {path}: {error}"
        raise ConfigError(message) from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            body = json.loads(line)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            message = f"--messages: line {number} of {path} is not a JSON object"
            raise InvalidInputError(message)
        found.append(body)
    return found
