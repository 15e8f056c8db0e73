"""What operations are told: each change once, held back while it flaps, and a webhook that is away delays nothing."""

from __future__ import annotations

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from headgate import _core
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.backends.webhook import Webhook, WebhookLoop, check_url
from headgate.cli import main
from headgate.cli._alerts import AlertCheck
from headgate.cli._serve import scheduled_jobs, what_to_tell
from headgate.config import load
from headgate.consume import ConsumeResult
from headgate.errors import ConfigError, PermanentError, TransientError
from headgate.ops import MemoryMetrics, configure_logging
from headgate.ops._alerts import AlertBook, Condition
from headgate.ports import DeadLetter
from headgate.serve import Job, Scheduler, Service
from headgate.wiring import App
from headgate.wiring.alerts import WEBHOOK

SECRET = "T0KENsesame"
CONFIG = """
[backends]
objects = "file://objects"
store = "sqlite:///h.db"
durability = "normal"
[alerts]
webhook_env = "HOOK"
"""


class Receiver:
    """A webhook's server that answers what it is told to."""

    def __init__(self):
        self.statuses, self.got, self.headers = [], [], []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.headers.append(dict(self.headers))
                status = receiver.statuses.pop(0) if receiver.statuses else 204
                if status < 300:
                    receiver.got.append(json.loads(body))
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", f"/moved/{SECRET}")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/services/{SECRET}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def clock():
    return _core.ManualClock(1_780_000_000_000_000)


@pytest.fixture
def store(tmp_path, clock):
    database = LocalDatabase(str(tmp_path / "h.db"), durability="normal")
    yield LocalStore(database, clock, "market")
    database.close()


def dead(count, subject="consume billing"):
    return Condition("dead_letters", subject, f"dead letters: {count}", count)


def told(store):
    return [json.loads(body) for (body,) in store.db.execute("SELECT body FROM outbox ORDER BY id")]


def book(store, clock, cooldown_s=900, metrics=None):
    return AlertBook(store, "market.alerts", clock, cooldown_s=cooldown_s, metrics=metrics)


# --- the book


def test_each_change_is_told_once(store, clock):
    metrics = MemoryMetrics()
    for _ in range(3):
        book(store, clock, metrics=metrics).judge([dead(2)])  # a process that starts again tells nothing again
    assert [(m["status"], m["count"], m["subject"]) for m in told(store)] == [("raised", 2, "consume billing")]
    assert metrics.value("headgate_alerts_active", alert="dead_letters") == 1
    clock.advance_us(5_000_000)
    for _ in range(3):
        book(store, clock, metrics=metrics).judge([])
    raised, recovered = told(store)
    assert (recovered["status"], recovered["count"]) == ("recovered", 0)
    assert (recovered["since"], recovered["timestamp"]) == ("2026-05-28T20:26:40Z", "2026-05-28T20:26:45Z")
    assert (raised["number"], recovered["number"]) == (1, 2)
    assert raised["alert_id"] != recovered["alert_id"]
    assert metrics.value("headgate_alerts_active", alert="dead_letters") == 0
    assert metrics.value("headgate_alerts_total", alert="dead_letters") == 2
    assert book(store, clock).active() == []


def test_what_flaps_is_held_back_and_told_if_it_lasts(store, clock):
    b = book(store, clock, cooldown_s=60)
    b.judge([dead(1)])
    b.judge([])
    for _ in range(5):  # comes and goes within the cooldown: nothing more is said
        clock.advance_us(5_000_000)
        b.judge([dead(1)])
        b.judge([])
    assert [m["status"] for m in told(store)] == ["raised", "recovered"]
    b.judge([dead(1)])
    assert [a["told"] for a in b.active()] == [False]
    clock.advance_us(60_000_000)
    b.judge([dead(1)])
    assert [m["status"] for m in told(store)] == ["raised", "recovered", "raised"]


