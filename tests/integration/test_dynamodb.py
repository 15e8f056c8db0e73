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


# --- results, keys, forks


def test_a_result_larger_than_an_item_completes_without_it(client, world):
    ledger, _ = world
    for key, size in (("large", 500_000), ("just-too-large", 409_500)):
        assert ledger.complete(ledger.claim(key), "x" * size) is False
        found = ledger.claim(key)
        assert (found.status, found.result) == ("done", None)
    assert ledger.complete(ledger.claim("fits"), "x" * 400_000) is True
    for key, size in (("tx-large", 500_000), ("tx-just-too-large", 409_500)):
        claim = ledger.claim(key)
        assert ledger.complete_with(claim, [put(f"effect-{key}")], "x" * size) is False
        assert written(client, f"effect-{key}")  # the effect and the mark are there
        assert (ledger.claim(key).status, ledger.claim(key).result) == ("done", None)
    claim = ledger.claim("tx-user")
    with pytest.raises(InvalidInputError):  # the user's own write is too large: nothing is written
        ledger.complete_with(
            claim, [{"Put": {"TableName": "effects", "Item": {"pk": {"S": "u"}, "x": {"S": "x" * 500_000}}}}], 1
        )
    assert ledger.claim("tx-user").status == "in_progress"
    claims = ledger.claim_many(["m1", "m2", "m3"])
    assert ledger.complete_many(claims, [1, "x" * 500_000, 3]) == [True, False, True]
    assert [c.result for c in ledger.claim_many(["m1", "m2", "m3"])] == [1, None, 3]


def test_a_key_is_stored_as_it_is_as_long_as_it_fits(client, world):
    ledger, _ = world
    for key in ("k" * 2_045, "k" * 2_046):
        assert ledger.complete(ledger.claim(key), len(key)) is True
        assert ledger.claim(key).result == len(key)
    assert "Item" in client.get_item(TableName="ledger", Key={"pk": {"S": "v1:" + "k" * 2_045}})
    from headgate.backends.dynamodb import storage_key

    assert storage_key("k" * 2_046).startswith("v1#")
    assert "Item" in client.get_item(TableName="ledger", Key={"pk": {"S": storage_key("k" * 2_046)}})


def test_the_writes_and_both_keys_are_one_transaction(client):
    from headgate.backends.dynamodb import DynamoLedger

    clock = ManualClock(4_000_000_000_000_000)
    ledger = Ledger(DynamoLedger(client, "ledger", 100, clock, SystemRandom()), clock, done_ttl=100, legacy_keys=True)
    claim = ledger.claim("pair-new", legacy_key="pair-old")
    with pytest.raises(InvalidInputError, match="at most 98 writes"):
        ledger.complete_with(claim, [put(f"w{i}") for i in range(99)])
    assert ledger.complete_with(claim, [put("of-pair")], 7) is True
    assert written(client, "of-pair")
    assert [c.result for c in ledger.claim_many(["pair-new", "pair-old"])] == [7, 7]
    overtaken = ledger.claim("pair-new2", 10, legacy_key="pair-old2")
    clock.advance_us(11_000_000)
    ledger.claim("pair-old2", 10)  # a worker of before
    with pytest.raises(StaleLeaseError):
        ledger.complete_with(overtaken, [put("of-overtaken-pair")])
    assert not written(client, "of-overtaken-pair")


def test_a_lost_answer_of_a_pair_changes_nothing(dynamo_server, client):
    from botocore.config import Config

    from headgate.backends.dynamodb import DynamoLedger

    with FaultProxy(dynamo_server.port) as proxy:
        flaky = boto3.Session().client(
            "dynamodb", endpoint_url=f"http://127.0.0.1:{proxy.port}", **SECRET,
            config=Config(retries={"max_attempts": 3, "mode": "standard"}),
        )  # fmt: skip
        clock = ManualClock(4_000_000_000_000_000)
        native = DynamoLedger(flaky, "ledger", 100, clock, SystemRandom(), fence=True)
        ledger = Ledger(native, clock, done_ttl=100, legacy_keys=True)
        first = ledger.claim("lost-fence").fence
        for key in ("lost-fence-2", "lost-fence-3"):
            proxy.lose_answers()
            claim = ledger.claim(key)
            assert (claim.status, claim.attempts) == ("acquired", 1)
            assert type(claim.fence) is int
        assert type(first) is int
        plain = Ledger(DynamoLedger(flaky, "ledger", 100, clock, SystemRandom()), clock, legacy_keys=True)
        proxy.lose_answers()
        claim = plain.claim("lost-pair", legacy_key="lost-pair-old")
        assert (claim.status, claim.attempts) == ("acquired", 1)
        proxy.lose_answers()
        plain.release(claim, counted=False)
        again = plain.claim("lost-pair", legacy_key="lost-pair-old")
        assert (again.status, again.attempts) == ("acquired", 1)


