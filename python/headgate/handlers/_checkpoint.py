"""The checkpoint as a Lambda function."""

from __future__ import annotations

import os
import time
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from headgate.errors import HeadgateError
from headgate.handlers._observe import Observer
from headgate.handlers._warm import keeps_clients

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headgate.checkpoint import CheckpointRun, RejectedRecord
    from headgate.ports import Json

_SERVICE, _NAMESPACE = "event-log-checkpoint", "EventLogCheckpoint"
_MOST_NAMED = 20  # in an answer, which has a limit of 6 MB; the log names every one
_REQUIRED = ("source_bucket", "checkpoint_bucket", "checkpoint_key")


@keeps_clients
def checkpoint(event: Json, context: Any = None) -> Json:
    """One run, first or incremental.

    Args:
        event: source_bucket, checkpoint_bucket, checkpoint_key and, if wanted, prefix; missing ones come from the
            environment (SOURCE_BUCKET, CHECKPOINT_BUCKET, CHECKPOINT_KEY). Or {"checkpoint": name} of headgate.toml.

    Returns:
        statusCode 200, checkpoint_path (if there is a checkpoint now), new_events_processed, total_events,
        events_failed, last_processed_timestamp, execution_time_ms, and complete; or statusCode 400 or 500 with error
        (ValidationError, CheckpointError, InternalServerError), message and details (failed_files, error_count).
    """
    observer = Observer(_SERVICE, _NAMESPACE)
    started = time.monotonic()
    try:
        names = (*_REQUIRED, "prefix", "checkpoint")
        observer.info("invoked", parameters={k: event.get(k) for k in names} if isinstance(event, dict) else None)
        with observer.traced("checkpoint"):
            run = _run(event, observer)
    except _WrongEventError as error:
        observer.error("wrong event", reason=str(error))
        return _failure(observer, started, 400, "ValidationError", str(error))
    except HeadgateError as error:
        observer.error("checkpoint failed", kind=error.kind.value, reason=str(error))
        return _failure(observer, started, 500, "CheckpointError", str(error), getattr(error, "unread", ()))
    except Exception as error:
        # The text of an unknown error may hold anything: its type is what leaves.
        observer.error("unexpected error", type=type(error).__name__)
        return _failure(observer, started, 500, "InternalServerError", f"unexpected {type(error).__name__}")
    else:
        return _success(run, observer, started)
    finally:
        observer.flush()


class _WrongEventError(ValueError):
    pass


def _run(event: Any, observer: Observer) -> CheckpointRun:
    from headgate.checkpoint import update
    from headgate.checkpoint._places import s3_prefix_url, s3_url

    if not isinstance(event, dict):
        message = f"expected an object with {', '.join(_REQUIRED)}, got {type(event).__name__}"
        raise _WrongEventError(message)
    given = [k for k in _REQUIRED if event.get(k) or os.environ.get(k.upper())]
    if "checkpoint" in event or (not given and os.environ.get("HEADGATE_CONFIG")):
        from headgate.handlers._handlers import app

        configured = app()
        return configured.checkpoint(event.get("checkpoint") or next(iter(configured.config.checkpoints), ""))
    found = {k: event.get(k) or os.environ.get(k.upper(), "") for k in _REQUIRED}
    wrong = [k for k, v in found.items() if not isinstance(v, str) or not v]
    prefix = event.get("prefix") or ""
    if wrong or not isinstance(prefix, str):
        message = f"{', '.join(wrong) or 'prefix'}: expected a text"
        raise _WrongEventError(message)
    source, target = found["source_bucket"], found["checkpoint_bucket"]
    with observer.traced_s3(source_bucket=source, checkpoint_bucket=target) as done:
        run = update(s3_prefix_url(source, prefix), s3_url(target, found["checkpoint_key"]), schema="visits")
        done |= {"listed": run.listed, "read": run.taken_files, "bytes_read": run.bytes_read, "written": run.file_size}
    return run


def _success(run: CheckpointRun, observer: Observer, started: float) -> Json:
    from headgate._native import core
    from headgate.checkpoint._result import shown_problems

    elapsed = round((time.monotonic() - started) * 1000, 1)
    for reject in run.rejects:
        observer.warning(
            "record rejected", file=reject.name, digest=reject.digest, offset=reject.offset,
            problems=shown_problems(reject.problems),
        )  # fmt: skip
    for one in run.unread:
        observer.warning(
            "file not read; the next run tries again", file=one.name, digest=one.digest, reason=one.problems[0][1]
        )
    failed = run.rejected_records + run.unreadable
    tried = run.rows_added + failed
    for name, value, unit in (
        ("FilesRetrieved", run.taken_files, "Count"),
        ("NewEventsProcessed", run.rows_added, "Count"),
        ("EventsFailed", failed, "Count"),
        ("TotalEvents", run.rows_total, "Count"),
        ("ProcessingSuccessRate", 100.0 * run.rows_added / tried if tried else 100.0, "Percent"),
        ("CheckpointFileSize", run.file_size, "Bytes"),
        ("ExecutionTime", elapsed, "Milliseconds"),
        ("IncrementalRun", 0 if run.first_run else 1, "Count"),
        ("RunFailed", 0, "Count"),  # a 500 is no error for Lambda: alarms look here
    ):
        observer.metric(name, value, unit)
    observer.info(
        "checkpoint done", files_listed=run.listed, files_read=run.taken_files, events_processed=run.rows_added,
        events_failed=failed, total_events=run.rows_total, file_size=run.file_size, execution_time_ms=elapsed,
        attempts=run.attempts,
    )  # fmt: skip
    last = core.format_timestamp(run.last_timestamp_us) if run.last_timestamp_us is not None else None
    answer: Json = {
        "statusCode": 200,
        **({"checkpoint_path": run.target} if run.committed or not run.first_run else {}),
        "new_events_processed": run.rows_added,
        "total_events": run.rows_total,
        "events_failed": failed,
        "last_processed_timestamp": last,
        "execution_time_ms": elapsed,
        "complete": run.complete,
    }
    if failed:
        files = [r.name for r in islice(chain(run.unread, run.rejects), _MOST_NAMED)]
        answer["details"] = {"failed_files": files, "error_count": failed}
    return answer


def _failure(
    observer: Observer, started: float, code: int, error: str, message: str, unread: Sequence[RejectedRecord] = ()
) -> Json:
    """The answer of a run that committed nothing, with its metrics: an alarm must not go blind when runs fail."""
    for one in unread:
        observer.warning("file not read", file=one.name, digest=one.digest, reason=one.problems[0][1])
    for name, value, unit in (
        ("NewEventsProcessed", 0, "Count"),
        ("EventsFailed", len(unread), "Count"),
        ("ExecutionTime", round((time.monotonic() - started) * 1000, 1), "Milliseconds"),
        ("RunFailed", 1, "Count"),
    ):
        observer.metric(name, value, unit)
    files = [one.name for one in unread[:_MOST_NAMED]]
    details = {"failed_files": files, "error_count": len(unread) or 1}
    return {"statusCode": code, "error": error, "message": message, "details": details}
