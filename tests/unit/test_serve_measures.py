"""What operators see of a server: jobs, gauges and counts, each held against the store itself."""

from __future__ import annotations

import json
import logging
import os

import pytest

from headgate import _core
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.cli import main
from headgate.cli._gauges import measure
from headgate.cli._serve import apply_again, scheduled_jobs
from headgate.config import load
from headgate.errors import NotFoundError, TransientError
from headgate.idempotency import Ledger
from headgate.ops import MemoryMetrics, configure_logging
from headgate.ports import DeadLetter
from headgate.serve import IntakeServer, Job, Scheduler
from headgate.wiring import App

CONFIG = """
[backends]
objects = "file://objects"
store = "sqlite:///h.db"
durability = "normal"
[consumers.analysis]
topic = "market.items"
[sources.tiingo]
"""


@pytest.fixture(autouse=True)
def _logging_as_before():
    """The commands set it up for the process."""
    logger = logging.getLogger("headgate")
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield
    configure_logging()  # closes a file of the test's
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture
def app(tmp_path):
    (tmp_path / "headgate.toml").write_text(CONFIG)
    made = App(load(tmp_path / "headgate.toml", {"TIINGO_API_KEY": "k"}))
    yield made
    made.database.close()


def letter(store, n, stage="intake"):
    store.add_dead_letters([DeadLetter(stage, "market", "tiingo", "invalid_record", "why", f'{{"n": {n}}}')])


def test_gauges_and_status_equal_the_truth(app):
    store = app.store
    for n in range(5):
        store.publish("market.items", f"k{n}", {"n": n})
    store.relay_outbox({"market.items": ["analysis"]})
    store.publish("elsewhere", "k", {})
    for n in range(3):
        letter(store, n)
    store.db.execute("UPDATE dead_letters SET redriven = seen WHERE id = 1")
    assert measure(app) == 0
    value = app.metrics.value
    assert value("headgate_queue_messages", group="analysis") == 5
    assert value("headgate_outbox_unsent") == 1
    assert value("headgate_dead_letters_open", stage="intake") == 2
    assert value("headgate_dead_letters_open", stage="consume") == 0
    assert value("headgate_breaker_state", source="tiingo", state="closed") == 1
    status = app.status()
    # One that was sent back is no open letter: the count said 3, and `headgate dlq` 2.
    assert (status["queues"]["analysis"], status["outbox_unsent"], status["dead_letters"]) == (5, 1, 2)
    store.db.execute("UPDATE queue SET visible_us = visible_us - 7000000")
    store.db.execute("UPDATE outbox SET created_us = created_us - 9000000")
    measure(app)
    assert 7 <= value("headgate_queue_oldest_seconds", group="analysis") < 60
    assert 9 <= value("headgate_outbox_oldest_seconds") < 60
    store.db.execute("DELETE FROM queue")
    measure(app)
    assert value("headgate_queue_messages", group="analysis") == 0
    assert value("headgate_queue_oldest_seconds", group="analysis") == 0


@pytest.fixture
def parts(tmp_path):
    clock = _core.ManualClock(1_780_000_000_000_000)
    database = LocalDatabase(str(tmp_path / "jobs.db"), durability="normal")
    yield LocalStore(database, clock), Ledger.on_database(database, clock=clock), clock
    database.close()


def test_of_each_job_is_known_when_it_went_well_last(parts):
    store, ledger, clock = parts
    broken = [False]

    def work():
        if broken[0]:
            raise TransientError("token=sesame")

    metrics = MemoryMetrics()
    job = Job("sweep", 60, work)
    scheduler = Scheduler([job], store, ledger, clock, metrics)
    (before,) = scheduler.states()
    assert (before["last_start"], before["last_success"], before["next_run"]) == (None, None, "2026-05-28T20:26:40Z")
    assert scheduler.run_once(job)
    broken[0] = True
    for _ in range(2):
        clock.advance_us(60_000_000)
        assert not scheduler.run_once(job)
    (state,) = scheduler.states()
    assert state == {
        "job": "sweep", "every_s": 60, "last_start": "2026-05-28T20:28:40Z", "last_success": "2026-05-28T20:26:40Z",
        "failures": 2, "error": "unavailable", "rejects": 0, "next_run": "2026-05-28T20:29:40Z",
    }  # fmt: skip
    assert metrics.value("headgate_job_failures", job="sweep") == 2
    assert metrics.value("headgate_job_runs_total", job="sweep", outcome="failed") == 2
    assert metrics.value("headgate_job_last_success_seconds", job="sweep") == 1_780_000_000
    broken[0] = False
    assert not scheduler.run_once(job)  # it was run a moment ago
    assert scheduler.run_once(job, now=True)
    assert scheduler.states()[0]["failures"] == 0
    scheduler.reset(job)
    assert scheduler.wait_us(job) == 0
    with pytest.raises(NotFoundError, match="expected one of: sweep"):
        scheduler.find("nothing")


