"""DynamoDB: the user's writes and the completion are one transaction; errors are named."""

from __future__ import annotations

import pytest

from headgate import Ledger, StaleLeaseError
from headgate._core import ManualClock, SystemRandom
from headgate.errors import ConfigError, ConflictError, InvalidInputError, TransientError
from headgate.testing.proxy import FaultProxy

boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
SECRET = {"aws_access_key_id": "local", "aws_secret_access_key": "local", "region_name": "us-east-1"}


@pytest.fixture
def client(dynamo_server):
    from headgate.backends.dynamodb import create_ledger_table

    client = boto3.Session().client("dynamodb", endpoint_url=dynamo_server.endpoint, **SECRET)
    if not client.list_tables()["TableNames"].count("effects"):
        create_ledger_table(client, "ledger")
        create_ledger_table(client, "effects")
    return client


@pytest.fixture
def world(client):
    from headgate.backends.dynamodb import DynamoLedger

    clock = ManualClock(4_000_000_000_000_000)
    return Ledger(DynamoLedger(client, "ledger", 100, clock, SystemRandom()), clock, done_ttl=100), clock


def put(key, **condition):
    return {"Put": {"TableName": "effects", "Item": {"pk": {"S": key}}, **condition}}


def written(client, key):
    return "Item" in client.get_item(TableName="effects", Key={"pk": {"S": key}})


def test_effect_and_completion_are_one_transaction(client, world):
    ledger, clock = world
    a = ledger.claim("tx", 10)
    clock.advance_us(11_000_000)
    b = ledger.claim("tx", 10)
    with pytest.raises(StaleLeaseError):
        ledger.complete_with(a, [put("of-a")], "a")
    assert not written(client, "of-a")
    ledger.complete_with(b, [put("of-b"), put("of-b-too")], {"n": 2})
    assert written(client, "of-b")
    ledger.complete_with(b, [put("of-b"), put("of-b-too")], {"n": 2})  # its answer was lost
    assert ledger.claim("tx").result == {"n": 2}


def test_a_condition_of_the_user_keeps_everything_back(client, world):
    ledger, _ = world
    claim = ledger.claim("conditional")
    client.put_item(TableName="effects", Item={"pk": {"S": "there"}})
    once = {"ConditionExpression": "attribute_not_exists(pk)"}
    with pytest.raises(ConflictError, match="write 1"):
        ledger.complete_with(claim, [put("new"), put("there", **once)])
    assert not written(client, "new")
    ledger.complete_with(claim, [put("new")])
    assert ledger.claim("conditional").status == "done"


def test_limits_are_named(world):
    ledger, _ = world
    claim = ledger.claim("limits")
    with pytest.raises(InvalidInputError, match="99"):
        ledger.complete_with(claim, [put(f"w{i}") for i in range(100)])
    with pytest.raises(InvalidInputError):
        ledger.complete_with(claim, [put("twice"), put("twice")])
    memory = Ledger.open("memory://")
    with pytest.raises(InvalidInputError, match="dynamodb://"):
        memory.complete_with(memory.claim("k"), [])


def test_a_lost_answer_changes_nothing(dynamo_server, client):
    from botocore.config import Config

    from headgate.backends.dynamodb import DynamoLedger

    with FaultProxy(dynamo_server.port) as proxy:
        flaky = boto3.Session().client(
            "dynamodb", endpoint_url=f"http://127.0.0.1:{proxy.port}", **SECRET,
            config=Config(retries={"max_attempts": 3, "mode": "standard"}),
        )  # fmt: skip
        clock = ManualClock(4_000_000_000_000_000)
        ledger = Ledger(DynamoLedger(flaky, "ledger", 100, clock, SystemRandom()), clock, done_ttl=100)
        ledger.claim("warm up")
        proxy.lose_answers()
        claim = ledger.claim("lost")
        assert (claim.status, claim.attempts) == ("acquired", 1)
        proxy.lose_answers()
        ledger.complete_with(claim, [put("lost-effect")], 1)
        assert written(client, "lost-effect")
        assert ledger.claim("lost").result == 1


def test_errors_are_named(dynamo_server, client, world, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "local")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "local")
    place = f"endpoint={dynamo_server.endpoint}&region=us-east-1"
    with pytest.raises(ConfigError, match="no such DynamoDB table"):
        Ledger.open(f"dynamodb://nothing?{place}").claim("k")
    with pytest.raises(ConfigError, match="needs a name"):
        Ledger.open("dynamodb://")
    with pytest.raises(ConfigError, match="profile"):
        Ledger.open(f"dynamodb://ledger?{place}&profile=nobody")
    with pytest.raises(TransientError):
        Ledger.open("dynamodb://ledger?endpoint=http://127.0.0.1:9&region=us-east-1").claim("k")
    assert world[0].warnings() == []
    client.create_table(
        TableName="bare", BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
    )  # fmt: skip
    assert "for ever" in Ledger.open(f"dynamodb://bare?{place}").warnings()[0]
