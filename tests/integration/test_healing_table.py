"""The sweep of a table with keys (source_id, timestamp), a by_status index of keys alone, and an SNS topic."""

from __future__ import annotations

import json
import logging
from decimal import Decimal

import boto3
import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from moto import mock_aws

from headgate import healing
from headgate._core import ManualClock, format_timestamp
from headgate.healing import (
    get_full_items,
    query_stale_pending_items,
    republish_items_to_sns,
    run_self_healing_check,
)

HOUR = 3_600_000_000
NOW = 1_770_000_000_000_000
NAME = "test-sentiment-items"


@pytest.fixture
def aws(monkeypatch):
    for name, value in {
        "AWS_ACCESS_KEY_ID": "t",
        "AWS_SECRET_ACCESS_KEY": "t",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        yield


@pytest.fixture
def table(aws):
    return make_table(boto3.resource("dynamodb"))


def make_table(resource, name=NAME, projection="KEYS_ONLY"):
    made = resource.create_table(
        TableName=name, BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "source_id", "KeyType": "HASH"}, {"AttributeName": "timestamp", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": n, "AttributeType": "S"} for n in ("source_id", "timestamp", "status")],
        GlobalSecondaryIndexes=[{
            "IndexName": "by_status", "Projection": {"ProjectionType": projection},
            "KeySchema": [{"AttributeName": "status", "KeyType": "HASH"}, {"AttributeName": "timestamp", "KeyType": "RANGE"}],
        }],
    )  # fmt: skip
    made.wait_until_exists()
    return made


class Inbox:
    """An SNS topic whose messages end in an SQS queue."""

    def __init__(self):
        self.sns, self.sqs = boto3.client("sns"), boto3.client("sqs")
        self.arn = self.sns.create_topic(Name="test-sentiment-analysis-requests")["TopicArn"]
        self.url = self.sqs.create_queue(QueueName="analysis")["QueueUrl"]
        queue = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        self.sns.subscribe(TopicArn=self.arn, Protocol="sqs", Endpoint=queue)

    def drain(self):
        found = []
        while messages := self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                envelope = json.loads(message["Body"])
                attributes = {k: v["Value"] for k, v in envelope["MessageAttributes"].items()}
                found.append((json.loads(envelope["Message"]), attributes))
                self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
        return found


@pytest.fixture
def inbox(aws):
    return Inbox()


@pytest.fixture
def clock():
    return ManualClock(NOW)


def iso(ago_us):
    return format_timestamp(NOW - ago_us)


def put(table, number, ago_us=2 * HOUR, **more):
    item = {
        "source_id": f"finnhub:{number:06d}", "timestamp": iso(ago_us), "status": "pending", "source_type": "finnhub",
        "text_for_analysis": f"Headline {number}. Summary.", "matched_tickers": ["ABC"], **more,
    }  # fmt: skip
    item = {k: v for k, v in item.items() if v is not None}
    with table.batch_writer() as batch:
        batch.put_item(Item=item)
    return item


def put_many(table, count, ago_us=2 * HOUR, start=0, **more):
    with table.batch_writer() as batch:
        for n in range(start, start + count):
            batch.put_item(Item={
                "source_id": f"finnhub:{n:06d}", "timestamp": iso(ago_us - n * 1_000_000), "status": "pending",
                "source_type": "finnhub", "text_for_analysis": f"Headline {n}.", "matched_tickers": ["ABC"], **more,
            })  # fmt: skip


def read(table, item):
    return table.get_item(Key={k: item[k] for k in ("source_id", "timestamp")}, ConsistentRead=True)["Item"]


def sweep(table, inbox, clock, client=None, **more):
    return run_self_healing_check(table, client or inbox.sns, inbox.arn, "v1.0.0", clock=clock, **more)


def test_no_stale_items(table, clock):
    assert query_stale_pending_items(table, 1, 100, clock=clock) == []


def test_keys_are_pairs_and_mappings_oldest_first(table, clock):
    for number, ago in ((1, 2 * HOUR), (2, 5 * HOUR), (3, 3 * HOUR), (4, HOUR // 2)):
        put(table, number, ago)
    keys = query_stale_pending_items(table, 1, 100, clock=clock)
    assert keys == [
        ("finnhub:000002", iso(5 * HOUR)),
        ("finnhub:000003", iso(3 * HOUR)),
        ("finnhub:000001", iso(2 * HOUR)),
    ]
    assert dict(keys[0]) == {"source_id": "finnhub:000002", "timestamp": iso(5 * HOUR)}
    assert keys[0]["source_id"] == keys[0].get("source_id") == "finnhub:000002"
    assert len(query_stale_pending_items(table, 1, 2, clock=clock)) == 2
    full = get_full_items(table, keys)
    assert [item["text_for_analysis"] for item in full] == [
        "Headline 2. Summary.",
        "Headline 3. Summary.",
        "Headline 1. Summary.",
    ]
    assert get_full_items(table, [dict(keys[1])]) == get_full_items(table, [tuple(keys[1])]) == full[1:2]


@pytest.mark.parametrize("projection", ["KEYS_ONLY", "ALL"])
def test_items_with_a_sentiment_are_left_out(aws, clock, projection):
    table = make_table(boto3.resource("dynamodb"), f"t-{projection}", projection)
    put(table, 1, sentiment="positive")
    put(table, 2)
    keys = query_stale_pending_items(table, 1, 100, clock=clock)
    assert [key[0] for key in keys] == ["finnhub:000002"]
    assert [i["source_id"] for i in get_full_items(table, [("finnhub:000001", iso(2 * HOUR)), *keys])] == [
        "finnhub:000002"
    ]


@pytest.mark.parametrize(("ago", "is_stale"), [(HOUR - 1, False), (HOUR, True), (HOUR + 1, True)])
def test_the_boundary_is_the_threshold_itself(table, clock, ago, is_stale):
    put(table, 1, ago)
    assert len(query_stale_pending_items(table, 1, 100, clock=clock)) == is_stale


@pytest.mark.parametrize("form", ["{}Z", "{}+00:00", "{}", "{}.000000Z"])
def test_other_forms_of_the_same_time(table, clock, form):
    put(table, 1, timestamp=form.format(iso(HOUR)[:19]))
    put(table, 2, timestamp=form.format(iso(HOUR - 1_000_000)[:19]))
    assert [k[0] for k in query_stale_pending_items(table, 1, 100, clock=clock)] == ["finnhub:000001"]


def test_age_counts_from_ingestion(table, inbox, clock):
    put(table, 1, 48 * HOUR, ingested_at=iso(10_000_000))  # an old article that came ten seconds ago
    put(table, 2, -24 * HOUR, ingested_at=iso(2 * HOUR))  # dated tomorrow, here for two hours
    result = sweep(table, inbox, clock)
    assert (result.items_found, result.items_republished, result.errors) == (1, 1, [])
    ((body, _),) = inbox.drain()
    assert body["source_id"] == "finnhub:000002"


def test_the_message_is_the_documented_one(table, inbox, clock):
    item = put(table, 1, score=Decimal("0.5"), matched_tickers={"B", "A"})
    assert sweep(table, inbox, clock).items_republished == 1
    ((body, attributes),) = inbox.drain()
    assert body == {
        "source_id": item["source_id"], "source_type": "finnhub", "text_for_analysis": "Headline 1. Summary.",
        "model_version": "v1.0.0", "matched_tickers": ["A", "B"], "timestamp": item["timestamp"], "republished": True,
    }  # fmt: skip
    assert attributes == {"source_type": "finnhub", "republished": "true"}
    after = read(table, item)
    assert (after["status"], after["republish_attempts"], after["last_republished_at"]) == ("pending", 1, iso(0))


def test_a_republication_is_known_as_what_it_repeats(table, inbox, clock):
    from headgate import default_identity

    put(table, 1)
    sweep(table, inbox, clock)
    ((body, _),) = inbox.drain()
    first = {k: v for k, v in body.items() if k != "republished"}
    assert default_identity(body) == default_identity(first)
    envelopes = [{"Type": "Notification", "MessageId": m, "TopicArn": "t", "Message": json.dumps(body)} for m in "ab"]
    assert {default_identity(e) for e in envelopes} == {default_identity(first)}
    lambda_record = {"EventSource": "aws:sns", "Sns": {"Message": json.dumps(body), "MessageId": "c"}}
    assert default_identity(lambda_record) == default_identity(first)


def test_cooldown_then_attempts_then_quarantine(table, inbox, clock):
    item = put(table, 1)
    for attempt in range(1, 6):
        assert sweep(table, inbox, clock).items_republished == 1
        assert read(table, item)["republish_attempts"] == attempt
        clock.advance_us(HOUR - 1)
        assert sweep(table, inbox, clock).items_found == 0
        clock.advance_us(1)
    result = sweep(table, inbox, clock)
    assert (result.items_found, result.items_republished, result.quarantined) == (1, 0, 1)
    after = read(table, item)
    assert (after["status"], after["quarantine_reason"]) == ("quarantined", "attempts_exhausted")
    assert len(inbox.drain()) == 5
    clock.advance_us(2 * HOUR)
    assert sweep(table, inbox, clock).items_found == 0


def test_at_most_a_batch_and_what_remains_is_said(table, inbox, clock):
    put_many(table, 250)
    counts = []
    for _ in range(4):
        result = sweep(table, inbox, clock)
        counts.append((result.items_found, result.items_republished, result.more_remaining))
    assert counts == [(100, 100, True), (100, 100, True), (50, 50, False), (0, 0, False)]
    assert len({body["source_id"] for body, _ in inbox.drain()}) == 250


class Sns:
    """A client whose `publish_batch` is judged by a function: entry -> None, or (code, sender's fault)."""

    def __init__(self, real, judge=lambda entry: None, raises=None):
        self.real, self.judge, self.raises, self.calls = real, judge, raises, []

    def publish_batch(self, **arguments):
        entries = arguments["PublishBatchRequestEntries"]
        self.calls.append([e["Id"] for e in entries])
        if self.raises is not None:
            raise self.raises
        verdicts = {e["Id"]: self.judge(e) for e in entries}
        good = [e for e in entries if verdicts[e["Id"]] is None]
        answer = (
            self.real.publish_batch(TopicArn=arguments["TopicArn"], PublishBatchRequestEntries=good) if good else {}
        )
        failed = [
            {"Id": ident, "Code": v[0], "SenderFault": v[1], "Message": "m"}
            for ident, v in verdicts.items()
            if v is not None
        ]
        return {"Successful": answer.get("Successful", []), "Failed": failed}


def numbered(*numbers):
    wanted = {f"finnhub:{n:06d}" for n in numbers}
    return lambda entry: json.loads(entry["Message"])["source_id"] in wanted


def test_two_entries_fail_in_the_middle_of_ten(table, inbox, clock, caplog):
    put_many(table, 10)
    is_bad = numbered(4, 5)
    flaky = Sns(inbox.sns, lambda e: ("InternalError", False) if is_bad(e) else None)
    with caplog.at_level(logging.WARNING, "headgate.healing"):
        result = sweep(table, inbox, clock, flaky)
    assert (result.items_found, result.items_republished, result.failed) == (10, 8, 2)
    assert [e.split(": ")[1] for e in result.errors] == ["InternalError", "InternalError"]
    logged = [r for r in caplog.records if r.message == "entry not published"]
    assert [(r.entry_id, r.error) for r in logged] == [("4", "InternalError"), ("5", "InternalError")]
    # The notifier's fault is no attempt of theirs: the next sweep sends exactly these two.
    again = sweep(table, inbox, clock)
    assert (again.items_found, again.items_republished, again.errors) == (2, 2, [])
    assert len({body["source_id"] for body, _ in inbox.drain()}) == 10
    items = table.scan()["Items"]
    assert [i["republish_attempts"] for i in items] == [1] * 10
    assert not any("publish_failed_at" in i for i in items)


def test_a_hundred_that_always_fail_keep_nobody_from_a_turn(table, inbox, clock):
    put_many(table, 250)
    is_bad = numbered(*range(100))
    flaky = Sns(inbox.sns, lambda e: ("InternalError", False) if is_bad(e) else None)
    assert [sweep(table, inbox, clock, flaky).items_republished for _ in range(3)] == [0, 100, 50]
    assert len({body["source_id"] for body, _ in inbox.drain()}) == 150
    refused = [i for i in table.scan()["Items"] if "publish_failed_at" in i]
    assert len(refused) == 100
    assert all("republish_attempts" not in i for i in refused)


def test_an_entry_that_is_its_own_fault_uses_up_its_attempts(table, inbox, clock):
    item = put(table, 1)
    put(table, 2)
    is_bad = numbered(1)
    flaky = Sns(inbox.sns, lambda e: ("InvalidParameter", True) if is_bad(e) else None)
    for _ in range(5):
        assert sweep(table, inbox, clock, flaky).failed == 1
        clock.advance_us(HOUR)
    assert sweep(table, inbox, clock, flaky).quarantined == 2
    assert read(table, item)["status"] == "quarantined"


def test_a_notifier_that_refuses_everything_changes_nothing(table, inbox, clock):
    put_many(table, 30)
    away = Sns(inbox.sns, raises=ClientError({"Error": {"Code": "Throttled"}}, "PublishBatch"))
    result = sweep(table, inbox, clock, away)
    assert (result.items_found, result.items_republished, result.failed, len(result.errors)) == (30, 0, 30, 30)
    assert len(away.calls) == 1  # further calls would fail as well
    assert not any("republish_attempts" in i for i in table.scan()["Items"])
    assert sweep(table, inbox, clock).items_republished == 30


def test_a_notifier_that_times_out_may_have_sent(table, inbox, clock):
    """No attempt is counted, and the cooldown holds: it may have arrived."""
    item = put(table, 1)
    away = Sns(inbox.sns, raises=ReadTimeoutError(endpoint_url="https://sns"))
    result = sweep(table, inbox, clock, away)
    assert (result.items_republished, [e.split(": ")[1] for e in result.errors]) == (0, ["ReadTimeoutError"])
    assert "republish_attempts" not in read(table, item)
    assert sweep(table, inbox, clock).items_found == 0
    clock.advance_us(HOUR)
    assert sweep(table, inbox, clock).items_republished == 1


def test_batches_are_cut_by_bytes_too(table, inbox, clock):
    for n in range(5):
        put(table, n, text_for_analysis="x" * 100_000)
    watched = Sns(inbox.sns)
    assert sweep(table, inbox, clock, watched).items_republished == 5
    assert [len(ids) for ids in watched.calls] == [2, 2, 1]


def test_a_message_that_is_too_large_is_quarantined_at_once(table, inbox, clock):
    item = put(table, 1, text_for_analysis="x" * 263_000)
    put(table, 2)
    result = sweep(table, inbox, clock)
    assert (result.items_found, result.items_republished, result.quarantined) == (2, 1, 1)
    assert "message_too_large" in result.errors[0]
    assert read(table, item)["quarantine_reason"] == "message_too_large"


def test_an_item_that_cannot_be_read_is_that_items_trouble(table, inbox, clock):
    put(table, 1, timestamp="never")
    put(table, 2)
    result = sweep(table, inbox, clock)
    assert (result.items_found, result.items_republished, result.failed) == (2, 1, 1)
    assert [e.split(": ")[1] for e in result.errors] == ["invalid_record"]
    for _ in range(4):
        clock.advance_us(HOUR)
        sweep(table, inbox, clock)
    clock.advance_us(HOUR)
    assert sweep(table, inbox, clock).quarantined == 2


class Watched:
    """A table that counts requests, and can act between the query and the fetch."""

    def __init__(self, table, between=None, unprocessed=0, throttle=False):
        self._table, self.requests, self.between = table, [], between
        self.unprocessed, self.throttle = unprocessed, throttle
        self.meta = self
        self.client = self
        self.key_schema, self.name = table.key_schema, table.name

    def query(self, **arguments):
        self.requests.append("query")
        if self.throttle:
            raise ClientError({"Error": {"Code": "ProvisionedThroughputExceededException"}}, "Query")
        return self._table.query(**arguments)

    def batch_get_item(self, **arguments):
        self.requests.append("batch_get_item")
        if self.between is not None:
            self.between()
        ((name, request),) = arguments["RequestItems"].items()
        assert request["ConsistentRead"] is True
        if self.unprocessed:
            keys, self.unprocessed = request["Keys"], 0
            answer = self._table.meta.client.batch_get_item(RequestItems={name: {**request, "Keys": keys[:3]}})
            return {**answer, "UnprocessedKeys": {name: {**request, "Keys": keys[3:]}}}
        return self._table.meta.client.batch_get_item(**arguments)

    def update_item(self, **arguments):
        self.requests.append("update_item")
        return self._table.update_item(**arguments)


def test_requests_no_scan_and_no_get_per_item(table, inbox, clock):
    put_many(table, 100)
    watched = Watched(table)
    sns = Sns(inbox.sns)
    assert sweep(watched, inbox, clock, sns).items_republished == 100
    counts = {name: watched.requests.count(name) for name in set(watched.requests)}
    assert counts == {"query": 1, "batch_get_item": 1, "update_item": 100}
    assert len(sns.calls) == 10


def test_an_item_analysed_between_query_and_fetch(table, inbox, clock):
    item = put(table, 1)

    def analyse():
        table.update_item(
            Key={k: item[k] for k in ("source_id", "timestamp")}, UpdateExpression="SET #s = :a, sentiment = :p",
            ExpressionAttributeNames={"#s": "status"}, ExpressionAttributeValues={":a": "analyzed", ":p": "positive"},
        )  # fmt: skip

    result = sweep(Watched(table, analyse), inbox, clock)
    assert (result.items_found, inbox.drain()) == (0, [])


def test_an_item_analysed_between_fetch_and_publish(table, inbox, clock):
    put(table, 1)

    class Late(Watched):
        def update_item(self, **arguments):
            if not self.requests.count("update_item"):
                self.requests.append("update_item")
                key = arguments["Key"]
                self._table.update_item(
                    Key=key, UpdateExpression="SET sentiment = :p", ExpressionAttributeValues={":p": "x"}
                )
            return self._table.update_item(**arguments)

    result = sweep(Late(table), inbox, clock)
    assert (result.items_found, result.items_republished, result.lost_races, inbox.drain()) == (1, 0, 1, [])


def test_unprocessed_keys_are_asked_for_again(table, inbox, clock, monkeypatch):
    monkeypatch.setattr("headgate.healing._table.time.sleep", lambda _: None)
    put_many(table, 10)
    watched = Watched(table, unprocessed=1)
    assert sweep(watched, inbox, clock).items_republished == 10
    assert watched.requests.count("batch_get_item") == 2


def test_a_throttled_table_is_an_error_in_the_result(table, inbox, clock):
    put(table, 1)
    result = sweep(Watched(table, throttle=True), inbox, clock)
    assert (result.items_found, result.errors) == (0, ["unavailable"])


def test_an_empty_topic_is_an_error(table, inbox, clock):
    put(table, 1)
    for topic in ("", " ", None):
        result = run_self_healing_check(table, inbox.sns, topic, "v1.0.0", clock=clock)
        assert (result.items_republished, result.errors) == (0, ["config"])
    with pytest.raises(Exception, match="topic_arn: empty"):
        republish_items_to_sns(inbox.sns, "", [], "v1.0.0")


def test_republish_counts_what_was_accepted(inbox):
    items = [
        {
            "source_id": f"tiingo:{n}",
            "timestamp": "2026-01-01T00:00:00Z",
            "source_type": "tiingo",
            "text_for_analysis": "a",
        }
        for n in range(25)
    ]
    watched = Sns(inbox.sns)
    assert republish_items_to_sns(watched, inbox.arn, items, "v2") == 25
    assert [len(ids) for ids in watched.calls] == [10, 10, 5]
    assert all(len(set(ids)) == len(ids) for ids in watched.calls)
    assert {b["model_version"] for b, _ in inbox.drain()} == {"v2"}
    assert republish_items_to_sns(inbox.sns, inbox.arn, [], "v2") == 0


def test_a_client_and_a_name_do_as_well(table, inbox, clock):
    put_many(table, 3)
    client = boto3.client("dynamodb")
    keys = query_stale_pending_items(client, 1, 100, clock=clock, table_name=NAME)
    assert len(keys) == 3
    assert [i["text_for_analysis"] for i in get_full_items(client, keys, table_name=NAME)] == [
        f"Headline {n}." for n in range(3)
    ]
    result = run_self_healing_check(client, inbox.sns, inbox.arn, "v1.0.0", clock=clock, table_name=NAME)
    assert (result.items_republished, result.errors) == (3, [])
    assert run_self_healing_check(client, inbox.sns, inbox.arn, clock=clock).errors == ["config"]


def test_five_metrics_with_unit_and_dimension_in_the_zero_case_too(table, inbox, clock):
    sent = []
    result = sweep(table, inbox, clock, emit_metric=lambda *m: sent.append(m), environment="prod")
    assert result.items_found == 0
    where = {"Environment": "prod"}
    assert [(name, unit, dimensions) for name, _, unit, dimensions in sent] == [
        ("SelfHealingItemsFound", "Count", where), ("SelfHealingItemsRepublished", "Count", where),
        ("SelfHealingItemsQuarantined", "Count", where), ("SelfHealingExecutionTime", "Milliseconds", where),
        ("SelfHealingErrors", "Count", where),
    ]  # fmt: skip
    put(table, 1)
    sent.clear()
    sweep(table, inbox, clock, emit_metric=lambda *m: sent.append(m))
    assert [value for _, value, _, _ in sent][:2] == [1.0, 1.0]


def test_metrics_that_cannot_be_sent_leave_the_result_alone(table, inbox, clock, caplog):
    put(table, 1)

    def broken(*_):
        raise RuntimeError("no CloudWatch")

    with caplog.at_level(logging.INFO, "headgate.healing"):
        result = sweep(table, inbox, clock, emit_metric=broken)
    assert (result.items_republished, result.errors) == (1, [])
    assert caplog.records[-1].metrics_error == "RuntimeError"


def test_one_summary_line_in_the_zero_case_too(table, inbox, clock, caplog):
    with caplog.at_level(logging.INFO, "headgate.healing"):
        sweep(table, inbox, clock)
    (line,) = caplog.records
    assert line.getMessage() == "self-healing check: 0 found, 0 republished"
    assert (line.items_found, line.items_republished, line.threshold_hours) == (0, 0, 1.0)


def test_subsegments_where_a_segment_is_open(table, inbox, clock, request):
    from aws_xray_sdk import global_sdk_config
    from aws_xray_sdk.core import xray_recorder

    # A Tracer of Powertools that was made outside of Lambda has switched the SDK off for the whole process.
    was_enabled = global_sdk_config.sdk_enabled()
    request.addfinalizer(lambda: global_sdk_config.set_sdk_enabled(was_enabled))
    global_sdk_config.set_sdk_enabled(True)

    class Nowhere:
        def send_entity(self, entity):
            pass

        def set_daemon_address(self, address):
            pass

    put(table, 1)
    if hasattr(xray_recorder.emitter, "_socket"):
        xray_recorder.emitter._socket.close()  # nobody else does, and it is replaced
    xray_recorder.configure(context_missing="IGNORE_ERROR", emitter=Nowhere(), sampling=False)
    assert sweep(table, inbox, clock).items_republished == 1  # the SDK is loaded, no segment is open
    clock.advance_us(HOUR)
    segment = xray_recorder.begin_segment("test")
    assert sweep(table, inbox, clock).items_republished == 1
    names = []

    def walk(entity):
        for sub in entity.subsegments:
            names.append(sub.name)
            walk(sub)

    walk(segment)
    xray_recorder.end_segment()
    assert names == ["run_self_healing_check", "query_stale_pending_items", "republish_items_to_sns"]


def test_two_sweepers_send_each_item_once(table, inbox, clock):
    """The second one reads before the first one has written."""
    put_many(table, 20)
    second = []
    watched = Watched(table)
    watched.between = lambda: (setattr(watched, "between", None), second.append(sweep(table, inbox, clock)))
    fetched = table.meta.client.batch_get_item

    class Stale(Watched):
        def batch_get_item(self, **arguments):
            answer = fetched(**arguments)
            second.append(sweep(table, inbox, clock))
            return answer

    first = sweep(Stale(table), inbox, clock)
    assert (first.items_republished, first.lost_races, second[0].items_republished) == (0, 20, 20)
    assert len(inbox.drain()) == 20


def test_a_budget_ends_a_sweep_and_the_rest_waits(table, inbox):
    class Slow(ManualClock):
        pass

    clock = ManualClock(NOW)
    put_many(table, 20)

    class Ticking(Watched):
        def update_item(self, **arguments):
            clock.advance_us(1_000_000)
            return super().update_item(**arguments)

    result = sweep(Ticking(table), inbox, clock, budget_s=5)
    assert (result.items_found, result.items_republished, result.more_remaining) == (5, 5, True)


def test_it_never_raises(aws, inbox, clock):
    for table in (None, object(), boto3.resource("dynamodb").Table("none")):
        result = run_self_healing_check(table, inbox.sns, inbox.arn, "v1.0.0", clock=clock)
        assert (result.items_found, len(result.errors)) == (0, 1)


def test_the_documented_names_and_constants():
    assert (healing.SELF_HEALING_THRESHOLD_HOURS, healing.SELF_HEALING_BATCH_SIZE) == (1, 100)
    result = healing.SelfHealingResult(items_found=2, items_republished=1, errors=["x"], execution_time_ms=5.0)
    assert (result.items_found, result.items_republished, result.errors, result.execution_time_ms) == (2, 1, ["x"], 5.0)
