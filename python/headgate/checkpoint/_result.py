"""What a run of `headgate.checkpoint.update` answers: its counts, and the records that it rejected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, overload


def shown_problems(problems: list[tuple[str, str]]) -> list[str]:
    """(field, kind) as logs and answers say it."""
    return [f"{field or 'record'}: {kind}" for field, kind in problems]


# Tuples: importing dataclasses would take a tenth of the time of a run that finds nothing new.
class RejectedRecord(NamedTuple):
    """A refused record or an unreadable file, as logs may show it.

    The name is redacted, `digest` is 12 hex digits of the key's (`headgate dlq show` resolves it), `offset` where the
    record begins in its file (bytes), and `problems` are (field, kind); the field of a whole record or file is "".
    """

    name: str
    digest: str
    offset: int
    problems: list[tuple[str, str]]

    def __str__(self) -> str:
        return f"{self.name} ({self.digest}) at byte {self.offset}: {', '.join(shown_problems(self.problems))}"


class Refusals(Sequence[RejectedRecord]):
    """All that a run refused, in the order of its files; read from where the core keeps it, so that it takes no memory.

    Example:
        >>> for reject in run.rejects:                           # doctest: +SKIP
        ...     print(reject.name, reject.offset, reject.problems)
    """

    __slots__ = ("_found",)

    def __init__(self, found: Any) -> None:
        self._found = found

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[RejectedRecord]:
        records, at = self._found.read(0)
        while records:
            yield from (RejectedRecord(*record) for record in records)
            records, at = self._found.read(at)

    @overload
    def __getitem__(self, at: int) -> RejectedRecord: ...
    @overload
    def __getitem__(self, at: slice) -> list[RejectedRecord]: ...
    def __getitem__(self, at: int | slice) -> RejectedRecord | list[RejectedRecord]:
        if isinstance(at, slice):
            wanted = range(len(self))[at]
            first = islice(self, max(wanted, default=-1) + 1)
            return list(first)[at] if wanted.step < 0 else [*islice(first, wanted.start, None, wanted.step)]
        return next(islice(self, range(len(self))[at], None))

    def __repr__(self) -> str:
        return f"<{len(self)} records>"

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


class CheckpointRun(NamedTuple):
    """Every count of a run of `update`. `adds_up()` names the sums that must hold.

    Attributes:
        first_run: there was no table yet.
        committed: a new version was written; False: nothing was new, or it was a dry run.
        complete: everything was listed, and every file could be read; False: another run is needed.
        listed: files that the source has, as far as they were listed.
        ignored: files whose name is not of this record type.
        deferred: files that are younger than `settle_s`; the next run takes them.
        known: files that an earlier run took, unchanged since.
        touched: of the files taken: known ones with another tag or time and the same content.
        changed: of the files taken: known ones with other content; a new version, which is kept beside the old one.
        grown: of the files taken: known ones to which lines were added; the new lines were taken.
        moved: of the files taken: those that begin with lines that were taken under another name.
        retried: of the files taken: known ones whose rejected records were tried again.
        vanished: files that were listed, and gone when they were read.
        unreadable: files that could not be read: access was denied, archived, or an error; the next run tries again.
        archived: of the unreadable files: those that have to be restored from an archive first.
        taken_files: files that were read to their end.
        rejected_files: of the files taken: those without one good record.
        records: records of the files taken.
        rejected_records: of the records: those that failed validation; see `rejects`.
        skipped_before_watermark: of the records: those not later than the watermark (`mode="watermark"`).
        rows_added: of the records: those that became rows.
        late_rows: of the rows added: those older than the newest row of the last run.
        drifted: values of an inferred schema that are in `_rest` because of their type.
        rows_before, rows_total: rows of the table before the run, and after it.
        bytes_read: bytes of the files read.
        file_size: bytes of the table.
        version: the table's version, which every commit raises by one.
        attempts: tries of the commit; more than 1: races with other runs that were lost.
        spilled_bytes: bytes of sorted rows that did not fit into memory.
        memory_high_water: most memory that the process has used so far, bytes.
        last_timestamp_us: the newest row's time, microseconds since 1970 in UTC; None: no row has one.
        problems: kind of problem -> number of rejected records with it.
        read_problems: error kind -> number of unreadable files.
        rejects: every rejected record, as a sequence that is read from disk.
        unread: every unreadable file likewise; its one problem is the error's kind.
        target: where the table is, without secrets.
        execution_time_ms: how long the run took.
    """

    first_run: bool
    committed: bool
    complete: bool
    listed: int
    ignored: int
    deferred: int
    known: int
    touched: int
    changed: int
    grown: int
    moved: int
    retried: int
    vanished: int
    unreadable: int
    archived: int
    taken_files: int
    rejected_files: int
    records: int
    rejected_records: int
    skipped_before_watermark: int
    rows_added: int
    late_rows: int
    drifted: int
    rows_before: int
    rows_total: int
    bytes_read: int
    file_size: int
    version: int
    attempts: int
    spilled_bytes: int
    memory_high_water: int
    last_timestamp_us: int | None
    problems: dict[str, int]
    read_problems: dict[str, int]
    rejects: Sequence[RejectedRecord]
    unread: Sequence[RejectedRecord]
    target: str = ""
    execution_time_ms: float = 0.0

    def adds_up(self) -> list[str]:
        """The sums that do not hold; empty when all do."""
        files = self.ignored + self.deferred + self.known + self.vanished + self.unreadable + self.taken_files
        rows = self.rows_added + self.rejected_records + self.skipped_before_watermark
        checks = {
            f"listed {self.listed} != ignored + deferred + known + vanished + unreadable + taken {files}": self.listed
            == files,
            f"records {self.records} != rows added + rejected + skipped {rows}": self.records == rows,
            f"rows total {self.rows_total} != before {self.rows_before} + added {self.rows_added}": self.rows_total
            == self.rows_before + self.rows_added,
        }
        return [text for text, holds in checks.items() if not holds]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without what was refused."""
        return {name: value for name, value in self._asdict().items() if name not in ("rejects", "unread")}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"
