"""Regenerates the golden files of the version that this checkout writes. Never overwrite one of a released version.

.venv/bin/python tests/golden/make.py
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
EVENTS = [
    {"action": "submit", "study": "adrc", "pipeline_adcid": 42, "project_label": "ingest-form", "center_label": "alpha",
     "gear_name": "form-scheduler", "ptid": "110001", "visit_date": "2024-01-15", "visit_number": "01", "datatype": "form",
     "module": "UDS", "packet": "I", "timestamp": "2024-01-15T10:00:00Z"},
    {"action": "not-pass-qc", "pipeline_adcid": "45", "project_label": "ingest-dicom-leads", "center_label": "gamma",
     "gear_name": "dicom-scheduler", "ptid": "220002", "visit_date": "2024-01-16", "visit_number": None,
     "datatype": "dicom", "timestamp": "2024-01-16T14:30:00.25+01:00"},
]  # fmt: skip
NAMES = ["log-submit-20240115-100000-42-ingest-form-110001-01.json", "log-not-pass-qc-20240116-133000-45-ingest-dicom-leads-220002-02.json",
         "log-submit-20240117.json"]  # fmt: skip
DOCUMENTS = ["{}", '{"b":1.0,"a":"x"}', "[1e21,-0,0.1]", '{"\\u20ac":1,"\\ud83d\\ude00":2,"\\ufb33":3}', '"\\u000f"']


def write_logs(folder: Path) -> None:
    folder.mkdir()
    for name, event in zip(NAMES, EVENTS, strict=False):
        (folder / name).write_text(json.dumps(event))
    (folder / NAMES[2]).write_text("{broken")


def store_v1(path: Path) -> None:
    """A store as version 1 wrote it: only the first migration, a row in each table that version 2 touches."""
    header = (HERE.parents[1] / "cpp/src/backends/sqlite/schema.hpp").read_text()
    first = header.split('R"sql(')[1].split(')sql"')[0]
    with sqlite3.connect(path) as database:
        database.executescript(first)
        database.executescript("PRAGMA application_id = 1212637556; PRAGMA user_version = 1;")
        database.executemany(
            "INSERT INTO items (key, pipeline, source, status, timestamp, ingested_us, doc, last_republished_us)"
            " VALUES (?, 'market', 'tiingo', ?, '2026-05-01T00:00:00Z', ?, '{}', ?)",
            [("a", "pending", 1000, None), ("b", "pending", 1000, 5000), ("c", "analyzed", 1000, None)],
        )
        database.execute("INSERT INTO ledger VALUES ('k', 1, 't', 'o', 0, 1, '', '{\"n\":1}', NULL, 99999999999999999)")


def main() -> None:
    import headgate
    from headgate import _core
    from headgate.backends.local import LocalDatabase
    from headgate.checkpoint import update
    from headgate.config import default_toml

    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        store_v1(work / "store-v1.db")
        current = f"store-v{_core.SQLITE_SCHEMA_VERSION}.db"
        shutil.copy(work / "store-v1.db", work / current)
        LocalDatabase(str(work / current)).close()
        write_logs(work / "logs")
        update(work / "logs", work / "checkpoint-v1.parquet", settle_s=0, schema="visits")
        for name in ("store-v1.db", current, "checkpoint-v1.parquet"):
            shutil.copy(work / name, HERE / name)
        shutil.rmtree(HERE / "checkpoint-v1.parquet.ledger", ignore_errors=True)
        shutil.copytree(work / "checkpoint-v1.parquet.ledger", HERE / "checkpoint-v1.parquet.ledger")
    (HERE / "headgate-v1.toml").write_text(default_toml())
    ids = {text: headgate.event_ids([text])[0] for text in DOCUMENTS}
    keys = {
        "dedup": headgate.dedup_key("Headline", "tiingo", "2026-05-01T10:00:00Z"),
        "story": headgate.story_key("A headline!", "2026-05-01"),
    }
    (HERE / "identity-v1.json").write_text(json.dumps({"event_ids": ids, "keys": keys}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