def test_of_each_job_is_known_how_many_records_it_refused(parts):
    store, ledger, clock = parts
    metrics = MemoryMetrics()
    refused = iter([3, 0, 2])
    job = Job("collect", 60, lambda: next(refused), rejects=int)
    scheduler = Scheduler([job], store, ledger, clock, metrics)
    for expected in (3, 0, 2):
        assert scheduler.run_once(job, now=True)
        assert scheduler.states()[0]["rejects"] == expected
    assert metrics.value("headgate_job_rejects_total", job="collect") == 5


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1_234_567, "1234567"), (1_780_000_123.25, "1780000123.25"), (True, "1"), (0, "0"), (0.1, "0.1"), (-3, "-3"),
     (2.0**60, "1.152921504606847e+18"), (float("inf"), "+Inf"), (float("-inf"), "-Inf"), (float("nan"), "NaN")],
)  # fmt: skip
def test_numbers_keep_every_digit(value, shown):
    """Six digits made 1,234,567 messages 1.23457e+06, and the time of a job's last success was hours off."""
    metrics = MemoryMetrics()
    metrics.gauge("n", value)
    metrics.observe("t", value)
    lines = metrics.render().splitlines()
    assert lines[1] == f"n {shown}"
    assert f"t_sum {shown}" in lines


def test_the_jobs_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "headgate.toml").write_text(CONFIG.replace("[sources.tiingo]", ""))

    def jobs(*words):
        code = main(["jobs", *words])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else err

    code, found = jobs()
    assert (code, [job["job"] for job in found]) == (0, ["sweep", "prune", "alerts"])
    assert {job["last_success"] for job in found} == {None}
    code, ran = jobs("run", "prune")
    assert (code, ran["ran"], ran["failures"]) == (0, True, 0)
    assert jobs()[1][1]["last_success"] is not None
    assert jobs("reset", "prune") == (0, {"job": "prune", "reset": True})
    assert jobs()[1][1]["last_start"] is None
    assert jobs("run", "nothing")[1].startswith(
        "headgate: jobs: there is no job 'nothing'; expected one of: sweep, prune, alerts"
    )
    for words in (("run",), ("list", "x")):
        code, err = jobs(*words)
        assert (code, err.count("\n")) == (1, 1)


def test_status_dlq_doctor_and_metrics_say_one_number(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "headgate.toml").write_text(CONFIG)
    app = App(load(tmp_path / "headgate.toml"))
    for n in range(4):
        letter(app.store, n)
    letter(app.store, 9, "consume")
    app.store.db.execute("UPDATE dead_letters SET redriven = seen WHERE id = 2")
    app.store.publish("market.items", "k", {"n": 1})
    app.store.relay_outbox({"market.items": ["analysis", "gone"]})  # a group that no configuration names any more
    app.store.publish("market.items", "k", {"n": 2})
    measure(app)

    def said(*words):
        assert main([*words]) == 0
        return json.loads(capsys.readouterr().out)

    status, doctor, counts = said("status"), said("doctor"), said("dlq")
    truth = 4
    assert (status["dead_letters"], doctor["waiting"]["dead_letters"]) == (truth, truth)
    assert sum(row["letters"] for row in counts) == truth
    assert app.metrics.value("headgate_dead_letters_open") == truth
    queues = {"analysis": 1, "gone": 1}
    assert status["queues"] == doctor["waiting"]["queues"] == queues
    assert {g: app.metrics.value("headgate_queue_messages", group=g) for g in queues} == queues
    assert status["outbox_unsent"] == doctor["waiting"]["outbox_unsent"] == 1
    assert app.metrics.value("headgate_outbox_unsent") == 1
    said("alerts", "check")
    assert len(said("doctor")["alerts"]) == len(said("status")["alerts"]) == 2
    app.database.close()


