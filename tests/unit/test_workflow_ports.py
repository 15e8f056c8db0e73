"""Services on headgate's own backends: queues, topics, buses, tables, objects and jobs."""

from __future__ import annotations

import json

import pytest

from headgate.errors import InvalidInputError, StageFailedError
from headgate.workflow import LocalRunner, local_ports


@pytest.fixture
def run(store, objects, clock):
    ports = local_ports(store=store, objects=objects, tables={"orders": ("id",), "pairs": ("a", "b")}, bucket="own")
    numbers = iter(range(1_000))

    def start(resource, arguments, functions=None, **fields):
        state = {
            "Type": "Task",
            "Resource": f"arn:aws:states:::{resource}",
            "Parameters": arguments,
            "End": True,
            **fields,
        }
        runner = LocalRunner(store.db, functions or {}, clock, objects=objects, ports=ports)
        name = f"e{next(numbers)}"
        try:
            return runner.start("w", {"StartAt": "T", "States": {"T": state}}, {}, name)
        except StageFailedError:
            return runner.describe(name)

    return start


def outbox(store):
    return [(topic, json.loads(body)) for topic, body in store.db.execute("SELECT topic, body FROM outbox ORDER BY id")]


def test_a_message_goes_to_the_queue_of_its_url(run, store):
    url = "https://sqs.eu-west-1.amazonaws.com/1/orders"
    found = run("sqs:sendMessage", {"QueueUrl": url, "MessageBody": {"a": 1}}).output
    assert outbox(store) == [("orders", {"messageId": found["MessageId"], "body": '{"a":1}'})]
    run("sqs:sendMessage", {"QueueUrl": "q", "MessageBody": "plain", "MessageDeduplicationId": "once"})
    run("sqs:sendMessage", {"QueueUrl": "q", "MessageBody": "plain", "MessageDeduplicationId": "once"})
    (_, first), (_, second) = outbox(store)[1:]
    assert first == second  # a repeated attempt sends the same id


def test_a_notification_is_an_envelope(run, store):
    run("sns:publish", {"TopicArn": "arn:aws:sns:eu-west-1:1:news", "Message": {"m": 1}, "Subject": "s"})
    ((topic, envelope),) = outbox(store)
    assert (topic, envelope["Type"], json.loads(envelope["Message"]), envelope["Subject"]) == (
        "news",
        "Notification",
        {"m": 1},
        "s",
    )
    execution = run("sns:publish", {"Message": "m"})
    assert execution.error == "SNS.InvalidParameterException"


def test_events_go_to_their_bus(run, store):
    entries = [
        {"Source": "a", "DetailType": "t", "Detail": {"x": 1}},
        {"EventBusName": "arn:aws:events:eu:1:event-bus/b"},
    ]
    found = run("events:putEvents", {"Entries": entries}).output
    assert (found["FailedEntryCount"], len(found["Entries"])) == (0, 2)
    assert [(topic, body["detail"]) for topic, body in outbox(store)] == [("default", {"x": 1}), ("b", {})]


def test_items_of_a_table(run):
    item = {"id": {"S": "1"}, "n": {"N": "5"}, "l": {"L": [{"S": "x"}]}}
    key = {"id": {"S": "1"}}
    assert run("dynamodb:getItem", {"TableName": "orders", "Key": key}).output == {}
    assert run("dynamodb:putItem", {"TableName": "orders", "Item": item}).output == {}
    assert run("dynamodb:getItem", {"TableName": "orders", "Key": key}).output == {"Item": item}
    updated = run("dynamodb:updateItem", {
        "TableName": "orders", "Key": key, "ReturnValues": "ALL_NEW",
        "UpdateExpression": "SET #n = n + :one, seen = if_not_exists(seen, :zero), l = list_append(l, :more) REMOVE gone ADD hits :two",
        "ExpressionAttributeNames": {"#n": "n"},
        "ExpressionAttributeValues": {":one": {"N": "1"}, ":zero": {"N": "0"}, ":more": {"L": [{"S": "y"}]}, ":two": {"N": "2"}},
    }).output["Attributes"]  # fmt: skip
    assert updated == {
        "id": {"S": "1"},
        "n": {"N": "6"},
        "l": {"L": [{"S": "x"}, {"S": "y"}]},
        "seen": {"N": "0"},
        "hits": {"N": "2"},
    }
    old = run("dynamodb:deleteItem", {"TableName": "orders", "Key": key, "ReturnValues": "ALL_OLD"}).output
    assert old["Attributes"] == updated
    assert run("dynamodb:getItem", {"TableName": "orders", "Key": key}).output == {}


def test_conditions_of_a_table(run):
    item = {"id": {"S": "1"}, "v": {"N": "1"}}
    new = {"TableName": "orders", "Item": item, "ConditionExpression": "attribute_not_exists(id)"}
    assert run("dynamodb:putItem", new).status == "SUCCEEDED"
    assert run("dynamodb:putItem", new).error == "DynamoDB.ConditionalCheckFailedException"
    values = {":v": {"N": "1"}}
    update = {"TableName": "orders", "Key": {"id": {"S": "1"}}, "UpdateExpression": "SET v = :w", "ConditionExpression":
              "attribute_exists(id) AND v = :v", "ExpressionAttributeValues": {**values, ":w": {"N": "2"}}}  # fmt: skip
    assert run("dynamodb:updateItem", update).status == "SUCCEEDED"
    assert run("dynamodb:updateItem", update).error == "DynamoDB.ConditionalCheckFailedException"
    update["ConditionExpression"] = "v <> :v"
    assert run("dynamodb:updateItem", update).status == "SUCCEEDED"


