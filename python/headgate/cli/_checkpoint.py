"""`headgate checkpoint`, `verify` and `query`."""

from __future__ import annotations

import json
import sys
from itertools import islice
from typing import TYPE_CHECKING, Any

from headgate._text import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from headgate.checkpoint import CheckpointRun, RejectedRecord

EXIT_OK, EXIT_FAILED, EXIT_DIFFERS, EXIT_REJECTS, EXIT_INCOMPLETE = 0, 1, 3, 4, 5
_MOST_ON_TERMINAL = 20  # lines about rejected records
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what spreadsheets take for the beginning of a formula (OWASP)
_WHY_UNREAD = {
    "rewritten": "rewritten: it may hold lines that were taken; --take-rewritten takes all of it",
    "outside_source": "outside_source: a symbolic link leads out of the source; --follow-symlinks reads it",
}
_COUNTS = {"count", "submitted", "passed", "pass-qc", "not-pass-qc"}


def add_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The parsers of the three commands."""
    c = add("checkpoint", checkpoint, "Take new event files into a Parquet checkpoint or a Delta table.")
    c.add_argument("source", help="a folder or s3://bucket/prefix")
    c.add_argument("target", help="a file, s3://bucket/key, delta+file:///folder or delta+s3://bucket/prefix")
    c.add_argument("--schema", help="infer, visits, news, or module:Model (default: the target's; of a new one: infer)")
    _add_reading(c)
    c.add_argument("--records", default="", metavar="PATH",
                   help="the array inside each document that holds the records: Records, data.items")  # fmt: skip
    c.add_argument("--time", action="append", default=[], metavar="FIELD=UNIT",
                   help="numbers since 1970 in s, ms, us or ns; again for another field")  # fmt: skip
    c.add_argument("--sort-by", default="", metavar="FIELD", help="for --schema infer: the time to sort by")
    c.add_argument("--mode", choices=("ledger", "watermark"), default="ledger", help="(default: %(default)s)")
    c.add_argument("--listing", choices=("full", "window"), default="full", help="(default: %(default)s)")
    c.add_argument("--settle", type=float, default=2.0, metavar="S", help="younger files wait (default: 2)")
    c.add_argument("--memory", type=int, default=256, metavar="MIB", help="of rows before a spill (default: 256)")
    c.add_argument("--spill-dir", metavar="DIR", help="for spilled runs (default: beside the target)")
    c.add_argument("--rescan", action="store_true", help="read every file again, whatever its size and time say")
    c.add_argument("--retry-rejected", nargs="?", const=True, default=False, metavar="RULE",
                   help="take rejected records that are good now; of one kind or field (null, n)")  # fmt: skip
    c.add_argument("--take-rewritten", action="store_true",
                   help="take a file of lines whole that does not go on where it ended")  # fmt: skip
    c.add_argument("--other-source", action="store_true", help="the table may be fed from another source than before")
    c.add_argument("--evolve", action="store_true",
                   help="the table may get new nullable columns and wider numbers of the schema")  # fmt: skip
    c.add_argument("--adopt", action="store_true",
                   help="TARGET is a Parquet file of something else: find out which files are in it")  # fmt: skip
    c.add_argument("--dry-run", action="store_true", help="read and count, write nothing")
    most = c.add_mutually_exclusive_group()
    most.add_argument("--max-rejects", type=int, metavar="N",
                      help="exit 4 if more records are rejected; the others are committed all the same")  # fmt: skip
    most.add_argument("--strict", action="store_true",
                      help="exit 4 if a record is rejected, exit 5 if anything waits for the next run")  # fmt: skip
    c.epilog = (
        "exit codes: 0 done; 1 an error, or no file had a name to be read by: nothing was written; 2 wrong usage; "
        "3 the counts differ; 4 too many records were rejected; 5 files could not be read; 130 interrupted"
    )
    v = add("verify", verify, "Read a checkpoint again: rows, order, ledger, and with SOURCE every file.")
    v.add_argument("target")
    v.add_argument("source", nargs="?")
    v.add_argument("--schema", help="as for checkpoint (default: the target's)")
    _add_reading(v)
    q = add("query", query, "Count, list or query the events of a checkpoint.")
    q.add_argument("target")
    where: dict[str, Any] = {"action": "append", "default": [], "metavar": "COLUMN=VALUE"}
    q.add_argument("--where", **where, help="equal; an empty value means null, one column twice either value")
    q.add_argument("--from", dest="at_least", **where, help="this value or a larger one")
    q.add_argument("--before", **where, help="a smaller value")
    q.add_argument("--sort-by", metavar="COLUMN", help="the time that --since, --until, --every and --latest go by")
    q.add_argument("--since", metavar="TIME", help="time at or after")
    q.add_argument("--until", metavar="TIME", help="time before")
    what = q.add_mutually_exclusive_group()
    what.add_argument("--by", metavar="COLUMNS", help="count by these, comma-separated")
    what.add_argument("--rows", type=int, metavar="N", help="the first N events")
    what.add_argument("--latest", nargs="?", const="", metavar="COLUMNS",
                      help="the newest event of each combination of these (default: of each visit)")  # fmt: skip
    what.add_argument("--days-to", metavar="ACTION", help="days from visit_date to this action, for every event")
    what.add_argument("--qc", nargs="?", const="", metavar="COLUMNS", help="pass-qc against not-pass-qc, by these")
    what.add_argument("--completeness", choices=("day", "month", "year"),
                      help="visits by their first submit, and how many have passed since")  # fmt: skip
    what.add_argument("--sql", metavar="QUERY", help="DuckDB, over the table `events`")
    q.add_argument("--every", choices=("day", "month", "year"), help="count by time too")
    q.add_argument("--format", choices=("table", "csv", "json"), default="table")
    q.add_argument(
        "--formulas", action="store_true", help="CSV: no apostrophe before cells that a spreadsheet would run"
    )  # fmt: skip


def _add_reading(command: argparse.ArgumentParser) -> None:
    command.add_argument("--names", metavar="PATTERN",
                         help="files to read: a glob (*.log) or regular expression, without .gz and .zst")  # fmt: skip
    command.add_argument("--file-name", nargs="?", const=True, default=False, metavar="COLUMN",
                         help="a column with the file of each record (default name: filename)")  # fmt: skip
    command.add_argument("--follow-symlinks", action="store_true",
                         help="read what symbolic links in a folder have outside of it")  # fmt: skip


def schema_of(name: str | None) -> Any:
    """None, a registered name, "infer", or the model behind module:Model."""
    from headgate._registry import PLANS, resolve
    from headgate.errors import ConfigError

    if name is None or name in PLANS or name == "infer":
        return name
    try:
        return resolve(name)
    except (ImportError, AttributeError, ValueError) as error:
        message = f"--schema {name!r}: expected one of {', '.join(sorted(PLANS))}, infer, or module:Model ({error})"
        raise ConfigError(message) from None


_OF_RUNS = {
    "mode": "ledger", "listing": "full", "settle": 2.0, "memory": 256, "spill_dir": None, "rescan": False,
    "retry_rejected": False, "take_rewritten": False, "other_source": False, "evolve": False, "max_rejects": None,
    "strict": False,
}  # fmt: skip


def _adopt(options: argparse.Namespace) -> int:
    from headgate.checkpoint import adopt
    from headgate.errors import InvalidInputError

    others = [f"--{name.replace('_', '-')}" for name, default in _OF_RUNS.items() if getattr(options, name) != default]
    if others:
        message = f"--adopt reads no new files: it goes without {', '.join(others)}"
        raise InvalidInputError(message)
    found = adopt(
        options.source, options.target, schema=schema_of(options.schema), names=options.names, records=options.records,
        file_name=options.file_name, time=_times(options.time), sort_by=options.sort_by,
        follow_symlinks=options.follow_symlinks, dry_run=options.dry_run,
    )  # fmt: skip
    print(json.dumps(found.to_dict(), indent=2))
    if not options.quiet:
        print(
            f"{found.files_in:,} files are in {printable(found.target)}, told by {found.told_by}; "
            f"{found.files_not_in:,} are not, and the next run reads them; {found.rows_of_no_file:,} of "
            f"{found.rows:,} rows are of no file of the source",
            file=sys.stderr,
        )
    return EXIT_OK


def checkpoint(options: argparse.Namespace) -> int:
    from headgate.checkpoint import update
    from headgate.cli._progress import bar

    if options.adopt:
        return _adopt(options)
    with bar("reading files", quiet=options.quiet) as progress:
        run = update(
            options.source, options.target, schema=schema_of(options.schema), names=options.names,
            records=options.records, file_name=options.file_name, time=_times(options.time), mode=options.mode,
            listing=options.listing, settle_s=options.settle, memory=options.memory * 1024**2,
            spill_dir=options.spill_dir, rescan=options.rescan, retry_rejected=options.retry_rejected,
            take_rewritten=options.take_rewritten, other_source=options.other_source, evolve=options.evolve,
            follow_symlinks=options.follow_symlinks, sort_by=options.sort_by, dry_run=options.dry_run,
            progress=progress,
        )  # fmt: skip
    print(json.dumps(run.to_dict(), indent=2))
    _name_files("rejected records", run.rejects, lambda reject: f"rejected {reject}")
    _name_files("files that were not read", run.unread, _why_unread)
    if not options.quiet:
        print(_sentence(run, dry_run=options.dry_run), file=sys.stderr)
    code, reasons = _verdict(run, options)
    for reason in reasons:
        print(f"headgate: {printable(reason)}", file=sys.stderr)
    return code


def _why_unread(one: RejectedRecord) -> str:
    kind = one.problems[0][1]
    why = _WHY_UNREAD.get(kind, f"{kind}; the next run tries again")
    return f"not read {one.name} ({one.digest}): {why}"


def _verdict(run: CheckpointRun, options: argparse.Namespace) -> tuple[int, list[str]]:
    """The exit code and the sentences that explain it; of several the worst."""
    if wrong := run.adds_up():
        return EXIT_DIFFERS, [f"counts differ: {line}" for line in wrong]
    if run.listed and run.ignored == run.listed:
        schema = options.schema or "the schema"
        return EXIT_FAILED, [
            f"nothing was read: the names of all {run.listed:,} files in {options.source} are of another kind than "
            f"{schema} reads; --names says which are to be read"
        ]  # fmt: skip
    most = 0 if options.strict else options.max_rejects
    if most is not None and run.rejected_records > most:
        return EXIT_REJECTS, [f"{run.rejected_records:,} records were rejected, more than {most:,}"]
    waiting = run.unreadable + (run.deferred + run.vanished if options.strict else 0)
    if waiting or (options.strict and not run.complete):
        what = f"{waiting:,} files wait for the next run" if waiting else "only a part of the source was listed"
        return EXIT_INCOMPLETE, [f"{what}; what could be read is committed"]
    return EXIT_OK, []


def _times(options: list[str]) -> dict[str, str]:
    from headgate.errors import InvalidInputError

    times = dict(option.rpartition("=")[::2] for option in options)
    if wrong := next((option for option in options if not option.rpartition("=")[0]), None):
        message = f"--time {wrong!r}: expected FIELD=UNIT, as in ts=s"
        raise InvalidInputError(message)
    return times


def _name_files(what: str, files: Sequence[RejectedRecord], line: Callable[[RejectedRecord], str]) -> None:
    """One line each; on a terminal the first of them and how many more there are."""
    most = _MOST_ON_TERMINAL if sys.stderr.isatty() else len(files)
    for one in islice(files, most):
        print(printable(line(one)), file=sys.stderr)
    if (more := len(files) - most) > 0:
        print(f"and {more:,} more {what}; 2> FILE keeps the lines of all {len(files):,}", file=sys.stderr)


def _sentence(run: CheckpointRun, *, dry_run: bool) -> str:
    waiting = run.deferred + run.vanished + run.unreadable
    more = f", {run.late_rows:,} of them late" if run.late_rows else ""
    verb = "would be" if dry_run else "are"
    return (
        f"{run.listed:,} files = {run.taken_files:,} read + {run.known:,} known + {run.ignored:,} of another kind + "
        f"{waiting:,} left for the next run; {run.records:,} records = "
        f"{run.rows_added:,} new rows{more} + {run.rejected_records:,} rejected + "
        f"{run.skipped_before_watermark:,} not newer; {run.rows_total:,} rows {verb} in {printable(run.target)} "
        f"({run.execution_time_ms / 1000:.1f} s)"
    )


def verify(options: argparse.Namespace) -> int:
    from headgate.checkpoint import verify as check
    from headgate.cli._progress import bar

    with bar("reading files", quiet=options.quiet) as progress:
        report = check(
            options.target, options.source, schema=schema_of(options.schema), names=options.names,
            file_name=options.file_name, follow_symlinks=options.follow_symlinks, progress=progress,
        )  # fmt: skip
    print(json.dumps(report.to_dict(), indent=2))
    for difference in report.differences:
        print(f"headgate: differs: {difference}", file=sys.stderr)
    return EXIT_OK if report.ok else EXIT_DIFFERS


def query(options: argparse.Namespace) -> int:
    from headgate.checkpoint._rows import plain_rows
    from headgate.errors import InvalidInputError
    from headgate.pipelines.visits import Visits

    asked = ("rows", "latest", "days_to", "qc", "completeness", "sql")
    if options.every and any(getattr(options, name) is not None for name in asked):
        message = "--every goes with --by, or alone; --completeness has its own period"
        raise InvalidInputError(message)
    read = Visits.read(options.target)
    events = _narrowed(read.timed_by(options.sort_by) if options.sort_by else read, options)
    if options.sql:
        rows = plain_rows(events.sql(options.sql))
    elif options.rows is not None:
        rows = events.head(options.rows)
    elif options.latest is not None:
        columns = _columns(options.latest) or _visit_of(events)
        rows = plain_rows(events.latest_per(*columns).dataframe())
    elif options.days_to:
        rows = plain_rows(events.days_to(options.days_to).dataframe())
    elif options.qc is not None:
        rows = events.qc_outcomes(*_columns(options.qc))
    elif options.completeness:
        rows = events.completeness(options.completeness)
    elif options.by or options.every:
        rows = events.count_by(*_columns(options.by or ""), every=options.every)
    else:
        rows = [{"count": len(events)}]
    _show(rows, options.format, formulas=options.formulas)
    return EXIT_OK


def _narrowed(events: Any, options: argparse.Namespace) -> Any:
    from headgate.errors import InvalidInputError

    def pairs(name: str, conditions: list[str]) -> list[tuple[str, str]]:
        for condition in conditions:
            if "=" not in condition:
                message = f"{name} {condition!r}: expected column=value"
                raise InvalidInputError(message)
        return [(column, value) for column, _, value in (condition.partition("=") for condition in conditions)]

    equal: dict[str, list[str | None]] = {}
    for column, value in pairs("--where", options.where):
        equal.setdefault(column, []).append(value or None)
    for column, values in equal.items():
        events = events.filter(**{column: values if len(values) > 1 else values[0]})
    for column, value in pairs("--from", options.at_least):
        events = events.between(column, start=value)
    for column, value in pairs("--before", options.before):
        events = events.between(column, end=value)
    return (
        events.between(events.time_column(), options.since, options.until) if options.since or options.until else events
    )


def _visit_of(events: Any) -> tuple[str, ...]:
    """The columns of a visit; only its own records have them."""
    from headgate.errors import InvalidInputError
    from headgate.pipelines.visits.queries import VISIT

    if set(VISIT) <= set(events.columns):
        return VISIT
    message = f"--latest: these are no visits; name the columns, of {', '.join(events.columns)}"
    raise InvalidInputError(message)


def _columns(text: str) -> list[str]:
    return text.split(",") if text else []


def _csv_cell(value: Any, *, formulas: bool, is_terminal: bool) -> Any:
    """A cell as it is, but for texts that a spreadsheet would run as a formula, or a terminal obey."""
    if not isinstance(value, str):
        return value
    text = printable(value) if is_terminal else value
    return f"'{text}" if not formulas and text.lstrip(" ").startswith(_FORMULA) else text


def _show(rows: list[dict[str, Any]], form: str, *, formulas: bool = False) -> None:
    if form == "json":
        print(json.dumps(rows, indent=2, default=str))
        return
    if not rows:
        print("no rows", file=sys.stderr)
        return
    names = list(rows[0])
    if form == "csv":
        import csv

        writer = csv.writer(sys.stdout, lineterminator="\n")
        is_terminal = sys.stdout.isatty()
        for line in (names, *(row.values() for row in rows)):
            writer.writerow([_csv_cell(value, formulas=formulas, is_terminal=is_terminal) for value in line])
        return
    if not sys.stdout.isatty():
        print("\t".join(map(printable, names)))
        for row in rows:
            print("\t".join("" if v is None else printable(str(v)) for v in row.values()))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    cells = [[_cell(name, value) for name, value in row.items()] for row in rows]
    widths = [max(len(row[at]) for row in [names, *cells]) for at in range(len(names))]
    if sum(widths) + 3 * len(widths) + 1 > console.width:  # a line for each value, as psql's \x
        longest = max(map(len, names))
        for number, line in enumerate(cells, 1):
            console.rule(f"{number}", align="left", style="dim")
            for name, cell in zip(names, line, strict=True):
                console.print(f"{name:<{longest}}  {cell}", markup=False)
        return
    table = Table()
    for name in names:
        table.add_column(name, justify="right" if isinstance(rows[0][name], int | float) else "left")
    for line in cells:
        table.add_row(*map(escape, line))
    console.print(table)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return str(round(value, 4))
    return f"{value:,}" if name in _COUNTS and isinstance(value, int) else printable(str(value))  # an id is not 1,234


def show_reject(target: str, digest: str) -> int:
    """`headgate dlq show DIGEST --target FILE`."""
    from headgate.checkpoint import rejected

    print(json.dumps(rejected(target, digest), indent=2))
    return EXIT_OK
