"""The checkpoint as a Lambda function (spec 002, section 4)."""

from __future__ import annotations

import os
import time
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from headgate.errors import HeadgateError
from headgate.handlers._observe import Observer

if TYPE_CHECKING:
    from headgate.checkpoint import CheckpointRun
    from headgate.ports import Json

_SERVICE, _NAMESPACE = "event-log-checkpoint", "EventLogCheckpoint"
_MOST_NAMED = 20  # in an answer, which has a limit of 6 MB; the log names every one
_REQUIRED = ("source_bucket", "checkpoint_bucket", "checkpoint_key")


def checkpoint(event: Json, context: Any = None) -> Json:
    """One run, first or incremental.

    Args:
        event: source_bucket, checkpoint_bucket, checkpoint_key and, if wanted, prefix; missing ones come from the
            environment (SOURCE_BUCKET, CHECKPOINT_BUCKET, CHECKPOINT_KEY). Or {"checkpoint": name} of headgate.toml.

    Returns:
        statusCode 200, checkpoint_path, new_events_processed, total_events, events_failed, last_processed_timestamp,
        execution_time_ms, and complete; or statusCode 400 or 500 with error (ValidationError, CheckpointError,
        InternalServerError), message and details.
    """
    observer = Observer(_SERVICE, _NAMESPACE)
    started = time.monotonic()
    try:
        observer.info("invoked", parameters={k: event.get(k) for k in (*_REQUIRED, "prefix", "checkpoint")})
        with observer.traced("checkpoint"):
            run = _run(event)
    except _WrongEventError as error:
        observer.error("wrong event", reason=str(error))
        observer.metric("RunFailed", 1)
        return _failure(400, "ValidationError", str(error), error.kind)
    except HeadgateError as error:
        observer.error("checkpoint failed", kind=error.kind.value, reason=str(error))
        observer.metric("RunFailed", 1)
        return _failure(500, "CheckpointError", str(error), error.kind.value)
    except Exception as error:
        # The text of an unknown error may hold anything: its type is what leaves.
        observer.error("unexpected error", type=type(error).__name__)
        observer.metric("RunFailed", 1)
        return _failure(500, "InternalServerError", f"unexpected {type(error).__name__}", "internal")
    else:
        return _success(run, observer, started)
    finally:
        observer.flush()


class _WrongEventError(ValueError):
    kind = "invalid_input"


def _run(event: Json) -> CheckpointRun:
    from headgate.checkpoint import update

    if "checkpoint" in event or not any(k in event or os.environ.get(k.upper()) for k in _REQUIRED):
        from headgate.handlers._handlers import app

        configured = app()
        return configured.checkpoint(event.get("checkpoint") or next(iter(configured.config.checkpoints), ""))
    found = {k: event.get(k) or os.environ.get(k.upper(), "") for k in _REQUIRED}
    wrong = [k for k, v in found.items() if not isinstance(v, str) or not v]
    prefix = event.get("prefix") or ""
    if wrong or not isinstance(prefix, str):
        message = f"{', '.join(wrong) or 'prefix'}: expected a text"
        raise _WrongEventError(message)
    return update(
        f"s3://{found['source_bucket']}/{prefix}", f"s3://{found['checkpoint_bucket']}/{found['checkpoint_key']}"
    )


def _success(run: CheckpointRun, observer: Observer, started: float) -> Json:
    from headgate._native import core
    from headgate.checkpoint._run import shown_problems

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
        "checkpoint_path": run.target,
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


def _failure(code: int, error: str, message: str, kind: str) -> Json:
    details = {"failed_files": [], "error_count": 1, "kind": kind}
    return {"statusCode": code, "error": error, "message": message, "details": details}