def test_more_of_it_is_told_again_after_the_cooldown_and_less_is_not(store, clock):
    b = book(store, clock, cooldown_s=60)
    b.judge([dead(1)])
    b.judge([dead(500)])
    assert len(told(store)) == 1
    clock.advance_us(61_000_000)
    for count in (500, 499, 1):
        b.judge([dead(count)])
        clock.advance_us(61_000_000)
    assert [m["count"] for m in told(store)] == [1, 500]
    b.judge([dead(2)])
    assert [m["count"] for m in told(store)] == [1, 500, 2]


def test_subjects_are_apart_and_what_cannot_be_looked_at_stays(store, clock):
    b = book(store, clock)
    b.judge([dead(1), dead(1, "intake market"), Condition("job_failed", "dead_letters:x", "m")])
    assert len(told(store)) == 3
    b.judge([dead(1)], unknown=["job_failed"])
    assert [(m["status"], m["subject"]) for m in told(store)[3:]] == [("recovered", "intake market")]
    assert [a["subject"] for a in b.active()] == ["consume billing", "dead_letters:x"]


def test_a_time_in_the_future_holds_nothing_back(store, clock):
    clock.advance_us(86_400_000_000)
    b = book(store, clock)
    b.judge([dead(1)])
    b.judge([])
    clock.advance_us(-86_400_000_000)
    b.judge([dead(1)])
    assert [m["status"] for m in told(store)] == ["raised", "recovered", "raised"]


def test_a_message_and_the_note_that_it_was_told_are_one_commit(store, clock, monkeypatch):
    b = book(store, clock)

    def broken(*_):
        raise TransientError("away")

    with monkeypatch.context() as patched:
        patched.setattr(store, "save_state", broken)
        with pytest.raises(TransientError):
            b.judge([dead(1)])
    assert told(store) == []
    b.judge([dead(1)])
    assert len(told(store)) == 1


# --- what is looked at


@pytest.fixture
def app(tmp_path, receiver):
    (tmp_path / "headgate.toml").write_text(CONFIG)
    made = App(load(tmp_path / "headgate.toml", {"HOOK": receiver.url}))
    yield made
    made.database.close()


def kinds(app, states=(), wrong=()):
    return {(c.kind, c.subject, c.count) for c in app.conditions(list(states), wrong)}


def test_dead_letters_quarantine_failed_jobs_and_what_stands_still(app):
    store = app.store
    letters = [DeadLetter("intake", "market", "tiingo", "no_headline", "secret", f'{{"n": {n}}}') for n in range(3)]
    letters.append(DeadLetter("consume", "analysis", "market.items", "attempts_exhausted", "secret", "{}"))
    letters.append(DeadLetter("consume", WEBHOOK, "market.alerts", "attempts_exhausted", "secret", "{}"))
    store.add_dead_letters(letters)
    store.db.execute("UPDATE dead_letters SET redriven = seen WHERE id = 1")
    store.save_state("healing:claim:k", {"attempts": 5, "at_us": 1, "reason": "spent"})
    states = [{"job": "sweep", "failures": 2, "error": "unavailable"}, {"job": "prune", "failures": 0, "error": None}]
    assert kinds(app, states, ["loop"]) == {
        ("dead_letters", "intake market", 2), ("dead_letters", "consume analysis", 1), ("quarantine", "claim", 1),
        ("job_failed", "sweep", 1), ("not_alive", "loop", 1),
    }  # fmt: skip
    assert "secret" not in str(app.conditions(states))
    app.config.alerts.job_failures = 3
    assert not any(kind == "job_failed" for kind, _, _ in kinds(app, states))


