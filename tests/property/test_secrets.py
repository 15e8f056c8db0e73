"""A secret in every place where a user can put one, and none of it in any output, log, metric, file or report.

Only the configuration, and what is data (messages, raw bodies, dead letters) may hold what was put there.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import logging
import os
import tempfile
import traceback
from pathlib import Path
from unittest import mock
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from headgate import Ledger
from headgate.cli import main
from headgate.cli._gauges import measure
from headgate.cli._serve import apply_again, intake_rules, open_intake
from headgate.config import load
from headgate.consume import Consumer, ConsumeResult, Worker
from headgate.errors import ConfigError, HeadgateError, PermanentError, TransientError
from headgate.ops import configure_logging
from headgate.serve import IntakeServer, Job, Scheduler
from headgate.wiring import App

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
FEW = settings(max_examples=3, phases=[Phase.generate], deadline=None, suppress_health_check=list(HealthCheck))
WORD = st.text("abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789", min_size=8, max_size=12).map(
    lambda word: f"Zq{word}9"
)
# What stands between the words of a password; in a URL only what needs no encoding to be one.
BETWEEN = st.sampled_from(["-", "_", ".", "~", "!", "*", "+", "=", ",", ";", "@", "/"])
SECRETS = st.tuples(WORD, BETWEEN, WORD).map(lambda parts: (f"{parts[0]}{parts[1]}{parts[2]}", [parts[0], parts[2]]))

CONFIG = """
[backends]
objects = "file://data/objects"
store = "sqlite:///data/h.db"
durability = "normal"
{backends}
[logging]
file = "data/headgate.log"
level = "DEBUG"
{rest}
"""
SOURCE = (
    '[sources.tiingo]\nbase_url = "{url}"\n[resilience]\nretry_attempts = 1\ntimeout_s = 2\n'
    '[collection]\ntickers = ["AAPL"]\n'
)


class Place:
    """A folder of its own as the working directory, with a configuration and an environment; and all that is said there."""

    def __init__(self, config="", environment=None):
        self.config, self.environment = config, environment or {}
        self.said = []

    def __enter__(self):
        self._stack = contextlib.ExitStack()
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._stack.enter_context(contextlib.chdir(self.folder))
        self._stack.enter_context(mock.patch.dict(os.environ, self.environment))
        (self.folder / "headgate.toml").write_text(self.config)
        logger = logging.getLogger("headgate")
        before = (list(logger.handlers), logger.level, logger.propagate)

        def restore():
            configure_logging()  # closes a file of the test's
            logger.handlers[:], logger.level, logger.propagate = before

        self._stack.callback(restore)
        return self

    def __exit__(self, *_):
        self._stack.close()

    def run(self, *words):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([*words])
        self.said += [out.getvalue(), err.getvalue()]
        return code

    def app(self):
        made = App(load(self.folder / "headgate.toml"))
        self._stack.callback(lambda: made.database.close() if "database" in made.__dict__ else None)
        return made

    def holds(self, words, but=()):
        """Where one of the words is found: in what was said, or in which file."""
        found = [f"said: {text[:300]}" for text in self.said if any(word in text for word in words)]
        for path in self.folder.rglob("*"):
            name = str(path.relative_to(self.folder))
            if path.is_file() and name != "headgate.toml" and not name.startswith(tuple(but)):
                data = path.read_bytes()
                found += [name for word in words if word.encode() in data or word in name]
        return found


# --- configuration and environment

URLS = {
    "a Redis ledger": 'ledger = "redis://user:{s}@127.0.0.1:1/0?reconnect=0"',
    "a Redis ledger with an option that is none": 'ledger = "redis://user:{s}@127.0.0.1:1/0?nothing=1"',
    "a Redis ledger with a port that is none": 'ledger = "redis://user:{s}@127.0.0.1:port/0"',
    "a ledger of a kind that there is not": 'ledger = "memcached://user:{s}@127.0.0.1/0"',
    "a wrong choice": '[resilience]\n[collection]\ncalendar = "redis://user:{s}@127.0.0.1/0"',
    "a wrong type": '[serve]\nport = "redis://user:{s}@127.0.0.1/0"',
    "a key of another name": '[sources.tiingo]\napi_key = "{s}"',
    "a table instead": '[serve]\nport = {{ password = "{s}" }}',
    "broken TOML": 'password = "{s}',
}


@FEW
@given(SECRETS)
@pytest.mark.parametrize("place", URLS)
def test_no_secret_of_the_configuration_is_shown(place, secret):
    text, words = secret
    line = URLS[place].replace("{{", "{").replace("}}", "}").replace("{s}", text)
    backends, rest = (line, "") if line.startswith("ledger") else ("", line)
    with Place(CONFIG.format(backends=backends, rest=rest)) as here:
        for command in (["doctor"], ["jobs"], ["heal"]):
            here.run(*command)
        assert any(here.said)
        assert here.holds(words) == []


@FEW
@given(SECRETS)
def test_a_store_or_place_of_a_wrong_kind_is_not_quoted(secret):
    text, words = secret
    for key in ("store", "objects", "notify", "alerts"):
        config = CONFIG.format(backends="", rest="").replace(f"{key} =", "# ")
        config = config.replace("[backends]", f'[backends]\n{key} = "ftp://user:{text}@127.0.0.1/x"')
        with Place(config) as here:
            for command in (["doctor"], ["heal"]):
                here.run(*command)
            assert here.holds(words) == [], key


@FEW
@given(SECRETS)
@pytest.mark.parametrize(
    "name", ["TIINGO_API_KEY", "HEADGATE__SOURCES__TIINGO__TOKEN", "HEADGATE__BACKENDS__LEDGER", "HOOK"]
)
def test_no_secret_of_the_environment_is_shown(name, secret):
    text, words = secret
    value = f"redis://u:{text}@127.0.0.1:1/0?reconnect=0" if name.endswith("LEDGER") else text
    value = f"https://127.0.0.1:1/{text}" if name == "HOOK" else value
    rest = SOURCE.format(url="http://127.0.0.1:1") + '[alerts]\nwebhook_env = "HOOK"\nwebhook_timeout_s = 1\n'
    with Place(CONFIG.format(backends="", rest=rest), {"HOOK": "", name: value}) as here:
        for command in (
            ["collect", "--json"],
            ["status"],
            ["jobs"],
            ["alerts", "check"],
            ["alerts", "test"],
            ["doctor"],
        ):
            here.run(*command)
        assert here.holds(words) == []


@FEW
@given(SECRETS)
def test_a_source_s_password_is_in_no_event_and_no_alert(secret):
    """The URL of a source goes into errors of the network; its event, its alerts and its breaker are stored."""
    text, words = secret
    rest = SOURCE.format(url=f"http://user:{text}@127.0.0.1:1")
    with Place(CONFIG.format(backends="", rest=rest), {"TIINGO_API_KEY": f"key-{text}"}) as here:
        for _ in range(3):
            here.run("collect", "--json")
        here.run("status")
        app = here.app()
        here.said += [str(app.store.collection_events("market")), app.metrics.render()]
        assert here.holds(words) == []


# --- exceptions, of consumers and jobs


@FEW
@given(SECRETS, st.sampled_from([ValueError, TransientError, PermanentError, ConfigError, RuntimeError]))
def test_what_a_handler_raises_is_in_no_log_and_no_metric(secret, kind):
    """Its dead letter says why: that is data, and `dlq list` leaves it out."""
    text, words = secret
    with Place(CONFIG.format(backends="", rest="")) as here:
        app = here.app()

        def handler(body, tx):
            raise kind(f"https://user:{text}@host/ token={text} Authorization: Bearer {text}")

        configure_logging("DEBUG", "json", str(here.folder / "own.log"))
        store, clock = app.store, app.clock
        for n in range(2):
            store.publish("orders", f"k{n}", {"n": n, "password": text})
        store.relay_outbox({"orders": ["billing"]})
        consumer = Consumer("billing", "orders", handler, max_attempts=1, backoff_base_s=0, unavailable_limit_s=0)
        worker = Worker(consumer, store, app.ledger, clock, app.metrics)
        for _ in range(3):
            worker.step(ConsumeResult())
            store.db.execute("UPDATE queue SET visible_us = 0")
        measure(app)
        here.said += [app.metrics.render(), json.dumps(app.alert_book.judge(app.conditions([])))]
        here.said.append((here.folder / "own.log").read_text())
        for command in (["dlq"], ["dlq", "list"], ["status"], ["alerts"], ["heal", "list"]):
            here.run(*command)
        assert here.holds(words, but=("data/h.db",)) == []


@FEW
@given(SECRETS, st.sampled_from([ValueError, TransientError, OSError]))
def test_what_a_job_raises_is_in_no_state_and_no_alert(secret, kind):
    text, words = secret

    def work():
        raise kind(f"password={text}")

    with Place(CONFIG.format(backends="", rest="")) as here:
        configure_logging("DEBUG", "text", str(here.folder / "own.log"))
        app = here.app()
        scheduler = Scheduler([Job("work", 60, work)], app.store, app.ledger, app.clock, app.metrics)
        scheduler.run_once(scheduler.find("work"), now=True)
        states = scheduler.states()
        here.said += [str(states), app.metrics.render(), json.dumps(app.alert_book.judge(app.conditions(states)))]
        assert states[0]["failures"] == 1
        assert here.holds(words) == []


# --- the HTTP intake: headers, names and bodies


BOUNDARY = "zq"


def form(text, *, more=False):
    field = 'Content-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
    file = f'Content-Disposition: form-data; name="files"; filename="token={text.replace("/", "")}.txt"\r\n\r\n'
    parts = [
        field.format("batch_id", "b1"),
        *([field.format("password", text)] if more else []),
        f"{file}password={text} {'x' * 60}\r\n",
    ]
    return "".join(f"--{BOUNDARY}\r\n{part}" for part in parts) + f"--{BOUNDARY}--\r\n"


@settings(FEW, max_examples=1)
@given(SECRETS)
def test_no_secret_of_a_request_is_in_a_log_an_answer_or_a_metric(secret):
    """Names and bodies of files are data: they are in the store and nowhere else."""
    text, words = secret
    rest = '[serve]\ntoken_env = "SERVE_TOKEN"\nmin_free_bytes = 0\n'
    with Place(CONFIG.format(backends="", rest=rest), {"SERVE_TOKEN": f"token-{text}"}) as here:
        configure_logging("DEBUG", "json", str(here.folder / "own.log"))
        app, statuses = here.app(), []
        assert app.store.status_counts() == {}  # makes the store's folder
        with open_intake(app, 0) as intake:
            url = urlsplit(intake.url)
            for more in (
                {},
                {"Authorization": f"Bearer wrong-{text}"},
                {"Authorization": f"Bearer token-{text}", "Idempotency-Key": f"password={text}", "Cookie": text},
                {"Authorization": f"Bearer token-{text}", "Content-Type": f"text/{text}"},
                {"Authorization": f"Bearer token-{text}", "X-Correlation-ID": f"token {text}"},
                {"Authorization": f"Bearer token-{text}", "Origin": f"https://user:{text}@evil.example"},
                {"Authorization": f"Bearer token-{text}", "Content-Length": f"token {text}"},
            ):
                connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
                headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", **more}
                is_good = "Idempotency-Key" in more
                path = "/v1/files/batch" if is_good else f"/v1/files/batch?token={text}"
                connection.request("POST", path, form(text, more=not is_good).encode(), headers)
                answer = connection.getresponse()
                statuses.append(answer.status)
                here.said += [answer.read().decode(), str(answer.getheaders())]
                connection.close()
        assert statuses[:2] == [401, 401]
        assert 202 in statuses, here.said[4][:600]
        measure(app)
        here.said.append(app.metrics.render())
        for command in (["status"], ["dlq"], ["dlq", "list"]):
            here.run(*command)
        assert here.holds(words, but=("data/h.db", "data/objects")) == []


# --- reloading, and what the library raises


@FEW
@given(SECRETS)
def test_a_reload_that_fails_quotes_nothing(secret):
    text, words = secret
    with Place(CONFIG.format(backends="", rest="")) as here, IntakeServer(None) as intake:
        configure_logging("DEBUG", "text", str(here.folder / "own.log"))
        app = here.app()
        for line in (f'[serve]\nport = "redis://u:{text}@h"', f'password = "{text}', '[serve]\ntoken_env = "SHORT"'):
            (here.folder / "headgate.toml").write_text(line)
            with mock.patch.dict(os.environ, {"SHORT": text[:12]}):
                apply_again(app, intake, lambda: load(here.folder / "headgate.toml"))
        assert (here.folder / "own.log").read_text().count("not reloaded") == 3
        assert here.holds(words) == []


@FEW
@given(SECRETS)
@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster", "rediss+cluster", "dynamodb", "memcached"])
def test_no_error_of_a_ledger_s_url_quotes_it(scheme, secret):
    text, words = secret
    said = ""
    for rest in ("127.0.0.1:1", "127.0.0.1:x", "127.0.0.1:1/0?pool_size=x", "127.0.0.1:1?nothing=1", "[::1"):
        try:
            Ledger.open(f"{scheme}://user:{text}@{rest}")
        except (HeadgateError, ImportError) as error:
            said += "".join(traceback.format_exception(error)) + repr(error)
    assert [word for word in words if word in said] == []


def test_rules_of_the_intake_quote_no_token():
    with Place(
        CONFIG.format(backends="", rest='[serve]\ntoken_env = "SERVE_TOKEN"\n'), {"SERVE_TOKEN": "Zqshort9"}
    ) as here:
        try:
            limits, access = intake_rules(load(here.folder / "headgate.toml"))
            IntakeServer(None, limits=limits, access=access)
        except HeadgateError as error:
            here.said.append(str(error) + repr(error))
        assert here.said
        assert here.holds(["Zqshort9"]) == []


def test_the_search_finds_what_is_there():
    """A test that can fail: a secret that is written is found."""
    with Place("token = 'Zqfound9'") as here:
        (here.folder / "log").write_text("a Zqfound9 b")
        (here.folder / "Zqfound9.txt").touch()
        here.said.append("Zqfound9")
        assert len(here.holds(["Zqfound9"])) == 3
