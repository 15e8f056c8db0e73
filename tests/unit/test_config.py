from __future__ import annotations

import tomllib

import pytest

from headgate.config import Config, default_toml, load
from headgate.errors import ConfigError, Kind


def write(tmp_path, text):
    path = tmp_path / "headgate.toml"
    path.write_text(text)
    return path


def test_defaults_for_everything(tmp_path):
    config = load(write(tmp_path, ""), {})
    assert config.resilience.timeout_s == 10
    assert config.healing.threshold_hours == 1
    assert config.sources == {}


def test_the_written_file_reads_back_as_the_defaults(tmp_path):
    config = load(write(tmp_path, default_toml()), {})
    plain = Config()
    for section in ("backends", "resilience", "collection", "healing", "clock", "logging"):
        assert getattr(config, section) == getattr(plain, section)
    assert list(config.sources) == ["tiingo", "finnhub"]
    assert tomllib.loads(default_toml())["format"] == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[resilience]\ntimeout_s = 'ten'", "resilience.timeout_s: expected a number from 0.05 to 60, got 'ten'"),
        ("[resilience]\ntimeout_s = 61", "resilience.timeout_s: expected a number from 0.05 to 60, got 61"),
        ("[resilience]\nfailure_threshold = 2.5", "resilience.failure_threshold: expected a whole number"),
        ("[resilience]\nfailure_threshold = true", "expected a whole number from 1 to 1000, got True"),
        ("[resilence]\ntimeout_s = 1", "resilence: unknown key; did you mean 'resilience'?"),
        ("[sources.tiingo]\nprio = 1", "sources.tiingo.prio: unknown key; did you mean 'priority'?"),
        ("[healing]\nenabled = 1", "healing.enabled: expected true or false, got 1"),
        ("[collection]\ntickers = 'AAPL'", "collection.tickers: expected a list of strings, got 'AAPL'"),
        ("[collection]\ntickers = [1]", "collection.tickers: expected a list of strings"),
        ("[checkpoints.v]\nmode = 'fast'", "checkpoints.v.mode: expected one of ledger, watermark, got 'fast'"),
        ("sources = 3", "sources: expected a table, got 3"),
        ("[sources]\ntiingo = 3", "sources.tiingo: expected a table, got 3"),
        ("format = 2", "format: this headgate reads format 1, got 2"),
        ("a = [", "is not valid TOML"),
    ],
)
def test_errors_name_file_key_and_expectation(tmp_path, text, expected):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    message = str(caught.value)
    assert expected in message
    assert str(path) in message
    assert "\n" not in message


def test_a_missing_file_says_how_to_get_one(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing.toml does not exist; `headgate init` writes one"):
        load(tmp_path / "nothing.toml", {})


def test_newer_formats_are_told_apart(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, "format = 9"), {})
    assert caught.value.kind is Kind.UNSUPPORTED_VERSION


def test_environment_overrides(tmp_path):
    path = write(tmp_path, "[sources.tiingo]\npriority = 2")
    environment = {
        "HEADGATE__SOURCES__TIINGO__TIMEOUT_S": "5",
        "HEADGATE__COLLECTION__TICKERS": "IBM, ORCL",
        "SELF_HEALING_ENABLED": "false",
        "SELF_HEALING_THRESHOLD_HOURS": "0.5",
        "FAILOVER_TIMEOUT_SECONDS": "7",
        "UNRELATED": "x",
    }
    config = load(path, environment)
    assert config.sources["tiingo"].timeout_s == 5
    assert config.sources["tiingo"].priority == 2
    assert config.collection.tickers == ["IBM", "ORCL"]
    assert (config.healing.enabled, config.healing.threshold_hours) == (False, 0.5)
    assert config.resilience.timeout_s == 7
    with pytest.raises(ConfigError, match="resilience.timeout_s: expected a number"):
        load(path, {"FAILOVER_TIMEOUT_SECONDS": "soon"})
    with pytest.raises(ConfigError, match="unknown key"):
        load(path, {"HEADGATE__NONSENSE": "1"})


def test_relative_paths_start_at_the_file(tmp_path):
    config = load(write(tmp_path, ""), {})
    assert config.locate("file://objects") == f"file://{tmp_path}/objects"
    assert config.locate("sqlite:///a.db") == f"sqlite:///{tmp_path}/a.db"
    assert config.locate("sqlite:////abs/a.db") == "sqlite:////abs/a.db"
    assert config.locate("out.parquet") == f"{tmp_path}/out.parquet"
    assert config.locate("s3://bucket/key") == "s3://bucket/key"


def test_every_option_of_a_consumer_reaches_it(tmp_path, monkeypatch):
    from headgate.wiring import App

    (tmp_path / "own_options.py").write_text(
        "def handle(body): ...\ndef key(body): return 'k'\ndef payload(body): return body\ndef keep(result): return 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    options = {
        "event_type": "order.created", "namespace": "shop", "tombstones": "skip", "backoff_base_s": 2.0,
        "backoff_cap_s": 9.0, "unavailable_limit_s": 60.0, "max_message_bytes": 1000, "effects": "plain",
    }  # fmt: skip
    functions = {"handler": "handle", "key": "key", "payload": "payload", "serializer": "keep"}
    lines = [f"{name} = {value!r}" for name, value in options.items()]
    lines += [f"{name} = 'own_options:{function}'" for name, function in functions.items()]
    config = load(write(tmp_path, "[consumers.c]\n" + "\n".join(lines) + "\n"), {})
    worker = App(config).worker("c")
    assert {name: getattr(worker.consumer, name) for name in options} == options
    import own_options

    assert {name: getattr(worker.consumer, name) for name in functions} == {
        name: getattr(own_options, function) for name, function in functions.items()
    }


def test_an_option_of_a_consumer_that_cannot_be_loaded_is_named(tmp_path):
    from headgate.wiring import App

    config = load(write(tmp_path, "[consumers.c]\nserializer = 'nowhere:at_all'\n"), {})
    with pytest.raises(ConfigError, match=r"consumers\.c\.serializer: cannot load 'nowhere:at_all'"):
        App(config).worker("c")


def test_a_relay_counts_what_waits_and_what_is_set_aside(tmp_path):
    from headgate.ports import Published, Refusal
    from headgate.wiring import App

    class Half:
        def publish(self, announcements):
            refused = {a.row: Refusal("message_too_large", "large") for a in announcements if a.key == "large"}
            return Published([a.row for a in announcements if a.key == "small"], refused)

    app = App(load(write(tmp_path, "[backends]\nstore = 'sqlite:///h.db'\nnotify = 'kafka://b:9092'\n"), {}))
    app.publisher = Half()
    for key in ("large", "small", "waits"):
        app.store.publish("orders", key, {})
    assert app.relay() == 1
    assert app.metrics.value("headgate_outbox_unsent") == 1
    assert app.metrics.value("headgate_outbox_set_aside_total", reason="message_too_large") == 1


def test_the_ledger_counts_with_the_apps_metrics(tmp_path, monkeypatch):
    from headgate import Ledger
    from headgate.wiring import App

    monkeypatch.setattr(Ledger, "metrics", None, raising=False)
    app = App(load(write(tmp_path, "[backends]\nstore = 'sqlite:///h.db'\n"), {}))
    assert app.ledger.metrics is app.metrics