def test_a_job_that_fails_is_told_and_that_it_works_again(app):
    broken = [True]

    def work():
        if broken[0]:
            raise TransientError("token=sesame")

    job = Job("collect", 60, work)
    check = Job("alerts", 15, AlertCheck(app, [job]).run)
    scheduler = Scheduler([job, check], app.store, app.ledger, app.clock)
    for is_broken in (True, True, False, False):
        broken[0] = is_broken
        scheduler.run_once(job, now=True)
        assert scheduler.run_once(check, now=True)
    assert [(m["alert_type"], m["subject"], m["status"]) for m in told(app.store)] == [
        ("job_failed", "collect", "raised"), ("job_failed", "collect", "recovered"),
    ]  # fmt: skip
    assert "sesame" not in str(told(app.store))


def test_the_look_is_a_job_of_the_server(app):
    assert [job.name for job in scheduled_jobs(app)] == ["sweep", "prune", "alerts"]
    app.config.alerts.check_s = 0
    assert scheduled_jobs(app)[-1].every_s == 0


def test_a_process_that_was_told_to_stop_raises_no_alert(app):
    """Its loop has ended before its last job has."""
    service = Service([])
    scheduler = Scheduler([], app.store, None, app.clock)  # not started
    assert what_to_tell(service, scheduler, []) == ["scheduler"]
    service.stop()
    service.run()
    assert not service.is_alive(600)
    assert what_to_tell(service, scheduler, []) == []


# --- the webhook


def sent(app, times=1):
    """Deliver the outbox to the webhook's queue, and let its worker take what is there."""
    app.relay()
    loop = app.webhook()
    result = ConsumeResult()
    for _ in range(times):
        loop._worker.step(result)
    return result


def test_alerts_reach_the_webhook_once(app, receiver):
    app.alert_book.judge([dead(2)])
    app.alert_book.judge([dead(2)])
    sent(app, 3)
    (body,) = receiver.got
    assert (body["alert_type"], body["status"], body["count"]) == ("dead_letters", "raised", 2)
    assert body["text"] == "headgate: raised: dead letters: 2"  # what chat systems show
    assert receiver.headers[0]["Idempotency-Key"] == body["alert_id"]
    app.alert_book.judge([])
    sent(app, 3)
    assert [body["status"] for body in receiver.got] == ["raised", "recovered"]


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_an_outage_of_the_webhook_loses_no_alert(app, receiver, status, caplog):
    receiver.statuses = [status]
    app.alert_book.judge([dead(2)])
    sent(app)
    assert receiver.got == []
    assert app.store.queue_depth("market.alerts", WEBHOOK)[0] == 1
    app.store.db.execute("UPDATE queue SET visible_us = 0")
    sent(app)
    assert [body["status"] for body in receiver.got] == ["raised"]
    assert app.store.queue_depth("market.alerts", WEBHOOK)[0] == 0
    assert SECRET not in caplog.text + str([vars(r) for r in caplog.records])


def test_what_the_webhook_refuses_becomes_a_dead_letter_that_raises_no_alert(app, receiver, caplog):
    receiver.statuses = [404, 302, 400, 410, 401]
    app.alert_book.judge([dead(2)])
    app.relay()
    for _ in range(5):
        app.store.db.execute("UPDATE queue SET visible_us = 0")
        sent(app)
    (letter,) = app.store.dead_letters()
    assert (letter["pipeline"], letter["kind"]) == (WEBHOOK, "attempts_exhausted")
    assert len(receiver.headers) == 5  # the redirect was not followed
    assert kinds(app) == set()
    assert SECRET not in str(letter) + caplog.text + str([vars(r) for r in caplog.records])
    app.store.redrive(WEBHOOK)
    sent(app)
    assert len(receiver.got) == 1


def test_a_server_that_is_not_there_is_an_outage(clock):
    with pytest.raises(TransientError) as caught:
        Webhook(f"http://127.0.0.1:1/{SECRET}", "hook", _core.SystemClock(), timeout_s=5)({"alert_id": "1"})
    assert SECRET not in str(caught.value)


