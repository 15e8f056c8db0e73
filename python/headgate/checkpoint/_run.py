"""`headgate.checkpoint.update` and what it answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, Literal

from headgate._native import parquet
from headgate.checkpoint._places import key_in_source, shown, source_name, source_place, target_place
from headgate.checkpoint._result import CheckpointRun, Refusals
from headgate.checkpoint._schemas import INFER, Reading, plan_for, reading_of
from headgate.errors import CheckpointError, InvalidInputError, about_checkpoint

Mode = Literal["ledger", "watermark"]
Listing = Literal["full", "window"]
_LARGEST_FILE = 1024**3  # an Arrow column of text ends at 2 GiB, and other records may wait beside those of one file


def update(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    schema: str | type[Any] | None = None,
    names: str | None = None,
    records: str | Sequence[str] = "",
    file_name: bool | str = False,
    time: Mapping[str, str] | None = None,
    mode: Mode = "ledger",
    settle_s: float = 2.0,
    listing: Listing = "full",
    window_s: float = 86_400.0,
    rescan: bool = False,
    retry_rejected: bool | str = False,
    take_rewritten: bool = False,
    other_source: bool = False,
    follow_symlinks: bool = False,
    evolve: bool = False,
    threads: int = 0,
    memory: int = 256 * 1024**2,
    spill_dir: str | os.PathLike[str] | None = None,
    spill_limit: int | None = None,
    max_file_bytes: int = 256 * 1024**2,
    row_group_rows: int = 128 * 1024,
    sort_by: str = "",
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> CheckpointRun:
    """Take every file of `source` that was not taken yet, and commit the result to `target` at once.

    Args:
        source: a folder (path or file:// URL) or s3://bucket/prefix of files with JSON: documents, arrays of records or
            JSON Lines, also packed (gzip, zstd); their bytes tell which. Nested folders too. s3:// takes ?region=,
            endpoint=, profile=.
        target: the Parquet file, on disk or s3://bucket/key; its ledger lies beside it in `<target>.ledger/`. With
            delta+file:///folder or delta+s3://bucket/prefix it is a Delta Lake table instead.
        schema: "infer": the union of all fields of the first run's files; what later files bring beyond it is kept in
            the column `_rest`. Or the name of a shipped schema, or a pydantic model class (docs/schemas.md). None: the
            schema that the target was made with, and on the first run "infer".
        names: which files are read: a glob of their names (``*.log``) or a regular expression (``.+\\.log``), without
            .gz and .zst. None: what the schema says; of an inferred one .json, .jsonl, .ndjson, .geojson and .log.
        records: where a document holds its records: the members on the way to an array, ``Records`` or ``data.items``
            (as a JSON Pointer, ``/data/items``). The rest of the document is left out.
        file_name: add a column with the key of each record's file; True calls it ``filename``.
        time: fields that are numbers since 1970, and their unit: ``{"ts": "s"}``, or ms, us, ns.
        mode: "ledger" takes whatever is new, late files too; "watermark" only records strictly later than the newest.
        settle_s: in a folder, files younger than this (seconds) wait for the next run. Objects on S3 appear whole.
        listing: "full", or "window": list only names stamped after the newest record less `window_s`; for large
            buckets. A full listing follows every 24 h, and until then the run says `complete=False`.
        window_s: how late a file may come in a windowed run, seconds.
        rescan: read every file again, whatever its size and time say; unchanged content is not taken twice.
        retry_rejected: read files again that have rejected records, and take those that are good now, as after a mended
            model. True: all; text: those that were rejected for this kind of problem ("null"), in this field ("n"), or
            both ("n: null").
        take_rewritten: take a file of lines whole that does not go on where it ended, although it may hold lines that
            were taken. Without it such a file is named in `unread` (kind "rewritten") and left out.
        other_source: the table may be fed from another source than before, or from one that has moved.
        follow_symlinks: read what symbolic links in a folder have outside of it. Without it such a link is named in
            `unread` (kind "outside_source") and left out; a link to a folder inside is passed over, as its files have
            names of their own.
        evolve: the table may get the schema's new nullable columns, and wider numbers (int32 to int64, integers to
            float64 where no value is rounded); its rows are written anew then. For "infer" the files are looked at
            again, and fields that came later become columns. Without it a table of other columns is refused.
        threads: reading threads; 0 means all cores (two on S3). With 1 nothing is listed, read or encoded side by side.
        memory: bytes of rows held before a sorted run is spilled to disk.
        spill_dir: the folder for spilled runs; default: beside the target, or the temporary folder for S3.
        spill_limit: most bytes of spilled runs; more is an error, and nothing is written.
        max_file_bytes: a larger file, packed or unpacked, is rejected with kind too_large; at most 1 GiB.
        row_group_rows: rows of a row group of the table. Readers skip groups by their times, and an update writes anew
            only from the first group on that a new row falls into.
        sort_by: for "infer": the timestamp field to sort by; default: `timestamp` if every record has one.
        dry_run: read and count, write nothing.
        progress: called with (files read, files to read) about 20 times a second; while a bucket is listed, the second
            grows. Where a schema is inferred, the files are read once before, with counts of their own.

    Raises:
        IntegrityError: the old checkpoint cannot be read, or does not have the schema's columns; it stays as it is.
        ConflictError: another writer that does not honour the lock replaced the target (on S3: every attempt lost the
            race).
        AccessError, StorageFullError, TransientError: as their names say; nothing half-written remains.
        CheckpointError: all of these but StorageFullError are one too. Its `unread` names the files if not one could be
            read.

    Example:
        >>> run = update("logs/prod", "events.parquet")          # doctest: +SKIP
        >>> run.rows_added, run.rejected_records                 # doctest: +SKIP
        (19978, 22)
    """
    _one_of("mode", mode, ("ledger", "watermark"))
    _one_of("listing", listing, ("full", "window"))
    if retry_rejected == "":
        message = "retry_rejected: expected True, or the kind of a problem; got an empty text"
        raise InvalidInputError(message)
    if row_group_rows < 1:
        message = f"row_group_rows: expected at least 1, got {row_group_rows}"
        raise InvalidInputError(message)
    if not 0 < max_file_bytes <= _LARGEST_FILE:
        message = f"max_file_bytes: expected 1 to {_LARGEST_FILE}, got {max_file_bytes}"
        raise InvalidInputError(message)
    started = monotonic()
    options = {
        "watermark": mode == "watermark", "settle_us": int(settle_s * 1e6), "threads": threads, "memory": memory,
        "spill_dir": os.fspath(spill_dir or ""), "max_file_bytes": max_file_bytes, "rescan": rescan, "dry_run": dry_run,
        "evolve": evolve, "retry_rejected": bool(retry_rejected),
        "retry_rule": retry_rejected if isinstance(retry_rejected, str) else "", "take_rewritten": take_rewritten,
        "other_source": other_source, "source_name": source_name(source),
        "window_us": int(window_s * 1e6) if listing == "window" else 0,
        "row_group_rows": row_group_rows, "target_key": key_in_source(source, target),
    }  # fmt: skip
    if spill_limit is not None:
        options["spill_limit"] = spill_limit
    reading = reading_of(names, records, file_name, time)
    unread: list[Any] = []
    options["unread"] = unread  # gets every file, if not one could be read
    try:
        with about_checkpoint():
            origin = source_place(source, follow_symlinks=follow_symlinks)
            found = _update(origin, target, schema, sort_by, reading, options, progress)
    except CheckpointError as error:
        error.unread = [one for refused in unread for one in Refusals(refused)]
        raise
    is_delta = os.fspath(target).startswith("delta+")
    return _answer(found, os.fspath(target) if is_delta else shown(target), started)


def _update(
    origin: str | dict[str, Any], target: str | os.PathLike[str], schema: str | type[Any] | None, sort_by: str,
    reading: Reading, options: dict[str, Any], progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:  # fmt: skip
    if os.fspath(target).startswith("delta+"):
        from headgate.checkpoint._delta import update_delta

        return update_delta(origin, os.fspath(target), schema, sort_by, reading, options, progress)
    goal = target_place(target)

    def infer(known: str) -> str:
        return str(
            parquet().infer(
                origin, "records", sort_by, options["threads"], options["target_key"], known, reading.for_inference(),
                progress,
            )
        )  # fmt: skip

    looks = not (isinstance(schema, type) or (schema is not None and schema != INFER))
    stored = parquet().stored_schema(goal) if looks else ("", "")
    plan = plan_for(schema, stored, infer, reading, shown(target), evolve=options["evolve"])
    options = {**options, "inferred": plan.inferred}
    return dict(parquet().update(origin, goal, plan.text, options, progress))


def _answer(found: dict[str, Any], target: str, started: float) -> CheckpointRun:
    rejects, unread = Refusals(found.pop("rejects")), Refusals(found.pop("unread"))
    elapsed = round((monotonic() - started) * 1000, 1)
    return CheckpointRun(**found, rejects=rejects, unread=unread, target=target, execution_time_ms=elapsed)


def _one_of(name: str, value: str, expected: tuple[str, ...]) -> None:
    if value not in expected:
        message = f"{name}: expected {' or '.join(map(repr, expected))}, got {value!r}"
        raise InvalidInputError(message)
