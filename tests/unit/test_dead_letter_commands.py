"""`headgate dlq`, `headgate ledger` and `headgate inbox` without processes of their own."""

from __future__ import annotations

import json
import sys
import types

import pytest

from headgate._core import SystemClock
from headgate.backends.local import LocalDatabase, LocalStore
from headgate.cli import main
from headgate.errors import TransientError
from headgate.ports import DeadLetter, Published, Refusal

CONFIG = """
[backends]
store = "sqlite:///h.db"
durability = "normal"
[consumers.here]
topic = "orders"
[consumers.far]
queue = "sqs://queue/1/q?region=us-east-1"
effects = "plain"
[consumers.stream]
queue = "kafka://b:9092?client.id=x"
effects = "plain"
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "headgate.toml").write_text(CONFIG)

    def command(*words):
        code = main([*words])
        out, err = capsys.readouterr()
        return code, out, err

    return command


@pytest.fixture
def store(tmp_path):
    return LocalStore(LocalDatabase(str(tmp_path / "h.db"), durability="normal"), SystemClock(), "market")


def test_nothing_of_a_letter_reaches_the_terminal_unescaped(run, store):
    store.add_dead_letters([
        DeadLetter(
            "consume", "here", "orders", "attempts_exhausted", "ValueError: \x1b[2J", '{"a":"\x1b]0;title\x07"}', None,
            "\x1b[31mkey\x9b", {"x\x1b": "y\r\n"}, 5, "m\x00",
        )
    ])  # fmt: skip
    for more in ((), ("--body",), ("--json",), ("--json", "--body")):
        code, out, _ = run("dlq", "show", "1", *more)
        assert code == 0
        assert all(c == "\n" or c.isprintable() for c in out), out
    _, out, _ = run("dlq", "show", "1", "--body")
    assert "key         \\x1b[31mkey\\x9b\n" in out
    assert json.loads(run("dlq", "show", "1", "--json", "--body")[1])["headers"] == {"x\x1b": "y\r\n"}


@pytest.mark.usefixtures("queues")
def test_announcements_set_aside_are_counted_shown_and_sent_back_once(run, store):
    class Refusing:
        def publish(self, announcements):
            return Published([], {a.row: Refusal("message_too_large", "300000 bytes") for a in announcements})

    store.publish("orders", "k1", {"n": 1})
    store.publish("orders", "k2", {"n": 2})
    store.publish_outbox(Refusing())
    assert json.loads(run("dlq")[1])[0] == {
        "stage": "outbox", "pipeline": "market", "kind": "message_too_large", "letters": 2, "seen": 2,
    }  # fmt: skip
    assert len(json.loads(run("dlq", "list", "--stage", "outbox", "--limit", "1")[1])) == 1
    assert "reason      300000 bytes\n" in run("dlq", "show", "2")[1]
    assert json.loads(run("dlq", "redrive", "--stage", "outbox")[1]) == {"outbox": 2}
    assert json.loads(run("dlq", "redrive", "--stage", "outbox")[1]) == {"outbox": 0}
    assert store.unsent_count() == 2
    for words, expected in (
        (("here", "--stage", "outbox"), "announcements belong to no consumer"),
        (("--stage", "intake"), "expected `headgate replay`"),
        (("--limit", "0"), "--limit: expected 1 or more, got 0"),
    ):
        code, _, err = run("dlq", "redrive", *words)
        assert (code, expected in err) == (1, True), err


@pytest.fixture
def queues(monkeypatch):
    """Stand-ins for the readers of Kafka's and SQS's dead letters."""
    calls = []
    kafka = types.ModuleType("headgate.cli._dlq_kafka")
    kafka.list_letters = lambda app, name, config, *, limit: calls.append(("list", name, limit)) or [
        {"id": "0-1", "kind": "invalid_json", "reason": "secret"}, {"id": "0-2", "kind": "attempts_exhausted"},
    ]  # fmt: skip
    kafka.show_letter = lambda app, name, config, ident: {"id": ident, "topic": config.topic, "body": None}
    kafka.count_letters = lambda app, name, config: {"invalid_json": 4, "attempts_exhausted": 1}
    kafka.redrive = lambda app, name, config, *, limit: 3
    sqs = types.ModuleType("headgate.cli._dlq_sqs")
    answers = {"list": [{"message_id": "m", "kind": "invalid_json", "reason": "secret"}], "redrive": {"far": 2}}
    sqs.dlq_sqs = lambda app, action, name, limit=100, message_id="": (
        calls.append((action, name, limit)) or answers.get(action, {"message_id": message_id, "body": "the body"})
    )
    sqs.count_letters = lambda app, name: ("https://queue/1/dead", 7)
    monkeypatch.setitem(sys.modules, "headgate.cli._dlq_kafka", kafka)
    monkeypatch.setitem(sys.modules, "headgate.cli._dlq_sqs", sqs)
    return calls


def test_consumers_on_kafka_and_sqs_have_their_own_letters(run, queues):
    assert json.loads(run("dlq", "list", "stream", "--limit", "7")[1]) == [
        {"id": "0-1", "kind": "invalid_json"}, {"id": "0-2", "kind": "attempts_exhausted"},
    ]  # fmt: skip
    assert json.loads(run("dlq", "list", "stream", "--kind", "invalid_json")[1]) == [
        {"id": "0-1", "kind": "invalid_json"}
    ]
    assert json.loads(run("dlq", "list", "far")[1]) == [{"message_id": "m", "kind": "invalid_json"}]
    assert "body   0 bytes" in run("dlq", "show", "0-1", "--consumer", "stream")[1]
    assert "body        the body\n" in run("dlq", "show", "m", "--consumer", "far", "--body")[1]
    assert json.loads(run("dlq", "redrive", "stream")[1]) == {"stream": 3}
    assert json.loads(run("dlq", "redrive", "far", "--limit", "9")[1]) == {"far": 2}
    assert queues == [
        ("list", "stream", 7),
        ("list", "stream", 100),
        ("list", "far", 100),
        ("show", "far", None),
        ("redrive", "far", 9),
    ]


def letters(name, kind, count):
    return {"stage": "consume", "pipeline": name, "kind": kind, "letters": count, "seen": count}


def test_counts_are_of_all_queues_that_the_configuration_names(run, store, queues, tmp_path):
    """Without a name the counts were those of the store alone, and a full queue on SQS was "[]"."""
    store.add_dead_letters([DeadLetter("consume", "here", "orders", "invalid_json", "why", "{}")])
    elsewhere = [
        letters("far", None, 7),
        letters("stream", "attempts_exhausted", 1),
        letters("stream", "invalid_json", 4),
    ]
    code, out, err = run("dlq")
    assert (code, json.loads(out), err) == (0, [letters("here", "invalid_json", 1), *elsewhere], "")
    # Two consumers that share a dead-letter queue share its count.
    more = '[consumers.other]\nqueue = "sqs://queue/1/p?region=us-east-1"\neffects = "plain"\n'
    (tmp_path / "headgate.toml").write_text(CONFIG + more)
    assert letters("far, other", None, 7) in json.loads(run("dlq")[1])


def test_what_was_not_counted_is_named(run, store, queues, tmp_path):
    def away(*_):
        raise TransientError("redis://u:sesame@h is away")

    sys.modules["headgate.cli._dlq_sqs"].count_letters = away
    (tmp_path / "headgate.toml").write_text(CONFIG + '[consumers.odd]\nqueue = "amqp://h"\neffects = "plain"\n')
    code, out, err = run("dlq")
    assert code == 1
    assert [row["pipeline"] for row in json.loads(out)] == ["stream", "stream"]
    assert err.splitlines() == [
        "headgate: dlq: not counted: far: redis://u:****@h is away [unavailable]",
        "headgate: dlq: not counted: odd: consumers.odd.queue: expected kafka:// or sqs://, got 'amqp://h' [config]",
    ]


@pytest.mark.parametrize(("action", "what"), [("list", "not listed"), ("redrive", "not sent back")])
def test_what_an_action_leaves_out_is_named(run, queues, action, what):
    code, _, err = run("dlq", action)
    expected = f"headgate: dlq {action}: {what}: letters in queues of their own, of far, stream; name one\n"
    assert (code, err) == (0, expected)
    assert queues == []
    assert run("dlq", action, "here")[2] == ""


def test_the_tables_of_users_are_where_they_look(run):
    code, out, _ = run("inbox", "ddl", "postgresql", "--table", "app.seen")
    assert (code, out) == (
        0,
        "CREATE TABLE IF NOT EXISTS app.seen (id CHAR(67) PRIMARY KEY, created_s BIGINT NOT NULL);\n",
    )
    assert "CHARACTER SET ascii" in run("inbox", "ddl", "mysql")[1]
    code, _, err = run("ledger", "create-table", "redis://localhost")
    assert (code, "expected dynamodb://table, got redis://" in err) == (1, True)
    code, _, err = run("ledger", "create-table", "dynamodb://t?zone=1")
    assert (code, "unknown option 'zone'" in err) == (1, True)


def test_a_ledgers_table_is_made_once(run, dynamo_server, monkeypatch):
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "local")
    from headgate import Ledger
    from headgate.idempotency import create_ledger_table

    url = f"dynamodb://made?region=us-east-1&endpoint={dynamo_server.endpoint}"
    assert run("ledger", "create-table", url)[:2] == (0, "made made\n")
    code, _, err = run("ledger", "create-table", url)
    assert (code, "there is a DynamoDB table made already" in err) == (1, True)
    assert Ledger.open(url).claim("k").status == "acquired"
    create_ledger_table(
        boto3.client("dynamodb", region_name="us-east-1", endpoint_url=dynamo_server.endpoint), "by-hand"
    )