def test_status_of_a_folder_without_configuration_makes_nothing(tmp_path, capsys, monkeypatch):
    """It made a database and said that all was well."""
    monkeypatch.chdir(tmp_path)
    assert main(["status"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("headgate: status: there is no headgate.toml in this folder")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "headgate.toml").write_text("")
    assert main(["status"]) == 0


# --- SIGHUP, the log file, and who may read what


@pytest.fixture
def logged(tmp_path):
    return tmp_path / "headgate.log"


def test_a_renamed_log_is_opened_anew_and_is_the_owner_s(logged):
    configure_logging("INFO", "text", str(logged))
    log = logging.getLogger("headgate.test")
    log.info("one")
    logged.rename(logged.with_suffix(".1"))
    log.info("two")
    configure_logging("INFO", "text", str(logged))
    log.info("three")
    assert [line.split()[-1] for line in logged.with_suffix(".1").read_text().splitlines()] == ["one", "two"]
    assert [line.split()[-1] for line in logged.read_text().splitlines()] == ["three"]
    assert logged.stat().st_mode & 0o777 == 0o600
    with pytest.raises(OSError, match="Not a directory"):
        configure_logging("INFO", "text", str(logged / "no" / "folder"))
    log.info("four")
    assert "four" in logged.read_text()


def test_a_reload_changes_what_can_be_changed_and_names_the_rest(tmp_path, caplog):
    path = tmp_path / "headgate.toml"
    path.write_text(CONFIG)
    app = App(load(path, {}))
    with IntakeServer(None) as intake:
        path.write_text(CONFIG + '[uploads]\nmax_files = 7\n[serve]\nallowed_hosts = ["x"]\n[schedule]\nsweep_s = 5\n')
        with caplog.at_level(logging.INFO):
            apply_again(app, intake, lambda: load(path, {}))
        assert (intake.limits.files, intake.access.hosts) == (7, ("x",))
        # The server's own thread may say that it has started at any time, so only the reload's logger is looked at.
        said = [r for r in caplog.records if r.name == "headgate.serve"]
        assert [(r.getMessage(), r.after_a_restart) for r in said] == [("reloaded", "schedule")]
        caplog.clear()
        for bad in (
            "[serve]\nport = 'x'\n",
            "[serve]\ntoken_env = 'NOT_SET'\n",
            "[serve]\ntls_cert = 'a'\ntls_key = 'b'\n",
            "[",
        ):
            path.write_text(bad)
            apply_again(app, intake, lambda: load(path, {}))
        said = [r for r in caplog.records if r.name == "headgate.serve"]
        assert [r.getMessage() for r in said] == ["not reloaded"] * 4
        assert (intake.limits.files, intake.access.hosts) == (7, ("x",))
    app.database.close()


@pytest.mark.parametrize(("line", "file", "folder"), [("", 0o600, 0o700), ("private_files = false", 0o644, 0o755)])
def test_what_the_command_makes_is_its_owner_s(tmp_path, monkeypatch, capsys, line, file, folder):
    monkeypatch.chdir(tmp_path)
    mask = os.umask(0o022)
    try:
        (tmp_path / "headgate.toml").write_text(
            f'[backends]\n{line}\nobjects = "file://d/objects"\nstore = "sqlite:///d/h.db"\n'
        )
        assert main(["prune"]) == 0
        assert main(["backup", "copy.db"]) == 0
        assert os.umask(0o022) == 0o022  # the caller's own is left alone
    finally:
        os.umask(mask)
    capsys.readouterr()
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("d/h.db", "copy.db")} == {file}
    assert (tmp_path / "d").stat().st_mode & 0o777 == folder


WORKFLOW = """
from headgate.workflow import LambdaStep, Workflow, WorkflowType


def workflow(retry):
    return Workflow("nightly", WorkflowType.STANDARD, [LambdaStep("Count", "count")])


def functions(objects, clock):
    return {"count": lambda event, context: {"n": event["initialData"]["n"]}}
"""


def test_a_workflow_runs_by_the_clock(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "nightly_workflow.py").write_text(WORKFLOW)
    (tmp_path / "headgate.toml").write_text(
        CONFIG.replace("[sources.tiingo]", "") + "[workflows.nightly]\nevery_s = 60\ninput = { n = 1 }\n"
        'definition = "nightly_workflow:workflow"\nfunctions = "nightly_workflow:functions"\n'
    )
    app = App(load(tmp_path / "headgate.toml", {}))
    scheduler = Scheduler(scheduled_jobs(app), app.store, app.ledger, app.clock)
    job = scheduler.find("workflow:nightly")
    assert scheduler.run_once(job)
    assert app.database.execute("SELECT status FROM executions") == [("SUCCEEDED",)]
    assert scheduler.wait_us(job) > 0
    app.database.close()