def test_a_fence_outlives_its_item(client):
    from headgate.backends.dynamodb import DynamoLedger

    clock = ManualClock(4_000_000_000_000_000)
    ledger = Ledger(DynamoLedger(client, "ledger", 100, clock, SystemRandom(), fence=True), clock, done_ttl=100)
    found = []
    for _ in range(3):
        claim = ledger.claim("fenced")
        ledger.complete(claim)
        item = client.get_item(TableName="ledger", Key={"pk": {"S": "v1:fenced"}})["Item"]
        assert int(item["ttl"]["N"]) == int(item["expires"]["N"]) // 1_000_000 + 86_400
        client.delete_item(TableName="ledger", Key={"pk": {"S": "v1:fenced"}})  # as its time to live does
        found.append(claim.fence)
    assert found == sorted(set(found))


def test_a_number_taken_too_early_is_not_used(client):
    """Between the number and the claim another owner came, with a later number; or this machine slept."""
    from headgate.backends.dynamodb import DynamoLedger

    clock = ManualClock(4_000_000_000_000_000)
    native = DynamoLedger(client, "ledger", 100, clock, SystemRandom(), fence=True)
    ledger, other = (
        Ledger(native, clock),
        Ledger(DynamoLedger(client, "ledger", 100, clock, SystemRandom(), fence=True), clock),
    )
    real, passed = native._next_number, []

    def number(key):
        taken = real(key)
        if not passed:
            claim = other.claim("raced")
            passed.append(claim.fence)
            other.release(claim, "boom")
        return taken

    native._next_number = number
    claim = ledger.claim("raced")
    assert claim.fence > passed[0]
    assert claim.attempts == 2
    ages = iter([0, 3_601, 3_601, 3_602])
    native._age = lambda: next(ages)
    slept = ledger.claim("slept")
    assert (slept.status, slept.attempts) == ("acquired", 1)
    assert list(ages) == []


def test_a_ledger_opened_by_url_works_in_a_child(dynamo_server, client, monkeypatch):
    import asyncio
    import sys
    from pathlib import Path

    from headgate.idempotency import AsyncLedger

    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
    from test_ledger import in_child

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "local")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "local")
    ledger = Ledger.open(f"dynamodb://ledger?endpoint={dynamo_server.endpoint}&region=us-east-1")
    assert in_child(lambda: ledger.claim("forked-1").status) == "acquired"
    assert ledger.claim("forked-1").status == "in_progress"
    claims = ledger.claim_many([f"forked-m{i}" for i in range(20)])  # the parent's threads exist
    assert in_child(lambda: [c.status for c in ledger.claim_many([f"forked-m{i}" for i in range(3)])]) == str(
        ["in_progress"] * 3
    )
    ledger.complete_many(claims, list(range(20)))
    asynchronous = AsyncLedger(ledger)
    assert asyncio.run(asynchronous.claim("forked-m3")).result == 3
    assert in_child(lambda: asyncio.run(asynchronous.claim("forked-m3")).result) == "3"


def test_an_injected_client_in_use_says_what_to_do_in_a_child(client):
    import sys
    from pathlib import Path

    from headgate.backends.dynamodb import DynamoLedger

    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
    from test_ledger import in_child

    clock = ManualClock(4_000_000_000_000_000)
    fresh = boto3.Session().client("dynamodb", endpoint_url=client.meta.endpoint_url, **SECRET)
    ledger = Ledger(DynamoLedger(fresh, "ledger", 100, clock, SystemRandom()), clock)
    assert in_child(lambda: ledger.claim("injected").status) == "acquired"
    assert ledger.claim("injected").status == "in_progress"
    assert in_child(lambda: ledger.claim("injected").status).startswith(
        "ForkedError: this DynamoDB client was in use before"
    )