@pytest.mark.parametrize(
    ("arguments", "error", "cause"),
    [
        ({"TableName": "no", "Key": {}}, "DynamoDB.ResourceNotFoundException", "Requested resource not found"),
        ({"TableName": "pairs", "Key": {"a": {"S": "1"}}}, "DynamoDB.AmazonDynamoDBException", "has the attributes a, b; one is missing"),
        ({"TableName": "orders", "Key": {"id": 1}, "UpdateExpression": "SET a.b = :x"}, "DynamoDB.AmazonDynamoDBException",
         "document path 'a.b'"),
        ({"TableName": "orders", "Key": {"id": 1}, "UpdateExpression": "SET a = :x"}, "DynamoDB.AmazonDynamoDBException", "lacks :x"),
        ({"TableName": "orders", "Key": {"id": 1}, "UpdateExpression": "SET #a = a"}, "DynamoDB.AmazonDynamoDBException", "lacks #a"),
        ({"TableName": "orders", "Key": {"id": 1}, "UpdateExpression": "SET b = a"}, "DynamoDB.AmazonDynamoDBException", "does not exist"),
        ({"TableName": "orders", "Key": {"id": 1}, "UpdateExpression": "DELETE a :x"}, "DynamoDB.AmazonDynamoDBException", "clause DELETE"),
        ({"TableName": "orders", "Key": {"id": 1}, "UpdateExpression": "a = :x"}, "DynamoDB.AmazonDynamoDBException", "no clause"),
        ({"TableName": "orders", "Key": {"id": 1}, "UpdateExpression": "SET a = id + id"}, "DynamoDB.AmazonDynamoDBException", "no number"),
        ({"TableName": "orders", "Key": {"id": 1}, "ConditionExpression": "size(a) > :x"}, "DynamoDB.AmazonDynamoDBException", "condition"),
        ({"TableName": "orders", "Key": {"id": 1}, "ReturnConsumedCapacity": "TOTAL"}, "DynamoDB.AmazonDynamoDBException",
         "does not support ReturnConsumedCapacity"),
    ],
)  # fmt: skip
def test_what_a_table_refuses_by_name(run, arguments, error, cause):
    execution = run("dynamodb:updateItem", arguments)
    assert execution.error == error
    assert cause in execution.cause


def test_objects(run, objects):
    put = run("aws-sdk:s3:putObject", {"Bucket": "b", "Key": "k/1", "Body": {"x": 1}}).output
    got = run("aws-sdk:s3:getObject", {"Bucket": "b", "Key": "k/1"}).output
    assert (got["Body"], got["ETag"]) == ('{"x":1}', put["ETag"])
    run("aws-sdk:s3:putObject", {"Bucket": "own", "Key": "k/2", "Body": "text"})
    assert objects.get("k/2") == b"text"  # the runner's own bucket is the store itself
    found = run("aws-sdk:s3:listObjectsV2", {"Bucket": "b", "Prefix": "k/"}).output
    assert found["Contents"] == [{"Key": "k/1", "Size": 7}]
    assert run("aws-sdk:s3:deleteObject", {"Bucket": "b", "Key": "k/1"}).output == {}
    assert run("aws-sdk:s3:getObject", {"Bucket": "b", "Key": "k/1"}).error == "S3.NoSuchKeyException"
    assert run("aws-sdk:s3:getObject", {"Bucket": "b"}).error == "S3.ValidationException"


def test_a_glue_job_is_a_function_or_a_script(store, clock, tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        "import sys\nargs = dict(zip(sys.argv[1::2], sys.argv[2::2]))\nopen(args['--out'], 'w').write(args['--x'])\n"
        "if args['--x'] == 'bad': raise SystemExit('it went wrong')\n"
    )
    given = {}
    ports = local_ports(jobs={"script": str(script), "function": given.update})
    runner = LocalRunner(store.db, {"among": given.update}, clock, ports=ports)

    def machine(job, x, pattern=".sync"):
        state = {"Type": "Task", "Resource": f"arn:aws:states:::glue:startJobRun{pattern}", "TimeoutSeconds": 60, "End": True,
                 "Parameters": {"JobName": job, "Arguments": {"--out": str(tmp_path / "out"), "--x": x}}}  # fmt: skip
        return {"StartAt": "T", "States": {"T": state}}

    assert runner.start("w", machine("script", "good"), {}).output["JobRunState"] == "SUCCEEDED"
    assert (tmp_path / "out").read_text() == "good"
    with pytest.raises(StageFailedError, match=r"States\.TaskFailed.*it went wrong"):
        runner.start("w", machine("script", "bad"), {})
    assert "JobRunState" not in runner.start("w", machine("function", "y", ""), {}).output
    assert given["--x"] == "y"
    with pytest.raises(InvalidInputError, match="there is no job 'nothing'"):
        runner.start("w", machine("nothing", "y"), {})
    among = LocalRunner(store.db, {"among": given.update}, clock)
    assert among.start("w", machine("among", "z"), {}).status == "SUCCEEDED"
    assert given["--x"] == "z"

    def fail(arguments):
        raise ValueError("broken job")

    with pytest.raises(StageFailedError, match="ValueError: broken job"):
        LocalRunner(store.db, {"j": fail}, clock).start("w", machine("j", "z"), {})


def test_ports_of_ones_own(store, clock):
    runner = LocalRunner(
        store.db, {}, clock, ports={"aws-sdk:ec2:stopInstances": lambda request: {"stopped": request.arguments["Ids"]}}
    )
    state = {
        "Type": "Task",
        "Resource": "arn:aws:states:::aws-sdk:ec2:stopInstances",
        "Parameters": {"Ids": [1]},
        "End": True,
    }
    assert runner.start("w", {"StartAt": "T", "States": {"T": state}}, {}).output == {"stopped": [1]}