def test_the_loop_ends_between_two_looks():
    class Worker:
        def __init__(self):
            self.drained, self.stopped = threading.Event(), False

        def drain(self):
            self.drained.set()

        def stop(self):
            self.stopped = True

    loop = WebhookLoop(Worker())
    thread = threading.Thread(target=loop.run)
    thread.start()
    assert loop._worker.drained.wait(30)
    loop.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert loop._worker.stopped


@pytest.mark.parametrize(
    "url",
    ["http://example.com/sesame", "ftp://h/sesame", "sesame", "https://", "https://h:0/sesame", "https://h:x/sesame",
     "https://h/ses ame", "https://h/sesame\n", "https://h/sésame", "https://[sesame"],
)  # fmt: skip
def test_a_url_that_is_not_taken_is_not_quoted(url):
    with pytest.raises(ConfigError, match="^the place: expected an https:// URL") as caught:
        check_url(url, "the place")
    assert "same" not in str(caught.value)


@pytest.mark.parametrize("url", ["https://h/x", "https://h:1/x?y=z", "http://localhost:1/x", "http://[::1]/x"])
def test_a_url_that_is_taken(url):
    check_url(url, "the place")


@pytest.mark.parametrize(
    ("more", "environment", "sentence"),
    [
        ("", {}, "alerts.webhook_env: the environment variable HOOK is not set"),
        ("", {"HOOK": f"http://h/{SECRET}"}, "alerts.webhook_env: the environment variable HOOK: expected an https"),
        (f"[consumers.{WEBHOOK}]\n", {"HOOK": "https://h/"}, "consumers.alerts-webhook: the name is headgate's own"),
    ],
)
def test_wrong_settings_are_one_sentence(tmp_path, more, environment, sentence):
    (tmp_path / "headgate.toml").write_text(CONFIG + more)
    app = App(load(tmp_path / "headgate.toml", environment))
    with pytest.raises(ConfigError, match=sentence) as caught:
        app.local_groups()
        app.webhook()
    assert SECRET not in str(caught.value)
    app.database.close()


def test_a_table_has_no_queue_for_a_webhook(tmp_path):
    (tmp_path / "headgate.toml").write_text('[backends]\nstore = "dynamodb://t"\n[alerts]\nwebhook_env = "HOOK"\n')
    with pytest.raises(ConfigError, match="alerts.webhook_env: needs a sqlite:/// store"):
        App(load(tmp_path / "headgate.toml", {})).alert_groups()


# --- the command


@pytest.fixture
def _logging_as_before():
    logger = logging.getLogger("headgate")
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield
    configure_logging()
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.mark.usefixtures("_logging_as_before")
def test_the_alerts_command(tmp_path, receiver, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "headgate.toml").write_text(CONFIG)
    monkeypatch.setenv("HOOK", receiver.url)

    def alerts(*words):
        code = main(["alerts", *words])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else err

    assert alerts() == (0, [])
    app = App(load(tmp_path / "headgate.toml"))
    app.store.add_dead_letters([DeadLetter("intake", "market", "tiingo", "no_headline", "why", "{}")])
    code, messages = alerts("check")
    assert (code, [m["alert_type"] for m in messages]) == (0, ["dead_letters"])
    assert alerts("check") == (0, [])
    ((active,),) = alerts()[1:]
    assert (active["subject"], active["told"]) == ("intake market", True)
    assert main(["status"]) == 0
    assert [a["subject"] for a in json.loads(capsys.readouterr().out)["alerts"]] == ["intake market"]
    assert alerts("test") == (0, {"sent": True})
    assert [body["alert_type"] for body in receiver.got] == ["test"]
    receiver.statuses = [403]
    code, err = alerts("test")
    assert code == 1
    assert SECRET not in err
    with pytest.raises(PermanentError):
        receiver.statuses = [403]
        app.send_test_alert()
    app.database.close()
    (tmp_path / "headgate.toml").write_text("")
    assert alerts("test")[1].startswith("headgate: alerts test: no webhook is configured")
